import type { IncomingSamples } from "../contract/ingestion.ts";
import { type DescMessage, fromBinary } from "@bufbuild/protobuf";
import {
  AttributeCache,
  type PointLabels,
  readAttribute,
  type SeriesLabels,
  type SpecialLabels,
  toFittingLabels,
  toLabels,
} from "./attribute-labels.ts";
import type { OtlpRequest } from "./decode-otlp.ts";
import { IngestError, SAMPLES_LIMIT } from "./ingest-error.ts";
import {
  ExponentialHistogramDataPointSchema,
  type HistogramDataPoint,
  HistogramDataPointSchema,
  type Metric,
  NumberDataPointSchema,
  type Resource,
  SummaryDataPointSchema,
} from "./otlp-raw_pb.ts";
import { type OtlpKind, toMetricName, toUnitWord } from "./prometheus-names.ts";
import { assertFewCharacters, SampleCollector } from "./sample-collector.ts";
import {
  cutText,
  hasAtMost,
  LABEL_VALUE_LIMIT,
  LABELS_LIMIT,
  METRIC_NAME_LIMIT,
  REASONS,
  refuseTime,
  TARGET_INFO,
  TOO_MANY_SAMPLES,
  toStorableText,
} from "./sample-grammar.ts";

/** Samples of an OTLP request. Its refusals count data points. */
export interface OtlpSamples extends IncomingSamples {
  /** Data points that made samples: one of a histogram makes many. */
  readonly pointsAccepted: number;
}

/** Characters of a metric's description that are kept. */
export const DESCRIPTION_LIMIT = 1000;

const DELTA = 1;
const CUMULATIVE = 2;

/** Bit of `flags`: the sender says that there is no value at this time. */
const NO_RECORDED_VALUE = 1;

const NANOSECONDS_PER_MILLISECOND = 1_000_000n;

/** Why a data point is refused, in words for the sender. */
const POINT_REASONS = {
  noName: "the name has no letter or digit",
  noData: "the kind of metric is not known here",
  noTemporality: "neither delta nor cumulative",
  exponential:
    "exponential histograms are not supported: have the sender aggregate into explicit buckets (explicit_bucket_histogram)",
  noTime: "no time",
  noValue: "no value",
  falling: "an increment of a monotonic sum is negative",
  mixed: "sent both as delta and as cumulative in one request",
  bucketLabel: "the attribute le is taken by the buckets",
  quantileLabel: "the attribute quantile is taken by the quantiles",
  bounds: "the bounds of the buckets are not finite and increasing",
  bucketCounts: "there is not one count a bucket",
  bucketTotal: "the counts of the buckets do not add up to the count",
  quantiles: "a quantile is not between 0 and 1, or is there twice",
} as const;

/** What a resource says of all that it sent. */
interface Source {
  readonly job: string;
  readonly instance: string;
  /** Labels of its `target_info`; null if there is nothing to tell. */
  readonly info: Readonly<Record<string, string>> | null;
  readonly key: string;
  /** Latest time of a sample of it, in milliseconds. */
  newest: number;
}

/** What the samples of a metric have in common. */
interface SampleShape {
  readonly metric: string;
  readonly kind: "gauge" | "counter";
  readonly unit: string;
  readonly description: string;
  readonly is_delta: boolean;
}

/** A shape in a collector. */
class Target {
  readonly shape: SampleShape;
  readonly #collector: SampleCollector;
  #positions: Map<string, number> | null = null;

  constructor(shape: SampleShape, collector: SampleCollector) {
    this.shape = shape;
    this.#collector = collector;
  }

  /** Positions of its series by their key. Not made before there is a sample: names without one cost the sender little. */
  get positions(): Map<string, number> {
    return this.#positions ??= this.#collector.positionsOf(this.shape.metric);
  }
}

/** One of the samples that a point makes. */
interface PointSample {
  readonly target: Target;
  readonly series: SeriesLabels;
  readonly value: number;
}

