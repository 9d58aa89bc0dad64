/** `npm run notify-test`: sends a sample of each message by a channel, the way of every message, and says what became of it. */
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import pg from "pg";
import { SAMPLE_KINDS, samplePayload } from "../shared/alerting/messages/sample-payloads.ts";
import { explainConnection, findDatabaseUrl } from "./connection.ts";

const HELP =
  `Sends a sample of each message by a channel, through the outbox as every message, and says what became of it.

  npm run notify-test -- --channel <name>     of the local stack (npm start must be running)
  npm run notify-test                         lists the channels

  --only <kind>      one kind of message: ${SAMPLE_KINDS.join(", ")}
  --seconds <n>      how long to wait for it to be sent (default 60)
  --db-url <url>     any database, as its owner "postgres" (default: the local stack)

Exit code: 0 all were sent, 1 not all were, 3 it could not be tried.`;

interface Channel {
  channel: string;
  kind: string;
  enabled: boolean;
  reason: string | null;
}

interface Sent {
  notification_id: string;
  state: string;
  attempt_count: number;
  last_error: string | null;
}

/** States in which nothing more becomes of a message here; whether mails are delivered is known later. */
const ENDED = ["sent", "delivered", "bounced", "complained", "parked", "discarded"];
const ARRIVED = ["sent", "delivered"];

async function listChannels(client: pg.Client): Promise<Channel[]> {
  const { rows } = await client.query<Channel>(
    `select channel, kind, enabled, coalesce(
       monitor.refuse_channel(kind, config, monitor.channel_secret(channel)), case when failing_since is not null then last_error end) as reason
     from monitor.notification_channels order by channel`,
  );
  return rows;
}

function printChannels(channels: readonly Channel[]): void {
  if (channels.length === 0) {
    console.log("There is no channel. Make one, for example:");
    console.log(
      `  select monitor.save_channel('ops', 'email', '{"to": ["you@example.com"]}');`,
    );
  }
  for (const { channel, kind, enabled, reason } of channels) {
    const state = enabled ? reason ?? "works, as far as is known" : "switched off";
    console.log(`${channel.padEnd(24)} ${kind.padEnd(10)} ${state}`);
  }
}

/** @throws {Error} if nothing is sent now, by whatever channel */
async function refuseWhileOff(client: pg.Client): Promise<void> {
  const { rows: [settings] } = await client.query<Record<string, boolean>>(
    "select notifications_enabled, jobs_enabled from monitor.settings",
  );
  const off = Object.keys(settings!).find((name) => !settings![name]);
  if (off !== undefined) {
    throw new Error(`All sending is switched off: update monitor.settings set ${off} = true;`);
  }
}

async function sendSamples(
  client: pg.Client,
  channel: Channel,
  only: string | undefined,
  seconds: number,
): Promise<boolean> {
  const kinds = SAMPLE_KINDS.filter((kind) =>
    (kind === "heartbeat") === (channel.kind === "heartbeat") && (only ?? kind) === kind
  );
  if (kinds.length === 0) {
    throw new Error(
      `A channel of kind ${channel.kind} sends no ${only}; kinds are ${SAMPLE_KINDS.join(", ")}`,
    );
  }
  const waiting = new Map<string, string>();
  for (const kind of kinds) {
    const { rows: [row] } = await client.query<{ id: string }>(
      "select monitor.enqueue_notification($1, $2, p_is_test => true) as id",
      [channel.channel, JSON.stringify(samplePayload(kind, new Date()))],
    );
    waiting.set(row!.id, kind);
  }
  await client.query("select monitor.wake_deliverer()");
  console.log(`${kinds.length} messages are in the outbox; waiting up to ${seconds} s`);

  const endsAt = performance.now() + seconds * 1000;
  let areAllThere = true;
  while (waiting.size > 0 && performance.now() < endsAt) {
    await sleep(500);
    for (const { notification_id, ...sent } of await readStates(client, [...waiting.keys()])) {
      if (!ENDED.includes(sent.state)) continue;
      printState(waiting.get(notification_id)!, sent);
      areAllThere &&= ARRIVED.includes(sent.state);
      waiting.delete(notification_id);
    }
  }
  for (const { notification_id, ...sent } of await readStates(client, [...waiting.keys()])) {
    printState(waiting.get(notification_id)!, sent);
  }
  if (waiting.size > 0) {
    console.log(
      "They are sent as soon as that can be done. Is everything set up? npm run doctor",
    );
  }
  return areAllThere && waiting.size === 0;
}

async function readStates(client: pg.Client, ids: readonly string[]): Promise<Sent[]> {
  const { rows } = await client.query<Sent>(
    `select notification_id, state, attempt_count, last_error
     from monitor.notifications where notification_id = any ($1) order by notification_id`,
    [ids],
  );
  return rows;
}

function printState(
  kind: string,
  { state, attempt_count, last_error }: Omit<Sent, "notification_id">,
): void {
  const trouble = ARRIVED.includes(state) || last_error === null
    ? ""
    : `: ${last_error} (attempt ${attempt_count})`;
  console.log(`${kind.padEnd(22)} ${state}${trouble}`);
}

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      channel: { type: "string" },
      only: { type: "string" },
      seconds: { type: "string", default: "60" },
      "db-url": { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return true;
  }
  const seconds = Number(values.seconds);
  if (!(seconds > 0 && seconds <= 3600)) {
    throw new Error("--seconds must be a number up to 3600");
  }
  const client = new pg.Client({
    connectionString: findDatabaseUrl(values["db-url"]),
    connectionTimeoutMillis: 10_000,
  });
  try {
    await client.connect();
    const channels = await listChannels(client);
    if (values.channel === undefined) {
      printChannels(channels);
      return true;
    }
    const channel = channels.find(({ channel }) => channel === values.channel);
    if (!channel) {
      throw new Error(
        `There is no channel ${values.channel}; there is ${
          channels.map(({ channel }) => channel).join(", ") || "none"
        }`,
      );
    }
    if (!channel.enabled) {
      throw new Error(
        `${channel.channel} is switched off: update monitor.notification_channels set enabled = true where channel = '${channel.channel}';`,
      );
    }
    await refuseWhileOff(client);
    return await sendSamples(client, channel, values.only, seconds);
  } finally {
    await client.end().catch(() => {});
  }
}

try {
  process.exitCode = await main() ? 0 : 1;
} catch (error) {
  console.error(`Cannot send samples: ${explainConnection(error)}`);
  process.exitCode = 3;
}
