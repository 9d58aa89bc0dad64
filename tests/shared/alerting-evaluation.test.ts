import { describe, expect, it } from "vitest";
import {
  type AlertInstance,
  alertSamples,
  INSTANCE_LIMIT,
  prepareRules,
  type RuleWithState,
} from "../../shared/alerting/evaluate-rules.ts";
import type { AlertingRule, NoDataPolicy, Rule } from "../../shared/alerting/rule.ts";
import { parseExpr } from "../../shared/promql/parse-expr.ts";
import { prepareQuery } from "../../shared/promql/prepare-query.ts";
import type { Labels } from "../../shared/promql/series.ts";
import {
  alerting,
  at,
  evaluate,
  evaluateAll,
  iso,
  MINUTE,
  run,
  seriesOf,
  START,
} from "./alerting-runs.ts";

describe("prepareRules(), alerts", () => {
  it("fires at once without `for`, with labels of series and rule", () => {
    const rule = alerting({
      labels: { severity: "page", job: "{{ $labels.job }}-{{ $value }}", none: "" },
      annotations: {
        summary: "{{ $labels.__name__ }} of {{ $labels.job }} is {{ $value }}",
        empty: "",
      },
    });
    const { instances, transitions, health, error, samples } = evaluate(
      rule,
      seriesOf('x{job="a",none="n"} 7', 'x{job="b"} 5'),
      0,
    );
    expect([health, error, samples]).toEqual(["ok", null, []]);
    expect(instances).toEqual([{
      labels: { job: "a-7", severity: "page", alertname: "High" },
      annotations: { summary: "x of a is 7", empty: "" },
      state: "firing",
      last_value: "7",
      active_at: iso(0),
      fired_at: iso(0),
      keep_firing_since: null,
      last_sample_at: iso(0),
      no_data: false,
    }]);
    expect(transitions).toEqual([{
      labels: { job: "a-7", severity: "page", alertname: "High" },
      annotations: { summary: "x of a is 7", empty: "" },
      ...{ from: "inactive", to: "firing", at: at(0), value: 7 },
    }]);
  });

  it.each([
    [119, "p p f f"],
    [120, "p p f f"],
    [121, "p p p f"],
  ])("is pending for %d s and fires when they are over", (forSeconds, states) => {
    expect(run(alerting({ forSeconds }), seriesOf("x 6x10"), 4).states).toBe(states);
  });

  it("begins anew when the condition did not hold in between", () => {
    const { states, changes } = run(alerting({ forSeconds: 120 }), seriesOf("x 6 6 5 6 6 6 5"), 7);
    expect(states).toBe("p p - p p f -");
    expect(changes).toEqual([
      ...["0: inactive to pending", "2: pending to inactive", "3: inactive to pending"],
      ...["5: pending to firing", "6: firing to inactive"],
    ]);
  });

  it.each([
    [0, "f - - - -"],
    [119, "f f f - -"],
    [120, "f f f - -"],
    [121, "f f f f -"],
  ])("keeps firing for %d s after the condition held", (keepFiringForSeconds, states) => {
    expect(run(alerting({ keepFiringForSeconds }), seriesOf("x 6 1x10"), 5).states).toBe(states);
  });

  it("keeps firing anew each time the condition holds again, but never what only was pending", () => {
    expect(run(alerting({ keepFiringForSeconds: 120 }), seriesOf("x 6 1 6 1x10"), 6).states).toBe(
      "f f f f f -",
    );
    expect(
      run(alerting({ keepFiringForSeconds: 120, forSeconds: 60 }), seriesOf("x 6 1 1"), 3).states,
    ).toBe("p - -");
  });

  it("takes value and annotations of each evaluation", () => {
    const { instances } = run(
      alerting({ annotations: { now: "{{ $value }}" } }),
      seriesOf("x 6 7 8"),
      3,
    );
    expect(instances[0]).toMatchObject({
      last_value: "8",
      annotations: { now: "8" },
      active_at: iso(0),
      last_sample_at: iso(2),
    });
  });

  it("knows values that JSON does not", () => {
    const [none, infinite] = [alerting({ expr: "0 * x / 0 != 1" }), alerting({ expr: "x / 0" })];
    expect(evaluate(none, seriesOf("x 6"), 0).transitions[0]!.value).toBeNaN();
    const outcome = evaluate(infinite, seriesOf("x 6"), 0);
    expect([outcome.instances[0]!.last_value, outcome.transitions[0]!.value]).toEqual([
      "+Inf",
      Infinity,
    ]);
  });

  it("answers queries of templates that are spelled out, and says what is wrong with others", () => {
    const rule = alerting({
      annotations: {
        known: '{{ query "sum(y)" | first | value }}',
        made: '{{ query (printf "max(%s)" "y") | first | value }}',
        broken: '{{ query "sum(" }}',
      },
    });
    const { instances } = evaluate(rule, seriesOf("x 6", 'y{a="1"} 1', 'y{a="2"} 2'), 0);
    expect(instances[0]!.annotations).toEqual({
      known: "3",
      made: expect.stringContaining("only a query that the template spells out"),
      broken: expect.stringMatching(/error calling query: 1:\d+: parse error/),
    });
  });

  it("knows external labels and URL", () => {
    const rule = alerting({ annotations: { a: "{{ $externalLabels.region }} {{ externalURL }}" } });
    const options = { externalLabels: { region: "eu" }, externalUrl: "https://monitor" };
    expect(evaluate(rule, seriesOf("x 6"), 0, [], options).instances[0]!.annotations).toEqual({
      a: "eu https://monitor",
    });
  });

  it("evaluates at an earlier time with query_offset", () => {
    const rules = [{
      group: { name: "g", queryOffsetSeconds: 60 },
      rule: alerting(),
      instances: [],
    }];
    const series = seriesOf("x 5 6 5");
    expect(evaluateAll(rules, series, 1)[0]!.instances).toEqual([]);
    expect(evaluateAll(rules, series, 2)[0]!.instances).toMatchObject([{
      last_value: "6",
      active_at: iso(2),
    }]);
  });
});

