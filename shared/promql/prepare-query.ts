import { Annotations } from "./annotations.ts";
import type { AtModifier, Call, Expr, VectorSelector } from "./ast.ts";
import { type Column, timeAt } from "./columns.ts";
import { type Evaluation, Evaluator } from "./evaluator.ts";
import { infoMatchers } from "./info-function.ts";
import { sortByLabels } from "./labels-key.ts";
import { typeOf } from "./parse-expr.ts";
import { PromqlError } from "./promql-error.ts";
import type {
  MatrixSeries,
  PreparedQuery,
  QueryLimits,
  QueryOptions,
  QueryValue,
} from "./query.ts";
import type { Matcher, SampledSeries, Selection } from "./series.ts";
import { stringOf } from "./string-of.ts";

/** 5 minutes. */
export const DEFAULT_LOOKBACK = 300_000;
const DEFAULT_SUBQUERY_STEP = 60_000;

/** What a query may take unless it is told otherwise: some 100 MB. */
export const DEFAULT_LIMITS: QueryLimits = {
  steps: 11_000,
  samples: 5_000_000,
  series: 100_000,
  values: 10_000_000,
};

/**
 * Finds out what an expression needs to be evaluated.
 *
 * @param text where `expr` was read from: annotations tell places in it.
 * @throws {PromqlError} of kind `parse` for a range query of what is none, `limit` for too many steps.
 * @throws {RangeError} for a step that is not positive.
 */
export function prepareQuery(expr: Expr, text: string, options: QueryOptions): PreparedQuery {
  const { start, end, step } = options;
  const isRange = end !== undefined && step !== undefined;
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  if (isRange && !(step > 0)) throw new RangeError(`step must be more than 0 ms, got ${step}`);
  const count = isRange ? Math.max(0, Math.floor((end - start) / step) + 1) : 1;
  if (count > limits.steps) {
    throw new PromqlError(
      "limit",
      `query would take ${count} steps, at most ${limits.steps} may be: take a longer step or a shorter range`,
    );
  }
  const type = typeOf(expr);
  if (isRange && (type === "matrix" || type === "string")) {
    const name = type === "matrix" ? "range vector" : type;
    throw new PromqlError(
      "parse",
      `invalid expression type "${name}" for range query, must be Scalar or instant Vector`,
    );
  }
  const settings = {
    start,
    end: isRange ? end : start,
    step: isRange ? step : 0,
    lookback: options.lookback ?? DEFAULT_LOOKBACK,
    subqueryStep: options.subqueryStep ?? DEFAULT_SUBQUERY_STEP,
    isNameRemovalDelayed: options.isNameRemovalDelayed ?? false,
    limits,
    isTimeUp: () => options.isTimeUp?.() ?? false,
  };
  const plan = new SelectionPlan(settings);
  if (count > 0) plan.visit(expr, start, start + (count - 1) * settings.step);

  return {
    expr,
    selections: plan.selections,
    evaluate(series) {
      checkSamples(series, limits.samples);
      const annotations = new Annotations(text);
      const bySelector = new Map<VectorSelector | Call, readonly SampledSeries[]>();
      const seriesOf = (node: VectorSelector | Call) => {
        let found = bySelector.get(node);
        if (found === undefined) {
          found = series[plan.indexOf(node)] ?? [];
          bySelector.set(node, found);
        }
        return found;
      };
      const evaluator = new Evaluator({ ...settings, annotations, seriesOf });
      const grid = { start, step: isRange ? step : 1, count };
      const value = isRange
        ? rangeValue(expr, evaluator, grid)
        : instantValue(expr, evaluator, start);
      return { value, warnings: annotations.warnings, infos: annotations.infos };
    },
  };
}

function checkSamples(series: readonly (readonly SampledSeries[])[], most: number): void {
  // One that several selectors find is there once.
  const all = new Set(series.flat());
  let samples = 0;
  for (const { times } of all) samples += times.length;
  if (samples > most) {
    throw new PromqlError(
      "limit",
      `query would take ${samples} samples, at most ${most} may be: take a shorter range or fewer series`,
    );
  }
}

function rangeValue(
  expr: Expr,
  evaluator: Evaluator,
  grid: { start: number; step: number; count: number },
): QueryValue {
  if (grid.count === 0) return { type: "matrix", series: [] };
  const steps = Array.from({ length: grid.count }, (_, i) => timeAt(grid, i));
  if (typeOf(expr) === "scalar") {
    const values = Array.from(evaluator.scalars(expr, grid));
    return { type: "matrix", series: [{ labels: {}, times: steps, values }] };
  }
  const series: MatrixSeries[] = [];
  for (const { labels, values, present } of evaluator.finish(evaluator.vector(expr, grid))) {
    if (!present.includes(0)) {
      // Most are complete, and share their times.
      series.push({ labels, times: steps, values: Array.from(values) });
      continue;
    }
    const isThere = (_: number, i: number) => present[i] === 1;
    const times = steps.filter(isThere);
    if (times.length > 0) {
      series.push({ labels, times, values: Array.from(values).filter(isThere) });
    }
  }
  return { type: "matrix", series: sortByLabels(series) };
}

