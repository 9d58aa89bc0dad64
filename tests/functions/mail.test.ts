import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type IncomingHttpHeaders, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { startInbox } from "../../local/inbox.ts";
import type { Mail } from "../../shared/alerting/messages/render-email.ts";
import { ConfigurationError, mailEnvironment } from "../../supabase/functions/_shared/env.ts";
import { MAIL_TIMEOUT_SECONDS, resendMailer } from "../../supabase/functions/_shared/mail.ts";

const KEY = "re_0123456789_abcdefghijklmnop";
const SENDER = "alerts@pgvigil.example.com";
const FROM = `pgvigil <${SENDER}>`;
const ID = "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794";
const IDEMPOTENCY_KEY = "8f8b8c9e-3f6b-4a53-9a8f-0d6f3a3f1b1e";
const MAIL: Mail = { subject: "[CRITICAL] Disk is full", text: "Häh?\n", html: "<p>Häh?</p>" };
const RECIPIENTS = ["ops@example.com", "dba@example.com"];

const variables = (changes: Record<string, string | undefined> = {}) => {
  const all: Record<string, string | undefined> = {
    RESEND_API_KEY: KEY,
    PGVIGIL_MAIL_FROM: FROM,
    RESEND_BASE_URL: undefined,
    ...changes,
  };
  return (name: string) => all[name];
};

const NO_ADDRESS = "is not an address of the form alerts@example.com or Name <alerts@example.com>";
const NO_HOST = "is no address of the form https://host";

describe("mailEnvironment()", () => {
  it("reads the key, the sender and where the stand-in is", () => {
    expect(mailEnvironment(variables({ RESEND_BASE_URL: "http://127.0.0.1:54399/" }))).toEqual({
      apiKey: KEY,
      from: FROM,
      baseUrl: "http://127.0.0.1:54399",
    });
  });

  it.each([
    ["PGVIGIL_MAIL_FROM", " a@b.de\n", { from: "a@b.de" }],
    ["PGVIGIL_MAIL_FROM", "Bereitschaft 🚨 <a@b.de>", { from: "Bereitschaft 🚨 <a@b.de>" }],
    ["RESEND_API_KEY", ` ${KEY}\n`, { apiKey: KEY }],
    ["RESEND_BASE_URL", undefined, { baseUrl: undefined }],
    ["RESEND_BASE_URL", " ", { baseUrl: undefined }],
    ["RESEND_BASE_URL", "https://resend.example.com", { baseUrl: "https://resend.example.com" }],
    ["RESEND_BASE_URL", "https://resend.example.com/#", { baseUrl: "https://resend.example.com" }],
    ["RESEND_BASE_URL", "https://resend.example.com?", { baseUrl: "https://resend.example.com" }],
  ])("takes %s %j", (name, value, expected) => {
    expect(mailEnvironment(variables({ [name]: value }))).toMatchObject(expected);
  });

  it.each([
    ["RESEND_API_KEY", undefined, "is not set (supabase secrets set RESEND_API_KEY=…)"],
    ["RESEND_API_KEY", "", "is not set (supabase secrets set RESEND_API_KEY=…)"],
    ["RESEND_API_KEY", " \n", "is not set (supabase secrets set RESEND_API_KEY=…)"],
    ["RESEND_API_KEY", "re_one re_two", "is not a key"],
    ["RESEND_API_KEY", "re_one\r\nx-other: 1", "is not a key"],
    ["RESEND_API_KEY", "re_é", "is not a key"],
    ["RESEND_API_KEY", "re_\0", "is not a key"],
    ["PGVIGIL_MAIL_FROM", undefined, "is not set (supabase secrets set PGVIGIL_MAIL_FROM=…)"],
    ["PGVIGIL_MAIL_FROM", " ", "is not set (supabase secrets set PGVIGIL_MAIL_FROM=…)"],
    ["PGVIGIL_MAIL_FROM", "alerts", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "alerts@localhost", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "a@b.de, c@d.de", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "a@b@c.de", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "<a@b.de>", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "pgvigil <a@b.de", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "pgvigil <a@b.de> <c@d.de>", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "a@b.de\r\nBcc: everybody@example.com", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "pgvigil\r\nBcc: c@d.de <a@b.de>", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "pgvigil\nBcc: c@d.de <a@b.de>", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "pgvigil\rBcc: c@d.de <a@b.de>", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "pgvigil <a@b.de\n>", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "pgvigil\0 <a@b.de>", NO_ADDRESS],
    ["PGVIGIL_MAIL_FROM", "pgvigil\u2028x <a@b.de>", NO_ADDRESS],
    ["RESEND_BASE_URL", "api.resend.com", NO_HOST],
    ["RESEND_BASE_URL", "ftp://api.resend.com", NO_HOST],
    ["RESEND_BASE_URL", "https://", NO_HOST],
    ["RESEND_BASE_URL", "https://api.resend.com/v1", NO_HOST],
    ["RESEND_BASE_URL", "https://api.resend.com?to=", NO_HOST],
    ["RESEND_BASE_URL", "https://api.resend.com#v1", NO_HOST],
    ["RESEND_BASE_URL", "https://key@api.resend.com", NO_HOST],
    ["RESEND_BASE_URL", "https://api.re send.com", NO_HOST],
    ["RESEND_BASE_URL", "https://[api", NO_HOST],
  ])("refuses %s %j, and does not repeat it", (name, value, reason) => {
    expect(() => mailEnvironment(variables({ [name]: value }))).toThrow(
      new ConfigurationError(`Cannot use ${name}: it ${reason}`),
    );
  });
});

