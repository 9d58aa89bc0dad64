import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import process from "node:process";
import { serve } from "@hono/node-server";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import {
  KEYS,
  OTHER_RUN_ID,
  sampleAccessToken,
  sampleFactsRow,
  sampleToken,
  sampleVariables,
} from "../fixtures.ts";

/** The functions as they are wired, over real HTTP, on a stand-in of the REST API. */
type Answer = (args: Record<string, unknown>, headers: IncomingMessage["headers"]) => unknown;

const NAMES = [
  "collect-metrics",
  "detect-anomalies",
  "data-retention-cleanup",
  "evaluate-alerts",
  "deliver-notifications",
  "health",
  "ingest-metrics",
  "save-rules",
] as const;
const JOBS = NAMES.slice(0, 5);
const ADMIN = sampleToken({ exp: Date.now() / 1000 + 3600, sub: "admin" });
const USER = sampleToken({ exp: Date.now() / 1000 + 3600, sub: "user" });
const TOKEN = sampleAccessToken(1);
const READ_TOKEN = sampleAccessToken(2);
const WRONG_TOKEN = sampleAccessToken(3);
const hashOf = (token: string) => createHash("sha256").update(token).digest("hex");

const sampleRuleRow = (changes: object) => ({
  ...{ kind: "alerting", for_seconds: 0, keep_firing_for_seconds: 0, labels: {}, annotations: {} },
  ...{
    ...{ hold_count: null, hold_window: null, clear_expr: null },
    no_data_policy: "keep",
    severity: "warning",
    runbook_url: null,
    mode: "live",
    enabled: true,
  },
  ...{ group_name: "queue", interval_seconds: 60, refusal: null },
  state: {
    ...{ revision: 3, instances: [], health: "unknown", last_error: null },
    ...{ evaluated_at: null, evaluation_seconds: null },
  },
  ...changes,
});

const ANSWERS: Record<string, Answer> = {
  is_admin: (_args, { authorization }) => authorization === `Bearer ${ADMIN}`,
  start_job: ({ p_run_id, p_scheduled_at }) => ({
    outcome: "started",
    run_id: p_run_id,
    scheduled_at: p_scheduled_at,
  }),
  finish_job: ({ p_outcome }) => ({ state: p_outcome }),
  plan_collection: () => ({
    collectors: ["collect_a", "collect_b"].map((collector) => ({ collector, timeout_seconds: 2 })),
    skipped: [],
  }),
  collect_a: () => [{ metric: "a", labels: {}, value: 1 }],
  collect_b: () => {
    throw new Error("broken");
  },
  record_collection: ({ p_results }) => ({
    inserted: (p_results as { samples: unknown[] }[]).flatMap(({ samples }) => samples).length,
    duplicates: 0,
    overflowed: 0,
    rejected: [],
  }),
  read_detection_page: () => ({ series: [], next_series_id: null }),
  read_replay_slice: () => null,
  plan_evaluation: () => ({
    rules: [
      sampleRuleRow({ rule_id: 1, name: "High", expr: "queue_depth > 10" }),
      sampleRuleRow({ rule_id: 2, name: "Broken", expr: "sum(" }),
    ],
  }),
  read_selections: ({ p_selections }) => {
    const [{ until }] = p_selections as [{ until: number }];
    const series = [{ metric: "queue_depth", labels: {}, in: [0], clock: 0, values: [12] }];
    return JSON.stringify({ clocks: [[until]], series, samples: 1 });
  },
  record_evaluation: ({ p_results }) => {
    const results = p_results as { error: string | null }[];
    const errors = results.flatMap(({ error }) =>
      error === null ? [] : [{ group: "queue", rule: "Broken", error }]
    );
    return {
      ...{ recorded: results.length, failed: errors.length, stale: 0, errors },
      samples: { inserted: 0, duplicates: 0, overflowed: 0, rejected: [] },
      alerts: {
        ...{ opened: 1, reopened: 0, held: 0, resolved: 0, told: 1 },
        incidents: { opened: 0, escalated: 0, failed: 0, failures: [] },
      },
    };
  },
  flush_alerts: () => ({ told: 0 }),
  lease_notifications: () => ({
    ...{ notifications: [], now: new Date().toISOString(), time_zone: "UTC", external_url: null },
  }),
  wake_deliverer: () => ({ invoked: false, wait_seconds: null }),
  list_retention_steps: () => ["job_runs"],
  run_retention_step: ({ p_entity }) => ({
    ...{
      entity: p_entity,
      outcome: "nothing",
      counts: {},
      oldest_kept_at: null,
      duration_seconds: 0,
    },
    ...{ more: false, detail: null },
  }),
  check_access_token: ({ p_token_hash }) => {
    const scope = p_token_hash === hashOf(TOKEN)
      ? "ingest"
      : p_token_hash === hashOf(READ_TOKEN)
      ? "read"
      : null;
    return scope && { token_id: 1, name: "shop", scopes: [scope], expires_at: null };
  },
  ingest_samples: ({ p_series, p_positions }) => {
    const [{ metric }] = p_series as [{ metric: string }];
    if (metric === "broken") throw new Error("broken");
    const inserted = (p_positions as number[]).length;
    return { inserted, duplicates: 0, overflowed: 0, rejected: [] };
  },
  save_rules: ({ p_groups }) => {
    const inserted = (p_groups as { rules: unknown[] }[]).flatMap(({ rules }) => rules).length;
    return { inserted, updated: 0, unchanged: 0, deleted: 0, unlisted: 0 };
  },
  read_health: () => sampleFactsRow(new Date()),
};

