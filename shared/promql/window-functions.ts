import { quantileOf } from "./quantile.ts";

/** A step at which a window is looked at. Times in milliseconds since 1970. */
export interface Frame {
  time: number;
  /** Where the window begins; itself not in it. */
  from: number;
  /** Where the window ends; itself in it. */
  until: number;
  /** Arguments that are scalars, at this step. */
  readonly params: number[];
}

type Numbers = Float64Array;

/** What a function makes of the samples `[low, high)`, at least `least` of them. */
export interface WindowFunction {
  readonly least: number;
  run(times: Numbers, values: Numbers, low: number, high: number, frame: Frame): number;
}

let scratch = new Float64Array(64);
/** A copy that is good until the next one. */
function copy(values: Numbers, low: number, high: number): Numbers {
  const count = high - low;
  if (count > scratch.length) scratch = new Float64Array(2 * count);
  for (let i = 0; i < count; i += 1) scratch[i] = values[low + i]!;
  return scratch.subarray(0, count);
}

/** Sum, and what rounding took from it. Neumaier's variant of Kahan's summation, as in Prometheus. */
let carry = 0;
function add(addend: number, sum: number): number {
  const total = sum + addend;
  if (!Number.isFinite(total)) carry = 0;
  else if (Math.abs(sum) >= Math.abs(addend)) carry += (sum - total) + addend;
  else carry += (addend - total) + sum;
  return total;
}

function sum(_: Numbers, values: Numbers, low: number, high: number): number {
  carry = 0;
  let total = 0;
  for (let i = low; i < high; i += 1) total = add(values[i]!, total);
  return Number.isFinite(total) ? total + carry : total;
}

function average(_: Numbers, values: Numbers, low: number, high: number): number {
  const mean = new RunningMean(values[low]!);
  for (let i = low + 1; i < high; i += 1) mean.add(values[i]!);
  return mean.value;
}

/** The mean by its sum, or step by step once the sum would overflow. */
export class RunningMean {
  #count = 1;
  #total: number;
  #carry = 0;
  #isIncremental = false;

  constructor(first: number) {
    this.#total = first;
  }

