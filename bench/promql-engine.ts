import { execFileSync } from "node:child_process";
import { join } from "node:path";
import process from "node:process";
import { ask } from "../scripts/prometheus-leg/compare.ts";
import {
  type PrometheusPrograms,
  startPrometheus,
} from "../scripts/prometheus-leg/real-prometheus.ts";
import { compileMatchers } from "../shared/promql/match-labels.ts";
import { parseExpr } from "../shared/promql/parse-expr.ts";
import { prepareQuery } from "../shared/promql/prepare-query.ts";
import type { QueryOptions, QueryValue } from "../shared/promql/query.ts";
import type { SampledSeries } from "../shared/promql/series.ts";
import type { Scale } from "./history.ts";
import { type Clock, makeBuckets, makeCounters } from "./promql-data.ts";
import { formatGoal, formatTable, quantileOf, type Row } from "./report.ts";

export const START = Date.UTC(2026, 0, 5, 6);
export const STEP = 15_000;
const HOUR = 3_600_000;
/** What the first step looks back for. */
export const PAST = 300_000;

const QUERIES = [
  "rate(x[5m])",
  "sum by (job) (rate(x[5m]))",
  "sum by (job) (x)",
  "histogram_quantile(0.9, sum by (le, job) (rate(h_bucket[5m])))",
];

/** Parses and evaluates on samples that are in memory already: those of `series` that match. */
export function evaluateInMemory(
  text: string,
  series: readonly SampledSeries[],
  options: QueryOptions,
): QueryValue {
  const query = prepareQuery(parseExpr(text), text, options);
  const selected = query.selections.map(({ matchers }) => {
    const matches = compileMatchers(matchers);
    return series.filter(({ labels }) => matches(labels));
  });
  return query.evaluate(selected).value;
}

/** The engine alone, beside Prometheus' own timings of the same queries on the same samples. */
export async function measureEngine(
  log: (line: string) => void,
  { quick }: Scale,
  programs: PrometheusPrograms | undefined,
): Promise<string> {
  const [count, rounds] = quick ? [100, 5] : [1000, 15];
  const clock: Clock = { start: START - PAST, step: STEP, count: (HOUR + PAST) / STEP + 1 };
  const series = [...makeCounters("x", count, clock), ...makeBuckets("h_bucket", count, clock)];
  const range = { start: START, end: START + HOUR, step: STEP };
  log(`${series.length} series into Prometheus`);
  const prometheus = programs && await startPrometheus(programs, { series });
  const rows: Row[] = [];
  const goals: string[] = [];
  try {
    for (const query of QUERIES) {
      log(query);
      const ours: number[] = [];
      const theirs: number[] = [];
      const withPreparation: number[] = [];
      for (let round = -3; round < rounds; round += 1) {
        const startedAt = performance.now();
        const value = evaluateInMemory(query, series, range);
        const milliseconds = performance.now() - startedAt;
        const answer = prometheus && await ask(prometheus, "query_range", {
          ...{ query, stats: "all", start: START / 1000, end: (START + HOUR) / 1000 },
          step: STEP / 1000,
        });
        const found = value.type === "matrix" ? value.series.length : 0;
        if (found === 0 || (answer && answer.data!.result.length !== found)) {
          throw new Error(`${query} found ${found} series, and not as many in Prometheus`);
        }
        if (round < 0) continue;
        ours.push(milliseconds);
        if (!answer) continue;
        theirs.push(1000 * answer.data!.stats!.timings.innerEvalTime);
        withPreparation.push(1000 * answer.data!.stats!.timings.evalTotalTime);
      }
      rows.push({ what: `\`${query}\`, ours`, unit: "ms", readings: ours });
      if (!prometheus) continue;
      rows.push(
        { what: "Prometheus, inner evaluation", unit: "ms", readings: theirs },
        { what: "Prometheus, evaluation in all", unit: "ms", readings: withPreparation },
      );
      const ratio = quantileOf(ours, 0.5) / quantileOf(theirs, 0.5);
      goals.push(formatGoal(`\`${query}\` against Prometheus`, ratio, "at most", 3, "×"));
    }
  } finally {
    await prometheus?.stop();
  }
  return formatTable(
    `PromQL in memory: ${count.toLocaleString("en")} series × 1 h at 15 s, a step every 15 s`,
    rows,
    [
      ...goals,
      "\nAlternating, after three rounds to warm up. Ours is in Node: it parses, looks for the series among all, and evaluates on " +
      "arrays of numbers. Prometheus' times are those of its own statistics (`stats=all`): inner evaluation is what its engine takes, " +
      "decoding the chunks with it; in all there is also finding the series. Goals are against the inner one.",
    ],
  );
}

/** One process of {@link measureGrowth}. */
export interface GrowthReading {
  /** Of all threads, collecting garbage included. */
  readonly cpuMilliseconds: number;
  /** By which the process grew while it evaluated. */
  readonly peakBytes: number;
}

/** Time and memory by series and steps, each in a process of its own. */
export function measureGrowth(log: (line: string) => void, { quick }: Scale): string {
  const factors = quick ? [0.1, 0.2] : [0.25, 0.5, 1, 2, 4];
  const rows: Row[] = [];
  const goals: string[] = [];
  for (const grown of ["series", "steps"] as const) {
    const perValue: number[] = [];
    for (const factor of factors) {
      const series = grown === "series" ? 1000 * factor : 1000;
      const steps = grown === "steps" ? 240 * factor : 240;
      const what = `${series.toLocaleString("en")} series × ${steps} steps`;
      log(what);
      const readings = JSON.parse(execFileSync(
        process.execPath,
        ["--import", "tsx", join(import.meta.dirname, "promql-worker.ts"), `${series}`, `${steps}`],
        { encoding: "utf8", maxBuffer: 2 ** 24 },
      )) as GrowthReading[];
      const nanoseconds = readings.map(({ cpuMilliseconds }) =>
        cpuMilliseconds * 1e6 / series / steps
      );
      const bytes = Math.max(...readings.map(({ peakBytes }) => peakBytes));
      perValue.push(quantileOf(nanoseconds, 0.5));
      rows.push(
        { what: `${what}, CPU a value`, unit: "ns", readings: nanoseconds },
        { what: `${what}, memory`, unit: "MB", readings: [bytes / 1e6] },
      );
    }
    const middle = Math.floor((factors.length - 1) / 2);
    const times = factors.at(-1)! / factors[middle]!;
    const ratio = perValue.at(-1)! / perValue[middle]!;
    goals.push(
      formatGoal(`CPU a value with ${times} times as many ${grown}`, ratio, "at most", 1.5, "×"),
    );
  }
  return formatTable("Growth of `rate(x[5m])` with series and steps", rows, [
    ...goals,
    "\nA value is a series at a step; both it and a sample are every 15 s. Every scale is a process of its own, warmed up with few " +
    "series; CPU is that of all its threads, collecting garbage included. Memory is by how much " +
    "the process' largest size grew while it evaluated, garbage that was not collected with it.",
  ]);
}
