import fc from "fast-check";
import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc } from "./database.ts";
import { addRun, DAY, HOUR, iso, MINUTE, NOON, range, SECOND } from "./seeds.ts";

const JOB = "collect-metrics";
/** Older ticks than that are called missed. */
const GRACE = 2 * MINUTE;

const watch = (asOwner: Query, at: number) =>
  rpc<{ answered: number; judged: number; missed: number }>(asOwner, "watch_jobs", {
    p_now: iso(at),
  });

/** Only `job` is watched, from `from` on. */
async function watchFrom(asOwner: Query, from: number, job = JOB) {
  await asOwner("update monitor.job_schedules set watched_until = $1", [iso(NOON + 1000 * DAY)]);
  await asOwner("update monitor.job_schedules set watched_until = $1 where job = $2", [
    iso(from),
    job,
  ]);
}

async function readRun(query: Query, run: string) {
  return (await query("select * from monitor.job_runs where run_id = $1", [run])).rows[0]!;
}

async function readMissed(query: Query, job = JOB) {
  const { rows } = await query<{ at: string; count: number; reason: string }>(
    `select monitor.epoch_ms(scheduled_at) as at, missed_count as count, reason from monitor.job_runs
     where job = $1 and state = 'missed' order by scheduled_at`,
    [job],
  );
  return rows.map(({ at, count }) => [Number(at), count]);
}

/** What pg_net files when a request ends. */
async function answer(asSuperuser: Query, id: number, columns: Readonly<Record<string, unknown>>) {
  const row: Record<string, unknown> = {
    id,
    timed_out: false,
    created: iso(NOON + SECOND),
    ...columns,
  };
  const names = Object.keys(row);
  await asSuperuser(
    `insert into net._http_response (${names}) values (${names.map((_, n) => `$${n + 1}`)})`,
    Object.values(row),
  );
}

const QUEUED = { queued_at: iso(NOON), request_id: 7 };

