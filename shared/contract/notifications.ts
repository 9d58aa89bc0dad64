import { z } from "zod";
import { INCIDENT_SEVERITIES, SEVERITIES } from "../alerting/rule.ts";

const Instant = z.iso.datetime({ offset: true });
const Texts = z.record(z.string(), z.string());

/** How messages get to people, or to their systems. */
export const CHANNEL_KINDS = ["email", "slack", "pagerduty", "webhook", "heartbeat"] as const;
export type ChannelKind = typeof CHANNEL_KINDS[number];

/** Most alerts that a message lists one by one; of the others it says how many there are. */
export const LISTED_ALERTS_LIMIT = 50;

/** One alert as a message shows it. */
export const ToldAlert = z.object({
  alert_id: z.int(),
  fingerprint: z.string(),
  status: z.enum(["firing", "resolved"]),
  name: z.string(),
  source: z.enum(["rule", "anomaly", "job", "health"]),
  severity: z.enum(SEVERITIES),
  labels: Texts,
  /** `summary` and `description` among them, where the rule has some. */
  annotations: Texts,
  /** As in Prometheus' JSON; null where the source has none. */
  value: z.string().nullable(),
  fired_at: Instant,
  resolved_at: Instant.nullable(),
  runbook_url: z.string().nullable(),
  /** How often it has fired since it was opened: more than once if it flaps. */
  occurrences: z.int().positive(),
  /** Sentences that belong to this telling, e.g. that a silence has ended, whose it was and why. */
  notes: z.array(z.string()),
});
export type ToldAlert = z.infer<typeof ToldAlert>;

/** Why a group is told now. */
export const TOLD_BECAUSE = ["new", "changed", "repeated", "resolved", "acknowledged"] as const;

/** What a group of alerts has to say to one channel. */
export const AlertsPayload = z.object({
  type: z.literal("alerts"),
  /** What makes two messages speak of the same group, whatever its channel. */
  group_key: z.string(),
  route: z.string(),
  because: z.enum(TOLD_BECAUSE),
  group_labels: Texts,
  common_labels: Texts,
  common_annotations: Texts,
  firing_count: z.int().nonnegative(),
  resolved_count: z.int().nonnegative(),
  /** Firing ones first, the worst first; at most {@link LISTED_ALERTS_LIMIT}. */
  alerts: z.array(ToldAlert),
  /** Who acknowledged all that fire, null unless somebody did. */
  acknowledged_by: z.string().nullable(),
});
export type AlertsPayload = z.infer<typeof AlertsPayload>;

export const INCIDENT_MESSAGES = ["alert", "update", "resolution", "escalation"] as const;
export const INCIDENT_STATES = [
  "open",
  "investigating",
  "identified",
  "monitoring",
  "resolved",
] as const;

/** What an incident has to say: the initial alert, a status update, its resolution, or that a deadline was missed. */
export const IncidentPayload = z.object({
  type: z.literal("incident"),
  message: z.enum(INCIDENT_MESSAGES),
  incident_id: z.int(),
  title: z.string(),
  severity: z.enum(INCIDENT_SEVERITIES),
  state: z.enum(INCIDENT_STATES),
  started_at: Instant,
  opened_at: Instant,
  resolved_at: Instant.nullable(),
  commander: z.string().nullable(),
  affected_components: z.array(z.string()),
  /** What happened, as a person wrote it; of an escalation, which deadline was missed. */
  text: z.string(),
  /** 1 on-call engineer, 2 senior engineer and team lead, 3 architect and management. */
  escalation_level: z.int().min(1).max(3),
  response_due_at: Instant.nullable(),
  next_update_due_at: Instant.nullable(),
  /** Of a resolution. */
  root_cause: z.string().nullable(),
  fix: z.string().nullable(),
  prevention: z.string().nullable(),
  post_mortem_on: z.iso.date().nullable(),
  /** Names of linked alerts, the first 20. */
  alerts: z.array(z.string()),
  runbook_url: z.string().nullable(),
});
export type IncidentPayload = z.infer<typeof IncidentPayload>;

/** A sign of life, or that there is none: what a healthchecks-style service is told. */
export const HeartbeatPayload = z.object({
  type: z.literal("heartbeat"),
  signal: z.enum(["start", "success", "fail"]),
  reason: z.string(),
});
export type HeartbeatPayload = z.infer<typeof HeartbeatPayload>;

/** What a notification says; how it looks is the channel's. */
export const NotificationPayload = z.discriminatedUnion("type", [
  AlertsPayload,
  IncidentPayload,
  HeartbeatPayload,
]);
export type NotificationPayload = z.infer<typeof NotificationPayload>;

/** A notification that is ours to send until its lease ends: one of the answer of `monitor.lease_notifications`. */
export const LeasedNotification = z.object({
  notification_id: z.int(),
  lease_token: z.uuid(),
  channel: z.string(),
  kind: z.enum(CHANNEL_KINDS),
  /** Of the channel; what it has to hold is judged by its kind when it is used. */
  config: z.record(z.string(), z.unknown()),
  /** What Vault keeps for the channel, null if nothing. */
  secret: z.string().nullable(),
  payload: z.unknown(),
  created_at: Instant,
  /** This attempt included. */
  attempt: z.int().positive(),
  /** Not to be sent before: keeps to the provider's limit, whoever else sends. */
  send_at: Instant,
  lease_until: Instant,
  /** The same for each attempt; the provider sends once what comes twice with it. */
  idempotency_key: z.string(),
  /** An earlier attempt ended without our knowing how: it may have been delivered. */
  may_be_repeated: z.boolean(),
  is_test: z.boolean(),
});
export type LeasedNotification = z.infer<typeof LeasedNotification>;

/** What `monitor.lease_notifications` answers. */
export const LeasedNotifications = z.object({
  notifications: z.array(LeasedNotification),
  /** By the clock that the times of the notifications are of. */
  now: Instant,
  /** What messages are shown with. */
  time_zone: z.string(),
  external_url: z.string().nullable(),
});

export type LeasedNotifications = z.infer<typeof LeasedNotifications>;

/** What `monitor.flush_alerts` answers. */
export const FlushedAlerts = z.object({ told: z.int().nonnegative() });

/** What `monitor.record_deliveries` answers: how many attempts ended how. */
export const RecordedDeliveries = z.object({
  sent: z.int().nonnegative(),
  retried: z.int().nonnegative(),
  parked: z.int().nonnegative(),
  /** By somebody who did not hold them any more. */
  stale: z.int().nonnegative(),
});
export type RecordedDeliveries = z.infer<typeof RecordedDeliveries>;

/** What `monitor.wake_deliverer` answers. */
export const WokenDeliverer = z.object({
  invoked: z.boolean(),
  /** Until something is due; null if nothing is within a minute. */
  wait_seconds: z.number().nullable(),
});
export type WokenDeliverer = z.infer<typeof WokenDeliverer>;

/** How an attempt ended; one entry of the argument of `monitor.record_deliveries`. */
export type DeliveryResult =
  & Pick<LeasedNotification, "notification_id" | "lease_token">
  & DeliveryOutcome;

export type DeliveryOutcome =
  | { readonly outcome: "sent"; readonly provider_id: string | null }
  /** To be tried again after so many seconds. */
  | {
    readonly outcome: "retry";
    readonly error: string;
    readonly after_seconds: number;
    readonly may_have_arrived: boolean;
  }
  /** Not to be tried again: the configuration of the channel, or this message, is wrong. */
  | { readonly outcome: "refused"; readonly error: string };
