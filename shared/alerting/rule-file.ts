import type { Node } from "yaml";
import type { Expr } from "../promql/ast.ts";
import { formatDuration } from "../promql/durations.ts";
import { formatLabels } from "../promql/format-labels.ts";
import { labelsKey } from "../promql/labels-key.ts";
import { parseExpr } from "../promql/parse-expr.ts";
import { PromqlError } from "../promql/promql-error.ts";
import { explainTemplateError, parseRuleTemplate } from "./expand-template.ts";
import { parseClearExpr } from "./parse-clear-expr.ts";
import { TemplateError } from "./parse-template.ts";
import {
  type AlertingRule,
  type Hold,
  HOLD_WINDOW_LIMIT,
  INCIDENT_LABEL,
  INCIDENT_SEVERITIES,
  labelsOf,
  NO_DATA_POLICIES,
  type NoDataPolicy,
  type Rule,
  RULE_MODES,
  type RuleGroup,
  type RuleMode,
  SEVERITIES,
  type Severity,
  type Texts,
} from "./rule.ts";
import { printYaml, type RulePlace, YamlSource } from "./yaml-source.ts";

/** Annotations that hold what Prometheus has no field for, so that its tools accept our files. */
export const RUNBOOK_ANNOTATION = "runbook_url";
export const NO_DATA_ANNOTATION = "pgvigil_no_data_policy";
export const MODE_ANNOTATION = "pgvigil_mode";
export const HOLD_ANNOTATION = "pgvigil_hold";
export const CLEAR_ANNOTATION = "pgvigil_clear_expr";

const GROUP_FIELDS = ["name", "interval", "query_offset", "limit", "labels", "rules"];
const RULE_FIELDS = ["record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations"];
const LABEL_NAME = /^[a-zA-Z_][a-zA-Z0-9_]*$/;

/**
 * Reads a rule file of Prometheus, as strictly as `promtool check rules`.
 *
 * Severity is the label `severity` if that is one of ours, else warning; runbook, no-data policy, mode, hold and clear
 * expression are annotations.
 *
 * @throws {FileError} with all that is wrong, each with line, column, group and rule.
 */
export function parseRuleFile(yaml: string): RuleGroup[] {
  const source = new YamlSource(yaml);
  source.assertFine();
  const file = source.fields(source.root, ["groups"], "rule file");
  const seen = new Set<string>();
  const groups = source.items(file.get("groups"), "groups").map((node) => {
    const group = readGroup(source, node);
    if (seen.has(group.name)) {
      source.refuse(node, `groupname: "${group.name}" is repeated in the same file`);
    }
    seen.add(group.name);
    return group;
  });
  source.assertFine();
  return groups;
}

function readGroup(source: YamlSource, node: Node): RuleGroup {
  const fields = source.fields(node, GROUP_FIELDS, "rule group");
  const name = source.text(fields.get("name"), "name");
  if (name === "") source.refuse(node, "Groupname must not be empty");
  return source.within({ group: name }, () => readNamedGroup(source, fields, name));
}

type Fields = ReadonlyMap<string, Node | null>;

function readNamedGroup(source: YamlSource, fields: Fields, name: string): RuleGroup {
  const limit = source.number(fields.get("limit"), "limit");
  if (limit !== undefined && !Number.isSafeInteger(limit)) {
    source.refuse(fields.get("limit"), "limit must be a whole number");
  }
  const intervalSeconds = source.seconds(fields.get("interval"), "interval");
  const queryOffsetSeconds = source.seconds(fields.get("query_offset"), "query_offset");
  const labels = readLabels(source, fields.get("labels"));
  return {
    name,
    ...(intervalSeconds !== undefined && { intervalSeconds }),
    ...(queryOffsetSeconds !== undefined && { queryOffsetSeconds }),
    ...(limit !== undefined && { limit }),
    ...(Object.keys(labels).length > 0 && { labels }),
    rules: readRules(source, fields.get("rules"), { name, labels }),
  };
}

function readRules(
  source: YamlSource,
  list: Node | null | undefined,
  group: Pick<RuleGroup, "name" | "labels">,
): Rule[] {
  const positions = new Map<string, number>();
  return source.items(list, "rules").map((node, index) => {
    const place = { group: group.name, position: index + 1 };
    const rule = source.within(place, () => readRule(source, node, place));
    const key = ruleKey(rule, group);
    const first = positions.get(key);
    if (first === undefined) positions.set(key, place.position);
    else if (rule.name !== "") {
      source.within(
        { ...place, rule: rule.name },
        () => source.refuse(node, `has the name and the labels of rule ${first}`),
      );
    }
    return rule;
  });
}

