/** Keeps the Deno process that serves the edge functions alive. */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { denoBinary, denoEnvironment, PROJECT_ROOT } from "./binaries.ts";
import { commandLine, endProcess, poll } from "./processes.ts";
import { StackError } from "./stack-error.ts";

/** Options of {@link startFunctions}. */
export interface FunctionsOptions {
  /** Holds `supabase/functions`. */
  root: string;
  /** File that takes what functions print. */
  log: string;
  port: number;
  /** All that a function sees of the environment. */
  environment: Record<string, string>;
  /** Told the process id of each new process. */
  onStart(pid: number): void;
  /** Told when the process ended by itself; it is started again. */
  onCrash(reason: string): void;
}

/** The running functions. */
export interface Functions {
  /** Message of what keeps a function from starting, by its name; null for one that runs. */
  readonly states: Record<string, string | null>;
  stop(): Promise<void>;
}

const HOST = join(import.meta.dirname, "functions-host.ts");
const END = [["SIGTERM", 2], ["SIGKILL", 2]] as const;
/** A process that lived shorter than this is started again after a pause. In milliseconds. */
const SHORT_LIFE = 5000;

/**
 * Starts the functions and waits until each has started or failed to.
 *
 * @throws {StackError} if Deno itself does not start.
 */
export async function startFunctions(options: FunctionsOptions): Promise<Functions> {
  const { root, log, port, environment, onStart, onCrash } = options;
  const deno = denoBinary();
  const flags = [
    ...["run", "--node-modules-dir=manual", "--cached-only", "--no-lock", "--no-prompt"],
    ...["--allow-net", "--allow-env", `--allow-read=${PROJECT_ROOT},${root}`],
  ];
  closeSync(openSync(log, "w", 0o600));
  let child: ChildProcess;
  let isStopping = false;

  function start(): void {
    const startedAt = performance.now();
    const output = openSync(log, "a");
    child = spawn(deno, [...flags, HOST, join(root, "supabase", "functions"), String(port)], {
      cwd: PROJECT_ROOT,
      env: { ...denoEnvironment(), ...environment },
      detached: true, // Ctrl-C reaches us first
      stdio: ["pipe", output, output],
    });
    closeSync(output);
    child.stdin!.on("error", () => {}); // it ended; "exit" tells
    if (child.pid) onStart(child.pid);
    const end = () => child.kill("SIGKILL");
    process.on("exit", end);
    child.on("error", (error) => onCrash(error.message));
    child.on("exit", async (code, signal) => {
      process.off("exit", end);
      if (isStopping) return;
      onCrash(signal ?? `exit code ${code}`);
      if (performance.now() - startedAt < SHORT_LIFE) await sleep(1000, undefined, { ref: false });
      if (!isStopping) start();
    });
  }

  start();
  const stop = async () => {
    isStopping = true;
    if (child.pid) await endProcess(child.pid, END);
  };
  const states = await poll(async () => {
    try {
      const response = await fetch(`http://127.0.0.1:${port}/`, {
        signal: AbortSignal.timeout(10_000),
      });
      return await response.json() as Record<string, string | null>;
    } catch {
      return undefined;
    }
  }, 20);
  if (!states) {
    await stop();
    throw new StackError(`The functions do not start. See ${log}`);
  }
  return { states, stop };
}

/** Ends the functions of an earlier start that could not. Returns whether there was anything to end. */
export async function stopLeftoverFunctions(pid: number): Promise<boolean> {
  // After a restart of the machine the number may belong to anybody.
  if (!commandLine(pid)?.includes(HOST)) return false;
  await endProcess(pid, END);
  return true;
}
