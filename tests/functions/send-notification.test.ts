import fc from "fast-check";
import { Webhook } from "standardwebhooks";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { renderEmail } from "../../shared/alerting/messages/render-email.ts";
import { renderHeartbeat } from "../../shared/alerting/messages/render-heartbeat.ts";
import { renderPagerDuty } from "../../shared/alerting/messages/render-pagerduty.ts";
import { renderSlack } from "../../shared/alerting/messages/render-slack.ts";
import { renderWebhook } from "../../shared/alerting/messages/render-webhook.ts";
import {
  SAMPLE_KINDS,
  type SampleKind,
  samplePayload,
} from "../../shared/alerting/messages/sample-payloads.ts";
import {
  CHANNEL_KINDS,
  type ChannelKind,
  type DeliveryOutcome,
  HeartbeatPayload,
  type LeasedNotification,
} from "../../shared/contract/notifications.ts";
import { ConfigurationError } from "../../supabase/functions/_shared/env.ts";
import type { HttpAnswer } from "../../supabase/functions/_shared/http-answer.ts";
import type { Mailer, MailResult } from "../../supabase/functions/_shared/mail.ts";
import {
  OutgoingError,
  type OutgoingErrorKind,
  type OutgoingRequest,
} from "../../supabase/functions/_shared/outgoing.ts";
import {
  PAGERDUTY_URL,
  type SendDeps,
  sendNotification,
} from "../../supabase/functions/deliver-notifications/send-notification.ts";
import { afterNoon, NOON, OTHER_RUN_ID } from "../fixtures.ts";
import {
  ALERT,
  answerOf,
  KEY,
  leasedOf,
  messageOf,
  PING,
  refusalOf,
  retryOf,
  ROUTING_KEY,
  SENT,
  SIGNING,
  SLACK,
  SURROUNDINGS,
} from "./notifications.ts";

type Fate<Answer> = Answer | Error;

/** A world in which everything is accepted, unless said otherwise, and what was sent. */
function fake({ outgoing = answerOf(200), mail = { kind: "accepted", id: "mail-1" } }: {
  outgoing?: Fate<HttpAnswer>;
  mail?: Fate<MailResult>;
} = {}) {
  const requests: OutgoingRequest[] = [];
  const mails: Parameters<Mailer["send"]>[] = [];
  const settle = <Answer>(fate: Fate<Answer>) =>
    fate instanceof Error ? Promise.reject(fate) : Promise.resolve(fate);
  const deps: SendDeps = {
    now: () => NOON,
    random: () => 0,
    sendOutgoing: (request) => {
      requests.push(request);
      return settle(outgoing);
    },
    send: (...sent) => {
      mails.push(sent);
      return settle(mail);
    },
  };
  const send = (leased: LeasedNotification) => sendNotification(leased, SURROUNDINGS, deps);
  return { send, requests, mails, sentCount: () => requests.length + mails.length };
}

