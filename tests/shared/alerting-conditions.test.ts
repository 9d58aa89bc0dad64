import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type AlertInstance,
  prepareRules,
  type RuleOutcome,
} from "../../shared/alerting/evaluate-rules.ts";
import { countHeld, rememberEvaluation } from "../../shared/alerting/recent-evaluations.ts";
import {
  type AlertingRule,
  type Hold,
  NO_DATA_POLICIES,
  type NoDataPolicy,
} from "../../shared/alerting/rule.ts";
import { labelsKey } from "../../shared/promql/labels-key.ts";
import type { SampledSeries } from "../../shared/promql/series.ts";
import {
  alerting,
  evaluate,
  evaluateAll,
  fromDatabase,
  iso,
  MINUTE,
  run,
  seriesOf,
  START,
} from "./alerting-runs.ts";

/** What an evaluation finds, or why there is none. */
type Event = "held" | "not" | "unknown" | "failed" | "missed";

/** Looks at the sample of the minute and at no other, so that a minute without one is unknown. */
const NOW = "last_over_time(x[1m])";

/** Evaluates a rule on these events, one an interval. Gives what was evaluated, and the states after each event. */
function replay(rule: AlertingRule, events: readonly Event[], intervalSeconds = 60) {
  let instances: readonly AlertInstance[] = [];
  // The minutes in which evaluations are: the first of each slot.
  const minutes = events.map((_, index) => Math.ceil(index * intervalSeconds / 60));
  const values = { held: 6, not: 1, unknown: undefined, failed: 6, missed: 6 };
  const samples = events.flatMap((event, index) => {
    const value = values[event];
    return value === undefined ? [] : [{ time: START + minutes[index]! * MINUTE, value }];
  });
  const series: SampledSeries = {
    labels: { __name__: "x" },
    times: samples.map(({ time }) => time),
    values: samples.map(({ value }) => value),
  };
  const outcomes: (RuleOutcome | undefined)[] = [];
  const states = events.map((event, index) => {
    let outcome: RuleOutcome | undefined;
    if (event !== "missed") {
      const group = { name: "g", intervalSeconds };
      const options = event === "failed" ? { isTimeUp: () => true } : {};
      [outcome] = evaluateAll([{ group, rule, instances }], [series], minutes[index]!, options);
      expect(outcome!.health).toBe(event === "failed" ? "err" : "ok");
      instances = fromDatabase(outcome!.instances);
    }
    outcomes.push(outcome);
    return instances[0]?.state[0] ?? "-";
  });
  return { states, outcomes };
}

const holding = (hold: Hold, changes: Partial<AlertingRule> = {}) =>
  alerting({ expr: `${NOW} > 5`, hold, ...changes });

const holds = fc.integer({ min: 1, max: 6 }).chain((window) =>
  fc.record({ count: fc.integer({ min: 1, max: window }), window: fc.constant(window) })
);
const policies = fc.constantFrom(...NO_DATA_POLICIES);
const intervals = fc.constantFrom(60, 90, 300);
const eventsOf = (...events: Event[]) =>
  fc.array(fc.constantFrom(...events), { minLength: 1, maxLength: 30 });

