import { Webhook } from "standardwebhooks";
import { z } from "zod";
import type { Message } from "../../../shared/alerting/messages/message.ts";
import { renderEmail } from "../../../shared/alerting/messages/render-email.ts";
import { type Ping, renderHeartbeat } from "../../../shared/alerting/messages/render-heartbeat.ts";
import { renderPagerDuty } from "../../../shared/alerting/messages/render-pagerduty.ts";
import { renderSlack } from "../../../shared/alerting/messages/render-slack.ts";
import { renderWebhook } from "../../../shared/alerting/messages/render-webhook.ts";
import { readRetryAfter, retryDelay } from "../../../shared/alerting/retry-delay.ts";
import {
  type DeliveryOutcome,
  type LeasedNotification,
  NotificationPayload,
} from "../../../shared/contract/notifications.ts";
import { ConfigurationError } from "../_shared/env.ts";
import type { HttpAnswer } from "../_shared/http-answer.ts";
import type { Mailer } from "../_shared/mail.ts";
import { OutgoingError, type OutgoingRequest } from "../_shared/outgoing.ts";
import { summarize } from "../_shared/redact.ts";

/** What sending needs of the world. */
export interface SendDeps extends Mailer {
  now(): Date;
  /** At least 0 and less than 1. */
  random(): number;
  /** @throws {OutgoingError} */
  sendOutgoing(request: OutgoingRequest): Promise<HttpAnswer>;
}

/** What messages of a lease are shown with. */
export type Surroundings = Pick<Message, "timeZone" | "externalUrl">;

/** Unless the channel names another, e.g. of the European region. */
export const PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue";

/** As `monitor.refuse_channel` has it: what it takes can be sent to. */
const MAILBOX =
  /^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$/;

const Recipients = z.object({
  to: z.array(z.string().max(254).regex(MAILBOX, "no address of a mailbox")).min(1).max(50),
});
const Address = z.object({ url: z.url() });

/** What is wrong with the channel or the message itself: trying again is no use. */
class Refusal extends Error {
  override readonly name = "Refusal";
}

/**
 * Sends one message by its channel. Never throws: whatever happens is an outcome. Its error is one line that can be stored,
 * without what is secret of the channel, even if the other side has said it.
 */
export async function sendNotification(
  leased: LeasedNotification,
  surroundings: Surroundings,
  deps: SendDeps,
): Promise<DeliveryOutcome> {
  const outcome = await trySending(leased, surroundings, deps);
  if (outcome.outcome === "sent") return outcome;
  return { ...outcome, error: summarize(outcome.error, (line) => conceal(line, leased)) };
}

async function trySending(
  leased: LeasedNotification,
  surroundings: Surroundings,
  deps: SendDeps,
): Promise<DeliveryOutcome> {
  const retry = (error: string, mayHaveArrived: boolean, retryAfter?: string): DeliveryOutcome => ({
    outcome: "retry",
    error,
    after_seconds: retryDelay(
      leased.attempt,
      deps.random(),
      readRetryAfter(retryAfter, deps.now()),
    ),
    may_have_arrived: mayHaveArrived,
  });
  try {
    const message = toMessage(leased, surroundings);
    if (leased.kind === "email") {
      return await sendMail(message, leased, deps, retry);
    }
    const request = toRequest(message, leased, deps.now());
    const answer = await deps.sendOutgoing(request);
    return leased.kind === "heartbeat" ? judgePong(answer, retry) : judgeAnswer(answer, retry);
  } catch (error) {
    if (error instanceof Refusal) return { outcome: "refused", error: error.message };
    if (error instanceof OutgoingError) {
      return error.kind === "refused"
        ? { outcome: "refused", error: error.message }
        : retry(error.message, error.mayHaveArrived);
    }
    // A key that is missing now may be there in an hour; the channel fails meanwhile, and says why.
    if (error instanceof ConfigurationError) return retry(error.message, false);
    // What cannot be rendered will not be by being tried again.
    return { outcome: "refused", error: String(error) };
  }
}

/**
 * A text without what of a secret, or of an address, is long enough to be one: servers answer with the path that they do
 * not know, and those of many chats are as good as a password.
 */
