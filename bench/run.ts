/**
 * `npm run bench`: runs the measurements and writes docs/benchmarks.md; `npm run bench -- <name>…` runs and prints some,
 * with `--quick` at a small scale, to see that they work.
 */
import { writeFileSync } from "node:fs";
import process from "node:process";
import { parseArgs } from "node:util";
import { measureManyAlerts } from "./alerts.ts";
import { measureCleanup } from "./cleanup.ts";
import { measureCollection } from "./collection.ts";
import { measureDetection } from "./detection.ts";
import { measureAblation } from "./detection-ablation.ts";
import type { DetectionOptions } from "./detection-data.ts";
import { measureDetectionRun } from "./detection-run.ts";
import { measureHealth } from "./health.ts";
import { measureIngestDecode } from "./ingest-decode.ts";
import { measureIngestion } from "./ingestion.ts";
import { measureIngestionHttp } from "./ingestion-http.ts";
import { measureCrashes, measureDelivery, measureLatency } from "./notifications.ts";
import { measurePromql } from "./promql.ts";
import { describeMachine } from "./report.ts";
import { measureStart } from "./start.ts";
import { measureStorage } from "./storage.ts";
import { measureWriteCost } from "./write-cost.ts";

type Bench = (log: (line: string) => void, options: DetectionOptions) => Promise<string>;

const BENCHES: Record<string, Bench> = {
  collection: measureCollection,
  health: measureHealth,
  cleanup: measureCleanup,
  start: measureStart,
  storage: measureStorage,
  ingestion: measureIngestion,
  "ingestion-http": measureIngestionHttp,
  "write-cost": measureWriteCost,
  decode: measureIngestDecode,
  detection: measureDetection,
  "detection-run": measureDetectionRun,
  "detection-ablation": measureAblation,
  promql: measurePromql,
  alerts: measureManyAlerts,
  delivery: measureDelivery,
  "alert-latency": measureLatency,
  crashes: measureCrashes,
};

/** Only run when asked for: its table is kept in docs/detection.md. */
const APART = ["detection-ablation"];

const HELP = `npm run bench [-- <name>… [--quick]], of: ${Object.keys(BENCHES).join(", ")}.
Without a name: all but ${APART.join(", ")}, into docs/benchmarks.md.

  --quick               a small scale, to see that it works
  --nab <folder>        a checkout of numenta/NAB; for detection (default ../shared/data/nab)
  --cloudmon <folder>   CSVs timestamp,value,label of microsoft/cloud-monitoring-dataset (default ../shared/data/cloudmon)
  --minute-ops <folder> made series, a folder 1, 2, 3 for each seed (default: made by ../shared/tools/make_minute_ops.py)`;

function readArguments() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      quick: { type: "boolean", default: false },
      nab: { type: "string" },
      cloudmon: { type: "string" },
      "minute-ops": { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const unknown = positionals.filter((name) => !(name in BENCHES));
  if (unknown.length > 0) throw new Error(`There is no bench ${unknown.join(", ")}.`);
  if (values.quick && positionals.length === 0) throw new Error("--quick needs a name.");
  return { ...values, chosen: positionals };
}

function readArgumentsOrExit() {
  try {
    const read = readArguments();
    if (!read.help) return read;
    console.log(HELP);
    process.exit(0);
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${HELP}`);
    process.exit(1);
  }
}

const { chosen, quick, nab, cloudmon, "minute-ops": minuteOps } = readArgumentsOrExit();
const all = Object.keys(BENCHES).filter((name) => !APART.includes(name));

const tables: string[] = [];
for (const name of chosen.length > 0 ? chosen : all) {
  console.error(`${name} …`);
  const startedAt = performance.now();
  const table = await BENCHES[name]!(
    (line) => console.error(`  ${((performance.now() - startedAt) / 1000).toFixed(0)} s: ${line}`),
    { quick, folders: { nab, cloudmon, minuteOps } },
  );
  tables.push(table);
  console.log(`\n${table}`);
}
console.log(describeMachine());

if (chosen.length === 0) {
  const head = `# Benchmarks

Made by \`npm run bench\` on ${describeMachine()}. Machines are noisy: compare the rows of one table, not tables.
`;
  writeFileSync("docs/benchmarks.md", [head, ...tables].join("\n"));
  console.error("Wrote docs/benchmarks.md");
}