describe("prepareRules(), N of M", () => {
  it.each<[number, number, string, string]>([
    [1, 1, "6 6 1 6", "f f - f"],
    [2, 2, "6 1 6 6 1", "p p p f -"],
    [2, 3, "6 1 6", "p p f"],
    [2, 3, "6 1 1 6", "p p p p"],
    [2, 3, "6 1 1 1 6", "p p p - p"],
    [3, 3, "6 6 6 1", "p p f -"],
    [3, 5, "6 1 6 1 6", "p p p p f"],
    [3, 5, "6 1 6 1 1 6 6", "p p p p p p f"],
    [3, 5, "6 1 6 1 1 1 6 1 1 1 1 1", "p p p p p p p p p p p -"],
  ])("of %i of %i fires and ends with the values %s: %s", (count, window, values, states) => {
    const rule = alerting({ hold: { count, window } });
    expect(run(rule, seriesOf(`x ${values}`), values.split(" ").length).states).toBe(states);
  });

  it("tells of each change of the state once, and since when it is pending", () => {
    const rule = alerting({ hold: { count: 2, window: 3 } });
    const { changes } = run(rule, seriesOf("x 6 1 6 6 1 6 1 1 1"), 9);
    expect(changes).toEqual([
      ...["0: inactive to pending", "2: pending to firing", "4: firing to inactive"],
      ...["5: inactive to pending", "8: pending to inactive"],
    ]);
    const waiting = { ...rule, hold: { count: 3, window: 3 } };
    expect(run(waiting, seriesOf("x 6 1 7 1"), 4).instances).toMatchObject([{
      ...{ state: "pending", active_at: iso(0), fired_at: null, last_value: "7" },
      recent: { evaluated_at: iso(3), held: "010" },
    }]);
  });

  it("holds 60 of 60, and not 59", () => {
    const rule = alerting({ hold: { count: 60, window: 60 } });
    expect(run(rule, seriesOf("x 6x100"), 59).instances).toMatchObject([{ state: "pending" }]);
    const { instances } = run(rule, seriesOf("x 6x100"), 70);
    expect(instances).toMatchObject([{ fired_at: iso(59), recent: { held: "1".repeat(60) } }]);
  });

  it("keeps firing as long as the rule wants once it fired", () => {
    const rule = alerting({ hold: { count: 2, window: 4 }, keepFiringForSeconds: 120 });
    expect(run(rule, seriesOf("x 6 6 1 1 6 1 1 1 6"), 9).states).toBe("p f f f f f f - p");
  });

  it.each<[string, string]>([
    // 1 held, 0 did not, ? nothing known, e error, . no evaluation.
    ["1?1", "p p f"],
    ["1e1", "p p f"],
    ["1.1", "p p f"],
    ["1?01", "p p p f"],
    ["10?1", "p p p f"],
    ["1..1", "p p p f"],
    ["1??1", "p p p f"],
    ["1...1", "p p p p p"],
    ["1???1", "p p p p p"],
    ["1e?.1", "p p p p p"],
    ["1??01", "p p p p p"],
    ["1.....0", "p p p p p p -"],
    ["1?????0", "p p p p p p -"],
  ])("of 2 of 3 does not count what is unknown, nor what is more than 3 intervals ago: %s", (
    letters,
    states,
  ) => {
    const EVENTS: Record<string, Event> = {
      ...{ 1: "held", 0: "not", "?": "unknown", e: "failed", ".": "missed" },
    };
    const rule = holding({ count: 2, window: 3 }, { noDataPolicy: "keep" });
    const events = [...letters].map((letter) => EVENTS[letter]!);
    for (const seconds of [60, 90, 300]) {
      expect(replay(rule, events, seconds).states.join(" ")).toBe(states);
    }
  });

  it.each<[NoDataPolicy, string]>([
    ["ok", "p p p p -"],
    ["keep", "p p? p? p? p?"],
    ["alert", "p f? f? f? f?"],
  ])("%s: a pending alert whose series ended", (noDataPolicy, states) => {
    const rule = alerting({ hold: { count: 3, window: 4 }, noDataPolicy });
    expect(run(rule, seriesOf("x 6 stale"), 5).states).toBe(states);
  });

  it("goes on from alerts that were stored before there was a record", () => {
    const rule = alerting({ hold: { count: 2, window: 3 } });
    const [pending, firing] = [alerting({ forSeconds: 600 }), alerting()].map((old) => {
      const { instances } = evaluate(old, seriesOf("x 6"), 0);
      expect(instances[0]).not.toHaveProperty("recent");
      return fromDatabase(instances);
    }) as [AlertInstance[], AlertInstance[]];
    expect(evaluate(rule, seriesOf("x 6 6"), 1, pending).instances).toMatchObject([{
      ...{ state: "pending", active_at: iso(0), recent: { evaluated_at: iso(1), held: "1" } },
    }]);
    expect(evaluate(rule, seriesOf("x 6 1"), 1, pending).instances).toEqual([]);
    expect(evaluate(rule, seriesOf("x 6 6"), 1, firing).instances).toMatchObject([{
      ...{ state: "firing", fired_at: iso(0) },
    }]);
    expect(evaluate(rule, seriesOf("x 6 1"), 1, firing).instances).toEqual([]);
  });

  it("knows nothing of it any more once the rule has a duration instead", () => {
    const before = run(alerting({ hold: { count: 3, window: 5 } }), seriesOf("x 6 6"), 2).instances;
    const rule = alerting({ forSeconds: 120 });
    expect(evaluate(rule, seriesOf("x 6 6 1"), 2, before).instances).toEqual([]);
    const { instances } = evaluate(rule, seriesOf("x 6 6 6"), 2, before);
    expect(instances).toMatchObject([{ state: "firing", active_at: iso(0) }]);
    expect(instances[0]).not.toHaveProperty("recent");
  });

  it("takes fewer and shorter as soon as the rule says so", () => {
    const before = run(alerting({ hold: { count: 5, window: 9 } }), seriesOf("x 6 6 1 1"), 4);
    const next = (hold: Hold) =>
      evaluate(alerting({ hold }), seriesOf("x 6 6 1 1 6"), 4, before.instances).instances[0]!;
    expect(next({ count: 3, window: 5 }).state).toBe("firing");
    expect(next({ count: 3, window: 4 }).state).toBe("pending");
  });

  it("counts an interval once, by its last evaluation, though a changed rule is evaluated again", () => {
    const rule = alerting({ hold: { count: 2, window: 3 } });
    const before = evaluate(rule, seriesOf("x 6 6"), 1).instances;
    expect(evaluate(rule, seriesOf("x 6 6"), 1, before).instances).toMatchObject([{
      ...{ state: "pending", recent: { held: "1" } },
    }]);
    expect(evaluate(rule, seriesOf("x 6 1"), 1, before).instances).toEqual([]);
  });

  it("is not held up by times ahead, of a clock that has been put right", () => {
    const rule = alerting({ hold: { count: 2, window: 3 } });
    const ahead = evaluate(rule, seriesOf("x 6x100"), 100).instances;
    const now = evaluate(rule, seriesOf("x 6x9"), 0, ahead).instances;
    expect(now).toMatchObject([{ recent: { evaluated_at: iso(0), held: "1" } }]);
    expect(evaluate(rule, seriesOf("x 6x9"), 1, now).instances).toMatchObject([{
      state: "firing",
    }]);
    const keeping: AlertingRule = { ...rule, noDataPolicy: "keep" };
    expect(evaluate(keeping, [], 0, ahead).instances).toMatchObject([{
      ...{ no_data: true, recent: { evaluated_at: iso(0), held: "1" } },
    }]);
  });

  it("fires for the first time when a window of M evaluations holds N that held, and never else", () => {
    fc.assert(
      fc.property(holds, policies, eventsOf("held", "not"), intervals, (
        hold,
        noDataPolicy,
        events,
        seconds,
      ) => {
        const isEnough = events.map((event, index) =>
          event === "held" &&
          events.slice(Math.max(0, index + 1 - hold.window), index + 1)
              .filter((one) => one === "held").length >= hold.count
        );
        const { states } = replay(holding(hold, { noDataPolicy }), events, seconds);
        expect(states.indexOf("f")).toBe(isEnough.indexOf(true));
      }),
    );
  });

  it("is what is counted by hand, whatever is missing", () => {
    const all = eventsOf("held", "held", "not", "unknown", "failed", "missed");
    fc.assert(
      fc.property(holds, policies, all, intervals, (hold, noDataPolicy, events, seconds) => {
        let known: { at: number; isHeld: boolean }[] = [];
        let state = "-";
        const expected = events.map((event, at) => {
          const isUnknown = event === "unknown" && noDataPolicy !== "ok";
          if (event === "missed" || event === "failed" || (isUnknown && state === "-")) {
            return state;
          }
          if (isUnknown) return state = noDataPolicy === "alert" ? "f" : state;
          known.push({ at, isHeld: event === "held" });
          const held = known.filter((one) => at - one.at <= hold.window).slice(-hold.window)
            .filter(({ isHeld }) => isHeld).length;
          if (event === "held") state = state === "f" || held >= hold.count ? "f" : "p";
          else if (state === "f" || held === 0) state = "-";
          if (state === "-") known = [];
          return state;
        });
        expect(replay(holding(hold, { noDataPolicy }), events, seconds).states).toEqual(expected);
      }),
      { numRuns: 300 },
    );
  });

  it("of 1 of 1 is a rule without `for`", () => {
    const all = eventsOf("held", "not", "unknown", "failed", "missed");
    const without = (outcome: RuleOutcome | undefined) =>
      outcome && {
        ...outcome,
        instances: outcome.instances.map(({ recent: _, ...instance }) => instance),
      };
    fc.assert(
      fc.property(policies, fc.constantFrom(0, 60, 120), all, (
        noDataPolicy,
        keepFiringForSeconds,
        events,
      ) => {
        const rule = holding({ count: 1, window: 1 }, { noDataPolicy, keepFiringForSeconds });
        const plain = replay({ ...rule, hold: null }, events);
        expect(replay(rule, events).outcomes.map(without)).toEqual(plain.outcomes.map(without));
      }),
    );
  });
});

