import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type AlertingRule,
  NO_DATA_POLICIES,
  RULE_MODES,
  type RuleGroup,
  SEVERITIES,
} from "../../shared/alerting/rule.ts";
import {
  findDuplicateRules,
  findSavedTwins,
  parseRuleFile,
  printRuleFile,
} from "../../shared/alerting/rule-file.ts";
import { findUnsaved, toSavedGroups } from "../../shared/alerting/saved-rules.ts";
import { FileError } from "../../shared/alerting/yaml-source.ts";

const ONE = `groups:
  - name: queue
    interval: 30s
    limit: 5
    query_offset: 1m
    labels:
      team: platform
    rules:
      - alert: QueueDepthHigh
        expr: queue_depth > 1000
        for: 5m
        keep_firing_for: 10m
        labels:
          severity: critical
        annotations:
          summary: "{{ $value }} wait"
          runbook_url: https://example.com/queue
          pgvigil_no_data_policy: alert
          pgvigil_mode: shadow
      - record: queue:depth:max
        expr: max(queue_depth)
        labels:
          tier: 1
`;

/** `line:column: message` of all that is wrong. */
function problemsOf(yaml: string): string[] {
  try {
    parseRuleFile(yaml);
  } catch (error) {
    if (error instanceof FileError) return error.message.split("\n");
    throw error;
  }
  return [];
}

/** A file with one rule, whose lines these are. */
const withRule = (...lines: string[]) =>
  `groups:\n  - name: g\n    rules:\n${
    lines.map((line, index) => `${index === 0 ? "      - " : "        "}${line}\n`).join("")
  }`;

