import type { SampleBatch, SentSeries } from "../contract/ingestion.ts";

/**
 * Cuts a batch into parts of at most `limit` ≥ 1 samples, to be stored one after another. A batch that
 * fits is its only part, as it is.
 *
 * Samples are put in order of their series and time first: of increments that arrive after a later one
 * of their series it cannot be known that they were not counted yet.
 */
export function splitBatch(batch: SampleBatch, limit: number): readonly SampleBatch[] {
  const { positions, times } = batch;
  if (positions.length <= limit) return [batch];
  const order = positions.map((_, index) => index)
    .sort((a, b) => positions[a]! - positions[b]! || times[a]! - times[b]!);
  const parts: SampleBatch[] = [];
  for (let from = 0; from < order.length; from += limit) {
    parts.push(pick(batch, order.slice(from, from + limit)));
  }
  return parts;
}

/** Samples at `indices`, in order of their series, with those series only. */
function pick(batch: SampleBatch, indices: readonly number[]): SampleBatch {
  const series: SentSeries[] = [];
  let last = 0;
  const positions = indices.map((index) => {
    const position = batch.positions[index]!;
    if (position !== last) series.push(batch.series[position - 1]!);
    last = position;
    return series.length;
  });
  const times = indices.map((index) => batch.times[index]!);
  const values = indices.map((index) => batch.values[index]!);
  return { series, positions, times, values };
}
