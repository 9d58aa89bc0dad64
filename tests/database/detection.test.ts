import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc, waitUntilBlocking } from "./database.ts";
import {
  addAnomaly,
  addMetric,
  addRun,
  addSeries,
  DAY,
  HOUR,
  iso,
  MINUTE,
  NOON,
  openDays,
  range,
} from "./seeds.ts";

interface Series {
  series_id: number;
  silent: boolean;
  spans: { from: number; until: number | null; label: string }[];
  deploys: number[];
  times: number[];
  values: number[];
  state: unknown;
  state_version: string | null;
  last_sample_at: number | null;
  open_anomaly: { anomaly_id: number; started_at: number } | null;
}

interface Page {
  series: Series[];
  next_series_id: number | null;
}

const readPage = (query: Query, more: object = {}, at = NOON) =>
  rpc<Page>(query, "read_detection_page", { p_now: iso(at), ...more });

/** What the detector says of a series that has a sample a minute since noon. */
function update(
  seriesId: number,
  previous: number | null,
  last: number,
  events: object[] = [],
  more: object = {},
) {
  return {
    series_id: seriesId,
    previous_sample_at: previous,
    last_sample_at: last,
    state_version: "test/1",
    state: { seen: last },
    events,
    ...more,
  };
}

const event = (
  kind: "open" | "extend" | "close",
  startedAt: number,
  lastSeenAt: number,
  more: object = {},
) => ({
  kind,
  started_at: startedAt,
  last_seen_at: lastSeenAt,
  ended_at: kind === "close" ? lastSeenAt : null,
  ended_reason: kind === "close" ? "recovered" : null,
  expected: 1,
  lower: 0,
  upper: 2,
  observed: 9,
  score: 8,
  severity: "warning",
  explanation: "9 instead of 1",
  sample_count: 1,
  ...more,
});

interface Recorded {
  opened: number;
  extended: number;
  closed: number;
  stale: number;
}

/** Text of so many characters that hardly compresses. */
const noise = (length: number) => randomBytes(length).toString("base64").slice(0, length);

const recordAll = (query: Query, updates: unknown, at = NOON) =>
  rpc<Recorded>(query, "record_detections", { p_run_id: null, p_updates: updates, p_now: iso(at) });

/** A series with a sample each minute of the `count` from noon on. */
async function addMinutes(query: Query, count: number, from = NOON, definition: object = {}) {
  const metric = await addMetric(query, { ...definition });
  return addSeries(query, metric, range(count).map((n) => [from + n * MINUTE, n]));
}

const readAnomalies = async (query: Query, seriesId: number) =>
  (await query(
    "select * from monitor.anomaly_detections where series_id = $1 order by started_at",
    [seriesId],
  )).rows;

const readEvidence = async (query: Query, anomalyId: number) =>
  (await query<{ at: string }>(
    `select monitor.epoch_ms(recorded_at) as at from monitor.evidence_samples
     where owner_kind = 'anomaly' and owner_id = $1 order by recorded_at`,
    [anomalyId],
  )).rows.map(({ at }) => Number(at));

