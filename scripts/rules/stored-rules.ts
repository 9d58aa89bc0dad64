import type pg from "pg";
import type { RuleGroup } from "../../shared/alerting/rule.ts";
import { type SaveOptions, toSaveArguments } from "../../shared/alerting/saved-rules.ts";
import { parseRuleGroups, SavedRules } from "../../shared/contract/rules.ts";

/** Sends one statement. */
export type Query = (sql: string, values?: unknown[]) => Promise<pg.QueryResult>;

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

/**
 * Switches the rules of a group on or off, or those of a name in it. How many there are, and how many of them were not
 * so before.
 */
export async function switchRules(
  query: Query,
  { group, name, isEnabled }: { group: string; name: string | undefined; isEnabled: boolean },
): Promise<{ found: number; changed: number }> {
  // The lock is that of monitor.save_rules: an evaluation that is being recorded locks the same states.
  const { rows: [row] } = await query(
    `with lock as materialized (select pg_advisory_xact_lock(hashtext('monitor.alert_rules'))),
      found as (
        select rule_id from monitor.alert_rules, lock where group_name = $1 and name = coalesce($2, name)
      ),
      changed as (
        update monitor.alert_rules as rule set enabled = $3, updated_at = now()
        from found where rule.rule_id = found.rule_id and rule.enabled <> $3
        returning rule.rule_id
      )
    select (select count(*)::integer from found) as found, (select count(*)::integer from changed) as changed`,
    [group, name ?? null, isEnabled],
  );
  return row;
}

/** Deletes a group; how many rules it had. */
export async function deleteRules(query: Query, group: string): Promise<number> {
  const { rows: [row] } = await query("select monitor.delete_rules($1) as deleted", [group]);
  return row.deleted;
}
