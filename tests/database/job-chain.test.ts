import { randomUUID } from "node:crypto";
import { describe, expect } from "vitest";
import { it, type OwnDatabase, type Query, queryOf, rpc, waitUntilBlocking } from "./database.ts";
import { poll } from "../../local/processes.ts";
import {
  addChannel,
  addMessage,
  addRun,
  DAY,
  HOUR,
  iso,
  MINUTE,
  NOON,
  range,
  SECOND,
} from "./seeds.ts";

const COLLECT = "collect-metrics";
const EVALUATE = "evaluate-alerts";
const DELIVER = "deliver-notifications";

const URL = "https://abcdefghijklmnopqrst.supabase.co";
const KEY = "sb_secret_0123456789abcdefghijkl_ABCDEFGH";

const setSecrets = (asOwner: Query) =>
  asOwner(
    "select vault.create_secret($1, 'project_url'), vault.create_secret($2, 'cron_secret_key')",
    [URL, KEY],
  );

/** As cron does at each tick of a job that follows none. */
const invoke = (asOwner: Query, job: string, at = NOON) =>
  rpc<string>(asOwner, "invoke_function", { p_job: job, p_now: iso(at) });

/** Runs what pg_cron runs for evaluating, as if it were `at`. */
async function fallBack(asOwner: Query, at: number): Promise<string> {
  const { rows: [cron] } = await asOwner<{ command: string }>(
    "select command from cron.job where jobname = 'evaluate-alerts-every-minute'",
  );
  const now = `timestamptz '${iso(at)}'`;
  const command = cron!.command.includes("now()")
    ? cron!.command.replaceAll("now()", now)
    : cron!.command.replace(/\)$/, `, ${now})`);
  const { rows: [called] } = await asOwner<{ invoke_function: string }>(command);
  return called!.invoke_function;
}

const start = (query: Query, job: string, run: string, at = NOON, scheduledAt = at) =>
  rpc<{ outcome: string }>(query, "start_job", {
    ...{ p_job: job, p_run_id: run, p_trigger: "manual" },
    ...{ p_scheduled_at: iso(scheduledAt), p_now: iso(at) },
  });

const finish = (query: Query, run: string, at: number, outcome = "succeeded") =>
  rpc<{ state: string }>(query, "finish_job", {
    ...{ p_run_id: run, p_outcome: outcome, p_now: iso(at) },
  });

/** A whole run, called by hand at `at` for the minute of `scheduledAt`, that takes 5 s. */
async function runByHand(query: Query, job: string, at = NOON, scheduledAt = at) {
  const run = randomUUID();
  await start(query, job, run, at, scheduledAt);
  return await finish(query, run, at + 5 * SECOND);
}

/** The runs of a job: trigger, state, and minutes after noon of what they are of. */
async function readRuns(query: Query, job: string) {
  const { rows } = await query<{ run_id: string; trigger: string; state: string; at: Date }>(
    `select run_id, trigger, state, scheduled_at as at from monitor.job_runs
     where job = $1 order by scheduled_at, queued_at`,
    [job],
  );
  return rows.map(({ at, ...run }) => ({ ...run, minute: (at.getTime() - NOON) / MINUTE }));
}

/** What was posted: functions with the run and the minute that they were called for. */
async function readRequests(asOwner: Query) {
  const { rows } = await asOwner<{ url: string; run: string; at: string }>(
    `select url, headers ->> 'x-run-id' as run, convert_from(body, 'utf8')::jsonb ->> 'scheduled_at' as at
     from net.http_request_queue order by id`,
  );
  return rows.map(({ url, run, at }) => ({
    function: url.replace(`${URL}/functions/v1/`, ""),
    run,
    minute: (Date.parse(at) - NOON) / MINUTE,
  }));
}

/** How often a function was called. */
const countCalls = async (asOwner: Query, job: string) =>
  (await readRequests(asOwner)).filter((request) => request.function === job).length;

