import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PromqlError } from "../../shared/promql/promql-error.ts";
import {
  parseNumber,
  parseSeriesDescription,
  SEQUENCE_LIMIT,
  type SequenceValue,
  toSampledSeries,
} from "../../shared/promql/series-notation.ts";

function refusal(line: string): PromqlError {
  try {
    parseSeriesDescription(line);
  } catch (error) {
    if (error instanceof PromqlError) return error;
    throw error;
  }
  throw new Error(`was read: ${line}`);
}

describe("parseSeriesDescription()", () => {
  it.each<[string, SequenceValue[]]>([
    ["", []],
    ["5", [5]],
    ["5\t -2.5   +1e3", [5, -2.5, 1000]],
    ["1.5e-3 .5 2.", [0.0015, 0.5, 2]],
    ["1+2x3", [1, 3, 5, 7]],
    ["1-2x3", [1, -1, -3, -5]],
    ["-1-2x1", [-1, -3]],
    ["5x3", [5, 5, 5, 5]],
    ["5x0", [5]],
    ["1+2x0", [1]],
    ["1e1+1e1x1", [10, 20]],
    ["0x3", [0, 0, 0, 0]],
    ["010 08", [8, 8]],
    ["_ 1 _x3 2 _x0", ["omitted", 1, "omitted", "omitted", "omitted", 2]],
    ["1 stale 2", [1, "stale", 2]],
    ["NaN nan Inf -Inf +inf", [NaN, NaN, Infinity, -Infinity, Infinity]],
    ["NaN+1x1", [NaN, NaN]],
    ["{{}} {{ }}", ["histogram", "histogram"]],
    ["1 {{schema:1 sum:3 buckets:[5 10 7]}} 2", [1, "histogram", 2]],
    ["{{schema:0}}x2", ["histogram", "histogram", "histogram"]],
    ["{{sum:1}}+{{sum:2}}x1 {{sum:9}}-{{sum:2}}x0", ["histogram", "histogram", "histogram"]],
  ])("reads %j", (sequence, values) => {
    expect(parseSeriesDescription(`x{} ${sequence}`)).toEqual({
      labels: { __name__: "x" },
      values,
    });
  });

  it("adds up, rounding step by step", () => {
    expect(parseSeriesDescription("x 0+0.1x10").values.at(-1)).toBe(0.9999999999999999);
  });

  it.each([
    ["x 1", { __name__: "x" }],
    ["{} 1", {}],
    ["sum:by:job 1", { __name__: "sum:by:job" }],
    ['x{a="1", b="{} \\" }"} 1', { __name__: "x", a: "1", b: '{} " }' }],
    ["x{a='}',b=`\\d}`,} 1", { __name__: "x", a: "}", b: "\\d}" }],
    ['{__name__="x", a="b"} 1', { __name__: "x", a: "b" }],
    ['{"a name", a="b"} 1', { __name__: "a name", a: "b" }],
    ['{"a name", "a label"="b"} 1', { __name__: "a name", "a label": "b" }],
    ['x{a=""} 1', { __name__: "x" }],
  ])("has the labels of %s", (line, labels) => {
    expect(parseSeriesDescription(line)).toEqual({ labels, values: [1] });
  });

  it.each([
    ["x 1 2y", 5],
    ["x 1y", 3],
    ["x 1x", 3],
    ["x 1+2", 3],
    ["x 1+2x-1", 3],
    ["x 1+2x1.5", 3],
    ["x 1 - 2x3", 5],
    ["x 1,2", 3],
    ["x 0x1F", 3],
    ["x _+1x3", 3],
    ["x stalex3", 3],
    ["x Stale", 3],
    ["x NaNx3", 3],
    ["x stale+1x3", 3],
    ["x {{}", 3],
    ["x {{}}+{{}}", 3],
    ["x {{}}+1x2", 3],
    ["x{}1", 4],
    ["x 1__0", 3],
  ])("refuses %j, with the column", (line, column) => {
    expect(refusal(line)).toMatchObject({ kind: "parse", place: { line: 1, column } });
    expect(refusal(line).message).toMatch(
      new RegExp(`^1:${column}: parse error: series values: .`),
    );
  });

  it.each(["", "1", "x{ 1", 'x{a="} 1', "x{a} 1", "x y{} 1"])("refuses the name of %j", (line) => {
    expect(refusal(line).kind).toBe("parse");
  });

  it("stops at the limit", () => {
    expect(parseSeriesDescription(`x 1x${SEQUENCE_LIMIT - 1}`).values).toHaveLength(SEQUENCE_LIMIT);
    expect(parseSeriesDescription(`x 1 _x${SEQUENCE_LIMIT - 1}`).values).toHaveLength(
      SEQUENCE_LIMIT,
    );
    for (
      const sequence of [
        `1x${SEQUENCE_LIMIT}`,
        `1 _x${SEQUENCE_LIMIT}`,
        `1 2+3x${SEQUENCE_LIMIT - 1}`,
        `{{}}x${SEQUENCE_LIMIT}`,
        `1x${"9".repeat(400)}`,
      ]
    ) {
      expect(refusal(`x ${sequence}`)).toMatchObject({
        kind: "limit",
        message: expect.stringContaining(`more than ${SEQUENCE_LIMIT} values`),
      });
    }
  });

  it("reads back any series of numbers", () => {
    fc.assert(fc.property(fc.array(fc.double()), (values) => {
      const written = values.map((value) =>
        Object.is(value, -0) ? "-0" : String(value).replace("Infinity", "Inf")
      ).join(" ");
      expect(parseSeriesDescription(`x ${written}`).values).toEqual(values);
    }));
  });

  it("reads or refuses whatever is written, and does nothing else", () => {
    const pieces = fc.constantFrom(
      ..."x{}\"'`\\ _+-0123456789.eE\t,=",
      "{{",
      "}}",
      "stale",
      "NaN",
      "\u2028",
    );
    fc.assert(fc.property(fc.array(pieces), (written) => {
      const line = `x${written.join("").replaceAll(/x\d{4,}/g, "x9")}`;
      try {
        parseSeriesDescription(line);
      } catch (error) {
        expect(error).toBeInstanceOf(PromqlError);
      }
    }));
  });
});

