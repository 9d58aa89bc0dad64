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
  ANOMALY_KINDS,
  DetectionPageRow,
  DetectionSeriesRow,
  PAGE_SAMPLES_LIMIT,
  parseDetectionPage,
  parseDetectionRecord,
  parseReplayRecord,
  parseReplaySlice,
  RecordedDetections,
  RecordedReplay,
  type ReplayProgress,
  type ReplaySlice,
  ReplaySliceRow,
  SpanRow,
  toDetectionEventRow,
  toReplayArguments,
} from "../../shared/contract/detection.ts";
import { calibrate } from "../../shared/detection/calibrate.ts";
import { NO_CANDIDATES } from "../../shared/detection/collect-candidates.ts";
import type { Forecast } from "../../shared/detection/detector.ts";
import { HealthFactsRow, parseHealthFacts } from "../../shared/contract/health-facts.ts";
import { parseJobFinish, parseJobStart } from "../../shared/contract/job-run.ts";
import {
  parseRetentionEntities,
  parseRetentionStep,
  RETENTION_OUTCOMES,
  RetentionStep,
} from "../../shared/contract/retention.ts";
import {
  CHANNEL_KINDS,
  FlushedAlerts,
  LeasedNotification,
  LeasedNotifications,
  NotificationPayload,
  RecordedDeliveries,
  ToldAlert,
  WokenDeliverer,
} from "../../shared/contract/notifications.ts";
import type { AlertInstance } from "../../shared/alerting/evaluate-rules.ts";
import { NO_DATA_POLICIES, RULE_MODES, SEVERITIES } from "../../shared/alerting/rule.ts";
import {
  AdvancedAlerts,
  AlertingRuleRow,
  AlertInstanceRow,
  parseEvaluationPlan,
  parseEvaluationRecord,
  parseRuleGroups,
  RecordedEvaluation,
  RecordingRuleRow,
  RuleGroupRow,
  RulePlaceRow,
  type RuleResult,
  RuleStateRow,
  SavedRules,
} from "../../shared/contract/rules.ts";
import { RUN_STATES } from "../../shared/contract/health-facts.ts";
import { it, type Query, rpc } from "./database.ts";
import {
  addAnomaly,
  addChannel,
  addMessage,
  addMetric,
  addRun,
  addSeries,
  DAY,
  iso,
  MINUTE,
  NOON,
  openDays,
  range,
} from "./seeds.ts";

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

