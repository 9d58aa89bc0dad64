import type { RuleGroup } from "../../../shared/alerting/rule.ts";
import { type SaveOptions, toSaveArguments } from "../../../shared/alerting/saved-rules.ts";
import { type AccessToken, parseAccessToken } from "../../../shared/contract/access-token.ts";
import {
  type CollectionPlan,
  type CollectionRecord,
  type CollectorResult,
  parseCollectedSamples,
  parseCollectionPlan,
  parseCollectionRecord,
} from "../../../shared/contract/collection.ts";
import {
  type DetectionPage,
  type DetectionRecord,
  type DetectionUpdate,
  type FailedReplay,
  parseDetectionPage,
  parseDetectionRecord,
  parseReplayRecord,
  parseReplaySlice,
  type ReplayProgress,
  type ReplaySlice,
  toReplayArguments,
} from "../../../shared/contract/detection.ts";
import { type HealthFacts, parseHealthFacts } from "../../../shared/contract/health-facts.ts";
import { IngestionResult, type SampleBatch } from "../../../shared/contract/ingestion.ts";
import {
  type ChannelKind,
  type DeliveryResult,
  FlushedAlerts,
  LeasedNotifications,
  RecordedDeliveries,
  WokenDeliverer,
} from "../../../shared/contract/notifications.ts";
import {
  type EvaluationRecord,
  type JudgedComponent,
  parseEvaluationPlan,
  parseEvaluationRecord,
  type PlannedRule,
  type RuleResult,
  SavedRules,
} from "../../../shared/contract/rules.ts";
import { splitBatch } from "../../../shared/ingest/split-batch.ts";
import { type JobStart, parseJobFinish, parseJobStart } from "../../../shared/contract/job-run.ts";
import {
  parseRetentionEntities,
  parseRetentionStep,
  type RetentionStep,
} from "../../../shared/contract/retention.ts";
import { type Database, DatabaseError } from "./database.ts";
import { summarizeError } from "./redact.ts";

/**
 * Time-outs of the calls around a collection. With 7.5 s for the slowest collector they make 20 s: pg_net
 * sends nothing new until every call of a batch has ended.
 */
export const TIMEOUT_SECONDS = { start: 3, plan: 2, record: 3.5, finish: 4 } as const;

/** The lease of a job and the record of its runs. */
export interface JobStore {
  start(
    job: string,
    runId: string,
    trigger: "cron" | "manual",
    scheduledAt: Date,
  ): Promise<JobStart>;
  /** @throws if the run cannot be finished: it then counts as failed, whatever it did. */
  finish(
    runId: string,
    outcome: "succeeded" | "failed",
    result: object | null,
    error: string | null,
  ): Promise<void>;
}

export function jobStore(database: Database): JobStore {
  return {
    start: (job, runId, trigger, scheduledAt) =>
      database.call(
        "start_job",
        {
          p_job: job,
          p_run_id: runId,
          p_trigger: trigger,
          p_scheduled_at: scheduledAt.toISOString(),
        },
        parseJobStart,
        TIMEOUT_SECONDS.start,
      ),
    finish: async (runId, outcome, result, error) => {
      await database.call(
        "finish_job",
        {
          p_run_id: runId,
          p_outcome: outcome,
          p_result: result,
          p_error: error,
        },
        parseJobFinish,
        TIMEOUT_SECONDS.finish,
      );
    },
  };
}

/** What a collector came back with. Failing is expected of some, so it is a value. */
export type Collected = Pick<CollectorResult, "outcome" | "error" | "samples">;

/** Collectors, and where their samples go. */
export interface CollectionStore {
  planCollection(scheduledAt: Date): Promise<CollectionPlan>;
  /** Calls one collector; never throws. */
  collect(collector: string, at: Date, timeoutSeconds: number): Promise<Collected>;
  recordCollection(
    runId: string,
    scheduledAt: Date,
    results: readonly CollectorResult[],
  ): Promise<CollectionRecord>;
}

export function collectionStore(database: Database): CollectionStore {
  return {
    planCollection: (scheduledAt) =>
      database.call(
        "plan_collection",
        { p_scheduled_at: scheduledAt.toISOString() },
        parseCollectionPlan,
        TIMEOUT_SECONDS.plan,
      ),
    collect: async (collector, at, timeoutSeconds) => {
      try {
        const samples = await database.call(
          collector,
          { p_at: at.toISOString() },
          parseCollectedSamples,
          timeoutSeconds,
        );
        return { outcome: "ok", error: null, samples };
      } catch (error) {
        const isLate = error instanceof DatabaseError && error.kind === "timed_out";
        return {
          outcome: isLate ? "timed_out" : "failed",
          error: describeFailure(error),
          samples: [],
        };
      }
    },
    recordCollection: (runId, scheduledAt, results) =>
      database.call(
        "record_collection",
        {
          p_run_id: runId,
          p_scheduled_at: scheduledAt.toISOString(),
          p_results: results,
        },
        parseCollectionRecord,
        TIMEOUT_SECONDS.record,
      ),
  };
}

