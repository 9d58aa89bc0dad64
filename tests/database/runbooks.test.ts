import { readdirSync, readFileSync } from "node:fs";
import pg from "pg";
import { describe, expect } from "vitest";
import { parseRuleFile } from "../../shared/alerting/rule-file.ts";
import { advance, setFiring } from "./alerting.ts";
import { it, type Query, queryOf, rpc } from "./database.ts";
import {
  addAnomaly,
  addMessage,
  addRun,
  addSeries,
  HOUR,
  iso,
  MINUTE,
  openDays,
  range,
} from "./seeds.ts";

const FOLDER = "docs/runbooks";
const PAGES = readdirSync(FOLDER).filter((file) => file.endsWith(".md")).toSorted();

interface Block {
  readonly page: string;
  /** Of its first line of code. */
  readonly line: number;
  readonly sql: string;
}

/** The SQL of a page that has to run: all but examples. */
function readBlocks(page: string): Block[] {
  const text = readFileSync(`${FOLDER}/${page}`, "utf8");
  return [...text.matchAll(/^( *)```sql\n([\s\S]*?)^ *```$/gm)].map((match) => ({
    page,
    line: text.slice(0, match.index).split("\n").length + 1,
    sql: match[2]!.replaceAll(new RegExp(`^${match[1]}`, "gm"), ""),
  }));
}

/** Names of the alerts of the shipped rules. */
const SHIPPED = readdirSync("supabase/rules").filter((file) => file.endsWith(".rules.yaml"))
  .flatMap((file) => parseRuleFile(readFileSync(`supabase/rules/${file}`, "utf8")))
  .flatMap(({ rules }) => rules).filter(({ kind }) => kind === "alerting").map(({ name }) => name);

/** What the database calls the page of an alert. */
async function pagesOf(query: Query, names: readonly string[]): Promise<string[]> {
  await query("update monitor.settings set runbooks_url = 'https://example.com/runbooks/'");
  const { rows } = await query<{ url: string }>(
    "select monitor.runbook_url(name) as url from unnest($1::text[]) as name",
    [names],
  );
  return rows.map(({ url }) => url.replace("https://example.com/runbooks/", ""));
}

/** Names that stand in the source of the function: a new kind of condition is found without being provoked. */
async function namesOfConditions(query: Query): Promise<string[]> {
  const { rows } = await query<{ source: string }>(
    "select prosrc as source from pg_proc where oid = 'monitor.list_conditions(jsonb, timestamptz)'::regprocedure",
  );
  return [...new Set(rows[0]!.source.match(/\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b/g))].toSorted();
}

describe("each alert has its page", () => {
  it("of the shipped rules", async ({ query }) => {
    expect(SHIPPED.length).toBeGreaterThan(10);
    const { rows } = await query<{ name: string }>(
      "select distinct name from monitor.alert_rules where kind = 'alerting' order by name",
    );
    expect(rows.map(({ name }) => name)).toEqual(SHIPPED.toSorted());
    expect(PAGES).toEqual(expect.arrayContaining(await pagesOf(query, SHIPPED)));
  });

  it("of what the monitor raises by itself", async ({ query }) => {
    const names = await namesOfConditions(query);
    expect(names).toEqual(expect.arrayContaining([
      ...["AnomalyDetected", "ChannelFailing", "ComponentUnhealthy", "JobFailing", "JobMissing"],
    ]));
    expect(PAGES).toEqual(expect.arrayContaining(await pagesOf(query, names)));
  });

  it("named by its title", async ({ query }) => {
    const titles = PAGES.map((page) =>
      /^# (.+)$/m.exec(readFileSync(`${FOLDER}/${page}`, "utf8"))![1]!
    );
    const alerts = [...SHIPPED, ...await namesOfConditions(query)];
    const pages = await pagesOf(query, alerts);
    expect(pages.map((page) => titles[PAGES.indexOf(page)])).toEqual(alerts);
  });

  it("and is linked by the conditions as they are told", async ({ ownDatabase }) => {
    const query = await onABadDay(await ownDatabase.connectAsOwner());
    const { rows } = await query<{ name: string; runbook_url: string | null }>(
      "select distinct name, runbook_url from monitor.system_alerts order by name",
    );
    const linked = rows.flatMap(({ runbook_url }) => runbook_url ?? []);
    expect(linked.length).toBeGreaterThan(20);
    expect(
      linked.filter((url) => !PAGES.includes(url.replace("https://example.com/runbooks/", ""))),
    )
      .toEqual([]);
  });
});

