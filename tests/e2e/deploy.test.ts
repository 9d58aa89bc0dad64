import { type ChildProcess, execFile, spawn } from "node:child_process";
import { copyFile, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { denoBinary, denoEnvironment, supabaseBinary } from "../../local/binaries.ts";
import { freePort } from "../../local/processes.ts";
import { startManagementApi } from "./management-api.ts";

const ROOT = resolve(import.meta.dirname, "../..");
/** Shaped as the CLI demands; it opens nothing. */
const TOKEN = `sbp_${"0123456789".repeat(4)}`;
const run = promisify(execFile);

let folder: string;
let api: Awaited<ReturnType<typeof startManagementApi>>;
let names: string[];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "pgvigil-deploy-"));
  api = await startManagementApi(join(folder, "uploaded"), TOKEN);
  names = (await readdir(join(ROOT, "supabase/functions"), { withFileTypes: true }))
    .filter((entry) => entry.isDirectory() && !entry.name.startsWith("_"))
    .map(({ name }) => name);

  const profile = join(folder, "profile.yaml");
  const keys = ["api_url", "dashboard_url", "docs_url"].map((key) => `${key}: ${api.url}`);
  await writeFile(
    profile,
    ["name: local", ...keys, "project_host: 127.0.0.1", "studio_image: none", ""].join("\n"),
  );
  await run(supabaseBinary(), [
    ...["functions", "deploy", "--use-api", "--yes"],
    ...["--profile", profile, "--remote=abcdefghijklmnopqrst", "--workdir", ROOT],
  ], { env: { ...process.env, SUPABASE_ACCESS_TOKEN: TOKEN, DO_NOT_TRACK: "1" }, cwd: folder });
});

afterAll(async () => {
  await api?.stop();
  await rm(folder, { recursive: true, force: true });
});

/** Boots what was uploaded for `slug` under Deno, with no other file of the project but the installed packages. */
async function boot(
  slug: string,
): Promise<{ url: string; child: ChildProcess; log: () => string }> {
  const deployment = api.deployments.find((candidate) => candidate.slug === slug)!;
  // The platform downloads packages; here they are taken from where they are installed.
  await symlink(join(ROOT, "node_modules"), join(deployment.folder, "node_modules"));
  await copyFile(join(ROOT, "package.json"), join(deployment.folder, "package.json"));

  const port = await freePort();
  const child = spawn(denoBinary(), [
    ...["serve", "--no-prompt", "--cached-only", "--node-modules-dir=manual", "--no-lock"],
    ...["--allow-net", "--allow-env", `--allow-read=${deployment.folder},${ROOT}/node_modules`],
    ...[
      "--host",
      "127.0.0.1",
      "--port",
      String(port),
      "--config",
      deployment.importMap,
      deployment.entrypoint,
    ],
  ], {
    cwd: deployment.folder,
    env: {
      ...denoEnvironment(),
      PATH: process.env.PATH,
      SUPABASE_URL: "http://127.0.0.1:9",
      SUPABASE_SECRET_KEYS: JSON.stringify({
        default: "sb_secret_default",
        cron: "sb_secret_cron",
      }),
      SUPABASE_PUBLISHABLE_KEYS: JSON.stringify({ default: "sb_publishable_default" }),
    },
  });
  let log = "";
  child.stdout.on("data", (chunk) => (log += chunk));
  child.stderr.on("data", (chunk) => (log += chunk));
  await new Promise<void>((ready, failed) => {
    child.stderr.on("data", () => log.includes("Listening") && ready());
    child.on("close", () => failed(new Error(`${slug} did not boot:\n${log}`)));
  });
  return { url: `http://127.0.0.1:${port}/${slug}`, child, log: () => log };
}

describe("supabase functions deploy --use-api", () => {
  it("uploads every function with its own settings, and nothing was asked in vain", () => {
    expect(api.deployments.map(({ slug }) => slug).toSorted()).toEqual(names.toSorted());
    expect(api.deployments.every(({ verifyJwt }) => verifyJwt === false)).toBe(true);
    expect(api.live.toSorted()).toEqual(names.toSorted());
    expect(api.refused).toEqual([]);
  });

  it("uploads no test, no secret and no lock file newer than version 4", async () => {
    for (const { files, folder: target } of api.deployments) {
      for (const file of files) {
        expect(file).toMatch(/^(supabase\/functions|shared)\/.+\.(ts|json)$/);
        const text = await readFile(join(target, file), "utf8");
        expect(text).not.toMatch(/sb_secret_[A-Za-z0-9_-]{20,}/);
      }
    }
  });

  it("uploads files from which every function boots on its own and answers", async () => {
    for (const slug of names) {
      const { url, child, log } = await boot(slug);
      try {
        const response = slug === "health"
          ? await fetch(`${url}?check=live`)
          : await fetch(url, { method: "POST", body: "{}" });
        expect([slug, response.status, log()]).toEqual([
          slug,
          slug === "health" ? 200 : 401,
          log(),
        ]);
        const type = response.headers.get("content-type");
        expect(type).toMatch(slug === "health" ? "application/json" : "application/problem+json");
        await response.body?.cancel();
      } finally {
        child.kill();
      }
    }
  });
});