let wakings = 0;
let calls: {
  rpc: string;
  args: Record<string, unknown>;
  apikey: string | undefined;
  schema: string | undefined;
}[] = [];
let api: Server;
const urls: Record<string, string> = {};
const servers: Server[] = [];
const before = { ...process.env };

beforeAll(async () => {
  api = createServer(async (incoming, outgoing) => {
    const chunks: Uint8Array[] = [];
    for await (const chunk of incoming) chunks.push(chunk);
    const args = JSON.parse(Buffer.concat(chunks).toString() || "{}");
    const rpc = incoming.url!.replace("/rest/v1/rpc/", "");
    const { apikey, "content-profile": schema } = incoming.headers as Record<string, string>;
    // In the background of a test before, perhaps.
    if (rpc === "wake_deliverer") wakings += 1;
    else calls.push({ rpc, args, apikey, schema });
    outgoing.setHeader("content-type", "application/json");
    try {
      outgoing.end(JSON.stringify(ANSWERS[rpc]!(args, incoming.headers)));
    } catch {
      outgoing.statusCode = 400;
      outgoing.end(
        JSON.stringify({ code: "22012", message: "division by zero", details: null, hint: null }),
      );
    }
  });
  await new Promise<void>((resolve) => api.listen(0, "127.0.0.1", resolve));
  const { port } = api.address() as AddressInfo;
  Object.assign(process.env, sampleVariables(`http://127.0.0.1:${port}`));

  const modules = {
    "collect-metrics": await import("../../supabase/functions/collect-metrics/index.ts"),
    "detect-anomalies": await import("../../supabase/functions/detect-anomalies/index.ts"),
    "data-retention-cleanup": await import(
      "../../supabase/functions/data-retention-cleanup/index.ts"
    ),
    "evaluate-alerts": await import("../../supabase/functions/evaluate-alerts/index.ts"),
    "deliver-notifications": await import(
      "../../supabase/functions/deliver-notifications/index.ts"
    ),
    "health": await import("../../supabase/functions/health/index.ts"),
    "ingest-metrics": await import("../../supabase/functions/ingest-metrics/index.ts"),
    "save-rules": await import("../../supabase/functions/save-rules/index.ts"),
  };
  // Only now: a package warns of Node 20 when it is loaded.
  for (const level of ["info", "warn", "error"] as const) {
    vi.spyOn(console, level).mockImplementation(() => {});
  }
  for (const name of NAMES) {
    const { fetch } = modules[name].default;
    await new Promise<void>((resolve) => {
      const server = serve({ fetch, hostname: "127.0.0.1", port: 0 }, ({ port }) => {
        urls[name] = `http://127.0.0.1:${port}/${name}`;
        resolve();
      });
      servers.push(server as Server);
    });
  }
});

beforeEach(() => {
  calls = [];
});

afterAll(async () => {
  await Promise.all(
    [api, ...servers].map((server) => new Promise((resolve) => server.close(resolve))),
  );
  process.env = before;
  vi.restoreAllMocks();
});

const post = async (name: string, headers: Record<string, string>, body?: string) => {
  const response = await fetch(urls[name]!, {
    method: "POST",
    headers,
    ...(body !== undefined && { body }),
  });
  return { status: response.status, headers: response.headers, body: await response.json() };
};
const called = () => calls.map(({ rpc }) => rpc);

