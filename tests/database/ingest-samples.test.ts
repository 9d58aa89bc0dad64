import { randomUUID } from "node:crypto";
import fc from "fast-check";
import { describe, expect } from "vitest";
import type { IngestionResult, SentSeries } from "../../shared/contract/ingestion.ts";
import { it, type Query, queryOf, rpc } from "./database.ts";
import { compactAll } from "./retention.ts";
import { addMetric, DAY, iso, MIDNIGHT, MINUTE, NOON, openDays, range, SECOND } from "./seeds.ts";

type Sent = readonly [position: number, at: number, value: number];
type Series = Partial<SentSeries>;

const OVERFLOW = { otel_metric_overflow: "true" };

const newName = () => `sent_${randomUUID().replaceAll("-", "_")}`;

/** A series of `metric` as a sender brings it. */
const seriesOf = (
  metric: string,
  labels: SentSeries["labels"] = {},
  more: Series = {},
): Series => ({
  metric,
  labels,
  kind: "gauge",
  unit: "",
  description: "",
  is_delta: false,
  ...more,
});

/** Sends samples `[position from 1, at in ms, value]` of `series`. */
async function ingest(
  query: Query,
  series: unknown,
  samples: readonly Sent[],
  now = NOON,
): Promise<IngestionResult> {
  const { rows } = await query<{ result: IngestionResult }>(
    "select monitor.ingest_samples($1, $2, $3, $4, $5) as result",
    [
      JSON.stringify(series),
      samples.map(([position]) => position),
      samples.map(([, at]) => at),
      samples.map(([, , value]) => value),
      iso(now),
    ],
  );
  return rows[0]!.result;
}

/** Samples `[at, value]` of `metric` by their labels as JSON, wherever they lie. */
async function readAll(
  query: Query,
  metric: string,
  from = NOON - 10 * DAY,
  until = NOON + 3 * DAY,
) {
  const answer = await rpc<{
    series: { labels: Record<string, string>; times: number[]; values: number[] }[];
  }>(query, "read_samples", {
    p_matchers: [{ name: "__name__", op: "=", value: metric }],
    p_from: iso(from),
    p_until: iso(until),
  });
  return Object.fromEntries(
    answer.series.map(({ labels, times, values }) => [
      JSON.stringify(labels),
      times.map((at, index) => [at, values[index]!]),
    ]),
  );
}

const definitionOf = async (query: Query, metric: string) =>
  (await query("select * from monitor.metric_definitions where metric = $1", [metric])).rows[0];

const limitSeries = (query: Query, metric: string, limit: number) =>
  query("update monitor.metric_definitions set series_limit = $2 where metric = $1", [
    metric,
    limit,
  ]);

const countOf = ({ inserted, duplicates, overflowed, rejected }: IngestionResult) =>
  inserted + duplicates + overflowed + rejected.reduce((sum, { count }) => sum + count, 0);

const rowsOf = async (query: Query) =>
  (await query<{ n: number }>(
    `select (select count(*) from monitor.metric_time_series) + (select count(*) from monitor.late_samples)
       + (select count(*) from monitor.metric_series) + (select count(*) from monitor.metric_definitions) as n`,
  )).rows[0]!.n;

