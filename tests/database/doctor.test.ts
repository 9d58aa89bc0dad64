import { describe, expect } from "vitest";
import { readRequirements } from "../../scripts/doctor/requirements.ts";
import { it, type Query } from "./database.ts";
import { iso, NOON } from "./seeds.ts";

const countEnabled = async (query: Query) =>
  (await query("select count(*)::int as enabled from monitor.alert_rules where enabled"))
    .rows[0]!.enabled as number;

/** Notes how the last evaluation of all rules went, or, with an error, of these. */
const evaluate = (query: Query, error: string | null, where = "true") =>
  query(
    `update monitor.rule_states as state
     set health = case when $1::text is null then 'ok' else 'err' end, last_error = $1, evaluated_at = $2,
         evaluation_seconds = 0.01
     from monitor.alert_rules as rule where rule.rule_id = state.rule_id and ${where}`,
    [error, iso(NOON)],
  );

describe("readRequirements()", () => {
  const readRules = async (query: Query) =>
    (await readRequirements((sql) => query(sql))).filter(({ requirement }) =>
      requirement === "rules"
    );

  it("has all that monitor.check_setup() says, and a line about rules", async ({ asOwner }) => {
    const { rows } = await asOwner("select * from monitor.check_setup()");
    expect(rows.length).toBeGreaterThan(10);
    expect(await readRequirements((sql) => asOwner(sql)))
      .toEqual([...rows, expect.objectContaining({ requirement: "rules" })]);
  });

  it("says how many rules are enabled, and how many of them have yet to be evaluated", async ({ asOwner }) => {
    const enabled = await countEnabled(asOwner);
    const line = (detail: string) => [{ requirement: "rules", status: "ok", detail, fix: null }];
    expect(await readRules(asOwner))
      .toEqual(line(`${enabled} enabled, none failed, ${enabled} not evaluated yet`));
    await evaluate(asOwner, null);
    expect(await readRules(asOwner)).toEqual(line(`${enabled} enabled, none failed`));
    await asOwner("update monitor.alert_rules set enabled = false");
    expect(await readRules(asOwner)).toEqual(line("0 enabled, none failed"));
  });

  it("warns of those that failed, with name and error of the first", async ({ asOwner }) => {
    const enabled = await countEnabled(asOwner);
    await evaluate(asOwner, null);
    const { rows: [first, second] } = await asOwner(
      "select rule_id, name from monitor.alert_rules where enabled order by group_name, position limit 2",
    );
    await evaluate(asOwner, "the second", `rule.rule_id = ${second!.rule_id}`);
    expect(await readRules(asOwner)).toMatchObject([{
      status: "warning",
      detail: `${enabled} enabled, 1 failed at the last evaluation. ${second!.name}: the second`,
      fix: expect.stringContaining("monitor.rule_states"),
    }]);
    await evaluate(asOwner, "the first", `rule.rule_id = ${first!.rule_id}`);
    expect(await readRules(asOwner)).toMatchObject([{
      detail: `${enabled} enabled, 2 failed at the last evaluation. ${first!.name}: the first`,
    }]);
  });

  it("passes over the failure of a rule that is disabled", async ({ asOwner }) => {
    await evaluate(asOwner, "gone");
    await asOwner("update monitor.alert_rules set enabled = false");
    expect(await readRules(asOwner)).toMatchObject([{ status: "ok" }]);
  });
});
