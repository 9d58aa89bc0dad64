import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import fc from "fast-check";
import pg from "pg";
import { describe, expect } from "vitest";
import { applyMigrations, startDatabase } from "../../local/database.ts";
import { it, type Query, queryOf, rpc, waitUntilBlocking } from "./database.ts";
import { compact, compactAll, waitLonger } from "./retention.ts";
import {
  addMetric,
  addSeries,
  DAY,
  HOUR,
  iso,
  MIDNIGHT,
  MINUTE,
  NOON,
  openDays,
  range,
  SECOND,
} from "./seeds.ts";
import { killServer } from "./kill-server.ts";

/** The newest day that is compacted as of noon: yesterday and today stay in rows. */
const CLOSED = MIDNIGHT - 2 * DAY;
const partitionOf = (at: number) =>
  `monitor.metric_time_series_${iso(at).slice(0, 10).replaceAll("-", "")}`;

type Sample = readonly [number, number];

/** Every sample of `metric`, by label `n`, as the API shows them. */
async function readAll(
  query: Query,
  metric: string,
  from = CLOSED - 10 * DAY,
  until = NOON + DAY,
): Promise<Record<string, Sample[]>> {
  const found: Record<string, Sample[]> = {};
  for (let after: number | null = 0; after !== null;) {
    const page: {
      series: { labels: { n?: string }; times: number[]; values: number[] }[];
      next_series_id: number | null;
    } = await rpc(query, "read_samples", {
      p_matchers: [{ name: "__name__", op: "=", value: metric }],
      p_from: iso(from),
      p_until: iso(until),
      p_after_series_id: after,
    });
    for (const { labels, times, values } of page.series) {
      found[labels.n ?? ""] = times.map((at, index) => [at, values[index]!]);
    }
    after = page.next_series_id;
  }
  return found;
}

async function readDay(query: Query, at = CLOSED) {
  const { rows: [day] } = await query<{
    state: string;
    sample_count: string | null;
    compacted_series_id: number | null;
  }>(
    `select state, sample_count, compacted_series_id from monitor.sample_days where day = $1`,
    [iso(at).slice(0, 10)],
  );
  return day && { ...day, sample_count: Number(day.sample_count) };
}

const exists = async (query: Query, relation: string) =>
  (await query<{ is: boolean }>("select to_regclass($1) is not null as is", [relation])).rows[0]!
    .is;

const count = async (query: Query, relation: string) =>
  (await query<{ n: number }>(`select count(*)::int as n from ${relation}`)).rows[0]!.n;

/** `count` samples a minute apart from the start of the day of `at` on. */
const minutes = (count: number, at = CLOSED): Sample[] =>
  range(count).map((n) => [at + n * MINUTE, n / 4]);

/** Sends one sample as a sender does. */
const send = (query: Query, metric: string, at: number, value: number, labels: object = {}) =>
  rpc<{ inserted: number; duplicates: number; rejected: unknown[] }>(query, "ingest_samples", {
    p_series: [{ metric, labels, kind: "gauge" }],
    p_positions: "{1}",
    p_times: `{${at}}`,
    p_values: `{${value}}`,
    p_now: iso(NOON),
  });

const addSentMetric = (query: Query) => addMetric(query, { is_ingestible: true });

