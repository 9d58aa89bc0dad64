import { z } from "zod";
import { counterIncrease } from "./counter-increase.ts";
import type {
  DetectionEvent,
  DetectionInput,
  DetectionResult,
  DetectionSettings,
  Detector,
  Judgement,
  OpenAnomaly,
  Sample,
} from "./detector.ts";
import { type AnomalyEnding, explainAnomaly } from "./explain-anomaly.ts";
import { type DetailedVerdict, FAR_FACTOR, judgeValue, THRESHOLDS } from "./judge-value.ts";
import { roundForMemory, TrainingWindow } from "./training-window.ts";

/** Change it whenever a state of before would be misread, or the same samples judged otherwise. */
const VERSION = "median-mad-1";

/**
 * Values to learn from: four hours at one a minute. Enough for a spread that errs by a tenth, short
 * enough to follow a daily rhythm: on a straight slope the newest value scores 1.35, whatever its
 * steepness, for window and spread grow alike.
 */
export const TRAINING_LIMIT = 240;

/** Fewest values worth judging by: half an hour at one a minute. The spread then errs by a third. */
export const TRAINING_MINIMUM = 30;

/** Suspicious samples in a row that open an anomaly: one alone may be a hiccup of the measurement. */
export const OPENING_RUN = 2;

/** Calm samples in a row that close it: an outage with a good minute now and then is one outage. */
export const CLOSING_RUN = 5;

/** How long an anomaly stays open at least before its level may become the normal one, in ms. */
export const LEVEL_SHIFT_AFTER = 24 * 60 * 60 * 1000;

/**
 * Of the values of an open anomaly one is kept at most every 23 minutes, and 63 of them span 24 h.
 * A prime, so that of jobs that run every 2, 5, 10 or 60 minutes all phases are seen.
 */
const RECENT_INTERVAL = 23 * 60 * 1000;
const RECENT_LIMIT = 63;

/** Largest number that is judged; beyond it, as if it were this. Sums and multiples stay finite. */
const VALUE_LIMIT = 1e300;

/** Last and first instant that a date can hold, in ms from 1970. */
const TIME_LIMIT = 8.64e15;

/** Shortest interval that a rate is taken over, in ms; nothing measures a counter more often. */
const SHORTEST_INTERVAL = 1;

/** Samples count as missing once this many usual intervals have passed without one. */
const GAP_FACTOR = 3;

/** From this many thresholds on an anomaly is a warning, or critical; below it is an information. */
const SEVERITY_FACTORS = { warning: FAR_FACTOR, critical: 4 * FAR_FACTOR } as const;

/** A row of suspicious samples: an anomaly once it is open, a suspicion before. Times in ms. */
const Run = z.object({
  isOpen: z.boolean(),
  startedAt: z.number(),
  lastSeenAt: z.number(),
  /** Suspicious samples. */
  sampleCount: z.int().nonnegative(),
  gapBefore: z.number().nullable(),
  worst: z.object({
    value: z.number(),
    expected: z.number(),
    lower: z.number(),
    upper: z.number(),
    score: z.number(),
    spread: z.number(),
  }).nullable(),
  /** Calm samples in a row just now, and the first of them. */
  calmCount: z.int().nonnegative(),
  calmSince: z.number().nullable(),
  /** Values since it began, thinned by `RECENT_INTERVAL`, oldest first. */
  recent: z.array(z.number()).max(RECENT_LIMIT),
  recentAt: z.number().nullable(),
});

/** What is remembered of a series from call to call. */
const State = z.object({
  version: z.literal(VERSION),
  kind: z.enum(["gauge", "counter"]),
  /** The newest sample judged, as it came. */
  last: z.object({ at: z.number(), value: z.number() }),
  /** Time between the two newest samples, in ms; null after the first one. */
  interval: z.number().nullable(),
  training: z.array(z.number()).max(TRAINING_LIMIT),
  run: Run.nullable(),
});

type Run = z.infer<typeof Run>;