/**
 * Translates an OTLP metrics request by the rules of OpenTelemetry for Prometheus.
 *
 * - Names: see `toMetricName` and `toLabelName`. Name and version of the scope are not told: they would split
 *   series at each release of an instrumentation.
 * - Resource: `service.namespace`/`service.name` is the label `job`, `service.instance.id` is `instance`, both
 *   before attributes of these names. If it has a job or an instance and other attributes too, these are labels of a
 *   gauge `target_info` = 1 at the newest time of its samples; of those beyond the limits as much as fits.
 * - Kinds: gauges and sums that are not monotonic are gauges, monotonic sums are counters with `_total`, histograms
 *   with explicit buckets are counters `_bucket` (cumulative, by `le`), `_sum` (if sent) and `_count`, summaries are
 *   gauges by `quantile` and counters `_sum` and `_count`. Delta temporality is handed on as `is_delta`.
 * - Units: times are cut to whole milliseconds. Values keep theirs.
 * - A point whose flags say that nothing was recorded is neither stored nor refused, and so is a quantile that is
 *   NaN: there is nothing to store, and nothing wrong. Of a metric that is refused as a whole, all points are.
 * - A series is there once, whatever the order of its attributes; samples of one time are kept all.
 *
 * `cache` may be shared by requests, which makes them faster and nothing else.
 *
 * @throws {IngestError} if attributes are malformed, or there are too many samples or points.
 * @see https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/#otlp-metric-points-to-prometheus
 */
export function otlpToSamples(
  request: OtlpRequest,
  now: Date,
  cache: AttributeCache = new AttributeCache(),
): OtlpSamples {
  const collector = new SampleCollector();
  const sources = new Map<string, Source>();
  let pointsAccepted = 0;
  for (const { resource, scopeMetrics } of request.resourceMetrics) {
    const found = readSource(resource);
    const source = sources.get(found.key) ?? found;
    sources.set(source.key, source);
    for (const { metrics } of scopeMetrics) {
      for (const metric of metrics) {
        pointsAccepted += new MetricTranslation(collector, source, cache, metric, now).run();
      }
    }
  }
  for (const source of sources.values()) addTargetInfo(collector, source);
  return { ...collector.finish(), pointsAccepted };
}

/** One metric of one resource on its way into a collector. */
class MetricTranslation {
  readonly #collector: SampleCollector;
  readonly #source: Source;
  readonly #cache: AttributeCache;
  readonly #metric: Metric;
  readonly #now: Date;
  #accepted = 0;

  constructor(
    collector: SampleCollector,
    source: Source,
    cache: AttributeCache,
    metric: Metric,
    now: Date,
  ) {
    this.#collector = collector;
    this.#source = source;
    this.#cache = cache;
    this.#metric = metric;
    this.#now = now;
  }

  /** Says how many points made samples. */
  run(): number {
    const { data } = this.#metric;
    switch (data.case) {
      case undefined:
        this.#collector.refuse(this.#metric.name, POINT_REASONS.noData);
        break;
      case "gauge":
        this.#addNumbers(data.value.dataPoints, "gauge", CUMULATIVE);
        break;
      case "sum": {
        const kind = data.value.isMonotonic ? "counter" : "other";
        this.#addNumbers(data.value.dataPoints, kind, data.value.aggregationTemporality);
        break;
      }
      case "histogram":
        this.#addHistograms(data.value.dataPoints, data.value.aggregationTemporality);
        break;
      case "exponentialHistogram":
        this.#refuseExponential(data.value.dataPoints);
        break;
      case "summary":
        this.#addSummaries(data.value.dataPoints);
        break;
    }
    return this.#accepted;
  }

