import fc from "fast-check";
import { describe, expect } from "vitest";
import { it, type Query, rpc } from "./database.ts";
import {
  addMetric,
  addSeries,
  DAY,
  iso,
  MIDNIGHT,
  MINUTE,
  NOON,
  openDays,
  range,
} from "./seeds.ts";

interface Matcher {
  name: string;
  op: string;
  value: string;
}

interface Page {
  series: {
    series_id: number;
    metric: string;
    labels: Record<string, string>;
    times: number[];
    values: number[];
  }[];
  next_series_id: number | null;
}

const named = (metric: string): Matcher => ({ name: "__name__", op: "=", value: metric });

const read = (query: Query, matchers: unknown, from: number, until: number, more: object = {}) =>
  rpc<Page>(query, "read_samples", {
    p_matchers: matchers,
    p_from: iso(from),
    p_until: iso(until),
    ...more,
  });

describe("monitor.read_samples()", () => {
  it("includes the start of the range and excludes its end", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    const samples = range(5).map((n) => [NOON + n, n] as const);
    const series_id = await addSeries(query, metric, samples, { a: "b" });
    expect(await read(query, [named(metric)], NOON + 1, NOON + 3)).toEqual({
      series: [{
        series_id,
        metric,
        labels: { a: "b" },
        times: [NOON + 1, NOON + 2],
        values: [1, 2],
      }],
      next_series_id: null,
    });
  });

  it("leaves out series without samples in the range, and knows an empty range", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    await addSeries(query, metric, [[NOON, 1]]);
    for (const [from, until] of [[NOON + 1, NOON + 2], [NOON, NOON], [NOON + 1, NOON]] as const) {
      expect(await read(query, [named(metric)], from, until)).toEqual({
        series: [],
        next_series_id: null,
      });
    }
  });

  it("reads over days as one series, in order of time, whatever the order of writing", async ({ query }) => {
    await openDays(query, NOON - DAY, 3);
    const metric = await addMetric(query);
    const times = range(3).map((n) => NOON - DAY + n * DAY).reverse();
    await addSeries(query, metric, times.map((at) => [at, at / DAY]));
    const { series } = await read(query, [named(metric)], NOON - DAY, NOON + 2 * DAY);
    expect(series[0]!.times).toEqual(times.toReversed());
  });

  it("gives values back bit by bit", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    const values = [0.1, 1 / 3, 1e300, 1e-307, -0.5, 2 ** 53 - 1, 123456789.123456789, Math.PI];
    await addSeries(query, metric, values.map((value, index) => [NOON + index, value]));
    const { series } = await read(query, [named(metric)], NOON, NOON + 100);
    expect(series[0]!.values).toEqual(values);
  });

  it("shows each series on one page, and none on two, with 1,001 of them", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    await query(
      `with series as (
         insert into monitor.metric_series (metric, labels)
         select $1, jsonb_build_object('n', n::text) from generate_series(1, 1001) as n returning series_id
       )
       insert into monitor.metric_time_series (series_id, recorded_at, value)
       select series_id, $2, 1 from series`,
      [metric, iso(NOON)],
    );
    const first = await read(query, [named(metric)], NOON, NOON + 1);
    expect(first.series).toHaveLength(1000);
    expect(first.next_series_id).toBe(first.series.at(-1)!.series_id);
    const second = await read(query, [named(metric)], NOON, NOON + 1, {
      p_after_series_id: first.next_series_id,
    });
    expect(second.series).toHaveLength(1);
    expect(second.next_series_id).toBeNull();
    const labels = [...first.series, ...second.series].map((series) => Number(series.labels.n));
    expect(labels.sort((a, b) => a - b)).toEqual(range(1001).map((n) => n + 1));

    await expect(read(query, [], NOON, NOON + 1, { p_limit: 1001 })).rejects.toMatchObject({
      code: "22023",
      hint: expect.stringContaining("p_after_series_id"),
    });
    await expect(read(query, [], NOON, NOON + 1, { p_limit: 0 })).rejects.toMatchObject({
      code: "22023",
    });
  });

  it("loses nothing to page size, also where a page has only series without samples", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    for (const n of range(7)) {
      await addSeries(query, metric, n % 3 === 0 ? [[NOON, n]] : [], { n: String(n) });
    }
    for (const p_limit of [1, 2, 3, 7, 8]) {
      const values: number[] = [];
      for (let after: number | null = 0; after !== null;) {
        const page: Page = await read(query, [named(metric)], NOON, NOON + 1, {
          p_after_series_id: after,
          p_limit,
        });
        values.push(...page.series.flatMap((series) => series.values));
        after = page.next_series_id;
      }
      expect(values, `${p_limit} a page`).toEqual([0, 3, 6]);
    }
  });
});

