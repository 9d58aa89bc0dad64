import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  calibrate,
  type Candidate,
  countDays,
  MAX_THRESHOLD,
  MIN_THRESHOLD,
  REPLAY_THRESHOLD,
  thresholdOfBudget,
  touches,
} from "../../shared/detection/calibrate.ts";
import {
  CANDIDATE_LIMIT,
  type CandidateTally,
  collectCandidates,
  listCandidates,
  NO_CANDIDATES,
} from "../../shared/detection/collect-candidates.ts";
import type { DetectionEvent, Judgement, LabelledSpan } from "../../shared/detection/detector.ts";
import { TUNING } from "../../shared/detection/tuning.ts";

const DAY = 24 * 60 * 60 * 1000;

const candidate = (at: number, score: number, until = at): Candidate => ({
  ...{ at, until, score, kind: "spike" },
});
const scored = (...scores: number[]) => scores.map((score, index) => candidate(index * DAY, score));
const span = (label: LabelledSpan["label"], from: number, until: number | null): LabelledSpan => ({
  ...{ label, from, until },
});

/** Four weeks and one anomaly a week, unless told otherwise. */
const calibrateMonth = (candidates: Candidate[], more: object = {}) =>
  calibrate({ candidates, days: 28, budget: 1, spans: [], ...more });

describe("thresholds", () => {
  it("begin where excursions do: a replay keeps each of them, and none has a lower score", () => {
    expect([MIN_THRESHOLD, REPLAY_THRESHOLD]).toEqual([
      TUNING.excursionScore,
      TUNING.excursionScore,
    ]);
    expect(MIN_THRESHOLD).toBe(0.45);
  });
});

describe("thresholdOfBudget()", () => {
  it.each([
    [0.25, 0.55],
    [1, 0.5],
    [2, 0.475],
    [3.9, 0.451],
    [4, MIN_THRESHOLD],
    [4.1, MIN_THRESHOLD],
    [100, MIN_THRESHOLD],
    [1 / 16, 0.6],
    [0.01, 0.666],
    [1.1 * 4 ** -9, 0.947],
    [4 ** -9, MAX_THRESHOLD],
    [1e-9, MAX_THRESHOLD],
  ])("is, of %d a week, %d", (budget, expected) => {
    expect(thresholdOfBudget(budget)).toBeCloseTo(expected, 3);
  });

  it.each([0, -1, NaN, Infinity])("refuses a budget of %d", (budget) => {
    expect(() => thresholdOfBudget(budget)).toThrow(RangeError);
  });
});

