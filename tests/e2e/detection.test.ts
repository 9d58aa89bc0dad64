import type pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { detector } from "../../shared/detection/current-detector.ts";
import { addMetric, addSeries, DAY, HOUR, iso, MINUTE, openDays } from "../database/seeds.ts";
import { startTestStack, type TestStack } from "../stack.ts";

const HISTORY_DAYS = 6;

let stack: TestStack;
let db: pg.Client;
/** The full minute the history ends at. */
let now: number;
const query = (text: string, values?: unknown[]) => db.query(text, values);

beforeAll(async () => {
  stack = await startTestStack({ cron: false });
  db = await stack.connect();
  const { rows } = await query("select monitor.epoch_ms(date_trunc('minute', now())) as at");
  now = Number(rows[0].at);
  await openDays(query as never, now - HISTORY_DAYS * DAY, HISTORY_DAYS + 2);
});

afterAll(() => stack?.stop());

/** A rhythm of a day with a little noise that is the same in each run. */
function usualValue(at: number): number {
  const noise = Math.sin(at / 7919) + Math.sin(at / 104729) + Math.sin(at / 1299709);
  return 100 + 30 * Math.sin(2 * Math.PI * (at % DAY) / DAY) + 2 * noise;
}

async function detect(): Promise<Record<string, unknown>> {
  const response = await fetch(`${stack.facts.functions_url}/detect-anomalies`, {
    method: "POST",
    headers: { "content-type": "application/json", apikey: stack.facts.secret_key },
    body: "{}",
  });
  const body = await response.json();
  expect([response.status, body]).toEqual([200, expect.anything()]);
  return body.result ?? body;
}

async function addSamples(seriesId: number, samples: readonly (readonly [number, number])[]) {
  await query(
    `insert into monitor.metric_time_series (series_id, recorded_at, value)
     select $1, at, value from unnest($2::timestamptz[], $3::double precision[]) as sample (at, value)`,
    [seriesId, samples.map(([at]) => iso(at)), samples.map(([, value]) => value)],
  );
  await query("update monitor.metric_series set last_sample_at = $2 where series_id = $1", [
    seriesId,
    iso(samples.at(-1)![0]),
  ]);
}

async function readState(seriesId: number) {
  const { rows } = await query(
    "select version, threshold, calibrated_at, calibration, memory, forecast from monitor.detector_states where series_id = $1",
    [seriesId],
  );
  return rows[0];
}

async function readAnomalies(seriesId: number) {
  const { rows } = await query(
    "select * from monitor.anomaly_detections where series_id = $1 order by started_at",
    [seriesId],
  );
  return rows;
}

describe("detection, from history to feedback", () => {
  let seriesId: number;
  let otherId: number;
  let start: number;

  it("replays the history of a new series, and takes over with a threshold of its own", async () => {
    // What is to come lies ahead of the clock: samples that are late would be missed.
    start = now;
    const metric = await addMetric(query as never, { unit: "milliseconds" });
    const history = Array.from(
      { length: HISTORY_DAYS * 1440 - 120 },
      (_, minute) => start - (HISTORY_DAYS * 1440 - 120 - minute) * MINUTE,
    );
    seriesId = await addSeries(query as never, metric, history.map((at) => [at, usualValue(at)]));
    otherId = await addSeries(
      query as never,
      metric,
      history.map((at) => [at, usualValue(at + 3 * HOUR)]),
      { host: "b" },
    );
    let result = await detect();
    for (let run = 0; run < 20 && (result.replay as { pending: boolean }).pending; run++) {
      result = await detect();
    }
    const state = await readState(seriesId);
    expect(state).toMatchObject({ version: detector.version, memory: expect.any(String) });
    expect(state.calibrated_at).not.toBeNull();
    expect(state.threshold).toBeGreaterThanOrEqual(0.45);
    expect(state.calibration.days).toBeGreaterThan(HISTORY_DAYS - 1.5);
    expect(await readAnomalies(seriesId)).toEqual([]);
  });

  it("tells an anomaly once, in words and numbers, grouped with what began at the same time", async () => {
    const minutes = Array.from({ length: 8 }, (_, minute) => start + minute * MINUTE);
    const jumped = (at: number) => usualValue(at) + (at >= start + 3 * MINUTE ? 400 : 0);
    await addSamples(seriesId, minutes.map((at) => [at, jumped(at)]));
    await addSamples(
      otherId,
      minutes.map((at) => [at, jumped(at + 3 * HOUR) + (at >= start + 4 * MINUTE ? 400 : 0)]),
    );
    await detect();
    await detect();
    const [anomaly, ...others] = await readAnomalies(seriesId);
    expect(others).toEqual([]);
    expect(anomaly).toMatchObject({
      ended_at: null,
      kind: expect.stringMatching(/spike|level_shift/),
      review_state: "open",
      detector_version: detector.version,
    });
    expect(anomaly.started_at.getTime()).toBe(start + 3 * MINUTE);
    expect(anomaly.explanation).toMatch(
      /saw \d+(\.\d+)? milliseconds, .* expected .*above\..*Rests on \d+ samples/,
    );
    expect(anomaly.details).toMatchObject({
      comparedWith: expect.any(String),
      trainingCount: expect.any(Number),
    });
    const [other] = await readAnomalies(otherId);
    expect(other?.group_id ?? anomaly.group_id).toBe(anomaly.group_id);

    const { rows: [related] } = await query("select monitor.read_related_series($1) as series", [
      anomaly.anomaly_id,
    ]);
    expect(related.series[0]).toMatchObject({ series_id: otherId, direction: "up" });
  });

  it("closes it when the values are back, and shows the band they were held against", async () => {
    const minutes = Array.from({ length: 20 }, (_, minute) => start + (8 + minute) * MINUTE);
    await addSamples(seriesId, minutes.map((at) => [at, usualValue(at)]));
    await addSamples(otherId, minutes.map((at) => [at, usualValue(at + 3 * HOUR)]));
    await detect();
    const [anomaly] = await readAnomalies(seriesId);
    expect(anomaly).toMatchObject({ ended_reason: "recovered" });
    expect(anomaly.ended_at.getTime()).toBe(start + 8 * MINUTE);

    const { rows: [{ bands }] } = await query("select monitor.read_bands($1, 60, 6) as bands", [
      seriesId,
    ]);
    const { samples, coming } = bands;
    expect(samples.times).toHaveLength(60);
    const isInside = samples.values.map((value: number, index: number) =>
      samples.lower[index] <= value && value <= samples.upper[index]
    );
    expect(isInside.filter(Boolean).length).toBeGreaterThan(45);
    expect(
      coming.expected.every((value: number | null) => value !== null && value > 60 && value < 140),
    ).toBe(true);
  });

  it("respects what a person says of it at the next replay", async () => {
    const [anomaly] = await readAnomalies(seriesId);
    await query("select monitor.review_anomaly($1, 'expected')", [anomaly.anomaly_id]);
    const { rows } = await query(
      "select reason from monitor.detector_replays where series_id = $1",
      [seriesId],
    );
    expect(rows).toHaveLength(1);
    let result = await detect();
    for (let run = 0; run < 20 && (result.replay as { pending: boolean }).pending; run++) {
      result = await detect();
    }
    const state = await readState(seriesId);
    expect(state.calibration).toMatchObject({ told: 0 });
    // It is not told a second time.
    expect(await readAnomalies(seriesId)).toHaveLength(1);
  });
});
