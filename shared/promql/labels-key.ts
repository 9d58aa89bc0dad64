import type { Labels } from "./series.ts";

/** Equal for equal label sets, whatever the order of their keys. */
export function labelsKey(labels: Labels): string {
  const names = Object.keys(labels);
  if (names.length > 1) names.sort();
  let key = "";
  // Whatever is in them: lengths tell where one ends.
  for (const name of names) {
    const value = labels[name]!;
    key += `${name.length}:${name}${value.length}:${value}`;
  }
  return key;
}

/** Names and values in turn, by name. */
function flatten(labels: Labels): string[] {
  return Object.keys(labels).sort().flatMap((name) => [name, labels[name]!]);
}

function compareFlat(a: readonly string[], b: readonly string[]): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i += 1) {
    if (a[i] !== b[i]) return a[i]! < b[i]! ? -1 : 1;
  }
  return a.length - b.length;
}

/** Order of label sets in Prometheus: name by name, value by value, by code units; a shorter one first. */
export function compareLabels(a: Labels, b: Labels): number {
  return compareFlat(flatten(a), flatten(b));
}

/** Items in the order of {@link compareLabels}. */
export function sortByLabels<T extends { readonly labels: Labels }>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, flat: flatten(item.labels) }))
    .sort((a, b) => compareFlat(a.flat, b.flat))
    .map(({ item }) => item);
}
