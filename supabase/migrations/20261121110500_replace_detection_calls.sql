-- Purpose:  the two calls of the detector, with the new settings, memory, spans, silence, kinds and groups.
-- Locks:    access exclusive on metric_definitions while a column is dropped.
-- Undo:     add the column detection_sensitivity and its check as in 20261121090200; drop function
--           monitor.read_detection_page(integer, integer, timestamptz); run 20261121090600's read_detection_page and then
--           20261121100300's again, and 20261121090600's record_detections as create or replace.

-- It answers json now: jsonb would take every number and every memory apart and put it together again.
drop function monitor.read_detection_page(integer, integer, timestamptz);

create function monitor.read_detection_page(
  p_after_series_id  integer     default 0,
  p_limit            integer     default 100,
  p_now              timestamptz default now()
)
returns json
language plpgsql
stable
security invoker
set search_path = ''
set jit = off
as $$
declare
  -- Of one series at a time: a backlog is worked off over several runs, oldest first.
  c_sample_limit constant integer := 1500;
  -- A series nobody has judged yet starts with its last day, not with all it ever was.
  c_first_look   constant interval := interval '1 day';
  -- What is remembered of the time before still matters to the detector.
  c_span_look    constant interval := interval '36 hours';
  c_span_limit   constant integer := 50;
  -- From here on samples are in rows.
  v_rows_since  timestamptz := coalesce(
    (select monitor.utc_midnight(max(day) + 1) from monitor.sample_days where state = 'chunks'), '-infinity');
  v_result  json;
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
    return json_build_object('series', json_build_array(), 'next_series_id', v_result);
  end if;

  with page as materialized (
    select
      series.series_id, series.metric, series.labels,
      definition.unit, definition.kind, definition.detection_direction, definition.detection_budget,
      definition.minimum_change, definition.minimum_change_ratio,
      saved.state, saved.memory, saved.version, saved.last_sample_at, saved.threshold,
      coalesce(saved.silent_at <= p_now, false) as is_silent,
      coalesce(saved.last_sample_at, p_now - c_first_look) as since,
      open_anomaly.anomaly_id, open_anomaly.started_at
    from monitor.metric_series as series
    join monitor.metric_definitions as definition using (metric)
    left join monitor.detector_states as saved using (series_id)
    left join monitor.anomaly_detections as open_anomaly
      on open_anomaly.series_id = series.series_id and open_anomaly.ended_at is null
    where series.series_id > p_after_series_id
      and definition.detection_enabled
      and (series.last_sample_at > coalesce(saved.last_sample_at, p_now - c_first_look) or saved.silent_at <= p_now)
    order by series.series_id
    limit greatest(p_limit, 1)
  ), known as materialized ( -- asked once for the page
    select found.*
    from (select array_agg(page.series_id) as series_ids, array_agg(page.since - c_span_look) as since from page) as asked
    -- The clocks of senders may be ahead.
    cross join lateral monitor.scan_spans(asked.series_ids, asked.since, p_now + interval '1 hour', c_span_limit) as found
  )
  select json_build_object(
    'series', coalesce(
      json_agg(json_build_object(
        'series_id', page.series_id, 'metric', page.metric, 'labels', page.labels,
        'unit', page.unit, 'kind', page.kind,
        'direction', page.detection_direction, 'budget', page.detection_budget, 'threshold', page.threshold,
        'minimum_change', page.minimum_change, 'minimum_change_ratio', page.minimum_change_ratio,
        'state', page.state, 'memory', page.memory, 'state_version', page.version,
        'last_sample_at', monitor.epoch_ms(page.last_sample_at),
        'open_anomaly', case when page.anomaly_id is not null then json_build_object(
          'anomaly_id', page.anomaly_id, 'started_at', monitor.epoch_ms(page.started_at)) end,
        'spans', coalesce(known.spans, '[]'), 'deploys', coalesce(known.deploys, '[]'),
        'silent', page.is_silent and fresh.times is null,
        'times', coalesce(fresh.times, '{}'), 'values', coalesce(fresh.values, '{}')
      ) order by page.series_id) filter (where fresh.times is not null or (page.is_silent and p_limit > 0)), '[]'),
    'next_series_id', case when count(*) = greatest(p_limit, 1) then max(page.series_id) end)
  into v_result
  from page
  left join known using (series_id)
  cross join lateral (
    -- To the end of the next day of chunks that has samples, not of all since the detector stood still.
    select least(v_rows_since, case when page.since < v_rows_since then (
      select monitor.utc_midnight(min(chunk.day) + 1)
      from monitor.metric_chunks as chunk
      where chunk.series_id = page.series_id and chunk.day > (page.since at time zone 'UTC')::date
    ) end) as until
  ) as reach
  cross join lateral (
    select
      array_agg((date_part('epoch', sample.recorded_at) * 1000)::bigint order by sample.recorded_at) as times,
      array_agg(sample.value order by sample.recorded_at) as values
    from (
      select before.recorded_at, before.value
      from (
        -- Only a detector that stood still for days has samples before those that are in rows, or one that looks first.
        select to_timestamp(again.at / 1000.0) as recorded_at, again.value
        from monitor.scan_series(
          array[page.series_id], page.since + interval '1 millisecond', reach.until) as scanned
        cross join lateral unnest(scanned.times, scanned.samples) as again (at, value)
        where page.since < reach.until
      ) as before
      union all
      select recorded_at, value
      from monitor.metric_time_series
      where series_id = page.series_id
        and recorded_at > page.since
        and recorded_at >= v_rows_since
        and reach.until = v_rows_since -- or what lies between would be jumped over
      order by recorded_at
      limit case when p_limit > 0 then c_sample_limit else 0 end
    ) as sample
  ) as fresh;
  return v_result;
