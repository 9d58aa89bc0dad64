import fc from "fast-check";
import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc } from "./database.ts";
import { cleanUp, compact, compactAll } from "./retention.ts";
import {
  addAdmin,
  addAnomaly,
  addMetric,
  addSeries,
  addUser,
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

type Sample = readonly [number, number];

/** The newest day that is compacted as of noon. */
const CLOSED = MIDNIGHT - 2 * DAY;

const named = (metric: string) => ({ name: "__name__", op: "=", value: metric });

interface Buckets {
  times: number[];
  counts: number[];
  sums: number[];
  mins: number[];
  maxs: number[];
  firsts: number[];
  lasts: number[];
}

const readBuckets = async (
  query: Query,
  metric: string,
  from: number,
  until: number,
  step: number,
) =>
  (await rpc<{ series: (Buckets & { labels: { n: string } })[] }>(query, "read_buckets", {
    p_matchers: [named(metric)],
    p_from: iso(from),
    p_until: iso(until),
    p_step: `${step / SECOND} seconds`,
  })).series;

/** What buckets of `samples` are, by definition. */
function toBuckets(
  samples: readonly Sample[],
  from: number,
  until: number,
  step: number,
): Map<number, number[]> {
  const buckets = new Map<number, number[]>();
  for (const [at, value] of samples.toSorted(([a], [b]) => a - b)) {
    if (at < from || at >= until) continue;
    const start = Math.floor(at / step) * step;
    buckets.set(start, [...(buckets.get(start) ?? []), value]);
  }
  return buckets;
}

const adding = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);

function expectBuckets(actual: Buckets | undefined, expected: ReadonlyMap<number, number[]>) {
  if (expected.size === 0) return void expect(actual).toBeUndefined();
  const groups = [...expected.values()];
  expect(actual).toMatchObject({
    times: [...expected.keys()],
    counts: groups.map(({ length }) => length),
    mins: groups.map((values) => Math.min(...values)),
    maxs: groups.map((values) => Math.max(...values)),
    firsts: groups.map((values) => values[0]),
    lasts: groups.map((values) => values.at(-1)),
  });
  for (const [index, values] of groups.entries()) {
    // Adding in another order rounds otherwise.
    const rounding = adding(values.map(Math.abs)) * 1e-13;
    expect(Math.abs(actual!.sums[index]! - adding(values))).toBeLessThanOrEqual(rounding);
  }
}