function readLabels(source: YamlSource, node: Node | null | undefined): Texts {
  const labels = source.texts(node, "labels");
  for (const [label, at] of source.nodes(node, "labels")) {
    if (!LABEL_NAME.test(label) || label === "__name__") {
      source.refuse(at, `invalid label name: ${label}`);
    }
    const severities: readonly string[] = INCIDENT_SEVERITIES;
    if (label === INCIDENT_LABEL && !severities.includes(labels[label]!)) {
      const choice = severities.join(", ");
      source.refuse(at, `label "${INCIDENT_LABEL}" must be one of ${choice}, and no template`);
    }
  }
  return labels;
}

function readRule(source: YamlSource, node: Node, place: RulePlace): Rule {
  const fields = source.fields(node, RULE_FIELDS, "rule");
  const record = source.text(fields.get("record"), "record");
  const alert = source.text(fields.get("alert"), "alert");
  return source.within(
    { ...place, rule: alert || record },
    () => readNamedRule(source, node, fields, { record, alert }),
  );
}

function readNamedRule(
  source: YamlSource,
  node: Node,
  fields: Fields,
  { record, alert }: { record: string; alert: string },
): Rule {
  const refuse = (at: Node | null | undefined, message: string) =>
    source.refuse(at ?? node, message);

  const expr = source.text(fields.get("expr"), "expr");
  const forSeconds = source.seconds(fields.get("for"), "for") ?? 0;
  const keepFiringForSeconds = source.seconds(fields.get("keep_firing_for"), "keep_firing_for") ??
    0;
  const labels = readLabels(source, fields.get("labels"));
  const annotations = source.texts(fields.get("annotations"), "annotations");

  if (record !== "" && alert !== "") {
    refuse(fields.get("record"), "only one of 'record' and 'alert' must be set");
  }
  if (record === "" && alert === "") refuse(node, "one of 'record' or 'alert' must be set");
  if (expr === "") refuse(fields.get("expr"), "field 'expr' must be set in rule");
  else checkExpr(source, fields.get("expr"), expr);

  if (record !== "") {
    for (const field of ["annotations", "for", "keep_firing_for"]) {
      if (isGiven(field, { forSeconds, keepFiringForSeconds, annotations })) {
        refuse(fields.get("record"), `invalid field '${field}' in recording rule`);
      }
    }
    if (/[{}]/.test(record)) {
      refuse(
        fields.get("record"),
        `braces present in the recording rule name; should it be in expr?: ${record}`,
      );
    } else if (!/^[a-zA-Z_:][a-zA-Z0-9_:]*$/.test(record)) {
      refuse(fields.get("record"), `invalid recording rule name: ${record}`);
    }
    return { kind: "recording", name: record, expr, labels };
  }

  const annotationNodes = source.nodes(fields.get("annotations"), "annotations");
  for (const [annotation, at] of annotationNodes) {
    if (!LABEL_NAME.test(annotation)) refuse(at, `invalid annotation name: ${annotation}`);
  }
  const checkTemplates = (kind: string, texts: Texts, nodes: Map<string, Node | null>) => {
    for (const [key, text] of Object.entries(texts)) {
      const problem = checkTemplate(text, alert);
      if (problem === undefined) continue;
      const at = source.offsetIn(nodes.get(key), text, problem.at);
      source.refuseAt(at, `${kind} ${JSON.stringify(key)}: ${problem.message}`);
    }
  };
  checkTemplates("label", labels, source.nodes(fields.get("labels"), "labels"));
  checkTemplates("annotation", annotations, annotationNodes);
  for (
    const [annotation, allowed] of [[NO_DATA_ANNOTATION, NO_DATA_POLICIES], [
      MODE_ANNOTATION,
      RULE_MODES,
    ]] as const
  ) {
    const value = annotations[annotation];
    if (value !== undefined && !(allowed as readonly string[]).includes(value)) {
      refuse(
        annotationNodes.get(annotation),
        `annotation "${annotation}" must be one of ${allowed.join(", ")}`,
      );
    }
  }
  const { [HOLD_ANNOTATION]: hold, [CLEAR_ANNOTATION]: clearExpr } = annotations;
  if (hold !== undefined) {
    const at = annotationNodes.get(HOLD_ANNOTATION);
    if (parseHold(hold) === null) {
      const bounds = `1 <= N <= M <= ${HOLD_WINDOW_LIMIT}`;
      refuse(at, `annotation "${HOLD_ANNOTATION}" must be like "3 of 5": N of M, ${bounds}`);
    }
    if (forSeconds !== 0) {
      refuse(at, `annotation "${HOLD_ANNOTATION}" cannot stand beside 'for': only one may be set`);
    }
  }
  if (clearExpr !== undefined) {
    checkClearExpr(source, annotationNodes.get(CLEAR_ANNOTATION), clearExpr);
  }
  return {
    kind: "alerting",
    name: alert,
    expr,
    forSeconds,
    keepFiringForSeconds,
    labels,
    annotations,
    ...readMeaning(labels, annotations),
  };
}

