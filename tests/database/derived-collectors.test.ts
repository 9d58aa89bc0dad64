import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc } from "./database.ts";
import { addMetric, addSeries, DAY, HOUR, iso, MINUTE, NOON, openDays, range } from "./seeds.ts";

interface Sample {
  metric: string;
  labels: Record<string, string>;
  value: number;
}

type Labels = Readonly<Record<string, string>>;
type Values = readonly (readonly [number, number])[];

const COUNT = "http_server_request_duration_seconds_count";
const SUM = "http_server_request_duration_seconds_sum";
const OLD_COUNT = "http_server_duration_milliseconds_count";
const OLD_SUM = "http_server_duration_milliseconds_sum";

const collect = async (query: Query, collector: string, at = NOON) =>
  await rpc<Sample[]>(query, collector, { p_at: iso(at) });

/** Values by metric, and by its labels' values where it has any. */
const byName = (samples: Sample[]) =>
  Object.fromEntries(
    samples.map(({ metric, labels, value }) => [
      [metric, ...Object.values(labels)].join(" "),
      value,
    ]),
  );

/** Adds a series of a counter that senders bring, made when it says. */
async function addCounter(
  query: Query,
  metric: string,
  samples: Values,
  labels: Labels = {},
  createdAt = NOON - DAY,
): Promise<void> {
  await query(
    `insert into monitor.metric_definitions (metric, category, unit, kind, description, is_ingestible)
     values ($1, 'performance', 'count', 'counter', 'Of a test.', true) on conflict do nothing`,
    [metric],
  );
  const id = await addSeries(query, metric, samples, labels);
  await query("update monitor.metric_series set created_at = $2 where series_id = $1", [
    id,
    iso(createdAt),
  ]);
}

/** What a series was and is, at both ends of the last five minutes. */
const grewBy = (increase: number, from = 100): Values => [
  [NOON - 5 * MINUTE, from],
  [NOON, from + increase],
];

/** Adds the count of requests with one status, and their duration in seconds if it is told. */
async function addRequests(
  query: Query,
  status: string,
  count: number,
  { seconds, labels = {} }: { seconds?: number; labels?: Labels } = {},
): Promise<void> {
  const all = { ...labels, ...(status && { http_response_status_code: status }) };
  await addCounter(query, COUNT, grewBy(count), all);
  if (seconds !== undefined) await addCounter(query, SUM, grewBy(seconds), all);
}

