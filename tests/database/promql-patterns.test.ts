import fc from "fast-check";
import { describe, expect } from "vitest";
import { compileMatcher, toPostgresPattern } from "../../shared/promql/match-labels.ts";
import { PromqlError } from "../../shared/promql/promql-error.ts";
import { it } from "./database.ts";

const atom = fc.constantFrom(
  ...["a", "b", "A", "0", "-", ".", "é", "😀", "\n", " ", "_", "/", ":", ""],
  ...["\\.", "\\d", "\\w", "\\s", "\\-", "\\/", "\\\\", "\\$"],
  ...[
    "[ab]",
    "[^a]",
    "[a-c]",
    "[a-]",
    "[-a]",
    "[^-0]",
    "[.]",
    "[a-c0-9_]",
    "[,-9]",
    "[a-c-e]",
    "[ -~]",
  ],
);
const repeat = fc.constantFrom(
  "",
  "",
  "",
  "*",
  "+",
  "?",
  "*?",
  "+?",
  "??",
  "{2}",
  "{0}",
  "{1,2}",
  "{1,}",
  "{0,1}?",
);

const { pattern } = fc.letrec<{ pattern: string; item: string }>((tie) => ({
  pattern: fc.array(tie("item"), { maxLength: 4 }).map((items) => items.join("")),
  item: fc.oneof(
    { depthSize: "small" },
    fc.tuple(atom, repeat).map((parts) => parts.join("")),
    fc.tuple(
      fc.constantFrom("(", "(?:", "(?P<n>"),
      fc.array(tie("pattern"), { minLength: 1, maxLength: 3 }),
      repeat,
    )
      .map(([open, alternatives, times]) => `${open}${alternatives.join("|")})${times}`),
  ),
}));

const text = fc.string({
  unit: fc.constantFrom(
    "a",
    "b",
    "c",
    "A",
    "0",
    "-",
    ".",
    "é",
    "😀",
    "\n",
    "\r",
    " ",
    "\t",
    "\v",
    "_",
    "/",
    ",",
    "5",
    "~",
    "$",
    "\\",
  ),
  maxLength: 5,
});

describe("toPostgresPattern()", () => {
  it("matches in Postgres what the pattern matches here", async ({ query }) => {
    const cases: { text: string; translated: string; pattern: string; verdict: boolean }[] = [];
    const matching = fc.tuple(pattern, fc.array(text, { minLength: 12, maxLength: 12 }));
    for (const [one, texts] of fc.sample(matching, { numRuns: 1500, seed: 42 })) {
      let matches: (value: string) => boolean;
      try {
        matches = compileMatcher({ name: "a", op: "=~", value: one });
      } catch (error) {
        if (error instanceof PromqlError) continue;
        throw error;
      }
      const translated = toPostgresPattern(one);
      if (translated === undefined) continue;
      for (const value of ["", "a", ...texts]) {
        cases.push({ text: value, translated, pattern: one, verdict: matches(value) });
      }
    }
    const { rows } = await query<{ verdicts: boolean[] }>(
      `select array_agg(text ~ ('^(?:' || translated || ')$') order by position) as verdicts
       from jsonb_to_recordset($1::jsonb) as c (position int, text text, translated text)`,
      [JSON.stringify(cases.map((one, position) => ({ position, ...one })))],
    );
    const { verdicts } = rows[0]!;
    expect(cases.filter(({ verdict }, i) => verdict !== verdicts[i])).toEqual([]);
    // Enough of either kind for the agreement to mean something.
    const met = verdicts.filter((verdict) => verdict).length;
    expect(met).toBeGreaterThan(500);
    expect(verdicts.length - met).toBeGreaterThan(500);
  });
});
