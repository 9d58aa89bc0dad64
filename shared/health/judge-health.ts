import type { HealthFacts, JobFacts } from "../contract/health-facts.ts";

/**
 * Worst first. Known to be broken is worse than not known: it says where to look. For a pinger both
 * are the same, since unknown is not OK.
 */
export const HEALTH_STATUSES = ["unhealthy", "unknown", "degraded", "healthy"] as const;

/** One of {@link HEALTH_STATUSES}. */
export type HealthStatus = typeof HEALTH_STATUSES[number];

/** One attempt to read the facts. `observedAt` is by the clock of whoever tried. */
export type HealthObservation =
  & { readonly observedAt: Date; readonly responseSeconds: number }
  & (
    | { readonly kind: "facts"; readonly facts: HealthFacts }
    /** The database did not answer; `reason` says how, for those who may know. */
    | { readonly kind: "failure"; readonly reason: string }
  );

/** What is said of one component. */
export interface ComponentHealth {
  readonly status: HealthStatus;
  /** Why, in words; for callers who may know. */
  readonly reason: string;
  /** When what it rests on was last seen; null if never. */
  readonly observedAt: Date | null;
  /** How long ago that was, ≥ 0; null if never. */
  readonly ageSeconds: number | null;
}

/** What is said of the whole. */
export interface HealthJudgement {
  /** The worst of all components. */
  readonly overall: HealthStatus;
  /** Age of the facts, ≥ 0. */
  readonly ageSeconds: number;
  readonly components: {
    readonly database: ComponentHealth & { readonly responseSeconds: number };
    readonly scheduler: ComponentHealth;
    /** By name. Empty when the database did not answer. */
    readonly jobs: Readonly<Record<string, ComponentHealth>>;
    readonly metrics: ComponentHealth;
    readonly storage: ComponentHealth & {
      readonly databaseBytes: number | null;
      readonly monitorBytes: number | null;
    };
    readonly rules: ComponentHealth & { readonly failingCount: number | null };
    readonly notifications: ComponentHealth & { readonly overdueSeconds: number | null };
  };
}

/** From here on the database answers too slowly to be healthy. */
export const SLOW_RESPONSE_SECONDS = 1;

/** Facts beyond this age say nothing any more; they are normally kept for 5 s. */
export const FACTS_STALE_AFTER_SECONDS = 30;

/** How far ahead a time may lie: a run by hand may carry a minute so far in the future. */
export const FUTURE_TOLERANCE_SECONDS = 300;

/** The worst of several statuses; unknown of none. */
export function worstStatus(statuses: readonly HealthStatus[]): HealthStatus {
  return HEALTH_STATUSES.find((status) => statuses.includes(status)) ?? "unknown";
}

/**
 * Judges the health of the suite. Whatever is older than its limit is unknown, never the last known
 * value, and so is whatever has never been seen.
 *
 * - Ages of what the database reports are by its own clock, plus the time that passed since it was
 *   asked: clocks that differ do not make anything stale.
 * - A limit itself is still within: only beyond it a thing is stale.
 */
export function judgeHealth(observation: HealthObservation, now: Date): HealthJudgement {
  const elapsed = Math.max(secondsBetween(observation.observedAt, now), 0);
  const database = judgeDatabase(observation, elapsed);

  if (observation.kind === "failure") {
    const blind: ComponentHealth = {
      status: "unknown",
      reason: "the database did not answer",
      observedAt: null,
      ageSeconds: null,
    };
    return conclude(elapsed, {
      database,
      scheduler: blind,
      jobs: {},
      metrics: blind,
      storage: { ...blind, databaseBytes: null, monitorBytes: null },
      rules: { ...blind, failingCount: null },
      notifications: { ...blind, overdueSeconds: null },
    });
  }
  const { facts } = observation;
  const clock = new Date(facts.now.getTime() + elapsed * 1000);
  return conclude(elapsed, {
    database,
    scheduler: judgeScheduler(facts, clock),
    jobs: Object.fromEntries(
      facts.jobs.map((job) => [job.job, judgeJob(job, facts.jobsEnabled, clock)]),
    ),
    metrics: judgeMetrics(facts, clock),
    storage: judgeStorage(facts, elapsed),
    rules: judgeRules(facts, elapsed),
    notifications: judgeNotifications(facts, elapsed, clock),
  });
}

function conclude(
  ageSeconds: number,
  components: HealthJudgement["components"],
): HealthJudgement {
  const { jobs, ...others } = components;
  const all = [...Object.values(others), ...Object.values(jobs)];
  return { overall: worstStatus(all.map(({ status }) => status)), ageSeconds, components };
}

