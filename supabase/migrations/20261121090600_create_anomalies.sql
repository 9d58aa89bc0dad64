-- Purpose:  anomalies, the state detection resumes from, the samples kept as evidence, and the two calls of the detector.
-- Locks:    none on existing tables.
-- Undo:     drop table monitor.evidence_samples, monitor.anomaly_detections_archive, monitor.anomaly_detections,
--           monitor.detector_states cascade; drop function monitor.record_detections(uuid, jsonb, timestamptz),
--           monitor.read_detection_page(integer, integer, timestamptz), monitor.copy_evidence(bigint),
--           monitor.missing_evidence(bigint), monitor.review_anomaly(bigint, text, timestamptz);

create table monitor.detector_states (
  series_id       integer     not null,
  version         text        not null,
  state           jsonb       not null,
  last_sample_at  timestamptz not null,
  updated_at      timestamptz not null default now(),

  constraint detector_states_pkey primary key (series_id),
  constraint detector_states_series_id_fkey
    foreign key (series_id) references monitor.metric_series (series_id) on delete cascade,
  constraint detector_states_state_bounded check (octet_length(state::text) <= 16384)
);

comment on table monitor.detector_states is 'Where the detector of a series left off.';
comment on column monitor.detector_states.version is 'Detector and version that wrote the state; another one starts afresh.';
comment on column monitor.detector_states.state is 'The detector''s own, at most 16 KiB as text.';
comment on column monitor.detector_states.last_sample_at is
  'Newest sample judged. Samples that arrive later with an earlier time are not judged any more.';

alter table monitor.detector_states enable row level security;

create policy detector_states_select_authenticated
  on monitor.detector_states for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.detector_states to authenticated;
grant select, insert, update, delete on monitor.detector_states to service_role;

create table monitor.anomaly_detections (
  anomaly_id        bigint           generated always as identity,
  series_id         integer          not null,
  detector_version  text             not null,
  started_at        timestamptz      not null,
  last_seen_at      timestamptz      not null,
  ended_at          timestamptz,
  ended_reason      text,
  expected          double precision not null,
  lower             double precision not null,
  upper             double precision not null,
  observed          double precision not null,
  score             double precision not null,
  severity          text             not null,
  explanation       text             not null,
  sample_count      integer          not null,
  group_id          bigint,
  review_state      text             not null default 'open',
  reviewed_at       timestamptz,
  reviewed_by       text,
  run_id            uuid,

  constraint anomaly_detections_pkey primary key (anomaly_id),
  constraint anomaly_detections_series_id_fkey foreign key (series_id) references monitor.metric_series (series_id),
  constraint anomaly_detections_in_order check (last_seen_at >= started_at and ended_at >= started_at),
  constraint anomaly_detections_ended_reason_with_end check ((ended_at is null) = (ended_reason is null)),
  constraint anomaly_detections_ended_reason_known check (ended_reason in ('recovered', 'level_shift', 'no_data')),
  constraint anomaly_detections_band_in_order check (lower <= expected and expected <= upper),
  constraint anomaly_detections_numbers_finite
    check (abs(lower) < 'infinity' and abs(upper) < 'infinity' and abs(observed) < 'infinity'),
  constraint anomaly_detections_score_finite check (score >= 0 and score < 'infinity'),
  constraint anomaly_detections_severity_known check (severity in ('info', 'warning', 'critical')),
  constraint anomaly_detections_explanation_present check (explanation <> ''),
  constraint anomaly_detections_sample_count_positive check (sample_count > 0),
  constraint anomaly_detections_review_state_known
    check (review_state in ('open', 'acknowledged', 'resolved', 'false_positive', 'expected', 'expired')),
  constraint anomaly_detections_reviewed_with_state
    check ((review_state = 'open') = (reviewed_at is null) and (reviewed_at is null) = (reviewed_by is null))
);

create unique index anomaly_detections_series_open_idx on monitor.anomaly_detections (series_id) where ended_at is null;
comment on index monitor.anomaly_detections_series_open_idx is 'A series never has two anomalies at once.';
create index anomaly_detections_series_id_idx on monitor.anomaly_detections (series_id);
create index anomaly_detections_reviewed_at_idx on monitor.anomaly_detections (reviewed_at);
create index anomaly_detections_started_at_idx on monitor.anomaly_detections (started_at);

comment on table monitor.anomaly_detections is
  'An anomaly, from its start to its end. The end is the detector''s word, the review state a person''s or the policy''s.';
