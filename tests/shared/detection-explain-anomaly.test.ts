import { describe, expect, it } from "vitest";
import { type AnomalyFacts, explainAnomaly } from "../../shared/detection/explain-anomaly.ts";
import {
  anomaliesFrom,
  DAY,
  HOUR,
  MINUTE,
  observe,
  PLAIN,
  SECOND,
  START,
} from "./detection-fixtures.ts";
import { gaussian, hump, noisy, samplesOf } from "./detection-series.ts";

const FACTS: AnomalyFacts = {
  kind: "spike",
  startedAt: START,
  lastSeenAt: START + 11 * MINUTE,
  sampleCount: 12,
  expected: 10,
  lower: 4,
  upper: 16,
  observed: 500,
  score: 0.71234,
  details: {
    scaleSeconds: 0,
    perWeek: 0.25,
    comparedWith: "recent_values",
    trainingCount: 4321,
    cycles: 3,
    change: 490,
    minimumChange: 0,
  },
  ending: null,
};
const SILENCE: AnomalyFacts = {
  ...FACTS,
  kind: "missing",
  sampleCount: 1,
  expected: 60,
  lower: 0,
  upper: 360,
  observed: 3600,
  score: 0.6,
  details: { ...FACTS.details, perWeek: null, comparedWith: "usual_interval", change: 3540 },
};
const explain = (
  change: Partial<AnomalyFacts> = {},
  kind: "gauge" | "counter" = "gauge",
  unit = "count",
) => explainAnomaly({ ...FACTS, ...change }, { ...PLAIN, unit }, kind);
const withDetails = (details: Partial<AnomalyFacts["details"]>) =>
  explain({ details: { ...FACTS.details, ...details } });

describe("explainAnomaly()", () => {
  it("tells all that a person needs, in this order", () => {
    expect(explain()).toBe(
      "Spike: saw 500, 10 expected (4 to 16); that is 490 above. " +
        "Seen in single samples, compared with the values before; by chance as much comes once in 4 weeks. " +
        "Score 0.7123 of 1, told from 0.5. Rests on 4321 samples and 3 days. " +
        "12 samples of it in 11 min.",
    );
  });

  it.each([
    { what: "what was expected, as value and band", text: "10 expected (4 to 16)" },
    { what: "what was seen", text: "saw 500" },
    { what: "at which scale", text: "Seen in single samples" },
    { what: "how rare it is", text: "once in 4 weeks" },
    { what: "compared with when", text: "compared with the values before" },
    { what: "on how many samples and cycles it rests", text: "Rests on 4321 samples and 3 days" },
  ])("tells $what", ({ text }) => {
    expect(explain()).toContain(text);
  });

  it("tells why it passed the practical gate, where there is one", () => {
    expect(withDetails({ minimumChange: 5 })).toContain("The smallest change that counts is 5.");
    expect(explain()).not.toContain("smallest change");
  });

  it.each([
    { scaleSeconds: 0, text: "Seen in single samples" },
    { scaleSeconds: 300, text: "Seen over 5 min" },
    { scaleSeconds: 5700, text: "Seen over 1 h 35 min" },
  ])("tells a scale of $scaleSeconds s: $text", ({ scaleSeconds, text }) => {
    expect(withDetails({ scaleSeconds })).toContain(text);
  });

  it.each([
    { perWeek: null, text: "how rare it is was not measured" },
    { perWeek: 7, text: "7 times a week" },
    { perWeek: 1.5, text: "2 times a week" },
    { perWeek: 1.4, text: "once a week" },
    { perWeek: 0.7, text: "once a week" },
    { perWeek: 0.5, text: "once in 2 weeks" },
    { perWeek: 1 / 103, text: "once in 103 weeks" },
    { perWeek: 1 / 104, text: "once in 2 years" },
    { perWeek: 1 / 520, text: "once in 10 years" },
    { perWeek: 1 / 521, text: "less than once in 10 years" },
    { perWeek: 0, text: "less than once in 10 years" },
  ])("tells $perWeek a week as $text", ({ perWeek, text }) => {
    expect(withDetails({ perWeek })).toContain(text);
  });

  it.each([
    { cycles: 0, text: "and less than a day" },
    { cycles: 1, text: "and 1 day." },
    { cycles: 21, text: "and 21 days" },
  ])("tells $cycles days: $text", ({ cycles, text }) => {
    expect(withDetails({ cycles })).toContain(text);
  });

  it("tells a change below as one, and the same time of day as such", () => {
    const text = withDetails({ change: -7, comparedWith: "same_time_of_day" });
    expect(text).toContain("that is 7 below");
    expect(text).toContain("compared with the same time on earlier days");
  });

  it.each(
    [
      { unit: "count", kind: "counter", text: "saw 500/s," },
      { unit: "bytes", kind: "counter", text: "saw 500 bytes/s," },
      { unit: "seconds", kind: "gauge", text: "saw 500 seconds," },
      { unit: "count", kind: "gauge", text: "saw 500," },
    ] as const,
  )("names $unit of a $kind: $text", ({ unit, kind, text }) => {
    expect(explain({}, kind, unit)).toContain(text);
  });

  it("tells a flat line by where it stands", () => {
    expect(explain({ kind: "flat_line" }, "gauge", "percent")).toContain(
      "Flat line: it has not moved from 500 percent.",
    );
  });

  it("tells a silence by its length, the usual interval and the longest, its score and what it rests on", () => {
    expect(explain(SILENCE)).toBe(
      "Missing: no sample for 1 h; they usually come every 1 min, and silence of up to 6 min is usual. " +
        "Score 0.6 of 1, told from 0.5. Rests on 4321 samples.",
    );
    expect(explain({ ...SILENCE, kind: "late", observed: 200 })).toContain(
      "Late: no sample for 3 min",
    );
  });

  it("tells the threshold and the score of a silence as they are", () => {
    const text = explainAnomaly(
      { ...SILENCE, score: 0.71234, details: { ...SILENCE.details, trainingCount: 10 } },
      { ...PLAIN, threshold: 0.62 },
      "counter",
    );
    expect(text).toContain("usual. Score 0.7123 of 1, told from 0.62. Rests on 10 samples.");
  });

  it("one sample is not counted", () => {
    expect(explain({ sampleCount: 1 })).not.toContain("of it in");
  });

  it("says that what was known of it is lost", () => {
    expect(explain({ sampleCount: 0 })).toContain("is lost");
  });

  it.each(
    [
      {
        reason: "recovered",
        cause: "calm",
        text: "Ended after 20 min: back to what was expected.",
      },
      { reason: "recovered", cause: "arrived", text: "Ended after 20 min: a sample came." },
      {
        reason: "recovered",
        cause: "labelled",
        text: "from then on it is under maintenance, or labelled as expected",
      },
      {
        reason: "level_shift",
        cause: "held",
        text: "as a level shift: the new level has held for a day",
      },
      { reason: "level_shift", cause: "deploy", text: "as a level shift: it came with a deploy" },
      { reason: "level_shift", cause: "unsettled", text: "it has not settled for a week" },
      {
        reason: "no_data",
        cause: "silent",
        text: "Ended after 20 min: there have been no more samples.",
      },
    ] as const,
  )("tells how it ended: $cause", ({ reason, cause, text }) => {
    expect(explain({ ending: { reason, cause, endedAt: START + 20 * MINUTE } })).toContain(text);
  });

  it.each([
    { length: 59 * SECOND, text: "in 59 s" },
    { length: MINUTE, text: "in 1 min" },
    { length: 59 * MINUTE, text: "in 59 min" },
    { length: HOUR, text: "in 1 h." },
    { length: 6 * HOUR + 5 * MINUTE, text: "in 6 h 5 min" },
    { length: 48 * HOUR - 1, text: "in 47 h 59 min" },
    { length: 2 * DAY + 3 * HOUR, text: "in 2 d 3 h" },
  ])("tells $length ms as $text", ({ length, text }) => {
    expect(explain({ lastSeenAt: START + length })).toContain(text);
  });
});

