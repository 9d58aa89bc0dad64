import pg from "pg";
import { ask, type Server } from "../scripts/prometheus-leg/compare.ts";
import {
  type PrometheusPrograms,
  startPrometheus,
} from "../scripts/prometheus-leg/real-prometheus.ts";
import { storeSeries } from "../scripts/prometheus-leg/store-series.ts";
import { compactUntil, DAY_MS, type Scale } from "./history.ts";
import { makeCounters } from "./promql-data.ts";
import { formatGoal, formatTable, quantileOf, type Row } from "./report.ts";
import { withStack } from "./stack.ts";

const DAY = Date.UTC(2026, 0, 5);
const MINUTE = 60_000;

const QUERIES = [
  { what: "1 series at 1 min", query: `x{instance="instance-42:9090"}`, step: 60, goal: 50 },
  { what: "100 series at 5 min", query: "x", step: 300, goal: 500 },
  { what: "100 series at 5 min, `rate(x[5m])`", query: "rate(x[5m])", step: 300, goal: undefined },
];

/** Range queries over a day, over HTTP, from rows and from chunks; Prometheus beside. */
export function measureRangeQueries(
  log: (line: string) => void,
  { quick }: Scale,
  programs: PrometheusPrograms | undefined,
): Promise<string> {
  const rounds = quick ? 5 : 40;
  const series = makeCounters("x", 100, { start: DAY, step: MINUTE, count: DAY_MS / MINUTE });
  return withStack(56381, async (facts) => {
    const client = new pg.Client({ connectionString: facts.db_url });
    await client.connect();
    const prometheus = programs && await startPrometheus(programs, { series });
    const rows: Row[] = [];
    const goals: string[] = [];
    try {
      await client.query("set statement_timeout = 0");
      await storeSeries(client, series);
      await client.query("vacuum analyze");
      const { rows: [{ token }] } = await client.query(
        "select monitor.create_access_token('bench', '{read}') ->> 'token' as token",
      );
      const ours: Server = {
        url: `${facts.functions_url}/prometheus`,
        headers: { authorization: `Bearer ${token}` },
      };
      for (const stored of ["rows", "chunks"]) {
        if (stored === "chunks") await compactUntil(client, new Date(DAY + 2 * DAY_MS));
        const { rows: [{ state }] } = await client.query(
          "select state from monitor.sample_days where day = $1::timestamptz::date",
          [new Date(DAY)],
        );
        log(`a day in ${stored} (${state})`);
        for (const { what, query, step, goal } of QUERIES) {
          const readings = { ours: [] as number[], theirs: [] as number[] };
          const params = { query, step, start: DAY / 1000, end: DAY / 1000 + 86_400 - step };
          for (let round = -5; round < rounds; round += 1) {
            const mine = await time(ours, params);
            const other = prometheus && await time(prometheus, params);
            if (other && mine.count !== other.count) {
              throw new Error(`${query}: ${mine.count} values, Prometheus has ${other.count}`);
            }
            if (round < 0) continue;
            readings.ours.push(mine.milliseconds);
            if (other) readings.theirs.push(other.milliseconds);
          }
          const named = `${what}, from ${stored}`;
          rows.push({ what: `${named}, ours`, unit: "ms", readings: readings.ours });
          const median = quantileOf(readings.ours, 0.5);
          if (goal !== undefined) goals.push(formatGoal(named, median, "at most", goal, "ms"));
          if (!prometheus) continue;
          rows.push({ what: "the same, Prometheus", unit: "ms", readings: readings.theirs });
          const ratio = median / quantileOf(readings.theirs, 0.5);
          goals.push(`- ${named}: ${ratio.toFixed(1)} times what Prometheus takes`);
        }
      }
    } finally {
      await prometheus?.stop();
      await client.end();
    }
    return formatTable("PromQL over HTTP: range queries over 24 h, a sample a minute", rows, [
      ...goals,
      "\nAlternating, after five rounds to warm up, from the call until the answer is parsed. Every series has times of its own, the " +
      "worst case for reading. Ours goes through the local gateway, the function and the stand-in for the REST API to Postgres; " +
      "Prometheus answers from its own files.",
    ]);
  });
}

async function time(server: Server, params: Readonly<Record<string, string | number>>) {
  const startedAt = performance.now();
  const { status, error, data } = await ask(server, "query_range", params);
  const milliseconds = performance.now() - startedAt;
  if (status !== 200) throw new Error(`${server.url} answered ${status}: ${error}`);
  return { milliseconds, count: data!.result.reduce((sum, { values }) => sum + values!.length, 0) };
}
