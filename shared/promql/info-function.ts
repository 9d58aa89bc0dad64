import type { Call } from "./ast.ts";
import type { Bounds, Column, Grid } from "./columns.ts";
import { formatLabelSet } from "./format-labels.ts";
import { labelsKey } from "./labels-key.ts";
import { compileMatcher } from "./match-labels.ts";
import { PromqlError } from "./promql-error.ts";
import { type Labels, type Matcher, METRIC_NAME } from "./series.ts";

/** What a series has in common with the info metric that describes it. */
const IDENTIFYING_LABELS = ["instance", "job"] as const;

/** A series of an info metric. */
export interface InfoSeries {
  readonly labels: Labels;
  /** Time of its newest sample that is still current at a step, in milliseconds. */
  newestAt(step: number): number | undefined;
}

/** What info() looks for: `target_info`, or what its second argument names; names that are only ruled out leave all that end in `_info`. */
export function infoMatchers({ args }: Call): readonly Matcher[] {
  const selector = args[1];
  const asked = selector?.kind === "vector-selector" ? selector.matchers : [];
  const names = asked.filter(({ name }) => name === METRIC_NAME);
  if (names.length === 0) return [{ name: METRIC_NAME, op: "=", value: "target_info" }, ...asked];
  const isNamed = names.some(({ op }) => op === "=" || op === "=~");
  return isNamed ? asked : [{ name: METRIC_NAME, op: "=~", value: ".+_info" }, ...asked];
}

function identify(labels: Labels): string {
  return IDENTIFYING_LABELS.map((name) => `${(labels[name] ?? "").length}:${labels[name] ?? ""}`)
    .join();
}

/**
 * `info()`: adds labels of info metrics to the series of the same instance and job. Series that matchers on labels leave
 * without an info metric are left out, unless the empty string satisfies them.
 *
 * @param matchers see {@link infoMatchers}
 * @throws {PromqlError} if two info series describe the same, or say different things.
 */
export function joinInfo(
  base: readonly Column[],
  infos: readonly InfoSeries[],
  matchers: readonly Matcher[],
  grid: Grid,
  { make, spend }: Bounds,
): Column[] {
  const nameTests = matchers.filter(({ name }) => name === METRIC_NAME).map(compileMatcher);
  const dataMatchers = matchers.filter(({ name }) => name !== METRIC_NAME);
  const dataLabels = new Set(dataMatchers.map(({ name }) => name));
  const mayBeMissing = dataMatchers.every((matcher) => compileMatcher(matcher)(""));

  const byIdentity = new Map<string, InfoSeries[]>();
  for (const info of infos) {
    const identity = identify(info.labels);
    const others = byIdentity.get(identity);
    if (others === undefined) byIdentity.set(identity, [info]);
    else others.push(info);
  }

  const results = new Map<string, Column>();
  const resultOf = (labels: Labels, dropsName: boolean) => {
    const key = labelsKey(labels);
    let result = results.get(key);
    if (result === undefined) {
      results.set(key, result = make(labels, dropsName, grid.count));
    }
    return result;
  };
  const keep = (column: Column, result: Column, step: number) => {
    if (result.present[step] === 1) {
      throw new PromqlError("execution", "vector cannot contain metrics with the same labelset");
    }
    result.present[step] = 1;
    result.values[step] = column.values[step]!;
  };

  for (const column of base) {
    const name = column.labels[METRIC_NAME] ?? "";
    // Info metrics themselves stay as they are.
    const isInfo = nameTests.every((test) => test(name));
    const hasIdentity = IDENTIFYING_LABELS.some((label) => column.labels[label] !== undefined);
    const candidates = hasIdentity && !isInfo ? byIdentity.get(identify(column.labels)) ?? [] : [];
    let known: { readonly newest: readonly InfoSeries[]; readonly result: Column } | undefined;
    for (let step = 0; step < grid.count; step += 1) {
      if (column.present[step] === 0) continue;
      spend(1 + candidates.length);
      const newest = newestByName(candidates, step);
      if (newest.length === 0 && !mayBeMissing && !isInfo) continue;
      // From step to step they are mostly the same.
      if (known === undefined || !areSame(known.newest, newest)) {
        const labels = { ...column.labels, ...dataOf(newest, column.labels, dataLabels) };
        known = { newest, result: resultOf(labels, column.dropsName) };
      }
      keep(column, known.result, step);
    }
  }
  return [...results.values()];
}

function areSame(a: readonly InfoSeries[], b: readonly InfoSeries[]): boolean {
  return a.length === b.length && a.every((info, i) => info === b[i]);
}

/** Of each info metric the series with the newest sample. */
function newestByName(candidates: readonly InfoSeries[], step: number): InfoSeries[] {
  const newest = new Map<string, { info: InfoSeries; time: number }>();
  for (const info of candidates) {
    const time = info.newestAt(step);
    if (time === undefined) continue;
    const name = info.labels[METRIC_NAME] ?? "";
    const before = newest.get(name);
    if (before?.time === time) {
      throw new PromqlError(
        "execution",
        `found duplicate series for info metric: existing ${
          formatLabelSet(before.info.labels)
        } @ ${time}, ` +
          `new ${formatLabelSet(info.labels)} @ ${time}`,
      );
    }
    if (before === undefined || before.time < time) newest.set(name, { info, time });
  }
  return [...newest.values()].map(({ info }) => info);
}

/** The labels that info series add; all of them if none are asked for. */
function dataOf(
  infos: readonly InfoSeries[],
  own: Labels,
  asked: ReadonlySet<string>,
): Labels {
  const added = new Map<string, string>();
  for (const { labels } of infos) {
    for (const [name, value] of Object.entries(labels)) {
      if (name === METRIC_NAME || (asked.size > 0 && !asked.has(name))) continue;
      if ((added.get(name) ?? value) !== value) {
        throw new PromqlError("execution", `conflicting label: ${name}`);
      }
      if (!Object.hasOwn(own, name)) added.set(name, value);
    }
  }
  return Object.fromEntries(added);
}
