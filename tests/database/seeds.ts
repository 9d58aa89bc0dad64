import { randomUUID } from "node:crypto";
import { type Query, rpc } from "./database.ts";

export const SECOND = 1000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;

/** A Tuesday; earlier than any day the migrations open, so that a test's days are its own. */
export const NOON = Date.UTC(2026, 2, 10, 12);
/** The start of the day of {@link NOON}. */
export const MIDNIGHT = NOON - 12 * HOUR;

/** An instant in ms as ISO text, which Postgres and JSON both take. */
export const iso = (at: number): string => new Date(at).toISOString();

/** Numbers 0 … `count` - 1. */
export const range = (count: number): number[] =>
  Array.from({ length: count }, (_, index) => index);

/** Numbers as Postgres reads them bit for bit: the driver would send -0 as 0. */
export const floats = (values: readonly number[]): string[] =>
  values.map((value) => Object.is(value, -0) ? "-0" : String(value));

/** Makes the partitions of `days` UTC days from the day of `from` on. */
export async function openDays(query: Query, from = NOON, days = 1): Promise<void> {
  for (let n = 0; n < days; n += 31) { // at most so many a call
    await rpc(query, "ensure_sample_days", {
      p_now: iso(from + n * DAY),
      p_days_ahead: Math.min(31, days - n) - 1,
    });
  }
}

/** Adds a gauge (or what `definition` says) for a test to use. Returns its name. */
export async function addMetric(
  query: Query,
  definition: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  const metric = `test_${randomUUID().replaceAll("-", "_")}`;
  const row = {
    metric,
    category: "system",
    unit: "count",
    description: "Of a test.",
    ...definition,
  };
  const columns = Object.keys(row);
  await query(
    `insert into monitor.metric_definitions (${columns})
     values (${columns.map((_, index) => `$${index + 1}`)})`,
    Object.values(row),
  );
  return metric;
}

/** Adds a series with samples `[at in ms, value]`, whose days are open. Returns its id. */
export async function addSeries(
  query: Query,
  metric: string,
  samples: readonly (readonly [number, number])[] = [],
  labels: Readonly<Record<string, string>> = {},
): Promise<number> {
  const { rows: [series] } = await query<{ series_id: number }>(
    `insert into monitor.metric_series (metric, labels, last_sample_at) values ($1, $2, $3) returning series_id`,
    [metric, labels, samples.length > 0 ? iso(Math.max(...samples.map(([at]) => at))) : null],
  );
  await query(
    `insert into monitor.metric_time_series (series_id, recorded_at, value)
     select $1, at, value from unnest($2::timestamptz[], $3::double precision[]) as sample (at, value)`,
    [series!.series_id, samples.map(([at]) => iso(at)), floats(samples.map(([, value]) => value))],
  );
  return series!.series_id;
}

/** Adds a user of the Auth API. Returns his id. */
export async function addUser(asOwner: Query): Promise<string> {
  const id = randomUUID();
  await asOwner("insert into auth.users (id) values ($1)", [id]);
  return id;
}

/** Adds a user who is an admin. Returns his id. */
export async function addAdmin(asOwner: Query): Promise<string> {
  const id = await addUser(asOwner);
  await asOwner("insert into monitor.admins (user_id, added_by) values ($1, 'a test')", [id]);
  return id;
}

/** Adds an anomaly of `seriesId`; `columns` as in the table. Returns its id. */
export async function addAnomaly(
  query: Query,
  seriesId: number,
  columns: Readonly<Record<string, unknown>> = {},
): Promise<number> {
  const row = {
    series_id: seriesId,
    detector_version: "test/1",
    started_at: iso(NOON),
    last_seen_at: columns.started_at ?? iso(NOON),
    expected: 1,
    lower: 0,
    upper: 2,
    observed: 9,
    score: 8,
    severity: "warning",
    explanation: "9 instead of 1",
    sample_count: 1,
    ...columns,
  };
  const names = Object.keys(row);
  const { rows: [anomaly] } = await query<{ id: string }>(
    `insert into monitor.anomaly_detections (${names})
     values (${names.map((_, index) => `$${index + 1}`)}) returning anomaly_id as id`,
    Object.values(row),
  );
  return Number(anomaly!.id);
}

/** Adds a run of `job`; `columns` as in the table. Returns its id. */
export async function addRun(
  query: Query,
  columns: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  const row = {
    run_id: randomUUID(),
    job: "collect-metrics",
    trigger: "cron",
    scheduled_at: iso(NOON),
    state: "queued",
    ...columns,
  };
  const names = Object.keys(row);
  await query(
    `insert into monitor.job_runs (${names}) values (${names.map((_, index) => `$${index + 1}`)})`,
    Object.values(row),
  );
  return row.run_id;
}

/** Adds a mail channel, switched on unless `columns` say otherwise. */
export async function addChannel(
  query: Query,
  channel = "ops",
  columns: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const row = { channel, kind: "email", config: { to: ["ops@example.com"] }, ...columns };
  const names = Object.keys(row);
  await query(
    `insert into monitor.notification_channels (${names})
     values (${names.map((_, index) => `$${index + 1}`)})`,
    Object.values(row),
  );
}

/** Adds a message of noon to ops, to be sent at once; `columns` as in the table. Returns its id. */
export async function addMessage(
  query: Query,
  columns: Readonly<Record<string, unknown>> = {},
): Promise<number> {
  const row = {
    channel: "ops",
    payload: {},
    created_at: iso(NOON),
    next_attempt_at: columns.created_at ?? iso(NOON),
    ...columns,
  };
  const names = Object.keys(row);
  const { rows: [message] } = await query<{ id: string }>(
    `insert into monitor.notifications (${names})
     values (${names.map((_, index) => `$${index + 1}`)}) returning notification_id as id`,
    Object.values(row),
  );
  return Number(message!.id);
}
