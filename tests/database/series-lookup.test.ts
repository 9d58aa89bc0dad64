import { describe, expect } from "vitest";
import {
  parseExposition,
  parseLabelNames,
  parseLabelValues,
  parseMetadata,
  parseSeriesLabels,
} from "../../shared/contract/selections.ts";
import { it, type Query, rpc } from "./database.ts";
import { cleanUp, compactAll } from "./retention.ts";
import {
  addAdmin,
  addMetric,
  addSeries,
  addUser,
  DAY,
  HOUR,
  iso,
  MIDNIGHT,
  NOON,
  openDays,
  range,
} from "./seeds.ts";

/** The newest day that is compacted as of noon. */
const CLOSED = MIDNIGHT - 2 * DAY;

const LOOKUPS = ["read_series_labels", "read_label_names", "read_label_values"] as const;

/** Arguments of a look-up of all there is. */
const ALL = { p_selectors: [], p_from: "-infinity", p_until: "infinity", p_limit: 20_000 };

const equal = (name: string, value: string) => ({ name, op: "=", value });

const readSeries = async (query: Query, args: object = {}) =>
  parseSeriesLabels(await rpc(query, "read_series_labels", { ...ALL, ...args }));

const readNames = async (query: Query, args: object = {}) =>
  parseLabelNames(await rpc(query, "read_label_names", { ...ALL, ...args }));

const readValues = async (query: Query, p_label: string, args: object = {}) =>
  parseLabelValues(await rpc(query, "read_label_values", { p_label, ...ALL, ...args }));

const readExposition = async (query: Query, args: object = {}) =>
  parseExposition(await rpc(query, "read_exposition", { p_series_limit: 50_000, ...args }));

/** Adds a metric of that name, with what `definition` says. */
async function addNamed(query: Query, metric: string, definition: object = {}): Promise<string> {
  await addMetric(query, { metric, ...definition });
  return metric;
}

const setCreatedAt = (query: Query, seriesId: number, at: number) =>
  query("update monitor.metric_series set created_at = $2 where series_id = $1", [
    seriesId,
    iso(at),
  ]);

