import { describe, expect, it, vi } from "vitest";
import { DatabaseError } from "../../supabase/functions/_shared/database.ts";
import {
  job,
  JobRequest,
  type JobSpec,
  type Run,
  type RunOutcome,
} from "../../supabase/functions/_shared/job.ts";
import { Problem } from "../../supabase/functions/_shared/problem.ts";
import type { JobStore } from "../../supabase/functions/_shared/stores.ts";
import {
  admit,
  afterNoon,
  KEYS,
  NOON,
  OTHER_RUN_ID,
  request,
  RUN_ID,
  sampleJobs,
  sampleWorld,
} from "../fixtures.ts";

const DONE: RunOutcome = { kind: "succeeded", result: { count: 1 } };

function build(
  { work = () => Promise.resolve(DONE), store = {}, spec = {} }: {
    work?: (body: unknown, run: Run) => Promise<RunOutcome>;
    store?: Partial<JobStore>;
    spec?: Partial<JobSpec<{ scheduled_at?: string | undefined }>>;
  } = {},
) {
  const { world, lines, clock } = sampleWorld();
  const { jobs, started, finished } = sampleJobs(store);
  const working = vi.fn(work);
  const fetch = job({ name: "collect-metrics", body: JobRequest, ...spec }, working, {
    ...world,
    jobs,
    authorize: admit(),
  });
  return { fetch, working, started, finished, lines, clock };
}

const post = (body?: object, headers: Record<string, string> = {}) =>
  request("POST", { headers, ...(body && { body: JSON.stringify(body) }) });

