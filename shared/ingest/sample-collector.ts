import type { IncomingSamples, Refusal, SentSeries } from "../contract/ingestion.ts";
import { IngestError, SAMPLES_LIMIT } from "./ingest-error.ts";
import { cutText, METRIC_NAME_LIMIT, TOO_MANY_SAMPLES, toStorableText } from "./sample-grammar.ts";

/**
 * Characters that the labels of all series of a request may have: a histogram sends its labels once, and each of its
 * buckets has them. 200,000 series with 160 each.
 */
export const CHARACTERS_LIMIT = 2 ** 25;

/** @throws {IngestError} if labels have more characters than those of all series may. */
export function assertFewCharacters(characters: number): void {
  if (characters <= CHARACTERS_LIMIT) return;
  throw new IngestError(
    "too_large",
    `Cannot take series with more than ${CHARACTERS_LIMIT} characters in their labels a request: send smaller batches`,
  );
}

/** Puts the samples of one request together: each series once, refusals added up by metric and reason. */
export class SampleCollector {
  readonly #series: SentSeries[] = [];
  readonly #positions: number[] = [];
  readonly #times: number[] = [];
  readonly #values: number[] = [];
  readonly #byMetric = new Map<string, Map<string, number>>();
  readonly #described = new Set<string>();
  readonly #refused = new Map<string, { metric: string; reason: string; count: number }>();
  #refusedCount = 0;
  #characters = 0;

  /** How many samples were refused so far. */
  get refusedCount(): number {
    return this.#refusedCount;
  }

  /** Positions, counted from 1, of the series of a metric by what tells them apart; the caller keeps them. */
  positionsOf(metric: string): Map<string, number> {
    let positions = this.#byMetric.get(metric);
    if (positions === undefined) this.#byMetric.set(metric, positions = new Map());
    return positions;
  }

  /** Series at a position. */
  at(position: number): SentSeries {
    return this.#series[position - 1]!;
  }

  /** Adds a series, and says its position. Its description is left out if one of its metric has one already. */
  addSeries(series: SentSeries): number {
    const { metric, description } = series;
    if (description === "") return this.#series.push(series);
    if (this.#described.has(metric)) return this.#series.push({ ...series, description: "" });
    this.#described.add(metric);
    return this.#series.push(series);
  }

  /** Counts the characters of the labels of a series. @throws {IngestError} if they are too many. */
  countCharacters(characters: number): void {
    this.#characters += characters;
    assertFewCharacters(this.#characters);
  }

  /** Adds a sample. @throws {IngestError} if it is one too many. */
  add(position: number, time: number, value: number): void {
    if (this.#values.length >= SAMPLES_LIMIT) throw new IngestError("too_large", TOO_MANY_SAMPLES);
    this.#positions.push(position);
    this.#times.push(time);
    this.#values.push(value);
  }

  /** Counts refused samples. `metric` is as it was sent. @throws {IngestError} if they are too many. */
  refuse(metric: string, reason: string, count = 1): void {
    if (count === 0) return;
    this.#refusedCount += count;
    if (this.#refusedCount > SAMPLES_LIMIT) throw new IngestError("too_large", TOO_MANY_SAMPLES);
    const shown = toStorableText(cutText(metric, METRIC_NAME_LIMIT));
    const key = `${reason}\0${shown}`;
    const entry = this.#refused.get(key);
    if (entry === undefined) this.#refused.set(key, { metric: shown, reason, count });
    else entry.count += count;
  }

  /** All of it. */
  finish(): IncomingSamples {
    const refused: Refusal[] = [...this.#refused.values()];
    return {
      batch: {
        series: this.#series,
        positions: this.#positions,
        times: this.#times,
        values: this.#values,
      },
      refused,
    };
  }
}
