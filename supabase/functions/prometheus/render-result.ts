import { formatValue } from "../../../shared/promql/format-value.ts";
import type { QueryValue } from "../../../shared/promql/query.ts";
import type { Labels } from "../../../shared/promql/series.ts";

/** The value of a query as Prometheus' JSON text: `{"resultType":…,"result":…}`. */
export function renderResult(value: QueryValue): string {
  return `{"resultType":"${value.type}","result":${renderValue(value)}}`;
}

function renderValue(value: QueryValue): string {
  switch (value.type) {
    case "scalar":
      return renderPoint(value.time, value.value);
    case "string":
      return `[${renderTime(value.time)},${JSON.stringify(value.value)}]`;
    case "vector":
      return renderList(
        value.samples,
        ({ labels, value: sample }) =>
          `{"metric":${renderLabels(labels)},"value":${renderPoint(value.time, sample)}}`,
      );
    case "matrix":
      return renderList(
        value.series,
        ({ labels, times, values }) =>
          `{"metric":${renderLabels(labels)},"values":${
            renderList(times, (time, i) => renderPoint(time, values[i]!))
          }}`,
      );
  }
}

function renderList<T>(items: readonly T[], render: (item: T, i: number) => string): string {
  let text = "[";
  for (let i = 0; i < items.length; i += 1) text += (i === 0 ? "" : ",") + render(items[i]!, i);
  return `${text}]`;
}

function renderPoint(time: number, value: number): string {
  return `[${renderTime(time)},"${formatValue(value)}"]`;
}

/** Seconds with at most three decimals. */
function renderTime(milliseconds: number): string {
  return String(milliseconds / 1000);
}

/** Labels by name, as Prometheus orders them. */
export function sortLabels(labels: Labels): Labels {
  return Object.fromEntries(Object.entries(labels).toSorted(([a], [b]) => a < b ? -1 : 1));
}

function renderLabels(labels: Labels): string {
  return JSON.stringify(sortLabels(labels));
}
