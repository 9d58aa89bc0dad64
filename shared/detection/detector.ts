/** A reading of one series. `at` is in ms since 1970 UTC, `value` in the unit of the metric. */
export interface Sample {
  readonly at: number;
  readonly value: number;
}

/** What an operator decided for a metric. None of it is remembered in the state. */
export interface DetectionSettings {
  /** Which deviations count. The other side is neither reported nor kept out of the training. */
  readonly direction: "both" | "up" | "down";
  /** One scale for every metric: high reports whatever low reports, and more. */
  readonly sensitivity: "low" | "normal" | "high";
  /** Smallest change worth reporting, ≥ 0, in `unit` (per second for a counter); 0 is no limit. */
  readonly minimumChange: number;
  /** Unit of the metric, e.g. "seconds"; "count" is the one that changes how values are judged. */
  readonly unit: string;
}

/** An anomaly that the store holds as open, whatever the state says. */
export interface OpenAnomaly {
  /** `startedAt` of the event that opened it, in ms. */
  readonly startedAt: number;
}

/** Everything one call of {@link Detector.detectSeries} depends on. */
export interface DetectionInput {
  /** What the previous call for this series returned; null before the first. */
  readonly state: unknown;
  /** Ascending by `at`. Those not newer than the newest one already judged are ignored. */
  readonly samples: readonly Sample[];
  readonly settings: DetectionSettings;
  /** A counter is judged by its rate per second, resets handled as Prometheus does. */
  readonly kind: "gauge" | "counter";
  readonly openAnomaly: OpenAnomaly | null;
}

/** What the detector says of one sample. Ignored samples have none. */
export type Judgement =
  | {
    readonly at: number;
    readonly kind: "insufficient_data";
    /** Values learned so far. */
    readonly trainingCount: number;
  }
  | (Verdict & {
    readonly at: number;
    /** One suspicious sample is not yet an anomaly; see the events for those. */
    readonly kind: "normal" | "suspicious";
  });

/** A value against its band. The first four are in the metric's unit, per second for a counter. */
export interface Verdict {
  readonly value: number;
  readonly expected: number;
  readonly lower: number;
  readonly upper: number;
  /** ≥ 0, without unit, larger is rarer; comparable within one detector version only. */
  readonly score: number;
}

/**
 * A change in the life of one anomaly; `startedAt` is its identity within the series.
 * Each event carries all that is known by then, so the last one replaces those before.
 */
export interface DetectionEvent {
  readonly kind: "open" | "extend" | "close";
  /** Time of the first suspicious sample of the run that opened it, in ms. */
  readonly startedAt: number;
  /** Time of the newest suspicious sample, in ms. */
  readonly lastSeenAt: number;
  /** In ms; null while it lasts. */
  readonly endedAt: number | null;
  readonly endedReason: "recovered" | "level_shift" | null;
  /** What was expected when the worst value was seen, and the band around it. */
  readonly expected: number;
  readonly lower: number;
  readonly upper: number;
  /** The worst value, and its score. */
  readonly observed: number;
  readonly score: number;
  readonly severity: "info" | "warning" | "critical";
  /** Why, in words and numbers, for a person who has not seen the data. */
  readonly explanation: string;
  /** Suspicious samples from start to end, ≥ 1. */
  readonly sampleCount: number;
}

/** What one call found out. */
export interface DetectionResult {
  /** A plain JSON value of at most {@link STATE_BYTES_LIMIT}, for the next call. */
  readonly state: unknown;
  /** In order of time. An anomaly opened here and still open has its `open` only, brought up to date. */
  readonly events: readonly DetectionEvent[];
  /** One for each sample that was not ignored, in order. */
  readonly judgements: readonly Judgement[];
  /** How the series stands after the last sample. */
  readonly status: "insufficient_data" | "normal" | "anomaly";
}

/** Most bytes of a state as JSON, whatever the samples were. */
export const STATE_BYTES_LIMIT = 8192;

/**
 * A way of finding anomalies, one series at a time. Whatever implements it promises:
 *
 * - the same input gives the same result, on any runtime;
 * - the samples may be split into calls in any way: judgements, states and anomalies do not change;
 * - a state may go through JSON; one of another version, or a broken one, counts as none;
 * - an anomaly that the store holds as open is extended or closed, never opened a second time;
 * - a series has at most one open anomaly; one call extends at most one, at most once.
 */
export interface Detector {
  /** Changes whenever states or verdicts do; stored with both. */
  readonly version: string;
  /** @throws {RangeError} if a time or a value is not finite. */
  detectSeries(input: DetectionInput): DetectionResult;
}
