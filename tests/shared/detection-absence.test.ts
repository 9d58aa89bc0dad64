import { describe, expect, it } from "vitest";
import type { Sample } from "../../shared/detection/detector.ts";
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
  SECOND,
  START,
} from "./detection-fixtures.ts";
import { noisy, samplesOf, seededRandom } from "./detection-series.ts";

const LENGTH = 3 * DAY;
const samples = samplesOf(LENGTH, noisy(50));
const last = samples.at(-1)!.at;
const calm = observe(samples, { sizes: [60] });
const at = (minutes: number, circumstances: Circumstances = {}) =>
  observe([], { after: calm, now: last + minutes * MINUTE, ...circumstances });

/** More samples after a gap. */
const resumed = (minutes: number, count = 60): Sample[] =>
  samplesOf(count * MINUTE, noisy(50), { seed: 2 })
    .map(({ at, value }) => ({ at: at - START + last + minutes * MINUTE, value }));

describe("samples that do not come", () => {
  it("silentAt says from when on: minutes later than five more than the usual interval", () => {
    expect(calm.silentAt).toBe(last + 6 * MINUTE);
  });

  it.each([
    { minutes: 5.99, kinds: [] },
    { minutes: 6, kinds: ["late"] },
    { minutes: 9.99, kinds: ["late"] },
    { minutes: 10, kinds: ["missing"] },
    { minutes: 600, kinds: ["missing"] },
  ])("by the clock $minutes minutes later: $kinds", ({ minutes, kinds }) => {
    const found = openAnomalies(at(minutes));
    expect(found.map(({ anomalyKind }) => anomalyKind)).toEqual(kinds);
    if (kinds.length === 0) return;
    expect(found[0]).toMatchObject({
      startedAt: last + MINUTE,
      expected: 60,
      observed: minutes * 60,
    });
    expect(found[0]!.details).toMatchObject({ comparedWith: "usual_interval", perWeek: null });
  });

  describe("are told after the longest of", () => {
    const told = (history: History, length: number) =>
      openAnomalies(observe([], { after: history, now: newest(history) + length }))
        .map(({ anomalyKind }) => anomalyKind);
    const newest = ({ judgements }: History) => judgements.at(-1)!.at;
    const expectSilence = (history: History, length: number, kind: string) => {
      expect(history.silentAt).toBe(newest(history) + length);
      expect(told(history, length - 1)).toEqual([]);
      expect(told(history, length)).toEqual([kind]);
    };
    /** Minutes as before, then samples as many minutes apart as told, one after the other. */
    const withGaps = (...gaps: number[]) => {
      let time = last;
      const given = gaps.map((minutes) => ({ at: time += minutes * MINUTE, value: 50 }));
      return observe(given, { after: calm });
    };

    it.each([
      { what: "five minutes more than 10 s", interval: 10, seconds: 310, kind: "missing" },
      { what: "five minutes more than 1 min", interval: 60, seconds: 360, kind: "late" },
      { what: "five minutes more than 2 min", interval: 120, seconds: 420, kind: "late" },
      { what: "three intervals of 3 min", interval: 180, seconds: 540, kind: "late" },
      { what: "three intervals of 5 min", interval: 300, seconds: 900, kind: "late" },
      { what: "three intervals of 1 h", interval: 3600, seconds: 10800, kind: "late" },
    ])("$what", ({ interval, seconds, kind }) => {
      const length = Math.max(6 * HOUR, 40 * interval * SECOND);
      const given = samplesOf(length, noisy(50), { interval: interval * SECOND });
      expectSilence(observe(given), seconds * SECOND, kind);
    });

    it("one and a half times the interval before", () => {
      expectSilence(withGaps(5), 7.5 * MINUTE, "late");
      expectSilence(withGaps(4), 6 * MINUTE, "late");
      // One such gap is not usual.
      expectSilence(withGaps(5, 1), 6 * MINUTE, "late");
    });

    it("twice the second longest gap", () => {
      expectSilence(withGaps(5, 1, 1, 4, 1), 8 * MINUTE, "late");
      expectSilence(withGaps(4, 1, 1, 5, 1), 8 * MINUTE, "late");
      expectSilence(withGaps(5, 1, 1, 5.5, 1), 10 * MINUTE, "missing");
      expectSilence(withGaps(5, 1, 1, 3, 1), 6 * MINUTE, "late");
    });

    it("but a gap that was told is none of those", () => {
      const { anomalies } = withGaps(6, 1, 1, 6, 1);
      expect([...anomalies.values()].slice(calm.anomalies.size)).toHaveLength(2);
      expectSilence(withGaps(6, 1, 1, 6, 1), 6 * MINUTE, "late");
      expectSilence(withGaps(5.99, 1, 1, 5.99, 1), 11.98 * MINUTE, "missing");
    });
  });

  it("late becomes missing, once, under the same time; silentAt leads from one to the next and then to the end", () => {
    const late = at(6);
    expect(late.silentAt).toBe(last + 10 * MINUTE);
    const missing = observe([], { after: late, now: late.silentAt! });
    expect(missing.events.slice(-1)).toMatchObject([{ kind: "extend", anomalyKind: "missing" }]);
    expect(missing.silentAt).toBe(last + DAY);
    const again = observe([], { after: missing, now: last + 2 * HOUR });
    expect(again.events).toHaveLength(missing.events.length);
    const over = observe([], { after: again, now: again.silentAt! });
    expect(over.events.at(-1)).toMatchObject({
      kind: "close",
      endedReason: "no_data",
      endedAt: last + DAY,
    });
    expect(over.silentAt).toBeNull();
    expect(over.status).toBe("normal");
  });

  it("after no_data nothing more is told of that silence, by the clock or by the next sample", () => {
    const over = at(1440 * 2, { after: at(6) });
    expect(over.events.length).toBeGreaterThan(calm.events.length);
    const later = observe([], { after: over, now: last + 5 * DAY });
    expect(later.events).toHaveLength(over.events.length);
    const back = observe(resumed(6 * 1440), { after: later });
    expect(back.anomalies.size).toBe(over.anomalies.size);
  });

  it("an open anomaly of values closes as no_data after a day without samples", () => {
    const high = [1, 2, 3].map((minutes) => ({ at: last + minutes * MINUTE, value: 900 }));
    const open = observe(high, { after: calm });
    expect(openAnomalies(open)).toHaveLength(1);
    const after = (milliseconds: number) =>
      observe([], { after: open, now: last + 3 * MINUTE + milliseconds });
    expect(openAnomalies(after(DAY - 1))).toHaveLength(1);
    const closed = after(DAY);
    expect(openAnomalies(closed)).toEqual([]);
    expect(closed.events.at(-1)).toMatchObject({ kind: "close", endedReason: "no_data" });
    expect(closed.events.at(-1)!.explanation).toContain("no more samples");
  });

  it("a sample that comes closes it as recovered", () => {
    const back = observe(resumed(30), { after: at(20) });
    expect(back.events.at(-1)).toMatchObject({
      kind: "close",
      anomalyKind: "missing",
      endedReason: "recovered",
      endedAt: last + 30 * MINUTE,
    });
    expect(openAnomalies(back)).toEqual([]);
  });

  it.each([
    { minutes: 5, kinds: [] },
    { minutes: 5.99, kinds: [] },
    { minutes: 6, kinds: ["late"] },
    { minutes: 9.99, kinds: ["late"] },
    { minutes: 10, kinds: ["missing"] },
    { minutes: 30, kinds: ["missing"] },
  ])(
    "by the gap alone, without a clock, $minutes minutes: $kinds, opened and closed",
    ({ minutes, kinds }) => {
      const back = observe(resumed(minutes), { after: calm });
      const found = anomaliesFrom(back, last);
      expect(found.map(({ anomalyKind }) => anomalyKind)).toEqual(kinds);
      expect(found.every(({ endedReason }) => endedReason === "recovered")).toBe(true);
    },
  );

  it("the clock and the gap tell the same silence once", () => {
    const byGap = anomaliesFrom(observe(resumed(30), { after: calm }), last);
    const byClock = anomaliesFrom(observe(resumed(30), { after: at(20) }), last);
    const facts = (found: typeof byGap) =>
      found.map(({ startedAt, endedAt, anomalyKind }) => ({ startedAt, endedAt, anomalyKind }));
    expect(facts(byClock)).toEqual(facts(byGap));
  });

  it.each(["expected", "maintenance"] as const)("not in a span labelled %s", (label) => {
    const spans = [{ label, from: last, until: null }];
    expect(at(60, { spans }).events).toEqual(calm.events);
  });

  it("but after such a span, when what was silent in it does not come back", () => {
    const spans = [{ label: "maintenance", from: last, until: last + 30 * MINUTE }] as const;
    expect(openAnomalies(at(29, { spans }))).toEqual([]);
    expect(openAnomalies(at(45, { spans }))).toHaveLength(1);
  });

  it("nor is what did come back in time told after it", () => {
    const spans = [{ label: "maintenance", from: last, until: last + 30 * MINUTE }] as const;
    const back = observe(resumed(25), { after: calm, spans });
    expect(anomaliesFrom(back, last)).toEqual([]);
  });

  it("a series whose gaps are usual is not told at each of them", () => {
    const random = seededRandom(8);
    const holey = samplesOf(6 * DAY, noisy(50)).filter(({ at }) =>
      random() > 0.05 && (at - START) / MINUTE % 60 >= 6
    );
    expect(anomaliesFrom(observe(holey, { sizes: [60] }), START + DAY).length).toBeLessThanOrEqual(
      1,
    );
  });

  it("two outages of half a day do not make a third one normal", () => {
    const isOut = (elapsed: number) =>
      [5, 8, 11].some((day) => elapsed >= day * DAY + 6 * HOUR && elapsed < day * DAY + 18 * HOUR);
    const found = anomaliesFrom(
      observe(samplesOf(13 * DAY, noisy(50)).filter(({ at }) => !isOut(at - START)), {
        sizes: [60],
      }),
      START + DAY,
    ).filter(({ anomalyKind }) => anomalyKind === "missing");
    expect(found.map(({ startedAt }) => startedAt))
      .toEqual([5, 8, 11].map((day) => START + day * DAY + 6 * HOUR));
  });

  it("a higher threshold waits longer, a lower one does not wait less", () => {
    const settings = (threshold: number) => ({ settings: { ...PLAIN, threshold } });
    for (const threshold of [0.2, 0.45, 0.5]) {
      expect(at(5.99, settings(threshold))).toMatchObject({
        ...{ events: calm.events, silentAt: last + 6 * MINUTE },
      });
      expect(openAnomalies(at(6, settings(threshold)))[0]!.score).toBeCloseTo(0.5, 9);
    }
    expect(at(11.99, settings(0.6))).toMatchObject({
      ...{ events: calm.events, silentAt: last + 12 * MINUTE },
    });
    const [found] = openAnomalies(at(12, settings(0.6)));
    expect(found!.score).toBeCloseTo(0.6, 9);
    expect(found!.explanation).toMatch(
      / Score 0\.6 of 1, told from 0\.6\. Rests on \d{4} samples\.$/,
    );
  });

  it("is told of too little known: not before ten samples", () => {
    const few = observe(samples.slice(0, 5), { now: START + HOUR });
    expect(few).toMatchObject({ events: [], silentAt: null });
  });
});

