import type { Aggregation } from "./ast.ts";
import type { Annotations } from "./annotations.ts";
import { stringOf } from "./string-of.ts";
import {
  type Bounds,
  type Column,
  type Grid,
  makeColumn,
  omitLabels,
  pickLabels,
  withLabel,
} from "./columns.ts";
import { quote } from "./format-labels.ts";
import { formatDecimal, formatShort } from "./format-value.ts";
import { hashUnit } from "./hash-unit.ts";
import { labelsKey } from "./labels-key.ts";
import { PromqlError } from "./promql-error.ts";
import { quantileOf } from "./quantile.ts";
import { type Labels, METRIC_NAME } from "./series.ts";
import { isValidName } from "./unquote.ts";
import { RunningMean } from "./window-functions.ts";

/** Columns that are aggregated together, and what the result is called. */
interface Group {
  readonly labels: Labels;
  readonly members: Column[];
}

/** What an aggregation needs beside its columns. */
export interface AggregationContext {
  readonly grid: Grid;
  readonly annotations: Annotations;
  /** The parameter at each step, for those that take a scalar. */
  readonly param: Float64Array | undefined;
  readonly bounds: Bounds;
}

/** Puts columns together over some of their labels. @throws {PromqlError} */
export function aggregate(
  expr: Aggregation,
  columns: readonly Column[],
  context: AggregationContext,
): Column[] {
  switch (expr.op) {
    case "topk":
    case "bottomk":
      return selectByValue(expr, columns, context);
    case "limitk":
      return selectFirst(expr, columns, context);
    case "limit_ratio":
      return selectRatio(expr, columns, context);
    case "count_values":
      return countValues(expr, columns, context);
    default:
      return reduceGroups(expr, columns, context);
  }
}

function groupColumns({ grouping, without }: Aggregation, columns: readonly Column[]): Group[] {
  const byKey = new Map<string, Group>();
  const left = [...grouping, METRIC_NAME];
  for (const column of columns) {
    const labels = without ? omitLabels(column.labels, left) : pickLabels(column.labels, grouping);
    const key = labelsKey(labels);
    const group = byKey.get(key);
    if (group === undefined) byKey.set(key, { labels, members: [column] });
    else group.members.push(column);
  }
  return [...byKey.values()];
}

// One value a group

function reduceGroups(
  expr: Aggregation,
  columns: readonly Column[],
  { grid, param, annotations }: AggregationContext,
): Column[] {
  if (expr.op === "quantile") {
    for (const quantile of new Set(param!)) {
      if (!(quantile >= 0 && quantile <= 1)) annotations.invalidQuantile(quantile, expr.param!);
    }
  }
  return groupColumns(expr, columns).map(({ labels, members }) => {
    const result = makeColumn(labels, members.some(({ dropsName }) => dropsName), grid.count);
    for (const { present } of members) {
      for (let i = 0; i < grid.count; i += 1) result.present[i]! |= present[i]!;
    }
    if (expr.op === "quantile") reduceQuantile(members, result, param!);
    else REDUCERS[expr.op as keyof typeof REDUCERS](members, result);
    return result;
  });
}

type Reducer = (members: readonly Column[], result: Column) => void;

/** Column after column: each is walked through once, in order. */
const REDUCERS = {
  sum(members, { values }) {
    const carries = new Float64Array(values.length);
    const isSeen = new Uint8Array(values.length);
    for (const member of members) {
      for (let i = 0; i < values.length; i += 1) {
        if (member.present[i] === 0) continue;
        const value = member.values[i]!;
        if (isSeen[i] === 0) {
          isSeen[i] = 1;
          values[i] = value;
          continue;
        }
        const before = values[i]!;
        const total = before + value;
        if (!Number.isFinite(total)) carries[i] = 0;
        else if (Math.abs(before) >= Math.abs(value)) carries[i]! += (before - total) + value;
        else carries[i]! += (value - total) + before;
        values[i] = total;
      }
    }
    for (let i = 0; i < values.length; i += 1) values[i]! += carries[i]!;
  },
  avg(members, { values, present }) {
    for (let i = 0; i < values.length; i += 1) {
      if (present[i] === 0) continue;
      let mean: RunningMean | undefined;
      for (const member of members) {
        if (member.present[i] === 0) continue;
        if (mean === undefined) mean = new RunningMean(member.values[i]!);
        else mean.add(member.values[i]!);
      }
      values[i] = mean!.value;
    }
  },
  count(members, { values }) {
    for (const { present } of members) {
      for (let i = 0; i < values.length; i += 1) values[i]! += present[i]!;
    }
  },
  group(_, { values }) {
    values.fill(1);
  },
  min: keepBest((value, best) => value < best),
  max: keepBest((value, best) => value > best),
  stddev(members, result) {
    reduceVariance(members, result);
    for (let i = 0; i < result.values.length; i += 1) {
      result.values[i] = Math.sqrt(result.values[i]!);
    }
  },
  stdvar: reduceVariance,
} satisfies Record<string, Reducer>;