describe("parseRuleFile()", () => {
  it("reads what Prometheus knows, and what it has no field for", () => {
    expect(parseRuleFile(ONE)).toEqual<RuleGroup[]>([{
      name: "queue",
      intervalSeconds: 30,
      limit: 5,
      queryOffsetSeconds: 60,
      labels: { team: "platform" },
      rules: [
        {
          kind: "alerting",
          name: "QueueDepthHigh",
          expr: "queue_depth > 1000",
          forSeconds: 300,
          keepFiringForSeconds: 600,
          labels: { severity: "critical" },
          annotations: {
            summary: "{{ $value }} wait",
            runbook_url: "https://example.com/queue",
            pgvigil_no_data_policy: "alert",
            pgvigil_mode: "shadow",
          },
          severity: "critical",
          runbookUrl: "https://example.com/queue",
          noDataPolicy: "alert",
          mode: "shadow",
          hold: null,
          clearExpr: null,
        },
        {
          kind: "recording",
          name: "queue:depth:max",
          expr: "max(queue_depth)",
          labels: { tier: "1" },
        },
      ],
    }]);
  });

  it("takes a rule that says nothing as a live warning that keeps its state", () => {
    const [group] = parseRuleFile(withRule("alert: A", "expr: up == 0"));
    expect(group!.rules[0]).toMatchObject({
      severity: "warning",
      noDataPolicy: "keep",
      mode: "live",
      runbookUrl: null,
      forSeconds: 0,
    });
  });

  it("reads no groups from an empty file", () => {
    expect(parseRuleFile("")).toEqual([]);
    expect(parseRuleFile("groups: []")).toEqual([]);
  });

  it.each<[string, string, string[]]>([
    ["an unknown field", withRule("alert: A", "expr: up", "severity: page"), [
      '6:9: group "g", rule 1: field severity not found in rule',
    ]],
    ["an unknown field of the file", "rules: []\n", ["1:1: field rules not found in rule file"]],
    ["a field twice", withRule("alert: A", "alert: B", "expr: up"), [
      "5:9: yaml: Map keys must be unique",
    ]],
    ["no YAML", "groups: [", [
      "1:10: yaml: Flow sequence in block collection must be sufficiently indented and end with a ]",
    ]],
    ["groups of the same name", "groups:\n- name: a\n- name: a\n", [
      '3:3: groupname: "a" is repeated in the same file',
    ]],
    ["a group without a name", "groups:\n- rules: []\n", ["2:3: Groupname must not be empty"]],
    ["record and alert", withRule("record: a", "alert: B", "expr: up"), [
      `4:17: group "g", rule 1, "B": only one of 'record' and 'alert' must be set`,
    ]],
    [
      "a rule twice, the labels of its group counted",
      "groups:\n- name: g\n  labels: {x: y}\n  rules:\n  - {alert: A, expr: up}\n  - {alert: B, expr: up}\n" +
      "  - {alert: A, expr: down, labels: {x: y}}\n",
      ['7:5: group "g", rule 3, "A": has the name and the labels of rule 1'],
    ],
    ["two rules without a name", "groups: [{name: g, rules: [{expr: up}, {expr: up}]}]\n", [
      `1:28: group "g", rule 1, "": one of 'record' or 'alert' must be set`,
      `1:40: group "g", rule 2, "": one of 'record' or 'alert' must be set`,
    ]],
    ["neither", withRule("expr: up"), [
      `4:9: group "g", rule 1, "": one of 'record' or 'alert' must be set`,
    ]],
    ["a bad label name of a group", "groups:\n- name: g\n  labels: {a-b: c}\n", [
      '3:17: group "g": invalid label name: a-b',
    ]],
    ["no expression", withRule("alert: A"), [
      `4:9: group "g", rule 1, "A": field 'expr' must be set in rule`,
    ]],
    ["an expression that is none", withRule("alert: A", "expr: sum(up"), [
      expect.stringMatching(
        /^5:2\d: group "g", rule 1, "A": could not parse expression: 1:\d+: parse error: /,
      ) as string,
    ]],
    ["a bad label name", withRule("alert: A", "expr: up", "labels:", "  a-b: c"), [
      '7:16: group "g", rule 1, "A": invalid label name: a-b',
    ]],
    ["a label that is the name", withRule("alert: A", "expr: up", "labels:", "  __name__: c"), [
      '7:21: group "g", rule 1, "A": invalid label name: __name__',
    ]],
    ["a bad annotation name", withRule("alert: A", "expr: up", "annotations:", "  a-b: c"), [
      '7:16: group "g", rule 1, "A": invalid annotation name: a-b',
    ]],
    [
      "a template that is none",
      withRule("alert: A", "expr: up", "annotations:", '  s: "x {{ $nope }}"'),
      ['7:20: group "g", rule 1, "A": annotation "s": template: __alert_A:1: undefined variable "$nope"'],
    ],
    ["a label that is no template", withRule("alert: A", "expr: up", "labels:", "  s: x{{"), [
      '7:17: group "g", rule 1, "A": label "s": template: __alert_A:1: unclosed action',
    ]],
    ["a duration that is none", withRule("alert: A", "expr: up", "for: 5"), [
      expect.stringContaining(
        '6:14: group "g", rule 1, "A": for: not a valid duration string: "5"',
      ) as string,
    ]],
    [
      "what a recording rule has not",
      withRule("record: a", "expr: up", "for: 5m", "annotations:", "  a: b"),
      [
        `4:17: group "g", rule 1, "a": invalid field 'annotations' in recording rule`,
        `4:17: group "g", rule 1, "a": invalid field 'for' in recording rule`,
      ],
    ],
    ["a bad recorded name", withRule("record: a b", "expr: up"), [
      '4:17: group "g", rule 1, "a b": invalid recording rule name: a b',
    ]],
    ["an expression as a name", withRule('record: "a{}"', "expr: up"), [
      '4:17: group "g", rule 1, "a{}": braces present in the recording rule name; should it be in expr?: a{}',
    ]],
    [
      "a policy that is none",
      withRule("alert: A", "expr: up", "annotations:", "  pgvigil_no_data_policy: never"),
      ['7:35: group "g", rule 1, "A": annotation "pgvigil_no_data_policy" must be one of keep, alert, ok'],
    ],
    [
      "a hold beside a duration",
      withRule("alert: A", "expr: up", "for: 1ms", "annotations:", "  pgvigil_hold: 3 of 5"),
      [
        `8:25: group "g", rule 1, "A": annotation "pgvigil_hold" cannot stand beside 'for': only one may be set`,
      ],
    ],
    [
      "a clear expression that is none",
      withRule("alert: A", "expr: up", "annotations:", '  pgvigil_clear_expr: "up < "'),
      [
        expect.stringMatching(
          /^7:3\d: group "g", rule 1, "A": annotation "pgvigil_clear_expr": could not parse expression: 1:\d+: parse error: /,
        ) as string,
      ],
    ],
    [
      "one of several lines that is none",
      withRule(
        "alert: A",
        "expr: up",
        "annotations:",
        "  pgvigil_clear_expr: |",
        "    up",
        "      + bad(",
      ),
      [
        expect.stringMatching(
          /^9:17: group "g", rule 1, "A": annotation "pgvigil_clear_expr": could not parse expression: 2:\d+: parse error: /,
        ) as string,
      ],
    ],
    ...([["x[5m]", "matrix"], ["'a'", "string"]] as const).map((
      [expr, type],
    ): [string, string, string[]] => [
      `a clear expression that gives a ${type}`,
      withRule("alert: A", "expr: up", "annotations:", `  pgvigil_clear_expr: "${expr}"`),
      [
        '7:32: group "g", rule 1, "A": annotation "pgvigil_clear_expr": could not parse expression: ' +
        `1:1: parse error: must be a vector or scalar, is a ${type}`,
      ],
    ]),
    [
      "an empty clear expression",
      withRule("alert: A", "expr: up", "annotations:", "  pgvigil_clear_expr: ''"),
      [
        expect.stringMatching(
          /^7:32: group "g", rule 1, "A": annotation "pgvigil_clear_expr": could not parse expression: /,
        ) as string,
      ],
    ],
    [
      "a clear expression that is a template",
      withRule(
        "alert: A",
        "expr: up",
        "annotations:",
        "  pgvigil_clear_expr: 'up{a=\"{{ $value }}\"}'",
      ),
      [
        '7:38: group "g", rule 1, "A": annotation "pgvigil_clear_expr": {{ begins a template, which it is not: write \\x7b{ in a string',
      ],
    ],
    ["an incident of a group", "groups:\n- name: g\n  labels: {pgvigil_incident: P4}\n", [
      '3:30: group "g": label "pgvigil_incident" must be one of P0, P1, P2, P3, and no template',
    ]],
    [
      "an incident of a series",
      withRule("record: a", "expr: up", "labels:", "  pgvigil_incident: P4"),
      [
        '7:29: group "g", rule 1, "a": label "pgvigil_incident" must be one of P0, P1, P2, P3, and no template',
      ],
    ],
  ])("refuses %s, with its place", (_, yaml, problems) => {
    expect(problemsOf(yaml)).toEqual(problems);
  });

  it.each(["1 of 1", "1 of 60", "60 of 60", "3 of 5", "9 of 10"])("takes a hold of %s", (text) => {
    const [count, window] = text.split(" of ").map(Number);
    for (const duration of [[], ["for: 0s"]]) {
      const file = withRule(
        ...["alert: A", "expr: up", ...duration, "annotations:", `  pgvigil_hold: ${text}`],
      );
      expect(parseRuleFile(file)[0]!.rules[0]).toMatchObject({ hold: { count, window } });
    }
  });

  it.each([
    ...["0 of 1", "0 of 0", "1 of 0", "2 of 1", "1 of 61", "61 of 61", "1 of 100", "-1 of 5"],
    ...["3", "", "3of5", "3  of 5", " 3 of 5", "3 of 5 ", "3 OF 5", "03 of 5", "3 of 05", "3/5"],
    ...["3.0 of 5", "3 of 5 of 7", "three of five", "3 of 5\n", "٣ of 5"],
  ])("refuses a hold of %j", (text) => {
    const lines = [
      "alert: A",
      "expr: up",
      "annotations:",
      `  pgvigil_hold: ${JSON.stringify(text)}`,
    ];
    expect(problemsOf(withRule(...lines))).toEqual([
      '7:25: group "g", rule 1, "A": annotation "pgvigil_hold" must be like "3 of 5": N of M, 1 <= N <= M <= 60',
    ]);
  });

  it("takes a clear expression that is a vector or a scalar", () => {
    for (const expr of ["x < 80", "1", "scalar(x) < bool 80", 'x{a="\\x7b{"}', "x\n< 80"]) {
      const lines = [
        "alert: A",
        "expr: up",
        `annotations: {pgvigil_clear_expr: ${JSON.stringify(expr)}}`,
      ];
      expect(parseRuleFile(withRule(...lines))[0]!.rules[0]).toMatchObject({ clearExpr: expr });
    }
  });

  it("takes an incident of four severities, and no other", () => {
    const ask = (value: string) =>
      problemsOf(
        withRule("alert: A", "expr: up", `labels: {pgvigil_incident: ${JSON.stringify(value)}}`),
      );
    for (const value of ["P0", "P1", "P2", "P3"]) expect(ask(value)).toEqual([]);
    for (
      const value of [
        "P4",
        "P",
        "p1",
        "P01",
        " P1",
        "",
        "1",
        "{{ $labels.severity }}",
        '{{ "P1" }}',
      ]
    ) {
      expect(ask(value)).toEqual([
        '6:36: group "g", rule 1, "A": label "pgvigil_incident" must be one of P0, P1, P2, P3, and no template',
      ]);
    }
  });

  it("takes rules of one name that differ in labels or kind", () => {
    const [group] = parseRuleFile(
      "groups: [{name: g, rules: [{alert: a, expr: up}, {alert: a, expr: up, labels: {x: y}}, {record: a, expr: up}]}]",
    );
    expect(group!.rules).toHaveLength(3);
  });

  it("says all that is wrong at once", () => {
    expect(problemsOf(withRule("alert: A", "expr: (", "for: x"))).toHaveLength(2);
  });

  it.each([
    ["plain", ["expr: up +"], 5],
    ["in quotes", ['expr: "up +"'], 5],
    ["as a block", ["expr: |", "  up", "    + bad("], 7],
  ])("finds the place in an expression that stands %s", (_, lines, line) => {
    const text = withRule("alert: A", ...lines);
    const [problem] = problemsOf(text);
    expect(Number(problem!.split(":")[0])).toBe(line);
    expect(Number(problem!.split(":")[1])).toBeGreaterThan(text.split("\n")[line - 1]!.length - 4);
  });

  it("resolves aliases, but not without end", () => {
    expect(
      parseRuleFile(withRule("alert: &a A", "expr: up", "labels: {x: *a}"))[0]!.rules[0]!.labels,
    ).toEqual({ x: "A" });
    const many = `${withRule("alert: &a A", "expr: up", "labels:")}${
      Array.from({ length: 1001 }, (_, index) => `          l${index}: *a\n`).join("")
    }`;
    expect(problemsOf(many)[0]).toContain("more than 1000 aliases");
  });
});

