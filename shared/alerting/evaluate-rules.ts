import type { Expr } from "../promql/ast.ts";
import { formatValue } from "../promql/format-value.ts";
import { labelsKey } from "../promql/labels-key.ts";
import { compileMatchers } from "../promql/match-labels.ts";
import { parseExpr } from "../promql/parse-expr.ts";
import { prepareQuery } from "../promql/prepare-query.ts";
import type { PreparedQuery, QueryLimits, QueryValue, VectorSample } from "../promql/query.ts";
import { type Labels, METRIC_NAME, type SampledSeries, type Selection } from "../promql/series.ts";
import { expandTemplate, findQueries, parseRuleTemplate } from "./expand-template.ts";
import type { Template } from "./parse-template.ts";
import {
  type AlertingRule,
  labelsOf,
  type NoDataPolicy,
  type Rule,
  type RuleGroup,
  type Texts,
} from "./rule.ts";

/** Alerts that a rule may have at once, if its group says nothing lower. */
export const INSTANCE_LIMIT = 1000;
/** Series that a recording rule may write, if its group says nothing lower. */
export const RECORDED_SERIES_LIMIT = 1000;

/** The error of rules that are not begun because there is no time left. */
export const TIME_IS_UP = "the time of this evaluation is up";

/** One alert of a rule, in the form in which it is stored: JSON, times as ISO texts in UTC. */
export interface AlertInstance {
  /** Those of the series without its name, those of the rule, and `alertname`: they are its identity. */
  readonly labels: Labels;
  readonly annotations: Texts;
  readonly state: "pending" | "firing";
  /** As in Prometheus' JSON: `12.5`, `+Inf`, `NaN`. */
  readonly last_value: string;
  readonly active_at: string;
  readonly fired_at: string | null;
  /** Since when it fires only because of `keep_firing_for`. */
  readonly keep_firing_since: string | null;
  /**
   * Of the samples that may belong to it and were known when the expression last held, the newest; null if there were none.
   * A later evaluation may well find older ones that came late.
   */
  readonly last_sample_at: string | null;
  /** Whether it stands as it does because no sample says anything about it. */
  readonly no_data: boolean;
}

/** A rule, and what became of it so far. */
export interface RuleWithState {
  readonly group: Pick<RuleGroup, "name" | "limit" | "queryOffsetSeconds" | "labels">;
  readonly rule: Rule;
  readonly instances: readonly AlertInstance[];
}

/** A change of the state of an alert. */
export interface AlertTransition {
  readonly labels: Labels;
  readonly annotations: Texts;
  readonly from: "inactive" | "pending" | "firing";
  readonly to: "inactive" | "pending" | "firing";
  readonly at: Date;
  /** NaN where it cannot be known any more. */
  readonly value: number;
}

/** A sample that a recording rule writes. */
export interface RecordedSample {
  /** With `__name__`. */
  readonly labels: Labels;
  readonly value: number;
  /** Milliseconds since 1970. */
  readonly time: number;
}

/** What an evaluation made of one rule. After an error the alerts are as they were. */
export interface RuleOutcome {
  readonly health: "ok" | "err";
  readonly error: string | null;
  readonly instances: readonly AlertInstance[];
  readonly transitions: readonly AlertTransition[];
  readonly samples: readonly RecordedSample[];
}

export interface EvaluationOptions {
  readonly externalLabels?: Texts;
  /** Of the place where alerts are looked at, for links in texts. */
  readonly externalUrl?: string;
  readonly limits?: Partial<QueryLimits>;
  /** Milliseconds, of subqueries that name no step. */
  readonly subqueryStep?: number;
  /** Rules that are not begun when it is have the error {@link TIME_IS_UP}. */
  isTimeUp?(): boolean;
}

/** Rules that know what samples they need. */
export interface PreparedRules {
  readonly selections: readonly Selection[];
  /** @param series for each of {@link selections} its series. Returns an outcome for each rule, in order. */
  evaluate(series: readonly (readonly SampledSeries[])[]): RuleOutcome[];
}

/**
 * Evaluates rules as Prometheus does, one after another at one time; each sees what those before it recorded.
 *
 * Beyond Prometheus there is a policy for alerts of which no sample comes any more (see {@link AlertingRule.noDataPolicy}): of
 * an alert whose expression no longer holds, but of whose labels no selected series has a sample since it last held, nothing is
 * known. `keep` leaves it as it is and marks it, `alert` lets it fire, `ok` resolves it as Prometheus would.
 *
 * @param now milliseconds since 1970.
 */
