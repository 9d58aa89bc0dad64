/** The Postgres of the stack: a real server in a folder of its own, set up as a hosted project is. */
import { type ChildProcess, execFile, spawn, spawnSync } from "node:child_process";
import {
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import pg from "pg";
import {
  embeddedPostgres,
  type PostgresInstallation,
  PROJECT_ROOT,
  supabaseBinary,
} from "./binaries.ts";
import { readKeys } from "./keys.ts";
import { loadLite } from "./lite.ts";
import { commandLine, endProcess, freePort, poll } from "./processes.ts";
import { StackError } from "./stack-error.ts";

/** A running database. */
export interface Database {
  /** As `postgres`, who owns everything of ours and is no superuser, as hosted. */
  readonly url: string;
  /** As the superuser `supabase_admin`. */
  readonly adminUrl: string;
  /** Stops the server; open connections are ended. */
  stop(): Promise<void>;
}

/** Options of {@link startDatabase}. */
export interface DatabaseOptions {
  /** Keeps data, keys and log; made if it is not there. */
  folder: string;
  /** Loopback only. @default {any free port} */
  port?: number;
  /** @default {the one that npm installed} */
  installation?: PostgresInstallation;
  /** Of the server, beside ours. */
  settings?: Record<string, string>;
  /** Called when the server ends without having been stopped. */
  onExit?(): void;
}

/** How a server program is started: as ourselves, or under another name if we are root. */
interface Launcher {
  /** Comes before the command. */
  readonly prefix: readonly string[];
  /** Whom the data must belong to, if not us. */
  readonly owner?: number;
  readonly identity: { uid?: number; gid?: number };
}

/** The user `nobody` of Linux: what Postgres runs as when we are root, which it refuses to be. */
const NOBODY = 65534;

/** Takes root's identity away but keeps the right to reach into closed folders, such as a home of mode 0700. */
const SETPRIV = [
  ...["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"],
  ...["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"],
];

/** @throws {StackError} if we are root and `nobody` cannot reach the program or the data. */
function chooseLauncher(program: string, folder: string): Launcher {
  if (process.getuid?.() !== 0) return { prefix: [], identity: {} };

  const [setpriv, ...flags] = SETPRIV;
  if (spawnSync(setpriv!, [...flags, program, "--version"]).status === 0) {
    return { prefix: SETPRIV, owner: NOBODY, identity: {} };
  }
  for (const path of [folder, dirname(program)]) {
    for (let parent = path; parent !== dirname(parent); parent = dirname(parent)) {
      if (statSync(parent).mode & 0o001) continue;
      throw new StackError(
        `Postgres refuses to run as root, and the user nobody cannot reach ${parent}.\n` +
          "Run npm start as an ordinary user, or install setpriv (package util-linux).",
      );
    }
  }
  return { prefix: [], owner: NOBODY, identity: { uid: NOBODY, gid: NOBODY } };
}

/** Makes the data folder. It gets its name at the end, so that a half-made one is never taken for data. */
function initializeData(
  initdb: string,
  folder: string,
  password: string,
  launcher: Launcher,
): void {
  const [unfinished, passwordFile] = [join(folder, "data.new"), join(folder, "password.tmp")];
  rmSync(unfinished, { recursive: true, force: true });
  mkdirSync(unfinished, { mode: 0o700 });
  writeFileSync(passwordFile, password, { mode: 0o600 });
  if (launcher.owner !== undefined) {
    for (const path of [unfinished, passwordFile]) chownSync(path, launcher.owner, launcher.owner);
  }
  const [command, ...args] = [
    ...[...launcher.prefix, initdb, "-D", unfinished, "-U", "supabase_admin", "-E", "UTF8"],
    ...["--locale=C", "-A", "scram-sha-256", `--pwfile=${passwordFile}`, "--no-sync"],
  ];
  const made = spawnSync(command!, args, {
    encoding: "utf8",
    cwd: unfinished,
    ...launcher.identity,
  });
  rmSync(passwordFile);
  if (made.status !== 0) {
    throw new StackError(
      `Cannot make a database in ${folder}:\n${made.error?.message ?? made.stdout + made.stderr}`,
    );
  }
  renameSync(unfinished, join(folder, "data"));
}

/** Copies the stand-ins for extensions into the server, where they differ. @throws {StackError} if it is not ours to write. */
function installStandIns({ extensions, standIns }: PostgresInstallation): void {
  const source = join(import.meta.dirname, "extensions");
  for (
    const file of readdirSync(source).filter((name) => standIns.includes(name.split(/--|\./)[0]!))
  ) {
    const [content, target] = [readFileSync(join(source, file)), join(extensions, file)];
    if (existsSync(target) && readFileSync(target).equals(content)) continue;
    // By rename: another start may be reading it in this moment.
    const draft = `${target}.${process.pid}`;
    try {
      writeFileSync(draft, content);
      renameSync(draft, target);
    } catch (error) {
      throw new StackError(`Cannot add ${file} to Postgres: ${(error as Error).message}`);
    }
  }
}

/** @throws {StackError} if the data in `folder` cannot be served by this program under this user. */
function checkData(data: string, major: string, owner: number): void {
  const { uid } = statSync(data);
  if (uid !== owner) {
    throw new StackError(
      `The data in ${data} belong to another user (uid ${uid}), most likely because npm start was once run by root.\n` +
        `Give them to this user: sudo chown -R "$(id -u)" ${dirname(data)}`,
    );
  }
  const made = readFileSync(join(data, "PG_VERSION"), "utf8").trim();
  if (made !== major) {
    throw new StackError(
      `The data in ${data} were made by Postgres ${made}; this is Postgres ${major}, which cannot read them.\n` +
        "Start over with: npm start -- --reset",
    );
  }
}

/** What Postgres logged last, for an error message. */
function logTail(path: string): string {
  return readFileSync(path, "utf8").trimEnd().split("\n").slice(-8).join("\n");
}

/** Waits until the server lets us in. @throws {StackError} if it does not within 60 s (it may be recovering). */
async function waitUntilReady(adminUrl: string, server: ChildProcess, log: string): Promise<void> {
  let refusal = "";
  const isReady = await poll(async () => {
    if (server.exitCode !== null || server.signalCode !== null) return false;
    const client = new pg.Client({ connectionString: adminUrl });
    try {
      await client.connect();
      return true;
    } catch (error) {
      const { code, message } = error as { code?: string; message: string };
      refusal = message;
      return code === "28P01" ? false : undefined;
    } finally {
      await client.end().catch(() => {});
    }
  }, 60);
  if (!isReady) {
    throw new StackError(`Postgres does not start (${refusal}). It logged:\n${logTail(log)}`);
  }
}

/**
 * Starts Postgres on the data in `folder`, made if there are none, and gives it what a hosted project
 * has before its first migration.
 *
 * @throws {StackError} with the way out if the data, the program or the port do not allow it.
 */
export async function startDatabase(options: DatabaseOptions): Promise<Database> {
  const { installation = embeddedPostgres(), onExit } = options;
  const { initdb, postgres, major } = installation;
  const root = resolve(options.folder);
  const { database_password: password } = readKeys(root);
  const launcher = chooseLauncher(postgres, root);
  installStandIns(installation);

  const data = join(root, "data");
  if (!existsSync(data)) initializeData(initdb, root, password, launcher);
  checkData(data, major, launcher.owner ?? process.getuid!());

  const port = options.port ?? await freePort();
  const settings = {
    port,
    listen_addresses: "127.0.0.1",
    unix_socket_directories: "",
    timezone: "UTC",
    log_timezone: "UTC",
    wal_level: "logical", // as hosted
    ...options.settings,
  };
  const [command, ...args] = [
    ...[...launcher.prefix, postgres, "-D", data],
    ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]),
  ];
  const log = join(root, "postgres.log");
  const output = openSync(log, "w", 0o600);
  // In a process group of its own, so that Ctrl-C reaches us first and we stop it in order.
  const server = spawn(command!, args, {
    cwd: data,
    detached: true,
    stdio: ["ignore", output, output],
    ...launcher.identity,
  });
  closeSync(output);
  // However this process ends, except by SIGKILL, its server does not outlive it; data are safe with that.
  const endServer = () => server.kill("SIGQUIT");
  process.on("exit", endServer);
  let isServing = false;
  server.on("exit", () => {
    process.off("exit", endServer);
    if (isServing) onExit?.();
  });

  const login = (user: string) => `postgresql://${user}:${password}@127.0.0.1:${port}/postgres`;
  const stop = async () => {
    isServing = false;
    if (server.pid) await endProcess(server.pid, STOP_POSTGRES);
  };
  try {
    // Loading takes as long as the server: side by side.
    await Promise.all([waitUntilReady(login("supabase_admin"), server, log), loadLite()]);
    await bootstrapDatabase(login("supabase_admin"), password);
    isServing = true;
  } catch (error) {
    await stop();
    throw error;
  }
  return { url: login("postgres"), adminUrl: login("supabase_admin"), stop };
}

