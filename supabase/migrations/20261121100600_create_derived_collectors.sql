-- Purpose:  metrics derived from what applications send, queues, and what ingestion holds.
-- Locks:    none on existing tables.
-- Undo:     delete from monitor.metric_collectors where collector in ('collect_http_server', 'collect_queues', 'collect_ingestion');
--           drop function monitor.collect_http_server(timestamptz), monitor.collect_queues(timestamptz),
--           monitor.collect_ingestion(timestamptz), monitor.recent_increases(text[], timestamptz).
--           The definitions stay, as do those of all metrics that have samples.
--
-- Each collector is a security definer as those of 20261121090800, and because pgmq is closed to service_role.

insert into monitor.metric_definitions
  (metric, category, unit, kind, minimum_change, detection_direction, is_ingestible, description)
values
  ('error_rate', 'performance', 'percent', 'gauge', 1, 'up', false, 'Share of HTTP requests answered with 5xx in the last 5 minutes, of each job and (without labels) of all; no sample when there was no request.'),
  ('api_response_time', 'performance', 'milliseconds', 'gauge', 50, 'up', false, 'Mean duration of the HTTP requests of the last 5 minutes, of each job and (without labels) of all; no sample when there was no request.'),
  ('api_error_count', 'performance', 'count', 'gauge', 5, 'up', false, 'HTTP requests answered with 5xx in the last 5 minutes, of each job and (without labels) of all; no sample when there was no request.'),
  ('rate_limit_violations', 'security', 'count', 'gauge', 5, 'up', false, 'HTTP requests answered with 429 in the last 5 minutes, of each job and (without labels) of all; no sample when there was no request.'),
  ('celery_queue_size', 'workflow', 'count', 'gauge', 10, 'up', true, 'Tasks that wait in a Celery queue: what the application sends, or the messages of a pgmq queue named celery or celery_….'),
  ('queue_depth', 'workflow', 'count', 'gauge', 10, 'up', true, 'Messages in a queue, those being worked on included: what the application sends, or each queue of pgmq.'),
  ('pgvigil_series_count', 'monitoring', 'count', 'gauge', 100, 'up', false, 'Series that the monitor knows.'),
  ('pgvigil_largest_metric_series_count', 'monitoring', 'count', 'gauge', 100, 'up', false, 'Series of the metric that has most of them, which the label names.'),
  ('pgvigil_overflow_samples_total', 'monitoring', 'count', 'counter', 0.01, 'up', false, 'Samples beyond a metric''s ceiling of series, which went to its overflow series; no sample of a metric that has none.');

create function monitor.recent_increases(p_metrics text[], p_at timestamptz)
returns table (metric text, labels jsonb, increase double precision)
language sql
stable
security invoker
set search_path = ''
as $$
  with known as (
    select
      series.series_id, series.metric, series.labels, series.last_sample_at,
      series.delta_total is not null as is_delta,
      -- New: its first value counts from 0. Not so what is there when a job is first heard of, by its processes one after
      -- another: that may have been counted long before. What we added up ourselves was not.
      series.created_at > p_at - interval '10 minutes' and (
        series.delta_total is not null
        or series.created_at
          > min(series.created_at) over (partition by series.labels ->> 'job') + interval '2 minutes') as is_new
    from monitor.metric_series as series
    where series.metric = any (p_metrics)
      -- Many sets of labels in one: nobody knows which status or job its values are of.
      and not series.labels ? 'otel_metric_overflow'
  )
  select known.metric, known.labels, window_of.increase
  from known
  -- By series, so that only its own few rows are read and not those of everybody's day.
  cross join lateral (
    select sum(case
        when step.previous <= step.value then step.value - step.previous
        -- Below its previous value it has started again at 0.
        when step.previous > step.value or known.is_new then greatest(step.value, 0)
      end) filter (where step.recorded_at > p_at - interval '5 minutes') as increase
    from (
      select sample.recorded_at, sample.value, coalesce(
        lag(sample.value) over (order by sample.recorded_at),
        -- Who sends deltas sends none while there is nothing to count: a gap is no absence.
        case when known.is_delta then (
          select before.value
          from monitor.metric_time_series as before
          where before.series_id = known.series_id and before.recorded_at < p_at - interval '10 minutes'
          order by before.recorded_at desc
          limit 1
        ) end) as previous
      from monitor.metric_time_series as sample
      where sample.series_id = known.series_id
        and sample.recorded_at >= p_at - interval '10 minutes' and sample.recorded_at <= p_at
    ) as step
  ) as window_of
  where known.last_sample_at > p_at - interval '5 minutes';
$$;

comment on function monitor.recent_increases(text[], timestamptz) is
  'How much each series of these counters grew in the 5 minutes up to p_at: the sum of its steps there, the first one from '
  'the last value at or before their start if that is at most 5 minutes older. After a reset the value itself counts. A '
  'series without such an older value starts with its first value; that counts whole if the series was made in these 10 '
  'minutes and more than 2 minutes after the first series of its job (a status that had never occurred), else not at '
  'all. A series of deltas starts with its last value of whatever age that is still a row, and counts its first one whole '
  'whenever it was made in these 10 minutes. Nothing is extrapolated. Null when nothing is known; series without a sample in the 5 minutes are left out, as '
  'are those for the excess of labels (otel_metric_overflow).';

