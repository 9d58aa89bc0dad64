import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { z } from "zod";
import { DatabaseError } from "../../supabase/functions/_shared/database.ts";
import {
  type Call,
  endpoint,
  type EndpointWorld,
  subPath,
} from "../../supabase/functions/_shared/endpoint.ts";
import { ConfigurationError } from "../../supabase/functions/_shared/env.ts";
import { BODY_BYTES_LIMIT } from "../../supabase/functions/_shared/input.ts";
import { Problem } from "../../supabase/functions/_shared/problem.ts";
import { admit, KEYS, OTHER_RUN_ID, request, RUN_ID, sampleWorld } from "../fixtures.ts";

const Body = z.strictObject({ dry_run: z.boolean().optional(), list: z.array(z.int()).optional() });

function build(
  { methods = ["POST"], authorize = admit(), handle, world = {} }: {
    methods?: ("GET" | "HEAD" | "POST")[];
    authorize?: () => Promise<Call["caller"]>;
    handle?: (input: z.infer<typeof Body>, call: Call) => Promise<Response>;
    world?: Partial<EndpointWorld>;
  } = {},
) {
  const { world: sample, lines } = sampleWorld();
  const handler = vi.fn(handle ?? ((input) => Promise.resolve(Response.json({ input }))));
  const fetch = endpoint({ name: "test", methods, authorize, input: Body }, handler, {
    ...sample,
    ...world,
  });
  return { fetch, handler, lines };
}

const slugOf = async (response: Response) =>
  (await response.json()).type.replace("urn:pgvigil:problem:", "");