comment on column monitor.anomaly_detections.started_at is 'Time of the first sample outside the band.';
comment on column monitor.anomaly_detections.last_seen_at is 'Time of the newest sample outside the band.';
comment on column monitor.anomaly_detections.ended_at is 'Null while it lasts.';
comment on column monitor.anomaly_detections.ended_reason is
  'recovered: back in the band. level_shift: the new level was accepted. no_data: the series stopped.';
comment on column monitor.anomaly_detections.expected is 'In the metric''s unit (a counter''s rate per second), as lower, upper, observed.';
comment on column monitor.anomaly_detections.lower is 'Lower edge of the band of what was expected.';
comment on column monitor.anomaly_detections.upper is 'Upper edge of the band of what was expected.';
comment on column monitor.anomaly_detections.observed is 'The worst value seen so far.';
comment on column monitor.anomaly_detections.score is 'How far the worst value is from what was expected, in robust standard deviations.';
comment on column monitor.anomaly_detections.sample_count is 'Samples outside the band so far.';
comment on column monitor.anomaly_detections.group_id is 'Anomalies that began together share it; null while not grouped.';
comment on column monitor.anomaly_detections.run_id is 'The run of detect-anomalies that touched it last; runs are kept less long.';

alter table monitor.anomaly_detections enable row level security;

create policy anomaly_detections_select_authenticated
  on monitor.anomaly_detections for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.anomaly_detections to authenticated;
grant select, insert, update, delete on monitor.anomaly_detections to service_role;

-- The same columns and checks; ids come from the original, so "by default" rather than "always" or not at all.
create table monitor.anomaly_detections_archive (like monitor.anomaly_detections including comments including constraints);

alter table monitor.anomaly_detections_archive
  add constraint anomaly_detections_archive_pkey primary key (anomaly_id),
  add constraint anomaly_detections_archive_series_id_fkey
    foreign key (series_id) references monitor.metric_series (series_id),
  add constraint anomaly_detections_archive_reviewed check (reviewed_at is not null);

create index anomaly_detections_archive_series_id_idx on monitor.anomaly_detections_archive (series_id);
create index anomaly_detections_archive_reviewed_at_idx on monitor.anomaly_detections_archive (reviewed_at);

comment on table monitor.anomaly_detections_archive is
  'An anomaly that was reviewed or has expired, moved here by retention. Same columns as monitor.anomaly_detections.';

alter table monitor.anomaly_detections_archive enable row level security;

create policy anomaly_detections_archive_select_authenticated
  on monitor.anomaly_detections_archive for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.anomaly_detections_archive to authenticated;
grant select, insert, delete on monitor.anomaly_detections_archive to service_role;

create table monitor.evidence_samples (
  owner_kind   text             not null,
  owner_id     bigint           not null,
  series_id    integer          not null,
  recorded_at  timestamptz      not null,
  value        double precision not null,

  constraint evidence_samples_pkey primary key (owner_kind, owner_id, series_id, recorded_at),
  constraint evidence_samples_owner_kind_known check (owner_kind in ('anomaly', 'incident')),
  constraint evidence_samples_series_id_fkey foreign key (series_id) references monitor.metric_series (series_id)
);

create index evidence_samples_series_id_idx on monitor.evidence_samples (series_id);

comment on table monitor.evidence_samples is
  'A sample copied because an anomaly or incident shows it; it lives as long as its owner. Nothing else keeps samples '
  'beyond their day''s retention.';
comment on column monitor.evidence_samples.value is 'As in metric_time_series.';
comment on column monitor.evidence_samples.owner_id is 'anomaly_id (archived or not) or incident_id, by owner_kind.';

alter table monitor.evidence_samples enable row level security;

create policy evidence_samples_select_authenticated
  on monitor.evidence_samples for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.evidence_samples to authenticated;
grant select, insert, delete on monitor.evidence_samples to service_role;

create function monitor.missing_evidence(p_anomaly_id bigint)
returns setof monitor.evidence_samples
language sql
stable
security invoker
set search_path = ''
as $$
  select 'anomaly', anomaly.anomaly_id, sample.series_id, sample.recorded_at, sample.value
  from monitor.anomaly_detections as anomaly
  join monitor.metric_time_series as sample
    on sample.series_id = anomaly.series_id
    and sample.recorded_at >= anomaly.started_at - interval '2 hours'
    and sample.recorded_at <= coalesce(anomaly.ended_at, anomaly.last_seen_at) + interval '2 hours'
    -- A long anomaly is shown by its two ends; its middle would be a copy of the table.
    and (sample.recorded_at <= anomaly.started_at + interval '2 hours'
      or sample.recorded_at >= coalesce(anomaly.ended_at, anomaly.last_seen_at) - interval '2 hours')
  where anomaly.anomaly_id = p_anomaly_id
    and not exists (
      select from monitor.evidence_samples as known
      where known.owner_kind = 'anomaly' and known.owner_id = anomaly.anomaly_id
        and known.series_id = sample.series_id and known.recorded_at = sample.recorded_at
    );
