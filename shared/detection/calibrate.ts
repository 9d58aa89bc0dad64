import { DAY } from "./durations.ts";
import { type AnomalyKind, DEFAULT_THRESHOLD, type LabelledSpan } from "./detector.ts";
import { TUNING } from "./tuning.ts";

/** An anomaly that a replay at {@link REPLAY_THRESHOLD} found, told or not. */
export interface Candidate {
  /** When it started, in ms. */
  readonly at: number;
  /** When it was last seen, in ms; `at` if left out. */
  readonly until?: number;
  /** Its highest score (0-1): it is told by every threshold up to that. */
  readonly score: number;
  readonly kind: AnomalyKind;
}

/** What {@link calibrate} goes by. */
export interface CalibrationInput {
  /** In any order. */
  readonly candidates: readonly Candidate[];
  /**
   * Weaker candidates that were not kept: taken to be as strong as the weakest kept that touches no span
   * labelled `missed`. @default {0}
   */
  readonly droppedCount?: number;
  /** Days of history that were judged, ≥ 0. */
  readonly days: number;
  /** Anomalies told a week, > 0. */
  readonly budget: number;
  /** The words of people and of the system about this history. */
  readonly spans: readonly LabelledSpan[];
}

/** A threshold, and what it would have told of the history. */
export interface Calibration {
  readonly threshold: number;
  readonly budget: number;
  readonly days: number;
  /** Those that count, and those in a span where nothing is told. */
  readonly candidateCount: number;
  readonly mutedCount: number;
  /** Candidates that the threshold tells, all in all and a week, and how many the budget allows. */
  readonly toldCount: number;
  readonly toldPerWeek: number;
  readonly allowedCount: number;
  /** Spans labelled `missed` in which something is told now, and in which nothing is. */
  readonly missedToldCount: number;
  readonly missedUntoldCount: number;
  /** More is told than allowed: for the sake of a missed span, or at {@link MAX_THRESHOLD}. */
  readonly isBudgetExceeded: boolean;
}

/** A replay keeps what scores this much, that is every excursion, to see what a lower threshold would tell. */
export const REPLAY_THRESHOLD = TUNING.excursionScore;

/** Bounds of a threshold: below the first one there are no excursions; the second keeps the gravest. */
export const MIN_THRESHOLD = TUNING.excursionScore;
export const MAX_THRESHOLD = 0.95;

/** By so much the threshold of a budget falls when the budget is four times as large. */
const STEP_OF_FOUR = 0.05;

/** Weeks of history that the prior is worth: after as many, both have an equal say. */
const PRIOR_WEEKS = 2;

/** One that is a quarter due may be told, and one in any history: a single incident must not make a series deaf. */
const ROUNDING_UP = 0.75;

/** Thresholds are whole hundredths: finer ones would follow single values of the past. */
const STEPS = 100;

/** Labels of spans in which nothing is told. */
const MUTING = new Set<LabelledSpan["label"]>(["expected", "maintenance", "false_positive"]);

/**
 * Threshold of a budget where nothing is known of the series: 0.5 for one a week, 0.05 less for four
 * times as many, 0.05 more for a quarter, and so on between and beyond, within the bounds.
 *
 * @throws {RangeError} if the budget is not a positive number.
 */
export function thresholdOfBudget(budget: number): number {
  assertBudget(budget);
  const threshold = DEFAULT_THRESHOLD - STEP_OF_FOUR * log4(budget);
  return Math.min(Math.max(threshold, MIN_THRESHOLD), MAX_THRESHOLD);
}

/**
 * Finds the threshold of a budget for one series by what a replay of its history found: the smallest
 * one, in hundredths, for which both hold.
 *
 * - It tells at most `budget` × weeks candidates, rounded up from a quarter on, and at least one. Less
 *   than a week counts as a week.
 * - If it is below the prior, that of {@link thresholdOfBudget}: its rate is within the budget also when
 *   the prior is counted in as {@link PRIOR_WEEKS} further weeks. So silence lowers the threshold little by little: at one a
 *   week to 0.48 after two weeks, 0.47 after four. Without any history the prior stands.
 *
 * Candidates that begin in a span where nothing is told do not count. Each span labelled `missed` then
 * takes the threshold down to the strongest candidate that touches it, whatever the budget says.
 * A larger budget never gives a higher threshold.
 *
 * @throws {RangeError} if `budget` is not positive or `days` is negative.
 */
