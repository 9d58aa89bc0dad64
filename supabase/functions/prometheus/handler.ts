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
const LABEL_VALUES_PATH = /^\/api\/v1\/label\/([^/]+)\/values$/;

/** The outside world as this function needs it; the edge wires the real one, tests a fake. */
export type PrometheusDeps = QueryDeps & LookupDeps & RulesDeps & ExpositionDeps;

type Answer = (
  params: URLSearchParams,
  deps: PrometheusDeps,
  call: Pick<Call, "request" | "log">,
) => Response | Promise<Response>;

/** Whose interface this is. Clients turn on by the version what they may ask. */
const BUILD_INFO = {
  version: "3.5.0",
  revision: "",
  branch: "pgvigil",
  buildUser: "",
  buildDate: "",
  goVersion: "",
};

/** What is answered to a form too: a query may be too long for an address. */
const FORM_ANSWERS: Readonly<Record<string, Answer>> = {
  [`${API_PATH}/query`]: answerQuery,
  [`${API_PATH}/query_range`]: answerRangeQuery,
  [`${API_PATH}/query_exemplars`]: () => respond([]),
  [`${API_PATH}/format_query`]: answerFormat,
  [`${API_PATH}/parse_query`]: answerParse,
  [`${API_PATH}/series`]: answerSeries,
  [`${API_PATH}/labels`]: answerLabelNames,
};

const ANSWERS: Readonly<Record<string, Answer>> = {
  ...FORM_ANSWERS,
  [`${API_PATH}/metadata`]: answerMetadata,
  [`${API_PATH}/rules`]: answerRules,
  [`${API_PATH}/alerts`]: answerAlerts,
  [`${API_PATH}/status/buildinfo`]: () => respond(BUILD_INFO),
  "/metrics": (_params, deps, { request, log }) =>
    answerMetrics(request.headers.get("accept"), log, deps),
  "/-/healthy": () => new Response("pgvigil is Healthy.\n"),
  "/-/ready": () => new Response("pgvigil is Ready.\n"),
};

/** Answers what Prometheus would at this address. @throws {Problem} 404, 405 */
export async function answerPrometheus(
  params: URLSearchParams,
  call: Pick<Call, "request" | "log">,
  deps: PrometheusDeps,
): Promise<Response> {
  const path = subPath(call.request, NAME);
  const answer = findAnswer(path);
  if (answer === undefined) {
    const known = [...Object.keys(ANSWERS), `${API_PATH}/label/<name>/values`];
    throw new Problem("path", `There is ${known.join(", ")}.`);
  }
  if (call.request.method === "POST" && !Object.hasOwn(FORM_ANSWERS, path)) {
    throw new Problem("method", "Use GET or HEAD.", { headers: { allow: "GET, HEAD, OPTIONS" } });
  }
  try {
    return await answer(params, deps, call);
  } catch (error) {
    const apiError = toApiError(error);
    if (apiError === undefined) throw error;
    return errorResponse(apiError);
  }
}

function findAnswer(path: string): Answer | undefined {
  const label = LABEL_VALUES_PATH.exec(path)?.[1];
  if (label !== undefined) {
    return (params, deps) => answerLabelValues(decodeLabel(label), params, deps);
  }
  return Object.hasOwn(ANSWERS, path) ? ANSWERS[path] : undefined;
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
