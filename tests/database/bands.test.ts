import fc from "fast-check";
import { describe, expect } from "vitest";
import { it, type Query, rpc } from "./database.ts";
import { compactAll } from "./retention.ts";
import {
  addAdmin,
  addAnomaly,
  addMetric,
  addSeries,
  addUser,
  DAY,
  HOUR,
  iso,
  MINUTE,
  NOON,
  openDays,
  range,
} from "./seeds.ts";

interface Bands {
  unit: string;
  metric: string;
  labels: Record<string, string>;
  samples: Record<"times" | "values" | "expected" | "lower" | "upper", (number | null)[]>;
  coming: Record<"times" | "expected" | "lower" | "upper", (number | null)[]>;
  as_of: number | null;
  status: string;
}

const readBands = (query: Query, series: number, more: object = {}) =>
  rpc<Bands>(query, "read_bands", { p_series_id: series, p_now: iso(NOON), ...more });

/** Steps of an hour from 3 hours before noon to 3 hours after it, by what is expected of each. */
async function addForecast(query: Query, series: number, expected: (number | null)[]) {
  const forecast = {
    from: NOON - 3 * HOUR,
    stepMs: HOUR,
    expected,
    lower: expected.map((value) => value && value - 1),
    upper: expected.map((value) => value && value + 2),
  };
  await query(
    `insert into monitor.detector_states (series_id, version, state, last_sample_at, forecast)
     values ($1, 'test/1', '{}', $2, $3)`,
    [series, iso(NOON), forecast],
  );
}

