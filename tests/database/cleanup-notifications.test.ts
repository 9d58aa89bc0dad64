import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc } from "./database.ts";
import { addAlert, addChannel, resolveAlert } from "./incidents.ts";
import { type Cleaned, cleanUp, RETENTION_DAYS } from "./retention.ts";
import { DAY, HOUR, iso, NOON, range } from "./seeds.ts";

/** Adds a message that was made so long before noon, and sent unless `state` says otherwise. Returns its id. */
async function addMessage(query: Query, age: number, state = "sent"): Promise<number> {
  const isSent = ["sent", "delivered", "bounced", "complained"].includes(state);
  const { rows: [row] } = await query<{ id: string }>(
    `insert into monitor.notifications (channel, payload, state, created_at, next_attempt_at, sent_at)
     values ('ops', '{}', $1, $2, $2, case when $3 then $2::timestamptz end) returning notification_id as id`,
    [state, iso(NOON - age), isSent],
  );
  return Number(row!.id);
}

const addEvent = async (query: Query, age: number): Promise<string> => {
  const id = `event of ${age} ms ago`;
  await query(
    "insert into monitor.mail_events (event_id, provider_id, kind, occurred_at) values ($1, 'mail', 'sent', $2)",
    [id, iso(NOON - age)],
  );
  return id;
};

/** Adds a silence that has ended so long before noon. */
const addSilence = async (query: Query, age: number): Promise<number> => {
  const { rows: [row] } = await query<{ id: string }>(
    `insert into monitor.silences (matchers, starts_at, ends_at, reason, created_by, created_at)
     values ('[{"name": "a", "op": "=", "value": "b"}]', $1::timestamptz - interval '900 days', $1, 'a test', 'a test', $1)
     returning silence_id as id`,
    [iso(NOON - age)],
  );
  return Number(row!.id);
};

const tell = (query: Query, message: number, alert: number) =>
  query(
    `insert into monitor.notification_alerts (notification_id, alert_id, channel, status, severity, told_at)
     values ($1, $2, 'ops', 'firing', 'info', $3)`,
    [message, alert, iso(NOON)],
  );

const clean = (
  query: Query,
  p_entity: string | null,
  args: Readonly<Record<string, unknown>> = {},
) => cleanUp(query, "cleanup_notifications", { p_entity, retention_days: 90, ...args });

/** What is deleted, its key, and how a row is added that is so old. */
const ENTITIES = [
  { entity: "notifications", key: "notification_id", add: addMessage },
  { entity: "mail_events", key: "event_id", add: addEvent },
  { entity: "silences", key: "silence_id", add: addSilence },
] as const;

const readIds = async (query: Query, { entity, key }: { entity: string; key: string }) =>
  (await query<{ id: string }>(`select ${key} as id from monitor.${entity} order by 1`)).rows
    .map(({ id }) => id);

