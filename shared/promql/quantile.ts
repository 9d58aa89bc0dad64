/** Up to here, putting each value where it belongs is quicker than calling a sort. */
const FEW = 48;

/**
 * The quantile of values, between the two nearest in proportion. Sorts them in place; NaN comes first.
 *
 * Empty, or quantile NaN: NaN. Quantile below 0 or above 1: an infinity.
 */
export function quantileOf(quantile: number, values: Float64Array): number {
  if (values.length === 0 || Number.isNaN(quantile)) return NaN;
  if (quantile < 0) return -Infinity;
  if (quantile > 1) return Infinity;
  sortNaNFirst(values);
  const rank = quantile * (values.length - 1);
  const lower = Math.floor(rank);
  const upper = Math.min(values.length - 1, lower + 1);
  const weight = rank - lower;
  return values[lower]! * (1 - weight) + values[upper]! * weight;
}

function sortNaNFirst(values: Float64Array): void {
  let start = 0;
  for (let i = 0; i < values.length; i += 1) {
    if (!Number.isNaN(values[i]!)) continue;
    values[i] = values[start]!;
    values[start] = NaN;
    start += 1;
  }
  if (values.length > FEW) {
    values.subarray(start).sort();
    return;
  }
  for (let i = start + 1; i < values.length; i += 1) {
    const value = values[i]!;
    let at = i;
    for (; at > start && values[at - 1]! > value; at -= 1) values[at] = values[at - 1]!;
    values[at] = value;
  }
}
