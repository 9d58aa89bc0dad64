import fc from "fast-check";
import { describe, expect } from "vitest";
import { parseSelections } from "../../shared/contract/selections.ts";
import type { Matcher } from "../../shared/promql/series.ts";
import { it, type Query, queryOf, rpc } from "./database.ts";
import { compact, compactAll } from "./retention.ts";
import {
  addAdmin,
  addMetric,
  addSeries,
  addUser,
  DAY,
  iso,
  MIDNIGHT,
  MINUTE,
  NOON,
  openDays,
  range,
} from "./seeds.ts";

type Sample = readonly [number, number];

/** The newest day that is compacted as of noon. */
const CLOSED = MIDNIGHT - 2 * DAY;

const EMPTY = { clocks: [], series: [], samples: 0 };

const named = (metric: string): Matcher => ({ name: "__name__", op: "=", value: metric });

const selection = (metric: string, from: number, until: number) => ({
  matchers: [named(metric)],
  from,
  until,
});

const read = async (query: Query, p_selections: unknown, args: object = {}) =>
  parseSelections(await rpc(query, "read_selections", { p_selections, ...args }));

/** What is read of the one series that there is; undefined when it is left out. */
async function readOne(query: Query, metric: string, from: number, until: number) {
  const { clocks, series } = await read(query, [selection(metric, from, until)]);
  expect(series.length).toBeLessThanOrEqual(1);
  return series[0] && series[0].values.map((value, i) => [clocks[series[0]!.clock]![i], value]);
}

/** Adds `count` series `{n="1"}`, `{n="2"}`, … of a metric, each with one sample at `at`. */
async function addManySeries(query: Query, metric: string, count: number, at: number) {
  await query(
    `with series as (
       insert into monitor.metric_series (metric, labels, last_sample_at)
       select $1, jsonb_build_object('n', n::text), $2 from generate_series(1, $3::integer) as n returning series_id
     )
     insert into monitor.metric_time_series (series_id, recorded_at, value) select series_id, $2, 1 from series`,
    [metric, iso(at), count],
  );
}

