const GRAPHEMES = new Intl.Segmenter("en", { granularity: "grapheme" });

/**
 * What can be in a text without being seen: zero widths, fillers, tags, and the controls that turn its direction. Joiners and
 * the two variation selectors of emoji are left, Persian and emoji need them.
 */
const INVISIBLE =
  /(?![\u200c\u200d\ufe0e\ufe0f])\p{Default_Ignorable_Code_Point}|[\ufff9-\ufffb]/gu;
const LINE_BREAK = /\r\n|[\n\v\f\r\u0085\u2028\u2029]/g;
/** Whatever else but a line break is no character that can be shown; lone halves of surrogate pairs among them. */
const UNSHOWABLE = /(?!\n)[\p{Cc}\p{Cs}\p{Noncharacter_Code_Point}]/gu;

/**
 * A text of somebody else's as one line of at most `limit` characters (UTF-16): without control characters, line breaks and what is
 * invisible; what was there and cannot be shown is U+FFFD. Cut between graphemes, with an ellipsis. May be empty.
 */
export function toLine(text: string, limit: number): string {
  return bound(text, limit, (part) => clean(part).replace(/\s+/g, " ").trim());
}

/** As {@link toLine}, but with its line breaks, of which at most two come in a row. */
export function toLines(text: string, limit: number): string {
  return bound(
    text,
    limit,
    (part) => clean(part).replace(/ ?\n ?/g, "\n").replace(/\n{3,}/g, "\n\n").trim(),
  );
}

/** Whether there is nothing to see in it. */
export function isBlank(text: string): boolean {
  return !/[^\s\u2800\p{M}\p{Default_Ignorable_Code_Point}\p{Cc}\p{Cs}]/u.test(text);
}

/** At most `limit` characters of a text, an ellipsis included, cut between graphemes; within one if it alone is longer. */
export function cut(text: string, limit: number): string {
  if (text.length <= limit) return text;
  const end = limit - 1;
  const { index } = GRAPHEMES.segment(text.slice(0, limit + 100)).containing(end)!;
  return `${text.slice(0, index > 0 ? index : wholeBefore(text, end)).trimEnd()}…`;
}

/** Shown are spaces, single ones, line breaks, and what can be seen. */
function clean(text: string): string {
  return text.replace(INVISIBLE, "").replace(LINE_BREAK, "\n").replace(/[^\S\n]+/g, " ")
    .replace(UNSHOWABLE, "\ufffd");
}

/** Cleans no more of a text than can be shown of it: it may be long, and there may be hundreds. */
function bound(text: string, limit: number, toShown: (part: string) => string): string {
  const reach = 2 * limit + 200;
  if (text.length <= reach) return cut(toShown(text), limit);
  const part = toShown(text.slice(0, wholeBefore(text, reach)));
  return part.length > limit ? cut(part, limit) : `${cut(part, limit - 1)}…`;
}

/** An end at or before `end` that does not split a surrogate pair. */
function wholeBefore(text: string, end: number): number {
  return /[\ud800-\udbff]/.test(text.charAt(end - 1)) ? end - 1 : end;
}