describe("monitor.watch_jobs() joins the witnesses", () => {
  it("of a run that was answered", async ({ asOwner, asSuperuser }) => {
    await watchFrom(asOwner, NOON);
    const run = await addRun(asOwner, {
      ...QUEUED,
      started_at: iso(NOON + 100),
      finished_at: iso(NOON + 900),
      outcome: "succeeded",
      state: "succeeded",
    });
    await answer(asSuperuser, 7, { status_code: 200 });
    expect(await watch(asOwner, NOON + 5 * SECOND)).toEqual({ answered: 1, judged: 1, missed: 0 });
    expect(await readRun(asOwner, run)).toMatchObject({
      state: "succeeded",
      http_status: 200,
      http_timed_out: false,
      responded_at: new Date(NOON + SECOND),
      is_settled: true,
    });
    expect(await watch(asOwner, NOON + 6 * SECOND)).toEqual({ answered: 0, judged: 0, missed: 0 });
  });

  it.for(
    [
      ["401", { status_code: 401 }, NOON + 5 * SECOND, "HTTP 401"],
      [
        "a time-out",
        { timed_out: true, error_msg: "Timeout of 55000 ms reached" },
        NOON + 3 * MINUTE,
        "timed out",
      ],
      [
        "no connection",
        { error_msg: "Couldn't connect to server" },
        NOON + 5 * SECOND,
        "Couldn't connect",
      ],
    ] as const,
  )(
    "of one that cron calls a success, but that got %s: it failed",
    async ([, response, at, reason], { asOwner, asSuperuser }) => {
      await watchFrom(asOwner, NOON);
      await asSuperuser(
        `insert into cron.job_run_details (jobid, status, start_time, end_time)
         select jobid, 'succeeded', $1, $1 from cron.job where jobname = 'collect-metrics-every-minute'`,
        [iso(NOON)],
      );
      const run = await addRun(asOwner, QUEUED);
      await answer(asSuperuser, 7, response);
      await watch(asOwner, at);
      expect(await readRun(asOwner, run)).toMatchObject({
        state: "failed",
        reason: expect.stringContaining(reason),
      });
    },
  );

  it("of one that finished too late for its caller: slow", async ({ asOwner, asSuperuser }) => {
    await watchFrom(asOwner, NOON);
    const run = await addRun(asOwner, {
      ...QUEUED,
      started_at: iso(NOON),
      finished_at: iso(NOON + MINUTE),
      outcome: "succeeded",
    });
    await answer(asSuperuser, 7, { timed_out: true, created: iso(NOON + 55_000) });
    await watch(asOwner, NOON + 2 * MINUTE);
    expect(await readRun(asOwner, run)).toMatchObject({
      state: "succeeded",
      is_slow: true,
      is_settled: true,
    });
  });

  it("of one that nobody hears of again: lost after 3 minutes, settled after 6 hours", async ({ asOwner }) => {
    await watchFrom(asOwner, NOON);
    const run = await addRun(asOwner, QUEUED);
    const seen = async (after: number) => {
      await watch(asOwner, NOON + after);
      const { state, is_settled } = await readRun(asOwner, run);
      return [state, is_settled];
    };
    expect(await seen(3 * MINUTE - 1)).toEqual(["queued", false]);
    expect(await seen(3 * MINUTE)).toEqual(["lost", false]);
    expect(await seen(6 * HOUR - 1)).toEqual(["lost", false]);
    expect(await seen(6 * HOUR)).toEqual(["lost", true]);
  });

  it("of one that was called between ticks: lost as one of cron, after 3 minutes", async ({ asOwner }) => {
    await watchFrom(asOwner, NOON);
    const run = await addRun(asOwner, { ...QUEUED, trigger: "chain" });
    await watch(asOwner, NOON + 3 * MINUTE - 1);
    expect(await readRun(asOwner, run)).toMatchObject({ state: "queued" });
    await watch(asOwner, NOON + 3 * MINUTE);
    expect(await readRun(asOwner, run)).toMatchObject({ state: "lost", is_settled: false });
  });

  it("of one called by hand: its own start and end are all there is", async ({ asOwner }) => {
    await watchFrom(asOwner, NOON);
    const run = await addRun(asOwner, {
      trigger: "manual",
      started_at: iso(NOON),
      state: "running",
    });
    await watch(asOwner, NOON + 3 * MINUTE);
    expect(await readRun(asOwner, run)).toMatchObject({ state: "lost" });
  });

  it("but not with an answer from before: pg_net counts its ids from 1 again after a crash", async ({ asOwner, asSuperuser }) => {
    await watchFrom(asOwner, NOON);
    const run = await addRun(asOwner, QUEUED);
    await answer(asSuperuser, 7, { status_code: 200, created: iso(NOON - 1) });
    expect(await watch(asOwner, NOON + SECOND)).toMatchObject({ answered: 0 });
    expect((await readRun(asOwner, run)).http_status).toBeNull();
  });

  it("nor with one that is too late to be its own", async ({ asOwner, asSuperuser }) => {
    await watchFrom(asOwner, NOON);
    const [old, fresh] = [
      await addRun(asOwner, QUEUED),
      await addRun(asOwner, {
        ...QUEUED,
        scheduled_at: iso(NOON + HOUR),
        queued_at: iso(NOON + HOUR),
      }),
    ];
    await answer(asSuperuser, 7, { status_code: 200, created: iso(NOON + HOUR + SECOND) });
    expect(await watch(asOwner, NOON + HOUR + 2 * SECOND)).toMatchObject({ answered: 1 });
    expect((await readRun(asOwner, old)).http_status).toBeNull();
    expect((await readRun(asOwner, fresh)).http_status).toBe(200);
  });

  it("once: the first answer stays", async ({ asOwner, asSuperuser }) => {
    await watchFrom(asOwner, NOON);
    const run = await addRun(asOwner, QUEUED);
    await answer(asSuperuser, 7, { status_code: 500 });
    await watch(asOwner, NOON + 2 * SECOND);
    await asSuperuser("delete from net._http_response");
    await answer(asSuperuser, 7, { status_code: 200, created: iso(NOON + 3 * SECOND) });
    await watch(asOwner, NOON + 4 * SECOND);
    expect(await readRun(asOwner, run)).toMatchObject({ http_status: 500, state: "failed" });
  });

  it("and dates its own success, for others to see that it works", async ({ asOwner }) => {
    await watchFrom(asOwner, NOON);
    await watch(asOwner, NOON);
    const { rows } = await asOwner(
      "select last_succeeded_at from monitor.job_schedules where job = 'watch-jobs'",
    );
    expect(rows).toEqual([{ last_succeeded_at: new Date(NOON) }]);
  });
});

