import { aggregate } from "./aggregate.ts";
import type { Annotations } from "./annotations.ts";
import type {
  Aggregation,
  AtModifier,
  Binary,
  Call,
  Expr,
  MatrixSelector,
  Span,
  Subquery,
  VectorSelector,
} from "./ast.ts";
import {
  type Bounds,
  type Column,
  dropMetadata,
  type Grid,
  makeColumn,
  mergeSameLabels,
  timeAt,
  withLabel,
} from "./columns.ts";
import { quote } from "./format-labels.ts";
import { formatShort } from "./format-value.ts";
import { histogramFraction, histogramQuantile } from "./histogram-functions.ts";
import { infoMatchers, type InfoSeries, joinInfo } from "./info-function.ts";
import { compareByLabels, joinLabels, replaceLabel } from "./label-functions.ts";
import { compareLabels } from "./labels-key.ts";
import { combineNumbers, combineSets, combineVectors, combineWithScalar } from "./match-vectors.ts";
import { typeOf } from "./parse-expr.ts";
import { PromqlError } from "./promql-error.ts";
import type { QueryLimits } from "./query.ts";
import { clampTo, DATE_FUNCTIONS, roundTo, VALUE_FUNCTIONS } from "./scalar-functions.ts";
import { type Labels, METRIC_NAME, type SampledSeries } from "./series.ts";
import { stringOf } from "./string-of.ts";
import { isValidName } from "./unquote.ts";
import { type Frame, WINDOW_FUNCTIONS } from "./window-functions.ts";

/** Everything that does not change while a query is evaluated. */
export interface Evaluation {
  /** First and last step of the query, in milliseconds. */
  readonly start: number;
  readonly end: number;
  /** Milliseconds, 0 for an instant query. */
  readonly step: number;
  readonly lookback: number;
  readonly subqueryStep: number;
  readonly isNameRemovalDelayed: boolean;
  readonly limits: QueryLimits;
  readonly annotations: Annotations;
  /** The series that a selector, or the call of info(), has asked for. */
  seriesOf(node: VectorSelector | Call): readonly SampledSeries[];
  isTimeUp(): boolean;
}

/** Samples of a range vector, without staleness markers. */
interface Points {
  readonly labels: Labels;
  readonly dropsName: boolean;
  readonly times: Float64Array;
  readonly values: Float64Array;
}

/** Samples of a selector, and which of them mark an end. */
interface Track {
  readonly labels: Labels;
  readonly times: Float64Array;
  readonly values: Float64Array;
  readonly stale: Uint8Array | undefined;
}

/** Their result depends on the step though their arguments do not. */
const BOUND_TO_STEP = new Set([
  "predict_linear",
  "time",
  "timestamp",
  ...Object.keys(DATE_FUNCTIONS),
]);

/** How many values may be looked at before the time is. */
const VALUES_BETWEEN_LOOKS = 100_000;

/** How much text of labels a query may make, in UTF-16 units. */
const TEXT_LIMIT = 32_000_000;

const COUNTER_SUFFIX = /_(?:total|sum|count|bucket)$/;