function keepBest(isBetter: (value: number, best: number) => boolean): Reducer {
  return (members, { values }) => {
    const isSeen = new Uint8Array(values.length);
    for (const member of members) {
      for (let i = 0; i < values.length; i += 1) {
        if (member.present[i] === 0) continue;
        const value = member.values[i]!;
        const best = values[i]!;
        if (isSeen[i] === 0 || isBetter(value, best) || Number.isNaN(best)) values[i] = value;
        isSeen[i] = 1;
      }
    }
  };
}

function reduceVariance(members: readonly Column[], { values }: Column): void {
  const counts = new Float64Array(values.length);
  const means = new Float64Array(values.length);
  for (const member of members) {
    for (let i = 0; i < values.length; i += 1) {
      if (member.present[i] === 0) continue;
      const value = member.values[i]!;
      counts[i]! += 1;
      if (counts[i] === 1) {
        means[i] = value;
        // A single infinity has no spread that could be told.
        values[i] = Number.isFinite(value) ? 0 : NaN;
        continue;
      }
      const delta = value - means[i]!;
      means[i]! += delta / counts[i]!;
      values[i]! += delta * (value - means[i]!);
    }
  }
  for (let i = 0; i < values.length; i += 1) values[i]! /= counts[i]!;
}

function reduceQuantile(members: readonly Column[], { values }: Column, param: Float64Array): void {
  const gathered = new Float64Array(members.length);
  for (let i = 0; i < values.length; i += 1) {
    let count = 0;
    for (const member of members) {
      if (member.present[i] === 1) gathered[count++] = member.values[i]!;
    }
    values[i] = quantileOf(param[i]!, gathered.subarray(0, count));
  }
}

// Some of the columns

/** The parameter as a number of elements, as Prometheus reads it. */
function readCount(param: number, most: number): number {
  if (Number.isNaN(param)) throw new PromqlError("execution", "Parameter value is NaN");
  if (param >= 2 ** 63) {
    const value = formatShort(param);
    throw new PromqlError("execution", `Scalar value ${value} overflows int64`);
  }
  if (param <= -(2 ** 63)) {
    throw new PromqlError("execution", `Scalar value ${formatShort(param)} underflows int64`);
  }
  return Math.min(Math.trunc(param), most);
}

/** Columns of which only what is selected later is present. */
function emptyCopies(columns: readonly Column[]): Map<Column, Column> {
  return new Map(columns.map((column) => [
    column,
    {
      labels: column.labels,
      dropsName: column.dropsName,
      values: column.values,
      present: new Uint8Array(column.present.length),
    },
  ]));
}

function selectByValue(
  expr: Aggregation,
  columns: readonly Column[],
  { grid, param, bounds }: AggregationContext,
): Column[] {
  const groups = groupColumns(expr, columns);
  const selected = emptyCopies(columns);
  const isTop = expr.op === "topk";
  const isInstant = grid.count === 1;
  const inOrder: Column[] = [];
  for (let i = 0; i < grid.count; i += 1) {
    const count = readCount(param![i]!, columns.length);
    if (count < 1) continue;
    bounds.spend(columns.length);
    for (const { members } of groups) {
      const heap = new ValueHeap(count, isTop);
      for (const member of members) {
        if (member.present[i] === 1) heap.offer(member.values[i]!, member);
      }
      for (const member of heap.takeBestFirst()) {
        const copy = selected.get(member)!;
        copy.present[i] = 1;
        if (isInstant) inOrder.push(copy);
      }
    }
  }
  // Only of an instant query the order is seen.
  return isInstant ? inOrder : onlyPresent(selected.values());
}

function selectFirst(
  expr: Aggregation,
  columns: readonly Column[],
  { grid, param }: AggregationContext,
): Column[] {
  const groups = groupColumns(expr, columns);
  const selected = emptyCopies(columns);
  for (let i = 0; i < grid.count; i += 1) {
    const count = readCount(param![i]!, columns.length);
    for (const { members } of groups) {
      let left = count;
      for (const member of members) {
        if (left < 1) break;
        if (member.present[i] === 0) continue;
        selected.get(member)!.present[i] = 1;
        left -= 1;
      }
    }
  }
  return onlyPresent(selected.values());
}