export function prepareRules(
  rules: readonly RuleWithState[],
  now: number,
  options: EvaluationOptions = {},
): PreparedRules {
  const plan = new SelectionPlan();
  const prepared = rules.map((rule) => {
    try {
      return prepareRule(rule, now, plan, options);
    } catch (error) {
      return (error as Error).message;
    }
  });
  return {
    selections: plan.selections,
    evaluate(series) {
      const recorded: RecordedSample[] = [];
      const read = (planned: PlannedQuery) => plan.read(planned, series, recorded);
      return prepared.map((rule, index) => {
        const { instances } = rules[index]!;
        try {
          if (typeof rule === "string") throw new Error(rule);
          if (options.isTimeUp?.()) throw new Error(TIME_IS_UP);
          const outcome = rule(read);
          recorded.push(...outcome.samples);
          return { health: "ok", error: null, ...outcome };
        } catch (error) {
          const message = toStorable((error as Error).message);
          return { health: "err", error: message, instances, transitions: [], samples: [] };
        }
      });
    },
  };
}

/** A query and where its selections are among those of all rules. */
interface PlannedQuery {
  readonly query: PreparedQuery;
  readonly indices: readonly number[];
}

/** Selections of several queries; those of the same matchers and overlapping times are one. */
class SelectionPlan {
  readonly selections: Selection[] = [];
  readonly #indices = new Map<string, number[]>();

