import { type Band, type Call, limit } from "./call.ts";
import { modulo, SLOT_MS } from "./day-profile.ts";
import type { Sample } from "./detector.ts";
import { DAY, HOUR } from "./durations.ts";
import type { Reading } from "./experts.ts";
import { bandReach } from "./forecast-band.ts";
import {
  INTERVAL_COUNT,
  QUANTITY_COUNT,
  type SeriesMemory,
  WAITING_COUNT,
} from "./series-memory.ts";
import { endSilence, usualSilence } from "./silence.ts";
import { EXPERTS, type Tuning } from "./tuning.ts";

/** What is learned waits for the end of a block: the large part of the memory is written anew once for each. */
const BLOCK_MS = 2 * HOUR;

/** Shortest time a rate is taken over, in ms: two samples of one instant would make an infinite one. */
const SHORTEST_INTERVAL = 1000;

/** Time in which a silence is forgotten, in ms. */
const SILENCE_MEMORY = 3 * DAY;

/** Silences within that time that are still anomalies: one each night comes to more. */
const SILENCE_COUNT = 2;

/** A cadence has changed when the middle one of the last intervals differs from it by so much. */
const CADENCE_CHANGE = 2;

/** From so many intervals on two samples are no neighbours any more. */
export const GAP_INTERVALS = 6;

/** Rarity, in nats, of the edges of the band: a value beyond comes once a week by chance. */
const BAND_RARITY = 0;

/** Turns a sample into a reading; null for the first sample of a counter and for a reset, which have no rate. */
export function takeReading({ at, value: raw }: Sample, call: Call): Reading | null {
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
  return { at, value: limit((value - lastValue) / seconds) };
}

/** Keeps the usual interval, and tells a gap. */
function noteInterval(at: number, call: Call): void {
  const { memory } = call;
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
    if (!isSilent || memory.silences > SILENCE_COUNT) {
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
export function turnTime(at: number, call: Call): void {
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
    waiting.copyWithin(1, 0);
    waiting[0] = memory.slotCount > 0 ? memory.slotSum / memory.slotCount : NaN;
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
    const factor = Math.exp(-(blockAt - memory.fadedAt) / DAY / tuning.memoryDays);
    largest.fade(factor);
    memory.longestGap *= factor;
    memory.secondGap *= factor;
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

/** What is expected of the next reading; the first one is expected as it comes. */
export function bandOf(memory: SeriesMemory, value: number, { usualFloorRatio }: Tuning): Band {
  if (memory.count === 0) return { expected: value, lower: value, upper: value };
  if (memory.excursionAt !== 0) {
    const { frozenExpected, frozenLower, frozenUpper } = memory;
    return { expected: frozenExpected, lower: frozenLower, upper: frozenUpper };
  }
  const expected = memory.baseline6;
  const { up, down } = bandReach(memory, usualFloorRatio);
  return { expected, lower: limit(expected - down), upper: limit(expected + up) };
}