describe("monitor.ingest_samples(): metrics", () => {
  it("registers a metric with what its first series says", async ({ query, asOwner }) => {
    const metric = newName();
    await ingest(query, [
      seriesOf(metric, { a: "1" }, { kind: "counter", unit: "seconds", description: "Busy." }),
      seriesOf(metric, { a: "2" }, { kind: "gauge", unit: "bytes", description: "Other." }),
    ], [[1, NOON, 1], [2, NOON, 2]]);
    expect(await definitionOf(query, metric)).toMatchObject({
      kind: "counter",
      unit: "seconds",
      description: "Busy.",
      category: "performance",
      is_ingestible: true,
      detection_enabled: true,
      series_limit: 1000,
    });
    const { rows } = await asOwner(
      "select * from monitor.audit_log where after ->> 'metric' = $1",
      [
        metric,
      ],
    );
    expect(rows).toHaveLength(1);
  });

  it("has a word for what the sender did not say", async ({ query }) => {
    const metric = newName();
    await ingest(query, [{ metric, labels: {} }], [[1, NOON, 1]]);
    expect(await definitionOf(query, metric)).toMatchObject({
      kind: "gauge",
      unit: "unknown",
      description: "Sent by an application.",
    });
  });

  it.for(
    [
      ["x_bucket", false],
      ["x_bucket_total", true],
      ["target_info", false],
      ["target_information", true],
    ] as const,
  )("judges %s: %s", async ([metric, isJudged], { query }) => {
    await ingest(query, [seriesOf(metric)], [[1, NOON, 1]]);
    expect(await definitionOf(query, metric)).toMatchObject({ detection_enabled: isJudged });
  });

  it("refuses the monitor's own and takes the rest of the request", async ({ query }) => {
    const metric = newName();
    expect(
      await ingest(query, [seriesOf("active_incidents"), seriesOf(metric)], [
        [1, NOON, 1],
        [2, NOON, 2],
        [1, NOON + 1, 3],
      ]),
    ).toEqual({
      inserted: 1,
      duplicates: 0,
      overflowed: 0,
      rejected: [{ metric: "active_incidents", reason: "is the monitor's own", count: 2 }],
    });
    expect(await readAll(query, "active_incidents")).toEqual({});
  });

  it.for(["celery_queue_size", "queue_depth"])("takes %s", async (metric, { query }) => {
    expect(await ingest(query, [seriesOf(metric, { queue: "a" })], [[1, NOON, 1]]))
      .toMatchObject({ inserted: 1, rejected: [] });
  });

  it("refuses metrics beyond ingested_metric_limit, and no others", async ({ query, asOwner }) => {
    const metrics = range(3).map((n) => `${newName()}_${n}`);
    await asOwner(`update monitor.settings set ingested_metric_limit =
      (select count(*) from monitor.metric_definitions where is_ingestible) + 2`);
    const send = () =>
      ingest(
        query,
        metrics.map((metric) => seriesOf(metric)),
        metrics.map((_, n) => [n + 1, NOON, n]),
      );
    const rejected = [{
      metric: metrics[2],
      reason: "there are too many metrics already",
      count: 1,
    }];
    expect(await send()).toEqual({ inserted: 2, duplicates: 0, overflowed: 0, rejected });
    expect(await send()).toEqual({ inserted: 0, duplicates: 2, overflowed: 0, rejected });
    await asOwner("update monitor.settings set ingested_metric_limit = ingested_metric_limit + 1");
    expect(await send()).toEqual({ inserted: 1, duplicates: 2, overflowed: 0, rejected: [] });
  });
});

