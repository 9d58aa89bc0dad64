/** Asking the whole stack as Prometheus' own clients do: curl, promtool, and a Prometheus that scrapes. */
import { execFile, spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { promisify } from "node:util";
import type pg from "pg";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { freePort, startTestStack, type TestStack } from "../stack.ts";

const MINUTE = 60_000;
/** A minute ago, so that nothing is ahead of the clock of the database. */
const END = Math.floor(Date.now() / MINUTE) * MINUTE - MINUTE;
const START = END - 60 * MINUTE;

let stack: TestStack;
let db: pg.Client;
let token: string;
let sendingToken: string;

beforeAll(async () => {
  stack = await startTestStack({ cron: false });
  db = await stack.connect();
  token = await createToken("grafana", "{read}");
  sendingToken = await createToken("sender", "{ingest}");
  await ingest();
  const collected = await fetch(`${stack.facts.functions_url}/collect-metrics`, {
    method: "POST",
    headers: { apikey: stack.facts.cron_key },
  });
  expect(collected.status).toBe(200);
});

afterAll(() => stack?.stop());

async function createToken(name: string, scopes: string): Promise<string> {
  const { rows } = await db.query(
    "select monitor.create_access_token($1, $2) ->> 'token' as token",
    [name, scopes],
  );
  return rows[0].token;
}

/** Of two queues a counter that grows by 6 and 12 a minute, and a gauge; a histogram; all for an hour. */
async function ingest(): Promise<void> {
  const url = `${stack.facts.functions_url}/ingest-metrics`;
  const headers = {
    authorization: `Bearer ${sendingToken}`,
    "content-type": "application/json",
  };
  const samples = Array.from({ length: 61 }, (_, n) =>
    ["red", 'bl"ue\n😀'].flatMap((queue, i) => {
      const common = { labels: { queue }, recorded_at: new Date(START + n * MINUTE).toISOString() };
      return [
        { ...common, metric: "e2e_jobs_total", value: 6 * n * (i + 1) },
        { ...common, metric: "e2e_depth", value: n + 100 * i },
      ];
    })).flat();
  const dataPoint = {
    timeUnixNano: `${END}000000`,
    startTimeUnixNano: `${START}000000`,
    count: "3",
    sum: 1.75,
    explicitBounds: [0.5, 1],
    bucketCounts: ["1", "1", "1"],
  };
  const otlp = {
    resourceMetrics: [{
      scopeMetrics: [{
        metrics: [{
          name: "e2e.wait",
          unit: "s",
          histogram: { aggregationTemporality: 2, dataPoints: [dataPoint] },
        }],
      }],
    }],
  };
  for (const [path, body] of [["", { samples }], ["/v1/metrics", otlp]] as const) {
    const response = await fetch(url + path, {
      method: "POST",
      headers,
      body: JSON.stringify(body),
    });
    expect([response.status, await response.json()]).toEqual([
      200,
      path === ""
        ? {
          inserted: samples.length,
          duplicates: 0,
          overflowed: 0,
          rejected_count: 0,
          rejected: [],
        }
        : {},
    ]);
  }
}

const base = () => `${stack.facts.functions_url}/prometheus`;

async function ask(path: string, params: Record<string, string> | string[][] = {}) {
  const response = await fetch(`${base()}/api/v1/${path}?${new URLSearchParams(params)}`, {
    headers: { authorization: `Bearer ${token}` },
  });
  return { status: response.status, body: await response.json() };
}

const seconds = (milliseconds: number) => String(milliseconds / 1000);

describe("a query", () => {
  it("has the value of Prometheus at a time", async () => {
    expect(
      await ask("query", {
        query: "sort_desc(sum by (queue) (rate(e2e_jobs_total[5m])))",
        time: seconds(END + 1),
      }),
    ).toEqual({
      status: 200,
      body: {
        status: "success",
        data: {
          resultType: "vector",
          result: [
            { metric: { queue: 'bl"ue\n😀' }, value: [(END + 1) / 1000, "0.2"] },
            { metric: { queue: "red" }, value: [(END + 1) / 1000, "0.1"] },
          ],
        },
      },
    });
  });

  it("over a range has every step, both ends included", async () => {
    const { body } = await ask("query_range", {
      query: 'e2e_depth{queue=~"r.d"}',
      start: seconds(START),
      end: seconds(END),
      step: "60",
    });
    expect(body.data).toEqual({
      resultType: "matrix",
      result: [{
        metric: { __name__: "e2e_depth", queue: "red" },
        values: Array.from({ length: 61 }, (_, n) => [(START + n * MINUTE) / 1000, `${n}`]),
      }],
    });
  });

  it("judges a pattern that Postgres cannot", async () => {
    const { body } = await ask("query", {
      query: String.raw`e2e_depth{queue=~"\\pL+"}`,
      time: seconds(END),
    });
    expect(body.data.result).toMatchObject([{
      metric: { queue: "red" },
      value: [END / 1000, "60"],
    }]);
  });

  it("is told what is wrong with it", async () => {
    expect(await ask("query", { query: "sum(" })).toEqual({
      status: 400,
      body: {
        status: "error",
        errorType: "bad_data",
        error: expect.stringMatching(/^invalid parameter "query": 1:\d+: parse error: /),
      },
    });
    expect(await ask("query", { query: "e2e_depth * on () group_left () e2e_jobs_total" }))
      .toMatchObject({ status: 422, body: { errorType: "execution" } });
  });

  it("is refused when it would read too much", async () => {
    await db.query("begin");
    try {
      // More series than one query may read, of which nobody else hears.
      await db.query(`
        insert into monitor.metric_definitions (metric, category, unit, description, series_limit)
        values ('e2e_many', 'workflow', 'count', 'Many.', 30000)`);
      await db.query(`
        insert into monitor.metric_series (metric, labels)
        select 'e2e_many', jsonb_build_object('n', n::text) from generate_series(1, 20001) as n`);
      await db.query("commit");
      const { status, body } = await ask("query", { query: "count(e2e_many)" });
      expect([status, body.errorType]).toEqual([422, "execution"]);
      expect(body.error).toMatch(/20001 series match, and at most 20000/);
    } finally {
      await db.query("rollback");
      await db.query("delete from monitor.metric_series where metric = 'e2e_many'");
      await db.query("delete from monitor.metric_definitions where metric = 'e2e_many'");
    }
  });
});

describe("lookups", () => {
  it("find series, labels and values", async () => {
    const series = await ask("series", { "match[]": '{__name__=~"e2e_(depth|jobs_total)"}' });
    expect(series.body.data).toEqual(
      ["e2e_depth", "e2e_jobs_total"].flatMap((__name__) =>
        ['bl"ue\n😀', "red"].map((queue) => ({ __name__, queue }))
      ),
    );
    expect((await ask("labels", { "match[]": "e2e_depth" })).body.data)
      .toEqual(["__name__", "queue"]);
    expect((await ask("label/queue/values", { "match[]": "e2e_depth" })).body.data)
      .toEqual(['bl"ue\n😀', "red"]);
    expect((await ask("label/__name__/values")).body.data)
      .toEqual(expect.arrayContaining(["database_connections", "e2e_depth"]));
    expect((await ask("series", { "match[]": "e2e_depth", limit: "1" })).body)
      .toMatchObject({
        data: [{ queue: 'bl"ue\n😀' }],
        warnings: ["results truncated due to limit"],
      });
    expect((await ask("series", { "match[]": "e2e_depth", end: seconds(START - 86_400_000) })).body)
      .toEqual({ status: "success", data: [] });
  });

  it("find what metrics are", async () => {
    const { body } = await ask("metadata", { metric: "pg_database_size_bytes" });
    expect(body.data).toEqual({
      pg_database_size_bytes: [{ type: "gauge", unit: "bytes", help: expect.any(String) }],
    });
    expect((await ask("metadata", { limit: "2" })).body.data).not.toHaveProperty("2");
  });

  it("list rules and alerts", async () => {
    const { status, body } = await ask("rules");
    expect([status, body.status, Array.isArray(body.data.groups)]).toEqual([200, "success", true]);
    expect((await ask("alerts")).body).toMatchObject({ status: "success" });
  });
});

describe("a caller", () => {
  const statusOf = async (headers: Record<string, string>, path = "/api/v1/query?query=1") => {
    const response = await fetch(base() + path, { headers });
    const body = await response.text();
    return { status: response.status, body, headers: response.headers };
  };
  const basic = (password: string) => ({
    authorization: `Basic ${btoa(`grafana:${password}`)}`,
  });

  it.each<[string, () => Record<string, string>, number]>([
    ["with a token as bearer", () => ({ authorization: `Bearer ${token}` }), 200],
    ["with a token in apikey", () => ({ apikey: token }), 200],
    ["with a token as password", () => basic(token), 200],
    ["with a secret key", () => ({ apikey: stack.facts.secret_key }), 200],
    ["without credentials", () => ({}), 401],
    ["with the publishable key", () => ({ apikey: stack.facts.publishable_key }), 401],
    ["with a password nobody made", () => basic(`pgv_${"0".repeat(40)}`), 401],
    ["with a token to send", () => basic(sendingToken), 403],
  ])("%s", async (_name, headers, status) => {
    const answer = await statusOf(headers());
    expect(answer.status).toBe(status);
    expect(JSON.parse(answer.body).status).toBe(status === 200 ? "success" : "error");
    const metrics = await statusOf(headers(), "/metrics");
    expect(metrics.status).toBe(status);
  });

  it("is not known by the address", async () => {
    const { status, headers } = await statusOf(
      {},
      `/api/v1/query?query=1&apikey=${token}&token=${token}`,
    );
    expect([status, headers.get("www-authenticate")])
      .toEqual([401, 'Bearer realm="pgvigil", Basic realm="pgvigil"']);
  });
});

describe("/metrics", () => {
  const scrape = async (accept: string) => {
    const response = await fetch(`${base()}/metrics`, {
      headers: { accept, authorization: `Bearer ${token}` },
    });
    return { type: response.headers.get("content-type"), text: await response.text() };
  };

  it("has the newest samples as text", async () => {
    const { type, text } = await scrape("text/plain");
    expect(type).toBe("text/plain; version=0.0.4; charset=utf-8");
    expect(text).toContain("\n# TYPE e2e_jobs_total counter\n");
    expect(text).toContain('\ne2e_jobs_total{queue="bl\\"ue\\n😀"} 720\n');
    expect(text).toMatch(/\npgvigil_observation_age_seconds\{metric="e2e_depth",queue="red"\} \d/);
    expect(text).toContain("\n# TYPE e2e_wait_seconds histogram\n");
    expect(text).toContain('\ne2e_wait_seconds_bucket{le="+Inf"} 3\n');
    expect(text.endsWith("\npgvigil_exposition_truncated 0\n")).toBe(true);
  });

  it("answers HEAD without a body", async () => {
    const response = await fetch(`${base()}/metrics`, {
      method: "HEAD",
      headers: { authorization: `Bearer ${token}` },
    });
    expect([response.status, await response.text()]).toEqual([200, ""]);
  });

  it("has them as OpenMetrics", async () => {
    const { type, text } = await scrape("application/openmetrics-text; version=1.0.0");
    expect(type).toBe("application/openmetrics-text; version=1.0.0; charset=utf-8");
    expect(text).toContain("\n# TYPE e2e_jobs counter\n");
    expect(text).toMatch(/\n# UNIT pg_database_size_bytes bytes\n/);
    expect(text.endsWith("\n# EOF\n")).toBe(true);
  });
});

const PROMTOOL = "/usr/bin/promtool";
const PROMETHEUS = "/usr/bin/prometheus";

describe("promtool", () => {
  const run = async (...args: string[]) =>
    (await promisify(execFile)(PROMTOOL, args)).stdout.trimEnd().split("\n");
  const server = () => base().replace("://", `://grafana:${token}@`);

  it("has nothing to say of /metrics", async ({ skip }) => {
    if (!existsSync(PROMTOOL)) skip(`there is no ${PROMTOOL} here`);
    const response = await fetch(`${base()}/metrics`, { headers: { apikey: token } });
    const checking = promisify(execFile)(PROMTOOL, ["check", "metrics"]);
    checking.child.stdin!.end(await response.text());
    expect(await checking).toEqual({ stdout: "", stderr: "" });
  });

  it("queries", async ({ skip }) => {
    if (!existsSync(PROMTOOL)) skip(`there is no ${PROMTOOL} here`);
    const end = seconds(END);
    expect(await run("query", "instant", "--time", end, server(), "max(e2e_depth)"))
      .toEqual([`{} => 160 @[${end}]`]);
    expect(
      await run(
        ...["query", "range", "--start", seconds(END - MINUTE), "--end", end, "--step", "60s"],
        ...[server(), 'e2e_depth{queue="red"}'],
      ),
    ).toEqual([
      'e2e_depth{queue="red"} =>',
      `59 @[${seconds(END - MINUTE)}]`,
      `60 @[${end}]`,
    ]);
    expect(await run("query", "series", "--match", 'e2e_depth{queue="red"}', server()))
      .toEqual(['{__name__="e2e_depth", queue="red"}']);
    expect(await run("query", "labels", "--match", 'e2e_depth{queue="red"}', server(), "queue"))
      .toEqual(["red"]);
    await expect(run("query", "instant", server(), "sum(")).rejects.toMatchObject({
      stderr: expect.stringMatching(/bad_data: invalid parameter "query": 1:\d+: parse error/),
    });
  });
});

describe("a Prometheus", () => {
  it("scrapes /metrics", async ({ skip }) => {
    if (!existsSync(PROMETHEUS)) skip(`there is no ${PROMETHEUS} here`);
    const folder = await mkdtemp(join(tmpdir(), "pgvigil-prometheus-"));
    const [port, { host, pathname }] = [await freePort(), new URL(base())];
    await writeFile(
      join(folder, "prometheus.yml"),
      JSON.stringify({
        scrape_configs: [{
          job_name: "pgvigil",
          scrape_interval: "2s",
          honor_labels: true,
          metrics_path: `${pathname}/metrics`,
          authorization: { credentials: token },
          static_configs: [{ targets: [host] }],
        }],
      }),
    );
    const prometheus = spawn(PROMETHEUS, [
      `--config.file=${folder}/prometheus.yml`,
      `--storage.tsdb.path=${folder}/data`,
      `--web.listen-address=127.0.0.1:${port}`,
    ], { stdio: "ignore" });
    try {
      const query = async (expr: string) => {
        const response = await fetch(
          `http://127.0.0.1:${port}/api/v1/query?${new URLSearchParams({ query: expr })}`,
        );
        return (await response.json()).data.result;
      };
      await vi.waitFor(async () => {
        expect(await query('up{job="pgvigil"}')).toMatchObject([{
          value: [expect.anything(), "1"],
        }]);
      }, { timeout: 40_000, interval: 250 });
      expect(await query('e2e_jobs_total{queue="red"}')).toMatchObject([{
        metric: { queue: "red", job: "pgvigil" },
        value: [expect.anything(), "360"],
      }]);
      expect(await query("histogram_quantile(0.5, e2e_wait_seconds_bucket)"))
        .toMatchObject([{ value: [expect.anything(), "0.75"] }]);
    } finally {
      const ended = new Promise((resolve) => prometheus.once("exit", resolve));
      prometheus.kill();
      await ended;
      await rm(folder, { recursive: true, force: true });
    }
  });
});

describe("save-rules", () => {
  const FILE = `groups:
  - name: e2e
    rules:
      - alert: Deep
        expr: e2e_depth > 1000
`;
  async function save(headers: Record<string, string>, file: string) {
    const response = await fetch(`${stack.facts.functions_url}/save-rules`, {
      method: "POST",
      headers: { "content-type": "application/yaml", ...headers },
      body: file,
    });
    return { status: response.status, body: await response.json() };
  }
  const withKey = () => ({ apikey: stack.facts.secret_key });
  const namesOf = async () => {
    const { rows } = await db.query(
      "select name from monitor.alert_rules where group_name = 'e2e'",
    );
    return rows.map(({ name }) => name);
  };

  it("saves the rules of a file, which the API then lists", async () => {
    expect(await save(withKey(), FILE)).toEqual({
      status: 200,
      body: { inserted: 1, updated: 0, unchanged: 0, deleted: 0, unlisted: 0, warnings: [] },
    });
    const { body } = await ask("rules", { "rule_name[]": "Deep" });
    expect(body.data.groups).toMatchObject([{
      name: "e2e",
      rules: [{ query: "e2e_depth > 1000" }],
    }]);
  });

  it("refuses a rule that does not parse, with its place, and saves none", async () => {
    const before = await namesOf();
    expect(await save(withKey(), `${FILE}      - { alert: Broken, expr: "sum(e2e_depth" }\n`))
      .toMatchObject({
        status: 422,
        body: {
          type: "urn:pgvigil:problem:rules",
          errors: [{
            line: 6,
            group: "e2e",
            rule: "Broken",
            detail: expect.stringMatching(/1:\d+: /),
          }],
        },
      });
    expect(await namesOf()).toEqual(before);
  });

  it("says what the database refuses", async () => {
    const linked = `${FILE}        annotations: { runbook_url: nowhere }\n`;
    const { status, body } = await save(withKey(), linked);
    expect([status, body.detail]).toEqual([
      422,
      expect.stringMatching(/^rule 1 of group "e2e": .*runbook_url_shape/),
    ]);
  });

  it("is not for a user who is no admin, nor for a token", async () => {
    const before = await namesOf();
    const signedUp = await fetch(`${stack.facts.api_url}/auth/v1/signup`, {
      method: "POST",
      headers: { apikey: stack.facts.publishable_key, "content-type": "application/json" },
      body: JSON.stringify({ email: "rules@example.com", password: "a long password" }),
    });
    const { access_token } = await signedUp.json();
    const file = FILE.replace("Deep", "Theirs");
    expect(await save({ authorization: `Bearer ${access_token}` }, file)).toMatchObject({
      status: 403,
      body: { type: "urn:pgvigil:problem:forbidden" },
    });
    expect((await save({ authorization: `Bearer ${token}` }, file)).status).toBe(401);
    expect(await namesOf()).toEqual(before);
  });
});

describe("docs/rules.md", () => {
  const page = readFileSync(new URL("../../docs/rules.md", import.meta.url), "utf8");
  const command = [...page.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map(([, code]) => code!)
    .find((code) => code.includes("curl"))!;
  const [, file] = /^```yaml\n([\s\S]*?)^```/m.exec(page)!;

  it("has a command that does as it says, once its example is saved", async () => {
    const folder = await mkdtemp(join(tmpdir(), "pgvigil-rules-"));
    const run = async (code: string) =>
      (await promisify(execFile)("bash", ["-euo", "pipefail", "-c", code], {
        cwd: folder,
        env: { PATH: process.env.PATH },
      })).stdout;
    try {
      await mkdir(join(folder, ".local"));
      await writeFile(join(folder, ".local/stack.json"), JSON.stringify(stack.facts));
      await writeFile(join(folder, "sessions.rules.yaml"), file!);
      expect(await run(command.replace("?dry_run=true", ""))).toContain('"inserted":2');
      expect(`# ${await run(command)}`).toBe(command.trimEnd().split("\n").at(-1));
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});

describe("docs/prometheus.md", () => {
  const page = readFileSync(new URL("../../docs/prometheus.md", import.meta.url), "utf8");
  const commands = [...page.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map(([, code]) => code!)
    .filter((code) => code.includes("curl"));

  const setUp = [...page.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map(([, code]) => code!)
    .find((code) => code.includes("stack.json"))!;
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "pgvigil-page-"));
    await mkdir(join(folder, ".local"));
    await writeFile(join(folder, ".local/stack.json"), JSON.stringify(stack.facts));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  /** What a command prints in the folder of a local stack. */
  const run = async (command: string) =>
    (await promisify(execFile)("bash", ["-euo", "pipefail", "-c", `${setUp}${command}`], {
      cwd: folder,
      env: { PATH: process.env.PATH },
    })).stdout;

  it("has commands that do as they say", async () => {
    expect(commands).toHaveLength(4);
    for (const command of commands) {
      const stdout = await run(command);
      if (command.includes("/metrics")) expect(stdout).toMatch(/\n# EOF\n$/);
      else expect(JSON.parse(stdout), command).toMatchObject({ status: "success" });
    }
  });

  it("has examples that find something on a new stack", async () => {
    const [connections, , states] = commands;
    expect(JSON.parse(await run(connections!)).data.result).not.toEqual([]);
    expect(JSON.parse(await run(states!)).data).toContain("active");
  });
});
