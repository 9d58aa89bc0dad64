import { readdirSync, readFileSync } from "node:fs";
import { describe, expect } from "vitest";
import { parseRuleFile } from "../../shared/alerting/rule-file.ts";
import { labelsOf } from "../../shared/alerting/rule.ts";
import { parseRuleGroups } from "../../shared/contract/rules.ts";
import { it, type Query, queryOf, rpc } from "./database.ts";
import { addAdmin, addMetric, addUser, iso, MINUTE, NOON, range } from "./seeds.ts";

interface Counts {
  inserted: number;
  updated: number;
  unchanged: number;
  deleted: number;
  unlisted: number;
}

interface StoredRule extends Record<string, unknown> {
  rule_id: number;
  name: string;
  state: Record<string, unknown>;
}

interface StoredGroup {
  name: string;
  interval_seconds: number;
  rules: StoredRule[];
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
const group = (rules: readonly unknown[], more: object = {}) => ({
  name: "a test",
  rules,
  ...more,
});

const save = (query: Query, groups: unknown, replace = false, at = NOON) =>
  rpc<Counts>(query, "save_rules", { p_groups: groups, p_replace: replace, p_now: iso(at) });

const counts = (more: Partial<Counts>): Counts => ({
  ...{ inserted: 0, updated: 0, unchanged: 0, deleted: 0, unlisted: 0 },
  ...more,
});

/** The group of the test: the shipped ones are there too. */
const readGroup = async (query: Query, name = "a test"): Promise<StoredGroup | undefined> =>
  (await rpc<StoredGroup[]>(query, "read_rules")).find((known) => known.name === name);
const readRules = async (query: Query) => (await readGroup(query))?.rules ?? [];
const namesOf = (rules: readonly StoredRule[]) => rules.map(({ name }) => name);

/** Puts the rules of the test into a state as after an evaluation at noon. */
const evaluate = (query: Query) =>
  query(
    `update monitor.rule_states as state
     set revision = 7, instances = '[{"labels": {}}]', failing_since = $1, health = 'ok', evaluated_at = $1, evaluation_seconds = 0.1
     from monitor.alert_rules as rule
     where rule.rule_id = state.rule_id and rule.group_name = 'a test'`,
    [iso(NOON)],
  );

const NEW_STATE = {
  ...{ revision: 0, instances: [], health: "unknown", last_error: null },
  ...{ evaluated_at: null, evaluation_seconds: null },
};
const OLD_STATE = {
  ...{ revision: 7, instances: [{ labels: {} }], health: "ok", last_error: null },
  ...{ evaluated_at: NOON, evaluation_seconds: 0.1 },
};

describe("monitor.save_rules()", () => {
  it("gives what is left out, or null, its default", async ({ query }) => {
    const groups = [group([alerting(), recording({ labels: null, enabled: null })])];
    expect(await save(query, groups)).toEqual(counts({ inserted: 2 }));
    const common = {
      ...{ rule_id: expect.any(Number), for_seconds: 0, keep_firing_for_seconds: 0 },
      ...{ hold_count: null, hold_window: null, clear_expr: null },
      ...{ labels: {}, annotations: {}, no_data_policy: "keep", runbook_url: null },
      ...{ mode: "live", enabled: true, state: NEW_STATE },
    };
    expect(await readGroup(query)).toEqual({
      name: "a test",
      interval_seconds: 60,
      rules: [
        { ...common, ...alerting(), severity: "warning" },
        { ...common, ...recording(), severity: null },
      ],
    });
  });

  it("keeps all that it is given", async ({ query }) => {
    const rule = alerting({
      ...{ for_seconds: 120.5, keep_firing_for_seconds: 60 },
      ...{ labels: { severity: "page", team: "ops", gone: "" } },
      ...{ annotations: { summary: "{{ $labels.queue }} ✓" } },
      ...{ no_data_policy: "alert", severity: "critical", mode: "shadow", enabled: false },
      runbook_url: "https://runbooks.test/queue",
    });
    const other = alerting({
      ...{ name: "Other", hold_count: 3, hold_window: 5, clear_expr: "queue_depth < 500" },
    });
    await save(query, [group([rule, other], { interval_seconds: 300 })]);
    expect(await readGroup(query)).toMatchObject({ interval_seconds: 300, rules: [rule, other] });
  });

  it.for([
    [{ severity: "critical" }, "critical"],
    [{ severity: "info" }, "info"],
    [{ severity: "page" }, "warning"],
    [{}, "warning"],
  ])("makes of the labels %o the severity %s", async ([labels, severity], { query }) => {
    await save(query, [group([alerting({ labels })])]);
    expect(await readRules(query)).toMatchObject([{ severity }]);
  });

  it("changes nothing when the same comes again, nor says in the audit log that it did", async ({ query }) => {
    const groups = [group([alerting(), recording()])];
    await save(query, groups);
    const before = await readGroup(query);
    const entries = async () =>
      (await query("select count(*)::int as n from monitor.audit_log")).rows[0]!.n;
    const logged = await entries();
    for (const replace of [false, true]) {
      expect(await save(query, groups, replace, NOON + MINUTE)).toEqual(counts({ unchanged: 2 }));
    }
    expect(await readGroup(query)).toEqual(before);
    expect(await entries()).toBe(logged);
  });

  it("tells rules of one name apart by their labels, and by their kind", async ({ query }) => {
    const groups = [group([
      alerting({ labels: { severity: "warning" } }),
      alerting({ labels: { severity: "critical" }, expr: "queue_depth > 5000" }),
      alerting({ name: "x" }),
      recording({ name: "x" }),
    ])];
    expect(await save(query, groups)).toEqual(counts({ inserted: 4 }));
    expect(await save(query, groups)).toEqual(counts({ unchanged: 4 }));
  });

  it("leaves other rules of the group where they are, and adds to its end", async ({ query }) => {
    const named = (...names: string[]) => names.map((name) => alerting({ name }));
    await save(query, [group(named("b", "a", "c"))]);
    expect(await save(query, [group(named("d", "c", "e"))])).toEqual(
      counts({ inserted: 2, unchanged: 1, unlisted: 2 }),
    );
    expect(namesOf(await readRules(query))).toEqual(["b", "a", "c", "d", "e"]);
  });

  it("makes the group what is listed when it is to replace it, and touches no other", async ({ query }) => {
    const named = (...names: string[]) => names.map((name) => alerting({ name }));
    await save(query, [group(named("b", "a", "c")), group(named("a"), { name: "another test" })]);
    expect(await save(query, [group(named("c", "d", "a"))], true)).toEqual(
      counts({ inserted: 1, updated: 2, deleted: 1 }),
    );
    expect(namesOf(await readRules(query))).toEqual(["c", "d", "a"]);
    expect((await readGroup(query, "another test"))?.rules).toHaveLength(1);

    expect(await save(query, [group([])], true)).toEqual(counts({ deleted: 3 }));
    expect(await readGroup(query)).toBeUndefined();
  });

  it("counts the rules of all given groups that it leaves alone, in a dry run too", async ({ query }) => {
    const named = (...names: string[]) => names.map((name) => alerting({ name }));
    const both = (...names: string[]) => [
      group(named(...names)),
      group(named(...names), { name: "another test" }),
    ];
    await save(query, [...both("a", "b", "c"), group(named("a"), { name: "a third test" })]);
    for (const p_dry_run of [true, false]) {
      expect(await rpc(query, "save_rules", { p_groups: both("a", "d"), p_dry_run }))
        .toEqual(counts({ inserted: 2, unchanged: 2, unlisted: 4 }));
    }
    expect(await save(query, [group([])])).toEqual(counts({ unlisted: 4 }));
  });

  it("switches a rule on or off only when told to", async ({ query }) => {
    const isEnabled = async () => (await readRules(query)).map(({ enabled }) => enabled);
    await save(query, [group([alerting({ enabled: false })])]);
    for (const replace of [false, true]) {
      expect(await save(query, [group([alerting()])], replace)).toEqual(counts({ unchanged: 1 }));
      expect(await isEnabled()).toEqual([false]);
    }
    await save(query, [group([alerting({ enabled: null, expr: "1" })])]);
    expect(await isEnabled()).toEqual([false]);
    await save(query, [group([alerting({ enabled: true })])]);
    expect(await isEnabled()).toEqual([true]);
    await save(query, [group([alerting({ expr: "1" }), alerting({ name: "new" })])]);
    expect(await isEnabled()).toEqual([true, true]);
  });

  it.for([[false], [true]])(
    "refuses to record a metric that others write, when dry is %s, and names it",
    async ([p_dry_run], { query }) => {
      const [measured, recorded] = [
        await addMetric(query),
        await addMetric(query, { is_recorded: true }),
      ];
      const trySave = (rule: object) =>
        rpc(query, "save_rules", { p_groups: [group([alerting(), rule])], p_dry_run });
      await expect(trySave(recording({ name: measured }))).rejects.toMatchObject({
        code: "22023",
        message:
          `rule 2 of group "a test": ${measured} is measured or sent: record under a name that nobody else writes`,
      });
      expect(await readGroup(query)).toBeUndefined();
      for (const rule of [recording({ name: recorded }), alerting({ name: measured })]) {
        expect(await trySave(rule)).toMatchObject({ inserted: expect.any(Number) });
      }
    },
  );

  it("keeps the interval of a group unless it is given, or the group replaced", async ({ query }) => {
    const interval = async () => (await readGroup(query))?.interval_seconds;
    await save(query, [group([alerting()], { interval_seconds: 300 })]);
    await save(query, [group([recording()])]);
    expect(await interval()).toBe(300);
    await save(query, [group([recording()], { interval_seconds: 30 })]);
    expect(await interval()).toBe(30);
    await save(query, [group([recording()])], true);
    expect(await interval()).toBe(60);
  });

  const FORGOTTEN = { ...NEW_STATE, revision: 8 };
  const TO_EVALUATE = { ...FORGOTTEN, instances: OLD_STATE.instances };

  it.for<[object, object]>([
    [{ expr: "queue_depth > 2000" }, TO_EVALUATE],
    [{ for_seconds: 60 }, TO_EVALUATE],
    [{ hold_count: 1, hold_window: 1 }, TO_EVALUATE],
    [{ clear_expr: "queue_depth < 500" }, TO_EVALUATE],
    [{ enabled: false }, FORGOTTEN],
    [{ enabled: false, for_seconds: 60 }, FORGOTTEN],
    [{ annotations: { summary: "Much to do" } }, OLD_STATE],
    [{ keep_firing_for_seconds: 60 }, OLD_STATE],
    [{ no_data_policy: "ok" }, OLD_STATE],
    [{ severity: "critical" }, OLD_STATE],
    [{ runbook_url: "https://runbooks.test" }, OLD_STATE],
    [{ mode: "shadow" }, OLD_STATE],
  ])("after a change to %o has the state %o", async ([change, state], { query }) => {
    await save(query, [group([alerting()])]);
    await evaluate(query);
    expect(await save(query, [group([alerting(change)])])).toEqual(counts({ updated: 1 }));
    expect(await readRules(query)).toMatchObject([{
      ...change,
      state,
    }]);
  });

  it.for<[object, object]>([
    [{ hold_count: 2 }, TO_EVALUATE],
    [{ hold_window: 6 }, TO_EVALUATE],
    [{ clear_expr: "queue_depth < 1" }, TO_EVALUATE],
    [{ clear_expr: null }, TO_EVALUATE],
    [{ hold_count: null, hold_window: null, for_seconds: 60 }, TO_EVALUATE],
    [{ hold_window: 6, enabled: false }, FORGOTTEN],
    [{ mode: "shadow" }, OLD_STATE],
  ])("of how often it has to hold, and of what clears it, to %o likewise: %o", async (
    [change, state],
    { query },
  ) => {
    const rule = (more: object = {}) =>
      alerting({ hold_count: 3, hold_window: 5, clear_expr: "queue_depth < 500", ...more });
    await save(query, [group([rule()])]);
    await evaluate(query);
    expect(await save(query, [group([rule()])])).toEqual(counts({ unchanged: 1 }));
    expect(await readRules(query)).toMatchObject([{ state: OLD_STATE }]);
    expect(await save(query, [group([rule(change)])])).toEqual(counts({ updated: 1 }));
    expect(await readRules(query)).toMatchObject([{ ...rule(change), state }]);
  });

  it.for(["hold_count = 2", "hold_window = 6", "clear_expr = null"])(
    "so it is when the row itself gets %s",
    async (change, { query }) => {
      await save(query, [group([alerting({ hold_count: 3, hold_window: 5, clear_expr: "1" })])]);
      await evaluate(query);
      await query(`update monitor.alert_rules set ${change} where group_name = 'a test'`);
      expect(await readRules(query)).toMatchObject([{ state: TO_EVALUATE }]);
    },
  );

  it("forgets it also when the row itself is changed, and takes it away with the rule", async ({ query }) => {
    await save(query, [group([alerting()])]);
    await evaluate(query);
    const states = () =>
      query(
        "select revision::int, failing_since is not null as is_failing from monitor.rule_states join monitor.alert_rules using (rule_id) where group_name = 'a test'",
      );
    await query("update monitor.alert_rules set labels = labels where group_name = 'a test'");
    expect((await states()).rows).toEqual([{ revision: 7, is_failing: true }]);
    await query(`update monitor.alert_rules set labels = '{"a": "b"}' where group_name = 'a test'`);
    expect((await states()).rows).toEqual([{ revision: 8, is_failing: false }]);
    const all = async () => (await query("select from monitor.rule_states")).rowCount;
    const before = await all();
    await query("delete from monitor.alert_rules where group_name = 'a test'");
    expect(await all()).toBe(before! - 1);
  });

  it.for<[string, object, string]>([
    ["an unknown kind", { kind: "paging" }, "23514"],
    ["no kind", { kind: null }, "23502"],
    ["no name", { name: null }, "23502"],
    ["an empty name", { name: "" }, "23514"],
    ["no expression", { expr: null }, "23502"],
    ["an empty expression", { expr: " \n\t" }, "23514"],
    ["a negative duration", { for_seconds: -1 }, "23514"],
    ["a duration that is none", { keep_firing_for_seconds: "5m" }, "22P02"],
    ["a hold without a window", { hold_count: 1 }, "23514"],
    ["a window without a hold", { hold_window: 1 }, "23514"],
    ["a hold of none", { hold_count: 0, hold_window: 1 }, "23514"],
    ["a hold of less than none", { hold_count: -1, hold_window: 1 }, "23514"],
    ["more of a window than it has", { hold_count: 4, hold_window: 3 }, "23514"],
    ["a hold that is half", { hold_count: 1.5, hold_window: 3 }, "22P02"],
    ["a hold and a duration", { hold_count: 1, hold_window: 1, for_seconds: 0.5 }, "23514"],
    ["an empty clear expression", { clear_expr: "" }, "23514"],
    ["a clear expression of spaces", { clear_expr: " \n\t" }, "23514"],
    ["a clear expression that is a template", { clear_expr: 'x{a="{{"}' }, "23514"],
    ["labels that are no object", { labels: ["a"] }, "23514"],
    ["a label that is no text", { labels: { a: 1 } }, "23514"],
    ["a label that is null", { labels: { a: null } }, "23514"],
    ["a label of a wrong name", { labels: { "a-b": "c" } }, "23514"],
    ["a label that is the metric", { labels: { __name__: "c" } }, "23514"],
    ["an annotation that is no text", { annotations: { a: {} } }, "23514"],
    ["an unknown policy", { no_data_policy: "ignore" }, "23514"],
    ["an unknown severity", { severity: "page" }, "23514"],
    ["an unknown mode", { mode: "dry" }, "23514"],
    ["a runbook of another scheme", { runbook_url: "javascript:alert(1)" }, "23514"],
    ["a runbook with a space", { runbook_url: "https://a b" }, "23514"],
    ["a field nobody knows", { interval: "5m" }, "22023"],
    ["the columns of others", { rule_id: 1 }, "22023"],
    ["a recording rule with annotations", recording({ annotations: { a: "b" } }), "23514"],
    ["a recording rule with for", recording({ for_seconds: 1 }), "23514"],
    ["a recording rule with keep_firing_for", recording({ keep_firing_for_seconds: 1 }), "23514"],
    ["a recording rule with a hold", recording({ hold_count: 1, hold_window: 1 }), "23514"],
    ["a recording rule with a clear expression", recording({ clear_expr: "1" }), "23514"],
    ["a recording rule with a severity", recording({ severity: "info" }), "23514"],
    ["a recording rule with a runbook", recording({ runbook_url: "https://a" }), "23514"],
    ["a metric of a wrong name", recording({ name: "a-b" }), "23514"],
  ])("refuses %s, says where, and saves nothing", async ([, change, code], { query }) => {
    const groups = [group([alerting({ name: "good" }), alerting(change)])];
    await expect(save(query, groups)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(/^rule 2 of group "a test": ./),
    });
    expect(await readGroup(query)).toBeUndefined();
  });

  it("names what in a rule it does not know", async ({ query }) => {
    await expect(save(query, [group([alerting({ fro: 1 })])])).rejects.toMatchObject({
      message: 'rule 1 of group "a test": has unknown fields: {"fro": 1}',
    });
  });

  it.for<[string, unknown, string]>([
    ["no array", {}, "p_groups must be"],
    ["null", null, "p_groups must be"],
    ["a group that is no object", ["a"], "group 1: is no object"],
    ["a group without rules", [{ name: "a test" }], 'group "a test": is no object'],
    ["a field nobody knows", [group([], { limit: 3 })], 'group "a test": is no object'],
    ["a group without a name", [{ rules: [alerting()] }], "group 1: null value"],
    ["an empty name", [group([alerting()], { name: "" })], 'group "": '],
    [
      "one group twice",
      [group([alerting()]), group([recording()])],
      'group "a test": is there more than once',
    ],
    [
      "one rule twice",
      [group([alerting(), recording(), alerting({ expr: "1" })])],
      'rule 3 of group "a test": has the name and the labels',
    ],
    ["a rule that is none", [group([7])], 'rule 1 of group "a test": is no object'],
    ["an interval of 0", [group([alerting()], { interval_seconds: 0 })], 'group "a test": '],
    [
      "an interval of a day and more",
      [group([alerting()], { interval_seconds: 86401 })],
      'group "a test": ',
    ],
    ["an interval that is none", [group([alerting()], { interval_seconds: "5m" })], "p_groups: "],
  ])("refuses %s", async ([, groups, message], { query }) => {
    await expect(save(query, groups)).rejects.toMatchObject({
      code: expect.stringMatching(/^2[23]/),
      message: expect.stringContaining(message),
    });
    expect(await readGroup(query)).toBeUndefined();
  });

  it.for<[string, (count: number) => object, number]>([
    ["characters of an alert's name", (count) => alerting({ name: "é".repeat(count) }), 200],
    ["characters of a metric", (count) => recording({ name: "a".repeat(count) }), 200],
    ["bytes of an expression", (count) => alerting({ expr: "1".repeat(count) }), 16384],
    ["bytes of a clear expression", (count) => alerting({ clear_expr: "1".repeat(count) }), 16384],
    ["evaluations", (count) => alerting({ hold_count: 1, hold_window: count }), 60],
    ["evaluations to hold in", (count) => alerting({ hold_count: count, hold_window: 60 }), 60],
    ["seconds of for", (count) => alerting({ for_seconds: count }), 31536000],
    [
      "seconds of keep_firing_for",
      (count) => alerting({ keep_firing_for_seconds: count }),
      31536000,
    ],
    [
      "bytes of labels",
      (count) => alerting({ labels: { a: "b".repeat(count - '{"a": ""}'.length) } }),
      8192,
    ],
    [
      "bytes of annotations",
      (count) => alerting({ annotations: { a: "b".repeat(count - '{"a": ""}'.length) } }),
      65536,
    ],
    [
      "characters of a runbook",
      (count) => alerting({ runbook_url: "https://a/".padEnd(count, "b") }),
      2000,
    ],
  ])("takes as many %s as may be, and no more", async ([, rule, limit], { query }) => {
    expect(await save(query, [group([rule(limit)])])).toEqual(counts({ inserted: 1 }));
    await expect(save(query, [group([rule(limit + 1)])])).rejects.toMatchObject({ code: "23514" });
  });

  it("takes an interval from a second to a day, and a group's name of 200 characters", async ({ query }) => {
    for (const interval_seconds of [1, 86400]) {
      await save(query, [group([alerting()], { interval_seconds })]);
      expect((await readGroup(query))?.interval_seconds).toBe(interval_seconds);
    }
    await save(query, [group([alerting()], { name: "g".repeat(200) })]);
    await expect(save(query, [group([alerting()], { name: "g".repeat(201) })])).rejects
      .toMatchObject({ code: "23514" });
  });

  it("takes 2,000 rules in all, and no more", async ({ query }) => {
    await query("delete from monitor.alert_rules");
    const named = (count: number) => group(range(count).map((n) => alerting({ name: `r${n}` })));
    expect(await save(query, [named(2000)])).toEqual(counts({ inserted: 2000 }));
    await expect(save(query, [named(2001)])).rejects.toMatchObject({
      code: "54000",
      message: "there would be 2001 rules, and may be 2000",
    });
    expect(await readRules(query)).toHaveLength(2000);
  });

  it("says in a dry run what it would do, and does nothing", async ({ query }) => {
    await save(query, [group([alerting(), recording()])]);
    const before = await rpc(query, "read_rules");
    const entries = async () =>
      (await query("select count(*)::int as n from monitor.audit_log")).rows[0]!.n;
    const logged = await entries();
    const changed = group([alerting({ expr: "queue_depth > 1" }), alerting({ name: "New" })]);
    const dry = (groups: unknown) =>
      rpc<Counts>(query, "save_rules", { p_groups: groups, p_replace: true, p_dry_run: true });
    const would = await dry([changed]);
    expect(would).toEqual(counts({ inserted: 1, updated: 1, deleted: 1 }));
    await expect(dry([group([alerting({ expr: "" })])])).rejects.toMatchObject({ code: "23514" });
    expect(await rpc(query, "read_rules")).toEqual(before);
    expect(await entries()).toBe(logged);
    expect(await save(query, [changed], true)).toEqual(would);
  });

  it("is recorded: who, what, before and after", async ({ query, asOwner }) => {
    await save(query, [group([alerting()])]);
    await save(query, [group([alerting({ expr: "queue_depth > 1" })])]);
    await rpc(query, "delete_rules", { p_group: "a test" });
    const { rows } = await asOwner(
      `select actor, action, before ->> 'expr' as before, after ->> 'expr' as after from monitor.audit_log
       where object = 'alert_rules' and coalesce(after, before) ->> 'group_name' = 'a test' order by entry_id`,
    );
    const actor = "service_role";
    expect(rows).toEqual([
      { actor, action: "insert", before: null, after: "queue_depth > 1000" },
      { actor, action: "update", before: "queue_depth > 1000", after: "queue_depth > 1" },
      { actor, action: "delete", before: "queue_depth > 1", after: null },
    ]);
  });

  it("is for service_role and the owner; admins read", async ({ query, asOwner, asUser, asAnon }) => {
    await save(asOwner, [group([alerting()])]);
    const admin = asUser(await addAdmin(asOwner));
    for (const somebody of [admin, asUser(await addUser(asOwner)), asAnon]) {
      await expect(save(somebody, [group([alerting()])])).rejects.toMatchObject({ code: "42501" });
      await expect(rpc(somebody, "delete_rules", { p_group: "a test" })).rejects.toMatchObject({
        code: "42501",
      });
    }
    for (const table of ["rule_groups", "alert_rules", "rule_states"]) {
      const seen = async (as: Query) => (await as(`select from monitor.${table}`)).rowCount;
      expect(await seen(admin)).toBe(await seen(query));
      expect(await seen(asUser(await addUser(asOwner)))).toBe(0);
    }
  });

  it("lets two save at once, one after the other", async ({ ownDatabase }) => {
    const [one, other] = await Promise.all([ownDatabase.connect(), ownDatabase.connect()]);
    await one.query("begin");
    await save(queryOf(one), [group([alerting(), recording()])]);
    const second = save(queryOf(other), [group([recording(), alerting({ expr: "1" })])]);
    await one.query("commit");
    expect(await second).toEqual(counts({ updated: 1, unchanged: 1 }));
  });
});

