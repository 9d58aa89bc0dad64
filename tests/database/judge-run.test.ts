import fc from "fast-check";
import { describe, expect } from "vitest";
import { it, type Query } from "./database.ts";
import { HOUR, iso, MINUTE, NOON, SECOND } from "./seeds.ts";

interface Verdict {
  state: string;
  is_slow: boolean;
  reason: string | null;
  is_settled: boolean;
}

/** Judges a run that cron queued at noon, as seen `after` ms later. */
async function judge(
  query: Query,
  run: Readonly<Record<string, unknown>>,
  after: number,
): Promise<Verdict> {
  const row = {
    run_id: "8f8b5a4e-1111-4111-8111-111111111111",
    job: "collect-metrics",
    trigger: "cron",
    scheduled_at: iso(NOON),
    queued_at: iso(NOON),
    request_id: 7,
    http_timed_out: false,
    missed_count: 0,
    state: "queued",
    is_slow: false,
    is_settled: false,
    ...run,
  };
  const { rows } = await query<{ verdict: Verdict }>(
    `select to_jsonb(verdict) as verdict
     from jsonb_populate_record(null::monitor.job_runs, $1) as run
     cross join lateral monitor.judge_run(run, $2) as verdict`,
    [JSON.stringify(row), iso(NOON + after)],
  );
  return rows[0]!.verdict;
}

const STARTED = { started_at: iso(NOON + SECOND), state: "running" };
const FINISHED = { ...STARTED, finished_at: iso(NOON + 2 * SECOND), outcome: "succeeded" };
const FAILED = { ...FINISHED, outcome: "failed", error: "no samples" };
const answered = (status: number) => ({
  http_status: status,
  responded_at: iso(NOON + 3 * SECOND),
});
const TIMED_OUT = {
  http_timed_out: true,
  http_error: "Timeout of 55000 ms reached",
  responded_at: iso(NOON + 55_000),
};
const NO_CONNECTION = {
  http_error: "Couldn't connect to server",
  responded_at: iso(NOON + SECOND),
};

const SOON = 10 * SECOND;
const LATER = 4 * MINUTE;