describe("the contract of rules", () => {
  const RULES = [
    {
      ...{ kind: "alerting", name: "QueueDepthHigh", expr: "queue_depth > 1000" },
      ...{ for_seconds: 120, keep_firing_for_seconds: 60, labels: { team: "ops" } },
      ...{ annotations: { summary: "Much to do" }, no_data_policy: "alert", severity: "critical" },
      ...{ runbook_url: "https://runbooks.test", mode: "shadow" },
    },
    { kind: "recording", name: "job:queue_depth:sum", expr: "sum by (job) (queue_depth)" },
    {
      ...{ kind: "alerting", name: "QueueDepthOftenHigh", expr: "queue_depth > 100" },
      ...{ hold_count: 3, hold_window: 5, clear_expr: "queue_depth < 50" },
    },
  ];
  const setUp = async (query: Query) => {
    await query("delete from monitor.alert_rules");
    await query("delete from monitor.rule_groups");
    const groups = [{ name: "queue", interval_seconds: 30, rules: RULES }];
    const saved = await rpc(query, "save_rules", { p_groups: groups });
    expectExactly(SavedRules, saved);
    expect(SavedRules.parse(saved)).toMatchObject({ inserted: 3 });
  };
  const PARSED = [
    {
      ...{ kind: "alerting", name: "QueueDepthHigh", expr: "queue_depth > 1000" },
      ...{ forSeconds: 120, keepFiringForSeconds: 60, labels: { team: "ops" } },
      ...{ annotations: { summary: "Much to do" }, noDataPolicy: "alert", severity: "critical" },
      ...{ runbookUrl: "https://runbooks.test", mode: "shadow", hold: null, clearExpr: null },
    },
    {
      ...{ kind: "recording", name: "job:queue_depth:sum", expr: "sum by (job) (queue_depth)" },
      labels: {},
    },
    {
      ...{ kind: "alerting", name: "QueueDepthOftenHigh", expr: "queue_depth > 100" },
      ...{ forSeconds: 0, keepFiringForSeconds: 0, labels: {}, annotations: {} },
      ...{ noDataPolicy: "keep", severity: "warning", runbookUrl: null, mode: "live" },
      ...{ hold: { count: 3, window: 5 }, clearExpr: "queue_depth < 50" },
    },
  ];
  const NEW_STATE = {
    ...{ revision: 0, instances: [], health: "unknown", lastError: null },
    ...{ evaluatedAt: null, evaluationSeconds: null },
  };

  const INSTANCE: AlertInstance = {
    ...{ labels: { alertname: "QueueDepthHigh" }, annotations: {}, state: "firing" },
    ...{ last_value: "+Inf", active_at: iso(NOON), fired_at: iso(NOON) },
    ...{ keep_firing_since: null, last_sample_at: iso(NOON), no_data: false },
  };
  const HELD: AlertInstance = {
    ...{ ...INSTANCE, state: "pending", fired_at: null },
    recent: { evaluated_at: iso(NOON), held: "1-0" },
  };

  it("reads groups, rules and states", async ({ query }) => {
    await setUp(query);
    const [answer, ...others] = await rpc<z.infer<typeof RuleGroupRow>[]>(query, "read_rules");
    expect(others).toEqual([]);
    expectExactly(RuleGroupRow, answer);
    expectExactly(AlertingRuleRow, answer!.rules[0]);
    expectExactly(RecordingRuleRow, answer!.rules[1]);
    expectExactly(RuleStateRow, answer!.rules[0]!.state);
    expect(parseRuleGroups([answer])).toEqual([{
      name: "queue",
      intervalSeconds: 30,
      rules: PARSED.map((rule) => ({
        ...{ ruleId: expect.any(Number), rule, isEnabled: true, state: NEW_STATE },
      })),
    }]);
  });

  it("reads what is due, and what was recorded of it", async ({ query }) => {
    await setUp(query);
    const plan = async (at: number) => {
      const answer = await rpc<{ rules: unknown[] }>(query, "plan_evaluation", { p_now: iso(at) });
      for (const [index, schema] of [AlertingRuleRow, RecordingRuleRow].entries()) {
        expectExactly(schema, answer.rules[index], Object.keys(RulePlaceRow.shape));
      }
      return parseEvaluationPlan(answer);
    };
    const due = await plan(NOON);
    expect(due).toEqual(PARSED.map((rule) => ({
      ...{ ruleId: expect.any(Number), groupName: "queue", intervalSeconds: 30 },
      ...{ rule, refusal: null, isEnabled: true, state: NEW_STATE },
    })));
    const [alerting, recording, held] = due.map(({ ruleId, state }): RuleResult => ({
      ...{ rule_id: ruleId, revision: state.revision, evaluation_seconds: 0.5 },
      error: null,
    }));
    const answer = await rpc(query, "record_evaluation", {
      p_results: [
        { ...alerting, instances: [INSTANCE] },
        { ...recording, error: "1:2: no" },
        { ...held, instances: [HELD] },
      ],
      p_now: iso(NOON),
    });
    expectExactly(RecordedEvaluation, answer);
    expectExactly(AdvancedAlerts, (answer as { alerts: unknown }).alerts);
    expect(parseEvaluationRecord(answer)).toMatchObject({
      ...{ recorded: 3, failed: 1, stale: 0 },
      // Both alerts have the same labels.
      alerts: { opened: 1, reopened: 0, held: 0, resolved: 0, told: 0 },
      errors: [{ group: "queue", rule: "job:queue_depth:sum", error: "1:2: no" }],
    });
    const common = { revision: 1, evaluatedAt: NOON, evaluationSeconds: 0.5 };
    expect((await plan(NOON + MINUTE)).map(({ state }) => state)).toEqual([
      { ...common, instances: [INSTANCE], health: "ok", lastError: null },
      { ...common, instances: [], health: "err", lastError: "1:2: no" },
      { ...common, instances: [HELD], health: "ok", lastError: null },
    ]);
  });

  it("has no alerts of a state that it cannot read, which stays", async ({ query }) => {
    await setUp(query);
    await query(`update monitor.rule_states set instances = '[{"labels": {}, "state": "gone"}]'`);
    const [group] = parseRuleGroups(await rpc(query, "read_rules"));
    const unreadable = { ...NEW_STATE, instances: null };
    expect(group!.rules.map(({ state }) => state)).toEqual([unreadable, unreadable, unreadable]);

    const p_results = group!.rules.map(({ ruleId }) => ({
      ...{ rule_id: ruleId, revision: 0, error: "unreadable", evaluation_seconds: 0 },
    }));
    await rpc(query, "record_evaluation", { p_results, p_now: iso(NOON) });
    const readInstances = async () =>
      parseRuleGroups(await rpc(query, "read_rules"))[0]!.rules.map(({ state }) => state.instances);
    expect(await readInstances()).toEqual([null, null, null]);
    for (const enabled of [false, true]) {
      await query("update monitor.alert_rules set enabled = $1", [enabled]);
    }
    expect(await readInstances()).toEqual([[], [], []]);
  });

  it.each([
    [undefined, true],
    [{ evaluated_at: iso(NOON), held: "1" }, true],
    [{ evaluated_at: iso(NOON), held: "01-" }, true],
    [{ evaluated_at: iso(NOON), held: "" }, false],
    [{ evaluated_at: iso(NOON), held: "2" }, false],
    [{ evaluated_at: "noon", held: "1" }, false],
    [{ held: "1" }, false],
    ["1", false],
  ])("reads an alert whose last evaluations are %o: %s", (recent, isRead) => {
    const alert = { ...INSTANCE, ...(recent !== undefined && { recent }) };
    expect(AlertInstanceRow.safeParse(alert)).toMatchObject(
      isRead ? { success: true, data: alert } : { success: false },
    );
  });

  it.for(
    [
      ["alert_rules_no_data_policy_known", NO_DATA_POLICIES],
      ["alert_rules_severity_known", SEVERITIES],
      ["alert_rules_mode_known", RULE_MODES],
      ["rule_states_health_known", RuleStateRow.shape.health.options],
      ["alert_rules_kind_known", ["alerting", "recording"]],
    ] as const,
  )("knows the words of %s, no more, no less", async ([constraint, words], { asOwner }) => {
    expect([...words].sort()).toEqual(await readAllowed(asOwner, constraint));
  });
});