describe("prepareRules(), errors", () => {
  const series = seriesOf('x{a="1",b="1"} 6', 'x{a="1",b="2"} 7');
  const [before] = [evaluate(alerting(), series, 0).instances];

  it.each<[string, Partial<AlertingRule>, string | RegExp]>([
    ["an expression that is none", { expr: "sum(x" }, /^1:\d+: parse error/],
    ["a result that is no vector", { expr: "x[5m]" }, "rule result is not a vector or scalar"],
    ["a join that cannot be", { expr: "x * on (a) x" }, /many-to-many|duplicate series/],
    [
      "alerts that are the same",
      { labels: { b: "" } },
      "vector contains metrics with the same labelset after applying alert labels",
    ],
  ])("leaves the state as it is after %s", (_, changes, message) => {
    const outcome = evaluate(alerting(changes), series, 1, before);
    expect(outcome).toEqual({
      health: "err",
      error: typeof message === "string" ? message : expect.stringMatching(message),
      instances: before,
      transitions: [],
      samples: [],
    });
  });

  it("goes on with the other rules", () => {
    const rules = ["x > 5", "sum(", "x > 6"].map((expr) => ({
      group: { name: "g" },
      rule: alerting({ expr }),
      instances: [],
    }));
    expect(evaluateAll(rules, series, 0).map(({ health, instances }) => [health, instances.length]))
      .toEqual([
        ["ok", 2],
        ["err", 0],
        ["ok", 1],
      ]);
  });

  it("has no more alerts than the group allows, nor than anyone may", () => {
    const limited = (limit: number, count: number) =>
      evaluateAll(
        [{ group: { name: "g", limit }, rule: alerting(), instances: [] }],
        many(count),
        0,
      )[0]!.error;
    const many = (count: number) =>
      seriesOf(...Array.from({ length: count }, (_, index) => `x{i="${index}"} 6`));
    expect(limited(2, 2)).toBeNull();
    expect(limited(2, 3)).toBe("exceeded limit of 2 with 3 alerts");
    expect(limited(0, INSTANCE_LIMIT)).toBeNull();
    expect(limited(0, INSTANCE_LIMIT + 1)).toBe(
      `exceeded limit of ${INSTANCE_LIMIT} with ${INSTANCE_LIMIT + 1} alerts`,
    );
  });

  it.each([1, 0])("records no more than 1,000 series, %d above it none", (above) => {
    const rule: Rule = { kind: "recording", name: "r", expr: "x", labels: {} };
    const lines = Array.from({ length: 1000 + above }, (_, index) => `x{i="${index}"} 6`);
    const [outcome] = evaluateAll(
      [{ group: { name: "g" }, rule, instances: [] }],
      seriesOf(...lines),
      0,
    );
    expect([outcome!.samples.length, outcome!.error]).toEqual(
      above ? [0, "exceeded limit of 1000 with 1001 series"] : [1000, null],
    );
  });

  it("lets the alerts of which nothing is known longest give way before there are too many", () => {
    const rule = alerting({ noDataPolicy: "keep" });
    const group = { name: "g", limit: 3 };
    let instances: readonly AlertInstance[] = [];
    const step = (minute: number, ...lines: string[]) => {
      const [outcome] = evaluateAll([{ group, rule, instances }], seriesOf(...lines), minute);
      instances = outcome!.instances;
      const queues = instances.map(({ labels, no_data }) => labels["q"] + (no_data ? "?" : ""));
      return { queues, ended: outcome!.transitions.filter(({ to }) => to === "inactive"), outcome };
    };
    const past = ['x{q="a"} 6 stale', 'x{q="b"} _ 6 stale'];
    step(0, ...past);
    step(1, ...past);
    expect(step(2, ...past, 'x{q="c"} _x2 6').queues).toEqual(["c", "b?", "a?"]);
    const { queues, ended } = step(3, ...past, 'x{q="c"} _x2 6 6', 'x{q="d"} _x3 6');
    expect(queues).toEqual(["c", "d", "b?"]);
    expect(ended).toMatchObject([{ labels: { q: "a" }, from: "firing", at: at(3) }]);
    const many = ["c", "d", "e", "f"].map((q) => `x{q="${q}"} 6x5`);
    expect(step(4, ...past, ...many).outcome).toMatchObject({
      error: "exceeded limit of 3 with 4 alerts",
      instances: [{}, {}, {}],
    });
  });

  it("makes nothing that cannot be stored, of which one would keep all from being stored", () => {
    const rule = alerting({
      expr: `label_replace(x, "made", "a\\x00b", "", "") > 5`,
      labels: { own: '{{ "\\x00" }}' },
      annotations: { text: '{{ "\\x00" }}é😀' },
    });
    expect(evaluate(rule, seriesOf("x 6"), 0).instances).toMatchObject([{
      labels: { made: "a\uFFFDb", own: "\uFFFD" },
      annotations: { text: "\uFFFDé😀" },
    }]);
    const half = alerting({ annotations: { text: "\uD83D and \uD83D\uDE00" } });
    expect(evaluate(half, seriesOf("x 6"), 0).instances[0]!.annotations).toEqual({
      text: "\uFFFD and \uD83D\uDE00",
    });
    const [recorded] = evaluateAll(
      [{
        group: { name: "g" },
        rule: { kind: "recording", name: "r", expr: rule.expr, labels: {} },
        instances: [],
      }],
      seriesOf("x 6"),
      0,
    );
    expect(recorded!.samples).toMatchObject([{ labels: { made: "a\uFFFDb" } }]);
  });

  it("is not held up by times ahead, of a clock that has been put right", () => {
    const rule = alerting({ forSeconds: 120, noDataPolicy: "keep" });
    const ahead = evaluate(rule, seriesOf("x 6x100"), 100).instances;
    const series = seriesOf("x 6x4 1 1");
    const now = evaluate(rule, series, 0, ahead).instances;
    expect(now).toMatchObject([{ state: "pending", active_at: iso(0), last_sample_at: iso(0) }]);
    expect(evaluate(rule, series, 1, now).instances).toMatchObject([{ state: "pending" }]);
    expect(evaluate(rule, series, 2, now).instances).toMatchObject([{ state: "firing" }]);
    const unknown = evaluate(rule, [], 0, ahead).instances;
    expect(unknown).toMatchObject([{ no_data: true, last_sample_at: iso(0) }]);
    expect(evaluate(rule, series, 5, unknown).instances).toEqual([]);
  });

  it("does not begin a rule when the time is up, and takes limits of queries", () => {
    expect(evaluate(alerting(), series, 1, before, { isTimeUp: () => true })).toMatchObject({
      health: "err",
      instances: before,
    });
    expect(evaluate(alerting(), series, 1, before, { limits: { samples: 1 } })).toMatchObject({
      health: "err",
      instances: before,
    });
  });
});

