import { formatLabels } from "../../shared/promql/format-labels.ts";
import { formatValue } from "../../shared/promql/format-value.ts";
import { compareLabels, labelsKey } from "../../shared/promql/labels-key.ts";
import type { MatrixSeries, QueryResult, QueryValue } from "../../shared/promql/query.ts";
import type { SequenceValue } from "../../shared/promql/series-notation.ts";
import type { EvalCommand, TextTest } from "./parse-script.ts";

/** The first thing that is not as it should be. */
export interface Mismatch {
  readonly expected: string;
  readonly got: string;
}

const EPSILON = 1e-6;
const SMALLEST_NORMAL = 2 ** -1022;

/** Whether two values are the same but for rounding, as Prometheus' tests see it; NaN equals itself. */
export function isAlmostEqual(a: number, b: number): boolean {
  if (a === b || (Number.isNaN(a) && Number.isNaN(b))) return true;
  const sum = Math.abs(a) + Math.abs(b);
  const difference = Math.abs(a - b);
  if (a === 0 || b === 0 || sum < SMALLEST_NORMAL) return difference < EPSILON * SMALLEST_NORMAL;
  return difference / Math.min(sum, Number.MAX_VALUE) < EPSILON;
}

/** How a result differs from what a case expects, values and order; undefined if it does not. */
export function compareValue(test: EvalCommand, value: QueryValue): Mismatch | undefined {
  const { expected } = test;
  if (expected.kind === "string") {
    return value.type === "string" && value.value === expected.value
      ? undefined
      : { expected: JSON.stringify(expected.value), got: describe(value) };
  }
  if (expected.kind === "scalar") {
    return value.type === "scalar" && isAlmostEqual(value.value, expected.value)
      ? undefined
      : { expected: `scalar ${formatValue(expected.value)}`, got: describe(value) };
  }
  if (value.type === "string" || value.type === "scalar") {
    return { expected: "a vector or a matrix", got: describe(value) };
  }
  // The time of a vector is that of the query, which may be another than the expected values have.
  const series = value.type === "matrix" ? value.series : value.samples.map((sample) => ({
    labels: sample.labels,
    times: [test.start],
    values: [sample.value],
  }));
  const isOrdered = test.expectations.ordered.length > 0;
  if (value.type === "matrix") {
    if (isOrdered) return { expected: "a vector, in order", got: describe(value) };
    const unsorted = findUnsorted(series);
    if (unsorted) return { expected: "series sorted by labels", got: unsorted };
  }
  return compareSeries(test, expected.series, series) ??
    (isOrdered ? compareOrder(expected.series, series) : undefined);
}

type ExpectedSeries = Extract<EvalCommand["expected"], { kind: "series" }>["series"];

function compareSeries(
  test: EvalCommand,
  expected: ExpectedSeries,
  actual: readonly MatrixSeries[],
): Mismatch | undefined {
  const seen = new Set<string>();
  for (const series of actual) {
    const key = labelsKey(series.labels);
    const wanted = expected.get(key);
    if (wanted === undefined) {
      return { expected: describeAll(expected), got: describeSeries(series) };
    }
    if (seen.has(key)) {
      return { expected: `${formatLabels(series.labels)} once`, got: "it comes twice" };
    }
    seen.add(key);
    const mismatch = comparePoints(test, wanted.values, series);
    if (mismatch) return mismatch;
  }
  const missing = [...expected].find(([key]) => !seen.has(key));
  return missing &&
    {
      expected: `${formatLabels(missing[1].labels)} ${describeValues(missing[1].values)}`,
      got: actual.length === 0 ? "nothing" : actual.map(describeSeries).join("; "),
    };
}

