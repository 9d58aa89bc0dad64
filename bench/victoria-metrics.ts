/** Debian's VictoriaMetrics, to compare with: fetched for the run, fed with the same samples. */
import { execFileSync, type ExecFileSyncOptions, spawn } from "node:child_process";
import { chmodSync, readdirSync, statSync } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { endProcess, freePort, poll } from "../local/processes.ts";
import { DAY_MS } from "./history.ts";
import { describeSeries } from "./mix.ts";

/** A server that takes days of samples. */
export interface VictoriaMetrics {
  readonly version: string;
  addDay(start: Date, samples: readonly Float64Array[]): Promise<void>;
  /** Samples that it finds again from `from` on, and bytes of data and index on disk after everything is merged. */
  finish(from: Date): Promise<{ samples: number; bytes: number }>;
  stop(): Promise<void>;
}

/** Bytes of the files in `folder` and below. */
function sizeOf(folder: string): number {
  return readdirSync(folder, { withFileTypes: true }).reduce((sum, entry) => {
    const path = join(folder, entry.name);
    return sum + (entry.isDirectory() ? sizeOf(path) : statSync(path).size);
  }, 0);
}

/** Starts it, or says why that cannot be. */
export async function startVictoriaMetrics(): Promise<VictoriaMetrics | string> {
  const folder = await mkdtemp(join(tmpdir(), "pgvigil-bench-"));
  const remove = () => rm(folder, { recursive: true, force: true });
  let version: string;
  try {
    chmodSync(folder, 0o755); // apt fetches as a user of its own
    const options: ExecFileSyncOptions = { cwd: folder, stdio: ["ignore", "pipe", "pipe"] };
    execFileSync("apt-get", ["download", "victoria-metrics"], options);
    const [file] = readdirSync(folder);
    version = file!.split("_")[1]!;
    execFileSync("dpkg", ["-x", file!, "package"], options);
  } catch (error) {
    await remove();
    return `Debian's package victoria-metrics cannot be had here: ${
      (error as Error).message.split("\n")[0]
    }`;
  }

  const data = join(folder, "data");
  await mkdir(data);
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const server = spawn(join(folder, "package/usr/bin/victoria-metrics"), [
    `-storageDataPath=${data}`,
    `-httpListenAddr=127.0.0.1:${port}`,
    "-retentionPeriod=100y",
    "-memory.allowedPercent=20",
  ], { stdio: "ignore" });
  const kill = () => server.kill("SIGKILL");
  process.on("exit", kill);
  const stop = async () => {
    process.off("exit", kill);
    if (server.pid) await endProcess(server.pid, [["SIGINT", 20], ["SIGKILL", 5]]);
    await remove();
  };
  const ask = async (path: string, body?: string) => {
    const response = await fetch(
      `${url}${path}`,
      body === undefined ? {} : { method: "POST", body },
    );
    const text = await response.text();
    if (!response.ok) throw new Error(`VictoriaMetrics answered ${response.status}: ${text}`);
    return text;
  };
  const isUp = await poll(() => ask("/health").then(() => true, () => undefined), 20);
  if (!isUp) {
    await stop();
    return "VictoriaMetrics does not start here";
  }

  return {
    version,
    stop,
    addDay: async (start, samples) => {
      const step = DAY_MS / samples[0]!.length;
      const timestamps = Array.from(samples[0]!, (_, at) => start.getTime() + at * step).join();
      for (let first = 0; first < samples.length; first += 100) {
        const lines = samples.slice(first, first + 100).map((values, index) => {
          const { metric, labels } = describeSeries(first + index);
          const name = JSON.stringify({ __name__: metric, ...labels });
          return `{"metric":${name},"values":[${values.join()}],"timestamps":[${timestamps}]}\n`;
        });
        await ask("/api/v1/import", lines.join(""));
      }
    },
    finish: async (from) => {
      await ask("/internal/force_flush");
      await ask("/internal/force_merge");
      const sizes = () => sizeOf(join(data, "data")) + sizeOf(join(data, "indexdb"));
      let [bytes, since] = [0, performance.now()];
      // Merging goes on in the background: done when nothing changes for three seconds.
      await poll(() => {
        let now = bytes;
        try {
          now = sizes();
        } catch {
          now = -1; // a part went while it was looked at
        }
        if (now !== bytes) [bytes, since] = [now, performance.now()];
        return performance.now() - since > 3000 ? true : undefined;
      }, 120);
      const answer = await ask(
        `/api/v1/query?query=${
          encodeURIComponent('sum(count_over_time({__name__=~"bench_.*"}[101d]))')
        }&time=${from.getTime() / 1000 + 100 * 86_400}`,
      );
      return { samples: Number(JSON.parse(answer).data.result[0]?.value[1] ?? 0), bytes };
    },
  };
}
