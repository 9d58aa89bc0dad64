import fc from "fast-check";
import { describe, expect } from "vitest";
import type { AlertingRule } from "../../shared/alerting/rule.ts";
import { parseRuleFile, printRuleFile } from "../../shared/alerting/rule-file.ts";
import {
  deleteRules,
  type Query,
  readRules,
  saveRules,
  switchRules,
} from "../../scripts/rules/stored-rules.ts";
import { it } from "./database.ts";

const ADDING = { isReplacing: false, isDry: false };

const FILE = `groups:
  - name: made up
    interval: 30s
    labels: {team: a}
    rules:
      - alert: High
        expr: |
          sum by (job) (x)
            > 5
        for: 90s
        keep_firing_for: 1m
        labels: {severity: critical}
        annotations: {summary: "{{ $value }}", pgvigil_mode: shadow, pgvigil_no_data_policy: alert}
      - record: job:x:sum
        expr: sum by (job) (x)
`;

const CONDITIONS = `groups:
  - name: made up
    interval: 1m
    rules:
      - alert: OftenHigh
        expr: x > 90
        labels: {pgvigil_incident: P1}
        annotations:
          pgvigil_hold: 3 of 5
          pgvigil_clear_expr: |
            x
              < 80
`;

const readGroup = async (query: Query) =>
  (await readRules(query)).groups.filter(({ name }) => name === "made up");

describe("saveRules() and readRules()", () => {
  it("give back what a file said, group labels as labels of the rules", async ({ query }) => {
    const groups = parseRuleFile(FILE);
    const would = await saveRules(query, groups, { ...ADDING, isDry: true });
    const counts = await saveRules(query, groups, ADDING);
    expect(would).toEqual(counts);
    expect(counts).toEqual({ inserted: 2, updated: 0, unchanged: 0, deleted: 0, unlisted: 0 });
    expect(await saveRules(query, groups, ADDING)).toMatchObject({ unchanged: 2 });

    const stored = await readGroup(query);
    const [{ labels, rules, ...group }] = groups as [typeof groups[number]];
    expect(stored).toEqual([{
      ...group,
      rules: rules.map((rule) => ({ ...rule, labels: { ...labels, ...rule.labels } })),
    }]);
    expect(parseRuleFile(printRuleFile(stored))).toEqual(stored);
  });

  it("give back how often a rule has to hold, and what clears it", async ({ query }) => {
    const groups = parseRuleFile(CONDITIONS);
    expect(groups[0]!.rules).toMatchObject([
      { hold: { count: 3, window: 5 }, clearExpr: "x\n  < 80\n" },
    ]);
    expect(await saveRules(query, groups, ADDING)).toMatchObject({ inserted: 1 });
    expect(await saveRules(query, groups, ADDING)).toMatchObject({ unchanged: 1 });
    expect(await readGroup(query)).toEqual(groups);

    const plain = parseRuleFile(CONDITIONS.replace(/ +annotations:[^]*/, ""));
    expect(await saveRules(query, plain, ADDING)).toMatchObject({ updated: 1 });
    expect(await readGroup(query)).toMatchObject([{ rules: [{ hold: null, clearExpr: null }] }]);
  });

  it("give back whatever they hold when they were written by others, as a file that says the same", async ({ query }) => {
    const [group] = parseRuleFile(CONDITIONS);
    const window = fc.integer({ min: 1, max: 60 });
    const hold = window.chain((window) =>
      fc.record({ count: fc.integer({ min: 1, max: window }), window: fc.constant(window) })
    );
    const conditions = fc.record({
      hold: fc.option(hold),
      clearExpr: fc.option(fc.constantFrom("x < 80", 'x{a="\\x7b{"} < 80', "x\n  < 80\n", "1")),
      annotations: fc.record({ pgvigil_hold: fc.constant("2 of 3"), s: fc.string() }, {
        requiredKeys: [],
      }),
    });
    const isTemplate = (text = "") => text.includes("{{") || /[\0\p{Surrogate}]/u.test(text);
    await fc.assert(
      fc.asyncProperty(conditions, async (changes) => {
        fc.pre(!isTemplate(changes.annotations.s));
        const rule = { ...group!.rules[0] as AlertingRule, ...changes };
        await saveRules(query, [{ ...group!, rules: [rule] }], ADDING);
        const stored = await readGroup(query);
        expect(stored).toEqual([{ ...group!, rules: [rule] }]);
        const printed = printRuleFile(stored);
        const [again] = parseRuleFile(printed);
        expect(again!.rules).toMatchObject([{ hold: changes.hold, clearExpr: changes.clearExpr }]);
        expect(printRuleFile([again!])).toBe(printed);
      }),
      { numRuns: 50 },
    );
  });

  it("delete what the file does not list when it replaces, and name what is disabled", async ({ query }) => {
    const [group] = parseRuleFile(FILE);
    await saveRules(query, [group!], ADDING);
    await query("update monitor.alert_rules set enabled = false where name = 'High'");
    expect((await readRules(query)).disabled).toEqual(["High"]);
    const one = [{ ...group!, rules: group!.rules.slice(1) }];
    expect(await saveRules(query, one, ADDING)).toMatchObject({
      unchanged: 1,
      deleted: 0,
      unlisted: 1,
    });
    expect(await saveRules(query, one, { isReplacing: true, isDry: false })).toMatchObject({
      inserted: 0,
      deleted: 1,
      unlisted: 0,
    });
  });
});

describe("switchRules() and deleteRules()", () => {
  const OFF = { group: "made up", name: undefined, isEnabled: false };

  it("switch a group or one of its rules, which saving it again leaves as it is", async ({ query }) => {
    const groups = parseRuleFile(FILE);
    await saveRules(query, groups, ADDING);
    expect(await switchRules(query, { ...OFF, name: "High" })).toEqual({ found: 1, changed: 1 });
    expect((await readRules(query)).disabled).toEqual(["High"]);
    expect(await switchRules(query, OFF)).toEqual({ found: 2, changed: 1 });

    expect(await saveRules(query, groups, ADDING)).toMatchObject({ unchanged: 2 });
    expect((await readRules(query)).disabled).toEqual(["High", "job:x:sum"]);
    expect(await switchRules(query, { ...OFF, isEnabled: true })).toEqual({ found: 2, changed: 2 });
    expect((await readRules(query)).disabled).toEqual([]);
  });

  it("leave other groups alone, and say that there is no such rule", async ({ query }) => {
    await saveRules(query, parseRuleFile(FILE), ADDING);
    expect(await switchRules(query, { ...OFF, name: "QueueDepthHigh" }))
      .toEqual({ found: 0, changed: 0 });
    expect((await readRules(query)).disabled).toEqual([]);
    const before = (await readRules(query)).groups.length;
    expect(await deleteRules(query, "made up")).toBe(2);
    expect(await deleteRules(query, "made up")).toBe(0);
    expect((await readRules(query)).groups).toHaveLength(before - 1);
  });
});
