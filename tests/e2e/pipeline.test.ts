import { readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import pg from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { startFunctions } from "../../local/functions.ts";
import { startGateway } from "../../local/gateway.ts";
import { poll } from "../../local/processes.ts";
import { freePort, startTestStack, type TestStack } from "../stack.ts";

const JOBS = [
  "collect-metrics",
  "detect-anomalies",
  "data-retention-cleanup",
  "evaluate-alerts",
  "deliver-notifications",
] as const;

let stack: TestStack;
let db: pg.Client;

beforeAll(async () => {
  // Cron is the test itself here: it calls what cron would call, when it wants to.
  stack = await startTestStack({ cron: false });
  db = await stack.connect();
});

afterAll(() => stack?.stop());

/** Each test starts with an idle schedule, working secrets and no collectors but the shipped ones. */
beforeEach(async () => {
  await db.query("update monitor.settings set jobs_enabled = true");
  await db.query("update monitor.job_schedules set lease_run_id = null, lease_until = null");
  await db.query("delete from monitor.metric_collectors where collector like 'collect_test_%'");
  await db.query("update monitor.metric_collectors set next_due_at = null, last_run_at = null");
  await setSecret("project_url", stack.facts.api_url);
  await setSecret("cron_secret_key", stack.facts.cron_key);
});

async function setSecret(name: string, value: string): Promise<void> {
  await db.query("select vault.update_secret((select id from vault.secrets where name = $1), $2)", [
    name,
    value,
  ]);
}

/** Calls a job by hand. */
async function post(job: string, headers: Record<string, string>, body: object = {}) {
  const response = await fetch(`${stack.facts.functions_url}/${job}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
  return { status: response.status, headers: response.headers, body: await response.json() };
}

const withKey = () => ({ apikey: stack.facts.secret_key });

/** Does what cron does, for the minute `minutesAgo`. Returns the run's id. */
async function invoke(job: string, minutesAgo = 0): Promise<string> {
  await db.query("delete from monitor.job_runs where job = $1 and trigger = 'cron'", [job]);
  const { rows } = await db.query(
    "select monitor.invoke_function($1, now() - make_interval(mins => $2)) as run_id",
    [job, minutesAgo],
  );
  return rows[0].run_id;
}

/** The run as the watchdog sees it once all of its witnesses have spoken. */
async function settled(runId: string) {
  const run = await poll(async () => {
    await db.query("select monitor.watch_jobs()");
    const { rows: [row] } = await db.query("select * from monitor.job_runs where run_id = $1", [
      runId,
    ]);
    return row.responded_at !== null || row.is_settled ? row : undefined;
  }, 20);
  if (!run) throw new Error(`Run ${runId} got no answer within 20 s`);
  return run;
}

/** Registers a collector that does `body` (plpgsql) and returns one sample of active_incidents{source}. */
async function addCollector(name: string, body: string, timeoutSeconds: number): Promise<void> {
  await db.query(`
    create or replace function monitor.${name}(p_at timestamptz) returns jsonb
    language plpgsql stable set search_path = '' as $$
    begin
      ${body}
      return monitor.sample('active_incidents', 1, '{"source":"${name}"}');
    end $$`);
  await db.query("select monitor.register_collector($1, 'A test', 60, $2)", [name, timeoutSeconds]);

  // The API hears of a change of the schema a moment later. What was made after it tells that it has.
  const marker = `test_marker_${name}_${performance.now().toFixed(0)}`;
  await db.query(
    `create function monitor.${marker}() returns integer language sql set search_path = '' as 'select 1'`,
  );
  const isKnown = await poll(async () => {
    const response = await fetch(`${stack.facts.rest_url}/rpc/${marker}`, {
      method: "POST",
      headers: { ...withKey(), "content-profile": "monitor", "content-type": "application/json" },
      body: "{}",
    });
    await response.body?.cancel();
    return response.ok || undefined;
  }, 10);
  expect(isKnown).toBe(true);
}

describe("a scheduled run", () => {
  it.each(JOBS)("of %s is seen by all three witnesses", async (job) => {
    const run = await settled(await invoke(job));
    expect(run).toMatchObject({
      trigger: "cron",
      state: "succeeded",
      http_status: 200,
      outcome: "succeeded",
      is_settled: true,
      reason: null,
    });
    expect(run.queued_at <= run.started_at && run.started_at <= run.finished_at).toBe(true);
  });

  it("with a key that the functions refuse has failed, although cron succeeded", async () => {
    await setSecret("cron_secret_key", "sb_secret_of_another_project");
    const run = await settled(await invoke("detect-anomalies"));
    expect(run).toMatchObject({ state: "failed", http_status: 401, started_at: null });
    expect(run.reason).toMatch(/^HTTP 401/);
  });

  it("without a Vault secret has failed, with the reason", async () => {
    const rename = (from: string, to: string) =>
      db.query(
        "select vault.update_secret((select id from vault.secrets where name = $1), new_name := $2)",
        [from, to],
      );
    await rename("cron_secret_key", "cron_service_key");
    try {
      const run = await settled(await invoke("detect-anomalies"));
      expect(run).toMatchObject({
        state: "failed",
        reason: "Vault has no secret named cron_secret_key",
      });
    } finally {
      await rename("cron_service_key", "cron_secret_key");
    }
  });

  it("that nobody answers has failed, with pg_net's word", async () => {
    await setSecret("project_url", `http://127.0.0.1:${await freePort()}`);
    const run = await settled(await invoke("detect-anomalies"));
    expect(run).toMatchObject({ state: "failed", http_status: null });
    expect(run.reason).toMatch(/connect/i);
  });

  it("that finishes after cron stopped waiting has succeeded, slowly", async () => {
    await addCollector("collect_test_slow", "perform pg_sleep(2);", 5);
    await db.query(
      "update monitor.job_schedules set timeout_milliseconds = 1000 where job = 'collect-metrics'",
    );
    try {
      const runId = await invoke("collect-metrics");
      expect(await settled(runId)).toMatchObject({ http_timed_out: true });
      const finished = await poll(async () => {
        await db.query("select monitor.watch_jobs()");
        const { rows: [row] } = await db.query("select * from monitor.job_runs where run_id = $1", [
          runId,
        ]);
        return row.finished_at ? row : undefined;
      }, 20);
      expect(finished).toMatchObject({ state: "succeeded", is_slow: true });
    } finally {
      await db.query(
        "update monitor.job_schedules set timeout_milliseconds = 55000 where job = 'collect-metrics'",
      );
    }
  });
});

