/** `npm run doctor`: prints monitor.check_setup() of the local stack or of any database. */
import { existsSync, readFileSync } from "node:fs";
import process from "node:process";
import { parseArgs } from "node:util";
import pg from "pg";

const HELP = `Checks that pgvigil is set up and working, requirement by requirement.

  npm run doctor                          the local stack (npm start must be running)
  npm run doctor -- --db-url <url>        any database, as its owner "postgres"
  npm run doctor -- --json                the same as JSON

Exit code: 0 all ok, 1 something failed, 2 nothing failed but something is not known yet, 3 the check could not run.`;

interface Requirement {
  requirement: string;
  status: "ok" | "failed" | "unknown";
  detail: string;
  fix: string | null;
}

/** Where to look, in order: the argument, the running local stack. @throws {Error} with the way out if neither. */
function findDatabaseUrl(argument: string | undefined): string {
  if (argument) return argument;
  if (!existsSync(".local/stack.json")) {
    throw new Error("There is no local stack here. Start it with `npm start`, or pass --db-url.");
  }
  return JSON.parse(readFileSync(".local/stack.json", "utf8")).db_url;
}

async function readRequirements(url: string): Promise<Requirement[]> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000 });
  try {
    await client.connect();
    const { rows } = await client.query<Requirement>("select * from monitor.check_setup()");
    return rows;
  } finally {
    await client.end().catch(() => {});
  }
}

/** Says what went wrong in words, with the way out; the URL holds a password and is not repeated. */
function explain(error: unknown): string {
  const { code, message } = error as { code?: string; message: string };
  if (code === "3F000" || code === "42883") {
    return "The schema monitor is not in this database. Apply the migrations: supabase db push --remote=<url>.";
  }
  if (code === "ECONNREFUSED") return "Nothing listens there. Is the stack running (`npm start`)?";
  if (code === "28P01") return "The password was refused.";
  return message;
}

function print(requirements: readonly Requirement[]): void {
  const width = Math.max(...requirements.map(({ requirement }) => requirement.length));
  for (const { requirement, status, detail, fix } of requirements) {
    console.log(`${status.padEnd(7)}  ${requirement.padEnd(width)}  ${detail}`);
    if (fix) console.log(`${" ".repeat(9)}${" ".repeat(width)}  → ${fix}`);
  }
  const count = (wanted: string) => requirements.filter(({ status }) => status === wanted).length;
  console.log(`\n${count("ok")} ok, ${count("failed")} failed, ${count("unknown")} not known yet`);
}

try {
  const { values } = parseArgs({
    options: {
      "db-url": { type: "string" },
      json: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
  } else {
    const requirements = await readRequirements(findDatabaseUrl(values["db-url"]));
    if (values.json) console.log(JSON.stringify(requirements, null, 2));
    else print(requirements);
    const statuses = new Set(requirements.map(({ status }) => status));
    process.exitCode = statuses.has("failed") ? 1 : statuses.has("unknown") ? 2 : 0;
  }
} catch (error) {
  console.error(`Cannot check the setup: ${explain(error)}`);
  process.exitCode = 3;
}
