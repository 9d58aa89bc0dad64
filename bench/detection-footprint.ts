import {
  DEFAULT_THRESHOLD,
  type DetectionInput,
  type Detector,
} from "../shared/detection/detector.ts";
import { DEFAULT_SETTINGS } from "../scripts/detection/replay-series.ts";
import type { LabelledSeries } from "./detection-scores.ts";

/** Samples of a run of the job over minute data. */
const CALL_SAMPLES = 5;
const DAY = 24 * 60 * 60 * 1000;

/** What a series takes, in bytes of text. */
export interface Footprint {
  /** State as JSON and memory, at the end of each day. */
  readonly held: readonly number[];
  /** Sent to be stored by a call, the mean of each day. */
  readonly written: readonly number[];
}

/** Leads a detector over `days` of a minute series in calls of five, and adds up what the job would send to be stored. */
export function measureFootprint(
  detector: Detector,
  { times, values }: LabelledSeries,
  days: number,
): Footprint {
  let state: unknown = null;
  let memory: string | null = null;
  let openAnomaly: DetectionInput["openAnomaly"] = null;
  const held: number[] = [];
  const written: number[] = [];
  let [sent, calls, firstAt] = [0, 0, times[0]!];
  for (let from = 0; from < times.length && written.length < days; from += CALL_SAMPLES) {
    const found = detector.detectSeries({
      state,
      memory,
      openAnomaly,
      samples: Array.from(
        times.subarray(from, from + CALL_SAMPLES),
        (at, index) => ({ at, value: values[from + index]! }),
      ),
      settings: { ...DEFAULT_SETTINGS, threshold: DEFAULT_THRESHOLD },
      kind: "gauge",
      spans: [],
      deploys: [],
      now: null,
    });
    const stateBytes = JSON.stringify(found.state).length; // ASCII, as is all of it
    sent += stateBytes + (found.memory === memory ? 0 : found.memory?.length ?? 0) +
      (found.forecast === null ? 0 : JSON.stringify(found.forecast).length);
    calls += 1;
    ({ state, memory } = found);
    for (const { startedAt, endedAt } of found.events) {
      openAnomaly = endedAt === null ? { startedAt } : null;
    }
    const endedAt = times[Math.min(from + CALL_SAMPLES, times.length) - 1]!;
    if (endedAt - firstAt < DAY - CALL_SAMPLES * 60_000) continue;
    held.push(stateBytes + (memory?.length ?? 0));
    written.push(sent / calls);
    [sent, calls, firstAt] = [0, 0, endedAt];
  }
  return { held, written };
}