describe("rememberEvaluation()", () => {
  it("remembers no more than the window and one interval, and no more known ones than the window", () => {
    const step = fc.record({ isHeld: fc.boolean(), passed: fc.integer({ min: 0, max: 100 }) });
    fc.assert(
      fc.property(holds, fc.array(step, { minLength: 1 }), (hold, steps) => {
        let at = START;
        let recent: ReturnType<typeof rememberEvaluation> | undefined;
        for (const { isHeld, passed } of steps) {
          at += passed * MINUTE;
          recent = rememberEvaluation(recent, isHeld, hold, { at, interval: MINUTE });
          expect(recent.held.length).toBeLessThanOrEqual(hold.window + 1);
          expect(recent.held.replaceAll("-", "").length).toBeLessThanOrEqual(hold.window);
          expect(recent.held.at(-1)).toBe(isHeld ? "1" : "0");
          expect(countHeld(recent)).toBeLessThanOrEqual(hold.window);
        }
      }),
    );
  });

  it("goes by slots of time: evaluations that come late are not further apart", () => {
    const interval = 5 * MINUTE;
    const first = rememberEvaluation(undefined, true, { window: 4 }, { at: START, interval });
    const next = (minute: number) =>
      rememberEvaluation(first, true, { window: 4 }, { at: START + minute * MINUTE, interval })
        .held;
    expect([next(4), next(5), next(9), next(10)]).toEqual(["1", "11", "11", "1-1"]);
  });
});

