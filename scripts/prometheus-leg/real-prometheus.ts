/** Debian's Prometheus: found or fetched, given samples, and started on a port of its own. */
import { execFileSync, type ExecFileSyncOptions, spawn } from "node:child_process";
import { chmodSync, createWriteStream, existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { endProcess, freePort, poll } from "../../local/processes.ts";
import { METRIC_NAME, type SampledSeries } from "../../shared/promql/series.ts";

/** Programs of Prometheus on this machine. */
export interface PrometheusPrograms {
  readonly prometheus: string;
  readonly promtool: string;
  /** E.g. `2.42.0`. */
  readonly version: string;
  /** Removes what was fetched. */
  remove(): Promise<void>;
}

/** A running Prometheus. */
export interface RealPrometheus {
  readonly url: string;
  stop(): Promise<void>;
}

/** Finds the programs, or fetches Debian's package without installing it; or says why that cannot be. */
export async function findPrometheus(): Promise<PrometheusPrograms | string> {
  const installed = programsIn("/");
  if (existsSync(installed.prometheus) && existsSync(installed.promtool)) {
    return withVersion(installed, async () => {});
  }
  const system = existsSync("/etc/os-release") ? readFileSync("/etc/os-release", "utf8") : "";
  if (!system.includes("VERSION_CODENAME=bookworm")) {
    return "prometheus and promtool are not in /usr/bin, and can only be fetched on Debian 12";
  }
  const folder = await mkdtemp(join(tmpdir(), "pgvigil-prometheus-"));
  const remove = () => rm(folder, { recursive: true, force: true });
  chmodSync(folder, 0o755); // apt fetches as a user of its own
  const options: ExecFileSyncOptions = { cwd: folder, stdio: ["ignore", "pipe", "pipe"] };
  const run = (command: string, ...args: string[]) => execFileSync(command, args, options);
  try {
    try {
      run("apt-get", "download", "prometheus");
    } catch {
      run("apt-get", "update"); // a bare system knows no packages
      run("apt-get", "download", "prometheus");
    }
    run("dpkg", "-x", readdirSync(folder).find((file) => file.endsWith(".deb"))!, "package");
    return withVersion(programsIn(join(folder, "package")), remove);
  } catch (error) {
    await remove();
    return `Debian's package prometheus cannot be had: ${(error as Error).message.split("\n")[0]}`;
  }
}

function programsIn(root: string) {
  const bin = join(root, "usr/bin");
  return { prometheus: join(bin, "prometheus"), promtool: join(bin, "promtool") };
}

function withVersion(
  programs: ReturnType<typeof programsIn>,
  remove: () => Promise<void>,
): PrometheusPrograms {
  const said = execFileSync(programs.prometheus, ["--version"], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
  });
  const version = /version ([\d.]+)/.exec(said)?.[1] ?? "unknown";
  return { ...programs, version, remove };
}

/** Starts Prometheus on `series`; `scrapeConfigs` are those of its configuration, in YAML. */
export async function startPrometheus(
  { prometheus, promtool }: PrometheusPrograms,
  { series, scrapeConfigs = "[]" }: {
    readonly series: readonly SampledSeries[];
    readonly scrapeConfigs?: string;
  },
): Promise<RealPrometheus> {
  const folder = await mkdtemp(join(tmpdir(), "pgvigil-prometheus-"));
  const remove = () => rm(folder, { recursive: true, force: true });
  try {
    await importSamples(promtool, series, folder);
  } catch (error) {
    await remove();
    throw error;
  }
  const config = join(folder, "prometheus.yml");
  await writeFile(config, `scrape_configs: ${scrapeConfigs}\n`);

  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const server = spawn(prometheus, [
    `--config.file=${config}`,
    `--storage.tsdb.path=${join(folder, DATA)}`,
    "--storage.tsdb.retention.time=100y",
    `--web.listen-address=127.0.0.1:${port}`,
    "--log.level=error",
  ], { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
  const kill = () => server.kill("SIGKILL");
  process.on("exit", kill);
  const stop = async () => {
    process.off("exit", kill);
    if (server.pid) await endProcess(server.pid, [["SIGTERM", 20], ["SIGKILL", 5]]);
    await remove();
  };
  const isReady = await poll(
    () => fetch(`${url}/-/ready`).then(({ ok }) => ok || undefined, () => undefined),
    60,
  );
  if (!isReady) {
    await stop();
    throw new Error("Prometheus does not get ready");
  }
  return { url, stop };
}

/** Within the folder of a server. */
const DATA = "data";

async function importSamples(
  promtool: string,
  series: readonly SampledSeries[],
  folder: string,
): Promise<void> {
  const samples = join(folder, "samples.txt");
  const data = join(folder, DATA);
  await mkdir(data);
  await pipeline(Readable.from(openMetrics(series)), createWriteStream(samples));
  const args = ["tsdb", "create-blocks-from", "openmetrics", "--quiet", samples, data];
  execFileSync(promtool, args, { stdio: ["ignore", "ignore", "inherit"] });
  await rm(samples);
}

/** Samples as OpenMetrics. */
function* openMetrics(series: readonly SampledSeries[]): Iterable<string> {
  for (const { labels, times, values } of series) {
    const { [METRIC_NAME]: metric, ...rest } = labels;
    const pairs = Object.entries(rest).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
    const name = `${metric}{${pairs.join()}}`;
    let lines = "";
    for (let i = 0; i < times.length; i += 1) {
      // Less than a millisecond is cut off: 0.4 of one keeps what 1767650407.003 × 1000 falls short of.
      lines += `${name} ${values[i]} ${times[i]! / 1000 + 0.0004}\n`;
    }
    yield lines;
  }
  yield "# EOF\n";
}