/** Fast shutdown, then an immediate one, then the end. In seconds. */
const STOP_POSTGRES = [["SIGINT", 10], ["SIGQUIT", 5], ["SIGKILL", 5]] as const;

/** Stops the server of an earlier start that ended without doing so. Returns its process id, if there was one. */
export async function stopLeftoverDatabase(folder: string): Promise<number | undefined> {
  const data = join(resolve(folder), "data");
  const lock = join(data, "postmaster.pid");
  if (!existsSync(lock)) return undefined;
  const pid = Number(readFileSync(lock, "utf8").split("\n")[0]);
  // After a restart of the machine the number may belong to anybody.
  if (!commandLine(pid)?.includes(data)) return undefined;
  await endProcess(pid, STOP_POSTGRES);
  return pid;
}

/** Gives a database what a hosted project has before its first migration. Run by the superuser, as often as one likes. */
export async function bootstrapDatabase(adminUrl: string, password: string): Promise<void> {
  const client = new pg.Client({ connectionString: adminUrl });
  await client.connect();
  try {
    await client.query((await loadLite()).getAuthSchemaSql());
    await client.query(readFileSync(join(import.meta.dirname, "bootstrap.sql"), "utf8"));
    await client.query(`alter role postgres password ${client.escapeLiteral(password)}`);
  } finally {
    await client.end();
  }
}

