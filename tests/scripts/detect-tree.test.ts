import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type DetectedFile, detectTree } from "../../scripts/detection/detect-tree.ts";
import { BATCH_SAMPLES, DEFAULT_SETTINGS } from "../../scripts/detection/replay-series.ts";
import type { DetectionInput } from "../../shared/detection/detector.ts";
import { thresholdDetector } from "./threshold-detector.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "pgvigil-detect-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

function write(name: string, text: string): void {
  mkdirSync(dirname(join(folder, name)), { recursive: true });
  writeFileSync(join(folder, name), text);
}

const read = (name: string) => readFileSync(join(folder, name), "utf8");

const OPTIONS = {
  detector: thresholdDetector,
  kind: "gauge",
  settings: { ...DEFAULT_SETTINGS, threshold: 0.5 },
} as const;

function detect(input = "in", output = "out"): DetectedFile[] {
  return detectTree({ ...OPTIONS, input: join(folder, input), output: join(folder, output) });
}

describe("detectTree()", () => {
  it("writes the scores of every file under the same name, times and values as they were", () => {
    write(
      "in/a.csv",
      "timestamp,value\n2026-03-02 00:00:00,10.0\n2026-03-02 00:01:00,10\n2026-03-02 00:02:00,1.5e1\n",
    );
    write("in/deep/er/b.csv", "value,label,timestamp\r\n10,0,0\r\n10,0,60\r\n60,1,120\r\n");
    write("in/readme.txt", "no");
    expect(detect().map(({ name, rowCount, error }) => [name, rowCount, error])).toEqual([
      ["a.csv", 3, null],
      [join("deep", "er", "b.csv"), 3, null],
    ]);
    expect(read("out/a.csv")).toBe(
      "timestamp,value,anomaly_score\n2026-03-02 00:00:00,10.0,0\n2026-03-02 00:01:00,10,0\n2026-03-02 00:02:00,1.5e1,0.2\n",
    );
    expect(read("out/deep/er/b.csv")).toBe(
      "timestamp,value,anomaly_score\n0,10,0\n60,10,0\n120,60,1\n",
    );
    expect(readdirSync(join(folder, "out"), { recursive: true }).toSorted())
      .toEqual(["a.csv", "deep", join("deep", "er"), join("deep", "er", "b.csv")]);
  });

  it("does not judge rows that are not newer than one before, and counts them", () => {
    write("in/a.csv", "timestamp,value\n0,10\n60,10\n60,60\n30,60\n120,35\n120,35\n180,35\n");
    expect(detect()).toMatchObject([{ rowCount: 7, ignoredCount: 3 }]);
    expect(read("out/a.csv").split("\n").slice(1, -1).map((line) => line.split(",")[2]))
      .toEqual(["0", "0", "0", "0", "1", "0", "1"]);
  });

  it("goes on from batch to batch, an open anomaly with it", () => {
    const rows = Array.from(
      { length: 2 * BATCH_SAMPLES + 1 },
      // An anomaly over the first border; the second batch is full to the row.
      (_, index) => `${index * 60},${Math.abs(index - BATCH_SAMPLES) < 3 ? 60 : 10}`,
    );
    write("in/a.csv", `timestamp,value\n${rows.join("\n")}\n`);
    const seen: Pick<DetectionInput, "openAnomaly" | "now">[] = [];
    const sizes: number[] = [];
    detectTree({
      ...OPTIONS,
      input: join(folder, "in"),
      output: join(folder, "out"),
      detector: {
        version: "fake-1",
        detectSeries: (input) => {
          seen.push({ openAnomaly: input.openAnomaly, now: input.now });
          sizes.push(input.samples.length);
          return thresholdDetector.detectSeries(input);
        },
      },
    });
    expect(sizes).toEqual([BATCH_SAMPLES, BATCH_SAMPLES, 1]);
    expect(seen).toEqual([
      { openAnomaly: null, now: null },
      { openAnomaly: { startedAt: (BATCH_SAMPLES - 2) * 60_000 }, now: null },
      { openAnomaly: null, now: null },
    ]);
    const scores = read("out/a.csv").split("\n").slice(1, -1).map((line) =>
      Number(line.split(",")[2])
    );
    expect(scores).toHaveLength(2 * BATCH_SAMPLES + 1);
    expect(scores.filter((score) => score === 1)).toHaveLength(5);
  });

  it("writes nothing of a file that cannot be read, not even of an earlier time, and goes on", () => {
    write("in/a.csv", "timestamp,value\n0,10\n60,NaN\n");
    write("in/b.csv", "timestamp,value\n0,10\n");
    write("in/empty.csv", "");
    write("out/a.csv", "timestamp,value,anomaly_score\n0,10,0\n");
    expect(detect().map(({ name, error }) => [name, error])).toEqual([
      ["a.csv", 'line 3: "NaN" is no finite number'],
      ["b.csv", null],
      ["empty.csv", expect.stringContaining("empty")],
    ]);
    expect(readdirSync(join(folder, "out"))).toEqual(["b.csv"]);
  });

  it("tells after each file how far it is", () => {
    write("in/a.csv", "timestamp,value\n");
    write("in/b.csv", "timestamp,value\n0,10\n");
    const told: [string, number, number][] = [];
    detectTree({
      ...OPTIONS,
      input: join(folder, "in"),
      output: join(folder, "out"),
      onFile: ({ name }, place, fileCount) => told.push([name, place, fileCount]),
    });
    expect(told).toEqual([["a.csv", 1, 2], ["b.csv", 2, 2]]);
    expect(read("out/a.csv")).toBe("timestamp,value,anomaly_score\n");
  });

  it.each(["in", "in/out", "in/../in"])(
    "refuses to write to %s, which is or lies in the input",
    (output) => {
      write("in/a.csv", "timestamp,value\n0,10\n");
      expect(() => detect("in", output)).toThrow("must not be the input folder");
      expect(readdirSync(join(folder, "in"))).toEqual(["a.csv"]);
      expect(read("in/a.csv")).toBe("timestamp,value\n0,10\n");
    },
  );

  it("writes to a folder whose name only begins like the input's", () => {
    write("in/a.csv", "timestamp,value\n0,10\n");
    detect("in", "in-out");
    expect(existsSync(join(folder, "in-out/a.csv"))).toBe(true);
  });

  it("refuses an input that is not there, or has no file of its kind", () => {
    mkdirSync(join(folder, "empty"));
    expect(() => detect("nowhere")).toThrow("There is no folder");
    expect(() => detect("empty")).toThrow("no .csv file");
  });
});
