import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  renderWebhook,
  WEBHOOK_LIMIT_BYTES,
} from "../../../../shared/alerting/messages/render-webhook.ts";
import { samplePayload } from "../../../../shared/alerting/messages/sample-payloads.ts";
import type { AlertsPayload } from "../../../../shared/contract/notifications.ts";
import {
  alertOf,
  alertsOf,
  AT,
  HOSTILE_RUNS,
  hostileMessage,
  hugeAlerts,
  messageOf,
} from "./message-fixtures.ts";

const render = (...args: Parameters<typeof messageOf>) => renderWebhook(messageOf(...args));
const bytesOf = (rendered: unknown) => new TextEncoder().encode(JSON.stringify(rendered)).length;

describe("renderWebhook()", () => {
  it("of alerts is what Alertmanager sends", () => {
    const firing = alertOf({ runbook_url: "https://example.com/disk" });
    const resolved = alertOf({
      status: "resolved",
      fingerprint: "1111111111111111",
      labels: { instance: "<db>\u202e\n" },
      fired_at: "2026-11-21T13:00:00.123456+00:00",
      resolved_at: "2026-11-21T13:14:00Z",
      notes: ["one", "two"],
    });
    const payload = alertsOf([firing, resolved], {
      common_labels: { alertname: "DiskFull" },
      common_annotations: { summary: "s" },
      firing_count: 1,
      resolved_count: 11,
    });
    expect(render(payload)).toEqual({
      receiver: "ops",
      status: "firing",
      alerts: [
        {
          status: "firing",
          labels: { alertname: "DiskFull", instance: "db-1" },
          annotations: {
            summary: "db-1 has 3 % of its disk left",
            runbook_url: "https://example.com/disk",
          },
          startsAt: "2026-11-21T13:03:00Z",
          endsAt: "0001-01-01T00:00:00Z",
          generatorURL: "https://ops.example.com/pgvigil",
          fingerprint: "5f0c3b1e9a7d2468",
        },
        {
          status: "resolved",
          labels: { alertname: "DiskFull", instance: "<db>\u202e\n" },
          annotations: { summary: "db-1 has 3 % of its disk left", pgvigil_notes: "one\ntwo" },
          startsAt: "2026-11-21T13:00:00.123456+00:00",
          endsAt: "2026-11-21T13:14:00Z",
          generatorURL: "https://ops.example.com/pgvigil",
          fingerprint: "1111111111111111",
        },
      ],
      groupLabels: { alertname: "DiskFull" },
      commonLabels: { alertname: "DiskFull" },
      commonAnnotations: { summary: "s" },
      externalURL: "https://ops.example.com/pgvigil",
      version: "4",
      groupKey: 'default/{alertname="DiskFull"}',
      truncatedAlerts: 10,
    });
  });

  it("is resolved when nothing fires, and empty where there is no address", () => {
    const payload = alertsOf([
      alertOf({ status: "resolved", resolved_at: "2026-11-21T13:14:00Z" }),
    ]);
    expect(render(payload, { externalUrl: "javascript:alert(1)" }))
      .toMatchObject({ status: "resolved", externalURL: "", alerts: [{ generatorURL: "" }] });
  });

  it("marks a test where a receiver of Alertmanager's sees it", () => {
    const mark = { pgvigil_test: "true" };
    expect(render(alertsOf([alertOf()]), { isTest: true })).toMatchObject({
      alerts: [{ annotations: mark }],
      commonAnnotations: mark,
    });
  });

  it("of an incident is its payload, with what goes for the message", () => {
    const payload = samplePayload("incident-escalation", AT);
    expect(render(payload, { mayBeRepeated: true })).toEqual({
      version: "pgvigil/1",
      ...payload,
      receiver: "ops",
      externalURL: "https://ops.example.com/pgvigil",
      is_test: false,
      may_be_repeated: true,
      idempotency_key: "0b4ad5b6-6d64-4a1e-9f0c-1d2e3f405162",
    });
    expect(render(samplePayload("heartbeat", AT)))
      .toMatchObject({ version: "pgvigil/1", type: "heartbeat", signal: "success" });
  });

  it("leaves a text as it is, but for halves of surrogate pairs", () => {
    const labels = { a: "\ud800x\u0000\u202e<b>", ["__proto__"]: "own" };
    const rendered = JSON.stringify(render(alertsOf([alertOf({ labels })])));
    const { labels: sent } = JSON.parse(rendered).alerts[0];
    expect(sent.a).toBe("\ufffdx\u0000\u202e<b>");
  });
});

describe("renderWebhook(): any message", () => {
  it("is JSON within its limit, with all alerts accounted for", () => {
    fc.assert(
      fc.property(hostileMessage, (message) => {
        const rendered = renderWebhook(message);
        expect(bytesOf(rendered)).toBeLessThanOrEqual(WEBHOOK_LIMIT_BYTES);
        const json = JSON.stringify(rendered);
        expect(json).not.toMatch(/\\ud[89a-f]/i);
        if (message.payload.type !== "alerts") return;
        const { firing_count, resolved_count } = message.payload as AlertsPayload;
        const { alerts, truncatedAlerts } = JSON.parse(json);
        expect(truncatedAlerts).toBe(Math.max(0, firing_count + resolved_count - alerts.length));
      }),
      HOSTILE_RUNS,
    );
  });

  it.each(["x", "漢", "\u0000"])("is so with 50 alerts full of %j, which are all told", (part) => {
    const rendered = JSON.parse(JSON.stringify(render(hugeAlerts(part))));
    expect(bytesOf(rendered)).toBeLessThanOrEqual(WEBHOOK_LIMIT_BYTES);
    expect(rendered.alerts.length + rendered.truncatedAlerts).toBe(50);
    expect(rendered.alerts[0]).toMatchObject({ labels: { alertname: expect.anything() } });
  });
});
