import { z } from "zod";

const Instant = z.iso.datetime({ offset: true });

/** How a job's last finished run ended, in the words of `monitor.job_runs.state`. */
export const RUN_STATES = [
  "queued",
  "running",
  "succeeded",
  "failed",
  "skipped",
  "lost",
  "missed",
] as const;

/** What `monitor.read_health` answers. */
export const HealthFactsRow = z.object({
  now: Instant,
  jobs_enabled: z.boolean(),
  scheduler: z.object({
    watched_at: Instant.nullable(),
    stale_after_seconds: z.number().positive(),
    installed: z.boolean(),
  }).nullable(),
  jobs: z.array(z.object({
    job: z.string(),
    stale_after_seconds: z.number().positive(),
    last_succeeded_at: Instant.nullable(),
    last_run_at: Instant.nullable(),
    last_state: z.enum(RUN_STATES).nullable(),
    last_reason: z.string().nullable(),
    last_complete: z.boolean().nullable().optional(),
  })),
  metrics: z.object({
    newest_sample_at: Instant.nullable(),
    stale_after_seconds: z.number().positive(),
    failing_collectors: z.array(z.string()),
  }),
  storage: z.object({
    database_bytes: z.number().nonnegative(),
    monitor_bytes: z.number().nonnegative(),
    budget_bytes: z.number().positive().nullable(),
    shed: z.object({ at: Instant, detail: z.string().nullable() }).nullable(),
    days_ahead: z.int(),
    contended_retention: z.array(z.string()),
  }),
  rules: z.object({
    live_count: z.int().nonnegative(),
    failing_count: z.int().nonnegative(),
    first_failure: z.object({ name: z.string(), error: z.string() }).nullable(),
  }),
  notifications: z.object({
    enabled: z.boolean(),
    routes_count: z.int().nonnegative(),
    channels_count: z.int().nonnegative(),
    overdue_seconds: z.number().nonnegative().nullable(),
    parked_count: z.int().nonnegative(),
    failing_channels: z.array(z.object({ channel: z.string(), reason: z.string() })),
    canary: z.object({
      wanted_since: Instant.nullable(),
      fired_at: Instant.nullable(),
      arrived_at: Instant.nullable(),
    }).nullable(),
  }),
});

/** What one job did last. */
export interface JobFacts {
  readonly job: string;
  readonly staleAfterSeconds: number;
  readonly lastSucceededAt: Date | null;
  readonly lastRunAt: Date | null;
  readonly lastState: typeof RUN_STATES[number] | null;
  readonly lastReason: string | null;
  /** False if the last run left work for the next; null or absent if it did not say. */
  readonly lastComplete?: boolean | null;
}

/** The facts that health is judged from, all of one instant. */
export interface HealthFacts {
  /** By the database's clock, as all other times here. */
  readonly now: Date;
  readonly jobsEnabled: boolean;
  /** Null when the watchdog is not among the jobs. */
  readonly scheduler: {
    readonly watchedAt: Date | null;
    readonly staleAfterSeconds: number;
    readonly isInstalled: boolean;
  } | null;
  readonly jobs: readonly JobFacts[];
  readonly metrics: {
    readonly newestSampleAt: Date | null;
    readonly staleAfterSeconds: number;
    readonly failingCollectors: readonly string[];
  };
  readonly storage: {
    readonly databaseBytes: number;
    readonly monitorBytes: number;
    /** What the schema may take; null without a budget. */
    readonly budgetBytes: number | null;
    /** When samples were last dropped before their time to stay within it, if lately, and which. */
    readonly shed: { readonly at: Date; readonly detail: string | null } | null;
    /** Days after today that samples can already be written to. */
    readonly daysAhead: number;
    /** Entities whose last clean-up could not get a lock, or failed. */
    readonly contendedRetention: readonly string[];
  };
  readonly rules: {
    /** Switched on, and not in shadow mode. */
    readonly liveCount: number;
    /** Of them, those that have failed for more than 10 minutes. */
    readonly failingCount: number;
    readonly firstFailure: { readonly name: string; readonly error: string } | null;
  };
  readonly notifications: {
    /** Whether anything is sent at all. */
    readonly isEnabled: boolean;
    readonly routesCount: number;
    /** Switched on. */
    readonly channelsCount: number;
    /** How long the oldest message that is due has waited; null if none is. */
    readonly overdueSeconds: number | null;
    /** Messages given up within the last 7 days. */
    readonly parkedCount: number;
    readonly failingChannels: readonly { readonly channel: string; readonly reason: string }[];
    /** Since when evaluations have known of a canary, when the last one fired, and the last that arrived; null if none is wanted. */
    readonly canary: {
      readonly wantedSince: Date | null;
      readonly firedAt: Date | null;
      readonly arrivedAt: Date | null;
    } | null;
  };
}

/** Parses the answer of `monitor.read_health`. @throws {z.ZodError} */
export function parseHealthFacts(answer: unknown): HealthFacts {
  const { now, jobs_enabled, scheduler, jobs, metrics, storage, rules, notifications } =
    HealthFactsRow.parse(answer);
  return {
    now: new Date(now),
    jobsEnabled: jobs_enabled,
    scheduler: scheduler && {
      watchedAt: toDate(scheduler.watched_at),
      staleAfterSeconds: scheduler.stale_after_seconds,
      isInstalled: scheduler.installed,
    },
    jobs: jobs.map((row) => ({
      job: row.job,
      staleAfterSeconds: row.stale_after_seconds,
      lastSucceededAt: toDate(row.last_succeeded_at),
      lastRunAt: toDate(row.last_run_at),
      lastState: row.last_state,
      lastReason: row.last_reason,
      lastComplete: row.last_complete ?? null,
    })),
    metrics: {
      newestSampleAt: toDate(metrics.newest_sample_at),
      staleAfterSeconds: metrics.stale_after_seconds,
      failingCollectors: metrics.failing_collectors,
    },
    storage: {
      databaseBytes: storage.database_bytes,
      monitorBytes: storage.monitor_bytes,
      budgetBytes: storage.budget_bytes,
      shed: storage.shed && { at: new Date(storage.shed.at), detail: storage.shed.detail },
      daysAhead: storage.days_ahead,
      contendedRetention: storage.contended_retention,
    },
    rules: {
      liveCount: rules.live_count,
      failingCount: rules.failing_count,
      firstFailure: rules.first_failure,
    },
    notifications: {
      isEnabled: notifications.enabled,
      routesCount: notifications.routes_count,
      channelsCount: notifications.channels_count,
      overdueSeconds: notifications.overdue_seconds,
      parkedCount: notifications.parked_count,
      failingChannels: notifications.failing_channels,
      canary: notifications.canary && {
        wantedSince: toDate(notifications.canary.wanted_since),
        firedAt: toDate(notifications.canary.fired_at),
        arrivedAt: toDate(notifications.canary.arrived_at),
      },
    },
  };
}

function toDate(instant: string | null): Date | null {
  return instant === null ? null : new Date(instant);
}
