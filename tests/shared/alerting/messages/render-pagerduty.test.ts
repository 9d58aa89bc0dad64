import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  PAGERDUTY_LIMIT_BYTES,
  type PagerDutyEvent,
  renderPagerDuty,
} from "../../../../shared/alerting/messages/render-pagerduty.ts";
import { samplePayload } from "../../../../shared/alerting/messages/sample-payloads.ts";
import {
  alertOf,
  alertsOf,
  AT,
  HOSTILE_RUNS,
  hostileMessage,
  hugeAlerts,
  messageOf,
} from "./message-fixtures.ts";

const KEY = "0123456789abcdef0123456789abcdef";
const render = (...args: Parameters<typeof messageOf>) => renderPagerDuty(messageOf(...args), KEY);
const bytesOf = (event: PagerDutyEvent) => new TextEncoder().encode(JSON.stringify(event)).length;

describe("renderPagerDuty()", () => {
  it("of an alert triggers, with what there is to know", () => {
    const alert = alertOf({
      annotations: {
        summary: "db-1 has 3 % of its disk left",
        description: "Make room.",
        // Called as something of ours, which they do not replace.
        ...{ Value: "none", Labels: "none", Alert: "none" },
      },
      labels: { alertname: "DiskFull", instance: "db-1", job: "postgres" },
      runbook_url: "https://example.com/runbooks/disk",
      notes: ["A silence has ended."],
    });
    expect(render(alertsOf([alert]))).toEqual({
      routing_key: KEY,
      event_action: "trigger",
      dedup_key: 'pgvigil/ops.example.com/group/default/{alertname="DiskFull"}',
      client: "pgvigil",
      client_url: "https://ops.example.com/pgvigil",
      links: [{ href: "https://example.com/runbooks/disk", text: "Runbook of DiskFull" }],
      payload: {
        summary: "[CRITICAL] db-1 has 3 % of its disk left",
        severity: "critical",
        source: "ops.example.com",
        timestamp: "2026-11-21T13:15:00.000Z",
        component: "postgres",
        group: "DiskFull",
        class: "DiskFull",
        custom_details: {
          Alerts: [{
            Alert: "CRITICAL DiskFull #41",
            Description: "Make room.",
            Notes: "A silence has ended.",
            Labels: "instance=db-1, job=postgres",
            Since: "14:03 CET, 12 min",
            Value: "0.03",
          }],
          "Acknowledge #41": "select monitor.acknowledge_alert(41, 'looking into it');",
          "Silence #41 for 2 hours": expect.stringMatching(/where alert_id = 41;$/),
          Sent: "Sent by pgvigil to ops, route default, at 14:15 CET.",
        },
      },
    });
  });

  it("shows annotations that a group has in common, but for those called as something of ours", () => {
    const common_annotations = { dashboard: "d", Alerts: "none", Sent: "none", Labels: "none" };
    const alert = alertOf({ annotations: common_annotations });
    const { custom_details } =
      render(alertsOf([alert, alert], { common_annotations, common_labels: { job: "a" } })).payload;
    expect(custom_details).toMatchObject({ dashboard: "d", Labels: "job=a" });
    expect(JSON.stringify(custom_details)).not.toContain("none");
  });

  it("of an incident is under its number", () => {
    const { payload, ...event } = render(samplePayload("incident-update", AT));
    expect(event).toMatchObject({
      event_action: "trigger",
      dedup_key: "pgvigil/ops.example.com/incident/9000000017",
    });
    expect(payload).toMatchObject({
      summary: "[P0] Update (identified): Payments fail at the checkout",
      component: "checkout, payments",
      group: "incidents",
      class: "P0 incident",
      custom_details: { State: "identified", Commander: "Ana Duarte" },
    });
  });

  it("of an escalated incident is under its level, so that each pages anew", () => {
    const keyOf = (name: Parameters<typeof samplePayload>[0], escalation_level: number) =>
      render({ ...samplePayload(name, AT), escalation_level }).dedup_key;
    const key = "pgvigil/ops.example.com/incident/9000000017";
    for (const name of ["incident-escalation", "incident-update", "incident-resolution"] as const) {
      expect([1, 2, 3].map((level) => keyOf(name, level)))
        .toEqual([key, `${key}/level/2`, `${key}/level/3`]);
    }
  });

  it("does with each message what its like does in PagerDuty", () => {
    const actionOf = (payload: unknown) => render(payload).event_action;
    const alert = alertOf();
    const resolved = alertOf({ status: "resolved", resolved_at: "2026-11-21T13:14:00Z" });
    const ana = { acknowledged_by: "Ana" };
    expect(actionOf(alertsOf([alert]))).toBe("trigger");
    expect(actionOf(alertsOf([alert, resolved], { because: "resolved" }))).toBe("trigger");
    expect(actionOf(alertsOf([resolved], { because: "resolved" }))).toBe("resolve");
    expect(actionOf(alertsOf([resolved], { because: "acknowledged", ...ana }))).toBe("resolve");
    expect(actionOf(alertsOf([alert], { because: "acknowledged", ...ana }))).toBe("acknowledge");
    expect(actionOf(alertsOf([alert], { because: "acknowledged" }))).toBe("trigger");
    expect(actionOf(alertsOf([alert], { because: "repeated", ...ana }))).toBe("trigger");
    expect(actionOf(samplePayload("incident-alert", AT))).toBe("trigger");
    expect(actionOf(samplePayload("incident-escalation", AT))).toBe("trigger");
    expect(actionOf(samplePayload("incident-resolution", AT))).toBe("resolve");
    for (
      const [signal, action] of [["start", "resolve"], ["success", "resolve"], ["fail", "trigger"]]
    ) {
      expect(actionOf({ type: "heartbeat", signal, reason: "" })).toBe(action);
    }
  });

  it("has a word of PagerDuty for each severity", () => {
    const incident = samplePayload("incident-alert", AT);
    const ofIncident = (severity: string) => render({ ...incident, severity }).payload.severity;
    expect(["P0", "P1", "P2", "P3"].map(ofIncident)).toEqual([
      ...["critical", "error", "warning", "info"],
    ]);
    const ofAlert = (severity: "critical" | "warning" | "info") =>
      render(alertsOf([alertOf({ severity })])).payload.severity;
    expect((["critical", "warning", "info"] as const).map(ofAlert))
      .toEqual(["critical", "warning", "info"]);
  });

  it("has one key for a group whatever is said of it, and others for tests and other projects", () => {
    const keyOf = (changes: object, message = {}) =>
      render(alertsOf([alertOf()], changes), message).dedup_key;
    const key = keyOf({});
    expect(keyOf({ because: "resolved", firing_count: 0 }, { channel: "b", at: new Date(0) })).toBe(
      key,
    );
    const keys = [
      key,
      keyOf({ group_key: "another" }),
      keyOf({}, { isTest: true }),
      keyOf({}, { externalUrl: null }),
      keyOf({}, { externalUrl: "https://staging.example.com" }),
    ];
    expect(new Set(keys).size).toBe(5);
    expect(keys[3]).toBe('pgvigil/group/default/{alertname="DiskFull"}');
  });

  it("tells groups apart by what their keys have beyond 255 characters, or invisibly", () => {
    const keyOf = (group_key: string) =>
      render(alertsOf([alertOf()], { group_key }), { externalUrl: null }).dedup_key;
    const room = 255 - "pgvigil/group/".length;
    expect(keyOf("x".repeat(room))).toBe(`pgvigil/group/${"x".repeat(room)}`);
    const long = ["a", "b"].map((end) => keyOf("x".repeat(room) + end));
    expect(long[0]).not.toBe(long[1]);
    expect(long[0]).toMatch(/^pgvigil\/group\/x+…\/[0-9a-f]{32}$/);
    expect(long[0]).toHaveLength(255);
    const odd = ["a", "a\u200b", "a\n", "a\u0000", "a\ufffd", "\ud800", "\udc00"].map(keyOf);
    expect(new Set(odd).size).toBe(odd.length);
  });
});

