-- What tests/platform needs to be there. On a project of your own: run this in its SQL editor, and drop
-- the three functions afterwards.

create or replace function public.platform_sleep(seconds double precision) returns boolean
language sql volatile set search_path = ''
begin atomic
  select pg_sleep(seconds) is not null;
end;

create or replace function public.platform_rows(row_count integer) returns setof integer
language sql stable set search_path = ''
begin atomic
  select generate_series(1, row_count);
end;

create or replace function public.platform_array(row_count integer) returns jsonb
language sql stable set search_path = ''
begin atomic
  select jsonb_agg(n) from generate_series(1, row_count) as n;
end;

grant execute on function
  public.platform_sleep(double precision), public.platform_rows(integer), public.platform_array(integer)
to service_role;
