import { parseRuleGroups, type StoredRuleGroup } from "../../../shared/contract/rules.ts";
import {
  parseExposition,
  parseLabelNames,
  parseLabelValues,
  parseMetadata,
  parseSelections,
  parseSeriesLabels,
} from "../../../shared/contract/selections.ts";
import type { Exposition, MetricDefinition } from "../../../shared/promql/exposition.ts";
import { compileMatchers, toPostgresPattern } from "../../../shared/promql/match-labels.ts";
import { PromqlError } from "../../../shared/promql/promql-error.ts";
import {
  labelOf,
  type Labels,
  type Matcher,
  METRIC_NAME,
  type SampledSeries,
  type SampleSource,
} from "../../../shared/promql/series.ts";
import { type Database, DatabaseError } from "./database.ts";

/**
 * What one query may take: 2 s of processor and 256 MB are all that a function has. Steps are Prometheus' 11,000 and the
 * one that they start from.
 */
export const QUERY_LIMITS = {
  samples: 1_000_000,
  series: 20_000,
  steps: 11_001,
  values: 3_000_000,
} as const;

/** Most selectors that are read in one call. */
const SELECTIONS_LIMIT = 1000;

/**
 * Samples for queries, all that one needs in one call of the database.
 *
 * @throws {PromqlError} of kind `limit` from `select` for more than may be read
 */
export function selectionStore(database: Database, timeoutSeconds?: number): SampleSource {
  return {
    select: async (selections) => {
      if (selections.length > SELECTIONS_LIMIT) {
        const reason =
          `${selections.length} selectors, and at most ${SELECTIONS_LIMIT} are read at once`;
        throw new PromqlError("limit", reason);
      }
      const divided = selections.map(({ matchers }) => divideMatchers(matchers));
      const args = {
        p_selections: selections.map(({ from, until }, i) => ({
          matchers: divided[i]!.pushed,
          from,
          until,
        })),
        p_samples_limit: QUERY_LIMITS.samples,
      };
      const { clocks, series } = await database
        .call("read_selections", args, parseSelections, timeoutSeconds)
        .catch((error) => {
          throw toLimitError(error) ?? error;
        });
      const found: SampledSeries[][] = selections.map(() => []);
      // As the engine wants them, once for all queries and series that share them.
      const times = clocks.map((clock) => Float64Array.from(clock));
      for (const { metric, labels, in: positions, clock, values } of series) {
        const sampled = {
          labels: withName(metric, labels),
          times: times[clock]!,
          values: Float64Array.from(values),
        };
        for (const i of positions) {
          if (divided[i]!.isLeftSatisfied(sampled.labels)) found[i]!.push(sampled);
        }
      }
      return found;
    },
  };
}

/** No SQLSTATE comes through from the local API, only the server's words. */
const LIMIT_WORDS = /series match, and at most|samples would have to be read/;

function toLimitError(error: unknown): PromqlError | undefined {
  if (!(error instanceof DatabaseError)) return undefined;
  const isLimit = error.code === "54000" || LIMIT_WORDS.test(error.reason);
  return isLimit ? new PromqlError("limit", error.reason) : undefined;
}

function withName(metric: string, labels: Labels): Labels {
  return { [METRIC_NAME]: metric, ...labels };
}

/** Whether the database takes it as a text; what it does not, it has not stored either. */
function isStorable(text: string): boolean {
  return !text.includes("\u0000") && !/\p{Surrogate}/u.test(text);
}

/** What the database can judge of a selector as we do, and what it leaves. */
interface DividedMatchers {
  readonly pushed: readonly Matcher[];
  readonly isLeft: boolean;
  isLeftSatisfied(labels: Labels): boolean;
}

function divideMatchers(matchers: readonly Matcher[]): DividedMatchers {
  const pushed: Matcher[] = [];
  const left: Matcher[] = [];
  for (const matcher of matchers) {
    const isPattern = matcher.op === "=~" || matcher.op === "!~";
    const value = isPattern ? toPostgresPattern(matcher.value) : matcher.value;
    const isAskable = isStorable(matcher.name) && isStorable(matcher.value);
    if (value === undefined || !isAskable) left.push(matcher);
    else pushed.push({ ...matcher, value });
  }
  return { pushed, isLeft: left.length > 0, isLeftSatisfied: compileMatchers(left) };
}

/** Which series are meant: those that one of the selectors matches, all for none, that were there in the time. */
export interface SeriesLookup {
  readonly selectors: readonly (readonly Matcher[])[];
  readonly from: Date;
  /** Included. */
  readonly until: Date;
  /** From 1 to {@link LOOKUP_LIMIT}. */
  readonly limit: number;
}

