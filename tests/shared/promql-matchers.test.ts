import { describe, expect, it } from "vitest";
import {
  compileMatcher,
  compilePattern,
  EXPANSION_LIMIT,
  matchesAll,
  PATTERN_LIMIT,
  toPostgresPattern,
} from "../../shared/promql/match-labels.ts";
import { refusal } from "./promql-fixtures.ts";

describe("compileMatcher()", () => {
  it.each([
    ["a", "a", true],
    ["a", "ab", false],
    ["a", "ba", false],
    ["a|b", "b", true],
    ["a|b", "ab", false],
    ["a|", "", true],
    ["", "", true],
    ["", "a", false],
    [".*", "", true],
    [".+", "", false],
    [".+", "\n", true],
    ["a.b", "a\nb", true],
    ["a.b", "a😀b", true],
    ["(?-s:a.b)", "a\nb", false],
    ["^a$", "a", true],
    ["a$|b", "a", true],
    ["(?m)a$", "a\nb", false],
    ["(?i)ab", "AB", true],
    ["(?i:a)b", "AB", false],
    ["a(?i)b", "aB", true],
    ["\\pL+", "éß漢", true],
    ["\\p{Greek}", "α", true],
    ["\\p{Greek}", "a", false],
    ["[[:alpha:]]+", "abc", true],
    ["[^a-c]", "d", true],
    ["\\d{2,3}", "12", true],
    ["\\d{2,3}", "1234", false],
    ["\\d", "٣", false],
    ["\\w", "é", false],
    ["\\Qa.b\\E", "a.b", true],
    ["\\Qa.b\\E", "axb", false],
    ["\\x41\\x{e9}", "Aé", true],
    ["(?P<n>a)b", "ab", true],
    ["a.c|x", "abc", true],
    ["é", "é", true],
    ["{a}", "{a}", true],
  ])("%j matches the whole of %j: %s", (value, text, verdict) => {
    const matches = compileMatcher({ name: "a", op: "=~", value });
    expect(matches(text)).toBe(verdict);
    // Remembered, it is the same.
    expect(matches(text)).toBe(verdict);
    expect(compileMatcher({ name: "a", op: "!~", value })(text)).toBe(!verdict);
  });

  it.each([
    "(",
    ")",
    "a)|(b",
    "[",
    "*",
    "a**",
    "(?<=a)b",
    "(?=a)",
    "\\1",
    "a{1001}",
    "\\q",
    "(?z)",
  ])(
    "refuses %s",
    (value) => {
      const error = refusal(() => compileMatcher({ name: "a", op: "=~", value }));
      expect(error.message).toMatch(/^error parsing regexp: \w/);
      expect(error.kind).toBe("parse");
    },
  );

  it("compares without patterns for = and !=", () => {
    expect(compileMatcher({ name: "a", op: "=", value: "b.*" })("b.*")).toBe(true);
    expect(compileMatcher({ name: "a", op: "=", value: "b.*" })("bc")).toBe(false);
    expect(compileMatcher({ name: "a", op: "!=", value: "(" })("(")).toBe(false);
    expect(compileMatcher({ name: "a", op: "!=", value: "(" })("")).toBe(true);
  });

  it("takes linear time for patterns that others choke on", () => {
    for (const value of ["(a+)+", "(a|a)*b", "(.*)*x", "(a*)*(a*)*b", "(?:a?){30}a{30}"]) {
      const matches = compileMatcher({ name: "a", op: "=~", value });
      expect(matches(`${"a".repeat(20_000)}!`)).toBe(false);
    }
  });

  it("takes patterns as long and as large as they may be, and not more", () => {
    // Classes, as plain alternatives are no pattern.
    const ofLength = (length: number) => `[b]${"a".repeat(length - 3)}`;
    expect(compilePattern(ofLength(PATTERN_LIMIT)).matches("b")).toBe(false);
    expect(refusal(() => compilePattern(ofLength(PATTERN_LIMIT + 1))).message)
      .toBe("regular expression longer than 8192 characters");
    const largest = EXPANSION_LIMIT / 1000;
    // Each x and what it is repeated to.
    expect(compilePattern("x{999}".repeat(largest))).toBeDefined();
    expect(refusal(() => compilePattern("x{999}".repeat(largest) + "x")).message)
      .toBe("regular expression larger than 20000 characters with its repetitions written out");
    expect(refusal(() => compilePattern("(a{200}b{20}){5}".repeat(20))).kind).toBe("parse");
  });
});

describe("matchesAll()", () => {
  it("takes a label that is not there for an empty one", () => {
    const empty = { name: "b", op: "=", value: "" } as const;
    expect(matchesAll([empty], { a: "1" })).toBe(true);
    expect(matchesAll([empty], { b: "1" })).toBe(false);
    expect(matchesAll([{ ...empty, op: "!=" }], { a: "1" })).toBe(false);
    expect(matchesAll([{ name: "b", op: "=~", value: ".*" }], {})).toBe(true);
    expect(matchesAll([{ name: "b", op: "!~", value: "c" }], {})).toBe(true);
    expect(matchesAll([], {})).toBe(true);
  });

  it("wants all of them", () => {
    const labels = { "a b": "é", __name__: "x" };
    const name = { name: "__name__", op: "=", value: "x" } as const;
    expect(matchesAll([name, { name: "a b", op: "=", value: "é" }], labels)).toBe(true);
    expect(matchesAll([name, { name: "a b", op: "!=", value: "é" }], labels)).toBe(false);
  });
});

describe("toPostgresPattern()", () => {
  it.each([
    ["", ""],
    ["a.*b", "a.*b"],
    ["a+?b??", "a+b?"],
    ["a{2}b{2,}c{2,3}", "a{2}b{2,}c{2,3}"],
    ["a{255}", "a{255}"],
    ["[a-c][^0-9]", "[a-c][^0-9]"],
    ["[-a]", "[a-]"],
    ["[a.b]", "[a.b]"],
    ["[a-z0-9_-]", "[a-z0-9_-]"],
    ["\\d\\w\\s\\.", "[0-9][0-9A-Za-z_][ \\t\\n\\f\\r]\\."],
    ["(a)(?:b)(?P<n>c)(?<m>d)", "(?:a)(?:b)(?:c)(?:d)"],
    ["|a||b", "|a||b"],
    ["é😀\n", "é😀\n"],
  ])("writes %j as %j", (pattern, translated) => {
    expect(toPostgresPattern(pattern)).toBe(translated);
  });

  it.each([
    "(?i)a",
    "(?i:a)",
    "^a",
    "a$",
    "\\b",
    "\\D",
    "\\pL",
    "\\x41",
    "\\Qa\\E",
    "[[:alpha:]]",
    "[\\d]",
    "[é]",
    "[A-z]",
    "[ -~]",
    "[,-9]",
    "[a-c-e]",
    "{",
    "a{256}",
    "a{250}b{5}",
  ])("leaves %j", (pattern) => {
    compilePattern(pattern);
    expect(toPostgresPattern(pattern)).toBeUndefined();
  });
});