describe("monitor.read_buckets() over chunks", () => {
  it(
    "gives the same of every range and step before, during and after compaction, and with late samples",
    {
      timeout: 90_000,
    },
    async ({ ownDatabase }) => {
      const session = await ownDatabase.connect();
      const query = queryOf(session);
      await openDays(query, CLOSED - DAY, 4);
      const value = fc.oneof(
        fc.double({ min: -1e6, max: 1e6, noNaN: true }).map((v) =>
          Math.abs(v) < 1e-300 ? 0 : v + 0
        ),
        fc.integer({ min: -1000, max: 1_000_000 }).map((n) => n / 100),
        fc.nat(100_000),
      );
      const at = fc.integer({ min: CLOSED - DAY, max: NOON });
      const hour = fc.integer({ min: 0, max: 50 }).map((n) => CLOSED - DAY + n * HOUR);
      const bound = fc.oneof(at, hour);
      const kept = fc.uniqueArray(fc.tuple(at, value, fc.boolean()), {
        selector: ([at]) => at,
        minLength: 1,
        maxLength: 40,
      });
      await fc.assert(
        fc.asyncProperty(
          fc.array(kept, { minLength: 1, maxLength: 3 }),
          fc.array(fc.tuple(bound, bound), { minLength: 2, maxLength: 3 }),
          async (all, bounds) => {
            await query("rollback; begin");
            const metric = await addMetric(query);
            const ids: number[] = [];
            const isLate = ([at, , late]: readonly [number, number, boolean]) =>
              late && at < CLOSED + DAY;
            for (const [n, samples] of all.entries()) {
              const inTime = samples.filter((sample) => !isLate(sample));
              ids.push(
                await addSeries(query, metric, inTime.map(([at, v]) => [at, v]), { n: String(n) }),
              );
            }
            const ranges = [
              [CLOSED - DAY, NOON + HOUR] as const,
              ...bounds.map((both) => both.toSorted((a, b) => a - b) as [number, number]),
            ];
            const check = async (withLate: boolean) => {
              for (const [from, until] of ranges) {
                for (const step of [30 * MINUTE, HOUR, 7 * HOUR, DAY]) {
                  const answer = await readBuckets(query, metric, from, until, step);
                  for (const [n, samples] of all.entries()) {
                    const taken = samples.filter((sample) => withLate || !isLate(sample))
                      .map(([at, v]) => [at, v] as const);
                    expectBuckets(
                      answer.find(({ labels }) => labels.n === String(n)),
                      toBuckets(taken, from, until, step),
                    );
                  }
                }
              }
            };
            await check(false);
            let now = NOON;
            for (let outcome = "done"; outcome !== "nothing";) {
              ({ outcome } = await compact(query, { p_now: iso(now), p_limit: 1 }));
              if (outcome === "held") now += MINUTE;
              await check(false);
            }
            for (const [n, samples] of all.entries()) {
              for (const [at, v] of samples.filter(isLate)) {
                await query("insert into monitor.late_samples values ($1, $2, $3)", [
                  ids[n],
                  iso(at),
                  v,
                ]);
              }
            }
            await check(true);
            await compactAll(query, { now });
            expect((await query("select from monitor.late_samples")).rows).toEqual([]);
            await check(true);

            // Only hours are left of the first days: whole hours are as they were.
            await cleanUp(query, "cleanup_old_metrics", {
              retention_days: 1,
              p_now: iso(NOON),
            });
            for (const [from, until] of ranges) {
              for (const step of [30 * MINUTE, HOUR, DAY]) {
                const answer = await readBuckets(query, metric, from, until, step);
                for (const [n, samples] of all.entries()) {
                  const hourOf = (at: number) => Math.floor(at / HOUR) * HOUR;
                  const shown = samples.flatMap(([at, v]): { start: number; sample: Sample }[] => {
                    if (at >= MIDNIGHT - DAY) {
                      return at < from || at >= until
                        ? []
                        : [{ start: Math.floor(at / step) * step, sample: [at, v] }];
                    }
                    const start = hourOf(at);
                    return start < from || start + HOUR > until
                      ? []
                      : [{ start: Math.floor(start / step) * step, sample: [at, v] }];
                  });
                  const expected = new Map<number, number[]>();
                  for (const { start, sample } of shown.sort((a, b) => a.sample[0] - b.sample[0])) {
                    expected.set(start, [...(expected.get(start) ?? []), sample[1]]);
                  }
                  expectBuckets(answer.find(({ labels }) => labels.n === String(n)), expected);
                }
              }
            }
          },
        ),
        { numRuns: 8 },
      );
    },
  );

  it("keeps sums of decimals to the last digit", async ({ query }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    await addSeries(query, metric, range(60).map((n) => [CLOSED + n * MINUTE, 0.1]));
    await compactAll(query);
    const [bucket] = await readBuckets(query, metric, CLOSED, CLOSED + HOUR, HOUR);
    expect(bucket).toMatchObject({ counts: [60], sums: [6], mins: [0.1], maxs: [0.1] });
    const { rows } = await query("select scale, floats from monitor.metric_rollups");
    expect(rows).toEqual([{ scale: 1, floats: null }]);
  });

  it.for(
    [
      ["of values as large as there are", [1.7e308, 1.7e308], 2e290],
      ["of one of each sign", [-1.7e308, 1.7e308], 0],
    ] as const,
  )("does not overflow with sums %s", async ([, values, sum], { query }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    await addSeries(query, metric, values.map((value, n) => [CLOSED + n, value]));
    const read = async () => (await readBuckets(query, metric, CLOSED, CLOSED + DAY, DAY))[0];
    const expected = { sums: [sum], mins: [Math.min(...values)], maxs: [1.7e308] };
    expect(await read()).toMatchObject(expected);
    await compactAll(query);
    expect(await read()).toMatchObject(expected);
  });

  it("reads a year of hours when only they are left, also of days that nobody remembers", async ({ query, asOwner }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    await addSeries(query, metric, [[CLOSED + 90 * MINUTE, 4], [CLOSED + 100 * MINUTE, 8]]);
    await compactAll(query);
    await cleanUp(query, "cleanup_old_metrics", { retention_days: 1 });
    await asOwner("delete from monitor.sample_days where state = 'dropped'");
    for (const step of [HOUR, DAY, 15 * MINUTE]) {
      const [bucket] = await readBuckets(query, metric, NOON - 100 * DAY, NOON, step);
      expect(bucket).toMatchObject({
        times: [Math.floor((CLOSED + HOUR) / step) * step],
        counts: [2],
        sums: [12],
        firsts: [4],
        lasts: [8],
      });
    }
  });
});

