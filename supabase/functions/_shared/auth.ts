import { verifyAuth } from "@supabase/server/core";
// Its peer, named here so that a deploy takes the version we pin and not the newest there is.
import "@supabase/supabase-js";
import { z } from "zod";
import type { Scope } from "../../../shared/contract/access-token.ts";
import { rememberTokens, type TokenWorld } from "./access-tokens.ts";
import { type Database, database, DatabaseError, openDatabase } from "./database.ts";
import { ACCEPTED_KEYS, type Environment, environment } from "./env.ts";
import { Problem } from "./problem.ts";
import { shareForEach } from "./share.ts";
import { checkAccessToken } from "./stores.ts";

/** Who is calling. */
export type Caller =
  /** Holds one of {@link ACCEPTED_KEYS}. */
  | { readonly kind: "key"; readonly name: string }
  /** A user in `monitor.admins`. */
  | { readonly kind: "admin" }
  /** Holds an access token with the scope that was asked for. */
  | { readonly kind: "token"; readonly name: string }
  /** Anybody: without credentials, or with a publishable key. */
  | { readonly kind: "public" };

/** What {@link identify} needs from the world. */
export interface AuthWorld {
  environment(): Environment;
  /** The database as the user whose token it is. */
  openAs(token: string, environment: Environment): Database;
  now(): Date;
}

const realWorld: AuthWorld = {
  environment,
  openAs: (token, { url, publishableKeys }) =>
    openDatabase({ url, key: publishableKeys.default, token }),
  now: () => new Date(),
};

/** For what starts work: a secret key or an admin, nobody else. @throws {Problem} 401, 403, 503 */
export async function keyOrAdmin(request: Request, world: AuthWorld = realWorld): Promise<Caller> {
  const caller = await identify(request, world);
  if (caller.kind !== "public") return caller;
  throw unauthenticated(
    request.headers.has("apikey")
      ? "A publishable key triggers nothing. Send a secret key, or the token of an admin."
      : "Send a secret key in the header apikey, or the token of an admin as Authorization: Bearer.",
  );
}

/** How long, and of how many tokens, it is remembered whether they are an admin's. */
const VERDICT_MILLISECONDS = 5000;
const VERDICT_LIMIT = 1000;

/**
 * For what anybody may ask: makes a function that tells who does, for one query per token every five
 * seconds. supabase-js sends the token of whoever is logged in by itself, so one that is stale or no
 * admin's counts as none; a wrong key is still refused.
 *
 * @throws {Problem} 401, 403
 */
export function recognizeAnybody(
  world: AuthWorld = realWorld,
): (request: Request) => Promise<Caller> {
  const isKnownAdmin = shareForEach(VERDICT_MILLISECONDS, VERDICT_LIMIT, async (token) => {
    try {
      return await isAdmin(token, world.environment(), world);
    } catch (error) {
      // Who cannot be known is anybody, also while the database does not answer.
      if (error instanceof Problem || error instanceof DatabaseError) return false;
      throw error;
    }
  }, world.now);

  return async (request) => {
    const apikey = request.headers.get("apikey");
    const token = readToken(request.headers.get("authorization"), apikey);
    const caller: Caller = apikey === null
      ? { kind: "public" }
      : await judgeKey(apikey, world.environment());
    if (caller.kind !== "public" || token === null || !mayBeValid(token, world.now())) {
      return caller;
    }
    return await isKnownAdmin(token) ? { kind: "admin" } : caller;
  };
}

/** What {@link tokenOrKey} needs from the world. */
export interface TokenOrKeyWorld extends TokenWorld {
  environment(): Environment;
}

/**
 * For what programs of others do: makes a function that lets in who holds an access token with this scope, or one of
 * {@link ACCEPTED_KEYS}. Either may be in the header apikey or in Authorization, there as bearer token or as password of
 * any user, for a client may be able to set only one of them.
 *
 * @throws {Problem} 401, 403, 429
 * @throws {DatabaseError} while the database does not say whose a token is.
 */
export function tokenOrKey(
  scope: Scope,
  world: TokenOrKeyWorld = {
    environment,
    checkToken: (hash) => checkAccessToken(database, hash),
    now: () => new Date(),
  },
): (request: Request) => Promise<Caller> {
  const findToken = rememberTokens(world);

  const judge = async (credential: string): Promise<Caller> => {
    if (credential.startsWith("sb_")) return judgeKey(credential, world.environment());
    const token = await findToken(credential);
    if (token === null) {
      throw unauthenticated(
        credential.startsWith("pgv_")
          ? "The access token is unknown, has expired or has been revoked."
          : "This is neither an access token nor a key. The token of a user does not do here.",
        { challenge: BEARER_OR_BASIC },
      );
    }
    if (!token.scopes.includes(scope)) {
      throw new Problem(
        "forbidden",
        `The access token has not the scope ${scope}. Make one that has: ` +
          `select monitor.create_access_token('<name>', '{${scope}}');`,
      );
    }
    return { kind: "token", name: token.name };
  };

  return async (request) => {
    const apikey = request.headers.get("apikey");
    const authorization = request.headers.get("authorization");
    const authorized = authorization === null
      ? null
      : readBearer(authorization) || readPassword(authorization);
    if (authorized === "") {
      throw unauthenticated(
        "Authorization must be: Bearer, a space, an access token or a secret key; or Basic with one of them as password.",
        { challenge: BEARER_OR_BASIC },
      );
    }
    const credentials = new Set([authorized, apikey].filter((credential) => credential !== null));
    const callers: Caller[] = [];
    for (const credential of credentials) callers.push(await judge(credential));
    const caller = callers.find(({ kind }) => kind !== "public");
    if (caller !== undefined) return caller;
    throw unauthenticated(
      (credentials.size > 0 ? "A publishable key does not do here. " : "") +
        `Send an access token with the scope ${scope}, or a secret key, as Authorization: Bearer or in the header apikey.`,
      { challenge: BEARER_OR_BASIC },
    );
  };
}

