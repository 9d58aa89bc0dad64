import { describe, expect, it } from "vitest";
import { renderHeartbeat } from "../../../../shared/alerting/messages/render-heartbeat.ts";
import {
  SAMPLE_KINDS,
  samplePayload,
} from "../../../../shared/alerting/messages/sample-payloads.ts";
import {
  CHANNEL_KINDS,
  HeartbeatPayload,
  INCIDENT_MESSAGES,
  LISTED_ALERTS_LIMIT,
  NotificationPayload,
} from "../../../../shared/contract/notifications.ts";
import { AT, messageOf } from "./message-fixtures.ts";

describe("samplePayload()", () => {
  it.each(SAMPLE_KINDS)("%s keeps to the contract, and is the same at the same time", (kind) => {
    const payload = samplePayload(kind, AT);
    expect(NotificationPayload.parse(payload)).toEqual(payload);
    expect(samplePayload(kind, AT)).toEqual(payload);
  });

  it("has one of each message there is", () => {
    const payloads = SAMPLE_KINDS.map((kind) => samplePayload(kind, AT));
    expect(new Set(payloads.map(({ type }) => type)))
      .toEqual(new Set(NotificationPayload.options.map(({ shape }) => shape.type.value)));
    const messages = payloads.flatMap((payload) =>
      payload.type === "incident" ? [payload.message] : []
    );
    expect(messages.toSorted()).toEqual([...INCIDENT_MESSAGES].sort());
    expect(CHANNEL_KINDS).toContain("heartbeat");
  });

  it("has a group of more than are listed", () => {
    const payload = samplePayload("alert-group", AT);
    if (payload.type !== "alerts") throw new Error("no group");
    expect(payload.alerts).toHaveLength(LISTED_ALERTS_LIMIT);
    expect(payload.firing_count + payload.resolved_count).toBe(60);
  });
});

describe("renderHeartbeat()", () => {
  const render = (signal: string, reason: string, isTest = false) =>
    renderHeartbeat({
      ...messageOf(samplePayload("heartbeat", AT), { isTest }),
      payload: HeartbeatPayload.parse({ type: "heartbeat", signal, reason }),
    });

  it.each([
    ["start", "/start", "[STARTED] Started: x"],
    ["success", "", "[OK] Sign of life: x"],
    ["fail", "/fail", "[FAILING] No sign of life: x"],
  ])("pings %s at %j", (signal, path, body) => {
    expect(render(signal, "x")).toEqual({ path, body });
  });

  it("says all of a reason in lines, and something where there is none", () => {
    expect(render("fail", "a\r\nb", true).body).toBe(
      "[TEST] [FAILING] No sign of life: a b\n\na\nb",
    );
    expect(render("success", " \u200b").body).toBe("[OK] Sign of life");
    expect(render("fail", "x\n".repeat(50_000)).body.length).toBeLessThan(10_000);
  });
});
