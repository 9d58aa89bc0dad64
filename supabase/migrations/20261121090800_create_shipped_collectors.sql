-- Purpose:  the metrics that every project gets, and the collectors that measure them.
-- Locks:    none on existing tables.
-- Undo:     drop function monitor.collect_…(timestamptz); delete their rows from monitor.metric_collectors.
--
-- Each is a security definer because statistics of other roles, pg_cron and pg_net are closed to service_role; each only
-- reads, which STABLE enforces. p_at is the minute the samples will carry.

-- Detection is off where a metric grows by its nature until something resets it.
insert into monitor.metric_definitions
  (metric, category, unit, kind, minimum_change, detection_enabled, detection_direction, description)
values
  ('database_connections', 'system', 'count', 'gauge', 5, true, 'up', 'Client connections, by state.'),
  ('cache_hit_rate', 'performance', 'percent', 'gauge', 5, true, 'down', 'Share of block reads served from memory since the previous sample.'),
  ('active_incidents', 'monitoring', 'count', 'gauge', 1, true, 'up', 'Incidents that are not resolved.'),
  ('unresolved_alerts', 'monitoring', 'count', 'gauge', 1, true, 'up', 'Alerts that are firing.'),
  ('pending_submissions', 'workflow', 'count', 'gauge', 5, true, 'up', 'Submissions that await moderation now.'),
  ('submission_approval_rate', 'workflow', 'percent', 'gauge', 10, true, 'both', 'Share of approved among the submissions decided in the last 24 hours; no sample when none was.'),
  ('avg_moderation_time', 'workflow', 'minutes', 'gauge', 10, true, 'up', 'Mean time from submission to decision of those decided in the last 24 hours; no sample when none was.'),
  ('pg_database_size_bytes', 'system', 'bytes', 'gauge', 10485760, true, 'both', 'Size of the database on disk.'),
  ('pg_stat_database_xact_commit_total', 'performance', 'count', 'counter', 1, true, 'both', 'Transactions committed.'),
  ('pg_stat_database_xact_rollback_total', 'performance', 'count', 'counter', 1, true, 'up', 'Transactions rolled back.'),
  ('pg_stat_database_deadlocks_total', 'performance', 'count', 'counter', 0.01, true, 'up', 'Deadlocks detected.'),
  ('pg_stat_database_blks_hit_total', 'performance', 'count', 'counter', 1000, true, 'both', 'Block reads served from memory.'),
  ('pg_stat_database_blks_read_total', 'performance', 'count', 'counter', 1000, true, 'up', 'Block reads that went to the operating system.'),
  ('pg_longest_transaction_seconds', 'performance', 'seconds', 'gauge', 30, true, 'up', 'Age of the oldest open transaction of a client, 0 when there is none.'),
  ('pg_replication_slot_lag_bytes', 'system', 'bytes', 'gauge', 10485760, true, 'up', 'Write-ahead log held back by the slot that is furthest behind; no sample without a slot.'),
  ('pg_transaction_id_age', 'system', 'count', 'gauge', 1000000, false, 'up', 'Transactions since the oldest unfrozen one of any database; writes stop near 2 billion.'),
  ('pg_cron_failed_runs', 'monitoring', 'count', 'gauge', 1, true, 'up', 'Runs of pg_cron jobs that failed in the last 5 minutes.'),
  ('pg_net_queue_length', 'monitoring', 'count', 'gauge', 10, true, 'up', 'HTTP requests that wait in pg_net''s queue.'),
  ('pg_net_responses', 'monitoring', 'count', 'gauge', 5, true, 'both', 'Answers that pg_net received in the last 5 minutes, by class: 2xx, 3xx, 4xx, 5xx, timeout, error.'),
  ('pgvigil_job_run_duration_seconds', 'monitoring', 'seconds', 'gauge', 1, true, 'up', 'Duration of the last finished run of a job.'),
  ('pgvigil_job_age_seconds', 'monitoring', 'seconds', 'gauge', 60, false, 'up', 'Time since a job last succeeded.'),
  ('pgvigil_storage_bytes', 'monitoring', 'bytes', 'gauge', 10485760, true, 'up', 'Disk space that the monitor itself takes, indexes included.');

