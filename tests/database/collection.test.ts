import { randomUUID } from "node:crypto";
import fc from "fast-check";
import { describe, expect } from "vitest";
import { it, type Query, rpc } from "./database.ts";
import { addMetric, addRun, DAY, iso, MINUTE, NOON, range, SECOND } from "./seeds.ts";

interface Plan {
  collectors: { collector: string; timeout_seconds: number }[];
  skipped: { collector: string; reason: string }[];
}

const plan = (query: Query, at = NOON) =>
  rpc<Plan>(query, "plan_collection", { p_scheduled_at: iso(at) });

/** Why a collection at `at` leaves `collector` out, or null. */
const reasonOf = async (query: Query, collector: string, at = NOON) =>
  (await plan(query, at)).skipped.find((skipped) => skipped.collector === collector)?.reason ??
    null;

async function addCollector(
  asOwner: Query,
  name: string,
  body = "select monitor.sample('active_incidents', 7)",
) {
  await asOwner(`
    create function monitor.${name}(p_at timestamptz) returns jsonb language sql stable security definer
    set search_path = '' as $$ ${body} $$`);
  await asOwner("select monitor.register_collector($1, 'Of a test')", [name]);
}

const startRun = (query: Query, at = NOON) =>
  addRun(query, { scheduled_at: iso(at), started_at: iso(at), state: "running" });

const record = async (query: Query, results: unknown, at = NOON, run?: string) =>
  await rpc(query, "record_collection", {
    p_run_id: run ?? await startRun(query, at),
    p_scheduled_at: iso(at),
    p_results: results,
  });

const result = (collector: string, more: object = {}) => ({
  collector,
  duration_seconds: 0.1,
  error: null,
  samples: [],
  ...more,
});

async function readCollector(query: Query, collector: string) {
  return (await query("select * from monitor.metric_collectors where collector = $1", [collector]))
    .rows[0]!;
}

