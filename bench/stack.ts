import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Facts, startStack } from "../local/stack.ts";

/** Runs `measure` against a fresh stack on ports of its own, without cron running beside it. */
export async function withStack<T>(
  port: number,
  measure: (facts: Facts) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "pgvigil-bench-"));
  const stack = await startStack({ folder, port, cron: false });
  try {
    return await measure(stack.facts);
  } finally {
    await stack.stop();
    await rm(folder, { recursive: true, force: true });
  }
}
