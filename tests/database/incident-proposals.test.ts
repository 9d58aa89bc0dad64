import { describe, expect } from "vitest";
import { it, type Query } from "./database.ts";
import { act, addAlert, call, open, readIncidents, resolveAlert } from "./incidents.ts";
import { addAnomaly, addMetric, addSeries, DAY, HOUR, iso, MINUTE, NOON, range } from "./seeds.ts";

interface Candidate {
  alerts: number[];
  anomalies: number[];
  incidents: number[];
  began_at: string;
  reason: string;
}

const propose = (query: Query, at = NOON) =>
  call<{ candidates: Candidate[]; is_cut: boolean }>(query, "propose_incidents", {
    p_now: iso(at),
  });

const readCandidates = async (query: Query, at = NOON) =>
  (await propose(query, at)).candidates.map(({ began_at: _, ...candidate }) => candidate);

/** An alert that began so many minutes before noon. */
const began = (query: Query, minutes: number, columns: object = {}) =>
  addAlert(query, { at: NOON - minutes * MINUTE, ...columns });

const addAnomalyOf = async (query: Query, labels: Record<string, string>, columns: object = {}) =>
  addAnomaly(query, await addSeries(query, await addMetric(query), [], labels), { ...columns });

const TOGETHER = (at: string) => `began within 5 minutes, from 2026-03-10 ${at} +00:00 on`;