function judgeDatabase(
  observation: HealthObservation,
  ageSeconds: number,
): HealthJudgement["components"]["database"] {
  const { observedAt, responseSeconds } = observation;
  const seen = { observedAt, ageSeconds, responseSeconds };
  if (ageSeconds > FACTS_STALE_AFTER_SECONDS) {
    return { status: "unknown", reason: `last asked ${inSeconds(ageSeconds)} ago`, ...seen };
  }
  if (observation.kind === "failure") {
    return { status: "unhealthy", reason: observation.reason, ...seen };
  }
  return responseSeconds >= SLOW_RESPONSE_SECONDS
    ? { status: "degraded", reason: "answers slowly", ...seen }
    : { status: "healthy", reason: "answers", ...seen };
}

function judgeScheduler({ scheduler, jobs }: HealthFacts, clock: Date): ComponentHealth {
  if (scheduler === null) return never("unhealthy", "the watchdog is not among the jobs");
  const { watchedAt, staleAfterSeconds, isInstalled } = scheduler;
  if (!isInstalled) return never("unhealthy", "pg_cron is not installed");
  if (jobs.length === 0) return never("unknown", "no job is known");
  if (watchedAt === null) return never("unknown", "the watchdog has never run");
  return judgeAge(watchedAt, staleAfterSeconds, clock, "the watchdog ran");
}

function judgeJob(job: JobFacts, jobsEnabled: boolean, clock: Date): ComponentHealth {
  const { lastSucceededAt, lastRunAt, lastState, staleAfterSeconds } = job;
  const because = job.lastReason === null ? "" : `: ${job.lastReason}`;
  const success = lastSucceededAt === null
    ? never("unknown", lastRunAt === null ? "has never run" : "has never succeeded")
    : judgeAge(lastSucceededAt, staleAfterSeconds, clock, "succeeded");

  if (success.status === "healthy") {
    if (!jobsEnabled) {
      return { ...success, status: "degraded", reason: `jobs are switched off; ${success.reason}` };
    }
    if (lastState === "failed" || lastState === "lost" || lastState === "missed") {
      return { ...success, status: "degraded", reason: `the last run was ${lastState}${because}` };
    }
    return job.lastComplete === false
      ? { ...success, status: "degraded", reason: "the last run left work for the next" }
      : success;
  }
  if (!jobsEnabled) return { ...success, reason: `jobs are switched off; ${success.reason}` };

  // Stale says that we do not know; a run that has just failed says that we do.
  const isFailing = lastState === "failed" && lastRunAt !== null &&
    judgeAge(lastRunAt, staleAfterSeconds, clock, "").status === "healthy";
  return isFailing
    ? { ...success, status: "unhealthy", reason: `fails${because}; ${success.reason}` }
    : success;
}

function judgeMetrics({ metrics }: HealthFacts, clock: Date): ComponentHealth {
  const { newestSampleAt, staleAfterSeconds, failingCollectors } = metrics;
  if (newestSampleAt === null) return never("unknown", "there is no sample yet");
  const age = judgeAge(newestSampleAt, staleAfterSeconds, clock, "the newest sample was taken");
  return age.status === "healthy" && failingCollectors.length > 0
    ? { ...age, status: "degraded", reason: `collectors fail: ${failingCollectors.join(", ")}` }
    : age;
}

function judgeStorage(
  { storage, now }: HealthFacts,
  ageSeconds: number,
): HealthJudgement["components"]["storage"] {
  const { databaseBytes, monitorBytes, budgetBytes, shed, daysAhead, contendedRetention } = storage;
  const seen = { observedAt: now, ageSeconds, databaseBytes, monitorBytes };
  if (daysAhead < 1) {
    return { status: "degraded", reason: "tomorrow has no partition yet", ...seen };
  }
  if (contendedRetention.length > 0) {
    const names = contendedRetention.join(", ");
    return { status: "degraded", reason: `retention does not get through: ${names}`, ...seen };
  }
  if (budgetBytes !== null && monitorBytes > budgetBytes) {
    const [taken, allowed] = [monitorBytes, budgetBytes].map((bytes) => Math.round(bytes / 1e6));
    return { status: "degraded", reason: `${taken} MB of a budget of ${allowed} MB`, ...seen };
  }
  if (shed !== null) {
    const reason = shed.detail ?? "samples were dropped before their time";
    return { status: "degraded", reason, ...seen };
  }
  return { status: "healthy", reason: `${daysAhead} days ahead have their partition`, ...seen };
}

