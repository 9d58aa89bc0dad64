import { RE2JS } from "re2js";
import { type Bounds, type Column, withLabel } from "./columns.ts";
import { compilePattern } from "./match-labels.ts";
import { PromqlError } from "./promql-error.ts";
import { labelOf, METRIC_NAME } from "./series.ts";
import { isValidName } from "./unquote.ts";

function relabel(column: Column, name: string, value: string): void {
  column.labels = withLabel(column.labels, name, value);
  // A name that was given on purpose stays.
  if (name === METRIC_NAME) column.dropsName = false;
}

function checkName(name: string, what: string): void {
  if (!isValidName(name)) throw new PromqlError("execution", `invalid ${what}: ${name}`);
}

/** Values that could be looked at while one is matched. */
const MATCH_COST = 1000;

/** `label_replace`: columns are changed in place. @throws {PromqlError} */
export function replaceLabel(
  columns: readonly Column[],
  [target = "", replacement = "", source = "", pattern = ""]: readonly string[],
  { spend, takeText }: Bounds,
): void {
  let compiled: RE2JS;
  try {
    compiled = compilePattern(pattern);
  } catch (error) {
    if (!(error instanceof PromqlError)) throw error;
    throw new PromqlError(
      "execution",
      `invalid regular expression in label_replace(): ${pattern}`,
    );
  }
  checkName(target, "destination label name in label_replace()");
  for (const column of columns) {
    spend(MATCH_COST);
    const matcher = compiled.matcher(labelOf(column.labels, source));
    if (!matcher.find()) continue;
    takeText(replacement.length);
    const read = (group: string) => {
      const text = readGroup(matcher, group);
      takeText(text.length);
      return text;
    };
    relabel(column, target, expand(replacement, read));
  }
}

type Match = ReturnType<RE2JS["matcher"]>;

function readGroup(match: Match, group: string): string {
  if (/^\d+$/.test(group)) {
    const index = Number(group);
    return index <= match.groupCount() ? match.group(index) ?? "" : "";
  }
  const named = match.getNamedGroups();
  return Object.hasOwn(named, group) ? match.group(group) ?? "" : "";
}

/** A replacement as Go expands it: `$1`, `${1}`, `$name`, `$$`; a name takes all letters, digits and underscores it can. */
function expand(replacement: string, read: (group: string) => string): string {
  return replacement.replace(
    /\$(?:\$|\{(\w+)\}|(\w+))?/g,
    (whole, braced?: string, plain?: string) => {
      if (whole === "$$" || whole === "$") return "$";
      return read((braced ?? plain)!);
    },
  );
}

/** `label_join`: columns are changed in place. @throws {PromqlError} */
export function joinLabels(
  columns: readonly Column[],
  [target = "", separator = "", ...sources]: readonly string[],
  { spend, takeText }: Bounds,
): void {
  for (const source of sources) checkName(source, "source label name in label_join()");
  checkName(target, "destination label name in label_join()");
  for (const column of columns) {
    spend(sources.length);
    const values = sources.map((source) => labelOf(column.labels, source));
    for (const value of values) takeText(value.length + separator.length);
    relabel(column, target, values.join(separator));
  }
}

/** Columns by the values of labels, digits within them by number; then by all labels. */
export function compareByLabels(
  names: readonly string[],
  a: Column,
  b: Column,
): number {
  for (const name of names) {
    const [valueA, valueB] = [labelOf(a.labels, name), labelOf(b.labels, name)];
    if (valueA !== valueB) return compareNaturally(valueA, valueB);
  }
  return 0;
}

const CHUNKS = /\d+|\D+/g;

/** Text as people sort it: "a2" before "a10". */
function compareNaturally(a: string, b: string): number {
  const chunksA = a.match(CHUNKS) ?? [];
  const chunksB = b.match(CHUNKS) ?? [];
  for (let i = 0; i < chunksA.length; i += 1) {
    if (i >= chunksB.length) return 1;
    const [chunkA, chunkB] = [chunksA[i]!, chunksB[i]!];
    if (chunkA === chunkB) continue;
    const areNumbers = /^\d/.test(chunkA) && /^\d/.test(chunkB);
    if (areNumbers) {
      const [numberA, numberB] = [chunkA, chunkB].map((chunk) => chunk.replace(/^0+/, ""));
      if (numberA !== numberB) {
        return numberA!.length - numberB!.length || (numberA! < numberB! ? -1 : 1);
      }
      // The same number with fewer zeros before it comes last.
      if (chunkA.length !== chunkB.length) return chunkA.length > chunkB.length ? -1 : 1;
    }
    return chunkA < chunkB ? -1 : 1;
  }
  return chunksA.length < chunksB.length ? -1 : 0;
}
