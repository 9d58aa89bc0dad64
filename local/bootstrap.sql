-- What a hosted Supabase project has before its first migration: roles, their limits and rights, the
-- functions of schema auth, Vault. Run as superuser after the auth API's own schema, at every start;
-- repeating it changes nothing. The password of `postgres` is set by local/database.ts.

do $$
declare
  v_role record;
begin
  for v_role in
    select * from (values
      ('anon',          'nologin noinherit'),
      ('authenticated', 'nologin noinherit'),
      ('service_role',  'nologin noinherit bypassrls'),
      ('authenticator', 'login noinherit'),
      -- Not a superuser, as hosted: what needs more fails here too.
      ('postgres',      'login nosuperuser createrole createdb replication bypassrls')
    ) as role (name, attributes)
  loop
    if to_regrole(v_role.name) is null then
      execute format('create role %I', v_role.name);
    end if;
    execute format('alter role %I %s', v_role.name, v_role.attributes);
  end loop;

  execute format('alter database %I owner to postgres', current_database());
  execute format('alter database %I set search_path to "$user", public, extensions', current_database());
  execute format('alter database %I set statement_timeout to ''2min''', current_database());
  execute format('alter database %I set timezone to ''UTC''', current_database());
end;
$$;

grant anon, authenticated, service_role to authenticator, postgres;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;

-- The API applies these to the role of each request; a function's own setting comes before them.
alter role anon          set statement_timeout to '3s';
alter role authenticated set statement_timeout to '8s';
alter role service_role  set statement_timeout to '8s';
alter role authenticator set statement_timeout to '8s';

create schema if not exists extensions;
grant usage on schema extensions, public to anon, authenticated, service_role;
grant all on schema extensions to postgres;

create schema if not exists auth;
grant usage on schema auth to anon, authenticated, service_role, postgres;
grant all on all tables in schema auth to postgres;

create or replace function auth.jwt() returns jsonb language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
  )::jsonb
$$;

create or replace function auth.uid() returns uuid language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
  )::uuid
$$;

create or replace function auth.role() returns text language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.role', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
  )
$$;

create extension if not exists supabase_vault;

-- Every change of the schema tells the API to read it again, as hosted.
create or replace function extensions.pgrst_ddl_watch() returns event_trigger
language plpgsql set search_path = '' as $$
begin
  if exists (
    select 1 from pg_event_trigger_ddl_commands() where schema_name is distinct from 'pg_temp'
  ) then
    notify pgrst, 'reload schema';
  end if;
end;
$$;

create or replace function extensions.pgrst_drop_watch() returns event_trigger
language plpgsql set search_path = '' as $$
begin
  if exists (select 1 from pg_event_trigger_dropped_objects() where not is_temporary) then
    notify pgrst, 'reload schema';
  end if;
end;
$$;

drop event trigger if exists pgrst_ddl_watch;
create event trigger pgrst_ddl_watch on ddl_command_end
  execute function extensions.pgrst_ddl_watch();
drop event trigger if exists pgrst_drop_watch;
create event trigger pgrst_drop_watch on sql_drop
  execute function extensions.pgrst_drop_watch();
