import { z } from "zod";
import { SpanRow } from "../../shared/contract/detection.ts";
import { thresholdOfBudget } from "../../shared/detection/calibrate.ts";
import type { LabelledSpan } from "../../shared/detection/detector.ts";
import { inferSettings } from "../../shared/detection/infer-settings.ts";
import type { BacktestSeries } from "./backtest-series.ts";
import type { Truth } from "./measure-recall.ts";
import { showTime } from "./print-report.ts";

/** Sends one statement and gives its rows. */
export type Query = (sql: string, values: unknown[]) => Promise<{ rows: unknown[] }>;

/** Which series to read, and of when. */
export interface StoredRange {
  readonly metric: string;
  readonly labels: Readonly<Record<string, string>>;
  /** In ms; the time reported. What is learned from before it is read too. */
  readonly from: number;
  readonly until: number;
  /** In place of what the metric asks for. */
  readonly budget?: number | undefined;
}

/** How long before the time reported the history begins: as much as the first weekly rhythm takes. */
export const LEARNING_MS = 14 * 86_400_000;

/** More series than this are no report that anyone reads. */
export const SERIES_LIMIT = 50;

const Definition = z.object({
  unit: z.string(),
  kind: z.enum(["gauge", "counter"]),
  detection_budget: z.number(),
  detection_direction: z.enum(["auto", "both", "up", "down"]),
  minimum_change: z.number().nullable(),
  minimum_change_ratio: z.number().nullable(),
});

const SamplesPage = z.object({
  series: z.array(z.object({
    series_id: z.int(),
    metric: z.string(),
    labels: z.record(z.string(), z.string()),
    times: z.array(z.number()),
    values: z.array(z.number()),
  })),
  next_series_id: z.int().nullable(),
});

const Spans = z.object({
  spans: z.array(SpanRow).nullish().transform((spans) => spans ?? []),
  deploys: z.array(z.number()).nullish().transform((deploys) => deploys ?? []),
});

const Reviewed = z.object({
  started_at: z.number(),
  ended_at: z.number(),
  is_confirmed: z.boolean(),
});

/** Who looked at an anomaly and left it at that has confirmed it. */
const REVIEWED = `
  select
    (extract(epoch from started_at) * 1000)::float8 as started_at,
    (extract(epoch from coalesce(ended_at, last_seen_at)) * 1000)::float8 as ended_at,
    review_state in ('acknowledged', 'resolved') as is_confirmed
  from (
    select started_at, ended_at, last_seen_at, review_state from monitor.anomaly_detections
    where series_id = $1 and started_at between $2 and $3
    union all
    select started_at, ended_at, last_seen_at, review_state from monitor.anomaly_detections_archive
    where series_id = $1 and started_at between $2 and $3
  ) as anomaly
  where review_state in ('acknowledged', 'resolved', 'false_positive', 'expected')`;

/** `metric{label="value"}`, as Prometheus writes it. */
const nameOf = (metric: string, labels: Readonly<Record<string, string>>): string => {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  return pairs.length > 0 ? `${metric}{${pairs.join(", ")}}` : metric;
};

/** What people have said: spans labelled afterwards, and reviews. Null if nothing. */
function gatherTruth(
  spans: readonly LabelledSpan[],
  reviewed: readonly z.infer<typeof Reviewed>[],
): Truth | null {
  const labelled = (...labels: LabelledSpan["label"][]) =>
    spans.filter(({ label }) => labels.includes(label))
      .map(({ from, until }) => ({ from, until: until ?? Infinity }));
  const reviews = (isConfirmed: boolean) =>
    reviewed.filter(({ is_confirmed }) => is_confirmed === isConfirmed)
      .map(({ started_at, ended_at }) => ({ from: started_at, until: ended_at }));
  const events = [...labelled("missed"), ...reviews(true)];
  const denied = [...labelled("false_positive", "expected"), ...reviews(false)];
  return events.length + denied.length > 0 ? { events, denied } : null;
}