describe("prepareRules(), recording rules", () => {
  const record = (name: string, expr: string, labels: Labels = {}): RuleWithState => ({
    group: { name: "g", labels: { tier: "1" } },
    rule: { kind: "recording", name, expr, labels },
    instances: [],
  });

  it("writes the result under its name, labels of the rule over those of the group", () => {
    const [outcome] = evaluateAll(
      [record("a:x", "x", { tier: "2", b: "" })],
      seriesOf('x{a="1",b="1"} 6'),
      0,
    );
    expect(outcome!.samples).toEqual([{
      labels: { __name__: "a:x", a: "1", tier: "2" },
      value: 6,
      time: START,
    }]);
  });

  it("shows what it wrote to the rules after it, in place of what was there, and not to those before", () => {
    const rules = [
      record("early", "sum_x + 1"),
      record("sum_x", "sum(x)"),
      record("late", "sum_x + 1"),
      record("over", "count_over_time(sum_x[5m])"),
    ];
    const outcomes = evaluateAll(
      rules,
      seriesOf('x{a="1"} 1 2', 'x{a="2"} 1 2', 'sum_x{tier="1"} 2 99'),
      1,
    );
    expect(outcomes.map(({ samples }) => samples[0]?.value)).toEqual([100, 4, 5, 2]);
  });

  it("takes a scalar as one sample, and refuses a text", () => {
    const [scalar, text] = evaluateAll([record("one", "1"), record("text", '"a"')], [], 0);
    expect(scalar!.samples).toEqual([{
      labels: { __name__: "one", tier: "1" },
      value: 1,
      time: START,
    }]);
    expect(text!.error).toBe("rule result is not a vector or scalar");
  });

  it("refuses series that become the same", () => {
    const [outcome] = evaluateAll([record("a", '{__name__=~"x|y"}')], seriesOf("x 1", "y 1"), 0);
    expect(outcome!.error).toBe(
      "vector contains metrics with the same labelset after applying rule labels",
    );
  });

  it("writes no more series than the group allows", () => {
    const limited = (limit: number) =>
      evaluateAll(
        [{ ...record("a", "x"), group: { name: "g", limit } }],
        seriesOf('x{a="1"} 1', 'x{a="2"} 1'),
        0,
      )[0]!.error;
    expect(limited(2)).toBeNull();
    expect(limited(1)).toBe("exceeded limit of 1 with 2 series");
  });
});

