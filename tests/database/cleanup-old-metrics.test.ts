import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc, waitUntilBlocking } from "./database.ts";
import {
  addAnomaly,
  addMetric,
  addSeries,
  DAY,
  HOUR,
  iso,
  MIDNIGHT,
  NOON,
  openDays,
  range,
} from "./seeds.ts";
import {
  addAnySeries,
  cleanUp,
  compact,
  compactAll,
  digestTables,
  RETENTION_DAYS,
  waitLonger,
} from "./retention.ts";

const clean = (query: Query, args: object = {}) =>
  cleanUp(query, "cleanup_old_metrics", { ...args });

/** The day `n` days before that of noon. */
const day = (n: number) => iso(NOON - n * DAY).slice(0, 10);

/** The Monday before noon, a day earlier: as of noon, what was before it is in chunks and what came since in rows. */
const MONDAY = MIDNIGHT - DAY;
/** The days from the Monday `first` weeks before that of noon until the one `last` weeks before it. */
const daysOfWeeks = (first: number, last = first - 1) =>
  range((first - last) * 7).map((n) => day(1 + first * 7 - n));

/** Opens the days of the `weeks` weeks before that of noon, and of it until noon, with a sample at noon of each. */
async function fillRows(query: Query, weeks: number) {
  const count = weeks * 7 + 2;
  const first = NOON - DAY - weeks * 7 * DAY;
  await openDays(query, first, count);
  return addAnySeries(query, range(count).map((n) => [first + n * DAY, count - 1 - n] as const));
}

/** As fillRows, and compacts what can be: whole weeks are in chunks, Monday and Tuesday of this one in rows. */
async function fillWeeks(query: Query, weeks: number) {
  const series = await fillRows(query, weeks);
  await compactAll(query);
  return series;
}

async function readDays(query: Query, state = "chunks") {
  const { rows } = await query<{ day: string }>(
    "select day::text from monitor.sample_days where state = $1 and day <= $2::timestamptz order by day",
    [state, iso(NOON)],
  );
  return rows.map((row) => row.day);
}

const exists = async (query: Query, partition: string) =>
  (await query<{ is: boolean }>("select to_regclass('monitor.' || $1) is not null as is", [
    partition,
  ])).rows[0]!.is;

async function readValues(query: Query, series: number) {
  const { rows } = await query<{ value: number }>(
    "select unnest(samples) as value from monitor.scan_series(array[$1::integer], '2025-01-01', '2027-01-01')",
    [series],
  );
  return rows.map(({ value }) => value);
}

