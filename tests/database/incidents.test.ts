import { describe, expect } from "vitest";
import { it, type Query } from "./database.ts";
import {
  act,
  addAlert,
  addChannel,
  advance,
  call,
  type Incident,
  newMessages,
  NOTHING,
  open,
  readEvents,
  readIncidents,
  readMessages,
  resolveAlert,
  setUpLevels,
  stamp,
} from "./incidents.ts";
import { addAnySeries, cleanUp } from "./retention.ts";
import {
  addAdmin,
  addAnomaly,
  addMetric,
  addSeries,
  addUser,
  DAY,
  HOUR,
  iso,
  MINUTE,
  NOON,
  openDays,
  range,
  SECOND,
} from "./seeds.ts";

const TARGETS = [
  ["P0", 15 * MINUTE, 30 * MINUTE],
  ["P1", HOUR, HOUR],
  ["P2", 4 * HOUR, 4 * HOUR],
  ["P3", DAY, DAY],
] as const;

const setState = (query: Query, incident: Incident, p_state: string, args: object = {}) =>
  act(query, "set_incident_state", incident, { p_state, ...args });

const resolve = (query: Query, incident: Incident, args: object = {}) =>
  setState(query, incident, "resolved", args);

/** The samples that are evidence of an incident, in ms from noon. */
const readEvidence = async (query: Query, { incident_id }: Incident) =>
  (await query<{ at: number }>(
    `select monitor.epoch_ms(recorded_at)::float8 - $2 as at from monitor.evidence_samples
     where owner_kind = 'incident' and owner_id = $1 order by series_id, recorded_at`,
    [incident_id, NOON],
  )).rows.map(({ at }) => at);

describe("monitor.open_incident()", () => {
  it.for(TARGETS)(
    "of %s wants a response and updates in time",
    async ([severity, response, update], { query }) => {
      await setUpLevels(query);
      expect(await open(query, { p_severity: severity })).toMatchObject({
        severity,
        state: "open",
        started_at: stamp(NOON),
        opened_at: stamp(NOON),
        response_due_at: stamp(NOON + response),
        next_update_due_at: stamp(NOON + update),
        acknowledged_at: null,
        escalation_level: 1,
        told: ["oncall"],
      });
    },
  );

  it("counts deadlines from when it is written down, not from when it began", async ({ query }) => {
    const began = NOON - 3 * DAY;
    const incident = await open(query, { p_started_at: iso(began), p_severity: "P0" });
    expect(incident).toMatchObject({
      started_at: stamp(began),
      opened_at: stamp(NOON),
      response_due_at: stamp(NOON + 15 * MINUTE),
    });
    expect(await readEvents(query, incident, "opened")).toMatchObject([{ at: NOON }]);
  });

  it("keeps components, alerts, anomalies and text, and who opened it", async ({ query, asOwner, asUser }) => {
    const admin = await addAdmin(asOwner);
    const series = await addAnySeries(query);
    const [alert, anomaly] = [await addAlert(query), await addAnomaly(query, series)];
    const incident = await open(asUser(admin), {
      p_title: "  Checkout\n fails ",
      p_components: [" api ", "web", "api", ""],
      p_alert_ids: [alert],
      p_anomaly_ids: [anomaly],
      p_text: "nobody can pay",
      p_tell: false,
    });
    expect(incident).toMatchObject({
      title: "Checkout fails",
      affected_components: ["api", "web"],
      opened_by: admin,
      next_update_due_at: null,
      told: [],
    });
    expect(await readEvents(query, incident)).toMatchObject([
      { kind: "opened", actor: admin, description: "Opened by hand: nobody can pay" },
      { kind: "alert", actor: "pgvigil", description: `Alert ${alert} (QueueDeep) fired.` },
      { kind: "alert", actor: admin, description: `Alert ${alert} (QueueDeep) was linked.` },
      { kind: "anomaly", actor: admin, description: expect.stringContaining("was linked") },
    ]);
    const { rows } = await query(
      "select actor, action, object, after -> 'title' as title from monitor.audit_log where object = 'incidents'",
    );
    expect(rows).toEqual([
      { actor: admin, action: "insert", object: "incidents", title: "Checkout fails" },
    ]);
  });

  it.for(
    [
      [{ p_title: " " }, "22023"],
      [{ p_title: null }, "22023"],
      [{ p_title: "x".repeat(201) }, "22023"],
      [{ p_severity: "P4" }, "22023"],
      [{ p_severity: "p0" }, "22023"],
      [{ p_severity: null }, "22023"],
      [{ p_started_at: iso(NOON + 1) }, "22023"],
      [{ p_started_at: "-infinity" }, "22023"],
      [{ p_started_at: "infinity" }, "22023"],
      [{ p_started_at: "2016-03-10T12:00:00Z" }, "22023"],
      [{ p_text: "x".repeat(10_001) }, "22023"],
      [{ p_components: range(51).map(String) }, "22023"],
      [{ p_components: ["x".repeat(201)] }, "22023"],
      [{ p_channels: ["nobody"] }, "22023"],
      [{ p_channels: [] }, "22023"],
      [{ p_channels: ["off"] }, "22023"],
      [{ p_channels: ["pulse"] }, "22023"],
      [{ p_alert_ids: [0] }, "P0002"],
      [{ p_anomaly_ids: [0] }, "P0002"],
    ] as const,
  )("refuses %o", async ([wrong, code], { query }) => {
    await addChannel(query, "off", "email", false);
    await addChannel(query, "pulse", "heartbeat");
    await expect(open(query, wrong)).rejects.toMatchObject({
      code,
      hint: expect.stringMatching(/\S/),
    });
    expect(await readIncidents(query)).toEqual([]);
  });

  it("takes what is just allowed", async ({ query }) => {
    const incident = await open(query, {
      p_title: "x".repeat(200),
      p_started_at: "2016-03-10T12:00:01Z",
      p_text: "x".repeat(10_000),
      p_components: range(50).map((n) => String(n).padStart(200, "x")),
    });
    expect(incident.affected_components).toHaveLength(50);
  });

  it("opens also where there is nobody to tell, and says so", async ({ query }) => {
    const incident = await open(query);
    expect(incident.told).toEqual([]);
    expect(await readEvents(query, incident, "message")).toMatchObject([{
      description:
        "Initial alert to nobody (there is no channel that is switched on): Checkout fails",
    }]);
  });
});

