import { describe, expect } from "vitest";
import { it, type Query, queryOf, waitUntilBlocking } from "./database.ts";
import {
  act,
  addAlert,
  addAsking,
  addChannel,
  advance,
  fireAgain,
  newMessages,
  NOTHING,
  open,
  readEvents,
  readIncidents,
  readMessages,
  resolveAlert,
  saveLevel,
  setUpLevels,
  stamp,
} from "./incidents.ts";
import { DAY, HOUR, iso, MINUTE, NOON, range, SECOND } from "./seeds.ts";

const resolve = (query: Query, incident: { incident_id: number }, at: number) =>
  act(query, "set_incident_state", incident, { p_state: "resolved", p_now: iso(at) });

describe("monitor.advance_incidents() of alerts that ask for an incident", () => {
  it.for(["P0", "P1", "P2", "P3"])("opens one of %s and tells it", async (severity, { query }) => {
    await setUpLevels(query);
    const alert = await addAsking(query, {
      severity,
      at: NOON - 2 * MINUTE,
      active_at: iso(NOON - 7 * MINUTE),
      annotations: { summary: "Queue mails\nis deep", description: "12,000 wait." },
      runbook_url: "https://example.com/runbook",
    });
    expect(await advance(query, NOON)).toEqual({ ...NOTHING, opened: 1, told: 1 });
    const [incident] = await readIncidents(query);
    expect(incident).toMatchObject({
      title: "Queue mails is deep",
      severity,
      state: "open",
      started_at: stamp(NOON - 7 * MINUTE),
      opened_at: stamp(NOON),
      opened_by: "pgvigil",
      channels: null,
    });
    expect(await readMessages(query)).toMatchObject([{
      channel: "oncall",
      message: "alert",
      incident_id: incident!.incident_id,
      severity,
      text: "12,000 wait.",
      alerts: ["QueueDeep"],
      runbook_url: "https://example.com/runbook",
      response_due_at: incident!.response_due_at,
      next_update_due_at: incident!.next_update_due_at,
    }]);
    expect(await readEvents(query, incident!)).toMatchObject([
      { at: NOON - 2 * MINUTE, kind: "alert", description: `Alert ${alert} (QueueDeep) fired.` },
      { at: NOON, kind: "opened", actor: "pgvigil" },
      { at: NOON, kind: "alert", description: `Alert ${alert} (QueueDeep) was linked.` },
      { at: NOON, kind: "message", description: "Initial alert to oncall: 12,000 wait." },
    ]);
    for (const at of [NOON, NOON - MINUTE, NOON + MINUTE]) {
      expect(await advance(query, at)).toEqual(NOTHING);
    }
  });

  it("takes the name where there is no summary", async ({ query }) => {
    await addAsking(query, { annotations: { summary: " \n " } });
    await addAsking(query, { name: "x".repeat(300) });
    await addAsking(query, { name: " ", annotations: { summary: `${" ".repeat(250)}late` } });
    await advance(query, NOON);
    const titles = (await readIncidents(query)).map(({ title }) => title);
    expect(titles).toEqual(["QueueDeep", "x".repeat(200), "late"]);
  });

  it.for(
    [
      [{ severity: "" }, "an empty one"],
      [{ mode: "shadow" }, "a rule in shadow mode"],
      [{ fired_at: null, occurrence_count: 0 }, "one that is pending"],
      [{ resolved_at: iso(NOON) }, "one that is over"],
      [{ labels: { pgvigil_incident: undefined } }, "one without the label"],
    ] as const,
  )("opens none for %o", async ([columns], { query }) => {
    await addAsking(query, columns);
    expect(await advance(query, NOON)).toEqual(NOTHING);
    expect(await readIncidents(query)).toEqual([]);
  });

  it.for(
    [
      [" p1 ", "P1", ""],
      ["P4", "P3", 'The label says "P4", which is none of P0 to P3: taken for P3. '],
      ["P".repeat(101), "P3", `The label says "${"P".repeat(100)}", which is none`],
    ] as const,
  )("takes %j, of a series, for %s and says so", async ([label, severity, remark], { query }) => {
    await addChannel(query, "ops");
    await addAsking(query, { severity: "P2", at: NOON });
    const alert = await addAsking(query, { severity: label, at: NOON });
    expect(await advance(query, NOON)).toMatchObject({ opened: 2 });
    // In the order of what they are taken for.
    expect((await readIncidents(query)).map((incident) => incident.severity))
      .toEqual(["P2", severity].toSorted());
    const incident = (await readIncidents(query)).find((one) => one.severity === severity)!;
    expect((await readEvents(query, incident, "opened"))[0]!.description)
      .toContain(`Opened by alert ${alert} (QueueDeep) and its label pgvigil_incident. ${remark}`);
    const { text } = (await readMessages(query)).find((one) => one.severity === severity)!;
    expect(text).toEqual(remark === "" ? "QueueDeep" : expect.stringContaining(remark));
  });

  it("tells the name where description and summary are blank", async ({ query }) => {
    await addChannel(query, "ops");
    await addAsking(query, { annotations: { summary: " \n", description: "\n\t" } });
    await advance(query, NOON);
    expect(await readMessages(query)).toMatchObject([{ text: "QueueDeep" }]);
  });

  it("opens none while the alert is silenced or in maintenance, and one when that ends", async ({ query }) => {
    await addAsking(query, { labels: { queue: "mails" } });
    await addAsking(query, { labels: { queue: "jobs" } });
    const window = { starts_at: iso(NOON), ends_at: iso(NOON + HOUR) };
    await query(
      `select monitor.silence_alerts('[{"name": "queue", "op": "=", "value": "mails"}]', $2, 'an upgrade', p_now => $1)`,
      [window.starts_at, window.ends_at],
    );
    await query(
      `select monitor.plan_maintenance($1, $2, 'an upgrade', '[{"name": "queue", "op": "=", "value": "jobs"}]', $1)`,
      [window.starts_at, window.ends_at],
    );
    expect(await advance(query, NOON + HOUR - SECOND)).toEqual(NOTHING);
    expect(await advance(query, NOON + HOUR)).toMatchObject({ opened: 2 });
  });

  it("opens none for what another alert that fires inhibits", async ({ query }) => {
    await addAsking(query, { labels: { queue: "mails" } });
    const cause = await addAlert(query, { labels: { alertname: "DatabaseDown" } });
    await query(
      `select monitor.save_inhibition('down', '[{"name": "alertname", "op": "=", "value": "DatabaseDown"}]',
         '[{"name": "queue", "op": "=~", "value": ".+"}]')`,
    );
    expect(await advance(query, NOON)).toEqual(NOTHING);
    await resolveAlert(query, cause, NOON);
    expect(await advance(query, NOON)).toMatchObject({ opened: 1 });
  });

  it("opens none for one that a person has linked", async ({ query }) => {
    const alert = await addAsking(query);
    const incident = await open(query, { p_alert_ids: [alert], p_tell: false });
    expect(await advance(query, NOON)).toEqual(NOTHING);
    // Another row, since it was quiet for longer: the same alert.
    await resolveAlert(query, alert, NOON + MINUTE);
    const { rows: [known] } = await query<{ fingerprint: string }>(
      "select fingerprint from monitor.system_alerts where alert_id = $1",
      [alert],
    );
    const later = await addAsking(query, { ...known, at: NOON + 20 * MINUTE });
    expect(await advance(query, NOON + 20 * MINUTE)).toMatchObject({ opened: 0, linked: 1 });
    expect(
      (await query(
        "select alert_id::int as id from monitor.incident_alerts where incident_id = $1 order by 1",
        [
          incident.incident_id,
        ],
      )).rows,
    ).toEqual([{ id: alert }, { id: later }]);
  });

  it("links what comes back in another row to the one it opened", async ({ query }) => {
    const alert = await addAsking(query, { fingerprint: "same" });
    await advance(query, NOON);
    await resolveAlert(query, alert, NOON + MINUTE);
    const later = await addAsking(query, { fingerprint: "same", at: NOON + 20 * MINUTE });
    expect(await advance(query, NOON + 20 * MINUTE)).toMatchObject({
      opened: 0,
      linked: 1,
      told: 0,
    });
    const [incident] = await readIncidents(query);
    expect((await readEvents(query, incident!, "alert")).map(({ description }) => description))
      .toEqual([
        `Alert ${alert} (QueueDeep) fired.`,
        `Alert ${alert} (QueueDeep) was linked.`,
        `Alert ${alert} (QueueDeep) resolved: what it says no longer holds.`,
        `Alert ${later} (QueueDeep) fired.`,
        `Alert ${later} (QueueDeep) was linked.`,
      ]);
  });

  it("does not open another for the firing that a person has resolved, also back-dated", async ({ query }) => {
    await addAsking(query, { active_at: iso(NOON - HOUR) });
    await advance(query, NOON);
    const [incident] = await readIncidents(query);
    await act(query, "set_incident_state", incident!, {
      p_state: "resolved",
      p_at: iso(NOON - MINUTE),
      p_now: iso(NOON + MINUTE),
    });
    expect(await advance(query, NOON + 2 * MINUTE)).toEqual(NOTHING);
    expect(await advance(query, NOON + DAY)).toEqual(NOTHING);
  });

  it("opens a new one when it fires again, and says which was before", async ({ query }) => {
    await setUpLevels(query);
    const alert = await addAsking(query);
    await advance(query, NOON);
    const [before] = await readIncidents(query);
    await resolve(query, before!, NOON + 5 * MINUTE);
    await resolveAlert(query, alert, NOON + 6 * MINUTE);
    await advance(query, NOON + 6 * MINUTE);
    await fireAgain(query, alert, NOON + 10 * MINUTE);
    expect(await advance(query, NOON + 10 * MINUTE)).toMatchObject({ opened: 1 });
    const [first, second] = await readIncidents(query);
    expect(first).toMatchObject({ state: "resolved", reopened_at: null });
    const said = `Incident ${
      first!.incident_id
    }, which had the same alert, was resolved 5 min before.`;
    expect(await readEvents(query, second!, "opened")).toMatchObject([{
      description: expect.stringContaining(`${said} This is a new one`),
    }]);
    expect((await readMessages(query)).at(-1)).toMatchObject({
      incident_id: second!.incident_id,
      text: expect.stringContaining(said),
    });
  });

  it.for([[DAY - SECOND, true], [DAY, false]] as const)(
    "says of one that was resolved %d ms ago: %s",
    async ([age, isSaid], { query }) => {
      const alert = await addAsking(query, { fingerprint: "same" });
      await advance(query, NOON);
      await resolveAlert(query, alert, NOON);
      await resolve(query, (await readIncidents(query))[0]!, NOON);
      await addAsking(query, { fingerprint: "same", at: NOON + age });
      expect(await advance(query, NOON + age)).toMatchObject({ opened: 1 });
      const [, second] = await readIncidents(query);
      const [event] = await readEvents(query, second!, "opened");
      expect(event!.description.includes("which had the same alert")).toBe(isSaid);
    },
  );

  it("lets one that is unlinked open its own", async ({ query }) => {
    const alert = await addAsking(query);
    await advance(query, NOON);
    const [incident] = await readIncidents(query);
    await act(query, "unlink_alert", incident!, { p_alert_id: alert });
    expect(await advance(query, NOON + MINUTE)).toMatchObject({ opened: 1 });
    expect(await readIncidents(query)).toMatchObject([{ fingerprint: null }, { state: "open" }]);
    expect(await advance(query, NOON + 2 * MINUTE)).toEqual(NOTHING);
  });

  it("does not mistake a reopened one for that of the alert, if there is another by now", async ({ query }) => {
    const alert = await addAsking(query);
    await advance(query, NOON);
    const [first] = await readIncidents(query);
    await resolve(query, first!, NOON + MINUTE);
    await fireAgain(query, alert, NOON + 2 * MINUTE);
    await advance(query, NOON + 2 * MINUTE);
    await act(query, "set_incident_state", first!, {
      p_state: "open",
      p_now: iso(NOON + 3 * MINUTE),
    });
    expect((await readIncidents(query)).map(({ fingerprint }) => fingerprint !== null))
      .toEqual([false, true]);
  });

  it("opens at most 100 a call, the worst first, and the others after", async ({ query }) => {
    for (const n of range(103)) {
      await addAsking(query, { severity: n === 102 ? "P0" : "P2", at: NOON - n * SECOND });
    }
    expect(await advance(query, NOON)).toMatchObject({ opened: 100 });
    expect((await readIncidents(query))[0]).toMatchObject({ severity: "P0" });
    expect(await advance(query, NOON)).toMatchObject({ opened: 3 });
    expect(await advance(query, NOON)).toEqual(NOTHING);
  });

  it("goes on with the others when one fails, and says so", async ({ query, asOwner }) => {
    const [bad] = [await addAsking(query, { name: "Bad" }), await addAsking(query)];
    await asOwner(
      "alter table monitor.incidents add constraint incidents_test check (title <> 'Bad') not valid",
    );
    expect(await advance(query, NOON)).toMatchObject({
      opened: 1,
      failed: 1,
      failures: [{ alert_id: bad, error: expect.stringMatching(/^23514: /) }],
    });
    await asOwner("alter table monitor.incidents drop constraint incidents_test");
    expect(await advance(query, NOON)).toMatchObject({ opened: 1, failed: 0 });
  });

  it("stays cheap with 10,000 alerts that ask for nothing", async ({ query, asOwner }) => {
    await query(
      `insert into monitor.system_alerts (fingerprint, name, source, severity, labels, opened_at, active_at, fired_at, last_seen_at, occurrence_count)
       select 'many ' || n, 'Many', 'rule', 'info', jsonb_build_object('n', n::text), $1, $1, $1, $1, 1 from generate_series(1, 10000) as n`,
      [iso(NOON)],
    );
    await asOwner("analyze monitor.system_alerts");
    const { rows } = await asOwner<{ "QUERY PLAN": string }>(
      `explain select alert_id from monitor.system_alerts as alert
       where alert.labels ? 'pgvigil_incident' and alert.resolved_at is null and alert.fired_at is not null and alert.mode = 'live'`,
    );
    expect(rows.map((row) => row["QUERY PLAN"]).join("\n")).toContain(
      "system_alerts_opens_incident_idx",
    );
    const start = performance.now();
    for (const n of range(20)) expect(await advance(query, NOON + n * MINUTE)).toEqual(NOTHING);
    expect((performance.now() - start) / 20).toBeLessThan(50);
  });

  it("stays within its time with 10,000 that each ask for one", async ({ query }) => {
    await query(
      `insert into monitor.system_alerts (fingerprint, name, source, severity, labels, opened_at, active_at, fired_at, last_seen_at, occurrence_count)
       select 'many ' || n, 'Many', 'rule', 'info', jsonb_build_object('pgvigil_incident', 'P1', 'n', n::text), $1, $1, $1, $1, 1
       from generate_series(1, 10000) as n`,
      [iso(NOON)],
    );
    const start = performance.now();
    expect(await advance(query, NOON)).toMatchObject({ opened: 100 });
    expect(performance.now() - start).toBeLessThan(4000);
  });
});

