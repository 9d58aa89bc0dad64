import {
  type DetectionSeries,
  type DetectionUpdate,
  type FailedSeries,
  toDetectionEventRow,
} from "../../../shared/contract/detection.ts";
import type { Detector } from "../../../shared/detection/detector.ts";
import { summarizeError } from "../_shared/redact.ts";

/** What became of a series. */
export type SeriesVerdict =
  | {
    readonly kind: "judged";
    readonly update: DetectionUpdate;
    /** The detector has not seen enough yet to judge by. */
    readonly isInsufficient: boolean;
  }
  | ({ readonly kind: "failed" } & FailedSeries);

/** Asks the detector. A series that it cannot take is a value, so that it costs the others nothing. */
export function judgeSeries(
  { seriesId, kind, settings, state, stateVersion, lastSampleAt, openAnomaly, samples }:
    DetectionSeries,
  detector: Detector,
): SeriesVerdict {
  const newest = samples.at(-1);
  if (newest === undefined) return { kind: "failed", series_id: seriesId, error: "no samples" };
  try {
    const ours = stateVersion === detector.version ? state : null;
    const found = detector.detectSeries({ state: ours, samples, settings, kind, openAnomaly });
    return {
      kind: "judged",
      isInsufficient: found.status === "insufficient_data",
      update: {
        series_id: seriesId,
        previous_sample_at: lastSampleAt,
        last_sample_at: newest.at,
        state_version: detector.version,
        state: found.state,
        events: found.events.map(toDetectionEventRow),
      },
    };
  } catch (error) {
    return { kind: "failed", series_id: seriesId, error: summarizeError(error) };
  }
}
