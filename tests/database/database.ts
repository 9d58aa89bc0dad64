import { randomUUID } from "node:crypto";
import pg from "pg";
import { inject, test } from "vitest";
import { poll } from "../../local/processes.ts";

/** Sends one statement and gives its rows. */
export type Query = <Row extends pg.QueryResultRow = pg.QueryResultRow>(
  sql: string,
  values?: unknown[],
) => Promise<pg.QueryResult<Row>>;

/** A database of its own: what is committed there, no other test sees. */
export interface OwnDatabase {
  /** A session as service_role, as production runs. */
  connect(): Promise<pg.Client>;
  /** A session as postgres, who owns the schema. */
  connectAsOwner(): Promise<pg.Client>;
}

function databaseUrl(database: string): string {
  const url = new URL(inject("databaseAdminUrl"));
  url.pathname = `/${database}`;
  return url.href;
}

async function administrate(sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl("template1") });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}

/** Copies the migrated database. Ends the sessions it gave out, and removes the copy, when `release` is called. */
async function copyDatabase(): Promise<OwnDatabase & { release(): Promise<void> }> {
  const name = `test_${randomUUID().replaceAll("-", "")}`;
  await administrate(`create database ${name} template pgvigil_template owner postgres`);
  const clients: pg.Client[] = [];

  const connectAs = async (role: string) => {
    const client = new pg.Client({ connectionString: databaseUrl(name) });
    clients.push(client);
    await client.connect();
    // Not `set role`, which a rollback or `reset role` would undo to the superuser.
    await client.query(`set session authorization ${role}; set timezone to 'UTC'`);
    return client;
  };
  return {
    connect: () => connectAs("service_role"),
    connectAsOwner: () => connectAs("postgres"),
    release: async () => {
      await Promise.all(clients.map((client) => client.end()));
      await administrate(`drop database ${name} with (force)`);
    },
  };
}

/**
 * `it` with fixtures that run SQL in one transaction, which is rolled back after the test. A statement that fails does
 * not end the transaction: the next one finds it as it was before.
 *
 * - `query`: as production does, service_role.
 * - `asOwner`: as postgres, who owns the schema and is no superuser.
 * - `asSuperuser`: for what only an extension or the platform does.
 * - `asUser(id)`: as a user of the API with a verified token.
 * - `asAnon`: as a user of the API without one.
 * - `ownDatabase`: instead of all these, a copy of the database for a test that commits or needs several sessions.
 */
export const it = test
  // A copy for each file: what one locks never keeps another waiting.
  // deno-lint-ignore no-empty-pattern -- vitest reads which fixtures we need from this pattern
  .extend("session", { scope: "file" }, async ({}, { onCleanup }) => {
    const database = await copyDatabase();
    onCleanup(database.release);
    return database.connectAsOwner();
  })
  .extend("transaction", async ({ session }, { onCleanup }) => {
    await session.query("begin");
    onCleanup(async () => void await session.query("rollback"));
    return (role: string, userId = ""): Query => async (sql, values) => {
      const become = role === "supabase_admin" ? "session authorization" : "role";
      await session.query(`
        savepoint statement;
        set local ${become} ${role};
        set local statement_timeout = '8s';
        select set_config('request.jwt.claim.sub', '${userId}', true)`);
      try {
        const result = await session.query(sql, values);
        await session.query("set local session authorization postgres; release statement");
        return result;
      } catch (error) {
        await session.query("rollback to statement");
        throw error;
      }
    };
  })
  .extend("query", ({ transaction }) => transaction("service_role"))
  .extend("asOwner", ({ transaction }) => transaction("postgres"))
  .extend("asSuperuser", ({ transaction }) => transaction("supabase_admin"))
  .extend("asUser", ({ transaction }) => (id: string) => transaction("authenticated", id))
  .extend("asAnon", ({ transaction }) => transaction("anon"))
  // deno-lint-ignore no-empty-pattern -- as above
  .extend("ownDatabase", async ({}, { onCleanup }): Promise<OwnDatabase> => {
    const database = await copyDatabase();
    onCleanup(database.release);
    return database;
  });

/**
 * Calls a function of schema monitor by the names of its arguments, as the API does, and gives its one value. Objects
 * and arrays are sent as JSON.
 */
export async function rpc<Result = unknown>(
  query: Query,
  name: string,
  args: Readonly<Record<string, unknown>> = {},
): Promise<Result> {
  const names = Object.keys(args).map((key, index) => `${key} => $${index + 1}`);
  const values = Object.values(args).map((value) =>
    typeof value === "object" && value !== null && !(value instanceof Date)
      ? JSON.stringify(value)
      : value
  );
  const { rows } = await query(`select monitor.${name}(${names}) as result`, values);
  return rows[0]?.result as Result;
}

/** A `pg.Client` as a {@link Query}. */
export const queryOf = (client: pg.Client): Query => (sql, values) => client.query(sql, values);

/**
 * Waits until somebody waits for a lock that the session of `holder` has. Others do not count: the server is shared with
 * the databases of other test files.
 *
 * @throws {Error} if nobody does within 20 seconds.
 */
export async function waitUntilBlocking(holder: Query): Promise<void> {
  const isBlocking = await poll(async () => {
    const { rows } = await holder(
      "select from pg_locks where not granted and pg_backend_pid() = any (pg_blocking_pids(pid))",
    );
    return rows.length > 0 ? true : undefined;
  }, 20);
  if (!isBlocking) throw new Error("Cannot go on: nobody waits for a lock of this session");
}
