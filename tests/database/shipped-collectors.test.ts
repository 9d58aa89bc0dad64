import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc } from "./database.ts";
import {
  addChannel,
  addMessage,
  addMetric,
  addRun,
  addSeries,
  DAY,
  HOUR,
  iso,
  MINUTE,
  NOON,
  openDays,
  SECOND,
} from "./seeds.ts";

interface Sample {
  metric: string;
  labels: Record<string, string>;
  value: number;
}

const collect = async (query: Query, collector: string, at = NOON) =>
  await rpc<Sample[]>(query, collector, { p_at: iso(at) });

/** Values by metric, and by its labels' values where it has any. */
const byName = (samples: Sample[]) =>
  Object.fromEntries(
    samples.map((
      { metric, labels, value },
    ) => [[metric, ...Object.values(labels)].join(" "), value]),
  );

const VIEW = `
  create table public.posts (created_at timestamptz, moderated_at timestamptz, state text);
  create view monitor.submissions as
    select created_at as submitted_at, moderated_at as reviewed_at, state as status from public.posts`;

/** As after an evaluation without errors. */
const EVALUATED =
  "update monitor.rule_states set health = 'ok', evaluated_at = now(), evaluation_seconds = 0";

/** Adds a canary that fired so long before noon, told by a message with these columns. */
async function addCanary(query: Query, age: number, columns: object) {
  const at = iso(NOON - age);
  const { rows: [alert] } = await query<{ id: string }>(
    `insert into monitor.system_alerts
       (fingerprint, name, source, severity, opened_at, active_at, fired_at, last_seen_at, resolved_at)
     values ('canary', 'PgvigilCanary', 'rule', 'info', $1, $1, $1, $1, $1) returning alert_id as id`,
    [at],
  );
  await query(
    `insert into monitor.notification_alerts (notification_id, alert_id, channel, status, severity, told_at)
     values ($1, $2, 'ops', 'firing', 'info', $3)`,
    [await addMessage(query, { created_at: at, ...columns }), alert!.id, at],
  );
}

/** Two queues of pgmq, as far as it is asked. */
const PGMQ = `
  create schema pgmq;
  create view pgmq.meta as select unnest(array['celery', 'mails']) as queue_name;
  create function pgmq.metrics_all() returns table (queue_name text, queue_length bigint)
  language sql as 'select queue_name, 3 from pgmq.meta'`;

describe("the shipped collectors", () => {
  it("return samples of defined metrics that can all be stored, and all defined metrics between them", async ({ query, asOwner }) => {
    await openDays(query, NOON - MINUTE, 2);
    await asOwner(VIEW);
    await asOwner(PGMQ);
    await asOwner("insert into public.posts values ($1, $2, 'approved')", [
      iso(NOON - HOUR),
      iso(NOON - MINUTE),
    ]);
    await addRun(query, {
      started_at: iso(NOON - 2000),
      finished_at: iso(NOON),
      outcome: "succeeded",
    });
    await query("update monitor.job_schedules set last_succeeded_at = $1", [iso(NOON)]);
    const { rows: defined } = await query<{ metric: string }>(
      "select metric from monitor.metric_definitions",
    );
    for (const part of ["count", "sum"]) {
      const metric = `http_server_request_duration_seconds_${part}`;
      await addMetric(query, { metric, kind: "counter" });
      await addSeries(query, metric, [[NOON - 2 * MINUTE, 1], [NOON - MINUTE, 2], [NOON, 3]]);
    }
    await query("update monitor.metric_series set overflow_samples = 1");
    await query(EVALUATED);
    await addCanary(query, HOUR, { state: "sent", sent_at: iso(NOON - HOUR) });
    await addChannel(query, "ops");
    await query("update monitor.settings set canary_channel = 'ops'");
    await asOwner("select pg_create_physical_replication_slot('of_a_test', true, true)");

    try {
      const { rows } = await query<{ collector: string }>(
        "select collector from monitor.metric_collectors",
      );
      const seen = new Set<string>();
      for (const at of [NOON - MINUTE, NOON]) { // the second time there is a previous sample
        for (const { collector } of rows) {
          const samples = await collect(query, collector, at);
          expect(samples, collector).toBeInstanceOf(Array);
          for (const { metric, value } of samples) {
            seen.add(metric);
            expect(value, metric).toBeGreaterThanOrEqual(0);
          }
          expect(
            await rpc(query, "record_samples", { p_samples: samples, p_recorded_at: iso(at) }),
            collector,
          )
            .toMatchObject({ inserted: samples.length, duplicates: 0, rejected: [] });
        }
        // What the counters grow by until the next minute; nobody has read anything in this transaction.
        await asOwner(
          `update monitor.metric_time_series set value = value - 1
           where series_id in (select series_id from monitor.metric_series where metric ~ 'blks_(hit|read)')`,
        );
      }
      expect([...seen].sort()).toEqual(defined.map(({ metric }) => metric).sort());
    } finally {
      await asOwner("select pg_drop_replication_slot('of_a_test')");
    }
  });

  it("only read: they work in a read-only transaction", async ({ ownDatabase }) => {
    const owner = await ownDatabase.connectAsOwner();
    await owner.query(VIEW);
    await owner.query(PGMQ);
    const session = await ownDatabase.connect();
    const { rows } = await session.query("select collector from monitor.metric_collectors");
    await session.query("begin read only");
    for (const { collector } of rows) await collect(queryOf(session), collector);
    await session.query("rollback");
  });

  it("give series that do not come and go: the same ones every time", async ({ query, asOwner }) => {
    await asOwner(VIEW);
    await asOwner(PGMQ);
    const { rows } = await query<{ collector: string }>(
      "select collector from monitor.metric_collectors",
    );
    for (const { collector } of rows) {
      const names = async () => Object.keys(byName(await collect(query, collector))).sort();
      expect(await names(), collector).toEqual(await names());
    }
  });
});

