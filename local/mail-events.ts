/** What becomes of mails that nobody receives, told as Resend tells it. */
import { randomUUID } from "node:crypto";
import { Webhook } from "standardwebhooks";
import { withTimeout } from "./processes.ts";

/** Who is told of events. */
export interface EventReceiver {
  readonly url: string;
  /** `whsec_` and base64. */
  readonly secret: string;
}

/** Something that becomes of a mail. */
export interface MailFate {
  readonly type: string;
  /** Those recipients that it is about. */
  readonly to: readonly string[];
  /** What belongs to this type alone. */
  readonly data: Readonly<Record<string, unknown>>;
}

const BOUNCE = {
  type: "Permanent",
  subType: "General",
  message: "The mailbox does not exist: the local inbox bounces all addresses with bounce in them.",
};
const SUPPRESSED = {
  type: "OnAccountSuppressionList",
  message: "The address is on the suppression list of the local inbox.",
};

/**
 * What becomes of a mail to these recipients, in order. As with Resend's test addresses (bounced@resend.dev,
 * complained@resend.dev, suppressed@resend.dev, delivered@resend.dev) what is before the @ decides, at any domain: with
 * `bounce` in it a mail is sent and bounces, with `complain` it is delivered and complained of, with `suppress` it is not
 * even sent. Every other one is sent and delivered. Unlike Resend, an event names only the recipients that it is about.
 */
export function foretell(recipients: readonly string[]): MailFate[] {
  const [suppressed, sent] = split(recipients, "suppress");
  const [bounced, delivered] = split(sent, "bounce");
  const [complained] = split(delivered, "complain");
  return [
    { type: "email.suppressed", to: suppressed, data: { suppressed: SUPPRESSED } },
    { type: "email.sent", to: sent, data: {} },
    { type: "email.delivered", to: delivered, data: {} },
    { type: "email.bounced", to: bounced, data: { bounce: BOUNCE } },
    { type: "email.complained", to: complained, data: {} },
  ].filter(({ to }) => to.length > 0);
}

/** Those with `word` before the @, and the others. */
function split(recipients: readonly string[], word: string): [string[], string[]] {
  const has = (recipient: string) => {
    const address = /<([^<>]*)>$/.exec(recipient)?.[1] ?? recipient;
    return address.slice(0, address.lastIndexOf("@")).toLowerCase().includes(word);
  };
  return [recipients.filter(has), recipients.filter((recipient) => !has(recipient))];
}

/** How long a receiver may take. */
const TIMEOUT_SECONDS = 15;

/** Tells a receiver of an event, once, and resolves to its status. @throws if there is no answer */
export async function tellEvent(
  event: object,
  { url, secret }: EventReceiver,
  at: Date,
  stopping: AbortSignal,
): Promise<number> {
  const id = `msg_${randomUUID().replaceAll("-", "")}`;
  const body = JSON.stringify(event);
  const headers = {
    "content-type": "application/json",
    "svix-id": id,
    "svix-timestamp": String(Math.floor(at.getTime() / 1000)),
    "svix-signature": new Webhook(secret).sign(id, at, body),
  };
  return await withTimeout(TIMEOUT_SECONDS * 1000, stopping, async (signal) => {
    const response = await fetch(url, { method: "POST", headers, body, signal });
    await response.body?.cancel();
    return response.status;
  });
}
