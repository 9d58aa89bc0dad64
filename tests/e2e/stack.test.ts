/** The local stack itself: that it behaves as a hosted project where it matters, and starts and stops cleanly. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createServer as createTcpServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { text } from "node:stream/consumers";
import { promisify } from "node:util";
import pg from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { PROJECT_ROOT } from "../../local/binaries.ts";
import { commandLine } from "../../local/processes.ts";
import type { Facts } from "../../local/stack.ts";
import { createWorker, type Worker } from "../../local/worker.ts";
import { claimPorts, freePort, startTestStack, type TestStack } from "../stack.ts";

/** How long a test waits for something that happens in a moment, in milliseconds. */
const PATIENCE = 15_000;

const FILES = {
  "migrations/20260101000000_create_probes.sql": `
    create extension if not exists pg_cron;
    create extension if not exists pg_net;
    create function public.who() returns jsonb language sql as $$
      select jsonb_build_object('user', current_user, 'uid', auth.uid(), 'role', auth.role(),
        'limit', current_setting('statement_timeout'))
    $$;
    create function public.echo(p_value jsonb) returns jsonb language sql as 'select p_value';
    create function public.cut_early() returns boolean language sql set statement_timeout = '200ms'
      as 'select pg_sleep(5) is null';
    create function public.allowed_longer() returns text language sql set statement_timeout = '60s'
      as $$ select current_setting('statement_timeout') $$;
    create function public.refuse(p_code text) returns void language plpgsql as
      $$ begin raise exception 'no' using errcode = p_code, detail = 'd', hint = 'h'; end $$;
    create table public.noted (username text, noted_at timestamptz default clock_timestamp());
    create function public.note() returns void language sql as 'insert into public.noted values (current_user)';
  `,
  "functions/echo/index.ts": `export default {
    fetch: async (request: Request) => Response.json({
      path: new URL(request.url).pathname,
      body: await request.text(),
      keys: Object.keys(JSON.parse(Deno.env.get("SUPABASE_SECRET_KEYS")!)),
      pid: Deno.pid,
    }),
  };`,
  "functions/mail/index.ts":
    `const NAMES = ["RESEND_API_KEY", "RESEND_BASE_URL", "RESEND_WEBHOOK_SECRET",
    "PGVIGIL_MAIL_FROM", "PGVIGIL_ALLOW_LOOPBACK"];
  export default {
    fetch: () => Response.json({
      body: Object.fromEntries(NAMES.map((name) => [name, Deno.env.get(name)])),
    }),
  };`,
  "functions/broken/index.ts": `throw new Error("no such luck");`,
  "functions/slow/index.ts": `let aborted = 0;
  export default {
    fetch(request: Request): Response | Promise<Response> {
      if (request.method === "GET") return Response.json({ aborted });
      request.signal.addEventListener("abort", () => aborted += 1);
      return new Promise(() => {});
    },
  };`,
  "functions/_shared/nothing.ts": "",
};

let stack: TestStack;
let admin: pg.Client;
let postgres: pg.Client;

beforeAll(async () => {
  stack = await startTestStack({ files: FILES, wallTime: 2000 });
  admin = new pg.Client({ connectionString: stack.facts.admin_db_url });
  postgres = new pg.Client({ connectionString: stack.facts.db_url });
  await Promise.all([admin.connect(), postgres.connect()]);
});

afterAll(async () => {
  await Promise.all([admin?.end(), postgres?.end()]);
  await stack?.stop();
});

