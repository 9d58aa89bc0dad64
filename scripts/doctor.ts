/** `npm run doctor`: prints monitor.check_setup() of the local stack or of any database. */
import process from "node:process";
import { parseArgs } from "node:util";
import pg from "pg";
import { explainConnection, findDatabaseUrl } from "./connection.ts";
import { readRequirements, type Requirement } from "./doctor/requirements.ts";

const HELP = `Checks that pgvigil is set up and working, requirement by requirement.

  npm run doctor                          the local stack (npm start must be running)
  npm run doctor -- --db-url <url>        any database, as its owner "postgres"
  npm run doctor -- --json                the same as JSON

Exit code: 0 all ok or only warned of, 1 something failed, 2 nothing failed but something is not known yet, 3 the check could not
run.`;

async function checkSetup(url: string): Promise<Requirement[]> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000 });
  try {
    await client.connect();
    return await readRequirements((sql) => client.query(sql));
  } finally {
    await client.end().catch(() => {});
  }
}

function print(requirements: readonly Requirement[]): void {
  const width = Math.max(...requirements.map(({ requirement }) => requirement.length));
  for (const { requirement, status, detail, fix } of requirements) {
    console.log(`${status.padEnd(7)}  ${requirement.padEnd(width)}  ${detail}`);
    if (fix) console.log(`${" ".repeat(9)}${" ".repeat(width)}  → ${fix}`);
  }
  const count = (wanted: string) => requirements.filter(({ status }) => status === wanted).length;
  const counts = `${count("ok")} ok, ${count("warning")} warned of, ${count("failed")} failed`;
  console.log(`\n${counts}, ${count("unknown")} not known yet`);
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
    const requirements = await checkSetup(findDatabaseUrl(values["db-url"]));
    if (values.json) console.log(JSON.stringify(requirements, null, 2));
    else print(requirements);
    const statuses = new Set(requirements.map(({ status }) => status));
    process.exitCode = statuses.has("failed") ? 1 : statuses.has("unknown") ? 2 : 0;
  }
} catch (error) {
  console.error(`Cannot check the setup: ${explainConnection(error)}`);
  process.exitCode = 3;
}
