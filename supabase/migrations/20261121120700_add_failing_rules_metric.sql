-- Purpose:  rules that cannot be evaluated as a metric, so that they are seen and told; alerts of rules among those that fire.
-- Locks:    none on existing tables.
-- Undo:     run collect_incidents_and_alerts of 20261121090800 again, as create or replace, with its comment, then
--           register_collector as below. The definition stays, as do those of all metrics that have samples.

-- A rule fails because somebody wrote it so: there is an alert for it, and it is no anomaly.
insert into monitor.metric_definitions (metric, category, unit, kind, detection_enabled, description)
values
  ('pgvigil_failing_rules', 'monitoring', 'count', 'gauge', false, 'Rules whose last evaluation had an error; no sample before one was evaluated.');

create or replace function monitor.collect_incidents_and_alerts(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  select
    monitor.sample('active_incidents', (select count(*) from monitor.incidents where resolved_at is null))
    || monitor.sample('unresolved_alerts', (
      select count(*) from monitor.system_alerts where resolved_at is null
    ) + (
      select count(*)
      from monitor.rule_states as evaluated
      join monitor.alert_rules as rule using (rule_id)
      cross join lateral jsonb_array_elements(evaluated.instances) as instance
      where rule.enabled and rule.mode = 'live' and instance ->> 'state' = 'firing'))
    || monitor.sample('pgvigil_failing_rules', (
      select case when count(evaluated_at) > 0 then count(*) filter (where health = 'err') end from monitor.rule_states));
$$;

comment on function monitor.collect_incidents_and_alerts(timestamptz) is
  'active_incidents, unresolved_alerts, and pgvigil_failing_rules.';

-- A function that is replaced loses its time-out. With the settings it has, which may be somebody's own.
select monitor.register_collector(
  collector, 'Open incidents, firing alerts, failing rules', interval_seconds, timeout_seconds, required_relations)
from monitor.metric_collectors
where collector = 'collect_incidents_and_alerts';

revoke all on all functions in schema monitor from public;
