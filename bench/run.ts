/**
 * `npm run bench`: runs the measurements and writes docs/benchmarks.md; `npm run bench -- <name>…` runs and prints some,
 * with `--quick` at a small scale, to see that they work.
 */
import { writeFileSync } from "node:fs";
import process from "node:process";
import { measureCleanup } from "./cleanup.ts";
import { measureCollection } from "./collection.ts";
import { measureHealth } from "./health.ts";
import type { Scale } from "./history.ts";
import { measureIngestDecode } from "./ingest-decode.ts";
import { measureIngestion } from "./ingestion.ts";
import { measureIngestionHttp } from "./ingestion-http.ts";
import { describeMachine } from "./report.ts";
import { measureStart } from "./start.ts";
import { measureStorage } from "./storage.ts";
import { measureWriteCost } from "./write-cost.ts";

const BENCHES: Record<string, (log: (line: string) => void, scale: Scale) => Promise<string>> = {
  collection: measureCollection,
  health: measureHealth,
  cleanup: measureCleanup,
  start: measureStart,
  storage: measureStorage,
  ingestion: measureIngestion,
  "ingestion-http": measureIngestionHttp,
  "write-cost": measureWriteCost,
  decode: measureIngestDecode,
};

const args = process.argv.slice(2);
const quick = args.includes("--quick");
const chosen = args.filter((name) => name !== "--quick");
const unknown = chosen.filter((name) => !(name in BENCHES));
if (chosen.includes("--help") || unknown.length > 0 || (quick && chosen.length === 0)) {
  console.log(
    `npm run bench [-- <name>… [--quick]], of: ${
      Object.keys(BENCHES).join(", ")
    }. Without a name: all, into docs/benchmarks.md.`,
  );
  process.exit(chosen.includes("--help") ? 0 : 1);
}

const tables: string[] = [];
for (const name of chosen.length > 0 ? chosen : Object.keys(BENCHES)) {
  console.error(`${name} …`);
  const startedAt = performance.now();
  const table = await BENCHES[name]!(
    (line) => console.error(`  ${((performance.now() - startedAt) / 1000).toFixed(0)} s: ${line}`),
    { quick },
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
