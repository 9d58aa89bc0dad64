import { z } from "zod";
import type { AlertInstance } from "../alerting/evaluate-rules.ts";
import { NO_DATA_POLICIES, type Rule, RULE_MODES, SEVERITIES } from "../alerting/rule.ts";
import type { HealthStatus } from "../health/judge-health.ts";
import type { Labels } from "../promql/series.ts";
import { RecordedCollection } from "./collection.ts";

const Texts = z.record(z.string(), z.string());

/** An {@link AlertInstance}, which is spelled the same. */
export const AlertInstanceRow = z.object({
  labels: Texts,
  annotations: Texts,
  state: z.enum(["pending", "firing"]),
  last_value: z.string(),
  active_at: z.iso.datetime(),
  fired_at: z.iso.datetime().nullable(),
  keep_firing_since: z.iso.datetime().nullable(),
  last_sample_at: z.iso.datetime().nullable(),
  no_data: z.boolean(),
  recent: z.object({
    evaluated_at: z.iso.datetime(),
    held: z.string().regex(/^[01-]+$/),
  }).optional(),
});

/** What `monitor.save_rules` answers: how many rules were what. */
export const SavedRules = z.object({
  inserted: z.int().nonnegative(),
  updated: z.int().nonnegative(),
  unchanged: z.int().nonnegative(),
  deleted: z.int().nonnegative(),
  /** Of the saved groups, but not among what was saved: they stay. */
  unlisted: z.int().nonnegative(),
});

export type SavedRules = z.infer<typeof SavedRules>;

/** What a rule has come to, part of {@link AlertingRuleRow} and {@link RecordingRuleRow}. */
export const RuleStateRow = z.object({
  revision: z.int(),
  // What nobody can read any more costs its rule the evaluation, not all rules theirs.
  instances: z.array(AlertInstanceRow).nullable().catch(null),
  health: z.enum(["unknown", "ok", "err"]),
  last_error: z.string().nullable(),
  evaluated_at: z.number().nullable(),
  evaluation_seconds: z.number().nullable(),
});

const RuleRow = z.object({
  rule_id: z.int(),
  name: z.string(),
  expr: z.string(),
  for_seconds: z.number(),
  keep_firing_for_seconds: z.number(),
  hold_count: z.int().nullable(),
  hold_window: z.int().nullable(),
  clear_expr: z.string().nullable(),
  labels: Texts,
  annotations: Texts,
  no_data_policy: z.enum(NO_DATA_POLICIES),
  runbook_url: z.string().nullable(),
  mode: z.enum(RULE_MODES),
  enabled: z.boolean(),
  state: RuleStateRow,
});

export const AlertingRuleRow = RuleRow.extend({
  kind: z.literal("alerting"),
  severity: z.enum(SEVERITIES),
});

export const RecordingRuleRow = RuleRow.extend({
  kind: z.literal("recording"),
  severity: z.null(),
});

/** What `monitor.describe_rule` answers. */
const AnyRuleRow = z.discriminatedUnion("kind", [AlertingRuleRow, RecordingRuleRow]);

/** One group of the answer of `monitor.read_rules`. */
export const RuleGroupRow = z.object({
  name: z.string(),
  interval_seconds: z.int().positive(),
  rules: z.array(AnyRuleRow),
});

/** What `monitor.plan_evaluation` says of a rule beside {@link AlertingRuleRow} or {@link RecordingRuleRow}. */
export const RulePlaceRow = RuleGroupRow.pick({ interval_seconds: true }).extend({
  group_name: z.string(),
  refusal: z.string().nullable(),
});

/** What `monitor.plan_evaluation` answers. */
export const PlannedEvaluation = z.object({ rules: z.array(AnyRuleRow.and(RulePlaceRow)) });

/** What `monitor.advance_alerts` answers: how many alerts, and messages about them. */
export const AdvancedAlerts = z.object({
  opened: z.int().nonnegative(),
  /** Back within 10 minutes. */
  reopened: z.int().nonnegative(),
  /** Over, but they flap: they count as firing for a while yet. */
  held: z.int().nonnegative(),
  resolved: z.int().nonnegative(),
  told: z.int().nonnegative(),
  incidents: z.object({
    /** By the label of an alert. */
    opened: z.int().nonnegative(),
    escalated: z.int().nonnegative(),
    /** That could not be opened or moved on, and why the first of them. */
    failed: z.int().nonnegative(),
    failures: z.array(z.unknown()),
  }),
});

