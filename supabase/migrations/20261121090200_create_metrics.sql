-- Purpose:  metrics, their series and samples, one partition a UTC day, and the one way in.
-- Locks:    none on existing tables.
-- Undo:     drop table monitor.metric_time_series, monitor.sample_days, monitor.metric_series,
--           monitor.metric_definitions cascade; drop function monitor.record_samples(jsonb, timestamptz),
--           monitor.ensure_sample_days(timestamptz, integer), monitor.labels_are_valid(jsonb);

create table monitor.metric_definitions (
  metric                 text             not null,
  category               text             not null,
  unit                   text             not null,
  kind                   text             not null default 'gauge',
  description            text             not null,
  detection_enabled      boolean          not null default true,
  detection_direction    text             not null default 'both',
  detection_sensitivity  text             not null default 'normal',
  minimum_change         double precision not null default 0,

  constraint metric_definitions_pkey primary key (metric),
  constraint metric_definitions_metric_shape check (metric ~ '^[a-zA-Z_:][a-zA-Z0-9_:]{0,199}$'),
  constraint metric_definitions_category_known
    check (category in ('performance', 'security', 'workflow', 'monitoring', 'system')),
  constraint metric_definitions_unit_present check (unit <> ''),
  constraint metric_definitions_kind_known check (kind in ('gauge', 'counter')),
  constraint metric_definitions_description_present check (description <> ''),
  constraint metric_definitions_detection_direction_known check (detection_direction in ('both', 'up', 'down')),
  constraint metric_definitions_detection_sensitivity_known
    check (detection_sensitivity in ('low', 'normal', 'high')),
  constraint metric_definitions_minimum_change_finite check (minimum_change >= 0 and minimum_change < 'infinity')
);

comment on table monitor.metric_definitions is
  'A metric. A sample of a metric that is not here is refused, so this is the one registry of names.';
comment on column monitor.metric_definitions.metric is 'Name in Prometheus'' grammar, at most 200 characters.';
comment on column monitor.metric_definitions.unit is
  'Unit of every value: count, percent, seconds, minutes, bytes, ratio, ...';
comment on column monitor.metric_definitions.kind is
  'gauge: goes up and down. counter: only grows, or starts again at 0; read it by its rate.';
comment on column monitor.metric_definitions.detection_direction is 'Which way a change has to go to be an anomaly.';
comment on column monitor.metric_definitions.detection_sensitivity is
  'How easily a change is an anomaly: low, normal, high. High is louder for every metric.';
comment on column monitor.metric_definitions.minimum_change is
  'In the metric''s unit: a smaller change is never an anomaly, however unusual. For a counter, per second.';

alter table monitor.metric_definitions enable row level security;

create policy metric_definitions_select_authenticated
  on monitor.metric_definitions for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.metric_definitions to authenticated;
grant select, insert, update on monitor.metric_definitions to service_role;

create trigger metric_definitions_record_change
  after insert or update or delete on monitor.metric_definitions
  for each row execute function monitor.record_change();

create function monitor.labels_are_valid(p_labels jsonb)
returns boolean
language sql
immutable
security invoker
set search_path = ''
as $$
  select case when jsonb_typeof(p_labels) = 'object' then not exists (
    select from jsonb_each(p_labels) as label
    where label.key !~ '^[a-zA-Z_][a-zA-Z0-9_]*$'
       or label.key = '__name__'
       or jsonb_typeof(label.value) <> 'string'
       or label.value = '""'
  ) else false end;
$$;

comment on function monitor.labels_are_valid(jsonb) is
  'True for a JSON object of non-empty strings whose names are Prometheus label names. '
  'An empty value means "no such label" in Prometheus, so it is not stored.';

create table monitor.metric_series (
  series_id       integer     generated always as identity,
  metric          text        not null,
  labels          jsonb       not null default '{}',
  labels_hash     uuid        not null generated always as (md5(labels::text)::uuid) stored,
  created_at      timestamptz not null default now(),
  last_sample_at  timestamptz,

  constraint metric_series_pkey primary key (series_id),
  constraint metric_series_metric_fkey foreign key (metric) references monitor.metric_definitions (metric),
  constraint metric_series_metric_labels_key unique (metric, labels_hash),
  constraint metric_series_labels_valid check (monitor.labels_are_valid(labels))
) with (fillfactor = 70); -- last_sample_at is rewritten every minute: leave room for it on the page

comment on table monitor.metric_series is 'A series: a metric and one set of labels.';
comment on column monitor.metric_series.labels is 'Label names and values, all strings, none empty.';
comment on column monitor.metric_series.labels_hash is
  'Labels can be larger than an index entry may be (2,704 bytes); their hash cannot.';
comment on column monitor.metric_series.last_sample_at is 'Time of the newest sample, null before the first.';

alter table monitor.metric_series enable row level security;

create policy metric_series_select_authenticated
  on monitor.metric_series for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.metric_series to authenticated;
grant select, insert, update, delete on monitor.metric_series to service_role;

