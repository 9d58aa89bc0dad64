-- Purpose:  what is kept how long, the functions that enforce it, and the record of what each pass did.
-- Locks:    none on existing tables. When run: dropping a day locks metric_time_series for a moment (waits at most
--           500 ms for it), everything else locks the rows it removes and skips those that others hold.
-- Undo:     drop table monitor.retention_runs, monitor.retention_policies; drop function monitor.cleanup_…, monitor.retention_…,
--           monitor.run_retention_step(text, uuid, boolean, timestamptz), monitor.list_retention_steps(),
--           monitor.run_data_retention_cleanup(timestamptz, boolean), monitor.check_retention_limit(integer),
--           monitor.delete_evidence(text, bigint[]);

create table monitor.retention_policies (
  entity     text    not null,
  action     text    not null,
  keep_days  integer,
  position   integer not null,
  reason     text    not null,

  constraint retention_policies_pkey primary key (entity),
  constraint retention_policies_keep_days_with_action
    check ((keep_days is not null) = (action in ('drop_days', 'archive', 'delete'))),
  constraint retention_policies_keep_days_in_range check (keep_days between 1 and 36500),
  constraint retention_policies_action_fits_entity check (case
    when entity = 'metric_time_series' then action in ('drop_days', 'keep')
    when entity = 'anomaly_detections' then action in ('archive', 'keep')
    when entity = 'evidence_samples' then action in ('with_owner', 'keep')
    when entity in ('detector_states', 'incident_events', 'incident_alerts', 'incident_anomalies')
      then action = 'with_owner'
    when entity in ('anomaly_detections_archive', 'system_alerts', 'incidents', 'job_runs', 'retention_runs', 'audit_log',
      'sample_days', 'metric_series', 'cron.job_run_details') then action in ('delete', 'keep')
    else action = 'keep' end),
  constraint retention_policies_reason_present check (reason <> '')
);

comment on table monitor.retention_policies is
  'How long the rows of an entity are kept. Every table of this schema has one: forgetting and keeping are both said.';
comment on column monitor.retention_policies.entity is 'A table of this schema, or schema.table outside it.';
comment on column monitor.retention_policies.action is
  'drop_days: whole UTC days. archive: moved, then deleted there. delete: rows. with_owner: goes with the row it '
  'belongs to. keep: never removed.';
comment on column monitor.retention_policies.keep_days is 'From 1 to 36,500; null where the action needs none.';
comment on column monitor.retention_policies.position is 'Order of execution, smallest first.';

alter table monitor.retention_policies enable row level security;

create policy retention_policies_select_authenticated
  on monitor.retention_policies for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.retention_policies to authenticated;
grant select, update on monitor.retention_policies to service_role;

create trigger retention_policies_record_change
  after insert or update or delete on monitor.retention_policies
  for each row execute function monitor.record_change();

insert into monitor.retention_policies (entity, action, keep_days, position, reason) values
  ('evidence_samples', 'with_owner', null, 10, 'Lives as long as the anomaly or incident that shows it.'),
  ('metric_time_series', 'drop_days', 30, 20, 'A month of samples.'),
  ('anomaly_detections', 'archive', 30, 30, 'Reviewed ones move after 7 days, untouched ones expire after 30.'),
  ('anomaly_detections_archive', 'delete', 365, 40, 'A year to look back at.'),
  ('system_alerts', 'delete', 90, 50, 'A quarter; resolved ones only.'),
  ('incidents', 'delete', 90, 60, 'A quarter; resolved ones only.'),
  ('job_runs', 'delete', 30, 70, 'A month of runs, 3,500 a day at most.'),
  ('retention_runs', 'delete', 90, 80, 'A quarter of what retention did.'),
  ('audit_log', 'delete', 400, 90, 'More than a year of who changed what.'),
  ('sample_days', 'delete', 400, 100, 'What became of each day, for more than a year.'),
  ('metric_series', 'delete', 400, 110, 'A series without samples for more than a year that nothing refers to.'),
  ('cron.job_run_details', 'delete', 7, 120, 'pg_cron never prunes its own record.'),
  ('detector_states', 'with_owner', null, 900, 'One row a series; goes with it.'),
  ('incident_events', 'with_owner', null, 901, 'Goes with its incident.'),
  ('incident_alerts', 'with_owner', null, 902, 'Goes with its incident or alert.'),
  ('incident_anomalies', 'with_owner', null, 903, 'Goes with its incident.'),
  ('admins', 'keep', null, 910, 'Who may is not a matter of age.'),
  ('job_schedules', 'keep', null, 911, 'Configuration.'),
  ('metric_collectors', 'keep', null, 912, 'Configuration.'),
  ('metric_definitions', 'keep', null, 913, 'Configuration.'),
  ('retention_policies', 'keep', null, 914, 'Configuration.'),
  ('settings', 'keep', null, 915, 'Configuration; one row.');

