import { fork } from "node:child_process";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { EXPERTS, TUNING, type Tuning } from "../shared/detection/tuning.ts";
import { type DetectionData, type DetectionOptions, readDetectionData } from "./detection-data.ts";
import type { DetectionMeasures } from "./detection-measures.ts";
import type { WorkerMessage } from "./detection-worker.ts";

/** Constants move by so much, up and down. */
const SHARE = 0.3;

interface Variant {
  readonly what: string;
  readonly value: string;
  readonly tuning: Tuning;
}

/** Each expert left out (or taken in, if it is not in use). */
function leaveOut(): Variant[] {
  return EXPERTS.map((name) => {
    const isUsed = TUNING.experts[name] > 0;
    return {
      what: `\`${name}\``,
      value: isUsed ? "left out" : "taken in",
      tuning: { ...TUNING, experts: { ...TUNING.experts, [name]: isUsed ? 0 : 1 } },
    };
  });
}

/** A whole number moves by one at least. */
function move(value: number, share: number): number {
  const moved = value * (1 + share);
  if (!Number.isInteger(value) || value === 0) return Number(moved.toPrecision(4));
  const whole = Math.round(moved);
  return whole === value ? value + Math.sign(share) : whole;
}

/** Constants that count things, and therefore stay whole. */
const COUNTS: readonly (keyof Tuning)[] = ["largestCount", "regularCount"];

/** Each constant moved down and up. */
function moveConstants(): Variant[] {
  const names = (Object.keys(TUNING) as (keyof Tuning)[]).filter((name) => name !== "experts");
  return names.flatMap((name) =>
    [-SHARE, SHARE].map((share): Variant => {
      const value = TUNING[name];
      const moved = typeof value === "number"
        ? COUNTS.includes(name) ? move(value, share) : Number((value * (1 + share)).toPrecision(4))
        : (value as readonly number[]).map((one) => Number((one * (1 + share)).toPrecision(4)));
      return { what: `\`${name}\``, value: String(moved), tuning: { ...TUNING, [name]: moved } };
    })
  );
}

/** Measures all variants, each in a process that is free. */
async function measureAll(
  variants: readonly Variant[],
  data: DetectionData,
  onMeasured: (count: number) => void,
): Promise<DetectionMeasures[]> {
  const measured: DetectionMeasures[] = [];
  let [next, count] = [0, 0];
  await Promise.all(
    Array.from({ length: Math.min(availableParallelism(), variants.length) }, async () => {
      const worker = fork(join(import.meta.dirname, "detection-worker.ts"), {
        execArgv: ["--import", "tsx"],
        serialization: "advanced", // NaN and arrays of numbers as they are
      });
      try {
        worker.send({ data } satisfies WorkerMessage);
        while (next < variants.length) {
          const place = next++;
          measured[place] = await new Promise<DetectionMeasures>((resolve, reject) => {
            worker.once("message", (answer) => resolve(answer as DetectionMeasures));
            worker.once("exit", (code) => reject(new Error(`A worker ended with ${code}`)));
            worker.send({ tuning: variants[place]!.tuning } satisfies WorkerMessage);
          });
          worker.removeAllListeners();
          onMeasured(++count);
        }
      } finally {
        worker.kill();
      }
    }),
  );
  return measured;
}

const COLUMNS: readonly (readonly [keyof DetectionMeasures, string, number])[] = [
  ["nabBest", "NAB best", 1],
  ["nabFixed", "NAB 0.5", 1],
  ["cloudmon", "cloudmon", 3],
  ["minuteOps", "minute-ops", 3],
  ["nabFalse", "false: NAB", 2],
  ["cloudmonFalse", "false: cloudmon", 2],
  ["minuteOpsFalse", "false: minute-ops", 2],
];

function formatRow(
  { what, value }: Pick<Variant, "what" | "value">,
  measures: DetectionMeasures,
  base: DetectionMeasures | null,
): string {
  const cells = COLUMNS.map(([measure, , digits]) => {
    const figure = measures[measure] as number;
    if (Number.isNaN(figure)) return "–";
    if (base === null) return figure.toFixed(digits);
    const change = figure - (base[measure] as number);
    const shown = change.toFixed(digits);
    return Number(shown) === 0 ? "·" : change > 0 ? `+${shown}` : shown.replace("-", "−");
  });
  return `| ${what} | ${value} | ${cells.join(" | ")} |`;
}

/** What each part of the detector brings, and how much hangs on each of its constants: for docs/detection.md. */
export async function measureAblation(
  log: (line: string) => void,
  options: DetectionOptions,
): Promise<string> {
  const data = readDetectionData(options, 1, log);
  const shipped: Variant = { what: "as shipped", value: "", tuning: TUNING };
  const experts = leaveOut();
  const constants = options.quick ? moveConstants().slice(0, 4) : moveConstants();
  const variants = [shipped, ...experts, ...constants];
  const startedAt = performance.now();
  const measured = await measureAll(variants, data, (count) => {
    const left = (performance.now() - startedAt) / count * (variants.length - count) / 60_000;
    log(`${count} of ${variants.length}, about ${left.toFixed(1)} min to go`);
  });
  const [base, ...rest] = measured;
  const head = (title: string) => [
    `| ${title} | Value | ${COLUMNS.map(([, name]) => name).join(" | ")} |`,
    `| --- | --- |${" --- |".repeat(COLUMNS.length)}`,
    formatRow(shipped, base!, null),
  ];
  const rowsOf = (some: readonly Variant[], from: number) =>
    some.map((variant, index) => formatRow(variant, rest[from + index]!, base!));
  return [
    "### Without each expert",
    "",
    ...head("Expert"),
    ...rowsOf(experts, 0),
    "",
    `### Each constant moved by ${SHARE * 100} %`,
    "",
    ...head("Constant"),
    ...rowsOf(constants, experts.length),
    "",
    ...data.skipped.map((line) => `- ${line}`),
    "Below the first row: the change against it, · for none. Recall is recall@budget; minute-ops is seed 1 alone; false are " +
    "false notifications a series-week at 0.5.",
    "\nCommand: `npm run bench -- detection-ablation`",
    "",
  ].join("\n");
}
