import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import process from "node:process";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { poll } from "../local/processes.ts";
import type { Facts } from "../local/stack.ts";
import { makeRulesDue, replaceRules } from "./bench-rules.ts";
import type { Scale } from "./history.ts";
import { formatGoal, formatTable } from "./report.ts";
import { type StackFolder, withStack } from "./stack.ts";

/** What a local endpoint was sent. */
interface Received {
  readonly path: string;
  /** Of Standard Webhooks; undefined where there is none. */
  readonly id: string | undefined;
  readonly body: string;
}

/** An endpoint on this machine that takes everything. */
async function startReceiver() {
  const received: Received[] = [];
  const server = createServer((request, response) => {
    text(request).then((body) => {
      const id = request.headers["webhook-id"]?.toString();
      received.push({ path: request.url!, id, body });
      response.end("ok");
    }, () => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { url, received, close };
}

async function post(facts: Facts, name: string): Promise<Record<string, unknown>> {
  const response = await fetch(`${facts.functions_url}/${name}`, {
    method: "POST",
    headers: { apikey: facts.secret_key, "content-type": "application/json" },
    body: "{}",
  });
  return await response.json();
}

/** Rules that fire as soon as they are switched on; each alert goes by each channel in a message of its own. */
async function prepare(
  client: pg.Client,
  { rules, alertsARule, channels }: {
    rules: number;
    alertsARule: number;
    channels: readonly string[];
  },
): Promise<void> {
  const expr = (index: number) =>
    Array.from(
      { length: alertsARule },
      (_, n) => `label_replace(vector(1), "n", "${index}-${n}", "", "")`,
    ).join(" or ");
  await replaceRules(
    client,
    Array.from({ length: rules }, (_, index) => ({
      kind: "alerting",
      name: `Bench${index}`,
      expr: expr(index),
      severity: "critical",
      annotations: { summary: "bench {{ $labels.n }}." },
      enabled: alertsARule > 1,
    })),
  );
  await client.query("update monitor.settings set canary_channel = null");
  await client.query("delete from monitor.notification_routes");
  await client.query(
    "select monitor.save_route('all', $1, p_group_by => '{...}', p_group_wait_seconds => 0)",
    [channels],
  );
}

/** How fast webhooks go out, and that mails keep to their limit. */
export function measureDelivery(log: (line: string) => void, { quick }: Scale): Promise<string> {
  const [webhooks, mails] = quick ? [100, 6] : [1000, 30];
  return withStack(56411, async (facts) => {
    const receiver = await startReceiver();
    const client = new pg.Client({ connectionString: facts.db_url });
    await client.connect();
    try {
      await client.query("select monitor.save_channel('hook', 'webhook', $1, $2)", [
        JSON.stringify({ url: `${receiver.url}/hook` }),
        `whsec_${btoa("seven times seven is 49.")}`,
      ]);
      await prepare(client, { rules: webhooks / 50, alertsARule: 50, channels: ["hook"] });
      await post(facts, "deliver-notifications"); // what runs first is compiled first
      const startedAt = performance.now();
      await makeRulesDue(client);
      const answer = await post(facts, "evaluate-alerts");
      log(`delivery: ${JSON.stringify(answer.alerts)}`);
      const evaluatedAt = performance.now();
      await poll(async () => {
        const count = new Set(receiver.received.map(({ id }) => id)).size;
        return count >= webhooks ? true : undefined;
      }, 120);
      const seconds = (performance.now() - evaluatedAt) / 1000;
      const ids = new Set(receiver.received.map(({ id }) => id));
      if (ids.size !== webhooks || receiver.received.length !== webhooks) {
        throw new Error(
          `Of ${webhooks} webhooks ${ids.size} came, in ${receiver.received.length} requests`,
        );
      }

      await client.query(
        "select monitor.enqueue_notification('admin-mail', payload, notification_id) from monitor.notifications limit $1",
        [mails],
      );
      await client.query("select monitor.wake_deliverer()");
      const sent = await poll(async () => {
        const messages: { sent_at: string }[] = await (await fetch(`${facts.inbox_url}/messages`))
          .json();
        return messages.length >= mails
          ? messages.map(({ sent_at }) => Date.parse(sent_at)).toSorted()
          : undefined;
      }, 120);
      if (!sent) throw new Error("Not all mails came within 2 minutes");
      const { rows: [{ attempts }] } = await client.query(
        "select sum(attempt_count)::int as attempts from monitor.notifications where channel = 'admin-mail'",
      );
      const mailRate = (mails - 1) / ((sent.at(-1)! - sent[0]!) / 1000);
      return formatTable("Delivery to local endpoints", [
        {
          what: `${webhooks} signed webhooks, from the end of their evaluation to the last`,
          unit: "s",
          readings: [seconds],
        },
        {
          what: `… the evaluation itself`,
          unit: "s",
          readings: [(evaluatedAt - startedAt) / 1000],
        },
        { what: `${mails} mails, by the inbox' own times`, unit: "mails/s", readings: [mailRate] },
      ], [
        formatGoal(`${webhooks} webhooks`, seconds, "at most", 60, "s"),
        formatGoal(
          "Mails a second, which the provider limits to 2",
          mailRate,
          "at most",
          2.05,
          "mails/s",
        ),
        formatGoal("… and not much slower", mailRate, "at least", 1.8, "mails/s"),
        `- Mails that had to be sent again because the inbox refused them: ${attempts - mails}`,
        "\nCommand: `npm run bench -- delivery`",
      ]);
    } finally {
      await client.end();
      receiver.close();
    }
  });
}

/** From a value that is too high to the mail in the inbox, with cron and all. */
export async function measureLatency(
  log: (line: string) => void,
  { quick }: Scale,
): Promise<string> {
  const plan = quick ? [{ wait: 0, runs: 1 }] : [{ wait: 0, runs: 5 }, { wait: 30, runs: 3 }];
  const seconds = new Map<number, number[]>();
  await withStack(56421, async (facts) => {
    const client = new pg.Client({ connectionString: facts.db_url });
    await client.connect();
    try {
      await client.query("update monitor.settings set canary_channel = null");
      await replaceRules(client, [{
        kind: "alerting",
        name: "BenchTooDeep",
        expr: "active_incidents > 0",
        severity: "critical",
      }]);
      for (const { wait, runs } of plan) {
        await client.query(
          "select monitor.save_route('local-admin', array['admin-mail'], p_group_wait_seconds => $1)",
          [wait],
        );
        for (let run = 0; run < runs; run += 1) {
          // Somewhere in a minute, and not always at the same place.
          await sleep(1000 * (3 + (run * 17) % 50));
          await fetch(`${facts.inbox_url}/messages`, { method: "DELETE" });
          const crossedAt = performance.now();
          await client.query(
            "insert into monitor.incidents (title, severity) values ('bench', 'P3')",
          );
          const found = await poll(async () => {
            const messages: { subject: string }[] =
              await (await fetch(`${facts.inbox_url}/messages`)).json();
            return messages.some(({ subject }) => /BenchTooDeep/.test(subject)) ? true : undefined;
          }, 180);
          if (!found) throw new Error("No mail came within 3 minutes");
          const took = (performance.now() - crossedAt) / 1000;
          seconds.set(wait, [...seconds.get(wait) ?? [], took]);
          log(`alert-latency: ${took.toFixed(1)} s with a group wait of ${wait} s`);
          for (const table of ["notifications", "alert_groups", "system_alerts", "incidents"]) {
            await client.query(`delete from monitor.${table}`);
          }
          await client.query(
            "update monitor.rule_states set instances = '[]', revision = revision + 1",
          );
        }
      }
    } finally {
      await client.end();
    }
  }, { cron: true });
  return formatTable(
    "From a metric that crosses its threshold to the mail in the inbox",
    [...seconds].map(([wait, readings]) => ({ what: `group wait ${wait} s`, unit: "s", readings })),
    [
      ...[...seconds].map(([wait, readings]) =>
        formatGoal(
          `Group wait ${wait} s, the slowest`,
          Math.max(...readings),
          "at most",
          60 + 5 + wait,
          "s",
        )
      ),
      "\nOne collection interval is 60 s. The value changes at a random place in a minute; pg_cron collects at the next one, the end of " +
      "that calls the evaluation, and the end of that the delivery.",
      "\nCommand: `npm run bench -- alert-latency`",
    ],
  );
}

/** Kills the process of the functions at random points between the beginning of an evaluation and the end of its delivery. */
export function measureCrashes(log: (line: string) => void, { quick }: Scale): Promise<string> {
  const crashes = quick ? 5 : 100;
  return withStack(56431, async (facts, stack) => {
    const receiver = await startReceiver();
    const client = new pg.Client({ connectionString: facts.db_url });
    await client.connect();
    try {
      await client.query("select monitor.save_channel('hook', 'webhook', $1)", [
        JSON.stringify({ url: `${receiver.url}/hook` }),
      ]);
      await client.query("select monitor.save_channel('chat', 'slack', p_secret => $1)", [
        `${receiver.url}/chat`,
      ]);
      await prepare(client, {
        rules: crashes,
        alertsARule: 1,
        channels: ["admin-mail", "chat", "hook"],
      });
      await post(facts, "evaluate-alerts");
      await post(facts, "deliver-notifications");

      for (let crash = 0; crash < crashes; crash += 1) {
        await endLeases(client);
        await client.query("update monitor.alert_rules set enabled = true where name = $1", [
          `Bench${crash}`,
        ]);
        void post(facts, "evaluate-alerts").catch(() => {});
        await sleep(Math.random() * 700);
        kill(stack);
        await waitForFunctions(facts);
        if (crash % 10 === 9) log(`crashes: ${crash + 1}`);
      }
      const isDone = await poll(async () => {
        await endLeases(client);
        await post(facts, "evaluate-alerts").catch(() => {});
        await post(facts, "deliver-notifications").catch(() => {});
        const { rows: [{ left }] } = await client.query(
          // The monitor has told of itself meanwhile, too.
          `select (select count(*) from monitor.notifications where state = 'pending')
             + $1 - (
               select count(distinct alert_id) from monitor.notification_alerts
               join monitor.system_alerts using (alert_id) where name like 'Bench%') as left`,
          [crashes],
        );
        return Number(left) === 0 ? true : undefined;
      }, 180);
      if (!isDone) throw new Error("Not all was delivered 3 minutes after the last crash");
      return await formatCrashes(client, facts, receiver.received, crashes);
    } finally {
      await client.end();
      receiver.close();
    }
  });
}

/** What time would do, a minute after each crash. */
async function endLeases(client: pg.Client): Promise<void> {
  await client.query("update monitor.job_schedules set lease_run_id = null, lease_until = null");
  await client.query(
    "update monitor.notifications set lease_until = now() where lease_until > now()",
  );
  await client.query(
    "update monitor.notifications set next_attempt_at = now() where state = 'pending' and next_attempt_at > now()",
  );
  await makeRulesDue(client);
}

function kill({ folder }: StackFolder): void {
  const { functions_pid: pid } = JSON.parse(readFileSync(join(folder, "lock.json"), "utf8"));
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It is being started again.
  }
}

async function waitForFunctions(facts: Facts): Promise<void> {
  const isUp = await poll(async () => {
    try {
      const response = await fetch(`${facts.functions_url}/health?check=live`, {
        signal: AbortSignal.timeout(2000),
      });
      await response.body?.cancel();
      return response.ok || undefined;
    } catch {
      return undefined;
    }
  }, 60);
  if (!isUp) throw new Error("The functions did not come back within a minute");
}

async function formatCrashes(
  client: pg.Client,
  facts: Facts,
  received: readonly Received[],
  crashes: number,
): Promise<string> {
  const mails: { text?: string; subject: string }[] =
    await (await fetch(`${facts.inbox_url}/messages`)).json();
  const count = (bodies: readonly string[], index: number) =>
    bodies.filter((body) => body.includes(`bench ${index}-0.`)).length;
  const at = (path: string) => received.filter((one) => one.path === path);
  // Whoever knows the key takes what comes twice for one.
  const hooks = [...new Map(at("/hook").map((one) => [one.id, one.body])).values()];
  const chats = at("/chat").map(({ body }) => body);
  const letters = mails.map(({ subject, text = "" }) => `${subject} ${text}`);
  const indices = Array.from({ length: crashes }, (_, index) => index);
  const lost = (bodies: readonly string[]) =>
    indices.filter((index) => count(bodies, index) === 0).length;
  const doubled = (bodies: readonly string[]) =>
    indices.filter((index) => count(bodies, index) > 1);
  const repeats = indices.reduce((sum, index) => sum + Math.max(0, count(chats, index) - 1), 0);
  const most = Math.max(...indices.map((index) => count(chats, index) - 1));
  const marked = chats.filter((body) => /repetition/i.test(body)).length;
  const { rows: [{ attempts }] } = await client.query(
    "select sum(attempt_count - 1)::int as attempts from monitor.notifications",
  );
  const verdict = (isReached: boolean) => `**${isReached ? "reached" : "missed"}**`;
  const allLost = lost(letters) + lost(hooks) + lost(chats);
  const twice = doubled(letters).length + doubled(hooks).length;
  return [
    `## ${crashes} crashes between evaluation and delivery`,
    "",
    "| Channel | Lost | Twice | Marked as a possible repetition |",
    "| --- | --- | --- | --- |",
    `| mail, by its idempotency key | ${lost(letters)} | ${doubled(letters).length} | — |`,
    `| webhook, by its id | ${lost(hooks)} | ${doubled(hooks).length} | — |`,
    `| Slack, which knows no key | ${lost(chats)} | ${repeats} | ${marked} |`,
    "",
    `- Lost: ${allLost}; goal 0: ${verdict(allLost === 0)}`,
    `- Twice where there is a key: ${twice}; goal 0: ${verdict(twice === 0)}`,
    `- Most repetitions a crash on the other, all marked: ${most}; goal at most 1: ${
      verdict(most <= 1 && marked >= repeats)
    }`,
    `- Attempts beyond the first: ${attempts}`,
    "",
    "Each time one more alert begins, and the process of all functions is killed (SIGKILL) up to 0.7 s after its evaluation was asked " +
    "for: while it evaluates, stores, sends, or waits. Leases are ended by hand after each crash, where time would do it in a minute.",
    "",
    "Command: `npm run bench -- crashes`",
    "",
  ].join("\n");
}
