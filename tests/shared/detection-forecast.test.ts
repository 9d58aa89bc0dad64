import { describe, expect, it } from "vitest";
import type { Forecast } from "../../shared/detection/detector.ts";
import { DAY, HOUR, MINUTE, observe, START } from "./detection-fixtures.ts";
import { gaussian, hump, noisy, samplesOf } from "./detection-series.ts";

const rhythm = (elapsed: number, random: () => number) =>
  20 + 80 * hump(elapsed) + 3 * gaussian(random);

/** Expected value and band of a forecast at a time, in ms. */
function valueAt({ from, stepMs, expected, lower, upper }: Forecast, at: number) {
  const step = Math.floor((at - from) / stepMs);
  return { expected: expected[step]!, lower: lower[step]!, upper: upper[step]! };
}

describe("forecast", () => {
  const samples = samplesOf(6 * DAY + 12 * HOUR, rhythm);
  const forecast = observe(samples, { sizes: [60] }).forecast!;
  const now = samples.at(-1)!.at;

  it("covers the last day and the coming one by equal steps on round times", () => {
    const { from, stepMs, expected, lower, upper } = forecast;
    expect(from % stepMs).toBe(0);
    expect(stepMs).toBeLessThanOrEqual(HOUR);
    expect(from).toBeLessThanOrEqual(now - DAY + 2 * HOUR);
    expect(from + stepMs * expected.length).toBeGreaterThanOrEqual(now + DAY - 2 * HOUR);
    expect([lower.length, upper.length]).toEqual([expected.length, expected.length]);
  });

  it("has what is expected within its band, everywhere after the first days", () => {
    forecast.expected.forEach((value, step) => {
      expect(value).not.toBeNull();
      expect(forecast.lower[step]!).toBeLessThanOrEqual(value!);
      expect(forecast.upper[step]!).toBeGreaterThanOrEqual(value!);
    });
  });

  it("follows the rhythm of the day, before and after now", () => {
    for (let hours = -23; hours < 23; hours += 1) {
      const at = now + hours * HOUR;
      const usual = 20 + 80 * hump(at - START);
      const { expected, lower, upper } = valueAt(forecast, at);
      expect(Math.abs(expected - usual)).toBeLessThan(12);
      expect(lower).toBeLessThan(usual);
      expect(upper).toBeGreaterThan(usual);
    }
  });

  it("is not what came: an incident of today is not expected of today", () => {
    const isIncident = (elapsed: number) =>
      elapsed >= 6 * DAY + 2 * HOUR && elapsed < 6 * DAY + 8 * HOUR;
    const high = samplesOf(
      6 * DAY + 12 * HOUR,
      (elapsed, random) => rhythm(elapsed, random) + (isIncident(elapsed) ? 500 : 0),
    );
    const found = observe(high, { sizes: [60] }).forecast!;
    expect(valueAt(found, START + 6 * DAY + 5 * HOUR).upper).toBeLessThan(300);
  });

  it("is made anew every two hours at most, and only then", () => {
    const first = observe(samples.slice(0, 4 * 1440));
    let count = 0;
    let history = first;
    for (let from = 4 * 1440; from < 5 * 1440; from += 5) {
      history = observe(samples.slice(from, from + 5), { after: { ...history, forecast: null } });
      if (history.forecast !== null) count += 1;
    }
    expect(count).toBeGreaterThanOrEqual(12);
    expect(count).toBeLessThanOrEqual(24);
  });

  it("is none before there is anything to go by", () => {
    expect(observe(samples.slice(0, 100)).forecast).toBeNull();
  });

  it("expects the present level of the coming day, and nothing of the past, before two days are known", () => {
    const early = samplesOf(20 * HOUR, noisy(50));
    const { from, stepMs, expected } = observe(early, { sizes: [60] }).forecast!;
    const end = early.at(-1)!.at;
    expected.forEach((value, step) => {
      const at = from + step * stepMs;
      if (at < end - 3 * HOUR) expect(value).toBeNull();
      if (at > end) {
        expect(value).toBeGreaterThan(40);
        expect(value).toBeLessThan(60);
      }
    });
  });

  it("of a counter is in its rate per second", () => {
    let sum = 0;
    const counter = samplesOf(3 * DAY, (elapsed, random) => sum += 60 * noisy(50)(elapsed, random));
    const found = observe(counter, { kind: "counter", sizes: [60] }).forecast!;
    const { expected } = valueAt(found, counter.at(-1)!.at + 10 * MINUTE);
    expect(expected).toBeGreaterThan(40);
    expect(expected).toBeLessThan(60);
  });
});
