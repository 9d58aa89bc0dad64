import { describe, expect, it } from "vitest";
import {
  type BacktestSeries,
  backtestSeries,
  mergeRuns,
  usualInterval,
} from "../../scripts/detection/backtest-series.ts";
import { drawPage, thinSamples } from "../../scripts/detection/draw-page.ts";
import {
  plainText,
  printReport,
  showNumber,
  showTime,
} from "../../scripts/detection/print-report.ts";
import {
  BATCH_SAMPLES,
  DEFAULT_SETTINGS,
  replaySeries,
} from "../../scripts/detection/replay-series.ts";
import { calibrate } from "../../shared/detection/calibrate.ts";
import type { DetectionInput, LabelledSpan } from "../../shared/detection/detector.ts";
import { MINUTE, minuteSamples, START, thresholdDetector } from "./threshold-detector.ts";

const DEPS = { detector: thresholdDetector, calibrate };
const BUDGETS = [0.25, 1, 4];
const DAY = 1440;

/** Two weeks of 10 with spikes of different heights: 21.5 scores 0.46, 24 scores 0.56, 35 and more 1. */
const STRANGE = {
  [2 * DAY]: 35,
  [5 * DAY]: 24,
  [5 * DAY + 1]: 24,
  [9 * DAY]: 21.5,
  [12 * DAY]: 60,
};

const at = (index: number) => START + index * MINUTE;

function seriesOf(changes: Partial<BacktestSeries> = {}): BacktestSeries {
  return {
    name: 'requests_total{job="api"}',
    kind: "gauge",
    settings: { ...DEFAULT_SETTINGS, unit: "count" },
    samples: minuteSamples(14 * DAY, STRANGE),
    reportFrom: -Infinity,
    spans: [],
    deploys: [],
    budget: 1,
    threshold: 0.5,
    truth: null,
    hasFeedback: false,
    ...changes,
  };
}

const startsOf = (backtest: ReturnType<typeof backtestSeries>) =>
  backtest.runs.map(({ anomalies }) =>
    anomalies.map(({ startedAt }) => (startedAt - START) / MINUTE)
  );

describe("replaySeries()", () => {
  const options = {
    detector: thresholdDetector,
    kind: "gauge",
    settings: { ...DEFAULT_SETTINGS, threshold: 0.5 },
  } as const;

  it("keeps each anomaly as its last event left it, over batches too", () => {
    const edge = BATCH_SAMPLES - 1;
    const { anomalies } = replaySeries(
      minuteSamples(2 * DAY + edge, { [edge]: 30, [edge + 1]: 60 }),
      options,
    );
    expect(anomalies).toMatchObject([
      {
        kind: "close",
        startedAt: at(edge),
        lastSeenAt: at(edge + 1),
        endedAt: at(edge + 2),
        score: 1,
      },
    ]);
  });

  it("does not put up with a detector that leaves samples out", () => {
    const lazy = {
      ...thresholdDetector,
      detectSeries: (input: DetectionInput) => {
        const result = thresholdDetector.detectSeries(input);
        return { ...result, judgements: result.judgements.slice(1) };
      },
    };
    expect(() => replaySeries(minuteSamples(4), { ...options, detector: lazy }))
      .toThrow("fake-1 judged 3 of 4 samples");
  });

  it("has a band where there is a verdict, and values everywhere", () => {
    const { judged, expected, lower, upper } = replaySeries(
      minuteSamples(4, { 0: 7, 3: 12 }),
      options,
    );
    expect([...judged]).toEqual([7, 10, 10, 12]);
    expect([...expected]).toEqual([NaN, NaN, 10, 10]);
    expect([...lower]).toEqual([NaN, NaN, 5, 5]);
    expect([...upper]).toEqual([NaN, NaN, 15, 15]);
  });

  it("shows a counter by its rate, before there are verdicts too", () => {
    const { judged } = replaySeries(minuteSamples(3, { 0: 40, 1: 100, 2: 30 }), {
      ...options,
      kind: "counter",
    });
    expect([...judged.slice(0, 2)]).toEqual([NaN, 1]);
  });
});

