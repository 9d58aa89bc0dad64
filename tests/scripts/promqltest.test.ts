import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compareValue, isAlmostEqual } from "../../scripts/promqltest/compare-result.ts";
import {
  type EvalCommand,
  type LoadCommand,
  parseScript,
} from "../../scripts/promqltest/parse-script.ts";
import { pinTimes } from "../../scripts/promqltest/pin-times.ts";
import { printResults } from "../../scripts/promqltest/print-results.ts";
import { type Outcome, runCase } from "../../scripts/promqltest/run-case.ts";
import { runScript } from "../../scripts/promqltest/run-script.ts";
import { TestStorage } from "../../scripts/promqltest/test-storage.ts";
import { parseExpr } from "../../shared/promql/parse-expr.ts";
import { printExpr } from "../../shared/promql/print-expr.ts";
import type { SampledSeries, Selection } from "../../shared/promql/series.ts";

const DATA = resolve(
  process.env["PROMQLTEST_DATA"] ?? join(import.meta.dirname, "../../../shared/data/promqltest"),
);

function readEval(text: string): EvalCommand {
  const [command, ...rest] = parseScript(text);
  if (command?.kind !== "eval" || rest.length > 0) throw new Error("no eval, or not it alone");
  return command;
}

function readLoad(text: string): LoadCommand {
  const [command] = parseScript(text);
  if (command?.kind !== "load") throw new Error("no load");
  return command;
}

