import { describe, expect } from "vitest";
import { it, type Query, rpc } from "./database.ts";
import {
  addChannel,
  addMessage,
  addMetric,
  addRun,
  addSeries,
  DAY,
  iso,
  MINUTE,
  NOON,
  openDays,
} from "./seeds.ts";

interface Facts {
  now: string;
  jobs_enabled: boolean;
  scheduler: { watched_at: string | null; stale_after_seconds: number; installed: boolean } | null;
  jobs: Record<string, unknown>[];
  metrics: { newest_sample_at: string | null; failing_collectors: string[] };
  storage: {
    database_bytes: number;
    monitor_bytes: number;
    budget_bytes: number | null;
    shed: { at: string; detail: string | null } | null;
    days_ahead: number;
    contended_retention: string[];
  };
  rules: {
    live_count: number;
    failing_count: number;
    first_failure: { name: string; error: string } | null;
  };
  notifications: {
    enabled: boolean;
    routes_count: number;
    channels_count: number;
    overdue_seconds: number | null;
    parked_count: number;
    failing_channels: { channel: string; reason: string }[];
    canary: {
      wanted_since: string | null;
      fired_at: string | null;
      arrived_at: string | null;
    } | null;
  };
}

const read = (query: Query, at = NOON) => rpc<Facts>(query, "read_health", { p_now: iso(at) });

const readNotifications = async (query: Query, at = NOON) => (await read(query, at)).notifications;

const LEASE_TOKEN = "8f8b5a4e-1111-4111-8111-111111111111";

/** The facts of one job. */
const jobOf = async (query: Query, job = "collect-metrics") =>
  (await read(query)).jobs.find((facts) => facts.job === job);

