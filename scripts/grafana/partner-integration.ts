import {
  type Dashboard,
  QueryVariableBuilder,
  VariableRefresh,
  VariableSort,
} from "@grafana/grafana-foundation-sdk/dashboard";
import {
  CountsPerSecond,
  NoUnit,
  OpsPerSecond,
  PercentUnit,
  RequestsPerSecond,
  Seconds,
  Short,
} from "@grafana/grafana-foundation-sdk/units";
import { buildDashboard } from "./dashboard.ts";
import { DATA_SOURCE, shareOfGrowth, stat, timeSeries, upTimeline } from "./panels.ts";

const PARTNER = `partner=~"$partner"`;
const FAILED_REQUEST = `status!="success"`;
const FAILED_SYNC = `status="failed"`;

/** Since the last look, a few samples at least. */
const LATELY = "$__rate_interval";

/** The time that is shown. */
const SHOWN = "$__range";

const RESPONSE_LIMITS = { warning: 2, critical: 5 };
const QUEUE_LIMITS = { warning: 1000 };
const ERROR_RATIO_LIMITS = { warning: 0.05 };
const SYNC_FAILURE_LIMITS = { warning: 0.1 };
const ASSIGNMENT_LIMITS = { warning: 0.95, critical: 0.9 };

const NO_REQUEST = "No request";
const NO_SYNC = "No sync";
const NO_ASSIGNMENT = "No assignment";

/** The duration that a share of them stays below, from a classic histogram. */
const quantile = (share: number, metric: string, by: string, window: string): string =>
  `histogram_quantile(${share}, sum by (${by}) (rate(${metric}_bucket{${PARTNER}}[${window}])))`;

const responseTimes = (share: number) =>
  timeSeries({
    title: `Response time, p${share * 100}`,
    description: `${share * 100} % of the requests to a partner took no longer. ` +
      "Estimated from the buckets of partner_api_duration_seconds; lines at 2 s and 5 s.",
    unit: Seconds,
    width: 8,
    limits: RESPONSE_LIMITS,
    empty: NO_REQUEST,
    queries: [{
      expr: quantile(share, "partner_api_duration_seconds", "partner, le", LATELY),
      legend: "{{partner}}",
    }],
  });

const requestErrors = { metric: "partner_api_requests_total", among: PARTNER };
const syncFailures = { metric: "sync_duration_seconds_count", among: PARTNER };
const assignments = { metric: "assignments_total", part: `status="success"` };

