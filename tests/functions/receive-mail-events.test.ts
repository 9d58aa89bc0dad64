import { Webhook } from "standardwebhooks";
import { describe, expect, it } from "vitest";
import { MAIL_EVENT_KINDS } from "../../shared/contract/mail-events.ts";
import { DatabaseError } from "../../supabase/functions/_shared/database.ts";
import { endpoint } from "../../supabase/functions/_shared/endpoint.ts";
import { ConfigurationError, mailEventsSecret } from "../../supabase/functions/_shared/env.ts";
import {
  anybody,
  EVENT_BYTES_LIMIT,
  NAME,
  readMailEvent,
  receiveMailEvent,
  TOLERANCE_SECONDS,
} from "../../supabase/functions/receive-mail-events/handler.ts";
import { afterNoon, answeringDatabase, NOON, sampleWorld } from "../fixtures.ts";

const toSecret = (seed: number, bytes = 24) => {
  const key = String.fromCharCode(
    ...Array.from({ length: bytes }, (_, n) => (seed * 31 + n) % 256),
  );
  return `whsec_${btoa(key)}`;
};
const SECRET = toSecret(1);
const OTHER_SECRET = toSecret(2);
const ID = "msg_2Lh9KRb0pzN4LePd3XiA4v12Axj";

/** An event as Resend sends it, of a type and with what belongs to that. */
const toEvent = (type: string, data: object = {}) => ({
  type,
  created_at: "2026-02-01T11:59:58.126Z",
  data: {
    created_at: "2026-02-01 11:59:57.894719+00",
    email_id: "56761188-7520-42d8-8898-ff6fc54ce618",
    message_id: "<111-222-333@email.example.com>",
    from: "pgvigil <alerts@example.com>",
    to: ["ops@example.com", "dba@example.com"],
    subject: "[P1] Disk is full",
    tags: { category: "alert" },
    ...data,
  },
});
const DELIVERED = JSON.stringify(toEvent("email.delivered"));

interface Delivery {
  body?: string | Uint8Array<ArrayBuffer>;
  /** What is signed, if that is not what is sent. */
  signed?: string;
  secrets?: readonly string[];
  at?: Date;
  prefix?: string;
  headers?: Record<string, string | null>;
}

function build({ outcome = "recorded", secret = () => SECRET }: {
  outcome?: unknown;
  secret?: () => string;
} = {}) {
  const { database, calls } = answeringDatabase(outcome instanceof Error ? outcome : { outcome });
  const { world, lines } = sampleWorld();
  const deps = { now: () => NOON, secret, database };
  const fetch = endpoint(
    {
      ...{ name: NAME, methods: ["POST"], paths: [""], authorize: anybody },
      input: (request) => readMailEvent(request, deps),
    },
    (event, call) => receiveMailEvent(event, call, deps),
    world,
  );
  const deliver = async (
    { body = DELIVERED, signed, secrets = [SECRET], at = NOON, prefix = "svix", headers = {} }:
      Delivery = {},
  ) => {
    const text = signed ?? (typeof body === "string" ? body : "");
    const all: Record<string, string | null> = {
      [`${prefix}-id`]: ID,
      [`${prefix}-timestamp`]: String(at.getTime() / 1000),
      [`${prefix}-signature`]: secrets.map((key) => new Webhook(key).sign(ID, at, text)).join(" "),
      ...headers,
    };
    const given = Object.entries(all).filter((entry): entry is [string, string] =>
      entry[1] !== null
    );
    const response = await fetch(
      new Request(`http://functions.test/${NAME}`, { method: "POST", body, headers: given }),
    );
    const answer = await response.json();
    return {
      status: response.status,
      slug: answer.type?.replace("urn:pgvigil:problem:", ""),
      answer,
    };
  };
  return { deliver, calls, lines };
}

