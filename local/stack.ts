/** The whole stack: starts its parts in order, and stops them in the opposite one. */
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";
import pg from "pg";
import { createApi } from "./api.ts";
import { PROJECT_ROOT } from "./binaries.ts";
import {
  applyMigrations,
  bootstrapDatabase,
  type Database,
  startDatabase,
  stopLeftoverDatabase,
} from "./database.ts";
import { startFunctions, stopLeftoverFunctions } from "./functions.ts";
import { startGateway } from "./gateway.ts";
import { startInbox } from "./inbox.ts";
import { writeJsonFile } from "./json-file.ts";
import { type Keys, readKeys } from "./keys.ts";
import { assertPortFree } from "./processes.ts";
import { StackError } from "./stack-error.ts";
import { ensureSomebodyIsTold } from "./telling.ts";
import { createWorker } from "./worker.ts";

/** Options of {@link startStack}. */
export interface StackOptions {
  /** Holds `supabase/migrations` and `supabase/functions`. @default {the project this file is in} */
  root?: string;
  /** Keeps all that the stack writes. @default {`.local` in `root`} */
  folder?: string;
  /** Of the gateway; Postgres has the next one, inbox and functions the third and fourth. @default {54321} */
  port?: number;
  /** Throws away data and keys first. */
  reset?: boolean;
  /** A server to use instead of one of its own. */
  database?: Omit<Database, "stop">;
  /** False where a real pg_cron runs the jobs. @default {true} */
  cron?: boolean;
  /** See {@link GatewayOptions}. */
  wallTime?: number;
  /** Gives up starting; a running stack is stopped by {@link Stack.stop} alone. */
  signal?: AbortSignal;
  /** Told what is being done, and what went wrong without being the end. */
  progress?(line: string): void;
  /** Called when the stack cannot go on. It is still to be stopped. */
  onFailure?(error: Error): void;
}

/** What one needs to know to use a running stack; also the content of `stack.json`. */
export interface Facts {
  readonly api_url: string;
  readonly rest_url: string;
  readonly functions_url: string;
  readonly inbox_url: string;
  /** As `postgres`. */
  readonly db_url: string;
  /** As the superuser. */
  readonly admin_db_url: string;
  readonly publishable_key: string;
  readonly secret_key: string;
  readonly cron_key: string;
  readonly cron_next_key: string;
  readonly admin_email: string;
  readonly admin_password: string;
  /** Opens the inbox for mails. */
  readonly resend_api_key: string;
  /** Signs what the inbox tells of mails. */
  readonly resend_webhook_secret: string;
  readonly pid: number;
}

/** A running stack. */
export interface Stack {
  readonly facts: Facts;
  stop(): Promise<void>;
}

/** What `lock.json` keeps of a running stack, for the next start to find. */
interface Lock {
  pid: number;
  api_url: string;
  functions_pid?: number;
}

/** All that a stack writes; what is not listed here is not ours to remove. */
const FILES = [
  ...["data", "data.new", "keys.json", "inbox.json", "lock.json", "stack.json"],
  ...["postgres.log", "api.log", "functions.log", "password.tmp"],
];

/** Whether the gateway at `url` is that of the stack in `folder`. */
async function isServing(url: string, folder: string): Promise<boolean> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(2000) });
    return (await response.json()).folder === folder;
  } catch {
    return false;
  }
}

/**
 * Ends what an earlier start left behind when it was killed.
 *
 * @throws {StackError} if it was not killed at all and still serves.
 */
async function clearLeftovers(folder: string, progress: (line: string) => void): Promise<void> {
  const path = join(folder, "lock.json");
  const lock: Lock | undefined = existsSync(path)
    ? JSON.parse(readFileSync(path, "utf8"))
    : undefined;
  if (lock && await isServing(lock.api_url, folder)) {
    throw new StackError(
      `The stack is already running (pid ${lock.pid}) at ${lock.api_url}\n` +
        `Use it, or stop it with Ctrl-C where it was started, or: kill ${lock.pid}`,
    );
  }
  if (lock?.functions_pid && await stopLeftoverFunctions(lock.functions_pid)) {
    progress(`Stopped the functions that an earlier start left behind (pid ${lock.functions_pid})`);
  }
  const pid = await stopLeftoverDatabase(folder);
  if (pid) progress(`Stopped the Postgres that an earlier start left behind (pid ${pid})`);
  for (const file of ["lock.json", "stack.json"]) rmSync(join(folder, file), { force: true });
}