describe("monitor.advance_incidents() of deadlines", () => {
  it.for(
    [
      ["P0", 15 * MINUTE],
      ["P1", HOUR],
      ["P2", 4 * HOUR],
      ["P3", DAY],
    ] as const,
  )(
    "of %s escalates at the response deadline, not a second before",
    async ([p_severity, target], { query }) => {
      await setUpLevels(query);
      const incident = await open(query, { p_severity });
      // Updates have tests of their own.
      const enforce = async (at: number) => {
        await query("update monitor.incidents set next_update_due_at = null");
        return advance(query, at);
      };
      const messages = newMessages(query);
      await messages();
      expect(await enforce(NOON + target - SECOND)).toEqual(NOTHING);
      expect(await enforce(NOON + target)).toEqual({ ...NOTHING, escalated: 1, told: 1 });
      expect(await enforce(NOON + target)).toEqual(NOTHING);
      expect(await enforce(NOON + 2 * target - SECOND)).toEqual(NOTHING);
      expect(await enforce(NOON + 2 * target)).toMatchObject({ escalated: 1 });
      expect(await enforce(NOON + 3 * target - SECOND)).toEqual(NOTHING);
      expect(await enforce(NOON + 3 * target)).toMatchObject({ escalated: 1 }); // it stays at 3, and says so
      expect(await messages()).toEqual([
        "escalation to seniors",
        "escalation to managers",
        "escalation to managers",
      ]);
      expect((await readMessages(query)).slice(1).map(({ escalation_level }) => escalation_level))
        .toEqual([2, 3, 3]);
      expect((await readEvents(query, incident, "escalation")).map(({ at, actor }) => [at, actor]))
        .toEqual([1, 2, 3].map((n) => [NOON + n * target, "pgvigil"]));
    },
  );

  it("tells what was missed, what it means and what comes next", async ({ query }) => {
    await query("update monitor.settings set time_zone = 'Europe/Berlin'");
    await setUpLevels(query);
    const incident = await open(query, { p_severity: "P0" });
    for (const n of [1, 2, 3]) {
      await query("update monitor.incidents set next_update_due_at = null");
      await advance(query, NOON + n * 15 * MINUTE);
    }
    const texts = (await readMessages(query)).slice(1).map(({ text }) => text);
    const missed =
      "Nobody has responded since it was opened: that was due at 2026-03-10 13:15:00 +01:00.";
    expect(texts).toEqual([
      `${missed} Escalated to level 2, Senior engineer and team lead. The next time is 2026-03-10 13:30:00 +01:00.`,
      `${missed} Escalated to level 3, Architect and management. The next time is 2026-03-10 13:45:00 +01:00.`,
      `${missed} It stays at level 3, Architect and management. The next time is 2026-03-10 14:00:00 +01:00.`,
    ]);
    expect((await readEvents(query, incident, "escalation"))[0]!.description).toBe(
      `Escalation to seniors: ${texts[0]}`,
    );
  });

  it.for(
    [
      ["acknowledge_incident", {}],
      ["set_incident_state", { p_state: "investigating" }],
      ["send_incident_message", { p_message: "update", p_text: "on it" }],
    ] as const,
  )("is met by %s", async ([name, args], { query }) => {
    await setUpLevels(query);
    const incident = await open(query, { p_severity: "P0" });
    await act(query, name, incident, { ...args, p_now: iso(NOON + 15 * MINUTE - SECOND) });
    expect(await advance(query, NOON + 15 * MINUTE)).toEqual(NOTHING);
  });

  it.for(
    [
      ["note_incident", { p_text: "it burns" }],
      ["assign_commander", { p_commander: "Ada" }],
      ["send_incident_message", { p_message: "alert" }],
    ] as const,
  )("is not met by %s", async ([name, args], { query }) => {
    await setUpLevels(query);
    const incident = await open(query, { p_severity: "P0" });
    await act(query, name, incident, args);
    expect(await advance(query, NOON + 15 * MINUTE)).toMatchObject({ escalated: 1 });
  });

  it("no longer escalates once somebody has responded, and keeps the level", async ({ query }) => {
    await setUpLevels(query);
    const incident = await open(query, { p_severity: "P0", p_tell: false });
    await advance(query, NOON + 15 * MINUTE);
    await act(query, "acknowledge_incident", incident, { p_now: iso(NOON + 16 * MINUTE) });
    expect(await advance(query, NOON + DAY)).toEqual(NOTHING);
    expect(await readIncidents(query)).toMatchObject([{ escalation_level: 2 }]);
  });

  it.for(
    [
      ["P0", 30 * MINUTE],
      ["P1", HOUR],
      ["P2", 4 * HOUR],
      ["P3", DAY],
    ] as const,
  )(
    "of %s escalates when the update is overdue, not a second before",
    async ([p_severity, interval], { query }) => {
      await setUpLevels(query);
      const incident = await open(query, { p_severity });
      await act(query, "acknowledge_incident", incident);
      expect(await advance(query, NOON + interval - SECOND)).toEqual(NOTHING);
      expect(await advance(query, NOON + interval)).toEqual({ ...NOTHING, escalated: 1, told: 1 });
      expect(await readIncidents(query)).toMatchObject([{
        escalation_level: 2,
        next_update_due_at: stamp(NOON + interval), // what was promised stays to be seen
      }]);
      expect((await readMessages(query)).at(-1)).toMatchObject({
        channel: "seniors",
        message: "escalation",
        text: expect.stringMatching(/^The status update is overdue: it was due at 2026/),
      });
      expect(await advance(query, NOON + 2 * interval - SECOND)).toEqual(NOTHING);
      expect(await advance(query, NOON + 2 * interval)).toMatchObject({ escalated: 1 });

      const told = NOON + 2 * interval + MINUTE;
      await act(query, "send_incident_message", incident, {
        p_message: "update",
        p_text: "nearly there",
        p_next_update_due_at: iso(told + 5 * MINUTE),
        p_now: iso(told),
      });
      expect(await advance(query, told + 5 * MINUTE - SECOND)).toEqual(NOTHING);
      expect(await advance(query, told + 5 * MINUTE)).toMatchObject({ escalated: 1 });
    },
  );

  it("escalates by one level when both are missed at once", async ({ query }) => {
    await setUpLevels(query);
    await open(query, { p_severity: "P1" });
    expect(await advance(query, NOON + HOUR)).toEqual({ ...NOTHING, escalated: 1, told: 1 });
    expect((await readMessages(query)).at(-1)).toMatchObject({
      escalation_level: 2,
      text: expect.stringMatching(/^Nobody has responded .* The status update is overdue: /),
    });
  });

  it("escalates once after two days without evaluations, and says how late it is", async ({ query }) => {
    await setUpLevels(query);
    const incident = await open(query, { p_severity: "P0" });
    const back = NOON + 2 * DAY;
    expect(await advance(query, back)).toEqual({ ...NOTHING, escalated: 1, told: 1 });
    expect(await readIncidents(query)).toMatchObject([{ escalation_level: 2 }]);
    const [event] = await readEvents(query, incident, "escalation");
    expect(event!.description).toContain(
      "due at 2026-03-10 12:15:00 +00:00 (told 1 d 23 h late)",
    );
    expect(event!.description).toContain(
      "due at 2026-03-10 12:30:00 +00:00 (told 1 d 23 h late)",
    );
    for (const at of [back, back + 15 * MINUTE - SECOND]) {
      expect(await advance(query, at)).toEqual(NOTHING);
    }
    expect(await advance(query, back + 15 * MINUTE)).toMatchObject({ escalated: 1 });
    expect(await readIncidents(query)).toMatchObject([{ escalation_level: 3 }]);
    expect((await readEvents(query, incident, "escalation"))[1]!.description).not.toContain(
      "(told",
    );
  });

  it.for([[2 * MINUTE, false], [2 * MINUTE + SECOND, true]] as const)(
    "%d ms after the deadline it is late: %s",
    async ([lag, isLate], { query }) => {
      await open(query, { p_severity: "P0", p_tell: false });
      await addChannel(query, "ops");
      await advance(query, NOON + 15 * MINUTE + lag);
      expect((await readMessages(query))[0]!.text.includes("late)")).toBe(isLate);
    },
  );

  it.for([[26 * HOUR, 0], [26 * HOUR + SECOND, 1]] as const)(
    "is not kept away by a clock that stood %d ms ahead: %d",
    async ([ahead, escalated], { query }) => {
      await setUpLevels(query);
      await open(query, { p_severity: "P0", p_tell: false });
      const now = NOON + HOUR;
      await advance(query, now + ahead);
      expect(await advance(query, now)).toMatchObject({ escalated });
      expect(await advance(query, now)).toEqual(NOTHING);
    },
  );

  it("leaves resolved ones, and those from before there were deadlines", async ({ query }) => {
    await setUpLevels(query);
    const incident = await open(query, { p_severity: "P0" });
    await resolve(query, incident, NOON);
    await query(
      "insert into monitor.incidents (title, severity, started_at) values ('old', 'P0', $1)",
      [iso(NOON - DAY)],
    );
    expect(await advance(query, NOON + DAY)).toEqual(NOTHING);
  });

  it("goes on with the others when one fails", async ({ query, asOwner }) => {
    await addChannel(query, "ops");
    const bad = await open(query, { p_severity: "P0", p_title: "Bad" });
    await open(query, { p_severity: "P0" });
    await asOwner(
      "alter table monitor.incidents add constraint incidents_test check (title <> 'Bad' or escalation_level = 1) not valid",
    );
    expect(await advance(query, NOON + 15 * MINUTE)).toMatchObject({
      escalated: 1,
      failed: 1,
      failures: [{ incident_id: bad.incident_id, error: expect.stringMatching(/^23514: /) }],
    });
  });

  it("needs a time", async ({ query }) => {
    await expect(query("select monitor.advance_incidents(null)")).rejects.toMatchObject({
      code: "22023",
    });
  });
});

