import {
  type CandidateTally,
  collectCandidates,
  NO_CANDIDATES,
} from "../../shared/detection/collect-candidates.ts";
import { counterIncrease } from "../../shared/detection/counter-increase.ts";
import type {
  DetectionEvent,
  DetectionSettings,
  Detector,
  Judgement,
  LabelledSpan,
  OpenAnomaly,
  Sample,
} from "../../shared/detection/detector.ts";

/** What a series is judged by while it is replayed. */
export interface ReplayOptions {
  readonly detector: Detector;
  readonly settings: DetectionSettings;
  readonly kind: "gauge" | "counter";
  readonly spans?: readonly LabelledSpan[];
  readonly deploys?: readonly number[];
}

/** Settings where nothing is known of a series. */
export const DEFAULT_SETTINGS: Omit<DetectionSettings, "threshold"> = {
  direction: "both",
  minimumChange: 0,
  minimumChangeRatio: 0,
  unit: "",
};

/** Samples of one call: so many that what a call costs by itself does not count. */
export const BATCH_SAMPLES = 5000;

/**
 * A detector that is led over a series call by call, as the job does it, but without a clock: silence is told only when the next
 * sample comes. Memory is independent of the length of the series.
 */
export class SeriesReplay {
  readonly #options: ReplayOptions;
  #state: unknown = null;
  #memory: string | null = null;
  #openAnomaly: OpenAnomaly | null = null;
  #newestAt = -Infinity;
  #ignoredCount = 0;

  constructor(options: ReplayOptions) {
    this.#options = options;
  }

  /** Samples so far that were not newer than one before, and therefore not judged. */
  get ignoredCount(): number {
    return this.#ignoredCount;
  }

  /**
   * Judges the next samples, in the order they came in: one judgement for each, null where it was ignored.
   *
   * @throws {RangeError} if the detector breaks its promise of one judgement a sample.
   */
  judge(
    samples: readonly Sample[],
  ): { judgements: (Judgement | null)[]; events: readonly DetectionEvent[] } {
    const isNew = samples.map(({ at }) => {
      if (at <= this.#newestAt) return false;
      this.#newestAt = at;
      return true;
    });
    const fresh = samples.filter((_, index) => isNew[index]);
    this.#ignoredCount += samples.length - fresh.length;
    const { detector, settings, kind, spans = [], deploys = [] } = this.#options;
    const result = detector.detectSeries({
      state: this.#state,
      memory: this.#memory,
      samples: fresh,
      settings,
      kind,
      openAnomaly: this.#openAnomaly,
      spans,
      deploys,
      now: null,
    });
    if (result.judgements.length !== fresh.length) {
      throw new RangeError(
        `${detector.version} judged ${result.judgements.length} of ${fresh.length} samples`,
      );
    }
    this.#state = result.state;
    this.#memory = result.memory;
    for (const { startedAt, endedAt } of result.events) {
      this.#openAnomaly = endedAt === null ? { startedAt } : null;
    }
    let next = 0;
    const judgements = isNew.map((isJudged) => isJudged ? result.judgements[next++]! : null);
    return { judgements, events: result.events };
  }
}

/** A whole series as one replay judged it. The arrays are as long as the samples; NaN where there is no verdict. */
export interface ReplayedSeries {
  /** In order of time, each as its last event left it. */
  readonly anomalies: readonly DetectionEvent[];
  readonly expected: Float64Array;
  readonly lower: Float64Array;
  readonly upper: Float64Array;
  /** What was judged: the value, of a counter its rate per second. */
  readonly judged: Float64Array;
}

/** What a sample shows before there are verdicts; NaN for the first of a counter. */
function valueOf(sample: Sample, previous: Sample | undefined, kind: "gauge" | "counter"): number {
  if (kind === "gauge") return sample.value;
  if (previous === undefined || previous.at >= sample.at) return NaN;
  return counterIncrease(previous.value, sample.value) / ((sample.at - previous.at) / 1000);
}

/**
 * Replays a whole series, whose samples are ascending by time, and finds what a threshold is calibrated by, as the job does it.
 */
export function replayForCandidates(
  samples: readonly Sample[],
  options: ReplayOptions,
): CandidateTally {
  const replay = new SeriesReplay(options);
  let tally = NO_CANDIDATES;
  for (let from = 0; from < samples.length; from += BATCH_SAMPLES) {
    const { judgements, events } = replay.judge(samples.slice(from, from + BATCH_SAMPLES));
    const found = { events, judgements: judgements.filter((judgement) => judgement !== null) };
    tally = collectCandidates(tally, found, options.spans ?? []);
  }
  return tally;
}

/** Replays a whole series, whose samples are ascending by time. */
export function replaySeries(samples: readonly Sample[], options: ReplayOptions): ReplayedSeries {
  const replay = new SeriesReplay(options);
  const anomalies = new Map<number, DetectionEvent>();
  const [expected, lower, upper, judged] = [0, 1, 2, 3].map(() =>
    new Float64Array(samples.length).fill(NaN)
  ) as [Float64Array, Float64Array, Float64Array, Float64Array];
  for (let from = 0; from < samples.length; from += BATCH_SAMPLES) {
    const { judgements, events } = replay.judge(samples.slice(from, from + BATCH_SAMPLES));
    for (const event of events) anomalies.set(event.startedAt, event);
    judgements.forEach((judgement, index) => {
      if (judgement === null) return;
      if (judgement.kind === "insufficient_data") {
        judged[from + index] = valueOf(
          samples[from + index]!,
          samples[from + index - 1],
          options.kind,
        );
        return;
      }
      expected[from + index] = judgement.expected;
      lower[from + index] = judgement.lower;
      upper[from + index] = judgement.upper;
      judged[from + index] = judgement.value;
    });
  }
  const inOrder = [...anomalies.values()].sort((a, b) => a.startedAt - b.startedAt);
  return { anomalies: inOrder, expected, lower, upper, judged };
}