/** Stores the Vault secrets by which cron finds and opens the functions. */
async function storeVaultSecrets(
  client: pg.Client,
  secrets: Record<string, string>,
): Promise<void> {
  for (const [name, value] of Object.entries(secrets)) {
    const { rows: [secret] } = await client.query(
      "select id, decrypted_secret from vault.decrypted_secrets where name = $1",
      [name],
    );
    if (!secret) await client.query("select vault.create_secret($1, $2)", [value, name]);
    else if (secret.decrypted_secret !== value) {
      await client.query("select vault.update_secret($1, $2)", [secret.id, value]);
    }
  }
}

/** Makes sure that there is a user who may administer, by signing up as a person would. */
async function ensureAdmin(client: pg.Client, keys: Keys, apiUrl: string): Promise<void> {
  const findUser = async () => {
    const { rows } = await client.query("select id from auth.users where email = $1", [
      keys.admin_email,
    ]);
    return rows[0]?.id as string | undefined;
  };
  if (!await findUser()) {
    const response = await fetch(`${apiUrl}/auth/v1/signup`, {
      method: "POST",
      headers: { apikey: keys.publishable_key, "content-type": "application/json" },
      body: JSON.stringify({ email: keys.admin_email, password: keys.admin_password }),
    });
    if (!response.ok) throw new Error(`Cannot sign the admin up: ${await response.text()}`);
  }
  const { rows: [admins] } = await client.query("select to_regclass('monitor.admins') as found");
  if (!admins.found) return;
  await client.query(
    "insert into monitor.admins (user_id, added_by) values ($1, 'npm start') on conflict do nothing",
    [await findUser()],
  );
}

/**
 * Starts the stack and resolves when it serves and every schedule is being run once.
 *
 * @throws {StackError} with the way out; what had been started is stopped.
 * @throws {DOMException} `AbortError` when told to give up.
 */
