-- Purpose:  the rules of supabase/rules/*.rules.yaml, as they are from the start.
-- Locks:    none.
-- Undo:     select monitor.delete_rules(name) from unnest(array['partner', 'partner-ratios', 'supabase', 'pgvigil']) as name;

select monitor.save_rules($rules$
[
  {
    "name": "partner",
    "interval_seconds": 60,
    "rules": [
      {
        "kind": "alerting",
        "name": "PartnerAPIHighErrorRate",
        "expr": "rate(partner_api_requests_total{status!=\"success\"}[5m]) > 0.1",
        "for_seconds": 120,
        "labels": {
          "severity": "warning",
          "team": "integrations"
        },
        "annotations": {
          "summary": "Partner {{ $labels.partner }}: requests fail",
          "description": "{{ printf \"%.2f\" $value }} requests per second to partner {{ $labels.partner }} ended as {{ $labels.status }} over the last 5 minutes. This counts failures per second; it is no share of all requests: see PartnerAPIErrorRatioHigh for that."
        },
        "severity": "warning"
      },
      {
        "kind": "alerting",
        "name": "PartnerAPIDown",
        "expr": "up{job=\"partner_api\"} == 0",
        "for_seconds": 60,
        "labels": {
          "severity": "critical",
          "team": "integrations"
        },
        "annotations": {
          "summary": "Partner API {{ $labels.partner }} is down",
          "description": "The partner API {{ $labels.partner }} has not answered for a minute."
        },
        "severity": "critical"
      },
      {
        "kind": "alerting",
        "name": "QueueDepthHigh",
        "expr": "queue_depth > 1000",
        "for_seconds": 300,
        "labels": {
          "severity": "warning",
          "team": "platform"
        },
        "annotations": {
          "summary": "Queue {{ $labels.queue_type }}{{ $labels.queue }} is {{ $value }} deep",
          "description": "More than 1000 messages have waited in queue {{ $labels.queue_type }}{{ $labels.queue }} for 5 minutes, {{ $value }} of them now."
        },
        "severity": "warning"
      },
      {
        "kind": "alerting",
        "name": "SyncFailureRateHigh",
        "expr": "rate(sync_duration_seconds_count{status=\"failed\"}[10m]) > 0.05",
        "for_seconds": 300,
        "labels": {
          "severity": "warning",
          "team": "integrations"
        },
        "annotations": {
          "summary": "Partner {{ $labels.partner }}: syncs fail",
          "description": "{{ printf \"%.3f\" $value }} syncs per second with partner {{ $labels.partner }} failed over the last 10 minutes. This counts failures per second; it is no share of all syncs: see SyncFailureRatioHigh for that."
        },
        "severity": "warning"
      },
      {
        "kind": "alerting",
        "name": "DataProcessingStuck",
        "expr": "increase(data_processing_duration_seconds_count[1h]) == 0 or absent(data_processing_duration_seconds_count)",
        "for_seconds": 1800,
        "labels": {
          "severity": "critical",
          "team": "platform"
        },
        "annotations": {
          "pgvigil_mode": "shadow",
          "summary": "Data processing is stuck",
          "description": "Nothing has been processed for an hour, or the processing has sent no sample at all."
        },
        "severity": "critical",
        "mode": "shadow"
      }
    ]
  },
  {
    "name": "partner-ratios",
    "interval_seconds": 60,
    "rules": [
      {
        "kind": "alerting",
        "name": "PartnerAPIErrorRatioHigh",
        "expr": "sum by (partner) (increase(partner_api_requests_total{status!=\"success\"}[5m]))\n  / sum by (partner) (increase(partner_api_requests_total[5m])) > 0.05\nand sum by (partner) (increase(partner_api_requests_total[5m])) >= 20\n",
        "for_seconds": 120,
        "labels": {
          "severity": "warning",
          "team": "integrations"
        },
        "annotations": {
          "summary": "Partner {{ $labels.partner }}: {{ $value | humanizePercentage }} of requests fail",
          "description": "{{ $value | humanizePercentage }} of the requests to partner {{ $labels.partner }} failed over the last 5 minutes; up to 5 % are normal."
        },
        "severity": "warning"
      },
      {
        "kind": "alerting",
        "name": "SyncFailureRatioHigh",
        "expr": "sum by (partner) (increase(sync_duration_seconds_count{status=\"failed\"}[10m]))\n  / sum by (partner) (increase(sync_duration_seconds_count[10m])) > 0.1\nand sum by (partner) (increase(sync_duration_seconds_count[10m])) >= 10\n",
        "for_seconds": 300,
        "labels": {
          "severity": "warning",
          "team": "integrations"
        },
        "annotations": {
          "summary": "Partner {{ $labels.partner }}: {{ $value | humanizePercentage }} of syncs fail",
          "description": "{{ $value | humanizePercentage }} of the syncs with partner {{ $labels.partner }} failed over the last 10 minutes; up to 10 % are normal."
        },
        "severity": "warning"
      }
    ]
  },
  {
    "name": "supabase",
    "interval_seconds": 60,
    "rules": [
      {
        "kind": "alerting",
        "name": "DatabaseConnectionsNearLimit",
        "expr": "sum(database_connections) / max(database_connection_limit) > 0.8",
        "for_seconds": 300,
        "labels": {
          "severity": "warning",
          "team": "database"
        },
        "annotations": {
          "summary": "{{ $value | humanizePercentage }} of the database connections are taken",
          "description": "Of the connections that the server accepts, {{ $value | humanizePercentage }} are taken now and more than 80 % have been for 5 minutes. When all are, whoever comes is refused."
        },
        "severity": "warning"
      },
      {
        "kind": "alerting",
        "name": "CacheHitRateLow",
        "expr": "avg_over_time(cache_hit_rate[15m]) < 95",
        "for_seconds": 900,
        "labels": {
          "severity": "warning",
          "team": "database"
        },
        "annotations": {
          "summary": "{{ printf \"%.1f\" $value }} % of block reads are served from memory",
          "description": "{{ printf \"%.1f\" $value }} % of block reads came from memory over the last 15 minutes; 99 % are usual. Queries without an index, or more data than memory holds."
        },
        "severity": "warning"
      },
      {
        "kind": "alerting",
        "name": "LongTransaction",
        "expr": "pg_longest_transaction_seconds > 900",
        "for_seconds": 300,
        "labels": {
          "severity": "warning",
          "team": "database"
        },
        "annotations": {
          "summary": "A transaction has been open for {{ $value | humanizeDuration }}",
          "description": "A client keeps a transaction open for {{ $value | humanizeDuration }}. It holds its locks, and nothing that was deleted since can be cleaned up."
        },
        "severity": "warning"
      },
      {
        "kind": "alerting",
        "name": "TransactionIdsAging",
        "expr": "pg_transaction_id_age > 500e6",
        "for_seconds": 600,
        "labels": {
          "severity": "warning",
          "team": "database"
        },
        "annotations": {
          "summary": "The oldest transaction id is {{ $value | humanize }} transactions old",
          "description": "Autovacuum freezes from 200M on and is behind at {{ $value | humanize }}: look for a long transaction, a replication slot nobody reads, or a prepared transaction."
        },
        "severity": "warning"
      },
      {
        "kind": "alerting",
        "name": "TransactionIdsRunningOut",
        "expr": "pg_transaction_id_age > 1500e6",
        "for_seconds": 60,
        "labels": {
          "severity": "critical",
          "team": "database"
        },
        "annotations": {
          "summary": "Writes will stop: the oldest transaction id is {{ $value | humanize }} old",
          "description": "Near 2 billion the database refuses to write; it is at {{ $value | humanize }}."
        },
        "severity": "critical"
      },
      {
        "kind": "alerting",
        "name": "ReplicationSlotLag",
        "expr": "pg_replication_slot_lag_bytes > 1024 ^ 3",
        "for_seconds": 600,
        "labels": {
          "severity": "warning",
          "team": "database"
        },
        "annotations": {
          "summary": "A replication slot holds back {{ $value | humanize1024 }}B",
          "description": "The slot that is furthest behind holds back {{ $value | humanize1024 }}B of write-ahead log, which fills the disk if nobody reads or drops it."
        },
        "severity": "warning"
      }
    ]
  },
  {
    "name": "pgvigil",
    "interval_seconds": 60,
    "rules": [
      {
        "kind": "alerting",
        "name": "CronRunsFailing",
        "expr": "pg_cron_failed_runs > 0",
        "for_seconds": 600,
        "labels": {
          "severity": "warning",
          "team": "platform"
        },
        "annotations": {
          "summary": "{{ $value }} runs of pg_cron jobs failed within 5 minutes",
          "description": "Jobs of pg_cron have been failing for 10 minutes; cron.job_run_details says which and why."
        },
        "severity": "warning"
      },
      {
        "kind": "alerting",
        "name": "JobMissing",
        "expr": "pgvigil_job_age_seconds{job=\"data-retention-cleanup\"} > 93600\n  or pgvigil_job_age_seconds{job=\"detect-anomalies\"} > 900\n  or pgvigil_job_age_seconds{job!~\"data-retention-cleanup|detect-anomalies\"} > 300\n",
        "for_seconds": 300,
        "labels": {
          "severity": "critical",
          "team": "platform"
        },
        "annotations": {
          "summary": "Job {{ $labels.job }} has not succeeded for {{ $value | humanizeDuration }}",
          "description": "Job {{ $labels.job }} of the monitor fails or is not started any more: npm run doctor says which."
        },
        "severity": "critical"
      },
      {
        "kind": "alerting",
        "name": "RulesFailing",
        "expr": "pgvigil_failing_rules > 0",
        "for_seconds": 600,
        "labels": {
          "severity": "warning",
          "team": "platform"
        },
        "annotations": {
          "summary": "{{ $value }} rules cannot be evaluated",
          "description": "{{ $value }} rules have failed for 10 minutes: their alerts stay as they are and what they record is missing. last_error of monitor.rule_states says why."
        },
        "severity": "warning"
      },
      {
        "kind": "alerting",
        "name": "MetricsStale",
        "expr": "absent_over_time(database_connections[5m])",
        "for_seconds": 300,
        "labels": {
          "severity": "critical",
          "team": "platform"
        },
        "annotations": {
          "summary": "The database has not been measured for 10 minutes",
          "description": "No collector has written a sample for 10 minutes. Whatever else is silent may be silent for that reason."
        },
        "severity": "critical"
      },
      {
        "kind": "alerting",
        "name": "StorageBudgetNearlySpent",
        "expr": "last_over_time(pgvigil_storage_bytes[15m])\n  / last_over_time(pgvigil_storage_budget_bytes[15m]) > 0.9\n",
        "for_seconds": 1800,
        "labels": {
          "severity": "warning",
          "team": "platform"
        },
        "annotations": {
          "summary": "The monitor takes {{ $value | humanizePercentage }} of its storage budget",
          "description": "Samples and what is kept beside them take {{ $value | humanizePercentage }} of the budget; above 100 % the oldest weeks of samples are dropped before their time. Shorten a retention, or raise keep_megabytes of the retention policy metric_chunks if the plan has room."
        },
        "severity": "warning"
      }
    ]
  }
]
$rules$);
