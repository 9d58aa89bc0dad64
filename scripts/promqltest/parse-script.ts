import { RE2JS } from "re2js";
import { parseDuration } from "../../shared/promql/durations.ts";
import { labelsKey } from "../../shared/promql/labels-key.ts";
import {
  parseNumber,
  parseSeriesDescription,
  type SeriesDescription,
} from "../../shared/promql/series-notation.ts";
import { unquote } from "../../shared/promql/unquote.ts";

/** A series of a load. */
export interface LoadedSeries extends SeriesDescription {
  /** Its samples say when their series started. */
  readonly hasStartTimes: boolean;
}

export interface LoadCommand {
  readonly kind: "load";
  /** Milliseconds between values. */
  readonly step: number;
  /** Classic histograms become native ones besides. */
  readonly isConverted: boolean;
  readonly series: readonly LoadedSeries[];
}

/** Something that an error or an annotation should be. */
export interface TextTest {
  readonly description: string;
  matches(text: string): boolean;
}

/** Kinds of `expect`, and what was said of each. */
export type Expectations = Readonly<Record<ExpectKind, readonly TextTest[]>>;

/** What a query should result in. Values of a series belong to the steps from `start` on. */
export type Expected =
  | { readonly kind: "string"; readonly value: string }
  | { readonly kind: "scalar"; readonly value: number }
  | { readonly kind: "series"; readonly series: ReadonlyMap<string, SeriesDescription> };

/** A query with what it should result in: one case of a test. Times are milliseconds. */
export interface EvalCommand {
  readonly kind: "eval";
  readonly line: number;
  readonly text: string;
  readonly isRange: boolean;
  /** First step, and time of an instant query unless its result is a range vector. */
  readonly start: number;
  /** Last step, and time of an instant query. */
  readonly end: number;
  readonly step: number;
  /** `expect range vector`: an instant query whose series have several values. */
  readonly isRangeVector: boolean;
  readonly expected: Expected;
  readonly expectations: Expectations;
}

/** A line that is no part of the language. */
export interface UnreadableLine {
  readonly kind: "unreadable";
  readonly line: number;
  readonly text: string;
  readonly reason: string;
}

export type Command = LoadCommand | { readonly kind: "clear" } | EvalCommand | UnreadableLine;

const EXPECT_KINDS = ["ordered", "fail", "warn", "no_warn", "info", "no_info"] as const;
type ExpectKind = typeof EXPECT_KINDS[number];

const LOAD = /^load(_with_nhcb)?\s+(.+?)$/;
const EVAL_INSTANT = /^eval(?:_(fail|warn|ordered|info))?\s+instant\s+(?:at\s+(.+?))?\s+(.+)$/;
const EVAL_RANGE =
  /^eval(?:_(fail|warn|info))?\s+range\s+from\s+(.+)\s+to\s+(.+)\s+step\s+(.+?)\s+(.+)$/;
const EXPECT = new RegExp(`^expect\\s+(${EXPECT_KINDS.join("|")})(?:\\s+(regex|msg):(.+))?$`);
const EXPECT_RANGE_VECTOR = /^expect range vector\s+from\s+(.+)\s+to\s+(.+)\s+step\s+(.+)$/;

/** Reads the lines of a file; they belong to a command until one is blank. */
class LineReader {
  readonly #lines: readonly string[];
  #next = 0;

  constructor(text: string) {
    this.#lines = text.split("\n").map((line) => line.trim())
      .map((line) => line.startsWith("#") ? "" : line);
  }

  /** Number of the line read last. */
  get line(): number {
    return this.#next;
  }

  get text(): string {
    return this.#lines[this.#next - 1]!;
  }