/** The state while samples are being judged. */
interface Memory {
  last: Sample | null;
  interval: number | null;
  training: TrainingWindow;
  run: Run | null;
}

/** A sample made comparable: the value of a gauge, the rate of a counter. */
interface Reading {
  readonly at: number;
  readonly value: number;
  /** What a rate was taken over; null for a gauge. */
  readonly seconds: number | null;
  /** Ms without samples before it; null if it came in time. */
  readonly gap: number | null;
}

/** What the steps of one call share. */
interface Call {
  readonly memory: Memory;
  readonly settings: DetectionSettings;
  readonly kind: "gauge" | "counter";
  readonly events: DetectionEvent[];
}

/**
 * Finds values far from the rolling median of their series, in median absolute deviations, and tells
 * each anomaly once from start to end.
 *
 * - A value trains only if nothing is suspicious about it and no anomaly is open: an incident does
 *   not become normal by lasting.
 * - It opens after {@link OPENING_RUN} suspicious samples in a row, or one that is far; it ends with
 *   the first of {@link CLOSING_RUN} calm ones in a row, calm being half as wide as suspicious.
 * - After {@link LEVEL_SHIFT_AFTER} at a level that has settled it ends as a level shift, and the
 *   training starts from there. Nothing else makes an unusual level normal.
 * - Fewer than {@link TRAINING_MINIMUM} training values: `insufficient_data`. An anomaly that is open
 *   in the store without a state to judge it by (first run of a version) stays open until its level
 *   has held as above, since nobody knows whether it recovered.
 * - Missing samples are no evidence of anything and change nothing; the explanation mentions a gap.
 *
 * It knows no time of day and no week: a daily jump steeper than its window is found daily.
 *
 * @see Iglewicz and Hoaglin, "How to Detect and Handle Outliers", ASQC, 1993, for median and MAD.
 */
export const medianDetector: Detector = { version: VERSION, detectSeries };

function detectSeries(
  { state, samples, settings, kind, openAnomaly }: DetectionInput,
): DetectionResult {
  const memory = recall(state, kind, openAnomaly);
  const call: Call = { memory, settings, kind, events: [] };
  const countBefore = memory.run?.sampleCount;
  const judgements: Judgement[] = [];

  for (const sample of samples) {
    checkSample(sample);
    if (memory.last !== null && sample.at <= memory.last.at) continue;
    judgements.push(judgeSample(sample, call));
  }

  // One event is enough for all that happened to the anomaly that is open now.
  const { run } = memory;
  if (run?.isOpen) {
    const openedAt = call.events.findLastIndex(({ kind }) => kind === "open");
    const isOpenedHere = call.events[openedAt]?.startedAt === run.startedAt;
    if (isOpenedHere) call.events[openedAt] = eventOf("open", run, call);
    else if (run.sampleCount !== countBefore) {
      call.events.push(eventOf("extend", run, call));
    }
  }
  return {
    state: judgements.length === 0 ? state : remember(memory, kind),
    events: call.events,
    judgements,
    status: run?.isOpen
      ? "anomaly"
      : memory.training.size < TRAINING_MINIMUM
      ? "insufficient_data"
      : "normal",
  };
}

/** Judges one sample that is newer than all before, and moves the memory on. */
function judgeSample(sample: Sample, call: Call): Judgement {
  const { memory, settings } = call;
  const { at } = sample;
  const reading = readSample(sample, call);

  if (reading === null || memory.training.size < TRAINING_MINIMUM) {
    if (reading !== null && memory.run === null) memory.training.add(roundForMemory(reading.value));
    if (reading !== null && memory.run !== null) watchLevel(reading, memory.run, call);
    return { at, kind: "insufficient_data", trainingCount: memory.training.size };
  }
  const verdict = judgeValue(reading.value, memory.training, settings, reading.seconds);
  if (verdict.isSuspicious) suspect(reading, verdict, call);
  else accept(reading, verdict, call);

  const { value, expected, lower, upper, score } = verdict;
  const judged = verdict.isSuspicious ? "suspicious" : "normal";
  return { at, kind: judged, value, expected, lower, upper, score };
}

