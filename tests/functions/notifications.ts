import type { Message } from "../../shared/alerting/messages/message.ts";
import { samplePayload } from "../../shared/alerting/messages/sample-payloads.ts";
import {
  type ChannelKind,
  type DeliveryOutcome,
  type LeasedNotification,
  NotificationPayload,
} from "../../shared/contract/notifications.ts";
import type { HttpAnswer } from "../../supabase/functions/_shared/http-answer.ts";
import { afterNoon, NOON, RUN_ID } from "../fixtures.ts";

export const KEY = "8f8b8c9e-3f6b-4a53-9a8f-0d6f3a3f1b1e";
export const SURROUNDINGS = { timeZone: "Europe/Berlin", externalUrl: "https://vigil.example.com" };
export const ALERT = samplePayload("alert", NOON);
export const HEARTBEAT = samplePayload("heartbeat", NOON);

export const SLACK = "https://hooks.slack.com/services/T0SECRET1/B0SECRET2/s3cr3tS3cr3tS3cr3t";
export const ROUTING_KEY = "r0ut1ngk3yr0ut1ngk3yr0ut1ngk3y32";
export const SIGNING = `whsec_${btoa("a signing secret of 24 b")}`;
export const PING = "https://hc-ping.com/4f1d3c2a-s3cr-4e7e-8a55-0123456789ab";

/** A channel of each kind that works, and what there is to say by it. */
export const CHANNELS: Readonly<Record<ChannelKind, Partial<LeasedNotification>>> = {
  email: { config: { to: ["ops@example.com", "dba@example.com"] } },
  slack: { secret: SLACK },
  pagerduty: { secret: ROUTING_KEY },
  webhook: { config: { url: "https://hooks.example.com/pgvigil" }, secret: SIGNING },
  heartbeat: { secret: PING, payload: HEARTBEAT },
};

export const leasedOf = (
  kind: ChannelKind,
  changes: Partial<LeasedNotification> = {},
): LeasedNotification => ({
  ...{ notification_id: 1, lease_token: RUN_ID, channel: "ops", kind, config: {}, secret: null },
  ...{ payload: ALERT, created_at: NOON.toISOString(), attempt: 1 },
  ...{ send_at: NOON.toISOString(), lease_until: afterNoon(60).toISOString() },
  ...{ idempotency_key: KEY, may_be_repeated: false, is_test: false },
  ...CHANNELS[kind],
  ...changes,
});

export const messageOf = (leased: LeasedNotification, changes: Partial<Message> = {}): Message => ({
  ...{ payload: NotificationPayload.parse(leased.payload), channel: leased.channel },
  ...{ ...SURROUNDINGS, at: new Date(leased.created_at), mayBeRepeated: false },
  ...{ isTest: leased.is_test, idempotencyKey: leased.idempotency_key },
  ...changes,
});

export const answerOf = (
  status: number,
  body = "",
  headers: Record<string, string> = {},
): HttpAnswer => ({ status, headers, body, isTruncated: false });

export const SENT: DeliveryOutcome = { outcome: "sent", provider_id: null };
export const retryOf = (
  error: string,
  { after_seconds = 2.5, may_have_arrived = false } = {},
): DeliveryOutcome => ({ outcome: "retry", error, after_seconds, may_have_arrived });
export const refusalOf = (error: string): DeliveryOutcome => ({ outcome: "refused", error });