describe("sendNotification() to an email channel", () => {
  it("hands the mail over for all recipients, with the key of the message", async () => {
    const { send, mails, requests } = fake();
    const leased = leasedOf("email");
    expect(await send(leased)).toEqual({ outcome: "sent", provider_id: "mail-1" });
    expect(mails).toEqual([
      [renderEmail(messageOf(leased)), ["ops@example.com", "dba@example.com"], KEY],
    ]);
    expect(requests).toEqual([]);
  });

  it.each([...SAMPLE_KINDS])("takes the payload %s", async (kind) => {
    const { send, mails } = fake();
    const leased = leasedOf("email", { payload: samplePayload(kind, NOON), is_test: true });
    expect(await send(leased)).toMatchObject({ outcome: "sent" });
    expect(mails[0]![0]).toEqual(renderEmail(messageOf(leased, { isTest: true })));
  });

  it("sends the same again, whatever is known of the attempts before, and whenever it is", async () => {
    const { send, mails } = fake();
    await send(leasedOf("email"));
    await send(leasedOf("email", { attempt: 7, may_be_repeated: true, lease_token: OTHER_RUN_ID }));
    expect(mails[1]).toEqual(mails[0]);
  });

  it.each([
    [null, "", true],
    [401, "missing_api_key", false],
    [403, "invalid_api_key", false],
    [403, "validation_error", false],
    [409, "concurrent_idempotent_requests", false],
    [429, "rate_limit_exceeded", false],
    [429, "daily_quota_exceeded", false],
    [499, "", false],
    [500, "application_error", true],
    [503, "", true],
  ])("tries again after %s %s, which may have arrived: %s", async (status, name, arrived) => {
    const mail = { kind: "failed", status, name, error: "E", retryAfter: undefined } as const;
    expect(await fake({ mail }).send(leasedOf("email"))).toEqual(
      retryOf("E", { may_have_arrived: arrived }),
    );
  });

  it.each([
    [1, undefined, 2.5],
    [4, undefined, 20],
    [12, undefined, 1800],
    [1, "17", 17],
    [1, "1", 2.5],
    [1, "7200", 3600],
    [1, NOON.toUTCString(), 2.5],
    [1, afterNoon(40).toUTCString(), 40],
    [1, "soon", 2.5],
  ])("at attempt %i, asked for %j, waits for %d s", async (attempt, retryAfter, after_seconds) => {
    const mail = { kind: "failed", status: 429, name: "", error: "E", retryAfter } as const;
    expect(await fake({ mail }).send(leasedOf("email", { attempt }))).toEqual(
      retryOf("E", { after_seconds }),
    );
  });

  it.each([
    [400, "validation_error", "Invalid `to` field."],
    [404, "not_found", "The requested endpoint does not exist."],
    [422, "missing_required_field", "Missing `from` field."],
  ])("gives it up after %i %s", async (status, name, error) => {
    const mail = { kind: "failed", status, name, error, retryAfter: "5" } as const;
    expect(await fake({ mail }).send(leasedOf("email"))).toEqual(refusalOf(error));
  });

  it.each([
    ["validation_error", "Resend answered 400: API key is invalid"],
    ["invalid_api_key", "Resend answered 400: no"],
  ])("tries again where 400 is about the key: %s, %s", async (name, error) => {
    const mail = { kind: "failed", status: 400, name, error, retryAfter: undefined } as const;
    expect(await fake({ mail }).send(leasedOf("email"))).toEqual(retryOf(error));
  });

  it("takes another text under a known key for one that was sent, if an attempt may have arrived", async () => {
    const name = "invalid_idempotent_request";
    const mail = { kind: "failed", status: 409, name, error: "E", retryAfter: undefined } as const;
    const { send } = fake({ mail });
    expect(await send(leasedOf("email", { may_be_repeated: true }))).toEqual(SENT);
    // Nothing of ours has arrived: who says that it was sent would lose it.
    expect(await send(leasedOf("email"))).toEqual(refusalOf("E"));
  });

  it("tries again where the configuration is missing, and says so", async () => {
    const mail = new ConfigurationError("Cannot use RESEND_API_KEY: it is not set");
    expect(await fake({ mail }).send(leasedOf("email"))).toEqual(retryOf(mail.message));
  });

  it.each([
    [[]],
    [[""]],
    [[" "]],
    [["a@b"]],
    [["@example.com"]],
    [["ops"]],
    [["ops@example.com, all@example.com"]],
    [["ops@example.com\r\nBcc: all@example.com"]],
    [["ops@example.com\n"]],
    [["Ops <ops@example.com>"]],
    [["ops@example.com", ""]],
    [["ops@example.com", null]],
    [["ops@example.com", ["dba@example.com"]]],
    [[`${"a".repeat(65)}@example.com`]],
    [[`a@${"a".repeat(64)}.com`]],
    [[`${"a".repeat(60)}@${`${"b".repeat(60)}.`.repeat(4)}com`]],
    [Array(51).fill("ops@example.com")],
    ["ops@example.com"],
    [{ 0: "ops@example.com" }],
    [null],
    [undefined],
  ])("refuses the recipients %j, and sends nothing to nobody", async (to) => {
    const { send, sentCount } = fake();
    expect(await send(leasedOf("email", { config: { to } }))).toEqual(
      refusalOf(expect.stringMatching(/^The channel cannot be used: to/)),
    );
    expect(sentCount()).toBe(0);
  });

  it("takes 50 recipients, and whatever is an address to Resend's rivals", async () => {
    const odd = ["o'neil@example.com", "a&b/c@example.com", "a+b@example.co.uk", "x@a.b-c.d1"];
    for (const to of [Array(50).fill("ops@example.com"), odd]) {
      const { send, mails } = fake();
      expect(await send(leasedOf("email", { config: { to, send_resolved: true } }))).toMatchObject({
        outcome: "sent",
      });
      expect(mails[0]![1]).toEqual(to);
    }
  });

  it("sends to all recipients or, whatever they are, to none", async () => {
    const mailbox = fc.constantFrom("ops@example.com", "", "a@b", "a@b.de\n", "é@b.de");
    const lists = fc.oneof(fc.array(mailbox, { maxLength: 52 }), fc.jsonValue());
    await fc.assert(fc.asyncProperty(lists, async (to) => {
      const { send, mails } = fake();
      const { outcome } = await send(leasedOf("email", { config: { to } }));
      const recipients = mails.map(([, all]) => all);
      expect(recipients).toEqual(outcome === "sent" ? [to] : []);
      for (const all of recipients) {
        expect(all.length).toBeGreaterThan(0);
        expect(all.length).toBeLessThanOrEqual(50);
        for (const one of all) expect(one).toMatch(/^[^\s@]+@[^\s@]+\.[^\s@]+$/);
      }
    }));
  });
});

