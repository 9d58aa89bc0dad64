-- Purpose:  the only way samples are read. Where they lie (rows today, chunks and late samples later) stays behind it.
-- Locks:    none.
-- Undo:     drop function monitor.read_samples(jsonb, timestamptz, timestamptz, integer, integer),
--           monitor.read_buckets(jsonb, timestamptz, timestamptz, interval, integer, integer),
--           monitor.match_series(jsonb, integer, integer), monitor.bounded_page(integer, timestamptz, timestamptz),
--           monitor.epoch_ms(timestamptz);

create function monitor.epoch_ms(p_at timestamptz)
returns bigint
language sql
immutable
security invoker
set search_path = ''
as $$
  select (extract(epoch from p_at) * 1000)::bigint;
$$;

comment on function monitor.epoch_ms(timestamptz) is 'Milliseconds since 1970-01-01 UTC, null for null.';

create function monitor.match_series(
  p_matchers         jsonb,
  p_after_series_id  integer default 0,
  p_limit            integer default 1000
)
returns table (series_id integer, metric text, labels jsonb)
language plpgsql
stable
security invoker
set search_path = ''
set plan_cache_mode = 'force_custom_plan' -- so that "no name given" and "these names" are planned apart
as $$
declare
  -- Equality on the name is by far the commonest matcher, and the one the key can serve.
  v_names  text[] := (
    select array_agg(matcher ->> 'value')
    from jsonb_array_elements(case when jsonb_typeof(p_matchers) = 'array' then p_matchers else '[]' end) as matcher
    where matcher ->> 'name' = '__name__' and matcher ->> 'op' = '=');
begin
  if jsonb_typeof(p_matchers) is distinct from 'array' or exists (
    select from jsonb_array_elements(p_matchers) as matcher
    where jsonb_typeof(matcher) is distinct from 'object'
       or jsonb_typeof(matcher -> 'name') is distinct from 'string'
       or jsonb_typeof(matcher -> 'value') is distinct from 'string'
       or coalesce(matcher ->> 'op', '') not in ('=', '!=', '=~', '!~')
  ) then
    raise exception 'p_matchers must be an array of {name, op, value} with op one of =, !=, =~, !~'
      using errcode = 'invalid_parameter_value',
            hint    = 'For one metric: [{"name":"__name__","op":"=","value":"cache_hit_rate"}].';
  end if;
  -- Each pattern by itself: "a)|(b" becomes one, of another meaning, only between the anchors below.
  perform '' ~ (matcher ->> 'value')
  from jsonb_array_elements(p_matchers) as matcher
  where matcher ->> 'op' in ('=~', '!~');
  if p_limit is null or p_limit not between 1 and 1000 then
    raise exception 'p_limit must be from 1 to 1000, got %', p_limit
      using errcode = 'invalid_parameter_value', hint = 'Read further pages with p_after_series_id.';
  end if;

  return query
    select series.series_id, series.metric, series.labels
    from monitor.metric_series as series
    where series.series_id > p_after_series_id
      and (v_names is null or series.metric = any (v_names))
      and not exists (
        select
        from jsonb_array_elements(p_matchers) as matcher
        cross join lateral (
          select case matcher ->> 'name'
            when '__name__' then series.metric
            else coalesce(series.labels ->> (matcher ->> 'name'), '') -- an absent label is the empty string
          end as actual
        ) as label
        where not case matcher ->> 'op'
          when '=' then label.actual = matcher ->> 'value'
          when '!=' then label.actual <> matcher ->> 'value'
          when '=~' then label.actual ~ ('^(?:' || (matcher ->> 'value') || ')$')
          else label.actual !~ ('^(?:' || (matcher ->> 'value') || ')$')
        end
      )
    order by series.series_id
    limit p_limit;
end;
$$;

comment on function monitor.match_series(jsonb, integer, integer) is
  'Series that satisfy every matcher [{name, op, value}] (op as in Prometheus: =, !=, =~, !~, patterns anchored; the '
  'metric is the label __name__), by ascending series_id after p_after_series_id, at most p_limit (1-1000). '
  'Errors: 22023 for malformed arguments, 2201B for a pattern that is none.';

create function monitor.bounded_page(p_limit integer, p_from timestamptz, p_until timestamptz)
returns integer
language sql
immutable
security invoker
set search_path = ''
as $$
  -- At one sample a minute, a page is at most 200,000 samples; a single series may be longer than that.
  select case when p_limit between 1 and 1000 and p_from < p_until
    then least(p_limit, greatest(1, floor(200000 / greatest(1, extract(epoch from p_until - p_from) / 60))::integer))
    else p_limit end;
$$;

comment on function monitor.bounded_page(integer, timestamptz, timestamptz) is
  'How many series a page over this range may hold so that it is read well within the 8 s of a statement. A limit out '
  'of range is handed on for monitor.match_series to refuse.';

