import { randomUUID } from "node:crypto";
import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc } from "./database.ts";
import { addRun, iso, MINUTE, NOON, range, SECOND } from "./seeds.ts";

const JOB = "collect-metrics";
const LEASE = 55 * SECOND;

interface Started {
  outcome: string;
  run_id?: string;
  scheduled_at?: string;
}

const start = (query: Query, run: string, at = NOON, more: object = {}) =>
  rpc<Started>(query, "start_job", {
    p_job: JOB,
    p_run_id: run,
    p_trigger: "manual",
    p_scheduled_at: iso(at),
    p_now: iso(at),
    ...more,
  });

const finish = (
  query: Query,
  run: string,
  at = NOON,
  outcome: string | null = "succeeded",
  more: object = {},
) =>
  rpc<{ state: string }>(query, "finish_job", {
    p_run_id: run,
    p_outcome: outcome,
    p_now: iso(at),
    ...more,
  });

async function readRun(query: Query, run: string) {
  return (await query("select * from monitor.job_runs where run_id = $1", [run])).rows[0]!;
}

async function readJob(query: Query) {
  return (await query("select * from monitor.job_schedules where job = $1", [JOB])).rows[0]!;
}

describe("monitor.start_job()", () => {
  it("starts a run by hand, belonging to the minute it is called in", async ({ query }) => {
    const run = randomUUID();
    expect(await start(query, run, NOON + 59_999)).toEqual({
      outcome: "started",
      run_id: run,
      scheduled_at: "2026-03-10T12:00:00+00:00",
    });
    expect(await readRun(query, run)).toMatchObject({
      job: JOB,
      trigger: "manual",
      state: "running",
      started_at: new Date(NOON + 59_999),
      scheduled_at: new Date(NOON),
      queued_at: null,
      finished_at: null,
    });
    expect(await readJob(query)).toMatchObject({
      lease_run_id: run,
      lease_until: new Date(NOON + 59_999 + LEASE),
    });
  });

  it("starts a queued run, whose minute is the one it was queued for", async ({ query }) => {
    const run = await addRun(query, { scheduled_at: iso(NOON), queued_at: iso(NOON + 20) });
    expect(await start(query, run, NOON + 2 * MINUTE, { p_trigger: "cron" })).toEqual({
      outcome: "started",
      run_id: run,
      scheduled_at: "2026-03-10T12:00:00+00:00",
    });
    expect(await readRun(query, run)).toMatchObject({ trigger: "cron", state: "running" });
  });

  it("starts a run of the chain, which stays one, of whichever kind it is called", async ({ query }) => {
    for (const p_trigger of ["cron", "manual"]) {
      const run = await addRun(query, { trigger: "chain", queued_at: iso(NOON + 20) });
      expect(await start(query, run, NOON + MINUTE, { p_trigger })).toMatchObject({
        ...{ outcome: "started", scheduled_at: "2026-03-10T12:00:00+00:00" },
      });
      expect(await readRun(query, run)).toMatchObject({ trigger: "chain", state: "running" });
      await finish(query, run, NOON + MINUTE);
    }
  });

  it("lets one run in at a time, tells the other which one, and records it as skipped", async ({ query }) => {
    const [first, second] = [randomUUID(), randomUUID()];
    await start(query, first);
    expect(await start(query, second, NOON + 1)).toEqual({ outcome: "overlap", run_id: first });
    expect(await readRun(query, second)).toMatchObject({
      state: "skipped",
      outcome: "skipped",
      started_at: null,
      reason: `run ${first} held the lease`,
    });
    expect((await readJob(query)).lease_run_id).toBe(first);
  });

  it.for(
    [
      ["just before", LEASE - 1, "overlap"],
      ["at", LEASE, "started"],
    ] as const,
  )(
    "a run that was killed keeps others out until lease_seconds: %s",
    async ([, later, outcome], { query }) => {
      const [killed, next] = [randomUUID(), randomUUID()];
      await start(query, killed);
      expect(await start(query, next, NOON + later)).toMatchObject({ outcome });
      expect((await readJob(query)).lease_run_id).toBe(outcome === "started" ? next : killed);
    },
  );

  it("gives each job a lease of its own", async ({ query }) => {
    await start(query, randomUUID());
    expect(await start(query, randomUUID(), NOON, { p_job: "detect-anomalies" })).toMatchObject({
      outcome: "started",
    });
  });

  it("starts again at once after a run that finished, also after one that failed", async ({ query }) => {
    for (const outcome of ["succeeded", "failed", "succeeded"]) {
      const run = randomUUID();
      expect(await start(query, run)).toMatchObject({ outcome: "started" });
      await finish(query, run, NOON, outcome);
    }
  });

  it("does not start twice what was delivered twice", async ({ query }) => {
    const run = randomUUID();
    await start(query, run);
    expect(await start(query, run, NOON + 1)).toEqual({ outcome: "overlap", run_id: run });
    expect((await readRun(query, run)).state).toBe("running");
    await finish(query, run);
    expect(await start(query, run, NOON + 2)).toEqual({ outcome: "finished", run_id: run });
    expect((await readRun(query, run)).state).toBe("succeeded");
  });

  it("is stopped by the kill switch, and lets it be seen", async ({ query }) => {
    await query("update monitor.settings set jobs_enabled = false");
    const run = randomUUID();
    expect(await start(query, run)).toMatchObject({ outcome: "disabled" });
    expect(await readRun(query, run)).toMatchObject({
      state: "skipped",
      reason: "jobs are switched off",
    });
    expect((await readJob(query)).lease_run_id).toBeNull();

    await query("update monitor.settings set jobs_enabled = true");
    expect(await start(query, randomUUID())).toMatchObject({ outcome: "started" });
  });

  it("says disabled, not overlap, when both hold", async ({ query }) => {
    await start(query, randomUUID());
    await query("update monitor.settings set jobs_enabled = false");
    expect(await start(query, randomUUID())).toMatchObject({ outcome: "disabled" });
  });

  it.for(
    [
      [{ p_job: "no-such-job" }, "no such job"],
      [{ p_job: null }, "no such job"],
      [{ p_trigger: "magic" }, "p_trigger"],
      [{ p_trigger: "chain" }, "p_trigger"], // of those cron or the chain has queued the run
      [{ p_trigger: null }, "p_trigger"],
      [{ p_run_id: null }, "p_run_id"],
      [{ p_scheduled_at: null }, "p_scheduled_at"],
    ] as const,
  )("refuses %o", async ([wrong, message], { query }) => {
    await expect(start(query, randomUUID(), NOON, wrong)).rejects.toMatchObject({
      code: "22023",
      message: expect.stringContaining(message),
      hint: expect.any(String),
    });
  });

  it("refuses the run of another job", async ({ query }) => {
    const run = await addRun(query, { job: "detect-anomalies" });
    await expect(start(query, run)).rejects.toMatchObject({
      code: "22023",
      message: expect.stringContaining("another job"),
      hint: expect.stringContaining("x-run-id"),
    });
    expect((await readRun(query, run)).state).toBe("queued");
  });

  it("starts exactly one of several that come at once", async ({ ownDatabase }) => {
    const sessions = await Promise.all(range(4).map(() => ownDatabase.connect()));
    const runs = sessions.map(() => randomUUID());
    const answers = await Promise.all(
      sessions.map((session, n) => start(queryOf(session), runs[n]!)),
    );
    const started = answers.filter(({ outcome }) => outcome === "started");
    expect(started).toHaveLength(1);
    expect(answers.filter((answer) => answer !== started[0])).toEqual(
      range(3).map(() => ({ outcome: "overlap", run_id: started[0]!.run_id })),
    );
    await Promise.all([finish(queryOf(sessions[0]!), started[0]!.run_id!)]);
  });

  it("makes the second wait for the first one's word, and then tells it", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const [first, second] = [randomUUID(), randomUUID()];
    await one.query("begin");
    await start(queryOf(one), first);
    const answer = start(queryOf(other), second);
    await one.query("commit");
    expect(await answer).toEqual({ outcome: "overlap", run_id: first });
  });

  it("starts a run once when its call is delivered twice at once", async ({ ownDatabase }) => {
    const sessions = [await ownDatabase.connect(), await ownDatabase.connect()];
    const run = randomUUID();
    const answers = await Promise.all(sessions.map((session) => start(queryOf(session), run)));
    expect(answers.map(({ outcome }) => outcome).sort()).toEqual(["overlap", "started"]);
  });
});

