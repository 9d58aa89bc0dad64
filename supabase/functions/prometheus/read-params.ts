import { parseDuration } from "../../../shared/promql/durations.ts";
import { readBytes } from "../_shared/body.ts";
import { Problem } from "../_shared/problem.ts";
import { invalidParameter } from "./api-error.ts";

/** Most bytes of a form: long enough for what stands in the address elsewhere. */
export const FORM_BYTES_LIMIT = 1024 * 1024;

/** Times that fit into a date, in milliseconds. */
const TIME_LIMIT = 8_640_000_000_000_000;

const DECIMAL = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/;

/** How Go writes the first and the last time that there is: what clients send for all time. */
const BOUNDARY_TIMES = new Map([
  ["-292273086-05-16T16:47:06Z", -TIME_LIMIT],
  ["292277025-08-18T07:12:54.999999999Z", TIME_LIMIT],
]);

/**
 * Parameters of the address and, of a POST, of its form, which come first.
 *
 * @throws {Problem} 400, 413, 415
 */
export async function readParams(request: Request): Promise<URLSearchParams> {
  const { searchParams } = new URL(request.url);
  if (request.method !== "POST") return searchParams;
  const bytes = await readBytes(request.body, FORM_BYTES_LIMIT);
  const type = (request.headers.get("content-type") ?? "").split(";")[0]!.trim()
    .toLowerCase();
  if (bytes.byteLength > 0 && type !== "application/x-www-form-urlencoded") {
    throw new Problem("media-type", "Send a form: application/x-www-form-urlencoded.");
  }
  return new URLSearchParams([...new URLSearchParams(decode(bytes)), ...searchParams]);
}

function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new Problem("malformed", "The form is not UTF-8.", { cause });
  }
}

/** A time, in milliseconds since 1970: seconds with a fraction, or RFC 3339. @throws {ApiError} */
export function readTime(params: URLSearchParams, name: string, context = ""): number {
  const text = params.get(name) ?? "";
  const time = parseTime(text);
  if (time === undefined) {
    const reason = `${context}cannot parse ${JSON.stringify(text)} to a valid timestamp`;
    throw invalidParameter(name, reason);
  }
  return time;
}

/** {@link readTime} of a parameter that may be left out. @throws {ApiError} */
export function readOptionalTime(params: URLSearchParams, name: string, absent: number): number {
  return isAbsent(params, name)
    ? absent
    : readTime(params, name, `invalid time value for '${name}': `);
}

function parseTime(text: string): number | undefined {
  const time = DECIMAL.test(text)
    ? Math.round(Number(text) * 1000)
    : RFC_3339.test(text)
    ? Math.floor(Date.parse(text))
    : BOUNDARY_TIMES.get(text) ?? NaN;
  return Math.abs(time) <= TIME_LIMIT ? time : undefined;
}

/** A duration in milliseconds: seconds with a fraction, or Prometheus' grammar. @throws {ApiError} */
export function readDuration(params: URLSearchParams, name: string): number {
  const text = params.get(name) ?? "";
  try {
    const duration = DECIMAL.test(text) ? Number(text) * 1000 : parseDuration(text);
    if (Math.abs(duration) <= TIME_LIMIT) return duration;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  throw invalidParameter(name, `cannot parse ${JSON.stringify(text)} to a valid duration`);
}

/** {@link readDuration} of a parameter that may be left out. @throws {ApiError} */
export function readOptionalDuration(params: URLSearchParams, name: string): number | undefined {
  return isAbsent(params, name) ? undefined : readDuration(params, name);
}

/** A count, 0 for none. @throws {ApiError} */
export function readLimit(params: URLSearchParams, name = "limit"): number {
  const text = params.get(name) ?? "";
  if (text === "") return 0;
  const limit = /^[+-]?\d+$/.test(text) ? Number(text) : NaN;
  if (!Number.isSafeInteger(limit)) {
    throw invalidParameter(name, `cannot parse ${JSON.stringify(text)} to a valid number`);
  }
  if (limit < 0) throw invalidParameter(name, "limit must be non-negative");
  return limit;
}

/** Whether a parameter is left out, or empty, which is the same. */
function isAbsent(params: URLSearchParams, name: string): boolean {
  return (params.get(name) ?? "") === "";
}
