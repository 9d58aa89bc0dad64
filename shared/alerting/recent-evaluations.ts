import type { Hold } from "./rule.ts";

/** Whether an alert held in the latest intervals of its group, in the form in which it is stored. */
export interface RecentEvaluations {
  /** When the last evaluation was of which it is known, as an ISO text in UTC. */
  readonly evaluated_at: string;
  /** A character an interval, the newest last: `1` it held, `0` it did not, `-` it is not known. */
  readonly held: string;
}

/** When an evaluation is. Milliseconds, since 1970 the first. */
export interface EvaluationTime {
  readonly at: number;
  /** From one evaluation to the next, as planned. */
  readonly interval: number;
}

/**
 * What is remembered after one more evaluation: the last `window` of which it is known whether it held, but none that lies
 * more than `window` intervals back. Where none is unknown these are the last `window` intervals.
 */
export function rememberEvaluation(
  recent: RecentEvaluations | undefined,
  isHeld: boolean,
  { window }: Pick<Hold, "window">,
  { at, interval }: EvaluationTime,
): RecentEvaluations {
  // By the slot of time, as it is planned: evaluations that come late are not further apart.
  const slotOf = (time: number) => Math.floor(time / interval);
  const passed = recent ? slotOf(at) - slotOf(Date.parse(recent.evaluated_at)) : 1;
  const before = recent?.held ?? "";
  const known = passed < 1
    ? before.slice(0, -1) // again in the same interval, because the rule was changed: the last word counts
    : before + "-".repeat(Math.min(passed - 1, window));
  const held = `${known}${isHeld ? 1 : 0}`.slice(-(window + 1));
  return {
    evaluated_at: new Date(at).toISOString(),
    held: held.includes("-") ? held : held.slice(-window),
  };
}

/** How many of them held. */
export const countHeld = ({ held }: RecentEvaluations): number => held.split("1").length - 1;
