import { randomUUID } from "node:crypto";
import { describe, expect } from "vitest";
import { z } from "zod";
import {
  CollectedSamples,
  parseCollectedSamples,
  parseCollectionPlan,
  parseCollectionRecord,
  PlannedCollection,
  RecordedCollection,
} from "../../shared/contract/collection.ts";
import {
  DetectionPageRow,
  DetectionSeriesRow,
  parseDetectionPage,
  parseDetectionRecord,
  RecordedDetections,
  toDetectionEventRow,
} from "../../shared/contract/detection.ts";
import { HealthFactsRow, parseHealthFacts } from "../../shared/contract/health-facts.ts";
import { parseJobFinish, parseJobStart } from "../../shared/contract/job-run.ts";
import {
  parseRetentionEntities,
  parseRetentionStep,
  RETENTION_OUTCOMES,
  RetentionStep,
} from "../../shared/contract/retention.ts";
import { RUN_STATES } from "../../shared/contract/health-facts.ts";
import { it, type Query, rpc } from "./database.ts";
import { addAnomaly, addMetric, addRun, addSeries, iso, MINUTE, NOON, openDays } from "./seeds.ts";

/** What the database answers must be parsed, and must say nothing that the schema does not know. */
function expectExactly(schema: z.ZodObject, answer: unknown, beyond: readonly string[] = []) {
  expect(Object.keys(answer as object).sort()).toEqual(
    [...Object.keys(schema.shape), ...beyond].sort(),
  );
}

/** The values a check constraint allows for a column, as it is written in the catalog. */
async function readAllowed(asOwner: Query, constraint: string): Promise<string[]> {
  const { rows: [row] } = await asOwner<{ definition: string }>(
    "select pg_get_constraintdef(oid) as definition from pg_constraint where conname = $1 and connamespace = 'monitor'::regnamespace limit 1",
    [constraint],
  );
  return [...row!.definition.matchAll(/'([^']*)'::text/g)].map(([, value]) => value!).sort();
}

const startJob = (query: Query, run: string, more: object = {}) =>
  rpc(query, "start_job", {
    p_job: "collect-metrics",
    p_run_id: run,
    p_trigger: "manual",
    p_scheduled_at: iso(NOON),
    p_now: iso(NOON),
    ...more,
  });

describe("the contract of jobs", () => {
  it("reads every answer of start_job", async ({ query }) => {
    const [run, other] = [randomUUID(), randomUUID()];
    expect(parseJobStart(await startJob(query, run))).toEqual({
      kind: "started",
      runId: run,
      scheduledAt: new Date(NOON),
    });
    expect(parseJobStart(await startJob(query, other))).toEqual({ kind: "overlap", runId: run });
    expect(
      parseJobFinish(await rpc(query, "finish_job", { p_run_id: run, p_outcome: "succeeded" })),
    ).toBe("succeeded");
    expect(parseJobStart(await startJob(query, run))).toEqual({ kind: "finished", runId: run });
    await query("update monitor.settings set jobs_enabled = false");
    expect(parseJobStart(await startJob(query, randomUUID()))).toEqual({ kind: "disabled" });
  });

  it("knows the states of a run, no more, no less", async ({ asOwner }) => {
    expect([...RUN_STATES].sort()).toEqual(await readAllowed(asOwner, "job_runs_state_known"));
  });
});

describe("the contract of collecting", () => {
  it("reads the plan", async ({ query }) => {
    const answer = await rpc(query, "plan_collection", { p_scheduled_at: iso(NOON) });
    expectExactly(PlannedCollection, answer);
    const { collectors, skipped } = parseCollectionPlan(answer);
    expect(collectors).toContainEqual({ collector: "collect_storage", timeoutSeconds: 5 });
    expect(skipped).toContainEqual({
      collector: "collect_submissions",
      reason: expect.any(String),
    });
  });

  it("reads what every shipped collector returns", async ({ query }) => {
    const { collectors } = parseCollectionPlan(
      await rpc(query, "plan_collection", { p_scheduled_at: iso(NOON) }),
    );
    for (const { collector } of collectors) {
      const answer = await rpc(query, collector, { p_at: iso(NOON) });
      expect(CollectedSamples.parse(answer), collector).toEqual(answer);
      for (const sample of parseCollectedSamples(answer)) {
        expect(Object.keys(sample).sort()).toEqual(["labels", "metric", "value"]);
      }
    }
  });

  it("reads what was recorded, rejected samples of any shape included", async ({ query }) => {
    const run = await addRun(query, { started_at: iso(NOON), state: "running" });
    const answer = await rpc(query, "record_collection", {
      p_run_id: run,
      p_scheduled_at: iso(NOON),
      p_results: [{
        collector: "collect_storage",
        outcome: "ok",
        duration_seconds: 0.1,
        error: null,
        samples: [{ metric: "active_incidents", labels: {}, value: 1 }, { metric: 7 }, {}, null],
      }],
    });
    expectExactly(RecordedCollection, answer);
    expect(parseCollectionRecord(answer)).toMatchObject({
      inserted: 1,
      duplicates: 0,
      rejected: [{}, {}, {}],
    });
  });

  it.for(["ok", "failed", "timed_out"])(
    "may say of a collector that it was %s",
    async (outcome, { asOwner }) => {
      expect(await readAllowed(asOwner, "metric_collectors_last_outcome_known")).toContain(outcome);
    },
  );
});

