import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type GivenSettings, inferSettings } from "../../shared/detection/infer-settings.ts";

const OPEN: GivenSettings = { direction: "auto", minimumChange: null, minimumChangeRatio: null };

describe("inferSettings()", () => {
  it.each(
    [
      ["milliseconds", "gauge", "up", 5, 0.02],
      ["seconds", "gauge", "up", 0.005, 0.02],
      ["microseconds", "gauge", "up", 5000, 0.02],
      ["minutes", "gauge", "up", 0.005 / 60, 0.02],
      ["seconds", "counter", "both", 0, 0.02],
      ["bytes", "gauge", "both", 4096, 0.02],
      ["bytes", "counter", "both", 4096, 0.02],
      ["kibibytes", "gauge", "both", 4, 0.02],
      ["kilobytes", "gauge", "both", 4.096, 0.02],
      ["percent", "gauge", "both", 1, 0],
      ["ratio", "gauge", "both", 0.01, 0],
      ["count", "gauge", "both", 1, 0.02],
      ["count", "counter", "both", 0, 0.02],
      ["unknown", "gauge", "both", 0, 0.02],
      ["", "gauge", "both", 0, 0.02],
      ["furlongs_per_fortnight", "gauge", "both", 0, 0.02],
      ["constructor", "gauge", "both", 0, 0.02],
    ] as const,
  )("takes %s (%s) for %s, %d, %d", (unit, kind, direction, minimumChange, minimumChangeRatio) => {
    expect(inferSettings(OPEN, { unit, kind })).toEqual({
      direction,
      minimumChange,
      minimumChangeRatio,
    });
  });

  it.each(
    [
      [{ ...OPEN, direction: "both" }, { direction: "both", minimumChange: 5 }],
      [{ ...OPEN, direction: "down" }, { direction: "down", minimumChange: 5 }],
      [{ ...OPEN, minimumChange: 0 }, { minimumChange: 0, minimumChangeRatio: 0.02 }],
      [{ ...OPEN, minimumChange: 50 }, { direction: "up", minimumChange: 50 }],
      [{ ...OPEN, minimumChangeRatio: 0 }, { minimumChange: 5, minimumChangeRatio: 0 }],
      [{ ...OPEN, minimumChangeRatio: 0.5 }, { minimumChange: 5, minimumChangeRatio: 0.5 }],
    ] as const,
  )("leaves what was decided: %j", (given, expected) => {
    expect(inferSettings(given, { unit: "milliseconds", kind: "gauge" })).toMatchObject(expected);
  });

  it("means the same quantity in every unit of it", () => {
    const of = (unit: string) => inferSettings(OPEN, { unit, kind: "gauge" }).minimumChange;
    expect(of("days") * 86_400).toBeCloseTo(of("seconds"), 12);
    expect(of("hours") * 3600).toBeCloseTo(of("seconds"), 12);
    expect(of("nanoseconds") / 1e9).toBeCloseTo(of("seconds"), 12);
    expect(of("tebibytes") * 1024 ** 4).toBeCloseTo(of("bytes"), 6);
    expect(of("terabytes") * 1e12).toBeCloseTo(of("bytes"), 6);
    expect(of("ratio") * 100).toBeCloseTo(of("percent"), 12);
  });

  it("answers for any unit what a detector takes", () => {
    fc.assert(fc.property(fc.string(), fc.constantFrom("gauge", "counter"), (unit, kind) => {
      const settings = inferSettings(OPEN, { unit, kind });
      expect(["both", "up", "down"]).toContain(settings.direction);
      expect(settings.minimumChange).toBeGreaterThanOrEqual(0);
      expect(settings.minimumChangeRatio).toBeGreaterThanOrEqual(0);
    }));
  });
});
