import { DAY, HOUR, MINUTE } from "./detection-fixtures.ts";

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

/** Makes the value at a time from the start of a series, in ms. */
type Series = (random: () => number) => (elapsed: number) => number;

function gaussian(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** By Knuth; for small means. */
function poisson(mean: number, random: () => number): number {
  let count = 0;
  for (let product = random(); product > Math.exp(-mean); product *= random()) count += 1;
  return count;
}

const daily = (elapsed: number) => Math.sin((2 * Math.PI * elapsed) / DAY);
const hump = (elapsed: number) => (1 - Math.cos((2 * Math.PI * elapsed) / DAY)) / 2;
const isWeekend = (elapsed: number) => Math.floor(elapsed / DAY) % 7 >= 5;

/** Kinds of data in which nothing is wrong. `unit` is what such a metric would be in. */
export const CLEAN: Record<string, { unit: string; series: Series }> = {
  "gaussian": { unit: "seconds", series: (random) => () => 100 + 10 * gaussian(random) },
  "gaussian around zero": { unit: "seconds", series: (random) => () => gaussian(random) },
  "uniform": { unit: "seconds", series: (random) => () => random() },
  "exponential": { unit: "seconds", series: (random) => () => -Math.log(1 - random()) },
  "lognormal, sigma 0.5": {
    unit: "seconds",
    series: (random) => () => Math.exp(0.5 * gaussian(random)),
  },
  "lognormal, sigma 1": { unit: "seconds", series: (random) => () => Math.exp(gaussian(random)) },
  "poisson, mean 20": { unit: "count", series: (random) => () => poisson(20, random) },
  "low counts, mean 0.2": { unit: "count", series: (random) => () => poisson(0.2, random) },
  "low counts, mean 2": { unit: "count", series: (random) => () => poisson(2, random) },
  "constant": { unit: "bytes", series: () => () => 4096 },
  "daily sine with noise": {
    unit: "seconds",
    series: (random) => (elapsed) => 100 + 40 * daily(elapsed) + 4 * gaussian(random),
  },
  "daily sine, hardly any noise": {
    unit: "seconds",
    series: (random) => (elapsed) => 100 + 40 * daily(elapsed) + 0.1 * gaussian(random),
  },
  "daily poisson, 1 to 31": {
    unit: "count",
    series: (random) => (elapsed) => poisson(1 + 30 * hump(elapsed), random),
  },
  "percent clipped at 100": {
    unit: "percent",
    series: (random) => () => Math.min(100, 99.5 + 0.7 * gaussian(random)),
  },
  "weekly: quiet weekends": {
    unit: "seconds",
    series: (random) => (elapsed) =>
      20 + (isWeekend(elapsed) ? 30 : 100) * hump(elapsed) + 3 * gaussian(random),
  },
  "saw-tooth of an hour": {
    unit: "bytes",
    series: () => (elapsed) => 50 + (elapsed % HOUR) / MINUTE,
  },
  "saw-tooth of 8 hours": {
    unit: "bytes",
    series: (random) => (elapsed) => 500 + (elapsed % (8 * HOUR)) / MINUTE + gaussian(random),
  },
  "saw-tooth of a day": {
    unit: "bytes",
    series: (random) => (elapsed) => 500 + (elapsed % DAY) / MINUTE + gaussian(random),
  },
  "office hours, square": {
    unit: "seconds",
    series: (random) => (elapsed) =>
      (elapsed % DAY >= 9 * HOUR && elapsed % DAY < 17 * HOUR ? 100 : 20) + 3 * gaussian(random),
  },
  "cron job every 5 minutes": {
    unit: "seconds",
    series: (random) => (elapsed) => (elapsed / MINUTE % 5 === 0 ? 50 : 5) + gaussian(random),
  },
  "cron job every hour": {
    unit: "seconds",
    series: (random) => (elapsed) => (elapsed / MINUTE % 60 === 0 ? 50 : 5) + gaussian(random),
  },
  "random walk held back": {
    unit: "seconds",
    series: (random) => {
      let value = 0;
      return () => 100 + (value = 0.98 * value + gaussian(random));
    },
  },
  "random walk": {
    unit: "seconds",
    series: (random) => {
      let value = 1000;
      return () => value += gaussian(random);
    },
  },
  "random walk around zero": {
    unit: "seconds",
    series: (random) => {
      let value = 0;
      return () => value += gaussian(random);
    },
  },
};

/** One value a minute for as long as told, in ms. */
export function cleanValues(kind: string, seed: number, duration: number): number[] {
  const next = CLEAN[kind]!.series(seededRandom(seed));
  return Array.from({ length: duration / MINUTE }, (_, index) => next(index * MINUTE));
}
