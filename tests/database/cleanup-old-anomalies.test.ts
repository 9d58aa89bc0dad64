import { describe, expect } from "vitest";
import { it, type Query, queryOf } from "./database.ts";
import { addAnomaly, DAY, iso, NOON, range } from "./seeds.ts";
import { addAnySeries, cleanUp, RETENTION_DAYS } from "./retention.ts";

const clean = (query: Query, args: object = {}) =>
  cleanUp(query, "cleanup_old_anomalies", { ...args });

/** An anomaly that ended `age` ms before noon. */
async function addEnded(query: Query, age: number, more: object = {}) {
  const at = iso(NOON - age);
  return await addAnomaly(query, await addAnySeries(query), {
    started_at: at,
    last_seen_at: at,
    ended_at: at,
    ended_reason: "recovered",
    ...more,
  });
}

/** An anomaly that a person reviewed `age` ms before noon. */
const addReviewed = (query: Query, age: number, review_state = "resolved", more: object = {}) =>
  addEnded(query, age, { review_state, reviewed_at: iso(NOON - age), reviewed_by: "me", ...more });

const addIncident = async (query: Query, anomaly: number, state = "open") => {
  const { rows: [incident] } = await query<{ id: string }>(
    `insert into monitor.incidents (title, severity, state, started_at, resolved_at)
     values ('a', 'P1', $1::text, $2, case when $1 = 'resolved' then $2::timestamptz end) returning incident_id as id`,
    [state, iso(NOON)],
  );
  await query("insert into monitor.incident_anomalies (incident_id, anomaly_id) values ($1, $2)", [
    incident!.id,
    anomaly,
  ]);
  return incident!.id;
};

const addAlert = (query: Query, anomaly: number, isOpen = true) =>
  query(
    `insert into monitor.system_alerts (fingerprint, name, source, severity, anomaly_id, fired_at, last_seen_at, resolved_at)
     values ($1::text, 'a', 'anomaly', 'warning', $1::bigint, $2, $2, $3)`,
    [anomaly, iso(NOON), isOpen ? null : iso(NOON)],
  );

const readIds = async (query: Query, table: string) =>
  (await query<{ id: string }>(`select anomaly_id as id from monitor.${table} order by 1`)).rows
    .map(({ id }) => Number(id));

