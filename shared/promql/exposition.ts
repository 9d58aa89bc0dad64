import { formatValue } from "./format-value.ts";
import { labelsKey } from "./labels-key.ts";
import type { Labels } from "./series.ts";

/** Prometheus' text format 0.0.4, or OpenMetrics 1.0.0. */
export type ExpositionFormat = "text" | "openmetrics";

/** What is known of a metric. */
export interface MetricDefinition {
  readonly metric: string;
  readonly kind: "gauge" | "counter";
  readonly unit: string;
  readonly description: string;
}

/** The newest sample of a series. */
export interface LatestSample {
  readonly metric: string;
  /** Without the name of the metric. */
  readonly labels: Labels;
  /** Milliseconds since 1970. */
  readonly time: number;
  readonly value: number;
}

/** What is to be exposed. Series without a definition are not. */
export interface Exposition {
  readonly metrics: readonly MetricDefinition[];
  readonly series: readonly LatestSample[];
  /** Whether these are all series that there are. */
  readonly isComplete: boolean;
}

export interface RenderedExposition {
  readonly text: string;
  /** Whether series were left out, here or before. */
  readonly isTruncated: boolean;
}

/** Seconds since the newest sample of each series, which says by its labels whose. */
export const AGE_METRIC = "pgvigil_observation_age_seconds";
/** 1 when series were left out, else 0. */
export const TRUNCATED_METRIC = "pgvigil_exposition_truncated";

const OURS: readonly MetricDefinition[] = [
  {
    metric: AGE_METRIC,
    kind: "gauge",
    unit: "seconds",
    description: "Time since the newest sample of a series, which its labels name.",
  },
  {
    metric: TRUNCATED_METRIC,
    kind: "gauge",
    unit: "",
    description: "Whether series were left out because there are too many: 1, else 0.",
  },
];

type FamilyType = "counter" | "gauge" | "histogram" | "summary" | "unknown";

/** What stands below one TYPE line. */
interface Family {
  readonly name: string;
  readonly type: FamilyType;
  readonly unit: string;
  readonly help: string;
  readonly groups: readonly SampleGroup[];
}

/** Samples that belong together, and the one whose age is theirs. */
interface SampleGroup {
  readonly samples: readonly LatestSample[];
  readonly aged: LatestSample;
}

/** A metric with its series. */
interface Member extends MetricDefinition {
  readonly series: readonly LatestSample[];
}

/**
 * Renders the newest samples, each with its age as a series of its own, in at most `bytesLimit` bytes and what the
 * metrics of the exposition itself take. Samples have no time: a scrape would refuse old ones.
 *
 * @param now milliseconds since 1970
 */
export function renderExposition(
  exposition: Exposition,
  { format, now, bytesLimit }: {
    readonly format: ExpositionFormat;
    readonly now: number;
    readonly bytesLimit: number;
  },
): RenderedExposition {
  const encoder = new TextEncoder();
  const lines: string[] = [];
  const ages: string[] = [];
  let bytes = 0;
  let isFull = false;
  for (const family of toFamilies(exposition, format)) {
    let head = renderHead(family, format);
    for (const group of family.groups) {
      const samples = head + group.samples.map(renderSample).join("");
      const age = renderAge(group.aged, now);
      bytes += encoder.encode(samples + age).byteLength;
      isFull ||= bytes > bytesLimit;
      if (isFull) break;
      lines.push(samples);
      ages.push(age);
      head = "";
    }
    if (isFull) break;
  }
  const isTruncated = isFull || !exposition.isComplete;
  const [ageHead, truncatedHead] = OURS.map((
    { metric: name, unit, description: help },
  ) => renderHead({ name, type: "gauge", unit, help }, format)) as [string, string];
  lines.push(ageHead, ...ages, truncatedHead, `${TRUNCATED_METRIC} ${isTruncated ? 1 : 0}\n`);
  if (format === "openmetrics") lines.push("# EOF\n");
  return { text: lines.join(""), isTruncated };
}

/** Families by the names of their metrics; histograms and summaries where all parts of them are there. */
function toFamilies({ metrics, series }: Exposition, format: ExpositionFormat): Family[] {
  const ours = new Set(OURS.map(({ metric }) => metric));
  const seriesOf = groupBy(series, ({ metric }) => metric);
  const members = new Map<string, Member>();
  for (const definition of metrics) {
    const { metric } = definition;
    const own = seriesOf.get(metric);
    if (own !== undefined && !ours.has(metric)) members.set(metric, { ...definition, series: own });
  }
  const compound = new Map<string, Family>();
  const inCompound = new Set<string>();
  for (const { metric } of members.values()) {
    if (!metric.endsWith("_count")) continue;
    const base = metric.slice(0, -"_count".length);
    const family = toHistogram(base, members) ?? toSummary(base, members);
    if (family === undefined) continue;
    compound.set(metric, family);
    for (const part of [base, `${base}_bucket`, `${base}_sum`]) inCompound.add(part);
  }
  const taken = new Set([...members.keys(), ...[...compound.values()].map(({ name }) => name)]);
  return [...members.values()]
    .filter(({ metric }) => !inCompound.has(metric))
    .map((member) => compound.get(member.metric) ?? toFamily(member, taken, format));
}

/** Names that stand for a part of a histogram or a counter, or for a type: a checker takes offence at them. */
const TELLING_NAME =
  /_(?:bucket|count|sum|total)$|_(?:counter|gauge|histogram|summary|untyped)(?:_|$)/;