describe("the end of collecting", () => {
  it.for(["succeeded", "failed"])(
    "that has %s calls evaluating for the same minute",
    async (outcome, { asOwner, query }) => {
      await setSecrets(asOwner);
      const run = await invoke(asOwner, COLLECT);
      await start(query, COLLECT, run, NOON + SECOND);
      expect(await readRequests(asOwner)).toHaveLength(1);

      await finish(query, run, NOON + 7 * SECOND, outcome);
      const runs = await readRuns(query, EVALUATE);
      expect(runs).toEqual([
        { run_id: expect.any(String), trigger: "cron", state: "queued", minute: 0 },
      ]);
      expect(await readRequests(asOwner)).toEqual([
        { function: COLLECT, run, minute: 0 },
        { function: EVALUATE, run: runs[0]!.run_id, minute: 0 },
      ]);
    },
  );

  it("calls for its own minute, however late it ends", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    const run = await invoke(asOwner, COLLECT);
    await start(query, COLLECT, run, NOON + SECOND);
    await finish(query, run, NOON + 2 * MINUTE);
    expect(await readRuns(query, EVALUATE)).toMatchObject([{ minute: 0 }]);
  });

  it("calls once for a minute, however often that is collected", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    for (const n of range(3)) await runByHand(query, COLLECT, NOON + n * 10 * SECOND);
    expect(await countCalls(asOwner, EVALUATE)).toBe(1);
    await runByHand(query, COLLECT, NOON + MINUTE);
    expect(await readRuns(query, EVALUATE)).toMatchObject([{ minute: 0 }, { minute: 1 }]);
  });

  it("calls nobody when the run may not start, or is told its end twice", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    const [first, second] = [randomUUID(), randomUUID()];
    await start(query, COLLECT, first);
    expect(await start(query, COLLECT, second)).toMatchObject({ outcome: "overlap" });
    await expect(finish(query, second, NOON)).rejects.toMatchObject({ code: "22023" });
    expect(await readRuns(query, EVALUATE)).toEqual([]);
    await finish(query, first, NOON);
    await expect(finish(query, first, NOON)).rejects.toMatchObject({ code: "22023" });
    expect(await countCalls(asOwner, EVALUATE)).toBe(1);
  });

  it("ends the run although nobody can be called, and says so of the run that was to be called", async ({ query }) => {
    expect(await runByHand(query, COLLECT)).toEqual({ state: "succeeded" });
    expect(await readRuns(query, EVALUATE)).toMatchObject([{ state: "failed" }]);
    const { rows } = await query("select reason from monitor.job_runs where job = $1", [EVALUATE]);
    expect(rows).toEqual([{ reason: "Vault has no secret named project_url" }]);
  });

  it("posts nothing when jobs were switched off meanwhile, and lets that be seen", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    const run = randomUUID();
    await start(query, COLLECT, run);
    await query("update monitor.settings set jobs_enabled = false");
    await finish(query, run, NOON + SECOND);
    expect(await readRuns(query, EVALUATE)).toMatchObject([{ state: "skipped", minute: 0 }]);
    expect(await readRequests(asOwner)).toEqual([]);
  });

  it("dates the call by when it was made, for whoever waits 3 minutes for its answer", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    // By hand, for a minute that is as old as it may be.
    await runByHand(query, COLLECT, NOON + 5 * MINUTE, NOON);
    expect(await readRuns(query, EVALUATE)).toMatchObject([{ state: "queued", minute: 0 }]);
    const judge = async (at: number) => {
      await rpc(asOwner, "watch_jobs", { p_now: iso(at) });
      return (await readRuns(query, EVALUATE)).find(({ minute }) => minute === 0)!.state;
    };
    const called = NOON + 5 * MINUTE + 5 * SECOND;
    expect(await judge(called + 3 * MINUTE - 1)).toBe("queued");
    expect(await judge(called + 3 * MINUTE)).toBe("lost");
  });

  it.for(["detect-anomalies", "data-retention-cleanup", DELIVER])(
    "is followed by evaluating, the end of %s by nobody",
    async (job, { asOwner, query }) => {
      await setSecrets(asOwner);
      await addChannel(query);
      await addMessage(query, { created_at: iso(NOON - HOUR) }); // which would be to be sent
      await runByHand(query, job);
      expect(await readRequests(asOwner)).toEqual([]);
    },
  );

  it("calls for now when somebody has collected for a minute ahead: those before it would be stale", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    await runByHand(query, COLLECT, NOON, NOON + 3 * MINUTE);
    expect(await readRuns(query, EVALUATE)).toMatchObject([{ minute: 0 }]);
  });

  it("calls as often as evaluating is to run by its schedule", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    await rpc(asOwner, "set_schedule", {
      ...{ p_job: EVALUATE, p_schedule: "*/5 * * * *", p_now: iso(NOON) },
    });
    for (const minute of range(11)) {
      const at = NOON + minute * MINUTE;
      if (minute % 5 === 0) await fallBack(asOwner, at);
      await runByHand(query, COLLECT, at);
    }
    expect((await readRuns(query, EVALUATE)).map(({ minute }) => minute)).toEqual([0, 5, 10]);
  });
});

