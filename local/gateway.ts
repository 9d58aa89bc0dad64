/** The one port of the stack: sends each request on to the API or the functions, as the platform's gateway does. */
import {
  createServer,
  type IncomingMessage,
  request as send,
  type Server,
  type ServerResponse,
} from "node:http";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { getRequestListener } from "@hono/node-server";
import { PROJECT_ROOT } from "./binaries.ts";
import { busyPort } from "./processes.ts";

/** Options of {@link startGateway}. */
export interface GatewayOptions {
  port: number;
  functionsPort: number;
  /** How long a function may take, in milliseconds, before the platform gives it up. @default {150_000} */
  wallTime?: number;
  /** What `/` answers: who is here. */
  identity: Record<string, unknown>;
}

/** A gateway. Until {@link open} is called it answers 503, so that the port is taken from the first moment on. */
export interface Gateway {
  open(api: (request: Request) => Response | Promise<Response>): void;
  /** Answers 503 again. */
  shut(): void;
  close(): Promise<void>;
}

const FUNCTIONS = "/functions/v1";

function answer(response: ServerResponse, status: number, code: string, message: string): void {
  if (response.headersSent) {
    response.destroy(); // half an answer must not look like a whole one
    return;
  }
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify({ code, message }));
}

/** Streams a request to the functions and the answer back; the path loses its prefix, as on the platform. */
function proxy(
  request: IncomingMessage,
  response: ServerResponse,
  port: number,
  wallTime: number,
): void {
  const forwarded = send({
    host: "127.0.0.1",
    port,
    method: request.method,
    path: request.url!.slice(FUNCTIONS.length),
    headers: request.headers,
  });
  const wall = setTimeout(() => {
    answer(
      response,
      504,
      "IDLE_TIMEOUT",
      `The function did not answer within ${wallTime / 1000} seconds`,
    );
    forwarded.destroy();
  }, wallTime);
  forwarded.on("response", (reply) => {
    response.writeHead(reply.statusCode!, reply.headers);
    reply.pipe(response);
    reply.on("error", () => response.destroy());
  });
  forwarded.on("error", () => {
    if (response.writableEnded) return;
    answer(
      response,
      503,
      "FUNCTIONS_DOWN",
      "The functions are being started; try again in a moment",
    );
  });
  // Ended, or the caller has gone: then the function need not go on.
  response.on("close", () => {
    clearTimeout(wall);
    forwarded.destroy();
  });
  request.pipe(forwarded);
}

/** Alerts link to their runbooks: on the local stack those of this project, as they are written. */
function showRunbook(response: ServerResponse, page: string): void {
  const path = join(PROJECT_ROOT, "docs", "runbooks", page);
  if (!existsSync(path)) return answer(response, 404, "NOT_FOUND", `There is no runbook ${page}`);
  response.writeHead(200, { "content-type": "text/plain; charset=utf-8" });
  response.end(readFileSync(path));
}

/** Listens on `port` of this machine only. @throws {StackError} if another program has the port. */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const { port, functionsPort, wallTime = 150_000, identity } = options;
  let api: ReturnType<typeof getRequestListener> | undefined;

  const server: Server = createServer((request, response) => {
    const path = request.url!.split("?")[0]!;
    if (path === "/") {
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify({ ...identity, ready: api !== undefined }, null, 2));
    } else if (!api) {
      answer(response, 503, "STARTING", "The stack is starting or stopping; try again in a moment");
    } else if (path.startsWith(`${FUNCTIONS}/`)) {
      proxy(request, response, functionsPort, wallTime);
    } else if (/^\/(rest|auth)\/v1(\/|$)/.test(path)) {
      void api(request, response);
    } else if (/^\/runbooks\/(README|[a-z0-9-]+)\.md$/.test(path)) {
      showRunbook(response, path.slice("/runbooks/".length));
    } else {
      answer(response, 404, "NOT_FOUND", "There is /rest/v1, /auth/v1 and /functions/v1/<name>");
    }
  });

  await new Promise<void>((resolve, reject) => {
    server.once(
      "error",
      (error: NodeJS.ErrnoException) =>
        reject(error.code === "EADDRINUSE" ? busyPort(port, "gateway") : error),
    );
    server.listen(port, "127.0.0.1", resolve);
  });
  return {
    open: (fetch) => api = getRequestListener(fetch, { overrideGlobalObjects: false }),
    shut: () => api = undefined,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
