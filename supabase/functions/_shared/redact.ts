import { cut, toLine } from "../../../shared/alerting/messages/clean-text.ts";

/** Shapes of secrets, and what stands for them in logs and records. */
const SECRETS: readonly (readonly [RegExp, string])[] = [
  [/sb_(secret|publishable)_[^\s"'`,;]*/gi, "sb_$1_…"],
  [/pgv_[^\s"'`,;]*/gi, "pgv_…"],
  // What signs webhooks, opens Resend, and leads into a chat.
  [/whsec_[A-Za-z0-9+/=_-]{4,}/gi, "whsec_…"],
  [/\bre_[A-Za-z0-9]{8}_[A-Za-z0-9]{16,}/g, "re_…"],
  [/(\bhooks\.slack\.com\/)[^\s"'`,;]+/gi, "$1…"],
  // A JWT begins with the base64url of `{"` or `{` and white space; its signature may be cut off.
  [/\bey[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?/g, "jwt…"],
  [/\b(bearer|basic)\s+[^\s"'`,;]+/gi, "$1 …"],
  // Only the password: the user and host of an address are what one needs to know.
  [/(:\/\/[^\s/:@]*):[^\s/@]+@/g, "$1:…@"],
];

/** Replaces whatever looks like a key, a token or a password in an address. */
export function redact(text: string): string {
  return SECRETS.reduce((left, [shape, stand]) => left.replace(shape, stand), text);
}

/** Replaces whatever looks like the address of a mailbox: whose it is is in the configuration of the channel. */
export function concealMailboxes(text: string): string {
  return text.replace(/[^\s<>()",;:@]+@[^\s<>()",;:@]+/g, "…@…");
}

/** Characters of a text that are looked through: that takes as long as the square of them. */
const READ_LIMIT = 4000;

/** Characters of an error that are kept. */
const SUMMARY_LIMIT = 300;

/**
 * What may be recorded of a text of somebody else: one line that the database takes, without secrets, at most 300
 * characters.
 *
 * @param conceal takes away what else may not be seen, before anything is cut.
 */
export function summarize(text: string, conceal = (line: string) => line): string {
  // Cleaned first: a secret with something invisible in it would not be found, and be one again afterwards.
  return cut(redact(conceal(toLine(text, READ_LIMIT))), SUMMARY_LIMIT);
}

/** What may be recorded of an error: its name and its message, as of {@link summarize}. */
export function summarizeError(error: unknown): string {
  return summarize(error instanceof Error ? `${error.name}: ${error.message}` : String(error));
}
