import { afterEach, describe, expect, it, vi } from "vitest";
import { runInBackground } from "../../supabase/functions/_shared/background.ts";
import { job, JobRequest, type RunOutcome } from "../../supabase/functions/_shared/job.ts";
import { admit, request, sampleJobs, sampleWorld } from "../fixtures.ts";

/** What the platform was given to go on with. */
function stubPlatform() {
  const given: Promise<unknown>[] = [];
  vi.stubGlobal("EdgeRuntime", { waitUntil: (work: Promise<unknown>) => void given.push(work) });
  return given;
}

afterEach(() => void vi.unstubAllGlobals());

describe("runInBackground()", () => {
  it("gives the work to the platform, which stays for it", () => {
    const given = stubPlatform();
    const work = Promise.resolve();
    runInBackground(work);
    expect(given).toEqual([work]);
    expect(given[0]).toBe(work);
  });

  it("needs no platform", async () => {
    let isDone = false;
    const work = Promise.resolve().then(() => void (isDone = true));
    expect(runInBackground(work)).toBeUndefined();
    await work;
    expect(isDone).toBe(true);
  });
});

describe("what goes on after a job", () => {
  const DONE: RunOutcome = { kind: "succeeded", result: { count: 1 } };

  function build(
    { work = () => Promise.resolve(DONE), afterwards, start }: {
      work?: () => Promise<RunOutcome>;
      afterwards: () => Promise<void>;
      start?: "overlap";
    },
  ) {
    const { world, lines } = sampleWorld();
    const events: string[] = [];
    const { jobs } = sampleJobs({
      finish: (_run, kind) => Promise.resolve(void events.push(`finished: ${kind}`)),
      ...(start && { start: (_job, runId) => Promise.resolve({ kind: start, runId }) }),
    });
    const fetch = job(
      {
        name: "deliver-notifications",
        body: JobRequest,
        afterwards: () => {
          events.push("afterwards");
          return afterwards();
        },
      },
      work,
      { ...world, jobs, authorize: admit() },
    );
    return { call: () => fetch(request("POST")), events, lines };
  }

  it("does not keep the answer waiting, and the platform stays for it", async () => {
    const given = stubPlatform();
    let end!: () => void;
    const { call, events } = build({
      afterwards: () => new Promise((resolve) => void (end = resolve)),
    });
    expect((await call()).status).toBe(200);
    // The end of the run is known to whoever looks then.
    expect(events).toEqual(["finished: succeeded", "afterwards"]);
    expect(given).toHaveLength(1);
    end();
    await given[0];
  });

  it.each([
    ["says so", () => Promise.resolve<RunOutcome>({ ...DONE, kind: "failed", reason: "no" })],
    ["throws", () => Promise.reject(new Error("no"))],
  ])("goes on after a run that %s", async (_, work) => {
    const given = stubPlatform();
    const { call, events } = build({ work, afterwards: () => Promise.resolve() });
    expect((await call()).status).toBe(500);
    expect(events).toEqual(["finished: failed", "afterwards"]);
    await Promise.all(given);
  });

  it("does not where there is no run", async () => {
    const given = stubPlatform();
    const { call, events } = build({ start: "overlap", afterwards: () => Promise.resolve() });
    expect((await call()).status).toBe(409);
    expect([events, given]).toEqual([[], []]);
  });

  it("never rejects, and tells the log what it has failed with", async () => {
    const given = stubPlatform();
    const { call, lines } = build({
      afterwards: () => Promise.reject(new Error("connection lost")),
    });
    expect((await call()).status).toBe(200);
    await expect(given[0]).resolves.toBeUndefined();
    expect(lines.map(({ line }) => JSON.parse(line))).toContainEqual(
      expect.objectContaining({
        level: "error",
        message: "what goes on after the run failed",
        fields: expect.objectContaining({
          error: expect.objectContaining({ message: "connection lost" }),
        }),
      }),
    );
  });
});