/** Series with new samples or without those that should have come, and where the detector's word goes. */
export interface DetectionStore extends ReplayStore {
  /** After null it only says where the last run stopped; a limit of 0 only names the next series. */
  readDetectionPage(afterSeriesId: number | null, limit: number): Promise<DetectionPage>;
  /** All or nothing. A refusal that is about the updates themselves is a value. */
  recordDetections(
    runId: string,
    updates: readonly DetectionUpdate[],
  ): Promise<DetectionRecord | { readonly refused: string }>;
}

/** Histories that are to be judged again, and how far that has come. */
export interface ReplayStore {
  /**
   * For a detector version, of the series that has waited longest; null when there is none. What another
   * version began is begun anew. A series that breaks the contract is named.
   */
  readReplaySlice(version: string): Promise<ReplaySlice | FailedReplay | null>;
  /** On top of what was read only: `stale` if that has changed. A refusal about the progress itself is a value. */
  recordReplaySlice(
    progress: ReplayProgress,
  ): Promise<ReturnType<typeof parseReplayRecord> | { readonly refused: string }>;
  /** Gives the replay of a series up until the next reason for one; one asked for since then is kept. */
  parkReplay(seriesId: number, error: string, requestedAt: number | null): Promise<void>;
}

export function detectionStore(database: Database): DetectionStore {
  return {
    ...replayStore(database),
    readDetectionPage: (afterSeriesId, limit) =>
      database.call(
        "read_detection_page",
        { p_after_series_id: afterSeriesId, p_limit: limit },
        parseDetectionPage,
      ),
    recordDetections: async (runId, updates) => {
      try {
        return await database.call(
          "record_detections",
          { p_run_id: runId, p_updates: updates },
          parseDetectionRecord,
        );
      } catch (error) {
        if (!(error instanceof DatabaseError) || error.kind !== "refused") throw error;
        return { refused: describeFailure(error) };
      }
    },
  };
}

function replayStore(database: Database): ReplayStore {
  return {
    readReplaySlice: (version) =>
      database.call("read_replay_slice", { p_version: version }, parseReplaySlice),
    recordReplaySlice: async (progress) => {
      try {
        const args = toReplayArguments(progress);
        return await database.call("record_replay_slice", args, parseReplayRecord);
      } catch (error) {
        if (!(error instanceof DatabaseError) || error.kind !== "refused") throw error;
        return { refused: describeFailure(error) };
      }
    },
    parkReplay: async (seriesId, error, requestedAt) => {
      const args = { p_series_id: seriesId, p_error: error, p_requested_at: requestedAt };
      await database.call("park_replay", args, (answer) => answer);
    },
  };
}

/** Rules that are due, and where the word of their evaluation goes. */
export interface EvaluationStore {
  /** What health is judged from, for alerts about the monitor itself. @throws {DatabaseError} */
  readHealthFacts(timeoutSeconds: number): Promise<HealthFacts>;
  planEvaluation(scheduledAt: Date): Promise<PlannedRule[]>;
  /** All or nothing, but for results on top of a state that has moved on. */
  recordEvaluation(
    scheduledAt: Date,
    results: readonly RuleResult[],
    components: readonly JudgedComponent[] | null,
  ): Promise<EvaluationRecord>;
}

export function evaluationStore(database: Database): EvaluationStore {
  return {
    readHealthFacts: (timeoutSeconds) => readHealthFacts(database, timeoutSeconds),
    planEvaluation: (scheduledAt) =>
      database.call(
        "plan_evaluation",
        { p_now: scheduledAt.toISOString() },
        parseEvaluationPlan,
      ),
    recordEvaluation: (scheduledAt, results, components) =>
      database.call(
        "record_evaluation",
        { p_results: results, p_now: scheduledAt.toISOString(), p_components: components },
        parseEvaluationRecord,
      ),
  };
}

/** Messages that are to be sent, and what comes of them. */
export interface NotificationStore {
  /** Writes the messages of groups of alerts that are due. Returns how many. */
  flushAlerts(): Promise<number>;
  /** At most `limit` of what is due, oldest first, for this caller to send until the lease of each ends. */
  leaseNotifications(kinds: readonly ChannelKind[], limit: number): Promise<LeasedNotifications>;
  recordDeliveries(results: readonly DeliveryResult[]): Promise<RecordedDeliveries>;
  /** Has the job called if something is due. */
  wakeDeliverer(): Promise<WokenDeliverer>;
}

export function notificationStore(database: Database): NotificationStore {
  return {
    flushAlerts: () =>
      database.call("flush_alerts", {}, (answer) => FlushedAlerts.parse(answer).told),
    leaseNotifications: (kinds, limit) =>
      database.call(
        "lease_notifications",
        { p_kinds: kinds, p_limit: limit },
        (answer) => LeasedNotifications.parse(answer),
      ),
    recordDeliveries: (results) =>
      database.call(
        "record_deliveries",
        { p_results: results },
        (answer) => RecordedDeliveries.parse(answer),
      ),
    wakeDeliverer: () =>
      database.call("wake_deliverer", {}, (answer) => WokenDeliverer.parse(answer)),
  };
}