create function monitor.collect_http_server(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  with counted as (
    select
      labels,
      metric like 'http\_server\_request\_%' as is_stable,
      sum(increase) filter (where metric like '%\_count') as requests,
      sum(case when metric like '%\_seconds\_sum' then increase * 1000 else increase end)
        filter (where metric like '%\_sum') as milliseconds
    from monitor.recent_increases(array[
      'http_server_request_duration_seconds_count', 'http_server_request_duration_seconds_sum',
      'http_server_duration_milliseconds_count', 'http_server_duration_milliseconds_sum'], p_at)
    group by labels, is_stable
  ), request as (
    select
      counted.*,
      labels ->> 'job' as job,
      coalesce(labels ->> 'http_response_status_code', labels ->> 'http_status_code', '') as status,
      -- In the time of change-over a process sends each request under both names.
      bool_or(is_stable) over (partition by labels ->> 'job', labels ->> 'instance') as has_stable
    from counted
  ), total as (
    select
      job,
      grouping(job) = 1 as is_overall,
      sum(requests) as requests,
      coalesce(sum(requests) filter (where status ~ '^5[0-9][0-9]$'), 0) as errors,
      coalesce(sum(requests) filter (where status = '429'), 0) as violations,
      sum(milliseconds) filter (where requests is not null) as milliseconds,
      sum(requests) filter (where milliseconds is not null) as timed_requests
    from request
    where is_stable or not has_stable
    group by grouping sets ((job), ())
    having sum(requests) > 0 -- no requests: no error rate, and neither a count that looks like health
  ), chosen as (
    -- Names of jobs come from outside; of too many those with most requests, each of them is in the total.
    select * from total
    where is_overall or job is not null
    order by is_overall desc, requests desc, job
    limit 51
  )
  select coalesce(jsonb_agg(sample), '[]')
  from chosen
  cross join lateral (
    select case when is_overall then '{}' else jsonb_build_object('job', job) end as labels
  ) as named
  cross join lateral jsonb_array_elements(
    monitor.sample('error_rate', 100 * errors / requests, labels)
    || monitor.sample('api_response_time', milliseconds / nullif(timed_requests, 0), labels)
    || monitor.sample('api_error_count', errors, labels)
    || monitor.sample('rate_limit_violations', violations, labels)
  ) as sample;
$$;

comment on function monitor.collect_http_server(timestamptz) is
  'error_rate, api_response_time, api_error_count and rate_limit_violations of the last 5 minutes, of all requests and of '
  'each {job} (at most 50, those with most requests), from what applications send as http.server.request.duration or, '
  'where a process does not send that, as the older http.server.duration in ms.';

create function monitor.collect_queues(p_at timestamptz)
returns jsonb
language plpgsql -- bound late: pgmq may be absent
stable
security definer
set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(sample), '[]')
    from (
      select queue_name, queue_length, jsonb_build_object('queue', queue_name) as labels
      from pgmq.metrics_all()
      order by queue_name
      limit 200 -- by name, so that they are the same every time
    ) as queue
    cross join lateral jsonb_array_elements(
      monitor.sample('queue_depth', queue.queue_length, queue.labels)
      || monitor.sample('celery_queue_size',
        case when queue.queue_name ~ '^celery(_|$)' then queue.queue_length end, queue.labels)
    ) as sample
  );
end;
$$;

comment on function monitor.collect_queues(timestamptz) is
  'queue_depth{queue} of each queue of pgmq (the first 200 by name), and celery_queue_size{queue} of those named celery '
  'or celery_….';

create function monitor.collect_ingestion(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  with counted as (
    select metric, count(*) as series_count, sum(overflow_samples) as overflow_samples
    from monitor.metric_series
    group by metric
  ), largest as (
    select metric, series_count from counted order by series_count desc, metric limit 1
  )
  select
    monitor.sample('pgvigil_series_count', coalesce((select sum(series_count) from counted), 0))
    || coalesce((
      select monitor.sample('pgvigil_largest_metric_series_count', series_count, jsonb_build_object('metric', metric))
      from largest), '[]')
    || coalesce((
      select jsonb_agg(sample order by metric)
      from counted
      cross join lateral jsonb_array_elements(monitor.sample(
        'pgvigil_overflow_samples_total', overflow_samples, jsonb_build_object('metric', metric))) as sample
      where overflow_samples > 0), '[]');
$$;

comment on function monitor.collect_ingestion(timestamptz) is
  'pgvigil_series_count, pgvigil_largest_metric_series_count{metric} of one metric, and pgvigil_overflow_samples_total{metric} '
  'of the metrics that have any.';

select monitor.register_collector('collect_http_server', 'Errors, duration and rate limits of HTTP requests');
select monitor.register_collector('collect_queues', 'Messages in the queues of pgmq', 60, 2, '{pgmq.meta}');
select monitor.register_collector('collect_ingestion', 'Series known, and samples beyond the ceilings', 300, 5);

revoke all on all functions in schema monitor from public;
