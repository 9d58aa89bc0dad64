import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { formatLabels } from "../../shared/promql/format-labels.ts";
import { labelsKey } from "../../shared/promql/labels-key.ts";
import { PromqlError } from "../../shared/promql/promql-error.ts";
import type { QueryOptions } from "../../shared/promql/query.ts";
import type { Labels, SampledSeries } from "../../shared/promql/series.ts";
import {
  counters,
  cutToWindow,
  evaluate,
  gauges,
  histograms,
  MINUTE,
  sample,
  valuesAt,
  valuesOver,
} from "./promql-fixtures.ts";

/** Steps that no sample keeps to. */
const RANGE = { start: 100_000, end: 1_900_000, step: 97_000 };
const NOW = 900_000;

const everything = fc.tuple(gauges, counters, histograms).map((parts) => parts.flat());

/** Values at `NOW` by series. */
function at(text: string, series: readonly SampledSeries[], time = NOW): Map<string, number> {
  return new Map(valuesAt(text, series, time));
}

/** The same series, and values that are as good as the same. */
function expectClose(got: Map<string, number>, wanted: Map<string, number>): void {
  expect([...got.keys()].sort()).toEqual([...wanted.keys()].sort());
  for (const [name, value] of got) expect(value).toBeCloseTo(wanted.get(name)!, 9);
}

/** A result, or the error in its place, without the order of series, which is none. */
function outcome(
  text: string,
  series: readonly SampledSeries[],
  options: QueryOptions,
  read?: Parameters<typeof evaluate>[3],
): unknown {
  try {
    const { value, warnings, infos } = evaluate(text, series, options, read);
    const annotations = [[...warnings].sort(), [...infos].sort()];
    if (value.type === "vector") {
      const samples = value.samples.map(({ labels, value }) => [labelsKey(labels), value] as const);
      return [new Map(samples), annotations];
    }
    return [value, annotations];
  } catch (error) {
    if (error instanceof PromqlError) return `${error.kind}`;
    throw error;
  }
}

/** One of each kind, modifiers in all places. */
const EXPRESSIONS = [
  "x",
  "x offset 3m",
  "x offset -2m",
  "x @ 600",
  "x @ 600 offset 1m",
  "-x",
  "x + y",
  "x > 2",
  "2 < bool x",
  "x == bool on (instance) y",
  "x * on (job) group_left () sum by (job) (y)",
  "x and y",
  "x or y",
  "x unless y > 0",
  "sum by (job) (x)",
  "avg without (instance) (x)",
  "stddev(x)",
  "topk(2, x)",
  "bottomk by (job) (1, x)",
  "quantile(0.3, x)",
  "count_values('v', x)",
  "limit_ratio(0.5, x)",
  "rate(c_total[5m])",
  "increase(c_total[4m] offset 1m)",
  "irate(c_total[5m])",
  "delta(x[5m])",
  "deriv(x[10m])",
  "predict_linear(x[10m], 600)",
  "max_over_time(x[5m])",
  "stddev_over_time(x[5m])",
  "quantile_over_time(0.7, x[5m])",
  "last_over_time(x[2m] @ 700)",
  "changes(x[10m])",
  "absent(x)",
  "absent_over_time(x[90s])",
  "timestamp(x)",
  "time() - timestamp(x offset 1m)",
  "minute(x * 60)",
  "hour()",
  "clamp(x, -2, scalar(y{instance='a'}))",
  "label_replace(x, 'd', '$1', 'instance', '(.)')",
  "histogram_quantile(0.9, h_bucket)",
  "histogram_fraction(0.2, 2, h_bucket)",
  "max_over_time(x[10m:90s])",
  "sum_over_time(rate(c_total[2m])[10m:1m] offset 30s)",
  "avg_over_time(sum by (job) (x)[8m:])",
  "min_over_time(max_over_time(x[3m:30s])[5m:45s])",
  "count_over_time(x[5m:1m] @ 800)",
  "scalar(x{instance='b'})",
  "vector(time())",
  "round(x, 0.5)",
];

