import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { roundForMemory, TrainingWindow } from "../../shared/detection/training-window.ts";

describe("TrainingWindow", () => {
  it.each([
    { values: [5], p: 0.5, quantile: 5, why: "the only value" },
    { values: [5], p: 1, quantile: 5, why: "the only value, at the end" },
    { values: [3, 1, 2], p: 0.5, quantile: 2, why: "the middle one" },
    { values: [4, 1, 3, 2], p: 0.5, quantile: 2.5, why: "the mean of the two middle ones" },
    { values: [30, 10, 20], p: 0.25, quantile: 15, why: "half way to the neighbour" },
    { values: [30, 10, 20], p: 0, quantile: 10, why: "the smallest" },
    { values: [30, 10, 20], p: 1, quantile: 30, why: "the largest" },
    { values: [-1e300, 1e300], p: 0.5, quantile: 0, why: "no overflow between them" },
  ])("has at $p of $values $why", ({ values, p, quantile }) => {
    expect(new TrainingWindow(4, values).quantile(p)).toBe(quantile);
  });

  it("forgets the oldest value when it is full, not before", () => {
    const window = new TrainingWindow(3, [9, 1]);
    window.add(2);
    expect(window.values).toEqual([9, 1, 2]);
    window.add(3);
    expect(window.values).toEqual([1, 2, 3]);
    expect(new TrainingWindow(2, [9, 1, 2]).values).toEqual([1, 2]);
  });

  it("has the quantiles of a sort, whatever came and went", () => {
    const values = fc.array(fc.integer({ min: -9, max: 9 }), { minLength: 1, maxLength: 60 });
    const capacities = fc.integer({ min: 1, max: 20 });
    fc.assert(fc.property(values, capacities, (values, capacity) => {
      const window = new TrainingWindow(capacity);
      values.forEach((value) => window.add(value));
      const sorted = values.slice(-capacity).sort((a, b) => a - b);
      expect(window.values).toEqual(values.slice(-capacity));
      expect(window.size).toBe(sorted.length);
      sorted.forEach((value, rank) => {
        const p = sorted.length === 1 ? 0 : rank / (sorted.length - 1);
        expect(window.quantile(p)).toBeCloseTo(value, 9);
      });
    }));
  });
});

describe("roundForMemory()", () => {
  it.each([
    { value: 123456, remembered: 123456 },
    { value: 1234567, remembered: 1234570 },
    { value: 1 / 3, remembered: 0.333333 },
    { value: 1e300, remembered: 1e300 },
  ])("keeps $remembered of $value", ({ value, remembered }) => {
    expect(roundForMemory(value)).toBe(remembered);
  });

  it("errs by 5 in a million at most, once, and stays short", () => {
    fc.assert(fc.property(fc.double({ min: -1e300, max: 1e300, noNaN: true }), (value) => {
      const remembered = roundForMemory(value);
      expect(Math.abs(remembered - value)).toBeLessThanOrEqual(5e-6 * Math.abs(value) + 5e-324);
      expect(roundForMemory(remembered)).toBe(remembered);
      expect(JSON.stringify(remembered).length).toBeLessThanOrEqual(22); // -100000000000000000000
    }));
  });
});
