/**
 * The second leg of CI: the project's migrations, unchanged, on Debian's Postgres 15 with the real pg_cron, which then
 * has to call the functions by itself. Needs root on Debian 12, or a machine that has both packages. Ends with
 * `N passed, N failed`.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import pg from "pg";
import type { PostgresInstallation } from "../local/binaries.ts";
import { type Database, startDatabase } from "../local/database.ts";
import { poll } from "../local/processes.ts";
import { type Stack, startStack } from "../local/stack.ts";
import { claimPorts } from "../tests/stack.ts";

const DEBIAN: PostgresInstallation = {
  initdb: "/usr/lib/postgresql/15/bin/initdb",
  postgres: "/usr/lib/postgresql/15/bin/postgres",
  major: "15",
  extensions: "/usr/share/postgresql/15/extension",
  standIns: ["pg_net", "supabase_vault"],
};
const PACKAGES = ["postgresql-15", "postgresql-15-cron"];

/** A job fires within a minute, and its HTTP status is joined to it within the next; twice that. In seconds. */
const PATIENCE = 240;

/** What a Supabase project does after `create extension pg_cron`, which only a superuser may. */
const ENABLE_PG_CRON = `
  create extension pg_cron;
  grant usage on schema cron to postgres with grant option;
  grant all on all functions in schema cron to postgres with grant option;
  grant all on all tables in schema cron to postgres with grant option;
  revoke all on table cron.job from postgres;
  grant select on table cron.job to postgres with grant option;`;

const startedAt = performance.now();
const say = (line: string) =>
  console.log(`${((performance.now() - startedAt) / 1000).toFixed(1).padStart(6)} s  ${line}`);

let [passed, failed] = [0, 0];
function check(claim: string, holds: boolean, otherwise?: unknown): void {
  if (holds) passed += 1;
  else failed += 1;
  say(`${holds ? "ok     " : "FAILED "} ${claim}${holds ? "" : `: ${JSON.stringify(otherwise)}`}`);
}

/** Installs what is missing. @throws {Error} with the way out if it cannot. */
function installPackages(): void {
  if (existsSync(DEBIAN.postgres) && existsSync(join(DEBIAN.extensions, "pg_cron.control"))) return;
  if (process.getuid?.() !== 0) {
    throw new Error(
      `Cannot install ${PACKAGES.join(" and ")}: run this as root, or install them yourself`,
    );
  }
  say(`Installing ${PACKAGES.join(" and ")}`);
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  for (const args of [["update"], ["install", "--yes", "--no-install-recommends", ...PACKAGES]]) {
    const { status, stdout, stderr } = spawnSync("apt-get", args, { env, encoding: "utf8" });
    if (status !== 0) throw new Error(`apt-get ${args[0]} failed:\n${stdout ?? ""}${stderr ?? ""}`);
  }
}

/** Waits for a run of `job` that cron queued after `since`, that was answered, and that said itself that it finished. */
async function waitForWitnesses(client: pg.Client, job: string, since: Date): Promise<void> {
  const witnessed = await poll(async () => {
    const { rows: [run] } = await client.query(
      `select run_id from monitor.job_runs
       where job = $1 and trigger = 'cron' and scheduled_at >= $2 and state = 'succeeded'
         and queued_at is not null and http_status = 200 and finished_at is not null`,
      [job, since],
    );
    return run;
  }, PATIENCE);
  const { rows } = await client.query(
    `select scheduled_at, state, reason, http_status, finished_at from monitor.job_runs
     where job = $1 order by scheduled_at desc limit 5`,
    [job],
  );
  check(`pg_cron fires ${job} by itself, with all three witnesses`, witnessed !== undefined, rows);
}