create table monitor.metric_time_series (
  recorded_at  timestamptz      not null,
  value        double precision not null,
  series_id    integer          not null,

  constraint metric_time_series_pkey primary key (series_id, recorded_at),
  constraint metric_time_series_value_finite check (abs(value) < 'infinity'), -- NaN sorts above it
  constraint metric_time_series_recorded_at_in_milliseconds
    check (recorded_at = date_trunc('milliseconds', recorded_at, 'UTC'))
) partition by range (recorded_at);

comment on table monitor.metric_time_series is
  'A sample. Partitioned by UTC day; the first write of a (series, time) wins. series_id has no foreign key: it would '
  'cost every insert a look-up, and monitor.record_samples, the only writer, takes it from metric_series.';
comment on column monitor.metric_time_series.recorded_at is
  'What moment the value is of, in whole milliseconds (what JavaScript can carry).';
comment on column monitor.metric_time_series.value is 'In the metric''s unit, finite. A missing value is a missing row.';

alter table monitor.metric_time_series enable row level security;

create policy metric_time_series_select_authenticated
  on monitor.metric_time_series for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.metric_time_series to authenticated;
grant select, insert on monitor.metric_time_series to service_role;

create table monitor.sample_days (
  day          date        not null,
  state        text        not null default 'rows',
  state_since  timestamptz not null default now(),

  constraint sample_days_pkey primary key (day),
  constraint sample_days_state_known check (state in ('rows', 'sealed', 'chunks', 'dropped'))
);

comment on table monitor.sample_days is 'A UTC day of samples and where they are.';
comment on column monitor.sample_days.state is
  'rows: in its partition, open for writing. sealed: closed, being compacted. chunks: compacted. dropped: gone.';

alter table monitor.sample_days enable row level security;

create policy sample_days_select_authenticated
  on monitor.sample_days for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.sample_days to authenticated, service_role;

create function monitor.ensure_sample_days(
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
    -- A day that is yet to come but was dropped (a clock stood wrong) is opened again.
    insert into monitor.sample_days as known (day, state_since) values (v_day, p_now)
    on conflict (day) do update set state = 'rows', state_since = p_now;
    v_created := v_created + 1;
  end loop;
  return v_created;
end;
$$;

comment on function monitor.ensure_sample_days(timestamptz, integer) is
  'Makes sure that the partition of p_now''s UTC day and of the next p_days_ahead days exist, with row level security '
  'and a comment, which partitions do not inherit. Returns how many were created. '
  'Errors: 22023 for a wrong p_days_ahead, 55P03 when the table stayed locked for 2 s.';

create function monitor.record_samples(
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
  v_inserted     integer;
  v_rejected     jsonb;
  v_entries      jsonb;
begin
  if p_recorded_at is null or jsonb_typeof(p_samples) is distinct from 'array' then
    raise exception 'p_samples must be an array and p_recorded_at a time'
      using errcode = 'invalid_parameter_value',
            hint    = 'Pass e.g. [{"metric":"active_incidents","labels":{},"value":0}] and a time.';
  end if;

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

  insert into monitor.metric_series (metric, labels)
  select distinct entry ->> 'metric', entry -> 'labels'
  from jsonb_array_elements(v_entries) as entry
  where not exists (
    select from monitor.metric_series as known
    where known.metric = entry ->> 'metric' and known.labels_hash = md5((entry -> 'labels')::text)::uuid
  )
  on conflict do nothing;

  with stored as (
    insert into monitor.metric_time_series (recorded_at, value, series_id)
    select v_recorded_at, (entry ->> 'value')::double precision, series.series_id
    from jsonb_array_elements(v_entries) with ordinality as item (entry, position)
    join monitor.metric_series as series
      on series.metric = entry ->> 'metric' and series.labels_hash = md5((entry -> 'labels')::text)::uuid
    -- One order for all writers, so that two of them cannot deadlock; of one series the first entry wins.
    order by series.series_id, position
    on conflict do nothing
    returning series_id
  ), ordered as (
    select series.series_id
    from monitor.metric_series as series
    join stored using (series_id)
    order by series.series_id
    for update of series
  ), touched as (
    update monitor.metric_series as series
    set last_sample_at = greatest(series.last_sample_at, v_recorded_at)
    from ordered
    where series.series_id = ordered.series_id
  )
  select count(*) into v_inserted from stored;

  return jsonb_build_object(
    'inserted', v_inserted, 'duplicates', v_good - v_inserted, 'rejected', v_rejected);
end;
$$;

comment on function monitor.record_samples(jsonb, timestamptz) is
  'Stores samples [{metric, labels?, value}] taken at p_recorded_at, making series as needed. '
  'Returns {inserted, duplicates, rejected: [{metric, labels, reason}]}; a (series, time) already there is a '
  'duplicate and keeps its first value. Errors: 22023 when an argument is missing or no array.';

revoke all on all functions in schema monitor from public;
grant execute on function monitor.is_admin() to authenticated, service_role;
grant execute on function monitor.labels_are_valid(jsonb) to service_role;
grant execute on function monitor.ensure_sample_days(timestamptz, integer) to service_role;
grant execute on function monitor.record_samples(jsonb, timestamptz) to service_role;