  #addNumbers(points: readonly Uint8Array[], kind: OtlpKind, temporality: number): void {
    const shape = this.#shape(kind, temporality, "", points.length);
    if (shape === null) return;
    const target = this.#target(shape);
    const isRising = shape.is_delta && shape.kind === "counter";
    const { job, instance } = this.#source;
    for (const bytes of points) {
      const { attributes, timeUnixNano, value, flags } = decodePoint(NumberDataPointSchema, bytes);
      if ((flags & NO_RECORDED_VALUE) !== 0) continue;
      const number = Number(value.value);
      const labels = this.#cache.read(attributes);
      const time = toMilliseconds(timeUnixNano);
      const reason = value.case === undefined
        ? POINT_REASONS.noValue
        : !Number.isFinite(number)
        ? REASONS.notFinite
        : isRising && number < 0
        ? POINT_REASONS.falling
        : this.#refuseTime(time);
      if (reason !== null) this.#refuse(reason);
      else if (typeof labels === "string") this.#refuse(labels);
      else this.#addSample(time, target, labels.of(job, instance), number);
    }
  }

  #addHistograms(points: readonly Uint8Array[], temporality: number): void {
    const shape = this.#shape("other", temporality, "_bucket", points.length);
    if (shape === null) return;
    const { bucket, sum: sums, count: counts } = this.#distributionTargets(shape);
    for (const bytes of points) {
      const point = decodePoint(HistogramDataPointSchema, bytes);
      const { attributes, timeUnixNano, count, sum, flags } = point;
      if ((flags & NO_RECORDED_VALUE) !== 0) continue;
      const labels = this.#cache.read(attributes);
      const buckets = readBuckets(point);
      const time = toMilliseconds(timeUnixNano);
      const reason = typeof buckets === "string"
        ? buckets
        : sum !== undefined && !Number.isFinite(sum)
        ? REASONS.notFinite
        : this.#refuseTime(time) ?? refusalIn(labels, "le", POINT_REASONS.bucketLabel);
      if (reason !== null || typeof labels === "string" || typeof buckets === "string") {
        this.#refuse(String(reason));
        continue;
      }
      const special = this.#special(labels);
      const plain = labels.build(special);
      const samples: PointSample[] = buckets.map(({ le, value }) => ({
        target: bucket,
        series: labels.build({ ...special, le }),
        value,
      }));
      if (sum !== undefined) samples.push({ target: sums, series: plain, value: sum });
      samples.push({ target: counts, series: plain, value: Number(count) });
      this.#addSamples(time, samples);
    }
  }

  #addSummaries(points: readonly Uint8Array[]): void {
    const shape = this.#shape("other", CUMULATIVE, "_count", points.length);
    if (shape === null) return;
    const { quantile: quantiles, sum: sums, count: counts } = this.#distributionTargets(shape);
    for (const bytes of points) {
      const point = decodePoint(SummaryDataPointSchema, bytes);
      const { attributes, timeUnixNano, count, sum, quantileValues, flags } = point;
      if ((flags & NO_RECORDED_VALUE) !== 0) continue;
      assertFewSamples(quantileValues.length);
      const labels = this.#cache.read(attributes);
      const known = quantileValues.filter(({ value }) => !Number.isNaN(value));
      const isFinite = Number.isFinite(sum) && known.every(({ value }) => Number.isFinite(value));
      const time = toMilliseconds(timeUnixNano);
      const reason = !areQuantiles(quantileValues.map(({ quantile }) => quantile))
        ? POINT_REASONS.quantiles
        : !isFinite
        ? REASONS.notFinite
        : this.#refuseTime(time) ?? refusalIn(labels, "quantile", POINT_REASONS.quantileLabel);
      if (reason !== null || typeof labels === "string") {
        this.#refuse(String(reason));
        continue;
      }
      const special = this.#special(labels);
      const plain = labels.build(special);
      this.#addSamples(time, [
        ...known.map(({ quantile, value }) => ({
          target: quantiles,
          series: labels.build({ ...special, quantile: formatDecimal(quantile) }),
          value,
        })),
        { target: sums, series: plain, value: sum },
        { target: counts, series: plain, value: Number(count) },
      ]);
    }
  }

  #refuseExponential(points: readonly Uint8Array[]): void {
    for (const bytes of points) {
      const { flags } = decodePoint(ExponentialHistogramDataPointSchema, bytes);
      if ((flags & NO_RECORDED_VALUE) === 0) this.#refuse(POINT_REASONS.exponential);
    }
  }

  #special({ special }: PointLabels): SpecialLabels {
    return {
      ...special,
      job: this.#source.job || special.job,
      instance: this.#source.instance || special.instance,
    };
  }

  #refuseTime(time: number): string | null {
    return time === 0 ? POINT_REASONS.noTime : refuseTime(time, this.#now);
  }

  /** Adds a point of one sample. */
  #addSample(time: number, target: Target, series: SeriesLabels, value: number): void {
    const reason = this.#refuseSeries(target, series);
    if (reason !== null) this.#refuse(reason);
    else {
      this.#addTo(target, series, time, value);
      this.#accept(time);
    }
  }

  /** Adds a point of several samples: all of them or none. */
  #addSamples(time: number, samples: readonly PointSample[]): void {
    // Before any of the keys is looked for, which is when it takes its room.
    assertFewCharacters(samples.reduce((sum, { series }) => sum + series.key.length, 0));
    for (const { target, series } of samples) {
      const reason = this.#refuseSeries(target, series);
      if (reason !== null) return this.#refuse(reason);
    }
    for (const { target, series, value } of samples) this.#addTo(target, series, time, value);
    this.#accept(time);
  }

  #refuseSeries(target: Target, { key, count }: SeriesLabels): string | null {
    if (count > LABELS_LIMIT) return REASONS.tooManyLabels;
    const position = target.positions.get(key);
    return position === undefined || this.#collector.at(position).is_delta === target.shape.is_delta
      ? null
      : POINT_REASONS.mixed;
  }

  #addTo({ shape, positions }: Target, series: SeriesLabels, time: number, value: number): void {
    let position = positions.get(series.key);
    if (position === undefined) {
      position = this.#collector.addSeries({
        metric: shape.metric,
        labels: series.labels,
        kind: shape.kind,
        unit: shape.unit,
        description: shape.description,
        is_delta: shape.is_delta,
      });
      positions.set(series.key, position);
      this.#collector.countCharacters(series.key.length);
    }
    this.#collector.add(position, time, value);
  }

  #accept(time: number): void {
    this.#accepted += 1;
    if (time > this.#source.newest) this.#source.newest = time;
  }

  /** What all samples share, without the suffixes of a distribution; null if all points are refused. */
  #shape(
    kind: OtlpKind,
    temporality: number,
    longestSuffix: string,
    points: number,
  ): SampleShape | null {
    const { name, unit, description } = this.#metric;
    const metric = hasAtMost(name, MAX_SENT_NAME) ? toMetricName(name, unit, kind) : null;
    const reason = metric === null || (metric + longestSuffix).length > METRIC_NAME_LIMIT
      ? REASONS.longMetricName
      : metric === ""
      ? POINT_REASONS.noName
      : metric === TARGET_INFO
      ? REASONS.targetInfo
      : temporality !== DELTA && temporality !== CUMULATIVE
      ? POINT_REASONS.noTemporality
      : null;
    if (metric === null || reason !== null) {
      this.#refuse(reason ?? REASONS.longMetricName, points);
      return null;
    }
    return {
      metric,
      kind: kind === "counter" ? "counter" : "gauge",
      unit: toUnitWord(unit, kind),
      description: toStorableText(cutText(description, DESCRIPTION_LIMIT)),
      is_delta: temporality === DELTA,
    };
  }

  #target(shape: SampleShape): Target {
    return new Target(shape, this.#collector);
  }

  #distributionTargets(
    shape: SampleShape,
  ): Record<"bucket" | "sum" | "count" | "quantile", Target> {
    const { metric } = shape;
    const counter = { ...shape, kind: "counter" as const };
    return {
      quantile: this.#target(shape),
      bucket: this.#target({ ...counter, metric: `${metric}_bucket`, unit: "count" }),
      sum: this.#target({ ...counter, metric: `${metric}_sum` }),
      count: this.#target({ ...counter, metric: `${metric}_count`, unit: "count" }),
    };
  }

  #refuse(reason: string, count = 1): void {
    this.#collector.refuse(this.#metric.name, reason, count);
  }
}