describe("monitor.propose_incidents()", () => {
  it("proposes what began within 5 minutes, both sides", async ({ query }) => {
    const [late, edge, first] = [
      await began(query, 30 - 5 - 1 / 60),
      await began(query, 30 - 5),
      await began(query, 30),
    ];
    expect(await propose(query)).toEqual({
      candidates: [{
        alerts: [edge, first],
        anomalies: [],
        incidents: [],
        began_at: "2026-03-10T11:30:00+00:00",
        reason: TOGETHER("11:30:00"),
      }],
      is_cut: false,
    });
    expect(late).toBeGreaterThan(0);
  });

  it("does not chain: each of them is within 5 minutes of the first", async ({ query }) => {
    const ids: number[] = [];
    for (const minutes of [30, 26, 22, 18]) ids.push(await began(query, minutes));
    expect((await readCandidates(query)).map(({ alerts }) => alerts)).toEqual([
      [ids[2], ids[3]],
      [ids[0], ids[1]],
    ]);
  });

  it("counts since when it holds, not when it was told", async ({ query }) => {
    const one = await began(query, 10, { active_at: iso(NOON - 40 * MINUTE) });
    const other = await began(query, 38);
    expect(await readCandidates(query)).toMatchObject([{ alerts: [one, other] }]);
  });

  it("proposes what shares a telling label, however long ago", async ({ query }) => {
    const labels = { alertname: "A", severity: "critical", team: "platform", partner: "acme" };
    const one = await began(query, 2 * 24 * 60, { labels });
    const other = await began(query, 10, { labels: { ...labels, alertname: "B", queue: "mails" } });
    await began(query, 60, { labels: { ...labels, partner: "other" } });
    const anomaly = await addAnomalyOf(query, { queue: "mails" }, {
      started_at: iso(NOON - 90 * MINUTE),
    });
    expect((await readCandidates(query)).sort((a, b) => a.reason < b.reason ? -1 : 1)).toEqual([
      { alerts: [one, other], anomalies: [], incidents: [], reason: 'share partner="acme"' },
      { alerts: [other], anomalies: [anomaly], incidents: [], reason: 'share queue="mails"' },
    ]);
  });

  it.for(["alertname", "severity", "team", "pgvigil_incident", "le", "quantile"])(
    "does not take %s for telling",
    async (label, { query }) => {
      await began(query, 60, { labels: { [label]: "P3" } });
      await began(query, 10, { labels: { [label]: "P3" } });
      expect(await readCandidates(query)).toEqual([]);
    },
  );

  it("does not take an empty label for telling", async ({ query }) => {
    await began(query, 60, { labels: { partner: "" } });
    await began(query, 10, { labels: { partner: "" } });
    expect(await readCandidates(query)).toEqual([]);
  });

  it("proposes anomalies of one group", async ({ query }) => {
    const first = await addAnomalyOf(query, {}, { started_at: iso(NOON - 70 * MINUTE) });
    await query("update monitor.anomaly_detections set group_id = $1", [first]);
    const second = await addAnomalyOf(query, {}, { started_at: iso(NOON - HOUR), group_id: first });
    expect(await readCandidates(query)).toEqual([{
      alerts: [],
      anomalies: [first, second],
      incidents: [],
      reason: `anomalies of group ${first}, which began together`,
    }]);
  });

  it("gives the same ones once, with all reasons", async ({ query }) => {
    const one = await began(query, 30, { labels: { queue: "mails", job: "send" } });
    const other = await began(query, 30, { labels: { queue: "mails", job: "send" } });
    expect(await readCandidates(query)).toEqual([{
      alerts: [one, other],
      anomalies: [],
      incidents: [],
      reason: `${TOGETHER("11:30:00")}; share job="send"; share queue="mails"`,
    }]);
  });

  it("does not take an anomaly and the alert of it for two", async ({ query }) => {
    const anomaly = await addAnomalyOf(query, { queue: "mails" });
    await began(query, 0, { source: "anomaly", anomaly_id: anomaly, labels: { queue: "mails" } });
    expect(await readCandidates(query)).toEqual([]);
    const other = await began(query, 0);
    expect(await readCandidates(query)).toMatchObject([
      { alerts: [expect.any(Number), other], anomalies: [anomaly] },
    ]);
  });

  it("leaves what belongs to an open incident, and says where the others may belong", async ({ query }) => {
    const labels = { queue: "mails" };
    const [one, other] = [await began(query, 60, { labels }), await began(query, 10, { labels })];
    const anomaly = await addAnomalyOf(query, labels, { started_at: iso(NOON - 30 * MINUTE) });
    const incident = await open(query, { p_alert_ids: [one], p_anomaly_ids: [anomaly] });
    expect(await readCandidates(query)).toEqual([{
      alerts: [other],
      anomalies: [],
      incidents: [incident.incident_id],
      reason: 'share queue="mails"',
    }]);
    await act(query, "link_alert", incident, { p_alert_id: other });
    expect(await readCandidates(query)).toEqual([]);
    await act(query, "set_incident_state", incident, { p_state: "resolved" });
    expect(await readCandidates(query)).toMatchObject([
      { alerts: [one, other], anomalies: [anomaly], incidents: [] },
    ]);
  });

  it("takes what goes on, or began within the last hour", async ({ query }) => {
    const labels = { queue: "mails" };
    const [old, young] = [await began(query, 60, { labels }), await began(query, 59, { labels })];
    await began(query, 1, { labels, fired_at: null, occurrence_count: 0 }); // pending
    await began(query, 2, { labels, mode: "shadow" });
    await began(query, -1, { labels }); // of a clock that is ahead
    for (const id of [old, young]) await resolveAlert(query, id, NOON - MINUTE);
    const ended = { ended_at: iso(NOON), ended_reason: "recovered" };
    const [gone, fresh, dismissed] = [
      await addAnomalyOf(query, labels, { started_at: iso(NOON - 60 * MINUTE), ...ended }),
      await addAnomalyOf(query, labels, { started_at: iso(NOON - 50 * MINUTE), ...ended }),
      await addAnomalyOf(query, labels, {
        started_at: iso(NOON - 40 * MINUTE),
        review_state: "false_positive",
        reviewed_at: iso(NOON),
        reviewed_by: "me",
      }),
    ];
    expect([gone, dismissed]).not.toContain(fresh);
    expect(await readCandidates(query)).toEqual([
      { alerts: [young], anomalies: [fresh], incidents: [], reason: 'share queue="mails"' },
    ]);
  });

  it("changes nothing", async ({ query }) => {
    await began(query, 1);
    await began(query, 1);
    expect((await propose(query)).candidates).toHaveLength(1);
    expect(await readIncidents(query)).toEqual([]);
    expect((await query("select from monitor.notifications")).rows).toHaveLength(0);
  });

  it("is bounded, and says that there is more", async ({ query }) => {
    await query(
      `insert into monitor.system_alerts (fingerprint, name, source, severity, labels, opened_at, active_at, fired_at, last_seen_at, occurrence_count)
       select 'many ' || n, 'Many', 'rule', 'info', jsonb_build_object('pair', (n / 2)::text, 'all', 'x'),
         at, at, at, at, 1
       from generate_series(1, 10000) as n
       cross join lateral (select $1::timestamptz - n * interval '11 minutes' as at) as began`,
      [iso(NOON)],
    );
    const start = performance.now();
    const { candidates, is_cut } = await propose(query);
    expect(performance.now() - start).toBeLessThan(4000);
    expect(is_cut).toBe(true);
    expect(candidates).toHaveLength(50);
    expect(candidates[0]!.alerts).toHaveLength(500);
    expect(candidates[0]!.reason).toBe('share all="x"');
  });

  it("is not cut at just as many", async ({ query }) => {
    for (const n of range(3)) await began(query, n * 10, { labels: { n: String(n) } });
    expect(await propose(query, NOON + DAY)).toEqual({ candidates: [], is_cut: false });
  });
});
