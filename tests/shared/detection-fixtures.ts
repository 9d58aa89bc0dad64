import type {
  DetectionEvent,
  DetectionInput,
  DetectionResult,
  DetectionSettings,
  Judgement,
  Sample,
} from "../../shared/detection/detector.ts";
import { medianDetector } from "../../shared/detection/median-detector.ts";

export const SECOND = 1000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;

/** A Monday, 00:00 UTC. */
export const START = Date.UTC(2026, 5, 1);

/** Settings that change nothing: both directions, no minimum, a unit without rules. */
export const PLAIN: DetectionSettings = {
  direction: "both",
  sensitivity: "normal",
  minimumChange: 0,
  unit: "seconds",
};

/** Samples at a fixed interval, the first one at `START`. */
export function everyMinute(values: readonly number[], interval = MINUTE): Sample[] {
  return values.map((value, index) => ({ at: START + index * interval, value }));
}

/** `count` times what `value` gives for 0, 1, 2, … */
export function repeat(count: number, value: number | ((index: number) => number)): number[] {
  return Array.from(
    { length: count },
    (_, index) => typeof value === "number" ? value : value(index),
  );
}

/** 10, 11, 9, 10, 12, 8, … : median 10; half of the values lie within 9 and 11. */
export const STEADY = repeat(240, (index) => [10, 11, 9, 10, 12, 8, 10, 11, 9, 10][index % 10]!);

/** What a series has been through: every event, and the anomalies as a store would hold them. */
export interface History {
  state: unknown;
  readonly events: DetectionEvent[];
  readonly judgements: Judgement[];
  /** By `startedAt`: the facts of the last event, and how often each kind of event came. */
  readonly anomalies: Map<number, DetectionEvent>;
  status: DetectionResult["status"];
}

/**
 * Feeds samples to the detector in calls of the given sizes (the last one repeated), with the state
 * through JSON and a store that holds the events: it breaks on a second open anomaly, on an event
 * for one that is not there, and on more than one extension in a call.
 */
export function observe(
  samples: readonly Sample[],
  {
    settings = PLAIN,
    kind = "gauge",
    sizes = [samples.length],
    state = null,
  }: Partial<Pick<DetectionInput, "settings" | "kind" | "state">> & { sizes?: readonly number[] } =
    {},
): History {
  const history: History = {
    state,
    events: [],
    judgements: [],
    anomalies: new Map(),
    status: "insufficient_data",
  };
  for (let from = 0, call = 0; from < samples.length; call += 1) {
    const size = sizes[Math.min(call, sizes.length - 1)]!;
    const open = openAnomalies(history)[0];
    const result = medianDetector.detectSeries({
      state: JSON.parse(JSON.stringify(history.state)),
      samples: samples.slice(from, from + size),
      settings,
      kind,
      openAnomaly: open === undefined ? null : { startedAt: open.startedAt },
    });
    from += size;
    record(history, result);
  }
  return history;
}

/** The anomalies that have not ended. */
export function openAnomalies({ anomalies }: History): DetectionEvent[] {
  return [...anomalies.values()].filter(({ endedAt }) => endedAt === null);
}

function record(history: History, { state, events, judgements, status }: DetectionResult): void {
  history.state = state;
  history.status = status;
  history.judgements.push(...judgements);
  history.events.push(...events);
  for (const event of events) {
    const isKnown = history.anomalies.get(event.startedAt)?.endedAt === null;
    if (isKnown !== (event.kind !== "open")) throw new Error(`Cannot ${event.kind}: wrong time`);
    if (event.kind === "open" && openAnomalies(history).length > 0) throw new Error("Two are open");
    history.anomalies.set(event.startedAt, event);
  }
  if (events.filter(({ kind }) => kind === "extend").length > 1) throw new Error("Extended twice");
}