describe("monitor.read_selections()", () => {
  it("finds nothing in an empty database, and for no selections", async ({ query }) => {
    expect(await read(query, [{ matchers: [], from: 0, until: NOON }])).toEqual(EMPTY);
    expect(await read(query, [])).toEqual(EMPTY);
  });

  it.for([["rows", 0], ["chunks", CLOSED]] as const)(
    "includes both ends, to the millisecond, in %s",
    async ([, closed], { query }) => {
      await openDays(query, CLOSED, 3);
      const at = closed || NOON;
      const metric = await addMetric(query);
      await addSeries(query, metric, range(5).map((n) => [at + n, n]));
      if (closed) await compactAll(query);
      const shown = (from: number, until: number) => readOne(query, metric, at + from, at + until);
      expect(await shown(1, 3)).toEqual([[at + 1, 1], [at + 2, 2], [at + 3, 3]]);
      expect(await shown(2, 2)).toEqual([[at + 2, 2]]);
      expect(await shown(-9, 0)).toEqual([[at, 0]]);
      expect(await shown(4, 9)).toEqual([[at + 4, 4]]);
      expect(await shown(-9, -1)).toBeUndefined();
      expect(await shown(5, 9)).toBeUndefined();
      expect(await shown(3, 2)).toBeUndefined();
    },
  );

  it(
    "gives the same of every range in rows, during and after compaction, and with late samples",
    { timeout: 90_000 },
    async ({ ownDatabase }) => {
      const query = queryOf(await ownDatabase.connect());
      await openDays(query, CLOSED - DAY, 4);
      const at = fc.integer({ min: CLOSED - DAY, max: NOON });
      const bound = fc.oneof(at, fc.nat(4).map((n) => CLOSED - DAY + n * DAY));
      const kept = fc.uniqueArray(fc.tuple(at, fc.nat(1000), fc.boolean()), {
        selector: ([at]) => at,
        minLength: 1,
        maxLength: 20,
      });
      await fc.assert(
        fc.asyncProperty(
          fc.array(kept, { minLength: 1, maxLength: 3 }),
          fc.array(fc.tuple(bound, bound), { minLength: 1, maxLength: 3 }),
          async (all, bounds) => {
            await query("rollback; begin");
            const metric = await addMetric(query);
            const isLate = ([at, , late]: readonly [number, number, boolean]) =>
              late && at < MIDNIGHT - DAY;
            const ids: number[] = [];
            for (const [n, samples] of all.entries()) {
              const inTime = samples.filter((sample) => !isLate(sample));
              ids.push(
                await addSeries(query, metric, inTime.map(([at, v]) => [at, v]), { n: `${n}` }),
              );
            }
            const ranges = [[CLOSED - DAY, NOON] as const, [MIDNIGHT, NOON] as const, ...bounds]
              .map((both) => both.toSorted((a, b) => a - b) as [number, number]);
            const check = async (withLate: boolean) => {
              for (const [from, until] of ranges) {
                const { clocks, series, samples } = await read(query, [
                  selection(metric, from, until),
                ]);
                const expected = all.map((those) =>
                  those.filter((sample) => withLate || !isLate(sample))
                    .filter(([at]) => at >= from && at <= until)
                    .map(([at, value]): Sample => [at, value])
                    .toSorted(([a], [b]) => a - b)
                );
                expect(
                  series.map(({ labels, clock, values }) => [
                    Number(labels.n),
                    values.map((value, i) => [clocks[clock]![i], value]),
                  ]),
                ).toEqual([...expected.entries()].filter(([, { length }]) => length > 0));
                expect(samples).toBe(expected.flat().length);
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
              for (const [at, value] of samples.filter(isLate)) {
                await query("insert into monitor.late_samples values ($1, $2, $3)", [
                  ids[n],
                  iso(at),
                  value,
                ]);
              }
            }
            await check(true);
            await compactAll(query, { now });
            expect((await query("select from monitor.late_samples")).rows).toEqual([]);
            await check(true);
          },
        ),
        { numRuns: 8 },
      );
    },
  );

  it("reads a late sample of a day that is still in rows", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    const id = await addSeries(query, metric, [[NOON, 1], [NOON + 2, 3]]);
    await query("insert into monitor.late_samples values ($1, $2, 2)", [id, iso(NOON + 1)]);
    expect(await readOne(query, metric, NOON, NOON + 2))
      .toEqual([[NOON, 1], [NOON + 1, 2], [NOON + 2, 3]]);
  });

  it("reads a series once that several selections want, from the first to the last time", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    await addSeries(query, metric, range(10).map((n) => [NOON + n, n]), { n: "a" });
    await addSeries(query, metric, range(10).map((n) => [NOON + n, -n]), { n: "b" });
    const onlyA = [named(metric), { name: "n", op: "=", value: "a" }];
    const answer = await read(query, [
      { matchers: onlyA, from: NOON + 5, until: NOON + 6 },
      selection(metric, NOON + 2, NOON + 3),
      { matchers: [named("unknown")], from: NOON, until: NOON + 9 },
      selection(metric, NOON + 9, NOON + 8),
      { matchers: onlyA, from: NOON + 2, until: NOON + 2 },
    ]);
    expect(answer).toEqual({
      clocks: expect.arrayContaining([
        range(5).map((n) => NOON + 2 + n),
        [NOON + 2, NOON + 3],
      ]),
      series: [
        {
          metric,
          labels: { n: "a" },
          in: [0, 1, 4],
          clock: expect.any(Number),
          values: [2, 3, 4, 5, 6],
        },
        { metric, labels: { n: "b" }, in: [1], clock: expect.any(Number), values: [-2, -3] },
      ],
      samples: 7,
    });
    expect(answer.clocks[answer.series[1]!.clock]).toEqual([NOON + 2, NOON + 3]);
  });

  it("gives 1,001 series at once, and times that they share once, of rows and chunks alike", async ({ query }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    await addManySeries(query, metric, 1001, CLOSED);
    await addSeries(query, metric, [[CLOSED + 1, 2]], { n: "other" });
    for (const days of ["rows", "chunks"]) {
      const { clocks, series, samples } = await read(query, [selection(metric, CLOSED, NOON)]);
      expect(clocks.toSorted(([a], [b]) => a! - b!), days).toEqual([[CLOSED], [CLOSED + 1]]);
      expect(new Set(series.map(({ labels }) => labels.n)).size).toBe(1002);
      expect(samples).toBe(1002);
      await compactAll(query);
    }
  });

  it.for<[string, Omit<Matcher, "name">[], string[]]>([
    ["=", [{ op: "=", value: "a" }], ["a"]],
    ["= nothing", [{ op: "=", value: "" }], [""]],
    ["!=", [{ op: "!=", value: "a" }], ["", "b", "cc", "d\ne"]],
    ["!= nothing", [{ op: "!=", value: "" }], ["a", "b", "cc", "d\ne"]],
    ["=~, anchored", [{ op: "=~", value: "a|c+" }], ["a", "cc"]],
    ["=~ that an absent label satisfies", [{ op: "=~", value: "a?" }], ["", "a"]],
    ["=~ over a line end", [{ op: "=~", value: "d.e" }], ["d\ne"]],
    ["!~", [{ op: "!~", value: "a|c+" }], ["", "b", "d\ne"]],
    ["= of two values", [{ op: "=", value: "a" }, { op: "=", value: "b" }], []],
    ["= and !=", [{ op: "=", value: "a" }, { op: "!=", value: "b" }], ["a"]],
    ["no matcher", [], ["", "a", "b", "cc", "d\ne"]],
  ])("matches by %s as match_series does", async ([, matchers, expected], { query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    for (const n of ["", "a", "b", "cc", "d\ne"]) {
      await addSeries(query, metric, [[NOON, 1]], n ? { n } : {});
    }
    const p_matchers = [named(metric), ...matchers.map((matcher) => ({ name: "n", ...matcher }))];
    const { series } = await read(query, [{ matchers: p_matchers, from: NOON, until: NOON }]);
    expect(series.map(({ labels }) => labels.n ?? "")).toEqual(expected);
    const { rows } = await query("select labels from monitor.match_series($1)", [
      JSON.stringify(p_matchers),
    ]);
    expect(rows.map(({ labels }) => labels.n ?? "")).toEqual(expected);
  });

  it("matches by the name of the metric as by any label", async ({ query }) => {
    await openDays(query);
    const [one, two] = [await addMetric(query), await addMetric(query)];
    for (const metric of [one, two]) await addSeries(query, metric, [[NOON, 1]]);
    const find = async (...matchers: Matcher[]) =>
      (await read(query, [{ matchers, from: NOON, until: NOON }])).series
        .map(({ metric }) => metric);
    const name = "__name__";
    expect(await find()).toEqual([one, two]);
    expect(await find({ name, op: "=~", value: `${one}|x` })).toEqual([one]);
    expect(await find({ name, op: "!=", value: one })).toEqual([two]);
    expect(await find(named(one), { name, op: "!~", value: "test.*" })).toEqual([]);
    expect(await find(named(one), named(one))).toEqual([one]);
    expect(await find(named(one), named(two))).toEqual([]);
    expect(await find(named(""))).toEqual([]);
  });

  it("refuses one sample more than p_samples_limit in rows", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    for (const n of range(3)) {
      await addSeries(query, metric, range(10).map((m) => [NOON + m, 1]), { n: `${n}` });
    }
    const wanted = [selection(metric, NOON, NOON + 9)];
    expect(await read(query, wanted, { p_samples_limit: 30 })).toMatchObject({ samples: 30 });
    for (const p_samples_limit of [29, 1]) {
      await expect(read(query, wanted, { p_samples_limit })).rejects.toMatchObject({
        code: "54000",
        message: expect.stringContaining(
          `more than ${p_samples_limit} samples would have to be read: take a shorter range`,
        ),
      });
    }
    const few = [selection(metric, NOON, NOON + 8)];
    expect(await read(query, few, { p_samples_limit: 27 })).toMatchObject({ samples: 27 });
  });

  it("refuses one sample more than p_samples_limit in chunks, of whole days before it decodes any", async ({ query, asOwner }) => {
    await openDays(query, CLOSED - 2 * DAY, 5);
    const metric = await addMetric(query);
    await addSeries(query, metric, range(30).map((n) => [CLOSED - 2 * DAY + n * DAY / 10, 1]));
    await compactAll(query);
    const cut = [selection(metric, CLOSED, CLOSED + DAY)];
    expect(await read(query, cut, { p_samples_limit: 10 })).toMatchObject({ samples: 10 });
    await expect(read(query, cut, { p_samples_limit: 9 })).rejects.toMatchObject({ code: "54000" });
    const all = [selection(metric, CLOSED - 2 * DAY, CLOSED + DAY)];
    expect(await read(query, all, { p_samples_limit: 30 })).toMatchObject({ samples: 30 });
    await expect(read(query, all, { p_samples_limit: 29 })).rejects.toMatchObject({
      code: "54000",
    });
    await asOwner("delete from monitor.chunk_times"); // so that nothing can be decoded
    expect(await read(query, all, { p_samples_limit: 20 })).toEqual(EMPTY);
    await expect(read(query, all, { p_samples_limit: 19 })).rejects.toMatchObject({
      code: "54000",
    });
  });

  it("refuses more than 20,000 series, and says how many match", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    await addManySeries(query, metric, 20_001, NOON);
    const wanted = (matchers: readonly Matcher[]) => [{ matchers, from: NOON, until: NOON }];
    await expect(read(query, wanted([named(metric)]))).rejects.toMatchObject({
      code: "54000",
      message:
        "20001 series match, and at most 20000 are read at once: add matchers that leave fewer",
    });
    const allButOne: Matcher[] = [named(metric), { name: "n", op: "!=", value: "7" }];
    expect(await read(query, wanted(allButOne))).toMatchObject({ samples: 20_000 });
  });

  it.for([
    ["no array", {}, {}],
    ["a number", 1, {}],
    ["null", null, {}],
    ["a selection that is no object", [1], {}],
    ["no matchers", [{ from: 0, until: 1 }], {}],
    ["matchers that are no array", [{ matchers: {}, from: 0, until: 1 }], {}],
    ["a matcher that is no object", [{ matchers: ["a"], from: 0, until: 1 }], {}],
    ["a matcher without a name", [{ matchers: [{ op: "=", value: "" }], from: 0, until: 1 }], {}],
    [
      "an operator that is none",
      [{ matchers: [{ name: "a", op: "~", value: "" }], from: 0, until: 1 }],
      {},
    ],
    ["no end", [{ matchers: [], from: 0 }], {}],
    ["a time that is text", [{ matchers: [], from: "0", until: 1 }], {}],
    ["half a millisecond", [{ matchers: [], from: 0, until: 0.5 }], {}],
    ["1,001 selections", range(1001).map((n) => ({ matchers: [], from: n, until: n })), {}],
    ["0 samples", [], { p_samples_limit: 0 }],
    ["10,000,001 samples", [], { p_samples_limit: 10_000_001 }],
    ["any number of samples", [], { p_samples_limit: null }],
  ])("refuses %s", async ([, selections, args], { query }) => {
    await expect(read(query, selections, args as object)).rejects.toMatchObject({
      code: "22023",
      hint: expect.any(String),
    });
  });

  it("takes 1,000 selections, 10,000,000 samples and times far beyond any", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    await addSeries(query, metric, [[NOON, 1]]);
    const wanted = range(1000).map(() => selection(metric, -Number.MAX_VALUE, Number.MAX_VALUE));
    const { series } = await read(query, wanted, { p_samples_limit: 10_000_000 });
    expect(series).toMatchObject([{ in: range(1000), values: [1] }]);
  });

  it.for(["(", "*", "a)|(b", "(?i)a"])(
    "refuses the pattern %s although no series is left to try it on",
    async (value, { query }) => {
      for (const op of ["=~", "!~"]) {
        const matchers = [named("unknown"), { name: "n", op, value }];
        await expect(read(query, [{ matchers, from: 0, until: 1 }]))
          .rejects.toMatchObject({ code: "2201B" });
      }
    },
  );

  it("shows admins all and others nothing", async ({ query, asOwner, asUser }) => {
    await openDays(query, CLOSED, 3);
    const metric = await addMetric(query);
    await addSeries(query, metric, [[CLOSED, 1], [NOON, 2]]);
    await compactAll(query);
    const [admin, user] = [asUser(await addAdmin(asOwner)), asUser(await addUser(asOwner))];
    for (const from of [CLOSED, NOON]) {
      const wanted = [selection(metric, from, NOON)];
      expect(await read(admin, wanted)).toMatchObject({ series: [{ metric }] });
      expect(await read(user, wanted)).toEqual(EMPTY);
    }
  });
});
