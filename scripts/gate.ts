/**
 * The whole gate, `npm test`: format, lint, types for Node and Deno, generated files, then every test.
 * Static checks run side by side and all report; the tests run even when one of them failed, so that one run tells all.
 */
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import process from "node:process";
import { denoBinary, denoEnvironment } from "../local/binaries.ts";

interface Check {
  name: string;
  command: string;
  args: string[];
}

const DENO = denoBinary();
const NODE = process.execPath;
const TSX = ["--import", "tsx"];

const functions = readdirSync("supabase/functions", { withFileTypes: true })
  .filter((entry) => entry.isDirectory() && !entry.name.startsWith("_"))
  .map((entry) => `supabase/functions/${entry.name}/index.ts`);

const checks: Check[] = [
  { name: "format", command: DENO, args: ["fmt", "--check"] },
  { name: "lint", command: DENO, args: ["lint"] },
  { name: "types (Node)", command: NODE, args: ["node_modules/typescript/bin/tsc", "--noEmit"] },
  {
    name: "types (Deno)",
    command: DENO,
    args: ["check", "--node-modules-dir=manual", ...functions, "local/functions-host.ts"],
  },
  { name: "deno.json in step", command: NODE, args: [...TSX, "scripts/sync-deno.ts", "--check"] },
  {
    name: "schema.sql in step",
    command: NODE,
    args: [...TSX, "scripts/schema-snapshot.ts", "--check"],
  },
  {
    name: "otlp code in step",
    command: NODE,
    args: [...TSX, "scripts/generate-otlp.ts", "--check"],
  },
  {
    name: "metrics.md in step",
    command: NODE,
    args: [...TSX, "scripts/metrics-doc.ts", "--check"],
  },
  { name: "dashboards in step", command: NODE, args: [...TSX, "scripts/grafana.ts", "--check"] },
];

/** Runs one check and resolves to whether it passed; prints its output only when it did not. */
function run({ name, command, args }: Check): Promise<boolean> {
  const startedAt = performance.now();
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      env: { ...process.env, ...denoEnvironment() },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    child.stdout.on("data", (chunk) => (output += chunk));
    child.stderr.on("data", (chunk) => (output += chunk));
    child.on("error", (error) => (output += error.message));
    child.on("close", (code) => {
      const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
      console.log(`${code === 0 ? "ok    " : "FAILED"} ${name} (${seconds} s)`);
      if (code !== 0) console.log(output.trimEnd());
      resolve(code === 0);
    });
  });
}

/** Runs `items` two at a time: as many as the smallest supported machine has cores. */
async function runAll(items: readonly Check[]): Promise<boolean> {
  const waiting = [...items];
  let passed = true;
  const worker = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      passed = await run(next) && passed;
    }
  };
  await Promise.all([worker(), worker()]);
  return passed;
}

const staticPassed = await runAll(checks);
const tests = spawn(NODE, ["node_modules/vitest/vitest.mjs", "run"], { stdio: "inherit" });
const testCode = await new Promise<number>((resolve) =>
  tests.on("close", (code) => resolve(code ?? 1))
);
if (!staticPassed) console.log("0 passed, 1 failed: a check above the tests failed");
process.exitCode = staticPassed ? testCode : 1;