describe("parseNumber()", () => {
  it.each([
    ["0", 0],
    ["-0", -0],
    ["42", 42],
    ["+.5", 0.5],
    ["2.", 2],
    ["-1.5E+3", -1500],
    ["0x1F", 31],
    ["-0X_ff", -255],
    ["0b101", 5],
    ["0o17", 15],
    ["017", 15],
    ["019", 19],
    ["1_000", 1000],
    ["9223372036854775808", 2 ** 63],
    ["inf", Infinity],
    ["+Infinity", Infinity],
    ["-INF", -Infinity],
    ["nAn", NaN],
  ])("reads %s", (text, value) => expect(parseNumber(text)).toBe(value));

  it.each([
    "",
    " 1",
    "1 ",
    "x",
    "1e",
    "e1",
    ".",
    "1.2.3",
    "0x",
    "0x1g",
    "_1",
    "1_",
    "1_0.5",
    "--1",
  ])(
    "does not take %j for one",
    (text) => expect(parseNumber(text)).toBeUndefined(),
  );
});

describe("toSampledSeries()", () => {
  it("has a time for each value, and knows where a series ends", () => {
    const { labels, values } = parseSeriesDescription('x{a="b"} 1 _ stale {{}} NaN stale');
    expect(toSampledSeries(labels, values, 15_000, 1_000_000)).toEqual({
      labels: { __name__: "x", a: "b" },
      times: [1_000_000, 1_030_000, 1_060_000, 1_075_000],
      values: [1, NaN, NaN, NaN],
      stale: [1, 3],
    });
  });
});
