import type { Expr, VectorSelector } from "../../shared/promql/ast.ts";

/** Functions whose result goes by the time of evaluation, whatever their arguments are pinned to. */
const TIME_DEPENDENT = new Set([
  "days_in_month",
  "day_of_month",
  "day_of_week",
  "day_of_year",
  "end",
  "hour",
  "info",
  "minute",
  "month",
  "predict_linear",
  "range",
  "start",
  "step",
  "time",
  "timestamp",
  "year",
]);

/**
 * The expression with `@` at every outermost selector and subquery that has no time of its own: evaluated at any time, its
 * result is the one of time `at`, in milliseconds since 1970. Undefined where a function sees the time of evaluation.
 */
export function pinTimes(expr: Expr, at: number): Expr | undefined {
  let isTimeDependent = false;
  const pinSelector = (selector: VectorSelector) => ({ ...selector, at: pinned(selector.at, at) });
  const pin = (node: Expr): Expr => {
    switch (node.kind) {
      case "number":
      case "string":
        return node;
      case "vector-selector":
        return pinSelector(node);
      case "matrix-selector":
        return { ...node, vector: pinSelector(node.vector) };
      case "subquery":
        return { ...node, at: pinned(node.at, at) };
      case "paren":
      case "unary":
        return { ...node, expr: pin(node.expr) };
      case "binary":
        return { ...node, left: pin(node.left), right: pin(node.right) };
      case "aggregation":
        return { ...node, param: node.param && pin(node.param), expr: pin(node.expr) };
      case "call":
        isTimeDependent ||= TIME_DEPENDENT.has(node.func);
        return { ...node, args: node.args.map(pin) };
    }
  };
  const result = pin(expr);
  return isTimeDependent ? undefined : result;
}

function pinned(own: VectorSelector["at"], at: number): number {
  return typeof own === "number" ? own : at;
}