describe("cron, a minute later", () => {
  it("does nothing when the end of collecting has called", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    await runByHand(query, COLLECT);
    const [called] = await readRuns(query, EVALUATE);
    expect(await fallBack(asOwner, NOON + MINUTE)).toBe(called!.run_id);
    expect(await fallBack(asOwner, NOON + MINUTE + 1300)).toBe(called!.run_id);
    expect(await readRuns(query, EVALUATE)).toHaveLength(1);
    expect(await countCalls(asOwner, EVALUATE)).toBe(1);
  });

  it.for(["queued", "running", "succeeded", "failed", "skipped"])(
    "does nothing when the run that was called has %s",
    async (state, { asOwner, query }) => {
      await setSecrets(asOwner);
      await addRun(query, { job: EVALUATE, queued_at: iso(NOON), state });
      await fallBack(asOwner, NOON + MINUTE);
      expect(await readRequests(asOwner)).toEqual([]);
    },
  );

  it("calls for the minute before when nobody has, and the end of collecting does no more", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    const run = randomUUID();
    await start(query, COLLECT, run);
    const called = await fallBack(asOwner, NOON + MINUTE + 300);
    expect(await readRequests(asOwner)).toEqual([{ function: EVALUATE, run: called, minute: 0 }]);
    await finish(query, run, NOON + 2 * MINUTE);
    expect(await readRuns(query, EVALUATE)).toMatchObject([{ run_id: called, minute: 0 }]);
    expect(await countCalls(asOwner, EVALUATE)).toBe(1);
  });

  it("calls every minute while nothing is collected", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    for (const n of range(5)) await fallBack(asOwner, NOON + (n + 1) * MINUTE + n * 100);
    expect((await readRuns(query, EVALUATE)).map(({ minute }) => minute)).toEqual(range(5));
    expect(await countCalls(asOwner, EVALUATE)).toBe(5);
  });

  it("is recorded as skipped while jobs are switched off", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    await query("update monitor.settings set jobs_enabled = false");
    await fallBack(asOwner, NOON + MINUTE);
    expect(await readRuns(query, EVALUATE)).toMatchObject([{ state: "skipped", minute: 0 }]);
    expect(await readRequests(asOwner)).toEqual([]);
  });
});