describe("monitor.acknowledge_incident()", () => {
  it("meets the deadline, once", async ({ query, asOwner, asUser }) => {
    const [first, second] = [await addAdmin(asOwner), await addAdmin(asOwner)];
    const incident = await open(query);
    const at = { p_now: iso(NOON + 5 * MINUTE) };
    const known = { acknowledged_at: stamp(NOON + 5 * MINUTE), acknowledged_by: first };
    expect(await act(asUser(first), "acknowledge_incident", incident, at)).toMatchObject({
      state: "open",
      response_due_at: stamp(NOON + HOUR), // the promise stays to be seen
      ...known,
    });
    expect(await act(asUser(second), "acknowledge_incident", incident)).toMatchObject(known);
    expect(await readEvents(query, incident, "acknowledged")).toMatchObject([
      { at: NOON + 5 * MINUTE, actor: first, description: "Acknowledged." },
    ]);
  });

  it("is refused where there is nothing to respond to", async ({ query }) => {
    const incident = await open(query);
    await resolve(query, incident);
    await expect(act(query, "acknowledge_incident", incident)).rejects.toMatchObject({
      code: "22023",
      hint: expect.stringContaining("set_incident_state"),
    });
    await expect(act(query, "acknowledge_incident", { incident_id: 0 })).rejects.toMatchObject({
      code: "P0002",
    });
  });
});

