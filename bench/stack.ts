import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Facts, startStack } from "../local/stack.ts";

/** A running stack, and where it keeps its files. */
export interface StackFolder {
  readonly facts: Facts;
  readonly folder: string;
}

/** Runs `measure` against a fresh stack on ports of its own, without cron running beside it. */
export async function withStack<T>(
  port: number,
  measure: (facts: Facts, stack: StackFolder) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "pgvigil-bench-"));
  const stack = await startStack({ folder, port, cron: false });
  try {
    return await measure(stack.facts, { facts: stack.facts, folder });
  } finally {
    await stack.stop();
    await rm(folder, { recursive: true, force: true });
  }
}
