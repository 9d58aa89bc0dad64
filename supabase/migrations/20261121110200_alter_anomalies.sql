-- Purpose:  what kind of change an anomaly is, the numbers behind its explanation, and which anomalies began together.
-- Locks:    access exclusive on anomaly_detections and its archive while columns are added and an index is built; both are small.
-- Undo:     drop index monitor.anomaly_detections_group_started_at_idx; drop the columns kind and details of both tables; run
--           20261121090900's cleanup_old_anomalies again as create or replace.

alter table monitor.anomaly_detections
  add column kind     text,
  add column details  jsonb,
  add constraint anomaly_detections_kind_known check (kind in (
    'spike', 'drop', 'level_shift', 'trend', 'variance', 'shape',
    'flat_line', 'drop_to_zero', 'late', 'missing', 'counter_stopped')),
  add constraint anomaly_detections_details_bounded
    check (jsonb_typeof(details) = 'object' and pg_column_size(details) <= 4096);

alter table monitor.anomaly_detections_archive
  add column kind     text,
  add column details  jsonb,
  add constraint anomaly_detections_kind_known check (kind in (
    'spike', 'drop', 'level_shift', 'trend', 'variance', 'shape',
    'flat_line', 'drop_to_zero', 'late', 'missing', 'counter_stopped')),
  add constraint anomaly_detections_details_bounded
    check (jsonb_typeof(details) = 'object' and pg_column_size(details) <= 4096);

comment on column monitor.anomaly_detections.kind is
  'What kind of change it is by now; the last five are absences. Null of those told before there were kinds.';
comment on column monitor.anomaly_detections.details is
  'The numbers behind the explanation: scaleSeconds, perWeek, comparedWith, trainingCount, cycles, change, minimumChange. Null '
  'where there are none.';
comment on column monitor.anomaly_detections.score is
  'How strongly it says that something new has begun, 0-1. Of detectors before kinds: robust standard deviations.';
comment on column monitor.anomaly_detections.group_id is
  'anomaly_id of the first of those that began within 5 minutes of it, itself included; null of those told before there were groups.';
comment on column monitor.anomaly_detections_archive.kind is 'As in anomaly_detections.';
comment on column monitor.anomaly_detections_archive.details is 'As in anomaly_detections.';
comment on column monitor.anomaly_detections_archive.score is 'As in anomaly_detections.';
comment on column monitor.anomaly_detections_archive.group_id is 'As in anomaly_detections.';

create index anomaly_detections_group_started_at_idx on monitor.anomaly_detections (started_at) where group_id = anomaly_id;
comment on index monitor.anomaly_detections_group_started_at_idx is 'Finds the group that an anomaly joins.';

create or replace function monitor.cleanup_old_anomalies(
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
        upper, observed, score, severity, explanation, sample_count, group_id, review_state, reviewed_at, reviewed_by, run_id,
        kind, details
      )
      select
        anomaly_id, series_id, detector_version, started_at, last_seen_at,
        coalesce(ended_at, last_seen_at), coalesce(ended_reason, 'no_data'), -- seen no more for retention_days
        expected, lower, upper, observed, score, severity, explanation, sample_count, group_id,
        case when review_state in ('open', 'acknowledged') then 'expired' else review_state end,
        case when review_state in ('open', 'acknowledged') then p_now else reviewed_at end,
        case when review_state in ('open', 'acknowledged') then 'retention policy' else reviewed_by end,
        run_id, kind, details
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

revoke all on function monitor.cleanup_old_anomalies(integer, timestamptz, boolean, integer) from public;
