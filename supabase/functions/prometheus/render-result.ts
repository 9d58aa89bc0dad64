import { formatValue } from "../../../shared/promql/format-value.ts";
import type { QueryValue } from "../../../shared/promql/query.ts";
import type { Labels } from "../../../shared/promql/series.ts";

/**
 * The value of a query as Prometheus' JSON text, piece by piece: `{"resultType":…,"result":…}`. As one text, with what it is
 * made from, it would take more memory than a function has.
 */
export function* renderResult(value: QueryValue): Generator<string> {
  yield `{"resultType":"${value.type}","result":`;
  switch (value.type) {
    case "scalar":
      yield renderPoint(value.time, value.value);
      break;
    case "string":
      yield `[${renderTime(value.time)},${JSON.stringify(value.value)}]`;
      break;
    case "vector":
      yield* renderList(
        value.samples,
        ({ labels, value: sample }) =>
          `{"metric":${renderLabels(labels)},"value":${renderPoint(value.time, sample)}}`,
      );
      break;
    case "matrix":
      yield* renderList(value.series, ({ labels, times, values }) => {
        const points = times.map((time, i) => renderPoint(time, values[i]!));
        return `{"metric":${renderLabels(labels)},"values":[${points.join(",")}]}`;
      });
  }
  yield "}";
}

function* renderList<T>(
  items: readonly T[],
  render: (item: T) => string,
): Generator<string> {
  yield "[";
  let separator = "";
  for (const item of items) {
    yield separator + render(item);
    separator = ",";
  }
  yield "]";
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
  return Object.fromEntries(
    Object.entries(labels).toSorted(([a], [b]) => a < b ? -1 : 1),
  );
}

function renderLabels(labels: Labels): string {
  return JSON.stringify(sortLabels(labels));
}
