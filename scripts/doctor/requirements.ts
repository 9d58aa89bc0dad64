import type pg from "pg";

/** Something that is needed, and whether it is there. */
export interface Requirement {
  readonly requirement: string;
  /** A warning leaves the setup as good as it was. */
  readonly status: "ok" | "failed" | "warning" | "unknown";
  readonly detail: string;
  /** What to do. */
  readonly fix: string | null;
}

/** How the rules that are enabled fared at their last evaluation. */
const RULES = `
  select
    count(*)::int as enabled,
    count(*) filter (where state.health = 'unknown')::int as waiting,
    count(*) filter (where state.health = 'err')::int as failed,
    (array_agg(format('%s: %s', rule.name, state.last_error) order by rule.group_name, rule.position)
      filter (where state.health = 'err'))[1] as first_failure
  from monitor.alert_rules as rule
  join monitor.rule_states as state using (rule_id)
  where rule.enabled`;

interface RuleCounts {
  readonly enabled: number;
  readonly waiting: number;
  readonly failed: number;
  /** Name and error; null if none failed. */
  readonly first_failure: string | null;
}

/** What the database says of its setup, and of its rules. */
export async function readRequirements(
  query: (sql: string) => Promise<pg.QueryResult>,
): Promise<Requirement[]> {
  const { rows: requirements } = await query("select * from monitor.check_setup()");
  const { rows: [counts] } = await query(RULES);
  return [...requirements, judgeRules(counts)];
}

function judgeRules({ enabled, waiting, failed, first_failure }: RuleCounts): Requirement {
  const requirement = "rules";
  if (failed > 0) {
    return {
      requirement,
      status: "warning",
      detail: `${enabled} enabled, ${failed} failed at the last evaluation. ${first_failure}`,
      fix: "Mend the rules with health 'err' in monitor.rule_states, or disable them.",
    };
  }
  const detail = waiting > 0
    ? `${enabled} enabled, none failed, ${waiting} not evaluated yet`
    : `${enabled} enabled, none failed`;
  return { requirement, status: "ok", detail, fix: null };
}
