-- Purpose:  where samples lie after their day has closed: arrays by series and day, hour rollups, samples that came late.
-- Locks:    access exclusive on sample_days and metric_definitions while columns are added; both are small.
-- Undo:     closed days are in chunks only: decode them into rows first. drop table monitor.metric_chunks,
--           monitor.chunk_times, monitor.metric_rollups, monitor.late_samples;
--           drop function monitor.ensure_chunk_partitions(date), monitor.encode_values(double precision[]),
--           monitor.decimal_places(double precision[]),
--           monitor.decode_values(smallint, bigint, boolean, "char"[], "char"[], "char"[], "char"[], double precision[]),
--           monitor.decode_times(integer[]), monitor.utc_midnight(date);
--           alter table monitor.sample_days drop column sample_count, drop column compacted_series_id;
--           alter table monitor.metric_definitions drop column is_ingestible.
--
-- What was measured (1,440 samples a day and series, bytes a sample): offsets from one base as whole bytes in planes of
-- their own, the upper ones squeezed by TOAST: counts 1.0, percentages with 2 decimals 1.6, milliseconds with 3 decimals
-- 2.3; the same in smallint[] or integer[]: 2.0, 2.0, 4.0; as float8[]: 8. Decoding costs 0.1-0.2 µs a sample.

alter table monitor.metric_definitions add column is_ingestible boolean not null default false;

comment on column monitor.metric_definitions.is_ingestible is
  'Whether senders may write it. The monitor''s own metrics are false; what a sender brings is registered as true.';

alter table monitor.sample_days
  add column sample_count         bigint,
  add column compacted_series_id  integer,
  add constraint sample_days_sample_count_not_negative check (sample_count >= 0);

comment on column monitor.sample_days.sample_count is
  'How many rows were found in chunks again, bit for bit, while the day was compacted. The rows go only if they are as many.';
comment on column monitor.sample_days.compacted_series_id is
  'Where compaction goes on: every series up to this one is in chunks. Null before it began.';

create table monitor.chunk_times (
  times_id    integer   generated always as identity,
  day         date      not null,
  steps       integer[] not null,
  times_hash  bytea     not null,

  constraint chunk_times_pkey primary key (times_id),
  constraint chunk_times_day_times_hash_key unique (day, times_hash),
  constraint chunk_times_steps_present check (cardinality(steps) > 0)
);

comment on table monitor.chunk_times is
  'When samples were taken, once for all chunks of a day that share it: series that are measured together have equal times.';
comment on column monitor.chunk_times.steps is
  'Milliseconds from midnight UTC to the first sample, then from each to the next. Even steps compress to nearly nothing.';
comment on column monitor.chunk_times.times_hash is
  'SHA-256 of the times, array_send(decode_times(steps)): they are larger than an index entry may be.';

create table monitor.metric_chunks (
  series_id     integer  not null,
  day           date     not null,
  times_id      integer  not null,
  sample_count  integer  not null,
  scale         smallint,
  base          bigint,
  is_delta      boolean,
  plane_0       "char"[],
  plane_1       "char"[],
  plane_2       "char"[],
  plane_3       "char"[],
  floats        double precision[],

  constraint metric_chunks_pkey primary key (series_id, day),
  constraint metric_chunks_sample_count_positive check (sample_count > 0),
  constraint metric_chunks_planes_or_floats check ((plane_0 is null) <> (floats is null)),
  constraint metric_chunks_count_fits check (coalesce(cardinality(plane_0), cardinality(floats)) = sample_count)
) partition by range (day);

comment on table monitor.metric_chunks is
  'The samples of one series and one UTC day that has closed, partitioned by week. monitor.decode_values gives the values, '
  'chunk_times their times.';
comment on column monitor.metric_chunks.times_id is
  'Of chunk_times. No foreign key: it would cost every chunk a look-up, and monitor.write_chunks is the only writer.';
comment on column monitor.metric_chunks.scale is
  'Decimals of the values: a value is its number / 10^scale, where that gives back every bit. Null with floats.';
comment on column monitor.metric_chunks.base is 'What is added to every number, or with is_delta the first number.';
comment on column monitor.metric_chunks.is_delta is 'The planes hold the difference to the number before, not to the base.';
comment on column monitor.metric_chunks.plane_0 is 'Lowest byte of each number, from -128 to 127.';
comment on column monitor.metric_chunks.plane_1 is 'Next byte, times 256; null where no number needs it.';
comment on column monitor.metric_chunks.plane_2 is 'Next byte, times 65,536.';
comment on column monitor.metric_chunks.plane_3 is 'Next byte, times 16,777,216.';
comment on column monitor.metric_chunks.floats is 'The values as they are, where they have too many digits for planes.';

