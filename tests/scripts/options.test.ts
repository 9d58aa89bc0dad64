import { describe, expect, it } from "vitest";
import {
  numberBetween,
  oneOf,
  parseDuration,
  parseLabels,
} from "../../scripts/detection/options.ts";

describe("parseDuration()", () => {
  it.each([["90m", 5_400_000], ["36h", 129_600_000], ["14d", 1_209_600_000], [
    "0.5w",
    302_400_000,
  ]])(
    "reads %s",
    (text, ms) => expect(parseDuration("--last", text)).toBe(ms),
  );
  it.each(["", "14", "d", "0d", "-1d", "14 days", "1y"])("refuses %j", (text) => {
    expect(() => parseDuration("--last", text)).toThrow("--last is a length of time");
  });
});

describe("parseLabels()", () => {
  it("reads pairs, a value with = in it, and an empty one", () => {
    expect(parseLabels("--labels", "job=api, query=a=b,region="))
      .toEqual({ job: "api", query: "a=b", region: "" });
  });
  it.each(["", "job", "=api", "job=api,"])("refuses %j", (text) => {
    expect(() => parseLabels("--labels", text)).toThrow("name=value");
  });
});

describe("numberBetween()", () => {
  it.each(["0.01", "100", "1e1"])("takes %s", (text) => {
    expect(numberBetween("--budget", 0.01, 100, text)).toBe(Number(text));
  });
  it.each(["", "0.009", "100.1", "NaN", "one"])("refuses %j", (text) => {
    expect(() => numberBetween("--budget", 0.01, 100, text)).toThrow(
      "--budget is a number from 0.01 to 100",
    );
  });
});

describe("oneOf()", () => {
  it("takes a known word and names them for any other", () => {
    expect(oneOf("--kind", ["gauge", "counter"], "counter")).toBe("counter");
    expect(() => oneOf("--kind", ["gauge", "counter"], "guage")).toThrow(
      'one of gauge, counter; got "guage"',
    );
  });
});