describe("the end of evaluating", () => {
  /** Has evaluating end at noon and 5 s. Returns how often delivering was called for that. */
  async function callsAfterEvaluating(asOwner: Query, query: Query) {
    const before = await countCalls(asOwner, DELIVER);
    await runByHand(query, EVALUATE);
    return await countCalls(asOwner, DELIVER) - before;
  }
  const END = NOON + 5 * SECOND;

  it.for<[string, number, number]>([
    ["an hour ago", END - HOUR, 1],
    ["now", END, 1],
    ["in 60 s", END + MINUTE, 1],
    ["in just over 60 s", END + MINUTE + 1, 0],
  ])(
    "with a message that is due %s calls delivering",
    async ([, dueAt, calls], { asOwner, query }) => {
      await setSecrets(asOwner);
      await addChannel(query);
      await addMessage(query, { next_attempt_at: iso(dueAt) });
      expect(await callsAfterEvaluating(asOwner, query)).toBe(calls);
    },
  );

  it.for<[string, number, number]>([
    ["in 60 s", END + MINUTE, 1],
    ["in just over 60 s", END + MINUTE + 1, 0],
  ])(
    "with a group that is to be told %s calls delivering",
    async ([, dueAt, calls], { asOwner, query }) => {
      await setSecrets(asOwner);
      await query(
        "insert into monitor.alert_groups (group_key, labels, created_at, next_flush_at) values ('a', '{}', $1, $2)",
        [iso(NOON), iso(dueAt)],
      );
      expect(await callsAfterEvaluating(asOwner, query)).toBe(calls);
    },
  );

  it.for<[string, string]>([
    ["nothing is to be sent", "delete from monitor.notifications"],
    ["all is sent", "update monitor.notifications set state = 'sent', sent_at = now()"],
    ["the channel is switched off", "update monitor.notification_channels set enabled = false"],
    ["sending is switched off", "update monitor.settings set notifications_enabled = false"],
    [
      "it is being sent",
      `update monitor.notifications set lease_token = gen_random_uuid(), lease_until = '${
        iso(END + MINUTE + 1)
      }'`,
    ],
  ])("calls nobody when %s", async ([, change], { asOwner, query }) => {
    await setSecrets(asOwner);
    await addChannel(query);
    await addMessage(query);
    await query(change);
    expect(await callsAfterEvaluating(asOwner, query)).toBe(0);
    expect(await readRuns(query, DELIVER)).toEqual([]);
  });

  it("calls nobody when jobs were switched off meanwhile", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    await addChannel(query);
    await addMessage(query);
    const run = randomUUID();
    await start(query, EVALUATE, run);
    await query("update monitor.settings set jobs_enabled = false");
    await finish(query, run, END);
    expect(await readRuns(query, DELIVER)).toEqual([]);
  });

  it.for(["succeeded", "failed"])(
    "calls delivering when it has %s, by a run of its own",
    async (outcome, { asOwner, query }) => {
      await setSecrets(asOwner);
      await addChannel(query);
      await addMessage(query);
      const run = randomUUID();
      await start(query, EVALUATE, run);
      await finish(query, run, NOON + 61 * SECOND, outcome);
      const runs = await readRuns(query, DELIVER);
      expect(runs).toMatchObject([{ trigger: "chain", state: "queued", minute: 1 }]);
      expect(await readRequests(asOwner)).toEqual([
        { function: DELIVER, run: runs[0]!.run_id, minute: 1 },
      ]);
    },
  );

  it.for<[string, number, number]>([
    ["still for a moment", END + 1, 0],
    ["no longer", END, 1],
  ])(
    "calls delivering unless somebody has its lease: %s",
    async ([, leaseUntil, calls], { asOwner, query }) => {
      await setSecrets(asOwner);
      await addChannel(query);
      await addMessage(query);
      await query(
        "update monitor.job_schedules set lease_run_id = gen_random_uuid(), lease_until = $1 where job = $2",
        [iso(leaseUntil), DELIVER],
      );
      expect(await callsAfterEvaluating(asOwner, query)).toBe(calls);
    },
  );

  // One that fails is not called again at once, over and over.
  const failed = (at: number) => ({
    ...{ queued_at: iso(at), finished_at: iso(at), outcome: "failed", state: "failed" },
  });
  it.for<[string, Readonly<Record<string, unknown>>, number]>([
    ["10 s ago", { queued_at: iso(END - 10 * SECOND) }, 0],
    ["more than 10 s ago", { queued_at: iso(END - 10 * SECOND - 1) }, 1],
    ["just now", { queued_at: iso(END) }, 0],
    ["by a clock that is ahead", { queued_at: iso(END + 1) }, 1],
    ["by cron", { queued_at: iso(END), trigger: "cron" }, 0],
    ["and has ended since", { queued_at: iso(END), state: "succeeded" }, 1],
    ["and failed just now", failed(END), 0],
    ["and failed 30 s ago", failed(END - 30 * SECOND), 0],
    ["and failed more than 30 s ago", failed(END - 30 * SECOND - 1), 1],
    ["and failed by a clock that is ahead", failed(END + 1), 1],
    ["of another job", { queued_at: iso(END), job: "detect-anomalies" }, 1],
  ])(
    "calls delivering unless a run was queued that has not begun, or failed: %s",
    async ([, columns, calls], { asOwner, query }) => {
      await setSecrets(asOwner);
      await addChannel(query);
      await addMessage(query);
      await addRun(query, { job: DELIVER, trigger: "chain", state: "queued", ...columns });
      expect(await callsAfterEvaluating(asOwner, query)).toBe(calls);
    },
  );

  it("calls delivering several times in a minute, beside cron's own tick", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    await addChannel(query);
    await addMessage(query);
    await invoke(asOwner, DELIVER);
    for (const n of range(3)) {
      const called = await readRuns(query, DELIVER);
      const at = NOON + (n + 1) * 12 * SECOND;
      for (const { run_id } of called.filter(({ state }) => state === "queued")) {
        await start(query, DELIVER, run_id, at - SECOND);
        await finish(query, run_id, at - SECOND);
      }
      await runByHand(query, EVALUATE, at);
    }
    expect(await readRuns(query, DELIVER)).toMatchObject([
      { trigger: "cron", minute: 0 },
      { trigger: "chain", minute: 0 },
      { trigger: "chain", minute: 0 },
      { trigger: "chain", minute: 0 },
    ]);
    expect(await countCalls(asOwner, DELIVER)).toBe(4);
  });

  it("goes on from collecting to a message that is sent, within a minute and each step once", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    await addChannel(query);
    const steps: string[] = [];
    await invoke(asOwner, COLLECT);
    for (const [job, seconds] of [[COLLECT, 4], [EVALUATE, 8], [DELIVER, 10]] as const) {
      const [called] = await readRuns(query, job);
      await start(query, job, called!.run_id, NOON + seconds * SECOND - 1);
      if (job === EVALUATE) await addMessage(query);
      if (job === DELIVER) {
        const p_now = iso(NOON + seconds * SECOND);
        const { notifications } = await rpc<{ notifications: object[] }>(
          query,
          "lease_notifications",
          { p_now },
        );
        const p_results = notifications.map((leased) => ({ ...leased, outcome: "sent" }));
        expect(await rpc(query, "record_deliveries", { p_results, p_now }))
          .toMatchObject({ sent: 1 });
      }
      expect(await finish(query, called!.run_id, NOON + seconds * SECOND))
        .toEqual({ state: "succeeded" });
      steps.push(...(await readRequests(asOwner)).slice(steps.length).map((call) => call.function));
    }
    expect(steps).toEqual([COLLECT, EVALUATE, DELIVER]);
  });
});