describe("the contract of detection", () => {
  const EVENT = {
    kind: "open",
    anomalyKind: "spike",
    startedAt: NOON,
    lastSeenAt: NOON,
    endedAt: null,
    endedReason: null,
    expected: 1,
    lower: 0,
    upper: 2,
    observed: 9,
    score: 0.8,
    severity: "warning",
    explanation: "9 instead of 1",
    details: {
      scaleSeconds: 0,
      perWeek: 0.1,
      comparedWith: "recent_values",
      trainingCount: 100,
      cycles: 0,
      change: 8,
      minimumChange: 0,
    },
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
      `insert into monitor.detector_states (series_id, version, state, memory, threshold, last_sample_at)
       values ($1, 'rarity-1', '{"a":[1]}', 'abc', 0.6, $2)`,
      [known, iso(NOON - 2 * MINUTE)],
    );
    await addAnomaly(query, known, { started_at: iso(NOON - 5 * MINUTE) });
    await rpc(query, "label_anomaly_span", {
      p_series_id: known,
      p_label: "missed",
      p_from: iso(NOON - 9 * MINUTE),
      p_until: iso(NOON - 8 * MINUTE),
    });
    await rpc(query, "mark_deploy", { p_label: "v2", p_at: iso(NOON - 7 * MINUTE) });
    const answer = await rpc<{ series: object[] }>(query, "read_detection_page", {
      p_now: iso(NOON),
    });
    expectExactly(DetectionPageRow, answer);
    for (const series of answer.series) expectExactly(DetectionSeriesRow, series);

    expect(parseDetectionPage(answer)).toMatchObject({
      series: [
        {
          seriesId: fresh,
          kind: "counter",
          settings: { unit: "count" },
          state: null,
          memory: null,
          stateVersion: null,
          lastSampleAt: null,
          openAnomaly: null,
          spans: [],
          deploys: [NOON - 7 * MINUTE],
          isSilent: false,
          samples: [{ at: NOON - MINUTE, value: 1 }],
        },
        {
          seriesId: known,
          kind: "gauge",
          settings: { threshold: 0.6, minimumChange: 0.5, unit: "count" },
          state: { a: [1] },
          memory: "abc",
          stateVersion: "rarity-1",
          lastSampleAt: NOON - 2 * MINUTE,
          openAnomaly: { startedAt: NOON - 5 * MINUTE },
          spans: [{ from: NOON - 9 * MINUTE, until: NOON - 8 * MINUTE, label: "missed" }],
          deploys: [NOON - 7 * MINUTE],
          isSilent: false,
          samples: [{ at: NOON - MINUTE, value: 1 / 3 }],
        },
      ],
      failed: [],
      nextSeriesId: null,
    });
  });

  it("reads a slice of a replay, and writes how far it has come and how it ends", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query, { detection_budget: 2 });
    const series = await addSeries(query, metric, [[NOON - MINUTE, 1], [NOON, 2]]);
    await query(
      `insert into monitor.detector_states (series_id, version, state, last_sample_at)
       values ($1, 'old-1', '{}', $2)`,
      [series, iso(NOON)],
    );
    await rpc(query, "label_anomaly_span", {
      ...{ p_series_id: series, p_label: "missed", p_from: iso(NOON), p_until: iso(NOON) },
    });
    await query("delete from monitor.detector_replays");
    const ask = () => rpc(query, "read_replay_slice", { p_now: iso(NOON), p_version: "old-1" });
    expect(parseReplaySlice(await ask())).toBeNull();

    await rpc(query, "request_replay", { p_series_id: series, p_reason: "test", p_now: iso(NOON) });
    const read = async () => {
      const answer = await rpc<object>(query, "read_replay_slice", {
        ...{ p_now: iso(NOON), p_version: "new-1" },
      });
      expectExactly(ReplaySliceRow, answer);
      return parseReplaySlice(answer) as ReplaySlice;
    };
    const slice = await read();
    expect(slice).toEqual({
      ...{ seriesId: series, kind: "gauge", budget: 2, state: null, memory: null },
      settings: {
        ...{ direction: "both", threshold: 0.475, unit: "count" },
        ...{ minimumChange: 1, minimumChangeRatio: 0.02 },
      },
      spans: [{ from: NOON, until: NOON, label: "missed" }],
      deploys: [],
      tally: NO_CANDIDATES,
      ...{ cursorAt: null, requestedAt: NOON, readUntil: NOON, isLast: true },
      samples: [{ at: NOON - MINUTE, value: 1 }, { at: NOON, value: 2 }],
    });

    const candidate = { at: NOON, until: NOON, score: 0.46, kind: "spike" } as const;
    const progress: ReplayProgress = {
      ...{ seriesId: series, previousCursorAt: null, requestedAt: NOON },
      ...{ cursorAt: NOON - MINUTE, version: "new-1", state: { n: 1 }, memory: "m" },
      tally: {
        ...{ ended: [candidate], droppedCount: 3, open: { ...candidate, at: NOON + 1 } },
        ...{ judgedFrom: NOON - MINUTE, judgedUntil: NOON },
      },
      ...{ forecast: null, silentAt: null, calibration: null },
    };
    const record = async (more: Partial<ReplayProgress>) => {
      const answer = await rpc(query, "record_replay_slice", {
        ...toReplayArguments({ ...progress, ...more }),
        p_now: iso(NOON),
      });
      expectExactly(RecordedReplay, answer);
      return parseReplayRecord(answer);
    };
    expect(await record({ requestedAt: NOON - 1 })).toBe("stale");
    expect(await record({})).toBe("recorded");
    expect(await record({})).toBe("stale");
    expect(await read()).toMatchObject({
      ...{ cursorAt: NOON - MINUTE, state: { n: 1 }, memory: "m", tally: progress.tally },
      ...{ samples: [{ at: NOON, value: 2 }], isLast: true },
    });

    const forecast: Forecast = {
      ...{ from: NOON, stepMs: 15 * MINUTE, expected: [1, null], lower: [0, null] },
      upper: [2, null],
    };
    const calibration = calibrate({
      ...{ candidates: [candidate], days: 1, budget: 2, spans: slice.spans },
    });
    expect(
      await record({
        ...{ previousCursorAt: NOON - MINUTE, cursorAt: NOON, forecast, calibration },
        silentAt: NOON + MINUTE,
      }),
    ).toBe("finished");
    const { rows } = await query("select * from monitor.detector_states where series_id = $1", [
      series,
    ]);
    expect(rows).toMatchObject([{
      ...{ version: "new-1", state: { n: 1 }, memory: "m", forecast },
      ...{ threshold: 0.46, calibration: { budget: 2, days: 1, told: 1, missed_told: 1 } },
      ...{ calibrated_at: new Date(NOON), silent_at: new Date(NOON + MINUTE) },
    }]);
  });

  it("parks a replay", async ({ query }) => {
    await openDays(query);
    const series = await addSeries(query, await addMetric(query), [[NOON, 2]]);
    await query(
      `insert into monitor.detector_states (series_id, version, state, last_sample_at)
       values ($1, 'new-1', '{}', $2)`,
      [series, iso(NOON)],
    );
    await rpc(query, "request_replay", { p_series_id: series, p_reason: "test" });
    await rpc(query, "park_replay", { p_series_id: series, p_error: "why" });
    const { rows } = await query(
      "select calibration from monitor.detector_states where series_id = $1",
      [
        series,
      ],
    );
    expect(rows).toEqual([{ calibration: { failed: "why" } }]);
  });

  it("gives as many samples at once as it says, and a silent series without any", async ({ query }) => {
    await openDays(query, NOON - DAY, 2);
    const metric = await addMetric(query);
    const samples = range(PAGE_SAMPLES_LIMIT + 1)
      .map((n) => [NOON - (n + 1) * 30_000, n] as const);
    await addSeries(query, metric, samples, { a: "full" });
    const silent = await addSeries(query, metric, [[NOON - 9 * MINUTE, 1]], { a: "silent" });
    await query(
      `insert into monitor.detector_states (series_id, version, state, last_sample_at, silent_at)
       values ($1, 'new-1', '{}', $2, $3)`,
      [silent, iso(NOON - 9 * MINUTE), iso(NOON - MINUTE)],
    );
    const answer = await rpc(query, "read_detection_page", { p_now: iso(NOON) });
    const { series, failed } = parseDetectionPage(answer);
    expect(failed).toEqual([]);
    expect(series.map(({ samples, isSilent }) => [samples.length, isSilent])).toEqual([
      [PAGE_SAMPLES_LIMIT, false],
      [0, true],
    ]);
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
      {
        ...EVENT,
        kind: "close",
        anomalyKind: "level_shift",
        endedAt: NOON + 1,
        endedReason: "level_shift",
      },
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
        state_version: "rarity-1",
        state: {},
        silent_at: null,
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
      kind: event.anomalyKind,
      details: event.details,
    }]);
  });

  it.for(
    [
      ["metric_definitions_kind_known", DetectionSeriesRow.shape.kind],
      ["metric_definitions_detection_direction_known", DetectionSeriesRow.shape.direction],
    ] as const,
  )("knows what %s allows", async ([constraint, schema], { asOwner }) => {
    expect([...schema.options].sort()).toEqual(await readAllowed(asOwner, constraint));
  });

  it("knows the kinds of an anomaly, no more, no less", async ({ asOwner }) => {
    expect([...ANOMALY_KINDS].sort()).toEqual(
      await readAllowed(asOwner, "anomaly_detections_kind_known"),
    );
  });

  it("knows every label that a span may have", async ({ asOwner }) => {
    const said = await readAllowed(asOwner, "anomaly_feedback_label_known");
    expect([...SpanRow.shape.label.options].sort()).toEqual(
      [...said, "maintenance", "incident"].sort(),
    );
  });
});