create table monitor.metric_rollups (
  series_id     integer  not null,
  day           date     not null,
  hours         integer  not null,
  sample_count  integer  not null,
  counts        integer[],
  scale         smallint,
  base          bigint,
  is_delta      boolean,
  plane_0       "char"[],
  plane_1       "char"[],
  plane_2       "char"[],
  plane_3       "char"[],
  floats        double precision[],

  constraint metric_rollups_pkey primary key (series_id, day),
  constraint metric_rollups_hours_in_a_day check (hours between 1 and 16777215),
  constraint metric_rollups_sample_count_positive check (sample_count > 0),
  constraint metric_rollups_planes_or_floats check ((plane_0 is null) <> (floats is null))
) partition by range (day);

comment on table monitor.metric_rollups is
  'What the hours of one series and one UTC day amount to, partitioned by month. Written with the chunk, kept longer. '
  'The numbers are kept as in metric_chunks: sums of all hours, then minima, maxima, first and last values. With a scale, a '
  'sum is what it exceeds count times minimum by: as few digits as the others.';
comment on column monitor.metric_rollups.hours is 'Bit h is set where hour h has samples: 2^24 - 1 for all.';
comment on column monitor.metric_rollups.base is 'As in metric_chunks.';
comment on column monitor.metric_rollups.counts is 'Samples of each hour; null where all have equally many.';

create table monitor.late_samples (
  series_id    integer          not null,
  recorded_at  timestamptz      not null,
  value        double precision not null,

  constraint late_samples_pkey primary key (series_id, recorded_at),
  constraint late_samples_value_finite check (abs(value) < 'infinity'),
  constraint late_samples_recorded_at_in_milliseconds
    check (recorded_at = date_trunc('milliseconds', recorded_at, 'UTC'))
);

comment on table monitor.late_samples is
  'A sample that came after its day had closed. Readers see it at once, compaction adds it to the day''s chunk. Never one '
  'that is there already: the first write wins.';

comment on column monitor.late_samples.value is 'In the unit of its metric.';

create index late_samples_recorded_at_idx on monitor.late_samples (recorded_at);
alter table monitor.chunk_times enable row level security;
alter table monitor.metric_chunks enable row level security;
alter table monitor.metric_rollups enable row level security;
alter table monitor.late_samples enable row level security;

create policy chunk_times_select_authenticated
  on monitor.chunk_times for select to authenticated
  using ((select monitor.is_admin()));
create policy metric_chunks_select_authenticated
  on monitor.metric_chunks for select to authenticated
  using ((select monitor.is_admin()));
create policy metric_rollups_select_authenticated
  on monitor.metric_rollups for select to authenticated
  using ((select monitor.is_admin()));
create policy late_samples_select_authenticated
  on monitor.late_samples for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.chunk_times, monitor.metric_chunks, monitor.metric_rollups, monitor.late_samples
  to authenticated, service_role;
grant insert on monitor.late_samples to service_role;

create function monitor.utc_midnight(p_day date)
returns timestamptz
language sql
immutable
security invoker
set search_path = ''
as $$
  select p_day::timestamp at time zone 'UTC';
$$;

comment on function monitor.utc_midnight(date) is 'The moment a UTC day begins, null for null.';

create function monitor.ensure_chunk_partitions(p_day date)
returns integer
language plpgsql
security definer -- creating a partition takes the owner of the table
set search_path = ''
set lock_timeout = '500ms'
as $$
declare
  v_new      record;
  v_created  integer := 0;
