import { parseExpr } from "../../shared/promql/parse-expr.ts";
import { prepareQuery } from "../../shared/promql/prepare-query.ts";
import { printExpr } from "../../shared/promql/print-expr.ts";
import { PromqlError } from "../../shared/promql/promql-error.ts";
import type {
  PreparedQuery,
  QueryOptions,
  QueryResult,
  QueryValue,
} from "../../shared/promql/query.ts";
import { compareAnnotations, compareValue, describe, type Mismatch } from "./compare-result.ts";
import type { EvalCommand } from "./parse-script.ts";
import { pinTimes } from "./pin-times.ts";
import type { TestStorage } from "./test-storage.ts";

/** What became of a case. */
export type Outcome =
  | { readonly kind: "passed" }
  | { readonly kind: "skipped"; readonly reason: string }
  /** `query` says how it was evaluated: a case is tried in several ways. */
  | { readonly kind: "failed"; readonly query: string; readonly mismatch: Mismatch };

type When = Pick<QueryOptions, "start" | "end" | "step">;

const MINUTE = 60_000;

/** As the engine that Prometheus' own tests run on. */
const ENGINE = { lookback: 5 * MINUTE, subqueryStep: MINUTE, isNameRemovalDelayed: true };

/** What these mean depends on the range that is asked for. */
const RANGE_DEPENDENT = /(start|end|range|step)\(\)/;

/**
 * Runs a case in all the ways that Prometheus does: an instant query is repeated with its selectors pinned to its time and
 * evaluated at other times, and each of these as the middle step of a range query.
 */
export function runCase(test: EvalCommand, storage: TestStorage): Outcome {
  if (expectsHistogram(test)) {
    return { kind: "skipped", reason: "expects native histograms" };
  }
  const when = test.isRange
    ? { start: test.start, end: test.end, step: test.step }
    : { start: test.end };
  let queries: readonly Run[];
  try {
    const reason = storage.outOfScope(prepare(test.text, when).selections);
    if (reason !== undefined) return { kind: "skipped", reason };
    queries = test.isRange ? [{ text: test.text, when, judge: judgeWhole }] : [
      ...instantQueries(test, test.text, test.end),
      ...pinnedQueries(test).flatMap(({ text, time }) => instantQueries(test, text, time)),
    ];
  } catch (error) {
    if (error instanceof PromqlError && error.kind === "unsupported") {
      return { kind: "skipped", reason: stripPlace(error.message) };
    }
    return toOutcome(describeQuery(test.text, when), judgeError(test, error));
  }
  for (const { text, when, judge } of queries) {
    const outcome = toOutcome(describeQuery(text, when), judge(test, text, when, storage));
    if (outcome.kind !== "passed") return outcome;
  }
  return { kind: "passed" };
}

function expectsHistogram({ expected }: EvalCommand): boolean {
  return expected.kind === "series" &&
    [...expected.series.values()].some(({ values }) => values.includes("histogram"));
}

function toOutcome(query: string, mismatch: Mismatch | undefined): Outcome {
  return mismatch === undefined ? { kind: "passed" } : { kind: "failed", query, mismatch };
}

function describeQuery(text: string, { start, end, step }: When): string {
  return end === undefined
    ? `${text} at ${start} ms`
    : `${text} from ${start} to ${end} step ${step} ms`;
}

function stripPlace(message: string): string {
  return message.replace(/^\d+:\d+: (not supported: )?/, "");
}

interface Run {
  readonly text: string;
  readonly when: When;
  judge(test: EvalCommand, text: string, when: When, storage: TestStorage): Mismatch | undefined;
}

function instantQueries(test: EvalCommand, text: string, time: number): Run[] {
  const runs: Run[] = [{ text, when: { start: time }, judge: judgeWhole }];
  const isVectorOrScalar = !test.isRangeVector && test.expected.kind !== "string";
  if (isVectorOrScalar && test.expectations.fail.length === 0 && !RANGE_DEPENDENT.test(text)) {
    const when = { start: time - MINUTE, end: time + MINUTE, step: MINUTE };
    runs.push({ text, when, judge: judgeMiddle });
  }
  return runs;
}

function pinnedQueries(test: EvalCommand): { text: string; time: number }[] {
  const time = test.end;
  const pinned = pinTimes(parseExpr(test.text), time);
  if (pinned === undefined) return [];
  const text = printExpr(pinned);
  const times = time === 0
    ? [-1000, 0, 1000]
    : [-10 * time, 0, Math.trunc(time / 5), time, 10 * time];
  return times.map((time) => ({ text, time }));
}

function prepare(text: string, when: When): PreparedQuery {
  return prepareQuery(parseExpr(text), text, { ...when, ...ENGINE });
}

function evaluate(text: string, when: When, storage: TestStorage): QueryResult {
  const query = prepare(text, when);
  return query.evaluate(query.selections.map((selection) => storage.select(selection)));
}

/** The result as it is, or the error, against everything that is expected. */
function judgeWhole(
  test: EvalCommand,
  text: string,
  when: When,
  storage: TestStorage,
): Mismatch | undefined {
  let result: QueryResult;
  try {
    result = evaluate(text, when, storage);
  } catch (error) {
    return judgeError(test, error);
  }
  if (test.expectations.fail.length > 0) {
    const wanted = test.expectations.fail.map(({ description }) => description).join(", ");
    return { expected: `an error: ${wanted}`, got: describe(result.value) };
  }
  return compareAnnotations(test, result) ?? compareValue(test, result.value);
}

/** An error that is expected has to be one of the engine's: a defect of ours is never what was meant. */
function judgeError({ expectations }: EvalCommand, error: unknown): Mismatch | undefined {
  const got = error instanceof PromqlError ? error.message : String((error as Error).stack);
  if (expectations.fail.length === 0) return { expected: "a result", got };
  const wrong = expectations.fail.find(({ matches }) => !matches(got));
  if (wrong === undefined && error instanceof PromqlError) return undefined;
  return { expected: `an error: ${wrong?.description ?? "of the engine"}`, got };
}

/** The middle of three steps against the values that are expected of an instant query. */
function judgeMiddle(
  test: EvalCommand,
  text: string,
  when: When,
  storage: TestStorage,
): Mismatch | undefined {
  let value: QueryValue;
  try {
    ({ value } = evaluate(text, when, storage));
  } catch (error) {
    return judgeError(test, error);
  }
  // Series of a range query come sorted by their labels.
  if (test.expectations.ordered.length > 0) return undefined;
  if (value.type !== "matrix") return { expected: "a matrix", got: describe(value) };
  const time = when.start + MINUTE;
  const series = value.series.flatMap(({ labels, times, values }) => {
    const index = times.indexOf(time);
    return index < 0 ? [] : [{ labels, times: [test.start], values: [values[index]!] }];
  });
  const [single] = series;
  return compareValue(
    test,
    test.expected.kind === "scalar" && single
      ? { type: "scalar", time, value: single.values[0]! }
      : { type: "matrix", series },
  );
}