describe("monitor.wake_deliverer()", () => {
  const wake = (query: Query, more: object = {}) =>
    rpc(query, "wake_deliverer", { p_now: iso(NOON), ...more });

  it.for<[number | null, number, boolean, number | null]>([
    // Due in ms, from when on it is called ahead in s; whether it is called, and how long it is until then.
    [null, 0, false, null],
    [-DAY, 0, true, null],
    [0, 0, true, null],
    [1, 0, false, 0.001],
    [59_999, 0, false, 59.999],
    [60_000, 0, false, 60],
    [60_001, 0, false, null],
    [30_000, 30, true, null],
    [30_001, 30, false, 30.001],
    [60_000, 60, true, null],
    [60_001, 60, false, null],
  ])(
    "with something due in %s ms, called %s s ahead: %s, and wait for %s s",
    async ([due, ahead, invoked, wait_seconds], { asOwner, query }) => {
      await setSecrets(asOwner);
      await addChannel(query);
      if (due !== null) await addMessage(query, { next_attempt_at: iso(NOON + due) });
      expect(await wake(query, { p_ahead_seconds: ahead })).toEqual({ invoked, wait_seconds });
      expect(await countCalls(asOwner, DELIVER)).toBe(invoked ? 1 : 0);
    },
  );

  it("goes by what is due first: a retry, a lease that ends, or a group", async ({ query }) => {
    await addChannel(query);
    const seconds = async () => (await wake(query) as { wait_seconds: number }).wait_seconds;
    await query(
      "insert into monitor.alert_groups (group_key, labels, created_at, next_flush_at) values ('a', '{}', $1, $2)",
      [iso(NOON), iso(NOON + 50 * SECOND)],
    );
    expect(await seconds()).toBe(50);
    await addMessage(query, {
      ...{ lease_token: randomUUID(), lease_until: iso(NOON + 40 * SECOND) },
      next_attempt_at: iso(NOON),
    });
    expect(await seconds()).toBe(40);
    await addMessage(query, { next_attempt_at: iso(NOON + 30 * SECOND) });
    expect(await seconds()).toBe(30);
  });

  it("does not call for a mail that nobody may send yet", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    await addChannel(query);
    await query("update monitor.settings set mails_per_second = 0.05"); // one each 20 s
    for (const _ of range(2)) await addMessage(query);
    const lease = async (seconds: number) => {
      const p_now = iso(NOON + seconds * SECOND);
      return (await rpc<{ notifications: object[] }>(query, "lease_notifications", { p_now }))
        .notifications;
    };
    const [first, ...others] = await lease(0);
    expect(others).toEqual([]);
    const p_results = [{ ...first, outcome: "sent" }];
    await rpc(query, "record_deliveries", { p_results, p_now: iso(NOON + SECOND) });

    for (const seconds of [1, 5, 9]) {
      expect(await wake(query, { p_now: iso(NOON + seconds * SECOND) })).toMatchObject({
        invoked: false,
      });
      expect(await lease(seconds)).toEqual([]); // or it would have been right to call
    }
    expect(await wake(query, { p_now: iso(NOON + 20 * SECOND) })).toMatchObject({ invoked: true });
    expect(await lease(20)).toHaveLength(1);
  });

  it("calls once, however often it is asked until the run begins", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    await addChannel(query);
    await addMessage(query);
    expect(await wake(query)).toEqual({ invoked: true, wait_seconds: null });
    for (const _ of range(3)) {
      expect(await wake(query)).toEqual({ invoked: false, wait_seconds: null });
    }
    expect(await countCalls(asOwner, DELIVER)).toBe(1);
  });

  it("has nothing to wait for while sending or jobs are switched off", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    await addChannel(query);
    await addMessage(query);
    for (const flag of ["notifications_enabled", "jobs_enabled"]) {
      await query(`update monitor.settings set ${flag} = false`);
      expect(await wake(query)).toEqual({ invoked: false, wait_seconds: null });
      await query(`update monitor.settings set ${flag} = true`);
    }
    expect(await readRuns(query, DELIVER)).toEqual([]);
    expect(await wake(query)).toMatchObject({ invoked: true });
  });

  it("is for service_role, who may not read Vault", async ({ query, asUser, asAnon }) => {
    await wake(query);
    await expect(query("select * from vault.decrypted_secrets")).rejects.toMatchObject({
      code: "42501",
    });
    for (const somebody of [asUser(""), asAnon]) {
      await expect(wake(somebody)).rejects.toMatchObject({ code: "42501" });
    }
  });
});