describe("sendNotification() to a Slack channel", () => {
  it("posts the message to the address that Vault keeps", async () => {
    const { send, requests } = fake();
    const leased = leasedOf("slack");
    expect(await send(leased)).toEqual(SENT);
    expect(requests).toEqual([{
      ...{ method: "POST", url: SLACK, headers: { "content-type": "application/json" } },
      body: JSON.stringify(renderSlack(messageOf(leased))),
    }]);
  });

  it("says of an attempt after one whose end is not known that it may be a repetition", async () => {
    const { send, requests } = fake();
    const leased = leasedOf("slack", { may_be_repeated: true });
    await send(leased);
    const [once, again] = [false, true].map((mayBeRepeated) =>
      JSON.stringify(renderSlack(messageOf(leased, { mayBeRepeated })))
    );
    expect(requests[0]!.body).toBe(again);
    expect(again).not.toBe(once);
  });
});

it.each(["pagerduty", "webhook"] as const)(
  "a repetition to a channel of kind %s, which sees its key, is the same text",
  async (kind) => {
    const { send, requests } = fake();
    await send(leasedOf(kind));
    await send(leasedOf(kind, { may_be_repeated: true, attempt: 5 }));
    expect(requests[1]).toEqual(requests[0]);
  },
);

describe("sendNotification() to a PagerDuty channel", () => {
  it.each([
    [{}, PAGERDUTY_URL],
    [
      { url: "https://events.eu.pagerduty.com/v2/enqueue" },
      "https://events.eu.pagerduty.com/v2/enqueue",
    ],
  ])("of the configuration %j posts the event to %s, with its key in it", async (config, url) => {
    const { send, requests } = fake({ outgoing: answerOf(202, '{"status":"success"}') });
    const leased = leasedOf("pagerduty", { config });
    expect(await send(leased)).toEqual(SENT);
    const body = JSON.stringify(renderPagerDuty(messageOf(leased), ROUTING_KEY));
    const headers = { "content-type": "application/json" };
    expect(requests).toEqual([{ method: "POST", url, headers, body }]);
    expect(JSON.parse(body)).toMatchObject({ routing_key: ROUTING_KEY });
  });
});

