import { formatDuration } from "../promql/durations.ts";
import { formatLabels } from "../promql/format-labels.ts";
import { formatValue } from "../promql/format-value.ts";
import { labelsKey, sortByLabels } from "../promql/labels-key.ts";
import { compileMatchers } from "../promql/match-labels.ts";
import { parseExpr, parseSeriesName } from "../promql/parse-expr.ts";
import { prepareQuery } from "../promql/prepare-query.ts";
import type { VectorSample } from "../promql/query.ts";
import type { Labels, SampledSeries, Selection } from "../promql/series.ts";
import { parseSeriesDescription, toSampledSeries } from "../promql/series-notation.ts";
import {
  type AlertInstance,
  alertSamples,
  prepareRules,
  type RecordedSample,
  toVector,
} from "./evaluate-rules.ts";
import type { Rule, RuleGroup, Texts } from "./rule.ts";
import type {
  AlertExpectation,
  ExprExpectation,
  RuleTest,
  RuleTestFile,
} from "./rule-test-file.ts";

/** What became of one test of a file. */
export interface TestVerdict {
  /** Empty for a test without a name. */
  readonly name: string;
  /** None if it passed. */
  readonly failures: readonly string[];
}

/**
 * Runs the tests of a file against rules, with the verdicts of `promtool test rules`. The no-data policy of rules is left out
 * of account: promtool knows none.
 */
export function testRules(file: RuleTestFile, groups: readonly RuleGroup[]): TestVerdict[] {
  const placeOf = ({ name }: RuleGroup) => Math.max(file.groupOrder.indexOf(name), 0);
  const ordered = groups.toSorted((a, b) => placeOf(a) - placeOf(b));
  return file.tests.map((test) => ({ name: test.name, failures: runTest(test, file, ordered) }));
}

/** A rule during a test, and what it left behind. */
interface TestedRule {
  readonly group: RuleGroup;
  readonly rule: Rule;
  instances: readonly AlertInstance[];
  /** By key, what it wrote last. */
  written: ReadonlyMap<string, Labels>;
}

function runTest(test: RuleTest, file: RuleTestFile, groups: readonly RuleGroup[]): string[] {
  const store = new TestStore();
  try {
    for (const { name, values } of test.series) {
      const { labels, values: sequence } = parseSeriesDescription(`${name} ${values}`);
      store.load(toSampledSeries(labels, sequence, test.intervalSeconds * 1000, 0));
    }
  } catch (error) {
    return [(error as Error).message];
  }
  const rules = groups.flatMap((group) =>
    group.rules.map((rule): TestedRule => ({
      group,
      rule: rule.kind === "alerting" ? { ...rule, noDataPolicy: "ok" } : rule,
      instances: [],
      written: new Map(),
    }))
  );
  const step = file.evaluationSeconds * 1000;
  const end = 1000 * Math.max(
    0,
    ...[...test.alertExpectations, ...test.exprExpectations].map(({ evalSeconds }) => evalSeconds),
  );
  const failures: string[] = [];
  for (let now = 0; now <= end; now += step) {
    store.showUntil(now);
    const errors = rules.flatMap((rule) => evaluateTestedRule(rule, now, step, test, store));
    if (errors.length > 0) return [...failures, ...errors];
    const due = test.alertExpectations.filter(({ evalSeconds }) =>
      now <= evalSeconds * 1000 && evalSeconds * 1000 < now + step
    );
    failures.push(...due.flatMap((expectation) => checkAlerts(expectation, rules)));
  }
  const isEqual = file.isFuzzy ? isNeighbour : (a: number, b: number) => a === b;
  return [
    ...failures,
    ...test.exprExpectations.flatMap((expectation) => checkExpr(expectation, step, store, isEqual)),
  ];
}

/** What went wrong, if anything did. */
function evaluateTestedRule(
  tested: TestedRule,
  now: number,
  step: number,
  { externalLabels, externalUrl }: RuleTest,
  store: TestStore,
): string[] {
  // However often a group wants to be evaluated, in a test it is at every step.
  const group = { ...tested.group, intervalSeconds: step / 1000 };
  const prepared = prepareRules([{ ...tested, group }], now, {
    ...{ externalLabels, externalUrl },
    subqueryStep: step,
  });
  const [outcome] = prepared.evaluate(store.select(prepared.selections));
  if (outcome!.error !== null) {
    return [`rule: ${tested.rule.name}, time: ${formatDuration(now)}, err: ${outcome!.error}`];
  }
  tested.instances = outcome!.instances;
  const time = now - (tested.group.queryOffsetSeconds ?? 0) * 1000;
  const samples = [...outcome!.samples, ...alertSamples(outcome!.instances, time)];
  const written = new Map(samples.map(({ labels }) => [labelsKey(labels), labels]));
  for (const sample of samples) store.write(sample, false);
  for (const [key, labels] of tested.written) {
    if (!written.has(key)) store.write({ labels, value: NaN, time }, true);
  }
  tested.written = written;
  return [];
}

