import { parseExpr } from "../../../shared/promql/parse-expr.ts";
import { prepareQuery } from "../../../shared/promql/prepare-query.ts";
import { prettyPrintExpr } from "../../../shared/promql/print-expr.ts";
import { type QueryOptions, type QueryValue, runQuery } from "../../../shared/promql/query.ts";
import { DatabaseError } from "../_shared/database.ts";
import { QUERY_LIMITS, type QueryStore } from "../_shared/query-stores.ts";
import { ApiError, invalidParameter, readingParameter } from "./api-error.ts";
import {
  readDuration,
  readLimit,
  readOptionalDuration,
  readOptionalTime,
  readTime,
} from "./read-params.ts";
import { renderResult } from "./render-result.ts";
import { respond, respondText, TRUNCATED } from "./respond.ts";
import { translateExpr } from "./translate-expr.ts";

/** How long a query may take that names no shorter time. */
export const QUERY_TIMEOUT_SECONDS = 30;

/** How many warnings are told, and how many infos: Prometheus' number. */
const REMARKS_LIMIT = 10;

/** What queries need from the world. */
export interface QueryDeps extends Pick<QueryStore, "openSource"> {
  now(): Date;
}

/** `/query`: the value of an expression at one time. @throws {ApiError | PromqlError} */
export function answerQuery(params: URLSearchParams, deps: QueryDeps): Promise<Response> {
  const limit = readLimit(params);
  const start = readOptionalTime(params, "time", deps.now().getTime());
  return answer(params, { start }, limit, deps);
}

/** `/query_range`: the values of an expression at every step of a range. @throws {ApiError | PromqlError} */
export function answerRangeQuery(params: URLSearchParams, deps: QueryDeps): Promise<Response> {
  const limit = readLimit(params);
  const start = readTime(params, "start");
  const end = readTime(params, "end");
  if (end < start) throw invalidParameter("end", "end timestamp must not be before start time");
  const step = Math.trunc(readDuration(params, "step"));
  if (step <= 0) {
    throw invalidParameter(
      "step",
      "zero or negative query resolution step widths are not accepted. Try a positive integer",
    );
  }
  if (Math.floor((end - start) / step) > QUERY_LIMITS.steps - 1) {
    throw new ApiError(
      "bad_data",
      "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
    );
  }
  return answer(params, { start, end, step }, limit, deps);
}

async function answer(
  params: URLSearchParams,
  range: Pick<QueryOptions, "start" | "end" | "step">,
  limit: number,
  { now, openSource }: QueryDeps,
): Promise<Response> {
  const startedAt = now().getTime();
  const asked = readOptionalDuration(params, "timeout") ?? Infinity;
  const milliseconds = Math.min(asked, QUERY_TIMEOUT_SECONDS * 1000);
  const isTimeUp = () => now().getTime() - startedAt >= milliseconds;
  const lookback = Math.trunc(readOptionalDuration(params, "lookback_delta") ?? 0);
  const text = params.get("query") ?? "";
  const query = readingParameter(
    "query",
    () =>
      prepareQuery(parseExpr(text), text, {
        ...range,
        ...(lookback > 0 && { lookback }),
        limits: QUERY_LIMITS,
        isTimeUp,
      }),
  );
  if (isTimeUp()) throw timedOut();
  try {
    const result = await runQuery(query, openSource(milliseconds / 1000));
    const { value, isTruncated } = truncate(result.value, limit);
    return respondText(renderResult(value), {
      warnings: [...tell(result.warnings, "warning"), ...isTruncated ? [TRUNCATED] : []],
      infos: tell(result.infos, "info"),
    });
  } catch (error) {
    throw error instanceof DatabaseError && error.kind === "timed_out" ? timedOut(error) : error;
  }
}

/** The first of what there is to remark: each step may have its own. */
function tell(remarks: readonly string[], kind: "warning" | "info"): readonly string[] {
  const omitted = remarks.length - REMARKS_LIMIT;
  return omitted > 0
    ? [...remarks.slice(0, REMARKS_LIMIT), `${omitted} more ${kind} annotations omitted`]
    : remarks;
}

function timedOut(cause?: unknown): ApiError {
  return new ApiError("timeout", "query timed out in expression evaluation", cause);
}

/** The first series of a value; all of it for a limit of 0. */
function truncate(value: QueryValue, limit: number): { value: QueryValue; isTruncated: boolean } {
  if (limit > 0 && value.type === "vector" && value.samples.length > limit) {
    return { value: { ...value, samples: value.samples.slice(0, limit) }, isTruncated: true };
  }
  if (limit > 0 && value.type === "matrix" && value.series.length > limit) {
    return { value: { ...value, series: value.series.slice(0, limit) }, isTruncated: true };
  }
  return { value, isTruncated: false };
}

/** `/format_query`: the expression, laid out over lines. @throws {ApiError} */
export function answerFormat(params: URLSearchParams): Response {
  return respond(
    readingParameter("query", () => prettyPrintExpr(parseExpr(params.get("query") ?? ""))),
  );
}

/** `/parse_query`: the tree of the expression. @throws {ApiError} */
export function answerParse(params: URLSearchParams): Response {
  return respond(
    readingParameter("query", () => translateExpr(parseExpr(params.get("query") ?? ""))),
  );
}
