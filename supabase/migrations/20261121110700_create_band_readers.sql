-- Purpose:  the band of a series for charts, and which other series deviated together with an anomaly.
-- Locks:    none.
-- Undo:     drop function monitor.read_bands(integer, integer, integer, timestamptz), monitor.read_related_series(bigint, integer),
--           monitor.interpolate(double precision[], double precision), monitor.per_second(bigint[], double precision[]);

create function monitor.per_second(p_times bigint[], p_values double precision[])
returns double precision[]
language sql
immutable
security invoker
set search_path = ''
as $$
  select array_agg(
    -- What overflows or vanishes is an error in Postgres, and one such sample would keep all others from being shown.
    case when abs(step.amount) < 1e-280 then 0 else step.amount * 1000 / (p_times[step.n] - p_times[step.n - 1]) end
    order by step.n)
  from (
    select pair.n,
      -- Below its previous value it has started again at 0.
      case when pair.value >= pair.previous then pair.value - pair.previous else pair.value end as amount
    from (
      select n, greatest(least(p_values[n], 1e280), -1e280) as value, greatest(least(p_values[n - 1], 1e280), -1e280) as previous
      from generate_series(2, cardinality(p_times)) as n
    ) as pair
  ) as step;
$$;

comment on function monitor.per_second(bigint[], double precision[]) is
  'The rate of a counter from each sample to the next, so one entry less; null of fewer than two. Times in ms, ascending.';

create function monitor.interpolate(p_steps double precision[], p_place double precision)
returns double precision
language sql
immutable
security invoker
set search_path = ''
as $$
  -- Halfway to the neighbour that is nearer, if there is one: steps are known at their centres.
  select case
    when p_place < 0 or p_place >= cardinality(p_steps) then null
    when abs(beside.value - own.value) > 1e-280
      then own.value + (beside.value - own.value) * abs(p_place - floor(p_place) - 0.5)
    else own.value
  end
  from (select floor(p_place)::integer + 1 as place) as step
  cross join lateral (
    -- Differences of larger ones would overflow, which is an error.
    select case when p_steps[step.place] is not null then greatest(least(p_steps[step.place], 1e300), -1e300) end as value
  ) as own
  cross join lateral (select step.place + sign(p_place - floor(p_place) - 0.5)::integer as place) as neighbour
  cross join lateral (
    select case when p_steps[neighbour.place] is not null then greatest(least(p_steps[neighbour.place], 1e300), -1e300) end as value
  ) as beside;
$$;

comment on function monitor.interpolate(double precision[], double precision) is
  'The value at p_place, counted in steps from where the first one begins, between the centres of the two nearest steps; null '
  'outside, and in a step that has none.';

create function monitor.read_bands(
  p_series_id  integer,
  p_samples    integer     default 288,
  p_hours      integer     default 6,
  p_now        timestamptz default now()
)
returns json
language plpgsql
stable
security invoker
set search_path = ''
set jit = off
as $$
declare
  v_series    record;
  v_forecast  record;
  v_times     bigint[];
  v_values    double precision[];
  v_look      interval;