describe("matchers", () => {
  const LABELS = [{}, { job: "api" }, { job: "api", host: "a" }, { job: "web" }, { job: "apis" }, {
    host: "b\nc",
  }];

  async function matched(query: Query, ...matchers: Matcher[]) {
    const metric = await addMetric(query);
    await openDays(query);
    for (const labels of LABELS) await addSeries(query, metric, [[NOON, 1]], labels);
    const { series } = await read(query, [named(metric), ...matchers], NOON, NOON + 1);
    return series.map(({ labels }) =>
      LABELS.findIndex((known) => JSON.stringify(known) === JSON.stringify(labels))
    );
  }
  // Labels come back as jsonb orders them.
  const job = (op: string, value: string): Matcher => ({ name: "job", op, value });
  const host = (op: string, value: string): Matcher => ({ name: "host", op, value });

  it.for<[string, Matcher[], number[]]>([
    ["= a value", [job("=", "api")], [1, 2]],
    ["= nothing: the label is absent", [job("=", "")], [0, 5]],
    ["!= a value, absent labels included", [job("!=", "api")], [0, 3, 4, 5]],
    ["!= nothing: the label is there", [job("!=", "")], [1, 2, 3, 4]],
    ["=~ the whole value", [job("=~", "api")], [1, 2]],
    ["=~ a prefix only with .*", [job("=~", "api.*")], [1, 2, 4]],
    ["=~ alternatives, both anchored", [job("=~", "api|web")], [1, 2, 3]],
    ["=~ what matches nothing too", [job("=~", ".*")], [0, 1, 2, 3, 4, 5]],
    ["=~ at least one character", [job("=~", ".+")], [1, 2, 3, 4]],
    ["=~ across lines", [host("=~", "b.c")], [5]],
    ["=~ not by line", [host("=~", "b")], []],
    ["!~ the whole value, absent labels included", [job("!~", "api|web")], [0, 4, 5]],
    ["!~ what matches nothing too", [job("!~", ".*")], []],
    ["several at once", [job("=", "api"), host("=", "")], [1]],
    ["the same label twice", [job("=~", "api.*"), job("!=", "api")], [4]],
    ["a label nobody has", [{ name: "zone", op: "=", value: "" }], [0, 1, 2, 3, 4, 5]],
    ["=~ is case-sensitive", [job("=~", "API")], []],
  ])("%s", async ([, matchers, expected], { query }) => {
    expect((await matched(query, ...matchers)).sort()).toEqual(expected);
  });

  it("the name is the label __name__, for every operator", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    for (const suffix of ["_first", "_second"]) {
      await addMetric(query, { metric: `${metric}${suffix}` });
      await addSeries(query, `${metric}${suffix}`, [[NOON, 1]]);
    }
    const names = async (...matchers: Matcher[]) =>
      (await read(query, matchers, NOON, NOON + 1)).series.map((series) =>
        series.metric.slice(metric.length)
      );
    const name = (op: string, value: string): Matcher => ({ name: "__name__", op, value });
    const ours = name("=~", `${metric}.*`);
    expect(await names(ours)).toEqual(["_first", "_second"]);
    expect(await names(ours, name("!=", `${metric}_first`))).toEqual(["_second"]);
    expect(await names(ours, name("!~", ".*_second"))).toEqual(["_first"]);
    expect(await names(named(`${metric}_first`), named(`${metric}_second`))).toEqual([]);
  });

  it("agree with JavaScript on anchored patterns", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    const texts = fc.sample(fc.stringMatching(/^[ab|.]{1,4}$/), { numRuns: 60, seed: 1 });
    const values = [...new Set(texts)];
    for (const value of values) await addSeries(query, metric, [[NOON, 1]], { v: value });
    // Patterns of the same letters, so that many match something.
    const pattern = fc.stringMatching(/^(a|b|\.|a\*|b\?|\(a\|b\)|\[ab\]|\|){1,4}$/);
    await fc.assert(
      fc.asyncProperty(pattern, async (source) => {
        const { series } = await read(
          query,
          [named(metric), { name: "v", op: "=~", value: source }],
          NOON,
          NOON + 1,
        );
        const anchored = new RegExp(`^(?:${source})$`, "s");
        expect(series.map(({ labels }) => labels.v!).sort()).toEqual(
          values.filter((value) => anchored.test(value)).sort(),
        );
      }),
      { numRuns: 60 },
    );
  });

  it.for([
    { op: "=", value: "x" },
    { name: "a", value: "x" },
    { name: "a", op: "=" },
    { name: "a", op: "==", value: "x" },
    { name: "a", op: "=", value: 1 },
    { name: 1, op: "=", value: "x" },
    { name: "a", op: null, value: "x" },
    "text",
    null,
    [],
  ])("are refused when malformed: %o", async (matcher, { query }) => {
    await expect(read(query, [matcher], NOON, NOON + 1)).rejects.toMatchObject({
      code: "22023",
      hint: expect.stringContaining("cache_hit_rate"),
    });
  });

  it.for([{}, "text", 1])("are refused when they are no array: %o", async (matchers, { query }) => {
    await expect(query("select monitor.read_samples($1, now(), now())", [JSON.stringify(matchers)]))
      .rejects
      .toMatchObject({ code: "22023" });
  });

  // The last ones would be patterns once they stand between ^(?: and )$, and match what they should not.
  it.for(["(", "a{2", "[a", "*", "a)", "a)|(b", ")(", "a)|(?:b"])(
    "refuse a pattern that is none: %s",
    async (value, { query }) => {
      await openDays(query);
      const metric = await addMetric(query);
      await addSeries(query, metric, [[NOON, 1]], { job: "api" });
      await expect(read(query, [named(metric), { name: "job", op: "=~", value }], NOON, NOON + 1))
        .rejects
        .toMatchObject({ code: "2201B" });
    },
  );

  it("end with the statement's time-out when a pattern takes for ever", async ({ ownDatabase }) => {
    const session = await ownDatabase.connect();
    await session.query(
      "insert into monitor.metric_series (metric, labels) values ('active_incidents', $1)",
      [JSON.stringify({ text: `${"a".repeat(4001)}!` })],
    );
    await session.query("set statement_timeout = '200ms'");
    // No odd number of letters is twice the sum of two: every pair is tried.
    const slow = [{ name: "text", op: "=~", value: "(a+)(a+)\\1\\2!" }];
    await expect(
      session.query("select monitor.read_samples($1, now(), now())", [JSON.stringify(slow)]),
    ).rejects.toMatchObject({ code: "57014" });
  });
});

