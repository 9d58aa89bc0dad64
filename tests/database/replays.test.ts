import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc, waitUntilBlocking } from "./database.ts";
import { compactAll } from "./retention.ts";
import { addMetric, addSeries, DAY, HOUR, iso, MINUTE, NOON, openDays, range } from "./seeds.ts";

interface Slice {
  series_id: number;
  state: unknown;
  memory: string | null;
  candidates: unknown;
  cursor_at: number | null;
  version: string | null;
  requested_at: number | null;
  last_sample_at: number;
  read_until: number;
  is_last: boolean;
  times: number[];
  values: number[];
  spans: object[];
  deploys: number[];
}

const readSlice = (query: Query, more: object = {}) =>
  rpc<Slice | null>(query, "read_replay_slice", { p_now: iso(NOON), ...more });

const request = (query: Query, series: number, more: object = {}) =>
  rpc<boolean>(query, "request_replay", {
    p_series_id: series,
    p_reason: "test",
    p_now: iso(NOON),
    ...more,
  });

/** As if it had been read just now. */
const recordSlice = async (query: Query, series: number, cursor: number, more: object = {}) =>
  (await rpc<{ outcome: string }>(query, "record_replay_slice", {
    p_requested_at: await readRequestedAt(query, series),
    p_series_id: series,
    p_previous_cursor: null,
    p_cursor: cursor,
    p_version: "test/2",
    p_state: { seen: cursor },
    p_memory: "new",
    p_candidates: { ended: [cursor] },
    p_forecast: null,
    p_silent_at: null,
    p_finished: false,
    p_threshold: null,
    p_calibration: null,
    p_now: iso(NOON),
    ...more,
  })).outcome;

const readRequestedAt = async (query: Query, series: number) =>
  (await query<{ at: string }>(
    "select monitor.epoch_ms(requested_at) as at from monitor.detector_replays where series_id = $1",
    [series],
  )).rows[0]?.at ?? null;

const FINISHED = {
  p_finished: true,
  p_threshold: 0.6,
  p_calibration: { days: 28, told: 3 },
  p_silent_at: NOON + HOUR,
};

/** A series with samples at `times`, whose days are open, judged live up to the last one of them. */
async function addJudged(
  query: Query,
  times: readonly number[],
  { metric, ...columns }: Readonly<Record<string, unknown>> = {},
): Promise<number> {
  const series = await addSeries(
    query,
    metric as string ?? await addMetric(query),
    times.map((at, n) => [at, n]),
    { n: String(Math.random()) },
  );
  const row = {
    series_id: series,
    version: "test/1",
    state: { live: true },
    memory: "old",
    threshold: 0.5,
    last_sample_at: iso(times.at(-1) ?? NOON),
    ...columns,
  };
  await query(
    `insert into monitor.detector_states (${Object.keys(row)})
     values (${Object.keys(row).map((_, index) => `$${index + 1}`)})`,
    Object.values(row),
  );
  await query("update monitor.metric_series set created_at = $2 where series_id = $1", [
    series,
    iso(NOON - DAY),
  ]);
  return series;
}

const readLive = async (query: Query, series: number) =>
  (await query(
    `select version, state, memory, threshold, calibration, calibrated_at, forecast,
       monitor.epoch_ms(silent_at)::float8 as silent_at, monitor.epoch_ms(last_sample_at)::float8 as last_sample_at
     from monitor.detector_states where series_id = $1`,
    [series],
  )).rows[0]!;

const readReplays = async (query: Query) =>
  (await query(
    `select series_id, reason, version, monitor.epoch_ms(cursor_at)::float8 as cursor_at, slice_count
     from monitor.detector_replays order by 1`,
  )).rows;

const minutes = (count: number, until = NOON) =>
  range(count).map((n) => until - (count - 1 - n) * MINUTE);

