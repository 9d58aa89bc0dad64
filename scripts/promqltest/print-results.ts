import type { CaseResult } from "./run-script.ts";

/** Longer texts are cut: some results have thousands of values. */
const TEXT_LIMIT = 600;

/** `N passed, N failed, N skipped`. */
export function printCounts(results: readonly CaseResult[]): string {
  const count = (wanted: CaseResult["outcome"]["kind"]) =>
    results.filter(({ outcome }) => outcome.kind === wanted).length;
  return `${count("passed")} passed, ${count("failed")} failed, ${count("skipped")} skipped`;
}

/** What became of a file: its counts, each case that failed, and why others were skipped. */
export function printResults(name: string, results: readonly CaseResult[]): string {
  const lines = [`${name}: ${printCounts(results)}`];
  const linesByReason = new Map<string, number[]>();
  for (const { line, text, outcome } of results) {
    if (outcome.kind === "skipped") {
      const skipped = linesByReason.get(outcome.reason) ?? [];
      linesByReason.set(outcome.reason, [...skipped, line]);
    } else if (outcome.kind === "failed") {
      lines.push(`  failed, line ${line}: ${text}`);
      if (outcome.query !== text) lines.push(`    evaluated: ${cut(outcome.query)}`);
      lines.push(`    expected: ${cut(outcome.mismatch.expected)}`);
      lines.push(`    got: ${cut(outcome.mismatch.got)}`);
    }
  }
  for (const [reason, skipped] of linesByReason) {
    const where = `${skipped.length === 1 ? "line" : "lines"} ${skipped.join(", ")}`;
    lines.push(`  skipped ${skipped.length}, ${reason}: ${where}`);
  }
  return lines.join("\n");
}

function cut(text: string): string {
  return text.length <= TEXT_LIMIT ? text : `${text.slice(0, TEXT_LIMIT)}…`;
}