describe("monitor.read_detection_page()", () => {
  it("gives a series with its settings, and no state the first time", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query, {
      unit: "seconds",
      kind: "counter",
      detection_direction: "up",
      detection_budget: 4,
      minimum_change: 2.5,
      minimum_change_ratio: 0.02,
    });
    const series_id = await addSeries(query, metric, [[NOON - 2, 1], [NOON - 1, 2]], { a: "b" });
    expect(await readPage(query)).toEqual({
      series: [{
        series_id,
        metric,
        labels: { a: "b" },
        unit: "seconds",
        kind: "counter",
        direction: "up",
        budget: 4,
        threshold: null,
        minimum_change: 2.5,
        minimum_change_ratio: 0.02,
        state: null,
        memory: null,
        state_version: null,
        last_sample_at: null,
        open_anomaly: null,
        spans: [],
        deploys: [],
        silent: false,
        times: [NOON - 2, NOON - 1],
        values: [1, 2],
      }],
      next_series_id: null,
    });
  });

  it("gives only what came after the saved state, with that state", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 10);
    await recordAll(query, [update(series, null, NOON + 6 * MINUTE)]);
    const { series: [page] } = await readPage(query, {}, NOON + HOUR);
    expect(page).toMatchObject({
      state: { seen: NOON + 6 * MINUTE },
      state_version: "test/1",
      last_sample_at: NOON + 6 * MINUTE,
      times: [7, 8, 9].map((n) => NOON + n * MINUTE),
    });
  });

  it("never gives a sample twice, at whatever millisecond it was judged", async ({ query }) => {
    const metric = await addMetric(query);
    let last = Date.UTC(2026, 0, 1);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 20 * DAY }), async (step) => {
        const at = last + step;
        await openDays(query, at, 2);
        const series = await addSeries(query, metric, [[at, 1], [at + 1, 2]], { at: String(at) });
        await recordAll(query, [update(series, null, at)]);
        const page = await readPage(query, { p_after_series_id: series - 1 }, at + HOUR);
        expect(page.series).toMatchObject([{ last_sample_at: at, times: [at + 1] }]);
        last = at;
      }),
      { numRuns: 30 },
    );
  });

  it("leaves out series without anything new, and those whose metric is not watched", async ({ query }) => {
    await openDays(query);
    const judged = await addMinutes(query, 3);
    await recordAll(query, [update(judged, null, NOON + 2 * MINUTE)]);
    await addMinutes(query, 3, NOON, { detection_enabled: false });
    await addSeries(query, await addMetric(query));
    expect(await readPage(query)).toEqual({ series: [], next_series_id: null });
  });

  it("starts a series nobody has judged with its last day", async ({ query }) => {
    await openDays(query, NOON - 2 * DAY, 3);
    const metric = await addMetric(query);
    await addSeries(query, metric, [[NOON - DAY - 1, 1], [NOON - DAY, 2], [NOON - DAY + 1, 3], [
      NOON,
      4,
    ]]);
    expect((await readPage(query)).series[0]!.values).toEqual([3, 4]);
  });

  it("leaves out a series nobody has judged that has been silent for a day", async ({ query }) => {
    await openDays(query, NOON - 2 * DAY, 3);
    await addSeries(query, await addMetric(query), [[NOON - DAY, 1]]);
    expect((await readPage(query)).series).toEqual([]);
    expect((await readPage(query, {}, NOON - 1)).series).toHaveLength(1);
  });

  it("works off a backlog oldest first, 1,500 samples at a time", async ({ query }) => {
    await openDays(query, NOON, 3);
    const series = await addMinutes(query, 1501);
    await recordAll(query, [update(series, null, NOON - 1)]);
    const first = (await readPage(query, {}, NOON + 2 * DAY)).series[0]!;
    expect(first.times).toHaveLength(1500);
    expect(first.times[0]).toBe(NOON);
    await recordAll(query, [update(series, NOON - 1, first.times.at(-1)!)]);
    const second = (await readPage(query, {}, NOON + 2 * DAY)).series[0]!;
    expect(second.values).toEqual([1500]);
  });

  it("gives exactly 1,500 samples at once", async ({ query }) => {
    await openDays(query, NOON, 3);
    const series = await addMinutes(query, 1500);
    await recordAll(query, [update(series, null, NOON - 1)]);
    expect((await readPage(query, {}, NOON + 2 * DAY)).series[0]!.times).toHaveLength(1500);
  });

  it("pages by series, and loses none", async ({ query }) => {
    await openDays(query);
    const all: number[] = [];
    for (const _ of range(7)) all.push(await addMinutes(query, 1, NOON - MINUTE));
    for (const p_limit of [1, 2, 3, 7, 8, 1000]) {
      const seen: number[] = [];
      for (let after: number | null = 0; after !== null;) {
        const page: Page = await readPage(query, { p_after_series_id: after, p_limit });
        expect(page.series.length).toBeLessThanOrEqual(p_limit);
        seen.push(...page.series.map(({ series_id }) => series_id));
        after = page.next_series_id;
      }
      expect(seen, `${p_limit} a page`).toEqual(all);
    }
  });

  it("says whether an anomaly is open", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 2, NOON - 5 * MINUTE);
    await addAnomaly(query, series, {
      started_at: iso(NOON - DAY),
      ended_at: iso(NOON - DAY + 1),
      ended_reason: "recovered",
    });
    expect((await readPage(query)).series[0]!.open_anomaly).toBeNull();
    const anomaly_id = await addAnomaly(query, series, { started_at: iso(NOON - HOUR) });
    expect((await readPage(query)).series[0]!.open_anomaly).toEqual({
      anomaly_id,
      started_at: NOON - HOUR,
    });
  });

  it("gives a series without new samples from when its silence is to be told", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 3);
    const last = NOON + 2 * MINUTE;
    const silentAt = NOON + 10 * MINUTE;
    const readAt = async (at: number, more = {}) => (await readPage(query, more, at)).series;
    await recordAll(query, [update(series, null, last, [], { silent_at: silentAt })]);
    expect(await readAt(silentAt - 1)).toEqual([]);
    expect(await readAt(silentAt)).toMatchObject([
      { series_id: series, silent: true, times: [], values: [], last_sample_at: last },
    ]);
    expect(await readAt(silentAt, { p_limit: 0 })).toEqual([]);

    // Told, on top of the same newest sample: it is not told again.
    expect(
      await recordAll(query, [
        update(series, last, last, [event("open", last, last, { anomaly_kind: "missing" })], {
          silent_at: null,
        }),
      ]),
    ).toMatchObject({ opened: 1, stale: 0 });
    expect(await readAt(NOON + HOUR)).toEqual([]);
  });

  it("does not call silent what has new samples, nor a metric that is not watched", async ({ query }) => {
    await openDays(query);
    const [fresh, unwatched] = [await addMinutes(query, 3), await addMinutes(query, 3)];
    const silent = { silent_at: NOON + MINUTE };
    await recordAll(query, [
      update(fresh, null, NOON + MINUTE, [], silent),
      update(unwatched, null, NOON + 2 * MINUTE, [], silent),
    ]);
    await query(
      `update monitor.metric_definitions set detection_enabled = false
       where metric = (select metric from monitor.metric_series where series_id = $1)`,
      [unwatched],
    );
    expect((await readPage(query, {}, NOON + HOUR)).series).toMatchObject([
      { series_id: fresh, silent: false, times: [NOON + 2 * MINUTE] },
    ]);
  });

  it("tells spans and deploys from 36 hours before the newest sample judged until an hour from now, each series its own", async ({ query }) => {
    await openDays(query, NOON - DAY, 2);
    const [judged, fresh] = [await addMinutes(query, 3), await addMinutes(query, 3)];
    await recordAll(query, [update(judged, null, NOON)]);
    const [since, sinceFresh] = [NOON - 36 * HOUR, NOON + HOUR - DAY - 36 * HOUR];
    const label = (series: number, from: number, until: number) =>
      rpc(query, "label_anomaly_span", {
        p_series_id: series,
        p_label: "expected",
        p_from: iso(from),
        p_until: iso(until),
      });
    for (const series of [judged, fresh]) {
      for (const until of [since - 1, since, sinceFresh - 1, sinceFresh]) {
        await label(series, NOON - 5 * DAY, until);
      }
      await label(series, NOON + 2 * HOUR, NOON + DAY);
      await label(series, NOON + 2 * HOUR + 1, NOON + DAY);
    }
    for (
      const at of [
        since - 1,
        since,
        sinceFresh - 1,
        sinceFresh,
        NOON + 2 * HOUR,
        NOON + 2 * HOUR + 1,
      ]
    ) {
      await rpc(query, "mark_deploy", { p_label: "v", p_at: iso(at) });
    }
    const { series } = await readPage(query, {}, NOON + HOUR);
    expect(series.map(({ spans }) => spans.map(({ until }) => until))).toEqual([
      [since, NOON + DAY],
      [sinceFresh, since - 1, since, NOON + DAY],
    ]);
    expect(series.map(({ deploys }) => deploys)).toEqual([
      [since, NOON + 2 * HOUR],
      [sinceFresh, since - 1, since, NOON + 2 * HOUR],
    ]);
  });

  it("tells the newest 50 of each at most", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 3);
    for (const n of range(51)) {
      const at = iso(NOON - n * MINUTE);
      await rpc(query, "mark_deploy", { p_label: "v", p_at: at });
      await rpc(query, "label_anomaly_span", {
        ...{ p_series_id: series, p_label: "missed", p_from: at, p_until: at },
      });
    }
    const { series: [page] } = await readPage(query, {}, NOON + HOUR);
    expect(page!.deploys).toEqual(range(50).map((n) => NOON - (49 - n) * MINUTE));
    expect(page!.spans.map(({ from }) => from)).toEqual(page!.deploys);
  });

  it("keeps what lasts rather than what began last, of more than 50", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 3);
    await rpc(query, "plan_maintenance", {
      ...{ p_starts_at: iso(NOON - DAY), p_ends_at: iso(NOON + DAY), p_reason: "moving house" },
    });
    for (const n of range(50)) {
      const at = iso(NOON - n * MINUTE);
      await rpc(query, "label_anomaly_span", {
        ...{ p_series_id: series, p_label: "missed", p_from: at, p_until: at },
      });
    }
    const { series: [page] } = await readPage(query, {}, NOON + HOUR);
    expect(page!.spans).toHaveLength(50);
    expect(page!.spans[0]).toMatchObject({ label: "maintenance", from: NOON - DAY });
    expect(page!.spans[1]).toMatchObject({ label: "missed", from: NOON - 48 * MINUTE });
  });

  it("goes on past a series whose new samples are gone with their day", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    await query(
      'insert into monitor.metric_series (metric, labels, last_sample_at) values ($1, \'{"a":"b"}\', $2)',
      [
        metric,
        iso(NOON),
      ],
    );
    const series = await addSeries(query, metric, [[NOON - 1, 1]]);
    const first = await readPage(query, { p_limit: 1 });
    expect(first.series).toEqual([]);
    const second = await readPage(query, { p_limit: 1, p_after_series_id: first.next_series_id });
    expect(second.series).toMatchObject([{ series_id: series }]);
  });

  it("names the next series, and reads no samples, with a limit of 0", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 1, NOON - MINUTE);
    await addMinutes(query, 1, NOON - MINUTE);
    expect(await readPage(query, { p_limit: 0 })).toEqual({ series: [], next_series_id: series });
  });

  it("tells where the last run stopped", async ({ query }) => {
    const stoppedAt = async () =>
      (await readPage(query, { p_after_series_id: null, p_limit: 0 })).next_series_id;
    const addDetection = (minute: number, result: object | null, job = "detect-anomalies") =>
      addRun(query, {
        ...{ job, scheduled_at: iso(NOON + minute * MINUTE), state: "succeeded" },
        ...{ outcome: "succeeded", finished_at: iso(NOON + minute * MINUTE), result },
      });
    expect(await stoppedAt()).toBeNull();
    await addDetection(0, { complete: false, next_series_id: 77 });
    await addDetection(1, null);
    await addDetection(2, { complete: true }, "data-retention-cleanup");
    expect(await stoppedAt()).toBe(77);
    await addDetection(3, { complete: true, next_series_id: null });
    expect(await stoppedAt()).toBeNull();
  });

  it.for([[-1, false], [0, true], [1, true], [1000, true], [1001, false], [null, false]] as const)(
    "takes a limit of %s: %s",
    async ([p_limit, isTaken], { query }) => {
      const page = readPage(query, { p_limit });
      if (isTaken) expect(await page).toMatchObject({ series: [] });
      else await expect(page).rejects.toMatchObject({ code: "22023", hint: expect.any(String) });
    },
  );
});