describe("calibrate()", () => {
  it.each([[0.25, 0.55], [1, 0.5], [4, 0.45]])(
    "leaves the prior where there is no history, of %d a week",
    (budget, expected) => {
      expect(calibrate({ candidates: [], days: 0, budget, spans: [] })).toEqual({
        ...{ threshold: expected, budget, days: 0, candidateCount: 0, mutedCount: 0 },
        ...{ toldCount: 0, toldPerWeek: 0, allowedCount: Math.max(1, budget) },
        ...{ missedToldCount: 0, missedUntoldCount: 0, isBudgetExceeded: false },
      });
    },
  );

  it.each([
    ...[[4.4, 0.5], [4.5, 0.49], [7, 0.49], [14, 0.48], [28, 0.47]],
    ...[[41.9, 0.46], [42, MIN_THRESHOLD], [365, MIN_THRESHOLD]],
  ])(
    "lowers it little by little while %d days are silent",
    (days, expected) => {
      expect(calibrate({ candidates: [], days, budget: 1, spans: [] }).threshold).toBe(expected);
    },
  );

  it("tells the strongest, as many as the budget allows", () => {
    const found = calibrateMonth(scored(0.9, 0.8, 0.7, 0.6, 0.55, 0.52));
    expect(found).toMatchObject({
      ...{ threshold: 0.56, candidateCount: 6, toldCount: 4, toldPerWeek: 1, allowedCount: 4 },
      isBudgetExceeded: false,
    });
    expect(calibrateMonth(scored(0.9, 0.8, 0.7, 0.6)).threshold).toBeLessThanOrEqual(0.6);
  });

  it("tells none of those that are as strong as one that is too many", () => {
    expect(calibrateMonth(scored(0.9, 0.7, 0.7, 0.7, 0.7))).toMatchObject({
      ...{ threshold: 0.71, toldCount: 1, isBudgetExceeded: false },
    });
  });

  it("takes a score at the threshold for told", () => {
    const { threshold, toldCount } = calibrateMonth(scored(0.9, 0.9, 0.9, 0.9, 0.57));
    expect(threshold).toBeGreaterThan(0.57);
    expect(toldCount).toBe(4);
    const missed = calibrateMonth(scored(0.9, 0.9, 0.9, 0.9, 0.57), {
      spans: [span("missed", 4 * DAY, 4 * DAY)],
    });
    expect(missed).toMatchObject({ threshold: 0.57, toldCount: 5 });
  });

  it("counts less than a week as a week", () => {
    const two = scored(0.9, 0.8);
    expect(calibrate({ candidates: two, days: 2, budget: 2, spans: [] })).toMatchObject({
      ...{ toldCount: 2, toldPerWeek: 2, allowedCount: 2 },
    });
    expect(calibrate({ candidates: two, days: 2, budget: 1, spans: [] })).toMatchObject({
      ...{ threshold: 0.81, toldCount: 1, allowedCount: 1 },
    });
    expect(calibrate({ candidates: two, days: 6.99, budget: 1, spans: [] }).allowedCount).toBe(1);
  });

  it.each([
    [8.74, 1, 1],
    [8.76, 1, 2],
    [14, 1, 2],
    [28, 0.25, 1],
    [34.9, 0.25, 1],
    [35.1, 0.25, 2],
    [3, 0.01, 1],
  ])(
    "allows in %d days, at %d a week, %d: one that is a quarter due, and one at least",
    (days, budget, allowed) => {
      expect(calibrate({ candidates: [], days, budget, spans: [] }).allowedCount).toBe(allowed);
    },
  );

  it("does not go deaf by a single incident, however small the budget", () => {
    const found = calibrate({ candidates: scored(0.84), days: 6.8, budget: 0.25, spans: [] });
    expect(found).toMatchObject({ threshold: thresholdOfBudget(0.25), toldCount: 1 });
  });

  it("never goes beyond its bounds, and says when that exceeds the budget", () => {
    expect(calibrateMonth(scored(1, 1, 1, 1, 1))).toMatchObject({
      ...{ threshold: MAX_THRESHOLD, toldCount: 5, isBudgetExceeded: true },
    });
    const weak = [MIN_THRESHOLD, MIN_THRESHOLD - 0.001, 0.3];
    expect(calibrateMonth(scored(...weak), { budget: 100 })).toMatchObject({
      ...{ threshold: MIN_THRESHOLD, toldCount: 1, isBudgetExceeded: false },
    });
  });

  it.each(["expected", "maintenance", "false_positive"] as const)(
    "does not count those that begin in a span labelled %s",
    (label) => {
      const weak = scored(0.9, 0.9, 0.9, 0.9, 0.9, 0.5);
      expect(calibrateMonth(weak, { spans: [span(label, 0, 4 * DAY)] })).toMatchObject({
        ...{ candidateCount: 1, mutedCount: 5, toldCount: 1, isBudgetExceeded: false },
      });
      expect(calibrateMonth(weak, { spans: [span(label, 2 * DAY, null)] })).toMatchObject({
        ...{ candidateCount: 2, mutedCount: 4 },
      });
    },
  );

  it("counts those of an incident: they were worth telling", () => {
    const found = calibrateMonth(scored(0.9, 0.8), { spans: [span("incident", 0, null)] });
    expect(found).toMatchObject({ candidateCount: 2, mutedCount: 0 });
  });

  describe("a span labelled missed", () => {
    const strong = scored(0.9, 0.9, 0.9, 0.9, 0.9);

    it("takes the threshold down to the strongest candidate in it, whatever the budget", () => {
      const all = [...strong, candidate(10 * DAY, 0.484), candidate(10 * DAY + 1, 0.46)];
      expect(calibrateMonth(all, { spans: [span("missed", 10 * DAY, 11 * DAY)] })).toMatchObject({
        ...{ threshold: 0.48, toldCount: 6, allowedCount: 4, isBudgetExceeded: true },
        ...{ missedToldCount: 1, missedUntoldCount: 0 },
      });
    });

    it("is found by an anomaly that began before and lasted into it", () => {
      const all = [candidate(9 * DAY, 0.46, 10 * DAY)];
      const at = (from: number) =>
        calibrateMonth(all, { spans: [span("missed", from, 11 * DAY)] }).missedToldCount;
      expect([at(10 * DAY), at(10 * DAY + 1)]).toEqual([1, 0]);
    });

    it("takes it down to the lower bound and no further", () => {
      const missed = { spans: [span("missed", 10 * DAY, 11 * DAY)] };
      const found = (score: number) =>
        calibrateMonth([...strong, candidate(10 * DAY, score)], missed);
      expect(found(MIN_THRESHOLD)).toMatchObject({ threshold: MIN_THRESHOLD, missedToldCount: 1 });
      expect(found(MIN_THRESHOLD - 1e-9)).toMatchObject({ threshold: 0.91, missedToldCount: 0 });
    });

    it("changes nothing when there is no candidate in it, or only one that is too weak", () => {
      for (const all of [strong, [...strong, candidate(10 * DAY, MIN_THRESHOLD - 0.001)]]) {
        const found = calibrateMonth(all, { spans: [span("missed", 10 * DAY, 11 * DAY)] });
        expect(found).toMatchObject({ threshold: 0.91, missedToldCount: 0, missedUntoldCount: 1 });
      }
    });

    it("that the threshold tells anyway changes nothing", () => {
      const spans = [span("missed", 0, 1)];
      expect(calibrateMonth(scored(0.9), { spans }).threshold).toBe(
        calibrateMonth(scored(0.9)).threshold,
      );
    });
  });

  it("takes dropped candidates for as strong as the weakest that was kept for its strength", () => {
    const spans = [span("missed", 1 * DAY, 1 * DAY)];
    const kept = scored(0.9, 0.49, 0.8);
    expect(calibrateMonth(kept)).toMatchObject({
      threshold: 0.49,
      candidateCount: 3,
      toldCount: 3,
    });
    expect(calibrateMonth(kept, { droppedCount: 50 })).toMatchObject({
      ...{ threshold: 0.5, candidateCount: 53, toldCount: 2 },
    });
    expect(calibrateMonth(kept, { droppedCount: 50, spans })).toMatchObject({
      ...{ threshold: 0.49, toldCount: 53, isBudgetExceeded: true },
    });
  });

  it.each([-1, NaN, Infinity])("refuses a history of %d days", (days) => {
    expect(() => calibrate({ candidates: [], days, budget: 1, spans: [] })).toThrow(RangeError);
  });

  it("refuses a budget that is none", () => {
    expect(() => calibrateMonth([], { budget: 0 })).toThrow(RangeError);
  });

  describe("for any history", () => {
    const times = fc.integer({ min: 0, max: 28 * DAY });
    const candidates = fc.array(
      fc.record({
        at: times,
        score: fc.double({ min: REPLAY_THRESHOLD, max: 1, noNaN: true }),
        kind: fc.constant("drop" as const),
      }),
      { maxLength: 60 },
    );
    const spans = fc.array(
      fc.record({
        from: times,
        until: fc.option(times),
        label: fc.constantFrom(
          ...["expected", "maintenance", "incident", "false_positive", "missed"] as const,
        ),
      }),
      { maxLength: 4 },
    );
    const history = fc.record({
      ...{ candidates, spans },
      days: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 60, noNaN: true })),
      budget: fc.double({ min: 0.01, max: 100, noNaN: true }),
    });

    it("is within its bounds, and within the budget but for a missed span or the upper bound", () => {
      fc.assert(fc.property(history, (input) => {
        const found = calibrate(input);
        expect(found.threshold).toBeGreaterThanOrEqual(MIN_THRESHOLD);
        expect(found.threshold).toBeLessThanOrEqual(MAX_THRESHOLD);
        expect(Math.round(found.threshold * 100) / 100).toBe(found.threshold);
        const weeks = Math.max(input.days / 7, 1);
        if (found.missedToldCount === 0 && found.threshold < MAX_THRESHOLD) {
          expect(found.toldCount).toBeLessThanOrEqual(Math.max(1, input.budget * weeks + 0.75));
        }
        expect(found.isBudgetExceeded).toBe(found.toldCount > found.allowedCount);
        expect(found.candidateCount + found.mutedCount).toBe(input.candidates.length);
      }));
    });

    it("never gives a higher threshold to a larger budget", () => {
      fc.assert(
        fc.property(history, fc.double({ min: 1, max: 50, noNaN: true }), (input, factor) => {
          const more = calibrate({ ...input, budget: input.budget * factor });
          expect(more.threshold).toBeLessThanOrEqual(calibrate(input).threshold);
        }),
      );
    });

    it("never gives a lower threshold for a further candidate outside of missed spans", () => {
      fc.assert(fc.property(history, fc.double({ min: 0, max: 1, noNaN: true }), (input, score) => {
        const plain = { ...input, spans: input.spans.filter(({ label }) => label !== "missed") };
        const more = { ...plain, candidates: [...input.candidates, candidate(0, score)] };
        expect(calibrate(more).threshold).toBeGreaterThanOrEqual(calibrate(plain).threshold);
      }));
    });

    it("tells something in every missed span that has a candidate strong enough", () => {
      fc.assert(fc.property(history, (input) => {
        const { threshold } = calibrate({
          ...input,
          spans: [...input.spans, span("missed", 0, null)],
        });
        const isMuted = ({ at }: Candidate) =>
          input.spans.some((one) =>
            ["expected", "maintenance", "false_positive"].includes(one.label) &&
            touches(one, at, at)
          );
        const best = Math.max(
          ...input.candidates.filter((one) => !isMuted(one)).map(({ score }) => score),
        );
        if (best >= MIN_THRESHOLD) expect(threshold).toBeLessThanOrEqual(best);
      }));
    });

    it("does not depend on the order of the candidates", () => {
      fc.assert(fc.property(history, (input) => {
        const turned = { ...input, candidates: input.candidates.toReversed() };
        expect(calibrate(turned)).toEqual(calibrate(input));
      }));
    });
  });
});

