import { describe, expect, it, vi } from "vitest";
import type { HealthFacts } from "../../shared/contract/health-facts.ts";
import type { Caller } from "../../supabase/functions/_shared/auth.ts";
import { DatabaseError } from "../../supabase/functions/_shared/database.ts";
import { endpoint } from "../../supabase/functions/_shared/endpoint.ts";
import { ConfigurationError } from "../../supabase/functions/_shared/env.ts";
import {
  answerHealth,
  HealthRequest,
  READ_TIMEOUT_SECONDS,
  shareHealth,
} from "../../supabase/functions/health/handler.ts";
import { admit, afterNoon, Clock, NOON, request, sampleFacts, sampleWorld } from "../fixtures.ts";

const DOWN = new DatabaseError("read_health", "unreachable", "", "no connection to 10.0.0.1");

/** The function as index.ts wires it, over facts that are given. */
function build(
  { caller = { kind: "public" }, read = () => Promise.resolve(sampleFacts()) }: {
    caller?: Caller;
    read?: () => Promise<HealthFacts>;
  } = {},
) {
  const clock = new Clock();
  const { world } = sampleWorld(clock);
  const reading = vi.fn((_timeoutSeconds: number) => read());
  const observe = shareHealth(reading, clock.now);
  const fetch = endpoint(
    { name: "health", methods: ["GET", "HEAD"], authorize: admit(caller), input: HealthRequest },
    (query, call) => answerHealth(query, call, { now: clock.now, observe }),
    world,
  );
  const get = async (path = "/", headers: Record<string, string> = {}) => {
    const response = await fetch(request("GET", { path, headers }));
    return { status: response.status, headers: response.headers, body: await response.json() };
  };
  return { fetch, get, reading, clock };
}

