import { Resend } from "resend";
import type { Mail } from "../../../shared/alerting/messages/render-email.ts";
import { mailEnvironment } from "./env.ts";
import { concealMailboxes, summarize } from "./redact.ts";

/** What came of handing a mail to the provider. */
export type MailResult =
  | { readonly kind: "accepted"; readonly id: string }
  /** `status` is null if there was no answer that has one: whether it was accepted is not known then. */
  | {
    readonly kind: "failed";
    readonly status: number | null;
    /** What the provider calls the error. */
    readonly name: string;
    /** One line, without the key and without addresses. */
    readonly error: string;
    readonly retryAfter: string | undefined;
  };

/** Hands mails to a provider. */
export interface Mailer {
  /** @throws {ConfigurationError} if it is not known who sends, or with which key. */
  send(mail: Mail, recipients: readonly string[], idempotencyKey: string): Promise<MailResult>;
}

/** How long Resend may take for one mail. */
export const MAIL_TIMEOUT_SECONDS = 10;

/** What Resend calls a mail: what the database takes. */
const MAIL_ID = /^[\x21-\x7e]{1,200}$/;

/** Resend, by its own package. */
export function resendMailer(
  readEnvironment = mailEnvironment,
  timeoutSeconds = MAIL_TIMEOUT_SECONDS,
): Mailer {
  return {
    async send({ subject, text, html }, recipients, idempotencyKey) {
      const { apiKey, from, baseUrl } = readEnvironment();
      const resend = new Resend(apiKey, baseUrl === undefined ? {} : { baseUrl });
      const { data, error, headers } = await resend.emails.send(
        { from, to: [...recipients], subject, text, html },
        { idempotencyKey, signal: AbortSignal.timeout(timeoutSeconds * 1000) },
      );
      const id: unknown = data?.id;
      if (typeof id === "string" && MAIL_ID.test(id)) return { kind: "accepted", id };
      if (headers === null) {
        const reason = `no answer from Resend within ${timeoutSeconds} s, or no connection`;
        return { kind: "failed", status: null, name: "", error: reason, retryAfter: undefined };
      }
      // The package takes any JSON for an error of Resend.
      const { statusCode, name, message }: Record<string, unknown> = Object(error);
      const status = Number.isInteger(statusCode) ? Number(statusCode) : null;
      const said = typeof message === "string" ? message : "no reason";
      return {
        kind: "failed",
        status,
        name: typeof name === "string" ? name : "",
        error: error === null ? "Resend answered without the id of a mail" : summarize(
          `Resend answered ${status ?? "no status"}: ${said}`,
          (line) => concealMailboxes(line.replaceAll(apiKey, "…")),
        ),
        retryAfter: headers["retry-after"],
      };
    },
  };
}