/** Versions of the migrations that `root` has and the database does not, and the other way round. */
async function readDifference(url: string, root: string): Promise<string[]> {
  const wanted = readdirSync(join(root, "supabase", "migrations"))
    .map((file) => /^(\d+)_.*\.sql$/.exec(file)?.[1])
    .filter((version) => version !== undefined);
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const { rows: [history] } = await client.query(
      "select to_regclass('supabase_migrations.schema_migrations') is not null as exists",
    );
    if (!history.exists) return wanted;
    const { rows } = await client.query<{ version: string }>(
      "select version from supabase_migrations.schema_migrations",
    );
    const applied = rows.map(({ version }) => version);
    return [
      ...wanted.filter((version) => !applied.includes(version)),
      ...applied.filter((version) => !wanted.includes(version)),
    ];
  } finally {
    await client.end();
  }
}

/**
 * Applies the migrations of the project in `root` with the Supabase CLI; asks it only if there is something to do.
 * Returns how many were applied.
 *
 * @throws {StackError} with what the CLI says.
 */
export async function applyMigrations(url: string, root = PROJECT_ROOT): Promise<number> {
  const difference = await readDifference(url, root);
  if (difference.length === 0) return 0;
  await new Promise<void>((applied, failed) => {
    execFile(
      supabaseBinary(),
      [
        "db",
        "push",
        `--remote=${url}`,
        "--yes",
        "--skip-vault",
        "--workdir",
        root,
        "--agent",
        "no",
      ],
      { env: { ...process.env, DO_NOT_TRACK: "1" } },
      (error, stdout, stderr) => {
        if (!error) return applied();
        const said = `${stdout}${stderr}`.replaceAll(url, "<database>").trim();
        failed(
          new StackError(
            `The migrations cannot be applied. The Supabase CLI says:\n${said}\n` +
              "If you edited one that was already applied, start over with: npm start -- --reset",
          ),
        );
      },
    );
  });
  return difference.length;
}

/** {@link startDatabase} with the migrations of the project applied. */
export async function startMigratedDatabase(
  { root = PROJECT_ROOT, ...options }: DatabaseOptions & { root?: string },
): Promise<Database> {
  const database = await startDatabase(options);
  try {
    await applyMigrations(database.url, root);
    return database;
  } catch (error) {
    await database.stop();
    throw error;
  }
}
