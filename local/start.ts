/** `npm start`: brings the local stack up, says how to use it, and takes it down on Ctrl-C. */
import process from "node:process";
import { parseArgs } from "node:util";
import type { Facts } from "./stack.ts";

const HELP = `Starts a local Supabase with pgvigil on it: database, API, functions, cron. No Docker.

  npm start                    start, or go on with the data that are there
  npm start -- --reset         throw away the data and the keys, and start over
  npm start -- --port 55321    the gateway's port; Postgres, the inbox and the functions have +1, +3 and +4
  npm start -- --folder <dir>  keep everything there, for a second stack beside the first

Everything is kept in .local/: the data, the keys, stack.json with all addresses, and the logs postgres.log, api.log and
functions.log. Ctrl-C stops it; the data stay.`;

/** Signals closer than this to the first are the same Ctrl-C: npm and the terminal both pass it on. In milliseconds. */
const SAME_KEYSTROKE = 500;

/** Where the other scripts look for a stack unless they are told a database. */
const DEFAULT_FOLDER = ".local";

function summarize(facts: Facts, folder: string, seconds: string): string {
  const { functions_url, secret_key } = facts;
  const post = (name: string, body = "{}") =>
    `curl -X POST ${functions_url}/${name} -H 'apikey: ${secret_key}' -H 'content-type: application/json' -d '${body}'`;
  const prometheus = `${functions_url}/prometheus`;
  const query = (text: string) =>
    `curl -sG ${prometheus}/api/v1/query -H 'apikey: ${secret_key}' --data-urlencode 'query=${text}'`;
  const doctor = folder === DEFAULT_FOLDER
    ? "npm run doctor"
    : `npm run doctor -- --db-url '${facts.db_url}'`;
  return `
Ready in ${seconds} s.

  API           ${facts.api_url}    (/rest/v1, /auth/v1, /functions/v1/<name>)
  Inbox         ${facts.inbox_url}
  Database      ${facts.db_url}
  Publishable   ${facts.publishable_key}
  Secret        ${secret_key}
  Secret, cron  ${facts.cron_key}
  Admin         ${facts.admin_email}  ${facts.admin_password}

Run a function by hand:

  ${post("collect-metrics")}
  ${post("detect-anomalies")}
  ${post("evaluate-alerts")}
  ${post("deliver-notifications")}
  ${post("data-retention-cleanup", '{"dry_run":true}')}
  ${post("ingest-metrics", '{"samples":[{"metric":"my_first_metric","value":42}]}')}
  ${query("sum by (state) (database_connections)")}
  curl ${functions_url}/health

Grafana, as a data source of type Prometheus: ${prometheus} (docs/grafana/README.md)

The same facts are in ${folder}/stack.json. Is everything set up? ${doctor}
Stop with Ctrl-C.`;
}

function readOptions(): { reset: boolean; port: number; folder: string } | "help" {
  const { values } = parseArgs({
    options: {
      reset: { type: "boolean", default: false },
      port: { type: "string", default: "54321" },
      folder: { type: "string", default: DEFAULT_FOLDER },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return "help";
  const port = Number(values.port);
  if (!Number.isInteger(port) || port < 1024 || port > 65531) {
    throw new RangeError(`--port must be a number from 1024 to 65531, not ${values.port}`);
  }
  return { reset: values.reset, port, folder: values.folder };
}

async function main(): Promise<void> {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    throw new RangeError(
      `Node 20.19 or newer is needed; this is ${process.version}. See https://nodejs.org`,
    );
  }
  const options = readOptions();
  if (options === "help") return console.log(HELP);

  const startedAt = performance.now();
  const seconds = () => ((performance.now() - startedAt) / 1000).toFixed(1);
  const progress = (line: string) => console.log(`${seconds().padStart(6)} s  ${line}`);

  const interrupt = new AbortController();
  let interruptedAt = Infinity;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (performance.now() > interruptedAt + SAME_KEYSTROKE) process.exit(1);
      if (interrupt.signal.aborted) return;
      interruptedAt = performance.now();
      progress("Stopping; once more to force it");
      interrupt.abort();
    });
  }

  const { startStack } = await import("./stack.ts");
  let fail!: (error: Error) => void;
  const end = new Promise<Error | undefined>((resolve) => {
    fail = resolve;
    interrupt.signal.addEventListener("abort", () => resolve(undefined));
  });
  try {
    const stack = await startStack({
      ...options,
      progress,
      signal: interrupt.signal,
      onFailure: fail,
    });
    console.log(summarize(stack.facts, options.folder, seconds()));
    const failure = await end;
    await stack.stop();
    if (failure) throw failure;
    progress("Stopped");
  } catch (error) {
    if (error !== interrupt.signal.reason) throw error;
  }
}

try {
  await main();
  process.exit(0);
} catch (error) {
  const { name, message, stack } = error as Error;
  const isExpected = ["StackError", "RangeError"].includes(name) ||
    (error as NodeJS.ErrnoException).code?.startsWith("ERR_PARSE_ARGS");
  console.error(`\n${isExpected ? message : stack}`);
  process.exit(1);
}