describe("job()", () => {
  it("starts the run, works, finishes it and answers what was done", async () => {
    const { fetch, clock, started, finished } = build({
      work: () => {
        clock.advance(1.5);
        return Promise.resolve(DONE);
      },
    });
    clock.advance(30);
    const response = await fetch(post());
    expect(response.status).toBe(200);
    expect(response.headers.get("x-run-id")).toBe(RUN_ID);
    expect(await response.json()).toEqual({
      run_id: RUN_ID,
      job: "collect-metrics",
      scheduled_at: NOON.toISOString(),
      outcome: "succeeded",
      duration_seconds: 1.5,
      count: 1,
    });
    expect(started).toEqual([["collect-metrics", RUN_ID, "manual", NOON.toISOString()]]);
    expect(finished).toEqual([[RUN_ID, "succeeded", { count: 1 }, null]]);
  });

  it("is cron's when it comes with a run id", async () => {
    const { fetch, started, finished } = build();
    await fetch(post({ scheduled_at: "2026-02-01T12:00:00+00:00" }, { "x-run-id": OTHER_RUN_ID }));
    expect(started).toEqual([["collect-metrics", OTHER_RUN_ID, "cron", NOON.toISOString()]]);
    expect(finished[0]![0]).toBe(OTHER_RUN_ID);
  });

  it("belongs to the minute that the database says", async () => {
    const scheduledAt = afterNoon(-60);
    const { fetch, working } = build({
      store: { start: (_job, runId) => Promise.resolve({ kind: "started", runId, scheduledAt }) },
    });
    const response = await fetch(post());
    expect((await response.json()).scheduled_at).toBe(scheduledAt.toISOString());
    expect(working.mock.calls[0]![1]).toEqual({ id: RUN_ID, scheduledAt, startedAt: NOON });
  });

  describe("scheduled_at", () => {
    it.each([
      ["2026-02-01T12:00:59.999Z", "2026-02-01T12:00:00.000Z", "is cut to the minute"],
      ["2026-02-01T14:00:30+02:00", "2026-02-01T12:00:00.000Z", "may be of any zone"],
      ["2026-02-01T12:05:00Z", "2026-02-01T12:05:00.000Z", "may be 5 minutes ahead"],
      ["2026-02-01T11:55:00Z", "2026-02-01T11:55:00.000Z", "may be 5 minutes ago"],
    ])("%s is %s: %s", async (given, minute) => {
      const { fetch, started } = build();
      expect((await fetch(post({ scheduled_at: given }))).status).toBe(200);
      expect(started[0]![3]).toBe(minute);
    });

    it("says what is allowed", async () => {
      const response = await build().fetch(post({ scheduled_at: "2026-02-01T11:54:59Z" }));
      expect((await response.json()).detail).toBe(
        "scheduled_at: must be within 300 s of now; leave it out for the current minute",
      );
    });

    it.each([
      ["2026-02-01T12:05:00.001Z"],
      ["2026-02-01T11:54:59.999Z"],
      ["2027-02-01T12:00:00Z"],
      ["2026-02-01"],
      ["2026-02-01T12:00:00"],
      ["2026-02-30T12:00:00Z"],
      ["now"],
      [""],
      [NOON.getTime()],
      [null],
    ])("is refused when it is %j", async (given) => {
      const { fetch, started } = build();
      const response = await fetch(post({ scheduled_at: given }));
      expect(response.status).toBe(422);
      const { detail, errors } = await response.json();
      expect(errors[0].pointer).toBe("#/scheduled_at");
      expect(detail).toContain("scheduled_at");
      expect(started).toEqual([]);
    });
  });

  describe("that may not start", () => {
    it.each<[Awaited<ReturnType<JobStore["start"]>>, string, object]>([
      [{ kind: "overlap", runId: OTHER_RUN_ID }, "overlap", { run_id: OTHER_RUN_ID }],
      [{ kind: "disabled" }, "jobs-disabled", {}],
      [{ kind: "finished", runId: RUN_ID }, "run-finished", { run_id: RUN_ID }],
    ])("answers %j with 409", async (start, slug, members) => {
      const { fetch, working, finished } = build({
        store: { start: () => Promise.resolve(start) },
      });
      const response = await fetch(post());
      expect(response.status).toBe(409);
      expect(response.headers.get("x-run-id")).toBe(RUN_ID);
      expect(await response.json()).toMatchObject({
        type: `urn:pgvigil:problem:${slug}`,
        ...members,
      });
      expect(working).not.toHaveBeenCalled();
      expect(finished).toEqual([]);
    });

    it("does not work when the database cannot say whether it may", async () => {
      const error = new DatabaseError("start_job", "unreachable", "", "no");
      const { fetch, working } = build({ store: { start: () => Promise.reject(error) } });
      expect((await fetch(post())).status).toBe(503);
      expect(working).not.toHaveBeenCalled();
    });

    it("leaves no run behind when what it is asked for makes no sense", async () => {
      const { fetch, started } = build({
        spec: { check: () => Promise.reject(new Problem("body", "entities: no such entity")) },
      });
      expect((await fetch(post())).status).toBe(422);
      expect(started).toEqual([]);
    });
  });

  describe("that fails", () => {
    const failed: RunOutcome = {
      kind: "failed",
      reason: `no sample, ${KEYS.cron}`,
      result: { count: 0 },
    };

    it("is finished as failed and answered as a problem that tells what was done", async () => {
      const { fetch, finished, lines } = build({ work: () => Promise.resolve(failed) });
      const response = await fetch(post());
      expect(response.status).toBe(500);
      expect(await response.json()).toMatchObject({
        type: "urn:pgvigil:problem:run-failed",
        run_id: RUN_ID,
        job: "collect-metrics",
        result: { count: 0 },
      });
      expect(finished).toEqual([[RUN_ID, "failed", { count: 0 }, "no sample, sb_secret_…"]]);
      expect(lines.every(({ line }) => !line.includes(KEYS.cron))).toBe(true);
    });

    it("is finished when it throws, with the reason but without secrets", async () => {
      const work = () => Promise.reject(new TypeError(`x ${KEYS.default}`));
      const { fetch, finished } = build({ work });
      const response = await fetch(post());
      expect(response.status).toBe(500);
      expect(await response.json()).toEqual({
        type: "urn:pgvigil:problem:internal",
        title: "Internal error",
        status: 500,
        run_id: RUN_ID,
      });
      expect(finished).toEqual([[RUN_ID, "failed", null, "TypeError: x sb_secret_…"]]);
    });

    it("is finished when it throws at once", async () => {
      const { fetch, finished } = build({
        work: () => {
          throw new Error("at once");
        },
      });
      expect((await fetch(post())).status).toBe(500);
      expect(finished).toEqual([[RUN_ID, "failed", null, "Error: at once"]]);
    });
  });

  describe("whose end cannot be recorded", () => {
    const finish = () =>
      Promise.reject(new DatabaseError("finish_job", "refused", "22023", "not running"));

    it("is not said to have succeeded", async () => {
      const { fetch, lines } = build({ store: { finish } });
      const response = await fetch(post());
      expect(response.status).toBe(500);
      expect((await response.json()).run_id).toBe(RUN_ID);
      expect(lines.some(({ level, line }) => level === "error" && line.includes("finish_job")))
        .toBe(true);
    });

    it("tells the log of both errors", async () => {
      const { fetch, lines } = build({
        work: () => Promise.reject(new Error("first")),
        store: { finish },
      });
      expect((await fetch(post())).status).toBe(500);
      const text = lines.map(({ line }) => line).join("\n");
      expect(text).toContain("first");
      expect(text).toContain("finish_job");
    });
  });

  it("takes no lease and counts as no run when it only looks", async () => {
    const { fetch, started, finished, working } = build({ spec: { isRehearsal: () => true } });
    expect((await fetch(post())).status).toBe(200);
    expect(working).toHaveBeenCalledOnce();
    expect([started, finished]).toEqual([[], []]);
  });

  it("keeps and logs the summary where there is one, and answers the whole", async () => {
    const { fetch, finished, lines } = build({
      work: () =>
        Promise.resolve({ kind: "succeeded", result: { all: [1, 2] }, summary: { n: 2 } }),
    });
    expect(await (await fetch(post())).json()).toMatchObject({ all: [1, 2] });
    expect(finished[0]![2]).toEqual({ n: 2 });
    expect(JSON.parse(lines.at(-1)!.line).fields).toMatchObject({
      result: { n: 2 },
      caller: "key",
    });
  });

  it("says nothing to strangers", async () => {
    const { world } = sampleWorld();
    const { jobs, started } = sampleJobs();
    const fetch = job({ name: "collect-metrics", body: JobRequest }, () => Promise.resolve(DONE), {
      ...world,
      jobs,
      authorize: () => Promise.reject(new Problem("unauthenticated")),
    });
    expect((await fetch(post({ nonsense: true }))).status).toBe(401);
    expect(started).toEqual([]);
  });
});