describe("monitor.plan_collection()", () => {
  it("calls every shipped collector the first time, each with its own time-out, but what cannot be measured here", async ({ query }) => {
    const { collectors, skipped } = await plan(query);
    expect(Object.fromEntries(collectors.map((known) => [known.collector, known.timeout_seconds])))
      .toEqual({
        collect_cron_runs: 2,
        collect_database_connections: 2,
        collect_database_counters: 2,
        collect_database_size: 5,
        collect_http_requests: 2,
        collect_http_server: 2,
        collect_incidents_and_alerts: 2,
        collect_ingestion: 5,
        collect_job_runs: 2,
        collect_replication_slots: 2,
        collect_storage: 5,
        collect_transactions: 2,
      });
    expect(skipped).toEqual([
      { collector: "collect_queues", reason: "pgmq.meta does not exist" },
      { collector: "collect_submissions", reason: "monitor.submissions does not exist" },
    ]);
  });

  it("names every collector once, whatever is wrong with it", async ({ query, asOwner, asSuperuser }) => {
    await asOwner("drop function monitor.collect_storage(timestamptz)");
    await asOwner(
      "update monitor.metric_collectors set is_enabled = false where collector = 'collect_transactions'",
    );
    await asSuperuser("drop extension pg_cron, pg_net");
    const { collectors, skipped } = await plan(query);
    expect(skipped).toEqual([
      { collector: "collect_cron_runs", reason: "cron.job_run_details does not exist" },
      { collector: "collect_http_requests", reason: "net.http_request_queue does not exist" },
      { collector: "collect_queues", reason: "pgmq.meta does not exist" },
      { collector: "collect_storage", reason: "function is missing" },
      { collector: "collect_submissions", reason: "monitor.submissions does not exist" },
      { collector: "collect_transactions", reason: "disabled" },
    ]);
    const { rows } = await query(
      "select collector from monitor.metric_collectors order by collector",
    );
    expect([...collectors, ...skipped].map(({ collector }) => collector).sort()).toEqual(
      rows.map(({ collector }) => collector),
    );
  });

  it("waits for the interval of a collector, not a moment longer", async ({ query }) => {
    await record(query, [result("collect_storage")]); // every 5 minutes
    expect(await reasonOf(query, "collect_storage", NOON + MINUTE)).toBe("not due");
    expect(await reasonOf(query, "collect_storage", NOON + 5 * MINUTE - 1)).toBe("not due");
    expect(await reasonOf(query, "collect_storage", NOON + 5 * MINUTE)).toBeNull();
  });

  it("asks the same collectors when a minute is repeated", async ({ query }) => {
    const before = await plan(query);
    await record(query, before.collectors.map(({ collector }) => result(collector)));
    expect(await plan(query)).toEqual(before);
  });

  it("says when a collector over its budget is due again", async ({ query }) => {
    await record(query, [result("collect_cron_runs", { duration_seconds: 3 })]);
    expect(await reasonOf(query, "collect_cron_runs", NOON + MINUTE)).toBe(
      "over budget, due again at 12:02 UTC",
    );
    expect(await reasonOf(query, "collect_cron_runs", NOON + 2 * MINUTE)).toBeNull();
  });

  it("recovers from a run whose clock stood in the future", async ({ query }) => {
    await record(query, [result("collect_cron_runs")], NOON + 400 * DAY);
    expect(await reasonOf(query, "collect_cron_runs", NOON)).toBeNull();
  });

  it.for([
    'public."no such table',
    "a.b.c.d",
    "closed.door",
    "",
    " ",
    "public.no table",
    "public.",
  ])(
    "leaves out, and no more, a collector of a relation that cannot be found: %o",
    async (relation, { query, asOwner, asSuperuser }) => {
      await addCollector(asOwner, "collect_odd");
      await asSuperuser(`
        create schema closed; create table closed.door (); revoke all on schema closed from public;
        revoke pg_read_all_data from postgres`);
      await asOwner(
        "update monitor.metric_collectors set required_relations = $1 where collector = 'collect_odd'",
        [[
          relation,
        ]],
      );
      expect((await plan(query)).collectors.length).toBeGreaterThan(5);
      expect(await reasonOf(query, "collect_odd")).toContain("does not exist");
    },
  );
});

