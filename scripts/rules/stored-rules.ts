import type pg from "pg";
import type { RuleGroup } from "../../shared/alerting/rule.ts";
import { type SaveOptions, toSaveArguments } from "../../shared/alerting/saved-rules.ts";
import { parseRuleGroups, SavedRules } from "../../shared/contract/rules.ts";

type Query = (sql: string, values?: unknown[]) => Promise<pg.QueryResult>;

/** Saves groups, all or nothing. */
export async function saveRules(
  query: Query,
  groups: readonly RuleGroup[],
  options: SaveOptions,
): Promise<SavedRules> {
  const { p_groups, p_replace, p_dry_run } = toSaveArguments(groups, options);
  const { rows: [row] } = await query(
    "select monitor.save_rules(p_groups => $1, p_replace => $2, p_dry_run => $3) as counts",
    [JSON.stringify(p_groups), p_replace, p_dry_run],
  );
  return SavedRules.parse(row.counts);
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
