/**
 * What pg_cron and pg_net do in processes of their own: runs the rows of `cron.job` when they are due, and sends the
 * requests of `net.http_request_queue`. Works on any database that has the tables.
 */
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { withTimeout } from "./processes.ts";

/** Options of {@link createWorker}. */
export interface WorkerOptions {
  /** A superuser: jobs run under the user that each of them names. */
  adminUrl: string;
  /** False where a real pg_cron runs the jobs: only requests are sent then. */
  cron: boolean;
  /** Told what goes wrong outside of a job or request, whose own errors are rows. */
  log(line: string): void;
}

/** The jobs and requests of one database. */
export interface Worker {
  /** Runs the jobs whose schedule names the minute of `at`, all at once; resolves when the last has ended. */
  runDueJobs(at: Date): Promise<void>;
  /** Sends what is queued; resolves when the last answer is stored. */
  sendRequests(): Promise<void>;
  /** Removes answers that are older than six hours at `at`, as pg_net does. */
  removeOldResponses(at: Date): Promise<void>;
  /**
   * Runs every active job once, whatever its schedule. From then on does all of this by itself: at each full minute of
   * `now()`, and when a request is queued.
   */
  start(now: () => Date): Promise<void>;
  /** Gives running jobs a moment, drops requests under way. Does nothing any more afterwards. */
  stop(): Promise<void>;
}

interface Job {
  jobid: string;
  username: string;
  database: string;
  command: string;
}

interface QueuedRequest {
  id: string;
  method: string;
  url: string;
  headers: Record<string, string> | null;
  body: Uint8Array<ArrayBuffer> | null;
  timeout_milliseconds: number;
}

/** A row of `net._http_response`, less its id. */
interface Answer {
  status_code?: number;
  content_type?: string | null;
  headers?: Record<string, string>;
  content?: string | null;
  timed_out: boolean;
  error_msg?: string;
}

/** As many requests as pg_net takes from its queue at once. */
const BATCH = 200;
/** How long stop() waits for running jobs, in milliseconds. */
const GRACE = 2000;
const MINUTE = 60_000;

/** What pg_cron notes of a result: the number of rows, or the command. */
function describeResult(result: pg.QueryResult | pg.QueryResult[]): string {
  const { command, rowCount } = Array.isArray(result) ? result.at(-1)! : result;
  if (command === "SELECT") return `${rowCount} ${rowCount === 1 ? "row" : "rows"}`;
  return rowCount === null ? command : `${command} ${rowCount}`;
}

/** The words libcurl has for it, which is what pg_net stores. */
function describeFailure(error: Error): string {
  const cause = error.cause as { code?: string; message?: string } | undefined;
  switch (cause?.code) {
    case "ECONNREFUSED":
      return "Couldn't connect to server";
    case "ENOTFOUND":
      return "Couldn't resolve host name";
    case "UND_ERR_SOCKET":
      return "Server returned nothing (no headers, no data)";
    default:
      return cause?.message ?? error.message;
  }
}

async function send(request: QueuedRequest, stopping: AbortSignal): Promise<Answer> {
  const { method, url, headers, body, timeout_milliseconds: timeout } = request;
  if (timeout <= 0) {
    return { timed_out: false, error_msg: `timeout_milliseconds must be positive, got ${timeout}` };
  }
  const startedAt = performance.now();
  try {
    return await withTimeout(timeout, stopping, async (signal) => {
      const response = await fetch(url, {
        method,
        headers: { ...headers, "User-Agent": "pg_net/0.19" },
        body,
        signal,
      });
      const content = await response.text();
      return {
        status_code: response.status,
        content_type: response.headers.get("content-type"),
        headers: Object.fromEntries(response.headers),
        content: content || null,
        timed_out: false,
      };
    });
  } catch (error) {
    if ((error as Error).name !== "TimeoutError") {
      return { timed_out: false, error_msg: describeFailure(error as Error) };
    }
    const total = (performance.now() - startedAt).toFixed(6);
    return {
      timed_out: true,
      error_msg: `Timeout of ${timeout} ms reached. Total time: ${total} ms`,
    };
  }
}

