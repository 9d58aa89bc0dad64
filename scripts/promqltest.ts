/** `npm run promqltest`: runs files in the test language of Prometheus against our engine. */
import { readFileSync } from "node:fs";
import process from "node:process";
import { parseArgs } from "node:util";
import { printCounts, printResults } from "./promqltest/print-results.ts";
import { runScript } from "./promqltest/run-script.ts";

const HELP =
  `Runs files in the test language of Prometheus (promql/promqltest) against the PromQL engine.

  npm run promqltest -- <file>…

Prints per file and in total: N passed, N failed, N skipped. A case is an eval; it is skipped, with the reason, if it is about
native histograms or about what Prometheus has behind a feature flag: if its expression has such syntax, if it reads series that
have native histograms or start timestamps in its time range, or if it expects native histograms. A line that cannot be read is
a case that failed.

Exit code: 0 nothing failed, 1 something did, 2 no file was given, or one could not be read.`;

try {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { help: { type: "boolean", short: "h", default: false } },
  });
  if (values.help) {
    console.log(HELP);
  } else {
    if (positionals.length === 0) throw new Error("at least one file is needed.");
    const files = positionals.map((name) => ({ name, script: readFileSync(name, "utf8") }));
    const all = files.flatMap(({ name, script }) => {
      const results = runScript(script);
      console.log(printResults(name, results));
      return results;
    });
    console.log(`\ntotal: ${printCounts(all)}`);
    if (all.some(({ outcome }) => outcome.kind === "failed")) process.exitCode = 1;
  }
} catch (error) {
  console.error(`Cannot run tests: ${(error as Error).message} See --help.`);
  process.exitCode = 2;
}