describe("health", () => {
  it("says status and age to anybody", async () => {
    const { get } = build();
    const { status, headers, body } = await get();
    expect([status, body]).toEqual([200, { status: "healthy", age_seconds: 0 }]);
    expect(headers.get("cache-control")).toBe("no-store");
    expect(headers.get("vary")).toBe("Accept, Origin");
  });

  it.each<[string, Partial<HealthFacts>, number, string]>([
    ["healthy", {}, 200, "healthy"],
    ["degraded", { jobsEnabled: false }, 200, "degraded"],
    ["unknown", { jobs: [] }, 503, "unknown"],
    ["unhealthy", { scheduler: null }, 503, "unhealthy"],
  ])("answers %s with its status code", async (_name, changes, status, word) => {
    const { get } = build({ read: () => Promise.resolve(sampleFacts(changes)) });
    expect(await get()).toMatchObject({ status, body: { status: word } });
  });

  it("tells nobody why, and those with a key everything", async () => {
    const read = () => Promise.reject(DOWN);
    const open = await build({ read }).get();
    expect([open.status, open.body]).toEqual([503, { status: "unhealthy", age_seconds: 0 }]);

    for (const caller of [{ kind: "key", name: "cron" }, { kind: "admin" }] as const) {
      const { status, body } = await build({ read, caller }).get();
      expect(status).toBe(503);
      expect(body).toMatchObject({
        timestamp: NOON.toISOString(),
        overall: "unhealthy",
        duration: 0,
      });
      expect(body.components.database.reason).toContain("10.0.0.1");
    }
  });

  it("speaks the draft's language when asked to", async () => {
    const accept = { accept: "application/health+json" };
    const open = await build().get("/", accept);
    expect(open.headers.get("content-type")).toBe("application/health+json");
    expect(open.body).toEqual({ status: "pass", notes: ["as of 0 s ago"] });

    const known = await build({ caller: { kind: "admin" } }).get("/", accept);
    expect(Object.keys(known.body.checks)).toContain("collect-metrics:age");
  });

  it("answers HEAD with the same status", async () => {
    for (const changes of [{}, { scheduler: null }]) {
      const { fetch, get } = build({ read: () => Promise.resolve(sampleFacts(changes)) });
      const head = await fetch(request("HEAD"));
      expect([head.status, await head.text()]).toEqual([(await get()).status, ""]);
    }
  });

  it.each(["POST", "PUT", "DELETE"])("refuses %s", async (method) => {
    const response = await build().fetch(request(method));
    expect([response.status, response.headers.get("allow")]).toEqual([405, "GET, HEAD, OPTIONS"]);
  });

  describe("?check", () => {
    it("=live looks at nothing, and is well as long as it runs", async () => {
      const { get, reading } = build({ read: () => Promise.reject(DOWN) });
      expect(await get("/?check=live")).toMatchObject({
        status: 200,
        body: { status: "healthy", age_seconds: 0 },
      });
      expect(reading).not.toHaveBeenCalled();
    });

    it("=ready says whether the database answers, and nothing of the rest", async () => {
      const stale = { read: () => Promise.resolve(sampleFacts({ jobs: [], jobsEnabled: false })) };
      expect(await build(stale).get("/?check=ready")).toMatchObject({
        status: 200,
        body: { status: "healthy" },
      });

      const { get, reading } = build({ read: () => Promise.reject(DOWN) });
      expect(await get("/?check=ready")).toMatchObject({
        status: 503,
        body: { status: "unhealthy", age_seconds: 0 },
      });
      expect(reading).toHaveBeenCalledExactlyOnceWith(READ_TIMEOUT_SECONDS);
    });

    it("=ready is ready when the database is slow", async () => {
      const { get, clock } = build({
        read: () => {
          clock.advance(1.9);
          return Promise.resolve(sampleFacts());
        },
      });
      expect(await get("/?check=ready")).toMatchObject({
        status: 200,
        body: { status: "healthy" },
      });
      expect(await get()).toMatchObject({ status: 200, body: { status: "degraded" } });
    });

    it.each(["/?check=", "/?check=alive", "/?check=LIVE", "/?check=live&check=live"])(
      "is refused in %s",
      async (path) => {
        const { status, body } = await build().get(path);
        expect(status).toBe(422);
        expect(body).toMatchObject({
          type: "urn:pgvigil:problem:query",
          errors: [{ pointer: "#/check" }],
        });
      },
    );

    it("does not mind other parameters: pingers add them against caches", async () => {
      expect((await build().get("/?_=123")).status).toBe(200);
    });
  });

  describe("under load", () => {
    it("asks once for a thousand pings of all kinds at the same time", async () => {
      const { get, reading } = build();
      const paths = ["/", "/?check=ready", "/?check=live", "/?_=1"];
      const answers = await Promise.all(Array.from({ length: 1000 }, (_, n) => get(paths[n % 4])));
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
      expect(reading).toHaveBeenCalledOnce();
    });

    it("asks a dead database once, too", async () => {
      const { get, reading } = build({ read: () => Promise.reject(DOWN) });
      for (let n = 0; n < 1000; n++) {
        expect((await get(n % 2 ? "/" : "/?check=ready")).status).toBe(503);
      }
      expect(reading).toHaveBeenCalledOnce();
    });

    it("asks again after five seconds, and tells how old the answer is until then", async () => {
      const { get, reading, clock } = build();
      await get();
      clock.advance(4.999);
      expect((await get()).body).toEqual({ status: "healthy", age_seconds: 4.999 });
      expect(reading).toHaveBeenCalledTimes(1);
      clock.advance(0.001);
      expect((await get()).body).toMatchObject({ age_seconds: 0 });
      expect(reading).toHaveBeenCalledTimes(2);
    });

    it("lets what grows stale grow stale while it is kept", async () => {
      const { get, clock } = build({
        read: () =>
          Promise.resolve(
            sampleFacts({ metrics: { ...sampleFacts().metrics, newestSampleAt: afterNoon(-178) } }),
          ),
      });
      expect((await get()).status).toBe(200);
      clock.advance(3);
      expect((await get()).status).toBe(503);
    });
  });

  it("is a 500 without its configuration, and recovers with it", async () => {
    let isConfigured = false;
    const { get } = build({
      read: () =>
        isConfigured
          ? Promise.resolve(sampleFacts())
          : Promise.reject(new ConfigurationError("Cannot use SUPABASE_URL: it is not set")),
    });
    const { status, body } = await get();
    expect([status, body.type]).toEqual([500, "urn:pgvigil:problem:configuration"]);
    expect(JSON.stringify(body)).not.toContain("SUPABASE");
    isConfigured = true;
    expect((await get()).status).toBe(200);
  });
});
