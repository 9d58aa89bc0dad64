import {
  prepareRules,
  type RuleOutcome,
  type RuleWithState,
  TIME_IS_UP,
} from "../../../shared/alerting/evaluate-rules.ts";
import { rotateGroups } from "../../../shared/alerting/rotate-groups.ts";
import type { PlannedRule } from "../../../shared/contract/rules.ts";
import { PromqlError } from "../../../shared/promql/promql-error.ts";
import type { SampledSeries, SampleSource } from "../../../shared/promql/series.ts";
import { DatabaseError } from "../_shared/database.ts";
import type { Run } from "../_shared/job.ts";
import { QUERY_LIMITS } from "../_shared/query-stores.ts";
import { summarizeError } from "../_shared/redact.ts";

/** How far evaluations are apart at least, however short the interval of a group. */
const EVALUATION_SECONDS = 60;

/** CPU time of a call that goes into evaluating, in ms: a call may use 2 s. Rules not begun by then have failed. */
export const EVALUATION_MILLISECONDS = 1500;

/**
 * Rules whose samples cannot be read together are divided no more after so long; pg_net sends nothing new until every
 * call of a batch has ended.
 */
export const WALL_SECONDS = 12;

/** Evaluated on nothing it would begin anew: firing alerts would be forgotten, and told again. */
export const UNREADABLE =
  "its stored alerts cannot be read: switch it off and on (enabled of monitor.alert_rules) to begin without them";

/** What evaluating needs of the world. */
export interface EvaluationDeps extends SampleSource {
  now(): Date;
  /** Time in ms that goes on while we compute. */
  cpuClock(): number;
}

/** A rule that was due, and what became of it. */
export interface EvaluatedRule {
  readonly due: PlannedRule;
  readonly outcome: RuleOutcome;
  /** What it took to compute, shared equally among those that were evaluated together. */
  readonly seconds: number;
}

/**
 * Evaluates rules on samples that are read in one go. When that is too much, in halves, until the one at fault is alone
 * and named. Those that failed the last time come after the others: one that takes all the time costs those beside it a turn
 * or a few, until it is alone, and never all of them for good. Rules for which no time was left are at no fault, and it is
 * another group's turn to be last.
 */
export async function evaluateDue(
  due: readonly PlannedRule[],
  run: Run,
  deps: EvaluationDeps,
): Promise<EvaluatedRule[]> {
  let spent = 0;

  const evaluate = async (
    rules: readonly PlannedRule[],
  ): Promise<EvaluatedRule[]> => {
    let startedAt = deps.cpuClock();
    const isTimeUp = () => spent + deps.cpuClock() - startedAt >= EVALUATION_MILLISECONDS;
    const options = { limits: QUERY_LIMITS, isTimeUp };
    const now = run.scheduledAt.getTime();
    const prepared = prepareRules(rules.map(toRuleWithState), now, options);
    spent += deps.cpuClock() - startedAt;

    let series: readonly (readonly SampledSeries[])[];
    try {
      series = prepared.selections.length === 0 ? [] : await deps.select(prepared.selections);
    } catch (error) {
      if (!isTooMuch(error)) throw error;
      const isLate = deps.now().getTime() - run.startedAt.getTime() >= WALL_SECONDS * 1000;
      if (rules.length === 1 || isLate) {
        return rules.map((rule) => toFailed(rule, error));
      }
      const middle = rules.length >> 1;
      const first = await evaluate(rules.slice(0, middle));
      return [...first, ...await evaluate(rules.slice(middle))];
    }

    startedAt = deps.cpuClock();
    const outcomes = prepared.evaluate(series);
    const took = deps.cpuClock() - startedAt;
    spent += took;
    const seconds = took / 1000 / rules.length;
    return rules.map((rule, index) => ({
      due: rule,
      outcome: outcomes[index]!,
      seconds,
    }));
  };

  const hasFailed = ({ state }: PlannedRule) =>
    state.health === "err" && state.lastError !== TIME_IS_UP;
  const minute = Math.floor(run.scheduledAt.getTime() / 60_000);
  const ordered = rotateGroups(due.filter((rule) => findRefusal(rule) === null), minute);
  const evaluated: EvaluatedRule[] = [];
  for (const rules of [ordered.filter((rule) => !hasFailed(rule)), ordered.filter(hasFailed)]) {
    if (rules.length > 0) evaluated.push(...await evaluate(rules));
  }
  const refused = due.flatMap((rule) => {
    const reason = findRefusal(rule);
    return reason === null
      ? []
      : [{ due: rule, outcome: toFailedOutcome(rule, reason), seconds: 0 }];
  });
  return [...evaluated, ...refused];
}

/** Why a rule is not evaluated, known before it is; what a refused one would record is not seen by others. */
function findRefusal({ refusal, state }: PlannedRule): string | null {
  return refusal ?? (state.instances === null ? UNREADABLE : null);
}

function toRuleWithState(
  { groupName, intervalSeconds, rule, state }: PlannedRule,
): RuleWithState {
  const group = {
    name: groupName,
    intervalSeconds: Math.max(intervalSeconds, EVALUATION_SECONDS),
  };
  return { group, rule, instances: state.instances ?? [] };
}

/** Whether it may be about one of the rules, so that the others can do without it. */
function isTooMuch(error: unknown): boolean {
  return error instanceof PromqlError ||
    (error instanceof DatabaseError &&
      (error.kind === "timed_out" || error.kind === "refused"));
}

function toFailed(due: PlannedRule, error: unknown): EvaluatedRule {
  const reason = error instanceof DatabaseError ? error.reason : summarizeError(error);
  return { due, outcome: toFailedOutcome(due, reason), seconds: 0 };
}

/** What a rule has come to that could not be evaluated: its alerts are as they were. */
export function toFailedOutcome(
  { state }: PlannedRule,
  error: string,
): RuleOutcome {
  return {
    health: "err",
    error,
    instances: state.instances ?? [],
    transitions: [],
    samples: [],
  };
}
