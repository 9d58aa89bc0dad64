import { IncidentPayload } from "../../shared/contract/notifications.ts";
import type { Query } from "./database.ts";
import { iso, NOON } from "./seeds.ts";

/** A row of `monitor.incidents`, as the functions answer it. */
export interface Incident {
  incident_id: number;
  title: string;
  severity: string;
  state: string;
  started_at: string;
  opened_at: string;
  opened_by: string;
  reopened_at: string | null;
  resolved_at: string | null;
  mitigated_at: string | null;
  response_due_at: string | null;
  acknowledged_at: string | null;
  acknowledged_by: string | null;
  next_update_due_at: string | null;
  escalation_level: number;
  commander: string | null;
  affected_components: string[];
  channels: string[] | null;
  fingerprint: string | null;
  root_cause: string | null;
  fix: string | null;
  prevention: string | null;
  post_mortem_on: string | null;
  told: string[];
}

/** Calls a function of schema monitor by the names of its arguments; arrays are those of Postgres. */
export async function call<Result = Incident>(
  query: Query,
  name: string,
  args: Readonly<Record<string, unknown>>,
): Promise<Result> {
  const names = Object.keys(args).map((key, index) => `${key} => $${index + 1}`);
  const { rows } = await query(`select monitor.${name}(${names}) as result`, Object.values(args));
  return rows[0]?.result as Result;
}

/** Opens an incident by hand at noon. */
export const open = (query: Query, args: Readonly<Record<string, unknown>> = {}) =>
  call(query, "open_incident", {
    p_title: "Checkout fails",
    p_severity: "P1",
    p_now: iso(NOON),
    ...args,
  });

/** Calls a function of one incident. */
export const act = <Result = Incident>(
  query: Query,
  name: string,
  { incident_id }: { incident_id: number },
  args: Readonly<Record<string, unknown>> = {},
) => call<Result>(query, name, { p_incident_id: incident_id, p_now: iso(NOON), ...args });

export interface Advanced {
  opened: number;
  linked: number;
  escalated: number;
  told: number;
  events: number;
  failed: number;
  failures: Record<string, unknown>[];
}

/** What an advance answers that finds nothing to do. */
export const NOTHING: Advanced = {
  opened: 0,
  linked: 0,
  escalated: 0,
  told: 0,
  events: 0,
  failed: 0,
  failures: [],
};

export const advance = (query: Query, at: number) =>
  call<Advanced>(query, "advance_incidents", { p_now: iso(at) });

/** A channel that takes messages: mail, unless `kind` says otherwise. */
export async function addChannel(query: Query, channel: string, kind = "email", enabled = true) {
  const config = kind === "email"
    ? { to: [`${channel}@example.com`] }
    : { url: `https://example.com/${channel}` };
  await query(
    "insert into monitor.notification_channels (channel, kind, config, enabled) values ($1, $2, $3, $4)",
    [channel, kind, config, enabled],
  );
}

export const saveLevel = (query: Query, level: number, channels: string[], title?: string) =>
  call(query, "save_escalation_level", {
    p_level: level,
    p_channels: channels,
    ...(title !== undefined && { p_title: title }),
  });

/** A mail channel for each level: oncall, seniors, managers. */
export async function setUpLevels(query: Query) {
  for (const [index, channel] of ["oncall", "seniors", "managers"].entries()) {
    await addChannel(query, channel);
    await saveLevel(query, index + 1, [channel]);
  }
}

let alerts = 0;

/** Adds an alert that fires since `at` unless `columns` say otherwise. Returns its id. */
export async function addAlert(
  query: Query,
  { at = NOON, ...columns }: Readonly<Record<string, unknown> & { at?: number }> = {},
): Promise<number> {
  const row = {
    fingerprint: `alert ${alerts += 1}`,
    name: "QueueDeep",
    source: "rule",
    severity: "warning",
    opened_at: iso(at),
    active_at: iso(at),
    fired_at: iso(at),
    last_seen_at: iso(at),
    occurrence_count: 1,
    ...columns,
  };
  const names = Object.keys(row);
  const { rows } = await query<{ id: string }>(
    `insert into monitor.system_alerts (${names})
     values (${names.map((_, index) => `$${index + 1}`)}) returning alert_id as id`,
    Object.values(row),
  );
  return Number(rows[0]!.id);
}

/** Adds an alert whose label asks for an incident. Returns its id. */
export const addAsking = (
  query: Query,
  { labels = {}, severity = "P1", ...columns }: Readonly<
    Record<string, unknown> & { at?: number; labels?: object; severity?: string }
  > = {},
) =>
  addAlert(query, {
    labels: { alertname: "QueueDeep", pgvigil_incident: severity, ...labels },
    ...columns,
  });

export const resolveAlert = (query: Query, alert: number, at: number) =>
  query(
    "update monitor.system_alerts set resolved_at = $2, resolved_because = 'what it says no longer holds' where alert_id = $1",
    [alert, iso(at)],
  );

/** What `monitor.sync_alerts` makes of one that comes back in its row. */
export const fireAgain = (query: Query, alert: number, at: number) =>
  query(
    `update monitor.system_alerts
     set resolved_at = null, resolved_because = null, fired_at = $2, active_at = $2, last_seen_at = $2,
       occurrence_count = occurrence_count + 1
     where alert_id = $1`,
    [alert, iso(at)],
  );

export const readIncidents = async (query: Query) =>
  (await query<{ row: Incident }>(
    "select to_jsonb(incident) as row from monitor.incidents as incident order by incident_id",
  )).rows.map(({ row }) => row);

export interface Event extends Record<string, unknown> {
  at: number;
  kind: string;
  actor: string;
  description: string;
}

/** The timeline of an incident, of all kinds or of one. */
export const readEvents = async (
  query: Query,
  { incident_id }: { incident_id: number },
  kind?: string,
) =>
  (await query<Event>(
    `select monitor.epoch_ms(happened_at)::float8 as at, kind, actor, description from monitor.incident_events
     where incident_id = $1 and kind = coalesce($2, kind) order by happened_at, event_id`,
    [incident_id, kind],
  )).rows;

export interface Message extends IncidentPayload {
  notification_id: number;
  channel: string;
  created_at: number;
}

/** All messages about incidents in the outbox, each parsed as a deliverer does. */
export async function readMessages(query: Query): Promise<Message[]> {
  const { rows } = await query<
    { notification_id: number; channel: string; payload: unknown; created_at: number }
  >(
    `select notification_id::int, channel, payload, monitor.epoch_ms(created_at)::float8 as created_at
     from monitor.notifications where incident_id is not null order by notification_id`,
  );
  return rows.map(({ payload, ...row }) => ({
    ...IncidentPayload.strict().parse(payload),
    ...row,
  }));
}

/** What has been written since the last call, as `message to channel`. */
export function newMessages(query: Query): () => Promise<string[]> {
  let seen = 0;
  return async () => {
    const all = await readMessages(query);
    const fresh = all.slice(seen);
    seen = all.length;
    return fresh.map(({ message, channel }) => `${message} to ${channel}`);
  };
}

export const ISO_NOON = "2026-03-10T12:00:00+00:00";

/** An instant as Postgres writes it into JSON. */
export const stamp = (at: number): string => iso(at).replace(".000Z", "+00:00");