/** Samples in by the batch function, into a chunk, and out again: plain SQL, but not all of it is the same on 15 and 17. */
async function compactOneDay(client: pg.Client): Promise<void> {
  const read = "select monitor.read_samples($1, '2026-01-05', '2026-01-06') -> 'series' as series";
  const matchers = JSON.stringify([{ name: "__name__", op: "=", value: "leg" }]);
  await client.query("select monitor.ensure_sample_days('2026-01-05', 0)");
  const { rows: [{ result }] } = await client.query(
    `select monitor.ingest_samples('[{"metric":"leg","labels":{},"kind":"gauge"}]', array_agg(1),
       array_agg(1767571200000 + n * 60000), array_agg(n * 0.25), '2026-01-05 23:59:59+00') as result
     from generate_series(0, 1439) as n`,
  );
  const before = (await client.query(read, [matchers])).rows[0].series;
  for (let more = true, step = 0; more && step < 10; step += 1) {
    const { rows } = await client.query(
      "select monitor.compact_samples(2, timestamptz '2026-01-09 03:00:00+00' + $1 * interval '2 minutes') as result",
      [step],
    );
    more = rows[0].result.more;
  }
  const after = (await client.query(read, [matchers])).rows[0].series;
  const { rows: [{ state }] } = await client.query(
    "select state from monitor.sample_days where day = '2026-01-05'",
  );
  check(
    "a closed day goes into chunks and reads as before",
    result.inserted === 1440 && state === "chunks" &&
      JSON.stringify(after) === JSON.stringify(before),
    { result, state },
  );
}

async function watchJobs(client: pg.Client, admin: pg.Client): Promise<void> {
  const { rows: [scheduler] } = await admin.query(
    `select extversion, exists (
       select from pg_proc where pronamespace = 'cron'::regnamespace and probin like '%pg_cron'
     ) as is_real from pg_extension where extname = 'pg_cron'`,
  );
  check(`pg_cron ${scheduler?.extversion} is the real one`, scheduler?.is_real === true, scheduler);
  const { rows: jobs } = await client.query(
    "select jobname, schedule, active from cron.job order by jobname",
  );
  const { rows: [{ count }] } = await client.query(
    "select count(*)::integer as count from monitor.job_schedules",
  );
  check(
    `pg_cron has the ${count} jobs`,
    jobs.length === count && jobs.every(({ active }) => active),
    jobs,
  );

  await waitForWitnesses(client, "collect-metrics", new Date(0));
  const { rows: [{ now }] } = await client.query("select now()");
  for (const job of ["detect-anomalies", "data-retention-cleanup"]) {
    await client.query("select monitor.set_schedule($1, '* * * * *')", [job]);
  }
  say("Set the other two to every minute");
  await Promise.all(
    ["detect-anomalies", "data-retention-cleanup"].map((job) => waitForWitnesses(client, job, now)),
  );

  const { rows: broken } = await admin.query(
    "select jobid, command, status, return_message from cron.job_run_details where status = 'failed'",
  );
  check("no run of pg_cron failed", broken.length === 0, broken);
}

const folder = await mkdtemp(join(tmpdir(), "pgvigil-pg-cron-"));
const ports = await claimPorts();
let database: Database | undefined;
let stack: Stack | undefined;
const clients: pg.Client[] = [];
try {
  installPackages();
  say("Starting Postgres 15");
  database = await startDatabase({
    folder: join(folder, "server"),
    port: ports.port + 1,
    installation: DEBIAN,
    settings: {
      shared_preload_libraries: "pg_cron",
      "cron.database_name": "postgres",
      "cron.use_background_workers": "on",
    },
  });
  const connect = async (connectionString: string) => {
    const client = new pg.Client({ connectionString });
    await client.connect();
    clients.push(client);
    return client;
  };
  const admin = await connect(database.adminUrl);
  await admin.query(ENABLE_PG_CRON);
  stack = await startStack({
    folder: join(folder, "stack"),
    port: ports.port,
    database,
    cron: false,
    progress: say,
  });
  check("the migrations apply unchanged, and the stack starts on them", true);
  await compactOneDay(await connect(database.url));
  await watchJobs(await connect(database.url), admin);
} catch (error) {
  check("the leg runs to its end", false, (error as Error).message);
} finally {
  await Promise.all(clients.map((client) => client.end()));
  await stack?.stop();
  await database?.stop();
  ports.release();
  await rm(folder, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