describe("monitor.record_detections()", () => {
  it("makes one row of an anomaly from its start to its end", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 10);
    const at = (n: number) => NOON + n * MINUTE;
    expect(await recordAll(query, [update(series, null, at(2), [event("open", at(2), at(2))])]))
      .toEqual({
        opened: 1,
        extended: 0,
        closed: 0,
        stale: 0,
      });
    const worse = {
      observed: 12,
      score: 11,
      severity: "critical",
      explanation: "12 instead of 1",
      sample_count: 3,
    };
    expect(
      await recordAll(query, [
        update(series, at(2), at(4), [event("extend", at(2), at(4), worse)]),
      ]),
    ).toEqual({
      opened: 0,
      extended: 1,
      closed: 0,
      stale: 0,
    });
    expect(
      await recordAll(query, [update(series, at(4), at(6), [event("close", at(2), at(6), worse)])]),
    ).toEqual({
      opened: 0,
      extended: 0,
      closed: 1,
      stale: 0,
    });
    expect(await readAnomalies(query, series)).toMatchObject([{
      started_at: new Date(at(2)),
      last_seen_at: new Date(at(6)),
      ended_at: new Date(at(6)),
      ended_reason: "recovered",
      observed: 12,
      score: 11,
      severity: "critical",
      explanation: "12 instead of 1",
      sample_count: 3,
      detector_version: "test/1",
      review_state: "open",
    }]);
  });

  it("takes several events of one series in order: one ends, another begins", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 10);
    const at = (n: number) => NOON + n * MINUTE;
    expect(
      await recordAll(query, [
        update(series, null, at(9), [
          event("open", at(1), at(1)),
          event("close", at(1), at(3), { ended_reason: "level_shift" }),
          event("open", at(5), at(5)),
          event("extend", at(5), at(9)),
        ]),
      ]),
    ).toEqual({ opened: 2, extended: 1, closed: 1, stale: 0 });
    expect(await readAnomalies(query, series)).toMatchObject([
      { started_at: new Date(at(1)), ended_reason: "level_shift" },
      { started_at: new Date(at(5)), last_seen_at: new Date(at(9)), ended_at: null },
    ]);
  });

  it("is a row as well when it began and ended since the last run", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 3);
    expect(
      await recordAll(query, [
        update(series, null, NOON + MINUTE, [event("close", NOON, NOON + MINUTE)]),
      ]),
    )
      .toEqual({ opened: 1, extended: 0, closed: 1, stale: 0 });
    expect(await readAnomalies(query, series)).toHaveLength(1);
  });

  it("changes nothing when it is repeated word for word", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 3);
    for (const previous of [null, NOON]) {
      const words = [
        update(series, previous, NOON + (previous ? 1 : 0), [event("open", NOON, NOON)]),
      ];
      await recordAll(query, words);
      const before = await readAnomalies(query, series);
      expect(await recordAll(query, words)).toEqual({
        opened: 0,
        extended: 0,
        closed: 0,
        stale: 1,
      });
      expect(await readAnomalies(query, series)).toEqual(before);
    }
  });

  it("drops the word of a run that read an older state, whole", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 10);
    await recordAll(query, [update(series, null, NOON)]);
    await recordAll(query, [update(series, NOON, NOON + 5 * MINUTE)]);
    expect(
      await recordAll(query, [
        update(series, NOON, NOON + 9 * MINUTE, [event("open", NOON, NOON + MINUTE)]),
      ]),
    ).toMatchObject({ stale: 1, opened: 0 });
    expect(await readAnomalies(query, series)).toEqual([]);
    const { rows } = await query("select state from monitor.detector_states where series_id = $1", [
      series,
    ]);
    expect(rows).toEqual([{ state: { seen: NOON + 5 * MINUTE } }]);
  });

  it("writes memory and forecast only when it is given them", async ({ query, asOwner }) => {
    await openDays(query);
    const series = await addMinutes(query, 10);
    const read = async () =>
      (await query(
        `select memory, forecast, monitor.epoch_ms(silent_at)::float8 as silent_at from monitor.detector_states`,
      )).rows[0];
    const memory = "m".repeat(6000);
    const forecast = { from: NOON, stepMs: HOUR, expected: [1], lower: [0], upper: [2] };
    await recordAll(query, [
      update(series, null, NOON, [], { memory, forecast, silent_at: NOON + DAY }),
    ]);
    expect(await read()).toEqual({ memory, forecast, silent_at: NOON + DAY });
    const chunks = async () => {
      const { rows: [toast] } = await asOwner<{ name: string }>(
        "select reltoastrelid::regclass::text as name from pg_class where oid = 'monitor.detector_states'::regclass",
      );
      return (await asOwner(
        `select chunk_id, chunk_seq, xmin::text, ctid::text from ${toast!.name}`,
      )).rows;
    };
    const before = await chunks();
    expect(before.length).toBeGreaterThan(0);
    await recordAll(query, [update(series, NOON, NOON + MINUTE)]);
    expect(await read()).toEqual({ memory, forecast, silent_at: null });
    expect(await chunks()).toEqual(before);
    await recordAll(query, [
      update(series, NOON + MINUTE, NOON + 2 * MINUTE, [], { memory: null, forecast: null }),
    ]);
    expect(await read()).toMatchObject({ memory: null, forecast });
  });

  it("keeps no memory of another version", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 10);
    await recordAll(query, [update(series, null, NOON, [], { memory: "old" })]);
    await recordAll(query, [update(series, NOON, NOON + 1, [], { state_version: "test/2" })]);
    const { rows } = await query("select version, memory from monitor.detector_states");
    expect(rows).toEqual([{ version: "test/2", memory: null }]);
  });

  it.for([[16_384 - 10, true], [16_384 - 9, false]] as const)(
    "bounds state and memory together: with a memory of %i bytes beside 10 of state: %s",
    async ([size, isTaken], { query }) => {
      await openDays(query);
      const series = await addMinutes(query, 2);
      const words = { state: { a: 123 }, memory: "x".repeat(size) };
      const saved = recordAll(query, [update(series, null, NOON, [], words)]);
      if (isTaken) expect(await saved).toMatchObject({ stale: 0 });
      else {await expect(saved).rejects.toMatchObject({
          constraint: "detector_states_state_bounded",
        });}
    },
  );

  it.for<[string, string, object, object]>([
    ["a forecast", "detector_states_forecast_bounded", { forecast: { noise: noise(33_000) } }, {}],
    ["details", "anomaly_detections_details_bounded", {}, { details: { noise: noise(9000) } }],
  ])("refuses %s too large to be one", async ([, constraint, more, detail], { query }) => {
    await openDays(query);
    const series = await addMinutes(query, 2);
    const events = [event("open", NOON, NOON, detail)];
    await expect(recordAll(query, [update(series, null, NOON, events, more)])).rejects
      .toMatchObject({ code: "23514", constraint });
  });

  it("says of what kind an anomaly is by now, and why in numbers", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 10);
    const at = (n: number) => NOON + n * MINUTE;
    await recordAll(query, [
      update(series, null, at(1), [
        event("open", at(1), at(1), { anomaly_kind: "spike", details: { change: 8 } }),
      ]),
    ]);
    expect(await readAnomalies(query, series)).toMatchObject([
      { kind: "spike", details: { change: 8 } },
    ]);
    await recordAll(query, [
      update(series, at(1), at(5), [
        event("extend", at(1), at(5), { anomaly_kind: "level_shift", details: { change: 7 } }),
      ]),
    ]);
    expect(await readAnomalies(query, series)).toMatchObject([
      { kind: "level_shift", details: { change: 7 } },
    ]);
  });

  it("gives those that begin within 5 minutes of the first the same group", async ({ query }) => {
    await openDays(query);
    const open = async (at: number) => {
      const series = await addMinutes(query, 1);
      await recordAll(query, [update(series, null, NOON, [event("open", at, at)])]);
      const [anomaly] = await readAnomalies(query, series);
      return { id: anomaly!.anomaly_id, group: anomaly!.group_id };
    };
    const first = await open(NOON);
    expect(first.group).toBe(first.id); // its own, also when it stays alone
    expect((await open(NOON + 5 * MINUTE)).group).toBe(first.id);
    expect((await open(NOON - 5 * MINUTE)).group).toBe(first.id);
    const second = await open(NOON + 5 * MINUTE + 1);
    expect(second.group).toBe(second.id); // of the first, not of one that joined it
    expect((await open(NOON + 10 * MINUTE + 1)).group).toBe(second.id);
    expect((await open(NOON + 3 * MINUTE)).group).toBe(first.id); // within reach of both: the earlier
  });

  it("groups those of one call", async ({ query }) => {
    await openDays(query);
    const all: number[] = [];
    for (const _ of range(3)) all.push(await addMinutes(query, 1));
    await recordAll(
      query,
      all.map((id, n) =>
        update(id, null, NOON, [event("open", NOON + n * MINUTE, NOON + n * MINUTE)])
      ),
    );
    const { rows } = await query(
      "select count(distinct group_id)::int as groups, count(*)::int as n from monitor.anomaly_detections",
    );
    expect(rows).toEqual([{ groups: 1, n: 3 }]);
  });

  it("groups those of two runs at once", async ({ ownDatabase }) => {
    const [one, other] = [
      queryOf(await ownDatabase.connect()),
      queryOf(await ownDatabase.connect()),
    ];
    await openDays(one);
    const [a, b] = [await addMinutes(one, 1), await addMinutes(one, 1)];
    const words = (id: number) => [update(id, null, NOON, [event("open", NOON, NOON)])];
    await one("begin");
    await recordAll(one, words(a));
    const second = recordAll(other, words(b));
    await waitUntilBlocking(one);
    await one("commit");
    await second;
    const { rows } = await one("select distinct group_id from monitor.anomaly_detections");
    expect(rows).toHaveLength(1);
  });

  describe("asks for a replay", () => {
    const requests = async (query: Query) =>
      (await query("select series_id, reason from monitor.detector_replays")).rows;

    it("of a series first judged that has samples from before", async ({ query }) => {
      await openDays(query, NOON - 2 * DAY, 3);
      const metric = await addMetric(query);
      const old = await addSeries(query, metric, [[NOON - DAY, 1], [NOON, 2]], { is: "old" });
      const young = await addSeries(query, metric, [[NOON - DAY + 1, 1], [NOON, 2]]);
      await recordAll(query, [update(old, null, NOON), update(young, null, NOON)]);
      expect(await requests(query)).toEqual([{ series_id: old, reason: "version" }]);
    });

    it("of one that another version has taken over", async ({ query }) => {
      await openDays(query);
      const series = await addMinutes(query, 10);
      await recordAll(query, [update(series, null, NOON)]);
      await recordAll(query, [update(series, NOON, NOON + 1)]);
      expect(await requests(query)).toEqual([]);
      await recordAll(query, [update(series, NOON + 1, NOON + 2, [], { state_version: "test/2" })]);
      expect(await requests(query)).toEqual([{ series_id: series, reason: "version" }]);
    });

    it("of one that another version shall take over, once", async ({ query }) => {
      await openDays(query);
      const series = await addMinutes(query, 10);
      const wish = { replay_version: "test/2" };
      await recordAll(query, [update(series, null, NOON, [], wish)]);
      expect(await requests(query)).toEqual([{ series_id: series, reason: "version" }]);
      await query("update monitor.detector_replays set reason = 'going on'");
      await recordAll(query, [update(series, NOON, NOON + 1, [], wish)]);
      expect(await requests(query)).toEqual([{ series_id: series, reason: "going on" }]);

      await rpc(query, "park_replay", { p_series_id: series, p_error: "bad", p_now: iso(NOON) });
      await recordAll(query, [update(series, NOON + 1, NOON + 2, [], wish)], NOON + 7 * DAY - 1);
      expect(await requests(query)).toEqual([]);
      await recordAll(query, [update(series, NOON + 2, NOON + 3, [], wish)], NOON + 7 * DAY);
      expect(await requests(query)).toHaveLength(1);
    });
  });

  it("is stale too when the state is gone since it was read", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 3);
    expect(await recordAll(query, [update(series, NOON, NOON + 1)])).toMatchObject({ stale: 1 });
    expect(
      (await query("select 1 from monitor.detector_states where series_id = $1", [series])).rows,
    ).toEqual([]);
  });

  it("counts each series by itself", async ({ query }) => {
    await openDays(query);
    const [one, other] = [await addMinutes(query, 3), await addMinutes(query, 3)];
    expect(
      await recordAll(query, [
        update(other, null, NOON, [event("open", NOON, NOON)]),
        update(one, NOON - 1, NOON, [event("open", NOON, NOON)]),
      ]),
    ).toEqual({ opened: 1, extended: 0, closed: 0, stale: 1 });
  });

  it("lets one of two runs at once have its say", async ({ ownDatabase }) => {
    const sessions = [await ownDatabase.connect(), await ownDatabase.connect()];
    const [one, other] = sessions.map(queryOf) as [Query, Query];
    await openDays(one);
    const series = await addMinutes(one, 5);
    const words = [update(series, null, NOON, [event("open", NOON, NOON)])];

    await one("begin");
    const first = await recordAll(one, words);
    const second = recordAll(other, words);
    await one("commit");
    expect(first).toMatchObject({ opened: 1, stale: 0 });
    expect(await second).toMatchObject({ opened: 0, stale: 1 });
    expect(await readAnomalies(one, series)).toHaveLength(1);
  });

  it.for(
    [
      ["no severity", { severity: "bad" }, "23514"],
      ["no explanation", { explanation: "" }, "23514"],
      ["null in place of a number", { observed: null }, "23502"],
      ["an end before its start", { ended_at: NOON - 1, ended_reason: "recovered" }, "23514"],
      ["an end without a reason", { ended_at: NOON }, "23514"],
      ["an unknown reason", { ended_at: NOON, ended_reason: "bored" }, "23514"],
      ["a band upside down", { lower: 3, upper: 0 }, "23514"],
      ["a negative score", { score: -1 }, "23514"],
      ["no samples", { sample_count: 0 }, "23514"],
      ["an unknown kind", { anomaly_kind: "odd" }, "23514"],
      ["details that are no object", { details: [1] }, "23514"],
    ] as const,
  )("refuses an event with %s, and with it all of the call", async ([, wrong, code], { query }) => {
    await openDays(query);
    const [good, bad] = [await addMinutes(query, 2), await addMinutes(query, 2)];
    await expect(
      recordAll(query, [
        update(good, null, NOON, [event("open", NOON, NOON)]),
        update(bad, null, NOON, [event("open", NOON, NOON, wrong)]),
      ]),
    ).rejects.toMatchObject({ code });
    expect((await query("select 1 from monitor.detector_states")).rows).toEqual([]);
  });

  it.for([[16_384 - 11, true], [16_384 - 10, false]] as const)(
    "bounds the state at 16 KiB: with a text of %i bytes: %s",
    async ([size, isTaken], { query }) => {
      await openDays(query);
      const series = await addMinutes(query, 2);
      const saved = recordAll(query, [
        update(series, null, NOON, [], { state: { a: "x".repeat(size + 2) } }),
      ]);
      if (isTaken) expect(await saved).toMatchObject({ stale: 0 });
      else {await expect(saved).rejects.toMatchObject({
          constraint: "detector_states_state_bounded",
        });}
    },
  );

  it.for([{}, "text", 1])("refuses %o instead of an array", async (updates, { query }) => {
    await expect(query("select monitor.record_detections(null, $1)", [JSON.stringify(updates)]))
      .rejects
      .toMatchObject({ code: "22023" });
  });

  it("does nothing with nothing", async ({ query }) => {
    expect(await recordAll(query, [])).toEqual({ opened: 0, extended: 0, closed: 0, stale: 0 });
  });
});

