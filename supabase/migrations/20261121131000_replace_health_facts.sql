-- Purpose:  whether anybody is told, as part of health, of metrics and of the check of the whole setup.
-- Locks:    none on existing tables.
-- Undo:     run read_health of 20261121120800, check_setup of 20261121091200 and collect_incidents_and_alerts of 20261121120700 again,
--           as create or replace, the last with register_collector as there. The definitions stay, as do those of all metrics that have
--           samples.

create or replace function monitor.read_health(p_now timestamptz default now())
returns jsonb
language sql
stable
security invoker
set search_path = ''
set statement_timeout = '3s'
as $$
  select jsonb_build_object(
    'now', p_now,
    'jobs_enabled', (select jobs_enabled from monitor.settings),
    'scheduler', (
      select jsonb_build_object(
        'watched_at', last_succeeded_at,
        'stale_after_seconds', stale_after_seconds,
        'installed', exists (select from pg_catalog.pg_extension where extname = 'pg_cron'))
      from monitor.job_schedules
      where job = 'watch-jobs'
    ),
    'jobs', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'job', schedule.job,
        'stale_after_seconds', schedule.stale_after_seconds,
        'last_succeeded_at', schedule.last_succeeded_at,
        'last_run_at', latest.scheduled_at,
        'last_state', latest.state,
        'last_reason', latest.reason,
        'last_complete', latest.is_complete
      ) order by schedule.job), '[]')
      from monitor.job_schedules as schedule
      left join lateral (
        select run.scheduled_at, run.state, run.reason, (run.result ->> 'complete')::boolean as is_complete
        from monitor.job_runs as run
        where run.job = schedule.job and run.state not in ('queued', 'running')
        order by run.scheduled_at desc, run.finished_at desc nulls last
        limit 1
      ) as latest on true
      where schedule.is_function
    ),
    'metrics', jsonb_build_object(
      'newest_sample_at', (select max(last_sample_at) from monitor.metric_series),
      'stale_after_seconds', (select stale_after_seconds from monitor.job_schedules where job = 'collect-metrics'),
      'failing_collectors', (
        select coalesce(jsonb_agg(collector order by collector), '[]')
        from monitor.metric_collectors
        where is_enabled and last_outcome in ('failed', 'timed_out')
          -- One that is not called any more has not failed lately.
          and last_run_at > p_now - make_interval(secs => interval_seconds * backoff_factor + 300))
    ),
    'storage', jsonb_build_object(
      'database_bytes', pg_database_size(current_database()),
      'monitor_bytes', monitor.monitor_bytes(),
      'budget_bytes', (
        select keep_megabytes * 1000000::bigint from monitor.retention_policies where entity = 'metric_chunks'),
      'shed', (
        select jsonb_build_object('at', run.started_at, 'detail', run.detail)
        from monitor.retention_runs as run
        where run.entity = 'metric_chunks' and run.started_at > p_now - interval '7 days'
          and (run.counts ->> 'shed_days')::integer > 0
        order by run.started_at desc
        limit 1),
      'days_ahead', (
        select count(*) from monitor.sample_days
        where state = 'rows' and day > (p_now at time zone 'UTC')::date),
      'contended_retention', (
        select coalesce(jsonb_agg(latest.entity order by latest.entity), '[]')
        from (
          select distinct on (run.entity) run.entity, run.outcome
          from monitor.retention_runs as run
          where run.started_at > p_now - interval '3 days'
          order by run.entity, run.started_at desc, run.retention_run_id desc
        ) as latest
        where latest.outcome in ('contended', 'failed'))
    ),
    'rules', (
      with live as (
        select rule.group_name, rule.position, rule.rule_id, rule.name, state.last_error,
          state.health = 'err' and state.failing_since < p_now - interval '10 minutes' as is_failing
        from monitor.alert_rules as rule
        join monitor.rule_states as state using (rule_id)
        where rule.enabled and rule.mode = 'live'
      )
      select jsonb_build_object(
        'live_count', count(*),
        'failing_count', count(*) filter (where is_failing),
        'first_failure', (
          select jsonb_build_object('name', name, 'error', left(last_error, 500))
          from live
          where is_failing
          order by group_name collate "C", position, rule_id
          limit 1))
      from live
    ),
    'notifications', (
      select jsonb_build_object(
        'enabled', settings.notifications_enabled,
        'routes_count', (
          select count(*) from monitor.notification_routes as route
          where exists (
            select from monitor.notification_channels as channel
            where channel.enabled and channel.kind <> 'heartbeat' and channel.channel = any (route.channels))),
        'overdue_seconds', (
          -- A lease that has not ended is no delay yet.
          select case when count(*) > 0
            then greatest(extract(epoch from p_now - min(greatest(notification.next_attempt_at, notification.lease_until))), 0) end
          from monitor.notifications as notification
          join monitor.notification_channels as channel using (channel)
          where notification.state = 'pending' and channel.enabled and notification.next_attempt_at <= p_now),
        'parked_count', (
          select count(*) from monitor.notifications where state = 'parked' and created_at > p_now - interval '7 days'),
        'channels_count', (select count(*) from monitor.notification_channels where enabled),
        'failing_channels', (
          select coalesce(jsonb_agg(jsonb_build_object('channel', failing.channel, 'reason', failing.reason) order by failing.channel), '[]')
          from (
            select channel.channel, left(coalesce(
              monitor.refuse_channel(channel.kind, channel.config, monitor.channel_secret(channel.channel)),
              case when channel.failing_since is not null then coalesce(channel.last_error, 'it fails') end), 300) as reason
            from monitor.notification_channels as channel
            where channel.enabled
          ) as failing
          where failing.reason is not null),
        'canary', case when settings.canary_channel is not null then (
          select jsonb_build_object(
            'wanted_since', (select canary_since from monitor.alerting_state),
            'fired_at', canary.fired_at,
            'arrived_at', canary.arrived_at)
          from (
            select max(alert.fired_at) as fired_at,
              max(alert.fired_at) filter (where notification.state in ('sent', 'delivered')) as arrived_at
            from monitor.system_alerts as alert
            left join monitor.notification_alerts as told on told.alert_id = alert.alert_id
            left join monitor.notifications as notification using (notification_id)
            where alert.name = 'PgvigilCanary'
          ) as canary) end)
      from monitor.settings
    ));
