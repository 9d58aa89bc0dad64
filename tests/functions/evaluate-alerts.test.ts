import { describe, expect, it } from "vitest";
import { type AlertInstance, TIME_IS_UP } from "../../shared/alerting/evaluate-rules.ts";
import type { AlertingRule, RecordingRule } from "../../shared/alerting/rule.ts";
import type { JudgedComponent, PlannedRule, RuleResult } from "../../shared/contract/rules.ts";
import { PromqlError } from "../../shared/promql/promql-error.ts";
import type { SampledSeries, Selection } from "../../shared/promql/series.ts";
import {
  DatabaseError,
  type DatabaseErrorKind,
} from "../../supabase/functions/_shared/database.ts";
import {
  EVALUATION_MILLISECONDS,
  UNREADABLE,
  WALL_SECONDS,
} from "../../supabase/functions/evaluate-alerts/evaluate-due.ts";
import {
  evaluateAlerts,
  type EvaluateDeps,
  HEALTH_TIMEOUT_SECONDS,
  RESULTS_LIMIT,
} from "../../supabase/functions/evaluate-alerts/handler.ts";
import { Clock, NOON, RUN_ID, sampleFacts } from "../fixtures.ts";

const MINUTE = 60_000;
const RUN = { id: RUN_ID, scheduledAt: NOON, startedAt: NOON };

const alerting = (
  expr: string,
  changes: Partial<AlertingRule> = {},
): AlertingRule => ({
  ...{
    kind: "alerting",
    name: "Alert",
    expr,
    forSeconds: 0,
    keepFiringForSeconds: 0,
  },
  ...{ hold: null, clearExpr: null },
  ...{ labels: {}, annotations: {}, noDataPolicy: "keep", severity: "warning" },
  ...{ runbookUrl: null, mode: "live" },
  ...changes,
});
const recording = (expr: string): RecordingRule => ({
  ...{ kind: "recording", name: "recorded", expr, labels: {} },
});

/** Rules that are due, numbered from 1, each at revision 7. */
const dueOf = (
  rules: readonly (AlertingRule | RecordingRule)[],
  instances: readonly AlertInstance[] = [],
): PlannedRule[] =>
  rules.map((rule, index) => ({
    ...{ ruleId: index + 1, groupName: "group", intervalSeconds: 60, rule, isEnabled: true },
    refusal: null,
    state: {
      ...{ revision: 7, instances, health: "ok", lastError: null },
      ...{ evaluatedAt: null, evaluationSeconds: null },
    },
  }));

/** A series with one sample a minute, the last of the minute of the run. */
const series = (
  labels: Record<string, string>,
  ...values: number[]
): SampledSeries => ({
  labels,
  times: values.map((_, index) => NOON.getTime() - (values.length - 1 - index) * MINUTE),
  values,
});

const NO_ALERTS = {
  ...{ opened: 0, reopened: 0, held: 0, resolved: 0, told: 0 },
  incidents: { opened: 0, escalated: 0, failed: 0, failures: [] },
};

/** A world with these rules due; of each selector it knows what `name` says. */
function sampleDeps(
  due: readonly PlannedRule[],
  stored: readonly SampledSeries[] = [],
  changes: Partial<EvaluateDeps> = {},
) {
  const clock = new Clock();
  const selected: (readonly Selection[])[] = [];
  const recorded: [Date, readonly RuleResult[]][] = [];
  const components: (readonly JudgedComponent[] | null)[] = [];
  const namesOf = ({ matchers }: Selection) =>
    matchers.filter(({ name }) => name === "__name__").map(({ value }) => value);
  const deps: EvaluateDeps = {
    now: clock.now,
    cpuClock: () => 0,
    planEvaluation: () => Promise.resolve([...due]),
    select: (selections) => {
      selected.push(selections);
      return Promise.resolve(
        selections.map((selection) =>
          stored.filter(({ labels }) => namesOf(selection).includes(labels.__name__!))
        ),
      );
    },
    readHealthFacts: () => Promise.resolve(sampleFacts({ now: clock.now() })),
    recordEvaluation: (at, results, judged) => {
      recorded.push([at, results]);
      components.push(judged);
      const inserted = results.flatMap(({ samples }) => samples ?? []).length;
      const samples = { inserted, duplicates: 0, overflowed: 0, rejected: [] };
      const errors = results.flatMap(({ rule_id, error }) => {
        const { groupName, rule } = due.find(({ ruleId }) => ruleId === rule_id)!;
        return error === null ? [] : [{ group: groupName, rule: rule.name, error }];
      });
      return Promise.resolve({
        recorded: results.length,
        failed: errors.length,
        stale: 0,
        errors,
        samples,
        alerts: NO_ALERTS,
      });
    },
    ...changes,
  };
  return { deps, clock, selected, recorded, components };
}

