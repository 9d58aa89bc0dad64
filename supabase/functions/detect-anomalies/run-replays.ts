import type {
  FailedReplay,
  FailedSeries,
  ReplaySlice,
} from "../../../shared/contract/detection.ts";
import type { Detector } from "../../../shared/detection/detector.ts";
import { DatabaseError } from "../_shared/database.ts";
import { summarizeError } from "../_shared/redact.ts";
import type { ReplayStore } from "../_shared/stores.ts";
import { replaySlice } from "./replay-slice.ts";

/** CPU time of a call that goes into replays, in ms. */
export const REPLAY_MILLISECONDS = 500;

/** Slices of a call: each takes some ms beside the judging. */
export const REPLAY_SLICES_LIMIT = 40;

/** What replays need of the world. */
export interface ReplayDeps extends ReplayStore {
  readonly detector: Detector;
  /** Time in ms that goes on while we compute. */
  cpuClock(): number;
}

/** What was replayed in a call. */
export interface ReplayReport {
  readonly slices: number;
  readonly finished: number;
  /** There may be more to replay at once; null if that is not known. */
  readonly pending: boolean | null;
}

/**
 * Replays slice by slice, the series that has waited longest first, until the time for it is spent. A
 * series that cannot be replayed is given up and named, and costs the others nothing; when it is the
 * database that does not answer, the rest waits for the next run.
 *
 * @param isRunSpent whether the run may do no more after so many replayed samples.
 */
export async function runReplays(
  deps: ReplayDeps,
  isRunSpent: (samples: number) => boolean,
): Promise<ReplayReport & { readonly failed: readonly FailedSeries[] }> {
  const failed: FailedSeries[] = [];
  let [slices, finished, samples, spent] = [0, 0, 0, 0];
  let seriesId: number | null = null;

  const park = async (series: FailedReplay, requestedAt: number | null) => {
    failed.push(series);
    await deps.parkReplay(series.series_id, series.error, requestedAt);
  };
  const judge = async (slice: ReplaySlice) => {
    const startedAt = deps.cpuClock();
    const spentNow = () => spent + deps.cpuClock() - startedAt;
    try {
      return replaySlice(slice, deps.detector, () => spentNow() >= REPLAY_MILLISECONDS);
    } catch (error) {
      await park({ series_id: slice.seriesId, error: summarizeError(error) }, slice.requestedAt);
      return null;
    } finally {
      spent = spentNow();
    }
  };

  try {
    while (slices < REPLAY_SLICES_LIMIT && spent < REPLAY_MILLISECONDS && !isRunSpent(samples)) {
      seriesId = null;
      const slice = await deps.readReplaySlice(deps.detector.version);
      if (slice === null) return { slices, finished, pending: false, failed };
      slices += 1;
      if (!("seriesId" in slice)) {
        await park(slice, null);
        continue;
      }
      ({ seriesId } = slice);
      samples += slice.samples.length;
      const progress = await judge(slice);
      if (progress === null) continue;
      const outcome = await deps.recordReplaySlice(progress);
      if (typeof outcome === "object") {
        await park({ series_id: seriesId, error: outcome.refused }, slice.requestedAt);
      } else if (outcome === "finished") finished += 1;
    }
  } catch (error) {
    if (!(error instanceof DatabaseError)) throw error;
    failed.push({ series_id: seriesId, error: error.message });
    return { slices, finished, pending: null, failed };
  }
  return { slices, finished, pending: slices > 0 ? true : null, failed };
}