describe("monitor.compact_samples()", () => {
  it("takes a day in three steps, and its rows a minute later", async ({ query, asOwner }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    await addSeries(query, metric, minutes(10));
    const before = await readAll(query, metric);

    expect(await compact(query)).toEqual({
      entity: "metric_time_series",
      outcome: "done",
      counts: { days_sealed: 1, contended: 0 },
      oldest_kept_at: "2026-03-08T00:00:00+00:00",
      more: true,
      duration_seconds: expect.any(Number),
      detail: null,
    });
    expect(await readDay(query)).toEqual({
      state: "sealed",
      sample_count: 0,
      compacted_series_id: null,
    });
    expect(await readAll(query, metric)).toEqual(before);

    expect(await compact(query)).toMatchObject({
      outcome: "done",
      counts: { samples: 10, days_compacted: 1 },
      more: true,
    });
    expect(await readDay(query)).toMatchObject({ state: "chunks", sample_count: 10 });
    expect(await readAll(query, metric)).toEqual(before);

    for (const wait of [0, MINUTE - 1]) {
      expect(await compact(query, { p_now: iso(NOON + wait) })).toMatchObject({
        outcome: "held",
        counts: { held_by_readers: 1 },
        more: true,
      });
      expect(await exists(asOwner, partitionOf(CLOSED))).toBe(true);
    }
    expect(await compact(query, { p_now: iso(NOON + MINUTE) })).toMatchObject({
      outcome: "done",
      counts: { days_dropped: 1 },
    });
    expect(await exists(asOwner, partitionOf(CLOSED))).toBe(false);
    expect(await readAll(query, metric)).toEqual(before);
    expect(await compact(query, { p_now: iso(NOON + MINUTE) })).toMatchObject({
      outcome: "nothing",
      counts: { contended: 0 },
      oldest_kept_at: "2026-03-09T00:00:00+00:00",
      more: false,
    });
  });

  it.for(
    [
      [1, NOON, 3],
      [2, NOON, 2],
      [3, NOON, 1],
      [4, NOON, 0],
      [2, MIDNIGHT, 2],
      [2, MIDNIGHT - 1, 1],
      [2, MIDNIGHT + DAY - 1, 2],
      [2, MIDNIGHT + DAY, 3],
    ] as const,
  )(
    "keeps %i days in rows as of %i, in UTC: compacts %i",
    async ([p_keep_days, at, days], { query }) => {
      await openDays(query, MIDNIGHT - 3 * DAY, 5);
      await query("set local timezone to 'Pacific/Auckland'");
      expect(await compact(query, { p_keep_days, p_now: iso(at), p_dry_run: true })).toMatchObject({
        outcome: days > 0 ? "done" : "nothing",
        counts: { days },
      });
      for (let outcome = "done"; outcome === "done";) {
        ({ outcome } = await compact(query, { p_keep_days, p_now: iso(at) }));
      }
      const { rows } = await query("select from monitor.sample_days where state = 'chunks'");
      expect(rows).toHaveLength(days);
    },
  );

  it("changes nothing in a dry run", async ({ query }) => {
    await openDays(query, CLOSED - DAY, 4);
    const metric = await addMetric(query);
    await addSeries(query, metric, minutes(3));
    const state = async () => (await query("select * from monitor.sample_days order by day")).rows;
    for (const sealed of range(6)) {
      const before = await state();
      await compact(query, { p_dry_run: true, p_now: iso(NOON + sealed * MINUTE) });
      expect(await state()).toEqual(before);
      await compact(query, { p_now: iso(NOON + sealed * MINUTE) });
    }
  });

  it("tells in a dry run of late samples too", async ({ query }) => {
    await openDays(query, CLOSED, 3);
    const series = await addSeries(query, await addMetric(query), minutes(3));
    await compactAll(query);
    expect(await compact(query, { p_dry_run: true })).toMatchObject({
      outcome: "nothing",
      counts: { days: 0, contended: 0 },
    });
    await query("insert into monitor.late_samples values ($1, $2, 9)", [series, iso(CLOSED + 5)]);
    expect(await compact(query, { p_dry_run: true })).toMatchObject({
      outcome: "done",
      counts: { days: 0, late_samples_merged: 1 },
    });
    expect(await compact(query)).toMatchObject({ counts: { late_samples_merged: 1 } });
  });

  it("encodes about p_limit samples a call, and goes on where it stopped", async ({ query }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    for (const n of range(120)) {
      await addSeries(query, metric, minutes(3), { n: String(n) });
    }
    const before = await readAll(query, metric);
    await compact(query);
    const steps: number[] = [];
    for (let state = "sealed"; state === "sealed";) {
      const { counts } = await compact(query, { p_limit: 100 });
      steps.push(counts.samples!);
      expect(await readAll(query, metric)).toEqual(before);
      const day = await readDay(query);
      expect(day!.sample_count).toBe(steps.reduce((sum, n) => sum + n));
      expect(await count(query, "monitor.metric_chunks")).toBe(day!.sample_count! / 3);
      state = day!.state;
    }
    expect(steps.reduce((sum, n) => sum + n)).toBe(360);
    expect(steps.length).toBeGreaterThan(2);
    for (const step of steps) expect(step).toBeLessThanOrEqual(150); // what 50 series have
    await compactAll(query);
    expect(await readAll(query, metric)).toEqual(before);
  });

  it("takes one day after the other, oldest first, empty ones as well", async ({ query, asOwner }) => {
    await openDays(query, CLOSED - 2 * DAY, 5);
    const metric = await addMetric(query);
    await addSeries(query, metric, [...minutes(3, CLOSED - 2 * DAY), ...minutes(3)]);
    const before = await readAll(query, metric);
    const answers = await compactAll(query);
    expect(answers.flatMap(({ counts }) => counts.days_sealed ?? [])).toEqual([1, 1, 1]);
    expect(answers.flatMap(({ counts }) => counts.samples ?? [])).toEqual([3, 0, 3]);
    for (const age of [0, 1, 2]) {
      expect(await exists(asOwner, partitionOf(CLOSED - age * DAY))).toBe(false);
      expect(await readDay(query, CLOSED - age * DAY)).toMatchObject({ state: "chunks" });
    }
    expect(await readAll(query, metric)).toEqual(before);
  });

  it("shares the times of series that were measured together", async ({ query }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    for (const n of range(4)) await addSeries(query, metric, minutes(5), { n: String(n) });
    await addSeries(query, metric, minutes(4), { n: "other" });
    await compactAll(query);
    expect(await count(query, "monitor.chunk_times")).toBe(2);
  });

  it("takes rows of a series that nobody knows any more with it", async ({ query, asOwner }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    await addSeries(query, metric, minutes(3));
    await query(
      "insert into monitor.metric_time_series (series_id, recorded_at, value) values (2000000000, $1, 1)",
      [iso(CLOSED)],
    );
    await compactAll(query);
    expect(await exists(asOwner, partitionOf(CLOSED))).toBe(false);
    expect(await count(query, "monitor.metric_chunks")).toBe(2);
  });

  it("takes a day back whose rows are not as many as were found in chunks, and loses nothing", async ({ query, asOwner, asSuperuser }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    const series = await addSeries(query, metric, minutes(3));
    const insert = (at: number) =>
      asSuperuser(
        "insert into monitor.metric_time_series (series_id, recorded_at, value) values ($1, $2, 99)",
        [series, iso(at)],
      );
    await compact(query);
    await compact(query);
    await insert(CLOSED + HOUR);
    expect(await compact(query, { p_now: iso(NOON + MINUTE) })).toMatchObject({
      outcome: "done",
      counts: { days_taken_back: 1 },
      more: true,
      detail: "2026-03-08 has 4 rows of which 3 are in chunks; it is compacted again",
    });
    expect(await exists(asOwner, partitionOf(CLOSED))).toBe(true);
    await compactAll(query, { now: NOON + MINUTE });
    expect(await exists(asOwner, partitionOf(CLOSED))).toBe(false);
    expect(await readAll(query, metric)).toEqual({ "": [...minutes(3), [CLOSED + HOUR, 99]] });
    expect(await readDay(query)).toMatchObject({ state: "chunks", sample_count: 4 });
  });

  it("undoes the step in which a chunk does not give back its samples, and keeps the rows", async ({ query, asOwner }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    await addSeries(query, metric, minutes(3));
    await compact(query);
    // An encoder that is wrong in the last bit.
    await asOwner(
      `alter function monitor.encode_values(double precision[]) rename to encode_rightly`,
    );
    await asOwner(`
      create function monitor.encode_values(p_values double precision[], out scale smallint, out base bigint,
        out is_delta boolean, out plane_0 "char"[], out plane_1 "char"[], out plane_2 "char"[], out plane_3 "char"[],
        out floats double precision[]) language sql as $$
        select null::smallint, null::bigint, null::boolean, null::"char"[], null::"char"[], null::"char"[], null::"char"[],
          array(select value + 1e-15 from unnest(p_values) as value) $$`);
    await expect(compact(query)).rejects.toMatchObject({
      code: "XX001",
      hint: expect.stringContaining("Nothing is lost"),
    });
    expect(await readDay(query)).toMatchObject({ state: "sealed", sample_count: 0 });
    expect(await count(query, "monitor.metric_chunks")).toBe(0);
    expect(await readAll(query, metric)).toEqual({ "": minutes(3) });
    // The job tells of it and goes on with other entities.
    expect(
      await rpc(query, "run_retention_step", { p_entity: "metric_time_series", p_now: iso(NOON) }),
    ).toMatchObject({ outcome: "failed", detail: expect.stringContaining("XX001"), more: false });
  });

  it("tells zeros of different signs apart when it compares", async ({ query }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    const samples = [0, -0, 0].map((value, n) => [CLOSED + n, value] as const);
    await addSeries(query, metric, samples);
    await compactAll(query);
    const { "": found } = await readAll(query, metric);
    expect(found!.map(([, value]) => Object.is(value, -0))).toEqual([false, true, false]);
  });

  it.for(
    [
      [{ p_keep_days: 0 }, false],
      [{ p_keep_days: 1 }, true],
      [{ p_keep_days: 36_500 }, true],
      [{ p_keep_days: 36_501 }, false],
      [{ p_keep_days: null }, false],
      [{ p_limit: 0 }, false],
      [{ p_limit: 1 }, true],
      [{ p_limit: 10_000_000 }, true],
      [{ p_limit: 10_000_001 }, false],
      [{ p_limit: null }, false],
      [{ p_now: null }, false],
    ] as const,
  )("takes %o: %s", async ([args, isTaken], { query }) => {
    const answer = compact(query, args);
    if (isTaken) expect(await answer).toMatchObject({ entity: "metric_time_series" });
    else {await expect(answer).rejects.toMatchObject({
        code: "22023",
        hint: expect.stringMatching(/./),
      });}
  });

  it("is for service_role", async ({ asUser, asAnon }) => {
    for (const somebody of [asUser(""), asAnon]) {
      await expect(compact(somebody)).rejects.toMatchObject({ code: "42501" });
    }
  });

  it("keeps a range of any samples of any series bit for bit, before, during and after", async ({ ownDatabase }) => {
    const session = await ownDatabase.connect();
    const query = queryOf(session);
    await openDays(query, CLOSED - DAY, 4);
    const value = fc.oneof(
      fc.double({ noNaN: true, noDefaultInfinity: true }).filter((v) =>
        v === 0 || Math.abs(v) >= 1e-307
      ),
      fc.integer({ min: -1000, max: 1_000_000 }).map((n) => n / 100),
      fc.nat(100_000),
    );
    const sample = fc.tuple(fc.integer({ min: CLOSED - DAY, max: CLOSED + DAY - 1 }), value);
    const series = fc.uniqueArray(sample, { selector: ([at]) => at, minLength: 1, maxLength: 30 });
    await fc.assert(
      fc.asyncProperty(
        fc.array(series, { minLength: 1, maxLength: 6 }),
        fc.integer({ min: 1, max: 40 }),
        async (all, p_limit) => {
          await query("rollback; begin");
          const metric = await addMetric(query);
          for (const [n, samples] of all.entries()) {
            await addSeries(query, metric, samples, { n: String(n) });
          }
          const expected = Object.fromEntries(
            all.map((samples, n) => [n, samples.toSorted(([a], [b]) => a - b)]),
          );
          let at = NOON;
          for (let answer = await compact(query); answer.outcome !== "nothing";) {
            expect(await readAll(query, metric)).toEqual(expected);
            if (answer.outcome === "held") at += MINUTE;
            answer = await compact(query, { p_now: iso(at), p_limit });
          }
          expect(await readAll(query, metric)).toEqual(expected);
          expect(await count(query, "monitor.metric_time_series")).toBe(0);
        },
      ),
      { numRuns: 15 },
    );
  });
});

