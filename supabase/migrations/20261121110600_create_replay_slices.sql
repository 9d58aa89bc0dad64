-- Purpose:  a replay of a series' stored history, slice by slice, and how its result takes over.
-- Locks:    none.
-- Undo:     drop function monitor.read_replay_slice(integer, timestamptz, text), monitor.record_replay_slice(integer, bigint, bigint,
--           text, jsonb, text, jsonb, jsonb, bigint, boolean, double precision, jsonb, timestamptz, bigint),
--           monitor.park_replay(integer, text, timestamptz, bigint);

create function monitor.read_replay_slice(
  p_after_series_id  integer     default 0,
  p_now              timestamptz default now(),
  p_version          text        default null
)
returns json
language plpgsql
stable
security invoker
set search_path = ''
set jit = off
set plan_cache_mode = 'force_custom_plan' -- who is due is found by an index only while few are known to be
as $$
declare
  c_sample_limit constant integer := 10000; -- a week of minutes
  c_span_limit   constant integer := 1000;
  c_history      constant interval := interval '28 days';
  c_weekly       constant interval := interval '7 days';
  c_first_replay constant interval := interval '3 days';
  v_series_id  integer;
  v_replay     monitor.detector_replays;
  v_live       monitor.detector_states;
  v_history    timestamptz;
  v_since      timestamptz;
  v_until      timestamptz;
  v_end        timestamptz;
  v_days       integer := 1;
  v_more       record;
  v_times      bigint[];
  v_values     double precision[];
  v_is_last    boolean;
  v_known      record;
begin
  -- What was asked for first, the oldest request before all; then who has not been replayed for long.
  select replay.series_id into v_series_id
  from monitor.detector_replays as replay
  join monitor.metric_series as series using (series_id)
  join monitor.metric_definitions as definition using (metric)
  where replay.series_id > p_after_series_id and definition.detection_enabled
  order by replay.requested_at, replay.series_id
  limit 1;
  if not found then
    select due.series_id into v_series_id
    from (
      -- Each by its index, so that what is not due is not looked at.
      (
        select 1 as turn, saved.series_id
        from monitor.detector_states as saved
        join monitor.metric_series as series using (series_id)
        join monitor.metric_definitions as definition using (metric)
        where (saved.version < p_version or saved.version > p_version)
          and not (coalesce(saved.calibration ? 'failed', false) and saved.calibrated_at > p_now - c_weekly) -- it was parked
          and saved.series_id > p_after_series_id and definition.detection_enabled
          and series.last_sample_at > p_now - c_history -- else there is nothing to replay
          and not exists (select from monitor.detector_replays as asked where asked.series_id = saved.series_id)
        limit 1 -- whichever: to sort them all, once more for each slice, would take longer than the slice
      )
      union all
      (
        select 2, saved.series_id
        from monitor.detector_states as saved
        join monitor.metric_series as series using (series_id)
        join monitor.metric_definitions as definition using (metric)
        where coalesce(saved.calibrated_at, '-infinity') < p_now - c_weekly
          and (saved.calibrated_at is not null or series.created_at < p_now - c_first_replay)
          and saved.series_id > p_after_series_id and definition.detection_enabled
          and series.last_sample_at > p_now - c_history
          and not exists (select from monitor.detector_replays as asked where asked.series_id = saved.series_id)
        order by coalesce(saved.calibrated_at, '-infinity'), saved.series_id
        limit 1
      )
    ) as due
    order by due.turn
    limit 1;
  end if;
  if not found then
    return null;
  end if;

  select * into v_replay from monitor.detector_replays where series_id = v_series_id;
  select * into v_live from monitor.detector_states where series_id = v_series_id;
  if v_replay.version <> p_version then -- begun by another: from the start
    v_replay.version := null;
    v_replay.history_since := null;
    v_replay.cursor_at := null;
    v_replay.state := null;
    v_replay.memory := null;
    v_replay.candidates := null;
  end if;

  v_end := v_live.last_sample_at + interval '1 millisecond';
  v_history := coalesce(v_replay.history_since, least(p_now - c_history, v_live.last_sample_at));
  v_since := coalesce(v_replay.cursor_at + interval '1 millisecond', v_history);
  -- A day, for one is decoded whole and may hold 86,400 samples; then two, four, ... where they hold few or none.
  while coalesce(cardinality(v_times), 0) <= c_sample_limit and v_since < v_end loop
    v_until := least(v_end, date_trunc('day', v_since, 'UTC') + make_interval(days => v_days));
    select scanned.times, scanned.samples into v_more
    from monitor.scan_series(array[v_series_id], v_since, v_until) as scanned;
    v_times := v_times || v_more.times;
    v_values := v_values || v_more.samples;
    v_since := v_until;
    v_days := v_days * 2;
  end loop;
  v_is_last := v_since >= v_end and coalesce(cardinality(v_times), 0) <= c_sample_limit;
  v_times := v_times[:c_sample_limit];
  v_values := v_values[:c_sample_limit];

  select found.spans, found.deploys into v_known
  from monitor.scan_spans(array[v_series_id], array[v_history], p_now + interval '1 hour', c_span_limit) as found;

  return (
    select json_build_object(
      'series_id', series.series_id, 'metric', series.metric, 'labels', series.labels,
      'unit', definition.unit, 'kind', definition.kind,
      'direction', definition.detection_direction, 'budget', definition.detection_budget,
      'minimum_change', definition.minimum_change, 'minimum_change_ratio', definition.minimum_change_ratio,
      'spans', coalesce(v_known.spans, '[]'), 'deploys', coalesce(v_known.deploys, '[]'),
      'state', v_replay.state, 'memory', v_replay.memory, 'candidates', v_replay.candidates,
      'cursor_at', monitor.epoch_ms(v_replay.cursor_at), 'version', v_replay.version,
      'requested_at', monitor.epoch_ms(v_replay.requested_at),
      'last_sample_at', monitor.epoch_ms(v_live.last_sample_at),
      'read_until', case
        when not v_is_last then v_times[c_sample_limit]
        else monitor.epoch_ms(greatest(v_since, v_end)) - 1 end,
      'is_last', v_is_last,
      'times', coalesce(v_times, '{}'), 'values', coalesce(v_values, '{}'))
    from monitor.metric_series as series
    join monitor.metric_definitions as definition using (metric)
    where series.series_id = v_series_id);
