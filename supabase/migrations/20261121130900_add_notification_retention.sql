-- Purpose:  what is kept how long of messages, delivery reports and silences.
-- Locks:    access exclusive on retention_policies while a check changes.
-- Undo:     delete the policies; restore the check retention_policies_action_fits_entity of 20261121120200 and run
--           run_retention_step of 20261121110900 again; drop function monitor.cleanup_notifications(text, integer, timestamptz,
--           boolean, integer).

alter table monitor.retention_policies
  drop constraint retention_policies_action_fits_entity,
  add constraint retention_policies_action_fits_entity check (case
    when entity = 'metric_time_series' then action in ('compact', 'keep')
    when entity = 'metric_chunks' then action in ('drop_weeks', 'keep')
    when entity = 'metric_rollups' then action in ('drop_months', 'keep')
    when entity = 'anomaly_detections' then action in ('archive', 'keep')
    when entity = 'evidence_samples' then action in ('with_owner', 'keep')
    when entity in ('detector_states', 'detector_replays', 'incident_events', 'incident_alerts', 'incident_anomalies', 'chunk_times',
      'late_samples', 'rule_states', 'notification_alerts', 'notification_decisions',
      'alert_groups', 'alert_group_members', 'alerting_state') then action = 'with_owner'
    when entity in ('anomaly_detections_archive', 'system_alerts', 'incidents', 'job_runs', 'retention_runs', 'audit_log',
      'sample_days', 'metric_series', 'anomaly_feedback', 'maintenance_windows', 'deploy_marks', 'silences', 'notifications',
      'mail_events', 'cron.job_run_details')
      then action in ('delete', 'keep')
    else action = 'keep' end);

insert into monitor.retention_policies (entity, action, keep_days, position, reason) values
  ('notifications', 'delete', 90, 115, 'A quarter, as alerts; what is still to be sent and what an open alert was told by stays.'),
  ('mail_events', 'delete', 90, 116, 'As long as the mails that they are about.'),
  ('silences', 'delete', 400, 117, 'As long as hours of what was silent.'),
  ('notification_alerts', 'with_owner', null, 908, 'Goes with its message or its alert.'),
  ('notification_decisions', 'with_owner', null, 909, 'Goes with its alert.'),
  ('alert_groups', 'with_owner', null, 910, 'Gone when all of its alerts are over and told.'),
  ('alert_group_members', 'with_owner', null, 911, 'Gone with its group or its alert.'),
  ('alerting_state', 'with_owner', null, 912, 'One row.'),
  ('notification_channels', 'keep', null, 922, 'Configuration.'),
  ('notification_routes', 'keep', null, 923, 'Configuration.'),
  ('inhibition_rules', 'keep', null, 924, 'Configuration.'),
  ('escalation_levels', 'keep', null, 925, 'Configuration.');

-- Jobs that call each other run more often.
update monitor.retention_policies set reason = 'A month of runs, some 5,000 a day.'
where entity = 'job_runs' and reason = 'A month of runs, 3,500 a day at most.';

create function monitor.cleanup_notifications(
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
  v_held         integer := 0;
  v_by_incident  integer := 0;
  v_deleted     integer;
  v_oldest      timestamptz;
begin
  perform monitor.check_retention_limit(p_limit);
  -- One static statement an entity: nothing here is put together from strings.
  if p_entity = 'notifications' then
    -- What a channel knows of an open alert or incident is known from its messages.
    select
      count(*) filter (where not of_alert and not of_incident),
      count(*) filter (where of_alert),
      count(*) filter (where of_incident and not of_alert),
      min(created_at) filter (where of_alert or of_incident)
    into v_due, v_held, v_by_incident, v_oldest
    from (
      select
        created_at,
        exists (
          select from monitor.notification_alerts as told
          join monitor.system_alerts as alert using (alert_id)
          where told.notification_id = notification.notification_id and alert.resolved_at is null) as of_alert,
        exists (
          select from monitor.incidents as incident
          where incident.incident_id = notification.incident_id and incident.resolved_at is null) as of_incident
      from monitor.notifications as notification
      where created_at < v_cutoff and state <> 'pending'
    ) as old;
    if not p_dry_run then
      delete from monitor.notifications where notification_id in (
        select notification_id from monitor.notifications as notification
        where created_at < v_cutoff and state <> 'pending' and not exists (
          select from monitor.notification_alerts as told
          join monitor.system_alerts as alert using (alert_id)
          where told.notification_id = notification.notification_id and alert.resolved_at is null
        ) and not exists (
          select from monitor.incidents as incident
          where incident.incident_id = notification.incident_id and incident.resolved_at is null)
        order by created_at limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
    select least(v_oldest, min(created_at)) into v_oldest
    from monitor.notifications
    where not p_dry_run or created_at >= v_cutoff or state = 'pending';
  elsif p_entity = 'mail_events' then
    select count(*) into v_due from monitor.mail_events where occurred_at < v_cutoff;
    if not p_dry_run then
      delete from monitor.mail_events where event_id in (
        select event_id from monitor.mail_events where occurred_at < v_cutoff
        order by occurred_at limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
    select min(occurred_at) into v_oldest from monitor.mail_events where not p_dry_run or occurred_at >= v_cutoff;
  elsif p_entity = 'silences' then
    select count(*) into v_due from monitor.silences where ends_at < v_cutoff;
    if not p_dry_run then
      delete from monitor.silences where silence_id in (
        select silence_id from monitor.silences where ends_at < v_cutoff
        order by ends_at limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
    select min(ends_at) into v_oldest from monitor.silences where not p_dry_run or ends_at >= v_cutoff;
  else
    raise exception 'no clean-up is written for %', p_entity
      using errcode = 'invalid_parameter_value', hint = 'See monitor.retention_policies.';
  end if;

  if p_dry_run then
    v_deleted := v_due;
  end if;
  return monitor.retention_result(
    p_entity, jsonb_build_object('deleted', v_deleted),
    case when p_entity = 'notifications' then jsonb_build_object('held_by_alert', v_held, 'held_by_incident', v_by_incident) else '{}' end,
    -- Fewer than there was room for: the others were locked.
    case when p_dry_run then 0 else greatest(least(v_due, p_limit) - v_deleted, 0) end,
    v_oldest, not p_dry_run and v_deleted > 0 and v_due > v_deleted, v_started_at);
end;
$$;

comment on function monitor.cleanup_notifications(text, integer, timestamptz, boolean, integer) is
  'Deletes messages, delivery reports or silences that were made or over more than retention_days ago, at most p_limit a call, oldest '
  'first. Messages that are to be sent, or told of an alert or incident that is open, stay. Returns as monitor.retention_result. Errors: 22023 for '
  'another entity or an argument out of range.';

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
      when 'silences' then monitor.cleanup_notifications(p_entity, v_days, p_now, p_dry_run)
      when 'notifications' then monitor.cleanup_notifications(p_entity, v_days, p_now, p_dry_run)
      when 'mail_events' then monitor.cleanup_notifications(p_entity, v_days, p_now, p_dry_run)
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
grant execute on function monitor.cleanup_notifications(text, integer, timestamptz, boolean, integer) to service_role;
