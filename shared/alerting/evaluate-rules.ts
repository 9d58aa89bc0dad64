import type { Expr } from "../promql/ast.ts";
import { formatValue } from "../promql/format-value.ts";
import { labelsKey } from "../promql/labels-key.ts";
import { compileMatchers } from "../promql/match-labels.ts";
import { parseExpr } from "../promql/parse-expr.ts";
import { prepareQuery } from "../promql/prepare-query.ts";
import type { PreparedQuery, QueryLimits, QueryValue, VectorSample } from "../promql/query.ts";
import {
  labelOf,
  type Labels,
  METRIC_NAME,
  type SampledSeries,
  type Selection,
} from "../promql/series.ts";
import { expandTemplate, findQueries, parseRuleTemplate } from "./expand-template.ts";
import { parseClearExpr } from "./parse-clear-expr.ts";
import { type KnownSeries, NewestSamples } from "./newest-sample.ts";
import type { Template } from "./parse-template.ts";
import {
  countHeld,
  type EvaluationTime,
  type RecentEvaluations,
  rememberEvaluation,
} from "./recent-evaluations.ts";
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

/** Seconds between evaluations of a group that says nothing of it. */
const DEFAULT_INTERVAL_SECONDS = 60;

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
  /** Since when it fires only because of `keep_firing_for`, though it would be over. */
  readonly keep_firing_since: string | null;
  /**
   * Of the samples that may belong to it and were known when the expression last held, the newest; null if there were none.
   * A later evaluation may well find older ones that came late.
   */
  readonly last_sample_at: string | null;
  /** Whether it stands as it does because no sample says anything about it. */
  readonly no_data: boolean;
  /** Of a rule with {@link AlertingRule.hold}; none of an alert that is older than that. */
  readonly recent?: RecentEvaluations | undefined;
}

/** A rule, and what became of it so far. */
export interface RuleWithState {
  readonly group: Pick<
    RuleGroup,
    "name" | "intervalSeconds" | "limit" | "queryOffsetSeconds" | "labels"
  >;
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
 * An alert of a rule with {@link AlertingRule.hold} fires when it held in enough of its last evaluations, and is pending while it
 * held in any of them. Those in which nothing was known of it do not count, unless with `ok`, for which it did not hold then.
 * One that fires ends, if the rule has a {@link AlertingRule.clearExpr}, only when that has a sample of its labels: neither
 * between the two thresholds nor without data, whatever the policy.
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

  const { clearExpr } = rule;
  const clear = clearExpr === null
    ? undefined
    : inClearExpr(() => planQuery(parseClearExpr(clearExpr), clearExpr, time));
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
    // Also where no alert fires: what is wrong with it is not to come out only then.
    const cleared = clear &&
      inClearExpr(() => toVector(clear.query.evaluate(read(clear)).value));
    const { selections } = planned.query;
    const own = new Set([...Object.keys(labels), ...made, "alertname"]);
    let samples: NewestSamples | undefined;
    const findNewest = (identity: Labels) => {
      samples ??= new NewestSamples(listKnown(now, selections, series));
      return samples.find(
        Object.fromEntries(Object.entries(identity).filter(([name]) => !own.has(name))),
      );
    };
    const before = instances.map((instance) => notAfter(instance, now));
    const interval = (group.intervalSeconds || DEFAULT_INTERVAL_SECONDS) * 1000;
    const evaluation = advance(before, active, rule, { at: now, interval }, {
      findNewest,
      isAboutSeries: selections.length > 0,
      isCleared: cleared && matchCleared(cleared, labels, expand),
    });
    const limit = Math.min(group.limit || INSTANCE_LIMIT, INSTANCE_LIMIT);
    return { ...makeRoom(evaluation, limit, now), samples: [] };
  };
}

