-- Purpose:  the readers over rows, chunks, late samples and rollups alike.
-- Locks:    none.
-- Undo:     drop function monitor.read_samples(jsonb, timestamptz, timestamptz, integer, integer), monitor.read_buckets(jsonb,
--           timestamptz, timestamptz, interval, integer, integer), monitor.scan_series(integer[], timestamptz, timestamptz),
--           monitor.scan_rollups(integer[], timestamptz, timestamptz), monitor.read_latest(jsonb, integer, integer);
--           run 20261121090300's read_samples and read_buckets, 20261121090600's missing_evidence and read_detection_page again.

create function monitor.scan_series(p_series_ids integer[], p_from timestamptz, p_until timestamptz)
returns table (series_id integer, times bigint[], samples double precision[])
language sql
stable
security invoker
set search_path = ''
set jit = off -- compiling takes longer than a page does
as $$
  with day as materialized (
    select known.day, known.state, monitor.utc_midnight(known.day) as starts_at,
      greatest(p_from, monitor.utc_midnight(known.day)) as since,
      least(p_until, monitor.utc_midnight(known.day + 1)) as until,
      p_from <= monitor.utc_midnight(known.day) and p_until >= monitor.utc_midnight(known.day + 1) as is_whole
    from monitor.sample_days as known
    where known.day >= (p_from at time zone 'UTC')::date and monitor.utc_midnight(known.day) < p_until
      and known.state <> 'dropped'
  ), grid as materialized ( -- decoded once for all series that share it
    select used.times_id, clock.times
    from (
      -- Not all of these days: where senders keep their own time there are as many as series.
      select distinct chunk.times_id, day.starts_at
      from day
      join monitor.metric_chunks as chunk on chunk.day = day.day and chunk.series_id = any (p_series_ids)
      where day.state = 'chunks'
    ) as used
    join monitor.chunk_times as times using (times_id)
    cross join lateral (
      select array_agg((date_part('epoch', used.starts_at) * 1000)::bigint + at) as times
      from unnest(monitor.decode_times(times.steps)) as at
    ) as clock
  )
  select wanted.series_id, sorted.times, sorted.samples
  from unnest(p_series_ids) as wanted (series_id)
  cross join lateral (
    select exists (
      select from monitor.late_samples as late
      where late.series_id = wanted.series_id and late.recorded_at >= p_from and late.recorded_at < p_until) as has_late
  ) as late
  cross join lateral (
    -- Day by day, each in order: so nothing is sorted sample by sample, which would take a third of the time.
    select array_agg(sample.at) as times, array_agg(sample.value) as samples
    from (
      select unnest(piece.times) as at, unnest(piece.samples) as value
      from (
        select day.day, cut.times, cut.samples
        from day
        join monitor.metric_chunks as chunk on chunk.series_id = wanted.series_id and chunk.day = day.day
        join grid on grid.times_id = chunk.times_id
        cross join lateral (
          select monitor.decode_values(
            chunk.scale, chunk.base, chunk.is_delta, chunk.plane_0, chunk.plane_1, chunk.plane_2, chunk.plane_3, chunk.floats
          ) as samples
          offset 0 -- decoded once
        ) as whole
        cross join lateral (
          select grid.times, whole.samples where day.is_whole
          union all
          select array_agg(inside.at), array_agg(inside.value)
          from unnest(grid.times, whole.samples) as inside (at, value)
          where inside.at >= date_part('epoch', day.since) * 1000 and inside.at < date_part('epoch', day.until) * 1000
          having not day.is_whole
        ) as cut
        where day.state = 'chunks'
        union all
        select day.day, open.times, open.samples
        from day
        cross join lateral (
          select array_agg(ordered.at) as times, array_agg(ordered.value) as samples
          from (
            select (date_part('epoch', row.recorded_at) * 1000)::bigint as at, row.value
            from monitor.metric_time_series as row
            where row.series_id = wanted.series_id and row.recorded_at >= day.since and row.recorded_at < day.until
            order by row.recorded_at
          ) as ordered
        ) as open
        where day.state in ('rows', 'sealed')
        union all
        select 'infinity', came.times, came.samples
        from (
          select array_agg((date_part('epoch', recorded_at) * 1000)::bigint) as times, array_agg(value) as samples
          from monitor.late_samples
          where late.has_late and series_id = wanted.series_id and recorded_at >= p_from and recorded_at < p_until
        ) as came
        order by 1
      ) as piece
    ) as sample
  ) as gathered
  cross join lateral (
    select gathered.times, gathered.samples where not late.has_late
    union all
    select array_agg(sample.at order by sample.at), array_agg(sample.value order by sample.at)
    from unnest(gathered.times, gathered.samples) as sample (at, value)
    having late.has_late
  ) as sorted
  where sorted.times is not null;
