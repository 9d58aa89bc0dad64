/**
 * What is asked of both. Left out is what 2.42 and 3 answer differently:
 * - functions that only one has, in {@link LEFT_OUT}, and `holt_winters`, which is `double_exponential_smoothing` now
 * - ranges and subqueries with a sample or a step just on their beginning, which 3 leaves out
 * - numbers in place of durations, `1_000`, names in quotes, UTF-8 names: refused by 2.42
 * - newlines in label values, which `.` matches only in 3
 * - counters near zero at the beginning of a range, to which 2.42 extrapolates further in rare cases
 * - `atan2` of a series with a name, which 2.42 keeps
 * - native histograms
 */
import { SAMPLES_END } from "./samples.ts";

const LATER = "not in 2.42";
const OF_NATIVE = "in 2.42 of native histograms alone";

/** Functions that are not compared, and why. */
export const LEFT_OUT: Readonly<Record<string, string>> = {
  double_exponential_smoothing: "holt_winters in 2.42",
  end: LATER,
  first_over_time: LATER,
  histogram_avg: LATER,
  histogram_count: OF_NATIVE,
  histogram_fraction: OF_NATIVE,
  histogram_quantiles: LATER,
  histogram_stddev: LATER,
  histogram_stdvar: LATER,
  histogram_sum: OF_NATIVE,
  info: LATER,
  mad_over_time: LATER,
  max_of: LATER,
  min_of: LATER,
  range: LATER,
  sort_by_label: LATER,
  sort_by_label_desc: LATER,
  start: LATER,
  step: LATER,
  ts_of_first_over_time: LATER,
  ts_of_last_over_time: LATER,
  ts_of_max_over_time: LATER,
  ts_of_min_over_time: LATER,
};

const AT = SAMPLES_END / 1000 - 4321;
const OTHER_TIME = ["", "offset 7m", "offset -3m", `@ ${AT}`, `@ ${AT} offset 2m`, "@ end()"];

const OF_ONE = [
  ..."abs ceil exp floor sgn sin cos tan sinh cosh tanh asinh atan deg rad sort sort_desc".split(
    " ",
  ),
].map((name) => `${name}(temperature_celsius)`);

const OF_A_RANGE = "avg count last max min present stddev stdvar sum".split(" ").flatMap((name) => [
  `${name}_over_time(memory_bytes[9m])`,
  `${name}_over_time(queue_depth[4m])`,
]);

const OF_A_COUNTER = "rate increase irate resets changes delta idelta deriv".split(" ").flatMap((
  name,
) => [
  `${name}(http_requests_total{status="404"}[5m])`,
  `${name}(rare_events_total[13m])`,
  `${name}(queue_depth[6m] offset 4m)`,
]);

const OF_A_TIME = "day_of_month day_of_week day_of_year days_in_month hour minute month year"
  .split(" ").flatMap((name) => [`${name}()`, `${name}(timestamp(memory_bytes) * 1.03)`]);

const AGGREGATED = "sum avg count min max group stddev stdvar".split(" ").flatMap((name) => [
  `${name}(memory_bytes)`,
  `${name} by (job) (http_requests_total)`,
  `${name} without (instance, status) (http_requests_total)`,
]);

const ARITHMETIC = "+ - * / % ^".split(" ").flatMap((op) => [
  `temperature_celsius ${op} 2.5`,
  `7 ${op} queue_depth`,
  `-7.5 ${op} 2`,
]);

const COMPARED = "== != > < >= <=".split(" ").flatMap((op) => [
  `queue_depth ${op} 5`,
  `5 ${op} bool queue_depth`,
  `2 ${op} bool 3`,
]);