describe("parseScript()", () => {
  it("reads commands up to blank lines and comments, indented or not", () => {
    const commands = parseScript(`
      # a comment
      load 1m30s
        x 1
        # ends the load
      clear
      EVAL instant at 5m x
    `.replace("EVAL", "eval"));
    expect(commands.map(({ kind }) => kind)).toEqual(["load", "clear", "eval"]);
    expect(commands[0]).toMatchObject({
      step: 90_000,
      isConverted: false,
      series: [{ values: [1] }],
    });
    expect(commands[2]).toMatchObject({ line: 7, text: "x", start: 300_000, end: 300_000 });
  });

  it("keeps the last of two lines of a load about the same series", () => {
    expect(readLoad("load 1m\nx{a='1', b='2'} 1\nx{b='2', a='1'} 2").series).toMatchObject([
      { values: [2] },
    ]);
  });

  it("knows series that have start timestamps, after a line for one or for all", () => {
    const { series } = readLoad("load 1m\na 1\nb@st 0s\nb 1\nc 1\n@st -1m\nd 1\ne 1");
    expect(series.map(({ hasStartTimes }) => hasStartTimes)).toEqual([
      false,
      true,
      false,
      true,
      true,
    ]);
  });

  it("reads range queries and range vectors", () => {
    expect(readEval("eval range from 1m to 5m step 30s rate(x[5m] offset 1m)\n{} 1 2"))
      .toMatchObject({
        text: "rate(x[5m] offset 1m)",
        isRange: true,
        start: 60_000,
        end: 300_000,
        step: 30_000,
      });
    expect(
      readEval("eval instant at 9m x[1m]\nexpect range vector from 10s to 1m step 10s\nx 1 2"),
    ).toMatchObject({
      isRange: false,
      isRangeVector: true,
      start: 10_000,
      end: 60_000,
      step: 10_000,
    });
  });

  it.each([
    ["1.5e1", { kind: "scalar", value: 15 }],
    ["0x1F", { kind: "scalar", value: 31 }],
    ['expect string "a\\n"', { kind: "string", value: "a\n" }],
    ["expect string `a\\n`", { kind: "string", value: "a\\n" }],
    ['expect string ""', { kind: "string", value: "" }],
  ])("reads what is expected: %s", (line, expected) => {
    expect(readEval(`eval instant at 0 x\n${line}`).expected).toEqual(expected);
  });

  it("ends a case after a number, as it cannot have more", () => {
    expect(parseScript("eval instant at 0 1\n1\nclear").map(({ kind }) => kind)).toEqual([
      "eval",
      "clear",
    ]);
  });

  it.each([
    ["eval_fail instant at 0 x", "fail", "whatever", true],
    ["eval_fail instant at 0 x\nexpected_fail_message a b", "fail", "a b", true],
    ["eval_fail instant at 0 x\nexpected_fail_message a b", "fail", "a b c", false],
    ["eval_fail instant at 0 x\nexpected_fail_regexp a.b", "fail", "see a b c", true],
    ["eval_fail instant at 0 x\nexpected_fail_regexp a.b", "fail", "ab", false],
    ["eval instant at 0 x\nexpect fail", "fail", "whatever", true],
    ["eval instant at 0 x\nexpect fail msg:a b", "fail", "a b", true],
    ["eval instant at 0 x\nexpect fail msg: a b", "fail", "a", false],
    ["eval_warn instant at 0 x", "warn", "whatever", true],
    ["eval_info range from 0 to 1m step 1m x", "info", "whatever", true],
    ["eval instant at 0 x\nexpect warn regex: (?i)^A.*b$", "warn", "a to b", true],
    ["eval instant at 0 x\nexpect info regex: ^a", "info", "ba", false],
    ["eval_ordered instant at 0 x", "ordered", "", true],
    ["eval instant at 0 x\nexpect ordered", "ordered", "", true],
    ["eval instant at 0 x\nexpect no_warn", "no_warn", "", true],
  ])("knows what %j expects", (script, kind, text, isMatch) => {
    const tests = readEval(script).expectations[kind as "fail"];
    expect(tests.length).toBeGreaterThan(0);
    expect(tests.every(({ matches }) => matches(text))).toBe(isMatch);
  });

  it.each([
    ["load", 1],
    ["load 5 x\nx 1", 1],
    ["load 1m\nx 1\ny 1y\nz 1", 3],
    ["evaluate this", 1],
    ["eval instant x", 1],
    ["eval instant at now x\nx 1", 1],
    ["eval range from 5m to 1m step 1m x", 1],
    ["eval instant at 0 x\nexpect nothing", 2],
    ["eval instant at 0 x\nexpect string abc", 2],
    ["eval instant at 0 x\nexpect warn\nexpect no_warn", 3],
    ["eval instant at 0 x\nexpect info\nexpect no_info", 3],
    ["eval instant at 0 x\nexpect fail\nexpect fail", 3],
    ["eval instant at 0 x\nexpect range vector from 1m", 2],
    ["eval instant at 0 x\nexpect fail regex: (", 2],
    ["eval instant at 0 x\nx 1 2", 2],
    ["eval instant at 0 x\nx{ 1", 2],
    ["delete", 1],
  ])("names the line of %j that it cannot read, and goes on", (script, line) => {
    const commands = parseScript(`${script}\n\nclear`);
    expect(commands.filter(({ kind }) => kind === "unreadable")).toMatchObject([{ line }]);
    expect(commands.at(-1)).toEqual({ kind: "clear" });
  });

  it("keeps the lines of a load that it can read", () => {
    const load = parseScript("load 1m\nx 1\ny 1y\nz 1").find(({ kind }) => kind === "load");
    expect(load).toMatchObject({ series: [{ values: [1] }, { values: [1] }] });
  });
});

describe("isAlmostEqual()", () => {
  it.each([
    [1, 1 + 1.9e-6, true],
    [1, 1 + 2.1e-6, false],
    [-1e300, -1e300 * (1 + 1.9e-6), true],
    [1, -1, false],
    [0, 2.2e-314, true],
    [0, 2.3e-314, false],
    [0, 1e-9, false],
    [NaN, NaN, true],
    [NaN, 0, false],
    [Infinity, Infinity, true],
    [Infinity, -Infinity, false],
    [Infinity, Number.MAX_VALUE, false],
    [Number.MAX_VALUE, Number.MAX_VALUE * (1 - 1e-7), true],
    [0, -0, true],
  ])("of %d and %d is %s", (a, b, isEqual) => {
    expect(isAlmostEqual(a, b)).toBe(isEqual);
    expect(isAlmostEqual(b, a)).toBe(isEqual);
  });
});

