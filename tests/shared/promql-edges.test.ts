import { describe, expect, it } from "vitest";
import { parseExpr } from "../../shared/promql/parse-expr.ts";
import {
  DEFAULT_LIMITS,
  DEFAULT_LOOKBACK,
  prepareQuery,
} from "../../shared/promql/prepare-query.ts";
import { type QueryOptions, runQuery } from "../../shared/promql/query.ts";
import type { SampledSeries, SampleSource } from "../../shared/promql/series.ts";
import { evaluate, MINUTE, refusal, sample, valuesAt, valuesOver } from "./promql-fixtures.ts";

/** One sample of value 1, at 1,000 seconds. */
const ONE: SampledSeries[] = [{ labels: { __name__: "x" }, times: [1_000_000], values: [1] }];
const AT = 1_000_000;

function isThere(text: string, time: number, options: Partial<QueryOptions> = {}): boolean {
  return valuesAt(text, ONE, time, options).length > 0;
}

describe("the lookback of an instant selector", () => {
  it("takes a sample from its time on, and not a millisecond earlier", () => {
    expect(isThere("x", AT)).toBe(true);
    expect(isThere("x", AT - 1)).toBe(false);
  });

  it("takes a sample until it is 5 minutes old, and not then", () => {
    expect(DEFAULT_LOOKBACK).toBe(5 * MINUTE);
    expect(isThere("x", AT + 5 * MINUTE - 1)).toBe(true);
    expect(isThere("x", AT + 5 * MINUTE)).toBe(false);
  });

  it("is as long as it is told", () => {
    expect(isThere("x", AT + 999, { lookback: 1000 })).toBe(true);
    expect(isThere("x", AT + 1000, { lookback: 1000 })).toBe(false);
  });

  it("shifts with offset and @, to the millisecond", () => {
    expect(isThere("x offset 1m", AT + MINUTE)).toBe(true);
    expect(isThere("x offset 1m", AT + MINUTE - 1)).toBe(false);
    expect(isThere("x offset -1ms", AT - 1)).toBe(true);
    expect(isThere("x @ 1000", 0)).toBe(true);
    expect(isThere("x @ 999.999", 0)).toBe(false);
    expect(isThere("x @ 1299.999", 0)).toBe(true);
    expect(isThere("x @ 1300", 0)).toBe(false);
  });
});

describe("a range", () => {
  it.each([
    ["count_over_time(x[1m])", MINUTE],
    ["count_over_time(x[1ms])", 1],
    ["count_over_time(x[1h])", 60 * MINUTE],
  ])("%s has the sample at its end, and not that at its beginning", (text, range) => {
    expect(isThere(text, AT - 1)).toBe(false);
    expect(isThere(text, AT)).toBe(true);
    expect(isThere(text, AT + range - 1)).toBe(true);
    expect(isThere(text, AT + range)).toBe(false);
  });

  it("of a subquery has the step at its end, and not that at its beginning", () => {
    const series = [sample("x 0+1x60")];
    const steps = (time: number) => {
      const { value } = evaluate("x[3m:1m]", series, { start: time });
      return value.type === "matrix" ? value.series.flatMap(({ times }) => times) : [];
    };
    expect(steps(10 * MINUTE)).toEqual([8, 9, 10].map((minute) => minute * MINUTE));
    expect(steps(10 * MINUTE - 1)).toEqual([7, 8, 9].map((minute) => minute * MINUTE));
    expect(steps(10 * MINUTE + 1)).toEqual([8, 9, 10].map((minute) => minute * MINUTE));
  });

  it("needs two samples for a rate, within itself", () => {
    const series = [sample("x_total 0 60")];
    expect(valuesAt("rate(x_total[2m])", series, MINUTE)).toEqual([["{}", 0.5]]);
    expect(valuesAt("rate(x_total[1m])", series, MINUTE)).toEqual([]);
    expect(valuesAt("rate(x_total[60001ms])", series, MINUTE)).toHaveLength(1);
  });

  it("extrapolates up to 1.1 times the distance of samples, and half of it beyond", () => {
    // Every 10 s from 100 to 200; both ends of the window are as far from samples as is told.
    const series = [sample("x 1+1x10", 10_000, 100_000)];
    const delta = (beyond: number) =>
      valuesAt(`delta(x[${100_000 + 2 * beyond}ms])`, series, 200_000 + beyond)[0]![1];
    expect(delta(0.001 * 10_000)).toBeCloseTo(10 + 2 * 0.001, 9);
    expect(delta(10_999)).toBeCloseTo(10 + 2 * 1.0999, 9);
    expect(delta(11_000)).toBeCloseTo(10 + 2 * 0.5, 9);
  });

  it("extrapolates a counter no further back than to zero", () => {
    const series = [sample("x_total 1 11 21 31", 10_000, 100_000)];
    // 1 is a second of growth: not the 5 that the window would allow.
    expect(valuesAt("increase(x_total[35s])", series, 130_000)[0]![1]).toBeCloseTo(31, 9);
    expect(valuesAt("delta(x_total[35s])", series, 130_000)[0]![1]).toBeCloseTo(35, 9);
  });
});