/** Fires above 90, ends below 80. */
const clearing = (changes: Partial<AlertingRule> = {}) =>
  alerting({ expr: "x > 90", clearExpr: "x < 80", ...changes });

describe("prepareRules(), clear expression", () => {
  it("ends an alert when that holds, and not between the thresholds", () => {
    const { states, changes } = run(clearing(), seriesOf("x 85 91 90 85 80 79 85 91"), 8);
    expect(states).toBe("- f f f f - - f");
    expect(changes).toEqual([
      ...["1: inactive to firing", "5: firing to inactive", "7: inactive to firing"],
    ]);
  });

  it("does not keep an alert that is only pending", () => {
    expect(run(clearing({ forSeconds: 120 }), seriesOf("x 91 85 91 91 91 85"), 6).states).toBe(
      "p - p p f f",
    );
  });

  it("ends none of which the expression holds still", () => {
    expect(run(clearing({ clearExpr: "x < 99" }), seriesOf("x 91 95 99 90"), 4).states).toBe(
      "f f f -",
    );
  });

  it("works with N of M", () => {
    const rule = clearing({ hold: { count: 2, window: 3 } });
    expect(run(rule, seriesOf("x 91 85 91 85 85 85 85 79"), 8).states).toBe("p p f f f f f -");
  });

  it.each<NoDataPolicy>([...NO_DATA_POLICIES])(
    "keeps an alert without data, whatever the policy: %s",
    (noDataPolicy) => {
      const { states, instances } = run(
        clearing({ noDataPolicy }),
        seriesOf("x 91 stale _ _ 85 79"),
        5,
      );
      expect(states).toBe("f f? f? f? f");
      expect(evaluate(clearing(), seriesOf("x 91 stale _ _ 85 79"), 5, instances).instances)
        .toEqual([]);
    },
  );

  it("ends an alert of which its own expression has no data, if it holds", () => {
    const rule = clearing({ clearExpr: "absent(x) and on() y", noDataPolicy: "keep" });
    expect(run(rule, seriesOf("x 91 stale", "y _ _ 1"), 3).states).toBe("f f? -");
  });

  it("keeps firing from when it begins to hold, each time anew", () => {
    const rule = clearing({ keepFiringForSeconds: 120 });
    const { states, instances } = run(rule, seriesOf("x 91 85 85 79 79 85 79 79 79"), 8);
    expect(states).toBe("f f f f f f f f");
    expect(instances).toMatchObject([{ keep_firing_since: iso(6) }]);
    expect(run(rule, seriesOf("x 91 85 85 79 79 79"), 6).states).toBe("f f f f f -");
  });

  it("tells series apart, by their labels without those that the rule makes", () => {
    const rule = clearing({
      expr: 'x{job!=""} > 90',
      clearExpr: 'y{job!=""} < 80',
      labels: { severity: "page", value: "{{ $value }}" },
    });
    const series = seriesOf(
      'x{job="a"} 91 85',
      'x{job="b"} 91 85',
      'x{job="c",i="1"} 91 85',
      'y{job="a"} 85 79',
      'y{job="b"} 85 85',
      'y{job="c"} 85 79',
    );
    const { instances } = run(rule, series, 2);
    expect(instances.map(({ labels }) => labels)).toEqual([
      { alertname: "High", job: "b", severity: "page", value: "91" },
      { alertname: "High", job: "c", i: "1", severity: "page", value: "91" },
    ]);
  });

  it("tells series apart by labels that the rule writes over", () => {
    const labels = { job: "the {{ $labels.job }}", gone: "", alertname: "x" };
    const series = seriesOf(
      'x{job="a",gone="1",alertname="A"} 91 85',
      'x{job="b",gone="1",alertname="A"} 91 79',
    );
    expect(run(clearing({ labels }), series, 2).instances.map(({ labels }) => labels)).toEqual([
      { alertname: "High", job: "the a" },
    ]);
  });

  it("takes a scalar for a sample without labels", () => {
    const rule = clearing({ expr: "sum(x) > 90", clearExpr: "1" });
    expect(run(rule, seriesOf('x{a="b"} 91 85'), 2).states).toBe("f -");
    expect(run({ ...rule, expr: "x > 90" }, seriesOf('x{a="b"} 91 85'), 2).states).toBe("f f");
  });

  it("reads its samples with those of the rule, and sees what was recorded before", () => {
    const group = { name: "g" };
    const rules = [
      { kind: "recording", name: "max_x", expr: "max(x)", labels: {} } as const,
      clearing({ expr: "max(x) > 90", clearExpr: "max_x < 80 or rate(x[5m]) < 0" }),
    ].map((rule) => ({ group, rule, instances: [] }));
    const { selections } = prepareRules(rules, START);
    expect(selections.map(({ matchers }) => matchers[0]!.value)).toEqual(["x", "max_x"]);
    const firing = evaluateAll(rules, seriesOf("x 91 79"), 0);
    const next = rules.map((rule, index) => ({ ...rule, instances: firing[index]!.instances }));
    expect(evaluateAll(next, seriesOf("x 91 79"), 1)[1]).toMatchObject({
      ...{ error: null, instances: [], transitions: [{ from: "firing", to: "inactive" }] },
    });
  });

  it.each<[string, string | RegExp]>([
    ["sum(x", /^clear_expr: 1:\d+: parse error/],
    ["x[5m]", "clear_expr: 1:1: parse error: must be a vector or scalar, is a matrix"],
    ['"a"', "clear_expr: 1:1: parse error: must be a vector or scalar, is a string"],
    ["x * on (a) x", /^clear_expr: .*(many-to-many|duplicate series)/],
  ])("is an error of the rule if it is %s, though nothing fires, and leaves the state", (
    clearExpr,
    message,
  ) => {
    const series = seriesOf('x{a="1",b="1"} 91 1', 'x{a="1",b="2"} 85 1');
    const { instances } = evaluate(clearing(), series, 0);
    for (const before of [instances, []]) {
      expect(evaluate(clearing({ clearExpr }), series, 1, before)).toEqual({
        health: "err",
        error: typeof message === "string" ? message : expect.stringMatching(message),
        ...{ instances: before, transitions: [], samples: [] },
      });
    }
  });

  it("lets alerts that are unknown for longest give way before there are too many", () => {
    const rule = clearing();
    const group = { name: "g", limit: 1 };
    const series = seriesOf('x{q="a"} 91 stale', 'x{q="b"} _ _ 91');
    const before = evaluate(rule, series, 1, evaluate(rule, series, 0).instances).instances;
    const [outcome] = evaluateAll([{ group, rule, instances: before }], series, 2);
    expect(outcome!.instances.map(({ labels }) => labels.q)).toEqual(["b"]);
  });

  const values = fc.array(fc.option(fc.constantFrom(70, 79, 80, 85, 90, 91, 99)), {
    minLength: 1,
    maxLength: 30,
  });
  const keepMinutes = fc.integer({ min: 0, max: 3 });

  it("ends an alert only after so long below the lower threshold: not above, nor without data", () => {
    fc.assert(
      fc.property(values, policies, keepMinutes, (values, noDataPolicy, minutes) => {
        const rule = clearing({
          ...{ expr: `${NOW} > 90`, clearExpr: `${NOW} < 80` },
          ...{ noDataPolicy, keepFiringForSeconds: minutes * 60 },
        });
        const line = values.map((value) => value ?? "_").join(" ");
        const { changes } = run(rule, seriesOf(`x ${line}`), values.length);
        const expected: string[] = [];
        let isFiring = false;
        let below = 0;
        for (const [minute, value] of values.entries()) {
          below = value !== null && value < 80 ? below + 1 : 0;
          if (!isFiring && value !== null && value > 90) {
            expected.push(`${minute}: inactive to firing`);
            isFiring = true;
          } else if (isFiring && below > minutes) {
            expected.push(`${minute}: firing to inactive`);
            isFiring = false;
          }
        }
        expect(changes).toEqual(expected);
      }),
    );
  });

  it("comes to the same in whatever order alerts and series are", () => {
    const names = ["a", "b", "c", "d"];
    const of = fc.tuple(...names.map(() =>
      fc.array(fc.option(fc.constantFrom(70, 85, 91)), {
        ...{ minLength: 12, maxLength: 12 },
      })
    ));
    const rules = fc.record({
      noDataPolicy: policies,
      hold: fc.option(holds),
      clearExpr: fc.option(fc.constant(`${NOW} < 80`)),
      keepFiringForSeconds: fc.constantFrom(0, 60),
    });
    const order = fc.shuffledSubarray(names.map((_, index) => index), {
      minLength: names.length,
    });
    const sorted = (outcome: RuleOutcome) => {
      const byLabels = <T extends Pick<AlertInstance, "labels">>(list: readonly T[]) =>
        list.toSorted((a, b) => labelsKey(a.labels) < labelsKey(b.labels) ? -1 : 1);
      return {
        ...outcome,
        instances: byLabels(outcome.instances),
        transitions: byLabels(outcome.transitions),
      };
    };
    fc.assert(
      fc.property(of, rules, order, (values, changes, order) => {
        const rule = clearing({ expr: `${NOW} > 90`, ...changes });
        const series = seriesOf(
          ...values.map((one, index) =>
            `x{q="${names[index]}"} ${one.map((value) => value ?? "_").join(" ")}`
          ),
        );
        let instances: readonly AlertInstance[] = [];
        for (let minute = 0; minute < 12; minute += 1) {
          const outcome = sorted(evaluate(rule, series, minute, instances));
          const byOrder = order.flatMap((index) => instances[index] ?? []);
          const shuffled = order.map((index) => series[index]!);
          expect(sorted(evaluate(rule, shuffled, minute, byOrder))).toEqual(outcome);
          instances = outcome.instances;
        }
      }),
    );
  });
});
