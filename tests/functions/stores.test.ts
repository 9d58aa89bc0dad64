import { GRACE_SECONDS } from "../../supabase/functions/collect-metrics/handler.ts";
import { describe, expect, it } from "vitest";
import { COLLECTOR_SAMPLES_LIMIT } from "../../shared/contract/collection.ts";
import type { ReplayProgress } from "../../shared/contract/detection.ts";
import { calibrate } from "../../shared/detection/calibrate.ts";
import { NO_CANDIDATES } from "../../shared/detection/collect-candidates.ts";
import {
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
import {
  answeringDatabase,
  NOON,
  OTHER_RUN_ID,
  RUN_ID,
  sampleFacts,
  sampleFactsRow,
} from "../fixtures.ts";

const failing = (kind: DatabaseErrorKind, code = "", reason = "why") =>
  answeringDatabase(new DatabaseError("x", kind, code, reason));
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
    const { database, calls } = answeringDatabase(answer);
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
      await expect(jobStore(answeringDatabase(answer).database).start("a", RUN_ID, "cron", NOON))
        .rejects
        .toThrow();
    },
  );

  it("ends a run", async () => {
    const { database, calls } = answeringDatabase({ state: "succeeded" });
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
    collectionStore(answeringDatabase(answer).database).collect("collect_a", NOON, 2.5);

  it("plans, collects and records", async () => {
    const plan = answeringDatabase({
      collectors: [{ collector: "collect_a", timeout_seconds: 2 }],
      skipped: [{ collector: "collect_b", reason: "not due" }],
    });
    expect(await collectionStore(plan.database).planCollection(NOON)).toEqual({
      collectors: [{ collector: "collect_a", timeoutSeconds: 2 }],
      skipped: [{ collector: "collect_b", reason: "not due" }],
    });
    expect(plan.calls).toEqual([["plan_collection", { p_scheduled_at: at }, TIMEOUT_SECONDS.plan]]);

    const collected = answeringDatabase([]);
    await collectionStore(collected.database).collect("collect_a", NOON, 2.5);
    expect(collected.calls).toEqual([["collect_a", { p_at: at }, 2.5]]);

    const record = answeringDatabase({
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
    const plan = answeringDatabase({
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
    ...{ series_id: 5, metric: "m", labels: { a: "b" }, unit: "seconds", kind: "counter" },
    ...{ direction: "up", budget: 2, minimum_change: 0.5, minimum_change_ratio: 0.1 },
    ...{ spans: [{ from: 1, until: null, label: "incident" }], deploys: [7] },
    ...{ state: { n: 1 }, memory: "much", times: [20, 30], values: [1, 2] },
  };
  const due = {
    ...row,
    ...{ threshold: 0.37, state_version: "v1", last_sample_at: 10, silent: false },
    open_anomaly: { anomaly_id: 3, started_at: 9 },
  };

  const readPage = (...series: object[]) =>
    detectionStore(answeringDatabase({ series, next_series_id: null }).database).readDetectionPage(
      0,
      100,
    );

  it("reads a page", async () => {
    const { database, calls } = answeringDatabase({ series: [due], next_series_id: 5 });
    expect(await detectionStore(database).readDetectionPage(0, 100)).toEqual({
      series: [{
        seriesId: 5,
        kind: "counter",
        settings: {
          ...{ direction: "up", threshold: 0.37, unit: "seconds" },
          ...{ minimumChange: 0.5, minimumChangeRatio: 0.1 },
        },
        state: { n: 1 },
        memory: "much",
        stateVersion: "v1",
        lastSampleAt: 10,
        openAnomaly: { startedAt: 9 },
        spans: [{ from: 1, until: null, label: "incident" }],
        deploys: [7],
        isSilent: false,
        samples: [{ at: 20, value: 1 }, { at: 30, value: 2 }],
      }],
      failed: [],
      nextSeriesId: 5,
    });
    expect(calls).toEqual([["read_detection_page", { p_after_series_id: 0, p_limit: 100 }]]);
  });

  it("infers what nobody has decided", async () => {
    const open = { threshold: null, minimum_change: null, minimum_change_ratio: null };
    const { series } = await readPage({ ...due, ...open, kind: "gauge", direction: "auto" });
    expect(series[0]!.settings).toEqual({
      ...{ direction: "up", threshold: 0.475, unit: "seconds" },
      ...{ minimumChange: 0.005, minimumChangeRatio: 0.02 },
    });
  });

  it("reads a series without spans, deploys and samples", async () => {
    const { spans: _, deploys: __, ...bare } = due;
    const { series, failed } = await readPage({ ...bare, times: [], values: [], silent: true });
    expect(failed).toEqual([]);
    expect(series).toMatchObject([{ spans: [], deploys: [], samples: [], isSilent: true }]);
  });

  it.each([
    { direction: "sideways" },
    { budget: 0 },
    { minimum_change: -1 },
    { minimum_change_ratio: -1 },
    { spans: [{ from: 1, until: 2, label: "odd" }] },
    { memory: 7 },
    { silent: null },
    { times: [20] },
  ])("names a series that breaks the contract by %j, and reads the others", async (broken) => {
    const page = await readPage({ ...due, series_id: 6, ...broken }, due);
    expect(page.series.map(({ seriesId }) => seriesId)).toEqual([5]);
    expect(page.failed).toMatchObject([{ series_id: 6 }]);
  });

  describe("a replay", () => {
    const candidate = { at: 1, until: 2, score: 0.5, kind: "spike" } as const;
    const candidates = {
      ...{ ended: [candidate], dropped_count: 3, open: { ...candidate, at: 9 } },
      ...{ judged_from: 0, judged_until: 15 },
    };
    const tally = {
      ...{ ended: [candidate], droppedCount: 3, open: { ...candidate, at: 9 } },
      ...{ judgedFrom: 0, judgedUntil: 15 },
    };
    const slice = {
      ...{ ...row, candidates, cursor_at: 15, version: "v1", last_sample_at: 30 },
      ...{ requested_at: 3, read_until: 30, is_last: true },
    };
    const progress: ReplayProgress = {
      ...{ seriesId: 5, previousCursorAt: 15, requestedAt: 3, cursorAt: 30, version: "v1" },
      ...{ state: { n: 2 }, memory: null, tally, forecast: null, silentAt: 40, calibration: null },
    };
    const read = (answer: unknown) =>
      detectionStore(answeringDatabase(answer).database).readReplaySlice("v1");

    it("reads a slice, with the threshold of its budget", async () => {
      const { database, calls } = answeringDatabase(slice);
      expect(await detectionStore(database).readReplaySlice("v1")).toEqual({
        ...{ seriesId: 5, kind: "counter", budget: 2, state: { n: 1 }, memory: "much", tally },
        settings: {
          ...{ direction: "up", threshold: 0.475, unit: "seconds" },
          ...{ minimumChange: 0.5, minimumChangeRatio: 0.1 },
        },
        ...{ spans: [{ from: 1, until: null, label: "incident" }], deploys: [7] },
        ...{ cursorAt: 15, requestedAt: 3, readUntil: 30, isLast: true },
        samples: [{ at: 20, value: 1 }, { at: 30, value: 2 }],
      });
      expect(calls).toEqual([["read_replay_slice", { p_version: "v1" }]]);
    });

    it("reads the first slice, and that there is none", async () => {
      const first = {
        state: null,
        memory: null,
        candidates: null,
        cursor_at: null,
        version: null,
        requested_at: null,
      };
      expect(await read({ ...slice, ...first })).toMatchObject({
        ...{ state: null, memory: null, tally: NO_CANDIDATES, cursorAt: null, requestedAt: null },
      });
      expect(await read(null)).toBeNull();
    });

    it.each([{ candidates: { ended: 7 } }, { times: [20] }, { is_last: null }])(
      "names a series whose slice breaks the contract by %j",
      async (broken) => {
        expect(await read({ ...slice, ...broken })).toEqual({
          ...{ series_id: 5, error: expect.stringMatching(/./) },
        });
      },
    );

    it("refuses an answer that names no series", async () => {
      await expect(read({})).rejects.toThrow();
    });

    it("writes how far it has come", async () => {
      const { database, calls } = answeringDatabase({ outcome: "recorded" });
      expect(await detectionStore(database).recordReplaySlice(progress)).toBe("recorded");
      expect(calls).toEqual([["record_replay_slice", {
        ...{ p_series_id: 5, p_previous_cursor: 15, p_cursor: 30, p_version: "v1" },
        ...{ p_state: { n: 2 }, p_memory: null, p_candidates: candidates, p_forecast: null },
        p_requested_at: 3,
        ...{ p_silent_at: 40, p_finished: false, p_threshold: null, p_calibration: null },
      }]]);
      // What is written is what is read.
      expect(
        await read({
          ...slice,
          candidates: (calls[0]![1] as Record<string, unknown>).p_candidates,
        }),
      )
        .toMatchObject({ tally });
    });

    it("writes how it has ended", async () => {
      const { database, calls } = answeringDatabase({ outcome: "finished" });
      const calibration = calibrate({ candidates: [candidate], days: 2 / 3, budget: 1, spans: [] });
      expect(await detectionStore(database).recordReplaySlice({ ...progress, calibration })).toBe(
        "finished",
      );
      expect(calls[0]![1]).toMatchObject({
        ...{ p_finished: true, p_threshold: calibration.threshold },
        p_calibration: {
          ...{ threshold: calibration.threshold, budget: 1, days: 0.67, candidates: 1, muted: 0 },
          ...{ told: calibration.toldCount, told_per_week: calibration.toldCount, allowed: 1 },
          ...{ missed: 0, missed_told: 0, budget_exceeded: false },
        },
      });
    });

    it.each(["recorded", "finished", "moved_on", "stale"])(
      "reads that it was %s",
      async (outcome) => {
        const { database } = answeringDatabase({ outcome });
        expect(await detectionStore(database).recordReplaySlice(progress)).toBe(outcome);
      },
    );

    it("makes a value of a refusal, and throws everything else", async () => {
      const refusing = failing("refused", "23514", "violates check");
      expect(await detectionStore(refusing.database).recordReplaySlice(progress))
        .toEqual({ refused: "violates check (23514)" });
      await expect(detectionStore(failing("timed_out").database).recordReplaySlice(progress))
        .rejects.toThrow(DatabaseError);
      await expect(
        detectionStore(answeringDatabase({ outcome: "odd" }).database).recordReplaySlice(progress),
      )
        .rejects.toThrow();
    });

    it("is given up", async () => {
      const { database, calls } = answeringDatabase(null);
      await detectionStore(database).parkReplay(5, "why", 7);
      expect(calls).toEqual([
        ["park_replay", { p_series_id: 5, p_error: "why", p_requested_at: 7 }],
      ]);
    });
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
    expect(await retentionStore(answeringDatabase(["a", "b"]).database).listRetentionEntities())
      .toEqual([
        "a",
        "b",
      ]);
    const { database, calls } = answeringDatabase(step);
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
        answeringDatabase({ ...step, outcome: "odd" }).database,
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
    const { database, calls } = answeringDatabase(sampleFactsRow());
    expect(await readHealthFacts(database, 2)).toMatchObject({
      now: NOON,
      jobs: [{ job: "collect-metrics", lastState: "succeeded", lastComplete: null }],
      metrics: { newestSampleAt: sampleFacts().metrics.newestSampleAt },
    });
    expect(calls).toEqual([["read_health", {}, 2]]);
  });
});