/** Whether rules are evaluated at all is the health of their job. */
function judgeRules(
  { rules: { liveCount, failingCount, firstFailure }, now }: HealthFacts,
  ageSeconds: number,
): HealthJudgement["components"]["rules"] {
  const seen = { observedAt: now, ageSeconds, failingCount };
  if (firstFailure !== null) {
    const { name, error } = firstFailure;
    const reason = `${failingCount} of ${liveCount} live rules fail: ${name}: ${error}`;
    return { status: "degraded", reason, ...seen };
  }
  return {
    status: "healthy",
    reason: `none of ${liveCount} live rules has failed for long`,
    ...seen,
  };
}

/** How long a message may be due and not under way: a minute until cron calls again, and some for the way. */
export const OVERDUE_SECONDS = 300;

/** A day until the next canary, and two hours for it to arrive. */
export const CANARY_SECONDS = 93_600;

/** Failing channels whose reasons are told: each may be long, and all of it becomes an alert. */
const NAMED_CHANNELS_LIMIT = 5;

/** Whether somebody would be told. */
function judgeNotifications(
  { notifications, now }: HealthFacts,
  ageSeconds: number,
  clock: Date,
): HealthJudgement["components"]["notifications"] {
  const { failingChannels, channelsCount, canary } = notifications;
  // It has waited on since the facts were read.
  const overdueSeconds = notifications.overdueSeconds === null
    ? null
    : notifications.overdueSeconds + ageSeconds;
  const seen = { observedAt: now, ageSeconds, overdueSeconds };
  const judged = (status: HealthStatus, reason: string) => ({ status, reason, ...seen });

  if (!notifications.isEnabled) return judged("degraded", "sending is switched off");
  if (overdueSeconds !== null && overdueSeconds > OVERDUE_SECONDS) {
    return judged("unhealthy", `a message has been due for ${inSeconds(overdueSeconds)}`);
  }
  if (failingChannels.length > 0) {
    const reasons = failingChannels.slice(0, NAMED_CHANNELS_LIMIT)
      .map(({ channel, reason }) => `${channel}: ${reason}`);
    const moreCount = failingChannels.length - reasons.length;
    const told = [...reasons, ...moreCount > 0 ? [`and ${moreCount} more`] : []].join("; ");
    return failingChannels.length >= channelsCount
      ? judged("unhealthy", `no channel works: ${told}`)
      : judged("degraded", `channels fail: ${told}`);
  }
  if (channelsCount === 0 || notifications.routesCount === 0) {
    const missing = channelsCount === 0 ? "channel" : "route";
    return judged("degraded", `nobody is told of alerts: there is no ${missing}`);
  }
  if (isCanaryLost(canary, clock)) {
    return judged("degraded", "the daily canary has not arrived");
  }
  const { parkedCount } = notifications;
  if (parkedCount > 0) {
    const messages = parkedCount === 1 ? "1 message was" : `${parkedCount} messages were`;
    return judged("degraded", `${messages} given up within a week`);
  }
  return judged("healthy", "nothing that is due waits");
}

/** Before the first one has had its time nothing can be said. */
function isCanaryLost(canary: HealthFacts["notifications"]["canary"], clock: Date): boolean {
  if (canary === null) return false;
  const { wantedSince, firedAt, arrivedAt } = canary;
  const isOlder = (date: Date | null, seconds: number) =>
    date !== null && secondsBetween(date, clock) > seconds;
  if (arrivedAt === null && isOlder(firedAt, OVERDUE_SECONDS)) return true;
  // One that is wanted again after a while has its time again.
  const lastGood = wantedSince !== null && arrivedAt !== null && wantedSince > arrivedAt
    ? wantedSince
    : arrivedAt ?? wantedSince;
  return isOlder(lastGood, CANARY_SECONDS);
}

/** Healthy up to the limit, unknown beyond it, and unknown if the time lies ahead of the clock. */
function judgeAge(
  observedAt: Date,
  staleAfterSeconds: number,
  clock: Date,
  what: string,
): ComponentHealth {
  const age = secondsBetween(observedAt, clock);
  const ageSeconds = Math.max(age, 0);
  if (-age > FUTURE_TOLERANCE_SECONDS) {
    const reason = `${what} ${inSeconds(-age)} in the future: a clock is wrong`;
    return { status: "unknown", reason, observedAt, ageSeconds };
  }
  const reason = `${what} ${inSeconds(ageSeconds)} ago`;
  return age > staleAfterSeconds
    ? { status: "unknown", reason: `stale: ${reason}`, observedAt, ageSeconds }
    : { status: "healthy", reason, observedAt, ageSeconds };
}

function never(status: HealthStatus, reason: string): ComponentHealth {
  return { status, reason, observedAt: null, ageSeconds: null };
}

function secondsBetween(from: Date, until: Date): number {
  return (until.getTime() - from.getTime()) / 1000;
}

function inSeconds(seconds: number): string {
  return `${Math.round(seconds)} s`;
}