describe("a range query", () => {
  it.each(EXPRESSIONS)("has at each step what an instant query has there: %s", (text) => {
    fc.assert(
      fc.property(everything, (series) => {
        const over = valuesOver(text, series, RANGE);
        for (let i = 0; RANGE.start + i * RANGE.step <= RANGE.end; i += 1) {
          const time = RANGE.start + i * RANGE.step;
          const { value } = evaluate(text, series, { start: time });
          const instant = value.type === "scalar"
            ? new Map([[labelsKey({}), value.value]])
            : value.type === "vector"
            ? new Map(value.samples.map(({ labels, value }) => [labelsKey(labels), value]))
            : new Map();
          const step = new Map<string, number>();
          for (const [key, { values }] of over) {
            const value = values[i];
            if (value !== undefined) step.set(key, value);
          }
          expect(step).toEqual(instant);
        }
      }),
      { numRuns: 12 },
    );
  });

  it("has the same at each step of what is pinned to a time", () => {
    fc.assert(fc.property(everything, (series) => {
      for (
        const [text, same] of [["x @ 600", "x"], ["rate(c_total[5m] @ 600)", "rate(c_total[5m])"]]
      ) {
        const pinned = valuesOver(text!, series, RANGE);
        const instant = at(same!, series, 600_000);
        expect(pinned.size).toBe(instant.size);
        for (const { labels, values } of pinned.values()) {
          expect(new Set(values)).toEqual(new Set([instant.get(formatLabels(labels))]));
        }
      }
    }));
  });

  it("takes start() and end() for its first and its last step", () => {
    const series = [sample("x 0+1x40")];
    const range = { start: 10 * MINUTE, end: 20 * MINUTE, step: 4 * MINUTE };
    const only = (text: string) => [...valuesOver(text, series, range).values()][0]!.values;
    expect(only("x @ start()")).toEqual([10, 10, 10]);
    // The end that was asked for, though no step is there.
    expect(only("x @ end()")).toEqual([20, 20, 20]);
  });
});

describe("what a query asks for", () => {
  it.each([...EXPRESSIONS, "info(x, {__name__='y'})"])("is all that it needs: %s", (text) => {
    fc.assert(
      fc.property(everything, (series) => {
        for (const options of [{ start: NOW }, RANGE]) {
          expect(outcome(text, series, options, cutToWindow)).toEqual(
            outcome(text, series, options),
          );
        }
      }),
      { numRuns: 15 },
    );
  });
});

describe("the order in which series come", () => {
  // Of what is equal among topk, and of sums in another order, the last digits may differ.
  const indifferent = EXPRESSIONS.filter((text) => !/sum|avg|std|topk|bottomk|limitk/.test(text));
  it.each(indifferent)("makes no difference: %s", (text) => {
    fc.assert(
      fc.property(everything, fc.func(fc.integer()), (series, weigh) => {
        const shuffled = series
          .map((one, i) => [weigh(i), one] as const)
          .sort(([a], [b]) => a - b).map(([, one]) => one);
        expect(outcome(text, shuffled, RANGE)).toEqual(outcome(text, series, RANGE));
        expect(outcome(text, shuffled, { start: NOW })).toEqual(
          outcome(text, series, { start: NOW }),
        );
      }),
      { numRuns: 10 },
    );
  });
});

describe("names that are dropped at the end", () => {
  it.each(EXPRESSIONS)("make no other values where dropping them at once makes any: %s", (text) => {
    fc.assert(
      fc.property(everything, (series) => {
        const at = (isNameRemovalDelayed: boolean) =>
          outcome(text, series, { start: NOW, isNameRemovalDelayed });
        expect(at(true)).toEqual(at(false));
      }),
      { numRuns: 10 },
    );
  });
});

