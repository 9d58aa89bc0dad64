import { describe, expect, it } from "vitest";
import { detector } from "../../shared/detection/current-detector.ts";
import type { LabelledSpan, Sample } from "../../shared/detection/detector.ts";
import {
  anomaliesFrom,
  type Circumstances,
  DAY,
  type History,
  HOUR,
  MINUTE,
  observe,
  openAnomalies,
  PLAIN,
  START,
} from "./detection-fixtures.ts";
import { noisy, samplesOf } from "./detection-series.ts";

/** Three days of a steady 100, then something else from one time on and before another. */
const CHANGE = 3 * DAY + 10 * HOUR;
function changing(factor: number, length: number, rest = 6 * HOUR): Sample[] {
  return samplesOf(
    CHANGE + length + rest,
    (elapsed, random) =>
      noisy(100)(elapsed, random) * (elapsed >= CHANGE && elapsed < CHANGE + length ? factor : 1),
  );
}

/** What all of these series begin with is seen once only. */
const CALM = changing(1, 0, 0);
const calm = observe(CALM, { sizes: [60] });

function observeChange(samples: readonly Sample[], circumstances: Circumstances = {}): History {
  const isSame = circumstances.kind !== "counter" && samples[0]?.value === CALM[0]!.value &&
    samples[CALM.length - 1]?.value === CALM.at(-1)!.value;
  return isSame
    ? observe(samples.slice(CALM.length), { after: calm, ...circumstances })
    : observe(samples, circumstances);
}

const told = (samples: readonly Sample[], circumstances: Circumstances = {}) =>
  anomaliesFrom(observeChange(samples, { sizes: [5], ...circumstances }), START + 2 * DAY);

/** The band of the newest reading. */
function lastBand(samples: readonly Sample[], circumstances: Circumstances = {}) {
  const newest = observeChange(samples, circumstances).judgements.at(-1)!;
  if (newest.kind === "insufficient_data") throw new Error("nothing was judged");
  return newest;
}

