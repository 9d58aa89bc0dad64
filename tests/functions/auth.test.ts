import { createHash } from "node:crypto";
import { describe, expect, it, vi } from "vitest";
import type { AccessToken, Scope } from "../../shared/contract/access-token.ts";
import {
  type AuthWorld,
  keyOrAdmin,
  recognizeAnybody,
  tokenOrKey,
} from "../../supabase/functions/_shared/auth.ts";
import { type Database, DatabaseError } from "../../supabase/functions/_shared/database.ts";
import { ConfigurationError } from "../../supabase/functions/_shared/env.ts";
import { Problem } from "../../supabase/functions/_shared/problem.ts";
import {
  afterNoon,
  Clock,
  KEYS,
  NOON,
  request,
  sampleAccessToken,
  sampleEnvironment,
  sampleToken,
} from "../fixtures.ts";

const ADMIN = sampleToken();
const USER = sampleToken({ exp: afterNoon(3600).getTime() / 1000, sub: "user" });
const FORGED = sampleToken({ exp: afterNoon(3600).getTime() / 1000, sub: "forged" });

/** A REST API that knows an admin and a user, and takes no other token. */
function sampleAuth(changes: Partial<AuthWorld> = {}) {
  const answers: Record<string, unknown> = {
    [ADMIN]: true,
    [USER]: false,
    [FORGED]: new DatabaseError("is_admin", "unauthenticated", "PGRST301", "invalid"),
  };
  const openAs = vi.fn((token: string): Database => ({
    call: (rpc, args, parse) => {
      expect([rpc, args]).toEqual(["is_admin", {}]);
      const answer = answers[token];
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(parse(answer));
    },
  }));
  const world: AuthWorld = { environment: sampleEnvironment, openAs, now: () => NOON, ...changes };
  return { world, openAs };
}

const headers = (
  { apikey, bearer, authorization }: { apikey?: string; bearer?: string; authorization?: string },
) => ({
  ...(apikey !== undefined && { apikey }),
  ...(bearer !== undefined && { authorization: `Bearer ${bearer}` }),
  ...(authorization !== undefined && { authorization }),
});

const outcome = async (judging: Promise<unknown>) => {
  try {
    return await judging;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return error.status;
  }
};

const admin = { kind: "admin" };
const nobody = { kind: "public" };
const key = (name: string) => ({ kind: "key", name });

