-- Purpose:  one knob a metric: how many anomalies a week may be told. Direction and smallest change may be inferred.
-- Locks:    access exclusive on metric_definitions while columns and checks change; it is small.
-- Undo:     update null minimum_change to 0 and 'auto' to 'both', restore the two checks and defaults and `not null`,
--           drop the columns detection_budget and minimum_change_ratio.
--
-- detection_sensitivity goes with the reader that still uses it, in 20261121110500.

alter table monitor.metric_definitions
  add column detection_budget      double precision not null default 1,
  add column minimum_change_ratio  double precision,
  alter column minimum_change drop not null,
  alter column minimum_change drop default,
  alter column detection_direction set default 'auto',
  drop constraint metric_definitions_detection_direction_known,
  drop constraint metric_definitions_minimum_change_finite,
  add constraint metric_definitions_detection_direction_known
    check (detection_direction in ('auto', 'both', 'up', 'down')),
  add constraint metric_definitions_detection_budget_in_range
    check (detection_budget >= 0.01 and detection_budget <= 100),
  add constraint metric_definitions_minimum_change_finite
    check (minimum_change >= 0 and minimum_change < 'infinity'),
  add constraint metric_definitions_minimum_change_ratio_finite
    check (minimum_change_ratio >= 0 and minimum_change_ratio < 'infinity');

comment on column monitor.metric_definitions.detection_budget is
  'Anomalies told a week and series at most, from 0.01 to 100. The sensitivities low, normal and high are 0.25, 1 and 4.';
comment on column monitor.metric_definitions.detection_direction is
  'Which way a change has to go to be an anomaly. auto: inferred from unit and kind.';
comment on column monitor.metric_definitions.minimum_change is
  'In the metric''s unit: a smaller change is never an anomaly, however unusual. For a counter, per second. 0: no limit. '
  'Null: inferred from unit and kind.';
comment on column monitor.metric_definitions.minimum_change_ratio is
  'As a share of what was expected: a smaller change is never an anomaly. 0: no limit. Null: inferred from unit and kind.';

-- What nobody had chosen is inferred from now on.
update monitor.metric_definitions
set detection_budget = case detection_sensitivity when 'low' then 0.25 when 'high' then 4 else 1 end,
    detection_direction = case detection_direction when 'both' then 'auto' else detection_direction end,
    minimum_change = nullif(minimum_change, 0);
