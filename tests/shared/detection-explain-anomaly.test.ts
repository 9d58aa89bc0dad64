import { describe, expect, it } from "vitest";
import { type AnomalyFacts, explainAnomaly } from "../../shared/detection/explain-anomaly.ts";
import { DAY, HOUR, MINUTE, PLAIN, SECOND, START } from "./detection-fixtures.ts";

const FACTS: AnomalyFacts = {
  startedAt: START,
  lastSeenAt: START + 11 * MINUTE,
  sampleCount: 12,
  worst: { value: 500, expected: 0, lower: -6, upper: 6, score: 500, spread: 1 },
  trainingCount: 60,
  gapBefore: null,
  ending: null,
};
const COUNTS = { ...PLAIN, unit: "count" };
const recovered = (endedAt: number) => ({ reason: "recovered", endedAt, calmCount: 5 }) as const;

describe("explainAnomaly()", () => {
  it("tells what was seen, what was expected and from how much", () => {
    expect(explainAnomaly(FACTS, COUNTS, "gauge")).toBe(
      "Saw 500, expected 0 (-6 to 6) from 60 earlier values. " +
        "That is 500 above, score 500 (threshold 6, sensitivity normal); the usual spread is 1. " +
        "12 suspicious samples in 11 min.",
    );
  });

  it("tells the minimum change, a gap before, and one sample as one", () => {
    const facts = { ...FACTS, sampleCount: 1, lastSeenAt: START, gapBefore: 45 * MINUTE };
    const settings = { ...PLAIN, minimumChange: 5, sensitivity: "high" } as const;
    expect(explainAnomaly(facts, settings, "gauge")).toBe(
      "Saw 500 seconds, expected 0 seconds (-6 to 6) from 60 earlier values. " +
        "That is 500 seconds above, score 500 (threshold 4, sensitivity high); " +
        "the usual spread is 1 seconds, the minimum change 5 seconds. " +
        "1 suspicious sample. There were no samples for 45 min before it started.",
    );
  });

  it.each(
    [
      { unit: "count", kind: "counter", text: "Saw 0.3333/s," },
      { unit: "bytes", kind: "counter", text: "Saw 0.3333 bytes/s," },
      { unit: "percent", kind: "gauge", text: "Saw 0.3333 percent," },
      { unit: "count", kind: "gauge", text: "Saw 0.3333," },
    ] as const,
  )("speaks of a $kind in $unit as $text", ({ unit, kind, text }) => {
    const facts = { ...FACTS, worst: { ...FACTS.worst!, value: 1 / 3 } };
    expect(explainAnomaly(facts, { ...PLAIN, unit }, kind)).toContain(text);
  });

  it("tells the side", () => {
    const facts = { ...FACTS, worst: { ...FACTS.worst!, value: -7 } };
    expect(explainAnomaly(facts, COUNTS, "gauge")).toContain("That is 7 below,");
  });

  it.each([
    { elapsed: 59 * SECOND, text: "59 s" },
    { elapsed: 60 * SECOND, text: "1 min" },
    { elapsed: 59.9 * MINUTE, text: "59 min" },
    { elapsed: 6 * HOUR, text: "6 h" },
    { elapsed: 6 * HOUR + 5 * MINUTE, text: "6 h 5 min" },
    { elapsed: 2 * DAY - MINUTE, text: "47 h 59 min" },
    { elapsed: 2 * DAY, text: "2 d" },
    { elapsed: 2 * DAY + 3 * HOUR, text: "2 d 3 h" },
  ])("says that it ended after $text", ({ elapsed, text }) => {
    const facts = { ...FACTS, ending: recovered(START + elapsed) };
    expect(explainAnomaly(facts, COUNTS, "gauge"))
      .toContain(` Ended after ${text}: 5 values in a row were well inside the band.`);
  });

  it("tells the new level of a level shift", () => {
    const ending = {
      reason: "level_shift",
      endedAt: START + DAY,
      median: 503,
      low: 480,
      high: 520,
    } as const;
    expect(explainAnomaly({ ...FACTS, ending }, COUNTS, "gauge")).toContain(
      " Ended as a level shift after 24 h: the values have held around 503 (mostly 480 to 520), " +
        "which counts as normal from now on.",
    );
  });

  it("admits that it lost its memory", () => {
    const facts = { ...FACTS, worst: null, ending: recovered(START + HOUR) };
    expect(explainAnomaly(facts, COUNTS, "gauge")).toMatch(/^What the detector knew .* is lost/);
  });
});
