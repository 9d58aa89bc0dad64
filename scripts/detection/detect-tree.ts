import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from "node:path";
import { type CsvRow, readChunks, readCsvRows } from "./read-csv.ts";
import { BATCH_SAMPLES, type ReplayOptions, SeriesReplay } from "./replay-series.ts";

/** What became of one file. Seconds of the detector are part of those of the file. */
export interface DetectedFile {
  readonly name: string;
  readonly rowCount: number;
  /** Rows that were not newer than one before. */
  readonly ignoredCount: number;
  readonly seconds: number;
  readonly detectorSeconds: number;
  /** Why there is no result; null where there is one. */
  readonly error: string | null;
}

/** Where {@link detectTree} reads and writes, and whom it tells how far it is. */
export interface TreeOptions extends ReplayOptions {
  readonly input: string;
  readonly output: string;
  /** After every file, with its place among all of them, from 1. */
  readonly onFile?: (file: DetectedFile, place: number, fileCount: number) => void;
  /** After every batch of a file. */
  readonly onRows?: (name: string, rowCount: number) => void;
}

function* inBatches(rows: Iterable<CsvRow>): Generator<CsvRow[]> {
  let batch: CsvRow[] = [];
  for (const row of rows) {
    batch.push(row);
    if (batch.length === BATCH_SAMPLES) {
      yield batch;
      batch = [];
    }
  }
  yield batch;
}

const secondsSince = (start: number) => (performance.now() - start) / 1000;

/** Scores one file. What is not complete has no name that could be taken for a result. */
function detectFile(name: string, options: TreeOptions): DetectedFile {
  const target = join(options.output, name);
  const partial = `${target}.partial`;
  const start = performance.now();
  let [rowCount, ignoredCount, detectorSeconds] = [0, 0, 0];
  const report = (error: string | null): DetectedFile => ({
    name,
    rowCount,
    ignoredCount,
    detectorSeconds,
    seconds: secondsSince(start),
    error,
  });
  try {
    mkdirSync(dirname(target), { recursive: true });
    const file = openSync(partial, "w");
    try {
      const replay = new SeriesReplay(options);
      writeSync(file, "timestamp,value,anomaly_score\n");
      for (const rows of inBatches(readCsvRows(readChunks(join(options.input, name))))) {
        const before = performance.now();
        const { judgements } = replay.judge(rows);
        detectorSeconds += secondsSince(before);
        const lines = rows.map(({ timestampText, valueText }, index) => {
          const judgement = judgements[index] ?? null;
          const score = judgement === null || judgement.kind === "insufficient_data"
            ? 0
            : judgement.score;
          return `${timestampText},${valueText},${score}\n`;
        });
        writeSync(file, lines.join(""));
        rowCount += rows.length;
        ignoredCount = replay.ignoredCount;
        options.onRows?.(name, rowCount);
      }
    } finally {
      closeSync(file);
    }
    renameSync(partial, target);
    return report(null);
  } catch (error) {
    // Nor may the result of an earlier time stand for this one.
    for (const path of [partial, target]) rmSync(path, { force: true });
    return report((error as Error).message);
  }
}

/** The CSV files below a folder, by their names relative to it, in order. @throws {Error} if there is none. */
function findFiles(folder: string): string[] {
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) {
    throw new Error(`There is no folder ${folder}.`);
  }
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => /\.csv$/i.test(name) && statSync(join(folder, name)).isFile())
    .sort();
  if (names.length === 0) throw new Error(`There is no .csv file in ${folder} or below it.`);
  return names;
}

/** Where a path leads, symbolic links followed, even if nothing is there yet. */
const realPathOf = (path: string): string =>
  existsSync(path) ? realpathSync(path) : join(realPathOf(dirname(path)), basename(path));

/**
 * Writes `timestamp,value,anomaly_score` for every CSV file of a tree under the same relative name. A file that cannot be read is
 * left out and told of; the others are not affected.
 *
 * @throws {Error} if nothing can be done: no input, or an output that would overwrite or feed the input.
 */
export function detectTree(options: TreeOptions): DetectedFile[] {
  const names = findFiles(options.input);
  const way = relative(realpathSync(options.input), realPathOf(resolve(options.output)));
  if (way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way)) {
    throw new Error("The output must not be the input folder, nor lie in it.");
  }
  return names.map((name, index) => {
    const file = detectFile(name, options);
    options.onFile?.(file, index + 1, names.length);
    return file;
  });
}
