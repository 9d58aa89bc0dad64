import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc } from "./database.ts";
import {
  addChannel,
  addMetric,
  DAY,
  HOUR,
  iso,
  MIDNIGHT,
  MINUTE,
  NOON,
  range,
  SECOND,
} from "./seeds.ts";

interface PlannedRule extends Record<string, unknown> {
  rule_id: number;
  name: string;
  state: { revision: number; instances: unknown[]; evaluated_at: number | null };
}

const alerting = (more: object = {}) => ({
  kind: "alerting",
  name: "QueueDepthHigh",
  expr: "queue_depth > 1000",
  ...more,
});
const recording = (more: object = {}) => ({
  kind: "recording",
  name: "job:requests:rate5m",
  expr: "sum by (job) (rate(requests_total[5m]))",
  ...more,
});

/** Leaves these rules alone in the database, in the group "a test" of this interval. */
async function setUp(query: Query, rules: readonly object[], interval_seconds = 60) {
  await query("delete from monitor.alert_rules where group_name <> 'a test'");
  const groups = [{ name: "a test", interval_seconds, rules }];
  await rpc(query, "save_rules", { p_groups: groups, p_replace: true });
}

const plan = async (query: Query, at = NOON) =>
  (await rpc<{ rules: PlannedRule[] }>(query, "plan_evaluation", { p_now: iso(at) })).rules;
const namesOf = (rules: readonly PlannedRule[]) => rules.map(({ name }) => name);

const result = ({ rule_id, state: { revision } }: PlannedRule, more: object = {}) => ({
  ...{ rule_id, revision, error: null, evaluation_seconds: 0.01 },
  ...more,
});
const record = (query: Query, results: unknown, at = NOON) =>
  rpc(query, "record_evaluation", { p_results: results, p_now: iso(at) });

const NO_SAMPLES = { inserted: 0, duplicates: 0, overflowed: 0, rejected: [] };
/** What is said of alerts when none has changed. */
const UNCHANGED = {
  ...{ opened: 0, reopened: 0, held: 0, resolved: 0, told: 0 },
  incidents: {
    ...{ opened: 0, linked: 0, escalated: 0, told: 0, events: 0, failed: 0, failures: [] },
  },
};

const readStates = async (query: Query) =>
  (await query(
    `select rule.name, state.health, state.last_error, state.instances, monitor.epoch_ms(state.evaluated_at)::float8 as at
     from monitor.rule_states as state join monitor.alert_rules as rule using (rule_id) order by rule.position`,
  )).rows;

const readSamples = async (query: Query, metric = recording().name) =>
  (await query(
    `select series.labels, sample.value, monitor.epoch_ms(sample.recorded_at)::float8 as at
     from monitor.metric_time_series as sample join monitor.metric_series as series using (series_id)
     where series.metric = $1 order by at, series_id`,
    [metric],
  )).rows;

