/** Sending metrics to the whole stack, with what applications send them with: the OpenTelemetry SDK, and curl. */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import process from "node:process";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { OTLPMetricExporter as JsonExporter } from "@opentelemetry/exporter-metrics-otlp-http";
import { OTLPMetricExporter as ProtobufExporter } from "@opentelemetry/exporter-metrics-otlp-proto";
import { resourceFromAttributes } from "@opentelemetry/resources";
import {
  AggregationTemporality,
  AggregationType,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { PROJECT_ROOT } from "../../local/binaries.ts";
import { startTestStack, type TestStack } from "../stack.ts";

let stack: TestStack;
let db: pg.Client;
let token: string;

beforeAll(async () => {
  stack = await startTestStack({ cron: false });
  db = await stack.connect();
  token = await createToken("shop");
});

afterAll(() => stack?.stop());

async function createToken(name: string, scopes = "{ingest}"): Promise<string> {
  const { rows } = await db.query(
    "select monitor.create_access_token($1, $2) ->> 'token' as token",
    [name, scopes],
  );
  return rows[0].token;
}

const plainUrl = () => `${stack.facts.functions_url}/ingest-metrics`;
const otlpUrl = () => `${plainUrl()}/v1/metrics`;

/** What is stored of a metric whose name begins so: labels and values, oldest first. */
async function readStored(prefix: string) {
  const { rows } = await db.query<
    { metric: string; kind: string; unit: string; labels: Record<string, string>; values: number[] }
  >(
    `select metric, kind, unit, labels, array_agg(value order by recorded_at) as values
     from monitor.metric_definitions
     join monitor.metric_series using (metric)
     join monitor.metric_time_series using (series_id)
     where starts_with(metric, $1)
     group by series_id, metric, kind, unit, labels
     order by metric, labels ->> 'le' collate "C", labels::text`,
    [prefix],
  );
  return rows;
}

const post = (url: string, body: BodyInit, headers: Record<string, string> = {}) =>
  fetch(url, { method: "POST", body, headers: { authorization: `Bearer ${token}`, ...headers } });

/** The SDK as an application has it, but that it exports when it is told to. */
function startSdk(
  Exporter: typeof JsonExporter | typeof ProtobufExporter,
  temporalityPreference: AggregationTemporality,
  service: string,
  headers: Record<string, string> = { authorization: `Bearer ${token}` },
) {
  const exporter = new Exporter({
    url: otlpUrl(),
    headers,
    compression: "gzip" as never,
    temporalityPreference: temporalityPreference as never,
  });
  const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 });
  const provider = new MeterProvider({
    readers: [reader],
    resource: resourceFromAttributes({
      "service.name": service,
      "service.instance.id": "one",
      "deployment.environment.name": 'te"st\n😀',
    }),
    views: [{
      instrumentName: "*.duration",
      aggregation: {
        type: AggregationType.EXPLICIT_BUCKET_HISTOGRAM,
        options: { boundaries: [0.005, 1, 10] },
      },
    }],
  });
  return { meter: provider.getMeter("test", "1.0"), provider, reader };
}

const { CUMULATIVE, DELTA } = AggregationTemporality;

