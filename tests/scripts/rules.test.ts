import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import process from "node:process";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { expandTemplate } from "../../shared/alerting/expand-template.ts";
import type { Rule } from "../../shared/alerting/rule.ts";
import { printRuleFile } from "../../shared/alerting/rule-file.ts";
import { parseRuleTestFile } from "../../shared/alerting/rule-test-file.ts";
import { testRules } from "../../shared/alerting/test-rules.ts";
import { parseOptions } from "../../scripts/rules/options.ts";
import { readRuleFile, runTestFile } from "../../scripts/rules/rule-files.ts";

const SHIPPED = "supabase/rules";
const shipped = (suffix: string) =>
  readdirSync(SHIPPED).filter((name) => name.endsWith(suffix)).map((name) => join(SHIPPED, name));

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "pgvigil-rules-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

function write(name: string, text: string): string {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
}

function run(args: readonly string[], env: Record<string, string> = {}) {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ["--import", "tsx", "scripts/rules.ts", ...args],
    { encoding: "utf8", env: { ...process.env, ...env } },
  );
  return { status, stdout, stderr };
}

const promtool = (...args: string[]) => spawnSync("promtool", args, { encoding: "utf8" });
const hasPromtool = promtool("--version").status === 0;
if (!hasPromtool) console.log("promtool is not installed: its verdicts are not compared with ours");

/** Rules and tests of them, with whether they pass. */
const RULES = `groups:
  - name: first
    interval: 10s
    rules:
      - record: job:up:sum
        expr: sum by (job) (up)
      - alert: Down
        expr: job:up:sum == 0
        for: 2m
        keep_firing_for: 2m
        labels: {severity: page, value: "{{ $value }}"}
        annotations:
          summary: "{{ $labels.job }} in {{ $externalLabels.region }} {{ with query \\"count(up)\\" }}{{ . | first | value }}{{ end }}"
  - name: second
    rules:
      - alert: Watched
        expr: ALERTS{alertname="Down",alertstate="firing"} == 1 and on () job:up:sum
      - record: later
        expr: count_over_time(up[2m1s:]) + 0.1
      - record: joined
        expr: up * on (job) group_left () info
`;
const test = (...lines: string[]) =>
  `rule_files: [r*.yaml]\nevaluation_interval: 30s\ntests:\n  - interval: 1m\n    external_labels: {region: eu}\n    input_series:\n` +
  `      - {series: 'up{job="api",i="1"}', values: "1 0x5 1x5"}\n      - {series: 'up{job="web"}', values: "1x5 stale 1x5"}\n${
    lines.map((line) => `    ${line}\n`).join("")
  }`;
const alertAt = (time: string, ...alerts: string[]) => [
  "alert_rule_test:",
  `  - {eval_time: ${time}, alertname: Down, exp_alerts: [${alerts.join(", ")}]}`,
];
const exprAt = (time: string, expr: string, ...samples: string[]) => [
  "promql_expr_test:",
  `  - {eval_time: ${time}, expr: '${expr}', exp_samples: [${samples.join(", ")}]}`,
];
/** Two of them can be joined only as long as one has a value. */
const withInfo = (values: string) =>
  test(
    `  - {series: 'info{job="api",v="1"}', values: "1 1"}`,
    `  - {series: 'info{job="api",v="2"}', values: "${values}"}`,
    ...exprAt("1m", "absent(up)"),
  );
const DOWN =
  '{exp_labels: {job: api, severity: page, value: "0"}, exp_annotations: {summary: "api in eu 2"}}';

