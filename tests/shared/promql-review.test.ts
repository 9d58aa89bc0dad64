import { describe, expect, it } from "vitest";
import { toPostgresPattern } from "../../shared/promql/match-labels.ts";
import { parseSeriesName } from "../../shared/promql/parse-expr.ts";
import type { SampledSeries } from "../../shared/promql/series.ts";
import { evaluate, MINUTE, refusal, sample, valuesAt, valuesOver } from "./promql-fixtures.ts";

const UP = [sample('up{i="1"} 1 2'), sample('up{i="2"} 4 5')];

/** As many series of `x` as that, each with one sample. */
const many = (count: number): SampledSeries[] =>
  Array.from({ length: count }, (_, i) => ({
    labels: { __name__: "x", i: String(i) },
    times: [0],
    values: [i],
  }));

describe("labels with names that any object has", () => {
  it.each<[string, [string, number][]]>([
    ['up{constructor=""}', [['up{i="1"}', 2], ['up{i="2"}', 5]]],
    ['up{toString=~"x?", i="1"}', [['up{i="1"}', 2]]],
    ['up{constructor!~".*O.*", i="1"}', [['up{i="1"}', 2]]],
    ["sum by (constructor, __proto__) (up)", [["{}", 7]]],
    ["up * on (i) group_left (valueOf) up", [['{i="1"}', 4], ['{i="2"}', 25]]],
    ['label_replace(up{i="1"}, "j", "[$1]", "constructor", "(.*)")', [['up{i="1", j="[]"}', 2]]],
    ['label_join(up{i="1"}, "j", "-", "constructor", "i")', [['up{i="1", j="-1"}', 2]]],
    ['sort_by_label(label_replace(up, "valueOf", "z", "i", "1"), "valueOf")', [
      ['up{i="2"}', 5],
      ['up{i="1", valueOf="z"}', 2],
    ]],
  ])("are absent from %s", (text, expected) => {
    expect(valuesAt(text, UP, MINUTE)).toEqual(expected);
  });

  it.each(["__proto__", "constructor"])("may be called %s", (name) => {
    const series = [{ ...UP[0]!, labels: parseSeriesName(`up{${name}="z"}`) }];
    expect(valuesAt(`up{${name}="z"}`, series, MINUTE)).toEqual([[`up{${name}="z"}`, 2]]);
    expect(valuesAt(`up{${name}!="z"}`, series, MINUTE)).toEqual([]);
    expect(valuesAt(`sum by (${name}) (up)`, series, MINUTE)).toEqual([[`{${name}="z"}`, 2]]);
    expect(valuesAt(`up * on () group_left (${name}) up`, series, MINUTE)).toEqual([
      [`{${name}="z"}`, 4],
    ]);
    expect(valuesAt(`sum without (${name}) (up)`, series, MINUTE)).toEqual([["{}", 2]]);
  });

  it("come from info metrics as others do", () => {
    const series = [
      sample('x{instance="a", job="j"} 1'),
      sample('target_info{instance="a", job="j", constructor="c", __proto__="p"} 1'),
    ];
    expect(valuesAt("info(x)", series, 0)).toEqual([
      ['x{__proto__="p", constructor="c", instance="a", job="j"}', 1],
    ]);
  });
});