describe("backtestSeries()", () => {
  it("tells the more the larger the budget, and asks for the metric's own too", () => {
    const backtest = backtestSeries(seriesOf({ budget: 2 }), BUDGETS, DEPS);
    expect(backtest.runs.map(({ budget }) => budget)).toEqual([0.25, 1, 2, 4]);
    const starts = startsOf(backtest);
    // 60 and 35 score the same, and half an anomaly in two weeks has no room for both.
    expect(starts[0]).toEqual([2 * DAY, 12 * DAY]);
    expect(starts[3]).toEqual([2 * DAY, 5 * DAY, 9 * DAY, 12 * DAY]);
    for (const [index, told] of starts.slice(1).entries()) {
      expect(told).toEqual(expect.arrayContaining(starts[index]!));
    }
    expect(backtest.runs[0]!.calibration.isBudgetExceeded).toBe(true);
    expect(backtest.feedback).toBeNull();
  });

  it("learns from what came before and reports the rest", () => {
    const backtest = backtestSeries(seriesOf({ reportFrom: at(5 * DAY) }), [4], DEPS);
    expect(startsOf(backtest)[1]).toEqual([5 * DAY, 9 * DAY, 12 * DAY]);
    const later = backtestSeries(seriesOf({ reportFrom: at(5 * DAY) + 1 }), [4], DEPS);
    expect(startsOf(later)[1]).toEqual([9 * DAY, 12 * DAY]);
    expect(later.runs[1]!.calibration.candidateCount).toBe(4);
  });

  it("tells nothing of a single sample", () => {
    const backtest = backtestSeries(seriesOf({ samples: minuteSamples(1) }), BUDGETS, DEPS);
    expect(startsOf(backtest)).toEqual([[], [], []]);
    expect(printReport(backtest)).toContain("No budget would have told anything.");
    expect(() => checkMarkup(drawPage([backtest]))).not.toThrow();
  });

  it("gives the feedback that labels in a file amount to, and respects it", () => {
    const truth = {
      events: [{ from: at(2 * DAY), until: at(2 * DAY) }, {
        from: at(9 * DAY),
        until: at(9 * DAY + 3),
      }],
      denied: null,
    };
    const { feedback } = backtestSeries(seriesOf({ truth }), BUDGETS, DEPS);
    expect(feedback!.before).toMatchObject({
      threshold: 0.5,
      rightCount: 1,
      wrongCount: 2,
      caughtCount: 1,
      eventCount: 2,
    });
    expect(feedback!.after).toMatchObject({ precision: 1, recall: 1 });
    expect(feedback!.after.threshold).toBeLessThanOrEqual(0.46);
  });

  it("takes what people said out of what was known before, maintenance stays", () => {
    const spans: LabelledSpan[] = [
      { from: at(12 * DAY) - 1, until: at(12 * DAY) + 1, label: "false_positive" },
      { from: at(2 * DAY), until: at(2 * DAY), label: "expected" },
      { from: at(9 * DAY), until: at(9 * DAY), label: "missed" },
      { from: at(5 * DAY), until: at(6 * DAY), label: "maintenance" },
    ];
    const truth = {
      events: [{ from: at(9 * DAY), until: at(9 * DAY) }],
      denied: spans.slice(0, 2).map(({ from, until }) => ({ from, until: until! })),
    };
    const seen = new Set<string>();
    const { feedback } = backtestSeries(seriesOf({ spans, truth, hasFeedback: true }), [1], {
      calibrate,
      detector: {
        version: "fake-1",
        detectSeries: (input) => {
          seen.add(input.spans.map(({ label }) => label).join());
          return thresholdDetector.detectSeries(input);
        },
      },
    });
    expect([...seen].toSorted()).toEqual([
      "false_positive,expected,missed,maintenance",
      "maintenance",
    ]);
    expect(feedback!.before).toMatchObject({
      rightCount: 0,
      wrongCount: 2,
      unjudgedCount: 1,
      recall: 0,
    });
    expect(feedback!.after).toMatchObject({ wrongCount: 0, recall: 1 });
  });

  it("refuses a budget of nothing", () => {
    expect(() => backtestSeries(seriesOf(), [0], DEPS)).toThrow(RangeError);
  });
});

