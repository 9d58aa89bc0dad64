import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect } from "vitest";
import { it, type Query, rpc } from "./database.ts";
import { addAdmin, addUser, iso, NOON } from "./seeds.ts";

const MIGRATION = readFileSync(
  join(import.meta.dirname, "../../supabase/migrations/20261121091300_schedule_jobs.sql"),
  "utf8",
);

const readJobs = async (asOwner: Query) =>
  (await asOwner(
    "select jobname, schedule, command, active, username from cron.job order by jobname",
  )).rows;

const setSchedule = (query: Query, job: string | null, schedule: string | null) =>
  rpc(query, "set_schedule", { p_job: job, p_schedule: schedule, p_now: iso(NOON) });

describe("the shipped schedules", () => {
  it("are these, in pg_cron under these names, as the owner of the schema", async ({ asOwner }) => {
    const common = { active: true, username: "postgres" };
    expect(await readJobs(asOwner)).toEqual([
      {
        ...common,
        jobname: "collect-metrics-every-minute",
        schedule: "* * * * *",
        command: "select monitor.invoke_function('collect-metrics')",
      },
      {
        ...common,
        jobname: "data-retention-cleanup-daily",
        schedule: "0 3 * * *",
        command: "select monitor.invoke_function('data-retention-cleanup')",
      },
      {
        ...common,
        jobname: "deliver-notifications-every-15-minutes",
        schedule: "*/15 * * * *",
        command: "select monitor.invoke_function('deliver-notifications')",
      },
      {
        ...common,
        jobname: "detect-anomalies-every-5-minutes",
        schedule: "*/5 * * * *",
        command: "select monitor.invoke_function('detect-anomalies')",
      },
      {
        ...common,
        jobname: "evaluate-alerts-every-minute",
        schedule: "* * * * *",
        // The fallback of the chain, for the minute before.
        command:
          "select monitor.invoke_function('evaluate-alerts', now() - interval '1 minute', p_queued_at => now())",
      },
      {
        ...common,
        jobname: "watch-jobs-every-minute",
        schedule: "* * * * *",
        command: "select monitor.watch_jobs()",
      },
    ]);
  });

  it("follow each other: collecting, evaluating, delivering, and no other job does", async ({ query }) => {
    const { rows } = await query(
      "select job, follows, is_on_demand from monitor.job_schedules where follows is not null or is_on_demand order by job",
    );
    expect(rows).toEqual([
      { job: "deliver-notifications", follows: "evaluate-alerts", is_on_demand: true },
      { job: "evaluate-alerts", follows: "collect-metrics", is_on_demand: false },
    ]);
  });

  it("are stale when their schedule says so", async ({ asOwner }) => {
    const { rows } = await asOwner(
      `select job from monitor.job_schedules
       where stale_after_seconds <> monitor.stale_after_seconds(schedule, '2026-03-10')`,
    );
    expect(rows).toEqual([]);
  });

  it.for([
    ["job_schedules_follows_fkey", "follows = 'no-such-job'", "23503"],
    ["job_schedules_follows_another", "follows = job", "23514"],
  ])("obey %s", async ([constraint, change, code], { asOwner }) => {
    await expect(
      asOwner(`update monitor.job_schedules set ${change} where job = 'detect-anomalies'`),
    ).rejects.toMatchObject({ code, constraint });
  });

  it("are commands that cron can run as its user", async ({ asOwner }) => {
    for (const { command } of await readJobs(asOwner)) await asOwner(command);
  });

  it("wait for an answer no longer than a call can live, and hold the lease no shorter than that", async ({ query }) => {
    const { rows } = await query(
      `select job from monitor.job_schedules
       where is_function and not (timeout_milliseconds <= 150000 and lease_seconds * 1000 >= timeout_milliseconds)`,
    );
    expect(rows).toEqual([]);
  });

  it("are left as they are when their migration is run again", async ({ asOwner, asSuperuser }) => {
    await setSchedule(asOwner, "collect-metrics", "*/2 * * * *"); // and what somebody changed stays changed
    const readAll = async () => ({
      jobs: await readJobs(asOwner),
      schedules: (await asOwner("select * from monitor.job_schedules order by job")).rows,
      days: (await asOwner("select * from monitor.sample_days order by day")).rows,
      audit: (await asOwner("select count(*) from monitor.audit_log")).rows,
      partitions: (await asSuperuser("select count(*) from pg_inherits")).rows,
    });
    const before = await readAll();
    await asOwner(MIGRATION);
    await asOwner(MIGRATION);
    expect(await readAll()).toEqual(before);
  });
});