create function monitor.read_samples(
  p_matchers         jsonb,
  p_from             timestamptz,
  p_until            timestamptz,
  p_after_series_id  integer default 0,
  p_limit            integer default 1000
)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  with page as materialized (
    select * from monitor.match_series(p_matchers, p_after_series_id, monitor.bounded_page(p_limit, p_from, p_until))
  )
  select jsonb_build_object(
    'series', coalesce(
      jsonb_agg(jsonb_build_object(
        'series_id', page.series_id, 'metric', page.metric, 'labels', page.labels,
        'times', samples.times, 'values', samples.values
      ) order by page.series_id) filter (where samples.times is not null), '[]'),
    'next_series_id', case
      when count(*) = monitor.bounded_page(p_limit, p_from, p_until) then max(page.series_id) end)
  from page
  cross join lateral (
    select
      array_agg(monitor.epoch_ms(sample.recorded_at) order by sample.recorded_at) as times,
      array_agg(sample.value order by sample.recorded_at) as values
    from monitor.metric_time_series as sample
    where sample.series_id = page.series_id and sample.recorded_at >= p_from and sample.recorded_at < p_until
  ) as samples;
$$;

comment on function monitor.read_samples(jsonb, timestamptz, timestamptz, integer, integer) is
  'Samples of the matching series with p_from <= time < p_until, oldest first: '
  '{series: [{series_id, metric, labels, times: [epoch ms], values: []}], next_series_id}. Series without samples are '
  'left out; next_series_id is null on the last page, else pass it as p_after_series_id. A page over a long range holds '
  'fewer series than p_limit (monitor.bounded_page). Errors as match_series.';

create function monitor.read_buckets(
  p_matchers         jsonb,
  p_from             timestamptz,
  p_until            timestamptz,
  p_step             interval,
  p_after_series_id  integer default 0,
  p_limit            integer default 1000
)
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  v_result  jsonb;
begin
  if p_step is null or p_step < interval '1 second' or p_from is null or p_until is null
     or extract(year from p_step) <> 0 or extract(month from p_step) <> 0 -- they differ in length
     or extract(epoch from p_until - p_from) / extract(epoch from p_step) > 11000 then
    raise exception 'p_step must be at least 1 second, without months, and cut the range into at most 11,000 buckets'
      using errcode = 'invalid_parameter_value', hint = 'Use a larger step or a shorter range, and days for months.';
  end if;

  with page as materialized (
    select * from monitor.match_series(p_matchers, p_after_series_id, monitor.bounded_page(p_limit, p_from, p_until))
  )
  select jsonb_build_object(
    'series', coalesce(
      jsonb_agg(jsonb_build_object(
        'series_id', page.series_id, 'metric', page.metric, 'labels', page.labels,
        'times', buckets.times, 'counts', buckets.counts, 'sums', buckets.sums,
        'mins', buckets.mins, 'maxs', buckets.maxs, 'firsts', buckets.firsts, 'lasts', buckets.lasts
      ) order by page.series_id) filter (where buckets.times is not null), '[]'),
    'next_series_id', case
      when count(*) = monitor.bounded_page(p_limit, p_from, p_until) then max(page.series_id) end)
  into v_result
  from page
  cross join lateral (
    select
      array_agg(monitor.epoch_ms(bucket.starts_at) order by bucket.starts_at) as times,
      array_agg(bucket.count order by bucket.starts_at) as counts,
      array_agg(bucket.sum order by bucket.starts_at) as sums,
      array_agg(bucket.min order by bucket.starts_at) as mins,
      array_agg(bucket.max order by bucket.starts_at) as maxs,
      array_agg(bucket.first order by bucket.starts_at) as firsts,
      array_agg(bucket.last order by bucket.starts_at) as lasts
    from (
      select
        date_bin(p_step, sample.recorded_at, timestamptz '1970-01-01 00:00:00+00') as starts_at,
        count(*) as count,
        sum(sample.value) as sum,
        min(sample.value) as min,
        max(sample.value) as max,
        (array_agg(sample.value order by sample.recorded_at))[1] as first,
        (array_agg(sample.value order by sample.recorded_at desc))[1] as last
      from monitor.metric_time_series as sample
      where sample.series_id = page.series_id and sample.recorded_at >= p_from and sample.recorded_at < p_until
      group by 1
    ) as bucket
  ) as buckets;
  return v_result;
end;
$$;

comment on function monitor.read_buckets(jsonb, timestamptz, timestamptz, interval, integer, integer) is
  'As read_samples, gathered in buckets of p_step that start at whole multiples of it since 1970 UTC: times (start, '
  'epoch ms), counts, sums, mins, maxs, firsts, lasts, one entry a bucket that has samples. '
  'Errors: 22023 for a step under a second or of months, or more than 11,000 buckets, else as match_series.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.epoch_ms(timestamptz),
  monitor.match_series(jsonb, integer, integer),
  monitor.bounded_page(integer, timestamptz, timestamptz),
  monitor.read_samples(jsonb, timestamptz, timestamptz, integer, integer),
  monitor.read_buckets(jsonb, timestamptz, timestamptz, interval, integer, integer)
to authenticated, service_role;