interface Received {
  method: string | undefined;
  path: string | undefined;
  headers: IncomingHttpHeaders;
  body: unknown;
}

/** A server that answers as it is told, and what it was sent. */
let answer: (response: ServerResponse) => void;
const received: Received[] = [];
const server = createServer(async (request, response) => {
  const { method, url: path, headers } = request;
  received.push({ method, path, headers, body: JSON.parse(await text(request)) });
  answer(response);
});

const say = (status: number, body: string, headers: Record<string, string> = {}) => {
  answer = (response) => void response.writeHead(status, headers).end(body);
};
const sayJson = (status: number, body: unknown, headers: Record<string, string> = {}) =>
  say(status, JSON.stringify(body), { "content-type": "application/json", ...headers });
const fail = (statusCode: number, name: string, message: string, headers = {}) =>
  sayJson(statusCode, { statusCode, name, message }, headers);

beforeAll(() => new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve)));
afterAll(() => {
  server.closeAllConnections();
  server.close();
});
afterEach(() => void received.splice(0));

const urlOf = () => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
const mailerAt = (url: string, timeoutSeconds?: number) =>
  resendMailer(
    () => mailEnvironment(variables({ RESEND_BASE_URL: url })),
    ...(timeoutSeconds === undefined ? [] : [timeoutSeconds]),
  );
const send = (timeoutSeconds?: number) =>
  mailerAt(urlOf(), timeoutSeconds).send(MAIL, RECIPIENTS, IDEMPOTENCY_KEY);

const NO_ANSWER = {
  ...{ kind: "failed", status: null, name: "", retryAfter: undefined },
  error: `no answer from Resend within ${MAIL_TIMEOUT_SECONDS} s, or no connection`,
};