export function calibrate(
  { candidates, droppedCount = 0, days, budget, spans }: CalibrationInput,
): Calibration {
  if (!(days >= 0 && days < Infinity)) {
    throw new RangeError(`Cannot calibrate by a history of ${days} days`);
  }
  assertBudget(budget);
  const muting = spans.filter(({ label }) => MUTING.has(label));
  const counted = candidates.filter(({ at }) => !muting.some((span) => touches(span, at, at)));
  const scores = counted.map(({ score }) => score);
  const missedSpans = spans.filter(({ label }) => label === "missed");
  const weakest = Math.min(
    ...candidates
      .filter(({ at, until = at }) => !missedSpans.some((span) => touches(span, at, until)))
      .map(({ score }) => score),
  );
  const countFrom = (threshold: number) =>
    scores.filter((score) => score >= threshold).length +
    (weakest >= threshold ? droppedCount : 0);

  const weeks = days / 7;
  const allowedCount = Math.max(1, Math.floor(budget * Math.max(weeks, 1) + ROUNDING_UP));
  const prior = thresholdOfBudget(budget);
  const isWithinBudget = (threshold: number) => {
    const count = countFrom(threshold);
    if (threshold >= prior) return count <= allowedCount;
    const priorCount = PRIOR_WEEKS * 4 ** ((DEFAULT_THRESHOLD - threshold) / STEP_OF_FOUR);
    return count <= allowedCount && priorCount + count <= budget * (PRIOR_WEEKS + weeks) + 1e-9;
  };
  const perBudget = findSmallest(isWithinBudget);

  const missed = missedSpans.map((span) =>
    Math.max(
      ...counted
        .filter(({ at, until = at }) => touches(span, at, until))
        .map(({ score }) => score),
    )
  );
  const tellable = missed.filter((score) => score >= MIN_THRESHOLD);
  const threshold = Math.min(perBudget, ...tellable.map(floorToStep));

  const toldCount = countFrom(threshold);
  return {
    threshold,
    budget,
    days,
    candidateCount: counted.length + droppedCount,
    mutedCount: candidates.length - counted.length,
    toldCount,
    toldPerWeek: toldCount / Math.max(weeks, 1),
    allowedCount,
    missedToldCount: missed.filter((score) => score >= threshold).length,
    missedUntoldCount: missed.filter((score) => score < threshold).length,
    isBudgetExceeded: toldCount > allowedCount,
  };
}

/** Days from one instant to another, both in ms; 0 if one is unknown. */
export function countDays(since: number | null, until: number | null): number {
  return since === null || until === null ? 0 : Math.max(until - since, 0) / DAY;
}

/** Says whether a span and the time between two instants have a moment in common. */
export function touches(span: LabelledSpan, since: number, until: number): boolean {
  const end = span.until ?? Infinity;
  return span.from <= until && since <= end;
}

function assertBudget(budget: number): void {
  if (!(budget > 0 && budget < Infinity)) {
    throw new RangeError(`Cannot take a threshold of a budget of ${budget} a week`);
  }
}

function findSmallest(isEnough: (threshold: number) => boolean): number {
  for (let step = MIN_THRESHOLD * STEPS; step < MAX_THRESHOLD * STEPS; step++) {
    if (isEnough(step / STEPS)) return step / STEPS;
  }
  return MAX_THRESHOLD;
}

/** The largest hundredth that is no larger. */
function floorToStep(score: number): number {
  const step = Math.floor(score * STEPS);
  if ((step + 1) / STEPS <= score) return (step + 1) / STEPS;
  return step / STEPS <= score ? step / STEPS : (step - 1) / STEPS;
}

function log4(value: number): number {
  return Math.log2(value) / 2;
}
