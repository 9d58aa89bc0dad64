import type pg from "pg";
import type { RuleGroup } from "../../shared/alerting/rule.ts";
import { toSavedGroups } from "../../shared/alerting/saved-rules.ts";
import { parseRuleGroups } from "../../shared/contract/rules.ts";

type Query = (sql: string, values?: unknown[]) => Promise<pg.QueryResult>;

/** How many rules were what. */
export interface SaveCounts {
  readonly inserted: number;
  readonly updated: number;
  readonly unchanged: number;
  readonly deleted: number;
}

/** Saves groups, all or nothing; with `isReplacing` other rules of these groups are deleted. */
export async function saveRules(
  query: Query,
  groups: readonly RuleGroup[],
  isReplacing: boolean,
): Promise<SaveCounts> {
  const { rows: [row] } = await query("select monitor.save_rules($1, $2) as counts", [
    JSON.stringify(toSavedGroups(groups)),
    isReplacing,
  ]);
  return row.counts;
}

/** The saved groups, and the names of rules that are disabled, which a rule file cannot say. */
export async function readRules(
  query: Query,
): Promise<{ groups: RuleGroup[]; disabled: string[] }> {
  const { rows: [row] } = await query("select monitor.read_rules() as groups");
  const stored = parseRuleGroups(row.groups);
  return {
    groups: stored.map(({ name, intervalSeconds, rules }) => ({
      name,
      intervalSeconds,
      rules: rules.map(({ rule }) => rule),
    })),
    disabled: stored.flatMap(({ rules }) =>
      rules.filter(({ isEnabled }) => !isEnabled).map(({ rule }) => rule.name)
    ),
  };
}
