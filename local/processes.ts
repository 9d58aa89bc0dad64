/** Small questions about processes and ports, answered alike on Linux and macOS. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { StackError } from "./stack-error.ts";

/** The command line of a living process, or undefined. Tells a process of ours from a stranger that got its number. */
export function commandLine(pid: number): string | undefined {
  try {
    return process.platform === "linux"
      ? readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim() || undefined
      : execFileSync("ps", ["-o", "args=", "-p", String(pid)], { encoding: "utf8" }).trim();
  } catch {
    return undefined;
  }
}

/** Polls `condition` until it gives something, or `seconds` have gone. */
export async function poll<T>(
  condition: () => Promise<T | undefined> | T | undefined,
  seconds: number,
): Promise<T | undefined> {
  const deadline = performance.now() + seconds * 1000;
  for (;;) {
    const found = await condition();
    if (found !== undefined || performance.now() > deadline) return found;
    await sleep(20);
  }
}

/** Ends the process `pid`: sends each signal in turn and gives it its time, in seconds, to be gone. */
export async function endProcess(
  pid: number,
  signals: readonly (readonly [NodeJS.Signals, number])[],
): Promise<void> {
  for (const [signal, seconds] of signals) {
    try {
      process.kill(pid, signal);
    } catch {
      return;
    }
    if (await poll(() => commandLine(pid) === undefined ? true : undefined, seconds)) return;
  }
}

/** Who listens on `port`, as far as `lsof` or `ss` is there and may tell: "node (pid 42)". */
function portOwner(port: number): string | undefined {
  const run = (command: string, args: string[]) => {
    try {
      return execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    } catch {
      return "";
    }
  };
  const lsof = run("lsof", ["-nP", `-iTCP:${port}`, "-sTCP:LISTEN", "-Fpc"]);
  const ss = lsof ? "" : run("ss", ["-Hltnp", `sport = :${port}`]);
  const pid = /^p(\d+)/m.exec(lsof)?.[1] ?? /pid=(\d+)/.exec(ss)?.[1];
  const name = /^c(.+)/m.exec(lsof)?.[1] ?? /\(\("([^"]+)"/.exec(ss)?.[1];
  return pid && `${name ?? "a program"} (pid ${pid})`;
}

/** The error for a port that another program has. */
export function busyPort(port: number, purpose: string): StackError {
  return new StackError(
    `Port ${port} (${purpose}) is taken by ${portOwner(port) ?? "another program"}.\n` +
      "Stop it, or start on other ports: npm start -- --port 55321",
  );
}

/** Checks that nothing listens on `port` of this machine. @throws {StackError} naming who does. */
export async function assertPortFree(port: number, purpose: string): Promise<void> {
  const isFree = await new Promise<boolean>((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
  if (!isFree) throw busyPort(port, purpose);
}

/** A port of this machine that is free at the moment of asking. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/**
 * Does `work` with a signal that is given after `milliseconds`, as a TimeoutError, or with `stopping`. Not by `AbortSignal.any`:
 * in Node 20 it does not keep the time-out from the garbage collector, and then nothing ever ends.
 *
 * @see https://github.com/nodejs/node/issues/57736
 */
export async function withTimeout<Result>(
  milliseconds: number,
  stopping: AbortSignal,
  work: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const controller = new AbortController();
  const stop = () => controller.abort(stopping.reason);
  const timer = setTimeout(
    () => controller.abort(new DOMException("The operation timed out", "TimeoutError")),
    milliseconds,
  );
  if (stopping.aborted) stop();
  stopping.addEventListener("abort", stop);
  try {
    return await work(controller.signal);
  } finally {
    clearTimeout(timer);
    stopping.removeEventListener("abort", stop);
  }
}
