-- Purpose:  what a detector remembers in two parts, of which the large one is rarely written; its threshold, its forecast.
-- Locks:    access exclusive on detector_states while columns and a check change and indexes are built; the check reads every state
--           once.
-- Undo:     drop index monitor.detector_states_calibrated_at_idx, monitor.detector_states_version_idx;
--           alter table monitor.detector_states drop column memory, drop column threshold, drop column calibrated_at, drop column
--           calibration, drop column forecast, drop column silent_at, reset (fillfactor, toast_tuple_target), and restore the check
--           detector_states_state_bounded of 20261121090600.

alter table monitor.detector_states
  add column memory         text,
  add column threshold      double precision,
  add column calibrated_at  timestamptz,
  add column calibration    jsonb,
  add column forecast       jsonb,
  add column silent_at      timestamptz,
  -- Kept beside the row: an update that does not bring them writes a pointer of 18 bytes for each.
  alter column memory set storage external,   -- its text has nothing left to compress
  alter column forecast set storage extended,
  alter column calibration set storage extended,
  alter column state set storage main,        -- written each time anyway
  set (toast_tuple_target = 128, fillfactor = 50), -- half a page free: an update finds room on its own page, no index is touched
  drop constraint detector_states_state_bounded,
  add constraint detector_states_state_bounded
    check (octet_length(state::text) + coalesce(octet_length(memory), 0) <= 16384),
  -- As stored: every update asks, and measured as text it would be fetched and printed each time.
  add constraint detector_states_forecast_bounded check (pg_column_size(forecast) <= 16384),
  add constraint detector_states_calibration_bounded check (pg_column_size(calibration) <= 8192),
  add constraint detector_states_threshold_in_range check (threshold > 0 and threshold <= 1);

-- What a run writes changes neither version nor calibrated_at: its updates still touch no index.
create index detector_states_calibrated_at_idx on monitor.detector_states (coalesce(calibrated_at, '-infinity'), series_id);
comment on index monitor.detector_states_calibrated_at_idx is 'Finds who has not been replayed for longest.';
create index detector_states_version_idx on monitor.detector_states (version);
comment on index monitor.detector_states_version_idx is 'Finds those that another version still judges.';

comment on column monitor.detector_states.version is
  'Detector and version that wrote the state. Another one starts afresh, or replays the stored history and takes over then.';
comment on column monitor.detector_states.state is
  'The small part of what the detector remembers, written by every run; with memory at most 16 KiB as text.';
comment on column monitor.detector_states.memory is 'The large part, written about once an hour; null before there is any.';
comment on column monitor.detector_states.threshold is
  'Score (0-1] from which a change is told, as a replay found it for the budget of the metric; null before the first: 0.5.';
comment on column monitor.detector_states.calibrated_at is 'When a replay last ended; null before the first.';
comment on column monitor.detector_states.calibration is
  'What that replay found: {days, candidates, told, budget, ...}; with failed, why it could not.';
comment on column monitor.detector_states.forecast is
  '{from, stepMs, expected, lower, upper}: from, in ms, is where the first of equal steps of stepMs begins; what was expected of '
  'the last day and is of the coming one, and the band, in the metric''s unit (a counter''s rate per second), null where not known.';
comment on column monitor.detector_states.silent_at is
  'From when on it is an anomaly that no sample comes; null when that is not known or has been told.';