const CASES: [name: string, passes: boolean, test: string][] = [
  ["not yet", true, test(...alertAt("2m59s"))],
  ["firing", true, test(...alertAt("3m", DOWN))],
  ["firing between evaluations", true, test(...alertAt("3m29s", DOWN))],
  ["expected too early", false, test(...alertAt("2m59s", DOWN))],
  ["not expected", false, test(...alertAt("3m"))],
  ["kept firing", true, test(...alertAt("8m59s", DOWN.replace("eu 2", "eu 1")))],
  ["over", true, test(...alertAt("9m"))],
  ["another label", false, test(...alertAt("3m", DOWN.replace("page", "mail")))],
  ["another annotation", false, test(...alertAt("3m", DOWN.replace("eu 2", "eu 3")))],
  [
    "no annotation",
    false,
    test(...alertAt("3m", '{exp_labels: {job: api, severity: page, value: "0"}}')),
  ],
  [
    "a label too few",
    false,
    test(
      ...alertAt(
        "3m",
        '{exp_labels: {job: api, severity: page}, exp_annotations: {summary: "api in eu 2"}}',
      ),
    ),
  ],
  ["an alert too many", false, test(...alertAt("3m", DOWN, DOWN))],
  [
    "recorded",
    true,
    test(
      ...exprAt(
        "1m",
        "job:up:sum",
        '{labels: "job:up:sum{job=\\"api\\"}", value: 0}',
        '{labels: "job:up:sum{job=\\"web\\"}", value: 1}',
      ),
    ),
  ],
  [
    "another value",
    false,
    test(
      ...exprAt(
        "1m",
        "job:up:sum",
        '{labels: "job:up:sum{job=\\"api\\"}", value: 1}',
        '{labels: "job:up:sum{job=\\"web\\"}", value: 1}',
      ),
    ),
  ],
  [
    "a sample too few",
    false,
    test(...exprAt("1m", "job:up:sum", '{labels: "job:up:sum{job=\\"api\\"}", value: 0}')),
  ],
  ["the end of what was recorded", true, test(...exprAt("6m", 'job:up:sum{job="web"}'))],
  [
    "the series of alerts",
    true,
    test(
      ...exprAt(
        "2m",
        'ALERTS{alertname="Down"}',
        '{labels: "ALERTS{alertname=\\"Down\\",alertstate=\\"pending\\",job=\\"api\\",severity=\\"page\\",value=\\"0\\"}", value: 1}',
      ),
    ),
  ],
  [
    "the time of alerts",
    true,
    test(
      ...exprAt(
        "4m",
        'ALERTS_FOR_STATE{alertname="Down"} * 1',
        '{labels: "{alertname=\\"Down\\",job=\\"api\\",severity=\\"page\\",value=\\"0\\"}", value: 60}',
      ),
    ),
  ],
  [
    "samples only as far as evaluated",
    true,
    test(...exprAt("89s", 'up{i="1"} + 0', '{labels: "{i=\\"1\\",job=\\"api\\"}", value: 1}'))
      .replace("interval: 30s", "interval: 2m"),
  ],
  [
    "subqueries of rules",
    true,
    test(...exprAt("2m", 'later{job="web"}', '{labels: "later{job=\\"web\\"}", value: 5.1}')),
  ],
  ["a scalar", true, test(...exprAt("0", "1 + 1", '{labels: "{}", value: 2}'))],
  [
    "NaN is never what was expected",
    false,
    test(...exprAt("0", "0 / 0", '{labels: "{}", value: .nan}')),
  ],
  ["infinity", true, test(...exprAt("0", "1 / 0", '{labels: "{}", value: .inf}'))],
  ["a range", false, test(...exprAt("0", "up[1m]"))],
  ["an expression that is none", false, test(...exprAt("0", "sum("))],
  [
    "subqueries of tests",
    true,
    test(
      ...exprAt(
        "2m",
        'count_over_time(up{job="web"}[2m1s:])',
        '{labels: "{job=\\"web\\"}", value: 5}',
      ),
    ),
  ],
  ["no alertname", false, test("alert_rule_test:", "  - {eval_time: 1m}")],
  ["an unknown field", false, test("alerts: []")],
  ["a group twice in the order", false, `group_eval_order: [a, a]\n${test()}`],
  [
    "groups in another order",
    true,
    `group_eval_order: [second, first]\n${
      test(
        ...exprAt(
          "0",
          "later",
          '{labels: "later{job=\\"api\\",i=\\"1\\"}", value: 1.1}',
          '{labels: "later{job=\\"web\\"}", value: 1.1}',
        ),
      )
    }`,
  ],
  ["values that are none", false, test().replace("1x5 stale", "1y5")],
  ["an evaluation that fails", false, withInfo("1 1")],
  ["an evaluation that does not", true, withInfo("_ _")],
  ["a pattern of which there is no file", true, test().replace("r*.yaml", "none*.yaml")],
];