async function rpc(name: string, args: object, headers: Record<string, string> = {}) {
  const response = await fetch(`${stack.facts.rest_url}/rpc/${name}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(args),
  });
  return { status: response.status, body: await response.json() };
}

const secretly = (name: string, args: object = {}) =>
  rpc(name, args, { apikey: stack.facts.secret_key });

/** A row of one of the worker's tables once it is there. */
const firstRow = (client: pg.Client, sql: string, values: unknown[]) =>
  vi.waitFor(async () => {
    const { rows: [row] } = await client.query(sql, values);
    expect(row).toBeDefined();
    return row;
  }, PATIENCE);

describe("keys", () => {
  it.each([
    ["no key", () => undefined, 401],
    ["a key nobody issued", () => "sb_secret_nobody", 401],
    ["an empty key", () => "", 401],
  ])("refuses %s", async (_, key, status) => {
    const apikey = key();
    expect((await rpc("who", {}, apikey === undefined ? {} : { apikey })).status).toBe(status);
  });

  it.each(
    [
      ["publishable_key", "anon", "3s"],
      ["secret_key", "service_role", "8s"],
      ["cron_key", "service_role", "8s"],
      ["cron_next_key", "service_role", "8s"],
    ] as const,
  )("runs %s as %s with its limit", async (key, user, limit) => {
    const { body } = await rpc("who", {}, { apikey: stack.facts[key] });
    expect(body).toEqual({ user, role: user, uid: null, limit });
  });

  it("runs a signed-in user as authenticated, under his own id", async () => {
    const { publishable_key: apikey, api_url, admin_email, admin_password } = stack.facts;
    const login = await fetch(`${api_url}/auth/v1/token?grant_type=password`, {
      method: "POST",
      headers: { apikey, "content-type": "application/json" },
      body: JSON.stringify({ email: admin_email, password: admin_password }),
    });
    const { access_token, user } = await login.json();
    expect((await rpc("who", {}, { apikey, authorization: `Bearer ${access_token}` })).body)
      .toEqual({ user: "authenticated", role: "authenticated", uid: user.id, limit: "8s" });
    expect((await rpc("who", {}, { authorization: `Bearer ${access_token}` })).status).toBe(401);
  });

  it("gives no right that no migration gave", async () => {
    await postgres.query("create table public.private (id integer)");
    const response = await vi.waitFor(async () => {
      const answer = await fetch(`${stack.facts.rest_url}/private`, {
        headers: { apikey: stack.facts.publishable_key },
      });
      expect(answer.status).not.toBe(404); // the API has not read the schema again yet
      return answer;
    }, PATIENCE);
    expect([response.status, await response.json()]).toMatchObject([401, { code: "42501" }]);
  });
});

describe("REST", () => {
  it.each([
    [{ a: [1, { b: null }] }],
    [[1, "two"]],
    ["text"],
    ["5"],
    ['{"looks":"like JSON"}'],
    [5],
    [true],
    [null],
  ])("hands the JSON argument %j on as it is", async (p_value) => {
    expect(await secretly("echo", { p_value })).toEqual({ status: 200, body: p_value });
  });

  it("applies the time limit that a function sets for itself, shorter or longer", async () => {
    expect(await secretly("cut_early")).toMatchObject({ status: 500, body: { code: "57014" } });
    expect((await secretly("allowed_longer")).body).toBe("1min");
    expect((await secretly("who")).body.limit).toBe("8s");
  });

  it.each([["22023", 400], ["P0001", 400], ["PM001", 400], ["42501", 403], ["40001", 500], [
    "PT409",
    409,
  ]])(
    "answers SQLSTATE %s with its own code, message and %i",
    async (code, status) => {
      expect(await secretly("refuse", { p_code: code }))
        .toEqual({ status, body: { code, message: "no", details: "d", hint: "h" } });
    },
  );

  it("knows a function as soon as it is there", async () => {
    await postgres.query(
      "create function public.newcomer() returns integer language sql as 'select 7'",
    );
    await vi.waitFor(async () => expect((await secretly("newcomer")).body).toBe(7), PATIENCE);
  });

  it("does not let the owner of the database be a superuser", async () => {
    await expect(postgres.query("create extension file_fdw")).rejects.toMatchObject({
      code: "42501",
    });
    await expect(postgres.query("update cron.job set active = false")).rejects.toMatchObject({
      code: "42501",
    });
  });

  it.each(["anon", "authenticated", "service_role"])(
    "keeps %s out of cron and Vault",
    async (role) => {
      for (const relation of ["cron.job", "vault.decrypted_secrets"]) {
        await admin.query(`set role ${role}`);
        await expect(admin.query(`select from ${relation}`)).rejects.toMatchObject({
          code: "42501",
        });
        await admin.query("reset role");
      }
    },
  );
});

describe("functions", () => {
  const call = async (path: string, init?: RequestInit) => {
    const response = await fetch(`${stack.facts.functions_url}/${path}`, init);
    return { status: response.status, body: await response.json() };
  };

  it("passes on path, body and environment as the platform does", async () => {
    expect(await call("echo/below?x=1", { method: "POST", body: "hello" })).toMatchObject({
      status: 200,
      body: { path: "/echo/below", body: "hello", keys: ["default", "cron", "cron_next"] },
    });
  });

  it("answers 404 for what is not there, 503 for what does not start, and says why at the start", async () => {
    expect(await call("nobody")).toMatchObject({ status: 404 });
    expect(await call("_shared")).toMatchObject({ status: 404 });
    expect(await call("broken")).toMatchObject({ status: 503, body: { code: "BOOT_ERROR" } });
    expect(stack.lines.join("\n")).toContain("Function broken does not start: no such luck");
  });

  it("tells a function when its caller has gone, or when the wall limit is reached", async () => {
    const isAborted = (times: number) =>
      vi.waitFor(
        async () => expect((await call("slow")).body).toEqual({ aborted: times }),
        PATIENCE,
      );
    await expect(call("slow", { method: "POST", signal: AbortSignal.timeout(100) })).rejects
      .toThrow();
    await isAborted(1);
    expect(await call("slow", { method: "POST" })).toMatchObject({ status: 504 });
    await isAborted(2);
  });

  it("starts them again when they end by themselves", async () => {
    const { pid } = (await call("echo")).body;
    process.kill(pid, "SIGKILL");
    await vi.waitFor(async () => {
      const { status, body } = await call("echo");
      expect(status).toBe(200);
      expect(body.pid).not.toBe(pid);
    }, PATIENCE);
    expect(stack.lines.join("\n")).toContain("The functions have stopped by themselves (SIGKILL)");
  });
});

describe("inbox", () => {
  /** Sends when there is a place: only so many mails a second are taken. */
  const send = (mail: object, headers: object = {}) =>
    vi.waitFor(async () => {
      const response = await fetch(`${stack.facts.inbox_url}/emails`, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          "authorization": `Bearer ${stack.facts.resend_api_key}`,
          ...headers,
        },
        body: JSON.stringify({ from: "a@b.co", to: "d@e.fo", text: "1 < 2", ...mail }),
      });
      expect(response.status).not.toBe(429);
      return response;
    }, PATIENCE);
  const messages = async () => (await fetch(`${stack.facts.inbox_url}/messages`)).json();

  beforeEach(async () => {
    await fetch(`${stack.facts.inbox_url}/messages`, { method: "DELETE" });
  });

  it("keeps what is sent to it, once, and shows it as text", async () => {
    const key = { "idempotency-key": "one" };
    const first = await (await send({ subject: "<b>Hi</b>" }, key)).json();
    expect(await (await send({ subject: "<b>Hi</b>" }, key)).json()).toEqual(first);
    expect(await messages()).toMatchObject([{ id: first.id, to: ["d@e.fo"] }]);
    const page = await (await fetch(stack.facts.inbox_url)).text();
    expect(page).toContain("&lt;b&gt;Hi&lt;/b&gt;");
    expect(page).not.toContain("<b>Hi");
  });

  it("refuses what Resend would refuse", async () => {
    expect((await send({})).status).toBe(422);
    expect((await send({ subject: "s" }, { authorization: "Bearer re_other" })).status).toBe(403);
  });

  it("tells the function that receives events, through the gateway", async () => {
    expect((await send({ subject: "s" })).status).toBe(200);
    // There is no such function in this project.
    const events = ["email.sent", "email.delivered"].map((type) => ({ type, answer: 404 }));
    await vi.waitFor(async () => expect(await messages()).toMatchObject([{ events }]), PATIENCE);
  });

  it("gets the mails of the Auth API, which has no key of Resend's", async () => {
    const { api_url, publishable_key: apikey, admin_email: email } = stack.facts;
    const response = await fetch(`${api_url}/auth/v1/recover`, {
      method: "POST",
      headers: { apikey, "content-type": "application/json" },
      body: JSON.stringify({ email }),
    });
    expect(response.status).toBe(200);
    await vi.waitFor(
      async () => expect(await messages()).toMatchObject([{ to: [email], events: [] }]),
      PATIENCE,
    );
  });

  it("is where functions send mails to, with a key and a sender", async () => {
    const { body } = await (await fetch(`${stack.facts.functions_url}/mail`)).json();
    expect(body).toEqual({
      RESEND_API_KEY: stack.facts.resend_api_key,
      RESEND_BASE_URL: stack.facts.inbox_url,
      RESEND_WEBHOOK_SECRET: stack.facts.resend_webhook_secret,
      PGVIGIL_MAIL_FROM: "pgvigil <alerts@example.com>",
      PGVIGIL_ALLOW_LOOPBACK: "1",
    });
  });
});

describe("pg_net stand-in", () => {
  const RESPONSE = "select * from net._http_response where id = $1";
  const post = async (url: string, headers: object = {}, timeout = 5000): Promise<string> => {
    const { rows } = await postgres.query(
      `select net.http_post($1, '{"a":1}', '{"q":"x y&z"}', $2, $3) as id`,
      [url, JSON.stringify(headers), timeout],
    );
    return rows[0].id;
  };

  it("stores the answer of the server, whatever its status", async () => {
    const id = await post(`${stack.facts.functions_url}/echo`, { "x-run-id": "1" });
    expect(await firstRow(postgres, RESPONSE, [id])).toMatchObject({
      status_code: 200,
      content_type: "application/json",
      timed_out: false,
      error_msg: null,
    });
    const refused = await post(`${stack.facts.rest_url}/rpc/who`, { apikey: "sb_secret_nobody" });
    expect(await firstRow(postgres, RESPONSE, [refused])).toMatchObject({
      status_code: 401,
      error_msg: null,
    });
  });

  it("sends method, query, headers and body", async () => {
    const port = await freePort();
    const received = new Promise((resolve) => {
      const server = createServer(async (request, response) => {
        const { method, url, headers } = request;
        resolve({ method, url, headers, body: await text(request) });
        response.end();
        server.close();
      }).listen(port, "127.0.0.1");
    });
    const id = await post(`http://127.0.0.1:${port}/in?p=1`, { "X-Run-Id": "7" });
    expect(await received).toMatchObject({
      method: "POST",
      url: "/in?p=1&q=x%20y%26z",
      headers: { "x-run-id": "7", "content-type": "application/json" },
      body: '{"a": 1}',
    });
    expect(await firstRow(postgres, RESPONSE, [id])).toMatchObject({
      status_code: 200,
      content: null,
    });
  });

  it("gives up when the request's own time is over", async () => {
    const id = await post(`${stack.facts.functions_url}/slow`, {}, 150);
    const row = await firstRow(postgres, RESPONSE, [id]);
    expect(row).toMatchObject({ status_code: null, timed_out: true });
    expect(row.error_msg).toMatch(/^Timeout of 150 ms reached/);
  });

  it("says that nobody listens, or hung up", async () => {
    const refused = await post(`http://127.0.0.1:${await freePort()}`);
    expect(await firstRow(postgres, RESPONSE, [refused]))
      .toMatchObject({
        status_code: null,
        timed_out: false,
        error_msg: "Couldn't connect to server",
      });

    const port = await freePort();
    const rude = createTcpServer((socket) => socket.destroy()).listen(port, "127.0.0.1");
    const dropped = await post(`http://127.0.0.1:${port}`);
    expect((await firstRow(postgres, RESPONSE, [dropped])).error_msg).toMatch(
      /^Server returned nothing/,
    );
    rude.close();
  });

  it("sends nothing of a transaction that is rolled back, and refuses what is no URL", async () => {
    await postgres.query("begin");
    const id = await post(`${stack.facts.functions_url}/echo`);
    await postgres.query("rollback");
    const later = await post(`${stack.facts.functions_url}/echo`);
    await firstRow(postgres, RESPONSE, [later]);
    expect((await postgres.query(RESPONSE, [id])).rows).toEqual([]);
    await expect(post("localhost/x")).rejects.toThrow("Unsupported URL scheme");
  });
});

