import {
  CHANNEL_KINDS,
  type ChannelKind,
  type DeliveryResult,
  type LeasedNotification,
  type RecordedDeliveries,
} from "../../../shared/contract/notifications.ts";
import { JobRequest, type Run, type RunOutcome } from "../_shared/job.ts";
import type { NotificationStore } from "../_shared/stores.ts";
import { type SendDeps, sendNotification, type Surroundings } from "./send-notification.ts";

export const DeliverRequest = JobRequest;

/** The outside world as this function needs it; the edge wires the real one, tests a fake. */
export interface DeliverDeps extends NotificationStore, SendDeps {
  sleep(milliseconds: number): Promise<void>;
}

/**
 * No new messages are taken after so long: with the slowest of those under way the call ends before pg_net, which sends
 * nothing else meanwhile, gives it up.
 */
export const SENDING_SECONDS = 12;

/** Messages that are under way at once in a lane. Of mails and for Slack the database gives out one at a time. */
export const PARALLEL_LIMIT = 20;

/** How long a function stays after its answer until something is due. Cron calls it again after that. */
export const WATCH_SECONDS = 60;

/** Kinds of channels that are served side by side, so that a slow one keeps none of the others waiting. */
const LANES: readonly (readonly ChannelKind[])[] = [
  ["email"],
  ["slack"],
  CHANNEL_KINDS.filter((kind) => kind !== "email" && kind !== "slack"),
];

/**
 * Writes the messages of groups that are due, and sends what is in the outbox until nothing is due or the time is up.
 * Whether messages arrive is the health of their channels: the run succeeds when the outcome of each is stored.
 */
export async function deliverNotifications(run: Run, deps: DeliverDeps): Promise<RunOutcome> {
  const isLate = () => deps.now().getTime() - run.startedAt.getTime() >= SENDING_SECONDS * 1000;
  const [flushed] = await Promise.allSettled([deps.flushAlerts()]);
  // Each to its end, whatever becomes of the others: what they have under way would not be recorded.
  const served = await Promise.allSettled(LANES.map((kinds) => serve(kinds, isLate, deps)));
  const told = valueOf(flushed);
  const recorded = served.map(valueOf).reduce(add, NOTHING);
  return { kind: "succeeded", result: { told, ...recorded, complete: !isLate() } };
}

/** @throws what it has failed with */
function valueOf<T>(settled: PromiseSettledResult<T>): T {
  if (settled.status === "rejected") throw settled.reason;
  return settled.value;
}

const NOTHING: RecordedDeliveries = { sent: 0, retried: 0, parked: 0, stale: 0 };

/** Sends what is due by some kinds of channels, a lease after the other: each is recorded before the next is taken. */
async function serve(
  kinds: readonly ChannelKind[],
  isLate: () => boolean,
  deps: DeliverDeps,
): Promise<RecordedDeliveries> {
  let total = NOTHING;
  while (!isLate()) {
    const { notifications, now, time_zone, external_url } = await deps.leaseNotifications(
      kinds,
      PARALLEL_LIMIT,
    );
    if (notifications.length === 0) break;
    const surroundings = { timeZone: time_zone, externalUrl: external_url };
    const results = await Promise.all(
      notifications.map((leased) => send(leased, new Date(now), surroundings, deps)),
    );
    total = add(total, await deps.recordDeliveries(results));
  }
  return total;
}

/** Sends a message when its time has come. */
async function send(
  leased: LeasedNotification,
  leasedAt: Date,
  surroundings: Surroundings,
  deps: DeliverDeps,
): Promise<DeliveryResult> {
  const { notification_id, lease_token, send_at } = leased;
  // Both by the clock of the database, whatever ours says.
  const wait = new Date(send_at).getTime() - leasedAt.getTime();
  if (wait > 0) await deps.sleep(wait);
  return { notification_id, lease_token, ...await sendNotification(leased, surroundings, deps) };
}

function add(a: RecordedDeliveries, b: RecordedDeliveries): RecordedDeliveries {
  return {
    sent: a.sent + b.sent,
    retried: a.retried + b.retried,
    parked: a.parked + b.parked,
    stale: a.stale + b.stale,
  };
}

/** Waits for what will be due within a minute, and has the job called then. */
export async function watchOutbox(
  { now, sleep, wakeDeliverer }: Pick<DeliverDeps, "now" | "sleep" | "wakeDeliverer">,
): Promise<void> {
  const endsAt = now().getTime() + WATCH_SECONDS * 1000;
  for (;;) {
    const { wait_seconds: seconds } = await wakeDeliverer();
    if (seconds === null || now().getTime() + seconds * 1000 > endsAt) return;
    await sleep(seconds * 1000);
  }
}