describe("monitor.set_incident_state()", () => {
  const STATES = ["open", "investigating", "identified", "monitoring", "resolved"];

  it.for(STATES.flatMap((from) => STATES.map((to) => [from, to] as const)))(
    "from %s to %s",
    async ([from, to], { query }) => {
      const incident = await open(query);
      if (from !== "open") await setState(query, incident, from);
      const answer = setState(query, incident, to, { p_now: iso(NOON + MINUTE) });
      if (from === to) {
        await expect(answer).rejects.toMatchObject({
          code: "22023",
          message: expect.stringContaining(`is ${to} already`),
          hint: expect.stringContaining("note_incident"),
        });
      } else {
        expect(await answer).toMatchObject({
          state: to,
          resolved_at: to === "resolved" ? stamp(NOON + MINUTE) : null,
        });
        expect(
          (await readEvents(query, incident, from === "resolved" ? "reopened" : "state")).at(-1),
        )
          .toMatchObject({ at: NOON + MINUTE });
      }
    },
  );

  it.for(["investigating", "identified", "monitoring", "resolved"])(
    "to %s is a response",
    async (state, { query }) => {
      const incident = await open(query);
      expect(await setState(query, incident, state)).toMatchObject({
        acknowledged_at: stamp(NOON),
        acknowledged_by: "service_role",
      });
      expect(await readEvents(query, incident, "acknowledged")).toHaveLength(1);
    },
  );

  it("keeps who responded first, also back in open", async ({ query }) => {
    const incident = await open(query);
    await act(query, "acknowledge_incident", incident);
    const later = { p_now: iso(NOON + HOUR) };
    await setState(query, incident, "investigating", later);
    expect(await setState(query, incident, "open", later)).toMatchObject({
      acknowledged_at: stamp(NOON),
    });
    expect(await readEvents(query, incident, "acknowledged")).toHaveLength(1);
  });

  it.for(["", "closed", "RESOLVED", null])("knows no state %s", async (state, { query }) => {
    const incident = await open(query);
    await expect(act(query, "set_incident_state", incident, { p_state: state })).rejects
      .toMatchObject({ code: "22023" });
  });

  it("is back-dated up to the start, and not into the future", async ({ query }) => {
    const began = NOON - HOUR;
    const incident = await open(query, { p_started_at: iso(began) });
    for (const at of [began - 1, NOON + 1]) {
      await expect(setState(query, incident, "identified", { p_at: iso(at) })).rejects
        .toMatchObject({ code: "22023" });
    }
    expect(await setState(query, incident, "monitoring", { p_at: iso(began) })).toMatchObject({
      mitigated_at: stamp(began),
      acknowledged_at: stamp(began),
    });
    expect(await readEvents(query, incident, "state")).toMatchObject([{ at: began }]);
    const { rows } = await query(
      "select recorded_at from monitor.incident_events where incident_id = $1 and kind = 'state'",
      [incident.incident_id],
    );
    expect(rows).toEqual([{ recorded_at: new Date(NOON) }]); // when it was written down is known all the same
    expect(await resolve(query, incident, { p_at: iso(NOON - MINUTE) })).toMatchObject({
      resolved_at: stamp(NOON - MINUTE),
    });
  });

  it("was mitigated when it was first monitoring", async ({ query }) => {
    const incident = await open(query, { p_started_at: iso(NOON - HOUR) });
    const at = (minutes: number) => ({ p_at: iso(NOON - minutes * MINUTE) });
    await setState(query, incident, "monitoring", at(30));
    await setState(query, incident, "investigating", at(20));
    expect(await setState(query, incident, "monitoring", at(10))).toMatchObject({
      mitigated_at: stamp(NOON - 30 * MINUTE),
    });
    // What is over before it was said to be mitigated was mitigated by that.
    expect(await resolve(query, incident, at(40))).toMatchObject({
      mitigated_at: stamp(NOON - 40 * MINUTE),
    });
  });

  it("takes what was the matter now, or later", async ({ query }) => {
    const incident = await open(query);
    expect(await resolve(query, incident, { p_root_cause: " a full disk ", p_fix: "" }))
      .toMatchObject({ root_cause: "a full disk", fix: null, prevention: null });
    expect(
      await act(query, "write_up_incident", incident, {
        p_fix: "deleted old logs",
        p_post_mortem_on: "2026-03-17",
      }),
    ).toMatchObject({
      root_cause: "a full disk",
      fix: "deleted old logs",
      prevention: null,
      post_mortem_on: "2026-03-17",
    });
    expect(await readEvents(query, incident, "write_up")).toMatchObject([
      { description: "Written: fix, post-mortem on 2026-03-17." },
    ]);
    await act(query, "write_up_incident", incident, { p_fix: "deleted old logs" });
    expect(await readEvents(query, incident, "write_up")).toHaveLength(1);
    await expect(
      act(query, "write_up_incident", incident, { p_prevention: "x".repeat(10_001) }),
    ).rejects.toMatchObject({ code: "22023" });
  });

  it("takes only a day that everybody can read", async ({ query }) => {
    const incident = await open(query);
    const set = (p_post_mortem_on: string) =>
      act(query, "write_up_incident", incident, { p_post_mortem_on });
    for (const day of ["1999-12-31", "3000-01-01", "infinity", "0044-03-15 BC"]) {
      await expect(set(day)).rejects.toMatchObject({ code: "23514" });
    }
    for (const day of ["2000-01-01", "2999-12-31"]) {
      expect(await set(day)).toMatchObject({ post_mortem_on: day });
    }
  });

  it("says which of its alerts still fire when it is resolved", async ({ query }) => {
    const [one, other] = [await addAlert(query), await addAlert(query, { name: "DiskFull" })];
    const incident = await open(query, { p_alert_ids: [one, other] });
    await query("update monitor.system_alerts set resolved_at = $2 where alert_id = $1", [
      one,
      iso(NOON),
    ]);
    await resolve(query, incident, { p_text: "disk emptied" });
    expect((await readEvents(query, incident, "state")).map(({ description }) => description))
      .toEqual([`Resolved: disk emptied. Of its alerts 1 still fires: ${other} (DiskFull).`]);
  });

  it("opened again starts deadlines anew, at level 1", async ({ query }) => {
    await setUpLevels(query);
    const incident = await open(query, { p_severity: "P0" });
    await advance(query, NOON + 15 * MINUTE);
    await setState(query, incident, "monitoring", { p_now: iso(NOON + 20 * MINUTE) });
    await resolve(query, incident, { p_now: iso(NOON + HOUR) });
    expect(await advance(query, NOON + 2 * HOUR)).toEqual(NOTHING);

    expect(
      await setState(query, incident, "open", {
        p_now: iso(NOON + 3 * HOUR),
        p_at: iso(NOON + 2 * HOUR),
      }),
    ).toMatchObject({
      state: "open",
      resolved_at: null,
      mitigated_at: null,
      reopened_at: stamp(NOON + 3 * HOUR),
      acknowledged_at: null,
      acknowledged_by: null,
      escalation_level: 1,
      response_due_at: stamp(NOON + 3 * HOUR + 15 * MINUTE),
      next_update_due_at: stamp(NOON + 3 * HOUR + 30 * MINUTE),
    });
    expect(await readEvents(query, incident, "reopened")).toMatchObject([
      { at: NOON + 2 * HOUR, description: "Opened again, as open." },
    ]);
    expect(await advance(query, NOON + 3 * HOUR + 15 * MINUTE - SECOND)).toEqual(NOTHING);
    expect(await advance(query, NOON + 3 * HOUR + 15 * MINUTE)).toMatchObject({ escalated: 1 });
    expect(await readIncidents(query)).toMatchObject([{ escalation_level: 2 }]);
    expect((await readMessages(query)).at(-1)!.text).toContain(
      "since it was opened again: that was due at 2026-03-10 15:15:00",
    );
  });

  it("opened again by who is on it needs no other response", async ({ query }) => {
    const incident = await open(query);
    await resolve(query, incident);
    expect(await setState(query, incident, "identified", { p_now: iso(NOON + HOUR) }))
      .toMatchObject({
        acknowledged_at: stamp(NOON + HOUR),
        reopened_at: stamp(NOON + HOUR),
        next_update_due_at: stamp(NOON + 2 * HOUR),
      });
    expect(await readEvents(query, incident, "acknowledged")).toHaveLength(2);
  });

  it("cannot be opened again before it was resolved", async ({ query }) => {
    const incident = await open(query, { p_started_at: iso(NOON - HOUR) });
    await resolve(query, incident, { p_at: iso(NOON - MINUTE) });
    await expect(setState(query, incident, "open", { p_at: iso(NOON - MINUTE - 1) })).rejects
      .toMatchObject({ code: "22023", message: expect.stringContaining("was resolved at") });
    await setState(query, incident, "open", { p_at: iso(NOON - MINUTE) });
  });

  it("tells the end, and that it is open again, to those who were told", async ({ query }) => {
    await setUpLevels(query);
    const messages = newMessages(query);
    const incident = await open(query, { p_severity: "P0" });
    await advance(query, NOON + 15 * MINUTE);
    expect(await messages()).toEqual(["alert to oncall", "escalation to seniors"]);
    await setState(query, incident, "investigating");
    expect(await messages()).toEqual([]);
    await setState(query, incident, "identified", { p_tell: true, p_text: "a full disk" });
    expect(await messages()).toEqual(["update to oncall", "update to seniors"]);
    expect((await resolve(query, incident)).told).toEqual(["oncall", "seniors"]);
    expect(await messages()).toEqual(["resolution to oncall", "resolution to seniors"]);
    await setState(query, incident, "open", { p_text: "it is back" });
    expect(await messages()).toEqual(["alert to oncall", "alert to seniors"]);
    expect((await readMessages(query)).at(-1)!.text).toBe(
      "It was resolved, and is open again. it is back",
    );
    await resolve(query, incident, { p_tell: false });
    expect(await messages()).toEqual([]);
  });

  it("tells nobody of the end of what nobody was told of", async ({ query }) => {
    await setUpLevels(query);
    const incident = await open(query, { p_tell: false });
    expect((await resolve(query, incident)).told).toEqual([]);
    expect(await readMessages(query)).toEqual([]);
  });
});