describe("monitor.read_samples() over chunks", () => {
  it("includes the start of the range and excludes its end, within a chunk too", async ({ query }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    await addSeries(query, metric, range(5).map((n) => [CLOSED + n, n]));
    await compactAll(query);
    const read = (from: number, until: number) =>
      rpc<{ series: { times: number[]; values: number[] }[] }>(query, "read_samples", {
        p_matchers: [named(metric)],
        p_from: iso(from),
        p_until: iso(until),
      });
    expect((await read(CLOSED + 1, CLOSED + 3)).series).toMatchObject([{
      times: [CLOSED + 1, CLOSED + 2],
      values: [1, 2],
    }]);
    expect((await read(CLOSED + 5, CLOSED + DAY)).series).toEqual([]);
    expect((await read(CLOSED + 2, CLOSED + 2)).series).toEqual([]);
    expect((await read(CLOSED + 3, CLOSED + 2)).series).toEqual([]);
  });

  it.for<[string, object[], string[]]>([
    ["=", [{ name: "n", op: "=", value: "a" }], ["a"]],
    ["!=", [{ name: "n", op: "!=", value: "a" }], ["", "b", "cc"]],
    ["=~", [{ name: "n", op: "=~", value: "a|c+" }], ["a", "cc"]],
    ["!~", [{ name: "n", op: "!~", value: "a|c+" }], ["", "b"]],
    ["= nothing", [{ name: "n", op: "=", value: "" }], [""]],
  ])(
    "matches by %s in samples, buckets and latest values alike",
    async ([, matchers, labels], { query }) => {
      await openDays(query, CLOSED, 3);
      const metric = await addMetric(query);
      for (const n of ["", "a", "b", "cc"]) {
        await addSeries(query, metric, [[CLOSED, 1]], n ? { n } : {});
      }
      await compactAll(query);
      const p_matchers = [named(metric), ...matchers];
      const span = { p_from: iso(CLOSED), p_until: iso(CLOSED + DAY) };
      for (
        const [reader, args] of [
          ["read_samples", span],
          ["read_buckets", { ...span, p_step: "1 hour" }],
          ["read_latest", {}],
        ] as const
      ) {
        const { series } = await rpc<{ series: { labels: { n?: string } }[] }>(query, reader, {
          p_matchers,
          ...args,
        });
        expect(series.map((found) => found.labels.n ?? ""), reader).toEqual(labels);
      }
    },
  );

  it("shows 1,001 series in pages, each once, by every reader", async ({ query }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    await query(
      `with series as (
         insert into monitor.metric_series (metric, labels, last_sample_at)
         select $1, jsonb_build_object('n', n::text), $2 from generate_series(1, 1001) as n returning series_id
       )
       insert into monitor.metric_time_series (series_id, recorded_at, value)
       select series_id, $2, 1 from series`,
      [metric, iso(CLOSED)],
    );
    await compactAll(query);
    const span = { p_from: iso(CLOSED), p_until: iso(CLOSED + HOUR) };
    for (
      const [reader, args] of [
        ["read_samples", span],
        ["read_buckets", { ...span, p_step: "1 hour" }],
        ["read_latest", {}],
      ] as const
    ) {
      const seen: number[] = [];
      const sizes: number[] = [];
      for (let after: number | null = 0; after !== null;) {
        const page: { series: { series_id: number }[]; next_series_id: number | null } = await rpc(
          query,
          reader,
          { p_matchers: [named(metric)], p_after_series_id: after, ...args },
        );
        sizes.push(page.series.length);
        seen.push(...page.series.map(({ series_id }) => series_id));
        after = page.next_series_id;
      }
      expect(sizes, reader).toEqual([1000, 1]);
      expect(new Set(seen).size).toBe(1001);
    }
  });

  it("shows admins all and others nothing", async ({ query, asOwner, asUser }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    const series = await addSeries(query, metric, [[CLOSED, 1]]);
    await compactAll(query);
    await query("insert into monitor.late_samples values ($1, $2, 2)", [series, iso(CLOSED + 1)]);
    const p_matchers = [named(metric)];
    const span = { p_from: iso(CLOSED), p_until: iso(CLOSED + DAY) };
    const [admin, user] = [asUser(await addAdmin(asOwner)), asUser(await addUser(asOwner))];
    expect(await rpc(admin, "read_samples", { p_matchers, ...span })).toMatchObject({
      series: [{ values: [1, 2] }],
    });
    expect(await rpc(admin, "read_buckets", { p_matchers, ...span, p_step: "1 day" }))
      .toMatchObject({ series: [{ sums: [3] }] });
    for (const reader of ["read_samples", "read_latest"]) {
      expect(await rpc(user, reader, { p_matchers, ...(reader === "read_samples" && span) }))
        .toMatchObject({ series: [] });
    }
    for (const table of ["metric_chunks", "metric_rollups", "chunk_times", "late_samples"]) {
      expect((await user(`select from monitor.${table}`)).rows, table).toEqual([]);
      expect((await admin(`select from monitor.${table}`)).rows, table).toHaveLength(1);
    }
  });

  it("decodes no times but those of the series it reads", async ({ query }) => {
    await openDays(query, CLOSED, 3);
    const [metric, other] = [await addMetric(query), await addMetric(query)];
    await addSeries(query, metric, [[CLOSED, 1]]);
    for (const n of range(5)) await addSeries(query, other, [[CLOSED + 1 + n, 1]], { n: `${n}` });
    await compactAll(query);
    const { rows: [series] } = await query<{ id: number }>(
      "select series_id as id from monitor.metric_series where metric = $1",
      [metric],
    );
    const { rows } = await query(
      `explain (analyze, costs off, timing off, summary off)
       ${
        (await query("select prosrc from pg_proc where proname = 'scan_series'")).rows[0]!.prosrc
          .replaceAll("p_series_ids", `array[${series!.id}]`)
          .replaceAll("p_from", `'${iso(CLOSED)}'::timestamptz`)
          .replaceAll("p_until", `'${iso(NOON)}'::timestamptz`)
      }`,
    );
    const plan = rows.map((row) => row["QUERY PLAN"]).join("\n");
    const grid = plan.slice(plan.indexOf("CTE grid"));
    expect(grid.split("\n")[1]).toMatch(/rows=1(\.00)? /);
  });
});

