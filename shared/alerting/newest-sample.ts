import { labelsKey } from "../promql/labels-key.ts";
import type { Labels } from "../promql/series.ts";

/** A series, and when its newest sample was taken, in ms since 1970. */
export interface KnownSeries {
  readonly labels: Labels;
  readonly newestAt: number;
}

/** Series with the same names of labels among those that alerts have, by the values of these. */
interface Kind {
  readonly names: readonly string[];
  readonly newestByKey: ReadonlyMap<string, number>;
}

/**
 * Finds when the newest sample was taken that may belong to an alert: of a series that has none of the alert's labels with another
 * value. An aggregate knows fewer labels than its series, a join more.
 *
 * Alerts of a rule mostly have the same names, and so have its series: those are sorted once for each set of names, so that a
 * thousand alerts over a thousand series are no million comparisons.
 */
export class NewestSamples {
  readonly #series: readonly KnownSeries[];
  readonly #kinds = new Map<string, readonly Kind[]>();

  constructor(series: readonly KnownSeries[]) {
    this.#series = series;
  }

  /** @param wanted labels of the alert that its series may have. Undefined if no series may belong to it. */
  find(wanted: Labels): number | undefined {
    const names = Object.keys(wanted).sort();
    const key = JSON.stringify(names);
    const kinds = this.#kinds.get(key) ?? this.#sort(names);
    this.#kinds.set(key, kinds);
    let newest: number | undefined;
    for (const kind of kinds) {
      const at = kind.newestByKey.get(labelsKey(pick(wanted, kind.names)));
      if (at !== undefined && (newest === undefined || at > newest)) newest = at;
    }
    return newest;
  }

  #sort(wanted: readonly string[]): Kind[] {
    const kinds = new Map<string, { names: string[]; newestByKey: Map<string, number> }>();
    for (const { labels, newestAt } of this.#series) {
      const names = wanted.filter((name) => labels[name] !== undefined);
      const kindKey = JSON.stringify(names);
      const kind = kinds.get(kindKey) ?? { names, newestByKey: new Map<string, number>() };
      kinds.set(kindKey, kind);
      const key = labelsKey(pick(labels, names));
      kind.newestByKey.set(key, Math.max(newestAt, kind.newestByKey.get(key) ?? -Infinity));
    }
    return [...kinds.values()];
  }
}

function pick(labels: Labels, names: readonly string[]): Labels {
  return Object.fromEntries(names.map((name) => [name, labels[name]!]));
}