interface Buckets {
  series: {
    times: number[];
    counts: number[];
    sums: number[];
    mins: number[];
    maxs: number[];
    firsts: number[];
    lasts: number[];
  }[];
}

const bucket = (query: Query, metric: string, from: number, until: number, step: string) =>
  rpc<Buckets>(query, "read_buckets", {
    p_matchers: [named(metric)],
    p_from: iso(from),
    p_until: iso(until),
    p_step: step,
  });

describe("monitor.read_buckets()", () => {
  it("gathers samples by whole multiples of the step since 1970", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    await addSeries(query, metric, [
      [NOON - 1, 5],
      [NOON, 1],
      [NOON + 7 * MINUTE, 4],
      [NOON + 5 * MINUTE, 2],
      [NOON + 9 * MINUTE + 59_999, -3],
      [NOON + 20 * MINUTE, 7],
    ]);
    const { series } = await bucket(query, metric, NOON - 1, NOON + 30 * MINUTE, "5 minutes");
    expect(series).toMatchObject([{
      times: [NOON - 5 * MINUTE, NOON, NOON + 5 * MINUTE, NOON + 20 * MINUTE],
      counts: [1, 1, 3, 1],
      sums: [5, 1, 3, 7],
      mins: [5, 1, -3, 7],
      maxs: [5, 1, 4, 7],
      firsts: [5, 1, 2, 7],
      lasts: [5, 1, -3, 7],
    }]);
  });

  it("includes the start of the range and excludes its end, inside a bucket too", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    await addSeries(query, metric, range(4).map((n) => [NOON + n, 2 ** n]));
    const { series } = await bucket(query, metric, NOON + 1, NOON + 3, "1 minute");
    expect(series).toMatchObject([{ times: [NOON], counts: [2], sums: [6] }]);
  });

  it.for(
    [
      ["1 second", 11_000_000, true],
      ["1 second", 11_000_001, false],
      ["0.999 seconds", 1000, false],
      ["1 minute", 11_000 * MINUTE, true],
      ["1 minute", 11_000 * MINUTE + 1, false],
      ["-1 minute", 1000, false],
      ["0", 1000, false],
      ["1 month", 1000, false],
      ["1 year", 1000, false],
    ] as const,
  )("takes steps of %s over %i ms: %s", async ([step, length, isTaken], { query }) => {
    const metric = await addMetric(query);
    await openDays(query);
    await addSeries(query, metric, [[NOON, 1]]);
    const answer = bucket(query, metric, NOON, NOON + length, step);
    if (isTaken) expect((await answer).series).toHaveLength(1);
    else {await expect(answer).rejects.toMatchObject({
        code: "22023",
        hint: expect.stringContaining("step"),
      });}
  });

  it("adds up to the samples: counts, sums, extremes", async ({ query }) => {
    await openDays(query, MIDNIGHT - DAY, 3);
    const metric = await addMetric(query);
    // Whole numbers, whose sum does not depend on the order of adding.
    const sample = fc.tuple(
      fc.integer({ min: MIDNIGHT - DAY, max: MIDNIGHT + DAY - 1 }),
      fc.integer({ min: -1_000_000, max: 1_000_000 }),
    );
    const samples = fc.uniqueArray(sample, { selector: ([at]) => at, minLength: 1, maxLength: 60 });
    let n = 0;
    await fc.assert(
      fc.asyncProperty(samples, fc.integer({ min: 60, max: 100_000 }), async (taken, seconds) => {
        await query("delete from monitor.metric_series where metric = $1", [metric]); // their ids are not used again
        await addSeries(query, metric, taken, { n: String(n++) });
        const step = seconds * 1000;
        const { series: [answer] } = await bucket(
          query,
          metric,
          MIDNIGHT - DAY,
          MIDNIGHT + DAY,
          `${seconds} seconds`,
        );
        const expected = new Map<number, number[]>();
        for (const [at, value] of taken.toSorted(([a], [b]) => a - b)) {
          const start = Math.floor(at / step) * step;
          expected.set(start, [...(expected.get(start) ?? []), value]);
        }
        const groups = [...expected.values()];
        expect(answer).toMatchObject({
          times: [...expected.keys()],
          counts: groups.map((values) => values.length),
          sums: groups.map((values) => values.reduce((sum, value) => sum + value, 0)),
          mins: groups.map((values) => Math.min(...values)),
          maxs: groups.map((values) => Math.max(...values)),
          firsts: groups.map((values) => values[0]),
          lasts: groups.map((values) => values.at(-1)),
        });
      }),
      { numRuns: 40 },
    );
  });

  it("pages as read_samples does", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    for (const n of range(5)) await addSeries(query, metric, [[NOON, n]], { n: String(n) });
    const sums: number[] = [];
    for (let after: number | null = 0; after !== null;) {
      const page: Buckets & { next_series_id: number | null } = await rpc(query, "read_buckets", {
        p_matchers: [named(metric)],
        p_from: iso(NOON),
        p_until: iso(NOON + 1),
        p_step: "1 minute",
        p_after_series_id: after,
        p_limit: 2,
      });
      sums.push(...page.series.flatMap((series) => series.sums));
      after = page.next_series_id;
    }
    expect(sums).toEqual([0, 1, 2, 3, 4]);
  });
});

