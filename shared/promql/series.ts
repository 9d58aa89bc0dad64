/** Names and values, none empty: an empty value means "no such label" in Prometheus. The metric is `__name__`. */
export type Labels = Readonly<Record<string, string>>;

/** Label that holds the name of the metric. */
export const METRIC_NAME = "__name__";

/** The value of a label, empty if there is none. */
export function labelOf(labels: Labels, name: string): string {
  const value: unknown = labels[name];
  // What any object has by the name of a label, like "constructor", is no text.
  return typeof value === "string" ? value : "";
}

/** A condition on a label; patterns are RE2, anchored at both ends. */
export interface Matcher {
  readonly name: string;
  readonly op: "=" | "!=" | "=~" | "!~";
  readonly value: string;
}

/** What a selector of a query needs: every sample of the series that match, from `from` to `until`, both included. */
export interface Selection {
  /** Never without one that the empty string does not satisfy. */
  readonly matchers: readonly Matcher[];
  /** Milliseconds since 1970. */
  readonly from: number;
  /** Milliseconds since 1970. */
  readonly until: number;
}

/** Samples of one series. More of them than were asked for do no harm. */
export interface SampledSeries {
  readonly labels: Labels;
  /** Milliseconds since 1970, ascending. */
  readonly times: ArrayLike<number>;
  readonly values: ArrayLike<number>;
  /** Indices at which the series ended, for the time being: Prometheus' staleness markers. Ascending. */
  readonly stale?: readonly number[];
}

/** Where samples come from. */
export interface SampleSource {
  /** For each selection its series, all in one go. */
  select(selections: readonly Selection[]): Promise<readonly (readonly SampledSeries[])[]>;
}
