import { decodeBase64, encodeBase64 } from "./base64.ts";
import { DayProfile } from "./day-profile.ts";
import { LargestValues } from "./largest-values.ts";
import { EXPERTS, type Tuning } from "./tuning.ts";

/** Quantities whose largest values are remembered: each expert upwards and downwards. */
export const QUANTITY_COUNT = 2 * EXPERTS.length;

/** Samples kept as they came, for the short scales. */
export const RECENT_COUNT = 12;

/** Means of six samples kept, for the scales of 24 and 96. */
export const BLOCK_COUNT = 16;

/** Quarters of an hour that wait to be learned. */
export const WAITING_COUNT = 9;

/** Intervals between samples kept, to know the usual one. */
export const INTERVAL_COUNT = 5;

/** Alarms remembered, to know a pattern again. */
export const ALARM_COUNT = 16;

/** Numbers of an alarm: see {@link Alarm}. */
const ALARM_SIZE = 6;

/** Whole numbers from 0 to 2³² that change with each sample, stored in this order. */
class Counts {
  /** Samples seen, of a counter one more than readings. */
  sampleCount = 0;
  /** Readings taken in: samples, of a counter its rates; and those that trained. */
  count = 0;
  trainedCount = 0;
  /** By their count, 0 for none: the reading since which the cadence has been what it is, */
  cadenceCount = 0;
  /** … the one before which there was a gap, */
  gapCount = 0;
  /** … the one at which the excursion was news last, and the newest suspicious one. */
  excursionCount = 0;
  suspiciousCount = 0;
  /** Calm readings since the last suspicious one. */
  calmCount = 0;
  /** Readings of the present quarter of an hour that trained. */
  slotCount = 0;
  /** Readings equal to the one before: in a row, and all in all. */
  equalRun = 0;
  equalCount = 0;
  /** 1 if the newest reading was labelled a false positive, or expected at its time of day. */
  wasAccepted = 0;
}

/** Numbers that change with each sample, stored in this order. A class, so that they are read as fast as variables. */
class Numbers extends Counts {
  /** Time and value of the newest sample as it came, for a counter before its rate is taken. */
  lastAt = 0;
  lastValue = 0;
  firstAt = 0;
  /** Usual time between samples in ms; 0 before there were two. */
  cadence = 0;
  /** The sample after which a silence was told, by its time. */
  silenceAfter = 0;
  /** The two longest gaps of late, in ms. */
  longestGap = 0;
  secondGap = 0;
  /** Silences of late, fading within days, and when the newest one ended. */
  silences = 0;
  lastSilenceAt = 0;
  /** Where the present quarter of an hour and block of two hours began, and the last day on which what is largest faded. */
  slotAt = 0;
  blockAt = 0;
  fadedAt = 0;
  /** Blocks begin so long after even hours, in ms: each series at its own time. */
  blockOffset = 0;
  /** Sum of the present quarter of an hour, and the cadence when it began; when the newest that waits began. */
  slotSum = 0;
  slotCadence = 0;
  waitingAt = 0;
  /** Time of the newest reading that was weighed: those that are expected are not. */
  weighedAt = 0;
  /** Mean change from reading to reading, of the last few and of all. */
  shortChange = 0;
  usualChange = 0;
  /** Baselines of the two scales, and mean and mean deviation of about a hundred readings. */
  baseline6 = 0;
  baseline24 = 0;
  mean = 0;
  deviation = 0;
  /** Half the width of the band in usual changes, upwards and downwards, of a single value and of six. */
  jumpUp = 0;
  jumpDown = 0;
  levelUp = 0;
  levelDown = 0;
  /** An excursion: when it began (0 for none), its highest score, and when it became calm. */
  excursionAt = 0;
  excursionScore = 0;
  calmAt = 0;
  /** Expectation and band at the time it began. */
  frozenExpected = 0;
  frozenLower = 0;
  frozenUpper = 0;
  /** The level it goes by since it has lasted: since when, 0 before that. */
  levelSince = 0;
  level = 0;
}

const COUNTS = Object.keys(new Counts()) as readonly (keyof Counts)[];
const NUMBERS = (Object.keys(new Numbers()) as (keyof Numbers)[]).filter((field) =>
  !COUNTS.includes(field as keyof Counts)
);

/** An alarm of the past. Times in ms, values in the unit of the readings. */
export interface Alarm {
  readonly at: number;
  /** Index of the expert and side that said most. */
  readonly quantity: number;
  readonly evidence: number;
  readonly firstValue: number;
  readonly peakValue: number;
  readonly expected: number;
}

/** What is remembered of a series: small numbers that change with each sample, and a large part that seldom does. */
export class SeriesMemory extends Numbers {
  /** The newest readings, by their count modulo {@link RECENT_COUNT}. */
  readonly recent = new Float64Array(RECENT_COUNT);
  /** Means of six readings each, by their number modulo {@link BLOCK_COUNT}. */
  readonly blocks = new Float64Array(BLOCK_COUNT);
  /** Mean absolute deviations of the experts that have one, and how many went into each. */
  readonly usual = new Float64Array(EXPERTS.length);
  readonly usualCounts = new Float32Array(EXPERTS.length);
  /** Largest values of the present block of two hours, of each quantity. */
  readonly blockLargest = new Float32Array(QUANTITY_COUNT);
  /** Means of the quarters of an hour before the present one that are not learned yet, the newest first; NaN for none. */
  readonly waiting = new Float32Array(WAITING_COUNT).fill(NaN);
  /** The newest intervals between samples in ms, the newest first; 0 for none. */
  readonly intervals = new Float32Array(INTERVAL_COUNT);
  /** The large part. */
  readonly largest: LargestValues;
  readonly profile = new DayProfile();
  alarms: readonly Alarm[] = [];

