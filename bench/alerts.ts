import pg from "pg";
import { storeSeries } from "../scripts/prometheus-leg/store-series.ts";
import { makeRulesDue, replaceRules } from "./bench-rules.ts";
import type { Scale } from "./history.ts";
import { formatGoal, formatTable } from "./report.ts";
import { callMeasured, type StackFolder, withStack } from "./stack.ts";

const MINUTE = 60_000;
/** As many alerts as a rule may have. */
const ALERTS_A_RULE = 1000;

/** What one evaluation took. */
interface Reading {
  readonly wall: number;
  readonly cpu: number | null;
  /** Of the database, in the transaction that stores it all. */
  readonly answer: Record<string, unknown>;
}

/** Many alerts that fire, go on firing, and end, all at once: each time one evaluation by the function, over HTTP. */
export function measureManyAlerts(
  log: (line: string) => void,
  { quick }: Scale,
): Promise<string> {
  const [rules, rounds] = quick ? [2, 2] : [10, 7];
  const count = rules * ALERTS_A_RULE;
  return withStack(56401, async (facts, stack) => {
    const client = new pg.Client({ connectionString: facts.db_url });
    await client.connect();
    try {
      await prepare(client, rules);
      const readings: Record<"begin" | "go on" | "end", Reading[]> = {
        begin: [],
        "go on": [],
        end: [],
      };
      const messages: number[] = [];
      for (let round = 0; round < rounds; round += 1) {
        await forget(client);
        await setThreshold(client, 0);
        readings.begin.push(await evaluate(client, stack, 0));
        messages.push(await assertAllTold(client, count, "firing"));
        await moveOn(client);
        readings["go on"].push(await evaluate(client, stack, 1));
        await setThreshold(client, 1e9);
        await moveOn(client);
        readings.end.push(await evaluate(client, stack, 2));
        await assertAllTold(client, count, "resolved");
        log(`alerts: round ${round + 1} of ${rounds}`);
      }
      return formatMany(readings, messages, count, rules);
    } finally {
      await client.end();
    }
  });
}

function formatMany(
  readings: Readonly<Record<"begin" | "go on" | "end", readonly Reading[]>>,
  messages: readonly number[],
  count: number,
  rules: number,
): string {
  const walls = (of: readonly Reading[]) => of.map(({ wall }) => wall);
  const cpus = (of: readonly Reading[]) => of.flatMap(({ cpu }) => cpu ?? []);
  const rows = ([
    ["all begin to fire", readings.begin],
    ["all go on, with other values", readings["go on"]],
    ["all end", readings.end],
  ] as const).flatMap(([what, of]) => [
    { what: `${what}, wall`, unit: "ms", readings: walls(of) as readonly number[] },
    ...(cpus(of).length === 0
      ? []
      : [{ what: `${what}, CPU of the function`, unit: "ms", readings: cpus(of) }]),
  ]);
  return formatTable(`${count.toLocaleString("en")} alerts of ${rules} rules at once`, rows, [
    formatGoal(
      `One evaluation in which ${count.toLocaleString("en")} begin, the slowest`,
      Math.max(...walls(readings.begin)),
      "at most",
      2000,
      "ms",
    ),
    `- Messages: ${[...new Set(messages)].join(", ")} in each round, each alert in exactly one, ` +
    "as firing and as resolved: **nothing lost**",
    "\nOne call of `evaluate-alerts` over HTTP, everything included: reading samples, evaluating, and in one transaction the " +
    "states of rules, alerts, groups, messages and decisions.",
    "\nCommand: `npm run bench -- alerts`",
  ]);
}

async function prepare(client: pg.Client, rules: number): Promise<void> {
  const now = Math.floor(Date.now() / MINUTE) * MINUTE;
  const times = Array.from({ length: 60 }, (_, index) => now + (index - 3) * MINUTE);
  await client.query("set statement_timeout = 0");
  await storeSeries(
    client,
    Array.from({ length: rules * ALERTS_A_RULE }, (_, index) => ({
      labels: {
        __name__: "bench_depth",
        rule: String(index % rules),
        queue: `queue-${index}`,
        instance: `host-${index % 97}.example.com`,
      },
      times,
      values: times.map((_, place) => 1000 + place),
    })),
  );
  await replaceRules(
    client,
    Array.from({ length: rules }, (_, index) => ({
      kind: "alerting",
      name: `BenchQueueDeep${index}`,
      expr: `bench_depth{rule="${index}"} > 0`,
      labels: { severity: index % 2 === 0 ? "warning" : "critical", team: "platform" },
      annotations: {
        summary: "Queue {{ $labels.queue }} is {{ $value }} deep",
        description: "More than it should be for the moment, on {{ $labels.instance }}.",
      },
    })),
  );
  await client.query("delete from monitor.notification_routes");
  await client.query(
    "select monitor.save_route('all', array['admin-mail'], p_group_wait_seconds => 0)",
  );
  // What is sent is measured elsewhere.
  await client.query(
    "update monitor.settings set notifications_enabled = false, canary_channel = null, mails_per_second = 100",
  );
  await client.query("vacuum analyze");
}

async function setThreshold(client: pg.Client, threshold: number): Promise<void> {
  await client.query(
    "update monitor.alert_rules set expr = regexp_replace(expr, '> .*$', '> ' || $1::bigint)",
    [threshold],
  );
}

/** As if nothing had ever fired. */
async function forget(client: pg.Client): Promise<void> {
  await client.query("delete from monitor.notifications");
  await client.query("delete from monitor.alert_groups");
  await client.query("delete from monitor.system_alerts");
  await client.query("update monitor.rule_states set instances = '[]'");
  await client.query("update monitor.alerting_state set advanced_at = null");
  await client.query(
    "vacuum analyze monitor.system_alerts, monitor.notification_decisions, monitor.notification_alerts, monitor.alert_group_members",
  );
}

/** Lets the next evaluation be that of another minute, and its groups be due. */
async function moveOn(client: pg.Client): Promise<void> {
  await client.query(
    "update monitor.alert_groups set next_flush_at = now() - interval '2 minutes'",
  );
}

/** @param minutes after now: the minute that is evaluated. */
async function evaluate(
  client: pg.Client,
  stack: StackFolder,
  minutes: number,
): Promise<Reading> {
  await makeRulesDue(client);
  const { answer, milliseconds, cpu } = await callMeasured(stack, "evaluate-alerts", {
    scheduled_at: new Date(Date.now() + minutes * MINUTE).toISOString(),
  });
  if (answer.failed !== 0) throw new Error(`A run failed: ${JSON.stringify(answer).slice(0, 500)}`);
  return { wall: milliseconds, cpu, answer };
}

/** Returns in how many messages. @throws {Error} if one was not told, or twice */
async function assertAllTold(client: pg.Client, count: number, status: string): Promise<number> {
  const { rows: [told] } = await client.query(
    `select count(*)::int as tellings, count(distinct alert_id)::int as alerts, count(distinct notification_id)::int as messages
     from monitor.notification_alerts where status = $1`,
    [status],
  );
  if (told.tellings !== count || told.alerts !== count) {
    throw new Error(
      `Of ${count} alerts ${told.alerts} were told as ${status}, ${told.tellings} times`,
    );
  }
  return told.messages;
}