describe.each(JOBS)("POST %s", (name) => {
  it.each<[string, Record<string, string>, number]>([
    ["no credentials", {}, 401],
    ["the publishable key", { apikey: KEYS.publishable }, 401],
    ["a wrong key", { apikey: "sb_secret_wrong" }, 401],
    ["a secret key in Authorization", { authorization: `Bearer ${KEYS.cron}` }, 401],
    ["a user who is no admin", { authorization: `Bearer ${USER}` }, 403],
    ["a secret key that is not for us", { apikey: KEYS.reports }, 403],
  ])("refuses %s and does nothing", async (_name, headers, status) => {
    const answer = await post(name, headers, "{}");
    expect(answer.status).toBe(status);
    expect(answer.headers.get("content-type")).toBe("application/problem+json");
    expect(answer.headers.get("x-run-id")).toMatch(/^[0-9a-f-]{36}$/);
    expect(called().filter((rpc) => rpc !== "is_admin")).toEqual([]);
  });

  it.each<[string, Record<string, string>]>([
    ["the default key", { apikey: KEYS.default }],
    ["the cron key", { apikey: KEYS.cron }],
    ["the next cron key", { apikey: KEYS.cron_next }],
    ["an admin", { authorization: `Bearer ${ADMIN}` }],
  ])("runs for %s, as service_role in the schema monitor", async (_name, headers) => {
    const { status, body } = await post(name, headers);
    expect([status, body.outcome]).toEqual([200, "succeeded"]);
    expect(body.job).toBe(name);
    const work = calls.filter(({ rpc }) => rpc !== "is_admin");
    expect(work.map(({ rpc }) => rpc)).toEqual(expect.arrayContaining(["start_job", "finish_job"]));
    expect(work.at(-1)!.rpc).toBe("finish_job");
    expect(new Set(work.map(({ apikey }) => apikey))).toEqual(new Set([KEYS.default]));
    expect(new Set(calls.map(({ schema }) => schema))).toEqual(new Set(["monitor"]));
  });

  it("takes the call that cron makes", async () => {
    const body = JSON.stringify({ scheduled_at: new Date().toISOString() });
    const answer = await post(name, {
      apikey: KEYS.cron,
      "x-run-id": OTHER_RUN_ID,
      "content-type": "application/json",
    }, body);
    expect([answer.status, answer.body.run_id]).toEqual([200, OTHER_RUN_ID]);
    expect(calls[0]).toMatchObject({
      rpc: "start_job",
      args: { p_job: name, p_run_id: OTHER_RUN_ID, p_trigger: "cron" },
    });
  });

  it.each([["GET"], ["PUT"], ["DELETE"]])("refuses %s", async (method) => {
    const response = await fetch(urls[name]!, { method, headers: { apikey: KEYS.cron } });
    expect([response.status, response.headers.get("allow")]).toEqual([405, "POST, OPTIONS"]);
    await response.body?.cancel();
    expect(calls).toEqual([]);
  });

  it("refuses a field it does not know, naming it", async () => {
    const { status, body } = await post(name, { apikey: KEYS.cron }, '{"dryrun":true}');
    expect([status, body.errors[0].pointer]).toEqual([422, "#/dryrun"]);
    expect(calls).toEqual([]);
  });

  it("lets pages of an allowed origin ask, and no other", async () => {
    const ask = async (origin: string) => {
      const headers = { origin, "access-control-request-method": "POST" };
      return (await fetch(urls[name]!, { method: "OPTIONS", headers })).headers.get(
        "access-control-allow-origin",
      );
    };
    expect(await ask("https://admin.test")).toBe("https://admin.test");
    expect(await ask("https://evil.test")).toBeNull();
  });
});

describe("POST collect-metrics", () => {
  it("stores what the good collector returned, and reports the broken one", async () => {
    const { body } = await post("collect-metrics", { apikey: KEYS.cron });
    expect(body).toMatchObject({
      samples: { inserted: 1, duplicates: 0, overflowed: 0, rejected: 0 },
      collectors: [
        { collector: "collect_a", outcome: "ok", rows: 1 },
        { collector: "collect_b", outcome: "failed", rows: 0, error: "division by zero (22012)" },
      ],
    });
  });
});

