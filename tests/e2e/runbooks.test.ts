/** The commands of docs/runbooks for curl and npm, on a stack. Their SQL runs in tests/database. */
import { execFile } from "node:child_process";
import { readdirSync, readFileSync, symlinkSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { PROJECT_ROOT } from "../../local/binaries.ts";
import { startTestStack, type TestStack } from "../stack.ts";

const PAGES = join(PROJECT_ROOT, "docs/runbooks");

interface Command {
  readonly where: string;
  readonly code: string;
}

/** All that is no example. */
const COMMANDS: Command[] = readdirSync(PAGES).toSorted().flatMap((page) => {
  const text = readFileSync(join(PAGES, page), "utf8");
  return [...text.matchAll(/^( *)```sh\n([\s\S]*?)^ *```$/gm)].map((match) => ({
    where: `${page}:${text.slice(0, match.index).split("\n").length}`,
    code: match[2]!.replaceAll(new RegExp(`^${match[1]}`, "gm"), ""),
  }));
});
const SET_UP = COMMANDS.find(({ code }) => code.includes("stack.json"))!;
const OTHERS = COMMANDS.filter((command) => command !== SET_UP);

let stack: TestStack;
let folder: string;

beforeAll(async () => {
  stack = await startTestStack();
  folder = await mkdtemp(join(tmpdir(), "pgvigil-runbooks-"));
  await mkdir(join(folder, ".local"));
  await writeFile(join(folder, ".local/stack.json"), JSON.stringify(stack.facts));
  // The folder of the project but for its own stack, if one runs.
  for (const name of ["package.json", "node_modules", "scripts", "shared", "supabase", "local"]) {
    symlinkSync(join(PROJECT_ROOT, name), join(folder, name));
  }
});

afterAll(async () => {
  await stack?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** Runs a command as a reader does who has set up what README.md says. Never throws. */
function run({ code }: Command): Promise<{ status: number; output: string }> {
  return new Promise((resolve) => {
    const script = `${SET_UP.code}\n${code}`;
    const env = { PATH: process.env.PATH, HOME: process.env.HOME };
    const options = { cwd: folder, env };
    execFile("bash", ["-euo", "pipefail", "-c", script], options, (error, stdout, stderr) => {
      const status = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
      resolve({ status, output: stdout + stderr });
    });
  });
}

/** What a command of this kind prints when it does what the page says. */
function expectedOf({ code }: Command): RegExp {
  if (code.startsWith("npm run doctor")) return /\d+ ok, .* failed/;
  if (code.startsWith("npm run rules")) return /as they were/;
  if (code.startsWith("npm run notify-test")) return /^alert +(sent|delivered)$/m;
  if (code.includes("-w '%{http_code}") && code.includes("receive-mail-events")) return /^401$/m;
  if (code.includes("-w ")) return /^(200\b|connect [\d.]+)/m;
  if (code.includes("/prometheus/")) return /"status":"success"/;
  if (code.includes("/ingest-metrics")) return /"inserted":1/;
  if (code.includes("/health")) return /"overall":"\w+"/;
  // A run that is under way does the same.
  return /"outcome":"succeeded"|urn:pgvigil:problem:overlap/;
}

describe("a command of docs/runbooks", () => {
  it("is there for what SQL cannot do", () => {
    expect(SET_UP.where).toMatch(/^README\.md:/);
    expect(OTHERS.length).toBeGreaterThan(20);
  });

  it.each(OTHERS)("runs: $where", async (command) => {
    const { status, output } = await run(command);
    expect(output).toMatch(expectedOf(command));
    expect(output.split("\n").filter((line) => line.startsWith("failed "))).toEqual([]);
    // The doctor says by its status that it does not know everything yet.
    expect(command.code.startsWith("npm run doctor") ? [0, 2] : [0]).toContain(status);
    expect(output).not.toMatch(/"status":"error"|command not found|No such file/);
  });
});

describe("a runbook", () => {
  it("is shown by the stack where alerts link it", async () => {
    const response = await fetch(`${stack.facts.api_url}/runbooks/partner-api-down.md`);
    expect([response.status, await response.text()])
      .toEqual([200, readFileSync(join(PAGES, "partner-api-down.md"), "utf8")]);
  });
});
