import { GRACE_SECONDS } from "../../supabase/functions/collect-metrics/handler.ts";
import { describe, expect, it } from "vitest";
import { COLLECTOR_SAMPLES_LIMIT } from "../../shared/contract/collection.ts";
import {
  type Database,
  DatabaseError,
  type DatabaseErrorKind,
} from "../../supabase/functions/_shared/database.ts";
import {
  collectionStore,
  detectionStore,
  jobStore,
  readHealthFacts,
  retentionStore,
  TIMEOUT_SECONDS,
} from "../../supabase/functions/_shared/stores.ts";
import { NOON, OTHER_RUN_ID, RUN_ID, sampleFacts, sampleFactsRow } from "../fixtures.ts";

/** A database that answers the same to everything, and what it was asked. */
function answering(answer: unknown) {
  const calls: unknown[][] = [];
  const database: Database = {
    call: (rpc, args, parse, ...rest) => {
      calls.push([rpc, args, ...rest]);
      if (answer instanceof Error) return Promise.reject(answer);
      return new Promise((resolve) => resolve(parse(answer)));
    },
  };
  return { database, calls };
}

const failing = (kind: DatabaseErrorKind, code = "", reason = "why") =>
  answering(new DatabaseError("x", kind, code, reason));
const at = NOON.toISOString();

describe("jobStore()", () => {
  it.each([
    [{ outcome: "started", run_id: RUN_ID, scheduled_at: "2026-02-01T12:00:00+00:00" }, {
      kind: "started",
      runId: RUN_ID,
      scheduledAt: NOON,
    }],
    [{ outcome: "overlap", run_id: OTHER_RUN_ID }, { kind: "overlap", runId: OTHER_RUN_ID }],
    [{ outcome: "disabled", run_id: RUN_ID }, { kind: "disabled" }],
    [{ outcome: "finished", run_id: RUN_ID }, { kind: "finished", runId: RUN_ID }],
  ])("reads %j", async (answer, expected) => {
    const { database, calls } = answering(answer);
    expect(await jobStore(database).start("collect-metrics", RUN_ID, "cron", NOON)).toEqual(
      expected,
    );
    expect(calls).toEqual([["start_job", {
      p_job: "collect-metrics",
      p_run_id: RUN_ID,
      p_trigger: "cron",
      p_scheduled_at: at,
    }, TIMEOUT_SECONDS.start]]);
  });

  it.each([[null], [{}], [{ outcome: "started" }], [{ outcome: "other", run_id: RUN_ID }]])(
    "refuses %j",
    async (answer) => {
      await expect(jobStore(answering(answer).database).start("a", RUN_ID, "cron", NOON)).rejects
        .toThrow();
    },
  );

  it("ends a run", async () => {
    const { database, calls } = answering({ state: "succeeded" });
    await jobStore(database).finish(RUN_ID, "succeeded", { n: 1 }, null);
    expect(calls).toEqual([["finish_job", {
      p_run_id: RUN_ID,
      p_outcome: "succeeded",
      p_result: { n: 1 },
      p_error: null,
    }, TIMEOUT_SECONDS.finish]]);
  });
});

describe("a collection", () => {
  it("takes 20 s at the most, the slowest collector included", () => {
    const { start, plan, record, finish } = TIMEOUT_SECONDS;
    expect(start + plan + 7 + GRACE_SECONDS + record + finish).toBeLessThanOrEqual(20);
  });
});

describe("collectionStore()", () => {
  const collect = (answer: unknown) =>
    collectionStore(answering(answer).database).collect("collect_a", NOON, 2.5);

  it("plans, collects and records", async () => {
    const plan = answering({
      collectors: [{ collector: "collect_a", timeout_seconds: 2 }],
      skipped: [{ collector: "collect_b", reason: "not due" }],
    });
    expect(await collectionStore(plan.database).planCollection(NOON)).toEqual({
      collectors: [{ collector: "collect_a", timeoutSeconds: 2 }],
      skipped: [{ collector: "collect_b", reason: "not due" }],
    });
    expect(plan.calls).toEqual([["plan_collection", { p_scheduled_at: at }, TIMEOUT_SECONDS.plan]]);

    const collected = answering([]);
    await collectionStore(collected.database).collect("collect_a", NOON, 2.5);
    expect(collected.calls).toEqual([["collect_a", { p_at: at }, 2.5]]);

    const record = answering({
      inserted: 1,
      duplicates: 0,
      overflowed: 0,
      rejected: [{ metric: null, labels: null, reason: "unknown metric" }],
    });
    expect(await collectionStore(record.database).recordCollection(RUN_ID, NOON, [])).toMatchObject(
      { inserted: 1 },
    );
    expect(record.calls).toEqual([["record_collection", {
      p_run_id: RUN_ID,
      p_scheduled_at: at,
      p_results: [],
    }, TIMEOUT_SECONDS.record]]);
  });

  it("calls nothing that is not a collector", async () => {
    const plan = answering({
      collectors: [{ collector: "drop_everything", timeout_seconds: 2 }],
      skipped: [],
    });
    await expect(collectionStore(plan.database).planCollection(NOON)).rejects.toThrow();
  });

  it("leaves the judging of single samples to the database", async () => {
    const samples = [{ metric: "a", labels: {}, value: 1 }, { metric: 7, value: "NaN" }, {}];
    expect(await collect(samples)).toEqual({ outcome: "ok", error: null, samples });
  });

  it("takes null for nothing to measure", async () => {
    expect(await collect(null)).toEqual({ outcome: "ok", error: null, samples: [] });
  });

  it("takes a thousand samples of one collector, and none of one that has more", async () => {
    const samples = (n: number) => Array.from({ length: n }, () => ({ metric: "a", value: 1 }));
    expect((await collect(samples(COLLECTOR_SAMPLES_LIMIT))).samples).toHaveLength(
      COLLECTOR_SAMPLES_LIMIT,
    );
    expect(await collect(samples(COLLECTOR_SAMPLES_LIMIT + 1))).toMatchObject({
      outcome: "failed",
      samples: [],
    });
  });

  it.each<[DatabaseErrorKind, string, string, string]>([
    ["timed_out", "57014", "timed_out", "why (57014)"],
    ["timed_out", "", "timed_out", "why"],
    ["refused", "22012", "failed", "why (22012)"],
    ["unreachable", "", "failed", "why"],
    ["missing", "PGRST202", "failed", "why (PGRST202)"],
  ])("makes a value of a collector that is %s (%s)", async (kind, code, outcome, error) => {
    const { database } = failing(kind, code);
    expect(await collectionStore(database).collect("collect_a", NOON, 2.5)).toEqual({
      outcome,
      error,
      samples: [],
    });
  });

  it("makes a value of anything else, too", async () => {
    expect(await collect(new TypeError("sb_secret_abc"))).toEqual({
      outcome: "failed",
      error: "TypeError: sb_secret_…",
      samples: [],
    });
    expect(await collect("text")).toMatchObject({ outcome: "failed" });
  });
});

