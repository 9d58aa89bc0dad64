import type { Sample } from "../../shared/detection/detector.ts";
import { DAY, HOUR, MINUTE, START } from "./detection-fixtures.ts";

/** A source of chance that starts the same way every time: numbers in [0, 1). */
export function seededRandom(seed: number): () => number {
  // mulberry32 by Tommy Ettinger, public domain: 32 bits of state, good enough for test data.
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Standard normal, by Box and Muller. */
export function gaussian(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** By Knuth; for small means. */
function poisson(mean: number, random: () => number): number {
  let count = 0;
  for (let product = random(); product > Math.exp(-mean); product *= random()) count += 1;
  return count;
}

/** From 0 at midnight to 1 at noon and back. */
export const hump = (at: number) => (1 - Math.cos((2 * Math.PI * at) / DAY)) / 2;

const isWeekend = (elapsed: number) => Math.floor(elapsed / DAY) % 7 >= 5;

/** Samples from `START` on, as long as told; `value` gets the time from the start, in ms, and a source of chance. */
export function samplesOf(
  duration: number,
  value: (elapsed: number, random: () => number) => number,
  { interval = MINUTE, seed = 1 }: { interval?: number; seed?: number } = {},
): Sample[] {
  const random = seededRandom(seed);
  return Array.from(
    { length: Math.round(duration / interval) },
    (_, index) => ({ at: START + index * interval, value: value(index * interval, random) }),
  );
}

/** A level with a tenth of noise. */
export const noisy = (level: number) => (_: number, random: () => number) =>
  level * (1 + 0.1 * gaussian(random));

/** Makes the value at a time from the start of a series, in ms. */
type Series = (random: () => number) => (elapsed: number) => number;

/** Kinds of data in which nothing is wrong. */
export const CLEAN: Readonly<Record<string, Series>> = {
  "gaussian": (random) => () => 100 + 10 * gaussian(random),
  "lognormal latency": (random) => () => Math.exp(0.5 * gaussian(random)),
  "poisson counts, mean 20": (random) => () => poisson(20, random),
  "rare errors, mean 0.2": (random) => () => poisson(0.2, random),
  "constant": () => () => 4096,
  "daily rhythm": (random) => (elapsed) => 60 + 80 * hump(elapsed) + 4 * gaussian(random),
  "quiet weekends": (random) => (elapsed) =>
    20 + (isWeekend(elapsed) ? 30 : 100) * hump(elapsed) + 3 * gaussian(random),
  "saw-tooth of 8 hours": (random) => (elapsed) =>
    500 + (elapsed % (8 * HOUR)) / MINUTE + gaussian(random),
  "job every hour": (random) => (elapsed) =>
    (elapsed / MINUTE % 60 === 0 ? 50 : 5) + gaussian(random),
  "wandering": (random) => {
    let value = 0;
    return () => 100 + (value = 0.98 * value + gaussian(random));
  },
};

/** One value a minute for as long as told, in ms. */
export function cleanValues(kind: string, seed: number, duration: number): number[] {
  const next = CLEAN[kind]!(seededRandom(seed));
  return Array.from({ length: duration / MINUTE }, (_, index) => next(index * MINUTE));
}