/** Credentials, who that is for a job, and who that is for what anybody may ask. */
const MATRIX: [string, Parameters<typeof headers>[0], unknown, unknown][] = [
  ["no credentials", {}, 401, nobody],
  ["the default key", { apikey: KEYS.default }, key("default"), key("default")],
  ["the cron key", { apikey: KEYS.cron }, key("cron"), key("cron")],
  ["the next cron key", { apikey: KEYS.cron_next }, key("cron_next"), key("cron_next")],
  ["a secret key of another name", { apikey: KEYS.reports }, 403, 403],
  ["the publishable key", { apikey: KEYS.publishable }, 401, nobody],
  ["a wrong secret key", { apikey: "sb_secret_wrong" }, 401, 401],
  ["the beginning of a key", { apikey: KEYS.cron.slice(0, -1) }, 401, 401],
  ["a wrong publishable key", { apikey: "sb_publishable_wrong" }, 401, 401],
  ["an empty key", { apikey: "" }, 401, 401],
  ["the name of a key", { apikey: "cron" }, 401, 401],
  ["a legacy key", { apikey: sampleToken({ role: "service_role" }) }, 401, 401],
  ["a secret key as a token only", { bearer: KEYS.cron }, 401, 401],
  ["the publishable key as a token only", { bearer: KEYS.publishable }, 401, 401],
  [
    "a key in both headers, as supabase-js does",
    { apikey: KEYS.cron, bearer: KEYS.cron },
    key("cron"),
    key("cron"),
  ],
  [
    "the publishable key in both",
    { apikey: KEYS.publishable, bearer: KEYS.publishable },
    401,
    nobody,
  ],
  ["two different keys", { apikey: KEYS.publishable, bearer: KEYS.cron }, 401, 401],
  ["an admin", { bearer: ADMIN }, admin, admin],
  ["an admin with the publishable key", { apikey: KEYS.publishable, bearer: ADMIN }, admin, admin],
  ["an admin, scheme in lower case", { authorization: `bearer ${ADMIN}` }, admin, admin],
  [
    "an admin with a secret key",
    { apikey: KEYS.default, bearer: ADMIN },
    key("default"),
    key("default"),
  ],
  ["an admin with a wrong key", { apikey: "sb_secret_wrong", bearer: ADMIN }, 401, 401],
  ["a user who is no admin", { bearer: USER }, 403, nobody],
  [
    "a user who is no admin, with a secret key",
    { apikey: KEYS.default, bearer: USER },
    403,
    key("default"),
  ],
  ["a token nobody signed", { bearer: FORGED }, 401, nobody],
  [
    "a token nobody signed, with a secret key",
    { apikey: KEYS.cron, bearer: FORGED },
    401,
    key("cron"),
  ],
  [
    "a token nobody signed, with the publishable key",
    { apikey: KEYS.publishable, bearer: FORGED },
    401,
    nobody,
  ],
  ["an expired token", { bearer: sampleToken({ exp: NOON.getTime() / 1000 }) }, 401, nobody],
  ["a token that never expires", { bearer: sampleToken({ sub: "x" }) }, 401, nobody],
  ["no token at all", { bearer: "abc" }, 401, nobody],
  ["three words with dots", { bearer: "a.b.c" }, 401, nobody],
  ["an empty Authorization", { authorization: "" }, 401, nobody],
  ["a scheme without a token", { authorization: "Bearer" }, 401, nobody],
  ["two tokens", { authorization: `Bearer ${ADMIN} ${ADMIN}` }, 401, nobody],
  ["a token without a scheme", { authorization: ADMIN }, 401, nobody],
  ["a password", { authorization: "Basic YTpi" }, 401, nobody],
];

describe("keyOrAdmin()", () => {
  it.each(MATRIX)("%s", async (_name, credentials, expected) => {
    const { world } = sampleAuth();
    const judging = keyOrAdmin(request("POST", { headers: headers(credentials) }), world);
    expect(await outcome(judging)).toEqual(expected);
  });

  it("says how to authenticate with each 401, and repeats no credential", async () => {
    for (const [, credentials, expected] of MATRIX) {
      if (expected !== 401) continue;
      const { world } = sampleAuth();
      const error = await keyOrAdmin(request("POST", { headers: headers(credentials) }), world)
        .catch((error: Problem) => error) as Problem;
      expect(error.headers["www-authenticate"]).toMatch(/^Bearer /);
      expect(error.message).not.toBe("");
      for (const value of Object.values(credentials).filter((value) => value.length > 6)) {
        expect(error.message).not.toContain(value);
      }
    }
  });
});

describe("recognizeAnybody()", () => {
  it.each(MATRIX)("%s", async (_name, credentials, _job, expected) => {
    const { world } = sampleAuth();
    const judging = recognizeAnybody(world)(request("GET", { headers: headers(credentials) }));
    expect(await outcome(judging)).toEqual(expected);
  });

  it("needs no environment for those who show no credentials", async () => {
    const environment = vi.fn(sampleEnvironment);
    const { world } = sampleAuth({ environment });
    await recognizeAnybody(world)(request("GET"));
    expect(environment).not.toHaveBeenCalled();
  });

  it("fails closed without an environment", async () => {
    const environment = () => {
      throw new ConfigurationError("Cannot use SUPABASE_SECRET_KEYS: it is not set");
    };
    const { world } = sampleAuth({ environment });
    const judging = recognizeAnybody(world)(request("GET", { headers: { apikey: KEYS.cron } }));
    await expect(judging).rejects.toThrow(ConfigurationError);
  });
});

