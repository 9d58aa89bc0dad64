-- Purpose:  all that the selectors of a query need, in one call.
-- Locks:    none.
-- Undo:     drop function monitor.read_selections(jsonb, integer), monitor.match_selectors(jsonb),
--           monitor.check_selectors(jsonb), monitor.scan_rows(integer[], timestamptz, timestamptz, integer),
--           monitor.refuse_beyond(bigint, integer, text).

create function monitor.check_selectors(p_selectors jsonb)
returns void
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  if jsonb_typeof(p_selectors) is distinct from 'array' or jsonb_array_length(p_selectors) > 1000
     or jsonb_path_exists(p_selectors, 'strict $[*] ? (@.type() <> "array")') or exists (
    select from jsonb_array_elements(p_selectors) as matchers
    cross join lateral jsonb_array_elements(matchers) as matcher
    where jsonb_typeof(matcher) is distinct from 'object'
       or jsonb_typeof(matcher -> 'name') is distinct from 'string'
       or jsonb_typeof(matcher -> 'value') is distinct from 'string'
       or coalesce(matcher ->> 'op', '') not in ('=', '!=', '=~', '!~')
  ) then
    raise exception 'selectors must be an array of at most 1,000 arrays of {name, op, value} with op one of =, !=, =~, !~'
      using errcode = 'invalid_parameter_value',
            hint    = 'For one metric: [[{"name":"__name__","op":"=","value":"cache_hit_rate"}]].';
  end if;
  -- Each pattern by itself: "a)|(b" becomes one, of another meaning, only between the anchors below. With them as well, because
  -- there it is tried only on series that the other matchers leave.
  perform '' ~ (matcher ->> 'value'), '' ~ ('^(?:' || (matcher ->> 'value') || ')$')
  from jsonb_array_elements(p_selectors) as matchers
  cross join lateral jsonb_array_elements(matchers) as matcher
  where matcher ->> 'op' in ('=~', '!~');
end;
$$;

comment on function monitor.check_selectors(jsonb) is
  'Refuses selectors that monitor.match_selectors does not take. Errors: 22023 for malformed ones, 2201B for a pattern that is none.';

create function monitor.match_selectors(p_selectors jsonb)
returns table (selector integer, series_id integer)
language plpgsql
stable
security invoker
set search_path = ''
set jit = off
as $$
begin
  perform monitor.check_selectors(p_selectors);
  return query
    with condition as materialized (
      select (item.position - 1)::integer as selector, parsed.*
      from jsonb_array_elements(p_selectors) with ordinality as item (matchers, position)
      cross join lateral (
        select
          array_agg(value) filter (where name = '__name__' and op = '=') as metrics,
          -- Nearly all there is, and judged at once.
          coalesce(array_agg(jsonb_build_object(name, value)) filter (where is_plain), '{}') as equal,
          array_agg(name) filter (where not is_plain) as names,
          array_agg(op) filter (where not is_plain) as ops,
          array_agg(case when op in ('=~', '!~') then '^(?:' || value || ')$' else value end)
            filter (where not is_plain) as operands
        from (
          select name, op, value, op = '=' and value <> '' and name <> '__name__' as is_plain
          from jsonb_to_recordset(item.matchers) as matcher (name text, op text, value text)
        ) as judged
      ) as parsed
    )
    select condition.selector, series.series_id
    from condition
    cross join lateral (
      select named.* from monitor.metric_series as named where named.metric = condition.metrics[1]
      union all
      select known.* from monitor.metric_series as known where condition.metrics is null
    ) as series
    where series.labels @> all (condition.equal)
      and (condition.names is null or not exists (
        select
        from unnest(condition.names, condition.ops, condition.operands) as matcher (name, op, operand)
        cross join lateral (
          select case matcher.name
            when '__name__' then series.metric
            else coalesce(series.labels ->> matcher.name, '') -- an absent label is the empty string
          end as actual
        ) as label
        where not case matcher.op
          when '=' then label.actual = matcher.operand
          when '!=' then label.actual <> matcher.operand
          when '=~' then label.actual ~ matcher.operand
          else label.actual !~ matcher.operand
        end
      ));
end;
$$;

comment on function monitor.match_selectors(jsonb) is
  'For each of at most 1,000 selectors [[{name, op, value}]], counted from 0, the series that satisfy all its matchers, as '
  'monitor.match_series has them, in no order. For use in SQL. Errors: 22023 for malformed selectors, 2201B for a pattern that is none.';

