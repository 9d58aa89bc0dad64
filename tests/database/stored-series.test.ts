import { describe, expect } from "vitest";
import {
  LEARNING_MS,
  readStoredSeries,
  SERIES_LIMIT,
  type StoredRange,
} from "../../scripts/detection/stored-series.ts";
import { it, type Query, rpc } from "./database.ts";
import {
  addAnomaly,
  addMetric,
  addSeries,
  DAY,
  iso,
  MINUTE,
  NOON,
  openDays,
  range,
} from "./seeds.ts";

const read = (query: Query, metric: string, changes: Partial<StoredRange> = {}) =>
  readStoredSeries(query, { metric, labels: {}, from: NOON, until: NOON + DAY, ...changes });

const SAMPLES = range(5).map((n) => [NOON + n * MINUTE, n] as const);

describe("readStoredSeries()", () => {
  it("has samples of the time and of two weeks before, and settings as they were inferred", async ({ asOwner }) => {
    const start = NOON - LEARNING_MS;
    await openDays(asOwner, start, 16);
    const metric = await addMetric(asOwner, { unit: "seconds" });
    await addSeries(asOwner, metric, [[start - 1, 1], [start, 2], [NOON, 3], [NOON + DAY, 4]], {
      a: 'b"',
    });
    expect(await read(asOwner, metric)).toEqual([{
      name: `${metric}{a="b\\""}`,
      kind: "gauge",
      settings: {
        unit: "seconds",
        direction: "up",
        minimumChange: 0.005,
        minimumChangeRatio: 0.02,
      },
      samples: [{ at: start, value: 2 }, { at: NOON, value: 3 }],
      reportFrom: NOON,
      spans: [],
      deploys: [],
      budget: 1,
      threshold: 0.5,
      truth: null,
      hasFeedback: true,
    }]);
  });

  it("has settings as they were set, and the threshold that serves", async ({ asOwner }) => {
    await openDays(asOwner);
    const metric = await addMetric(asOwner, {
      unit: "seconds",
      kind: "counter",
      detection_budget: 2,
      detection_direction: "down",
      minimum_change: 0,
      minimum_change_ratio: 0.5,
    });
    const seriesId = await addSeries(asOwner, metric, SAMPLES);
    const fresh = await read(asOwner, metric);
    expect(fresh).toMatchObject([{
      name: metric,
      kind: "counter",
      settings: { direction: "down", minimumChange: 0, minimumChangeRatio: 0.5 },
      budget: 2,
      threshold: 0.475,
    }]);
    await asOwner(
      `insert into monitor.detector_states (series_id, version, state, last_sample_at, threshold)
       values ($1, 'test-1', '{}', $2, 0.7)`,
      [seriesId, iso(NOON)],
    );
    expect(await read(asOwner, metric)).toMatchObject([{ threshold: 0.7 }]);
    expect(await read(asOwner, metric, { budget: 0.25 })).toMatchObject([{
      budget: 0.25,
      threshold: 0.7,
    }]);
  });

  it("has what people said, and of that the truth", async ({ asOwner }) => {
    await openDays(asOwner);
    const metric = await addMetric(asOwner);
    const seriesId = await addSeries(asOwner, metric, SAMPLES);
    const label = (p_label: string, from: number, until: number) =>
      rpc(asOwner, "label_anomaly_span", {
        p_series_id: seriesId,
        p_label,
        p_from: iso(from),
        p_until: iso(until),
      });
    await label("missed", NOON, NOON + 1);
    await label("expected", NOON + 2, NOON + 3);
    for (const [at, state] of [[10, "resolved"], [20, "false_positive"], [30, "open"]] as const) {
      const id = await addAnomaly(asOwner, seriesId, {
        started_at: iso(NOON + at),
        last_seen_at: iso(NOON + at + 5),
        ...(state !== "open" && { ended_at: iso(NOON + at + 6), ended_reason: "recovered" }),
      });
      if (state !== "open") {
        await rpc(asOwner, "review_anomaly", { p_anomaly_id: id, p_state: state });
      }
    }
    await rpc(asOwner, "mark_deploy", { p_label: "v2", p_at: iso(NOON + MINUTE) });
    const [series] = await read(asOwner, metric);
    expect(series!.deploys).toEqual([NOON + MINUTE]);
    expect(series!.spans.map(({ label }) => label).toSorted()).toEqual([
      "expected",
      "false_positive",
      "missed",
    ]);
    expect(series!.truth!.events.toSorted((a, b) => a.from - b.from)).toEqual([
      { from: NOON, until: NOON + 1 },
      { from: NOON + 10, until: NOON + 16 },
    ]);
    const denied = series!.truth!.denied!.map(({ from }) => from - NOON);
    expect([...new Set(denied)].toSorted((a, b) => a - b)).toEqual([2, 20]);
  });

  it("chooses by labels, and leaves out what has no samples in the time", async ({ asOwner }) => {
    await openDays(asOwner, NOON - DAY, 2);
    const metric = await addMetric(asOwner);
    await addSeries(asOwner, metric, SAMPLES, { job: "a" });
    await addSeries(asOwner, metric, SAMPLES, { job: "b" });
    await addSeries(asOwner, metric, [[NOON - 1, 1]], { job: "c" });
    const names = async (labels: Record<string, string>) =>
      (await read(asOwner, metric, { labels })).map(({ name }) => name);
    expect(await names({})).toEqual([`${metric}{job="a"}`, `${metric}{job="b"}`]);
    expect(await names({ job: "b" })).toEqual([`${metric}{job="b"}`]);
    await expect(names({ job: "c" })).rejects.toThrow("no samples since 2026-03-10 12:00 UTC");
    await expect(names({ job: "d" })).rejects.toThrow("no series with these labels");
  });

  it("says what to do where there is nothing", async ({ asOwner }) => {
    await expect(read(asOwner, "unheard_of")).rejects.toThrow("no metric unheard_of");
    const metric = await addMetric(asOwner);
    await expect(read(asOwner, metric)).rejects.toThrow("has no series.");
    await addSeries(asOwner, metric);
    await expect(read(asOwner, metric)).rejects.toThrow("never had any");
    await openDays(asOwner, NOON - DAY);
    await addSeries(asOwner, metric, [[NOON - DAY, 1]], { a: "b" });
    await expect(read(asOwner, metric)).rejects.toThrow(
      "newest one of the metric is of 2026-03-09 12:00",
    );
  });

  it(`reads ${SERIES_LIMIT} series over pages, and refuses more`, async ({ asOwner }) => {
    await openDays(asOwner);
    const metric = await addMetric(asOwner);
    for (const n of range(SERIES_LIMIT)) {
      await addSeries(asOwner, metric, SAMPLES, { n: String(n) });
    }
    expect(await read(asOwner, metric)).toHaveLength(SERIES_LIMIT);
    await addSeries(asOwner, metric, SAMPLES, { n: "more" });
    await expect(read(asOwner, metric)).rejects.toThrow(`more than ${SERIES_LIMIT} series`);
  });
});
