-- Purpose:  one way in for samples, of collectors and of senders: series with a ceiling, deltas, late samples.
-- Locks:    access exclusive on metric_series, metric_definitions and settings while columns and a check change.
-- Undo:     drop function monitor.ingest_samples(jsonb, integer[], bigint[], double precision[], timestamptz),
--           monitor.write_samples(jsonb, integer[], bigint[], double precision[], boolean, timestamptz),
--           monitor.resolve_series(jsonb, boolean), monitor.open_days(date[], timestamptz);
--           drop trigger metric_series_check_labels on monitor.metric_series; drop trigger
--           metric_series_check_changed_labels on monitor.metric_series; drop function monitor.check_series_labels();
--           add the check metric_series_labels_valid again, drop the columns added here; run 20261121090200's record_samples
--           again, as create or replace.

alter table monitor.metric_definitions
  add column series_limit integer not null default 1000,
  add constraint metric_definitions_series_limit_in_range check (series_limit between 1 and 100000);

comment on column monitor.metric_definitions.series_limit is
  'Most series the metric may have; further sets of labels go to its series {otel_metric_overflow="true"}.';

alter table monitor.settings
  add column ingested_metric_limit integer not null default 1000,
  add column series_limit          integer not null default 50000,
  add constraint settings_ingested_metric_limit_in_range check (ingested_metric_limit between 0 and 100000),
  add constraint settings_series_limit_in_range check (series_limit between 1 and 10000000);

comment on column monitor.settings.ingested_metric_limit is 'Most metrics that senders may bring; samples of further ones are refused.';
comment on column monitor.settings.series_limit is 'Most series of all metrics together; beyond it, new ones overflow as if their metric were full.';

alter table monitor.metric_series
  add column delta_total      double precision,
  add column overflow_samples bigint not null default 0,
  add constraint metric_series_overflow_samples_not_negative check (overflow_samples >= 0),
  drop constraint metric_series_labels_valid;

comment on column monitor.metric_series.delta_total is
  'What the increments of a sender that reports deltas add up to, which is what is stored; null for all others.';
comment on column monitor.metric_series.overflow_samples is
  'How many samples of sets of labels beyond the metric''s ceiling were sent to this series.';

-- A check is evaluated at every update, and last_sample_at is updated every minute: this one took 80 % of that.
create function monitor.check_series_labels()
returns trigger
language plpgsql
security invoker
set search_path = ''
as $$
begin
  if not monitor.labels_are_valid(new.labels) then
    raise exception 'the labels of a series are an object of non-empty strings with Prometheus label names'
      using errcode = 'check_violation', constraint = 'metric_series_labels_valid', table = 'metric_series', schema = 'monitor';
  end if;
  return new;
end;
$$;

comment on function monitor.check_series_labels() is 'Trigger of metric_series: refuses labels that monitor.labels_are_valid does.';

create trigger metric_series_check_labels
  before insert on monitor.metric_series
  for each row execute function monitor.check_series_labels();

-- After, because any trigger before updates has each of them lock its row first and compute labels_hash anew.
create trigger metric_series_check_changed_labels
  after update of labels on monitor.metric_series
  for each row execute function monitor.check_series_labels();

create function monitor.open_days(p_days date[], p_now timestamptz)
returns void
language plpgsql
security definer -- creating a partition takes the owner of the table
set search_path = ''
set lock_timeout = '2s'
as $$
declare
  v_today  date := (p_now at time zone 'UTC')::date;
  v_day    date;
begin
  for v_day in
    select distinct wanted from unnest(p_days) as wanted
    where wanted between v_today - 7 and v_today + 1
      and not exists (select from monitor.sample_days as known where known.day = wanted)
    order by wanted
  loop
    if v_day >= v_today then
      perform monitor.ensure_sample_days(p_now, 1);
    else
      -- Nothing ran on that day: what comes of it now is late, and goes where late samples of any day go.
      perform monitor.ensure_chunk_partitions(v_day);
      insert into monitor.sample_days (day, state, state_since, sample_count) values (v_day, 'chunks', p_now, 0)
      on conflict do nothing;
    end if;
  end loop;
end;
$$;

comment on function monitor.open_days(date[], timestamptz) is
  'Makes sure that samples of these UTC days have somewhere to go, from 7 days before p_now to the next day; leaves alone days '
  'that are known, also dropped ones, and those outside. Errors: 55P03 when a table stayed locked for 2 s.';