describe("pinTimes()", () => {
  it.each([
    ["x", "x @ 60.000"],
    ["x offset 5m", "x @ 60.000 offset 5m"],
    ["x @ 5", "x @ 5.000"],
    ["x @ start()", "x @ 60.000"],
    ["rate(x[5m])", "rate(x[5m] @ 60.000)"],
    ["rate(x[5m:1m])", "rate(x[5m:1m] @ 60.000)"],
    ["-(x + on(a) y)", "-(x @ 60.000 + on (a) y @ 60.000)"],
    ["topk by (a) (scalar(x), y)", "topk by (a) (scalar(x @ 60.000), y @ 60.000)"],
    ["sum_over_time(minute()[1h:1m])", "sum_over_time(minute()[1h:1m] @ 60.000)"],
  ])("pins %s", (text, pinned) => {
    expect(printExpr(pinTimes(parseExpr(text), 60_000)!)).toBe(pinned);
  });

  it.each(["time()", "x > time()", "sum(timestamp(x))", "hour(x)", "predict_linear(x[1h], 5)"])(
    "does not pin %s, which goes by the time of evaluation",
    (text) => expect(pinTimes(parseExpr(text), 60_000)).toBeUndefined(),
  );
});

describe("TestStorage", () => {
  const everything = { matchers: [], from: -Infinity, until: Infinity };

  function load(...scripts: string[]): TestStorage {
    const storage = new TestStorage();
    for (const script of scripts) storage.load(readLoad(script));
    return storage;
  }

  it("adds later loads to earlier ones, in order of time", () => {
    const storage = load("load 1m\nx _ 1 2", "load 30s\nx 9 8 7\ny 1", "load 1m\nx _ _ stale");
    expect(storage.select(everything)).toEqual([
      {
        labels: { __name__: "x" },
        times: [0, 30_000, 60_000, 120_000],
        values: [9, 8, 7, NaN],
        stale: [3],
      },
      { labels: { __name__: "y" }, times: [0], values: [1], stale: [] },
    ]);
    storage.clear();
    expect(storage.select(everything)).toEqual([]);
  });

  it("has what a load adds to a series that was asked for before", () => {
    const storage = load("load 1m\nx 1");
    expect(storage.select(everything)[0]!.values).toEqual([1]);
    storage.load(readLoad("load 1m\nx _ 2"));
    expect(storage.select(everything)[0]!.values).toEqual([1, 2]);
  });

  it("selects by all matchers", () => {
    const storage = load("load 1m\nx{a='1'} 1\nx{a='2'} 1\ny{a='1'} 1");
    const selected = storage.select({
      ...everything,
      matchers: [{ name: "__name__", op: "=", value: "x" }, {
        name: "a",
        op: "!~",
        value: "[2-9]",
      }],
    });
    expect(selected.map(({ labels }) => labels)).toEqual([{ __name__: "x", a: "1" }]);
  });

  it.each([
    [0, 59_999, undefined],
    [0, 60_000, "native histograms"],
    [120_000, 180_000, "native histograms"],
    [120_001, 180_000, undefined],
  ])("is out of scope from %d to %d: %s", (from, until, reason) => {
    const storage = load("load 1m\nx 1 {{}} {{}} 1");
    const found = storage.outOfScope([{ matchers: [], from, until }]);
    if (reason === undefined) expect(found).toBeUndefined();
    else expect(found).toContain(reason);
  });

  it("goes by the series that match", () => {
    const storage = load("load 1m\nx {{}}\ny@st 0s\ny 1\nz 1");
    const reasonOf = (name: string) =>
      storage.outOfScope([
        { ...everything, matchers: [{ name: "__name__", op: "=", value: name }] },
      ]);
    expect(reasonOf("x")).toContain("native histograms");
    expect(reasonOf("y")).toContain("start timestamps");
    expect(reasonOf("z")).toBeUndefined();
    expect(storage.select(everything).find(({ labels }) => labels["__name__"] === "x")!.times)
      .toEqual([]);
  });

  it("knows the native histograms that classic ones become, where they have samples", () => {
    const script =
      "5m\nx_bucket{a='b', le='1'} _ 1\nx_bucket{a='b', le='+Inf'} _ 1\ny 1\nz_bucket{le='a'} 1";
    const storage = load(`load_with_nhcb ${script}`);
    const reasonOf = (name: string, a: string, until: number) =>
      storage.outOfScope([{
        matchers: [{ name: "__name__", op: "=", value: name }, { name: "a", op: "=", value: a }],
        from: 0,
        until,
      }]);
    expect(reasonOf("x", "b", 300_000)).toContain("native histograms");
    expect(reasonOf("x", "b", 299_999)).toBeUndefined();
    expect(reasonOf("x", "", 300_000)).toBeUndefined();
    expect(reasonOf("x_bucket", "b", 300_000)).toBeUndefined();
    expect(reasonOf("z", "", 300_000)).toBeUndefined();
    expect(storage.select(everything).filter(({ times }) => times.length > 0)).toHaveLength(4);
    expect(load(`load ${script}`).outOfScope([everything])).toBeUndefined();
  });
});