describe("monitor.bounded_page()", () => {
  it.for(
    [
      [1000, 200, 1000],
      [1000, 201, 995],
      [1000, 24 * 60, 138],
      [100, 24 * 60, 100],
      [1000, 30 * 24 * 60, 4],
      [1000, 400 * 24 * 60, 1],
    ] as const,
  )("of %i series over %i minutes is %i", async ([limit, minutes, page], { query }) => {
    const until = iso(NOON + minutes * MINUTE);
    expect(
      await rpc(query, "bounded_page", { p_limit: limit, p_from: iso(NOON), p_until: until }),
    ).toBe(page);
  });

  it("loses no series: the next page goes on where it ended", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    for (const n of range(6)) await addSeries(query, metric, [[NOON, n]], { n: String(n) });
    const matchers = [{ name: "__name__", op: "=", value: metric }];
    const seen: number[] = [];
    for (let after: number | null = 0, pages = 0; after !== null && pages < 10; pages += 1) {
      const page: { series: { values: number[] }[]; next_series_id: number | null } = await rpc(
        query,
        "read_samples",
        {
          p_matchers: matchers,
          p_from: iso(NOON - 29 * DAY),
          p_until: iso(NOON + DAY),
          p_after_series_id: after,
        },
      );
      expect(page.series.length).toBeLessThanOrEqual(4);
      seen.push(...page.series.flatMap(({ values }) => values));
      after = page.next_series_id;
    }
    expect(seen).toEqual([0, 1, 2, 3, 4, 5]);
  });
});
