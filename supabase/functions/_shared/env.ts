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