describe("the look-up of series", () => {
  it("finds nothing in an empty database", async ({ query }) => {
    expect(await readSeries(query)).toEqual({ series: [], isComplete: true });
    expect(await readNames(query)).toEqual({ items: [], isComplete: true });
    expect(await readValues(query, "__name__")).toEqual({ items: [], isComplete: true });
  });

  it("gives what any selector matches, each once and in order", async ({ query }) => {
    await openDays(query);
    const [first, second] = [
      await addNamed(query, "Z_first"),
      await addNamed(query, "a_second"),
    ];
    for (const labels of [{ n: "b", zone: "é" }, { n: "a", zone: "z" }, { m: "Z" }]) {
      await addSeries(query, second, [[NOON, 1]], labels);
    }
    await addSeries(query, first, [[NOON, 1]]);
    const p_selectors = [
      [equal("n", "a")],
      [equal("__name__", second), { name: "n", op: "=~", value: "a|b" }],
    ];
    expect(await readSeries(query, { p_selectors })).toEqual({
      series: [
        { metric: second, labels: { n: "a", zone: "z" } },
        { metric: second, labels: { n: "b", zone: "é" } },
      ],
      isComplete: true,
    });
    expect((await readSeries(query)).series.map(({ metric }) => metric))
      .toEqual([first, second, second, second]);
    expect((await readSeries(query, { p_selectors: [[]] })).series).toHaveLength(4);

    expect((await readNames(query)).items).toEqual(["__name__", "m", "n", "zone"]);
    expect((await readNames(query, { p_selectors })).items).toEqual(["__name__", "n", "zone"]);
    const ofFirst = { p_selectors: [[equal("__name__", first)]] };
    expect((await readNames(query, ofFirst)).items).toEqual(["__name__"]);

    expect((await readValues(query, "__name__")).items).toEqual([first, second]);
    expect((await readValues(query, "zone")).items).toEqual(["z", "é"]);
    expect((await readValues(query, "zone", { p_selectors: [[equal("n", "a")]] })).items)
      .toEqual(["z"]);
    expect((await readValues(query, "unknown")).items).toEqual([]);
  });

  it("leaves out series that were not yet or no longer there, both ends included", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    await setCreatedAt(query, await addSeries(query, metric, [[NOON, 1]], { n: "a" }), NOON - HOUR);
    await setCreatedAt(query, await addSeries(query, metric, [], { never: "a" }), NOON - HOUR);
    for (
      const [from, until, isThere] of [
        [NOON, NOON + 1, true],
        [NOON + 1, NOON + 2, false],
        [NOON - 2 * HOUR, NOON - HOUR, true],
        [NOON - 2 * HOUR, NOON - HOUR - 1, false],
      ] as const
    ) {
      const span = { p_from: iso(from), p_until: iso(until) };
      expect((await readSeries(query, span)).series).toHaveLength(isThere ? 1 : 0);
      expect((await readNames(query, span)).items).toEqual(isThere ? ["__name__", "n"] : []);
      expect((await readValues(query, "n", span)).items).toEqual(isThere ? ["a"] : []);
    }
  });

  it("says when there are more than p_limit, and gives the first of them", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    for (const n of range(3)) {
      await addSeries(query, metric, [[NOON, 1]], { [`n${n}`]: "a", m: `${n}` });
    }
    const found = async (p_limit: number) => [
      (({ series, isComplete }) => [series.length, isComplete])(
        await readSeries(query, { p_limit }),
      ),
      await readNames(query, { p_limit }),
      await readValues(query, "m", { p_limit }),
    ];
    expect(await found(2)).toEqual([
      [2, false],
      { items: ["__name__", "m"], isComplete: false },
      { items: ["0", "1"], isComplete: false },
    ]);
    expect(await found(3)).toEqual([
      [3, true],
      { items: ["__name__", "m", "n0"], isComplete: false },
      { items: ["0", "1", "2"], isComplete: true },
    ]);
    expect((await readNames(query, { p_limit: 5 })).isComplete).toBe(true);
    expect((await readNames(query, { p_limit: 4 })).isComplete).toBe(false);
    expect((await readSeries(query, { p_limit: 1 })).series).toMatchObject([{
      labels: { m: "0" },
    }]);
  });

  it("gives 1,001 series at once", async ({ query }) => {
    const metric = await addMetric(query);
    await query(
      `insert into monitor.metric_series (metric, labels, last_sample_at)
       select $1, jsonb_build_object('n', n::text), $2 from generate_series(1, 1001) as n`,
      [metric, iso(NOON)],
    );
    expect(await readSeries(query)).toMatchObject({ isComplete: true, series: { length: 1001 } });
    expect((await readValues(query, "n")).items).toEqual(
      range(1001).map((n) => `${n + 1}`).toSorted(),
    );
  });

  it.for([
    ["no series", "22023", { p_limit: 0 }],
    ["20,001 series", "22023", { p_limit: 20_001 }],
    ["any number of series", "22023", { p_limit: null }],
    ["no start", "22023", { p_from: null }],
    ["no end", "22023", { p_until: null }],
    ["no selectors", "22023", { p_selectors: null }],
    ["a number", "22023", { p_selectors: 1 }],
    ["an object", "22023", { p_selectors: {} }],
    ["a selector that is no array", "22023", { p_selectors: [equal("a", "b")] }],
    ["a matcher that is no object", "22023", { p_selectors: [[1]] }],
    ["a matcher without operator", "22023", { p_selectors: [[{ name: "a", value: "b" }]] }],
    ["1,001 selectors", "22023", { p_selectors: range(1001).map(() => []) }],
    [
      "a pattern that is none",
      "2201B",
      { p_selectors: [[{ name: "a", op: "=~", value: "(" }]] },
    ],
  ])("refuses %s", async ([, code, args], { query }) => {
    for (const lookup of LOOKUPS) {
      const p_label = lookup === "read_label_values" ? { p_label: "a" } : {};
      await expect(rpc(query, lookup, { ...p_label, ...ALL, ...(args as object) }), lookup)
        .rejects.toMatchObject({ code });
    }
  });

  it("takes 1,000 selectors", async ({ query }) => {
    await addSeries(query, await addMetric(query), []);
    const p_selectors = range(1000).map(() => []);
    expect(await readSeries(query, { p_selectors })).toEqual({ series: [], isComplete: true });
  });
});

describe("monitor.read_metadata()", () => {
  it("describes one metric, or all by name", async ({ query }) => {
    const shipped = parseMetadata(
      await rpc(query, "read_metadata", { p_metric: null, p_limit: 20_000 }),
    );
    expect(shipped.length).toBeGreaterThan(0);
    const metric = await addNamed(query, "A_test", { kind: "counter", unit: "seconds" });
    const read = async (p_metric: string | null, p_limit: number) =>
      parseMetadata(await rpc(query, "read_metadata", { p_metric, p_limit }));
    const known = { metric, kind: "counter", unit: "seconds", description: "Of a test." };
    expect(await read(metric, 1)).toEqual([known]);
    expect(await read("unknown", 1)).toEqual([]);
    expect(await read(null, 1)).toEqual([known]);
    expect(await read(null, 20_000)).toEqual([known, ...shipped]);
  });

  it.for([0, 20_001, null])("refuses p_limit %s", async (p_limit, { query }) => {
    await expect(rpc(query, "read_metadata", { p_metric: null, p_limit }))
      .rejects.toMatchObject({ code: "22023" });
  });
});