describe("monitor.request_replay()", () => {
  it("is for series that were judged", async ({ query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(2));
    expect(await request(query, series)).toBe(true);
    expect(await request(query, await addSeries(query, await addMetric(query)))).toBe(false);
    expect(await request(query, 0)).toBe(false);
    expect(await readReplays(query)).toEqual([
      { series_id: series, reason: "test", version: null, cursor_at: null, slice_count: 0 },
    ]);
  });

  it("starts one that goes on from the beginning", async ({ query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5));
    await request(query, series);
    await recordSlice(query, series, NOON - MINUTE);
    await request(query, series, { p_reason: "again" });
    expect(await readReplays(query)).toEqual([
      { series_id: series, reason: "again", version: null, cursor_at: null, slice_count: 0 },
    ]);
    expect(await readSlice(query)).toMatchObject({ state: null, memory: null, candidates: null });
  });
});

describe("monitor.request_replays()", () => {
  it("is of many at once, and says of how many", async ({ query }) => {
    await openDays(query);
    const [one, other] = [await addJudged(query, minutes(2)), await addJudged(query, minutes(2))];
    await request(query, one);
    await recordSlice(query, one, NOON);
    const { rows } = await query("select monitor.request_replays($1, 'all', $2) as n", [
      ...[[other, one, 0, one], iso(NOON)],
    ]);
    expect(rows).toEqual([{ n: 2 }]);
    expect(await readReplays(query)).toMatchObject([
      { series_id: one, reason: "all", cursor_at: null },
      { series_id: other, reason: "all" },
    ]);
  });
});