describe("monitor.recent_increases()", () => {
  /** The increase of one series; undefined when it is left out. */
  async function increaseOf(
    { query, asOwner }: { query: Query; asOwner: Query },
    samples: Values,
    { createdAt = NOON - DAY, jobSince = NOON - DAY, labels = {} }: {
      createdAt?: number;
      jobSince?: number;
      labels?: Labels;
    } = {},
  ): Promise<number | null | undefined> {
    await openDays(query, NOON - DAY, 2);
    const metric = await addMetric(query, { kind: "counter" });
    // Another series of the job: when it was first heard of.
    await addCounter(query, metric, [], { job: "shop", other: "yes" }, jobSince);
    await addCounter(query, metric, samples, { job: "shop", ...labels }, createdAt);
    const { rows } = await asOwner<{ increase: number | null }>(
      "select increase from monitor.recent_increases(array[$1::text], $2)",
      [metric, iso(NOON)],
    );
    expect(rows.length).toBeLessThanOrEqual(1);
    return rows[0]?.increase;
  }

  const START = NOON - 5 * MINUTE;

  const CASES: Readonly<Record<string, { samples: Values; increase: number | null | undefined }>> =
    {
      "is the sum of the steps": {
        samples: [[START, 10], [NOON - 2 * MINUTE, 13], [NOON - MINUTE, 13], [NOON, 20]],
        increase: 10,
      },
      "is 0 when nothing was counted": { samples: [[START, 10], [NOON, 10]], increase: 0 },
      "starts with the last value at the start": {
        samples: [[START - MINUTE, 2], [START, 10], [NOON, 11]],
        increase: 1,
      },
      "or before it": {
        samples: [[START - 2 * MINUTE, 2], [START - MINUTE, 10], [START + 1, 11]],
        increase: 1,
      },
      "takes a sample just after the start as a step": {
        samples: [[START - MINUTE, 2], [START + 1, 10], [NOON, 11]],
        increase: 9,
      },
      "looks back 5 minutes for it": { samples: [[START - 5 * MINUTE, 4], [NOON, 9]], increase: 5 },
      "and no further": { samples: [[START - 5 * MINUTE - 1, 4], [NOON, 9]], increase: null },
      "then starts with the first value": {
        samples: [[START - 5 * MINUTE - 1, 4], [NOON - 1, 9], [NOON, 11]],
        increase: 2,
      },
      "ends at the minute": { samples: [[START, 4], [NOON, 9], [NOON + 1, 50]], increase: 5 },
      "counts from 0 after a reset": {
        samples: [[START, 100], [NOON - 1, 7], [NOON, 9]],
        increase: 9,
      },
      "counts from 0 after each": {
        samples: [[START, 100], [NOON - 3, 7], [NOON - 2, 2], [NOON - 1, 3], [NOON, 0]],
        increase: 7 + 2 + 1,
      },
      "never goes down": { samples: [[START, 3], [NOON, -2]], increase: 0 },
      "leaves out what stood still": { samples: [[START, 3]], increase: undefined },
      "leaves out what never had a sample": { samples: [], increase: undefined },
    };
  it.for(Object.entries(CASES))("%s", async ([, { samples, increase }], { query, asOwner }) => {
    expect(await increaseOf({ query, asOwner }, samples)).toBe(increase);
  });

  const FIRST: Readonly<Record<string, { createdAt: number; jobSince: number; increase: number }>> =
    {
      "counts whole in a series that is new": {
        createdAt: NOON - MINUTE,
        jobSince: NOON - DAY,
        increase: 8,
      },
      "counts whole if the series was made within the ten minutes": {
        createdAt: NOON - 10 * MINUTE + 1,
        jobSince: NOON - DAY,
        increase: 8,
      },
      "does not count in a series older than that: it was away": {
        createdAt: NOON - 10 * MINUTE,
        jobSince: NOON - DAY,
        increase: 5,
      },
      "does not count when the job was first heard of then": {
        createdAt: NOON - MINUTE,
        jobSince: NOON - MINUTE,
        increase: 5,
      },
      "or within 2 minutes before": {
        createdAt: NOON - MINUTE,
        jobSince: NOON - 3 * MINUTE,
        increase: 5,
      },
      "counts when it was earlier": {
        createdAt: NOON - MINUTE,
        jobSince: NOON - 3 * MINUTE - 1,
        increase: 8,
      },
    };
  it.for(Object.entries(FIRST))(
    "the first value %s",
    async ([, { increase, ...since }], { query, asOwner }) => {
      expect(await increaseOf({ query, asOwner }, [[NOON - MINUTE, 3], [NOON, 8]], since)).toBe(
        increase,
      );
    },
  );

  it("the first value does not count because another job is known", async ({ query, asOwner }) => {
    await openDays(query);
    const metric = await addMetric(query, { kind: "counter" });
    for (const job of ["shop", "unknown"]) {
      await addCounter(
        query,
        metric,
        [],
        { job, other: "yes" },
        NOON - (job === "shop" ? DAY : MINUTE),
      );
      await addCounter(query, metric, [[NOON - MINUTE, 3], [NOON, 8]], { job }, NOON - MINUTE);
    }
    const { rows } = await asOwner(
      "select labels ->> 'job' as job, increase from monitor.recent_increases(array[$1::text], $2) order by 1",
      [metric, iso(NOON)],
    );
    expect(rows).toEqual([{ job: "shop", increase: 8 }, { job: "unknown", increase: 5 }]);
  });

  it("a first value before the five minutes is where they start", async ({ query, asOwner }) => {
    const samples: Values = [[START - MINUTE, 3], [NOON, 8]];
    expect(await increaseOf({ query, asOwner }, samples, { createdAt: START - MINUTE })).toBe(5);
  });

  describe("of a series of deltas", () => {
    /** The increase of one series that we add up, of a job that is as old as it. */
    async function increaseOfDeltas(
      { query, asOwner }: { query: Query; asOwner: Query },
      samples: Values,
      createdAt = NOON - DAY,
    ) {
      await openDays(query, NOON - DAY, 2);
      const metric = await addMetric(query, { kind: "counter" });
      await addCounter(query, metric, samples, { job: "shop" }, createdAt);
      await query("update monitor.metric_series set delta_total = 1");
      const { rows } = await asOwner<{ increase: number | null }>(
        "select increase from monitor.recent_increases(array[$1::text], $2)",
        [metric, iso(NOON)],
      );
      return rows[0]!.increase;
    }

    it.for([START, START - 5 * MINUTE, START - 5 * MINUTE - 1, NOON - DAY])(
      "starts with its last value, however old: %i",
      async (at, { query, asOwner }) => {
        const samples: Values = [[NOON - DAY - 1, 1], [at, 3], [NOON - 1, 5], [NOON, 8]];
        expect(await increaseOfDeltas({ query, asOwner }, samples)).toBe(5);
      },
    );

    it("counts its first value whole when it is new, as is its job", async ({ query, asOwner }) => {
      const samples: Values = [[NOON - MINUTE, 3], [NOON, 8]];
      expect(await increaseOfDeltas({ query, asOwner }, samples, NOON - 10 * MINUTE + 1)).toBe(8);
    });

    it("does not when it is older and what it had is no row any more", async ({ query, asOwner }) => {
      const samples: Values = [[NOON - MINUTE, 3], [NOON, 8]];
      expect(await increaseOfDeltas({ query, asOwner }, samples, NOON - 10 * MINUTE)).toBe(5);
    });
  });

  it("leaves out the series for the excess of labels", async ({ query, asOwner }) => {
    const labels = { otel_metric_overflow: "true" };
    expect(await increaseOf({ query, asOwner }, grewBy(9), { labels })).toBeUndefined();
  });

  it("goes over midnight", async ({ query, asOwner }) => {
    const midnight = NOON + 12 * HOUR;
    await openDays(query, NOON, 2);
    const metric = await addMetric(query, { kind: "counter" });
    await addCounter(query, metric, [[midnight - 2 * MINUTE, 4], [midnight, 6], [midnight + 1, 9]]);
    const { rows } = await asOwner(
      "select increase from monitor.recent_increases(array[$1::text], $2)",
      [
        metric,
        iso(midnight + 2 * MINUTE),
      ],
    );
    expect(rows).toEqual([{ increase: 5 }]);
  });
});

