import { z } from "zod";

/** A series as it was sent: names and labels already in Prometheus' grammar. Goes to SQL as it is, so it keeps its spelling. */
export interface SentSeries {
  /** At most 200 characters of `[a-zA-Z_:][a-zA-Z0-9_:]*`. */
  readonly metric: string;
  /** Non-empty strings by label name. */
  readonly labels: Readonly<Record<string, string>>;
  /** What the metric is registered as when it is new. */
  readonly kind: "gauge" | "counter";
  /** In words of our registry (seconds, bytes, ratio, percent, count, …); "" when the sender did not say. */
  readonly unit: string;
  /** "" when the sender did not say, and in all series of a metric but the first one that has it. */
  readonly description: string;
  /** Values are increments since the sample before, to be added up where the series is kept. */
  readonly is_delta: boolean;
}

/** Samples of one request that are fit to be stored. The last three have one entry a sample, aligned. */
export interface SampleBatch {
  /** Each metric and set of labels once. */
  readonly series: readonly SentSeries[];
  /** Whose the sample is: its place in `series`, counted from 1 as SQL does. */
  readonly positions: readonly number[];
  /** Milliseconds since 1970-01-01 UTC, whole. */
  readonly times: readonly number[];
  /** Finite. */
  readonly values: readonly number[];
}

/** What was refused, and why. Several samples refused for one reason may share an entry. */
export interface Refusal {
  /** As sent, bounded; "" when there is none. */
  readonly metric: string;
  /** Why, in words for the sender. */
  readonly reason: string;
  /** How many samples (plain JSON) or data points (OTLP), at least 1. */
  readonly count: number;
}

/** What one request turned into. */
export interface IncomingSamples {
  readonly batch: SampleBatch;
  readonly refused: readonly Refusal[];
}

/** Answer of `monitor.ingest_samples`. */
export const IngestionResult = z.object({
  /** Samples that are stored now and were not before. */
  inserted: z.int().nonnegative(),
  /** Samples of a (series, time) that was there already, or of deltas at or before the series' last time. */
  duplicates: z.int().nonnegative(),
  /** Samples of sets of labels beyond the metric's ceiling: they went to its overflow series. */
  overflowed: z.int().nonnegative(),
  /** By metric and reason. */
  rejected: z.array(
    z.object({ metric: z.string(), reason: z.string(), count: z.int().nonnegative() }),
  ),
});

/** Answer of `monitor.ingest_samples`. */
export type IngestionResult = z.infer<typeof IngestionResult>;