describe("monitor.read_latest()", () => {
  const read = (query: Query, metric: string, more: object = {}) =>
    rpc<{
      series: { series_id: number; labels: object; time: number; value: number }[];
      next_series_id: number | null;
    }>(query, "read_latest", { p_matchers: [named(metric)], ...more });

  it("gives the newest sample of each series, wherever it lies", async ({ query }) => {
    await openDays(query, CLOSED - 8 * DAY, 11);
    const metric = await addMetric(query);
    const times = { rows: NOON, chunks: CLOSED + 7, before: CLOSED - 7 * DAY };
    const ids: Record<string, number> = {};
    for (const [n, at] of Object.entries(times)) {
      ids[n] = await addSeries(query, metric, [[at - 1, 1], [at, 1 / 3]], { n });
    }
    const expected = Object.entries(times).map(([n, time]) => ({
      series_id: ids[n],
      metric,
      labels: { n },
      time,
      value: 1 / 3,
    }));
    let now = NOON;
    for (let outcome = "done"; outcome !== "nothing";) {
      expect(await read(query, metric)).toEqual({ series: expected, next_series_id: null });
      ({ outcome } = await compact(query, { p_now: iso(now) }));
      if (outcome === "held") now += MINUTE;
    }
    // Its last sample came late.
    await query("insert into monitor.late_samples values ($1, $2, 9)", [
      ids.chunks,
      iso(CLOSED + 9),
    ]);
    await query("update monitor.metric_series set last_sample_at = $2 where series_id = $1", [
      ids.chunks,
      iso(CLOSED + 9),
    ]);
    expect((await read(query, metric)).series[1]).toMatchObject({ time: CLOSED + 9, value: 9 });
    await compactAll(query, { now });
    expect((await read(query, metric)).series[1]).toMatchObject({ time: CLOSED + 9, value: 9 });
    // Its week is gone.
    await cleanUp(query, "cleanup_old_metrics", { retention_days: 7 });
    expect((await read(query, metric)).series.map(({ labels }) => labels)).toEqual([
      { n: "rows" },
      { n: "chunks" },
    ]);
  });

  it("leaves out series that never had a sample, and loses none to pages", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    for (const n of range(7)) {
      await addSeries(query, metric, n % 3 === 0 ? [[NOON, n]] : [], { n: String(n) });
    }
    for (const p_limit of [1, 2, 3, 7, 8]) {
      const values: number[] = [];
      for (let after: number | null = 0; after !== null;) {
        const page = await read(query, metric, { p_after_series_id: after, p_limit });
        values.push(...page.series.map(({ value }) => value));
        after = page.next_series_id;
      }
      expect(values, `${p_limit} a page`).toEqual([0, 3, 6]);
    }
    for (const p_limit of [0, 1001, null]) {
      await expect(read(query, metric, { p_limit })).rejects.toMatchObject({ code: "22023" });
    }
  });
});