describe("monitor.collect_http_server()", () => {
  it("has no sample when nobody sent anything", async ({ query }) => {
    expect(await collect(query, "collect_http_server")).toEqual([]);
  });

  it("has no sample when there was no request, not even of 0 errors", async ({ query }) => {
    await openDays(query);
    await addRequests(query, "200", 0, { seconds: 0, labels: { job: "shop" } });
    expect(await collect(query, "collect_http_server")).toEqual([]);
  });

  it("has true zeros when there were requests without errors", async ({ query }) => {
    await openDays(query);
    await addRequests(query, "200", 4, { seconds: 1 });
    expect(byName(await collect(query, "collect_http_server"))).toEqual({
      error_rate: 0,
      api_response_time: 250,
      api_error_count: 0,
      rate_limit_violations: 0,
    });
  });

  it.for(
    [
      ["499", 0, 0],
      ["500", 1, 0],
      ["599", 1, 0],
      ["600", 0, 0],
      ["50", 0, 0],
      ["5000", 0, 0],
      ["429", 0, 1],
      ["428", 0, 0],
      ["4290", 0, 0],
      ["", 0, 0], // the connection was gone before there was an answer; still a request
    ] as const,
  )(
    "takes status '%s' for %i errors, %i violations",
    async ([status, errors, violations], { query }) => {
      await openDays(query);
      await addRequests(query, status, 1);
      await addRequests(query, "201", 3);
      expect(byName(await collect(query, "collect_http_server"))).toEqual({
        error_rate: 25 * errors,
        api_error_count: errors,
        rate_limit_violations: violations,
      });
    },
  );

  it("is of each job, and of all of them", async ({ query }) => {
    await openDays(query);
    const [shop, api] = [{ job: "shop", instance: "1" }, { job: "api" }];
    await addRequests(query, "200", 6, { seconds: 0.3, labels: shop });
    await addRequests(query, "200", 0, { seconds: 0, labels: { ...shop, http_route: "/idle" } });
    await addRequests(query, "503", 2, { seconds: 0.5, labels: { ...shop, instance: "2" } });
    await addRequests(query, "200", 10, { seconds: 4, labels: api });
    await addRequests(query, "429", 1, { seconds: 0.4, labels: api });
    await addRequests(query, "500", 1, { seconds: 0.8, labels: {} }); // nobody's, in the total only
    await addRequests(query, "200", 0, { seconds: 0, labels: { job: "idle" } });
    const samples = byName(await collect(query, "collect_http_server"));
    expect(Object.keys(samples)).toHaveLength(12);
    expect(samples).toMatchObject({
      "error_rate": 15,
      "error_rate shop": 25,
      "error_rate api": 0,
      "api_response_time": expect.closeTo(1000 * 6 / 20, 9),
      "api_response_time shop": expect.closeTo(100, 9),
      "api_response_time api": expect.closeTo(400, 9),
      "api_error_count": 3,
      "api_error_count shop": 2,
      "api_error_count api": 0,
      "rate_limit_violations": 1,
      "rate_limit_violations shop": 0,
      "rate_limit_violations api": 1,
    });
  });

  it("counts a status that had never occurred", async ({ query }) => {
    await openDays(query);
    await addRequests(query, "200", 7, { labels: { job: "shop" } });
    const labels = { job: "shop", http_response_status_code: "500" };
    await addCounter(query, COUNT, [[NOON - MINUTE, 3]], labels, NOON - MINUTE);
    expect(byName(await collect(query, "collect_http_server"))).toMatchObject({
      "error_rate shop": 30,
      "api_error_count shop": 3,
    });
  });

  it("knows a job by any of its counters: one that changes names counts from 0", async ({ query }) => {
    await openDays(query);
    await addCounter(query, OLD_COUNT, [[NOON - 9 * MINUTE, 500]], { job: "shop" });
    await addCounter(query, COUNT, [[NOON - MINUTE, 3]], { job: "shop" }, NOON - MINUTE);
    expect(byName(await collect(query, "collect_http_server"))).toMatchObject({
      "error_rate shop": 0,
    });
  });

  it("takes the mean over what has both a count and a duration", async ({ query }) => {
    await openDays(query);
    await addRequests(query, "200", 4, { seconds: 2 });
    await addRequests(query, "404", 100);
    await addCounter(query, SUM, grewBy(60), { http_response_status_code: "302" });
    expect(byName(await collect(query, "collect_http_server"))).toMatchObject({
      api_response_time: 500,
      error_rate: 0,
    });
  });

  it("understands the older names, in milliseconds and with http_status_code", async ({ query }) => {
    await openDays(query);
    for (const [status, count, ms] of [["200", 3, 90], ["500", 1, 30]] as const) {
      const labels = { job: "django", http_status_code: status };
      await addCounter(query, OLD_COUNT, grewBy(count), labels);
      await addCounter(query, OLD_SUM, grewBy(ms), labels);
    }
    expect(byName(await collect(query, "collect_http_server"))).toMatchObject({
      "error_rate django": 25,
      "api_response_time django": 30,
      "api_error_count django": 1,
    });
  });

  it("does not count twice what a process sends under both names", async ({ query }) => {
    await openDays(query);
    const [both, old] = [{ job: "shop", instance: "1" }, { job: "shop", instance: "2" }];
    await addRequests(query, "200", 6, { seconds: 3, labels: both });
    await addCounter(query, OLD_COUNT, grewBy(6), { ...both, http_status_code: "500" });
    await addCounter(query, OLD_SUM, grewBy(3000), { ...both, http_status_code: "500" });
    await addCounter(query, OLD_COUNT, grewBy(2), { ...old, http_status_code: "500" });
    await addCounter(query, OLD_SUM, grewBy(1000), { ...old, http_status_code: "500" });
    expect(byName(await collect(query, "collect_http_server"))).toMatchObject({
      "error_rate": 25,
      "api_response_time": 500,
      "api_error_count": 2,
    });
  });

  it.for([[50, 50], [51, 50]])(
    "of %i jobs tells %i, those with most requests, and all in the total",
    async ([count, told], { query }) => {
      await openDays(query);
      for (const n of range(count!)) {
        await addRequests(query, "500", n + 1, { labels: { job: `job-${n}` } });
      }
      const samples = byName(await collect(query, "collect_http_server"));
      expect(samples["api_error_count"]).toBe(count! * (count! + 1) / 2);
      expect(Object.keys(samples).filter((name) => name.startsWith("error_rate job"))).toHaveLength(
        told!,
      );
      expect("error_rate job-0" in samples).toBe(count === told);
    },
  );

  it("is of what senders bring, as totals or as deltas", async ({ query }) => {
    await openDays(query);
    const series = (metric: string, job: string, status: string, is_delta: boolean) => ({
      metric,
      labels: { job, http_response_status_code: status },
      kind: "counter",
      unit: "count",
      description: "",
      is_delta,
    });
    const send = (at: number, values: number[]) =>
      query("select monitor.ingest_samples($1, $2, $3, $4, $5)", [
        JSON.stringify([
          series(COUNT, "totals", "200", false),
          series(SUM, "totals", "200", false),
          series(COUNT, "deltas", "500", true),
          series(SUM, "deltas", "500", true),
        ]),
        values.map((_, place) => place + 1),
        values.map(() => at),
        values,
        iso(at),
      ]);
    await send(NOON - 2 * MINUTE, [1000, 500, 2, 1]);
    await send(NOON - MINUTE, [1004, 501, 4, 2]);
    expect(byName(await collect(query, "collect_http_server"))).toMatchObject({
      "error_rate": 60,
      "api_response_time totals": 250,
      "api_error_count deltas": 6,
      "api_response_time deltas": 500,
    });
  });

  it("takes label values as they are", async ({ query }) => {
    await openDays(query);
    const job = `"'; drop\n🐘\\`;
    await addRequests(query, "200", 1, { labels: { job } });
    expect(await collect(query, "collect_http_server")).toContainEqual({
      metric: "error_rate",
      labels: { job },
      value: 0,
    });
  });
});

