-- Purpose:  who may administer, the one row of settings with the kill switch, and the record of who changed what.
-- Locks:    share row exclusive on auth.users while this migration runs (its foreign key): logins wait that long.
-- Undo:     drop table monitor.audit_log, monitor.settings, monitor.admins cascade;
--           drop function monitor.record_change(), monitor.may_administer(), monitor.is_admin(),
--           monitor.current_actor();

create table monitor.admins (
  user_id   uuid        not null,
  added_at  timestamptz not null default now(),
  added_by  text        not null,

  constraint admins_pkey primary key (user_id),
  constraint admins_user_id_fkey foreign key (user_id) references auth.users (id) on delete cascade,
  constraint admins_added_by_present check (added_by <> '')
);

comment on table monitor.admins is
  'A user who may run jobs by hand and read everything here. Removing the row takes the right away at once.';
comment on column monitor.admins.added_by is 'Who gave the right: a name, a user id or a database role.';

alter table monitor.admins enable row level security;
grant select on monitor.admins to authenticated, service_role;

create function monitor.is_admin()
returns boolean
language sql
stable
security definer -- admins is behind a policy that asks this very function
set search_path = ''
as $$
  select exists (select from monitor.admins where user_id = (select auth.uid()));
$$;

comment on function monitor.is_admin() is
  'True when the caller''s verified token belongs to a row of monitor.admins. Reads nothing a user can write.';

create policy admins_select_authenticated
  on monitor.admins for select to authenticated
  using ((select monitor.is_admin()));

create function monitor.current_actor()
returns text
language sql
stable
security invoker
set search_path = ''
as $$
  select coalesce(
    (select auth.uid())::text,
    nullif(current_setting('role', true), 'none'),
    session_user::text
  );
$$;

comment on function monitor.current_actor() is
  'Who acts: the user id of a verified token, else the role taken on, else the session''s user.';

create function monitor.may_administer()
returns boolean
language sql
stable
security invoker
set search_path = ''
as $$
  select monitor.is_admin() or exists (
    select
    from (select coalesce(nullif(current_setting('role', true), 'none'), session_user::text) as name) as caller
    join pg_catalog.pg_roles as role on role.rolname = caller.name
    where role.rolname = 'service_role' or role.rolsuper
       or role.oid = (select nspowner from pg_catalog.pg_namespace where nspname = 'monitor')
  );
$$;

comment on function monitor.may_administer() is
  'Whether the caller may change what admins may: a user in monitor.admins, service_role, the owner of this schema. For '
  'use in security definer functions, where current_user is no longer the caller. Any other role may not.';

create table monitor.settings (
  is_only_row        boolean          not null default true,
  jobs_enabled       boolean          not null default true,
  time_zone          text             not null default 'UTC',
  cost_budget_ratio  double precision not null default 0.02,

  constraint settings_pkey primary key (is_only_row),
  constraint settings_is_only_row check (is_only_row),
  constraint settings_time_zone_known check ((timestamptz '2000-01-01 00:00:00+00' at time zone time_zone) is not null),
  constraint settings_cost_budget_ratio_in_range check (cost_budget_ratio > 0 and cost_budget_ratio <= 0.5)
);

comment on table monitor.settings is 'The settings of the whole suite, always exactly one row.';
comment on column monitor.settings.jobs_enabled is
  'The kill switch: false stops every job at its next start without a deploy. The watchdog keeps watching.';
comment on column monitor.settings.time_zone is 'IANA name; for what people read. Times are stored and cut in UTC.';
comment on column monitor.settings.cost_budget_ratio is
  'Share of its own interval a collector may take (0-1]; beyond it, the collector is run half as often, again and again.';

alter table monitor.settings enable row level security;

create policy settings_select_authenticated
  on monitor.settings for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.settings to authenticated;
grant select, update on monitor.settings to service_role;

create table monitor.audit_log (
  entry_id    bigint      generated always as identity,
  changed_at  timestamptz not null default now(),
  actor       text        not null,
  action      text        not null,
  object      text        not null,
  before      jsonb,
  after       jsonb,

  constraint audit_log_pkey primary key (entry_id),
  constraint audit_log_action_known check (action in ('insert', 'update', 'delete'))
);

create index audit_log_changed_at_idx on monitor.audit_log (changed_at);

comment on table monitor.audit_log is 'One change of configuration: who, what, when, before and after. Append-only.';
comment on column monitor.audit_log.object is 'Table that was changed, without its schema.';
comment on column monitor.audit_log.before is 'The row before, null for an insert.';
comment on column monitor.audit_log.after is 'The row after, null for a delete.';

alter table monitor.audit_log enable row level security;

create policy audit_log_select_authenticated
  on monitor.audit_log for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.audit_log to authenticated, service_role;

create function monitor.record_change()
returns trigger
language plpgsql
security definer -- nobody who changes configuration may write or rewrite its record
set search_path = ''
as $$
begin
  if tg_op = 'UPDATE' and old is not distinct from new then
    return null;
  end if;
  insert into monitor.audit_log (actor, action, object, before, after)
  values (
    monitor.current_actor(),
    lower(tg_op),
    tg_table_name,
    case when tg_op <> 'INSERT' then to_jsonb(old) end,
    case when tg_op <> 'DELETE' then to_jsonb(new) end
  );
  return null;
end;
$$;

comment on function monitor.record_change() is
  'Trigger of every table of configuration: writes one row of monitor.audit_log for each row that really changed.';

create trigger settings_record_change
  after insert or update or delete on monitor.settings
  for each row execute function monitor.record_change();

create trigger admins_record_change
  after insert or update or delete on monitor.admins
  for each row execute function monitor.record_change();

insert into monitor.settings default values;

revoke all on all functions in schema monitor from public;
grant execute on function monitor.is_admin() to authenticated, service_role;
grant execute on function monitor.current_actor() to authenticated, service_role;