/** Turns a sample into a reading; null for the first sample of a counter, which has no rate yet. */
function readSample({ at, value: raw }: Sample, { memory, kind }: Call): Reading | null {
  const value = limit(raw);
  const { last, interval } = memory;
  memory.last = { at, value };
  if (last === null) return kind === "gauge" ? { at, value, seconds: null, gap: null } : null;

  const elapsed = at - last.at;
  const gap = interval !== null && elapsed > GAP_FACTOR * interval ? elapsed : null;
  memory.interval = elapsed;
  if (kind === "gauge") return { at, value, seconds: null, gap };

  const seconds = Math.max(elapsed, SHORTEST_INTERVAL) / 1000;
  return { at, value: limit(counterIncrease(last.value, value) / seconds), seconds, gap };
}

/** Starts or continues a run, and opens the anomaly when that is enough. */
function suspect(reading: Reading, verdict: DetailedVerdict, call: Call): void {
  const { memory, events } = call;
  const run = memory.run ??= startRun(reading.at, reading.gap);
  const { value, expected, lower, upper, score, spread } = verdict;

  run.lastSeenAt = reading.at;
  run.sampleCount += 1;
  run.calmCount = 0;
  run.calmSince = null;
  if (run.worst === null || isWorse(verdict, run.worst)) {
    run.worst = { value, expected, lower, upper, score, spread };
  }
  if (!run.isOpen && (verdict.isFar || run.sampleCount >= OPENING_RUN)) {
    run.isOpen = true;
    events.push(eventOf("open", run, call));
  }
  watchLevel(reading, run, call);
}

/** Learns from a value, or lets it speak for the end of the open anomaly. */
function accept(reading: Reading, verdict: DetailedVerdict, call: Call): void {
  const { memory, events } = call;
  const { run } = memory;
  if (!run?.isOpen) {
    memory.run = null;
    memory.training.add(roundForMemory(reading.value));
    return;
  }
  run.calmCount = verdict.isCalm ? run.calmCount + 1 : 0;
  run.calmSince = verdict.isCalm ? run.calmSince ?? reading.at : null;
  if (run.calmCount >= CLOSING_RUN) {
    const endedAt = run.calmSince!;
    const ending = { reason: "recovered", endedAt, calmCount: run.calmCount } as const;
    events.push(eventOf("close", run, call, ending, verdict));
    memory.run = null;
  } else {
    watchLevel(reading, run, call);
  }
}

/** Remembers the level of a run, and makes it the normal one if it has held for long enough. */
function watchLevel({ at, value, seconds }: Reading, run: Run, call: Call): void {
  if (run.recentAt !== null && at - run.recentAt < RECENT_INTERVAL) return;
  run.recentAt = at;
  run.recent.push(roundForMemory(value));
  if (run.recent.length > RECENT_LIMIT) run.recent.shift();

  const { memory, settings, events } = call;
  const isDue = at - run.startedAt >= LEVEL_SHIFT_AFTER;
  if (!isDue || run.recent.length < TRAINING_MINIMUM) return;

  if (!isSettled(run.recent, settings, seconds)) return;

  const level = new TrainingWindow(TRAINING_LIMIT, run.recent);
  const ending = {
    reason: "level_shift",
    endedAt: at,
    median: level.quantile(0.5),
    low: level.quantile(0.05),
    high: level.quantile(0.95),
  } as const;
  const verdict = judgeValue(value, level, settings, seconds);
  events.push(eventOf("close", run, call, ending, verdict));
  memory.run = null;
  memory.training = level;
}

/**
 * Whether the older and the newer half of the values each find nine tenths of the other one calm.
 * They do not while a leak goes on or a second step is recent; with a daily rhythm they do at some
 * hour of the day.
 */