/** Says of an error that it is of the clear expression. */
function inClearExpr<T>(work: () => T): T {
  try {
    return work();
  } catch (cause) {
    throw new Error(`clear_expr: ${(cause as Error).message}`, { cause });
  }
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
  /[\0\uD800-\uDFFF]/.test(text)
    ? text.replaceAll("\0", "\uFFFD").replace(/\p{Surrogate}/gu, "\uFFFD")
    : text;

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

/**
 * Tells of which alerts these are the series. Labels of the rule do not count, as they may tell a value, unless they take
 * the place of one of the series: that told alerts apart.
 */
function matchCleared(
  samples: readonly VectorSample[],
  ruleLabels: Texts,
  expand: Expander,
): (alert: Labels) => boolean {
  const own = Object.keys(ruleLabels);
  const keyOf = (labels: Labels, replaced: readonly string[]) => {
    const dropped = new Set([...own.filter((name) => !replaced.includes(name)), "alertname"]);
    const kept = Object.entries(labels).filter(([name]) => !dropped.has(name));
    return JSON.stringify([replaced, labelsKey(Object.fromEntries(kept))]);
  };
  const keys = new Set<string>();
  const variants = new Map<string, readonly string[]>();
  for (const sample of samples) {
    const replaced = own.filter((name) => labelOf(sample.labels, name) !== "");
    const { [METRIC_NAME]: _, ...series } = sample.labels;
    const texts = replaced.map((name) => [name, expand(ruleLabels[name]!, sample)]);
    keys.add(keyOf(setLabels(series, Object.fromEntries(texts)), replaced));
    variants.set(replaced.join(), replaced);
  }
  return (alert) => [...variants.values()].some((replaced) => keys.has(keyOf(alert, replaced)));
}

type AlertEvaluation = Pick<Evaluation, "instances" | "transitions">;

/** What is known of the samples that alerts of a rule are about. */
interface SampleKnowledge {
  /** When the newest one was taken that may belong to an alert of these labels. */
  findNewest(labels: Labels): number | undefined;
  /** An expression without selectors always says all there is to say. */
  readonly isAboutSeries: boolean;
  /** Whether an alert of these labels may end; none if it may as soon as it does not hold. */
  readonly isCleared: ((labels: Labels) => boolean) | undefined;
}

/** Alerts as they were, turned into what they are now. */
function advance(
  before: readonly AlertInstance[],
  active: ReadonlyMap<string, ActiveAlert>,
  rule: AlertingRule,
  time: EvaluationTime,
  { findNewest, isAboutSeries, isCleared }: SampleKnowledge,
): AlertEvaluation {
  const now = time.at;
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
    const next = stayActive(old, alert, findNewest(alert.labels), rule, time);
    settle(old?.state ?? "inactive", next);
  }
  for (const [key, old] of known) {
    if (active.has(key)) continue;
    const isUnknown = isAboutSeries && !hasNews(old);
    const next = stayInactive(old, rule, time, { isUnknown, isCleared });
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
    ...(instance.recent &&
      { recent: { ...instance.recent, evaluated_at: cut(instance.recent.evaluated_at) } }),
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
  time: EvaluationTime,
): AlertInstance {
  const now = time.at;
  const activeAt = old?.active_at ?? toIso(now);
  const recent = rule.hold && rememberEvaluation(old?.recent, true, rule.hold, time);
  const hasHeld = rule.hold && recent
    ? countHeld(recent) >= rule.hold.count
    : now - Date.parse(activeAt) >= rule.forSeconds * 1000;
  const isFiring = old?.state === "firing" || hasHeld;
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
    ...(recent && { recent }),
  };
}

/** An alert whose expression does not hold. Undefined if it is over. */
function stayInactive(
  old: AlertInstance,
  rule: AlertingRule,
  time: EvaluationTime,
  { isUnknown, isCleared }: { isUnknown: boolean } & Pick<SampleKnowledge, "isCleared">,
): AlertInstance | undefined {
  const now = time.at;
  const policy = isUnknown ? rule.noDataPolicy : "ok";
  const alert: AlertInstance = rule.hold && policy === "ok"
    ? { ...old, recent: rememberEvaluation(old.recent, false, rule.hold, time) }
    : old;
  if (old.state === "firing" && isCleared) {
    return isCleared(old.labels)
      ? keepFiring(alert, rule, now)
      : { ...alert, keep_firing_since: null, no_data: isUnknown };
  }
  if (policy !== "ok") return stayUnknown(old, policy, now);
  if (old.state === "firing") return keepFiring(alert, rule, now);
  const hasHeldLately = rule.hold && alert.recent && countHeld(alert.recent) > 0;
  return hasHeldLately ? { ...alert, no_data: false } : undefined;
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

/** An alert that would be over. Undefined if it is. */
function keepFiring(
  old: AlertInstance,
  rule: AlertingRule,
  now: number,
): AlertInstance | undefined {
  const since = old.keep_firing_since ?? toIso(now);
  if (now - Date.parse(since) >= rule.keepFiringForSeconds * 1000) return undefined;
  return { ...old, keep_firing_since: since, no_data: false };
}

/** Series that have a sample within their selection. With an `offset` that is when it came into sight. */
function listKnown(
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
  );
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