create table monitor.retention_runs (
  retention_run_id  bigint           generated always as identity,
  run_id            uuid,
  entity            text             not null,
  started_at        timestamptz      not null,
  duration_seconds  double precision not null,
  outcome           text             not null,
  counts            jsonb            not null,
  oldest_kept_at    timestamptz,
  detail            text,

  constraint retention_runs_pkey primary key (retention_run_id),
  constraint retention_runs_outcome_known
    check (outcome in ('done', 'nothing', 'held', 'contended', 'missing', 'failed'))
);

create index retention_runs_started_at_idx on monitor.retention_runs (started_at);
create index retention_runs_entity_idx on monitor.retention_runs (entity, started_at desc);

comment on table monitor.retention_runs is 'What one step of retention did to one entity. Dry runs are not recorded.';
comment on column monitor.retention_runs.run_id is 'The job run it was part of, null when called in SQL.';
comment on column monitor.retention_runs.outcome is
  'done: something went. nothing: nothing was due. held: all that was due is still referred to. contended: locked by '
  'others, try again. missing: the entity does not exist. failed: see detail.';
comment on column monitor.retention_runs.counts is 'How many rows or days by reason.';
comment on column monitor.retention_runs.oldest_kept_at is 'Time of the oldest row left, null when none is.';

alter table monitor.retention_runs enable row level security;

create policy retention_runs_select_authenticated
  on monitor.retention_runs for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.retention_runs to authenticated;
grant select, insert, delete on monitor.retention_runs to service_role;

create function monitor.retention_result(
  p_entity          text,
  p_removed         jsonb,
  p_held            jsonb,
  p_contended       integer,
  p_oldest_kept_at  timestamptz,
  p_more            boolean,
  p_started_at      timestamptz,
  p_detail          text default null
)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  with total as (
    select
      (select coalesce(sum(value::bigint), 0) from jsonb_each_text(p_removed)) as removed,
      (select coalesce(sum(value::bigint), 0) from jsonb_each_text(p_held)) as held
  )
  select jsonb_build_object(
    'entity', p_entity,
    'outcome', case
      when removed > 0 then 'done'
      when p_contended > 0 then 'contended'
      when held > 0 then 'held'
      else 'nothing' end,
    'counts', p_removed || p_held || jsonb_build_object('contended', p_contended),
    'oldest_kept_at', p_oldest_kept_at,
    'more', p_more,
    'duration_seconds', round(extract(epoch from clock_timestamp() - p_started_at)::numeric, 3),
    'detail', p_detail)
  from total;
$$;

comment on function monitor.retention_result(text, jsonb, jsonb, integer, timestamptz, boolean, timestamptz, text) is
  'The answer of every clean-up: {entity, outcome, counts by reason, oldest_kept_at, more, duration_seconds, detail}. '
  'p_removed and p_held are {reason: count}; p_contended counts what others had locked.';

create function monitor.retention_cutoff(retention_days integer, p_now timestamptz)
returns timestamptz
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  if retention_days is null or retention_days < 1 or retention_days > 36500 or p_now is null then
    raise exception 'retention_days must be from 1 to 36500, got %', retention_days
      using errcode = 'invalid_parameter_value', hint = 'To keep rows for ever, set the policy''s action to keep.';
  end if;
  return p_now - make_interval(hours => 24 * retention_days);
end;
$$;

comment on function monitor.retention_cutoff(integer, timestamptz) is
  'p_now less so many times 24 hours. Errors: 22023 unless retention_days is from 1 to 36,500.';

create function monitor.check_retention_limit(p_limit integer)
returns void
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  if p_limit is null or p_limit not between 1 and 100000 then
    raise exception 'p_limit must be from 1 to 100000, got %', p_limit
      using errcode = 'invalid_parameter_value', hint = 'Call again while the answer says more.';
  end if;
end;
$$;

comment on function monitor.check_retention_limit(integer) is
  'Nothing, or the error of every clean-up: 22023 unless p_limit is from 1 to 100,000.';

create function monitor.delete_evidence(p_owner_kind text, p_owner_ids bigint[])
returns void
language sql
volatile
security invoker
set search_path = ''
as $$
  delete from monitor.evidence_samples
  where owner_kind = p_owner_kind
    and owner_id = any (p_owner_ids)
    and (select action from monitor.retention_policies where entity = 'evidence_samples') = 'with_owner';
$$;

comment on function monitor.delete_evidence(text, bigint[]) is
  'Deletes the evidence of owners that are being deleted, unless the policy says to keep it.';

create function monitor.cleanup_old_metrics(
  retention_days  integer     default 30,
  p_now           timestamptz default now(),
  p_dry_run       boolean     default false,
  p_limit         integer     default 10
)
returns jsonb
language plpgsql
security definer -- dropping a partition takes the owner of the table
set search_path = ''
set lock_timeout = '500ms'
as $$
declare
  v_started_at  timestamptz := clock_timestamp();
  -- Rounds down: a day goes only when its last moment is older than the limit.
  v_cutoff      date := (monitor.retention_cutoff(retention_days, p_now) at time zone 'UTC')::date;
  v_day         date;
  v_days        integer := 0;
  v_due         integer;
  v_samples     bigint := 0;
  v_contended   integer := 0;
  v_oldest      date;
  v_more        boolean;
  v_partition   regclass;
