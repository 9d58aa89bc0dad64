import { fork } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import pg from "pg";
import type { Facts } from "../local/stack.ts";
import { decodeOtlpProtobuf } from "../shared/ingest/decode-otlp.ts";
import { otlpToSamples } from "../shared/ingest/otlp-to-samples.ts";
import type { Scale } from "./history.ts";
import {
  encodeOtlpRequest,
  POINTS,
  type RequestOptions,
  type RequestShape,
  STEP_MS,
} from "./otlp-request.ts";
import type { Order, Report } from "./otlp-senders.ts";
import { formatGoal, formatTable, quantileOf, type Row } from "./report.ts";
import { withStack } from "./stack.ts";

/** Requests in flight: as many senders, each with series of its own. */
const SENDERS = 4;
/** Of each sender in a round. */
const REQUESTS = 4;

const SHAPES: readonly RequestShape[] = [
  { metrics: 64, seriesPerMetric: 128, pointsPerSeries: 1 },
  { metrics: 16, seriesPerMetric: 64, pointsPerSeries: 8 },
];

/** CPU seconds of the gateway (this process, with the stand-in of the REST API), of Deno, and of Postgres. */
interface CpuSeconds {
  gateway: number;
  deno: number;
  postgres: number;
}

/** So far; undefined where there is no /proc. Postgres' processes are those below its first one. */
function readCpu(): CpuSeconds | undefined {
  const ticksPerSecond = 100;
  const all = new Map<number, { parent: number; name: string; seconds: number }>();
  try {
    for (const entry of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
      let stat: string;
      try {
        stat = readFileSync(`/proc/${entry}/stat`, "utf8");
      } catch {
        continue; // it has ended meanwhile
      }
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ").map(Number);
      // Its own, and of the children that it has seen end.
      const ticks = fields[11]! + fields[12]! + fields[13]! + fields[14]!;
      const name = stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")"));
      all.set(Number(entry), { parent: fields[1]!, name, seconds: ticks / ticksPerSecond });
    }
  } catch {
    return undefined;
  }
  const isOurs = (pid: number): boolean =>
    pid === process.pid || (all.has(pid) && isOurs(all.get(pid)!.parent));
  const { user, system } = process.cpuUsage();
  const total: CpuSeconds = { gateway: (user + system) / 1e6, deno: 0, postgres: 0 };
  for (const [pid, { name, seconds }] of all) {
    if ((name === "deno" || name === "postgres") && isOurs(pid)) total[name] += seconds;
  }
  return total;
}

/** A process that sends; {@link Senders.ask} gives its answer to an order. */
interface Senders {
  ask<T extends Report>(order: Order): Promise<Exclude<T, { error: string }>>;
  stop(): void;
}

function startSenders(): Senders {
  const child = fork(join(import.meta.dirname, "otlp-senders.ts"), {
    execArgv: ["--import", "tsx"],
  });
  return {
    ask: async <T extends Report>(order: Order) => {
      child.send(order);
      const [report] = await once(child, "message") as [Report];
      if ("error" in report) throw new Error(`The senders failed: ${report.error}`);
      return report as Exclude<T, { error: string }>;
    },
    stop: () => child.kill(),
  };
}

/** What monitor.ingest_samples is given for a request, encoded for the wire beforehand. */
function toParameters(request: RequestOptions, now: Date): string[] {
  const { batch, refused } = otlpToSamples(decodeOtlpProtobuf(encodeOtlpRequest(request)), now);
  if (refused.length > 0) throw new Error(JSON.stringify(refused));
  const { series, positions, times, values } = batch;
  return [JSON.stringify(series), ...[positions, times, values].map((list) => `{${list.join()}}`)];
}

/** Calls monitor.ingest_samples over each client with its requests one after another. Samples a second. */
async function callDirectly(
  clients: readonly pg.Client[],
  requests: readonly (readonly string[][])[],
): Promise<number> {
  const startedAt = performance.now();
  let inserted = 0;
  await Promise.all(clients.map(async (client, index) => {
    for (const parameters of requests[index]!) {
      const { rows: [row] } = await client.query(
        "select monitor.ingest_samples($1, $2, $3, $4) as result",
        parameters,
      );
      inserted += row.result.inserted;
      const { duplicates, overflowed, rejected } = row.result;
      if (duplicates > 0 || overflowed > 0 || rejected.length > 0) {
        throw new Error(JSON.stringify(row.result));
      }
    }
  }));
  return inserted / ((performance.now() - startedAt) / 1000);
}