begin
  for v_new in
    select wanted.*
    from (values
      ('metric_chunks', 'metric_chunks_' || to_char(p_day, 'IYYY"w"IW'), 'Chunks of the ISO week ' || to_char(p_day, 'IYYY-IW'),
        date_trunc('week', p_day::timestamp)::date, (date_trunc('week', p_day::timestamp) + interval '1 week')::date),
      ('metric_rollups', 'metric_rollups_' || to_char(p_day, 'YYYYMM'), 'Rollups of ' || to_char(p_day, 'YYYY-MM'),
        date_trunc('month', p_day::timestamp)::date, (date_trunc('month', p_day::timestamp) + interval '1 month')::date)
    ) as wanted (parent, partition, what, first_day, end_day)
    where to_regclass('monitor.' || wanted.partition) is null
  loop
    perform pg_advisory_xact_lock(hashtext('monitor.ensure_chunk_partitions'));
    -- Made by whoever was waited for. to_regclass may still remember that there was none: the lock is no table's.
    continue when exists (
      select from pg_catalog.pg_class where relnamespace = 'monitor'::regnamespace and relname = v_new.partition);
    -- Attached rather than created in place: that takes a weaker lock on the parent, so readers and writers go on.
    execute format('create table monitor.%I (like monitor.%I including all)', v_new.partition, v_new.parent);
    execute format('alter table monitor.%I enable row level security', v_new.partition);
    execute format('comment on table monitor.%I is %L', v_new.partition, v_new.what || '; a partition of ' || v_new.parent || '.');
    execute format('alter table monitor.%I attach partition monitor.%I for values from (%L) to (%L)',
      v_new.parent, v_new.partition, v_new.first_day, v_new.end_day);
    v_created := v_created + 1;
  end loop;
  return v_created;
end;
$$;

comment on function monitor.ensure_chunk_partitions(date) is
  'Makes sure that the week''s partition of metric_chunks and the month''s of metric_rollups exist, with row level security '
  'and a comment. Returns how many were created. Errors: 55P03 when a table stayed locked for 500 ms.';

create function monitor.decimal_places(p_values double precision[])
returns smallint
language sql
immutable
security invoker
set search_path = ''
set jit = off
as $$
  -- A whole number / 10^n is rounded by IEEE division to the double nearest to that decimal, which is what the value was
  -- read from. Beyond 2^53 not every whole number is a double.
  select case when max(places) < 99 and max(abs(v)) * power(10::double precision, max(places)) < 9e15 then max(places) end::smallint
  from unnest(p_values) as v
  cross join lateral (
    select case
      when not abs(v) < 9e15 then 99 -- NaN is above
      when v = 0 then case when v::text = '-0' then 99 else 0 end
      when v = round(v) then 0
      when v = round(v * 10) / 10 then 1
      when v = round(v * 100) / 100 then 2
      when v = round(v * 1000) / 1000 then 3
      when v = round(v * 10000) / 10000 then 4
      when v = round(v * 100000) / 100000 then 5
      when v = round(v * 1000000) / 1000000 then 6
      else 99 end as places
  ) as least;
$$;

comment on function monitor.decimal_places(double precision[]) is
  'Fewest decimals, up to 6, with which every value is a whole number below 9e15 / 10^n to the last bit; null when none does.';

create function monitor.encode_values(
  p_values  double precision[],
  out scale     smallint,
  out base      bigint,
  out is_delta  boolean,
  out plane_0   "char"[],
  out plane_1   "char"[],
  out plane_2   "char"[],
  out plane_3   "char"[],
  out floats    double precision[]
)
language plpgsql
immutable
security invoker
set search_path = ''
set jit = off
as $$
declare
  v_power         double precision;
  v_low           bigint;
  v_high          bigint;
  v_planes        integer;
  v_delta_planes  integer;
  v_some          integer;
