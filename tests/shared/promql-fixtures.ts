import fc from "fast-check";
import { formatLabels } from "../../shared/promql/format-labels.ts";
import { labelsKey } from "../../shared/promql/labels-key.ts";
import { matchesAll } from "../../shared/promql/match-labels.ts";
import { parseExpr } from "../../shared/promql/parse-expr.ts";
import { prepareQuery } from "../../shared/promql/prepare-query.ts";
import { PromqlError } from "../../shared/promql/promql-error.ts";
import type { QueryOptions, QueryResult } from "../../shared/promql/query.ts";
import type { Labels, SampledSeries, Selection } from "../../shared/promql/series.ts";
import { parseSeriesDescription, toSampledSeries } from "../../shared/promql/series-notation.ts";

export const MINUTE = 60_000;

/** A series in the notation of Prometheus' tests, a minute apart from 1970 on. */
export function sample(line: string, stepMs = MINUTE, startMs = 0): SampledSeries {
  const { labels, values } = parseSeriesDescription(line);
  return toSampledSeries(labels, values, stepMs, startMs);
}

/** The samples that a selection asks for and no others, with the ends among them. */
export function cutToWindow(series: SampledSeries, { from, until }: Selection): SampledSeries {
  const kept = Array.from(series.times, (time, i) => ({ time, i }))
    .filter(({ time }) => time >= from && time <= until);
  return {
    labels: series.labels,
    times: kept.map(({ time }) => time),
    values: kept.map(({ i }) => series.values[i]!),
    stale: kept.flatMap(({ i }, index) => series.stale?.includes(i) ? [index] : []),
  };
}

/** The result of a query on series that are in memory. */
export function evaluate(
  text: string,
  series: readonly SampledSeries[],
  options: QueryOptions,
  read = (one: SampledSeries, _selection: Selection) => one,
): QueryResult {
  const query = prepareQuery(parseExpr(text), text, options);
  return query.evaluate(
    query.selections.map((selection) =>
      series.filter(({ labels }) => matchesAll(selection.matchers, labels))
        .map((one) => read(one, selection))
    ),
  );
}

/** The values of an instant query by the names of their series, in their order. */
export function valuesAt(
  text: string,
  series: readonly SampledSeries[],
  time: number,
  options: Partial<QueryOptions> = {},
): [name: string, value: number][] {
  const { value } = evaluate(text, series, { ...options, start: time });
  if (value.type === "scalar") return [["scalar", value.value]];
  if (value.type !== "vector") throw new Error(`not a vector: ${value.type}`);
  return value.samples.map(({ labels, value }) => [formatLabels(labels), value]);
}

/** Values of a range query: for each series what it has at each step, undefined where it has none. */
export function valuesOver(
  text: string,
  series: readonly SampledSeries[],
  range: { start: number; end: number; step: number },
  options: Partial<QueryOptions> = {},
): Map<string, { labels: Labels; values: (number | undefined)[] }> {
  const { value } = evaluate(text, series, { ...options, ...range });
  if (value.type !== "matrix") throw new Error(`not a matrix: ${value.type}`);
  const count = Math.floor((range.end - range.start) / range.step) + 1;
  return new Map(value.series.map(({ labels, times, values }) => {
    const byTime = new Map(times.map((time, i) => [time, values[i]!]));
    const all = Array.from({ length: count }, (_, i) => byTime.get(range.start + i * range.step));
    return [labelsKey(labels), { labels, values: all }];
  }));
}

/** The error that is thrown, which has to be one of the engine's. */
export function refusal(run: () => unknown): PromqlError {
  try {
    run();
  } catch (error) {
    if (error instanceof PromqlError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

/** When random series have their samples, in milliseconds: off the minute, the whole in about half an hour. */
const GAPS = fc.constantFrom(
  15_000,
  15_000,
  15_000,
  14_999,
  15_001,
  60_000,
  299_999,
  300_000,
  300_001,
);

function sampled(labels: Labels, values: fc.Arbitrary<number>): fc.Arbitrary<SampledSeries> {
  const point = fc.record({ gap: GAPS, value: values, isEnd: fc.nat(20).map((n) => n === 0) });
  return fc.array(point, { minLength: 1, maxLength: 40 }).map((points) => {
    let time = 0;
    const times = points.map(({ gap }) => time += gap);
    const stale = points.flatMap(({ isEnd }, i) => isEnd ? [i] : []);
    return {
      labels,
      times,
      values: points.map(({ value, isEnd }) => isEnd ? NaN : value),
      stale,
    };
  });
}

const SMALL = fc.integer({ min: -50, max: 50 });

/** Gauges `x` and `y` of some instances, with gaps and ends. */
export const gauges: fc.Arbitrary<SampledSeries[]> = fc.tuple(
  ...["x", "y"].flatMap((name) =>
    ["a", "b", "c", "d"].map((instance) =>
      fc.option(
        sampled(
          { __name__: name, instance, job: instance < "c" ? "one" : "two" },
          SMALL.map((value) => value / 4),
        ),
        { freq: 4 },
      )
    )
  ),
).map((some) => some.filter((series) => series !== null));

/** Counters `c_total` that grow, and start again now and then. */
export const counters: fc.Arbitrary<SampledSeries[]> = fc.tuple(
  ...["a", "b"].map((instance) =>
    sampled({ __name__: "c_total", instance }, fc.nat(30)).map((series) => {
      let total = 0;
      const values = Array.from(series.values, (value) => {
        if (Number.isNaN(value)) return value;
        total = value === 0 ? 0 : total + value;
        return total;
      });
      return { ...series, values };
    })
  ),
);

/** Buckets `h_bucket` of a histogram, whose counts never fall from bound to bound. */
export const histograms: fc.Arbitrary<SampledSeries[]> = fc.array(fc.nat(9), {
  minLength: 5,
  maxLength: 5,
}).map((counts) => {
  let below = 0;
  return ["0.1", "0.5", "1", "5", "+Inf"].map((le, i) => {
    below += counts[i]!;
    return sample(`h_bucket{le="${le}"} ${below}x30`);
  });
});