describe("resendMailer()", () => {
  it("sends a mail to all recipients, with its key and the same key of idempotency each time", async () => {
    sayJson(200, { id: ID });
    for (const _ of [1, 2]) expect(await send()).toEqual({ kind: "accepted", id: ID });
    expect(received).toHaveLength(2);
    for (const { headers, ...request } of received) {
      expect(request).toEqual({
        method: "POST",
        path: "/emails",
        body: { ...MAIL, from: FROM, to: RECIPIENTS },
      });
      expect(headers).toMatchObject({
        "authorization": `Bearer ${KEY}`,
        "idempotency-key": IDEMPOTENCY_KEY,
        "content-type": "application/json",
      });
    }
  });

  it("sends a mail that the local inbox keeps, once for each key", async ({ onTestFinished }) => {
    const folder = await mkdtemp(join(tmpdir(), "pgvigil-mail-"));
    const inbox = await startInbox({ port: 0, path: join(folder, "inbox.json"), apiKey: KEY });
    onTestFinished(async () => {
      await inbox.close();
      await rm(folder, { recursive: true });
    });
    const { send: post } = mailerAt(`http://127.0.0.1:${inbox.port}`);
    const first = await post(MAIL, RECIPIENTS, IDEMPOTENCY_KEY);
    expect(first).toEqual({ kind: "accepted", id: expect.stringMatching(/^[0-9a-f-]{36}$/) });
    expect(await post(MAIL, RECIPIENTS, IDEMPOTENCY_KEY)).toEqual(first);
    const messages = await (await fetch(`http://127.0.0.1:${inbox.port}/messages`)).json();
    expect(messages).toMatchObject([{ ...MAIL, from: FROM, to: RECIPIENTS }]);
  });

  it("reads the environment for each mail, and sends nothing without", async () => {
    sayJson(200, { id: ID });
    const mailer = resendMailer(() =>
      mailEnvironment(variables({ RESEND_API_KEY: undefined, RESEND_BASE_URL: urlOf() }))
    );
    await expect(mailer.send(MAIL, RECIPIENTS, IDEMPOTENCY_KEY)).rejects.toThrow(
      new ConfigurationError(
        "Cannot use RESEND_API_KEY: it is not set (supabase secrets set RESEND_API_KEY=…)",
      ),
    );
    expect(received).toEqual([]);
  });

  it.each([
    [401, "missing_api_key", "Missing API key in the authorization header."],
    [403, "invalid_api_key", "API key is invalid."],
    [404, "not_found", "The requested endpoint does not exist."],
    [409, "invalid_idempotent_request", "Same idempotency key used with a different payload."],
    [409, "concurrent_idempotent_requests", "Same idempotency key used while in progress."],
    [422, "validation_error", "Invalid `to` field."],
    [500, "application_error", "An unexpected error occurred."],
  ])("tells %i %s as Resend does", async (status, name, message) => {
    fail(status, name, message);
    expect(await send()).toEqual({
      ...{ kind: "failed", status, name, retryAfter: undefined },
      error: `Resend answered ${status}: ${message}`,
    });
  });

  it("tells when Resend wants to be asked again", async () => {
    fail(429, "rate_limit_exceeded", "Too many requests.", { "retry-after": "17" });
    expect(await send()).toEqual({
      ...{ kind: "failed", status: 429, name: "rate_limit_exceeded", retryAfter: "17" },
      error: "Resend answered 429: Too many requests.",
    });
  });

  it.each([
    [500, "<html><h1>Internal Server Error</h1></html>"],
    [502, "<!doctype html><title>Bad Gateway</title>"],
    [503, ""],
    [403, "error code: 1010"],
    [422, "{"],
  ])("tells the status %i of an answer that is not Resend's: %j", async (status, body) => {
    say(status, body, { "content-type": "text/html", "retry-after": "9" });
    expect(await send()).toMatchObject({ kind: "failed", status, retryAfter: "9" });
  });

  it.each([
    [null],
    ["no"],
    [7],
    [[]],
    [{}],
    [{ message: { toString: 1 }, name: [], statusCode: {} }],
    [{ message: "no", statusCode: "500" }],
    [{ message: "no", statusCode: 500.5 }],
  ])("does not trip over the error %j, which has no status", async (error) => {
    sayJson(500, error, { "retry-after": "9" });
    expect(await send()).toMatchObject({
      ...{ kind: "failed", status: null, name: "" },
      error: expect.stringMatching(/^Resend answered (no status: no(?: reason)?|without the id)/),
    });
  });

  it.each([
    ["{}"],
    ["null"],
    ["[]"],
    ['"id"'],
    ['{"id":""}'],
    ['{"id":7}'],
    ['{"id":null}'],
    ['{"id":"a b"}'],
    ['{"id":"\\u0000"}'],
    [`{"id":"${"x".repeat(201)}"}`],
  ])("takes %s for no word that a mail was accepted", async (body) => {
    say(200, body, { "content-type": "application/json" });
    expect(await send()).toMatchObject({
      ...{ kind: "failed", status: null },
      error: "Resend answered without the id of a mail",
    });
  });

  it("does not know whether a mail was accepted where 200 is no JSON", async () => {
    say(200, "<html>Welcome</html>");
    expect(await send()).toEqual(NO_ANSWER);
  });

  it("does not know it either where nobody is there", async () => {
    const gone = createServer();
    await new Promise<void>((resolve) => void gone.listen(0, "127.0.0.1", resolve));
    const { port } = gone.address() as AddressInfo;
    await new Promise((resolve) => void gone.close(resolve));
    const mailer = mailerAt(`http://127.0.0.1:${port}`);
    expect(await mailer.send(MAIL, RECIPIENTS, IDEMPOTENCY_KEY)).toEqual(NO_ANSWER);
  });

  it("nor where the connection breaks", async () => {
    answer = (response) => void response.socket?.destroy();
    expect(await send()).toEqual(NO_ANSWER);
  });

  it.each([
    ["no answer", () => {}],
    ["an answer without an end", (response: ServerResponse) => void response.write('{"id":')],
    ["an error without an end", (response: ServerResponse) => {
      response.writeHead(500).write('{"message":');
    }],
  ])("nor where the time is up with %s", { timeout: 5000 }, async (_, hang) => {
    answer = hang;
    expect(await send(0.05)).toEqual({
      ...NO_ANSWER,
      error: "no answer from Resend within 0.05 s, or no connection",
    });
  });

  it("repeats neither the key nor anybody's address, whatever Resend says", async () => {
    const [recipient] = RECIPIENTS;
    fail(403, "validation_error", `${KEY} may not send\0as ${FROM}\nto ${recipient}: ${KEY}${KEY}`);
    expect(await send()).toMatchObject({
      error: "Resend answered 403: … may not send\ufffdas pgvigil <…@…> to …@…: ……",
    });
  });

  it("repeats no half of a key at its end", async () => {
    fail(403, "validation_error", `${"x".repeat(290 - KEY.length)}${KEY}${"x".repeat(200)}`);
    const { error } = await send() as { error: string };
    expect(error.length).toBeLessThanOrEqual(300);
    expect(error).not.toContain(KEY.slice(0, 6));
  });
});