function selectRatio(
  expr: Aggregation,
  columns: readonly Column[],
  { grid, param, annotations }: AggregationContext,
): Column[] {
  const selected = emptyCopies(columns);
  const places = columns.map(({ labels }) => hashUnit(labelsKey(labels)));
  for (let i = 0; i < grid.count; i += 1) {
    const asked = param![i]!;
    if (Number.isNaN(asked)) throw new PromqlError("execution", "Ratio value is NaN");
    const ratio = Math.max(-1, Math.min(1, asked));
    if (ratio !== asked) {
      annotations.warn(
        `ratio value should be between -1 and 1, got ${formatShort(asked)}, capping to ${ratio}`,
        expr.param!,
      );
    }
    columns.forEach((column, j) => {
      const isIn = ratio >= 0 ? places[j]! < ratio : places[j]! >= 1 + ratio;
      if (isIn) selected.get(column)!.present[i] = column.present[i]!;
    });
  }
  return onlyPresent(selected.values());
}

function onlyPresent(columns: Iterable<Column>): Column[] {
  return [...columns].filter(({ present }) => present.includes(1));
}

/** The `limit` best of what it is offered; among equals those that Prometheus keeps, whose heap this is. */
class ValueHeap {
  readonly #limit: number;
  readonly #isTop: boolean;
  readonly #items: { readonly value: number; readonly column: Column }[] = [];

  constructor(limit: number, isTop: boolean) {
    this.#limit = limit;
    this.#isTop = isTop;
  }

  offer(value: number, column: Column): void {
    const items = this.#items;
    if (items.length < this.#limit) {
      items.push({ value, column });
      this.#rise(items.length - 1);
      return;
    }
    const worst = items[0]!.value;
    const isBetter = this.#isTop ? worst < value : worst > value;
    if (!isBetter && !(Number.isNaN(worst) && !Number.isNaN(value))) return;
    items[0] = { value, column };
    this.#sink(0);
  }

  takeBestFirst(): Column[] {
    return this.#items
      .map((item, i) => ({ item, i }))
      .sort((a, b) =>
        Number(this.#isWorse(a.item.value, b.item.value)) -
          Number(this.#isWorse(b.item.value, a.item.value)) || a.i - b.i
      )
      .map(({ item }) => item.column);
  }

  #isWorse(a: number, b: number): boolean {
    if (Number.isNaN(a)) return !Number.isNaN(b);
    return this.#isTop ? a < b : a > b;
  }

  #swap(a: number, b: number): void {
    const item = this.#items[a]!;
    this.#items[a] = this.#items[b]!;
    this.#items[b] = item;
  }

  #rise(from: number): void {
    for (let i = from; i > 0;) {
      const parent = (i - 1) >> 1;
      if (!this.#isWorse(this.#items[i]!.value, this.#items[parent]!.value)) return;
      this.#swap(i, parent);
      i = parent;
    }
  }

  #sink(from: number): void {
    for (let i = from;;) {
      let child = 2 * i + 1;
      if (child >= this.#items.length) return;
      const right = child + 1;
      if (
        right < this.#items.length &&
        this.#isWorse(this.#items[right]!.value, this.#items[child]!.value)
      ) {
        child = right;
      }
      if (!this.#isWorse(this.#items[child]!.value, this.#items[i]!.value)) return;
      this.#swap(i, child);
      i = child;
    }
  }
}

// Series made of values

function countValues(
  expr: Aggregation,
  columns: readonly Column[],
  { grid, bounds }: AggregationContext,
): Column[] {
  const label = stringOf(expr.param!);
  if (!isValidName(label)) {
    throw new PromqlError("execution", `invalid label name ${quote(label)}`);
  }
  const results = new Map<string, Column>();
  for (const column of columns) {
    bounds.spend(grid.count);
    const seen = new Map<number | "-0", Column>();
    for (let i = 0; i < grid.count; i += 1) {
      if (column.present[i] === 0) continue;
      const value = column.values[i]!;
      // To a map, 0 and -0 are the same.
      const seenKey = Object.is(value, -0) ? "-0" : value;
      let result = seen.get(seenKey);
      if (result === undefined) {
        const labelled = withLabel(column.labels, label, formatDecimal(value));
        const labels = expr.without
          ? omitLabels(labelled, [...expr.grouping, METRIC_NAME])
          : pickLabels(labelled, [...expr.grouping, label]);
        const key = labelsKey(labels);
        result = results.get(key) ?? bounds.make(labels, false, grid.count);
        results.set(key, result);
        seen.set(seenKey, result);
      }
      result.present[i] = 1;
      result.values[i]! += 1;
    }
  }
  return [...results.values()];
}