describe("aggregations", () => {
  it("give the same sums and counts by stages", () => {
    fc.assert(fc.property(gauges, (series) => {
      for (const way of ["by (job)", "by (instance)", "without (job)"]) {
        expectClose(at(`sum(sum ${way} (x))`, series), at("sum(x)", series));
        expectClose(at(`sum(count ${way} (x))`, series), at("count(x)", series));
        expectClose(at(`max(max ${way} (x))`, series), at("max(x)", series));
        expectClose(at(`min(min ${way} (x))`, series), at("min(x)", series));
      }
      expectClose(at("sum(x) / count(x)", series), at("avg(x)", series));
      expectClose(at("stddev(x) ^ 2", series), at("stdvar(x)", series));
      expectClose(at("sum without (job, instance) (x)", series), at("sum(x)", series));
    }));
  });

  it("have the average between the least and the greatest, which are quantiles", () => {
    fc.assert(fc.property(gauges, (series) => {
      const [min, avg, max] = ["min", "avg", "max"].map((op) => at(`${op} by (job) (x)`, series));
      for (const [name, value] of avg!) {
        expect(value).toBeGreaterThanOrEqual(min!.get(name)! - 1e-9);
        expect(value).toBeLessThanOrEqual(max!.get(name)! + 1e-9);
      }
      expect(at("quantile by (job) (0, x)", series)).toEqual(min);
      expect(at("quantile by (job) (1, x)", series)).toEqual(max);
      expect(at("count(x)", series).get("{}") ?? 0).toBe(at("x", series).size);
      expect(new Set(at("group by (instance) (x)", series).values())).toEqual(
        new Set(at("x", series).size === 0 ? [] : [1]),
      );
    }));
  });

  it("take as many of the greatest, least or first as they may, unchanged", () => {
    fc.assert(fc.property(gauges, fc.nat(5), (series, k) => {
      const all = at("x", series);
      for (const op of ["topk", "bottomk", "limitk"]) {
        const some = at(`${op}(${k}, x)`, series);
        expect(some.size).toBe(Math.min(k, all.size));
        for (const [name, value] of some) expect(all.get(name)).toBe(value);
        const others = [...all].filter(([name]) => !some.has(name)).map(([, value]) => value);
        if (op === "limitk" || some.size === 0 || others.length === 0) continue;
        if (op === "topk") {
          expect(Math.min(...some.values())).toBeGreaterThanOrEqual(Math.max(...others));
        } else expect(Math.max(...some.values())).toBeLessThanOrEqual(Math.min(...others));
      }
    }));
  });

  it("split everything in two with a ratio and what is left of it", () => {
    const series = Array.from({ length: 60 }, (_, i) => sample(`x{i="${i}"} 1x20`));
    for (const ratio of [0, 0.1, 0.25, 0.5, 0.9, 1]) {
      const one = at(`limit_ratio(${ratio}, x)`, series);
      const other = at(`limit_ratio(${ratio - 1}, x)`, series);
      expect(one.size + (ratio === 1 ? 0 : other.size)).toBe(60);
      if (ratio < 1) expect([...one.keys()].some((name) => other.has(name))).toBe(false);
      expect(Math.abs(one.size - 60 * ratio)).toBeLessThan(20);
    }
  });

  it("count each value once", () => {
    fc.assert(fc.property(gauges, (series) => {
      const counts = at("count_values('v', x)", series);
      const values = [...at("x", series).values()];
      expect(counts.size).toBe(new Set(values.map((value) => value + 0)).size);
      expect([...counts.values()].reduce((sum, n) => sum + n, 0)).toBe(values.length);
    }));
  });
});

describe("operators", () => {
  it("make of `and`, `or` and `unless` what they do of sets", () => {
    fc.assert(fc.property(gauges, (series) => {
      const x = at("x", series);
      const and = at("x and y", series);
      const unless = at("x unless y", series);
      expect(new Map([...and, ...unless])).toEqual(x);
      expect(and.size + unless.size).toBe(x.size);
      const or = at("x or y", series);
      for (const [name, value] of x) expect(or.get(name)).toBe(value);
      expect(or.size - x.size).toBe(at("y unless x", series).size);
      expect(at("x and x", series)).toEqual(x);
      expect(at("x or x", series)).toEqual(x);
      expect(at("x unless x", series).size).toBe(0);
    }));
  });

  it("undo and mirror each other", () => {
    fc.assert(fc.property(gauges, (series) => {
      const x = at("x + 0", series);
      expectClose(at("-(-x)", series), x);
      expectClose(at("x + y - y", series), at("x + 0 * y", series));
      expectClose(at("x + y", series), at("y + x", series));
      expectClose(at("x - y", series), at("-(y - x)", series));
      expect(at("x > y", series).size + at("x <= y", series).size).toBe(at("x + y", series).size);
      expectClose(at("(x > bool 1) + (x <= bool 1)", series), at("x * 0 + 1", series));
      expect(at("x > 1", series)).toEqual(at("1 < x", series));
      expectClose(
        at("x * on (job) group_left () sum by (job) (y)", series),
        at("sum by (job) (y) * on (job) group_right () x", series),
      );
    }));
  });

  it("leave out of absent what is there", () => {
    fc.assert(fc.property(gauges, (series) => {
      for (const selector of [`x`, `x{instance="a"}`, `y{job="none"}`]) {
        const isThere = at(selector, series).size > 0;
        expect(at(`absent(${selector})`, series).size).toBe(isThere ? 0 : 1);
        const wasThere = at(`present_over_time(${selector}[3m])`, series).size > 0;
        expect(at(`absent_over_time(${selector}[3m])`, series).size).toBe(wasThere ? 0 : 1);
      }
    }));
  });
});

