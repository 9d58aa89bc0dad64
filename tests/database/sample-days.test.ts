import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc } from "./database.ts";
import { addMetric, addRun, DAY, iso, MIDNIGHT, MINUTE, NOON } from "./seeds.ts";

const ensure = (query: Query, at: number, ahead?: number) =>
  rpc<number>(query, "ensure_sample_days", {
    p_now: iso(at),
    ...(ahead !== undefined && { p_days_ahead: ahead }),
  });

/** The days known before any test's day, in ascending order. */
async function readDays(query: Query, before = NOON + 60 * DAY) {
  const { rows } = await query<{ day: string; state: string }>(
    "select day::text, state from monitor.sample_days where day < $1::timestamptz order by day",
    [iso(before)],
  );
  return rows.map(({ day, state }) => `${day} ${state}`);
}

async function readPartitions(query: Query) {
  const { rows } = await query<{ name: string }>(
    `select inhrelid::regclass::text as name from pg_inherits
     where inhparent = 'monitor.metric_time_series'::regclass and inhrelid::regclass::text < 'monitor.metric_time_series_202606'
     order by 1`,
  );
  return rows.map(({ name }) => name.replace("monitor.metric_time_series_", ""));
}

describe("monitor.ensure_sample_days()", () => {
  it("opens the day and the two after it, once", async ({ query }) => {
    expect(await ensure(query, NOON)).toBe(3);
    expect(await ensure(query, NOON)).toBe(0);
    expect(await readDays(query)).toEqual([
      "2026-03-10 rows",
      "2026-03-11 rows",
      "2026-03-12 rows",
    ]);
    expect(await readPartitions(query)).toEqual(["20260310", "20260311", "20260312"]);
  });

  it("opens only what is missing a day later", async ({ query }) => {
    await ensure(query, NOON);
    expect(await ensure(query, NOON + DAY)).toBe(1);
    expect(await readPartitions(query)).toEqual(["20260310", "20260311", "20260312", "20260313"]);
  });

  it.for(
    [
      ["the last millisecond of a day", MIDNIGHT - 1, "20260309"],
      ["the first one of the next", MIDNIGHT, "20260310"],
    ] as const,
  )("takes %s for the UTC day it is in", async ([, at, day], { query }) => {
    await ensure(query, at, 0);
    expect(await readPartitions(query)).toEqual([day]);
  });

  it.for(["Pacific/Kiritimati", "Pacific/Niue", "America/St_Johns"])(
    "cuts days in UTC whatever the session's time zone: %s",
    async (zone, { query }) => {
      const metric = await addMetric(query);
      await query(`set local timezone to '${zone}'`);
      expect(await ensure(query, MIDNIGHT, 0)).toBe(1);
      for (
        const [at, inserted] of [[MIDNIGHT - 1, 0], [MIDNIGHT, 1], [MIDNIGHT + DAY - 1, 1], [
          MIDNIGHT + DAY,
          0,
        ]]
      ) {
        expect(
          await rpc(query, "record_samples", {
            p_samples: [{ metric, value: 1 }],
            p_recorded_at: iso(at!),
          }),
        ).toMatchObject({ inserted });
      }
      expect(await readPartitions(query)).toEqual(["20260310"]);
    },
  );

  it.for([[-1, false], [0, true], [30, true], [31, false], [null, false]] as const)(
    "looks %s days ahead: %s",
    async ([ahead, isAllowed], { query }) => {
      const call = query("select monitor.ensure_sample_days($1, $2) as made", [iso(NOON), ahead]);
      if (isAllowed) expect((await call).rows).toEqual([{ made: ahead + 1 }]);
      else {await expect(call).rejects.toMatchObject({
          code: "22023",
          hint: expect.stringContaining("default"),
        });}
    },
  );

  it("opens a dropped day again when it is yet to come, empty", async ({ query, asOwner }) => {
    await ensure(query, NOON, 0);
    await asOwner("drop table monitor.metric_time_series_20260310");
    await asOwner("update monitor.sample_days set state = 'dropped' where day = '2026-03-10'");
    expect(await ensure(query, NOON, 0)).toBe(1);
    expect(await readDays(query)).toEqual(["2026-03-10 rows"]);
  });

  it("leaves a sealed or compacted day as it is", async ({ query, asOwner }) => {
    await ensure(query, NOON, 1);
    await asOwner("update monitor.sample_days set state = 'sealed' where day = '2026-03-10'");
    await asOwner("update monitor.sample_days set state = 'chunks' where day = '2026-03-11'");
    expect(await ensure(query, NOON, 1)).toBe(0);
  });

  it("makes each day once when two do it at once", async ({ ownDatabase }) => {
    const sessions = [await ownDatabase.connect(), await ownDatabase.connect()];
    const made = await Promise.all(sessions.map((session) => ensure(queryOf(session), NOON)));
    expect(made[0]! + made[1]!).toBe(3);
    expect(await readPartitions(queryOf(sessions[0]!))).toEqual([
      "20260310",
      "20260311",
      "20260312",
    ]);
  });

  it("waits for one that is making days, and then finds them made", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    await one.query("begin");
    expect(await ensure(queryOf(one), NOON)).toBe(3);
    const second = ensure(queryOf(other), NOON);
    await one.query("commit");
    expect(await second).toBe(0);
  });

  it("lets others read and write while it makes a day", async ({ ownDatabase }) => {
    const [maker, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    await ensure(queryOf(maker), NOON, 0);
    await other.query("set lock_timeout = '100ms'");
    await maker.query("begin");
    await ensure(queryOf(maker), NOON + DAY, 0);
    expect(
      await rpc(queryOf(other), "record_samples", {
        p_samples: [{ metric: "active_incidents", value: 1 }],
        p_recorded_at: iso(NOON),
      }),
    ).toMatchObject({ inserted: 1 });
    await maker.query("commit");
  });

  it("gives up after 2 s behind a lock, rather than queue everybody up behind itself", async ({ ownDatabase }) => {
    const [holder, maker] = [await ownDatabase.connectAsOwner(), await ownDatabase.connect()];
    await holder.query("begin; lock table monitor.metric_time_series in access exclusive mode");
    await expect(ensure(queryOf(maker), NOON)).rejects.toMatchObject({ code: "55P03" });
    await holder.query("rollback");
    expect(await ensure(queryOf(maker), NOON)).toBe(3);
  });
});