$$;

comment on function monitor.read_health(timestamptz) is
  'Facts about scheduler, jobs, metrics, storage, rules and notifications, each with its time; judging them is shared/health''s. Within 3 s.';

create or replace function monitor.check_setup(p_now timestamptz default now())
returns table (requirement text, status text, detail text, fix text)
language plpgsql
security definer -- looks into Vault and pg_cron, and says only whether what is needed is there
set search_path = ''
as $$
declare
  v_name      text;
  v_value     text;
  v_job       record;
  v_run       record;
  v_has_cron  boolean := to_regclass('cron.job') is not null;
  v_has_vault boolean := to_regclass('vault.decrypted_secrets') is not null;
  v_text      text;
  v_number    bigint;
begin
  foreach v_name in array array['pg_cron', 'pg_net', 'supabase_vault'] loop
    requirement := 'extension ' || v_name;
    select extversion into v_text from pg_catalog.pg_extension where extname = v_name;
    status := case when v_text is null then 'failed' else 'ok' end;
    detail := coalesce('version ' || v_text, 'not installed');
    fix := case when v_text is null then format('create extension %I;', v_name) end;
    return next;
  end loop;

  foreach v_name in array array['project_url', 'cron_secret_key'] loop
    requirement := 'Vault secret ' || v_name;
    v_value := null;
    if v_has_vault then
      select decrypted_secret into v_value from vault.decrypted_secrets where name = v_name;
    end if;
    status := case
      when v_value is null then 'failed'
      when v_name = 'project_url' and not monitor.is_project_url(v_value) then 'failed'
      when v_name = 'cron_secret_key' and v_value !~ '^sb_secret_[A-Za-z0-9_-]+$' then 'failed'
      else 'ok' end;
    detail := case
      when v_value is null then 'there is no secret of this name'
      when status = 'failed' then 'it has the wrong form'
      else 'resolves' end;
    fix := case when status = 'failed' then format(
      case when v_value is null
        then 'select vault.create_secret(''%1$s'', ''%2$s'');'
        else 'select vault.update_secret((select id from vault.secrets where name = ''%2$s''), ''%1$s'');' end,
      case v_name when 'project_url' then 'https://<project-ref>.supabase.co' else 'sb_secret_…' end, v_name) end;
    return next;
  end loop;

  -- What the last answer says counts only as long as the next one is not overdue.
  select run.http_status, run.responded_at, run.responded_at > p_now - make_interval(secs => (
      select min(stale_after_seconds) from monitor.job_schedules where is_function)) as is_fresh
  into v_run
  from monitor.job_runs as run
  where run.trigger = 'cron' and run.responded_at is not null
  order by run.responded_at desc
  limit 1;
  v_text := coalesce(
    'the last answer came at ' || to_char(v_run.responded_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')
      || coalesce(': HTTP ' || v_run.http_status, ' and was none'),
    'no function has answered yet');

  requirement := 'last round trip';
  status := case when v_run.is_fresh and v_run.http_status is not null then 'ok' else 'unknown' end;
  detail := v_text;
  fix := case when status = 'unknown' then
    'Wait two minutes. If nothing comes, the worker of pg_net hangs: select net.worker_restart();' end;
  return next;

  requirement := 'key accepted';
  status := case
    when v_run.http_status in (401, 403) then 'failed'
    when v_run.is_fresh and (v_run.http_status < 300 or v_run.http_status = 409) then 'ok'
    else 'unknown' end;
  detail := v_text;
  fix := case status
    when 'failed' then 'Make a secret key named cron (or cron_next) in the project''s API settings and store it: '
      || 'select vault.update_secret((select id from vault.secrets where name = ''cron_secret_key''), ''sb_secret_…'');'
    when 'unknown' then 'Wait two minutes; then look at the last successes below.' end;
  return next;

  requirement := 'jobs switched on';
  select case when jobs_enabled then 'ok' else 'failed' end into status from monitor.settings;
  detail := case status when 'ok' then 'the kill switch is off' else 'the kill switch stops every job' end;
  fix := case when status = 'failed' then 'update monitor.settings set jobs_enabled = true;' end;
  return next;

  for v_job in select * from monitor.job_schedules order by job loop
    requirement := 'job ' || v_job.cron_name;
    status := 'failed';
    detail := 'pg_cron does not know it';
    fix := format('select monitor.set_schedule(%L, %L);', v_job.job, v_job.schedule);
    if v_has_cron then
      for v_run in select active, schedule, command from cron.job where jobname = v_job.cron_name loop
        if not v_run.active then
          detail := 'switched off in pg_cron';
          fix := format('select cron.alter_job(jobid, active := true) from cron.job where jobname = %L;', v_job.cron_name);
        elsif v_run.schedule <> v_job.schedule then
          detail := format('pg_cron has %s, job_schedules has %s', v_run.schedule, v_job.schedule);
        elsif v_run.command <> monitor.cron_command(v_job.job, v_job.is_function) then
          detail := 'pg_cron runs another command';
        else
          status := 'ok';
          detail := 'active, ' || v_job.schedule;
          fix := null;
        end if;
      end loop;
    end if;
    return next;

    requirement := 'last success of ' || v_job.job;
    select run.state, run.reason into v_run
    from monitor.job_runs as run
    where run.job = v_job.job and run.state not in ('queued', 'running', 'skipped') -- which says of another run that it is under way
    order by run.scheduled_at desc, run.finished_at desc nulls last
    limit 1;
    status := case
      when v_job.last_succeeded_at > p_now - make_interval(secs => v_job.stale_after_seconds) then 'ok'
      when v_run.state is null and p_now < v_job.created_at + make_interval(secs => v_job.stale_after_seconds) then 'unknown'
      else 'failed' end;
    detail := coalesce(
      to_char(v_job.last_succeeded_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'), 'never')
      || case when status = 'failed' then coalesce('; the last run was ' || v_run.state || coalesce(' (' || v_run.reason || ')', ''), '') else '' end;
    fix := case
      when status = 'ok' then null
      when v_run.reason ~ '^HTTP 503' then 'Is the schema exposed? Project settings → Data API → Exposed schemas: add monitor. '
        || 'Else the log of the function tells.'
      when v_run.reason ~ '^HTTP 40[13]' then 'The key is refused: see "key accepted" above.'
      when v_run.reason ~ '^HTTP 500|^[0-9A-Z]{5}: |timed out' then 'The log of the function tells, and result and reason of its row in monitor.job_runs.'
      when v_job.is_function then format(
        'Is it deployed? supabase functions deploy %1$s --use-api. Then: select monitor.invoke_function(%1$L); and look at monitor.job_runs.', v_job.job)
      else format('select monitor.%I();', replace(v_job.job, '-', '_')) end;
    return next;
  end loop;

  requirement := 'grants';
  select
    string_agg(broken.detail, ', ' order by broken.detail),
    string_agg(broken.fix, ' ' order by broken.detail)
  into v_text, fix
  from (
    select 'service_role may not use the schema' as detail, 'grant usage on schema monitor to service_role;' as fix
    where not has_schema_privilege('service_role', 'monitor', 'usage')
    union all
    select 'service_role may not call ' || oid::regprocedure,
      format('grant execute on function %s to service_role;', oid::regprocedure)
    from pg_catalog.pg_proc
    where pronamespace = 'monitor'::regnamespace
      and (proname in ('start_job', 'finish_job', 'plan_collection', 'record_collection', 'read_detection_page',
          'record_detections', 'list_retention_steps', 'run_retention_step', 'read_health', 'plan_evaluation', 'record_evaluation',
          'flush_alerts', 'lease_notifications', 'record_deliveries', 'wake_deliverer', 'record_mail_event')
        or proname in (select collector from monitor.metric_collectors))
      and not has_function_privilege('service_role', oid, 'execute')
    union all
    select 'anon may use the schema', 'revoke all on schema monitor from anon, public;'
    where has_schema_privilege('anon', 'monitor', 'usage')
  ) as broken;
  status := case when v_text is null then 'ok' else 'failed' end;
  detail := coalesce(v_text, 'service_role works here, anon has no access');
  return next;

  requirement := 'somebody is told';
  select case
      when not notifications_enabled then 'sending is switched off'
      when not exists (select from monitor.notification_channels where enabled and kind <> 'heartbeat') then 'there is no channel'
      when not exists (
          select from monitor.notification_routes as route
          join monitor.notification_channels as channel on channel.channel = any (route.channels) and channel.enabled)
        then 'there is no route' end
  into v_text
  from monitor.settings;
  status := case when v_text is null then 'ok' else 'failed' end;
  detail := coalesce(v_text, 'alerts have a route and a channel');
  fix := case v_text
    when 'sending is switched off' then 'update monitor.settings set notifications_enabled = true;'
    when 'there is no channel' then 'select monitor.save_channel(''ops'', ''email'', ''{"to": ["you@example.com"]}'');'
    when 'there is no route' then format('select monitor.save_route(''all'', array[%L]);', (
      select channel from monitor.notification_channels where enabled and kind <> 'heartbeat' order by channel limit 1)) end;
  return next;

  requirement := 'days ahead';
  select count(*) into v_number from monitor.sample_days
  where state = 'rows' and day between (p_now at time zone 'UTC')::date and (p_now at time zone 'UTC')::date + 2;
  status := case when v_number = 3 then 'ok' else 'failed' end;
  detail := v_number || ' of 3 days (today and the next two) have their partition';
  fix := case when status = 'failed' then 'select monitor.ensure_sample_days();' end;
  return next;

  requirement := 'invocations a month';
  -- By a week: to go through all minutes of a month would take longer than all else here.
  select round(sum((select count(*) from monitor.cron_ticks(schedule, p_now, p_now + interval '7 days'))) * 30 / 7)
  into v_number
  from monitor.job_schedules
  where is_function;
  status := case when v_number <= 500000 then 'ok' else 'failed' end;
  detail := to_char(v_number, 'FM999,999,990') || ' by these schedules; the free plan has 500,000';
  fix := case when status = 'failed' then 'select monitor.set_schedule(''collect-metrics'', ''*/2 * * * *'');' end;
  return next;
end;
$$;

comment on function monitor.check_setup(timestamptz) is
  'One row a requirement of a working setup: requirement, status (ok, failed, unknown), detail, and the exact fix when it '
  'is not ok. Shows no secret.';

insert into monitor.metric_definitions (metric, category, unit, kind, detection_enabled, description)
values
  ('pgvigil_notifications_pending', 'monitoring', 'count', 'gauge', false, 'Messages that are still to be sent.'),
  ('pgvigil_notifications_parked', 'monitoring', 'count', 'gauge', false, 'Messages that were given up within the last 7 days.'),
  ('pgvigil_notification_delay_seconds', 'monitoring', 'seconds', 'gauge', false, 'How long the oldest message that is due has waited; 0 if none is.'),
  ('pgvigil_canary_due', 'monitoring', 'boolean', 'gauge', false, '1 from the hour of the daily canary on until it has fired; 0 else; no sample without a canary.'),
  ('pgvigil_canary_latency_seconds', 'monitoring', 'seconds', 'gauge', false, 'From the firing of the last canary to its delivery; no sample before one has arrived.'),
  ('pgvigil_canary_age_seconds', 'monitoring', 'seconds', 'gauge', false, 'How long ago the last canary arrived; no sample before one has.');

create or replace function monitor.collect_incidents_and_alerts(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  with outbox as (
    select
      count(*) filter (where notification.state = 'pending') as pending,
      count(*) filter (where notification.state = 'parked') as parked,
      coalesce(greatest(extract(epoch from p_at - min(greatest(notification.next_attempt_at, notification.lease_until))
        filter (where notification.state = 'pending' and channel.enabled)), 0), 0) as delay
    from (
      -- Each by its index.
      select state, channel, created_at, next_attempt_at, lease_until from monitor.notifications where state = 'pending'
      union all
      select state, channel, created_at, next_attempt_at, lease_until from monitor.notifications
      where state = 'parked' and created_at > p_at - interval '7 days'
    ) as notification
    left join monitor.notification_channels as channel using (channel)
  ), canary as (
    select notification.arrived_at, extract(epoch from notification.arrived_at - alert.fired_at) as latency
    from monitor.system_alerts as alert
    join monitor.notification_alerts as told using (alert_id)
    cross join lateral (
      select coalesce(delivered_at, sent_at) as arrived_at
      from monitor.notifications
      where notification_id = told.notification_id and state in ('sent', 'delivered')
    ) as notification
    where alert.name = 'PgvigilCanary'
    order by alert.fired_at desc
    limit 1
  )
  select
    monitor.sample('active_incidents', (select count(*) from monitor.incidents where resolved_at is null))
    || monitor.sample('unresolved_alerts', (
      select count(*) from monitor.system_alerts where resolved_at is null and state = 'firing' and mode = 'live'))
    || monitor.sample('pgvigil_failing_rules', (
      select case when count(evaluated_at) > 0 then count(*) filter (where health = 'err') end from monitor.rule_states))
    || monitor.sample('pgvigil_notifications_pending', (select pending from outbox))
    || monitor.sample('pgvigil_notifications_parked', (select parked from outbox))
    || monitor.sample('pgvigil_notification_delay_seconds', (select delay from outbox))
    || monitor.sample('pgvigil_canary_due', (
      select case when settings.canary_channel is not null then (
        extract(hour from p_at at time zone settings.time_zone) >= settings.canary_hour
          and alerting_state.canary_on is distinct from (p_at at time zone settings.time_zone)::date)::integer end
      from monitor.settings
      cross join monitor.alerting_state))
    || monitor.sample('pgvigil_canary_latency_seconds', (select greatest(latency, 0) from canary))
    || monitor.sample('pgvigil_canary_age_seconds', (select greatest(extract(epoch from p_at - arrived_at), 0) from canary));
$$;

comment on function monitor.collect_incidents_and_alerts(timestamptz) is
  'active_incidents, unresolved_alerts, pgvigil_failing_rules, and how messages and the canary fare.';

-- A function that is replaced loses its time-out. With the settings it has, which may be somebody's own.
select monitor.register_collector(
  collector, 'Open incidents, firing alerts, failing rules, messages', interval_seconds, timeout_seconds, required_relations)
from monitor.metric_collectors
where collector = 'collect_incidents_and_alerts';

revoke all on all functions in schema monitor from public;