describe("who is told of an escalation", () => {
  const escalate = async (query: Query) => {
    const incident = await open(query, { p_severity: "P0", p_tell: false });
    await advance(query, NOON + 15 * MINUTE);
    const [event] = await readEvents(query, incident, "escalation");
    return {
      channels: (await readMessages(query)).map(({ channel }) => channel),
      said: event!.description,
    };
  };

  it("the level's channels", async ({ query }) => {
    await setUpLevels(query);
    expect(await escalate(query)).toMatchObject({
      channels: ["seniors"],
      said: expect.stringMatching(/^Escalation to seniors: /),
    });
  });

  it("the level below, where the level has none", async ({ query }) => {
    await setUpLevels(query);
    await saveLevel(query, 2, []);
    expect(await escalate(query)).toMatchObject({
      channels: ["oncall"],
      said: expect.stringContaining("(level 2 has no channel that works: level 1 is told)"),
    });
  });

  it("the level below, where its channel is switched off", async ({ query }) => {
    await setUpLevels(query);
    await query(
      "update monitor.notification_channels set enabled = false where channel = 'seniors'",
    );
    expect((await escalate(query)).channels).toEqual(["oncall"]);
  });

  it("the level below too, where its channel does not deliver", async ({ query }) => {
    await setUpLevels(query);
    await query(
      "update monitor.notification_channels set failing_since = now() where channel = 'seniors'",
    );
    expect(await escalate(query)).toMatchObject({
      channels: ["oncall", "seniors"],
      said: expect.stringContaining("level 1 is told"),
    });
  });

  it("all channels that take messages, where no level has any", async ({ query }) => {
    await addChannel(query, "ops");
    await addChannel(query, "hook", "webhook");
    await addChannel(query, "chat", "slack");
    await addChannel(query, "pager", "pagerduty");
    await addChannel(query, "pulse", "heartbeat");
    await addChannel(query, "off", "email", false);
    expect(await escalate(query)).toMatchObject({
      channels: ["chat", "hook", "ops", "pager"],
      said: expect.stringContaining("(level 2 has no channel that works: all channels are told)"),
    });
  });

  it("all, where none delivers", async ({ query }) => {
    await setUpLevels(query);
    await query("update monitor.notification_channels set failing_since = now()");
    expect(await escalate(query)).toMatchObject({
      channels: ["managers", "oncall", "seniors"],
      said: expect.stringContaining("all are tried, and none delivers at present"),
    });
  });

  it("nobody, where there is no channel, and the timeline says so", async ({ query }) => {
    expect(await escalate(query)).toMatchObject({
      channels: [],
      said: expect.stringContaining(
        "Escalation to nobody (there is no channel that is switched on): Nobody has responded",
      ),
    });
  });

  it("that sending is switched off is said", async ({ query }) => {
    await setUpLevels(query);
    await query("update monitor.settings set notifications_enabled = false");
    expect((await escalate(query)).said).toContain(
      "(sending is switched off: it is sent once that is on again)",
    );
  });
});