describe("the end of a series", () => {
  const series = [sample("x 1 2 stale _ 5")];

  it("is seen at once by a selector, until there is a sample again", () => {
    expect(valuesAt("x", series, 2 * MINUTE - 1)).toEqual([["x", 2]]);
    expect(valuesAt("x", series, 2 * MINUTE)).toEqual([]);
    expect(valuesAt("x", series, 4 * MINUTE - 1)).toEqual([]);
    expect(valuesAt("x", series, 4 * MINUTE)).toEqual([["x", 5]]);
  });

  it("is no sample of a range", () => {
    expect(valuesAt("count_over_time(x[5m])", series, 4 * MINUTE)).toEqual([["{}", 3]]);
    expect(valuesAt("sum_over_time(x[5m])", series, 4 * MINUTE)).toEqual([["{}", 8]]);
    expect(valuesAt("count_over_time(x[1m])", series, 2 * MINUTE)).toEqual([]);
    expect(valuesAt("absent_over_time(x[1m])", series, 2 * MINUTE)).toEqual([["{}", 1]]);
    expect(valuesAt("max_over_time(x[4m:1m])", series, 3 * MINUTE)).toEqual([["{}", 2]]);
  });

  it("is told apart from a sample that is NaN", () => {
    const numbers = [sample("x NaN")];
    expect(valuesAt("x", numbers, 0)).toEqual([["x", NaN]]);
    expect(valuesAt("count_over_time(x[1m])", numbers, 0)).toEqual([["{}", 1]]);
  });
});

describe("steps", () => {
  const series = [sample("x 0+1x60")];
  const over = (range: { start: number; end: number; step: number }) =>
    [...valuesOver("x", series, range).values()].flatMap(({ values }) => values);

  it("go from the start to the end, which need not be one", () => {
    expect(over({ start: 0, end: 4 * MINUTE, step: 2 * MINUTE })).toEqual([0, 2, 4]);
    expect(over({ start: 0, end: 4 * MINUTE - 1, step: 2 * MINUTE })).toEqual([0, 2]);
    expect(over({ start: 5, end: 5, step: 1 })).toEqual([0]);
  });

  it("are none if the end is before the start", () => {
    expect(evaluate("x", series, { start: 1, end: 0, step: 1 }).value)
      .toEqual({ type: "matrix", series: [] });
  });

  it("are refused unless they lead on", () => {
    for (const step of [0, -1, NaN]) {
      expect(() => evaluate("x", series, { start: 0, end: 1, step })).toThrow(RangeError);
    }
  });

  it.each([
    ["x[5m]", "range vector"],
    ["'a'", "string"],
  ])("refuse %s, which has no value at each", (text, type) => {
    expect(refusal(() => evaluate(text, series, { start: 0, end: 1, step: 1 })).message).toBe(
      `invalid expression type "${type}" for range query, must be Scalar or instant Vector`,
    );
  });
});

describe("an empty database", () => {
  it.each([
    ["x", []],
    ["rate(x[5m])", []],
    ["sum(x)", []],
    ["count(x) or vector(0)", [["{}", 0]]],
    [`absent(x{a="b",c=~"d"})`, [[`{a="b"}`, 1]]],
    ["absent_over_time(x[5m])", [["{}", 1]]],
    ["scalar(x)", [["scalar", NaN]]],
    ["x + on () vector(1)", []],
    ["histogram_quantile(0.9, x)", []],
    ["info(x)", []],
    ["topk(5, x)", []],
    ["1 + 1", [["scalar", 2]]],
  ])("answers %s", (text, expected) => {
    expect(valuesAt(text, [], AT)).toEqual(expected);
  });

  it("is not asked for what needs no samples", async () => {
    const source: SampleSource = { select: () => Promise.reject(new Error("asked")) };
    const run = (text: string) =>
      runQuery(prepareQuery(parseExpr(text), text, { start: AT }), source);
    expect((await run("1 + time()")).value).toEqual({ type: "scalar", time: AT, value: 1001 });
    await expect(run("x")).rejects.toThrow("asked");
  });
});

