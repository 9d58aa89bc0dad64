/** Kinds of OTLP metrics, as far as names depend on them. */
export type OtlpKind = "gauge" | "counter" | "other";

/** Words for units of UCUM, as Prometheus writes them. */
const UNIT_WORDS = new Map([
  ["d", "days"],
  ["h", "hours"],
  ["min", "minutes"],
  ["s", "seconds"],
  ["ms", "milliseconds"],
  ["us", "microseconds"],
  ["ns", "nanoseconds"],
  ["By", "bytes"],
  ["KiBy", "kibibytes"],
  ["MiBy", "mebibytes"],
  ["GiBy", "gibibytes"],
  ["TiBy", "tebibytes"],
  ["kBy", "kilobytes"],
  ["KBy", "kilobytes"],
  ["MBy", "megabytes"],
  ["GBy", "gigabytes"],
  ["TBy", "terabytes"],
  ["m", "meters"],
  ["V", "volts"],
  ["A", "amperes"],
  ["J", "joules"],
  ["W", "watts"],
  ["g", "grams"],
  ["Cel", "celsius"],
  ["Hz", "hertz"],
  ["1", ""],
  ["%", "percent"],
]);

/** The same after a stroke: in the singular, and `m` is a minute there. */
const PER_WORDS = new Map([
  ["s", "second"],
  ["m", "minute"],
  ["min", "minute"],
  ["h", "hour"],
  ["d", "day"],
  ["w", "week"],
  ["mo", "month"],
  ["y", "year"],
]);

/**
 * Name of an OTLP metric in Prometheus, without the suffixes of a histogram or summary: what is not a letter, digit
 * or colon separates words; the unit follows as a word unless it is among them; then `_ratio` (a gauge of unit 1) or
 * `_total` (a counter). "" if no word is left.
 *
 * @see https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/#metric-metadata-1
 */
export function toMetricName(name: string, unit: string, kind: OtlpKind): string {
  let words = toWords(name);
  if (words.length === 0) return "";
  const { main, per } = readUnit(unit);
  if (main !== "" && !words.includes(main)) words.push(main);
  if (per !== "" && !words.includes(per)) words.push("per", per);
  const suffix = kind === "counter"
    ? "total"
    : kind === "gauge" && unit.trim() === "1"
    ? "ratio"
    : "";
  if (suffix !== "") words = [...words.filter((word) => word !== suffix), suffix];
  const result = words.join("_");
  return /^\d/.test(result) ? `_${result}` : result;
}

/**
 * The unit in words of our registry: `seconds`, `bytes`, `ratio`, `percent`, `bytes_per_second`, …; `count` for an
 * annotation such as `{request}`, and for counters without a unit; "" when it is not known.
 */
export function toUnitWord(unit: string, kind: OtlpKind): string {
  const { main, per } = readUnit(unit);
  const isCounted = main === "" && (/^\s*\{/.test(unit) || kind === "counter");
  const base = isCounted ? "count" : main === "" && unit.trim() === "1" ? "ratio" : main;
  if (per === "") return base;
  return base === "" ? `per_${per}` : `${base}_per_${per}`;
}

/**
 * Name of a label for the key of an attribute: each character outside of `[a-zA-Z0-9_]` becomes `_`. What would begin
 * with a digit or `_` gets `key` in front: two of those are reserved (`__name__`). "" only for "".
 */
export function toLabelName(key: string): string {
  const name = key.replace(/[^a-zA-Z0-9_]/gu, "_");
  if (name.startsWith("_")) return `key${name}`;
  return /^\d/.test(name) ? `key_${name}` : name;
}

function readUnit(unit: string): { main: string; per: string } {
  const stroke = unit.indexOf("/");
  const [main, per] = stroke < 0 ? [unit, ""] : [unit.slice(0, stroke), unit.slice(stroke + 1)];
  return { main: toUnitWords(main, UNIT_WORDS), per: toUnitWords(per, PER_WORDS) };
}

function toUnitWords(part: string, words: ReadonlyMap<string, string>): string {
  const unit = part.trim();
  // What is in braces is a remark on the unit, not one.
  if (/[{}]/.test(unit)) return "";
  return words.get(unit) ?? unit.split(/[^a-zA-Z0-9]+/).filter((word) => word !== "").join("_");
}

function toWords(name: string): string[] {
  return name.split(/[^a-zA-Z0-9:]+/).filter((word) => word !== "");
}
