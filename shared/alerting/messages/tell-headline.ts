import type {
  AlertsPayload,
  HeartbeatPayload,
  IncidentPayload,
  NotificationPayload,
  ToldAlert,
} from "../../contract/notifications.ts";
import { SEVERITIES, type Severity } from "../rule.ts";
import { cut, isBlank, toLine } from "./clean-text.ts";
import { formatTextLabel } from "./format-text-label.ts";

/** How bad it is, for colours. */
export type Tone = "critical" | "major" | "warning" | "info" | "good";

/** What a person reads first. */
export interface Headline {
  /** In capitals: the worst that fires, RESOLVED, the severity of an incident, or how it stands. */
  readonly word: string;
  readonly tone: Tone;
  /** A cleaned line, never empty. */
  readonly text: string;
  /** What is still said where the text is cut, e.g. ` (again)`; may be empty. */
  readonly suffix: string;
}

const LONGEST_TEXT = 1000;
const LONGEST_NAME = 60;

const INCIDENT_TONES: Readonly<Record<IncidentPayload["severity"], Tone>> = {
  P0: "critical",
  P1: "major",
  P2: "warning",
  P3: "info",
};

const HEARTBEATS: Readonly<Record<HeartbeatPayload["signal"], Omit<Headline, "suffix">>> = {
  start: { word: "STARTED", tone: "info", text: "Started" },
  success: { word: "OK", tone: "good", text: "Sign of life" },
  fail: { word: "FAILING", tone: "critical", text: "No sign of life" },
};

/** Says in a line what a notification is about. */
export function tellHeadline(payload: NotificationPayload): Headline {
  switch (payload.type) {
    case "alerts":
      return tellAlerts(payload);
    case "incident":
      return {
        word: payload.severity,
        tone: payload.message === "resolution" ? "good" : INCIDENT_TONES[payload.severity],
        text: INCIDENT_LEADS[payload.message](payload) + nameOf(payload.title, "an incident"),
        suffix: "",
      };
    case "heartbeat": {
      const { word, tone, text } = HEARTBEATS[payload.signal];
      const reason = toLine(payload.reason, LONGEST_TEXT);
      return { word, tone, text: isBlank(reason) ? text : `${text}: ${reason}`, suffix: "" };
    }
  }
}

const INCIDENT_LEADS: Readonly<
  Record<IncidentPayload["message"], (payload: IncidentPayload) => string>
> = {
  alert: () => "",
  update: ({ state }) => `Update (${state}): `,
  resolution: () => "Resolved: ",
  escalation: ({ escalation_level }) => `Escalation ${escalation_level} of 3: `,
};

/** A headline as a subject: `[TEST] [CRITICAL] text (again)`, at most `limit` characters, at least 100. */
export function formatHeadline(headline: Headline, isTest: boolean, limit: number): string {
  const { word, text, suffix } = headline;
  const tags = `${isTest ? "[TEST] " : ""}[${word}] `;
  return tags + cut(text, limit - tags.length - suffix.length) + suffix;
}

function tellAlerts(payload: AlertsPayload): Headline {
  const { because, firing_count, resolved_count, acknowledged_by } = payload;
  const [alert] = payload.alerts;
  const text = isOfOne(payload) && alert !== undefined
    ? summaryOf(alert)
    : `${tellCounts(firing_count, resolved_count)}: ${describeGroup(payload)}`;
  if (firing_count === 0) return { word: "RESOLVED", tone: "good", text, suffix: "" };

  const severity = worstFiring(payload);
  const suffix = acknowledged_by !== null
    ? ` (acknowledged by ${nameOf(toLine(acknowledged_by, 40), "somebody")})`
    : because === "repeated"
    ? " (again)"
    : "";
  return { word: severity.toUpperCase(), tone: severity, text, suffix };
}

/** Whether a message is about a single alert. */
export function isOfOne({ firing_count, resolved_count, alerts }: AlertsPayload): boolean {
  return firing_count + resolved_count === 1 && alerts.length <= 1;
}

/** Its `summary`, or else its name. */
function summaryOf(alert: ToldAlert): string {
  const summary = toLine(alert.annotations["summary"] ?? "", LONGEST_TEXT);
  return isBlank(summary) ? nameOf(alert.name, "an alert") : summary;
}

function tellCounts(firing: number, resolved: number): string {
  if (resolved === 0) return firing === 0 ? "Nothing fires" : `${firing} firing`;
  return firing === 0 ? `${resolved} resolved` : `${firing} firing, ${resolved} resolved`;
}

/** What the alerts of a group have in common: what they are grouped by, or their name, or their route. */
export function describeGroup({ group_labels, common_labels, route }: AlertsPayload): string {
  const { alertname = common_labels["alertname"] ?? "", ...rest } = group_labels;
  const names = isBlank(alertname) ? [] : [toLine(alertname, LONGEST_TEXT)];
  const labels = Object.keys(rest).sort().filter((name) => !isBlank(rest[name]!))
    .map((name) => formatTextLabel(name, rest[name]!, LONGEST_NAME));
  const described = [...names, ...labels];
  if (described.length > 0) return described.join(", ");
  return isBlank(route) ? "several groups" : `route ${toLine(route, LONGEST_TEXT)}`;
}

/** The worst severity of what fires; of what is listed if none of that does. */
function worstFiring({ alerts }: Pick<AlertsPayload, "alerts">): Severity {
  const firing = alerts.filter(({ status }) => status === "firing");
  const ranks = (firing.length > 0 ? firing : alerts).map(({ severity }) =>
    SEVERITIES.indexOf(severity)
  );
  return SEVERITIES[Math.max(...ranks)] ?? "warning";
}

/** A name as a line, or what is said instead of one that cannot be seen. */
export function nameOf(text: string, instead: string): string {
  const line = toLine(text, LONGEST_TEXT);
  return isBlank(line) ? instead : line;
}
