import { execFileSync } from "node:child_process";
import { join } from "node:path";
import process from "node:process";
import { denoBinary, denoEnvironment } from "../local/binaries.ts";
import { detector } from "../shared/detection/current-detector.ts";
import { STATE_BYTES_LIMIT } from "../shared/detection/detector.ts";
import { type DetectionData, type DetectionOptions, readDetectionData } from "./detection-data.ts";
import { measureFootprint } from "./detection-footprint.ts";
import {
  type DetectionMeasures,
  measureScores,
  scoreBy,
  type SeriesScorer,
} from "./detection-measures.ts";
import { BUDGETS, type LabelledSeries } from "./detection-scores.ts";
import { createSeries } from "./mix.ts";
import { formatGoal, formatTable, quantileOf } from "./report.ts";
import { SIMPLE_DETECTORS } from "./simple-detectors.ts";

const SEEDS = 3;
const FOOTPRINT_DAYS = 14;
const MINUTES = 1440;

interface Goal {
  readonly measure: keyof DetectionMeasures;
  readonly what: string;
  readonly bound: "at least" | "at most";
  readonly goal: number;
  readonly digits: number;
}

const GOALS: readonly Goal[] = [
  {
    measure: "nabBest",
    what: "NAB, best threshold",
    bound: "at least",
    goal: 77,
    digits: 1,
  },
  { measure: "nabFixed", what: "NAB at 0.5", bound: "at least", goal: 74, digits: 1 },
  {
    measure: "cloudmon",
    what: "cloudmon, recall@budget",
    bound: "at least",
    goal: 0.72,
    digits: 3,
  },
  {
    measure: "minuteOps",
    what: "minute-ops, recall@budget",
    bound: "at least",
    goal: 0.75,
    digits: 3,
  },
  {
    measure: "nabFalse",
    what: "NAB, false a series-week at 0.5",
    bound: "at most",
    goal: 1.5,
    digits: 2,
  },
  {
    measure: "cloudmonFalse",
    what: "cloudmon, false a series-week at 0.5",
    bound: "at most",
    goal: 1.5,
    digits: 2,
  },
  {
    measure: "minuteOpsFalse",
    what: "minute-ops, false a series-week at 0.5",
    bound: "at most",
    goal: 1.5,
    digits: 2,
  },
];

const simpleScorer = (create: () => (value: number) => number): SeriesScorer => ({ values }) => {
  const score = create();
  return values.map((value) => score(value));
};

const show = (value: number, digits: number) => Number.isNaN(value) ? "–" : value.toFixed(digits);

function formatScores(
  measured: ReadonlyMap<string, DetectionMeasures>,
  data: DetectionData,
): string {
  const names = [...measured.keys()];
  const [own] = measured.values();
  const lines = GOALS.map(({ measure, what, bound, goal, digits }) => {
    const figure = own![measure] as number;
    const verdict = Number.isNaN(figure)
      ? "not measured"
      : (bound === "at least" ? figure >= goal : figure <= goal)
      ? "reached"
      : "**missed**";
    const cells = names.map((name) => show(measured.get(name)![measure] as number, digits));
    return `| ${what} | ${cells.join(" | ")} | ${bound} ${goal} | ${verdict} |`;
  });
  const atBudgets = (recalls: readonly number[]) =>
    recalls.map((recall, index) => `${recall.toFixed(2)} at ${BUDGETS[index]}`).join(", ");
  return [
    "## Detection: what it finds",
    "",
    `| Measure | ${names.join(" | ")} | Goal | |`,
    `| --- |${" --- |".repeat(names.length + 2)}`,
    ...lines,
    "",
    ...data.skipped.map((line) => `- ${line}`),
    ...(data.nab.length > 0
      ? [
        `- NAB: ${data.nab.length} series; the best threshold was ${
          show(own!.nabThreshold, 3)
        }. False are runs of rows at or over 0.5 outside all windows.`,
      ]
      : []),
    ...(data.cloudmon.length > 0
      ? [
        `- cloudmon: ${data.cloudmon.length} series; recall by false notifications a series-week: ${
          atBudgets(own!.cloudmonAtBudgets)
        }.`,
      ]
      : []),
    ...(data.minuteOps.length > 0
      ? [
        `- minute-ops: ${data.minuteOps.flat().length} series, mean of ${data.minuteOps.length} seed(s): ${
          atBudgets(own!.minuteOpsAtBudgets)
        }.`,
      ]
      : []),
    "- The simple ones score one half at 3 standard deviations, 5 usual jumps, and a modified z-score of 3.5.",
    "",
  ].join("\n");
}

