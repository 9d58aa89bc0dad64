/** What detection comes to on the labelled sets, by the measures of its goals. */
import { DEFAULT_THRESHOLD, type Detector } from "../shared/detection/detector.ts";
import {
  BATCH_SAMPLES,
  DEFAULT_SETTINGS,
  SeriesReplay,
} from "../scripts/detection/replay-series.ts";
import type { DetectionData } from "./detection-data.ts";
import { BUDGETS, type LabelledSeries, scoreEvents, scoreNab } from "./detection-scores.ts";

/** Gives each row of a series a score from 0 to 1, without looking ahead. */
export type SeriesScorer = (series: LabelledSeries) => Float64Array;

/** The measures of one way to score. NaN where the set is not there. */
export interface DetectionMeasures {
  readonly nabBest: number;
  readonly nabThreshold: number;
  readonly nabFixed: number;
  readonly nabFalse: number;
  readonly cloudmon: number;
  readonly cloudmonFalse: number;
  /** Mean of the seeds. */
  readonly minuteOps: number;
  readonly minuteOpsFalse: number;
  /** Recall at each of {@link BUDGETS}. */
  readonly cloudmonAtBudgets: readonly number[];
  readonly minuteOpsAtBudgets: readonly number[];
}

/** Scores a series as `npm run detect-files` does. */
export function scoreBy(detector: Detector): SeriesScorer {
  return ({ times, values }) => {
    const replay = new SeriesReplay({
      detector,
      settings: { ...DEFAULT_SETTINGS, threshold: DEFAULT_THRESHOLD },
      kind: "gauge",
    });
    const scores = new Float64Array(times.length);
    for (let from = 0; from < times.length; from += BATCH_SAMPLES) {
      const samples = Array.from(
        times.subarray(from, from + BATCH_SAMPLES),
        (at, index) => ({ at, value: values[from + index]! }),
      );
      replay.judge(samples).judgements.forEach((judgement, index) => {
        if (judgement !== null && judgement.kind !== "insufficient_data") {
          scores[from + index] = judgement.score;
        }
      });
    }
    return scores;
  };
}

const WEEK = 7 * 24 * 60 * 60 * 1000;

/**
 * Runs of rows at or over the threshold outside all windows, per series-week. NAB counts rows; a run of them is what a person
 * would be told of. Its first 15 % of rows, at most 750, do not count.
 */
function countFalseRuns(
  corpus: readonly LabelledSeries[],
  scores: readonly Float64Array[],
): number {
  let [runs, weeks] = [0, 0];
  corpus.forEach(({ times, events }, file) => {
    const first = Math.ceil(Math.min(Math.floor(0.15 * times.length), 750));
    weeks += (times.at(-1)! - times[first]!) / WEEK;
    let isOver = false;
    for (let row = first; row < times.length; row++) {
      const isFalse = scores[file]![row]! >= DEFAULT_THRESHOLD &&
        !events.some(([from, until]) => row >= from && row <= until);
      runs += Number(isFalse && !isOver);
      isOver = isFalse;
    }
  });
  return runs / weeks;
}

const meanOf = (numbers: readonly number[]) =>
  numbers.reduce((sum, number) => sum + number, 0) / numbers.length;

/** Scores every series of every set, and measures the scores. */
export function measureScores(data: DetectionData, score: SeriesScorer): DetectionMeasures {
  const nabScores = data.nab.map(score);
  const best = data.nab.length > 0
    ? scoreNab(data.nab, nabScores, null)
    : { score: NaN, threshold: NaN };
  const fixed = data.nab.length > 0 ? scoreNab(data.nab, nabScores, DEFAULT_THRESHOLD).score : NaN;
  const eventsOf = (cases: readonly LabelledSeries[]) =>
    scoreEvents(cases, cases.map(score), DEFAULT_THRESHOLD);
  const cloudmon = data.cloudmon.length > 0 ? eventsOf(data.cloudmon) : null;
  const seeds = data.minuteOps.map(eventsOf);
  return {
    nabBest: best.score,
    nabThreshold: best.threshold,
    nabFixed: fixed,
    nabFalse: data.nab.length > 0 ? countFalseRuns(data.nab, nabScores) : NaN,
    cloudmon: cloudmon?.recallAtBudget ?? NaN,
    cloudmonFalse: cloudmon?.fixed.falsePerWeek ?? NaN,
    minuteOps: meanOf(seeds.map(({ recallAtBudget }) => recallAtBudget)),
    minuteOpsFalse: meanOf(seeds.map(({ fixed }) => fixed.falsePerWeek)),
    cloudmonAtBudgets: cloudmon?.atBudgets ?? [],
    minuteOpsAtBudgets: seeds.length === 0
      ? []
      : BUDGETS.map((_, index) => meanOf(seeds.map(({ atBudgets }) => atBudgets[index]!))),
  };
}