describe("the contract of detection", () => {
  const EVENT = {
    kind: "open",
    startedAt: NOON,
    lastSeenAt: NOON,
    endedAt: null,
    endedReason: null,
    expected: 1,
    lower: 0,
    upper: 2,
    observed: 9,
    score: 8,
    severity: "warning",
    explanation: "9 instead of 1",
    sampleCount: 1,
  } as const;

  it("reads a page: a series the first time, and one with a state and an open anomaly", async ({ query }) => {
    await openDays(query);
    const [fresh, known] = [
      await addSeries(query, await addMetric(query, { kind: "counter" }), [[NOON - MINUTE, 1]]),
      await addSeries(query, await addMetric(query, { minimum_change: 0.5 }), [[
        NOON - MINUTE,
        1 / 3,
      ]]),
    ];
    await query(
      "insert into monitor.detector_states (series_id, version, state, last_sample_at) values ($1, 'median/1', '{\"a\":[1]}', $2)",
      [known, iso(NOON - 2 * MINUTE)],
    );
    await addAnomaly(query, known, { started_at: iso(NOON - 5 * MINUTE) });
    const answer = await rpc<{ series: object[] }>(query, "read_detection_page", {
      p_now: iso(NOON),
    });
    expectExactly(DetectionPageRow, answer);
    for (const series of answer.series) expectExactly(DetectionSeriesRow, series, ["labels"]);

    expect(parseDetectionPage(answer)).toEqual({
      series: [
        {
          seriesId: fresh,
          kind: "counter",
          settings: { direction: "both", sensitivity: "normal", minimumChange: 0, unit: "count" },
          state: null,
          stateVersion: null,
          lastSampleAt: null,
          openAnomaly: null,
          samples: [{ at: NOON - MINUTE, value: 1 }],
        },
        {
          seriesId: known,
          kind: "gauge",
          settings: { direction: "both", sensitivity: "normal", minimumChange: 0.5, unit: "count" },
          state: { a: [1] },
          stateVersion: "median/1",
          lastSampleAt: NOON - 2 * MINUTE,
          openAnomaly: { startedAt: NOON - 5 * MINUTE },
          samples: [{ at: NOON - MINUTE, value: 1 / 3 }],
        },
      ],
      failed: [],
      nextSeriesId: null,
    });
  });

  it.for(
    [
      { ...EVENT, kind: "open" },
      { ...EVENT, kind: "extend", severity: "info" },
      {
        ...EVENT,
        kind: "close",
        endedAt: NOON + 1,
        endedReason: "recovered",
        severity: "critical",
      },
      { ...EVENT, kind: "close", endedAt: NOON + 1, endedReason: "level_shift" },
    ] as const,
  )("writes an event as the database takes it: $kind", async (event, { query }) => {
    await openDays(query);
    const series = await addSeries(query, await addMetric(query), [[NOON, 9]]);
    const answer = await rpc(query, "record_detections", {
      p_run_id: randomUUID(),
      p_updates: [{
        series_id: series,
        previous_sample_at: null,
        last_sample_at: NOON,
        state_version: "median/1",
        state: {},
        events: [toDetectionEventRow(event)],
      }],
      p_now: iso(NOON),
    });
    expectExactly(RecordedDetections, answer);
    expect(parseDetectionRecord(answer)).toMatchObject({ opened: 1, stale: 0 });
    const { rows } = await query("select * from monitor.anomaly_detections");
    expect(rows).toMatchObject([{
      started_at: new Date(event.startedAt),
      last_seen_at: new Date(event.lastSeenAt),
      ended_at: event.endedAt === null ? null : new Date(event.endedAt),
      ended_reason: event.endedReason,
      severity: event.severity,
      sample_count: 1,
    }]);
  });

  it.for(
    [
      ["metric_definitions_kind_known", DetectionSeriesRow.shape.kind],
      ["metric_definitions_detection_direction_known", DetectionSeriesRow.shape.direction],
      ["metric_definitions_detection_sensitivity_known", DetectionSeriesRow.shape.sensitivity],
    ] as const,
  )("knows what %s allows", async ([constraint, schema], { asOwner }) => {
    expect([...schema.options].sort()).toEqual(await readAllowed(asOwner, constraint));
  });
});

