import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import type { TestProject } from "vitest/node";
import { applyMigrations, startDatabase } from "../../local/database.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** Superuser's URL of the server. It holds the migrated database {@link TEMPLATE}, for copies. */
    databaseAdminUrl: string;
  }
}

/** Name of the migrated database that every test file copies. Nobody can connect to it. */
const TEMPLATE = "pgvigil_template";

/** One server for the whole suite, in a temporary folder and on a free port, migrated once by the real CLI. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), "pgvigil-tests-"));
  const remove = () => rm(folder, { recursive: true, force: true });
  const database = await startDatabase({ folder }).catch(async (error) => {
    await remove();
    throw error;
  });
  const teardown = async () => {
    await database.stop();
    await remove();
  };

  try {
    await administrate(database.adminUrl, [
      // Nothing here has to survive a crash.
      "alter system set fsync = off",
      "alter system set full_page_writes = off",
      "alter system set synchronous_commit = off",
      // A worker that looks at a table may keep a lock that a test waits for.
      "alter system set autovacuum = off",
      "select pg_reload_conf()",
    ]);
    await applyMigrations(database.url);
    await administrate(database.adminUrl, [
      `create database ${TEMPLATE} template postgres owner postgres`,
      `alter database ${TEMPLATE} is_template true allow_connections false`,
    ]);
  } catch (error) {
    await teardown();
    throw error;
  }
  project.provide("databaseAdminUrl", database.adminUrl);
  return teardown;
}

async function administrate(adminUrl: string, statements: readonly string[]): Promise<void> {
  const url = new URL(adminUrl);
  url.pathname = "/template1"; // the one to be copied must have no other session
  const client = new pg.Client({ connectionString: url.href });
  await client.connect();
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    await client.end();
  }
}