describe("a stack left alone", () => {
  it("collects by itself: at once when it is ready, and at the next full minute", async () => {
    const own = await startTestStack();
    const client = new pg.Client({ connectionString: own.facts.db_url });
    await client.connect();
    try {
      const count = async (table: string, where = "true") => {
        const { rows } = await client.query(
          `select count(*)::int as n from monitor.${table} where ${where}`,
        );
        return rows[0].n as number;
      };
      expect(await poll(async () => await count("metric_time_series") || undefined, 15))
        .toBeGreaterThan(10);
      expect(
        await poll(
          async () => await count("job_runs", "state = 'succeeded'") >= 3 || undefined,
          15,
        ),
      )
        .toBe(true);

      // The scheduler's own clock, nobody else's: it has to come round to the full minute and fire.
      const fired = await poll(async () =>
        await count(
                "job_runs",
                "job = 'collect-metrics' and trigger = 'cron' and state = 'succeeded' and http_status = 200",
              ) >= 1 &&
          await count("job_runs", "job = 'collect-metrics' and trigger = 'cron'") >= 2 ||
        undefined, 75);
      expect(fired).toBe(true);
    } finally {
      await client.end();
      await own.stop();
    }
  }, 120_000);
});

describe("who may run a job", () => {
  async function signIn(path: string, email: string, password: string): Promise<string> {
    const response = await fetch(`${stack.facts.api_url}/auth/v1/${path}`, {
      method: "POST",
      headers: { apikey: stack.facts.publishable_key, "content-type": "application/json" },
      body: JSON.stringify({ email, password }),
    });
    const { access_token } = await response.json();
    expect(access_token).toEqual(expect.any(String));
    return access_token;
  }

  it.each(JOBS)("%s refuses everybody else, and records nothing", async (job) => {
    const count = async () =>
      (await db.query("select count(*)::int as n from monitor.job_runs where job = $1", [job]))
        .rows[0].n;
    const before = await count();
    const visitor = await signIn(
      "signup",
      `visitor-${job}@example.com`,
      "a long password of a visitor",
    );
    const cases: [Record<string, string>, number][] = [
      [{}, 401],
      [{ apikey: stack.facts.publishable_key }, 401],
      [{ apikey: "sb_secret_wrong" }, 401],
      [{ authorization: `Bearer ${stack.facts.secret_key}` }, 401],
      [{ apikey: stack.facts.publishable_key, authorization: `Bearer ${visitor}` }, 403],
      [{ authorization: `Bearer ${visitor}` }, 403],
      [{ authorization: `Bearer ${visitor}x` }, 401],
      [{ apikey: stack.facts.secret_key, authorization: `Bearer ${visitor}x` }, 401],
    ];
    for (const [headers, status] of cases) {
      const answer = await post(job, headers);
      expect([Object.keys(headers), answer.status]).toEqual([Object.keys(headers), status]);
      expect(answer.headers.get("content-type")).toBe("application/problem+json");
      expect(answer.body).toMatchObject({
        status,
        type: expect.stringMatching(/^urn:pgvigil:problem:/),
      });
    }
    expect(await count()).toBe(before);
  });

  it.each(JOBS)(
    "%s takes the keys default, cron and cron_next, and an admin's token",
    async (job) => {
      const admin = await signIn(
        "token?grant_type=password",
        stack.facts.admin_email,
        stack.facts.admin_password,
      );
      const { secret_key, cron_key, cron_next_key, publishable_key } = stack.facts;
      for (
        const headers of [
          { apikey: secret_key },
          { apikey: cron_key },
          { apikey: cron_next_key },
          { apikey: publishable_key, authorization: `Bearer ${admin}` },
        ]
      ) {
        expect((await post(job, headers)).status).toBe(200);
      }
    },
  );

  it("an admin who is one no more is refused at once", async () => {
    const admin = await signIn(
      "token?grant_type=password",
      stack.facts.admin_email,
      stack.facts.admin_password,
    );
    const headers = { authorization: `Bearer ${admin}` };
    const { rows: [row] } = await db.query("delete from monitor.admins returning *");
    expect((await post("detect-anomalies", headers)).status).toBe(403);
    await db.query("insert into monitor.admins (user_id, added_by) values ($1, $2)", [
      row.user_id,
      row.added_by,
    ]);
    expect((await post("detect-anomalies", headers)).status).toBe(200);
  });

  it("the REST API shows the publishable key nothing of the schema", async () => {
    for (const path of ["settings", "job_runs", "rpc/read_health", "rpc/start_job"]) {
      const response = await fetch(`${stack.facts.rest_url}/${path}`, {
        headers: { apikey: stack.facts.publishable_key, "accept-profile": "monitor" },
      });
      expect(response.ok).toBe(false);
      await response.body?.cancel();
    }
  });
});

