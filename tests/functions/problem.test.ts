import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { Problem, problemResponse, PROBLEMS } from "../../supabase/functions/_shared/problem.ts";

describe("problemResponse()", () => {
  it("is problem details with members and headers of its own", async () => {
    const response = problemResponse(
      new Problem("overlap", "Wait.", { members: { run_id: "x" }, headers: { allow: "POST" } }),
    );
    expect(response.status).toBe(409);
    expect(response.headers.get("content-type")).toBe("application/problem+json");
    expect(response.headers.get("allow")).toBe("POST");
    expect(await response.json()).toEqual({
      type: "urn:pgvigil:problem:overlap",
      title: PROBLEMS.overlap.title,
      status: 409,
      detail: "Wait.",
      run_id: "x",
    });
  });

  it("leaves out an empty detail and cuts a long one", async () => {
    expect(await problemResponse(new Problem("internal")).json()).not.toHaveProperty("detail");
    const { detail } = await problemResponse(new Problem("body", "x".repeat(5000))).json();
    expect(detail).toHaveLength(1000);
  });
});

describe("docs/problems.md", () => {
  it("lists every problem with its status and title, and no other", () => {
    const page = readFileSync(new URL("../../docs/problems.md", import.meta.url), "utf8");
    const listed = [...page.matchAll(/^\| `([a-z-]+)` +\| (\d{3}) +\| ([^|]+?) +\|/gm)]
      .map(([, slug, status, title]) => [slug, { status: Number(status), title }]);
    expect(Object.fromEntries(listed)).toEqual(PROBLEMS);
  });
});