describe("life of an anomaly", () => {
  it("opens at the first strange sample, is extended once a call, and closes with what it was", () => {
    const { events } = observe(changing(6, HOUR), { sizes: [5] });
    const kinds = events.map(({ kind }) => kind);
    expect(kinds[0]).toBe("open");
    expect(kinds.at(-1)).toBe("close");
    expect(new Set(kinds.slice(1, -1))).toEqual(new Set(["extend"]));
    expect(events.at(-1)).toMatchObject({
      startedAt: START + CHANGE,
      endedAt: START + CHANGE + HOUR,
      lastSeenAt: START + CHANGE + HOUR - MINUTE,
      endedReason: "recovered",
      anomalyKind: "level_shift",
    });
  });

  it("closes with hysteresis: one calm sample does not end it", () => {
    const samples = changing(6, 2 * HOUR).map((sample) =>
      (sample.at - START - CHANGE) / MINUTE % 20 === 10 && sample.at < START + CHANGE + 2 * HOUR &&
        sample.at > START + CHANGE
        ? { ...sample, value: 100 }
        : sample
    );
    expect(told(samples)).toHaveLength(1);
  });

  it.each([
    { name: "one minute up", factor: 8, length: MINUTE, kind: "spike" },
    { name: "one minute down", factor: 0.05, length: MINUTE, kind: "drop" },
    { name: "two hours up", factor: 4, length: 2 * HOUR, kind: "level_shift" },
    { name: "two hours down", factor: 0.2, length: 2 * HOUR, kind: "level_shift" },
    { name: "half an hour of zeros", factor: 0, length: 30 * MINUTE, kind: "drop_to_zero" },
  ])("names $name a $kind", ({ factor, length, kind }) => {
    expect(told(changing(factor, length)).map(({ anomalyKind }) => anomalyKind)).toEqual([kind]);
  });

  it.each([
    { name: "grows to twenty times, 30 % of the level", level: 100, before: 3, after: 60 },
    { name: "grows to twenty times, 3 % of the level", level: 1000, before: 3, after: 60 },
    { name: "falls to a thirtieth", level: 100, before: 30, after: 1 },
  ])("tells within two hours that the noise $name", ({ level, before, after }) => {
    const samples = samplesOf(6 * DAY, (elapsed, random) => {
      const isOn = elapsed >= 5 * DAY + 10 * HOUR && elapsed < 5 * DAY + 14 * HOUR;
      return level + (isOn ? after : before) * (random() - 0.5);
    });
    const found = anomaliesFrom(
      observe(samples),
      START + 5 * DAY + 10 * HOUR,
      START + 5 * DAY + 12 * HOUR,
    );
    expect(found).toHaveLength(1);
    expect(["variance", "level_shift", "spike"]).toContain(found[0]!.anomalyKind);
  });

  it("names a slow rise a trend, a level shift or a shape, and finds it before it has doubled", () => {
    const from = 5 * DAY;
    const samples = samplesOf(
      6 * DAY,
      (elapsed, random) => noisy(100)(elapsed, random) + Math.max(0, elapsed - from) / MINUTE / 10,
    );
    const [first] = told(samples);
    expect(first!.startedAt).toBeGreaterThan(START + from);
    expect(first!.startedAt).toBeLessThan(START + from + 1000 * MINUTE);
    expect(["trend", "level_shift", "shape"]).toContain(first!.anomalyKind);
  });

  describe("becomes normal only", () => {
    it("after 24 h of stability: closes as a level shift, says so, and re-bases", () => {
      const samples = changing(5, 3 * DAY, 0);
      const [anomaly, ...others] = told(samples);
      expect(others).toEqual([]);
      expect(anomaly).toMatchObject({ startedAt: START + CHANGE, endedReason: "level_shift" });
      const lasted = anomaly!.endedAt! - anomaly!.startedAt;
      expect(lasted).toBeGreaterThanOrEqual(DAY);
      expect(lasted).toBeLessThanOrEqual(DAY + HOUR);
      expect(anomaly!.explanation).toContain("as a level shift");
      expect(anomaly!.explanation).toContain("counts as normal from now on");
      const { expected, lower } = lastBand(samples);
      expect(expected).toBeGreaterThan(450);
      expect(expected).toBeLessThan(550);
      expect(lower).toBeGreaterThan(100);
    });

    it("and the way back after that is an anomaly of its own", () => {
      const samples = changing(5, 3 * DAY, 2 * HOUR);
      expect(told(samples)).toMatchObject([
        { startedAt: START + CHANGE, endedReason: "level_shift" },
        { startedAt: START + CHANGE + 3 * DAY },
      ]);
    });

    it.each([6, 12, 22])("not after %s hours: closes as recovered when it is over", (hours) => {
      const found = told(changing(5, hours * HOUR));
      expect(found).toMatchObject([{ startedAt: START + CHANGE, endedReason: "recovered" }]);
      expect(found[0]!.endedAt).toBeGreaterThanOrEqual(START + CHANGE + hours * HOUR);
      expect(found[0]!.explanation).toContain("back to what was expected");
    });

    it.each([1.3, 1.5, 2, 0.5, 0.7])(
      "not silently: six hours at %s times the level are told until they end",
      (factor) => {
        const found = told(changing(factor, 6 * HOUR));
        if (found.length === 0) return; // Too small to be told is no promise; told and dropped is a broken one.
        const last = found.at(-1)!;
        expect(last.endedReason).toBe("recovered");
        expect(last.endedAt).toBeGreaterThanOrEqual(START + CHANGE + 6 * HOUR - 5 * MINUTE);
        expect(found).toHaveLength(1);
      },
    );

    it.each([
      { name: "at the same time", offset: 0 },
      { name: "ten minutes before", offset: -10 * MINUTE },
      { name: "half an hour after it began", offset: 30 * MINUTE },
    ])("with a deploy $name: closes as a level shift, and says so", ({ offset }) => {
      const deployedAt = START + CHANGE + offset;
      const found = told(changing(5, DAY, 0), { deploys: [deployedAt] });
      expect(found).toMatchObject([{ startedAt: START + CHANGE, endedReason: "level_shift" }]);
      expect(found[0]!.endedAt).toBeLessThanOrEqual(
        Math.max(deployedAt, START + CHANGE) + 30 * MINUTE,
      );
      expect(found[0]!.explanation).toContain("came with a deploy");
      expect(lastBand(changing(5, 4 * HOUR, 0), { deploys: [deployedAt] }).expected)
        .toBeGreaterThan(450);
    });

    it.each([
      { name: "an hour before", offset: -HOUR },
      { name: "a day before", offset: -DAY },
      { name: "two days after", offset: 2 * DAY },
    ])("not with a deploy $name", ({ offset }) => {
      const found = told(changing(5, 6 * HOUR), { deploys: [START + CHANGE + offset] });
      expect(found).toMatchObject([{ endedReason: "recovered" }]);
    });

    it("a deploy without a change changes nothing", () => {
      const samples = changing(1, HOUR);
      expect(observe(samples, { deploys: [START + CHANGE] }).state).toStrictEqual(
        observe(samples).state,
      );
    });
  });

  describe("labelled spans", () => {
    const span = (label: LabelledSpan["label"], length = HOUR): Circumstances => ({
      spans: [{ label, from: START + CHANGE, until: START + CHANGE + length - MINUTE }],
    });

    it.each(["expected", "maintenance", "false_positive"] as const)(
      "nothing in one labelled %s is told",
      (label) => {
        const end = START + CHANGE + HOUR;
        const found = (given: Circumstances) =>
          told(changing(6, HOUR), given).filter(({ startedAt }) => startedAt < end);
        expect(found(span(label))).toEqual([]);
        expect(found({})).toHaveLength(1);
      },
    );

    it.each(["expected", "maintenance", "false_positive"] as const)(
      "nor the way back, where one labelled %s reaches to the end of the anomaly",
      (label) => {
        const [anomaly] = told(changing(6, HOUR));
        const spans = [{ label, from: anomaly!.startedAt, until: anomaly!.endedAt }];
        expect(told(changing(6, HOUR), { spans })).toEqual([]);
      },
    );

    it.each(["incident", "missed"] as const)("one labelled %s is told", (label) => {
      expect(told(changing(6, HOUR), span(label))).toMatchObject([{ startedAt: START + CHANGE }]);
    });

    it("what comes after an expected span is told", () => {
      expect(told(changing(6, 2 * HOUR), span("expected")))
        .toMatchObject([{ startedAt: START + CHANGE + HOUR }]);
    });

    it("one without an end lasts", () => {
      const spans = [{ label: "maintenance", from: START + CHANGE, until: null }] as const;
      expect(told(changing(6, 6 * HOUR), { spans })).toEqual([]);
    });

    it("an anomaly that is open when one begins is closed", () => {
      const from = START + CHANGE + HOUR;
      const found = told(changing(6, 6 * HOUR), {
        spans: [{ label: "maintenance", from, until: from + 8 * HOUR }],
      });
      expect(found).toMatchObject([{ startedAt: START + CHANGE, endedAt: from }]);
    });

    const trainedOf = (circumstances: Circumstances) => {
      const [all, none] = [
        changing(1.15, HOUR, 0),
        changing(1.15, HOUR, 0).slice(0, CHANGE / MINUTE),
      ];
      return lastBand([...all], circumstances).expected - lastBand(none).expected;
    };

    it.each(["expected", "maintenance", "incident", "missed"] as const)(
      "nothing in one labelled %s trains",
      (label) => {
        expect(Math.abs(trainedOf(span(label)))).toBeLessThan(2);
      },
    );

    it("one labelled false_positive trains as normal", () => {
      expect(trainedOf(span("false_positive"))).toBeGreaterThan(8);
    });

    it("an open anomaly does not train", () => {
      const { expected, upper } = lastBand(changing(6, 3 * HOUR, 0));
      expect(expected).toBeLessThan(110);
      expect(upper).toBeLessThan(200);
    });

    it("six hours of an incident do not train either, nor after they ended", () => {
      const { expected, upper } = lastBand(
        changing(1.4, 6 * HOUR, HOUR),
        span("incident", 6 * HOUR),
      );
      const calm = lastBand(changing(1, 6 * HOUR, HOUR));
      expect(expected).toBeLessThan(1.05 * calm.expected);
      expect(upper).toBeLessThan(1.2 * calm.upper);
    });

    it("of several that overlap the one that says most counts, in any order", () => {
      const from = START + CHANGE;
      const both = [
        { label: "incident", from, until: from + HOUR },
        { label: "expected", from, until: from + HOUR },
      ] as const;
      const samples = changing(6, HOUR);
      expect(told(samples, { spans: both })).toEqual([]);
      expect(observe(samples, { spans: both }).state)
        .toStrictEqual(observe(samples, { spans: both.toReversed() }).state);
    });
  });

  describe("settings", () => {
    it.each(
      [
        { direction: "up", factor: 6, count: 1 },
        { direction: "up", factor: 0.1, count: 0 },
        { direction: "down", factor: 6, count: 0 },
        { direction: "down", factor: 0.1, count: 1 },
        { direction: "both", factor: 6, count: 1 },
        { direction: "both", factor: 0.1, count: 1 },
      ] as const,
    )(
      "with direction $direction tells $count of a change to $factor times the level",
      ({ direction, factor, count }) => {
        expect(told(changing(factor, HOUR), { settings: { ...PLAIN, direction } })).toHaveLength(
          count,
        );
      },
    );

    it("with direction up does not tell that errors fall to zero", () => {
      expect(told(changing(0, HOUR), { settings: { ...PLAIN, direction: "up" } })).toEqual([]);
    });

    // A constant, so that what is expected is exact: 100, then 160.
    const exact = samplesOf(
      CHANGE + 3 * HOUR,
      (elapsed) =>
        elapsed >= CHANGE && elapsed < CHANGE + HOUR ? 160 : 100 + (elapsed / MINUTE) % 2,
    );
    const change = told(exact)[0]!.details.change;

    it.each([
      { minimumChange: 0.99, count: 1 },
      { minimumChange: 1, count: 1 },
      { minimumChange: 1.01, count: 0 },
    ])(
      "a practical minimum of $minimumChange times the change tells $count",
      ({ minimumChange, count }) => {
        const settings = { ...PLAIN, minimumChange: minimumChange * change };
        expect(told(exact, { settings })).toHaveLength(count);
      },
    );

    it.each([{ share: 0.99, count: 1 }, { share: 1.01, count: 0 }])(
      "a minimum of $share times the change as a ratio tells $count",
      ({ share, count }) => {
        const { expected } = told(exact)[0]!;
        const settings = { ...PLAIN, minimumChangeRatio: share * change / expected };
        expect(told(exact, { settings })).toHaveLength(count);
      },
    );

    it("of both minimums the larger one counts, and is told", () => {
      const settings = { ...PLAIN, minimumChange: 5, minimumChangeRatio: 0.2 };
      const [anomaly] = told(exact, { settings });
      expect(anomaly!.details.minimumChange).toBeCloseTo(0.2 * anomaly!.expected, 9);
    });

    it("a threshold just above the score does not tell it, one at the score does", () => {
      const samples = changing(6, HOUR);
      const { score } = told(samples)[0]!;
      expect(told(samples, { settings: { ...PLAIN, threshold: score } })).toHaveLength(1);
      expect(told(samples, { settings: { ...PLAIN, threshold: score + 1e-9 } })).toHaveLength(0);
    });
  });

  describe("the store knows what is open", () => {
    const samples = changing(6, 3 * HOUR);
    const at = CHANGE / MINUTE + 60;
    const before = observe(samples.slice(0, at), { sizes: [5] });
    const next = {
      state: before.state,
      memory: before.memory,
      samples: samples.slice(at, at + 5),
      settings: PLAIN,
      kind: "gauge",
      spans: [],
      deploys: [],
      now: null,
    } as const;

    it("one that it holds and the state knows is extended", () => {
      expect(openAnomalies(before)).toHaveLength(1);
      const { events, status } = detector.detectSeries({
        ...next,
        openAnomaly: { startedAt: START + CHANGE },
      });
      expect(events).toMatchObject([{
        kind: "extend",
        startedAt: START + CHANGE,
        sampleCount: 65,
      }]);
      expect(status).toBe("anomaly");
    });

    it("one that the state holds as open and the store does not is forgotten: it is never extended", () => {
      const { events } = detector.detectSeries({ ...next, openAnomaly: null });
      expect(events.filter(({ kind }) => kind !== "open")).toEqual([]);
      expect(events.every(({ startedAt }) => startedAt > START + CHANGE)).toBe(true);
    });

    it("one under another time is taken over under that time", () => {
      const startedAt = START + CHANGE + 7 * MINUTE;
      const { events } = detector.detectSeries({ ...next, openAnomaly: { startedAt } });
      expect(events).toMatchObject([{ kind: "extend", startedAt }]);
    });

    it("one that the store holds and the state knows nothing of is not opened again, and closed when all is calm", () => {
      const calm = observe(samples.slice(0, CHANGE / MINUTE));
      const open = { startedAt: START + CHANGE - 2 * HOUR };
      const { events, status } = detector.detectSeries({
        ...next,
        state: calm.state,
        memory: calm.memory,
        samples: samples.slice(CHANGE / MINUTE - 60, CHANGE / MINUTE).map((sample, index) => ({
          ...sample,
          at: START + CHANGE + index * MINUTE,
        })),
        openAnomaly: open,
      });
      expect(events).toMatchObject([{ kind: "close", ...open, endedReason: "recovered" }]);
      expect(status).toBe("normal");
    });

    it("with the state lost it is closed when there is nothing strange, and says that it was lost", () => {
      const open = { startedAt: START + CHANGE - HOUR };
      const { events } = detector.detectSeries({
        ...next,
        state: null,
        memory: null,
        samples: samplesOf(4 * HOUR, noisy(100)).map((sample) => ({
          ...sample,
          at: sample.at + CHANGE,
        })),
        openAnomaly: open,
      });
      expect(events).toMatchObject([{ kind: "close", ...open, endedReason: "recovered" }]);
      expect(events[0]!.explanation).toContain("is lost");
    });

    it("with the state lost and no sample nothing is said of it", () => {
      const open = { startedAt: START + CHANGE };
      const lost = { ...next, state: null, memory: null, samples: [], openAnomaly: open };
      expect(detector.detectSeries(lost)).toMatchObject({ events: [], status: "anomaly" });
    });
  });
});

