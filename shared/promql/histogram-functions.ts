import type { Span } from "./ast.ts";
import type { Annotations } from "./annotations.ts";
import { type Column, type Grid, makeColumn, omitLabels, timeAt } from "./columns.ts";
import { quote } from "./format-labels.ts";
import { labelsKey } from "./labels-key.ts";
import { METRIC_NAME } from "./series.ts";

const BUCKET_LABEL = "le";
/** Bucket counts that differ relatively by less are equal: what is left of rounding. */
const SMALL_DIFFERENCE = 1e-12;

interface Bucket {
  readonly upper: number;
  count: number;
}

/** The series of one classic histogram. */
interface Histogram {
  readonly result: Column;
  readonly buckets: { readonly upper: number; readonly column: Column }[];
}

/** What functions of histograms need beside their columns. */
export interface HistogramContext {
  readonly grid: Grid;
  readonly annotations: Annotations;
  /** Where the vector is in the text. */
  readonly span: Span;
  /** Metric names are named in annotations. */
  readonly namesMetrics: boolean;
}

function gather(columns: readonly Column[], context: HistogramContext): Histogram[] {
  const byKey = new Map<string, Histogram>();
  for (const column of columns) {
    const label = column.labels[BUCKET_LABEL] ?? "";
    const upper = parseBound(label);
    if (upper === undefined) {
      const name = column.labels[METRIC_NAME] ?? "";
      const named = name === "" ? "" : ` for metric name ${quote(name)}`;
      context.annotations.warn(
        `bucket label "${BUCKET_LABEL}" is missing or has a malformed value of ${
          quote(label)
        }${named}`,
        context.span,
      );
      continue;
    }
    const labels = omitLabels(column.labels, [BUCKET_LABEL]);
    const key = labelsKey(labels);
    let histogram = byKey.get(key);
    if (histogram === undefined) {
      const result = makeColumn(labels, true, context.grid.count);
      byKey.set(key, histogram = { result, buckets: [] });
    }
    histogram.buckets.push({ upper, column });
  }
  for (const { buckets } of byKey.values()) buckets.sort((a, b) => a.upper - b.upper);
  return [...byKey.values()];
}

/** As Go reads a float; undefined for what is none. */
function parseBound(text: string): number | undefined {
  const match = /^([+-]?)(?:inf(?:inity)?|(nan)|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)$/i.exec(text);
  if (match === null) return undefined;
  if (match[2] !== undefined) return NaN;
  const number = Number(text);
  return Number.isNaN(number) ? (match[1] === "-" ? -Infinity : Infinity) : number;
}

/** Applies `compute` to the buckets of each histogram at each step that has any. */
function compute(
  columns: readonly Column[],
  context: HistogramContext,
  evaluate: (buckets: Bucket[], step: number, histogram: Column) => number,
): Column[] {
  const histograms = gather(columns, context);
  for (const { result, buckets } of histograms) {
    for (let i = 0; i < context.grid.count; i += 1) {
      const present: Bucket[] = [];
      for (const { upper, column } of buckets) {
        if (column.present[i] === 0) continue;
        const last = present.at(-1);
        // Bounds may be written in more than one way.
        if (last?.upper === upper) last.count += column.values[i]!;
        else present.push({ upper, count: column.values[i]! });
      }
      if (present.length === 0) continue;
      result.present[i] = 1;
      result.values[i] = evaluate(present, i, result);
    }
  }
  return histograms.map(({ result }) => result).filter(({ present }) => present.includes(1));
}

/** `histogram_quantile` of classic histograms. */
export function histogramQuantile(
  quantiles: Float64Array,
  columns: readonly Column[],
  context: HistogramContext,
): Column[] {
  const { grid, annotations, span, namesMetrics } = context;
  return compute(columns, context, (buckets, i, { labels }) => {
    const quantile = quantiles[i]!;
    if (Number.isNaN(quantile)) return NaN;
    if (quantile < 0) return -Infinity;
    if (quantile > 1) return Infinity;
    if (buckets.at(-1)!.upper !== Infinity) return NaN;
    const fix = makeMonotonic(buckets);
    if (fix !== undefined) {
      const name = namesMetrics ? labels[METRIC_NAME] ?? "" : "";
      annotations.forcedMonotonicity(name, span, timeAt(grid, i), fix);
    }
    return quantileOfBuckets(quantile, buckets);
  });
}

