import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseDocument,
  Scalar,
  stringify,
  visit,
} from "yaml";
import { parseDuration } from "../promql/durations.ts";
import type { Texts } from "./rule.ts";

/** In which group of a file something is, and in which rule of it. */
export interface RulePlace {
  readonly group?: string;
  /** Of the rule in its group, from 1. */
  readonly position?: number;
  /** The name of the rule, once it is known. */
  readonly rule?: string;
}

/** What is wrong in a file, and where; lines and columns count from 1. */
export interface FileProblem extends RulePlace {
  readonly line: number;
  readonly column: number;
  readonly message: string;
}

/** All that is wrong in a file. */
export class FileError extends Error {
  override readonly name = "FileError";
  readonly problems: readonly FileProblem[];
  constructor(problems: readonly FileProblem[]) {
    super(problems.map(formatProblem).join("\n"));
    this.problems = problems;
  }
}

/** `line:column: message`, with the rule before the message where it is about one. */
export function formatProblem(problem: FileProblem): string {
  const { line, column, message, group, position, rule } = problem;
  const place = [
    ...group === undefined ? [] : [`group ${JSON.stringify(group)}`],
    ...position === undefined ? [] : [`rule ${position}`],
    ...rule === undefined ? [] : [JSON.stringify(rule)],
  ].join(", ");
  return `${line}:${column}: ${place && `${place}: `}${message}`;
}

/** Aliases resolved in one file; more would be a bomb. */
const ALIAS_LIMIT = 1000;

/** A YAML file being read, which collects what is wrong with it. */
export class YamlSource {
  readonly problems: FileProblem[] = [];
  readonly root: Node | null;
  readonly #lines = new LineCounter();
  readonly #document: Document;
  readonly #text: string;
  #place: RulePlace = {};
  #aliases = 0;