create function monitor.resolve_series(
  p_series  jsonb,
  p_is_own  boolean,
  out series_ids   integer[],
  out reasons      text[],
  out is_delta     boolean[],
  out is_overflow  boolean[]
)
language plpgsql
security invoker
set search_path = ''
set jit = off
as $$
declare
  c_overflow constant jsonb := '{"otel_metric_overflow": "true"}';
  c_class    constant integer := 1885828967;
  v_attempt   integer;
  v_missing   boolean;
  v_metric    record;
  v_room      integer;
  v_total     bigint;
  v_made        bigint;
  v_total_limit integer;
begin
  for v_attempt in 1..2 loop
    select
      array_agg(coalesce(series.series_id, overflow.series_id) order by sent.place),
      array_agg(case
        when definition.metric is null and v_attempt = 2 then 'there are too many metrics already'
        when definition.metric is not null and not definition.is_ingestible and not p_is_own then 'is the monitor''s own'
        end order by sent.place),
      array_agg(sent.is_delta order by sent.place),
      array_agg(series.series_id is null order by sent.place),
      bool_or(series.series_id is null and (definition.is_ingestible is not false or p_is_own))
    into series_ids, reasons, is_delta, is_overflow, v_missing
    from (
      select place, entry ->> 'metric' as metric, md5((entry -> 'labels')::text)::uuid as labels_hash,
        coalesce((entry ->> 'is_delta')::boolean, false) as is_delta
      from jsonb_array_elements(p_series) with ordinality as item (entry, place)
      offset 0 -- computed once, not in every condition that it appears in
    ) as sent
    left join monitor.metric_definitions as definition using (metric)
    left join monitor.metric_series as series using (metric, labels_hash)
    left join monitor.metric_series as overflow
      on v_attempt = 2 and series.series_id is null
      and overflow.metric = sent.metric and overflow.labels_hash = md5(c_overflow::text)::uuid;
    exit when not v_missing or v_attempt = 2;

    if not p_is_own then
      insert into monitor.metric_definitions
        (metric, category, unit, kind, description, detection_enabled, is_ingestible)
      select sent.metric, 'performance', coalesce(nullif(sent.unit, ''), 'unknown'), coalesce(sent.kind, 'gauge'),
        coalesce(nullif(sent.description, ''), 'Sent by an application.'),
        -- The parts of a histogram and what describes a process are no quantities to judge one by one.
        sent.metric !~ '_bucket$' and sent.metric <> 'target_info', true
      from (
        select first.*
        from (
          select distinct on (entry ->> 'metric')
            entry ->> 'metric' as metric, entry ->> 'kind' as kind, left(entry ->> 'unit', 100) as unit,
            left(entry ->> 'description', 1000) as description, place
          from jsonb_array_elements(p_series) with ordinality as item (entry, place)
          where not exists (select from monitor.metric_definitions as known where known.metric = entry ->> 'metric')
          order by entry ->> 'metric', place
        ) as first
        order by first.place
        limit greatest(0, (select ingested_metric_limit from monitor.settings)
          - (select count(*) from monitor.metric_definitions where is_ingestible))
      ) as sent
      order by sent.metric -- one order for all, so that two who register the same metrics cannot deadlock
      on conflict do nothing;
    end if;

    -- Counted once, not for each metric: there may be a thousand.
    select settings.series_limit into v_total_limit from monitor.settings;
    select count(*) into v_total from (select from monitor.metric_series limit v_total_limit) as known;
    for v_metric in
      select sent.metric, definition.series_limit, jsonb_agg(sent.labels order by sent.place) as labels
      from (
        select distinct on (entry ->> 'metric', entry -> 'labels')
          entry ->> 'metric' as metric, entry -> 'labels' as labels, md5((entry -> 'labels')::text)::uuid as labels_hash, place
        from jsonb_array_elements(p_series) with ordinality as item (entry, place)
        order by entry ->> 'metric', entry -> 'labels', place
      ) as sent
      join monitor.metric_definitions as definition using (metric)
      left join monitor.metric_series as series using (metric, labels_hash)
      where series.series_id is null and (definition.is_ingestible or p_is_own)
      group by sent.metric, definition.series_limit
      order by sent.metric -- one order for all, so that two who make series of the same metrics cannot deadlock
    loop
      for v_check in 1..2 loop
        select v_metric.series_limit - count(*) into v_room
        from (
          select from monitor.metric_series
          where metric = v_metric.metric and labels <> c_overflow
          limit v_metric.series_limit
        ) as known;
        exit when v_room = 0 or v_check = 2;
        -- Counted again alone, and only when there may be room: under a flood nobody waits here.
        perform pg_advisory_xact_lock(c_class, hashtext(v_metric.metric));
      end loop;
      if v_room > 0 then
        v_room := least(v_room, v_total_limit - v_total);
        insert into monitor.metric_series (metric, labels)
        select v_metric.metric, labels
        from jsonb_array_elements(v_metric.labels) with ordinality as item (labels, place)
        order by place
        limit greatest(v_room, 0)
        on conflict do nothing;
        get diagnostics v_made = row_count;
        v_total := v_total + v_made;
      end if;
      if v_room < jsonb_array_length(v_metric.labels) then
        insert into monitor.metric_series (metric, labels) values (v_metric.metric, c_overflow) on conflict do nothing;
      end if;
    end loop;
  end loop;