describe("monitor.collect_database_connections()", () => {
  it("counts client backends of this database by state, each state every time", async ({ ownDatabase }) => {
    const session = await ownDatabase.connect();
    const count = async () => {
      const samples = await collect(queryOf(session), "collect_database_connections");
      return byName(samples.filter(({ metric }) => metric === "database_connections"));
    };
    expect(await count()).toEqual({
      "database_connections active": 1,
      "database_connections idle": 0,
      "database_connections idle in transaction": 0,
      "database_connections idle in transaction (aborted)": 0,
      "database_connections other": 0,
    });

    const [waiting, failed] = [await ownDatabase.connect(), await ownDatabase.connect()];
    await ownDatabase.connectAsOwner(); // idle
    await waiting.query("begin");
    await failed.query("begin");
    await expect(failed.query("select 1 / 0")).rejects.toMatchObject({ code: "22012" });
    // A backend that has answered is active for a moment longer.
    await expect.poll(count).toEqual({
      "database_connections active": 1,
      "database_connections idle": 1,
      "database_connections idle in transaction": 1,
      "database_connections idle in transaction (aborted)": 1,
      "database_connections other": 0,
    });
  });

  it("says how many there may be: all but the reserved ones", async ({ query }) => {
    const { rows: [settings] } = await query<{ most: number; reserved: number }>(
      `select sum(setting::int) filter (where name = 'max_connections')::int as most,
         sum(setting::int) filter (where name ~ 'reserved_connections$')::int as reserved
       from pg_settings`,
    );
    const samples = await collect(query, "collect_database_connections");
    expect(settings!.reserved).toBeGreaterThan(0);
    expect(samples.filter(({ metric }) => metric !== "database_connections")).toEqual([{
      metric: "database_connection_limit",
      labels: {},
      value: settings!.most - settings!.reserved,
    }]);
  });
});

