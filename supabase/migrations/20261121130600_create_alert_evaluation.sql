-- Purpose:  the one state machine of alerts: what holds, what that makes of them, who is told, and why or why not.
-- Locks:    none on existing tables but for triggers on notification_routes and notification_channels.
-- Undo:     drop function monitor.read_scorecards(timestamptz, timestamptz), monitor.explain_alert(bigint), monitor.close_alert(bigint, text, timestamptz),
--           monitor.unacknowledge_alert(bigint, timestamptz), monitor.acknowledge_alert(bigint, text, double precision, timestamptz),
--           monitor.write_heartbeats(timestamptz), monitor.advance_alerts(jsonb, timestamptz),
--           monitor.flush_alerts(timestamptz), monitor.record_decisions(timestamptz), monitor.tell_alerts(timestamptz), monitor.group_is_due(monitor.alert_groups, timestamptz),
--           monitor.describe_alert(monitor.system_alerts, text, jsonb), monitor.list_mutes(timestamptz, text),
--           monitor.route_alerts(timestamptz), monitor.sync_alerts(jsonb, timestamptz), monitor.list_conditions(jsonb, timestamptz),
--           monitor.instances_are_readable(jsonb), monitor.match_open_alerts(jsonb); drop the two triggers and monitor.reroute_alerts().

create function monitor.match_open_alerts(p_matchers jsonb)
returns table (alert_id bigint)
language sql
stable
security invoker
set search_path = ''
as $$
  with matcher as materialized (
    select entry ->> 'name' as name, entry ->> 'op' as op, entry ->> 'value' as value,
      entry ->> 'op' = '=' and entry ->> 'value' <> '' and entry ->> 'name' <> '__name__' as is_plain
    from jsonb_array_elements(p_matchers) as entry
  )
  select alert.alert_id
  from monitor.system_alerts as alert
  where alert.resolved_at is null
    and alert.labels @> (select coalesce(jsonb_object_agg(name, value), '{}') from matcher where is_plain)
    and not exists (select from matcher where is_plain group by name having count(distinct value) > 1)
    and not exists (
      select
      from matcher
      cross join lateral (
        select coalesce(alert.labels ->> case matcher.name when '__name__' then 'metric' else matcher.name end, '') as actual
      ) as label
      where not matcher.is_plain and not case matcher.op
        when '=' then label.actual = matcher.value
        when '!=' then label.actual <> matcher.value
        when '=~' then label.actual ~ ('^(?:' || matcher.value || ')$')
        else label.actual !~ ('^(?:' || matcher.value || ')$') end);
$$;

comment on function monitor.match_open_alerts(jsonb) is
  'The open alerts whose labels satisfy all matchers; all without any. The name of a series is known of anomalies alone.';

create function monitor.instances_are_readable(p_instances jsonb)
returns boolean
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  if p_instances = '[]' then
    return true;
  end if;
  perform (instance ->> 'active_at')::timestamptz, (instance ->> 'fired_at')::timestamptz
  from jsonb_array_elements(p_instances) as instance;
  return not exists (
    select from jsonb_array_elements(p_instances) as instance
    where jsonb_typeof(instance -> 'labels') is distinct from 'object'
      or coalesce(instance ->> 'state', '') not in ('pending', 'firing')
      or coalesce(jsonb_typeof(instance -> 'annotations'), 'object') <> 'object'
      or coalesce(jsonb_typeof(instance -> 'no_data'), 'null') not in ('boolean', 'null'));
exception when others then
  return false; -- a time that is none
end;
$$;

comment on function monitor.instances_are_readable(jsonb) is
  'Whether the alerts that a rule remembers are such: one that somebody has made a mess of must not keep all others from being told.';