describe("monitor.record_collection()", () => {
  it("stores samples under the scheduled minute, makes the day, and notes what each collector did", async ({ query }) => {
    expect(
      await record(query, [
        result("collect_incidents_and_alerts", {
          samples: [{ metric: "active_incidents", labels: {}, value: 2 }, {
            metric: "unresolved_alerts",
            value: 1,
          }],
        }),
        result("collect_storage", {
          error: "statement timeout",
          outcome: "timed_out",
          duration_seconds: 5.5,
        }),
        result("collect_cron_runs", { error: "x".repeat(501), samples: null }),
        result("collect_database_size", { samples: [{ metric: "no_such_metric", value: 1 }] }),
      ], NOON),
    ).toEqual({
      inserted: 2,
      duplicates: 0,
      overflowed: 0,
      rejected: [{ metric: "no_such_metric", labels: {}, reason: "unknown metric" }],
    });
    expect(await readCollector(query, "collect_incidents_and_alerts")).toMatchObject({
      last_run_at: new Date(NOON),
      last_outcome: "ok",
      last_sample_count: 2,
      last_duration_seconds: 0.1,
      last_error: null,
      backoff_factor: 1,
      next_due_at: new Date(NOON + MINUTE),
    });
    expect(await readCollector(query, "collect_storage")).toMatchObject({
      last_outcome: "timed_out",
      last_error: "statement timeout",
      last_sample_count: 0,
      last_duration_seconds: 5.5,
    });
    expect(await readCollector(query, "collect_cron_runs")).toMatchObject({
      last_outcome: "failed",
      last_error: "x".repeat(500),
    });
    expect(await readCollector(query, "collect_database_counters")).toMatchObject({
      last_run_at: null,
    });
    const { rows } = await query("select distinct recorded_at from monitor.metric_time_series");
    expect(rows).toEqual([{ recorded_at: new Date(NOON) }]);
  });

  it("adds nothing when the minute is repeated, not even from another run", async ({ query }) => {
    const samples = [{ metric: "active_incidents", value: 2 }];
    await record(query, [result("collect_incidents_and_alerts", { samples })]);
    const repeated = [
      result("collect_incidents_and_alerts", { samples: [{ ...samples[0], value: 3 }] }),
    ];
    const other = await addRun(query, {
      trigger: "manual",
      started_at: iso(NOON),
      state: "running",
    });
    expect(await record(query, repeated, NOON, other)).toEqual({
      inserted: 0,
      duplicates: 1,
      overflowed: 0,
      rejected: [],
    });
    expect((await query("select value from monitor.metric_time_series")).rows).toEqual([{
      value: 2,
    }]);
  });

  it("takes the samples of one collector although another's are none", async ({ query }) => {
    const odd = ["text", 7, { metric: "active_incidents" }, true];
    expect(
      await record(query, [
        ...odd.map((samples) => result("collect_storage", { samples })),
        result("collect_incidents_and_alerts", {
          samples: [{ metric: "active_incidents", value: 2 }],
        }),
      ]),
    ).toMatchObject({ inserted: 1 });
  });

  it("stores what a collector returned that nobody has registered, and notes nothing", async ({ query }) => {
    const samples = [{ metric: "active_incidents", value: 2 }];
    expect(await record(query, [result("collect_unknown", { samples })])).toMatchObject({
      inserted: 1,
    });
    expect(await readCollector(query, "collect_unknown")).toBeUndefined();
  });

  it.for([{}, "text", 1])("refuses %o instead of an array", async (results, { query }) => {
    const run = await startRun(query);
    await expect(
      query("select monitor.record_collection($1, now(), $2)", [run, JSON.stringify(results)]),
    ).rejects.toMatchObject({ code: "22023", hint: expect.any(String) });
  });

  it("refuses a run that nobody knows, or that has ended", async ({ query }) => {
    const ended = await addRun(query, { finished_at: iso(NOON), outcome: "succeeded" });
    for (const run of [randomUUID(), ended]) {
      await expect(record(query, [], NOON, run)).rejects.toMatchObject({
        code: "22023",
        message: expect.stringContaining("not running"),
      });
    }
  });
});

describe("the budget of a collector", () => {
  const CHEAP = 1.2; // 2 % of a minute
  const run = (query: Query, seconds: number, at: number, collector = "collect_cron_runs") =>
    record(query, [result(collector, { duration_seconds: seconds })], at);

  it.for(
    [
      ["collect_cron_runs", 60, CHEAP],
      ["collect_storage", 300, 6],
    ] as const,
  )(
    "of %s, due every %i s, is %d s, both sides",
    async ([collector, interval, budget], { query }) => {
      await run(query, budget, NOON, collector);
      expect(await readCollector(query, collector)).toMatchObject({
        backoff_factor: 1,
        next_due_at: new Date(NOON + interval * SECOND),
      });
      await run(query, budget + 0.001, NOON + DAY, collector);
      expect(await readCollector(query, collector)).toMatchObject({
        backoff_factor: 2,
        next_due_at: new Date(NOON + DAY + 2 * interval * SECOND),
      });
    },
  );

  it("follows the setting", async ({ query }) => {
    await query("update monitor.settings set cost_budget_ratio = 0.1");
    await run(query, 6, NOON);
    expect((await readCollector(query, "collect_cron_runs")).backoff_factor).toBe(1);
    await run(query, 6.001, NOON + MINUTE);
    expect((await readCollector(query, "collect_cron_runs")).backoff_factor).toBe(2);
  });

  it("doubles its interval until it fits, up to 64 times, and halves it while half would do", async ({ query }) => {
    const factors: number[] = [];
    for (const n of range(16)) {
      await run(query, n < 8 ? 1000 : 1, NOON + n * MINUTE);
      factors.push((await readCollector(query, "collect_cron_runs")).backoff_factor);
    }
    expect(factors).toEqual([2, 4, 8, 16, 32, 64, 64, 64, 32, 16, 8, 4, 2, 1, 1, 1]);
  });

  it("comes to rest where its cost fits, both sides", async ({ query }) => {
    let at = NOON;
    const settle = async (seconds: number) => {
      const factors = new Set<number>();
      for (const n of range(12)) {
        await run(query, seconds, at += MINUTE);
        if (n >= 8) factors.add((await readCollector(query, "collect_cron_runs")).backoff_factor);
      }
      return [...factors];
    };
    expect(await settle(1.5)).toEqual([2]);
    expect(await settle(2 * CHEAP)).toEqual([2]);
    expect(await settle(2 * CHEAP + 0.001)).toEqual([4]);
    expect(await settle(CHEAP)).toEqual([1]);
  });

  it("stays within 1 and 64 and moves one step a run, whatever the durations", async ({ query }) => {
    let at = NOON;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.double({ min: 0, max: 8, noNaN: true }), { maxLength: 12 }),
        async (durations) => {
          for (const seconds of durations) {
            const before = (await readCollector(query, "collect_cron_runs")).backoff_factor;
            await run(query, seconds, at += MINUTE);
            expect((await readCollector(query, "collect_cron_runs")).backoff_factor).toBe(
              seconds > CHEAP * before
                ? Math.min(before * 2, 64)
                : seconds <= CHEAP * before / 2
                ? Math.max(before / 2, 1)
                : before,
            );
          }
        },
      ),
      { numRuns: 10 },
    );
  });
});