describe("POST receive-mail-events", () => {
  it("records what became of a mail, and says no more in the log than needed", async () => {
    const { deliver, calls, lines } = build();
    expect(await deliver()).toMatchObject({ status: 200, answer: { outcome: "recorded" } });
    expect(calls).toEqual([["record_mail_event", {
      p_event_id: ID,
      p_provider_id: "56761188-7520-42d8-8898-ff6fc54ce618",
      p_kind: "delivered",
      p_recipients: ["ops@example.com", "dba@example.com"],
      p_reason: null,
      p_occurred_at: "2026-02-01T11:59:58.126Z",
    }]]);
    expect(lines.map(({ line }) => JSON.parse(line))).toMatchObject([{
      level: "info",
      fields: { event_id: ID, kind: "delivered", outcome: "recorded" },
    }]);
    expect(JSON.stringify(lines)).not.toContain("@example.com");
  });

  it.each([
    ["email.sent", {}, "sent", null],
    ["email.delivered", {}, "delivered", null],
    ["email.delivery_delayed", {}, "delayed", null],
    ["email.complained", {}, "complained", null],
    ["email.bounced", {}, "bounced", null],
    ["email.bounced", { bounce: {} }, "bounced", null],
    ["email.bounced", { bounce: { message: " \n" } }, "bounced", null],
    ["email.bounced", { bounce: { message: "Full." } }, "bounced", "Full."],
    [
      "email.bounced",
      { bounce: { type: "Permanent", subType: "General", message: "No such\r\n mailbox." } },
      "bounced",
      "Permanent, General: No such mailbox.",
    ],
    [
      "email.failed",
      { failed: { reason: "reached_daily_quota" } },
      "failed",
      "reached_daily_quota",
    ],
    ["email.failed", {}, "failed", null],
    ["email.failed", { failed: {} }, "failed", null],
    [
      "email.suppressed",
      { suppressed: { type: "OnAccountSuppressionList", message: "Not sent." } },
      "bounced",
      "suppressed: OnAccountSuppressionList: Not sent.",
    ],
    ["email.suppressed", {}, "bounced", null],
  ])("takes %s %j for %s: %s", async (type, data, kind, reason) => {
    const { deliver, calls } = build();
    expect((await deliver({ body: JSON.stringify(toEvent(type, data)) })).status).toBe(200);
    expect(calls).toMatchObject([["record_mail_event", {
      p_kind: kind,
      p_reason: reason,
    }]]);
    expect(MAIL_EVENT_KINDS).toContain(kind);
  });

  it("keeps addresses and secrets out of a reason, and cuts it", async () => {
    const { deliver, calls } = build();
    const message = `550 <ops@example.com>: unknown user "o.p's+s@mail.example.com" ${SECRET} ` +
      `sb_secret_x ${"x".repeat(500)}`;
    await deliver({ body: JSON.stringify(toEvent("email.bounced", { bounce: { message } })) });
    const [[, { p_reason }]] = calls as [[string, { p_reason: string }]];
    expect(p_reason).toMatch(/^550 <…@…>: unknown user "…@…" /);
    expect(p_reason).not.toContain("sb_secret_x");
    expect(p_reason).toHaveLength(300);
  });

  it("hands on a reason that the database takes, whatever is in it", async () => {
    const { deliver, calls } = build();
    await deliver({
      body: JSON.stringify(toEvent("email.bounced", { bounce: { message: "5\0 5 0\ud83d" } })),
    });
    expect(calls).toMatchObject([["record_mail_event", { p_reason: "5\ufffd 5 0\ufffd" }]]);
  });

  it.each(["repeated", "unknown"])("is content when the database says %s", async (outcome) => {
    const { deliver } = build({ outcome });
    expect(await deliver()).toMatchObject({ status: 200, answer: { outcome } });
  });

  it("hands on the same event twice with the same id", async () => {
    const { deliver, calls } = build();
    await deliver();
    await deliver({ at: afterNoon(5) });
    expect(calls[1]).toEqual(calls[0]);
  });

  it.each([
    ["email.opened", toEvent("email.opened")],
    ["email.received", { type: "email.received", created_at: "x", data: { to: [] } }],
    ["contact.created", { type: "contact.created", data: {} }],
    ["something new", { type: "something.new" }],
  ])("leaves %s alone", async (_, event) => {
    const { deliver, calls } = build();
    expect(await deliver({ body: JSON.stringify(event) }))
      .toEqual({ status: 200, slug: undefined, answer: { ignored: true } });
    expect(calls).toEqual([]);
  });

  it("takes the headers by the names that the standard has for them", async () => {
    const { deliver } = build();
    expect((await deliver({ prefix: "webhook" })).status).toBe(200);
  });

  it("takes one good signature of several, for as long as the secret is being changed", async () => {
    const { deliver } = build();
    expect((await deliver({ secrets: [OTHER_SECRET, SECRET] })).status).toBe(200);
    expect((await deliver({ secrets: [SECRET, OTHER_SECRET] })).status).toBe(200);
    expect((await deliver({ secrets: [OTHER_SECRET, OTHER_SECRET] })).slug).toBe("signature");
  });

  it.each([
    [-TOLERANCE_SECONDS, 200],
    [-TOLERANCE_SECONDS - 1, 401],
    [TOLERANCE_SECONDS, 200],
    [TOLERANCE_SECONDS + 1, 401],
  ])("answers what was signed %i s from now with %i", async (seconds, status) => {
    const { deliver, calls } = build();
    expect((await deliver({ at: afterNoon(seconds) })).status).toBe(status);
    expect(calls).toHaveLength(status === 200 ? 1 : 0);
  });

  const good = (at = NOON) => new Webhook(SECRET).sign(ID, at, DELIVERED);
  it.each<[string, Delivery]>([
    ["another body", { body: DELIVERED.replace("delivered", "bounced"), signed: DELIVERED }],
    ["a body with more white space", { body: `${DELIVERED} `, signed: DELIVERED }],
    ["a byte order mark before the body", { body: `\ufeff${DELIVERED}`, signed: DELIVERED }],
    ["an empty body", { body: "", signed: DELIVERED }],
    ["a body that is not UTF-8", { body: new Uint8Array([0xff, 0xfe]) }],
    ["another secret", { secrets: [OTHER_SECRET] }],
    ["another id", { headers: { "svix-id": `${ID}x` } }],
    ["another time", { headers: { "svix-timestamp": String(NOON.getTime() / 1000 + 1) } }],
    ["a time that is not all number", {
      headers: { "svix-timestamp": `${NOON.getTime() / 1000}, 1` },
    }],
    ["a time in milliseconds", { headers: { "svix-timestamp": String(NOON.getTime()) } }],
    ["a negative time", { headers: { "svix-timestamp": "-1" } }],
    ["no id", { headers: { "svix-id": null } }],
    ["no time", { headers: { "svix-timestamp": null } }],
    ["no signature", { headers: { "svix-signature": null } }],
    ["an empty signature", { headers: { "svix-signature": "" } }],
    ["a signature of another version", {
      headers: { "svix-signature": good().replace("v1", "v2") },
    }],
    ["a signature without a version", { headers: { "svix-signature": good().slice(3) } }],
    ["half a signature", { headers: { "svix-signature": good().slice(0, -1) } }],
    ["more than a signature", { headers: { "svix-signature": `${good()}A` } }],
    ["an id that is too long", { headers: { "svix-id": "x".repeat(201) } }],
    ["headers of both names, mixed", {
      prefix: "webhook",
      headers: { "svix-id": ID, "webhook-id": null },
    }],
  ])("refuses %s", async (_, delivery) => {
    const { deliver, calls, lines } = build();
    expect(await deliver(delivery)).toMatchObject({ status: 401, slug: "signature" });
    expect(calls).toEqual([]);
    expect(JSON.stringify(lines)).not.toContain(SECRET.slice(6));
  });

  it.each([
    [DELIVERED.length, 200],
    [EVENT_BYTES_LIMIT, 200],
    [EVENT_BYTES_LIMIT + 1, 413],
  ])("answers a body of %i bytes with %i", async (bytes, status) => {
    const { deliver } = build();
    expect((await deliver({ body: DELIVERED.padEnd(bytes, " ") })).status).toBe(status);
  });

  it.each([
    ["no JSON", "{", "json"],
    ["a list", "[]", "body"],
    ["no type", "{}", "body"],
    ["no data", '{"type":"email.sent","created_at":"2026-02-01T12:00:00Z"}', "body"],
    ["no id of a mail", JSON.stringify(toEvent("email.sent", { email_id: "" })), "body"],
    [
      "too many recipients",
      JSON.stringify(toEvent("email.sent", { to: Array(51).fill("a@b.c") })),
      "body",
    ],
    [
      "a time without a zone",
      JSON.stringify({ ...toEvent("email.sent"), created_at: "2026-02-01T12:00:00" }),
      "body",
    ],
  ])("refuses %s, though it is signed", async (_, body, slug) => {
    const { deliver, calls } = build();
    expect((await deliver({ body })).slug).toBe(slug);
    expect(calls).toEqual([]);
  });

  it.each(["2026-02-01 12:00:00.126789+00", "2026-02-01T12:00:00+02:00", "2026-02-01T12:00:00Z"])(
    "hands on the time %s as it is",
    async (created_at) => {
      const { deliver, calls } = build();
      await deliver({ body: JSON.stringify({ ...toEvent("email.sent"), created_at }) });
      expect(calls).toMatchObject([["record_mail_event", { p_occurred_at: created_at }]]);
    },
  );

  it("is not configured without a secret, which it tells nobody who signed nothing", async () => {
    for (const value of [undefined, "whsec_short"]) {
      const { deliver, calls } = build({ secret: () => mailEventsSecret(() => value) });
      expect(await deliver()).toMatchObject({ status: 500, slug: "configuration" });
      expect(await deliver({ headers: { "svix-signature": null } })).toMatchObject({ status: 401 });
      expect(calls).toEqual([]);
    }
  });

  it("asks to be called again when the database does not answer", async () => {
    const outcome = new DatabaseError("record_mail_event", "timed_out", "57014", "too slow");
    expect(await build({ outcome }).deliver())
      .toMatchObject({ status: 503, slug: "database-unavailable" });
  });

  it("is surprised by another answer of the database", async () => {
    const answer = await build({ outcome: "lost" }).deliver();
    expect(answer.status).toBe(500);
  });
});

describe("mailEventsSecret()", () => {
  const read = (value: string | undefined) =>
    mailEventsSecret((name) => name === "RESEND_WEBHOOK_SECRET" ? value : undefined);

  it.each([24, 25, 26, 32, 64])("takes a secret of %i bytes", (bytes) => {
    const secret = toSecret(3, bytes);
    expect(read(` ${secret}\n`)).toBe(secret);
    expect(() => new Webhook(secret)).not.toThrow();
  });

  it.each([
    ...[undefined, "", " ", "whsec_", SECRET.slice(6), `WHSEC_${SECRET.slice(6)}`, `${SECRET}!`],
    ...[toSecret(1, 23), toSecret(1, 65), `${SECRET}A`, `${SECRET}=`, `${SECRET.slice(0, -1)}-`],
  ])("refuses %j without repeating it", (value) => {
    let message = "";
    try {
      read(value);
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigurationError);
      ({ message } = error as Error);
    }
    expect(message).toMatch(/^Cannot use RESEND_WEBHOOK_SECRET: /);
    if ((value?.length ?? 0) > 10) expect(message).not.toContain(value!.slice(6, 20));
  });
});
