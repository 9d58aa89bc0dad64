import { describe, expect, it, vi } from "vitest";
import {
  type DetectionSeries,
  type DetectionUpdate,
  PAGE_SAMPLES_LIMIT,
  parseDetectionPage,
  type ReplayProgress,
  type ReplaySlice,
} from "../../shared/contract/detection.ts";
import { REPLAY_THRESHOLD } from "../../shared/detection/calibrate.ts";
import { NO_CANDIDATES } from "../../shared/detection/collect-candidates.ts";
import type {
  DetectionEvent,
  DetectionInput,
  DetectionResult,
  Detector,
  Forecast,
  LabelledSpan,
} from "../../shared/detection/detector.ts";
import { DatabaseError } from "../../supabase/functions/_shared/database.ts";
import {
  detectAnomalies,
  type DetectDeps,
  PAGE_LIMIT,
  SAMPLE_LIMIT,
  SERIES_LIMIT,
  WALL_SECONDS,
} from "../../supabase/functions/detect-anomalies/handler.ts";
import { BACKLOG_AGE } from "../../supabase/functions/detect-anomalies/judge-series.ts";
import { CHUNK_SAMPLES } from "../../supabase/functions/detect-anomalies/replay-slice.ts";
import {
  REPLAY_MILLISECONDS,
  REPLAY_SLICES_LIMIT,
} from "../../supabase/functions/detect-anomalies/run-replays.ts";
import { Clock, NOON, RUN_ID } from "../fixtures.ts";

const RUN = { id: RUN_ID, scheduledAt: NOON, startedAt: NOON };
const AT = NOON.getTime();
const SETTINGS = {
  direction: "both",
  threshold: 0.5,
  minimumChange: 0,
  minimumChangeRatio: 0,
  unit: "count",
} as const;

const EVENT: DetectionEvent = {
  kind: "open",
  anomalyKind: "level_shift",
  startedAt: 1,
  lastSeenAt: 2,
  endedAt: null,
  endedReason: null,
  expected: 1,
  lower: 0,
  upper: 2,
  observed: 9,
  score: 0.8,
  severity: "warning",
  explanation: "why",
  details: {
    scaleSeconds: 60,
    perWeek: 0.1,
    comparedWith: "recent_values",
    trainingCount: 240,
    cycles: 1,
    change: 8,
    minimumChange: 0.5,
  },
  sampleCount: 2,
};

const SPANS: LabelledSpan[] = [{ from: 1, until: null, label: "maintenance" }];

const FORECAST: Forecast = { from: 0, stepMs: 900_000, expected: [1], lower: [0], upper: [null] };

