import { z } from "zod";
import { counterIncrease } from "./counter-increase.ts";
import { SLOT_MS } from "./day-profile.ts";
import {
  type AnomalyDetails,
  type AnomalyKind,
  DEFAULT_THRESHOLD,
  type DetectionEvent,
  type DetectionInput,
  type DetectionResult,
  type Detector,
  type Judgement,
  type LabelledSpan,
  type OpenAnomaly,
  type Sample,
} from "./detector.ts";
import { Experts, meanOfBlocks, meanOfRecent, type Reading, SCALE_READINGS } from "./experts.ts";
import { type AnomalyEnding, explainAnomaly } from "./explain-anomaly.ts";
import { bandReach, forecastBand } from "./forecast-band.ts";
import {
  decodeMemory,
  encodeMemory,
  encodeState,
  INTERVAL_COUNT,
  QUANTITY_COUNT,
  RECENT_COUNT,
  rememberAlarm,
  SeriesMemory,
  WAITING_COUNT,
} from "./series-memory.ts";
import { type ExpertName, EXPERTS, TUNING, type Tuning } from "./tuning.ts";

const VERSION = "rarity-1";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** What is learned waits for the end of a block: the large part of the memory is written anew once for each. */
const BLOCK_MS = 2 * HOUR;

/** Before that nothing is told: the first verdicts rest on two hours of minutes, or on so many samples. */
const FIRST_SPAN = 2 * HOUR;
const FIRST_COUNT = 30;

/** A level that has held for so long is the new normal; one that never settles is after a week. */
const LEVEL_SHIFT_AFTER = DAY;
const UNSETTLED_AFTER = 7 * DAY;

/** Readings that a new level needs to be one. */
const NEW_LEVEL_COUNT = 24;

/** A deploy so long before an excursion began, or after, explains it, in ms. One that is to mend it does not. */
const DEPLOY_REACH = 30 * MINUTE;

/** Readings at a new level that a deploy makes normal. */
const DEPLOY_COUNT = 6;

/** Readings from the start of an excursion in which a stronger one is told once more, and after which it is no spike. */
const GROWING_COUNT = 12;
const LASTING_COUNT = 6;
const LASTING_SPAN = 30 * MINUTE;

/** Score of what comes too soon after other news, and of what is not news at all: below every threshold that tells. */
const REST_SCORE = 0.19;

/** Beyond that an intermediate result could be infinite. */
const VALUE_LIMIT = 1e300;
const TIME_LIMIT = 8.64e15;
const FLOAT_LIMIT = 3e38;

/** Shortest time a rate is taken over, in ms: two samples of one instant would make an infinite one. */
const SHORTEST_INTERVAL = 1000;

/** Silence is an anomaly after so many usual intervals, or so many times the second longest gap of late. */
const SILENT_INTERVALS = 3;
const SILENT_GAPS = 2;
const SILENT_REPEATED = 1.5;
const SILENT_MARGIN = 5 * MINUTE;

/** Time in which a silence is forgotten, in ms. */
const SILENCE_MEMORY = 3 * DAY;

/** A cadence has changed when the middle one of the last intervals differs from it by so much. */
const CADENCE_CHANGE = 2;

/** Readings after such a change of which nothing is told. */
const RELEARN_COUNT = 20;

/** From so many intervals on samples are missing; before that they are late. */
const MISSING_INTERVALS = 10;
const NO_DATA_AFTER = DAY;
const NO_DATA_INTERVALS = 2 * MISSING_INTERVALS;

/** Nor are they after a span of that length that left no trace, in ms. */
const LONG_SPAN = 2 * HOUR;

/** From so many intervals on two samples are no neighbours any more. */
const GAP_INTERVALS = 6;

/** Score by which a silence of twice the length is stronger. */
const SILENCE_STEP = 0.1;

/** However long: below the highest threshold, so that a budget may silence what is silent each night. */
const SILENCE_SCORE_LIMIT = 0.94;

/** Scores from which an anomaly is a warning, or critical. */
const SEVERITY_SCORES = { warning: 0.6, critical: 0.75 } as const;

