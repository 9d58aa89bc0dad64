import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { detector } from "../../shared/detection/current-detector.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "pgvigil-command-"));
  mkdirSync(join(folder, "in"));
});
afterEach(() => rmSync(folder, { recursive: true }));

const write = (name: string, text: string) => writeFileSync(join(folder, name), text);

/** Runs a script as its npm script does, in the folder of the project. */
function run(script: string, ...args: string[]) {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ["--import", "tsx", `scripts/${script}.ts`, ...args],
    { encoding: "utf8" },
  );
  return { status, stdout, stderr };
}

/** A day of minutes around 10, one of them labelled and far off. */
const DAY_CSV = "timestamp,value,label\n" +
  Array.from({ length: 1440 }, (_, index) => {
    const time = new Date(Date.UTC(2026, 2, 2, 0, index)).toISOString().slice(0, 19).replace(
      "T",
      " ",
    );
    return `${time},${index === 1400 ? 500 : 10 + (index * 7919) % 13 / 13},${
      index === 1400 ? 1 : 0
    }`;
  }).join("\n");

describe("npm run detect-files", () => {
  it("scores with the detector in use, says how far and how fast, and fails for what it could not read", () => {
    write("in/day.csv", DAY_CSV);
    write("in/broken.csv", "timestamp,value\nnoon,1\n");
    const { status, stdout, stderr } = run(
      "detect-files",
      "--input",
      join(folder, "in"),
      "--output",
      join(folder, "out"),
    );
    expect(stderr).toContain('1/2 broken.csv: FAILED, nothing written: line 2: "noon" is no time');
    expect(stderr).toMatch(/2\/2 day\.csv: 1,440 samples in/);
    expect(stdout).toContain(`${detector.version}: 1,440 samples in 1 files`);
    expect(stdout).toMatch(/ samples\/s; the detector itself [\d.,]+ µs a sample/);
    expect(status).toBe(1);
    expect(existsSync(join(folder, "out/broken.csv"))).toBe(false);
    const [head, ...rows] = readFileSync(join(folder, "out/day.csv"), "utf8").trim().split("\n");
    expect(head).toBe("timestamp,value,anomaly_score");
    expect(rows).toHaveLength(1440);
    const scores = rows.map((row) => Number(row.split(",")[2]));
    expect(scores.every((score) => score >= 0 && score <= 1)).toBe(true);
    expect(scores.indexOf(Math.max(...scores))).toBeGreaterThanOrEqual(1400);
  });

  it.each([
    [["--input", "x"], "--input and --output are needed"],
    [["--input", "x", "--output", "y", "--kind", "z"], "--kind is one of gauge, counter"],
    [["--fast"], "Unknown option '--fast'"],
  ])("refuses %j", (args, message) => {
    const { status, stderr } = run("detect-files", ...args);
    expect(stderr).toContain(message);
    expect(status).toBe(1);
  });
});

describe("npm run backtest", () => {
  it("replays a file, and compares with its labels", () => {
    write("day.csv", DAY_CSV);
    const html = join(folder, "day.html");
    const { status, stdout, stderr } = run(
      "backtest",
      "--input",
      join(folder, "day.csv"),
      "--html",
      html,
      "--budget",
      "2",
    );
    expect(stderr).toContain("Wrote");
    expect(status).toBe(0);
    for (
      const words of ["day.csv", "1,440 samples", "2 a week, as set", "feedback", "before", "after"]
    ) {
      expect(stdout).toContain(words);
    }
    expect(readFileSync(html, "utf8")).toContain("</html>");
  });

  it.each([
    [[], "Either --metric or --input is needed"],
    [["--metric", "x", "--input", "y"], "Either --metric or --input is needed"],
    [["--metric", "x", "--unit", "y"], "--unit does not go with --metric"],
    [["--input", "x", "--labels", "a=b"], "--labels does not go with --input"],
    [["--input", "x", "--html", "x"], "--html would overwrite the input"],
    [["--input", "x", "--last", "y"], "--last is a length of time"],
    [["--input", "nowhere.csv"], "nowhere.csv"],
    [["--metric", "x", "--db-url", "postgres://localhost:1/x"], "Nothing listens there"],
  ])("refuses %j", (args, message) => {
    const { status, stderr } = run("backtest", ...args);
    expect(stderr).toContain(message);
    expect(status).toBe(1);
  });
});