$$;

comment on function monitor.scan_series(integer[], timestamptz, timestamptz) is
  'Samples of each series with p_from <= time < p_until, oldest first, wherever they lie: times in epoch ms, and values. '
  'A row a series that has any, so for use in SQL; whoever reads over the API takes read_samples.';

drop function monitor.read_samples(jsonb, timestamptz, timestamptz, integer, integer);

create function monitor.read_samples(
  p_matchers         jsonb,
  p_from             timestamptz,
  p_until            timestamptz,
  p_after_series_id  integer default 0,
  p_limit            integer default 1000
)
returns json -- not jsonb: that would turn every number into a decimal and back
language sql
stable
security invoker
set search_path = ''
set jit = off
as $$
  with page as materialized (
    select * from monitor.match_series(p_matchers, p_after_series_id, monitor.bounded_page(p_limit, p_from, p_until))
  ), found as materialized (
    select * from monitor.scan_series((select array_agg(series_id) from page), p_from, p_until)
  ), clock as materialized ( -- written once for all series that were sampled at the same times
    select shared.times, array_to_json(shared.times) as text from (select distinct times from found) as shared
  )
  select json_build_object(
    'series', coalesce(
      json_agg(json_build_object(
        'series_id', page.series_id, 'metric', page.metric, 'labels', page.labels,
        'times', clock.text, 'values', found.samples
      ) order by page.series_id) filter (where found.times is not null), '[]'),
    'next_series_id', case
      when count(*) = monitor.bounded_page(p_limit, p_from, p_until) then max(page.series_id) end)
  from page
  left join found using (series_id)
  left join clock using (times);
$$;

comment on function monitor.read_samples(jsonb, timestamptz, timestamptz, integer, integer) is
  'Samples of the matching series with p_from <= time < p_until, oldest first: '
  '{series: [{series_id, metric, labels, times: [epoch ms], values: []}], next_series_id}. Series without samples are '
  'left out; next_series_id is null on the last page, else pass it as p_after_series_id. A page over a long range holds '
  'fewer series than p_limit (monitor.bounded_page). Errors as match_series.';

create function monitor.scan_rollups(p_series_ids integer[], p_from timestamptz, p_until timestamptz)
returns table (
  series_id integer, at bigint, count bigint, sum double precision, min double precision, max double precision,
  first double precision, last double precision)
language sql
stable
security invoker
set search_path = ''
set jit = off
as $$
  select kept.series_id, kept.starts_ms + present.hour * 3600000, present.count,
    case when kept.scale is null then kept.stats[present.place] else
      round((kept.stats[present.place] + present.count * kept.stats[present.place + kept.width]) * 10::double precision ^ kept.scale)
        / 10::double precision ^ kept.scale end,
    kept.stats[present.place + kept.width],
    kept.stats[present.place + 2 * kept.width],
    kept.stats[present.place + 3 * kept.width],
    kept.stats[present.place + 4 * kept.width]
  from (
    select rollup.series_id, rollup.hours, rollup.counts, rollup.sample_count, rollup.scale,
      bit_count(rollup.hours::bit(24)) as width,
      (date_part('epoch', monitor.utc_midnight(rollup.day)) * 1000)::bigint as starts_ms,
      monitor.decode_values(rollup.scale, rollup.base, rollup.is_delta,
        rollup.plane_0, rollup.plane_1, rollup.plane_2, rollup.plane_3, rollup.floats) as stats
    from monitor.metric_rollups as rollup
    where rollup.series_id = any (p_series_ids)
      and rollup.day >= (p_from at time zone 'UTC')::date and rollup.day <= (p_until at time zone 'UTC')::date
    offset 0 -- decoded once, not for each number taken from it
  ) as kept
  cross join lateral (
    select numbered.hour, numbered.place, coalesce(kept.counts[numbered.place], kept.sample_count / kept.width) as count
    from (
      select hour, row_number() over (order by hour) as place
      from generate_series(0, 23) as hour
      where (kept.hours >> hour) & 1 = 1
    ) as numbered
  ) as present
  where kept.starts_ms + present.hour * 3600000 >= date_part('epoch', p_from) * 1000
    and kept.starts_ms + present.hour * 3600000 < date_part('epoch', p_until) * 1000;
