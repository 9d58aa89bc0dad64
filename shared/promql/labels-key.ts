import type { Labels } from "./series.ts";

/** Equal for equal label sets, whatever the order of their keys. */
export function labelsKey(labels: Labels): string {
  const names = Object.keys(labels);
  if (names.length > 1) names.sort();
  let key = "";
  // Neither name nor value may hold U+FFFF, a noncharacter, without being told apart: lengths do that.
  for (const name of names) {
    const value = labels[name]!;
    key += `${name.length}:${name}${value.length}:${value}`;
  }
  return key;
}

/** Order of label sets in Prometheus: name by name, value by value, by code units; a shorter one first. */
export function compareLabels(a: Labels, b: Labels): number {
  const namesA = Object.keys(a).sort();
  const namesB = Object.keys(b).sort();
  const length = Math.min(namesA.length, namesB.length);
  for (let i = 0; i < length; i += 1) {
    const nameA = namesA[i]!;
    const nameB = namesB[i]!;
    if (nameA !== nameB) return nameA < nameB ? -1 : 1;
    const valueA = a[nameA]!;
    const valueB = b[nameB]!;
    if (valueA !== valueB) return valueA < valueB ? -1 : 1;
  }
  return namesA.length - namesB.length;
}