describe("monitor.cleanup_old_anomalies()", () => {
  it.for(["resolved", "false_positive", "expected"])(
    "archives an anomaly that is %s for more than 7 days, both sides, as it is",
    async (state, { query }) => {
      const old = await addReviewed(query, 7 * DAY + 1, state);
      const young = await addReviewed(query, 7 * DAY, state);
      const { rows: [before] } = await query(
        "select * from monitor.anomaly_detections where anomaly_id = $1",
        [old],
      );
      expect(await clean(query)).toEqual({
        entity: "anomaly_detections",
        outcome: "done",
        counts: { archived: 1, expired: 0, held_by_alert: 0, held_by_incident: 0, contended: 0 },
        oldest_kept_at: "2026-03-03T12:00:00+00:00",
        more: false,
        duration_seconds: expect.any(Number),
        detail: null,
      });
      expect((await query("select * from monitor.anomaly_detections_archive")).rows).toEqual([
        before,
      ]);
      expect(await readIds(query, "anomaly_detections")).toEqual([young]);
    },
  );

  it.for(
    [
      ["since its end", { review_state: "open" }],
      ["acknowledged and nothing since", { review_state: "acknowledged", reviewed_by: "me" }],
    ] as const,
  )("expires an anomaly untouched for 30 days, both sides: %s", async ([, columns], { query }) => {
    const add = (age: number) =>
      addEnded(query, age, {
        ...columns,
        ...("reviewed_by" in columns && { reviewed_at: iso(NOON - age) }),
      });
    const old = await add(30 * DAY + 1);
    const young = await add(30 * DAY);
    expect(await clean(query)).toMatchObject({
      outcome: "done",
      counts: { archived: 0, expired: 1 },
    });
    expect(await readIds(query, "anomaly_detections")).toEqual([young]);
    expect((await query("select * from monitor.anomaly_detections_archive")).rows).toMatchObject([{
      anomaly_id: String(old),
      review_state: "expired",
      reviewed_at: new Date(NOON),
      reviewed_by: "retention policy",
    }]);
  });

  it("counts the last touch: an end, a sighting, a review", async ({ query }) => {
    const old = { started_at: iso(NOON - 90 * DAY), last_seen_at: iso(NOON - 90 * DAY) };
    const recent = iso(NOON - DAY);
    for (
      const touch of [
        { ended_at: recent, ended_reason: "recovered" },
        { last_seen_at: recent, ended_at: null, ended_reason: null },
        {
          review_state: "acknowledged",
          reviewed_at: recent,
          reviewed_by: "me",
          ended_at: null,
          ended_reason: null,
        },
      ]
    ) await addEnded(query, 90 * DAY, { ...old, ...touch });
    expect(await clean(query)).toMatchObject({ outcome: "nothing" });
  });

  it("closes one whose series fell silent when it expires", async ({ query }) => {
    const at = iso(NOON - 31 * DAY);
    await addEnded(query, 31 * DAY, { ended_at: null, ended_reason: null });
    await clean(query);
    expect((await query("select * from monitor.anomaly_detections_archive")).rows).toMatchObject([{
      review_state: "expired",
      ended_at: new Date(at),
      ended_reason: "no_data",
    }]);
  });

  it("leaves a reviewed one that still lasts, for the detector to end", async ({ query }) => {
    const lasting = { ended_at: null, ended_reason: null };
    const still = await addReviewed(query, 20 * DAY, "expected", {
      ...lasting,
      started_at: iso(NOON - 60 * DAY),
      last_seen_at: iso(NOON - 30 * DAY),
    });
    await addReviewed(query, 20 * DAY, "expected", {
      ...lasting,
      started_at: iso(NOON - 60 * DAY),
      last_seen_at: iso(NOON - 30 * DAY - 1), // a moment too long ago to be called lasting
    });
    expect(await clean(query)).toMatchObject({ counts: { archived: 1, expired: 0 } });
    expect(await readIds(query, "anomaly_detections")).toEqual([still]);
  });

  it("follows retention_days for the unresolved, and 7 days for the others", async ({ query }) => {
    await addEnded(query, 3 * DAY);
    await addReviewed(query, 3 * DAY);
    expect(await clean(query, { retention_days: 2 })).toMatchObject({
      counts: { archived: 0, expired: 1 },
    });
  });

  it("holds what an open incident or alert refers to, and says which", async ({ query }) => {
    const held = [
      await addReviewed(query, 40 * DAY),
      await addEnded(query, 40 * DAY),
      await addEnded(query, 40 * DAY),
      await addReviewed(query, 40 * DAY),
    ];
    await addIncident(query, held[0]!);
    await addIncident(query, held[1]!, "monitoring");
    await addAlert(query, held[1]!); // by both: counted once
    await addAlert(query, held[2]!);
    await addAlert(query, held[3]!);
    expect(await clean(query)).toMatchObject({
      outcome: "held",
      counts: { archived: 0, expired: 0, held_by_incident: 2, held_by_alert: 2 },
      oldest_kept_at: "2026-01-29T12:00:00+00:00",
    });
    expect(await readIds(query, "anomaly_detections")).toEqual(held);

    await query("update monitor.incidents set state = 'resolved', resolved_at = started_at");
    await query("update monitor.system_alerts set resolved_at = fired_at");
    expect(await clean(query)).toMatchObject({
      outcome: "done",
      counts: { archived: 2, expired: 2 },
    });
  });

  it("does not hold for what is over", async ({ query }) => {
    const anomaly = await addReviewed(query, 40 * DAY);
    await addIncident(query, anomaly, "resolved");
    await addAlert(query, anomaly, false);
    expect(await clean(query)).toMatchObject({ outcome: "done", counts: { archived: 1 } });
  });

  it("keeps the id, so that incidents and alerts still know it", async ({ query }) => {
    const anomaly = await addReviewed(query, 40 * DAY);
    await addIncident(query, anomaly, "resolved");
    await clean(query);
    const { rows } = await query(
      "select 1 from monitor.incident_anomalies join monitor.anomaly_detections_archive using (anomaly_id)",
    );
    expect(rows).toHaveLength(1);
  });

  it("moves at most p_limit a call, oldest first, and says that there is more", async ({ query }) => {
    const ids = [];
    for (const n of range(5)) ids.push(await addReviewed(query, (20 - n) * DAY));
    const next = () => clean(query, { p_limit: 2 });
    expect(await next()).toMatchObject({ outcome: "done", counts: { archived: 2 }, more: true });
    expect(await readIds(query, "anomaly_detections_archive")).toEqual(ids.slice(0, 2));
    expect(await next()).toMatchObject({ counts: { archived: 2 }, more: true });
    expect(await next()).toMatchObject({ counts: { archived: 1 }, more: false });
    expect(await next()).toMatchObject({ outcome: "nothing", more: false });
  });

  it("is not stopped by what is held from reaching what is not", async ({ query }) => {
    for (const n of range(3)) await addIncident(query, await addReviewed(query, (40 - n) * DAY));
    const free = await addReviewed(query, 8 * DAY);
    expect(await clean(query, { p_limit: 2 })).toMatchObject({
      outcome: "done",
      counts: { archived: 1, held_by_incident: 3 },
      more: false,
    });
    expect(await readIds(query, "anomaly_detections_archive")).toEqual([free]);
  });

  it("changes nothing in a dry run, and counts all that would go", async ({ query }) => {
    for (const n of range(3)) await addReviewed(query, (20 + n) * DAY);
    await addEnded(query, 40 * DAY);
    await addIncident(query, await addEnded(query, 50 * DAY));
    expect(await clean(query, { p_dry_run: true, p_limit: 2 })).toMatchObject({
      outcome: "done",
      counts: { archived: 3, expired: 1, held_by_incident: 1, contended: 0 },
      more: false,
    });
    expect(await readIds(query, "anomaly_detections")).toHaveLength(5);
    expect(await readIds(query, "anomaly_detections_archive")).toEqual([]);
  });

  it("skips what others hold, loses nothing, and moves it another time", async ({ ownDatabase }) => {
    const [session, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(session);
    const [busy, free] = [await addReviewed(query, 20 * DAY), await addReviewed(query, 19 * DAY)];
    await other.query("begin");
    await other.query("select from monitor.anomaly_detections where anomaly_id = $1 for update", [
      busy,
    ]);

    expect(await clean(query)).toMatchObject({
      outcome: "done",
      counts: { archived: 1, contended: 1 },
    });
    expect(await clean(query)).toMatchObject({
      outcome: "contended",
      counts: { archived: 0, contended: 1 },
      more: false,
    });
    expect(await readIds(query, "anomaly_detections")).toEqual([busy]);
    expect(await readIds(query, "anomaly_detections_archive")).toEqual([free]);

    await other.query("commit");
    expect(await clean(query)).toMatchObject({
      outcome: "done",
      counts: { archived: 1, contended: 0 },
    });
    expect(await readIds(query, "anomaly_detections_archive")).toEqual([busy, free]);
  });

  it.for(RETENTION_DAYS)(
    "takes retention_days of %s: %s",
    async ([retention_days, isTaken], { query }) => {
      const answer = clean(query, { retention_days });
      if (isTaken) expect(await answer).toMatchObject({ outcome: "nothing", oldest_kept_at: null });
      else {await expect(answer).rejects.toMatchObject({
          code: "22023",
          hint: expect.stringContaining("keep"),
        });}
    },
  );
});
