/** `promql-worker.ts <series> <steps>`: evaluates one query some times; prints GrowthReading[] as JSON. */
import process from "node:process";
import { evaluateInMemory, type GrowthReading, PAST, START, STEP } from "./promql-engine.ts";
import { makeCounters } from "./promql-data.ts";

const [count, steps] = process.argv.slice(2).map(Number) as [number, number];
const series = makeCounters("x", count, {
  ...{ start: START - PAST, step: STEP },
  count: steps + PAST / STEP,
});
const range = { start: START, end: START + (steps - 1) * STEP, step: STEP };
const evaluate = (some: typeof series) => evaluateInMemory("rate(x[5m])", some, range);

// On few series, so that the code is compiled and memory has not grown yet.
for (let round = 0; round < 500; round += 1) evaluate(series.slice(0, 10));

const before = process.resourceUsage().maxRSS * 1024;
const readings = Array.from({ length: 7 }, (): GrowthReading => {
  const startedAt = process.cpuUsage();
  evaluate(series);
  const { user, system } = process.cpuUsage(startedAt);
  return {
    cpuMilliseconds: (user + system) / 1000,
    peakBytes: process.resourceUsage().maxRSS * 1024 - before,
  };
});
console.log(JSON.stringify(readings));
