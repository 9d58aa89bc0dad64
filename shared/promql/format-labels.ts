import { type Labels, METRIC_NAME } from "./series.ts";

const METRIC = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const LABEL = /^[a-zA-Z_][a-zA-Z0-9_]*$/;

/** Whether it may stand before the braces of a selector. */
export function isPlainMetricName(name: string): boolean {
  return METRIC.test(name);
}

/** Whether it may stand unquoted within braces. */
export function isPlainLabelName(name: string): boolean {
  return LABEL.test(name);
}

/** A string literal of PromQL. */
export function quote(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\u009f\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** A label name as it stands within braces or a grouping: in quotes where it has to be. */
export function formatLabelName(name: string): string {
  return isPlainLabelName(name) ? name : quote(name);
}

/** A label set with the name among the labels, as Prometheus prints it in errors: `{__name__="name", a="b"}`. */
export function formatLabelSet(labels: Labels): string {
  const pairs = Object.keys(labels).sort().map((key) =>
    `${formatLabelName(key)}=${quote(labels[key]!)}`
  );
  return `{${pairs.join(", ")}}`;
}

/** A label set as Prometheus prints a series: `name{a="b", c="d"}`, or `{"a name", a="b"}`. */
export function formatLabels(labels: Labels): string {
  const { [METRIC_NAME]: name = "", ...rest } = labels;
  const pairs = Object.keys(rest).sort().map((key) =>
    `${formatLabelName(key)}=${quote(rest[key]!)}`
  );
  if (name !== "" && !isPlainMetricName(name)) return `{${[quote(name), ...pairs].join(", ")}}`;
  return pairs.length === 0 ? (name === "" ? "{}" : name) : `${name}{${pairs.join(", ")}}`;
}
