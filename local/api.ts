/** REST and Auth API: `@supabase/lite` on the stack's Postgres, held to what PostgREST and GoTrue do when hosted. */
import { createHash, timingSafeEqual } from "node:crypto";
import type { Keys } from "./keys.ts";
import { loadLite } from "./lite.ts";

/** Options of {@link createApi}. */
export interface ApiOptions {
  adminUrl: string;
  keys: Keys;
  /** Where the mails of the Auth API go. */
  inboxUrl: string;
}

/** The API as a fetch handler. */
export interface Api {
  fetch(request: Request): Response | Promise<Response>;
  close(): Promise<void>;
}

/** The inner parts of a lite connection that are set straight here; written for the pinned version 0.10.0. */
interface Connection {
  rlsState: "active";
  introspect(options?: object): Promise<unknown>;
  applyJwtSessionContext(
    transaction: Transaction,
    context: { auth?: { role?: string } },
    ...rest: unknown[]
  ): Promise<void>;
  applyRpcRequestGucs(transaction: Transaction, call: RpcCall): Promise<void>;
}

interface Transaction {
  executeQuery(query: { sql: string; parameters: readonly unknown[] }): Promise<unknown>;
}

interface RpcCall {
  /** `/rpc/<function>` */
  path: string;
  requestHeaders?: Record<string, string>;
}

/** Lite turns arguments into JSON and the driver would once more: text that is JSON already stays as it is. */
const json = (oid: number) => ({
  to: oid,
  from: [oid],
  parse: (text: string) => JSON.parse(text),
  serialize: (value: unknown) => typeof value === "string" ? value : JSON.stringify(value),
});

/** Applies the time limit of the role that a request takes on, as PostgREST does. */
const LIMIT_OF_ROLE = `
  select set_config('statement_timeout', option_value, true)
  from pg_roles, pg_options_to_table(rolconfig)
  where rolname = $1 and option_name = 'statement_timeout'`;

/** Applies the time limit that a called function sets for itself, which by then would come too late. */
const LIMIT_OF_FUNCTION = `
  select set_config('statement_timeout', option_value, true)
  from pg_proc, pg_options_to_table(proconfig)
  where proname = $1 and pronamespace = to_regnamespace($2) and option_name = 'statement_timeout'`;

/** Corrects where lite differs from the platform in what matters here. */
function correct(connection: Connection): void {
  // Otherwise the first request grants everything on every table to the roles of the API.
  connection.rlsState = "active";

  const applyRole = connection.applyJwtSessionContext.bind(connection);
  connection.applyJwtSessionContext = async (transaction, context, ...rest) => {
    await applyRole(transaction, context, ...rest);
    await transaction.executeQuery({
      sql: LIMIT_OF_ROLE,
      parameters: [context.auth?.role ?? "anon"],
    });
  };

  const applyCall = connection.applyRpcRequestGucs.bind(connection);
  connection.applyRpcRequestGucs = async (transaction, call) => {
    await applyCall(transaction, call);
    const name = decodeURIComponent(call.path.slice("/rpc/".length));
    const headers = new Headers(call.requestHeaders);
    const schema = headers.get("content-profile") ?? headers.get("accept-profile") ?? "public";
    await transaction.executeQuery({ sql: LIMIT_OF_FUNCTION, parameters: [name, schema] });
  };

  // The schema is read once for all requests that find it unread, not once for each.
  const introspect = connection.introspect.bind(connection);
  let reading: Promise<unknown> | undefined;
  connection.introspect = (options) =>
    reading ??= introspect(options).finally(() => reading = undefined);
}

/** Compares without telling by its duration how much of a key was right. */
function isSame(one: string, other: string): boolean {
  const hash = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(hash(one), hash(other));
}

/** Connects the API to the database; the schema it serves is read again whenever it changes. */
export async function createApi({ adminUrl, keys, inboxUrl }: ApiOptions): Promise<Api> {
  const { App, createPostgresConnection, ResendEmailDriver } = await loadLite();
  const connection = createPostgresConnection({
    url: adminUrl,
    postgresOptions: {
      max: 10,
      onnotice: () => {},
      connection: { application_name: "postgrest", statement_timeout: 8000 },
      types: { json: json(114), jsonb: json(3802) },
    },
  });
  correct(connection as unknown as Connection);
  await connection.driver.listen("pgrst", () => void connection.clearSchemaCache());

  const secretKeys = [keys.secret_key, keys.cron_key, keys.cron_next_key];
  const app = new App({
    connection,
    api: { schemas: ["public", "monitor"], max_rows: 1000 },
    auth: {
      enabled: true,
      jwt_secret: keys.jwt_secret,
      publishable_key: keys.publishable_key,
      secret_key: keys.secret_key,
      enable_signup: true,
      email: { enable_confirmations: false },
    },
    options: {
      drivers: {
        email: new ResendEmailDriver({
          apiKey: "none",
          from: "auth@example.com",
          endpoint: `${inboxUrl}/emails`,
        }),
      },
      server: {
        admin: false, // no request without a key is anybody
        apiKeys: {
          // deno-lint-ignore require-await -- lite wants a promise
          resolver: async (key) => {
            if (isSame(key, keys.publishable_key)) {
              return { type: "publishable", claims: { role: "anon" } };
            }
            if (secretKeys.some((secret) => isSame(key, secret))) {
              return { type: "secret", claims: { role: "service_role" } };
            }
            return null;
          },
        },
      },
    },
  });
  return { fetch: (request) => app.fetch(request), close: () => connection.close() };
}
