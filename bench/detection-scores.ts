/**
 * The two scores that detection is measured by, over files on disk: that of the Numenta Anomaly Benchmark, and recall at a
 * budget of false notifications.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** A labelled series. Times in ms since 1970 UTC, as long as the values. */
export interface LabelledSeries {
  readonly name: string;
  readonly times: Float64Array;
  readonly values: Float64Array;
  /** First and last row of each labelled event, ascending. */
  readonly events: readonly (readonly [number, number])[];
}

/** Reads `timestamp,value[,label]`; events are runs of labelled rows. */
function readSeries(path: string, name: string): LabelledSeries {
  const lines = readFileSync(path, "utf8").trim().split(/\r?\n/);
  const head = lines[0]!.split(",");
  const [at, value, label] = ["timestamp", "value", "label"].map((column) => head.indexOf(column));
  const rows = lines.slice(1).map((line) => line.split(","));
  const events: [number, number][] = [];
  rows.forEach((row, index) => {
    if (label === -1 || Number(row[label!]) === 0) return;
    if (events.at(-1)?.[1] === index - 1) events.at(-1)![1] = index;
    else events.push([index, index]);
  });
  return {
    name,
    times: Float64Array.from(rows, (row) => Date.parse(`${row[at!]!.trim().replace(" ", "T")}Z`)),
    values: Float64Array.from(rows, (row) => Number(row[value!])),
    events,
  };
}

/** The series of a folder of `timestamp,value,label`. */
export function readCases(folder: string): LabelledSeries[] {
  return readdirSync(folder).filter((name) => name.endsWith(".csv")).sort()
    .map((name) => readSeries(join(folder, name), name));
}

/** The series of a checkout of NAB, or a part of one, with its windows as events. */
export function readNab(folder: string): LabelledSeries[] {
  const windows: Record<string, [string, string][]> = JSON.parse(
    readFileSync(join(folder, "labels", "combined_windows.json"), "utf8"),
  );
  return Object.keys(windows).sort().map((name) => {
    const series = readSeries(join(folder, "data", name), name);
    const rowOf = (time: string) =>
      series.times.indexOf(Date.parse(`${time.replace(" ", "T").replace(/\.\d+$/, "")}Z`));
    const events = windows[name]!.map(([from, until]) => [rowOf(from), rowOf(until)] as const)
      .sort((a, b) => a[0] - b[0]);
    return { ...series, events };
  });
}

const FALSE_COST = 0.11;
const sigmoid = (y: number) => 2 / (1 + Math.exp(5 * y)) - 1;

interface Window {
  readonly first: number;
  /** Per row what a detection there is worth; of its window the best one counts. */
  readonly worth: Float64Array;
  /** Index of the row's window, -1 outside. */
  readonly window: Int32Array;
  readonly windowCount: number;
  readonly liveCount: number;
}

const windowsOf = new WeakMap<LabelledSeries, Window>();

function layOutWindows(series: LabelledSeries): Window {
  const known = windowsOf.get(series);
  if (known !== undefined) return known;
  const count = series.times.length;
  const first = Math.ceil(Math.min(Math.floor(0.15 * count), 750));
  const worth = new Float64Array(count).fill(-1);
  const window = new Int32Array(count).fill(-1);
  series.events.forEach(([left, right], index) => {
    const width = right - left + 1;
    for (let row = left; row <= right; row++) {
      worth[row] = sigmoid(-(right - row + 1) / width) / sigmoid(-1);
      window[row] = index;
    }
    const end = series.events[index + 1]?.[0] ?? count;
    for (let row = right + 1; row < end; row++) {
      const y = (row - right) / (width - 1);
      worth[row] = y > 3 ? -1 : sigmoid(y);
    }
  });
  const live = new Set(window.subarray(first).filter((index) => index >= 0));
  const laid = { first, worth, window, windowCount: series.events.length, liveCount: live.size };
  windowsOf.set(series, laid);
  return laid;
}

/**
 * The score of the Numenta Anomaly Benchmark in its standard profile, 0 for no detection at all and 100 for perfect ones, at one
 * `threshold` for all series, or at the best one if that is null.
 *
 * @see Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms", 2015.
 */
export function scoreNab(
  corpus: readonly LabelledSeries[],
  scores: readonly Float64Array[],
  threshold: number | null,
): { readonly score: number; readonly threshold: number } {
  const laid = corpus.map(layOutWindows);
  const nothing = -laid.reduce((sum, { liveCount }) => sum + liveCount, 0);
  const perfect = laid.reduce((sum, { windowCount }) => sum + windowCount, 0);
  const rows = laid.flatMap((windows, file) => {
    const kept: { file: number; row: number; score: number }[] = [];
    for (let row = windows.first; row < scores[file]!.length; row++) {
      const score = scores[file]![row]!;
      if (score > 0 && score >= (threshold ?? 0)) kept.push({ file, row, score });
    }
    return kept;
  }).sort((a, b) => b.score - a.score);

  const held = new Map<string, number>();
  let raw = nothing;
  let best = { raw, threshold: 1.1 };
  rows.forEach(({ file, row, score }, index) => {
    const { window, worth } = laid[file]!;
    if (window[row]! < 0) raw += FALSE_COST * worth[row]!;
    else {
      const key = `${file}/${window[row]}`;
      const had = held.get(key) ?? -1;
      if (worth[row]! > had) {
        raw += worth[row]! - had;
        held.set(key, worth[row]!);
      }
    }
    if (rows[index + 1]?.score !== score && raw > best.raw + 1e-12) {
      best = { raw, threshold: score };
    }
  });
  const chosen = threshold === null ? best : { raw, threshold };
  return { score: 100 * (chosen.raw - nothing) / (perfect - nothing), threshold: chosen.threshold };
}

