import { z } from "zod";
import { type Calibration, thresholdOfBudget } from "../detection/calibrate.ts";
import { type CandidateTally, NO_CANDIDATES } from "../detection/collect-candidates.ts";
import type {
  AnomalyDetails,
  AnomalyKind,
  DetectionEvent,
  DetectionSettings,
  Forecast,
  LabelledSpan,
  OpenAnomaly,
  Sample,
} from "../detection/detector.ts";
import { inferSettings } from "../detection/infer-settings.ts";

/** Samples of one series that a page holds at most: with as many, there may be more to come. */
export const PAGE_SAMPLES_LIMIT = 1500;

/** A {@link LabelledSpan}, spelled the same. */
export const SpanRow = z.object({
  from: z.number(),
  until: z.number().nullable(),
  label: z.enum(["expected", "maintenance", "incident", "false_positive", "missed"]),
});

/** What is the same for a series to judge and for one to replay. Times are ms since 1970 UTC. */
const SeriesRow = z.object({
  series_id: z.int(),
  metric: z.string(),
  labels: z.record(z.string(), z.string()),
  unit: z.string(),
  kind: z.enum(["gauge", "counter"]),
  direction: z.enum(["auto", "both", "up", "down"]),
  /** Anomalies told a week. */
  budget: z.number().positive(),
  /** Null: to be inferred. */
  minimum_change: z.number().nonnegative().nullable(),
  minimum_change_ratio: z.number().nonnegative().nullable(),
  spans: z.array(SpanRow).default([]),
  deploys: z.array(z.number()).default([]),
  state: z.unknown(),
  memory: z.string().nullable(),
  times: z.array(z.number()),
  values: z.array(z.number()),
});

/** One series of the answer of `monitor.read_detection_page`. */
export const DetectionSeriesRow = SeriesRow.extend({
  /** Null: that of the budget. */
  threshold: z.number().nullable(),
  state_version: z.string().nullable(),
  last_sample_at: z.number().nullable(),
  open_anomaly: z.object({ started_at: z.number() }).nullable(),
  /** Due because samples have not come, not because some have. */
  silent: z.boolean(),
});

/** What `monitor.read_detection_page` answers. */
export const DetectionPageRow = z.object({
  series: z.array(z.unknown()),
  next_series_id: z.int().nullable(),
});

/** A series with what the detector needs to judge its new samples. */
export interface DetectionSeries {
  readonly seriesId: number;
  readonly kind: "gauge" | "counter";
  readonly settings: DetectionSettings;
  /** What the detector saved; null before its first time. */
  readonly state: unknown;
  readonly memory: string | null;
  /** The detector version that saved them. */
  readonly stateVersion: string | null;
  /** The newest sample already judged, in ms; null before the first time. */
  readonly lastSampleAt: number | null;
  readonly openAnomaly: OpenAnomaly | null;
  readonly spans: readonly LabelledSpan[];
  /** In ms. */
  readonly deploys: readonly number[];
  /** Due because samples have not come: there may be none then. */
  readonly isSilent: boolean;
  /** Ascending, all newer than `lastSampleAt`; at most {@link PAGE_SAMPLES_LIMIT}, oldest first. */
  readonly samples: readonly Sample[];
}

/** A series that could not be worked on, and why. */
export interface FailedSeries {
  readonly series_id: number | null;
  readonly error: string;
}

/** A series that cannot be replayed, and why. */
export interface FailedReplay extends FailedSeries {
  readonly series_id: number;
}

/** A page of series. One that breaks the contract is named among `failed` and costs the others nothing. */
export interface DetectionPage {
  readonly series: readonly DetectionSeries[];
  readonly failed: readonly FailedSeries[];
  /** Where the next page starts; null on the last one. */
  readonly nextSeriesId: number | null;
}

/** Parses the answer of `monitor.read_detection_page`. @throws {z.ZodError} if it is no page at all. */
export function parseDetectionPage(answer: unknown): DetectionPage {
  const { series: rows, next_series_id } = DetectionPageRow.parse(answer);
  const series: DetectionSeries[] = [];
  const failed: FailedSeries[] = [];
  for (const row of rows) {
    const parsed = DetectionSeriesRow.safeParse(row);
    if (!parsed.success) {
      failed.push({ series_id: readSeriesId(row), error: z.prettifyError(parsed.error) });
    } else if (parsed.data.times.length !== parsed.data.values.length) {
      failed.push({ series_id: parsed.data.series_id, error: UNEVEN });
    } else {
      series.push(toDetectionSeries(parsed.data));
    }
  }
  return { series, failed, nextSeriesId: next_series_id };
}

const UNEVEN = "times and values differ in number";

function readSeriesId(row: unknown): number | null {
  return z.object({ series_id: z.int() }).safeParse(row).data?.series_id ?? null;
}

