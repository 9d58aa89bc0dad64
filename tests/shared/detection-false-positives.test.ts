import { describe, expect, it } from "vitest";
import { anomaliesFrom, DAY, everyMinute, observe, START } from "./detection-fixtures.ts";
import { CLEAN, cleanValues } from "./detection-series.ts";

const SEEDS = [1, 2, 3];

/** Days of data, and those at the start that are left out: the rhythm of a day is not known before. */
const DAYS = 21;
const FIRST_DAYS = 3;

/** Anomalies told a week of one kind, with the default threshold, over series that differ in their chance. */
function toldPerWeek(kind: string): number {
  const counts = SEEDS.map((seed) => {
    const history = observe(everyMinute(cleanValues(kind, seed, DAYS * DAY)), { sizes: [1440] });
    return anomaliesFrom(history, START + FIRST_DAYS * DAY).length;
  });
  return counts.reduce((sum, count) => sum + count) / SEEDS.length / ((DAYS - FIRST_DAYS) / 7);
}

describe("three weeks of clean data, one value a minute", () => {
  const kinds = Object.keys(CLEAN);
  const told = new Map<string, number>();

  it.each(kinds)("tells little of %s", (kind) => {
    told.set(kind, toldPerWeek(kind));
    // One kind may be worse than the budget; it must not be a nuisance.
    expect(told.get(kind)).toBeLessThanOrEqual(2);
  });

  it(`tells at most one anomaly a week on average over the ${kinds.length} kinds`, () => {
    const mean = [...told.values()].reduce((sum, perWeek) => sum + perWeek) / told.size;
    const rows = [...told].map(([kind, perWeek]) => `${perWeek.toFixed(2).padStart(6)} ${kind}`);
    console.log(
      ["False positives a week:", ...rows, `${mean.toFixed(2).padStart(6)} mean`].join("\n"),
    );
    expect(told.size).toBe(kinds.length);
    expect(kinds).toHaveLength(10);
    expect(mean).toBeLessThanOrEqual(1);
  });
});