begin
  if p_values is null or cardinality(p_values) = 0 or array_position(p_values, null) is not null then
    raise exception 'p_values must be an array without nulls that is not empty'
      using errcode = 'invalid_parameter_value', hint = 'A missing value is a missing sample.';
  end if;

  scale := monitor.decimal_places(p_values[1:8]); -- full precision shows in the first values already
  if scale is not null then
    scale := monitor.decimal_places(p_values);
  end if;

  if scale is not null then
    v_power := power(10::double precision, scale);
    select round(min(v) * v_power)::bigint, round(max(v) * v_power)::bigint into v_low, v_high from unnest(p_values) as v;
    v_planes := case
      when v_high - v_low < 256 then 1
      when v_high - v_low < 65536 then 2
      when v_high - v_low < 16777216 then 3
      when v_high - v_low < 4294967296 then 4
      else 9 end;
    -- Digits from -128 to 127 reach down to -128, -128 - 128 * 256, … : the lowest number takes the lowest of them.
    base := v_low + case v_planes when 1 then 128 when 2 then 32896 when 3 then 8421504 else 2155905152 end;
    is_delta := false;

    -- Differences are slower to read, so they have to save a plane: what only grows does, noise does not.
    -- Where the first differences need as many planes, all do.
    foreach v_some in array array[64, cardinality(p_values)] loop
      exit when v_planes = 1 or v_delta_planes >= v_planes;
      select case
        when min(step) >= -128 and max(step) < 128 then 1
        when min(step) >= -32896 and max(step) <= 32639 then 2
        when min(step) >= -8421504 and max(step) <= 8355711 then 3
        when min(step) >= -2147483648 and max(step) <= 2139062143 then 4
        else 9 end
      into v_delta_planes
      from (
        select number - lag(number) over () as step
        from (select round(v * v_power)::bigint as number from unnest(p_values[1:v_some]) as v) as scaled
      ) as stepped;
    end loop;
    if v_delta_planes < v_planes then
      v_planes := v_delta_planes;
      base := round(p_values[1] * v_power)::bigint;
      is_delta := true;
    end if;

    if v_planes <= 4 then
      -- Each number in base 256 with digits from -128 to 127, which is what "char" holds.
      select
        array_agg((((n + 128) & 255) - 128)::integer::"char"),
        array_agg((((n + 32896 >> 8) & 255) - 128)::integer::"char") filter (where v_planes > 1),
        array_agg((((n + 8421504 >> 16) & 255) - 128)::integer::"char") filter (where v_planes > 2),
        array_agg((((n + 2155905152 >> 24) & 255) - 128)::integer::"char") filter (where v_planes > 3)
      into plane_0, plane_1, plane_2, plane_3
      from (
        select round(v * v_power)::bigint - base as n from unnest(p_values) as v where not is_delta
        union all
        select number - lag(number, 1, number) over ()
        from (select round(v * v_power)::bigint as number from unnest(p_values) as v where is_delta) as scaled
      ) as placed;
      return;
    end if;
  end if;

  scale := null;
  base := null;
  is_delta := null;
  floats := p_values;
end;
$$;

comment on function monitor.encode_values(double precision[]) is
  'The values as metric_chunks keeps them: as bytes in planes where that gives back every bit, else as they are. '
  'Errors: 22023 for an empty array or one with nulls.';

create function monitor.decode_values(
  p_scale     smallint,
  p_base      bigint,
  p_is_delta  boolean,
  p_plane_0   "char"[],
  p_plane_1   "char"[],
  p_plane_2   "char"[],
  p_plane_3   "char"[],
  p_floats    double precision[]
)
returns double precision[]
language plpgsql
immutable
security invoker
set search_path = ''
set jit = off
as $$
declare
  v_power  double precision := power(10::double precision, p_scale);
begin
  if p_floats is not null then
    return p_floats;
  end if;
  if p_is_delta then
    return (
      select array_agg((p_base + number)::double precision / v_power)
      from (
        select sum(d0::integer + coalesce(d1::integer, 0) * 256 + coalesce(d2::integer, 0) * 65536
          + coalesce(d3::integer, 0) * 16777216) over (rows unbounded preceding) as number
        from (
          select unnest(p_plane_0) as d0, unnest(p_plane_1) as d1, unnest(p_plane_2) as d2, unnest(p_plane_3) as d3
        ) as digit
      ) as added);
  end if;
  return (
    select array_agg((p_base + d0::integer + coalesce(d1::integer, 0) * 256 + coalesce(d2::integer, 0) * 65536
      + coalesce(d3::integer, 0)::bigint * 16777216)::double precision / v_power)
    from (
      select unnest(p_plane_0) as d0, unnest(p_plane_1) as d1, unnest(p_plane_2) as d2, unnest(p_plane_3) as d3
    ) as digit);
end;
$$;

comment on function monitor.decode_values(smallint, bigint, boolean, "char"[], "char"[], "char"[], "char"[], double precision[]) is
  'What encode_values was given, bit for bit.';

create function monitor.decode_times(p_steps integer[])
returns integer[]
language sql
immutable
security invoker
set search_path = ''
set jit = off
as $$
  select array_agg(at) from (select sum(step) over (rows unbounded preceding)::integer as at from unnest(p_steps) as step) as added;
$$;

comment on function monitor.decode_times(integer[]) is 'Milliseconds since midnight UTC of every sample, from chunk_times.steps.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.utc_midnight(date),
  monitor.decode_values(smallint, bigint, boolean, "char"[], "char"[], "char"[], "char"[], double precision[]),
  monitor.decode_times(integer[])
to authenticated, service_role;
