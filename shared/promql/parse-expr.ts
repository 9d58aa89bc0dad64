import type { SyntaxNode } from "@lezer/common";
import { parser } from "@prometheus-io/lezer-promql";
import type {
  AggregationOp,
  AtModifier,
  Binary,
  BinaryOp,
  Call,
  Expr,
  ValueType,
  VectorMatching,
  VectorSelector,
} from "./ast.ts";
import { LONGEST_DURATION, parseDuration } from "./durations.ts";
import { FUNCTIONS } from "./function-signatures.ts";
import { quote } from "./format-labels.ts";
import { compileMatcher } from "./match-labels.ts";
import { locate, PromqlError, type PromqlErrorKind } from "./promql-error.ts";
import { type Labels, type Matcher, METRIC_NAME } from "./series.ts";
import { unquote } from "./unquote.ts";

/** Longest expression, in UTF-16 units. */
export const EXPRESSION_LIMIT = 65_536;
/** How deep expressions may lie within each other. */
export const DEPTH_LIMIT = 500;
/** How many operators may follow each other: `a * b + c * d + …` needs two for a level. */
const CHAIN_LIMIT = 2 * DEPTH_LIMIT;
/** Where errors further on do not tell what would have fitted, which takes a parse for each candidate. */
const EXPECTED_REACH = 8192;
/** Longest piece of the query within a message. */
const EXCERPT_LENGTH = 40;

/** Stops at the first error: to read on after one takes seconds in a long text that is full of them. */
const strictParser = parser.configure({ strict: true });

/** The type of the value of an expression. */
export function typeOf(expr: Expr): ValueType {
  switch (expr.kind) {
    case "number":
      return "scalar";
    case "string":
      return "string";
    case "matrix-selector":
    case "subquery":
      return "matrix";
    case "vector-selector":
    case "aggregation":
      return "vector";
    case "paren":
    case "unary":
      return typeOf(expr.expr);
    case "binary":
      return typeOf(expr.left) === "scalar" && typeOf(expr.right) === "scalar"
        ? "scalar"
        : "vector";
    case "call":
      return FUNCTIONS.get(expr.func)!.returns;
  }
}

/** Reads an expression of PromQL and checks its types. @throws {PromqlError} with the place, of kind `parse` or `unsupported` */
export function parseExpr(text: string): Expr {
  return new ExprReader(text).read();
}

/** Reads what names one series, `name{a="b"}`: as a selector, with = alone. @throws {PromqlError} */
export function parseSeriesName(text: string): Labels {
  const fail = (reason: string): never => {
    const place = locate(text, 0, text.length);
    throw new PromqlError("parse", `1:1: parse error: ${reason} in the name of a series: ${text}`, {
      place,
    });
  };
  if (/^\s*\{\s*\}\s*$/.test(text)) return {};
  const expr = new ExprReader(text, true).read();
  if (expr.kind !== "vector-selector" || expr.offset !== 0 || expr.at !== undefined) {
    return fail("expected a name and labels");
  }
  const labels = new Map<string, string>();
  for (const { name, op, value } of expr.matchers) {
    if (op !== "=") fail(`${op} cannot stand`);
    if (labels.has(name)) fail(`label ${quote(name)} is there twice`);
    if (value !== "") labels.set(name, value);
  }
  return Object.fromEntries(labels);
}

/** What may be tried at the place of an error, to tell what would have fitted, and how it is called. */
const CANDIDATES: readonly (readonly [text: string, names: Readonly<Record<string, string>>])[] = [
  ["zz", { Identifier: "an expression", LabelName: "a label name" }],
  ['"s"', { StringLiteral: "a string" }],
  ["5m", {
    NumberDurationLiteralInDurationContext: "a duration",
    NumberDurationLiteral: "a number",
  }],
  ["= ", { EqlSingle: "a label matching operator" }],
  ["+ ", { Add: "an operator" }],
  ["( ", { "(": '"("' }],
  [") ", { ")": '")"' }],
  ["} ", { "}": '"}"' }],
  ["] ", { "]": '"]"' }],
  [", ", { ",": '","' }],
];

const FUNCTION_NAMES = String.raw`\b(?:(min_of|max_of)|(step|range))(?=\s*\()`;
/** Where an operand has to begin. */
const METRIC_OFFSET = String
  .raw`\b(offset)\b(?<=(?:^\s*|[(,+*/%^=<>-]\s*|\b(?:and|or|unless|bool|atan2)\s+)offset)(?!\s*\()`;

