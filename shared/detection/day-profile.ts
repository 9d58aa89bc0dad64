import { DAY } from "./durations.ts";

/** Days remembered: the seven before, and today. */
export const PROFILE_DAYS = 8;

/** Parts of a day, a quarter of an hour each. */
export const PROFILE_SLOTS = 96;

export const SLOT_MS = DAY / PROFILE_SLOTS;

/** A mean beyond that would be infinite as a float. */
const LARGEST = 3e38;

/** Most days between today and what a day is compared with. */
const DAYS_BEFORE = PROFILE_DAYS - 1;

/**
 * What the values were at each time of day (UTC) on the last days, as means of quarters of an hour. NaN where nothing was
 * learned. A day is compared with days one by one, never with their mean: a Sunday is like the Sunday before.
 */
export class DayProfile {
  /** Day by day (day of the era modulo {@link PROFILE_DAYS}), slot by slot. */
  readonly values: Float32Array;
  /** Which day each row holds, in days since 1970; -1 for none. */
  readonly days: Float64Array;

  constructor() {
    this.values = new Float32Array(PROFILE_DAYS * PROFILE_SLOTS).fill(NaN);
    this.days = new Float64Array(PROFILE_DAYS).fill(-1);
  }

  /** Days other than `today` of which something is known. */
  countDays(today: number): number {
    let count = 0;
    for (const day of this.days) {
      if (day >= 0 && day < today && day >= today - DAYS_BEFORE) count += 1;
    }
    return count;
  }

  /** Learns the mean of a slot; `at` is any time in it, in ms. */
  learn(at: number, mean: number): void {
    const day = Math.floor(at / DAY);
    const row = modulo(day, PROFILE_DAYS);
    if (this.days[row] !== day) {
      this.days[row] = day;
      this.values.fill(NaN, row * PROFILE_SLOTS, (row + 1) * PROFILE_SLOTS);
    }
    this.values[row * PROFILE_SLOTS + slotOf(at)] = Math.min(Math.max(mean, -LARGEST), LARGEST);
  }

  /** Moves all that is known to another level. */
  shift(distance: number): void {
    for (let at = 0; at < this.values.length; at++) {
      const mean = this.values[at]! + distance;
      this.values[at] = Math.min(Math.max(mean, -LARGEST), LARGEST);
    }
  }

  /**
   * Smallest and largest mean of each of the days before around one time of day, `reach` slots either way; the nearest day
   * first, written to `lows` and `highs`: Infinity and -Infinity for a day of which nothing is known there.
   */
  rangesAround(at: number, reach: number, lows: Float64Array, highs: Float64Array): void {
    const today = Math.floor(at / DAY);
    const slot = slotOf(at);
    lows.fill(Infinity);
    highs.fill(-Infinity);
    for (let before = 1; before <= DAYS_BEFORE; before++) {
      const row = modulo(today - before, PROFILE_DAYS);
      if (this.days[row] !== today - before) continue;
      for (let offset = -reach; offset <= reach; offset++) {
        const mean = this.values[row * PROFILE_SLOTS + modulo(slot + offset, PROFILE_SLOTS)]!;
        if (mean < lows[before - 1]!) lows[before - 1] = mean;
        if (mean > highs[before - 1]!) highs[before - 1] = mean;
      }
    }
  }

  /**
   * Means of the days before over the `slotCount` slots up to the time of day of `at`, the nearest day first, written to `means`;
   * NaN where fewer than `neededCount` slots are known.
   */
  meansBefore(at: number, slotCount: number, neededCount: number, means: Float64Array): void {
    const today = Math.floor(at / DAY);
    const slot = slotOf(at);
    const first = slot - slotCount + 1;
    for (let before = 1; before <= DAYS_BEFORE; before++) {
      this.#sum = 0;
      this.#count = 0;
      this.#addSlots(today - before, Math.max(first, 0), slot);
      if (first < 0) this.#addSlots(today - before - 1, first + PROFILE_SLOTS, PROFILE_SLOTS - 1);
      means[before - 1] = this.#count >= Math.max(neededCount, 1) ? this.#sum / this.#count : NaN;
    }
  }

  #sum = 0;
  #count = 0;

  #addSlots(day: number, first: number, last: number): void {
    const row = modulo(day, PROFILE_DAYS);
    if (this.days[row] !== day) return;
    for (let at = row * PROFILE_SLOTS + first; at <= row * PROFILE_SLOTS + last; at++) {
      const mean = this.values[at]!;
      if (mean === mean) {
        this.#sum += mean;
        this.#count += 1;
      }
    }
  }

  /** What earlier days had at the time of day of `at`: smallest, middle and largest, or null without two of them. */
  rangeAt(
    at: number,
    reach: number,
  ): { low: number; middle: number; high: number; count: number } | null {
    const today = Math.floor(at / DAY);
    const slot = slotOf(at);
    const found: number[] = [];
    for (let before = 1; before <= DAYS_BEFORE; before++) {
      const day = today - before;
      const row = modulo(day, PROFILE_DAYS);
      if (this.days[row] !== day) continue;
      for (let offset = 0; offset <= reach; offset++) {
        const value = this.values[row * PROFILE_SLOTS + modulo(slot - offset, PROFILE_SLOTS)]!;
        if (value === value) {
          found.push(value);
          break;
        }
      }
    }
    if (found.length < 2) return null;
    found.sort((a, b) => a - b);
    return {
      low: found[0]!,
      middle: (found[(found.length - 1) >> 1]! + found[found.length >> 1]!) / 2,
      high: found.at(-1)!,
      count: found.length,
    };
  }
}

function slotOf(at: number): number {
  return Math.min(PROFILE_SLOTS - 1, Math.floor(modulo(at, DAY) / SLOT_MS));
}

/** The remainder, from 0 up to the divisor, of negative values too. */
export function modulo(value: number, divisor: number): number {
  return ((value % divisor) + divisor) % divisor;
}