describe("counters", () => {
  const rate = (perMinute: (elapsed: number) => number, duration: number): Sample[] => {
    let sum = 0;
    return samplesOf(duration, (elapsed, random) => {
      sum += perMinute(elapsed) * (0.9 + 0.2 * random());
      return sum;
    });
  };

  it("are judged by their rate per second: growth is nothing, faster growth is", () => {
    const samples = rate(
      (elapsed) => elapsed >= CHANGE && elapsed < CHANGE + HOUR ? 6000 : 600,
      CHANGE + 3 * HOUR,
    );
    const found = told(samples, { kind: "counter" });
    expect(found).toMatchObject([{ startedAt: START + CHANGE, anomalyKind: "level_shift" }]);
    expect(found[0]!.expected).toBeGreaterThan(9);
    expect(found[0]!.expected).toBeLessThan(11);
    expect(found[0]!.explanation).toContain("seconds/s");
  });

  it.each([
    { name: "a minute's worth", value: 600 },
    { name: "half a minute's worth", value: 300 },
    { name: "zero", value: 0 },
  ])("a reset is no anomaly, whether $name has been counted since", ({ value }) => {
    let sum = 0;
    const samples = samplesOf(4 * DAY, (elapsed, random) => {
      sum += 600 * (0.9 + 0.2 * random());
      if (elapsed % (30 * HOUR) === 29 * HOUR) sum = value;
      return sum;
    });
    expect(told(samples, { kind: "counter" })).toEqual([]);
  });
});
