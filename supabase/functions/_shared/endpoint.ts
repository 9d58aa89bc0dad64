import type { z } from "zod";
import type { Caller } from "./auth.ts";
import { corsHeaders, preflightResponse } from "./cors.ts";
import { DatabaseError } from "./database.ts";
import { ConfigurationError, environment } from "./env.ts";
import { readInput } from "./input.ts";
import { createLog, type Log, type LogLevel, writeToConsole } from "./log.ts";
import { Problem, problemResponse } from "./problem.ts";

/** What {@link endpoint} checks before the handler runs. */
export interface EndpointSpec<Input> {
  /** Name of the function. */
  name: string;
  /** Beside OPTIONS, which is answered here. */
  methods: readonly ("GET" | "HEAD" | "POST")[];
  /** Says who is calling. @throws {Problem} if he may not come in. */
  authorize(request: Request): Promise<Caller>;
  /** Shape of what comes in: the JSON body of a POST, the query of a GET. Or what reads the request instead. */
  input: z.ZodType<Input> | ((request: Request) => Promise<Input>);
  /** Addresses below the function's own, which is ""; whatever follows its name by default. */
  paths?: readonly string[];
  /** How a problem is told where a protocol has its own way; undefined for problem details. */
  renderProblem?(problem: Problem, request: Request): Response | undefined;
}

/** One call that has come in. */
export interface Call {
  readonly request: Request;
  readonly caller: Caller;
  /** From the header x-run-id, or made here. In every answer and every line of the log. */
  readonly runId: string;
  /** Whether the caller gave it, as cron does. */
  readonly isRunIdGiven: boolean;
  readonly log: Log;
}

/** What {@link endpoint} needs from the world. */
export interface EndpointWorld {
  now(): Date;
  makeRunId(): string;
  allowedOrigins(): readonly string[];
  write(level: LogLevel, line: string): void;
}

/** The world as it is. */
export const realWorld: EndpointWorld = {
  now: () => new Date(),
  makeRunId: () => crypto.randomUUID(),
  allowedOrigins: () => environment().allowedOrigins,
  write: writeToConsole,
};

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/**
 * Turns `handle` into a fetch handler that checks, in this order: address, method, caller, run id, input. A
 * {@link Problem} goes out as problem details, anything else that is thrown as a bare 500 and into the log.
 */
export function endpoint<Input>(
  spec: EndpointSpec<Input>,
  handle: (input: Input, call: Call) => Promise<Response>,
  world: EndpointWorld = realWorld,
): (request: Request) => Promise<Response> {
  return async (request) => {
    const given = request.headers.get("x-run-id");
    const isRunIdGiven = given !== null && UUID.test(given);
    const runId = isRunIdGiven ? given.toLowerCase() : world.makeRunId();
    const log = createLog({
      function: spec.name,
      runId,
      now: () => world.now(),
      write: (level, line) => world.write(level, line),
    });
    const origin = request.headers.get("origin");

    let cors: HeadersInit = {};
    let response: Response;
    try {
      const allowed = origin === null ? [] : world.allowedOrigins();
      cors = corsHeaders(origin, allowed);
      if (request.method === "OPTIONS") {
        response = preflightResponse([...spec.methods, "OPTIONS"], origin, allowed);
      } else {
        checkPath(request, spec);
        checkMethod(request, spec.methods);
        const caller = await spec.authorize(request);
        if (given !== null && !isRunIdGiven) throw new Problem("run-id");
        const input = typeof spec.input === "function"
          ? await spec.input(request)
          : await readInput(request, spec.input);
        response = await handle(input, { request, caller, runId, isRunIdGiven, log });
      }
    } catch (error) {
      const problem = toProblem(error, runId, log);
      response = spec.renderProblem?.(problem, request) ?? problemResponse(problem);
    }
    return finishResponse(request, response, { ...cors, "x-run-id": runId });
  };
}

/** What follows the name of the function in the address, without a slash at the end: "" or "/a/b". */
export function subPath(request: Request, name: string): string {
  const { pathname } = new URL(request.url);
  const start = pathname.startsWith(`/${name}/`) || pathname === `/${name}` ? name.length + 1 : 0;
  let end = pathname.length;
  // Not /\/+$/: an address of slashes takes it seconds, and anybody may send one.
  while (end > start && pathname[end - 1] === "/") end -= 1;
  return pathname.slice(start, end);
}

function checkPath(request: Request, { name, paths }: EndpointSpec<unknown>): void {
  if (paths === undefined || paths.includes(subPath(request, name))) return;
  const known = paths.map((path) => `/${name}${path}`).join(" and ");
  throw new Problem("path", `There is ${known}.`);
}

function checkMethod(request: Request, methods: readonly string[]): void {
  if (methods.includes(request.method)) return;
  const allow = [...methods, "OPTIONS"].join(", ");
  throw new Problem("method", `Use ${methods.join(" or ")}.`, { headers: { allow } });
}

/** What the caller is told of an error, and the log line that tells the rest. */
function toProblem(error: unknown, runId: string, log: Log): Problem {
  if (error instanceof Problem) {
    const { slug, status, message: detail } = error;
    log[status >= 500 ? "error" : "warning"]("request refused", { slug, status, detail });
    return error;
  }
  log.error("request failed", { error });
  const members = { run_id: runId };
  if (error instanceof ConfigurationError) return new Problem("configuration", "", { members });
  if (error instanceof DatabaseError && error.code === "PGRST106") {
    const detail = "Project settings → Data API → Exposed schemas: add monitor.";
    return new Problem("schema-not-exposed", detail, { members });
  }
  const isUnavailable = error instanceof DatabaseError &&
    (error.kind === "timed_out" || error.kind === "unreachable");
  return isUnavailable
    ? new Problem("database-unavailable", "", { members, headers: RETRY_SOON })
    : new Problem("internal", "", { members });
}

/** For who sends again by himself: a database that is restarted is back by then. */
const RETRY_SOON = { "retry-after": "5" };

function finishResponse(request: Request, response: Response, added: HeadersInit): Response {
  const headers = new Headers(response.headers);
  new Headers(added).forEach((value, name) => headers.set(name, value));
  headers.set("cache-control", "no-store");
  headers.set("x-content-type-options", "nosniff");
  headers.append("vary", "Origin");
  return new Response(request.method === "HEAD" ? null : response.body, {
    status: response.status,
    headers,
  });
}
