import { execFile } from "node:child_process";
import process from "node:process";
import { promisify } from "node:util";
import type pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { poll } from "../../local/processes.ts";
import { SAMPLE_KINDS } from "../../shared/alerting/messages/sample-payloads.ts";
import { startTestStack, type TestStack } from "../stack.ts";

let stack: TestStack;
let db: pg.Client;

beforeAll(async () => {
  stack = await startTestStack({ cron: false });
  db = await stack.connect();
});

afterAll(() => stack?.stop());

interface Mail {
  to: string[];
  subject: string;
  html: string;
  text: string;
}

const readInbox = async (): Promise<Mail[]> =>
  await (await fetch(`${stack.facts.inbox_url}/messages`)).json();

/** A minute is evaluated with the samples up to its start: one that is in time for the current one. */
const inTime = () => new Date(Date.now() - 60_000).toISOString();

/** Waits for a mail whose subject fits. */
async function findMail(subject: RegExp, seconds = 20): Promise<Mail> {
  const found = await poll(
    async () => (await readInbox()).find((mail) => subject.test(mail.subject)),
    seconds,
  );
  if (!found) {
    throw new Error(
      `No mail like ${subject}, only: ${(await readInbox()).map(({ subject }) => subject)}`,
    );
  }
  return found;
}

async function post(path: string, body: object = {}, key = stack.facts.secret_key) {
  const response = await fetch(`${stack.facts.functions_url}/${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", apikey: key },
    body: JSON.stringify(body),
  });
  return { status: response.status, body: await response.json() };
}

describe("an alert", () => {
  it("goes from a metric to the inbox by the chain of jobs alone, and its mail is known to be delivered", async () => {
    await db.query(
      "select monitor.save_route('local-admin', array['admin-mail'], p_group_wait_seconds => 0)",
    );
    await db.query(
      `select monitor.save_rules($1)`,
      [JSON.stringify([{
        name: "e2e",
        rules: [{
          kind: "alerting",
          name: "TooDeep",
          expr: "e2e_depth > 10",
          severity: "critical",
          annotations: { summary: "Queue {{ $labels.queue }} is {{ $value }} deep" },
        }],
      }])],
    );
    expect(
      await post("ingest-metrics", {
        samples: [{
          metric: "e2e_depth",
          labels: { queue: "<b>mails</b>" },
          value: 11,
          recorded_at: inTime(),
        }],
      }),
    ).toMatchObject({ status: 200 });

    // All that cron does in a minute.
    await db.query("select monitor.invoke_function('collect-metrics')");

    const mail = await findMail(/TooDeep|mails/);
    expect(mail).toMatchObject({
      to: ["admin@example.com"],
      subject: expect.stringMatching(/^\[CRITICAL\] Queue <b>mails<\/b> is 11 deep/),
    });
    expect(mail.html).toContain("Queue &lt;b&gt;mails&lt;/b&gt; is 11 deep");
    expect(mail.html).not.toContain("<b>mails");

    const delivered = await poll(async () => {
      const { rows } = await db.query(
        "select channel, attempt_count from monitor.notifications where state = 'delivered' and payload::text like '%TooDeep%'",
      );
      return rows.length > 0 ? rows : undefined;
    }, 20);
    expect(delivered).toEqual([{ channel: "admin-mail", attempt_count: 1 }]);

    const runs = await poll(async () => {
      const { rows } = await db.query(
        `select job, trigger, outcome from monitor.job_runs
         where job in ('collect-metrics', 'evaluate-alerts', 'deliver-notifications') and outcome is not null
         order by started_at`,
      );
      return rows.length >= 3 ? rows.slice(0, 3) : undefined;
    }, 20);
    expect(runs).toEqual([
      { job: "collect-metrics", trigger: "cron", outcome: "succeeded" },
      { job: "evaluate-alerts", trigger: "cron", outcome: "succeeded" },
      { job: "deliver-notifications", trigger: "chain", outcome: "succeeded" },
    ]);
  });

  it("waits for its group without anybody calling", async () => {
    // It counts from the minute that is evaluated, of which some has passed.
    await db.query(
      "select monitor.save_route('local-admin', array['admin-mail'], p_group_wait_seconds => $1)",
      [(Date.now() % 60_000) / 1000 + 4],
    );
    await post("ingest-metrics", {
      samples: [{
        metric: "e2e_depth",
        labels: { queue: "later" },
        value: 12,
        recorded_at: inTime(),
      }],
    });
    await db.query("delete from monitor.alert_groups");
    await db.query(
      "delete from monitor.job_runs where job in ('collect-metrics', 'evaluate-alerts')",
    );
    await db.query(
      "update monitor.rule_states set evaluated_at = null, health = 'unknown', evaluation_seconds = null",
    );
    expect(await post("evaluate-alerts")).toMatchObject({ status: 200 });
    const mail = await findMail(/^\[CRITICAL\] 2 firing/);
    expect(mail.text).toContain("Queue later is 12 deep");
  });
});

describe("npm run notify-test", () => {
  const run = (...args: string[]) =>
    promisify(execFile)(
      process.execPath,
      ["--import", "tsx", "scripts/notify-test.ts", "--db-url", stack.facts.db_url, ...args],
    ).catch((error) => error as { stdout: string; stderr: string; code: number });

  it("sends a sample of each message, and says what became of it", async () => {
    // As in production; the limit of two a second would only take time here.
    await db.query("update monitor.settings set mails_per_second = 2");
    const { stdout } = await run("--channel", "admin-mail", "--seconds", "40");
    expect(stdout.trim().split("\n").slice(1).map((line) => line.split(/ +/)[0]).toSorted())
      .toEqual(
        SAMPLE_KINDS.filter((kind) => kind !== "heartbeat").toSorted(),
      );
    expect(stdout).not.toMatch(/parked|pending/);
    for (const subject of [/^\[TEST\].*\[CRITICAL\]/, /^\[TEST\].*\[P\d\]/]) {
      await findMail(subject);
    }
  });

  it("names the channels, and says what is wrong with one", async () => {
    expect((await run()).stdout).toMatch(/^admin-mail +email +works/m);
    expect(await run("--channel", "nobody")).toMatchObject({
      code: 3,
      stderr: expect.stringContaining("There is no channel nobody; there is admin-mail"),
    });
  });

  it.each(["notifications_enabled", "jobs_enabled"])(
    "does not wait for what is switched off: %s",
    async (setting) => {
      await db.query(`update monitor.settings set ${setting} = false`);
      try {
        expect(await run("--channel", "admin-mail")).toMatchObject({
          code: 3,
          stderr: expect.stringContaining(`update monitor.settings set ${setting} = true;`),
        });
      } finally {
        await db.query(`update monitor.settings set ${setting} = true`);
      }
    },
  );
});
