import { setImmediate } from "node:timers/promises";
import { describe, expect, it, vi } from "vitest";
import type { CollectorResult } from "../../shared/contract/collection.ts";
import type { Collected } from "../../supabase/functions/_shared/stores.ts";
import {
  type CollectDeps,
  collectMetrics,
} from "../../supabase/functions/collect-metrics/handler.ts";
import { Clock, NOON, RUN_ID } from "../fixtures.ts";

const RUN = { id: RUN_ID, scheduledAt: NOON, startedAt: NOON };

const sampleOf = (metric: string) => ({ metric, labels: {}, value: 1 });
const ok = (...metrics: string[]): Collected => ({
  outcome: "ok",
  error: null,
  samples: metrics.map(sampleOf),
});

function sampleDeps(
  collected: Record<string, Collected>,
  changes: Partial<CollectDeps> = {},
) {
  const clock = new Clock();
  const recorded: [string, Date, readonly CollectorResult[]][] = [];
  const deps: CollectDeps = {
    now: clock.now,
    planCollection: () =>
      Promise.resolve({
        collectors: Object.keys(collected).map((collector) => ({ collector, timeoutSeconds: 2 })),
        skipped: [],
      }),
    collect: (collector) => Promise.resolve(collected[collector]!),
    recordCollection: (...call) => {
      recorded.push(call);
      const inserted = call[2].flatMap(({ samples }) => samples).length;
      return Promise.resolve({ inserted, duplicates: 0, overflowed: 0, rejected: [] });
    },
    ...changes,
  };
  return { deps, recorded, clock };
}