/** Evaluates expressions column by column: one series over all steps at a time. */
export class Evaluator {
  readonly #context: Evaluation;
  readonly #tracks = new WeakMap<SampledSeries, Track>();
  readonly #bounds: Bounds = {
    make: (labels, dropsName, count) => this.#make(labels, dropsName, count),
    spend: (values) => this.#spend(values),
    takeText: (length) => this.#takeText(length),
  };
  /** Values of the columns that are alive. */
  #held = 0;
  /** Values that were looked at since the time was. */
  #spent = 0;
  /** Text of labels that was made, in UTF-16 units. */
  #text = 0;

  constructor(context: Evaluation) {
    this.#context = context;
  }

  /** A scalar at each step. */
  scalars(expr: Expr, grid: Grid): Float64Array {
    switch (expr.kind) {
      case "number":
        return new Float64Array(grid.count).fill(expr.value);
      case "paren":
        return this.scalars(expr.expr, grid);
      case "unary": {
        const values = this.scalars(expr.expr, grid);
        return expr.op === "-" ? values.map((value) => -value) : values;
      }
      case "binary": {
        const left = this.scalars(expr.left, grid);
        const right = this.scalars(expr.right, grid);
        return left.map((value, i) => combineNumbers(expr.op, value, right[i]!));
      }
      case "call":
        return this.#scalarCall(expr, grid);
      default:
        throw new RangeError(`Cannot evaluate ${expr.kind} as a scalar`);
    }
  }

  /** An instant vector at each step. @throws {PromqlError} */
  vector(expr: Expr, grid: Grid): Column[] {
    if (this.#context.isTimeUp()) throw timeout();
    const before = this.#held;
    const isRepeated = grid.count > 1 && this.#isInvariant(expr);
    const columns = isRepeated
      ? this.#repeat(this.vector(expr, { ...grid, count: 1 }), grid)
      : this.#evaluate(expr, grid);
    const { series } = this.#context.limits;
    if (columns.length > series) {
      throw limit(
        `${columns.length} series at once, at most ${series} may be`,
        "select fewer, or aggregate earlier",
      );
    }
    // What it was made of is gone now.
    this.#held = before;
    this.#take(columns.length * grid.count);
    return columns;
  }

  #evaluate(expr: Expr, grid: Grid): Column[] {
    switch (expr.kind) {
      case "paren":
        return this.vector(expr.expr, grid);
      case "vector-selector":
        return this.#select(expr, grid, (track, i) => track.values[i]!);
      case "unary":
        return this.#negate(expr.op, this.vector(expr.expr, grid));
      case "binary":
        return this.#binary(expr, grid);
      case "aggregation":
        return this.#aggregation(expr, grid);
      case "call":
        return this.#vectorCall(expr, grid);
      default:
        throw new RangeError(`Cannot evaluate ${expr.kind} as an instant vector`);
    }
  }

  /** The samples of a range vector at one time, for a query that is nothing else. */
  matrix(expr: MatrixSelector | Subquery, time: number): Points[] {
    const grid = { start: time, step: 1, count: 1 };
    const { points, untils } = this.#range(expr, grid);
    const until = untils[0]!;
    const from = until - expr.range;
    return points
      .map(({ labels, dropsName, times, values }) => {
        const low = firstAfter(times, from);
        const high = firstAfter(times, until);
        const [inTimes, inValues] = [times.slice(low, high), values.slice(low, high)];
        return { labels, dropsName, times: inTimes, values: inValues };
      })
      .filter(({ times }) => times.length > 0);
  }

  /** Drops the names that are still to be dropped. */
  finish(columns: Column[]): Column[] {
    for (const column of columns) {
      if (column.dropsName) column.labels = dropMetadata(column.labels);
    }
    return mergeSameLabels(columns);
  }

  // Bounds

  #take(count: number): void {
    this.#held += count;
    const most = this.#context.limits.values;
    if (this.#held > most) {
      throw limit(
        `more than ${most} values (series × steps) at once`,
        "take a longer step, a shorter range or fewer series",
      );
    }
  }

  #spend(values: number): void {
    this.#spent += values;
    if (this.#spent < VALUES_BETWEEN_LOOKS) return;
    this.#spent = 0;
    if (this.#context.isTimeUp()) throw timeout();
  }

  #takeText(length: number): void {
    this.#text += length;
    if (this.#text > TEXT_LIMIT) {
      throw limit(
        `more than ${TEXT_LIMIT} characters of labels to be made`,
        "let label_replace() and label_join() make shorter ones, of fewer series",
      );
    }
  }

  #make(labels: Labels, dropsName: boolean, count: number): Column {
    this.#take(count);
    return makeColumn(labels, dropsName, count);
  }

  // Steps that are all the same

  #isInvariant(expr: Expr): boolean {
    switch (expr.kind) {
      case "number":
      case "string":
        return true;
      case "vector-selector":
      case "subquery":
        return expr.at !== undefined;
      case "matrix-selector":
        return expr.vector.at !== undefined;
      case "paren":
      case "unary":
        return this.#isInvariant(expr.expr);
      case "binary":
        return this.#isInvariant(expr.left) && this.#isInvariant(expr.right);
      case "aggregation":
        return this.#isInvariant(expr.expr) &&
          (expr.param === undefined || this.#isInvariant(expr.param));
      case "call":
        return !BOUND_TO_STEP.has(expr.func) && expr.func !== "info" &&
          expr.args.every((arg) => this.#isInvariant(arg));
    }
  }

  #repeat(columns: readonly Column[], grid: Grid): Column[] {
    return columns.map(({ labels, dropsName, values, present }) => {
      const column = this.#make(labels, dropsName, grid.count);
      column.values.fill(values[0]!);
      column.present.fill(present[0]!);
      return column;
    });
  }

  // Selectors

  #resolveAt(at: AtModifier | undefined): number | undefined {
    if (at === "start") return this.#context.start;
    if (at === "end") return this.#context.end;
    return at;
  }

  #track(series: SampledSeries): Track {
    let track = this.#tracks.get(series);
    if (track === undefined) {
      const { labels, stale } = series;
      const times = toFloats(series.times);
      const values = toFloats(series.values);
      let marks: Uint8Array | undefined;
      if (stale !== undefined && stale.length > 0) {
        marks = new Uint8Array(times.length);
        for (const i of stale) marks[i] = 1;
      }
      this.#tracks.set(series, track = { labels, times, values, stale: marks });
    }
    return track;
  }

  /** For each series the newest sample at each step, unless it is too old or marks an end. */
  #select(
    selector: VectorSelector,
    grid: Grid,
    read: (track: Track, index: number) => number,
  ): Column[] {
    const at = this.#resolveAt(selector.at);
    const columns: Column[] = [];
    for (const series of this.#context.seriesOf(selector)) {
      this.#spend(grid.count);
      const track = this.#track(series);
      const { times, stale } = track;
      const column = this.#make(track.labels, false, grid.count);
      let next = 0;
      let isAny = false;
      for (let step = 0; step < grid.count; step += 1) {
        const time = (at ?? timeAt(grid, step)) - selector.offset;
        if (step === 0) next = firstAfter(times, time);
        else while (next < times.length && times[next]! <= time) next += 1;
        const newest = next - 1;
        if (newest < 0 || times[newest]! <= time - this.#context.lookback) continue;
        if (stale?.[newest] === 1) continue;
        column.values[step] = read(track, newest);
        column.present[step] = 1;
        isAny = true;
      }
      if (isAny) columns.push(column);
      else this.#held -= grid.count;
    }
    return columns;
  }

  /** What a range vector holds, and where its window ends at each step. */
  #range(
    expr: MatrixSelector | Subquery,
    grid: Grid,
  ): { points: Points[]; untils: Float64Array } {
    const { offset, at: modifier } = expr.kind === "subquery" ? expr : expr.vector;
    const at = this.#resolveAt(modifier);
    const untils = new Float64Array(grid.count);
    for (let i = 0; i < grid.count; i += 1) untils[i] = (at ?? timeAt(grid, i)) - offset;
    const points = expr.kind === "subquery"
      ? this.#subquery(expr, untils[0]! - expr.range, untils.at(-1)!)
      : this.#context.seriesOf(expr.vector).map((series) => withoutStale(this.#track(series)));
    return { points, untils };
  }

  /** Steps of a subquery are whole multiples of its step since 1970, whatever those of the query are. */
  #subquery(expr: Subquery, from: number, until: number): Points[] {
    const step = expr.step ?? this.#context.subqueryStep;
    const start = Math.floor(from / step) * step + step;
    const count = Math.max(0, Math.floor((until - start) / step) + 1);
    // Before anything of that length is made; how many steps a query has is another matter, as in Prometheus.
    const most = this.#context.limits.values;
    if (count > most) {
      throw limit(
        `a subquery of ${count} steps, at most ${most} may be`,
        "take a longer step or a shorter range",
      );
    }
    if (count === 0) return [];
    const grid = { start, step, count };
    return this.vector(expr.expr, grid).map(({ labels, dropsName, values, present }) => {
      let size = 0;
      for (const is of present) size += is;
      const points = {
        labels,
        dropsName,
        times: new Float64Array(size),
        values: new Float64Array(size),
      };
      let at = 0;
      for (let i = 0; i < count; i += 1) {
        if (present[i] === 0) continue;
        points.times[at] = timeAt(grid, i);
        points.values[at] = values[i]!;
        at += 1;
      }
      return points;
    });
  }

  // Operators

  /** Of functions and operators whose result is not the metric any more. */
  #dropNames(columns: Column[]): Column[] {
    if (this.#context.isNameRemovalDelayed) {
      for (const column of columns) column.dropsName = true;
      return columns;
    }
    for (const column of columns) column.labels = dropMetadata(column.labels);
    return mergeSameLabels(columns);
  }

  #negate(op: "+" | "-", columns: Column[]): Column[] {
    if (op === "+") return columns;
    for (const { values } of columns) {
      for (let i = 0; i < values.length; i += 1) values[i] = -values[i]!;
    }
    return this.#dropNames(columns);
  }

  #binary(expr: Binary, grid: Grid): Column[] {
    const isScalarLeft = typeOf(expr.left) === "scalar";
    if (isScalarLeft || typeOf(expr.right) === "scalar") {
      const [vector, scalar] = isScalarLeft ? [expr.right, expr.left] : [expr.left, expr.right];
      const columns = this.vector(vector, grid);
      combineWithScalar(expr, columns, this.scalars(scalar, grid), isScalarLeft);
      const isFilter = /^[=!<>]/.test(expr.op) && !expr.returnsBool;
      return isFilter ? present(columns) : this.#dropNames(columns);
    }
    const left = this.vector(expr.left, grid);
    const right = this.vector(expr.right, grid);
    const isSet = expr.op === "and" || expr.op === "or" || expr.op === "unless";
    const columns = isSet
      ? present(combineSets(expr, left, right, grid))
      : combineVectors(expr, left, right, grid, this.#bounds);
    const dropsNames = !isSet && expr.returnsBool && !this.#context.isNameRemovalDelayed;
    return dropsNames ? this.#dropNames(columns) : mergeSameLabels(columns);
  }

  #aggregation(expr: Aggregation, grid: Grid): Column[] {
    const takesScalar = expr.param !== undefined && expr.op !== "count_values";
    const param = takesScalar ? this.scalars(expr.param!, grid) : undefined;
    const columns = this.vector(expr.expr, grid);
    const { annotations } = this.#context;
    return aggregate(expr, columns, { grid, annotations, param, bounds: this.#bounds });
  }

  // Functions

  #scalarCall({ func, args }: Call, grid: Grid): Float64Array {
    const { start, end, step } = this.#context;
    const fill = (value: number) => new Float64Array(grid.count).fill(value);
    switch (func) {
      case "max_of":
      case "min_of": {
        const [a, b] = args.map((arg) => this.scalars(arg, grid)) as [Float64Array, Float64Array];
        const pick = func === "max_of" ? Math.max : Math.min;
        return a.map((value, i) => pick(value, b[i]!));
      }
      case "pi":
        return fill(Math.PI);
      case "time":
        return fill(0).map((_, i) => timeAt(grid, i) / 1000);
      case "start":
        return fill(start / 1000);
      case "end":
        return fill(end / 1000);
      case "range":
        return fill((end - start) / 1000);
      case "step":
        return fill(step / 1000);
      case "scalar": {
        const columns = this.vector(args[0]!, grid);
        return fill(NaN).map((nothing, i) => {
          const [only, ...more] = columns.filter((column) => column.present[i] === 1);
          return only === undefined || more.length > 0 ? nothing : only.values[i]!;
        });
      }
      default:
        throw new RangeError(`Cannot evaluate ${func}() as a scalar`);
    }
  }

  #vectorCall(call: Call, grid: Grid): Column[] {
    const { func, args } = call;
    if (Object.hasOwn(WINDOW_FUNCTIONS, func)) return this.#windowCall(call, grid);
    if (Object.hasOwn(VALUE_FUNCTIONS, func)) {
      return this.#map(this.vector(args[0]!, grid), VALUE_FUNCTIONS[func]!);
    }
    if (Object.hasOwn(DATE_FUNCTIONS, func)) return this.#dateCall(call, grid);
    switch (func) {
      case "absent":
      case "absent_over_time":
        return this.#absent(call, grid);
      case "clamp":
      case "clamp_max":
      case "clamp_min":
        return this.#clamp(call, grid);
      case "histogram_avg":
      case "histogram_count":
      case "histogram_stddev":
      case "histogram_stdvar":
      case "histogram_sum":
        // Of native histograms only, of which there are none.
        this.vector(args[0]!, grid);
        return [];
      case "histogram_fraction":
      case "histogram_quantile":
      case "histogram_quantiles":
        return this.#histogramCall(call, grid);
      case "info":
        return this.#info(call, grid);
      case "label_join":
      case "label_replace": {
        const columns = this.vector(args[0]!, grid);
        const texts = args.slice(1).map(stringOf);
        if (func === "label_join") joinLabels(columns, texts, this.#bounds);
        else replaceLabel(columns, texts, this.#bounds);
        return mergeSameLabels(columns);
      }
      case "round": {
        const multiples = args[1] === undefined
          ? new Float64Array(grid.count).fill(1)
          : this.scalars(args[1], grid);
        const columns = this.vector(args[0]!, grid);
        return this.#map(columns, (value, i) => roundTo(value, multiples[i]!));
      }
      case "sort":
      case "sort_desc":
      case "sort_by_label":
      case "sort_by_label_desc":
        return this.#sort(call, grid);
      case "timestamp":
        return this.#timestamp(call, grid);
      case "vector": {
        const column = this.#make({}, false, grid.count);
        column.values.set(this.scalars(args[0]!, grid));
        column.present.fill(1);
        return [column];
      }
      default:
        throw new RangeError(`Cannot evaluate ${func}()`);
    }
  }

  #map(columns: Column[], change: (value: number, step: number) => number): Column[] {
    for (const { values } of columns) {
      for (let i = 0; i < values.length; i += 1) values[i] = change(values[i]!, i);
    }
    return this.#dropNames(columns);
  }

  #windowCall({ func, args }: Call, grid: Grid): Column[] {
    const { annotations, isNameRemovalDelayed } = this.#context;
    const place = args.findIndex((arg) => typeOf(arg) === "matrix");
    const range = unwrap(args[place]!) as MatrixSelector | Subquery;
    const scalars = args.filter((_, i) => i !== place).map((arg) => this.scalars(arg, grid));
    const { points, untils } = this.#range(range, grid);
    const { least, run } = WINDOW_FUNCTIONS[func]!;
    const keepsName = func === "last_over_time" || func === "first_over_time";
    const frame: Frame = { time: 0, from: 0, until: 0, params: scalars.map(() => 0) };
    const columns: Column[] = [];
    for (const { labels, dropsName, times, values } of points) {
      this.#spend(grid.count);
      const name = labels[METRIC_NAME] ?? "";
      const isDropped = dropsName || !keepsName;
      const column = this.#make(
        isDropped && !isNameRemovalDelayed ? dropMetadata(labels) : labels,
        isDropped,
        grid.count,
      );
      let low = 0;
      let high = 0;
      let isAny = false;
      for (let step = 0; step < grid.count; step += 1) {
        const until = untils[step]!;
        const from = until - range.range;
        if (step === 0) {
          low = firstAfter(times, from);
          high = low;
        }
        while (low < times.length && times[low]! <= from) low += 1;
        if (high < low) high = low;
        while (high < times.length && times[high]! <= until) high += 1;
        if (high === low) continue;
        frame.time = timeAt(grid, step);
        frame.from = from;
        frame.until = until;
        for (let i = 0; i < scalars.length; i += 1) frame.params[i] = scalars[i]![step]!;
        if (scalars.length > 0) this.#checkParams(func, frame.params, args[0]!);
        if (high - low < least) continue;
        this.#spend(high - low);
        column.values[step] = run(times, values, low, high, frame);
        column.present[step] = 1;
        isAny = true;
      }
      if (!isAny) {
        this.#held -= grid.count;
        continue;
      }
      columns.push(column);
      if ((func === "rate" || func === "increase") && name !== "" && !COUNTER_SUFFIX.test(name)) {
        annotations.inform(
          `metric might not be a counter, name does not end in _total/_sum/_count/_bucket: ${
            quote(name)
          }`,
          range,
        );
      }
    }
    return isNameRemovalDelayed ? columns : mergeSameLabels(columns);
  }

  #checkParams(func: string, params: readonly number[], span: Span): void {
    if (func === "quantile_over_time") {
      const quantile = params[0]!;
      if (!(quantile >= 0 && quantile <= 1)) {
        this.#context.annotations.invalidQuantile(quantile, span);
      }
    } else if (func === "double_exponential_smoothing") {
      const check = (factor: number, name: string, symbol: string) => {
        if (!(factor <= 0 || factor >= 1)) return;
        throw new PromqlError(
          "execution",
          `invalid ${name} factor. Expected: 0 < ${symbol} < 1, got: ${factor.toFixed(6)}`,
        );
      };
      check(params[0]!, "smoothing", "sf");
      check(params[1]!, "trend", "tf");
    }
  }

  #dateCall({ func, args }: Call, grid: Grid): Column[] {
    const read = DATE_FUNCTIONS[func]!;
    if (args[0] !== undefined) return this.#map(this.vector(args[0], grid), read);
    const column = this.#make({}, false, grid.count);
    column.present.fill(1);
    for (let i = 0; i < grid.count; i += 1) {
      column.values[i] = read(timeAt(grid, i) / 1000);
    }
    return [column];
  }

  #absent({ func, args }: Call, grid: Grid): Column[] {
    const arg = unwrap(args[0]!);
    const isFound = new Uint8Array(grid.count);
    if (func === "absent") {
      for (const { present: is } of this.vector(arg, grid)) {
        for (let i = 0; i < grid.count; i += 1) isFound[i]! |= is[i]!;
      }
    } else {
      const range = arg as MatrixSelector | Subquery;
      const { points, untils } = this.#range(range, grid);
      for (const { times } of points) {
        for (let i = 0; i < grid.count; i += 1) {
          const first = firstAfter(times, untils[i]! - range.range);
          if (first < times.length && times[first]! <= untils[i]!) isFound[i] = 1;
        }
      }
    }
    if (!isFound.includes(0)) return [];
    const column = this.#make(absentLabels(arg), false, grid.count);
    for (let i = 0; i < grid.count; i += 1) {
      column.values[i] = 1;
      column.present[i] = 1 - isFound[i]!;
    }
    return [column];
  }

  #clamp({ func, args }: Call, grid: Grid): Column[] {
    const columns = this.vector(args[0]!, grid);
    const bounds = args.slice(1).map((arg) => this.scalars(arg, grid));
    const lows = func === "clamp_max" ? undefined : bounds[0]!;
    const highs = func === "clamp_min" ? undefined : bounds.at(-1)!;
    const lowAt = (i: number) => lows?.[i] ?? -Infinity;
    const highAt = (i: number) => highs?.[i] ?? Infinity;
    for (const { present: is } of columns) {
      for (let i = 0; i < grid.count; i += 1) if (highAt(i) < lowAt(i)) is[i] = 0;
    }
    return this.#map(present(columns), (value, i) => clampTo(value, lowAt(i), highAt(i)));
  }

  #histogramCall({ func, args }: Call, grid: Grid): Column[] {
    const { annotations, isNameRemovalDelayed: namesMetrics } = this.#context;
    const vectorArg = args[func === "histogram_quantiles" ? 0 : args.length - 1]!;
    const context = { grid, annotations, span: vectorArg, namesMetrics };
    const scalarArgs = args.filter((arg) => typeOf(arg) === "scalar");
    const scalars = scalarArgs.map((arg) => this.scalars(arg, grid));
    const columns = this.vector(vectorArg, grid);
    if (func === "histogram_fraction") {
      return this.#dropNames(histogramFraction(scalars[0]!, scalars[1]!, columns, context));
    }
    const isNamed = func === "histogram_quantiles";
    const label = isNamed ? stringOf(args[1]!) : "";
    if (isNamed && !isValidName(label)) {
      throw new PromqlError("execution", `invalid label name ${quote(label)}`);
    }
    const results = scalars.flatMap((quantiles, i) => {
      for (const quantile of new Set(quantiles)) {
        if (!(quantile >= 0 && quantile <= 1)) {
          annotations.invalidQuantile(quantile, scalarArgs[i]!);
        }
      }
      const found = histogramQuantile(quantiles, columns, context);
      return isNamed
        ? found.flatMap((column) => this.#splitByQuantile(column, label, quantiles))
        : found;
    });
    return this.#dropNames(mergeSameLabels(results));
  }

  /** A column for each quantile that there is among the steps, which is mostly one. */
  #splitByQuantile(column: Column, label: string, quantiles: Float64Array): Column[] {
    const byQuantile = new Map<number, Column>();
    for (let i = 0; i < quantiles.length; i += 1) {
      if (column.present[i] === 0) continue;
      const quantile = quantiles[i]!;
      let own = byQuantile.get(quantile);
      if (own === undefined) {
        const labels = withLabel(column.labels, label, formatOpenMetrics(quantile));
        own = this.#make(labels, column.dropsName, quantiles.length);
        byQuantile.set(quantile, own);
      }
      own.values[i] = column.values[i]!;
      own.present[i] = 1;
    }
    return [...byQuantile.values()];
  }

  #info(call: Call, grid: Grid): Column[] {
    const base = this.vector(call.args[0]!, grid);
    const infos: InfoSeries[] = this.#context.seriesOf(call).map((series) => {
      const { labels, times, stale } = this.#track(series);
      return {
        labels,
        newestAt: (step) => {
          const time = timeAt(grid, step);
          const newest = firstAfter(times, time) - 1;
          const isThere = newest >= 0 && times[newest]! > time - this.#context.lookback &&
            stale?.[newest] !== 1;
          return isThere ? times[newest]! : undefined;
        },
      };
    });
    return mergeSameLabels(joinInfo(base, infos, infoMatchers(call), grid, this.#bounds));
  }

  #sort({ func, args, ...span }: Call, grid: Grid): Column[] {
    const columns = this.vector(args[0]!, grid);
    if (this.#context.start !== this.#context.end) {
      this.#context.annotations.warn(
        "sort is ineffective for range queries since results are always ordered by labels",
        span,
      );
    }
    if (grid.count !== 1) return columns;
    const sign = func.endsWith("_desc") ? -1 : 1;
    if (func.startsWith("sort_by_label")) {
      const names = args.slice(1).map(stringOf);
      return columns.sort((a, b) =>
        sign * (compareByLabels(names, a, b) || compareLabels(a.labels, b.labels))
      );
    }
    // NaN comes last either way.
    return columns.sort((a, b) => {
      const [valueA, valueB] = [a.values[0]!, b.values[0]!];
      return Number(Number.isNaN(valueA)) - Number(Number.isNaN(valueB)) ||
        sign * (valueA - valueB) || 0;
    });
  }

  #timestamp({ args }: Call, grid: Grid): Column[] {
    const arg = unwrap(args[0]!);
    if (arg.kind === "vector-selector") {
      return this.#dropNames(this.#select(arg, grid, ({ times }, i) => times[i]! / 1000));
    }
    return this.#map(this.vector(arg, grid), (_, i) => timeAt(grid, i) / 1000);
  }
}

