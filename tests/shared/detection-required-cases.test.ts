import { describe, expect, it } from "vitest";
import { detector } from "../../shared/detection/current-detector.ts";
import { type Sample, STATE_BYTES_LIMIT } from "../../shared/detection/detector.ts";
import {
  anomaliesFrom,
  DAY,
  everyMinute,
  type History,
  HOUR,
  MINUTE,
  observe,
  openAnomalies,
  PLAIN,
  repeat,
  START,
} from "./detection-fixtures.ts";
import { gaussian, hump, noisy, samplesOf, seededRandom } from "./detection-series.ts";

/** Time of the nth minute. */
const minute = (index: number) => START + index * MINUTE;

const kindsOf = ({ events }: History) => events.map(({ kind }) => kind);

/** Anomalies that began from a day on, counted from 0, and before another. */
const onDays = (history: History, from: number, until = Infinity) =>
  anomaliesFrom(history, START + from * DAY, START + until * DAY);

/** A busy day of a service: quiet at night, 100 at noon, some noise. */
const rhythm = (elapsed: number, random: () => number) =>
  20 + 80 * hump(elapsed) + 3 * gaussian(random);

const isWeekend = (elapsed: number) => Math.floor(elapsed / DAY) % 7 >= 5;

describe("cases that the detector must get right", () => {
  describe("zeros, then 500 errors", () => {
    it.each([
      { zeros: 180, name: "three hours" },
      { zeros: 1440, name: "a day" },
      { zeros: 5 * 1440, name: "five days" },
    ])("tells one anomaly at the first of them after $name of zeros", ({ zeros }) => {
      const history = observe(everyMinute([...repeat(zeros, 0), ...repeat(20, 500)]));
      expect(kindsOf(history)).toEqual(["open"]);
      expect(history.events[0]).toMatchObject({
        startedAt: minute(zeros),
        expected: 0,
        observed: 500,
      });
    });

    it.each([180, 1440])("stays open after %s zeros for as long as there are errors", (zeros) => {
      const history = observe(everyMinute([...repeat(zeros, 0), ...repeat(300, 500)]), {
        sizes: [5],
      });
      expect(openAnomalies(history)).toMatchObject([{ startedAt: minute(zeros) }]);
    });

    it("tells one minute of 500 errors, opened and closed", () => {
      const history = observe(everyMinute([...repeat(1440, 0), 500, ...repeat(60, 0)]));
      expect(kindsOf(history)).toEqual(["open", "close"]);
      expect(history.events.at(-1)).toMatchObject({
        anomalyKind: "spike",
        endedReason: "recovered",
      });
    });

    it("does not tell a single error now and then", () => {
      const values = repeat(6 * 1440, (index) => index % 700 === 699 ? 1 : 0);
      const history = observe(everyMinute(values), { settings: { ...PLAIN, minimumChange: 5 } });
      expect(history.events).toEqual([]);
      // Without a smallest change it is for the budget to decide.
      expect(onDays(observe(everyMinute(values)), 3).length).toBeLessThanOrEqual(4);
    });
  });

  describe("a constant that jumps", () => {
    it.each([
      { from: 42, to: 60 },
      { from: 42, to: 20 },
      { from: 0.001, to: 0.002 },
      { from: 1e9, to: 2e9 },
      { from: -5, to: 5 },
    ])("tells $from to $to at once", ({ from, to }) => {
      const [event, ...others] =
        observe(everyMinute([...repeat(600, from), ...repeat(3, to)])).events;
      expect(others).toEqual([]);
      expect(event).toMatchObject({
        kind: "open",
        startedAt: minute(600),
        expected: from,
        observed: to,
      });
    });

    it("tells it after weeks as after hours, unless it moves by a few percent", () => {
      const told = (to: number) =>
        observe(everyMinute([...repeat(14 * 1440, 42), ...repeat(3, to)])).events;
      expect(told(60)).toHaveLength(1);
      expect(told(43)).toEqual([]);
    });

    it("does not tell a constant that stays", () => {
      expect(observe(everyMinute(repeat(14 * 1440, 42))).events).toEqual([]);
    });
  });

  describe("an incident of six hours", () => {
    const SIZES = [2, 3, 10];
    const at = 5 * DAY + 10 * HOUR;
    const incident = (factor: number, value: typeof rhythm, from = at): Sample[] =>
      samplesOf(
        from + 20 * HOUR,
        (elapsed, random) =>
          value(elapsed, random) * (elapsed >= from && elapsed < from + 6 * HOUR ? factor : 1),
      );

    it.each(SIZES)("does not become normal silently: a steady value × %s", (factor) => {
      const history = observe(incident(factor, noisy(100)), { sizes: [5] });
      const told = onDays(history, 5);
      expect(told).toHaveLength(1);
      expect(told[0]).toMatchObject({ startedAt: START + at, endedReason: "recovered" });
      expect(told[0]!.endedAt! - START - at - 6 * HOUR).toBeGreaterThanOrEqual(0);
      expect(told[0]!.endedAt! - START - at - 6 * HOUR).toBeLessThanOrEqual(30 * MINUTE);
    });

    it.each(SIZES)("stays open to its end: a daily rhythm × %s", (factor) => {
      const told = onDays(observe(incident(factor, rhythm), { sizes: [5] }), 5);
      expect(told.length).toBe(1);
      expect(told[0]!.startedAt).toBeLessThanOrEqual(START + at + 5 * MINUTE);
      expect(told[0]!.endedAt! - START - at - 6 * HOUR).toBeGreaterThanOrEqual(0);
      expect(told[0]!.endedAt! - START - at - 6 * HOUR).toBeLessThanOrEqual(60 * MINUTE);
      expect(told[0]!.endedReason).toBe("recovered");
    });

    it("does not become normal on the first day either", () => {
      const from = 5 * HOUR;
      const told = [...observe(incident(10, noisy(100), from), { sizes: [5] }).anomalies.values()];
      expect(told).toHaveLength(1);
      expect(told[0]!.startedAt).toBe(START + from);
      expect(told[0]!.endedAt! - START - from - 6 * HOUR).toBeGreaterThanOrEqual(0);
    });

    it("does not widen what is expected after it", () => {
      const history = observe(incident(10, noisy(100)), { sizes: [5] });
      const after = history.judgements.at(-1)!;
      expect(after).toMatchObject({ kind: "normal" });
      if (after.kind === "insufficient_data") throw new Error("nothing was judged");
      expect(after.expected).toBeGreaterThan(80);
      expect(after.upper).toBeLessThan(400);
    });

    it("is told again the next day, at another time of day", () => {
      const samples = samplesOf(7 * DAY, (elapsed, random) => {
        const isOn = (from: number) => elapsed >= from && elapsed < from + 6 * HOUR;
        return noisy(100)(elapsed, random) * (isOn(5 * DAY) || isOn(6 * DAY + 10 * HOUR) ? 5 : 1);
      });
      expect(onDays(observe(samples, { sizes: [5] }), 5).map(({ startedAt }) => startedAt))
        .toEqual([START + 5 * DAY, START + 6 * DAY + 10 * HOUR]);
    });
  });

  describe("the same spike daily at 03:00", () => {
    const spikes = (value: typeof rhythm, length: number, days = 8) =>
      samplesOf(days * DAY, (elapsed, random) => {
        const ofDay = elapsed % DAY;
        const isOn = elapsed >= 2 * DAY && ofDay >= 3 * HOUR && ofDay < 3 * HOUR + length;
        return value(elapsed, random) + (isOn ? 300 : 0);
      });

    it.each([
      { name: "of 5 minutes over a steady value", value: noisy(50), length: 5 * MINUTE },
      { name: "of 5 minutes over a daily rhythm", value: rhythm, length: 5 * MINUTE },
      { name: "of 20 minutes over a steady value", value: noisy(50), length: 20 * MINUTE },
      { name: "of one minute over a steady value", value: noisy(50), length: MINUTE },
    ])("is told on the first day, normal from the third day on: $name", ({ value, length }) => {
      const history = observe(spikes(value, length), { sizes: [60] });
      const morning = START + 2 * DAY + 2 * HOUR;
      expect(anomaliesFrom(history, morning, morning + 2 * HOUR)).toHaveLength(1);
      expect(onDays(history, 3, 4).length).toBeLessThanOrEqual(1);
      expect(onDays(history, 4)).toEqual([]);
    });

    it("is told again when it comes at another time, or much higher", () => {
      const random = seededRandom(9);
      const from = spikes(noisy(50), 5 * MINUTE);
      const change = (isChanged: (elapsed: number) => boolean, value: number) =>
        from.map((sample) =>
          isChanged(sample.at - START) ? { ...sample, value: value + random() } : sample
        );
      const later = (elapsed: number) =>
        elapsed >= 7 * DAY + 9 * HOUR && elapsed < 7 * DAY + 9 * HOUR + 5 * MINUTE;
      const higher = (elapsed: number) =>
        elapsed >= 7 * DAY + 3 * HOUR && elapsed < 7 * DAY + 3 * HOUR + 5 * MINUTE;
      expect(onDays(observe(change(later, 350)), 7)).toHaveLength(1);
      expect(onDays(observe(change(higher, 1500)), 7)).toHaveLength(1);
    });
  });

  describe("weekend against weekday", () => {
    const week = (load: (elapsed: number) => number) =>
      samplesOf(
        28 * DAY,
        (elapsed, random) => 20 + load(elapsed) * hump(elapsed) + 3 * gaussian(random),
      );
    const quiet = (elapsed: number) => isWeekend(elapsed) ? 20 : 100;

    it("does not tell quiet weekends from the third week on", () => {
      const history = observe(week(quiet), { sizes: [720] });
      expect(onDays(history, 14)).toEqual([]);
    });

    it("tells a load on a weekend that no day has had", () => {
      const day = 26;
      const busy = week((elapsed) => Math.floor(elapsed / DAY) === day ? 300 : quiet(elapsed));
      expect(onDays(observe(busy, { sizes: [720] }), day, day + 1).length).toBeGreaterThanOrEqual(
        1,
      );
    });
  });

  describe("DST change", () => {
    const local = (shift: number) => (elapsed: number, random: () => number) =>
      rhythm(elapsed + (elapsed >= 10 * DAY ? shift : 0), random);

    it.each([
      { name: "an hour earlier", shift: HOUR },
      { name: "an hour later", shift: -HOUR },
    ])(
      "tells at most twice that the rhythm is $name, and nothing from the third day on",
      ({ shift }) => {
        const history = observe(samplesOf(20 * DAY, local(shift)), { sizes: [720] });
        expect(onDays(history, 10).length).toBeLessThanOrEqual(2);
        expect(onDays(history, 13)).toEqual([]);
      },
    );

    it("a job at 03:00 local time that moves by an hour is normal again from the third day on", () => {
      const samples = samplesOf(20 * DAY, (elapsed, random) => {
        const ofDay = (elapsed + (elapsed >= 10 * DAY ? HOUR : 0)) % DAY;
        const isOn = ofDay >= 3 * HOUR && ofDay < 3 * HOUR + 5 * MINUTE;
        return noisy(50)(elapsed, random) + (isOn ? 300 : 0);
      });
      const history = observe(samples, { sizes: [720] });
      expect(onDays(history, 10).length).toBeLessThanOrEqual(2);
      expect(onDays(history, 12)).toEqual([]);
    });
  });

  describe("cadence", () => {
    it.each([
      { name: "minute", interval: MINUTE, days: 10, rows: 12 },
      { name: "5-minute", interval: 5 * MINUTE, days: 21, rows: 6 },
      { name: "hourly", interval: HOUR, days: 60, rows: 4 },
    ])("finds an incident in $name samples, and little else", ({ interval, days, rows }) => {
      const from = (days - 2) * DAY + 11 * HOUR;
      const samples = samplesOf(days * DAY, (elapsed, random) =>
        rhythm(elapsed, random) +
        (elapsed >= from && elapsed < from + rows * interval ? 200 : 0), { interval });
      const history = observe(samples, { sizes: [200] });
      expect(anomaliesFrom(history, START + from, START + from + rows * interval)).toHaveLength(1);
      const others = onDays(history, 3).length - 1;
      expect(others).toBeLessThanOrEqual((days - 3) / 7);
    });

    it.each([
      { name: "from a minute to 5 minutes", before: MINUTE, after: 5 * MINUTE },
      { name: "from 5 minutes to a minute", before: 5 * MINUTE, after: MINUTE },
      { name: "from a minute to 15 seconds", before: MINUTE, after: MINUTE / 4 },
      { name: "from 5 minutes to an hour", before: 5 * MINUTE, after: HOUR },
    ])(
      "that changes $name is told at most twice, and values are judged on",
      ({ before, after }) => {
        const value = (elapsed: number, random: () => number) => rhythm(elapsed, random);
        const turn = 8 * DAY;
        const first = samplesOf(turn, value, { interval: before });
        const second = samplesOf(4 * DAY, (elapsed, random) =>
          value(elapsed, random) +
          (elapsed >= 3 * DAY + 6 * HOUR && elapsed < 3 * DAY + 6 * HOUR + 8 * after ? 200 : 0), {
          interval: after,
          seed: 2,
        }).map((sample) => ({ ...sample, at: sample.at + turn }));
        const history = observe([...first, ...second], { sizes: [100] });
        const told = onDays(history, 8);
        const isIncident = ({ startedAt }: { startedAt: number }) =>
          startedAt >= START + 11 * DAY + 6 * HOUR &&
          startedAt < START + 11 * DAY + 6 * HOUR + 8 * after;
        expect(told.filter(isIncident)).toHaveLength(1);
        expect(told.filter((anomaly) => !isIncident(anomaly)).length).toBeLessThanOrEqual(2);
      },
    );
  });

  describe("gaps", () => {
    it("a gap of two hours is told as missing, once, and the values around it are not", () => {
      const samples = samplesOf(6 * DAY, rhythm).filter(({ at }) => {
        const elapsed = at - START;
        return elapsed < 5 * DAY + 6 * HOUR || elapsed >= 5 * DAY + 8 * HOUR;
      });
      expect(onDays(observe(samples, { sizes: [5] }), 3))
        .toMatchObject([{
          anomalyKind: "missing",
          endedReason: "recovered",
          endedAt: START + 5 * DAY + 8 * HOUR,
        }]);
    });

    it("one sample that is missing now and then is not told", () => {
      const random = seededRandom(3);
      const samples = samplesOf(6 * DAY, rhythm).filter(() => random() > 0.02);
      expect(onDays(observe(samples, { sizes: [60] }), 1).length).toBeLessThanOrEqual(1);
    });

    it("an incident after a gap is told", () => {
      const samples = samplesOf(
        6 * DAY,
        (elapsed, random) => noisy(50)(elapsed, random) * (elapsed >= 5 * DAY + 9 * HOUR ? 6 : 1),
      )
        .filter(({ at }) => at - START < 5 * DAY + 6 * HOUR || at - START >= 5 * DAY + 8 * HOUR);
      const told = onDays(observe(samples, { sizes: [5] }), 5);
      expect(told.map(({ anomalyKind }) => anomalyKind)).toEqual(["missing", "level_shift"]);
    });
  });

  describe("a clock that goes back", () => {
    const samples = samplesOf(2 * DAY, rhythm);

    it("older samples and repeated ones change nothing, and late ones do not rewrite verdicts", () => {
      const disturbed = samples.flatMap((sample, index) =>
        index % 100 === 99
          ? [sample, { at: sample.at, value: 9999 }, { at: sample.at - 30 * MINUTE, value: -9999 }]
          : [sample]
      );
      const calm = observe(samples, { sizes: [7] });
      const history = observe(disturbed, { sizes: [7] });
      expect(history.state).toStrictEqual(calm.state);
      expect(history.memory).toBe(calm.memory);
      expect(history.judgements).toStrictEqual(calm.judgements);
      expect(history.events).toEqual([]);
    });

    it("a clock of the caller behind the newest sample says nothing of silence", () => {
      const history = observe(samples, { now: samples.at(-1)!.at - 5 * HOUR });
      expect(history.events).toEqual([]);
    });

    it("times before 1970 are times too", () => {
      const early = samples.map(({ at, value }) => ({ at: at - START - 20 * DAY, value }));
      expect(observe(early).judgements).toHaveLength(early.length);
    });
  });

  it.each([NaN, Infinity, -Infinity])(
    "NaN refused: a value of %s throws, whatever came before",
    (value) => {
      const input = {
        settings: PLAIN,
        kind: "gauge",
        openAnomaly: null,
        spans: [],
        deploys: [],
        now: null,
      } as const;
      const { state, memory } = observe(everyMinute([1, 2, 3]));
      const samples = [{ at: minute(4), value: 1 }, { at: minute(5), value }];
      expect(() => detector.detectSeries({ ...input, state, memory, samples })).toThrow(RangeError);
      expect(() => detector.detectSeries({ ...input, state: null, memory: null, samples }))
        .toThrow(`its value ${value} is not finite`);
      expect(() =>
        detector.detectSeries({ ...input, state, memory, samples: [{ at: NaN, value: 1 }] })
      ).toThrow("its time NaN is no date");
    },
  );

  describe("±1e300", () => {
    const isFinite = (found: unknown): boolean =>
      typeof found === "number"
        ? Number.isFinite(found)
        : typeof found !== "object" || found === null || Object.values(found).every(isFinite);

    it.each(["gauge", "counter"] as const)("gives finite numbers only, as a %s", (kind) => {
      const random = seededRandom(11);
      const values = repeat(
        3000,
        (index) =>
          index % 500 < 250
            ? (random() - 0.5) * 2e300
            : [1e300, -1e300, 0, 1.7976931348623157e308, 5e-324][index % 5]!,
      );
      const { state, events, judgements, forecast } = observe(everyMinute(values), {
        kind,
        sizes: [50],
      });
      expect(isFinite([state, events, judgements, forecast])).toBe(true);
    });

    it("tells a jump to it, and forgets it within a day of calm", () => {
      const calm = samplesOf(2 * DAY, noisy(50));
      const first = observe(calm);
      const jump = [{ at: START + 2 * DAY, value: 1e300 }];
      const after = observe(jump, { after: first });
      expect(openAnomalies(after)).toMatchObject([{ anomalyKind: "spike", observed: 1e300 }]);
      const later = samplesOf(DAY, noisy(50), { seed: 2 })
        .map(({ at, value }) => ({ at: at + 2 * DAY + MINUTE, value }));
      const history = observe(later, { after, sizes: [60] });
      expect(openAnomalies(history)).toEqual([]);
      expect(history.anomalies.size).toBe(1);
      const newest = history.judgements.at(-1)!;
      if (newest.kind === "insufficient_data") throw new Error("nothing was judged");
      expect(newest.expected).toBeLessThan(100);
      expect(newest.upper).toBeLessThan(1000);
      const again = { at: later.at(-1)!.at + MINUTE, value: 500 };
      expect(observe([again], { after: history }).anomalies.size).toBe(2);
    });
  });

  describe("one sample", () => {
    it("has insufficient data", () => {
      expect(observe(everyMinute([7]))).toMatchObject({
        events: [],
        judgements: [{ at: START, kind: "insufficient_data", trainingCount: 1 }],
        status: "insufficient_data",
        silentAt: null,
        forecast: null,
      });
    });

    it("and none has neither state nor verdict that would break the next call", () => {
      const none = observe([], { now: START });
      expect(none).toMatchObject({ events: [], judgements: [], status: "insufficient_data" });
      expect(observe(everyMinute([7]), { after: none }).judgements).toHaveLength(1);
    });

    it("of a counter has no rate yet", () => {
      expect(observe(everyMinute([7]), { kind: "counter" }).judgements)
        .toEqual([{ at: START, kind: "insufficient_data", trainingCount: 0 }]);
    });
  });

  describe("with little to go by", () => {
    it.each([
      { name: "minute", interval: MINUTE, last: 119 },
      { name: "5-minute", interval: 5 * MINUTE, last: 28 },
      { name: "hourly", interval: HOUR, last: 28 },
    ])("says so up to two hours or 30 samples: $name samples", ({ interval, last }) => {
      const { judgements } = observe(samplesOf(60 * DAY / 24, noisy(50), { interval }));
      const first = judgements.findIndex(({ kind }) => kind !== "insufficient_data");
      expect(first).toBe(last + 1);
    });

    it("has a first useful verdict after two hours of minute data", () => {
      const values = [...samplesOf(130 * MINUTE, noisy(50)).map(({ value }) => value), 500, 500];
      expect(observe(everyMinute(values)).events).toMatchObject([{
        kind: "open",
        startedAt: minute(130),
      }]);
    });
  });

  it("a series of a million samples keeps a constant memory", () => {
    const random = seededRandom(4);
    const SIZE = 5000;
    let history = observe([]);
    let largest = 0;
    let told = 0;
    for (let from = 0; from < 1_000_000; from += SIZE) {
      const samples = repeat(SIZE, (offset) => rhythm((from + offset) * MINUTE, random))
        .map((value, offset) => ({ at: START + (from + offset) * MINUTE, value }));
      history = observe(samples, { after: { ...history, events: [], judgements: [] } });
      told += history.events.filter(({ kind }) => kind === "open").length;
      largest = Math.max(largest, JSON.stringify([history.state, history.memory]).length);
    }
    expect(largest).toBeLessThanOrEqual(STATE_BYTES_LIMIT);
    expect(told / (1_000_000 / (7 * 1440))).toBeLessThanOrEqual(1);
    const last = START + 1_000_000 * MINUTE;
    expect(observe([{ at: last, value: 900 }], { after: history }).anomalies.size)
      .toBe(history.anomalies.size + 1);
  });
});
