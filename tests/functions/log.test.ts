import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { createLog, type LogFields } from "../../supabase/functions/_shared/log.ts";
import { redact, summarize, summarizeError } from "../../supabase/functions/_shared/redact.ts";
import { NOON, RUN_ID, sampleToken } from "../fixtures.ts";

function write(message: string, fields?: LogFields): string {
  const lines: string[] = [];
  const log = createLog({
    function: "health",
    runId: RUN_ID,
    now: () => NOON,
    write: (_level, line) => lines.push(line),
  });
  log.error(message, fields);
  expect(lines).toHaveLength(1);
  return lines[0]!;
}

/** Characters that keys and tokens are made of. */
const random = fc.stringMatching(/^[A-Za-z0-9_-]{8,60}$/);

/** Secrets of every shape, with the part of each that must never be seen. */
const secret = fc.oneof(
  random.map((tail) => ({ text: `sb_secret_${tail}`, hidden: tail })),
  random.map((tail) => ({ text: `sb_publishable_${tail}`, hidden: tail })),
  random.map((tail) => ({ text: `pgv_${tail}`, hidden: tail })),
  random.map((tail) => ({ text: `Bearer ${tail}`, hidden: tail })),
  random.map((tail) => ({ text: `whsec_${tail}`, hidden: tail })),
  fc.stringMatching(/^[A-Za-z0-9]{24}$/).map((tail) => ({
    text: `re_0123abcd_${tail}`,
    hidden: tail,
  })),
  random.map((tail) => ({ text: `https://hooks.slack.com/services/${tail}`, hidden: tail })),
  random.map((tail) => ({
    text: sampleToken({ sub: tail }),
    hidden: sampleToken({ sub: tail }).split(".")[1]!,
  })),
  random.map((tail) => ({
    text: `postgresql://postgres:${tail}@db.test:5432/postgres`,
    hidden: tail,
  })),
);

/** The same secret, put anywhere. */
const places: ((text: string) => LogFields)[] = [
  (text) => ({ a: text }),
  (text) => ({ a: [1, { b: { c: `before ${text} after` } }] }),
  (text) => ({ [text]: true }),
  (text) => ({ error: new Error(`Cannot: ${text}`) }),
  (text) => ({ error: new Error("outer", { cause: new TypeError("inner", { cause: text }) }) }),
  (text) => ({ error: Object.assign(new Error("outer"), { code: text }) }),
  (text) => ({ a: JSON.stringify({ headers: { apikey: text } }) }),
  (text) => ({ a: `${"x ".repeat(495)}${text}` }),
  (text) => ({ a: new URL(`http://x.test/?q=${encodeURIComponent(text)}`).searchParams.get("q") }),
];

describe("createLog()", () => {
  it("writes one JSON object a line", () => {
    const line = write("two\nlines", { at: NOON, n: 1n, nothing: undefined });
    expect(line).not.toContain("\n");
    expect(JSON.parse(line)).toEqual({
      time: NOON.toISOString(),
      level: "error",
      message: "two\nlines",
      function: "health",
      run_id: RUN_ID,
      fields: { at: NOON.toISOString(), n: "1" },
    });
  });

  it("writes no secret, wherever it is", () => {
    fc.assert(fc.property(secret, fc.constantFrom(...places), ({ text, hidden }, place) => {
      expect(write(`message ${text}`, place(text))).not.toContain(hidden);
    }));
  });

  it("writes nothing of a field whose name says that it is a secret", () => {
    const line = write("m", { headers: { Authorization: "plainword", apikey: "plainword" } });
    expect(line).not.toContain("plainword");
  });

  it("writes an error with its causes", () => {
    const cause = Object.assign(new Error("connection refused"), { code: "ECONNREFUSED" });
    const { error } = JSON.parse(write("m", { error: new TypeError("no", { cause }) })).fields;
    expect(error).toMatchObject({
      name: "TypeError",
      message: "no",
      cause: { message: "connection refused", code: "ECONNREFUSED" },
    });
  });

  it("stays bounded, whatever it is given", () => {
    const loop: Record<string, unknown> = {};
    loop["self"] = loop;
    const chain = Array.from({ length: 100 }).reduce<Error>(
      (cause) => new Error("again", { cause }),
      new Error("first"),
    );
    const many = Object.fromEntries(
      Array.from({ length: 500 }, (_, n) => [`k${n}`, "v".repeat(2000)]),
    );
    for (
      const fields of [{ loop }, { chain }, { many }, { text: "x".repeat(1e6) }, { f: () => 1 }]
    ) {
      expect(write("m".repeat(1e5), fields).length).toBeLessThanOrEqual(8192);
      expect(() => JSON.parse(write("m", fields))).not.toThrow();
    }
  });

  it("takes any value there is", () => {
    fc.assert(fc.property(fc.anything(), (value) => {
      expect(() => JSON.parse(write("m", { value }))).not.toThrow();
    }));
  });
});

describe("redact()", () => {
  it("leaves ordinary text alone", () => {
    const text = 'relation "x" does not exist (42P01) at https://db.test:5432/a?b=c, run 1-2-3, ' +
      "re_request_duration_seconds, whsec_ and base64";
    expect(redact(text)).toBe(text);
  });

  it("keeps what says which kind of secret it was", () => {
    expect(redact("apikey sb_secret_abc, next")).toBe("apikey sb_secret_…, next");
    expect(redact("postgresql://me:pass@host/db")).toBe("postgresql://me:…@host/db");
  });
});

describe("summarizeError()", () => {
  it("is one bounded line without secrets", () => {
    expect(summarizeError(new RangeError("a\n  b sb_secret_abc"))).toBe(
      "RangeError: a b sb_secret_…",
    );
    expect(summarizeError("x".repeat(1000))).toHaveLength(300);
  });

  it("finds secrets in which something invisible is", () => {
    expect(summarizeError("sb_sec\u200bret_abc")).toBe("sb_secret_…");
  });

  it("is a line that the database takes, whatever was thrown", () => {
    const text = fc.string({ unit: "binary", maxLength: 700 });
    fc.assert(fc.property(text, (message) => {
      const summary = summarizeError(new TypeError(message));
      // Of JSON Postgres takes neither: the record of the failure would fail.
      expect(summary).not.toMatch(/[\p{Cc}\p{Cs}]/u);
      expect(summary.length).toBeLessThanOrEqual(300);
    }));
    expect(summarizeError("a\0b\ud83d")).toBe("a\ufffdb\ufffd");
  });

  it("reads no more of a text than can be kept of it, so that a long one costs little", () => {
    const reads = vi.fn((line: string) => line);
    summarize("ey-aaaa-".repeat(100_000), reads);
    expect(reads.mock.calls[0]![0].length).toBeLessThanOrEqual(4000);
  });
});