describe("monitor.save_escalation_level()", () => {
  const read = async (query: Query) =>
    (await query("select level, title, channels from monitor.escalation_levels order by level"))
      .rows;

  it("starts with three titles and no channels", async ({ query }) => {
    expect(await read(query)).toEqual([
      { level: 1, title: "On-call engineer", channels: [] },
      { level: 2, title: "Senior engineer and team lead", channels: [] },
      { level: 3, title: "Architect and management", channels: [] },
    ]);
  });

  it("keeps the title that is not given", async ({ query }) => {
    await addChannel(query, "ops");
    await saveLevel(query, 1, ["ops", "ops"]);
    await saveLevel(query, 2, [], "Ada");
    expect((await read(query)).slice(0, 2)).toEqual([
      { level: 1, title: "On-call engineer", channels: ["ops"] },
      { level: 2, title: "Ada", channels: [] },
    ]);
  });

  it("refuses other levels and channels", async ({ query }) => {
    await addChannel(query, "pulse", "heartbeat");
    for (const level of [0, 4]) {
      await expect(saveLevel(query, level, [])).rejects.toMatchObject({ code: "22023" });
    }
    for (const channel of ["nobody", "pulse"]) {
      await expect(saveLevel(query, 1, [channel])).rejects.toMatchObject({ code: "22023" });
    }
    await expect(saveLevel(query, 1, [], "x".repeat(201))).rejects.toMatchObject({ code: "22023" });
  });

  it("keeps a channel from being deleted", async ({ query }) => {
    await addChannel(query, "ops");
    await saveLevel(query, 2, ["ops"]);
    const remove = () => query("select monitor.delete_channel('ops')");
    await expect(remove()).rejects.toMatchObject({
      code: "2BP01",
      message: "channel ops is used by escalation level 2",
      hint: expect.stringContaining("save_escalation_level"),
    });
    await saveLevel(query, 2, []);
    await remove();
  });
});