describe("monitor.collect_queues()", () => {
  /** What the collector needs of pgmq. */
  const PGMQ = `
    create schema pgmq;
    create table pgmq.meta (queue_name varchar primary key);
    create table pgmq.messages (queue_name varchar, vt timestamptz);
    create function pgmq.metrics_all() returns table (
      queue_name text, queue_length bigint, newest_msg_age_sec int, oldest_msg_age_sec int,
      total_messages bigint, scrape_time timestamptz, queue_visible_length bigint)
    language sql as $$
      select q.queue_name, count(m.vt), null::int, null::int, 99::bigint, now(), count(*) filter (where m.vt <= now())
      from pgmq.meta as q left join pgmq.messages as m using (queue_name) group by 1 $$`;

  const addQueue = async (asOwner: Query, name: string, count: number) => {
    await asOwner("insert into pgmq.meta values ($1)", [name]);
    await asOwner(
      "insert into pgmq.messages select $1, now() + interval '1 hour' from generate_series(1, $2)",
      [name, count],
    );
  };

  it("is skipped, not failed, while pgmq is absent, and planned once it is there", async ({ query, asOwner }) => {
    const plan = () =>
      rpc<{ collectors: { collector: string }[]; skipped: unknown[] }>(query, "plan_collection", {
        p_scheduled_at: iso(NOON),
      });
    expect((await plan()).skipped).toContainEqual({
      collector: "collect_queues",
      reason: "pgmq.meta does not exist",
    });
    await asOwner(PGMQ);
    expect((await plan()).collectors).toContainEqual({
      collector: "collect_queues",
      timeout_seconds: 2,
    });
  });

  it("has no sample without a queue, and a true 0 of an empty one", async ({ query, asOwner }) => {
    await asOwner(PGMQ);
    expect(await collect(query, "collect_queues")).toEqual([]);
    await addQueue(asOwner, "mails", 0);
    expect(byName(await collect(query, "collect_queues"))).toEqual({ "queue_depth mails": 0 });
  });

  it("counts all messages of each queue, and those of Celery's queues as such", async ({ query, asOwner }) => {
    await asOwner(PGMQ);
    await addQueue(asOwner, "mails", 3);
    await addQueue(asOwner, "celery", 2);
    await addQueue(asOwner, "celery_slow", 1);
    await addQueue(asOwner, "celeryx", 4);
    await addQueue(asOwner, "old_celery", 4);
    expect(byName(await collect(query, "collect_queues"))).toEqual({
      "queue_depth mails": 3,
      "queue_depth celery": 2,
      "celery_queue_size celery": 2,
      "queue_depth celery_slow": 1,
      "celery_queue_size celery_slow": 1,
      "queue_depth celeryx": 4,
      "queue_depth old_celery": 4,
    });
  });

  it.for([[200, 200], [201, 200]])(
    "of %i queues tells %i",
    async ([count, told], { query, asOwner }) => {
      await asOwner(PGMQ);
      await asOwner("insert into pgmq.meta select 'q' || n from generate_series(1, $1::int) as n", [
        count,
      ]);
      expect(await collect(query, "collect_queues")).toHaveLength(told!);
    },
  );

  it("reads what is closed to service_role", async ({ ownDatabase }) => {
    await (await ownDatabase.connectAsOwner()).query(PGMQ);
    const session = await ownDatabase.connect();
    await expect(session.query("select * from pgmq.meta")).rejects.toMatchObject({ code: "42501" });
    expect(await collect(queryOf(session), "collect_queues")).toEqual([]);
  });
});

