-- Purpose:  which series are to be replayed over their stored history, what asks for it, and the settings that do.
-- Locks:    share row exclusive on metric_definitions and detector_states while a trigger and a foreign key are made.
-- Undo:     drop trigger metric_definitions_request_replays on monitor.metric_definitions; drop table monitor.detector_replays;
--           drop function monitor.set_detection(text, double precision, text, text, double precision, double precision, boolean),
--           monitor.request_replays_of_metric(), monitor.request_replay(integer, text, timestamptz),
--           monitor.request_replays(integer[], text, timestamptz);

create table monitor.detector_replays (
  series_id      integer     not null,
  version        text,
  reason         text        not null,
  requested_at   timestamptz not null,
  history_since  timestamptz,
  cursor_at      timestamptz,
  state          jsonb,
  memory         text,
  candidates     jsonb,
  slice_count    integer     not null default 0,

  constraint detector_replays_pkey primary key (series_id),
  constraint detector_replays_series_id_fkey
    foreign key (series_id) references monitor.detector_states (series_id) on delete cascade,
  constraint detector_replays_reason_present check (reason <> ''),
  constraint detector_replays_started_whole check (
    num_nulls(version, history_since, cursor_at, state) in (0, 4) and (cursor_at is not null) = (slice_count > 0)),
  constraint detector_replays_state_bounded
    check (octet_length(state::text) + coalesce(octet_length(memory), 0) <= 16384),
  constraint detector_replays_candidates_bounded check (pg_column_size(candidates) <= 65536)
) with (fillfactor = 50); -- rewritten by every slice

create index detector_replays_requested_at_idx on monitor.detector_replays (requested_at, series_id);

comment on table monitor.detector_replays is
  'A series whose stored history the detector judges again, a slice at a time, to find its threshold or to take over from another '
  'version. It is here while that is asked for or going on; detector_states serves untouched meanwhile.';
comment on column monitor.detector_replays.version is 'Detector and version that replays; null before the first slice.';
comment on column monitor.detector_replays.reason is 'What asked last: settings, feedback, version, weekly, ...';
comment on column monitor.detector_replays.requested_at is 'The oldest request has its turn first.';
comment on column monitor.detector_replays.history_since is 'Where the replayed history begins; null before the first slice.';
comment on column monitor.detector_replays.cursor_at is 'Newest sample replayed; null before the first slice.';
comment on column monitor.detector_replays.state is 'As in detector_states, of the replay.';
comment on column monitor.detector_replays.memory is 'As in detector_states, of the replay.';
comment on column monitor.detector_replays.candidates is 'What would be told at a low threshold, as the function keeps it.';

alter table monitor.detector_replays enable row level security;

create policy detector_replays_select_authenticated
  on monitor.detector_replays for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.detector_replays to authenticated;
grant select, insert, update, delete on monitor.detector_replays to service_role;

create function monitor.request_replays(p_series_ids integer[], p_reason text, p_now timestamptz default now())
returns integer
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_asked  integer;
begin
  insert into monitor.detector_replays as known (series_id, reason, requested_at)
  select saved.series_id, p_reason, p_now
  from monitor.detector_states as saved
  where saved.series_id = any (p_series_ids)
  order by saved.series_id -- as record_detections does, so that none waits for the other
  on conflict (series_id) do update
  set reason = excluded.reason,
      -- Never the same instant again: a slice that began before this request must not pass for one of it.
      requested_at = greatest(excluded.requested_at, known.requested_at + interval '1 millisecond'),
      version = null, history_since = null, cursor_at = null, state = null, memory = null, candidates = null, slice_count = 0;
  get diagnostics v_asked = row_count;
  return v_asked;
end;
$$;

comment on function monitor.request_replays(integer[], text, timestamptz) is
  'Asks that these series be replayed from the start, also when a replay is going on. Returns how many: of a series that nobody '
  'has judged yet there is nothing to find out again.';

create function monitor.request_replay(p_series_id integer, p_reason text, p_now timestamptz default now())
returns boolean
language sql
security invoker
set search_path = ''
as $$
  select monitor.request_replays(array[p_series_id], p_reason, p_now) > 0;
$$;

comment on function monitor.request_replay(integer, text, timestamptz) is
  'As request_replays, of one series. False if nobody has judged it yet.';

create function monitor.request_replays_of_metric()
returns trigger
language plpgsql
security invoker
set search_path = ''
as $$
begin
  -- All at once: a metric may have as many series as there are.
  perform monitor.request_replays(
    array(select series.series_id from monitor.metric_series as series where series.metric = new.metric), 'settings');
  return null;
