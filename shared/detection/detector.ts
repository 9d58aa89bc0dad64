/** A reading of one series. `at` is in ms since 1970 UTC, `value` in the unit of the metric. */
export interface Sample {
  readonly at: number;
  readonly value: number;
}

/** What kind of change an anomaly is. The last five are the absence family. */
export type AnomalyKind =
  | "spike"
  | "drop"
  | "level_shift"
  | "trend"
  | "variance"
  | "shape"
  | "flat_line"
  | "drop_to_zero"
  | "late"
  | "missing"
  | "counter_stopped";

/** What is decided for a metric, or for one series of it. None of it is remembered in the state. */
export interface DetectionSettings {
  /** Which deviations count. The other side is not reported. */
  readonly direction: "both" | "up" | "down";
  /**
   * Score (0-1) from which a change is told; {@link DEFAULT_THRESHOLD} is that of one a week. It decides
   * only what is told, not what is learned, so a lower one tells all that a higher one does.
   */
  readonly threshold: number;
  /** Smallest change worth telling, ≥ 0, in `unit` (per second for a counter); 0 is no limit. */
  readonly minimumChange: number;
  /** Smallest change worth telling as a share of what was expected, ≥ 0; 0 is no limit. */
  readonly minimumChangeRatio: number;
  /** Unit of the metric, e.g. "seconds"; for the words of the explanation only. */
  readonly unit: string;
}

/** Score from which a change is told unless a replay has found a better one. */
export const DEFAULT_THRESHOLD = 0.5;

/** A span of time a person or the system has a word on. */
export interface LabelledSpan {
  /** In ms, both included; null while it lasts. */
  readonly from: number;
  readonly until: number | null;
  /**
   * `expected` and `maintenance`: nothing in it is told, nothing in it trains. `incident`: does not train.
   * `false_positive`: not told, and trains as normal. `missed`: does not train; calibration wants it told.
   */
  readonly label: "expected" | "maintenance" | "incident" | "false_positive" | "missed";
}

/** An anomaly that the store holds as open, whatever the state says. */
export interface OpenAnomaly {
  /** `startedAt` of the event that opened it, in ms. */
  readonly startedAt: number;
}

/** Everything one call of {@link Detector.detectSeries} depends on. */
export interface DetectionInput {
  /** `state` and `memory` as the previous call for this series returned them; null before the first. */
  readonly state: unknown;
  readonly memory: string | null;
  /** Ascending by `at`. Those not newer than the newest one already judged are ignored. */
  readonly samples: readonly Sample[];
  readonly settings: DetectionSettings;
  /** A counter is judged by its rate per second, the sample after a reset by none: what was counted is not known. */
  readonly kind: "gauge" | "counter";
  readonly openAnomaly: OpenAnomaly | null;
  /** Those that touch the time of the samples or of what is remembered; in any order, may overlap. */
  readonly spans: readonly LabelledSpan[];
  /** Times of deploys, in ms, in any order. */
  readonly deploys: readonly number[];
  /** The clock in ms, by which samples that do not come are missed; null: only what comes is judged. */
  readonly now: number | null;
}

/** What the detector says of one sample. Ignored samples have none. */
export type Judgement =
  | {
    readonly at: number;
    readonly kind: "insufficient_data";
    /** Samples seen so far. */
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
  /** 0-1: how strongly this sample says that something new has begun. Low again while it lasts. */
  readonly score: number;
}

/**
 * A change in the life of one anomaly; `startedAt` is its identity within the series.
 * Each event carries all that is known by then, so the last one replaces those before.
 */
export interface DetectionEvent {
  readonly kind: "open" | "extend" | "close";
  /** What it is by now: a spike that lasts becomes a level shift. */
  readonly anomalyKind: AnomalyKind;
  /** Time of the first suspicious sample of the run that opened it, in ms. */
  readonly startedAt: number;
  /** Time of the newest suspicious sample, in ms. */
  readonly lastSeenAt: number;
  /** In ms; null while it lasts. */
  readonly endedAt: number | null;
  readonly endedReason: "recovered" | "level_shift" | "no_data" | null;
  /** What was expected when the worst value was seen, and the band around it. */
  readonly expected: number;
  readonly lower: number;
  readonly upper: number;
  /** The worst value, and the highest score. */
  readonly observed: number;
  readonly score: number;
  readonly severity: "info" | "warning" | "critical";
  /** Why, in words and numbers, for a person who has not seen the data. */
  readonly explanation: string;
  readonly details: AnomalyDetails;
  /** Suspicious samples from start to end, ≥ 1. */
  readonly sampleCount: number;
}

/** The numbers behind an explanation. */
export interface AnomalyDetails {
  /** Over how many seconds the change was judged; a single sample is 0. */
  readonly scaleSeconds: number;
  /** How often a week chance alone brings something as strange; null where it is no matter of chance. */
  readonly perWeek: number | null;
  /** What it was held against. */
  readonly comparedWith: "recent_values" | "same_time_of_day" | "usual_interval";
  /** Samples and whole days that the expectation rests on. */
  readonly trainingCount: number;
  readonly cycles: number;
  /** Change against the expectation and the smallest that counts, both in the unit of the metric. */
  readonly change: number;
  readonly minimumChange: number;
}

/** What is expected of the coming day and was expected of the last one, by equal steps of time. */
export interface Forecast {
  /** Time of the first step, a multiple of `stepMs`, both in ms. */
  readonly from: number;
  readonly stepMs: number;
  /** As long as each other, in the metric's unit (per second for a counter); null where not known. */
  readonly expected: readonly (number | null)[];
  readonly lower: readonly (number | null)[];
  readonly upper: readonly (number | null)[];
}

/** What one call found out. */
export interface DetectionResult {
  /** Small, a plain JSON value, for the next call; changes with every sample. */
  readonly state: unknown;
  /** Large, printable ASCII, for the next call; the very string that came in while it has not changed. */
  readonly memory: string | null;
  /** Null unless it was made anew, which happens about every two hours. */
  readonly forecast: Forecast | null;
  /** In order of time. An anomaly opened here and still open has its `open` only, brought up to date. */
  readonly events: readonly DetectionEvent[];
  /** One for each sample that was not ignored, in order. */
  readonly judgements: readonly Judgement[];
  /** How the series stands after the last sample. */
  readonly status: "insufficient_data" | "normal" | "anomaly";
  /** From when on silence is an anomaly, in ms; null if not known yet, or told already. */
  readonly silentAt: number | null;
}

/** Most bytes of a state as JSON together with its memory, whatever the samples were. */
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