describe("recognizeAnybody(), pinged with a token", () => {
  const ping = (recognize: ReturnType<typeof recognizeAnybody>, bearer: string) =>
    recognize(request("GET", { headers: headers({ bearer }) }));

  it.each([["an admin", ADMIN, admin], ["a user", USER, nobody], ["forged", FORGED, nobody]])(
    "asks once for a thousand of %s",
    async (_name, bearer, expected) => {
      const { world, openAs } = sampleAuth();
      const recognize = recognizeAnybody(world);
      const callers = await Promise.all(
        Array.from({ length: 1000 }, () => ping(recognize, bearer)),
      );
      expect(await ping(recognize, bearer)).toEqual(expected);
      expect(callers.every(({ kind }) => kind === expected.kind)).toBe(true);
      expect(openAs).toHaveBeenCalledOnce();
    },
  );

  it("takes each token by itself, and asks again after five seconds", async () => {
    const clock = new Clock();
    const { world, openAs } = sampleAuth({ now: clock.now });
    const recognize = recognizeAnybody(world);
    const bearer = sampleToken();
    await ping(recognize, bearer);
    expect(await ping(recognize, USER)).toEqual(nobody);
    clock.advance(5);
    expect(await ping(recognize, bearer)).toEqual(admin);
    expect(openAs).toHaveBeenCalledTimes(3);
  });

  it("is anybody while the database does not answer", async () => {
    const error = new DatabaseError("is_admin", "unreachable", "", "");
    const { world } = sampleAuth({ openAs: () => ({ call: () => Promise.reject(error) }) });
    expect(await ping(recognizeAnybody(world), ADMIN)).toEqual(nobody);
  });
});

describe("a user's token", () => {
  it.each([
    ["no JWT", "abc"],
    ["expired", sampleToken({ exp: NOON.getTime() / 1000 })],
  ])("costs the database nothing when it is %s", async (_name, bearer) => {
    const { world, openAs } = sampleAuth();
    await outcome(keyOrAdmin(request("POST", { headers: headers({ bearer }) }), world));
    expect(openAs).not.toHaveBeenCalled();
  });

  it("is judged by the database as long as it lasts", async () => {
    const bearer = sampleToken({ exp: NOON.getTime() / 1000 + 1 });
    const { world, openAs } = sampleAuth();
    await outcome(
      keyOrAdmin(request("POST", { headers: headers({ bearer }) }), world).catch(() => 0),
    );
    expect(openAs).toHaveBeenCalledOnce();
  });

  it.each(
    [
      ["denied", 403],
      ["unauthenticated", 401],
    ] as const,
  )("is refused when the database says %s", async (kind, status) => {
    const openAs = () => ({
      call: () => Promise.reject(new DatabaseError("is_admin", kind, "", "")),
    });
    const { world } = sampleAuth({ openAs });
    const judging = keyOrAdmin(request("POST", { headers: headers({ bearer: ADMIN }) }), world);
    expect(await outcome(judging)).toBe(status);
  });

  it.each(["unreachable", "timed_out", "malformed", "missing"] as const)(
    "lets nobody in while the database is %s",
    async (kind) => {
      const error = new DatabaseError("is_admin", kind, "", "");
      const { world } = sampleAuth({ openAs: () => ({ call: () => Promise.reject(error) }) });
      const judging = keyOrAdmin(request("POST", { headers: headers({ bearer: ADMIN }) }), world);
      await expect(judging).rejects.toBe(error);
    },
  );
});

