import type { DetectionSettings, Verdict } from "./detector.ts";
import type { TrainingWindow } from "./training-window.ts";

/**
 * Score from which a value is suspicious: robust standard deviations from the median.
 *
 * The scale is one for all metrics; each step is a factor of 1.5, so that high reports all that
 * normal does, and normal all that low does.
 *
 * Why 6: a spread taken from 240 values errs by a tenth, from 30 by a third; 6 estimated deviations
 * are then hardly ever less than 4 true ones, which two Gaussian values in a row pass once in
 * 10⁸ times. It also leaves room for what is not Gaussian: Poisson counts, exponential durations.
 */
export const THRESHOLDS = { low: 9, normal: 6, high: 4 } as const;

/** A score this many thresholds up is far: one value is enough. Chance takes twice as long there. */
export const FAR_FACTOR = 2;

/** A score up to this part of the threshold is calm again; half way, so that nobody flaps on the edge. */
export const CALM_FACTOR = 0.5;

/** Scores end here, without unit: a larger one would only tell how small the spread was. */
export const SCORE_LIMIT = 1000;

/** A median absolute deviation of 1 is a standard deviation of 1.4826 in Gaussian values. */
const MAD_TO_SIGMA = 1.4826;

/** 95 of 100 Gaussian values lie below the mean plus 1.645 standard deviations. */
const TAIL_TO_SIGMA = 1 / 1.645;

/**
 * Smallest spread that is believed, as a ratio of the median: 1 %. A flat line then has to move by
 * 6 % to be suspicious, and jitter in the third digit is nothing.
 */
const RELATIVE_FLOOR = 0.01;

/** What {@link judgeValue} says: the verdict, and how far it goes. */
export interface DetailedVerdict extends Verdict {
  /** The spread that counted as usual on the side of the value, in its unit. */
  readonly spread: number;
  /** At or beyond the band, on a side that is watched. */
  readonly isSuspicious: boolean;
  /** Suspicious by {@link FAR_FACTOR}. */
  readonly isFar: boolean;
  /** Within {@link CALM_FACTOR} of the band, or on the side that is not watched. */
  readonly isCalm: boolean;
}

/**
 * Judges a value by its distance from the median of its training, in robust standard deviations:
 *
 *     score = |value − median| / spread
 *     spread = max(1.4826 × MAD of the value's side, its twentieth / 1.645, practical floors)
 *
 * The MAD is taken for each side of the median by itself (it is the distance to the quartile), for
 * most of what we measure is skewed: a latency has a long tail above, a hit rate one below. The
 * distance to the outermost twentieth (5 % or 95 %) joins it for values that keep two levels, as with
 * a job every five minutes, of which the MAD knows the commoner one only. In Gaussian values both
 * are the standard deviation.
 *
 * The floors keep a flat line from finding everything rare: 1 % of the median; for counts the
 * deviation that pure chance gives them, √median and at least 1; and a sixth of the minimum change,
 * so that at normal sensitivity just the minimum change has to be seen twice and double of it once.
 *
 * - Shapes: `training` holds at least one value, without the one judged. O(1).
 * - Units: the values share the metric's unit; `score` has none.
 * - `intervalSeconds`: what the rate of a counter was taken over; null for a gauge. A rate is a count
 *   divided by it, and so is its floor.
 * - A score is 0 on a side that is not watched, and at most {@link SCORE_LIMIT}.
 */
export function judgeValue(
  value: number,
  training: TrainingWindow,
  { direction, sensitivity, minimumChange, unit }: DetectionSettings,
  intervalSeconds: number | null,
): DetailedVerdict {
  const threshold = THRESHOLDS[sensitivity];
  const expected = training.quantile(0.5);
  const floor = Math.max(
    RELATIVE_FLOOR * Math.abs(expected),
    unit === "count" ? chanceOfCount(expected, intervalSeconds ?? 1) : 0,
    minimumChange / THRESHOLDS.normal,
  );
  const spreadBelow = Math.max(
    MAD_TO_SIGMA * (expected - training.quantile(0.25)),
    TAIL_TO_SIGMA * (expected - training.quantile(0.05)),
    floor,
  );
  const spreadAbove = Math.max(
    MAD_TO_SIGMA * (training.quantile(0.75) - expected),
    TAIL_TO_SIGMA * (training.quantile(0.95) - expected),
    floor,
  );

  const isAbove = value > expected;
  const spread = isAbove ? spreadAbove : spreadBelow;
  const isWatched = direction === "both" || (direction === "up") === isAbove;
  const deviation = isWatched ? Math.abs(value - expected) : 0;
  const reaches = (limit: number) =>
    deviation > 0 && deviation >= limit * spread && deviation >= minimumChange;

  return {
    value,
    expected,
    lower: expected - Math.max(threshold * spreadBelow, minimumChange),
    upper: expected + Math.max(threshold * spreadAbove, minimumChange),
    // 0 / 0: a value that does not deviate from values that do not either.
    score: deviation === 0 ? 0 : Math.min(deviation / spread, SCORE_LIMIT),
    spread,
    isSuspicious: reaches(threshold),
    isFar: reaches(FAR_FACTOR * threshold),
    isCalm: deviation <= CALM_FACTOR * threshold * spread,
  };
}

/**
 * Standard deviation of the rate of a Poisson count with this mean, taken over `seconds`, the mean
 * count being at least 1: √(rate × seconds) / seconds, written so that the product cannot overflow.
 */
function chanceOfCount(rate: number, seconds: number): number {
  return Math.max(Math.sqrt(Math.abs(rate) / seconds), 1 / seconds);
}
