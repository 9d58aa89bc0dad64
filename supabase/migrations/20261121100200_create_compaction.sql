-- Purpose:  closed days go from rows into chunks, and late samples into the chunks they belong to.
-- Locks:    none on existing tables. When run: sealing waits at most 500 ms for who writes that day, dropping a day's rows
--           locks metric_time_series for a moment (waits at most 500 ms for it).
-- Undo:     drop function monitor.compact_samples(integer, timestamptz, boolean, integer), monitor.merge_late_samples(date, integer),
--           monitor.write_chunk(integer, date, integer[], double precision[]), monitor.hold_days(date[], boolean);
--           run 20261121090200's ensure_sample_days again, as create or replace.
--
-- The life of a day (sample_days.state), each arrow a transaction of its own that may fail and be repeated:
--   rows -> sealed -> chunks -> its partition of metric_time_series is dropped -> dropped (by cleanup_old_metrics)
-- Readers follow the state: rows until it says chunks, chunks from then on.

create function monitor.hold_days(p_days date[], p_exclusive boolean default false)
returns void
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_class constant integer := 1885828966;
  v_day  date;
begin
  for v_day in select distinct day from unnest(p_days) as day order by day loop
    if p_exclusive then
      perform pg_advisory_xact_lock(c_class, v_day - date '2000-01-01');
    else
      perform pg_advisory_xact_lock_shared(c_class, v_day - date '2000-01-01');
    end if;
  end loop;
end;
$$;

comment on function monitor.hold_days(date[], boolean) is
  'Keeps the state of UTC days as it is until the transaction ends: whoever writes samples holds their days (many at a '
  'time) before he looks at the states, whoever closes a day to rows, drops it or merges late samples holds it alone. '
  'Errors: 55P03 by the caller''s lock_timeout.';

create function monitor.write_chunk(
  p_series_id  integer,
  p_day        date,
  p_offsets    integer[],
  p_values     double precision[]
)
returns integer
language plpgsql
security invoker
set search_path = ''
set jit = off
as $$
declare
  v_encoded   record;
  v_hash      bytea := sha256(array_send(p_offsets));
  v_times_id  integer;
  v_decoded   integer[];
  v_power     double precision;
  v_hours     integer;
  v_counts    integer[];
  v_sums      double precision[];
  v_minima    double precision[];
  v_rest      double precision[];
