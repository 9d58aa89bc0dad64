import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import {
  BytesIEC,
  BytesSI,
  CountsPerSecond,
  IOOpsPerSecond,
  Milliseconds,
  Minutes,
  OpsPerSecond,
  Percent,
  PercentUnit,
  Seconds,
  Short,
} from "@grafana/grafana-foundation-sdk/units";
import { buildDashboard } from "./dashboard.ts";
import { stat, timeSeries, toThresholds } from "./panels.ts";

/** The newest value of what is measured every 5 minutes: without a window it is too old when the next is due. */
const newest = (metric: string): string => `last_over_time(${metric}[15m])`;

/** One metric, as it is. */
const line = (expr: string, legend: string) => [{ expr, legend }];

/** A metric of the HTTP server: of all requests, and of each job. */
const ofAllAndEachJob = (metric: string) => [
  { expr: `${metric}{job=""}`, legend: "all" },
  { expr: `${metric}{job!=""}`, legend: "{{job}}" },
];

const ratePerSecond = (metric: string, legend: string) => ({
  expr: `sum(rate(${metric}[$__rate_interval]))`,
  legend,
});

/** Where the shipped rules begin; a hit rate is usually above the higher of its two. */
const LIMITS = {
  cacheHitRate: { warning: 99, critical: 95 },
  longestTransaction: { warning: 900 },
  transactionIdAge: { warning: 500e6, critical: 1500e6 },
  replicationSlotLag: { warning: 1024 ** 3 },
};

/** Jobs that run less often than every few minutes, and from which age on that is too long ago. */
const JOB_AGES = {
  "data-retention-cleanup": 93_600,
  "deliver-notifications": 2700,
  "detect-anomalies": 900,
};

const jobAges = stat({
  title: "Time since the last success of each job",
  description: "How long ago each job last succeeded. Red where it is overdue: after 5 minutes, " +
    "15 for the detection, 45 for the delivery, 26 hours for the cleanup. " +
    "JobMissing fires 2 to 6 minutes later.",
  unit: Seconds,
  width: 24,
  limits: { critical: 300 },
  empty: "No job has run",
  queries: line("pgvigil_job_age_seconds", "{{job}}"),
});
for (const [job, critical] of Object.entries(JOB_AGES)) {
  jobAges.overrideByName(job, [{
    id: "thresholds",
    value: { mode: "absolute", steps: toThresholds({ critical }) },
  }]);
}

