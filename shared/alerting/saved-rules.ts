import { labelsOf, type RuleGroup } from "./rule.ts";

/** How groups are saved. */
export interface SaveOptions {
  /** Other rules of these groups are deleted. */
  readonly isReplacing: boolean;
  /** What would change is counted, and nothing is changed. */
  readonly isDry: boolean;
}

/** The arguments of `monitor.save_rules`. */
export function toSaveArguments(
  groups: readonly RuleGroup[],
  { isReplacing, isDry }: SaveOptions,
) {
  return { p_groups: toSavedGroups(groups), p_replace: isReplacing, p_dry_run: isDry };
}

/**
 * Groups as `monitor.save_rules` takes them. Labels of a group become labels of its rules, which comes to the same.
 *
 * `limit` and `query_offset` of a group have no place there: see {@link findUnsaved}.
 */
export function toSavedGroups(groups: readonly RuleGroup[]): unknown[] {
  return groups.map((group) => ({
    name: group.name,
    // Zero is the default, as in Prometheus; and it is evaluated on the minute, which parts of a second do not change.
    ...(group.intervalSeconds ? { interval_seconds: Math.ceil(group.intervalSeconds) } : {}),
    rules: group.rules.map((rule) => {
      const { kind, name, expr } = rule;
      const labels = labelsOf(rule, group);
      if (rule.kind === "recording") return { kind, name, expr, labels };
      return {
        ...{ kind, name, expr, labels },
        for_seconds: rule.forSeconds,
        keep_firing_for_seconds: rule.keepFiringForSeconds,
        hold_count: rule.hold?.count ?? null,
        hold_window: rule.hold?.window ?? null,
        clear_expr: rule.clearExpr,
        annotations: rule.annotations,
        no_data_policy: rule.noDataPolicy,
        severity: rule.severity,
        runbook_url: rule.runbookUrl,
        mode: rule.mode,
      };
    }),
  }));
}

/** What groups say that does not hold once they are saved, in words. */
export function findUnsaved(groups: readonly RuleGroup[]): string[] {
  return groups.flatMap(({ name, limit, queryOffsetSeconds, intervalSeconds = 60 }) => [
    ...(limit ? [`group "${name}": limit is not stored; every rule may have 1,000 alerts`] : []),
    ...(queryOffsetSeconds
      ? [`group "${name}": query_offset is not stored; rules look at the present`]
      : []),
    ...(intervalSeconds % 60 === 0 ? [] : [
      `group "${name}": interval is no whole number of minutes; ${explainPace(intervalSeconds)}`,
    ]),
  ]);
}

function explainPace(intervalSeconds: number): string {
  const minutes = Math.floor(intervalSeconds / 60);
  return minutes === 0
    ? "rules are evaluated once a minute"
    : `rules are evaluated on the minute, ${minutes} or ${minutes + 1} minutes apart`;
}