describe("pg_cron stand-in", () => {
  /** A minute that does not come while the tests run: the stack's own clock leaves these jobs alone. */
  const LEAP_DAY = "7 3 29 2 *";
  const DUE = new Date("2028-02-29T03:07:30Z");
  let worker: Worker;

  beforeAll(async () => {
    worker = await createWorker({ adminUrl: stack.facts.admin_db_url, cron: true, log: () => {} });
  });
  afterAll(() => worker.stop());

  const schedule = async (name: string, cron: string, command: string): Promise<string> =>
    (await postgres.query("select cron.schedule($1, $2, $3) as id", [name, cron, command])).rows[0]
      .id;
  const runsOf = async (id: string) =>
    (await postgres.query("select * from cron.job_run_details where jobid = $1 order by runid", [
      id,
    ])).rows;

  it.each([
    ["* * * * *", "2026-03-01T00:00:00Z", true],
    ["*/5 * * * *", "2026-03-01T10:55:59Z", true],
    ["*/5 * * * *", "2026-03-01T10:56:00Z", false],
    ["0 3 * * *", "2026-03-01T03:00:00Z", true],
    ["0 3 * * *", "2026-03-01T02:59:59Z", false],
    ["0 3 * * *", "2026-03-01T03:00:00+01:00", false],
    ["0-10/5,30 1 * * *", "2026-03-01T01:10:00Z", true],
    ["0-10/5,30 1 * * *", "2026-03-01T01:30:00Z", true],
    ["0-10/5,30 1 * * *", "2026-03-01T01:15:00Z", false],
    ["0 0 * * 7", "2026-03-01T00:00:00Z", true], // a Sunday
    ["0 0 * * sun", "2026-03-01T00:00:00Z", true],
    ["0 0 * * mon-fri", "2026-03-01T00:00:00Z", false],
    ["0 0 1 * mon", "2026-03-01T00:00:00Z", true], // date or weekday
    ["0 0 15 mar mon", "2026-03-02T00:00:00Z", true],
    ["0 0 15 * *", "2026-03-01T00:00:00Z", false],
  ])("says that %s at %s is due: %s", async (cron, at, isDue) => {
    const { rows } = await admin.query("select cron._is_due($1, $2) as due", [cron, at]);
    expect(rows).toEqual([{ due: isDue }]);
  });

  it.each([
    "",
    "* * * *",
    "* * * * * *",
    "60 * * * *",
    "5/10 * * * *",
    "*/0 * * * *",
    "9-5 * * * *",
    "x * * * *",
  ])(
    "refuses the schedule '%s'",
    async (cron) => {
      await expect(schedule("bad", cron, "select 1"))
        .rejects.toMatchObject({ code: "22023", message: `invalid schedule: ${cron}` });
    },
  );

  it("runs a job in the minute it is due, as the user who scheduled it, and notes the outcome", async () => {
    const good = await schedule("good", LEAP_DAY, "select public.note()");
    const bad = await schedule("bad", LEAP_DAY, "select 1 / 0");
    await worker.runDueJobs(new Date("2028-02-29T03:06:59Z"));
    expect([...await runsOf(good), ...await runsOf(bad)]).toEqual([]);

    await worker.runDueJobs(DUE);
    expect(await runsOf(good)).toMatchObject([{
      status: "succeeded",
      return_message: "1 row",
      username: "postgres",
      database: "postgres",
      command: "select public.note()",
      job_pid: expect.any(Number),
      start_time: expect.any(Date),
      end_time: expect.any(Date),
    }]);
    expect(await runsOf(bad))
      .toMatchObject([{ status: "failed", return_message: "ERROR:  division by zero" }]);
    expect((await postgres.query("select username from public.noted")).rows).toEqual([{
      username: "postgres",
    }]);
  });

  it("replaces a job of the same name, and lets it be switched off and removed", async () => {
    const id = await schedule("again", LEAP_DAY, "select 1");
    expect(await schedule("again", LEAP_DAY, "select 2")).toBe(id);
    await postgres.query("select cron.alter_job($1, active := false)", [id]);
    await worker.runDueJobs(DUE);
    expect(await runsOf(id)).toEqual([]);
    await postgres.query("select cron.unschedule('again')");
    await expect(postgres.query("select cron.unschedule('again')")).rejects.toThrow(
      "could not find valid entry",
    );
  });

  it("runs one instance of a job at a time and forgets none", async () => {
    await admin.query("select pg_advisory_lock(1)");
    const id = await schedule("slow", LEAP_DAY, "select pg_advisory_xact_lock_shared(1)");
    const first = worker.runDueJobs(DUE);
    await vi.waitFor(
      async () => expect(await runsOf(id)).toMatchObject([{ status: "running" }]),
      PATIENCE,
    );
    await worker.runDueJobs(DUE);
    expect(await runsOf(id)).toHaveLength(1);
    await admin.query("select pg_advisory_unlock(1)");
    await first;
    expect(await runsOf(id)).toMatchObject([{ status: "succeeded" }, { status: "succeeded" }]);
  });

  it("marks what was running when it went down", async () => {
    const { rows: [{ runid }] } = await admin.query(
      "insert into cron.job_run_details (jobid, username, status) values (0, 'postgres', 'running') returning runid",
    );
    await (await createWorker({ adminUrl: stack.facts.admin_db_url, cron: true, log: () => {} }))
      .stop();
    expect(
      (await postgres.query("select * from cron.job_run_details where runid = $1", [runid])).rows,
    )
      .toMatchObject([{ status: "failed", return_message: "server restarted" }]);
  });

  it("removes answers older than six hours", async () => {
    const at = new Date("2026-01-02T00:00:00Z");
    await admin.query(
      `insert into net._http_response (id, created) values (-1, $1::timestamptz - interval '6 hours'),
         (-2, $1::timestamptz - interval '6 hours 1 second')`,
      [at],
    );
    await worker.removeOldResponses(at);
    expect((await admin.query("select id from net._http_response where id < 0")).rows).toEqual([{
      id: "-1",
    }]);
  });
});

