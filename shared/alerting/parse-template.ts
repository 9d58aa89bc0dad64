import { unquote } from "../promql/unquote.ts";
import type { GoValue } from "./go-format.ts";

/** Why a template is none, or has no text; positions are offsets in UTF-16 units. */
export class TemplateError extends Error {
  override readonly name = "TemplateError";
  readonly at: number;
  constructor(message: string, at: number) {
    super(message);
    this.at = at;
  }
}

interface Part {
  readonly start: number;
  readonly end: number;
}

export type Operand =
  & Part
  & (
    | { readonly kind: "literal"; readonly value: GoValue }
    | { readonly kind: "nil" }
    | { readonly kind: "dot" }
    | { readonly kind: "variable"; readonly name: string }
    | { readonly kind: "pipeline"; readonly pipeline: Pipeline }
    | { readonly kind: "call"; readonly name: string }
  )
  & {
    /** Where Go says that it is: at the first field that is asked of it beyond its own. */
    readonly at: number;
    /** Fields asked of it: `.Labels.job` is the dot with two. */
    readonly path: readonly string[];
  };

export interface Command extends Part {
  readonly operands: readonly [Operand, ...Operand[]];
}

export interface Pipeline {
  /** Names of variables that it is given to. */
  readonly variables: readonly string[];
  /** Whether these were there before. */
  readonly assigns: boolean;
  readonly commands: readonly Command[];
}

export type TemplateNode =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "output"; readonly pipeline: Pipeline }
  | {
    readonly kind: "if" | "with" | "range";
    readonly pipeline: Pipeline;
    readonly body: readonly TemplateNode[];
    readonly otherwise: readonly TemplateNode[];
  }
  | { readonly kind: "break" | "continue" }
  | {
    readonly kind: "template";
    readonly name: string;
    readonly start: number;
    readonly pipeline: Pipeline | undefined;
  };

/** A template of Go's text/template. */
export interface Template {
  readonly text: string;
  readonly body: readonly TemplateNode[];
  /** What `define` named. */
  readonly definitions: ReadonlyMap<string, readonly TemplateNode[]>;
}

interface Token extends Part {
  readonly kind:
    | "text"
    | "open"
    | "close"
    | "space"
    | "string"
    | "number"
    | "character"
    | "field"
    | "variable"
    | "word"
    | "dot"
    | "mark";
  readonly text: string;
}

const ACTION_TOKENS: readonly [Token["kind"], RegExp][] = [
  ["space", /[ \t\r\n]+/y],
  ["string", /"(?:[^"\\\n]|\\.)*"|`[^`]*`/y],
  ["character", /'(?:[^'\\\n]|\\.)+'/y],
  [
    "number",
    /[+-]?(?:0[xX][\da-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|\d[\d_]*\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)(?![\p{L}\p{N}_])/uy,
  ],
  ["field", /\.[\p{L}_][\p{L}\p{N}_]*/uy],
  ["variable", /\$[\p{L}\p{N}_]*/uy],
  ["word", /[\p{L}_][\p{L}\p{N}_]*/uy],
  ["dot", /\./y],
  ["mark", /:=|[|(),=]/y],
];

/** Splits at `{{` and `}}`; `{{-` and `-}}` take the white space beside them along. */
function tokenize(text: string): Token[] {
  const tokens: Token[] = [];
  let at = 0;
  let isTrimmed = false;
  while (at < text.length) {
    const open = text.indexOf("{{", at);
    const end = open < 0 ? text.length : open;
    const trims = open >= 0 && /^-[ \t\r\n]/.test(text.slice(open + 2, open + 4));
    let plain = text.slice(at, end);
    if (isTrimmed) plain = plain.replace(/^[ \t\r\n]+/, "");
    if (trims) plain = plain.replace(/[ \t\r\n]+$/, "");
    if (plain !== "") tokens.push({ kind: "text", text: plain, start: at, end });
    if (open < 0) break;
    const inside = open + (trims ? 4 : 2);
    if (text.startsWith("/*", inside)) {
      const comment = /\/\*[\s\S]*?\*\/([ \t\r\n]-)?\}\}/y;
      comment.lastIndex = inside;
      const skipped = comment.exec(text);
      if (skipped === null) throw new TemplateError("unclosed comment", open);
      at = comment.lastIndex;
      isTrimmed = skipped[1] !== undefined;
      continue;
    }
    tokens.push({ kind: "open", text: "{{", start: open, end: inside });
    [at, isTrimmed] = tokenizeAction(text, inside, tokens);
  }
  return tokens;
}