describe("sendNotification() to a webhook", () => {
  beforeEach(() => void vi.useFakeTimers({ now: NOON, toFake: ["Date"] }));
  afterEach(() => void vi.useRealTimers());

  it("posts what Alertmanager would, signed so that whoever has the secret can tell", async () => {
    const { send, requests } = fake();
    const leased = leasedOf("webhook");
    expect(await send(leased)).toEqual(SENT);
    const [{ headers, body, ...request }] = requests as [Required<OutgoingRequest>];
    expect(request).toEqual({ method: "POST", url: "https://hooks.example.com/pgvigil" });
    expect(new Webhook(SIGNING).verify(body, headers)).toEqual(renderWebhook(messageOf(leased)));
    expect(headers).toEqual({
      "content-type": "application/json",
      "webhook-id": KEY,
      "webhook-timestamp": String(NOON.getTime() / 1000),
      "webhook-signature": expect.stringMatching(/^v1,/),
    });
  });

  it("is not taken for one of another body, id, time or secret", async () => {
    const { send, requests } = fake();
    await send(leasedOf("webhook"));
    const [{ headers, body }] = requests as [Required<OutgoingRequest>];
    const other = `whsec_${btoa("another secret of 24 byt")}`;
    const stamp = String(NOON.getTime() / 1000 + 1);
    for (
      const verify of [
        () => new Webhook(SIGNING).verify(`${body} `, headers),
        () => new Webhook(SIGNING).verify(body, { ...headers, "webhook-id": OTHER_RUN_ID }),
        () => new Webhook(SIGNING).verify(body, { ...headers, "webhook-timestamp": stamp }),
        () => new Webhook(other).verify(body, headers),
      ]
    ) expect(verify).toThrow("No matching signature found");
  });

  it("has the same id at each attempt, and the time of each", async () => {
    const requests: OutgoingRequest[] = [];
    for (const seconds of [0, 61.7]) {
      vi.setSystemTime(afterNoon(seconds));
      const deps = {
        ...{ now: () => afterNoon(seconds), random: () => 0, send: () => Promise.reject() },
        sendOutgoing: (request: OutgoingRequest) => {
          requests.push(request);
          return Promise.resolve(answerOf(500));
        },
      };
      await sendNotification(
        leasedOf("webhook", { attempt: requests.length + 1 }),
        SURROUNDINGS,
        deps,
      );
      const { body, headers } = requests.at(-1) as Required<OutgoingRequest>;
      expect(() => new Webhook(SIGNING).verify(body, headers)).not.toThrow();
    }
    expect(requests.map(({ headers }) => [headers!["webhook-id"], headers!["webhook-timestamp"]]))
      .toEqual([0, 61].map((seconds) => [KEY, String(NOON.getTime() / 1000 + seconds)]));
  });

  it("is not signed without a secret, and has its id", async () => {
    const { send, requests } = fake();
    expect(await send(leasedOf("webhook", { secret: null }))).toEqual(SENT);
    expect(requests[0]!.headers).toEqual({ "content-type": "application/json", "webhook-id": KEY });
  });

  it.each(["", "whsec_", "whsec_====", "whsec_é", "s3cr3t s3cr3t"])(
    "is not sent with a signing secret that is none: %j",
    async (secret) => {
      const { send, sentCount } = fake();
      expect(await send(leasedOf("webhook", { secret }))).toEqual(
        refusalOf("The channel cannot be used: its signing secret is not whsec_ and base64"),
      );
      expect(sentCount()).toBe(0);
    },
  );
});