describe("monitor.set_incident_severity()", () => {
  it.for(TARGETS)(
    "to %s counts the deadline from the opening",
    async ([severity, target], { query }) => {
      const incident = await open(query, { p_severity: severity === "P3" ? "P2" : "P3" });
      expect(
        await act(query, "set_incident_severity", incident, {
          p_severity: severity,
          p_text: "more are hit",
          p_now: iso(NOON + 10 * MINUTE),
        }),
      ).toMatchObject({ severity, response_due_at: stamp(NOON + target) });
      expect(await readEvents(query, incident, "severity")).toMatchObject([
        { description: `${severity} instead of ${incident.severity}: more are hit` },
      ]);
    },
  );

  it("lets a deadline that has passed by that escalate, a lower one not", async ({ query }) => {
    await setUpLevels(query);
    const incident = await open(query, { p_severity: "P3" });
    const set = (p_severity: string, at: number) =>
      act(query, "set_incident_severity", incident, { p_severity, p_now: iso(at) });
    expect(await advance(query, NOON + 2 * HOUR)).toEqual({ ...NOTHING });
    await set("P1", NOON + 2 * HOUR);
    expect(await advance(query, NOON + 2 * HOUR)).toMatchObject({ escalated: 1 });
    await set("P2", NOON + 2 * HOUR);
    expect(await advance(query, NOON + 4 * HOUR - SECOND)).toMatchObject({ escalated: 1 }); // the update, promised at 3
    expect((await readMessages(query)).at(-1)!.text).toMatch(/^The status update is overdue/);
    // A target after the last time, though the deadline itself was at 4.
    expect(await advance(query, NOON + 6 * HOUR - SECOND)).toEqual(NOTHING);
    expect(await advance(query, NOON + 6 * HOUR)).toMatchObject({ escalated: 1 });
  });

  it("puts no update off that was promised", async ({ query }) => {
    const incident = await open(query, { p_severity: "P2" });
    const set = (p_severity: string) =>
      act(query, "set_incident_severity", incident, { p_severity, p_now: iso(NOON + HOUR) });
    expect(await set("P0")).toMatchObject({
      next_update_due_at: stamp(NOON + HOUR + 30 * MINUTE),
    });
    expect(await set("P3")).toMatchObject({
      next_update_due_at: stamp(NOON + HOUR + 30 * MINUTE),
    });
  });

  it("counts from when it was opened again", async ({ query }) => {
    const incident = await open(query, { p_severity: "P3" });
    await resolve(query, incident);
    await setState(query, incident, "open", { p_now: iso(NOON + DAY) });
    expect(
      await act(query, "set_incident_severity", incident, {
        p_severity: "P0",
        p_now: iso(NOON + DAY),
      }),
    ).toMatchObject({ response_due_at: stamp(NOON + DAY + 15 * MINUTE) });
  });

  it.for(["P1", "P5", null])("refuses %s", async (p_severity, { query }) => {
    const incident = await open(query);
    await expect(act(query, "set_incident_severity", incident, { p_severity })).rejects
      .toMatchObject({ code: "22023" });
  });
});

describe("what people say of an incident", () => {
  it("who leads, and who does no more", async ({ query }) => {
    const incident = await open(query);
    const assign = (p_commander: string | null) =>
      act(query, "assign_commander", incident, { p_commander });
    expect(await assign(" Ada ")).toMatchObject({ commander: "Ada" });
    await assign("Ada");
    await assign("Grace");
    expect(await assign(null)).toMatchObject({ commander: null });
    expect((await readEvents(query, incident, "commander")).map((event) => event.description))
      .toEqual(["Led by Ada.", "Led by Grace instead of Ada.", "Grace leads no more."]);
    await expect(assign("x".repeat(201))).rejects.toMatchObject({ code: "22023" });
  });

  it("what is affected", async ({ query }) => {
    const incident = await open(query, { p_components: ["api"] });
    const set = (p_components: string[]) =>
      act(query, "update_incident_components", incident, { p_components });
    expect(await set(["web", "api"])).toMatchObject({ affected_components: ["web", "api"] });
    await set(["web", "api"]);
    await set([]);
    expect((await readEvents(query, incident, "components")).map((event) => event.description))
      .toEqual(["Affects web, api; before: api.", "Affects nothing; before: web, api."]);
  });

  it("notes, also of what was before, and after the end", async ({ query }) => {
    const incident = await open(query);
    await resolve(query, incident);
    const note = (args: Readonly<Record<string, unknown>>) =>
      act<string>(query, "note_incident", incident, args);
    await note({ p_text: " deployed v2 ", p_at: iso(NOON - DAY) });
    expect(Number(await note({ p_text: "told the press" }))).toBeGreaterThan(0);
    expect(
      (await readEvents(query, incident, "note")).map(({ at, description }) => [at, description]),
    )
      .toEqual([[NOON - DAY, "deployed v2"], [NOON, "told the press"]]);
    for (
      const wrong of [
        { p_text: " " },
        { p_text: null },
        { p_text: "x".repeat(10_001) },
        { p_text: "x", p_at: iso(NOON + 1) },
        { p_text: "x", p_at: "-infinity" },
      ]
    ) await expect(note(wrong)).rejects.toMatchObject({ code: "22023" });
  });
});

describe("links to alerts", () => {
  it("tell what the alert did, once", async ({ query }) => {
    const incident = await open(query);
    const alert = await addAlert(query, {
      at: NOON - HOUR,
      resolved_at: iso(NOON - MINUTE),
      resolved_because: "what it says no longer holds",
    });
    const link = () => act<boolean>(query, "link_alert", incident, { p_alert_id: alert });
    expect(await link()).toBe(true);
    expect(await link()).toBe(false);
    expect(await readEvents(query, incident, "alert")).toMatchObject([
      { at: NOON - HOUR, description: `Alert ${alert} (QueueDeep) fired.` },
      {
        at: NOON - MINUTE,
        description: `Alert ${alert} (QueueDeep) resolved: what it says no longer holds.`,
      },
      { at: NOON, description: `Alert ${alert} (QueueDeep) was linked, which is over.` },
    ]);
  });

  it("are taken back", async ({ query }) => {
    const alert = await addAlert(query);
    const incident = await open(query, { p_alert_ids: [alert] });
    const unlink = () => act(query, "unlink_alert", incident, { p_alert_id: alert });
    await unlink();
    expect((await query("select from monitor.incident_alerts")).rows).toHaveLength(0);
    await expect(unlink()).rejects.toMatchObject({ code: "P0002" });
    expect((await readEvents(query, incident, "alert")).at(-1)!.description).toContain("unlinked");
  });

  it("are at most 1,000", async ({ query }) => {
    const incident = await open(query);
    await query(
      `with alert as (
         insert into monitor.system_alerts (fingerprint, name, source, severity, opened_at, active_at, fired_at, last_seen_at, occurrence_count)
         select 'many ' || n, 'Many', 'rule', 'info', $2, $2, $2, $2, 1 from generate_series(1, 999) as n returning alert_id
       ) insert into monitor.incident_alerts (incident_id, alert_id, occurrence_count) select $1, alert_id, 1 from alert`,
      [incident.incident_id, iso(NOON)],
    );
    const link = (p_alert_id: number) => act(query, "link_alert", incident, { p_alert_id });
    const last = await addAlert(query);
    expect(await link(last)).toBe(true);
    await expect(link(await addAlert(query))).rejects.toMatchObject({ code: "54000" });
    expect(await link(last)).toBe(false); // it is there: nothing is too many
  });
});