describe("an evaluation", () => {
  it("is called by the end of collecting, and comes to something of every shipped rule", async () => {
    await db.query("delete from monitor.job_runs where job = 'evaluate-alerts'");
    const collection = await settled(await invoke("collect-metrics"));
    const { rows: calls } = await db.query(
      "select run_id, trigger, scheduled_at from monitor.job_runs where job = 'evaluate-alerts'",
    );
    expect(calls).toMatchObject([{ trigger: "cron", scheduled_at: collection.scheduled_at }]);
    expect(await settled(calls[0].run_id)).toMatchObject({ state: "succeeded", http_status: 200 });
    const { rows } = await db.query(
      `select rule.name, state.health, state.last_error
       from monitor.rule_states as state join monitor.alert_rules as rule using (rule_id)`,
    );
    expect(rows.length).toBeGreaterThan(0);
    expect(rows.filter(({ health }) => health !== "ok")).toEqual([]);
  });
});

describe("a collection", () => {
  it("of the same minute again adds nothing", async () => {
    const scheduled_at = new Date(Math.floor(Date.now() / 60_000) * 60_000).toISOString();
    const first = await post("collect-metrics", withKey(), { scheduled_at });
    expect(first.status).toBe(200);
    const again = await post("collect-metrics", withKey(), { scheduled_at });
    expect(again.status).toBe(200);
    expect(again.body.samples.inserted).toBe(0);
    expect(again.body.samples.duplicates).toBeGreaterThan(0);
  });

  it("goes on around a collector that raises and one that sleeps", async () => {
    await addCollector("collect_test_raises", "raise exception 'no such planet';", 2);
    await addCollector("collect_test_sleeps", "perform pg_sleep(6);", 1);
    const { status, body } = await post("collect-metrics", withKey());
    expect(status).toBe(200);
    const byName = new Map(
      body.collectors.map((row: { collector: string }) => [row.collector, row]),
    );
    expect(byName.get("collect_test_raises")).toMatchObject({ outcome: "failed", rows: 0 });
    expect(byName.get("collect_test_sleeps")).toMatchObject({ outcome: "timed_out", rows: 0 });
    expect(byName.get("collect_database_connections")).toMatchObject({ outcome: "ok", rows: 6 });

    const { rows } = await db.query(
      `select collector, last_outcome, last_error, backoff_factor, last_duration_seconds
       from monitor.metric_collectors where collector like 'collect_test_%' order by collector`,
    );
    expect(rows).toMatchObject([
      {
        last_outcome: "failed",
        last_error: expect.stringContaining("no such planet"),
        backoff_factor: 1,
      },
      { last_outcome: "timed_out", backoff_factor: expect.any(Number) },
    ]);
    // Cut at its own second, far from the six it wanted and the eight that any statement may take.
    expect(rows[1].last_duration_seconds).toBeLessThan(5);
  });

  it("that stores nothing at all has failed", async () => {
    await db.query("update monitor.metric_collectors set is_enabled = false");
    try {
      const { status, body } = await post("collect-metrics", withKey());
      expect(status).toBe(500);
      expect(body).toMatchObject({
        type: "urn:pgvigil:problem:run-failed",
        run_id: expect.any(String),
      });
    } finally {
      await db.query("update monitor.metric_collectors set is_enabled = true");
    }
  });
});