describe("the watchdog", () => {
  const watch = (asOwner: Query, at = NOON) =>
    rpc<{ missed: number }>(asOwner, "watch_jobs", { p_now: iso(at) });
  const OVERDUE = { next_attempt_at: iso(NOON - 10 * SECOND) };

  it.for<[string, number, number]>([
    ["10 s", 10 * SECOND, 1],
    ["just under 10 s", 10 * SECOND - 1, 0],
    ["a day", DAY, 1],
    ["a minute to go", -MINUTE, 0],
  ])(
    "calls delivering when something has been due for long enough: %s",
    async ([, age, calls], { asOwner }) => {
      await setSecrets(asOwner);
      await addChannel(asOwner);
      await addMessage(asOwner, { next_attempt_at: iso(NOON - age) });
      await watch(asOwner);
      expect(await countCalls(asOwner, DELIVER)).toBe(calls);
      expect((await readRuns(asOwner, DELIVER)).filter(({ trigger }) => trigger === "chain"))
        .toHaveLength(calls);
    },
  );

  it.for<[string, Readonly<Record<string, unknown>>, string]>([
    ["nothing is", { ...OVERDUE, state: "parked" }, "select"],
    [
      "its deliverer has 10 s to go since its lease ended",
      { ...OVERDUE, lease_token: randomUUID(), lease_until: iso(NOON - 10 * SECOND + 1) },
      "select",
    ],
    ["jobs are switched off", OVERDUE, "update monitor.settings set jobs_enabled = false"],
    [
      "sending is switched off",
      OVERDUE,
      "update monitor.settings set notifications_enabled = false",
    ],
    [
      "its channel is switched off",
      OVERDUE,
      "update monitor.notification_channels set enabled = false",
    ],
    [
      "a deliverer is under way",
      OVERDUE,
      `update monitor.job_schedules set lease_run_id = gen_random_uuid(), lease_until = '${
        iso(NOON + 1)
      }' where job = '${DELIVER}'`,
    ],
  ])("does not call when %s", async ([, columns, change], { asOwner }) => {
    await setSecrets(asOwner);
    await addChannel(asOwner);
    await addMessage(asOwner, columns);
    await asOwner(change);
    await watch(asOwner);
    expect(await readRequests(asOwner)).toEqual([]);
  });

  it("calls evaluating never: cron does that", async ({ asOwner }) => {
    await setSecrets(asOwner);
    await addRun(asOwner, { state: "succeeded" }); // of collecting, which has called nobody
    for (const n of range(5)) await watch(asOwner, NOON + n * MINUTE);
    expect(await readRequests(asOwner)).toEqual([]);
  });

  it("takes a tick of evaluating for missed only if neither the end of collecting nor cron has called", async ({ asOwner, query }) => {
    await asOwner(
      `update monitor.job_schedules set watched_until = case job when $1 then $2::timestamptz else '2030-01-01' end`,
      [EVALUATE, iso(NOON - MINUTE)],
    );
    // By whom, from noon on; cron comes at the next minute, and just before the watchdog.
    const called = ["chain", "cron", "both", "nobody", "chain", "cron", "nobody", "nobody", "both"];
    for (const n of range(called.length + 2)) {
      const at = NOON + n * MINUTE;
      if (["cron", "both"].includes(called[n - 1]!)) await fallBack(asOwner, at);
      await watch(asOwner, at);
      if (["chain", "both"].includes(called[n]!)) await runByHand(query, COLLECT, at);
    }
    const { rows } = await query<{ minute: number; ticks: number }>(
      `select (extract(epoch from scheduled_at - $2) / 60)::int as minute, missed_count as ticks
       from monitor.job_runs where job = $1 and state = 'missed' order by 1`,
      [EVALUATE, iso(NOON)],
    );
    expect(rows).toEqual([{ minute: 3, ticks: 1 }, { minute: 6, ticks: 2 }]);
  });

  it("takes a tick of delivering for missed though the outbox has called in that minute", async ({ asOwner }) => {
    await asOwner(
      `update monitor.job_schedules set watched_until = case job when $1 then $2::timestamptz else '2030-01-01' end`,
      [DELIVER, iso(NOON - MINUTE)],
    );
    await addRun(asOwner, { job: DELIVER, trigger: "chain", state: "succeeded" });
    expect(await watch(asOwner, NOON + 2 * MINUTE)).toMatchObject({ missed: 1 });
  });

  it("hears the answer to a call of the chain, and waits for it", async ({ asOwner, asSuperuser, query }) => {
    await setSecrets(asOwner);
    await addChannel(query);
    await addMessage(query);
    await runByHand(query, EVALUATE);
    const [called] = await readRuns(query, DELIVER);
    await start(query, DELIVER, called!.run_id, NOON + 6 * SECOND);
    await finish(query, called!.run_id, NOON + 8 * SECOND);
    const read = async () =>
      (await query(
        "select state, is_settled, http_status from monitor.job_runs where run_id = $1",
        [
          called!.run_id,
        ],
      )).rows[0];
    await watch(asOwner, NOON + 9 * SECOND);
    expect(await read()).toEqual({ state: "succeeded", is_settled: false, http_status: null });
    await asSuperuser(
      `insert into net._http_response (id, status_code, timed_out, created)
       select request_id, 200, false, $2 from monitor.job_runs where run_id = $1`,
      [called!.run_id, iso(NOON + 8 * SECOND)],
    );
    await watch(asOwner, NOON + 10 * SECOND);
    expect(await read()).toEqual({ state: "succeeded", is_settled: true, http_status: 200 });
  });
});