describe("monitor.delete_rules()", () => {
  it("deletes a group and says how many rules it had", async ({ query }) => {
    await save(query, [group([alerting(), recording()]), group([alerting()], { name: "b test" })]);
    expect(await rpc(query, "delete_rules", { p_group: "a test" })).toBe(2);
    expect(await readGroup(query)).toBeUndefined();
    expect((await readGroup(query, "b test"))?.rules).toHaveLength(1);
    expect(await rpc(query, "delete_rules", { p_group: "a test" })).toBe(0);
  });
});

describe("monitor.read_rules()", () => {
  it("orders groups by their names, as code units", async ({ query }) => {
    for (const name of ["b", "B", "a", "ä"]) await save(query, [group([alerting()], { name })]);
    const names = (await rpc<StoredGroup[]>(query, "read_rules")).map(({ name }) => name);
    expect(names.filter((name) => name.length === 1)).toEqual(["B", "a", "b", "ä"]);
  });

  it("gives back what save_rules takes, but for the id and the state", async ({ query }) => {
    const held = { hold_count: 2, hold_window: 3, clear_expr: "queue_depth < 1" };
    await save(query, [group([alerting({ labels: { a: "b" }, ...held }), recording()])]);
    const { rules, ...stored } = (await readGroup(query))!;
    const listed = rules.map(({ rule_id: _, state: __, ...rule }) => rule);
    expect(await save(query, [{ ...stored, rules: listed }], true)).toEqual(
      counts({ unchanged: 2 }),
    );
  });

  it("is empty without rules", async ({ query }) => {
    await query("delete from monitor.alert_rules");
    await query("delete from monitor.rule_groups");
    expect(await rpc(query, "read_rules")).toEqual([]);
  });
});