$$;

comment on function monitor.scan_rollups(integer[], timestamptz, timestamptz) is
  'The hours of each series that start within p_from <= start < p_until, of days that have rollups, as they were when the day '
  'was compacted. For use in SQL: read_buckets knows when they may be used.';

drop function monitor.read_buckets(jsonb, timestamptz, timestamptz, interval, integer, integer);

create function monitor.read_buckets(
  p_matchers         jsonb,
  p_from             timestamptz,
  p_until            timestamptz,
  p_step             interval,
  p_after_series_id  integer default 0,
  p_limit            integer default 1000
)
returns json
language plpgsql
stable
security invoker
set search_path = ''
set jit = off
as $$
declare
  v_step_ms     bigint;
  v_is_hourly   boolean;
  v_page_size   integer;
  v_series_ids  integer[];
  -- Whole hours from v_whole_from to v_whole_until may come from rollups, what is before and after does not.
  v_whole_from   timestamptz;
  v_whole_until  timestamptz;
  v_result      json;
begin
  if p_step is null or p_step < interval '1 second' or p_from is null or p_until is null
     or extract(year from p_step) <> 0 or extract(month from p_step) <> 0 -- they differ in length
     or extract(epoch from p_until - p_from) / extract(epoch from p_step) > 11000 then
    raise exception 'p_step must be at least 1 second, without months, and cut the range into at most 11,000 buckets'
      using errcode = 'invalid_parameter_value', hint = 'Use a larger step or a shorter range, and days for months.';
  end if;
  v_step_ms := (extract(epoch from p_step) * 1000)::bigint;
  v_is_hourly := v_step_ms % 3600000 = 0;

  -- Up to the first day that is still in rows; sealed ones are.
  v_whole_from := date_bin('1 hour', p_from + interval '1 hour' - interval '1 microsecond', timestamptz '1970-01-01 00:00:00+00');
  v_whole_until := greatest(v_whole_from, least(
    date_bin('1 hour', p_until, timestamptz '1970-01-01 00:00:00+00'),
    coalesce((select monitor.utc_midnight(min(day)) from monitor.sample_days where state in ('rows', 'sealed')), p_until)));

  -- An hour of a rollup costs about as much as a minute's sample.
  v_page_size := case when v_is_hourly
    then monitor.bounded_page(p_limit, p_from + (v_whole_until - v_whole_from) * 59 / 60, p_until)
    else monitor.bounded_page(p_limit, p_from, p_until) end;
  select array_agg(series_id) into v_series_ids
  from monitor.match_series(p_matchers, p_after_series_id, v_page_size);

  with gone as materialized (
    -- Days of which only rollups are left, also those that nobody remembers.
    select distinct rollup.day
    from monitor.metric_rollups as rollup
    where not v_is_hourly and rollup.series_id = any (v_series_ids)
      and rollup.day between (v_whole_from at time zone 'UTC')::date and (v_whole_until at time zone 'UTC')::date
      and not exists (select from monitor.sample_days as known where known.day = rollup.day and known.state <> 'dropped')
  ), changed as materialized (
    -- Hours that a late sample has changed since.
    select distinct late.series_id, date_bin('1 hour', late.recorded_at, timestamptz '1970-01-01 00:00:00+00') as hour
    from monitor.late_samples as late
    where v_is_hourly and late.series_id = any (v_series_ids)
      and late.recorded_at >= v_whole_from and late.recorded_at < v_whole_until
  ), part as (
    select rollup.series_id, rollup.at as first_at, rollup.at as last_at,
      rollup.count, rollup.sum, rollup.min, rollup.max, rollup.first, rollup.last
    from monitor.scan_rollups(v_series_ids, v_whole_from, v_whole_until) as rollup
    where case when v_is_hourly
      then not exists (
        select from changed
        where changed.series_id = rollup.series_id and date_part('epoch', changed.hour) * 1000 = rollup.at)
      else (to_timestamp(rollup.at / 1000) at time zone 'UTC')::date in (select day from gone) end
    union all
    select raw.series_id, raw.at, raw.at, 1, greatest(least(raw.value, 1e290), -1e290), raw.value, raw.value, raw.value, raw.value
    from (
      select edge.series_id, unnest(edge.times) as at, unnest(edge.samples) as value
      from (values
        (p_from, case when v_is_hourly then least(v_whole_from, p_until) else p_until end),
        (case when v_is_hourly then greatest(v_whole_until, p_from) end, p_until)
      ) as range (since, until)
      cross join lateral monitor.scan_series(v_series_ids, range.since, range.until) as edge
      where range.since < range.until
      union all
      select again.series_id, again.at, again.value
      from (
        -- A day at a time: an hour of it costs as much, since its chunk is one.
        select scanned.series_id, unnest(scanned.times) as at, unnest(scanned.samples) as value
        from (
          select date_bin('1 day', changed.hour, timestamptz '1970-01-01 00:00:00+00') as midnight,
            array_agg(distinct changed.series_id) as series_ids
          from changed
          group by 1
        ) as day
        cross join lateral monitor.scan_series(day.series_ids,
          greatest(day.midnight, v_whole_from), least(day.midnight + interval '24 hours', v_whole_until)) as scanned
      ) as again
      join changed on changed.series_id = again.series_id
        and changed.hour = to_timestamp((again.at - ((again.at % 3600000) + 3600000) % 3600000) / 1000)
    ) as raw
  ), bucket as (
    select part.series_id, part.first_at - ((part.first_at % v_step_ms) + v_step_ms) % v_step_ms as starts_ms,
      sum(part.count)::bigint as count, sum(part.sum) as sum, min(part.min) as min, max(part.max) as max,
      (array_agg(part.first order by part.first_at))[1] as first,
      (array_agg(part.last order by part.last_at desc))[1] as last
    from part
    group by 1, 2
  ), per_series as (
    select
      bucket.series_id,
      array_agg(bucket.starts_ms order by bucket.starts_ms) as times,
      array_agg(bucket.count order by bucket.starts_ms) as counts,
      array_agg(bucket.sum order by bucket.starts_ms) as sums,
      array_agg(bucket.min order by bucket.starts_ms) as mins,
      array_agg(bucket.max order by bucket.starts_ms) as maxs,
      array_agg(bucket.first order by bucket.starts_ms) as firsts,
      array_agg(bucket.last order by bucket.starts_ms) as lasts
    from bucket
    group by bucket.series_id
  )
  select json_build_object(
    'series', coalesce(
      (select json_agg(json_build_object(
        'series_id', per_series.series_id, 'metric', series.metric, 'labels', series.labels,
        'times', per_series.times, 'counts', per_series.counts, 'sums', per_series.sums,
        'mins', per_series.mins, 'maxs', per_series.maxs, 'firsts', per_series.firsts, 'lasts', per_series.lasts
      ) order by per_series.series_id)
      from per_series join monitor.metric_series as series using (series_id)), '[]'),
    'next_series_id', case
      when cardinality(v_series_ids) = v_page_size then v_series_ids[cardinality(v_series_ids)] end)
  into v_result;
  return v_result;