describe("the contract of retention", () => {
  it("reads the steps, and what each one did", async ({ query }) => {
    const entities = parseRetentionEntities(await rpc(query, "list_retention_steps"));
    expect(entities).toHaveLength(20);
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

describe("the contract of notifications", () => {
  const setUp = async (query: Query) => {
    await addChannel(query);
    await query("select monitor.save_route('all', '{ops}', p_group_wait_seconds => 0)");
    await query(
      `insert into monitor.system_alerts
         (fingerprint, name, source, severity, labels, active_at, fired_at, last_seen_at)
       values ('a', 'QueueDeep', 'rule', 'warning', '{"alertname": "QueueDeep"}', $1, $1, $1)`,
      [iso(NOON)],
    );
  };

  it("reads what was told, is due, was sent, and is to be waited for", async ({ query }) => {
    await setUp(query);
    const flushed = await rpc(query, "flush_alerts", { p_now: iso(NOON) });
    expectExactly(FlushedAlerts, flushed, ["incidents"]);
    expect(FlushedAlerts.parse(flushed)).toEqual({ told: 1 });

    const woken = await rpc(query, "wake_deliverer", { p_now: iso(NOON - MINUTE / 2) });
    expectExactly(WokenDeliverer, woken);
    expect(WokenDeliverer.parse(woken)).toEqual({ invoked: false, wait_seconds: 30 });

    const leased = await rpc(query, "lease_notifications", { p_now: iso(NOON) });
    expectExactly(LeasedNotifications, leased);
    const { notifications: [message], ...surroundings } = LeasedNotifications.parse(leased);
    expect(surroundings).toEqual({
      now: "2026-03-10T12:00:00+00:00",
      time_zone: "UTC",
      external_url: null,
    });
    expectExactly(LeasedNotification, message);
    expect(message).toMatchObject({
      ...{ channel: "ops", kind: "email", config: { to: ["ops@example.com"] }, secret: null },
      ...{ attempt: 1, may_be_repeated: false, is_test: false },
    });
    const payload = NotificationPayload.parse(message!.payload);
    expect(payload).toEqual(message!.payload); // nothing of it is unknown
    if (payload.type !== "alerts") throw new Error("the message is about something else");
    expectExactly(ToldAlert, payload.alerts[0]);

    const sent = { ...message!, outcome: "sent", provider_id: "one" };
    const recorded = await rpc(query, "record_deliveries", {
      p_results: [sent, sent],
      p_now: iso(NOON),
    });
    expectExactly(RecordedDeliveries, recorded);
    expect(RecordedDeliveries.parse(recorded)).toEqual({
      ...{ sent: 1, retried: 0, parked: 0, stale: 1 },
    });
  });

  it("knows the kinds of channels, no more, no less", async ({ asOwner }) => {
    expect([...CHANNEL_KINDS].sort()).toEqual(
      await readAllowed(asOwner, "notification_channels_kind_known"),
    );
  });

  it("knows the sources of alerts, no more, no less", async ({ asOwner }) => {
    expect([...ToldAlert.shape.source.options].sort()).toEqual(
      await readAllowed(asOwner, "system_alerts_source_known"),
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
      expectExactly(HealthFactsRow.shape.rules, answer.rules);
      const { first_failure } = answer.rules as { first_failure: unknown };
      if (first_failure !== null) {
        expectExactly(HealthFactsRow.shape.rules.shape.first_failure.unwrap(), first_failure);
      }
      expectExactly(HealthFactsRow.shape.scheduler.unwrap(), answer.scheduler);
      for (const job of Object.values(answer.jobs!)) {
        expectExactly(HealthFactsRow.shape.jobs.element, job);
      }
      const { notifications } = HealthFactsRow.shape;
      expectExactly(notifications, answer.notifications);
      const { failing_channels, canary } = answer.notifications as {
        failing_channels: unknown[];
        canary: unknown;
      };
      for (const channel of failing_channels) {
        expectExactly(notifications.shape.failing_channels.element, channel);
      }
      if (canary !== null) expectExactly(notifications.shape.canary.unwrap(), canary);
      return parseHealthFacts(answer);
    };
    expect(await facts()).toMatchObject({
      now: new Date(NOON),
      jobsEnabled: true,
      scheduler: { watchedAt: null },
      notifications: {
        ...{ isEnabled: true, routesCount: 0, channelsCount: 0, overdueSeconds: null },
        ...{ parkedCount: 0, failingChannels: [], canary: null },
      },
    });

    await openDays(query);
    await addSeries(query, await addMetric(query), [[NOON, 1]]);
    await addRun(query, { state: "failed", reason: "HTTP 401" });
    await query("update monitor.job_schedules set last_succeeded_at = $1", [iso(NOON - MINUTE)]);
    await query(
      `update monitor.rule_states set health = 'err', last_error = 'no', failing_since = $1, evaluated_at = $1,
       evaluation_seconds = 0 where rule_id = (select min(rule_id) from monitor.alert_rules where mode = 'live')`,
      [iso(NOON - 11 * MINUTE)],
    );
    await addChannel(query);
    await query("select monitor.save_route('all', '{ops}')");
    await query(
      "update monitor.notification_channels set failing_since = now(), last_error = 'no'",
    );
    await query("update monitor.settings set canary_channel = 'ops'");
    await addMessage(query, { created_at: iso(NOON - MINUTE) });
    expect(await facts()).toMatchObject({
      notifications: {
        ...{ isEnabled: true, routesCount: 1, channelsCount: 1, overdueSeconds: 60 },
        ...{ parkedCount: 0, failingChannels: [{ channel: "ops", reason: "no" }] },
        canary: { wantedSince: null, firedAt: null, arrivedAt: null },
      },
      rules: { failingCount: 1, firstFailure: { name: expect.any(String), error: "no" } },
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
