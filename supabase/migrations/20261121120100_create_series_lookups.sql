-- Purpose:  which series, names of labels and values of labels there are, and the newest value of each series.
-- Locks:    none.
-- Undo:     drop function monitor.read_series_labels(jsonb, timestamptz, timestamptz, integer),
--           monitor.read_label_names(jsonb, timestamptz, timestamptz, integer),
--           monitor.read_label_values(text, jsonb, timestamptz, timestamptz, integer),
--           monitor.find_series(jsonb, timestamptz, timestamptz, integer),
--           monitor.read_metadata(text, integer), monitor.read_exposition(integer, timestamptz).

create function monitor.find_series(p_selectors jsonb, p_from timestamptz, p_until timestamptz, p_limit integer)
returns table (metric text, labels jsonb)
language plpgsql
stable
security invoker
set search_path = ''
set jit = off
as $$
begin
  if p_from is null or p_until is null or p_limit is null or p_limit not between 1 and 20000 then
    raise exception 'p_from and p_until must be times and p_limit from 1 to 20000'
      using errcode = 'invalid_parameter_value', hint = 'Times may be -infinity and infinity.';
  end if;
  perform monitor.check_selectors(p_selectors); -- nothing is matched where there is no series
  return query
    select series.metric, series.labels
    from monitor.metric_series as series
    where series.created_at <= p_until and series.last_sample_at >= p_from
      and (p_selectors = '[]' or series.series_id in (
        select matched.series_id from monitor.match_selectors(p_selectors) as matched));
end;
$$;

comment on function monitor.find_series(jsonb, timestamptz, timestamptz, integer) is
  'The series, in no order, that satisfy any selector [[{name, op, value}]] (all series when there is none), were known by p_until and '
  'had a sample at p_from or later: whether they had one between the two is not looked up. For use in SQL, which cuts at p_limit. '
  'Errors: 22023 for malformed arguments or p_limit outside 1-20,000, 2201B for a pattern that is none.';

create function monitor.read_series_labels(p_selectors jsonb, p_from timestamptz, p_until timestamptz, p_limit integer)
returns json
language sql
stable
security invoker
set search_path = ''
set jit = off
as $$
  select json_build_object(
    'series', coalesce(
      json_agg(json_build_object('metric', metric, 'labels', labels) order by place) filter (where place <= p_limit), '[]'),
    'is_complete', count(*) <= p_limit)
  from (
    select found.metric, found.labels, row_number() over (order by found.metric collate "C", found.labels) as place
    from monitor.find_series(p_selectors, p_from, p_until, p_limit) as found
    order by place
    limit p_limit + 1
  ) as listed;
$$;

comment on function monitor.read_series_labels(jsonb, timestamptz, timestamptz, integer) is
  'The series of monitor.find_series, by metric and labels: {series: [{metric, labels}], is_complete}; not complete where there are more '
  'than p_limit (1-20,000). Errors as find_series.';

create function monitor.read_label_names(p_selectors jsonb, p_from timestamptz, p_until timestamptz, p_limit integer)
returns json
language sql
stable
security invoker
set search_path = ''
set jit = off
as $$
  select json_build_object(
    'names', coalesce(json_agg(name order by name collate "C") filter (where place <= p_limit), '[]'),
    'is_complete', count(*) <= p_limit)
  from (
    select used.name, row_number() over (order by used.name collate "C") as place
    from (
      select distinct label.name
      from monitor.find_series(p_selectors, p_from, p_until, p_limit) as found
      cross join lateral (
        select '__name__' as name
        union all
        select jsonb_object_keys(found.labels)
      ) as label
    ) as used
    order by place
    limit p_limit + 1
  ) as listed;
$$;

comment on function monitor.read_label_names(jsonb, timestamptz, timestamptz, integer) is
  'Names of the labels, __name__ included, of the series of monitor.find_series, by code point: {names, is_complete}; not complete '
  'where there are more than p_limit (1-20,000). Errors as find_series.';

create function monitor.read_label_values(
  p_label      text,
  p_selectors  jsonb,
  p_from       timestamptz,
  p_until      timestamptz,
  p_limit      integer
)
returns json
language sql
stable
security invoker
set search_path = ''
set jit = off
as $$
  select json_build_object(
    'values', coalesce(json_agg(value order by value collate "C") filter (where place <= p_limit), '[]'),
    'is_complete', count(*) <= p_limit)
  from (
    select used.value, row_number() over (order by used.value collate "C") as place
    from (
      select distinct case p_label when '__name__' then found.metric else found.labels ->> p_label end as value
      from monitor.find_series(p_selectors, p_from, p_until, p_limit) as found
    ) as used
    where used.value is not null
    order by place
    limit p_limit + 1
  ) as listed;