describe("monitor.read_bands()", () => {
  const EXPECTED = [10, 20, null, 40, 50, 60];

  it("gives the newest samples with the band they fell into, and the coming one", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query, { unit: "seconds" });
    const at = [-3.5, -3, -2.5, -2, -1.5, -1, -0.25, 0].map((hours) => NOON + hours * HOUR);
    const series = await addSeries(query, metric, at.map((time, n) => [time, n]), { a: "b" });
    await addForecast(query, series, EXPECTED);
    expect(await readBands(query, series)).toEqual({
      unit: "seconds",
      metric,
      labels: { a: "b" },
      samples: {
        times: at,
        values: range(8),
        // Between the centres of steps, as far as there are neighbours; null where nothing is known.
        expected: [null, 10, 10, 15, 20, null, null, 40],
        lower: [null, 9, 9, 14, 19, null, null, 39],
        upper: [null, 12, 12, 17, 22, null, null, 42],
      },
      coming: {
        times: [0.5, 1.5, 2.5].map((hours) => NOON + hours * HOUR),
        expected: [40, 50, 60],
        lower: [39, 49, 59],
        upper: [42, 52, 62],
      },
      as_of: NOON,
      status: "normal",
    });
  });

  it("gives as many samples as asked for, and as many hours", async ({ query }) => {
    await openDays(query);
    const series = await addSeries(
      query,
      await addMetric(query),
      range(10).map((n) => [NOON - n * MINUTE, n]),
    );
    await addForecast(query, series, EXPECTED);
    const { samples, coming } = await readBands(query, series, { p_samples: 3, p_hours: 1 });
    expect(samples.times).toEqual([2, 1, 0].map((n) => NOON - n * MINUTE));
    expect(samples.values).toEqual([2, 1, 0]);
    expect(coming.times).toEqual([NOON + 0.5 * HOUR]);
    expect((await readBands(query, series, { p_hours: 0 })).coming.times).toEqual([]);
  });

  it("shows a counter as its rate per second, resets included", async ({ query }) => {
    await openDays(query);
    const series = await addSeries(query, await addMetric(query, { kind: "counter" }), [
      [NOON - 4 * MINUTE, 1000],
      [NOON - 3 * MINUTE, 1060],
      [NOON - 2 * MINUTE, 1060],
      [NOON - MINUTE, 30],
      [NOON, 90],
    ]);
    const { samples } = await readBands(query, series);
    expect(samples.times).toEqual([3, 2, 1, 0].map((n) => NOON - n * MINUTE));
    expect(samples.values).toEqual([1, 0, 0.5, 1]);
    const { samples: newest } = await readBands(query, series, { p_samples: 4 });
    expect(newest.values).toEqual([1, 0, 0.5, 1]);
  });

  it("reads samples wherever they lie, 30 days back at most", async ({ query }) => {
    await openDays(query, NOON - 31 * DAY, 32);
    const times = [NOON - 30 * DAY - 1, NOON - 30 * DAY, NOON - 20 * DAY, NOON - 5 * DAY, NOON];
    const series = await addSeries(query, await addMetric(query), times.map((at) => [at, 1]));
    await compactAll(query, { now: NOON });
    expect((await readBands(query, series)).samples.times).toEqual(times.slice(1));
  });

  it("has no band of a series that nobody has judged, nor samples of one that has none", async ({ query }) => {
    await openDays(query);
    const metric = await addMetric(query);
    const series = await addSeries(query, metric, [[NOON, 1]]);
    expect(await readBands(query, series)).toMatchObject({
      samples: { values: [1], expected: [null], lower: [null], upper: [null] },
      coming: { times: [], expected: [], lower: [], upper: [] },
      as_of: null,
      status: "insufficient_data",
    });
    expect(await readBands(query, await addSeries(query, metric, [], { a: "b" }))).toMatchObject({
      samples: { times: [], values: [], expected: [] },
    });
  });

  it.for(["gauge", "counter"])(
    "shows also what is near the end of all numbers, of a %s",
    async (kind, { query }) => {
      await openDays(query);
      const values = [1.7e308, -1.7e308, 1.7e308, 5e-324, 0, 5e-324];
      const series = await addSeries(
        query,
        await addMetric(query, { kind }),
        values.map((value, n) => [NOON - (values.length - n) * MINUTE, value]),
      );
      await addForecast(query, series, [1.7e308, -1.7e308, -1.7e308, 1.7e308, 5e-324, 0]);
      const { samples } = await readBands(query, series);
      expect(samples.values).toHaveLength(kind === "gauge" ? 6 : 5);
      expect(samples.values.concat(samples.expected).every((value) => value !== null)).toBe(true);
    },
  );

  it("says that an anomaly is open", async ({ query }) => {
    await openDays(query);
    const series = await addSeries(query, await addMetric(query), [[NOON, 1]]);
    await addForecast(query, series, EXPECTED);
    await addAnomaly(query, series, { ended_at: iso(NOON), ended_reason: "recovered" });
    expect((await readBands(query, series)).status).toBe("normal");
    await addAnomaly(query, series);
    expect((await readBands(query, series)).status).toBe("anomaly");
  });

  it.for(
    [
      [{ p_samples: 0 }, "22023"],
      [{ p_samples: 1 }, null],
      [{ p_samples: 2000 }, null],
      [{ p_samples: 2001 }, "22023"],
      [{ p_samples: null }, "22023"],
      [{ p_hours: -1 }, "22023"],
      [{ p_hours: 0 }, null],
      [{ p_hours: 24 }, null],
      [{ p_hours: 25 }, "22023"],
      [{ p_series_id: 0 }, "P0002"],
    ] as const,
  )("answers %o with %s", async ([args, code], { query }) => {
    const series = await addSeries(query, await addMetric(query));
    const answer = readBands(query, series, args);
    if (code === null) expect(await answer).toMatchObject({ status: "insufficient_data" });
    else await expect(answer).rejects.toMatchObject({ code });
  });

  it("is for admins", async ({ query, asOwner, asUser }) => {
    await openDays(query);
    const series = await addSeries(query, await addMetric(query), [[NOON, 1]]);
    await addForecast(query, series, EXPECTED);
    const admin = asUser(await addAdmin(asOwner));
    expect(await readBands(admin, series)).toEqual(await readBands(query, series));
    await expect(readBands(asUser(await addUser(asOwner)), series)).rejects.toMatchObject({
      code: "P0002",
    });
  });
});

describe("monitor.interpolate()", () => {
  it("stays between its neighbours, and meets each step at its centre", async ({ query }) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: -1000, max: 1000 }), { minLength: 1, maxLength: 9 }),
        fc.double({ min: 0, max: 0.999, noNaN: true }),
        async (steps, ratio) => {
          const place = ratio * steps.length;
          const { rows: [row] } = await query<{ value: number; centre: number }>(
            `select monitor.interpolate($1, $2) as value, monitor.interpolate($1, floor($2::float8) + 0.5) as centre`,
            [steps, place],
          );
          const own = Math.floor(place);
          const beside = steps[own + Math.sign(place - own - 0.5)] ?? steps[own]!;
          const [low, high] = [Math.min(steps[own]!, beside), Math.max(steps[own]!, beside)];
          expect(row!.value).toBeGreaterThanOrEqual(low - 1e-9);
          expect(row!.value).toBeLessThanOrEqual(high + 1e-9);
          expect(row!.centre).toBe(steps[own]);
        },
      ),
      { numRuns: 50 },
    );
  });
});