/** APIs of partners, queues, assignments, syncs and data processing. */
export const PARTNER_INTEGRATION: Dashboard = buildDashboard({
  uid: "pgvigil-partner-integration",
  title: "Partner integration",
  description:
    "What the application sends about its partners: their APIs, queues, assignments, syncs.",
  variables: [
    new QueryVariableBuilder("partner")
      .label("Partner")
      .datasource(DATA_SOURCE)
      .definition("label_values(partner_api_requests_total, partner)")
      .query({
        qryType: 1,
        query: "label_values(partner_api_requests_total, partner)",
        refId: "PrometheusVariableQueryEditor-VariableQuery",
      })
      .refresh(VariableRefresh.OnTimeRangeChanged)
      .sort(VariableSort.AlphabeticalAsc)
      .multi(true)
      .includeAll(true)
      // Of the query's own syntax, and matches series without the label too.
      .allValue(".*")
      .current({ text: ["All"], value: ["$__all"] }),
  ],
  rows: [
    {
      title: "At a glance",
      panels: [
        stat({
          title: "Partners down",
          description: "Partner APIs that do not answer now: up is 0.",
          unit: NoUnit,
          width: 4,
          limits: { critical: 1 },
          queries: [{ expr: `sum(1 - up{job="partner_api", ${PARTNER}})`, legend: "down" }],
        }),
        stat({
          title: "Failed requests",
          description:
            "Share of the requests to partners that did not end in success, over the time shown.",
          unit: PercentUnit,
          width: 4,
          decimals: 2,
          limits: ERROR_RATIO_LIMITS,
          empty: NO_REQUEST,
          queries: [{
            expr: shareOfGrowth({ ...requestErrors, part: FAILED_REQUEST, window: SHOWN }),
            legend: "failed",
          }],
        }),
        stat({
          title: "Response time, p95",
          description: "95 % of the requests to partners took no longer, over the time shown.",
          unit: Seconds,
          width: 4,
          limits: RESPONSE_LIMITS,
          empty: NO_REQUEST,
          queries: [{
            expr: quantile(0.95, "partner_api_duration_seconds", "le", SHOWN),
            legend: "p95",
          }],
        }),
        stat({
          title: "Successful assignments",
          description: "Share of assignments_total with the status success, over the time shown.",
          unit: PercentUnit,
          width: 4,
          decimals: 2,
          limits: ASSIGNMENT_LIMITS,
          empty: NO_ASSIGNMENT,
          queries: [{
            expr: shareOfGrowth({ ...assignments, window: SHOWN }),
            legend: "success",
          }],
        }),
        stat({
          title: "Deepest queue",
          description: "Messages in the queue that has most of them now.",
          unit: Short,
          width: 4,
          limits: QUEUE_LIMITS,
          queries: [{ expr: "max(queue_depth)", legend: "messages" }],
        }),
        stat({
          title: "Failed syncs",
          description: "Share of the syncs with partners that failed, over the time shown.",
          unit: PercentUnit,
          width: 4,
          decimals: 2,
          limits: SYNC_FAILURE_LIMITS,
          empty: NO_SYNC,
          queries: [{
            expr: shareOfGrowth({ ...syncFailures, part: FAILED_SYNC, window: SHOWN }),
            legend: "failed",
          }],
        }),
      ],
    },
    {
      title: "Partner APIs",
      panels: [
        responseTimes(0.5),
        responseTimes(0.95),
        responseTimes(0.99),
        timeSeries({
          title: "Requests",
          description: "Requests to each partner per second, whatever became of them.",
          unit: RequestsPerSecond,
          width: 8,
          empty: NO_REQUEST,
          queries: [{
            expr: `sum by (partner) (rate(partner_api_requests_total{${PARTNER}}[${LATELY}]))`,
            legend: "{{partner}}",
          }],
        }),
        timeSeries({
          title: "Failed requests, share",
          description:
            "Share of each partner's requests that did not end in success. The line is where " +
            "PartnerAPIErrorRatioHigh begins.",
          unit: PercentUnit,
          width: 8,
          limits: ERROR_RATIO_LIMITS,
          empty: NO_REQUEST,
          queries: [{
            expr: shareOfGrowth({
              ...requestErrors,
              part: FAILED_REQUEST,
              window: LATELY,
              by: "partner",
            }),
            legend: "{{partner}}",
          }],
        }),
        timeSeries({
          title: "Failed requests, by status",
          description:
            "Requests per second that did not end in success, by status. The line is where " +
            "PartnerAPIHighErrorRate begins.",
          unit: RequestsPerSecond,
          width: 8,
          limits: { warning: 0.1 },
          empty: "No request has failed",
          queries: [{
            expr: "sum by (partner, status) " +
              `(rate(partner_api_requests_total{${PARTNER}, ${FAILED_REQUEST}}[${LATELY}]))`,
            legend: "{{partner}} {{status}}",
          }],
        }),
        upTimeline({
          title: "Availability",
          description: "Whether the API of each partner answered: up of the job partner_api.",
          unit: NoUnit,
          width: 24,
          queries: [{
            expr: `min by (partner) (up{job="partner_api", ${PARTNER}})`,
            legend: "{{partner}}",
          }],
        }),
      ],
    },
    {
      title: "Queues and assignments",
      panels: [
        timeSeries({
          title: "Queue depth",
          description: "Messages in each queue, of the application by queue_type and of pgmq. " +
            "The line is where QueueDepthHigh begins.",
          unit: Short,
          width: 8,
          limits: QUEUE_LIMITS,
          empty: "No queue",
          queries: [{
            expr: "max by (queue_type, queue) (queue_depth)",
            legend: "{{queue_type}}{{queue}}",
          }],
        }),
        timeSeries({
          title: "Successful assignments, share",
          description: "Share of assignments_total with the status success.",
          unit: PercentUnit,
          width: 8,
          max: 1,
          limits: ASSIGNMENT_LIMITS,
          empty: NO_ASSIGNMENT,
          queries: [{
            expr: shareOfGrowth({ ...assignments, window: LATELY }),
            legend: "success",
          }],
        }),
        timeSeries({
          title: "Assignments",
          description: "Assignments per second, by how they ended.",
          unit: OpsPerSecond,
          width: 8,
          isStacked: true,
          empty: NO_ASSIGNMENT,
          queries: [{
            expr: `sum by (status) (rate(assignments_total[${LATELY}]))`,
            legend: "{{status}}",
          }],
        }),
      ],
    },
    {
      title: "Syncs",
      panels: [
        timeSeries({
          title: "Sync duration, p95",
          description: "95 % of the syncs with a partner took no longer, failed ones included. " +
            "Estimated from the buckets of sync_duration_seconds.",
          unit: Seconds,
          width: 8,
          empty: NO_SYNC,
          queries: [{
            expr: quantile(0.95, "sync_duration_seconds", "partner, le", LATELY),
            legend: "{{partner}}",
          }],
        }),
        timeSeries({
          title: "Failed syncs, share",
          description:
            "Share of each partner's syncs that failed. The line: where SyncFailureRatioHigh begins.",
          unit: PercentUnit,
          width: 8,
          limits: SYNC_FAILURE_LIMITS,
          empty: NO_SYNC,
          queries: [{
            expr: shareOfGrowth({
              ...syncFailures,
              part: FAILED_SYNC,
              window: LATELY,
              by: "partner",
            }),
            legend: "{{partner}}",
          }],
        }),
        timeSeries({
          title: "Failed syncs",
          description:
            "Syncs per second that failed. The line is where SyncFailureRateHigh begins.",
          unit: CountsPerSecond,
          width: 8,
          limits: { warning: 0.05 },
          empty: "No sync has failed",
          queries: [{
            expr: "sum by (partner) " +
              `(rate(sync_duration_seconds_count{${PARTNER}, ${FAILED_SYNC}}[${LATELY}]))`,
            legend: "{{partner}}",
          }],
        }),
      ],
    },
    {
      title: "Data processing",
      panels: [
        timeSeries({
          title: "Runs of the last hour",
          description:
            "How often data was processed in the hour before. At 0 DataProcessingStuck begins.",
          unit: Short,
          width: 12,
          empty: "The processing sends no samples",
          queries: [{
            expr: "sum(increase(data_processing_duration_seconds_count[1h]))",
            legend: "runs",
          }],
        }),
        timeSeries({
          title: "Mean duration",
          description: "How long data processing took on average; nothing where it did not run.",
          unit: Seconds,
          width: 12,
          empty: "Nothing was processed",
          queries: [{
            expr: `sum(rate(data_processing_duration_seconds_sum[${LATELY}])) ` +
              `/ (sum(rate(data_processing_duration_seconds_count[${LATELY}])) > 0)`,
            legend: "mean",
          }],
        }),
      ],
    },
  ],
});
