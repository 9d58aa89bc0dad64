-- Purpose:  what is kept how long of feedback, maintenance windows, deploys and replays.
-- Locks:    access exclusive on retention_policies while a check changes.
-- Undo:     delete the four policies; restore the check retention_policies_action_fits_entity of 20261121100500 and run its
--           run_retention_step again; drop function monitor.cleanup_detection_labels(text, integer, timestamptz, boolean, integer);

alter table monitor.retention_policies
  drop constraint retention_policies_action_fits_entity,
  add constraint retention_policies_action_fits_entity check (case
    when entity = 'metric_time_series' then action in ('compact', 'keep')
    when entity = 'metric_chunks' then action in ('drop_weeks', 'keep')
    when entity = 'metric_rollups' then action in ('drop_months', 'keep')
    when entity = 'anomaly_detections' then action in ('archive', 'keep')
    when entity = 'evidence_samples' then action in ('with_owner', 'keep')
    when entity in ('detector_states', 'detector_replays', 'incident_events', 'incident_alerts', 'incident_anomalies', 'chunk_times',
      'late_samples') then action = 'with_owner'
    when entity in ('anomaly_detections_archive', 'system_alerts', 'incidents', 'job_runs', 'retention_runs', 'audit_log',
      'sample_days', 'metric_series', 'anomaly_feedback', 'maintenance_windows', 'deploy_marks', 'cron.job_run_details')
      then action in ('delete', 'keep')
    else action = 'keep' end);

insert into monitor.retention_policies (entity, action, keep_days, position, reason) values
  ('anomaly_feedback', 'delete', 400, 112, 'As long as hours of what it is said of.'),
  ('maintenance_windows', 'delete', 400, 113, 'As long as hours of what it explains.'),
  ('deploy_marks', 'delete', 400, 114, 'As long as hours of what it explains.'),
  ('detector_replays', 'with_owner', null, 906, 'At most one row a series; goes when the replay ends.');

create function monitor.cleanup_detection_labels(
  p_entity        text,
  retention_days  integer,
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
  v_due         integer;
  v_deleted     integer;
  v_oldest      timestamptz;
begin
  perform monitor.check_retention_limit(p_limit);
  -- One static statement an entity: nothing here is put together from strings.
  if p_entity = 'anomaly_feedback' then
    select count(*) into v_due from monitor.anomaly_feedback where created_at < v_cutoff;
    if not p_dry_run then
      delete from monitor.anomaly_feedback where feedback_id in (
        select feedback_id from monitor.anomaly_feedback where created_at < v_cutoff
        order by created_at limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
    select min(created_at) into v_oldest from monitor.anomaly_feedback where not p_dry_run or created_at >= v_cutoff;
  elsif p_entity = 'maintenance_windows' then
    select count(*) into v_due from monitor.maintenance_windows where ends_at < v_cutoff;
    if not p_dry_run then
      delete from monitor.maintenance_windows where maintenance_window_id in (
        select maintenance_window_id from monitor.maintenance_windows where ends_at < v_cutoff
        order by ends_at limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
    select min(ends_at) into v_oldest from monitor.maintenance_windows where not p_dry_run or ends_at >= v_cutoff;
  elsif p_entity = 'deploy_marks' then
    select count(*) into v_due from monitor.deploy_marks where deployed_at < v_cutoff;
    if not p_dry_run then
      delete from monitor.deploy_marks where deploy_mark_id in (
        select deploy_mark_id from monitor.deploy_marks where deployed_at < v_cutoff
        order by deployed_at limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
    select min(deployed_at) into v_oldest from monitor.deploy_marks where not p_dry_run or deployed_at >= v_cutoff;
  else
    raise exception 'no clean-up is written for %', p_entity
      using errcode = 'invalid_parameter_value', hint = 'See monitor.retention_policies.';
  end if;

  if p_dry_run then
    v_deleted := v_due;
  end if;
  return monitor.retention_result(
    p_entity, jsonb_build_object('deleted', v_deleted), '{}',
    -- Fewer than there was room for: the others were locked.
    case when p_dry_run then 0 else greatest(least(v_due, p_limit) - v_deleted, 0) end,
    v_oldest, not p_dry_run and v_deleted > 0 and v_due > v_deleted, v_started_at);
end;
$$;

comment on function monitor.cleanup_detection_labels(text, integer, timestamptz, boolean, integer) is
  'Deletes feedback that was given, maintenance that ended or deploys that were more than retention_days ago, at most p_limit a '
  'call, oldest first. Returns as monitor.retention_result. Errors: 22023 for another entity or an argument out of range.';

create or replace function monitor.run_retention_step(
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
  v_megabytes   integer;
  v_result      jsonb;
begin
  select keep_days, keep_megabytes into v_days, v_megabytes from monitor.retention_policies where entity = p_entity;
  if not found or not monitor.list_retention_steps() ? p_entity then
    raise exception 'retention does not work on %', p_entity
      using errcode = 'invalid_parameter_value', hint = 'See monitor.list_retention_steps().';
  end if;

  begin
    v_result := case p_entity
      when 'evidence_samples' then monitor.cleanup_evidence(p_now, p_dry_run)
      when 'metric_time_series' then monitor.compact_samples(v_days, p_now, p_dry_run)
      when 'metric_chunks' then monitor.cleanup_old_metrics(v_days, p_now, p_dry_run, 1, v_megabytes)
      when 'metric_rollups' then monitor.cleanup_old_rollups(v_days, p_now, p_dry_run)
      when 'anomaly_detections' then monitor.cleanup_old_anomalies(v_days, p_now, p_dry_run)
      when 'system_alerts' then monitor.cleanup_old_alerts(v_days, p_now, p_dry_run)
      when 'incidents' then monitor.cleanup_old_incidents(v_days, p_now, p_dry_run)
      when 'anomaly_feedback' then monitor.cleanup_detection_labels(p_entity, v_days, p_now, p_dry_run)
      when 'maintenance_windows' then monitor.cleanup_detection_labels(p_entity, v_days, p_now, p_dry_run)
      when 'deploy_marks' then monitor.cleanup_detection_labels(p_entity, v_days, p_now, p_dry_run)
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

revoke all on all functions in schema monitor from public;
grant execute on function monitor.cleanup_detection_labels(text, integer, timestamptz, boolean, integer) to service_role;
