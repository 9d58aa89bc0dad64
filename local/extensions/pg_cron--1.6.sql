-- Stand-in for pg_cron: the tables, functions and rights of the real one on a Supabase project, in
-- plain SQL. The schedule is kept by local/worker.ts, which asks cron._is_due() every minute.
-- Not here: '[1-59] seconds', '@hourly' and its like, '$' for the last day of a month, and
-- cron.schedule_in_database(). They are refused as an invalid schedule or do not exist.

create schema cron;
create sequence cron.jobid_seq;
create sequence cron.runid_seq;

create table cron.job (
  jobid     bigint  primary key default nextval('cron.jobid_seq'),
  schedule  text    not null,
  command   text    not null,
  nodename  text    not null default 'localhost',
  nodeport  integer not null default current_setting('port')::integer,
  database  text    not null default current_database(),
  username  text    not null default current_user,
  active    boolean not null default true,
  jobname   text,
  constraint jobname_username_uniq unique (jobname, username)
);

create table cron.job_run_details (
  jobid          bigint,
  runid          bigint primary key default nextval('cron.runid_seq'),
  job_pid        integer,
  database       text,
  username       text,
  command        text,
  status         text,
  return_message text,
  start_time     timestamptz,
  end_time       timestamptz
);

alter table cron.job enable row level security;
create policy cron_job_policy on cron.job using (username = current_user);
alter table cron.job_run_details enable row level security;
create policy cron_job_run_details_policy on cron.job_run_details using (username = current_user);

-- The numbers one field of a schedule stands for: '*/20' of minutes is {0,20,40}. Null: unreadable.
create function cron._numbers(
  p_field text,
  p_low   integer,
  p_high  integer,
  p_names text[] default '{}'
)
returns integer[]
language plpgsql
immutable strict
set search_path = ''
as $$
declare
  v_numbers integer[] := '{}';
  v_item    text;
  v_part    text[];
  v_first   integer;
  v_last    integer;
begin
  foreach v_item in array string_to_array(lower(p_field), ',') loop
    v_part := regexp_match(v_item, '^(\*|[0-9]{1,4}|[a-z]{3})(?:-([0-9]{1,4}|[a-z]{3}))?(?:/([0-9]{1,4}))?$');
    if v_part is null then return null; end if;

    if v_part[1] = '*' then
      if v_part[2] is not null then return null; end if;
      v_first := p_low;
      v_last := p_high;
    else
      -- A step needs a range: '5/10' is refused, as the real one does.
      if v_part[2] is null and v_part[3] is not null then return null; end if;
      v_first := coalesce(array_position(p_names, v_part[1]) + p_low - 1,
                          substring(v_part[1] from '^[0-9]+$')::integer);
      v_last := case when v_part[2] is null then v_first
                     else coalesce(array_position(p_names, v_part[2]) + p_low - 1,
                                   substring(v_part[2] from '^[0-9]+$')::integer) end;
    end if;

    if v_first is null or v_last is null or v_first < p_low or v_last > p_high or v_first > v_last
       or v_part[3]::integer = 0 then
      return null;
    end if;
    v_numbers := v_numbers
      || array(select generate_series(v_first, v_last, coalesce(v_part[3]::integer, 1)));
  end loop;
  return v_numbers;
end;
$$;

-- Whether a schedule of five fields names the minute of p_at, in GMT. Null: unreadable schedule.
create function cron._is_due(p_schedule text, p_at timestamptz)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
declare
  v_field    text[] := regexp_split_to_array(btrim(p_schedule), '\s+');
  v_at       timestamp := p_at at time zone 'GMT';
  v_minutes  integer[] := cron._numbers(v_field[1], 0, 59);
  v_hours    integer[] := cron._numbers(v_field[2], 0, 23);
  v_days     integer[] := cron._numbers(v_field[3], 1, 31);
  v_months   integer[] := cron._numbers(v_field[4], 1, 12,
    '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}');
  v_weekdays integer[] := cron._numbers(v_field[5], 0, 7, '{sun,mon,tue,wed,thu,fri,sat}');
  v_is_day     boolean;
  v_is_weekday boolean;
begin
  if array_length(v_field, 1) <> 5
     or v_minutes is null or v_hours is null or v_days is null or v_months is null
     or v_weekdays is null then
    return null;
  end if;

  v_is_day := extract(day from v_at) = any (v_days);
  v_is_weekday := extract(dow from v_at) = any (v_weekdays)
    or extract(isodow from v_at) = any (v_weekdays);  -- Sunday is 0 and 7
  return extract(minute from v_at) = any (v_minutes)
     and extract(hour from v_at) = any (v_hours)
     and extract(month from v_at) = any (v_months)
     -- The old rule of cron: a day named twice, by date and by weekday, is either of the two.
     and case when v_field[3] like '*%' or v_field[5] like '*%'
              then v_is_day and v_is_weekday else v_is_day or v_is_weekday end;
