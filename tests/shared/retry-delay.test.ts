import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  readRetryAfter,
  RETRY_DELAY_LIMIT,
  retryDelay,
} from "../../shared/alerting/retry-delay.ts";
import { afterNoon, NOON } from "../fixtures.ts";

const ALMOST_ONE = 1 - Number.EPSILON / 2;
const attempts = fc.integer({ min: 1, max: 1_000 });
const chances = fc.double({ min: 0, max: ALMOST_ONE, noNaN: true });
const asked = fc.option(fc.double({ min: 0, max: 1e9, noNaN: true }));

describe("retryDelay()", () => {
  it.each([
    [1, 2.5, 5],
    [2, 5, 10],
    [3, 10, 20],
    [10, 1280, 2560],
    [11, 1800, 3600],
    [12, 1800, 3600],
    [1_000, 1800, 3600],
  ])("after attempt %i waits from %d to %d s", (attempt, least, most) => {
    expect(retryDelay(attempt, 0, null)).toBe(least);
    expect(retryDelay(attempt, 0.5, null)).toBe((least + most) / 2);
    expect(retryDelay(attempt, ALMOST_ONE, null)).toBeCloseTo(most, 9);
  });

  it.each([
    ["less than it would be", 2.4, 2.5],
    ["as much", 2.5, 2.5],
    ["more", 2.6, 2.6],
    ["an hour", 3600, 3600],
    ["more than an hour", 3601, 3600],
    ["nothing", 0, 2.5],
  ])("where the other side asks for %s", (_, askedSeconds, expected) => {
    expect(retryDelay(1, 0, askedSeconds)).toBe(expected);
  });

  it("is never less than 2.5 s, nor than what is asked, nor more than an hour", () => {
    fc.assert(fc.property(attempts, chances, asked, (attempt, random, seconds) => {
      const delay = retryDelay(attempt, random, seconds);
      expect(delay).toBeGreaterThanOrEqual(Math.min(Math.max(2.5, seconds ?? 0), 3600));
      expect(delay).toBeLessThanOrEqual(RETRY_DELAY_LIMIT);
    }));
  });

  it("does not shrink from one attempt to the next, nor with more chance, nor with more asked", () => {
    fc.assert(
      fc.property(attempts, chances, chances, asked, asked, (attempt, a, b, one, other) => {
        const [low, high] = [Math.min(a, b), Math.max(a, b)];
        expect(retryDelay(attempt + 1, low, one)).toBeGreaterThanOrEqual(
          retryDelay(attempt, low, one),
        );
        expect(retryDelay(attempt, high, one)).toBeGreaterThanOrEqual(
          retryDelay(attempt, low, one),
        );
        const more = Math.max(one ?? 0, other ?? 0);
        expect(retryDelay(attempt, low, more)).toBeGreaterThanOrEqual(
          retryDelay(attempt, low, one),
        );
      }),
    );
  });

  it("spreads what failed together over half of the time", () => {
    const delays = Array.from({ length: 100 }, (_, n) => retryDelay(6, n / 100, null));
    expect(new Set(delays).size).toBe(100);
    expect(Math.max(...delays) - Math.min(...delays)).toBeCloseTo(160 / 2 * 0.99, 9);
  });
});

describe("readRetryAfter()", () => {
  it.each([
    ["0", 0],
    ["1", 1],
    ["120", 120],
    [" 120\t", 120],
    ["007", 7],
    ["999999999", 999_999_999],
    ["Sun, 01 Feb 2026 12:00:30 GMT", 30],
    [" Sun, 01 Feb 2026 12:00:30 GMT ", 30],
    ["Mon, 02 Feb 2026 12:00:00 GMT", 86_400],
    ["Sun, 01 Feb 2026 12:00:00 GMT", 0],
    ["Sun, 01 Feb 2026 11:59:59 GMT", 0],
    ["Thu, 01 Jan 1970 00:00:00 GMT", 0],
  ])("reads %j as %d s", (header, seconds) => {
    expect(readRetryAfter(header, NOON)).toBe(seconds);
  });

  it.each([
    [undefined],
    [""],
    [" "],
    ["soon"],
    ["-1"],
    ["+1"],
    ["1.5"],
    ["1e3"],
    ["0x10"],
    ["1 2"],
    ["120, 60"],
    ["1234567890"],
    ["2026-02-01T12:00:30Z"],
    ["Sun, 01 Feb 2026 12:00:30"],
    ["Sun, 01 Feb 2026 12:00:30 +0100"],
    ["Sun, 01 Feb 2026"],
    ["Sun, 99 Feb 2026 12:00:30 GMT"],
    ["Sun, 01 Abc 2026 12:00:30 GMT"],
    ["Sun, 01 Feb 2026 25:00:30 GMT"],
    ["Xyz, 01 Feb 2026 12:00:30 GMT"],
    ["Sunday, 01-Feb-26 12:00:30 GMT"],
  ])("asks for nothing where it is %j", (header) => {
    expect(readRetryAfter(header, NOON)).toBeNull();
  });

  it("reads each date of HTTP as the seconds until then", () => {
    fc.assert(fc.property(fc.integer({ min: -1e9, max: 1e9 }), (seconds) => {
      const header = afterNoon(seconds).toUTCString();
      expect(readRetryAfter(header, NOON)).toBe(Math.max(0, seconds));
    }));
  });

  it("never asks for less than nothing, nor for what is no number", () => {
    fc.assert(fc.property(fc.string(), (header) => {
      const seconds = readRetryAfter(header, NOON);
      expect(seconds === null || seconds >= 0 && Number.isFinite(seconds)).toBe(true);
    }));
  });
});
