import fc from "fast-check";
import { describe, expect } from "vitest";
import { it, type Query, rpc } from "./database.ts";
import { addMetric, HOUR, iso, MIDNIGHT, NOON, openDays } from "./seeds.ts";

interface Recorded {
  inserted: number;
  duplicates: number;
  overflowed: number;
  rejected: { metric: unknown; labels: unknown; reason: string }[];
}

const record = (query: Query, samples: unknown, at: number | string = NOON) =>
  rpc<Recorded>(query, "record_samples", {
    p_samples: samples,
    p_recorded_at: typeof at === "number" ? iso(at) : at,
  });

/** Everything stored of `metric`, by time and labels. */
async function readStored(query: Query, metric: string) {
  const { rows } = await query<{ labels: Record<string, string>; at: string; value: number }>(
    `select series.labels, monitor.epoch_ms(sample.recorded_at) as at, sample.value
     from monitor.metric_series as series join monitor.metric_time_series as sample using (series_id)
     where series.metric = $1 order by sample.recorded_at, series.labels::text`,
    [metric],
  );
  return rows.map(({ labels, at, value }) => ({ labels, at: Number(at), value }));
}

describe("the registry of metrics", () => {
  it("takes a sample of every shipped metric and gives it back", async ({ query }) => {
    await openDays(query);
    const { rows } = await query<{ metric: string }>(
      "select metric from monitor.metric_definitions",
    );
    const samples = rows.map(({ metric }, index) => ({ metric, labels: {}, value: index + 0.5 }));

    expect(await record(query, samples)).toEqual({
      inserted: samples.length,
      duplicates: 0,
      overflowed: 0,
      rejected: [],
    });
    const answer = await rpc<{ series: { metric: string; values: number[] }[] }>(
      query,
      "read_samples",
      {
        p_matchers: [],
        p_from: iso(NOON),
        p_until: iso(NOON + 1),
      },
    );
    expect(new Map(answer.series.map(({ metric, values }) => [metric, values]))).toEqual(
      new Map(samples.map(({ metric, value }) => [metric, [value]])),
    );
  });

  it("has the metrics whose names are fixed, in their category and unit", async ({ query }) => {
    const { rows } = await query(
      `select metric, category, unit, kind from monitor.metric_definitions
       where metric !~ '^(pg|pgvigil)_' order by metric`,
    );
    expect(rows).toEqual([
      { metric: "active_incidents", category: "monitoring", unit: "count", kind: "gauge" },
      { metric: "api_error_count", category: "performance", unit: "count", kind: "gauge" },
      { metric: "api_response_time", category: "performance", unit: "milliseconds", kind: "gauge" },
      { metric: "avg_moderation_time", category: "workflow", unit: "minutes", kind: "gauge" },
      { metric: "cache_hit_rate", category: "performance", unit: "percent", kind: "gauge" },
      { metric: "celery_queue_size", category: "workflow", unit: "count", kind: "gauge" },
      { metric: "database_connection_limit", category: "system", unit: "count", kind: "gauge" },
      { metric: "database_connections", category: "system", unit: "count", kind: "gauge" },
      { metric: "error_rate", category: "performance", unit: "percent", kind: "gauge" },
      { metric: "pending_submissions", category: "workflow", unit: "count", kind: "gauge" },
      { metric: "queue_depth", category: "workflow", unit: "count", kind: "gauge" },
      { metric: "rate_limit_violations", category: "security", unit: "count", kind: "gauge" },
      { metric: "submission_approval_rate", category: "workflow", unit: "percent", kind: "gauge" },
      { metric: "unresolved_alerts", category: "monitoring", unit: "count", kind: "gauge" },
    ]);
  });

  it("names its counters _total and nothing else so", async ({ query }) => {
    const { rows } = await query(
      "select metric, kind from monitor.metric_definitions where (kind = 'counter') <> (metric like '%\\_total')",
    );
    expect(rows).toEqual([]);
  });

  it.for(["performance", "security", "workflow", "monitoring", "system"])(
    "has the category %s",
    async (category, { query }) => {
      await addMetric(query, { category });
    },
  );

  it.for(
    [
      [{ category: "Performance" }, "metric_definitions_category_known"],
      [{ metric: "1st" }, "metric_definitions_metric_shape"],
      [{ metric: "a".repeat(201) }, "metric_definitions_metric_shape"],
      [{ metric: "ok\n" }, "metric_definitions_metric_shape"],
      [{ unit: "" }, "metric_definitions_unit_present"],
      [{ kind: "histogram" }, "metric_definitions_kind_known"],
      [{ description: "" }, "metric_definitions_description_present"],
      [{ detection_direction: "sideways" }, "metric_definitions_detection_direction_known"],
      [{ detection_budget: 0.009 }, "metric_definitions_detection_budget_in_range"],
      [{ detection_budget: 100.01 }, "metric_definitions_detection_budget_in_range"],
      [{ detection_budget: NaN }, "metric_definitions_detection_budget_in_range"],
      [{ minimum_change_ratio: -0.01 }, "metric_definitions_minimum_change_ratio_finite"],
      [{ minimum_change_ratio: NaN }, "metric_definitions_minimum_change_ratio_finite"],
      [{ minimum_change: -1 }, "metric_definitions_minimum_change_finite"],
      [{ minimum_change: "NaN" }, "metric_definitions_minimum_change_finite"],
      [{ minimum_change: "infinity" }, "metric_definitions_minimum_change_finite"],
    ] as const,
  )("refuses %o", async ([definition, constraint], { query }) => {
    await expect(addMetric(query, definition)).rejects.toMatchObject({ code: "23514", constraint });
  });

  it("takes a name of 200 characters and a colon", async ({ query }) => {
    expect(await addMetric(query, { metric: "a:".repeat(100) })).toHaveLength(36 + 5); // of the default name
    expect(
      (await query("select 1 from monitor.metric_definitions where metric = $1", [
        "a:".repeat(100),
      ])).rows,
    ).toHaveLength(1);
  });
});