/** Beyond, no name is looked at: signs that fall away are not worth the time. */
const MAX_SENT_NAME = 10 * METRIC_NAME_LIMIT;

/**
 * Decodes a data point when it is its turn: a moment later it is garbage, which costs less than to hold all of them.
 *
 * @throws {IngestError} if it is malformed.
 */
function decodePoint<Desc extends DescMessage>(schema: Desc, bytes: Uint8Array) {
  try {
    return fromBinary(schema, bytes, { readUnknownFields: false });
  } catch (cause) {
    throw new IngestError("malformed", "Cannot read the body: a data point is malformed", {
      cause,
    });
  }
}

/** @throws {IngestError} if one point makes more samples than a request may have: none of them is made then. */
function assertFewSamples(count: number): void {
  if (count > SAMPLES_LIMIT) throw new IngestError("too_large", TOO_MANY_SAMPLES);
}

/** Whole milliseconds, 0 if there is no time. */
function toMilliseconds(nanoseconds: bigint): number {
  return Number(nanoseconds / NANOSECONDS_PER_MILLISECOND);
}

function refusalIn(
  labels: PointLabels | string,
  taken: "le" | "quantile",
  reason: string,
): string | null {
  if (typeof labels === "string") return labels;
  return labels.special[taken] === "" ? null : reason;
}