end;
$$;

comment on function monitor.read_buckets(jsonb, timestamptz, timestamptz, interval, integer, integer) is
  'As read_samples, gathered in buckets of p_step that start at whole multiples of it since 1970 UTC: times (start, '
  'epoch ms), counts, sums, mins, maxs, firsts, lasts, one entry a bucket that has samples. Whole hours of days that have '
  'closed come from rollups when p_step is whole hours; where only rollups are left, a shorter bucket holds the hour that '
  'starts in it, and an hour that p_from or p_until cuts is left out. In sums a value counts as 1e290 at most. '
  'Errors: 22023 for a step under a second or of months, or more than 11,000 buckets, else as match_series.';

create function monitor.read_latest(
  p_matchers         jsonb,
  p_after_series_id  integer default 0,
  p_limit            integer default 1000
)
returns json
language sql
stable
security invoker
set search_path = ''
set jit = off
as $$
  with page as materialized (
    select matched.*, series.last_sample_at
    from monitor.match_series(p_matchers, p_after_series_id, p_limit) as matched
    join monitor.metric_series as series using (series_id)
  ), in_rows as materialized (
    select page.*, (
      select sample.value from monitor.metric_time_series as sample
      where sample.series_id = page.series_id and sample.recorded_at = page.last_sample_at) as value
    from page
  ), closed as (
    -- Those of a day that is closed, together: looked up one by one, each would cost as much as all.
    select scanned.series_id, scanned.times, scanned.samples
    from (
      select (last_sample_at at time zone 'UTC')::date as day, array_agg(series_id) as series_ids,
        min(last_sample_at) as since, max(last_sample_at) + interval '1 millisecond' as until
      from in_rows
      where value is null and last_sample_at is not null
      group by 1
    ) as day
    cross join lateral monitor.scan_series(day.series_ids, day.since, day.until) as scanned
  ), newest as (
    select in_rows.series_id, in_rows.metric, in_rows.labels, in_rows.last_sample_at,
      coalesce(in_rows.value, case
        when closed.times[cardinality(closed.times)] = monitor.epoch_ms(in_rows.last_sample_at)
          then closed.samples[cardinality(closed.samples)]
        else closed.samples[array_position(closed.times, monitor.epoch_ms(in_rows.last_sample_at))] end) as value
    from in_rows
    left join closed using (series_id)
  )
  select json_build_object(
    'series', coalesce(
      json_agg(json_build_object(
        'series_id', series_id, 'metric', metric, 'labels', labels,
        'time', (date_part('epoch', last_sample_at) * 1000)::bigint, 'value', value
      ) order by series_id) filter (where value is not null), '[]'),
    'next_series_id', case when count(*) = p_limit then max(series_id) end)
  from newest;