/** Strings, comments, and numbers that end in a dot, whose digits are captured. */
const TOKENS =
  /"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?|`[^`]*`?|#[^\n]*|(?<![\w.:])(\d[\d_]*)\.(?![\w.])/gs;

/** What opens and closes a level, and what makes a tree grow within one. */
const STRUCTURE = new RegExp(
  `${TOKENS.source}|[([{)\\]},]|[-+*/%^@]|[=!<>]=|[<>]|\\b(?:and|or|unless|atan2|offset)\\b`,
  "gsi",
);

const GATED: Readonly<Record<string, string>> = {
  AnchoredExpr: "the modifier anchored (extended range selectors)",
  SmoothedExpr: "the modifier smoothed (extended range selectors)",
  FillModifier: "fill modifiers of binary operators",
  TrimUpper: "the operator </ of native histograms",
  TrimLower: "the operator >/ of native histograms",
  StartTimestamp: "the function start_timestamp",
};

const SET_OPS = new Set<BinaryOp>(["and", "or", "unless"]);
const COMPARISONS = new Set<BinaryOp>(["==", "!=", ">", "<", ">=", "<="]);
const NEEDS_PARAM = new Set<AggregationOp>([
  "topk",
  "bottomk",
  "count_values",
  "quantile",
  "limitk",
  "limit_ratio",
]);

const TYPE_NAMES: Readonly<Record<ValueType, string>> = {
  scalar: "scalar",
  string: "string",
  vector: "instant vector",
  matrix: "range vector",
};

/** An operand or operator, in the order in which they are written. */
type Part =
  | { readonly kind: "operand"; readonly expr: Expr }
  | { readonly kind: "sign"; readonly op: "+" | "-"; readonly from: number }
  | { readonly kind: "operator"; readonly node: SyntaxNode; readonly modifiers: SyntaxNode[] };

const PRECEDENCE: Readonly<Record<BinaryOp, number>> = {
  "or": 1,
  "and": 2,
  "unless": 2,
  "==": 3,
  "!=": 3,
  ">": 3,
  "<": 3,
  ">=": 3,
  "<=": 3,
  "+": 4,
  "-": 4,
  "*": 5,
  "/": 5,
  "%": 5,
  "atan2": 5,
  "^": 6,
};
/** Signs bind weaker than ^ and stronger than all else. */
const SIGN_PRECEDENCE = PRECEDENCE["^"];

/** Puts parts together by the precedence of their operators. */
class PartReader {
  readonly #reader: ExprReader;
  readonly #parts: readonly Part[];
  #next = 0;

  constructor(reader: ExprReader, parts: readonly Part[]) {
    this.#reader = reader;
    this.#parts = parts;
  }

  /** As far as operators bind at least as strong. */
  read(precedence: number): Expr {
    let expr = this.#readOperand();
    for (;;) {
      const part = this.#parts[this.#next];
      if (part?.kind !== "operator") return expr;
      const op = this.#reader.operatorOf(part.node);
      const own = PRECEDENCE[op] ?? PRECEDENCE["=="]; // one that is gated
      if (own < precedence) return expr;
      this.#next += 1;
      expr = this.#reader.binary(part, expr, this.read(op === "^" ? own : own + 1));
    }
  }

  #readOperand(): Expr {
    const part = this.#parts[this.#next]!;
    this.#next += 1;
    if (part.kind === "operand") return part.expr;
    return this.#reader.unary(part as Part & { kind: "sign" }, this.read(SIGN_PRECEDENCE));
  }
}

/**
 * The same for the grammar, and as long: functions that are newer than it under the name of one that it knows, those of
 * durations in lower case, which is all that it takes, and a metric called `offset` under another name.
 */
function withKnownNames(source: string): string {
  return source.replace(
    new RegExp(`${TOKENS.source}|${FUNCTION_NAMES}|${METRIC_OFFSET}`, "gsi"),
    (whole, _digits, newer?: string, duration?: string, metric?: string) => {
      if (newer !== undefined) return "abs".padEnd(newer.length);
      if (metric !== undefined) return "_".repeat(metric.length);
      return duration === undefined ? whole : whole.toLowerCase();
    },
  );
}

function placeOf({ start, end }: Expr): { from: number; to: number } {
  return { from: start, to: end };
}

/** A node that a reader below expects; what is missing would have been a syntax error. */
function first(node: SyntaxNode, name: string): SyntaxNode {
  return node.getChild(name)!;
}