  constructor(text: string) {
    this.#text = text;
    this.#document = parseDocument(text, {
      lineCounter: this.#lines,
      uniqueKeys: false, // takes the square of their number; see below
      prettyErrors: false,
    });
    this.root = this.#document.contents as Node | null;
    for (const error of this.#document.errors) {
      this.refuseAt(error.pos[0], `yaml: ${error.message}`);
    }
    visit(this.#document, { Map: (_, { items }) => this.#assertUnique(items) });
  }

  #assertUnique(items: readonly { readonly key: unknown }[]): void {
    const seen = new Set<unknown>();
    for (const { key } of items) {
      const name = isScalar(key) ? key.value : key;
      if (seen.has(name)) this.refuse(key as Node, "yaml: Map keys must be unique");
      seen.add(name);
    }
  }

  refuse(node: Node | null | undefined, message: string): void {
    this.refuseAt(node?.range?.[0] ?? 0, message);
  }

  refuseAt(offset: number, message: string): void {
    const { line, col } = this.#lines.linePos(offset);
    const at = { line: Math.max(line, 1), column: Math.max(col, 1) };
    this.problems.push({ ...at, ...this.#place, message });
  }

  /** Reads what is in a place, so that what is wrong there says so. */
  within<T>(place: RulePlace, read: () => T): T {
    const around = this.#place;
    this.#place = place;
    const value = read();
    this.#place = around;
    return value;
  }

  /** @throws {FileError} if anything was wrong. */
  assertFine(): void {
    if (this.problems.length > 0) throw new FileError(this.problems);
  }

  /** Fields by name; those that are not in `known` are refused. */
  fields(
    node: Node | null | undefined,
    known: readonly string[],
    what: string,
  ): Map<string, Node | null> {
    const fields = this.#pairs(node, what);
    for (const [name, { key }] of fields) {
      if (!known.includes(name)) this.refuse(key, `field ${name} not found in ${what}`);
    }
    return new Map([...fields].map(([name, { value }]) => [name, value]));
  }

  texts(node: Node | null | undefined, what: string): Texts {
    const texts: [string, string][] = [];
    for (const [name, { value }] of this.#pairs(node, what)) {
      texts.push([name, this.text(value, `${what} ${name}`)]);
    }
    return Object.fromEntries(texts);
  }

  /** The node of each text, for what is wrong with it. */
  nodes(node: Node | null | undefined, what: string): Map<string, Node | null> {
    return new Map([...this.#pairs(node, what)].map(([name, { value }]) => [name, value]));
  }

  #pairs(
    node: Node | null | undefined,
    what: string,
  ): Map<string, { key: Node; value: Node | null }> {
    const map = this.#resolve(node);
    const pairs = new Map<string, { key: Node; value: Node | null }>();
    if (isNothing(map)) return pairs;
    if (!isMap(map)) {
      this.refuse(map, `${what} must be a mapping`);
      return pairs;
    }
    for (const { key, value } of map.items) {
      pairs.set(this.text(key as Node, `a key of ${what}`), {
        key: key as Node,
        value: value as Node | null,
      });
    }
    return pairs;
  }

  items(node: Node | null | undefined, what: string): Node[] {
    const list = this.#resolve(node);
    if (isNothing(list)) return [];
    if (isSeq(list)) return list.items as Node[];
    this.refuse(list, `${what} must be a list`);
    return [];
  }

  /** What a scalar says, whatever type YAML sees in it; empty for none. */
  text(node: Node | null | undefined, what: string): string {
    const scalar = this.#resolve(node);
    if (isNothing(scalar)) return "";
    if (!isScalar(scalar)) {
      this.refuse(scalar, `${what} must be a text`);
      return "";
    }
    return typeof scalar.value === "string" ? scalar.value : scalar.source ?? String(scalar.value);
  }

  /** Seconds of a duration such as `5m`; undefined where there is none. */
  seconds(node: Node | null | undefined, what: string): number | undefined {
    const text = this.text(node, what);
    if (text === "") return undefined;
    try {
      return parseDuration(text) / 1000;
    } catch (error) {
      this.refuse(node, `${what}: ${(error as Error).message}`);
      return undefined;
    }
  }

  number(node: Node | null | undefined, what: string): number | undefined {
    const text = this.text(node, what);
    if (text === "") return undefined;
    const word = /^([+-]?)\.?(?:(inf)|nan)$/i.exec(text);
    const value = word
      ? (word[2] ? Number(`${word[1]}Infinity`) : NaN)
      : Number(text.replaceAll("_", ""));
    if (Number.isNaN(value) && !word) this.refuse(node, `${what} must be a number`);
    return value;
  }

  /** The offset in the file of what is at an offset of a text; where that cannot be said, of the text. */
  offsetIn(node: Node | null | undefined, text: string, at: number): number {
    const scalar = this.#resolve(node);
    const start = scalar?.range?.[0] ?? 0;
    if (!isScalar(scalar)) return start;
    const isLiteral = scalar.type === Scalar.BLOCK_LITERAL;
    const quote = scalar.type === Scalar.QUOTE_DOUBLE || scalar.type === Scalar.QUOTE_SINGLE
      ? 1
      : 0;
    if (!isLiteral) {
      const isVerbatim = this.#text.startsWith(text, start + quote);
      return isVerbatim ? start + quote + at : start;
    }
    const before = text.slice(0, at).split("\n");
    const firstLine = this.#lines.linePos(start).line + 1;
    const lineStart = this.#lines.lineStarts[firstLine + before.length - 2];
    if (lineStart === undefined) return start;
    const line = text.split("\n")[before.length - 1]!;
    const end = this.#text.indexOf("\n", lineStart);
    const source = this.#text.slice(lineStart, end < 0 ? undefined : end).replace(/\r$/, "");
    return lineStart + source.length - line.length + before.at(-1)!.length;
  }

  #resolve(node: Node | null | undefined): Node | null {
    if (!isAlias(node)) return node ?? null;
    this.#aliases += 1;
    if (this.#aliases > ALIAS_LIMIT) {
      this.refuse(node, `more than ${ALIAS_LIMIT} aliases`);
      throw new FileError(this.problems);
    }
    return node.resolve(this.#document) ?? null;
  }
}

const isNothing = (node: Node | null): node is null =>
  node === null || (isScalar(node) && node.value === null);

/** YAML of a value; texts of several lines as blocks. */
export function printYaml(value: unknown): string {
  return stringify(value, { lineWidth: 0, blockQuote: "literal" });
}