describe("the timeline writes itself", () => {
  it("of what linked alerts do, each once", async ({ query }) => {
    const alert = await addAlert(query);
    const incident = await open(query, { p_alert_ids: [alert], p_tell: false, p_severity: "P3" });
    await query(
      `update monitor.system_alerts set acknowledged_at = $2, acknowledged_by = 'ada', acknowledged_until = $3,
         acknowledged_because = 'on it' where alert_id = $1`,
      [alert, iso(NOON + MINUTE), iso(NOON + HOUR)],
    );
    expect(await advance(query, NOON + MINUTE)).toEqual({ ...NOTHING, events: 1 });
    await resolveAlert(query, alert, NOON + 2 * MINUTE);
    expect(await advance(query, NOON + 2 * MINUTE)).toEqual({ ...NOTHING, events: 1 });
    await fireAgain(query, alert, NOON + 3 * MINUTE);
    expect(await advance(query, NOON + 3 * MINUTE)).toEqual({ ...NOTHING, events: 1 });
    for (const at of [NOON + 3 * MINUTE, NOON, NOON + HOUR]) {
      expect(await advance(query, at)).toEqual(NOTHING);
    }
    expect(
      (await readEvents(query, incident, "alert")).map((
        { at, description },
      ) => [(at - NOON) / MINUTE, description]),
    )
      .toEqual([
        [0, `Alert ${alert} (QueueDeep) fired.`],
        [0, `Alert ${alert} (QueueDeep) was linked.`],
        [
          1,
          `Alert ${alert} (QueueDeep) was acknowledged by ada until 2026-03-10 13:00:00 +00:00: on it`,
        ],
        [2, `Alert ${alert} (QueueDeep) resolved: what it says no longer holds.`],
        [3, `Alert ${alert} (QueueDeep) fired again.`],
      ]);
  });

  it("of one that was pending when it was linked, and of links that somebody else made", async ({ query }) => {
    const alert = await addAlert(query, { fired_at: null, occurrence_count: 0 });
    const incident = await open(query, { p_alert_ids: [alert], p_tell: false });
    await query("insert into monitor.incident_alerts (incident_id, alert_id) values ($1, $2)", [
      incident.incident_id,
      await addAlert(query, { name: "DiskFull" }),
    ]);
    await fireAgain(query, alert, NOON + MINUTE);
    expect(await advance(query, NOON + MINUTE)).toMatchObject({ events: 2 });
    expect((await readEvents(query, incident, "alert")).map(({ description }) => description))
      .toEqual([
        `Alert ${alert} (QueueDeep) was linked, which does not fire yet.`,
        expect.stringMatching(/^Alert \d+ \(DiskFull\) fired\.$/),
        `Alert ${alert} (QueueDeep) fired.`,
      ]);
  });

  it("of an alert that ends after the incident, for 3 days, but not of its next firing", async ({ query }) => {
    const [alert, late] = [await addAlert(query), await addAlert(query)];
    const incident = await open(query, { p_alert_ids: [alert, late], p_tell: false });
    await resolve(query, incident, NOON);
    await resolveAlert(query, alert, NOON + MINUTE);
    expect(await advance(query, NOON + 3 * DAY - SECOND)).toMatchObject({ events: 1 });
    await fireAgain(query, alert, NOON + 2 * MINUTE);
    expect(await advance(query, NOON + 3 * MINUTE)).toEqual(NOTHING);
    await resolveAlert(query, late, NOON + 3 * DAY);
    expect(await advance(query, NOON + 3 * DAY)).toEqual(NOTHING);
  });

  it("of one that flaps at most 40 times, and says so", async ({ query }) => {
    const alert = await addAlert(query);
    const incident = await open(query, { p_alert_ids: [alert], p_tell: false, p_severity: "P3" });
    for (const n of range(30)) {
      await resolveAlert(query, alert, NOON + (2 * n + 1) * MINUTE);
      await advance(query, NOON + (2 * n + 1) * MINUTE);
      await fireAgain(query, alert, NOON + (2 * n + 2) * MINUTE);
      await advance(query, NOON + (2 * n + 2) * MINUTE);
    }
    const events = (await readEvents(query, incident, "alert")).filter(({ actor }) =>
      actor === "pgvigil"
    );
    expect(events).toHaveLength(40);
    expect(events.at(-1)!.description).toContain("is not written down");
    expect(events.filter(({ description }) => description.includes("not written down")))
      .toHaveLength(1);
    // Which firings it knows goes on, so that resolving it settles the last one.
    const { rows } = await query("select occurrence_count from monitor.incident_alerts");
    expect(rows).toEqual([{ occurrence_count: 31 }]);
  });

  it.for(
    [
      ["email", "sent", { sent_at: iso(NOON) }, null],
      ["webhook", "sent", { sent_at: iso(NOON + SECOND) }, "Initial alert to ops was taken."],
      [
        "email",
        "delivered",
        { sent_at: iso(NOON), delivered_at: iso(NOON + SECOND) },
        "Initial alert to ops was delivered.",
      ],
      [
        "email",
        "bounced",
        { sent_at: iso(NOON), last_error: "no such mailbox" },
        "Initial alert to ops bounced: no such mailbox",
      ],
      [
        "email",
        "complained",
        { sent_at: iso(NOON), delivered_at: iso(NOON + SECOND) },
        "Initial alert to ops was delivered, and marked as spam.",
      ],
      [
        "email",
        "parked",
        { last_error: "HTTP 500" },
        "Initial alert to ops was given up: HTTP 500",
      ],
      [
        "email",
        "discarded",
        { last_error: "its channel was deleted" },
        "Initial alert to ops was not sent: its channel was deleted.",
      ],
      ["email", "pending", {}, null],
    ] as const,
  )("of a message by %s that is %s", async ([kind, state, columns, said], { query }) => {
    await addChannel(query, "ops", kind);
    const incident = await open(query);
    const set = Object.keys(columns).map((name, index) => `, ${name} = $${index + 2}`).join("");
    await query(`update monitor.notifications set state = $1${set}`, [
      state,
      ...Object.values(columns),
    ]);
    expect(await advance(query, NOON + MINUTE)).toMatchObject({ events: said === null ? 0 : 1 });
    expect(await advance(query, NOON + MINUTE)).toEqual(NOTHING);
    expect((await readEvents(query, incident, "delivery")).map(({ description }) => description))
      .toEqual(said === null ? [] : [said]);
  });

  it("of the resolution, too, and of a mail that was delivered and bounced later", async ({ query }) => {
    await addChannel(query, "ops");
    const incident = await open(query);
    await resolve(query, incident, NOON + MINUTE);
    const set = (state: string) =>
      query(
        "update monitor.notifications set state = $1, sent_at = $2, delivered_at = $2 where payload ->> 'message' = 'resolution'",
        [state, iso(NOON + 2 * MINUTE)],
      );
    await set("delivered");
    await advance(query, NOON + 2 * MINUTE);
    await set("bounced");
    await advance(query, NOON + 4 * MINUTE);
    expect(
      (await readEvents(query, incident, "delivery")).map((
        { at, description },
      ) => [(at - NOON) / MINUTE, description]),
    )
      .toEqual([[2, "Resolution to ops was delivered."], [4, "Resolution to ops bounced."]]);
  });
});

