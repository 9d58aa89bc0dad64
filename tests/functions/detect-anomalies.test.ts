import { describe, expect, it, vi } from "vitest";
import {
  type DetectionSeries,
  type DetectionUpdate,
  parseDetectionPage,
} from "../../shared/contract/detection.ts";
import { detector } from "../../shared/detection/current-detector.ts";
import type { DetectionEvent, DetectionInput, Detector } from "../../shared/detection/detector.ts";
import { DatabaseError } from "../../supabase/functions/_shared/database.ts";
import {
  detectAnomalies,
  type DetectDeps,
  PAGE_LIMIT,
  SAMPLE_LIMIT,
  SERIES_LIMIT,
  WALL_SECONDS,
} from "../../supabase/functions/detect-anomalies/handler.ts";
import { Clock, NOON, RUN_ID } from "../fixtures.ts";

const RUN = { id: RUN_ID, scheduledAt: NOON, startedAt: NOON };
const SETTINGS = {
  direction: "both",
  sensitivity: "normal",
  minimumChange: 0,
  unit: "count",
} as const;

const EVENT: DetectionEvent = {
  kind: "open",
  startedAt: 1,
  lastSeenAt: 2,
  endedAt: null,
  endedReason: null,
  expected: 1,
  lower: 0,
  upper: 2,
  observed: 9,
  score: 8,
  severity: "warning",
  explanation: "why",
  sampleCount: 2,
};

function seriesOf(seriesId: number, changes: Partial<DetectionSeries> = {}): DetectionSeries {
  return {
    seriesId,
    kind: "gauge",
    settings: SETTINGS,
    state: { n: 1 },
    stateVersion: "test-1",
    lastSampleAt: 10,
    openAnomaly: null,
    samples: [{ at: 20, value: 1 }, { at: 30, value: 2 }],
    ...changes,
  };
}

/** What is said of where the last run stopped when it was complete. */
const NOWHERE = { series: [], failed: [], nextSeriesId: null };

/** Series 1 to `count`, read as the database would; what was judged is due no more. */
function sampleSeries(count: number, stoppedAt: number | null, poison: readonly number[] = []) {
  const due = new Set(Array.from({ length: count }, (_, n) => n + 1));
  const clock = new Clock();
  const judged: number[] = [];
  const deps: DetectDeps = {
    now: clock.now,
    detector: sampleDetector(),
    readDetectionPage: (after, limit) => {
      if (after === null) return Promise.resolve({ ...NOWHERE, nextSeriesId: stoppedAt });
      const ids = [...due].filter((id) => id > after).slice(0, Math.max(limit, 1));
      const nextSeriesId = ids.length === Math.max(limit, 1) ? ids.at(-1)! : null;
      if (limit === 0) return Promise.resolve({ ...NOWHERE, nextSeriesId });
      if (ids.some((id) => poison.includes(id))) {
        clock.advance(8.5);
        return Promise.reject(
          new DatabaseError("read_detection_page", "timed_out", "57014", "late"),
        );
      }
      return Promise.resolve({ series: ids.map((id) => seriesOf(id)), failed: [], nextSeriesId });
    },
    recordDetections: (_runId, updates) => {
      for (const { series_id } of updates) {
        judged.push(series_id);
        due.delete(series_id);
      }
      return Promise.resolve({ opened: 0, extended: 0, closed: 0, stale: 0 });
    },
  };
  return { deps, judged };
}

/** Says of each series what `judge` says, by default nothing. */
function sampleDetector(
  judge: (input: DetectionInput) => Partial<ReturnType<Detector["detectSeries"]>> = () => ({}),
) {
  const detectSeries = vi.fn<Detector["detectSeries"]>((input) => ({
    state: { next: true },
    events: [],
    judgements: [],
    status: "normal",
    ...judge(input),
  }));
  return { version: "test-1", detectSeries };
}

