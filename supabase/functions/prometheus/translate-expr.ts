import type { AtModifier, Expr, VectorSelector } from "../../../shared/promql/ast.ts";
import { formatDecimal } from "../../../shared/promql/format-value.ts";
import { FUNCTIONS } from "../../../shared/promql/function-signatures.ts";

/** The tree of an expression in the spelling of Prometheus' `/parse_query`. */
export function translateExpr(expr: Expr): Record<string, unknown> {
  switch (expr.kind) {
    case "number":
      return { type: "numberLiteral", val: formatDecimal(expr.value) };
    case "string":
      return { type: "stringLiteral", val: expr.value };
    case "vector-selector":
      return { type: "vectorSelector", ...translateSelector(expr) };
    case "matrix-selector":
      return { type: "matrixSelector", ...translateSelector(expr.vector), range: expr.range };
    case "subquery":
      return {
        type: "subquery",
        expr: translateExpr(expr.expr),
        range: expr.range,
        offset: expr.offset,
        step: expr.step ?? 0,
        ...translateAt(expr.at),
      };
    case "paren":
      return { type: "parenExpr", expr: translateExpr(expr.expr) };
    case "unary":
      return { type: "unaryExpr", op: expr.op, expr: translateExpr(expr.expr) };
    case "binary":
      return {
        type: "binaryExpr",
        op: expr.op,
        lhs: translateExpr(expr.left),
        rhs: translateExpr(expr.right),
        matching: expr.matching ?? null,
        bool: expr.returnsBool,
      };
    case "aggregation":
      return {
        type: "aggregation",
        op: expr.op,
        expr: translateExpr(expr.expr),
        param: expr.param === undefined ? null : translateExpr(expr.param),
        grouping: expr.grouping,
        without: expr.without,
      };
    case "call":
      return {
        type: "call",
        func: translateFunction(expr.func),
        args: expr.args.map(translateExpr),
      };
  }
}

function translateSelector({ name, offset, matchers, at }: VectorSelector) {
  return {
    name,
    offset,
    matchers: matchers.map(({ name, op, value }) => ({ name, value, type: op })),
    ...translateAt(at),
    anchored: false,
    smoothed: false,
  };
}

function translateAt(at: AtModifier | undefined) {
  return {
    timestamp: typeof at === "number" ? at : null,
    startOrEnd: typeof at === "string" ? at : null,
  };
}

function translateFunction(name: string) {
  const { args, least, most, returns } = FUNCTIONS.get(name)!;
  // Go counts how often the last argument may come; -1 is without end.
  const optional = most === Infinity ? -1 : most - args.length + 1;
  const variadic = least === args.length && most === args.length ? 0 : optional;
  return { name, argTypes: args, variadic, returnType: returns };
}
