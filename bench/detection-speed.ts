/** Run by Deno: what a sample takes, in calls of many and in calls of five. Prints JSON: microseconds. */
import process from "node:process";
import { json } from "node:stream/consumers";
import { detector } from "../shared/detection/current-detector.ts";
import type { DetectionInput, Sample } from "../shared/detection/detector.ts";

/** Series gone through before the clock counts. */
const WARM_UP_SERIES = 4;

/** Samples that are judged five at a time: three days of minutes. */
const FIVES = 3 * 1440;

/** What the detector is asked beside the samples. */
const REST: Omit<DetectionInput, "state" | "memory" | "samples" | "openAnomaly"> = {
  settings: {
    direction: "both",
    threshold: 0.5,
    minimumChange: 0,
    minimumChangeRatio: 0,
    unit: "count",
  },
  kind: "gauge",
  spans: [],
  deploys: [],
  now: null,
};

/** Microseconds a sample over a whole series, the state handed on from call to call. */
function timeSeries(samples: readonly Sample[], size: number): number {
  let state: unknown = null;
  let memory: string | null = null;
  let openAnomaly: DetectionInput["openAnomaly"] = null;
  const calls: (readonly Sample[])[] = [];
  for (let at = 0; at < samples.length; at += size) calls.push(samples.slice(at, at + size));
  const startedAt = performance.now();
  for (const call of calls) {
    const found = detector.detectSeries({ ...REST, samples: call, state, memory, openAnomaly });
    ({ state, memory } = found);
    for (const { startedAt, endedAt } of found.events) {
      openAnomaly = endedAt === null ? { startedAt } : null;
    }
  }
  return (performance.now() - startedAt) * 1000 / samples.length;
}

/** Series on standard input: `[[times, values], …]`. */
const series = (await json(process.stdin) as [number[], number[]][])
  .map(([times, values]): Sample[] => times.map((at, index) => ({ at, value: values[index]! })));
const many: number[] = [];
const five: number[] = [];
for (let index = -WARM_UP_SERIES; index < series.length; index += 1) {
  const samples = series[Math.abs(index) % series.length]!;
  const readings = [timeSeries(samples, 2000), timeSeries(samples.slice(0, FIVES), 5)];
  if (index < 0) continue;
  many.push(readings[0]!);
  five.push(readings[1]!);
}
console.log(JSON.stringify({ many, five }));