describe("monitor.collect_ingestion()", () => {
  it("counts 0 series when there is none", async ({ query }) => {
    expect(await collect(query, "collect_ingestion")).toEqual([
      { metric: "pgvigil_series_count", labels: {}, value: 0 },
    ]);
  });

  it("counts all series, those of the largest metric, and what overflowed", async ({ query }) => {
    const [small, large, other] = [
      await addMetric(query),
      await addMetric(query),
      await addMetric(query),
    ];
    await addSeries(query, small);
    await addSeries(query, other);
    for (const n of range(3)) await addSeries(query, large, [], { n: String(n) });
    await query("update monitor.metric_series set overflow_samples = 7 where labels ->> 'n' = '0'");
    await query("update monitor.metric_series set overflow_samples = 1 where metric = $1", [small]);
    expect(byName(await collect(query, "collect_ingestion"))).toEqual({
      pgvigil_series_count: 5,
      [`pgvigil_largest_metric_series_count ${large}`]: 3,
      [`pgvigil_overflow_samples_total ${large}`]: 7,
      [`pgvigil_overflow_samples_total ${small}`]: 1,
    });
  });

  it("names one metric when two are as large", async ({ query }) => {
    const names = [await addMetric(query), await addMetric(query)].sort();
    for (const metric of names) await addSeries(query, metric);
    expect(byName(await collect(query, "collect_ingestion"))).toEqual({
      pgvigil_series_count: 2,
      [`pgvigil_largest_metric_series_count ${names[0]}`]: 1,
    });
  });
});

describe("the derived collectors", () => {
  it("give samples that can all be stored", async ({ query }) => {
    await openDays(query);
    await addRequests(query, "500", 3, { seconds: 1, labels: { job: "shop" } });
    for (const collector of ["collect_http_server", "collect_ingestion"]) {
      const samples = await collect(query, collector);
      expect(samples.length).toBeGreaterThan(0);
      expect(await rpc(query, "record_samples", { p_samples: samples, p_recorded_at: iso(NOON) }))
        .toMatchObject({ inserted: samples.length, duplicates: 0, rejected: [] });
    }
  });

  it("let senders write the queues and nothing else", async ({ query }) => {
    const { rows } = await query<{ metric: string }>(
      "select metric from monitor.metric_definitions where is_ingestible order by metric",
    );
    expect(rows.map(({ metric }) => metric)).toEqual(["celery_queue_size", "queue_depth"]);
  });
});