$$;

comment on function monitor.read_latest(jsonb, integer, integer) is
  'The newest sample of each matching series, however old: {series: [{series_id, metric, labels, time: epoch ms, value}], '
  'next_series_id}. Series whose newest sample is gone are left out. Errors as match_series.';

create or replace function monitor.missing_evidence(p_anomaly_id bigint)
returns setof monitor.evidence_samples
language sql
stable
security invoker
set search_path = ''
as $$
  -- A long anomaly is shown by its two ends; its middle would be a copy of the table.
  with shown as (
    select anomaly.anomaly_id, anomaly.series_id, span.since, span.until
    from monitor.anomaly_detections as anomaly
    cross join lateral (
      select coalesce(anomaly.ended_at, anomaly.last_seen_at) as last_at
    ) as ended
    cross join lateral (
      select range_agg(tstzrange(at - interval '2 hours', at + interval '2 hours', '[]')) as spans
      from unnest(array[anomaly.started_at, ended.last_at]) as at
    ) as ends
    cross join lateral (
      select lower(part) as since, upper(part) + interval '1 millisecond' as until from unnest(ends.spans) as part
    ) as span
    where anomaly.anomaly_id = p_anomaly_id
  )
  select 'anomaly', shown.anomaly_id, shown.series_id, to_timestamp(sample.at / 1000.0), sample.value
  from shown
  cross join lateral monitor.scan_series(array[shown.series_id], shown.since, shown.until) as found
  cross join lateral unnest(found.times, found.samples) as sample (at, value)
  where not exists (
    select from monitor.evidence_samples as known
    where known.owner_kind = 'anomaly' and known.owner_id = shown.anomaly_id
      and known.series_id = shown.series_id and known.recorded_at = to_timestamp(sample.at / 1000.0)
  );
$$;

create or replace function monitor.read_detection_page(
  p_after_series_id  integer     default 0,
  p_limit            integer     default 100,
  p_now              timestamptz default now()
)
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  -- Of one series at a time: a backlog is worked off over several runs, oldest first.
  c_sample_limit constant integer := 1500;
  -- A series nobody has judged yet starts with its last day, not with all it ever was.
  c_first_look   constant interval := interval '1 day';
  -- From here on samples are in rows.
  v_rows_since  timestamptz := coalesce(
    (select monitor.utc_midnight(max(day) + 1) from monitor.sample_days where state = 'chunks'), '-infinity');
  v_result  jsonb;