begin
  select times_id into v_times_id from monitor.chunk_times where day = p_day and times_hash = v_hash;
  if not found then
    insert into monitor.chunk_times (day, steps, times_hash)
    select p_day, array_agg(step), v_hash
    from (select at - lag(at, 1, 0) over () as step from unnest(p_offsets) as at) as stepped
    returning times_id, monitor.decode_times(steps) into v_times_id, v_decoded;
    if v_decoded is distinct from p_offsets then
      raise exception 'the times of series % on % do not come back as they are', p_series_id, p_day
        using errcode = 'data_corrupted', hint = 'Nothing is lost: the samples stay as they are. Please report this.';
    end if;
  end if;

  v_encoded := monitor.encode_values(p_values);
  insert into monitor.metric_chunks as known (
    series_id, day, times_id, sample_count,
    scale, base, is_delta, plane_0, plane_1, plane_2, plane_3, floats)
  values (
    p_series_id, p_day, v_times_id, cardinality(p_values),
    v_encoded.scale, v_encoded.base, v_encoded.is_delta,
    v_encoded.plane_0, v_encoded.plane_1, v_encoded.plane_2, v_encoded.plane_3, v_encoded.floats)
  on conflict (series_id, day) do update
  set times_id = excluded.times_id, sample_count = excluded.sample_count,
      scale = excluded.scale, base = excluded.base, is_delta = excluded.is_delta,
      plane_0 = excluded.plane_0, plane_1 = excluded.plane_1, plane_2 = excluded.plane_2, plane_3 = excluded.plane_3,
      floats = excluded.floats;

  -- What was written is read again and compared bit by bit: = would take 0 for -0.
  if (
    select array_send(monitor.decode_values(
        scale, base, is_delta, plane_0, plane_1, plane_2, plane_3, floats)) = array_send(p_values)
      and times_id = v_times_id
    from monitor.metric_chunks
    where series_id = p_series_id and day = p_day
  ) is not true then
    raise exception 'the chunk of series % on % does not give back its samples', p_series_id, p_day
      using errcode = 'data_corrupted', hint = 'Nothing is lost: the samples stay as they are. Please report this.';
  end if;

  -- A value counts as 1e290 at most, so that no sum overflows.
  select
    bit_or(1 << hour), array_agg(count order by hour), array_agg(sum order by hour), array_agg(min order by hour),
    array_agg(max order by hour) || array_agg(p_values[first] order by hour) || array_agg(p_values[last] order by hour)
  into v_hours, v_counts, v_sums, v_minima, v_rest
  from (
    select
      at / 3600000 as hour, count(*)::integer as count, sum(greatest(least(value, 1e290), -1e290)) as sum,
      min(value) as min, max(value) as max, min(place) as first, max(place) as last
    from (
      select unnest(p_offsets) as at, unnest(p_values) as value, generate_series(1, cardinality(p_values)) as place
    ) as sample
    group by 1
  ) as hourly;
  if v_encoded.scale is not null then
    v_power := power(10::double precision, v_encoded.scale);
    v_encoded := monitor.encode_values((
      select array_agg(round((sum - count * min) * v_power) / v_power + 0 order by place) -- + 0: -0 would be no decimal
      from unnest(v_sums, v_counts, v_minima) with ordinality as hourly (sum, count, min, place)
    ) || v_minima || v_rest);
  end if;
  if v_encoded.floats is not null then
    v_encoded.floats := v_sums || v_minima || v_rest;
  end if;
  insert into monitor.metric_rollups as known (
    series_id, day, hours, sample_count, counts,
    scale, base, is_delta, plane_0, plane_1, plane_2, plane_3, floats)
  values (
    p_series_id, p_day, v_hours, cardinality(p_values),
    case when v_counts <> array_fill(v_counts[1], array[cardinality(v_counts)]) then v_counts end,
    v_encoded.scale, v_encoded.base, v_encoded.is_delta,
    v_encoded.plane_0, v_encoded.plane_1, v_encoded.plane_2, v_encoded.plane_3, v_encoded.floats)
  on conflict (series_id, day) do update
  set hours = excluded.hours, sample_count = excluded.sample_count, counts = excluded.counts,
      scale = excluded.scale, base = excluded.base, is_delta = excluded.is_delta,
      plane_0 = excluded.plane_0, plane_1 = excluded.plane_1, plane_2 = excluded.plane_2, plane_3 = excluded.plane_3,
      floats = excluded.floats;
  return cardinality(p_values);
end;
$$;

comment on function monitor.write_chunk(integer, date, integer[], double precision[]) is
  'Writes the chunk and the rollup of one series and day from its samples in order of time (p_offsets: milliseconds since '
  'midnight UTC), in the place of what was there. Returns how many samples the chunk was proven to give back. '
  'Errors: XX001 when it does not.';

create function monitor.merge_late_samples(p_day date, p_limit integer)
returns jsonb
language plpgsql
security invoker
set search_path = ''
set lock_timeout = '500ms'
as $$
declare
  -- Writers of that day wait meanwhile.
  c_budget constant interval := interval '2 seconds';
  v_started_at  timestamptz := clock_timestamp();
  v_series_id   integer;
  v_late        record;
  v_merged      integer := 0;
  v_series      integer := 0;
begin
  perform monitor.hold_days(array[p_day], true);
  -- A month of rollups whose policy is shorter than samples may be late is gone again.
  perform monitor.ensure_chunk_partitions(p_day);
  for v_series_id in
    select distinct series_id from monitor.late_samples
    where recorded_at >= monitor.utc_midnight(p_day) and recorded_at < monitor.utc_midnight(p_day + 1)
    order by series_id limit p_limit
  loop
    with taken as (
      delete from monitor.late_samples
      where series_id = v_series_id
        and recorded_at >= monitor.utc_midnight(p_day) and recorded_at < monitor.utc_midnight(p_day + 1)
      returning (extract(epoch from recorded_at - monitor.utc_midnight(p_day)) * 1000)::integer as at, value
    )
    select (select count(*) from taken) as late_count,
      array_agg(sample.at order by sample.at) as offsets, array_agg(sample.value order by sample.at) as values
    into v_late
    from (
      select distinct on (found.at) found.at, found.value -- the first write wins
      from (
        select 2 as turn, again.at, again.value from taken as again
        union all
        select 1, unnest(monitor.decode_times(times.steps)), unnest(monitor.decode_values(
          chunk.scale, chunk.base, chunk.is_delta, chunk.plane_0, chunk.plane_1, chunk.plane_2, chunk.plane_3, chunk.floats))
        from monitor.metric_chunks as chunk
        join monitor.chunk_times as times using (times_id)
        where chunk.series_id = v_series_id and chunk.day = p_day
      ) as found
      order by found.at, found.turn
    ) as sample;
    perform monitor.write_chunk(v_series_id, p_day, v_late.offsets, v_late.values);
    v_merged := v_merged + v_late.late_count;
    v_series := v_series + 1;
    exit when clock_timestamp() - v_started_at > c_budget;
  end loop;
  return jsonb_build_object('merged', v_merged, 'series', v_series);
