/** The samples that storage is measured with: a realistic mix in equal quarters, the same in every run. */

/** What a series holds. A series' kind is its number modulo 4, in this order. */
export const KINDS = ["counts", "percentages", "milliseconds", "floats"] as const;
export type Kind = typeof KINDS[number];

/** What each kind is, for people. */
export const KIND_NOTES: Readonly<Record<Kind, string>> = {
  counts: "integers, a daily wave and noise",
  percentages: "2 decimals, wandering about a level",
  milliseconds: "2 decimals, log-normal with rare spikes",
  floats: "ratio × 100 in full precision",
};

export const SHARD_SIZE = 50;

/** Name and labels of series `index` (from 0). Each has a name of its own, and 50 of them share a `shard`. */
export function describeSeries(index: number) {
  const kind = KINDS[index % KINDS.length]!;
  return {
    kind,
    metric: `bench_${kind}_${index}`,
    labels: { job: "orders", instance: "api-1", shard: `${Math.floor(index / SHARD_SIZE)}` },
  };
}

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
export function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const rounded = (value: number) => Math.round(value * 100) / 100;

/** One series: each call gives the samples of its next day, `perDay` of them at even steps. */
export function createSeries(index: number): (perDay: number) => Float64Array {
  const random = createRandom(index * 7919 + 1);
  const gauss = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const level = 20 * Math.exp(random() * Math.log(250)); // of counts: 20 to 5,000, each power as often
  const usual = 10 + random() * 80;
  const median = 5 * Math.exp(random() * Math.log(60));
  let wandering = 0;

  const next: Record<Kind, (phase: number) => number> = {
    counts: (phase) => {
      const expected = level * (1 + 0.6 * Math.sin(2 * Math.PI * phase));
      return Math.max(0, Math.round(expected + gauss() * Math.sqrt(expected)));
    },
    percentages: () => {
      wandering = 0.95 * wandering + gauss();
      return rounded(Math.min(100, Math.max(0, usual + wandering)));
    },
    milliseconds: () => rounded(median * Math.exp(0.35 * gauss()) * (random() < 0.002 ? 20 : 1)),
    floats: () => {
      const all = 1000 + Math.floor(random() * 9000);
      return Math.round(all * (0.9 + 0.1 * random())) / all * 100;
    },
  };
  const take = next[KINDS[index % KINDS.length]!];
  return (perDay) => Float64Array.from({ length: perDay }, (_, at) => take(at / perDay));
}