create function monitor.scan_rows(p_series_ids integer[], p_from timestamptz, p_until timestamptz, p_limit integer)
returns table (series_id integer, times bigint[], samples double precision[])
language plpgsql
stable
security invoker
set search_path = ''
set jit = off
set plan_cache_mode = 'force_custom_plan' -- many series lie side by side on a page that is to be read once, few do not
set work_mem = '16MB' -- a sort on disk takes twice as long
as $$
begin
  return query
    select ordered.series_id, array_agg((date_part('epoch', ordered.recorded_at) * 1000)::bigint), array_agg(ordered.value)
    from (
      select few.series_id, few.recorded_at, few.value
      from (
        select row.series_id, row.recorded_at, row.value
        from monitor.metric_time_series as row
        where row.series_id = any (p_series_ids) and row.recorded_at >= p_from and row.recorded_at < p_until
        limit p_limit
      ) as few
      order by few.series_id, few.recorded_at
    ) as ordered
    group by ordered.series_id;
end;
$$;

comment on function monitor.scan_rows(integer[], timestamptz, timestamptz, integer) is
  'As scan_series, several times as fast, for a range of which nothing is in chunks or late; of all series together any p_limit samples.';

create function monitor.refuse_beyond(p_count bigint, p_limit integer, p_message text)
returns boolean
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  if p_count > p_limit then
    raise exception '%', format(p_message, p_limit, p_count) using errcode = 'program_limit_exceeded';
  end if;
  return true;
end;
$$;

comment on function monitor.refuse_beyond(bigint, integer, text) is
  'True while p_count is at most p_limit: a query that asks it of a running count stops where it goes beyond. Errors: 54000 then, with '
  'p_message, in which %1$s is the limit and %2$s the count.';

create function monitor.read_selections(p_selections jsonb, p_samples_limit integer default 1000000)
returns text -- which holds JSON: an API in between may read and write every number of a json again, of a text none
language plpgsql
stable
security invoker
set search_path = ''
set jit = off
as $$
declare
  c_series_limit constant integer := 20000;
  -- How many samples are read together, at one a minute.
  c_batch        constant integer := 200000;
  c_many_series  constant text := '%2$s series match, and at most %1$s are read at once: add matchers that leave fewer';
  c_many_samples constant text := 'more than %1$s samples would have to be read: take a shorter range, or matchers that leave fewer series';
  -- What is asked for beyond is cut: no sample is there, and Postgres has no time there.
  c_first_ms     constant bigint := -62135596800000; -- year 1
  c_last_ms      constant bigint := 253402300799999; -- year 9999
  v_selectors  jsonb;
  v_result     text;