describe("runTestFile()", () => {
  it.each(CASES)("%s", (_, passes, text) => {
    write("rules.yaml", RULES);
    const path = write("test.yaml", text);
    let isPassed: boolean;
    try {
      isPassed = runTestFile(path).verdicts.every(({ failures }) => failures.length === 0);
    } catch {
      isPassed = false;
    }
    expect(isPassed).toBe(passes);
    if (hasPromtool) {
      const { status, stdout, stderr } = promtool("test", "rules", path);
      expect([status === 0, stdout + stderr]).toEqual([passes, expect.anything()]);
    }
  });

  it("refuses a file that names a rule file that is not there", () => {
    const path = write("test.yaml", test().replace("r*.yaml", "none.yaml"));
    expect(() => runTestFile(path)).toThrow(`there is no file ${join(folder, "none.yaml")}`);
  });

  it("counts neighbouring floats as equal only where the file says so", () => {
    const exact = test(...exprAt("0", "vector(0.1 + 0.2)", '{labels: "{}", value: 0.3}'));
    const failures = (text: string) => runTestFile(write("test.yaml", text)).verdicts[0]!.failures;
    write("rules.yaml", RULES);
    expect(failures(exact)).toHaveLength(1);
    expect(failures(`fuzzy_compare: true\n${exact}`)).toEqual([]);
    expect(failures(`fuzzy_compare: true\n${exact.replace("0.1 + 0.2", "0.3000000000000002")}`))
      .toHaveLength(1);
  });
});

describe("runTestFile(), what promtool does not know", () => {
  const CONDITIONS = `groups:
  - name: conditions
    interval: 10s
    rules:
      - alert: Often
        expr: cpu > 90
        annotations: {pgvigil_hold: 2 of 3}
      - alert: Hot
        expr: cpu > 90
        labels: {pgvigil_incident: P1}
        annotations: {pgvigil_clear_expr: cpu < 80}
`;
  /** Tests that of the values, one a minute, an alert fires in the minutes that are `f`. */
  const failures = (alert: string, values: string, states: string) => {
    const [labels, annotations] = alert === "Often"
      ? ["", "pgvigil_hold: 2 of 3"]
      : ["pgvigil_incident: P1", "pgvigil_clear_expr: cpu < 80"];
    const firing = `{exp_labels: {${labels}}, exp_annotations: {${annotations}}}`;
    const expected = [...states.replaceAll(" ", "")].map((state, minute) =>
      `      - {eval_time: ${minute}m, alertname: ${alert}, exp_alerts: [${
        state === "f" ? firing : ""
      }]}\n`
    );
    write("rules.yaml", CONDITIONS);
    const path = write(
      "test.yaml",
      `rule_files: [rules.yaml]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n` +
        `      - {series: cpu, values: "${values}"}\n    alert_rule_test:\n${expected.join("")}`,
    );
    return runTestFile(path).verdicts.flatMap((verdict) => verdict.failures);
  };

  it.each([
    ["Often", "91 85 91 85 91 91", "- - f - - f"],
    ["Often", "91 85 85 91 85 85", "- - - - - -"],
    ["Often", "91 stale 91 85", "- - f -"],
    ["Hot", "85 91 85 80 79 85 91", "- f f f - - f"],
    ["Hot", "91 stale _ _ 85 79", "f f f f f -"],
  ])("%s: %s fires like %s", (alert, values, states) => {
    expect(failures(alert, values, states)).toEqual([]);
    const last = states.endsWith("f") ? "-" : "f";
    expect(failures(alert, values, states.slice(0, -1) + last)).toHaveLength(1);
  });

  it.skipIf(!hasPromtool)("stands where promtool accepts it, also as we write it", () => {
    const path = write("conditions.yaml", CONDITIONS);
    const written = write("written.yaml", printRuleFile(readRuleFile(path)));
    const { status, stdout, stderr } = promtool("check", "rules", path, written);
    expect([status, stdout + stderr]).toEqual([0, expect.stringContaining("SUCCESS")]);
  });

  it("is refused by a check, with line and column", () => {
    const path = write(
      "bad.yaml",
      CONDITIONS.replace("2 of 3", "4 of 3").replace("cpu < 80", '"cpu[5m]"').replace("P1", "P5"),
    );
    const { status, stderr } = run(["check", path]);
    expect(status).toBe(1);
    expect(stderr.trim().split("\n").map((line) => line.slice(path.length + 1))).toEqual([
      expect.stringMatching(
        /^7:37: group "conditions", rule 1, "Often": annotation "pgvigil_hold"/,
      ),
      expect.stringMatching(/^10:36: group "conditions", rule 2, "Hot": label "pgvigil_incident"/),
      expect.stringMatching(
        /^11:44: group "conditions", rule 2, "Hot": annotation "pgvigil_clear_/,
      ),
    ]);
  });
});

