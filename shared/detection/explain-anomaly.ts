import type { DetectionSettings, Verdict } from "./detector.ts";
import { THRESHOLDS } from "./judge-value.ts";

/** The worst value of an anomaly, and what it was judged by. */
export interface WorstValue extends Verdict {
  /** The spread that counted as usual, in the unit of the value. */
  readonly spread: number;
}

/** What {@link explainAnomaly} tells. Times in ms; values in the unit of the metric, or its rate. */
export interface AnomalyFacts {
  readonly startedAt: number;
  readonly lastSeenAt: number;
  readonly sampleCount: number;
  /** Null if the detector lost its memory and has seen nothing suspicious since. */
  readonly worst: WorstValue | null;
  /** Values that the expectation rests on. */
  readonly trainingCount: number;
  /** How long there had been no samples when it started; null if they came as usual. */
  readonly gapBefore: number | null;
  readonly ending: AnomalyEnding | null;
}

/** How an anomaly ended; `low` and `high` enclose nine of ten values of the new level. */
export type AnomalyEnding =
  | { readonly reason: "recovered"; readonly endedAt: number; readonly calmCount: number }
  | {
    readonly reason: "level_shift";
    readonly endedAt: number;
    readonly median: number;
    readonly low: number;
    readonly high: number;
  };

/** Says in words and numbers why an anomaly is one, how long it lasted and why it ended. */
export function explainAnomaly(
  { startedAt, lastSeenAt, sampleCount, worst, trainingCount, gapBefore, ending }: AnomalyFacts,
  { sensitivity, minimumChange, unit }: DetectionSettings,
  kind: "gauge" | "counter",
): string {
  const quantity = (value: number) => formatQuantity(value, unit, kind);
  const sentences: string[] = [];

  if (worst === null) {
    sentences.push(
      "What the detector knew of this anomaly is lost (a new version, or a lost state); " +
        "nothing suspicious was seen since.",
    );
  } else {
    const { value, expected, lower, upper, score, spread } = worst;
    const distance = quantity(Math.abs(value - expected));
    const side = value > expected ? "above" : "below";
    const threshold = `threshold ${THRESHOLDS[sensitivity]}, sensitivity ${sensitivity}`;
    const gate = minimumChange > 0 ? `, the minimum change ${quantity(minimumChange)}` : "";
    const samples = sampleCount === 1 ? "1 suspicious sample" : `${sampleCount} suspicious samples`;
    const lasted = lastSeenAt > startedAt ? ` in ${formatDuration(lastSeenAt - startedAt)}` : "";
    sentences.push(
      `Saw ${quantity(value)}, expected ${quantity(expected)} ` +
        `(${formatNumber(lower)} to ${formatNumber(upper)}) from ${trainingCount} earlier values.`,
      `That is ${distance} ${side}, score ${formatNumber(score)} (${threshold}); ` +
        `the usual spread is ${quantity(spread)}${gate}.`,
      `${samples}${lasted}.`,
    );
  }
  if (gapBefore !== null) {
    sentences.push(`There were no samples for ${formatDuration(gapBefore)} before it started.`);
  }
  if (ending !== null) {
    const after = formatDuration(ending.endedAt - startedAt);
    sentences.push(
      ending.reason === "recovered"
        ? `Ended after ${after}: ${ending.calmCount} values in a row were well inside the band.`
        : `Ended as a level shift after ${after}: the values have held around ` +
          `${quantity(ending.median)} (mostly ${formatNumber(ending.low)} to ` +
          `${formatNumber(ending.high)}), which counts as normal from now on.`,
    );
  }
  return sentences.join(" ");
}

/** `97.25 percent`; `500` for counts; `1.5 bytes/s` and `0.1/s` for the rates of counters. */
function formatQuantity(value: number, unit: string, kind: "gauge" | "counter"): string {
  const number = formatNumber(value);
  if (kind === "counter") return unit === "count" ? `${number}/s` : `${number} ${unit}/s`;
  return unit === "count" ? number : `${number} ${unit}`;
}

/** Four significant digits: enough to tell a value from its band. */
function formatNumber(value: number): string {
  return String(Number(value.toPrecision(4)));
}

/** `45 s`, `12 min`, `6 h`, `6 h 5 min`, `2 d 3 h`: the two largest parts, rounded down. */
function formatDuration(milliseconds: number): string {
  const seconds = Math.floor(milliseconds / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return withRest(`${hours} h`, minutes % 60, "min");
  return withRest(`${Math.floor(hours / 24)} d`, hours % 24, "h");
}

function withRest(whole: string, rest: number, unit: string): string {
  return rest === 0 ? whole : `${whole} ${rest} ${unit}`;
}