begin
  if p_limit is null or p_limit not between 0 and 1000 then
    raise exception 'p_limit must be from 0 to 1000, got %', p_limit
      using errcode = 'invalid_parameter_value', hint = 'Read further pages with p_after_series_id.';
  end if;

  if p_after_series_id is null then
    -- A run that threw has no result: what the one before it left undone still is.
    select run.result -> 'next_series_id'
    into v_result
    from monitor.job_runs as run
    where run.job = 'detect-anomalies' and run.finished_at is not null and run.result is not null
    order by run.finished_at desc
    limit 1;
    return jsonb_build_object('series', jsonb_build_array(), 'next_series_id', v_result);
  end if;

  with page as materialized (
    select
      series.series_id, series.metric, series.labels,
      definition.unit, definition.kind, definition.detection_direction, definition.detection_sensitivity,
      definition.minimum_change,
      saved.state, saved.version, saved.last_sample_at,
      open_anomaly.anomaly_id, open_anomaly.started_at
    from monitor.metric_series as series
    join monitor.metric_definitions as definition using (metric)
    left join monitor.detector_states as saved using (series_id)
    left join monitor.anomaly_detections as open_anomaly
      on open_anomaly.series_id = series.series_id and open_anomaly.ended_at is null
    where series.series_id > p_after_series_id
      and definition.detection_enabled
      and series.last_sample_at > coalesce(saved.last_sample_at, p_now - c_first_look)
    order by series.series_id
    limit greatest(p_limit, 1)
  )
  select jsonb_build_object(
    'series', coalesce(
      jsonb_agg(jsonb_build_object(
        'series_id', page.series_id, 'metric', page.metric, 'labels', page.labels,
        'unit', page.unit, 'kind', page.kind,
        'direction', page.detection_direction, 'sensitivity', page.detection_sensitivity,
        'minimum_change', page.minimum_change,
        'state', page.state, 'state_version', page.version,
        'last_sample_at', monitor.epoch_ms(page.last_sample_at),
        'open_anomaly', case when page.anomaly_id is not null then jsonb_build_object(
          'anomaly_id', page.anomaly_id, 'started_at', monitor.epoch_ms(page.started_at)) end,
        'times', fresh.times, 'values', fresh.values
      ) order by page.series_id) filter (where fresh.times is not null), '[]'),
    'next_series_id', case when count(*) = greatest(p_limit, 1) then max(page.series_id) end)
  into v_result
  from page
  cross join lateral (
    -- To the end of the next day of chunks that has samples, not of all since the detector stood still.
    select began.since, least(v_rows_since, (
      select monitor.utc_midnight(min(chunk.day) + 1)
      from monitor.metric_chunks as chunk
      where chunk.series_id = page.series_id and chunk.day > (began.since at time zone 'UTC')::date
    )) as until
    from (select coalesce(page.last_sample_at, p_now - c_first_look) as since) as began
  ) as reach
  cross join lateral (
    select
      array_agg(monitor.epoch_ms(sample.recorded_at) order by sample.recorded_at) as times,
      array_agg(sample.value order by sample.recorded_at) as values
    from (
      select before.recorded_at, before.value
      from (
        -- Only a detector that stood still for days has samples before those that are in rows, or one that looks first.
        select to_timestamp(again.at / 1000.0) as recorded_at, again.value
        from monitor.scan_series(
          array[page.series_id], reach.since + interval '1 millisecond', reach.until) as scanned
        cross join lateral unnest(scanned.times, scanned.samples) as again (at, value)
        where reach.since < reach.until
      ) as before
      union all
      select recorded_at, value
      from monitor.metric_time_series
      where series_id = page.series_id
        and recorded_at > reach.since
        and recorded_at >= v_rows_since
        and reach.until = v_rows_since -- or what lies between would be jumped over
      order by recorded_at
      limit case when p_limit > 0 then c_sample_limit else 0 end
    ) as sample
  ) as fresh;
  return v_result;
end;
$$;

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.scan_series(integer[], timestamptz, timestamptz),
  monitor.scan_rollups(integer[], timestamptz, timestamptz),
  monitor.read_samples(jsonb, timestamptz, timestamptz, integer, integer),
  monitor.read_buckets(jsonb, timestamptz, timestamptz, interval, integer, integer),
  monitor.read_latest(jsonb, integer, integer)
to authenticated, service_role;