describe("monitor.read_exposition()", () => {
  it("finds nothing in an empty database", async ({ query }) => {
    expect(await readExposition(query)).toEqual({ metrics: [], series: [], isComplete: true });
  });

  it.for<[string, number[]]>([
    ["decimals", [1.5, 2.25, -3.75]],
    ["a counter", range(200).map((n) => n * n)],
    ["numbers of many digits", [Math.PI, Math.E, 1 / 3]],
    ["numbers far apart", [1e300, -1e300, 1e-300]],
    ["one number", [7]],
  ])(
    "gives the newest value, however old, wherever it lies: %s",
    async ([, values], { query, asOwner }) => {
      await openDays(query, CLOSED - DAY, 4);
      const metric = await addMetric(query, { kind: "counter" });
      const last = CLOSED + (values.length - 1) * HOUR / 20;
      const id = await addSeries(query, metric, values.map((v, n) => [CLOSED + n * HOUR / 20, v]));
      await addSeries(query, metric, [], { never: "sampled" });
      const expected = {
        metrics: [{
          metric,
          kind: "counter",
          unit: "count",
          description: "Of a test.",
          category: "system",
        }],
        series: [{ metric, labels: {}, time: last, value: values.at(-1) }],
        isComplete: true,
      };
      expect(await readExposition(query)).toEqual(expected);
      await compactAll(query);
      expect(await readExposition(query)).toEqual(expected);

      const late = async (at: number, value: number) => {
        await query("insert into monitor.late_samples values ($1, $2, $3)", [id, iso(at), value]);
        await query(
          `update monitor.metric_series set last_sample_at = greatest(last_sample_at, $2)
           where series_id = $1`,
          [id, iso(at)],
        );
      };
      await late(last - 1, 5);
      expect(await readExposition(query)).toEqual(expected);
      await late(last + 1, 42);
      const withLate = { ...expected, series: [{ metric, labels: {}, time: last + 1, value: 42 }] };
      expect(await readExposition(query)).toEqual(withLate);
      await compactAll(query);
      expect((await query("select from monitor.late_samples")).rows).toEqual([]);
      expect(await readExposition(query)).toEqual(withLate);

      await cleanUp(query, "cleanup_old_metrics", { retention_days: 1 });
      expect((await query("select from monitor.metric_chunks")).rows).toEqual([]);
      expect(await readExposition(query)).toEqual(withLate);
      await asOwner("delete from monitor.metric_rollups");
      expect(await readExposition(query)).toEqual({ metrics: [], series: [], isComplete: true });
    },
  );

  it("is in order of metrics and labels", async ({ query }) => {
    await openDays(query);
    const metrics = [
      await addNamed(query, "a_test"),
      await addNamed(query, "B_test"),
    ];
    for (const metric of metrics) {
      for (const n of ["b", "a"]) await addSeries(query, metric, [[NOON, 1]], { n });
    }
    const { metrics: described, series } = await readExposition(query);
    expect(described.map(({ metric }) => metric)).toEqual(["B_test", "a_test"]);
    expect(series.map(({ metric, labels }) => metric + labels.n))
      .toEqual(["B_testa", "B_testb", "a_testa", "a_testb"]);
  });

  it("says when there are more than p_series_limit, and describes no metric without a series", async ({ query }) => {
    await openDays(query);
    for (const metric of ["a_test", "b_test", "c_test"]) {
      await addSeries(query, await addNamed(query, metric), [[NOON, 1]]);
    }
    const names = async (p_series_limit: number) => {
      const { metrics, series, isComplete } = await readExposition(query, { p_series_limit });
      expect(metrics.map(({ metric }) => metric)).toEqual(series.map(({ metric }) => metric));
      return [series.map(({ metric }) => metric), isComplete];
    };
    expect(await names(2)).toEqual([["a_test", "b_test"], false]);
    expect(await names(3)).toEqual([["a_test", "b_test", "c_test"], true]);
    expect(await names(1)).toEqual([["a_test"], false]);
  });

  it("takes a sample of a clock that is ahead for one of p_now", async ({ query }) => {
    await openDays(query);
    await addSeries(query, await addMetric(query), [[NOON, 1]]);
    const timeAt = async (now: number) =>
      (await readExposition(query, { p_now: iso(now) })).series[0]!.time;
    expect(await timeAt(NOON + 1)).toBe(NOON);
    expect(await timeAt(NOON - 1)).toBe(NOON - 1);
  });

  it.for([0, 50_001, null])("refuses p_series_limit %s", async (p_series_limit, { query }) => {
    await expect(readExposition(query, { p_series_limit }))
      .rejects.toMatchObject({ code: "22023", hint: expect.any(String) });
  });
});

describe("readers of series", () => {
  it("show admins all and others nothing", async ({ query, asOwner, asUser }) => {
    await openDays(query, CLOSED, 3);
    await addSeries(query, await addMetric(query), [[CLOSED, 1]]);
    await compactAll(query);
    const [admin, user] = [asUser(await addAdmin(asOwner)), asUser(await addUser(asOwner))];
    for (const [who, count] of [[admin, 1], [user, 0]] as const) {
      expect((await readSeries(who)).series).toHaveLength(count);
      expect((await readNames(who)).items).toHaveLength(count);
      expect((await readValues(who, "__name__")).items).toHaveLength(count);
      expect((await readExposition(who)).series).toHaveLength(count);
    }
    const describe = (who: Query) =>
      rpc<unknown[]>(who, "read_metadata", { p_metric: null, p_limit: 1 });
    expect(await describe(admin)).toHaveLength(1);
    expect(await describe(user)).toEqual([]);
  });
});
