/** REST and Auth API: `@supabase/lite` on the stack's Postgres, held to what PostgREST and GoTrue do when hosted. */
import { AsyncLocalStorage } from "node:async_hooks";
import { createHash, timingSafeEqual } from "node:crypto";
import { appendFileSync, writeFileSync } from "node:fs";
import { format } from "node:util";
import type { Keys } from "./keys.ts";
import { loadLite } from "./lite.ts";

/** Options of {@link createApi}. */
export interface ApiOptions {
  adminUrl: string;
  keys: Keys;
  /** Where the API is reached, for links in mails. */
  apiUrl: string;
  /** Where the mails of the Auth API go. */
  inboxUrl: string;
  /** File that takes the errors of requests. */
  log: string;
}

/** The API as a fetch handler. */
export interface Api {
  fetch(request: Request): Promise<Response>;
  close(): Promise<void>;
}

/** The inner parts of a lite connection that are set straight here; written for the pinned version 0.10.0. */
interface Connection {
  rlsState: "active";
  introspect(options?: { useCache: boolean }): Promise<{ functions?: readonly SqlFunction[] }>;
  normalizeDbError(error: unknown): unknown;
  onPostgrestAST(query: Query, context: unknown): Promise<Query>;
  applyJwtSessionContext(
    transaction: Transaction,
    context: RequestContext,
    ...rest: unknown[]
  ): Promise<void>;
  applyRpcRequestGucs(transaction: Transaction, call: RpcCall): Promise<void>;
}

interface SqlFunction {
  schema: string;
  name: string;
  arg_names: readonly string[];
  arg_types: readonly string[];
}

interface Query {
  type: string;
  function?: string;
  schema?: string;
  httpMethod?: string;
  args?: Record<string, unknown>;
}

interface RequestContext {
  auth?: { role?: string };
}

interface Transaction {
  executeQuery(query: { sql: string; parameters: readonly unknown[] }): Promise<unknown>;
}

interface RpcCall {
  /** `/rpc/<function>` */
  path: string;
  requestHeaders?: Record<string, string>;
}

interface DatabaseError {
  code: string;
  message: string;
  detail?: string;
  hint?: string;
}

/** Lite turns arguments into JSON and the driver would once more: text that is JSON already stays as it is. */
const json = (oid: number) => ({
  to: oid,
  from: [oid],
  parse: (text: string) => JSON.parse(text),
  serialize: (value: unknown) => typeof value === "string" ? value : JSON.stringify(value),
});

/** Times as PostgREST writes them, `2026-11-21T09:00:00+00:00`. */
const TIMESTAMPTZ = {
  to: 1184,
  from: [1184],
  parse: (text: string) => text.replace(/^(\S+) (.+?)([+-]\d\d)$/, "$1T$2$3:00"),
  serialize: (value: unknown) => value,
};

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

/** Classes of SQLSTATE that lite answers as PostgREST does. The others it hides behind a code of its own. */
const KNOWN_TO_LITE = /^(21|22|42|53|55|PT)|^(23502|23503|23505|25006|PGRST)$/;
/** Classes that PostgREST answers with 500; the rest with 400. */
const SERVER_FAULT = /^(09|25|2D|38|39|3B|40|54|57|58|F0|HV|XX)|^P0(?!001)/;

/** Gives an error the form that lite passes on as it is: status, code, message, details and hint. */
function exposeError(error: unknown): unknown {
  const { code, message, detail, hint } = error as DatabaseError;
  if (!/^[0-9A-Z]{5}$/.test(code) || KNOWN_TO_LITE.test(code)) return error;
  return {
    code: "PGRST",
    message: JSON.stringify({ code, message, details: detail ?? null, hint: hint ?? null }),
    detail: JSON.stringify({ status: SERVER_FAULT.test(code) ? 500 : 400, headers: {} }),
  };
}

/** Corrects where lite differs from the platform in what matters here. */
function correct(connection: Connection): void {
  // Otherwise the first request grants everything on every table to the roles of the API.
  connection.rlsState = "active";
  connection.normalizeDbError = exposeError;

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
  let reading: ReturnType<typeof introspect> | undefined;
  connection.introspect = (options) =>
    reading ??= introspect(options).finally(() => reading = undefined);

  // Of a json argument, lite turns all but a string into JSON, and the string "5" would become the number 5.
  const prepare = connection.onPostgrestAST.bind(connection);
  connection.onPostgrestAST = async (query, context) => {
    const prepared = await prepare(query, context);
    if (prepared.type !== "rpc" || prepared.httpMethod !== "POST" || !prepared.args) {
      return prepared;
    }
    const { functions = [] } = await connection.introspect({ useCache: true });
    const isJson = (argument: string) =>
      functions.some(({ schema, name, arg_names, arg_types }) =>
        name === prepared.function && schema === (prepared.schema ?? "public") &&
        /^jsonb?$/.test(arg_types[arg_names.indexOf(argument)] ?? "")
      );
    const args = Object.entries(prepared.args).map(([name, value]) =>
      [name, typeof value === "string" && isJson(name) ? JSON.stringify(value) : value] as const
    );
    return { ...prepared, args: Object.fromEntries(args) };
  };
}

/** How long queries under way may take when the stack stops. */
const CLOSE_SECONDS = 1;

/** Marks what runs on behalf of a request to the API. */
const requests = new AsyncLocalStorage<{ log: string }>();
let isErrorOutputDirected = false;

/** Lite prints every error of every request; those go to a file, what others print stays where it is. */
function directErrorOutput(): void {
  if (isErrorOutputDirected) return;
  isErrorOutputDirected = true;
  const print = console.error;
  console.error = (...values) => {
    const request = requests.getStore();
    if (request) appendFileSync(request.log, `${new Date().toISOString()} ${format(...values)}\n`);
    else print(...values);
  };
}

/** Compares without telling by its duration how much of a key was right. */
function isSame(one: string, other: string): boolean {
  const hash = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(hash(one), hash(other));
}

/** Connects the API to the database; the schema it serves is read again whenever it changes. */
export async function createApi(
  { adminUrl, keys, apiUrl, inboxUrl, log }: ApiOptions,
): Promise<Api> {
  const { App, createPostgresConnection, ResendEmailDriver } = await loadLite();
  const connection = createPostgresConnection({
    url: adminUrl,
    postgresOptions: {
      max: 10,
      onnotice: () => {},
      connection: { application_name: "postgrest", statement_timeout: 8000 },
      types: { json: json(114), jsonb: json(3802), timestamptz: TIMESTAMPTZ },
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
      site_url: apiUrl,
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
  directErrorOutput();
  writeFileSync(log, "", { mode: 0o600 });
  return {
    fetch: (request) => requests.run({ log }, async () => await app.fetch(request)),
    // With a time-out: a query whose caller has gone away may never be told to be over.
    close: () => connection.driver.end({ timeout: CLOSE_SECONDS }),
  };
}