/** Microseconds a sample in Deno, which runs the functions. */
function measureSpeed(series: readonly LabelledSeries[]): { many: number[]; five: number[] } {
  const flags = ["run", "--node-modules-dir=manual", "--cached-only", "--no-lock", "--no-prompt"];
  const printed = execFileSync(
    denoBinary(),
    [...flags, join(import.meta.dirname, "detection-speed.ts")],
    {
      env: { ...process.env, ...denoEnvironment() },
      encoding: "utf8",
      input: JSON.stringify(series.map(({ times, values }) => [[...times], [...values]])),
    },
  );
  return JSON.parse(printed);
}

/** Minute series where the labelled ones are not there. */
const mixedSeries = (): LabelledSeries[] =>
  Array.from({ length: 8 }, (_, index) => {
    const next = createSeries(index);
    const values = Float64Array.from(
      Array.from({ length: FOOTPRINT_DAYS + 1 }, () => Array.from(next(MINUTES))).flat(),
    );
    const times = values.map((_, at) => Date.UTC(2026, 2, 2) + at * 60_000);
    return { name: `mix-${index}`, times, values, events: [] };
  });

/** The detector in use against every goal of accuracy, time and size; beside it what one would pick instead. */
export async function measureDetection(
  log: (line: string) => void,
  options: DetectionOptions,
): Promise<string> {
  const data = readDetectionData(options, SEEDS, log);
  const measured = new Map<string, DetectionMeasures>();
  log(detector.version);
  measured.set(detector.version, measureScores(data, scoreBy(detector)));
  for (const [name, create] of Object.entries(SIMPLE_DETECTORS)) {
    log(name);
    measured.set(name, measureScores(data, simpleScorer(create)));
  }

  const [firstSeed] = data.minuteOps;
  const series = firstSeed === undefined
    ? mixedSeries()
    : firstSeed.filter((_, index) => options.quick || index % 4 === 0);
  log("time a sample, in Deno");
  const { many, five } = measureSpeed(series);
  log("bytes");
  const footprints = series.map((one) => measureFootprint(detector, one, FOOTPRINT_DAYS));
  const held = footprints.flatMap((footprint) => footprint.held);
  const written = footprints.flatMap((footprint) => footprint.written);
  const meanWritten = written.reduce((sum, bytes) => sum + bytes, 0) / written.length;
  const what = firstSeed === undefined ? "the bench's own mix" : "minute-ops, one of each family";

  return `${formatScores(measured, data)}\n${
    formatTable("Detection: what it takes", [
      { what: "a sample, in calls of 2,000", unit: "µs", readings: many },
      { what: "a sample, in calls of 5, the state handed on as text", unit: "µs", readings: five },
      { what: "state and memory of a series, each day", unit: "bytes", readings: held },
      { what: "sent to be stored by a call, mean of each day", unit: "bytes", readings: written },
    ], [
      formatGoal("A sample, median of the series", quantileOf(many, 0.5), "at most", 5, "µs"),
      formatGoal(
        "State and memory, the largest",
        Math.max(...held),
        "at most",
        STATE_BYTES_LIMIT,
        "bytes",
      ),
      formatGoal("Sent to be stored by a call, mean", meanWritten, "at most", 1536, "bytes"),
      `\nOn ${what}. Time: one thread of Deno. Sizes: ${FOOTPRINT_DAYS} days, in calls of 5 samples; state as JSON, memory and forecast when they are ` +
      "sent. What of it the database writes: `npm run bench -- detection-run`.",
      "\nCommand: `npm run bench -- detection`",
    ])
  }`;
}