describe("collectMetrics()", () => {
  it("stores in one call what all collectors return, under the minute of the run", async () => {
    const { deps, recorded } = sampleDeps({
      collect_a: ok("a"),
      collect_b: ok("b", "c"),
      collect_c: ok(),
    });
    const outcome = await collectMetrics(RUN, deps);
    expect(recorded).toEqual([[RUN_ID, NOON, [
      {
        collector: "collect_a",
        outcome: "ok",
        duration_seconds: 0,
        error: null,
        samples: [sampleOf("a")],
      },
      {
        collector: "collect_b",
        outcome: "ok",
        duration_seconds: 0,
        error: null,
        samples: [sampleOf("b"), sampleOf("c")],
      },
      { collector: "collect_c", outcome: "ok", duration_seconds: 0, error: null, samples: [] },
    ]]]);
    expect(outcome).toEqual({
      kind: "succeeded",
      result: {
        samples: { inserted: 3, duplicates: 0, overflowed: 0, rejected: 0 },
        rejected_samples: [],
        collectors: [
          { collector: "collect_a", outcome: "ok", duration_seconds: 0, rows: 1 },
          { collector: "collect_b", outcome: "ok", duration_seconds: 0, rows: 2 },
          { collector: "collect_c", outcome: "ok", duration_seconds: 0, rows: 0 },
        ],
      },
      summary: {
        samples: { inserted: 3, duplicates: 0, overflowed: 0, rejected: 0 },
        collectors: { ok: 3, skipped: 0, broken: [] },
      },
    });
  });

  it("calls them all at once, each with its own time-out and some grace", async () => {
    const waiting: (() => void)[] = [];
    const collect = vi.fn<CollectDeps["collect"]>(() =>
      new Promise((resolve) => waiting.push(() => resolve(ok("a"))))
    );
    const { deps } = sampleDeps({}, {
      collect,
      planCollection: () =>
        Promise.resolve({
          collectors: [1, 7].map((timeoutSeconds) => ({
            collector: `collect_${timeoutSeconds}`,
            timeoutSeconds,
          })),
          skipped: [],
        }),
    });
    const collecting = collectMetrics(RUN, deps);
    await vi.waitUntil(() => waiting.length === 2);
    expect(collect.mock.calls).toEqual([["collect_1", NOON, 1.5], ["collect_7", NOON, 7.5]]);
    waiting.forEach((answer) => answer());
    await collecting;
  });

  it("loses nothing of the others when one breaks and one is late, and says what each took", async () => {
    const { deps, clock, recorded } = sampleDeps({});
    deps.planCollection = () =>
      Promise.resolve({
        collectors: ["collect_good", "collect_broken", "collect_late"]
          .map((collector) => ({ collector, timeoutSeconds: 2 })),
        skipped: [{ collector: "collect_absent", reason: "monitor.submissions does not exist" }],
      });
    let answerLate = (_late: Collected) => {};
    deps.collect = (collector) => {
      if (collector === "collect_good") return Promise.resolve(ok("a"));
      if (collector === "collect_late") return new Promise((resolve) => answerLate = resolve);
      return Promise.resolve({ outcome: "failed", error: "division by zero (22012)", samples: [] });
    };
    const collecting = collectMetrics(RUN, deps);
    await setImmediate(); // the first two have been timed by now
    clock.advance(2.5);
    answerLate({ outcome: "timed_out", error: "no answer within 2.5 s", samples: [] });

    const broken = [
      {
        collector: "collect_broken",
        outcome: "failed",
        duration_seconds: 0,
        rows: 0,
        error: "division by zero (22012)",
      },
      {
        collector: "collect_late",
        outcome: "timed_out",
        duration_seconds: 2.5,
        rows: 0,
        error: "no answer within 2.5 s",
      },
    ];
    expect(await collecting).toMatchObject({
      kind: "succeeded",
      result: {
        samples: { inserted: 1 },
        collectors: [
          { collector: "collect_good", outcome: "ok", duration_seconds: 0, rows: 1 },
          ...broken,
          {
            collector: "collect_absent",
            outcome: "skipped",
            duration_seconds: 0,
            rows: 0,
            reason: "monitor.submissions does not exist",
          },
        ],
      },
      summary: { collectors: { ok: 1, skipped: 1, broken } },
    });
    expect(recorded[0]![2].map(({ outcome }) => outcome)).toEqual(["ok", "failed", "timed_out"]);
  });

  it.each([
    [{ inserted: 0, duplicates: 0, overflowed: 0, rejected: [] }, "failed"],
    [{ inserted: 1, duplicates: 0, overflowed: 0, rejected: [] }, "succeeded"],
    [{ inserted: 0, duplicates: 1, overflowed: 0, rejected: [] }, "succeeded"],
    [{
      inserted: 0,
      duplicates: 0,
      overflowed: 0,
      rejected: [{ metric: "a", labels: {}, reason: "unknown metric" }],
    }, "failed"],
  ])("judges %j as %s", async (record, kind) => {
    const { deps } = sampleDeps({ collect_a: ok("a") }, {
      recordCollection: () => Promise.resolve(record),
    });
    expect((await collectMetrics(RUN, deps)).kind).toBe(kind);
  });

  it("has failed when nothing was due, and says so", async () => {
    const { deps } = sampleDeps({});
    expect(await collectMetrics(RUN, deps)).toMatchObject({
      kind: "failed",
      reason:
        "no sample was stored: of 0 collectors 0 broke, 0 more were skipped, 0 samples were rejected",
    });
  });

  it("tells of twenty rejected samples, and counts them all", async () => {
    const rejected = Array.from(
      { length: 50 },
      () => ({ metric: "x", labels: {}, reason: "unknown metric" }),
    );
    const { deps } = sampleDeps({ collect_a: ok("a") }, {
      recordCollection: () =>
        Promise.resolve({ inserted: 1, duplicates: 0, overflowed: 0, rejected }),
    });
    const { result } = await collectMetrics(RUN, deps);
    expect(result).toMatchObject({ samples: { rejected: 50 } });
    expect((result as { rejected_samples: unknown[] }).rejected_samples).toHaveLength(20);
  });

  it("throws when the samples cannot be stored: the run has then failed", async () => {
    const { deps } = sampleDeps({ collect_a: ok("a") }, {
      recordCollection: () => Promise.reject(new Error("no")),
    });
    await expect(collectMetrics(RUN, deps)).rejects.toThrow("no");
  });
});