/**
 * Reads the series of a metric with all that a backtest needs, those without samples in the time reported left out.
 *
 * @throws {Error} with the way out if there are none, or too many.
 */
export async function readStoredSeries(
  query: Query,
  range: StoredRange,
): Promise<BacktestSeries[]> {
  const { metric, labels, from, until } = range;
  const call = async (sql: string, ...values: unknown[]) => (await query(sql, values)).rows;
  const [found] = await call(
    "select to_jsonb(definition) as definition from monitor.metric_definitions as definition where metric = $1",
    metric,
  );
  if (found === undefined) {
    throw new Error(
      `There is no metric ${metric}. docs/metrics.md has those that come with the project; ` +
        "all of them: select metric from monitor.metric_definitions.",
    );
  }
  const definition = Definition.parse((found as { definition: unknown }).definition);
  const budget = range.budget ?? definition.detection_budget;
  const settings = {
    ...inferSettings({
      direction: definition.detection_direction,
      minimumChange: definition.minimum_change,
      minimumChangeRatio: definition.minimum_change_ratio,
    }, definition),
    unit: definition.unit,
  };

  const matchers = JSON.stringify(
    Object.entries({ __name__: metric, ...labels }).map(([name, value]) => ({
      name,
      op: "=",
      value,
    })),
  );
  const matching = await call(
    "select series_id from monitor.match_series($1, 0, $2)",
    matchers,
    SERIES_LIMIT + 1,
  );
  const asked = nameOf(metric, labels);
  if (matching.length === 0) {
    throw new Error(
      `${asked} has no series${Object.keys(labels).length > 0 ? " with these labels" : ""}. ` +
        `Which there are: select labels from monitor.metric_series where metric = '${metric}'.`,
    );
  }
  if (matching.length > SERIES_LIMIT) {
    throw new Error(`${asked} has more than ${SERIES_LIMIT} series. Choose some with --labels.`);
  }

  const iso = (at: number) => new Date(at).toISOString();
  const [start, end] = [iso(from - LEARNING_MS), iso(until)];
  const read: BacktestSeries[] = [];
  for (let after: number | null = 0; after !== null;) {
    const [row] = await call(
      "select monitor.read_samples($1, $2, $3, $4, $5) as page",
      matchers,
      start,
      end,
      after,
      SERIES_LIMIT,
    );
    const page = SamplesPage.parse((row as { page: unknown }).page);
    for (const { series_id, metric, labels, times, values } of page.series) {
      if (times.at(-1)! < from) continue;
      const [spansRow] = await call(
        "select monitor.read_spans($1, $2, $3) as spans",
        series_id,
        start,
        end,
      );
      const { spans, deploys } = Spans.parse((spansRow as { spans: unknown }).spans);
      const [state] = await call(
        "select threshold from monitor.detector_states where series_id = $1",
        series_id,
      );
      const reviewed = z.array(Reviewed).parse(await call(REVIEWED, series_id, iso(from), end));
      read.push({
        name: nameOf(metric, labels),
        kind: definition.kind,
        settings,
        samples: times.map((at, index) => ({ at, value: values[index]! })),
        reportFrom: from,
        spans,
        deploys,
        budget,
        threshold: (state as { threshold: number | null } | undefined)?.threshold ??
          thresholdOfBudget(budget),
        truth: gatherTruth(spans, reviewed),
        hasFeedback: true,
      });
    }
    after = page.next_series_id;
  }
  if (read.length === 0) {
    const [newest] = await call(
      "select (extract(epoch from max(last_sample_at)) * 1000)::float8 as at from monitor.metric_series where metric = $1",
      metric,
    );
    const at = (newest as { at: number | null } | undefined)?.at ?? null;
    throw new Error(
      `${asked} has no samples since ${showTime(from)} UTC. ` +
        (at === null
          ? "It never had any: does its collector run (npm run doctor)?"
          : `The newest one of the metric is of ${
            showTime(Math.round(at))
          }: ask for more with --last.`),
    );
  }
  return read;
}