describe("printRuleFile()", () => {
  it("comes back as it was", () => {
    for (
      const yaml of [
        ONE,
        ...["partner", "supabase"].map((name) =>
          readFileSync(`supabase/rules/${name}.rules.yaml`, "utf8")
        ),
      ]
    ) {
      const groups = parseRuleFile(yaml);
      expect(parseRuleFile(printRuleFile(groups))).toEqual(groups);
    }
  });

  it("says in labels and annotations what was changed since", () => {
    const [group] = parseRuleFile(ONE);
    const changed: AlertingRule = {
      ...group!.rules[0] as AlertingRule,
      ...{ severity: "info", noDataPolicy: "keep", mode: "live", runbookUrl: null },
      ...{ forSeconds: 0, hold: { count: 3, window: 5 }, clearExpr: "queue_depth < 500" },
    };
    const [again] = parseRuleFile(printRuleFile([{ ...group!, rules: [changed] }]));
    expect(again!.rules[0]).toMatchObject({
      severity: "info",
      noDataPolicy: "keep",
      mode: "live",
      runbookUrl: null,
      hold: { count: 3, window: 5 },
      clearExpr: "queue_depth < 500",
    });
    const plain = { ...again!.rules[0] as AlertingRule, hold: null, clearExpr: null };
    const [last] = parseRuleFile(printRuleFile([{ ...group!, rules: [plain] }]));
    expect(last!.rules[0]).toMatchObject({ hold: null, clearExpr: null });
    expect(Object.keys((last!.rules[0] as AlertingRule).annotations).join()).not.toMatch(
      /hold|clear/,
    );
  });

  it("comes back as the same rule, whatever that is", () => {
    const texts = fc.dictionary(
      fc.stringMatching(/^[a-z_]{1,7}$/),
      fc.string().filter((text) => !text.includes("{{")),
    );
    const holds = fc.integer({ min: 1, max: 60 }).chain((window) =>
      fc.record({ count: fc.integer({ min: 1, max: window }), window: fc.constant(window) })
    );
    const durations = fc.integer({ min: 0, max: 31_536_000 });
    const exprs = fc.tuple(
      fc.constantFrom(
        "x",
        'x{a="b c: #"}',
        "sum by (q) (x)",
        "sum(x)\n  /\nsum(y)",
        'x{a="\\x7b{"}',
      ),
      fc.constantFrom("", " < 80", "\n  < 80\n", " unless y"),
    ).map((parts) => parts.join(""));
    const rules = fc.record({
      kind: fc.constant("alerting" as const),
      name: fc.string({ minLength: 1 }),
      expr: exprs,
      forSeconds: durations,
      keepFiringForSeconds: durations,
      labels: texts,
      annotations: texts,
      noDataPolicy: fc.constantFrom(...NO_DATA_POLICIES),
      severity: fc.constantFrom(...SEVERITIES),
      runbookUrl: fc.option(fc.webUrl()),
      mode: fc.constantFrom(...RULE_MODES),
      hold: fc.option(holds),
      clearExpr: fc.option(exprs),
    }).map((rule) => ({ ...rule, forSeconds: rule.hold ? 0 : rule.forSeconds }));
    fc.assert(fc.property(rules, (rule: AlertingRule) => {
      const [group] = parseRuleFile(printRuleFile([{ name: "g", rules: [rule] }]));
      const [again] = group!.rules as AlertingRule[];
      const { labels: _, annotations: __, ...meaning } = rule;
      expect(again).toMatchObject(meaning);
      // What it means stands among its labels and annotations by now.
      expect(parseRuleFile(printRuleFile([group!]))).toEqual([group]);
    }));
  });
});