function conceal(text: string, { secret, config: { url } }: LeasedNotification): string {
  const parts = [secret, url].filter((part) => typeof part === "string")
    .flatMap((part) => part.replace(/^(whsec_|https?:\/\/[^/?#]*)/, "").match(/[\w-]{6,}/g) ?? []);
  return parts.toSorted((one, other) => other.length - one.length)
    .reduce((left, part) => left.replaceAll(part, "…"), text);
}

type Retry = (error: string, mayHaveArrived: boolean, retryAfter?: string) => DeliveryOutcome;

/** Only Slack takes twice what it is sent twice. The others must be sent the same again: for Resend another text is an error. */
function toMessage(leased: LeasedNotification, surroundings: Surroundings): Message {
  const payload = NotificationPayload.safeParse(leased.payload);
  if (!payload.success) {
    throw new Refusal(`The message is none: ${z.prettifyError(payload.error)}`);
  }
  return {
    payload: payload.data,
    channel: leased.channel,
    ...surroundings,
    at: new Date(leased.created_at),
    mayBeRepeated: leased.kind === "slack" && leased.may_be_repeated,
    isTest: leased.is_test,
    idempotencyKey: leased.idempotency_key,
  };
}

async function sendMail(
  message: Message,
  leased: LeasedNotification,
  deps: SendDeps,
  retry: Retry,
): Promise<DeliveryOutcome> {
  const { to } = readConfig(Recipients, leased);
  const result = await deps.send(renderEmail(message), to, leased.idempotency_key);
  if (result.kind === "accepted") return { outcome: "sent", provider_id: result.id };

  const { status, name, error, retryAfter } = result;
  if (name === "invalid_idempotent_request") {
    // An earlier attempt was taken, and we were not told: since then the time zone or the address of the dashboard has changed.
    if (leased.may_be_repeated) return { outcome: "sent", provider_id: null };
    return { outcome: "refused", error };
  }
  // Of a key that is wrong Resend says 400, 401 or 403.
  const isOfKey = /api.key/i.test(`${name} ${error}`);
  if ((status === 400 && !isOfKey) || status === 404 || status === 422) {
    return { outcome: "refused", error };
  }
  return retry(error, status === null || status >= 500, retryAfter);
}

function toRequest(message: Message, leased: LeasedNotification, now: Date): OutgoingRequest {
  switch (leased.kind) {
    case "slack":
      return post(readSecret(leased), renderSlack(message));
    case "pagerduty": {
      const { url = PAGERDUTY_URL } = readConfig(Address.partial(), leased);
      return post(url, renderPagerDuty(message, readSecret(leased)));
    }
    case "webhook": {
      const { url } = readConfig(Address, leased);
      const { body = "", ...request } = post(url, renderWebhook(message));
      const signature = leased.secret === null
        ? {}
        : sign(leased.secret, leased.idempotency_key, now, body);
      const id = { "webhook-id": leased.idempotency_key };
      return { ...request, body, headers: { ...request.headers, ...id, ...signature } };
    }
    case "heartbeat": {
      const { payload } = message;
      if (payload.type !== "heartbeat") {
        throw new Refusal("A heartbeat channel tells nothing but signs of life");
      }
      return toPing(readSecret(leased), renderHeartbeat({ ...message, payload }));
    }
    default:
      throw new Refusal(`There is no way to send by a channel of kind ${leased.kind}`);
  }
}

function post(url: string, body: object): OutgoingRequest {
  const headers = { "content-type": "application/json" };
  return { method: "POST", url, headers, body: JSON.stringify(body) };
}

/** @see https://github.com/standard-webhooks/standard-webhooks */
function sign(secret: string, id: string, now: Date, body: string): Record<string, string> {
  let webhook: Webhook;
  try {
    webhook = new Webhook(secret);
  } catch {
    throw new Refusal("The channel cannot be used: its signing secret is not whsec_ and base64");
  }
  return {
    "webhook-timestamp": String(Math.floor(now.getTime() / 1000)),
    "webhook-signature": webhook.sign(id, now, body),
  };
}

function toPing(url: string, ping: Ping): OutgoingRequest {
  // What the parser throws repeats the address, which is a secret.
  if (!URL.canParse(url)) {
    throw new Refusal("The channel cannot be used: its secret is no address");
  }
  const { origin, pathname, search } = new URL(url);
  const path = ping.path === "" ? pathname : `${pathname.replace(/\/$/, "")}${ping.path}`;
  return { method: "POST", url: `${origin}${path}${search}`, body: ping.body };
}

/**
 * healthchecks.io answers 200 also for what it does not take, and says so behind its `OK`.
 *
 * @see https://healthchecks.io/docs/http_api/
 */
function judgePong(answer: HttpAnswer, retry: Retry): DeliveryOutcome {
  const ignored = answer.status === 200 ? /^OK \((.*)\)\s*$/.exec(answer.body)?.[1] : undefined;
  if (ignored === undefined) return judgeAnswer(answer, retry);
  const error = `The other side answered 200, but did not take it: ${ignored}`;
  return ignored === "rate limited" ? retry(error, false) : { outcome: "refused", error };
}

function judgeAnswer({ status, body, headers }: HttpAnswer, retry: Retry): DeliveryOutcome {
  if (status >= 200 && status < 300) return { outcome: "sent", provider_id: null };
  const isRedirect = status < 400;
  const answered = `The other side answered ${status}${
    isRedirect ? "; redirects are not followed" : ""
  }`;
  const error = body.trim() === "" ? answered : `${answered}: ${body}`;
  if (status === 408 || status === 425 || status === 429 || status >= 500) {
    return retry(error, status >= 500, headers["retry-after"]);
  }
  return { outcome: "refused", error };
}

function readConfig<Config>(schema: z.ZodType<Config>, { config }: LeasedNotification): Config {
  const parsed = schema.safeParse(config);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new Refusal(
    `The channel cannot be used: ${issue!.path.join(".") || "config"}: ${issue!.message}`,
  );
}

function readSecret({ secret }: LeasedNotification): string {
  if (secret === null) throw new Refusal("The channel cannot be used: Vault has no secret of it");
  return secret;
}