/** The database of the project, its requests, and the monitor itself. */
export const SUPABASE_OVERVIEW: Dashboard = buildDashboard({
  uid: "pgvigil-supabase-overview",
  title: "Supabase overview",
  description:
    "What the collectors of pgvigil measure in the project: docs/metrics.md tells each metric.",
  variables: [],
  rows: [
    {
      title: "At a glance",
      panels: [
        stat({
          title: "Connections",
          description: "Clients that are connected, of those that the server accepts. " +
            "DatabaseConnectionsNearLimit begins at 80 %.",
          unit: PercentUnit,
          width: 3,
          decimals: 0,
          limits: { warning: 0.8, critical: 0.95 },
          queries: line("sum(database_connections) / max(database_connection_limit)", "used"),
        }),
        stat({
          title: "Cache hit rate",
          description:
            "Share of block reads served from memory, over the last 15 minutes; 99 % are usual.",
          unit: Percent,
          width: 3,
          decimals: 1,
          limits: LIMITS.cacheHitRate,
          queries: line("avg_over_time(cache_hit_rate[15m])", "from memory"),
        }),
        stat({
          title: "Longest transaction",
          description: "Age of the oldest open transaction of a client.",
          unit: Seconds,
          width: 3,
          limits: LIMITS.longestTransaction,
          queries: line("pg_longest_transaction_seconds", "open for"),
        }),
        stat({
          title: "Transaction id age",
          description: "Transactions since the oldest unfrozen one. Near 2 billion writes stop.",
          unit: Short,
          width: 3,
          limits: LIMITS.transactionIdAge,
          queries: line("pg_transaction_id_age", "transactions"),
        }),
        stat({
          title: "Database size",
          description: "Size of the database on disk.",
          unit: BytesIEC,
          width: 3,
          queries: line(newest("pg_database_size_bytes"), "size"),
        }),
        stat({
          title: "Open incidents",
          description: "Anomalies that were found and are not resolved.",
          unit: Short,
          width: 3,
          limits: { warning: 1 },
          queries: line("active_incidents", "incidents"),
        }),
        stat({
          title: "Firing alerts",
          description: "Alerts that are firing.",
          unit: Short,
          width: 3,
          limits: { critical: 1 },
          queries: line("unresolved_alerts", "alerts"),
        }),
        stat({
          title: "Last measurement",
          description:
            "Time since the database was last measured. Beyond a minute or two, this page is old.",
          unit: Seconds,
          width: 3,
          limits: { warning: 180, critical: 600 },
          empty: "Over an hour ago",
          queries: line(
            "time() - max(max_over_time(timestamp(database_connections)[1h:1m]))",
            "ago",
          ),
        }),
      ],
    },
    {
      title: "Database",
      panels: [
        timeSeries({
          title: "Connections by state",
          description: "Client connections of this database, and how many the server accepts.",
          unit: Short,
          width: 8,
          queries: [
            { expr: "sum by (state) (database_connections)", legend: "{{state}}" },
            { expr: "sum(database_connections)", legend: "all" },
            { expr: "max(database_connection_limit)", legend: "limit" },
          ],
        }),
        timeSeries({
          title: "Transactions",
          description: "Transactions per second, by how they ended.",
          unit: OpsPerSecond,
          width: 8,
          isStacked: true,
          queries: [
            ratePerSecond("pg_stat_database_xact_commit_total", "committed"),
            ratePerSecond("pg_stat_database_xact_rollback_total", "rolled back"),
          ],
        }),
        timeSeries({
          title: "Deadlocks",
          description: "Per second, transactions aborted because they waited for each other.",
          unit: CountsPerSecond,
          width: 8,
          queries: [ratePerSecond("pg_stat_database_deadlocks_total", "deadlocks")],
        }),
        timeSeries({
          title: "Cache hit rate",
          description:
            "Share of block reads served from memory, minute by minute. The lower line is where " +
            "CacheHitRateLow begins.",
          unit: Percent,
          width: 8,
          min: 80,
          max: 100,
          limits: LIMITS.cacheHitRate,
          queries: line("cache_hit_rate", "from memory"),
        }),
        timeSeries({
          title: "Block reads",
          description: "Blocks read per second, from memory and from the operating system.",
          unit: IOOpsPerSecond,
          width: 8,
          queries: [
            ratePerSecond("pg_stat_database_blks_hit_total", "from memory"),
            ratePerSecond("pg_stat_database_blks_read_total", "from the operating system"),
          ],
        }),
        timeSeries({
          title: "Longest transaction",
          description:
            "Age of a client's oldest open transaction. The line is where LongTransaction begins.",
          unit: Seconds,
          width: 8,
          limits: LIMITS.longestTransaction,
          queries: line("pg_longest_transaction_seconds", "open for"),
        }),
        timeSeries({
          title: "Transaction id age",
          description:
            "Transactions since the oldest unfrozen one. The lines are where TransactionIdsAging " +
            "and TransactionIdsRunningOut begin.",
          unit: Short,
          width: 8,
          limits: LIMITS.transactionIdAge,
          queries: line("pg_transaction_id_age", "transactions"),
        }),
        timeSeries({
          title: "Write-ahead log held back",
          description:
            "By the slot that is furthest behind. The line is where ReplicationSlotLag begins.",
          unit: BytesIEC,
          width: 8,
          limits: LIMITS.replicationSlotLag,
          empty: "No replication slot",
          queries: line("pg_replication_slot_lag_bytes", "held back"),
        }),
        timeSeries({
          title: "Database size",
          description: "Size of the database on disk, and what the monitor takes of it.",
          unit: BytesIEC,
          width: 8,
          queries: [
            { expr: newest("pg_database_size_bytes"), legend: "database" },
            { expr: newest("pgvigil_storage_bytes"), legend: "of it the monitor" },
          ],
        }),
      ],
    },
    {
      title: "HTTP requests to the application",
      panels: [
        timeSeries({
          title: "Response time",
          description: "Mean duration of the HTTP requests of the last 5 minutes.",
          unit: Milliseconds,
          width: 8,
          empty: "No request",
          queries: ofAllAndEachJob("api_response_time"),
        }),
        timeSeries({
          title: "Error rate",
          description: "Share of the HTTP requests of the last 5 minutes answered with 5xx.",
          unit: Percent,
          width: 8,
          empty: "No request",
          queries: ofAllAndEachJob("error_rate"),
        }),
        timeSeries({
          title: "Errors and refusals",
          description: "HTTP requests of the last 5 minutes answered with 5xx, and with 429.",
          unit: Short,
          width: 8,
          empty: "No request",
          queries: [
            { expr: `api_error_count{job=""}`, legend: "5xx" },
            { expr: `rate_limit_violations{job=""}`, legend: "429" },
          ],
        }),
      ],
    },
    {
      title: "Queues, calls out of the database and moderation",
      panels: [
        timeSeries({
          title: "Queues",
          description:
            "Messages in the queues of pgmq, tasks of Celery, and requests that wait in pg_net.",
          unit: Short,
          width: 8,
          empty: "No queue",
          queries: [
            { expr: `max by (queue) (queue_depth{queue!=""})`, legend: "{{queue}}" },
            { expr: "sum(celery_queue_size)", legend: "all of Celery" },
            { expr: "pg_net_queue_length", legend: "pg_net" },
          ],
        }),
        timeSeries({
          title: "Answers to pg_net",
          description: "Answers that pg_net received in the last 5 minutes, by class.",
          unit: Short,
          width: 8,
          isStacked: true,
          empty: "No answer",
          queries: line("sum by (class) (pg_net_responses)", "{{class}}"),
        }),
        timeSeries({
          title: "Failed runs of pg_cron",
          description: "Runs of pg_cron jobs that failed in the last 5 minutes.",
          unit: Short,
          width: 8,
          empty: "pg_cron is not installed",
          queries: line("pg_cron_failed_runs", "failed"),
        }),
        timeSeries({
          title: "Submissions that await moderation",
          description: "From the view monitor.submissions, if the project has one.",
          unit: Short,
          width: 8,
          empty: "No view monitor.submissions",
          queries: line("pending_submissions", "pending"),
        }),
        timeSeries({
          title: "Approved submissions",
          description: "Share of approved among the submissions decided in the last 24 hours.",
          unit: Percent,
          width: 8,
          max: 100,
          empty: "None was decided",
          queries: line("submission_approval_rate", "approved"),
        }),
        timeSeries({
          title: "Time to a decision",
          description:
            "Mean time from submission to decision of those decided in the last 24 hours.",
          unit: Minutes,
          width: 8,
          empty: "None was decided",
          queries: line("avg_moderation_time", "mean"),
        }),
      ],
    },
    {
      title: "The monitor itself",
      panels: [
        jobAges,
        timeSeries({
          title: "Duration of jobs",
          description: "Of the last finished run of each job: what the monitor costs in time.",
          unit: Seconds,
          width: 8,
          empty: "No job has run",
          queries: line("pgvigil_job_run_duration_seconds", "{{job}}"),
        }),
        timeSeries({
          title: "Storage",
          description: "Disk space that the monitor takes, and its budget, if it has one. " +
            "StorageBudgetNearlySpent begins at 90 % of it.",
          unit: BytesSI,
          width: 8,
          queries: [
            { expr: newest("pgvigil_storage_bytes"), legend: "monitor" },
            { expr: newest("pgvigil_storage_budget_bytes"), legend: "budget" },
          ],
        }),
        timeSeries({
          title: "Incidents, alerts and failing rules",
          description: "Incidents that are not resolved, alerts that are firing, and rules that " +
            "cannot be evaluated: last_error of monitor.rule_states says why.",
          unit: Short,
          width: 8,
          queries: [
            { expr: "active_incidents", legend: "incidents" },
            { expr: "unresolved_alerts", legend: "alerts" },
            { expr: "pgvigil_failing_rules", legend: "failing rules" },
          ],
        }),
        timeSeries({
          title: "Series",
          description: "Series that the monitor knows.",
          unit: Short,
          width: 8,
          queries: line(newest("pgvigil_series_count"), "all"),
        }),
        timeSeries({
          title: "Series of the largest metric",
          description: "One that grows without end has a label that it should not have.",
          unit: Short,
          width: 8,
          queries: line(
            `topk(1, ${newest("pgvigil_largest_metric_series_count")})`,
            "{{metric}}",
          ),
        }),
        timeSeries({
          title: "Samples beyond the ceiling",
          description:
            "Per second, samples that went to overflow series: their metrics have too many series.",
          unit: CountsPerSecond,
          width: 8,
          empty: "No metric is above its ceiling",
          queries: [{
            expr: "sum by (metric) (rate(pgvigil_overflow_samples_total[$__rate_interval]))",
            legend: "{{metric}}",
            every: "5m",
          }],
        }),
      ],
    },
  ],
});
