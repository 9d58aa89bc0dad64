/** `npm run promqltest`: runs files in the test language of Prometheus against our engine. */
import { readFileSync } from "node:fs";
import process from "node:process";
import { parseArgs } from "node:util";
import { printCounts, printResults } from "./promqltest/print-results.ts";
import { type CaseResult, runScript } from "./promqltest/run-script.ts";

const HELP =
  `Runs files in the test language of Prometheus (promql/promqltest) against the PromQL engine.

  npm run promqltest -- <file>…       ours: tests/promql/*.test; Prometheus': promql/promqltest/testdata in prometheus/prometheus

Prints per file and in total: N passed, N failed, N skipped. A case is an eval; it is skipped, with the reason, if it is about
native histograms or about what Prometheus has behind a feature flag: if its expression has such syntax, if it reads series that
have native histograms or start timestamps in its time range, or if it expects native histograms. A line that cannot be read is
a case that failed; a file in which no line can be is no test script.

Exit code: 0 nothing failed, 1 something did, 2 no file was given, or one could not be read or is no test script.`;

/** Says what became of a file. The others run even if it cannot. */
function runFile(name: string): CaseResult[] {
  try {
    const results = runScript(readFileSync(name, "utf8"));
    console.log(printResults(name, results));
    return results;
  } catch (error) {
    console.error(`${name}: ${explain(error)}`);
    process.exitCode = 2;
    return [];
  }
}

function explain(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ENOENT") return "there is no such file";
  if (code === "EISDIR") return "this is a directory: name the files in it";
  return message;
}

try {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { help: { type: "boolean", short: "h", default: false } },
  });
  if (values.help) {
    console.log(HELP);
  } else {
    if (positionals.length === 0) throw new Error("at least one file is needed.");
    const all = positionals.flatMap(runFile);
    console.log(`\ntotal: ${printCounts(all)}`);
    if (all.some(({ outcome }) => outcome.kind === "failed")) process.exitCode ??= 1;
  }
} catch (error) {
  console.error(`Cannot run tests: ${(error as Error).message}\nSee --help.`);
  process.exitCode = 2;
}