describe("what follows samples, over chunks", () => {
  it("is detected from where a detector stood still for days, each sample once, in order", async ({ query }) => {
    await openDays(query, NOON - 6 * DAY, 7);
    const metric = await addMetric(query);
    const samples = range(6 * 24 * 12).map((n) =>
      [NOON - 6 * DAY + n * 5 * MINUTE + n % 7, n / 8] as const
    );
    const series = await addSeries(query, metric, samples);
    await compactAll(query);
    await query("insert into monitor.late_samples values ($1, $2, 0.5)", [
      series,
      iso(NOON - 3 * DAY + 3 * SECOND),
    ]);
    const since = NOON - 5 * DAY;
    await query(
      "insert into monitor.detector_states (series_id, version, state, last_sample_at) values ($1, 'median/1', '{}', $2)",
      [series, iso(since)],
    );
    const seen: Sample[] = [];
    for (const _page of range(9)) {
      const { series: [page] } = await rpc<{ series: { times: number[]; values: number[] }[] }>(
        query,
        "read_detection_page",
        { p_now: iso(NOON) },
      );
      if (page === undefined) break;
      expect(page.times.length).toBeLessThanOrEqual(1500);
      seen.push(...page.times.map((at, index) => [at, page.values[index]!] as const));
      await query("update monitor.detector_states set last_sample_at = $2 where series_id = $1", [
        series,
        iso(page.times.at(-1)!),
      ]);
    }
    const expected = [
      ...samples.filter(([at]) => at > since),
      [NOON - 3 * DAY + 3 * SECOND, 0.5] as const,
    ]
      .sort(([a], [b]) => a - b);
    expect(seen).toEqual(expected);
  });

  it("is evidence, bit by bit, of a day that has been compacted", async ({ query }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    const [started, ended] = [CLOSED + 6 * HOUR, CLOSED + 18 * HOUR];
    const samples = [
      ...range(48).map((n) => [CLOSED + n * 30 * MINUTE + n * 37 % 1000, Math.sin(n)] as const),
      ...[started - 2 * HOUR - 1, started - 2 * HOUR, ended + 2 * HOUR, ended + 2 * HOUR + 1]
        .map((at) => [at, 1 / 3] as const),
    ].sort(([a], [b]) => a - b);
    const series = await addSeries(query, metric, samples);
    const anomaly = await addAnomaly(query, series, {
      started_at: iso(started),
      ended_at: iso(ended),
      ended_reason: "recovered",
    });
    await compactAll(query);
    const expected = samples.filter(([at]) =>
      Math.min(Math.abs(at - started), Math.abs(at - ended)) <= 2 * HOUR
    );
    expect(expected.length).toBeGreaterThan(10);
    expect(await rpc(query, "copy_evidence", { p_anomaly_id: anomaly })).toBe(expected.length);
    expect(await rpc(query, "copy_evidence", { p_anomaly_id: anomaly })).toBe(0);
    const { rows } = await query<{ at: Date; value: number }>(
      "select recorded_at as at, value from monitor.evidence_samples order by 1",
    );
    expect(rows.map(({ at, value }) => [at.getTime(), value])).toEqual(expected);
  });
});