describe("monitor.cleanup_old_metrics()", () => {
  it("drops whole ISO weeks that ended before the limit, with all that is in them", async ({ query, asOwner }) => {
    const series = await fillWeeks(query, 3);
    expect(await clean(query, { retention_days: 8 })).toEqual({
      entity: "metric_chunks",
      outcome: "done",
      counts: { weeks: 2, days: 14, samples: 14, shed_days: 0, contended: 0 },
      oldest_kept_at: "2026-03-02T00:00:00+00:00",
      more: false,
      duration_seconds: expect.any(Number),
      detail: null,
    });
    expect(await readDays(query)).toEqual(daysOfWeeks(1));
    expect(await readDays(query, "dropped")).toEqual(daysOfWeeks(3, 1));
    expect(await readDays(query, "rows")).toEqual([day(1), day(0)]);
    expect(await readValues(query, series)).toEqual([8, 7, 6, 5, 4, 3, 2, 1, 0]);
    for (const week of ["08", "09"]) {
      expect(await exists(asOwner, `metric_chunks_2026w${week}`)).toBe(false);
    }
    expect(await exists(asOwner, "metric_chunks_2026w10")).toBe(true);
    const { rows } = await query("select distinct day::text from monitor.chunk_times order by 1");
    expect(rows.map((row) => row.day)).toEqual(daysOfWeeks(1));
  });

  it.for(
    [
      ["a moment before midnight", MIDNIGHT - 1, 1],
      ["at midnight", MIDNIGHT, 0],
      ["a moment before the next midnight", MIDNIGHT + DAY - 1, 0],
      ["six days later", MIDNIGHT + 6 * DAY, 0],
    ] as const,
  )("rounds the cut-off down to midnight UTC: %s", async ([, now, kept], { query }) => {
    await fillWeeks(query, 2);
    await query("set local timezone to 'Pacific/Auckland'");
    await clean(query, { retention_days: 1, p_now: iso(now) });
    expect(await readDays(query)).toEqual(daysOfWeeks(kept, 0));
  });

  it("keeps 30 days when nothing else is said", async ({ query }) => {
    await fillWeeks(query, 6);
    expect(await clean(query)).toMatchObject({ counts: { weeks: 1 } }); // ended 36 days ago
    expect(await readDays(query)).toEqual(daysOfWeeks(5, 0));
    expect(await clean(query, { p_now: iso(MIDNIGHT + DAY - 1) })).toMatchObject({
      counts: { weeks: 0 }, // the next one's last moment is not so old
    });
    expect(await clean(query, { p_now: iso(MIDNIGHT + DAY) })).toMatchObject({
      counts: { weeks: 1 },
    });
  });

  it("says nothing when nothing is due", async ({ query }) => {
    await fillWeeks(query, 2);
    expect(await clean(query)).toMatchObject({
      outcome: "nothing",
      counts: { weeks: 0, days: 0, samples: 0, shed_days: 0 },
      oldest_kept_at: `${day(15)}T00:00:00+00:00`,
      more: false,
      detail: null,
    });
  });

  it("drops at most p_limit weeks a call, oldest first, and says that there is more", async ({ query }) => {
    await fillWeeks(query, 4);
    const next = () => clean(query, { retention_days: 1, p_limit: 2 });
    expect(await next()).toMatchObject({ outcome: "done", counts: { weeks: 2 }, more: true });
    expect(await readDays(query, "dropped")).toEqual(daysOfWeeks(4, 2));
    expect(await next()).toMatchObject({ counts: { weeks: 2 }, more: false });
    expect(await next()).toMatchObject({ outcome: "nothing", more: false });
  });

  it("changes nothing in a dry run, and says all that would go and what would be left", async ({ query, asSuperuser }) => {
    await fillWeeks(query, 3);
    const before = await digestTables(asSuperuser);
    expect(await clean(query, { retention_days: 8, p_limit: 1, p_dry_run: true })).toMatchObject({
      outcome: "done",
      counts: { weeks: 2, days: 14, shed_days: 0, contended: 0 },
      oldest_kept_at: "2026-03-02T00:00:00+00:00",
      more: false,
    });
    expect(await digestTables(asSuperuser)).toEqual(before);
  });

  it("marks a day with when it went, closes it to samples, and does not count it again", async ({ query }) => {
    await fillWeeks(query, 1);
    await clean(query, { retention_days: 1 });
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
    const metric = await addMetric(query, { is_ingestible: true });
    expect(
      await rpc(query, "ingest_samples", {
        p_series: [{ metric, labels: {}, kind: "gauge" }],
        p_positions: "{1}",
        p_times: `{${NOON - 3 * DAY}}`,
        p_values: "{1}",
        p_now: iso(NOON),
      }),
    ).toMatchObject({ inserted: 0, rejected: [{ reason: "its day was dropped", count: 1 }] });
    expect(await clean(query, { retention_days: 1 })).toMatchObject({ outcome: "nothing" });
  });

  describe("holds a week", () => {
    const HELD = { outcome: "held", counts: { weeks: 0, held: 1 }, more: false };

    it("until all its days are in chunks and their rows gone", async ({ query }) => {
      await fillRows(query, 1);
      const states: Record<string, number> = {};
      let now = NOON;
      for (let outcome = "done"; outcome !== "nothing";) {
        if ((await readDays(query)).length < 7 || outcome === "held") {
          expect(await clean(query, { retention_days: 1, p_now: iso(now) })).toMatchObject({
            ...HELD,
            detail: "the week of 2026-03-02 is being compacted",
          });
        }
        ({ outcome } = await compact(query, { p_now: iso(now) }));
        states[outcome] = (states[outcome] ?? 0) + 1;
        if (outcome === "held") now += 60_000;
      }
      expect(states.held).toBeGreaterThan(0);
      expect(await clean(query, { retention_days: 1 })).toMatchObject({ counts: { weeks: 1 } });
    });

    it.for([1, 7])("that has one day left in rows, the %ith", async (n, { query, asOwner }) => {
      await fillWeeks(query, 1);
      await asOwner("update monitor.sample_days set state = 'rows' where day = $1", [day(1 + n)]);
      expect(await clean(query, { retention_days: 1 })).toMatchObject(HELD);
      expect(await clean(query, { retention_days: 1, p_dry_run: true })).toMatchObject(HELD);
    });

    it.for(
      [
        ["the first moment", MONDAY - 7 * DAY, true],
        ["the last moment", MONDAY - 1, true],
        ["a moment later", MONDAY, false],
        ["a moment earlier", MONDAY - 7 * DAY - 1, false],
      ] as const,
    )("with a late sample of %s that is not merged", async ([, at, isHeld], { query }) => {
      const series = await fillWeeks(query, 1);
      await query("insert into monitor.late_samples values ($1, $2, 9)", [series, iso(at)]);
      const answer = await clean(query, { retention_days: 1 });
      if (isHeld) {
        expect(answer).toMatchObject(HELD);
        await compactAll(query);
        expect(await clean(query, { retention_days: 1 })).toMatchObject({ counts: { weeks: 1 } });
      } else expect(answer).toMatchObject({ outcome: "done", counts: { weeks: 1 } });
    });

    it("but not those that are due with it", async ({ query, asOwner }) => {
      await fillWeeks(query, 3);
      await asOwner("update monitor.sample_days set state = 'sealed' where day = $1", [day(10)]);
      expect(await clean(query, { retention_days: 1 })).toMatchObject({
        outcome: "done",
        counts: { weeks: 2, held: 1 },
        oldest_kept_at: "2026-02-23T00:00:00+00:00",
      });
      expect(await readDays(query, "dropped")).toEqual([...daysOfWeeks(3), ...daysOfWeeks(1)]);
    });
  });

  it("leaves the hours of what it drops, and evidence", async ({ query }) => {
    const series = await fillWeeks(query, 1);
    const anomaly = await addAnomaly(query, series, { started_at: iso(NOON - 3 * DAY) });
    await rpc(query, "copy_evidence", { p_anomaly_id: anomaly });
    await clean(query, { retention_days: 1 });
    const { rows } = await query(
      "select recorded_at, value from monitor.evidence_samples where owner_id = $1",
      [anomaly],
    );
    expect(rows).toEqual([{ recorded_at: new Date(NOON - 3 * DAY), value: 3 }]);
    const { rows: rollups } = await query(
      "select day::text from monitor.metric_rollups order by 1",
    );
    expect(rollups.map((row) => row.day)).toEqual(daysOfWeeks(1));
  });

  it.for(RETENTION_DAYS)(
    "takes retention_days of %s: %s",
    async ([retention_days, isTaken], { query }) => {
      const answer = clean(query, { retention_days, p_dry_run: true });
      if (isTaken) expect(await answer).toMatchObject({ entity: "metric_chunks" });
      else {await expect(answer).rejects.toMatchObject({
          code: "22023",
          hint: expect.stringContaining("keep"),
        });}
    },
  );

  it("refuses no time at all", async ({ query }) => {
    await expect(clean(query, { p_now: null })).rejects.toMatchObject({ code: "22023" });
  });

  it("gives way to others, loses nothing, and drops the week another time", async ({ ownDatabase }) => {
    const [session, reader] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(session);
    const series = await fillWeeks(query, 2);
    const before = await readValues(query, series);
    await reader.query("begin; select count(*) from monitor.metric_chunks");

    expect(await clean(query, { retention_days: 1 })).toMatchObject({
      outcome: "contended",
      counts: { weeks: 0, contended: 1 },
      oldest_kept_at: `${day(15)}T00:00:00+00:00`,
      more: false,
      detail: expect.stringContaining("the next run will try again"),
    });
    expect(await readDays(query)).toHaveLength(14);
    expect(await readValues(query, series)).toEqual(before);

    await reader.query("commit");
    expect(await clean(query, { retention_days: 1 })).toMatchObject({
      outcome: "done",
      counts: { weeks: 2 },
    });
  });

  it("waits for who brings late samples of the week, and keeps what he brought", async ({ ownDatabase }) => {
    const [session, writer] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(session);
    await fillWeeks(query, 1);
    const metric = await addMetric(query, { is_ingestible: true });
    await writer.query("begin");
    await rpc(queryOf(writer), "ingest_samples", {
      p_series: [{ metric, labels: {}, kind: "gauge" }],
      p_positions: "{1}",
      p_times: `{${NOON - 3 * DAY}}`,
      p_values: "{1}",
      p_now: iso(NOON),
    });
    expect(await clean(query, { retention_days: 1 })).toMatchObject({ outcome: "contended" });
    const second = clean(query, { retention_days: 1 }); // looked before the sample was there
    await writer.query("commit");
    expect(await second).toMatchObject({ outcome: "held", counts: { weeks: 0, held: 1 } });
    await compactAll(query);
    expect(await clean(query, { retention_days: 1 })).toMatchObject({ counts: { weeks: 1 } });
    const { rows } = await query("select from monitor.late_samples");
    expect(rows).toEqual([]);
  });

  it("comes to the same end when two do it at once", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    await fillWeeks(queryOf(one), 2);
    await waitLonger(queryOf(await ownDatabase.connectAsOwner()), "cleanup_old_metrics");
    await one.query("begin");
    expect(await clean(queryOf(one), { retention_days: 1 })).toMatchObject({
      counts: { weeks: 2 },
    });
    const second = clean(queryOf(other), { retention_days: 1 });
    await waitUntilBlocking(queryOf(one));
    await one.query("commit");
    expect(await second).toMatchObject({ outcome: "nothing", counts: { weeks: 0 } });
  });

  it("leaves alone a week whose partition somebody dropped while it waited", async ({ ownDatabase }) => {
    const [session, owner] = [await ownDatabase.connect(), await ownDatabase.connectAsOwner()];
    const query = queryOf(session);
    await fillWeeks(query, 2);
    await waitLonger(queryOf(owner), "cleanup_old_metrics");
    await owner.query("begin");
    await owner.query("select monitor.hold_days(array[$1::date])", [day(15)]);
    const answer = clean(query, { retention_days: 1 });
    await waitUntilBlocking(queryOf(owner));
    await owner.query("drop table monitor.metric_chunks_2026w09; commit");
    expect(await answer).toMatchObject({
      outcome: "contended",
      counts: { weeks: 0, contended: 1 },
      detail: "another one is dropping weeks; the next run will go on",
    });
    expect(await readDays(query)).toEqual(daysOfWeeks(2, 0));
    expect(await clean(query, { retention_days: 1 })).toMatchObject({ counts: { weeks: 1 } });
  });

  it("creates no partition, as making days drops none: both in one transaction deadlock", async ({ query, asOwner }) => {
    const { rows } = await asOwner(
      `select proname from pg_proc where pronamespace = 'monitor'::regnamespace
         and prosrc ~ '(create table|ensure_sample_days|ensure_chunk_partitions|open_days)'
         and prosrc ~ '(drop table|compact_samples|cleanup_old_metrics|cleanup_old_rollups|run_retention_step)'`,
    );
    expect(rows.map(({ proname }) => proname).filter((name) => name !== "check_setup")).toEqual([]);

    await fillWeeks(query, 1);
    const partitions = async () =>
      (await asOwner<{ name: string }>("select inhrelid::regclass::text as name from pg_inherits"))
        .rows
        .map(({ name }) => name);
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

describe("a budget of p_keep_megabytes", () => {
  const KEEP = { retention_days: 1000 };
  const budget = (query: Query, p_keep_megabytes: number | null, args: object = {}) =>
    clean(query, { ...KEEP, p_keep_megabytes, ...args });

  /** Makes the schema take so many bytes, an SQL expression. What a week frees stays what it takes in truth. */
  async function setBytes(asOwner: Query, bytes: string) {
    await asOwner(`
      create or replace function monitor.monitor_bytes() returns bigint language sql stable set search_path = ''
      as $$ select (${bytes})::bigint $$`);
  }
  const weekBytes = async (asOwner: Query, week: string) =>
    Number(
      (await asOwner<{ bytes: string }>(
        `select pg_total_relation_size('monitor.metric_chunks_2026w${week}') as bytes`,
      )).rows[0]!.bytes,
    );

  it("predicts no younger week for one that is dropped meanwhile", async ({ ownDatabase }) => {
    const [session, owner] = [await ownDatabase.connect(), await ownDatabase.connectAsOwner()];
    const query = queryOf(session);
    await fillWeeks(query, 3);
    await setBytes(queryOf(owner), "5000001");
    await waitLonger(queryOf(owner), "cleanup_old_metrics");
    await owner.query("begin; drop table monitor.metric_chunks_2026w08");
    const answer = budget(query, 5, { p_dry_run: true });
    await waitUntilBlocking(queryOf(owner));
    await owner.query("commit");
    expect(await answer).toMatchObject({ counts: { weeks: 2, shed_days: 14 } });
  });

  it("sheds nothing for what another has freed while it waited", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const owner = queryOf(await ownDatabase.connectAsOwner());
    await fillWeeks(queryOf(one), 3);
    await setBytes(
      owner,
      "case when to_regclass('monitor.metric_chunks_2026w08') is null then 5000000 else 5000001 end",
    );
    await waitLonger(owner, "cleanup_old_metrics");
    await one.query("begin");
    expect(await budget(queryOf(one), 5)).toMatchObject({ counts: { weeks: 1, shed_days: 7 } });
    const second = budget(queryOf(other), 5);
    await waitUntilBlocking(queryOf(one));
    await one.query("commit");
    expect(await second).toMatchObject({ counts: { weeks: 0, shed_days: 0 } });
    expect(await readDays(queryOf(one), "dropped")).toEqual(daysOfWeeks(3, 2));
  });

  it.for(
    [
      ["exactly as much", "5000000", 0],
      ["a byte more", "5000001", 1],
      ["far more", "5000000000", 3],
    ] as const,
  )(
    "sheds nothing before %s than it is taken: %s bytes of 5 MB",
    async ([, bytes, weeks], { query, asOwner }) => {
      await fillWeeks(query, 3);
      await setBytes(asOwner, bytes);
      expect(await budget(query, 5)).toMatchObject({ counts: { weeks, shed_days: weeks * 7 } });
      expect(await readDays(query, "dropped")).toEqual(daysOfWeeks(3, 3 - weeks));
    },
  );

  it("drops the oldest week however young, says what went, and stops when it is met", async ({ query, asOwner }) => {
    await fillWeeks(query, 3);
    const size = await weekBytes(asOwner, "08");
    await setBytes(asOwner, `5000000 + ${size} + 1`);
    expect(await budget(query, 5)).toMatchObject({
      outcome: "done",
      counts: { weeks: 2, days: 14, shed_days: 14, samples: 14 },
      oldest_kept_at: "2026-03-02T00:00:00+00:00",
      more: false,
      detail: "over the budget of 5 MB: samples before 2026-03-02 were dropped before their time",
    });
    expect(await exists(asOwner, "metric_chunks_2026w09")).toBe(false); // it takes no day again
  });

  it("stops at the byte at which it is met", async ({ query, asOwner }) => {
    await fillWeeks(query, 3);
    const size = await weekBytes(asOwner, "08");
    await setBytes(asOwner, `5000000 + ${size}`);
    expect(await budget(query, 5)).toMatchObject({ counts: { weeks: 1, shed_days: 7 } });
  });

  it("counts what is too old by itself, and takes it first", async ({ query, asOwner }) => {
    await fillWeeks(query, 3);
    await setBytes(asOwner, "5000000000");
    expect(await budget(query, 5, { retention_days: 15, p_limit: 2 })).toMatchObject({
      counts: { weeks: 2, days: 14, shed_days: 14 - 7 },
      more: true,
    });
  });

  it("predicts in a dry run what the real one then does", async ({ query, asOwner, asSuperuser }) => {
    await fillWeeks(query, 3);
    await setBytes(asOwner, `5000001`);
    const before = await digestTables(asSuperuser);
    const predicted = await budget(query, 5, { p_dry_run: true });
    expect(await digestTables(asSuperuser)).toEqual(before);
    const done = await budget(query, 5);
    expect({ ...predicted, duration_seconds: 0 }).toEqual({
      ...done,
      duration_seconds: 0,
      counts: { ...done.counts, samples: 0 }, // a dry run reads none
    });
  });

  it("never drops rows, and says when it is not met", async ({ query, asOwner }) => {
    const series = await fillWeeks(query, 1);
    await setBytes(asOwner, "12000001");
    expect(await budget(query, 5)).toMatchObject({
      outcome: "done",
      counts: { weeks: 1, held: 1 },
      detail: expect.stringMatching(
        /before 2026-03-09 were dropped.*; 7 MB over the budget of 5 MB, and no week of chunks is left to drop$/,
      ),
    });
    expect(await budget(query, 5)).toMatchObject({
      outcome: "held",
      counts: { weeks: 0, held: 1, shed_days: 0 },
      more: false,
      detail: "8 MB over the budget of 5 MB, and no week of chunks is left to drop",
    });
    expect(await readValues(query, series)).toEqual([1, 0]);
    expect(await readDays(query, "rows")).toEqual([day(1), day(0)]);
  });

  it.for(
    [
      ["is due, but in rows", 0],
      ["is sealed", 1],
      ["is in chunks, but has its rows yet", 2],
    ] as const,
  )(
    "sheds nothing while a day %s: it will take a twentieth of the space",
    async ([, steps], { query, asOwner }) => {
      const at = MONDAY + 4 * DAY;
      await openDays(query, MONDAY - 7 * DAY, 14);
      await addAnySeries(query, range(14).map((n) => [MONDAY + (n - 7) * DAY, n] as const));
      await compactAll(query, { now: at - DAY });
      await setBytes(asOwner, "5000000000");
      for (let step = 0; step < steps; step += 1) await compact(query, { p_now: iso(at) });
      expect(await budget(query, 5, { p_now: iso(at) })).toMatchObject({
        outcome: "held",
        counts: { weeks: 0, shed_days: 0 },
        detail: expect.stringContaining("days are still to be compacted"),
      });
      await compactAll(query, { now: at });
      expect(await budget(query, 5, { p_now: iso(at) })).toMatchObject({
        counts: { shed_days: 7 + 3 },
      });
    },
  );

  it("empties the week that goes on, which takes its later days again", async ({ query, asOwner }) => {
    const at = MONDAY + 4 * DAY; // Friday: Monday to Wednesday are compacted
    await openDays(query, MONDAY, 7);
    const series = await addAnySeries(query, range(7).map((n) => [MONDAY + n * DAY, n] as const));
    await compactAll(query, { now: at });
    await setBytes(asOwner, "5000000000");
    expect(await budget(query, 5, { p_now: iso(at) })).toMatchObject({
      counts: { weeks: 1, days: 3, shed_days: 3 },
    });
    expect(await exists(asOwner, "metric_chunks_2026w11")).toBe(true);
    expect(await readValues(query, series)).toEqual([3, 4, 5, 6]);
    await compactAll(query, { now: at + 2 * DAY });
    expect(await readValues(query, series)).toEqual([3, 4, 5, 6]);
    expect(await budget(query, 5, { p_now: iso(at + 2 * DAY) })).toMatchObject({
      counts: { days: 2, shed_days: 2 },
    });
    expect(await readValues(query, series)).toEqual([5, 6]);
    await compactAll(query, { now: at + 30 * DAY });
    expect(await budget(query, 5, { p_now: iso(at + 30 * DAY) })).toMatchObject({
      counts: { days: 2, shed_days: 2 },
    });
    expect(await exists(asOwner, "metric_chunks_2026w11")).toBe(false);
  });

  it("sheds no younger week in the place of one that is busy", async ({ query, asOwner }) => {
    const series = await fillWeeks(query, 2);
    await query("insert into monitor.late_samples values ($1, $2, 9)", [
      series,
      iso(NOON - 10 * DAY),
    ]);
    await setBytes(asOwner, "5000000000");
    expect(await budget(query, 5)).toMatchObject({
      outcome: "held",
      counts: { weeks: 0, held: 1 },
      detail: "the week of 2026-02-23 is being compacted",
    });
    await compactAll(query);
    expect(await budget(query, 5)).toMatchObject({ counts: { weeks: 2 } });
  });

  it("gives way to readers, and is met another time", async ({ ownDatabase }) => {
    const [session, reader, owner] = [
      await ownDatabase.connect(),
      await ownDatabase.connect(),
      await ownDatabase.connectAsOwner(),
    ];
    const query = queryOf(session);
    await fillWeeks(query, 1);
    await setBytes(queryOf(owner), "5000000000");
    await reader.query("begin; select count(*) from monitor.metric_chunks");
    expect(await budget(query, 5)).toMatchObject({
      outcome: "contended",
      counts: { shed_days: 0, contended: 1 },
      detail: expect.stringContaining("the next run will try again"),
    });
    await reader.query("commit");
    expect(await budget(query, 5)).toMatchObject({ counts: { shed_days: 7 } });
  });

  it.for([[-1, false], [0, false], [1, true], [null, true]] as const)(
    "of %s is taken: %s",
    async ([megabytes, isTaken], { query }) => {
      const answer = budget(query, megabytes, { p_dry_run: true });
      if (isTaken) expect(await answer).toMatchObject({ entity: "metric_chunks" });
      else await expect(answer).rejects.toMatchObject({ code: "22023", hint: expect.any(String) });
    },
  );

  it("is measured by all that the schema takes, with indexes and TOAST", async ({ query, asOwner }) => {
    const { rows: [size] } = await asOwner<{ bytes: string }>(
      `select sum(pg_total_relation_size(oid)) as bytes from pg_class
       where relnamespace = 'monitor'::regnamespace and relkind = 'r'`,
    );
    expect(Number(await rpc(query, "monitor_bytes"))).toBe(Number(size!.bytes));
  });

  it("is that of the policy, is recorded, and is seen in health for a week", async ({ query, asOwner }) => {
    await fillWeeks(query, 1);
    await setBytes(asOwner, "5000000000");
    await query(
      "update monitor.retention_policies set keep_megabytes = 5 where entity = 'metric_chunks'",
    );
    const storage = async (at: number) =>
      (await rpc<{ storage: object }>(query, "read_health", { p_now: iso(at) })).storage;
    expect(await storage(NOON)).toMatchObject({ budget_bytes: 5_000_000, shed: null });
    await rpc(query, "run_retention_step", { p_entity: "metric_chunks", p_now: iso(NOON) });
    const { rows } = await query(
      "select outcome, counts, detail from monitor.retention_runs where entity = 'metric_chunks'",
    );
    expect(rows).toMatchObject([{ outcome: "done", counts: { shed_days: 7 } }]);
    const shed = { at: "2026-03-10T12:00:00+00:00", detail: rows[0]!.detail };
    // Later runs that shed nothing do not hide it.
    await rpc(query, "run_retention_step", { p_entity: "metric_chunks", p_now: iso(NOON + HOUR) });
    expect(await storage(NOON + 7 * DAY - 1)).toMatchObject({ shed });
    expect(await storage(NOON + 7 * DAY)).toMatchObject({ shed: null });
    await query(
      "update monitor.retention_policies set keep_megabytes = null where entity = 'metric_chunks'",
    );
    expect(await storage(NOON)).toMatchObject({ budget_bytes: null });
  });
});

describe("monitor.cleanup_old_rollups()", () => {
  const cleanRollups = (query: Query, args: object = {}) =>
    cleanUp(query, "cleanup_old_rollups", { ...args });
  const readMonths = async (asOwner: Query) =>
    (await asOwner<{ month: string }>(
      `select right(inhrelid::regclass::text, 6) as month from pg_inherits
       where inhparent = 'monitor.metric_rollups'::regclass order by 1`,
    )).rows.map(({ month }) => month).filter((month) => month < "202604");

  /** Months with a partition, whose samples are gone. */
  async function fillMonths(asOwner: Query, months: readonly string[]) {
    for (const month of months) {
      await rpc(asOwner, "ensure_chunk_partitions", { p_day: `${month}-15` });
      await asOwner(
        "insert into monitor.metric_rollups (series_id, day, hours, sample_count, floats) values (1, $1, 1, 1, '{1,1,1,1,1}')",
        [`${month}-15`],
      );
    }
  }

  it("drops whole months that ended before the limit", async ({ query, asOwner }) => {
    await fillMonths(asOwner, ["2025-12", "2026-01", "2026-02", "2026-03"]);
    expect(await cleanRollups(query, { retention_days: 10 })).toEqual({
      entity: "metric_rollups",
      outcome: "done",
      counts: { months: 2, contended: 0 },
      oldest_kept_at: "2026-02-01T00:00:00+00:00",
      more: false,
      duration_seconds: expect.any(Number),
      detail: null,
    });
    expect(await readMonths(asOwner)).toEqual(["202602", "202603"]);
  });

  it.for(
    [
      [MIDNIGHT - 1, ["202602", "202603"]],
      [MIDNIGHT, ["202603"]],
    ] as const,
  )("rounds the cut-off down to midnight UTC: %i", async ([now, months], { query, asOwner }) => {
    await fillMonths(asOwner, ["2026-02", "2026-03"]);
    await query("set local timezone to 'Pacific/Auckland'");
    await cleanRollups(query, { retention_days: 9, p_now: iso(now) });
    expect(await readMonths(asOwner)).toEqual(months);
  });

  it("keeps 400 days when nothing else is said", async ({ query, asOwner }) => {
    await fillMonths(asOwner, ["2025-01", "2025-02"]); // 400 days ago is 3 February 2025
    expect(await cleanRollups(query)).toMatchObject({ counts: { months: 1 } });
    expect(await readMonths(asOwner)).toEqual(["202502"]);
  });

  it("drops at most p_limit a call, oldest first, and predicts all in a dry run", async ({ query, asOwner }) => {
    await fillMonths(asOwner, ["2025-11", "2025-12", "2026-01"]);
    expect(await cleanRollups(query, { retention_days: 9, p_limit: 2, p_dry_run: true }))
      .toMatchObject({ counts: { months: 3 }, more: false });
    expect(await readMonths(asOwner)).toHaveLength(3);
    expect(await cleanRollups(query, { retention_days: 9, p_limit: 2 })).toMatchObject({
      counts: { months: 2 },
      more: true,
    });
    expect(await readMonths(asOwner)).toEqual(["202601"]);
    expect(await cleanRollups(query, { retention_days: 9, p_limit: 2 })).toMatchObject({
      more: false,
    });
  });

  it("holds a month of which samples are kept, or are yet to be compacted", async ({ query, asOwner }) => {
    await openDays(query, NOON - 10 * DAY); // 28 February
    await addSeries(query, await addMetric(query), [[NOON - 10 * DAY, 1]]);
    const HELD = { outcome: "held", counts: { months: 0, held: 1 } };
    expect(await cleanRollups(query, { retention_days: 1 })).toMatchObject(HELD);
    await compactAll(query);
    expect(await cleanRollups(query, { retention_days: 1, p_dry_run: true })).toMatchObject(HELD);
    expect(await cleanRollups(query, { retention_days: 1 })).toMatchObject(HELD);
    await clean(query, { retention_days: 1 });
    expect(await cleanRollups(query, { retention_days: 1 })).toMatchObject({
      counts: { months: 1 },
    });
    expect(await readMonths(asOwner)).toEqual([]);
  });

  it("goes on with the next month when another one has dropped the one it waited for", async ({ ownDatabase }) => {
    const [one, other, owner] = [
      await ownDatabase.connect(),
      await ownDatabase.connect(),
      await ownDatabase.connectAsOwner(),
    ];
    await fillMonths(queryOf(owner), ["2025-11", "2025-12", "2026-01"]);
    await waitLonger(queryOf(owner), "cleanup_old_rollups");
    await one.query("begin");
    expect(await cleanRollups(queryOf(one), { retention_days: 9, p_limit: 2 })).toMatchObject({
      counts: { months: 2 },
    });
    const second = cleanRollups(queryOf(other), { retention_days: 9, p_limit: 1 });
    await waitUntilBlocking(queryOf(one));
    await one.query("commit");
    expect(await second).toMatchObject({
      outcome: "done",
      counts: { months: 1, contended: 0 },
      more: false,
    });
    expect(await readMonths(queryOf(owner))).toEqual([]);
  });

  it("gives way to readers, and drops it another time", async ({ ownDatabase }) => {
    const [session, reader, owner] = [
      await ownDatabase.connect(),
      await ownDatabase.connect(),
      await ownDatabase.connectAsOwner(),
    ];
    await fillMonths(queryOf(owner), ["2025-12"]);
    await reader.query("begin; select count(*) from monitor.metric_rollups");
    expect(await cleanRollups(queryOf(session), { retention_days: 9 })).toMatchObject({
      outcome: "contended",
      counts: { months: 0, contended: 1 },
      more: false,
    });
    await reader.query("commit");
    expect(await cleanRollups(queryOf(session), { retention_days: 9 })).toMatchObject({
      outcome: "done",
    });
  });

  it.for(RETENTION_DAYS)(
    "takes retention_days of %s: %s",
    async ([retention_days, isTaken], { query }) => {
      const answer = cleanRollups(query, { retention_days, p_dry_run: true });
      if (isTaken) expect(await answer).toMatchObject({ entity: "metric_rollups" });
      else await expect(answer).rejects.toMatchObject({ code: "22023" });
    },
  );

  it("is for service_role", async ({ asUser, asAnon }) => {
    for (const somebody of [asUser(""), asAnon]) {
      await expect(cleanRollups(somebody)).rejects.toMatchObject({ code: "42501" });
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