/**
 * Finds out who is calling. Every credential that is there has to be good: a wrong one is refused,
 * never passed over in favour of another or of nobody.
 *
 * Keys are compared by `@supabase/server`. A user's token is judged by the REST API, which is handed
 * the token itself to ask `monitor.is_admin()`: that takes the right away the moment the row goes,
 * and works with every way of signing that the project has.
 */
async function identify(request: Request, world: AuthWorld): Promise<Caller> {
  const apikey = request.headers.get("apikey");
  const token = readToken(request.headers.get("authorization"), apikey);
  if (token === "") {
    throw unauthenticated("Authorization must be: Bearer, a space, the token of a user.");
  }
  if (apikey === null && token === null) return { kind: "public" };

  const env = world.environment();
  const caller: Caller = apikey === null ? { kind: "public" } : await judgeKey(apikey, env);
  if (token !== null && !await isAdmin(token, env, world)) {
    throw new Problem("forbidden", "This user is not in monitor.admins.");
  }
  return caller.kind === "public" && token !== null ? { kind: "admin" } : caller;
}

/** The user's token, null when there is none, empty when there is something else. @throws {Problem} 401 for a key */
function readToken(authorization: string | null, apikey: string | null): string | null {
  if (authorization === null) return null;
  const token = readBearer(authorization);
  // supabase-js sends its key in both headers.
  if (token !== "" && token === apikey) return null;
  if (token.startsWith("sb_")) {
    throw unauthenticated("A key belongs into the header apikey, not into Authorization.");
  }
  return token;
}

/** What follows the word Bearer, empty when there is something else. */
function readBearer(authorization: string): string {
  return /^bearer +(\S+)$/i.exec(authorization.trim())?.[1] ?? "";
}

/** The password of `Basic`, empty when there is something else. @see RFC 7617 */
function readPassword(authorization: string): string {
  const encoded = /^basic +(\S+)$/i.exec(authorization.trim())?.[1] ?? "";
  try {
    return /^[^:]*:([\x21-\x7e]+)$/.exec(atob(encoded))?.[1] ?? "";
  } catch {
    return "";
  }
}

async function judgeKey(apikey: string, env: Environment): Promise<Caller> {
  const { url, secretKeys, publishableKeys } = env;
  // Ours come first: a key that has two names is accepted by the better one.
  const accepted = ACCEPTED_KEYS.filter((name) => Object.hasOwn(secretKeys, name));
  const { data } = await verifyAuth(new Request(url, { headers: { apikey } }), {
    auth: [...accepted.map((name) => `secret:${name}` as const), "secret:*", "publishable:*"],
    // No token is judged here, so no keys to verify one with are looked for.
    env: { url, secretKeys, publishableKeys, jwks: { keys: [] } },
  });
  if (data === null) {
    throw unauthenticated("The key is not one of this project.");
  }
  if (data.authMode === "publishable") return { kind: "public" };

  const name = data.keyName ?? "";
  if (!accepted.some((known) => known === name)) {
    throw new Problem(
      "forbidden",
      `Secret keys named ${ACCEPTED_KEYS.join(", ")} may; not this one.`,
    );
  }
  return { kind: "key", name };
}

const IS_ADMIN_TIMEOUT_SECONDS = 5;

async function isAdmin(token: string, env: Environment, world: AuthWorld): Promise<boolean> {
  if (!mayBeValid(token, world.now())) {
    throw unauthenticated("The token is not one, or has expired.");
  }
  try {
    return await world.openAs(token, env)
      .call("is_admin", {}, (answer) => z.boolean().parse(answer), IS_ADMIN_TIMEOUT_SECONDS);
  } catch (error) {
    if (!(error instanceof DatabaseError)) throw error;
    if (error.kind === "unauthenticated") {
      throw unauthenticated("The token is not valid, or has expired.", { cause: error });
    }
    if (error.kind === "denied") return false;
    throw error;
  }
}

/** A cheap look that spares the database what can be nothing. Whoever passes is still not trusted. */
function mayBeValid(token: string, now: Date): boolean {
  const payload = /^[\w-]+\.([\w-]+)\.[\w-]+$/.exec(token)?.[1];
  if (payload === undefined) return false;
  try {
    const claims: unknown = JSON.parse(atob(payload.replaceAll("-", "+").replaceAll("_", "/")));
    const { exp } = z.object({ exp: z.number() }).parse(claims);
    return exp * 1000 > now.getTime();
  } catch {
    return false;
  }
}

const BEARER = 'Bearer realm="pgvigil"';
const BEARER_OR_BASIC = `${BEARER}, Basic realm="pgvigil"`;

function unauthenticated(
  detail: string,
  { challenge = BEARER, cause }: { challenge?: string; cause?: unknown } = {},
): Problem {
  return new Problem("unauthenticated", detail, {
    headers: { "www-authenticate": challenge },
    cause,
  });
}
