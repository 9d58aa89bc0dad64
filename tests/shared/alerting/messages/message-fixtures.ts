import fc from "fast-check";
import type { Message } from "../../../../shared/alerting/messages/message.ts";
import {
  type AlertsPayload,
  INCIDENT_MESSAGES,
  INCIDENT_STATES,
  type IncidentPayload,
  NotificationPayload,
  TOLD_BECAUSE,
  type ToldAlert,
} from "../../../../shared/contract/notifications.ts";

/** 14:15 in Berlin. */
export const AT = new Date("2026-11-21T13:15:00Z");

/** A message to `ops` as people in Berlin read it. The payload has to keep to the contract. */
export function messageOf(payload: unknown, changes: Partial<Message> = {}): Message {
  return {
    payload: NotificationPayload.parse(payload),
    channel: "ops",
    timeZone: "Europe/Berlin",
    externalUrl: "https://ops.example.com/pgvigil",
    at: AT,
    mayBeRepeated: false,
    isTest: false,
    idempotencyKey: "0b4ad5b6-6d64-4a1e-9f0c-1d2e3f405162",
    ...changes,
  };
}

export function alertOf(changes: Partial<ToldAlert> = {}): ToldAlert {
  return {
    alert_id: 41,
    fingerprint: "5f0c3b1e9a7d2468",
    status: "firing",
    name: "DiskFull",
    source: "rule",
    severity: "critical",
    labels: { alertname: "DiskFull", instance: "db-1" },
    annotations: { summary: "db-1 has 3 % of its disk left" },
    value: "0.03",
    fired_at: "2026-11-21T13:03:00Z",
    resolved_at: null,
    runbook_url: null,
    occurrences: 1,
    notes: [],
    ...changes,
  };
}

/** A group of these alerts, all there are unless changed. */
export function alertsOf(
  alerts: readonly ToldAlert[],
  changes: Partial<AlertsPayload> = {},
): AlertsPayload {
  const firing = alerts.filter(({ status }) => status === "firing").length;
  return {
    type: "alerts",
    group_key: 'default/{alertname="DiskFull"}',
    route: "default",
    because: "new",
    group_labels: { alertname: "DiskFull" },
    common_labels: {},
    common_annotations: {},
    firing_count: firing,
    resolved_count: alerts.length - firing,
    alerts: [...alerts],
    acknowledged_by: null,
    ...changes,
  };
}

/** Says what markup, queries, headers and terminals would obey. */
const PIECES = [
  ..."<>&\"'`*_~|!@#:;/\\=()[]{} aé😀",
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  '"><a href="javascript:alert(1)">x</a>',
  "</style></head><!--",
  "-->",
  "&lt;b&gt;&#60;",
  "<!channel>",
  "<!here|x>",
  "<@U024BE7LH>",
  "<https://evil.example|bank>",
  "*bold* _italic_ ~gone~ `code` :fire:",
  "\r\nBcc: all@example.com\r\n\r\n",
  "\u0000\u001b[31m\u0007\u0085",
  "\u2028\u2029",
  "\u202egpj.exe\u202c\u2066\u200f",
  "\u200b\u200d\ufeff\u00ad\u2060\u{e0041}",
  "\ud800",
  "\udc00",
  "\uffff",
  "__proto__",
  "'); drop table monitor.system_alerts; --",
  "javascript:alert(1)",
  "https://example.com/a?b=c&d=<e>#f|g",
];

/** A text as somebody may send it who means harm, or does not know better. */
export const hostileText: fc.Arbitrary<string> = fc.oneof(
  fc.array(fc.constantFrom(...PIECES), { maxLength: 12 }).map((pieces) => pieces.join("")),
  fc.string({ unit: "binary", maxLength: 40 }),
  fc.string({ unit: "grapheme", maxLength: 40 }),
);

const longText = fc.tuple(hostileText, fc.constantFrom(1, 1, 1, 40, 3000))
  .map(([text, times]) => text.repeat(times).slice(0, 60_000));

const texts = fc.dictionary(
  fc.oneof(
    fc.constantFrom("alertname", "severity", "job", "constructor", "summary", "description"),
    hostileText,
  ),
  longText,
  { maxKeys: 6, noNullPrototype: true },
);

const instant = fc.date({
  min: new Date("2020-01-01T00:00:00Z"),
  max: new Date("2030-01-01T00:00:00Z"),
  noInvalidDate: true,
}).map((date) => date.toISOString());

const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: null });