describe("sendNotification() to a heartbeat", () => {
  it.each([
    ["success", PING, PING],
    ["start", PING, `${PING}/start`],
    ["fail", PING, `${PING}/fail`],
    ["success", `${PING}/`, `${PING}/`],
    ["start", `${PING}/`, `${PING}/start`],
    ["fail", `${PING}/?create=1&rid=a/b`, `${PING}/fail?create=1&rid=a/b`],
    ["success", `${PING}?create=1`, `${PING}?create=1`],
    ["start", `${PING}?create=1`, `${PING}/start?create=1`],
    ["success", "https://ping.example.com", "https://ping.example.com/"],
    ["fail", "https://ping.example.com", "https://ping.example.com/fail"],
    ["fail", "https://ping.example.com:8443/a%2Fb/#x", "https://ping.example.com:8443/a%2Fb/fail"],
  ])("posts %s to its address: %s, %s", async (signal, secret, url) => {
    const { send, requests } = fake();
    const payload = HeartbeatPayload.parse({
      type: "heartbeat",
      signal,
      reason: "alerts were evaluated",
    });
    const leased = leasedOf("heartbeat", { secret, payload });
    expect(await send(leased)).toEqual(SENT);
    const { body } = renderHeartbeat({ ...messageOf(leased), payload });
    expect(requests).toEqual([{ method: "POST", url, body }]);
    expect(body).toContain("alerts were evaluated");
  });

  it("says of a test that it is one", async () => {
    const { send, requests } = fake();
    await send(leasedOf("heartbeat", { is_test: true }));
    expect(requests[0]!.body).toMatch(/^\[TEST\] /);
  });

  it.each([
    ["OK (not found)", refusalOf("The other side answered 200, but did not take it: not found")],
    [
      "OK (rate limited)\n",
      retryOf("The other side answered 200, but did not take it: rate limited"),
    ],
    ["OK", SENT],
    ["", SENT],
    ["It is OK (not found)", SENT],
  ])("knows what healthchecks.io means by 200 %j", async (body, outcome) => {
    const { send } = fake({ outgoing: answerOf(200, body) });
    expect(await send(leasedOf("heartbeat"))).toEqual(outcome);
  });

  it("takes 200 of others for what it is, whatever they say", async () => {
    const { send } = fake({ outgoing: answerOf(200, "OK (not found)") });
    expect(await send(leasedOf("webhook"))).toEqual(SENT);
  });

  it.each(["alert", "incident-alert"] as SampleKind[])("tells no %s", async (kind) => {
    const { send, sentCount } = fake();
    expect(await send(leasedOf("heartbeat", { payload: samplePayload(kind, NOON) }))).toEqual(
      refusalOf("A heartbeat channel tells nothing but signs of life"),
    );
    expect(sentCount()).toBe(0);
  });

  it.each(["", "hc-ping.com/s3cr3ts3cr3t", "https://[s3cr3ts3cr3t", "https://"])(
    "refuses the address %j without repeating it",
    async (secret) => {
      const { send, sentCount } = fake();
      expect(await send(leasedOf("heartbeat", { secret }))).toEqual(
        refusalOf("The channel cannot be used: its secret is no address"),
      );
      expect(sentCount()).toBe(0);
    },
  );
});

const OUTGOING_KINDS = ["slack", "pagerduty", "webhook", "heartbeat"] as const;

