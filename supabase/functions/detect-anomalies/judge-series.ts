import {
  type DetectionSeries,
  type DetectionUpdate,
  type FailedSeries,
  PAGE_SAMPLES_LIMIT,
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

/** Samples that end so long before now, in ms, may be followed by others: past days are read one by one. */
export const BACKLOG_AGE = 24 * 60 * 60 * 1000;

/** Who judges. */
export interface Judges {
  readonly detector: Detector;
  /** They go on with the states that they know until a replay by `detector` takes over. */
  readonly previousDetectors: readonly Detector[];
}

/**
 * Asks the detector that knows the state of the series, or the current one to begin anew. A series that
 * it cannot take is a value, so that it costs the others nothing.
 */
export function judgeSeries(
  series: DetectionSeries,
  { detector, previousDetectors }: Judges,
  now: Date,
): SeriesVerdict {
  const { seriesId, samples, lastSampleAt, memory } = series;
  const newest = samples.at(-1)?.at ?? (series.isSilent ? lastSampleAt : null);
  if (newest === null) return { kind: "failed", series_id: seriesId, error: "no samples" };

  const known = [detector, ...previousDetectors]
    .find(({ version }) => version === series.stateVersion);
  const judge = known ?? detector;
  try {
    const found = judge.detectSeries({
      state: known ? series.state : null,
      memory: known ? memory : null,
      samples,
      settings: series.settings,
      kind: series.kind,
      openAnomaly: series.openAnomaly,
      spans: series.spans,
      deploys: series.deploys,
      now: hasMore(series, now) ? null : now.getTime(),
    });
    return {
      kind: "judged",
      isInsufficient: found.status === "insufficient_data",
      update: {
        series_id: seriesId,
        previous_sample_at: lastSampleAt,
        last_sample_at: newest,
        state_version: judge.version,
        state: found.state,
        ...(found.memory !== memory && { memory: found.memory }),
        ...(found.forecast !== null && { forecast: found.forecast }),
        silent_at: found.silentAt,
        ...(judge !== detector && { replay_version: detector.version }),
        events: found.events.map(toDetectionEventRow),
      },
    };
  } catch (error) {
    return { kind: "failed", series_id: seriesId, error: summarizeError(error) };
  }
}

/** Whether there may be newer samples than were read: then none of those is missing. */
function hasMore({ samples }: DetectionSeries, now: Date): boolean {
  const newest = samples.at(-1);
  return newest !== undefined &&
    (samples.length >= PAGE_SAMPLES_LIMIT || now.getTime() - newest.at >= BACKLOG_AGE);
}