function tokenizeAction(text: string, from: number, tokens: Token[]): [number, boolean] {
  let at = from;
  for (;;) {
    const close = /[ \t\r\n]-\}\}|\}\}/y;
    close.lastIndex = at;
    const closing = close.exec(text);
    if (closing) {
      tokens.push({ kind: "close", text: "}}", start: at, end: close.lastIndex });
      return [close.lastIndex, closing[0].length > 2];
    }
    if (at >= text.length) throw new TemplateError("unclosed action", from);
    const token = readToken(text, at);
    tokens.push(token);
    at = token.end;
  }
}

function readToken(text: string, at: number): Token {
  for (const [kind, pattern] of ACTION_TOKENS) {
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (match === null) continue;
    // White space before `-}}` belongs to that.
    const isTrim = kind === "space" && text.startsWith("-}}", pattern.lastIndex);
    const end = isTrim ? pattern.lastIndex - 1 : pattern.lastIndex;
    if (end > at) return { kind, text: text.slice(at, end), start: at, end };
  }
  const character = String.fromCodePoint(text.codePointAt(at)!);
  if (character === '"') throw new TemplateError("unterminated quoted string", at);
  if (character === "`") throw new TemplateError("unterminated raw quoted string", at);
  if (character === "'") throw new TemplateError("unterminated character constant", at);
  if (/[\d+-]/.test(character)) {
    const word = /^[+-]?[\p{L}\p{N}_.]*/u.exec(text.slice(at))![0];
    throw new TemplateError(`bad number syntax: "${word}"`, at);
  }
  const code = character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0");
  const shown = character === "\u00a0" ? "" : ` '${character}'`;
  throw new TemplateError(`unrecognized character in action: U+${code}${shown}`, at);
}

/** How deep blocks and parentheses may lie in one another. */
const DEPTH_LIMIT = 100;

/**
 * Reads a template of Go's text/template; `$labels`, `$externalLabels`, `$externalURL` and `$value` are there.
 *
 * @param functions names of the functions there are.
 * @throws {TemplateError} with the place.
 */
