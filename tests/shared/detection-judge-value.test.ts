import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { DetectionSettings } from "../../shared/detection/detector.ts";
import { judgeValue, SCORE_LIMIT, THRESHOLDS } from "../../shared/detection/judge-value.ts";
import { TrainingWindow } from "../../shared/detection/training-window.ts";
import { PLAIN, repeat, STEADY } from "./detection-fixtures.ts";

const window = (values: readonly number[]) => new TrainingWindow(240, values);
const judge = (
  value: number,
  training: readonly number[],
  settings: Partial<DetectionSettings> = {},
  seconds: number | null = null,
) => judgeValue(value, window(training), { ...PLAIN, ...settings }, seconds);

/** Median 10, quartiles 9 and 11, twentieths 8 and 12: a spread of 1.4826. */
const SPREAD = 1.4826;

describe("judgeValue()", () => {
  it.each([
    { value: 10, isCalm: true, isSuspicious: false, isFar: false, why: "the median" },
    { value: 14.44, isCalm: true, isSuspicious: false, isFar: false, why: "just under 3" },
    { value: 14.45, isCalm: false, isSuspicious: false, isFar: false, why: "just over 3" },
    { value: 18.89, isCalm: false, isSuspicious: false, isFar: false, why: "just under 6" },
    { value: 18.9, isCalm: false, isSuspicious: true, isFar: false, why: "just over 6" },
    { value: 1.11, isCalm: false, isSuspicious: false, isFar: false, why: "just under 6 below" },
    { value: 1.1, isCalm: false, isSuspicious: true, isFar: false, why: "just over 6 below" },
    { value: 27.79, isCalm: false, isSuspicious: true, isFar: false, why: "just under 12" },
    { value: 27.8, isCalm: false, isSuspicious: true, isFar: true, why: "just over 12" },
  ])("judges $value among the steady: $why", ({ value, why: _, ...verdict }) => {
    expect(judge(value, STEADY)).toMatchObject(verdict);
  });

  it("tells the expected value, the band and the score", () => {
    const { expected, lower, upper, score, spread } = judge(13, STEADY);
    expect(expected).toBe(10);
    expect(upper).toBeCloseTo(10 + 6 * SPREAD, 9);
    expect(lower).toBeCloseTo(10 - 6 * SPREAD, 9);
    expect(spread).toBeCloseTo(SPREAD, 9);
    expect(score).toBeCloseTo(3 / SPREAD, 9);
  });

  it("has a spread for each side", () => {
    // Half of the values are 10, the others spread above: nothing was ever below.
    const skewed = repeat(200, (index) => index % 2 === 0 ? 10 : 10 + index % 20);
    const { lower, expected, upper } = judge(10, skewed);
    expect(upper - expected).toBeGreaterThan(10 * (expected - lower));
  });

  it("knows a second level from its twentieth, which the quartile does not see", () => {
    const job = (share: number) => repeat(240, (index) => index % share === 0 ? 50 : 5);
    expect(judge(50, job(10)).isSuspicious).toBe(false);
    expect(judge(50, job(40)).isSuspicious).toBe(true);
  });

  it.each([
    { flat: 100, value: 105.9, isSuspicious: false },
    { flat: 100, value: 106.1, isSuspicious: true },
    { flat: 100, value: 94.1, isSuspicious: false },
    { flat: 100, value: 93.9, isSuspicious: true },
    { flat: -100, value: -105.9, isSuspicious: false },
    { flat: -100, value: -106.1, isSuspicious: true },
  ])("finds $value suspicious after a flat $flat: $isSuspicious", (
    { flat, value, isSuspicious },
  ) => {
    expect(judge(value, repeat(60, flat)).isSuspicious).toBe(isSuspicious);
  });

  it("finds anything rare after nothing but zeros, but never zero itself", () => {
    const zeros = repeat(60, 0);
    expect(judge(0, zeros)).toMatchObject({ score: 0, isSuspicious: false, isCalm: true });
    expect(judge(1e-9, zeros)).toMatchObject({ score: SCORE_LIMIT, isFar: true });
  });

  it.each([
    { median: 0, value: 5, isSuspicious: false, why: "chance is at least 1" },
    { median: 0, value: 6, isSuspicious: true, why: "six times chance" },
    { median: 100, value: 159, isSuspicious: false, why: "the chance of 100 is 10" },
    { median: 100, value: 160, isSuspicious: true, why: "six times that" },
  ])("judges a count of $value after $median: $why", ({ median, value, isSuspicious }) => {
    const verdict = judge(value, repeat(60, median), { unit: "count" });
    expect(verdict.isSuspicious).toBe(isSuspicious);
  });

  it.each([
    { rate: 0, seconds: 60, count: 5, isSuspicious: false },
    { rate: 0, seconds: 60, count: 6, isSuspicious: true },
    { rate: 5, seconds: 20, count: 159, isSuspicious: false },
    { rate: 5, seconds: 20, count: 161, isSuspicious: true },
  ])("judges $count counted in $seconds s at $rate/s by chance", (
    { rate, seconds, count, isSuspicious },
  ) => {
    const verdict = judge(count / seconds, repeat(60, rate), { unit: "count" }, seconds);
    expect(verdict.isSuspicious).toBe(isSuspicious);
  });

  it.each(
    [
      { sensitivity: "normal", value: 29.9, isSuspicious: false, isFar: false },
      { sensitivity: "normal", value: 30, isSuspicious: true, isFar: false },
      { sensitivity: "normal", value: 49.9, isSuspicious: true, isFar: false },
      { sensitivity: "normal", value: 50, isSuspicious: true, isFar: true },
      { sensitivity: "high", value: 29.9, isSuspicious: false, isFar: false },
      { sensitivity: "high", value: 30, isSuspicious: true, isFar: false },
      { sensitivity: "low", value: 39.9, isSuspicious: false, isFar: false },
      { sensitivity: "low", value: 40, isSuspicious: true, isFar: false },
    ] as const,
  )("judges $value after 10 by a minimum change of 20, at $sensitivity", (
    { sensitivity, value, ...verdict },
  ) => {
    const settings = { sensitivity, minimumChange: 20 };
    expect(judge(value, repeat(60, 10), settings)).toMatchObject(verdict);
  });

  it("never suspects less than the minimum change, at any sensitivity", () => {
    const cases = fc.record({
      minimumChange: fc.nat(100),
      value: fc.integer({ min: -200, max: 200 }),
      sensitivity: fc.constantFrom("low", "normal", "high"),
    });
    fc.assert(fc.property(cases, ({ value, ...settings }) => {
      const { isSuspicious, lower, upper } = judge(value, STEADY, settings);
      if (Math.abs(value - 10) < settings.minimumChange) expect(isSuspicious).toBe(false);
      expect(upper - 10).toBeGreaterThanOrEqual(settings.minimumChange - 1e-9);
      expect(10 - lower).toBeGreaterThanOrEqual(settings.minimumChange - 1e-9);
    }));
  });

  it.each(
    [
      { direction: "both", above: true, below: true },
      { direction: "up", above: true, below: false },
      { direction: "down", above: false, below: true },
    ] as const,
  )("watches $direction", ({ direction, above, below }) => {
    expect(judge(100, STEADY, { direction })).toMatchObject({ isSuspicious: above });
    expect(judge(-80, STEADY, { direction })).toMatchObject({ isSuspicious: below });
    expect(judge(100, STEADY, { direction }).isCalm).toBe(!above);
    expect(judge(-80, STEADY, { direction }).isCalm).toBe(!below);
  });

  it("suspects at high whatever it does at normal, and at normal whatever it does at low", () => {
    expect(THRESHOLDS).toEqual({ low: 9, normal: 6, high: 4 });
    const cases = fc.record({
      value: fc.integer({ min: -100, max: 100 }),
      training: fc.array(fc.integer({ min: -20, max: 20 }), { minLength: 30, maxLength: 60 }),
      minimumChange: fc.constantFrom(0, 1, 20),
      unit: fc.constantFrom("count", "seconds"),
    });
    fc.assert(fc.property(cases, ({ value, training, ...settings }) => {
      const [low, normal, high] = (["low", "normal", "high"] as const)
        .map((sensitivity) => judge(value, training, { ...settings, sensitivity }));
      for (const is of ["isSuspicious", "isFar"] as const) {
        if (low![is]) expect(normal![is]).toBe(true);
        if (normal![is]) expect(high![is]).toBe(true);
      }
      expect(low!.score).toBe(high!.score);
    }));
  });

  it("does not depend on the unit of the values", () => {
    const values = fc.integer({ min: -900, max: 900 });
    const cases = fc.tuple(values, fc.array(values, { minLength: 1, maxLength: 60 }));
    fc.assert(fc.property(cases, fc.integer({ min: 0, max: 90 }), ([value, past], minimum) => {
      const small = judge(value, past, { minimumChange: minimum });
      const large = judge(value * 1024, past.map((v) => v * 1024), {
        minimumChange: minimum * 1024,
      });
      for (const key of ["expected", "lower", "upper", "spread"] as const) {
        expect(large[key]).toBe(small[key] * 1024);
      }
      for (const key of ["score", "isSuspicious", "isFar", "isCalm"] as const) {
        expect(large[key]).toBe(small[key]);
      }
    }));
  });
});