describe("POST evaluate-alerts", () => {
  it("stores what the good rule came to, and reports the broken one", async () => {
    const { body } = await post("evaluate-alerts", { apikey: KEYS.cron });
    expect(body).toMatchObject({
      ...{ evaluated: 1, failed: 1, pending: 0, firing: 1, recorded_samples: 0 },
      errors: [{ group: "queue", rule: "Broken", error: expect.stringContaining("parse error") }],
    });
    expect(called()).toEqual([
      ...["start_job", "plan_evaluation", "read_health", "read_selections", "record_evaluation"],
      "finish_job",
    ]);
    const { args } = calls.find(({ rpc }) => rpc === "record_evaluation")!;
    expect(args.p_now).toBe(body.scheduled_at);
    expect(args.p_results).toMatchObject([
      { rule_id: 1, revision: 3, error: null, instances: [{ state: "firing", last_value: "12" }] },
      { rule_id: 2, revision: 3, error: expect.any(String) },
    ]);
  });
});

describe("POST deliver-notifications", () => {
  it("leases each kind of channel by itself, and looks what is due next once it has ended", async () => {
    const before = wakings;
    const { body } = await post("deliver-notifications", { apikey: KEYS.cron });
    expect(body).toMatchObject({
      ...{ told: 0, sent: 0, retried: 0, parked: 0, stale: 0, complete: true },
    });
    expect(called().filter((rpc) => rpc === "lease_notifications")).toHaveLength(3);
    const kinds = calls.filter(({ rpc }) => rpc === "lease_notifications")
      .flatMap(({ args }) => args.p_kinds as string[]);
    expect(kinds.toSorted()).toEqual(["email", "heartbeat", "pagerduty", "slack", "webhook"]);
    expect(called().at(-1)).toBe("finish_job");
    await vi.waitFor(() => expect(wakings).toBeGreaterThan(before));
  });
});

describe("POST data-retention-cleanup", () => {
  it("is no run when it only looks", async () => {
    const { status, body } = await post(
      "data-retention-cleanup",
      { apikey: KEYS.cron },
      '{"dry_run":true}',
    );
    expect([status, body.dry_run]).toEqual([200, true]);
    expect(called()).toEqual(["list_retention_steps", "run_retention_step"]);
    expect(calls[1]!.args).toEqual({ p_entity: "job_runs", p_run_id: null, p_dry_run: true });
  });

  it("refuses an entity that there is not, before there is a run", async () => {
    const { status, body } = await post(
      "data-retention-cleanup",
      { apikey: KEYS.cron },
      '{"entities":["users"]}',
    );
    expect([status, body.errors[0].pointer]).toEqual([422, "#/entities/0"]);
    expect(called()).toEqual(["list_retention_steps"]);
  });
});

describe("GET health", () => {
  it("costs one query for a thousand pings, and none for those who ask whether it lives", async () => {
    const paths = ["", "?check=ready", "?check=live"];
    const statuses = new Set<number>();
    const startedAt = Date.now();
    for (let n = 0; n < 1000; n += 50) {
      const responses = await Promise.all(
        Array.from({ length: 50 }, (_, m) => fetch(`${urls["health"]}${paths[(n + m) % 3]}`)),
      );
      for (const response of responses) {
        statuses.add(response.status);
        await response.body?.cancel();
      }
    }
    expect([...statuses]).toEqual([200]);
    // Each five seconds cost one, should the machine be as slow as that.
    expect(called().length).toBeLessThanOrEqual(1 + Math.floor((Date.now() - startedAt) / 5000));
    expect(new Set(called())).toEqual(new Set(["read_health"]));
  });

  it("asks for nobody who wants to know whether it lives", async () => {
    for (const headers of [{ authorization: `Bearer ${USER}` }, { apikey: "sb_secret_wrong" }]) {
      const response = await fetch(`${urls["health"]}?check=live`, { headers });
      expect([response.status, await response.json()]).toEqual([200, {
        status: "healthy",
        age_seconds: 0,
      }]);
    }
    expect(called()).toEqual([]);
  });

  it("tells who has a key everything, and refuses who has a wrong one", async () => {
    const ask = async (headers: Record<string, string>) => {
      const response = await fetch(urls["health"]!, { headers });
      return { status: response.status, body: await response.json() };
    };
    expect((await ask({ apikey: KEYS.cron })).body).toHaveProperty(
      "components.jobs.collect-metrics",
    );
    expect((await ask({ authorization: `Bearer ${ADMIN}` })).body).toHaveProperty("components");
    expect((await ask({ apikey: KEYS.publishable })).body).not.toHaveProperty("components");
    expect((await ask({ apikey: "sb_secret_wrong" })).status).toBe(401);
    const user = await ask({ authorization: `Bearer ${USER}` });
    expect([user.status, Object.keys(user.body)]).toEqual([200, ["status", "age_seconds"]]);
  });
});

