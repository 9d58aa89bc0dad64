import type { Node } from "yaml";
import type { Texts } from "./rule.ts";
import { YamlSource } from "./yaml-source.ts";

/** What alerts of a name are to fire at a time. */
export interface AlertExpectation {
  readonly evalSeconds: number;
  readonly alertname: string;
  readonly alerts: readonly { readonly labels: Texts; readonly annotations: Texts }[];
}

/** What an expression is to give at a time. */
export interface ExprExpectation {
  readonly evalSeconds: number;
  readonly expr: string;
  /** Labels as they are written: `up{job="api"}`. */
  readonly samples: readonly { readonly labels: string; readonly value: number }[];
}

export interface RuleTest {
  readonly name: string;
  /** Between the values of a series. */
  readonly intervalSeconds: number;
  readonly series: readonly { readonly name: string; readonly values: string }[];
  readonly alertExpectations: readonly AlertExpectation[];
  readonly exprExpectations: readonly ExprExpectation[];
  readonly externalLabels: Texts;
  readonly externalUrl: string;
}

/** A unit-test file of `promtool test rules`. */
export interface RuleTestFile {
  /** Paths as they are written, patterns among them. */
  readonly ruleFiles: readonly string[];
  readonly evaluationSeconds: number;
  readonly groupOrder: readonly string[];
  /** Whether neighbouring floats count as equal. */
  readonly isFuzzy: boolean;
  readonly tests: readonly RuleTest[];
}

const FILE_FIELDS = [
  "rule_files",
  "evaluation_interval",
  "group_eval_order",
  "fuzzy_compare",
  "tests",
];
const TEST_FIELDS = [
  ...["interval", "input_series", "alert_rule_test", "promql_expr_test"],
  ...["external_labels", "external_url", "name"],
];

/** Reads a unit-test file as strictly as promtool. @throws {FileError} with all that is wrong. */
export function parseRuleTestFile(yaml: string): RuleTestFile {
  const source = new YamlSource(yaml);
  source.assertFine();
  const fields = source.fields(source.root, FILE_FIELDS, "test file");
  const evaluationSeconds =
    source.seconds(fields.get("evaluation_interval"), "evaluation_interval") || 60;
  const groupOrder = source.items(fields.get("group_eval_order"), "group_eval_order").map((node) =>
    source.text(node, "a group")
  );
  const repeated = groupOrder.find((name, index) => groupOrder.indexOf(name) < index);
  if (repeated !== undefined) {
    source.refuse(
      fields.get("group_eval_order"),
      `group name repeated in evaluation order: ${repeated}`,
    );
  }
  const file = {
    ruleFiles: source.items(fields.get("rule_files"), "rule_files").map((node) =>
      source.text(node, "a rule file")
    ),
    evaluationSeconds,
    groupOrder,
    isFuzzy: source.text(fields.get("fuzzy_compare"), "fuzzy_compare") === "true",
    tests: source.items(fields.get("tests"), "tests").map((node) =>
      readTest(source, node, evaluationSeconds)
    ),
  };
  source.assertFine();
  return file;
}

function readTest(source: YamlSource, node: Node, evaluationSeconds: number): RuleTest {
  const fields = source.fields(node, TEST_FIELDS, "test");
  return {
    name: source.text(fields.get("name"), "name"),
    intervalSeconds: source.seconds(fields.get("interval"), "interval") || evaluationSeconds,
    series: source.items(fields.get("input_series"), "input_series").map((item) => {
      const series = source.fields(item, ["series", "values"], "input series");
      return {
        name: source.text(series.get("series"), "series"),
        values: source.text(series.get("values"), "values"),
      };
    }),
    alertExpectations: source.items(fields.get("alert_rule_test"), "alert_rule_test").map((item) =>
      readAlertExpectation(source, item)
    ),
    exprExpectations: source.items(fields.get("promql_expr_test"), "promql_expr_test").map((item) =>
      readExprExpectation(source, item)
    ),
    externalLabels: source.texts(fields.get("external_labels"), "external_labels"),
    externalUrl: source.text(fields.get("external_url"), "external_url"),
  };
}

function readAlertExpectation(source: YamlSource, node: Node): AlertExpectation {
  const fields = source.fields(node, ["eval_time", "alertname", "exp_alerts"], "alert rule test");
  const alertname = source.text(fields.get("alertname"), "alertname");
  if (alertname === "") {
    source.refuse(node, "an item under alert_rule_test misses required attribute alertname");
  }
  return {
    evalSeconds: source.seconds(fields.get("eval_time"), "eval_time") ?? 0,
    alertname,
    alerts: source.items(fields.get("exp_alerts"), "exp_alerts").map((item) => {
      const alert = source.fields(item, ["exp_labels", "exp_annotations"], "expected alert");
      return {
        labels: source.texts(alert.get("exp_labels"), "exp_labels"),
        annotations: source.texts(alert.get("exp_annotations"), "exp_annotations"),
      };
    }),
  };
}

function readExprExpectation(source: YamlSource, node: Node): ExprExpectation {
  const fields = source.fields(node, ["expr", "eval_time", "exp_samples"], "expression test");
  return {
    expr: source.text(fields.get("expr"), "expr"),
    evalSeconds: source.seconds(fields.get("eval_time"), "eval_time") ?? 0,
    samples: source.items(fields.get("exp_samples"), "exp_samples").map((item) => {
      const sample = source.fields(item, ["labels", "value"], "expected sample");
      return {
        labels: source.text(sample.get("labels"), "labels"),
        value: source.number(sample.get("value"), "value") ?? 0,
      };
    }),
  };
}
