import type {
  AlertsPayload,
  HeartbeatPayload,
  IncidentPayload,
  ToldAlert,
} from "../../contract/notifications.ts";
import { cut } from "./clean-text.ts";
import type { Message } from "./message.ts";
import type { Detail } from "./outline.ts";
import { renderToFit, sizeOf } from "./render-to-fit.ts";
import { toWebAddress } from "./to-web-address.ts";

/** Bytes of a message as JSON: what the outbox holds at most. */
export const WEBHOOK_LIMIT_BYTES = 1_000_000;

type Texts = Readonly<Record<string, string>>;

/**
 * What Alertmanager sends to its webhooks.
 *
 * @see https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
 */
export interface AlertmanagerMessage {
  readonly receiver: string;
  readonly status: "firing" | "resolved";
  readonly alerts: readonly AlertmanagerAlert[];
  readonly groupLabels: Texts;
  readonly commonLabels: Texts;
  readonly commonAnnotations: Texts;
  readonly externalURL: string;
  readonly version: "4";
  readonly groupKey: string;
  /** Of the group, how many are not among the alerts. */
  readonly truncatedAlerts: number;
}

export interface AlertmanagerAlert {
  readonly status: "firing" | "resolved";
  readonly labels: Texts;
  readonly annotations: Texts;
  readonly startsAt: string;
  /** {@link NEVER} while it fires. */
  readonly endsAt: string;
  readonly generatorURL: string;
  readonly fingerprint: string;
}

/** Of incidents and signs of life, which Alertmanager does not know. */
export type PgvigilMessage = (IncidentPayload | HeartbeatPayload) & {
  readonly version: "pgvigil/1";
  readonly receiver: string;
  readonly externalURL: string;
  readonly is_test: boolean;
  readonly may_be_repeated: boolean;
  readonly idempotency_key: string;
};

/** Go's time of nothing. */
const NEVER = "0001-01-01T00:00:00Z";

/**
 * A message for a program: of alerts what Alertmanager would send, of all else a JSON of ours. Texts are as they are, but for halves of
 * surrogate pairs, which some parsers refuse; they are cut where the whole would exceed {@link WEBHOOK_LIMIT_BYTES}.
 *
 * What Alertmanager has no field for is an annotation: `pgvigil_notes`, and `pgvigil_test` of a test, so that nobody is woken by it. A
 * repetition is told by the idempotency key, which goes with the request.
 */
export function renderWebhook(message: Message): AlertmanagerMessage | PgvigilMessage {
  const { payload } = message;
  const render = (detail: Detail) =>
    payload.type === "alerts"
      ? toAlertmanager({ ...message, payload }, detail)
      : toOwn({ ...message, payload }, detail);
  const isSmall = (rendered: unknown) => sizeOf(JSON.stringify(rendered)) <= WEBHOOK_LIMIT_BYTES;
  const whole = render(WHOLE);
  return isSmall(whole) ? whole : renderToFit(render, isSmall);
}

const WHOLE: Detail = {
  ...{ itemCount: Infinity, textLength: Infinity, pairCount: Infinity, nameLength: Infinity },
};

function toAlertmanager(message: Message<AlertsPayload>, detail: Detail): AlertmanagerMessage {
  const { payload, channel, isTest, externalUrl } = message;
  const { firing_count, resolved_count } = payload;
  const marks: Texts = isTest ? { pgvigil_test: "true" } : {};
  const externalURL = toWebAddress(externalUrl) ?? "";
  const alerts = payload.alerts.slice(0, detail.itemCount)
    .map((alert) => toAlert(alert, marks, externalURL, detail));
  return {
    receiver: cutText(channel, detail),
    status: firing_count > 0 ? "firing" : "resolved",
    alerts,
    groupLabels: cutTexts(payload.group_labels, detail),
    commonLabels: cutTexts(payload.common_labels, detail),
    commonAnnotations: { ...cutTexts(payload.common_annotations, detail), ...marks },
    externalURL,
    version: "4",
    groupKey: cutText(payload.group_key, detail),
    truncatedAlerts: Math.max(0, firing_count + resolved_count - alerts.length),
  };
}

function toAlert(
  alert: ToldAlert,
  marks: Texts,
  externalURL: string,
  detail: Detail,
): AlertmanagerAlert {
  const { status, name, labels, annotations, runbook_url, notes, fired_at, resolved_at } = alert;
  return {
    status,
    // Receivers go by the name, which alerts of jobs and anomalies have beside their labels.
    labels: cutTexts({ alertname: name, ...labels }, detail),
    annotations: {
      ...cutTexts({ ...runbook_url !== null && { runbook_url }, ...annotations }, detail),
      ...notes.length > 0 && { pgvigil_notes: cutText(notes.join("\n"), detail) },
      ...marks,
    },
    startsAt: fired_at,
    endsAt: status === "firing" ? NEVER : resolved_at ?? fired_at,
    generatorURL: externalURL,
    fingerprint: cutText(alert.fingerprint, detail),
  };
}

function toOwn(
  message: Message<IncidentPayload | HeartbeatPayload>,
  detail: Detail,
): PgvigilMessage {
  const { payload, channel, externalUrl, isTest, mayBeRepeated, idempotencyKey } = message;
  return {
    version: "pgvigil/1",
    ...Object.fromEntries(
      Object.entries(payload).map(([key, value]) => [key, cutDeep(value, detail)]),
    ) as typeof payload,
    receiver: cutText(channel, detail),
    externalURL: toWebAddress(externalUrl) ?? "",
    is_test: isTest,
    may_be_repeated: mayBeRepeated,
    idempotency_key: idempotencyKey,
  };
}

function cutDeep(value: unknown, detail: Detail): unknown {
  if (typeof value === "string") return cutText(value, detail);
  if (!Array.isArray(value)) return value;
  return value.slice(0, detail.pairCount).map((item) => cutDeep(item, detail));
}

const cutTexts = (texts: Texts, detail: Detail): Texts =>
  Object.fromEntries(
    Object.entries(texts).slice(0, detail.pairCount)
      .map(([name, text]) => [cutText(name, detail), cutText(text, detail)]),
  );

const cutText = (text: string, { textLength }: Detail) =>
  cut(text.replace(/\p{Surrogate}/gu, "\ufffd"), textLength);