end;
$$;

comment on function monitor.merge_late_samples(date, integer) is
  'Moves the late samples of a day that is in chunks into them, of at most p_limit series and for about 2 s. Returns {merged, series}. '
  'Errors: 55P03 when the day stayed in use for 500 ms.';

create function monitor.compact_samples(
  p_keep_days  integer,
  p_now        timestamptz default now(),
  p_dry_run    boolean     default false,
  p_limit      integer     default 300000
)
returns jsonb
language plpgsql
security definer -- dropping a partition takes the owner of the table
set search_path = ''
set lock_timeout = '500ms'
set jit = off
as $$
declare
  c_budget constant interval := interval '3 seconds';
  c_batch  constant integer := least(100000, p_limit);
  -- Older than any statement that still reads rows because it saw the state before.
  c_quiet  constant interval := interval '1 minute';
  v_started_at  timestamptz := clock_timestamp();
  v_today       date := (p_now at time zone 'UTC')::date;
  v_counts      jsonb := '{}';
  v_detail      text;
  v_contended   integer := 0;
  v_is_waiting  boolean := false;
  v_day         record;
  v_partition   regclass;
  v_found       bigint;
  v_written     bigint;
  v_due         bigint;
  v_series_id   integer;
  v_until       integer;
  v_midnight    timestamptz;
  v_midnight_ms double precision;
  v_merged      jsonb;
  v_oldest      date;