function isGiven(
  field: string,
  rule: Pick<AlertingRule, "forSeconds" | "keepFiringForSeconds" | "annotations">,
): boolean {
  if (field === "for") return rule.forSeconds !== 0;
  if (field === "keep_firing_for") return rule.keepFiringForSeconds !== 0;
  return Object.keys(rule.annotations).length > 0;
}

function checkExpr(
  source: YamlSource,
  node: Node | null | undefined,
  expr: string,
  { parse, prefix }: { parse: (text: string) => Expr; prefix: string } = {
    parse: parseExpr,
    prefix: "",
  },
): void {
  try {
    parse(expr);
  } catch (error) {
    if (!(error instanceof PromqlError)) throw error;
    const at = source.offsetIn(node, expr, error.place?.start ?? 0);
    source.refuseAt(at, `${prefix}could not parse expression: ${error.message}`);
  }
}

function checkClearExpr(source: YamlSource, node: Node | null | undefined, expr: string): void {
  const prefix = `annotation "${CLEAR_ANNOTATION}": `;
  const template = expr.indexOf("{{");
  if (template < 0) return checkExpr(source, node, expr, { parse: parseClearExpr, prefix });
  const at = source.offsetIn(node, expr, template);
  source.refuseAt(at, `${prefix}{{ begins a template, which it is not: write \\x7b{ in a string`);
}

function checkTemplate(text: string, alert: string): { at: number; message: string } | undefined {
  try {
    parseRuleTemplate(text);
    return undefined;
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error;
    return { at: error.at, message: explainTemplateError(error, text, `__alert_${alert}`) };
  }
}

/** Reads `3 of 5`; null for what is none. */
function parseHold(text: string): Hold | null {
  const [, count, window] = (/^([1-9]\d?) of ([1-9]\d?)$/.exec(text) ?? []).map(Number);
  if (count === undefined || window === undefined) return null;
  return count <= window && window <= HOLD_WINDOW_LIMIT ? { count, window } : null;
}

const formatHold = ({ count, window }: Hold) => `${count} of ${window}`;

type Meaning = Pick<
  AlertingRule,
  "severity" | "runbookUrl" | "noDataPolicy" | "mode" | "hold" | "clearExpr"
>;

/** What labels and annotations say beyond Prometheus. */
function readMeaning(labels: Texts, annotations: Texts): Meaning {
  const choose = <T extends string>(
    allowed: readonly T[],
    value: string | undefined,
    fallback: T,
  ): T => allowed.find((one) => one === value) ?? fallback;
  return {
    severity: choose<Severity>(SEVERITIES, labels["severity"], "warning"),
    runbookUrl: annotations[RUNBOOK_ANNOTATION] ?? null,
    noDataPolicy: choose<NoDataPolicy>(NO_DATA_POLICIES, annotations[NO_DATA_ANNOTATION], "keep"),
    mode: choose<RuleMode>(RULE_MODES, annotations[MODE_ANNOTATION], "live"),
    hold: parseHold(annotations[HOLD_ANNOTATION] ?? ""),
    clearExpr: annotations[CLEAR_ANNOTATION] ?? null,
  };
}

