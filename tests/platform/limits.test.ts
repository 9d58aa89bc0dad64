/**
 * The limits of the platform that the design rests on, stated once. Runs against the local stack, or against a real
 * project: run limits.sql in its SQL editor, then set PLATFORM_URL (https://<ref>.supabase.co) and PLATFORM_SECRET_KEY.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startTestStack, type TestStack } from "../stack.ts";

let stack: TestStack | undefined;
let project: { url: string; key: string };

beforeAll(async () => {
  const { PLATFORM_URL: url, PLATFORM_SECRET_KEY: key } = process.env;
  if (url && key) {
    project = { url, key };
    return;
  }
  const limits = await readFile(join(import.meta.dirname, "limits.sql"), "utf8");
  stack = await startTestStack({ files: { "migrations/20260101000000_limits.sql": limits } });
  project = { url: stack.facts.api_url, key: stack.facts.secret_key };
});

afterAll(() => stack?.stop());

async function call(name: string, args: object): Promise<{ status: number; body: unknown }> {
  const response = await fetch(`${project.url}/rest/v1/rpc/${name}`, {
    method: "POST",
    headers: { apikey: project.key, "content-type": "application/json" },
    body: JSON.stringify(args),
  });
  return { status: response.status, body: await response.json() };
}

describe("the platform", () => {
  it("cuts a statement of service_role at 8 seconds, and says so", async () => {
    const [within, beyond] = await Promise.all([
      call("platform_sleep", { seconds: 7 }),
      call("platform_sleep", { seconds: 9 }),
    ]);
    expect(within).toEqual({ status: 200, body: true });
    expect(beyond).toMatchObject({
      status: 500,
      body: { code: "57014", message: "canceling statement due to statement timeout" },
    });
  });

  it("cuts a set at 1,000 rows, and does not say so", async () => {
    const [within, beyond] = await Promise.all([
      call("platform_rows", { row_count: 1000 }),
      call("platform_rows", { row_count: 1001 }),
    ]);
    expect(within.body).toHaveLength(1000);
    expect(beyond.status).toBe(200);
    expect(beyond.body).toHaveLength(1000);
  });

  it("does not cut one JSON value", async () => {
    expect((await call("platform_array", { row_count: 1001 })).body).toHaveLength(1001);
  });
});