function comparePoints(
  { start, end, step }: EvalCommand,
  wanted: readonly SequenceValue[],
  { labels, times, values }: MatrixSeries,
): Mismatch | undefined {
  const name = formatLabels(labels);
  const actual = new Map(times.map((time, index) => [time, values[index]!]));
  if (start + (wanted.length - 1) * step > end) {
    return {
      expected: `${name}: ${wanted.length} values`,
      got: "the range has not as many steps",
    };
  }
  for (const [index, value] of wanted.entries()) {
    const time = start + index * step;
    const got = actual.get(time);
    actual.delete(time);
    // No result has a staleness marker.
    const isEqual = value === "omitted"
      ? got === undefined
      : typeof value === "number" && got !== undefined && isAlmostEqual(value, got);
    if (isEqual) continue;
    return {
      expected: `${name} ${describeValues([value])} at ${time} ms`,
      got: got === undefined ? "no value" : formatValue(got),
    };
  }
  const [extra] = actual;
  return extra &&
    { expected: `${name}: no value at ${extra[0]} ms`, got: formatValue(extra[1]) };
}

function compareOrder(
  expected: ExpectedSeries,
  actual: readonly MatrixSeries[],
): Mismatch | undefined {
  const wanted = [...expected.keys()];
  if (actual.every(({ labels }, index) => labelsKey(labels) === wanted[index])) return undefined;
  return {
    expected: `in this order: ${describeAll(expected)}`,
    got: actual.map(describeSeries).join("; "),
  };
}

function findUnsorted(series: readonly MatrixSeries[]): string | undefined {
  const found = series.find((one, index) =>
    index > 0 && compareLabels(series[index - 1]!.labels, one.labels) > 0
  );
  return found && `${formatLabels(found.labels)} after one that it goes before`;
}

/** How the annotations of a result differ from what a case expects; undefined if they do not. */
export function compareAnnotations(
  { expectations }: EvalCommand,
  { warnings, infos }: QueryResult,
): Mismatch | undefined {
  return compareTexts("warning", expectations.warn, warnings) ??
    compareTexts("info", expectations.info, infos) ??
    expectNone("warning", expectations.no_warn, warnings) ??
    expectNone("info", expectations.no_info, infos);
}

/** Each wanted one has to be there; and where any is wanted, each has to be wanted. */
function compareTexts(
  what: string,
  wanted: readonly TextTest[],
  actual: readonly string[],
): Mismatch | undefined {
  if (wanted.length === 0) return undefined;
  const missing = wanted.find(({ matches }) => !actual.some(matches));
  if (missing) {
    return {
      expected: `${what} ${missing.description}`,
      got: actual.length === 0 ? `no ${what}` : actual.join("; "),
    };
  }
  const unwanted = actual.find((text) => !wanted.some(({ matches }) => matches(text)));
  if (unwanted === undefined) return undefined;
  return { expected: wanted.map(({ description }) => description).join("; "), got: unwanted };
}

function expectNone(
  what: string,
  wanted: readonly TextTest[],
  actual: readonly string[],
): Mismatch | undefined {
  if (wanted.length === 0 || actual.length === 0) return undefined;
  return { expected: `no ${what}`, got: actual.join("; ") };
}

/** A result in one line. */
export function describe(value: QueryValue): string {
  switch (value.type) {
    case "string":
      return JSON.stringify(value.value);
    case "scalar":
      return `scalar ${formatValue(value.value)}`;
    case "vector":
      return value.samples.map(({ labels, value }) =>
        `${formatLabels(labels)} ${formatValue(value)}`
      ).join("; ") || "an empty vector";
    case "matrix":
      return value.series.map(describeSeries).join("; ") || "an empty matrix";
  }
}

function describeSeries({ labels, values }: MatrixSeries): string {
  return `${formatLabels(labels)} ${describeValues(values)}`;
}

function describeAll(expected: ExpectedSeries): string {
  return [...expected.values()].map(({ labels, values }) =>
    `${formatLabels(labels)} ${describeValues(values)}`
  ).join("; ") || "nothing";
}

function describeValues(values: readonly SequenceValue[]): string {
  return values.map((value) =>
    value === "omitted" ? "_" : typeof value === "number" ? formatValue(value) : value
  ).join(" ");
}