describe("monitor.read_replay_slice()", () => {
  it("is null when there is nothing to replay", async ({ query }) => {
    await openDays(query);
    await addJudged(query, minutes(5));
    expect(await readSlice(query)).toBeNull();
  });

  it("gives a series with its settings, samples, and nothing of its live state", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query, {
      unit: "seconds",
      kind: "counter",
      detection_budget: 4,
    });
    const series = await addJudged(query, minutes(3), { metric });
    await rpc(query, "mark_deploy", { p_label: "v2", p_at: iso(NOON - 27 * DAY) });
    await rpc(query, "mark_deploy", { p_label: "v1", p_at: iso(NOON - 29 * DAY) });
    await rpc(query, "label_anomaly_span", {
      p_series_id: series,
      p_label: "missed",
      p_from: iso(NOON - 20 * DAY),
      p_until: iso(NOON - 19 * DAY),
      p_now: iso(NOON),
    });
    expect(await readSlice(query)).toEqual({
      series_id: series,
      metric,
      labels: { n: expect.any(String) },
      unit: "seconds",
      kind: "counter",
      direction: "auto",
      budget: 4,
      minimum_change: null,
      minimum_change_ratio: null,
      spans: [{ from: NOON - 20 * DAY, until: NOON - 19 * DAY, label: "missed" }],
      deploys: [NOON - 27 * DAY],
      state: null,
      memory: null,
      candidates: null,
      cursor_at: null,
      version: null,
      requested_at: NOON,
      last_sample_at: NOON,
      read_until: NOON,
      is_last: true,
      times: minutes(3),
      values: [0, 1, 2],
    });
  });

  it("takes the oldest request first, of watched metrics only", async ({ query }) => {
    await openDays(query);
    const watched = await addMetric(query);
    const [first, second] = [
      await addJudged(query, minutes(2), { metric: watched }),
      await addJudged(query, minutes(2), { metric: watched }),
    ];
    const unwatched = await addMetric(query, { detection_enabled: false });
    const off = await addJudged(query, minutes(2), { metric: unwatched });
    await request(query, off, { p_now: iso(NOON - HOUR) });
    await request(query, first);
    await request(query, second, { p_now: iso(NOON - MINUTE) });
    expect((await readSlice(query))!.series_id).toBe(second);
    expect((await readSlice(query, { p_after_series_id: first }))!.series_id).toBe(second);
    expect(await readSlice(query, { p_after_series_id: second })).toBeNull();
    await rpc(query, "park_replay", { p_series_id: second, p_error: "bad" });
    expect((await readSlice(query))!.series_id).toBe(first);
    await rpc(query, "park_replay", { p_series_id: first, p_error: "bad" });
    expect(await readSlice(query)).toBeNull();
  });

  it("goes back 28 days, and up to the newest sample that was judged live", async ({ query }) => {
    await openDays(query, NOON - 29 * DAY, 30);
    const since = NOON - 28 * DAY;
    const times = [since - 1, since, NOON - 10 * DAY, NOON - 1, NOON];
    const series = await addJudged(query, times, { last_sample_at: iso(NOON - 1) });
    await request(query, series);
    const seen: number[] = [];
    for (let cursor: number | null = null;;) {
      const slice: Slice = (await readSlice(query))!;
      seen.push(...slice.times);
      expect(slice).toMatchObject({ cursor_at: cursor, last_sample_at: NOON - 1 });
      const more = { p_previous_cursor: cursor, p_finished: slice.is_last };
      const outcome = await recordSlice(query, series, slice.read_until, more);
      expect(outcome).toBe(slice.is_last ? "finished" : "recorded");
      if (slice.is_last) break;
      cursor = slice.read_until;
    }
    expect(seen).toEqual([since, NOON - 10 * DAY, NOON - 1]);
  });

  it("gives each sample once, from chunks and rows, at most 10,000 at a time", async ({ query }) => {
    await openDays(query, NOON - 9 * DAY, 10);
    const times = minutes(12_000);
    const series = await addJudged(query, times);
    await compactAll(query, { now: NOON });
    await request(query, series);
    const seen: number[] = [];
    let cursor: number | null = null;
    for (let slice = await readSlice(query); slice !== null; slice = await readSlice(query)) {
      expect(slice.times.length).toBeGreaterThan(0);
      expect(slice.times.length).toBeLessThanOrEqual(10_000);
      expect(slice.is_last).toBe(seen.length + slice.times.length === times.length);
      seen.push(...slice.times);
      await recordSlice(query, series, slice.read_until, {
        ...{ p_previous_cursor: cursor, p_finished: slice.is_last },
      });
      cursor = slice.read_until;
    }
    expect(seen).toEqual(times);
  });

  it("gives a sparse history at once", async ({ query }) => {
    await openDays(query, NOON - 28 * DAY, 29);
    const times = range(28 * 4).map((n) => NOON - (28 * 4 - 1 - n) * 6 * HOUR);
    await request(query, await addJudged(query, times));
    expect(await readSlice(query)).toMatchObject({ times, is_last: true, read_until: NOON });
  });

  it("stops where samples are many, and goes on from there", async ({ query }) => {
    await openDays(query, NOON - 3 * DAY, 4);
    const second = range(10_001).map((n) => NOON - 3 * DAY + n * 1000);
    const series = await addJudged(query, [...second, NOON]);
    await request(query, series);
    const slice = (await readSlice(query))!;
    expect(slice).toMatchObject({ times: second.slice(0, 10_000), is_last: false });
    expect(slice.read_until).toBe(second[9999]);
  });

  it.for([[10_000, true], [10_001, false]] as const)(
    "has all of %i samples of some days in one: %s",
    async ([count, isAll], { query }) => {
      await openDays(query);
      const times = range(count).map((n) => NOON - (count - 1 - n) * 1000);
      await request(query, await addJudged(query, times));
      expect(await readSlice(query)).toMatchObject({
        is_last: isAll,
        times: times.slice(0, 10_000),
        read_until: times[9999],
      });
    },
  );

  it("is empty and the last one when no sample is left", async ({ query }) => {
    await openDays(query);
    await request(query, await addJudged(query, [], { last_sample_at: iso(NOON - 40 * DAY) }));
    expect(await readSlice(query)).toMatchObject({
      ...{ times: [], values: [], is_last: true },
      read_until: NOON - 40 * DAY,
    });
  });

  it("goes on from where it was, with the state of then", async ({ query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5));
    await request(query, series);
    await recordSlice(query, series, NOON - 2 * MINUTE);
    const going = {
      state: { seen: NOON - 2 * MINUTE },
      memory: "new",
      candidates: { ended: [NOON - 2 * MINUTE] },
      cursor_at: NOON - 2 * MINUTE,
      version: "test/2",
      times: [NOON - MINUTE, NOON],
    };
    expect(await readSlice(query)).toMatchObject(going);
    expect(await readSlice(query, { p_version: "test/2" })).toMatchObject(going);
    // What another version has begun starts over.
    expect(await readSlice(query, { p_version: "test/3" })).toMatchObject({
      ...{ state: null, memory: null, candidates: null, cursor_at: null, version: null },
      times: minutes(5),
    });
  });

  describe("when nobody asked", () => {
    it.for<[string, object, number, boolean]>([
      ["calibrated 7 days ago", { calibrated_at: iso(NOON - 7 * DAY) }, 30, false],
      ["calibrated longer ago", { calibrated_at: iso(NOON - 7 * DAY - 1) }, 30, true],
      ["never calibrated and 3 days old", {}, 3, false],
      ["never calibrated and older", {}, 3 + 1 / DAY, true],
      ["of another version", { version: "test/0", calibrated_at: iso(NOON) }, 1, true],
      [
        "of another version, given up lately",
        { version: "test/0", calibrated_at: iso(NOON), calibration: { failed: "bad" } },
        1,
        false,
      ],
    ])("takes one that is %s: %s", async ([, columns, age, isDue], { query }) => {
      await openDays(query);
      const series = await addJudged(query, minutes(3), columns as Record<string, unknown>);
      await query("update monitor.metric_series set created_at = $2 where series_id = $1", [
        series,
        iso(NOON - age * DAY),
      ]);
      const slice = await readSlice(query, { p_version: "test/1" });
      if (isDue) expect(slice).toMatchObject({ series_id: series, requested_at: null });
      else expect(slice).toBeNull();
    });

    it("leaves those alone that are silent for 28 days, and those not watched", async ({ query }) => {
      await openDays(query, NOON - 28 * DAY, 29);
      const due = { calibrated_at: iso(NOON - 30 * DAY) };
      await addJudged(query, [NOON - 28 * DAY], due);
      const metric = await addMetric(query, { detection_enabled: false });
      await addJudged(query, [NOON], { ...due, metric });
      expect(await readSlice(query)).toBeNull();
      const series = await addJudged(query, [NOON - 28 * DAY + 1], due);
      expect((await readSlice(query))!.series_id).toBe(series);
    });

    it("takes requests before them", async ({ query }) => {
      await openDays(query);
      await addJudged(query, minutes(3), { calibrated_at: iso(NOON - 30 * DAY) });
      const asked = await addJudged(query, minutes(3));
      await request(query, asked);
      expect((await readSlice(query))!.series_id).toBe(asked);
    });

    it("is kept like one that was asked for once it has begun", async ({ query }) => {
      await openDays(query);
      const series = await addJudged(query, minutes(3), { calibrated_at: iso(NOON - 30 * DAY) });
      expect(await recordSlice(query, series, NOON - MINUTE)).toBe("recorded");
      expect(await readReplays(query)).toMatchObject([{ series_id: series, reason: "weekly" }]);
      expect(await readSlice(query)).toMatchObject({ cursor_at: NOON - MINUTE });
    });
  });
});

