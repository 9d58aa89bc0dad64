import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { PROJECT_ROOT } from "../local/binaries.ts";
import { printCounts } from "../scripts/promqltest/print-results.ts";
import { type CaseResult, runScript } from "../scripts/promqltest/run-script.ts";
import { findPrometheus } from "../scripts/prometheus-leg/real-prometheus.ts";
import type { Scale } from "./history.ts";
import { measureEngine, measureGrowth } from "./promql-engine.ts";
import { measureRangeQueries } from "./promql-http.ts";
import { measureRules } from "./promql-rules.ts";
import { formatGoal } from "./report.ts";

/** PromQL: Prometheus' own tests, then time and memory beside Debian's Prometheus. */
export async function measurePromql(log: (line: string) => void, scale: Scale): Promise<string> {
  const found = await findPrometheus();
  const programs = typeof found === "string" ? undefined : found;
  try {
    const tables = [
      runPromqltest(),
      await measureRules(log, scale, programs),
      await measureRangeQueries(log, scale, programs),
      await measureEngine(log, scale, programs),
      measureGrowth(log, scale),
    ];
    const beside = typeof found === "string"
      ? `Without Prometheus beside: ${found}.`
      : `Prometheus is Debian's ${found.version}.`;
    return `${tables.join("\n")}\n${beside}\n\nCommand: \`npm run bench -- promql\`\n`;
  } finally {
    await programs?.remove();
  }
}

function runPromqltest(): string {
  const folder = process.env.PROMQLTEST_FOLDER ?? join(PROJECT_ROOT, "../shared/data/promqltest");
  const title = "## Prometheus' own tests of PromQL";
  if (!existsSync(folder)) return `${title}\n\nSkipped: there is no folder ${folder}.\n`;
  const all: CaseResult[] = [];
  const lines = readdirSync(folder).filter((file) => file.endsWith(".test")).sort().map((file) => {
    const results = runScript(readFileSync(join(folder, file), "utf8"));
    all.push(...results);
    return `- ${file}: ${printCounts(results)}`;
  });
  const count = (kind: CaseResult["outcome"]["kind"]) =>
    all.filter(({ outcome }) => outcome.kind === kind).length;
  const share = 100 * count("passed") / (count("passed") + count("failed"));
  return [
    `${title}\n`,
    ...lines,
    formatGoal("Cases in scope that pass", share, "at least", 100, "%"),
    "",
  ].join("\n");
}
