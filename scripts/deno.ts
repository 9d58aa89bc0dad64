/** Runs the project's own Deno: `npm run format`, or `npx tsx scripts/deno.ts <arguments>`. */
import { spawnSync } from "node:child_process";
import process from "node:process";
import { denoBinary, denoEnvironment } from "../local/binaries.ts";

const [command = "", ...rest] = process.argv.slice(2);
// Else the settings are those of the folder of the first file, and a function's has none.
const settings = command === "fmt" ? ["--config", "deno.json"] : [];

const { status } = spawnSync(denoBinary(), [command, ...settings, ...rest], {
  stdio: "inherit",
  env: { ...process.env, ...denoEnvironment() },
});
process.exitCode = status ?? 1;
