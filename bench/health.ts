import { Agent, request } from "node:http";
import pg from "pg";
import { type Facts } from "../local/stack.ts";
import { formatTable, quantileOf } from "./report.ts";
import { withStack } from "./stack.ts";

const SECONDS = 5;
const CONNECTIONS = 16;

/** One GET over a kept connection; resolves to the status. */
function get(url: string, agent: Agent): Promise<number> {
  return new Promise((resolve, reject) => {
    const call = request(url, { agent }, (response) => {
      response.resume();
      response.on("end", () => resolve(response.statusCode ?? 0));
    });
    call.on("error", reject);
    call.end();
  });
}

/** Asks `url` from 16 connections at once for five seconds. Latencies in ms, and requests a second. */
async function load(url: string): Promise<{ latencies: number[]; perSecond: number }> {
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  const latencies: number[] = [];
  const startedAt = performance.now();
  const deadline = startedAt + SECONDS * 1000;
  await Promise.all(Array.from({ length: CONNECTIONS }, async () => {
    while (performance.now() < deadline) {
      const askedAt = performance.now();
      const status = await get(url, agent);
      if (status !== 200 && status !== 503) throw new Error(`${url} answered ${status}`);
      latencies.push(performance.now() - askedAt);
    }
  }));
  agent.destroy();
  return { latencies, perSecond: latencies.length / ((performance.now() - startedAt) / 1000) };
}

/** How often the database was asked for facts so far. */
async function countQueries(facts: Facts): Promise<number> {
  const client = new pg.Client({ connectionString: facts.admin_db_url });
  await client.connect();
  const { rows: [row] } = await client.query(
    "select coalesce(sum(calls), 0)::int as calls from pg_stat_user_functions where funcname = 'read_health'",
  );
  await client.end();
  return row.calls;
}

/** `health` under load: straight at the function, through the local gateway, and the checks that do less. */
export function measureHealth(log: (line: string) => void): Promise<string> {
  return withStack(56331, async (facts) => {
    const admin = new pg.Client({ connectionString: facts.admin_db_url });
    await admin.connect();
    await admin.query("alter system set track_functions = 'all'");
    await admin.query("select pg_reload_conf()");
    await admin.end();

    const direct = `http://127.0.0.1:${Number(new URL(facts.api_url).port) + 4}`;
    const targets = [
      ["straight at the function", `${direct}/health`],
      ["through the local gateway", `${facts.functions_url}/health`],
      ["`?check=live`, no I/O", `${direct}/health?check=live`],
      ["`?check=ready`", `${direct}/health?check=ready`],
    ] as const;
    const results = [];
    for (const [what, url] of targets) {
      log(what);
      await load(url); // warms up
      results.push({ what, ...await load(url) });
    }

    // Counted in a fresh cache window: the statistics reach the collector when their session is idle for a second.
    const before = await countQueries(facts);
    const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
    const pingedAt = performance.now();
    await Promise.all(Array.from({ length: 1000 }, () => get(`${direct}/health`, agent)));
    const seconds = (performance.now() - pingedAt) / 1000;
    agent.destroy();
    let queries = await countQueries(facts) - before;
    for (let wait = 0; queries === 0 && wait < 50; wait += 1) {
      await new Promise((resolve) => setTimeout(resolve, 200));
      queries = await countQueries(facts) - before;
    }

    return formatTable(
      `Health, ${CONNECTIONS} connections, ${SECONDS} s each`,
      results.map(({ what, latencies }) => ({ what, unit: "ms", readings: latencies })),
      [
        ...results.map(({ what, perSecond, latencies }) =>
          `- ${what}: ${perSecond.toFixed(0)} requests/s, p99 ${
            quantileOf(latencies, 0.99).toFixed(1)
          } ms`
        ),
        `- 1,000 pings in ${seconds.toFixed(2)} s asked the database ${queries} time(s)`,
        "\nThe load generator shares the machine. Command: `npm run bench -- health`",
      ],
    );
  });
}