function quantileOfBuckets(quantile: number, buckets: readonly Bucket[]): number {
  const last = buckets.length - 1;
  const observations = buckets[last]!.count;
  if (last < 1 || observations === 0) return NaN;
  const rank = quantile * observations;
  let low = 0;
  let high = last;
  // By halves, as Prometheus looks: of counts that are NaN it matters which are looked at.
  while (low < high) {
    const middle = (low + high) >> 1;
    if (buckets[middle]!.count >= rank) high = middle;
    else low = middle + 1;
  }
  if (low === last) return buckets[last - 1]!.upper;
  const { upper, count } = buckets[low]!;
  if (low === 0) return upper <= 0 ? upper : upper * (rank / count);
  const below = buckets[low - 1]!;
  return below.upper + (upper - below.upper) * ((rank - below.count) / (count - below.count));
}

/** Lets counts never fall, and says what had to be lifted for that. */
function makeMonotonic(
  buckets: readonly Bucket[],
): { lowest: number; highest: number; largest: number } | undefined {
  let isForced = false;
  let lowest = Infinity;
  let highest = -Infinity;
  let largest = 0;
  let previous = buckets[0]!.count;
  for (const bucket of buckets.slice(1)) {
    const { count, upper } = bucket;
    if (count === previous) continue;
    if (isAlmostEqual(previous, count)) {
      bucket.count = previous;
    } else if (count < previous) {
      bucket.count = previous;
      isForced = true;
      lowest = Math.min(lowest, upper);
      highest = Math.max(highest, upper);
      largest = Math.max(largest, previous - count);
    } else {
      previous = count;
    }
  }
  return isForced ? { lowest, highest, largest } : undefined;
}

function isAlmostEqual(a: number, b: number): boolean {
  if (Number.isNaN(a) && Number.isNaN(b)) return true;
  const size = Math.abs(a) + Math.abs(b);
  const difference = Math.abs(a - b);
  const least = 2 ** -1022;
  return a === 0 || b === 0 || size < least
    ? difference < SMALL_DIFFERENCE * least
    : difference / Math.min(size, Number.MAX_VALUE) < SMALL_DIFFERENCE;
}

/** `histogram_fraction` of classic histograms. */
export function histogramFraction(
  lowers: Float64Array,
  uppers: Float64Array,
  columns: readonly Column[],
  context: HistogramContext,
): Column[] {
  return compute(
    columns,
    context,
    (buckets, i) => fractionOfBuckets(lowers[i]!, uppers[i]!, buckets),
  );
}

function fractionOfBuckets(lower: number, upper: number, buckets: readonly Bucket[]): number {
  const { upper: highest, count } = buckets.at(-1)!;
  if (highest !== Infinity || count === 0 || Number.isNaN(lower) || Number.isNaN(upper)) return NaN;
  if (lower >= upper) return 0;
  return (rankOf(upper, buckets) - rankOf(lower, buckets)) / count;
}

/** How many observations are below a value, buckets taken as filled evenly. */
function rankOf(value: number, buckets: readonly Bucket[]): number {
  const total = buckets.at(-1)!.count;
  let below = 0;
  let lowerBound = buckets[0]!.upper <= 0 ? -Infinity : 0;
  for (const { upper, count } of buckets) {
    if (lowerBound >= value) return Math.min(below, total);
    if (lowerBound < value && upper > value) {
      const rank = lowerBound === -Infinity
        ? count
        : below + (count - below) * (value - lowerBound) / (upper - lowerBound);
      return rank > total ? total : rank;
    }
    below = count;
    lowerBound = upper;
  }
  return total;
}