begin
  if p_samples is null or p_samples not between 1 and 2000 or p_hours is null or p_hours not between 0 and 24 then
    raise exception 'p_samples must be from 1 to 2000 and p_hours from 0 to 24, got % and %', p_samples, p_hours
      using errcode = 'invalid_parameter_value', hint = 'A band reaches about a day back and a day ahead.';
  end if;
  select series.metric, series.labels, series.last_sample_at, definition.unit, definition.kind,
    saved.last_sample_at as as_of, saved.forecast,
    exists (
      select from monitor.anomaly_detections as anomaly where anomaly.series_id = p_series_id and anomaly.ended_at is null
    ) as is_anomalous
  into v_series
  from monitor.metric_series as series
  join monitor.metric_definitions as definition using (metric)
  left join monitor.detector_states as saved using (series_id)
  where series.series_id = p_series_id;
  if not found then
    raise exception 'no such series: %', p_series_id
      using errcode = 'no_data_found', hint = 'monitor.match_series tells the ids of series.';
  end if;

  -- A day of them is mostly enough.
  foreach v_look in array array[interval '25 hours', interval '8 days', interval '30 days'] loop
    select scanned.times, scanned.samples into v_times, v_values
    from monitor.scan_series(
      array[p_series_id], v_series.last_sample_at - v_look, v_series.last_sample_at + interval '1 millisecond') as scanned;
    exit when cardinality(v_times) > p_samples;
  end loop;
  if v_series.kind = 'counter' then
    v_values := monitor.per_second(v_times, v_values);
    v_times := v_times[2:];
  end if;
  v_values := v_values[greatest(1, cardinality(v_values) - p_samples + 1):];
  v_times := v_times[greatest(1, cardinality(v_times) - p_samples + 1):];

  select
    (v_series.forecast ->> 'from')::double precision as begins_ms,
    (v_series.forecast ->> 'stepMs')::double precision as step_ms,
    (select array_agg(step::double precision order by n)
      from jsonb_array_elements_text(v_series.forecast -> 'expected') with ordinality as item (step, n)) as expected,
    (select array_agg(step::double precision order by n)
      from jsonb_array_elements_text(v_series.forecast -> 'lower') with ordinality as item (step, n)) as lower,
    (select array_agg(step::double precision order by n)
      from jsonb_array_elements_text(v_series.forecast -> 'upper') with ordinality as item (step, n)) as upper
  into v_forecast;

  return (
    with shown as (
      select time.n, time.at, v_values[time.n] as value, (time.at - v_forecast.begins_ms) / v_forecast.step_ms as place
      from unnest(v_times) with ordinality as time (at, n)
    )
    select json_build_object(
      'unit', v_series.unit, 'metric', v_series.metric, 'labels', v_series.labels,
      'samples', (
        select json_build_object(
          'times', coalesce(json_agg(shown.at order by shown.n), '[]'),
          'values', coalesce(json_agg(shown.value order by shown.n), '[]'),
          'expected', coalesce(json_agg(monitor.interpolate(v_forecast.expected, shown.place) order by shown.n), '[]'),
          'lower', coalesce(json_agg(monitor.interpolate(v_forecast.lower, shown.place) order by shown.n), '[]'),
          'upper', coalesce(json_agg(monitor.interpolate(v_forecast.upper, shown.place) order by shown.n), '[]'))
        from shown),
      'coming', (
        select json_build_object(
          'times', coalesce(json_agg(step.at order by step.n), '[]'),
          'expected', coalesce(json_agg(v_forecast.expected[step.n] order by step.n), '[]'),
          'lower', coalesce(json_agg(v_forecast.lower[step.n] order by step.n), '[]'),
          'upper', coalesce(json_agg(v_forecast.upper[step.n] order by step.n), '[]'))
        from (
          select n, (v_forecast.begins_ms + (n - 0.5) * v_forecast.step_ms)::bigint as at
          from generate_series(1, cardinality(v_forecast.expected)) as n
        ) as step
        where step.at > monitor.epoch_ms(v_series.last_sample_at)
          and step.at <= monitor.epoch_ms(p_now + make_interval(hours => p_hours))),
      'as_of', monitor.epoch_ms(v_series.as_of),
      'status', case
        when v_series.is_anomalous then 'anomaly'
        when v_series.forecast is null then 'insufficient_data'
        else 'normal' end));
end;
$$;

comment on function monitor.read_bands(integer, integer, integer, timestamptz) is
  'What a chart of a series needs: {unit, metric, labels, samples: {times, values, expected, lower, upper}, coming: {times, '
  'expected, lower, upper}, as_of, status}. Samples are the newest p_samples (1-2,000) of its last 30 days with what was expected of '
  'them and the band around it, null where not known; coming is what is expected from then on until p_hours (0-24) from now. A '
  'counter is shown as its rate per second. Times in ms; as_of is the newest sample judged. status: insufficient_data (no band yet), '
  'normal, anomaly (one is open). Errors: 22023 for an argument out of range, P0002 for an unknown series.';