function sampleDeps(pages: DetectionSeries[][], changes: Partial<DetectDeps> = {}) {
  const clock = new Clock();
  const recorded: (readonly DetectionUpdate[])[] = [];
  const readDetectionPage = vi.fn<DetectDeps["readDetectionPage"]>((after) => {
    if (after === null) return Promise.resolve(NOWHERE);
    const index = after === 0 ? 0 : pages.findIndex((page) => page.at(-1)!.seriesId === after) + 1;
    const nextSeriesId = index < pages.length - 1 ? pages[index]!.at(-1)!.seriesId : null;
    return Promise.resolve({ series: pages[index] ?? [], failed: [], nextSeriesId });
  });
  const deps: DetectDeps = {
    now: clock.now,
    detector: sampleDetector(),
    readDetectionPage,
    recordDetections: (_runId, updates) => {
      recorded.push(updates);
      return Promise.resolve({ opened: 0, extended: 0, closed: 0, stale: 0 });
    },
    ...changes,
  };
  return { deps, recorded, clock, readDetectionPage };
}

describe("detectAnomalies()", () => {
  it("judges each series by its state and new samples, and stores what the detector says", async () => {
    const detector = sampleDetector(() => ({ events: [EVENT] }));
    const { deps, recorded } = sampleDeps([[seriesOf(1)]], {
      detector,
      recordDetections: (_runId, updates) => {
        recorded.push(updates);
        return Promise.resolve({ opened: 1, extended: 0, closed: 0, stale: 0 });
      },
    });
    const outcome = await detectAnomalies(RUN, deps);

    expect(detector.detectSeries).toHaveBeenCalledWith({
      state: { n: 1 },
      samples: [{ at: 20, value: 1 }, { at: 30, value: 2 }],
      settings: SETTINGS,
      kind: "gauge",
      openAnomaly: null,
    });
    expect(recorded).toEqual([[{
      series_id: 1,
      previous_sample_at: 10,
      last_sample_at: 30,
      state_version: "test-1",
      state: { next: true },
      events: [{
        kind: "open",
        started_at: 1,
        last_seen_at: 2,
        ended_at: null,
        ended_reason: null,
        expected: 1,
        lower: 0,
        upper: 2,
        observed: 9,
        score: 8,
        severity: "warning",
        explanation: "why",
        sample_count: 2,
      }],
    }]]);
    expect(outcome).toEqual({
      kind: "succeeded",
      result: {
        ...{
          series: 1,
          samples: 2,
          insufficient_data: 0,
          opened: 1,
          extended: 0,
          closed: 0,
          stale: 0,
        },
        ...{ failed: [], failed_count: 0, complete: true, next_series_id: null },
      },
    });
  });

  it("has nothing to do without new samples", async () => {
    const { deps, recorded } = sampleDeps([[]]);
    expect(await detectAnomalies(RUN, deps)).toMatchObject({
      kind: "succeeded",
      result: { series: 0, complete: true },
    });
    expect(recorded).toEqual([]);
  });

  it("goes on where each page ends", async () => {
    const { deps, readDetectionPage, recorded } = sampleDeps([[seriesOf(3), seriesOf(7)], [
      seriesOf(9),
    ], [seriesOf(12)]]);
    const { result } = await detectAnomalies(RUN, deps);
    expect(readDetectionPage.mock.calls).toEqual([[null, 0], [0, PAGE_LIMIT], [7, PAGE_LIMIT], [
      9,
      PAGE_LIMIT,
    ]]);
    expect(recorded.map((updates) => updates.map(({ series_id }) => series_id))).toEqual([[3, 7], [
      9,
    ], [12]]);
    expect(result).toMatchObject({ series: 4, samples: 8, complete: true });
  });

  it("starts afresh from the state of another detector", async () => {
    const detector = sampleDetector();
    const { deps } = sampleDeps([[seriesOf(1, { stateVersion: "other-1" })]], { detector });
    await detectAnomalies(RUN, deps);
    expect(detector.detectSeries.mock.calls[0]![0].state).toBeNull();
  });

  it("counts those of which too little is known", async () => {
    const detector = sampleDetector(() => ({ status: "insufficient_data" }));
    const { deps } = sampleDeps([[seriesOf(1), seriesOf(2)]], { detector });
    expect((await detectAnomalies(RUN, deps)).result).toMatchObject({ insufficient_data: 2 });
  });

  describe("a poison series", () => {
    const poisonous = sampleDetector((input) => {
      if (input.samples[0]!.value === 666) throw new RangeError("Cannot judge");
      return {};
    });
    const poison = (seriesId: number) => seriesOf(seriesId, { samples: [{ at: 20, value: 666 }] });

    it("is named, and costs the others nothing", async () => {
      const { deps, recorded } = sampleDeps(
        [[seriesOf(1), poison(2), seriesOf(3)], [seriesOf(4)]],
        {
          detector: poisonous,
        },
      );
      expect(await detectAnomalies(RUN, deps)).toMatchObject({
        kind: "succeeded",
        result: {
          series: 4,
          failed: [{ series_id: 2, error: "RangeError: Cannot judge" }],
          failed_count: 1,
          complete: true,
        },
      });
      expect(recorded.flat().map(({ series_id }) => series_id)).toEqual([1, 3, 4]);
    });

    it("makes the run fail when there is no other", async () => {
      const { deps } = sampleDeps([[poison(1), poison(2)]], { detector: poisonous });
      expect(await detectAnomalies(RUN, deps)).toMatchObject({
        kind: "failed",
        reason: "no series could be judged: RangeError: Cannot judge",
      });
    });

    it("is found by halves when it is the database that refuses it", async () => {
      const all = Array.from({ length: 100 }, (_, n) => seriesOf(n + 1));
      const stored: number[] = [];
      const recordDetections = vi.fn<DetectDeps["recordDetections"]>((_runId, updates) => {
        const ids = updates.map(({ series_id }) => series_id);
        if (ids.includes(37)) return Promise.resolve({ refused: "band_in_order (23514)" });
        stored.push(...ids);
        return Promise.resolve({ opened: 0, extended: ids.length, closed: 0, stale: 0 });
      });
      const { deps } = sampleDeps([all], { recordDetections });
      expect((await detectAnomalies(RUN, deps)).result).toMatchObject({
        extended: 99,
        failed: [{ series_id: 37, error: "band_in_order (23514)" }],
      });
      expect(stored).toHaveLength(99);
      expect(recordDetections.mock.calls.length).toBeLessThanOrEqual(
        2 * Math.ceil(Math.log2(100)) + 1,
      );
    });

    it("is named when it does not even read", async () => {
      const row = {
        ...{
          series_id: 5,
          metric: "m",
          unit: "count",
          kind: "gauge",
          labels: {},
          direction: "both",
        },
        ...{ sensitivity: "normal", minimum_change: 0, state: null, state_version: null },
        ...{ last_sample_at: null, open_anomaly: null, times: [1], values: [1] },
      };
      const page = parseDetectionPage({
        series: [row, { ...row, series_id: 6, values: ["NaN"] }, {
          ...row,
          series_id: 7,
          times: [1, 2],
        }, 8],
        next_series_id: null,
      });
      const { deps } = sampleDeps([], {
        readDetectionPage: (after) => Promise.resolve(after === null ? NOWHERE : page),
      });
      const { result } = await detectAnomalies(RUN, deps);
      expect(result).toMatchObject({ series: 4, failed_count: 3 });
      expect(
        (result as { failed: { series_id: number }[] }).failed.map(({ series_id }) => series_id),
      )
        .toEqual([6, 7, null]);
    });
  });

  describe("bounds", () => {
    const endless = () => {
      let seriesId = 0;
      return vi.fn<DetectDeps["readDetectionPage"]>((after) => {
        if (after === null) return Promise.resolve(NOWHERE);
        seriesId += 1;
        return Promise.resolve({
          series: [seriesOf(seriesId)],
          failed: [],
          nextSeriesId: seriesId,
        });
      });
    };

    it("begins no page after its time, and says that it is not complete", async () => {
      const readDetectionPage = endless();
      const { deps, clock } = sampleDeps([], { readDetectionPage });
      deps.recordDetections = () => {
        clock.advance(WALL_SECONDS / 2);
        return Promise.resolve({ opened: 0, extended: 0, closed: 0, stale: 0 });
      };
      expect(await detectAnomalies(RUN, deps)).toMatchObject({
        kind: "succeeded",
        result: { series: 2, complete: false, next_series_id: 2 },
      });
      expect(readDetectionPage).toHaveBeenCalledTimes(3);
    });

    it("begins no page after so many samples", async () => {
      const samples = Array.from(
        { length: SAMPLE_LIMIT / 2 },
        (_, n) => ({ at: 20 + n, value: 1 }),
      );
      let seriesId = 0;
      const { deps } = sampleDeps([], {
        readDetectionPage: (after) => {
          if (after === null) return Promise.resolve(NOWHERE);
          seriesId += 1;
          return Promise.resolve({
            series: [seriesOf(seriesId, { samples })],
            failed: [],
            nextSeriesId: seriesId,
          });
        },
      });
      expect((await detectAnomalies(RUN, deps)).result).toMatchObject({
        series: 2,
        complete: false,
      });
    });

    it("begins no page after so many series, however full their states are", async () => {
      const samples = Array.from(
        { length: 1500 },
        (_, n) => ({ at: n * 60_000, value: 1000 * Math.sin(n * 1.234567) }),
      );
      const { state } = detector.detectSeries({
        ...{ state: null, samples, settings: SETTINGS, kind: "gauge", openAnomaly: null },
      });
      const full = JSON.stringify(state);
      const { deps } = sampleDeps([], {
        detector,
        readDetectionPage: (after, limit) => {
          if (after === null) return Promise.resolve(NOWHERE);
          const series = Array.from({ length: limit }, (_, n) =>
            seriesOf(after + n + 1, {
              state: JSON.parse(full),
              stateVersion: detector.version,
              lastSampleAt: 1499 * 60_000,
              samples: [{ at: 1500 * 60_000, value: 3 }],
            }));
          return Promise.resolve({ series, failed: [], nextSeriesId: after + limit });
        },
      });
      expect((await detectAnomalies(RUN, deps)).result).toMatchObject({
        ...{ series: SERIES_LIMIT, insufficient_data: 0, failed_count: 0 },
        ...{ complete: false, next_series_id: SERIES_LIMIT },
      });
    }, 30_000);

    it("tells of twenty failed series, and counts them all", async () => {
      const detector = sampleDetector(({ samples }) => {
        if (samples[0]!.value === 1) return {};
        throw new Error("no");
      });
      const bad = Array.from(
        { length: 30 },
        (_, n) => seriesOf(n + 2, { samples: [{ at: 20, value: 0 }] }),
      );
      const { deps } = sampleDeps([[seriesOf(1), ...bad]], { detector });
      const { result } = await detectAnomalies(RUN, deps);
      expect(result).toMatchObject({ failed_count: 30 });
      expect((result as { failed: unknown[] }).failed).toHaveLength(20);
    });
  });

  describe("where it begins", () => {
    it("is where the last run stopped; it goes once around", async () => {
      const { deps, judged } = sampleSeries(250, 120);
      expect((await detectAnomalies(RUN, deps)).result).toMatchObject({
        ...{ series: 250, complete: true, next_series_id: null },
      });
      expect(judged[0]).toBe(121);
      expect(judged.toSorted((a, b) => a - b)).toEqual(
        Array.from({ length: 250 }, (_, n) => n + 1),
      );
    });

    it("lets every series have its turn, run by run, though all are always due", async () => {
      const seen = new Set<number>();
      let stoppedAt: number | null = null;
      for (let runs = 0; runs < 3; runs++) {
        const { deps, judged } = sampleSeries(2.5 * SERIES_LIMIT, stoppedAt);
        const { result } = await detectAnomalies(RUN, deps);
        judged.forEach((id) => seen.add(id));
        stoppedAt = (result as { next_series_id: number | null }).next_series_id;
      }
      expect(seen.size).toBe(2.5 * SERIES_LIMIT);
    }, 30_000);
  });

  it("skips and names a series that always times out, and gets past it", async () => {
    const judged = new Set<number>();
    const failed: unknown[] = [];
    let stoppedAt: number | null = null;
    for (let runs = 0; runs < 6; runs++) {
      const suite = sampleSeries(150, stoppedAt, [50]);
      const { result } = await detectAnomalies(RUN, suite.deps) as unknown as {
        result: { failed: { series_id: number }[]; next_series_id: number | null };
      };
      suite.judged.forEach((id) => judged.add(id));
      failed.push(...result.failed.map(({ series_id }) => series_id));
      stoppedAt = result.next_series_id;
    }
    expect(judged.size).toBe(149);
    expect(new Set(failed)).toEqual(new Set([50]));
  });

  it("throws when the database does not answer: the run has then failed", async () => {
    const { deps } = sampleDeps([[seriesOf(1)]], {
      recordDetections: () => Promise.reject(new Error("gone")),
    });
    await expect(detectAnomalies(RUN, deps)).rejects.toThrow("gone");
  });
});