/** Connects to the database; jobs that were running when it went down are marked as pg_cron marks them. */
export async function createWorker({ adminUrl, cron, log }: WorkerOptions): Promise<Worker> {
  const pool = new pg.Pool({ connectionString: adminUrl, max: 4, application_name: "pg_net" });
  // A lost idle connection is replaced; the query that needs one reports what is wrong.
  pool.on("error", () => {});
  const stopping = new AbortController();
  const report = (what: string) => (error: Error) => {
    if (!stopping.signal.aborted) log(`${what}: ${error.message}`);
  };
  const has = async (relation: string) =>
    (await pool.query("select to_regclass($1) as found", [relation])).rows[0].found !== null;

  /** Runs that wait for the one under way, by job: pg_cron runs one of a job at a time and forgets none. */
  const waiting = new Map<string, number>();
  const running = new Set<Promise<void>>();

  async function runOnce({ username, database, command, jobid }: Job): Promise<void> {
    const client = new pg.Client({ connectionString: adminUrl, application_name: "pg_cron" });
    client.on("error", () => {});
    const { rows: [{ runid }] } = await pool.query(
      `insert into cron.job_run_details (jobid, database, username, command, status)
       values ($1, $2, $3, $4, 'starting') returning runid`,
      [jobid, database, username, command],
    );
    let [status, message] = ["succeeded", ""];
    try {
      await client.connect();
      await client.query(`set session authorization ${client.escapeIdentifier(username)}`);
      const { rows: [{ pid }] } = await client.query("select pg_backend_pid() as pid");
      await pool.query(
        `update cron.job_run_details
         set status = 'running', job_pid = $2, start_time = clock_timestamp() where runid = $1`,
        [runid, pid],
      );
      message = describeResult(await client.query(command));
    } catch (error) {
      [status, message] = ["failed", `ERROR:  ${(error as Error).message}`];
    } finally {
      await client.end().catch(() => {});
    }
    await pool.query(
      `update cron.job_run_details
       set status = $2, return_message = $3, end_time = clock_timestamp() where runid = $1`,
      [runid, status, message],
    );
  }

  async function run(job: Job): Promise<void> {
    const queued = waiting.get(job.jobid);
    if (queued !== undefined) {
      waiting.set(job.jobid, queued + 1);
      return;
    }
    waiting.set(job.jobid, 0);
    try {
      do {
        await runOnce(job);
        waiting.set(job.jobid, waiting.get(job.jobid)! - 1);
      } while (waiting.get(job.jobid)! >= 0 && !stopping.signal.aborted);
    } finally {
      waiting.delete(job.jobid);
    }
  }

  async function runJobs(condition: string, values: unknown[]): Promise<void> {
    if (!cron || !await has("cron.job")) return;
    const { rows } = await pool.query<Job>(
      `select jobid, username, database, command from cron.job where active and ${condition} order by jobid`,
      values,
    );
    await Promise.all(rows.map((job) => {
      const done = run(job).catch(report(`cron job ${job.jobid}`)).finally(() =>
        running.delete(done)
      );
      running.add(done);
      return done;
    }));
  }

  async function takeRequests(): Promise<QueuedRequest[]> {
    const { rows } = await pool.query<QueuedRequest>(
      `with batch as (select id from net.http_request_queue order by id limit $1 for update skip locked)
       delete from net.http_request_queue as queue using batch where queue.id = batch.id returning queue.*`,
      [BATCH],
    );
    return rows;
  }

  async function answer(request: QueuedRequest): Promise<void> {
    const { status_code, content_type, headers, content, timed_out, error_msg } = await send(
      request,
      stopping.signal,
    );
    if (stopping.signal.aborted) return; // lost, as with pg_net when its server stops
    await pool.query(
      `insert into net._http_response
         (id, status_code, content_type, headers, content, timed_out, error_msg)
       values ($1, $2, $3, $4, $5, $6, $7)`,
      [request.id, status_code, content_type, headers, content, timed_out, error_msg],
    );
  }

  let sending: Promise<void> | undefined;
  let isAskedAgain = false;

  /** As pg_net: no request of a batch is sent before the last answer of the one before has come. */
  async function sendBatches(): Promise<void> {
    while (isAskedAgain) {
      isAskedAgain = false;
      if (!await has("net.http_request_queue")) return;
      for (let batch = await takeRequests(); batch.length > 0; batch = await takeRequests()) {
        await Promise.all(
          batch.map((request) => answer(request).catch(report(`request ${request.id}`))),
        );
      }
    }
  }

  const worker: Worker = {
    runDueJobs: (at) => runJobs("cron._is_due(schedule, $1)", [at]),

    sendRequests() {
      isAskedAgain = true;
      return sending ??= sendBatches().finally(() => sending = undefined);
    },

    async removeOldResponses(at) {
      if (!await has("net._http_response")) return;
      await pool.query(
        "delete from net._http_response where created < $1::timestamptz - interval '6 hours'",
        [at],
      );
    },

    async start(now) {
      const listener = new pg.Client({ connectionString: adminUrl, application_name: "pg_net" });
      const wake = () => void worker.sendRequests().catch(report("pg_net"));
      listener.on("error", report("pg_net does not hear of new requests at once any more"));
      listener.on("notification", wake);
      await listener.connect();
      await listener.query("listen pg_net");
      stopping.signal.addEventListener("abort", () => void listener.end().catch(() => {}));
      wake();
      void runJobs("true", []).catch(report("pg_cron"));

      void (async () => {
        for (;;) {
          const next = now().getTime() + MINUTE - now().getTime() % MINUTE;
          // A timer may be early by a millisecond, which would be the minute before.
          while (now().getTime() < next) {
            await sleep(next - now().getTime(), undefined, { signal: stopping.signal });
          }
          const at = now(); // later than `next` by hours if the machine slept
          void worker.runDueJobs(at).catch(report("pg_cron"));
          void worker.removeOldResponses(at).catch(report("pg_net"));
          wake();
        }
      })().catch(() => {});
    },

    async stop() {
      stopping.abort();
      await Promise.race([Promise.all(running), sleep(GRACE, undefined, { ref: false })]);
      await pool.end().catch(() => {});
    },
  };

  if (cron && await has("cron.job_run_details")) {
    await pool.query(
      `update cron.job_run_details set status = 'failed', return_message = 'server restarted'
       where status in ('starting', 'running')`,
    );
  }
  return worker;
}