describe("prepareRules(), selections", () => {
  it("asks once for what several rules need, as long as any of them does", () => {
    const rules = ["x > 1", "rate(x[10m]) > 1", "y > 1"].map((expr) => ({
      group: { name: "g" },
      rule: alerting({ expr }),
      instances: [],
    }));
    const { selections } = prepareRules(rules, START);
    expect(selections.map(({ matchers }) => matchers[0]!.value)).toEqual(["x", "y"]);
    const longest = prepareQuery(parseExpr("rate(x[10m])"), "", { start: START }).selections[0]!;
    expect(selections[0]).toEqual(longest);
  });

  it("does not ask for what lies between two times that are far apart", () => {
    const rules = ["x > 1", "x offset 1w > 1", "x @ 0 > 1"].map((expr) => ({
      group: { name: "g" },
      rule: alerting({ expr }),
      instances: [],
    }));
    const { selections } = prepareRules(rules, START);
    expect(selections.map(({ until }) => until)).toEqual([START, START - 7 * 1440 * MINUTE, 0]);
    expect(selections.every(({ from, until }) => until - from <= 5 * MINUTE)).toBe(true);
  });
});

describe("prepareRules(), no-data policy", () => {
  const GONE = "x 6 6 6 _x20";

  it.each<[NoDataPolicy, string]>([
    ["ok", "f f f f f f f - - -"],
    ["keep", "f f f f f f f f? f? f?"],
    ["alert", "f f f f f f f f? f? f?"],
  ])("%s: a firing alert whose series ended", (noDataPolicy, states) => {
    expect(run(alerting({ noDataPolicy }), seriesOf(GONE), 10).states).toBe(states);
  });

  it.each<[NoDataPolicy, string]>([
    ["ok", "p p p p p p p - -"],
    ["keep", "p p p p p p p p? p?"],
    ["alert", "p p p p p p p f? f?"],
  ])("%s: a pending alert whose series ended", (noDataPolicy, states) => {
    expect(run(alerting({ noDataPolicy, forSeconds: 3600 }), seriesOf(GONE), 9).states).toBe(
      states,
    );
  });

  it("resolves as soon as a sample says so, and keeps firing then as long as the rule wants", () => {
    const rule = alerting({ noDataPolicy: "keep", keepFiringForSeconds: 120 });
    const { states, changes } = run(rule, seriesOf("x 6 _x8 1x5"), 13);
    expect(states).toBe("f f f f f f? f? f? f? f f - -");
    expect(changes).toEqual(["0: inactive to firing", "11: firing to inactive"]);
  });

  it("goes on as if nothing had been when a sample says that it still holds", () => {
    const { states, instances } = run(
      alerting({ noDataPolicy: "keep", forSeconds: 600 }),
      seriesOf("x 6 _x8 6x5"),
      12,
    );
    expect(states).toBe("p p p p p p? p? p? p? p f f");
    expect(instances[0]!.active_at).toBe(iso(0));
  });

  it("says of one series only what is known of that one", () => {
    const rule = alerting({ noDataPolicy: "keep" });
    const series = seriesOf('x{q="a"} 6 _x20', 'x{q="b"} 6 1x20', 'y{q="a"} 1x20');
    const { instances } = run(rule, series, 10);
    expect(instances.map(({ labels, no_data }) => [labels["q"], no_data])).toEqual([["a", true]]);
  });

  it.each<NoDataPolicy>(["keep", "alert", "ok"])(
    "resolves with %s by the next sample, though that is of the minute of an evaluation which came too early for it",
    (noDataPolicy) => {
      const rule = alerting({ noDataPolicy, forSeconds: 600 });
      // Minute 1 is evaluated when only minute 0 is known, minute 2 when minute 1 is.
      const early = evaluate(rule, seriesOf("x 6"), 1);
      expect(early.instances).toMatchObject([{ state: "pending", last_sample_at: iso(0) }]);
      const next = evaluate(rule, seriesOf("x 6 1"), 2, early.instances);
      expect(next.instances).toEqual([]);
      expect(next.transitions).toMatchObject([{ from: "pending", to: "inactive" }]);
    },
  );

  it("is not misled by samples that leave a range", () => {
    // From minute 8 on one sample is left in the range, of which there is no rate.
    const rule = alerting({ expr: "rate(x[5m]) > 0", noDataPolicy: "keep" });
    expect(run(rule, seriesOf("x 0 10 20 30 _x20"), 12).states).toBe(
      "- f f f f f f f? f? f? f? f?",
    );
  });

  it("takes an end that was marked for no data", () => {
    expect(run(alerting({ noDataPolicy: "keep" }), seriesOf("x 6 stale"), 4).states).toBe(
      "f f? f? f?",
    );
  });

  it("finds the series of an aggregate", () => {
    const rule = alerting({ expr: "sum by (q) (x) > 5", noDataPolicy: "keep" });
    expect(run(rule, seriesOf('x{q="a",r="1"} 6 1'), 2).states).toBe("f -");
    expect(run(rule, seriesOf('x{q="a",r="1"} 6 stale', 'x{q="b"} 1x5'), 3).states).toBe("f f? f?");
  });

  it("has data as long as one side of a ratio has", () => {
    const rule = alerting({ expr: "failed / on (q) total > 0.5", noDataPolicy: "keep" });
    expect(run(rule, seriesOf('failed{q="a"} 6 stale', 'total{q="a"} 6x5'), 3).states).toBe(
      "f - -",
    );
    expect(run(rule, seriesOf('failed{q="a"} 6 stale', 'total{q="a"} 6 stale'), 3).states).toBe(
      "f f? f?",
    );
  });

  it("does not look for labels that the expression or the rule made up", () => {
    const expr = 'label_replace(x, "q", "other", "", "") > 5';
    const rule = alerting({ expr, labels: { r: "made" }, noDataPolicy: "keep" });
    expect(run(rule, seriesOf('x{q="a",r="b"} 6 1'), 2).states).toBe("f -");
    const counted = alerting({ expr: 'count_values("q", x) > 0', noDataPolicy: "keep" });
    expect(run(counted, seriesOf('x{q="a"} 6 stale 6', "y 1x5"), 2).states).toBe("f f?");
  });

  it("resolves an alert about what is absent when it comes", () => {
    expect(
      run(alerting({ expr: "absent(x)", noDataPolicy: "keep" }), seriesOf("x _x3 1x3"), 5).states,
    ).toBe("f f f - -");
  });

  it("knows what needs no data", () => {
    const rule = alerting({ expr: "minute() < 2", noDataPolicy: "keep" });
    expect(run(rule, [], 4).states).toBe("f f - -");
  });

  it("sees with an offset what comes into sight", () => {
    const rule = alerting({ expr: "x offset 2m > 5", noDataPolicy: "keep" });
    expect(run(rule, seriesOf("x 6 1 1 1 1 1"), 5).states).toBe("- - f - -");
    expect(run(rule, seriesOf("x 6 stale"), 5).states).toBe("- - f f? f?");
  });
});

describe("alertSamples()", () => {
  it("are the series that Prometheus writes of alerts", () => {
    const { instances } = evaluate(alerting({ forSeconds: 60 }), seriesOf('x{a="1"} 6'), 0);
    expect(alertSamples(instances, START)).toEqual([
      {
        labels: { __name__: "ALERTS", alertname: "High", a: "1", alertstate: "pending" },
        value: 1,
        time: START,
      },
      {
        labels: { __name__: "ALERTS_FOR_STATE", alertname: "High", a: "1" },
        value: START / 1000,
        time: START,
      },
    ]);
  });
});
