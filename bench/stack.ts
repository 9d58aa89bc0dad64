import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Facts, startStack } from "../local/stack.ts";

/** A running stack, and where it keeps its files. */
export interface StackFolder {
  readonly facts: Facts;
  readonly folder: string;
}

/** What one call of a function came to. */
export interface MeasuredCall {
  readonly answer: Record<string, unknown>;
  readonly milliseconds: number;
  /** Of the process of the functions, all its threads, in ms; null where there is no /proc. */
  readonly cpu: number | null;
}

/** Calls a function as an admin does by hand. */
export async function callMeasured(
  { facts, folder }: StackFolder,
  name: string,
  body: object = {},
): Promise<MeasuredCall> {
  const { functions_pid: pid } = JSON.parse(readFileSync(join(folder, "lock.json"), "utf8"));
  const cpuBefore = readCpu(pid);
  const startedAt = performance.now();
  const response = await fetch(`${facts.functions_url}/${name}`, {
    method: "POST",
    headers: { apikey: facts.secret_key, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const answer = await response.json();
  const milliseconds = performance.now() - startedAt;
  const cpuAfter = readCpu(pid);
  const cpu = cpuBefore === null || cpuAfter === null ? null : cpuAfter - cpuBefore;
  return { answer, milliseconds, cpu };
}

function readCpu(pid: number): number | null {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ");
    return (Number(fields[11]) + Number(fields[12])) * 10; // in ticks of 1/100 s
  } catch {
    return null;
  }
}

/** Runs `measure` against a fresh stack on ports of its own, without cron running beside it unless it is asked for. */
export async function withStack<T>(
  port: number,
  measure: (facts: Facts, stack: StackFolder) => Promise<T>,
  { cron = false } = {},
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "pgvigil-bench-"));
  const stack = await startStack({ folder, port, cron });
  try {
    return await measure(stack.facts, { facts: stack.facts, folder });
  } finally {
    await stack.stop();
    await rm(folder, { recursive: true, force: true });
  }
}