describe("two runs of a job", () => {
  it("at once: the second is told which run holds the lease", async () => {
    await addCollector("collect_test_slow", "perform pg_sleep(2);", 5);
    const first = post("collect-metrics", withKey());
    const running = await poll(async () => {
      const { rows } = await db.query(
        "select run_id from monitor.job_runs where state = 'running'",
      );
      return rows[0]?.run_id;
    }, 10);
    const second = await post("collect-metrics", withKey());
    expect(second.status).toBe(409);
    expect(second.body).toMatchObject({ type: "urn:pgvigil:problem:overlap", run_id: running });
    expect((await first).body).toMatchObject({ run_id: running, outcome: "succeeded" });

    const { rows: [skipped] } = await db.query(
      "select state, reason from monitor.job_runs where run_id = $1",
      [second.headers.get("x-run-id")],
    );
    expect(skipped).toEqual({ state: "skipped", reason: `run ${running} held the lease` });
  });

  it("one killed half-way: it is seen as failed, the functions come back, the lease runs out", async () => {
    await addCollector("collect_test_slow", "perform pg_sleep(4);", 5);
    const runId = await invoke("collect-metrics");
    await poll(async () => {
      const { rows } = await db.query(
        "select from monitor.job_runs where run_id = $1 and state = 'running'",
        [runId],
      );
      return rows[0];
    }, 10);
    const { functions_pid } = JSON.parse(readFileSync(join(stack.folder, "lock.json"), "utf8"));
    process.kill(functions_pid, "SIGKILL");

    const run = await settled(runId);
    expect(run).toMatchObject({ state: "failed", outcome: null, finished_at: null });
    const isBack = await poll(async () => {
      const response = await fetch(`${stack.facts.functions_url}/health?check=live`);
      await response.body?.cancel();
      return response.ok || undefined;
    }, 20);
    expect(isBack).toBe(true);

    const start = (seconds: number) =>
      db.query(
        `select monitor.start_job('collect-metrics', gen_random_uuid(), 'manual', now(),
           started_at + make_interval(secs => $2)) as answer
         from monitor.job_runs where run_id = $1`,
        [runId, seconds],
      ).then(({ rows }) => rows[0].answer.outcome);
    expect(await start(54)).toBe("overlap");
    expect(await start(55)).toBe("started");
  });
});