describe("keys", () => {
  it("may be rotated: either of the two is taken, with or without the other", async () => {
    const { cron: _cron, ...rest } = sampleEnvironment().secretKeys;
    const environment = () => sampleEnvironment({ secretKeys: rest });
    const { world } = sampleAuth({ environment });
    const judge = (apikey: string) =>
      outcome(keyOrAdmin(request("POST", { headers: { apikey } }), world));
    expect(await judge(KEYS.cron_next)).toEqual(key("cron_next"));
    expect(await judge(KEYS.cron)).toBe(401);
  });

  it("go by the better of two names", async () => {
    const secretKeys = { default: KEYS.default, another: KEYS.cron, cron: KEYS.cron };
    const { world } = sampleAuth({ environment: () => sampleEnvironment({ secretKeys }) });
    const judging = keyOrAdmin(request("POST", { headers: { apikey: KEYS.cron } }), world);
    expect(await outcome(judging)).toEqual(key("cron"));
  });
});

describe("tokenOrKey()", () => {
  const [INGEST, READ, BOTH, UNKNOWN] = [1, 2, 3, 4].map(sampleAccessToken) as [
    string,
    string,
    string,
    string,
  ];
  const scopes: Record<string, Scope[]> = {
    [INGEST]: ["ingest"],
    [READ]: ["read"],
    [BOTH]: ["ingest", "read"],
  };
  const hashOf = (token: string) => createHash("sha256").update(token).digest("hex");
  const rows: Record<string, AccessToken> = Object.fromEntries(
    Object.entries(scopes).map(([token, scopes]) => [
      hashOf(token),
      { name: scopes.join(), scopes, expiresAt: null },
    ]),
  );

  function build(answer?: Error) {
    const checkToken = vi.fn((hash: string) =>
      answer === undefined ? Promise.resolve(rows[hash] ?? null) : Promise.reject(answer)
    );
    const judge = tokenOrKey("ingest", {
      environment: sampleEnvironment,
      checkToken,
      now: () => NOON,
    });
    return {
      checkToken,
      judge: (credentials: Parameters<typeof headers>[0]) =>
        judge(request("POST", { headers: headers(credentials) })),
    };
  }
  const holder = (name: string) => ({ kind: "token", name });
  const basic = (text: string) => `Basic ${btoa(text)}`;

  it.each<[string, Parameters<typeof headers>[0], RegExp]>([
    ["a token without a scheme", { authorization: INGEST }, /must be: Bearer, a space/],
    ["the publishable key", { apikey: KEYS.publishable }, /^A publishable key does not do here/],
    ["no credentials", {}, /^Send an access token with the scope ingest/],
  ])("tells the way out of %s", async (_name, credentials, words) => {
    await expect(build().judge(credentials)).rejects.toThrow(words);
  });

  const CASES: [string, Parameters<typeof headers>[0], unknown][] = [
    ["no credentials", {}, 401],
    ["a token", { bearer: INGEST }, holder("ingest")],
    ["a token, scheme in lower case", { authorization: `bearer ${INGEST}` }, holder("ingest")],
    ["a token in apikey", { apikey: INGEST }, holder("ingest")],
    ["a token in both", { apikey: INGEST, bearer: INGEST }, holder("ingest")],
    ["a token of both scopes", { bearer: BOTH }, holder("ingest,read")],
    ["a token of another scope", { bearer: READ }, 403],
    ["a token of another scope in apikey", { apikey: READ }, 403],
    ["an unknown token", { bearer: UNKNOWN }, 401],
    ["an unknown token in apikey", { apikey: UNKNOWN }, 401],
    ["half a token", { bearer: INGEST.slice(0, 20) }, 401],
    ["a token without a scheme", { authorization: INGEST }, 401],
    ["the default key", { apikey: KEYS.default }, key("default")],
    ["the cron key", { apikey: KEYS.cron }, key("cron")],
    ["a secret key as Bearer", { bearer: KEYS.cron_next }, key("cron_next")],
    ["a secret key in both", { apikey: KEYS.default, bearer: KEYS.default }, key("default")],
    ["a secret key of another name", { apikey: KEYS.reports }, 403],
    ["a secret key of another name as Bearer", { bearer: KEYS.reports }, 403],
    ["a wrong secret key", { bearer: "sb_secret_wrong" }, 401],
    ["the publishable key", { apikey: KEYS.publishable }, 401],
    ["the publishable key as Bearer", { bearer: KEYS.publishable }, 401],
    ["the publishable key in both", { apikey: KEYS.publishable, bearer: KEYS.publishable }, 401],
    [
      "a token beside the publishable key",
      { apikey: KEYS.publishable, bearer: INGEST },
      holder("ingest"),
    ],
    [
      "a secret key beside the publishable key",
      { apikey: KEYS.publishable, bearer: KEYS.cron },
      key("cron"),
    ],
    ["a token beside a wrong key", { apikey: "sb_secret_wrong", bearer: INGEST }, 401],
    ["a key beside an unknown token", { apikey: KEYS.default, bearer: UNKNOWN }, 401],
    ["a key beside a token of another scope", { apikey: KEYS.default, bearer: READ }, 403],
    ["an empty key", { apikey: "" }, 401],
    ["an empty Authorization", { authorization: "" }, 401],
    ["a token as password", { authorization: basic(`grafana:${INGEST}`) }, holder("ingest")],
    ["a token as password of nobody", { authorization: basic(`:${INGEST}`) }, holder("ingest")],
    [
      "a token as password, scheme in lower case",
      { authorization: basic(`:${INGEST}`).replace("Basic", "basic") },
      holder("ingest"),
    ],
    ["a secret key as password", { authorization: basic(`a:${KEYS.cron}`) }, key("cron")],
    ["a token of another scope as password", { authorization: basic(`a:${READ}`) }, 403],
    ["an unknown token as password", { authorization: basic(`a:${UNKNOWN}`) }, 401],
    ["a publishable key as password", { authorization: basic(`a:${KEYS.publishable}`) }, 401],
    ["a token as user", { authorization: basic(`${INGEST}:`) }, 401],
    ["a token without a colon", { authorization: basic(INGEST) }, 401],
    ["a password that is not base64", { authorization: "Basic %" }, 401],
    ["another password", { authorization: "Basic YTpi", apikey: INGEST }, 401],
    ["an admin", { bearer: ADMIN }, 401],
    ["a legacy key", { apikey: sampleToken({ role: "service_role" }) }, 401],
  ];

  it.each(CASES)("%s", async (_name, credentials, expected) => {
    expect(await outcome(build().judge(credentials))).toEqual(expected);
  });

  it("says what to do with each 401, and repeats no credential", async () => {
    for (const [, credentials, expected] of CASES) {
      if (expected !== 401) continue;
      const error = await build().judge(credentials).catch((error: Problem) => error) as Problem;
      expect(error.headers["www-authenticate"]).toMatch(/^Bearer /);
      expect(error.message).not.toBe("");
      for (const value of Object.values(credentials).filter((value) => value.length > 6)) {
        expect(error.message).not.toContain(value);
      }
    }
  });

  it("lets a browser ask for a password", async () => {
    await expect(build().judge({})).rejects.toMatchObject({
      headers: { "www-authenticate": 'Bearer realm="pgvigil", Basic realm="pgvigil"' },
    });
  });

  it("says how to make a token that may, to one that may not", async () => {
    await expect(build().judge({ bearer: READ })).rejects.toThrow(
      "has not the scope ingest. Make one that has: " +
        "select monitor.create_access_token('<name>', '{ingest}');",
    );
  });

  it("asks for a token once, and for a key never", async () => {
    const { judge, checkToken } = build();
    for (let n = 0; n < 10; n += 1) await judge({ bearer: INGEST });
    expect(checkToken).toHaveBeenCalledOnce();
    await judge({ apikey: KEYS.cron });
    expect(checkToken).toHaveBeenCalledOnce();
  });

  it.each(["unreachable", "timed_out", "malformed", "missing"] as const)(
    "lets nobody in, and says nothing of the token, while the database is %s",
    async (kind) => {
      const error = new DatabaseError("check_access_token", kind, "", "");
      await expect(build(error).judge({ bearer: INGEST })).rejects.toBe(error);
    },
  );
});