describe("time", () => {
  it("shifts by an offset", () => {
    fc.assert(
      fc.property(everything, fc.integer({ min: -600, max: 600 }), (series, seconds) => {
        const offset = `offset ${seconds < 0 ? "-" : ""}${Math.abs(seconds)}s`;
        for (const text of ["x", "rate(c_total[5m])", "max_over_time(x[5m:30s])"]) {
          const shifted = text.replace(/(\)?)$/, ` ${offset}$1`);
          expect(at(shifted, series)).toEqual(at(text, series, NOW - seconds * 1000));
          const pinned = text.replace(/(\)?)$/, ` @ ${NOW / 1000 - seconds}$1`);
          expect(at(pinned, series, 5)).toEqual(at(shifted, series));
        }
      }),
    );
  });

  it("is walked through by a subquery as by the samples, where these are regular", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: -9, max: 9 }), { minLength: 25, maxLength: 25 }),
        (values) => {
          const series = [sample(`x ${values.join(" ")}`)];
          for (const func of ["sum", "avg", "max", "min", "count", "last", "stddev"]) {
            expectClose(
              at(`${func}_over_time(x[7m:1m])`, series, 15 * MINUTE),
              at(`${func}_over_time(x[7m])`, series, 15 * MINUTE),
            );
          }
        },
      ),
    );
  });
});

describe("counters", () => {
  it("have the slope of a line as their rate", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1000 }),
        fc.integer({ min: 5, max: 60 }),
        (slope, every) => {
          const step = every * 1000;
          const series = [sample(`c_total 1000+${slope * every}x200`, step)];
          const time = 150 * step + 1234;
          const window = 20 * every;
          expect(at(`rate(c_total[${window}s])`, series, time).get("{}")).toBeCloseTo(slope, 6);
          expect(at(`irate(c_total[${window}s])`, series, time).get("{}")).toBeCloseTo(slope, 6);
          expect(at(`deriv(c_total[${window}s])`, series, time).get("{}")).toBeCloseTo(slope, 4);
          expect(at(`increase(c_total[${window}s])`, series, time).get("{}")! / window)
            .toBeCloseTo(slope, 6);
        },
      ),
    );
  });

  it("never fall, and grow by their rate times the range", () => {
    fc.assert(fc.property(counters, (series) => {
      const rate = at("rate(c_total[5m])", series);
      for (const value of rate.values()) expect(value).toBeGreaterThanOrEqual(0);
      expectClose(at("rate(c_total[5m]) * 300", series), at("increase(c_total[5m])", series));
      for (const [name, resets] of at("resets(c_total[10m])", series)) {
        expect(resets).toBeLessThanOrEqual(at("changes(c_total[10m])", series).get(name)!);
      }
      // What is no counter may fall; where nothing has, both are the same but for what is cut off at zero.
      for (const [name, resets] of at("resets(c_total[5m])", series)) {
        const [delta, increase] = ["delta", "increase"].map((func) =>
          at(`${func}(c_total[5m])`, series).get(name)
        );
        if (resets === 0 && delta !== undefined) {
          expect(increase).toBeLessThanOrEqual(delta + 1e-9);
        }
      }
    }));
  });
});

describe("functions of a window", () => {
  it("have the average between the least and the greatest, which are quantiles", () => {
    fc.assert(fc.property(gauges, (series) => {
      const over = (func: string) => at(`${func}(x[6m])`, series);
      const [min, avg, max] = [over("min_over_time"), over("avg_over_time"), over("max_over_time")];
      for (const [name, value] of avg) {
        expect(value).toBeGreaterThanOrEqual(min.get(name)! - 1e-9);
        expect(value).toBeLessThanOrEqual(max.get(name)! + 1e-9);
      }
      expect(at("quantile_over_time(0, x[6m])", series)).toEqual(min);
      expect(at("quantile_over_time(1, x[6m])", series)).toEqual(max);
      expectClose(at("sum_over_time(x[6m]) / count_over_time(x[6m])", series), avg);
      expectClose(at("stddev_over_time(x[6m]) ^ 2", series), over("stdvar_over_time"));
      expect(new Set(over("present_over_time").values())).toEqual(
        new Set(avg.size === 0 ? [] : [1]),
      );
      for (const [name, first] of over("ts_of_first_over_time")) {
        expect(first).toBeGreaterThan(NOW / 1000 - 360);
        expect(over("ts_of_last_over_time").get(name)).toBeGreaterThanOrEqual(first);
        expect(over("ts_of_max_over_time").get(name)).toBeGreaterThanOrEqual(first);
      }
    }));
  });
});