describe("monitor.plan_evaluation()", () => {
  it("gives rules with all that their evaluation needs", async ({ query }) => {
    await setUp(query, [alerting({ for_seconds: 120, labels: { team: "ops" } })], 30);
    expect(await plan(query)).toEqual([{
      ...alerting({ for_seconds: 120, labels: { team: "ops" } }),
      ...{ rule_id: expect.any(Number), group_name: "a test", interval_seconds: 30 },
      ...{ keep_firing_for_seconds: 0, annotations: {}, no_data_policy: "keep" },
      ...{ hold_count: null, hold_window: null, clear_expr: null },
      ...{ severity: "warning", runbook_url: null, mode: "live", enabled: true, refusal: null },
      state: {
        ...{ revision: 0, instances: [], health: "unknown", last_error: null },
        ...{ evaluated_at: null, evaluation_seconds: null },
      },
    }]);
  });

  it("keeps the order of groups and rules, and leaves out what is switched off", async ({ query }) => {
    await setUp(query, [
      alerting({ name: "b" }),
      alerting({ name: "off", enabled: false }),
      alerting({ name: "a" }),
    ]);
    const groups = [{ name: "A first", rules: [alerting({ name: "c" })] }];
    await rpc(query, "save_rules", { p_groups: groups });
    expect(namesOf(await plan(query))).toEqual(["c", "b", "a"]);
  });

  it.for(
    [
      // Interval in s; evaluated at, and due again from, in s after midnight.
      [60, 0, 60],
      [60, 59.999, 60],
      [15, 0, 15],
      [300, 0, 300],
      [300, 299, 300],
      [300, 61, 300],
      [90, 0, 90],
      [86400, 3600, 86400],
    ] as const,
  )(
    "of an interval of %i s, evaluated at %i s, is due again at %i s and not before",
    async ([interval, evaluated, due], { query }) => {
      await setUp(query, [alerting()], interval);
      await record(
        query,
        (await plan(query)).map((rule) => result(rule)),
        MIDNIGHT + evaluated * SECOND,
      );
      const isDue = async (seconds: number) =>
        (await plan(query, MIDNIGHT + seconds * SECOND)).length === 1;
      expect([await isDue(evaluated), await isDue(due - 0.001), await isDue(due)]).toEqual([
        false,
        false,
        true,
      ]);
    },
  );

  it("is not shifted by runs that come late", async ({ query }) => {
    await setUp(query, [alerting()], 300);
    const evaluatedAt: number[] = [];
    for (const minute of range(30).filter((n) => n !== 5 && n !== 15)) { // no run at 5 and 15
      const due = await plan(query, NOON + minute * MINUTE);
      if (due.length > 0) evaluatedAt.push(minute);
      await record(query, due.map((rule) => result(rule)), NOON + minute * MINUTE);
    }
    expect(evaluatedAt).toEqual([0, 6, 10, 16, 20, 25]);
  });

  it.for([[10 * MINUTE, 0], [10 * MINUTE + 1, 1], [24 * HOUR, 1]] as const)(
    "of a rule that was evaluated %i ms ahead, by a clock that stood wrong, gives %i",
    async ([ahead, due], { query }) => {
      await setUp(query, [alerting()]);
      await record(query, [result((await plan(query))[0]!)], NOON + ahead);
      const rules = await plan(query, NOON);
      expect(rules).toHaveLength(due);
      expect(await record(query, rules.map((rule) => result(rule)))).toMatchObject({
        recorded: due,
      });
    },
  );

  it("is due at once when the rule has changed", async ({ query }) => {
    await setUp(query, [alerting()], 3600);
    await record(query, [result((await plan(query))[0]!)]);
    expect(await plan(query, NOON + MINUTE)).toEqual([]);
    await setUp(query, [alerting({ expr: "queue_depth > 1" })], 3600);
    expect(await plan(query, NOON + MINUTE)).toHaveLength(1);
  });

  it("is empty without rules", async ({ query }) => {
    await setUp(query, []);
    expect(await plan(query)).toEqual([]);
  });
});