begin
  if p_samples_limit is null or p_samples_limit not between 1 and 10000000 then
    raise exception 'p_samples_limit must be from 1 to 10000000, got %', p_samples_limit
      using errcode = 'invalid_parameter_value', hint = 'It bounds how much is held in memory.';
  end if;
  if jsonb_typeof(p_selections) is distinct from 'array' or jsonb_array_length(p_selections) > 1000 or exists (
    select from jsonb_array_elements(p_selections) as selection
    where jsonb_typeof(selection) is distinct from 'object'
       or jsonb_typeof(selection -> 'matchers') is distinct from 'array'
       or not coalesce(jsonb_path_match(selection, 'strict $.from.floor() == $.from && $.until.floor() == $.until'), false)
  ) then
    raise exception 'p_selections must be an array of at most 1,000 {matchers, from, until}, times in whole milliseconds since 1970'
      using errcode = 'invalid_parameter_value',
            hint    = 'E.g. [{"matchers":[{"name":"__name__","op":"=","value":"up"}],"from":1773144000000,"until":1773147600000}].';
  end if;

  -- Rules often have the same selector, with ranges of their own.
  select coalesce(jsonb_agg(distinct selection -> 'matchers'), '[]') into v_selectors
  from jsonb_array_elements(p_selections) as selection;

  with selection as materialized (
    select (item.position - 1)::integer as selection, (matchers.position - 1)::integer as selector,
      to_timestamp(greatest(least((item.selection -> 'from')::numeric, c_last_ms), c_first_ms) / 1000) as since,
      to_timestamp((greatest(least((item.selection -> 'until')::numeric, c_last_ms), c_first_ms) + 1) / 1000) as until
    from jsonb_array_elements(p_selections) with ordinality as item (selection, position)
    join jsonb_array_elements(v_selectors) with ordinality as matchers (matchers, position)
      on matchers.matchers = item.selection -> 'matchers'
  ), wanted as materialized (
    select matched.series_id, array_agg(selection.selection order by selection.selection) as selections,
      min(selection.since) as since, max(selection.until) as until
    from monitor.match_selectors(v_selectors) as matched
    join selection using (selector)
    where selection.since < selection.until
    group by matched.series_id
  ), range as materialized (
    select distinct_range.*,
      not exists (
        select from monitor.sample_days
        where day between (distinct_range.since at time zone 'UTC')::date and (distinct_range.until at time zone 'UTC')::date
          and state not in ('rows', 'sealed'))
      and not exists (
        select from monitor.late_samples
        where recorded_at >= distinct_range.since and recorded_at < distinct_range.until) as is_in_rows,
      greatest(1, c_batch / greatest(1, extract(epoch from distinct_range.until - distinct_range.since) / 60))::integer as batch_size
    from (select distinct since, until from wanted) as distinct_range
    where (select monitor.refuse_beyond(count(*), c_series_limit, c_many_series) from wanted)
  ), batch as materialized (
    select part.since, part.until, part.is_in_rows, array_agg(part.series_id) as series_ids
    from (
      select wanted.series_id, range.*,
        (row_number() over (partition by wanted.since, wanted.until order by wanted.series_id) - 1) / range.batch_size as place
      from wanted
      join range using (since, until)
    ) as part
    group by part.since, part.until, part.is_in_rows, part.place
  ), held as materialized (
    -- What chunks of whole days say that they hold is known before any is decoded.
    select bool_and(monitor.refuse_beyond(counted.so_far, p_samples_limit, c_many_samples)) as is_little
    from (
      select sum(chunk.sample_count) over (rows unbounded preceding) as so_far
      from batch
      join monitor.sample_days as known
        on known.day > (batch.since at time zone 'UTC')::date and known.day < (batch.until at time zone 'UTC')::date
      join monitor.metric_chunks as chunk on chunk.series_id = any (batch.series_ids) and chunk.day = known.day
      where known.state = 'chunks' and not batch.is_in_rows
    ) as counted
  ), found as materialized (
    select counted.series_id, counted.times, counted.samples
    from (
      select scanned.*, sum(cardinality(scanned.times)) over (rows unbounded preceding) as so_far
      from batch
      cross join lateral (
        select * from monitor.scan_rows(batch.series_ids, batch.since, batch.until, p_samples_limit + 1) where batch.is_in_rows
        union all
        select * from monitor.scan_series(batch.series_ids, batch.since, batch.until)
        where not batch.is_in_rows and (select is_little from held) is not false
      ) as scanned
    ) as counted
    where monitor.refuse_beyond(counted.so_far, p_samples_limit, c_many_samples)
  ), clock as materialized ( -- written once for all series that were sampled at the same times
    select shared.times, (row_number() over () - 1)::integer as clock from (select distinct times from found) as shared
  )
  select json_build_object(
    'clocks', (select coalesce(json_agg(times order by clock), '[]') from clock),
    'series', coalesce(
      json_agg(json_build_object(
        'metric', series.metric, 'labels', series.labels, 'in', wanted.selections, 'clock', clock.clock, 'values', found.samples
      ) order by found.series_id), '[]'),
    'samples', coalesce(sum(cardinality(found.times)), 0))::text
  into v_result
  from found
  join wanted using (series_id)
  join monitor.metric_series as series using (series_id)
  join clock using (times);
  return v_result;
end;
$$;

comment on function monitor.read_selections(jsonb, integer) is
  'What one or more queries need, read at once: p_selections is [{matchers, from, until}], at most 1,000, matchers as '
  'match_series takes them, times in epoch ms, both included; from after until selects nothing. Gives, as the text of its JSON, {clocks: [[epoch ms]], series: '
  '[{metric, labels, in, clock, values}], samples}: in are the selections (from 0) that the series is in, clock is which of clocks has '
  'its times, samples how many values there are in all. A series is read once, from the first to the last time that any of its '
  'selections asks for; one without samples there is left out. Errors: 22023 for malformed arguments, 2201B for a pattern that is none, '
  '54000 for more than p_samples_limit (1-10,000,000) samples or more than 20,000 series.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.check_selectors(jsonb),
  monitor.match_selectors(jsonb),
  monitor.scan_rows(integer[], timestamptz, timestamptz, integer),
  monitor.refuse_beyond(bigint, integer, text),
  monitor.read_selections(jsonb, integer)
to authenticated, service_role;