end;
$$;

comment on function monitor.resolve_series(jsonb, boolean) is
  'The series of [{metric, labels, kind?, unit?, description?, is_delta?}] in that order, made where there are none: '
  'series_ids (null where there is a reason why not), reasons, is_delta, and is_overflow where the metric, or all of them '
  'together, have as many series as they may, so that the id is that of its overflow series. Metrics that are not known are '
  'registered unless p_is_own; what is not ingestible is only for p_is_own. Errors: 23514 for labels that are none.';

create function monitor.write_samples(
  p_series     jsonb,
  p_positions  integer[],
  p_times      bigint[],
  p_values     double precision[],
  p_is_own     boolean,
  p_now        timestamptz default now()
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
set jit = off
as $$
declare
  c_late_pairs         constant integer := 2000;
  c_late_chunk_samples constant integer := 2000000;
  -- As many of them as one request brings still have a sum.
  c_largest_summand constant double precision := 1e300;
  v_count       integer := case when jsonb_typeof(p_series) = 'array' then jsonb_array_length(p_series) end;
  -- Variables of their own, not a record: then a place in them is found at once, however many there are.
  v_ids         integer[];
  v_reasons     text[];
  v_is_delta    boolean[];
  v_is_overflow boolean[];
  v_days        date[];
  v_states      text[];
  v_last        bigint[];
  v_totals      double precision[];
  v_kinds       boolean[];
  v_is_wrong    boolean;
  v_is_gone     boolean;
  v_oldest      bigint;
  v_newest      bigint;
  v_is_plain    boolean;
  v_good        bigint;
  v_overflowed  bigint := 0;
  v_inserted    bigint;
  v_rejected    jsonb := '[]';
begin
  if v_count is null or p_positions is null
     or (cardinality(p_positions) = all (array[cardinality(p_times), cardinality(p_values)])) is not true then
    v_is_wrong := true;
  elsif cardinality(p_positions) = 0 then
    return '{"inserted": 0, "duplicates": 0, "overflowed": 0, "rejected": []}';
  else
    select series_ids, reasons, is_delta, is_overflow into v_ids, v_reasons, v_is_delta, v_is_overflow
    from monitor.resolve_series(p_series, p_is_own);

    -- Each series belongs to one writer at a time, and all take them in one order, so that no two can deadlock.
    with locked as materialized (
      select series.series_id, series.last_sample_at, series.delta_total
      from monitor.metric_series as series
      where series.series_id = any (v_ids)
      order by series.series_id
      for no key update
    )
    select
      array_agg((date_part('epoch', locked.last_sample_at) * 1000)::bigint order by wanted.place),
      array_agg(locked.delta_total order by wanted.place),
      bool_or(wanted.series_id is not null and locked.series_id is null)
    into v_last, v_totals, v_is_gone
    from unnest(v_ids) with ordinality as wanted (series_id, place)
    left join locked using (series_id);
    if v_is_gone then
      -- Its samples would belong to nobody.
      raise exception 'a series was deleted while samples of it arrived'
        using errcode = 'serialization_failure', hint = 'Send them again: the series is made anew.';
    end if;

    -- One look at all samples: what is wrong with any, what days they are of, whether all are new to their series.
    select
      bool_or((place between 1 and v_count) is not true or at is null or (abs(value) < 'infinity') is not true),
      min(at), max(at), bool_or(at <= v_last[place]) is not true
    into v_is_wrong, v_oldest, v_newest, v_is_plain
    from (select unnest(p_positions) as place, unnest(p_times) as at, unnest(p_values) as value) as sample;
  end if;
  if v_is_wrong then
    raise exception 'p_positions, p_times and p_values must be as long as each other, without nulls, values finite, positions within p_series'
      using errcode = 'invalid_parameter_value',
            hint = 'Pass e.g. [{"metric":"queue_depth","labels":{},"kind":"gauge"}], {1}, {1767225600000}, {0}.';
  end if;

  -- Held before it is looked at, so that none is sealed while it is written to.
  select array_agg(date '1970-01-01' + number) into v_days
  from (
    select distinct (least(greatest(at, 0), 4102444800000) / 86400000)::integer as number
    from unnest(case when v_oldest / 86400000 = v_newest / 86400000 then array[v_oldest] else p_times end) as at
  ) as day
  -- Others cannot be opened. Each takes a lock of which there are some thousand for all sessions.
  where exists (select from monitor.sample_days as known where known.day = date '1970-01-01' + day.number)
    or date '1970-01-01' + day.number between (p_now at time zone 'UTC')::date - 7 and (p_now at time zone 'UTC')::date + 1;
  perform monitor.hold_days(coalesce(v_days, '{}'));
  select array_agg(wanted.day), array_agg(known.state) into v_days, v_states
  from unnest(v_days) as wanted (day) left join monitor.sample_days as known using (day);
  if array_position(v_states, null) is not null and not p_is_own then
    perform monitor.open_days(v_days, p_now);
    select array_agg(wanted.day), array_agg(known.state) into v_days, v_states
    from unnest(v_days) as wanted (day) left join monitor.sample_days as known using (day);
  end if;

  -- To see whether a late sample is there already, its chunk is decoded: 1.7 s for as many samples of chunks as this. All or
  -- nothing, because of increments the later ones would make duplicates of those refused.
  if v_states && array['sealed', 'chunks'] and (
    select coalesce(sum(chunk.sample_count), 0) > c_late_chunk_samples or count(*) > c_late_pairs
    from (
      select distinct day.day, v_ids[sample.place] as series_id
      from unnest(p_positions, p_times) as sample (place, at)
      join unnest(v_days, v_states) as day (day, state)
        on day.day = date '1970-01-01' + (least(greatest(sample.at, 0), 4102444800000) / 86400000)::integer
      where day.state in ('sealed', 'chunks')
    ) as pair
    left join monitor.metric_chunks as chunk on chunk.series_id = pair.series_id and chunk.day = pair.day
  ) then
    raise exception 'samples of closed days are of more than % pairs of a series and a day, or of series with too many samples', c_late_pairs
      using errcode = 'program_limit_exceeded', hint = 'Nothing was stored. Send fewer series or days at a time.';
  end if;

  -- The common case: nothing but newer samples of days that are open. They cannot be there already.
  v_is_plain := v_is_plain and array_remove(v_reasons, null) = '{}' and v_states <@ array['rows']
    and not true = any (v_is_delta) and not true = any (v_is_overflow)
    and array_remove(v_totals, null) = '{}'; -- of one that reported deltas before, the total is forgotten below
  if v_is_plain then
    begin
      insert into monitor.metric_time_series (recorded_at, value, series_id)
      select to_timestamp(at::double precision / 1000), value, v_ids[place]
      from (select unnest(p_positions) as place, unnest(p_times) as at, unnest(p_values) as value) as sample;
      get diagnostics v_inserted = row_count;
      v_good := v_inserted;
    exception when unique_violation then
      v_is_plain := false; -- two of them have the same series and time
    end;
  end if;

  if v_is_plain then
    update monitor.metric_series as series
    set last_sample_at = to_timestamp(newest.at::double precision / 1000)
    from (
      select v_ids[place] as series_id, max(at) as at
      from unnest(p_positions, p_times) as sample (place, at)
      group by 1
    ) as newest
    where series.series_id = newest.series_id;
  else
    select array_agg(definition.kind = 'counter' order by wanted.place) into v_kinds
    from unnest(v_ids) with ordinality as wanted (series_id, place)
    left join monitor.metric_series as series using (series_id)
    left join monitor.metric_definitions as definition using (metric);

    with sent as materialized (
      select
        v_ids[sample.place] as series_id, sample.place, sample.at, sample.value, sample.number,
        day.day, day.state,
        v_is_overflow[sample.place] as is_overflow,
        v_is_delta[sample.place] as is_delta,
        coalesce(v_reasons[sample.place], case
          when day.state = 'dropped' then 'its day was dropped'
          when day.state is null then case
            when sample.at > date_part('epoch', p_now) * 1000 then 'too far ahead' else 'too old' end
          when (v_is_delta[sample.place] or v_is_overflow[sample.place]) and abs(sample.value) > c_largest_summand
            then 'is too large to be added up'
          end) as reason
      from unnest(p_positions, p_times, p_values) with ordinality as sample (place, at, value, number)
      left join unnest(v_days, v_states) as day (day, state)
        on day.day = date '1970-01-01' + (least(greatest(sample.at, 0), 4102444800000) / 86400000)::integer
    ), folded as (
      -- One value a series and time: the first; for what overflows, of what can be added up the sum.
      select
        sent.series_id, sent.at, sent.day, sent.state, bool_or(sent.is_delta) as is_delta, bool_or(sent.is_overflow) as is_overflow,
        min(sent.place) as place, count(*) filter (where sent.is_overflow) as overflowed,
        case when bool_and(sent.is_overflow and (sent.is_delta or v_kinds[sent.place]))
          then sum(sent.value) else (array_agg(sent.value order by sent.number))[1] end as value
      from sent
      where sent.reason is null and not (sent.is_delta and sent.at <= coalesce(v_last[sent.place], sent.at - 1))
      group by sent.series_id, sent.at, sent.day, sent.state
    ), ready as materialized (
      select
        folded.series_id, folded.at, folded.day, folded.state, folded.is_delta, folded.is_overflow, folded.overflowed,
        case when folded.is_delta
          -- A total that comes near the largest number starts again at 0, as any counter may.
          then coalesce(case when abs(v_totals[folded.place]) <= c_largest_summand then v_totals[folded.place] end, 0)
          + sum(folded.value) over (partition by folded.series_id order by folded.at rows unbounded preceding)
          else folded.value end as value
      from folded
    ), known as (
      select scanned.series_id, unnest(scanned.times) as at
      from (
        select day, array_agg(distinct series_id) as series_ids from ready where state <> 'rows' group by day
      ) as late
      cross join lateral monitor.scan_series(
        late.series_ids, monitor.utc_midnight(late.day), monitor.utc_midnight(late.day + 1)) as scanned
    ), stored as (
      insert into monitor.metric_time_series (recorded_at, value, series_id)
      select to_timestamp(at::double precision / 1000), value, series_id from ready where state = 'rows' and abs(value) < 'infinity'
      on conflict do nothing
      returning series_id, recorded_at
    ), stored_late as (
      insert into monitor.late_samples (series_id, recorded_at, value)
      select ready.series_id, to_timestamp(ready.at::double precision / 1000), ready.value
      from ready
      where ready.state <> 'rows' and abs(ready.value) < 'infinity'
        and not exists (select from known where known.series_id = ready.series_id and known.at = ready.at)
      on conflict do nothing
      returning series_id, recorded_at
    ), touched as (
      update monitor.metric_series as series
      set last_sample_at = greatest(series.last_sample_at, to_timestamp(newest.at::double precision / 1000)),
          delta_total = case when newest.is_delta then newest.total end,
          overflow_samples = series.overflow_samples + newest.overflowed
      from (
        select series_id, max(at) as at, bool_or(is_delta) as is_delta,
          (array_agg(value order by at desc) filter (where is_delta))[1] as total, sum(overflowed) as overflowed
        from ready
        group by series_id
      ) as newest
      where series.series_id = newest.series_id
    )
    select
      (select count(*) from sent where reason is null and not is_overflow),
      (select count(*) from sent where reason is null and is_overflow),
      (select count(*) from ready
        join (select * from stored union all select * from stored_late) as kept
          on kept.series_id = ready.series_id and kept.recorded_at = to_timestamp(ready.at::double precision / 1000)
        where not ready.is_overflow),
      (select coalesce(jsonb_agg(jsonb_build_object('metric', metric, 'reason', reason, 'count', count) order by metric, reason), '[]')
        from (
          select p_series -> (place - 1) ->> 'metric' as metric, reason, count(*)
          from sent where reason is not null group by 1, 2
        ) as refused)
    into v_good, v_overflowed, v_inserted, v_rejected;
  end if;

  return jsonb_build_object(
    'inserted', v_inserted, 'duplicates', v_good - v_inserted, 'overflowed', v_overflowed, 'rejected', v_rejected);
end;
$$;

comment on function monitor.write_samples(jsonb, integer[], bigint[], double precision[], boolean, timestamptz) is
  'Stores samples: each has its series'' place in p_series (from 1), epoch milliseconds, a finite value. Those of a series that '
  'reports deltas are added up; at or before its last time they are duplicates. Samples of closed days become late samples. '
  'Returns {inserted, duplicates, overflowed, rejected: [{metric, reason, count}]}, which add up to all. p_is_own: the '
  'monitor itself writes, which neither registers metrics nor opens days. Errors: 22023 for arguments that do not fit, 23514 '
  'for labels that are none, 40001 when a series was deleted meanwhile.';

create function monitor.ingest_samples(
  p_series     jsonb,
  p_positions  integer[],
  p_times      bigint[],
  p_values     double precision[],
  p_now        timestamptz default now()
)
returns jsonb
language sql
security invoker
set search_path = ''
as $$
  select monitor.write_samples(p_series, p_positions, p_times, p_values, false, p_now);
$$;

comment on function monitor.ingest_samples(jsonb, integer[], bigint[], double precision[], timestamptz) is
  'monitor.write_samples for what senders bring.';

create or replace function monitor.record_samples(
  p_samples      jsonb,
  p_recorded_at  timestamptz
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_recorded_at  timestamptz := date_trunc('milliseconds', p_recorded_at, 'UTC');
  v_day_state    text;
  v_good         integer;
  v_rejected     jsonb;
  v_entries      jsonb;
  v_stored       jsonb;
begin
  if p_recorded_at is null or jsonb_typeof(p_samples) is distinct from 'array' then
    raise exception 'p_samples must be an array and p_recorded_at a time'
      using errcode = 'invalid_parameter_value',
            hint    = 'Pass e.g. [{"metric":"active_incidents","labels":{},"value":0}] and a time.';
  end if;

  perform monitor.hold_days(array[(v_recorded_at at time zone 'UTC')::date]);
  select state into v_day_state from monitor.sample_days where day = (v_recorded_at at time zone 'UTC')::date;

  -- Each entry is judged on its own: a bad one is named and the others are stored.
  with judged as (
    select
      position,
      entry -> 'metric' as metric,
      coalesce(entry -> 'labels', '{}') as labels,
      entry -> 'value' as value,
      case
        when v_day_state is distinct from 'rows' then 'no open day for ' || v_recorded_at::text
        when definition.metric is null then 'unknown metric'
        when not monitor.labels_are_valid(coalesce(entry -> 'labels', '{}')) then 'labels are not an object of non-empty strings'
        when jsonb_typeof(entry -> 'value') is distinct from 'number' then 'value is not a finite number'
        when abs((entry ->> 'value')::numeric) > 1.7976931348623157e308 then 'value is beyond double precision'
        when (entry ->> 'value')::numeric <> 0 and abs((entry ->> 'value')::numeric) < 1e-307 then 'value is beyond double precision'
      end as reason
    from jsonb_array_elements(p_samples) with ordinality as item (entry, position)
    left join monitor.metric_definitions as definition on definition.metric = entry ->> 'metric'
  )
  select
    coalesce(jsonb_agg(jsonb_build_object('metric', metric, 'labels', labels, 'reason', reason) order by position)
      filter (where reason is not null), '[]'),
    coalesce(jsonb_agg(jsonb_build_object('metric', metric, 'labels', labels, 'value', value) order by position)
      filter (where reason is null), '[]'),
    count(*) filter (where reason is null)
  into v_rejected, v_entries, v_good
  from judged;

  v_stored := monitor.write_samples(
    v_entries,
    array(select generate_series(1, v_good)),
    array_fill((date_part('epoch', v_recorded_at) * 1000)::bigint, array[v_good]),
    array(select (entry ->> 'value')::double precision from jsonb_array_elements(v_entries) with ordinality as item (entry, position) order by position),
    true, p_recorded_at);

  return jsonb_build_object(
    'inserted', v_stored -> 'inserted', 'duplicates', v_stored -> 'duplicates', 'overflowed', v_stored -> 'overflowed',
    'rejected', v_rejected);
end;
$$;

comment on function monitor.record_samples(jsonb, timestamptz) is
  'Stores samples [{metric, labels?, value}] that the monitor took at p_recorded_at, making series as needed. '
  'Returns {inserted, duplicates, overflowed, rejected: [{metric, labels, reason}]}; a (series, time) already there is a '
  'duplicate and keeps its first value. Errors: 22023 when an argument is missing or no array.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.open_days(date[], timestamptz),
  monitor.resolve_series(jsonb, boolean),
  monitor.write_samples(jsonb, integer[], bigint[], double precision[], boolean, timestamptz),
  monitor.ingest_samples(jsonb, integer[], bigint[], double precision[], timestamptz)
to service_role;
