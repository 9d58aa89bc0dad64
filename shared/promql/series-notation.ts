import { parseSeriesName } from "./parse-expr.ts";
import { locate, PromqlError } from "./promql-error.ts";
import type { Labels, SampledSeries } from "./series.ts";

/** Values of one line at most, repetitions among them. */
export const SEQUENCE_LIMIT = 1_000_000;

/** One step of a series: a value, none, the end of the series for the time being, or a native histogram. */
export type SequenceValue = number | "omitted" | "stale" | "histogram";

/** A line of a test: a series and what it has, step by step. */
export interface SeriesDescription {
  readonly labels: Labels;
  readonly values: readonly SequenceValue[];
}

const NUMBER = String
  .raw`(?:(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?:[nN][aA][nN]|[iI][nN][fF])(?!\w))`;
const HISTOGRAM = String.raw`\{\{[^{}]*\}\}`;
/** What is repeated follows an x; a word takes the x for one of its letters, as in Prometheus. */
const ITEM = new RegExp(
  `(?:(?<omitted>_)|(?<stale>stale)(?!x)|(?<histogram>${HISTOGRAM})(?:[+-]${HISTOGRAM}(?=x))?|` +
    `(?<first>[+-]?${NUMBER})(?<delta>[+-]${NUMBER}(?=x))?)(?:x(?<times>\\d+))?(?=\\s|$)`,
  "y",
);

/**
 * Reads a series with its values in the notation of Prometheus' tests: `up{job="api"} 1 0x3 _ 5-2x4 stale`. `AxN` is A and
 * N times more, `A+BxN` and `A-BxN` as well, B further each time; `_` is no value and `_xN` N times none.
 *
 * @throws {PromqlError} of kind `parse` with the column, or of kind `limit` for more than {@link SEQUENCE_LIMIT} values.
 */
export function parseSeriesDescription(line: string): SeriesDescription {
  const text = line.trimEnd();
  const end = findNameEnd(text);
  const labels = parseSeriesName(text.slice(0, end));
  const values: SequenceValue[] = [];
  for (let at = end; at < text.length;) {
    const gap = /[ \t]*/y;
    gap.lastIndex = at;
    gap.test(text);
    ITEM.lastIndex = gap.lastIndex;
    const item = gap.lastIndex === at ? null : ITEM.exec(text);
    if (item === null) {
      throw refuse(text, gap.lastIndex, 'expected a space and a number, "_", "stale" or "{{…}}"');
    }
    appendValues(values, item.groups!, (reason) => refuse(text, item.index, reason));
    at = ITEM.lastIndex;
  }
  return { labels, values };
}

/** Where `name{…}` ends: at the brace that is in no quotes, or before the first space. */
function findNameEnd(text: string): number {
  const name = /[^\s{]*(?:\{(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`|[^"'`}])*\}?)?/y;
  name.test(text);
  return name.lastIndex;
}

function appendValues(
  values: SequenceValue[],
  { omitted, stale, first, delta, times }: Record<string, string | undefined>,
  refuseItem: (reason: string) => PromqlError,
): void {
  // What is repeated is there once more than it says; what is left out, as often as it says.
  const count = omitted ? Number(times ?? 1) : 1 + Number(times ?? 0);
  if (values.length + count > SEQUENCE_LIMIT) {
    throw new PromqlError("limit", refuseItem(`more than ${SEQUENCE_LIMIT} values`).message);
  }
  const read = (text: string) => {
    const value = parseNumber(text);
    if (value === undefined) throw refuseItem(`"${text}" is no number`);
    return value;
  };
  if (first === undefined) {
    const kind = omitted ? "omitted" : stale ? "stale" : "histogram";
    for (let index = 0; index < count; index += 1) values.push(kind);
  } else {
    const step = delta === undefined ? 0 : read(delta);
    let value = read(first);
    for (let index = 0; index < count; index += 1) {
      values.push(value);
      // Added up rather than multiplied, as Prometheus does: the roundings are the same.
      if (delta !== undefined) value += step;
    }
  }
}

function refuse(text: string, start: number, reason: string): PromqlError {
  const place = locate(text, start, text.length);
  return new PromqlError(
    "parse",
    `${place.line}:${place.column}: parse error: series values: ${reason}`,
    { place },
  );
}

const INTEGER = /^([+-]?)(0[xX]_?[\da-fA-F_]+|0[bB]_?[01_]+|0[oO]?_?[0-7_]+)$/;
const DECIMAL = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/;
const UNDERSCORED = /^[+-]?[1-9]\d*(?:_\d+)+$/;
const WORD = /^(?:([+-]?)inf(?:inity)?|([+-]?)nan)$/i;

/** A number as Prometheus reads it, hexadecimal, octal, `Inf` and `NaN` among them; undefined if it is none. */
export function parseNumber(text: string): number | undefined {
  const word = WORD.exec(text);
  if (word) return word[1] === undefined ? NaN : word[1] === "-" ? -Infinity : Infinity;
  const integer = INTEGER.exec(text);
  if (integer) {
    // A leading zero alone means octal in Go, in which Prometheus reads integers first.
    const digits = integer[2]!.replaceAll("_", "").replace(/^0(?=[0-7])/, "0o");
    return (integer[1] === "-" ? -1 : 1) * Number(digits);
  }
  if (DECIMAL.test(text)) return Number(text);
  return UNDERSCORED.test(text) ? Number(text.replaceAll("_", "")) : undefined;
}

/** The series with a sample for each value, `stepMs` apart, the first at `startMs` since 1970. */
export function toSampledSeries(
  labels: Labels,
  values: readonly SequenceValue[],
  stepMs: number,
  startMs: number,
): SampledSeries {
  return samplePoints(
    labels,
    values.map((value, index) => [startMs + index * stepMs, value] as const),
  );
}

/** The series with a sample for each point: milliseconds since 1970, ascending, and a value. Native histograms are left out. */
export function samplePoints(
  labels: Labels,
  points: Iterable<readonly [time: number, value: SequenceValue]>,
): SampledSeries {
  const times: number[] = [];
  const values: number[] = [];
  const stale: number[] = [];
  for (const [time, value] of points) {
    if (value === "omitted" || value === "histogram") continue;
    if (value === "stale") stale.push(times.length);
    times.push(time);
    values.push(value === "stale" ? NaN : value);
  }
  return { labels, times, values, stale };
}