describe("late samples", () => {
  /** A day in each of its states, with samples at 0, 1 and 2 minutes. */
  async function fillDay(query: Query, state: "sealed" | "half" | "chunks" | "dropped") {
    await openDays(query, CLOSED, 3);
    const metric = await addSentMetric(query);
    await addSeries(query, metric, minutes(3));
    const other = await addSentMetric(query);
    await addSeries(query, other, minutes(1));
    await compact(query);
    if (state === "half") await compact(query, { p_limit: 1 });
    if (state === "chunks" || state === "dropped") await compact(query);
    if (state === "dropped") await compactAll(query);
    return metric;
  }

  it.for(["sealed", "half", "chunks", "dropped"] as const)(
    "of a day that is %s are taken, seen at once, and merged; duplicates never",
    async (state, { query }) => {
      const metric = await fillDay(query, state);
      const at = CLOSED + 90 * SECOND;
      expect(await send(query, metric, at, 7)).toMatchObject({ inserted: 1, rejected: [] });
      expect(await send(query, metric, at, 8)).toMatchObject({ inserted: 0, duplicates: 1 });
      expect(await send(query, metric, CLOSED + MINUTE, 9)).toMatchObject({
        inserted: 0,
        duplicates: 1,
      });
      const expected = {
        "": [[CLOSED, 0], [CLOSED + MINUTE, 0.25], [at, 7], [CLOSED + 2 * MINUTE, 0.5]],
      };
      expect(await readAll(query, metric)).toEqual(expected);
      expect(await count(query, "monitor.late_samples")).toBe(1);

      const answers = await compactAll(query);
      expect(answers.flatMap(({ counts }) => counts.late_samples_merged ?? [])).toEqual([1]);
      expect(await count(query, "monitor.late_samples")).toBe(0);
      expect(await readAll(query, metric)).toEqual(expected);
      expect(await send(query, metric, at, 8)).toMatchObject({ inserted: 0, duplicates: 1 });
      expect(await compact(query, { p_now: iso(NOON + HOUR) })).toMatchObject({
        outcome: "nothing",
      });
    },
  );

  it("make a chunk for a series that had none that day", async ({ query }) => {
    await fillDay(query, "dropped");
    const metric = await addSentMetric(query);
    await send(query, metric, CLOSED + HOUR, 3);
    await send(query, metric, CLOSED, 1);
    const expected = { "": [[CLOSED, 1], [CLOSED + HOUR, 3]] };
    expect(await readAll(query, metric)).toEqual(expected);
    await compactAll(query);
    expect(await readAll(query, metric)).toEqual(expected);
    expect(await count(query, "monitor.late_samples")).toBe(0);
  });

  it("go where a day's would when nothing ran on it", async ({ query }) => {
    await openDays(query, NOON);
    const metric = await addSentMetric(query);
    expect(await send(query, metric, CLOSED, 1)).toMatchObject({ inserted: 1 });
    await compactAll(query);
    expect(await readAll(query, metric)).toEqual({ "": [[CLOSED, 1]] });
  });

  it("are merged of at most 200 series a step", async ({ query }) => {
    await fillDay(query, "dropped");
    const metric = await addSentMetric(query);
    await query(
      `with series as (
         insert into monitor.metric_series (metric, labels)
         select $1, jsonb_build_object('n', n::text) from generate_series(1, 201) as n returning series_id
       )
       insert into monitor.late_samples (series_id, recorded_at, value) select series_id, $2, series_id from series`,
      [metric, iso(CLOSED)],
    );
    const answers = await compactAll(query);
    expect(answers.flatMap(({ counts }) => counts.late_samples_merged ?? [])).toEqual([200, 1]);
    expect(Object.keys(await readAll(query, metric))).toHaveLength(201);
  });

  it("lose to what is in the chunk already, should one be there all the same", async ({ query }) => {
    const metric = await fillDay(query, "dropped");
    await query(
      `insert into monitor.late_samples (series_id, recorded_at, value)
       select series_id, $2, 99 from monitor.metric_series where metric = $1`,
      [metric, iso(CLOSED + MINUTE)],
    );
    await compactAll(query);
    expect(await readAll(query, metric)).toEqual({ "": minutes(3) });
  });

  it("are as they were when merging them fails", async ({ query, asOwner }) => {
    const metric = await fillDay(query, "dropped");
    await send(query, metric, CLOSED + 1, 7);
    const before = await readAll(query, metric);
    await asOwner(`
      create function monitor.refuse() returns trigger language plpgsql as $$
      begin raise exception 'not today' using errcode = 'P0042'; end $$`);
    await asOwner(`
      create trigger refuse before insert or update on monitor.metric_rollups
      for each row execute function monitor.refuse()`);
    await expect(compact(query)).rejects.toMatchObject({ code: "P0042" });
    expect(await readAll(query, metric)).toEqual(before);
  });
});

