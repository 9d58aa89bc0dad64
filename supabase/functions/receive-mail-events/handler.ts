import { timingSafeEqual } from "node:crypto";
import { Webhook } from "standardwebhooks";
import { z } from "zod";
import {
  type MailEvent,
  RecordedMailEvent,
  RESEND_EVENT_TYPES,
  ResendEvent,
  toMailEvent,
} from "../../../shared/contract/mail-events.ts";
import type { Caller } from "../_shared/auth.ts";
import { readBytes } from "../_shared/body.ts";
import type { Database } from "../_shared/database.ts";
import type { Call } from "../_shared/endpoint.ts";
import { Problem } from "../_shared/problem.ts";
import { concealMailboxes, summarize } from "../_shared/redact.ts";

export const NAME = "receive-mail-events";

/** Most bytes of an event: one of a mail with 50 recipients has 20 KB. */
export const EVENT_BYTES_LIMIT = 65_536;

/** How far the time in a signature may be from ours, so that what was overheard is of no use later. */
export const TOLERANCE_SECONDS = 300;

/** What an id of an event looks like: printable, and no longer than the database takes. */
const EVENT_ID = /^[\x21-\x7e]{1,200}$/;

/** An event whose sender is known by its signature. */
export interface SignedEvent {
  /** The same each time it is sent. */
  readonly id: string;
  /** Null for one that is not about what became of a mail. */
  readonly event: MailEvent | null;
}

/** The outside world as this function needs it; the edge wires the real one, tests a fake. */
export interface MailEventDeps {
  now(): Date;
  /** `whsec_` and base64. @throws {ConfigurationError} */
  secret(): string;
  readonly database: Database;
}

/** Nobody is asked who he is: the signature says it, for which the body has to be read. */
export function anybody(): Promise<Caller> {
  return Promise.resolve({ kind: "public" });
}

/**
 * Reads an event if its signature is good: made with our secret, over this very body, now. Several signatures may be
 * there, while the secret is being changed.
 *
 * Resend names the headers `svix-…`; `webhook-…` is what the standard names them.
 *
 * @throws {Problem} 401, 413; 400 or 422 for what was signed and is no event
 * @throws {ConfigurationError} if there is no secret, which is told to nobody who signed nothing
 * @see https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
 */
export async function readMailEvent(
  request: Request,
  { now, secret }: Pick<MailEventDeps, "now" | "secret">,
): Promise<SignedEvent> {
  const { id, timestamp, signatures } = readSignature(request.headers);
  const webhook = new Webhook(secret());
  const ageSeconds = Math.floor(now().getTime() / 1000) - timestamp;
  if (Math.abs(ageSeconds) > TOLERANCE_SECONDS) {
    throw new Problem("signature", "It is too old, or from the future: compare the clocks.");
  }
  const text = decodeText(await readBytes(request.body, EVENT_BYTES_LIMIT));
  // The package's own `verify` has a clock of its own, and reads "1, 2" for the time 1.
  const expected = webhook.sign(id, new Date(timestamp * 1000), text);
  if (!signatures.some((signature) => isSame(signature, expected))) {
    throw new Problem("signature", "It is not of this body and our secret.");
  }
  return { id, event: parseEvent(text) };
}

/** Has the event recorded; one that is sent again is recorded once. @throws {DatabaseError} */
export async function receiveMailEvent(
  { id, event }: SignedEvent,
  { log }: Pick<Call, "log">,
  { database }: Pick<MailEventDeps, "database">,
): Promise<Response> {
  if (event === null) return Response.json({ ignored: true });
  const { outcome } = await database.call(
    "record_mail_event",
    {
      p_event_id: id,
      p_provider_id: event.providerId,
      p_kind: event.kind,
      p_recipients: event.recipients,
      p_reason: shortenReason(event.reason),
      p_occurred_at: event.occurredAt,
    },
    (answer) => RecordedMailEvent.parse(answer),
  );
  log.info("mail event received", { event_id: id, kind: event.kind, outcome });
  return Response.json({ outcome });
}

function readSignature(headers: Headers) {
  const prefix = headers.has("svix-id") ? "svix" : "webhook";
  const id = headers.get(`${prefix}-id`) ?? "";
  const timestamp = headers.get(`${prefix}-timestamp`) ?? "";
  const signatures = headers.get(`${prefix}-signature`) ?? "";
  if (!EVENT_ID.test(id) || !/^\d{1,12}$/.test(timestamp) || signatures === "") {
    throw new Problem("signature", "Send svix-id, svix-timestamp and svix-signature.");
  }
  return { id, timestamp: Number(timestamp), signatures: signatures.split(" ") };
}

/** Compares in a time that does not tell how much of it was right. */
function isSame(one: string, other: string): boolean {
  const [bytes, otherBytes] = [new TextEncoder().encode(one), new TextEncoder().encode(other)];
  return bytes.length === otherBytes.length && timingSafeEqual(bytes, otherBytes);
}

/** The text that has these very bytes: what is signed are bytes. */
function decodeText(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new Problem("signature", "It is not of this body, which is not UTF-8.", { cause });
  }
}

function parseEvent(text: string): MailEvent | null {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (cause) {
    throw new Problem("json", "", { cause });
  }
  const { data: head } = z.object({ type: z.string() }).safeParse(body);
  if (head !== undefined && !RESEND_EVENT_TYPES.has(head.type)) return null;
  const { data: event, error } = ResendEvent.safeParse(body);
  if (event === undefined) throw new Problem("body", z.prettifyError(error), { cause: error });
  return toMailEvent(event);
}

/** In one line, without addresses and secrets; null for nothing. */
function shortenReason(reason: string | null): string | null {
  return summarize(reason ?? "", concealMailboxes) || null;
}
