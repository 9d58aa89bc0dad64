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
  // Typed arrays sort NaN to the end.
  values.sort();
  let numbers = values.length;
  while (numbers > 0 && Number.isNaN(values[numbers - 1]!)) numbers -= 1;
  if (numbers === values.length) return;
  values.copyWithin(values.length - numbers, 0, numbers);
  values.fill(NaN, 0, values.length - numbers);
}
