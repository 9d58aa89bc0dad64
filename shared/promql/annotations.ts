import type { Span } from "./ast.ts";
import { quote } from "./format-labels.ts";
import { formatShort } from "./format-value.ts";
import { locate } from "./promql-error.ts";

interface MonotonicityFix {
  name: string;
  span: Span;
  lowest: number;
  highest: number;
  largest: number;
  count: number;
  since: number;
  until: number;
}

/** What a date reaches, either way from 1970, in milliseconds: `@` goes further. */
const LAST_DATE = 8_640_000_000_000_000;

/** What a query has to say beside its result, in Prometheus' words, each once. */
export class Annotations {
  readonly #text: string;
  readonly #warnings = new Set<string>();
  readonly #infos = new Set<string>();
  readonly #fixes = new Map<string, MonotonicityFix>();

  constructor(text: string) {
    this.#text = text;
  }

  warn(message: string, span: Span): void {
    this.#warnings.add(`PromQL warning: ${message} ${this.#at(span)}`);
  }

  inform(message: string, span: Span): void {
    this.#infos.add(`PromQL info: ${message} ${this.#at(span)}`);
  }

  invalidQuantile(quantile: number, span: Span): void {
    this.warn(`quantile value should be between 0 and 1, got ${formatShort(quantile)}`, span);
  }

  /** Bucket counts that had to be made to grow: told once for all steps and buckets. */
  forcedMonotonicity(
    name: string,
    span: Span,
    time: number,
    { lowest, highest, largest }: { lowest: number; highest: number; largest: number },
  ): void {
    const key = `${span.start} ${name}`;
    const fix = this.#fixes.get(key);
    if (fix === undefined) {
      const once = { count: 1, since: time, until: time };
      this.#fixes.set(key, { name, span, lowest, highest, largest, ...once });
      return;
    }
    fix.lowest = Math.min(fix.lowest, lowest);
    fix.highest = Math.max(fix.highest, highest);
    fix.largest = Math.max(fix.largest, largest);
    fix.count += 1;
    fix.since = Math.min(fix.since, time);
    fix.until = Math.max(fix.until, time);
  }

  get warnings(): readonly string[] {
    return [...this.#warnings];
  }

  get infos(): readonly string[] {
    const told = [...this.#fixes.values()].map((fix) => {
      const name = fix.name === "" ? "" : ` for metric name ${quote(fix.name)}`;
      const largest = formatShort(Number(fix.largest.toPrecision(2)));
      return "PromQL info: input to histogram_quantile needed to be fixed for monotonicity (see " +
        "https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)" +
        `${name}, from buckets ${formatShort(fix.lowest)} to ${
          formatShort(fix.highest)
        }, with a max ` +
        `diff of ${largest}, over ${fix.count} samples from ${toInstant(fix.since)} to ` +
        `${toInstant(fix.until)} ${this.#at(fix.span)}`;
    });
    return [...this.#infos, ...told];
  }

  #at({ start, end }: Span): string {
    const { line, column } = locate(this.#text, start, end);
    return `(${line}:${column})`;
  }
}

function toInstant(milliseconds: number): string {
  if (Math.abs(milliseconds) > LAST_DATE) return `${milliseconds / 1000}`;
  return new Date(milliseconds).toISOString().replace(/\.\d+Z$/, "Z");
}
