import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  findLabelledRuns,
  giveFeedback,
  measureAgreement,
} from "../../scripts/detection/measure-recall.ts";

const EVENTS = [{ from: 100, until: 200 }, { from: 500, until: 500 }];

describe("measureAgreement()", () => {
  it("counts what begins within an event, give or take the slack, as right", () => {
    const at = (...told: number[]) => measureAgreement(told, { events: EVENTS, denied: null }, 10);
    expect(at(90, 210, 490)).toMatchObject({ rightCount: 3, wrongCount: 0, caughtCount: 2 });
    expect(at(89, 211, 489)).toMatchObject({ rightCount: 0, wrongCount: 3, caughtCount: 0 });
    expect(at(100, 150, 300)).toMatchObject({ precision: 2 / 3, recall: 1 / 2 });
  });

  it("leaves out what nobody has a word on, where only some is denied", () => {
    const truth = { events: EVENTS, denied: [{ from: 195, until: 300 }] };
    expect(measureAgreement([150, 250, 400], truth, 0)).toEqual({
      rightCount: 1,
      wrongCount: 1,
      unjudgedCount: 1,
      caughtCount: 1,
      eventCount: 2,
      precision: 1 / 2,
      recall: 1 / 2,
    });
    // Where both speak, the event does.
    expect(measureAgreement([198], truth, 0)).toMatchObject({ rightCount: 1, wrongCount: 0 });
  });

  it("has no share of nothing", () => {
    expect(measureAgreement([], { events: [], denied: null }, 0))
      .toMatchObject({ precision: null, recall: null });
    expect(measureAgreement([400], { events: EVENTS, denied: [] }, 0))
      .toMatchObject({ precision: null, recall: 0, unjudgedCount: 1 });
  });
});

describe("findLabelledRuns()", () => {
  const runs = (labels: string) =>
    findLabelledRuns(
      [...labels].map((label, at) => ({ at, isLabelled: label === "?" ? null : label === "1" })),
    );

  it("joins neighbours", () => {
    expect(runs("0110100")).toEqual([{ from: 1, until: 2 }, { from: 4, until: 4 }]);
    expect(runs("11")).toEqual([{ from: 0, until: 1 }]);
  });

  it("tells none from no labels", () => {
    expect(runs("000")).toEqual([]);
    expect(runs("???")).toBeNull();
  });
});

describe("giveFeedback()", () => {
  it("has a span for each wrong notification and each event not told", () => {
    const told = [{ from: 120, until: 900 }, { from: 300, until: 350 }];
    expect(giveFeedback(told, { events: EVENTS, denied: null }, 0)).toEqual([
      { from: 300, until: 350, label: "false_positive" },
      { from: 500, until: 500, label: "missed" },
    ]);
  });

  it("ends a false alarm where something real begins", () => {
    expect(giveFeedback([{ from: 300, until: 900 }], { events: EVENTS.slice(1), denied: null }, 0))
      .toEqual([
        { from: 300, until: 499, label: "false_positive" },
        { from: 500, until: 500, label: "missed" },
      ]);
  });

  it("has nothing left to say if it was followed", () => {
    const interval = fc.tuple(fc.nat(1000), fc.nat(50)).map(([from, length]) => ({
      from,
      until: from + length,
    }));
    fc.assert(
      fc.property(fc.array(interval), fc.array(interval), fc.nat(20), (told, events, slack) => {
        const truth = { events, denied: null };
        const said = giveFeedback(told, truth, slack);
        const isSaid = (label: string, from: number) =>
          said.some((span) => span.label === label && span.from === from);
        const followed = [
          ...told.filter(({ from }) => !isSaid("false_positive", from)),
          ...said.filter(({ label }) => label === "missed").map(({ from }) => ({
            from,
            until: from,
          })),
        ];
        expect(giveFeedback(followed, truth, slack)).toEqual([]);
        const { precision, recall } = measureAgreement(
          followed.map(({ from }) => from),
          truth,
          slack,
        );
        expect([precision ?? 1, recall ?? 1]).toEqual([1, 1]);
      }),
    );
  });
});