describe("monitor.ingest_samples(): samples", () => {
  it("keeps the first value of a series and time, within a request and between two", async ({ query }) => {
    const metric = newName();
    const series = [seriesOf(metric, { a: "1", b: "2" })];
    expect(await ingest(query, series, [[1, NOON, 7], [1, NOON, 8], [1, NOON + 1, 9]]))
      .toEqual({ inserted: 2, duplicates: 1, overflowed: 0, rejected: [] });
    expect(
      await ingest(query, [seriesOf(metric, { b: "2", a: "1" })], [[1, NOON, 1], [1, NOON - 1, 6]]),
    ).toEqual({ inserted: 1, duplicates: 1, overflowed: 0, rejected: [] });
    expect(await readAll(query, metric)).toEqual({
      '{"a":"1","b":"2"}': [[NOON - 1, 6], [NOON, 7], [NOON + 1, 9]],
    });
  });

  it("keeps the resets of a cumulative counter", async ({ query }) => {
    const metric = newName();
    const series = [seriesOf(metric, {}, { kind: "counter" })];
    await ingest(query, series, [[1, NOON, 90], [1, NOON + 1, 3]]);
    await ingest(query, series, [[1, NOON + 2, 1]]);
    expect((await readAll(query, metric))["{}"]).toEqual([[NOON, 90], [NOON + 1, 3], [
      NOON + 2,
      1,
    ]]);
  });

  it.for<[string, Record<string, string>]>([
    ["quotes", { a: `'"\\$$'; drop table monitor.settings; --` }],
    ["newlines", { a: "one\ntwo\r\n\tthree" }],
    ["emoji", { a: "👩‍👩‍👧 🏳️‍🌈 ﷽ é" }],
    ["2,000 characters", { a: "x".repeat(2000) }],
    ["2,000 characters of four bytes", { a: "😀".repeat(1000) }],
    ["30 labels", Object.fromEntries(range(30).map((n) => [`label_${n}`, `value ${n}`]))],
  ])("tells series apart by labels with %s", async ([, labels], { query }) => {
    const metric = newName();
    expect(
      await ingest(query, [seriesOf(metric, labels), seriesOf(metric)], [[1, NOON, 1], [
        2,
        NOON,
        2,
      ]]),
    )
      .toMatchObject({ inserted: 2 });
    const { rows } = await query(
      "select labels from monitor.metric_series where metric = $1 order by series_id",
      [
        metric,
      ],
    );
    expect(rows).toEqual([{ labels }, { labels: {} }]);
  });

  it.for<[string, unknown]>([
    ["an empty value", { a: "" }],
    ["a number", { a: 1 }],
    ["a name with a dash", { "a-b": "1" }],
    ["__name__", { __name__: "x" }],
    ["an array", []],
    ["null", null],
  ])("refuses labels that have %s, and all of the request", async ([, labels], { query }) => {
    const before = await rowsOf(query);
    await expect(
      ingest(query, [seriesOf(newName()), { metric: newName(), labels }], [[1, NOON, 1]]),
    )
      .rejects.toMatchObject({ code: "23514", constraint: "metric_series_labels_valid" });
    expect(await rowsOf(query)).toBe(before);
  });

  it.for<[string, string, string, string, string]>([
    ["fewer times", `[{"metric":"x1","labels":{}}]`, "{1,1}", "{1}", "{1,1}"],
    ["fewer values", `[{"metric":"x1","labels":{}}]`, "{1,1}", "{1,2}", "{1}"],
    ["more values", `[{"metric":"x1","labels":{}}]`, "{1}", "{1}", "{1,2}"],
    ["values of no samples", `[{"metric":"x1","labels":{}}]`, "{}", "{}", "{1}"],
    ["position 0", `[{"metric":"x1","labels":{}}]`, "{0}", "{1}", "{1}"],
    ["position 2 of 1", `[{"metric":"x1","labels":{}}]`, "{2}", "{1}", "{1}"],
    ["a position of no series", "[]", "{1}", "{1}", "{1}"],
    ["no position", `[{"metric":"x1","labels":{}}]`, "{null}", "{1}", "{1}"],
    ["no time", `[{"metric":"x1","labels":{}}]`, "{1}", "{null}", "{1}"],
    ["no value", `[{"metric":"x1","labels":{}}]`, "{1}", "{1}", "{null}"],
    ["NaN", `[{"metric":"x1","labels":{}}]`, "{1,1}", "{1,2}", "{1,NaN}"],
    ["infinity", `[{"metric":"x1","labels":{}}]`, "{1}", "{1}", "{Infinity}"],
    ["minus infinity", `[{"metric":"x1","labels":{}}]`, "{1}", "{1}", "{-Infinity}"],
    ["an object of series", "{}", "{1}", "{1}", "{1}"],
    ["JSON null", "null", "{1}", "{1}", "{1}"],
  ])("refuses %s, and stores nothing", async ([, ...args], { query }) => {
    const before = await rowsOf(query);
    await expect(query("select monitor.ingest_samples($1, $2, $3, $4, $5)", [...args, iso(NOON)]))
      .rejects.toMatchObject({ code: "22023", hint: expect.stringContaining("queue_depth") });
    expect(await rowsOf(query)).toBe(before);
  });

  it.for([0, 1, 2, 3])("refuses argument %s when it is null", async (missing, { query }) => {
    const args = ["[]", "{}", "{}", "{}"].map((arg, index) => index === missing ? null : arg);
    await expect(query("select monitor.ingest_samples($1, $2, $3, $4)", args))
      .rejects.toMatchObject({ code: "22023" });
  });

  it("does nothing with nothing", async ({ query }) => {
    const before = await rowsOf(query);
    const nothing = { inserted: 0, duplicates: 0, overflowed: 0, rejected: [] };
    expect(await ingest(query, [], [])).toEqual(nothing);
    expect(await ingest(query, [seriesOf(newName())], [])).toEqual(nothing);
    expect(await rowsOf(query)).toBe(before);
  });

  it("accounts for every sample once, and stores what it says", async ({ query, asOwner }) => {
    const metrics = range(3).map(newName);
    const sets = metrics.flatMap((metric, m) =>
      range(4).map((n) =>
        seriesOf(metric, { n: String(n) }, {
          kind: m === 1 ? "counter" : "gauge",
          is_delta: m === 2,
        })
      )
    ).concat(seriesOf("active_incidents"));
    await openDays(query);
    await ingest(query, metrics.map((metric) => seriesOf(metric)), []);
    await ingest(
      query,
      metrics.map((metric) => seriesOf(metric)),
      metrics.map((_, m) => [m + 1, NOON, 0]),
    );
    for (const metric of metrics) await limitSeries(query, metric, 3);
    const dayStates = [["sealed", 2], ["dropped", 3]] as const;
    for (const [state, ago] of dayStates) {
      await openDays(query, NOON - ago * DAY);
      await asOwner("update monitor.sample_days set state = $1 where day = $2", [
        state,
        iso(NOON - ago * DAY).slice(0, 10),
      ]);
    }
    const sample = fc.tuple(
      fc.integer({ min: 1, max: sets.length }),
      fc.tuple(
        fc.constantFrom(0, 0, 0, -1, -2, -3, -5, -9, 1, 2, 40),
        fc.integer({ min: 0, max: 4 }),
      ).map(([days, n]) => NOON + days * DAY + n),
      fc.integer({ min: 0, max: 9 }),
    );
    const stored = async () =>
      Number(
        (await query(
          `select (select count(*) from monitor.metric_time_series join monitor.metric_series using (series_id)
          where labels <> '${JSON.stringify(OVERFLOW)}')
        + (select count(*) from monitor.late_samples join monitor.metric_series using (series_id)
          where labels <> '${JSON.stringify(OVERFLOW)}') as n`,
        )).rows[0]!.n,
      );
    await fc.assert(
      fc.asyncProperty(fc.array(sample, { minLength: 1, maxLength: 40 }), async (samples) => {
        const before = await stored();
        const answer = await ingest(query, sets, samples);
        expect(countOf(answer)).toBe(samples.length);
        expect(Math.min(answer.inserted, answer.duplicates, answer.overflowed))
          .toBeGreaterThanOrEqual(0);
        expect(await stored()).toBe(before + answer.inserted);
        const again = await ingest(query, sets, samples);
        expect(again).toMatchObject({
          inserted: 0,
          duplicates: answer.inserted + answer.duplicates,
          overflowed: answer.overflowed,
          rejected: answer.rejected,
        });
      }),
      { numRuns: 40 },
    );
  });
});

