import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { Resend } from "resend";
import { Webhook } from "standardwebhooks";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type Inbox, type InboxOptions, startInbox } from "../../local/inbox.ts";
import { readKeys } from "../../local/keys.ts";
import { foretell } from "../../local/mail-events.ts";
import { mailEventsSecret } from "../../supabase/functions/_shared/env.ts";
import { Clock } from "../fixtures.ts";

const KEY = "re_test";
const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const MAIL = {
  from: "pgvigil <alerts@example.com>",
  to: "ops@example.com",
  subject: "Hi",
  text: "t",
};

let folder: string;
let inbox: Inbox | undefined;
let clock: Clock;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "pgvigil-inbox-"));
  // A real day: the package checks signatures by its own clock.
  clock = new Clock(new Date());
});

afterEach(async () => {
  await inbox?.close();
  await rm(folder, { recursive: true, force: true });
});

async function start(changes: Partial<InboxOptions> = {}): Promise<void> {
  await inbox?.close();
  inbox = await startInbox({
    ...{ port: 0, path: join(folder, "inbox.json"), apiKey: KEY, now: clock.now },
    ...{ requestsPerSecond: 1000, ...changes },
  });
}

async function call(path: string, method = "GET", body?: unknown, headers = {}) {
  const response = await fetch(`http://127.0.0.1:${inbox!.port}${path}`, {
    method,
    headers: { authorization: `Bearer ${KEY}`, ...headers },
    ...(body !== undefined && { body: typeof body === "string" ? body : JSON.stringify(body) }),
  });
  return { status: response.status, headers: response.headers, body: await response.json() };
}
const send = (changes: object = {}, headers = {}) =>
  call("/emails", "POST", { ...MAIL, ...changes }, headers);
const messages = async () => (await call("/messages")).body;