describe("the state of a rule", () => {
  const set = (query: Query, change: string) =>
    query(`update monitor.rule_states as state set ${change} from monitor.alert_rules as rule
           where rule.rule_id = state.rule_id and rule.group_name = 'a test'`);
  it("has at most 1,000 instances", async ({ query }) => {
    await save(query, [group([alerting()])]);
    const instances = (count: number) =>
      set(query, `instances = (select jsonb_agg('{}'::jsonb) from generate_series(1, ${count}))`);
    await instances(1000);
    await expect(instances(1001)).rejects.toMatchObject({ code: "23514" });
    await expect(set(query, "instances = '{}'")).rejects.toMatchObject({ code: "23514" });
  });

  const state = (health: string, at: string, seconds: string, error: string) =>
    `health = ${health}, evaluated_at = ${at}, evaluation_seconds = ${seconds}, last_error = ${error}`;

  it.for(
    [
      ["'fine'", "now()", "0", "null"],
      ["'ok'", "now()", "0", "'oh'"],
      ["'ok'", "null", "0", "null"],
      ["'ok'", "now()", "null", "null"],
      ["'ok'", "now()", "-1", "null"],
      ["'ok'", "now()", "'NaN'", "null"],
      ["'err'", "now()", "0", "null"],
      ["'err'", "null", "0", "'oh'"],
      ["'unknown'", "now()", "null", "null"],
      ["'unknown'", "null", "0", "null"],
    ] as const,
  )("is never %s, of %s, in %s s, with %s", async ([health, at, seconds, error], { query }) => {
    await save(query, [group([alerting()])]);
    await set(query, state("'ok'", "now()", "0", "null"));
    await set(query, state("'err'", "now()", "0.5", "'oh'"));
    await set(query, state("'unknown'", "null", "null", "null"));
    await expect(set(query, state(health, at, seconds, error))).rejects.toMatchObject({
      code: "23514",
    });
  });
});

