import type { AnomalyDetails, AnomalyKind, DetectionSettings } from "./detector.ts";

/** What {@link explainAnomaly} tells. Times in ms; values in the unit of the metric, or its rate; of a silence in seconds. */
export interface AnomalyFacts {
  readonly kind: AnomalyKind;
  readonly startedAt: number;
  readonly lastSeenAt: number;
  /** 0 if the detector has lost what it knew of it. */
  readonly sampleCount: number;
  readonly expected: number;
  readonly lower: number;
  readonly upper: number;
  readonly observed: number;
  readonly score: number;
  readonly details: AnomalyDetails;
  readonly ending: AnomalyEnding | null;
}

/** How an anomaly ended; times in ms. */
export interface AnomalyEnding {
  readonly reason: "recovered" | "level_shift" | "no_data";
  /** Why, in one word. */
  readonly cause: keyof typeof CAUSES;
  readonly endedAt: number;
}

/** How each ending reads after its time. */
const CAUSES = {
  calm: ": back to what was expected.",
  arrived: ": a sample came.",
  labelled: ": from then on it is under maintenance, or labelled as expected.",
  held: " as a level shift: the new level has held for a day, and counts as normal from now on.",
  deploy: " as a level shift: it came with a deploy, and counts as normal from now on.",
  unsettled: " as a level shift: it has not settled for a week, and counts as normal from now on.",
  silent: ": there have been no more samples.",
} as const;

const NAMES: Readonly<Record<AnomalyKind, string>> = {
  spike: "Spike",
  drop: "Drop",
  level_shift: "Level shift",
  trend: "Trend",
  variance: "Change of variance",
  shape: "Unusual for this time of day",
  flat_line: "Flat line",
  drop_to_zero: "Drop to zero",
  late: "Late",
  missing: "Missing",
  counter_stopped: "Counter stopped",
};

/** Says in words and numbers why an anomaly is one, what it rests on, how long it lasted and why it ended. */
export function explainAnomaly(
  facts: AnomalyFacts,
  settings: DetectionSettings,
  metricKind: "gauge" | "counter",
): string {
  const { kind, startedAt, lastSeenAt, sampleCount, ending } = facts;
  const sentences = kind === "late" || kind === "missing"
    ? explainSilence(facts, settings)
    : sampleCount === 0
    ? [
      "What the detector knew of this anomaly is lost (a new version, or a lost state); " +
      "nothing suspicious was seen since.",
    ]
    : explainValue(facts, settings, metricKind);
  if (sampleCount > 1) {
    sentences.push(`${sampleCount} samples of it in ${formatDuration(lastSeenAt - startedAt)}.`);
  }
  if (ending !== null) {
    const after = formatDuration(ending.endedAt - startedAt);
    sentences.push(`Ended after ${after}${CAUSES[ending.cause]}`);
  }
  return sentences.join(" ");
}

function explainValue(
  { kind, expected, lower, upper, observed, score, details }: AnomalyFacts,
  { threshold, unit }: DetectionSettings,
  metricKind: "gauge" | "counter",
): string[] {
  const quantity = (value: number) => formatQuantity(value, unit, metricKind);
  const { change, minimumChange, perWeek, scaleSeconds, comparedWith, trainingCount, cycles } =
    details;
  const band = `${quantity(expected)} expected (${formatNumber(lower)} to ${formatNumber(upper)})`;
  const scale = scaleSeconds === 0
    ? "seen in single samples"
    : `seen over ${formatDuration(scaleSeconds * 1000)}`;
  const compared = comparedWith === "same_time_of_day"
    ? "compared with the same time on earlier days"
    : "compared with the values before";
  const gate = minimumChange > 0
    ? ` The smallest change that counts is ${quantity(minimumChange)}.`
    : "";
  const days = cycles === 0 ? "less than a day" : cycles === 1 ? "1 day" : `${cycles} days`;
  return [
    kind === "flat_line"
      ? `${NAMES[kind]}: it has not moved from ${quantity(observed)}.`
      : `${NAMES[kind]}: saw ${quantity(observed)}, ${band}; ` +
        `that is ${quantity(Math.abs(change))} ${change < 0 ? "below" : "above"}.`,
    `${capitalize(scale)}, ${compared}; ${describeRarity(perWeek)}.`,
    `Score ${formatNumber(score)} of 1, told from ${formatNumber(threshold)}.${gate}`,
    `Rests on ${trainingCount} samples and ${days}.`,
  ];
}

function explainSilence(
  { kind, expected, upper, observed, score, details: { trainingCount } }: AnomalyFacts,
  { threshold }: DetectionSettings,
): string[] {
  return [
    `${NAMES[kind]}: no sample for ${formatDuration(observed * 1000)}; they usually come every ` +
    `${formatDuration(expected * 1000)}, and silence of up to ${
      formatDuration(upper * 1000)
    } is usual.`,
    `Score ${formatNumber(score)} of 1, told from ${formatNumber(threshold)}.`,
    `Rests on ${trainingCount} samples.`,
  ];
}

/** `chance brings as much about 3 times a week`, `… once in 5 weeks`, `… less than once in 10 years`. */
function describeRarity(perWeek: number | null): string {
  if (perWeek === null) return "how rare it is was not measured";
  const prefix = "by chance as much comes ";
  if (perWeek >= 1.5) return `${prefix}${formatNumber(Math.round(perWeek))} times a week`;
  const weeks = 1 / perWeek;
  if (weeks < 1.5) return `${prefix}once a week`;
  if (weeks < 104) return `${prefix}once in ${Math.round(weeks)} weeks`;
  const years = weeks / 52;
  return years > 10
    ? `${prefix}less than once in 10 years`
    : `${prefix}once in ${Math.round(years)} years`;
}

function capitalize(text: string): string {
  return text[0]!.toUpperCase() + text.slice(1);
}
/** `97.25 percent`; `500` for counts; `1.5 bytes/s` and `0.1/s` for the rates of counters. */
function formatQuantity(value: number, unit: string, kind: "gauge" | "counter"): string {
  const number = formatNumber(value);
  if (kind === "counter") {
    return unit === "count" || unit === "" ? `${number}/s` : `${number} ${unit}/s`;
  }
  return unit === "count" || unit === "" ? number : `${number} ${unit}`;
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