describe("compaction beside others", () => {
  it("waits for who writes a day, at most half a second, and seals it another time", async ({ ownDatabase }) => {
    const [session, writer] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(session);
    await openDays(query, CLOSED, 3);
    const metric = await addSentMetric(query);
    await writer.query("begin");
    expect(await send(queryOf(writer), metric, CLOSED, 1)).toMatchObject({ inserted: 1 });

    expect(await compact(query)).toMatchObject({
      outcome: "contended",
      counts: { contended: 1 },
      more: false,
      detail: "others are writing 2026-03-08; the next run will try again",
    });
    expect(await readDay(query)).toMatchObject({ state: "rows" });
    await writer.query("commit");
    await compactAll(query);
    expect(await readAll(query, metric)).toEqual({ "": [[CLOSED, 1]] });
  });

  it("makes a writer who comes while a day is being sealed write a late sample", async ({ ownDatabase }) => {
    const [sealer, writer] = [await ownDatabase.connect(), await ownDatabase.connect()];
    await openDays(queryOf(sealer), CLOSED, 3);
    const metric = await addSentMetric(queryOf(sealer));
    await sealer.query("begin");
    expect(await compact(queryOf(sealer))).toMatchObject({ counts: { days_sealed: 1 } });
    const written = send(queryOf(writer), metric, CLOSED, 1); // waits for the sealer
    await sealer.query("commit");
    expect(await written).toMatchObject({ inserted: 1, rejected: [] });
    expect(await count(queryOf(sealer), "monitor.late_samples")).toBe(1);
    await compactAll(queryOf(sealer));
    expect(await readAll(queryOf(sealer), metric)).toEqual({ "": [[CLOSED, 1]] });
  });

  it("leaves days alone that others write, and seals what is free", async ({ ownDatabase }) => {
    const [session, writer] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(session);
    await openDays(query, CLOSED, 3);
    const metric = await addSentMetric(query);
    await writer.query("begin");
    await send(queryOf(writer), metric, NOON, 1);
    expect(await compact(query)).toMatchObject({ counts: { days_sealed: 1 } });
    await writer.query("rollback");
  });

  it("lets only one of two encode a day", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(one);
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    for (const n of range(10)) await addSeries(query, metric, minutes(50), { n: String(n) });
    const before = await readAll(query, metric);
    await compact(query);
    await one.query("begin");
    expect(await compact(query)).toMatchObject({ counts: { samples: 500 } });
    expect(await compact(queryOf(other))).toMatchObject({ outcome: "nothing" });
    await one.query("commit");
    await compactAll(queryOf(other));
    expect(await readAll(query, metric)).toEqual(before);
    expect(await count(query, "monitor.metric_chunks")).toBe(10);
  });

  it.for(["seal", "encode", "drop", "merge"])(
    "comes to the same end when two take every step at once: %s",
    async (_name, { ownDatabase }) => {
      const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
      const query = queryOf(one);
      await openDays(query, CLOSED - DAY, 4);
      const metric = await addSentMetric(query);
      for (const n of range(5)) {
        const samples = [...minutes(20, CLOSED - DAY), ...minutes(20)];
        await addSeries(query, metric, samples, { n: String(n) });
      }
      await send(query, metric, CLOSED - 2 * DAY, 5, { n: "0" });
      const before = await readAll(query, metric);
      for (const minute of range(12)) {
        const at = { p_now: iso(NOON + minute * MINUTE) };
        const answers = await Promise.all([compact(query, at), compact(queryOf(other), at)]);
        for (const { outcome } of answers) expect(outcome).toMatch(/done|nothing|held|contended/);
        expect(await readAll(query, metric)).toEqual(before);
      }
      expect(await compact(query, { p_now: iso(NOON + HOUR) })).toMatchObject({
        outcome: "nothing",
      });
      expect(await exists(query, partitionOf(CLOSED))).toBe(false);
    },
  );

  describe("finds that another one has dropped the rows", () => {
    /** A day in chunks whose rows are to go as of `LATER`. */
    async function fillDay(query: Query) {
      await openDays(query, CLOSED, 3);
      const metric = await addMetric(query);
      await addSeries(query, metric, minutes(3));
      await compact(query);
      await compact(query);
      return metric;
    }
    const LATER = { p_now: iso(NOON + MINUTE) };
    const GONE = {
      outcome: "contended",
      counts: { contended: 1 },
      detail: "another one is compacting; the next run will go on",
    };

    it("while it waited for the lock", async ({ ownDatabase }) => {
      const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
      const query = queryOf(one);
      const metric = await fillDay(query);
      await waitLonger(queryOf(await ownDatabase.connectAsOwner()), "compact_samples");
      await one.query("begin");
      expect(await compact(query, LATER)).toMatchObject({ counts: { days_dropped: 1 } });
      const second = compact(queryOf(other), LATER);
      await waitUntilBlocking(query);
      await one.query("commit");
      expect(await second).toMatchObject(GONE);
      expect(await compact(query, LATER)).toMatchObject({ outcome: "nothing" });
      expect(await readAll(query, metric)).toEqual({ "": minutes(3) });
    });

    it("between its look and its lock", async ({ ownDatabase }) => {
      const [session, owner] = [await ownDatabase.connect(), await ownDatabase.connectAsOwner()];
      const query = queryOf(session);
      const metric = await fillDay(query);
      await waitLonger(queryOf(owner), "compact_samples");
      // Waits for us with a day in chunks after it has seen that the rows are there: what is dear is asked last.
      await owner.query(`
        alter table monitor.sample_days rename to stored_days;
        create function monitor.wait_here() returns boolean language plpgsql cost 10000 as $$
        begin perform pg_advisory_xact_lock(7); return true; end $$;
        create view monitor.sample_days as
          select * from monitor.stored_days where state <> 'chunks' or monitor.wait_here();
        grant select on monitor.sample_days to service_role`);
      await owner.query("begin; select pg_advisory_xact_lock(7)");
      const answer = compact(query, LATER);
      await waitUntilBlocking(queryOf(owner));
      await owner.query(`drop table ${partitionOf(CLOSED)}; commit`);
      expect(await answer).toMatchObject(GONE);
      expect(await compact(query, LATER)).toMatchObject({ outcome: "nothing" });
      expect(await readAll(query, metric)).toEqual({ "": minutes(3) });
    });
  });

  it("drops rows another time when someone reads them, and goes on with what else there is", async ({ ownDatabase }) => {
    const [session, reader] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(session);
    await openDays(query, CLOSED - DAY, 4);
    const metric = await addMetric(query);
    await addSeries(query, metric, minutes(3, CLOSED - DAY));
    const before = await readAll(query, metric);
    await compact(query);
    await compact(query);
    await reader.query("begin; select count(*) from monitor.metric_time_series");
    expect(await compact(query, { p_now: iso(NOON + MINUTE) })).toMatchObject({
      outcome: "done",
      counts: { days_sealed: 1, contended: 1 },
      detail: expect.stringContaining("the next run will try again"),
    });
    expect(await exists(query, partitionOf(CLOSED - DAY))).toBe(true);
    await reader.query("commit");
    await compactAll(query, { now: NOON + MINUTE });
    expect(await exists(query, partitionOf(CLOSED - DAY))).toBe(false);
    expect(await readAll(query, metric)).toEqual(before);
  });

  it("shows a reader one series, whatever step ends while he reads on", async ({ ownDatabase }) => {
    const [session, reader] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(session);
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    await addSeries(query, metric, minutes(5));
    const before = await readAll(query, metric);
    // What he began to see stays: a snapshot that is older than the step.
    for (const _step of ["seal", "encode"]) {
      await reader.query(
        "begin isolation level repeatable read; select 1 from monitor.sample_days",
      );
      await compact(query);
      expect(await readAll(queryOf(reader), metric)).toEqual(before);
      await reader.query("commit");
    }
  });
});

