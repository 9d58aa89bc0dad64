import type { CollectorResult } from "../../../shared/contract/collection.ts";
import { JobRequest, type Run, type RunOutcome } from "../_shared/job.ts";
import type { CollectionStore } from "../_shared/stores.ts";

export const CollectRequest = JobRequest;

/** The outside world as this function needs it; the edge wires the real one, tests a fake. */
export interface CollectDeps extends CollectionStore {
  now(): Date;
}

/** The server cuts a collector at its own time-out; this is for the way there and back. */
export const GRACE_SECONDS = 0.5;

/** Most rejected samples that are told one by one. */
const REJECTED_LIMIT = 20;

/**
 * Calls every collector that is due, all at once, each with its own time-out, and stores what they
 * return under the minute of the run. A run that stored nothing and found nothing stored has failed.
 */
export async function collectMetrics(run: Run, deps: CollectDeps): Promise<RunOutcome> {
  const { scheduledAt } = run;
  const { collectors, skipped } = await deps.planCollection(scheduledAt);
  const results = await Promise.all(
    collectors.map(({ collector, timeoutSeconds }) =>
      callCollector(collector, timeoutSeconds + GRACE_SECONDS, scheduledAt, deps)
    ),
  );
  const { inserted, duplicates, overflowed, rejected } = await deps.recordCollection(
    run.id,
    scheduledAt,
    results,
  );

  const broken = results.filter(({ outcome }) => outcome !== "ok").map(toReport);
  const samples = { inserted, duplicates, overflowed, rejected: rejected.length };
  const ended = {
    result: {
      samples,
      rejected_samples: rejected.slice(0, REJECTED_LIMIT),
      collectors: [...results.map(toReport), ...skipped.map(toSkippedReport)],
    },
    summary: {
      samples,
      collectors: { ok: results.length - broken.length, skipped: skipped.length, broken },
    },
  };
  if (inserted + duplicates + overflowed > 0) return { kind: "succeeded", ...ended };
  const reason = `no sample was stored: of ${results.length} collectors ${broken.length} broke, ` +
    `${skipped.length} more were skipped, ${rejected.length} samples were rejected`;
  return { kind: "failed", reason, ...ended };
}

async function callCollector(
  collector: string,
  timeoutSeconds: number,
  at: Date,
  { collect, now }: CollectDeps,
): Promise<CollectorResult> {
  const startedAt = now().getTime();
  const collected = await collect(collector, at, timeoutSeconds);
  return { collector, duration_seconds: (now().getTime() - startedAt) / 1000, ...collected };
}

function toReport({ collector, outcome, duration_seconds, samples, error }: CollectorResult) {
  const rows = samples.length;
  return { collector, outcome, duration_seconds, rows, ...(error !== null && { error }) };
}

function toSkippedReport({ collector, reason }: { collector: string; reason: string }) {
  return { collector, outcome: "skipped", duration_seconds: 0, rows: 0, reason };
}