describe("what a query takes", () => {
  /** Values looked at until time is up, if a look is taken after every hundred thousand at least. */
  const patience = (looks: number) => {
    let looked = 0;
    return () => ++looked > looks;
  };

  it("grows with the elements that one is matched with, not with their square", () => {
    const one = { labels: { __name__: "y" }, times: [0], values: [1] };
    const { value } = evaluate("x + on () group_left y", [...many(20_000), one], { start: 0 });
    expect(value).toMatchObject({ type: "vector", samples: { length: 20_000 } });
    expect(refusal(() => evaluate("x + on () y", [...many(2), one], { start: 0 })).message)
      .toContain(
        "many-to-one matching must be explicit",
      );
  });

  it.each([
    'count_values("v", vector(time()))',
    'x * on () group_left (v) count_values("v", vector(time()))',
    'histogram_quantiles(label_replace(vector(1), "le", "+Inf", "", ""), "q", time())',
  ])("is refused before it is held: %s", (text) => {
    const run = (values: number) =>
      evaluate(text, many(20), { start: 0, end: 2_000_000, step: 1000, limits: { values } });
    const error = refusal(() => run(1_000_000));
    expect([error.kind, error.message]).toEqual([
      "limit",
      expect.stringMatching(/more than 1000000 values/),
    ]);
  });

  it("is looked at within a single series with long windows", () => {
    const count = 20_000;
    const series = [{
      labels: { __name__: "x" },
      times: Array.from({ length: count }, (_, i) => i),
      values: Array.from({ length: count }, (_, i) => i % 7),
    }];
    const range = { start: 0, end: 100_000, step: 1000 };
    const run = (looks: number) =>
      evaluate("sum_over_time(x[1d])", series, { ...range, isTimeUp: patience(looks) });
    // Nearly two million values, in all.
    expect(refusal(() => run(10)).kind).toBe("timeout");
    expect(run(30).value.type).toBe("matrix");
  });

  it("is looked at while info series are sought", () => {
    const infos = Array.from(
      { length: 300 },
      (_, i) => sample(`n${i}_info{instance="a", job="j", l${i}="v"} 1`),
    );
    const run = (looks: number) =>
      evaluate('info(x, {__name__=~".+_info"})', [...infos, sample('x{instance="a", job="j"} 1')], {
        ...{ start: 0, end: 1000, step: 1, isTimeUp: patience(looks) },
      });
    expect(refusal(() => run(3)).kind).toBe("timeout");
    expect(run(10).value.type).toBe("matrix");
  });

  it("is 32 million characters of labels, and none more", () => {
    const long = "x".repeat(4000);
    const replaced = (times: number, more = "") =>
      `label_replace(label_replace(vector(1), "a", "${long}", "", ""), "b", ` +
      `"${more}${"$1".repeat(times)}", "a", "(.*)")`;
    // Each replacement counts as it is written and with what it takes in.
    const rest = 32_000_000 - 4000 - 7995 * 4002;
    const exact = replaced(7995, "y".repeat(rest));
    expect(evaluate(exact, [], { start: 0 }).value.type).toBe("vector");
    const error = refusal(() => evaluate(replaced(7995, "y".repeat(rest + 1)), [], { start: 0 }));
    expect([error.kind, error.message]).toEqual([
      "limit",
      expect.stringContaining("32000000 characters of labels"),
    ]);
    const doubled = Array.from({ length: 40 }).reduce<string>(
      (inner) => `label_join(${inner}, "a", "", "a", "a")`,
      'label_replace(vector(1), "a", "x", "", "")',
    );
    expect(refusal(() => evaluate(doubled, [], { start: 0 })).kind).toBe("limit");
  });

  it("is no more for a class that Postgres might not read alike", () => {
    expect(toPostgresPattern(`[${"a-b".repeat(2000)}\\w]`)).toBeUndefined();
    expect(toPostgresPattern("[a-bx_-]+")).toBe("[a-bx_-]+");
  });
});