describe("the shipped rules", () => {
  it("are those of the rule files, in the same order", async ({ query }) => {
    const files = readdirSync("supabase/rules").filter((file) => file.endsWith(".rules.yaml"));
    const written = files
      .flatMap((file) => parseRuleFile(readFileSync(`supabase/rules/${file}`, "utf8")))
      .map((group) => ({
        name: group.name,
        intervalSeconds: group.intervalSeconds ?? 60,
        rules: group.rules.map((rule) => ({ ...rule, labels: labelsOf(rule, group) })),
      }))
      .toSorted((one, other) => one.name < other.name ? -1 : 1);
    const stored = parseRuleGroups(await rpc(query, "read_rules")).map((group) => ({
      ...group,
      rules: group.rules.map(({ rule }) => rule),
    }));
    expect(written.flatMap(({ rules }) => rules).length).toBeGreaterThan(0);
    expect(
      stored,
      "Who has them already gets a change of the rule files by a new migration: select monitor.save_rules(...)",
    ).toEqual(written);
  });

  it("are live, but for the one that fires where its platform does not exist", async ({ query }) => {
    const { rows } = await query("select name from monitor.alert_rules where mode <> 'live'");
    expect(rows).toEqual([{ name: "DataProcessingStuck" }]);
  });

  it("are all switched on", async ({ query }) => {
    const rules = parseRuleGroups(await rpc(query, "read_rules")).flatMap(({ rules }) => rules);
    expect(rules.filter(({ isEnabled }) => !isEnabled)).toEqual([]);
  });
});
