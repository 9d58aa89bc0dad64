import type { Expr } from "../promql/ast.ts";
import { parseExpr, typeOf } from "../promql/parse-expr.ts";
import { locate, PromqlError } from "../promql/promql-error.ts";

/** Reads the expression that ends an alert. @throws {PromqlError} if it is none, or gives neither vector nor scalar. */
export function parseClearExpr(text: string): Expr {
  const expr = parseExpr(text);
  const type = typeOf(expr);
  if (type === "vector" || type === "scalar") return expr;
  const place = locate(text, 0, text.length);
  throw new PromqlError("parse", `1:1: parse error: must be a vector or scalar, is a ${type}`, {
    place,
  });
}
