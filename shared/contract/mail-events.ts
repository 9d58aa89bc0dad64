import { z } from "zod";

/** What can become of a mail, as `monitor.record_mail_event` knows it. */
export const MAIL_EVENT_KINDS = [
  "sent",
  "delivered",
  "delayed",
  "bounced",
  "complained",
  "failed",
] as const;
export type MailEventKind = typeof MAIL_EVENT_KINDS[number];

/** A delivery report that is about one mail. */
export interface MailEvent {
  /** Of the mail, as the provider told it when it took it. */
  readonly providerId: string;
  readonly kind: MailEventKind;
  /** Addresses that the mail went to. */
  readonly recipients: readonly string[];
  /** In the provider's words, which may name people; null where nothing went wrong. */
  readonly reason: string | null;
  /** As it was sent: Postgres reads more digits of a second than a `Date` has. */
  readonly occurredAt: string;
}

/** Most addresses of a mail that Resend takes. */
const RECIPIENTS_LIMIT = 50;

/** ISO 8601, or as Postgres writes it: Resend does both. */
const Instant = z.string()
  .regex(
    /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d(:?\d\d)?)$/,
    "no time with a zone",
  );

const Mail = z.object({
  email_id: z.string().min(1).max(200),
  to: z.array(z.string().min(1).max(320)).max(RECIPIENTS_LIMIT),
});
const Bounce = z.object({
  type: z.string().optional(),
  subType: z.string().optional(),
  message: z.string().optional(),
});

const event = <Type extends string, Data extends z.ZodType>(type: Type, data: Data) =>
  z.object({ type: z.literal(type), created_at: Instant, data });

/**
 * What Resend tells of a mail; fields that we have no use for are left out.
 *
 * @see https://resend.com/docs/webhooks/event-types
 */
export const ResendEvent = z.discriminatedUnion("type", [
  event("email.sent", Mail),
  event("email.delivered", Mail),
  event("email.delivery_delayed", Mail),
  event("email.bounced", Mail.extend({ bounce: Bounce.optional() })),
  event("email.complained", Mail),
  event(
    "email.failed",
    Mail.extend({ failed: z.object({ reason: z.string().optional() }).optional() }),
  ),
  event("email.suppressed", Mail.extend({ suppressed: Bounce.optional() })),
]);
export type ResendEvent = z.infer<typeof ResendEvent>;

/** The types of {@link ResendEvent}: what is told of anything else is none of our business. */
export const RESEND_EVENT_TYPES: ReadonlySet<string> = new Set(
  ResendEvent.options.map(({ shape }) => shape.type.value),
);

/** What a suppressed mail is to us: Resend has not sent it, for an earlier one bounced or was complained of. */
const SUPPRESSED = "bounced";

/** What Resend has told, in our words. */
export function toMailEvent(event: ResendEvent): MailEvent {
  const { email_id: providerId, to: recipients } = event.data;
  const about = { providerId, recipients, occurredAt: event.created_at };
  switch (event.type) {
    case "email.sent":
      return { ...about, kind: "sent", reason: null };
    case "email.delivered":
      return { ...about, kind: "delivered", reason: null };
    case "email.delivery_delayed":
      return { ...about, kind: "delayed", reason: null };
    case "email.bounced":
      return { ...about, kind: "bounced", reason: describeBounce(event.data.bounce) };
    case "email.complained":
      return { ...about, kind: "complained", reason: null };
    case "email.failed":
      return { ...about, kind: "failed", reason: event.data.failed?.reason ?? null };
    case "email.suppressed": {
      const reason = describeBounce(event.data.suppressed);
      return { ...about, kind: SUPPRESSED, reason: reason && `suppressed: ${reason}` };
    }
  }
}

/** "Permanent, General: The mailbox does not exist.", or as much of it as there is. */
function describeBounce(
  { type, subType, message }: z.infer<typeof Bounce> = {},
): string | null {
  const kind = [type, subType].filter(Boolean).join(", ");
  return [kind, message].filter(Boolean).join(": ") || null;
}

/** What `monitor.record_mail_event` answers. */
export const RecordedMailEvent = z.object({
  /** `unknown`: about a mail that is not ours, or not written down yet. */
  outcome: z.enum(["recorded", "repeated", "unknown"]),
});
export type RecordedMailEvent = z.infer<typeof RecordedMailEvent>;