end;
$$;

-- Writes a job in the name of p_username. The real one does this in C with the rights of the
-- extension's owner; here the caller hands its current_user on, and may only name one it can be.
create function cron._save_job(
  p_jobid    bigint,
  p_jobname  text,
  p_schedule text,
  p_command  text,
  p_database text,
  p_username text,
  p_active   boolean
)
returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_jobid bigint;
begin
  if not pg_has_role(session_user, p_username, 'member') then
    raise exception 'permission denied: job of another user' using errcode = '42501';
  end if;
  if p_schedule is not null and cron._is_due(p_schedule, now()) is null then
    raise exception 'invalid schedule: %', p_schedule
      using errcode = '22023', hint = 'Use cron format (e.g. 5 4 * * *).';
  end if;

  if p_jobid is null then
    insert into cron.job (jobname, schedule, command, username)
    values (p_jobname, p_schedule, p_command, p_username)
    on conflict on constraint jobname_username_uniq
      do update set schedule = excluded.schedule, command = excluded.command
    returning jobid into v_jobid;
  else
    update cron.job set
      schedule = coalesce(p_schedule, schedule),
      command  = coalesce(p_command, command),
      database = coalesce(p_database, database),
      active   = coalesce(p_active, active)
    where jobid = p_jobid and username = p_username
    returning jobid into v_jobid;
    if v_jobid is null then
      raise exception 'Job % does not exist or you don''t own it', p_jobid;
    end if;
  end if;
  return v_jobid;
end;
$$;

create function cron._delete_job(p_jobid bigint, p_jobname text, p_username text)
returns boolean
language plpgsql
security definer
set search_path = ''
as $$
begin
  if not pg_has_role(session_user, p_username, 'member') then
    raise exception 'permission denied: job of another user' using errcode = '42501';
  end if;
  delete from cron.job
  where (jobid = p_jobid or jobname = p_jobname) and username = p_username;
  if not found then
    raise exception 'could not find valid entry for job ''%''', coalesce(p_jobname, p_jobid::text);
  end if;
  return true;
end;
$$;

create function cron.schedule(schedule text, command text) returns bigint
language sql strict set search_path = ''
begin atomic
  select cron._save_job(null, null, schedule, command, null, current_user, null);
end;
comment on function cron.schedule(text, text) is 'schedule a pg_cron job';

create function cron.schedule(job_name text, schedule text, command text) returns bigint
language sql set search_path = ''
begin atomic
  select cron._save_job(null, job_name, schedule, command, null, current_user, null);
end;
comment on function cron.schedule(text, text, text) is 'schedule a pg_cron job';

create function cron.unschedule(job_id bigint) returns boolean
language sql strict set search_path = ''
begin atomic
  select cron._delete_job(job_id, null, current_user);
end;
comment on function cron.unschedule(bigint) is 'unschedule a pg_cron job';

create function cron.unschedule(job_name text) returns boolean
language sql strict set search_path = ''
begin atomic
  select cron._delete_job(null, job_name, current_user);
end;
comment on function cron.unschedule(text) is 'unschedule a pg_cron job';

create function cron.alter_job(
  job_id   bigint,
  schedule text    default null,
  command  text    default null,
  database text    default null,
  username text    default null,
  active   boolean default null
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  if username is not null and username <> current_user then
    raise exception 'must be superuser to alter username' using errcode = '42501';
  end if;
  perform cron._save_job(job_id, null, schedule, command, database, current_user, active);
end;
$$;
comment on function cron.alter_job(bigint, text, text, text, text, boolean) is
  'Alter the job identified by job_id. Any option left as NULL will not be modified.';

-- Rights of pg_cron itself, then those a Supabase project adds for postgres.
grant select on cron.job to public;
grant select, delete on cron.job_run_details to public;
grant select on sequence cron.jobid_seq, cron.runid_seq to public;
revoke all on function cron.alter_job(bigint, text, text, text, text, boolean) from public;

grant usage on schema cron to postgres with grant option;
grant all on all functions in schema cron to postgres with grant option;
grant select on cron.job to postgres with grant option;
grant all on cron.job_run_details to postgres with grant option;
