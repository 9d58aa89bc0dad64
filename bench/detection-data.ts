/** Where the labelled series are that detection is measured with. None of them is part of the project. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type LabelledSeries, readCases, readNab } from "./detection-scores.ts";
import type { Scale } from "./history.ts";

/** What a bench of detection is told on the command line; a folder that is not named is looked for beside the project. */
export interface DetectionOptions extends Scale {
  readonly folders: {
    readonly nab?: string | undefined;
    readonly cloudmon?: string | undefined;
    /** Holds a folder for each seed: `1`, `2`, `3`. */
    readonly minuteOps?: string | undefined;
  };
}

/** The sets that are there; those that are not have no series, and a line that says where they come from. */
export interface DetectionData {
  readonly nab: readonly LabelledSeries[];
  readonly cloudmon: readonly LabelledSeries[];
  /** By seed, from 1. */
  readonly minuteOps: readonly (readonly LabelledSeries[])[];
  readonly skipped: readonly string[];
}

const BESIDE = "../shared";
const GENERATOR = `${BESIDE}/tools/make_minute_ops.py`;

/** Reads what is there. `seeds` is how many sets of minute-ops are wanted; a quick run takes every fourth series. */
export function readDetectionData(
  { folders, quick }: DetectionOptions,
  seeds: number,
  log: (line: string) => void,
): DetectionData {
  const skipped: string[] = [];
  const thin = (series: LabelledSeries[]) =>
    quick ? series.filter((_, index) => index % 4 === 0) : series;
  const skip = (line: string) => {
    log(line);
    skipped.push(line);
    return [];
  };
  const nab = folders.nab ?? `${BESIDE}/data/nab`;
  const cloudmon = folders.cloudmon ?? `${BESIDE}/data/cloudmon`;
  return {
    nab: existsSync(join(nab, "labels", "combined_windows.json")) ? thin(readNab(nab)) : skip(
      `NAB skipped: there is no checkout of https://github.com/numenta/NAB in ${nab}; name one with --nab`,
    ),
    cloudmon: existsSync(cloudmon) ? thin(readCases(cloudmon)) : skip(
      `cloudmon skipped: there is no ${cloudmon} with series of ` +
        "https://github.com/microsoft/cloud-monitoring-dataset; name one with --cloudmon",
    ),
    minuteOps: readMinuteOps(folders.minuteOps, quick ? 1 : seeds, log)?.map(thin) ?? skip(
      `minute-ops skipped: neither ${GENERATOR} and python3 nor --minute-ops <folder with 1, 2, 3>`,
    ),
    skipped,
  };
}

function readMinuteOps(
  folder: string | undefined,
  seeds: number,
  log: (line: string) => void,
): LabelledSeries[][] | null {
  const numbers = Array.from({ length: seeds }, (_, index) => index + 1);
  if (folder !== undefined) return numbers.map((seed) => readCases(join(folder, `${seed}`)));
  if (!existsSync(GENERATOR)) return null;
  const made = mkdtempSync(join(tmpdir(), "pgvigil-minute-ops-"));
  try {
    return numbers.map((seed) => {
      log(`making minute-ops, seed ${seed}`);
      const target = join(made, `${seed}`);
      execFileSync("python3", [GENERATOR, target, "--seed", `${seed}`], { stdio: "ignore" });
      return readCases(target);
    });
  } catch (error) {
    log(`minute-ops cannot be made: ${(error as Error).message}`);
    return null;
  } finally {
    rmSync(made, { recursive: true, force: true });
  }
}
