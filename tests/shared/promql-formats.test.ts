import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { formatDuration, parseDuration } from "../../shared/promql/durations.ts";
import { formatLabels, formatLabelSet, quote } from "../../shared/promql/format-labels.ts";
import { formatDecimal, formatShort, formatValue } from "../../shared/promql/format-value.ts";
import { parseExpr, parseSeriesName } from "../../shared/promql/parse-expr.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

describe("durations", () => {
  it.each([
    ["0", 0, "0s"],
    ["0s", 0, "0s"],
    ["1ms", 1, "1ms"],
    ["999ms", 999, "999ms"],
    ["1s", 1000, "1s"],
    ["1500ms", 1500, "1s500ms"],
    ["1m1ms", MINUTE + 1, "1m1ms"],
    ["90m", 90 * MINUTE, "1h30m"],
    ["1h30m", 90 * MINUTE, "1h30m"],
    ["24h", DAY, "1d"],
    ["7d", 7 * DAY, "1w"],
    ["8d", 8 * DAY, "8d"],
    ["2w", 14 * DAY, "2w"],
    ["1w1d", 8 * DAY, "8d"],
    ["365d", 365 * DAY, "1y"],
    ["366d", 366 * DAY, "366d"],
    ["1y2w3d4h5m6s7ms", 382 * DAY + 4 * HOUR + 5 * MINUTE + 6007, "382d4h5m6s7ms"],
    ["00005m", 5 * MINUTE, "5m"],
    ["292y", 292 * 365 * DAY, "292y"],
  ])("%s is %i ms, and written %s", (text, milliseconds, written) => {
    expect(parseDuration(text)).toBe(milliseconds);
    expect(formatDuration(milliseconds)).toBe(written);
  });

  it.each([
    "",
    "5",
    "5M",
    "1.5h",
    "-5m",
    "30m1h",
    "1m1m",
    "1h 30m",
    " 1h",
    "1h ",
    "h",
    "0m0",
    "5mm",
  ])(
    "%j is none",
    (text) => {
      expect(() => parseDuration(text)).toThrow("not a valid duration string");
    },
  );

  it("reach as far as Prometheus'", () => {
    expect(parseDuration("9223372036854ms")).toBe(9_223_372_036_854);
    expect(() => parseDuration("9223372036855ms")).toThrow("duration out of range");
    expect(() => parseDuration(`${"9".repeat(400)}y`)).toThrow("duration out of range");
  });

  it("are read as they are written", () => {
    fc.assert(fc.property(fc.nat(1e12), (milliseconds) => {
      expect(parseDuration(formatDuration(milliseconds))).toBe(milliseconds);
    }));
  });
});

describe("numbers", () => {
  it.each([
    [0, "0", "0", "0"],
    [-0, "-0", "-0", "-0"],
    [1, "1", "1", "1"],
    [-1.5, "-1.5", "-1.5", "-1.5"],
    [0.1 + 0.2, "0.30000000000000004", "0.30000000000000004", "0.30000000000000004"],
    [1e-4, "0.0001", "0.0001", "0.0001"],
    [9.9e-5, "0.000099", "0.000099", "9.9e-05"],
    [1.5e-7, "1.5e-07", "0.00000015", "1.5e-07"],
    [-1e-7, "-1e-07", "-0.0000001", "-1e-07"],
    [1e20, "100000000000000000000", "100000000000000000000", "1e+20"],
    [123456, "123456", "123456", "123456"],
    [1234567, "1234567", "1234567", "1.234567e+06"],
    [1e21, "1e+21", "1000000000000000000000", "1e+21"],
    [-1.25e25, "-1.25e+25", "-12500000000000000000000000", "-1.25e+25"],
    [1e300, "1e+300", `1${"0".repeat(300)}`, "1e+300"],
    [5e-324, "5e-324", `0.${"0".repeat(323)}5`, "5e-324"],
    [Infinity, "+Inf", "+Inf", "+Inf"],
    [-Infinity, "-Inf", "-Inf", "-Inf"],
    [NaN, "NaN", "NaN", "NaN"],
  ])("%d is written as %s in an answer", (value, inAnswer, inDecimal, short) => {
    expect(formatValue(value)).toBe(inAnswer);
    expect(formatDecimal(value)).toBe(inDecimal);
    expect(formatShort(value)).toBe(short);
  });

  it("are what was written, whichever way", () => {
    fc.assert(fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
      expect(Number(formatValue(value))).toBe(value);
      expect(Number(formatDecimal(value))).toBe(value);
      expect(formatDecimal(value)).not.toContain("e");
      expect(Number(formatShort(value))).toBe(value);
      expect(parseExpr(formatDecimal(value))).toMatchObject({ kind: "number", value });
    }));
  });
});

describe("label sets", () => {
  it.each<[Record<string, string>, string, string]>([
    [{}, "{}", "{}"],
    [{ __name__: "a" }, "a", `{__name__="a"}`],
    [{ __name__: "a:b" }, "a:b", `{__name__="a:b"}`],
    [{ b: "1", a: "2" }, `{a="2", b="1"}`, `{a="2", b="1"}`],
    [{ __name__: "x", b: "1", a: "2" }, `x{a="2", b="1"}`, `{__name__="x", a="2", b="1"}`],
    [{ __name__: "a.b", c: "d" }, `{"a.b", c="d"}`, `{__name__="a.b", c="d"}`],
    [{ __name__: "1a" }, `{"1a"}`, `{__name__="1a"}`],
    [{ "a:b": "c" }, `{"a:b"="c"}`, `{"a:b"="c"}`],
    [{ a: 'q"\\\n\té' }, `{a="q\\"\\\\\\n\\té"}`, `{a="q\\"\\\\\\n\\té"}`],
  ])("%j are written as %s", (labels, series, set) => {
    expect(formatLabels(labels)).toBe(series);
    expect(formatLabelSet(labels)).toBe(set);
  });

  it("are read as they are written", () => {
    const name = fc.string({ unit: "grapheme", minLength: 1, maxLength: 5 });
    fc.assert(fc.property(
      fc.dictionary(name, name, { maxKeys: 3, noNullPrototype: true }),
      name,
      (labels, metric) => {
        const named = { ...labels, __name__: metric };
        expect(parseSeriesName(formatLabels(named))).toEqual(named);
      },
    ));
  });

  it("have values that are string literals", () => {
    fc.assert(fc.property(fc.string({ unit: "grapheme" }), (value) => {
      expect(parseExpr(quote(value))).toMatchObject({ kind: "string", value });
    }));
    expect(quote("\u0085\u2028\u0007")).toBe(String.raw`"\u0085\u2028\u0007"`);
  });
});
