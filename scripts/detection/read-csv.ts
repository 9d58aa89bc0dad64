import { Buffer } from "node:buffer";
import { closeSync, openSync, readSync } from "node:fs";
import { StringDecoder } from "node:string_decoder";
import type { Sample } from "../../shared/detection/detector.ts";

/** A row of `timestamp,value[,label]`. */
export interface CsvRow extends Sample {
  /** Null where the file has no such column. */
  readonly isLabelled: boolean | null;
  /** The two fields as they are written in the file, quotes and all. */
  readonly timestampText: string;
  readonly valueText: string;
}

const CHUNK_BYTES = 2 ** 20;

const DATE_TIME =
  /^(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?\s?(?:(Z)|([+-])(\d\d):?(\d\d)?)?)?$/;

/** Seconds and milliseconds since 1970 are told apart by size: 10^11 s is in the year 5138, 10^11 ms in 1973. */
const LARGEST_SECONDS = 1e11;
const LARGEST_MILLISECONDS = 1e14;

/**
 * The instant that a field of time names, in whole ms since 1970 UTC; NaN if it names none.
 *
 * Shapes: `2026-03-02 14:05:00[.123]`, `2026-03-02` and ISO 8601, UTC where there is no zone; seconds or milliseconds since 1970.
 */
export function parseTimestamp(text: string): number {
  const match = DATE_TIME.exec(text);
  if (match === null) {
    if (!/^-?\d+(\.\d+)?(e\+?\d+)?$/i.test(text)) return NaN;
    const number = Number(text);
    if (Math.abs(number) >= LARGEST_MILLISECONDS) return NaN;
    return Math.trunc(Math.abs(number) < LARGEST_SECONDS ? number * 1000 : number);
  }
  const [, year, month, day, hour = 0, minute = 0, second = 0, fraction = "", , sign] = match;
  if (+hour > 23 || +minute > 59 || +second > 59) return NaN;
  const midnight = Date.UTC(+year!, +month! - 1, +day!);
  // 30 February would be a day of March.
  if (new Date(midnight).getUTCMonth() !== +month! - 1) return NaN;
  const milliseconds = fraction === "" ? 0 : Number(fraction.padEnd(3, "0").slice(0, 3));
  const at = midnight + ((+hour * 60 + +minute) * 60 + +second) * 1000 + milliseconds;
  if (sign === undefined) return at;
  const offset = (+match[10]! * 60 + +(match[11] ?? 0)) * 60_000;
  return sign === "-" ? at + offset : at - offset;
}

/** The fields of a line, quotes left on; a quoted one may hold commas, not ends of lines. */
function splitFields(line: string): string[] {
  if (!line.includes('"')) return line.split(",");
  const fields: string[] = [];
  let from = 0;
  let isQuoted = false;
  for (let index = 0; index <= line.length; index++) {
    if (line[index] === '"') isQuoted = !isQuoted;
    if (index === line.length || (line[index] === "," && !isQuoted)) {
      fields.push(line.slice(from, index));
      from = index + 1;
    }
  }
  return fields;
}

const unquote = (field: string): string => {
  const text = field.trim();
  return text.startsWith('"') && text.endsWith('"') && text.length > 1 ? text.slice(1, -1) : text;
};

function* splitLines(chunks: Iterable<string>): Generator<string> {
  let rest = "";
  for (const chunk of chunks) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
  if (rest !== "") yield rest;
}

/**
 * The rows of a CSV file that comes in chunks of text. Columns are found by the names in its first line, in any order; others are
 * passed over, as are empty lines.
 *
 * @throws {RangeError} that begins with the number of the line, if it cannot be read.
 */
export function* readCsvRows(chunks: Iterable<string>): Generator<CsvRow> {
  let lineNumber = 0;
  let columns: [number, number, number] | null = null;
  for (const rawLine of splitLines(chunks)) {
    lineNumber += 1;
    const line = rawLine.endsWith("\r") ? rawLine.slice(0, -1) : rawLine;
    if (line.trim() === "") continue;
    if (columns === null) {
      const names = splitFields(line.replace(/^\uFEFF/, "")).map((name) =>
        unquote(name).toLowerCase()
      );
      columns = [names.indexOf("timestamp"), names.indexOf("value"), names.indexOf("label")];
      if (columns[0] < 0 || columns[1] < 0) {
        throw new RangeError(
          `line ${lineNumber}: the first line has to name the columns timestamp and value`,
        );
      }
      continue;
    }
    const fields = splitFields(line);
    const timestampText = fields[columns[0]] ?? "";
    const valueText = fields[columns[1]] ?? "";
    const at = parseTimestamp(unquote(timestampText));
    if (Number.isNaN(at)) {
      throw new RangeError(`line ${lineNumber}: "${timestampText}" is no time`);
    }
    const valueWord = unquote(valueText);
    const value = Number(valueWord);
    if (valueWord === "" || !Number.isFinite(value)) {
      throw new RangeError(`line ${lineNumber}: "${valueText}" is no finite number`);
    }
    const label = columns[2] < 0 ? null : unquote(fields[columns[2]] ?? "") || "nothing";
    if (label !== null && Number(label) !== 0 && Number(label) !== 1) {
      throw new RangeError(`line ${lineNumber}: ${label} is no label, which is 0 or 1`);
    }
    const isLabelled = label === null ? null : Number(label) === 1;
    yield { at, value, isLabelled, timestampText, valueText };
  }
  if (columns === null) {
    throw new RangeError("it is empty; the first line has to be timestamp,value");
  }
}

/** The text of a file in chunks, however large it is. */
export function* readChunks(path: string): Generator<string> {
  const file = openSync(path, "r");
  try {
    const decoder = new StringDecoder("utf8");
    const buffer = Buffer.alloc(CHUNK_BYTES);
    for (let count = readSync(file, buffer); count > 0; count = readSync(file, buffer)) {
      yield decoder.write(buffer.subarray(0, count));
    }
    yield decoder.end();
  } finally {
    closeSync(file);
  }
}