describe("links to anomalies", () => {
  it("copy the samples within 2 hours of its ends, both sides", async ({ query }) => {
    await openDays(query);
    const edges = [
      -2 * HOUR - 1,
      -2 * HOUR,
      0,
      2 * HOUR,
      2 * HOUR + 1,
      7 * HOUR - 1,
      7 * HOUR,
      9 * HOUR,
      11 * HOUR,
      11 * HOUR + 1,
    ];
    const series = await addAnySeries(query, edges.map((at) => [NOON + at, at]));
    const anomaly = await addAnomaly(query, series, {
      last_seen_at: iso(NOON + 9 * HOUR),
      ended_at: iso(NOON + 9 * HOUR),
      ended_reason: "recovered",
    });
    const incident = await open(query);
    const link = () =>
      act<number>(query, "link_anomaly", incident, {
        p_anomaly_id: anomaly,
        p_now: iso(NOON + 12 * HOUR),
      });
    expect(await link()).toBe(6);
    expect(await readEvidence(query, incident)).toEqual([
      -2 * HOUR,
      0,
      2 * HOUR,
      7 * HOUR,
      9 * HOUR,
      11 * HOUR,
    ]);
    expect(await link()).toBe(0);
    expect(await readEvents(query, incident, "anomaly")).toHaveLength(1);
  });

  it("copy the evidence of the anomaly where the samples are gone, archived or not", async ({ query }) => {
    const anomaly = await addAnomaly(query, await addAnySeries(query), {
      ended_at: iso(NOON),
      ended_reason: "recovered",
      review_state: "expected",
      reviewed_at: iso(NOON),
      reviewed_by: "me",
    });
    await query(
      `insert into monitor.evidence_samples (owner_kind, owner_id, series_id, recorded_at, value)
       select 'anomaly', anomaly_id, series_id, $1, 9 from monitor.anomaly_detections`,
      [iso(NOON)],
    );
    await query(
      "with gone as (delete from monitor.anomaly_detections returning *) insert into monitor.anomaly_detections_archive select * from gone",
    );
    const incident = await open(query, { p_anomaly_ids: [anomaly] });
    expect(await readEvidence(query, incident)).toEqual([0]);
  });

  it("copy what comes later, once 2 hours and a little have passed", async ({ query }) => {
    await openDays(query);
    const metricSeries = await addAnySeries(query, [[NOON, 1]]);
    const anomaly = await addAnomaly(query, metricSeries);
    const incident = await open(query, { p_anomaly_ids: [anomaly] });
    expect(await readEvidence(query, incident)).toEqual([0]);
    const sample = (at: number) =>
      query(
        "insert into monitor.metric_time_series (series_id, recorded_at, value) values ($1, $2, 1)",
        [
          metricSeries,
          iso(NOON + at),
        ],
      );
    await sample(2 * HOUR);
    await act(query, "acknowledge_incident", incident);
    await query("update monitor.incidents set next_update_due_at = null");
    await advance(query, NOON + 2 * HOUR + 5 * MINUTE - SECOND);
    expect(await readEvidence(query, incident)).toEqual([0]);
    await advance(query, NOON + 2 * HOUR + 5 * MINUTE);
    expect(await readEvidence(query, incident)).toEqual([0, 2 * HOUR]);

    await query(
      "update monitor.anomaly_detections set ended_at = $1, last_seen_at = $1, ended_reason = 'recovered'",
      [iso(NOON + 6 * HOUR)],
    );
    await sample(8 * HOUR);
    await advance(query, NOON + 8 * HOUR + 5 * MINUTE - SECOND);
    expect(await readEvidence(query, incident)).toEqual([0, 2 * HOUR]);
    await advance(query, NOON + 8 * HOUR + 5 * MINUTE);
    expect(await readEvidence(query, incident)).toEqual([0, 2 * HOUR, 8 * HOUR]);
    const { rows } = await query("select evidence_copied_at as at from monitor.incident_anomalies");
    await advance(query, NOON + 9 * HOUR);
    expect((await query("select evidence_copied_at as at from monitor.incident_anomalies")).rows)
      .toEqual(rows); // it is whole: nothing is copied any more
  });

  it("are taken back with the samples that are of no other", async ({ query }) => {
    await openDays(query);
    const [series, other] = [
      await addAnySeries(query, [[NOON, 1]]),
      await addAnySeries(query, [[NOON + 1, 1]]),
    ];
    const ended = { ended_at: iso(NOON), ended_reason: "recovered" };
    const [one, same, third] = [
      await addAnomaly(query, series, ended),
      await addAnomaly(query, series),
      await addAnomaly(query, other),
    ];
    const incident = await open(query, { p_anomaly_ids: [one, same, third] });
    const unlink = (p_anomaly_id: number) =>
      act(query, "unlink_anomaly", incident, { p_anomaly_id });
    await unlink(one);
    expect(await readEvidence(query, incident)).toEqual([0, 1]);
    await unlink(same);
    expect(await readEvidence(query, incident)).toEqual([1]);
    await expect(unlink(same)).rejects.toMatchObject({ code: "P0002" });
  });

  it("are at most 100", async ({ query }) => {
    const incident = await open(query);
    await query(
      "insert into monitor.incident_anomalies select $1, n from generate_series(1000001, 1000099) as n",
      [
        incident.incident_id,
      ],
    );
    const link = async () =>
      act(query, "link_anomaly", incident, {
        p_anomaly_id: await addAnomaly(query, await addAnySeries(query)),
      });
    await link();
    await expect(link()).rejects.toMatchObject({ code: "54000" });
  });

  it("and their evidence go with the incident", async ({ query }) => {
    await openDays(query);
    const anomaly = await addAnomaly(query, await addAnySeries(query, [[NOON, 1]]));
    const incident = await open(query, {
      p_anomaly_ids: [anomaly],
      p_alert_ids: [await addAlert(query)],
    });
    await resolve(query, incident);
    const clean = (at: number) => cleanUp(query, "cleanup_old_incidents", { p_now: iso(at) });
    expect(await clean(NOON + 90 * DAY)).toMatchObject({ outcome: "nothing" });
    expect(await clean(NOON + 90 * DAY + 1)).toMatchObject({ counts: { deleted: 1 } });
    expect(await readEvidence(query, incident)).toEqual([]);
    for (const table of ["incident_events", "incident_alerts", "incident_anomalies"]) {
      expect((await query(`select from monitor.${table}`)).rows).toHaveLength(0);
    }
  });
});

