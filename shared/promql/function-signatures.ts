import type { ValueType } from "./ast.ts";

/** What a function takes and gives. */
export interface Signature {
  readonly args: readonly ValueType[];
  /** How few arguments do. */
  readonly least: number;
  /** How many may be given; those beyond `args` are of the type of its last. */
  readonly most: number;
  readonly returns: ValueType;
}

function takes(
  args: readonly ValueType[],
  { least = args.length, most = args.length, returns = "vector" }: {
    least?: number;
    most?: number;
    returns?: ValueType;
  } = {},
): Signature {
  return { args, least, most, returns };
}

const OF_VECTOR = takes(["vector"]);
const OF_MATRIX = takes(["matrix"]);
const OF_TIME = takes(["vector"], { least: 0 });
const OF_TWO = takes(["scalar", "scalar"], { returns: "scalar" });
const SCALAR = takes([], { returns: "scalar" });

/** Every function of Prometheus 3 that is not behind a flag for its syntax, the experimental ones included. */
export const FUNCTIONS: ReadonlyMap<string, Signature> = new Map(Object.entries({
  abs: OF_VECTOR,
  absent: OF_VECTOR,
  absent_over_time: OF_MATRIX,
  acos: OF_VECTOR,
  acosh: OF_VECTOR,
  asin: OF_VECTOR,
  asinh: OF_VECTOR,
  atan: OF_VECTOR,
  atanh: OF_VECTOR,
  avg_over_time: OF_MATRIX,
  ceil: OF_VECTOR,
  changes: OF_MATRIX,
  clamp: takes(["vector", "scalar", "scalar"]),
  clamp_max: takes(["vector", "scalar"]),
  clamp_min: takes(["vector", "scalar"]),
  cos: OF_VECTOR,
  cosh: OF_VECTOR,
  count_over_time: OF_MATRIX,
  day_of_month: OF_TIME,
  day_of_week: OF_TIME,
  day_of_year: OF_TIME,
  days_in_month: OF_TIME,
  deg: OF_VECTOR,
  delta: OF_MATRIX,
  deriv: OF_MATRIX,
  double_exponential_smoothing: takes(["matrix", "scalar", "scalar"]),
  end: SCALAR,
  exp: OF_VECTOR,
  first_over_time: OF_MATRIX,
  floor: OF_VECTOR,
  histogram_avg: OF_VECTOR,
  histogram_count: OF_VECTOR,
  histogram_fraction: takes(["scalar", "scalar", "vector"]),
  histogram_quantile: takes(["scalar", "vector"]),
  histogram_quantiles: takes(["vector", "string", "scalar"], { most: 12 }),
  histogram_stddev: OF_VECTOR,
  histogram_stdvar: OF_VECTOR,
  histogram_sum: OF_VECTOR,
  hour: OF_TIME,
  idelta: OF_MATRIX,
  increase: OF_MATRIX,
  info: takes(["vector", "vector"], { least: 1 }),
  irate: OF_MATRIX,
  label_join: takes(["vector", "string", "string", "string"], { least: 3, most: Infinity }),
  label_replace: takes(["vector", "string", "string", "string", "string"]),
  last_over_time: OF_MATRIX,
  ln: OF_VECTOR,
  log10: OF_VECTOR,
  log2: OF_VECTOR,
  mad_over_time: OF_MATRIX,
  max_of: OF_TWO,
  max_over_time: OF_MATRIX,
  min_of: OF_TWO,
  min_over_time: OF_MATRIX,
  minute: OF_TIME,
  month: OF_TIME,
  pi: SCALAR,
  predict_linear: takes(["matrix", "scalar"]),
  present_over_time: OF_MATRIX,
  quantile_over_time: takes(["scalar", "matrix"]),
  rad: OF_VECTOR,
  range: SCALAR,
  rate: OF_MATRIX,
  resets: OF_MATRIX,
  round: takes(["vector", "scalar"], { least: 1 }),
  scalar: takes(["vector"], { returns: "scalar" }),
  sgn: OF_VECTOR,
  sin: OF_VECTOR,
  sinh: OF_VECTOR,
  sort: OF_VECTOR,
  sort_by_label: takes(["vector", "string"], { least: 1, most: Infinity }),
  sort_by_label_desc: takes(["vector", "string"], { least: 1, most: Infinity }),
  sort_desc: OF_VECTOR,
  sqrt: OF_VECTOR,
  start: SCALAR,
  stddev_over_time: OF_MATRIX,
  stdvar_over_time: OF_MATRIX,
  step: SCALAR,
  sum_over_time: OF_MATRIX,
  tan: OF_VECTOR,
  tanh: OF_VECTOR,
  time: SCALAR,
  timestamp: OF_VECTOR,
  ts_of_first_over_time: OF_MATRIX,
  ts_of_last_over_time: OF_MATRIX,
  ts_of_max_over_time: OF_MATRIX,
  ts_of_min_over_time: OF_MATRIX,
  vector: takes(["scalar"]),
  year: OF_TIME,
}));