describe("renderPagerDuty(): any message", () => {
  it("is within what PagerDuty takes", () => {
    fc.assert(
      fc.property(hostileMessage, (message) => {
        const event = renderPagerDuty(message, KEY);
        expect(bytesOf(event)).toBeLessThanOrEqual(PAGERDUTY_LIMIT_BYTES);
        expect(event.dedup_key.length).toBeLessThanOrEqual(255);
        expect(event.payload.summary).toMatch(/^(\[TEST\] )?\[[A-Z0-9]+\] \S/);
        expect(event.payload.summary.length).toBeLessThanOrEqual(1024);
        const { source, component, group, class: kind } = event.payload;
        for (const field of [source, component, group, kind]) {
          if (field === undefined) continue;
          expect(field.trim()).not.toBe("");
          expect(field.length).toBeLessThanOrEqual(255);
        }
        for (const { href, text } of event.links) {
          expect(href).toMatch(/^https?:\/\//);
          expect(text).toMatch(/^Runbook/);
        }
        expect(event.client_url ?? "https://").toMatch(/^https?:\/\//);
        expect(JSON.stringify(event)).not.toMatch(/\\u(?!2028|2029)|[\u202a-\u202e]/);
      }),
      HOSTILE_RUNS,
    );
  });

  it.each(["x", "漢", '"', "😀"])("is so with 50 alerts full of %j", (part) => {
    const event = render(hugeAlerts(part));
    expect(bytesOf(event)).toBeLessThanOrEqual(PAGERDUTY_LIMIT_BYTES);
    expect(event.payload.custom_details).toHaveProperty("Alerts");
  });
});
