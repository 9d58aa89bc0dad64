import type pg from "pg";

/** Has the monitor evaluate these rules and no others. */
export async function replaceRules(client: pg.Client, rules: readonly object[]): Promise<void> {
  await client.query("select monitor.delete_rules(group_name) from monitor.rule_groups");
  await client.query("select monitor.save_rules($1)", [JSON.stringify([{ name: "bench", rules }])]);
}

/** Has the next call evaluate all rules, as if none had been evaluated before; what they came to stays. */
export async function makeRulesDue(client: pg.Client): Promise<void> {
  await client.query(
    `update monitor.rule_states
     set health = 'unknown', evaluated_at = null, evaluation_seconds = null, last_error = null, failing_since = null`,
  );
}