/** A receiver of events, what it got, and what it says to that. */
async function startReceiver(status = 200) {
  const received: { headers: Record<string, string>; body: string }[] = [];
  const server = createServer(async (request, response) => {
    received.push({
      headers: request.headers as Record<string, string>,
      body: await text(request),
    });
    response.writeHead(status).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    received,
    receiver: { url: `http://127.0.0.1:${port}/receive-mail-events`, secret: SECRET },
    stop: () => new Promise((resolve) => server.close(resolve)),
  };
}

describe("POST /emails", () => {
  beforeEach(() => start());

  it("takes what Resend's own package sends", async () => {
    const resend = new Resend(KEY, { baseUrl: `http://127.0.0.1:${inbox!.port}` });
    const mail = {
      ...{
        from: MAIL.from,
        to: ["a@b.c", "D E <d@e.f>"],
        subject: "Hi",
        html: "<p>h</p>",
        text: "t",
      },
      ...{ replyTo: "r@s.t", headers: { "X-A": "b" }, tags: [{ name: "kind", value: "alert" }] },
    };
    const { data } = await resend.emails.send(mail, { idempotencyKey: "one" });
    expect(await messages()).toMatchObject([{
      ...{
        id: data!.id,
        sent_at: clock.now().toISOString(),
        idempotency_key: "one",
        state: "sent",
      },
      ...{
        from: MAIL.from,
        to: ["a@b.c", "D E <d@e.f>"],
        subject: "Hi",
        html: "<p>h</p>",
        text: "t",
      },
      ...{ reply_to: ["r@s.t"], headers: { "X-A": "b" }, tags: [{ name: "kind", value: "alert" }] },
    }]);
    const { error } = await resend.emails.send({ ...mail, to: "nobody" });
    expect(error).toMatchObject({ statusCode: 422, name: "validation_error" });
  });

  it.each([
    [{ authorization: "" }, 403, "invalid_api_key"],
    [{ authorization: "Bearer re_other" }, 403, "invalid_api_key"],
    [{ authorization: KEY }, 403, "invalid_api_key"],
  ])("refuses %j", async (headers, status, name) => {
    expect(await send({}, headers)).toMatchObject({ status, body: { statusCode: status, name } });
    expect(await messages()).toEqual([]);
  });

  it("refuses who has no key", async () => {
    const response = await fetch(`http://127.0.0.1:${inbox!.port}/emails`, { method: "POST" });
    expect([response.status, (await response.json()).name]).toEqual([401, "missing_api_key"]);
  });

  it.each([
    [{ to: undefined }, "missing_required_field"],
    [{ from: undefined }, "missing_required_field"],
    [{ subject: undefined }, "missing_required_field"],
    [{ text: undefined }, "missing_required_field"],
    [{ to: [] }, "validation_error"],
    [{ to: Array(51).fill("a@b.c") }, "validation_error"],
    [{ to: "" }, "validation_error"],
    [{ to: "nobody" }, "validation_error"],
    [{ to: "a@b" }, "validation_error"],
    [{ to: "a@b.c, d@e.f" }, "validation_error"],
    [{ to: ["a@b.c", "a b@c.d"] }, "validation_error"],
    [{ to: "A <a@b.c" }, "validation_error"],
    [{ to: "A\r\nBcc: x <a@b.c>" }, "validation_error"],
    [{ to: 5 }, "validation_error"],
    [{ from: "pgvigil" }, "validation_error"],
    [{ reply_to: "nobody" }, "validation_error"],
    [{ subject: 5 }, "validation_error"],
    [{ tags: [{ name: "a b", value: "c" }] }, "validation_error"],
    [{ headers: { a: 5 } }, "validation_error"],
  ])("refuses %j as a %s", async (changes, name) => {
    const { status, body } = await send(changes);
    expect([status, body.statusCode, body.name]).toEqual([422, 422, name]);
    expect(body.message).toContain(
      Object.keys(changes)[0] === "text" ? "html" : Object.keys(changes)[0],
    );
    expect(await messages()).toEqual([]);
  });

  it.each([
    [{ to: Array(50).fill("a@b.c") }],
    [{ to: "Ops Team <ops+x@mail.example.com>" }],
    [{ text: undefined, html: "<p>" }],
  ])("takes %j", async (changes) => expect((await send(changes)).status).toBe(200));

  it("refuses what is no JSON, and a list but in a batch", async () => {
    expect(await call("/emails", "POST", "{")).toMatchObject({ status: 400 });
    expect(await call("/emails", "POST", [MAIL])).toMatchObject({ status: 422 });
    expect(await call("/emails/batch", "POST", MAIL)).toMatchObject({ status: 422 });
    expect(await call("/emails", "POST", "null")).toMatchObject({ status: 422 });
    expect(await call("/nowhere", "POST", MAIL)).toMatchObject({ status: 404 });
  });

  it("takes all of a batch or nothing", async () => {
    expect((await call("/emails/batch", "POST", [MAIL, { ...MAIL, to: "x" }])).status).toBe(422);
    expect(await messages()).toEqual([]);
    const { body } = await call("/emails/batch", "POST", [MAIL, { ...MAIL, subject: "2" }], {
      "idempotency-key": "b",
    });
    expect((await messages()).map(({ id }: { id: string }) => ({ id }))).toEqual(body.data);
    const again = await call("/emails/batch", "POST", [MAIL, { ...MAIL, subject: "2" }], {
      "idempotency-key": "b",
    });
    expect(again.body).toEqual(body);
    expect(await messages()).toHaveLength(2);
  });
});

describe("idempotency keys", () => {
  const key = { "idempotency-key": "alert/1" };
  beforeEach(() => start());

  it("make one message of the same one sent again, also after a restart", async () => {
    const first = await send({}, key);
    expect((await send({}, key)).body).toEqual(first.body);
    await start();
    expect((await send({}, key)).body).toEqual(first.body);
    expect(await messages()).toHaveLength(1);
    expect((await send()).body).not.toEqual(first.body);
  });

  it("stand for one message only", async () => {
    await send({}, key);
    expect(await send({ subject: "Other" }, key))
      .toMatchObject({ status: 409, body: { name: "invalid_idempotent_request" } });
    expect(await messages()).toHaveLength(1);
  });

  it.each([[86_399, 409], [86_400, 200]])(
    "are kept: after %i s another one gets %i",
    async (seconds, status) => {
      await send({}, key);
      clock.advance(seconds);
      expect((await send({ subject: "Other" }, key)).status).toBe(status);
    },
  );

  it.each([[256, 200], [257, 400]])("of %i characters get %i", async (length, status) => {
    expect((await send({}, { "idempotency-key": "k".repeat(length) })).status).toBe(status);
  });

  it("of one that was refused stand for nothing", async () => {
    expect((await send({ to: "x" }, key)).status).toBe(422);
    expect((await send({}, key)).status).toBe(200);
  });
});

describe("the limit", () => {
  const statuses = async (count: number) => {
    const all = [];
    for (let n = 0; n < count; n += 1) all.push((await send()).status);
    return all;
  };

  it("is two requests a second, and says when to come again", async () => {
    await start({ requestsPerSecond: 2 });
    expect(await statuses(3)).toEqual([200, 200, 429]);
    const { headers, body } = await send();
    expect(body).toMatchObject({ statusCode: 429, name: "rate_limit_exceeded" });
    expect(headers.get("retry-after")).toBe("1");
    clock.advance(0.499);
    expect(await statuses(1)).toEqual([429]);
    clock.advance(0.001);
    expect(await statuses(2)).toEqual([200, 429]);
    clock.advance(60);
    expect(await statuses(3)).toEqual([200, 200, 429]);
  });

  it("is met by one each half a second", async () => {
    await start({ requestsPerSecond: 2 });
    for (let n = 0; n < 10; n += 1) {
      expect(await statuses(1)).toEqual([200]);
      clock.advance(0.5);
    }
  });

  it("is not counted against who has no key, nor asked of the Auth API", async () => {
    await start({ requestsPerSecond: 1 });
    expect((await send({}, { authorization: "Bearer x" })).status).toBe(403);
    for (let n = 0; n < 3; n += 1) {
      expect((await call("/auth/emails", "POST", MAIL, { authorization: "Bearer none" })).status)
        .toBe(200);
    }
    expect(await statuses(2)).toEqual([200, 429]);
  });
});

describe("events", () => {
  let receiver: Awaited<ReturnType<typeof startReceiver>>;
  afterEach(() => receiver.stop());

  it("are signed, one after another, and shown with what was said to them", async () => {
    receiver = await startReceiver();
    await start({ events: receiver.receiver });
    const { body: { id } } = await send({ tags: [{ name: "kind", value: "alert" }] });
    await inbox!.settled();

    const told = receiver.received.map(({ headers, body }) => {
      expect(() =>
        new Webhook(SECRET).verify(body, {
          "webhook-id": headers["svix-id"]!,
          "webhook-timestamp": headers["svix-timestamp"]!,
          "webhook-signature": headers["svix-signature"]!,
        })
      ).not.toThrow();
      return JSON.parse(body);
    });
    const at = clock.now().toISOString();
    const data = {
      ...{ created_at: at, email_id: id, from: MAIL.from, to: ["ops@example.com"], subject: "Hi" },
      tags: { kind: "alert" },
    };
    expect(told).toEqual([
      { type: "email.sent", created_at: at, data },
      { type: "email.delivered", created_at: at, data },
    ]);
    expect(new Set(receiver.received.map(({ headers }) => headers["svix-id"])).size).toBe(2);
    expect(await messages()).toMatchObject([{
      state: "delivered",
      events: [{ type: "email.sent", answer: 200 }, { type: "email.delivered", answer: 200 }],
    }]);
  });

  it("tell of bounces and complaints, and of each recipient its own", async () => {
    receiver = await startReceiver(503);
    await start({ events: receiver.receiver });
    await send({ to: ["bounced@resend.dev", "ops@example.com"], cc: "Complaint <complained@x.y>" });
    await inbox!.settled();
    const told = receiver.received.map(({ body }) => JSON.parse(body));
    expect(told.map(({ type, data }) => [type, data.to])).toEqual([
      ["email.sent", ["bounced@resend.dev", "ops@example.com", "Complaint <complained@x.y>"]],
      ["email.delivered", ["ops@example.com", "Complaint <complained@x.y>"]],
      ["email.bounced", ["bounced@resend.dev"]],
      ["email.complained", ["Complaint <complained@x.y>"]],
    ]);
    expect(told[2].data.bounce).toMatchObject({ type: "Permanent", message: expect.any(String) });
    expect((await messages())[0].events[0]).toMatchObject({ answer: 503 });
  });

  it("are not told of what was sent already, was refused, or is the Auth API's", async () => {
    receiver = await startReceiver();
    await start({ events: receiver.receiver });
    await send({ to: "x" });
    await call("/auth/emails", "POST", MAIL);
    await send({}, { "idempotency-key": "k" });
    await send({}, { "idempotency-key": "k" });
    await inbox!.settled();
    expect(receiver.received).toHaveLength(2);
  });

  it("do no harm when nobody listens", async () => {
    receiver = await startReceiver();
    await receiver.stop();
    await start({ events: receiver.receiver });
    expect((await send()).status).toBe(200);
    await inbox!.settled();
    expect((await messages())[0].events[0].answer).toMatch(/^nothing \(/);
  });
});

describe("foretell()", () => {
  const typesOf = (...to: string[]) => foretell(to).map(({ type }) => type.replace("email.", ""));

  it.each([
    ["ops@example.com", ["sent", "delivered"]],
    ["delivered@resend.dev", ["sent", "delivered"]],
    ["bounced@resend.dev", ["sent", "bounced"]],
    ["bounced+label@resend.dev", ["sent", "bounced"]],
    ["ops-BOUNCE@example.com", ["sent", "bounced"]],
    ["ops@bounce.example.com", ["sent", "delivered"]],
    ["Bouncer <ops@example.com>", ["sent", "delivered"]],
    ["Ops <bounce@example.com>", ["sent", "bounced"]],
    ["complained@resend.dev", ["sent", "delivered", "complained"]],
    ["suppressed@resend.dev", ["suppressed"]],
  ])("%s: %j", (to, types) => expect(typesOf(to)).toEqual(types));
});

describe("the page", () => {
  it("shows HTML in a frame that can do nothing, and the rest as text", async () => {
    await start();
    const html = `<p title="a">Hi</p><script>alert("x")</script>`;
    await send({ subject: "<b>1</b>", html, text: "1 < 2 & 3" });
    await send({ subject: "second", headers: { "X-<i>": "'\"" } });
    const response = await fetch(`http://127.0.0.1:${inbox!.port}/`);
    const page = await response.text();
    const policy = response.headers.get("content-security-policy")!;
    expect(policy).toContain("default-src 'none'");
    expect(policy).not.toMatch(/script-src|unsafe-eval|https?:/);
    expect(page).toContain(
      `<iframe sandbox="" title="HTML" srcdoc="&lt;p title=&quot;a&quot;&gt;Hi&lt;/p&gt;&lt;script&gt;`,
    );
    expect(page).toContain("<pre>1 &lt; 2 &amp; 3</pre>");
    expect(page).toContain("<h2>&lt;b&gt;1&lt;/b&gt;</h2>");
    expect(page).not.toMatch(/<script|<b>|<i>/);
    for (const fact of ["pgvigil &lt;alerts@example.com&gt;", "ops@example.com", "State"]) {
      expect(page).toContain(fact);
    }
    expect(page.indexOf("second")).toBeLessThan(page.indexOf("&lt;b&gt;1"));
    expect(page.match(/<iframe/g)).toHaveLength(1);
  });

  it("shows what an older inbox has kept, and is empty when told to", async () => {
    const old = { id: "1", sent_at: "2026-01-01T00:00:00Z", idempotency_key: null, subject: "Old" };
    const path = join(folder, "inbox.json");
    await writeFile(path, JSON.stringify([{ ...old, from: "a@b.c", to: ["d@e.f"], text: "t" }]));
    await start();
    expect(await (await fetch(`http://127.0.0.1:${inbox!.port}/`)).text()).toContain("Old");
    expect((await call("/messages", "DELETE")).body).toEqual({ deleted: true });
    expect(await messages()).toEqual([]);
    expect(JSON.parse(await readFile(path, "utf8"))).toEqual([]);
  });
});

describe("keys.json", () => {
  /** Of a stack from before there were mails. */
  const OLD = {
    ...{ publishable_key: "p", secret_key: "s", cron_key: "c", cron_next_key: "n" },
    ...{ jwt_secret: "j", database_password: "d", admin_email: "a", admin_password: "w" },
  };
  const write = (keys: object) => writeFile(join(folder, "keys.json"), JSON.stringify(keys));

  it("gets the keys that it has not yet, once, and keeps the others", async () => {
    await write(OLD);
    const keys = readKeys(folder);
    expect(keys).toMatchObject(OLD);
    expect(keys.resend_api_key).toMatch(/^re_[\w-]{32}$/);
    expect(mailEventsSecret(() => keys.resend_webhook_secret)).toBe(keys.resend_webhook_secret);
    expect(readKeys(folder)).toEqual(keys);
  });

  it("is not mended where it is broken", async () => {
    const { jwt_secret: _, ...broken } = OLD;
    await write(broken);
    expect(() => readKeys(folder)).toThrow("Cannot read");
  });
});
