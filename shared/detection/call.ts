import type { AnomalyDetails, AnomalyKind, DetectionEvent, DetectionInput } from "./detector.ts";
import { HOUR } from "./durations.ts";
import { type Experts, SCALE_READINGS } from "./experts.ts";
import { type AnomalyEnding, explainAnomaly } from "./explain-anomaly.ts";
import type { SeriesMemory } from "./series-memory.ts";
import { EXPERTS, type Tuning } from "./tuning.ts";
import { z } from "zod";

/** Before that nothing is told: the first verdicts rest on two hours of minutes, or on so many samples. */
const FIRST_SPAN = 2 * HOUR;

const FIRST_COUNT = 30;

/** Beyond that an intermediate result could be infinite. */
const VALUE_LIMIT = 1e300;

/** Readings after a change of the cadence of which nothing is told. */
const RELEARN_COUNT = 20;

/** Scores from which an anomaly is a warning, or critical. */
const SEVERITY_SCORES = { warning: 0.6, critical: 0.75 } as const;

const ANOMALY_KINDS = [
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

/** What the store knows of an anomaly that lasts. */
export const Run = z.object({
  isOpen: z.boolean(),
  isSilence: z.boolean(),
  startedAt: z.number(),
  lastSeenAt: z.number(),
  sampleCount: z.int().nonnegative(),
  score: z.number(),
  kind: z.enum(ANOMALY_KINDS),
  quantity: z.int(),
  perWeek: z.number().nullable(),
  comparedDays: z.int(),
  trainingCount: z.number(),
  trainedDays: z.number(),
  expected: z.number(),
  lower: z.number(),
  upper: z.number(),
  observed: z.number(),
  cadence: z.number(),
});

export type Run = z.infer<typeof Run>;

/** What the steps of one call share. */
export interface Call {
  readonly input: DetectionInput;
  readonly memory: SeriesMemory;
  readonly experts: Experts;
  readonly tuning: Tuning;
  readonly events: DetectionEvent[];
  /** The excursion that is on, told or not; and the silence that was told. */
  run: Run | null;
  silence: Run | null;
  /** The large part has changed. */
  isMemoryDirty: boolean;
  /** A block of two hours has begun. */
  isForecastDue: boolean;
}

/** The anomaly that is open: a silence or an excursion, never both. */
export function openRun({ run, silence }: Call): Run | null {
  return silence ?? (run?.isOpen ? run : null);
}

export interface Band {
  readonly expected: number;
  readonly lower: number;
  readonly upper: number;
}

/** Forgets the excursion, and what was open of it. */
export function dropExcursion(call: Call): void {
  call.run = null;
  call.memory.excursionAt = 0;
  call.memory.levelSince = 0;
  call.memory.calmCount = 0;
}

export function smallestChange(
  { expected }: Run,
  { minimumChange, minimumChangeRatio }: DetectionInput["settings"],
): number {
  return Math.max(minimumChange, minimumChangeRatio * Math.abs(expected));
}

/** All that is known of an anomaly as an event. */
export function eventOf(
  eventKind: DetectionEvent["kind"],
  run: Run,
  { input }: Call,
  ending: AnomalyEnding | null = null,
): DetectionEvent {
  const { startedAt, expected, lower, upper, observed, score } = run;
  const expert = EXPERTS[run.quantity >> 1]!;
  const { kind } = run;
  const details: AnomalyDetails = {
    scaleSeconds: run.isSilence ? 0 : (SCALE_READINGS[expert] - 1) * run.cadence / 1000,
    perWeek: run.perWeek,
    comparedWith: run.isSilence
      ? "usual_interval"
      : expert === "timeOfDay" || expert === "daySoFar"
      ? "same_time_of_day"
      : "recent_values",
    trainingCount: run.trainingCount,
    cycles: run.isSilence ? 0 : Math.max(run.comparedDays, run.trainedDays),
    change: observed - expected,
    minimumChange: run.isSilence ? 0 : smallestChange(run, input.settings),
  };
  const lastSeenAt = Math.max(run.lastSeenAt, startedAt);
  const endedAt = ending === null ? null : Math.max(ending.endedAt, lastSeenAt);
  return {
    kind: eventKind,
    anomalyKind: kind,
    startedAt,
    lastSeenAt,
    endedAt,
    endedReason: ending?.reason ?? null,
    expected,
    lower: Math.min(lower, expected),
    upper: Math.max(upper, expected),
    observed,
    score,
    severity: score >= SEVERITY_SCORES.critical
      ? "critical"
      : score >= SEVERITY_SCORES.warning
      ? "warning"
      : "info",
    explanation: explainAnomaly(
      {
        kind,
        startedAt,
        lastSeenAt,
        sampleCount: run.sampleCount,
        expected,
        lower,
        upper,
        observed,
        score,
        details,
        ending,
      },
      input.settings,
      input.kind,
    ),
    details,
    sampleCount: Math.max(run.sampleCount, 1),
  };
}

/** Whether too little was seen to tell anything. */
export function isFirst({ count, cadenceCount, lastAt, firstAt }: SeriesMemory): boolean {
  return count < FIRST_COUNT || lastAt - firstAt < FIRST_SPAN ||
    (cadenceCount > 0 && count - cadenceCount < RELEARN_COUNT);
}

/** Cuts a finite number to what can be calculated with; a negative zero becomes zero, as in JSON. */
export function limit(value: number): number {
  return Math.min(Math.max(value, -VALUE_LIMIT), VALUE_LIMIT) + 0;
}