describe("values that are no numbers", () => {
  const series = [sample(`x{a="nan"} NaN`), sample(`x{a="inf"} Inf`), sample(`x{a="one"} 1`)];

  it.each([
    ["x > 0", [[`x{a="inf"}`, Infinity], [`x{a="one"}`, 1]]],
    ["x != x", [[`x{a="nan"}`, NaN]]],
    ["max(x)", [["{}", Infinity]]],
    ["min(x)", [["{}", 1]]],
    ["sum(x)", [["{}", NaN]]],
    [`max(x{a="nan"})`, [["{}", NaN]]],
    ["topk(1, x)", [[`x{a="inf"}`, Infinity]]],
    ["bottomk(1, x)", [[`x{a="one"}`, 1]]],
    ["sort(x)", [[`x{a="one"}`, 1], [`x{a="inf"}`, Infinity], [`x{a="nan"}`, NaN]]],
    ["sort_desc(x)", [[`x{a="inf"}`, Infinity], [`x{a="one"}`, 1], [`x{a="nan"}`, NaN]]],
    [`count_values("v", x{a!="one"})`, [[`{v="NaN"}`, 1], [`{v="+Inf"}`, 1]]],
  ])("are treated by %s as in Prometheus", (text, expected) => {
    expect(valuesAt(text, series, 0)).toEqual(expected);
  });

  it("divide without an error", () => {
    expect(valuesAt("1 / 0", [], 0)).toEqual([["scalar", Infinity]]);
    expect(valuesAt("-1 / 0", [], 0)).toEqual([["scalar", -Infinity]]);
    expect(valuesAt("0 / 0", [], 0)).toEqual([["scalar", NaN]]);
    expect(valuesAt("1 % 0", [], 0)).toEqual([["scalar", NaN]]);
  });
});

describe("names and values beyond ASCII", () => {
  const series = [
    sample(`{"höhe.m", "c d"="é", ort="東京"} 7`),
    sample(`x{e="😀"} 1`),
    sample(String.raw`x{e="a\nb"} 2`),
  ];

  it.each([
    [`{"höhe.m", "c d"="é"}`, [[`{"höhe.m", "c d"="é", ort="東京"}`, 7]]],
    [`{__name__="höhe.m"}`, [[`{"höhe.m", "c d"="é", ort="東京"}`, 7]]],
    [`sum by ("c d") ({"höhe.m"})`, [[`{"c d"="é"}`, 7]]],
    [`{"höhe.m", ort=~"東."} * 2`, [[`{"c d"="é", ort="東京"}`, 14]]],
    [`x{e=~"."}`, [[`x{e="😀"}`, 1]]],
    [`x{e=~"a.b"}`, [[`x{e="a\\nb"}`, 2]]],
    [`x{e="\\U0001F600"}`, [[`x{e="😀"}`, 1]]],
    [`label_replace(x{e="😀"}, "é f", "ü$1", "e", "(.*)")`, [[`x{e="😀", "é f"="ü😀"}`, 1]]],
  ])("are found by %s", (text, expected) => {
    expect(valuesAt(text, series, 0)).toEqual(expected);
  });
});