describe("the OpenTelemetry SDK", () => {
  it.each([
    ["protobuf", "cumulative", ProtobufExporter, CUMULATIVE],
    ["protobuf", "delta", ProtobufExporter, DELTA],
    ["json", "cumulative", JsonExporter, CUMULATIVE],
    ["json", "delta", JsonExporter, DELTA],
  ])("exports as %s, %s, with gzip", async (encoding, temporality, Exporter, preference) => {
    const prefix = `sdk_${encoding}_${temporality}`;
    const { meter, provider } = startSdk(Exporter, preference, prefix);
    const counter = meter.createCounter(`${prefix}.orders`, { description: "Orders." });
    const upDown = meter.createUpDownCounter(`${prefix}.open`);
    const histogram = meter.createHistogram(`${prefix}.duration`, { unit: "s" });
    const observed = [0.25, 0.75];
    meter.createObservableGauge(`${prefix}.usage`, { unit: "1" })
      .addCallback((result) => result.observe(observed.shift()!));

    counter.add(2, { "shop.name": 'a "b"\n\\ 😀 \0 é' });
    upDown.add(5);
    histogram.record(0.004);
    histogram.record(0.5);
    histogram.record(100);
    await provider.forceFlush();
    counter.add(3, { "shop.name": 'a "b"\n\\ 😀 \0 é' });
    upDown.add(-2);
    histogram.record(1);
    await provider.forceFlush();
    // The last export, as an application that ends makes it: nothing new, but for what is observed.
    observed.push(0.5);
    await provider.shutdown();

    const of = { job: prefix, instance: "one" };
    const stored = await readStored(prefix);
    const twice = (values: number[]) => values.slice(0, 2);
    const [orders, ...rest] = stored.filter(({ metric }) => metric.endsWith("_orders_total"));
    expect(rest).toEqual([]);
    expect(orders).toMatchObject({
      kind: "counter",
      unit: "count",
      labels: { ...of, shop_name: 'a "b"\n\\ 😀 \ufffd é' },
    });
    expect(twice(orders!.values)).toEqual([2, 5]);
    const open = stored.find(({ metric }) => metric === `${prefix}_open`);
    expect(open).toMatchObject({ kind: "gauge", labels: of });
    // What goes up and down is cumulative whatever is preferred: the SDK itself sees to that.
    expect(twice(open!.values)).toEqual([5, 3]);
    const usage = stored.find(({ metric }) => metric === `${prefix}_usage_ratio`);
    expect(usage).toMatchObject({ kind: "gauge", unit: "ratio", labels: of });
    expect(usage!.values).toEqual([0.25, 0.75, 0.5]);

    const parts = stored.filter(({ metric }) => metric.startsWith(`${prefix}_duration_seconds`));
    expect(parts.map(({ metric, labels, values }) => [
      metric.slice(prefix.length),
      labels.le,
      twice(values),
    ])).toEqual([
      ["_duration_seconds_bucket", "+Inf", [3, 4]],
      ["_duration_seconds_bucket", "0.005", [1, 1]],
      ["_duration_seconds_bucket", "1", [2, 3]],
      ["_duration_seconds_bucket", "10", [2, 3]],
      ["_duration_seconds_count", undefined, [3, 4]],
      ["_duration_seconds_sum", undefined, [100.504, 101.504]],
    ]);
    expect(new Set(parts.map(({ kind }) => kind))).toEqual(new Set(["counter"]));

    const info = (await readStored("target_info")).find(({ labels }) => labels.job === prefix);
    expect(info).toMatchObject({
      kind: "gauge",
      labels: { ...of, deployment_environment_name: 'te"st\n😀' },
    });
    expect(new Set(info!.values)).toEqual(new Set([1]));
  });

  it.each([
    ["an access token in apikey", () => ({ apikey: token })],
    ["a secret key as Bearer", () => ({ authorization: `Bearer ${stack.facts.secret_key}` })],
    ["a secret key in apikey", () => ({ apikey: stack.facts.cron_key })],
  ])("may send %s", async (name, headers) => {
    const prefix = `may_${name.replace(/\W/g, "_")}`;
    const { meter, provider } = startSdk(ProtobufExporter, CUMULATIVE, prefix, headers());
    meter.createCounter(prefix).add(1);
    await provider.shutdown();
    expect(await readStored(prefix)).toHaveLength(1);
  });
});

describe("a caller", () => {
  const statusOf = async (headers: Record<string, string>) => {
    const response = await fetch(plainUrl(), { method: "POST", headers, body: '{"samples":[]}' });
    await response.body?.cancel();
    return response.status;
  };

  it.each<[string, () => Record<string, string> | Promise<Record<string, string>>, number]>([
    ["without credentials", () => ({}), 401],
    ["with the publishable key", () => ({ apikey: stack.facts.publishable_key }), 401],
    [
      "with the publishable key as Bearer",
      () => ({ authorization: `Bearer ${stack.facts.publishable_key}` }),
      401,
    ],
    ["with a token nobody made", () => ({ apikey: `pgv_${"0".repeat(40)}` }), 401],
    ["with a token to read", async () => ({ apikey: await createToken("reader", "{read}") }), 403],
    ["with a token to send", () => ({ apikey: token }), 200],
  ])("%s", async (_name, headers, status) => {
    expect(await statusOf(await headers())).toBe(status);
  });

  it("is let in no more when the token is revoked", async () => {
    const revoked = await createToken("gone");
    await db.query("select monitor.revoke_access_token('gone')");
    // Not seen before its end: how long a known one goes on is a matter of the clock, tested where that is an argument.
    expect(await statusOf({ apikey: revoked })).toBe(401);
  });

  it("leaves a trace: when the token was used", async () => {
    expect(await statusOf({ apikey: token })).toBe(200);
    const { rows } = await db.query(
      "select last_used_at > now() - interval '5 minutes' as is_recent from monitor.access_tokens where name = 'shop'",
    );
    expect(rows).toEqual([{ is_recent: true }]);
  });
});