/** Where rules are kept. */
export interface RuleStore {
  /** All or nothing. A refusal that is about the rules themselves is a value. */
  saveRules(
    groups: readonly RuleGroup[],
    options: SaveOptions,
  ): Promise<SavedRules | { readonly refused: string }>;
}

export function ruleStore(database: Database): RuleStore {
  return {
    saveRules: async (groups, options) => {
      try {
        return await database.call(
          "save_rules",
          toSaveArguments(groups, options),
          (answer) => SavedRules.parse(answer),
        );
      } catch (error) {
        if (!(error instanceof DatabaseError) || error.kind !== "refused") throw error;
        return { refused: error.reason };
      }
    },
  };
}

/** What is kept how long, one bounded step at a time. */
export interface RetentionStore {
  listRetentionEntities(): Promise<string[]>;
  /** One step of one entity; never throws, so that no entity keeps the others from their turn. */
  runRetentionStep(
    entity: string,
    runId: string | null,
    isDryRun: boolean,
  ): Promise<RetentionStep>;
}

export function retentionStore(database: Database): RetentionStore {
  return {
    listRetentionEntities: () => database.call("list_retention_steps", {}, parseRetentionEntities),
    runRetentionStep: async (entity, runId, isDryRun) => {
      try {
        return await database.call(
          "run_retention_step",
          { p_entity: entity, p_run_id: runId, p_dry_run: isDryRun },
          parseRetentionStep,
        );
      } catch (error) {
        return {
          entity,
          outcome: "failed",
          counts: {},
          oldest_kept_at: null,
          duration_seconds: 0,
          more: false,
          detail: describeFailure(error),
        };
      }
    },
  };
}

/** Where samples go that others send. */
export interface IngestionStore {
  /**
   * {@link CALL_SAMPLES_LIMIT} in a transaction, none begun after {@link INGESTION_SECONDS}. What was stored before one
   * of them failed stays: sending all again is right, and those are duplicates then.
   *
   * @throws {DatabaseError} `timed_out` too when the time is spent and not all is stored
   */
  ingestSamples(batch: SampleBatch): Promise<IngestionResult>;
}

/** Most samples of one call: they take some tenths of the 8 s that it may. */
export const CALL_SAMPLES_LIMIT = 20_000;

/** How long the calls for one batch may take together: whoever sent it waits no longer, and would send it again. */
export const INGESTION_SECONDS = 20;

/** Samples of closed days: of more chunks than one call has the time to look into. Nothing was stored. */
function isTooLateAtOnce(error: unknown): boolean {
  // No SQLSTATE comes through from the local API, only the server's words.
  return error instanceof DatabaseError &&
    (error.code === "54000" || error.reason.includes("pairs of a series and a day"));
}

export function ingestionStore(database: Database, now: () => Date): IngestionStore {
  return {
    ingestSamples: async (batch) => {
      const results: IngestionResult[] = [];
      const endsAt = now().getTime() + INGESTION_SECONDS * 1000;
      // One after another: of a series, increments have to come in the order of their times.
      const store = async (part: SampleBatch): Promise<void> => {
        if (results.length > 0 && now().getTime() >= endsAt) {
          const reason = `not all stored within ${INGESTION_SECONDS} s`;
          throw new DatabaseError("ingest_samples", "timed_out", "", reason);
        }
        const { series, positions, times, values } = part;
        try {
          results.push(
            await database.call(
              "ingest_samples",
              { p_series: series, p_positions: positions, p_times: times, p_values: values },
              (answer) => IngestionResult.parse(answer),
            ),
          );
        } catch (error) {
          if (values.length === 1 || !isTooLateAtOnce(error)) throw error;
          for (const half of splitBatch(part, Math.ceil(values.length / 2))) await store(half);
        }
      };
      for (const part of splitBatch(batch, CALL_SAMPLES_LIMIT)) await store(part);
      const total = (of: (result: IngestionResult) => number) =>
        results.reduce((sum, result) => sum + of(result), 0);
      return {
        inserted: total(({ inserted }) => inserted),
        duplicates: total(({ duplicates }) => duplicates),
        overflowed: total(({ overflowed }) => overflowed),
        rejected: results.flatMap(({ rejected }) => rejected),
      };
    },
  };
}

const CHECK_TOKEN_TIMEOUT_SECONDS = 5;

/** Whose the access token of this SHA-256 is, null when it is nobody's (any more). @throws {DatabaseError} */
export function checkAccessToken(database: Database, hash: string): Promise<AccessToken | null> {
  return database.call(
    "check_access_token",
    { p_token_hash: hash },
    parseAccessToken,
    CHECK_TOKEN_TIMEOUT_SECONDS,
  );
}

/** Reads the facts that health is judged from. @throws {DatabaseError} */
export function readHealthFacts(database: Database, timeoutSeconds: number): Promise<HealthFacts> {
  return database.call("read_health", {}, parseHealthFacts, timeoutSeconds);
}

/** A failure in words that may be recorded and shown to those who may know. */
function describeFailure(error: unknown): string {
  if (!(error instanceof DatabaseError)) return summarizeError(error);
  return error.code === "" ? error.reason : `${error.reason} (${error.code})`;
}