/** Ways to show a number, and what else a template may do with a sample. */
const TEMPLATES = [
  ...[
    "{{ $value }}",
    "{{ $value | humanize }}",
    "{{ $value | humanize1024 }}",
    "{{ $value | humanizeDuration }}",
  ],
  ...[
    "{{ $value | humanizePercentage }}",
    "{{ $labels }}",
    "{{ print $value 1 }}",
    "{{ $value | html }}",
  ],
  ...[
    "e",
    "f",
    "g",
    "v",
    ".0f",
    ".1f",
    ".2e",
    ".3g",
    "8.2f",
    "-9.1f",
    "09.2f",
    "+.1f",
    "d",
    "s",
    "q",
    "t",
  ].map(
    (verb) => `{{ printf "%${verb}|" $value }}`,
  ),
  ...["{{ if gt $value 0.0 }}up{{ else }}down{{ end }}", '{{ $labels.i | printf "%5s|%q" "a" }}'],
  ...[
    "{{ eq $value 1 }}",
    "{{ nil }}",
    "{{ $labels.a.b }}",
    "{{ toUpper $value }}",
    "{{ index $labels 1 }}",
  ],
];

describe("expandTemplate()", () => {
  it.skipIf(!hasPromtool)("writes what promtool writes, to the letter", () => {
    // Beyond 64 bits of seconds promtool's durations overflow.
    const values = [
      0.5,
      1.5,
      2.5,
      0.125,
      99.95,
      999.95,
      1023.5,
      1e6,
      123456789,

      1e-7,
      -0.05,
      -3600.5,
      90061,
    ];
    const drawn = fc.sample(fc.double({ noNaN: true, min: -1e15, max: 1e15 }), {
      seed: 5,
      numRuns: 60,
    });
    const samples = [...values, ...drawn].filter((value) => value !== 0);
    const annotations = Object.fromEntries(TEMPLATES.map((text, index) => [`a${index}`, text]));
    const rule = { alert: "Shown", expr: "x", annotations };
    write("rules.yaml", JSON.stringify({ groups: [{ name: "g", rules: [rule] }] }));
    const path = write(
      "test.yaml",
      JSON.stringify({
        rule_files: ["rules.yaml"],
        tests: [{
          interval: "1m",
          input_series: samples.map((value, i) => ({
            series: `x{i="${i}"}`,
            values: String(value),
          })),
          alert_rule_test: [{
            eval_time: "0m",
            alertname: "Shown",
            exp_alerts: samples.map((value, i) => ({
              exp_labels: { i: String(i) },
              exp_annotations: Object.fromEntries(TEMPLATES.map((text, index) => [
                `a${index}`,
                expandTemplate(text, {
                  name: "__alert_Shown",
                  labels: { __name__: "x", i: String(i) },
                  value,
                }),
              ])),
            })),
          }],
        }],
      }),
    );
    const { status, stdout, stderr } = promtool("test", "rules", path);
    expect([status, stdout + stderr]).toEqual([0, expect.stringContaining("SUCCESS")]);
    expect(runTestFile(path).verdicts[0]!.failures).toEqual([]);
  });
});