describe("plain JSON", () => {
  it("stores, and is stored once however often it is sent", async () => {
    const body = JSON.stringify({
      samples: Array.from({ length: 500 }, (_, n) => ({
        metric: `same_batch_${n % 5}`,
        value: n / 10,
        labels: { n: `${Math.floor(n / 10)}`, text: 'a "b"\n\\ 😀 é' },
        recorded_at: new Date(Math.floor(Date.now() / 1000) * 1000 - (n % 10) * 1000).toISOString(),
      })),
    });
    const answers = await Promise.all(
      Array.from({ length: 10 }, async () => {
        const response = await post(plainUrl(), body);
        expect(response.status).toBe(200);
        return await response.json();
      }),
    );
    const total = (field: string) => answers.reduce((sum, answer) => sum + answer[field], 0);
    expect(total("inserted")).toBe(500);
    expect(total("duplicates")).toBe(4500);
    const stored = await readStored("same_batch_");
    expect(stored.reduce((sum, { values }) => sum + values.length, 0)).toBe(500);
    expect(stored[0]!.labels.text).toBe('a "b"\n\\ 😀 é');
  });

  it("stores the good samples of a batch, and says what is wrong with the others", async () => {
    const at = (seconds: number) => new Date(Date.now() + seconds * 1000).toISOString();
    const response = await post(
      plainUrl(),
      `{"samples":[
        {"metric":"mixed_good","value":1},
        {"metric":"mixed bad","value":1},
        {"metric":"mixed_infinite","value":1e400},
        {"metric":"mixed_old","value":1,"recorded_at":"${at(-7 * 86_400 - 60)}"},
        {"metric":"mixed_early","value":1,"recorded_at":"${at(660)}"},
        {"metric":"active_incidents","value":1}
      ]}`,
    );
    expect(response.status).toBe(200);
    const { inserted, rejected } = await response.json();
    expect(inserted).toBe(1);
    expect(rejected.map(({ metric }: { metric: string }) => metric).toSorted()).toEqual(
      ["active_incidents", "mixed bad", "mixed_early", "mixed_infinite", "mixed_old"],
    );
    expect((await readStored("mixed_")).map(({ metric }) => metric)).toEqual(["mixed_good"]);
  });

  it("says 422 when nothing was stored", async () => {
    const response = await post(plainUrl(), '{"samples":[{"metric":"a b","value":1}]}');
    expect([response.status, response.headers.get("content-type")])
      .toEqual([422, "application/problem+json"]);
    expect(await response.json()).toMatchObject({ rejected: [{ metric: "a b", count: 1 }] });
  });

  it("stores 20,001 samples in one request, which takes two calls of the database", async () => {
    const body = (count: number) =>
      new Uint8Array(gzipSync(JSON.stringify({
        samples: Array.from({ length: count }, (_, n) => ({
          metric: "many",
          labels: { n: `${n % 500}` },
          value: n,
          recorded_at: new Date(Date.now() - Math.floor(n / 500) * 1000).toISOString(),
        })),
      })));
    const gzip = { "content-encoding": "gzip" };
    const response = await post(plainUrl(), body(20_001), gzip);
    expect([response.status, (await response.json()).inserted]).toEqual([200, 20_001]);
  });
});

describe("a database that does not answer in time", () => {
  it("is a reason to send again, which then changes nothing but what is missing", async () => {
    const body = JSON.stringify({
      resourceMetrics: [{
        scopeMetrics: [{
          metrics: [{
            name: "patient",
            gauge: { dataPoints: [{ asDouble: 1, timeUnixNano: `${Date.now()}000000` }] },
          }],
        }],
      }],
    });
    const send = () => post(otlpUrl(), body, { "content-type": "application/json" });
    const holder = new pg.Client({ connectionString: stack.facts.db_url });
    await holder.connect();
    try {
      await holder.query("begin; lock table monitor.metric_series in access exclusive mode");
      const late = await send();
      expect([late.status, late.headers.get("retry-after")]).toEqual([503, "5"]);
      expect(await late.json()).toMatchObject({ code: 14 });
    } finally {
      await holder.end();
    }
    expect((await send()).status).toBe(200);
    expect((await send()).status).toBe(200);
    expect(await readStored("patient")).toMatchObject([{ values: [1] }]);
  });
});