describe("monitor.ingest_samples(): increments", () => {
  const delta = (metric: string) => [seriesOf(metric, {}, { kind: "counter", is_delta: true })];

  it("adds them up, and ignores those at or before the last", async ({ query }) => {
    const metric = newName();
    expect(await ingest(query, delta(metric), [[1, NOON + 2, 3], [1, NOON, 1], [1, NOON, 50]]))
      .toEqual({ inserted: 2, duplicates: 1, overflowed: 0, rejected: [] });
    expect(
      await ingest(query, delta(metric), [[1, NOON + 1, 9], [1, NOON + 2, 9], [1, NOON + 3, 5]]),
    )
      .toEqual({ inserted: 1, duplicates: 2, overflowed: 0, rejected: [] });
    expect((await readAll(query, metric))["{}"]).toEqual([[NOON, 1], [NOON + 2, 4], [NOON + 3, 9]]);
  });

  it("has the same sums however they are split, and whichever are sent again", async ({ query }) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(fc.integer({ min: 0, max: 100 }), { minLength: 1, maxLength: 5 }), {
          minLength: 1,
          maxLength: 6,
        }),
        fc.array(fc.nat(5), { maxLength: 6 }),
        async (batches, retries) => {
          const metric = newName();
          let at = NOON;
          let sum = 0;
          const expected: number[][] = [];
          const requests = batches.map((batch) =>
            batch.map((value): Sent => {
              expected.push([at += SECOND, sum += value]);
              return [1, at, value];
            })
          );
          for (const [n, request] of requests.entries()) {
            await ingest(query, delta(metric), request.toReversed());
            const again = requests[(retries[n] ?? n) % (n + 1)]!; // only what was sent before
            expect(await ingest(query, delta(metric), again))
              .toMatchObject({ inserted: 0, duplicates: again.length });
          }
          expect((await readAll(query, metric))["{}"]).toEqual(expected);
        },
      ),
      { numRuns: 25 },
    );
  });

  it.for(
    [
      ["newer samples", NOON + 1],
      ["what is there already", NOON],
    ] as const,
  )("forgets the sum when the sender turns cumulative: %s", async ([, at], { query }) => {
    const metric = newName();
    const total = async () =>
      (await query("select delta_total from monitor.metric_series where metric = $1", [metric]))
        .rows;
    await ingest(query, delta(metric), [[1, NOON, 4]]);
    expect(await total()).toEqual([{ delta_total: 4 }]);
    await ingest(query, [seriesOf(metric, {}, { kind: "counter" })], [[1, at, 100]]);
    expect(await total()).toEqual([{ delta_total: null }]);
  });

  it("takes increments up to 1e300, and starts again where a sum has no room", async ({ query }) => {
    const metric = newName();
    expect(
      await ingest(query, delta(metric), [[1, NOON, 1e300], [1, NOON + 1, 1.1e300], [
        1,
        NOON + 2,
        1e300,
      ]]),
    )
      .toEqual({
        inserted: 2,
        duplicates: 0,
        overflowed: 0,
        rejected: [{ metric, reason: "is too large to be added up", count: 1 }],
      });
    await query("update monitor.metric_series set delta_total = 1.7e308 where metric = $1", [
      metric,
    ]);
    await ingest(query, delta(metric), [[1, NOON + 3, 5]]);
    expect((await readAll(query, metric))["{}"]!.map(([, value]) => value)).toEqual([
      1e300,
      2e300,
      5,
    ]);
  });
});