function checkAlerts(
  { alertname, evalSeconds, alerts }: AlertExpectation,
  rules: readonly TestedRule[],
): string[] {
  const expected = alerts.map(({ labels, annotations }) =>
    showAlert({ ...labels, alertname }, annotations)
  );
  const got = rules
    .filter(({ rule }) => rule.kind === "alerting" && rule.name === alertname)
    .flatMap(({ instances }) => instances.filter(({ state }) => state === "firing"))
    .map(({ labels, annotations }) => showAlert(labels, annotations));
  if (expected.sort().join("\n") === got.sort().join("\n")) return [];
  const list = (lines: readonly string[]) =>
    lines.length === 0 ? " none" : lines.map((line) => `\n    ${line}`).join("");
  return [
    `alertname: ${alertname}, time: ${formatDuration(evalSeconds * 1000)}\n  expected:${
      list(expected)
    }\n  got:${list(got)}`,
  ];
}

const showTexts = (texts: Texts) =>
  `{${Object.keys(texts).sort().map((key) => `${key}=${JSON.stringify(texts[key])}`).join(", ")}}`;

const showAlert = (labels: Texts, annotations: Texts) =>
  `labels ${showTexts(labels)} annotations ${showTexts(annotations)}`;

function checkExpr(
  { expr, evalSeconds, samples }: ExprExpectation,
  subqueryStep: number,
  store: TestStore,
  isEqual: (a: number, b: number) => boolean,
): string[] {
  const prefix = `expr: ${JSON.stringify(expr)}, time: ${formatDuration(evalSeconds * 1000)}`;
  try {
    const query = prepareQuery(parseExpr(expr), expr, { start: evalSeconds * 1000, subqueryStep });
    const got = sortByLabels(toVector(query.evaluate(store.select(query.selections)).value));
    const expected = sortByLabels(
      samples.map(({ labels, value }) => ({ labels: parseSeriesName(labels), value })),
    );
    const isSame = got.length === expected.length &&
      got.every(({ labels, value }, index) =>
        labelsKey(labels) === labelsKey(expected[index]!.labels) &&
        isEqual(value, expected[index]!.value)
      );
    return isSame
      ? []
      : [`${prefix}\n  expected: ${showSamples(expected)}\n  got: ${showSamples(got)}`];
  } catch (error) {
    return [`${prefix}, err: ${(error as Error).message}`];
  }
}

const showSamples = (samples: readonly VectorSample[]) =>
  samples.length === 0
    ? "none"
    : samples.map(({ labels, value }) => `${formatLabels(labels)} ${formatValue(value)}`).join(
      ", ",
    );

/** Whether two floats are equal or next to each other. */
function isNeighbour(a: number, b: number): boolean {
  if (a === b) return true;
  if (!Number.isFinite(a) || !Number.isFinite(b) || a < 0 !== b < 0) return false;
  const [bitsA, bitsB] = new BigInt64Array(Float64Array.of(a, b).buffer);
  const distance = bitsA! - bitsB!;
  return distance === 1n || distance === -1n;
}

/** The series of a test: those given, as far as time has come, and those that rules wrote. */
class TestStore {
  readonly #given = new Map<string, SampledSeries>();
  readonly #written = new Map<
    string,
    { labels: Labels; times: number[]; values: number[]; stale: number[] }
  >();
  #until = 0;

  load(series: SampledSeries): void {
    this.#given.set(labelsKey(series.labels), {
      ...series,
      times: Float64Array.from(series.times),
      values: Float64Array.from(series.values),
    });
  }

  showUntil(time: number): void {
    this.#until = time;
  }

  write({ labels, value, time }: RecordedSample, isStale: boolean): void {
    const key = labelsKey(labels);
    // A sample that is there already stays, and a series that the test gives is not written over.
    if (this.#given.has(key)) return;
    const series = this.#written.get(key) ?? { labels, times: [], values: [], stale: [] };
    this.#written.set(key, series);
    if (time <= (series.times.at(-1) ?? -Infinity)) return;
    if (isStale) series.stale.push(series.times.length);
    series.times.push(time);
    series.values.push(value);
  }

  select(selections: readonly Selection[]): (readonly SampledSeries[])[] {
    return selections.map(({ matchers }) => {
      const matches = compileMatchers(matchers);
      const given = [...this.#given.values()].filter(({ labels }) => matches(labels)).map((
        series,
      ) => this.#cut(series));
      return [...given, ...[...this.#written.values()].filter(({ labels }) => matches(labels))];
    });
  }

  #cut(series: SampledSeries): SampledSeries {
    const times = series.times as Float64Array;
    const after = times.findIndex((time) => time > this.#until);
    if (after < 0) return series;
    return {
      labels: series.labels,
      times: times.subarray(0, after),
      values: (series.values as Float64Array).subarray(0, after),
      stale: series.stale?.filter((index) => index < after) ?? [],
    };
  }
}