describe("monitor.anomaly_detections", () => {
  it("never has two open anomalies of a series", async ({ query }) => {
    await openDays(query);
    const series = await addMinutes(query, 1);
    await addAnomaly(query, series, { ended_at: iso(NOON), ended_reason: "recovered" });
    await addAnomaly(query, series);
    await expect(addAnomaly(query, series)).rejects.toMatchObject({
      code: "23505",
      constraint: "anomaly_detections_series_open_idx",
    });
  });

  it("and its archive have the same columns", async ({ query }) => {
    const columns = async (table: string) =>
      (await query(
        `select column_name, data_type, is_nullable from information_schema.columns
         where table_schema = 'monitor' and table_name = $1 order by ordinal_position`,
        [table],
      )).rows;
    expect(await columns("anomaly_detections_archive")).toEqual(
      await columns("anomaly_detections"),
    );
  });
});

describe("evidence", () => {
  const EVERY = 30 * MINUTE;
  /** A series with a sample every half hour of the five hours before and after noon, and one each moment beyond 2 hours. */
  async function addHours(query: Query) {
    await openDays(query);
    const times = [
      ...range(21).map((n) => NOON - 5 * HOUR + n * EVERY),
      NOON - 2 * HOUR - 1,
      NOON + 2 * HOUR + 1,
    ];
    return addSeries(query, await addMetric(query), times.map((at) => [at, at - NOON]));
  }
  const between = (from: number, until: number) =>
    range(Math.floor((until - from) / EVERY) + 1).map((n) => from + n * EVERY);

  it("is what lies within 2 hours of the start when an anomaly opens", async ({ query }) => {
    const series = await addHours(query);
    await recordAll(query, [update(series, null, NOON, [event("open", NOON, NOON)])]);
    const [anomaly] = await readAnomalies(query, series);
    expect(await readEvidence(query, anomaly!.anomaly_id)).toEqual(
      between(NOON - 2 * HOUR, NOON + 2 * HOUR),
    );
  });

  it("is what lies within 2 hours of either end when it closes, and not what lies between", async ({ query }) => {
    const series = await addHours(query);
    const [start, end] = [NOON - 2.5 * HOUR, NOON + 2.5 * HOUR];
    await recordAll(query, [update(series, null, end, [event("close", start, end)])]);
    const [anomaly] = await readAnomalies(query, series);
    const evidence = (await readEvidence(query, anomaly!.anomaly_id)).filter((at) =>
      at % EVERY === 0
    );
    expect(evidence).toEqual([
      ...between(start - 2 * HOUR, start + 2 * HOUR),
      ...between(end - 2 * HOUR, end + 2 * HOUR),
    ]);
    expect(evidence).not.toContain(NOON);
  });

  it("grows at the close by what had not happened yet at the opening", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    const series = await addSeries(query, metric, [[NOON - HOUR, 1], [NOON, 9]]);
    await recordAll(query, [update(series, null, NOON, [event("open", NOON, NOON)])]);
    await rpc(query, "record_samples", {
      p_samples: [{ metric, value: 8 }],
      p_recorded_at: iso(NOON + HOUR),
    });
    await recordAll(query, [
      update(series, NOON, NOON + HOUR, [event("close", NOON, NOON + HOUR)]),
    ]);
    const [anomaly] = await readAnomalies(query, series);
    expect(await readEvidence(query, anomaly!.anomaly_id)).toEqual([
      NOON - HOUR,
      NOON,
      NOON + HOUR,
    ]);
  });

  it("keeps values bit by bit, and is not written twice", async ({ query }) => {
    await openDays(query);
    const series = await addSeries(query, await addMetric(query), [[NOON, 1 / 3]]);
    const anomaly = await addAnomaly(query, series);
    expect(await rpc(query, "copy_evidence", { p_anomaly_id: anomaly })).toBe(1);
    expect(await rpc(query, "copy_evidence", { p_anomaly_id: anomaly })).toBe(0);
    expect((await query("select value from monitor.evidence_samples")).rows).toEqual([{
      value: 1 / 3,
    }]);
  });

  it("is of no anomaly that is not there", async ({ query }) => {
    expect(await rpc(query, "copy_evidence", { p_anomaly_id: 0 })).toBe(0);
  });
});