  add(query: PreparedQuery): PlannedQuery {
    return { query, indices: query.selections.map((selection) => this.#merge(selection)) };
  }

  #merge({ matchers, from, until }: Selection): number {
    const key = JSON.stringify(matchers);
    const alike = this.#indices.get(key) ?? [];
    const index = alike.find((one) => {
      const known = this.selections[one]!;
      return known.from <= until && from <= known.until;
    });
    if (index === undefined) {
      this.#indices.set(key, [...alike, this.selections.length]);
      return this.selections.push({ matchers, from, until }) - 1;
    }
    const known = this.selections[index]!;
    this.selections[index] = {
      matchers,
      from: Math.min(known.from, from),
      until: Math.max(known.until, until),
    };
    return index;
  }

  /** The series of a query, what was recorded meanwhile among them. */
  read(
    { query, indices }: PlannedQuery,
    series: readonly (readonly SampledSeries[])[],
    recorded: readonly RecordedSample[],
  ): (readonly SampledSeries[])[] {
    return indices.map((index, at) =>
      withRecorded(series[index]!, query.selections[at]!, recorded)
    );
  }
}

function withRecorded(
  series: readonly SampledSeries[],
  { matchers }: Selection,
  recorded: readonly RecordedSample[],
): readonly SampledSeries[] {
  if (recorded.length === 0) return series;
  const matches = compileMatchers(matchers);
  const fresh = recorded.filter(({ labels }) => matches(labels));
  if (fresh.length === 0) return series;
  const byKey = new Map(series.map((one) => [labelsKey(one.labels), one]));
  for (const { labels, value, time } of fresh) {
    const before = byKey.get(labelsKey(labels));
    const kept = Array.from(before?.times ?? []).filter((at) => at < time);
    byKey.set(labelsKey(labels), {
      labels,
      times: [...kept, time],
      values: [...Array.from(before?.values ?? []).slice(0, kept.length), value],
      ...(before?.stale && { stale: before.stale.filter((index) => index < kept.length) }),
    });
  }
  return [...byKey.values()];
}

type Reader = (planned: PlannedQuery) => (readonly SampledSeries[])[];
type Evaluation = Pick<RuleOutcome, "instances" | "transitions" | "samples">;

function prepareRule(
  { group, rule, instances }: RuleWithState,
  now: number,
  plan: SelectionPlan,
  options: EvaluationOptions,
): (read: Reader) => Evaluation {
  const expr = parseExpr(rule.expr);
  const time = now - (group.queryOffsetSeconds ?? 0) * 1000;
  const planQuery = (parsed: Expr, text: string, start: number) =>
    plan.add(prepareQuery(parsed, text, {
      start,
      ...(options.limits && { limits: options.limits }),
      ...(options.subqueryStep !== undefined && { subqueryStep: options.subqueryStep }),
      ...(options.isTimeUp && { isTimeUp: () => options.isTimeUp!() }),
    }));
  const planned = planQuery(expr, rule.expr, time);
  const labels = labelsOf(rule, group);

  if (rule.kind === "recording") {
    const limit = group.limit || RECORDED_SERIES_LIMIT;
    return (read) => {
      const samples = toVector(planned.query.evaluate(read(planned)).value);
      return {
        instances: [],
        transitions: [],
        samples: recordSamples(rule.name, labels, samples, time, limit),
      };
    };
  }

  const templates = [...Object.values(labels), ...Object.values(rule.annotations)].map(
    readTemplate,
  );
  const queries = new Map<string, PlannedQuery>();
  for (
    const text of new Set(
      templates.flatMap((template) => typeof template === "string" ? [] : findQueries(template)),
    )
  ) {
    try {
      queries.set(text, planQuery(parseExpr(text), text, time));
    } catch {
      // It is an error of the template, where it is asked.
    }
  }
  const made = findMadeLabels(expr);
  return (read) => {
    const series = read(planned);
    const result = toVector(planned.query.evaluate(series).value);
    const answers = new Map<string, readonly VectorSample[]>();
    const expand = createExpander(rule.name, options, (text) => {
      const asked = queries.get(text) ?? failQuery(text);
      const answer = answers.get(text) ?? toVector(asked.query.evaluate(read(asked)).value);
      answers.set(text, answer);
      return answer;
    });
    const active = activate(result, rule, labels, expand);
    const { selections } = planned.query;
    const own = new Set([...Object.keys(labels), ...made, "alertname"]);
    let known: readonly KnownSeries[] | undefined;
    const findNewest = (identity: Labels) => {
      known ??= listNewestFirst(now, selections, series);
      const wanted = Object.entries(identity).filter(([name]) => !own.has(name));
      return known.find((one) => mayBelong(one.labels, wanted))?.newestAt;
    };
    const before = instances.map((instance) => notAfter(instance, now));
    const evaluation = advance(before, active, rule, now, {
      findNewest,
      isAboutSeries: selections.length > 0,
    });
    const limit = Math.min(group.limit || INSTANCE_LIMIT, INSTANCE_LIMIT);
    return { ...makeRoom(evaluation, limit, now), samples: [] };
  };
}

/** A text that is no template is its own error, when it is expanded. */
function readTemplate(text: string): Template | string {
  try {
    return parseRuleTemplate(text);
  } catch {
    return text;
  }
}

function failQuery(text: string): never {
  parseExpr(text);
  throw new Error("only a query that the template spells out can be answered");
}

/** The samples of a result that a rule may have. @throws {Error} for another. */
export function toVector(value: QueryValue): readonly VectorSample[] {
  if (value.type === "vector") return value.samples;
  if (value.type === "scalar") return [{ labels: {}, value: value.value }];
  throw new Error("rule result is not a vector or scalar");
}

/** Labels with others set over them; an empty value takes a label away. */
function setLabels(labels: Labels, changes: Texts): Labels {
  return Object.fromEntries(
    Object.entries({ ...labels, ...changes })
      .filter(([, value]) => value !== "")
      .map(([name, value]) => [toStorable(name), toStorable(value)]),
  );
}

/** A text without what Postgres refuses, NUL and halves of pairs: one rule that makes them would keep all from being stored. */
const toStorable = (text: string) =>
  text.replaceAll("\0", "\uFFFD").replace(/\p{Surrogate}/gu, "\uFFFD");

function recordSamples(
  name: string,
  labels: Texts,
  samples: readonly VectorSample[],
  time: number,
  limit: number,
): RecordedSample[] {
  if (samples.length > limit) {
    throw new Error(`exceeded limit of ${limit} with ${samples.length} series`);
  }
  const seen = new Set<string>();
  return samples.map((sample) => {
    const recorded = setLabels(sample.labels, { ...labels, [METRIC_NAME]: name });
    const key = labelsKey(recorded);
    if (seen.has(key)) {
      throw new Error("vector contains metrics with the same labelset after applying rule labels");
    }
    seen.add(key);
    return { labels: recorded, value: sample.value, time };
  });
}

/** An alert that the expression holds for now. */
interface ActiveAlert {
  readonly labels: Labels;
  readonly annotations: Texts;
  readonly value: number;
}

type Expander = (text: string, sample: VectorSample) => string;

function createExpander(
  alert: string,
  { externalLabels = {}, externalUrl = "" }: EvaluationOptions,
  query: (text: string) => readonly VectorSample[],
): Expander {
  const parsed = new Map<string, Template | string>();
  return (text, { labels, value }) => {
    const template = parsed.get(text) ?? readTemplate(text);
    parsed.set(text, template);
    return expandTemplate(template, {
      name: `__alert_${alert}`,
      labels,
      value,
      externalLabels,
      externalUrl,
      query,
    });
  };
}

function activate(
  samples: readonly VectorSample[],
  rule: AlertingRule,
  ruleLabels: Texts,
  expand: Expander,
): Map<string, ActiveAlert> {
  const active = new Map<string, ActiveAlert>();
  for (const sample of samples) {
    const expandAll = (texts: Texts): Texts =>
      Object.fromEntries(
        Object.entries(texts).map(([name, text]) => [name, toStorable(expand(text, sample))]),
      );
    const { [METRIC_NAME]: _, ...series } = sample.labels;
    const labels = setLabels(series, { ...expandAll(ruleLabels), alertname: rule.name });
    const key = labelsKey(labels);
    if (active.has(key)) {
      throw new Error("vector contains metrics with the same labelset after applying alert labels");
    }
    active.set(key, { labels, annotations: expandAll(rule.annotations), value: sample.value });
  }
  return active;
}

type AlertEvaluation = Pick<Evaluation, "instances" | "transitions">;

/** What is known of the samples that alerts of a rule are about. */
interface SampleKnowledge {
  /** When the newest one was taken that may belong to an alert of these labels. */
  findNewest(labels: Labels): number | undefined;
  /** An expression without selectors always says all there is to say. */
  readonly isAboutSeries: boolean;
}

/** Alerts as they were, turned into what they are now. */
function advance(
  before: readonly AlertInstance[],
  active: ReadonlyMap<string, ActiveAlert>,
  rule: AlertingRule,
  now: number,
  { findNewest, isAboutSeries }: SampleKnowledge,
): AlertEvaluation {
  const known = new Map(before.map((instance) => [labelsKey(instance.labels), instance]));
  const instances: AlertInstance[] = [];
  const transitions: AlertTransition[] = [];
  const settle = (from: AlertTransition["from"], to: AlertInstance) => {
    instances.push(to);
    if (from !== to.state) transitions.push(transition(to, from, to.state, now));
  };

  const hasNews = ({ labels, last_sample_at }: AlertInstance) => {
    const newest = findNewest(labels) ?? -Infinity;
    return newest > (last_sample_at === null ? -Infinity : Date.parse(last_sample_at));
  };

  for (const [key, alert] of active) {
    const old = known.get(key);
    const next = stayActive(old, alert, findNewest(alert.labels), rule, now);
    settle(old?.state ?? "inactive", next);
  }
  for (const [key, old] of known) {
    if (active.has(key)) continue;
    const next = isAboutSeries && rule.noDataPolicy !== "ok" && !hasNews(old)
      ? stayUnknown(old, rule.noDataPolicy, now)
      : keepFiring(old, rule, now);
    if (next) settle(old.state, next);
    else transitions.push(transition(old, old.state, "inactive", now));
  }
  return { instances, transitions };
}

/** Alerts of which nothing is known stay for good; those unknown for longest give way to others before a rule is full. */
function makeRoom(
  { instances, transitions }: AlertEvaluation,
  limit: number,
  now: number,
): AlertEvaluation {
  const excess = instances.length - limit;
  if (excess <= 0) return { instances, transitions };
  const unknown = instances.filter(({ no_data }) => no_data)
    .toSorted((a, b) => (a.last_sample_at ?? "") < (b.last_sample_at ?? "") ? -1 : 1);
  if (unknown.length < excess) {
    throw new Error(`exceeded limit of ${limit} with ${instances.length - unknown.length} alerts`);
  }
  const gone = new Set(unknown.slice(0, excess));
  return {
    instances: instances.filter((instance) => !gone.has(instance)),
    transitions: [
      ...transitions,
      ...[...gone].map((instance) => transition(instance, instance.state, "inactive", now)),
    ],
  };
}

/** An alert as it was, if a clock that was ahead has been put right since: nothing of it is later than now. */
function notAfter(instance: AlertInstance, now: number): AlertInstance {
  const cut = <T extends string | null>(time: T) =>
    time !== null && Date.parse(time) > now ? toIso(now) : time;
  return {
    ...instance,
    active_at: cut(instance.active_at),
    fired_at: cut(instance.fired_at),
    keep_firing_since: cut(instance.keep_firing_since),
    last_sample_at: cut(instance.last_sample_at),
  };
}

const toIso = (milliseconds: number) => new Date(milliseconds).toISOString();

/** As the query API and {@link parseStoredValue} write it. */
function transition(
  { labels, annotations, last_value }: AlertInstance,
  from: AlertTransition["from"],
  to: AlertTransition["to"],
  now: number,
): AlertTransition {
  return { labels, annotations, from, to, at: new Date(now), value: parseStoredValue(last_value) };
}

/** The number of a stored value. */
export function parseStoredValue(text: string): number {
  return text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text);
}