describe("errors of an evaluation", () => {
  const series = [
    sample(`x{a="1",b="1"} 1`),
    sample(`x{a="1",b="2"} 2`),
    sample(`y{a="1",b="1"} 3`),
    sample(`y{a="1",b="3"} 4`),
    sample(`z{a="1"} 5`),
  ];

  it.each([
    [
      "x + on (a) y",
      'found duplicate series for the match group {a="1"} on the right hand-side of the operation: ' +
      '[{__name__="y", a="1", b="1"}, {__name__="y", a="1", b="3"}];many-to-many matching not ' +
      "allowed: matching labels must be unique on one side",
    ],
    [
      "x + on (a) group_right () y",
      'found duplicate series for the match group {a="1"} on the left hand-side of the operation: ' +
      '[{__name__="x", a="1", b="1"}, {__name__="x", a="1", b="2"}];many-to-many matching not ' +
      "allowed: matching labels must be unique on one side",
    ],
    [
      "x + on (a) z",
      "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
    ],
    [
      "x + on (a) group_left (b) z",
      "multiple matches for labels: grouping labels must ensure unique matches",
    ],
    [`label_replace(x, "b", "", "", "")`, "vector cannot contain metrics with the same labelset"],
    [`-{__name__=~"x|y"}`, "vector cannot contain metrics with the same labelset"],
    [
      `max_over_time({__name__=~"x|y"}[1m:1s])`,
      "vector cannot contain metrics with the same labelset",
    ],
    ["topk(NaN, x)", "Parameter value is NaN"],
    ["topk(1e30, x)", "Scalar value 1e+30 overflows int64"],
    ["limit_ratio(NaN, x)", "Ratio value is NaN"],
    [`count_values("", x)`, 'invalid label name ""'],
    [`label_replace(x, "", "a", "b", "c")`, "invalid destination label name in label_replace(): "],
    [`label_replace(x, "a", "a", "b", "(")`, "invalid regular expression in label_replace(): ("],
    [
      "double_exponential_smoothing(x[1m], 1, 0.5)",
      "invalid smoothing factor. Expected: 0 < sf < 1, got: 1.000000",
    ],
    [
      "double_exponential_smoothing(x[1m], 0.5, 0)",
      "invalid trend factor. Expected: 0 < tf < 1, got: 0.000000",
    ],
  ])("%s: %s", (text, message) => {
    const error = refusal(() => evaluate(text, series, { start: 0 }));
    expect(error.message).toBe(message);
    expect(error.kind).toBe("execution");
  });
});

describe("limits", () => {
  const series = Array.from({ length: 4 }, (_, i) => sample(`x{i="${i}"} 0+1x9`));
  const range = { start: 0, end: 9 * MINUTE, step: MINUTE };

  it.each([
    ["steps", "x", 10, "query would take 10 steps, at most 9 may be"],
    ["samples", "x", 40, "query would take 40 samples, at most 39 may be"],
    ["series", "x", 4, "query would take 4 series at once, at most 3 may be"],
    ["values", "x", 40, "query would take more than 39 values (series × steps)"],
  ])("of %s are kept for %s: %i, and not one less", (limit, text, most, message) => {
    const run = (limits: object) => evaluate(text, series, { ...range, limits });
    expect(run({ [limit]: most }).value).toMatchObject({ type: expect.any(String) });
    const error = refusal(() => run({ [limit]: most - 1 }));
    expect(error.message).toContain(message);
    expect(error.message).toMatch(/: (take|select) /);
    expect(error.kind).toBe("limit");
  });

  it("of values bound the steps of a subquery, which may be more than those of a query", () => {
    const text = "sum_over_time(vector(1)[19m:1m])";
    const run = (values: number) =>
      evaluate(text, series, { start: 9 * MINUTE, limits: { steps: 1, values } });
    expect(run(20).value.type).toBe("vector");
    expect(refusal(() => run(19)).message).toContain("more than 19 values");
    expect(refusal(() => run(18)).message)
      .toContain("a subquery of 19 steps, at most 18 may be: take a longer step");
  });

  it("are those of Prometheus for steps unless told otherwise", () => {
    const count = (steps: number) =>
      evaluate("vector(1)", [], { start: 0, end: steps - 1, step: 1 });
    expect(DEFAULT_LIMITS.steps).toBe(11_000);
    expect(count(11_000).value.type).toBe("matrix");
    expect(refusal(() => count(11_001)).kind).toBe("limit");
  });

  it("of time end a query as soon as it is up", () => {
    for (const [text, least] of [["x", 1], ["sum(rate(x[5m])) + x", 3]] as const) {
      let asked = 0;
      const upAfter = (times: number) => ({ ...range, isTimeUp: () => ++asked > times });
      expect(evaluate(text, series, upAfter(Infinity)).value.type).toBe("matrix");
      const needed = asked;
      expect(needed).toBeGreaterThanOrEqual(least);
      asked = 0;
      const error = refusal(() => evaluate(text, series, upAfter(needed - 1)));
      expect([error.kind, error.message]).toEqual([
        "timeout",
        "query timed out in expression evaluation",
      ]);
      asked = 0;
      expect(evaluate(text, series, upAfter(needed)).value.type).toBe("matrix");
    }
  });
});