end;
$$;

comment on function monitor.request_replays_of_metric() is
  'Trigger of metric_definitions: thresholds were found for the settings as they were.';

create trigger metric_definitions_request_replays
  after update on monitor.metric_definitions
  for each row
  when ((old.detection_budget, old.detection_direction, old.minimum_change, old.minimum_change_ratio, old.kind)
    is distinct from (new.detection_budget, new.detection_direction, new.minimum_change, new.minimum_change_ratio, new.kind))
  execute function monitor.request_replays_of_metric();

create function monitor.set_detection(
  p_metric                text,
  p_budget                double precision default null,
  p_sensitivity           text             default null,
  p_direction             text             default null,
  p_minimum_change        double precision default null,
  p_minimum_change_ratio  double precision default null,
  p_enabled               boolean          default null
)
returns void
language plpgsql
security definer -- an admin may set what is told of a metric, but not rewrite its definition
set search_path = ''
as $$
begin
  if not monitor.may_administer() then
    raise exception 'only an admin may change detection' using errcode = 'insufficient_privilege';
  end if;
  if p_budget is not null and p_sensitivity is not null then
    raise exception 'p_budget and p_sensitivity are two ways to say the same'
      using errcode = 'invalid_parameter_value', hint = 'Give one of them: low is 0.25 a week, normal 1, high 4.';
  end if;
  if p_sensitivity is not null and p_sensitivity not in ('low', 'normal', 'high') then
    raise exception 'p_sensitivity must be low, normal or high, got %', p_sensitivity
      using errcode = 'invalid_parameter_value', hint = 'Or give p_budget, the anomalies a week.';
  end if;
  if p_budget is not null and not (p_budget >= 0.01 and p_budget <= 100) then
    raise exception 'p_budget must be from 0.01 to 100 a week, got %', p_budget
      using errcode = 'invalid_parameter_value', hint = 'To hear nothing of a metric, set p_enabled to false.';
  end if;
  if p_direction is not null and p_direction not in ('auto', 'both', 'up', 'down') then
    raise exception 'p_direction must be auto, both, up or down, got %', p_direction
      using errcode = 'invalid_parameter_value', hint = 'auto is inferred from the unit and kind of the metric.';
  end if;
  if p_minimum_change is not null and not (p_minimum_change >= 0 and p_minimum_change < 'infinity')
    or p_minimum_change_ratio is not null and not (p_minimum_change_ratio >= 0 and p_minimum_change_ratio < 'infinity') then
    raise exception 'p_minimum_change and p_minimum_change_ratio must be finite and not negative'
      using errcode = 'invalid_parameter_value', hint = 'The first is in the metric''s unit, the second a share: 0.02 is 2 %.';
  end if;

  update monitor.metric_definitions
  set detection_budget = coalesce(
        p_budget, case p_sensitivity when 'low' then 0.25 when 'normal' then 1 when 'high' then 4 end, detection_budget),
      detection_direction = coalesce(p_direction, detection_direction),
      minimum_change = coalesce(p_minimum_change, minimum_change),
      minimum_change_ratio = coalesce(p_minimum_change_ratio, minimum_change_ratio),
      detection_enabled = coalesce(p_enabled, detection_enabled)
  where metric = p_metric;
  if not found then
    raise exception 'no such metric: %', p_metric
      using errcode = 'no_data_found', hint = 'Metrics are the rows of monitor.metric_definitions.';
  end if;
end;
$$;

comment on function monitor.set_detection(text, double precision, text, text, double precision, double precision, boolean) is
  'Sets what is told of a metric: at most p_budget anomalies a week and series, or p_sensitivity (low 0.25, normal 1, high 4), the '
  'direction, the smallest change worth telling in its unit and as a share, and whether any. Null leaves as it is. Recorded in the '
  'audit log; the metric''s series are replayed to find their thresholds. Errors: 42501 for a user who is no admin, 22023 for a '
  'value out of range or both budget and sensitivity, P0002 for an unknown metric.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.request_replays(integer[], text, timestamptz),
  monitor.request_replay(integer, text, timestamptz),
  monitor.set_detection(text, double precision, text, text, double precision, double precision, boolean)
to service_role;
grant execute on function
  monitor.set_detection(text, double precision, text, text, double precision, double precision, boolean)
to authenticated;
