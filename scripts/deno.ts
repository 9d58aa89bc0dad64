/** Runs the project's own Deno: `npm run format`, or `npx tsx scripts/deno.ts <arguments>`. */
import { spawnSync } from "node:child_process";
import process from "node:process";
import { denoBinary, denoEnvironment } from "../local/binaries.ts";

const { status } = spawnSync(denoBinary(), process.argv.slice(2), {
  stdio: "inherit",
  env: { ...process.env, ...denoEnvironment() },
});
process.exitCode = status ?? 1;