describe("functions of a value", () => {
  it("keep what is in bounds, and bring the rest to them", () => {
    fc.assert(fc.property(gauges, (series) => {
      const x = at("x + 0", series);
      const clamped = at("clamp(x, -3, 4)", series);
      for (const [name, value] of x) {
        expect(clamped.get(name)).toBe(Math.min(4, Math.max(-3, value)));
      }
      expect(at("clamp_max(clamp_min(x, -3), 4)", series)).toEqual(clamped);
      expect(at("clamp(x, 1, 0)", series).size).toBe(0);
      expect(at("abs(x) * sgn(x)", series)).toEqual(new Map([...x].map(([n, v]) => [n, v + 0])));
      expectClose(at("ln(exp(x))", series), x);
      expectClose(at("deg(rad(x))", series), x);
    }));
  });

  it("put series in order", () => {
    fc.assert(fc.property(gauges, (series) => {
      const sorted = valuesAt("sort(x)", series, NOW).map(([, value]) => value);
      expect(sorted).toEqual([...at("x", series).values()].sort((a, b) => a - b));
      expect(valuesAt("sort_desc(x)", series, NOW).map(([, value]) => value))
        .toEqual(sorted.toReversed());
      const names = valuesAt("sort_by_label(x, 'instance')", series, NOW).map(([name]) => name);
      expect(names).toEqual(names.toSorted());
      expect(valuesAt("sort_by_label_desc(x, 'instance')", series, NOW).map(([name]) => name))
        .toEqual(names.toReversed());
    }));
  });

  it("leave labels that nothing is done to", () => {
    fc.assert(fc.property(gauges, (series) => {
      const x = at("x", series);
      expect(at("label_replace(x, 'job', '$1', 'job', '(.*)')", series)).toEqual(x);
      expect(at("label_replace(x, 'job', 'z', 'job', 'none')", series)).toEqual(x);
      expect(at("label_join(x, 'job', '', 'job')", series)).toEqual(x);
      expect(at("label_replace(label_replace(x, 'd', 'e', '', ''), 'd', '', '', '')", series))
        .toEqual(x);
    }));
  });

  it("grow with the quantile of a histogram, and find it again as a fraction", () => {
    fc.assert(fc.property(histograms, (series) => {
      let before = -Infinity;
      for (const quantile of [0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1]) {
        const [value] = at(`histogram_quantile(${quantile}, h_bucket)`, series).values();
        if (Number.isNaN(value)) return;
        expect(value).toBeGreaterThanOrEqual(before);
        expect(value).toBeLessThanOrEqual(5);
        before = value!;
        const [below] = at(`histogram_fraction(-Inf, ${value}, h_bucket)`, series).values();
        // Beyond the last bound nothing can be told apart.
        if (value! > 0 && value! < 5) expect(below).toBeCloseTo(quantile, 6);
      }
    }));
  });
});

describe("labelsKey()", () => {
  const labels = fc.dictionary(
    fc.string({ unit: fc.constantFrom("a", "1", ":", "é"), minLength: 1, maxLength: 4 }),
    fc.string({ unit: fc.constantFrom("b", "2", ":", "\uffff"), minLength: 1, maxLength: 4 }),
    { maxKeys: 3, noNullPrototype: true },
  );
  const inOrder = (of: Labels) =>
    JSON.stringify(Object.entries(of).sort(([a], [b]) => a < b ? -1 : 1));

  it("tells apart what only the borders between names and values do", () => {
    const sets = [{ "a:b": "c" }, { a: "b:c" }, { a: "b", c: "d" }, { a: "bc:d" }, {
      a: "b1:c1:d",
    }];
    expect(new Set(sets.map(labelsKey)).size).toBe(sets.length);
  });

  it("is equal if and only if label sets are, whatever their order", () => {
    fc.assert(
      fc.property(labels, labels, (a, b) => {
        expect(labelsKey(a) === labelsKey(b)).toBe(inOrder(a) === inOrder(b));
        expect(labelsKey(Object.fromEntries(Object.entries(a).reverse()))).toBe(labelsKey(a));
      }),
      { numRuns: 1000 },
    );
  });
});