describe("two at once", () => {
  const PAUSE = `
    create function monitor.pause() returns trigger language plpgsql as $$
    begin
      if current_setting('test.pause', true) = 'on' then
        perform pg_advisory_xact_lock(1);
      end if;
      return new;
    end $$;
    create trigger pause before insert or update on monitor.job_runs for each row execute function monitor.pause();
    select pg_advisory_lock(1)`;

  type Role = "service" | "owner";
  interface Session {
    query: Query;
    pid: number;
  }

  async function connect(ownDatabase: OwnDatabase, role: Role): Promise<Session> {
    const session = await (role === "owner" ? ownDatabase.connectAsOwner() : ownDatabase.connect());
    const { rows: [self] } = await session.query("select pg_backend_pid() as pid");
    return { query: queryOf(session), pid: self.pid };
  }

  /** Waits until a session waits for a lock. */
  async function untilWaiting(observer: Query, pid: number) {
    const isWaiting = await poll(async () => {
      const { rows } = await observer("select from pg_locks where pid = $1 and not granted", [pid]);
      return rows.length > 0 ? true : undefined;
    }, 20);
    if (!isWaiting) throw new Error("Cannot go on: the session waits for nothing");
  }

  /**
   * Has `first` begin, stop at its first write to a run, which is after it has locked what it locks, then has `second`
   * begin and wait, and lets both go on.
   */
  async function interleave(
    ownDatabase: OwnDatabase,
    first: { role: Role; act(query: Query): Promise<unknown> },
    second: { role: Role; act(query: Query): Promise<unknown> },
  ) {
    const holder = await ownDatabase.connectAsOwner();
    const [one, other] = [
      await connect(ownDatabase, first.role),
      await connect(ownDatabase, second.role),
    ];
    await holder.query(PAUSE);
    await one.query("set test.pause = 'on'");
    const firstDone = first.act(one.query);
    await waitUntilBlocking(queryOf(holder));
    const secondDone = second.act(other.query);
    // Or it has nothing to wait for, and is through.
    await Promise.race([untilWaiting(queryOf(holder), other.pid), secondDone.catch(() => {})]);
    await holder.query("select pg_advisory_unlock(1)");
    return await Promise.allSettled([firstDone, secondDone]);
  }

  /** Has a run of each job under way, something to be sent, and runs of which the watchdog has something to say. */
  async function setUp(ownDatabase: OwnDatabase) {
    const [owner, service] = [
      queryOf(await ownDatabase.connectAsOwner()),
      queryOf(await ownDatabase.connect()),
    ];
    await setSecrets(owner);
    await addChannel(owner);
    await addMessage(owner, { created_at: iso(NOON - HOUR) });
    await owner("update monitor.job_schedules set watched_until = $1", [iso(NOON - 10 * MINUTE)]);
    const runs: Record<string, string> = {};
    for (const job of [COLLECT, EVALUATE, DELIVER]) {
      runs[job] = await invoke(owner, job, NOON - MINUTE);
      if (job !== DELIVER) await start(service, job, runs[job], NOON - MINUTE);
    }
    return { owner, service, runs };
  }
  const fulfilled = [{ status: "fulfilled" }, { status: "fulfilled" }];

  it.for([COLLECT, EVALUATE])(
    "a run of %s ends and the watchdog looks, whoever comes first",
    async (job, { ownDatabase }) => {
      const { runs } = await setUp(ownDatabase);
      const end = {
        role: "service" as const,
        act: (query: Query) => finish(query, runs[job]!, NOON + SECOND),
      };
      const look = {
        role: "owner" as const,
        act: (query: Query) => rpc(query, "watch_jobs", { p_now: iso(NOON + 10 * MINUTE) }),
      };
      expect(await interleave(ownDatabase, end, look)).toMatchObject(fulfilled);
    },
  );

  it.for([COLLECT, EVALUATE])(
    "the watchdog looks and a run of %s ends meanwhile",
    async (job, { ownDatabase }) => {
      const { runs, owner } = await setUp(ownDatabase);
      const end = {
        role: "service" as const,
        act: (query: Query) => finish(query, runs[job]!, NOON + SECOND),
      };
      const look = {
        role: "owner" as const,
        act: (query: Query) => rpc(query, "watch_jobs", { p_now: iso(NOON + 10 * MINUTE) }),
      };
      expect(await interleave(ownDatabase, look, end)).toMatchObject(fulfilled);
      expect((await readRuns(owner, job)).find(({ run_id }) => run_id === runs[job])).toMatchObject(
        {
          state: "succeeded",
        },
      );
    },
  );

  it.for([[COLLECT, COLLECT], [EVALUATE, DELIVER]])(
    "a run of %s ends while the watchdog is still locking, from %s on",
    async ([job, first], { ownDatabase }) => {
      const { runs } = await setUp(ownDatabase);
      const holder = await ownDatabase.connectAsOwner();
      const [finisher, watcher] = [
        await connect(ownDatabase, "service"),
        await connect(ownDatabase, "owner"),
      ];
      await holder.query("begin");
      await holder.query("select from monitor.job_schedules where job = $1 for update", [first]);
      const looked = rpc(watcher.query, "watch_jobs", { p_now: iso(NOON + 10 * MINUTE) });
      await untilWaiting(queryOf(holder), watcher.pid);
      // It comes second, and must not have a row by then that the first one wants next.
      const ended = finish(finisher.query, runs[job!]!, NOON + SECOND);
      await untilWaiting(queryOf(holder), finisher.pid);
      await holder.query("commit");
      expect(await Promise.allSettled([looked, ended])).toMatchObject(fulfilled);
    },
  );

  it.for([[COLLECT, EVALUATE], [EVALUATE, COLLECT]])(
    "a run of %s ends and one of %s does",
    async ([first, second], { ownDatabase }) => {
      const { runs, owner } = await setUp(ownDatabase);
      const end = (job: string) => ({
        role: "service" as const,
        act: (query: Query) => finish(query, runs[job]!, NOON + SECOND),
      });
      expect(await interleave(ownDatabase, end(first!), end(second!))).toMatchObject(fulfilled);
      expect(await countCalls(owner, EVALUATE)).toBe(1); // the one of the set-up
    },
  );

  it("collecting ends late and cron falls back: evaluating is called once", async ({ ownDatabase }) => {
    const { owner, service } = await setUp(ownDatabase);
    const run = randomUUID();
    await owner("update monitor.job_schedules set lease_run_id = null, lease_until = null");
    await start(service, COLLECT, run);
    const end = {
      role: "service" as const,
      act: (query: Query) => finish(query, run, NOON + MINUTE),
    };
    const cron = { role: "owner" as const, act: (query: Query) => fallBack(query, NOON + MINUTE) };
    expect(await interleave(ownDatabase, end, cron)).toMatchObject(fulfilled);
    expect((await readRuns(owner, EVALUATE)).filter(({ minute }) => minute === 0)).toHaveLength(1);
  });

  it("evaluating ends and cron calls delivering by its schedule", async ({ ownDatabase }) => {
    const { runs } = await setUp(ownDatabase);
    const end = {
      role: "service" as const,
      act: (query: Query) => finish(query, runs[EVALUATE]!, NOON + SECOND),
    };
    const cron = { role: "owner" as const, act: (query: Query) => invoke(query, DELIVER) };
    expect(await interleave(ownDatabase, end, cron)).toMatchObject(fulfilled);
  });

  it("the watchdog goes on with a job and cron calls the same one for this minute", async ({ ownDatabase }) => {
    const { owner } = await setUp(ownDatabase);
    await addRun(owner, {
      ...{ job: "detect-anomalies", scheduled_at: iso(NOON - 5 * MINUTE), state: "succeeded" },
      ...{ started_at: iso(NOON - 5 * MINUTE), finished_at: iso(NOON - 5 * MINUTE) },
      ...{ outcome: "succeeded", result: { replay: { pending: true } }, is_settled: true },
    });
    const look = {
      role: "owner" as const,
      act: (query: Query) => rpc(query, "watch_jobs", { p_now: iso(NOON) }),
    };
    const cron = {
      role: "owner" as const,
      act: (query: Query) => invoke(query, "detect-anomalies"),
    };
    expect(await interleave(ownDatabase, look, cron)).toMatchObject(fulfilled);
    expect((await readRuns(owner, "detect-anomalies")).filter(({ minute }) => minute === 0))
      .toHaveLength(1);
  });
});