function toDetectionSeries(row: z.infer<typeof DetectionSeriesRow>): DetectionSeries {
  return {
    seriesId: row.series_id,
    kind: row.kind,
    settings: toSettings(row, row.threshold ?? thresholdOfBudget(row.budget)),
    state: row.state ?? null,
    memory: row.memory,
    stateVersion: row.state_version,
    lastSampleAt: row.last_sample_at,
    openAnomaly: row.open_anomaly && { startedAt: row.open_anomaly.started_at },
    spans: row.spans,
    deploys: row.deploys,
    isSilent: row.silent,
    samples: toSamples(row),
  };
}

function toSettings(row: z.infer<typeof SeriesRow>, threshold: number): DetectionSettings {
  const given = {
    direction: row.direction,
    minimumChange: row.minimum_change,
    minimumChangeRatio: row.minimum_change_ratio,
  };
  return { ...inferSettings(given, row), threshold, unit: row.unit };
}

function toSamples({ times, values }: z.infer<typeof SeriesRow>): Sample[] {
  return times.map((at, index) => ({ at, value: values[index]! }));
}

/** What the detector says of one series, as `monitor.record_detections` wants it. Part of `p_updates`. */
export interface DetectionUpdate {
  readonly series_id: number;
  /** `lastSampleAt` as it was read: the update is refused if the state has moved on since. */
  readonly previous_sample_at: number | null;
  /** The same again where nothing but time has passed. */
  readonly last_sample_at: number;
  readonly state_version: string;
  readonly state: unknown;
  /** Left out while unchanged: what is not written costs nothing. */
  readonly memory?: string | null;
  readonly forecast?: Forecast;
  /** From when on silence is an anomaly, in ms; null if it never is. */
  readonly silent_at: number | null;
  /** Version that shall take over from `state_version` by a replay. */
  readonly replay_version?: string;
  readonly events: readonly DetectionEventRow[];
}

/** A {@link DetectionEvent} in wire spelling. */
export interface DetectionEventRow {
  readonly kind: DetectionEvent["kind"];
  readonly anomaly_kind: DetectionEvent["anomalyKind"];
  readonly started_at: number;
  readonly last_seen_at: number;
  readonly ended_at: number | null;
  readonly ended_reason: DetectionEvent["endedReason"];
  readonly expected: number;
  readonly lower: number;
  readonly upper: number;
  readonly observed: number;
  readonly score: number;
  readonly severity: DetectionEvent["severity"];
  readonly explanation: string;
  /** As it is: the database keeps it without reading it. */
  readonly details: AnomalyDetails;
  readonly sample_count: number;
}

/** Spells an event as it goes over the wire. */
export function toDetectionEventRow(event: DetectionEvent): DetectionEventRow {
  const { anomalyKind, startedAt, lastSeenAt, endedAt, endedReason, sampleCount, ...same } = event;
  return {
    ...same,
    anomaly_kind: anomalyKind,
    started_at: startedAt,
    last_seen_at: lastSeenAt,
    ended_at: endedAt,
    ended_reason: endedReason,
    sample_count: sampleCount,
  };
}

/** What `monitor.record_detections` answers. */
export const RecordedDetections = z.object({
  opened: z.int().nonnegative(),
  extended: z.int().nonnegative(),
  closed: z.int().nonnegative(),
  stale: z.int().nonnegative(),
});

/** Anomalies opened, extended and closed; `stale` series were left alone, for another run came first. */
export type DetectionRecord = z.infer<typeof RecordedDetections>;

/** Parses the answer of `monitor.record_detections`. @throws {z.ZodError} */
export function parseDetectionRecord(answer: unknown): DetectionRecord {
  return RecordedDetections.parse(answer);
}

/** Every {@link AnomalyKind}. */
export const ANOMALY_KINDS = [
  "spike",
  "drop",
  "level_shift",
  "trend",
  "variance",
  "shape",
  "flat_line",
  "drop_to_zero",
  "late",
  "missing",
  "counter_stopped",
] as const satisfies readonly AnomalyKind[];

const CandidateRow = z.object({
  at: z.number(),
  until: z.number(),
  score: z.number(),
  kind: z.enum(ANOMALY_KINDS),
});

/** A {@link CandidateTally} in wire spelling. Ours alone: the database keeps it as it comes. */
export const CandidateTallyRow = z.object({
  ended: z.array(CandidateRow),
  dropped_count: z.int().nonnegative(),
  open: CandidateRow.nullable(),
  judged_from: z.number().nullable(),
  judged_until: z.number().nullable(),
});

/** What `monitor.read_replay_slice` answers when there is something to replay. */
export const ReplaySliceRow = SeriesRow.extend({
  candidates: CandidateTallyRow.nullable(),
  /** The newest sample already replayed, and the version it was by: the one that asks. Null at the beginning. */
  cursor_at: z.number().nullable(),
  version: z.string().nullable(),
  /** Null: nobody asked, but it was due. */
  requested_at: z.number().nullable(),
  /** The newest sample that was judged live: a replay ends there. */
  last_sample_at: z.number(),
  /** Up to where samples were looked for. */
  read_until: z.number(),
  /** No samples after these, up to `last_sample_at`. */
  is_last: z.boolean(),
});