describe("however much there is, an advance stays within its time", () => {
  it("with 1,001 messages of which something is known", async ({ query }) => {
    const incident = await open(query, { p_severity: "P3" });
    await query(
      `insert into monitor.notifications (channel, incident_id, payload, state, created_at, next_attempt_at, sent_at)
       select 'gone', $1, '{"message": "escalation"}', 'sent', $2::timestamptz, $2::timestamptz, $2::timestamptz
       from generate_series(1, 1001)`,
      [incident.incident_id, iso(NOON)],
    );
    expect(await advance(query, NOON)).toMatchObject({ events: 1000 });
    expect(await advance(query, NOON)).toMatchObject({ events: 1 });
    expect(await advance(query, NOON)).toMatchObject({ events: 0 });
  });

  it("with 100,000 messages of which all is known", async ({ query }) => {
    await query(
      `insert into monitor.incidents (title, severity, started_at, opened_at)
       select 'old', 'P3', $1, $1 from generate_series(1, 1000)`,
      [iso(NOON)],
    );
    await query(
      `insert into monitor.notifications
         (channel, incident_id, payload, state, timeline_state, created_at, next_attempt_at, sent_at)
       select 'gone', incident_id, '{"message": "escalation"}', 'sent', 'sent', $1::timestamptz, $1::timestamptz, $1::timestamptz
       from monitor.incidents cross join generate_series(1, 100)`,
      [iso(NOON)],
    );
    const start = performance.now();
    expect(await advance(query, NOON)).toEqual(NOTHING);
    expect(performance.now() - start).toBeLessThan(2000);
  });

  it("with 1,000 alerts of one incident that flap, and end all at once", async ({ query }) => {
    const incident = await open(query, { p_tell: false });
    await query(
      `with alert as (
         insert into monitor.system_alerts (fingerprint, name, source, severity, opened_at, active_at, fired_at, last_seen_at, occurrence_count)
         select 'many ' || n, 'Many', 'rule', 'info', $2, $2, $2, $2, 38 from generate_series(1, 1000) as n returning alert_id
       ) insert into monitor.incident_alerts (incident_id, alert_id, occurrence_count, event_count)
         select $1, alert_id, 38, 38 from alert`,
      [incident.incident_id, iso(NOON)],
    );
    await query(
      `insert into monitor.incident_events (incident_id, happened_at, actor, description, kind, source_key)
       select incident_id, $1, 'pgvigil', 'x', 'alert', format('alert:%s:fired:%s', alert_id, n)
       from monitor.incident_alerts cross join generate_series(1, 38) as n`,
      [iso(NOON)],
    );
    await query(
      "update monitor.system_alerts set resolved_at = $1, resolved_because = 'over'",
      [iso(NOON + MINUTE)],
    );
    const start = performance.now();
    expect(await advance(query, NOON + MINUTE)).toEqual({ ...NOTHING, events: 1000 });
    expect(performance.now() - start).toBeLessThan(4000);
    expect(await advance(query, NOON + MINUTE)).toEqual(NOTHING);
  });

  it("and calls who delivers once, not once for each incident", async ({ query, asOwner }) => {
    await asOwner("create sequence monitor.wakes");
    await asOwner(
      `create or replace function monitor.wake_deliverer(p_now timestamptz default clock_timestamp(), p_ahead_seconds double precision default 0)
       returns jsonb language sql security definer set search_path = '' as $$ select to_jsonb(nextval('monitor.wakes')) $$`,
    );
    const wakes = async () =>
      (await asOwner(
        "select case when is_called then last_value::int else 0 end as n from monitor.wakes",
      ))
        .rows[0];
    await addChannel(query, "ops");
    for (const _ of range(3)) await addAsking(query, { severity: "P0" });
    expect(await advance(query, NOON)).toMatchObject({ opened: 3, told: 3 });
    expect(await wakes()).toEqual({ n: 1 });
    expect(await advance(query, NOON + 15 * MINUTE)).toMatchObject({ escalated: 3 });
    expect(await wakes()).toEqual({ n: 2 });
    await advance(query, NOON + 15 * MINUTE);
    expect(await wakes()).toEqual({ n: 2 });
    const incident = await open(query);
    await act(query, "send_incident_message", incident, { p_message: "update", p_text: "soon" });
    await resolve(query, incident, NOON);
    expect(await wakes()).toEqual({ n: 5 });
  });
});

