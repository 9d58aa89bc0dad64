import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { counterIncrease } from "../../shared/detection/counter-increase.ts";

describe("counterIncrease()", () => {
  it.each([
    { previous: 10, current: 13, increase: 3, why: "it counted" },
    { previous: 10, current: 10, increase: 0, why: "nothing happened" },
    { previous: 10, current: 4, increase: 4, why: "it restarted from zero" },
    { previous: 10, current: 0, increase: 0, why: "it restarted just now" },
    { previous: 10, current: -4, increase: 0, why: "no counter is negative" },
  ])("is $increase from $previous to $current: $why", ({ previous, current, increase }) => {
    expect(counterIncrease(previous, current)).toBe(increase);
  });

  it("is never negative", () => {
    const values = fc.double({ min: -1e300, max: 1e300, noNaN: true });
    fc.assert(fc.property(values, values, (previous, current) => {
      expect(counterIncrease(previous, current)).toBeGreaterThanOrEqual(0);
    }));
  });
});