const LOAD = `
load 1m
  x{a="b"} 1+1x10
  x{a="c"} 5x10
  n 1 {{sum:1}} 1
`;

const outcomeOf = (script: string) => runScript(`${LOAD}\n${script}`)[0]!.outcome;

describe("runScript()", () => {
  it.each([
    'eval instant at 2m x\nx{a="b"} 3\nx{a="c"} 5',
    "eval instant at 2m sum(x)\n{} 8.000007",
    "eval instant at 2m 1 + 1\n2",
    'eval instant at 2m "a"\nexpect string "a"',
    "eval instant at 2m nothing",
    'eval instant at 2m sort_desc(x)\nexpect ordered\nx{a="c"} 5\nx{a="b"} 3',
    'eval instant at 2m x{a="b"}[2m]\nexpect range vector from 1m to 2m step 1m\nx{a="b"} 2 3',
    'eval range from 0 to 2m step 1m x{a="b"} > 1\nx{a="b"} _ 2 3',
    "eval instant at 2m x + on() x\nexpect fail",
    "eval instant at 2m x + on() x\nexpect fail regex: duplicate|many-to-many",
    "eval range from 0 to 2m step 1m x + on() x\nexpect fail",
    "eval instant at 2m x +\nexpect fail",
    "eval instant at 2m rate(x[2m])\nexpect info\n{a='b'} 0.016666666\n{a='c'} 0",
    "eval instant at 2m quantile(2, x)\nexpect warn regex: quantile\n{} Inf",
    "eval instant at 2m x\nexpect no_warn\nexpect no_info\nx{a='b'} 3\nx{a='c'} 5",
    "eval instant at 0 n\nn 1",
    'eval instant at 2m x{a="b"} @ start()\nx{a="b"} 3',
    "eval instant at 899s count(x)\n{} 2",
    "eval instant at 15m count(x)",
    "eval instant at 2m count_over_time(vector(1)[5m:])\n{} 5",
    'eval instant at 0 label_replace(abs(x), "was", "$1", "__name__", "(.*)")\n{a="b", was="x"} 1\n{a="c", was="x"} 5',
  ])("passes %j", (script) => {
    expect(outcomeOf(script)).toEqual({ kind: "passed" });
  });

  it.each([
    ['eval instant at 2m x\nx{a="b"} 3', 'x{a="c"} 5'],
    ["eval instant at 2m sum(x)\n{} 8.00002", "8"],
    ["eval instant at 2m sum(x)\n8", "{} 8"],
    ["eval instant at 2m sum(x)", "{} 8"],
    ["eval instant at 2m sum(x)\n{} stale", "8"],
    ["eval instant at 2m 1 + 1\n3", "scalar 2"],
    ["eval instant at 2m 1 + 1\n{} 2", "scalar 2"],
    ['eval instant at 2m "a"\nexpect string "b"', '"a"'],
    ['eval instant at 2m "a"', '"a"'],
    ["eval instant at 2m nothing\nx 1", "nothing"],
    ['eval instant at 2m sort_desc(x)\nexpect ordered\nx{a="b"} 3\nx{a="c"} 5', 'x{a="c"} 5; '],
    [
      'eval instant at 2m x{a="b"}[2m]\nexpect range vector from 1m to 2m step 1m\nx{a="b"} 2 4',
      "3",
    ],
    ['eval range from 0 to 2m step 1m x{a="b"} > 1\nx{a="b"} 1 2 3', "no value"],
    ['eval range from 0 to 2m step 1m x{a="b"}\nx{a="b"} 1 2', "3"],
    ['eval range from 0 to 2m step 1m x{a="b"}\nx{a="b"} 1 2 3 4', "not as many steps"],
    ["eval range from 0 to 2m step 1m sum(x)\n8", "{} 6 7 8"],
    ["eval range from 0 to 2m step 1m x\nexpect ordered", "x{"],
    ["eval instant at 2m x\nexpect fail", "x{"],
    ["eval instant at 2m x + on() x", "many"],
    ["eval instant at 2m x + on() x\nexpect fail msg: something else", "many"],
    ["eval instant at 2m x +", "parse error"],
    ["eval instant at 2m x +\nexpect fail msg: something else", "parse error"],
    [
      "eval instant at 2m rate(x[2m])\nexpect no_info\n{a='b'} 0.016666666\n{a='c'} 0",
      "PromQL info",
    ],
    ["eval instant at 2m quantile(2, x)\nexpect no_warn\n{} Inf", "PromQL warning"],
    ["eval instant at 2m quantile(2, x)\nexpect warn regex: other\n{} Inf", "PromQL warning"],
    [
      "eval instant at 2m quantile(2, x) + quantile(-1, x)\nexpect warn regex: got 2\n{} NaN",
      "PromQL warning",
    ],
    ["eval instant at 2m x\nexpect warn\nx{a='b'} 3\nx{a='c'} 5", "no warning"],
    ["nonsense", "expected load"],
  ])("fails %j", (script, got) => {
    const outcome = outcomeOf(script);
    expect(outcome).toMatchObject({ kind: "failed" });
    expect(outcome.kind === "failed" && outcome.mismatch.got).toContain(got);
  });

  it.each([
    ["eval instant at 1m n", "reads native histograms"],
    ["eval instant at 5m count_over_time(n[5m])\n{} 1", "reads native histograms"],
    ["eval range from 0 to 1m step 1m n\nn 1 1", "reads native histograms"],
    ["eval instant at 0 x\nx{a='b'} {{}}", "expects native histograms"],
    ["eval instant at 0 sum_over_time(x[1m + 1m])", "behind a flag"],
  ])("skips %j", (script, reason) => {
    const outcome = outcomeOf(script);
    expect(outcome).toMatchObject({ kind: "skipped" });
    expect(outcome.kind === "skipped" && outcome.reason).toMatch(new RegExp(`^[^:]*${reason}`));
  });

  it("clears, and goes on after what it cannot read", () => {
    const results = runScript(`${LOAD}
      eval instant at 0 count(x)
        {} 2

      what
      clear
      eval instant at 0 count(x)`);
    expect(results.map(({ line, outcome }) => [line, outcome.kind])).toEqual([
      [7, "passed"],
      [10, "failed"],
      [12, "passed"],
    ]);
  });
});

