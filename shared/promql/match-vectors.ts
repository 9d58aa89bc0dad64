import type { ArithmeticOp, Binary, BinaryOp, ComparisonOp, VectorMatching } from "./ast.ts";
import {
  type Bounds,
  type Column,
  dropMetadata,
  type Grid,
  METADATA_LABELS,
  omitLabels,
  pickLabels,
  withLabel,
} from "./columns.ts";
import { formatLabelSet } from "./format-labels.ts";
import { labelsKey } from "./labels-key.ts";
import { PromqlError } from "./promql-error.ts";
import { labelOf, type Labels } from "./series.ts";

const ARITHMETIC: Readonly<Record<ArithmeticOp, (a: number, b: number) => number>> = {
  "+": (a, b) => a + b,
  "-": (a, b) => a - b,
  "*": (a, b) => a * b,
  "/": (a, b) => a / b,
  "%": (a, b) => a % b,
  "^": power,
  atan2: Math.atan2,
};

/** As in C and Go: 1 to any power, and anything to the power of 0, is 1. */
function power(base: number, exponent: number): number {
  return base === 1 || (base === -1 && Math.abs(exponent) === Infinity) ? 1 : base ** exponent;
}

const COMPARISONS: Readonly<Record<ComparisonOp, (a: number, b: number) => boolean>> = {
  "==": (a, b) => a === b,
  "!=": (a, b) => a !== b,
  ">": (a, b) => a > b,
  "<": (a, b) => a < b,
  ">=": (a, b) => a >= b,
  "<=": (a, b) => a <= b,
};

function isComparison(op: BinaryOp): op is ComparisonOp {
  return Object.hasOwn(COMPARISONS, op);
}

/** The operation on two numbers; a comparison is 1 or 0. */
export function combineNumbers(op: BinaryOp, a: number, b: number): number {
  return isComparison(op) ? Number(COMPARISONS[op](a, b)) : ARITHMETIC[op as ArithmeticOp](a, b);
}

/** The operation between each element of a vector and a scalar; columns are changed in place. */
export function combineWithScalar(
  { op, returnsBool }: Binary,
  columns: readonly Column[],
  scalars: Float64Array,
  isScalarLeft: boolean,
): void {
  if (isComparison(op)) {
    const holds = COMPARISONS[op];
    for (const column of columns) {
      const { values, present } = column;
      for (let i = 0; i < values.length; i += 1) {
        const verdict = isScalarLeft
          ? holds(scalars[i]!, values[i]!)
          : holds(values[i]!, scalars[i]!);
        if (returnsBool) values[i] = Number(verdict);
        else if (!verdict) present[i] = 0;
      }
    }
  } else {
    const combine = ARITHMETIC[op as ArithmeticOp];
    for (const { values } of columns) {
      for (let i = 0; i < values.length; i += 1) {
        values[i] = isScalarLeft
          ? combine(scalars[i]!, values[i]!)
          : combine(values[i]!, scalars[i]!);
      }
    }
  }
}

/** Makes the function that tells what two elements have to have in common. */
function signer({ on, labels }: VectorMatching): (labels: Labels) => string {
  // Metadata is never compared unless it is asked for.
  const ignored = [...labels, ...METADATA_LABELS];
  return on
    ? (of) => labelsKey(pickLabels(of, labels))
    : (of) => labelsKey(omitLabels(of, ignored));
}

/** `and`, `or`, `unless`: step by step, for a series is there at one and gone at the next. */
export function combineSets(
  { op, matching }: Binary,
  left: readonly Column[],
  right: readonly Column[],
  grid: Grid,
): Column[] {
  const sign = signer(matching!);
  const [kept, others] = op === "or" ? [right, left] : [left, right];
  const presence = new Map<string, Uint8Array>();
  for (const { labels, present } of others) {
    const key = sign(labels);
    let any = presence.get(key);
    if (any === undefined) presence.set(key, any = new Uint8Array(grid.count));
    for (let i = 0; i < grid.count; i += 1) any[i]! |= present[i]!;
  }
  const isWanted = op === "and" ? 1 : 0;
  for (const { labels, present } of kept) {
    const any = presence.get(sign(labels));
    for (let i = 0; i < grid.count; i += 1) {
      if ((any?.[i] ?? 0) !== isWanted) present[i] = 0;
    }
  }
  return op === "or" ? [...left, ...kept] : [...kept];
}