/** False notifications per series-week that recall is taken at. */
export const BUDGETS = [0.25, 0.5, 1, 2, 4];

const WARM_UP = 0.15;
const QUIET_MINUTES = 30;
const DELAY_MINUTES = 15;
const SLACK_ROWS = 2;
const LEVELS = 150;

interface Case {
  readonly first: number;
  readonly weeks: number;
  readonly quiet: number;
  readonly delay: number;
  readonly events: readonly (readonly [number, number])[];
}

const casesOf = new WeakMap<LabelledSeries, Case>();

function layOutCase(series: LabelledSeries): Case {
  const known = casesOf.get(series);
  if (known !== undefined) return known;
  const { times } = series;
  const first = Math.floor(WARM_UP * times.length);
  const gaps = times.slice(1).map((at, index) => at - times[index]!).sort();
  const step = gaps[gaps.length >> 1]! / 60_000 || 1;
  const quiet = Math.max(2, Math.round(QUIET_MINUTES / step));
  const events: [number, number][] = [];
  for (const [from, until] of series.events) {
    if (events.length > 0 && from - events.at(-1)![1] <= quiet) events.at(-1)![1] = until;
    else events.push([from, until]);
  }
  const laid = {
    first,
    weeks: (times.at(-1)! - times[first]!) / 604_800_000,
    quiet,
    delay: Math.max(2, Math.round(DELAY_MINUTES / step)),
    events: events.filter(([from]) => from >= first),
  };
  casesOf.set(series, laid);
  return laid;
}

/** What notifications at one threshold came to. */
export interface Notified {
  readonly threshold: number;
  readonly recall: number;
  readonly precision: number;
  readonly falsePerWeek: number;
  /** Caught events, all events and false notifications, series by series. */
  readonly perSeries: readonly (readonly [number, number, number])[];
}

function countNotifications(
  laid: readonly Case[],
  candidates: readonly { readonly rows: Int32Array; readonly scores: Float64Array }[],
  threshold: number,
): Notified {
  let [good, falseCount, caught, eventCount, weeks] = [0, 0, 0, 0, 0];
  const perSeries: [number, number, number][] = [];
  laid.forEach(({ quiet, delay, events, weeks: lasted }, file) => {
    const { rows, scores } = candidates[file]!;
    const hit = new Set<number>();
    let last = -Infinity;
    let wrong = 0;
    let next = 0;
    for (let index = 0; index < rows.length; index++) {
      if (scores[index]! < threshold) continue;
      const row = rows[index]!;
      if (row - last > quiet) {
        while (next < events.length && events[next]![0] - SLACK_ROWS <= row) next += 1;
        const event = events[next - 1];
        if (event === undefined || row > event[1] + SLACK_ROWS) wrong += 1;
        else if (row <= event[0] + delay + SLACK_ROWS) {
          good += 1;
          hit.add(next - 1);
        }
      }
      last = row;
    }
    falseCount += wrong;
    caught += hit.size;
    eventCount += events.length;
    weeks += lasted;
    perSeries.push([hit.size, events.length, wrong]);
  });
  return {
    threshold,
    recall: eventCount > 0 ? caught / eventCount : 0,
    precision: good + falseCount > 0 ? good / (good + falseCount) : 0,
    falsePerWeek: falseCount / weeks,
    perSeries,
  };
}

/**
 * Recall of labelled incidents, the mean over {@link BUDGETS} of what is reached within each, and what the fixed
 * `threshold` comes to. A notification is a row at or over the threshold with none for half an hour before; it has to come within a
 * quarter of an hour of the incident's start, on slow series within two rows.
 */
export function scoreEvents(
  cases: readonly LabelledSeries[],
  scores: readonly Float64Array[],
  threshold: number,
): {
  readonly recallAtBudget: number;
  readonly atBudgets: readonly number[];
  readonly fixed: Notified;
} {
  const laid = cases.map(layOutCase);
  const candidates = laid.map(({ first }, file) => {
    const all = scores[file]!;
    const rows = Int32Array.from(all.keys()).filter((row) => row >= first && all[row]! > 0);
    return { rows, scores: Float64Array.from(rows, (row) => all[row]!) };
  });
  const pool = candidates.flatMap(({ scores }) => Array.from(scores));
  let levels = [...new Set(pool)].sort((a, b) => b - a);
  if (levels.length > LEVELS) {
    const all = levels;
    const picked = Array.from(
      { length: LEVELS },
      (_, k) => all[Math.min(all.length - 1, Math.floor(all.length ** (k / (LEVELS - 1))) - 1)]!,
    );
    levels = [...new Set(picked)].sort((a, b) => b - a);
  }
  const curve: Notified[] = [];
  let over = 0;
  for (const level of levels) {
    const counted = countNotifications(laid, candidates, level);
    curve.push(counted);
    over = counted.falsePerWeek > 3 * BUDGETS.at(-1)! ? over + 1 : 0;
    if (over > 3) break;
  }
  const atBudgets = BUDGETS.map((budget) =>
    Math.max(0, ...curve.filter((at) => at.falsePerWeek <= budget).map((at) => at.recall))
  );
  return {
    recallAtBudget: atBudgets.reduce((sum, recall) => sum + recall, 0) / BUDGETS.length,
    atBudgets,
    fixed: countNotifications(laid, candidates, threshold),
  };
}
