import { expect } from "vitest";
import {
  type AlertInstance,
  type EvaluationOptions,
  prepareRules,
  type RuleOutcome,
  type RuleWithState,
} from "../../shared/alerting/evaluate-rules.ts";
import type { AlertingRule } from "../../shared/alerting/rule.ts";
import { AlertInstanceRow } from "../../shared/contract/rules.ts";
import { matchesAll } from "../../shared/promql/match-labels.ts";
import type { SampledSeries } from "../../shared/promql/series.ts";
import { parseSeriesDescription, toSampledSeries } from "../../shared/promql/series-notation.ts";

export const MINUTE = 60_000;
/** Midnight of some day: what is minute 0 in these tests. */
export const START = Date.UTC(2026, 2, 1);
export const at = (minute: number) => new Date(START + minute * MINUTE);
export const iso = (minute: number) => at(minute).toISOString();

export const alerting = (changes: Partial<AlertingRule> = {}): AlertingRule => ({
  ...{ kind: "alerting", name: "High", expr: "x > 5", forSeconds: 0, keepFiringForSeconds: 0 },
  ...{
    hold: null,
    clearExpr: null,
    labels: {},
    annotations: {},
    noDataPolicy: "ok",
    severity: "warning",
    runbookUrl: null,
    mode: "live",
  },
  ...changes,
});

/** Series of lines like `x{a="b"} 1 2 3`, a value a minute. */
export const seriesOf = (...lines: string[]): SampledSeries[] =>
  lines.map((line) => {
    const { labels, values } = parseSeriesDescription(line);
    return toSampledSeries(labels, values, MINUTE, START);
  });

/** Only what is known at the time: samples come one after another. */
const until = (series: SampledSeries, time: number): SampledSeries => {
  const count = Array.from(series.times).filter((one) => one <= time).length;
  return {
    ...series,
    times: Array.from(series.times).slice(0, count),
    values: Array.from(series.values).slice(0, count),
    stale: (series.stale ?? []).filter((index) => index < count),
  };
};

export function evaluateAll(
  rules: readonly RuleWithState[],
  series: readonly SampledSeries[],
  minute: number,
  options: EvaluationOptions = {},
): RuleOutcome[] {
  const now = START + minute * MINUTE;
  const prepared = prepareRules(rules, now, options);
  return prepared.evaluate(
    prepared.selections.map(({ matchers }) =>
      series.filter(({ labels }) => matchesAll(matchers, labels)).map((one) => until(one, now))
    ),
  );
}

export const evaluate = (
  rule: AlertingRule,
  series: readonly SampledSeries[],
  minute: number,
  instances: readonly AlertInstance[] = [],
  options: EvaluationOptions = {},
) => evaluateAll([{ group: { name: "g" }, rule, instances }], series, minute, options)[0]!;

/** Alerts as they come back from the database. */
export const fromDatabase = (instances: readonly AlertInstance[]): AlertInstance[] =>
  AlertInstanceRow.array().parse(JSON.parse(JSON.stringify(instances)));

/** A rule over the minutes: of each the states of its alerts, and what changed. */
export function run(rule: AlertingRule, series: readonly SampledSeries[], minutes: number) {
  let instances: readonly AlertInstance[] = [];
  const states: string[] = [];
  const changes: string[] = [];
  for (let minute = 0; minute < minutes; minute += 1) {
    const outcome = evaluate(rule, series, minute, instances);
    expect(outcome.error).toBeNull();
    instances = fromDatabase(outcome.instances);
    states.push(
      instances.map(({ state, no_data }) => state[0]! + (no_data ? "?" : "")).join("") || "-",
    );
    changes.push(...outcome.transitions.map(({ from, to }) => `${minute}: ${from} to ${to}`));
  }
  return { states: states.join(" "), changes, instances };
}