function isSettled(
  values: readonly number[],
  settings: DetectionSettings,
  seconds: number | null,
): boolean {
  const middle = values.length >> 1;
  const older = new TrainingWindow(RECENT_LIMIT, values.slice(0, middle));
  const newer = new TrainingWindow(RECENT_LIMIT, values.slice(middle));
  return [0.05, 0.95].every((p) =>
    judgeValue(newer.quantile(p), older, settings, seconds).isCalm &&
    judgeValue(older.quantile(p), newer, settings, seconds).isCalm
  );
}

function startRun(startedAt: number, gapBefore: number | null): Run {
  return {
    isOpen: false,
    startedAt,
    lastSeenAt: startedAt,
    sampleCount: 0,
    gapBefore,
    worst: null,
    calmCount: 0,
    calmSince: null,
    recent: [],
    recentAt: null,
  };
}

/** By score; by distance where both scores have reached their limit. */
function isWorse(verdict: DetailedVerdict, worst: NonNullable<Run["worst"]>): boolean {
  if (verdict.score !== worst.score) return verdict.score > worst.score;
  return Math.abs(verdict.value - verdict.expected) > Math.abs(worst.value - worst.expected);
}

/**
 * All that is known of an anomaly as an event. `verdict`, of the sample that ends it, stands in for
 * the worst value of an anomaly of which only the store knows.
 */
function eventOf(
  eventKind: DetectionEvent["kind"],
  run: Run,
  { memory, settings, kind }: Call,
  ending: AnomalyEnding | null = null,
  verdict: DetailedVerdict | null = null,
): DetectionEvent {
  const { startedAt, lastSeenAt, worst } = run;
  const { value, expected, lower, upper, score } = (worst ?? verdict)!;
  const sampleCount = Math.max(run.sampleCount, 1);
  const thresholds = score / THRESHOLDS[settings.sensitivity];
  return {
    kind: eventKind,
    startedAt,
    lastSeenAt,
    endedAt: ending?.endedAt ?? null,
    endedReason: ending?.reason ?? null,
    expected,
    lower,
    upper,
    observed: value,
    score,
    severity: thresholds >= SEVERITY_FACTORS.critical
      ? "critical"
      : thresholds >= SEVERITY_FACTORS.warning
      ? "warning"
      : "info",
    explanation: explainAnomaly(
      { ...run, sampleCount, trainingCount: memory.training.size, ending },
      settings,
      kind,
    ),
    sampleCount,
  };
}

/**
 * The memory that a state stands for. One that is not ours, or of the other kind, counts as none.
 * Whether an anomaly is open is the store's word, for that is what people see.
 */
function recall(
  state: unknown,
  kind: "gauge" | "counter",
  openAnomaly: OpenAnomaly | null,
): Memory {
  const parsed = State.safeParse(state);
  const memory: Memory = parsed.success && parsed.data.kind === kind
    ? { ...parsed.data, training: new TrainingWindow(TRAINING_LIMIT, parsed.data.training) }
    : { last: null, interval: null, training: new TrainingWindow(TRAINING_LIMIT), run: null };

  if (openAnomaly !== null) {
    const { startedAt } = openAnomaly;
    memory.run = { ...memory.run ?? startRun(startedAt, null), isOpen: true, startedAt };
  } else if (memory.run?.isOpen) {
    memory.run = null;
  }
  return memory;
}

function remember({ last, interval, training, run }: Memory, kind: "gauge" | "counter"): unknown {
  return { version: VERSION, kind, last, interval, training: training.values, run };
}

function checkSample({ at, value }: Sample): void {
  if (!(Math.abs(at) <= TIME_LIMIT)) {
    throw new RangeError(`Cannot judge a sample: its time ${at} is no date`);
  }
  if (!Number.isFinite(value)) {
    throw new RangeError(`Cannot judge a sample: its value ${value} is not finite`);
  }
}

/** Cuts a finite number to what can be calculated with; a negative zero becomes zero, as in JSON. */
function limit(value: number): number {
  return Math.min(Math.max(value, -VALUE_LIMIT), VALUE_LIMIT) + 0;
}
