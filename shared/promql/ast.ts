import type { Matcher } from "./series.ts";

export type ValueType = "scalar" | "vector" | "matrix" | "string";

/** Where a node is in the text: offsets in UTF-16 units, the end not included. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

export type AggregationOp =
  | "sum"
  | "avg"
  | "count"
  | "min"
  | "max"
  | "group"
  | "stddev"
  | "stdvar"
  | "topk"
  | "bottomk"
  | "count_values"
  | "quantile"
  | "limitk"
  | "limit_ratio";

export type SetOp = "and" | "or" | "unless";
export type ComparisonOp = "==" | "!=" | ">" | "<" | ">=" | "<=";
export type ArithmeticOp = "+" | "-" | "*" | "/" | "%" | "^" | "atan2";
export type BinaryOp = ArithmeticOp | ComparisonOp | SetOp;

/** `@`: a time in milliseconds, or the first or last step of the query. */
export type AtModifier = number | "start" | "end";

/** How the elements of two vectors find each other. */
export interface VectorMatching {
  readonly card: "one-to-one" | "many-to-one" | "one-to-many" | "many-to-many";
  /** `on` rather than `ignoring`. */
  readonly on: boolean;
  readonly labels: readonly string[];
  /** Labels that `group_left` and `group_right` bring along. */
  readonly include: readonly string[];
}

export interface NumberLiteral extends Span {
  readonly kind: "number";
  readonly value: number;
}

export interface StringLiteral extends Span {
  readonly kind: "string";
  readonly value: string;
}

export interface VectorSelector extends Span {
  readonly kind: "vector-selector";
  /** The name that stands before the braces, or alone in quotes within them; also among the matchers. */
  readonly name: string;
  readonly matchers: readonly Matcher[];
  /** Milliseconds. */
  readonly offset: number;
  readonly at: AtModifier | undefined;
}

export interface MatrixSelector extends Span {
  readonly kind: "matrix-selector";
  readonly vector: VectorSelector;
  /** Milliseconds. */
  readonly range: number;
}

export interface Subquery extends Span {
  readonly kind: "subquery";
  readonly expr: Expr;
  /** Milliseconds. */
  readonly range: number;
  /** Milliseconds, undefined for the default. */
  readonly step: number | undefined;
  readonly offset: number;
  readonly at: AtModifier | undefined;
}

export interface Paren extends Span {
  readonly kind: "paren";
  readonly expr: Expr;
}

export interface Unary extends Span {
  readonly kind: "unary";
  readonly op: "+" | "-";
  readonly expr: Expr;
}

export interface Binary extends Span {
  readonly kind: "binary";
  readonly op: BinaryOp;
  readonly left: Expr;
  readonly right: Expr;
  /** Of a comparison: 0 or 1 instead of a filter. */
  readonly returnsBool: boolean;
  /** Undefined unless both sides are vectors. */
  readonly matching: VectorMatching | undefined;
}

export interface Aggregation extends Span {
  readonly kind: "aggregation";
  readonly op: AggregationOp;
  readonly param: Expr | undefined;
  readonly expr: Expr;
  readonly grouping: readonly string[];
  readonly without: boolean;
}

export interface Call extends Span {
  readonly kind: "call";
  readonly func: string;
  readonly args: readonly Expr[];
}

/** An expression of PromQL, its types checked. */
export type Expr =
  | NumberLiteral
  | StringLiteral
  | VectorSelector
  | MatrixSelector
  | Subquery
  | Paren
  | Unary
  | Binary
  | Aggregation
  | Call;
