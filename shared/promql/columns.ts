import { PromqlError } from "./promql-error.ts";
import { labelsKey } from "./labels-key.ts";
import { labelOf, type Labels, METRIC_NAME } from "./series.ts";

/** The steps that an expression is evaluated at. */
export interface Grid {
  /** Milliseconds since 1970. */
  readonly start: number;
  /** Milliseconds, more than 0. */
  readonly step: number;
  readonly count: number;
}

/** One series of an instant vector over all steps. */
export interface Column {
  labels: Labels;
  /** Its name is to be dropped from the result. */
  dropsName: boolean;
  /** A value per step, of no meaning where there is none. */
  readonly values: Float64Array;
  /** 1 where there is a value. */
  readonly present: Uint8Array;
}

/** The time of a step. */
export function timeAt({ start, step }: Grid, index: number): number {
  return start + index * step;
}

export function makeColumn(labels: Labels, dropsName: boolean, count: number): Column {
  return {
    labels,
    dropsName,
    values: new Float64Array(count),
    present: new Uint8Array(count),
  };
}

/** Keeps an evaluation within its limits. @throws {PromqlError} from each, of kind `limit` or `timeout` */
export interface Bounds {
  /** A column without values, which counts among those that are alive. */
  make(labels: Labels, dropsName: boolean, count: number): Column;
  /** Notes that so many values have been looked at: after many, whether there is time left. */
  spend(values: number): void;
  /** Notes that so much text was made, in UTF-16 units. */
  takeText(length: number): void;
}

/** Without the labels given. */
export function omitLabels(labels: Labels, names: Iterable<string>): Labels {
  const rest: Record<string, string> = { ...labels };
  for (const name of names) delete rest[name];
  return rest;
}

/** Only the labels given. */
export function pickLabels(labels: Labels, names: Iterable<string>): Labels {
  const picked: [name: string, value: string][] = [];
  for (const name of names) {
    const value = labelOf(labels, name);
    if (value !== "") picked.push([name, value]);
  }
  // Set one by one, "__proto__" would not become a label.
  return Object.fromEntries(picked);
}

/** With a label set, or gone when the value is empty. */
export function withLabel(labels: Labels, name: string, value: string): Labels {
  return value === "" ? omitLabels(labels, [name]) : { ...labels, [name]: value };
}

/** What tells a metric rather than an instance of it, and goes when it becomes something else. */
export const METADATA_LABELS: readonly string[] = [METRIC_NAME, "__type__", "__unit__"];

/** Without name, type and unit. */
export function dropMetadata(labels: Labels): Labels {
  return METADATA_LABELS.some((name) => labels[name] !== undefined)
    ? omitLabels(labels, METADATA_LABELS)
    : labels;
}

/** Puts columns of the same labels together. @throws {PromqlError} if two have a value at the same step */
export function mergeSameLabels(columns: Column[]): Column[] {
  if (columns.length < 2) return columns;
  const byKey = new Map<string, Column>();
  let hasMerged = false;
  for (const column of columns) {
    const key = labelsKey(column.labels);
    const before = byKey.get(key);
    if (before === undefined) {
      byKey.set(key, column);
      continue;
    }
    hasMerged = true;
    for (let i = 0; i < column.values.length; i += 1) {
      if (column.present[i] === 0) continue;
      if (before.present[i] === 1) {
        throw new PromqlError(
          "execution",
          "vector cannot contain metrics with the same labelset",
        );
      }
      before.present[i] = 1;
      before.values[i] = column.values[i]!;
    }
  }
  return hasMerged ? [...byKey.values()] : columns;
}