describe("monitor.read_health()", () => {
  it("has nothing to show of a project that has just begun, and says so", async ({ query }) => {
    const job = {
      last_complete: null,
      last_succeeded_at: null,
      last_run_at: null,
      last_state: null,
      last_reason: null,
    };
    expect(await read(query)).toEqual({
      now: "2026-03-10T12:00:00+00:00",
      jobs_enabled: true,
      scheduler: { watched_at: null, stale_after_seconds: 180, installed: true },
      jobs: [
        { ...job, job: "collect-metrics", stale_after_seconds: 180 },
        {
          ...job,
          job: "data-retention-cleanup",
          stale_after_seconds: 93_600,
        },
        { ...job, job: "deliver-notifications", stale_after_seconds: 2700 },
        { ...job, job: "detect-anomalies", stale_after_seconds: 900 },
        { ...job, job: "evaluate-alerts", stale_after_seconds: 180 },
      ],
      metrics: {
        newest_sample_at: null,
        stale_after_seconds: 180,
        failing_collectors: [],
      },
      storage: {
        database_bytes: expect.any(Number),
        monitor_bytes: expect.any(Number),
        budget_bytes: 400_000_000,
        shed: null,
        days_ahead: expect.any(Number),
        contended_retention: [],
      },
      rules: { live_count: expect.any(Number), failing_count: 0, first_failure: null },
      notifications: {
        ...{ enabled: true, routes_count: 0, channels_count: 0, overdue_seconds: null },
        ...{ parked_count: 0, failing_channels: [], canary: null },
      },
    });
  });

  it("shows how the last run of a job ended, by its minute", async ({ query }) => {
    await addRun(query, { scheduled_at: iso(NOON - 3 * MINUTE), state: "succeeded" });
    await addRun(query, {
      scheduled_at: iso(NOON - 2 * MINUTE),
      state: "failed",
      reason: "HTTP 401",
    });
    await query(
      "update monitor.job_schedules set last_succeeded_at = $1 where job = 'collect-metrics'",
      [
        iso(NOON - 3 * MINUTE),
      ],
    );
    const expected = {
      last_state: "failed",
      last_reason: "HTTP 401",
      last_run_at: "2026-03-10T11:58:00+00:00",
      last_succeeded_at: "2026-03-10T11:57:00+00:00",
    };
    expect(await jobOf(query)).toMatchObject(expected);

    // What still runs has not ended.
    await addRun(query, { scheduled_at: iso(NOON - MINUTE), state: "running" });
    await addRun(query, { scheduled_at: iso(NOON), state: "queued" });
    expect(await jobOf(query)).toMatchObject(expected);
    expect(await jobOf(query, "detect-anomalies")).toMatchObject({ last_state: null });
  });

  it("shows whether the kill switch is thrown, and since when nobody watches", async ({ query }) => {
    await query("update monitor.settings set jobs_enabled = false");
    await query(
      "update monitor.job_schedules set last_succeeded_at = $1 where job = 'watch-jobs'",
      [iso(NOON - DAY)],
    );
    expect(await read(query)).toMatchObject({
      jobs_enabled: false,
      scheduler: { watched_at: "2026-03-09T12:00:00+00:00" },
    });
  });

  it("shows whether there is a scheduler at all", async ({ query, asSuperuser, asOwner }) => {
    await asSuperuser("drop extension pg_cron");
    expect((await read(query)).scheduler).toMatchObject({ installed: false });
    await asOwner("delete from monitor.job_schedules where job = 'watch-jobs'");
    expect((await read(query)).scheduler).toBeNull();
  });

  it("shows the newest sample of all series", async ({ query }) => {
    await openDays(query);
    await addSeries(query, await addMetric(query), [[NOON - 2, 1]]);
    await addSeries(query, await addMetric(query), [[NOON - 1, 1]]);
    await addSeries(query, await addMetric(query));
    expect((await read(query)).metrics).toMatchObject({
      newest_sample_at: "2026-03-10T11:59:59.999+00:00",
    });
  });

  it("names collectors whose last run failed, in order, unless they are switched off", async ({ query }) => {
    const set = (collector: string, change: string) =>
      query(
        `update monitor.metric_collectors set last_run_at = $2, ${change} where collector = $1`,
        [collector, iso(NOON)],
      );
    await set("collect_storage", "last_outcome = 'timed_out'");
    await set("collect_cron_runs", "last_outcome = 'failed'");
    await set("collect_job_runs", "last_outcome = 'ok'");
    await set("collect_transactions", "last_outcome = 'failed', is_enabled = false");
    expect((await read(query)).metrics.failing_collectors).toEqual([
      "collect_cron_runs",
      "collect_storage",
    ]);
    // Who is not called any more has not failed lately: each has its interval and five minutes.
    const failing = async (after: number) =>
      (await read(query, NOON + after)).metrics.failing_collectors;
    expect(await failing(6 * MINUTE - 1)).toEqual(["collect_cron_runs", "collect_storage"]);
    expect(await failing(6 * MINUTE)).toEqual(["collect_storage"]);
    expect(await failing(10 * MINUTE)).toEqual([]);
  });

  it("shows whether the last run left work undone", async ({ query }) => {
    const complete = async () =>
      (await jobOf(query, "detect-anomalies") as { last_complete: unknown }).last_complete;
    expect(await complete()).toBeNull();
    for (const [minute, is] of [true, false].entries()) {
      await addRun(query, {
        job: "detect-anomalies",
        scheduled_at: iso(NOON + minute * MINUTE),
        state: "succeeded",
        result: { complete: is },
      });
      expect(await complete()).toBe(is);
    }
  });

  it("counts the days after today that can be written to", async ({ query, asOwner }) => {
    await asOwner("delete from monitor.sample_days");
    await openDays(query, NOON, 3);
    const ahead = async (at: number) => (await read(query, at)).storage.days_ahead;
    expect(await ahead(NOON)).toBe(2);
    expect(await ahead(NOON + DAY)).toBe(1);
    expect(await ahead(NOON + 12 * 60 * MINUTE - 1)).toBe(2);
    expect(await ahead(NOON + 12 * 60 * MINUTE)).toBe(1);
    expect(await ahead(NOON + 10 * DAY)).toBe(0);
    await asOwner("update monitor.sample_days set state = 'sealed' where day = '2026-03-12'");
    expect(await ahead(NOON)).toBe(1);
  });

  it("names what retention could not do the last time, within 3 days", async ({ query }) => {
    const add = (entity: string, outcome: string, age: number) =>
      query(
        `insert into monitor.retention_runs (entity, started_at, duration_seconds, outcome, counts)
         values ($1, $2, 0, $3, '{}')`,
        [entity, iso(NOON - age), outcome],
      );
    await add("metric_time_series", "contended", DAY);
    await add("job_runs", "failed", 3 * DAY - 1);
    await add("audit_log", "failed", 3 * DAY); // too long ago
    await add("incidents", "contended", 2 * DAY);
    await add("incidents", "done", DAY); // but then it could
    await add("system_alerts", "done", 2 * DAY);
    await add("system_alerts", "nothing", DAY);
    expect((await read(query)).storage.contended_retention).toEqual([
      "job_runs",
      "metric_time_series",
    ]);
  });

  it("shows what was last shed to stay within the budget, within 7 days", async ({ query }) => {
    const add = (entity: string, age: number, counts: object, detail: string | null) =>
      query(
        `insert into monitor.retention_runs (entity, started_at, duration_seconds, outcome, counts, detail)
         values ($1, $2, 0, 'done', $3, $4)`,
        [entity, iso(NOON - age), JSON.stringify(counts), detail],
      );
    const shed = async () => (await read(query)).storage.shed;
    await add("metric_chunks", 7 * DAY, { shed_days: 7 }, "too long ago");
    await add("metric_chunks", DAY, { shed_days: 0 }, "nothing shed");
    await add("metric_chunks", DAY, {}, "failed");
    await add("metric_time_series", DAY, { shed_days: 7 }, "another entity");
    expect(await shed()).toBeNull();
    await add("metric_chunks", 7 * DAY - 1, { shed_days: 1 }, "a day");
    expect(await shed()).toEqual({ at: "2026-03-03T12:00:00.001+00:00", detail: "a day" });
    await add("metric_chunks", 2 * DAY, { shed_days: 7 }, null);
    expect(await shed()).toEqual({ at: "2026-03-08T12:00:00+00:00", detail: null });
  });

  it("counts the live rules that have failed for more than 10 minutes, and names the first", async ({ query }) => {
    await query("delete from monitor.alert_rules");
    const rules = ["a", "b", "c"].map((name) => ({ kind: "alerting", name, expr: "1" }));
    await rpc(query, "save_rules", { p_groups: [{ name: "test", rules }] });
    const fail = (name: string, minute: number, error = `${name} is broken`) =>
      query(
        `update monitor.rule_states as state
         set health = 'err', last_error = $2, failing_since = $3, evaluated_at = $4, evaluation_seconds = 0
         from monitor.alert_rules as rule where rule.rule_id = state.rule_id and rule.name = $1`,
        [name, error, iso(NOON - minute * MINUTE), iso(NOON)],
      );
    const facts = async (at = NOON) => (await read(query, at)).rules;
    await fail("b", 10);
    await fail("c", 20, "x".repeat(501));
    const c = { name: "c", error: "x".repeat(500) };
    expect(await facts()).toEqual({ live_count: 3, failing_count: 1, first_failure: c });
    const b = { name: "b", error: "b is broken" };
    expect(await facts(NOON + 1)).toEqual({ live_count: 3, failing_count: 2, first_failure: b });

    await query("update monitor.alert_rules set mode = 'shadow' where name = 'b'");
    expect(await facts(NOON + 1)).toEqual({ live_count: 2, failing_count: 1, first_failure: c });
    await query("update monitor.alert_rules set enabled = false where name = 'c'");
    expect(await facts(NOON + 1)).toEqual({ live_count: 1, failing_count: 0, first_failure: null });
    await query("delete from monitor.alert_rules");
    expect(await facts()).toEqual({ live_count: 0, failing_count: 0, first_failure: null });
  });

  describe("of notifications", () => {
    it("shows whether they are sent at all", async ({ query }) => {
      await query("update monitor.settings set notifications_enabled = false");
      expect(await readNotifications(query)).toMatchObject({ enabled: false });
    });

    it("counts routes, and channels that are switched on", async ({ query }) => {
      await addChannel(query, "ops");
      await addChannel(query, "spare");
      await addChannel(query, "old", { enabled: false });
      await query(
        "select monitor.save_route('all', '{ops}'), monitor.save_route('others', '{spare}')",
      );
      expect(await readNotifications(query)).toMatchObject({ routes_count: 2, channels_count: 2 });
    });

    it.for<[string, Readonly<Record<string, unknown>>, number | null]>([
      ["is due now", { next_attempt_at: iso(NOON) }, 0],
      ["has been due for a moment", { next_attempt_at: iso(NOON - 1500) }, 1.5],
      ["is due in a moment", { next_attempt_at: iso(NOON + 1) }, null],
      ["was made long ago and is tried again now", {
        ...{ created_at: iso(NOON - DAY), next_attempt_at: iso(NOON) },
      }, 0],
      ["is being sent", {
        ...{ next_attempt_at: iso(NOON - DAY), lease_until: iso(NOON + 1) },
        lease_token: LEASE_TOKEN,
      }, 0],
      ["whose deliverer has just died", {
        ...{ next_attempt_at: iso(NOON - DAY), lease_until: iso(NOON) },
        lease_token: LEASE_TOKEN,
      }, 0],
      ["whose deliverer died 7 s ago", {
        ...{ next_attempt_at: iso(NOON - DAY), lease_until: iso(NOON - 7000) },
        lease_token: LEASE_TOKEN,
      }, 7],
      ["is for a channel that is switched off", {
        channel: "old",
        next_attempt_at: iso(NOON - DAY),
      }, null],
      ["was sent", {
        ...{ next_attempt_at: iso(NOON - DAY), state: "sent", sent_at: iso(NOON) },
      }, null],
      ["was given up", { next_attempt_at: iso(NOON - DAY), state: "parked" }, null],
    ])(
      "says how long one has waited that %s",
      async ([, columns, overdue_seconds], { query }) => {
        await addChannel(query, "ops");
        await addChannel(query, "old", { enabled: false });
        await addMessage(query, columns);
        expect(await readNotifications(query)).toMatchObject({ overdue_seconds });
      },
    );

    it("says how long the oldest has waited that is due", async ({ query }) => {
      await addChannel(query, "ops");
      for (const age of [3, 5, 4]) {
        await addMessage(query, { next_attempt_at: iso(NOON - age * MINUTE) });
      }
      expect(await readNotifications(query)).toMatchObject({ overdue_seconds: 300 });
    });

    it("counts what was given up within 7 days", async ({ query }) => {
      for (const age of [0, 7 * DAY - 1, 7 * DAY]) {
        await addMessage(query, { state: "parked", created_at: iso(NOON - age) });
      }
      await addMessage(query, { state: "discarded" });
      expect(await readNotifications(query)).toMatchObject({ parked_count: 2 });
    });

    it("names the channels that fail, with what they say or what they lack, in order", async ({ query }) => {
      await addChannel(query, "ops");
      expect(await readNotifications(query)).toMatchObject({ failing_channels: [] });
      const failing_since = iso(NOON - DAY);
      await addChannel(query, "mute", { failing_since });
      await addChannel(query, "late", { failing_since, last_error: "x".repeat(301) });
      await addChannel(query, "off", { failing_since, last_error: "no", enabled: false });
      await addChannel(query, "bare", { kind: "slack", config: {} });
      // What failed once may be a moment's.
      await addChannel(query, "well", { last_error: "no", consecutive_failures: 2 });
      expect((await readNotifications(query)).failing_channels).toEqual([
        {
          channel: "bare",
          reason: "Vault has no secret of it: the address of its incoming webhook",
        },
        { channel: "late", reason: "x".repeat(300) },
        { channel: "mute", reason: "it fails" },
      ]);
    });

    it("says when the last canary fired, and which was the last that was sent, if one is wanted", async ({ query }) => {
      await addChannel(query, "ops");
      const canary = async () => (await readNotifications(query)).canary;
      const tell = async (day: number, columns: object | null, name = "PgvigilCanary") => {
        const at = iso(NOON - day * DAY);
        const { rows: [alert] } = await query<{ id: string }>(
          `insert into monitor.system_alerts
             (fingerprint, name, source, severity, opened_at, active_at, fired_at, last_seen_at, resolved_at)
           values ($1, $1, 'rule', 'info', $2, $2, $2, $2, $2) returning alert_id as id`,
          [name, at],
        );
        if (columns === null) return;
        await query(
          `insert into monitor.notification_alerts (notification_id, alert_id, channel, status, severity, told_at)
           values ($1, $2, 'ops', 'firing', 'info', $3)`,
          [await addMessage(query, { created_at: at, ...columns }), alert!.id, at],
        );
      };
      await tell(3, { state: "sent", sent_at: iso(NOON) });
      expect(await canary()).toBeNull();

      await query("update monitor.settings set canary_channel = 'ops'");
      await query("update monitor.alerting_state set canary_since = $1", [iso(NOON - 4 * DAY)]);
      const wanted = { wanted_since: "2026-03-06T12:00:00+00:00" };
      const third = "2026-03-07T12:00:00+00:00";
      expect(await canary()).toEqual({ ...wanted, fired_at: third, arrived_at: third });
      await tell(2, { state: "parked" });
      const second = "2026-03-08T12:00:00+00:00";
      expect(await canary()).toEqual({ ...wanted, fired_at: second, arrived_at: third });
      // What has bounced was sent, and arrived nowhere.
      await tell(2, { state: "bounced", sent_at: iso(NOON) });
      expect(await canary()).toEqual({ ...wanted, fired_at: second, arrived_at: third });
      await tell(1, null);
      await tell(0, { state: "sent", sent_at: iso(NOON) }, "SomethingElse");
      const first = "2026-03-09T12:00:00+00:00";
      expect(await canary()).toEqual({ ...wanted, fired_at: first, arrived_at: third });
      await query("delete from monitor.system_alerts");
      expect(await canary()).toEqual({ ...wanted, fired_at: null, arrived_at: null });
    });
  });

  it("shows sizes that are those of the database", async ({ query, asOwner }) => {
    const { storage } = await read(query);
    const { rows: [size] } = await asOwner(
      "select pg_database_size(current_database())::float8 as bytes",
    );
    expect(storage.database_bytes).toBe(size!.bytes);
    expect(storage.monitor_bytes).toBeGreaterThan(100_000);
    expect(storage.monitor_bytes).toBeLessThan(storage.database_bytes);
  });

  it("is bounded: cut after 3 s, and reads no samples", async ({ query, asOwner }) => {
    const { rows } = await asOwner(
      "select proconfig, prosrc from pg_proc where proname = 'read_health'",
    );
    expect(rows[0]!.proconfig).toContain("statement_timeout=3s");
    expect(rows[0]!.prosrc).not.toContain("metric_time_series");
    await query(
      `insert into monitor.job_runs (job, trigger, scheduled_at, state)
       select 'collect-metrics', 'manual', $1::timestamptz - n * interval '1 minute', 'running' from generate_series(1, 20000) as n`,
      [iso(NOON)],
    );
    expect(await read(query)).toMatchObject({ jobs_enabled: true }); // the session's time-out is 8 s
  });

  it("is for service_role", async ({ asUser, asAnon }) => {
    for (const somebody of [asUser(""), asAnon]) {
      await expect(read(somebody)).rejects.toMatchObject({ code: "42501" });
    }
  });
});
