export const SEVERITIES = ["info", "warning", "critical"] as const;
export type Severity = typeof SEVERITIES[number];

/** What becomes of an alert of which no sample comes any more: it stays as it is, fires, or counts as resolved. */
export const NO_DATA_POLICIES = ["keep", "alert", "ok"] as const;
export type NoDataPolicy = typeof NO_DATA_POLICIES[number];

/** Whether an alert is told (live) or only recorded (shadow). */
export const RULE_MODES = ["shadow", "live"] as const;
export type RuleMode = typeof RULE_MODES[number];

/** Most evaluations of which a rule may count those that held. */
export const HOLD_WINDOW_LIMIT = 60;

/** How often a condition has to hold for its alert to fire: in `count` of the last `window` evaluations, 1 ≤ count ≤ window. */
export interface Hold {
  readonly count: number;
  /** At most {@link HOLD_WINDOW_LIMIT}. */
  readonly window: number;
}

/** Label of a rule whose alerts open an incident of that severity when they fire; never a template. */
export const INCIDENT_LABEL = "pgvigil_incident";
/** The first is the worst. */
export const INCIDENT_SEVERITIES = ["P0", "P1", "P2", "P3"] as const;

/** Texts by name; unlike the labels of a series they may be empty. */
export type Texts = Readonly<Record<string, string>>;

export interface AlertingRule {
  readonly kind: "alerting";
  readonly name: string;
  readonly expr: string;
  readonly forSeconds: number;
  readonly keepFiringForSeconds: number;
  /** Instead of `forSeconds`, which is 0 then. */
  readonly hold: Hold | null;
  /** What has to hold for an alert that fires to end; null if it is enough that `expr` no longer does. */
  readonly clearExpr: string | null;
  /** Templates. */
  readonly labels: Texts;
  /** Templates. */
  readonly annotations: Texts;
  readonly noDataPolicy: NoDataPolicy;
  readonly severity: Severity;
  readonly runbookUrl: string | null;
  readonly mode: RuleMode;
}

export interface RecordingRule {
  readonly kind: "recording";
  /** Of the metric. */
  readonly name: string;
  readonly expr: string;
  readonly labels: Texts;
}

export type Rule = AlertingRule | RecordingRule;

export interface RuleGroup {
  readonly name: string;
  readonly intervalSeconds?: number;
  /** Alerts or series that a rule may have; 0 is any number. */
  readonly limit?: number;
  readonly queryOffsetSeconds?: number;
  /** Of every rule that has none of that name. */
  readonly labels?: Texts;
  readonly rules: readonly Rule[];
}

/** The labels of a rule, those of its group among them. */
export function labelsOf(rule: Rule, group: Pick<RuleGroup, "labels">): Texts {
  return { ...group.labels, ...rule.labels };
}
