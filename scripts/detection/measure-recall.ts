import type { LabelledSpan } from "../../shared/detection/detector.ts";

/** A stretch of time in ms, both ends included. */
export interface Interval {
  readonly from: number;
  readonly until: number;
}

/** What people have said of a series. */
export interface Truth {
  /** What should have been told. */
  readonly events: readonly Interval[];
  /** What should not have been told; null: all that is no event. */
  readonly denied: readonly Interval[] | null;
}

/** How well what was told agrees with a {@link Truth}. */
export interface Agreement {
  /** Told and wanted; told and not wanted; told, with no word on it. */
  readonly rightCount: number;
  readonly wrongCount: number;
  readonly unjudgedCount: number;
  readonly caughtCount: number;
  readonly eventCount: number;
  /** Share of the judged ones that are right, share of the events that are told; null of nothing. */
  readonly precision: number | null;
  readonly recall: number | null;
}

const touches = ({ from, until }: Interval, at: number, slack: number) =>
  at >= from - slack && at <= until + slack;

/**
 * Counts in whole notifications: one is right if it begins within an event, give or take `slack` ms, and an event is caught by one
 * or by many. So an anomaly that was told early and lasts into an event says nothing about it. An event outweighs a denial.
 */
export function measureAgreement(
  toldAt: readonly number[],
  { events, denied }: Truth,
  slack: number,
): Agreement {
  const isRight = (at: number) => events.some((event) => touches(event, at, slack));
  const isWrong = (at: number) =>
    !isRight(at) && (denied === null || denied.some((span) => touches(span, at, slack)));
  const rightCount = toldAt.filter(isRight).length;
  const wrongCount = toldAt.filter(isWrong).length;
  const caughtCount =
    events.filter((event) => toldAt.some((at) => touches(event, at, slack))).length;
  return {
    rightCount,
    wrongCount,
    unjudgedCount: toldAt.length - rightCount - wrongCount,
    caughtCount,
    eventCount: events.length,
    precision: rightCount + wrongCount > 0 ? rightCount / (rightCount + wrongCount) : null,
    recall: events.length > 0 ? caughtCount / events.length : null,
  };
}

/** Runs of labelled samples. Null if there is no label at all. */
export function findLabelledRuns(
  rows: readonly { readonly at: number; readonly isLabelled: boolean | null }[],
): Interval[] | null {
  const runs: { from: number; until: number }[] = [];
  let hasLabels = false;
  let isRunning = false;
  for (const { at, isLabelled } of rows) {
    hasLabels ||= isLabelled !== null;
    if (isLabelled && isRunning) runs.at(-1)!.until = at;
    else if (isLabelled) runs.push({ from: at, until: at });
    isRunning = isLabelled === true;
  }
  return hasLabels ? runs : null;
}

/**
 * The feedback that a person who knows the truth gives after a replay: a false alarm for each wrong notification, as long as it
 * lasted or until something real began, and a missed one for each event that was not told.
 */
export function giveFeedback(
  told: readonly Interval[],
  truth: Truth,
  slack: number,
): LabelledSpan[] {
  const wrong = told.filter(({ from }) => measureAgreement([from], truth, slack).wrongCount > 0);
  const missed = truth.events.filter((event) =>
    !told.some(({ from }) => touches(event, from, slack))
  );
  const untilReal = ({ from, until }: Interval) =>
    Math.min(
      until,
      ...truth.events.filter((event) => event.from > from).map((event) => event.from - 1),
    );
  return [
    ...wrong.map((span) => ({
      from: span.from,
      until: untilReal(span),
      label: "false_positive" as const,
    })),
    ...missed.map(({ from, until }) => ({ from, until, label: "missed" as const })),
  ].sort((a, b) => a.from - b.from);
}
