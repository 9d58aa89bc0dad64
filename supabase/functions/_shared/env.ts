import process from "node:process";
import { z } from "zod";

/** A variable of the environment is missing or malformed. Names the variable, never its value. */
export class ConfigurationError extends Error {
  override readonly name = "ConfigurationError";
}

/** Names of the secret keys that open the functions. An operator moves between the two of cron. */
export const ACCEPTED_KEYS = ["default", "cron", "cron_next"] as const;

/** What the functions need to know of where they run. */
export interface Environment {
  /** Of the project's API, without a slash at the end. */
  readonly url: string;
  /** By name; `default` is there, for it is the one we work with. */
  readonly secretKeys: Readonly<Record<string, string>> & { readonly default: string };
  /** By name; `default` is there, for a user's token is judged beside it. */
  readonly publishableKeys: Readonly<Record<string, string>> & { readonly default: string };
  /** Origins whose pages may call us; none by default. */
  readonly allowedOrigins: readonly string[];
}

/**
 * Keys by name. Those we rely on must have the form of their kind, so that no publishable key, legacy
 * token or empty string ever passes for a secret.
 */
function keysOf(prefix: "sb_secret_" | "sb_publishable_", ours: readonly string[]) {
  const shape = new RegExp(`^${prefix}[\\x21-\\x7e]+$`);
  return z.record(z.string(), z.string())
    .refine(
      (keys): keys is Record<string, string> & { default: string } =>
        Object.hasOwn(keys, "default"),
      "there is no key named default",
    )
    .refine(
      (keys) => ours.every((name) => !Object.hasOwn(keys, name) || shape.test(keys[name]!)),
      `a key named ${ours.join(" or ")} does not begin with ${prefix}`,
    );
}

const ApiUrl = z.string().refine(isApiUrl, "no address of the form https://host");

const Origin = z.string().refine(
  (text) => URL.canParse(text) && new URL(text).origin === text,
  "no origin of the form https://host",
);

/** Reads the environment through `read`. @throws {ConfigurationError} naming the first variable that is wrong. */
export function parseEnvironment(read: (name: string) => string | undefined): Environment {
  const check = <T>(name: string, schema: z.ZodType<T>, value: unknown): T => {
    const parsed = schema.safeParse(value);
    if (parsed.success) return parsed.data;
    const { path, message } = parsed.error.issues[0]!;
    throw new ConfigurationError(`Cannot use ${[name, ...path].join(".")}: ${message}`);
  };
  const need = (name: string): string => {
    const value = read(name)?.trim();
    if (value === undefined || value === "") {
      throw new ConfigurationError(`Cannot use ${name}: it is not set`);
    }
    return value;
  };
  const needJson = (name: string): unknown => {
    const value = need(name);
    try {
      return JSON.parse(value);
    } catch {
      // The error of the parser quotes what it could not parse: a key.
      throw new ConfigurationError(`Cannot use ${name}: it is not JSON`);
    }
  };

  return {
    url: check("SUPABASE_URL", ApiUrl, need("SUPABASE_URL")).replace(/\/$/, ""),
    secretKeys: check(
      "SUPABASE_SECRET_KEYS",
      keysOf("sb_secret_", ACCEPTED_KEYS),
      needJson("SUPABASE_SECRET_KEYS"),
    ),
    publishableKeys: check(
      "SUPABASE_PUBLISHABLE_KEYS",
      keysOf("sb_publishable_", ["default"]),
      needJson("SUPABASE_PUBLISHABLE_KEYS"),
    ),
    allowedOrigins: check(
      "PGVIGIL_ALLOWED_ORIGINS",
      z.array(Origin),
      // "".split(",") is one empty origin, not none.
      (read("PGVIGIL_ALLOWED_ORIGINS") ?? "").split(",").map((text) => text.trim()).filter(Boolean),
    ),
  };
}

function isApiUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, username, password, pathname, search, hash } = new URL(text);
  return (protocol === "https:" || protocol === "http:") &&
    `${username}${password}${search}${hash}` === "" && pathname === "/";
}

let known: Environment | undefined;

/** The environment of this isolate, read once, when it is first needed. @throws {ConfigurationError} */
export function environment(): Environment {
  known ??= parseEnvironment((name) => process.env[name]);
  return known;
}