describe("runCase()", () => {
  /** Has no data once, for the query of that number. */
  class ForgetfulStorage extends TestStorage {
    #queriesLeft: number;

    constructor(query: number) {
      super();
      this.#queriesLeft = query;
    }

    override select(selection: Selection): SampledSeries[] {
      this.#queriesLeft -= 1;
      return this.#queriesLeft === 0 ? [] : super.select(selection);
    }
  }

  function outcomeWithout(query: number, script: string): Outcome {
    const storage = new ForgetfulStorage(query);
    storage.load(readLoad("load 1m\nx 1 2 3"));
    return runCase(readEval(script), storage);
  }

  it.each([
    [1, "x at 120000 ms"],
    [2, "x from 60000 to 180000 step 60000 ms"],
    [3, "x @ 120.000 at -1200000 ms"],
    [4, "x @ 120.000 from -1260000 to -1140000 step 60000 ms"],
    [5, "x @ 120.000 at 0 ms"],
    [7, "x @ 120.000 at 24000 ms"],
    [9, "x @ 120.000 at 120000 ms"],
    [11, "x @ 120.000 at 1200000 ms"],
    [12, "x @ 120.000 from 1140000 to 1260000 step 60000 ms"],
  ])("evaluates an instant query in several ways, %d: %s", (query, text) => {
    expect(outcomeWithout(query, "eval instant at 2m x\nx 3")).toMatchObject({
      kind: "failed",
      query: text,
      mismatch: { expected: "x 3", got: "nothing" },
    });
  });

  it("does not take a defect for the error that is expected", () => {
    class BrokenStorage extends TestStorage {
      override select(): SampledSeries[] {
        throw new TypeError("defect");
      }
    }
    const test = readEval("eval instant at 2m x\nexpect fail");
    expect(runCase(test, new BrokenStorage())).toMatchObject({
      kind: "failed",
      mismatch: { got: expect.stringContaining("TypeError: defect") },
    });
  });

  it.each([
    [12, "eval instant at 2m x\nx 3"],
    [8, "eval instant at 0 x\nx 1"],
    [2, "eval instant at 2m minute(x)\n{} 0"],
    [6, "eval instant at 2m x[1m]\nexpect range vector from 2m to 2m step 1m\nx 3"],
    [1, "eval range from 0 to 2m step 1m x\nx 1 2 3"],
  ])("has %d ways for %j", (count, script) => {
    for (let query = 1; query <= count; query += 1) {
      expect(outcomeWithout(query, script).kind).toBe("failed");
    }
    expect(outcomeWithout(count + 1, script)).toEqual({ kind: "passed" });
  });
});