const HIGH = alerting("queue_depth > 10", { name: "High" });
const QUEUES = [
  series({ __name__: "queue_depth", queue: "a" }, 5, 12),
  series({ __name__: "queue_depth", queue: "b" }, 20, 3),
];

const NOTHING = {
  ...{ evaluated: 0, failed: 0, stale: 0, pending: 0, firing: 0 },
  ...{ recorded_samples: 0, rejected_samples: 0, errors: [], alerts: NO_ALERTS },
};

describe("evaluateAlerts()", () => {
  it("reads all samples in one go, up to the minute of the run, and stores all results in one", async () => {
    const due = dueOf([
      HIGH,
      alerting("other > 1"),
      recording("sum(queue_depth)"),
    ]);
    const { deps, selected, recorded } = sampleDeps(due, QUEUES);
    const outcome = await evaluateAlerts(RUN, deps);

    expect(selected).toHaveLength(1);
    expect(new Set(selected[0]!.map(({ until }) => until))).toEqual(
      new Set([NOON.getTime()]),
    );
    const common = { revision: 7, error: null, evaluation_seconds: 0 };
    expect(recorded).toEqual([[NOON, [
      {
        ...{ ...common, rule_id: 1, samples: [] },
        instances: [expect.objectContaining({
          labels: { alertname: "High", queue: "a" },
          state: "firing",
          last_value: "12",
          active_at: NOON.toISOString(),
        })],
      },
      { ...common, rule_id: 2, samples: [], instances: [] },
      {
        ...common,
        rule_id: 3,
        samples: [{ labels: {}, value: 15 }],
        instances: [],
      },
    ]]]);
    expect(outcome).toEqual({
      kind: "succeeded",
      result: { ...NOTHING, evaluated: 3, firing: 1, recorded_samples: 1 },
    });
  });

  it("goes on from the state that it is given", async () => {
    const waiting = alerting("queue_depth > 10", {
      name: "High",
      forSeconds: 120,
    });
    const first = sampleDeps(dueOf([waiting]), QUEUES);
    expect((await evaluateAlerts(RUN, first.deps)).result).toMatchObject({
      pending: 1,
      firing: 0,
    });
    const { instances } = first.recorded[0]![1][0]!;

    for (const [minutes, firing] of [[1, 0], [2, 1]] as const) {
      const { deps } = sampleDeps(dueOf([waiting], instances), QUEUES);
      const scheduledAt = new Date(NOON.getTime() + minutes * MINUTE);
      expect((await evaluateAlerts({ ...RUN, scheduledAt }, deps)).result)
        .toMatchObject({ pending: 1 - firing, firing });
    }
  });

  it.each([
    // Seconds of the interval, minutes to the next evaluation, and whether the first one counts still.
    [30, 2, 1],
    [30, 3, 0],
    [60, 2, 1],
    [60, 3, 0],
    [300, 10, 1],
    [300, 15, 0],
  ])(
    "counts how often an alert held by the interval of its group: %i s, after %i minutes",
    async (intervalSeconds, minutes, firing) => {
      const rule = alerting("vector(1)", { hold: { count: 2, window: 2 } });
      const evaluate = async (minute: number, instances?: readonly AlertInstance[]) => {
        const due = dueOf([rule], instances).map((planned) => ({ ...planned, intervalSeconds }));
        const { deps, recorded } = sampleDeps(due);
        const scheduledAt = new Date(NOON.getTime() + minute * MINUTE);
        const { result } = await evaluateAlerts({ ...RUN, scheduledAt }, deps);
        return { result, instances: recorded[0]![1][0]!.instances };
      };
      const first = await evaluate(0);
      expect(first.result).toMatchObject({ pending: 1, firing: 0 });
      const next = await evaluate(minutes, first.instances);
      expect(next.result).toMatchObject({ pending: 1 - firing, firing });
    },
  );

  it("stores why a rule could not be evaluated, and evaluates the others", async () => {
    const rules = [
      alerting("sum(", { name: "Broken" }),
      HIGH,
      alerting("queue_depth + on() queue_depth"),
    ];
    const { deps, recorded } = sampleDeps(dueOf(rules), QUEUES);
    const outcome = await evaluateAlerts(RUN, deps);

    expect(outcome.kind).toBe("succeeded");
    expect(outcome.result).toMatchObject({
      evaluated: 1,
      failed: 2,
      firing: 1,
      errors: [
        {
          group: "group",
          rule: "Broken",
          error: expect.stringMatching(/^1:\d+: parse error: /),
        },
        {
          group: "group",
          rule: "Alert",
          error: expect.stringContaining("many-to-many"),
        },
      ],
    });
    // Without instances the stored ones stay.
    expect(recorded[0]![1][0]).toEqual({
      ...{ rule_id: 1, revision: 7, evaluation_seconds: 0 },
      error: expect.any(String),
    });
    expect(recorded[0]![1][1]).toMatchObject({ error: null });
  });

  it("stores as much as it may, and lets the rule fail that would go beyond, and no other", async () => {
    const queues = Array.from(
      { length: 100 },
      (_, n) => series({ __name__: "queue_depth", queue: `${n}` }, 20),
    );
    const last = (text: string) => alerting("vector(1)", { name: "Last", annotations: { text } });
    const small = alerting("vector(0) > 1");
    const record = async (text: string) => {
      const many = {
        ...HIGH,
        annotations: { text: "x".repeat(RESULTS_LIMIT / 100 - 500) },
      };
      const { deps, recorded } = sampleDeps(
        dueOf([many, last(text), small]),
        queues,
      );
      const { result } = await evaluateAlerts(RUN, deps);
      const results = recorded[0]![1];
      const size = results.reduce(
        (sum, one) => sum + JSON.stringify(one).length,
        0,
      );
      return { result, results, size };
    };
    const ofSmall = JSON.stringify((await record("")).results[2]).length;
    const room = RESULTS_LIMIT + ofSmall - (await record("")).size;

    // What comes after is stored only as long as there is room for it.
    expect((await record("y".repeat(room - ofSmall))).result).toMatchObject({
      failed: 0,
    });
    expect(
      (await record("y".repeat(room - ofSmall + 1))).results.map(({ error }) => error),
    )
      .toEqual([null, null, expect.stringContaining(`${RESULTS_LIMIT}`)]);
    expect((await record("y".repeat(room))).result).toMatchObject({
      failed: 1,
    });
    const { result, results } = await record("y".repeat(room + 1));
    expect(result).toMatchObject({
      evaluated: 2,
      failed: 1,
      errors: [{ rule: "Last" }],
    });
    expect(results.map(({ instances }) => instances?.length)).toEqual([
      100,
      undefined,
      0,
    ]);
  });

  it("fails a rule whose stored alerts it cannot read, and leaves them and the others alone", async () => {
    const [unreadable, readable] = dueOf([{ ...HIGH, name: "Unreadable" }, HIGH]) as [
      PlannedRule,
      PlannedRule,
    ];
    const due = [{ ...unreadable, state: { ...unreadable.state, instances: null } }, readable];
    const { deps, recorded } = sampleDeps(due, QUEUES);
    const { result } = await evaluateAlerts(RUN, deps);
    expect(result).toMatchObject({
      ...{ evaluated: 1, failed: 1, firing: 1 },
      errors: [{ rule: "Unreadable", error: UNREADABLE }],
    });
    const ofUnreadable = recorded[0]![1].find(({ rule_id }) => rule_id === 1);
    expect(ofUnreadable).toEqual({
      ...{ rule_id: 1, revision: 7, error: UNREADABLE, evaluation_seconds: 0 },
    });
  });

  it("gives every group its turn when there is time for only one of them", async () => {
    const groups = ["a", "b", "c"];
    let due = groups.flatMap((groupName, n) =>
      dueOf([HIGH, HIGH]).map((rule, index) => ({ ...rule, ruleId: 2 * n + index, groupName }))
    );
    const times = new Map(due.map(({ ruleId }) => [ruleId, 0]));
    for (let minute = 0; minute < 30; minute += 1) {
      const { deps, recorded } = sampleDeps(due, QUEUES);
      const scheduledAt = new Date(NOON.getTime() + minute * MINUTE);
      // Each look at the clock takes time, of which there is enough for a few rules only.
      let time = 0;
      const cpuClock = () => time += EVALUATION_MILLISECONDS / 12;
      await evaluateAlerts({ ...RUN, scheduledAt }, { ...deps, cpuClock });
      const errors = new Map(recorded[0]![1].map(({ rule_id, error }) => [rule_id, error]));
      expect([...errors.values()]).toContain(TIME_IS_UP);
      for (const [id, error] of errors) if (error === null) times.set(id, times.get(id)! + 1);
      due = due.map((rule) => {
        const lastError = errors.get(rule.ruleId)!;
        const health = lastError === null ? "ok" : "err";
        return { ...rule, state: { ...rule.state, health, lastError } };
      });
    }
    for (const [id, often] of times) expect(often, `rule ${id}`).toBeGreaterThanOrEqual(5);
  });

  it("does not evaluate a rule that may not record, so that others do not see what it would", async () => {
    const refusal = "recorded is measured or sent";
    const later = alerting("recorded > 10", { name: "Later" });
    const evaluate = async (reason: string | null) => {
      const [first, second] = dueOf([recording("sum(queue_depth)"), later]) as [
        PlannedRule,
        PlannedRule,
      ];
      const { deps, recorded } = sampleDeps([{ ...first, refusal: reason }, second], [
        ...QUEUES,
        series({ __name__: "recorded" }, 1),
      ]);
      return { ...await evaluateAlerts(RUN, deps), recorded: recorded[0]![1] };
    };
    expect((await evaluate(null)).result).toMatchObject({ evaluated: 2, firing: 1 });
    const { result, recorded } = await evaluate(refusal);
    expect(result).toMatchObject({
      ...{ evaluated: 1, failed: 1, firing: 0, recorded_samples: 0 },
      errors: [{ group: "group", rule: "recorded", error: refusal }],
    });
    expect(recorded.find(({ rule_id }) => rule_id === 1)).toEqual({
      ...{ rule_id: 1, revision: 7, error: refusal, evaluation_seconds: 0 },
    });
  });

  it.each([[1, "succeeded"], [2, "failed"]] as const)(
    "counts what storing comes to: with %i of 2 failed there it has %s",
    async (failed, kind) => {
      const samples = { inserted: 1, duplicates: 0, overflowed: 0, rejected: [] };
      const errors = [{ group: "group", rule: "High", error: "too many alerts" }];
      const { deps } = sampleDeps(dueOf([HIGH, HIGH]), QUEUES, {
        recordEvaluation: () =>
          Promise.resolve({ recorded: 2, failed, stale: 0, errors, samples, alerts: NO_ALERTS }),
      });
      expect(await evaluateAlerts(RUN, deps)).toMatchObject({
        kind,
        result: { evaluated: 2 - failed, failed, stale: 0, errors, recorded_samples: 1 },
        ...(kind === "failed" && { reason: "no rule could be evaluated: too many alerts" }),
      });
    },
  );

  it("has failed when no rule could be evaluated, and not when none was due", async () => {
    const broken = sampleDeps(dueOf([alerting("sum(")]));
    expect(await evaluateAlerts(RUN, broken.deps)).toMatchObject({
      kind: "failed",
      reason: expect.stringMatching(/^no rule could be evaluated: 1:\d+: /),
      result: { failed: 1 },
    });
    expect(broken.recorded).toHaveLength(1);

    const none = sampleDeps([]);
    expect(await evaluateAlerts(RUN, none.deps)).toEqual({
      kind: "succeeded",
      result: NOTHING,
    });
    expect(none.selected).toEqual([]);
  });

  it("reads nothing for rules that need nothing", async () => {
    const { deps, selected } = sampleDeps(dueOf([alerting("vector(1)")]));
    expect((await evaluateAlerts(RUN, deps)).result).toMatchObject({
      evaluated: 1,
      firing: 1,
    });
    expect(selected).toEqual([]);
  });

  it("stores finite samples only, without the name, and counts what was refused", async () => {
    const { deps, recorded } = sampleDeps(
      dueOf([recording("queue_depth / (queue_depth - 3)")]),
      QUEUES,
      {
        recordEvaluation: (at, results) => {
          recorded.push([at, results]);
          const rejected = [{
            metric: "recorded",
            labels: {},
            reason: "no open day",
          }];
          const samples = {
            inserted: 0,
            duplicates: 0,
            overflowed: 0,
            rejected,
          };
          return Promise.resolve({
            recorded: 0,
            failed: 0,
            stale: 1,
            errors: [],
            samples,
            alerts: NO_ALERTS,
          });
        },
      },
    );
    const { result } = await evaluateAlerts(RUN, deps);
    expect(recorded[0]![1][0]!.samples).toEqual([{
      labels: { queue: "a" },
      value: 12 / 9,
    }]);
    expect(result).toMatchObject({
      stale: 1,
      recorded_samples: 0,
      rejected_samples: 2,
    });
  });

  const tooMuch = () => new PromqlError("limit", "1200000 samples would have to be read");
  const ofKind = (kind: DatabaseErrorKind) =>
    new DatabaseError("read_selections", kind, "", `it was ${kind}`);

  it.each([
    ["too many samples", tooMuch(), "1200000 samples"],
    ["a time-out", ofKind("timed_out"), "it was timed_out"],
    ["a refusal", ofKind("refused"), "it was refused"],
  ])(
    "finds the rule at fault after %s, and evaluates the others",
    async (_name, error, reason) => {
      const names = ["a", "b", "huge", "c", "d"];
      const due = dueOf(names.map((name) => alerting(`${name} > 0`, { name })));
      const stored = names.map((name) => series({ __name__: name }, 1));
      const { deps, recorded } = sampleDeps(due, stored);
      let reads = 0;
      const select: EvaluateDeps["select"] = (selections) => {
        reads += 1;
        const isHuge = selections.some(({ matchers }) =>
          matchers.some(({ value }) => value === "huge")
        );
        return isHuge ? Promise.reject(error) : deps.select(selections);
      };
      const { result } = await evaluateAlerts(RUN, { ...deps, select });
      expect(result).toMatchObject({
        ...{ evaluated: 4, failed: 1, firing: 4 },
        errors: [{ rule: "huge", error: expect.stringContaining(reason) }],
      });
      expect(recorded[0]![1].map(({ rule_id }) => rule_id)).toEqual([
        1,
        2,
        3,
        4,
        5,
      ]);
      expect(reads).toBe(5); // abcde, ab, huge c d, huge, c d
    },
  );

  it.each([[WALL_SECONDS - 0.001, 3], [WALL_SECONDS, 1]])(
    "divides no more when %d s of the run have passed",
    async (seconds, reads) => {
      const { deps, clock, selected, recorded } = sampleDeps(
        dueOf([HIGH, HIGH]),
        QUEUES,
      );
      const select: EvaluateDeps["select"] = (selections) => {
        selected.push(selections);
        if (selected.length === 1) clock.advance(seconds);
        return Promise.reject(ofKind("timed_out"));
      };
      expect((await evaluateAlerts(RUN, { ...deps, select })).kind).toBe(
        "failed",
      );
      expect(selected).toHaveLength(reads);
      expect(recorded[0]![1]).toHaveLength(2);
    },
  );

  it("has a rule that takes all the time alone after some runs", async () => {
    const names = Array.from(
      { length: 16 },
      (_, n) => n === 5 ? "huge" : `x${n}`,
    );
    let due = dueOf(names.map((name) => alerting(`${name} > 0`, { name })));
    const failures: number[] = [];
    for (const _run of Array.from({ length: 5 })) {
      const { deps, clock, recorded } = sampleDeps(due);
      const select: EvaluateDeps["select"] = (selections) => {
        const isHuge = selections.some(({ matchers }) => matchers[0]!.value === "huge");
        if (!isHuge) return deps.select(selections);
        clock.advance(8);
        return Promise.reject(ofKind("timed_out"));
      };
      await evaluateAlerts({ ...RUN, startedAt: clock.now() }, {
        ...deps,
        select,
      });
      const failed = new Set(
        recorded[0]![1].filter(({ error }) => error !== null).map((
          { rule_id },
        ) => rule_id),
      );
      failures.push(failed.size);
      due = due.map((rule) => ({
        ...rule,
        state: {
          ...rule.state,
          health: failed.has(rule.ruleId) ? "err" : "ok",
        },
      }));
    }
    expect(failures).toEqual([8, 4, 2, 1, 1]);
  });

  it.each<DatabaseErrorKind>(["unreachable", "missing", "malformed", "denied"])(
    "gives up when the database is %s: it says nothing about rules",
    async (kind) => {
      const error = ofKind(kind);
      const { deps, recorded } = sampleDeps(dueOf([HIGH, HIGH]), QUEUES, {
        select: () => Promise.reject(error),
      });
      await expect(evaluateAlerts(RUN, deps)).rejects.toBe(error);
      expect(recorded).toEqual([]);
    },
  );

  it("begins no rule when its time is spent, and says so of those that are left", async () => {
    let time = 0;
    const { deps, recorded } = sampleDeps(dueOf([HIGH, HIGH, HIGH]), QUEUES, {
      cpuClock: () => time,
    });
    const select: EvaluateDeps["select"] = async (selections) => {
      const found = await deps.select(selections);
      time += 10 * EVALUATION_MILLISECONDS; // waiting costs nothing
      return found;
    };
    expect((await evaluateAlerts(RUN, { ...deps, select })).result)
      .toMatchObject({ evaluated: 3 });

    const ticking = {
      ...deps,
      cpuClock: () => time += EVALUATION_MILLISECONDS,
    };
    expect(await evaluateAlerts(RUN, ticking)).toMatchObject({
      kind: "failed",
      result: {
        failed: 3,
        errors: expect.arrayContaining([
          expect.objectContaining({ rule: "High" }),
        ]),
      },
    });
    expect(recorded.at(-1)![1][0]!.error).toContain("time");
  });

  it("shares what it took among the rules", async () => {
    let time = 0;
    const { deps, recorded } = sampleDeps(dueOf([HIGH, HIGH]), QUEUES, {
      cpuClock: () => time,
    });
    const select: EvaluateDeps["select"] = async (selections) => {
      const found = await deps.select(selections);
      return found.map((list) =>
        new Proxy(list, {
          get: (target, key, receiver) => {
            time += 1;
            return Reflect.get(target, key, receiver);
          },
        })
      );
    };
    await evaluateAlerts(RUN, { ...deps, select });
    const seconds = recorded[0]![1].map(({ evaluation_seconds }) => evaluation_seconds);
    expect(time).toBeGreaterThan(0);
    expect(seconds).toEqual([time / 1000 / 2, time / 1000 / 2]);
  });
});

