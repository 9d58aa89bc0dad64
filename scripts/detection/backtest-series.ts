import {
  type Calibration,
  type CalibrationInput,
  countDays,
  REPLAY_THRESHOLD,
  touches,
} from "../../shared/detection/calibrate.ts";
import { listCandidates } from "../../shared/detection/collect-candidates.ts";
import type {
  DetectionEvent,
  DetectionSettings,
  Detector,
  LabelledSpan,
  Sample,
} from "../../shared/detection/detector.ts";
import { type Agreement, giveFeedback, measureAgreement, type Truth } from "./measure-recall.ts";
import { type ReplayedSeries, replayForCandidates, replaySeries } from "./replay-series.ts";

/** A series with all that its anomalies depend on. */
export interface BacktestSeries {
  /** As people call it: a metric with its labels, or a file. */
  readonly name: string;
  readonly kind: "gauge" | "counter";
  readonly settings: Omit<DetectionSettings, "threshold">;
  /** Ascending. Those before `reportFrom` are only learned from. */
  readonly samples: readonly Sample[];
  /** In ms; what begins earlier is not reported. */
  readonly reportFrom: number;
  readonly spans: readonly LabelledSpan[];
  readonly deploys: readonly number[];
  /** Anomalies told a week that the metric asks for, and the threshold it has today. */
  readonly budget: number;
  readonly threshold: number;
  /** Null where nobody has said anything. */
  readonly truth: Truth | null;
  /** Whether `spans` hold what people said; otherwise the truth is turned into what they would say. */
  readonly hasFeedback: boolean;
}

/** How the pure parts of detection come in. */
export interface BacktestDeps {
  readonly detector: Detector;
  readonly calibrate: (input: CalibrationInput) => Calibration;
}

/** What one budget comes to. */
export interface BudgetRun {
  readonly budget: number;
  readonly calibration: Calibration;
  /** Those that begin in the time reported. */
  readonly anomalies: readonly DetectionEvent[];
}

/** How well a replay agrees with what people said, and its threshold. */
export interface FeedbackRun extends Agreement {
  readonly threshold: number;
}

/** What a series would have told. */
export interface Backtest {
  readonly series: BacktestSeries;
  readonly detectorVersion: string;
  /** Ascending by budget; that of the metric is among them. */
  readonly runs: readonly BudgetRun[];
  /** At the metric's own budget. */
  readonly replayed: ReplayedSeries;
  /** With the threshold of today and no feedback, and with feedback and the threshold it leads to. */
  readonly feedback: { readonly before: FeedbackRun; readonly after: FeedbackRun } | null;
}

/** What people say afterwards, as opposed to what was known at the time. */
const FEEDBACK = new Set<LabelledSpan["label"]>(["false_positive", "expected", "missed"]);

/** How many samples off an anomaly may begin and still belong to an event. */
const SLACK_SAMPLES = 2;

/** The usual distance of samples in ms: the median; 0 for fewer than two. */
export function usualInterval(samples: readonly Sample[]): number {
  const gaps = Float64Array.from(samples.slice(1), ({ at }, index) => at - samples[index]!.at);
  return gaps.sort()[gaps.length >> 1] ?? 0;
}

/**
 * Replays a series at each budget, and once before and once after feedback if there is any. Thresholds come from this very history, as
 * those in production come from the stored one.
 *
 * @throws {RangeError} if a budget is not positive.
 */
export function backtestSeries(
  series: BacktestSeries,
  budgets: readonly number[],
  { detector, calibrate }: BacktestDeps,
): Backtest {
  const { samples, settings, kind, deploys, reportFrom, budget: ownBudget } = series;
  const replayAt = (threshold: number, spans: readonly LabelledSpan[]) =>
    replaySeries(samples, { detector, kind, deploys, spans, settings: { ...settings, threshold } });
  const reported = ({ anomalies }: ReplayedSeries) =>
    anomalies.filter(({ startedAt }) => startedAt >= reportFrom);
  const calibratorOf = (spans: readonly LabelledSpan[]) => {
    const tally = replayForCandidates(samples, {
      ...{ detector, kind, deploys, spans },
      settings: { ...settings, threshold: REPLAY_THRESHOLD },
    });
    const { judgedFrom, judgedUntil, droppedCount } = tally;
    const found = {
      ...{ candidates: listCandidates(tally), droppedCount, spans },
      days: countDays(judgedFrom, judgedUntil),
    };
    return (budget: number) => calibrate({ ...found, budget });
  };

  const calibrateFor = calibratorOf(series.spans);
  const all = [...new Set([...budgets, ownBudget])].sort((a, b) => a - b).map((budget) => {
    const calibration = calibrateFor(budget);
    const replayed = replayAt(calibration.threshold, series.spans);
    return { budget, calibration, replayed, anomalies: reported(replayed) };
  });
  const own = all.find(({ budget }) => budget === ownBudget)!;

  const compareFeedback = (truth: Truth): Backtest["feedback"] => {
    const within: Truth = {
      events: truth.events.filter(({ from }) => from >= reportFrom),
      denied: truth.denied,
    };
    const slack = SLACK_SAMPLES * usualInterval(samples);
    const measure = (anomalies: readonly DetectionEvent[], threshold: number): FeedbackRun => ({
      ...measureAgreement(anomalies.map(({ startedAt }) => startedAt), within, slack),
      threshold,
    });
    const known = series.spans.filter(({ label }) => !FEEDBACK.has(label));
    const told = reported(replayAt(series.threshold, known));
    const before = measure(told, series.threshold);
    if (series.hasFeedback) {
      return { before, after: measure(own.anomalies, own.calibration.threshold) };
    }
    const said = giveFeedback(
      told.map(({ startedAt, endedAt, lastSeenAt }) => ({
        from: startedAt,
        until: endedAt ?? lastSeenAt,
      })),
      within,
      slack,
    );
    const spans = [...series.spans, ...said];
    const { threshold } = calibratorOf(spans)(ownBudget);
    return { before, after: measure(reported(replayAt(threshold, spans)), threshold) };
  };

  return {
    series,
    detectorVersion: detector.version,
    runs: all.map(({ budget, calibration, anomalies }) => ({ budget, calibration, anomalies })),
    replayed: own.replayed,
    feedback: series.truth === null ? null : compareFeedback(series.truth),
  };
}

/** An anomaly of any budget, and the budgets that tell it. */
export interface ToldAnomaly {
  readonly anomaly: DetectionEvent;
  readonly budgets: readonly number[];
}

/**
 * The anomalies of all budgets, each once, in order of time. Which is which is told by their beginning; what is said of one is what the
 * metric's own budget says, or else the smallest budget that tells it.
 */
export function mergeRuns({ runs, series }: Backtest): ToldAnomaly[] {
  const found = new Map<number, { anomaly: DetectionEvent; budgets: number[] }>();
  for (const { budget, anomalies } of runs) {
    for (const anomaly of anomalies) {
      const known = found.get(anomaly.startedAt);
      if (known === undefined) found.set(anomaly.startedAt, { anomaly, budgets: [budget] });
      else {
        known.budgets.push(budget);
        if (budget === series.budget) known.anomaly = anomaly;
      }
    }
  }
  return [...found.values()].sort((a, b) => a.anomaly.startedAt - b.anomaly.startedAt);
}

/** The spans that touch the time reported. */
export const reportedSpans = ({ series: { spans, reportFrom } }: Backtest): LabelledSpan[] =>
  spans.filter((span) => touches(span, reportFrom, Infinity));
