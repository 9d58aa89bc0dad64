import type { ReplayProgress, ReplaySlice } from "../../../shared/contract/detection.ts";
import { calibrate, countDays, REPLAY_THRESHOLD } from "../../../shared/detection/calibrate.ts";
import { collectCandidates, listCandidates } from "../../../shared/detection/collect-candidates.ts";
import type { Detector, Forecast } from "../../../shared/detection/detector.ts";

/** Samples of one call of the detector: some 10 ms, by which the time for replays is overrun at most. */
export const CHUNK_SAMPLES = 2000;

/**
 * Judges a slice of history as if it came in now, chunk by chunk until `isSpent`, the first one always.
 * Its anomalies are its own: what is open in the store began under another threshold. The last slice,
 * when all of it was judged, ends with a calibration.
 *
 * @throws {RangeError} if the detector cannot take it.
 */
export function replaySlice(
  slice: ReplaySlice,
  detector: Detector,
  isSpent: () => boolean,
): ReplayProgress {
  const { samples, spans, deploys, kind, budget } = slice;
  const settings = { ...slice.settings, threshold: REPLAY_THRESHOLD };
  let { state, memory, tally } = slice;
  let forecast: Forecast | null = null;
  let silentAt: number | null;
  let judged = 0;
  do {
    const found = detector.detectSeries({
      ...{ state, memory, settings, kind, spans, deploys, now: null },
      samples: samples.slice(judged, judged + CHUNK_SAMPLES),
      openAnomaly: tally.open && { startedAt: tally.open.at },
    });
    ({ state, memory, silentAt } = found);
    forecast = found.forecast ?? forecast;
    tally = collectCandidates(tally, found, spans);
    judged += CHUNK_SAMPLES;
  } while (judged < samples.length && !isSpent());

  const isThrough = judged >= samples.length;
  const isFinished = isThrough && slice.isLast;
  const days = countDays(tally.judgedFrom, tally.judgedUntil);
  return {
    seriesId: slice.seriesId,
    previousCursorAt: slice.cursorAt,
    requestedAt: slice.requestedAt,
    cursorAt: isThrough ? slice.readUntil : samples[judged - 1]!.at,
    version: detector.version,
    ...{ state, memory, tally, forecast, silentAt },
    calibration: isFinished
      ? calibrate({
        ...{ candidates: listCandidates(tally), days, budget, spans },
        droppedCount: tally.droppedCount,
      })
      : null,
  };
}