/** A stretch of the history of a series, with what a detector needs to go on from where it was. */
export interface ReplaySlice {
  readonly seriesId: number;
  readonly kind: "gauge" | "counter";
  /** With the threshold that its budget has where nothing is known. */
  readonly settings: DetectionSettings;
  readonly budget: number;
  /** Of the whole history. */
  readonly spans: readonly LabelledSpan[];
  readonly deploys: readonly number[];
  readonly state: unknown;
  readonly memory: string | null;
  readonly tally: CandidateTally;
  /** The newest sample already replayed, in ms; null at the beginning. */
  readonly cursorAt: number | null;
  /** Which request it is for, in ms; null if nobody asked. */
  readonly requestedAt: number | null;
  /** Ascending, all newer than `cursorAt`. */
  readonly samples: readonly Sample[];
  /** Up to where samples were looked for, in ms. */
  readonly readUntil: number;
  readonly isLast: boolean;
}

/** Parses the answer of `monitor.read_replay_slice`. Null when nothing is to be replayed. @throws {z.ZodError} */
export function parseReplaySlice(answer: unknown): ReplaySlice | FailedReplay | null {
  if (answer === null) return null;
  const { series_id } = z.object({ series_id: z.int() }).parse(answer);
  const parsed = ReplaySliceRow.safeParse(answer);
  if (!parsed.success) return { series_id, error: z.prettifyError(parsed.error) };
  if (parsed.data.times.length !== parsed.data.values.length) return { series_id, error: UNEVEN };
  const row = parsed.data;
  return {
    seriesId: row.series_id,
    kind: row.kind,
    settings: toSettings(row, thresholdOfBudget(row.budget)),
    budget: row.budget,
    spans: row.spans,
    deploys: row.deploys,
    state: row.state ?? null,
    memory: row.memory,
    tally: row.candidates === null ? NO_CANDIDATES : {
      ended: row.candidates.ended,
      droppedCount: row.candidates.dropped_count,
      open: row.candidates.open,
      judgedFrom: row.candidates.judged_from,
      judgedUntil: row.candidates.judged_until,
    },
    cursorAt: row.cursor_at,
    requestedAt: row.requested_at,
    samples: toSamples(row),
    readUntil: row.read_until,
    isLast: row.is_last,
  };
}

/** How far a replay has come: where a slice of it stopped. */
export interface ReplayProgress {
  readonly seriesId: number;
  /** `cursorAt` and `requestedAt` as they were read: nothing is stored if they are others by now. */
  readonly previousCursorAt: number | null;
  readonly requestedAt: number | null;
  readonly cursorAt: number;
  readonly version: string;
  readonly state: unknown;
  readonly memory: string | null;
  readonly tally: CandidateTally;
  /** Null if it was not made anew. */
  readonly forecast: Forecast | null;
  readonly silentAt: number | null;
  /** What the whole replay has come to; null while there is more to replay. */
  readonly calibration: Calibration | null;
}

/** Arguments of `monitor.record_replay_slice`. */
export function toReplayArguments(progress: ReplayProgress): Record<string, unknown> {
  const { tally, calibration } = progress;
  return {
    p_series_id: progress.seriesId,
    p_requested_at: progress.requestedAt,
    p_previous_cursor: progress.previousCursorAt,
    p_cursor: progress.cursorAt,
    p_version: progress.version,
    p_state: progress.state,
    p_memory: progress.memory,
    p_candidates: {
      ended: tally.ended,
      dropped_count: tally.droppedCount,
      open: tally.open,
      judged_from: tally.judgedFrom,
      judged_until: tally.judgedUntil,
    },
    p_forecast: progress.forecast,
    p_silent_at: progress.silentAt,
    p_finished: calibration !== null,
    p_threshold: calibration?.threshold ?? null,
    p_calibration: calibration && toCalibrationRow(calibration),
  };
}

function toCalibrationRow(calibration: Calibration) {
  return {
    threshold: calibration.threshold,
    budget: calibration.budget,
    days: Math.round(calibration.days * 100) / 100,
    candidates: calibration.candidateCount,
    muted: calibration.mutedCount,
    told: calibration.toldCount,
    told_per_week: Math.round(calibration.toldPerWeek * 100) / 100,
    allowed: calibration.allowedCount,
    missed: calibration.missedToldCount + calibration.missedUntoldCount,
    missed_told: calibration.missedToldCount,
    budget_exceeded: calibration.isBudgetExceeded,
  };
}

/** What `monitor.record_replay_slice` answers. */
export const RecordedReplay = z.object({
  /**
   * `finished`: it has taken over. `moved_on`: stored, but live samples were judged meanwhile; it goes on.
   * `stale`: nothing was stored, for it was asked for anew or has gone.
   */
  outcome: z.enum(["recorded", "finished", "moved_on", "stale"]),
});

/** Parses the answer of `monitor.record_replay_slice`. @throws {z.ZodError} */
export function parseReplayRecord(answer: unknown): z.infer<typeof RecordedReplay>["outcome"] {
  return RecordedReplay.parse(answer).outcome;
}