describe("what a query asks for", () => {
  const windows = (text: string, options: QueryOptions = { start: 10_000_000 }) =>
    prepareQuery(parseExpr(text), text, options).selections.map(({ from, until }) => [
      from - 10_000_000,
      until - 10_000_000,
    ]);

  it.each([
    ["x", [[-299_999, 0]]],
    ["x offset 1m", [[-359_999, -60_000]]],
    ["x offset -1m", [[-239_999, 60_000]]],
    ["x @ 9000", [[-1_299_999, -1_000_000]]],
    ["rate(x[1m])", [[-59_999, 0]]],
    ["rate(x[1m] offset 1m)", [[-119_999, -60_000]]],
    ["max_over_time(x[10m:1m])", [[-899_998, 0]]],
    ["max_over_time(rate(x[1m])[10m:1m] offset 5m)", [[-959_998, -300_000]]],
    ["max_over_time(x @ 9000 [10m:1m])", [[-1_299_999, -1_000_000]]],
    ["x + x", [[-299_999, 0]]],
    ["x + y", [[-299_999, 0], [-299_999, 0]]],
    ["x + x offset 1m", [[-299_999, 0], [-359_999, -60_000]]],
    ["sum(x) / count(x)", [[-299_999, 0]]],
    ["1 + time()", []],
  ])("is for %s as much as it looks at", (text, expected) => {
    expect(windows(text)).toEqual(expected);
  });

  it("reaches from the first step to the last that there is", () => {
    const range = { start: 10_000_000, end: 10_100_000, step: 30_000 };
    expect(windows("x", range)).toEqual([[-299_999, 90_000]]);
    expect(windows("x @ start()", range)).toEqual([[-299_999, 0]]);
    expect(windows("x @ end()", range)).toEqual([[-199_999, 100_000]]);
  });
});

describe("annotations", () => {
  const series = [
    sample(`gauge{a="1"} 0+1x20`),
    sample(`gauge{a="2"} 0+1x20`),
    sample(`h_bucket{le="1"} 5x20`),
    sample(`h_bucket{le="2"} 3x20`),
    sample(`h_bucket{le="+Inf"} 9x20`),
    sample(`h_bucket{le="odd"} 9x20`),
  ];
  const range = { start: 10 * MINUTE, end: 12 * MINUTE, step: MINUTE };

  it.each([
    [
      "rate(gauge[5m]) +\n rate(gauge[5m])",
      [],
      ["(1:6)", "(2:7)"].map((place) =>
        `PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: "gauge" ${place}`
      ),
    ],
    [
      "quantile(1.5, gauge)",
      ["PromQL warning: quantile value should be between 0 and 1, got 1.5 (1:10)"],
      [],
    ],
    [
      "quantile_over_time(-1, gauge[5m])",
      ["PromQL warning: quantile value should be between 0 and 1, got -1 (1:20)"],
      [],
    ],
    [
      "limit_ratio(2, gauge)",
      ["PromQL warning: ratio value should be between -1 and 1, got 2, capping to 1 (1:13)"],
      [],
    ],
    [
      "sort(gauge)",
      [
        "PromQL warning: sort is ineffective for range queries since results are always ordered by labels (1:1)",
      ],
      [],
    ],
  ])("of %j are told once, with their place", (text, warnings, infos) => {
    expect(evaluate(text, series, range)).toMatchObject({ warnings, infos });
  });

  it("of a histogram tell of buckets that are none, and of counts that fall", () => {
    const { warnings, infos } = evaluate("histogram_quantile(0.5, h_bucket)", series, range);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(
      /^PromQL warning: bucket label "le" is missing or has a malformed value of "odd".* \(1:25\)$/,
    );
    expect(infos).toHaveLength(1);
    expect(infos[0]).toMatch(
      /needed to be fixed for monotonicity .*from buckets 2 to 2, with a max diff of 2, over 3 samples from 1970-01-01T00:10:00Z to 1970-01-01T00:12:00Z \(1:25\)$/,
    );
  });

  it("are none where there is nothing to say", () => {
    const text = "quantile(1, gauge) + quantile(0, gauge) + count(delta(gauge[5m]))";
    expect(evaluate(text, series, range)).toMatchObject({ warnings: [], infos: [] });
    expect(evaluate("sort(gauge)", series, { start: 0 }).warnings).toEqual([]);
  });
});
