import { type Call, subPath } from "../_shared/endpoint.ts";
import { Problem } from "../_shared/problem.ts";
import { answerMetrics, type ExpositionDeps } from "./answer-metrics.ts";
import { errorResponse, errorTypeOf, toApiError } from "./api-error.ts";
import {
  answerLabelNames,
  answerLabelValues,
  answerMetadata,
  answerSeries,
  type LookupDeps,
} from "./lookup-api.ts";
import {
  answerFormat,
  answerParse,
  answerQuery,
  answerRangeQuery,
  type QueryDeps,
} from "./query-api.ts";
import { respond } from "./respond.ts";
import { answerAlerts, answerRules, type RulesDeps } from "./rules-api.ts";

export const NAME = "prometheus";

const API_PATH = "/api/v1";
const METRICS_PATH = "/metrics";

/** The outside world as this function needs it; the edge wires the real one, tests a fake. */
export type PrometheusDeps = QueryDeps & LookupDeps & RulesDeps & ExpositionDeps;

type Answer = (params: URLSearchParams, deps: PrometheusDeps) => Response | Promise<Response>;

/** Whose interface this is. Clients turn on by the version what they may ask. */
const BUILD_INFO = {
  version: "3.5.0",
  revision: "",
  branch: "pgvigil",
  buildUser: "",
  buildDate: "",
  goVersion: "",
};

const ANSWERS: Readonly<Record<string, Answer>> = {
  "/query": answerQuery,
  "/query_range": answerRangeQuery,
  "/query_exemplars": () => respond([]),
  "/format_query": answerFormat,
  "/parse_query": answerParse,
  "/series": answerSeries,
  "/labels": answerLabelNames,
  "/metadata": answerMetadata,
  "/rules": answerRules,
  "/alerts": answerAlerts,
  "/status/buildinfo": () => respond(BUILD_INFO),
};

/** Answers what Prometheus would at this address. @throws {Problem} 404, and what the body is refused for */
export async function answerPrometheus(
  params: URLSearchParams,
  { request, log }: Pick<Call, "request" | "log">,
  deps: PrometheusDeps,
): Promise<Response> {
  const path = subPath(request, NAME);
  if (path === METRICS_PATH) return answerMetrics(request.headers.get("accept"), log, deps);
  const answer = findAnswer(path);
  if (answer === undefined) {
    const known = [METRICS_PATH, `${API_PATH}/label/<name>/values`].concat(
      Object.keys(ANSWERS).map((name) => `${API_PATH}${name}`),
    );
    throw new Problem("path", `There is ${known.join(", ")}.`);
  }
  try {
    return await answer(params, deps);
  } catch (error) {
    const apiError = toApiError(error);
    if (apiError === undefined) throw error;
    return errorResponse(apiError);
  }
}

function findAnswer(path: string): Answer | undefined {
  if (!path.startsWith(`${API_PATH}/`)) return undefined;
  const name = path.slice(API_PATH.length);
  const label = /^\/label\/([^/]+)\/values$/.exec(name)?.[1];
  if (label !== undefined) {
    return (params, deps) => answerLabelValues(decodeLabel(label), params, deps);
  }
  return Object.hasOwn(ANSWERS, name) ? ANSWERS[name] : undefined;
}

function decodeLabel(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Tells a problem as Prometheus does below its API, as problem details elsewhere. */
export function renderProblem(problem: Problem, request: Request): Response | undefined {
  if (!`${subPath(request, NAME)}/`.startsWith(`${API_PATH}/`)) return undefined;
  const { status, title, message: detail, headers } = problem;
  const message = detail === "" ? title : `${title}: ${detail}`;
  return errorResponse({ type: errorTypeOf(status), message }, { status, headers });
}
