import { describe, expect, it } from "vitest";
import { ConfigurationError, parseEnvironment } from "../../supabase/functions/_shared/env.ts";
import { KEYS, sampleEnvironment, sampleVariables } from "../fixtures.ts";

const parse = (changes: Record<string, string | undefined> = {}) =>
  parseEnvironment((name) => ({ ...sampleVariables(), ...changes })[name]);

describe("parseEnvironment()", () => {
  it("reads address, keys and origins", () => {
    expect(parse()).toEqual(sampleEnvironment());
    expect(parse({ SUPABASE_URL: "https://abc.supabase.co/" }).url).toBe("https://abc.supabase.co");
    expect(
      parse({ PGVIGIL_ALLOWED_ORIGINS: " https://a.test ,http://localhost:5173," }).allowedOrigins,
    )
      .toEqual(["https://a.test", "http://localhost:5173"]);
  });

  it.each([[undefined], [""], [" "], [","]])("knows no origin by default (%j)", (value) => {
    expect(parse({ PGVIGIL_ALLOWED_ORIGINS: value }).allowedOrigins).toEqual([]);
  });

  const only = (keys: object) => JSON.stringify(keys);
  it.each([
    ["SUPABASE_URL", undefined],
    ["SUPABASE_URL", ""],
    ["SUPABASE_URL", "abc.supabase.co"],
    ["SUPABASE_URL", "ftp://abc.supabase.co"],
    ["SUPABASE_URL", "https://abc.supabase.co/rest/v1"],
    ["SUPABASE_URL", "https://user:password@abc.supabase.co"],
    ["SUPABASE_SECRET_KEYS", undefined],
    ["SUPABASE_SECRET_KEYS", " "],
    ["SUPABASE_SECRET_KEYS", "{"],
    ["SUPABASE_SECRET_KEYS", KEYS.default],
    ["SUPABASE_SECRET_KEYS", "null"],
    ["SUPABASE_SECRET_KEYS", only([KEYS.default])],
    ["SUPABASE_SECRET_KEYS", only({})],
    ["SUPABASE_SECRET_KEYS", only({ cron: KEYS.cron })],
    ["SUPABASE_SECRET_KEYS", only({ default: "" })],
    ["SUPABASE_SECRET_KEYS", only({ default: 1 })],
    ["SUPABASE_SECRET_KEYS", only({ default: "sb_secret_" })],
    ["SUPABASE_SECRET_KEYS", only({ default: "sb_secret_a b" })],
    ["SUPABASE_SECRET_KEYS", only({ default: KEYS.publishable })],
    ["SUPABASE_SECRET_KEYS", only({ default: KEYS.default, cron: "eyJhbGciOi.eyJyb2xl.c2ln" })],
    ["SUPABASE_SECRET_KEYS", only({ default: KEYS.default, cron_next: KEYS.publishable })],
    ["SUPABASE_PUBLISHABLE_KEYS", undefined],
    ["SUPABASE_PUBLISHABLE_KEYS", only({ default: KEYS.default })],
    ["SUPABASE_PUBLISHABLE_KEYS", only({ web: KEYS.publishable })],
    ["PGVIGIL_ALLOWED_ORIGINS", "*"],
    ["PGVIGIL_ALLOWED_ORIGINS", "admin.test"],
    ["PGVIGIL_ALLOWED_ORIGINS", "https://admin.test/"],
    ["PGVIGIL_ALLOWED_ORIGINS", "null"],
  ])("refuses %s=%s, naming the variable and not its value", (name, value) => {
    let message = "";
    try {
      parse({ [name]: value });
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigurationError);
      message = (error as Error).message;
    }
    expect(message).toContain(name);
    for (const key of Object.values(KEYS)) expect(message).not.toContain(key);
    expect(message).not.toMatch(/password|eyJ/);
  });

  it("does not mind other keys, whatever they look like", () => {
    const keys = only({ default: KEYS.default, "old one": "eyJhbGciOi.eyJyb2xl.c2ln" });
    expect(parse({ SUPABASE_SECRET_KEYS: keys }).secretKeys.default).toBe(KEYS.default);
  });
});