describe("shipped rules", () => {
  it.each(shipped(".test.yaml"))(
    "%s passes, and would not if a rule never fired or always",
    (path) => {
      const file = parseRuleTestFile(readFileSync(path, "utf8"));
      const groups = readRuleFile(path.replace(".test.", ".rules."));
      /** What fails of the tests that name a rule, if its expression were another. */
      const failWith = (rule: Rule, expr: string) =>
        testRules(
          { ...file, tests: file.tests.filter(({ name }) => name.startsWith(`${rule.name} `)) },
          groups.map((group) => ({
            ...group,
            rules: group.rules.filter((one) => one === rule).map((one) => ({ ...one, expr })),
          })),
        ).flatMap(({ name, failures }) => failures.map((failure) => `${name}: ${failure}`));
      for (const rule of groups.flatMap(({ rules }) => rules)) {
        expect(failWith(rule, rule.expr)).toEqual([]);
        expect(failWith(rule, "vector(0) > 1").length, `${rule.name} never fires`).toBeGreaterThan(
          0,
        );
        const compared = rule.expr.replace(/ (?:[<>=]=?) [\d.e^ ]+(?=\n|$| or| and)/g, "");
        const always = compared === rule.expr ? "vector(1)" : compared;
        expect(failWith(rule, always).length, `${rule.name} fires whatever the value`)
          .toBeGreaterThan(0);
      }
      expect(runTestFile(path).verdicts.flatMap(({ failures }) => failures)).toEqual([]);
    },
  );

  it.skipIf(!hasPromtool)("are accepted by promtool, also as we write them", () => {
    expect(promtool("test", "rules", ...shipped(".test.yaml")).status).toBe(0);
    for (const path of shipped(".rules.yaml")) {
      const written = write(basename(path), printRuleFile(readRuleFile(path)));
      const { status, stdout, stderr } = promtool("check", "rules", path, written);
      expect([status, stdout + stderr]).toEqual([0, expect.stringContaining("SUCCESS")]);
    }
  });

  it("are the five as their users wrote them", () => {
    const [group] = readRuleFile(join(SHIPPED, "partner.rules.yaml"));
    expect(
      group!.rules.map((rule) =>
        rule.kind === "alerting" && [rule.name, rule.expr, rule.forSeconds, rule.severity]
      ),
    ).toEqual([
      [
        "PartnerAPIHighErrorRate",
        'rate(partner_api_requests_total{status!="success"}[5m]) > 0.1',
        120,
        "warning",
      ],
      ["PartnerAPIDown", 'up{job="partner_api"} == 0', 60, "critical"],
      ["QueueDepthHigh", "queue_depth > 1000", 300, "warning"],
      [
        "SyncFailureRateHigh",
        'rate(sync_duration_seconds_count{status="failed"}[10m]) > 0.05',
        300,
        "warning",
      ],
      [
        "DataProcessingStuck",
        "increase(data_processing_duration_seconds_count[1h]) == 0 or absent(data_processing_duration_seconds_count)",
        1800,
        "critical",
      ],
    ]);
  });

  it("have a severity and a team", () => {
    for (const path of shipped(".rules.yaml")) {
      for (const rule of readRuleFile(path).flatMap(({ rules }) => rules)) {
        expect([rule.name, rule.labels]).toEqual([
          rule.name,
          {
            severity: expect.stringMatching(/^(info|warning|critical)$/),
            team: expect.any(String),
          },
        ]);
      }
    }
  });
});

describe("docs/rules.md", () => {
  it("has examples that pass their tests", () => {
    const page = readFileSync("docs/rules.md", "utf8");
    const files = [...page.matchAll(/^```yaml\n(# (\S+)\n[^]*?)^```/gm)]
      .map(([, text, name]) => write(name!, text!));
    const tests = files.filter((path) => path.endsWith(".test.yaml"));
    expect(tests).toHaveLength(2);
    for (const path of tests) {
      expect(runTestFile(path).verdicts.flatMap(({ failures }) => failures)).toEqual([]);
    }
  });
});

