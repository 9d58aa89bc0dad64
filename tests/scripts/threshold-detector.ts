import type {
  DetectionEvent,
  DetectionInput,
  DetectionResult,
  Detector,
  Judgement,
} from "../../shared/detection/detector.ts";

/** Where the fake expects values, and where its band ends. */
export const EXPECTED = 10;
export const BAND = 5;

interface State {
  readonly newestAt: number;
  readonly count: number;
  readonly open: DetectionEvent | null;
}

/** A value's strangeness: 0 in the middle, 0.2 at the edge of the band, 1 from 25 off on. */
const scoreOf = (value: number) => Math.min(Math.abs(value - EXPECTED) / (5 * BAND), 1);

/**
 * A detector simple enough to be foretold: the first two samples are for learning, then a score grows with the distance from 10. An
 * anomaly lasts as long as the score is over the threshold. It keeps all promises of the interface, and remembers nothing else.
 */
export const thresholdDetector: Detector = {
  version: "fake-1",
  detectSeries({ state, samples, settings, openAnomaly, spans }: DetectionInput): DetectionResult {
    let { newestAt, count, open } =
      (state ?? { newestAt: -Infinity, count: 0, open: null }) as State;
    if ((open === null) !== (openAnomaly === null)) throw new Error("the store disagrees");
    const judgements: Judgement[] = [];
    const events = new Map<number, DetectionEvent>();
    for (const { at, value } of samples) {
      if (at <= newestAt) continue;
      [newestAt, count] = [at, count + 1];
      if (count <= 2) {
        judgements.push({ at, kind: "insufficient_data", trainingCount: count });
        continue;
      }
      const score = scoreOf(value);
      const isMuted = spans.some(({ from, until, label }) =>
        (label === "expected" || label === "false_positive") && at >= from &&
        at <= (until ?? Infinity)
      );
      const isOver = score >= settings.threshold && !isMuted;
      const verdict = {
        value,
        expected: EXPECTED,
        lower: EXPECTED - BAND,
        upper: EXPECTED + BAND,
        score,
      };
      judgements.push({ at, kind: isOver ? "suspicious" : "normal", ...verdict });
      if (!isOver && open === null) continue;
      open = {
        anomalyKind: value < EXPECTED ? "drop" : "spike",
        ...verdict,
        observed: value,
        severity: "warning",
        explanation: `Saw ${value} & expected <${EXPECTED}>.`,
        details: {
          scaleSeconds: 0,
          perWeek: 0.1,
          comparedWith: "recent_values",
          trainingCount: count,
          cycles: 0,
          change: value - EXPECTED,
          minimumChange: 0,
        },
        ...open as Partial<DetectionEvent>,
        kind: open === null ? "open" : isOver ? "extend" : "close",
        startedAt: open?.startedAt ?? at,
        lastSeenAt: isOver ? at : open!.lastSeenAt,
        endedAt: isOver ? null : at,
        endedReason: isOver ? null : "recovered",
        sampleCount: (open?.sampleCount ?? 0) + (isOver ? 1 : 0),
        score: Math.max(score, open?.score ?? 0),
      };
      events.set(open.startedAt, open);
      if (!isOver) open = null;
    }
    return {
      state: { newestAt, count, open } satisfies State,
      memory: null,
      forecast: null,
      events: [...events.values()],
      judgements,
      status: open === null ? "normal" : "anomaly",
      silentAt: null,
    };
  },
};

export const MINUTE = 60_000;
export const START = Date.UTC(2026, 2, 2);

/** Samples a minute apart: 10, but what `strange` says by index. */
export function minuteSamples(count: number, strange: Readonly<Record<number, number>> = {}) {
  return Array.from({ length: count }, (_, index) => ({
    at: START + index * MINUTE,
    value: strange[index] ?? EXPECTED,
  }));
}
