import { describe, expect, it } from "vitest";
import { detector } from "../../shared/detection/current-detector.ts";
import type { DetectionInput } from "../../shared/detection/detector.ts";
import { medianDetector } from "../../shared/detection/median-detector.ts";
import {
  DAY,
  everyMinute,
  HOUR,
  MINUTE,
  observe,
  openAnomalies,
  PLAIN,
  repeat,
  START,
  STEADY,
} from "./detection-fixtures.ts";

const COUNTS = { ...PLAIN, unit: "count" };

/** The time of the nth sample of {@link everyMinute}, counted from 0. */
const minute = (index: number) => START + index * MINUTE;

/** Kinds of the events that values one a minute give in one call. */
const kindsOf = (values: readonly number[]) =>
  observe(everyMinute(values)).events.map((e) => e.kind);

/** One call without state. */
const detect = (input: Partial<DetectionInput>) =>
  medianDetector.detectSeries({
    state: null,
    samples: [],
    settings: PLAIN,
    kind: "gauge",
    openAnomaly: null,
    ...input,
  });

describe("medianDetector", () => {
  it("is the detector in use", () => {
    expect(detector).toBe(medianDetector);
  });

  describe("with little to go by", () => {
    it("says nothing of no samples, and keeps the state", () => {
      const nothing = { events: [], judgements: [], status: "insufficient_data" };
      expect(detect({})).toEqual({ ...nothing, state: null });
      expect(detect({ state: { version: "of another world" } })).toEqual({
        ...nothing,
        state: { version: "of another world" },
      });
    });

    it("has insufficient data of one sample", () => {
      expect(detect({ samples: everyMinute([7]) })).toMatchObject({
        events: [],
        judgements: [{ at: START, kind: "insufficient_data", trainingCount: 1 }],
        status: "insufficient_data",
      });
    });

    it.each([
      { learned: 29, kind: "insufficient_data", status: "normal", opened: 0 },
      { learned: 30, kind: "suspicious", status: "anomaly", opened: 1 },
    ])("judges the value after $learned as $kind", ({ learned, kind, status, opened }) => {
      const history = observe(everyMinute([...STEADY.slice(0, learned), 500]));
      expect(history.judgements.at(-1)?.kind).toBe(kind);
      expect(history.events).toHaveLength(opened);
      expect(history.status).toBe(status);
    });
  });

  describe("opens", () => {
    it.each([
      { tail: [20, 10], kinds: [], why: "one suspicious value alone" },
      { tail: [20, 20], kinds: ["open"], why: "two in a row" },
      { tail: [20, 10, 20, 10, 20], kinds: [], why: "three, none in a row" },
      { tail: [27.7], kinds: [], why: "one that is just not far" },
      { tail: [27.8], kinds: ["open"], why: "one that is just far" },
    ])("$kinds for $why", ({ tail, kinds }) => {
      expect(kindsOf([...STEADY, ...tail])).toEqual(kinds);
    });

    it("for 500 errors after 60 zeros, not for one", () => {
      const zeros = repeat(60, 0);
      const kinds = (tail: number[]) =>
        observe(everyMinute([...zeros, ...tail]), { settings: COUNTS }).events.map((e) => e.kind);
      expect(kinds([500])).toEqual(["open"]);
      expect(kinds([1, 1, 2, 1, 1])).toEqual([]);
    });

    it("for a flat line that jumps, not for one that jitters", () => {
      expect(kindsOf([...repeat(60, 42), 60])).toEqual(["open"]);
      expect(kindsOf([...repeat(60, 42), 42.4, 41.6, 42.4, 41.6])).toEqual([]);
    });

    it("at the first suspicious sample, with the worst value of all", () => {
      const [event, ...others] = observe(everyMinute([...STEADY, 20, 25, 22])).events;
      expect(others).toEqual([]);
      expect(event).toMatchObject({
        kind: "open",
        startedAt: minute(240),
        lastSeenAt: minute(242),
        endedAt: null,
        endedReason: null,
        expected: 10,
        observed: 25,
        sampleCount: 3,
        severity: "info",
      });
      expect(event!.score).toBeCloseTo(15 / 1.4826, 9);
      expect(event!.explanation).toContain("Saw 25 seconds, expected 10 seconds");
    });

    it("with the worst value also where every score is at its limit", () => {
      expect(observe(everyMinute([...repeat(60, 0), 1, 5, 3])).events)
        .toMatchObject([{ observed: 5, score: 1000 }]);
    });

    it.each([
      { value: 27.7, twice: true, severity: "info" },
      { value: 27.8, twice: false, severity: "warning" },
      { value: 81, twice: false, severity: "warning" },
      { value: 81.2, twice: false, severity: "critical" },
    ])("with severity $severity for $value", ({ value, twice, severity }) => {
      const tail = twice ? [value, value] : [value];
      expect(observe(everyMinute([...STEADY, ...tail])).events).toMatchObject([{ severity }]);
    });

    it.each(
      [
        { direction: "up", tail: [60], opened: 1 },
        { direction: "up", tail: [-60], opened: 0 },
        { direction: "down", tail: [60], opened: 0 },
        { direction: "down", tail: [-60], opened: 1 },
      ] as const,
    )("$opened for $tail, watching $direction", ({ direction, tail, opened }) => {
      const settings = { ...PLAIN, direction };
      expect(observe(everyMinute([...STEADY, ...tail]), { settings }).events).toHaveLength(opened);
    });

    it.each([
      { jump: 29.9, opened: 0 },
      { jump: 30, opened: 1 },
    ])("$opened for jumps by $jump with a minimum change of 30", ({ jump, opened }) => {
      const settings = { ...PLAIN, minimumChange: 30 };
      const samples = everyMinute([...STEADY, ...repeat(20, 10 + jump)]);
      expect(observe(samples, { settings }).events).toHaveLength(opened);
    });

    it.each(
      [
        { sensitivity: "low", opened: 1 },
        { sensitivity: "normal", opened: 2 },
        { sensitivity: "high", opened: 3 },
      ] as const,
    )("$opened of three at sensitivity $sensitivity", ({ sensitivity, opened }) => {
      const calm = STEADY.slice(0, 10);
      // Scores of about 5.4, 8.1 and 12: two in a row of each.
      const values = [...STEADY, 18, 18, ...calm, 22, 22, ...calm, 28, 28, ...calm];
      const { anomalies } = observe(everyMinute(values), { settings: { ...PLAIN, sensitivity } });
      expect(anomalies.size).toBe(opened);
    });
  });

  describe("extends", () => {
    const inFives = { sizes: [240, 5] };

    it("once a call, while there is something new to tell", () => {
      const { events } = observe(everyMinute([...STEADY, ...repeat(15, 500)]), inFives);
      expect(events.map(({ kind, sampleCount }) => [kind, sampleCount]))
        .toEqual([["open", 5], ["extend", 10], ["extend", 15]]);
      expect(new Set(events.map(({ startedAt }) => startedAt)).size).toBe(1);
    });

    it("nothing when the call brought calm samples only", () => {
      const values = [...STEADY, ...repeat(5, 500), ...repeat(4, 10)];
      expect(observe(everyMinute(values), inFives).events.map(({ kind }) => kind)).toEqual([
        "open",
      ]);
    });
  });

  describe("closes", () => {
    const incident = repeat(20, 500);

    it.each([
      { tail: repeat(4, 10), kinds: ["open"], why: "four calm values are not enough" },
      { tail: repeat(5, 10), kinds: ["open", "close"], why: "five are" },
      { tail: [10, 10, 10, 10, 500, 10], kinds: ["open"], why: "they have to be in a row" },
      { tail: repeat(9, 14.5), kinds: ["open"], why: "inside the band is not yet calm" },
      { tail: repeat(9, 14.4), kinds: ["open", "close"], why: "inside its inner half is" },
      { tail: [10, 10, 10, 10, 14.5, 10], kinds: ["open"], why: "nor calm in between" },
    ])("$kinds: $why", ({ tail, kinds }) => {
      expect(kindsOf([...STEADY, ...incident, ...tail])).toEqual(kinds);
    });

    it("at the first calm sample", () => {
      const { events } = observe(everyMinute([...STEADY, ...incident, 16, ...repeat(5, 10)]));
      expect(events.at(-1)).toMatchObject({
        kind: "close",
        startedAt: minute(240),
        lastSeenAt: minute(259),
        endedAt: minute(261),
        endedReason: "recovered",
        observed: 500,
        sampleCount: 20,
      });
      expect(events.at(-1)!.explanation).toContain("Ended after 21 min: 5 values in a row");
    });

    it("and opens the next one in the same call", () => {
      const values = [...STEADY, ...incident, ...repeat(5, 10), 500];
      const { events, anomalies } = observe(everyMinute(values), { sizes: [250, 100] });
      expect(events.map(({ kind }) => kind)).toEqual(["open", "close", "open"]);
      expect([...anomalies.keys()]).toEqual([minute(240), minute(265)]);
    });
  });

  describe("learns", () => {
    it("nothing from an incident of six hours, which stays open to its end", () => {
      const values = [...STEADY, ...repeat(360, (index) => 500 + index % 9), ...STEADY, 500];
      const { anomalies, judgements } = observe(everyMinute(values), { sizes: [5] });
      expect([...anomalies.values()]).toMatchObject([
        {
          startedAt: minute(240),
          endedAt: minute(600),
          endedReason: "recovered",
          sampleCount: 360,
        },
        { startedAt: minute(840), endedAt: null, expected: 10 },
      ]);
      const during = judgements.slice(240, 600);
      expect(during.every((j) => j.kind === "suspicious" && j.expected === 10)).toBe(true);
    });

    it("nothing from suspicious values that do not open", () => {
      const hiccups = STEADY.flatMap((value) => [20, value]);
      const { state, anomalies } = observe(everyMinute([...STEADY, ...hiccups]));
      expect(anomalies.size).toBe(0);
      expect((state as { training: number[] }).training).not.toContain(20);
    });

    it("six digits of each value", () => {
      const long = repeat(60, (index) => 100 + index / 7);
      const { state } = observe(everyMinute([...long, ...repeat(60, 500 + 1 / 7)]));
      const { training, run } = state as { training: number[]; run: { recent: number[] } };
      const digits = [...training, ...run.recent].map((value) => String(value).length - 1);
      expect(Math.max(...digits)).toBe(6);
      expect(run.recent).toEqual(repeat(3, 500.143));
    });

    it("a slow change, by forgetting what is old", () => {
      const values = repeat(3000, (index) => 100 + index / 10 + index % 5);
      const { anomalies, judgements } = observe(everyMinute(values));
      expect(anomalies.size).toBe(0);
      expect(judgements.at(-1)).toMatchObject({ kind: "normal", expected: expect.closeTo(390, 0) });
    });
  });

  describe("after 24 hours at a new level", () => {
    const level = (length: number) => repeat(length, (index) => 100 + index % 7);

    it("closes it as a level shift, says so, and judges by the new level", () => {
      const { events, judgements, status } = observe(everyMinute([...STEADY, ...level(1500), 10]));
      expect(events.map(({ kind, endedReason }) => [kind, endedReason]))
        .toEqual([["open", null], ["close", "level_shift"], ["open", null]]);
      const { startedAt, endedAt, explanation } = events[1]!;
      expect(endedAt! - startedAt).toBeGreaterThanOrEqual(DAY);
      expect(endedAt! - startedAt).toBeLessThan(DAY + 23 * MINUTE);
      expect(explanation).toContain("the values have held around 103 seconds (mostly 100 to 106)");
      expect(judgements.at(-2)).toMatchObject({ kind: "normal", expected: 103 });
      expect(status).toBe("anomaly");
    });

    it("not before", () => {
      const history = observe(everyMinute([...STEADY, ...level(1440)]));
      expect(openAnomalies(history)).toHaveLength(1);
    });

    it.each([
      { why: "it still grows", next: (index: number) => 500 + index / 5 },
      { why: "it moved on an hour ago", next: (index: number) => index < 1380 ? 500 : 900 },
      { why: "it moved on eight hours ago", next: (index: number) => index < 1000 ? 500 : 900 },
      { why: "it moved on after two hours", next: (index: number) => index < 120 ? 500 : 900 },
    ])("not if $why", ({ next }) => {
      const history = observe(everyMinute([...STEADY, ...repeat(1500, next)]));
      expect(openAnomalies(history)).toHaveLength(1);
    });

    it("not if it was there for an hour only and missing since", () => {
      const samples = everyMinute([...STEADY, ...level(60)]);
      const late = level(60).map((value, index) => ({ at: minute(300 + 1440 + index), value }));
      expect(openAnomalies(observe([...samples, ...late]))).toHaveLength(1);
    });

    it("though it has a daily rhythm", () => {
      const rhythm = repeat(3 * 1440, (i) => 500 + 50 * Math.sin(2 * Math.PI * i / 1440) + i % 7);
      const [first, ...others] = observe(everyMinute([...STEADY, ...rhythm])).anomalies.values();
      expect(first!.endedReason).toBe("level_shift");
      expect(others).toEqual([]);
    });
  });

  describe("of a counter", () => {
    /** A counter that starts at 1,000 and gets these increases, one a minute. */
    const counting = (increases: readonly number[]) => {
      let total = 1000;
      return everyMinute([total, ...increases.map((increase) => total += increase)]);
    };
    const steady = STEADY.map((value) => value * 6);

    it("judges the rate per second", () => {
      const { events, judgements } = observe(counting([...steady, 6000]), { kind: "counter" });
      expect(judgements[0]).toEqual({ at: START, kind: "insufficient_data", trainingCount: 0 });
      expect(judgements.at(-2)).toMatchObject({ kind: "normal", value: 1, expected: 1 });
      expect(events).toMatchObject([{ kind: "open", observed: 100, expected: 1 }]);
      expect(events[0]!.explanation).toContain("Saw 100 seconds/s, expected 1 seconds/s");
    });

    it("takes a reset for a restart from zero", () => {
      const samples = counting(steady);
      const after = { at: samples.at(-1)!.at + MINUTE, value: 60 };
      const { events, judgements } = observe([...samples, after], { kind: "counter" });
      expect(events).toEqual([]);
      expect(judgements.at(-1)).toMatchObject({ kind: "normal", value: 1 });
    });

    it("takes the rate over a gap for as long as the gap was", () => {
      const samples = counting(steady);
      const { at, value } = samples.at(-1)!;
      const after = { at: at + HOUR, value: value + 3600 };
      const { judgements } = observe([...samples, after], { kind: "counter" });
      expect(judgements.at(-1)).toMatchObject({ kind: "normal", value: 1 });
    });

    it("does not wonder at one count, but at six a minute, after none", () => {
      const none = repeat(60, 0);
      const opened = (tail: number[]) =>
        observe(counting([...none, ...tail]), { kind: "counter", settings: COUNTS }).events.length;
      expect(opened([1, 1, 1])).toBe(0);
      expect(opened([6, 6])).toBe(1);
    });
  });

  describe("of samples that do not come as they should", () => {
    it("ignores those that are not newer than the newest judged", () => {
      const samples = everyMinute(STEADY);
      const { state } = detect({ samples });
      const again = detect({ state, samples: [samples[3]!, { ...samples.at(-1)!, value: 500 }] });
      expect(again).toEqual({ state, events: [], judgements: [], status: "normal" });
      const back = detect({ samples: [...samples, { at: START, value: 500 }] });
      expect(back.events).toEqual([]);
      expect(back.judgements).toHaveLength(240);
    });

    it("takes a gap for nothing, but mentions it", () => {
      const before = everyMinute(STEADY);
      const after = repeat(2, 500).map((value, index) => ({ at: minute(299 + index), value }));
      const quiet = repeat(5, 10).map((value, index) => ({ at: minute(299 + index), value }));
      expect(observe([...before, ...quiet]).events).toEqual([]);
      expect(observe([...before, ...after]).events[0]!.explanation)
        .toContain("There were no samples for 1 h before it started.");
      expect(observe(everyMinute([...STEADY, 500])).events[0]!.explanation).not.toContain(
        "no samples",
      );
    });

    it.each([
      { at: START, value: NaN },
      { at: START, value: Infinity },
      { at: START, value: -Infinity },
      { at: NaN, value: 1 },
      { at: Infinity, value: 1 },
      { at: 8.64e15 + 1, value: 1 },
    ])("throws RangeError for $value at $at", (sample) => {
      expect(() => detect({ samples: [sample] })).toThrow(RangeError);
    });

    it("takes a negative zero for zero, as JSON does", () => {
      const result = detect({ samples: everyMinute([...repeat(60, -0), 1, -0]) });
      expect(JSON.parse(JSON.stringify(result))).toStrictEqual(result);
    });

    it.each(["gauge", "counter"] as const)("keeps ±1e300 of a %s finite", (kind) => {
      const huge = [1e300, -1e300, Number.MAX_VALUE, -Number.MAX_VALUE, 0, 5e-324, 1e300, 1e300];
      const values = [...repeat(60, (index) => huge[index % 8]!), ...STEADY, ...huge, ...STEADY];
      const cases = [
        everyMinute([...STEADY, ...huge, ...STEADY, ...huge]),
        everyMinute(values),
        everyMinute(values, 1),
        everyMinute(values, DAY),
        everyMinute(repeat(300, (index) => huge[index % 8]!)),
        values.map((value, index) => ({ at: index * 1e-310, value })),
      ];
      for (const samples of cases) {
        for (const unit of ["count", "seconds"]) {
          const settings = { ...PLAIN, unit };
          const { events, judgements, state } = observe(samples, { kind, settings, sizes: [7] });
          const numbers = [...events, ...judgements, state].flatMap(numbersIn);
          expect(numbers.filter((number) => !Number.isFinite(number))).toEqual([]);
        }
      }
    });
  });

  describe("with a state and a store that disagree", () => {
    const open = { startedAt: minute(240) };
    const { state: opened } = detect({ samples: everyMinute([...STEADY, ...repeat(5, 500)]) });
    const next = (values: number[]) =>
      values.map((value, index) => ({ at: minute(245 + index), value }));

    it.each([
      { name: "another version", state: { ...opened as object, version: "median-mad-0" } },
      { name: "no version", state: { training: [] } },
      { name: "too long a training", state: { ...opened as object, training: repeat(241, 1) } },
      { name: "a broken run", state: { ...opened as object, run: { isOpen: true } } },
      { name: "no object", state: 42 },
    ])("starts afresh from a state of $name", ({ state }) => {
      expect(detect({ state, samples: next([7]) })).toEqual(detect({ samples: next([7]) }));
    });

    it("starts afresh when a gauge became a counter", () => {
      const { judgements } = detect({ state: opened, samples: next([7]), kind: "counter" });
      expect(judgements).toMatchObject([{ kind: "insufficient_data", trainingCount: 0 }]);
    });

    it("continues an open anomaly without a state, until a day of one level ends it", () => {
      const samples = next(repeat(1500, (index) => 100 + index % 7));
      const before = detect({ samples: samples.slice(0, 1000), openAnomaly: open });
      expect(before).toMatchObject({ events: [], status: "anomaly" });
      expect(before.judgements.at(-1)).toMatchObject({ kind: "insufficient_data" });

      const { state } = before;
      const after = detect({ state, samples: samples.slice(1000), openAnomaly: open });
      expect(after).toMatchObject({
        events: [{
          kind: "close",
          startedAt: open.startedAt,
          endedReason: "level_shift",
          expected: 103,
          sampleCount: 1,
        }],
        status: "normal",
      });
      expect(after.events[0]!.explanation).toContain("is lost");
    });

    it("continues an anomaly that only the store knows, by what the state learned", () => {
      const { state } = detect({ samples: everyMinute(STEADY) });
      const ongoing = detect({ state, samples: next([500]), openAnomaly: open });
      expect(ongoing.events).toMatchObject([{ kind: "extend", ...open, observed: 500 }]);
      const calm = detect({ state, samples: next(repeat(5, 10)), openAnomaly: open });
      expect(calm.events).toMatchObject([{ kind: "close", ...open, endedAt: minute(245) }]);
    });

    it("takes the start from the store", () => {
      const openAnomaly = { startedAt: minute(200) };
      const { events } = detect({ state: opened, samples: next([500]), openAnomaly });
      expect(events).toMatchObject([{ kind: "extend", startedAt: minute(200), sampleCount: 6 }]);
    });

    it("forgets an anomaly that the store no longer has open, and may open it anew", () => {
      expect(detect({ state: opened, samples: next([10]) })).toMatchObject({
        events: [],
        status: "normal",
      });
      expect(detect({ state: opened, samples: next([500]) }).events)
        .toMatchObject([{ kind: "open", startedAt: minute(245), sampleCount: 1 }]);
    });
  });
});

function numbersIn(value: unknown): number[] {
  if (typeof value === "number") return [value];
  return typeof value === "object" && value !== null ? Object.values(value).flatMap(numbersIn) : [];
}