end;
$$;

comment on function monitor.read_detection_page(integer, integer, timestamptz) is
  'Series with samples newer than their detector state, and those without any whose silence is due to be told (silent: true), '
  'with state and memory, settings, threshold, open anomaly, the spans and deploys that touch the time from 36 hours before the '
  'newest sample judged to an hour after p_now, at most 50 each, and at most 1,500 new samples: {series: [...], next_series_id}; next_series_id '
  'is null on the last page. Times in ms. With p_limit 0 it reads no samples and next_series_id names the next series. With '
  'p_after_series_id null it reads nothing and next_series_id is where the last run stopped, null if that was complete. '
  'Errors: 22023 for a wrong p_limit.';

alter table monitor.metric_definitions drop column detection_sensitivity;

create or replace function monitor.record_detections(
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
  -- As far back as a series that nobody has judged is read.
  c_first_look   constant interval := interval '1 day';
  c_group_reach  constant interval := interval '5 minutes';
  v_update       jsonb;
  v_event        jsonb;
  v_series_id    integer;
  v_previous     bigint;
  v_version      text;
  v_judged_at    timestamptz;
  v_is_new       boolean;
  v_anomaly_id   bigint;
  v_started      timestamptz;
  v_seen         timestamptz;
  v_ended        timestamptz;
  v_score        double precision;
  v_is_worse     boolean;
  v_opened       integer := 0;
  v_extended     integer := 0;
  v_closed       integer := 0;
  v_stale        integer := 0;
begin
  if jsonb_typeof(p_updates) is distinct from 'array' then
    raise exception 'p_updates must be an array'
      using errcode = 'invalid_parameter_value', hint = 'Each entry is what the detector says of one series.';
  end if;

  if exists (select from jsonb_array_elements(p_updates) as entry where entry -> 'events' <> '[]') then
    -- Before any row is locked, so that two calls cannot wait for each other: groups are joined by one at a time.
    perform pg_advisory_xact_lock(hashtext('monitor.record_detections'));
  end if;

  for v_update in
    select entry from jsonb_array_elements(p_updates) as entry order by (entry ->> 'series_id')::integer
  loop
    v_series_id := (v_update ->> 'series_id')::integer;
    v_previous := (v_update ->> 'previous_sample_at')::bigint;
    v_judged_at := to_timestamp((v_update ->> 'last_sample_at')::double precision / 1000);

    -- Written only on top of the state that was read: of two runs at once, the second one's word is dropped whole.
    select saved.version into v_version
    from monitor.detector_states as saved
    where saved.series_id = v_series_id and monitor.epoch_ms(saved.last_sample_at) = v_previous
    for no key update;
    v_is_new := v_version is distinct from v_update ->> 'state_version';
    if found then
      update monitor.detector_states as saved
      set version = v_update ->> 'state_version', state = v_update -> 'state',
          -- Left as it is, it is not written again; that of another version is nothing to this one.
          memory = case when v_update ? 'memory' then v_update ->> 'memory' when v_is_new then null else saved.memory end,
          forecast = coalesce(nullif(v_update -> 'forecast', 'null'), saved.forecast),
          silent_at = to_timestamp((v_update ->> 'silent_at')::double precision / 1000),
          last_sample_at = v_judged_at, updated_at = p_now
      where saved.series_id = v_series_id;
    else
      insert into monitor.detector_states (series_id, version, state, memory, forecast, silent_at, last_sample_at, updated_at)
      select v_series_id, v_update ->> 'state_version', v_update -> 'state', v_update ->> 'memory',
        nullif(v_update -> 'forecast', 'null'), to_timestamp((v_update ->> 'silent_at')::double precision / 1000), v_judged_at, p_now
      where v_previous is null
      on conflict (series_id) do nothing;
      if not found then
        v_stale := v_stale + 1;
        continue;
      end if;
    end if;

    -- This version has not seen what came before: a replay will.
    if v_is_new and (
      v_previous is not null
      or exists (
        select from monitor.metric_time_series where series_id = v_series_id and recorded_at <= p_now - c_first_look)
      or exists (
        select from monitor.metric_chunks where series_id = v_series_id and day < ((p_now - c_first_look) at time zone 'UTC')::date)
      or exists (
        select from monitor.late_samples where series_id = v_series_id and recorded_at <= p_now - c_first_look)
    ) then
      perform monitor.request_replay(v_series_id, 'version', p_now);
    elsif v_update ->> 'replay_version' is not null
      -- Once: it goes on by itself, and what was given up waits its 7 days.
      and not exists (select from monitor.detector_replays where series_id = v_series_id)
      and not exists (
        select from monitor.detector_states
        where series_id = v_series_id and calibration ? 'failed' and calibrated_at > p_now - interval '7 days')
    then
      perform monitor.request_replay(v_series_id, 'version', p_now);
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
          -- So does what was said of it, until the detector knows more than the row.
          explanation = case
            when v_is_worse or (v_event ->> 'sample_count')::integer >= anomaly.sample_count then v_event ->> 'explanation'
            when v_ended is null then anomaly.explanation
            else anomaly.explanation || ' Ended, as seen by a detector that had lost what it knew of it.' end,
          kind = case
            when v_is_worse or (v_event ->> 'sample_count')::integer >= anomaly.sample_count
              then coalesce(v_event ->> 'anomaly_kind', anomaly.kind)
            else anomaly.kind end,
          details = case
            when v_is_worse or (v_event ->> 'sample_count')::integer >= anomaly.sample_count
              then nullif(v_event -> 'details', 'null')
            else anomaly.details end,
          sample_count = greatest(anomaly.sample_count, (v_event ->> 'sample_count')::integer),
          detector_version = v_update ->> 'state_version',
          run_id = p_run_id
      where anomaly.series_id = v_series_id and anomaly.ended_at is null
      returning anomaly.anomaly_id into v_anomaly_id;

      if found then
        v_extended := v_extended + (v_ended is null)::integer;
        -- What a person said of it while it lasted is said of all of it.
        update monitor.anomaly_feedback as feedback
        set span_until = coalesce(v_ended, greatest(feedback.span_until, v_seen))
        where feedback.anomaly_id = v_anomaly_id;
        if found and v_ended is not null then -- it was replayed when only a part of it was known
          perform monitor.request_replay(v_series_id, 'feedback', p_now);
        end if;
      else
        insert into monitor.anomaly_detections (
          series_id, detector_version, started_at, last_seen_at, ended_at, ended_reason,
          expected, lower, upper, observed, score, severity, explanation, sample_count, run_id, kind, details, group_id
        )
        values (
          v_series_id, v_update ->> 'state_version', v_started, v_seen, v_ended, v_event ->> 'ended_reason',
          (v_event ->> 'expected')::double precision, (v_event ->> 'lower')::double precision,
          (v_event ->> 'upper')::double precision, (v_event ->> 'observed')::double precision,
          (v_event ->> 'score')::double precision, v_event ->> 'severity', v_event ->> 'explanation',
          (v_event ->> 'sample_count')::integer, p_run_id, v_event ->> 'anomaly_kind', nullif(v_event -> 'details', 'null'),
          (
            select first.group_id
            from monitor.anomaly_detections as first
            where first.group_id = first.anomaly_id
              and first.started_at between v_started - c_group_reach and v_started + c_group_reach
            order by first.anomaly_id
            limit 1
          )
        )
        returning anomaly_id into v_anomaly_id;
        update monitor.anomaly_detections set group_id = anomaly_id where anomaly_id = v_anomaly_id and group_id is null;
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
  'Stores what the detector says of a page of series: its states, and anomalies opened, extended or closed, grouped with those that '
  'began within 5 minutes, evidence included, all or nothing. An entry that brings no memory or forecast leaves it as it is. A '
  'version that has not seen the stored history, and one that is to take over (replay_version), is asked to replay it, as is a '
  'series of which an anomaly closes that a person has judged. Returns {opened, extended, closed, stale}; stale counts series '
  ' whose state had moved on since it was read, which are left alone. Errors: 22023 when p_updates is no array, 23514 for a '
  'malformed event.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.read_detection_page(integer, integer, timestamptz),
  monitor.record_detections(uuid, jsonb, timestamptz)
to service_role;