describe("monitor.watch_jobs() notices missed ticks", () => {
  it("after a grace of 2 minutes", async ({ asOwner }) => {
    await watchFrom(asOwner, NOON - MINUTE);
    expect(await watch(asOwner, NOON + GRACE - 1)).toMatchObject({ missed: 0 });
    expect(await watch(asOwner, NOON + GRACE)).toMatchObject({ missed: 1 });
    expect(await readMissed(asOwner)).toEqual([[NOON, 1]]);
    expect(await watch(asOwner, NOON + GRACE)).toMatchObject({ missed: 0 });
  });

  it("never those that ran, however they ended", async ({ asOwner }) => {
    await watchFrom(asOwner, NOON - MINUTE);
    const states = ["queued", "running", "succeeded", "failed", "skipped", "lost"];
    for (const [n, state] of states.entries()) {
      await addRun(asOwner, { scheduled_at: iso(NOON + n * MINUTE), state });
    }
    expect(await watch(asOwner, NOON + (states.length - 1) * MINUTE + GRACE)).toMatchObject({
      missed: 0,
    });
  });

  it.for([["by hand", "manual"], ["between ticks", "chain"]])(
    "also when the job was called %s in that minute",
    async ([, trigger], { asOwner }) => {
      await watchFrom(asOwner, NOON - MINUTE);
      await addRun(asOwner, { trigger });
      await watch(asOwner, NOON + GRACE);
      expect(await readMissed(asOwner)).toEqual([[NOON, 1]]);
    },
  );

  it("as one row a gap, watched every minute while cron stands still and starts again", async ({ asOwner }) => {
    await watchFrom(asOwner, NOON - MINUTE);
    const fires = (n: number) => n < 3 || (n >= 10 && n !== 15);
    for (const n of range(25)) {
      const at = NOON + n * MINUTE;
      if (fires(n)) {
        await addRun(asOwner, { scheduled_at: iso(at), queued_at: iso(at), state: "queued" });
      }
      await watch(asOwner, at + 100);
    }
    expect(await readMissed(asOwner)).toEqual([[NOON + 3 * MINUTE, 7], [NOON + 15 * MINUTE, 1]]);
  });

  it("as one row for a sleep of ten days, for each job", async ({ asOwner }) => {
    await asOwner("update monitor.job_schedules set watched_until = $1", [iso(NOON - 10 * DAY)]);
    await watch(asOwner, NOON + GRACE);
    expect(await readMissed(asOwner)).toEqual([[NOON - 10 * DAY + MINUTE, 10 * 24 * 60]]);
    expect(await readMissed(asOwner, "detect-anomalies")).toEqual([[
      NOON - 10 * DAY + 5 * MINUTE,
      10 * 24 * 12,
    ]]);
    expect(await readMissed(asOwner, "data-retention-cleanup")).toEqual([[
      NOON - 9 * DAY - 9 * HOUR,
      10,
    ]]);

    // The minute it wakes in goes on with the gap; then it runs again.
    await addRun(asOwner, { scheduled_at: iso(NOON + 2 * MINUTE) });
    await watch(asOwner, NOON + 2 * MINUTE + GRACE);
    expect(await readMissed(asOwner)).toEqual([[NOON - 10 * DAY + MINUTE, 10 * 24 * 60 + 1]]);
  });

  it("of the last 45 days, however long it slept", async ({ asOwner }) => {
    await watchFrom(asOwner, NOON - 100 * DAY, "data-retention-cleanup");
    await watch(asOwner, NOON);
    expect(await readMissed(asOwner, "data-retention-cleanup")).toMatchObject([[
      expect.any(Number),
      45,
    ]]);
  });

  it("the same however often it looks", async ({ asOwner }) => {
    const ticks = 40;
    const fires = fc.array(fc.boolean(), { minLength: ticks, maxLength: ticks });
    const looks = fc.array(fc.integer({ min: 0, max: ticks }), { maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(fires, looks, async (ran, at) => {
        await asOwner("delete from monitor.job_runs");
        await watchFrom(asOwner, NOON - MINUTE);
        const due = at.toSorted((a, b) => a - b);
        for (const n of range(ticks)) {
          if (ran[n]) await addRun(asOwner, { scheduled_at: iso(NOON + n * MINUTE) });
          if (due.includes(n)) await watch(asOwner, NOON + n * MINUTE + 1);
        }
        await watch(asOwner, NOON + ticks * MINUTE + GRACE - 1);

        const gaps: [number, number][] = [];
        for (const [n, hasRun] of ran.entries()) {
          if (hasRun) continue;
          const last = gaps.at(-1);
          if (n > 0 && !ran[n - 1] && last) last[1] += 1;
          else gaps.push([NOON + n * MINUTE, 1]);
        }
        expect(await readMissed(asOwner)).toEqual(gaps);
      }),
      { numRuns: 15 },
    );
  });

  it("with what pg_cron says of the failure", async ({ asOwner, asSuperuser }) => {
    await watchFrom(asOwner, NOON - MINUTE);
    await asSuperuser(
      `insert into cron.job_run_details (jobid, status, return_message, start_time, end_time, username)
       select jobid, 'failed', 'ERROR: canceling statement', $1, $1, 'postgres'
       from cron.job where jobname = 'collect-metrics-every-minute'`,
      [iso(NOON + 300)],
    );
    await watch(asOwner, NOON + GRACE);
    const { rows } = await asOwner("select reason from monitor.job_runs where state = 'missed'");
    expect(rows).toEqual([{ reason: "pg_cron: ERROR: canceling statement" }]);
  });

  it("and does not blame a new schedule for the ticks of the old one, nor the other way round", async ({ asOwner }) => {
    await watchFrom(asOwner, NOON - HOUR, "detect-anomalies");
    const change = NOON + 30 * SECOND;
    await rpc(asOwner, "set_schedule", {
      p_job: "detect-anomalies",
      p_schedule: "* * * * *",
      p_now: iso(change),
    });
    await watch(asOwner, NOON + 3 * MINUTE);
    expect(await readMissed(asOwner, "detect-anomalies")).toEqual([[NOON + MINUTE, 1]]);
  });
});

describe("monitor.watch_jobs() works", () => {
  it("without pg_net: old runs are settled all the same", async ({ asOwner, asSuperuser }) => {
    await watchFrom(asOwner, NOON);
    const run = await addRun(asOwner, QUEUED);
    await asSuperuser("drop extension pg_net");
    expect(await watch(asOwner, NOON + 3 * MINUTE)).toMatchObject({ answered: 0, judged: 1 });
    expect((await readRun(asOwner, run)).state).toBe("lost");
  });

  it("without pg_cron: every tick is missed", async ({ asOwner, asSuperuser }) => {
    await watchFrom(asOwner, NOON - MINUTE);
    await asSuperuser("drop extension pg_cron");
    expect(await watch(asOwner, NOON + GRACE)).toMatchObject({ missed: 1 });
    await asSuperuser("drop schema if exists cron");
    expect(await watch(asOwner, NOON + GRACE + MINUTE)).toMatchObject({ missed: 1 });
    expect(await readMissed(asOwner)).toEqual([[NOON, 2]]);
  });

  it("while jobs are switched off: cron's ticks are skipped, not missed", async ({ asOwner, query }) => {
    await watchFrom(asOwner, NOON - MINUTE);
    await query("update monitor.settings set jobs_enabled = false");
    await rpc(asOwner, "invoke_function", { p_job: JOB, p_now: iso(NOON) });
    expect(await watch(asOwner, NOON + GRACE)).toMatchObject({ missed: 0 });
  });

  it("within the time of a statement after 45 days of sleep", async ({ asOwner }) => {
    await asOwner("update monitor.job_schedules set watched_until = $1", [iso(NOON - 60 * DAY)]);
    expect((await watch(asOwner, NOON)).missed).toBeGreaterThan(45 * 24 * 60); // the session's time-out is 8 s
  });

  it("for cron alone", async ({ query, asUser }) => {
    for (const somebody of [query, asUser("")]) {
      await expect(watch(somebody, NOON)).rejects.toMatchObject({ code: "42501" });
    }
  });
});

describe("monitor.watch_jobs() beside others", () => {
  it("counts a gap once when two watch at once", async ({ ownDatabase }) => {
    const sessions = [await ownDatabase.connectAsOwner(), await ownDatabase.connectAsOwner()];
    const [one, other] = sessions.map((session) => queryOf(session)) as [Query, Query];
    await watchFrom(one, NOON);
    const seen = await Promise.all([watch(one, NOON + HOUR), watch(other, NOON + HOUR)]);
    expect(seen.map(({ missed }) => missed).toSorted((a, b) => a - b)).toEqual([0, 58]);
    expect(await readMissed(one)).toEqual([[NOON + MINUTE, 58]]);
  });

  it("waits for a run that is being ended, rather than stand in its way", async ({ ownDatabase }) => {
    const [finisher, watcher] = [
      await ownDatabase.connectAsOwner(),
      await ownDatabase.connectAsOwner(),
    ];
    await watchFrom(queryOf(watcher), NOON);
    const run = await addRun(queryOf(finisher), { ...QUEUED, started_at: iso(NOON) });
    await finisher.query("begin");
    await finisher.query("select from monitor.job_schedules where job = $1 for update", [JOB]);
    const watched = watch(queryOf(watcher), NOON + 10 * MINUTE);
    await rpc(queryOf(finisher), "finish_job", { p_run_id: run, p_outcome: "succeeded" });
    await finisher.query("commit");
    await watched;
    expect(await readRun(queryOf(watcher), run)).toMatchObject({ state: "succeeded" });
  });
});