$$;

comment on function monitor.missing_evidence(bigint) is
  'The samples within 2 hours of an anomaly''s start and of its end (so far) that are not among its evidence yet.';

create function monitor.copy_evidence(p_anomaly_id bigint)
returns integer
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_copied  integer;
begin
  insert into monitor.evidence_samples (owner_kind, owner_id, series_id, recorded_at, value)
  select owner_kind, owner_id, series_id, recorded_at, value
  from monitor.missing_evidence(p_anomaly_id)
  on conflict do nothing;
  get diagnostics v_copied = row_count;
  return v_copied;
end;
$$;

comment on function monitor.copy_evidence(bigint) is
  'Copies what monitor.missing_evidence finds to evidence_samples. Returns how many samples that were.';

create function monitor.read_detection_page(
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
    select
      array_agg(monitor.epoch_ms(sample.recorded_at) order by sample.recorded_at) as times,
      array_agg(sample.value order by sample.recorded_at) as values
    from (
      select recorded_at, value
      from monitor.metric_time_series
      where series_id = page.series_id
        and recorded_at > coalesce(page.last_sample_at, p_now - c_first_look)
      order by recorded_at
      limit case when p_limit > 0 then c_sample_limit else 0 end
    ) as sample
  ) as fresh;
  return v_result;
end;
$$;

comment on function monitor.read_detection_page(integer, integer, timestamptz) is
  'Series with samples newer than their detector state, with that state, their settings, their open anomaly and at most '
  '1,500 new samples each: {series: [...], next_series_id}; next_series_id is null on the last page. With p_limit 0 it '
  'reads no samples and next_series_id names the next series. With p_after_series_id null it reads nothing and '
  'next_series_id is where the last run stopped, null if that was complete. Errors: 22023 for a wrong p_limit.';