  /** Goes to the next line, whatever it is. False at the end. */
  advance(): boolean {
    if (this.#next >= this.#lines.length) return false;
    this.#next += 1;
    return true;
  }

  /** Goes to the next line unless it is blank. */
  advanceInBlock(): boolean {
    return (this.#lines[this.#next] ?? "") !== "" && this.advance();
  }
}

/** Reads a file in the test language of Prometheus. Unreadable lines are commands of their own. */
export function parseScript(text: string): Command[] {
  const reader = new LineReader(text);
  const commands: Command[] = [];
  const attempt = <Read>(read: () => Read): Read | undefined => {
    try {
      return read();
    } catch (error) {
      const reason = (error as Error).message;
      commands.push({ kind: "unreadable", line: reader.line, text: reader.text, reason });
      return undefined;
    }
  };
  while (reader.advance()) {
    const word = reader.text.split(/[\t ]+/, 1)[0]!.toLowerCase();
    if (word === "") continue;
    if (word === "clear") {
      commands.push({ kind: "clear" });
    } else if (word.startsWith("load")) {
      const load = attempt(() => parseLoad(reader, attempt));
      if (load) commands.push(load);
      else skipBlock(reader);
    } else if (word.startsWith("eval")) {
      const evaluation = attempt(() => parseEval(reader));
      if (evaluation) commands.push(evaluation);
      else skipBlock(reader);
    } else {
      attempt(() => {
        throw new Error("expected load, clear or eval");
      });
    }
  }
  return commands;
}

function skipBlock(reader: LineReader): void {
  while (reader.advanceInBlock());
}

/** Series whose line cannot be read are left out, and told by `attempt`. */
function parseLoad(
  reader: LineReader,
  attempt: (read: () => void) => void,
): LoadCommand {
  const [, nhcb, step] = LOAD.exec(reader.text) ?? [];
  if (step === undefined) throw new Error("expected load[_with_nhcb] <step>");
  const stepMs = parseDuration(step);
  const series = new Map<string, LoadedSeries>();
  let areAllStarted = false;
  let isNextStarted = false;
  while (reader.advanceInBlock()) {
    attempt(() => {
      const [head] = reader.text.split(/\s/, 1);
      if (head === "@st") {
        areAllStarted = true;
      } else if (head!.endsWith("@st")) {
        isNextStarted = true;
      } else {
        const described = parseSeriesDescription(reader.text);
        const hasStartTimes = areAllStarted || isNextStarted;
        series.set(labelsKey(described.labels), { ...described, hasStartTimes });
        isNextStarted = false;
      }
    });
  }
  return {
    kind: "load",
    step: stepMs,
    isConverted: nhcb !== undefined,
    series: [...series.values()],
  };
}

function parseEval(reader: LineReader): EvalCommand {
  const head = parseEvalHead(reader.text);
  const { line } = reader;
  const expectations: Record<ExpectKind, TextTest[]> = {
    ordered: [],
    fail: [],
    warn: [],
    no_warn: [],
    info: [],
    no_info: [],
  };
  if (head.oldKind !== undefined) expectations[head.oldKind].push(ANYTHING);
  const series = new Map<string, SeriesDescription>();
  let grid = head.grid;
  let isRangeVector = false;
  let single: Expected | undefined;
  while (reader.advanceInBlock()) {
    const { text } = reader;
    if (head.oldKind === "fail" && text.startsWith("expected_fail_message")) {
      expectations.fail.push(testMessage(text.slice("expected_fail_message".length)));
      break;
    }
    if (head.oldKind === "fail" && text.startsWith("expected_fail_regexp")) {
      expectations.fail.push(testPattern(text.slice("expected_fail_regexp".length)));
      break;
    }
    if (text.startsWith("expect range vector")) {
      const [, from, to, step] = EXPECT_RANGE_VECTOR.exec(text) ?? [];
      if (step === undefined) throw new Error("expected: range vector from <t> to <t> step <d>");
      grid = parseGrid(from!, to!, step);
      isRangeVector = true;
    } else if (text.startsWith("expect string")) {
      single = { kind: "string", value: unquote(text.slice("expect string".length).trim()) };
    } else if (text.split(" ", 1)[0] === "expect") {
      addExpectation(expectations, text);
    } else {
      const value = parseNumber(text);
      if (value !== undefined) {
        single = { kind: "scalar", value };
        break;
      }
      const described = parseSeriesDescription(text);
      if (described.values.length > 1 && !head.isRange && !isRangeVector) {
        throw new Error("several values for an instant query without: expect range vector");
      }
      series.set(labelsKey(described.labels), described);
    }
  }
  return {
    kind: "eval",
    line,
    text: head.text,
    isRange: head.isRange,
    ...grid,
    isRangeVector,
    expected: single ?? { kind: "series", series },
    expectations,
  };
}

interface EvalHead {
  readonly text: string;
  readonly isRange: boolean;
  readonly grid: Grid;
  /** Of `eval_fail` and the like. */
  readonly oldKind: ExpectKind | undefined;
}

function parseEvalHead(text: string): EvalHead {
  const instant = EVAL_INSTANT.exec(text);
  const range = EVAL_RANGE.exec(text);
  const [, oldKind, ...rest] = instant ?? range ?? [];
  if (instant) {
    const time = parseDuration(rest[0] ?? "");
    const grid = { start: time, end: time, step: 0 };
    return { text: rest[1]!, isRange: false, grid, oldKind: oldKind as ExpectKind | undefined };
  }
  if (range) {
    const grid = parseGrid(rest[0]!, rest[1]!, rest[2]!);
    return { text: rest[3]!, isRange: true, grid, oldKind: oldKind as ExpectKind | undefined };
  }
  throw new Error(
    "expected eval instant at <t> <query> or eval range from <t> to <t> step <d> <query>",
  );
}

type Grid = Pick<EvalCommand, "start" | "end" | "step">;

function parseGrid(from: string, to: string, every: string): Grid {
  const [start, end, step] = [parseDuration(from), parseDuration(to), parseDuration(every)];
  if (end < start) throw new Error(`the end (${to}) is before the start (${from})`);
  return { start, end, step };
}

const ANYTHING: TextTest = { description: "anything", matches: () => true };

function testMessage(text: string): TextTest {
  const message = text.trim();
  return { description: message, matches: (actual) => actual === message };
}

/** The pattern may match anywhere. */
function testPattern(text: string): TextTest {
  const pattern = RE2JS.compile(text.trim());
  return { description: `/${text.trim()}/`, matches: (actual) => pattern.matcher(actual).find() };
}

function addExpectation(expectations: Record<ExpectKind, TextTest[]>, text: string): void {
  const [, kind, form, rest] = EXPECT.exec(text) ?? [];
  if (kind === undefined) {
    throw new Error(`expected: ${EXPECT_KINDS.join(", ")}, with msg:<text> or regex:<pattern>`);
  }
  expectations[kind as ExpectKind].push(
    form === "msg" ? testMessage(rest!) : form === "regex" ? testPattern(rest!) : ANYTHING,
  );
  for (const annotation of ["warn", "info"] as const) {
    if (expectations[annotation].length > 0 && expectations[`no_${annotation}`].length > 0) {
      throw new Error(`${annotation} and no_${annotation} do not go together`);
    }
  }
  if (expectations.fail.length > 1) throw new Error("a query can only fail once");
}