describe("endpoint()", () => {
  it("hands over what came in and answers what comes back", async () => {
    const { fetch, handler } = build();
    const response = await fetch(request("POST", { body: '{"dry_run":true}' }));
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({ input: { dry_run: true } });
    expect(response.headers.get("x-run-id")).toBe(RUN_ID);
    expect(response.headers.get("cache-control")).toBe("no-store");
    expect(handler.mock.calls[0]![1]).toMatchObject({
      caller: { kind: "key", name: "cron" },
      runId: RUN_ID,
      isRunIdGiven: false,
    });
  });

  describe("address", () => {
    const { world } = sampleWorld();
    const authorize = vi.fn(admit());
    const fetch = endpoint(
      { name: "test", methods: ["POST"], authorize, input: Body, paths: ["", "/v1/a"] },
      (_input, { request }) => Promise.resolve(Response.json(subPath(request, "test"))),
      world,
    );

    it.each([
      ["/test", ""],
      ["/test/", ""],
      ["/", ""],
      ["/test/v1/a", "/v1/a"],
      ["/test/v1/a/", "/v1/a"],
      ["/v1/a", "/v1/a"],
    ])("%s is %j below the function", async (path, expected) => {
      const response = await fetch(request("POST", { path }));
      expect([response.status, await response.json()]).toEqual([200, expected]);
    });

    it.each(["/test/v1", "/test/v1/a/b", "/test/V1/a", "/tests", "/test/test", "/x/test/v1/a"])(
      "refuses %s with 404, whoever asks and however",
      async (path) => {
        authorize.mockClear();
        for (const method of ["POST", "GET"]) {
          const response = await fetch(request(method, { path }));
          expect([response.status, await slugOf(response)]).toEqual([404, "path"]);
        }
        expect(authorize).not.toHaveBeenCalled();
      },
    );

    it("of 32 KiB of slashes is refused with 404", async () => {
      const response = await fetch(request("POST", { path: `/test${"/".repeat(32_768)}x` }));
      expect([response.status, await slugOf(response)]).toEqual([404, "path"]);
    });

    it("is found in one pass: one that looks again from every slash does not come back", () => {
      const slashes = "/".repeat(2 ** 18);
      expect(subPath(request("POST", { path: `/test${slashes}x` }), "test")).toBe(`${slashes}x`);
      expect(subPath(request("POST", { path: `/test/a${slashes}` }), "test")).toBe("/a");
    });

    it("does not matter to a function that names none", async () => {
      expect((await build().fetch(request("POST", { path: "/test/whatever" }))).status).toBe(200);
    });
  });

  describe("method", () => {
    it.each(["GET", "HEAD", "PUT", "PATCH", "DELETE", "post", "FOO"])(
      "refuses %s with 405",
      async (method) => {
        const { fetch, handler } = build();
        const response = await fetch(
          method === "post" ? request("PROPFIND") : request(method),
        );
        expect(response.status).toBe(405);
        expect(response.headers.get("allow")).toBe("POST, OPTIONS");
        expect(handler).not.toHaveBeenCalled();
      },
    );

    it("is checked before the caller, so that no key is asked for in vain", async () => {
      const authorize = vi.fn(admit());
      await build({ authorize }).fetch(request("GET"));
      expect(authorize).not.toHaveBeenCalled();
    });

    it("answers HEAD as GET, without the body", async () => {
      const { fetch } = build({ methods: ["GET", "HEAD"] });
      const [get, head] = [await fetch(request("GET")), await fetch(request("HEAD"))];
      expect(head.status).toBe(get.status);
      expect(head.headers.get("content-type")).toBe(get.headers.get("content-type"));
      expect(await head.text()).toBe("");
    });
  });

  describe("cross-origin", () => {
    const preflight = (origin?: string) =>
      request("OPTIONS", {
        headers: {
          ...(origin !== undefined && { origin }),
          "access-control-request-method": "POST",
          "access-control-request-headers": "apikey",
        },
      });
    const corsOf = (response: Response) =>
      Object.fromEntries(
        [...response.headers].filter(([name]) => name.startsWith("access-control-")),
      );

    it("answers the preflight of an allowed origin, without asking who it is", async () => {
      const authorize = vi.fn(admit());
      const response = await build({ authorize }).fetch(preflight("https://admin.test"));
      expect(response.status).toBe(204);
      expect(corsOf(response)).toEqual({
        "access-control-allow-origin": "https://admin.test",
        "access-control-allow-methods": "POST, OPTIONS",
        "access-control-allow-headers":
          "apikey, authorization, content-encoding, content-type, x-client-info, x-run-id",
        "access-control-expose-headers": "x-run-id",
        "access-control-max-age": "600",
      });
      expect(response.headers.get("vary")).toContain("Origin");
      expect(authorize).not.toHaveBeenCalled();
    });

    it.each([
      "https://evil.test",
      "https://admin.test.evil.test",
      "http://admin.test",
      "null",
      undefined,
    ])(
      "gives %s no leave",
      async (origin) => {
        const { fetch } = build();
        const response = await fetch(preflight(origin));
        expect(corsOf(response)).toEqual({});
        expect(response.headers.get("allow")).toBe("POST, OPTIONS");
        const headers = origin === undefined ? {} : { origin };
        expect(corsOf(await fetch(request("POST", { headers })))).toEqual({});
      },
    );

    it("lets the allowed page read problems, too", async () => {
      const { fetch } = build({ authorize: () => Promise.reject(new Problem("unauthenticated")) });
      const response = await fetch(request("POST", { headers: { origin: "https://admin.test" } }));
      expect(response.status).toBe(401);
      expect(corsOf(response)).toMatchObject({
        "access-control-allow-origin": "https://admin.test",
      });
    });

    it("is not looked at without an origin: nothing is read from the environment", async () => {
      const allowedOrigins = vi.fn(() => []);
      await build({ world: { allowedOrigins } }).fetch(request("POST"));
      expect(allowedOrigins).not.toHaveBeenCalled();
    });
  });

  describe("run id", () => {
    it("is the caller's, in lower case", async () => {
      const { fetch, handler } = build();
      const id = OTHER_RUN_ID.replace("2222", "AbCd");
      const response = await fetch(request("POST", { headers: { "x-run-id": id } }));
      expect(response.headers.get("x-run-id")).toBe(id.toLowerCase());
      expect(handler.mock.calls[0]![1]).toMatchObject({
        runId: id.toLowerCase(),
        isRunIdGiven: true,
      });
    });

    it.each(["", "x", `${OTHER_RUN_ID}0`, `{${OTHER_RUN_ID}}`, "22222222222242228222222222222222"])(
      "is refused when it is %j",
      async (id) => {
        const { fetch, handler } = build();
        const response = await fetch(request("POST", { headers: { "x-run-id": id } }));
        expect([response.status, await slugOf(response)]).toEqual([400, "run-id"]);
        expect(response.headers.get("x-run-id")).toBe(RUN_ID);
        expect(handler).not.toHaveBeenCalled();
      },
    );

    it("says nothing about its form to strangers", async () => {
      const authorize = () => Promise.reject(new Problem("unauthenticated"));
      const response = await build({ authorize }).fetch(
        request("POST", { headers: { "x-run-id": "x" } }),
      );
      expect(response.status).toBe(401);
    });
  });

  describe("body", () => {
    it.each(["", " \n", "{}", "\t{ }"])("takes %j for no wishes", async (body) => {
      const response = await build().fetch(request("POST", { body }));
      expect(await response.json()).toEqual({ input: {} });
    });

    it("does not mind what type it is said to be", async () => {
      const headers = { "content-type": "application/x-www-form-urlencoded" };
      const response = await build().fetch(request("POST", { headers, body: '{"dry_run":false}' }));
      expect(await response.json()).toEqual({ input: { dry_run: false } });
    });

    it.each<[string, BodyInit]>([
      ["{", "{"],
      ["a word", "yes"],
      ["form data", "dry_run=true"],
      ["two values", "{}{}"],
      ["a trailing comma", '{"dry_run":true,}'],
      ["broken UTF-8", new Uint8Array([0x22, 0xff, 0x22])],
      ["a cut character", new Uint8Array([0x22, 0xc3])],
    ])("refuses %s with 400", async (_name, body) => {
      const { fetch, handler } = build();
      const response = await fetch(request("POST", { body }));
      expect([response.status, await slugOf(response)]).toEqual([400, "json"]);
      expect(handler).not.toHaveBeenCalled();
    });

    it.each([
      ['{"dry_run":"yes"}', "#/dry_run", "dry_run"],
      ['{"dry_run":null}', "#/dry_run", "dry_run"],
      ['{"dryRun":true}', "#/dryRun", "dryRun"],
      ['{"a/b~c ü":1}', "#/a~1b~0c%20%C3%BC", "a/b~c ü"],
      ['{"list":[1,"2"]}', "#/list/1", "list.1"],
      ['{"__proto__":{"dry_run":true}}', "#/__proto__", "__proto__"],
      ["null", "#", "the whole"],
      ["[]", "#", "the whole"],
      ["1", "#", "the whole"],
    ])("refuses %s with 422, naming %s", async (body, pointer, field) => {
      const { fetch, handler } = build();
      const response = await fetch(request("POST", { body }));
      expect(response.status).toBe(422);
      const problem = await response.json();
      expect(problem.type).toBe("urn:pgvigil:problem:body");
      expect(problem.errors.map((error: { pointer: string }) => error.pointer)).toEqual([pointer]);
      expect(problem.detail).toContain(field);
      expect(handler).not.toHaveBeenCalled();
    });

    it("answers any JSON at all, and never with a 500", async () => {
      const { fetch } = build();
      await fc.assert(fc.asyncProperty(fc.json(), async (body) => {
        expect([200, 422]).toContain((await fetch(request("POST", { body }))).status);
      }));
    });

    it("answers a key that is half a character", async () => {
      expect((await build().fetch(request("POST", { body: '{"\\ud800":1}' }))).status).toBe(422);
    });

    it("answers for at most ten fields, however many are wrong", async () => {
      const body = JSON.stringify(
        Object.fromEntries(Array.from({ length: 500 }, (_, n) => [`k${n}`, n])),
      );
      const response = await build().fetch(request("POST", { body }));
      const { detail, errors } = await response.json();
      expect(errors).toHaveLength(10);
      expect(detail.length).toBeLessThanOrEqual(1000);
    });

    const padded = (bytes: number) => `{}${" ".repeat(bytes - 2)}`;
    it("takes 64 KiB and not a byte more", async () => {
      const { fetch } = build();
      expect((await fetch(request("POST", { body: padded(BODY_BYTES_LIMIT) }))).status).toBe(200);
      const response = await fetch(request("POST", { body: padded(BODY_BYTES_LIMIT + 1) }));
      expect([response.status, await slugOf(response)]).toEqual([413, "body-too-large"]);
    });

    it("stops reading a body that never ends", async () => {
      let sent = 0;
      let isCancelled = false;
      const body = new ReadableStream({
        pull: (controller) => {
          sent += 1024;
          controller.enqueue(new Uint8Array(1024).fill(32));
        },
        cancel: () => {
          isCancelled = true;
        },
      });
      expect((await build().fetch(request("POST", { body }))).status).toBe(413);
      expect(isCancelled).toBe(true);
      expect(sent).toBeLessThan(BODY_BYTES_LIMIT * 2);
    });
  });

  it("hands the request to what reads it instead of a schema", async () => {
    const { world } = sampleWorld();
    const fetch = endpoint(
      {
        name: "test",
        methods: ["POST"],
        authorize: admit(),
        input: (request) => request.text(),
      },
      (text) => Promise.resolve(new Response(text)),
      world,
    );
    const body = "x".repeat(BODY_BYTES_LIMIT + 1);
    expect(await (await fetch(request("POST", { path: "/?a=1", body }))).text()).toBe(body);
  });

  describe("query", () => {
    it("is no place for what belongs into the body", async () => {
      const { fetch, handler } = build();
      const response = await fetch(request("POST", { path: "/?dry_run=true" }));
      expect([response.status, await slugOf(response)]).toEqual([422, "query"]);
      expect(handler).not.toHaveBeenCalled();
    });

    it("may hold what the platform's clients add to a POST", async () => {
      const response = await build().fetch(
        request("POST", { path: "/?forceFunctionRegion=eu-west-1" }),
      );
      expect(response.status).toBe(200);
    });
  });

  describe("errors", () => {
    const failing = (error: unknown, world: Partial<EndpointWorld> = {}) =>
      build({ handle: () => Promise.reject(error), world });

    it("tells a surprise to the log, and to the caller only its run", async () => {
      const { fetch, lines } = failing(new Error(`no ${KEYS.default} here`, { cause: "deep" }));
      const response = await fetch(request("POST"));
      expect(response.status).toBe(500);
      expect(await response.json()).toEqual({
        type: "urn:pgvigil:problem:internal",
        title: "Internal error",
        status: 500,
        run_id: RUN_ID,
      });
      expect(lines).toHaveLength(1);
      expect(JSON.parse(lines[0]!.line)).toMatchObject({
        level: "error",
        run_id: RUN_ID,
        fields: { error: { message: "no sb_secret_… here", cause: "deep" } },
      });
    });

    it("takes anything that is thrown", async () => {
      for (const error of [undefined, null, "text", { status: 200 }, 0]) {
        expect((await failing(error).fetch(request("POST"))).status).toBe(500);
      }
    });

    it("names a wrong variable in the log only", async () => {
      const { fetch, lines } = failing(
        new ConfigurationError("Cannot use SUPABASE_SECRET_KEYS: x"),
      );
      const response = await fetch(request("POST"));
      const text = await response.text();
      expect(response.status).toBe(500);
      expect(text).toContain("urn:pgvigil:problem:configuration");
      expect(text).not.toContain("SUPABASE");
      expect(lines[0]!.line).toContain("SUPABASE_SECRET_KEYS");
    });

    it("fails closed when the allowed origins cannot be read", async () => {
      const allowedOrigins = () => {
        throw new ConfigurationError("Cannot use PGVIGIL_ALLOWED_ORIGINS: x");
      };
      const { fetch, handler } = build({ world: { allowedOrigins } });
      const response = await fetch(request("POST", { headers: { origin: "https://admin.test" } }));
      expect([response.status, await slugOf(response)]).toEqual([500, "configuration"]);
      expect(handler).not.toHaveBeenCalled();
    });

    it.each(
      [
        ["unreachable", 503, "database-unavailable"],
        ["timed_out", 503, "database-unavailable"],
        ["refused", 500, "internal"],
        ["denied", 500, "internal"],
        ["malformed", 500, "internal"],
      ] as const,
    )("answers a database that is %s with %i", async (kind, status, slug) => {
      const { fetch } = failing(new DatabaseError("start_job", kind, "57014", "secret detail"));
      const response = await fetch(request("POST"));
      const text = await response.text();
      expect(response.status).toBe(status);
      expect(text).toContain(slug);
      expect(text).not.toContain("secret detail");
    });

    it("says when to come again to a database that does not answer", async () => {
      const { fetch } = failing(new DatabaseError("start_job", "unreachable", "", ""));
      expect((await fetch(request("POST"))).headers.get("retry-after")).toBe("5");
    });

    it("are told as the function would have it, with the run and what is open to all", async () => {
      const { world, lines } = sampleWorld();
      const fetch = endpoint(
        {
          name: "test",
          methods: ["POST"],
          authorize: () => Promise.reject(new Problem("unauthenticated", "Who?")),
          input: Body,
          renderProblem: ({ status, title, message }, { headers }) =>
            headers.has("x-plain") ? undefined : new Response(`${title}: ${message}`, { status }),
        },
        () => Promise.resolve(new Response()),
        world,
      );
      const response = await fetch(request("POST"));
      expect([response.status, await response.text()])
        .toEqual([401, "Who is calling is not known: Who?"]);
      expect(response.headers.get("x-run-id")).toBe(RUN_ID);
      expect(response.headers.get("x-content-type-options")).toBe("nosniff");
      expect(lines).toHaveLength(1);
      const other = await fetch(request("POST", { headers: { "x-plain": "1" } }));
      expect([other.status, await slugOf(other)]).toEqual([401, "unauthenticated"]);
    });

    it("says where to expose the schema when the API does not serve it", async () => {
      const { fetch } = failing(new DatabaseError("start_job", "missing", "PGRST106", "Invalid"));
      const response = await fetch(request("POST"));
      expect([response.status, await response.json()]).toMatchObject([503, {
        type: "urn:pgvigil:problem:schema-not-exposed",
        detail: "Project settings → Data API → Exposed schemas: add monitor.",
      }]);
    });
  });
});