end;
$$;

comment on function monitor.read_replay_slice(integer, timestamptz, text) is
  'The next series to replay, with a series_id beyond p_after_series_id: the oldest request, else one whose state is of another '
  'version than p_version, whose last replay is 7 days ago, or that is 3 days old and had none. Null when there is none. With its '
  'settings as in read_detection_page; the spans and deploys of all that is replayed; state, memory, candidates and version of the '
  'replay so far, null at the start; and the next samples, at most 10,000, after cursor_at (null: of the last 28 days) up to '
  'last_sample_at, the newest that detector_states has judged. read_until: where they end, the next cursor when all of them are '
  'replayed. is_last: there are no more. requested_at: null if nobody asked. Times in ms.';

create function monitor.record_replay_slice(
  p_series_id        integer,
  p_previous_cursor  bigint,
  p_cursor           bigint,
  p_version          text,
  p_state            jsonb,
  p_memory           text,
  p_candidates       jsonb,
  p_forecast         jsonb,
  p_silent_at        bigint,
  p_finished         boolean,
  p_threshold        double precision,
  p_calibration      jsonb,
  p_now              timestamptz default now(),
  p_requested_at     bigint      default null
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_history  constant interval := interval '28 days';
  v_live      monitor.detector_states;
  v_replay    monitor.detector_replays;
  v_cursor    timestamptz := to_timestamp(p_cursor / 1000.0);
  v_finished  boolean;
begin
  if p_cursor is null or p_version is null or p_state is null or p_finished is null then
    raise exception 'p_cursor, p_version, p_state and p_finished must be given'
      using errcode = 'invalid_parameter_value', hint = 'The cursor is the time of the newest sample replayed, in ms.';
  end if;

  -- The state before its replay, as record_detections locks them.
  select * into v_live from monitor.detector_states where series_id = p_series_id for no key update;
  if not found then
    return jsonb_build_object('outcome', 'stale');
  end if;
  select * into v_replay from monitor.detector_replays where series_id = p_series_id for update;
  if not (case
    when monitor.epoch_ms(v_replay.requested_at) is distinct from p_requested_at then false -- asked for since, or gone
    when v_replay.version <> p_version then p_previous_cursor is null -- of another version: from the start
    else monitor.epoch_ms(v_replay.cursor_at) is not distinct from p_previous_cursor
  end) then
    return jsonb_build_object('outcome', 'stale');
  end if;

  -- The live state moves on meanwhile; what came since is replayed first.
  v_finished := p_finished and not exists (
    select from monitor.scan_series(
      array[p_series_id], v_cursor + interval '1 millisecond', v_live.last_sample_at + interval '1 millisecond'));
  if v_finished then
    update monitor.detector_states as saved
    set version = p_version, state = p_state, memory = p_memory,
        forecast = coalesce(nullif(p_forecast, 'null'), saved.forecast),
        silent_at = to_timestamp(p_silent_at / 1000.0),
        threshold = p_threshold, calibration = nullif(p_calibration, 'null'), calibrated_at = p_now, updated_at = p_now
    where saved.series_id = p_series_id;
    delete from monitor.detector_replays where series_id = p_series_id;
  else
    insert into monitor.detector_replays as known (
      series_id, version, reason, requested_at, history_since, cursor_at, state, memory, candidates, slice_count)
    values (
      p_series_id, p_version, 'weekly', p_now, least(p_now - c_history, v_live.last_sample_at),
      v_cursor, p_state, p_memory, nullif(p_candidates, 'null'), 1)
    on conflict (series_id) do update
    set version = excluded.version,
        history_since = case when p_previous_cursor is null then excluded.history_since else known.history_since end,
        cursor_at = excluded.cursor_at, state = excluded.state, memory = excluded.memory, candidates = excluded.candidates,
        slice_count = case when p_previous_cursor is null then 1 else known.slice_count + 1 end
    -- A request that was not committed yet when we looked: that one begins at the start.
    where monitor.epoch_ms(known.requested_at) is not distinct from p_requested_at;
    if not found then
      return jsonb_build_object('outcome', 'stale');
    end if;
  end if;
  return jsonb_build_object('outcome', case when v_finished then 'finished' when p_finished then 'moved_on' else 'recorded' end);
end;
$$;

comment on function monitor.record_replay_slice(
  integer, bigint, bigint, text, jsonb, text, jsonb, jsonb, bigint, boolean, double precision, jsonb, timestamptz, bigint) is
  'Stores how far the replay of a series has come, if p_previous_cursor and p_requested_at (null: nobody asked) are what was read. '
  'With p_finished and nothing judged since beyond p_cursor, what it found takes over in detector_states, p_threshold included, '
  'and the replay is gone; a forecast of null leaves the present one. Returns {outcome}: recorded, finished, '
  'moved_on (p_finished, but there is more by now) or stale, which changes nothing. Times in ms. Errors: 22023 for a missing '
  'argument, 23514 for a state or candidates too large or a threshold out of range.';

create function monitor.park_replay(
  p_series_id     integer,
  p_error         text,
  p_now           timestamptz default now(),
  p_requested_at  bigint      default null
)
returns void
language plpgsql
security invoker
set search_path = ''
as $$
begin
  -- In the order of record_replay_slice, or each could wait for the other.
  perform from monitor.detector_states where series_id = p_series_id for no key update;
  delete from monitor.detector_replays
  where series_id = p_series_id and (p_requested_at is null or monitor.epoch_ms(requested_at) = p_requested_at);
  if not found and p_requested_at is not null then
    return; -- asked for since: that one may go better
  end if;
  update monitor.detector_states
  set calibrated_at = p_now,
      calibration = coalesce(calibration, '{}') || jsonb_build_object('failed', left(p_error, 500))
  where series_id = p_series_id;
end;
$$;

comment on function monitor.park_replay(integer, text, timestamptz, bigint) is
  'Gives up the replay of a series that cannot be replayed, so that the others have their turn: it keeps its state and threshold, '
  'calibration says why under failed, and it is due again in 7 days, or when somebody asks. With p_requested_at, as it was read, '
  'in ms: not if somebody has asked since.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.read_replay_slice(integer, timestamptz, text),
  monitor.record_replay_slice(
    integer, bigint, bigint, text, jsonb, text, jsonb, jsonb, bigint, boolean, double precision, jsonb, timestamptz, bigint),
  monitor.park_replay(integer, text, timestamptz, bigint)
to service_role;