describe.each(ENTITIES.map((entity) => [entity.entity, entity] as const))(
  "monitor.cleanup_notifications() of %s",
  (entity, { key, add }) => {
    it("deletes what is more than so many days old, both sides of it", async ({ query }) => {
      await add(query, 90 * DAY + 1);
      const kept = [await add(query, 90 * DAY), await add(query, HOUR)].map(String);
      expect(await clean(query, entity)).toEqual({
        ...{ entity, outcome: "done", more: false, detail: null },
        counts: {
          ...{ deleted: 1, contended: 0 },
          ...(entity === "notifications" && { held_by_alert: 0, held_by_incident: 0 }),
        },
        oldest_kept_at: "2025-12-10T12:00:00+00:00",
        duration_seconds: expect.any(Number),
      });
      expect((await readIds(query, { entity, key })).toSorted()).toEqual(kept.toSorted());
      expect(await clean(query, entity)).toMatchObject({
        outcome: "nothing",
        counts: { deleted: 0 },
      });
      expect(await clean(query, entity, { retention_days: 1 })).toMatchObject({
        ...{ outcome: "done", oldest_kept_at: iso(NOON - HOUR).replace(".000Z", "+00:00") },
      });
    });

    it("stops at p_limit, oldest first, and says that there is more", async ({ query }) => {
      const ids: string[] = [];
      for (const n of range(5)) ids.push(String(await add(query, (100 + 5 - n) * DAY)));
      const next = () => clean(query, entity, { p_limit: 2 });
      expect(await next()).toMatchObject({ counts: { deleted: 2, contended: 0 }, more: true });
      expect((await readIds(query, { entity, key })).toSorted()).toEqual(ids.slice(2).toSorted());
      expect(await next()).toMatchObject({ counts: { deleted: 2 }, more: true });
      expect(await next()).toMatchObject({ counts: { deleted: 1 }, more: false });
      expect(await next()).toMatchObject({ outcome: "nothing", more: false });
    });

    it("deletes nothing in a dry run, and counts all that would go", async ({ query }) => {
      for (const n of range(3)) await add(query, (100 + n) * DAY);
      await add(query, 2 * HOUR);
      const dry = await clean(query, entity, { p_dry_run: true, p_limit: 2 });
      expect(dry).toMatchObject({
        ...{ outcome: "done", counts: { deleted: 3, contended: 0 }, more: false },
        oldest_kept_at: iso(NOON - 2 * HOUR).replace(".000Z", "+00:00"),
      });
      expect(await readIds(query, { entity, key })).toHaveLength(4);
    });

    it("skips what others hold, and deletes it another time", async ({ ownDatabase }) => {
      const [session, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
      const query = queryOf(session);
      const busy = await add(query, 200 * DAY);
      await add(query, 100 * DAY);
      await other.query("begin");
      await other.query(`select from monitor.${entity} where ${key} = $1 for update`, [busy]);
      expect(await clean(query, entity)).toMatchObject({
        ...{ outcome: "done", counts: { deleted: 1, contended: 1 } },
      });
      expect(await clean(query, entity)).toMatchObject({
        ...{ outcome: "contended", counts: { deleted: 0, contended: 1 }, more: false },
      });
      await other.query("commit");
      expect(await clean(query, entity)).toMatchObject({
        ...{ outcome: "done", counts: { deleted: 1, contended: 0 } },
      });
    });

    it.for(RETENTION_DAYS)("takes %s days: %s", async ([retention_days, isTaken], { query }) => {
      const answer = clean(query, entity, { retention_days });
      if (isTaken) expect(await answer).toMatchObject({ outcome: "nothing" });
      else {await expect(answer).rejects.toMatchObject({
          code: "22023",
          hint: expect.stringContaining("keep"),
        });}
    });

    it("is a step of retention, with days of its own", async ({ query }) => {
      const { rows: [policy] } = await query<{ keep_days: number }>(
        "select keep_days from monitor.retention_policies where entity = $1",
        [entity],
      );
      const days = policy!.keep_days;
      expect(days).toBe(entity === "silences" ? 400 : 90);
      await add(query, days * DAY + 1);
      const kept = String(await add(query, days * DAY));
      const step = await rpc<Cleaned>(query, "run_retention_step", {
        p_entity: entity,
        p_now: iso(NOON),
      });
      expect(step).toMatchObject({ entity, outcome: "done", counts: { deleted: 1 } });
      expect(await readIds(query, { entity, key })).toEqual([kept]);
    });
  },
);

describe("monitor.cleanup_notifications()", () => {
  it.for(["sent", "delivered", "bounced", "complained", "parked", "discarded"])(
    "deletes messages that are %s",
    async (state, { query }) => {
      await addMessage(query, 100 * DAY, state);
      expect(await clean(query, "notifications")).toMatchObject({ counts: { deleted: 1 } });
    },
  );

  it("keeps messages that are to be sent, however old", async ({ query }) => {
    const id = await addMessage(query, 1000 * DAY, "pending");
    expect(await clean(query, "notifications")).toMatchObject({
      ...{ outcome: "nothing", oldest_kept_at: iso(NOON - 1000 * DAY).replace(".000Z", "+00:00") },
    });
    expect(await readIds(query, ENTITIES[0])).toEqual([String(id)]);
  });

  it("keeps what told of an alert until that is over, then goes with what it told", async ({ query }) => {
    await addChannel(query, "ops");
    const [alert, over] = [await addAlert(query), await addAlert(query)];
    await resolveAlert(query, over, NOON);
    const held = await addMessage(query, 100 * DAY);
    const gone = await addMessage(query, 100 * DAY);
    for (const told of [alert, over]) await tell(query, held, told);
    await tell(query, gone, over);
    for (const p_dry_run of [true, false]) {
      expect(await clean(query, "notifications", { p_dry_run })).toMatchObject({
        ...{
          outcome: "done",
          counts: { deleted: 1, held_by_alert: 1, held_by_incident: 0, contended: 0 },
          more: false,
        },
      });
    }
    expect(await clean(query, "notifications")).toMatchObject({
      ...{ outcome: "held", counts: { deleted: 0, held_by_alert: 1 } },
      oldest_kept_at: iso(NOON - 100 * DAY).replace(".000Z", "+00:00"),
    });
    await resolveAlert(query, alert, NOON);
    expect(await clean(query, "notifications")).toMatchObject({
      ...{ outcome: "done", counts: { deleted: 1, held_by_alert: 0 }, oldest_kept_at: null },
    });
    const { rows } = await query("select from monitor.notification_alerts");
    expect(rows).toHaveLength(0);
  });

  it("keeps what told of an incident until that is resolved: whoever heard of it hears of its end", async ({ query }) => {
    const { rows: [incident] } = await query<{ incident_id: string }>(
      "insert into monitor.incidents (title, severity) values ('x', 'P2') returning incident_id",
    );
    const id = await addMessage(query, 100 * DAY);
    await query("update monitor.notifications set incident_id = $1", [incident!.incident_id]);
    expect(await clean(query, "notifications")).toMatchObject({
      ...{ outcome: "held", counts: { deleted: 0, held_by_alert: 0, held_by_incident: 1 } },
    });
    expect(await readIds(query, ENTITIES[0])).toEqual([String(id)]);
    await query("delete from monitor.incidents");
    expect(await clean(query, "notifications")).toMatchObject({ counts: { deleted: 1 } });
  });

  it("does not let what is held use up the limit", async ({ query }) => {
    const alert = await addAlert(query);
    for (const n of range(3)) await tell(query, await addMessage(query, (200 + n) * DAY), alert);
    await addMessage(query, 100 * DAY);
    expect(await clean(query, "notifications", { p_limit: 1 })).toMatchObject({
      ...{ outcome: "done", counts: { deleted: 1, held_by_alert: 3 }, more: false },
    });
  });

  it("keeps a silence that has not ended", async ({ query }) => {
    await addSilence(query, -900 * DAY);
    await addSilence(query, 0);
    expect(await clean(query, "silences", { retention_days: 1 })).toMatchObject({
      outcome: "nothing",
    });
  });

  it.for([0, 100_001, null])("refuses p_limit of %s", async (p_limit, { query }) => {
    await expect(clean(query, "notifications", { p_limit })).rejects.toMatchObject({
      code: "22023",
    });
  });

  it.for(["notification_channels", "system_alerts", "", null])(
    "refuses the entity %s",
    async (entity, { query }) => {
      await expect(clean(query, entity)).rejects.toMatchObject({
        ...{ code: "22023", hint: expect.stringContaining("retention_policies") },
      });
    },
  );
});
