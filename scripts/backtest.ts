/** `npm run backtest`: what the detector would have told, of the stored history or of a file, at which budget. */
import { writeFileSync } from "node:fs";
import { basename, resolve } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import pg from "pg";
import { calibrate, thresholdOfBudget } from "../shared/detection/calibrate.ts";
import { detector } from "../shared/detection/current-detector.ts";
import { explainConnection, findDatabaseUrl } from "./connection.ts";
import { type BacktestSeries, backtestSeries } from "./detection/backtest-series.ts";
import { drawPage } from "./detection/draw-page.ts";
import { findLabelledRuns } from "./detection/measure-recall.ts";
import { numberBetween, oneOf, parseDuration, parseLabels } from "./detection/options.ts";
import { printReport } from "./detection/print-report.ts";
import { type CsvRow, readChunks, readCsvRows } from "./detection/read-csv.ts";
import { DEFAULT_SETTINGS } from "./detection/replay-series.ts";
import { readStoredSeries } from "./detection/stored-series.ts";

const BUDGETS = [0.25, 1, 4];

const HELP =
  `Tells what would have been told, by replaying history at several budgets. Changes nothing.

  npm run backtest -- --metric <name> [--labels job=api,region=eu] [--last 14d]      stored history
  npm run backtest -- --input <file.csv> [--last 14d]                                a file: timestamp,value[,label]

  --html <file>                 also a page with charts
  --budget <n>                  anomalies told a week (default: the metric's own, 1 for a file), beside ${
    BUDGETS.join(", ")
  }
  --last <length>               what is reported: 90m, 36h, 14d, 2w (default 14d, of a file all); what came before, in the
                                database 14 days of it, is learned from
  --direction both|up|down      in place of the metric's own; for a file: both
  --minimum-change <n>          smallest change told, in the unit of the metric; for a file: 0
  --minimum-change-ratio <n>    the same as a share of what was expected, 0.02 is 2 %; for a file: 0
  --kind gauge|counter          of a file; counters are judged by their rate (default gauge)
  --unit <unit>                 of a file, for the words
  --db-url <url>                any database, as its owner "postgres" (default: the local stack, npm start must be running)

Thresholds come from the history itself, as the weekly replay finds them. Where people have said what was wrong or right (reviews,
labelled spans, or labels 0 and 1 in the file), precision and recall are printed without what they said, at the threshold of today, and
with it.

Exit code: 0 replayed, 1 could not.`;

function parseOptions() {
  const { values } = parseArgs({
    options: {
      metric: { type: "string" },
      labels: { type: "string" },
      input: { type: "string" },
      last: { type: "string" },
      html: { type: "string" },
      budget: { type: "string" },
      direction: { type: "string" },
      "minimum-change": { type: "string" },
      "minimum-change-ratio": { type: "string" },
      kind: { type: "string" },
      unit: { type: "string" },
      "db-url": { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return null;
  if ((values.metric === undefined) === (values.input === undefined)) {
    throw new Error("Either --metric or --input is needed. See --help.");
  }
  const strangers = values.metric === undefined
    ? ["labels", "db-url"] as const
    : ["kind", "unit"] as const;
  for (const name of strangers) {
    if (values[name] !== undefined) {
      throw new Error(
        `--${name} does not go with ${values.metric === undefined ? "--input" : "--metric"}.`,
      );
    }
  }
  if (values.html && values.input && resolve(values.html) === resolve(values.input)) {
    throw new Error("--html would overwrite the input.");
  }
  const change = values["minimum-change"];
  const ratio = values["minimum-change-ratio"];
  return {
    metric: values.metric,
    labels: values.labels === undefined ? {} : parseLabels("--labels", values.labels),
    input: values.input,
    lastMs: values.last === undefined ? undefined : parseDuration("--last", values.last),
    html: values.html,
    budget: values.budget === undefined
      ? undefined
      : numberBetween("--budget", 0.01, 100, values.budget),
    kind: oneOf("--kind", ["gauge", "counter"], values.kind ?? "gauge"),
    databaseUrl: values["db-url"],
    settings: {
      ...(values.direction !== undefined &&
        { direction: oneOf("--direction", ["both", "up", "down"], values.direction) }),
      ...(change !== undefined &&
        { minimumChange: numberBetween("--minimum-change", 0, Number.MAX_VALUE, change) }),
      ...(ratio !== undefined &&
        {
          minimumChangeRatio: numberBetween("--minimum-change-ratio", 0, Number.MAX_VALUE, ratio),
        }),
      ...(values.unit !== undefined && { unit: values.unit }),
    },
  };
}

type Options = NonNullable<ReturnType<typeof parseOptions>>;

/** The series of a file; rows that are not newer than one before are left out, as the detector would. */
function readFileSeries(
  path: string,
  { kind, settings, budget = 1, lastMs }: Options,
): BacktestSeries {
  const samples: Pick<CsvRow, "at" | "value" | "isLabelled">[] = [];
  let leftOutCount = 0;
  try {
    for (const { at, value, isLabelled } of readCsvRows(readChunks(path))) {
      if (at > (samples.at(-1)?.at ?? -Infinity)) samples.push({ at, value, isLabelled });
      else leftOutCount += 1;
    }
  } catch (error) {
    throw new Error(`${path}: ${(error as Error).message}`);
  }
  if (samples.length === 0) throw new Error(`${path}: there is no sample in it.`);
  if (leftOutCount > 0) {
    console.error(
      `warning: ${leftOutCount} rows are not newer than a row before and were left out`,
    );
  }
  const events = findLabelledRuns(samples);
  return {
    name: basename(path),
    kind,
    settings: { ...DEFAULT_SETTINGS, ...settings },
    samples,
    reportFrom: lastMs === undefined ? -Infinity : samples.at(-1)!.at - lastMs,
    spans: [],
    deploys: [],
    budget,
    threshold: thresholdOfBudget(budget),
    truth: events === null ? null : { events, denied: null },
    hasFeedback: false,
  };
}

async function readDatabaseSeries(
  metric: string,
  { labels, lastMs = 14 * 86_400_000, budget, databaseUrl, settings }: Options,
): Promise<BacktestSeries[]> {
  const client = new pg.Client({
    connectionString: findDatabaseUrl(databaseUrl),
    connectionTimeoutMillis: 10_000,
  });
  try {
    await client.connect();
    const until = Date.now();
    const range = { metric, labels, from: until - lastMs, until, budget };
    const read = await readStoredSeries((sql, values) => client.query(sql, values), range);
    return read.map((series) => ({ ...series, settings: { ...series.settings, ...settings } }));
  } catch (error) {
    throw new Error(explainConnection(error), { cause: error });
  } finally {
    await client.end().catch(() => {});
  }
}

try {
  const options = parseOptions();
  if (options === null) {
    console.log(HELP);
  } else {
    const all = options.metric === undefined
      ? [readFileSeries(options.input!, options)]
      : await readDatabaseSeries(options.metric, options);
    const backtests = all.map((series) => {
      const backtest = backtestSeries(series, BUDGETS, { detector, calibrate });
      console.log(`${printReport(backtest)}\n`);
      return backtest;
    });
    if (options.html !== undefined) {
      writeFileSync(options.html, drawPage(backtests));
      console.error(`Wrote ${options.html}`);
    }
  }
} catch (error) {
  console.error(`Cannot backtest: ${(error as Error).message}`);
  process.exitCode = 1;
}
