import { z } from "zod";
import type { IncomingSamples } from "../contract/ingestion.ts";
import { IngestError, SAMPLES_LIMIT } from "./ingest-error.ts";
import { SampleCollector } from "./sample-collector.ts";
import {
  METRIC_NAME_LIMIT,
  REASONS,
  refuseLabels,
  refuseTime,
  TARGET_INFO,
  TOO_MANY_SAMPLES,
  toStorableText,
} from "./sample-grammar.ts";

const METRIC_NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;

/** Those that begin with two underscores are reserved, by Prometheus too. */
const LABEL_NAME = /^(?!__)[a-zA-Z_][a-zA-Z0-9_]*$/;

/** Label of the series where samples go when their metric has as many series as it may. SDKs have the same. */
const OVERFLOW_LABEL = "otel_metric_overflow";

const FIELDS = new Set(["metric", "value", "labels", "recorded_at"]);

const Instant = z.iso.datetime({ offset: true });

/** Why a sample is refused, in words for the sender. */
const SAMPLE_REASONS = {
  noSample: "a sample is an object with metric and value",
  unknownField: "a sample has metric, value, labels and recorded_at, and no other field",
  noMetric: "there is no metric, or it is not a string",
  metricName: "the name is not [a-zA-Z_:][a-zA-Z0-9_:]*",
  noValue: "the value is not a number",
  noLabels: "labels is not an object of strings",
  labelName: "the name of a label is not [a-zA-Z_][a-zA-Z0-9_]*, or begins with __",
  overflowLabel: `the label ${OVERFLOW_LABEL} is the monitor's own`,
  recordedAt: "recorded_at is not ISO 8601 with an offset, as in 2026-11-21T09:00:00Z",
} as const;

/** A sample that is fit. */
interface PlainSample {
  readonly metric: string;
  readonly labels: readonly (readonly [string, string])[];
  readonly value: number;
  readonly time: number;
}

/**
 * Reads `{ samples: [{ metric, value, labels?, recorded_at? }] }`, parsed from JSON. A metric is a counter if its name
 * ends in `_total`, else a gauge; labels without a value are left out; `recorded_at` is `now` by default, and is cut to
 * whole milliseconds. A field that is not known is refused: it could be a time under another name.
 *
 * @throws {IngestError} if the body is of another shape, or has too many samples.
 */
export function plainToSamples(body: unknown, now: Date): IncomingSamples {
  const samples = isRecord(body) ? body.samples : undefined;
  if (!Array.isArray(samples)) {
    throw new IngestError(
      "malformed",
      'Cannot read the body: it is not { "samples": [{ "metric": …, "value": … }, …] }',
    );
  }
  if (samples.length > SAMPLES_LIMIT) throw new IngestError("too_large", TOO_MANY_SAMPLES);

  const collector = new SampleCollector();
  for (const item of samples) {
    const sample = readSample(item, now);
    if (typeof sample === "string") {
      const metric = isRecord(item) && typeof item.metric === "string" ? item.metric : "";
      collector.refuse(metric, sample);
      continue;
    }
    const { metric, labels, value, time } = sample;
    const positions = collector.positionsOf(metric);
    // No value has a NUL left in it.
    const key = labels.map(([name, value]) => `${name}=${value}\0`).join("");
    let position = positions.get(key);
    if (position === undefined) {
      position = collector.addSeries({
        metric,
        labels: Object.fromEntries(labels),
        kind: metric.endsWith("_total") ? "counter" : "gauge",
        unit: "",
        description: "",
        is_delta: false,
      });
      positions.set(key, position);
    }
    collector.add(position, time, value);
  }
  return collector.finish();
}

/** The sample; or why it is refused. */
function readSample(item: unknown, now: Date): PlainSample | string {
  if (!isRecord(item)) return SAMPLE_REASONS.noSample;
  if (Object.keys(item).some((field) => !FIELDS.has(field))) return SAMPLE_REASONS.unknownField;
  const { metric, value } = item;
  if (typeof metric !== "string") return SAMPLE_REASONS.noMetric;
  if (!METRIC_NAME.test(metric)) return SAMPLE_REASONS.metricName;
  if (metric.length > METRIC_NAME_LIMIT) return REASONS.longMetricName;
  if (metric === TARGET_INFO) return REASONS.targetInfo;
  if (typeof value !== "number") return SAMPLE_REASONS.noValue;
  if (!Number.isFinite(value)) return REASONS.notFinite;
  const labels = readLabels(item.labels);
  if (typeof labels === "string") return labels;
  const time = readTime(item.recorded_at, now);
  if (time === null) return SAMPLE_REASONS.recordedAt;
  return refuseTime(time, now) ?? { metric, labels, value, time };
}

/** Sorted, without those that are empty; or why they are refused. */
function readLabels(labels: unknown): PlainSample["labels"] | string {
  if (labels === undefined || labels === null) return [];
  if (!isRecord(labels)) return SAMPLE_REASONS.noLabels;
  const present: [string, string][] = [];
  for (const [name, value] of Object.entries(labels)) {
    if (typeof value !== "string") return SAMPLE_REASONS.noLabels;
    if (!LABEL_NAME.test(name)) return SAMPLE_REASONS.labelName;
    if (name === OVERFLOW_LABEL) return SAMPLE_REASONS.overflowLabel;
    if (value !== "") present.push([name, toStorableText(value)]);
  }
  return refuseLabels(present) ??
    present.sort(([one], [other]) => one < other ? -1 : one > other ? 1 : 0);
}

/** Milliseconds; null if it is not an instant. */
function readTime(recordedAt: unknown, now: Date): number | null {
  if (recordedAt === undefined || recordedAt === null) return now.getTime();
  // Date.parse alone takes what is no instant: without an offset, or the 30th of February.
  if (!Instant.safeParse(recordedAt).success) return null;
  return Date.parse(recordedAt as string);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
