import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  LargestValues,
  roundToBfloat,
  UNKNOWN_RARITY,
} from "../../shared/detection/largest-values.ts";

const CAPACITY = 5;
const ROW = 1;

/** Three quantities, the middle one with these values. */
function holding(values: readonly number[]): LargestValues {
  const largest = new LargestValues(3, CAPACITY);
  for (const value of values) largest.add(ROW, value);
  return largest;
}
const rowOf = ({ values, sizes }: LargestValues) =>
  Array.from(values.subarray(ROW * CAPACITY, ROW * CAPACITY + sizes[ROW]!));

const positive = fc.double({ min: 1e-3, max: 1e6, noNaN: true });
const some = fc.array(positive, { minLength: 3, maxLength: 20 });

describe("LargestValues", () => {
  describe("add()", () => {
    it("keeps the largest, descending, whatever the order they came in", () => {
      fc.assert(fc.property(fc.array(positive, { maxLength: 20 }), (values) => {
        const rounded = values.map(roundToBfloat).sort((a, b) => b - a);
        expect(rowOf(holding(values))).toEqual(rounded.slice(0, CAPACITY));
      }));
    });

    it("leaves the other quantities alone", () => {
      const largest = holding([1, 2, 3, 4, 5, 6, 7]);
      expect(Array.from(largest.sizes)).toEqual([0, CAPACITY, 0]);
      expect(Array.from(largest.values.subarray(0, CAPACITY))).toEqual([0, 0, 0, 0, 0]);
      expect(Array.from(largest.values.subarray(2 * CAPACITY))).toEqual([0, 0, 0, 0, 0]);
    });

    it.each([0, -1, 1e-46])("does not take %s, which is nothing or rounds to it", (value) => {
      expect(rowOf(holding([value]))).toEqual([]);
    });

    it("holds what is too large for a float as the largest one", () => {
      const [value] = rowOf(holding([1e300]));
      expect(value).toBeGreaterThan(2e38);
      expect(Number.isFinite(value)).toBe(true);
    });
  });

  describe("rarity()", () => {
    const rarityOf = (values: readonly number[], value: number, weeks = 1) =>
      holding(values).rarity(ROW, value, weeks, 0.15, 0.1);

    it("is unknown with fewer than three values", () => {
      expect(rarityOf([1, 2], 100)).toBe(UNKNOWN_RARITY);
      expect(rarityOf([1, 2, 3], 100)).not.toBe(UNKNOWN_RARITY);
    });

    it("of what was seen five times in a week is minus the logarithm of five a week", () => {
      expect(rarityOf([1, 2, 3, 4, 5], 1)).toBeCloseTo(-Math.log(5), 9);
      expect(rarityOf([1, 2, 3, 4, 5], 0.1)).toBeCloseTo(-Math.log(5), 9);
      expect(rarityOf([1, 2, 3, 4, 5], 1, 3)).toBeCloseTo(-Math.log(5 / 3), 9);
    });

    it("beyond it grows by one for each mean excess", () => {
      // 1 to 5: the mean excess over the smallest is (1 + 2 + 3 + 4) / 4.
      expect(rarityOf([1, 2, 3, 4, 5], 3.5) - rarityOf([1, 2, 3, 4, 5], 1)).toBeCloseTo(1, 9);
    });

    it("takes a tail for no steeper than the smallest slope and the share of where it begins", () => {
      expect(rarityOf([10, 10, 10], 11.5) - rarityOf([10, 10, 10], 10)).toBeCloseTo(1, 9);
      const steep = holding([10, 10, 10]);
      expect(steep.rarity(ROW, 12, 1, 0, 2) - steep.rarity(ROW, 10, 1, 0, 2)).toBeCloseTo(1, 9);
    });

    it("never falls as the value grows", () => {
      fc.assert(fc.property(some, positive, positive, (values, a, b) => {
        const largest = holding(values);
        const of = (value: number) => largest.rarity(ROW, value, 1, 0.15, 0.1);
        expect(of(Math.max(a, b))).toBeGreaterThanOrEqual(of(Math.min(a, b)));
      }));
    });

    it("of the same value is higher the longer nothing like it came", () => {
      fc.assert(fc.property(some, positive, (values, value) => {
        expect(rarityOf(values, value, 2)).toBeGreaterThan(rarityOf(values, value, 1));
      }));
    });
  });

  describe("valueOf()", () => {
    it("is 0 with fewer than three values", () => {
      expect(holding([1, 2]).valueOf(ROW, 0, 1, 0.15, 0.1)).toBe(0);
    });

    it("is the inverse of rarity()", () => {
      fc.assert(fc.property(some, fc.double({ min: 0, max: 20, noNaN: true }), (values, rarity) => {
        const largest = holding(values);
        const value = largest.valueOf(ROW, rarity, 1, 0.15, 0.1);
        expect(largest.rarity(ROW, value, 1, 0.15, 0.1)).toBeCloseTo(rarity, 6);
      }));
    });
  });

  describe("fade()", () => {
    it("makes all values smaller and keeps their order", () => {
      fc.assert(
        fc.property(some, fc.double({ min: 0.1, max: 0.999, noNaN: true }), (values, factor) => {
          const largest = holding(values);
          const before = rowOf(largest);
          largest.fade(factor);
          rowOf(largest).forEach((value, at) => {
            expect(value).toBeLessThanOrEqual(before[at]! * factor);
            expect(value).toBeGreaterThan(before[at]! * factor * 0.99);
            if (at > 0) expect(value).toBeLessThanOrEqual(rowOf(largest)[at - 1]!);
          });
        }),
      );
    });
  });
});

describe("roundToBfloat()", () => {
  it("cuts to the upper 16 bits: never more, less by under one in 128, the same again", () => {
    fc.assert(fc.property(fc.double({ min: 1e-30, max: 1e37, noNaN: true }), (value) => {
      const rounded = roundToBfloat(value);
      expect(rounded).toBeLessThanOrEqual(value * (1 + 1e-7));
      expect(rounded).toBeGreaterThan(value * (1 - 1 / 127));
      expect(roundToBfloat(rounded)).toBe(rounded);
    }));
  });
});