  /** A series of which nothing is known. */
  constructor({ largestCount, supposedLargest }: Tuning) {
    super();
    this.largest = new LargestValues(QUANTITY_COUNT, largestCount);
    for (const expert of SUPPOSED) {
      for (const value of supposedLargest) {
        this.largest.add(2 * EXPERTS.indexOf(expert), value);
        this.largest.add(2 * EXPERTS.indexOf(expert) + 1, value);
      }
    }
  }
}

/** Experts that measure in usual changes, for which something can be supposed before anything was seen. */
const SUPPOSED = [
  "jump",
  "step",
  "level6",
  "level24",
  "timeOfDay",
  "daySoFar",
] as const;

/** The small part as text. */
export function encodeState(memory: SeriesMemory): string {
  const numbers = Float64Array.from(NUMBERS, (field) => memory[field]);
  const counts = Uint32Array.from(COUNTS, (field) => memory[field]);
  return encodeParts([numbers, counts, ...smallParts(memory)]);
}

/** The large part as text. */
export function encodeMemory({ largest, profile, alarms }: SeriesMemory): string {
  const halves = new Uint16Array(largest.values.length);
  const words = new Uint32Array(largest.values.buffer);
  for (let at = 0; at < halves.length; at++) halves[at] = words[at]! >>> 16;
  const numbers = new Float64Array(profile.days.length + 1 + ALARM_COUNT * ALARM_SIZE);
  numbers.set(profile.days);
  numbers[profile.days.length] = alarms.length;
  alarms.forEach((alarm, index) => {
    const { at, quantity, evidence, firstValue, peakValue, expected } = alarm;
    numbers.set(
      [at, quantity, evidence, firstValue, peakValue, expected],
      profile.days.length + 1 + index * ALARM_SIZE,
    );
  });
  return encodeParts([numbers, profile.values, halves, largest.sizes]);
}

/** What {@link encodeState} and {@link encodeMemory} stand for; null if they are none of ours. */
export function decodeMemory(state: string, memory: string, tuning: Tuning): SeriesMemory | null {
  const found = new SeriesMemory(tuning);
  const { largest, profile } = found;
  const numbers = new Float64Array(NUMBERS.length);
  const counts = new Uint32Array(COUNTS.length);
  const halves = new Uint16Array(largest.values.length);
  const rest = new Float64Array(profile.days.length + 1 + ALARM_COUNT * ALARM_SIZE);
  if (!decodeParts(state, [numbers, counts, ...smallParts(found)])) return null;
  if (!decodeParts(memory, [rest, profile.values, halves, largest.sizes])) return null;

  if (
    !numbers.every(Number.isFinite) || !largest.sizes.every((size) => size <= tuning.largestCount)
  ) return null;
  NUMBERS.forEach((field, at) => found[field] = numbers[at]!);
  COUNTS.forEach((field, at) => found[field] = counts[at]!);
  const words = new Uint32Array(largest.values.buffer);
  for (let index = 0; index < halves.length; index++) words[index] = halves[index]! << 16;
  profile.days.set(rest.subarray(0, profile.days.length));
  const alarmCount = rest[profile.days.length]!;
  if (!(alarmCount >= 0 && alarmCount <= ALARM_COUNT)) return null;
  found.alarms = Array.from({ length: alarmCount }, (_, index) => {
    const [at, quantity, evidence, firstValue, peakValue, expected] = rest.subarray(
      profile.days.length + 1 + index * ALARM_SIZE,
    );
    return {
      at: at!,
      quantity: quantity!,
      evidence: evidence!,
      firstValue: firstValue!,
      peakValue: peakValue!,
      expected: expected!,
    };
  });
  return found;
}

/** Adds an alarm; the oldest one leaves when there are too many. */
export function rememberAlarm(memory: SeriesMemory, alarm: Alarm): void {
  memory.alarms = [...memory.alarms, alarm].slice(-ALARM_COUNT);
}

function smallParts(memory: SeriesMemory): NumberArray[] {
  const { recent, blocks, usual, usualCounts, blockLargest, waiting, intervals } = memory;
  return [recent, blocks, usual, usualCounts, blockLargest, waiting, intervals];
}

type NumberArray = Float64Array | Float32Array | Uint32Array | Uint16Array | Uint8Array;

/** The bytes of arrays one after the other: little-endian wherever Deno, Node and browsers run. */
function encodeParts(parts: readonly NumberArray[]): string {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(new Uint8Array(part.buffer, part.byteOffset, part.byteLength), at);
    at += part.byteLength;
  }
  return encodeBase64(bytes);
}

/** Fills the arrays with what {@link encodeParts} made of them; says whether the text was that. */
function decodeParts(text: string, parts: readonly NumberArray[]): boolean {
  const bytes = decodeBase64(text, parts.reduce((sum, part) => sum + part.byteLength, 0));
  if (bytes === null) return false;
  let at = 0;
  for (const part of parts) {
    new Uint8Array(part.buffer, part.byteOffset, part.byteLength)
      .set(bytes.subarray(at, at + part.byteLength));
    at += part.byteLength;
  }
  return true;
}
