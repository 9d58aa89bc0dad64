import { labelsKey } from "../../shared/promql/labels-key.ts";
import { compileMatchers } from "../../shared/promql/match-labels.ts";
import { samplePoints, type SequenceValue } from "../../shared/promql/series-notation.ts";
import {
  type Labels,
  METRIC_NAME,
  type SampledSeries,
  type Selection,
} from "../../shared/promql/series.ts";
import type { LoadCommand } from "./parse-script.ts";

/** Why a query is out of scope, by what its data has that ours cannot have. */
const REASONS = {
  histogram: "reads native histograms",
  startTime: "reads start timestamps, which are behind a feature flag",
} as const;

interface StoredSeries {
  readonly labels: Labels;
  /** Newest load of each time, milliseconds since 1970. */
  readonly points: Map<number, Exclude<SequenceValue, "omitted">>;
  hasStartTimes: boolean;
  /** Made when first asked for. */
  sampled: SampledSeries | undefined;
}

/** What was loaded, in memory. */
export class TestStorage {
  readonly #series = new Map<string, StoredSeries>();

  clear(): void {
    this.#series.clear();
  }

  load({ step, isConverted, series }: LoadCommand): void {
    for (const { labels, values, hasStartTimes } of series) {
      this.#add(labels, values, step).hasStartTimes ||= hasStartTimes;
      const base = isConverted ? histogramLabels(labels) : undefined;
      if (base === undefined) continue;
      // Only where it is matters, as native histograms are out of scope.
      const places = values.map((value) => typeof value === "number" ? "histogram" : "omitted");
      this.#add(base, places, step);
    }
  }

  #add(labels: Labels, values: readonly SequenceValue[], step: number): StoredSeries {
    const key = labelsKey(labels);
    let series = this.#series.get(key);
    if (series === undefined) {
      series = { labels, points: new Map(), hasStartTimes: false, sampled: undefined };
      this.#series.set(key, series);
    }
    for (const [index, value] of values.entries()) {
      if (value !== "omitted") series.points.set(index * step, value);
    }
    series.sampled = undefined;
    return series;
  }

  /** The series that match, whole. */
  select(selection: Selection): SampledSeries[] {
    return this.#find(selection).map((series) => series.sampled ??= sample(series));
  }

  /** Why a query with these selections is out of scope, undefined if it is not. */
  outOfScope(selections: readonly Selection[]): string | undefined {
    for (const selection of selections) {
      for (const { points, hasStartTimes } of this.#find(selection)) {
        for (const [time, value] of points) {
          if (time < selection.from || time > selection.until) continue;
          if (value === "histogram") return REASONS.histogram;
          if (hasStartTimes) return REASONS.startTime;
        }
      }
    }
    return undefined;
  }

  #find({ matchers }: Selection): StoredSeries[] {
    const matches = compileMatchers(matchers);
    return [...this.#series.values()].filter(({ labels }) => matches(labels));
  }
}

function sample({ labels, points }: StoredSeries): SampledSeries {
  return samplePoints(labels, [...points].sort(([timeA], [timeB]) => timeA - timeB));
}

/** The native histogram that a classic series becomes a part of, undefined for a series that is no part of any. */
function histogramLabels({ [METRIC_NAME]: name, ...labels }: Labels): Labels | undefined {
  const [, base, suffix] = /^(.+)_(bucket|count|sum)$/.exec(name ?? "") ?? [];
  if (base === undefined) return undefined;
  const { le, ...rest } = labels;
  if (suffix === "bucket" && !/^(\+?Inf|[-+.\deE]+)$/.test(le ?? "")) return undefined;
  return { [METRIC_NAME]: base, ...rest };
}