describe("monitor.ingest_samples(): late samples", () => {
  it.for(
    [
      [-8 * DAY, "too old"],
      [-7 * DAY - 12 * 60 * MINUTE - 1, "too old"],
      [-7 * DAY - 12 * 60 * MINUTE, "late"],
      [-7 * DAY, "late"],
      [-DAY, "late"],
      [0, "row"],
      [DAY, "row"],
      [DAY + 12 * 60 * MINUTE - 1, "row"],
      [DAY + 12 * 60 * MINUTE, "too far ahead"],
      [40 * DAY, "too far ahead"],
      [-NOON - 1, "too old"],
    ] as const,
  )("on a day nothing is known of, %i ms from now: %s", async ([offset, expected], { query }) => {
    const metric = newName();
    const answer = await ingest(query, [seriesOf(metric)], [[1, NOON + offset, 5]]);
    const isStored = expected === "row" || expected === "late";
    expect(answer).toEqual({
      inserted: isStored ? 1 : 0,
      duplicates: 0,
      overflowed: 0,
      rejected: isStored ? [] : [{ metric, reason: expected, count: 1 }],
    });
    const { rows } = await query(
      `select
      exists (select from monitor.metric_time_series join monitor.metric_series using (series_id) where metric = $1) as row,
      exists (select from monitor.late_samples join monitor.metric_series using (series_id) where metric = $1) as late`,
      [
        metric,
      ],
    );
    expect(rows).toEqual([{ row: expected === "row", late: expected === "late" }]);
    if (isStored) expect(await readAll(query, metric)).toEqual({ "{}": [[NOON + offset, 5]] });
  });

  it("adds them to a day in chunks, each once, before and after they are merged", async ({ query }) => {
    const closed = MIDNIGHT - 2 * DAY;
    await openDays(query, closed, 3);
    const metric = newName();
    const series = [seriesOf(metric)];
    await ingest(query, series, [[1, closed, 1], [1, closed + MINUTE, 2]], closed + DAY);
    await compactAll(query);
    const late: Sent[] = [[1, closed, 9], [1, closed + 5, 3], [1, closed + 5, 4]];
    expect(await ingest(query, series, late))
      .toEqual({ inserted: 1, duplicates: 2, overflowed: 0, rejected: [] });
    const expected = { "{}": [[closed, 1], [closed + 5, 3], [closed + MINUTE, 2]] };
    expect(await readAll(query, metric)).toEqual(expected);
    await compactAll(query);
    expect((await query("select * from monitor.late_samples")).rows).toEqual([]);
    expect(await ingest(query, series, late)).toMatchObject({ inserted: 0, duplicates: 3 });
    expect(await readAll(query, metric)).toEqual(expected);
  });

  it("adds them to a day that is sealed, but not what its rows have", async ({ query, asOwner }) => {
    await openDays(query, NOON - DAY, 2);
    const metric = newName();
    await ingest(query, [seriesOf(metric)], [[1, NOON - DAY, 1]]);
    await asOwner("update monitor.sample_days set state = 'sealed' where day = $1", [
      iso(NOON - DAY).slice(0, 10),
    ]);
    expect(await ingest(query, [seriesOf(metric)], [[1, NOON - DAY, 2], [1, NOON - DAY + 1, 3]]))
      .toMatchObject({ inserted: 1, duplicates: 1 });
    expect((await query("select value from monitor.late_samples")).rows).toEqual([{ value: 3 }]);
  });

  it("refuses those of a day that was dropped", async ({ query, asOwner }) => {
    await openDays(query, NOON - DAY, 2);
    await asOwner("update monitor.sample_days set state = 'dropped' where day = $1", [
      iso(NOON - DAY).slice(0, 10),
    ]);
    const metric = newName();
    expect(await ingest(query, [seriesOf(metric)], [[1, NOON - DAY, 1], [1, NOON, 2]])).toEqual({
      inserted: 1,
      duplicates: 0,
      overflowed: 0,
      rejected: [{ metric, reason: "its day was dropped", count: 1 }],
    });
  });

  it("takes no lock for days that cannot be opened, however many a request names", async ({ query }) => {
    const metric = newName();
    const sent = range(15_000).map((n): Sent => [1, NOON - n * DAY, n]);
    expect(await ingest(query, [seriesOf(metric)], sent)).toMatchObject({
      inserted: 8,
      rejected: [{ metric, reason: "too old", count: 15_000 - 8 }],
    });
    const { rows } = await query(
      `select count(*)::int as n from pg_locks
       where pid = pg_backend_pid() and locktype = 'advisory' and objsubid = 2 and mode = 'ShareLock'`,
    );
    expect(rows).toEqual([{ n: 8 }]);
  });

  it("takes 2,000 late series of a day in one request, whatever else is in it", async ({ query }) => {
    const metric = await addMetric(query, { is_ingestible: true, series_limit: 3000 });
    const series = range(2001).map((n) => seriesOf(metric, { n: String(n) }));
    const today: Sent = [1, NOON, 1];
    const late = (count: number) => range(count).map((n): Sent => [n + 1, NOON - DAY, n]);
    expect(await ingest(query, series, [...late(2000), today]))
      .toEqual({ inserted: 2001, duplicates: 0, overflowed: 0, rejected: [] });
    await expect(ingest(query, series, [...late(2001), today])).rejects.toMatchObject({
      code: "54000",
      hint: expect.stringContaining("Nothing was stored"),
    });
    expect(await ingest(query, series, late(2000)))
      .toEqual({ inserted: 0, duplicates: 2000, overflowed: 0, rejected: [] });
  });
});

