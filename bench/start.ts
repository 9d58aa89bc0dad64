import type { Buffer } from "node:buffer";
import { spawn } from "node:child_process";
import { cp, mkdtemp, readdir, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { PROJECT_ROOT } from "../local/binaries.ts";
import { formatTable } from "./report.ts";

const ROUNDS = 5;
const PORT = 56341;
const SKIPPED = new Set([".git", ".local", "node_modules"]);

/** Starts the stack of the project in `root` as `npm start` does; seconds until it says that it is ready, then stops it. */
function start(root: string): Promise<{ ready: number; samples: number; stopped: number }> {
  return new Promise((resolve, reject) => {
    const startedAt = performance.now();
    const child = spawn(process.execPath, [
      "--import",
      "tsx",
      "local/start.ts",
      "--port",
      String(PORT),
    ], { cwd: root });
    let output = "";
    let ready = 0;
    let stoppingAt = 0;
    let samples = 0;
    const read = async (chunk: Buffer) => {
      output += chunk;
      if (ready > 0 || !output.includes("Ready in")) return;
      ready = (performance.now() - startedAt) / 1000;
      const url = /postgresql:\S+/.exec(output)![0];
      const { default: pg } = await import("pg");
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      for (let count = 0; count === 0;) {
        const { rows } = await client.query(
          "select count(*)::int as count from monitor.metric_time_series",
        );
        count = rows[0].count;
      }
      samples = (performance.now() - startedAt) / 1000;
      await client.end();
      stoppingAt = performance.now();
      child.kill("SIGINT");
    };
    child.stdout.on("data", (chunk) => void read(chunk).catch(reject));
    child.stderr.on("data", (chunk) => (output += chunk));
    child.on("close", (code) => {
      if (code !== 0) return reject(new Error(`The stack did not start:\n${output}`));
      resolve({ ready, samples, stopped: (performance.now() - stoppingAt) / 1000 });
    });
  });
}

/** From the command to "Ready", on an empty folder and on one with data. */
export async function measureStart(log: (line: string) => void): Promise<string> {
  const first: number[] = [];
  const second: number[] = [];
  const samples: number[] = [];
  const stopped: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    log(`round ${round + 1} of ${ROUNDS}`);
    const root = await mkdtemp(join(tmpdir(), "pgvigil-bench-"));
    try {
      for (const entry of await readdir(PROJECT_ROOT)) {
        if (!SKIPPED.has(entry)) {
          await cp(join(PROJECT_ROOT, entry), join(root, entry), { recursive: true });
        }
      }
      await symlink(join(PROJECT_ROOT, "node_modules"), join(root, "node_modules"));
      const fresh = await start(root);
      const again = await start(root);
      first.push(fresh.ready);
      samples.push(fresh.samples - fresh.ready);
      second.push(again.ready);
      stopped.push(fresh.stopped, again.stopped);
    } finally {
      await rm(root, { recursive: true, force: true });
    }
  }
  return formatTable("Start", [
    { what: "first start, until ready (goal ≤ 20)", unit: "s", readings: first },
    { what: "later start, until ready (goal ≤ 6)", unit: "s", readings: second },
    { what: "from ready to the first samples (goal ≤ 15)", unit: "s", readings: samples },
    { what: "Ctrl-C until everything is down", unit: "s", readings: stopped },
  ], ["Command: `npm run bench -- start`"]);
}
