import { detector } from "../../shared/detection/current-detector.ts";
import type {
  DetectionEvent,
  DetectionInput,
  DetectionResult,
  DetectionSettings,
  Forecast,
  Judgement,
  Sample,
} from "../../shared/detection/detector.ts";
import { DEFAULT_THRESHOLD } from "../../shared/detection/detector.ts";

export const SECOND = 1000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;

/** A Monday, 00:00 UTC. */
export const START = Date.UTC(2026, 5, 1);

/** Settings that change nothing: both directions, no minimum, one told a week. */
export const PLAIN: DetectionSettings = {
  direction: "both",
  threshold: DEFAULT_THRESHOLD,
  minimumChange: 0,
  minimumChangeRatio: 0,
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

/** What a series has been through: every event, and the anomalies as a store would hold them. */
export interface History {
  state: unknown;
  memory: string | null;
  readonly events: DetectionEvent[];
  readonly judgements: Judgement[];
  /** By `startedAt`: the facts of the last event. */
  readonly anomalies: Map<number, DetectionEvent>;
  forecast: Forecast | null;
  silentAt: number | null;
  status: DetectionResult["status"];
}

/** What {@link observe} may be told; all of it has a default that changes nothing. */
export interface Circumstances
  extends Partial<Pick<DetectionInput, "settings" | "kind" | "spans" | "deploys">> {
  /** Sizes of the calls, the last one repeated. */
  readonly sizes?: readonly number[];
  /** What the series has been through before; goes on from there, and is left as it is. */
  readonly after?: History;
  /** The clock of the last call, in ms; there is one even if there are no samples. */
  readonly now?: number;
}

/**
 * Feeds samples to the detector in calls of the given sizes, with state and memory through JSON and a store that
 * holds the events: it breaks on a second open anomaly, on an event for one that is not there, and on more than one
 * extension in a call.
 */
export function observe(
  samples: readonly Sample[],
  { settings = PLAIN, kind = "gauge", spans = [], deploys = [], sizes, after, now }: Circumstances =
    {},
): History {
  const history: History = after === undefined
    ? {
      state: null,
      memory: null,
      events: [],
      judgements: [],
      anomalies: new Map(),
      forecast: null,
      silentAt: null,
      status: "insufficient_data",
    }
    : {
      ...after,
      events: [...after.events],
      judgements: [...after.judgements],
      anomalies: new Map(after.anomalies),
    };
  const call = (part: readonly Sample[], clock: number | null) => {
    const open = openAnomalies(history)[0];
    record(
      history,
      detector.detectSeries({
        state: JSON.parse(JSON.stringify(history.state)),
        memory: history.memory,
        samples: part,
        settings,
        kind,
        openAnomaly: open === undefined ? null : { startedAt: open.startedAt },
        spans,
        deploys,
        now: clock,
      }),
    );
  };
  const calls = sizes ?? [samples.length];
  for (let from = 0, number = 0; from < samples.length; number += 1) {
    const size = calls[Math.min(number, calls.length - 1)]!;
    call(samples.slice(from, from + size), null);
    from += size;
  }
  if (now !== undefined) call([], now);
  return history;
}

/** The anomalies that have not ended. */
export function openAnomalies({ anomalies }: History): DetectionEvent[] {
  return [...anomalies.values()].filter(({ endedAt }) => endedAt === null);
}

/** The anomalies that began from one time on and before another, in ms, oldest first. */
export function anomaliesFrom(
  { anomalies }: History,
  from: number,
  until = Infinity,
): DetectionEvent[] {
  return [...anomalies.values()]
    .filter(({ startedAt }) => startedAt >= from && startedAt < until)
    .sort((a, b) => a.startedAt - b.startedAt);
}

function record(history: History, result: DetectionResult): void {
  const { state, memory, forecast, events, judgements, silentAt, status } = result;
  history.state = state;
  history.memory = memory;
  history.forecast = forecast ?? history.forecast;
  history.silentAt = silentAt;
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