  add(value: number): void {
    this.#count += 1;
    const count = this.#count;
    carry = this.#carry;
    if (!this.#isIncremental) {
      const total = add(value, this.#total);
      if (Math.abs(total) !== Infinity) {
        this.#total = total;
        this.#carry = carry;
        return;
      }
      this.#isIncremental = true;
      this.#total /= count - 1;
      this.#carry /= count - 1;
    }
    const kept = (count - 1) / count;
    carry = kept * this.#carry;
    this.#total = add(value / count, kept * this.#total);
    this.#carry = carry;
  }

  get value(): number {
    return this.#isIncremental
      ? this.#total + this.#carry
      : this.#total / this.#count + this.#carry / this.#count;
  }
}

function variance(_: Numbers, values: Numbers, low: number, high: number): number {
  let count = 0;
  let mean = 0;
  let meanCarry = 0;
  let squares = 0;
  let squaresCarry = 0;
  for (let i = low; i < high; i += 1) {
    count += 1;
    const value = values[i]!;
    const delta = value - (mean + meanCarry);
    carry = meanCarry;
    mean = add(delta / count, mean);
    meanCarry = carry;
    carry = squaresCarry;
    squares = add(delta * (value - (mean + meanCarry)), squares);
    squaresCarry = carry;
  }
  return (squares + squaresCarry) / count;
}

/** Growth of a counter, or difference of a gauge, extrapolated to the ends of the window as Prometheus does. */
function extrapolate(isCounter: boolean, isRate: boolean): WindowFunction["run"] {
  return (times, values, low, high, { from, until }) => {
    const last = high - 1;
    const first = values[low]!;
    let growth = values[last]! - first;
    if (isCounter) {
      let previous = first;
      for (let i = low + 1; i < high; i += 1) {
        const value = values[i]!;
        if (value < previous) growth += previous;
        previous = value;
      }
    }
    let toStart = (times[low]! - from) / 1000;
    let toEnd = (until - times[last]!) / 1000;
    const sampled = (times[last]! - times[low]!) / 1000;
    const between = sampled / (last - low);
    const threshold = between * 1.1;
    if (toStart >= threshold) toStart = between / 2;
    if (isCounter && growth > 0 && first >= 0) {
      // A counter cannot have been below 0.
      const toZero = sampled * (first / growth);
      if (toZero < toStart) toStart = toZero;
    }
    if (toEnd >= threshold) toEnd = between / 2;
    let factor = (sampled + toStart + toEnd) / sampled;
    if (isRate) factor /= (until - from) / 1000;
    return growth * factor;
  };
}

/** Of the last two samples. */
function instant(isRate: boolean): WindowFunction["run"] {
  return (times, values, _low, high) => {
    const last = values[high - 1]!;
    const before = values[high - 2]!;
    const growth = isRate && last < before ? last : last - before;
    return isRate ? growth / ((times[high - 1]! - times[high - 2]!) / 1000) : growth;
  };
}

/** Slope per second, and the value at `at`, of the line of least squares. */
function regress(
  times: Numbers,
  values: Numbers,
  low: number,
  high: number,
  at: number,
): { slope: number; intercept: number } {
  const count = high - low;
  const initial = values[low]!;
  let isConstant = true;
  let sumX = 0;
  let carryX = 0;
  let sumY = 0;
  let carryY = 0;
  let sumXY = 0;
  let carryXY = 0;
  let sumX2 = 0;
  let carryX2 = 0;
  for (let i = low; i < high; i += 1) {
    const y = values[i]!;
    if (y !== initial && i > low) isConstant = false;
    const x = (times[i]! - at) / 1000;
    carry = carryX;
    sumX = add(x, sumX);
    carryX = carry;
    carry = carryY;
    sumY = add(y, sumY);
    carryY = carry;
    carry = carryXY;
    sumXY = add(x * y, sumXY);
    carryXY = carry;
    carry = carryX2;
    sumX2 = add(x * x, sumX2);
    carryX2 = carry;
  }
  if (isConstant) {
    return Math.abs(initial) === Infinity
      ? { slope: NaN, intercept: NaN }
      : { slope: 0, intercept: initial };
  }
  sumX += carryX;
  sumY += carryY;
  sumXY += carryXY;
  sumX2 += carryX2;
  const slope = (sumXY - sumX * sumY / count) / (sumX2 - sumX * sumX / count);
  return { slope, intercept: sumY / count - slope * sumX / count };
}

/** The index of the first sample that no other is better than; a number is better than NaN. */
function findBest(
  values: Numbers,
  low: number,
  high: number,
  isBetter: (value: number, best: number) => boolean,
): number {
  let best = low;
  for (let i = low; i < high; i += 1) {
    if (isBetter(values[i]!, values[best]!) || Number.isNaN(values[best]!)) best = i;
  }
  return best;
}

/** @see https://en.wikipedia.org/wiki/Exponential_smoothing#Double_exponential_smoothing_(Holt_linear) */
const smooth: WindowFunction["run"] = (
  _,
  values,
  low,
  high,
  { params: [level = 0, trend = 0] },
) => {
  let before = 0;
  let smoothed = values[low]!;
  let slope = values[low + 1]! - smoothed;
  for (let i = low + 1; i < high; i += 1) {
    const scaled = level * values[i]!;
    if (i > low + 1) slope = trend * (smoothed - before) + (1 - trend) * slope;
    const expected = (1 - level) * (smoothed + slope);
    before = smoothed;
    smoothed = scaled + expected;
  }
  return smoothed;
};

const of = (least: number, run: WindowFunction["run"]): WindowFunction => ({ least, run });

/** Functions of a range vector, but for `absent_over_time`, which looks at all series at once. */
export const WINDOW_FUNCTIONS: Readonly<Record<string, WindowFunction>> = {
  avg_over_time: of(1, average),
  changes: of(1, (_, values, low, high) => {
    let changes = 0;
    for (let i = low + 1; i < high; i += 1) {
      const [before, value] = [values[i - 1]!, values[i]!];
      if (value !== before && !(Number.isNaN(value) && Number.isNaN(before))) changes += 1;
    }
    return changes;
  }),
  count_over_time: of(1, (_times, _values, low, high) => high - low),
  delta: of(2, extrapolate(false, false)),
  deriv: of(2, (times, values, low, high) => regress(times, values, low, high, times[low]!).slope),
  double_exponential_smoothing: of(2, smooth),
  first_over_time: of(1, (_, values, low) => values[low]!),
  idelta: of(2, instant(false)),
  increase: of(2, extrapolate(true, false)),
  irate: of(2, instant(true)),
  last_over_time: of(1, (_times, values, _low, high) => values[high - 1]!),
  mad_over_time: of(1, (_, values, low, high) => {
    const window = values.slice(low, high);
    // Sorted, NaN would just be the least.
    if (window.some(Number.isNaN)) return NaN;
    const median = quantileOf(0.5, window.slice());
    return quantileOf(0.5, window.map((value) => Math.abs(value - median)));
  }),
  max_over_time: of(
    1,
    (_, values, low, high) => values[findBest(values, low, high, (value, best) => value > best)]!,
  ),
  min_over_time: of(
    1,
    (_, values, low, high) => values[findBest(values, low, high, (value, best) => value < best)]!,
  ),
  predict_linear: of(2, (times, values, low, high, { time, params: [seconds = 0] }) => {
    const { slope, intercept } = regress(times, values, low, high, time);
    return slope * seconds + intercept;
  }),
  present_over_time: of(1, () => 1),
  quantile_over_time: of(
    1,
    (_, values, low, high, { params: [quantile = 0] }) =>
      quantileOf(quantile, copy(values, low, high)),
  ),
  rate: of(2, extrapolate(true, true)),
  resets: of(1, (_, values, low, high) => {
    let resets = 0;
    for (let i = low + 1; i < high; i += 1) if (values[i]! < values[i - 1]!) resets += 1;
    return resets;
  }),
  stddev_over_time: of(
    1,
    (times, values, low, high) => Math.sqrt(variance(times, values, low, high)),
  ),
  stdvar_over_time: of(1, variance),
  sum_over_time: of(1, sum),
  ts_of_first_over_time: of(1, (times, _values, low) => times[low]! / 1000),
  ts_of_last_over_time: of(1, (times, _values, _low, high) => times[high - 1]! / 1000),
  ts_of_max_over_time: of(
    1,
    (times, values, low, high) =>
      times[findBest(values, low, high, (value, best) => value >= best)]! / 1000,
  ),
  ts_of_min_over_time: of(
    1,
    (times, values, low, high) =>
      times[findBest(values, low, high, (value, best) => value <= best)]! / 1000,
  ),
};