begin
  perform monitor.retention_cutoff(p_keep_days, p_now);
  if p_limit is null or p_limit not between 1 and 10000000 then
    raise exception 'p_limit must be from 1 to 10000000, got %', p_limit
      using errcode = 'invalid_parameter_value', hint = 'It is about how many samples a call encodes.';
  end if;
  select min(day) into v_oldest from monitor.sample_days where state in ('rows', 'sealed');

  if p_dry_run then
    select jsonb_strip_nulls(jsonb_build_object(
      'days', count(*), 'late_samples_merged', (select nullif(count(*), 0) from monitor.late_samples)))
    into v_counts
    from monitor.sample_days where state in ('rows', 'sealed') and day < v_today - p_keep_days + 1;
    return monitor.retention_result('metric_time_series', v_counts, '{}', 0,
      monitor.utc_midnight(greatest(v_oldest, v_today - p_keep_days + 1)), false, v_started_at);
  end if;

  -- One thing a call, what is nearest to its end first: a day's rows cost twenty times what its chunks do.
  begin
    for v_day in
      select day, sample_count, state_since from monitor.sample_days
      where state = 'chunks' and to_regclass('monitor.metric_time_series_' || to_char(day, 'YYYYMMDD')) is not null
      order by day
    loop
      if v_day.state_since > p_now - c_quiet and v_day.state_since < p_now + c_quiet then
        v_is_waiting := true;
        continue;
      end if;
      v_partition := to_regclass('monitor.metric_time_series_' || to_char(v_day.day, 'YYYYMMDD'));
      execute format('lock table %s in share row exclusive mode', v_partition);
      execute format('select count(*) from %s', v_partition) into v_found;
      if v_found is distinct from v_day.sample_count then
        update monitor.sample_days set state = 'sealed', state_since = p_now, sample_count = null, compacted_series_id = null
        where day = v_day.day;
        return monitor.retention_result('metric_time_series', '{"days_taken_back": 1}', '{}', 0,
          monitor.utc_midnight(v_oldest), true, v_started_at,
          format('%s has %s rows of which %s are in chunks; it is compacted again', v_day.day, v_found, v_day.sample_count));
      end if;
      execute format('drop table %s', v_partition);
      return monitor.retention_result('metric_time_series', '{"days_dropped": 1}', '{}', 0,
        monitor.utc_midnight(v_oldest), true, v_started_at);
    end loop;
  exception
    when lock_not_available or deadlock_detected then
      v_contended := v_contended + 1; -- who reads the table now does not stand in the way of what follows
      v_detail := 'others are using the table; the next run will try again';
    when undefined_table then
      v_contended := v_contended + 1; -- another one dropped it while we waited for the lock
      v_detail := 'another one is compacting; the next run will go on';
  end;

  select day, sample_count, compacted_series_id into v_day
  from monitor.sample_days where state = 'sealed' order by day limit 1 for update skip locked;
  if found then
    v_written := 0;
    v_midnight := monitor.utc_midnight(v_day.day);
    v_midnight_ms := date_part('epoch', v_midnight) * 1000;
    loop
      -- A range of ids, all rows of it, so that none is left out, not even of a series that is not known. Series differ
      -- in how often they are sampled, so it ends with the one that brings it to c_batch samples.
      v_until := null;
      v_due := 0;
      for v_series_id in
        select series_id from monitor.metric_series
        where series_id > coalesce(v_day.compacted_series_id, 0)
        order by series_id
      loop
        select v_due + count(*) into v_due
        from monitor.metric_time_series
        where series_id = v_series_id and recorded_at >= v_midnight and recorded_at < v_midnight + interval '24 hours';
        if v_due >= c_batch or clock_timestamp() - v_started_at > c_budget then
          v_until := v_series_id;
          exit;
        end if;
      end loop;
      select coalesce(sum(monitor.write_chunk(series_id, v_day.day, offsets, samples)), 0) into v_found
      from (
        select series_id,
          -- A double holds milliseconds since 1970 exactly, and is ten times as fast as an interval.
          array_agg((date_part('epoch', recorded_at) * 1000 - v_midnight_ms)::integer) as offsets,
          array_agg(value) as samples
        from (
          select series_id, recorded_at, value from monitor.metric_time_series
          where series_id > coalesce(v_day.compacted_series_id, 0) and series_id <= coalesce(v_until, 2147483647)
            and recorded_at >= v_midnight and recorded_at < v_midnight + interval '24 hours'
          order by series_id, recorded_at
        ) as ordered
        group by series_id
      ) as day_of_series;
      v_written := v_written + v_found;
      v_day.compacted_series_id := coalesce(v_until, v_day.compacted_series_id);
      exit when v_until is null or v_written >= p_limit or clock_timestamp() - v_started_at > c_budget;
    end loop;
    v_counts := jsonb_build_object('samples', v_written);
    update monitor.sample_days
    set state = case when v_until is null then 'chunks' else 'sealed' end,
        state_since = case when v_until is null then p_now else state_since end,
        sample_count = coalesce(v_day.sample_count, 0) + v_written,
        compacted_series_id = v_day.compacted_series_id
    where day = v_day.day;
    return monitor.retention_result('metric_time_series',
      v_counts || jsonb_build_object('days_compacted', (v_until is null)::integer), '{}', v_contended,
      monitor.utc_midnight(v_oldest), true, v_started_at, v_detail);
  end if;

  select day into v_day from monitor.sample_days
  where state = 'rows' and day < v_today - p_keep_days + 1 order by day limit 1;
  if found then
    begin
      perform monitor.hold_days(array[v_day.day], true);
      update monitor.sample_days
      set state = 'sealed', state_since = p_now, sample_count = 0, compacted_series_id = null
      where day = v_day.day and state = 'rows';
      return monitor.retention_result('metric_time_series', '{"days_sealed": 1}', '{}', v_contended,
        monitor.utc_midnight(v_oldest), true, v_started_at, v_detail);
    exception when lock_not_available or deadlock_detected then
      v_contended := v_contended + 1;
      v_detail := 'others are writing ' || v_day.day || '; the next run will try again';
    end;
  end if;

  for v_day in
    select known.day
    from monitor.sample_days as known
    where known.state = 'chunks'
      and to_regclass('monitor.metric_time_series_' || to_char(known.day, 'YYYYMMDD')) is null
      and exists (
        select from monitor.late_samples as late
        where late.recorded_at >= monitor.utc_midnight(known.day) and late.recorded_at < monitor.utc_midnight(known.day + 1))
    order by known.day
  loop
    begin
      v_merged := monitor.merge_late_samples(v_day.day, 200);
      return monitor.retention_result('metric_time_series',
        jsonb_build_object('late_samples_merged', v_merged -> 'merged'), '{}', v_contended,
        monitor.utc_midnight(v_oldest), true, v_started_at, v_detail);
    exception when lock_not_available or deadlock_detected then
      v_contended := v_contended + 1;
      v_detail := 'others are writing ' || v_day.day || '; the next run will try again';
    end;
  end loop;

  return monitor.retention_result('metric_time_series', '{}',
    case when v_is_waiting then '{"held_by_readers": 1}' else '{}' end::jsonb, v_contended,
    monitor.utc_midnight(v_oldest), v_is_waiting, v_started_at, v_detail)
    || case when v_is_waiting then '{"outcome": "held"}' else '{}' end::jsonb;