describe("monitor.record_samples()", () => {
  it("keeps the first value of a series and time, whoever repeats it", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    expect(await record(query, [{ metric, labels: {}, value: 1 }])).toMatchObject({
      inserted: 1,
      duplicates: 0,
    });
    expect(await record(query, [{ metric, labels: {}, value: 2 }])).toMatchObject({
      inserted: 0,
      duplicates: 1,
    });
    expect(await record(query, [{ metric, value: 3 }], NOON + 1)).toMatchObject({ inserted: 1 });
    expect(await readStored(query, metric)).toEqual([
      { labels: {}, at: NOON, value: 1 },
      { labels: {}, at: NOON + 1, value: 3 },
    ]);
  });

  it("keeps the first of several in one call", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    const values = [7, 3, 9, 1, 5, 2, 8];
    expect(await record(query, values.map((value) => ({ metric, value })))).toEqual({
      inserted: 1,
      duplicates: values.length - 1,
      overflowed: 0,
      rejected: [],
    });
    expect(await readStored(query, metric)).toEqual([{ labels: {}, at: NOON, value: 7 }]);
  });

  it("keeps the time of the newest sample, also when older ones come later", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    for (const at of [NOON, NOON + 60_000, NOON - 60_000]) {
      await record(query, [{ metric, value: 1 }], at);
    }
    const { rows } = await query(
      "select last_sample_at from monitor.metric_series where metric = $1",
      [metric],
    );
    expect(rows).toEqual([{ last_sample_at: new Date(NOON + 60_000) }]);
  });

  it("names each bad sample with its reason and stores the others", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    const bad: [unknown, string][] = [
      [{ metric: "no_such_metric", value: 1 }, "unknown metric"],
      [{ value: 1 }, "unknown metric"],
      [{ metric: null, value: 1 }, "unknown metric"],
      [{ metric: { a: 1 }, value: 1 }, "unknown metric"],
      [null, "unknown metric"],
      [1, "unknown metric"],
      ["text", "unknown metric"],
      [[], "unknown metric"],
      [{ metric }, "value is not a finite number"],
      [{ metric, value: null }, "value is not a finite number"],
      [{ metric, value: "1" }, "value is not a finite number"],
      [{ metric, value: "NaN" }, "value is not a finite number"],
      [{ metric, value: NaN }, "value is not a finite number"], // null in JSON
      [{ metric, value: true }, "value is not a finite number"],
      [{ metric, value: [1] }, "value is not a finite number"],
      [{ metric, value: 1, labels: null }, "labels are not an object of non-empty strings"],
      [{ metric, value: 1, labels: [] }, "labels are not an object of non-empty strings"],
      [{ metric, value: 1, labels: "a" }, "labels are not an object of non-empty strings"],
      [{ metric, value: 1, labels: { a: 1 } }, "labels are not an object of non-empty strings"],
      [{ metric, value: 1, labels: { a: "" } }, "labels are not an object of non-empty strings"],
      [{ metric, value: 1, labels: { a: null } }, "labels are not an object of non-empty strings"],
      [
        { metric, value: 1, labels: { a: { b: "c" } } },
        "labels are not an object of non-empty strings",
      ],
      [
        { metric, value: 1, labels: { __name__: "x" } },
        "labels are not an object of non-empty strings",
      ],
      [
        { metric, value: 1, labels: { "1a": "x" } },
        "labels are not an object of non-empty strings",
      ],
      [
        { metric, value: 1, labels: { "a-b": "x" } },
        "labels are not an object of non-empty strings",
      ],
      [
        { metric, value: 1, labels: { "a\n": "x" } },
        "labels are not an object of non-empty strings",
      ],
      [{ metric, value: 1, labels: { "": "x" } }, "labels are not an object of non-empty strings"],
    ];
    const good = { metric, value: 42, labels: { a: "b" } };

    const answer = await record(query, [...bad.map(([sample]) => sample), good]);
    expect(answer.inserted).toBe(1);
    expect(answer.rejected.map(({ reason }) => reason)).toEqual(bad.map(([, reason]) => reason));
    expect(await readStored(query, metric)).toEqual([{ labels: { a: "b" }, at: NOON, value: 42 }]);
  });

  it.for([
    ["1e400", false],
    ["-1e400", false],
    ["1.7976931348623157e308", true],
    ["-1.7976931348623157e308", true],
    ["1.7976931348623159e308", false],
    ["1e-307", true],
    ["1e-400", false],
    ["-1e-400", false],
    ["0", true],
    ["-0.0", true],
    ["0.1", true],
    ["9007199254740993", true],
  ])("takes the JSON number %s: %s", async ([number, isTaken], { query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    const { rows: [row] } = await query<{ result: Recorded }>(
      "select monitor.record_samples($1, $2) as result",
      [`[{"metric": "${metric}", "value": ${number}}]`, iso(NOON)],
    );
    expect(row!.result.inserted).toBe(isTaken ? 1 : 0);
    expect(row!.result.rejected.map(({ reason }) => reason)).toEqual(
      isTaken ? [] : ["value is beyond double precision"],
    );
    if (isTaken) expect((await readStored(query, metric))[0]!.value).toBe(Number(number) || 0);
  });

  it("tells series apart by all their labels, in whatever order they are named", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    const labels = fc.dictionary(
      fc.stringMatching(/^[a-zA-Z_][a-zA-Z0-9_]{0,8}$/).filter((name) => name !== "__name__"),
      // quotes, newlines, emoji, what SQL and JSON treat specially; but no NUL, which Postgres cannot hold
      fc.string({ unit: "grapheme", minLength: 1, maxLength: 40 }).filter((text) =>
        !text.includes("\0")
      ),
      { maxKeys: 5 },
    );
    const key = (of: Record<string, string>) => JSON.stringify(Object.entries(of).sort());
    let at = NOON;
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(labels, { selector: key, maxLength: 8 }), async (sets) => {
        at += 1;
        const samples = sets.map((set, value) => ({ metric, labels: set, value }));
        const repeated = samples.map((sample) => ({
          ...sample,
          labels: Object.fromEntries(Object.entries(sample.labels).reverse()),
        }));
        expect(await record(query, samples, at)).toEqual({
          inserted: sets.length,
          duplicates: 0,
          overflowed: 0,
          rejected: [],
        });
        expect(await record(query, repeated, at)).toMatchObject({
          inserted: 0,
          duplicates: sets.length,
        });
        const stored = (await readStored(query, metric)).filter((sample) => sample.at === at);
        expect(new Map(stored.map((sample) => [key(sample.labels), sample.value]))).toEqual(
          new Map(samples.map((sample) => [key(sample.labels), sample.value])),
        );
      }),
      { numRuns: 30 },
    );
  });

  it.for([
    `"`,
    `'`,
    "\\",
    "\n",
    "\r\n",
    "\t",
    "🦔",
    "e\u0301",
    "{}",
    "null",
    "'; drop table x; --",
    " ",
  ])(
    "stores the label value %j as it is",
    async (text, { query }) => {
      await openDays(query);
      const metric = await addMetric(query);
      expect(await record(query, [{ metric, labels: { text }, value: 1 }])).toMatchObject({
        inserted: 1,
      });
      expect(await readStored(query, metric)).toEqual([{ labels: { text }, at: NOON, value: 1 }]);
    },
  );

  it("stores labels larger than an index entry may be", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    // Random text, or it would be compressed below the 2,704 bytes.
    const text = Array.from(
      { length: 4000 },
      (_, n) => String.fromCodePoint(0x4e00 + (n * 7919) % 20000),
    ).join("");
    const sample = { metric, labels: { text }, value: 1 };
    expect(await record(query, [sample])).toMatchObject({ inserted: 1 });
    expect(await record(query, [sample])).toMatchObject({ duplicates: 1 });
    expect(await record(query, [{ ...sample, labels: { text: `${text}!` } }])).toMatchObject({
      inserted: 1,
    });
  });

  it("cuts the time to milliseconds, down", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    await record(query, [{ metric, value: 1 }], "2026-03-10T12:00:00.001999Z");
    expect(await record(query, [{ metric, value: 2 }], "2026-03-10T12:00:00.001Z")).toMatchObject({
      duplicates: 1,
    });
    expect(await readStored(query, metric)).toEqual([{ labels: {}, at: NOON + 1, value: 1 }]);
  });

  it("puts the last millisecond of a day and the first of the next into two partitions", async ({ query, asOwner }) => {
    await openDays(query, MIDNIGHT - HOUR, 2);
    const metric = await addMetric(query);
    await record(query, [{ metric, value: 1 }], "2026-03-09T23:59:59.999999Z");
    await record(query, [{ metric, value: 2 }], "2026-03-10T00:00:00.000Z");
    const { rows } = await asOwner(
      `select tableoid::regclass::text as partition, value from monitor.metric_time_series
       where series_id = (select series_id from monitor.metric_series where metric = $1) order by 2`,
      [metric],
    );
    expect(rows).toEqual([
      { partition: "monitor.metric_time_series_20260309", value: 1 },
      { partition: "monitor.metric_time_series_20260310", value: 2 },
    ]);
  });

  it.for(["sealed", "chunks", "dropped"])(
    "refuses samples of a day that is %s",
    async (state, { query, asOwner }) => {
      await openDays(query);
      const metric = await addMetric(query);
      await asOwner("update monitor.sample_days set state = $1 where day = '2026-03-10'", [state]);
      expect(await record(query, [{ metric, value: 1 }])).toEqual({
        inserted: 0,
        duplicates: 0,
        overflowed: 0,
        rejected: [{ metric, labels: {}, reason: "no open day for 2026-03-10 12:00:00+00" }],
      });
    },
  );

  it("refuses samples of a day that nobody opened", async ({ query }) => {
    const metric = await addMetric(query);
    expect((await record(query, [{ metric, value: 1 }])).rejected).toMatchObject([
      { reason: expect.stringContaining("no open day") },
    ]);
  });

  it("does nothing with nothing", async ({ query }) => {
    expect(await record(query, [])).toEqual({
      inserted: 0,
      duplicates: 0,
      overflowed: 0,
      rejected: [],
    });
  });

  it.for([{}, "text", 1, null])("throws for %o instead of an array", async (samples, { query }) => {
    await expect(query("select monitor.record_samples($1, now())", [JSON.stringify(samples)]))
      .rejects.toMatchObject({ code: "22023", hint: expect.stringContaining("active_incidents") });
  });

  it("throws without a time", async ({ query }) => {
    await expect(query("select monitor.record_samples('[]', null)")).rejects.toMatchObject({
      code: "22023",
    });
  });

  it("lets two writers of the same minute and series pass: each sample is stored once", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    await one.query("select monitor.ensure_sample_days($1)", [iso(NOON)]);
    const call = "select monitor.record_samples($1, $2) as result";
    const samples = ["active_incidents", "cache_hit_rate", "unresolved_alerts"].map((metric) => ({
      metric,
      value: 1,
    }));

    await one.query("begin");
    const first = (await one.query(call, [JSON.stringify(samples), iso(NOON)])).rows[0].result;
    const second = other.query(call, [JSON.stringify(samples.toReversed()), iso(NOON)]);
    await one.query("commit");
    const answers = [first, (await second).rows[0].result];

    expect(answers.map(({ inserted }) => inserted)).toEqual([3, 0]);
    expect(answers.map(({ duplicates }) => duplicates)).toEqual([0, 3]);
    expect((await one.query("select count(*)::int as n from monitor.metric_series")).rows).toEqual([
      { n: 3 },
    ]);
  });
});

describe("monitor.metric_time_series", () => {
  it.for(["NaN", "infinity", "-infinity"])("holds no %s", async (value, { query }) => {
    await openDays(query);
    await expect(
      query(
        "insert into monitor.metric_time_series (recorded_at, value, series_id) values ($1, $2, 1)",
        [
          iso(NOON),
          value,
        ],
      ),
    ).rejects.toMatchObject({ code: "23514", constraint: "metric_time_series_value_finite" });
  });

  it("holds whole milliseconds only", async ({ query }) => {
    await openDays(query);
    await expect(
      query(
        "insert into monitor.metric_time_series (recorded_at, value, series_id) values ('2026-03-10T12:00:00.0001Z', 1, 1)",
      ),
    ).rejects.toMatchObject({ constraint: "metric_time_series_recorded_at_in_milliseconds" });
  });
});
