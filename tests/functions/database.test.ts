import { describe, expect, it, vi } from "vitest";
import { z } from "zod";
import {
  DatabaseError,
  type DatabaseErrorKind,
  openDatabase,
  toDatabaseError,
} from "../../supabase/functions/_shared/database.ts";
import { KEYS, sampleToken } from "../fixtures.ts";

const url = "http://api.test";

/** A REST API that answers the same to everything. */
function answering(body: unknown, status = 200) {
  return vi.fn((_input: RequestInfo | URL, _init?: RequestInit) =>
    Promise.resolve(
      new Response(body === null || typeof body === "string" ? body : JSON.stringify(body), {
        status,
      }),
    )
  );
}

const call = (fetch: typeof globalThis.fetch, timeoutSeconds?: number) =>
  openDatabase({ url, key: KEYS.default, fetch })
    .call(
      "read_health",
      { p_now: null },
      (answer) => z.object({ a: z.int() }).parse(answer),
      timeoutSeconds,
    );

const failure = async (calling: Promise<unknown>) => {
  const error = await calling.then(() => null, (error: unknown) => error);
  expect(error).toBeInstanceOf(DatabaseError);
  return error as DatabaseError;
};

describe("openDatabase()", () => {
  it("calls a function of the schema monitor with the key, and reads its answer", async () => {
    const fetch = answering({ a: 1, b: 2 });
    expect(await call(fetch)).toEqual({ a: 1 });

    const [input, init] = fetch.mock.calls[0]!;
    const headers = new Headers(init?.headers);
    expect(String(input)).toBe("http://api.test/rest/v1/rpc/read_health");
    expect(init?.method).toBe("POST");
    expect(init?.body).toBe('{"p_now":null}');
    expect(headers.get("content-profile")).toBe("monitor");
    expect(headers.get("apikey")).toBe(KEYS.default);
  });

  it("calls as the user whose token it is given", async () => {
    const fetch = answering(true);
    const token = sampleToken();
    await openDatabase({ url, key: KEYS.publishable, token, fetch }).call("is_admin", {}, Boolean);
    const headers = new Headers(fetch.mock.calls[0]![1]?.headers);
    expect(headers.get("apikey")).toBe(KEYS.publishable);
    expect(headers.get("authorization")).toBe(`Bearer ${token}`);
  });

  it("gives up on an answer that does not come", async () => {
    const fetch = (_input: RequestInfo | URL, init?: RequestInit) =>
      new Promise<Response>((_resolve, reject) => {
        init?.signal?.addEventListener("abort", () => reject(init.signal?.reason));
      });
    const error = await failure(call(fetch, 0.01));
    expect(error.kind).toBe("timed_out");
    expect(error.message).toBe("Cannot call read_health: no answer within 0.01 s");
  });

  it("gives up on an answer that does not end", async () => {
    const fetch = (_input: RequestInfo | URL, init?: RequestInit) =>
      Promise.resolve(
        new Response(
          new ReadableStream({
            start: (controller) => {
              controller.enqueue(new TextEncoder().encode('{"a":'));
              init?.signal?.addEventListener("abort", () => controller.error(init.signal?.reason));
            },
          }),
        ),
      );
    expect((await failure(call(fetch, 0.01))).kind).toBe("timed_out");
  });

  it("asks once: what is asked again is the caller's to decide", async () => {
    for (const status of [503, 520, 500]) {
      const fetch = answering({ message: "no" }, status);
      await failure(call(fetch));
      expect(fetch).toHaveBeenCalledOnce();
    }
  });

  it("names what breaks the contract", async () => {
    const error = await failure(call(answering({ a: "text" })));
    expect(error.kind).toBe("malformed");
    expect(error.message).toContain("a");
    expect((await failure(call(answering("<html>")))).kind).toBe("malformed");
    expect((await failure(call(answering(null, 204)))).kind).toBe("malformed");
  });

  it("leaves behind what may quote rows, and whatever looks like a secret", async () => {
    const error = await failure(call(answering({
      code: "23505",
      message: `duplicate key near ${KEYS.default}`,
      details: "Key (email)=(a@b.test) already exists.",
      hint: "select * from users",
    }, 409)));
    expect(error.message).toBe("Cannot call read_health: duplicate key near sb_secret_… (23505)");
    expect(JSON.stringify([error, error.cause ?? null, error.stack])).not.toMatch(
      /a@b\.test|select \*/,
    );
  });
});

describe("toDatabaseError()", () => {
  it.each<[string, number, string, DatabaseErrorKind]>([
    ["57014", 500, "canceling statement due to statement timeout", "timed_out"],
    ["55P03", 500, "canceling statement due to lock timeout", "timed_out"],
    ["40P01", 500, "deadlock detected", "timed_out"],
    ["40001", 500, "a series was deleted meanwhile", "timed_out"],
    ["SUP", 500, "PostgresError: canceling statement due to statement timeout", "timed_out"],
    ["SUP", 500, "TypeError: something else", "refused"],
    ["PGRST301", 401, "JWT invalid", "unauthenticated"],
    ["PGRST303", 401, "JWT expired", "unauthenticated"],
    ["42501", 401, "permission denied for function is_admin", "unauthenticated"],
    ["42501", 403, "permission denied for function is_admin", "denied"],
    ["", 401, "Invalid API key", "unauthenticated"],
    ["", 403, "no", "denied"],
    ["PGRST106", 406, "The schema must be one of the following: public", "missing"],
    ["PGRST202", 404, "Could not find the function", "missing"],
    ["42883", 404, "function monitor.x() does not exist", "missing"],
    ["3F000", 500, "schema does not exist", "missing"],
    ["08006", 503, "connection failure", "unreachable"],
    ["57P01", 503, "terminating connection due to administrator command", "unreachable"],
    ["53300", 500, "too many connections", "unreachable"],
    ["PGRST003", 504, "Timed out acquiring connection from connection pool.", "unreachable"],
    ["", 502, "Bad Gateway", "unreachable"],
    ["", 0, "TypeError: fetch failed", "unreachable"],
    ["22023", 400, "run is not running", "refused"],
    ["23514", 400, "violates check constraint", "refused"],
    ["P0001", 400, "raised", "refused"],
    ["42P01", 404, "relation does not exist", "refused"],
    ["22012", 500, "division by zero", "refused"],
  ])("%s with status %i, %s: %s", (code, status, message, kind) => {
    expect(toDatabaseError("x", { code, status, message }).kind).toBe(kind);
  });

  it("has a reason that can be stored", () => {
    const { reason } = toDatabaseError("f", {
      code: "22021",
      message: "a\0b\n\ud83d",
      status: 400,
    });
    expect(reason).toBe("a\ufffdb \ufffd");
  });

  it("stays bounded", () => {
    const error = toDatabaseError("x", { code: "XX000", status: 500, message: "m".repeat(1e5) });
    expect(error.message.length).toBeLessThan(400);
  });
});
