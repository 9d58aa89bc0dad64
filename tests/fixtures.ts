import { Buffer } from "node:buffer";
import type { HealthFacts, JobFacts } from "../shared/contract/health-facts.ts";
import type { Caller } from "../supabase/functions/_shared/auth.ts";
import type { Database } from "../supabase/functions/_shared/database.ts";
import type { EndpointWorld } from "../supabase/functions/_shared/endpoint.ts";
import type { Environment } from "../supabase/functions/_shared/env.ts";
import type { LogLevel } from "../supabase/functions/_shared/log.ts";
import type { JobStore } from "../supabase/functions/_shared/stores.ts";

/** A Sunday. */
export const NOON = new Date("2026-02-01T12:00:00Z");

/** `NOON` and so many seconds. */
export function afterNoon(seconds: number): Date {
  return new Date(NOON.getTime() + seconds * 1000);
}

/** A clock that stands still until it is moved. */
export class Clock {
  #now: number;

  constructor(start = NOON) {
    this.#now = start.getTime();
  }

  readonly now = (): Date => new Date(this.#now);

  advance(seconds: number): void {
    this.#now += seconds * 1000;
  }
}

export const RUN_ID = "11111111-1111-4111-8111-111111111111";
export const OTHER_RUN_ID = "22222222-2222-4222-8222-222222222222";

/** Keys of a project. The one named `reports` is a secret key that is not for us. */
export const KEYS = {
  default: "sb_secret_default0000000000000000",
  cron: "sb_secret_cron000000000000000000",
  cron_next: "sb_secret_next000000000000000000",
  reports: "sb_secret_reports0000000000000000",
  publishable: "sb_publishable_default00000000000",
} as const;

/** An environment as {@link Environment}, with all keys. */
export function sampleEnvironment(changes: Partial<Environment> = {}): Environment {
  const { publishable, ...secretKeys } = KEYS;
  return {
    url: "http://api.test",
    secretKeys,
    publishableKeys: { default: publishable },
    allowedOrigins: ["https://admin.test"],
    ...changes,
  };
}

/** The same environment as variables. */
export function sampleVariables(url = "http://api.test"): Record<string, string> {
  const { publishable, ...secretKeys } = KEYS;
  return {
    SUPABASE_URL: url,
    SUPABASE_SECRET_KEYS: JSON.stringify(secretKeys),
    SUPABASE_PUBLISHABLE_KEYS: JSON.stringify({ default: publishable }),
    PGVIGIL_ALLOWED_ORIGINS: "https://admin.test",
  };
}

/** Shaped like a user's token; nothing has signed it. */
export function sampleToken(claims: object = { exp: afterNoon(3600).getTime() / 1000 }): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}.c2lnbmF0dXJl`;
}

/** Shaped like an access token; another one for each number. */
export function sampleAccessToken(n: number): string {
  return `pgv_${n.toString(16).padStart(40, "0")}`;
}

/** A world of which the lines are kept. */
export function sampleWorld(clock = new Clock()) {
  const lines: { level: LogLevel; line: string }[] = [];
  const world: EndpointWorld = {
    now: clock.now,
    makeRunId: () => RUN_ID,
    allowedOrigins: () => ["https://admin.test"],
    write: (level, line) => lines.push({ level, line }),
  };
  return { world, lines, clock };
}

/** A call of a function. */
export function request(
  method: string,
  { path = "/", headers = {}, body }: {
    path?: string;
    headers?: Record<string, string>;
    body?: BodyInit;
  } = {},
): Request {
  return new Request(`http://functions.test${path}`, {
    method,
    headers,
    ...(body !== undefined && { body, duplex: "half" }),
  } as RequestInit);
}

/** Lets everybody in, as `caller`. */
export function admit(caller: Caller = { kind: "key", name: "cron" }) {
  return () => Promise.resolve(caller);
}

/** The record of runs, in memory: every run may start. */
export function sampleJobs(changes: Partial<JobStore> = {}) {
  const started: unknown[][] = [];
  const finished: unknown[][] = [];
  const jobs: JobStore = {
    start: (job, runId, trigger, scheduledAt) => {
      started.push([job, runId, trigger, scheduledAt.toISOString()]);
      return Promise.resolve({ kind: "started", runId, scheduledAt });
    },
    finish: (...end) => {
      finished.push(end);
      return Promise.resolve();
    },
    ...changes,
  };
  return { jobs, started, finished };
}

/** Facts of a suite in good health at `NOON`. */
export function sampleFacts(changes: Partial<HealthFacts> = {}): HealthFacts {
  return {
    now: NOON,
    jobsEnabled: true,
    scheduler: { watchedAt: afterNoon(-30), staleAfterSeconds: 180, isInstalled: true },
    jobs: [sampleJobFacts()],
    metrics: {
      newestSampleAt: afterNoon(-60),
      staleAfterSeconds: 180,
      failingCollectors: [],
    },
    storage: {
      databaseBytes: 10_000_000,
      monitorBytes: 1_000_000,
      budgetBytes: 400_000_000,
      shed: null,
      daysAhead: 2,
      contendedRetention: [],
    },
    rules: { liveCount: 23, failingCount: 0, firstFailure: null },
    notifications: {
      isEnabled: true,
      routesCount: 1,
      channelsCount: 2,
      overdueSeconds: null,
      parkedCount: 0,
      failingChannels: [],
      canary: null,
    },
    ...changes,
  };
}

/** A job in good health at `NOON`. */
export function sampleJobFacts(changes: Partial<JobFacts> = {}): JobFacts {
  return {
    job: "collect-metrics",
    staleAfterSeconds: 180,
    lastSucceededAt: afterNoon(-59),
    lastRunAt: afterNoon(-60),
    lastState: "succeeded",
    lastReason: null,
    ...changes,
  };
}

/** What `monitor.read_health` answers of a suite in good health at `now`. */
export function sampleFactsRow(now = NOON) {
  const before = (seconds: number) => new Date(now.getTime() - seconds * 1000).toISOString();
  return {
    now: before(0),
    jobs_enabled: true,
    scheduler: { watched_at: before(30), stale_after_seconds: 180, installed: true },
    jobs: [{
      job: "collect-metrics",
      cron_schedule: "* * * * *",
      stale_after_seconds: 180,
      created_at: before(86_400),
      last_succeeded_at: before(59),
      last_run_at: before(60),
      last_state: "succeeded",
      last_reason: null,
    }],
    metrics: {
      newest_sample_at: before(60),
      stale_after_seconds: 180,
      series_count: 30,
      failing_collectors: [],
    },
    storage: {
      database_bytes: 10_000_000,
      monitor_bytes: 1_000_000,
      budget_bytes: 400_000_000,
      shed: null,
      days_ahead: 2,
      contended_retention: [],
    },
    rules: { live_count: 23, failing_count: 0, first_failure: null },
    notifications: {
      enabled: true,
      routes_count: 1,
      channels_count: 2,
      overdue_seconds: null,
      parked_count: 0,
      failing_channels: [],
      canary: { wanted_since: before(7200), fired_at: before(3600), arrived_at: before(3600) },
    },
  };
}

/** A database that answers the same to everything, and what it was asked. */
export function answeringDatabase(answer: unknown) {
  const calls: unknown[][] = [];
  const database: Database = {
    call: (rpc, args, parse, ...rest) => {
      calls.push([rpc, args, ...rest]);
      if (answer instanceof Error) return Promise.reject(answer);
      return new Promise((resolve) => resolve(parse(answer)));
    },
  };
  return { database, calls };
}