describe("monitor.record_replay_slice()", () => {
  it("leaves the live state alone until it is finished, then takes over", async ({ query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5));
    await request(query, series);
    const before = await readLive(query, series);
    expect(await recordSlice(query, series, NOON - MINUTE)).toBe("recorded");
    expect(await readLive(query, series)).toEqual(before);
    const previous = { p_previous_cursor: NOON - MINUTE };
    expect(await recordSlice(query, series, NOON, { ...previous, ...FINISHED })).toBe("finished");
    expect(await readLive(query, series)).toEqual({
      version: "test/2",
      state: { seen: NOON },
      memory: "new",
      threshold: 0.6,
      calibration: { days: 28, told: 3 },
      calibrated_at: new Date(NOON),
      forecast: null,
      silent_at: NOON + HOUR,
      last_sample_at: NOON,
    });
    expect(await readReplays(query)).toEqual([]);
    expect(await readSlice(query)).toBeNull();
  });

  it("keeps the forecast there is when it brings none", async ({ query }) => {
    await openDays(query);
    const forecast = { from: 0, stepMs: 1, expected: [], lower: [], upper: [] };
    const series = await addJudged(query, minutes(2), { forecast });
    await request(query, series);
    await recordSlice(query, series, NOON, FINISHED);
    expect((await readLive(query, series)).forecast).toEqual(forecast);
    await request(query, series);
    await recordSlice(query, series, NOON, { ...FINISHED, p_forecast: { ...forecast, from: 9 } });
    expect((await readLive(query, series)).forecast).toEqual({ ...forecast, from: 9 });
  });

  it("goes on when the live state has moved on meanwhile", async ({ query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5), { last_sample_at: iso(NOON - MINUTE) });
    await request(query, series);
    await query("update monitor.detector_states set last_sample_at = $1", [iso(NOON)]);
    const before = await readLive(query, series);
    expect(await recordSlice(query, series, NOON - MINUTE, FINISHED)).toBe("moved_on");
    expect(await readLive(query, series)).toEqual(before);
    expect(await readSlice(query)).toMatchObject({ times: [NOON], is_last: true });
    const previous = { p_previous_cursor: NOON - MINUTE };
    expect(await recordSlice(query, series, NOON, { ...previous, ...FINISHED })).toBe("finished");
  });

  it("ends also when the newest sample that was judged is gone", async ({ query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5), { last_sample_at: iso(NOON + HOUR) });
    await request(query, series);
    expect(await recordSlice(query, series, NOON, FINISHED)).toBe("finished");
    expect(await readLive(query, series)).toMatchObject({ last_sample_at: NOON + HOUR });
  });

  it.for<[string, number | null, object]>([
    ["another cursor", NOON - 3 * MINUTE, {}],
    ["no cursor", null, {}],
    ["another request", NOON - 2 * MINUTE, { p_requested_at: NOON - 1 }],
    ["another version, not from the start", NOON - 2 * MINUTE, { p_version: "test/3" }],
  ])("is stale on top of %s, and changes nothing", async ([, cursor, more], { query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5));
    await request(query, series);
    await recordSlice(query, series, NOON - 2 * MINUTE);
    const before = [await readReplays(query), await readLive(query, series)];
    const words = { p_previous_cursor: cursor, ...FINISHED, ...more };
    expect(await recordSlice(query, series, NOON, words)).toBe("stale");
    expect([await readReplays(query), await readLive(query, series)]).toEqual(before);
  });

  it("is stale when it was asked for again since it was read, also at the start", async ({ query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5));
    await request(query, series);
    const { requested_at } = (await readSlice(query))!;
    await request(query, series); // in the same moment, even
    const words = { ...FINISHED, p_requested_at: requested_at };
    expect(await recordSlice(query, series, NOON, words)).toBe("stale");
    const again = (await readSlice(query))!.requested_at;
    expect(await recordSlice(query, series, NOON, { ...words, p_requested_at: again }))
      .toBe("finished");
  });

  it("is stale when somebody asked for what was only due", async ({ query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5), { calibrated_at: iso(NOON - 30 * DAY) });
    const { requested_at } = (await readSlice(query))!;
    expect(requested_at).toBeNull();
    await request(query, series);
    const words = { ...FINISHED, p_requested_at: requested_at };
    expect(await recordSlice(query, series, NOON, words)).toBe("stale");
  });

  it("is stale when somebody was about to ask for what was only due", async ({ ownDatabase }) => {
    const [one, other] = [
      queryOf(await ownDatabase.connect()),
      queryOf(await ownDatabase.connect()),
    ];
    await openDays(one);
    const series = await addJudged(one, minutes(5), { calibrated_at: iso(NOON - 30 * DAY) });
    await one("begin");
    await request(one, series);
    const recorded = recordSlice(other, series, NOON - MINUTE);
    await waitUntilBlocking(one);
    await one("commit");
    expect(await recorded).toBe("stale");
    expect(await readReplays(one)).toMatchObject([{ reason: "test", cursor_at: null }]);
  });

  it("is stale when the replay is gone, or the series", async ({ query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5));
    const going = { p_previous_cursor: NOON - MINUTE, p_requested_at: NOON };
    expect(await recordSlice(query, series, NOON, going)).toBe("stale");
    expect(await recordSlice(query, series, NOON, { p_requested_at: NOON })).toBe("stale");
    expect(await recordSlice(query, 0, NOON)).toBe("stale");
  });

  it("starts over what another version has begun", async ({ query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5));
    await request(query, series);
    await recordSlice(query, series, NOON - MINUTE);
    const words = { p_version: "test/3" };
    expect(await recordSlice(query, series, NOON - 3 * MINUTE, words)).toBe("recorded");
    expect(await readReplays(query)).toMatchObject([
      { version: "test/3", cursor_at: NOON - 3 * MINUTE, slice_count: 1 },
    ]);
  });

  it("lets one of two at once have its say", async ({ ownDatabase }) => {
    const [one, other] = [
      queryOf(await ownDatabase.connect()),
      queryOf(await ownDatabase.connect()),
    ];
    await openDays(one);
    const series = await addJudged(one, minutes(5));
    await request(one, series);
    await one("begin");
    expect(await recordSlice(one, series, NOON - MINUTE)).toBe("recorded");
    const second = recordSlice(other, series, NOON - 2 * MINUTE);
    await one("commit");
    expect(await second).toBe("stale");
  });

  it.for(
    [
      [{ p_cursor: null }, "22023"],
      [{ p_version: null }, "22023"],
      [{ p_state: null }, "22023"],
      [{ p_finished: null }, "22023"],
      [{ ...FINISHED, p_threshold: 0 }, "23514"],
      [{ ...FINISHED, p_threshold: 1.01 }, "23514"],
      [{ p_memory: "x".repeat(16_384) }, "23514"],
      [{ ...FINISHED, p_memory: "x".repeat(16_384) }, "23514"],
    ] as const,
  )("refuses %o", async ([wrong, code], { query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5));
    await request(query, series);
    await expect(recordSlice(query, series, NOON, wrong)).rejects.toMatchObject({ code });
    expect(await readReplays(query)).toMatchObject([{ cursor_at: null }]);
  });
});