describe("the contract of retention", () => {
  it("reads the steps, and what each one did", async ({ query }) => {
    const entities = parseRetentionEntities(await rpc(query, "list_retention_steps"));
    expect(entities).toHaveLength(14);
    for (const entity of entities) {
      for (const p_dry_run of [true, false]) {
        const answer = await rpc(query, "run_retention_step", {
          p_entity: entity,
          p_dry_run,
          p_now: iso(NOON),
        });
        expectExactly(RetentionStep, answer);
        expect(parseRetentionStep(answer)).toEqual(answer);
      }
    }
  });

  it("reads one that failed and one that is missing", async ({ query, asSuperuser }) => {
    await asSuperuser("drop extension pg_cron");
    const missing = await rpc(query, "run_retention_step", { p_entity: "cron.job_run_details" });
    expect(parseRetentionStep(missing)).toMatchObject({ outcome: "missing", counts: {} });
    expectExactly(RetentionStep, missing);
    await asSuperuser("alter table monitor.incidents rename column resolved_at to solved_at");
    const failed = await rpc(query, "run_retention_step", { p_entity: "incidents" });
    expect(parseRetentionStep(failed)).toMatchObject({
      outcome: "failed",
      detail: expect.stringContaining("42703"),
    });
    expectExactly(RetentionStep, failed);
  });

  it("knows the outcomes, no more, no less", async ({ asOwner }) => {
    expect([...RETENTION_OUTCOMES].sort()).toEqual(
      await readAllowed(asOwner, "retention_runs_outcome_known"),
    );
  });
});

describe("the contract of health", () => {
  it("reads the facts of a new project and of one that has worked", async ({ query }) => {
    const facts = async () => {
      const answer = await rpc<Record<string, object>>(query, "read_health", { p_now: iso(NOON) });
      expectExactly(HealthFactsRow, answer);
      expectExactly(HealthFactsRow.shape.metrics, answer.metrics);
      expectExactly(HealthFactsRow.shape.storage, answer.storage);
      expectExactly(HealthFactsRow.shape.scheduler.unwrap(), answer.scheduler);
      for (const job of Object.values(answer.jobs!)) {
        expectExactly(HealthFactsRow.shape.jobs.element, job);
      }
      return parseHealthFacts(answer);
    };
    expect(await facts()).toMatchObject({
      now: new Date(NOON),
      jobsEnabled: true,
      scheduler: { watchedAt: null },
    });

    await openDays(query);
    await addSeries(query, await addMetric(query), [[NOON, 1]]);
    await addRun(query, { state: "failed", reason: "HTTP 401" });
    await query("update monitor.job_schedules set last_succeeded_at = $1", [iso(NOON - MINUTE)]);
    expect(await facts()).toMatchObject({
      scheduler: { watchedAt: new Date(NOON - MINUTE), isInstalled: true },
      metrics: { newestSampleAt: new Date(NOON) },
      jobs: [
        {
          job: "collect-metrics",
          lastState: "failed",
          lastReason: "HTTP 401",
          lastRunAt: new Date(NOON),
        },
        {},
        {},
      ],
    });
  });

  it.for(RUN_STATES)("reads a last run that was %s", async (state, { query }) => {
    await addRun(query, { state, ...(state === "missed" && { missed_count: 1 }) });
    const facts = parseHealthFacts(await rpc(query, "read_health", { p_now: iso(NOON) }));
    expect(facts.jobs[0]!.lastState).toBe(["queued", "running"].includes(state) ? null : state);
  });
});