describe("matching one to one", () => {
  const range = { start: 0, end: MINUTE, step: MINUTE };

  it("takes no offence at several where there is nothing to match them with, as Prometheus", () => {
    expect(valuesAt("nope * on () up", UP, MINUTE)).toEqual([]);
    expect(valuesAt("up * on () group_right () nope", UP, MINUTE)).toEqual([]);
    const late = sample("late _ 3");
    expect(refusal(() => valuesOver("late * on () up", [...UP, late], range)).message)
      .toContain("many-to-many matching not allowed");
    const early = sample("early 3 stale");
    const apart = [sample('one{i="1"} 1 1'), sample('one{i="2"} _ 2'), early];
    expect([...valuesOver("early * on () one", apart, range).values()]).toEqual([
      { labels: {}, values: [3, undefined] },
    ]);
  });

  it("finds several at a step though they come one after the other before", () => {
    const series = [
      sample('one{i="1"} 1 stale 1'),
      sample('one{i="2"} _ 2 stale'),
      sample('one{i="3"} _ _ 3'),
      sample("x 1 1 1"),
    ];
    expect([...valuesOver("x * on () one", series, range).values()]).toEqual([
      { labels: {}, values: [1, 2] },
    ]);
    const error = refusal(() => valuesOver("x * on () one", series, { ...range, end: 2 * MINUTE }));
    expect(error.message).toContain('[{__name__="one", i="1"}, {__name__="one", i="3"}]');
  });
});

describe("values and times at the edges", () => {
  it("counts 0 and -0 apart", () => {
    const series = [sample("x 0"), sample('x{i="1"} -0'), sample('x{i="2"} 0')];
    expect(valuesAt('count_values("v", x)', series, 0)).toEqual([
      ['{v="0"}', 2],
      ['{v="-0"}', 1],
    ]);
    // Within one series as well.
    const both = valuesOver('count_values("v", y)', [sample("y 0 -0")], {
      ...{ start: 0, end: MINUTE, step: MINUTE },
    });
    expect([...both.values()].map(({ labels, values }) => [labels, values])).toEqual([
      [{ v: "-0" }, [undefined, 1]],
      [{ v: "0" }, [1, undefined]],
    ]);
  });

  it("gives each quantile its own values, to change one without the others", () => {
    const text = 'histogram_quantiles(b, "q", scalar(q)) * 10';
    const series = [
      sample('b{le="1"} 10 10'),
      sample('b{le="+Inf"} 10 10'),
      sample("q 0.5 1"),
    ];
    const found = valuesOver(text, series, { start: 0, end: MINUTE, step: MINUTE });
    expect([...found.values()].map(({ labels, values }) => [labels, values])).toEqual([
      [{ q: "0.5" }, [5, undefined]],
      [{ q: "1.0" }, [undefined, 10]],
    ]);
  });

  it("tells of fallen buckets at a time that no date reaches", () => {
    const buckets = 'label_replace(vector(2), "le", "1", "", "") or ' +
      'label_replace(vector(1), "le", "+Inf", "", "")';
    const run = (at: string) =>
      evaluate(`max_over_time(histogram_quantile(0.5, ${buckets})[1m:1m] @ ${at})`, [], {
        start: 0,
      }).infos;
    expect(run("8640000000000")).toEqual([expect.stringContaining("from +275760-09-13T00:00:00Z")]);
    expect(run("8640000000060")).toEqual([expect.stringContaining("from 8640000000060 to")]);
  });

  it("cuts a time before 1970 towards it, as dates of samples are", () => {
    expect(valuesAt("minute()", [], -500)).toEqual([["{}", 0]]);
    expect(valuesAt("minute(vector(-0.5))", [], 0)).toEqual([["{}", 0]]);
    expect(valuesAt("minute()", [], -1000)).toEqual([["{}", 59]]);
  });

  it("sorts numbers in labels, however long, by their size", () => {
    const values = ["9", "10", "010", `1${"0".repeat(400)}`, `2${"0".repeat(399)}`, "a"];
    const series = values.map((value) => sample(`x{n="${value}"} 1`));
    const { value } = evaluate('sort_by_label(x, "n")', series, { start: 0 });
    expect(value.type === "vector" && value.samples.map(({ labels }) => labels.n)).toEqual([
      "9",
      "010",
      "10",
      `2${"0".repeat(399)}`,
      `1${"0".repeat(400)}`,
      "a",
    ]);
  });
});
