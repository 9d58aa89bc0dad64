import type { ComponentHealth, HealthJudgement, HealthStatus } from "./judge-health.ts";

/** HTTP status of a health: a pinger reads nothing else. Unknown is not OK. */
export function healthStatusCode(status: HealthStatus): 200 | 503 {
  return status === "healthy" || status === "degraded" ? 200 : 503;
}

/** What anybody may know: status and age. */
export function toPublicHealth({ overall, ageSeconds }: HealthJudgement): object {
  return { status: overall, age_seconds: toMilliseconds(ageSeconds) };
}

/** What only callers with a key or an admin's token may know. `duration` is in seconds. */
export function toHealthReport(
  { overall, components }: HealthJudgement,
  now: Date,
  durationSeconds: number,
): object {
  const { database, scheduler, jobs, metrics, storage, rules, notifications } = components;
  return {
    timestamp: now.toISOString(),
    overall,
    components: {
      database: {
        ...toComponent(database),
        response_seconds: toMilliseconds(database.responseSeconds),
      },
      scheduler: toComponent(scheduler),
      jobs: Object.fromEntries(
        Object.entries(jobs).map(([name, health]) => [name, toComponent(health)]),
      ),
      metrics: toComponent(metrics),
      storage: {
        ...toComponent(storage),
        database_bytes: storage.databaseBytes,
        monitor_bytes: storage.monitorBytes,
      },
      rules: { ...toComponent(rules), failing_count: rules.failingCount },
      notifications: {
        ...toComponent(notifications),
        overdue_seconds: notifications.overdueSeconds,
      },
    },
    duration: toMilliseconds(durationSeconds),
  };
}

/** Media type of {@link toHealthJson}. */
export const HEALTH_JSON_TYPE = "application/health+json";

/**
 * Health in the shape of the IETF draft: status pass, warn or fail; the checks only for callers who
 * may know. Both unhealthy and unknown are fail, the draft has no word for not knowing.
 *
 * @see https://datatracker.ietf.org/doc/html/draft-inadarei-api-health-check-06
 */
export function toHealthJson(judgement: HealthJudgement, isAuthorised: boolean): object {
  const { overall, ageSeconds, components } = judgement;
  const terse = {
    status: toPassWarnFail(overall),
    notes: [`as of ${toMilliseconds(ageSeconds)} s ago`],
  };
  if (!isAuthorised) return terse;

  const { database, scheduler, jobs, metrics, storage, rules, notifications } = components;
  return {
    ...terse,
    checks: {
      "database:responseTime": [toCheck(database, "datastore", database.responseSeconds, "s")],
      "scheduler:age": [toCheck(scheduler, "system", scheduler.ageSeconds, "s")],
      ...Object.fromEntries(
        Object.entries(jobs).map(([name, health]) => [
          `${name}:age`,
          [toCheck(health, "component", health.ageSeconds, "s")],
        ]),
      ),
      "metrics:age": [toCheck(metrics, "component", metrics.ageSeconds, "s")],
      "storage:utilization": [toCheck(storage, "datastore", storage.monitorBytes, "By")],
      "rules:failing": [toCheck(rules, "component", rules.failingCount, "1")],
      "notifications:overdue": [
        toCheck(notifications, "component", notifications.overdueSeconds, "s"),
      ],
    },
  };
}

/** Whether an Accept header asks for {@link HEALTH_JSON_TYPE} by name. */
export function wantsHealthJson(accept: string | null): boolean {
  return (accept ?? "").split(",").some((range) => {
    const [type, ...parameters] = range.split(";").map((part) => part.trim().toLowerCase());
    return type === HEALTH_JSON_TYPE && !parameters.some((part) => /^q=0(\.0*)?$/.test(part));
  });
}

function toComponent({ status, reason, observedAt, ageSeconds }: ComponentHealth): object {
  return {
    status,
    reason,
    observed_at: observedAt?.toISOString() ?? null,
    age_seconds: ageSeconds === null ? null : toMilliseconds(ageSeconds),
  };
}

function toCheck(
  { status, reason, observedAt }: ComponentHealth,
  componentType: "component" | "datastore" | "system",
  observedValue: number | null,
  observedUnit: string,
): object {
  return {
    componentType,
    ...(observedValue !== null &&
      { observedValue: toMilliseconds(observedValue), observedUnit }),
    status: toPassWarnFail(status),
    ...(observedAt && { time: observedAt.toISOString() }),
    // The draft leaves it out for what passes.
    ...(status !== "healthy" && { output: reason }),
  };
}

function toPassWarnFail(status: HealthStatus): "pass" | "warn" | "fail" {
  if (status === "healthy") return "pass";
  return status === "degraded" ? "warn" : "fail";
}

/** Rounds seconds to milliseconds: more digits would be noise. */
function toMilliseconds(seconds: number): number {
  return Math.round(seconds * 1000) / 1000;
}
