import { PostgrestClient } from "@supabase/postgrest-js";
import { z } from "zod";
import { environment } from "./env.ts";
import { summarize } from "./redact.ts";

/** What went wrong with a call of the database, as far as a caller of ours has to tell it apart. */
export type DatabaseErrorKind =
  /** Cut by the server or by us. */
  | "timed_out"
  /** No connection, or none to spare. */
  | "unreachable"
  /** The key or token is not accepted. */
  | "unauthenticated"
  /** Accepted, but without the right. */
  | "denied"
  /** The schema or the function is not there, or not exposed. */
  | "missing"
  /** The answer breaks the contract. */
  | "malformed"
  /** Everything else that the database says no to. */
  | "refused";

/**
 * A call of the database that did not work. `reason` is what the database said, redacted and bounded;
 * details, hints and contexts are left behind, for they may quote rows.
 */
export class DatabaseError extends Error {
  override readonly name = "DatabaseError";
  readonly kind: DatabaseErrorKind;
  /** SQLSTATE, a PostgREST code, or empty. */
  readonly code: string;
  readonly reason: string;

  constructor(rpc: string, kind: DatabaseErrorKind, code: string, reason: string) {
    const bounded = summarize(reason);
    super(`Cannot call ${rpc}: ${bounded}${code === "" ? "" : ` (${code})`}`);
    this.kind = kind;
    this.code = code;
    this.reason = bounded;
  }
}

/** The functions of the schema `monitor`, each of which answers one JSON value. */
export interface Database {
  /**
   * Calls `monitor.<rpc>` and reads its answer by `parse`.
   *
   * @param timeoutSeconds after which the call is given up; the default is just above the 8 s after
   *   which the server gives up by itself, and says so.
   * @throws {DatabaseError}
   */
  call<T>(
    rpc: string,
    args: Readonly<Record<string, unknown>>,
    parse: (answer: unknown) => T,
    timeoutSeconds?: number,
  ): Promise<T>;
}

/** Whom the database is called as. */
export interface DatabaseOptions {
  url: string;
  /** A secret key works as service_role; a publishable one as whom the token says. */
  key: string;
  /** A user's token. */
  token?: string;
  fetch?: typeof fetch;
}

const TIMEOUT_SECONDS = 8.5;

/**
 * Opens the database over its REST API, by the part of supabase-js that does just that: no session,
 * no socket and no storage client is made for each call of a user.
 */
export function openDatabase({ url, key, token, fetch }: DatabaseOptions): Database {
  const client = new PostgrestClient(`${url}/rest/v1`, {
    schema: "monitor",
    headers: { apikey: key, ...(token !== undefined && { authorization: `Bearer ${token}` }) },
    ...(fetch !== undefined && { fetch }),
  });

  return {
    async call(rpc, args, parse, timeoutSeconds = TIMEOUT_SECONDS) {
      const signal = AbortSignal.timeout(timeoutSeconds * 1000);
      const { data, error, status } = await client.rpc(rpc, args).abortSignal(signal);
      if (error && signal.aborted) {
        throw new DatabaseError(rpc, "timed_out", "", `no answer within ${timeoutSeconds} s`);
      }
      if (error) throw toDatabaseError(rpc, { ...error, status });
      try {
        return parse(data);
      } catch (cause) {
        if (!(cause instanceof z.ZodError)) throw cause;
        throw new DatabaseError(rpc, "malformed", "", `answer: ${z.prettifyError(cause)}`);
      }
    },
  };
}

/** What the REST API says of a failed call. The code is a SQLSTATE, PostgREST's own, or missing. */
export interface RestError {
  readonly code?: string | undefined;
  readonly message: string;
  readonly status: number;
}

/** By the beginning of the code; the first that fits. */
const KINDS: readonly (readonly [string, DatabaseErrorKind])[] = [
  ["57014", "timed_out"], // query_canceled
  ["55P03", "timed_out"], // lock_not_available: lock_timeout has passed
  ["40P01", "timed_out"], // deadlock_detected: ended so that the other could go on
  ["40001", "timed_out"], // serialization_failure: what it began on was changed by another; to be tried again
  ["57P", "unreachable"], // shutting down or starting
  ["08", "unreachable"], // connection exceptions
  ["53", "unreachable"], // out of connections, memory, disk
  ["PGRST00", "unreachable"], // the API has no connection, or none in time
  ["PGRST30", "unauthenticated"], // token missing, malformed, expired
  ["42501", "denied"], // insufficient_privilege
  ["PGRST106", "missing"], // schema not exposed
  ["PGRST202", "missing"], // function not found
  ["42883", "missing"], // undefined_function
  ["3F000", "missing"], // invalid_schema_name
];

/** Tells failures apart, once for all callers. */
export function toDatabaseError(
  rpc: string,
  { code = "", message, status }: RestError,
): DatabaseError {
  return new DatabaseError(rpc, judgeRestError(code, message, status), code, message);
}

function judgeRestError(code: string, message: string, status: number): DatabaseErrorKind {
  // No SQLSTATE comes through from the local API, only the server's words.
  if (/canceling statement due to statement timeout/.test(message)) return "timed_out";
  const known = KINDS.find(([beginning]) => code.startsWith(beginning));
  // Whoever is not logged in is told 401 where a user would be told that he may not.
  if (status === 401) return "unauthenticated";
  if (known) return known[1];
  if (status === 403) return "denied";
  if (status >= 200 && status < 300) return "malformed";
  return status === 0 || (status >= 502 && status <= 504) ? "unreachable" : "refused";
}

let opened: Database | undefined;

/** The database as service_role, opened when it is first called. @throws {ConfigurationError} */
export const database: Database = {
  call: (rpc, args, parse, timeoutSeconds) => {
    const { url, secretKeys } = environment();
    opened ??= openDatabase({ url, key: secretKeys.default });
    return opened.call(rpc, args, parse, timeoutSeconds);
  },
};