describe("a body", () => {
  const MIB = 1024 * 1024;
  const GZIP = { "content-encoding": "gzip" };

  it.each<[string, () => Uint8Array<ArrayBuffer>, Record<string, string>, number]>([
    ["of more than 4 MiB", () => new Uint8Array(4 * MIB + 1), {}, 413],
    ["that is a bomb", () => new Uint8Array(gzipSync(new Uint8Array(512 * MIB))), GZIP, 413],
    [
      "that is half a gzip",
      () => new Uint8Array(gzipSync(new Uint8Array(10_000))).slice(0, 20),
      GZIP,
      400,
    ],
    ["that is no gzip", () => new TextEncoder().encode("{}"), GZIP, 400],
    ["in an encoding nobody knows", () => new Uint8Array(), { "content-encoding": "br" }, 415],
  ])("%s is refused by each protocol in its own words", async (_name, make, headers, status) => {
    const body = make();
    const plain = await post(plainUrl(), body, headers);
    expect([plain.status, plain.headers.get("content-type")])
      .toEqual([status, "application/problem+json"]);
    await plain.body?.cancel();
    const type = "application/x-protobuf";
    const otlp = await post(otlpUrl(), body, { ...headers, "content-type": type });
    expect([otlp.status, otlp.headers.get("content-type")]).toEqual([status, type]);
    await otlp.body?.cancel();
  });

  it("of several megabytes is taken from curl, which asks before it sends one", async () => {
    const samples = Array.from({ length: 10_000 }, (_, n) => ({
      metric: "from_curl",
      value: n,
      labels: { n: `${n % 100}`, text: "x".repeat(200) },
      recorded_at: new Date(Date.now() - Math.floor(n / 100) * 1000).toISOString(),
    }));
    const curl = promisify(execFile)("curl", [
      ...["-sS", plainUrl(), "-H", `apikey: ${token}`, "-H", "expect: 100-continue"],
      ...["--data-binary", "@-"],
    ]);
    curl.child.stdin!.end(JSON.stringify({ samples }));
    expect(JSON.parse((await curl).stdout)).toMatchObject({ inserted: 10_000 });
  });

  it("at another address is refused with 404, by another method with 405", async () => {
    expect((await post(`${plainUrl()}/v1/traces`, "{}")).status).toBe(404);
    expect((await fetch(otlpUrl())).status).toBe(405);
  });
});

describe("docs/sending-metrics.md", () => {
  const page = readFileSync(new URL("../../docs/sending-metrics.md", import.meta.url), "utf8");
  const blocks = (language: string) =>
    [...page.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, "gm"))]
      .map(([, code]) => code!);
  const start = promisify(execFile);
  const run = async (program: string, ...args: string[]) =>
    await start(program, args, {
      cwd: PROJECT_ROOT,
      env: {
        PATH: process.env.PATH,
        PGVIGIL_URL: plainUrl(),
        PGVIGIL_TOKEN: token,
        SUPABASE_URL: stack.facts.api_url,
        SUPABASE_SECRET_KEY: stack.facts.secret_key,
      },
    });

  it("has a token made in SQL", async () => {
    for (const statement of blocks("sql")) await db.query(statement);
    const { rows } = await db.query(
      "select name from monitor.access_tokens where name = 'webshop'",
    );
    expect(rows).toHaveLength(1);
  });

  it("has commands that do as they say", async () => {
    const commands = blocks("sh").filter((code) => code.includes("curl"));
    expect(commands.length).toBeGreaterThanOrEqual(4);
    for (const command of commands) {
      const { stdout } = await run("bash", "-euo", "pipefail", "-c", command);
      expect(stdout, command).not.toMatch(/urn:pgvigil:problem|rejectedDataPoints/);
      expect(stdout, command).not.toContain('"code"');
    }
    const stored = await readStored("orders_");
    expect(stored.map(({ metric, labels }) => [metric, labels])).toEqual([
      ["orders_open", { job: "webshop" }],
      ["orders_open", { shop: "berlin" }],
      ["orders_open", { shop: "rome" }],
      ["orders_received_total", {}],
    ]);
  });

  it("has a program for Node that does as it says", async () => {
    const programs = blocks("js");
    expect(programs).toHaveLength(1);
    await run(process.execPath, "--input-type=module", "--eval", programs[0]!);
    expect(await readStored("orders_placed")).toMatchObject([
      { metric: "orders_placed_total", labels: { job: "webshop", payment_method: "card" } },
    ]);
  });

  it("has a program for Python without packages that does as it says", async ({ skip }) => {
    const program = blocks("python").find((code) => code.includes("urllib"));
    await run("python3", "--version").catch(() => skip("there is no python3 here"));
    const { stdout } = await run("python3", "-c", program!);
    expect(stdout).toContain("'inserted': 1");
    expect(await readStored("orders_exported")).toMatchObject([{ values: [42] }]);
  });
});