describe("monitor.record_evaluation()", () => {
  const FIRING = [{ labels: { queue: "a" }, state: "firing" }];

  it("stores what a rule came to, and gives it to its next evaluation", async ({ query }) => {
    await setUp(query, [alerting()]);
    const [rule] = await plan(query);
    const answer = await record(query, [
      result(rule!, { instances: FIRING, evaluation_seconds: 0.25 }),
    ]);
    expect(answer).toEqual({
      ...{ recorded: 1, failed: 0, stale: 0, errors: [], samples: NO_SAMPLES },
      alerts: { ...UNCHANGED, opened: 1 },
    });
    expect((await plan(query, NOON + MINUTE))[0]!.state).toEqual({
      ...{ revision: 1, instances: FIRING, health: "ok", last_error: null },
      ...{ evaluated_at: NOON, evaluation_seconds: 0.25 },
    });
    await record(query, [result((await plan(query, NOON + MINUTE))[0]!)], NOON + MINUTE);
    expect(await readStates(query)).toMatchObject([{ instances: [], at: NOON + MINUTE }]);
  });

  it("keeps the instances of one that failed, stores why, and costs the others nothing", async ({ query }) => {
    await setUp(query, [alerting({ name: "a" }), alerting({ name: "b" }), recording()]);
    await record(query, (await plan(query)).map((rule) => result(rule, { instances: FIRING })));
    const rules = await plan(query, NOON + MINUTE);
    const error = "1:3: parse error: unexpected end of input";
    const answer = await record(query, [
      result(rules[0]!, { error, instances: [] }),
      result(rules[1]!, { instances: [] }),
      result(rules[2]!, { error: "x".repeat(2001), samples: [{ labels: {}, value: 1 }] }),
    ], NOON + MINUTE);
    expect(answer).toEqual({
      ...{ recorded: 3, failed: 2, stale: 0, samples: NO_SAMPLES, alerts: UNCHANGED },
      errors: [
        { group: "a test", rule: "a", error },
        { group: "a test", rule: recording().name, error: "x".repeat(2000) },
      ],
    });
    expect(await readStates(query)).toEqual([
      { name: "a", health: "err", last_error: error, instances: FIRING, at: NOON + MINUTE },
      { name: "b", health: "ok", last_error: null, instances: [], at: NOON + MINUTE },
      {
        ...{ name: recording().name, health: "err", last_error: "x".repeat(2000) },
        ...{ instances: FIRING, at: NOON + MINUTE },
      },
    ]);
    // An error is tried again at the next turn, and forgotten then.
    const again = await plan(query, NOON + 2 * MINUTE);
    await record(query, again.map((rule) => result(rule)), NOON + 2 * MINUTE);
    expect(await readStates(query)).toMatchObject(
      range(3).map(() => ({ health: "ok", last_error: null })),
    );
  });

  it("takes 1,000 instances, and has an error of the rule for more", async ({ query }) => {
    await setUp(query, [alerting({ name: "a" }), alerting({ name: "b" })]);
    const rules = await plan(query);
    const many = (count: number) => range(count).map((n) => ({ labels: { n: String(n) } }));
    const answer = await record(query, [
      result(rules[0]!, { instances: many(1000) }),
      result(rules[1]!, { instances: many(1001) }),
    ]);
    expect(answer).toMatchObject({ recorded: 2, failed: 1 });
    expect(await readStates(query)).toEqual([
      { name: "a", health: "ok", last_error: null, instances: many(1000), at: NOON },
      {
        ...{ name: "b", health: "err", instances: [], at: NOON },
        last_error: "the rule has 1001 alerts, and may have 1000",
      },
    ]);
  });

  it("drops the result of a rule that is gone, and records the others", async ({ query }) => {
    await setUp(query, [alerting(), recording()]);
    const results = (await plan(query)).map((rule) =>
      result(rule, { samples: [{ labels: {}, value: 1 }] })
    );
    await query("delete from monitor.alert_rules where kind = 'recording'");
    expect(await record(query, results)).toEqual({
      ...{ recorded: 1, failed: 0, stale: 1, errors: [] },
      ...{ samples: NO_SAMPLES, alerts: UNCHANGED },
    });
    expect(await readStates(query)).toMatchObject([{ name: alerting().name, health: "ok" }]);
    expect(await readSamples(query)).toEqual([]);
  });

  it("drops the result of a rule that has been changed meanwhile", async ({ query }) => {
    await setUp(query, [alerting()]);
    const results = (await plan(query)).map((rule) => result(rule, { instances: FIRING }));
    await setUp(query, [alerting({ expr: "queue_depth > 1" })]);
    expect(await record(query, results)).toMatchObject({ recorded: 0, stale: 1 });
    expect(await readStates(query)).toMatchObject([{ health: "unknown", instances: [] }]);
  });

  it("changes nothing when the same comes again", async ({ query }) => {
    await setUp(query, [alerting(), recording()]);
    const results = (await plan(query)).map((rule) =>
      result(rule, { instances: FIRING, samples: [{ labels: {}, value: 1 }] })
    );
    expect(await record(query, results)).toMatchObject({ recorded: 2, samples: { inserted: 1 } });
    const before = [await readStates(query), await readSamples(query)];
    expect(await record(query, results)).toMatchObject({
      recorded: 0,
      stale: 2,
      samples: NO_SAMPLES,
    });
    expect(await record(query, results, NOON + MINUTE)).toMatchObject({ recorded: 0, stale: 2 });
    expect([await readStates(query), await readSamples(query)]).toEqual(before);
  });

  it.for([[-1, 0], [0, 0], [1, 1]])(
    "of one evaluation %i ms after the stored one records %i",
    async ([after, recorded], { query }) => {
      await setUp(query, [alerting()]);
      await record(query, [result((await plan(query))[0]!)]);
      const [rule] = await plan(query, NOON + MINUTE);
      expect(await record(query, [result(rule!, { instances: FIRING })], NOON + after!))
        .toMatchObject({ recorded, stale: 1 - recorded! });
    },
  );

  it.for(
    [
      ["the earlier one comes first", 0, MINUTE],
      ["the later one comes first", MINUTE, 0],
    ] as const,
  )(
    "of two evaluators on one state records the first that comes, whole, when %s",
    async ([, first, second], { ownDatabase }) => {
      const clients = await Promise.all([ownDatabase.connect(), ownDatabase.connect()]);
      const [one, other] = clients.map(queryOf) as [Query, Query];
      await setUp(one, [alerting(), recording()]);
      const results = (rules: PlannedRule[], queue: string) =>
        rules.map((rule) =>
          result(rule, {
            instances: [{ labels: { queue } }],
            samples: [{ labels: { queue }, value: 1 }],
          })
        );
      const [ofOne, ofOther] = [await plan(one, NOON + first), await plan(other, NOON + second)];

      await one("begin");
      const answer = await record(one, results(ofOne, "first"), NOON + first);
      const waiting = record(other, results(ofOther, "second"), NOON + second);
      await one("commit");

      expect(answer).toMatchObject({ recorded: 2, stale: 0, samples: { inserted: 1 } });
      expect(await waiting).toMatchObject({ recorded: 0, stale: 2, samples: NO_SAMPLES });
      expect(await readStates(one)).toMatchObject(
        range(2).map(() => ({ instances: [{ labels: { queue: "first" } }], at: NOON + first })),
      );
      expect(await readSamples(one)).toEqual([{
        labels: { queue: "first" },
        value: 1,
        at: NOON + first,
      }]);
    },
  );

  it("waits for rules that are being saved, and drops those that are gone by then", async ({ ownDatabase }) => {
    const clients = await Promise.all([ownDatabase.connect(), ownDatabase.connect()]);
    const [saver, evaluator] = clients.map(queryOf) as [Query, Query];
    await setUp(saver, [alerting({ name: "a" }), alerting({ name: "b" })]);
    const results = (await plan(evaluator)).map((rule) => result(rule));

    await saver("begin");
    await setUp(saver, [alerting({ name: "b" })]);
    const waiting = record(evaluator, results);
    await saver("commit");
    expect(await waiting).toMatchObject({ recorded: 1, stale: 1 });
  });

  it.for(
    [
      ["record_evaluation", { p_results: [], p_now: iso(NOON) }],
      ["save_rules", { p_groups: [] }],
      ["delete_rules", { p_group: "a test" }],
    ] as const,
  )("and monitor.%s() take turns", async ([name, args], { ownDatabase }) => {
    const clients = await Promise.all([ownDatabase.connect(), ownDatabase.connect()]);
    const [one, other] = clients.map(queryOf) as [Query, Query];
    const isFree = async () =>
      (await other(
        "select pg_try_advisory_lock(hashtext('monitor.alert_rules')) as is_free, pg_advisory_unlock_all()",
      )).rows[0]!.is_free;
    await one("begin");
    await rpc(one, name, args);
    expect(await isFree()).toBe(false);
    await one("rollback");
    expect(await isFree()).toBe(true);
  });

  it("stores what is recorded under the rule's name and the time of the evaluation", async ({ query }) => {
    await setUp(query, [recording()]);
    const [rule] = await plan(query);
    const samples = [
      { labels: { job: "a" }, value: 0.5 },
      { labels: {}, value: -1e300, metric: "of_another" },
    ];
    const answer = await record(query, [result(rule!, { samples })]);
    expect(answer).toMatchObject({ samples: { ...NO_SAMPLES, inserted: 2 } });
    expect(await readSamples(query)).toEqual([
      { labels: { job: "a" }, value: 0.5, at: NOON },
      { labels: {}, value: -1e300, at: NOON },
    ]);
    const { rows } = await query(
      "select category, unit, kind, is_ingestible, is_recorded from monitor.metric_definitions where metric = $1",
      [recording().name],
    );
    expect(rows).toEqual([
      {
        ...{ category: "workflow", unit: "unknown", kind: "gauge" },
        ...{ is_ingestible: false, is_recorded: true },
      },
    ]);
  });

  it("writes into no metric that is measured or sent", async ({ query }) => {
    const names = ["taken_by_a_collector", "taken_by_a_sender"];
    await setUp(query, [...names.map((name) => recording({ name })), recording()]);
    const samples = [{ labels: {}, value: 1 }];
    const results = (await plan(query)).map((rule) => result(rule, { samples }));
    for (const [index, metric] of names.entries()) {
      await addMetric(query, { metric, is_ingestible: index === 1 });
    }
    const errorOf = (name: string) =>
      `${name} is measured or sent: record under a name that nobody else writes`;
    expect(await record(query, results)).toMatchObject({
      ...{ failed: 2, samples: { inserted: 1 } },
      errors: names.map((rule) => ({ group: "a test", rule, error: errorOf(rule) })),
    });
    expect(await readStates(query)).toMatchObject([
      ...names.map((name) => ({ health: "err", last_error: errorOf(name) })),
      { health: "ok" },
    ]);
    // From then on the plan says so.
    expect((await plan(query, NOON + MINUTE)).map(({ refusal }) => refusal)).toEqual([
      ...names.map(errorOf),
      null,
    ]);
    for (const name of names) expect(await readSamples(query, name)).toEqual([]);
  });

  it("leaves the definition of a metric that is there as it is", async ({ query }) => {
    const name = await addMetric(query, { unit: "ratio", is_recorded: true });
    await setUp(query, [recording({ name })]);
    const [rule] = await plan(query);
    await record(query, [result(rule!, { samples: [{ labels: {}, value: 1 }] })]);
    expect(await readSamples(query, name)).toHaveLength(1);
    const { rows } = await query("select unit from monitor.metric_definitions where metric = $1", [
      name,
    ]);
    expect(rows).toEqual([{ unit: "ratio" }]);
  });

  it("opens the day that it records on, and names samples it cannot store", async ({ query }) => {
    await setUp(query, [recording()]);
    const at = NOON + 100 * DAY;
    const [rule] = await plan(query, at);
    const samples = [
      { labels: { job: "a" }, value: 1 },
      { labels: { job: "" }, value: 1 },
      { labels: {}, value: "NaN" },
    ];
    const answer = await record(query, [result(rule!, { samples })], at);
    expect(answer).toMatchObject({
      recorded: 1,
      failed: 1,
      errors: [{
        rule: recording().name,
        error: expect.stringMatching(/^2 samples could not be stored: ./),
      }],
      samples: {
        inserted: 1,
        rejected: [
          { labels: { job: "" }, reason: expect.stringContaining("labels") },
          { labels: {}, reason: "value is not a finite number" },
        ],
      },
    });
  });

  it("has an error of a rule whose samples cannot be stored, and of no other", async ({ query }) => {
    await setUp(query, [recording(), recording({ name: "other" }), alerting({ name: "a" })]);
    const [broken, ...others] = await plan(query);
    const samples = [{ labels: { job: "a" }, value: 1 }];
    await record(query, [
      result(broken!, { samples: [...samples, { labels: { job: "" }, value: 1 }] }),
      ...others.map((rule) => result(rule, { samples })),
    ]);
    expect(await readStates(query)).toMatchObject([
      {
        health: "err",
        last_error: "1 samples could not be stored: labels are not an object of non-empty strings",
      },
      { health: "ok", last_error: null },
      { health: "ok", last_error: null },
    ]);
    const again = await plan(query, NOON + MINUTE);
    await record(query, again.map((rule) => result(rule, { samples })), NOON + MINUTE);
    expect(await readStates(query)).toMatchObject(range(3).map(() => ({ health: "ok" })));
  });

  it("knows since when a rule fails, whether its evaluation or its samples fail, until it does not", async ({ query }) => {
    await setUp(query, [recording()]);
    const evaluate = async (minute: number, more: object) => {
      const at = NOON + minute * MINUTE;
      await record(query, (await plan(query, at)).map((rule) => result(rule, more)), at);
      const { rows } = await query<{ since: number | null }>(
        "select (monitor.epoch_ms(failing_since)::float8 - $1) / 60000 as since from monitor.rule_states",
        [NOON],
      );
      return rows[0]!.since;
    };
    const rejected = { samples: [{ labels: { job: "" }, value: 1 }] };
    expect(await evaluate(0, {})).toBeNull();
    expect(await evaluate(1, { error: "no" })).toBe(1);
    expect(await evaluate(2, rejected)).toBe(1);
    expect(await evaluate(3, { error: "no" })).toBe(1);
    expect(await evaluate(4, {})).toBeNull();
    expect(await evaluate(5, rejected)).toBe(5);
    expect(await evaluate(6, rejected)).toBe(5);
  });

  it("tells the errors of 20 rules, in order, and counts them all", async ({ query }) => {
    const names = range(21).map((n) => `r${n}`);
    await setUp(query, names.map((name) => alerting({ name })));
    const fail = async (count: number, at: number) => {
      const rules = await plan(query, at);
      const results = rules.map((rule, index) =>
        result(rule, index < count ? { error: "no" } : {})
      );
      return await record(query, results, at) as { failed: number; errors: { rule: string }[] };
    };
    for (const count of [20, 21]) {
      const { failed, errors } = await fail(count, NOON + count * MINUTE);
      expect(failed).toBe(count);
      expect(errors.map(({ rule }) => rule)).toEqual(names.slice(0, 20));
    }
  });

  it("takes no samples of alerting rules", async ({ query }) => {
    await setUp(query, [alerting({ name: "queue_depth_high" })]);
    const [rule] = await plan(query);
    const samples = [{ labels: {}, value: 1 }];
    expect(await record(query, [result(rule!, { samples })])).toMatchObject({
      samples: NO_SAMPLES,
    });
  });

  it("makes alerts of what it stores and of the components it is given, and tells them", async ({ query }) => {
    await setUp(query, [alerting({ severity: "critical" })]);
    await addChannel(query);
    await query("select monitor.save_route('all', '{ops}', p_group_wait_seconds => 0)");
    const evaluate = async (minute: number, instances: object[], components: object[] | null) => {
      const at = NOON + minute * MINUTE;
      const results = (await plan(query, at)).map((rule) => result(rule, { instances }));
      const { alerts } = await rpc<{ alerts: object }>(query, "record_evaluation", {
        ...{ p_results: results, p_now: iso(at), p_components: components },
      });
      const { rows } = await query(
        "select name, severity, state from monitor.system_alerts order by name",
      );
      return { alerts, rows };
    };
    const broken = { component: "storage", status: "degraded", reason: "no room" };
    const firing = { name: alerting().name, severity: "critical", state: "firing" };
    const unhealthy = { name: "ComponentUnhealthy", severity: "warning", state: "pending" };
    expect(await evaluate(0, FIRING, [broken])).toMatchObject({
      alerts: { opened: 2, told: 1 },
      rows: [unhealthy, firing],
    });
    // What is not known has not changed.
    expect(await evaluate(1, FIRING, null)).toEqual({
      alerts: UNCHANGED,
      rows: [unhealthy, firing],
    });
    expect(await evaluate(2, [], [{ ...broken, status: "healthy" }])).toMatchObject({
      alerts: { resolved: 2 },
      rows: [{ ...unhealthy, state: "resolved" }, { ...firing, state: "resolved" }],
    });
  });

  it.for<[string, unknown, string | null, unknown]>([
    ["no array", {}, iso(NOON), null],
    ["null", null, iso(NOON), null],
    ["no time", [], null, null],
    ["components that are no array", [], iso(NOON), {}],
  ])(
    "refuses %s",
    async ([, p_results, p_now, p_components], { query }) => {
      await expect(rpc(query, "record_evaluation", { p_results, p_now, p_components })).rejects
        .toMatchObject({ code: "22023", hint: expect.any(String) });
    },
  );

  it("is for service_role and the owner", async ({ asUser, asAnon }) => {
    for (const somebody of [asUser(""), asAnon]) {
      await expect(plan(somebody)).rejects.toMatchObject({ code: "42501" });
      await expect(record(somebody, [])).rejects.toMatchObject({ code: "42501" });
    }
  });

  it("rewrites states on their pages, without touching an index", async ({ query }) => {
    const count = async () =>
      (await query<{ all: number; hot: number }>(
        `select pg_stat_get_xact_tuples_updated(id)::int as all, pg_stat_get_xact_tuples_hot_updated(id)::int as hot
         from (select 'monitor.rule_states'::regclass::oid as id) as state`,
      )).rows[0]!;
    await setUp(query, range(400).map((n) => alerting({ name: `r${n}` })));
    const rules = await plan(query);
    const before = await count();
    await record(query, rules.map((rule) => result(rule)));
    const after = await count();
    expect([after.all - before.all, after.hot - before.hot]).toEqual([400, 400]);
  });

  it("does 2,000 rules with 10 alerts each well within the time of a call", async ({ query }) => {
    await setUp(query, range(2000).map((n) => alerting({ name: `r${n}` })));
    const evaluate = async (minute: number, value: string) => {
      const rules = await plan(query, NOON + minute * MINUTE);
      const results = rules.map((rule) =>
        result(rule, {
          instances: range(10).map((n) => ({
            ...{ labels: { alertname: rule.name, n: String(n) }, state: "firing" },
            ...{ annotations: { summary: "Much to do" }, last_value: value, no_data: false },
            ...{ active_at: iso(NOON), fired_at: iso(NOON) },
          })),
        })
      );
      // The fixture cuts a statement at 8 s, as the API does.
      return await record(query, results, NOON + minute * MINUTE);
    };
    const recorded = { recorded: 2000, stale: 0 };
    expect(await evaluate(0, "1")).toMatchObject({ ...recorded, alerts: { opened: 20_000 } });
    expect(await evaluate(1, "1")).toMatchObject({ ...recorded, alerts: UNCHANGED });
    expect(await evaluate(2, "2")).toMatchObject({ ...recorded, alerts: UNCHANGED }); // each has changed
  });
});
