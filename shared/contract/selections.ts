import { z } from "zod";
import type { Exposition, MetricDefinition } from "../promql/exposition.ts";

const Series = z.object({ metric: z.string(), labels: z.record(z.string(), z.string()) });

/** Whether all was found, or only as much as was asked for. */
const Cut = z.object({ is_complete: z.boolean() });

/** What the text that `monitor.read_selections` answers holds. */
export const Selections = z.object({
  /** Milliseconds since 1970, ascending. */
  clocks: z.array(z.array(z.number())),
  series: z.array(Series.extend({
    /** Positions of the selections that the series is in, from 0. */
    in: z.array(z.int()),
    /** Position of its times in `clocks`. */
    clock: z.int(),
    values: z.array(z.number()),
  })),
  /** Of all series together. */
  samples: z.int(),
});

/** What `monitor.read_selections` answers. */
export type Selections = z.infer<typeof Selections>;

/** Reads the answer of `monitor.read_selections`, a text that holds JSON. @throws {z.ZodError} */
export const parseSelections = (answer: unknown): Selections =>
  Selections.parse(JSON.parse(z.string().parse(answer)));

/** What `monitor.read_series_labels` answers. */
export const SeriesLabels = Cut.extend({ series: z.array(Series) });

/** What `monitor.read_label_names` answers. */
export const LabelNames = Cut.extend({ names: z.array(z.string()) });

/** What `monitor.read_label_values` answers. */
export const LabelValues = Cut.extend({ values: z.array(z.string()) });

/** Texts in order, all that there are or the first of them. */
export interface FoundTexts {
  readonly items: readonly string[];
  readonly isComplete: boolean;
}

/** Series in order, all that there are or the first of them. */
export interface FoundSeries {
  readonly series: readonly z.infer<typeof Series>[];
  readonly isComplete: boolean;
}

/** Reads the answer of `monitor.read_series_labels`. @throws {z.ZodError} */
export function parseSeriesLabels(answer: unknown): FoundSeries {
  const { series, is_complete } = SeriesLabels.parse(answer);
  return { series, isComplete: is_complete };
}

/** Reads the answer of `monitor.read_label_names`. @throws {z.ZodError} */
export function parseLabelNames(answer: unknown): FoundTexts {
  const { names, is_complete } = LabelNames.parse(answer);
  return { items: names, isComplete: is_complete };
}

/** Reads the answer of `monitor.read_label_values`. @throws {z.ZodError} */
export function parseLabelValues(answer: unknown): FoundTexts {
  const { values, is_complete } = LabelValues.parse(answer);
  return { items: values, isComplete: is_complete };
}

/** One metric of the answer of `monitor.read_metadata`. */
export const MetricRow = z.object({
  metric: z.string(),
  kind: z.enum(["gauge", "counter"]),
  unit: z.string(),
  description: z.string(),
});

/** Reads the answer of `monitor.read_metadata`. @throws {z.ZodError} */
export const parseMetadata = (answer: unknown): readonly MetricDefinition[] =>
  z.array(MetricRow).parse(answer);

/** What `monitor.read_exposition` answers. */
export const ExpositionRow = Cut.extend({
  metrics: z.array(MetricRow.extend({ category: z.string() })),
  series: z.array(Series.extend({ time: z.number(), value: z.number() })),
});

/** Reads the answer of `monitor.read_exposition`. @throws {z.ZodError} */
export function parseExposition(answer: unknown): Exposition {
  const { metrics, series, is_complete } = ExpositionRow.parse(answer);
  return { metrics, series, isComplete: is_complete };
}
