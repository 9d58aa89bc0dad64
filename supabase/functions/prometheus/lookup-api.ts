import { parseExpr } from "../../../shared/promql/parse-expr.ts";
import type { Matcher } from "../../../shared/promql/series.ts";
import {
  type Found,
  LOOKUP_LIMIT,
  type QueryStore,
  type SeriesLookup,
} from "../_shared/query-stores.ts";
import { ApiError, invalidParameter, readingParameter } from "./api-error.ts";
import { readLimit, readOptionalTime } from "./read-params.ts";
import { sortLabels } from "./render-result.ts";
import { respond, TRUNCATED } from "./respond.ts";

/** What lookups need from the world. */
export type LookupDeps = Pick<
  QueryStore,
  "readSeriesLabels" | "readLabelNames" | "readLabelValues" | "readMetadata"
>;

/** The last moment that the database can tell from others. */
const END_OF_TIME = Date.UTC(9999, 11, 31);

/** `/series`: the series that a selector matches. @throws {ApiError} */
export async function answerSeries(
  params: URLSearchParams,
  { readSeriesLabels }: LookupDeps,
): Promise<Response> {
  if (!params.has("match[]")) throw new ApiError("bad_data", "no match[] parameter provided");
  const { items, isComplete } = await readSeriesLabels(readLookup(params));
  return respondFound({ items: items.map(sortLabels), isComplete });
}

/** `/labels`: the names of labels. @throws {ApiError} */
export async function answerLabelNames(
  params: URLSearchParams,
  { readLabelNames }: LookupDeps,
): Promise<Response> {
  return respondFound(await readLabelNames(readLookup(params)));
}

/** `/label/<name>/values`: the values of a label. @throws {ApiError} */
export async function answerLabelValues(
  escapedName: string,
  params: URLSearchParams,
  { readLabelValues }: LookupDeps,
): Promise<Response> {
  const name = unescapeName(escapedName);
  if (name === "") throw new ApiError("bad_data", `invalid label name: ${JSON.stringify(name)}`);
  return respondFound(await readLabelValues(name, readLookup(params)));
}

/** `/metadata`: type, help and unit by metric. @throws {ApiError} */
export async function answerMetadata(
  params: URLSearchParams,
  { readMetadata }: LookupDeps,
): Promise<Response> {
  const limit = readLimit(params) || LOOKUP_LIMIT;
  const definitions = await readMetadata(
    params.get("metric") || null,
    Math.min(limit, LOOKUP_LIMIT),
  );
  return respond(Object.fromEntries(
    definitions.map(({ metric, kind, unit, description }) => [
      metric,
      [{ type: kind, help: description, unit: unit === "unknown" ? "" : unit }],
    ]),
  ));
}

function respondFound({ items, isComplete }: Found<unknown>): Response {
  return respond(items, { warnings: isComplete ? [] : [TRUNCATED] });
}

function readLookup(params: URLSearchParams): SeriesLookup {
  const limit = readLimit(params) || LOOKUP_LIMIT;
  const from = readOptionalTime(params, "start", 0);
  const until = readOptionalTime(params, "end", END_OF_TIME);
  return {
    selectors: params.getAll("match[]").map(readSelector),
    from: toStorableTime(from),
    until: toStorableTime(until),
    limit: Math.min(limit, LOOKUP_LIMIT),
  };
}

function toStorableTime(milliseconds: number): Date {
  return new Date(Math.min(Math.max(milliseconds, 0), END_OF_TIME));
}

function readSelector(text: string): readonly Matcher[] {
  const expr = readingParameter("match[]", () => parseExpr(text));
  if (
    expr.kind !== "vector-selector" || expr.offset !== 0 ||
    expr.at !== undefined
  ) {
    throw invalidParameter(
      "match[]",
      `1:1: parse error: expected a selector like up{job="api"}, without modifiers`,
    );
  }
  return expr.matchers;
}

/**
 * A name that Prometheus 3 has escaped: `U__`, then characters that do not fit into a plain name as `_<hex>_`, an
 * underscore as two. What is not escaped rightly is a name as it is.
 */
export function unescapeName(escaped: string): string {
  if (!escaped.startsWith("U__")) return escaped;
  const body = escaped.slice("U__".length);
  if (!/^(?:[^_]|__|_[0-9a-fA-F]{1,6}_)*$/.test(body)) return escaped;
  return body.replace(/__|_([0-9a-fA-F]{1,6})_/g, (whole, hex?: string) => {
    if (hex === undefined) return "_";
    const code = parseInt(hex, 16);
    return code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)
      ? whole
      : String.fromCodePoint(code);
  });
}