$$;

comment on function monitor.read_label_values(text, jsonb, timestamptz, timestamptz, integer) is
  'Values of the label, __name__ for the metric, among the series of monitor.find_series, by code point: {values, is_complete}; not '
  'complete where there are more than p_limit (1-20,000). Errors as find_series.';

create function monitor.read_metadata(p_metric text, p_limit integer)
returns json
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  if p_limit is null or p_limit not between 1 and 20000 then
    raise exception 'p_limit must be from 1 to 20000, got %', p_limit
      using errcode = 'invalid_parameter_value', hint = 'There are no more metrics than that by far, as a rule.';
  end if;
  return (
    select coalesce(json_agg(json_build_object(
        'metric', known.metric, 'kind', known.kind, 'unit', known.unit, 'description', known.description
      ) order by known.metric collate "C"), '[]')
    from (
      select definition.metric, definition.kind, definition.unit, definition.description
      from monitor.metric_definitions as definition
      where p_metric is null or definition.metric = p_metric
      order by definition.metric collate "C"
      limit p_limit
    ) as known);
end;
$$;

comment on function monitor.read_metadata(text, integer) is
  'What metrics are, all or p_metric: [{metric, kind, unit, description}] by name, at most p_limit (1-20,000). '
  'Errors: 22023 for a wrong p_limit.';

create function monitor.read_exposition(p_series_limit integer, p_now timestamptz default now())
returns json
language plpgsql
stable
security invoker
set search_path = ''
set jit = off
as $$
begin
  if p_series_limit is null or p_series_limit not between 1 and 50000 then
    raise exception 'p_series_limit must be from 1 to 50000, got %', p_series_limit
      using errcode = 'invalid_parameter_value', hint = 'Each is a line of text.';
  end if;
  return (
    with page as materialized (
      select series.series_id, series.metric, series.labels, series.last_sample_at,
        row_number() over (order by series.metric collate "C", series.labels) as place
      from monitor.metric_series as series
      where series.last_sample_at is not null
      order by place
      limit p_series_limit + 1
    ), newest as materialized (
      select page.metric, page.labels, page.last_sample_at, page.place, coalesce(
        (select sample.value from monitor.metric_time_series as sample
         where sample.series_id = page.series_id and sample.recorded_at = page.last_sample_at),
        (select late.value from monitor.late_samples as late
         where late.series_id = page.series_id and late.recorded_at = page.last_sample_at),
        -- The last value of the last hour is the last of all in a rollup, which is decoded much sooner than the day's chunk.
        (select (monitor.decode_values(rollup.scale, rollup.base, rollup.is_delta,
           rollup.plane_0, rollup.plane_1, rollup.plane_2, rollup.plane_3, rollup.floats))[bit_count(rollup.hours::bit(24)) * 5]
         from monitor.metric_rollups as rollup
         where rollup.series_id = page.series_id and rollup.day = (page.last_sample_at at time zone 'UTC')::date)
      ) as value
      from page
      where page.place <= p_series_limit
    )
    select json_build_object(
      'metrics', (
        select coalesce(json_agg(json_build_object(
            'metric', definition.metric, 'kind', definition.kind, 'unit', definition.unit,
            'description', definition.description, 'category', definition.category
          ) order by definition.metric collate "C"), '[]')
        from monitor.metric_definitions as definition
        where definition.metric in (select newest.metric from newest where newest.value is not null)),
      'series', coalesce(
        json_agg(json_build_object(
          'metric', newest.metric, 'labels', newest.labels,
          'time', (date_part('epoch', least(newest.last_sample_at, p_now)) * 1000)::bigint, 'value', newest.value
        ) order by newest.place) filter (where newest.value is not null), '[]'),
      'is_complete', (select count(*) from page) <= p_series_limit)
    from newest);
end;
$$;

comment on function monitor.read_exposition(integer, timestamptz) is
  'The newest sample of every series, however old, by metric and labels, with what the metrics are: {metrics: [{metric, kind, unit, '
  'description, category}], series: [{metric, labels, time: epoch ms, value}], is_complete}; not complete where there are more series '
  'than p_series_limit (1-50,000). The time of a sample from beyond p_now, of a clock that is ahead, is p_now. A series of which '
  'nothing is left but its row is left out. Errors: 22023 for a wrong p_series_limit.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.find_series(jsonb, timestamptz, timestamptz, integer),
  monitor.read_series_labels(jsonb, timestamptz, timestamptz, integer),
  monitor.read_label_names(jsonb, timestamptz, timestamptz, integer),
  monitor.read_label_values(text, jsonb, timestamptz, timestamptz, integer),
  monitor.read_metadata(text, integer),
  monitor.read_exposition(integer, timestamptz)
to authenticated, service_role;