describe("npm start", () => {
  let folder: string;
  let ports: Awaited<ReturnType<typeof claimPorts>>;
  const children: ChildProcess[] = [];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "pgvigil-start-"));
    ports = await claimPorts();
  });
  afterAll(async () => {
    for (const child of children) child.kill("SIGKILL");
    ports.release();
    await rm(folder, { recursive: true, force: true });
  });

  /** Starts as `npm start` does. `ready` resolves to what it printed when it serves, `ended` to that and the exit code. */
  function start(...args: string[]) {
    const child = spawn(
      process.execPath,
      [
        "--import",
        "tsx",
        "local/start.ts",
        "--folder",
        folder,
        "--port",
        String(ports.port),
        ...args,
      ],
      { cwd: PROJECT_ROOT, stdio: ["ignore", "pipe", "pipe"] },
    );
    children.push(child);
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk) => (output += chunk));
    }
    const ended = new Promise<{ code: number | null; output: string }>((resolve) =>
      child.on("close", (code) => resolve({ code, output }))
    );
    const ready = new Promise<string>((resolve, reject) => {
      child.stdout.on("data", () => output.includes("Stop with Ctrl-C") && resolve(output));
      void ended.then(() => reject(new Error(output)));
    });
    ready.catch(() => {}); // whoever waits for the end does not wait for this
    return { child, ready, ended };
  }

  const readFacts = async (): Promise<Facts> =>
    JSON.parse(await readFile(join(folder, "stack.json"), "utf8"));
  const readPids = async () => ({
    postgres: Number((await readFile(join(folder, "data/postmaster.pid"), "utf8")).split("\n")[0]),
    functions: JSON.parse(await readFile(join(folder, "lock.json"), "utf8"))
      .functions_pid as number,
  });
  /** Runs SQL in the database of the running stack. */
  async function query(sql: string) {
    const client = new pg.Client({ connectionString: (await readFacts()).db_url });
    await client.connect();
    try {
      return (await client.query(sql)).rows;
    } finally {
      await client.end();
    }
  }

  /** Runs what was printed: the query, and the doctor, who is to look at this stack and at no other. */
  async function expectPrintedCommandsWork(output: string) {
    const [query] = /curl -sG .*$/m.exec(output)!;
    const [, doctor] = /set up\? npm run doctor -- (.*)$/m.exec(output)!;
    const run = (command: string) =>
      promisify(execFile)("bash", ["-c", command], { cwd: PROJECT_ROOT });
    expect(JSON.parse((await run(query)).stdout)).toMatchObject({ status: "success" });
    // It exits with 2 as long as something is not known yet.
    const { stdout } = await run(`node --import tsx scripts/doctor.ts ${doctor}; [ $? -le 2 ]`);
    expect(stdout.split("\n").filter((line) => line.startsWith("failed"))).toEqual([]);
    expect(stdout).toMatch(/, 0 failed, /);
  }

  it("starts, refuses to be started twice, and leaves nothing behind on Ctrl-C", async () => {
    const first = start();
    const output = await first.ready;
    const facts = await readFacts();
    expect(facts).toMatchObject({
      api_url: `http://127.0.0.1:${ports.port}`,
      pid: first.child.pid,
      secret_key: expect.stringMatching(/^sb_secret_/),
    });
    for (
      const name of [
        "collect-metrics",
        "detect-anomalies",
        "evaluate-alerts",
        "data-retention-cleanup",
      ]
    ) {
      expect(output).toContain(
        `curl -X POST ${facts.functions_url}/${name} -H 'apikey: ${facts.secret_key}'`,
      );
    }
    expect(output).toContain(`Prometheus: ${facts.functions_url}/prometheus `);
    await expectPrintedCommandsWork(output);
    expect((await stat(join(folder, "stack.json"))).mode & 0o777).toBe(0o600);
    expect((await stat(join(folder, "keys.json"))).mode & 0o777).toBe(0o600);
    await query("create table public.kept as select 1 as value");

    const second = await start().ended;
    expect(second).toMatchObject({ code: 1 });
    expect(second.output).toContain(`already running (pid ${first.child.pid}) at ${facts.api_url}`);

    const pids = await readPids();
    expect(commandLine(pids.postgres)).toContain(folder);
    expect(commandLine(pids.functions)).toContain("functions-host.ts");
    first.child.kill("SIGINT");
    expect(await first.ended).toMatchObject({ code: 0 });
    expect(commandLine(pids.postgres)).toBeUndefined();
    expect(commandLine(pids.functions)).toBeUndefined();
    await expect(readFacts()).rejects.toMatchObject({ code: "ENOENT" });
  });

  it("cleans up after a start that was killed, and keeps keys and data", async () => {
    const killed = start();
    await killed.ready;
    const facts = await readFacts();
    const pids = await readPids();
    process.kill(pids.functions, "SIGSTOP"); // otherwise they would notice and end by themselves
    killed.child.kill("SIGKILL");
    await killed.ended;
    expect(commandLine(pids.postgres)).toBeDefined();

    const next = start();
    const output = await next.ready;
    expect(output).toContain(
      `Stopped the functions that an earlier start left behind (pid ${pids.functions})`,
    );
    expect(output).toContain(
      `Stopped the Postgres that an earlier start left behind (pid ${pids.postgres})`,
    );
    expect(commandLine(pids.functions)).toBeUndefined();
    expect(await query("select value from public.kept")).toEqual([{ value: 1 }]);
    expect(await readFacts()).toEqual({ ...facts, pid: next.child.pid });
    next.child.kill("SIGTERM");
    expect(await next.ended).toMatchObject({ code: 0 });
  });

  it("stops what it has started when it is told to before it is ready", async () => {
    const early = start();
    const { postgres: pid } = await vi.waitFor(() => readPids(), PATIENCE);
    early.child.kill("SIGINT");
    expect(await early.ended).toMatchObject({ code: 0 });
    expect(commandLine(pid)).toBeUndefined();
  });

  it("names a busy port and who has it", async () => {
    const blocker = createTcpServer().listen(ports.port + 1, "127.0.0.1");
    const { code, output } = await start().ended;
    blocker.close();
    expect(code).toBe(1);
    expect(output).toContain(`Port ${ports.port + 1} (Postgres) is taken by`);
    expect(output).toContain("npm start -- --port");
  });

  it("says so when the data are of another Postgres or the keys are gone, and starts over when told to", async () => {
    const version = join(folder, "data/PG_VERSION");
    const actual = await readFile(version, "utf8");
    await writeFile(version, "14\n");
    const other = await start().ended;
    expect(other.code).toBe(1);
    expect(other.output).toContain("were made by Postgres 14");
    expect(other.output).toContain("npm start -- --reset");
    await writeFile(version, actual);

    const keys = await readFile(join(folder, "keys.json"), "utf8");
    await rm(join(folder, "keys.json"));
    const keyless = await start().ended;
    expect(keyless.code).toBe(1);
    expect(keyless.output).toContain("keys.json is gone");

    const fresh = start("--reset");
    await fresh.ready;
    expect(await query("select to_regclass('public.kept') as kept")).toEqual([{ kept: null }]);
    expect((await readFacts()).secret_key).not.toBe(JSON.parse(keys).secret_key);
    fresh.child.kill("SIGINT");
    expect(await fresh.ended).toMatchObject({ code: 0 });
  });

  it.each([["--port", "80"], ["--port", "x"], ["--nonsense"]])("refuses %s %s", async (...args) => {
    const { code, output } = await start(...args).ended;
    expect(code).toBe(1);
    expect(output).toContain(args[0]!);
    expect(output).not.toContain("    at "); // no stack trace
  });
});
