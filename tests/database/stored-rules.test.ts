import { describe, expect } from "vitest";
import { parseRuleFile, printRuleFile } from "../../shared/alerting/rule-file.ts";
import {
  deleteRules,
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

describe("saveRules() and readRules()", () => {
  it("give back what a file said, group labels as labels of the rules", async ({ query }) => {
    const groups = parseRuleFile(FILE);
    const would = await saveRules(query, groups, { ...ADDING, isDry: true });
    const counts = await saveRules(query, groups, ADDING);
    expect(would).toEqual(counts);
    expect(counts).toEqual({ inserted: 2, updated: 0, unchanged: 0, deleted: 0, unlisted: 0 });
    expect(await saveRules(query, groups, ADDING)).toMatchObject({ unchanged: 2 });

    const stored = (await readRules(query)).groups.filter(({ name }) => name === "made up");
    const [{ labels, rules, ...group }] = groups as [typeof groups[number]];
    expect(stored).toEqual([{
      ...group,
      rules: rules.map((rule) => ({ ...rule, labels: { ...labels, ...rule.labels } })),
    }]);
    expect(parseRuleFile(printRuleFile(stored))).toEqual(stored);
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