describe("the components that an evaluation judges", () => {
  it("are those of health, without jobs, which are judged where their runs are", async () => {
    const { deps, components } = sampleDeps([], [], {
      readHealthFacts: () =>
        Promise.resolve(
          sampleFacts({
            rules: { liveCount: 2, failingCount: 1, firstFailure: { name: "A", error: "x" } },
          }),
        ),
    });
    await evaluateAlerts(RUN, deps);
    expect(components).toEqual([[
      { component: "database", status: "healthy", reason: expect.any(String) },
      { component: "scheduler", status: "healthy", reason: expect.any(String) },
      { component: "metrics", status: "healthy", reason: expect.any(String) },
      { component: "storage", status: "healthy", reason: expect.any(String) },
      { component: "rules", status: "degraded", reason: "1 of 2 live rules fail: A: x" },
      { component: "notifications", status: "healthy", reason: expect.any(String) },
    ]]);
  });

  it("are not known when health cannot be read, and rules are evaluated all the same", async () => {
    const { deps, components } = sampleDeps(dueOf([HIGH]), QUEUES, {
      readHealthFacts: () =>
        Promise.reject(new DatabaseError("read_health", "timed_out", "57014", "too slow")),
    });
    expect(await evaluateAlerts(RUN, deps)).toMatchObject({
      kind: "succeeded",
      result: { evaluated: 1 },
    });
    expect(components).toEqual([null]);
  });

  it.each([[999, "healthy"], [1000, "degraded"]])(
    "are judged by the time that the database took: after %i ms it is %s",
    async (milliseconds, status) => {
      const { deps, clock, components } = sampleDeps([], [], {
        readHealthFacts: () => {
          clock.advance(milliseconds / 1000);
          return Promise.resolve(sampleFacts());
        },
      });
      await evaluateAlerts(RUN, deps);
      expect(components[0]).toContainEqual({
        ...{ component: "database", status, reason: expect.any(String) },
      });
    },
  );

  it("end the run when it is not the database that is broken", async () => {
    const { deps, recorded } = sampleDeps(dueOf([HIGH]), QUEUES, {
      readHealthFacts: () => Promise.reject(new TypeError("a mistake of ours")),
    });
    await expect(evaluateAlerts(RUN, deps)).rejects.toThrow("a mistake of ours");
    expect(recorded).toEqual([]);
  });

  it("are asked for within 2 s, so that health keeps no rule waiting", async () => {
    const asked: number[] = [];
    const { deps } = sampleDeps([], [], {
      readHealthFacts: (timeoutSeconds) => {
        asked.push(timeoutSeconds);
        return Promise.resolve(sampleFacts());
      },
    });
    await evaluateAlerts(RUN, deps);
    expect(asked).toEqual([HEALTH_TIMEOUT_SECONDS]);
  });
});