describe.each(OUTGOING_KINDS)("what a channel of kind %s is answered", (kind) => {
  it.each([200, 201, 202, 204, 299])("%i: it is sent", async (status) => {
    expect(await fake({ outgoing: answerOf(status, "no") }).send(leasedOf(kind))).toEqual(SENT);
  });

  it.each([
    [408, false],
    [425, false],
    [429, false],
    [500, true],
    [502, true],
    [503, true],
    [599, true],
  ])("%i: it is tried again, and may have arrived: %s", async (status, may_have_arrived) => {
    expect(await fake({ outgoing: answerOf(status, " not now \n") }).send(leasedOf(kind))).toEqual(
      retryOf(`The other side answered ${status}: not now`, { may_have_arrived }),
    );
    const asking = answerOf(status, "", { "retry-after": "100" });
    expect(await fake({ outgoing: asking }).send(leasedOf(kind, { attempt: 3 }))).toEqual(
      retryOf(`The other side answered ${status}`, { may_have_arrived, after_seconds: 100 }),
    );
  });

  it.each([400, 401, 403, 404, 405, 410, 413, 422, 424, 426, 428, 430, 499])(
    "%i: it is given up",
    async (status) => {
      const outgoing = answerOf(status, "no_service", { "retry-after": "100" });
      expect(await fake({ outgoing }).send(leasedOf(kind))).toEqual(
        refusalOf(`The other side answered ${status}: no_service`),
      );
    },
  );

  it.each([300, 301, 302, 304, 307, 308, 399])("%i: it is given up, and why", async (status) => {
    const outgoing = answerOf(status, "", { location: "https://elsewhere.example.com/" });
    const { send, requests } = fake({ outgoing });
    expect(await send(leasedOf(kind))).toEqual(
      refusalOf(`The other side answered ${status}; redirects are not followed`),
    );
    expect(requests).toHaveLength(1);
  });

  it.each([
    ["timed_out", true],
    ["timed_out", false],
    ["unreachable", true],
    ["unreachable", false],
    ["malformed", true],
  ] as [OutgoingErrorKind, boolean][])(
    "nothing, for it is %s: it is tried again, and may have arrived: %s",
    async (reason, may_have_arrived) => {
      const outgoing = new OutgoingError(reason, "Cannot send to hooks.example.com", {
        mayHaveArrived: may_have_arrived,
      });
      expect(await fake({ outgoing }).send(leasedOf(kind, { attempt: 2 }))).toEqual(
        retryOf(outgoing.message, { after_seconds: 5, may_have_arrived }),
      );
    },
  );

  it("nothing, for it may not be sent there: it is given up", async () => {
    const outgoing = new OutgoingError("refused", "Cannot send to a.test: only https is allowed");
    expect(await fake({ outgoing }).send(leasedOf(kind))).toEqual(refusalOf(outgoing.message));
  });

  it("nothing, for it is not clear where may be sent to: it is tried again", async () => {
    const outgoing = new ConfigurationError("Cannot use PGVIGIL_ALLOW_LOOPBACK: it is neither");
    expect(await fake({ outgoing }).send(leasedOf(kind))).toEqual(retryOf(outgoing.message));
  });

  it("nothing, for what nobody has thought of: it is given up, and does not throw", async () => {
    const outgoing = new TypeError("x is not a function");
    expect(await fake({ outgoing }).send(leasedOf(kind))).toEqual(
      refusalOf("TypeError: x is not a function"),
    );
  });
});

describe("what sendNotification() does not send at all", () => {
  const refusal = async (leased: LeasedNotification) => {
    const { send, sentCount } = fake();
    const outcome = await send(leased);
    expect(sentCount()).toBe(0);
    return outcome;
  };

  it.each(
    CHANNEL_KINDS.flatMap((kind) =>
      [null, {}, [], "text", { type: "poem" }, { ...ALERT, alerts: [{}] }, { type: "alerts" }].map(
        (payload) => [kind, payload] as const,
      )
    ),
  )("by a channel of kind %s: the payload %j", async (kind, payload) => {
    expect(await refusal(leasedOf(kind, { payload }))).toEqual(
      refusalOf(expect.stringMatching(/^The message is none: /)),
    );
  });

  it.each(["slack", "pagerduty", "heartbeat"] as const)(
    "by a channel of kind %s: anything without its secret",
    async (kind) => {
      expect(await refusal(leasedOf(kind, { secret: null }))).toEqual(
        refusalOf("The channel cannot be used: Vault has no secret of it"),
      );
    },
  );

  it.each([
    ["webhook", {}],
    ["webhook", { url: "" }],
    ["webhook", { url: "hooks.example.com" }],
    ["webhook", { url: 7 }],
    ["pagerduty", { url: "" }],
    ["pagerduty", { url: null }],
  ] as [ChannelKind, Record<string, unknown>][])(
    "by a channel of kind %s: anything with the configuration %j",
    async (kind, config) => {
      expect(await refusal(leasedOf(kind, { config }))).toEqual(
        refusalOf(expect.stringMatching(/^The channel cannot be used: url: /)),
      );
    },
  );

  it("by a channel of a kind that there will be one day", async () => {
    expect(await refusal({ ...leasedOf("slack"), kind: "pigeon" as ChannelKind })).toEqual(
      refusalOf("There is no way to send by a channel of kind pigeon"),
    );
  });
});