describe("compareValue()", () => {
  const series = (a: string) => ({ labels: { a }, times: [0], values: [1] });
  const compare = (script: string, ...names: string[]) =>
    compareValue(readEval(script), { type: "matrix", series: names.map(series) });

  it("wants the series of a matrix sorted, and each once", () => {
    const script = "eval range from 0 to 0 step 1m x\n{a='1'} 1\n{a='2'} 1";
    expect(compare(script, "1", "2")).toBeUndefined();
    expect(compare(script, "2", "1")).toMatchObject({ expected: "series sorted by labels" });
    expect(compare(script, "1", "1", "2")).toMatchObject({ expected: '{a="1"} once' });
  });

  it("knows no order but that in a matrix", () => {
    const script = "eval instant at 0 x\nexpect ordered\n{a='1'} 1\n{a='2'} 1";
    expect(compare(script, "1", "2")).toMatchObject({ expected: "a vector, in order" });
  });
});

describe("printResults()", () => {
  it("has counts, failures with what was expected, and skips by reason", () => {
    const text = printResults("a.test", [
      { line: 1, text: "a", outcome: { kind: "passed" } },
      {
        line: 2,
        text: "b",
        outcome: {
          kind: "failed",
          query: "b at 0 ms",
          mismatch: { expected: "{} 1", got: "2".repeat(601) },
        },
      },
      { line: 3, text: "c", outcome: { kind: "skipped", reason: "one" } },
      { line: 4, text: "d", outcome: { kind: "skipped", reason: "other" } },
      { line: 5, text: "e", outcome: { kind: "skipped", reason: "one" } },
    ]);
    expect(text.split("\n")).toEqual([
      "a.test: 1 passed, 1 failed, 3 skipped",
      "  failed, line 2: b",
      "    evaluated: b at 0 ms",
      "    expected: {} 1",
      `    got: ${"2".repeat(600)}…`,
      "  skipped 2, one: lines 3, 5",
      "  skipped 1, other: line 4",
    ]);
  });
});