describe("a collection while the days to come cannot be made", () => {
  it("stores today's samples all the same", async ({ ownDatabase }) => {
    const [holder, session] = [await ownDatabase.connectAsOwner(), await ownDatabase.connect()];
    await ensure(queryOf(session), NOON, 0);
    // What ANALYZE holds while it runs.
    await holder.query(
      "begin; lock table monitor.metric_time_series in share update exclusive mode",
    );
    const run = await addRun(queryOf(session), {
      scheduled_at: iso(NOON),
      started_at: iso(NOON),
      state: "running",
    });
    const stored = await rpc(queryOf(session), "record_collection", {
      p_run_id: run,
      p_scheduled_at: iso(NOON),
      p_results: [{
        collector: "collect_incidents_and_alerts",
        duration_seconds: 0.1,
        error: null,
        samples: [{ metric: "active_incidents", value: 1 }],
      }],
    });
    expect(stored).toMatchObject({ inserted: 1 });
    await holder.query("rollback");
  });
});

describe("a project that slept for ten days", () => {
  it("stores today's samples with its first collection, and none of the days between", async ({ query }) => {
    const asleep = NOON - 10 * DAY;
    const collect = async (at: number) => {
      const run = await addRun(query, {
        scheduled_at: iso(at),
        started_at: iso(at),
        state: "running",
      });
      return await rpc(query, "record_collection", {
        p_run_id: run,
        p_scheduled_at: iso(at),
        p_results: [{
          collector: "collect_incidents_and_alerts",
          duration_seconds: 0.1,
          error: null,
          samples: [{ metric: "active_incidents", value: 1 }],
        }],
      });
    };
    await collect(asleep - MINUTE);
    expect(await collect(NOON)).toMatchObject({ inserted: 1, duplicates: 0, rejected: [] });

    expect(await readDays(query)).toEqual([
      ...["2026-02-28 rows", "2026-03-01 rows", "2026-03-02 rows"],
      ...["2026-03-10 rows", "2026-03-11 rows", "2026-03-12 rows"],
    ]);
    expect(
      await rpc(query, "read_samples", {
        p_matchers: [{ name: "__name__", op: "=", value: "active_incidents" }],
        p_from: iso(asleep - DAY),
        p_until: iso(NOON + DAY),
      }),
    ).toMatchObject({ series: [{ times: [asleep - MINUTE, NOON], values: [1, 1] }] });
  });
});