describe("detectionStore()", () => {
  const row = {
    ...{
      series_id: 5,
      metric: "m",
      unit: "seconds",
      kind: "counter",
      labels: { a: "b" },
      direction: "up",
    },
    ...{
      sensitivity: "high",
      minimum_change: 0.5,
      state: { n: 1 },
      state_version: "v1",
      last_sample_at: 10,
    },
    ...{ open_anomaly: { anomaly_id: 3, started_at: 9 }, times: [20, 30], values: [1, 2] },
  };

  it("reads a page", async () => {
    const { database, calls } = answering({ series: [row], next_series_id: 5 });
    expect(await detectionStore(database).readDetectionPage(0, 100)).toEqual({
      series: [{
        seriesId: 5,
        kind: "counter",
        settings: { direction: "up", sensitivity: "high", minimumChange: 0.5, unit: "seconds" },
        state: { n: 1 },
        stateVersion: "v1",
        lastSampleAt: 10,
        openAnomaly: { startedAt: 9 },
        samples: [{ at: 20, value: 1 }, { at: 30, value: 2 }],
      }],
      failed: [],
      nextSeriesId: 5,
    });
    expect(calls).toEqual([["read_detection_page", { p_after_series_id: 0, p_limit: 100 }]]);
  });

  it("makes a value of a refusal, and throws everything else", async () => {
    const refusing = failing("refused", "23514", "violates check");
    expect(await detectionStore(refusing.database).recordDetections(RUN_ID, []))
      .toEqual({ refused: "violates check (23514)" });
    for (const kind of ["timed_out", "unreachable", "malformed"] as const) {
      await expect(detectionStore(failing(kind).database).recordDetections(RUN_ID, [])).rejects
        .toThrow(DatabaseError);
    }
  });
});

describe("retentionStore()", () => {
  const step = {
    ...{
      entity: "a",
      outcome: "done",
      counts: { deleted: 1 },
      oldest_kept_at: null,
      duration_seconds: 0.1,
    },
    ...{ more: true, detail: null },
  };

  it("lists and steps", async () => {
    expect(await retentionStore(answering(["a", "b"]).database).listRetentionEntities()).toEqual([
      "a",
      "b",
    ]);
    const { database, calls } = answering(step);
    expect(await retentionStore(database).runRetentionStep("a", RUN_ID, false)).toEqual(step);
    expect(calls).toEqual([["run_retention_step", {
      p_entity: "a",
      p_run_id: RUN_ID,
      p_dry_run: false,
    }]]);
  });

  it("makes a failed step of whatever goes wrong", async () => {
    for (
      const database of [
        failing("timed_out", "57014").database,
        answering({ ...step, outcome: "odd" }).database,
      ]
    ) {
      expect(await retentionStore(database).runRetentionStep("a", null, true))
        .toMatchObject({
          entity: "a",
          outcome: "failed",
          more: false,
          detail: expect.stringMatching(/./),
        });
    }
  });
});

describe("readHealthFacts()", () => {
  it("reads the facts within its time", async () => {
    const { database, calls } = answering(sampleFactsRow());
    expect(await readHealthFacts(database, 2)).toMatchObject({
      now: NOON,
      jobs: [{ job: "collect-metrics", lastState: "succeeded", lastComplete: null }],
      metrics: { newestSampleAt: sampleFacts().metrics.newestSampleAt },
    });
    expect(calls).toEqual([["read_health", {}, 2]]);
  });
});