/** Adds a rule and gives its id. */
const addRule = async (query: Query, expr: string, labels: object = {}) => {
  await query(
    "insert into monitor.rule_groups (group_name) values ('evidence') on conflict do nothing",
  );
  const { rows } = await query<{ id: string }>(
    `insert into monitor.alert_rules (group_name, position, kind, name, expr, labels, severity)
     values ('evidence', 1, 'alerting', $1, $1, $2, 'warning') returning rule_id as id`,
    [expr, labels],
  );
  return Number(rows[0]!.id);
};

/** The series of which an alert has evidence, by their place in `known`; after an advance at `at`. */
const seriesOf = async (query: Query, alert: number, known: readonly number[]) => {
  const { rows } = await query<{ ids: number[] | null }>(
    "select series_ids as ids from monitor.incident_alerts where alert_id = $1",
    [alert],
  );
  return rows[0]!.ids?.map((id) => known.indexOf(id)) ?? null;
};

describe("the evidence of alerts", () => {
  it("is of the series of metrics that the rule names, unless a label says something else", async ({ query }) => {
    for (const metric of ["depth", "workers", "other"]) await addMetric(query, { metric });
    const known = [
      await addSeries(query, "depth", [], { queue: "mails", severity: "low" }),
      await addSeries(query, "depth", [], { queue: "jobs" }),
      await addSeries(query, "workers"),
      await addSeries(query, "workers", [], { team: "blue", host: "b" }),
      await addSeries(query, "other", [], { queue: "mails" }),
    ];
    const rule_id = await addRule(query, "depth / on () workers{team!='x'} > 5", { team: "red" });
    const labels = { alertname: "Deep", severity: "warning", team: "red", queue: "mails" };
    const alert = await addAlert(query, { rule_id, labels });
    await open(query, { p_alert_ids: [alert], p_tell: false });
    expect(await seriesOf(query, alert, known)).toBeNull();
    await advance(query, NOON);
    expect(await seriesOf(query, alert, known)).toEqual([0, 2, 3]);
  });

  it("is of 10 series, those with the labels of the alert and the freshest first", async ({ query }) => {
    await addMetric(query, { metric: "depth" });
    const known = [];
    for (const n of range(12)) {
      known.push(
        await addSeries(query, "depth", [], n === 11 ? { queue: "mails" } : { host: `${n}` }),
      );
    }
    await query(
      "update monitor.metric_series set last_sample_at = $1 where series_id = any ($2)",
      [iso(NOON), known.slice(2, 11)],
    );
    const alert = await addAlert(query, {
      rule_id: await addRule(query, "sum(depth) > 5"),
      labels: { queue: "mails" },
    });
    await open(query, { p_alert_ids: [alert], p_tell: false });
    await advance(query, NOON);
    expect(await seriesOf(query, alert, known)).toEqual([2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
  });

  it("is that of the anomaly of an alert that tells one, and none of jobs and of rules that are gone", async ({ query }) => {
    const metricSeries = await addAnySeries(query);
    const anomaly_id = await addAnomaly(query, metricSeries);
    const of = { source: "anomaly", anomaly_id };
    const alerts = [
      await addAlert(query, of),
      await addAlert(query, { source: "job" }),
      await addAlert(query, { rule_id: 4711 }),
    ];
    await open(query, { p_alert_ids: alerts, p_tell: false });
    await advance(query, NOON);
    const series = [];
    for (const alert of alerts) series.push(await seriesOf(query, alert, [metricSeries]));
    expect(series).toEqual([[0], [], []]);
  });

  it("is copied around its beginning, and again when the 2 hours after firing and resolving are over", async ({ query }) => {
    await openDays(query);
    const edges = [-2 * HOUR - 1, -2 * HOUR, 0, 2 * HOUR + MINUTE, 2 * HOUR + MINUTE + 1];
    await addMetric(query, { metric: "depth" });
    const metricSeries = await addSeries(query, "depth", edges.map((at) => [NOON + at, at]));
    const alert = await addAlert(query, {
      rule_id: await addRule(query, "depth > 5"),
      at: NOON + MINUTE,
      active_at: iso(NOON),
    });
    const incident = await open(query, {
      p_alert_ids: [alert],
      p_tell: false,
      p_now: iso(NOON + MINUTE),
    });
    await act(query, "acknowledge_incident", incident);
    const sample = (at: number) =>
      query(
        "insert into monitor.metric_time_series (series_id, recorded_at, value) values ($1, $2, 1)",
        [metricSeries, iso(NOON + at)],
      );
    await advance(query, NOON + MINUTE);
    const first = [-2 * HOUR, 0, 2 * HOUR + MINUTE];
    expect(await readEvidence(query, incident)).toEqual(first);
    await sample(HOUR);
    await advance(query, NOON + 2 * HOUR + 6 * MINUTE - SECOND);
    expect(await readEvidence(query, incident)).toEqual(first);
    await advance(query, NOON + 2 * HOUR + 6 * MINUTE);
    expect(await readEvidence(query, incident)).toEqual(first.toSpliced(2, 0, HOUR));

    await resolveAlert(query, alert, NOON + 6 * HOUR);
    await sample(8 * HOUR);
    await sample(8 * HOUR + 1);
    await advance(query, NOON + 8 * HOUR + 5 * MINUTE - SECOND);
    expect(await readEvidence(query, incident)).toHaveLength(4);
    await advance(query, NOON + 8 * HOUR + 5 * MINUTE);
    expect(await readEvidence(query, incident)).toEqual([...first.toSpliced(2, 0, HOUR), 8 * HOUR]);
  });

  it("comes also to what was resolved long ago, not before the alert fires", async ({ query }) => {
    await openDays(query);
    await addMetric(query, { metric: "depth" });
    await addSeries(query, "depth", [[NOON, 1]]);
    const rule_id = await addRule(query, "depth > 5");
    const pending = await addAlert(query, { rule_id, fired_at: null, occurrence_count: 0 });
    const incident = await open(query, { p_tell: false });
    await resolve(query, incident);
    await act(query, "link_alert", incident, { p_alert_id: pending });
    await advance(query, NOON + 10 * DAY);
    expect(await readEvidence(query, incident)).toEqual([]);
    await act(query, "link_alert", incident, { p_alert_id: await addAlert(query, { rule_id }) });
    await advance(query, NOON + 10 * DAY);
    expect(await readEvidence(query, incident)).toEqual([0]);
  });

  it("goes with the link, unless another alert or anomaly is of the series", async ({ query }) => {
    await openDays(query);
    await addMetric(query, { metric: "depth" });
    const metricSeries = await addSeries(query, "depth", [[NOON, 1]]);
    const rule_id = await addRule(query, "depth > 5");
    const [one, same] = [await addAlert(query, { rule_id }), await addAlert(query, { rule_id })];
    const anomaly = await addAnomaly(query, metricSeries);
    const incident = await open(query, {
      p_alert_ids: [one, same],
      p_anomaly_ids: [anomaly],
      p_tell: false,
    });
    await advance(query, NOON);
    await act(query, "unlink_anomaly", incident, { p_anomaly_id: anomaly });
    await act(query, "unlink_alert", incident, { p_alert_id: one });
    expect(await readEvidence(query, incident)).toEqual([0]);
    await act(query, "unlink_alert", incident, { p_alert_id: same });
    expect(await readEvidence(query, incident)).toEqual([]);
  });

  it("is found among 10,000 series of a metric in little time", async ({ query }) => {
    await addMetric(query, { metric: "depth" });
    await query(
      `insert into monitor.metric_series (metric, labels)
       select 'depth', jsonb_build_object('queue', n::text, 'host', 'a') from generate_series(1, 10000) as n`,
    );
    const rule_id = await addRule(query, "depth > 5");
    const alerts = [];
    for (const n of range(20)) {
      alerts.push(await addAlert(query, { rule_id, labels: { queue: `${n + 1}`, host: "a" } }));
    }
    await open(query, { p_alert_ids: alerts, p_tell: false });
    const start = performance.now();
    await advance(query, NOON);
    expect(performance.now() - start).toBeLessThan(2000);
    const { rows } = await query(
      "select cardinality(series_ids) as n from monitor.incident_alerts",
    );
    expect(rows).toEqual(alerts.map(() => ({ n: 1 })));
  });

  it("is of the first 100 alerts of an incident", async ({ query }) => {
    const alerts = [];
    for (const _ of range(101)) alerts.push(await addAlert(query));
    await open(query, { p_alert_ids: alerts, p_tell: false });
    expect(await seriesOf(query, alerts[99]!, [])).toBeNull();
    expect(await seriesOf(query, alerts[100]!, [])).toEqual([]);
  });
});

describe("monitor.describe_incident() and monitor.incident_timeline()", () => {
  it("tell all of it", async ({ query }) => {
    await setUpLevels(query);
    const [alert, anomaly] = [
      await addAlert(query),
      await addAnomaly(query, await addAnySeries(query)),
    ];
    const incident = await open(query, { p_alert_ids: [alert], p_anomaly_ids: [anomaly] });
    const describe = (at: number) =>
      act<Record<string, unknown>>(query, "describe_incident", incident, { p_now: iso(at) });
    expect(await describe(NOON + HOUR - SECOND)).toMatchObject({
      title: "Checkout fails",
      as_of_at: stamp(NOON + HOUR - SECOND),
      lasts_seconds: 3599,
      response_is_overdue: false,
      update_is_overdue: false,
      escalates_at: stamp(NOON + HOUR),
      escalation_title: "On-call engineer",
      alert_count: 1,
      alerts: [{ alert_id: alert, name: "QueueDeep", state: "firing" }],
      anomaly_count: 1,
      anomalies: [{ anomaly_id: anomaly, explanation: "9 instead of 1" }],
      message_count: 1,
      messages: [{ channel: "oncall", message: "alert", state: "pending" }],
      event_count: 5,
      measures: { detect_seconds: 0, acknowledged_at: null, acknowledge_seconds: null },
    });
    expect(await describe(NOON + HOUR)).toMatchObject({
      response_is_overdue: true,
      update_is_overdue: true,
    });
    await resolve(query, incident, { p_now: iso(NOON + 30 * MINUTE) });
    expect(await describe(NOON + DAY)).toMatchObject({
      lasts_seconds: 1800,
      response_is_overdue: false,
      update_is_overdue: false,
      escalates_at: null,
    });
  });

  it("measure from the first that knew of it", async ({ query }) => {
    const began = NOON - 2 * HOUR;
    const alert = await addAlert(query, { at: began + 20 * MINUTE });
    const incident = await open(query, { p_started_at: iso(began), p_alert_ids: [alert] });
    const at = (minutes: number) => ({ p_at: iso(began + minutes * MINUTE) });
    await setState(query, incident, "investigating", at(50));
    await setState(query, incident, "monitoring", at(90));
    await resolve(query, incident, at(120));
    const measure = () =>
      call<object>(query, "measure_incident", { p_incident_id: incident.incident_id });
    expect(await measure()).toMatchObject({
      detect_seconds: 20 * 60,
      acknowledge_seconds: 30 * 60,
      mitigate_seconds: 90 * 60,
      resolve_seconds: 120 * 60,
    });
    // What somebody was on before it fired was detected by him.
    await query("update monitor.incident_events set happened_at = $1 where kind = 'acknowledged'", [
      iso(began + 5 * MINUTE),
    ]);
    expect(await measure()).toMatchObject({ detect_seconds: 300, acknowledge_seconds: 0 });
  });

  it("page through the timeline in order of when it was so", async ({ query }) => {
    const incident = await open(query, { p_tell: false });
    for (const n of [3, 1, 2, 2]) {
      await act(query, "note_incident", incident, {
        p_text: `note ${n}`,
        p_at: iso(NOON - n * MINUTE),
      });
    }
    const read = (args: object) =>
      call<{ events: Record<string, unknown>[]; next_event_id: number | null }>(
        query,
        "incident_timeline",
        { p_incident_id: incident.incident_id, ...args },
      );
    const whole = await read({});
    expect(whole.events.map(({ description }) => description)).toEqual([
      "note 3",
      "note 2",
      "note 2",
      "note 1",
      "Opened by hand.",
    ]);
    expect(whole.next_event_id).toBe(null);
    const paged: unknown[] = [];
    let after: number | null = null;
    do {
      const page = await read({ p_limit: 2, p_after_event_id: after });
      paged.push(...page.events);
      after = page.next_event_id;
    } while (after !== null);
    expect(paged).toEqual(whole.events);
    for (const p_limit of [0, 1001, null]) {
      await expect(read({ p_limit })).rejects.toMatchObject({ code: "22023" });
    }
    await expect(read({ p_after_event_id: 0 })).rejects.toMatchObject({ code: "P0002" });
  });
});

describe("who may", () => {
  const WRITING: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
    acknowledge_incident: {},
    assign_commander: { p_commander: "Ada" },
    set_incident_state: { p_state: "resolved" },
    set_incident_severity: { p_severity: "P0" },
    write_up_incident: { p_fix: "a fix" },
    update_incident_components: { p_components: ["api"] },
    link_alert: { p_alert_id: 0 },
    unlink_alert: { p_alert_id: 0 },
    link_anomaly: { p_anomaly_id: 0 },
    unlink_anomaly: { p_anomaly_id: 0 },
    note_incident: { p_text: "hello" },
    send_incident_message: { p_message: "alert" },
  };

  it.for(Object.entries(WRITING))(
    "%s: admins only",
    async ([name, args], { query, asOwner, asUser, asAnon }) => {
      const incident = await open(query);
      const user = asUser(await addUser(asOwner));
      await expect(act(user, name, incident, args)).rejects.toMatchObject({ code: "42501" });
      await expect(act(asAnon, name, incident, args)).rejects.toMatchObject({ code: "42501" });
      const admin = asUser(await addAdmin(asOwner));
      await expect(act(admin, name, { incident_id: 0 }, args)).rejects.toMatchObject({
        code: "P0002",
      });
    },
  );

  it("open_incident and save_escalation_level: admins only", async ({ asOwner, asUser, asAnon, query }) => {
    const save = (who: Query) =>
      call(who, "save_escalation_level", { p_level: 1, p_channels: [], p_title: "Ada" });
    for (const who of [asUser(await addUser(asOwner)), asAnon]) {
      await expect(open(who)).rejects.toMatchObject({ code: "42501" });
      await expect(save(who)).rejects.toMatchObject({ code: "42501" });
    }
    const admin = await addAdmin(asOwner);
    await save(asUser(admin));
    const { rows } = await query(
      "select actor, after ->> 'title' as title from monitor.audit_log where object = 'escalation_levels'",
    );
    expect(rows).toEqual([{ actor: admin, title: "Ada" }]);
  });

  it("reading: admins see what is there, others nothing", async ({ query, asOwner, asUser, asAnon }) => {
    const incident = await open(query);
    await addAlert(query, { labels: { queue: "mails" } });
    await addAlert(query, { labels: { queue: "mails" } });
    const { incident_id: p_incident_id } = incident;
    const [user, admin] = [asUser(await addUser(asOwner)), asUser(await addAdmin(asOwner))];
    for (const name of ["describe_incident", "incident_timeline", "draft_post_mortem"]) {
      await expect(call(user, name, { p_incident_id })).rejects.toMatchObject({ code: "P0002" });
      await expect(call(asAnon, name, { p_incident_id })).rejects.toMatchObject({ code: "42501" });
      expect(await call(admin, name, { p_incident_id })).toBeTruthy();
    }
    const propose = (who: Query) =>
      call<{ candidates: unknown[] }>(who, "propose_incidents", { p_now: iso(NOON) });
    expect((await propose(user)).candidates).toEqual([]);
    expect((await propose(admin)).candidates).toHaveLength(1);
    await expect(propose(asAnon)).rejects.toMatchObject({ code: "42501" });
  });

  it("rows: nobody but functions writes them", async ({ asOwner, asUser }) => {
    const admin = asUser(await addAdmin(asOwner));
    for (
      const sql of [
        "update monitor.incidents set title = 'mine'",
        "delete from monitor.incident_events",
        "update monitor.escalation_levels set title = 'mine'",
        "select monitor.advance_incidents(now())",
      ]
    ) await expect(admin(sql)).rejects.toMatchObject({ code: "42501" });
  });
});

describe("the audit log", () => {
  it("has of each change who did it and what changed, not all that is there", async ({ query, asOwner, asUser }) => {
    const admin = await addAdmin(asOwner);
    const incident = await open(query, { p_tell: false });
    await act(query, "write_up_incident", incident, { p_root_cause: "x".repeat(10_000) });
    await act(asUser(admin), "assign_commander", incident, { p_commander: "Ada" });
    await act(asUser(admin), "assign_commander", incident, { p_commander: "Ada" });
    const { incident_id } = incident;
    const { rows } = await asOwner(
      `select actor, action, before, after from monitor.audit_log
       where object = 'incidents' and action <> 'insert' order by entry_id`,
    );
    expect(rows).toEqual([
      {
        actor: "service_role",
        action: "update",
        before: { incident_id, root_cause: null },
        after: { incident_id, root_cause: "x".repeat(10_000) },
      },
      {
        actor: admin,
        action: "update",
        before: { incident_id, commander: null },
        after: { incident_id, commander: "Ada" },
      },
    ]);
  });

  it("has all of one that is deleted", async ({ query, asOwner }) => {
    const incident = await open(query, { p_tell: false });
    await query("delete from monitor.incidents");
    const { rows } = await asOwner(
      "select before ->> 'title' as title, after from monitor.audit_log where action = 'delete' and object = 'incidents'",
    );
    expect(rows).toEqual([{ title: incident.title, after: null }]);
  });
});

describe("two at once", () => {
  it("one waits for the other, and finds what he did", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const asQuery = (client: typeof one): Query => (sql, values) => client.query(sql, values);
    const incident = await open(asQuery(one));
    await one.query("begin");
    await resolve(asQuery(one), incident);
    const second = resolve(asQuery(other), incident).catch((error) => error.message);
    await one.query("commit");
    expect(await second).toContain("is resolved already");
    expect(await readEvents(asQuery(one), incident, "state")).toHaveLength(1);
  });
});
