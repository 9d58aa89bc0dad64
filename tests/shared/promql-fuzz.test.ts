import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseExpr } from "../../shared/promql/parse-expr.ts";
import { printExpr } from "../../shared/promql/print-expr.ts";
import { PromqlError } from "../../shared/promql/promql-error.ts";

const QUERIES = [
  `sum by (job, instance) (rate(http_requests_total{status!~"4..", method="GET"}[5m] offset 1h))`,
  `histogram_quantile(0.95, sum by (le) (rate(h_bucket[10m]))) > bool 1.5e3`,
  `a * on (b) group_left (c, d) e / ignoring (f) group_right g`,
  `max_over_time(deriv(x[5m] @ 1609746000)[1h:5m] offset -5m) or vector(0x1F)`,
  `label_replace(up, "a", "$1", 'b', \`(.*)\`) unless absent({"a.b", "c d"=~"é|😀"})`,
  `topk(3, -a ^ 2 ^ -b) and count_values without () ("v", y @ end()) # done`,
  `min_of(1, 2.) + max_of(time(), Inf) % step() atan2 NaN`,
  `info(rate(a[1m30s]), {data=~".+"})\n  == on ("q q")\n  quantile(0.9, b)`,
];

const PIECES = [
  ..."()[]{},:@+-*/%^=!~<>\"'`\\#$.0 1e_x\n\t",
  "offset",
  "bool",
  "by",
  "on",
  "group_left",
  "5m",
  "[5m:]",
  "sum(",
  "rate(",
  "start()",
  "=~",
  "::",
  "</",
  "anchored",
  "fill",
  "é",
  "😀",
  "\ud800",
  "\u0000",
  "\u2028",
];

const TOKEN = /"[^"]*"|'[^']*'|\w+|\s+|[^]/gu;

type Edit = (tokens: string[], at: number, other: number, piece: string) => void;

const EDITS: readonly Edit[] = [
  (tokens, at) => tokens.splice(at, 1),
  (tokens, at, _, piece) => tokens.splice(at, 0, piece),
  (tokens, at, _, piece) => tokens.splice(at, 1, piece),
  (tokens, at) => tokens.splice(at, 0, tokens[at] ?? ""),
  (tokens, at, other) => tokens.splice(at, 1, tokens.splice(other, 1, tokens[at] ?? "")[0] ?? ""),
  (tokens, at, other) => tokens.splice(at, 0, ...tokens.slice(other, other + 6)),
  (tokens, at) => tokens.splice(at),
];

const share = fc.double({ min: 0, max: 1, noNaN: true });

/** A query with some of its parts changed. */
function mutated(split: (query: string) => readonly string[]): fc.Arbitrary<string> {
  const edit = fc.record({
    edit: fc.constantFrom(...EDITS),
    at: share,
    other: share,
    piece: fc.oneof(fc.constantFrom(...PIECES), fc.string({ unit: "binary", maxLength: 3 })),
  });
  const edits = fc.array(edit, { minLength: 1, maxLength: 6 });
  return fc.tuple(fc.constantFrom(...QUERIES), edits).map(([query, changes]) => {
    const tokens = [...split(query)];
    for (const { edit, at, other, piece } of changes) {
      edit(tokens, Math.floor(at * tokens.length), Math.floor(other * tokens.length), piece);
    }
    return tokens.join("");
  });
}

const toTokens = (query: string) => query.match(TOKEN)!;

/** Reads it, or says what is wrong with it and where. Anything else is thrown. */
function read(text: string): "read" | "refused" {
  try {
    parseExpr(text);
    return "read";
  } catch (error) {
    if (!(error instanceof PromqlError)) throw error;
    const { kind, message, place } = error;
    expect(["parse", "unsupported"]).toContain(kind);
    expect(place!.start).toBeGreaterThanOrEqual(0);
    expect(place!.end).toBeGreaterThanOrEqual(place!.start);
    expect(place!.end).toBeLessThanOrEqual(text.length);
    const before = text.slice(0, place!.start).split("\n");
    expect(message.startsWith(`${before.length}:${before.at(-1)!.length + 1}: `)).toBe(true);
    return "refused";
  }
}

describe("parseExpr() of what is no query", () => {
  it.each([
    ["tokens", toTokens],
    ["characters", (query: string) => query.split("")],
  ])("reads or refuses, with a place, queries whose %s were changed", (_, split) => {
    const seen = { read: 0, refused: 0 };
    fc.assert(
      fc.property(mutated(split), (text) => {
        seen[read(text)] += 1;
      }),
      { numRuns: 1500 },
    );
    // Neither is so rare that it was not tried.
    expect(Math.min(seen.read, seen.refused)).toBeGreaterThan(20);
  });

  it("reads what it has printed, whatever has become of the query", () => {
    fc.assert(
      fc.property(mutated(toTokens), (text) => {
        if (read(text) === "refused") return;
        const printed = printExpr(parseExpr(text));
        expect(printExpr(parseExpr(printed))).toBe(printed);
      }),
      { numRuns: 1500 },
    );
  });

  it("reads or refuses any text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 60 }), (text) => void read(text)),
      { numRuns: 1000 },
    );
  });

  const LONGEST = 60_000;
  const fill = (piece: string, end = "") =>
    piece.repeat(Math.floor((LONGEST - end.length) / piece.length)) + end;

  // Each of these took seconds, or all of the stack, in a parser that reads on after an error or nests without bounds.
  it.each([
    ...'([{)]}-+"`#!=é:1.a \n',
    ...[
      "😀",
      "a+",
      "a or ",
      "a^",
      "2^",
      "sum(",
      "abs(",
      "min_of(",
      "foo(",
      "sum by(a)",
      "a==bool ",
    ],
    ...["a ", "a\n", "1 ", "1_", "1.", "1h", "- ", "+-", "offset ", "'\\'", '"a" ', "a=~", "#\n"],
  ])("is soon done with %j again and again", (piece) => {
    for (const end of ["", "a", "!", "(", ")"]) read(fill(piece, end));
  });

  it.each([
    ["parentheses", `${"(".repeat(30_000)}1${")".repeat(30_000)}`],
    ["subqueries", `a${fill("[1m:]")}`],
    ["offsets", `a${fill(" offset 1m")}`],
    ["times", `a${fill(" @ 1")}`],
    ["signs of an offset", `a offset ${fill("-", "1m")}`],
    ["parentheses of an offset", `a offset ${fill("(", "1m")}`],
    ["matchers", `a{${fill('b="c",')}}`],
    ["patterns", `a{${fill('b=~".+x",')}}`],
    ["names", `{${fill('"a",')}}`],
    ["arguments", `sum(${fill("a,")}a)`],
    ["labels", `sum by (${fill("a,")}) (a)`],
    ["spaces", `a${fill(" ")}b`],
    ["comments", `a${fill("#a\n")}b`],
    ["repetitions in a pattern", `a{b=~"${"a{1000}".repeat(1000)}"}`],
    ["repetitions of a long pattern", `a{b=~"(${"a".repeat(8000)}){1000}"}`],
    ["groups in a pattern", `a{b=~"${"(a+)+".repeat(1600)}"}`],
  ])("is soon done with many %s", (_, text) => {
    read(text);
  });
});