export async function startStack(options: StackOptions = {}): Promise<Stack> {
  const { port = 54321, cron = true, progress = () => {}, onFailure = () => {} } = options;
  const root = resolve(options.root ?? PROJECT_ROOT);
  const folder = resolve(options.folder ?? join(root, ".local"));
  const apiUrl = `http://127.0.0.1:${port}`;
  const inboxUrl = `http://127.0.0.1:${port + 3}`;
  const functionsPort = port + 4;

  await clearLeftovers(folder, progress);
  if (options.reset) {
    try {
      for (const file of FILES) rmSync(join(folder, file), { recursive: true, force: true });
    } catch (error) {
      throw new StackError(
        `Cannot start over: ${(error as Error).message}\nTry: sudo rm -rf ${folder}`,
      );
    }
    progress(`Removed the data in ${folder}`);
  }

  /** What has been started, to be stopped in the opposite order. */
  const started: (() => void | Promise<void>)[] = [];
  let stopped: Promise<void> | undefined;
  const stop = () =>
    stopped ??= (async () => {
      for (const stopPart of started.toReversed()) {
        try {
          await stopPart();
        } catch (error) {
          progress(`While stopping: ${(error as Error).message}`);
        }
      }
    })();

  const step = (line: string) => {
    options.signal?.throwIfAborted();
    progress(line);
  };
  try {
    step("Taking the ports");
    const gateway = await startGateway({
      port,
      functionsPort,
      ...(options.wallTime && { wallTime: options.wallTime }),
      identity: {
        name: "pgvigil local stack",
        folder,
        pid: process.pid,
        rest_url: `${apiUrl}/rest/v1`,
        auth_url: `${apiUrl}/auth/v1`,
        functions_url: `${apiUrl}/functions/v1`,
        inbox_url: inboxUrl,
      },
    });
    started.push(gateway.close);
    if (!options.database) await assertPortFree(port + 1, "Postgres");
    await assertPortFree(port + 3, "inbox");
    await assertPortFree(functionsPort, "functions");

    const keys = readKeys(folder);
    const lock: Lock = { pid: process.pid, api_url: apiUrl };
    const writeLock = () => writeJsonFile(join(folder, "lock.json"), lock);
    writeLock();
    started.push(() => {
      for (const file of ["stack.json", "lock.json"]) rmSync(join(folder, file), { force: true });
    });

    const inbox = await startInbox({
      port: port + 3,
      path: join(folder, "inbox.json"),
      apiKey: keys.resend_api_key,
      events: {
        url: `${apiUrl}/functions/v1/receive-mail-events`,
        secret: keys.resend_webhook_secret,
      },
    });
    started.push(inbox.close);

    let database = options.database;
    if (database) {
      step("Preparing the database");
      await bootstrapDatabase(database.adminUrl, new URL(database.url).password);
    } else {
      step("Starting Postgres");
      const own = await startDatabase({
        folder,
        port: port + 1,
        onExit: () =>
          onFailure(
            new StackError(`Postgres has stopped by itself. See ${join(folder, "postgres.log")}`),
          ),
      });
      started.push(own.stop);
      database = own;
    }

    step("Applying the migrations");
    const applied = await applyMigrations(database.url, root);
    if (applied) progress(`Applied ${applied} migrations`);

    step("Starting the API and the functions");
    const api = await createApi({
      adminUrl: database.adminUrl,
      keys,
      apiUrl,
      inboxUrl: `${inboxUrl}/auth`,
      log: join(folder, "api.log"),
    });
    started.push(api.close);
    const functions = await startFunctions({
      root,
      log: join(folder, "functions.log"),
      port: functionsPort,
      environment: {
        SUPABASE_URL: apiUrl,
        SUPABASE_SECRET_KEYS: JSON.stringify({
          default: keys.secret_key,
          cron: keys.cron_key,
          cron_next: keys.cron_next_key,
        }),
        SUPABASE_PUBLISHABLE_KEYS: JSON.stringify({ default: keys.publishable_key }),
        RESEND_API_KEY: keys.resend_api_key,
        RESEND_BASE_URL: inboxUrl,
        RESEND_WEBHOOK_SECRET: keys.resend_webhook_secret,
        PGVIGIL_MAIL_FROM: "pgvigil <alerts@example.com>",
        // Or nothing on this machine could be told of an alert.
        PGVIGIL_ALLOW_LOOPBACK: "1",
        ...Object.fromEntries(
          Object.entries(process.env).filter(([name]) => name.startsWith("PGVIGIL_")),
        ),
      } as Record<string, string>,
      onStart(pid) {
        lock.functions_pid = pid;
        writeLock();
      },
      onCrash: (reason) =>
        progress(`The functions have stopped by themselves (${reason}); starting them again`),
    });
    started.push(functions.stop);
    for (const [name, message] of Object.entries(functions.states)) {
      if (message) {
        progress(
          `Function ${name} does not start: ${message} (more in ${join(folder, "functions.log")})`,
        );
      }
    }
    gateway.open(api.fetch);
    started.push(gateway.shut);

    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    try {
      await storeVaultSecrets(client, { project_url: apiUrl, cron_secret_key: keys.cron_key });
      await ensureAdmin(client, keys, apiUrl);
      await ensureSomebodyIsTold(client, keys.admin_email, `${apiUrl}/runbooks`);
    } finally {
      await client.end();
    }

    const facts: Facts = {
      api_url: apiUrl,
      rest_url: `${apiUrl}/rest/v1`,
      functions_url: `${apiUrl}/functions/v1`,
      inbox_url: inboxUrl,
      db_url: database.url,
      admin_db_url: database.adminUrl,
      publishable_key: keys.publishable_key,
      secret_key: keys.secret_key,
      cron_key: keys.cron_key,
      cron_next_key: keys.cron_next_key,
      admin_email: keys.admin_email,
      admin_password: keys.admin_password,
      resend_api_key: keys.resend_api_key,
      resend_webhook_secret: keys.resend_webhook_secret,
      pid: process.pid,
    };

    step(cron ? "Running every schedule once" : "Leaving the schedules to pg_cron");
    const worker = await createWorker({ adminUrl: database.adminUrl, cron, log: progress });
    started.push(worker.stop);
    await worker.start(() => new Date());
    options.signal?.throwIfAborted();
    writeJsonFile(join(folder, "stack.json"), facts);
    return { facts, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
