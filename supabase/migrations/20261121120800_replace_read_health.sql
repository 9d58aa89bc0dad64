-- Purpose:  rules that fail lastingly are part of health.
-- Locks:    none on existing tables.
-- Undo:     run read_health of 20261121100500 again, as create or replace, with the comment of 20261121091000.

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
    ));
$$;

comment on function monitor.read_health(timestamptz) is
  'Facts about scheduler, jobs, metrics, storage and rules, each with its time; judging them is shared/health''s. Within 3 s.';

revoke all on all functions in schema monitor from public;
