import { RE2JS, RE2JSException } from "re2js";
import { PromqlError } from "./promql-error.ts";
import { labelOf, type Labels, type Matcher } from "./series.ts";

/** Longer patterns are refused: they cost more to compile than any label is worth. */
export const PATTERN_LIMIT = 8192;

/** How large a pattern may be with its repetitions written out, roughly in characters. */
export const EXPANSION_LIMIT = 20_000;

/** Verdicts remembered per matcher: label values repeat from series to series. */
const REMEMBERED_LIMIT = 10_000;

/** Compiles a pattern as matchers use it: RE2 syntax, anchored at both ends, `.` matches newlines too. @throws {PromqlError} */
export function compilePattern(pattern: string): RE2JS {
  if (pattern.length > PATTERN_LIMIT) {
    throw new PromqlError("parse", `regular expression longer than ${PATTERN_LIMIT} characters`);
  }
  if (expandedSize(pattern) > EXPANSION_LIMIT) {
    throw new PromqlError(
      "parse",
      `regular expression larger than ${EXPANSION_LIMIT} characters with its repetitions written out`,
    );
  }
  try {
    // On its own first: "a)|(b" becomes a pattern only between the parentheses that are put around it.
    RE2JS.compile(pattern);
    return RE2JS.compile(`^(?s:${pattern})$`);
  } catch (error) {
    if (!(error instanceof RE2JSException)) throw error;
    throw new PromqlError(
      "parse",
      `error parsing regexp: ${error.message.replace(/^error parsing regexp: /, "")}`,
    );
  }
}

/** Characters, classes, groups and repetitions. */
const PATTERN_TOKENS =
  /\\Q.*?(?:\\E|$)|\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|\{(\d+)(?:,(\d*))?\}|[^]/gs;

function expandedSize(pattern: string): number {
  const sizes = [0];
  let last = 0;
  for (const [token, least, most] of pattern.matchAll(PATTERN_TOKENS)) {
    if (token === "(") {
      sizes.push(0);
      continue;
    }
    if (least !== undefined) {
      last *= Math.max(1, Number(least), Number(most ?? 0));
    } else if (token === ")" && sizes.length > 1) {
      last = sizes.pop()!;
    } else {
      last = token.length;
    }
    sizes[sizes.length - 1]! += last;
  }
  return sizes.reduce((sum, size) => sum + size, 0);
}

/** Whether an instance of a label satisfies the matcher; an absent label is the empty string. @throws {PromqlError} for a pattern that is none. */
export function compileMatcher({ op, value }: Matcher): (actual: string) => boolean {
  if (op === "=") return (actual) => actual === value;
  if (op === "!=") return (actual) => actual !== value;
  const test = compileTest(value);
  return op === "=~" ? test : (actual) => !test(actual);
}

function compileTest(pattern: string): (actual: string) => boolean {
  const compiled = compilePattern(pattern);
  if (pattern === ".*") return () => true;
  if (pattern === ".+") return (actual) => actual !== "";
  const literals = alternatives(pattern);
  if (literals !== undefined) return (actual) => literals.has(actual);
  const verdicts = new Map<string, boolean>();
  return (actual) => {
    let verdict = verdicts.get(actual);
    if (verdict === undefined) {
      verdict = compiled.matcher(actual).find();
      if (verdicts.size >= REMEMBERED_LIMIT) verdicts.clear();
      verdicts.set(actual, verdict);
    }
    return verdict;
  };
}

/** The values that `a|b|c` matches, undefined for what is not just that. */
function alternatives(pattern: string): ReadonlySet<string> | undefined {
  return /[\\^$.[\](){}*+?]/.test(pattern) ? undefined : new Set(pattern.split("|"));
}

/** Whether a label set satisfies every matcher. @throws {PromqlError} for a pattern that is none. */
export function matchesAll(matchers: readonly Matcher[], labels: Labels): boolean {
  return compileMatchers(matchers)(labels);
}

/** {@link matchesAll} for many label sets. @throws {PromqlError} for a pattern that is none. */
export function compileMatchers(matchers: readonly Matcher[]): (labels: Labels) => boolean {
  const tests = matchers.map((matcher) => ({ name: matcher.name, test: compileMatcher(matcher) }));
  return (labels) => tests.every(({ name, test }) => test(labelOf(labels, name)));
}

/** Repetitions beyond that make Postgres' automaton grow out of bounds. */
const POSTGRES_REPEAT_LIMIT = 255;
const POSTGRES_EXPANSION_LIMIT = 1000;

/**
 * A Postgres regular expression that matches exactly what the pattern does, undefined if there is none that surely does.
 * Translated is what both write alike: characters, `.`, classes of characters and ranges, `\d \w \s`, groups,
 * alternatives, repetitions. Neither side is anchored.
 */
export function toPostgresPattern(pattern: string): string | undefined {
  let translated = "";
  let expansion = 1;
  let isQuantified = false;
  for (let i = 0; i < pattern.length;) {
    const rest = pattern.slice(i);
    const wasQuantified: boolean = isQuantified;
    isQuantified = false;
    const repeat = /^\{(\d+)(,(\d*))?\}/.exec(rest);
    const group = /^\((?:\?:|\?P?<\w+>)?/.exec(rest);
    const charClass = /^\[(\^?)([\w .:/,;@#%&=!<>"'~-]+)\]/.exec(rest);
    const escaped = /^\\([dws]|[^a-zA-Z0-9\s])/.exec(rest);
    if (repeat !== null) {
      const most = Number(repeat[3] || repeat[1]);
      expansion *= Math.max(1, most);
      if (most > POSTGRES_REPEAT_LIMIT || expansion > POSTGRES_EXPANSION_LIMIT) return undefined;
      translated += repeat[0];
      isQuantified = true;
      i += repeat[0].length;
    } else if (group !== null) {
      if (rest.startsWith("(?") && group[0] === "(") return undefined; // flags
      translated += "(?:";
      i += group[0].length;
    } else if (charClass !== null) {
      const [whole, negated = "", members = ""] = charClass;
      const ranges = members.match(RANGE) ?? [];
      // Others would go by the collation.
      if (!ranges.every((range) => /^(?:\d-\d|[a-z]-[a-z]|[A-Z]-[A-Z])$/.test(range))) {
        return undefined;
      }
      // Any other hyphen between two characters makes a range as well.
      if (members.replace(RANGE, "a").slice(1, -1).includes("-")) return undefined;
      const singles = members.replace(RANGE, "");
      // A hyphen that is no range has to be the last.
      const hyphen = singles.includes("-") ? "-" : "";
      translated += `[${negated}${ranges.join("")}${singles.replaceAll("-", "")}${hyphen}]`;
      i += whole.length;
    } else if (escaped !== null) {
      const [whole, character = ""] = escaped;
      translated += CLASSES[character] ?? `\\${character}`;
      i += whole.length;
    } else {
      const character = pattern[i]!;
      if ("\\[]{}".includes(character)) return undefined;
      if ("*+?".includes(character)) {
        isQuantified = true;
        if (wasQuantified) {
          if (character !== "?") return undefined;
          i += 1; // lazy: what it matches as a whole is the same
          continue;
        }
      }
      if ("^$".includes(character)) return undefined;
      translated += character;
      i += 1;
    }
  }
  return translated;
}

const RANGE = /[a-zA-Z0-9_]-[a-zA-Z0-9_]/g;

const CLASSES: Readonly<Record<string, string>> = {
  d: "[0-9]",
  w: "[0-9A-Za-z_]",
  s: "[ \\t\\n\\f\\r]",
};