describe("monitor.set_schedule()", () => {
  it("changes the schedule here and in pg_cron, and nothing else", async ({ asOwner, query }) => {
    const before = await readJobs(asOwner);
    await setSchedule(query, "detect-anomalies", "*/10 * * * *");
    expect(await readJobs(asOwner)).toEqual(
      before.map((job) =>
        job.jobname === "detect-anomalies-every-5-minutes"
          ? { ...job, schedule: "*/10 * * * *" }
          : job
      ),
    );
    const { rows } = await query(
      "select schedule, cron_name from monitor.job_schedules where job = 'detect-anomalies'",
    );
    expect(rows).toEqual([{
      schedule: "*/10 * * * *",
      cron_name: "detect-anomalies-every-5-minutes",
    }]);
  });

  it("brings back a job that pg_cron has lost", async ({ asOwner, query }) => {
    const before = await readJobs(asOwner);
    await asOwner("select cron.unschedule('watch-jobs-every-minute')");
    await setSchedule(query, "watch-jobs", "* * * * *");
    expect(await readJobs(asOwner)).toEqual(before);
  });

  it("gives pg_cron the command of the job back, whatever it was", async ({ asOwner, query }) => {
    const before = await readJobs(asOwner);
    for (const { command, jobname } of before) {
      const { rows: [job] } = await query<{ job: string }>(
        "select job from monitor.job_schedules where cron_name = $1",
        [jobname],
      );
      await asOwner(
        "select cron.alter_job(jobid, command := 'select 1') from cron.job where jobname = $1",
        [jobname],
      );
      await setSchedule(query, job!.job, "* * * * *");
      expect((await readJobs(asOwner)).find((found) => found.jobname === jobname)!.command)
        .toBe(command);
    }
  });

  it("watches for missed runs from now on when the schedule changes, and goes on otherwise", async ({ query, asOwner }) => {
    const watched = async () =>
      (await query("select watched_until from monitor.job_schedules where job = 'collect-metrics'"))
        .rows[0]!
        .watched_until;
    const long = new Date(NOON - 86_400_000);
    await asOwner("update monitor.job_schedules set watched_until = $1", [long]);
    await setSchedule(query, "collect-metrics", "* * * * *");
    expect(await watched()).toEqual(long);
    await setSchedule(query, "collect-metrics", "*/2 * * * *");
    expect(await watched()).toEqual(new Date(NOON));
  });

  it.for(
    [
      ["* * * * *", 180],
      ["*/5 * * * *", 900],
      ["*/10 * * * *", 1800],
      ["0 * * * *", 3600 + 7200],
      ["0 3 * * *", 86_400 + 7200],
      ["0 8-17 * * 1-5", (24 * 2 + 15) * 3600 + 7200],
      ["0 3 * * 0", 7 * 86_400 + 7200],
      ["0 3 1 1 *", 366 * 86_400 + 7200],
    ] as const,
  )("lets a job of %s be %i s old before it is stale", async ([schedule, seconds], { query }) => {
    await setSchedule(query, "collect-metrics", schedule);
    const { rows } = await query(
      "select stale_after_seconds as stale from monitor.job_schedules where job = 'collect-metrics'",
    );
    expect(rows).toEqual([{ stale: seconds }]);
    const facts = await rpc<{ metrics: { stale_after_seconds: number } }>(query, "read_health", {});
    expect(facts.metrics.stale_after_seconds).toBe(seconds);
  });

  it("refuses a role of the API's own making, though it may all that authenticated may", async ({ asSuperuser, asOwner }) => {
    await asSuperuser("create role moderator in role authenticated");
    await asSuperuser("grant moderator to postgres");
    await expect(
      asOwner(
        "set local role moderator; select monitor.set_schedule('collect-metrics', '*/4 * * * *')",
      ),
    ).rejects.toMatchObject({ code: "42501", message: expect.stringContaining("only an admin") });
  });

  it("is for admins", async ({ asOwner, asUser, asAnon }) => {
    await setSchedule(asUser(await addAdmin(asOwner)), "collect-metrics", "*/3 * * * *");
    for (const somebody of [asUser(await addUser(asOwner)), asUser(""), asAnon]) {
      await expect(setSchedule(somebody, "collect-metrics", "*/4 * * * *")).rejects.toMatchObject({
        code: "42501",
      });
    }
    expect((await readJobs(asOwner))[0]).toMatchObject({
      schedule: "*/3 * * * *",
      username: "postgres",
    });
  });

  it.for([
    ["collect-metrics", "every minute"],
    ["collect-metrics", "5/10 * * * *"],
    ["collect-metrics", null],
    ["no-such-job", "* * * * *"],
    [null, "* * * * *"],
    ["x'); drop table monitor.job_runs; --", "* * * * *"],
  ])("refuses %o at %o", async ([job, schedule], { query, asOwner }) => {
    const before = await readJobs(asOwner);
    await expect(setSchedule(query, job!, schedule!)).rejects.toMatchObject({
      code: "22023",
      hint: expect.any(String),
    });
    expect(await readJobs(asOwner)).toEqual(before);
  });

  it("fails as a whole without pg_cron", async ({ query, asSuperuser }) => {
    await asSuperuser("drop extension pg_cron");
    await expect(setSchedule(query, "collect-metrics", "*/2 * * * *")).rejects.toMatchObject({
      code: "3F000",
    });
    const { rows } = await query(
      "select schedule from monitor.job_schedules where job = 'collect-metrics'",
    );
    expect(rows).toEqual([{ schedule: "* * * * *" }]);
  });
});