create function monitor.read_related_series(p_anomaly_id bigint, p_limit integer default 20)
returns json
language plpgsql
stable
security invoker
set search_path = ''
set jit = off
as $$
declare
  c_series_limit constant integer := 2000;
  c_batch        constant integer := 100;
  c_batch_budget constant interval := interval '0.5 seconds'; -- longer than that, the next batch is smaller
  c_time_budget  constant interval := interval '5 seconds';
  c_before       constant interval := interval '24 hours';
  c_baseline     constant integer := 288;  -- entries that the day before is thinned out to
  c_enough       constant integer := 12;   -- fewer tell nothing
  c_remarkable   constant double precision := 3;
  c_most         constant double precision := 1000; -- beyond that, more is not stranger
  v_began_at   timestamptz := clock_timestamp();
  v_batch_at   timestamptz;
  v_size       integer := 10; -- at a sample a second, some hundred thousand of them
  v_series_id  integer;
  v_started    timestamptz;
  v_since      timestamptz;
  v_until      timestamptz;
  v_series     integer[];
  v_found      json[] := '{}';
  v_batch      json[];
begin
  if p_limit is null or p_limit not between 1 and 100 then
    raise exception 'p_limit must be from 1 to 100, got %', p_limit
      using errcode = 'invalid_parameter_value', hint = 'The strongest come first.';
  end if;
  select anomaly.series_id, anomaly.started_at, anomaly.started_at - interval '30 minutes',
    least(anomaly.last_seen_at, anomaly.started_at + interval '2 hours') + interval '1 millisecond'
  into v_series_id, v_started, v_since, v_until
  from monitor.anomaly_detections as anomaly
  where anomaly.anomaly_id = p_anomaly_id;
  if not found then
    raise exception 'no such anomaly: %', p_anomaly_id
      using errcode = 'no_data_found', hint = 'Those that went to the archive have lost their neighbours'' samples.';
  end if;

  -- Those of the same labels first: of all that may be too many, they are the likeliest.
  v_series := array(
    select series.series_id
    from monitor.metric_series as series
    join monitor.metric_definitions as definition using (metric)
    cross join (select labels from monitor.metric_series where series_id = v_series_id) as own
    where series.series_id <> v_series_id and definition.detection_enabled
      and series.last_sample_at >= v_since
    order by (
      select count(*) from jsonb_each(series.labels) as label where own.labels -> label.key = label.value
    ) desc, series.series_id
    limit c_series_limit);

  while cardinality(v_series) > 0 and clock_timestamp() < v_began_at + c_time_budget loop
    v_batch_at := clock_timestamp();
    select array_agg(related.entry) into v_batch
    from (
      with scanned as materialized (
        select found.series_id, series.metric, series.labels, definition.kind = 'counter' as is_counter,
          found.times, found.samples,
          -- Where the window begins, and every how many samples one is taken before it.
          (select count(*)::integer from unnest(found.times) as at where at < monitor.epoch_ms(v_since)) as before
        from monitor.scan_series(v_series[:v_size], v_since - c_before, v_until) as found
        join monitor.metric_series as series using (series_id)
        join monitor.metric_definitions as definition using (metric)
      ), rated as materialized (
        select scanned.series_id, scanned.metric, scanned.labels, thin.samples as baseline, shown.times, shown.samples
        from scanned
        cross join lateral (
          select array_agg(scanned.times[n] order by n) as times, array_agg(scanned.samples[n] order by n) as samples
          from generate_series(1, scanned.before, greatest(1, scanned.before / c_baseline)) as n
        ) as picked
        cross join lateral (
          select case when scanned.is_counter then monitor.per_second(picked.times, picked.samples) else picked.samples end as samples
        ) as thin
        cross join lateral (
          select
            scanned.times[scanned.before + 1:] as times,
            case when scanned.is_counter
              then monitor.per_second(scanned.times[scanned.before:], scanned.samples[scanned.before:])
              else scanned.samples[scanned.before + 1:] end as samples
        ) as shown
        where cardinality(thin.samples) >= c_enough and cardinality(shown.times) > 0
      ), usual as materialized (
        select rated.series_id, at.quantiles[3] as middle, greatest(
          (at.quantiles[4] - at.quantiles[2]) / 1.349, (at.quantiles[5] - at.quantiles[1]) / 3.29,
          abs(at.quantiles[3]) * 0.01, 1e-9) as spread
        from rated
        cross join lateral (
          -- Beyond that, differences would overflow, which is an error: one odd series would hide all others.
          select percentile_cont(array[0.05, 0.25, 0.5, 0.75, 0.95]) within group (
            order by case when abs(value) < 1e-280 then 0 else greatest(least(value, 1e280), -1e280) end) as quantiles
          from unnest(rated.baseline) as value
        ) as at
      ), deviating as (
        select distinct on (rated.series_id) rated.series_id, rated.metric, rated.labels, strange.at, strange.z,
          min(strange.at) over (partition by rated.series_id) as first_at
        from rated
        join usual using (series_id)
        cross join lateral (
          select away.at, away.amount / usual.spread as z
          from (
            select sample.at, greatest(least(sample.value, 1e280), -1e280) - usual.middle as amount
            from unnest(rated.times, rated.samples) as sample (at, value)
            offset 0 -- so that only what is remarkable is divided
          ) as away
          where abs(away.amount) >= c_remarkable * usual.spread
        ) as strange
        order by rated.series_id, abs(strange.z) desc, strange.at
      )
      select json_build_object(
        'series_id', deviating.series_id, 'metric', deviating.metric, 'labels', deviating.labels,
        'deviation', round(least(abs(deviating.z), c_most)::numeric, 2)::double precision,
        'lead_seconds', (deviating.first_at - monitor.epoch_ms(v_started)) / 1000::double precision,
        'direction', case when deviating.z > 0 then 'up' else 'down' end,
        'open_anomaly_id', (
          select open.anomaly_id from monitor.anomaly_detections as open
          where open.series_id = deviating.series_id and open.ended_at is null)) as entry
      from deviating
    ) as related;
    v_found := v_found || coalesce(v_batch, '{}');
    v_series := v_series[v_size + 1:];
    v_size := case
      when clock_timestamp() < v_batch_at + c_batch_budget then least(v_size * 2, c_batch)
      else greatest(v_size / 4, 1) end;
  end loop;

  return (
    select coalesce(json_agg(ranked.entry order by ranked.deviation desc, ranked.lead, ranked.series_id), '[]')
    from (
      select entry, (entry ->> 'deviation')::double precision as deviation, abs((entry ->> 'lead_seconds')::double precision) as lead,
        (entry ->> 'series_id')::integer as series_id
      from unnest(v_found) as entry
      order by 2 desc, 3, 4
      limit p_limit
    ) as ranked);
end;
$$;

comment on function monitor.read_related_series(bigint, integer) is
  'Other series that deviated around the start of an anomaly, the strongest first: [{series_id, metric, labels, deviation, '
  'lead_seconds, direction, open_anomaly_id}], at most p_limit (1-100). Looked at is the time from 30 minutes before its start to '
  'its newest suspicious sample, 2 hours at most, against the 24 hours before; deviation is the farthest value from their median in '
  'robust standard deviations, 3 to 1,000; lead_seconds is when it first went beyond 3, negative before the anomaly began. A counter '
  'is judged by its rate. At most 2,000 series within some 5 s, those with the same labels first. Errors: 22023 for a wrong p_limit, '
  'P0002 for an unknown or archived anomaly.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.per_second(bigint[], double precision[]),
  monitor.interpolate(double precision[], double precision),
  monitor.read_bands(integer, integer, integer, timestamptz),
  monitor.read_related_series(bigint, integer)
to authenticated, service_role;
