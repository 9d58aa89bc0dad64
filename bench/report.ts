/** What every measurement here prints: the machine, and a table of n, median and spread. */
import { arch, cpus, release, totalmem, type } from "node:os";
import process from "node:process";

/** One row of a table. */
export interface Row {
  readonly what: string;
  readonly unit: string;
  /** Readings in `unit`, in any order; a single one is a count rather than a distribution. */
  readonly readings: readonly number[];
}

/** The reading below which a share `quantile` (0-1) of `readings` lies; nearest rank. NaN of none. */
export function quantileOf(readings: readonly number[], quantile: number): number {
  const sorted = Float64Array.from(readings).sort();
  return sorted[Math.max(0, Math.ceil(quantile * sorted.length) - 1)] ?? NaN;
}

const show = (value: number) => value >= 100 ? value.toFixed(0) : value.toPrecision(3);

/** Markdown of a machine line and of `rows`: n, median, 95th percentile, smallest and largest. */
export function formatTable(
  title: string,
  rows: readonly Row[],
  notes: readonly string[] = [],
): string {
  const lines = [
    `## ${title}`,
    "",
    "| What | Unit | n | Median | p95 | p99 | Min | Max |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ...rows.map(({ what, unit, readings }) => {
      const at = (quantile: number) => show(quantileOf(readings, quantile));
      return `| ${what} | ${unit} | ${readings.length} | ${at(0.5)} | ${at(0.95)} | ${at(0.99)} | ${
        show(Math.min(...readings))
      } | ${show(Math.max(...readings))} |`;
    }),
    "",
    ...notes,
  ];
  return lines.join("\n").trimEnd() + "\n";
}

/** A line of a list: a figure beside what it has to be at least, or at most, and whether it is. */
export function formatGoal(
  what: string,
  figure: number,
  bound: "at least" | "at most",
  goal: number,
  unit: string,
): string {
  const isReached = bound === "at least" ? figure >= goal : figure <= goal;
  const space = /^[%×]/.test(unit) ? "" : " ";
  return `- ${what}: ${show(figure)}${space}${unit}; goal ${bound} ${
    goal.toLocaleString("en")
  }${space}${unit}: **${isReached ? "reached" : "missed"}**`;
}

/** The machine a table was made on. */
export function describeMachine(): string {
  const [cpu] = cpus();
  const memory = Math.round(totalmem() / 2 ** 30);
  return `${cpus().length} cores (${
    cpu?.model.trim() || arch()
  }), ${memory} GiB, ${type()} ${release()}, Node ${process.versions.node}`;
}
