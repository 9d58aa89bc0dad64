import { describe, expect, it, vi } from "vitest";
import type { RetentionStep } from "../../shared/contract/retention.ts";
import { Problem } from "../../supabase/functions/_shared/problem.ts";
import {
  checkEntities,
  cleanUp,
  type CleanupDeps,
  CleanupRequest,
  WALL_SECONDS,
} from "../../supabase/functions/data-retention-cleanup/handler.ts";
import { mergeSteps } from "../../supabase/functions/data-retention-cleanup/merge-steps.ts";
import { Clock, NOON, RUN_ID } from "../fixtures.ts";

const RUN = { id: RUN_ID, scheduledAt: NOON, startedAt: NOON };

function stepOf(entity: string, changes: Partial<RetentionStep> = {}): RetentionStep {
  return {
    ...{ entity, outcome: "nothing", counts: {}, oldest_kept_at: null, duration_seconds: 0.1 },
    ...{ more: false, detail: null },
    ...changes,
  };
}

/** Plays back steps by entity; an entity without any left has nothing to do. */
function sampleDeps(steps: Record<string, Partial<RetentionStep>[]>) {
  const clock = new Clock();
  const calls: [string, string | null, boolean][] = [];
  const deps: CleanupDeps = {
    now: clock.now,
    listRetentionEntities: () => Promise.resolve(Object.keys(steps)),
    runRetentionStep: (...call) => {
      calls.push(call);
      return Promise.resolve(stepOf(call[0], steps[call[0]]!.shift()));
    },
  };
  return { deps, calls, clock };
}

const requested = (body: object = {}) => CleanupRequest.parse(body);

describe("cleanUp()", () => {
  it("does a step of each entity in the order of the database", async () => {
    const { deps, calls } = sampleDeps({
      samples: [{ outcome: "done", counts: { days: 2 } }],
      alerts: [],
    });
    const outcome = await cleanUp(requested(), RUN, deps);
    expect(calls).toEqual([["samples", RUN_ID, false], ["alerts", RUN_ID, false]]);
    expect(outcome).toEqual({
      kind: "succeeded",
      result: {
        dry_run: false,
        partial: false,
        entities: [stepOf("samples", { outcome: "done", counts: { days: 2 } }), stepOf("alerts")],
        complete: true,
      },
    });
  });

  it("goes round while there is more, so that a long entity keeps nobody waiting", async () => {
    const more = { outcome: "done", more: true, counts: { deleted: 5000 } } as const;
    const { deps, calls } = sampleDeps({
      a: [more, more, { outcome: "done", counts: { deleted: 7 }, detail: "last" }],
      b: [more, { outcome: "done", counts: { deleted: 1 } }],
      c: [],
    });
    const { result } = await cleanUp(requested(), RUN, deps);
    expect(calls.map(([entity]) => entity)).toEqual(["a", "b", "c", "a", "b", "a"]);
    expect(result).toMatchObject({
      complete: true,
      entities: [
        { entity: "a", outcome: "done", counts: { deleted: 10_007 }, detail: "last", more: false },
        { entity: "b", outcome: "done", counts: { deleted: 5001 } },
        { entity: "c", outcome: "nothing" },
      ],
    });
  });

  it("asks once in a dry run, and records nothing", async () => {
    const { deps, calls } = sampleDeps({ a: [{ outcome: "done" }], b: [] });
    const { result } = await cleanUp(requested({ dry_run: true }), RUN, deps);
    expect(calls).toEqual([["a", null, true], ["b", null, true]]);
    expect(result).toMatchObject({ dry_run: true, complete: true });
  });

  it("does only what it is asked for, each once", async () => {
    const { deps, calls } = sampleDeps({ a: [], b: [], c: [] });
    const { result } = await cleanUp(requested({ entities: ["c", "a", "c"] }), RUN, deps);
    expect(result).toMatchObject({ partial: true });
    expect(calls.map(([entity]) => entity)).toEqual(["a", "c"]);
  });

  it("goes round for a step that removed nothing but has more to look at, such as evidence to complete", async () => {
    const { deps, calls } = sampleDeps({ a: [{ outcome: "nothing", more: true }, {}] });
    const { result } = await cleanUp(requested(), RUN, deps);
    expect(calls).toHaveLength(2);
    expect(result).toMatchObject({ complete: true });
  });

  it.each(["contended", "held", "missing", "failed"] as const)(
    "does not go round for what is %s, even if there is more",
    async (outcome) => {
      const { deps, calls } = sampleDeps({ a: [{ outcome, more: true }] });
      const { result } = await cleanUp(requested(), RUN, deps);
      expect(calls).toHaveLength(1);
      expect(result).toMatchObject({ complete: false });
    },
  );

  it("goes on after a failure and has failed at the end, naming what and why", async () => {
    const { deps, calls } = sampleDeps({
      a: [{ outcome: "failed", detail: "57014: canceled" }],
      b: [{ outcome: "done", counts: { deleted: 3 } }],
    });
    const outcome = await cleanUp(requested(), RUN, deps);
    expect(calls).toHaveLength(2);
    expect(outcome).toMatchObject({
      kind: "failed",
      reason: "retention failed for a (57014: canceled)",
      result: { entities: [{ outcome: "failed" }, { outcome: "done", counts: { deleted: 3 } }] },
    });
  });

  it("has not failed when others held a lock, but shows it", async () => {
    const { deps } = sampleDeps({ a: [{ outcome: "contended", counts: { contended: 1 } }] });
    expect(await cleanUp(requested(), RUN, deps)).toMatchObject({
      kind: "succeeded",
      result: { entities: [{ outcome: "contended", counts: { contended: 1 } }] },
    });
  });

  it("begins no step after its time, and says that it is not complete", async () => {
    const { deps, clock, calls } = sampleDeps({ a: [], b: [], c: [] });
    const step = deps.runRetentionStep;
    deps.runRetentionStep = (...call) => {
      clock.advance(WALL_SECONDS / 2);
      return step(...call);
    };
    const { result } = await cleanUp(requested(), RUN, deps);
    expect(calls.map(([entity]) => entity)).toEqual(["a", "b"]);
    expect(result).toMatchObject({ complete: false });
  });

  it("is complete when the last step ends exactly with its time", async () => {
    const { deps, clock } = sampleDeps({ a: [] });
    const step = deps.runRetentionStep;
    deps.runRetentionStep = (...call) => {
      clock.advance(WALL_SECONDS);
      return step(...call);
    };
    expect((await cleanUp(requested(), RUN, deps)).result).toMatchObject({ complete: true });
  });
});