create function monitor.list_conditions(p_components jsonb, p_now timestamptz)
returns table (
  fingerprint text, name text, source text, severity text, labels jsonb, annotations jsonb, value text, runbook_url text,
  rule_id bigint, anomaly_id bigint, mode text, no_data boolean, active_at timestamptz, fired_at timestamptz, for_seconds double precision
)
language sql
stable
security invoker
set search_path = ''
as $$
  select
    md5(instance.labels::text), rule.name, 'rule', rule.severity, instance.labels, coalesce(instance.annotations, '{}'), instance.last_value,
    coalesce(instance.annotations ->> 'runbook_url', rule.runbook_url, monitor.runbook_url(rule.name)), rule.rule_id, null, rule.mode, coalesce(instance.no_data, false),
    coalesce(instance.active_at, p_now), case when instance.state = 'firing' then coalesce(instance.fired_at, instance.active_at, p_now) end, null
  from monitor.alert_rules as rule
  join monitor.rule_states as state using (rule_id)
  cross join lateral jsonb_to_recordset(state.instances) as instance (
    labels jsonb, annotations jsonb, state text, last_value text, active_at timestamptz, fired_at timestamptz, no_data boolean)
  where rule.kind = 'alerting' and rule.enabled and monitor.instances_are_readable(state.instances)

  union all
  select
    md5('anomaly' || series.labels::text || series.metric), 'AnomalyDetected', 'anomaly', anomaly.severity,
    series.labels || jsonb_build_object('alertname', 'AnomalyDetected', 'metric', series.metric, 'severity', anomaly.severity),
    jsonb_build_object(
      'summary', format('%s is not as expected', series.metric),
      'description', coalesce(anomaly.explanation, '')),
    anomaly.observed::text, monitor.runbook_url('AnomalyDetected'), null, anomaly.anomaly_id, 'live', coalesce(anomaly.ended_reason = 'no_data', false),
    anomaly.started_at, null, 0
  from monitor.anomaly_detections as anomaly
  join monitor.metric_series as series using (series_id)
  cross join monitor.settings
  where settings.anomaly_alert_severity is not null
    and array_position('{info,warning,critical}', anomaly.severity) >= array_position('{info,warning,critical}', settings.anomaly_alert_severity)
    and anomaly.review_state in ('open', 'acknowledged')
    -- That no data come any more does not say that it is over; a person does, or the retention.
    and (anomaly.ended_at is null or anomaly.ended_reason = 'no_data')

  union all
  select
    md5('job' || job.job || job.alert), job.alert, 'job', job.severity,
    jsonb_build_object('alertname', job.alert, 'job', job.job, 'severity', job.severity),
    jsonb_build_object('summary', job.summary, 'description', job.description),
    null, monitor.runbook_url(job.alert), null, null, 'live', false, p_now, null, job.for_seconds
  from (
    select
      -- A project that slept for a night has every job overdue when it wakes: each gets the time to run first.
      schedule.job, 'JobMissing' as alert, 'critical' as severity, case when schedule.stale_after_seconds <= 300 then 120 else 330 end as for_seconds,
      format('Job %s has not succeeded in time', schedule.job) as summary,
      format('Its last success was %s; it is overdue after %s s. monitor.job_runs has the runs, monitor.check_setup() what to do.',
        coalesce('at ' || to_char(schedule.last_succeeded_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'), 'never'),
        schedule.stale_after_seconds) as description
    from monitor.job_schedules as schedule
    -- The watchdog's own silence is a component of health: its runs are not recorded.
    where schedule.is_function and p_now > coalesce(schedule.last_succeeded_at, schedule.created_at) + make_interval(secs => schedule.stale_after_seconds)
    union all
    select
      schedule.job, 'JobFailing', 'warning', 0,
      format('The last runs of job %s failed', schedule.job),
      format('The last one: %s', coalesce(latest.reason, 'no reason known'))
    from monitor.job_schedules as schedule
    cross join lateral (
      select bool_and(run.state in ('failed', 'lost')) as have_failed, count(*) as runs,
        (array_agg(run.reason order by run.scheduled_at desc))[1] as reason
      from (
        select state, reason, scheduled_at from monitor.job_runs
        where job = schedule.job and state not in ('queued', 'running', 'skipped')
        order by scheduled_at desc, finished_at desc nulls last
        limit case when schedule.stale_after_seconds > 7200 then 1 else 2 end -- one of a daily job is news enough
      ) as run
    ) as latest
    where schedule.is_function and latest.have_failed and latest.runs = case when schedule.stale_after_seconds > 7200 then 1 else 2 end
  ) as job

  union all
  select
    md5('component' || (component ->> 'component')), 'ComponentUnhealthy', 'health',
    case when component ->> 'status' = 'degraded' then 'warning' else 'critical' end,
    jsonb_build_object('alertname', 'ComponentUnhealthy', 'component', component ->> 'component',
      'severity', case when component ->> 'status' = 'degraded' then 'warning' else 'critical' end),
    jsonb_build_object(
      'summary', format('The monitor''s %s: %s', component ->> 'component', component ->> 'status'),
      'description', coalesce(component ->> 'reason', '')),
    null, monitor.runbook_url('ComponentUnhealthy'), null, null, 'live', false, p_now, null, 120
  from jsonb_array_elements(coalesce(p_components, '[]')) as component
  where component ->> 'status' <> 'healthy'

  union all
  select
    md5('gap'), 'EvaluationGap', 'health', 'warning', '{"alertname": "EvaluationGap", "severity": "warning"}',
    jsonb_build_object(
      'summary', format('Nothing was evaluated for %s', justify_interval(gap_ended_at - gap_began_at)),
      'description', format('From %s to %s UTC no alert could begin or end. What happened meanwhile is in the metrics.',
        to_char(gap_began_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), to_char(gap_ended_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'))),
    null, monitor.runbook_url('EvaluationGap'), null, null, 'live', false, gap_ended_at, null, 0
  from monitor.alerting_state
  where gap_ended_at <= p_now and gap_ended_at > p_now - interval '10 minutes'

  union all
  select
    md5('channel' || channel.channel), 'ChannelFailing', 'health', 'critical',
    jsonb_build_object('alertname', 'ChannelFailing', 'channel', channel.channel, 'severity', 'critical'),
    jsonb_build_object(
      'summary', format('Messages by channel %s do not arrive', channel.channel),
      'description', coalesce(refusal.reason, channel.last_error, 'it fails')),
    null, monitor.runbook_url('ChannelFailing'), null, null, 'live', false, coalesce(channel.failing_since, p_now), null, 0
  from monitor.notification_channels as channel
  cross join lateral (
    select monitor.refuse_channel(channel.kind, channel.config, monitor.channel_secret(channel.channel)) as reason
  ) as refusal
  where channel.enabled and (channel.failing_since is not null or refusal.reason is not null);
$$;

comment on function monitor.list_conditions(jsonb, timestamptz) is
  'All that should be an alert now, from all sources: rules as last evaluated, open anomalies from settings.anomaly_alert_severity on, '
  'jobs that are overdue or fail, components of health ([{component, status, reason}]) that are not healthy, channels '
  'that fail, and ten minutes after it that there was a gap in evaluating. What has no fired_at fires when it has held for for_seconds.';

create function monitor.sync_alerts(p_components jsonb, p_now timestamptz)
returns jsonb
language plpgsql
security invoker
set search_path = ''
set enable_nestloop = off -- as in monitor.record_decisions
as $$
declare
  c_reopen  constant interval := interval '10 minutes';
  c_flap    constant integer := 3; -- firings within an hour
  c_quiet   constant interval := interval '10 minutes';
  v_counts  jsonb;
begin
  -- An acknowledgement that has run out is none; its alert is live again.
  update monitor.system_alerts as alert
  set acknowledged_at = null, acknowledged_by = null, acknowledged_until = null, acknowledged_because = null,
      -- Later than what was told meanwhile, by a clock that is seconds ahead of the minute.
      live_again_at = greatest(p_now, (
        select max(told_at) + interval '1 microsecond' from monitor.notification_alerts as told
        -- What lies ahead was told by a clock that stood wrong: it would be news until then.
        where told.alert_id = alert.alert_id and told_at <= p_now + interval '10 minutes'))
  where resolved_at is null and acknowledged_until <= p_now;
  update monitor.system_alerts
  set live_again_at = p_now
  where resolved_at is null and live_again_at > p_now + interval '10 minutes';

  with condition as materialized (
    select distinct on (listed.fingerprint) listed.*
    from monitor.list_conditions(p_components, p_now) as listed
    order by listed.fingerprint, listed.mode = 'live' desc, listed.fired_at is not null desc, listed.active_at
  ), known as materialized (
    select alert_id, fingerprint, source, labels, rule_id, anomaly_id, active_at, fired_at, ceased_at, recent_firings
    from monitor.system_alerts
    where resolved_at is null
  ), lately as materialized (
    select distinct on (alert.fingerprint) alert.alert_id, alert.fingerprint, alert.fired_at
    from monitor.system_alerts as alert
    where alert.resolved_at > p_now - c_reopen
      and not exists (select from known where known.fingerprint = alert.fingerprint)
    order by alert.fingerprint, alert.resolved_at desc
  ), judged as materialized (
    select
      condition.*,
      coalesce(known.alert_id, lately.alert_id) as alert_id,
      known.alert_id is not null as is_open,
      -- A clock that was ahead has written nothing that is later than now.
      case when firing.at is not null then least(firing.at, p_now) end as fires_at
    from condition
    left join known using (fingerprint)
    cross join lateral (
      select coalesce(condition.fired_at, case
        when p_now >= least(known.active_at, condition.active_at) + make_interval(secs => condition.for_seconds) then p_now end) as at
    ) as firing
    -- One that fired goes on when it fires again; what is only pending leaves its end to be told.
    left join lately on lately.fingerprint = condition.fingerprint and (firing.at is not null or lately.fired_at is null)
  ), continued as (
    update monitor.system_alerts as alert
    set name = judged.name, source = judged.source, severity = judged.severity, labels = judged.labels, annotations = judged.annotations,
        value = judged.value, runbook_url = judged.runbook_url, rule_id = judged.rule_id, anomaly_id = judged.anomaly_id,
        mode = judged.mode, no_data = judged.no_data, last_seen_at = greatest(p_now, alert.fired_at),
        active_at = case when judged.is_open and judged.for_seconds is not null then least(alert.active_at, judged.active_at)
          else judged.active_at end,
        resolved_at = null, resolved_because = null, ceased_at = null,
        -- Somebody looked after what is over, not after what comes back.
        acknowledged_at = case when judged.is_open then alert.acknowledged_at end,
        acknowledged_by = case when judged.is_open then alert.acknowledged_by end,
        acknowledged_until = case when judged.is_open then alert.acknowledged_until end,
        acknowledged_because = case when judged.is_open then alert.acknowledged_because end,
        -- Of one that is told as firing the start stays; else it fires now, or not yet.
        fired_at = case
          when judged.is_open and alert.fired_at is not null and alert.ceased_at is null then alert.fired_at
          when judged.fires_at is not null then judged.fires_at
          when judged.is_open and alert.fired_at is not null then alert.fired_at
          when not judged.is_open then null end,
        occurrence_count = alert.occurrence_count + (judged.fires_at is not null and not (judged.is_open and alert.fired_at is not null and alert.ceased_at is null))::integer,
        recent_firings = case
          when judged.fires_at is not null and not (judged.is_open and alert.fired_at is not null and alert.ceased_at is null)
            then (select coalesce(array_agg(fired order by fired), '{}') from (
              select fired from unnest(alert.recent_firings || judged.fires_at) as fired
              where fired > p_now - interval '1 hour' order by fired desc limit 20) as recent)
          else alert.recent_firings end,
        routed_at = case when judged.is_open and alert.labels = judged.labels and alert.mode = judged.mode then alert.routed_at end
    from judged
    where alert.alert_id = judged.alert_id
      -- By the index, here and below: what is long over is never gone through.
      and alert.alert_id = any (array(select found.alert_id from judged as found))
      and (not judged.is_open or alert.ceased_at is not null
        or (alert.fired_at is null and judged.fires_at is not null)
        or alert.last_seen_at <= p_now - interval '5 minutes'
        or alert.last_seen_at > p_now + interval '10 minutes'
        or (alert.value, alert.severity, alert.annotations, alert.mode, alert.no_data, alert.labels, alert.anomaly_id, alert.rule_id, alert.runbook_url)
          is distinct from (judged.value, judged.severity, judged.annotations, judged.mode, judged.no_data, judged.labels, judged.anomaly_id,
            judged.rule_id, judged.runbook_url))
    returning alert.alert_id, judged.is_open
  ), opened as (
    insert into monitor.system_alerts (
      fingerprint, name, source, severity, labels, annotations, value, runbook_url, rule_id, anomaly_id, mode, no_data, opened_at,
      active_at, fired_at, last_seen_at, occurrence_count, recent_firings)
    select
      fingerprint, name, source, severity, labels, annotations, value, runbook_url, rule_id, anomaly_id, mode, no_data, p_now,
      least(active_at, p_now), fires_at, p_now, (fires_at is not null)::integer,
      case when fires_at is null then '{}'::timestamptz[] else array[fires_at] end
    from judged
    where alert_id is null
    returning alert_id
  ), over as materialized (
    select known.*,
      case
        when known.source = 'rule' then case
          when rule.rule_id is null then 'its rule was deleted or has other labels now'
          when not rule.enabled then 'its rule was switched off'
          else 'what it says no longer holds' end
        when known.source = 'anomaly' then case
          when anomaly.review_state in ('resolved', 'false_positive', 'expected')
            then format('the anomaly was reviewed as %s by %s', replace(anomaly.review_state, '_', ' '), coalesce(anomaly.reviewed_by, 'somebody'))
          else 'the series is as expected again' end
        when known.labels ->> 'alertname' = 'ChannelFailing' and known.source = 'health' and not exists (
            select from monitor.notification_channels as channel where channel.channel = known.labels ->> 'channel')
          then 'the channel was deleted'
        else 'what it says no longer holds' end as because,
      (known.source = 'rule' and (rule.rule_id is null or not rule.enabled)) as is_by_hand
    from known
    left join monitor.alert_rules as rule on rule.rule_id = known.rule_id
    left join monitor.rule_states as remembered on remembered.rule_id = known.rule_id
    left join monitor.anomaly_detections as anomaly on anomaly.anomaly_id = known.anomaly_id
    where not exists (select from condition where condition.fingerprint = known.fingerprint)
      -- Of components nothing may be known now: what is not known does not resolve.
      and not (p_components is null and known.labels ? 'component' and known.source = 'health')
      and not coalesce(known.source = 'rule' and rule.enabled and not monitor.instances_are_readable(remembered.instances), false)
  ), held as (
    update monitor.system_alerts as alert
    set ceased_at = p_now
    from over
    where alert.resolved_at is null and alert.alert_id = over.alert_id and over.ceased_at is null and over.fired_at is not null and not over.is_by_hand
      and (select count(*) from unnest(over.recent_firings) as fired where fired > p_now - interval '1 hour') >= c_flap
    returning alert.alert_id
  ), ended as (
    update monitor.system_alerts as alert
    set resolved_at = greatest(p_now, alert.fired_at),
        resolved_because = case when alert.fired_at is null then 'it never held for long enough to fire' else over.because end,
        last_seen_at = greatest(alert.last_seen_at, alert.fired_at)
    from over
    where alert.resolved_at is null and alert.alert_id = over.alert_id
      and (over.fired_at is null or over.is_by_hand
        or (over.ceased_at is not null and (over.ceased_at <= p_now - c_quiet or over.ceased_at > p_now + c_quiet))
        or (over.ceased_at is null
          and (select count(*) from unnest(over.recent_firings) as fired where fired > p_now - interval '1 hour') < c_flap))
    returning alert.alert_id
  )
  select jsonb_build_object(
    'opened', (select count(*) from opened),
    'reopened', (select count(*) from continued where not is_open),
    'held', (select count(*) from held),
    'resolved', (select count(*) from ended))
  into v_counts;

  -- The canary of the day has come as far as here: it is due no more, and over with the next evaluation.
  update monitor.alerting_state
  set canary_on = (p_now at time zone settings.time_zone)::date
  from monitor.settings
  where exists (select from monitor.system_alerts where resolved_at is null and name = 'PgvigilCanary' and state = 'firing')
    and canary_on is distinct from (p_now at time zone settings.time_zone)::date;
  update monitor.alerting_state
  set canary_since = case when settings.canary_channel is not null then p_now end
  from monitor.settings
  where (canary_since is null or canary_since > p_now) = (settings.canary_channel is not null);
  return v_counts;
end;
$$;

comment on function monitor.sync_alerts(jsonb, timestamptz) is
  'Makes of what holds now what there is in system_alerts, one open row a fingerprint: pending, firing, resolved. What comes back within '
  '10 minutes goes on in its row. What fires three times within an hour flaps, and resolves only after 10 quiet minutes. Of components '
  'that are null nothing is known, and nothing changes. Returns {opened, reopened, held, resolved}.';

create function monitor.reroute_alerts()
returns trigger
language plpgsql
security invoker
set search_path = ''
as $$
begin
  update monitor.system_alerts set routed_at = null where resolved_at is null and routed_at is not null;
  return null;
end;
$$;

comment on function monitor.reroute_alerts() is 'Trigger of what routing depends on: open alerts are routed anew.';

create trigger notification_routes_reroute_alerts
  after insert or update or delete on monitor.notification_routes
  for each statement execute function monitor.reroute_alerts();

create trigger notification_channels_reroute_alerts
  after insert or delete or update of enabled on monitor.notification_channels
  for each statement execute function monitor.reroute_alerts();

create function monitor.route_alerts(p_now timestamptz)
returns integer
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_route    monitor.notification_routes;
  v_all      bigint[];
  v_new      bigint[];
  v_left     bigint[];
  v_matched  bigint[];
begin
  select coalesce(array_agg(alert_id), '{}') into v_all
  from monitor.system_alerts
  where resolved_at is null and state = 'firing' and mode = 'live' and routed_at is null; -- the first as the index has it
  if v_all = '{}' then
    return 0;
  end if;

  -- Those about alerting itself go their own way: by no channel that they say does not work, by all others if that was the only one.
  with own as (
    select alert_id, alert.name, array(
      select channel.channel from monitor.notification_channels as channel
      where channel.enabled and case alert.name
        when 'PgvigilCanary' then channel.channel = (select canary_channel from monitor.settings)
        else channel.kind <> 'heartbeat' and channel.channel <> alert.labels ->> 'channel' and channel.failing_since is null end
      order by channel.channel) as channels
    from monitor.system_alerts as alert
    where alert.alert_id = any (v_all) and (alert.name = 'PgvigilCanary' or (alert.source = 'health' and alert.name = 'ChannelFailing'))
  ), kept as (
    -- In the group that told its start its end is told, too, whichever channels work by then.
    update monitor.alert_groups as known
    set channels = own.channels, next_flush_at = p_now
    from own
    join monitor.alert_group_members as member using (alert_id)
    where known.group_id = member.group_id and own.channels <> '{}'
    returning member.alert_id
  ), made as (
    insert into monitor.alert_groups (group_key, channels, labels, created_at, next_flush_at)
    select own.name || '/' || alert_id, channels, jsonb_build_object('alertname', own.name, 'alert', alert_id::text), p_now, p_now
    from own
    where channels <> '{}' and alert_id not in (select alert_id from kept)
    returning group_id, (labels ->> 'alert')::bigint as alert_id
  )
  insert into monitor.alert_group_members (group_id, alert_id)
  select group_id, alert_id from made;

  v_new := array(
    select alert_id from monitor.system_alerts as alert
    where alert.alert_id = any (v_all) and not (alert.name = 'PgvigilCanary' or (alert.source = 'health' and alert.name = 'ChannelFailing')));
  v_left := v_new;
  -- Whoever is routed anew leaves his groups; those that take him again below are not left.
  update monitor.alert_group_members set only_end = true where alert_id = any (v_new);

  for v_route in select * from monitor.notification_routes order by position, route_id loop
    exit when v_left = '{}';
    v_matched := array(
      select matched.alert_id from monitor.match_open_alerts(v_route.matchers) as matched where matched.alert_id = any (v_left));
    if v_matched = '{}' then
      continue;
    end if;
    -- One of that name was deleted: its groups go on, by the same key, or the end of one were the end of the other.
    update monitor.alert_groups as orphan
    set route_id = v_route.route_id
    where route_id is null and channels is null and group_key = v_route.name || '/' || labels::text and not exists (
      select from monitor.alert_groups as other
      where other.labels_hash = orphan.labels_hash and (other.route_id = v_route.route_id
        or (other.route_id is null and other.group_key = orphan.group_key and other.group_id < orphan.group_id)));
    with placed as (
      select alert.alert_id, alert.fired_at, case
        when v_route.group_by = '{...}' then alert.labels
        else (
          select coalesce(jsonb_object_agg(label, alert.labels -> label), '{}')
          from unnest(v_route.group_by) as label
          where alert.labels ? label) end as labels
      from monitor.system_alerts as alert
      where alert.alert_id = any (v_matched)
    ), made as (
      insert into monitor.alert_groups as known (group_key, route_id, labels, created_at, next_flush_at)
      select v_route.name || '/' || labels::text, v_route.route_id, labels, p_now, least(
        greatest(p_now, min(fired_at) + make_interval(secs => v_route.group_wait_seconds)),
        p_now + make_interval(secs => v_route.group_wait_seconds))
      from placed
      group by labels
      on conflict (route_id, labels_hash) where route_id is not null do update set labels = known.labels
      returning group_id, labels
    )
    insert into monitor.alert_group_members (group_id, alert_id)
    select made.group_id, placed.alert_id
    from placed
    join made using (labels)
    on conflict (group_id, alert_id) do update set only_end = false;
    if not v_route.continues then
      v_left := array(select unnest(v_left) except select unnest(v_matched));
    end if;
  end loop;

  -- Where nothing was told of them, there is no end to tell either.
  delete from monitor.alert_group_members as member
  where member.alert_id = any (v_new) and member.only_end and not exists (
    select from monitor.notification_alerts as told
    join monitor.notifications as notification using (notification_id)
    where told.alert_id = member.alert_id and (notification.group_id = member.group_id or notification.group_id is null));
  -- Who found no channel that works looks again the next time.
  update monitor.system_alerts as alert
  set routed_at = p_now
  where alert.alert_id = any (v_all) and (alert.alert_id = any (v_new)
    or exists (select from monitor.alert_group_members as member where member.alert_id = alert.alert_id));
  return cardinality(v_all);
end;
$$;

comment on function monitor.route_alerts(timestamptz) is
  'Puts alerts that fire and are new, or whose routes have changed, into the groups of their routes. Returns how many.';

create function monitor.list_mutes(p_now timestamptz, p_time_zone text)
returns table (alert_id bigint, decision text, detail text)
language sql
stable
security invoker
set search_path = ''
set enable_nestloop = off -- as in monitor.record_decisions
as $$
  with silence as (
    select silence.matchers, format('by %s until %s: %s (silence %s)', silence.created_by,
      to_char(monitor.silence_holds_until(silence, p_now, p_time_zone) at time zone p_time_zone, 'YYYY-MM-DD HH24:MI'),
      silence.reason, silence.silence_id) as detail, 1 as place, silence.silence_id as id
    from monitor.silences as silence
    where silence.starts_at <= p_now and silence.ends_at > p_now and monitor.silence_holds(silence, p_now, p_time_zone)
    union all
    select coalesce(planned.matchers, '[]'), format('by %s until %s: %s (maintenance %s)', planned.created_by,
      to_char(planned.ends_at at time zone p_time_zone, 'YYYY-MM-DD HH24:MI'), planned.reason, planned.maintenance_window_id),
      2, planned.maintenance_window_id
    from monitor.maintenance_windows as planned
    where planned.starts_at <= p_now and planned.ends_at > p_now
  ), silenced as (
    select distinct on (matched.alert_id) matched.alert_id, silence.detail
    from silence
    cross join lateral monitor.match_open_alerts(silence.matchers) as matched
    order by matched.alert_id, silence.place, silence.id
  ), matched as materialized (
    select rule.name, matched.alert_id, bool_or(side.is_source) as is_source, bool_or(not side.is_source) as is_target
    from monitor.inhibition_rules as rule
    cross join lateral (values (true, rule.source_matchers), (false, rule.target_matchers)) as side (is_source, matchers)
    cross join lateral monitor.match_open_alerts(side.matchers) as matched
    group by rule.name, matched.alert_id
  ), keyed as materialized (
    select matched.*, alert.name as alert_name, alert.mode,
      array(select coalesce(alert.labels ->> label, '') from unnest(rule.equal_labels) as label) as equal_values
    from matched
    join monitor.inhibition_rules as rule using (name)
    join monitor.system_alerts as alert using (alert_id)
    where alert.resolved_at is null and alert.state = 'firing'
  ), source as (
    -- Of those that say the same the first is enough, and one that is no target itself says more than one that is.
    select name, equal_values,
      min(alert_id) filter (where not is_target) as pure_id,
      min(alert_id) as first_id
    from keyed
    where is_source and mode = 'live'
    group by name, equal_values
  ), inhibited as (
    select distinct on (target.alert_id) target.alert_id, target.name, source.by_id
    from keyed as target
    join (select name, equal_values, first_id, pure_id from source) as known using (name, equal_values)
    cross join lateral (select case when target.is_source then known.pure_id else known.first_id end as by_id) as source
    where target.is_target and source.by_id <> target.alert_id
    order by target.alert_id, source.by_id
  )
  select silenced.alert_id, 'silenced', silenced.detail from silenced
  union all
  select inhibited.alert_id, 'inhibited', format('by alert %s %s (inhibition %s)', inhibited.by_id, alert.name, inhibited.name)
  from inhibited
  join monitor.system_alerts as alert on alert.alert_id = inhibited.by_id
  where not exists (select from silenced where silenced.alert_id = inhibited.alert_id);
$$;

comment on function monitor.list_mutes(timestamptz, text) is
  'The open alerts that are not to be told now, each with silenced or inhibited and by what. Silences and maintenance first. As in '
  'Alertmanager, what is silenced or inhibited inhibits all the same, and two alerts that are on both sides of a rule do not inhibit '
  'each other.';

create function monitor.describe_alert(p_alert monitor.system_alerts, p_status text, p_notes jsonb)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select jsonb_build_object(
    'alert_id', p_alert.alert_id,
    'fingerprint', p_alert.fingerprint,
    'status', p_status,
    'name', p_alert.name,
    'source', p_alert.source,
    'severity', p_alert.severity,
    -- What is written must fit, whatever its rule makes of it.
    'labels', (
      select coalesce(jsonb_object_agg(kept.key, left(kept.value, 300)), '{}')
      from (select key, value from jsonb_each_text(p_alert.labels) order by key limit 30) as kept),
    'annotations', (
      select coalesce(jsonb_object_agg(kept.key, left(kept.value, 1000)), '{}')
      from (select key, value from jsonb_each_text(p_alert.annotations) order by key <> 'summary', key <> 'description', key limit 10) as kept),
    'value', p_alert.value,
    'fired_at', coalesce(p_alert.fired_at, p_alert.active_at),
    'resolved_at', p_alert.resolved_at,
    'runbook_url', p_alert.runbook_url,
    'occurrences', greatest(p_alert.occurrence_count, 1),
    'notes', p_notes);
$$;

comment on function monitor.describe_alert(monitor.system_alerts, text, jsonb) is
  'An alert as a message tells it: ToldAlert of shared/contract/notifications.ts. Notes is an array of sentences.';

create function monitor.group_is_due(p_group monitor.alert_groups, p_now timestamptz)
returns boolean
language sql
stable
security invoker
set search_path = ''
as $$
  select p_group.next_flush_at <= p_now
    -- Further ahead than its route ever puts it: by a clock that stood wrong.
    or p_group.next_flush_at > p_now + make_interval(secs => 60 + coalesce((
      select greatest(group_interval_seconds, group_wait_seconds) from monitor.notification_routes where route_id = p_group.route_id), 300));
$$;

comment on function monitor.group_is_due(monitor.alert_groups, timestamptz) is 'Whether a group of alerts is to be looked at now.';

create function monitor.tell_alerts(p_now timestamptz)
returns integer
language plpgsql
security invoker
set search_path = ''
set enable_nestloop = off -- as in monitor.record_decisions
as $$
declare
  c_groups      constant integer := 2000;
  c_listed      constant integer := 50;
  c_messages    constant integer := 20;
  v_time_zone   text;
  v_due         bigint[];
  v_told        integer;
begin
  select time_zone into v_time_zone from monitor.settings;
  v_due := array(
    select group_id from monitor.alert_groups as alert_group
    where monitor.group_is_due(alert_group, p_now)
    order by next_flush_at, group_id
    limit c_groups
    for update);
  if v_due = '{}' then
    return 0;
  end if;

  with mute as materialized (
    select * from monitor.list_mutes(p_now, v_time_zone)
  ), due as materialized (
    select alert_group.group_id, alert_group.group_key, alert_group.labels, coalesce(route.name, '') as route,
      coalesce(route.repeat_interval_seconds, 14400) as repeat_seconds,
      coalesce(alert_group.channels, route.channels, '{}') as channels
    from monitor.alert_groups as alert_group
    left join monitor.notification_routes as route using (route_id)
    where alert_group.group_id = any (v_due)
  ), member as materialized (
    select due.group_id, membership.only_end, alert.alert_id, alert.name, alert.state, alert.severity, alert.labels, alert.annotations,
      alert.live_again_at, alert.acknowledged_at, mute.alert_id is not null and alert.name <> 'PgvigilCanary' as is_muted, alert.fired_at, alert.mode
    from due
    join monitor.alert_group_members as membership using (group_id)
    join monitor.system_alerts as alert using (alert_id)
    left join mute using (alert_id)
    where alert.alert_id = any (array(
      select of_due.alert_id from monitor.alert_group_members as of_due where of_due.group_id = any (v_due)))
  ), known as materialized (
    -- PagerDuty has an incident for each group: what it knows of an alert in another is nothing here.
    select distinct on (told.alert_id, told.channel, own.group_id)
      told.alert_id, told.channel, told.status, told.severity, told.told_at, notification.group_id, own.group_id as own_group_id
    from monitor.notification_alerts as told
    join monitor.notifications as notification using (notification_id)
    left join monitor.notification_channels as channel on channel.channel = told.channel
    cross join lateral (select case when channel.kind = 'pagerduty' then notification.group_id end as group_id) as own
    where told.alert_id = any (array(select alert_id from member)) and notification.state <> 'discarded'
      and notification.notification_id = any (array(
        select of_member.notification_id from monitor.notification_alerts as of_member
        where of_member.alert_id = any (array(select alert_id from member))))
    order by told.alert_id, told.channel, own.group_id, told.notification_id desc
  ), target as (
    -- Where the start was told, the end is told too, whatever the routes say by now.
    select due.group_id, due.repeat_seconds, channel.channel, channel.kind, (channel.config -> 'send_resolved') is distinct from 'false'::jsonb as tells_end,
      channel.enabled and channel.channel = any (due.channels) as is_routed
    from due
    join monitor.notification_channels as channel on channel.kind <> 'heartbeat' and (
      (channel.enabled and channel.channel = any (due.channels))
      or exists (
        select from member join known using (alert_id)
        where member.group_id = due.group_id and member.state = 'resolved' and known.channel = channel.channel and known.status = 'firing'
          and (known.own_group_id is null or known.own_group_id = due.group_id)))
  ), item as materialized (
    select target.group_id, target.channel, target.kind, member.alert_id, member.severity, member.fired_at,
      case when member.state = 'firing' then 'firing' else 'resolved' end as status,
      member.state = 'resolved' as is_over,
      coalesce(may_tell.is_so
        and (known.status is distinct from 'firing' or member.live_again_at > known.told_at
          -- Its end was not told, as the channel wants it: this is another start.
          or (not target.tells_end and member.fired_at > known.told_at)), false)
        -- Whoever looks after it has to know, too.
        or coalesce(member.state = 'firing' and is_listed.is_so
          and array_position('{info,warning,critical}', member.severity) > array_position('{info,warning,critical}', known.severity), false) as is_news,
      may_tell.is_so as is_unacknowledged,
      known.told_at,
      -- Of groups of several routes that are told at once by one channel the first tells it, and the one that repeats it soonest.
      row_number() over (
        partition by target.channel, case when target.kind = 'pagerduty' then target.group_id end, member.alert_id
        order by is_listed.is_so desc, target.repeat_seconds, target.group_id) = 1 as is_first
    from target
    join member using (group_id)
    left join known on known.alert_id = member.alert_id and known.channel = target.channel
      and (known.own_group_id is null or known.own_group_id = target.group_id)
    cross join lateral (
      select target.is_routed and not member.only_end and member.mode = 'live' and not member.is_muted as is_so
    ) as is_listed
    cross join lateral (
      select member.state = 'firing' and member.acknowledged_at is null and is_listed.is_so as is_so
    ) as may_tell
    where case member.state
      -- What PagerDuty knows keeps its incident open, whether it is told now or not.
      when 'firing' then is_listed.is_so or (target.kind = 'pagerduty' and known.status = 'firing')
      when 'resolved' then known.status = 'firing' and target.tells_end and (member.name <> 'PgvigilCanary' or target.kind = 'pagerduty')
        -- Its end belongs to the group that told its start, as long as it is in there.
        and (known.group_id = member.group_id or not exists (
          select from monitor.alert_group_members as other
          where other.alert_id = member.alert_id and other.group_id = coalesce(known.group_id, (
            select min(any_group.group_id) from monitor.alert_group_members as any_group where any_group.alert_id = member.alert_id))
            and other.group_id <> member.group_id))
      else false end
  ), told_before as (
    select channel, count(*) as messages
    from monitor.notifications
    where created_at = p_now and payload_type = 'alerts' and not is_test
    group by channel
  ), summed as (
    select item.group_id, item.channel, item.kind, due.repeat_seconds, due.route, due.group_key, due.labels,
      count(*) filter (where status = 'firing') as firing_count,
      count(*) filter (where is_over) as resolved_count,
      bool_or(is_news and is_first) as has_news,
      bool_or(is_unacknowledged and is_first) as has_unacknowledged,
      max(array_position('{info,warning,critical}', severity)) filter (where status = 'firing') as worst,
      -- What lies ahead was told by a clock that stood wrong.
      max(told_at) filter (where told_at <= p_now + interval '10 minutes') as last_told_at
    from item
    join due using (group_id)
    group by item.group_id, item.channel, item.kind, due.repeat_seconds, due.route, due.group_key, due.labels
  ), sending as materialized (
    select summed.*,
      case
        when firing_count = 0 then 'resolved'
        when last_told_at is null then 'new'
        when has_news or resolved_count > 0 then 'changed'
        else 'repeated' end as because,
      -- People cannot read, nor a provider of mail take, hundreds of messages at once: beyond some they become one.
      case when kind in ('email', 'slack') and row_number() over (
          partition by channel order by firing_count > 0 desc, worst desc nulls last, group_id)
          > c_messages - coalesce((select messages from told_before where told_before.channel = summed.channel), 0)
        then null else group_id end as bundle_id
    from summed
    where has_news or resolved_count > 0
      or (has_unacknowledged and coalesce(last_told_at <= p_now - make_interval(secs => repeat_seconds), true))
  ), content as materialized (
    select sending.bundle_id, sending.channel, sending.group_id, item.alert_id, item.status, item.severity, item.told_at,
      item.is_news or item.is_over as is_changed,
      coalesce(sending.bundle_id, 0) as bundle_key,
      row_number() over (
        partition by sending.channel, sending.bundle_id
        order by item.status, array_position('{info,warning,critical}', item.severity) desc, item.fired_at, item.alert_id) as place
    from sending
    join item using (group_id, channel)
  ), common as (
    -- What all of them have in common the first has, too.
    select candidate.channel, candidate.bundle_key,
      coalesce(jsonb_object_agg(candidate.key, left(candidate.value, 300)) filter (where candidate.kind = 'label'), '{}') as labels,
      coalesce(jsonb_object_agg(candidate.key, left(candidate.value, 1000)) filter (where candidate.kind = 'annotation'), '{}') as annotations
    from (
      select content.channel, content.bundle_key, pair.kind, pair.key, pair.value
      from content
      join member using (group_id, alert_id)
      cross join lateral (
        select 'label' as kind, each.key, each.value from jsonb_each_text(member.labels) as each
        union all
        select 'annotation', each.key, each.value from jsonb_each_text(member.annotations) as each
      ) as pair
      where content.place = 1
    ) as candidate
    where not exists (
      select from content
      join member as other using (group_id, alert_id)
      where content.channel = candidate.channel and content.bundle_key = candidate.bundle_key
        and case candidate.kind when 'label' then other.labels ->> candidate.key else other.annotations ->> candidate.key end
          is distinct from candidate.value)
    group by candidate.channel, candidate.bundle_key
  ), listed as (
    select content.channel, content.bundle_id, jsonb_agg(
      monitor.describe_alert(alert, content.status, (
        select coalesce(jsonb_agg(note order by place), '[]') from (
          select 1 as place, format('It was silenced %s, from %s to %s.', decision.detail,
            to_char(decision.held_since at time zone v_time_zone, 'YYYY-MM-DD HH24:MI'),
            to_char(coalesce(decision.held_until, p_now) at time zone v_time_zone, 'HH24:MI')) as note
          from monitor.notification_decisions as decision
          where decision.alert_id = alert.alert_id and decision.decision = 'silenced' and content.status = 'firing'
            and coalesce(decision.held_until, p_now) > coalesce(content.told_at, '-infinity')
          union all
          select 2, format('It had been acknowledged; that ran out at %s.', to_char(alert.live_again_at at time zone v_time_zone, 'HH24:MI'))
          where alert.live_again_at > coalesce(content.told_at, '-infinity') and content.status = 'firing' and alert.acknowledged_at is null
          union all
          select 3, format('Acknowledged by %s until %s: %s', alert.acknowledged_by,
            to_char(alert.acknowledged_until at time zone v_time_zone, 'HH24:MI'), alert.acknowledged_because)
          where alert.acknowledged_at is not null
          union all
          select 4, 'It flaps: three firings within an hour. It counts as resolved after 10 quiet minutes.'
          where content.status = 'firing' and cardinality(alert.recent_firings) >= 3
            and alert.recent_firings[cardinality(alert.recent_firings) - 2] > p_now - interval '1 hour'
          union all
          select 5, 'No data have come since: it stays until some do.' where alert.no_data and content.status = 'firing'
          union all
          select 6, 'Over because ' || alert.resolved_because || '.' where content.status = 'resolved' and alert.resolved_because is not null
        ) as said)) order by content.place) as alerts
    from content
    join monitor.system_alerts as alert using (alert_id)
    where content.place <= c_listed and alert.alert_id = any (array(select alert_id from content where place <= c_listed))
    group by content.channel, content.bundle_id
  ), bundle as (
    select channel, bundle_id,
      case when bundle_id is null then 'changed' else min(because) end as because,
      case when bundle_id is null then 'many groups' else min(group_key) end as group_key,
      case when bundle_id is null then '' else min(route) end as route,
      case when bundle_id is null then '{}' else (array_agg(labels))[1] end as labels,
      sum(firing_count) as firing_count,
      sum(resolved_count) as resolved_count
    from sending
    group by channel, bundle_id
  ), written as (
    insert into monitor.notifications (channel, group_id, payload, created_at, next_attempt_at)
    select bundle.channel, bundle.bundle_id, jsonb_build_object(
      'type', 'alerts',
      'group_key', bundle.group_key,
      'route', bundle.route,
      'because', case when bundle.firing_count = 0 then 'resolved' else bundle.because end,
      'group_labels', bundle.labels,
      'common_labels', coalesce(common.labels, '{}'),
      'common_annotations', coalesce(common.annotations, '{}'),
      'firing_count', bundle.firing_count,
      'resolved_count', bundle.resolved_count,
      'alerts', listed.alerts,
      'acknowledged_by', null), p_now, p_now
    from bundle
    join listed on listed.channel = bundle.channel and listed.bundle_id is not distinct from bundle.bundle_id
    left join common on common.channel = bundle.channel and common.bundle_key = coalesce(bundle.bundle_id, 0)
    returning notification_id, channel, group_id
  ), linked as (
    insert into monitor.notification_alerts (notification_id, alert_id, channel, status, severity, told_at)
    select distinct on (written.notification_id, content.alert_id)
      written.notification_id, content.alert_id, content.channel, content.status, content.severity, p_now
    from content
    join written on written.channel = content.channel and written.group_id is not distinct from content.bundle_id
    -- Of thousands that go on unchanged a message says no more than how many there are.
    where content.is_changed or content.place <= c_listed or content.bundle_id is null
    returning 1
  )
  select count(*) into v_told from written;

  -- Whoever is over has been told as such wherever it was known, or was not to be.
  delete from monitor.alert_group_members as member
  where member.group_id = any (v_due) and not exists (
    select from monitor.system_alerts as alert where alert.alert_id = member.alert_id and alert.resolved_at is null);
  delete from monitor.alert_groups as alert_group
  where group_id = any (v_due)
    and not exists (select from monitor.alert_group_members as member where member.group_id = alert_group.group_id);
  update monitor.alert_groups as alert_group
  set last_flushed_at = p_now,
      next_flush_at = p_now + make_interval(secs => coalesce(
        (select route.group_interval_seconds from monitor.notification_routes as route where route.route_id = alert_group.route_id), 300))
  where group_id = any (v_due);
  return v_told;
end;
$$;

comment on function monitor.tell_alerts(timestamptz) is
  'Writes a message for each channel of each group that is due and has something to tell, with Alertmanager''s semantics: what is new '
  'there or live again, what of that told has ended, and after repeat_interval what still fires and nobody has acknowledged. What is '
  'muted is left out, but never the end of what was told. Beyond 20 mails or Slack messages a channel the rest becomes one. Returns how '
  'many messages were written.';

create function monitor.record_decisions(p_now timestamptz)
returns integer
language plpgsql
security invoker
set search_path = ''
set enable_nestloop = off -- thousands of rows that came in this very transaction look like a handful to the planner
as $$
declare
  v_time_zone   text;
  v_evaluation  bigint;
  v_changed     integer;
begin
  select time_zone into v_time_zone from monitor.settings;
  select evaluation_count into v_evaluation from monitor.alerting_state;
  with mute as materialized (
    select * from monitor.list_mutes(p_now, v_time_zone)
  ), grouping as materialized (
    select membership.alert_id,
      string_agg(distinct coalesce(route.name, 'its own'), ', ') as routes,
      min(alert_group.next_flush_at) as next_flush_at,
      min(alert_group.last_flushed_at) as last_flushed_at
    from monitor.alert_group_members as membership
    join monitor.alert_groups as alert_group using (group_id)
    left join monitor.notification_routes as route using (route_id)
    where not membership.only_end and exists (
      select from monitor.notification_channels as channel
      where channel.enabled and channel.kind <> 'heartbeat' and channel.channel = any (coalesce(alert_group.channels, route.channels)))
    group by membership.alert_id
  ), telling as materialized (
    select told.alert_id, max(told.told_at) as told_at, string_agg(told.channel, ', ' order by told.channel) as channels
    from (
      select distinct on (notified.alert_id, notified.channel) notified.alert_id, notified.channel, notified.status, notified.told_at
      from monitor.notification_alerts as notified
      join monitor.notifications as notification on notification.notification_id = notified.notification_id and notification.state <> 'discarded'
      where notified.alert_id = any (array(select alert_id from monitor.system_alerts where resolved_at is null))
        and notification.notification_id = any (array(
          select of_open.notification_id from monitor.notification_alerts as of_open
          where of_open.alert_id = any (array(select alert_id from monitor.system_alerts where resolved_at is null))))
      order by notified.alert_id, notified.channel, notified.notification_id desc
    ) as told
    where told.status = 'firing'
    group by told.alert_id
  ), judged as materialized (
    select alert.alert_id, decision.decision, decision.detail
    from monitor.system_alerts as alert
    left join mute using (alert_id)
    left join grouping using (alert_id)
    left join telling on telling.alert_id = alert.alert_id
      and coalesce(telling.told_at >= alert.live_again_at, true) -- told before that, it is to be told again
    cross join lateral (
      select
        case
          when alert.state = 'pending' then 'pending'
          when alert.mode = 'shadow' then 'shadow'
          when mute.decision is not null then mute.decision
          when alert.acknowledged_at is not null then 'acknowledged'
          when telling.alert_id is not null then 'sent'
          when grouping.alert_id is null then 'no_route'
          when grouping.last_flushed_at is null then 'grouped'
          else 'throttled' end as decision,
        case
          when alert.state = 'pending' then format('it has held since %s, and not for long enough to fire',
            to_char(alert.active_at at time zone v_time_zone, 'YYYY-MM-DD HH24:MI:SS'))
          when alert.mode = 'shadow' then 'its rule is in shadow mode: what it would tell is only written down'
          when mute.detail is not null then mute.detail
          when alert.acknowledged_at is not null then format('by %s until %s: %s', alert.acknowledged_by,
            to_char(alert.acknowledged_until at time zone v_time_zone, 'YYYY-MM-DD HH24:MI'), alert.acknowledged_because)
          when telling.alert_id is not null then 'to ' || telling.channels
          when grouping.alert_id is null then case
            when alert.source = 'health' and alert.name = 'ChannelFailing' then 'there is no other channel that works'
            when not exists (select from monitor.notification_routes) then 'there is no route: make one with monitor.save_route'
            when alert.name = 'PgvigilCanary' then 'its channel, settings.canary_channel, is switched off or tells no alerts'
            else 'no route matches its labels, or none of the channels is switched on' end
          when grouping.last_flushed_at is null then format('into a group of route %s, which is told at %s', grouping.routes,
            to_char(grouping.next_flush_at at time zone v_time_zone, 'HH24:MI:SS'))
          else format('its group of route %s was told at %s and is again at %s at the earliest', grouping.routes,
            to_char(grouping.last_flushed_at at time zone v_time_zone, 'HH24:MI:SS'),
            to_char(grouping.next_flush_at at time zone v_time_zone, 'HH24:MI:SS')) end as detail
    ) as decision
    where alert.resolved_at is null
  ), changed as materialized (
    select judged.alert_id, judged.decision, judged.detail, known.decision_id
    from judged
    left join monitor.notification_decisions as known on known.alert_id = judged.alert_id and known.held_until is null
    where known.decision_id is null or known.decision <> judged.decision or known.detail <> judged.detail
  ), closed as (
    update monitor.notification_decisions as decision
    set held_until = greatest(p_now, decision.held_since), evaluations = greatest(v_evaluation - decision.first_evaluation, 0)
    where decision.held_until is null and decision.decision_id in (
      select decision_id from changed
      union all
      select known.decision_id
      from monitor.notification_decisions as known
      where known.held_until is null and not exists (
        select from monitor.system_alerts as alert where alert.alert_id = known.alert_id and alert.resolved_at is null))
    returning decision.alert_id
  )
  insert into monitor.notification_decisions (alert_id, decision, detail, held_since, first_evaluation)
  -- One after the other, also when the clock was put back meanwhile.
  select changed.alert_id, changed.decision, changed.detail, greatest(p_now, earlier.held_until), v_evaluation
  from changed
  left join (
    select before.alert_id, max(greatest(before.held_since, before.held_until)) as held_until
    from monitor.notification_decisions as before
    where before.alert_id = any (array(select alert_id from changed))
    group by before.alert_id
  ) as earlier using (alert_id)
  where (select count(*) from closed) >= 0; -- first those are closed that these follow
  get diagnostics v_changed = row_count;
  return v_changed;
end;
$$;

comment on function monitor.record_decisions(timestamptz) is
  'Writes down of each open alert why it is or is not told, where that has changed. Returns how many have.';

create function monitor.flush_alerts(p_now timestamptz default clock_timestamp())
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_told       integer := 0;
  v_incidents  jsonb;
begin
  perform from monitor.alerting_state for update; -- one at a time, evaluating or telling
  perform monitor.route_alerts(p_now);
  -- 2,000 groups at a time.
  for v_round in 1 .. 10 loop
    exit when not exists (select from monitor.alert_groups as alert_group where monitor.group_is_due(alert_group, p_now));
    v_told := v_told + monitor.tell_alerts(p_now);
  end loop;
  v_incidents := monitor.advance_incidents(p_now);
  perform monitor.record_decisions(p_now);
  return jsonb_build_object('told', v_told, 'incidents', v_incidents);
end;
$$;

comment on function monitor.flush_alerts(timestamptz) is
  'Tells the groups that are due, writes down the decisions, and moves incidents on. Returns {told, incidents}.';

create function monitor.write_heartbeats(p_now timestamptz)
returns void
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_canary constant interval := interval '26 hours'; -- a day until the next one, and two hours for it to arrive
  v_settings  monitor.settings;
  v_state     monitor.alerting_state;
  v_reason    text;
begin
  if not exists (select from monitor.notification_channels where kind = 'heartbeat' and enabled) then
    return;
  end if;
  select * into v_settings from monitor.settings;
  select * into v_state from monitor.alerting_state;
  -- Every 5 minutes: that it begins, and in the next evaluation, when that has arrived, how all stands.
  if v_state.heartbeat_at is null or v_state.heartbeat_at <= p_now - interval '5 minutes' or v_state.heartbeat_at > p_now then
    perform monitor.enqueue_notification(channel, '{"type": "heartbeat", "signal": "start", "reason": ""}', p_now => p_now)
    from monitor.notification_channels where kind = 'heartbeat' and enabled;
    update monitor.alerting_state set heartbeat_at = p_now;
    -- What was to be said of an earlier beat would be taken for this one.
    update monitor.notifications as stale
    set state = 'discarded', lease_token = null, lease_until = null, last_error = 'too late'
    where stale.state = 'pending' and stale.payload_type = 'heartbeat' and stale.created_at < p_now;
    delete from monitor.notifications
    where payload_type = 'heartbeat' and created_at < p_now - interval '1 day' and state <> 'pending';
    return;
  end if;
  v_reason := case
    when not coalesce((select max(last_sample_at) from monitor.metric_series)
      > p_now - make_interval(secs => (select stale_after_seconds from monitor.job_schedules where job = 'collect-metrics')), false)
      then 'no fresh metrics'
    when not v_settings.notifications_enabled then 'sending is switched off'
    when v_settings.canary_channel is not null and (
        v_state.canary_since < p_now - c_canary
        or exists (
          select from monitor.system_alerts where name = 'PgvigilCanary' and fired_at between p_now - c_canary and p_now - interval '15 minutes'))
      and not exists (
        select from monitor.system_alerts as alert
        join monitor.notification_alerts as told using (alert_id)
        join monitor.notifications as notification using (notification_id)
        where alert.name = 'PgvigilCanary' and alert.fired_at > p_now - c_canary
          and notification.state in ('sent', 'delivered'))
      then 'the canary did not arrive' end;
  perform monitor.enqueue_notification(begun.channel, jsonb_build_object(
    'type', 'heartbeat', 'signal', case when v_reason is null then 'success' else 'fail' end, 'reason', coalesce(v_reason, '')), p_now => p_now)
  from (
    select distinct on (notification.channel) notification.channel, notification.payload ->> 'signal' as signal, notification.state
    from monitor.notifications as notification
    join monitor.notification_channels as channel on channel.channel = notification.channel and channel.kind = 'heartbeat' and channel.enabled
    where notification.created_at >= v_state.heartbeat_at
    order by notification.channel, notification.notification_id desc
  ) as begun
  where begun.signal = 'start' and begun.state = 'sent';
end;
$$;

comment on function monitor.write_heartbeats(timestamptz) is
  'Writes signs of life for channels of kind heartbeat, every 5 minutes: start, and success in a later evaluation once start has '
  'arrived, or fail while metrics are not fresh, sending is switched off or the canary of the day has not been sent.';

create function monitor.advance_alerts(p_components jsonb, p_now timestamptz)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_before  timestamptz;
  v_now     timestamptz;
  v_counts  jsonb;
  v_usual   interval := make_interval(secs => (select stale_after_seconds from monitor.job_schedules where job = 'evaluate-alerts'));
begin
  select advanced_at into v_before from monitor.alerting_state for update;
  -- Time does not run backwards for a moment's difference; it does when a clock that was far ahead has been put right.
  v_now := case when v_before > p_now + interval '10 minutes' then p_now else greatest(p_now, v_before) end;
  update monitor.alerting_state
  set advanced_at = v_now, evaluation_count = evaluation_count + (v_before is distinct from v_now)::integer;
  if v_now - v_before > greatest(interval '10 minutes', v_usual) then
    update monitor.alerting_state set gap_began_at = v_before, gap_ended_at = v_now;
  end if;
  if v_now - v_before > greatest(interval '3 minutes', v_usual) then
    -- What was pending before a gap may have ended within it: only what was seen to hold counts.
    update monitor.system_alerts set active_at = v_now where resolved_at is null and fired_at is null and source in ('job', 'health');
  end if;
  v_counts := monitor.sync_alerts(p_components, v_now);
  perform monitor.write_heartbeats(v_now);
  return v_counts || monitor.flush_alerts(v_now);
end;
$$;

comment on function monitor.advance_alerts(jsonb, timestamptz) is
  'One evaluation of all alerts: what holds, what has ended, who is told, all in the transaction of the caller. Components are those of '
  'health, null when they are not known. Of two at once, the second one finds what the first has done. Returns {opened, reopened, held, '
  'resolved, told, incidents}.';

create function monitor.acknowledge_alert(
  p_alert_id  bigint,
  p_reason    text,
  p_minutes   double precision  default 240,
  p_now       timestamptz       default now()
)
returns timestamptz
language plpgsql
security definer -- an admin may acknowledge, but not write the row
set search_path = ''
as $$
declare
  v_until  timestamptz;
begin
  perform monitor.require_admin('acknowledge an alert');
  if p_reason is null or p_reason !~ '\S' or length(p_reason) > 2000 then
    raise exception 'an acknowledgement needs a reason'
      using errcode = 'invalid_parameter_value', hint = 'For who looks next: what is being done, in at most 2,000 characters.';
  end if;
  if p_minutes is null or not (p_minutes > 0 and p_minutes <= 10080) then
    raise exception 'an acknowledgement lasts up to 10080 minutes, a week, got %', p_minutes
      using errcode = 'invalid_parameter_value', hint = 'After that the alert is live again. To keep it quiet for longer, silence it.';
  end if;
  v_until := p_now + make_interval(secs => p_minutes * 60);
  perform from monitor.alerting_state for update;
  update monitor.system_alerts
  set acknowledged_at = p_now, acknowledged_by = monitor.current_actor(), acknowledged_until = v_until, acknowledged_because = p_reason
  where alert_id = p_alert_id and resolved_at is null and fired_at is not null;
  if not found then
    raise exception 'no alert % fires', p_alert_id
      using errcode = 'no_data_found', hint = 'select alert_id, name, labels from monitor.system_alerts where state = ''firing'';';
  end if;
  -- PagerDuty is told when nobody need look at the group any more.
  perform monitor.enqueue_notification(channel.channel, jsonb_build_object(
    'type', 'alerts', 'group_key', alert_group.group_key, 'route', coalesce(route.name, ''), 'because', 'acknowledged',
    'group_labels', alert_group.labels, 'common_labels', '{}'::jsonb, 'common_annotations', '{}'::jsonb,
    'firing_count', members.alerts, 'resolved_count', 0, 'alerts', members.listed, 'acknowledged_by', monitor.current_actor()),
    alert_group.group_id, p_now => p_now)
  from monitor.alert_group_members as own
  join monitor.alert_groups as alert_group using (group_id)
  left join monitor.notification_routes as route using (route_id)
  cross join lateral (
    select count(*) as alerts, bool_and(is_acknowledged) as all_acknowledged,
      jsonb_agg(listed order by place) filter (where place <= 50) as listed
    from (
      select alert.acknowledged_at is not null as is_acknowledged, monitor.describe_alert(alert, 'firing', '[]') as listed,
        row_number() over (order by alert.alert_id) as place
      from monitor.alert_group_members as membership
      join monitor.system_alerts as alert using (alert_id)
      where membership.group_id = own.group_id and alert.state = 'firing' and not membership.only_end
    ) as member
  ) as members
  join monitor.notification_channels as channel on channel.kind = 'pagerduty' and channel.enabled
    and channel.channel = any (coalesce(alert_group.channels, route.channels))
  where own.alert_id = p_alert_id and members.all_acknowledged;
  perform monitor.record_decisions(p_now);
  perform monitor.wake_deliverer(p_now);
  return v_until;
end;
$$;

comment on function monitor.acknowledge_alert(bigint, text, double precision, timestamptz) is
  'Says that somebody looks after an alert: it is repeated to nobody until that runs out, 4 hours by default; then it is told again. '
  'Returns until when. Errors: 42501 for a user who is no admin, 22023 for no reason or a time out of range, P0002 if it does not fire.';

create function monitor.unacknowledge_alert(p_alert_id bigint, p_now timestamptz default now())
returns void
language plpgsql
security definer -- an admin may take it back, but not write the row
set search_path = ''
as $$
begin
  perform monitor.require_admin('take an acknowledgement back');
  perform from monitor.alerting_state for update;
  update monitor.system_alerts
  set acknowledged_at = null, acknowledged_by = null, acknowledged_until = null, acknowledged_because = null, live_again_at = p_now
  where alert_id = p_alert_id and acknowledged_at is not null and resolved_at is null;
  if not found then
    raise exception 'alert % is not acknowledged', p_alert_id
      using errcode = 'no_data_found', hint = 'select alert_id, acknowledged_by from monitor.system_alerts where state = ''firing'';';
  end if;
  perform monitor.record_decisions(p_now);
end;
$$;

comment on function monitor.unacknowledge_alert(bigint, timestamptz) is
  'Makes an acknowledged alert live again: it is told with its group''s next message. Errors: 42501 for a user who is no admin, P0002 if '
  'it is not acknowledged.';

create function monitor.close_alert(p_alert_id bigint, p_reason text, p_now timestamptz default now())
returns void
language plpgsql
security definer -- an admin may close what nothing is known of, but not write the row
set search_path = ''
as $$
declare
  v_alert  monitor.system_alerts;
begin
  perform monitor.require_admin('close an alert');
  if p_reason is null or p_reason !~ '\S' or length(p_reason) > 500 then
    raise exception 'closing an alert needs a reason'
      using errcode = 'invalid_parameter_value', hint = 'How it is known to be over, in at most 500 characters.';
  end if;
  perform pg_advisory_xact_lock(hashtext('monitor.alert_rules')); -- rules before alerts, as evaluations lock them
  perform from monitor.alerting_state for update;
  select * into v_alert from monitor.system_alerts where alert_id = p_alert_id and resolved_at is null;
  if not found then
    raise exception 'alert % is not open', p_alert_id
      using errcode = 'no_data_found', hint = 'select alert_id, name, labels from monitor.system_alerts where resolved_at is null;';
  end if;
  if v_alert.source = 'anomaly' then
    raise exception 'alert % is of an anomaly', p_alert_id
      using errcode = 'invalid_parameter_value',
            hint = format('Review it: select monitor.review_anomaly(%s, ''resolved'');', v_alert.anomaly_id);
  end if;
  if v_alert.source <> 'rule' or not v_alert.no_data then
    raise exception 'what alert % says holds at this moment', p_alert_id
      using errcode = 'invalid_parameter_value', hint = 'Acknowledge or silence it: closed, it would be back within a minute.';
  end if;
  -- The rule would find it as it was.
  update monitor.rule_states
  set revision = revision + 1, instances = (
    select coalesce(jsonb_agg(instance), '[]') from jsonb_array_elements(instances) as instance where instance -> 'labels' <> v_alert.labels)
  where rule_id = v_alert.rule_id;
  update monitor.system_alerts
  set resolved_at = greatest(p_now, fired_at), resolved_because = format('%s closed it: %s', monitor.current_actor(), p_reason)
  where alert_id = p_alert_id;
  perform monitor.record_decisions(p_now);
end;
$$;

comment on function monitor.close_alert(bigint, text, timestamptz) is
  'Resolves an alert of a rule that stays only because no data come any more. Errors: 42501 for a user who is no admin, 22023 for no '
  'reason, and for an alert that holds or is of an anomaly, P0002 for one that is not open.';

create function monitor.explain_alert(p_alert_id bigint)
returns table (at timestamptz, event text, detail text)
language sql
stable
security invoker
set search_path = ''
as $$
  select newest.at, newest.event, newest.detail
  from (select story.* from (
    select alert.opened_at as at, 0 as place, alert.alert_id as id, 'opened' as event,
      format('%s %s, from %s', alert.name, alert.labels - 'alertname', alert.source) as detail
    from monitor.system_alerts as alert
    where alert.alert_id = p_alert_id
    union all
    select decision.held_since, 1, decision.decision_id, decision.decision,
      decision.detail || case when decision.held_until is null then ' (still)' else format(' (for %s, %s evaluations)',
        justify_interval(date_trunc('second', decision.held_until - decision.held_since)), decision.evaluations) end
    from monitor.notification_decisions as decision
    where decision.alert_id = p_alert_id
    union all
    select notification.created_at, 2, notification.notification_id, 'message ' || told.status,
      format('message %s to %s: %s%s', notification.notification_id, notification.channel, notification.state, case
        when notification.delivered_at is not null then ' at ' || to_char(notification.delivered_at at time zone 'UTC', 'HH24:MI:SS "UTC"')
        when notification.sent_at is not null then ' at ' || to_char(notification.sent_at at time zone 'UTC', 'HH24:MI:SS "UTC"')
        when notification.last_error is not null then format(' after %s attempts: %s', notification.attempt_count, notification.last_error)
        else '' end)
    from monitor.notification_alerts as told
    join monitor.notifications as notification using (notification_id)
    where told.alert_id = p_alert_id
    union all
    select alert.resolved_at, 3, alert.alert_id, 'resolved', coalesce(alert.resolved_because, '')
    from monitor.system_alerts as alert
    where alert.alert_id = p_alert_id and alert.resolved_at is not null
  ) as story
  order by story.at desc, story.place desc, story.id desc
  limit 1000) as newest
  order by newest.at, newest.place, newest.id;
$$;

comment on function monitor.explain_alert(bigint) is
  'Why an alert was told or not, in order, the newest 1,000 entries: each decision with how long it held, each message with what became of it. Nothing for an '
  'unknown alert.';

create function monitor.read_scorecards(p_since timestamptz default now() - interval '28 days', p_now timestamptz default now())
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'name', card.name, 'source', card.source, 'mode', card.mode, 'fired', card.fired, 'never_fired', card.never_fired,
    'acknowledged', card.acknowledged, 'resolved_by_itself', card.resolved_by_itself, 'open', card.open,
    'messages', card.messages, 'pages_a_week', round((card.messages / greatest(extract(epoch from p_now - p_since) / 604800, 1.0 / 7))::numeric, 2)
  ) order by card.messages desc, card.fired desc, card.name), '[]')
  from (
    select alert.name, alert.source, alert.mode,
      sum(alert.occurrence_count) as fired,
      count(*) filter (where alert.occurrence_count = 0) as never_fired,
      count(*) filter (where handled.is_acknowledged) as acknowledged,
      count(*) filter (where alert.resolved_at is not null and alert.occurrence_count > 0 and not handled.is_acknowledged) as resolved_by_itself,
      count(*) filter (where alert.resolved_at is null) as open,
      sum(handled.messages) as messages
    from monitor.system_alerts as alert
    cross join lateral (
      select
        exists (
          select from monitor.notification_decisions as decision
          where decision.alert_id = alert.alert_id and decision.decision = 'acknowledged') as is_acknowledged,
        (
          select count(*) from monitor.notification_alerts as told
          where told.alert_id = alert.alert_id and told.status = 'firing' and told.told_at >= p_since) as messages
    ) as handled
    where alert.resolved_at is null or alert.resolved_at >= p_since
    group by alert.name, alert.source, alert.mode
  ) as card;
$$;

comment on function monitor.read_scorecards(timestamptz, timestamptz) is
  'How each alert has done since: [{name, source, mode, fired, never_fired (pending only), acknowledged, resolved_by_itself, open, '
  'messages (tellings that it fires), pages_a_week}], the loudest first. Those in mode shadow say what they would have done.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.match_open_alerts(jsonb),
  monitor.instances_are_readable(jsonb),
  monitor.list_conditions(jsonb, timestamptz),
  monitor.sync_alerts(jsonb, timestamptz),
  monitor.route_alerts(timestamptz),
  monitor.list_mutes(timestamptz, text),
  monitor.describe_alert(monitor.system_alerts, text, jsonb),
  monitor.group_is_due(monitor.alert_groups, timestamptz),
  monitor.tell_alerts(timestamptz),
  monitor.record_decisions(timestamptz),
  monitor.flush_alerts(timestamptz),
  monitor.write_heartbeats(timestamptz),
  monitor.advance_alerts(jsonb, timestamptz)
to service_role;
grant execute on function
  monitor.acknowledge_alert(bigint, text, double precision, timestamptz),
  monitor.unacknowledge_alert(bigint, timestamptz),
  monitor.close_alert(bigint, text, timestamptz),
  monitor.explain_alert(bigint),
  monitor.read_scorecards(timestamptz, timestamptz)
to authenticated, service_role;
