import { z } from "zod";
import type {
  DetectionEvent,
  DetectionSettings,
  OpenAnomaly,
  Sample,
} from "../detection/detector.ts";

/** One series of the answer of `monitor.read_detection_page`. Times are ms since 1970 UTC. */
export const DetectionSeriesRow = z.object({
  series_id: z.int(),
  metric: z.string(),
  unit: z.string(),
  kind: z.enum(["gauge", "counter"]),
  direction: z.enum(["both", "up", "down"]),
  sensitivity: z.enum(["low", "normal", "high"]),
  minimum_change: z.number(),
  state: z.unknown(),
  state_version: z.string().nullable(),
  last_sample_at: z.number().nullable(),
  open_anomaly: z.object({ started_at: z.number() }).nullable(),
  times: z.array(z.number()),
  values: z.array(z.number()),
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
  /** The detector version that saved it. */
  readonly stateVersion: string | null;
  /** The newest sample already judged, in ms; null before the first time. */
  readonly lastSampleAt: number | null;
  readonly openAnomaly: OpenAnomaly | null;
  /** Ascending, all newer than `lastSampleAt`. */
  readonly samples: readonly Sample[];
}

/** A series that could not be worked on, and why. */
export interface FailedSeries {
  readonly series_id: number | null;
  readonly error: string;
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
      failed.push({
        series_id: parsed.data.series_id,
        error: "times and values differ in number",
      });
    } else {
      series.push(toDetectionSeries(parsed.data));
    }
  }
  return { series, failed, nextSeriesId: next_series_id };
}

function readSeriesId(row: unknown): number | null {
  return z.object({ series_id: z.int() }).safeParse(row).data?.series_id ?? null;
}

function toDetectionSeries(row: z.infer<typeof DetectionSeriesRow>): DetectionSeries {
  return {
    seriesId: row.series_id,
    kind: row.kind,
    settings: {
      direction: row.direction,
      sensitivity: row.sensitivity,
      minimumChange: row.minimum_change,
      unit: row.unit,
    },
    state: row.state ?? null,
    stateVersion: row.state_version,
    lastSampleAt: row.last_sample_at,
    openAnomaly: row.open_anomaly && { startedAt: row.open_anomaly.started_at },
    samples: row.times.map((at, index) => ({ at, value: row.values[index]! })),
  };
}

/** What the detector says of one series, as `monitor.record_detections` wants it. Part of `p_updates`. */
export interface DetectionUpdate {
  readonly series_id: number;
  /** `lastSampleAt` as it was read: the update is refused if the state has moved on since. */
  readonly previous_sample_at: number | null;
  readonly last_sample_at: number;
  readonly state_version: string;
  readonly state: unknown;
  readonly events: readonly DetectionEventRow[];
}

/** A {@link DetectionEvent} in wire spelling. */
export interface DetectionEventRow {
  readonly kind: DetectionEvent["kind"];
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
  readonly sample_count: number;
}

/** Spells an event as it goes over the wire. */
export function toDetectionEventRow(event: DetectionEvent): DetectionEventRow {
  const { startedAt, lastSeenAt, endedAt, endedReason, sampleCount, ...same } = event;
  return {
    ...same,
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