describe("explanation of what the detector found", () => {
  const rhythm = (elapsed: number, random: () => number) =>
    20 + 80 * hump(elapsed) + 3 * gaussian(random);

  it("of a spike: value and band, rarity, what it rests on, and the gate that it passed", () => {
    const samples = samplesOf(
      5 * DAY,
      (elapsed, random) => elapsed >= 5 * DAY - 3 * MINUTE ? 900 : noisy(50)(elapsed, random),
    );
    const settings = { ...PLAIN, minimumChange: 20 };
    const [anomaly, ...others] = anomaliesFrom(observe(samples, { settings }), START + 2 * DAY);
    expect(others).toEqual([]);
    expect(anomaly!.explanation).toMatch(
      /^Spike: saw 900 seconds, [45]\d(\.\d+)? seconds expected \(\d+(\.\d+)? to \d+(\.\d+)?\); that is 8\d\d(\.\d+)? seconds above\. Seen in single samples, compared with the values before; by chance as much comes less than once in 10 years\. Score 0\.\d+ of 1, told from 0\.5\. The smallest change that counts is 20 seconds\. Rests on 7\d\d\d samples and 4 days\. 3 samples of it in 2 min\.$/,
    );
    expect(anomaly!.details).toMatchObject({
      comparedWith: "recent_values",
      cycles: 4,
      minimumChange: 20,
    });
    expect(anomaly!.details.change).toBeCloseTo(anomaly!.observed - anomaly!.expected, 9);
  });

  it("of a rhythm that comes at another time: the same time of day, over how long, and from how many days", () => {
    const found = [-3, -2, -1].flatMap((hours) => {
      const samples = samplesOf(
        10 * DAY,
        (elapsed, random) => rhythm(elapsed + (elapsed >= 9 * DAY ? hours * HOUR : 0), random),
      );
      return anomaliesFrom(observe(samples), START + 9 * DAY);
    }).filter(({ details }) => details.comparedWith === "same_time_of_day");
    expect(found.length).toBeGreaterThanOrEqual(1);
    for (const { explanation } of found) {
      expect(explanation).toMatch(
        /Seen over \d+ (s|min|h).*, compared with the same time on earlier days;/,
      );
      expect(explanation).toMatch(/Rests on \d+ samples and \d+ days\./);
    }
  });

  it("what was seen lies outside the band that it tells, unless it is a flat line or a change of variance", () => {
    for (const seed of [1, 2, 3]) {
      const samples = samplesOf(
        8 * DAY,
        (elapsed, random) =>
          rhythm(elapsed, random) + (elapsed > 3 * DAY && random() < 0.0004 ? 300 : 0),
        { seed },
      );
      for (
        const { anomalyKind, observed, lower, upper } of anomaliesFrom(
          observe(samples),
          START + DAY,
        )
      ) {
        if (anomalyKind === "flat_line" || anomalyKind === "variance") continue;
        expect(observed < lower || observed > upper).toBe(true);
      }
    }
  });
});
