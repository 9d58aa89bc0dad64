/** Counters and histograms that PromQL is measured with, the same in every run. */
import { METRIC_NAME, type SampledSeries } from "../shared/promql/series.ts";
import { createRandom } from "./mix.ts";

export const BOUNDS = ["0.005", "0.01", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "+Inf"];
/** Series of one job. */
const JOB_SIZE = 100;

/** When samples are, in ms. */
export interface Clock {
  readonly start: number;
  readonly step: number;
  readonly count: number;
}

/** Counters named `metric`, a hundred to a job, each sampled somewhere within a step. */
export function makeCounters(metric: string, count: number, clock: Clock): SampledSeries[] {
  return Array.from({ length: count }, (_, index) => {
    const random = createRandom(index + 1);
    let total = Math.floor(1e6 * random());
    return makeSeries(
      { [METRIC_NAME]: metric, ...describeTarget(index, JOB_SIZE) },
      clock,
      Math.floor(random() * clock.step),
      () => total += Math.floor(20 * random()),
    );
  });
}

/** `count` series in all of the buckets of classic histograms, named `metric`. */
export function makeBuckets(metric: string, count: number, clock: Clock): SampledSeries[] {
  return Array.from({ length: count }, (_, index) => {
    const target = Math.floor(index / BOUNDS.length);
    const bucket = index % BOUNDS.length;
    const random = createRandom(target + 1); // the same in each bucket, so that they stay cumulative
    const offset = Math.floor(random() * clock.step);
    let total = 1000 * bucket;
    return makeSeries(
      { [METRIC_NAME]: metric, ...describeTarget(target, 10), le: BOUNDS[bucket]! },
      clock,
      offset,
      () => total += Math.floor(20 * random()) * (bucket + 1),
    );
  });
}

function describeTarget(index: number, jobSize: number) {
  return { job: `job-${Math.floor(index / jobSize)}`, instance: `instance-${index}:9090` };
}

function makeSeries(
  labels: SampledSeries["labels"],
  { start, step, count }: Clock,
  offset: number,
  next: () => number,
): SampledSeries {
  const times = new Float64Array(count);
  const values = new Float64Array(count);
  for (let i = 0; i < count; i += 1) {
    times[i] = start + offset + i * step;
    values[i] = next();
  }
  return { labels, times, values };
}
