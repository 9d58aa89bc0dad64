/** Three hours of samples over midnight, the same in every run. */
import { createRandom } from "../../bench/mix.ts";
import { type Labels, METRIC_NAME, type SampledSeries } from "../../shared/promql/series.ts";

export const SAMPLES_START = Date.UTC(2026, 0, 5, 22);
export const SAMPLES_END = SAMPLES_START + 3 * 3_600_000;

const STEP = 15_000;
const STEPS = (SAMPLES_END - SAMPLES_START) / STEP;
/** No sample is on a whole second, where ranges begin and end: what 2.42 counts in there, 3 does not. */
const OFFSET = 7_003;

const TARGETS = [
  { job: "api", instance: "api-1:80" },
  { job: "api", instance: "api-2:80" },
  { job: "api", instance: "api-3:80" },
  { job: "web", instance: "web-1:80" },
  { job: "web", instance: "web-2:80" },
];
const BOUNDS = ["0.1", "0.5", "1", "5", "+Inf"];
const ROOMS = ["größe", "日本語", 'a "quoted" \\ one', "😀"];

type Random = () => number;

/** Every series, each with samples that only its own seed determines. */
export function makeSamples(): SampledSeries[] {
  const series: SampledSeries[] = [];
  const add = (
    metric: string,
    labels: Labels,
    makeNext: (random: Random) => (step: number) => number,
    isThere: (step: number) => boolean = () => true,
  ) => {
    const random = createRandom(series.length + 1);
    const next = makeNext(random);
    const points = Array.from({ length: STEPS }, (_, step) => ({ step, value: next(step) }))
      .filter(({ step }) => isThere(step));
    series.push({
      labels: { [METRIC_NAME]: metric, ...labels },
      times: points.map(({ step }) => SAMPLES_START + OFFSET + step * STEP + series.length),
      values: points.map(({ value }) => value),
    });
  };

  for (const [place, target] of TARGETS.entries()) {
    for (const [status, rate] of [["200", 30], ["404", 3], ["500", 0.4]] as const) {
      add(
        "http_requests_total",
        { ...target, status, partner: `p${place % 2}` },
        counter(rate, 190 + 77 * place),
      );
    }
    add("memory_bytes", target, walk(2e8, 5e6), (step) => step % (60 + 7 * place) > 22 + place);
    add("up", target, (random) => () => random() < 0.97 ? 1 : 0);
    add("build_info", { ...target, version: `1.${place % 3}`, branch: "main" }, () => () => 1);
  }
  for (const target of TARGETS.slice(1, 4)) addHistogram(add, target);
  for (const room of ROOMS) add("temperature_celsius", { room }, walk(3, 0.6));
  for (const job of ["api", "web"]) add("memory_limit_bytes", { job }, () => () => 4e8);
  for (const kind of ["refund", "chargeback"]) {
    add("rare_events_total", { kind }, counter(0.05, 400), (step) => step % 90 < 45);
  }
  for (const [place, queue] of ["mail", "sms", "push"].entries()) {
    series.push(irregular({ [METRIC_NAME]: "queue_depth", queue }, createRandom(1000 + place)));
  }
  return series;
}

/** Grows by about `rate` a step, and starts anew every `life` steps; never near zero, where both versions extrapolate unlike. */
function counter(rate: number, life: number) {
  return (random: Random) => {
    let total = 500 * rate;
    return (step: number) => {
      total = step % life === life - 1 ? 100 * rate : total + Math.round(2 * rate * random());
      return total;
    };
  };
}

function walk(from: number, stride: number) {
  return (random: Random) => {
    let at = from;
    return () => {
      at += (random() - 0.5) * stride;
      return Math.round(at * 1000) / 1000;
    };
  };
}

function addHistogram(
  add: (metric: string, labels: Labels, makeNext: (random: Random) => () => number) => void,
  target: Labels,
): void {
  const name = "http_request_duration_seconds";
  for (const [place, le] of BOUNDS.entries()) {
    // The same numbers in each bucket, so that they stay cumulative.
    add(`${name}_bucket`, { ...target, le }, () => observations(target, place));
  }
  add(`${name}_count`, target, () => observations(target, BOUNDS.length - 1));
  add(`${name}_sum`, target, () => {
    const next = observations(target, BOUNDS.length - 1);
    return () => next() * 0.4375;
  });
}

function observations(target: Labels, bucket: number): () => number {
  const random = createRandom(target.instance!.charCodeAt(4) + target.job!.length);
  const totals = BOUNDS.map((_, place) => 1000 * (place + 1));
  return () => {
    let added = 0;
    for (const place of totals.keys()) {
      added += Math.floor(10 * random());
      totals[place]! += added;
    }
    return totals[bucket]!;
  };
}

/** A small integer, 20 to 90 s apart. */
function irregular(labels: Labels, random: Random): SampledSeries {
  const times: number[] = [];
  const values: number[] = [];
  for (let at = SAMPLES_START; at < SAMPLES_END; at += Math.round(20_000 + 70_000 * random())) {
    times.push(Math.floor(at / 1000) * 1000 + 1 + Math.floor(998 * random()));
    values.push(Math.floor(12 * random()));
  }
  return { labels, times, values };
}