function seriesOf(seriesId: number, changes: Partial<DetectionSeries> = {}): DetectionSeries {
  return {
    seriesId,
    kind: "gauge",
    settings: SETTINGS,
    state: { n: 1 },
    memory: "much",
    stateVersion: "test-1",
    lastSampleAt: AT - 30,
    openAnomaly: null,
    spans: [],
    deploys: [],
    isSilent: false,
    samples: [{ at: AT - 20, value: 1 }, { at: AT - 10, value: 2 }],
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
    ...sampleWorld(clock),
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

/** A world with nothing to replay, where computing takes no time. */
function sampleWorld(clock: Clock) {
  return {
    now: clock.now,
    cpuClock: () => 0,
    detector: sampleDetector() as Detector,
    previousDetectors: [] as readonly Detector[],
    readReplaySlice: () => Promise.resolve(null),
    recordReplaySlice: () => Promise.resolve("recorded" as const),
    parkReplay: () => Promise.resolve(),
  };
}

/** Says of each series what `judge` says, by default nothing. */
function sampleDetector(
  judge: (input: DetectionInput) => Partial<DetectionResult> = () => ({}),
  version = "test-1",
) {
  const detectSeries = vi.fn<Detector["detectSeries"]>((input) => ({
    state: { next: true },
    memory: input.memory,
    forecast: null,
    events: [],
    judgements: [],
    status: "normal",
    silentAt: null,
    ...judge(input),
  }));
  return { version, detectSeries };
}

/** What `detectAnomalies` makes of one series, and what the detector was asked. */
async function judgeOne(
  changes: Partial<DetectionSeries>,
  said: Partial<DetectionResult> = {},
  more: Partial<DetectDeps> = {},
) {
  const detector = sampleDetector(() => said);
  const { deps, recorded } = sampleDeps([[seriesOf(1, changes)]], { detector, ...more });
  const { result } = await detectAnomalies(RUN, deps);
  return { input: detector.detectSeries.mock.calls[0]?.[0], update: recorded[0]?.[0], result };
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
    ...sampleWorld(clock),
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
    const detector = sampleDetector(() => ({ events: [EVENT], silentAt: AT + 60 }));
    const series = seriesOf(1, { openAnomaly: { startedAt: 1 }, spans: SPANS, deploys: [7] });
    const { deps, recorded } = sampleDeps([[series]], {
      detector,
      recordDetections: (_runId, updates) => {
        recorded.push(updates);
        return Promise.resolve({ opened: 1, extended: 0, closed: 0, stale: 0 });
      },
    });
    const outcome = await detectAnomalies(RUN, deps);

    expect(detector.detectSeries.mock.calls).toEqual([[{
      state: { n: 1 },
      memory: "much",
      samples: [{ at: AT - 20, value: 1 }, { at: AT - 10, value: 2 }],
      settings: SETTINGS,
      kind: "gauge",
      openAnomaly: { startedAt: 1 },
      spans: SPANS,
      deploys: [7],
      now: AT,
    }]]);
    expect(recorded).toEqual([[{
      series_id: 1,
      previous_sample_at: AT - 30,
      last_sample_at: AT - 10,
      state_version: "test-1",
      state: { next: true },
      silent_at: AT + 60,
      events: [{
        kind: "open",
        anomaly_kind: "level_shift",
        started_at: 1,
        last_seen_at: 2,
        ended_at: null,
        ended_reason: null,
        expected: 1,
        lower: 0,
        upper: 2,
        observed: 9,
        score: 0.8,
        severity: "warning",
        explanation: "why",
        details: EVENT.details,
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
        replay: { slices: 0, finished: 0, pending: false },
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

  describe("a state", () => {
    it("of a version that nobody knows counts as none", async () => {
      const { input, update } = await judgeOne({ stateVersion: "other-1" });
      expect(input).toMatchObject({ state: null, memory: null });
      // The memory of the other one goes.
      expect(update).toMatchObject({ state_version: "test-1", memory: null });
      expect(update).not.toHaveProperty("replay_version");
    });

    it("is none the first time", async () => {
      const first = { state: null, memory: null, stateVersion: null, lastSampleAt: null };
      const { input, update } = await judgeOne(first, { memory: "first" });
      expect(input).toMatchObject({ state: null, memory: null });
      expect(update).toMatchObject({ previous_sample_at: null, memory: "first" });
    });

    it("of an earlier detector is judged by that one, which asks for a replay by the new one", async () => {
      const earlier = sampleDetector(() => ({ state: { old: 2 } }), "test-0");
      const { input, update } = await judgeOne({ stateVersion: "test-0" }, {}, {
        previousDetectors: [sampleDetector(() => ({}), "test-00"), earlier],
      });
      expect(input).toBeUndefined();
      expect(earlier.detectSeries.mock.calls[0]![0]).toMatchObject({
        state: { n: 1 },
        memory: "much",
      });
      expect(update).toMatchObject({
        ...{ state_version: "test-0", state: { old: 2 }, replay_version: "test-1" },
      });
    });

    it("brings its memory and its forecast only when they have changed", async () => {
      const { update: same } = await judgeOne({}, { memory: "much" });
      expect(same).not.toHaveProperty("memory");
      expect(same).not.toHaveProperty("forecast");
      const { update: other } = await judgeOne({}, { memory: "more", forecast: FORECAST });
      expect(other).toMatchObject({ memory: "more", forecast: FORECAST });
      expect((await judgeOne({}, { memory: null })).update).toMatchObject({ memory: null });
    });
  });

  describe("a series without samples", () => {
    it("is judged by the clock when its silence is due", async () => {
      const { input, update, result } = await judgeOne({ samples: [], isSilent: true });
      expect(input).toMatchObject({ samples: [], now: AT });
      expect(update).toMatchObject({ previous_sample_at: AT - 30, last_sample_at: AT - 30 });
      expect(result).toMatchObject({ series: 1, samples: 0, failed_count: 0 });
    });

    it.each([{ isSilent: false }, { isSilent: true, lastSampleAt: null }])(
      "cannot be judged otherwise: %j",
      async (changes) => {
        const { input, result } = await judgeOne({ samples: [], ...changes });
        expect(input).toBeUndefined();
        expect(result).toMatchObject({ failed: [{ series_id: 1, error: "no samples" }] });
      },
    );
  });

  describe("the clock", () => {
    const page = (count: number, newest: number) => ({
      samples: Array.from({ length: count }, (_, n) => ({ at: newest - count + n + 1, value: 1 })),
    });

    it.each([
      [PAGE_SAMPLES_LIMIT - 1, AT, AT],
      [PAGE_SAMPLES_LIMIT, AT, null],
      [2, AT - BACKLOG_AGE + 1, AT],
      [2, AT - BACKLOG_AGE, null],
    ])(
      "after %d samples up to %d is %d: what is still to be read is not missing",
      async (count, newest, now) => {
        const { input } = await judgeOne({ ...page(count, newest), lastSampleAt: null });
        expect(input!.now).toBe(now);
      },
    );
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
        ...{ series_id: 5, metric: "m", unit: "count", kind: "gauge", labels: {} },
        ...{ direction: "auto", budget: 1, threshold: null, minimum_change: null },
        ...{ minimum_change_ratio: null, state: null, memory: null, state_version: null },
        ...{ last_sample_at: null, open_anomaly: null, silent: false, times: [1], values: [1] },
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
      const full = JSON.stringify({ values: Array.from({ length: 100 }, (_, n) => n / 7) });
      const memory = "m".repeat(6000);
      const { deps } = sampleDeps([], {
        readDetectionPage: (after, limit) => {
          if (after === null) return Promise.resolve(NOWHERE);
          const series = Array.from({ length: limit }, (_, n) =>
            seriesOf(after + n + 1, {
              state: JSON.parse(full),
              memory,
              samples: [{ at: AT, value: 3 }],
            }));
          return Promise.resolve({ series, failed: [], nextSeriesId: after + limit });
        },
      });
      expect((await detectAnomalies(RUN, deps)).result).toMatchObject({
        ...{ series: SERIES_LIMIT, insufficient_data: 0, failed_count: 0 },
        ...{ complete: false, next_series_id: SERIES_LIMIT },
        replay: { slices: 0, finished: 0, pending: null },
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

/** A history of `count` samples, one a minute up to now. */
function sliceOf(seriesId: number, count: number, changes: Partial<ReplaySlice> = {}): ReplaySlice {
  const samples = Array.from(
    { length: count },
    (_, n) => ({ at: AT - (count - n) * 60_000, value: n }),
  );
  return {
    ...{ seriesId, kind: "gauge", settings: SETTINGS, budget: 1, spans: [], deploys: [] },
    ...{ state: null, memory: null, tally: NO_CANDIDATES, cursorAt: null, requestedAt: 3, samples },
    ...{ readUntil: AT, isLast: true },
    ...changes,
  };
}

/** Histories that are worked off as the database would let us, the oldest request first. */
function sampleReplays(slices: ReplaySlice[], changes: Partial<DetectDeps> = {}) {
  const { deps, clock } = sampleDeps([[]], changes);
  const waiting = [...slices];
  const recorded: ReplayProgress[] = [];
  const parked: unknown[] = [];
  const cpu = { milliseconds: 0 };
  const all: DetectDeps = {
    ...deps,
    cpuClock: () => cpu.milliseconds,
    readReplaySlice: (version) => {
      expect(version).toBe("test-1");
      return Promise.resolve(waiting[0] ?? null);
    },
    recordReplaySlice: (progress) => {
      recorded.push(progress);
      const [slice] = waiting;
      if (progress.calibration !== null) {
        waiting.shift();
        return Promise.resolve("finished");
      }
      waiting[0] = {
        ...slice!,
        ...{ state: progress.state, memory: progress.memory, tally: progress.tally },
        cursorAt: progress.cursorAt,
        samples: slice!.samples.filter(({ at }) => at > progress.cursorAt),
        ...{ readUntil: AT, isLast: true },
      };
      return Promise.resolve("recorded");
    },
    parkReplay: (...args) => {
      parked.push(args);
      waiting.shift();
      return Promise.resolve();
    },
    ...changes,
  };
  const replay = async () => {
    const { result } = await detectAnomalies(RUN, all);
    return result as { replay: object; failed: { series_id: number | null; error: string }[] };
  };
  return { replay, recorded, parked, clock, cpu, waiting };
}

describe("replays", () => {
  const counting = (perChunk: { milliseconds: number } | null, takes = 0) =>
    sampleDetector(({ state, samples }) => {
      if (perChunk !== null) perChunk.milliseconds += takes;
      return { state: ((state as number | null) ?? 0) + samples.length };
    });

  it("judges a whole history by the low threshold and no clock, and ends with a calibration", async () => {
    const detector = counting(null);
    const { replay, recorded } = sampleReplays([sliceOf(4, CHUNK_SAMPLES + 1, {
      ...{ spans: SPANS, deploys: [7], kind: "counter", budget: 4 },
    })], { detector });
    expect(await replay()).toMatchObject({
      ...{ failed: [], replay: { slices: 1, finished: 1, pending: false } },
    });
    expect(detector.detectSeries.mock.calls.map(([{ samples }]) => samples.length))
      .toEqual([CHUNK_SAMPLES, 1]);
    expect(detector.detectSeries.mock.calls[1]![0]).toMatchObject({
      ...{ state: CHUNK_SAMPLES, memory: null, kind: "counter", openAnomaly: null },
      ...{ settings: { ...SETTINGS, threshold: REPLAY_THRESHOLD }, spans: SPANS, deploys: [7] },
      now: null,
    });
    expect(recorded).toEqual([{
      ...{ seriesId: 4, previousCursorAt: null, requestedAt: 3, cursorAt: AT, version: "test-1" },
      ...{ state: CHUNK_SAMPLES + 1, memory: null, tally: NO_CANDIDATES, forecast: null },
      silentAt: null,
      calibration: expect.objectContaining({ threshold: 0.45, budget: 4, days: 0 }),
    }]);
  });

  it("continues its own anomaly from chunk to chunk and slice to slice, and finds the threshold by all", async () => {
    const detector = sampleDetector(({ samples, openAnomaly }) => {
      const startedAt = openAnomaly?.startedAt ?? samples[0]!.at;
      const kind = openAnomaly ? "extend" as const : "open" as const;
      const judgements = samples.map(({ at }) => ({
        ...{ at, kind: "normal" as const, value: 1, expected: 1, lower: 0, upper: 2, score: 0 },
      }));
      return {
        events: [{ ...EVENT, kind, startedAt, lastSeenAt: AT - 1, score: 0.7 }],
        judgements,
      };
    });
    const tally = {
      ...NO_CANDIDATES,
      open: { at: 5, until: 6, score: 0.9, kind: "drop" as const },
    };
    const slice = sliceOf(4, 2 * CHUNK_SAMPLES, { budget: 0.25, tally });
    const { replay, recorded } = sampleReplays([slice], { detector });
    await replay();
    expect(detector.detectSeries.mock.calls.map(([{ openAnomaly }]) => openAnomaly))
      .toEqual([{ startedAt: 5 }, { startedAt: 5 }]);
    expect(recorded[0]).toMatchObject({
      tally: { open: { at: 5, until: AT - 1, score: 0.9, kind: "level_shift" }, ended: [] },
      calibration: { candidateCount: 1, toldCount: 1, threshold: 0.55, allowedCount: 1 },
    });
    expect(recorded[0]!.calibration!.days).toBeCloseTo((2 * CHUNK_SAMPLES - 1) / 1440, 6);
  });

  it("keeps the last forecast, and says from when on silence counts", async () => {
    let calls = 0;
    const detector = sampleDetector(() => ({
      forecast: calls++ === 0 ? FORECAST : null,
      silentAt: AT + calls,
    }));
    const { replay, recorded } = sampleReplays([sliceOf(4, 2 * CHUNK_SAMPLES)], { detector });
    await replay();
    expect(recorded[0]).toMatchObject({ forecast: FORECAST, silentAt: AT + 2 });
  });

  it("moves on over days without samples, and ends with the history", async () => {
    const gap = sliceOf(4, 0, { readUntil: AT - 5, isLast: false });
    const { replay, recorded } = sampleReplays([gap]);
    expect(await replay()).toMatchObject({ replay: { slices: 2, finished: 1, pending: false } });
    expect(recorded).toMatchObject([
      { previousCursorAt: null, cursorAt: AT - 5, calibration: null },
      { previousCursorAt: AT - 5, cursorAt: AT, calibration: { threshold: 0.5 } },
    ]);
  });

  describe("the time for them", () => {
    it("is spent chunk by chunk, and the next call goes on where it stopped", async () => {
      const cpu = { milliseconds: 0 };
      const detector = counting(cpu, REPLAY_MILLISECONDS / 4);
      const suite = sampleReplays([sliceOf(4, 6 * CHUNK_SAMPLES)], {
        ...{ detector, cpuClock: () => cpu.milliseconds },
      });
      expect((await suite.replay()).replay).toEqual({ slices: 1, finished: 0, pending: true });
      expect(suite.recorded).toMatchObject([{
        ...{ state: 4 * CHUNK_SAMPLES, cursorAt: AT - (2 * CHUNK_SAMPLES + 1) * 60_000 },
        calibration: null,
      }]);
      expect((await suite.replay()).replay).toEqual({ slices: 1, finished: 1, pending: false });
      expect(suite.recorded[1]).toMatchObject({
        ...{
          previousCursorAt: suite.recorded[0]!.cursorAt,
          state: 6 * CHUNK_SAMPLES,
          cursorAt: AT,
        },
      });
    });

    it("is that of all slices of a call together", async () => {
      const cpu = { milliseconds: 0 };
      const detector = counting(cpu, REPLAY_MILLISECONDS / 2);
      const suite = sampleReplays([1, 2, 3].map((id) => sliceOf(id, 10)), {
        ...{ detector, cpuClock: () => cpu.milliseconds },
      });
      expect((await suite.replay()).replay).toEqual({ slices: 2, finished: 2, pending: true });
      expect((await suite.replay()).replay).toEqual({ slices: 1, finished: 1, pending: false });
    });

    it("lets every slice go on by a chunk at least, however slow", async () => {
      const cpu = { milliseconds: 0 };
      const detector = counting(cpu, 10 * REPLAY_MILLISECONDS);
      const suite = sampleReplays([sliceOf(4, 3 * CHUNK_SAMPLES)], {
        ...{ detector, cpuClock: () => cpu.milliseconds },
      });
      const found = [await suite.replay(), await suite.replay(), await suite.replay()];
      expect(found.map(({ replay }) => replay)).toMatchObject([
        ...[{ pending: true, finished: 0 }, { pending: true, finished: 0 }, { finished: 1 }],
      ]);
    });

    it("ends with that of the run", async () => {
      const suite = sampleReplays([1, 2, 3].map((id) => sliceOf(id, 10)), {
        detector: sampleDetector(() => {
          suite.clock.advance(WALL_SECONDS / 2);
          return {};
        }),
      });
      expect((await suite.replay()).replay).toEqual({ slices: 2, finished: 2, pending: true });
      expect((await suite.replay()).replay).toEqual({ slices: 0, finished: 0, pending: null });
    });

    it("ends with its samples, those replayed included", async () => {
      const suite = sampleReplays([1, 2, 3].map((id) => sliceOf(id, SAMPLE_LIMIT / 2)));
      expect((await suite.replay()).replay).toEqual({ slices: 2, finished: 2, pending: true });
    });

    it("ends after so many slices", async () => {
      const many = Array.from({ length: REPLAY_SLICES_LIMIT + 1 }, (_, id) => sliceOf(id, 1));
      const suite = sampleReplays(many);
      expect((await suite.replay()).replay).toMatchObject({
        ...{ slices: REPLAY_SLICES_LIMIT, pending: true },
      });
      expect((await suite.replay()).replay).toEqual({ slices: 1, finished: 1, pending: false });
    });
  });

  describe("a series that cannot be replayed", () => {
    it("is given up and named, and costs the others nothing", async () => {
      const detector = sampleDetector(({ samples }) => {
        if (samples.length === 2) throw new RangeError("Cannot judge");
        return {};
      });
      const suite = sampleReplays([1, 2, 3].map((id) => sliceOf(id, id)), { detector });
      expect(await suite.replay()).toMatchObject({
        replay: { slices: 3, finished: 2, pending: false },
        ...{ failed: [{ series_id: 2, error: "RangeError: Cannot judge" }], failed_count: 1 },
      });
      expect(suite.parked).toEqual([[2, "RangeError: Cannot judge", 3]]);
    });

    it("is given up when its slice breaks the contract", async () => {
      const answers = [{ series_id: 2, error: "odd" }, null];
      const parked: unknown[] = [];
      const suite = sampleReplays([], {
        readReplaySlice: () => Promise.resolve(answers.shift()!),
        parkReplay: (...args) => Promise.resolve(void parked.push(args)),
      });
      expect(await suite.replay()).toMatchObject({
        ...{ replay: { slices: 1, finished: 0, pending: false }, failed: [{ series_id: 2 }] },
      });
      expect(parked).toEqual([[2, "odd", null]]);
    });

    it("is given up when the database refuses what came out", async () => {
      const suite = sampleReplays([sliceOf(1, 1)], {
        recordReplaySlice: () => Promise.resolve({ refused: "state_bounded (23514)" }),
      });
      expect(await suite.replay()).toMatchObject({
        ...{ failed: [{ series_id: 1, error: "state_bounded (23514)" }] },
        replay: { slices: 1, finished: 0, pending: false },
      });
    });

    it("does not make a run fail that judged what it had to", async () => {
      const broken = sampleDetector(() => {
        throw new Error("no");
      });
      const suite = sampleReplays([sliceOf(1, 1)], { detector: broken });
      await expect(suite.replay()).resolves.toMatchObject({ failed_count: 1 });
    });
  });

  it.each(["moved_on", "stale"] as const)("goes on when the store says %s", async (outcome) => {
    let reads = 0;
    const suite = sampleReplays([], {
      readReplaySlice: () => Promise.resolve(reads++ < 2 ? sliceOf(1, 1) : null),
      recordReplaySlice: () => Promise.resolve(outcome),
    });
    expect((await suite.replay()).replay).toEqual({ slices: 2, finished: 0, pending: false });
  });

  it("leaves the rest to the next run when the database does not answer, and keeps what was judged", async () => {
    const late = () =>
      Promise.reject(new DatabaseError("record_replay_slice", "timed_out", "57014", "late"));
    const suite = sampleReplays([sliceOf(1, 1)], { recordReplaySlice: late });
    expect(await suite.replay()).toMatchObject({
      replay: { slices: 1, finished: 0, pending: null },
      failed: [{ series_id: 1, error: "Cannot call record_replay_slice: late (57014)" }],
    });
    const unread = sampleReplays([], { readReplaySlice: late });
    expect((await unread.replay()).failed).toMatchObject([{ series_id: null }]);
  });

  it("throws what it did not foresee", async () => {
    const suite = sampleReplays([], { readReplaySlice: () => Promise.reject(new Error("bug")) });
    await expect(suite.replay()).rejects.toThrow("bug");
  });
});