/** OTLP through gateway, function and REST API into the database, and the SQL function alone, alternating. */
export function measureIngestionHttp(
  log: (line: string) => void,
  { quick }: Scale,
): Promise<string> {
  const rounds = quick ? 3 : 10;
  return withStack(56341, async (facts) => {
    const clients = await Promise.all(Array.from({ length: SENDERS }, () => connect(facts)));
    const senders = startSenders();
    try {
      const { rows: [made] } = await clients[0]!.query(
        "select monitor.create_access_token('bench', '{ingest}') ->> 'token' as token",
      );
      for (const client of clients) await client.query("set role service_role");
      const rows: Row[] = [];
      const notes: string[] = [];
      for (const shape of SHAPES) {
        const series = shape.metrics * shape.seriesPerMetric;
        const what = `${series.toLocaleString("en")} series × ${shape.pointsPerSeries}`;
        log(what);
        const startedAt = Date.now();
        let requestsMade = 0;
        /** Later than all before, and not so far ahead that they would be refused. */
        const nextRequests = (): RequestOptions[][] => {
          const first = requestsMade;
          requestsMade += REQUESTS;
          return Array.from(
            { length: SENDERS },
            (_, sender) =>
              Array.from({ length: REQUESTS }, (_, index) => ({
                shape,
                sender,
                from: startedAt + (first + index) * shape.pointsPerSeries * STEP_MS,
              })),
          );
        };
        const readings = { http: [] as number[], four: [] as number[], one: [] as number[] };
        const latencies: number[] = [];
        const cpu = {
          gateway: 0,
          deno: 0,
          postgres: 0,
          senders: 0,
          seconds: 0,
          samples: 0,
          retries: 0,
        };
        let bytes = 0;

        const overHttp = async (isMeasured: boolean) => {
          const ready = await senders.ask<Extract<Report, { ready: true }>>({
            prepare: nextRequests(),
            url: `${facts.functions_url}/ingest-metrics/v1/metrics`,
            token: made.token,
          });
          bytes = ready.bytes;
          const before = readCpu();
          const sent = await senders.ask<Extract<Report, { seconds: number }>>({ go: true });
          const after = readCpu();
          if (!isMeasured) return;
          const samples = SENDERS * REQUESTS * POINTS;
          readings.http.push(samples / sent.seconds);
          latencies.push(...sent.latencies);
          for (const part of ["gateway", "deno", "postgres"] as const) {
            cpu[part] += (after?.[part] ?? NaN) - (before?.[part] ?? NaN);
          }
          cpu.senders += sent.cpuSeconds;
          cpu.seconds += sent.seconds;
          cpu.retries += sent.retries;
          cpu.samples += samples;
        };
        const alone = async (isMeasured: boolean, connections: number) => {
          const requests = nextRequests().map((list) =>
            list.map((request) => toParameters(request, new Date(startedAt)))
          );
          const used = connections === 1 ? [requests.flat()] : requests;
          const rate = await callDirectly(clients.slice(0, connections), used);
          if (isMeasured) (connections === 1 ? readings.one : readings.four).push(rate);
        };
        for (let round = -2; round < rounds; round += 1) {
          await overHttp(round >= 0);
          await alone(round >= 0, 1);
          await alone(round >= 0, SENDERS);
        }

        rows.push(
          { what: `${what}: over HTTP`, unit: "samples/s", readings: readings.http },
          {
            what: `${what}: \`ingest_samples()\` alone`,
            unit: "samples/s",
            readings: readings.one,
          },
          {
            what: `${what}: \`ingest_samples()\` alone, ${SENDERS} at a time`,
            unit: "samples/s",
            readings: readings.four,
          },
          { what: `${what}: a request over HTTP`, unit: "ms", readings: latencies },
        );
        const median = (list: readonly number[]) => quantileOf(list, 0.5);
        const perMillion = (part: number) => (part / cpu.samples * 1e6).toFixed(1);
        notes.push(
          formatGoal(
            `${what}, of the SQL function alone`,
            100 * median(readings.http) / median(readings.one),
            "at least",
            50,
            "%",
          ),
          `  (of ${SENDERS} calls of it at a time: ${
            (100 * median(readings.http) / median(readings.four)).toFixed(0)
          } %)`,
          formatGoal(`${what}, over HTTP`, median(readings.http), "at least", 50_000, "samples/s"),
          `  (CPU seconds for a million samples: Deno ${perMillion(cpu.deno)}, Postgres ${
            perMillion(cpu.postgres)
          }, gateway and stand-in of the REST API ${perMillion(cpu.gateway)}, senders ${
            perMillion(cpu.senders)
          }, in ${perMillion(cpu.seconds)} s; ${
            (bytes / 1024).toFixed(0)
          } KiB a request as sent; ${cpu.retries} sent again after a 503)`,
        );
      }
      return formatTable(
        `OTLP over HTTP: protobuf, gzip, ${
          POINTS.toLocaleString("en")
        } points a request, ${SENDERS} in flight`,
        rows,
        [
          ...notes,
          "\nAll parts and the senders share the machine. Hosted, the REST API is PostgREST and not in JavaScript." +
          "\n\nCommand: `npm run bench -- ingestion-http`",
        ],
      );
    } finally {
      senders.stop();
      await Promise.all(clients.map((client) => client.end()));
    }
  });
}

async function connect(facts: Facts): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: facts.db_url });
  await client.connect();
  return client;
}