describe("what sendNotification() says of a failure", () => {
  const errorOf = (outcome: DeliveryOutcome): string =>
    outcome.outcome === "sent" ? "" : outcome.error;

  it.each(
    [
      ["slack", SLACK, (secret: string) => `Cannot POST ${new URL(secret).pathname}`],
      ["slack", SLACK, (secret: string) => secret],
      ["heartbeat", PING, (secret: string) => `no check at ${new URL(secret).pathname}/start`],
      ["heartbeat", `${PING}?key=s3cr3tk3y&x=1`, () => "?key=s3cr3tk3y&amp;x=1"],
      ["pagerduty", ROUTING_KEY, (secret: string) => `{"errors":["no such key: ${secret}"]}`],
      ["webhook", SIGNING, (secret: string) => `signed with ${secret}`],
    ] as const,
  )("by a channel of kind %s repeats nothing of its secret", async (kind, secret, echo) => {
    const pieces = secret.replace(/^(https:..[^/]*|whsec_)/, "").match(/[\w-]{8,}/g)!;
    expect(pieces.length).toBeGreaterThan(0);
    for (const status of [302, 404, 429, 500]) {
      const { send } = fake({ outgoing: answerOf(status, echo(secret)) });
      const error = errorOf(await send(leasedOf(kind, { secret })));
      expect(error).toMatch(/^The other side answered/);
      // Nor the beginning of a piece that is cut off.
      for (const piece of pieces) expect(error).not.toContain(piece.slice(0, 6));
    }
    const thrown = fake({ outgoing: new TypeError(`Invalid URL: ${secret}`) });
    for (const piece of pieces) {
      expect(errorOf(await thrown.send(leasedOf(kind, { secret })))).not.toContain(piece);
    }
  });

  it("repeats nothing of the address of a webhook but its host", async () => {
    const url = "https://chat.example.com/api/webhooks/1234567890/t0k3nT0k3n?sig=s1gn4ture";
    const { send } = fake({ outgoing: answerOf(404, `Cannot POST ${url} at chat.example.com`) });
    expect(errorOf(await send(leasedOf("webhook", { config: { url } })))).toBe(
      "The other side answered 404: Cannot POST https://chat.example.com/api/…/…/…?sig=… at chat.example.com",
    );
  });

  it("repeats no beginning of a secret, wherever it is cut", async () => {
    const { pathname } = new URL(PING);
    for (let before = 0; before < 400; before += 3) {
      const { send } = fake({ outgoing: answerOf(404, `${"x".repeat(before)}${pathname}`) });
      expect(errorOf(await send(leasedOf("heartbeat")))).not.toContain(pathname.slice(0, 7));
    }
  });

  it("repeats no key and no token that the other side has sent", async () => {
    const body = "authorization: Bearer abcdefgh12345678, sb_secret_0123456789abcdef";
    const { send } = fake({ outgoing: answerOf(401, body) });
    expect(errorOf(await send(leasedOf("webhook")))).toBe(
      "The other side answered 401: authorization: Bearer …, sb_secret_…",
    );
  });

  it("is a line that the database takes, whatever was answered", async () => {
    const bodies = fc.oneof(
      fc.string({ unit: "binary", maxLength: 400 }),
      fc.constantFrom("\0", "a\r\nb", "\ud83d", `${"x".repeat(270)}${"🚨".repeat(20)}`),
    );
    const statuses = fc.constantFrom(301, 404, 503);
    const kinds = fc.constantFrom("webhook" as const, "heartbeat" as const);
    await fc.assert(fc.asyncProperty(kinds, statuses, bodies, async (kind, status, body) => {
      const error = errorOf(await fake({ outgoing: answerOf(status, body) }).send(leasedOf(kind)));
      expect(error.length).toBeLessThanOrEqual(300);
      // Postgres takes neither in JSON: all that was sent by the same lease would go unrecorded.
      expect(error).not.toMatch(/[\p{Cc}\p{Cs}]/u);
      expect(error).toMatch(new RegExp(`^The other side answered ${status}`));
    }));
    const mail = {
      ...{ kind: "failed", status: 500, name: "", retryAfter: undefined } as const,
      error: `a\0b\nc\ud83d ${"🚨".repeat(200)}`,
    };
    const error = errorOf(await fake({ mail }).send(leasedOf("email")));
    expect(error.length).toBeLessThanOrEqual(300);
    expect(error).not.toMatch(/[\p{Cc}\p{Cs}]/u);
  });
});