describe.skipIf(process.platform !== "linux")("a server that is killed", () => {
  it(
    "has lost and doubled nothing, whatever step of compaction it was in",
    { timeout: 120_000 },
    async () => {
      const folder = await mkdtemp(join(tmpdir(), "pgvigil-tests-"));
      let database = await startDatabase({ folder });
      const clients: pg.Client[] = [];
      const connect = async (role: string) => {
        const client = new pg.Client({ connectionString: database.adminUrl });
        client.on("error", () => {}); // the server is killed
        clients.push(client);
        await client.connect();
        await client.query(`set session authorization ${role}; set timezone to 'UTC'`);
        return client;
      };
      try {
        await applyMigrations(database.url);
        let query = queryOf(await connect("service_role"));
        const owner = await connect("postgres");
        await openDays(query, CLOSED, 3);
        const metric = await addSentMetric(query);
        for (const n of range(60)) await addSeries(query, metric, minutes(7), { n: String(n) });
        const expected = await readAll(query, metric);
        // Whoever writes the chunk or drops the rows of the marked step waits for a lock that we hold: there we kill.
        await owner.query(`
        create function monitor.wait_here() returns trigger language plpgsql as $$
        begin
          if new.series_id % 10 = 7 then
            perform pg_advisory_xact_lock(7);
          end if;
          return new;
        end $$;
        create trigger wait_here after insert or update on monitor.metric_chunks
          for each row execute function monitor.wait_here()`);

        let now = NOON;
        const killDuring = async (lock: string, step: () => Promise<unknown>) => {
          const holder = await connect("postgres");
          await holder.query(`begin; ${lock}`);
          const cut = step().then(() => "finished", () => "cut");
          await waitUntilBlocking(queryOf(holder));
          await killServer(folder);
          expect(await cut).toBe("cut");
          await restart();
        };
        const restart = async () => {
          await Promise.all(
            clients.splice(0).map((client) => client.end().catch(() => {})),
          );
          database = await startDatabase({ folder });
          query = queryOf(await connect("service_role"));
          expect(await readAll(query, metric)).toEqual(expected);
        };
        const killNow = async () => {
          await killServer(folder);
          await restart();
        };
        const advisory = "select pg_advisory_xact_lock(7)";
        const readRows = "lock table monitor.metric_time_series in access share mode";
        const step = () => compact(query, { p_now: iso(now), p_limit: 200 });

        await step();
        await killNow(); // sealed
        expect(await readDay(query)).toMatchObject({ state: "sealed" });
        await killDuring(advisory, step); // in the middle of the first chunks
        expect(await readDay(query)).toMatchObject({ state: "sealed", sample_count: 0 });
        expect(await count(query, "monitor.metric_chunks")).toBe(0);
        await step();
        await killNow(); // half compacted
        expect(await readDay(query)).toMatchObject({ state: "sealed", sample_count: 203 });
        await killDuring(advisory, step);
        await step();
        await step();
        expect(await readDay(query)).toMatchObject({ state: "chunks", sample_count: 420 });
        await killNow(); // in chunks and rows
        now += MINUTE;
        await killDuring(readRows, step); // about to drop the rows
        expect(await exists(query, partitionOf(CLOSED))).toBe(true);
        await step();
        await killNow(); // dropped
        expect(await exists(query, partitionOf(CLOSED))).toBe(false);

        await send(query, metric, CLOSED + 1, 5, { n: "6" });
        expected["6"]!.splice(1, 0, [CLOSED + 1, 5]);
        await send(query, metric, CLOSED + 2, 5, { n: "8" });
        expected["8"]!.splice(1, 0, [CLOSED + 2, 5]);
        await killDuring(advisory, step); // in the middle of merging
        expect(await count(query, "monitor.late_samples")).toBe(2);
        await compactAll(query, { now });
        expect(await readAll(query, metric)).toEqual(expected);
        expect(await count(query, "monitor.late_samples")).toBe(0);
        expect(await count(query, "monitor.metric_chunks")).toBe(60);
      } finally {
        await Promise.all(clients.map((client) => client.end().catch(() => {})));
        await database.stop();
        await rm(folder, { recursive: true, force: true });
      }
    },
  );
});