/** What both answer, each with a result. */
export const EXPRESSIONS: readonly string[] = [
  // Selectors.
  ...OTHER_TIME.map((when) => `memory_bytes ${when}`),
  ...OTHER_TIME.map((when) => `rate(http_requests_total{job="api"}[5m] ${when})`),
  `http_requests_total{status!="200"}`,
  `http_requests_total{status=~"4..|500", instance!~"api-[12].*"}`,
  `{__name__=~"http_requests_.+|up", job="web"}`,
  `{job="api", status="200"}`,
  `temperature_celsius{room="größe"}`,
  `temperature_celsius{room=~"日.語|😀"}`,
  `temperature_celsius{room="a \\"quoted\\" \\\\ one"}`,
  `temperature_celsius{room!~".*quoted.*"}`,
  `up{partner=""}`,
  `rare_events_total`,
  `build_info{version=~"1\\\\.[01]"}`,
  `memory_bytes[3m]`,
  `queue_depth[10m] offset 3m`,
  `"a string"`,
  // Functions.
  ...OF_ONE,
  ...OF_A_RANGE,
  ...OF_A_COUNTER,
  ...OF_A_TIME,
  `acos(up)`,
  `asin(up)`,
  `acosh(memory_bytes)`,
  `atanh(up / 2)`,
  `ln(memory_bytes)`,
  `log2(memory_bytes)`,
  `log10(memory_bytes)`,
  `sqrt(memory_bytes)`,
  `sqrt(temperature_celsius - 3)`,
  `pi() * temperature_celsius`,
  `absent(nothing{job="api", room=~"a.*"})`,
  `absent(rare_events_total{kind="refund"})`,
  `absent_over_time(nothing{job="api"}[5m])`,
  `absent_over_time(rare_events_total{kind="refund"}[2m])`,
  `clamp(temperature_celsius, 0, 4)`,
  `clamp_min(temperature_celsius, 2)`,
  `clamp_max(temperature_celsius, 2)`,
  `round(temperature_celsius)`,
  `round(temperature_celsius, 0.25)`,
  `predict_linear(memory_bytes[20m], 3600)`,
  `predict_linear(queue_depth[20m] offset 5m, -600)`,
  `quantile_over_time(0.3, memory_bytes[10m])`,
  `quantile_over_time(1.5, queue_depth[10m])`,
  `label_replace(up, "host", "$1-$2", "instance", "(\\\\w+)-(\\\\d):.*")`,
  `label_replace(up, "job", "", "job", "api")`,
  `label_join(up, "target", "/", "job", "instance", "nothing")`,
  `scalar(memory_limit_bytes{job="api"})`,
  `scalar(memory_limit_bytes)`,
  `vector(time())`,
  `time() - timestamp(queue_depth)`,
  `timestamp(memory_bytes offset 5m)`,
  `histogram_quantile(0.9, rate(http_request_duration_seconds_bucket[5m]))`,
  `histogram_quantile(0.5, sum by (le, job) (rate(http_request_duration_seconds_bucket[5m])))`,
  `histogram_quantile(0.999, sum by (le) (http_request_duration_seconds_bucket))`,
  `histogram_quantile(1.1, http_request_duration_seconds_bucket)`,
  `rate(http_request_duration_seconds_sum[5m]) / rate(http_request_duration_seconds_count[5m])`,
  // Aggregations.
  ...AGGREGATED,
  `topk(3, memory_bytes)`,
  `bottomk(2, memory_bytes)`,
  `topk by (job) (1, memory_bytes)`,
  `bottomk without (instance) (1, memory_bytes)`,
  `quantile(0.35, memory_bytes)`,
  `quantile by (job) (0.9, rate(http_requests_total[5m]))`,
  `quantile(-1, memory_bytes)`,
  `count_values("depth", queue_depth)`,
  `count_values by (job) ("state", up)`,
  `count_values("degrees", round(temperature_celsius, 0.5))`,
  `sum(sum by (job, status) (http_requests_total)) by (status)`,
  `topk(scalar(count(up)) - 3, memory_bytes)`,
  // Operators.
  ...ARITHMETIC,
  ...COMPARED,
  `-7.5 atan2 2`,
  `sum by (room) (temperature_celsius) atan2 2.5`,
  `sum by (queue) (queue_depth) atan2 on (queue) sum by (queue) (queue_depth offset 5m)`,
  `-temperature_celsius`,
  `+temperature_celsius`,
  `-2 ^ 2`,
  `2 ^ 3 ^ 2`,
  `1 + 2 * 3 - 4 / 5 % 6`,
  `1 / 0`,
  `0 / 0`,
  `-1 / 0`,
  `5 % 0`,
  `1e3 + 0x1F + .5 + Inf`,
  `memory_bytes == memory_bytes`,
  `memory_bytes > bool 2e8`,
  `2e8 < memory_bytes`,
  `memory_bytes / memory_bytes`,
  `memory_bytes / on (job) group_left memory_limit_bytes`,
  `memory_limit_bytes - on (job) group_right memory_bytes`,
  `up * on (instance) group_left (version) build_info`,
  `up * ignoring (version, branch) build_info`,
  `build_info * on (instance, job) group_right (branch) http_requests_total{status="500"}`,
  `sum by (job) (memory_bytes) / ignoring () memory_limit_bytes`,
  `http_requests_total{status="500"} / ignoring (status) http_requests_total{status="200"}`,
  `http_requests_total / ignoring (status) group_left http_requests_total{status="200"}`,
  `sum by (partner) (rate(http_requests_total{status="500"}[5m])) / sum by (partner) (rate(http_requests_total[5m])) > 0.008`,
  `up and memory_bytes`,
  `up and on (job) memory_limit_bytes{job="web"}`,
  `up or memory_limit_bytes`,
  `queue_depth > 6 or on (queue) -queue_depth`,
  `up unless memory_bytes`,
  `up unless ignoring (instance) memory_limit_bytes{job="web"}`,
  `http_requests_total and ignoring (status) http_requests_total{status="500"} > 150`,
  `up == 1 and on (instance) memory_bytes > 1.9e8 unless on (job) memory_limit_bytes{job="web"}`,
  // Subqueries.
  `max_over_time(rate(http_requests_total{status="200"}[5m])[30m:])`,
  `avg_over_time(queue_depth[20m:30s])`,
  `rate(sum by (job) (http_requests_total)[10m:15s])`,
  `min_over_time(memory_bytes[10m:1m] offset 5m)`,
  `sum_over_time(up[7m:10s] @ ${AT})`,
  `max_over_time(sum(rate(http_requests_total[5m]))[20m:2m] @ end() offset 10m)`,
  `quantile_over_time(0.9, (queue_depth > 3)[15m:30s])`,
  `count_over_time(absent(rare_events_total{kind="refund"})[30m:30s])`,
  `sum_over_time(max_over_time(queue_depth[2m50s:30s])[12m:1m])`,
  `rare_events_total[4m:30s]`,
  `changes(vector(time())[5m:30s])`,
  // As in dashboards and rules.
  `increase(rare_events_total[2m]) == 0 or absent(nothing{kind="refund"})`,
  `100 * (1 - avg by (job) (avg_over_time(up[10m])))`,
  `sum(increase(http_request_duration_seconds_bucket{le="0.5"}[15m])) by (job) / sum(increase(http_request_duration_seconds_count[15m])) by (job)`,
  `(sum by (job) (rate(http_requests_total[5m])) - sum by (job) (rate(http_requests_total[5m] offset 30m))) / 2`,
];

