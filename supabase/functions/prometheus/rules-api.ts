import type { AlertInstance } from "../../../shared/alerting/evaluate-rules.ts";
import type { AlertingRule, Texts } from "../../../shared/alerting/rule.ts";
import type { StoredRule, StoredRuleGroup } from "../../../shared/contract/rules.ts";
import type { QueryStore } from "../_shared/query-stores.ts";
import { invalidParameter } from "./api-error.ts";
import { respond } from "./respond.ts";

/** What rules and alerts need from the world. */
export type RulesDeps = Pick<QueryStore, "readRules">;

/** What Prometheus would have read the groups from. */
const FILE = "pgvigil";

/** How Go writes that there was no such time yet. */
const NEVER = "0001-01-01T00:00:00Z";

const KINDS: Readonly<Record<string, StoredRule["rule"]["kind"]>> = {
  alert: "alerting",
  record: "recording",
};

/** `/rules`: the rules that are enabled, by group, with their alerts. @throws {ApiError} */
export async function answerRules(
  params: URLSearchParams,
  { readRules }: RulesDeps,
): Promise<Response> {
  const type = (params.get("type") ?? "").toLowerCase();
  if (type !== "" && !Object.hasOwn(KINDS, type)) {
    throw invalidParameter("type", `not supported value ${JSON.stringify(type)}`);
  }
  const isAsked = (name: string, value: string) =>
    !params.has(name) || params.getAll(name).includes(value);
  const withAlerts = params.get("exclude_alerts")?.toLowerCase() !== "true";
  const groups = (await readRules())
    .filter(({ name }) => isAsked("rule_group[]", name) && isAsked("file[]", FILE))
    .map((group) => ({
      ...group,
      rules: group.rules.filter(({ rule, isEnabled }) =>
        isEnabled && (type === "" || rule.kind === KINDS[type]) &&
        isAsked("rule_name[]", rule.name)
      ),
    }))
    .filter(({ rules }) => rules.length > 0);
  return respond({ groups: groups.map((group) => renderGroup(group, withAlerts)) });
}

/** `/alerts`: those that are pending or firing, of rules that are to tell somebody. */
export async function answerAlerts(
  _params: URLSearchParams,
  { readRules }: RulesDeps,
): Promise<Response> {
  const rules = (await readRules()).flatMap((group) => group.rules);
  return respond({ alerts: rules.filter(isLive).flatMap(renderAlerts) });
}

function isLive({ isEnabled, rule }: StoredRule): boolean {
  return isEnabled && rule.kind === "alerting" && rule.mode === "live";
}

function renderGroup({ name, intervalSeconds, rules }: StoredRuleGroup, withAlerts: boolean) {
  const evaluated = rules.map(({ state }) => state.evaluatedAt).filter((at) => at !== null);
  return {
    name,
    file: FILE,
    rules: rules.map((rule) => renderRule(rule, withAlerts)),
    interval: intervalSeconds,
    limit: 0,
    evaluationTime: rules.reduce((sum, { state }) => sum + (state.evaluationSeconds ?? 0), 0),
    lastEvaluation: renderInstant(evaluated.length === 0 ? null : Math.max(...evaluated)),
  };
}

function renderRule(stored: StoredRule, withAlerts: boolean) {
  const { rule, state } = stored;
  const common = {
    name: rule.name,
    query: rule.expr,
    labels: rule.labels,
    health: state.health,
    ...(state.lastError !== null && { lastError: state.lastError }),
    evaluationTime: state.evaluationSeconds ?? 0,
    lastEvaluation: renderInstant(state.evaluatedAt),
    type: rule.kind,
  };
  if (rule.kind === "recording") return common;
  return {
    ...common,
    state: stateOf(state.instances ?? []),
    duration: rule.forSeconds,
    keepFiringFor: rule.keepFiringForSeconds,
    annotations: withRunbook(rule.annotations, rule),
    alerts: withAlerts ? renderAlerts(stored) : [],
  };
}

function stateOf(instances: readonly AlertInstance[]): AlertInstance["state"] | "inactive" {
  if (instances.some(({ state }) => state === "firing")) return "firing";
  return instances.length > 0 ? "pending" : "inactive";
}

function renderAlerts({ rule, state }: StoredRule) {
  if (rule.kind === "recording") return [];
  return (state.instances ?? []).map((instance) => ({
    labels: instance.labels,
    annotations: withRunbook(instance.annotations, rule),
    state: instance.state,
    activeAt: instance.active_at,
    ...(instance.keep_firing_since !== null &&
      { keepFiringSince: instance.keep_firing_since }),
    value: toScientific(instance.last_value),
  }));
}

function withRunbook(annotations: Texts, { runbookUrl }: AlertingRule): Texts {
  return runbookUrl === null ? annotations : { runbook_url: runbookUrl, ...annotations };
}

function renderInstant(milliseconds: number | null): string {
  return milliseconds === null ? NEVER : new Date(milliseconds).toISOString();
}

/** `1.25e+01`, as Prometheus shows the value of an alert; infinities and NaN as they are. */
function toScientific(text: string): string {
  const value = Number(text);
  return Number.isFinite(value) ? value.toExponential().replace(/e([+-])(\d)$/, "e$10$2") : text;
}