describe("npm run rules", () => {
  it("checks files, and says what is wrong in which", () => {
    const good = write("good.yaml", RULES);
    const bad = write("bad.yaml", "groups:\n- name: g\n  rules:\n  - alert: A\n    expr: sum(\n");
    const none = join(folder, "none.yaml");
    const { status, stdout, stderr } = run(["check", bad, good, none, folder]);
    expect(stderr).toMatch(
      /bad\.yaml:5:\d+: group "g", rule 1, "A": could not parse expression: 1:\d+: parse error/,
    );
    expect(stderr).toContain(`there is no file ${none}\n${folder} is a folder\n`);
    expect(stdout).toBe(`${good}: 5 rules\n`);
    expect(status).toBe(1);
  });

  it("warns of rules that several files have, and of what is lost when they are saved", () => {
    const one = write("one.yaml", "groups: [{name: g, rules: [{alert: A, expr: up}]}]\n");
    const two = write(
      "two.yaml",
      "groups: [{name: h, interval: 30s, rules: [{alert: A, expr: down}]}]\n",
    );
    const { status, stdout, stderr } = run(["check", one, two]);
    expect(stdout).toBe(`${one}: 1 rule\n${two}: 1 rule\n`);
    expect(stderr).toBe(
      'warning: rule A is in several groups: "g", "h"\n' +
        'warning: group "h": interval is no whole number of minutes; rules are evaluated once a minute\n',
    );
    expect(status).toBe(0);
  });

  it("tests files, and fails with what was expected and what came", () => {
    write("rules.yaml", RULES);
    const good = write("good.yaml", test(...alertAt("3m", DOWN)));
    const bad = write("bad.yaml", test(...alertAt("3m")));
    const { status, stdout, stderr } = run(["test", good, bad]);
    expect(stdout).toBe(`${good}: 1 of 1 tests passed\n${bad}: 0 of 1 tests passed\n`);
    expect(stderr).toContain(
      `${bad}: test 1: FAILED\n  alertname: Down, time: 3m\n    expected: none\n    got:`,
    );
    expect(status).toBe(1);
  });

  it.each([
    [[], /^One of check, test, import, .* is needed: npm run rules help tells what they do\.$/],
    [["toString"], /^One of check, /],
    [["check"], /^check needs a file\.$/],
    [["export", "a", "b"], /^export writes one file\.$/],
    [["disable"], /^disable needs a group, and at most one name\.$/],
    [["enable", "a", "b", "c"], /^enable needs a group, and at most one name\.$/],
    [["delete", "a", "b"], /^delete needs one group\.$/],
    [["check", "a", "--replace"], /^--replace and --dry-run go with import only\.$/],
    [["delete", "a", "--dry-run"], /^--replace and --dry-run go with import only\.$/],
  ])("refuses %j", (args, message) => {
    expect(() => parseOptions(args, {})).toThrow(message);
  });

  it("fails with what it refuses, and does not repeat what may be a password", () => {
    const { status, stderr } = run(["export", "--db-url", "foo"]);
    expect([status, stderr]).toEqual([
      1,
      expect.stringMatching(/^This is not a connection string: postgresql:\/\/\S+, /),
    ]);
    expect(stderr).not.toContain("foo");
  });

  it.each([["help"], ["--help"], ["import", "-h"]])("is asked how it is used: %s", (...args) => {
    expect(parseOptions(args, {}).command).toBe("help");
  });

  it("tells how it is used", () => {
    const { status, stdout } = run(["help"]);
    expect([status, stdout]).toEqual([0, expect.stringContaining("npm run rules -- check <file>")]);
  });

  it.each([
    [["--dry-run", "FILE"], "--dry-run"],
    [["FILE", "--replace"], "--replace"],
    [["FILE", "--replace", "OTHER"], "--replace"],
    [["FILE", "--db-url", "postgres://elsewhere/db"], "--db-url"],
    [["FILE", "--db-url=postgres://elsewhere/db"], "--db-url"],
    [["FILE", "--dry-run", "--replace"], "--dry-run and --replace"],
  ])("does nothing when npm has taken an option away: import %j", (args, taken) => {
    const file = write("rules.yaml", RULES);
    const { status, stderr } = spawnSync(
      "npm",
      ["run", "rules", "import", ...args.map((arg) => arg.replace(/FILE|OTHER/, file))],
      { encoding: "utf8", env: { ...process.env, DATABASE_URL: "postgres://localhost:1/none" } },
    );
    expect([status, stderr]).toEqual([
      1,
      expect.stringContaining(
        `npm took ${taken} for its own; put -- before the options: npm run rules -- import …`,
      ),
    ]);
  });

  it("takes options behind --, through npm", () => {
    const { status, stderr } = spawnSync(
      "npm",
      ["run", "rules", "--", "import", write("r.yaml", RULES), "--dry-run", "--replace"],
      { encoding: "utf8", env: { ...process.env, DATABASE_URL: "postgres://localhost:1/none" } },
    );
    expect([status, stderr]).toEqual([1, expect.stringContaining("Nothing listens there.")]);
  });

  it.each([[[]], [["--replace"]], [["--dry-run"]]])(
    "does not take a file without groups for one that deletes: %j",
    (options) => {
      const empty = write("empty.yaml", "groups: []\n");
      const { status, stderr } = run(["import", empty, ...options], {
        DATABASE_URL: "postgres://localhost:1/none",
      });
      expect([status, stderr]).toEqual([
        1,
        `There are no groups in ${empty}; nothing was changed.\n`,
      ]);
    },
  );

  it("does not connect for a file that is wrong", () => {
    const bad = write("bad.yaml", "groups: 1\n");
    const { status, stderr } = run(["import", bad], {
      DATABASE_URL: "postgres://localhost:1/none",
    });
    expect([status, stderr]).toEqual([1, `${bad}:1:9: groups must be a list\n`]);
  });
});