/** What `monitor.record_evaluation` answers. */
export const RecordedEvaluation = z.object({
  recorded: z.int().nonnegative(),
  failed: z.int().nonnegative(),
  stale: z.int().nonnegative(),
  errors: z.array(z.object({ group: z.string(), rule: z.string(), error: z.string() })),
  samples: RecordedCollection,
  alerts: AdvancedAlerts,
});

/** What the evaluation of a rule remembers. Times are ms since 1970 UTC. */
export interface StoredRuleState {
  /** What is evaluated on this is refused once there is another. */
  readonly revision: number;
  /** Null if they cannot be read. */
  readonly instances: readonly AlertInstance[] | null;
  readonly health: "unknown" | "ok" | "err";
  /** Why the last evaluation failed. */
  readonly lastError: string | null;
  /** Null before the first evaluation. */
  readonly evaluatedAt: number | null;
  readonly evaluationSeconds: number | null;
}

/** A rule as it is stored, with its state. */
export interface StoredRule {
  readonly ruleId: number;
  readonly rule: Rule;
  readonly isEnabled: boolean;
  readonly state: StoredRuleState;
}

/** A group as it is stored, its rules in order. */
export interface StoredRuleGroup {
  readonly name: string;
  readonly intervalSeconds: number;
  readonly rules: readonly StoredRule[];
}

/** A rule that is due. */
export interface PlannedRule extends StoredRule {
  readonly groupName: string;
  readonly intervalSeconds: number;
  /** Why it must not be evaluated; null if it may. */
  readonly refusal: string | null;
}

/** What became of one rule, as `monitor.record_evaluation` wants it. Part of its argument `p_results`. */
export interface RuleResult {
  readonly rule_id: number;
  /** Of the state that it was evaluated on. */
  readonly revision: number;
  /** Null if it could be evaluated; the state stays as it is if not. */
  readonly error: string | null;
  readonly evaluation_seconds: number;
  readonly instances?: readonly AlertInstance[];
  /** Of a recording rule, without its name; all finite. */
  readonly samples?: readonly { readonly labels: Labels; readonly value: number }[];
}

/** How a part of the monitor is; part of the argument `p_components` of `monitor.record_evaluation`. */
export interface JudgedComponent {
  readonly component: string;
  readonly status: HealthStatus;
  readonly reason: string;
}

/**
 * How many results were recorded, the failed ones among them, and left out because the state had moved on.
 * `errors` are of the first failed ones only.
 */
export type EvaluationRecord = z.infer<typeof RecordedEvaluation>;

/** Parses the answer of `monitor.read_rules`. @throws {z.ZodError} */
export function parseRuleGroups(answer: unknown): StoredRuleGroup[] {
  return z.array(RuleGroupRow).parse(answer).map(({ name, interval_seconds, rules }) => ({
    name,
    intervalSeconds: interval_seconds,
    rules: rules.map(toStoredRule),
  }));
}

/** Parses the answer of `monitor.plan_evaluation`. @throws {z.ZodError} */
export function parseEvaluationPlan(answer: unknown): PlannedRule[] {
  return PlannedEvaluation.parse(answer).rules.map((row) => ({
    ...toStoredRule(row),
    groupName: row.group_name,
    intervalSeconds: row.interval_seconds,
    refusal: row.refusal,
  }));
}

/** Parses the answer of `monitor.record_evaluation`. @throws {z.ZodError} */
export function parseEvaluationRecord(answer: unknown): EvaluationRecord {
  return RecordedEvaluation.parse(answer);
}

function toStoredRule(row: z.infer<typeof AnyRuleRow>): StoredRule {
  const { revision, instances, health, last_error, evaluated_at, evaluation_seconds } = row.state;
  return {
    ruleId: row.rule_id,
    rule: toRule(row),
    isEnabled: row.enabled,
    state: {
      revision,
      instances,
      health,
      lastError: last_error,
      evaluatedAt: evaluated_at,
      evaluationSeconds: evaluation_seconds,
    },
  };
}

function toRule(row: z.infer<typeof AnyRuleRow>): Rule {
  const { name, expr, labels, hold_count, hold_window } = row;
  if (row.kind === "recording") return { kind: row.kind, name, expr, labels };
  return {
    kind: row.kind,
    name,
    expr,
    forSeconds: row.for_seconds,
    keepFiringForSeconds: row.keep_firing_for_seconds,
    hold: hold_count === null || hold_window === null
      ? null
      : { count: hold_count, window: hold_window },
    clearExpr: row.clear_expr,
    labels,
    annotations: row.annotations,
    noDataPolicy: row.no_data_policy,
    severity: row.severity,
    runbookUrl: row.runbook_url,
    mode: row.mode,
  };
}