function stayActive(
  old: AlertInstance | undefined,
  { labels, annotations, value }: ActiveAlert,
  newestAt: number | undefined,
  rule: AlertingRule,
  now: number,
): AlertInstance {
  const activeAt = old?.active_at ?? toIso(now);
  const isFiring = old?.state === "firing" || now - Date.parse(activeAt) >= rule.forSeconds * 1000;
  return {
    labels,
    annotations,
    state: isFiring ? "firing" : "pending",
    last_value: formatValue(value),
    active_at: activeAt,
    fired_at: isFiring ? old?.fired_at ?? toIso(now) : null,
    keep_firing_since: null,
    last_sample_at: newestAt === undefined ? null : toIso(newestAt),
    no_data: false,
  };
}

function stayUnknown(
  old: AlertInstance,
  policy: Exclude<NoDataPolicy, "ok">,
  now: number,
): AlertInstance {
  const fires = policy === "alert" || old.state === "firing";
  return {
    ...old,
    state: fires ? "firing" : "pending",
    fired_at: fires ? old.fired_at ?? toIso(now) : null,
    no_data: true,
  };
}

/** Undefined if the alert is over. */
function keepFiring(
  old: AlertInstance,
  rule: AlertingRule,
  now: number,
): AlertInstance | undefined {
  if (old.state === "pending") return undefined;
  const since = old.keep_firing_since ?? toIso(now);
  if (now - Date.parse(since) >= rule.keepFiringForSeconds * 1000) return undefined;
  return { ...old, keep_firing_since: since, no_data: false };
}

