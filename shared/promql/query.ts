import type { Expr } from "./ast.ts";
import type { Labels, SampledSeries, SampleSource, Selection } from "./series.ts";

/** What a query may take. Exceeding one is a {@link PromqlError} of kind `limit`. */
export interface QueryLimits {
  /** Steps of a range query. */
  readonly steps: number;
  /** Samples loaded for one query. */
  readonly samples: number;
  /** Series in any intermediate result. */
  readonly series: number;
  /** Values held at once: series × steps, over all intermediate results that are alive. */
  readonly values: number;
}

/** When, and how, an expression is evaluated. */
export interface QueryOptions {
  /** Milliseconds since 1970: the first step, and the only one of an instant query. */
  readonly start: number;
  /** Milliseconds since 1970. Left out for an instant query. */
  readonly end?: number;
  /** Milliseconds between steps. Left out for an instant query. */
  readonly step?: number;
  /** How old a sample may be and still be the current one, in milliseconds. 5 minutes. */
  readonly lookback?: number;
  /** Step of a subquery that names none, in milliseconds. 1 minute. */
  readonly subqueryStep?: number;
  /** Names are dropped at the end instead of function by function: Prometheus' flag promql-delayed-name-removal. */
  readonly isNameRemovalDelayed?: boolean;
  readonly limits?: Partial<QueryLimits>;
  /** Asked now and then; a query that goes on then is a {@link PromqlError} of kind `timeout`. */
  isTimeUp?(): boolean;
}

export interface VectorSample {
  readonly labels: Labels;
  readonly value: number;
}

export interface MatrixSeries {
  readonly labels: Labels;
  /** Milliseconds since 1970, ascending. */
  readonly times: readonly number[];
  readonly values: readonly number[];
}

/** The value of an expression. An instant query has a `time` in milliseconds; a range query is always a matrix. */
export type QueryValue =
  | { readonly type: "scalar"; readonly time: number; readonly value: number }
  | { readonly type: "string"; readonly time: number; readonly value: string }
  | { readonly type: "vector"; readonly time: number; readonly samples: readonly VectorSample[] }
  | { readonly type: "matrix"; readonly series: readonly MatrixSeries[] };

export interface QueryResult {
  readonly value: QueryValue;
  /** `PromQL warning: ... (line:column)`, each once. */
  readonly warnings: readonly string[];
  /** `PromQL info: ... (line:column)`, each once. */
  readonly infos: readonly string[];
}

/** A query that knows what it needs. */
export interface PreparedQuery {
  readonly expr: Expr;
  readonly selections: readonly Selection[];
  /** @param series for each of {@link selections} its series. @throws {PromqlError} */
  evaluate(series: readonly (readonly SampledSeries[])[]): QueryResult;
}

/** Reads the samples that a query needs and evaluates it. @throws {PromqlError} */
export async function runQuery(query: PreparedQuery, source: SampleSource): Promise<QueryResult> {
  return query.evaluate(
    query.selections.length === 0 ? [] : await source.select(query.selections),
  );
}