describe("countDays()", () => {
  it.each([[null, 5, 0], [5, null, 0], [0, DAY / 2, 0.5], [DAY, 0, 0]])(
    "counts from %d to %d %d",
    (from, until, expected) => expect(countDays(from, until)).toBe(expected),
  );
});

describe("collectCandidates()", () => {
  const event = (startedAt: number, more: Partial<DetectionEvent> = {}): DetectionEvent => ({
    ...{ kind: "open", anomalyKind: "spike", startedAt, lastSeenAt: startedAt, endedAt: null },
    ...{ endedReason: null, expected: 1, lower: 0, upper: 2, observed: 9, score: 0.5 },
    ...{ severity: "info", explanation: "why", sampleCount: 1 },
    details: {
      ...{ scaleSeconds: 0, perWeek: null, comparedWith: "recent_values", trainingCount: 1 },
      ...{ cycles: 0, change: 8, minimumChange: 0 },
    },
    ...more,
  });
  const closed = (at: number, score: number, until = at + 1) =>
    event(at, {
      ...{ kind: "close", score, lastSeenAt: until, endedAt: until, endedReason: "recovered" },
    });
  const judged = (at: number): Judgement => ({
    ...{ at, kind: "normal", value: 1, expected: 1, lower: 0, upper: 2, score: 0 },
  });
  const learning = (at: number): Judgement => ({ at, kind: "insufficient_data", trainingCount: 1 });
  const collect = (
    events: DetectionEvent[],
    tally: CandidateTally = NO_CANDIDATES,
    spans: LabelledSpan[] = [],
  ) => collectCandidates(tally, { events, judgements: [] }, spans);

  it("counts an anomaly once, from call to call, with its highest score and its last kind", () => {
    let tally = collect([event(10, { score: 0.3 })]);
    expect(tally).toMatchObject({ ended: [], open: { at: 10, score: 0.3 } });
    tally = collect([event(10, { kind: "extend", score: 0.9, lastSeenAt: 20 })], tally);
    tally = collect([closed(10, 0.5, 30), closed(40, 0.4)], tally);
    expect(tally.open).toBeNull();
    expect(listCandidates(tally)).toEqual([
      { at: 10, until: 30, score: 0.9, kind: "spike" },
      { at: 40, until: 41, score: 0.4, kind: "spike" },
    ]);
    expect(listCandidates(collect([event(50, { anomalyKind: "trend" })], tally))[2])
      .toEqual({ at: 50, until: 50, score: 0.5, kind: "trend" });
  });

  it("does not lose one whose end was never told", () => {
    expect(listCandidates(collect([event(20)], collect([event(10)]))).map(({ at }) => at))
      .toEqual([10, 20]);
  });

  it("keeps the strongest, and those in a missed span, and counts the others", () => {
    const spans = [span("missed", 0, 1)];
    const weakest = closed(0, 0.2);
    const all = [
      weakest,
      ...scored(...Array.from({ length: 150 }, (_, n) => 0.3 + n / 1000))
        .map(({ at, score }) => closed(at + DAY, score)),
    ];
    const kept = all.reduce((tally, one) => collect([one], tally, spans), NO_CANDIDATES);
    expect(kept.ended).toHaveLength(CANDIDATE_LIMIT);
    expect(kept.droppedCount).toBe(51);
    const scores = kept.ended.map(({ score }) => score);
    expect(scores[0]).toBe(0.2);
    expect(Math.min(...scores.slice(1))).toBeCloseTo(0.351, 6);
    expect(Math.max(...scores)).toBeCloseTo(0.449, 6);
    // In one call as in many.
    expect(collect(all, NO_CANDIDATES, spans)).toEqual(kept);
  });

  it("knows from when to when was judged", () => {
    const say = (tally: CandidateTally, ...judgements: Judgement[]) =>
      collectCandidates(tally, { events: [], judgements }, []);
    let tally = say(NO_CANDIDATES, learning(1), learning(2));
    expect(tally).toMatchObject({ judgedFrom: null, judgedUntil: null });
    tally = say(tally, learning(3), judged(4), judged(5));
    expect(tally).toMatchObject({ judgedFrom: 4, judgedUntil: 5 });
    tally = say(tally);
    expect(tally).toMatchObject({ judgedFrom: 4, judgedUntil: 5 });
    expect(say(tally, judged(9))).toMatchObject({ judgedFrom: 4, judgedUntil: 9 });
  });
});
