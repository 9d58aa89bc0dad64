import {
  type AlertsPayload,
  type IncidentPayload,
  LISTED_ALERTS_LIMIT,
  type NotificationPayload,
  type ToldAlert,
} from "../../contract/notifications.ts";
import { MINUTE } from "../../detection/durations.ts";

/** A message of each kind that there is. */
export const SAMPLE_KINDS = [
  "alert",
  "alert-resolved",
  "alert-group",
  "incident-alert",
  "incident-update",
  "incident-resolution",
  "incident-escalation",
  "heartbeat",
] as const;
export type SampleKind = typeof SAMPLE_KINDS[number];

/** No alert and no incident ever has such a number: who copies a command of a sample touches nothing. */
const NO_ID = 9_000_000_000;

const RUNBOOK = "https://example.com/runbooks/replication-lag";

/** An example of what is told, as if it were `now`. */
export function samplePayload(kind: SampleKind, now: Date): NotificationPayload {
  const before = (minutes: number) => new Date(now.getTime() - minutes * MINUTE).toISOString();
  switch (kind) {
    case "alert":
      return ofOne(sampleAlert({ fired_at: before(12), occurrences: 4 }), "new");
    case "alert-resolved":
      return ofOne(
        sampleAlert({
          status: "resolved",
          fired_at: before(17),
          resolved_at: before(1),
          value: "0.4",
        }),
        "resolved",
      );
    case "alert-group":
      return sampleGroup(before);
    case "incident-alert":
      return sampleIncident("alert", before, {
        text:
          "Payments fail for about a third of all customers. They see “try again later”; no money is lost, " +
          "orders are kept.\n\nThe replica that answers the checkout lags 12 minutes behind.",
      });
    case "incident-update":
      return sampleIncident("update", before, {
        state: "identified",
        text:
          "A long transaction on the primary holds back the replica. We end it and send the reads of the checkout to the primary " +
          "meanwhile.",
        commander: "Ana Duarte",
        next_update_due_at: before(-30),
      });
    case "incident-resolution":
      return sampleIncident("resolution", before, {
        state: "resolved",
        text: "All payments go through again.",
        commander: "Ana Duarte",
        resolved_at: before(2),
        next_update_due_at: null,
        root_cause:
          "A report ran in one transaction for 40 minutes; the replica could not apply what was vacuumed meanwhile.",
        fix: "The report was ended. Reads of the checkout are back on the replica.",
        prevention:
          "Reports run with statement_timeout = 5min; the lag pages at 60 s instead of 600 s.",
        post_mortem_on: before(-3 * 24 * 60).slice(0, 10),
      });
    case "incident-escalation":
      return sampleIncident("escalation", before, {
        text:
          "Nobody has responded since it was opened: that was due 3 minutes ago. Escalated to level 2, Senior engineer and team lead.",
        escalation_level: 2,
        response_due_at: before(3),
      });
    case "heartbeat":
      return {
        type: "heartbeat",
        signal: "success",
        reason: "alerts were evaluated, and messages are sent",
      };
  }
}

function sampleAlert(changes: Partial<ToldAlert> & Pick<ToldAlert, "fired_at">): ToldAlert {
  return {
    alert_id: NO_ID + 1,
    fingerprint: "5f0c3b1e9a7d2468",
    status: "firing",
    name: "ReplicationLag",
    source: "rule",
    severity: "critical",
    labels: {
      alertname: "ReplicationLag",
      severity: "critical",
      instance: "replica-eu-2",
      job: "postgres",
      team: "platform",
    },
    annotations: {
      summary: "replica-eu-2 is 712 s behind the primary",
      description:
        "Reads from this replica are old: the checkout shows orders that are paid as open. It catches up by itself once the primary " +
        "writes less; if the lag grows, look for a long transaction.",
      runbook_url: RUNBOOK,
    },
    value: "712",
    resolved_at: null,
    runbook_url: RUNBOOK,
    occurrences: 1,
    notes: [],
    ...changes,
  };
}

function ofOne(alert: ToldAlert, because: AlertsPayload["because"]): AlertsPayload {
  const isFiring = alert.status === "firing";
  return {
    type: "alerts",
    group_key: 'platform/{alertname="ReplicationLag"}',
    route: "platform",
    because,
    group_labels: { alertname: alert.name },
    common_labels: alert.labels,
    common_annotations: alert.annotations,
    firing_count: isFiring ? 1 : 0,
    resolved_count: isFiring ? 0 : 1,
    alerts: [alert],
    acknowledged_by: null,
  };
}

/** 58 of 60 fire, more than are listed. */
function sampleGroup(before: (minutes: number) => string): AlertsPayload {
  const alerts = Array.from({ length: LISTED_ALERTS_LIMIT }, (_, index): ToldAlert => {
    const severity = index < 3 ? "critical" : "warning";
    const queue = `mail-${String(index + 1).padStart(2, "0")}`;
    return {
      alert_id: NO_ID + index + 1,
      fingerprint: (0x9b6d_0000_0000 + index).toString(16).padStart(16, "0"),
      status: "firing",
      name: "QueueStuck",
      source: "rule",
      severity,
      labels: { alertname: "QueueStuck", severity, job: "worker", team: "platform", queue },
      annotations: {
        summary: `${queue} has sent nothing for ${60 - index} min`,
        description: "Jobs are waiting, and none has been finished for half an hour.",
      },
      value: String(40 * (60 - index)),
      fired_at: before(60 - index),
      resolved_at: null,
      runbook_url: "https://example.com/runbooks/queue-stuck",
      occurrences: index === 0 ? 2 : 1,
      notes: index === 1 ? ["The silence of ana@example.com (“new mail provider”) has ended."] : [],
    };
  });
  return {
    type: "alerts",
    group_key: 'platform/{alertname="QueueStuck"}',
    route: "platform",
    because: "repeated",
    group_labels: { alertname: "QueueStuck" },
    common_labels: { alertname: "QueueStuck", job: "worker", team: "platform" },
    common_annotations: {
      description: "Jobs are waiting, and none has been finished for half an hour.",
    },
    firing_count: 58,
    resolved_count: 2,
    alerts,
    acknowledged_by: null,
  };
}

function sampleIncident(
  message: IncidentPayload["message"],
  before: (minutes: number) => string,
  changes: Partial<IncidentPayload> & Pick<IncidentPayload, "text">,
): IncidentPayload {
  return {
    type: "incident",
    message,
    incident_id: NO_ID + 17,
    title: "Payments fail at the checkout",
    severity: "P0",
    state: "open",
    started_at: before(18),
    opened_at: before(16),
    resolved_at: null,
    commander: null,
    affected_components: ["checkout", "payments"],
    escalation_level: 1,
    response_due_at: before(-9),
    next_update_due_at: before(-14),
    root_cause: null,
    fix: null,
    prevention: null,
    post_mortem_on: null,
    alerts: ["ReplicationLag", "CheckoutErrorsHigh"],
    runbook_url: RUNBOOK,
    ...changes,
  };
}