describe("monitor.register_collector()", () => {
  it("makes a function a collector that service_role may call, cut after its time-out", async ({ query, asOwner }) => {
    await addCollector(asOwner, "collect_test");
    await asOwner(
      "select monitor.register_collector('collect_test', 'Other words', 120, 7, '{public.orders}')",
    );
    expect(await readCollector(query, "collect_test")).toMatchObject({
      description: "Other words",
      interval_seconds: 120,
      timeout_seconds: 7,
      required_relations: ["public.orders"],
      is_enabled: true,
    });
    expect(await rpc(query, "collect_test", { p_at: iso(NOON) })).toEqual([
      { metric: "active_incidents", labels: {}, value: 7 },
    ]);
    const { rows } = await asOwner(
      `select array_to_string(proconfig, ',') as settings, has_function_privilege('anon', oid, 'execute') as anon,
         has_function_privilege('authenticated', oid, 'execute') as authenticated
       from pg_proc where proname = 'collect_test'`,
    );
    expect(rows).toEqual([
      { settings: 'search_path="",statement_timeout=7s', anon: false, authenticated: false },
    ]);
  });

  it("keeps what was learnt of a collector when it is registered again", async ({ query, asOwner }) => {
    await record(query, [result("collect_storage", { duration_seconds: 60 })]);
    const before = await readCollector(query, "collect_storage");
    await asOwner("select monitor.register_collector('collect_storage', $1, 300, 5)", [
      before.description,
    ]);
    expect(await readCollector(query, "collect_storage")).toEqual(before);
  });

  it.for(
    [
      [
        "volatile",
        "(p_at timestamptz) returns jsonb language sql volatile as $$ select '[]'::jsonb $$",
      ],
      ["without an argument", "() returns jsonb language sql stable as $$ select '[]'::jsonb $$"],
      [
        "of another argument",
        "(p_at timestamp) returns jsonb language sql stable as $$ select '[]'::jsonb $$",
      ],
      [
        "of two arguments",
        "(a timestamptz, b int) returns jsonb language sql stable as $$ select '[]'::jsonb $$",
      ],
      [
        "returning json",
        "(p_at timestamptz) returns json language sql stable as $$ select '[]'::json $$",
      ],
      [
        "returning rows",
        "(p_at timestamptz) returns setof jsonb language sql stable as $$ select '[]'::jsonb $$",
      ],
      ["absent", null],
    ] as const,
  )("refuses a function that is %s", async ([, definition], { query, asOwner }) => {
    if (definition) await asOwner(`create function monitor.collect_test${definition}`);
    await expect(asOwner("select monitor.register_collector('collect_test', 'Of a test')")).rejects
      .toMatchObject({
        code: "22023",
        hint: expect.stringContaining("p_at timestamptz"),
      });
    expect(await readCollector(query, "collect_test")).toBeUndefined();
  });

  it("refuses a function of another schema, and names that are no function's", async ({ asOwner }) => {
    await asOwner(
      "create function public.collect_test(p_at timestamptz) returns jsonb language sql stable as $$ select '[]'::jsonb $$",
    );
    for (
      const name of [
        "collect_test",
        "public.collect_test",
        "x(timestamptz); drop table monitor.settings; --",
        "",
      ]
    ) {
      await expect(asOwner("select monitor.register_collector($1, 'Of a test')", [name])).rejects
        .toMatchObject({
          code: "22023",
        });
    }
  });

  it.for(
    [
      [59, 2, "metric_collectors_interval_seconds_whole_minutes"],
      [60, 2, null],
      [90, 2, "metric_collectors_interval_seconds_whole_minutes"],
      [86_400, 2, null],
      [86_460, 2, "metric_collectors_interval_seconds_whole_minutes"],
      [60, 0, "metric_collectors_timeout_seconds_in_range"],
      [60, 1, null],
      [60, 7, null],
      [60, 8, "metric_collectors_timeout_seconds_in_range"],
    ] as const,
  )(
    "takes an interval of %i s and a time-out of %i s: %s",
    async ([interval, timeout, constraint], { asOwner }) => {
      const call = asOwner(
        "select monitor.register_collector('collect_storage', 'Of a test', $1, $2)",
        [
          interval,
          timeout,
        ],
      );
      if (constraint) await expect(call).rejects.toMatchObject({ code: "23514", constraint });
      else await call;
    },
  );

  it("is for the owner alone", async ({ query, asUser }) => {
    for (const somebody of [query, asUser("")]) {
      await expect(somebody("select monitor.register_collector('collect_storage', 'x')")).rejects
        .toMatchObject({
          code: "42501",
        });
    }
  });
});

