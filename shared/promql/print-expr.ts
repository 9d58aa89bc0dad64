import type { Aggregation, AtModifier, Binary, Expr, VectorSelector } from "./ast.ts";
import { formatDuration } from "./durations.ts";
import { formatLabelName, isPlainMetricName, quote } from "./format-labels.ts";
import { formatDecimal } from "./format-value.ts";
import { METRIC_NAME } from "./series.ts";

/** Longer expressions are split by {@link prettyPrintExpr}. */
const LINE_LIMIT = 100;

/** An expression in one line, as Prometheus writes it. */
export function printExpr(expr: Expr): string {
  switch (expr.kind) {
    case "number":
      return formatDecimal(expr.value);
    case "string":
      return quote(expr.value);
    case "vector-selector":
      return printSelector(expr) + printModifiers(expr);
    case "matrix-selector":
      return `${printSelector(expr.vector)}[${formatDuration(expr.range)}]${
        printModifiers(expr.vector)
      }`;
    case "subquery":
      return `${printExpr(expr.expr)}${printWindow(expr)}`;
    case "paren":
      return `(${printExpr(expr.expr)})`;
    case "unary":
      return `${expr.op}${printExpr(expr.expr)}`;
    case "binary":
      return `${printExpr(expr.left)} ${printOperator(expr)} ${printExpr(expr.right)}`;
    case "aggregation": {
      const args = [expr.param, expr.expr].filter((arg) => arg !== undefined);
      return `${printAggregator(expr)}(${args.map(printExpr).join(", ")})`;
    }
    case "call":
      return `${expr.func}(${expr.args.map(printExpr).join(", ")})`;
  }
}

/** An expression with a line for each part of what is longer than 100 characters, as Prometheus' `format_query` writes it. */
export function prettyPrintExpr(expr: Expr, level = 0): string {
  const indent = "  ".repeat(level);
  const text = printExpr(expr);
  const line = `${indent}${text}`;
  // The indent does not count, as it does not there.
  if (text.length <= LINE_LIMIT) return line;
  const within = (inner: Expr) => prettyPrintExpr(inner, level + 1);
  switch (expr.kind) {
    case "paren":
      return `${indent}(\n${within(expr.expr)}\n${indent})`;
    case "unary":
      return `${indent}${expr.op}${prettyPrintExpr(expr.expr, level).trimStart()}`;
    case "subquery":
      return `${prettyPrintExpr(expr.expr, level)}${printWindow(expr)}`;
    case "binary":
      return `${within(expr.left)}\n${indent}${printOperator(expr)}\n${within(expr.right)}`;
    case "aggregation": {
      const args = [expr.param, expr.expr].filter((arg) => arg !== undefined);
      return `${indent}${printAggregator(expr)}(\n${args.map(within).join(",\n")}\n${indent})`;
    }
    case "call":
      return `${indent}${expr.func}(\n${expr.args.map(within).join(",\n")}\n${indent})`;
    default:
      return line;
  }
}

function printSelector({ name, matchers }: VectorSelector): string {
  const isPlain = isPlainMetricName(name);
  const rest = matchers
    .filter(({ name: label, op, value }) =>
      !(label === METRIC_NAME && op === "=" && value === name && name !== "")
    )
    .map(({ name: label, op, value }) => `${formatLabelName(label)}${op}${quote(value)}`)
    .sort();
  if (name !== "" && !isPlain) rest.unshift(quote(name));
  if (rest.length > 0) return `${isPlain ? name : ""}{${rest.join(",")}}`;
  return name === "" ? "{}" : name;
}

function printModifiers({ at, offset }: { at: AtModifier | undefined; offset: number }): string {
  const moment = at === undefined
    ? ""
    : typeof at === "number"
    ? ` @ ${(at / 1000).toFixed(3)}`
    : ` @ ${at}()`;
  const sign = offset < 0 ? "-" : "";
  const shift = offset === 0 ? "" : ` offset ${sign}${formatDuration(Math.abs(offset))}`;
  return moment + shift;
}

function printWindow(expr: Expr & { kind: "subquery" }): string {
  const step = expr.step === undefined ? "" : formatDuration(expr.step);
  return `[${formatDuration(expr.range)}:${step}]${printModifiers(expr)}`;
}

function printNames(names: readonly string[]): string {
  return names.map(formatLabelName).join(", ");
}

function printOperator({ op, returnsBool, matching }: Binary): string {
  let text: string = op;
  if (returnsBool) text += " bool";
  if (matching === undefined) return text;
  const { card, on, labels, include } = matching;
  const isGrouped = card === "many-to-one" || card === "one-to-many";
  if (labels.length > 0 || on || isGrouped) {
    text += ` ${on ? "on" : "ignoring"} (${printNames(labels)})`;
  }
  if (isGrouped) {
    text += ` group_${card === "many-to-one" ? "left" : "right"} (${printNames(include)})`;
  }
  return text;
}

function printAggregator({ op, without, grouping }: Aggregation): string {
  if (without) return `${op} without (${printNames(grouping)}) `;
  return grouping.length > 0 ? `${op} by (${printNames(grouping)}) ` : op;
}
