import { describe, expect } from "vitest";
import {
  INCIDENT_MESSAGES,
  INCIDENT_STATES,
  IncidentPayload,
} from "../../shared/contract/notifications.ts";
import { it, type Query } from "./database.ts";
import {
  act,
  addAlert,
  addChannel,
  advance,
  newMessages,
  open,
  readEvents,
  readMessages,
  saveLevel,
  setUpLevels,
  stamp,
} from "./incidents.ts";
import { addAdmin, DAY, HOUR, iso, MINUTE, NOON, range, SECOND } from "./seeds.ts";

interface Sent {
  told: string[];
  next_update_due_at: string | null;
}

const send = (query: Query, incident: { incident_id: number }, args: object) =>
  act<Sent>(query, "send_incident_message", incident, args as Record<string, unknown>);

describe("messages of an incident", () => {
  it("say all that the contract knows, from what the incident is", async ({ query }) => {
    await setUpLevels(query);
    const alerts: number[] = [];
    for (const n of range(22)) {
      alerts.push(
        await addAlert(query, {
          name: `Alert${n}`,
          runbook_url: n === 2 ? "https://example.com/2" : null,
        }),
      );
    }
    const incident = await open(query, {
      p_severity: "P0",
      p_started_at: iso(NOON - HOUR),
      p_components: ["api", "web"],
      p_alert_ids: alerts,
      p_text: "nobody can pay",
    });
    await act(query, "assign_commander", incident, { p_commander: "Ada" });
    const shared = {
      type: "incident",
      incident_id: incident.incident_id,
      title: "Checkout fails",
      severity: "P0",
      started_at: stamp(NOON - HOUR),
      opened_at: stamp(NOON),
      affected_components: ["api", "web"],
      alerts: range(20).map((n) => `Alert${n}`),
      runbook_url: "https://example.com/2",
    };

    await advance(query, NOON + 15 * MINUTE);
    await act(query, "set_incident_state", incident, {
      p_state: "identified",
      p_now: iso(NOON + 20 * MINUTE),
    });
    await send(query, incident, {
      p_message: "update",
      p_text: "a full disk",
      p_channels: ["oncall"],
      p_now: iso(NOON + 25 * MINUTE),
    });
    await act(query, "set_incident_state", incident, {
      p_state: "resolved",
      p_text: "disk emptied",
      p_root_cause: "logs",
      p_fix: "deleted",
      p_prevention: "rotate",
      p_post_mortem_on: "2026-03-17",
      p_now: iso(NOON + 30 * MINUTE),
    });
    const messages = await readMessages(query);
    expect(messages).toMatchObject([
      {
        ...shared,
        message: "alert",
        channel: "oncall",
        state: "open",
        text: "nobody can pay",
        commander: null,
        escalation_level: 1,
        response_due_at: stamp(NOON + 15 * MINUTE),
        next_update_due_at: stamp(NOON + 30 * MINUTE),
        resolved_at: null,
        root_cause: null,
        post_mortem_on: null,
      },
      {
        ...shared,
        message: "escalation",
        channel: "seniors",
        commander: "Ada",
        escalation_level: 2,
        response_due_at: stamp(NOON + 15 * MINUTE),
      },
      {
        ...shared,
        message: "update",
        channel: "oncall",
        state: "identified",
        text: "a full disk",
        response_due_at: null, // somebody has responded
        next_update_due_at: stamp(NOON + 55 * MINUTE),
      },
      {
        ...shared,
        message: "resolution",
        channel: "oncall",
        state: "resolved",
        text: expect.stringMatching(
          /^disk emptied\. Of its alerts 22 still fire: .* and others\.$/,
        ),
        resolved_at: stamp(NOON + 30 * MINUTE),
        next_update_due_at: null,
        root_cause: "logs",
        fix: "deleted",
        prevention: "rotate",
        post_mortem_on: "2026-03-17",
      },
      { ...shared, message: "resolution", channel: "seniors" },
    ]);
    expect(messages).toHaveLength(5);
  });

  it("name alerts of one name once, with how many they are", async ({ query }) => {
    await addChannel(query, "ops");
    const alerts: number[] = [];
    for (const [n, name] of ["QueueDeep", "SiteDown", "QueueDeep"].entries()) {
      alerts.push(await addAlert(query, { name, fingerprint: `of ${n}` }));
    }
    await open(query, {
      ...{ p_title: "All is slow", p_severity: "P2", p_alert_ids: alerts },
      ...{ p_channels: ["ops"], p_now: iso(NOON) },
    });
    const { rows } = await query("select payload -> 'alerts' as alerts from monitor.notifications");
    expect(rows).toEqual([{ alerts: ["QueueDeep × 2", "SiteDown"] }]);
  });

  it("hold what people write as it is", async ({ query }) => {
    await addChannel(query, "ops");
    const text = `"quotes" \\ <b>bold</b> \u{1F525} 'x' {{ $labels }} %s\nsecond line`;
    await open(query, { p_text: text, p_title: '%s {} \\ "', p_components: ["a,b", '"', "{}"] });
    expect(await readMessages(query)).toMatchObject([
      { text, title: '%s {} \\ "', affected_components: ["a,b", '"', "{}"] },
    ]);
  });

  it("are those of the contract, no more, no less", async ({ asOwner, query }) => {
    await addChannel(query, "ops");
    await open(query);
    const { rows: [row] } = await query<{ keys: string[] }>(
      "select array(select jsonb_object_keys(payload) order by 1) as keys from monitor.notifications",
    );
    expect(row!.keys).toEqual(Object.keys(IncidentPayload.shape).sort());
    const { rows: [check] } = await asOwner<{ definition: string }>(
      "select pg_get_constraintdef(oid) as definition from pg_constraint where conname = 'incidents_state_known'",
    );
    expect([...check!.definition.matchAll(/'([^']*)'::text/g)].map(([, state]) => state))
      .toEqual([...INCIDENT_STATES]);
    expect([...INCIDENT_MESSAGES].sort()).toEqual(["alert", "escalation", "resolution", "update"]);
  });
});

describe("monitor.send_incident_message()", () => {
  it.for(
    [
      ["P0", 30 * MINUTE],
      ["P1", HOUR],
      ["P2", 4 * HOUR],
      ["P3", DAY],
    ] as const,
  )("of %s sets when the next update is due", async ([p_severity, interval], { query }) => {
    await addChannel(query, "ops");
    const incident = await open(query, { p_severity, p_tell: false });
    expect(incident.next_update_due_at).toBe(null); // nothing was promised to anyone
    const at = NOON + 5 * MINUTE;
    for (const p_message of ["alert", "update"]) {
      expect(await send(query, incident, { p_message, p_text: "hello", p_now: iso(at) })).toEqual({
        told: ["ops"],
        next_update_due_at: stamp(at + interval),
      });
    }
  });

  it.for(
    [
      [0, false],
      [1, true],
      [30 * DAY, true],
      [30 * DAY + 1, false],
    ] as const,
  )("takes a deadline in %d ms: %s", async ([ahead, isTaken], { query }) => {
    await addChannel(query, "ops");
    const incident = await open(query);
    const answer = send(query, incident, {
      p_message: "alert",
      p_next_update_due_at: iso(NOON + ahead),
    });
    if (isTaken) expect(Date.parse((await answer).next_update_due_at!)).toBe(NOON + ahead);
    else await expect(answer).rejects.toMatchObject({ code: "22023" });
  });

  it("goes by the channels that are chosen, else by those of the incident, else by level 1", async ({ query }) => {
    await setUpLevels(query);
    await addChannel(query, "press");
    const messages = newMessages(query);
    const chosen = await open(query, { p_channels: ["press"] });
    expect(await messages()).toEqual(["alert to press"]);
    await send(query, chosen, { p_message: "update", p_text: "hello" });
    expect(await messages()).toEqual(["update to press"]);
    await send(query, chosen, {
      p_message: "update",
      p_text: "hello",
      p_channels: ["managers", "managers"],
    });
    expect(await messages()).toEqual(["update to managers"]);
    // Who was told once is told how it goes on.
    await send(query, chosen, { p_message: "update", p_text: "hello" });
    expect(await messages()).toEqual(["update to managers", "update to press"]);

    const usual = await open(query);
    expect(await messages()).toEqual(["alert to oncall"]);
    await saveLevel(query, 1, ["seniors"]); // what level 1 is now, not what it was
    await send(query, usual, { p_message: "alert" });
    expect(await messages()).toEqual(["alert to oncall", "alert to seniors"]);
  });

  it("falls back where the chosen channel is gone or off", async ({ query }) => {
    await setUpLevels(query);
    await addChannel(query, "press");
    const incident = await open(query, { p_channels: ["press"], p_tell: false });
    await query("update monitor.notification_channels set enabled = false where channel = 'press'");
    const messages = newMessages(query);
    await send(query, incident, { p_message: "alert" });
    expect(await messages()).toEqual(["alert to oncall"]);
    expect((await readEvents(query, incident, "message"))[0]!.description).toBe(
      "Initial alert to oncall (what was chosen has no channel that works: level 1 is told): Checkout fails",
    );
  });

  it("is refused where it does not fit the state", async ({ query }) => {
    await addChannel(query, "ops");
    const incident = await open(query);
    const text = { p_text: "hello" };
    await expect(send(query, incident, { p_message: "resolution" })).rejects.toMatchObject({
      code: "22023",
      message: expect.stringContaining("is open: a resolution cannot be sent"),
    });
    await act(query, "set_incident_state", incident, { p_state: "resolved" });
    for (const p_message of ["alert", "update"]) {
      await expect(send(query, incident, { p_message, ...text })).rejects.toMatchObject({
        code: "22023",
      });
    }
    const later = { p_next_update_due_at: iso(NOON + HOUR) };
    await expect(send(query, incident, { p_message: "resolution", ...later })).rejects
      .toMatchObject({ code: "22023" });
    expect(await send(query, incident, { p_message: "resolution" })).toEqual({
      told: ["ops"],
      next_update_due_at: null,
    });
    expect((await readMessages(query)).at(-1)!.text).toBe("Resolved after 0 s.");
  });

  it.for(
    [
      [{ p_message: "escalation" }, "22023"],
      [{ p_message: null }, "22023"],
      [{ p_message: "update" }, "22023"],
      [{ p_message: "update", p_text: " " }, "22023"],
      [{ p_message: "alert", p_text: "x".repeat(10_001) }, "22023"],
      [{ p_message: "alert", p_channels: ["nobody"] }, "22023"],
      [{ p_message: "alert", p_channels: [] }, "22023"],
    ] as const,
  )("refuses %o", async ([wrong, code], { query }) => {
    await addChannel(query, "ops");
    const incident = await open(query, { p_tell: false });
    await expect(send(query, incident, wrong)).rejects.toMatchObject({
      code,
      hint: expect.stringMatching(/\S/),
    });
    expect(await readMessages(query)).toEqual([]);
  });

  it("is refused where there is nobody to tell, and promises nothing", async ({ query }) => {
    const incident = await open(query, { p_tell: false });
    await expect(send(query, incident, { p_message: "alert" })).rejects.toMatchObject({
      code: "55000",
      hint: expect.stringContaining("save_channel"),
    });
    expect(await act(query, "acknowledge_incident", incident)).toMatchObject({
      next_update_due_at: null,
    });
  });

  it("an update is a response, once", async ({ query }) => {
    await addChannel(query, "ops");
    const incident = await open(query);
    for (const minutes of [1, 2]) {
      await send(query, incident, {
        p_message: "update",
        p_text: "on it",
        p_now: iso(NOON + minutes * MINUTE),
      });
    }
    expect(await readEvents(query, incident, "acknowledged")).toMatchObject([
      { at: NOON + MINUTE, actor: "service_role", description: "Acknowledged by the update." },
    ]);
  });

  it("writes into the timeline what was said to whom", async ({ query, asOwner, asUser }) => {
    const admin = await addAdmin(asOwner);
    await addChannel(query, "ops");
    await addChannel(query, "press", "webhook");
    const incident = await open(query);
    await send(asUser(admin), incident, {
      p_message: "update",
      p_text: "half of it works",
      p_channels: ["press", "ops"],
      p_now: iso(NOON + SECOND),
    });
    expect((await readEvents(query, incident, "message")).at(-1)).toEqual({
      at: NOON + SECOND,
      kind: "message",
      actor: admin,
      description: "Status update to ops, press: half of it works",
    });
  });
});

describe("pages of PagerDuty", () => {
  const levelsOf = async (query: Query, channel: string) =>
    (await readMessages(query)).filter((message) => message.channel === channel)
      .map(({ message, escalation_level }) => `${message} ${escalation_level}`);

  it("are one a level; updates go to the last, a resolution ends all of them", async ({ query }) => {
    await addChannel(query, "pager", "pagerduty");
    await addChannel(query, "mail");
    for (const level of [1, 2, 3]) await saveLevel(query, level, ["mail", "pager"]);
    const incident = await open(query, { p_severity: "P0" });
    for (const n of [1, 2, 3]) await advance(query, NOON + 15 * n * MINUTE);
    const update = { p_message: "update", p_text: "soon" };
    await act(query, "send_incident_message", incident, update);
    const told = ["alert 1", "escalation 2", "escalation 3", "escalation 3", "update 3"];
    expect(await levelsOf(query, "pager")).toEqual(told);
    const resolved = await act(query, "set_incident_state", incident, {
      p_state: "resolved",
      p_now: iso(NOON + HOUR),
    });
    expect(resolved.told).toEqual(["mail", "pager"]);
    expect(await levelsOf(query, "pager"))
      .toEqual([...told, "resolution 1", "resolution 2", "resolution 3"]);
    expect(await levelsOf(query, "mail")).toEqual([...told, "resolution 3"]);

    // Opened again, it begins with a new first page.
    await act(query, "set_incident_state", incident, { p_state: "open", p_now: iso(NOON + HOUR) });
    await act(query, "set_incident_state", incident, {
      p_state: "resolved",
      p_now: iso(NOON + 2 * HOUR),
    });
    expect((await levelsOf(query, "pager")).slice(-2)).toEqual(["alert 1", "resolution 1"]);
  });

  it("of a level that was told alone gets its updates, and its end", async ({ query }) => {
    await addChannel(query, "mail");
    await addChannel(query, "seniors", "pagerduty");
    await saveLevel(query, 1, ["mail"]);
    await saveLevel(query, 2, ["seniors"]);
    const incident = await open(query, { p_severity: "P0" });
    await advance(query, NOON + 15 * MINUTE);
    await act(query, "send_incident_message", incident, { p_message: "update", p_text: "soon" });
    await act(query, "set_incident_state", incident, { p_state: "resolved" });
    expect(await levelsOf(query, "seniors")).toEqual(["escalation 2", "update 2", "resolution 2"]);
  });
});