/** Arithmetic and comparison between two vectors. @throws {PromqlError} if elements do not find each other one to one, or many to one */
export function combineVectors(
  expr: Binary,
  left: readonly Column[],
  right: readonly Column[],
  grid: Grid,
  bounds: Bounds,
): Column[] {
  const matching = expr.matching!;
  const isSwapped = matching.card === "one-to-many";
  const [many, one] = isSwapped ? [right, left] : [left, right];
  const sign = signer(matching);
  const bySignature = groupOnes(one, sign, matching, presenceOf(many, grid));

  const results: Column[] = [];
  /** By what may be there once, the steps at which it is. */
  const taken = new Map<string, Uint8Array>();
  for (const element of many) {
    const signature = sign(element.labels);
    for (const match of bySignature.get(signature) ?? []) {
      bounds.spend(grid.count);
      if (!element.present.some((is, i) => is === 1 && match.present[i] === 1)) continue;
      const { result, met } = combinePair(expr, element, match, grid, isSwapped, bounds);
      const isOneToOne = matching.card === "one-to-one";
      const key = isOneToOne ? signature : `${signature} ${labelsKey(result.labels)}`;
      const before = taken.get(key);
      if (before === undefined) taken.set(key, met);
      else takeSteps(before, met, isOneToOne);
      if (result.present.includes(1)) results.push(result);
    }
  }
  return results;
}

/** The steps at which any of them has a value. */
function presenceOf(columns: readonly Column[], grid: Grid): Uint8Array {
  const any = new Uint8Array(grid.count);
  for (const { present } of columns) {
    for (let i = 0; i < grid.count; i += 1) any[i]! |= present[i]!;
  }
  return any;
}

/** Of the side that may have one element a signature, at the steps at which there is another side to match. */
function groupOnes(
  one: readonly Column[],
  sign: (labels: Labels) => string,
  matching: VectorMatching,
  asked: Uint8Array,
): Map<string, Column[]> {
  const bySignature = new Map<string, Column[]>();
  /** By signature, the steps at which there is an element; only where there are several. */
  const taken = new Map<string, Uint8Array>();
  for (const column of one) {
    const signature = sign(column.labels);
    const others = bySignature.get(signature);
    if (others === undefined) {
      bySignature.set(signature, [column]);
      continue;
    }
    const steps = taken.get(signature) ?? others[0]!.present.slice();
    taken.set(signature, steps);
    for (let i = 0; i < steps.length; i += 1) {
      if (column.present[i] === 0 || asked[i] === 0) continue;
      if (steps[i] === 1) {
        const other = others.find(({ present }) => present[i] === 1)!;
        throw duplicateError(matching, column.labels, other.labels);
      }
      steps[i] = 1;
    }
    others.push(column);
  }
  return bySignature;
}

function duplicateError(matching: VectorMatching, a: Labels, b: Labels): PromqlError {
  const group = matching.on
    ? pickLabels(a, matching.labels)
    : omitLabels(a, [...matching.labels, ...METADATA_LABELS]);
  const side = matching.card === "one-to-many" ? "left" : "right";
  const both = [formatLabelSet(a), formatLabelSet(b)].sort();
  return new PromqlError(
    "execution",
    `found duplicate series for the match group ${
      formatLabelSet(group)
    } on the ${side} hand-side of the ` +
      `operation: [${both.join(", ")}];many-to-many matching not allowed: ` +
      "matching labels must be unique on one side",
  );
}

/** The result of two elements, and where both of them are. */
function combinePair(
  { op, returnsBool, matching }: Binary,
  element: Column,
  match: Column,
  grid: Grid,
  isSwapped: boolean,
  { make }: Bounds,
): { result: Column; met: Uint8Array } {
  const labels = resultLabels(op, matching!, element.labels, match.labels);
  const result = make(labels, returnsBool, grid.count);
  const met = new Uint8Array(grid.count);
  const [left, right] = isSwapped ? [match, element] : [element, match];
  const holds = isComparison(op) ? COMPARISONS[op] : undefined;
  const combine = holds === undefined ? ARITHMETIC[op as ArithmeticOp] : undefined;
  for (let i = 0; i < grid.count; i += 1) {
    if (element.present[i] === 0 || match.present[i] === 0) continue;
    met[i] = 1;
    const a = left.values[i]!;
    const b = right.values[i]!;
    if (holds === undefined) {
      result.values[i] = combine!(a, b);
    } else {
      const verdict = holds(a, b);
      if (!returnsBool && !verdict) continue;
      result.values[i] = returnsBool ? Number(verdict) : a;
    }
    result.present[i] = 1;
  }
  return { result, met };
}

function resultLabels(
  op: BinaryOp,
  { card, on, labels, include }: VectorMatching,
  element: Labels,
  match: Labels,
): Labels {
  let result = isComparison(op) ? element : dropMetadata(element);
  if (card === "one-to-one") {
    result = on ? pickLabels(result, labels) : omitLabels(result, labels);
  }
  for (const name of include) result = withLabel(result, name, labelOf(match, name));
  return result;
}

/** Adds steps to those that are taken. @throws {PromqlError} if one of them is, by a second element where there may be one */
function takeSteps(taken: Uint8Array, steps: Uint8Array, isOneToOne: boolean): void {
  for (let i = 0; i < steps.length; i += 1) {
    if (steps[i] === 0) continue;
    if (taken[i] === 1) {
      throw new PromqlError(
        "execution",
        isOneToOne
          ? "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
          : "multiple matches for labels: grouping labels must ensure unique matches",
      );
    }
    taken[i] = 1;
  }
}