describe("usualInterval()", () => {
  it("is the median, whatever a gap does", () => {
    expect(usualInterval([0, 60, 120, 9000, 9060].map((time) => ({ at: time, value: 0 })))).toBe(
      60,
    );
    expect(usualInterval([])).toBe(0);
  });
});

describe("mergeRuns()", () => {
  it("has each anomaly once, with the budgets that tell it", () => {
    const backtest = backtestSeries(seriesOf({ budget: 1 }), BUDGETS, DEPS);
    expect(
      mergeRuns(backtest).map((
        { anomaly, budgets },
      ) => [(anomaly.startedAt - START) / MINUTE, budgets]),
    ).toEqual([
      [2 * DAY, [0.25, 1, 4]],
      [5 * DAY, [4]],
      [9 * DAY, [4]],
      [12 * DAY, [0.25, 1, 4]],
    ]);
  });
});

describe("printReport()", () => {
  it("has a table of budgets, one of anomalies, spans, and the comparison", () => {
    const truth = { events: [{ from: at(2 * DAY), until: at(2 * DAY) }], denied: [] };
    const spans: LabelledSpan[] = [{ from: at(9 * DAY), until: null, label: "maintenance" }];
    const lines = printReport(backtestSeries(seriesOf({ truth, spans }), BUDGETS, DEPS)).split(
      "\n",
    );
    expect(lines[0]).toBe('requests_total{job="api"}');
    expect(lines[2]).toBe(
      "20,160 samples from 2026-03-02 00:00 to 2026-03-15 23:59 UTC, detector fake-1, gauge, direction both.",
    );
    expect(lines.find((line) => line.startsWith("1 a week, as set"))).toMatch(/ +3 +1\.5/);
    expect(lines.find((line) => line.includes("2026-03-07 00:00"))).toMatch(
      /^· +● +● +2026-03-07 00:00 +2026-03-07 00:02 +spike +0\.56 +Saw 24 & expected <10>\.$/,
    );
    expect(lines.find((line) => line.startsWith("maintenance"))).toMatch(/2026-03-11 00:00 +lasts/);
    expect(lines.find((line) => line.startsWith("before"))).toMatch(/100 % \(1 of 1\)/);
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThan(160);
  });
});

describe("words and numbers", () => {
  it.each([[0, "0"], [1234.5678, "1,234.57"], [1e300, "1.000e+300"], [-0.00001, "-1.000e-5"]])(
    "showNumber(%d)",
    (value, text) => expect(showNumber(value)).toBe(text),
  );

  it("showTime() has seconds where there are any", () => {
    expect(showTime(START)).toBe("2026-03-02 00:00");
    expect(showTime(START + 5000)).toBe("2026-03-02 00:00:05");
  });

  it("plainText() lets nothing through that moves the cursor or turns text round", () => {
    expect(plainText("a\u001b[31mb\r\nc\u202Ed")).toBe("a [31mb c d");
  });
});

/** Throws unless every tag of a page is closed in order and every entity known: XML, but for the first line. */
function checkMarkup(page: string): void {
  const rest = page.replace("<!doctype html>\n", "").replace(/<style>[^<]*<\/style>/, "");
  const open: string[] = [];
  const tags = /<(\/?)([a-z][\w-]*)((?:\s+[\w:-]+="[^"<]*")*)\s*(\/?)>/gi;
  const text = rest.replaceAll(tags, (_, closing, name, _attributes, empty) => {
    if (closing) {
      if (open.pop() !== name) throw new Error(`</${name}> closes what is not open`);
    } else if (!empty) open.push(name);
    return "";
  });
  if (open.length > 0) throw new Error(`open: ${open}`);
  if (/[<>]|&(?!amp;|lt;|gt;|quot;)/.test(text)) throw new Error("a stray < > or &");
  if (/="[^"]*&(?!amp;|lt;|gt;|quot;)/.test(rest)) throw new Error("a stray & in an attribute");
}

describe("checkMarkup()", () => {
  it.each(["<p>", "<p></b>", "<p>a & b</p>", "<p>1 < 2</p>", '<p title="a & b"></p>', "</p>"])(
    "would not pass with %s",
    (markup) => expect(() => checkMarkup(markup)).toThrow(),
  );
});

