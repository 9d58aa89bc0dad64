import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc } from "./database.ts";
import { addAnomaly, DAY, HOUR, iso, MIDNIGHT, NOON, openDays } from "./seeds.ts";
import { addAnySeries, cleanUp, RETENTION_DAYS } from "./retention.ts";

const clean = (query: Query, args: object = {}) =>
  cleanUp(query, "cleanup_old_metrics", { ...args });

/** The day `n` days before that of noon. */
const day = (n: number) => iso(NOON - n * DAY).slice(0, 10);

/** Opens the days from `first` to `last` days before noon, with a sample at noon of each. */
async function fillDays(query: Query, first: number, last = 0) {
  await openDays(query, NOON - first * DAY, first - last + 1);
  const samples = Array.from(
    { length: first - last + 1 },
    (_, n) => [NOON - (first - n) * DAY, first - n] as const,
  );
  return addAnySeries(query, samples);
}

async function readDays(query: Query, state = "rows") {
  const { rows } = await query<{ day: string }>(
    "select day::text from monitor.sample_days where state = $1 and day <= $2::timestamptz order by day",
    [state, iso(NOON)],
  );
  return rows.map((row) => row.day);
}

describe("monitor.cleanup_old_metrics()", () => {
  it("drops whole UTC days that ended before the limit, with all that is in them", async ({ query, asOwner }) => {
    const series = await fillDays(query, 4);
    expect(await clean(query, { retention_days: 2 })).toEqual({
      entity: "metric_time_series",
      outcome: "done",
      counts: { days: 2, contended: 0 },
      oldest_kept_at: `${day(2)}T00:00:00+00:00`,
      more: false,
      duration_seconds: expect.any(Number),
      detail: null,
    });
    expect(await readDays(query)).toEqual([day(2), day(1), day(0)]);
    expect(await readDays(query, "dropped")).toEqual([day(4), day(3)]);
    const { rows } = await query(
      "select value from monitor.metric_time_series where series_id = $1 order by 1",
      [
        series,
      ],
    );
    expect(rows.map(({ value }) => value)).toEqual([0, 1, 2]);
    const { rows: partitions } = await asOwner(
      "select 1 from pg_class where relname = any ($1)",
      [[3, 4].map((n) => `metric_time_series_${day(n).replaceAll("-", "")}`)],
    );
    expect(partitions).toEqual([]);
  });

  it.for(
    [
      ["a moment before midnight", MIDNIGHT - 1, [3, 2, 1, 0]],
      ["at midnight", MIDNIGHT, [2, 1, 0]],
      ["a moment before the next midnight", MIDNIGHT + DAY - 1, [2, 1, 0]],
      ["at the next midnight", MIDNIGHT + DAY, [1, 0]],
    ] as const,
  )("rounds the cut-off down to midnight UTC: %s", async ([, now, kept], { query }) => {
    await fillDays(query, 5);
    await query("set local timezone to 'Pacific/Auckland'");
    await clean(query, { retention_days: 2, p_now: iso(now) });
    expect(await readDays(query)).toEqual(kept.map(day));
  });

  it("keeps 30 days when nothing else is said", async ({ query }) => {
    await openDays(query, NOON - 31 * DAY, 2);
    expect(await clean(query)).toMatchObject({ counts: { days: 1 } });
    expect(await readDays(query)).toEqual([day(30)]);
  });

  it("keeps the running day and the one before when told to keep one", async ({ query }) => {
    await fillDays(query, 3);
    await clean(query, { retention_days: 1 });
    expect(await readDays(query)).toEqual([day(1), day(0)]);
  });

  it("says nothing when nothing is due", async ({ query }) => {
    await fillDays(query, 2);
    expect(await clean(query)).toMatchObject({
      outcome: "nothing",
      counts: { days: 0 },
      oldest_kept_at: `${day(2)}T00:00:00+00:00`,
    });
  });

  it("drops at most p_limit days a call, oldest first, and says that there is more", async ({ query }) => {
    await fillDays(query, 9);
    const next = () => clean(query, { retention_days: 2, p_limit: 3 });
    expect(await next()).toMatchObject({ outcome: "done", counts: { days: 3 }, more: true });
    expect(await readDays(query, "dropped")).toEqual([9, 8, 7].map(day));
    expect(await next()).toMatchObject({ counts: { days: 3 }, more: true });
    expect(await next()).toMatchObject({ counts: { days: 1 }, more: false });
    expect(await next()).toMatchObject({ outcome: "nothing", more: false });
  });

  it("changes nothing in a dry run, and counts all that would go", async ({ query }) => {
    await fillDays(query, 9);
    expect(await clean(query, { retention_days: 2, p_limit: 3, p_dry_run: true })).toMatchObject({
      outcome: "done",
      counts: { days: 7, contended: 0 },
      oldest_kept_at: `${day(2)}T00:00:00+00:00`,
      more: false,
    });
    expect(await readDays(query)).toHaveLength(10);
    expect((await query("select count(*)::int as n from monitor.metric_time_series")).rows).toEqual(
      [{ n: 10 }],
    );
  });

  it("marks a day with when it went, closes it to samples, and does not count it again", async ({ query }) => {
    await fillDays(query, 3);
    await clean(query, { retention_days: 2 });
    const { rows } = await query(
      "select state, state_since from monitor.sample_days where day = $1",
      [day(3)],
    );
    expect(rows).toEqual([{ state: "dropped", state_since: new Date(NOON) }]);
    expect(
      await rpc(query, "record_samples", {
        p_samples: [{ metric: "active_incidents", value: 1 }],
        p_recorded_at: iso(NOON - 3 * DAY),
      }),
    ).toMatchObject({
      inserted: 0,
      rejected: [{ reason: expect.stringContaining("no open day") }],
    });
    expect(await clean(query, { retention_days: 2 })).toMatchObject({ outcome: "nothing" });
  });

  it("drops a compacted day as well, and one whose partition is gone already", async ({ query, asOwner }) => {
    await fillDays(query, 4);
    await asOwner("update monitor.sample_days set state = 'chunks' where day = $1", [day(4)]);
    await asOwner(`drop table monitor.metric_time_series_${day(3).replaceAll("-", "")}`);
    expect(await clean(query, { retention_days: 2 })).toMatchObject({
      outcome: "done",
      counts: { days: 2 },
    });
    expect(await readDays(query, "dropped")).toEqual([day(4), day(3)]);
  });

  it("leaves evidence of what was in a dropped day", async ({ query }) => {
    const series = await fillDays(query, 3);
    const anomaly = await addAnomaly(query, series, { started_at: iso(NOON - 3 * DAY) });
    await rpc(query, "copy_evidence", { p_anomaly_id: anomaly });
    await clean(query, { retention_days: 2 });
    const { rows } = await query(
      "select recorded_at, value from monitor.evidence_samples where owner_id = $1",
      [
        anomaly,
      ],
    );
    expect(rows).toEqual([{ recorded_at: new Date(NOON - 3 * DAY), value: 3 }]);
  });

  it.for(RETENTION_DAYS)(
    "takes retention_days of %s: %s",
    async ([retention_days, isTaken], { query }) => {
      const answer = clean(query, { retention_days, p_dry_run: true });
      if (isTaken) expect(await answer).toMatchObject({ entity: "metric_time_series" });
      else {await expect(answer).rejects.toMatchObject({
          code: "22023",
          hint: expect.stringContaining("keep"),
        });}
    },
  );

  it("refuses no time at all", async ({ query }) => {
    await expect(clean(query, { p_now: null })).rejects.toMatchObject({ code: "22023" });
  });

  it("gives way to others, loses nothing, and drops the day another time", async ({ ownDatabase }) => {
    const [session, reader] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(session);
    await fillDays(query, 4);
    await reader.query("begin; select count(*) from monitor.metric_time_series");

    expect(await clean(query, { retention_days: 2 })).toMatchObject({
      outcome: "contended",
      counts: { days: 0, contended: 1 },
      oldest_kept_at: `${day(4)}T00:00:00+00:00`,
      more: false,
      detail: expect.stringContaining("the next run will try again"),
    });
    expect(await readDays(query)).toHaveLength(5);

    await reader.query("commit");
    expect(await clean(query, { retention_days: 2 })).toMatchObject({
      outcome: "done",
      counts: { days: 2 },
    });
  });

  it("creates no partition, as making days drops none: both in one transaction deadlock", async ({ query, asOwner }) => {
    const { rows } = await asOwner(
      `select proname from pg_proc where pronamespace = 'monitor'::regnamespace
         and prosrc ~ '(create table|ensure_sample_days)' and prosrc ~ '(drop table|cleanup_old_metrics|run_retention_step)'`,
    );
    expect(rows.map(({ proname }) => proname).filter((name) => name !== "check_setup")).toEqual([]);

    await fillDays(query, 3);
    const partitions = async () =>
      (await asOwner<{ name: string }>(
        "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'monitor.metric_time_series'::regclass",
      )).rows.map(({ name }) => name);
    const before = await partitions();
    await rpc(query, "run_data_retention_cleanup", { p_now: iso(NOON + 30 * DAY) });
    for (const name of await partitions()) expect(before).toContain(name);
  });

  it("is for service_role", async ({ asUser, asAnon }) => {
    for (const somebody of [asUser(""), asAnon]) {
      await expect(clean(somebody)).rejects.toMatchObject({ code: "42501" });
    }
  });
});

