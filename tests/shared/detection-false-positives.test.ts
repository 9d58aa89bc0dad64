import { describe, expect, it } from "vitest";
import { DAY, everyMinute, observe, PLAIN } from "./detection-fixtures.ts";
import { CLEAN, cleanValues } from "./detection-series.ts";

const SERIES = 8;

/** Anomalies per series and week, at normal sensitivity, over series that differ in their chance. */
function flagsPerWeek(kind: string): number {
  let flags = 0;
  for (let seed = 1; seed <= SERIES; seed += 1) {
    const settings = { ...PLAIN, unit: CLEAN[kind]!.unit };
    flags += observe(everyMinute(cleanValues(kind, seed, 7 * DAY)), { settings }).anomalies.size;
  }
  return flags / SERIES;
}

/** What the detector is known to flag: it has no memory of what recurs less often than its window. */
const KNOWN = [
  { kind: "lognormal, sigma 1", atMost: 8, why: "a tail of forty medians" },
  { kind: "saw-tooth of a day", atMost: 7, why: "a drop a day" },
  { kind: "office hours, square", atMost: 7, why: "a jump a day" },
  { kind: "cron job every hour", atMost: 168, why: "a spike an hour" },
];

describe("a week of clean data, one value a minute", () => {
  const quiet = Object.keys(CLEAN).filter((kind) => KNOWN.every((known) => known.kind !== kind));

  it.each(quiet)("has at most one anomaly: %s", (kind) => {
    expect(flagsPerWeek(kind)).toBeLessThanOrEqual(1);
  });

  it.each(KNOWN)("is known to have more, at most $atMost: $kind, for $why", ({ kind, atMost }) => {
    const flags = flagsPerWeek(kind);
    expect(flags).toBeGreaterThan(1);
    expect(flags).toBeLessThanOrEqual(atMost);
  });
});