create function monitor.collect_database_connections(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  -- Every state every time, with 0 when empty: a series that comes and goes cannot be compared with itself.
  select jsonb_agg(sample)
  from (
    select jsonb_array_elements(monitor.sample(
      'database_connections', count(backend.pid), jsonb_build_object('state', known.state))) as sample
    from unnest(array['active', 'idle', 'idle in transaction', 'idle in transaction (aborted)', 'other']) as known (state)
    left join (
      select pid, case
        when state in ('active', 'idle', 'idle in transaction', 'idle in transaction (aborted)') then state
        else 'other' end as state
      from pg_catalog.pg_stat_activity
      where backend_type = 'client backend' and datname = current_database()
    ) as backend using (state)
    group by known.state
  ) as samples;
$$;

comment on function monitor.collect_database_connections(timestamptz) is
  'database_connections{state}: client backends of this database.';

create function monitor.counter_increase(p_metric text, p_current double precision, p_at timestamptz)
returns double precision
language sql
stable
security invoker
set search_path = ''
as $$
  -- A counter below its previous value has started again at 0.
  select case when p_current >= previous.value then p_current - previous.value else p_current end
  from monitor.metric_series as series
  cross join lateral (
    select sample.value
    from monitor.metric_time_series as sample
    where sample.series_id = series.series_id
      and sample.recorded_at < p_at and sample.recorded_at >= p_at - interval '1 day'
    order by sample.recorded_at desc
    limit 1
  ) as previous
  where series.metric = p_metric and series.labels = '{}';
$$;

comment on function monitor.counter_increase(text, double precision, timestamptz) is
  'How much an unlabelled counter grew since its previous sample before p_at; null when there is none within a day.';

create function monitor.collect_database_counters(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  select
    monitor.sample('pg_stat_database_xact_commit_total', stat.xact_commit)
    || monitor.sample('pg_stat_database_xact_rollback_total', stat.xact_rollback)
    || monitor.sample('pg_stat_database_deadlocks_total', stat.deadlocks)
    || monitor.sample('pg_stat_database_blks_hit_total', stat.blks_hit)
    || monitor.sample('pg_stat_database_blks_read_total', stat.blks_read)
    -- Nothing read at all has no rate; the first sample of the counters has none either.
    || monitor.sample('cache_hit_rate', 100 * increase.hit / nullif(increase.hit + increase.read, 0))
  from pg_catalog.pg_stat_database as stat
  cross join lateral (
    select
      monitor.counter_increase('pg_stat_database_blks_hit_total', stat.blks_hit, p_at) as hit,
      monitor.counter_increase('pg_stat_database_blks_read_total', stat.blks_read, p_at) as read
  ) as increase
  where stat.datname = current_database();
$$;

comment on function monitor.collect_database_counters(timestamptz) is
  'pg_stat_database_*_total, and cache_hit_rate from what the block counters grew since their previous sample.';

create function monitor.collect_database_size(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  select monitor.sample('pg_database_size_bytes', pg_database_size(current_database()));
$$;

comment on function monitor.collect_database_size(timestamptz) is 'pg_database_size_bytes of this database.';

create function monitor.collect_transactions(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  -- The clock, not p_at: an open transaction is measured when it is seen.
  select
    monitor.sample('pg_longest_transaction_seconds', (
      select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)
      from pg_catalog.pg_stat_activity
      where backend_type = 'client backend' and pid <> pg_backend_pid()))
    || monitor.sample('pg_transaction_id_age', (select max(age(datfrozenxid)) from pg_catalog.pg_database));
$$;

comment on function monitor.collect_transactions(timestamptz) is 'pg_longest_transaction_seconds and pg_transaction_id_age.';

create function monitor.collect_replication_slots(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  select monitor.sample('pg_replication_slot_lag_bytes', (
    select max(pg_wal_lsn_diff(
      case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end, restart_lsn))
    from pg_catalog.pg_replication_slots));
$$;

comment on function monitor.collect_replication_slots(timestamptz) is 'pg_replication_slot_lag_bytes of the slot furthest behind.';

create function monitor.collect_cron_runs(p_at timestamptz)
returns jsonb
language plpgsql -- bound late: pg_cron may be absent
stable
security definer
set search_path = ''
as $$
begin
  return monitor.sample('pg_cron_failed_runs', (
    select count(*) from cron.job_run_details
    where status = 'failed' and end_time > p_at - interval '5 minutes'));
end;
$$;

comment on function monitor.collect_cron_runs(timestamptz) is
  'pg_cron_failed_runs, of the jobs that the owner of this schema scheduled.';

create function monitor.collect_http_requests(p_at timestamptz)
returns jsonb
language plpgsql -- bound late: pg_net may be absent
stable
security definer
set search_path = ''
as $$
begin
  return monitor.sample('pg_net_queue_length', (select count(*) from net.http_request_queue))
    || (
      select jsonb_agg(sample)
      from (
        select jsonb_array_elements(monitor.sample(
          'pg_net_responses', count(answer.class), jsonb_build_object('class', known.class))) as sample
        from unnest(array['2xx', '3xx', '4xx', '5xx', 'timeout', 'error']) as known (class)
        left join (
          select case
            when timed_out then 'timeout'
            when status_code between 200 and 599 then status_code / 100 || 'xx'
            else 'error' end as class
          from net._http_response
          where created > p_at - interval '5 minutes'
        ) as answer using (class)
        group by known.class
      ) as samples
    );
end;
$$;

comment on function monitor.collect_http_requests(timestamptz) is 'pg_net_queue_length and pg_net_responses{class}.';

create function monitor.collect_incidents_and_alerts(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  select
    monitor.sample('active_incidents', (select count(*) from monitor.incidents where resolved_at is null))
    || monitor.sample('unresolved_alerts', (select count(*) from monitor.system_alerts where resolved_at is null));
$$;

comment on function monitor.collect_incidents_and_alerts(timestamptz) is 'active_incidents and unresolved_alerts.';

create function monitor.collect_job_runs(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  select coalesce(jsonb_agg(sample), '[]')
  from monitor.job_schedules as schedule
  left join lateral (
    select extract(epoch from run.finished_at - run.started_at) as duration
    from monitor.job_runs as run
    where run.job = schedule.job and run.finished_at is not null and run.started_at is not null
      and run.scheduled_at > p_at - interval '2 days'
    order by run.scheduled_at desc
    limit 1
  ) as last_run on true
  cross join lateral jsonb_array_elements(
    monitor.sample('pgvigil_job_run_duration_seconds', last_run.duration, jsonb_build_object('job', schedule.job))
    || monitor.sample('pgvigil_job_age_seconds',
      case when schedule.last_succeeded_at is not null -- greatest() would make 0 of never
        then greatest(extract(epoch from p_at - schedule.last_succeeded_at), 0) end,
      jsonb_build_object('job', schedule.job))
  ) as sample;
$$;

comment on function monitor.collect_job_runs(timestamptz) is
  'pgvigil_job_run_duration_seconds{job} and pgvigil_job_age_seconds{job}; no sample for a job that never ran.';

create function monitor.collect_storage(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  select monitor.sample('pgvigil_storage_bytes', (
    select sum(pg_total_relation_size(oid))
    from pg_catalog.pg_class
    where relnamespace = 'monitor'::regnamespace and relkind in ('r', 'm')));
$$;

comment on function monitor.collect_storage(timestamptz) is 'pgvigil_storage_bytes: tables of this schema with indexes and TOAST.';

create function monitor.collect_submissions(p_at timestamptz)
returns jsonb
language plpgsql -- bound late: monitor.submissions is a view that an admin makes over his own table
stable
security definer
set search_path = ''
as $$
begin
  return (
    select
      monitor.sample('pending_submissions', count(*) filter (where status = 'pending'))
      || monitor.sample('submission_approval_rate',
        100.0 * count(*) filter (where decided and status = 'approved') / nullif(count(*) filter (where decided), 0))
      || monitor.sample('avg_moderation_time',
        avg(extract(epoch from reviewed_at - submitted_at) / 60) filter (where decided))
    from (
      select status, submitted_at, reviewed_at,
        status in ('approved', 'rejected')
          and reviewed_at > p_at - interval '24 hours' and reviewed_at <= p_at as decided
      from monitor.submissions
      where status = 'pending' or reviewed_at > p_at - interval '24 hours'
    ) as submission
  );
end;
$$;

comment on function monitor.collect_submissions(timestamptz) is
  'pending_submissions, submission_approval_rate and avg_moderation_time from the adapter view monitor.submissions '
  '(submitted_at timestamptz, reviewed_at timestamptz or null, status pending | approved | rejected).';

select monitor.register_collector('collect_database_connections', 'Client connections by state');
select monitor.register_collector('collect_database_counters', 'Transactions, deadlocks, block reads, cache hit rate');
select monitor.register_collector('collect_database_size', 'Size of the database', 300, 5);
select monitor.register_collector('collect_transactions', 'Longest transaction, transaction-id age');
select monitor.register_collector('collect_replication_slots', 'Replication slot lag');
select monitor.register_collector('collect_cron_runs', 'Failed runs of pg_cron', 60, 2, '{cron.job_run_details}');
select monitor.register_collector('collect_http_requests', 'Queue and answers of pg_net', 60, 2, '{net.http_request_queue,net._http_response}');
select monitor.register_collector('collect_incidents_and_alerts', 'Open incidents and firing alerts');
select monitor.register_collector('collect_job_runs', 'Duration and age of the monitor''s own jobs');
select monitor.register_collector('collect_storage', 'Disk space of the monitor', 300, 5);
select monitor.register_collector('collect_submissions', 'Submissions awaiting and decided', 60, 2, '{monitor.submissions}');

revoke all on all functions in schema monitor from public;
