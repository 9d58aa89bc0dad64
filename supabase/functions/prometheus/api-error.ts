import { PromqlError } from "../../../shared/promql/promql-error.ts";

/** Prometheus' kinds of errors, and the status of each. */
const STATUSES = {
  bad_data: 400,
  unauthorized: 401,
  forbidden: 403,
  not_found: 404,
  execution: 422,
  too_many_requests: 429,
  internal: 500,
  timeout: 503,
  unavailable: 503,
} as const;

/** One of Prometheus' `errorType`s, or of ours where it has none. */
export type ErrorType = keyof typeof STATUSES;

/** A query that has no answer, told as Prometheus tells it. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly type: ErrorType;

  constructor(type: ErrorType, message: string, cause?: unknown) {
    super(message, { cause });
    this.type = type;
  }
}

/** What is said of a parameter that cannot be read. */
export function invalidParameter(name: string, reason: string): ApiError {
  return new ApiError("bad_data", `invalid parameter ${JSON.stringify(name)}: ${reason}`);
}

/** Runs `read`, which reads the parameter: an error of PromQL in it is one of the parameter. @throws {ApiError} */
export function readingParameter<T>(name: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof PromqlError)) throw error;
    throw invalidParameter(name, error.message);
  }
}

/** What is answered of an error of a query; undefined for one that is none. */
export function toApiError(error: unknown): ApiError | undefined {
  if (error instanceof ApiError) return error;
  if (!(error instanceof PromqlError)) return undefined;
  switch (error.kind) {
    case "parse":
    case "unsupported":
      return new ApiError("bad_data", error.message, error);
    case "timeout":
      return new ApiError("timeout", error.message, error);
    default:
      return new ApiError("execution", error.message, error);
  }
}

/** The error in Prometheus' JSON, with the status of its type unless another one says more. */
export function errorResponse(
  { type, message }: Pick<ApiError, "type" | "message">,
  { status = STATUSES[type], headers = {} }: {
    status?: number;
    headers?: Readonly<Record<string, string>>;
  } = {},
): Response {
  return Response.json({ status: "error", errorType: type, error: message }, { status, headers });
}

/** The type of error that a status stands for. */
export function errorTypeOf(status: number): ErrorType {
  const types = Object.keys(STATUSES) as ErrorType[];
  const exact = types.findLast((type) => STATUSES[type] === status);
  return exact ?? (status < 500 ? "bad_data" : "internal");
}
