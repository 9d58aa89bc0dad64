import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { cut, isBlank, toLine, toLines } from "../../../../shared/alerting/messages/clean-text.ts";
import { hostileText } from "./message-fixtures.ts";

/** Breaks a line, is no character, or turns the direction of those around it. */
const UNFIT = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_Control}\p{Noncharacter_Code_Point}]/u;

describe("toLine()", () => {
  it.each([
    ["a plain text", "a plain text"],
    ["  \t a \n b  ", "a b"],
    ["a\r\nBcc: b", "a Bcc: b"],
    ["a\u2028b\u0085c", "a b c"],
    ["a\u0000\u001b[31mb", "a��[31mb"],
    ["\u202efdp.exe", "fdp.exe"],
    ["<!chan\u200bnel>\u00ad\u2066", "<!channel>"],
    ["a\u{e0041}\u{e0042}b", "ab"],
    ["half \ud83d, and other half \ude00", "half �, and other half �"],
    ["👨‍👩‍👧 می‌خواهم ❤️", "👨‍👩‍👧 می‌خواهم ❤️"],
    ["", ""],
  ])("%j is %j", (text, line) => expect(toLine(text, 100)).toBe(line));

  it("keeps to its limit, and says so where it cuts", () => {
    expect(toLine("a".repeat(10), 10)).toBe("a".repeat(10));
    expect(toLine("a".repeat(11), 10)).toBe(`${"a".repeat(9)}…`);
    expect(toLine("one two three", 9)).toBe("one two…");
    // Only invisible ones are beyond it.
    expect(toLine(`${"a".repeat(10)}${"\u200b".repeat(50)}`, 10)).toBe("a".repeat(10));
  });

  it("says that something is left out where it has not looked at the rest", () => {
    expect(toLine(`ab${"\u200b".repeat(5000)}cd`, 10)).toBe("ab…");
  });
});

describe("toLines()", () => {
  it.each([
    ["a\nb", "a\nb"],
    ["a\r\nb\rc\u2028d\u000be", "a\nb\nc\nd\ne"],
    ["\n a \t b \n\n\n\n c \n", "a b\n\nc"],
    ["a\u0007\n\u202eb", "a�\nb"],
  ])("%j is %j", (text, lines) => expect(toLines(text, 100)).toBe(lines));
});

describe("cut()", () => {
  it("does not split what is one character to a reader", () => {
    const family = "👨‍👩‍👧";
    expect(cut(`ab${family}`, 2 + family.length)).toBe(`ab${family}`);
    expect(cut(`ab${family}c`, 2 + family.length)).toBe("ab…");
    expect(cut("ae\u0301o", 3)).toBe("a…");
  });

  it("splits one that is longer than all that may be shown, but no surrogate pair", () => {
    expect(cut(`e${"\u0301".repeat(100)}`, 5)).toBe("e\u0301\u0301\u0301…");
    expect(cut(`😀${"\u200d😀".repeat(50)}`, 5)).toBe("😀\u200d…");
  });
});

describe("isBlank()", () => {
  it.each(["", " \n\t", "\u200b\u00ad", "\u3164\u115f", "\u2800", "\u0301"])(
    "%j is",
    (text) => expect(isBlank(text)).toBe(true),
  );
  it.each(["a", "-", "😀", "٣", "�"])("%j is not", (text) => expect(isBlank(text)).toBe(false));
});

describe("cleaned texts", () => {
  it("are within their limit, whole, and what they are if cleaned again", () => {
    const limit = fc.integer({ min: 2, max: 60 });
    fc.assert(
      fc.property(hostileText, limit, (text, limit) => {
        const line = toLine(text, limit);
        expect(line).not.toMatch(UNFIT);
        expect(line.length).toBeLessThanOrEqual(limit);
        expect(toLine(line, limit)).toBe(line);

        const lines = toLines(text, limit);
        expect(lines.split("\n").filter((part) => UNFIT.test(part))).toEqual([]);
        expect(lines).not.toMatch(/\n{3}|^\n|\n$/);
        expect(lines.length).toBeLessThanOrEqual(limit);
        expect(toLines(lines, limit)).toBe(lines);
      }),
      { numRuns: 2000 },
    );
  });
});