describe("monitor.judge_run()", () => {
  it.for<[string, Record<string, unknown>, number, Partial<Verdict>]>([
    ["2xx and finished", { ...FINISHED, ...answered(200) }, SOON, {
      state: "succeeded",
      is_settled: true,
      reason: null,
    }],
    ["204 and finished", { ...FINISHED, ...answered(204) }, SOON, {
      state: "succeeded",
      is_settled: true,
    }],
    ["finished, nothing heard yet", FINISHED, SOON, {
      state: "succeeded",
      is_slow: false,
      is_settled: false,
    }],
    ["timed out, but finished", { ...FINISHED, ...TIMED_OUT }, LATER, {
      state: "succeeded",
      is_slow: true,
      is_settled: true,
      reason: "finished after the caller had stopped waiting",
    }],
    ["connection lost, but finished", { ...FINISHED, ...NO_CONNECTION }, SOON, {
      state: "succeeded",
      is_slow: true,
    }],
    ["2xx without finish", { ...STARTED, ...answered(200) }, SOON, {
      state: "failed",
      is_settled: false,
      reason: "HTTP 200, but the run never finished",
    }],
    ["2xx without start", answered(200), SOON, { state: "failed" }],
    ["409: another run held the lease", answered(409), SOON, {
      state: "skipped",
      reason: "another run held the lease",
    }],
    [
      "409 with the function's word",
      {
        ...answered(409),
        outcome: "skipped",
        finished_at: iso(NOON),
        error: "run 7 held the lease",
      },
      SOON,
      { state: "skipped", is_settled: true, reason: "run 7 held the lease" },
    ],
    [
      "skipped, not answered yet",
      { outcome: "skipped", finished_at: iso(NOON), error: "jobs are switched off" },
      SOON,
      {
        state: "skipped",
        is_settled: false,
      },
    ],
    ["401", answered(401), SOON, { state: "failed", reason: "HTTP 401" }],
    ["404: not deployed", answered(404), SOON, { state: "failed", reason: "HTTP 404" }],
    ["301: a wrong address", answered(301), SOON, { state: "failed", reason: "HTTP 301" }],
    ["500 after a failure", { ...FAILED, ...answered(500) }, SOON, {
      state: "failed",
      is_settled: true,
      reason: "HTTP 500: no samples",
    }],
    ["500 while it was still working", { ...STARTED, ...answered(500) }, SOON, {
      state: "failed",
      reason: "HTTP 500",
    }],
    ["546: out of resources", { ...STARTED, ...answered(546) }, SOON, {
      state: "failed",
      reason: "HTTP 546",
    }],
    ["500 though it finished", { ...FINISHED, ...answered(500) }, SOON, {
      state: "failed",
      reason: "HTTP 500",
    }],
    ["failed, 2xx all the same", { ...FAILED, ...answered(200) }, SOON, {
      state: "failed",
      reason: "no samples",
    }],
    ["failed, nothing heard yet", FAILED, SOON, {
      state: "failed",
      is_settled: false,
      reason: "no samples",
    }],
    ["no connection", NO_CONNECTION, SOON, {
      state: "failed",
      reason: "Couldn't connect to server",
    }],
    ["timed out, still working", { ...STARTED, ...TIMED_OUT }, MINUTE, { state: "running" }],
    ["timed out, never started", TIMED_OUT, MINUTE, { state: "queued" }],
    ["timed out and silent since", { ...STARTED, ...TIMED_OUT }, LATER, {
      state: "failed",
      reason: "timed out, and did not finish within 3 minutes",
    }],
    ["queued just now", {}, SOON, { state: "queued", is_settled: false, reason: null }],
    ["started just now", STARTED, SOON, { state: "running", is_settled: false }],
    ["queued, then silence", {}, LATER, {
      state: "lost",
      reason: "no answer and no end within 3 minutes",
    }],
    ["started, then silence", STARTED, LATER, { state: "lost" }],
    [
      "finished after it was lost",
      { ...FINISHED, state: "lost", finished_at: iso(NOON + LATER) },
      LATER,
      {
        state: "succeeded",
      },
    ],
    [
      "not sent: no secret",
      {
        request_id: null,
        outcome: "failed",
        finished_at: iso(NOON),
        error: "Vault has no secret named project_url",
      },
      SOON,
      { state: "failed", is_settled: true, reason: "Vault has no secret named project_url" },
    ],
    [
      "missed",
      { state: "missed", missed_count: 3, reason: "pg_cron did not fire", queued_at: null },
      LATER,
      {
        state: "missed",
        is_settled: true,
        reason: "pg_cron did not fire",
      },
    ],
    [
      "by hand, finished",
      { ...FINISHED, trigger: "manual", queued_at: null, request_id: null },
      SOON,
      {
        state: "succeeded",
        is_slow: false,
        is_settled: true,
      },
    ],
    [
      "by hand, working",
      { ...STARTED, trigger: "manual", queued_at: null, request_id: null },
      SOON,
      {
        state: "running",
        is_settled: false,
      },
    ],
    [
      "by hand, silent",
      { ...STARTED, trigger: "manual", queued_at: null, request_id: null },
      LATER,
      {
        state: "lost",
        is_settled: false,
      },
    ],
  ])("%s", async ([, run, after, verdict], { query }) => {
    expect(await judge(query, run, after)).toMatchObject(verdict);
  });

  it.for(
    [
      ["queued", {}, 0],
      ["started a second later", STARTED, SECOND],
      ["by hand", { ...STARTED, trigger: "manual", queued_at: null, request_id: null }, SECOND],
    ] as const,
  )("waits 3 minutes for a run that was %s", async ([, run, since], { query }) => {
    expect((await judge(query, run, since + 3 * MINUTE - 1)).state).toMatch(/queued|running/);
    expect((await judge(query, run, since + 3 * MINUTE)).state).toBe("lost");
  });

  it.for(
    [
      ["finished, but pg_net never told", FINISHED],
      ["401, never started", answered(401)],
      ["lost", {}],
    ] as const,
  )("settles after 6 hours a run that was %s", async ([, run], { query }) => {
    expect((await judge(query, run, 6 * HOUR - 1)).is_settled).toBe(false);
    expect((await judge(query, run, 6 * HOUR)).is_settled).toBe(true);
  });

  it("keeps what a run said of itself when its call was delivered twice", async ({ query }) => {
    expect(await judge(query, { ...FINISHED, ...answered(409) }, SECOND)).toMatchObject({
      state: "succeeded",
    });
    expect(await judge(query, { ...FAILED, ...answered(409) }, SECOND)).toMatchObject({
      state: "failed",
    });
    expect(await judge(query, answered(409), SECOND)).toMatchObject({ state: "skipped" });
  });

  it("has a word for every combination of witnesses, and a reason for every bad one", async ({ query }) => {
    const run = fc.record({
      queued_at: fc.constant(iso(NOON)),
      trigger: fc.constantFrom("cron", "manual"),
      request_id: fc.constantFrom(null, 7),
      http: fc.constantFrom(
        {},
        answered(200),
        answered(204),
        answered(302),
        answered(401),
        answered(409),
        answered(503),
        TIMED_OUT,
        NO_CONNECTION,
      ),
      function: fc.constantFrom({}, STARTED, FINISHED, FAILED, {
        outcome: "skipped",
        finished_at: iso(NOON),
        error: "jobs are switched off",
      }),
      after: fc.integer({ min: 0, max: 7 * HOUR }),
    });
    await fc.assert(
      fc.asyncProperty(run, async ({ http, function: witness, after, ...rest }) => {
        const verdict = await judge(query, { ...rest, ...http, ...witness }, after);
        expect(["queued", "running", "succeeded", "failed", "skipped", "lost"]).toContain(
          verdict.state,
        );
        if (["failed", "skipped", "lost"].includes(verdict.state)) {
          expect(verdict.reason).toBeTruthy();
        }
        // Unknown is not OK: nothing is a success without its own finish.
        if (verdict.state === "succeeded") expect(witness).toHaveProperty("outcome", "succeeded");
        if (verdict.is_slow) expect(verdict.state).toBe("succeeded");
        // What is settled does not change any more.
        if (verdict.is_settled) {
          expect(
            await judge(
              query,
              { ...rest, ...http, ...witness, state: verdict.state },
              after + HOUR,
            ),
          )
            .toEqual(verdict);
        }
      }),
      { numRuns: 150 },
    );
  });
});
