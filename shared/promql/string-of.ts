import type { Expr } from "./ast.ts";

/** The text of a string literal, in parentheses or not. */
export function stringOf(expr: Expr): string {
  if (expr.kind === "paren") return stringOf(expr.expr);
  if (expr.kind !== "string") throw new RangeError(`Cannot read ${expr.kind} as a string`);
  return expr.value;
}