interface Related {
  series_id: number;
  metric: string;
  deviation: number;
  lead_seconds: number;
  direction: "up" | "down";
  open_anomaly_id: number | null;
}

const readRelated = (query: Query, anomaly: number, more: object = {}) =>
  rpc<Related[]>(query, "read_related_series", { p_anomaly_id: anomaly, ...more });

describe("monitor.read_related_series()", () => {
  /** A sample every 5 minutes from the day before noon to an hour after it: some 100, or what `change` says. */
  function addNoise(
    query: Query,
    metric: string,
    change: (at: number) => number | undefined = () => undefined,
    labels: Record<string, string> = {},
  ) {
    const from = NOON - 24 * HOUR - 30 * MINUTE;
    const samples = range((NOON + HOUR - from) / (5 * MINUTE) + 1).map((n) => {
      const at = from + n * 5 * MINUTE;
      return [at, change(at - NOON) ?? 100 + (n * 7) % 5] as const;
    });
    return addSeries(query, metric, samples, labels);
  }

  /** A series whose anomaly began at noon and lasts for an hour. */
  async function addCause(query: Query) {
    await openDays(query, NOON - 2 * DAY, 4);
    const metric = await addMetric(query);
    const series = await addNoise(query, metric, (t) => t >= 0 ? 900 : undefined);
    const anomaly = await addAnomaly(query, series, { last_seen_at: iso(NOON + HOUR) });
    return { metric, series, anomaly };
  }

  it("ranks those that deviated too, with their lead and direction", async ({ query }) => {
    const { metric, anomaly } = await addCause(query);
    const later = await addNoise(query, metric, (t) => t >= 10 * MINUTE ? 500 : undefined, {
      is: "later",
    });
    const earlier = await addNoise(query, metric, (t) => t === -20 * MINUTE ? 10 : undefined, {
      is: "earlier",
    });
    await addNoise(query, metric, () => undefined, { is: "calm" });
    const open = await addAnomaly(query, later);
    const related = await readRelated(query, anomaly);
    expect(related).toMatchObject([
      {
        series_id: later,
        metric,
        labels: { is: "later" },
        lead_seconds: 600,
        direction: "up",
        open_anomaly_id: open,
      },
      { series_id: earlier, lead_seconds: -1200, direction: "down", open_anomaly_id: null },
    ]);
    expect(related[0]!.deviation).toBeGreaterThan(related[1]!.deviation);
    expect(related[1]!.deviation).toBeGreaterThan(3);
    expect(await readRelated(query, anomaly, { p_limit: 1 })).toEqual(related.slice(0, 1));
  });

  it("looks from 30 minutes before its start to its newest suspicious sample, 2 hours at most", async ({ query }) => {
    const { metric, series, anomaly } = await addCause(query);
    const at = async (minutes: number, is: string) =>
      addNoise(query, metric, (t) => t === minutes * MINUTE ? 900 : undefined, { is });
    await at(-35, "before");
    const [first, last] = [await at(-30, "first"), await at(60, "last")];
    const seen = async (until: number) => {
      await query("update monitor.anomaly_detections set last_seen_at = $1 where series_id = $2", [
        iso(until),
        series,
      ]);
      return (await readRelated(query, anomaly)).map(({ series_id }) => series_id).sort();
    };
    expect(await seen(NOON + HOUR)).toEqual([first, last]);
    expect(await seen(NOON + HOUR - 1)).toEqual([first]);
    await addSeries(
      query,
      metric,
      range(320).map((n) => [NOON + 2 * HOUR + 1 - n * 5 * MINUTE, n === 0 ? 900 : 100 + n % 3]),
      { is: "too late" },
    );
    expect(await seen(NOON + 5 * HOUR)).toEqual([first, last]);
  });

  it("judges counters by their rate, and constants by any change", async ({ query }) => {
    const { anomaly } = await addCause(query);
    const counters = await addMetric(query, { kind: "counter" });
    const growth = (faster: number) => (t: number) => {
      const steps = (t + 25 * HOUR) / (5 * MINUTE);
      return steps * 100 + (steps * 7) % 5 + Math.max(0, t / (5 * MINUTE)) * faster;
    };
    const fast = await addNoise(query, counters, growth(400), { is: "fast" });
    await addNoise(query, counters, growth(0), { is: "steady" });
    const zeros = await addMetric(query);
    const errors = await addNoise(query, zeros, (t) => t >= 0 ? 500 : 0);
    await addNoise(query, zeros, () => 0, { is: "zero" });
    // A constant has no spread: 1 % of it is taken for that.
    await addNoise(query, zeros, (t) => t >= 0 ? 1029 : 1000, { is: "less than 3 %" });
    const level = await addNoise(query, zeros, (t) => t >= 0 ? 1031 : 1000, { is: "more" });
    expect((await readRelated(query, anomaly)).map(({ series_id }) => series_id))
      .toEqual([errors, fast, level]);
    expect((await readRelated(query, anomaly))[0]!.deviation).toBe(1000);
  });

  it("is not stopped by a series near the end of all numbers", async ({ query }) => {
    const { metric, anomaly } = await addCause(query);
    const counters = await addMetric(query, { kind: "counter" });
    const odd = [1.7e308, -1.7e308, 5e-324, 0];
    const index = (t: number) => Math.round((t + 25 * HOUR) / (5 * MINUTE)) % 4;
    for (const name of [metric, counters]) {
      await addNoise(query, name, (t) => odd[index(t)], { is: "odd" });
      await addNoise(query, name, (t) => index(t) % 2 * 5e-324, { is: "tiny" });
      await addNoise(query, name, (t) => t < 0 ? (index(t) - 2) * 1e200 : 1e-200, { is: "wide" });
    }
    const spike = await addNoise(query, metric, (t) => t === 0 ? 1.7e308 : 0, { is: "spike" });
    expect(await readRelated(query, anomaly)).toMatchObject([
      { series_id: spike, deviation: 1000, lead_seconds: 0, direction: "up" },
    ]);
  });

  it("looks at all of them, batch by batch", async ({ query }) => {
    const { metric, anomaly } = await addCause(query);
    const all: number[] = [];
    for (const n of range(35)) {
      all.push(await addNoise(query, metric, (t) => t >= 0 ? 900 : undefined, { n: String(n) }));
    }
    const related = await readRelated(query, anomaly, { p_limit: 100 });
    expect(related.map(({ series_id }) => series_id)).toEqual(all);
  });

  it("leaves out what is too young, gone or not watched", async ({ query }) => {
    const { metric, anomaly } = await addCause(query);
    await addSeries(
      query,
      metric,
      [...range(11).map((n) => [NOON - (31 + n) * MINUTE, 1] as const), [NOON, 900]],
      { is: "young" },
    );
    await addSeries(query, metric, range(60).map((n) => [NOON - DAY + n * MINUTE, n]), {
      is: "gone",
    });
    const unwatched = await addMetric(query, { detection_enabled: false });
    await addNoise(query, unwatched, (t) => t >= 0 ? 900 : undefined);
    expect(await readRelated(query, anomaly)).toEqual([]);
    const enough = await addSeries(
      query,
      metric,
      [...range(12).map((n) => [NOON - (31 + n) * MINUTE, 1] as const), [NOON, 900]],
      { is: "old enough" },
    );
    expect(await readRelated(query, anomaly)).toMatchObject([{ series_id: enough }]);
  });

  it.for([[0, false], [1, true], [100, true], [101, false], [null, false]] as const)(
    "takes a limit of %s: %s",
    async ([p_limit, isTaken], { query }) => {
      const { anomaly } = await addCause(query);
      const answer = readRelated(query, anomaly, { p_limit });
      if (isTaken) expect(await answer).toEqual([]);
      else await expect(answer).rejects.toMatchObject({ code: "22023" });
    },
  );

  it("is for admins, and of anomalies that are there", async ({ query, asOwner, asUser }) => {
    const { metric, anomaly } = await addCause(query);
    await addNoise(query, metric, (t) => t >= 0 ? 900 : undefined, { is: "too" });
    expect(await readRelated(asUser(await addAdmin(asOwner)), anomaly)).toHaveLength(1);
    const user = asUser(await addUser(asOwner));
    await expect(readRelated(user, anomaly)).rejects.toMatchObject({ code: "P0002" });
    await expect(readRelated(query, 0)).rejects.toMatchObject({ code: "P0002" });
  });
});
