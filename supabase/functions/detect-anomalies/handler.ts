import type { FailedSeries } from "../../../shared/contract/detection.ts";
import type { Detector } from "../../../shared/detection/detector.ts";
import { JobRequest, type Run, type RunOutcome } from "../_shared/job.ts";
import type { DetectionStore } from "../_shared/stores.ts";
import { judgeSeries, type SeriesVerdict } from "./judge-series.ts";
import { NOTHING_RECORDED, recordUpdates } from "./record-updates.ts";

export const DetectRequest = JobRequest;

/** The outside world as this function needs it; the edge wires the real one, tests a fake. */
export interface DetectDeps extends DetectionStore {
  now(): Date;
  readonly detector: Detector;
}

/** Series read, judged and stored together; each may bring 1,500 samples, some 30 KB as JSON. */
export const PAGE_LIMIT = 100;

/** No page is begun after so long; what is left is due at the next run. */
export const WALL_SECONDS = 100;

/** Nor after so many samples: a call may use 2 s of CPU, and half a million take about one. */
export const SAMPLE_LIMIT = 300_000;

/** Most failed series that are told one by one. */
const FAILED_LIMIT = 20;

/** Judges what came in since the last run, series by series, a page at a time. */
export async function detectAnomalies(run: Run, deps: DetectDeps): Promise<RunOutcome> {
  const tally = { series: 0, samples: 0, insufficient_data: 0, ...NOTHING_RECORDED };
  const failed: FailedSeries[] = [];
  let next: number | null = 0;

  while (next !== null && !isSpent(run, tally.samples, deps)) {
    const page = await deps.readDetectionPage(next, PAGE_LIMIT);
    const verdicts = page.series.map((series) => judgeSeries(series, deps.detector));
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
  }

  const result = {
    ...tally,
    failed: failed.slice(0, FAILED_LIMIT).map(({ series_id, error }) => ({ series_id, error })),
    failed_count: failed.length,
    complete: next === null,
  };
  return failed.length > 0 && failed.length === tally.series
    ? { kind: "failed", reason: `no series could be judged: ${failed[0]?.error}`, result }
    : { kind: "succeeded", result };
}

function isSpent({ startedAt }: Run, samples: number, { now }: DetectDeps): boolean {
  return samples >= SAMPLE_LIMIT || now().getTime() - startedAt.getTime() >= WALL_SECONDS * 1000;
}

function isFailed(verdict: SeriesVerdict): verdict is SeriesVerdict & { kind: "failed" } {
  return verdict.kind === "failed";
}

function isInsufficient(verdict: SeriesVerdict): boolean {
  return verdict.kind === "judged" && verdict.isInsufficient;
}