describe("what is no script", () => {
  it.each(["", "\n  \n", "# only words\n", "once upon a time\n\nthere was\n", "load\n"])(
    "is refused: %j",
    (text) => expect(() => runScript(text)).toThrow("this is no test script"),
  );

  it.each(["clear", "load 1m", "eval instant at 0 1\n  1", "once upon a time\nclear"])(
    "one command makes it one: %j",
    (text) => expect(() => runScript(text)).not.toThrow(),
  );
});

describe("npm run promqltest", () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "pgvigil-promqltest-"));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  function run(...args: string[]) {
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      ["--import", "tsx", "scripts/promqltest.ts", ...args],
      { encoding: "utf8" },
    );
    return { status, stdout, stderr };
  }

  function write(name: string, script: string): string {
    writeFileSync(join(folder, name), script);
    return join(folder, name);
  }

  it("prints each file and the total, and fails if a case does", () => {
    const good = write("good.test", "eval instant at 0 1 + 1\n  2\n");
    const bad = write("bad.test", "eval instant at 0 1 + 1\n  3\n");
    expect(run(good)).toEqual({
      status: 0,
      stdout: `${good}: 1 passed, 0 failed, 0 skipped\n\n` +
        "total: 1 passed, 0 failed, 0 skipped\n",
      stderr: "",
    });
    const { status, stdout } = run(good, bad);
    expect(status).toBe(1);
    expect(stdout).toContain(`${bad}: 0 passed, 1 failed, 0 skipped\n  failed, line 1: 1 + 1\n`);
    expect(stdout).toMatch(/\ntotal: 1 passed, 1 failed, 0 skipped\n$/);
  });

  it.each([
    [[], "at least one file is needed.\nSee --help."],
    [["--fast"], "Unknown option '--fast'"],
  ])("exits with 2 for %j", (args, message) => {
    const { status, stderr } = run(...args);
    expect(stderr).toContain(`Cannot run tests: ${message}`);
    expect(status).toBe(2);
  });

  it("says which files it cannot run, runs the others, and exits with 2 even if a case fails", () => {
    const bad = write("bad.test", "eval instant at 0 1 + 1\n  3\n");
    const empty = write("empty.test", "");
    const missing = join(folder, "missing.test");
    expect(run(folder, missing, empty, bad)).toEqual({
      status: 2,
      stdout: expect.stringMatching(/bad\.test: .*\n[^]*\ntotal: 0 passed, 1 failed, 0 skipped\n$/),
      stderr: `${folder}: this is a directory: name the files in it\n` +
        `${missing}: there is no such file\n` +
        `${empty}: this is no test script: no line is a load, clear or eval\n`,
    });
  });

  it("explains itself", () => {
    const { status, stdout } = run("--help");
    expect(stdout).toContain("npm run promqltest -- <file>…");
    expect(status).toBe(0);
  });
});

const files = existsSync(DATA) ? readdirSync(DATA).filter((name) => name.endsWith(".test")) : [];

describe.skipIf(files.length === 0)("Prometheus' own scripts", () => {
  it.each(files.length === 0 ? ["all (skipped: needs ../shared/data)"] : files)(
    "%s: no case fails",
    (name) => {
      const results = runScript(readFileSync(join(DATA, name), "utf8"));
      const failed = results.filter(({ outcome }) => outcome.kind === "failed");
      expect(failed.length === 0 ? "" : printResults(name, results)).toBe("");
      expect(results.some(({ outcome }) => outcome.kind === "passed")).toBe(true);
    },
  );
});