function toFamily(member: Member, taken: ReadonlySet<string>, format: ExpositionFormat): Family {
  const { metric, kind, unit, description: help, series } = member;
  const stem = metric.replace(/_total$/, "");
  const groups = series.map((sample) => ({ samples: [sample], aged: sample }));
  const family = { name: metric, unit, help, groups };
  if (TELLING_NAME.test(kind === "counter" ? stem : metric)) return { ...family, type: "unknown" };
  if (kind === "gauge") return { ...family, type: "gauge" };
  if (stem === metric || stem === "") return { ...family, type: "unknown" };
  if (format === "text") return { ...family, type: "counter" };
  // OpenMetrics names a counter without its suffix, which may be the name of another metric.
  return taken.has(stem)
    ? { ...family, type: "unknown" }
    : { ...family, name: stem, type: "counter" };
}

/** What histograms and summaries have in common. */
interface Parts {
  readonly count: Member;
  /** By the key of their labels. */
  readonly sums: ReadonlyMap<string, LatestSample>;
}

/** Undefined unless both are counters and have a series each for the same labels. */
function findParts(base: string, members: ReadonlyMap<string, Member>): Parts | undefined {
  const count = members.get(`${base}_count`);
  const sum = members.get(`${base}_sum`);
  if (base === "" || count?.kind !== "counter" || sum?.kind !== "counter") return undefined;
  const sums = new Map(sum.series.map((sample) => [labelsKey(sample.labels), sample]));
  const isPaired = sums.size === count.series.length &&
    count.series.every(({ labels }) => sums.has(labelsKey(labels)));
  return isPaired ? { count, sums } : undefined;
}

function toHistogram(base: string, members: ReadonlyMap<string, Member>): Family | undefined {
  const parts = findParts(base, members);
  const bucket = members.get(`${base}_bucket`);
  if (parts === undefined || bucket?.kind !== "counter" || members.has(base)) return undefined;
  const { unit, description: help, series } = bucket;
  const endless = series.filter(({ labels }) => labels.le === "+Inf").length;
  if (endless !== parts.count.series.length) return undefined;
  return toCompound({ name: base, type: "histogram", unit, help }, parts, bucket, "le");
}

function toSummary(base: string, members: ReadonlyMap<string, Member>): Family | undefined {
  const parts = findParts(base, members);
  const quantile = members.get(base);
  if (
    parts === undefined || quantile === undefined ||
    members.has(`${base}_bucket`)
  ) {
    return undefined;
  }
  const { unit, description: help } = quantile;
  return toCompound({ name: base, type: "summary", unit, help }, parts, quantile, "quantile");
}

/** The family, undefined if a series of `inner` belongs to none of the others. */
function toCompound(
  head: Omit<Family, "groups">,
  { count, sums }: Parts,
  inner: Member,
  label: "le" | "quantile",
): Family | undefined {
  const innerOf = groupBy(inner.series, ({ labels: { [label]: _, ...rest } }) => labelsKey(rest));
  const groups = count.series.map((aged) => {
    const key = labelsKey(aged.labels);
    const own = (innerOf.get(key) ?? []).toSorted((a, b) =>
      boundOf(a.labels[label]) - boundOf(b.labels[label])
    );
    innerOf.delete(key);
    return { samples: [...own, sums.get(key)!, aged], aged };
  });
  const isWhole = innerOf.size === 0 &&
    inner.series.every(({ labels }) => labels[label] !== undefined);
  return isWhole ? { ...head, groups } : undefined;
}

function boundOf(text = ""): number {
  return Number(text.replace("+Inf", "Infinity"));
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return groups;
}

function renderHead(
  { name, type, unit, help }: Omit<Family, "groups">,
  format: ExpositionFormat,
): string {
  const shownType = type === "unknown" && format === "text" ? "untyped" : type;
  const shownHelp = help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
  const lines = [`# TYPE ${name} ${shownType}\n`];
  if (format === "openmetrics") {
    // A unit has to be the end of the name.
    if (unit !== "count" && name.endsWith(`_${unit}`)) lines.push(`# UNIT ${name} ${unit}\n`);
    lines.push(`# HELP ${name} ${shownHelp.replaceAll('"', '\\"')}\n`);
  } else {
    lines.unshift(`# HELP ${name} ${shownHelp}\n`);
  }
  return lines.join("");
}

function renderSample({ metric, labels, value }: LatestSample): string {
  return `${metric}${renderLabels(labels)} ${formatValue(value)}\n`;
}

function renderAge({ metric, labels, time }: LatestSample, now: number): string {
  const age = Math.max(0, now - time) / 1000;
  return `${AGE_METRIC}${renderLabels({ ...renameTaken(labels), metric })} ${formatValue(age)}\n`;
}

/** Labels that a gauge which names others may not carry itself. */
const TAKEN = ["metric", "le", "quantile"];

/** A label that is taken gives way, as labels do in a scrape: `metric` to `exported_metric`. */
function renameTaken(labels: Labels): Labels {
  const renamed = { ...labels };
  for (const taken of TAKEN) {
    const value = renamed[taken];
    if (value === undefined) continue;
    delete renamed[taken];
    let name = `exported_${taken}`;
    while (name in renamed) name = `exported_${name}`;
    renamed[name] = value;
  }
  return renamed;
}

function renderLabels(labels: Labels): string {
  const pairs = Object.entries(labels)
    .toSorted(([a], [b]) => a < b ? -1 : 1)
    .map(([name, value]) => `${name}="${escapeLabel(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

function escapeLabel(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll('"', '\\"');
}