describe("samples that come and say nothing", () => {
  /** Normal for three days, then what `after` makes of it. */
  const then = (after: (value: number) => number, rest = 4 * HOUR) =>
    samplesOf(LENGTH + rest, (elapsed, random) => {
      const value = noisy(50)(elapsed, random);
      return elapsed < LENGTH ? value : after(value);
    });
  const kinds = (given: readonly Sample[], circumstances: Circumstances = {}) =>
    anomaliesFrom(observe(given, { sizes: [5], ...circumstances }), START + DAY)
      .map(({ anomalyKind, endedAt }) => ({ anomalyKind, isOpen: endedAt === null }));

  it("flat_line: a value that moved and does not any more", () => {
    expect(kinds(then(() => 50))).toEqual([{ anomalyKind: "flat_line", isOpen: true }]);
  });

  it("flat_line is not told of a value that was always still, or is most of the time", () => {
    expect(kinds(samplesOf(5 * DAY, () => 50))).toEqual([]);
    const random = seededRandom(6);
    const rare = samplesOf(6 * DAY, () => random() < 0.02 ? 51 : 50);
    expect(
      anomaliesFrom(observe(rare), START + 3 * DAY).filter((a) => a.anomalyKind === "flat_line"),
    ).toEqual([]);
  });

  it("drop_to_zero: a gauge that is zero and never was", () => {
    expect(kinds(then(() => 0))).toEqual([{ anomalyKind: "drop_to_zero", isOpen: true }]);
  });

  it("drop_to_zero is not told of a series that is zero now and then", () => {
    const random = seededRandom(5);
    const given = samplesOf(6 * DAY, () => random() < 0.3 ? 0 : 10 * random());
    expect(anomaliesFrom(observe(given), START + 3 * DAY)).toEqual([]);
  });

  it("counter_stopped: a counter that counts no more", () => {
    let sum = 0;
    const given = then((value) => value * 0).map(({ at, value }) => ({ at, value: sum += value }));
    expect(kinds(given, { kind: "counter" })).toEqual([{
      anomalyKind: "counter_stopped",
      isOpen: true,
    }]);
  });

  it("counter_stopped closes as recovered when it counts again", () => {
    let sum = 0;
    const given = samplesOf(
      LENGTH + 4 * HOUR,
      (elapsed, random) =>
        elapsed >= LENGTH && elapsed < LENGTH + 2 * HOUR
          ? 0 * random()
          : noisy(50)(elapsed, random),
    )
      .map(({ at, value }) => ({ at, value: sum += value }));
    expect(kinds(given, { kind: "counter" })).toEqual([{
      anomalyKind: "counter_stopped",
      isOpen: false,
    }]);
  });
});

describe("gaps that are usual", () => {
  it("are forgotten like the rest of the memory: in three weeks without them to a third", () => {
    const given = samplesOf(30 * DAY, noisy(50), { interval: 5 * MINUTE })
      .filter(({ at }) => at >= START + 8 * DAY || (at - START) % DAY >= 6 * HOUR);
    const silence = (until: number) => {
      const part = given.filter(({ at }) => at < START + until);
      return observe(part, { sizes: [2000] }).silentAt! - part.at(-1)!.at;
    };
    const nightly = silence(8 * DAY);
    expect(nightly).toBeGreaterThan(8 * HOUR);
    expect(silence(29 * DAY) / nightly).toBeCloseTo(Math.exp(-1), 1);
  });
});