describe("two sessions at once", () => {
  it("open one incident for an alert, and escalate it once", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const [query, second] = [queryOf(one), queryOf(other)];
    await addChannel(query, "ops");
    await addAsking(query);

    for (const at of [NOON, NOON + HOUR, NOON + 2 * HOUR]) {
      await one.query("begin");
      const first = await advance(query, at);
      const meanwhile = advance(second, at);
      // Opening waits for who is faster; what he has locked is passed over.
      if (at === NOON) await waitUntilBlocking(query);
      else expect(await meanwhile).toEqual(NOTHING);
      await one.query("commit");
      await meanwhile;
      expect(first).toMatchObject(at === NOON ? { opened: 1 } : { escalated: 1 });
    }
    expect(await readIncidents(query)).toHaveLength(1);
    expect((await readMessages(query)).map(({ message }) => message))
      .toEqual(["alert", "escalation", "escalation"]);
    const { rows } = await query<{ n: string }>(
      "select count(*) as n from monitor.incident_events group by incident_id, description having count(*) > 1",
    );
    expect(rows).toEqual([]);
  });

  it("do not wait for somebody who holds an incident, and see to it the next time", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(one);
    await query("set lock_timeout = '5s'");
    await addChannel(query, "ops");
    const alert = await addAlert(query, {
      fingerprint: "same",
      labels: { pgvigil_incident: "P0" },
    });
    const incident = await open(query, { p_severity: "P0", p_alert_ids: [alert] });
    await resolveAlert(query, alert, NOON + MINUTE);
    await addAlert(query, {
      fingerprint: "same",
      labels: { pgvigil_incident: "P0" },
      at: NOON + 14 * MINUTE,
    });

    await other.query("begin");
    await act(queryOf(other), "note_incident", incident, { p_text: "thinking" });
    const free = await open(query, { p_severity: "P0" });
    expect(await advance(query, NOON + 15 * MINUTE)).toEqual({ ...NOTHING, escalated: 1, told: 1 });
    expect(await readEvents(query, free, "escalation")).toHaveLength(1);
    await other.query("commit");
    expect(await advance(query, NOON + 15 * MINUTE)).toEqual({
      ...NOTHING,
      linked: 1,
      escalated: 1,
      told: 1,
      events: 1,
    });
  });

  it("pass over an alert whose incident somebody opens again and keeps to himself", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(one);
    await query("set statement_timeout = '8s'");
    await addAsking(query, { fingerprint: "same", severity: "P0" });
    await advance(query, NOON);
    const [incident] = await readIncidents(query);
    await resolve(query, incident!, NOON + MINUTE);
    await fireAgain(
      query,
      (await query<{ id: number }>("select alert_id as id from monitor.system_alerts")).rows[0]!.id,
      NOON + 2 * MINUTE,
    );
    await addAsking(query, { severity: "P3" });

    await other.query("begin");
    await act(queryOf(other), "set_incident_state", incident!, {
      p_state: "open",
      p_now: iso(NOON + 2 * MINUTE),
    });
    expect(await advance(query, NOON + 2 * MINUTE)).toMatchObject({
      opened: 1,
      failed: 1,
      failures: [{ error: expect.stringContaining("55P03") }],
    });
    await other.query("commit");
    expect(await advance(query, NOON + 2 * MINUTE)).toMatchObject({ opened: 0, failed: 0 });
    expect(await readIncidents(query)).toHaveLength(2);
  });

  it("do not open an incident again while its alert opens another", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const [query, second] = [queryOf(one), queryOf(other)];
    const alert = await addAsking(query);
    await advance(query, NOON);
    const [incident] = await readIncidents(query);
    await resolve(query, incident!, NOON + MINUTE);
    await fireAgain(query, alert, NOON + 2 * MINUTE);

    await one.query("begin");
    expect(await advance(query, NOON + 2 * MINUTE)).toMatchObject({ opened: 1 });
    const reopen = () =>
      act(second, "set_incident_state", incident!, {
        p_state: "open",
        p_now: iso(NOON + 2 * MINUTE),
      });
    const refused = expect(reopen()).rejects.toMatchObject({
      code: "40001",
      hint: expect.stringContaining("try again"),
    });
    await waitUntilBlocking(query);
    await one.query("commit");
    await refused;
    expect(await reopen()).toMatchObject({ state: "open", fingerprint: null });
  });
});