/** Reads a variable of the environment. */
export type ReadVariable = (name: string) => string | undefined;

const readVariable: ReadVariable = (name) => process.env[name];

/**
 * Whether functions may send to the machine they run on, which the local stack allows and nothing else should:
 * PGVIGIL_ALLOW_LOOPBACK is 1.
 *
 * @throws {ConfigurationError} for anything else than 1, 0 or nothing
 */
export function allowsLoopback(read: ReadVariable = readVariable): boolean {
  const value = read("PGVIGIL_ALLOW_LOOPBACK")?.trim() ?? "";
  if (!["", "0", "1"].includes(value)) {
    throw new ConfigurationError("Cannot use PGVIGIL_ALLOW_LOOPBACK: it is neither 1 nor 0");
  }
  return value === "1";
}

/** Of a variable that is not the platform's but the operator's to set. */
function refuseUnset(name: string): ConfigurationError {
  const remedy = `supabase secrets set ${name}=…`;
  return new ConfigurationError(`Cannot use ${name}: it is not set (${remedy})`);
}

/** Of the secret of a webhook. @see https://github.com/standard-webhooks/standard-webhooks */
const SECRET_BYTES = { min: 24, max: 64 } as const;

/**
 * The secret by which the mail provider signs its delivery reports: RESEND_WEBHOOK_SECRET, as Resend shows it, `whsec_`
 * and base64.
 *
 * @throws {ConfigurationError} also for one that is too short to keep anybody out
 */
export function mailEventsSecret(read: ReadVariable = readVariable): string {
  const value = read("RESEND_WEBHOOK_SECRET")?.trim() ?? "";
  if (value === "") throw refuseUnset("RESEND_WEBHOOK_SECRET");
  const [, encoded = "", padding = ""] = /^whsec_([A-Za-z0-9+/]+)(={0,2})$/.exec(value) ?? [];
  const bytes = Math.floor(encoded.length * 3 / 4);
  const isWhole = (encoded.length + padding.length) % 4 === 0;
  if (!isWhole || bytes < SECRET_BYTES.min || bytes > SECRET_BYTES.max) {
    const remedy = "copy the signing secret of the webhook from Resend";
    throw new ConfigurationError(
      `Cannot use RESEND_WEBHOOK_SECRET: it is not whsec_ and base64 (${remedy})`,
    );
  }
  return value;
}

/** Who sends mails, and with which key. */
export interface MailEnvironment {
  readonly apiKey: string;
  readonly from: string;
  /** Of Resend's API; undefined for the real one. */
  readonly baseUrl: string | undefined;
}

/** Reads RESEND_API_KEY, PGVIGIL_MAIL_FROM and, where a stand-in is used, RESEND_BASE_URL. @throws {ConfigurationError} */
export function mailEnvironment(read: ReadVariable = readVariable): MailEnvironment {
  const need = (name: string, shape: RegExp, form: string): string => {
    const value = read(name)?.trim() ?? "";
    if (value === "") throw refuseUnset(name);
    if (!shape.test(value)) throw new ConfigurationError(`Cannot use ${name}: it is not ${form}`);
    return value;
  };
  const baseUrl = read("RESEND_BASE_URL")?.trim() || undefined;
  if (baseUrl !== undefined && !isApiUrl(baseUrl)) {
    throw new ConfigurationError(
      "Cannot use RESEND_BASE_URL: it is no address of the form https://host",
    );
  }
  return {
    apiKey: need("RESEND_API_KEY", /^[\x21-\x7e]+$/, "a key"),
    from: need(
      "PGVIGIL_MAIL_FROM",
      /^([^<>\p{Cc}\u2028\u2029]+ <[^\s\p{Cc}@<>]+@[^\s\p{Cc}@<>]+\.[^\s\p{Cc}@<>]+>|[^\s\p{Cc}@<>]+@[^\s\p{Cc}@<>]+\.[^\s\p{Cc}@<>]+)$/u,
      "an address of the form alerts@example.com or Name <alerts@example.com>",
    ),
    baseUrl: baseUrl === undefined ? undefined : new URL(baseUrl).origin,
  };
}