/** Rarity, in nats, of the edges of the band: a value beyond comes once a week by chance. */
const BAND_RARITY = 0;

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
const Run = z.object({
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

type Run = z.infer<typeof Run>;

const State = z.object({
  version: z.literal(VERSION),
  kind: z.enum(["gauge", "counter"]),
  numbers: z.string(),
  run: Run.nullable(),
  silence: Run.nullable(),
});

/** What the steps of one call share. */
interface Call {
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

/**
 * Finds what is rare in a series by several experts that look at it at several scales, see {@link Experts}, and tells each
 * anomaly once from start to end.
 *
 * - An excursion begins when what the experts say together is strong. Nothing trains while it lasts; it ends with calm readings,
 *   or when its level has held for a day, or a deploy explains it. An anomaly is an excursion that the threshold tells.
 * - What is told depends on the settings; what is learned does not. So a lower threshold tells all excursions that a higher one
 *   does; a silence within one that is told is part of it.
 * - A jump at the same time of day as on the two days before is expected; it is learned and not told.
 * - Samples that do not come are an anomaly of their own, by the clock or when the next one shows the gap.
 *
 * @see docs/detection.md for the scores it reaches and what each part brings.
 */
export function createRarityDetector(tuning: Tuning = TUNING): Detector {
  const experts = new Experts(tuning);
  return { version: VERSION, detectSeries: (input) => detectSeries(input, tuning, experts) };
}

export const rarityDetector: Detector = createRarityDetector();

function detectSeries(input: DetectionInput, tuning: Tuning, experts: Experts): DetectionResult {
  const call = recall(input, tuning, experts);
  const { memory, events } = call;
  const before = describeOpen(call);
  const judgements: Judgement[] = [];
  experts.begin();

  for (const sample of input.samples) {
    checkSample(sample);
    if (memory.sampleCount > 0 && sample.at <= memory.lastAt) continue;
    judgements.push(judgeSample(sample, call));
  }
  if (input.now !== null) watchSilence(input.now, call);

  // One event is enough for all that happened to the anomaly that is open now.
  const open = openRun(call);
  if (open !== null) {
    const openedAt = events.findLastIndex(({ kind }) => kind === "open");
    if (events[openedAt]?.startedAt === open.startedAt) {
      events[openedAt] = eventOf("open", open, call);
    } else if (describeOpen(call) !== before) events.push(eventOf("extend", open, call));
  }
  return {
    state: {
      version: VERSION,
      kind: input.kind,
      numbers: encodeState(memory),
      run: call.run,
      silence: call.silence,
    },
    memory: call.isMemoryDirty ? encodeMemory(memory) : input.memory,
    forecast: call.isForecastDue && !isFirst(memory)
      ? forecastBand(memory, memory.lastAt, tuning)
      : null,
    events,
    judgements,
    status: open !== null ? "anomaly" : isFirst(memory) ? "insufficient_data" : "normal",
    silentAt: nextSilence(call),
  };
}

/** The anomaly that is open: a silence or an excursion, never both. */
function openRun({ run, silence }: Call): Run | null {
  return silence ?? (run?.isOpen ? run : null);
}

/** What would make an extension worth telling. */
function describeOpen(call: Call): string | null {
  const open = openRun(call);
  return open && `${open.startedAt} ${open.sampleCount} ${open.kind}`;
}

/** Judges one sample that is newer than all before, and moves the memory on. */
function judgeSample(sample: Sample, call: Call): Judgement {
  const { memory, experts, tuning } = call;
  const reading = takeReading(sample, call);
  if (reading === null) {
    return { at: sample.at, kind: "insufficient_data", trainingCount: memory.count };
  }
  turnTime(reading.at, call);
  const label = labelAt(reading.at, call);
  const isMuted = label === "false_positive";
  // Before the reading moves anything: what it is held against.
  const band = bandOf(memory, reading.value, tuning);
  if (label === "expected" || label === "maintenance") return passOver(reading, band, call);
  // Both levels were normal: the way back is no news.
  if (memory.wasAccepted === 1 && !isMuted) memory.gapCount = memory.count;
  if (
    memory.count > 0 &&
    reading.at - memory.weighedAt >= Math.max(LONG_SPAN, GAP_INTERVALS * memory.cadence)
  ) memory.gapCount = memory.count;
  memory.weighedAt = reading.at;
  experts.weigh(memory, reading);

  const isNew = isFirst(memory);
  const half = evidenceOfHalf(reading, call);
  const score = experts.evidence / (experts.evidence + half);
  const isDaily = score >= tuning.excursionScore && isSameEachDay(reading, call);
  const isSuspicious = score >= tuning.excursionScore && !isNew && !isMuted && !isDaily;
  let shown = 0;

  const isBack = memory.excursionAt !== 0 && isOfValues(call) && hasReturned(call);
  if (isSuspicious && !isBack) {
    shown = suspect(reading, band, score, call);
  } else {
    if (isDaily && !isNew && isRested(call)) noteAlarm(reading, band.expected, 0, call);
    if (isDaily) memory.suspiciousCount = memory.count;
    if (memory.excursionAt === 0) {
      shown = isMuted ? 0 : Math.min(score, tuning.excursionScore) * 0.9;
    } else if (isMuted) endExcursion("recovered", "labelled", reading.at, call);
    else calmDown(reading, isBack, call);
  }
  memory.wasAccepted = isMuted || isDaily ? 1 : 0;
  train(reading, isSuspicious && !isBack, label, call);

  if (isNew) return { at: reading.at, kind: "insufficient_data", trainingCount: memory.count };
  return {
    at: reading.at,
    kind: isSuspicious ? "suspicious" : "normal",
    value: reading.value,
    ...band,
    score: shown,
  };
}

/** A reading that is expected leaves no trace: what comes after it is compared with what was before. */
function passOver(reading: Reading, band: Band, call: Call): Judgement {
  const { memory } = call;
  if (memory.excursionAt !== 0) endExcursion("recovered", "labelled", reading.at, call);
  const { at, value } = reading;
  return isFirst(memory)
    ? { at, kind: "insufficient_data", trainingCount: memory.count }
    : { at, kind: "normal", value, ...band, score: 0 };
}

/** Turns a sample into a reading; null for the first sample of a counter and for a reset, which have no rate. */
function takeReading({ at, value: raw }: Sample, call: Call): Reading | null {
  const { memory, input } = call;
  const value = limit(raw);
  const { lastAt, lastValue } = memory;
  const isFirstSample = memory.sampleCount === 0;
  if (isFirstSample) memory.firstAt = at;
  else noteInterval(at, call);
  memory.sampleCount += 1;
  memory.lastAt = at;
  memory.lastValue = value;
  if (input.kind === "gauge") return { at, value };
  // How much was counted before a reset is not known, so neither is the rate.
  if (isFirstSample || value < lastValue) return null;
  const seconds = Math.max(at - lastAt, SHORTEST_INTERVAL) / 1000;
  return { at, value: limit(counterIncrease(lastValue, value) / seconds) };
}

/** Keeps the usual interval, and tells a gap. */
function noteInterval(at: number, call: Call): void {
  const { memory, tuning } = call;
  const { intervals, cadence } = memory;
  const interval = at - memory.lastAt;
  if (cadence > 0) {
    endSilence(at, call);
    if (interval >= GAP_INTERVALS * cadence) memory.gapCount = memory.count;
    const isSilent = interval >= usualSilence(memory);
    if (isSilent) {
      memory.calmCount = 0;
      memory.silences = memory.silences * Math.exp((memory.lastSilenceAt - at) / SILENCE_MEMORY) +
        1;
      memory.lastSilenceAt = at;
    }
    // A silence is an anomaly, unless there is one each night, or more.
    if (!isSilent || memory.silences > tuning.regularCount) {
      if (interval > memory.longestGap) {
        memory.secondGap = memory.longestGap;
        memory.longestGap = interval;
      } else if (interval > memory.secondGap) memory.secondGap = interval;
    }
  }
  intervals.copyWithin(1, 0);
  intervals[0] = interval;
  if (interval === cadence) return;
  const known = Array.from(intervals).filter((length) => length > 0).sort((a, b) => a - b);
  const middle = known[(known.length - 1) >> 1]!;
  const change = middle > cadence ? middle / Math.max(cadence, 1) : cadence / middle;
  if (cadence === 0 || change <= CADENCE_CHANGE) {
    memory.cadence += (middle - cadence) / (cadence === 0 ? 1 : 16);
  } else if (known.length === INTERVAL_COUNT) {
    memory.cadence = middle;
    // What is usual from one sample to the next, and between them, has to be seen anew.
    memory.usualCounts.fill(0);
    memory.cadenceCount = memory.count;
    memory.longestGap = 0;
    memory.secondGap = 0;
  }
}

/** Turns the page of quarters of an hour and of blocks of two hours: what waited is learned. */
function turnTime(at: number, call: Call): void {
  const { memory, tuning } = call;
  const { largest, blockLargest, waiting } = memory;
  const slotAt = at - modulo(at, SLOT_MS);
  if (memory.count === 0) {
    memory.slotAt = slotAt;
    memory.slotCadence = memory.cadence;
    memory.blockOffset = offsetOf(memory);
    memory.blockAt = at - modulo(at - memory.blockOffset, BLOCK_MS);
    memory.fadedAt = memory.blockAt;
    widenBand(at, call);
    return;
  }
  if (slotAt !== memory.slotAt) {
    const mean = memory.slotCount > 0 ? memory.slotSum / memory.slotCount : NaN;
    waiting.copyWithin(1, 0);
    waiting[0] = Math.min(Math.max(mean, -FLOAT_LIMIT), FLOAT_LIMIT);
    memory.waitingAt = memory.slotAt;
    // The next ones would not be in a row with those that wait.
    if (slotAt - memory.slotAt !== SLOT_MS) learnWaiting(call);
    memory.slotAt = slotAt;
    memory.slotCadence = memory.cadence;
    memory.slotSum = 0;
    memory.slotCount = 0;
  }
  const blockAt = at - modulo(at - memory.blockOffset, BLOCK_MS);
  if (blockAt === memory.blockAt) return;
  learnWaiting(call);
  if (Math.floor(blockAt / DAY) !== Math.floor(memory.fadedAt / DAY)) {
    largest.fade(Math.exp(-(blockAt - memory.fadedAt) / DAY / tuning.memoryDays));
    memory.fadedAt = blockAt;
  }
  for (let quantity = 0; quantity < QUANTITY_COUNT; quantity++) {
    if (blockLargest[quantity]! > 0) largest.add(quantity, blockLargest[quantity]!);
  }
  blockLargest.fill(0);
  memory.blockAt = blockAt;
  call.isMemoryDirty = true;
  widenBand(at, call);
  call.isForecastDue = true;
}

/** Some quarter of an hour, by chance as it were, so that not all series write their memory in the same run. */
function offsetOf({ firstAt, lastValue }: SeriesMemory): number {
  const bits = new Uint32Array(new Float64Array([firstAt, lastValue]).buffer);
  const mixed = bits.reduce(
    (hash, word) => Math.imul(hash ^ word, 0x9e3779b1) ^ (hash >>> 15),
    0x5bd1e995,
  );
  return ((mixed >>> 16) % (BLOCK_MS / SLOT_MS)) * SLOT_MS;
}

function learnWaiting(call: Call): void {
  const { memory } = call;
  for (let back = 0; back < WAITING_COUNT; back++) {
    const mean = memory.waiting[back]!;
    if (mean === mean) memory.profile.learn(memory.waitingAt - back * SLOT_MS, mean);
  }
  memory.waiting.fill(NaN);
  call.isMemoryDirty = true;
}

/** Half the width of the band, in usual changes: what chance brings once a week. */
function widenBand(at: number, { memory, tuning }: Call): void {
  const weeks = Math.min(
    Math.max((at - memory.firstAt) / (7 * DAY), tuning.shortestWeeks),
    tuning.memoryDays / 7,
  );
  const width = (name: "jump" | "level6", side: 0 | 1) =>
    memory.largest.valueOf(
      2 * EXPERTS.indexOf(name) + side,
      BAND_RARITY,
      weeks,
      tuning.tailSlopeRatio,
      0.3,
    );
  memory.jumpUp = width("jump", 0);
  memory.jumpDown = width("jump", 1);
  memory.levelUp = width("level6", 0);
  memory.levelDown = width("level6", 1);
}

interface Band {
  readonly expected: number;
  readonly lower: number;
  readonly upper: number;
}

/** What is expected of the next reading; the first one is expected as it comes. */
function bandOf(memory: SeriesMemory, value: number, { usualFloorRatio }: Tuning): Band {
  if (memory.count === 0) return { expected: value, lower: value, upper: value };
  if (memory.excursionAt !== 0) {
    const { frozenExpected, frozenLower, frozenUpper } = memory;
    return { expected: frozenExpected, lower: frozenLower, upper: frozenUpper };
  }
  const expected = memory.baseline6;
  const { up, down } = bandReach(memory, usualFloorRatio);
  return { expected, lower: limit(expected - down), upper: limit(expected + up) };
}

/** Experts whose excursion is over when the value itself is back, whatever the means still say. */
const OF_VALUES: ReadonlySet<ExpertName> = new Set(["jump", "step", "level6", "usualJump"]);

/** Evidence that makes half a score: more after other news, and more for what was news at the same height before. */
function evidenceOfHalf({ at, value }: Reading, { memory, experts, tuning }: Call): number {
  const half = tuning.evidenceOfHalf;
  if (memory.alarms.length === 0 || experts.evidence < half / 2) return half;
  const restMs = Math.min(tuning.restDays * DAY, 288 * memory.cadence);
  let rest = 0;
  let same = 0;
  for (const alarm of memory.alarms) {
    if (alarm.evidence === 0) continue;
    const age = at - alarm.at;
    rest += Math.exp(-age / restMs);
    const { firstValue, peakValue, expected } = alarm;
    const height = Math.abs(value - expected);
    const isLike = (other: number) =>
      Math.abs(value - other) <=
        tuning.sameRatio * Math.max(height, Math.abs(other - expected));
    if (isLike(firstValue) || isLike(peakValue)) same += Math.exp(-age / (tuning.sameDays * DAY));
  }
  return half * (1 + tuning.restShare * rest + tuning.sameShare * Math.max(same - 1, 0));
}

/** Whether the two days before, or the same day of the two weeks before, had as much of it at that time of day. */
function isSameEachDay({ at, value }: Reading, { memory }: Call): boolean {
  const reach = Math.max(30 * MINUTE, 1.1 * memory.cadence);
  const wasThere = (days: number) =>
    memory.alarms.some(({ at: then, firstValue, peakValue, expected }) => {
      if (Math.abs(at - then - days * DAY) > reach) return false;
      const height = value - memory.baseline6;
      const heights = [firstValue - expected, peakValue - expected]
        .map((other) => other / height);
      return Math.max(...heights) >= 0.5 && Math.min(...heights) <= 2;
    });
  return (wasThere(1) && wasThere(2)) || (wasThere(7) && wasThere(14));
}

/** Begins or continues an excursion. Returns the score that is news. */
function suspect(reading: Reading, band: Band, score: number, call: Call): number {
  const { memory, experts } = call;
  const isBeginning = memory.excursionAt === 0;
  const last = memory.alarms.at(-1);
  const lastEvidence = last !== undefined && last.at >= memory.excursionAt ? last.evidence : 0;
  // What was too weak to be told does not keep what follows it from being news.
  const isStronger = last !== undefined && last.evidence > 0 &&
    memory.excursionScore < DEFAULT_THRESHOLD &&
    experts.evidence > call.tuning.growthFactor * last.evidence;
  let shown = 0;
  if (isBeginning) {
    memory.excursionAt = reading.at;
    memory.excursionCount = memory.count;
    memory.excursionScore = 0;
    memory.frozenExpected = band.expected;
    const { lower, upper } = widenByRecent(band, memory);
    memory.frozenLower = lower;
    memory.frozenUpper = upper;
    memory.levelSince = 0;
  }
  if (
    (isBeginning && (isStronger || isRested(call))) || (memory.levelSince !== 0 && isRested(call))
  ) {
    shown = score;
    memory.excursionCount = memory.count;
    memory.excursionScore = score;
    noteAlarm(reading, memory.frozenExpected, experts.evidence, call);
  } else if (isBeginning) {
    shown = Math.min(score, REST_SCORE);
  } else if (
    score > memory.excursionScore &&
    (memory.excursionScore < DEFAULT_THRESHOLD ||
      memory.count - memory.excursionCount <= GROWING_COUNT) &&
    lastEvidence > 0 && experts.evidence > repeatFactor(reading.at, score, call) * lastEvidence
  ) {
    shown = score;
    memory.excursionScore = score;
    changeAlarm({ evidence: experts.evidence }, call);
  }
  const alarm = memory.alarms.at(-1);
  if (
    alarm !== undefined && alarm.at >= memory.excursionAt &&
    Math.abs(reading.value - alarm.expected) > Math.abs(alarm.peakValue - alarm.expected)
  ) changeAlarm({ peakValue: reading.value }, call);
  memory.suspiciousCount = memory.count;
  memory.calmCount = 0;
  continueRun(reading, shown, call);
  outlast(reading, call);
  return shown;
}

/**
 * By how much an excursion has to grow to be news again: a little while it was too weak to be told, not at all to be strong
 * enough, a lot in the hour after it was, and less than that later.
 */
function repeatFactor(at: number, score: number, { memory, tuning }: Call): number {
  if (memory.excursionScore < DEFAULT_THRESHOLD) {
    return score >= DEFAULT_THRESHOLD ? 1 : tuning.growthFactor;
  }
  return at - memory.excursionAt < HOUR ? 2 * tuning.repeatFactor : tuning.repeatFactor;
}

/** A band with the readings just before it: what was normal then is normal to come back to. */
function widenByRecent(
  { lower, upper }: Band,
  { recent, count }: SeriesMemory,
): { lower: number; upper: number } {
  let [low, high] = [lower, upper];
  for (let back = 2; back <= Math.min(count, RECENT_COUNT); back++) {
    const value = recent[(count - back) % RECENT_COUNT]!;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return { lower: low, upper: high };
}

/** Whether there was nothing suspicious for long enough that the next thing is news. */
function isRested({ memory, tuning }: Call): boolean {
  const rest = Math.max(2, Math.round(tuning.restMinutes * MINUTE / Math.max(memory.cadence, 1)));
  return memory.suspiciousCount === 0 || memory.count - memory.suspiciousCount > rest;
}

function noteAlarm(
  { at, value }: Reading,
  expected: number,
  evidence: number,
  call: Call,
): void {
  const { quantity } = call.experts;
  rememberAlarm(call.memory, {
    at,
    quantity,
    evidence,
    firstValue: value,
    peakValue: value,
    expected,
  });
  call.isMemoryDirty = true;
}

function changeAlarm(change: { evidence?: number; peakValue?: number }, call: Call): void {
  const { memory } = call;
  memory.alarms = [...memory.alarms.slice(0, -1), { ...memory.alarms.at(-1)!, ...change }];
  call.isMemoryDirty = true;
}

/**
 * Whether the values are back, whatever longer means still say: in the band of the time before the excursion, and, when that
 * has lasted, nearer to it than to the new level; or near what earlier days had at this time. The more calm readings there
 * are, the nearer their mean has to be.
 */
function hasReturned(call: Call): boolean {
  const { memory, experts, tuning } = call;
  const count = Math.min(memory.calmCount + 1, 6);
  const mean = meanOfRecent(memory, count);
  const narrowing = (count - 1) / 5;
  const { levelUp, levelDown } = bandReach(memory, tuning.usualFloorRatio);
  const { frozenExpected, frozenLower, frozenUpper } = memory;
  const upper = frozenUpper + narrowing * Math.min(frozenExpected + levelUp - frozenUpper, 0);
  const lower = frozenLower + narrowing * Math.max(frozenExpected - levelDown - frozenLower, 0);
  const isLasting = memory.levelSince !== 0;
  const isLevel = isLasting ||
    memory.lastAt - memory.excursionAt >= NEW_LEVEL_COUNT * memory.cadence;
  const level = isLasting ? memory.level : isLevel ? meanOfBlocks(memory, 4) : NaN;
  const isNearer = !isLevel || Math.abs(mean - frozenExpected) < Math.abs(mean - level);
  if (mean >= lower && mean <= upper && isNearer) return true;
  return isLasting && experts.comparedDays >= 2 &&
    Math.abs(experts.distanceToDays) <= Math.max(levelUp, levelDown) / 2;
}

/** Whether the excursion is one of values, that ends when they are back; others end when the evidence does. */
function isOfValues({ memory, run }: Call): boolean {
  const expert = EXPERTS[(run?.quantity ?? 0) >> 1]!;
  return OF_VALUES.has(expert) ||
    (memory.levelSince !== 0 && expert !== "variance" && expert !== "flat");
}

/** A reading while an excursion is on that is no evidence for it: enough of them end it. */
function calmDown(reading: Reading, isBack: boolean, call: Call): void {
  const { memory, tuning } = call;
  if (isBack || !isOfValues(call)) {
    if (memory.calmCount === 0) memory.calmAt = reading.at;
    memory.calmCount += 1;
    const needed = Math.max(
      2,
      Math.round(tuning.calmMinutes * MINUTE / Math.max(memory.cadence, 1)),
    );
    if (memory.calmCount < needed) return;
    if (memory.levelSince !== 0) {
      returnTo(meanOfRecent(memory, memory.calmCount), memory);
      memory.gapCount = memory.count;
    }
    endExcursion("recovered", "calm", memory.calmAt, call);
    return;
  }
  memory.calmCount = 0;
  if (call.run !== null) {
    call.run.lastSeenAt = reading.at;
    call.run.sampleCount += 1;
  }
  outlast(reading, call);
}

/** What becomes of an excursion that goes on: its own level is watched, and at last is the new normal. */
function outlast({ at }: Reading, call: Call): void {
  const { memory, experts, input, tuning } = call;
  const level = meanOfBlocks(memory, 4);
  const isDeployed = input.deploys.some((deployedAt) =>
    Math.abs(deployedAt - memory.excursionAt) <= DEPLOY_REACH &&
    at - Math.max(deployedAt, memory.excursionAt) >= DEPLOY_COUNT * memory.cadence
  );
  if (memory.levelSince === 0) {
    const span = Math.max(tuning.newLevelDays * DAY, NEW_LEVEL_COUNT * memory.cadence);
    if (at - memory.excursionAt < span && !isDeployed) return;
    experts.rebase(memory);
    memory.levelSince = memory.excursionAt;
    memory.level = level;
  }
  const reach = Math.max(
    (memory.frozenUpper - memory.frozenLower) / 2,
    Math.abs(memory.level - memory.frozenExpected) / 2,
  );
  if (!(Math.abs(level - memory.level) <= reach)) {
    memory.level = level;
    memory.levelSince = at;
  }
  if (
    !isDeployed && at - memory.levelSince < LEVEL_SHIFT_AFTER &&
    at - memory.excursionAt < UNSETTLED_AFTER
  ) return;
  memory.profile.shift(level - memory.frozenExpected);
  experts.begin();
  experts.rebase(memory);
  memory.gapCount = memory.count;
  call.isMemoryDirty = true;
  const cause = isDeployed
    ? "deploy"
    : at - memory.levelSince >= LEVEL_SHIFT_AFTER
    ? "held"
    : "unsettled";
  endExcursion("level_shift", cause, at, call);
}

function returnTo(level: number, memory: SeriesMemory): void {
  memory.baseline6 = level;
  memory.baseline24 = level;
}

/** Forgets the excursion, and what was open of it. */
function dropExcursion(call: Call): void {
  call.run = null;
  call.memory.excursionAt = 0;
  call.memory.levelSince = 0;
  call.memory.calmCount = 0;
}

/** Ends the excursion, and tells the end of its anomaly. */
function endExcursion(
  reason: "recovered" | "level_shift",
  cause: AnomalyEnding["cause"],
  endedAt: number,
  call: Call,
): void {
  const { run, events } = call;
  if (run?.isOpen) events.push(eventOf("close", run, call, { reason, cause, endedAt }));
  dropExcursion(call);
}

/** Learns a reading, unless it is or may be part of something unusual. */
function train(
  { at, value }: Reading,
  isSuspicious: boolean,
  label: LabelledSpan["label"] | null,
  call: Call,
): void {
  const { memory, experts } = call;
  const isWanted = label === null || label === "false_positive";
  const isCalm = !isSuspicious && memory.excursionAt === 0;
  if (isWanted && (isCalm || isRegular(at, call))) {
    experts.learn(memory);
    memory.slotSum += value;
    memory.slotCount += 1;
  } else if (memory.levelSince !== 0) experts.follow(memory);
}

/** Whether the same expert has raised so many alarms within a day that they are part of the series; what lasts is not. */
function isRegular(at: number, { memory, tuning }: Call): boolean {
  const newest = memory.alarms.at(-1);
  if (
    newest === undefined || memory.excursionAt === 0 ||
    at - memory.excursionAt >= Math.max(HOUR, LASTING_COUNT * memory.cadence)
  ) return false;
  const before = memory.alarms.filter((alarm) =>
    alarm !== newest && alarm.quantity === newest.quantity && at - alarm.at < 1.05 * DAY
  );
  return before.length >= tuning.regularCount;
}

/** Keeps the facts of an excursion, and opens its anomaly when the settings want it told. */
function continueRun(reading: Reading, shown: number, call: Call): void {
  const { memory, experts, events, input } = call;
  const { at, value } = reading;
  const perWeek = Math.exp(-experts.rarities[experts.quantity >> 1]!);
  call.run ??= {
    isOpen: false,
    isSilence: false,
    startedAt: memory.excursionAt,
    lastSeenAt: at,
    sampleCount: 0,
    score: 0,
    kind: "spike",
    quantity: experts.quantity,
    perWeek,
    comparedDays: experts.comparedDays,
    trainingCount: memory.trainedCount,
    trainedDays: Math.floor((at - memory.firstAt) / DAY),
    expected: memory.frozenExpected,
    lower: memory.frozenLower,
    upper: memory.frozenUpper,
    observed: value,
    cadence: memory.cadence,
  };
  const { run } = call;
  if (run.sampleCount === 0) expectOfDays(run, call);
  run.lastSeenAt = at;
  run.sampleCount += 1;
  if (shown > run.score) {
    run.score = shown;
    run.quantity = experts.quantity;
    run.perWeek = perWeek;
    run.comparedDays = experts.comparedDays;
  }
  if (Math.abs(value - run.expected) > Math.abs(run.observed - run.expected)) run.observed = value;
  run.kind = kindOf(run, value, at, call);
  if (!run.isOpen && isTold(run, input)) {
    run.isOpen = true;
    events.push(eventOf("open", run, call));
  }
}

/** What is unusual for the time of day was expected as on the nearest of the days before. */
function expectOfDays(run: Run, { memory, experts, tuning }: Call): void {
  const expert = EXPERTS[run.quantity >> 1]!;
  if (expert !== "timeOfDay" || experts.distanceToDays === 0) return;
  const { levelUp, levelDown } = bandReach(memory, tuning.usualFloorRatio);
  const mean = meanOfRecent(memory);
  run.expected = limit(mean - experts.distanceToDays);
  run.lower = limit(run.expected - levelDown);
  run.upper = limit(run.expected + levelUp);
  run.observed = mean;
}

/** Whether the settings want an excursion told: strong enough, large enough, and in the right direction. */
function isTold(run: Run, { settings }: DetectionInput): boolean {
  if (run.score < settings.threshold) return false;
  if (run.kind === "flat_line") return true;
  const change = run.observed - run.expected;
  if (Math.abs(change) < smallestChange(run, settings)) return false;
  return settings.direction === "both" || settings.direction === (change > 0 ? "up" : "down");
}

function smallestChange(
  { expected }: Run,
  { minimumChange, minimumChangeRatio }: DetectionInput["settings"],
): number {
  return Math.max(minimumChange, minimumChangeRatio * Math.abs(expected));
}

/** What kind of change it is, by who noticed it, which way it goes, and how long it has lasted. */
function kindOf(run: Run, value: number, at: number, { memory, input }: Call): AnomalyKind {
  const expert = EXPERTS[run.quantity >> 1]!;
  const isDown = run.observed < run.expected;
  const isStill = memory.equalRun > 0;
  if (value === 0 && isDown && run.upper > 0) {
    return input.kind === "counter" ? "counter_stopped" : "drop_to_zero";
  }
  if (run.kind === "drop_to_zero" || run.kind === "counter_stopped") return run.kind;
  if (expert === "flat" && isStill) {
    return input.kind === "counter" && value === 0 ? "counter_stopped" : "flat_line";
  }
  if (run.kind === "flat_line") return "flat_line";
  const isLasting = run.sampleCount >= LASTING_COUNT && at - run.startedAt >= LASTING_SPAN;
  const isOutside = run.observed > run.upper || run.observed < run.lower;
  if (isLasting && isOutside) return expert === "daySoFar" ? "trend" : "level_shift";
  if (expert === "timeOfDay" || expert === "daySoFar") return "shape";
  if (expert === "level24") return "trend";
  if (expert === "variance" && !isOutside) return "variance";
  return isDown ? "drop" : "spike";
}

/** Silence of that length is an anomaly, in ms. */
function usualSilence({ cadence, secondGap, intervals }: SeriesMemory): number {
  return Math.max(
    SILENT_INTERVALS * cadence,
    cadence + SILENT_MARGIN,
    SILENT_GAPS * secondGap,
    // As long again may be a new cadence.
    SILENT_REPEATED * intervals[0]!,
  );
}

/** Silence of that length is told, in ms; null before the usual interval is known. */
function silenceLimit({ memory, input }: Call): number | null {
  if (memory.cadence === 0 || memory.count < 10) return null;
  return usualSilence(memory) *
    2 ** (Math.max(input.settings.threshold - DEFAULT_THRESHOLD, 0) / SILENCE_STEP);
}

/** Tells by the clock that samples do not come, or that none will come any more. */
function watchSilence(now: number, call: Call): void {
  const { memory, events } = call;
  const silence = now - memory.lastAt;
  if (memory.sampleCount === 0 || silence <= 0) return;
  const open = call.silence ?? (call.run?.isOpen ? call.run : null);
  if (open === null) {
    beginSilence(now, call);
  } else if (silence >= noDataAfter(memory)) {
    const endedAt = Math.round(memory.lastAt + noDataAfter(memory));
    if (open === call.silence) nameSilence(open, endedAt - memory.lastAt, memory);
    events.push(eventOf("close", open, call, { reason: "no_data", cause: "silent", endedAt }));
    memory.silenceAfter = memory.lastAt;
    if (open === call.silence) call.silence = null;
    else dropExcursion(call);
  } else if (open === call.silence) nameSilence(open, silence, memory);
}

/** A sample that came ends the silence; one that nobody was told of is told afterwards. */
function endSilence(at: number, call: Call): void {
  const { events, memory } = call;
  if (call.silence === null && !call.run?.isOpen) beginSilence(at, call);
  const { silence } = call;
  if (silence === null) return;
  nameSilence(silence, at - memory.lastAt, memory);
  events.push(
    eventOf("close", silence, call, { reason: "recovered", cause: "arrived", endedAt: at }),
  );
  call.silence = null;
  // What was not told before the silence, and may be after it, begins after it.
  if (call.run !== null) call.run.startedAt = Math.max(call.run.startedAt, at);
}

function beginSilence(at: number, call: Call): void {
  const { memory, events, input } = call;
  const limitMs = silenceLimit(call);
  const length = at - memory.lastAt;
  const startedAt = Math.round(memory.lastAt + memory.cadence);
  if (limitMs === null || length < limitMs || memory.silenceAfter === memory.lastAt) return;
  // What was to be expected does not count as silence; what follows it does.
  const mutedUntil = input.spans.reduce(
    (latest, { label, from, until }) =>
      label === "missed" || label === "incident" || from > at
        ? latest
        : Math.max(latest, until ?? Infinity),
    -Infinity,
  );
  if (at - Math.max(memory.lastAt, mutedUntil) < limitMs) return;
  const usual = usualSilence(memory);
  if (scoreOfSilence(length, usual) < input.settings.threshold) return;
  const silence: Run = {
    isOpen: true,
    isSilence: true,
    startedAt,
    lastSeenAt: startedAt,
    sampleCount: 1,
    score: scoreOfSilence(length, usual),
    kind: "late",
    quantity: 0,
    perWeek: null,
    comparedDays: 0,
    trainingCount: memory.trainedCount,
    trainedDays: Math.floor((memory.lastAt - memory.firstAt) / DAY),
    expected: memory.cadence / 1000,
    lower: 0,
    upper: usual / 1000,
    observed: length / 1000,
    cadence: memory.cadence,
  };
  call.silence = silence;
  memory.silenceAfter = memory.lastAt;
  nameSilence(silence, length, memory);
  events.push(eventOf("open", silence, call));
}

/** A series that has been silent for so long has ended, in ms. */
function noDataAfter({ cadence }: SeriesMemory): number {
  return Math.max(NO_DATA_AFTER, NO_DATA_INTERVALS * cadence);
}

/** Names a silence by its length in ms, and how strong it is by now. */
function nameSilence(silence: Run, length: number, { cadence }: SeriesMemory): void {
  silence.observed = length / 1000;
  silence.kind = length >= MISSING_INTERVALS * cadence ? "missing" : "late";
  silence.score = Math.max(silence.score, scoreOfSilence(length, silence.upper * 1000));
}

function scoreOfSilence(length: number, usual: number): number {
  return Math.min(
    SILENCE_SCORE_LIMIT,
    DEFAULT_THRESHOLD + SILENCE_STEP * Math.log2(length / usual),
  );
}

/** When the clock has something to say next, in ms. */
function nextSilence(call: Call): number | null {
  const { memory, silence, run } = call;
  const limitMs = silenceLimit(call);
  if (limitMs === null) return null;
  const next = silence?.kind === "late"
    ? MISSING_INTERVALS * memory.cadence
    : silence !== null || run?.isOpen
    ? noDataAfter(memory)
    : memory.silenceAfter === memory.lastAt
    ? null
    : limitMs;
  return next === null ? null : Math.ceil(memory.lastAt + next);
}

/** All that is known of an anomaly as an event. */
function eventOf(
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

/**
 * The memory that a state stands for. One that is not ours, or of the other kind, counts as none. Whether an anomaly is
 * open is the store's word, for that is what people see.
 */
function recall(input: DetectionInput, tuning: Tuning, experts: Experts): Call {
  const parsed = State.safeParse(input.state);
  const known = parsed.success && parsed.data.kind === input.kind && input.memory !== null
    ? decodeMemory(parsed.data.numbers, input.memory, tuning)
    : null;
  const memory = known ?? new SeriesMemory(tuning);
  const { run, silence } = known !== null && parsed.success
    ? parsed.data
    : { run: null, silence: null };
  const call: Call = {
    input,
    memory,
    experts,
    tuning,
    events: [],
    run: run && { ...run },
    silence: silence && { ...silence },
    isMemoryDirty: known === null,
    isForecastDue: false,
  };
  if (input.openAnomaly === null) {
    call.silence = null;
    // A replay opened it at a lower threshold than the store tells: it goes on, untold.
    if (call.run?.isOpen && call.run.score < input.settings.threshold) {
      call.run = { ...call.run, isOpen: false };
    } else if (call.run?.isOpen) dropExcursion(call);
  } else if (call.silence?.startedAt !== input.openAnomaly.startedAt) {
    call.silence = null;
    call.run = adopt(input.openAnomaly, call);
  }
  return call;
}

/** The anomaly that the store holds as open: the one that the state knows, or one of which nothing else is known. */
function adopt({ startedAt }: OpenAnomaly, { run, memory, tuning }: Call): Run {
  if (run !== null) return { ...run, isOpen: true, startedAt };
  if (memory.excursionAt === 0) {
    const { expected, lower, upper } = bandOf(memory, 0, tuning);
    memory.excursionAt = startedAt;
    memory.frozenExpected = expected;
    memory.frozenLower = lower;
    memory.frozenUpper = upper;
  }
  return {
    isOpen: true,
    isSilence: false,
    startedAt,
    lastSeenAt: startedAt,
    sampleCount: 0,
    score: 0,
    kind: "level_shift",
    quantity: 2 * EXPERTS.indexOf("variance"),
    perWeek: null,
    comparedDays: 0,
    trainingCount: memory.trainedCount,
    trainedDays: 0,
    expected: memory.frozenExpected,
    lower: memory.frozenLower,
    upper: memory.frozenUpper,
    observed: memory.frozenExpected,
    cadence: memory.cadence,
  };
}

/** What the labels say of a time; of several the one that says most. */
function labelAt(at: number, { input }: Call): LabelledSpan["label"] | null {
  let found: LabelledSpan["label"] | null = null;
  for (const { from, until, label } of input.spans) {
    if (at < from || (until !== null && at > until)) continue;
    if (found === null || LABEL_ORDER.indexOf(label) < LABEL_ORDER.indexOf(found)) found = label;
  }
  return found;
}

const LABEL_ORDER: readonly LabelledSpan["label"][] = [
  "missed",
  "expected",
  "maintenance",
  "incident",
  "false_positive",
];

/** Whether too little was seen to tell anything. */
function isFirst({ count, cadenceCount, lastAt, firstAt }: SeriesMemory): boolean {
  return count < FIRST_COUNT || lastAt - firstAt < FIRST_SPAN ||
    (cadenceCount > 0 && count - cadenceCount < RELEARN_COUNT);
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

function modulo(value: number, divisor: number): number {
  return ((value % divisor) + divisor) % divisor;
}