create function monitor.record_detections(
  p_run_id   uuid,
  p_updates  jsonb,
  p_now      timestamptz default now()
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_update      jsonb;
  v_event       jsonb;
  v_series_id   integer;
  v_anomaly_id  bigint;
  v_started     timestamptz;
  v_seen        timestamptz;
  v_ended       timestamptz;
  v_score       double precision;
  v_is_worse    boolean;
  v_opened      integer := 0;
  v_extended    integer := 0;
  v_closed      integer := 0;
  v_stale       integer := 0;
begin
  if jsonb_typeof(p_updates) is distinct from 'array' then
    raise exception 'p_updates must be an array'
      using errcode = 'invalid_parameter_value', hint = 'Each entry is what the detector says of one series.';
  end if;

  for v_update in
    select entry from jsonb_array_elements(p_updates) as entry order by (entry ->> 'series_id')::integer
  loop
    v_series_id := (v_update ->> 'series_id')::integer;

    -- Written only on top of the state that was read: of two runs at once, the second one's word is dropped whole.
    insert into monitor.detector_states as saved (series_id, version, state, last_sample_at, updated_at)
    select v_series_id, v_update ->> 'state_version', v_update -> 'state',
      to_timestamp((v_update ->> 'last_sample_at')::double precision / 1000), p_now
    where v_update ->> 'previous_sample_at' is null
      or exists (select from monitor.detector_states where series_id = v_series_id)
    on conflict (series_id) do update
    set version = excluded.version, state = excluded.state,
        last_sample_at = excluded.last_sample_at, updated_at = excluded.updated_at
    where monitor.epoch_ms(saved.last_sample_at) = (v_update ->> 'previous_sample_at')::bigint;
    if not found then
      v_stale := v_stale + 1;
      continue;
    end if;

    for v_event in select event from jsonb_array_elements(v_update -> 'events') as event loop
      v_started := to_timestamp((v_event ->> 'started_at')::double precision / 1000);
      v_seen := to_timestamp((v_event ->> 'last_seen_at')::double precision / 1000);
      v_ended := to_timestamp((v_event ->> 'ended_at')::double precision / 1000);

      v_score := (v_event ->> 'score')::double precision;

      -- Whatever the event is called, the open row of the series is continued when there is one. A detector that lost
      -- its memory counts from the start again, so the row keeps the worst that was ever seen.
      select v_score >= score into v_is_worse
      from monitor.anomaly_detections
      where series_id = v_series_id and ended_at is null;

      update monitor.anomaly_detections as anomaly
      set last_seen_at = greatest(anomaly.last_seen_at, v_seen),
          ended_at = v_ended,
          ended_reason = v_event ->> 'ended_reason',
          expected = case when v_is_worse then (v_event ->> 'expected')::double precision else anomaly.expected end,
          lower = case when v_is_worse then (v_event ->> 'lower')::double precision else anomaly.lower end,
          upper = case when v_is_worse then (v_event ->> 'upper')::double precision else anomaly.upper end,
          observed = case when v_is_worse then (v_event ->> 'observed')::double precision else anomaly.observed end,
          severity = case when v_is_worse then v_event ->> 'severity' else anomaly.severity end,
          score = greatest(anomaly.score, v_score),
          explanation = v_event ->> 'explanation',
          sample_count = greatest(anomaly.sample_count, (v_event ->> 'sample_count')::integer),
          detector_version = v_update ->> 'state_version',
          run_id = p_run_id
      where anomaly.series_id = v_series_id and anomaly.ended_at is null
      returning anomaly.anomaly_id into v_anomaly_id;

      if found then
        v_extended := v_extended + (v_ended is null)::integer;
      else
        insert into monitor.anomaly_detections (
          series_id, detector_version, started_at, last_seen_at, ended_at, ended_reason,
          expected, lower, upper, observed, score, severity, explanation, sample_count, run_id
        )
        values (
          v_series_id, v_update ->> 'state_version', v_started, v_seen, v_ended, v_event ->> 'ended_reason',
          (v_event ->> 'expected')::double precision, (v_event ->> 'lower')::double precision,
          (v_event ->> 'upper')::double precision, (v_event ->> 'observed')::double precision,
          (v_event ->> 'score')::double precision, v_event ->> 'severity', v_event ->> 'explanation',
          (v_event ->> 'sample_count')::integer, p_run_id
        )
        returning anomaly_id into v_anomaly_id;
        v_opened := v_opened + 1;
        perform monitor.copy_evidence(v_anomaly_id);
      end if;
      if v_ended is not null then
        v_closed := v_closed + 1;
        perform monitor.copy_evidence(v_anomaly_id);
      end if;
    end loop;
  end loop;

  return jsonb_build_object('opened', v_opened, 'extended', v_extended, 'closed', v_closed, 'stale', v_stale);
end;
$$;

comment on function monitor.record_detections(uuid, jsonb, timestamptz) is
  'Stores what the detector says of a page of series: its states, and anomalies opened, extended or closed, evidence '
  'included, all or nothing. Returns {opened, extended, closed, stale}; stale counts series whose state had moved on '
  'since it was read, which are left alone. Errors: 22023 when p_updates is no array, 23514 for a malformed event.';

create function monitor.review_anomaly(
  p_anomaly_id  bigint,
  p_state       text,
  p_now         timestamptz default now()
)
returns void
language plpgsql
security definer -- an admin may judge an anomaly, but not rewrite it
set search_path = ''
as $$
begin
  if not monitor.may_administer() then
    raise exception 'only an admin may review an anomaly' using errcode = 'insufficient_privilege';
  end if;
  if p_state is null or p_state not in ('acknowledged', 'resolved', 'false_positive', 'expected') then
    raise exception 'p_state must be acknowledged, resolved, false_positive or expected, got %', p_state
      using errcode = 'invalid_parameter_value', hint = 'expired is the retention policy''s word.';
  end if;
  update monitor.anomaly_detections
  set review_state = p_state, reviewed_at = p_now, reviewed_by = monitor.current_actor()
  where anomaly_id = p_anomaly_id;
  if not found then
    raise exception 'no such anomaly: %', p_anomaly_id
      using errcode = 'no_data_found', hint = 'Archived anomalies are not reviewed any more.';
  end if;
end;
$$;

comment on function monitor.review_anomaly(bigint, text, timestamptz) is
  'A person''s word on an anomaly: acknowledged, resolved, false_positive or expected. '
  'Errors: 42501 for a user who is no admin, 22023 for another state, P0002 for an unknown anomaly.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.missing_evidence(bigint),
  monitor.copy_evidence(bigint),
  monitor.read_detection_page(integer, integer, timestamptz),
  monitor.record_detections(uuid, jsonb, timestamptz),
  monitor.review_anomaly(bigint, text, timestamptz)
to service_role;
grant execute on function monitor.review_anomaly(bigint, text, timestamptz) to authenticated;
