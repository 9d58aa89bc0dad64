import type { RetentionOutcome, RetentionStep } from "../../../shared/contract/retention.ts";

/** What counts most when the steps of one entity ended differently. */
const PRECEDENCE: readonly RetentionOutcome[] = [
  "failed",
  "done",
  "contended",
  "held",
  "missing",
  "nothing",
];

/** Counts of what is still there: each step sees it anew, so it is not added up. */
const REMAINDER = /^(held|contended)/;

/** Adds a later step of an entity to what was done before. */
export function mergeSteps(before: RetentionStep | undefined, step: RetentionStep): RetentionStep {
  if (before === undefined) return step;
  const counts = { ...before.counts };
  for (const [reason, count] of Object.entries(step.counts)) {
    counts[reason] = REMAINDER.test(reason) ? count : (counts[reason] ?? 0) + count;
  }
  return {
    ...step,
    outcome: PRECEDENCE.find((outcome) => [before.outcome, step.outcome].includes(outcome))!,
    counts,
    oldest_kept_at: step.outcome === "failed" ? before.oldest_kept_at : step.oldest_kept_at,
    duration_seconds: before.duration_seconds + step.duration_seconds,
    detail: step.detail ?? before.detail,
  };
}