/** Most series, names or values that are looked up at once. */
export const LOOKUP_LIMIT = 20_000;

/** What was looked up, in order, and whether that is all. */
export interface Found<T> {
  readonly items: readonly T[];
  readonly isComplete: boolean;
}

/** What others ask for: samples, what is known of series and metrics, rules. */
export interface QueryStore {
  /** {@link selectionStore} */
  openSource(timeoutSeconds: number): SampleSource;
  /** Labels of series, their names among them. */
  readSeriesLabels(lookup: SeriesLookup): Promise<Found<Labels>>;
  readLabelNames(lookup: SeriesLookup): Promise<Found<string>>;
  readLabelValues(label: string, lookup: SeriesLookup): Promise<Found<string>>;
  /** Of one metric, or of all for null. */
  readMetadata(metric: string | null, limit: number): Promise<readonly MetricDefinition[]>;
  /** The newest sample of every series. */
  readExposition(seriesLimit: number, now: Date): Promise<Exposition>;
  /** By group, with what became of them. */
  readRules(): Promise<readonly StoredRuleGroup[]>;
}

export function queryStore(database: Database): QueryStore {
  const readSeriesLabels = async (lookup: SeriesLookup): Promise<Found<Labels>> => {
    const divided = lookup.selectors.map(divideMatchers);
    const isLeft = divided.some(({ isLeft }) => isLeft);
    const limit = isLeft ? LOOKUP_LIMIT : lookup.limit;
    const args = toLookupArguments({ ...lookup, limit }, divided);
    const { series, isComplete } = await database.call(
      "read_series_labels",
      args,
      parseSeriesLabels,
    );
    const items = series.map(({ metric, labels }) => withName(metric, labels));
    if (!isLeft) return { items, isComplete };
    // Which of the selectors a series was found by is not told: each is asked again, as a whole.
    const tests = lookup.selectors.map(compileMatchers);
    const matching = items.filter((labels) => tests.some((test) => test(labels)));
    return cut({ items: matching, isComplete }, lookup.limit);
  };
  /** Asks for names or values by `rpc`, or derives them from the series where the database cannot judge a selector. */
  const readTexts = async (
    rpc: string,
    more: object,
    parse: (answer: unknown) => Found<string>,
    lookup: SeriesLookup,
    textsOf: (labels: Labels) => readonly string[],
  ): Promise<Found<string>> => {
    const divided = lookup.selectors.map(divideMatchers);
    if (!divided.some(({ isLeft }) => isLeft)) {
      return database.call(rpc, { ...more, ...toLookupArguments(lookup, divided) }, parse);
    }
    const { items, isComplete } = await readSeriesLabels({ ...lookup, limit: LOOKUP_LIMIT });
    const texts = [...new Set(items.flatMap(textsOf))].toSorted();
    return cut({ items: texts, isComplete }, lookup.limit);
  };

  return {
    openSource: (timeoutSeconds) => selectionStore(database, timeoutSeconds),
    readSeriesLabels,
    readLabelNames: (lookup) =>
      readTexts("read_label_names", {}, parseLabelNames, lookup, Object.keys),
    readLabelValues: async (label, lookup) =>
      isStorable(label)
        ? await readTexts(
          "read_label_values",
          { p_label: label },
          parseLabelValues,
          lookup,
          (labels) => {
            const value = labelOf(labels, label);
            return value === "" ? [] : [value];
          },
        )
        : { items: [], isComplete: true },
    readMetadata: async (metric, limit) =>
      isStorable(metric ?? "")
        ? await database.call("read_metadata", { p_metric: metric, p_limit: limit }, parseMetadata)
        : [],
    readExposition: (seriesLimit, now) =>
      database.call(
        "read_exposition",
        { p_series_limit: seriesLimit, p_now: now.toISOString() },
        parseExposition,
      ),
    readRules: () => database.call("read_rules", {}, parseRuleGroups),
  };
}

function toLookupArguments(
  { from, until, limit }: SeriesLookup,
  divided: readonly DividedMatchers[],
): Record<string, unknown> {
  return {
    p_selectors: divided.map(({ pushed }) => pushed),
    p_from: from.toISOString(),
    p_until: until.toISOString(),
    p_limit: limit,
  };
}

function cut<T>({ items, isComplete }: Found<T>, limit: number): Found<T> {
  return { items: items.slice(0, limit), isComplete: isComplete && items.length <= limit };
}
