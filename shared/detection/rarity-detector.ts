import { type Band, type Call, dropExcursion, eventOf, isFirst, openRun, Run } from "./call.ts";
import type {
  DetectionInput,
  DetectionResult,
  Detector,
  Judgement,
  LabelledSpan,
  OpenAnomaly,
  Sample,
} from "./detector.ts";
import { HOUR } from "./durations.ts";
import {
  calmDown,
  endExcursion,
  evidenceOfHalf,
  hasReturned,
  isOfValues,
  isRegular,
  isRested,
  isSameEachDay,
  noteAlarm,
  suspect,
} from "./excursion.ts";
import { Experts, type Reading } from "./experts.ts";
import { forecastBand } from "./forecast-band.ts";
import { decodeMemory, encodeMemory, encodeState, SeriesMemory } from "./series-memory.ts";
import { nextSilence, watchSilence } from "./silence.ts";
import { bandOf, GAP_INTERVALS, takeReading, turnTime } from "./take-reading.ts";
import { EXPERTS, TUNING, type Tuning } from "./tuning.ts";
import { z } from "zod";

const VERSION = "rarity-1";

const TIME_LIMIT = 8.64e15;

/** Nor are they after a span of that length that left no trace, in ms. */
const LONG_SPAN = 2 * HOUR;

const State = z.object({
  version: z.literal(VERSION),
  kind: z.enum(["gauge", "counter"]),
  numbers: z.string(),
  run: Run.nullable(),
  silence: Run.nullable(),
});

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

function checkSample({ at, value }: Sample): void {
  if (!(Math.abs(at) <= TIME_LIMIT)) {
    throw new RangeError(`Cannot judge a sample: its time ${at} is no date`);
  }
  if (!Number.isFinite(value)) {
    throw new RangeError(`Cannot judge a sample: its value ${value} is not finite`);
  }
}
