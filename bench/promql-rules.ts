import pg from "pg";
import { ask } from "../scripts/prometheus-leg/compare.ts";
import {
  type PrometheusPrograms,
  startPrometheus,
} from "../scripts/prometheus-leg/real-prometheus.ts";
import { storeSeries } from "../scripts/prometheus-leg/store-series.ts";
import { makeRulesDue, replaceRules } from "./bench-rules.ts";
import type { Scale } from "./history.ts";
import { makeCounters } from "./promql-data.ts";
import { formatGoal, formatTable, quantileOf } from "./report.ts";
import { callMeasured, withStack } from "./stack.ts";

const MINUTE = 60_000;
/** Samples are stored ahead of the clock, so that every run has newest ones. */
const AHEAD_MINUTES = 30;
const PAST_MINUTES = 70;
const METRICS = 20;

/** Each over the series of one metric. What they compare with is nearly never so: alerts are rare. */
const EXPRESSIONS: readonly ((metric: string) => string)[] = [
  (metric) => `rate(${metric}[5m]) > 0.26`,
  (metric) => `${metric} < 0`,
  (metric) => `sum by (job) (rate(${metric}[10m])) > 1000`,
  (metric) => `increase(${metric}[1h]) == 0`,
  (metric) => `increase(${metric}[30m]) == 0 or absent(${metric})`,
  (metric) => `max_over_time(${metric}[15m]) - min_over_time(${metric}[15m]) > 1e6`,
  (metric) => `sum(rate(${metric}[5m])) / sum(rate(${metric}[1h])) > 2`,
  (metric) => `deriv(${metric}[30m]) < 0`,
  (metric) => `topk(1, rate(${metric}[5m])) > 1000`,
];
const RECORDED = (metric: string) => `sum by (job) (rate(${metric}[5m]))`;

/** One evaluation of many rules by the function, over HTTP. */
export function measureRules(
  log: (line: string) => void,
  { quick }: Scale,
  programs: PrometheusPrograms | undefined,
): Promise<string> {
  const [seriesCount, ruleCount, runs] = quick ? [200, 40, 5] : [2000, 200, 30];
  return withStack(56391, async (facts, stack) => {
    const client = new pg.Client({ connectionString: facts.db_url });
    await client.connect();
    const now = Math.floor(Date.now() / MINUTE) * MINUTE;
    const clock = {
      start: now - PAST_MINUTES * MINUTE,
      step: MINUTE,
      count: PAST_MINUTES + AHEAD_MINUTES,
    };
    const series = Array.from(
      { length: METRICS },
      (_, metric) => makeCounters(`bench_${metric}_total`, seriesCount / METRICS, clock),
    ).flat();
    const rules = Array.from({ length: ruleCount }, (_, index) => {
      const metric = `bench_${index % METRICS}_total`;
      const kind = Math.floor(index / METRICS) % (EXPRESSIONS.length + 1);
      const makeExpr = EXPRESSIONS[kind];
      return makeExpr
        ? { kind: "alerting", name: `Bench${index}`, expr: makeExpr(metric), for_seconds: 300 }
        : { kind: "recording", name: `job:bench_${index}:rate5m`, expr: RECORDED(metric) };
    });
    const prometheus = programs && await startPrometheus(programs, { series });
    try {
      await client.query("set statement_timeout = 0");
      await storeSeries(client, series);
      await replaceRules(client, rules);
      await client.query("vacuum analyze");
      const readings = { wall: [] as number[], cpu: [] as number[], theirs: [] as number[] };
      for (let run = -3; run < runs; run += 1) {
        await makeRulesDue(client);
        const { answer, milliseconds, cpu } = await callMeasured(stack, "evaluate-alerts");
        if (answer.evaluated !== ruleCount || answer.failed !== 0) {
          throw new Error(
            `A run evaluated something else: ${JSON.stringify(answer).slice(0, 500)}`,
          );
        }
        let theirs = 0;
        for (const { expr } of prometheus ? rules : []) {
          const { data } = await ask(prometheus!, "query", { query: expr, stats: "all" });
          theirs += 1000 * data!.stats!.timings.execTotalTime;
        }
        if (run < 0) continue;
        if (run % 10 === 0) log(`run ${run} of ${runs}: ${answer.pending} alerts are pending`);
        readings.wall.push(milliseconds);
        if (cpu !== null) readings.cpu.push(cpu);
        if (prometheus) readings.theirs.push(theirs);
      }
      return formatRules(readings, seriesCount, ruleCount);
    } finally {
      await prometheus?.stop();
      await client.end();
    }
  });
}

function formatRules(
  { wall, cpu, theirs }: Record<"wall" | "cpu" | "theirs", readonly number[]>,
  seriesCount: number,
  ruleCount: number,
): string {
  const middle = (readings: readonly number[]) => quantileOf(readings, 0.5);
  return formatTable(
    `One evaluation of ${ruleCount} rules over ${seriesCount.toLocaleString("en")} series`,
    [
      { what: "the function, wall", unit: "ms", readings: wall },
      ...(cpu.length > 0 ? [{ what: "the function, CPU", unit: "ms", readings: cpu }] : []),
      ...(theirs.length > 0
        ? [{ what: "the expressions in Prometheus, its own times", unit: "ms", readings: theirs }]
        : []),
    ],
    [
      formatGoal("Wall, median", middle(wall), "at most", 1000, "ms"),
      formatGoal("Wall, the slowest", Math.max(...wall), "at most", 1000, "ms"),
      cpu.length > 0
        ? formatGoal("CPU in the function, median", middle(cpu), "at most", 500, "ms")
        : "- CPU in the function: cannot be seen on this system",
      ...(cpu.length > 0
        ? [formatGoal("CPU in the function, the most", Math.max(...cpu), "at most", 500, "ms")]
        : []),
      ...(theirs.length > 0
        ? [`- Wall against Prometheus: ${(middle(wall) / middle(theirs)).toFixed(1)}×`]
        : []),
      `\nA sample a minute; every rule is over the ${
        seriesCount / METRICS
      } series of one of ${METRICS} metrics, with ranges of 5 min ` +
      "to 1 h; a tenth are recording rules. Over HTTP, everything included: planning, reading, evaluating, storing states and recorded " +
      "samples. CPU is that of the whole process of Deno meanwhile, compiling and collecting garbage included, in steps of 10 ms. " +
      "Prometheus' figure is the sum over the expressions of what it says that each took (`execTotalTime`): it stores nothing there.",
    ],
  );
}