const hostileAlert: fc.Arbitrary<ToldAlert> = fc.record({
  alert_id: fc.maxSafeInteger(),
  fingerprint: fc.constant("5f0c3b1e9a7d2468"),
  status: fc.constantFrom("firing", "resolved"),
  name: hostileText,
  source: fc.constantFrom("rule", "anomaly", "job", "health"),
  severity: fc.constantFrom("info", "warning", "critical"),
  labels: texts,
  annotations: texts,
  value: maybe(fc.oneof(hostileText, fc.double().map(String))),
  fired_at: instant,
  resolved_at: maybe(instant),
  runbook_url: maybe(fc.oneof(hostileText, fc.webUrl({ withQueryParameters: true }))),
  occurrences: fc.integer({ min: 1, max: 99 }),
  notes: fc.array(hostileText, { maxLength: 3 }),
});

const hostileAlerts: fc.Arbitrary<AlertsPayload> = fc.record({
  type: fc.constant("alerts"),
  group_key: longText,
  route: hostileText,
  because: fc.constantFrom(...TOLD_BECAUSE),
  group_labels: texts,
  common_labels: texts,
  common_annotations: texts,
  firing_count: fc.nat({ max: 100 }),
  resolved_count: fc.nat({ max: 100 }),
  alerts: fc.oneof(
    { weight: 9, arbitrary: fc.array(hostileAlert, { maxLength: 4 }) },
    { weight: 1, arbitrary: hostileAlert.map((alert) => Array.from({ length: 50 }, () => alert)) },
  ),
  acknowledged_by: maybe(hostileText),
});

const hostileIncident: fc.Arbitrary<IncidentPayload> = fc.record({
  type: fc.constant("incident"),
  message: fc.constantFrom(...INCIDENT_MESSAGES),
  incident_id: fc.maxSafeInteger(),
  title: longText,
  severity: fc.constantFrom("P0", "P1", "P2", "P3"),
  state: fc.constantFrom(...INCIDENT_STATES),
  started_at: instant,
  opened_at: instant,
  resolved_at: maybe(instant),
  commander: maybe(hostileText),
  affected_components: fc.array(hostileText, { maxLength: 5 }),
  text: longText,
  escalation_level: fc.integer({ min: 1, max: 3 }),
  response_due_at: maybe(instant),
  next_update_due_at: maybe(instant),
  root_cause: maybe(longText),
  fix: maybe(longText),
  prevention: maybe(longText),
  post_mortem_on: maybe(instant.map((at) => at.slice(0, 10))),
  alerts: fc.array(hostileText, { maxLength: 20 }),
  runbook_url: maybe(hostileText),
});

/** For properties of {@link hostileMessage}: of one that does not hold, the smallest is not looked for beyond the time of a test. */
export const HOSTILE_RUNS = { numRuns: 120, interruptAfterTimeLimit: 20_000 };

/** Any message within the contract, its texts as hostile as can be. */
export const hostileMessage: fc.Arbitrary<Message> = fc.record({
  payload: fc.oneof(
    { weight: 4, arbitrary: hostileAlerts },
    { weight: 2, arbitrary: hostileIncident },
    {
      weight: 1,
      arbitrary: fc.record({
        type: fc.constant("heartbeat" as const),
        signal: fc.constantFrom("start", "success", "fail"),
        reason: longText,
      }),
    },
  ),
  channel: hostileText,
  timeZone: fc.oneof(fc.constantFrom("Europe/Berlin", "Asia/Kolkata", "UTC"), hostileText),
  externalUrl: maybe(fc.oneof(hostileText, fc.webUrl())),
  at: instant.map((at) => new Date(at)),
  mayBeRepeated: fc.boolean(),
  isTest: fc.boolean(),
  idempotencyKey: fc.uuid(),
});

/** 50 alerts, each with as much of `text` as a payload of the outbox may hold of it. */
export function hugeAlerts(text: string): AlertsPayload {
  const part = text.repeat(Math.ceil(1500 / text.length)).slice(0, 1500);
  const labels = Object.fromEntries(Array.from({ length: 10 }, (_, i) => [`label_${i}`, part]));
  return alertsOf(
    Array.from({ length: 50 }, (_, i) =>
      alertOf({
        alert_id: i + 1,
        name: part,
        labels,
        annotations: { summary: part, description: part, more: part },
        runbook_url: `https://example.com/${"x".repeat(1900)}${i}`,
        notes: [part],
      })),
  );
}