describe("the kill switch", () => {
  it("stops every job without a deploy, says so, and lets go again", async () => {
    await db.query("update monitor.settings set jobs_enabled = false");
    for (const job of JOBS) {
      const answer = await post(job, withKey());
      expect(answer.status).toBe(409);
      expect(answer.body.type).toBe("urn:pgvigil:problem:jobs-disabled");
      expect(await settled(await invoke(job))).toMatchObject({
        state: "skipped",
        reason: "jobs are switched off",
      });
    }
    await db.query("update monitor.settings set jobs_enabled = true");
    expect((await post("detect-anomalies", withKey())).status).toBe(200);
  });
});

describe("rotating the cron key", () => {
  it("loses no run", async () => {
    const { facts } = stack;
    const states: string[] = [];
    const run = async () => states.push((await settled(await invoke("detect-anomalies"))).state);

    await run(); // with cron
    await setSecret("cron_secret_key", facts.cron_next_key);
    await run(); // with cron_next, while cron is still there

    // The functions as they are once the old key has been deleted.
    const [port, functionsPort] = [await freePort(), await freePort()];
    const gateway = await startGateway({ port, functionsPort, identity: {} as never });
    gateway.open(() => new Response(null, { status: 404 }));
    const functions = await startFunctions({
      root: process.cwd(),
      log: join(stack.folder, "functions-after-rotation.log"),
      port: functionsPort,
      environment: {
        SUPABASE_URL: facts.api_url,
        SUPABASE_SECRET_KEYS: JSON.stringify({
          default: facts.secret_key,
          cron_next: facts.cron_next_key,
        }),
        SUPABASE_PUBLISHABLE_KEYS: JSON.stringify({ default: facts.publishable_key }),
      },
      onStart() {},
      onCrash() {},
    });
    try {
      await setSecret("project_url", `http://127.0.0.1:${port}`);
      await run();
      await setSecret("cron_secret_key", facts.cron_key);
      const refused = await settled(await invoke("detect-anomalies"));
      expect(refused).toMatchObject({ state: "failed", http_status: 401 });
    } finally {
      await functions.stop();
      await gateway.close();
    }
    expect(states).toEqual(["succeeded", "succeeded", "succeeded"]);
  });
});

describe("health", () => {
  it("tells anybody status and age only, and a key the rest", async () => {
    await post("collect-metrics", withKey());
    const open = await fetch(`${stack.facts.functions_url}/health`);
    expect(Object.keys(await open.json()).toSorted()).toEqual(["age_seconds", "status"]);
    const full = await fetch(`${stack.facts.functions_url}/health`, { headers: withKey() });
    const body = await full.json();
    expect(Object.keys(body).toSorted()).toEqual([
      "components",
      "duration",
      "overall",
      "timestamp",
    ]);
    expect(Object.keys(body.components).toSorted()).toEqual([
      "database",
      "jobs",
      "metrics",
      "notifications",
      "rules",
      "scheduler",
      "storage",
    ]);
  });
});

describe("what the functions print", () => {
  it("is one JSON object a line, with run ids, and no secret", () => {
    const text = readFileSync(join(stack.folder, "functions.log"), "utf8");
    const lines = text.trim().split("\n");
    expect(lines.length).toBeGreaterThan(20);
    for (const line of lines) {
      expect(JSON.parse(line)).toMatchObject({
        time: expect.any(String),
        run_id: expect.any(String),
      });
    }
    const { secret_key, cron_key, cron_next_key, publishable_key, admin_password } = stack.facts;
    for (const secret of [secret_key, cron_key, cron_next_key, publishable_key, admin_password]) {
      expect(text).not.toContain(secret);
    }
    expect(text).not.toMatch(/eyJ[\w-]{10,}\.[\w-]{10,}/);
  });
});