describe("findDuplicateRules()", () => {
  it("names rules with the same kind, name and labels in several groups", () => {
    const groups = parseRuleFile(`groups:
- {name: a, labels: {x: "1"}, rules: [{alert: A, expr: up}, {alert: B, expr: up}, {alert: c, expr: up}]}
- {name: b, rules: [{alert: A, expr: down, labels: {x: "1"}}, {alert: B, expr: up}]}
- {name: c, rules: [{record: c, expr: up, labels: {x: "1"}}]}`);
    expect(findDuplicateRules(groups)).toEqual(['rule A{x="1"} is in several groups: "a", "b"']);
  });
});

describe("findSavedTwins()", () => {
  const group = (name: string, ...alerts: string[]) => ({
    name,
    rules: parseRuleFile(
      `groups: [{name: g, rules: [${alerts.map((alert) => `{alert: ${alert}, expr: up}`)}]}]`,
    )[0]!.rules,
  });
  const ADDING = { isReplacing: false };
  const REPLACING = { isReplacing: true };

  it("names a rule that stays saved in a group that is not in the files", () => {
    const saved = [group("old", "A", "B"), group("other", "A"), group("far", "C")];
    for (const options of [ADDING, REPLACING]) {
      expect(findSavedTwins([group("new", "A")], saved, options)).toEqual([
        'rule A is saved in another group as well: "old", "other"',
      ]);
    }
  });

  it("says nothing of the rule itself, nor of what the files have twice", () => {
    const files = [group("a", "A"), group("b", "A")];
    expect(findSavedTwins(files, files, ADDING)).toEqual([]);
    expect(findSavedTwins([files[0]!], [files[0]!], ADDING)).toEqual([]);
  });

  it("counts a rule that has moved to another group only while the old one stays", () => {
    const files = [group("from", "B"), group("to", "A")];
    const saved = [group("from", "A", "B")];
    expect(findSavedTwins(files, saved, ADDING)).toHaveLength(1);
    expect(findSavedTwins(files, saved, REPLACING)).toEqual([]);
  });
});