describe("monitor.park_replay()", () => {
  it("gives a replay up, keeps the threshold, and says why", async ({ query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5), { calibration: { days: 7 } });
    await request(query, series);
    await rpc(query, "park_replay", {
      p_series_id: series,
      p_error: "no\nway",
      p_now: iso(NOON),
    });
    expect(await readReplays(query)).toEqual([]);
    expect(await readLive(query, series)).toMatchObject({
      version: "test/1",
      threshold: 0.5,
      calibration: { days: 7, failed: "no\nway" },
      calibrated_at: new Date(NOON),
    });
    expect(await readSlice(query)).toBeNull();
    await request(query, series); // until somebody asks
    expect(await readSlice(query)).toMatchObject({ series_id: series });
  });

  it("leaves a request that came since it was read", async ({ query }) => {
    await openDays(query);
    const series = await addJudged(query, minutes(5));
    await request(query, series);
    const { requested_at } = (await readSlice(query))!;
    await request(query, series, { p_reason: "again" });
    const before = await readLive(query, series);
    const park = (at: number | null) =>
      rpc(query, "park_replay", { p_series_id: series, p_error: "bad", p_requested_at: at });
    await park(requested_at);
    expect(await readReplays(query)).toMatchObject([{ reason: "again" }]);
    expect(await readLive(query, series)).toEqual(before);
    await park((await readSlice(query))!.requested_at);
    expect(await readReplays(query)).toEqual([]);
    expect(await readLive(query, series)).toMatchObject({ calibration: { failed: "bad" } });
  });

  it("waits for a slice that is being recorded, as that would for it", async ({ ownDatabase }) => {
    const [one, other] = [
      queryOf(await ownDatabase.connect()),
      queryOf(await ownDatabase.connect()),
    ];
    await openDays(one);
    const series = await addJudged(one, minutes(5));
    await request(one, series);
    await one("begin");
    await one("select from monitor.detector_states where series_id = $1 for no key update", [
      series,
    ]);
    const parked = rpc(other, "park_replay", { p_series_id: series, p_error: "bad" });
    await waitUntilBlocking(one);
    // What it waits for is the first that it locks.
    await one("select from monitor.detector_replays where series_id = $1 for update nowait", [
      series,
    ]);
    await one("commit");
    await parked;
    expect(await readReplays(one)).toEqual([]);
  });

  it("does nothing to a series that is not there", async ({ query }) => {
    await rpc(query, "park_replay", { p_series_id: 0, p_error: "gone" });
  });
});
