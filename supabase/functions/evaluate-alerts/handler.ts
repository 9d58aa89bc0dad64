import type { JudgedComponent, RuleResult } from "../../../shared/contract/rules.ts";
import { judgeHealth } from "../../../shared/health/judge-health.ts";
import { METRIC_NAME } from "../../../shared/promql/series.ts";
import { DatabaseError } from "../_shared/database.ts";
import { JobRequest, type Run, type RunOutcome } from "../_shared/job.ts";
import type { EvaluationStore } from "../_shared/stores.ts";
import {
  type EvaluatedRule,
  evaluateDue,
  type EvaluationDeps,
  toFailedOutcome,
} from "./evaluate-due.ts";

export const EvaluateRequest = JobRequest;

/** The outside world as this function needs it; the edge wires the real one, tests a fake. */
export interface EvaluateDeps extends EvaluationStore, EvaluationDeps {}

/** Health is one source of many: if it cannot be read so quickly, it is not known in this evaluation. */
export const HEALTH_TIMEOUT_SECONDS = 2;

/**
 * Most characters of JSON that the results of an evaluation may have together: as many are stored in half a second of
 * the 8 that there are, and take one to be read again. More of them would keep all rules from being stored.
 */
export const RESULTS_LIMIT = 5_000_000;

/**
 * Evaluates the rules that are due on the samples up to the minute of the run, judges the health of the monitor, and stores
 * what both came to: with it, in one transaction, alerts begin and end, and whom to tell is written. A rule that cannot be
 * evaluated has its error stored and costs the others nothing; when none could be, the run has failed.
 */
export async function evaluateAlerts(
  run: Run,
  deps: EvaluateDeps,
): Promise<RunOutcome> {
  const [due, components] = await Promise.all([
    deps.planEvaluation(run.scheduledAt),
    judgeComponents(deps),
  ]);
  const evaluated = refuseExcess(await evaluateDue(due, run, deps));
  const { recorded, failed, stale, errors, samples, alerts: changed } = await deps.recordEvaluation(
    run.scheduledAt,
    evaluated.map(toResult),
    components,
  );

  const alerts = evaluated.flatMap(({ outcome }) => outcome.instances);
  const unstorable = evaluated.flatMap(({ outcome }) => outcome.samples)
    .filter(({ value }) => !Number.isFinite(value));
  const result = {
    evaluated: recorded - failed,
    failed,
    /** Evaluated on what was no longer there, so that it was left out. */
    stale,
    pending: alerts.filter(({ state }) => state === "pending").length,
    firing: alerts.filter(({ state }) => state === "firing").length,
    recorded_samples: samples.inserted,
    rejected_samples: samples.rejected.length + unstorable.length,
    /** What has changed of alerts from all sources, and how many messages that makes. */
    alerts: changed,
    errors,
  };
  return failed > 0 && failed === evaluated.length
    ? {
      kind: "failed",
      reason: `no rule could be evaluated: ${errors[0]!.error}`,
      result,
    }
    : { kind: "succeeded", result };
}

/** How the parts of the monitor are; null if that is not known. Jobs are judged where their runs are. */
async function judgeComponents(deps: EvaluateDeps): Promise<JudgedComponent[] | null> {
  const startedAt = deps.now().getTime();
  try {
    const facts = await deps.readHealthFacts(HEALTH_TIMEOUT_SECONDS);
    const observedAt = deps.now();
    const responseSeconds = (observedAt.getTime() - startedAt) / 1000;
    const { jobs: _, ...components } = judgeHealth(
      { kind: "facts", facts, observedAt, responseSeconds },
      observedAt,
    ).components;
    return Object.entries(components).map(([component, { status, reason }]) => ({
      component,
      status,
      reason,
    }));
  } catch (error) {
    if (!(error instanceof DatabaseError)) throw error;
    return null;
  }
}

/** Lets those rules fail whose results do not fit any more. */
function refuseExcess(evaluated: readonly EvaluatedRule[]): EvaluatedRule[] {
  let total = 0;
  return evaluated.map((rule) => {
    const size = JSON.stringify(toResult(rule)).length;
    if (total + size <= RESULTS_LIMIT) {
      total += size;
      return rule;
    }
    const error = `its alerts and samples are ${size} characters of JSON, and all rules ` +
      `together may have ${RESULTS_LIMIT}: take matchers that leave fewer series, or shorter texts`;
    return { ...rule, outcome: toFailedOutcome(rule.due, error) };
  });
}

function toResult({ due, outcome, seconds }: EvaluatedRule): RuleResult {
  const result = {
    rule_id: due.ruleId,
    revision: due.state.revision,
    error: outcome.error,
    evaluation_seconds: seconds,
  };
  if (outcome.error !== null) return result;
  const samples = outcome.samples
    .filter(({ value }) => Number.isFinite(value))
    .map(({ labels: { [METRIC_NAME]: _, ...labels }, value }) => ({
      labels,
      value,
    }));
  return { ...result, instances: outcome.instances, samples };
}