describe("a collector of somebody's own", () => {
  it("can be written as the documentation says", async ({ query, asOwner }) => {
    await asOwner("create table public.orders (state text)");
    await asOwner("insert into public.orders values ('waiting'), ('waiting'), ('sent')");
    const metric = await addMetric(asOwner);
    await addCollector(
      asOwner,
      "collect_orders",
      `select monitor.sample('${metric}', count(*)) from public.orders where state = 'waiting'`,
    );
    const samples = await rpc(query, "collect_orders", { p_at: iso(NOON) });
    expect(await record(query, [result("collect_orders", { samples })])).toMatchObject({
      inserted: 1,
    });
    expect(samples).toEqual([{ metric, labels: {}, value: 2 }]);
  });

  it.for([
    ["inserts", "insert into public.orders values ('x') returning '[]'::jsonb"],
    ["deletes", "delete from public.orders returning '[]'::jsonb"],
    ["updates", "update public.orders set state = 'x' returning '[]'::jsonb"],
  ])("fails when it %s", async ([, body], { query, asOwner }) => {
    await asOwner("create table public.orders (state text)");
    await addCollector(asOwner, "collect_orders", body!);
    await expect(rpc(query, "collect_orders", { p_at: iso(NOON) })).rejects.toMatchObject({
      code: "0A000",
    });
  });

  it("has no sample of what it does not know", async ({ asOwner }) => {
    expect(await rpc(asOwner, "sample", { p_metric: "a", p_value: null })).toEqual([]);
    expect(await rpc(asOwner, "sample", { p_metric: "a", p_value: 0, p_labels: { b: "c" } }))
      .toEqual([
        { metric: "a", labels: { b: "c" }, value: 0 },
      ]);
  });
});