describe("cache_hit_rate", () => {
  const HIT = "pg_stat_database_blks_hit_total";
  const READ = "pg_stat_database_blks_read_total";

  /** The counters now; the same for the rest of the transaction. */
  async function readCounters(query: Query) {
    const values = byName(await collect(query, "collect_database_counters"));
    return { hit: values[HIT]!, read: values[READ]! };
  }

  async function rateAfter(
    query: Query,
    previous: { hit?: number; read?: number },
    at = NOON - MINUTE,
  ) {
    await openDays(query, NOON - 2 * DAY, 4);
    if (previous.hit !== undefined) await addSeries(query, HIT, [[at, previous.hit]]);
    if (previous.read !== undefined) await addSeries(query, READ, [[at, previous.read]]);
    return byName(await collect(query, "collect_database_counters"))["cache_hit_rate"];
  }

  it("is the share of hits in what was read since the previous sample", async ({ query }) => {
    const { hit, read } = await readCounters(query);
    expect(await rateAfter(query, { hit: hit - 30, read: read - 10 })).toBe(75);
  });

  it("is 100 when all was hit, 0 when nothing was", async ({ query }) => {
    const { hit, read } = await readCounters(query);
    expect(await rateAfter(query, { hit: hit - 1, read })).toBe(100);
  });

  it("is 0 when nothing was hit", async ({ query }) => {
    const { hit, read } = await readCounters(query);
    expect(await rateAfter(query, { hit, read: read - 1 })).toBe(0);
  });

  it("has no sample the first time", async ({ query }) => {
    expect(await rateAfter(query, {})).toBeUndefined();
  });

  it("has no sample while one of its counters has none", async ({ query }) => {
    const { hit } = await readCounters(query);
    expect(await rateAfter(query, { hit: hit - 30 })).toBeUndefined();
  });

  it("has no sample when nothing was read at all", async ({ query }) => {
    expect(await rateAfter(query, await readCounters(query))).toBeUndefined();
  });

  it("counts from 0 after the statistics were reset", async ({ query }) => {
    const { hit, read } = await readCounters(query);
    expect(await rateAfter(query, { hit: hit + 1_000_000, read: read + 1_000_000 })).toBeCloseTo(
      100 * hit / (hit + read),
      9,
    );
  });

  it.for([[DAY, 75], [DAY + 1, undefined]])(
    "looks back one day: %i ms",
    async ([age, rate], { query }) => {
      const { hit, read } = await readCounters(query);
      expect(await rateAfter(query, { hit: hit - 30, read: read - 10 }, NOON - age!)).toBe(rate);
    },
  );

  it("is of the previous sample, not of one of its own minute", async ({ query }) => {
    const { hit, read } = await readCounters(query);
    expect(await rateAfter(query, { hit: hit - 30, read: read - 10 }, NOON)).toBeUndefined();
  });
});

describe("monitor.counter_increase()", () => {
  it("is that of the series without labels", async ({ query, asOwner }) => {
    await openDays(query);
    const metric = await addMetric(query, { kind: "counter" });
    await addSeries(query, metric, [[NOON - 1, 7]], { database: "other" });
    const increase = () =>
      rpc(asOwner, "counter_increase", { p_metric: metric, p_current: 10, p_at: iso(NOON) });
    expect(await increase() ?? null).toBeNull();
    await addSeries(query, metric, [[NOON - 2, 1], [NOON - 1, 4]]);
    expect(await increase()).toBe(6);
  });
});