describe("drawPage()", () => {
  const spans: LabelledSpan[] = [
    { from: at(3 * DAY), until: at(4 * DAY), label: "incident" },
    { from: at(13 * DAY), until: null, label: "maintenance" },
    { from: at(90 * DAY), until: null, label: "expected" },
  ];
  const series = seriesOf({
    spans,
    deploys: [at(DAY), at(-DAY)],
    name: '<script>alert("&")</script>',
  });
  const page = drawPage([
    backtestSeries(series, BUDGETS, DEPS),
    backtestSeries(seriesOf(), BUDGETS, DEPS),
  ]);

  it("is well-formed, with names and explanations as text", () => {
    expect(() => checkMarkup(page)).not.toThrow();
    expect(page).not.toContain("<script");
    expect(page).toContain("Saw 24 &amp; expected &lt;10&gt;.");
  });

  it("needs and may load nothing", () => {
    expect(page).not.toMatch(/\b(src|href)=|@import|url\((?!#)/);
    expect(page).toContain("default-src 'none'");
    expect(page).toContain("prefers-color-scheme: dark");
  });

  it("has a chart of each series with its marks, spans, deploys and band", () => {
    const chart = page.slice(page.indexOf("<svg"), page.indexOf("</svg>"));
    expect(page.match(/<svg /g)).toHaveLength(2);
    expect(chart.match(/<path class="own"/g)).toHaveLength(2);
    expect(chart.match(/<path class="other"/g)).toHaveLength(2);
    expect(chart.match(/class="span"/g)).toHaveLength(2);
    expect(chart.match(/class="deploy"/g)).toHaveLength(1);
    expect(chart).toMatch(/class="band" d="M[\d. L-]+Z"/);
    expect(chart).toContain("spike at 2026-03-07 00:00, score 0.56, told at 4 a week.");
    expect(chart).not.toMatch(/NaN|Infinity|undefined|null/);
  });

  it("stays small however long the series is", () => {
    const samples = minuteSamples(100_000).map(({ at }, index) => ({
      at,
      value: 10 + (index % 7) / 7,
    }));
    const long = drawPage([backtestSeries(seriesOf({ samples }), [1], DEPS)]);
    expect(long.length).toBeLessThan(200_000);
  });

  it.each([
    ["one value", minuteSamples(10)],
    ["a single sample", minuteSamples(1)],
    ["all zeros", minuteSamples(50).map(({ at }) => ({ at, value: 0 }))],
    [
      "the largest numbers",
      minuteSamples(50).map(({ at }, index) => ({ at, value: index % 2 ? 1.7e308 : -1.7e308 })),
    ],
    [
      "the smallest numbers",
      minuteSamples(50).map(({ at }, index) => ({ at, value: (index % 2) * 5e-324 })),
    ],
    ["years", minuteSamples(50).map(({ value }, index) => ({ at: index * 1e11, value }))],
    ["a gap", minuteSamples(50).filter((_, index) => index < 10 || index > 40)],
  ])("draws %s", (_, samples) => {
    const drawn = drawPage([backtestSeries(seriesOf({ samples }), [1], DEPS)]);
    expect(() => checkMarkup(drawn)).not.toThrow();
    expect(drawn.slice(drawn.indexOf("<svg"), drawn.indexOf("</svg>"))).not.toMatch(/NaN|Infinity/);
  });

  it("breaks the line at a gap", () => {
    const samples = minuteSamples(300).filter((_, index) => index < 100 || index > 200);
    const drawn = drawPage([backtestSeries(seriesOf({ samples }), [1], DEPS)]);
    expect(/class="value" d="([^"]*)"/.exec(drawn)![1]!.match(/M/g)).toHaveLength(2);
  });
});

describe("thinSamples()", () => {
  it("keeps the first, lowest, highest and last of each column", () => {
    const samples = [5, 1, 9, 7, 4, 7, NaN, 2].map((value, index) => ({ at: index, value }));
    const values = samples.map(({ value }) => value);
    expect(thinSamples(samples, values, (at) => at / 5)).toEqual([[0, 1, 2, 4], [5, 7]]);
    expect(thinSamples(samples, values, (at) => at)).toEqual([[0], [1], [2], [3], [4], [5], [7]]);
  });
});