function instantValue(expr: Expr, evaluator: Evaluator, time: number): QueryValue {
  const grid = { start: time, step: 1, count: 1 };
  switch (typeOf(expr)) {
    case "scalar":
      return { type: "scalar", time, value: evaluator.scalars(expr, grid)[0]! };
    case "string":
      return { type: "string", time, value: stringOf(expr) };
    case "matrix": {
      const range = unwrapRange(expr);
      const columns = evaluator.matrix(range, time).map((points) => ({
        ...points,
        present: new Uint8Array(points.times.length).fill(1),
      }));
      const series = finishMatrix(evaluator, columns);
      return { type: "matrix", series: sortByLabels(series) };
    }
    case "vector": {
      const columns: Column[] = evaluator.finish(evaluator.vector(expr, grid));
      const samples = columns
        .filter(({ present }) => present[0] === 1)
        .map(({ labels, values }) => ({ labels, value: values[0]! }));
      return { type: "vector", time, samples };
    }
  }
}

function finishMatrix(
  evaluator: Evaluator,
  columns: (Column & { readonly times: Float64Array })[],
): MatrixSeries[] {
  return columns.map((column) => {
    const [{ labels }] = evaluator.finish([column]) as [Column];
    return { labels, times: [...column.times], values: [...column.values] };
  });
}

function unwrapRange(expr: Expr): Expr & { kind: "matrix-selector" | "subquery" } {
  if (expr.kind === "paren") return unwrapRange(expr.expr);
  if (expr.kind === "matrix-selector" || expr.kind === "subquery") return expr;
  throw new RangeError(`Cannot evaluate ${expr.kind} as a range vector`);
}

type Settings = Pick<Evaluation, "start" | "end" | "lookback">;

/** The selections of a query: each selector with the times that it is looked at, equal ones once. */
class SelectionPlan {
  readonly selections: Selection[] = [];
  readonly #settings: Settings;
  readonly #indexes = new Map<string, number>();
  readonly #byNode = new Map<VectorSelector | Call, number>();

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  indexOf(node: VectorSelector | Call): number {
    return this.#byNode.get(node)!;
  }

  /** @param first,last the steps that `expr` is evaluated at, in milliseconds */
  visit(expr: Expr, first: number, last: number): void {
    switch (expr.kind) {
      case "number":
      case "string":
        return;
      case "vector-selector":
        return this.#addSelector(expr, this.#settings.lookback, first, last);
      case "matrix-selector":
        return this.#addSelector(expr.vector, expr.range, first, last);
      case "subquery": {
        const { from, until } = this.#shift(expr, first, last);
        return this.visit(expr.expr, from - expr.range + 1, until);
      }
      case "paren":
      case "unary":
        return this.visit(expr.expr, first, last);
      case "binary":
        this.visit(expr.left, first, last);
        return this.visit(expr.right, first, last);
      case "aggregation":
        if (expr.param !== undefined) this.visit(expr.param, first, last);
        return this.visit(expr.expr, first, last);
      case "call":
        if (expr.func === "info") {
          this.#add(expr, infoMatchers(expr), first - this.#settings.lookback + 1, last);
          return this.visit(expr.args[0]!, first, last);
        }
        for (const arg of expr.args) this.visit(arg, first, last);
    }
  }

  #shift(
    { at, offset }: { at: AtModifier | undefined; offset: number },
    first: number,
    last: number,
  ): { from: number; until: number } {
    const { start, end } = this.#settings;
    const fixed = at === "start" ? start : at === "end" ? end : at;
    return { from: (fixed ?? first) - offset, until: (fixed ?? last) - offset };
  }

  #addSelector(selector: VectorSelector, reach: number, first: number, last: number): void {
    const { from, until } = this.#shift(selector, first, last);
    this.#add(selector, selector.matchers, from - reach + 1, until);
  }

  #add(
    node: VectorSelector | Call,
    matchers: readonly Matcher[],
    from: number,
    until: number,
  ): void {
    const selection = { matchers, from, until };
    const key = JSON.stringify(selection);
    let index = this.#indexes.get(key);
    if (index === undefined) {
      index = this.selections.push(selection) - 1;
      this.#indexes.set(key, index);
    }
    this.#byNode.set(node, index);
  }
}