describe("monitor.cleanup_evidence()", () => {
  const evidence = (query: Query, args: object = {}) =>
    cleanUp(query, "cleanup_evidence", { ...args });

  async function readTimes(query: Query) {
    const { rows } = await query<{ at: string }>(
      "select monitor.epoch_ms(recorded_at) as at from monitor.evidence_samples order by 1",
    );
    return rows.map(({ at }) => Number(at));
  }

  it("completes the evidence of what ended lately with the 2 hours after it", async ({ query }) => {
    await openDays(query, NOON - DAY, 2);
    const end = NOON - 3 * HOUR;
    const series = await addAnySeries(query, [[end, 1], [end + HOUR, 2], [end + 2 * HOUR, 3], [
      end + 2 * HOUR + 1,
      4,
    ]]);
    await addAnomaly(query, series, {
      started_at: iso(end),
      ended_at: iso(end),
      ended_reason: "recovered",
    });
    expect(await evidence(query, { p_dry_run: true })).toMatchObject({
      outcome: "nothing", // was due to go
      counts: { copied: 3, deleted: 0 },
    });
    expect(await readTimes(query)).toEqual([]);
    expect(await evidence(query)).toMatchObject({
      outcome: "nothing",
      counts: { copied: 3, deleted: 0 },
      more: false,
    });
    expect(await readTimes(query)).toEqual([end, end + HOUR, end + 2 * HOUR]);
    expect(await evidence(query)).toMatchObject({ outcome: "nothing", counts: { copied: 0 } });
  });

  it("completes that of one that still lasts with the 2 hours after its start", async ({ query }) => {
    await openDays(query, NOON - DAY, 2);
    const start = NOON - 5 * HOUR;
    const series = await addAnySeries(query, [[start + HOUR, 1], [start + 2.5 * HOUR, 2], [
      NOON,
      3,
    ]]);
    await addAnomaly(query, series, { started_at: iso(start), last_seen_at: iso(NOON) });
    await evidence(query);
    expect(await readTimes(query)).toEqual([start + HOUR, NOON]);
  });

  it.for(
    [
      ["2 hours after the end", 2 * HOUR, 1],
      ["a moment earlier", 2 * HOUR - 1, 0],
      ["a moment before 3 days after it", 3 * DAY - 1, 1],
      ["3 days after it", 3 * DAY, 0],
    ] as const,
  )("looks at an anomaly %s: copies %i", async ([, age, copied], { query }) => {
    await openDays(query, NOON - 4 * DAY, 5);
    const series = await addAnySeries(query, [[NOON - age, 1]]);
    await addAnomaly(query, series, {
      started_at: iso(NOON - age),
      ended_at: iso(NOON - age),
      ended_reason: "recovered",
    });
    expect((await evidence(query)).counts.copied).toBe(copied);
  });

  it("deletes what has lost its owner, at most p_limit, oldest first, and nothing else", async ({ query }) => {
    const series = await addAnySeries(query);
    const alive = await addAnomaly(query, series, { started_at: iso(NOON - 9 * DAY) });
    const { rows: [incident] } = await query(
      "insert into monitor.incidents (title, severity) values ('a', 'P1') returning incident_id as id",
    );
    const add = (kind: string, owner: unknown, at: number) =>
      query(
        "insert into monitor.evidence_samples (owner_kind, owner_id, series_id, recorded_at, value) values ($1, $2, $3, $4, 1)",
        [kind, owner, series, iso(at)],
      );
    await add("anomaly", alive, NOON - 9 * DAY);
    await add("incident", incident!.id, NOON - 8 * DAY);
    await add("incident", -1, NOON - 3);
    await add("anomaly", -1, NOON - 1);
    await add("anomaly", -1, NOON - 2);

    expect(await evidence(query, { p_dry_run: true })).toMatchObject({
      counts: { deleted: 3 },
      more: false,
    });
    expect(await evidence(query, { p_limit: 2 })).toMatchObject({
      counts: { deleted: 2 },
      more: true,
    });
    expect(await readTimes(query)).toEqual([NOON - 9 * DAY, NOON - 8 * DAY, NOON - 1]);
    expect(await evidence(query, { p_limit: 2 })).toMatchObject({
      counts: { deleted: 1 },
      more: false,
      oldest_kept_at: "2026-03-01T12:00:00+00:00",
    });
    expect(await evidence(query)).toMatchObject({ outcome: "nothing" });
  });

  it("keeps it while its owner is in the archive, also when other evidence goes", async ({ query }) => {
    await openDays(query, NOON - 40 * DAY);
    const series = await addAnySeries(query, [[NOON - 40 * DAY, 1]]);
    const anomaly = await addAnomaly(query, series, { started_at: iso(NOON - 40 * DAY) });
    await rpc(query, "copy_evidence", { p_anomaly_id: anomaly });
    await cleanUp(query, "cleanup_old_anomalies");
    expect(await evidence(query)).toMatchObject({ outcome: "nothing" });
    await query(
      "insert into monitor.evidence_samples (owner_kind, owner_id, series_id, recorded_at, value) values ('anomaly', -1, $1, $2, 1)",
      [series, iso(NOON)],
    );
    expect(await evidence(query)).toMatchObject({ outcome: "done", counts: { deleted: 1 } });
    expect(await readTimes(query)).toEqual([NOON - 40 * DAY]);
    await query("delete from monitor.anomaly_detections_archive");
    expect(await evidence(query)).toMatchObject({ outcome: "done", counts: { deleted: 1 } });
  });
});