/** Looks at what may well be empty on a database that does nothing else, or acts on what a reader has to name. */
const MAY_FIND_NOTHING = new RegExp(
  [
    ...["pg_stat_activity", "pg_replication_slots", "pg_prepared_xacts", "pg_stat_progress_vacuum"],
    ...["pg_stat_user_tables", String.raw`\bcron\.`, String.raw`\bnet\.`],
    ...[String.raw`\w+ = 0\b`, String.raw`age\(relfrozenxid\) >`],
  ].join("|"),
);

/** Gives no rows, however it goes. */
const HAS_NO_ROWS = /^(vacuum|analyze|alter role|set session)\b/;

describe("the SQL of the pages", () => {
  it("runs, and finds what it looks for", { timeout: 120_000 }, async ({ ownDatabase }) => {
    const client = await ownDatabase.connectAsOwner();
    await onABadDay(client);
    await client.query("set statement_timeout = '8s'");
    const failures: string[] = [];
    for (const { page, line, sql } of PAGES.flatMap(readBlocks)) {
      // What cannot run in a transaction changes nothing that anybody could see.
      const isAlone = sql.startsWith("vacuum");
      if (!isAlone) await client.query("begin");
      try {
        const results = [await client.query(sql)].flat() as pg.QueryResult[];
        const count = results.reduce((sum, { rowCount }) => sum + (rowCount ?? 0), 0);
        if (count === 0 && !HAS_NO_ROWS.test(sql) && !MAY_FIND_NOTHING.test(sql)) {
          failures.push(`${page}:${line} finds nothing: ${sql}`);
        }
      } catch (error) {
        failures.push(`${page}:${line} ${(error as Error).message}: ${sql}`);
      }
      if (!isAlone) await client.query("rollback");
    }
    expect(failures).toEqual([]);
  });

  it("is not forgotten by how it is fenced", () => {
    const fences = PAGES.flatMap((page) =>
      [...readFileSync(`${FOLDER}/${page}`, "utf8").matchAll(/^ *```(.+)$/gm)]
        .map(([, info]) => info!)
    );
    expect([...new Set(fences)].toSorted())
      .toEqual(["sh", "sh example", "sql", "sql example", "text", "yaml"]);
    expect(PAGES.flatMap(readBlocks).length).toBeGreaterThan(150);
  });
});

/** Metrics that applications send, as docs/grafana/README.md lists them. */
const SENT: readonly (readonly [string, Readonly<Record<string, string>>])[] = [
  ["up", { job: "partner_api", partner: "acme" }],
  ["partner_api_requests_total", { partner: "acme", status: "timeout" }],
  ["partner_api_requests_total", { partner: "acme", status: "success" }],
  ["queue_depth", { queue: "mails" }],
  ["sync_duration_seconds_count", { partner: "acme", status: "failed" }],
  ["data_processing_duration_seconds_count", {}],
];

/** A database in which whatever a page looks for is there: everything went wrong within the last hours. */
async function onABadDay(owner: pg.Client): Promise<Query> {
  const query = queryOf(owner);
  const now = Math.floor(Date.now() / MINUTE) * MINUTE;
  await openDays(query, now - 24 * HOUR, 4);

  const { rows: measured } = await query<{ metric: string }>(
    "select metric from monitor.metric_definitions order by metric",
  );
  await query(
    `insert into monitor.metric_definitions (metric, category, unit, kind, description)
     select distinct metric, 'workflow', 'count', case when metric ~ '_(total|count)$' then 'counter' else 'gauge' end, 'Sent.'
     from unnest($1::text[]) as metric on conflict do nothing`,
    [SENT.map(([metric]) => metric)],
  );
  const samples = range(36).map((n) => [now - n * 5 * MINUTE, 1000 - n] as const);
  const isSent = new Set(SENT.map(([metric]) => metric));
  const series = [
    ...SENT,
    ...measured.filter(({ metric }) => !isSent.has(metric)).map(({ metric }) =>
      [metric, metric === "database_connections" ? { state: "idle" } : {}] as const
    ),
  ];
  const ids: number[] = [];
  for (const [metric, labels] of series) ids.push(await addSeries(query, metric, samples, labels));
  await addSeries(query, "up", [[now - 2 * HOUR, 1]], { job: "partner_api", partner: "gone" });
  for (const [index, ended] of [[0, false], [1, true]] as const) {
    await addAnomaly(query, ids[index]!, {
      started_at: iso(now - HOUR),
      last_seen_at: iso(now - 10 * MINUTE),
      severity: "critical",
      ...(ended && { ended_at: iso(now - 10 * MINUTE), ended_reason: "recovered" }),
    });
  }

  await query("update monitor.settings set notifications_enabled = false");
  for (const channel of ["ops", "oncall", "until-mended"]) {
    await rpc(query, "save_channel", {
      p_channel: channel,
      p_kind: "email",
      p_config: { to: [`${channel}@example.com`] },
    });
  }
  await query(
    `update monitor.settings set notifications_enabled = true, runbooks_url = 'https://example.com/runbooks', canary_channel = 'ops',
       canary_hour = 0`,
  );
  await query(
    `update monitor.notification_channels set failing_since = $1, last_error = 'bounced', consecutive_failures = 3,
       undeliverable = '{"oncall@example.com": {"at": "2026-03-10T12:00:00Z", "reason": "Permanent"}}' where channel = 'oncall'`,
    [iso(now - 20 * MINUTE)],
  );
  await query("select monitor.save_route('everything', '{ops,oncall}', p_group_wait_seconds => 0)");
  await query("select monitor.save_route('until mended', '{until-mended}', p_continues => true)");

  for (const job of ["collect-metrics", "evaluate-alerts", "detect-anomalies"]) {
    const runs = ["failed", "failed", "succeeded", "missed", "lost", "skipped"] as const;
    for (const [n, state] of runs.entries()) {
      const at = iso(now - (n + 1) * MINUTE);
      await addRun(query, {
        job,
        scheduled_at: at,
        queued_at: at,
        state,
        ...(state === "missed" && { missed_count: 7 }),
        ...(state === "failed" && { reason: "HTTP 401", http_status: 401, result: {} }),
        ...(state === "succeeded" &&
          { started_at: at, finished_at: at, outcome: "succeeded", result: { samples: {} } }),
      });
    }
  }
  await query(
    `update monitor.job_schedules set last_succeeded_at = $1, lease_run_id = gen_random_uuid(), lease_until = $1`,
    [iso(now - 48 * HOUR)],
  );
  await query("update monitor.metric_collectors set backoff_factor = 2, last_duration_seconds = 1");
  await query(
    `insert into monitor.retention_runs (entity, started_at, duration_seconds, outcome, counts)
     values ('job_runs', $1, 1, 'contended', '{}')`,
    [iso(now - HOUR)],
  );
  await rpc(query, "mark_deploy", { p_label: "api 1.4.2", p_at: iso(now - HOUR) });
  await query("select monitor.create_access_token('webshop', '{ingest}')");

  const { rows: rules } = await query<{ rule_id: string }>(
    "select rule_id from monitor.alert_rules where kind = 'alerting' order by rule_id",
  );
  const firing = [
    { labels: { partner: "acme", queue: "mails", status: "timeout" } },
    { labels: { partner: "acme", queue: "jobs", status: "failed" }, no_data: true },
  ];
  for (const { rule_id } of rules) {
    await setFiring(query, Number(rule_id), firing, now - 30 * MINUTE);
  }
  await query("update monitor.alert_rules set expr = expr || ' ' where name = 'CacheHitRateLow'");
  const components = ["database", "scheduler", "metrics", "storage", "rules", "notifications"]
    .map((component) => ({ component, status: "degraded", reason: "for a test" }));
  for (const minutes of range(11)) await advance(query, now - (20 - minutes) * MINUTE, components);
  await query(
    `update monitor.rule_states set health = 'err', evaluation_seconds = 0.1, evaluated_at = $1, failing_since = $1,
       last_error = 'its stored alerts cannot be read: …' where rule_id = $2`,
    [iso(now - 20 * MINUTE), rules[0]!.rule_id],
  );

  const sentAt = iso(now - 15 * MINUTE);
  const sent = { created_at: sentAt, sent_at: sentAt };
  await addMessage(query, { ...sent, state: "sent", provider_id: "mail-1" });
  await addMessage(query, { ...sent, state: "bounced", provider_id: "mail-2" });
  await addMessage(query, { created_at: sentAt, state: "parked", last_error: "refused" });
  await query(
    `insert into monitor.mail_events (event_id, provider_id, kind, occurred_at) values ('event-1', 'mail-1', 'bounced', $1)`,
    [sentAt],
  );

  await rpc(query, "silence_alerts", {
    p_matchers: [{ name: "queue", op: "=", value: "jobs" }],
    p_ends_at: iso(now + HOUR),
    p_reason: "jobs are moved",
  });
  await query(
    "select monitor.open_incident('The first', 'P3', now() - interval '2 hours'), monitor.open_incident('The second', 'P1', now() - interval '1 hour')",
  );
  await query(
    "select monitor.set_incident_state(min(incident_id), 'resolved') from monitor.incidents",
  );
  await query(
    "update monitor.incidents set response_due_at = now() - interval '1 minute', acknowledged_at = null, acknowledged_by = null where resolved_at is null",
  );
  return query;
}