describe("POST ingest-metrics", () => {
  const send = (token: string, samples: unknown[], header: "apikey" | "authorization") =>
    post(
      "ingest-metrics",
      { [header]: header === "apikey" ? token : `Bearer ${token}` },
      JSON.stringify({ samples }),
    );
  const good = [{ metric: "queue_depth", value: 1 }];

  it.each(["apikey", "authorization"] as const)("takes a token in %s", async (header) => {
    const { status, body } = await send(TOKEN, good, header);
    expect([status, body.inserted]).toEqual([200, 1]);
    expect(calls.at(-1)).toMatchObject({
      rpc: "ingest_samples",
      args: { p_positions: [1], p_values: [1] },
      apikey: KEYS.default,
      schema: "monitor",
    });
    expect(JSON.stringify(calls)).not.toContain(TOKEN);
  });

  it.each([[WRONG_TOKEN, 401], [`${TOKEN}0`, 401], [READ_TOKEN, 403], [USER, 401]])(
    "refuses %s with %i, and repeats it to nobody",
    async (token, expected) => {
      for (const header of ["apikey", "authorization"] as const) {
        const { status, body } = await send(token, good, header);
        expect(status).toBe(expected);
        expect(JSON.stringify(body)).not.toContain(token);
      }
      expect(called().filter((rpc) => rpc !== "check_access_token")).toEqual([]);
    },
  );

  it("says nothing more of a surprise than that there was one", async () => {
    const { status, body } = await send(TOKEN, [{ metric: "broken", value: 1 }], "apikey");
    expect([status, body.type]).toEqual([500, "urn:pgvigil:problem:internal"]);
    expect(JSON.stringify(body)).not.toContain("division");
  });

  it("logs what it refused, also where a token was sent for the name of a metric", async () => {
    const samples = [...good, { metric: TOKEN, value: "1" }, { metric: `a ${TOKEN}`, value: 1 }];
    const before = vi.mocked(console.warn).mock.calls.length;
    const { status, body } = await send(TOKEN, samples, "authorization");
    expect([status, body.rejected_count]).toEqual([200, 2]);
    const lines = vi.mocked(console.warn).mock.calls.slice(before).map(([line]) => line);
    expect(lines).toEqual([expect.stringContaining("pgv_…")]);
  });
});

describe("POST save-rules", () => {
  const file = (expr: string) => `groups: [{name: g, rules: [{alert: A, expr: "${expr}"}]}]`;
  const save = (headers: Record<string, string>, expr = "up == 0") =>
    post("save-rules", { ...headers, "content-type": "application/yaml" }, file(expr));

  it.each<[string, Record<string, string>]>([
    ["a key", { apikey: KEYS.default }],
    ["an admin", { authorization: `Bearer ${ADMIN}` }],
  ])("saves for %s", async (_name, headers) => {
    const { status, body } = await save(headers);
    expect([status, body.inserted]).toEqual([200, 1]);
    expect(calls.at(-1)).toMatchObject({
      rpc: "save_rules",
      args: { p_groups: [{ name: "g" }], p_replace: false, p_dry_run: false },
      apikey: KEYS.default,
      schema: "monitor",
    });
  });

  it.each<[string, Record<string, string>, number]>([
    ["no credentials", {}, 401],
    ["the publishable key", { apikey: KEYS.publishable }, 401],
    ["an access token", { authorization: `Bearer ${TOKEN}` }, 401],
    ["a user who is no admin", { authorization: `Bearer ${USER}` }, 403],
  ])("refuses %s and saves nothing", async (_name, headers, expected) => {
    expect((await save(headers)).status).toBe(expected);
    expect(called()).not.toContain("save_rules");
  });

  it("refuses a rule that does not parse, with its place, and saves nothing", async () => {
    const { status, headers, body } = await save({ apikey: KEYS.default }, "sum(");
    expect([status, headers.get("content-type")]).toEqual([422, "application/problem+json"]);
    expect(body.errors).toMatchObject([{ line: 1, column: expect.any(Number), rule: "A" }]);
    expect(called()).not.toContain("save_rules");
  });
});

describe("the log", () => {
  it("is JSON by the line and has held no key nor token in all of this", () => {
    const lines = [console.info, console.warn, console.error]
      .flatMap((method) => vi.mocked(method).mock.calls.map(([line]) => String(line)));
    expect(lines.length).toBeGreaterThan(20);
    for (const line of lines) {
      expect(() => JSON.parse(line)).not.toThrow();
      for (const secret of [...Object.values(KEYS), ADMIN, USER, TOKEN, READ_TOKEN, WRONG_TOKEN]) {
        expect(line).not.toContain(secret);
      }
    }
  });
});