describe("findUnsaved()", () => {
  it.each([
    ["1m", undefined],
    ["2h", undefined],
    ["59s", "rules are evaluated once a minute"],
    ["61s", "rules are evaluated on the minute, 1 or 2 minutes apart"],
    ["2m30s", "rules are evaluated on the minute, 2 or 3 minutes apart"],
  ])("says how often an interval of %s is evaluated", (interval, said) => {
    const groups = parseRuleFile(`groups: [{name: g, interval: ${interval}, rules: []}]`);
    expect(findUnsaved(groups)).toEqual(
      said ? [`group "g": interval is no whole number of minutes; ${said}`] : [],
    );
  });
});

describe("toSavedGroups()", () => {
  it.each([["0s", undefined], ["1ms", 1], ["60s", 60], ["60s1ms", 61]])(
    "saves an interval of %s as whole seconds",
    (interval, seconds) => {
      const groups = parseRuleFile(`groups: [{name: g, interval: ${interval}, rules: []}]`);
      expect(toSavedGroups(groups)).toEqual([
        { name: "g", rules: [], ...(seconds && { interval_seconds: seconds }) },
      ]);
    },
  );

  it("gives each rule the labels of its group, and says what is lost", () => {
    const groups = parseRuleFile(ONE);
    expect(toSavedGroups(groups)).toEqual([{
      name: "queue",
      interval_seconds: 30,
      rules: [
        expect.objectContaining({
          name: "QueueDepthHigh",
          for_seconds: 300,
          mode: "shadow",
          labels: { team: "platform", severity: "critical" },
        }),
        {
          kind: "recording",
          name: "queue:depth:max",
          expr: "max(queue_depth)",
          labels: { team: "platform", tier: "1" },
        },
      ],
    }]);
    expect(findUnsaved(groups)).toEqual([
      expect.stringContaining("limit"),
      expect.stringContaining("query_offset"),
      expect.stringContaining("interval"),
    ]);
  });
});