/** Labels and annotations that say what the rule means, changed only where they say something else. */
function writeMeaning(rule: AlertingRule): { labels: Texts; annotations: Texts } {
  const said = readMeaning(rule.labels, rule.annotations);
  const labels = said.severity === rule.severity
    ? rule.labels
    : { ...rule.labels, severity: rule.severity };
  const annotations: Record<string, string> = { ...rule.annotations };
  const set = (name: string, text: string | null) => {
    if (text === null) delete annotations[name];
    else annotations[name] = text;
  };
  set(RUNBOOK_ANNOTATION, rule.runbookUrl);
  set(HOLD_ANNOTATION, rule.hold && formatHold(rule.hold));
  set(CLEAR_ANNOTATION, rule.clearExpr);
  if (said.noDataPolicy !== rule.noDataPolicy) annotations[NO_DATA_ANNOTATION] = rule.noDataPolicy;
  if (said.mode !== rule.mode) annotations[MODE_ANNOTATION] = rule.mode;
  return { labels, annotations };
}

/** A rule file that {@link parseRuleFile} reads back as the same groups, and that Prometheus' tools accept. */
export function printRuleFile(groups: readonly RuleGroup[]): string {
  const given = (texts: Texts | undefined) => texts && Object.keys(texts).length > 0;
  const duration = (seconds: number) => formatDuration(seconds * 1000);
  return printYaml({
    groups: groups.map((group) => ({
      name: group.name,
      ...(group.intervalSeconds !== undefined && { interval: duration(group.intervalSeconds) }),
      ...(group.queryOffsetSeconds !== undefined &&
        { query_offset: duration(group.queryOffsetSeconds) }),
      ...(group.limit !== undefined && { limit: group.limit }),
      ...(given(group.labels) && { labels: group.labels }),
      rules: group.rules.map((rule) => {
        if (rule.kind === "recording") {
          return {
            record: rule.name,
            expr: rule.expr,
            ...(given(rule.labels) && { labels: rule.labels }),
          };
        }
        const { labels, annotations } = writeMeaning(rule);
        return {
          alert: rule.name,
          expr: rule.expr,
          ...(rule.forSeconds > 0 && { for: duration(rule.forSeconds) }),
          ...(rule.keepFiringForSeconds > 0 &&
            { keep_firing_for: duration(rule.keepFiringForSeconds) }),
          ...(given(labels) && { labels }),
          ...(given(annotations) && { annotations }),
        };
      }),
    })),
  });
}

const metricOf = (rule: Rule, group: Pick<RuleGroup, "labels">) => ({
  ...labelsOf(rule, group),
  __name__: rule.name,
});

/** Equal for rules that are the same to whoever saves them, were they in one group. */
const ruleKey = (rule: Rule, group: Pick<RuleGroup, "labels">) =>
  `${rule.kind} ${labelsKey(metricOf(rule, group))}`;

/** By the key of each rule, how it is shown and which groups have it. */
function indexRules(groups: readonly RuleGroup[]) {
  const index = new Map<string, { shown: string; groupNames: string[] }>();
  for (const group of groups) {
    for (const rule of group.rules) {
      const entry = index.get(ruleKey(rule, group));
      if (entry) entry.groupNames.push(group.name);
      else {
        const shown = formatLabels(metricOf(rule, group));
        index.set(ruleKey(rule, group), { shown, groupNames: [group.name] });
      }
    }
  }
  return index;
}

const quoteAll = (names: readonly string[]) => names.map((name) => JSON.stringify(name)).join(", ");

/** Rules that several groups have with the same name and labels, so that each tells of the same alert; in words. */
export function findDuplicateRules(groups: readonly RuleGroup[]): string[] {
  return [...indexRules(groups).values()]
    .filter(({ groupNames }) => groupNames.length > 1)
    .map(({ shown, groupNames }) => `rule ${shown} is in several groups: ${quoteAll(groupNames)}`);
}

/** Rules that are about to be saved and that another saved group has, and will keep, as well; in words. */
export function findSavedTwins(
  groups: readonly RuleGroup[],
  saved: readonly RuleGroup[],
  { isReplacing }: { readonly isReplacing: boolean },
): string[] {
  const listed = indexRules(groups);
  const replaced = isReplacing ? groups.map(({ name }) => name) : [];
  const kept = indexRules(saved.filter(({ name }) => !replaced.includes(name)));
  return [...listed].flatMap(([key, { shown, groupNames }]) => {
    const others = kept.get(key)?.groupNames.filter((name) => !groupNames.includes(name)) ?? [];
    return others.length === 0
      ? []
      : [`rule ${shown} is saved in another group as well: ${quoteAll(others)}`];
  });
}