end;
$$;

comment on function monitor.compact_samples(integer, timestamptz, boolean, integer) is
  'One bounded step (about 3 s, or p_limit samples) towards chunks for every UTC day before the last p_keep_days: drops rows '
  'that were proven to be in chunks, or encodes some series of a sealed day, or seals the next day, or merges late samples. '
  'Call it again while the answer says more. A day''s rows stay for a minute after its chunks are read, and go only if '
  'they are as many as were compared. Returns as monitor.retention_result. Errors: 22023 for an argument out of range, '
  'XX001 when a chunk does not give back its samples.';

create or replace function monitor.ensure_sample_days(
  p_now         timestamptz default now(),
  p_days_ahead  integer     default 2
)
returns integer
language plpgsql
security definer -- creating a partition takes the owner of the table
set search_path = ''
set lock_timeout = '2s'
as $$
declare
  v_day        date;
  v_partition  text;
  v_created    integer := 0;
begin
  if p_days_ahead is null or p_days_ahead not between 0 and 30 then
    raise exception 'p_days_ahead must be from 0 to 30, got %', p_days_ahead
      using errcode = 'invalid_parameter_value', hint = 'The default, 2, covers a day in which nothing runs.';
  end if;

  for v_day in
    select wanted.day
    from (select (p_now at time zone 'UTC')::date + n as day from generate_series(0, p_days_ahead) as n) as wanted
    where not exists (select from monitor.sample_days as known where known.day = wanted.day and known.state <> 'dropped')
    order by wanted.day
  loop
    -- One creator at a time; whoever waited finds the day made.
    perform pg_advisory_xact_lock(hashtext('monitor.ensure_sample_days'));
    continue when exists (select from monitor.sample_days where day = v_day and state <> 'dropped');

    v_partition := 'metric_time_series_' || to_char(v_day, 'YYYYMMDD');
    -- Attached rather than created in place: that takes a weaker lock on the parent, so readers and writers go on.
    execute format('create table monitor.%I (like monitor.metric_time_series including all)', v_partition);
    execute format('alter table monitor.%I enable row level security', v_partition);
    execute format('comment on table monitor.%I is %L', v_partition,
      'Samples of the UTC day ' || v_day || '; a partition of metric_time_series.');
    execute format(
      'alter table monitor.metric_time_series attach partition monitor.%I for values from (%L) to (%L)',
      v_partition, v_day || ' 00:00:00+00', (v_day + 1) || ' 00:00:00+00');
    -- Where the day will go when it is compacted: that may share a transaction with dropping, which creating must not.
    perform monitor.ensure_chunk_partitions(v_day);
    -- A day that is yet to come but was dropped (a clock stood wrong) is opened again.
    insert into monitor.sample_days as known (day, state_since) values (v_day, p_now)
    on conflict (day) do update set state = 'rows', state_since = p_now, sample_count = null, compacted_series_id = null;
    v_created := v_created + 1;
  end loop;
  return v_created;
end;
$$;

select monitor.ensure_chunk_partitions(day) from monitor.sample_days where state <> 'dropped' order by day;

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.hold_days(date[], boolean),
  monitor.compact_samples(integer, timestamptz, boolean, integer)
to service_role;
