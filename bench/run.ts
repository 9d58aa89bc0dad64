/**
 * `npm run bench`: runs the measurements and writes docs/benchmarks.md; `npm run bench -- <name>…` runs and prints some.
 */
import { writeFileSync } from "node:fs";
import process from "node:process";
import { measureCleanup } from "./cleanup.ts";
import { measureCollection } from "./collection.ts";
import { measureHealth } from "./health.ts";
import { describeMachine } from "./report.ts";
import { measureStart } from "./start.ts";

const BENCHES: Record<string, (log: (line: string) => void) => Promise<string>> = {
  collection: measureCollection,
  health: measureHealth,
  cleanup: measureCleanup,
  start: measureStart,
};

const chosen = process.argv.slice(2);
const unknown = chosen.filter((name) => !(name in BENCHES));
if (chosen.includes("--help") || unknown.length > 0) {
  console.log(
    `npm run bench [-- <name>…], of: ${
      Object.keys(BENCHES).join(", ")
    }. Without a name: all, into docs/benchmarks.md.`,
  );
  process.exit(chosen.includes("--help") ? 0 : 1);
}

const tables: string[] = [];
for (const name of chosen.length > 0 ? chosen : Object.keys(BENCHES)) {
  console.error(`${name} …`);
  const table = await BENCHES[name]!((line) => console.error(`  ${line}`));
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