describe("monitor.collect_transactions()", () => {
  it("measures an open transaction by the clock, and its own not at all", async ({ ownDatabase }) => {
    const [session, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    await other.query("begin");
    const { rows: [{ age }] } = await session.query(
      "select extract(epoch from clock_timestamp() - xact_start)::float8 as age from pg_stat_activity where pid = $1",
      [(await other.query("select pg_backend_pid() as pid")).rows[0].pid],
    );
    const samples = byName(await collect(queryOf(session), "collect_transactions"));
    expect(samples.pg_longest_transaction_seconds).toBeGreaterThanOrEqual(age ?? 0);
    expect(samples.pg_transaction_id_age).toBeGreaterThan(0);
  });
});

describe("monitor.collect_replication_slots()", () => {
  it("has no sample without a slot, and the lag of the one furthest behind", async ({ query, asOwner }) => {
    expect(await collect(query, "collect_replication_slots")).toEqual([]);
    await asOwner("select pg_create_physical_replication_slot('of_a_test', true, true)");
    try {
      expect(await collect(query, "collect_replication_slots")).toMatchObject([
        { metric: "pg_replication_slot_lag_bytes", value: expect.any(Number) },
      ]);
    } finally {
      await asOwner("select pg_drop_replication_slot('of_a_test')");
    }
  });
});

describe("monitor.collect_cron_runs()", () => {
  it("counts the failed ones that ended in the last 5 minutes", async ({ query, asSuperuser }) => {
    const failed = async () =>
      byName(await collect(query, "collect_cron_runs")).pg_cron_failed_runs;
    expect(await failed()).toBe(0);
    await asSuperuser(
      `insert into cron.job_run_details (status, end_time, username)
       select status, at, 'postgres' from unnest($1::text[], $2::timestamptz[]) as run (status, at)`,
      [
        ["failed", "failed", "succeeded", "failed"],
        [iso(NOON - 5 * MINUTE), iso(NOON - 5 * MINUTE + 1), iso(NOON - 1), iso(NOON - 1)],
      ],
    );
    expect(await failed()).toBe(2);
  });
});

describe("monitor.collect_http_requests()", () => {
  it("counts what waits, and the answers of the last 5 minutes by class", async ({ query, asSuperuser }) => {
    await asSuperuser(
      `insert into net.http_request_queue (method, url, timeout_milliseconds)
       select 'GET', 'http://127.0.0.1:1', 1000 from generate_series(1, 3)`,
    );
    const answers: [number | null, boolean | null, string | null, number][] = [
      [200, false, null, NOON - 1],
      [204, false, null, NOON - 5 * MINUTE + 1],
      [200, false, null, NOON - 5 * MINUTE],
      [302, false, null, NOON - 1],
      [401, null, null, NOON - 1],
      [500, false, null, NOON - 1],
      [546, false, null, NOON - 1],
      [null, true, "Timeout of 5000 ms reached", NOON - 1],
      [null, false, "Couldn't connect to server", NOON - 1],
      [null, null, "Couldn't resolve host name", NOON - 1],
      [999, false, null, NOON - 1],
    ];
    for (const [n, [status, timedOut, error, created]] of answers.entries()) {
      await asSuperuser(
        "insert into net._http_response (id, status_code, timed_out, error_msg, created) values ($1, $2, $3, $4, $5)",
        [n, status, timedOut, error, iso(created)],
      );
    }
    expect(byName(await collect(query, "collect_http_requests"))).toEqual({
      pg_net_queue_length: 3,
      "pg_net_responses 2xx": 2,
      "pg_net_responses 3xx": 1,
      "pg_net_responses 4xx": 1,
      "pg_net_responses 5xx": 2,
      "pg_net_responses timeout": 1,
      "pg_net_responses error": 3,
    });
  });
});

describe("monitor.collect_incidents_and_alerts()", () => {
  const count = async (query: Query, at = NOON) =>
    byName(await collect(query, "collect_incidents_and_alerts", at));

  it("counts what is open", async ({ query }) => {
    const nothing = {
      ...{ active_incidents: 0, unresolved_alerts: 0, pgvigil_notification_delay_seconds: 0 },
      ...{ pgvigil_notifications_pending: 0, pgvigil_notifications_parked: 0 },
    };
    expect(await count(query)).toEqual(nothing);
    await query(`
      insert into monitor.incidents (title, severity, state, resolved_at)
      values ('a', 'P0', 'open', null), ('b', 'P1', 'monitoring', null), ('c', 'P3', 'resolved', now())`);
    await query(`
      insert into monitor.system_alerts (fingerprint, name, source, severity, fired_at, last_seen_at, resolved_at)
      values ('a', 'a', 'rule', 'critical', now(), now(), null), ('b', 'b', 'job', 'info', now(), now(), now())`);
    expect(await count(query)).toEqual({ ...nothing, active_incidents: 2, unresolved_alerts: 1 });
  });

  it("counts alerts of all sources that fire, of live rules", async ({ query }) => {
    const add = (fingerprint: string, columns: object = {}) => {
      const row = {
        ...{ fingerprint, name: "a", source: "rule", severity: "info", last_seen_at: iso(NOON) },
        ...{ fired_at: iso(NOON), ...columns },
      };
      return query(
        `insert into monitor.system_alerts (${Object.keys(row)})
         values (${Object.keys(row).map((_, index) => `$${index + 1}`)})`,
        Object.values(row),
      );
    };
    const unresolved = async () => (await count(query))["unresolved_alerts"];
    await add("resolved", { resolved_at: iso(NOON) });
    await add("pending", { fired_at: null, occurrence_count: 0 });
    await add("in shadow mode", { mode: "shadow" });
    expect(await unresolved()).toBe(0);
    for (const source of ["rule", "anomaly", "job", "health"]) await add(source, { source });
    // Both count until they are resolved.
    await add("flapping", { ceased_at: iso(NOON) });
    await add("acknowledged", {
      ...{ acknowledged_at: iso(NOON), acknowledged_by: "me", acknowledged_because: "I look" },
      acknowledged_until: iso(NOON + HOUR),
    });
    expect(await unresolved()).toBe(6);
    // What a rule remembers counts once it is an alert.
    await query(`update monitor.rule_states set instances = '[{"state": "firing"}]'`);
    expect(await unresolved()).toBe(6);
  });

  it("counts messages that are still to be sent, and those that were given up within 7 days", async ({ query }) => {
    for (const state of ["pending", "pending", "parked", "discarded"]) {
      await addMessage(query, { state });
    }
    await addMessage(query, { state: "sent", sent_at: iso(NOON) });
    await addMessage(query, { created_at: iso(NOON - 8 * DAY) });
    await addMessage(query, { state: "parked", created_at: iso(NOON - 7 * DAY + 1) });
    await addMessage(query, { state: "parked", created_at: iso(NOON - 7 * DAY) });
    expect(await count(query)).toMatchObject({
      pgvigil_notifications_pending: 3,
      pgvigil_notifications_parked: 2,
    });
  });

  it("says how long the oldest message has waited that is due", async ({ query }) => {
    await addChannel(query);
    const delay = async () => (await count(query))["pgvigil_notification_delay_seconds"];
    await addMessage(query, { next_attempt_at: iso(NOON + 1) });
    await addMessage(query, {
      ...{ next_attempt_at: iso(NOON - DAY), state: "sent", sent_at: iso(NOON) },
    });
    await addMessage(query, { next_attempt_at: iso(NOON - DAY), state: "parked" });
    expect(await delay()).toBe(0);
    for (const seconds of [2.5, 7, 3]) {
      await addMessage(query, { next_attempt_at: iso(NOON - seconds * SECOND) });
    }
    expect(await delay()).toBe(7);
    // As health has it: nothing waits for a channel that is switched off.
    await query("update monitor.notification_channels set enabled = false");
    expect(await delay()).toBe(0);
  });

  it("says whether the canary of the day is due, from its hour on until it has fired", async ({ asOwner, query }) => {
    const due = async (at: number) => (await count(query, at))["pgvigil_canary_due"];
    const nine = NOON - 3 * HOUR;
    expect(await due(nine)).toBeUndefined();
    await addChannel(query, "ops");
    await query("update monitor.settings set canary_channel = 'ops'");
    expect([await due(nine - 1), await due(nine), await due(nine + 15 * HOUR - 1)])
      .toEqual([0, 1, 1]);
    // It has fired today, and will again tomorrow.
    await asOwner("update monitor.alerting_state set canary_on = '2026-03-10'");
    expect([await due(nine), await due(nine + DAY - 1), await due(nine + DAY)]).toEqual([0, 0, 1]);

    // By the clock on the wall, where it is five hours later: of the hour, and of the day.
    await query("update monitor.settings set time_zone = 'Asia/Karachi'");
    await asOwner("update monitor.alerting_state set canary_on = '2026-03-09'");
    const nineThere = NOON - 8 * HOUR;
    expect([await due(nineThere - 1), await due(nineThere)]).toEqual([0, 1]);
    await asOwner("update monitor.alerting_state set canary_on = '2026-03-10'");
    await query("update monitor.settings set canary_hour = 0");
    const midnight = NOON + 7 * HOUR;
    expect([await due(midnight - 1), await due(midnight)]).toEqual([0, 1]);
  });

  it("says how long the last canary took that arrived, and how long ago that is", async ({ query }) => {
    const canary = async () => {
      const { pgvigil_canary_latency_seconds: latency, pgvigil_canary_age_seconds: age } =
        await count(query);
      return [latency, age];
    };
    await addCanary(query, 3 * DAY, { state: "parked" });
    expect(await canary()).toEqual([undefined, undefined]);
    await addCanary(query, 2 * DAY, {
      ...{ state: "delivered", sent_at: iso(NOON - 2 * DAY + 2 * SECOND) },
      delivered_at: iso(NOON - 2 * DAY + 5 * SECOND),
    });
    expect(await canary()).toEqual([5, 2 * DAY / SECOND - 5]);
    await addCanary(query, DAY, { state: "sent", sent_at: iso(NOON - DAY + 3 * SECOND) });
    expect(await canary()).toEqual([3, DAY / SECOND - 3]);
    await addCanary(query, HOUR, { state: "pending" });
    await addCanary(query, HOUR, { state: "bounced", sent_at: iso(NOON - HOUR) });
    expect(await canary()).toEqual([3, DAY / SECOND - 3]);
    // By a clock that stood wrong.
    await addCanary(query, -HOUR, { state: "sent", sent_at: iso(NOON + HOUR - SECOND) });
    expect(await canary()).toEqual([0, 0]);
  });

  it("counts rules whose last evaluation failed, once one was evaluated", async ({ query }) => {
    const failing = async () => (await count(query))["pgvigil_failing_rules"];
    expect(await failing()).toBeUndefined();
    await query(EVALUATED);
    expect(await failing()).toBe(0);
    await query(`
      update monitor.rule_states set health = 'err', last_error = 'no'
      where rule_id in (select rule_id from monitor.alert_rules order by rule_id limit 2)`);
    expect(await failing()).toBe(2);
  });
});

describe("monitor.collect_job_runs()", () => {
  it("has no sample of a job that never ran", async ({ query }) => {
    expect(await collect(query, "collect_job_runs")).toEqual([]);
  });

  it("says how long the last finished run took and how long ago the last success is", async ({ query }) => {
    const job = "collect-metrics";
    for (const [n, seconds] of [9, 3, 1.5].entries()) {
      const at = NOON - 10 * MINUTE + n * MINUTE;
      await addRun(query, {
        scheduled_at: iso(at),
        started_at: iso(at),
        finished_at: iso(at + seconds * SECOND),
        outcome: "failed",
        error: "x",
      });
    }
    await addRun(query, { scheduled_at: iso(NOON), started_at: iso(NOON), state: "running" });
    await query("update monitor.job_schedules set last_succeeded_at = $1 where job = $2", [
      iso(NOON - 30 * SECOND),
      job,
    ]);
    const samples = byName(await collect(query, "collect_job_runs"));
    expect(samples).toEqual({
      [`pgvigil_job_run_duration_seconds ${job}`]: 1.5,
      [`pgvigil_job_age_seconds ${job}`]: 30,
    });
    expect(byName(await collect(query, "collect_job_runs", NOON - HOUR))).toMatchObject({
      [`pgvigil_job_age_seconds ${job}`]: 0, // never less
    });
  });

  it.for([[2 * DAY - 1, 1], [2 * DAY, 0]])(
    "looks back 2 days: %i ms",
    async ([age, count], { query }) => {
      const at = iso(NOON - age!);
      await addRun(query, {
        scheduled_at: at,
        started_at: at,
        finished_at: at,
        outcome: "succeeded",
      });
      expect(await collect(query, "collect_job_runs")).toHaveLength(count!);
    },
  );

  it("passes over a run that was not let in, which took no time", async ({ query }) => {
    const at = NOON - MINUTE;
    await addRun(query, {
      scheduled_at: iso(at),
      started_at: iso(at),
      finished_at: iso(at + 7 * SECOND),
      outcome: "succeeded",
    });
    await addRun(query, { finished_at: iso(NOON), outcome: "skipped", state: "skipped" });
    expect(byName(await collect(query, "collect_job_runs"))).toEqual({
      "pgvigil_job_run_duration_seconds collect-metrics": 7,
    });
  });
});

describe("sizes", () => {
  it("pg_database_size_bytes is the whole database, pgvigil_storage_bytes the schema with its partitions", async ({ query, asOwner }) => {
    await openDays(query);
    const [database, own] = [
      byName(await collect(query, "collect_database_size")).pg_database_size_bytes!,
      byName(await collect(query, "collect_storage")).pgvigil_storage_bytes!,
    ];
    const { rows: [size] } = await asOwner(
      `select sum(pg_relation_size(oid))::float8 as bytes from pg_class
       where relnamespace in ('monitor'::regnamespace) and relkind in ('r', 'i', 't')`,
    );
    expect(own).toBeGreaterThanOrEqual(size!.bytes);
    expect(database).toBeGreaterThan(own);
    const before = own;
    await openDays(query, NOON + DAY, 2);
    expect(byName(await collect(query, "collect_storage")).pgvigil_storage_bytes).toBeGreaterThan(
      before,
    );
  });

  it("pgvigil_storage_budget_bytes is what the policy allows, as long as there is a budget", async ({ query, asOwner }) => {
    const budget = async (megabytes: number | null) => {
      await asOwner(
        "update monitor.retention_policies set keep_megabytes = $1 where entity = 'metric_chunks'",
        [megabytes],
      );
      return (await collect(query, "collect_storage"))
        .filter(({ metric }) => metric === "pgvigil_storage_budget_bytes");
    };
    const ofBytes = (value: number) => [
      { metric: "pgvigil_storage_budget_bytes", labels: {}, value },
    ];
    expect(await budget(1)).toEqual(ofBytes(1e6));
    expect(await budget(100_000_000)).toEqual(ofBytes(1e14));
    expect(await budget(null)).toEqual([]);
  });
});

describe("monitor.collect_submissions()", () => {
  const add = (asOwner: Query, ...posts: [number, number | null, string][]) =>
    asOwner(
      `insert into public.posts select * from unnest($1::timestamptz[], $2::timestamptz[], $3::text[])`,
      [
        posts.map(([at]) => iso(at)),
        posts.map(([, at]) => at && iso(at)),
        posts.map(([, , state]) => state),
      ],
    );

  it("is skipped, not failed, while the view is absent, and planned once it is there", async ({ query, asOwner }) => {
    const plan = () =>
      rpc<{ collectors: { collector: string }[]; skipped: unknown[] }>(query, "plan_collection", {
        p_scheduled_at: iso(NOON),
      });
    expect((await plan()).skipped).toContainEqual(
      { collector: "collect_submissions", reason: "monitor.submissions does not exist" },
    );
    await asOwner(VIEW);
    expect((await plan()).collectors).toContainEqual({
      collector: "collect_submissions",
      timeout_seconds: 2,
    });
  });

  it("has no rate and no time while nothing was decided, and 0 waiting", async ({ query, asOwner }) => {
    await asOwner(VIEW);
    expect(await collect(query, "collect_submissions")).toEqual([
      { metric: "pending_submissions", labels: {}, value: 0 },
    ]);
    await add(asOwner, [NOON - 40 * DAY, null, "pending"], [NOON - HOUR, null, "pending"]);
    expect(byName(await collect(query, "collect_submissions"))).toEqual({ pending_submissions: 2 });
  });

  it("counts what waits now, and rates what was decided in the last 24 hours", async ({ query, asOwner }) => {
    await asOwner(VIEW);
    await add(
      asOwner,
      [NOON - HOUR, NOON - 30 * MINUTE, "approved"], // 30 minutes
      [NOON - 10 * DAY, NOON - 10 * DAY + 30 * MINUTE, "approved"], // long ago
      [NOON - 2 * HOUR, NOON - HOUR, "rejected"], // 60 minutes
      [NOON - 2 * HOUR, NOON - HOUR, "approved"], // 60 minutes
      [NOON - HOUR, null, "pending"],
      [NOON - HOUR, NOON - 1, "withdrawn"], // no decision
    );
    expect(byName(await collect(query, "collect_submissions"))).toEqual({
      pending_submissions: 1,
      submission_approval_rate: 100 * 2 / 3,
      avg_moderation_time: 50,
    });
  });

  it.for(
    [
      ["24 hours ago", false, NOON - DAY],
      ["a moment less than that", true, NOON - DAY + 1],
      ["now", true, NOON],
      ["a moment after now", false, NOON + 1],
    ] as const,
  )("counts a decision of %s: %s", async ([, isCounted, at], { query, asOwner }) => {
    await asOwner(VIEW);
    await add(asOwner, [at - HOUR, at, "rejected"]);
    expect(byName(await collect(query, "collect_submissions"))).toEqual({
      pending_submissions: 0,
      ...(isCounted && { submission_approval_rate: 0, avg_moderation_time: 60 }),
    });
  });
});