function childrenOf(node: SyntaxNode): SyntaxNode[] {
  const children: SyntaxNode[] = [];
  for (let child = node.firstChild; child !== null; child = child.nextSibling) {
    if (child.name !== "LineComment") children.push(child);
  }
  return children;
}

class ExprReader {
  readonly #text: string;
  /** Numbers like `2.`, `0XF`, `0x_F` as the grammar knows them. Places and values stay the same. */
  readonly #source: string;
  /** A series is named, rather than selected: what matches everything is fine. */
  readonly #isName: boolean;

  constructor(text: string, isName = false) {
    this.#text = text;
    this.#isName = isName;
    this.#source = text.replace(
      TOKENS,
      (whole, digits?: string) => digits === undefined ? whole : `${digits} `,
    ).replace(
      /(?<![\w.:])0[xX]((?:_?[\da-fA-F])+)(?!\w)/g,
      (_whole, digits: string) => `0x${digits.replaceAll("_", "").padStart(digits.length, "0")}`,
    );
  }

  read(): Expr {
    if (this.#text.length > EXPRESSION_LIMIT) {
      const message = `longer than ${EXPRESSION_LIMIT} characters`;
      throw this.error({ from: 0, to: 0 }, message);
    }
    this.#checkStrings();
    this.#checkDepth();
    return this.expr(childrenOf(this.#parse())[0]!, 0);
  }

  error(
    { from, to }: { from: number; to: number },
    message: string,
    kind: PromqlErrorKind = "parse",
    expected: readonly string[] = [],
  ): PromqlError {
    const place = locate(this.#text, from, to);
    const label = kind === "unsupported" ? "not supported" : "parse error";
    return new PromqlError(kind, `${place.line}:${place.column}: ${label}: ${message}`, {
      place,
      expected,
    });
  }

  textOf({ from, to }: { from: number; to: number }): string {
    return this.#source.slice(from, to);
  }

  // Syntax

  /** The grammar takes a string that does not end for one that does, and then what follows it for wrong. */
  #checkStrings(): void {
    for (const { 0: token, index } of this.#text.matchAll(TOKENS)) {
      const isString = /^["'`]/.test(token);
      const isRaw = token[0] === "`";
      const isOpen = token.length < 2 || token.at(-1) !== token[0] || !isRaw &&
          /^.(?:[^\\]|\\.)*\\.$/s.test(token);
      if (isString && isOpen) {
        throw this.error(
          { from: index, to: index + token.length },
          `unterminated string: ${excerpt(token)}`,
        );
      }
    }
  }

  /** Of the text alone: the parser builds its tree by recursion, which a deeper one would overflow. */
  #checkDepth(): void {
    const chains = [0];
    let joints = 0;
    for (const { 0: token, index } of this.#source.matchAll(STRUCTURE)) {
      if (")]}".includes(token)) {
        if (chains.length > 1) joints -= chains.pop()!;
      } else if (token === ",") {
        joints -= chains.at(-1)!;
        chains[chains.length - 1] = 0;
      } else if (!/^["'`#\d]/.test(token)) {
        if (token !== "(" && token !== "{") {
          chains[chains.length - 1]! += 1;
          joints += 1;
        }
        if ("([{".includes(token)) chains.push(0);
      }
      if (chains.length - 1 > DEPTH_LIMIT || joints > CHAIN_LIMIT) {
        throw this.#tooDeep({ from: index, to: index + token.length });
      }
    }
  }

  #tooDeep(place: { from: number; to: number }): PromqlError {
    return this.error(place, `more than ${DEPTH_LIMIT} expressions within each other`);
  }

  #parse(): SyntaxNode {
    const parsed = parseStrictly(this.#source);
    if (typeof parsed !== "number") return parsed;
    const known = withKnownNames(this.#source);
    const other = known === this.#source ? parsed : parseStrictly(known);
    if (typeof other !== "number") return other;
    throw this.#syntaxError(Math.max(parsed, other), other > parsed ? known : this.#source);
  }

  #syntaxError(at: number, source: string): PromqlError {
    // What is wrong begins with the next thing that is written.
    const rest = source.slice(at);
    const from = at + /^(?:\s|#.*(?:\n|$))*/.exec(rest)![0].length;
    const aligned = /::/.exec(source.slice(0, from + 2));
    if (aligned !== null && aligned.index >= from - 2 && source[from - 1] !== undefined) {
      if (/\[[^\][]*$/.test(source.slice(0, aligned.index))) {
        const span = { from: aligned.index, to: aligned.index + 2 };
        return this.error(
          span,
          "aligned subqueries (::) are newer than the grammar",
          "unsupported",
        );
      }
    }
    const token = /^(?:[\w:]+|[=!<>]=|[=!]~|["'`].*|[^])/u.exec(this.#text.slice(from))?.[0] ?? "";
    const before = this.#text.slice(0, from).trimEnd();
    let start = before.length;
    while (start > 0 && /[\w:]/.test(before[start - 1]!)) start -= 1;
    const name = before.slice(start);
    if (
      token === "(" && /^[a-zA-Z_:]/.test(name) &&
      !/^(?:offset|bool|by|on|ignoring|without)$/i.test(name)
    ) {
      const near = closest(name, FUNCTIONS.keys());
      const hint = near === undefined ? "" : `, did you mean ${near}?`;
      return this.error(
        { from: start, to: from },
        `unknown function with name ${quote(excerpt(name))}${hint}`,
      );
    }
    const expected = this.#expectedAt(from, source);
    const what = token === "" ? "unexpected end of input" : `unexpected ${quote(excerpt(token))}`;
    const instead = expected.length === 0 ? "" : `, expected ${listAlternatives(expected)}`;
    return this.error({ from, to: from + token.length }, `${what}${instead}`, "parse", expected);
  }

  /** Tries what could stand there: whatever the grammar takes without an error before its end would have fitted. */
  #expectedAt(at: number, source: string): string[] {
    if (at > EXPECTED_REACH) return [];
    const before = `${source.slice(0, at)}\n`;
    const found = new Set<string>();
    for (const [candidate, names] of CANDIDATES) {
      const { topNode } = parser.parse(before + candidate);
      const error = firstError(topNode);
      if (error !== undefined && error < before.length + candidate.trimEnd().length) continue;
      let node: SyntaxNode | null = topNode.resolveInner(before.length, 1);
      // Punctuation has no node of its own.
      if (Object.hasOwn(names, candidate.trim())) found.add(names[candidate.trim()]!);
      for (; node !== null; node = node.parent) {
        const name = names[node.name];
        if (name !== undefined && node.from >= before.length) found.add(name);
      }
    }
    // What begins an expression is told once.
    if (found.has("an expression")) {
      for (const part of ["a string", "a number", '"("', "an operator"]) found.delete(part);
    }
    return [...found];
  }

  // Expressions

  expr(node: SyntaxNode, depth: number): Expr {
    const parts: Part[] = [];
    this.#flatten(node, depth, parts);
    return new PartReader(this, parts).read(0);
  }

  /**
   * Lists operands and operators as they are written. The grammar cannot be asked which belong together: it takes what
   * follows an operand, like `offset 5m`, for that of everything before it, and a sign for part of a number.
   */
  #flatten(node: SyntaxNode, depth: number, parts: Part[]): void {
    if (depth > DEPTH_LIMIT) throw this.#tooDeep(node);
    const children = childrenOf(node);
    switch (node.name) {
      case "BinaryExpr": {
        this.#flatten(children[0]!, depth + 1, parts);
        parts.push({ kind: "operator", node: children[1]!, modifiers: children.slice(2, -1) });
        this.#flatten(children.at(-1)!, depth + 1, parts);
        return;
      }
      case "UnaryExpr":
        parts.push({ kind: "sign", op: this.textOf(children[0]!) as "+" | "-", from: node.from });
        this.#flatten(children[1]!, depth + 1, parts);
        return;
      case "NumberDurationLiteral": {
        const [, sign = "", digits = ""] = /^([+-]?)\s*(.*)$/s.exec(this.textOf(node))!;
        if (sign !== "") parts.push({ kind: "sign", op: sign as "+" | "-", from: node.from });
        const start = node.to - digits.length;
        const value = this.unsignedNumber(digits, node);
        parts.push({ kind: "operand", expr: { kind: "number", value, start, end: node.to } });
        return;
      }
      case "AnchoredExpr":
      case "SmoothedExpr":
        throw this.gated(node, GATED[node.name]!);
      case "MatrixSelector":
      case "SubqueryExpr":
      case "OffsetExpr":
      case "StepInvariantExpr": {
        this.#flatten(children[0]!, depth + 1, parts);
        const last = parts.pop() as Part & { kind: "operand" };
        parts.push({ kind: "operand", expr: this.#follow(node, last.expr) });
        return;
      }
      default:
        parts.push({ kind: "operand", expr: this.#operand(node, depth) });
    }
  }

  #operand(node: SyntaxNode, depth: number): Expr {
    const span = { start: node.from, end: node.to };
    switch (node.name) {
      case "StringLiteral":
        return { kind: "string", value: this.string(node), ...span };
      case "VectorSelector":
        return this.vectorSelector(node);
      case "ParenExpr":
        return { kind: "paren", expr: this.expr(childrenOf(node)[0]!, depth + 1), ...span };
      case "FunctionCall":
        return this.call(node, depth);
      case "AggregateExpr":
        return this.aggregation(node, depth);
      default:
        throw this.error(node, `unexpected ${quote(this.textOf(node))}`);
    }
  }

  /** An operand with what follows it. */
  #follow(node: SyntaxNode, expr: Expr): Expr {
    switch (node.name) {
      case "MatrixSelector":
        return this.matrixSelector(node, expr);
      case "SubqueryExpr":
        return this.subquery(node, expr);
      case "OffsetExpr":
        return this.offset(node, expr);
      default:
        return this.at(node, expr);
    }
  }

  gated(node: { from: number; to: number }, what: string): PromqlError {
    return this.error(node, `${what}, which Prometheus has behind a flag`, "unsupported");
  }

  unsignedNumber(text: string, node: SyntaxNode): number {
    const digits = text.replaceAll("_", "");
    if (/^inf$/i.test(digits)) return Infinity;
    if (/^nan$/i.test(digits)) return NaN;
    // As in Go, whose literals they are.
    if (/^0[0-7]+$/.test(digits)) return Number.parseInt(digits, 8);
    const value = Number(digits);
    if (!Number.isNaN(value)) {
      if (value === Infinity) throw this.error(node, `number out of range: ${text}`);
      return value;
    }
    try {
      return parseDuration(text) / 1000;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw this.error(node, error.message);
    }
  }

  string(node: SyntaxNode): string {
    try {
      return unquote(this.#text.slice(node.from, node.to));
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw this.error(node, error.message);
    }
  }

  unary({ op, from }: Part & { kind: "sign" }, expr: Expr): Expr {
    const span = { start: from, end: expr.end };
    if (expr.kind === "number") {
      return { kind: "number", value: op === "-" ? -expr.value : expr.value, ...span };
    }
    const type = typeOf(expr);
    if (type !== "scalar" && type !== "vector") {
      throw this.error(
        { from, to: expr.end },
        `unary expression only allowed on expressions of type scalar or instant vector, got "${
          TYPE_NAMES[type]
        }"`,
      );
    }
    return { kind: "unary", op, expr, ...span };
  }

  binary({ node, modifiers }: Part & { kind: "operator" }, left: Expr, right: Expr): Expr {
    const gated = [node, ...modifiers].find(({ name }) => Object.hasOwn(GATED, name));
    if (gated !== undefined) throw this.gated(gated, GATED[gated.name]!);
    const op = this.operatorOf(node);
    const clause = modifiers.find(({ name }) => name === "MatchingModifierClause") ?? null;
    const areVectors = typeOf(left) === "vector" && typeOf(right) === "vector";
    return this.checkBinary({
      kind: "binary",
      op,
      left,
      right,
      returnsBool: modifiers.some(({ name }) => name === "BoolModifier"),
      matching: areVectors || clause !== null ? this.matching(clause, op) : undefined,
      start: left.start,
      end: right.end,
    }, node);
  }

  operatorOf(node: SyntaxNode): BinaryOp {
    return this.textOf(node).toLowerCase() as BinaryOp;
  }

  matching(clause: SyntaxNode | null, op: BinaryOp): VectorMatching {
    const one = SET_OPS.has(op) ? "many-to-many" : "one-to-one";
    if (clause === null) return { card: one, on: false, labels: [], include: [] };
    const [labels, include] = clause.getChildren("GroupingLabels");
    const isLeft = clause.getChild("GroupLeft") !== null;
    const isRight = clause.getChild("GroupRight") !== null;
    return {
      card: isLeft ? "many-to-one" : isRight ? "one-to-many" : one,
      on: clause.getChild("On") !== null,
      labels: this.groupingLabels(labels!),
      include: include === undefined ? [] : this.groupingLabels(include),
    };
  }

  /** @see the function checkAST of Prometheus' parser, whose messages these are */
  checkBinary(expr: Binary, opNode: SyntaxNode): Binary {
    const { op, left, right, matching } = expr;
    const isComparison = COMPARISONS.has(op);
    const isSet = SET_OPS.has(op);
    const leftType = typeOf(left);
    const rightType = typeOf(right);
    const whole = placeOf(expr);
    if (expr.returnsBool && !isComparison) {
      throw this.error(opNode, "bool modifier can only be used on comparison operators");
    }
    if (isComparison && !expr.returnsBool && leftType === "scalar" && rightType === "scalar") {
      throw this.error(opNode, "comparisons between scalars must use BOOL modifier");
    }
    const both = matching?.on === true
      ? matching.labels.find((label) => matching.include.includes(label))
      : undefined;
    if (both !== undefined) {
      throw this.error(
        opNode,
        `label ${quote(both)} must not occur in ON and GROUP clause at once`,
      );
    }
    for (const side of [left, right]) {
      const type = typeOf(side);
      if (type !== "scalar" && type !== "vector") {
        throw this.error(
          placeOf(side),
          "binary expression must contain only scalar and instant vector types",
        );
      }
    }
    const areVectors = leftType === "vector" && rightType === "vector";
    if (!areVectors && matching !== undefined && matching.labels.length > 0) {
      throw this.error(whole, "vector matching only allowed between instant vectors");
    }
    if (!areVectors && isSet) {
      throw this.error(whole, `set operator ${quote(op)} not allowed in binary scalar expression`);
    }
    if (isSet && matching!.card !== "many-to-many") {
      throw this.error(whole, `no grouping allowed for ${quote(op)} operation`);
    }
    return areVectors || matching === undefined ? expr : { ...expr, matching: undefined };
  }

  groupingLabels(node: SyntaxNode): string[] {
    return childrenOf(node).map((child) => this.labelName(child));
  }

  labelName(node: SyntaxNode): string {
    if (node.name === "LabelName") return this.textOf(node);
    const name = this.string(first(node, "StringLiteral"));
    if (name === "") throw this.error(node, 'label name "" is not valid: it is empty');
    return name;
  }

  call(node: SyntaxNode, depth: number): Call {
    const identifier = first(node, "FunctionIdentifier");
    const gated = GATED[identifier.firstChild?.name ?? ""];
    if (gated !== undefined) throw this.gated(identifier, gated);
    // Not of the source, where another name may stand for it.
    const func = /^\w+/.exec(this.#text.slice(node.from))![0];
    const signature = FUNCTIONS.get(func);
    if (signature === undefined) {
      throw this.error(identifier, `unknown function with name ${quote(func)}`);
    }
    const argNodes = childrenOf(first(node, "FunctionCallBody"));
    const { least, most } = signature;
    const count = argNodes.length;
    if (count < least || count > most) {
      const bound = least === most
        ? `${least}`
        : count < least
        ? `at least ${least}`
        : `at most ${most}`;
      throw this.error(
        node,
        `expected ${bound} argument(s) in call to ${quote(func)}, got ${count}`,
      );
    }
    const args = argNodes.map((argNode, i) => {
      const isSelector = func === "info" && i === 1;
      if (isSelector && argNode.name !== "VectorSelector") {
        throw this.error(argNode, "expected label selectors only");
      }
      const arg = isSelector ? this.vectorSelector(argNode, true) : this.expr(argNode, depth + 1);
      if (isSelector && arg.kind === "vector-selector" && arg.name !== "") {
        throw this.error(argNode, "expected label selectors only, got vector selector instead");
      }
      const wanted = signature.args[Math.min(i, signature.args.length - 1)]!;
      const got = typeOf(arg);
      if (got !== wanted) {
        throw this.error(
          argNode,
          `expected type ${TYPE_NAMES[wanted]} in call to function ${quote(func)}, got ${
            TYPE_NAMES[got]
          }`,
        );
      }
      return arg;
    });
    return { kind: "call", func, args, start: node.from, end: node.to };
  }

  aggregation(node: SyntaxNode, depth: number): Expr {
    const op = this.textOf(first(node, "AggregateOp")).toLowerCase() as AggregationOp;
    const modifier = node.getChild("AggregateModifier");
    const argNodes = childrenOf(first(node, "FunctionCallBody"));
    const wanted = NEEDS_PARAM.has(op) ? 2 : 1;
    if (argNodes.length !== wanted) {
      throw this.error(
        node,
        argNodes.length === 0
          ? "no arguments for aggregate expression provided"
          : `wrong number of arguments for aggregate expression provided, expected ${wanted}, got ${argNodes.length}`,
      );
    }
    const expr = this.expr(argNodes.at(-1)!, depth + 1);
    const param = wanted === 2 ? this.expr(argNodes[0]!, depth + 1) : undefined;
    const expect = (of: Expr, type: ValueType, context: string) => {
      if (typeOf(of) === type) return;
      throw this.error(
        placeOf(of),
        `expected type ${TYPE_NAMES[type]} in ${context}, got ${TYPE_NAMES[typeOf(of)]}`,
      );
    };
    expect(expr, "vector", "aggregation expression");
    if (param !== undefined) {
      expect(param, op === "count_values" ? "string" : "scalar", "aggregation parameter");
    }
    return {
      kind: "aggregation",
      op,
      param,
      expr,
      grouping: modifier === null ? [] : this.groupingLabels(first(modifier, "GroupingLabels")),
      without: modifier?.getChild("Without") != null,
      start: node.from,
      end: node.to,
    };
  }

  // Selectors

  vectorSelector(node: SyntaxNode, mayBeEmpty = this.#isName): VectorSelector {
    const identifier = node.getChild("Identifier");
    const braces = node.getChild("LabelMatchers");
    // Not of the source, where another name may stand for it.
    let name = identifier === null ? "" : this.#text.slice(identifier.from, identifier.to);
    const matchers: Matcher[] = [];
    for (const child of braces === null ? [] : childrenOf(braces)) {
      if (child.name === "QuotedLabelName") {
        if (name !== "") {
          throw this.error(
            child,
            `metric name must not be set twice: ${quote(name)} or ${this.textOf(child)}`,
          );
        }
        name = this.string(first(child, "StringLiteral"));
        if (name === "") throw this.error(child, "the name of a metric is empty");
      } else {
        matchers.push(this.matcher(child));
      }
    }
    if (name !== "") {
      const twice = matchers.find((matcher) => matcher.name === METRIC_NAME);
      if (twice !== undefined) {
        throw this.error(
          node,
          `metric name must not be set twice: ${quote(name)} or ${quote(twice.value)}`,
        );
      }
      matchers.push({ name: METRIC_NAME, op: "=", value: name });
    } else if (!mayBeEmpty && matchers.every((matcher) => compileMatcher(matcher)(""))) {
      throw this.error(node, "vector selector must contain at least one non-empty matcher");
    }
    return {
      kind: "vector-selector",
      name,
      matchers,
      offset: 0,
      at: undefined,
      start: node.from,
      end: node.to,
    };
  }

  matcher(node: SyntaxNode): Matcher {
    const nameNode = node.getChild("LabelName") ?? first(node, "QuotedLabelName");
    const matcher: Matcher = {
      name: this.labelName(nameNode),
      op: this.textOf(first(node, "MatchOp")) as Matcher["op"],
      value: this.string(first(node, "StringLiteral")),
    };
    try {
      compileMatcher(matcher);
    } catch (error) {
      if (!(error instanceof PromqlError)) throw error;
      throw this.error(first(node, "StringLiteral"), error.message);
    }
    return matcher;
  }

  matrixSelector(node: SyntaxNode, vector: Expr): Expr {
    const rangeNode = first(node, "DurationExpr");
    if (vector.kind !== "vector-selector") {
      throw this.error(placeOf(vector), "ranges only allowed for vector selectors");
    }
    if (vector.offset !== 0) throw this.error(node, "no offset modifiers allowed before range");
    if (vector.at !== undefined) throw this.error(node, "no @ modifiers allowed before range");
    return {
      kind: "matrix-selector",
      vector,
      range: this.positiveDuration(rangeNode),
      start: vector.start,
      end: node.to,
    };
  }

  subquery(node: SyntaxNode, expr: Expr): Expr {
    const [rangeNode, stepNode] = node.getChildren("DurationExpr");
    const type = typeOf(expr);
    if (type !== "vector") {
      throw this.error(
        placeOf(expr),
        `subquery is only allowed on instant vector, got ${type} instead`,
      );
    }
    return {
      kind: "subquery",
      expr,
      range: this.positiveDuration(rangeNode!),
      step: stepNode === undefined ? undefined : this.positiveDuration(stepNode),
      offset: 0,
      at: undefined,
      start: expr.start,
      end: node.to,
    };
  }

  positiveDuration(node: SyntaxNode): number {
    const duration = this.duration(node);
    if (duration <= 0) throw this.error(node, "duration must be greater than 0");
    return duration;
  }

  /** Milliseconds. A sign is plain only before an offset. */
  duration(node: SyntaxNode): number {
    const [child, operand] = childrenOf(node);
    const isOffset = node.name === "OffsetDurationExpr";
    if (isOffset && child!.name === "UnaryOp" && operand!.name === "OffsetDurationExpr") {
      const duration = this.duration(operand!);
      return this.textOf(child!) === "-" ? -duration : duration;
    }
    if (child!.name !== "NumberDurationLiteralInDurationContext") {
      throw this.gated(node, "an expression as a duration");
    }
    const milliseconds = Math.round(this.unsignedNumber(this.textOf(child!), child!) * 1000);
    if (!(milliseconds <= LONGEST_DURATION)) throw this.error(node, "duration out of range");
    return milliseconds;
  }

  offset(node: SyntaxNode, expr: Expr): Expr {
    const offset = this.duration(first(node, "OffsetDurationExpr"));
    const selector = this.modified(expr, "offset modifier");
    if (selector.offset !== 0) {
      throw this.error(placeOf(expr), "offset may not be set multiple times");
    }
    return this.withModifier(expr, { offset }, node.to);
  }

  at(node: SyntaxNode, expr: Expr): Expr {
    const selector = this.modified(expr, "@ modifier");
    if (selector.at !== undefined) {
      throw this.error(placeOf(expr), "@ <timestamp> may not be set multiple times");
    }
    const literal = node.getChild("NumberDurationLiteral");
    if (literal === null) {
      const isStart = first(node, "AtModifierPreprocessors").getChild("AtStart") !== null;
      return this.withModifier(expr, { at: isStart ? "start" : "end" }, node.to);
    }
    const [, sign = "", digits = ""] = /^([+-]?)\s*(.*)$/s.exec(this.textOf(literal))!;
    const seconds = this.unsignedNumber(digits, literal);
    const at = Math.round((sign === "-" ? -seconds : seconds) * 1000);
    if (!(Math.abs(at) < 2 ** 63)) {
      throw this.error(literal, `timestamp out of bounds for @ modifier: ${this.textOf(literal)}`);
    }
    return this.withModifier(expr, { at }, node.to);
  }

  /** What a modifier goes to: of a range, its selector. */
  modified(expr: Expr, what: string): { offset: number; at: AtModifier | undefined } {
    if (expr.kind === "vector-selector" || expr.kind === "subquery") return expr;
    if (expr.kind === "matrix-selector") return expr.vector;
    throw this.error(
      placeOf(expr),
      `${what} must be preceded by an instant vector selector or range vector selector or a subquery`,
    );
  }

  withModifier(expr: Expr, change: { offset: number } | { at: AtModifier }, end: number): Expr {
    return expr.kind === "matrix-selector"
      ? { ...expr, vector: { ...expr.vector, ...change }, end }
      : { ...expr, ...change, end } as Expr;
  }
}

/** The tree, or where the first error is. */
function parseStrictly(source: string): SyntaxNode | number {
  const parse = strictParser.startParse(source);
  try {
    for (;;) {
      // The parser gives up a chain like `a or b or …` after 300 long links, as if it ended there; depth is checked above.
      (parse as unknown as { bigReductionCount: number }).bigReductionCount = 0;
      const tree = parse.advance();
      if (tree !== null) return tree.topNode;
    }
  } catch (error) {
    const at = error instanceof SyntaxError && /^No parse at (\d+)$/.exec(error.message);
    if (!at) throw error;
    return Number(at[1]);
  }
}

/** Where the first thing that does not fit begins. */
function firstError(top: SyntaxNode): number | undefined {
  let at: number | undefined;
  const cursor = top.cursor();
  do {
    if (cursor.type.isError && (at === undefined || cursor.from < at)) at = cursor.from;
  } while (cursor.next());
  return at;
}

function excerpt(text: string): string {
  return text.length > EXCERPT_LENGTH ? `${text.slice(0, EXCERPT_LENGTH)}…` : text;
}

function listAlternatives(items: readonly string[]): string {
  return items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} or ${items.at(-1)}`;
}

/** The name that is at most two characters away, if there is one. */
function closest(name: string, names: Iterable<string>): string | undefined {
  let best: string | undefined;
  const bound = name.length < 5 ? 2 : 3;
  let least = bound;
  for (const candidate of names) {
    if (Math.abs(candidate.length - name.length) >= bound) continue;
    // What is only not finished yet is the likelier.
    const distance = editDistance(name, candidate) - (candidate.startsWith(name) ? 0.5 : 0);
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const swap = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(swap, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
