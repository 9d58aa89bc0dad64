import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DayProfile, PROFILE_SLOTS, SLOT_MS } from "../../shared/detection/day-profile.ts";
import { DAY, HOUR, START } from "./detection-fixtures.ts";

/** Days before and at `START`, each with one value all day; null for a day of which nothing is known. */
function profileOf(levels: readonly (number | null)[]): DayProfile {
  const profile = new DayProfile();
  levels.forEach((level, day) => {
    if (level === null) return;
    for (let slot = 0; slot < PROFILE_SLOTS; slot++) {
      profile.learn(START + day * DAY + slot * SLOT_MS, level + slot / 1000);
    }
  });
  return profile;
}

function rangesAt(profile: DayProfile, at: number, reach = 0) {
  const [lows, highs] = [new Float64Array(7), new Float64Array(7)];
  profile.rangesAround(at, reach, lows, highs);
  return { lows: Array.from(lows), highs: Array.from(highs) };
}

function meansAt(profile: DayProfile, at: number, slots: number, needed: number): number[] {
  const means = new Float64Array(7);
  profile.meansBefore(at, slots, needed, means);
  return Array.from(means);
}

const todayOf = (day: number) => Math.floor(START / DAY) + day;

describe("DayProfile", () => {
  describe("countDays()", () => {
    it("counts the days before today of which something is known, seven at most", () => {
      expect(new DayProfile().countDays(todayOf(0))).toBe(0);
      expect(profileOf([1]).countDays(todayOf(0))).toBe(0);
      expect(profileOf([1]).countDays(todayOf(1))).toBe(1);
      expect(profileOf([1, null, 1]).countDays(todayOf(3))).toBe(2);
      expect(profileOf([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]).countDays(todayOf(10))).toBe(7);
      expect(profileOf([1]).countDays(todayOf(7))).toBe(1);
      expect(profileOf([1]).countDays(todayOf(8))).toBe(0);
    });
  });

  describe("rangesAround()", () => {
    it("gives each of the seven days before, the nearest first", () => {
      const { lows, highs } = rangesAt(
        profileOf([10, 11, 12, 13, 14, 15, 16, 17]),
        START + 7 * DAY,
      );
      expect(lows).toEqual([16, 15, 14, 13, 12, 11, 10]);
      expect(highs).toEqual(lows);
    });

    it("reaches so many slots either way", () => {
      const { lows, highs } = rangesAt(profileOf([5, 5]), START + DAY + 12 * HOUR, 2);
      expect(lows[0]).toBeCloseTo(5 + 46 / 1000, 5);
      expect(highs[0]).toBeCloseTo(5 + 50 / 1000, 5);
    });

    it("knows nothing of a day that was not seen", () => {
      const { lows, highs } = rangesAt(profileOf([1, null, 3]), START + 3 * DAY);
      expect(lows).toEqual([3, Infinity, 1, Infinity, Infinity, Infinity, Infinity]);
      expect(highs).toEqual([3, -Infinity, 1, -Infinity, -Infinity, -Infinity, -Infinity]);
    });

    it("a day of eight days ago has made room for today", () => {
      const profile = profileOf([1, null, null, null, null, null, null, null, 9]);
      expect(rangesAt(profile, START + 8 * DAY).lows.every((low) => low === Infinity)).toBe(true);
    });
  });

  describe("meansBefore()", () => {
    it("is the mean of so many slots up to that time of day, over midnight too", () => {
      const profile = profileOf([10, 20, 30]);
      expect(meansAt(profile, START + 2 * DAY + 12 * HOUR, 4, 1)[0]).toBeCloseTo(
        20 + 46.5 / 1000,
        4,
      );
      // One slot of the day before and two of the day before that.
      const [mean] = meansAt(profile, START + 2 * DAY, 3, 1);
      expect(mean).toBeCloseTo((20 + 10 + 95 / 1000 + 10 + 94 / 1000) / 3, 4);
    });

    it.each([{ needed: 4, isKnown: true }, { needed: 4.5, isKnown: false }])(
      "of 4 known slots, where $needed are needed: known $isKnown",
      ({ needed, isKnown }) => {
        const profile = new DayProfile();
        for (let slot = 0; slot < 4; slot++) profile.learn(START + slot * SLOT_MS, 7);
        const [mean] = meansAt(profile, START + DAY + 7 * SLOT_MS, 8, needed);
        expect(Number.isNaN(mean)).toBe(!isKnown);
      },
    );
  });

  describe("rangeAt()", () => {
    it("is null with fewer than two days", () => {
      expect(profileOf([4]).rangeAt(START + DAY, 1)).toBeNull();
      expect(profileOf([4, 6]).rangeAt(START + 2 * DAY, 1)).toMatchObject({
        low: 4,
        middle: 5,
        high: 6,
      });
    });

    it("takes the middle day, not the mean", () => {
      expect(profileOf([1, 2, 300]).rangeAt(START + 3 * DAY, 1)?.middle).toBe(2);
    });

    it("does not rest on the day it is in", () => {
      expect(profileOf([4, 6, 99]).rangeAt(START + 2 * DAY, 1)?.high).toBe(6);
    });
  });

  describe("shift()", () => {
    it("moves what is known, and knows no more than before", () => {
      const profile = profileOf([4, null, 6]);
      profile.shift(10);
      expect(rangesAt(profile, START + 3 * DAY).lows.slice(0, 3)).toEqual([16, Infinity, 14]);
    });
  });

  it("stays finite whatever it learns", () => {
    const values = fc.constantFrom(1e300, -1e300, 0, 1);
    fc.assert(fc.property(fc.array(values, { maxLength: 20 }), values, (means, distance) => {
      const profile = new DayProfile();
      means.forEach((mean, index) => profile.learn(START + index * DAY / 3, mean));
      profile.shift(distance);
      expect(Array.from(profile.values).filter((mean) => Math.abs(mean) === Infinity)).toEqual([]);
    }));
  });

  it("knows times before 1970", () => {
    const profile = new DayProfile();
    for (const day of [-3, -2]) profile.learn(day * DAY + 5 * HOUR, 8);
    expect(rangesAt(profile, -DAY + 5 * HOUR).lows.slice(0, 2)).toEqual([8, 8]);
  });
});
