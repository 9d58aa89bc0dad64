import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { detector } from "../../shared/detection/current-detector.ts";
import { type Sample, STATE_BYTES_LIMIT } from "../../shared/detection/detector.ts";
import { everyMinute, type History, MINUTE, observe, PLAIN, START } from "./detection-fixtures.ts";
import { seededRandom } from "./detection-series.ts";

/** Stretches of values around a level, long and far apart enough for everything to happen. */
const stretches = fc.array(
  fc.record({
    level: fc.constantFrom(0, 10, 10, 10, 14, 18, 100, 900),
    noise: fc.constantFrom(0, 2, 2, 5),
    length: fc.constantFrom(1, 1, 2, 3, 5, 40, 90),
  }),
  { minLength: 1, maxLength: 10 },
);

/** Half an hour apart, so that a few dozen of them make a day; now and then one is missing. */
const series = fc.tuple(stretches, fc.integer()).map(([stretches, seed]): Sample[] => {
  const random = seededRandom(seed);
  const values = [{ level: 10, noise: 2, length: 35 }, ...stretches]
    .flatMap(({ level, noise, length }) =>
      Array.from({ length }, () => level + Math.round(noise * (2 * random() - 1)))
    );
  return everyMinute(values, 30 * MINUTE).filter(() => random() > 0.02);
});

const settings = fc.record({
  direction: fc.constantFrom("both", "up", "down"),
  sensitivity: fc.constantFrom("low", "normal", "high"),
  minimumChange: fc.constantFrom(0, 5, 50),
  unit: fc.constantFrom("count", "seconds"),
});

const kinds = fc.constantFrom("gauge", "counter");

/** Sizes of the calls, the last one repeated; 0 is a call without samples. */
const sizes = fc.tuple(fc.array(fc.nat(60), { maxLength: 20 }), fc.integer({ min: 1, max: 60 }))
  .map(([first, rest]) => [...first, rest]);

/** What became of a series, without how it was told. */
function outcome({ state, judgements, anomalies, status }: History) {
  const facts = [...anomalies.values()].map(({ kind: _, ...facts }) => facts);
  return { state, judgements, facts, status };
}

describe("every detector", () => {
  it("gives the same for any split into calls, with the state through JSON, as for one call", () => {
    fc.assert(
      fc.property(series, settings, kinds, sizes, (samples, settings, kind, sizes) => {
        const once = observe(samples, { settings, kind });
        const split = observe(samples, { settings, kind, sizes });
        expect(outcome(split)).toStrictEqual(outcome(once));
      }),
      { numRuns: 300 },
    );
  });

  it("sees openings, recoveries and level shifts in these samples", () => {
    const seen = new Set<string>();
    for (const samples of fc.sample(series, { numRuns: 300, seed: 1 })) {
      for (const { kind, endedReason } of observe(samples, { sizes: [5] }).events) {
        seen.add(`${kind} ${endedReason}`);
      }
    }
    expect([...seen].sort())
      .toEqual(["close level_shift", "close recovered", "extend null", "open null"]);
  });

  it("gives the same for the same input, and leaves it as it was", () => {
    fc.assert(fc.property(series, settings, kinds, (samples, settings, kind) => {
      const { state } = observe(samples.slice(0, 60), { settings, kind });
      const input = { state, samples, settings, kind, openAnomaly: null };
      const before = JSON.stringify(input);
      expect(detector.detectSeries(input)).toStrictEqual(detector.detectSeries(input));
      expect(JSON.stringify(input)).toBe(before);
    }));
  });

  it("gives what JSON can hold", () => {
    fc.assert(fc.property(series, settings, kinds, (samples, settings, kind) => {
      const result = detector.detectSeries({
        state: null,
        samples,
        settings,
        kind,
        openAnomaly: null,
      });
      expect(JSON.parse(JSON.stringify(result))).toStrictEqual(result);
    }));
  });

  it("tells of each anomaly from start to end in order", () => {
    fc.assert(fc.property(series, settings, sizes, (samples, settings, sizes) => {
      const times = new Set(samples.map(({ at }) => at));
      let previousEnd = -Infinity;
      for (const anomaly of observe(samples, { settings, sizes }).anomalies.values()) {
        const { startedAt, lastSeenAt, endedAt, observed, lower, upper, score } = anomaly;
        expect(startedAt).toBeGreaterThan(previousEnd);
        expect(lastSeenAt).toBeGreaterThanOrEqual(startedAt);
        expect(endedAt ?? Infinity).toBeGreaterThanOrEqual(lastSeenAt);
        expect([startedAt, lastSeenAt, endedAt ?? startedAt].every((at) => times.has(at))).toBe(
          true,
        );
        expect(observed <= lower || observed >= upper).toBe(true);
        expect(score).toBeGreaterThan(0);
        previousEnd = endedAt ?? Infinity;
      }
    }));
  });

  it("does not depend on the unit of the values", () => {
    fc.assert(fc.property(series, fc.constantFrom(0, 5, 50), (samples, minimumChange) => {
      const times = (factor: number) =>
        observe(samples.map(({ at, value }) => ({ at, value: value * factor })), {
          settings: { ...PLAIN, minimumChange: minimumChange * factor },
        }).events.map(({ kind, startedAt, endedAt, score, observed }) =>
          [kind, startedAt, endedAt, score, observed / factor] as const
        );
      expect(times(1024)).toEqual(times(1));
    }));
  });

  it.each([
    { name: "ordinary", value: (random: number) => 100 + random },
    { name: "long", value: (random: number) => -1.23456e20 * (1 + random) },
    { name: "huge", value: (random: number) => -1e300 * random },
    { name: "steadily growing", value: (random: number, index: number) => index + random },
    {
      name: "long and jumping",
      value: (random: number, index: number) => index % 3000 < 300 ? random : -1.23456e20 * random,
    },
  ])("keeps a state of bounded size over 100,000 $name values", ({ value }) => {
    const random = seededRandom(7);
    let state: unknown = null;
    let largest = 0;
    let startedAt: number | null = null;
    for (let index = 0; index < 100_000; index += 500) {
      const samples = Array.from({ length: 500 }, (_, offset) => ({
        at: START + (index + offset) * MINUTE,
        value: value(random(), index + offset),
      }));
      const openAnomaly = startedAt === null ? null : { startedAt };
      const result = detector.detectSeries({
        state,
        samples,
        settings: PLAIN,
        kind: "gauge",
        openAnomaly,
      });
      const last = result.events.at(-1);
      if (last !== undefined) startedAt = last.endedAt === null ? last.startedAt : null;
      state = result.state;
      largest = Math.max(largest, JSON.stringify(state).length);
    }
    expect(largest).toBeLessThanOrEqual(STATE_BYTES_LIMIT);
  });
});
