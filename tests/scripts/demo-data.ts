import { compileMatchers } from "../../shared/promql/match-labels.ts";
import {
  type Labels,
  METRIC_NAME,
  type SampledSeries,
  type SampleSource,
} from "../../shared/promql/series.ts";

const MINUTE = 60_000;

/** A metric of which there are samples: a counter grows by 60 a minute and more, a gauge is from 1 to 9 unless it is a limit. */
export interface DemoMetric {
  readonly metric: string;
  readonly kind: "counter" | "gauge" | "histogram";
  /** Milliseconds. */
  readonly interval: number;
}

/** The metrics of docs/metrics.md, which is `page`, measured as often as it says. */
export function readCollectedMetrics(page: string): DemoMetric[] {
  const rows = page.matchAll(/^\| `(\w+)` +\| \w+ +\| (counter|gauge) +\|.*\|([^|]*)\|$/gm);
  return [...rows].map(([, metric, kind, from]) => ({
    metric: metric!,
    kind: kind as "counter" | "gauge",
    interval: Number(/every (\d+) minutes/.exec(from!)?.[1] ?? 1) * MINUTE,
  }));
}

/** What the application sends about its partners. */
export const PARTNER_METRICS: readonly DemoMetric[] = [
  { metric: "up", kind: "gauge", interval: MINUTE },
  { metric: "partner_api_requests_total", kind: "counter", interval: MINUTE },
  { metric: "partner_api_duration_seconds", kind: "histogram", interval: MINUTE },
  { metric: "assignments_total", kind: "counter", interval: MINUTE },
  { metric: "sync_duration_seconds", kind: "histogram", interval: MINUTE },
  { metric: "data_processing_duration_seconds", kind: "histogram", interval: MINUTE },
];

/** Every combination of the values. */
function combine(values: Readonly<Record<string, readonly string[]>>): Labels[] {
  return Object.entries(values).reduce<Labels[]>(
    (sets, [name, some]) => sets.flatMap((set) => some.map((value) => ({ ...set, [name]: value }))),
    [{}],
  );
}

const PARTNERS = ["acme", "globex"];
const JOBS = ["collect-metrics", "data-retention-cleanup", "detect-anomalies"];
const ALL_AND_EACH_JOB: readonly Labels[] = [{}, { job: "web" }, { job: "worker" }];

/** Labels of the series of a metric. One without labels is not listed. */
export const SERIES_LABELS: Readonly<Record<string, readonly Labels[]>> = {
  up: [...combine({ job: ["partner_api"], partner: PARTNERS }), { job: "web" }],
  partner_api_requests_total: combine({
    partner: PARTNERS,
    status: ["success", "timeout", "error"],
  }),
  partner_api_duration_seconds: combine({ partner: PARTNERS }),
  assignments_total: combine({ status: ["success", "failed"] }),
  sync_duration_seconds: combine({ partner: PARTNERS, status: ["success", "failed"] }),
  queue_depth: [{ queue_type: "assignments" }, { queue_type: "mails" }, { queue: "exports" }],
  celery_queue_size: [{ queue: "celery" }, { queue: "celery_mails" }],
  database_connections: combine({ state: ["active", "idle", "idle in transaction"] }),
  pg_net_responses: combine({ class: ["2xx", "5xx", "timeout"] }),
  pgvigil_job_age_seconds: combine({ job: JOBS }),
  pgvigil_job_run_duration_seconds: combine({ job: JOBS }),
  pgvigil_largest_metric_series_count: [{ metric: "partner_api_duration_seconds_bucket" }],
  pgvigil_overflow_samples_total: combine({ metric: ["clicks_total", "views_total"] }),
  api_response_time: ALL_AND_EACH_JOB,
  api_error_count: ALL_AND_EACH_JOB,
  error_rate: ALL_AND_EACH_JOB,
  rate_limit_violations: ALL_AND_EACH_JOB,
};

/** Values of the gauges that stay the same: limits of others, which are below them. */
const STEADY_VALUES: Readonly<Record<string, number>> = {
  database_connection_limit: 60,
  pgvigil_storage_budget_bytes: 400e6,
};

/** How much each bucket grows per sample, by its upper bound in seconds. */
const BUCKETS = { 1: 40, 3: 55, 10: 59, "+Inf": 60 };

/** Samples of metrics from `from` on, in milliseconds. Those of `until` are still on their way. */
export function makeDemoSeries(
  metrics: readonly DemoMetric[],
  from: number,
  until: number,
): SampledSeries[] {
  return metrics.flatMap(({ metric, kind, interval }) => {
    const count = Math.ceil((until - from) / interval);
    const times = Array.from({ length: count }, (_, n) => from + n * interval);
    const make = (name: string, labels: Labels, valueOf: (n: number) => number) => ({
      labels: { [METRIC_NAME]: name, ...labels },
      times,
      values: times.map((_, n) => valueOf(n)),
    });
    return (SERIES_LABELS[metric] ?? [{}]).flatMap((labels, index) => {
      const growth = 60 * (index + 1);
      if (kind === "counter") return [make(metric, labels, (n) => growth * n)];
      if (metric === "up") return [make(metric, labels, (n) => Number((n + index) % 10 > 0))];
      if (kind === "gauge") {
        const steady = STEADY_VALUES[metric];
        return [make(metric, labels, (n) => steady ?? 5 + 4 * Math.sin(n + index))];
      }
      return [
        ...Object.entries(BUCKETS).map(([le, step]) =>
          make(`${metric}_bucket`, { ...labels, le }, (n) => step * n)
        ),
        make(`${metric}_count`, labels, (n) => 60 * n),
        make(`${metric}_sum`, labels, (n) => 90 * n),
      ];
    });
  });
}

/** A source that has these series. */
export function sourceOf(series: readonly SampledSeries[]): SampleSource {
  return {
    select: (selections) =>
      Promise.resolve(selections.map(({ matchers }) => {
        const matches = compileMatchers(matchers);
        return series.filter(({ labels }) => matches(labels));
      })),
  };
}
