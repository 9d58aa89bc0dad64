import {
  type DeliveryResult,
  type LeasedNotification,
  LeasedNotifications,
  RecordedDeliveries,
} from "../../shared/contract/notifications.ts";
import type { Query } from "./database.ts";
import { addChannel, call } from "./incidents.ts";
import { iso, NOON, range } from "./seeds.ts";

export const HEARTBEAT = { type: "heartbeat", signal: "success", reason: "alerts were evaluated" };

/** As much of a message about alerts as the outbox looks at. */
export const ALERTS = { type: "alerts" };

/** Writes a message to the outbox. Returns its id, null if there is no such channel. */
export const enqueue = async (
  query: Query,
  channel: string,
  { at = NOON, payload = HEARTBEAT, ...args }: {
    at?: number;
    payload?: unknown;
    p_group_id?: number;
    p_incident_id?: number;
    p_is_test?: boolean;
  } = {},
): Promise<number | null> => {
  const id = await call<string | null>(query, "enqueue_notification", {
    ...{ p_channel: channel, p_payload: JSON.stringify(payload), p_now: iso(at), ...args },
  });
  return id === null ? null : Number(id);
};

/** Makes a channel with so many messages, due one millisecond after another from `at` on. Returns their ids. */
export async function addMessages(
  query: Query,
  channel: string,
  kind: string,
  count = 1,
  at = NOON,
): Promise<number[]> {
  await addChannel(query, channel, kind);
  const ids: number[] = [];
  for (const n of range(count)) ids.push((await enqueue(query, channel, { at: at + n }))!);
  return ids;
}

/** Takes what is given out, as of noon unless told otherwise. */
export const lease = async (
  query: Query,
  at = NOON,
  args: Readonly<Record<string, unknown>> = {},
): Promise<LeasedNotification[]> =>
  LeasedNotifications.parse(
    await call(query, "lease_notifications", { p_now: iso(at), ...args }),
  ).notifications;

export const idsOf = (leased: readonly { notification_id: number }[]) =>
  leased.map(({ notification_id: id }) => id);

/** A `DeliveryOutcome` of which parts may be missing. */
export type Outcome =
  & Pick<DeliveryResult, "outcome">
  & { provider_id?: string; error?: string; after_seconds?: number; may_have_arrived?: boolean };

export const resultOf = (
  { notification_id, lease_token }: Pick<LeasedNotification, "notification_id" | "lease_token">,
  outcome: Outcome,
) => ({ notification_id, lease_token, ...outcome });

/** Stores what came of messages, as of noon unless told otherwise. */
export const recordAll = async (query: Query, results: unknown, at = NOON) =>
  RecordedDeliveries.parse(
    await call(query, "record_deliveries", {
      p_results: JSON.stringify(results),
      p_now: iso(at),
    }),
  );

export const record = (query: Query, leased: LeasedNotification, outcome: Outcome, at = NOON) =>
  recordAll(query, [resultOf(leased, outcome)], at);

/** What `record_deliveries` answers of nothing. */
export const COUNTS = { sent: 0, retried: 0, parked: 0, stale: 0 };
export const SENT: Outcome = { outcome: "sent" };
export const REFUSED: Outcome = { outcome: "refused", error: "no such channel" };
export const RETRY: Outcome = { outcome: "retry", error: "not now", after_seconds: 60 };

/** A row of `monitor.notifications`, as far as tests look at it. */
export interface Row {
  state: string;
  attempt_count: number;
  lease_token: string | null;
  may_be_repeated: boolean;
  idempotency_key: string;
  provider_id: string | null;
  last_error: string | null;
  created_at: string;
  next_attempt_at: string;
  sent_at: string | null;
  delivered_at: string | null;
}

export const read = async (query: Query, id: number): Promise<Row> =>
  (await query<{ row: Row }>(
    "select to_jsonb(message) as row from monitor.notifications as message where notification_id = $1",
    [id],
  )).rows[0]!.row;

/** The health of a row of `monitor.notification_channels`. */
export interface Channel {
  last_sent_at: string | null;
  consecutive_failures: number;
  failing_since: string | null;
  last_error: string | null;
  undeliverable: Record<string, { at: string; reason: string }>;
}

/** With the addresses of `undeliverable` as a list, of which `toMatchObject` sees when there are more. */
export const readChannel = async (
  query: Query,
  channel: string,
): Promise<Channel & { addresses: string[] }> => {
  const { rows: [known] } = await query<{ row: Channel }>(
    "select to_jsonb(known) as row from monitor.notification_channels as known where channel = $1",
    [channel],
  );
  return { ...known!.row, addresses: Object.keys(known!.row.undeliverable).sort() };
};

/** An instant as Postgres writes it into JSON. */
export const stamp = (at: number) => iso(at).replace(/\.?0*Z$/, "+00:00");

export const setChannel = (query: Query, channel: string, column: string, value: unknown) =>
  query(`update monitor.notification_channels set ${column} = $2 where channel = $1`, [
    channel,
    value,
  ]);

export const setMessage = (query: Query, id: number, column: string, value: unknown) =>
  query(`update monitor.notifications set ${column} = $2 where notification_id = $1`, [id, value]);

export const setSettings = (query: Query, column: string, value: unknown) =>
  query(`update monitor.settings set ${column} = $1`, [value]);

/** `monitor.next_notification_at` in ms. */
export const nextAt = async (query: Query, at = NOON): Promise<number | null> => {
  const { rows: [row] } = await query<{ at: number | null }>(
    "select monitor.epoch_ms(monitor.next_notification_at($1))::float8 as at",
    [iso(at)],
  );
  return row!.at;
};
