import type { FailedSeries } from "../../../shared/contract/detection.ts";
import { DatabaseError } from "../_shared/database.ts";
import { JobRequest, type Run, type RunOutcome } from "../_shared/job.ts";
import type { DetectionStore } from "../_shared/stores.ts";
import { type Judges, judgeSeries, type SeriesVerdict } from "./judge-series.ts";
import { NOTHING_RECORDED, recordUpdates } from "./record-updates.ts";
import { type ReplayDeps, runReplays } from "./run-replays.ts";

export const DetectRequest = JobRequest;

/** The outside world as this function needs it; the edge wires the real one, tests a fake. */
export interface DetectDeps extends DetectionStore, Judges, ReplayDeps {
  now(): Date;
}

/** Series read, judged and stored together; each may bring 1,500 samples, some 30 KB as JSON. */
export const PAGE_LIMIT = 100;

/**
 * No page is begun after so long; the next run goes on from there. Short, because pg_net sends nothing
 * new until every call of a batch has ended.
 */
export const WALL_SECONDS = 20;

/**
 * Nor after so many samples, replayed ones included: a call may use 2 s of CPU, a sample takes some 5 µs,
 * and one more page may bring as many again.
 */
export const SAMPLE_LIMIT = 150_000;

/** Nor after so many series: reading and writing a full state takes about 70 µs. */
export const SERIES_LIMIT = 10_000;

/** Most failed series that are told one by one. */
const FAILED_LIMIT = 20;

/**
 * Judges what came in since the last run, and what did not, series by series, a page at a time. Begins
 * where the last run stopped and goes once around, so that no series waits for ever behind others. The
 * time that is left goes into replays.
 */
export async function detectAnomalies(run: Run, deps: DetectDeps): Promise<RunOutcome> {
  const tally = { series: 0, samples: 0, insufficient_data: 0, ...NOTHING_RECORDED };
  const failed: FailedSeries[] = [];
  const start = (await deps.readDetectionPage(null, 0)).nextSeriesId ?? 0;
  let after = start;
  let limit = PAGE_LIMIT;
  let hasWrapped = false;
  let complete = false;

  while (!complete && !isSpent(run, tally, deps)) {
    let next: number | null;
    try {
      const page = await deps.readDetectionPage(after, limit);
      const verdicts = page.series.map((series) => judgeSeries(series, deps, run.startedAt));
      const updates = verdicts.flatMap((verdict) =>
        verdict.kind === "judged" ? [verdict.update] : []
      );
      const recorded = await recordUpdates(run.id, updates, deps.recordDetections);

      failed.push(...page.failed, ...verdicts.filter(isFailed), ...recorded.failed);
      tally.series += page.series.length + page.failed.length;
      tally.samples += page.series.reduce((count, { samples }) => count + samples.length, 0);
      tally.insufficient_data += verdicts.filter(isInsufficient).length;
      tally.opened += recorded.opened;
      tally.extended += recorded.extended;
      tally.closed += recorded.closed;
      tally.stale += recorded.stale;
      next = page.nextSeriesId;
      limit = Math.min(limit * 2, PAGE_LIMIT);
    } catch (error) {
      if (!isTimeout(error)) throw error;
      // One alone goes on or is the culprit: halves would take longer than a run lasts.
      if (limit > 1) {
        limit = 1;
        continue;
      }
      next = (await deps.readDetectionPage(after, 0)).nextSeriesId;
      if (next !== null) {
        failed.push({ series_id: next, error: error.message });
        tally.series += 1;
      }
    }

    if (next !== null && !(hasWrapped && next >= start)) after = next;
    else if (hasWrapped || start === 0) complete = true;
    else [after, hasWrapped] = [0, true];
  }

  const isNoneJudged = failed.length > 0 && failed.length === tally.series;
  // A run that is not complete has no time left for any of them.
  const { failed: notReplayed, ...replay } = await runReplays(
    deps,
    (samples) => isSpent(run, { ...tally, samples: tally.samples + samples }, deps),
  );
  failed.push(...notReplayed);

  const result = {
    ...tally,
    failed: failed.slice(0, FAILED_LIMIT).map(({ series_id, error }) => ({ series_id, error })),
    failed_count: failed.length,
    complete,
    /** Where the next run begins, null for at the beginning. */
    next_series_id: complete ? null : after,
    replay,
  };
  return isNoneJudged
    ? { kind: "failed", reason: `no series could be judged: ${failed[0]?.error}`, result }
    : { kind: "succeeded", result };
}

function isSpent(
  { startedAt }: Run,
  { series, samples }: { readonly series: number; readonly samples: number },
  { now }: DetectDeps,
): boolean {
  return series >= SERIES_LIMIT || samples >= SAMPLE_LIMIT ||
    now().getTime() - startedAt.getTime() >= WALL_SECONDS * 1000;
}

function isTimeout(error: unknown): error is DatabaseError {
  return error instanceof DatabaseError && error.kind === "timed_out";
}

function isFailed(verdict: SeriesVerdict): verdict is SeriesVerdict & { kind: "failed" } {
  return verdict.kind === "failed";
}

function isInsufficient(verdict: SeriesVerdict): boolean {
  return verdict.kind === "judged" && verdict.isInsufficient;
}