describe("checkEntities()", () => {
  const deps = () => sampleDeps({ a: [], b: [] }).deps;

  it("takes those that there are, and asks for none when none is named", async () => {
    await checkEntities(requested({ entities: ["b", "a"] }), deps());
    const listRetentionEntities = vi.fn(() => Promise.resolve([]));
    await checkEntities(requested(), { ...deps(), listRetentionEntities });
    expect(listRetentionEntities).not.toHaveBeenCalled();
  });

  it("refuses all others, naming each", async () => {
    const error = await checkEntities(requested({ entities: ["a", "x", "__proto__"] }), deps())
      .then(() => null, (error: unknown) => error);
    expect(error).toBeInstanceOf(Problem);
    const { status, message, members } = error as Problem;
    expect(status).toBe(422);
    expect(message).toBe("entities: x is not one of a, b");
    expect(members["errors"]).toEqual([
      { pointer: "#/entities/1", detail: "x is not one of a, b" },
      { pointer: "#/entities/2", detail: "__proto__ is not one of a, b" },
    ]);
  });
});

describe("CleanupRequest", () => {
  it.each([
    [{ entities: [] }],
    [{ entities: "a" }],
    [{ entities: [1] }],
    [{ entities: Array(51).fill("a") }],
    [{ dry_run: "true" }],
    [{ dryRun: true }],
  ])("refuses %j", (body) => expect(CleanupRequest.safeParse(body).success).toBe(false));
});

describe("mergeSteps()", () => {
  it("adds up what was removed, and takes the newest word on what remains", () => {
    const first = stepOf("a", {
      outcome: "done",
      counts: { archived: 2, held_by_alert: 5, contended: 3 },
    });
    const second = stepOf("a", {
      outcome: "contended",
      counts: { archived: 1, held_by_alert: 4, contended: 1 },
    });
    expect(mergeSteps(first, second)).toMatchObject({
      outcome: "done",
      counts: { archived: 3, held_by_alert: 4, contended: 1 },
      duration_seconds: 0.2,
    });
  });

  it("never forgets a failure, nor what was kept before it", () => {
    const done = stepOf("a", {
      outcome: "done",
      counts: { deleted: 1 },
      oldest_kept_at: "2026-01-01T00:00:00Z",
    });
    const failed = stepOf("a", { outcome: "failed", detail: "why" });
    expect(mergeSteps(done, failed)).toMatchObject({
      outcome: "failed",
      counts: { deleted: 1 },
      oldest_kept_at: "2026-01-01T00:00:00Z",
      detail: "why",
    });
    expect(mergeSteps(failed, done)).toMatchObject({ outcome: "failed", detail: "why" });
  });
});