begin
  perform monitor.check_retention_limit(p_limit);
  select count(*) into v_due from monitor.sample_days where day < v_cutoff and state <> 'dropped';

  for v_day in
    select day from monitor.sample_days
    where day < v_cutoff and state <> 'dropped'
    order by day
    limit case when p_dry_run then null else p_limit end
  loop
    v_partition := to_regclass('monitor.metric_time_series_' || to_char(v_day, 'YYYYMMDD'));
    begin
      if not p_dry_run and v_partition is not null then
        execute format('drop table %s', v_partition);
      end if;
      if not p_dry_run then
        update monitor.sample_days set state = 'dropped', state_since = p_now where day = v_day;
      end if;
      v_days := v_days + 1;
    exception when lock_not_available or deadlock_detected then
      v_contended := v_contended + 1;
      exit; -- whoever reads the table now will still do so for the next day
    end;
  end loop;

  select min(day) into v_oldest from monitor.sample_days
  where state <> 'dropped' and (not p_dry_run or day >= v_cutoff);
  v_more := not p_dry_run and v_contended = 0 and v_days < v_due;
  return monitor.retention_result(
    'metric_time_series', jsonb_build_object('days', v_days), '{}', v_contended,
    v_oldest::timestamp at time zone 'UTC', v_more, v_started_at,
    case when v_contended > 0 then 'others are using the table; the next run will try again' end);
end;
$$;

comment on function monitor.cleanup_old_metrics(integer, timestamptz, boolean, integer) is
  'Drops the UTC days of samples that ended more than retention_days ago (the cut-off rounds down to midnight), at most '
  'p_limit a call, oldest first. Evidence was copied before. Returns as monitor.retention_result, counting days.';