describe("monitor.finish_job()", () => {
  it("ends a run with what it did, gives the lease back and dates the job's success", async ({ query }) => {
    const run = randomUUID();
    await start(query, run);
    expect(await finish(query, run, NOON + 900, "succeeded", { p_result: { inserted: 3 } }))
      .toEqual({
        state: "succeeded",
      });
    expect(await readRun(query, run)).toMatchObject({
      state: "succeeded",
      outcome: "succeeded",
      result: { inserted: 3 },
      error: null,
      reason: null,
      finished_at: new Date(NOON + 900),
      is_settled: true,
    });
    expect(await readJob(query)).toMatchObject({
      lease_run_id: null,
      lease_until: null,
      last_succeeded_at: new Date(NOON + 900),
    });
  });

  it("says why a run failed, in 500 characters, and leaves the date of the last success", async ({ query }) => {
    const [good, bad] = [randomUUID(), randomUUID()];
    await start(query, good);
    await finish(query, good);
    await start(query, bad);
    expect(await finish(query, bad, NOON + 1, "failed", { p_error: "x".repeat(501) })).toEqual({
      state: "failed",
    });
    expect(await readRun(query, bad)).toMatchObject({
      state: "failed",
      error: "x".repeat(500),
      reason: "x".repeat(500),
    });
    expect((await readJob(query)).last_succeeded_at).toEqual(new Date(NOON));
  });

  it.for(["cron", "chain"])(
    "waits for pg_net's word on a run that was queued by %s",
    async (trigger, { query }) => {
      const run = await addRun(query, { trigger, queued_at: iso(NOON), request_id: 7 });
      await start(query, run);
      await finish(query, run);
      expect(await readRun(query, run)).toMatchObject({ state: "succeeded", is_settled: false });
    },
  );

  it("turns a run that was given up into a success when it ends after all", async ({ query }) => {
    const run = randomUUID();
    await start(query, run);
    await query(
      "update monitor.job_runs set state = 'lost', reason = 'silence' where run_id = $1",
      [run],
    );
    expect(await finish(query, run, NOON + 5 * MINUTE)).toEqual({ state: "succeeded" });
    expect(await readRun(query, run)).toMatchObject({ state: "succeeded", reason: null });
  });

  it("leaves the lease to the run that has taken it since", async ({ query }) => {
    const [slow, next] = [randomUUID(), randomUUID()];
    await start(query, slow);
    await start(query, next, NOON + LEASE);
    await finish(query, slow, NOON + LEASE + 1);
    expect((await readJob(query)).lease_run_id).toBe(next);
  });

  it("never dates a success back", async ({ query }) => {
    const [late, early] = [randomUUID(), randomUUID()];
    await start(query, late);
    await start(query, early, NOON + LEASE);
    await finish(query, late, NOON + LEASE + 2);
    await finish(query, early, NOON + LEASE + 1);
    expect((await readJob(query)).last_succeeded_at).toEqual(new Date(NOON + LEASE + 2));
  });

  it("ends a run once", async ({ query }) => {
    const run = randomUUID();
    await start(query, run);
    await finish(query, run, NOON, "failed", { p_error: "first" });
    await expect(finish(query, run)).rejects.toMatchObject({
      code: "22023",
      message: expect.stringContaining("is not running"),
    });
    expect((await readRun(query, run)).outcome).toBe("failed");
  });

  it("refuses a run that nobody started, or nobody knows", async ({ query }) => {
    const queued = await addRun(query);
    for (const run of [queued, randomUUID(), null]) {
      await expect(finish(query, run!)).rejects.toMatchObject({ code: "22023" });
    }
  });

  it.for(["skipped", "lost", "", null])("refuses the outcome %o", async (outcome, { query }) => {
    const run = randomUUID();
    await start(query, run);
    await expect(finish(query, run, NOON, outcome)).rejects.toMatchObject({
      code: "22023",
      message: expect.stringContaining("p_outcome"),
    });
  });

  it("ends a run once when it is told so twice at once", async ({ ownDatabase }) => {
    const sessions = [await ownDatabase.connect(), await ownDatabase.connect()];
    const run = randomUUID();
    await start(queryOf(sessions[0]!), run);
    const ends = await Promise.allSettled(sessions.map((session) => finish(queryOf(session), run)));
    expect(ends.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
  });
});

describe("monitor.job_runs", () => {
  it.for(
    [
      [{ trigger: "webhook" }, "job_runs_trigger_known"],
      [{ state: "done" }, "job_runs_state_known"],
      [{ outcome: "succeeded" }, "job_runs_outcome_means_finished"],
      [{ finished_at: iso(NOON) }, "job_runs_outcome_means_finished"],
      [{ outcome: "lost", finished_at: iso(NOON) }, "job_runs_outcome_known"],
      [{ state: "missed" }, "job_runs_missed_count_with_state"],
      [{ missed_count: 1 }, "job_runs_missed_count_with_state"],
      [{ state: "missed", missed_count: -1 }, "job_runs_missed_count_with_state"],
    ] as const,
  )("refuses %o", async ([columns, constraint], { query }) => {
    await expect(addRun(query, columns)).rejects.toMatchObject({ code: "23514", constraint });
  });

  it("has one run of cron a job and minute, and any number by hand or by the chain", async ({ query }) => {
    await addRun(query);
    await expect(addRun(query)).rejects.toMatchObject({ code: "23505" });
    await addRun(query, { job: "detect-anomalies" });
    for (const trigger of ["manual", "manual", "chain", "chain"]) await addRun(query, { trigger });
  });
});

describe("monitor.job_schedules", () => {
  it.for(
    [
      ["schedule", "*/0 * * * *", "job_schedules_schedule_is_cron"],
      ["timeout_milliseconds", 999, "job_schedules_timeout_milliseconds_in_range"],
      ["timeout_milliseconds", 1000, null],
      ["timeout_milliseconds", 150_000, null],
      ["timeout_milliseconds", 150_001, "job_schedules_timeout_milliseconds_in_range"],
      ["lease_seconds", 0, "job_schedules_lease_seconds_in_range"],
      ["lease_seconds", 1, null],
      ["lease_seconds", 150, null],
      ["lease_seconds", 151, "job_schedules_lease_seconds_in_range"],
      ["stale_after_seconds", 0, "job_schedules_stale_after_seconds_positive"],
      ["lease_until", iso(NOON), "job_schedules_lease_whole"],
      ["job", "Collect", "job_schedules_job_shape"],
    ] as const,
  )("takes a %s of %s: %s", async ([column, value, constraint], { query }) => {
    const update = query(`update monitor.job_schedules set ${column} = $1 where job = $2`, [
      value,
      JOB,
    ]);
    if (constraint) await expect(update).rejects.toMatchObject({ code: "23514", constraint });
    else await update;
  });
});
