/** `npm run detect-files`: runs the detector in use over a tree of CSV files, for benchmarks and for looking at one's own data. */
import process from "node:process";
import { parseArgs } from "node:util";
import { detector } from "../shared/detection/current-detector.ts";
import { DEFAULT_THRESHOLD } from "../shared/detection/detector.ts";
import { detectTree } from "./detection/detect-tree.ts";
import { oneOf } from "./detection/options.ts";
import { DEFAULT_SETTINGS } from "./detection/replay-series.ts";

const HELP = `Scores every sample of a tree of CSV files with the detector in use.

  npm run detect-files -- --input <folder> --output <folder>

  --kind gauge|counter        counters are judged by their rate (default gauge)
  --direction both|up|down    which deviations count (default both)

Reads *.csv in the folder and below: columns timestamp and value by name, others are passed over. A timestamp is
2026-03-02 14:05:00[.123], UTC unless it has a zone, or seconds or milliseconds since 1970. Writes timestamp,value,anomaly_score
under the same names: 0 to 1, an anomaly from ${DEFAULT_THRESHOLD} on. Nothing is looked at ahead. Rows that are not newer than one
before are not judged and score 0, as do those before the detector knows enough.

Exit code: 0 all files were scored, 1 one or more could not be read (nothing is written for those), or none could.`;

const NOTICE_MS = 2000;
const number = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });

try {
  const { values } = parseArgs({
    options: {
      input: { type: "string" },
      output: { type: "string" },
      kind: { type: "string", default: "gauge" },
      direction: { type: "string", default: "both" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
  } else {
    if (!values.input || !values.output) throw new Error("--input and --output are needed.");
    let noticedAt = performance.now();
    const files = detectTree({
      detector,
      input: values.input,
      output: values.output,
      kind: oneOf("--kind", ["gauge", "counter"], values.kind),
      settings: {
        ...DEFAULT_SETTINGS,
        direction: oneOf("--direction", ["both", "up", "down"], values.direction),
        threshold: DEFAULT_THRESHOLD,
      },
      onRows: (name, rowCount) => {
        if (performance.now() - noticedAt < NOTICE_MS) return;
        noticedAt = performance.now();
        console.error(`… ${name}: ${number.format(rowCount)} samples so far`);
      },
      onFile: ({ name, rowCount, ignoredCount, seconds, error }, place, fileCount) => {
        noticedAt = performance.now();
        const what = error === null
          ? `${number.format(rowCount)} samples in ${number.format(seconds)} s`
          : `FAILED, nothing written: ${error}`;
        console.error(
          `${String(place).padStart(String(fileCount).length)}/${fileCount} ${name}: ${what}`,
        );
        if (error === null && ignoredCount > 0) {
          console.error(
            `  warning: ${
              number.format(ignoredCount)
            } not judged, as they are not newer than a sample before`,
          );
        }
      },
    });
    const scored = files.filter(({ error }) => error === null);
    const sum = (of: "rowCount" | "seconds" | "detectorSeconds") =>
      scored.reduce((total, file) => total + file[of], 0);
    console.log(
      `${detector.version}: ${number.format(sum("rowCount"))} samples in ${scored.length} files, ` +
        `${
          number.format(sum("rowCount") / (sum("seconds") || 1))
        } samples/s; the detector itself ` +
        `${number.format((sum("detectorSeconds") * 1e6) / (sum("rowCount") || 1))} µs a sample.`,
    );
    if (scored.length < files.length) {
      console.log(`${files.length - scored.length} of ${files.length} files could not be read.`);
      process.exitCode = 1;
    }
  }
} catch (error) {
  console.error(`Cannot detect: ${(error as Error).message} See --help.`);
  process.exitCode = 1;
}