create function monitor.cleanup_old_anomalies(
  retention_days  integer     default 30,
  p_now           timestamptz default now(),
  p_dry_run       boolean     default false,
  p_limit         integer     default 500
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_review_days constant integer := 7;
  v_started_at    timestamptz := clock_timestamp();
  v_cutoff        timestamptz := monitor.retention_cutoff(retention_days, p_now);
  v_review_cutoff timestamptz := monitor.retention_cutoff(c_review_days, p_now);
  v_due           integer;
  v_archived      integer;
  v_expired       integer;
  v_free          integer;
  v_by_alert      integer;
  v_by_incident   integer;
  v_oldest        timestamptz;
begin
  perform monitor.check_retention_limit(p_limit);
  with anomaly as (
    select
      anomaly_id,
      started_at,
      review_state in ('resolved', 'false_positive', 'expected') as is_reviewed,
      case when review_state in ('resolved', 'false_positive', 'expected')
        -- One that still lasts stays, or the detector's next word would open it anew.
        then reviewed_at < v_review_cutoff and (ended_at is not null or last_seen_at < v_cutoff)
        else greatest(last_seen_at, ended_at, reviewed_at) < v_cutoff
      end as is_due
    from monitor.anomaly_detections
  ), judged as (
    select
      anomaly.started_at,
      anomaly.is_reviewed,
      case
        when not anomaly.is_due then 'young'
        when exists (
          select from monitor.incident_anomalies as link
          join monitor.incidents as incident using (incident_id)
          where link.anomaly_id = anomaly.anomaly_id and incident.resolved_at is null
        ) then 'held_by_incident'
        when exists (
          select from monitor.system_alerts as alert
          where alert.anomaly_id = anomaly.anomaly_id and alert.resolved_at is null
        ) then 'held_by_alert'
        else 'free'
      end as fate
    from anomaly
  )
  select
    count(*) filter (where fate = 'held_by_incident'),
    count(*) filter (where fate = 'held_by_alert'),
    count(*) filter (where fate = 'free' and is_reviewed),
    count(*) filter (where fate = 'free' and not is_reviewed),
    min(started_at) filter (where fate <> 'free')
  into v_by_incident, v_by_alert, v_archived, v_expired, v_oldest
  from judged;
  v_free := v_archived + v_expired;

  if not p_dry_run then
    -- The same condition again, in the statement that locks: a row that changed meanwhile is judged as it is now.
    with locked as (
      select anomaly_id from monitor.anomaly_detections as anomaly
      where case when review_state in ('resolved', 'false_positive', 'expected')
          then reviewed_at < v_review_cutoff and (ended_at is not null or last_seen_at < v_cutoff)
          else greatest(last_seen_at, ended_at, reviewed_at) < v_cutoff
        end
        and not exists (
          select from monitor.incident_anomalies as link
          join monitor.incidents as incident using (incident_id)
          where link.anomaly_id = anomaly.anomaly_id and incident.resolved_at is null
        )
        and not exists (
          select from monitor.system_alerts as alert
          where alert.anomaly_id = anomaly.anomaly_id and alert.resolved_at is null
        )
      order by coalesce(reviewed_at, started_at), anomaly_id
      limit p_limit
      for update skip locked
    ), moved as (
      delete from monitor.anomaly_detections as anomaly
      using locked
      where anomaly.anomaly_id = locked.anomaly_id
      returning anomaly.*
    ), archived as (
      insert into monitor.anomaly_detections_archive (
        anomaly_id, series_id, detector_version, started_at, last_seen_at, ended_at, ended_reason, expected, lower,
        upper, observed, score, severity, explanation, sample_count, group_id, review_state, reviewed_at, reviewed_by, run_id
      )
      select
        anomaly_id, series_id, detector_version, started_at, last_seen_at,
        coalesce(ended_at, last_seen_at), coalesce(ended_reason, 'no_data'), -- seen no more for retention_days
        expected, lower, upper, observed, score, severity, explanation, sample_count, group_id,
        case when review_state in ('open', 'acknowledged') then 'expired' else review_state end,
        case when review_state in ('open', 'acknowledged') then p_now else reviewed_at end,
        case when review_state in ('open', 'acknowledged') then 'retention policy' else reviewed_by end,
        run_id
      from moved
      returning review_state
    )
    select count(*) filter (where review_state <> 'expired'), count(*) filter (where review_state = 'expired')
    into v_archived, v_expired
    from archived;
    select min(started_at) into v_oldest from monitor.anomaly_detections;
  end if;

  return monitor.retention_result(
    'anomaly_detections',
    jsonb_build_object('archived', v_archived, 'expired', v_expired),
    jsonb_build_object('held_by_alert', v_by_alert, 'held_by_incident', v_by_incident),
    greatest(least(v_free, case when not p_dry_run then p_limit else 0 end) - v_archived - v_expired, 0),
    v_oldest,
    not p_dry_run and v_archived + v_expired > 0 and v_free > v_archived + v_expired,
    v_started_at);
end;
$$;

comment on function monitor.cleanup_old_anomalies(integer, timestamptz, boolean, integer) is
  'Moves to the archive: anomalies resolved (also as false positive or expected) more than 7 days ago, and unresolved '
  'ones untouched for retention_days, which are closed as expired. One that still lasts stays; one that an open alert '
  'or incident refers to is held. At most p_limit a call, oldest first. Returns as monitor.retention_result.';

create function monitor.cleanup_old_alerts(
  retention_days  integer     default 90,
  p_now           timestamptz default now(),
  p_dry_run       boolean     default false,
  p_limit         integer     default 5000
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_started_at  timestamptz := clock_timestamp();
  v_cutoff      timestamptz := monitor.retention_cutoff(retention_days, p_now);
  v_free        integer;
  v_held        integer;
  v_deleted     integer;
  v_oldest      timestamptz;
begin
  perform monitor.check_retention_limit(p_limit);
  with judged as (
    select alert.fired_at, case
      when alert.resolved_at is null or alert.resolved_at >= v_cutoff then 'young'
      when exists (
        select from monitor.incident_alerts as link
        join monitor.incidents as incident using (incident_id)
        where link.alert_id = alert.alert_id and incident.resolved_at is null
      ) then 'held'
      else 'free'
    end as fate
    from monitor.system_alerts as alert
  )
  select
    count(*) filter (where fate = 'free'), count(*) filter (where fate = 'held'),
    min(fired_at) filter (where fate <> 'free')
  into v_free, v_held, v_oldest
  from judged;

  v_deleted := v_free;
  if not p_dry_run then
    -- The same condition again, in the statement that locks: a row that changed meanwhile is judged as it is now.
    delete from monitor.system_alerts where alert_id in (
      select alert_id from monitor.system_alerts as alert
      where resolved_at < v_cutoff
        and not exists (
          select from monitor.incident_alerts as link
          join monitor.incidents as incident using (incident_id)
          where link.alert_id = alert.alert_id and incident.resolved_at is null
        )
      order by resolved_at, alert_id
      limit p_limit
      for update skip locked
    );
    get diagnostics v_deleted = row_count;
    select min(fired_at) into v_oldest from monitor.system_alerts;
  end if;

  return monitor.retention_result(
    'system_alerts', jsonb_build_object('deleted', v_deleted), jsonb_build_object('held_by_incident', v_held),
    greatest(least(v_free, p_limit) - v_deleted, 0),
    v_oldest, not p_dry_run and v_deleted > 0 and v_free > v_deleted, v_started_at);
end;
$$;

comment on function monitor.cleanup_old_alerts(integer, timestamptz, boolean, integer) is
  'Deletes alerts resolved more than retention_days ago, at most p_limit, oldest first; firing ones never, and one that '
  'an open incident refers to is held. Returns as monitor.retention_result.';

create function monitor.cleanup_old_incidents(
  retention_days  integer     default 90,
  p_now           timestamptz default now(),
  p_dry_run       boolean     default false,
  p_limit         integer     default 500
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_started_at  timestamptz := clock_timestamp();
  v_cutoff      timestamptz := monitor.retention_cutoff(retention_days, p_now);
  v_due         integer;
  v_ids         bigint[];
  v_deleted     integer;
  v_oldest      timestamptz;
begin
  perform monitor.check_retention_limit(p_limit);
  select
    count(*) filter (where resolved_at < v_cutoff),
    min(started_at) filter (where resolved_at is null or resolved_at >= v_cutoff)
  into v_due, v_oldest
  from monitor.incidents;

  v_deleted := v_due;
  if not p_dry_run then
    -- The condition again, in the statement that locks: one that was opened again meanwhile stays.
    with deleted as (
      delete from monitor.incidents where incident_id in (
        select incident_id from monitor.incidents
        where resolved_at < v_cutoff
        order by resolved_at, incident_id
        limit p_limit
        for update skip locked
      )
      returning incident_id
    )
    select count(*), array_agg(incident_id) into v_deleted, v_ids from deleted;
    perform monitor.delete_evidence('incident', v_ids);
    select min(started_at) into v_oldest from monitor.incidents;
  end if;

  return monitor.retention_result(
    'incidents', jsonb_build_object('deleted', v_deleted), '{}',
    greatest(least(v_due, p_limit) - v_deleted, 0),
    v_oldest, not p_dry_run and v_deleted > 0 and v_due > v_deleted, v_started_at);
end;
$$;

comment on function monitor.cleanup_old_incidents(integer, timestamptz, boolean, integer) is
  'Deletes incidents resolved more than retention_days ago with their timeline, links and evidence, at most p_limit, oldest '
  'first; others never. Returns as monitor.retention_result.';

create function monitor.cleanup_evidence(
  p_now      timestamptz default now(),
  p_dry_run  boolean     default false,
  p_limit    integer     default 20000
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_budget       constant interval := interval '3 seconds';
  c_series_limit constant integer := 50000; -- about half a second
  v_started_at  timestamptz := clock_timestamp();
  v_anomaly_id  bigint;
  v_copied      integer := 0;
  v_kinds       text[];
  v_owners      bigint[];
  v_series      integer[];
  v_due         integer;
  v_deleted     integer;
  v_is_cut      boolean := false;
  v_oldest      timestamptz;
begin
  perform monitor.check_retention_limit(p_limit);
  -- The two hours after a start or an end had not happened yet when it was told.
  for v_anomaly_id in
    select anomaly_id from monitor.anomaly_detections
    where coalesce(ended_at, started_at) > p_now - interval '3 days'
      and coalesce(ended_at, started_at) <= p_now - interval '2 hours'
    order by anomaly_id
  loop
    v_is_cut := clock_timestamp() - v_started_at > c_budget;
    exit when v_is_cut;
    v_copied := v_copied + case when p_dry_run
      then (select count(*) from monitor.missing_evidence(v_anomaly_id))
      else monitor.copy_evidence(v_anomaly_id) end;
  end loop;

  -- Evidence goes with its owner; what is left here lost it some other way. Steps from one owner and series to the next
  -- along the primary key, as `select distinct` would read every sample. The smallest owners, the oldest, come first.
  with recursive walk as (
    (
      select owner_kind, owner_id, series_id, recorded_at
      from monitor.evidence_samples
      order by owner_kind, owner_id, series_id, recorded_at
      limit 1
    )
    union all
    select next.owner_kind, next.owner_id, next.series_id, next.recorded_at
    from walk
    cross join lateral (
      select sample.owner_kind, sample.owner_id, sample.series_id, sample.recorded_at
      from monitor.evidence_samples as sample
      where (sample.owner_kind, sample.owner_id, sample.series_id) > (walk.owner_kind, walk.owner_id, walk.series_id)
      order by sample.owner_kind, sample.owner_id, sample.series_id, sample.recorded_at
      limit 1
    ) as next
  ), known as (
    select walk.*, case owner_kind
      when 'incident' then not exists (select from monitor.incidents where incident_id = owner_id)
      else not exists (select from monitor.anomaly_detections where anomaly_id = owner_id)
        and not exists (select from monitor.anomaly_detections_archive where anomaly_id = owner_id)
    end as is_gone
    from (select * from walk limit c_series_limit) as walk
  )
  select
    array_agg(owner_kind) filter (where is_gone),
    array_agg(owner_id) filter (where is_gone),
    array_agg(series_id) filter (where is_gone),
    min(recorded_at) filter (where not is_gone)
  into v_kinds, v_owners, v_series, v_oldest
  from known;

  select count(*) into v_due
  from unnest(v_kinds, v_owners, v_series) as gone (owner_kind, owner_id, series_id)
  join monitor.evidence_samples using (owner_kind, owner_id, series_id);

  v_deleted := v_due;
  if not p_dry_run and v_due > 0 then
    delete from monitor.evidence_samples where ctid = any (array(
      select sample.ctid
      from unnest(v_kinds, v_owners, v_series) as gone (owner_kind, owner_id, series_id)
      join monitor.evidence_samples as sample using (owner_kind, owner_id, series_id)
      order by sample.recorded_at
      limit p_limit
    ));
    get diagnostics v_deleted = row_count;
    select least(v_oldest, min(recorded_at)) into v_oldest
    from unnest(v_kinds, v_owners, v_series) as gone (owner_kind, owner_id, series_id)
    join monitor.evidence_samples using (owner_kind, owner_id, series_id);
  end if;

  -- Samples copied are not samples removed: a call that only copied says nothing was due.
  return jsonb_set(
    monitor.retention_result(
      'evidence_samples', jsonb_build_object('deleted', v_deleted), '{}', 0, v_oldest,
      not p_dry_run and (v_deleted > 0 and v_due > v_deleted or v_is_cut and v_copied > 0), v_started_at),
    '{counts,copied}', to_jsonb(v_copied));
end;
$$;

comment on function monitor.cleanup_evidence(timestamptz, boolean, integer) is
  'Completes the evidence of anomalies that began or ended lately (counts.copied, which does not make it done) and deletes '
  'evidence whose owner is gone, at most p_limit samples, oldest first. Returns as monitor.retention_result.';

create function monitor.cleanup_own_table(
  p_entity        text,
  retention_days  integer,
  p_now           timestamptz default now(),
  p_dry_run       boolean     default false,
  p_limit         integer     default 5000
)
returns jsonb
language plpgsql
security definer -- pg_cron's record belongs to the owner of this schema, the audit log to nobody else
set search_path = ''
as $$
declare
  v_started_at  timestamptz := clock_timestamp();
  v_cutoff      timestamptz := monitor.retention_cutoff(retention_days, p_now);
  v_due         integer;
  v_held        integer;
  v_deleted     integer;
  v_ids         bigint[];
  v_oldest      timestamptz;
begin
  perform monitor.check_retention_limit(p_limit);
  -- One static statement an entity: nothing here is put together from strings.
  if p_entity = 'job_runs' then
    select count(*) into v_due from monitor.job_runs where scheduled_at < v_cutoff;
    if not p_dry_run then
      delete from monitor.job_runs where run_id in (
        select run_id from monitor.job_runs where scheduled_at < v_cutoff
        order by scheduled_at limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
  elsif p_entity = 'retention_runs' then
    select count(*) into v_due from monitor.retention_runs where started_at < v_cutoff;
    if not p_dry_run then
      delete from monitor.retention_runs where retention_run_id in (
        select retention_run_id from monitor.retention_runs where started_at < v_cutoff
        order by started_at limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
  elsif p_entity = 'audit_log' then
    select count(*) into v_due from monitor.audit_log where changed_at < v_cutoff;
    if not p_dry_run then
      delete from monitor.audit_log where entry_id in (
        select entry_id from monitor.audit_log where changed_at < v_cutoff
        order by changed_at limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
  elsif p_entity = 'anomaly_detections_archive' then
    p_limit := least(p_limit, 500); -- each has some hundred samples of evidence that go with it
    with judged as (
      select archived.reviewed_at, case
        when archived.reviewed_at >= v_cutoff then 'young'
        when exists (
          select from monitor.incident_anomalies as link
          join monitor.incidents as incident using (incident_id)
          where link.anomaly_id = archived.anomaly_id and incident.resolved_at is null
        ) or exists (
          select from monitor.system_alerts as alert
          where alert.anomaly_id = archived.anomaly_id and alert.resolved_at is null
        ) then 'held'
        else 'free'
      end as fate
      from monitor.anomaly_detections_archive as archived
    )
    select
      count(*) filter (where fate = 'free'), count(*) filter (where fate = 'held'),
      min(reviewed_at) filter (where fate <> 'free')
    into v_due, v_held, v_oldest
    from judged;
    if not p_dry_run then
      with deleted as (
        delete from monitor.anomaly_detections_archive where anomaly_id in (
          select anomaly_id from monitor.anomaly_detections_archive as archived
          where reviewed_at < v_cutoff
            and not exists (
              select from monitor.incident_anomalies as link
              join monitor.incidents as incident using (incident_id)
              where link.anomaly_id = archived.anomaly_id and incident.resolved_at is null
            )
            and not exists (
              select from monitor.system_alerts as alert
              where alert.anomaly_id = archived.anomaly_id and alert.resolved_at is null
            )
          order by reviewed_at, anomaly_id limit p_limit for update skip locked)
        returning anomaly_id
      )
      select count(*), array_agg(anomaly_id) into v_deleted, v_ids from deleted;
      perform monitor.delete_evidence('anomaly', v_ids);
      select min(reviewed_at) into v_oldest from monitor.anomaly_detections_archive;
    end if;
  elsif p_entity = 'sample_days' then
    select count(*) into v_due from monitor.sample_days where state = 'dropped' and state_since < v_cutoff;
    if not p_dry_run then
      delete from monitor.sample_days where day in (
        select day from monitor.sample_days where state = 'dropped' and state_since < v_cutoff
        order by day limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
  elsif p_entity = 'metric_series' then
    -- `count(*) = 0` is looked up by index, for one idle series after the other until there are enough; with
    -- `not exists` all samples are read to be compared with all series.
    with due as materialized (
      select series_id from monitor.metric_series as series
      where coalesce(last_sample_at, created_at) < v_cutoff
        and (select count(*) from monitor.anomaly_detections where series_id = series.series_id) = 0
        and (select count(*) from monitor.anomaly_detections_archive where series_id = series.series_id) = 0
        and (select count(*) from monitor.evidence_samples where series_id = series.series_id) = 0
        and (select count(*) from monitor.metric_time_series where series_id = series.series_id) = 0
      limit p_limit + 1
    )
    select
      (select count(*) from due),
      (select min(created_at) from monitor.metric_series where series_id not in (select series_id from due))
    into v_due, v_oldest;
    if not p_dry_run then
      delete from monitor.metric_series where series_id in (
        select series_id from monitor.metric_series as series
        where coalesce(last_sample_at, created_at) < v_cutoff
          and (select count(*) from monitor.anomaly_detections where series_id = series.series_id) = 0
          and (select count(*) from monitor.anomaly_detections_archive where series_id = series.series_id) = 0
          and (select count(*) from monitor.evidence_samples where series_id = series.series_id) = 0
          and (select count(*) from monitor.metric_time_series where series_id = series.series_id) = 0
        order by coalesce(last_sample_at, created_at), series_id limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
      select min(created_at) into v_oldest from monitor.metric_series;
    end if;
  elsif p_entity = 'cron.job_run_details' then
    if to_regclass('cron.job_run_details') is null then
      return monitor.retention_result(p_entity, '{}', '{}', 0, null, false, v_started_at)
        || jsonb_build_object('outcome', 'missing', 'detail', 'pg_cron is not installed');
    end if;
    -- Runs are numbered as they start, so the first ones tell. One that a restart of the server cut off has no end,
    -- and no start either if it was still starting: it is as old as those after it.
    with first as (
      select runid, coalesce(end_time, start_time) as ran_at from cron.job_run_details order by runid limit p_limit + 1
    )
    select array_agg(runid order by runid) into v_ids
    from first
    where ran_at < v_cutoff
      or ran_at is null and runid < (select max(runid) from first where ran_at < v_cutoff);
    v_due := coalesce(cardinality(v_ids), 0);
    if not p_dry_run then
      -- No row locks here: pg_cron lets us delete its rows, not update them.
      delete from cron.job_run_details where runid = any (v_ids[1:p_limit]);
      get diagnostics v_deleted = row_count;
    end if;
    select coalesce(end_time, start_time) into v_oldest from cron.job_run_details
    where coalesce(end_time, start_time) >= case when p_dry_run then v_cutoff else '-infinity' end
    order by runid limit 1;
  else
    raise exception 'no clean-up is written for %', p_entity
      using errcode = 'invalid_parameter_value', hint = 'See monitor.retention_policies.';
  end if;

  if p_dry_run then
    v_deleted := v_due;
  end if;
  v_oldest := case p_entity
    when 'job_runs' then (select min(scheduled_at) from monitor.job_runs where not p_dry_run or scheduled_at >= v_cutoff)
    when 'retention_runs' then (select min(started_at) from monitor.retention_runs where not p_dry_run or started_at >= v_cutoff)
    when 'audit_log' then (select min(changed_at) from monitor.audit_log where not p_dry_run or changed_at >= v_cutoff)
    when 'sample_days' then
      (select min(day)::timestamp at time zone 'UTC' from monitor.sample_days
        where not p_dry_run or state <> 'dropped' or state_since >= v_cutoff)
    else v_oldest
  end;
  return monitor.retention_result(
    p_entity, jsonb_build_object('deleted', v_deleted),
    case when v_held is null then '{}' else jsonb_build_object('held', v_held) end,
    -- Fewer than there was room for: the others were locked.
    case when p_dry_run then 0 else greatest(least(v_due, p_limit) - v_deleted, 0) end,
    v_oldest, not p_dry_run and v_deleted > 0 and v_due > v_deleted, v_started_at);
end;
$$;

comment on function monitor.cleanup_own_table(text, integer, timestamptz, boolean, integer) is
  'Deletes rows of the suite''s own tables (job_runs, retention_runs, audit_log, anomaly_detections_archive, '
  'sample_days of dropped days, idle metric_series) and of cron.job_run_details that are older than retention_days, at '
  'most p_limit, oldest first. Archived anomalies go with their evidence, at most 500 a call. Returns as '
  'monitor.retention_result; a dry run counts no more than p_limit + 1 of metric_series and cron.job_run_details. '
  'Errors: 22023 for another entity.';

create function monitor.list_retention_steps()
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select coalesce(jsonb_agg(entity order by position, entity), '[]')
  from monitor.retention_policies
  where action in ('drop_days', 'archive', 'delete') or (entity = 'evidence_samples' and action <> 'keep');
$$;

comment on function monitor.list_retention_steps() is 'The entities that retention works on, in order of execution.';

create function monitor.run_retention_step(
  p_entity   text,
  p_run_id   uuid        default null,
  p_dry_run  boolean     default false,
  p_now      timestamptz default now()
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
set lock_timeout = '500ms' -- rows that belong to what is deleted cannot be skipped when others hold them
as $$
declare
  v_started_at  timestamptz := clock_timestamp();
  v_days        integer;
  v_result      jsonb;
begin
  select keep_days into v_days from monitor.retention_policies where entity = p_entity;
  if not found or not monitor.list_retention_steps() ? p_entity then
    raise exception 'retention does not work on %', p_entity
      using errcode = 'invalid_parameter_value', hint = 'See monitor.list_retention_steps().';
  end if;

  begin
    v_result := case p_entity
      when 'evidence_samples' then monitor.cleanup_evidence(p_now, p_dry_run)
      when 'metric_time_series' then monitor.cleanup_old_metrics(v_days, p_now, p_dry_run)
      when 'anomaly_detections' then monitor.cleanup_old_anomalies(v_days, p_now, p_dry_run)
      when 'system_alerts' then monitor.cleanup_old_alerts(v_days, p_now, p_dry_run)
      when 'incidents' then monitor.cleanup_old_incidents(v_days, p_now, p_dry_run)
      else monitor.cleanup_own_table(p_entity, v_days, p_now, p_dry_run)
    end;
  exception
    when lock_not_available or deadlock_detected then
      v_result := monitor.retention_result(p_entity, '{}', '{}', 1, null, false, v_started_at, 'locked by others');
    when undefined_table then
      v_result := monitor.retention_result(p_entity, '{}', '{}', 0, null, false, v_started_at, sqlerrm)
        || '{"outcome": "missing"}';
    when others then -- one entity that fails must not keep the others from their turn
      v_result := monitor.retention_result(p_entity, '{}', '{}', 0, null, false, v_started_at, sqlstate || ': ' || sqlerrm)
        || '{"outcome": "failed"}';
  end;

  if not p_dry_run then
    insert into monitor.retention_runs
      (run_id, entity, started_at, duration_seconds, outcome, counts, oldest_kept_at, detail)
    values (
      p_run_id, p_entity, p_now, (v_result ->> 'duration_seconds')::double precision, v_result ->> 'outcome',
      v_result -> 'counts', (v_result ->> 'oldest_kept_at')::timestamptz, v_result ->> 'detail');
  end if;
  return v_result;
end;
$$;

comment on function monitor.run_retention_step(text, uuid, boolean, timestamptz) is
  'One bounded step of one entity by its policy; call it again while the answer says more. What happens is recorded in '
  'retention_runs, a dry run is not. Errors: 22023 for an entity that retention does not work on.';

create function monitor.run_data_retention_cleanup(
  p_now      timestamptz default now(),
  p_dry_run  boolean     default false
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_budget constant interval := interval '4 seconds';
  v_started_at  timestamptz := clock_timestamp();
  v_entity      text;
  v_results     jsonb := '[]';
begin
  -- Dropping a day locks metric_time_series against everybody until this transaction ends, so it comes last, and has
  -- its turn even when the others used up the time.
  for v_entity in
    select entity
    from jsonb_array_elements_text(monitor.list_retention_steps()) with ordinality as step (entity, position)
    order by entity = 'metric_time_series', position
  loop
    continue when clock_timestamp() - v_started_at > c_budget and v_entity <> 'metric_time_series';
    v_results := v_results || monitor.run_retention_step(v_entity, null, p_dry_run, p_now);
  end loop;
  return v_results;
end;
$$;

comment on function monitor.run_data_retention_cleanup(timestamptz, boolean) is
  'One step of every entity, for use in SQL; the edge function data-retention-cleanup repeats them until nothing is '
  'left, each in a transaction of its own. Returns an array as monitor.retention_result; an entity that is not in it '
  'had no time left (4 s) and is due at the next call.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.retention_result(text, jsonb, jsonb, integer, timestamptz, boolean, timestamptz, text),
  monitor.retention_cutoff(integer, timestamptz),
  monitor.check_retention_limit(integer),
  monitor.delete_evidence(text, bigint[]),
  monitor.cleanup_old_metrics(integer, timestamptz, boolean, integer),
  monitor.cleanup_old_anomalies(integer, timestamptz, boolean, integer),
  monitor.cleanup_old_alerts(integer, timestamptz, boolean, integer),
  monitor.cleanup_old_incidents(integer, timestamptz, boolean, integer),
  monitor.cleanup_evidence(timestamptz, boolean, integer),
  monitor.cleanup_own_table(text, integer, timestamptz, boolean, integer),
  monitor.list_retention_steps(),
  monitor.run_retention_step(text, uuid, boolean, timestamptz),
  monitor.run_data_retention_cleanup(timestamptz, boolean)
to service_role;