/** What both refuse, with the same status and type of error. */
export const REFUSED: readonly string[] = [
  ``,
  `sum(`,
  `up{`,
  `up{job=}`,
  `up{job="api"`,
  `up{job=~"("}`,
  `up{__name__="other"}`,
  `{}`,
  `{job=~".*"}`,
  `{job!="api"}`,
  `rate(up)`,
  `rate(up[5m]) [5m]`,
  `up[5m][5m]`,
  `up[]`,
  `up[0m]`,
  `up[5m] + 1`,
  `sum(up[5m])`,
  `1[5m]`,
  `changes(time()[5m:30s])`,
  `abs("text")`,
  `abs()`,
  `abs(up, up)`,
  `clamp(up, 1)`,
  `no_such_function(up)`,
  `topk("three", up)`,
  `topk(up)`,
  `sum by (job (up)`,
  `sum by (1) (up)`,
  `sum(up) by (job) without (instance)`,
  `1 == 2`,
  `up + bool up`,
  `up and bool up`,
  `1 and 2`,
  `"a" + 1`,
  `up and on (job) group_left up`,
  `up offset 5m offset 5m`,
  `up @ now`,
  `up @ 5 @ 6`,
  `sum(up) offset 5m`,
  `up 5`,
  `up up`,
  `1 +`,
  `-`,
  `"unterminated`,
  `'\\q'`,
  `up{job="a" status="b"}`,
  `# nothing but a comment`,
  `up * on (job) up`,
  `up * on (job) group_left build_info`,
  `memory_limit_bytes * on (job) memory_bytes`,
  `rate({__name__=~"http_request_duration_seconds_(sum|count)"}[5m])`,
  `label_replace(up, "job", "x", "job", "(")`,
  `label_replace(up, "instance", "same", "job", ".*")`,
];