export function parseTemplate(
  text: string,
  functions: { has(name: string): boolean },
): Template {
  const tokens = tokenize(text);
  const definitions = new Map<string, readonly TemplateNode[]>();
  let variables = ["$", "$labels", "$externalLabels", "$externalURL", "$value"];
  let index = 0;
  let depth = 0;
  let rangeDepth = 0;

  const peek = (): Token =>
    tokens[index] ?? { kind: "text", text: "", start: text.length, end: text.length };
  const next = (): Token => {
    const token = peek();
    index += 1;
    return token;
  };
  const isMark = (mark: string) => peek().kind === "mark" && peek().text === mark;
  const isWord = (word: string) => peek().kind === "word" && peek().text === word;
  const skipSpace = () => {
    while (peek().kind === "space") index += 1;
  };
  const unexpected = (token: Token, context: string) =>
    new TemplateError(
      index > tokens.length ? `unexpected EOF` : `unexpected ${show(token)} in ${context}`,
      token.start,
    );
  const expectClose = (context: string) => {
    skipSpace();
    const token = next();
    if (token.kind !== "close") throw unexpected(token, context);
  };
  const nested = <T>(parse: () => T): T => {
    depth += 1;
    if (depth > DEPTH_LIMIT) throw new TemplateError("nested too deep", peek().start);
    const result = parse();
    depth -= 1;
    return result;
  };

  /** Up to one of the words that end a block, which is left to be read. */
  function parseList(ends: readonly string[]): TemplateNode[] {
    const nodes: TemplateNode[] = [];
    while (index < tokens.length) {
      const token = next();
      if (token.kind === "text") {
        nodes.push({ kind: "text", text: token.text });
        continue;
      }
      skipSpace();
      if (peek().kind === "word" && ends.includes(peek().text)) return nodes;
      const node = nested(parseAction);
      if (node) nodes.push(node);
    }
    if (ends.length > 0) throw new TemplateError("unexpected EOF", text.length);
    return nodes;
  }

  function parseAction(): TemplateNode | undefined {
    const token = peek();
    switch (token.kind === "word" ? token.text : "") {
      case "if":
      case "with":
      case "range":
        index += 1;
        return parseControl(token.text as "if" | "with" | "range");
      case "end":
      case "else":
        throw new TemplateError(`unexpected {{${token.text}}}`, token.start);
      case "break":
      case "continue":
        index += 1;
        if (rangeDepth === 0) {
          throw new TemplateError(`{{${token.text}}} outside {{range}}`, token.start);
        }
        expectClose(`{{${token.text}}}`);
        return { kind: token.text as "break" | "continue" };
      case "template": {
        index += 1;
        const name = parseName("template clause");
        skipSpace();
        const pipeline = peek().kind === "close" ? undefined : parsePipeline("template clause");
        expectClose("template clause");
        return { kind: "template", name, start: token.start, pipeline };
      }
      case "block": {
        index += 1;
        const name = parseName("block clause");
        const pipeline = parsePipeline("block clause");
        expectClose("block clause");
        parseDefinitionOf(name);
        return { kind: "template", name, start: token.start, pipeline };
      }
      case "define":
        index += 1;
        if (depth > 1) throw new TemplateError("unexpected {{define}}", token.start);
        parseDefinition();
        return undefined;
      default: {
        const pipeline = parsePipeline("command");
        expectClose("command");
        return { kind: "output", pipeline };
      }
    }
  }

  function parseName(context: string): string {
    skipSpace();
    const token = next();
    if (token.kind !== "string") throw unexpected(token, context);
    return readString(token);
  }

  function parseDefinition(): void {
    const name = parseName("define clause");
    expectClose("define clause");
    parseDefinitionOf(name);
  }

  function parseDefinitionOf(name: string): void {
    const [outer, outerRanges] = [variables, rangeDepth];
    variables = ["$"];
    rangeDepth = 0;
    definitions.set(name, parseList(["end"]));
    [variables, rangeDepth] = [outer, outerRanges];
    next();
    expectClose("end");
  }

  function parseControl(kind: "if" | "with" | "range"): TemplateNode {
    const scope = variables;
    variables = [...scope];
    const pipeline = parsePipeline(kind);
    expectClose(kind);
    if (kind === "range") rangeDepth += 1;
    const body = parseList(["end", "else"]);
    if (kind === "range") rangeDepth -= 1;
    let otherwise: TemplateNode[] = [];
    if (next().text === "else") {
      skipSpace();
      if (kind !== "range" && isWord(kind)) {
        index += 1;
        otherwise = [nested(() => parseControl(kind))];
        variables = scope;
        return { kind, pipeline, body, otherwise };
      }
      expectClose("else");
      otherwise = parseList(["end"]);
      next();
    }
    expectClose("end");
    variables = scope;
    return { kind, pipeline, body, otherwise };
  }

  function parsePipeline(context: string): Pipeline {
    skipSpace();
    const [names, assigns] = parseVariables(context);
    const commands: Command[] = [];
    for (;;) {
      skipSpace();
      const token = peek();
      if (token.kind === "close" || isMark(")")) {
        throw new TemplateError(`missing value for ${context}`, token.start);
      }
      const command = parseCommand(context, commands.length > 0);
      commands.push(command);
      skipSpace();
      if (!isMark("|")) break;
      index += 1;
    }
    for (const name of names) {
      if (!assigns) variables.push(name);
    }
    return { variables: names, assigns, commands };
  }

  /** `$x :=`, `$x =` or, of a range, `$i, $x :=`. */
  function parseVariables(context: string): [string[], boolean] {
    const back = index;
    const names: string[] = [];
    while (peek().kind === "variable") {
      names.push(next().text);
      skipSpace();
      if (isMark(":=") || isMark("=")) {
        const assigns = next().text === "=";
        const unknown = assigns ? names.find((name) => !variables.includes(name)) : undefined;
        if (unknown) {
          throw new TemplateError(`undefined variable "${unknown}"`, tokens[back]!.start);
        }
        return [names, assigns];
      }
      if (!isMark(",") || context !== "range" || names.length > 1) break;
      index += 1;
      skipSpace();
    }
    index = back;
    return [[], false];
  }

  function parseCommand(context: string, isPiped: boolean): Command {
    const start = peek().start;
    const operands: Operand[] = [];
    for (;;) {
      const operand = parseOperand(context);
      if (operand === undefined) break;
      operands.push(operand);
      if (peek().kind !== "space") break;
      skipSpace();
    }
    const [first] = operands;
    const token = peek();
    if (token.kind !== "close" && !isMark("|") && !isMark(")")) {
      index += 1;
      throw unexpected(token, first === undefined ? context : "operand");
    }
    if (first === undefined) throw new TemplateError("empty command", token.start);
    if (isPiped && (first.kind === "literal" || first.kind === "nil")) {
      throw new TemplateError("non executable command in pipeline stage", first.start);
    }
    const last = operands.at(-1)!;
    return { operands: operands as [Operand, ...Operand[]], start, end: last.end };
  }

  function parseOperand(context: string): Operand | undefined {
    const token = peek();
    const { start } = token;
    const finish = (
      base: DistributiveOmit<Operand, "start" | "end" | "at" | "path">,
      path: string[] = [],
    ): Operand => {
      let { end } = tokens[index - 1]!;
      let at = start;
      while (peek().kind === "field") {
        if (base.kind === "literal" || base.kind === "nil") throw unexpected(next(), "operand");
        if (at === start) at = peek().start;
        path.push(peek().text.slice(1));
        end = next().end;
      }
      return { ...base, path, start, end, at } as Operand;
    };
    switch (token.kind) {
      case "string":
        index += 1;
        return finish({ kind: "literal", value: readString(token) });
      case "character":
        index += 1;
        return finish({ kind: "literal", value: BigInt(readString(token).codePointAt(0)!) });
      case "number":
        index += 1;
        return finish({ kind: "literal", value: readNumber(token) });
      case "dot":
        index += 1;
        return finish({ kind: "dot" });
      case "field":
        index += 1;
        return finish({ kind: "dot" }, [token.text.slice(1)]);
      case "variable":
        index += 1;
        if (!variables.includes(token.text)) {
          throw new TemplateError(`undefined variable "${token.text}"`, start);
        }
        return finish({ kind: "variable", name: token.text });
      case "word":
        index += 1;
        if (token.text === "true" || token.text === "false") {
          return finish({ kind: "literal", value: token.text === "true" });
        }
        if (token.text === "nil") return finish({ kind: "nil" });
        if (!functions.has(token.text)) {
          throw new TemplateError(`function "${token.text}" not defined`, start);
        }
        return finish({ kind: "call", name: token.text });
      case "mark": {
        if (token.text !== "(") return undefined;
        index += 1;
        const pipeline = nested(() => parsePipeline("parenthesized pipeline"));
        skipSpace();
        const close = next();
        if (close.text !== ")") throw unexpected(close, context);
        return finish({ kind: "pipeline", pipeline });
      }
      default:
        return undefined;
    }
  }

  return { text, body: parseList([]), definitions };
}

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;

const show = ({ kind, text }: Token) => kind === "close" ? '"}}"' : `${JSON.stringify(text)}`;

function readString(token: Token): string {
  try {
    return unquote(token.text);
  } catch (error) {
    throw new TemplateError((error as Error).message, token.start);
  }
}

function readNumber({ text, start }: Token): bigint | number {
  const digits = text.replaceAll("_", "");
  if (/[.eE]/.test(digits) && !/^[+-]?0[xX]/.test(digits)) return Number(digits);
  const sign = digits.startsWith("-") ? -1n : 1n;
  const bare = digits.replace(/^[+-]/, "").replace(/^0(?=[0-7])/, "0o");
  try {
    return sign * BigInt(bare);
  } catch {
    throw new TemplateError(`bad number syntax: "${text}"`, start);
  }
}