function toFloats(numbers: ArrayLike<number>): Float64Array {
  return numbers instanceof Float64Array ? numbers : Float64Array.from(numbers);
}

/** The index of the first time that is later. */
function firstAfter(times: Float64Array, time: number): number {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle]! <= time) low = middle + 1;
    else high = middle;
  }
  return low;
}

function withoutStale({ labels, times, values, stale }: Track): Points {
  if (stale === undefined) return { labels, dropsName: false, times, values };
  const keep = (_: number, i: number) => stale[i] === 0;
  return { labels, dropsName: false, times: times.filter(keep), values: values.filter(keep) };
}

function present(columns: Column[]): Column[] {
  return columns.filter((column) => column.present.includes(1));
}

function unwrap(expr: Expr): Expr {
  return expr.kind === "paren" ? unwrap(expr.expr) : expr;
}

/** What can be told of the series that is not there: labels that a selector asks for to be equal. */
function absentLabels(arg: Expr): Labels {
  const selector = arg.kind === "matrix-selector" ? arg.vector : arg;
  if (selector.kind !== "vector-selector") return {};
  let labels: Labels = {};
  const isSet = new Set<string>();
  for (const { name, op, value } of selector.matchers) {
    if (name === METRIC_NAME) continue;
    const isFirst = op === "=" && !isSet.has(name);
    labels = withLabel(labels, name, isFirst ? value : "");
    if (op === "=") isSet.add(name);
  }
  return labels;
}

/** As a quantile is written in OpenMetrics: always with a point or an exponent. */
function formatOpenMetrics(value: number): string {
  const text = formatShort(value);
  return /^-?\d+$/.test(text) ? `${text}.0` : text;
}

function timeout(): PromqlError {
  return new PromqlError("timeout", "query timed out in expression evaluation");
}

function limit(what: string, wayOut: string): PromqlError {
  return new PromqlError("limit", `query would take ${what}: ${wayOut}`);
}
