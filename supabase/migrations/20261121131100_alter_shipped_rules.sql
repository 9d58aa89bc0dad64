-- Purpose:  overdue jobs are alerts by themselves now, so their rule goes; the canary comes; which alert explains which others.
-- Locks:    none.
-- Undo:     delete the rule PgvigilCanary; delete from monitor.inhibition_rules where name like 'pgvigil: %'; save the rule JobMissing of 20261121120500 again.

-- Unless somebody has made it his own.
delete from monitor.alert_rules
where group_name = 'pgvigil' and name = 'JobMissing' and kind = 'alerting'
  and expr like 'pgvigil_job_age_seconds{job="data-retention-cleanup"} > 93600%'
  and created_at = updated_at;

select monitor.save_rules($rules$
[
  {
    "name": "pgvigil",
    "interval_seconds": 60,
    "rules": [
      {
        "kind": "alerting",
        "name": "PgvigilCanary",
        "expr": "pgvigil_canary_due == 1",
        "labels": {
          "severity": "info",
          "team": "platform"
        },
        "annotations": {
          "summary": "The daily test of alerting: all is well if you read this",
          "description": "It goes the way of every alert, from a metric over a rule to you. If it does not come one day, nothing else may come either."
        },
        "severity": "info"
      }
    ]
  }
]
$rules$);

insert into monitor.inhibition_rules (name, source_matchers, target_matchers, equal_labels) values
  ('pgvigil: a missing job fails', '[{"name": "alertname", "op": "=", "value": "JobMissing"}]',
    '[{"name": "alertname", "op": "=", "value": "JobFailing"}]', '{job}'),
  ('pgvigil: nothing is collected', '[{"name": "alertname", "op": "=", "value": "JobMissing"}, {"name": "job", "op": "=", "value": "collect-metrics"}]',
    '[{"name": "alertname", "op": "=", "value": "MetricsStale"}]', '{}'),
  ('pgvigil: no metrics without collecting', '[{"name": "alertname", "op": "=", "value": "JobMissing"}, {"name": "job", "op": "=", "value": "collect-metrics"}]',
    '[{"name": "alertname", "op": "=", "value": "ComponentUnhealthy"}, {"name": "component", "op": "=", "value": "metrics"}]', '{}'),
  ('pgvigil: metrics are stale', '[{"name": "alertname", "op": "=", "value": "MetricsStale"}]',
    '[{"name": "alertname", "op": "=", "value": "ComponentUnhealthy"}, {"name": "component", "op": "=", "value": "metrics"}]', '{}'),
  ('pgvigil: rules fail', '[{"name": "alertname", "op": "=", "value": "RulesFailing"}]',
    '[{"name": "alertname", "op": "=", "value": "ComponentUnhealthy"}, {"name": "component", "op": "=", "value": "rules"}]', '{}'),
  ('pgvigil: a channel fails', '[{"name": "alertname", "op": "=", "value": "ChannelFailing"}]',
    '[{"name": "alertname", "op": "=", "value": "ComponentUnhealthy"}, {"name": "component", "op": "=", "value": "notifications"}]', '{}');