interface KnownSeries {
  readonly labels: Labels;
  readonly newestAt: number;
}

/** Series that have a sample within their selection, by the newest one. With an `offset` that is when it came into sight. */
function listNewestFirst(
  now: number,
  selections: readonly Selection[],
  series: readonly (readonly SampledSeries[])[],
): KnownSeries[] {
  return selections.flatMap(({ from, until }, index) =>
    series[index]!.flatMap(({ labels, times, stale }) => {
      let at = times.length - 1;
      while (at >= 0 && (times[at]! > until || stale?.includes(at))) at -= 1;
      return at < 0 || times[at]! < from ? [] : [{ labels, newestAt: times[at]! + now - until }];
    })
  ).toSorted((a, b) => b.newestAt - a.newestAt);
}

/**
 * Whether a series may belong to an alert. It does unless it has a label of the alert with another value: an aggregate knows
 * fewer labels than its series, a join more.
 */
function mayBelong(labels: Labels, wanted: readonly (readonly [string, string])[]): boolean {
  return wanted.every(([name, value]) => labels[name] === undefined || labels[name] === value);
}

/** Labels that an expression makes up, so that they say nothing about its series. */
function findMadeLabels(expr: Expr): Set<string> {
  const made = new Set<string>();
  const visit = (node: Expr): void => {
    switch (node.kind) {
      case "call": {
        const target = node.args[1];
        if (
          (node.func === "label_replace" || node.func === "label_join") && target?.kind === "string"
        ) {
          made.add(target.value);
        }
        node.args.forEach(visit);
        break;
      }
      case "aggregation":
        if (node.op === "count_values" && node.param?.kind === "string") made.add(node.param.value);
        visit(node.expr);
        break;
      case "binary":
        visit(node.left);
        visit(node.right);
        break;
      case "paren":
      case "unary":
      case "subquery":
        visit(node.expr);
        break;
      default:
        break;
    }
  };
  visit(expr);
  return made;
}

/** The series `ALERTS` and `ALERTS_FOR_STATE` that Prometheus writes of the alerts of a rule. */
export function alertSamples(instances: readonly AlertInstance[], time: number): RecordedSample[] {
  return instances.flatMap(({ labels, state, active_at }) => [
    { labels: { ...labels, [METRIC_NAME]: "ALERTS", alertstate: state }, value: 1, time },
    {
      labels: { ...labels, [METRIC_NAME]: "ALERTS_FOR_STATE" },
      value: Math.floor(Date.parse(active_at) / 1000),
      time,
    },
  ]);
}