describe("monitor.ingest_samples(): ceilings", () => {
  const sets = (metric: string, count: number, more: Series = {}) =>
    range(count).map((n) => seriesOf(metric, { n: String(n) }, more));
  const each = (count: number, at = NOON) => range(count).map((n): Sent => [n + 1, at, n + 1]);
  const key = JSON.stringify(OVERFLOW);

  it.for<[string, Series, number]>([
    ["the first of gauges", {}, 3],
    ["the sum of counters", { kind: "counter" }, 7],
    ["the sum of increments", { kind: "counter", is_delta: true }, 7],
  ])("keeps series_limit series, and %s beyond", async ([, more, value], { query }) => {
    const metric = await addMetric(query, {
      is_ingestible: true,
      series_limit: 2,
      kind: more.kind ?? "gauge",
    });
    expect(await ingest(query, sets(metric, 2, more), each(2)))
      .toEqual({ inserted: 2, duplicates: 0, overflowed: 0, rejected: [] });
    expect(await readAll(query, metric)).not.toHaveProperty(key);
    expect(await ingest(query, sets(metric, 4, more), each(4, NOON + 1)))
      .toEqual({ inserted: 2, duplicates: 0, overflowed: 2, rejected: [] });
    expect((await readAll(query, metric))[key]).toEqual([[NOON + 1, value]]);
    expect(Object.keys(await readAll(query, metric))).toHaveLength(3);
    const { rows } = await query(
      "select overflow_samples::int as n from monitor.metric_series where metric = $1 order by series_id",
      [metric],
    );
    expect(rows).toEqual([{ n: 0 }, { n: 0 }, { n: 2 }]);
    await limitSeries(query, metric, 3); // the overflow series itself takes no place
    expect(await ingest(query, sets(metric, 4, more), each(4, NOON + 2)))
      .toEqual({ inserted: 3, duplicates: 0, overflowed: 1, rejected: [] });
  });

  it("has a ceiling for each metric", async ({ query }) => {
    const [full, free] = [
      await addMetric(query, { is_ingestible: true, series_limit: 1 }),
      await addMetric(query, { is_ingestible: true }),
    ];
    expect(await ingest(query, [...sets(full, 3), ...sets(free, 3)], each(6)))
      .toMatchObject({ inserted: 4, overflowed: 2 });
  });

  it("holds for collectors too", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query, { series_limit: 2 });
    expect(
      await rpc(query, "record_samples", {
        p_samples: range(4).map((n) => ({ metric, labels: { n: String(n) }, value: n })),
        p_recorded_at: iso(NOON),
      }),
    ).toEqual({ inserted: 2, duplicates: 0, overflowed: 2, rejected: [] });
  });

  it("keeps series_limit series of all metrics together", async ({ query, asOwner }) => {
    const metric = newName();
    await asOwner(
      "update monitor.settings set series_limit = (select count(*) from monitor.metric_series) + 2",
    );
    expect(await ingest(query, sets(metric, 2), each(2))).toMatchObject({
      inserted: 2,
      overflowed: 0,
    });
    expect(await ingest(query, sets(metric, 3), each(3, NOON + 1)))
      .toMatchObject({ inserted: 2, overflowed: 1 });
  });

  it.for([1, 100_000])("takes a series_limit of %i, but not beyond", async (limit, { query }) => {
    const metric = await addMetric(query);
    await limitSeries(query, metric, limit);
    await expect(limitSeries(query, metric, limit === 1 ? 0 : limit + 1)).rejects.toMatchObject({
      constraint: "metric_definitions_series_limit_in_range",
    });
  });

  it("is not grown by a flood of labels", { timeout: 60_000 }, async ({ ownDatabase }) => {
    const query = queryOf(await ownDatabase.connect());
    await openDays(query);
    const metrics = range(20).map((n) => `flood_${n}`);
    const seriesCount = async () =>
      Number((await query("select count(*) as n from monitor.metric_series")).rows[0]!.n);
    let after = 0;
    for (const batch of range(25)) {
      const flood = range(2000).map((n) => seriesOf(metrics[n % 20]!, { id: `${batch}-${n}` }));
      const answer = await ingest(query, flood, each(2000, NOON + batch));
      expect(countOf(answer)).toBe(2000);
      if (batch === 9) after = await seriesCount(); // 20,000 sets: each metric is full
      else if (batch > 9) {
        expect(answer).toMatchObject({ inserted: 0, overflowed: 2000 });
        expect(await seriesCount()).toBeLessThanOrEqual(after + 20);
      }
    }
    expect(await seriesCount()).toBe(20 * 1001);
    const { rows } = await query("select count(*)::int as n from monitor.metric_time_series");
    expect(rows).toEqual([{ n: 20_000 + 15 * 20 }]);
  });
});