/** The cumulative counts of a histogram by their upper bound, +Inf last; or why it is refused. */
function readBuckets(
  { explicitBounds, bucketCounts, count }: HistogramDataPoint,
): { readonly le: string; readonly value: number }[] | string {
  let below = -Infinity;
  for (const bound of explicitBounds) {
    // Not `bound <= below`: NaN is not.
    if (!(bound > below && bound < Infinity)) return POINT_REASONS.bounds;
    below = bound;
  }
  assertFewSamples(bucketCounts.length);
  // Without buckets it is only a count and a sum.
  if (bucketCounts.length === 0 && explicitBounds.length === 0) {
    return [{ le: "+Inf", value: Number(count) }];
  }
  if (bucketCounts.length !== explicitBounds.length + 1) return POINT_REASONS.bucketCounts;
  let total = 0n;
  const buckets = bucketCounts.map((inBucket, index) => {
    total += inBucket;
    const bound = explicitBounds[index];
    return { le: bound === undefined ? "+Inf" : formatDecimal(bound), value: Number(total) };
  });
  return total === count ? buckets : POINT_REASONS.bucketTotal;
}

function areQuantiles(quantiles: readonly number[]): boolean {
  return quantiles.every((quantile) => quantile >= 0 && quantile <= 1) &&
    new Set(quantiles).size === quantiles.length;
}

/** The shortest decimal that is this number, never with an exponent, as in Prometheus. */
function formatDecimal(value: number): string {
  const short = String(value);
  const parts = /^(-?)(\d)(?:\.(\d+))?e([+-]\d+)$/.exec(short);
  if (parts === null) return short;
  const [, sign, first, rest = "", exponent] = parts;
  const digits = `${first}${rest}`;
  const places = Number(exponent);
  return places < 0
    ? `${sign}0.${"0".repeat(-places - 1)}${digits}`
    : `${sign}${digits.padEnd(places + 1, "0")}`;
}

function readSource(resource: Resource | undefined): Source {
  const attributes = (resource?.attributes ?? []).map(readAttribute);
  const find = (wanted: string) =>
    cutText(attributes.find(({ key }) => key === wanted)?.text ?? "", LABEL_VALUE_LIMIT);
  const name = find("service.name");
  const namespace = find("service.namespace");
  const whole = name === "" || namespace === "" ? name : `${namespace}/${name}`;
  const job = cutText(whole, LABEL_VALUE_LIMIT);
  const instance = find("service.instance.id");
  const others = toLabels(attributes.filter(({ key }) => !IDENTITY.includes(key)));
  others.delete("job");
  others.delete("instance");
  const identity = [["job", job], ["instance", instance]].filter(([, value]) => value !== "");
  const labels = [...toFittingLabels([...identity as [string, string][], ...others])];
  const info = identity.length > 0 && others.size > 0 ? Object.fromEntries(labels) : null;
  return { job, instance, info, key: JSON.stringify([job, instance, labels]), newest: -Infinity };
}

const IDENTITY = ["service.name", "service.namespace", "service.instance.id"];

function addTargetInfo(collector: SampleCollector, { info, newest }: Source): void {
  if (info === null || newest === -Infinity) return;
  const position = collector.addSeries({
    metric: TARGET_INFO,
    labels: info,
    kind: "gauge",
    unit: "",
    description: "Attributes of what sent metrics, by job and instance.",
    is_delta: false,
  });
  collector.add(position, newest, 1);
}
