-- Purpose:  a partition that another session drops meanwhile is undefined_table, which says so, and no syntax error: a
--           regclass prints the number of a table that is gone, or nothing, so these three name theirs as text.
-- Locks:    none. When run: as before.
-- Undo:     run compact_samples of 20261121100200 and cleanup_old_metrics and cleanup_old_rollups of 20261121100500 again, as
--           create or replace. Comments and grants stay.

create or replace function monitor.compact_samples(
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
  v_partition   text;
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
      v_partition := 'metric_time_series_' || to_char(v_day.day, 'YYYYMMDD');
      execute format('lock table monitor.%I in share row exclusive mode', v_partition);
      execute format('select count(*) from monitor.%I', v_partition) into v_found;
      if v_found is distinct from v_day.sample_count then
        update monitor.sample_days set state = 'sealed', state_since = p_now, sample_count = null, compacted_series_id = null
        where day = v_day.day;
        return monitor.retention_result('metric_time_series', '{"days_taken_back": 1}', '{}', 0,
          monitor.utc_midnight(v_oldest), true, v_started_at,
          format('%s has %s rows of which %s are in chunks; it is compacted again', v_day.day, v_found, v_day.sample_count));
      end if;
      execute format('drop table monitor.%I', v_partition);
      return monitor.retention_result('metric_time_series', '{"days_dropped": 1}', '{}', 0,
        monitor.utc_midnight(v_oldest), true, v_started_at);
    end loop;
  exception
    when lock_not_available or deadlock_detected then
      v_contended := v_contended + 1; -- who reads the table now does not stand in the way of what follows
      v_detail := 'others are using the table; the next run will try again';
    when undefined_table then
      v_contended := v_contended + 1; -- another one dropped it before we had the lock
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

create or replace function monitor.cleanup_old_metrics(
  retention_days  integer     default 30,
  p_now           timestamptz default now(),
  p_dry_run       boolean     default false,
  p_limit         integer     default 10,
  p_keep_megabytes  integer   default null
)
returns jsonb
language plpgsql
security definer -- dropping a partition takes the owner of the table
set search_path = ''
set lock_timeout = '500ms'
as $$
declare
  v_started_at  timestamptz := clock_timestamp();
  -- Rounds down: a day goes only when its last moment is older than the limit.
  v_cutoff      date := (monitor.retention_cutoff(retention_days, p_now) at time zone 'UTC')::date;
  v_today       date := (p_now at time zone 'UTC')::date;
  -- Rows that wait for compaction take twenty times what they will: nothing is shed because of them.
  v_is_settling boolean := exists (
    select from monitor.sample_days as known
    where known.state = 'sealed'
      or (known.state = 'chunks' and to_regclass('monitor.metric_time_series_' || to_char(known.day, 'YYYYMMDD')) is not null)
      or (known.state = 'rows' and known.day < (p_now at time zone 'UTC')::date + 1 - (
        select policy.keep_days from monitor.retention_policies as policy
        where policy.entity = 'metric_time_series' and policy.action = 'compact')));
  v_week        record;
  v_weeks       integer := 0;
  v_days        integer := 0;
  v_samples     bigint := 0;
  v_found       bigint := 0;
  v_shed_days   integer := 0;
  v_held        integer := 0;
  v_contended   integer := 0;
  v_excess      bigint := coalesce(monitor.monitor_bytes() - p_keep_megabytes * 1000000::bigint, 0);
  v_is_old      boolean;
  v_is_whole    boolean;
  v_is_blocked  boolean := false;
  v_more        boolean := false;
  v_gone        date[] := '{}';
  v_oldest      date;
  v_detail      text;
begin
  perform monitor.check_retention_limit(p_limit);
  if p_keep_megabytes < 1 then
    raise exception 'p_keep_megabytes must be at least 1, got %', p_keep_megabytes
      using errcode = 'invalid_parameter_value', hint = 'Pass null for no budget.';
  end if;

  for v_week in
    select
      week.first_day, week.partition,
      bool_or(known.state in ('rows', 'sealed')) as is_open,
      bool_or(known.state = 'sealed'
        or (known.state = 'chunks' and to_regclass('monitor.metric_time_series_' || to_char(known.day, 'YYYYMMDD')) is not null)
        or (known.state = 'chunks' and exists (
          select from monitor.late_samples as late
          where late.recorded_at >= monitor.utc_midnight(known.day) and late.recorded_at < monitor.utc_midnight(known.day + 1)
        ))) as is_busy,
      array_agg(known.day order by known.day) filter (where known.state = 'chunks') as days
    from (
      select distinct date_trunc('week', day::timestamp)::date as first_day,
        'metric_chunks_' || to_char(day, 'IYYY"w"IW') as partition
      from monitor.sample_days where state <> 'dropped'
    ) as week
    join monitor.sample_days as known on known.day >= week.first_day and known.day < week.first_day + 7
    where to_regclass('monitor.' || week.partition) is not null and known.state <> 'dropped'
    group by week.first_day, week.partition
    having bool_or(known.state = 'chunks') or week.first_day + 7 <= v_cutoff
    order by week.first_day
  loop
    v_is_old := v_week.first_day + 7 <= v_cutoff;
    exit when not v_is_old and v_excess <= 0;
    if not v_is_old and v_is_settling then
      v_held := v_held + 1;
      v_detail := concat_ws('; ', v_detail, 'over the budget, but days are still to be compacted');
      v_is_blocked := true;
      exit;
    end if;
    -- Rows that are not compacted have no rollup yet, and late samples are not in theirs: dropping would lose it.
    if (v_is_old and v_week.is_open) or v_week.is_busy then
      v_held := v_held + 1;
      v_detail := 'the week of ' || v_week.first_day || ' is being compacted';
      v_is_blocked := not v_is_old;
      exit when v_is_blocked; -- a younger week is not shed before it
      continue;
    end if;
    if not p_dry_run and v_weeks >= p_limit then
      v_more := true;
      exit;
    end if;

    begin
      -- A week that goes on keeps its partition for the days to come.
      v_is_whole := v_is_old or (not v_week.is_open and v_week.first_day + 7 <= v_today);
      if not p_dry_run then
        perform monitor.hold_days(case when v_is_whole
          then array(select v_week.first_day + n from generate_series(0, 6) as n) else v_week.days end, true);
        -- While that was waited for, another one may have dropped it, or late samples have come.
        if not exists (select from monitor.sample_days where day = any (v_week.days) and state = 'chunks') then
          v_excess := coalesce(monitor.monitor_bytes() - p_keep_megabytes * 1000000::bigint, 0); -- less, by what he freed
          continue;
        end if;
        if exists (
          select from monitor.late_samples
          where recorded_at >= monitor.utc_midnight(v_week.first_day) and recorded_at < monitor.utc_midnight(v_week.first_day + 7)
        ) or v_week.days is distinct from (
          select array_agg(day order by day) from monitor.sample_days
          where state = 'chunks' and day >= v_week.first_day and day < v_week.first_day + 7
        ) then
          v_held := v_held + 1;
          v_detail := 'the week of ' || v_week.first_day || ' is being written';
          v_is_blocked := not v_is_old;
          exit when v_is_blocked;
          continue;
        end if;
      end if;
      -- Nothing is freed by one that another drops meanwhile.
      v_excess := v_excess - coalesce(pg_total_relation_size(to_regclass('monitor.' || v_week.partition)), 0);
      if not p_dry_run then
        select coalesce(sum(sample_count), 0) into v_found
        from monitor.metric_chunks where day >= v_week.first_day and day < v_week.first_day + 7;
        delete from monitor.chunk_times where day = any (v_week.days);
        update monitor.sample_days set state = 'dropped', state_since = p_now where day = any (v_week.days);
        -- Last, because from here on nobody else reaches the table.
        execute format(case when v_is_whole then 'drop table monitor.%I' else 'truncate table monitor.%I' end, v_week.partition);
      end if;
      v_weeks := v_weeks + 1;
      v_samples := v_samples + v_found;
      v_days := v_days + cardinality(v_week.days);
      v_gone := v_gone || v_week.days;
      if not v_is_old then
        v_shed_days := v_shed_days + cardinality(v_week.days);
        v_detail := format('over the budget of %s MB: samples before %s were dropped before their time',
          p_keep_megabytes, v_week.days[cardinality(v_week.days)] + 1);
      end if;
    exception
      when lock_not_available or deadlock_detected then
        v_contended := v_contended + 1;
        v_detail := 'others are using the table; the next run will try again';
        exit; -- whoever reads the table now will still do so for the next week
      when undefined_table then
        v_contended := v_contended + 1;
        v_detail := 'another one is dropping weeks; the next run will go on';
        exit; -- what he frees is not known, and no younger week must go in its place
    end;
  end loop;

  if v_excess > 0 and v_contended = 0 and not v_more and not v_is_blocked then
    v_held := v_held + 1;
    v_detail := concat_ws('; ', v_detail, format('%s MB over the budget of %s MB, and no week of chunks is left to drop',
      ceil(v_excess / 1e6), p_keep_megabytes));
  end if;
  select min(day) into v_oldest from monitor.sample_days where state <> 'dropped' and day <> all (v_gone);
  return monitor.retention_result(
    'metric_chunks', jsonb_build_object('weeks', v_weeks, 'days', v_days, 'samples', v_samples, 'shed_days', v_shed_days),
    case when v_held > 0 then jsonb_build_object('held', v_held) else '{}' end, v_contended,
    monitor.utc_midnight(v_oldest), v_more and v_contended = 0, v_started_at, v_detail);
end;
$$;

create or replace function monitor.cleanup_old_rollups(
  retention_days  integer     default 400,
  p_now           timestamptz default now(),
  p_dry_run       boolean     default false,
  p_limit         integer     default 10
)
returns jsonb
language plpgsql
security definer -- dropping a partition takes the owner of the table
set search_path = ''
set lock_timeout = '500ms'
as $$
declare
  v_started_at  timestamptz := clock_timestamp();
  v_cutoff      date := (monitor.retention_cutoff(retention_days, p_now) at time zone 'UTC')::date;
  v_month       record;
  v_months      integer := 0;
  v_due         integer := 0;
  v_held        integer := 0;
  v_contended   integer := 0;
  v_oldest      date;
begin
  perform monitor.check_retention_limit(p_limit);
  for v_month in
    select child.relname as partition, to_date(right(child.relname, 6), 'YYYYMM') as first_day
    from pg_catalog.pg_inherits
    join pg_catalog.pg_class as child on child.oid = inhrelid
    where inhparent = 'monitor.metric_rollups'::regclass
    order by 2
  loop
    if v_month.first_day + interval '1 month' > v_cutoff then
      v_oldest := least(v_oldest, v_month.first_day);
      continue;
    end if;
    -- Of what is in chunks, hours are read from here alone; and what is still to be compacted or merged needs the place.
    if exists (
      select from monitor.sample_days
      where state <> 'dropped' and day >= v_month.first_day and day < v_month.first_day + interval '1 month'
    ) then
      v_held := v_held + 1;
      v_oldest := least(v_oldest, v_month.first_day);
      continue;
    end if;
    v_due := v_due + 1;
    continue when not p_dry_run and v_months >= p_limit;
    begin
      if not p_dry_run then
        execute format('drop table monitor.%I', v_month.partition);
      end if;
      v_months := v_months + 1;
    exception
      when lock_not_available or deadlock_detected then
        v_contended := v_contended + 1;
        exit;
      when undefined_table then
        v_due := v_due - 1; -- another one dropped it before we had the lock
    end;
  end loop;
  return monitor.retention_result(
    'metric_rollups', jsonb_build_object('months', v_months),
    case when v_held > 0 then jsonb_build_object('held', v_held) else '{}' end, v_contended, monitor.utc_midnight(v_oldest),
    not p_dry_run and v_contended = 0 and v_months < v_due, v_started_at,
    case when v_contended > 0 then 'others are using the table; the next run will try again'
      when v_held > 0 then 'samples of these months are kept as well' end);
end;
$$;

revoke all on all functions in schema monitor from public;
