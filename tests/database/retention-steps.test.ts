import { randomUUID } from "node:crypto";
import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc } from "./database.ts";
import {
  addAnomaly,
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
} from "./seeds.ts";
import { addAnySeries, type Cleaned, compactAll, digestTables } from "./retention.ts";

const STEPS = [
  "evidence_samples",
  "metric_time_series",
  "metric_chunks",
  "metric_rollups",
  "anomaly_detections",
  "anomaly_detections_archive",
  "system_alerts",
  "incidents",
  "job_runs",
  "retention_runs",
  "audit_log",
  "sample_days",
  "metric_series",
  "anomaly_feedback",
  "maintenance_windows",
  "deploy_marks",
  "notifications",
  "mail_events",
  "silences",
  "cron.job_run_details",
];

const step = (query: Query, entity: string | null, args: object = {}) =>
  rpc<Cleaned>(query, "run_retention_step", { p_entity: entity, p_now: iso(NOON), ...args });

const runAll = (query: Query, args: object = {}) =>
  rpc<Cleaned[]>(query, "run_data_retention_cleanup", { p_now: iso(NOON), ...args });

const readRecord = async (query: Query) =>
  (await query(
    "select run_id, entity, outcome, counts, oldest_kept_at, detail, started_at from monitor.retention_runs order by 1, 2",
  )).rows;

/** Something of every entity: due, not due and held. */
async function fillEverything(asSuperuser: Query) {
  await openDays(asSuperuser, NOON - 5 * DAY, 6);
  const metric = await addMetric(asSuperuser);
  const series = await addSeries(asSuperuser, metric, [[NOON - 4 * HOUR, 2], [
    NOON - 3 * HOUR,
    3,
  ]]);
  // Days in chunks: a week that is due and one that is not.
  await openDays(asSuperuser, NOON - 40 * DAY, 15);
  for (const age of [40, 27]) {
    await asSuperuser(
      "insert into monitor.metric_time_series (series_id, recorded_at, value) values ($1, $2, 1)",
      [series, iso(NOON - age * DAY)],
    );
  }
  await compactAll(asSuperuser, { now: NOON - 20 * DAY });
  // A month of which only hours are left, due as well.
  await asSuperuser("select monitor.ensure_chunk_partitions('2025-01-15')");
  await asSuperuser(
    `insert into monitor.metric_rollups (series_id, day, hours, sample_count, floats)
     values ($1, '2025-01-15', 1, 1, '{1,1,1,1,1}')`,
    [series],
  );
  await addSeries(asSuperuser, metric, [], { idle: "but young" });
  await asSuperuser(
    "insert into monitor.metric_series (metric, labels, created_at) values ($1, $2, '2020-01-01')",
    [
      metric,
      { idle: "for long" },
    ],
  );

  const ended = (age: number, more: object = {}) =>
    addAnomaly(asSuperuser, series, {
      started_at: iso(NOON - age),
      ended_at: iso(NOON - age),
      ended_reason: "recovered",
      ...more,
    });
  const reviewed = (age: number) => ({
    review_state: "resolved",
    reviewed_at: iso(NOON - age),
    reviewed_by: "me",
  });
  await ended(500 * DAY, reviewed(500 * DAY)); // to the archive, then due there
  await ended(4 * HOUR); // its evidence is not complete
  await asSuperuser(
    "insert into monitor.anomaly_detections_archive select * from monitor.anomaly_detections where reviewed_at is not null",
  );
  await asSuperuser("delete from monitor.anomaly_detections where reviewed_at is not null");
  await ended(40 * DAY, reviewed(8 * DAY));
  await ended(40 * DAY);
  const held = await ended(41 * DAY);
  await ended(2 * DAY, reviewed(2 * DAY));

  await asSuperuser(
    `insert into monitor.evidence_samples (owner_kind, owner_id, series_id, recorded_at, value)
     values ('anomaly', -1, $1, $2, 1), ('incident', -1, $1, $2, 1), ('anomaly', $3, $1, $2, 1)`,
    [series, iso(NOON - 41 * DAY), held],
  );
  await asSuperuser(
    `insert into monitor.system_alerts (fingerprint, name, source, severity, fired_at, last_seen_at, resolved_at)
     select 'a' || n, 'a', 'rule', 'info', $1, $1, case when n < 3 then $1::timestamptz end from generate_series(1, 3) as n`,
    [iso(NOON - 100 * DAY)],
  );
  await asSuperuser(
    `insert into monitor.incidents (title, severity, state, started_at, resolved_at)
     values ('old', 'P1', 'resolved', $1, $1), ('open', 'P1', 'open', $1, null)`,
    [iso(NOON - 100 * DAY)],
  );
  await asSuperuser(
    "insert into monitor.incident_anomalies select incident_id, $1 from monitor.incidents where state = 'open'",
    [
      held,
    ],
  );
  await asSuperuser(
    `insert into monitor.incident_alerts
     select incident_id, (select min(alert_id) from monitor.system_alerts) from monitor.incidents where state = 'open'`,
  );
  for (const age of [399, 401]) {
    const at = iso(NOON - age * DAY);
    await asSuperuser(
      `insert into monitor.anomaly_feedback (series_id, label, span_since, span_until, created_by, created_at)
       values ($1, 'missed', $2, $2, 'me', $2)`,
      [series, at],
    );
    await asSuperuser(
      `insert into monitor.maintenance_windows (starts_at, ends_at, reason, created_by, created_at)
       values ($1, $1, 'a test', 'me', $1)`,
      [at],
    );
    await asSuperuser(
      `insert into monitor.deploy_marks (deployed_at, label, created_by, created_at) values ($1, 'v1', 'me', $1)`,
      [at],
    );
    await asSuperuser(
      `insert into monitor.silences (matchers, starts_at, ends_at, reason, created_by, created_at)
       values ('[{"name": "a", "op": "=", "value": "b"}]', $1, $1, 'a test', 'me', $1)`,
      [at],
    );
  }
  await tellEverything(asSuperuser);
  for (const age of [29, 31, 500]) {
    await addRun(asSuperuser, {
      trigger: "manual",
      scheduled_at: iso(NOON - age * DAY),
      state: "lost",
    });
    await asSuperuser(
      `insert into monitor.retention_runs (entity, started_at, duration_seconds, outcome, counts)
       values ('job_runs', $1, 0, 'nothing', '{}')`,
      [iso(NOON - age * DAY)],
    );
    await asSuperuser(
      "insert into monitor.audit_log (changed_at, actor, action, object) values ($1, 'me', 'update', 'a')",
      [
        iso(NOON - age * DAY),
      ],
    );
    await asSuperuser(
      "insert into monitor.sample_days (day, state, state_since) values ($1::timestamptz - interval '60 days', 'dropped', $1)",
      [
        iso(NOON - age * DAY),
      ],
    );
    await asSuperuser(
      "insert into cron.job_run_details (jobid, status, end_time) values (1, 'failed', $1)",
      [
        iso(NOON - (age - 25) * DAY),
      ],
    );
  }
}

/** Messages that are due, not due, to be sent, and held by an alert or an incident that is open, and what belongs to them. */
async function tellEverything(asSuperuser: Query) {
  await addChannel(asSuperuser);
  await asSuperuser("select monitor.save_route('all', '{ops}')");
  const tell = async (age: number, state: string, fingerprint?: string) => {
    const at = iso(NOON - age * DAY);
    const sent = state === "sent" ? { sent_at: at } : {};
    const message = await addMessage(asSuperuser, { created_at: at, state, ...sent });
    await asSuperuser(
      `insert into monitor.notification_alerts (notification_id, alert_id, channel, status, severity, told_at)
       select $1, alert_id, 'ops', 'firing', 'info', $3 from monitor.system_alerts where fingerprint = $2`,
      [message, fingerprint, at],
    );
  };
  await tell(91, "sent", "a2");
  await tell(92, "parked");
  await tell(93, "sent", "a3"); // which is open
  await tell(94, "pending", "a2");
  await tell(89, "sent", "a1");
  const at = iso(NOON - 95 * DAY);
  const held = await addMessage(asSuperuser, { created_at: at, state: "sent", sent_at: at });
  await asSuperuser(
    `update monitor.notifications set incident_id = (select incident_id from monitor.incidents where state = 'open')
     where notification_id = $1`,
    [held],
  );
  await asSuperuser(
    `insert into monitor.notification_decisions (alert_id, decision, detail, held_since, first_evaluation)
     select alert_id, 'sent', 'to ops', $1, 1 from monitor.system_alerts`,
    [iso(NOON - 100 * DAY)],
  );
  await asSuperuser(
    `with made as (
       insert into monitor.alert_groups (group_key, labels, created_at, next_flush_at) values ('a', '{}', $1, $1) returning group_id)
     insert into monitor.alert_group_members (group_id, alert_id) select group_id, alert_id from made cross join monitor.system_alerts`,
    [iso(NOON - 100 * DAY)],
  );
  for (const age of [89, 91]) {
    await asSuperuser(
      `insert into monitor.mail_events (event_id, provider_id, kind, occurred_at) values ('event ' || $2, 'a', 'delivered', $1)`,
      [iso(NOON - age * DAY), age],
    );
  }
}

/** What a dry run and a real one must agree on. */
const essence = ({ entity, outcome, counts, oldest_kept_at, more, detail }: Cleaned) => ({
  entity,
  outcome,
  counts,
  oldest_kept_at,
  more,
  detail,
});

describe("monitor.list_retention_steps()", () => {
  it("is what the policies say, evidence before the samples it is copied from", async ({ query }) => {
    expect(await rpc(query, "list_retention_steps")).toEqual(STEPS);
  });

  it("leaves out what is kept from now on", async ({ query }) => {
    await query(
      "update monitor.retention_policies set action = 'keep', keep_days = null where entity = 'audit_log'",
    );
    expect(await rpc(query, "list_retention_steps")).toEqual(
      STEPS.filter((entity) => entity !== "audit_log"),
    );
    await expect(step(query, "audit_log")).rejects.toMatchObject({ code: "22023" });
  });

  it("keeps samples 2 days in rows and 30 in all, hours 400, anomalies 30 days, alerts, messages and incidents 90", async ({ query }) => {
    const { rows } = await query(
      `select entity, keep_days from monitor.retention_policies
       where entity ~ '^metric_(time|chunks|rollups)' 
         or entity in ('anomaly_detections', 'system_alerts', 'incidents', 'notifications', 'mail_events', 'silences')
       order by 1`,
    );
    expect(rows).toEqual([
      { entity: "anomaly_detections", keep_days: 30 },
      { entity: "incidents", keep_days: 90 },
      { entity: "mail_events", keep_days: 90 },
      { entity: "metric_chunks", keep_days: 30 },
      { entity: "metric_rollups", keep_days: 400 },
      { entity: "metric_time_series", keep_days: 2 },
      { entity: "notifications", keep_days: 90 },
      { entity: "silences", keep_days: 400 },
      { entity: "system_alerts", keep_days: 90 },
    ]);
  });
});

describe("monitor.retention_policies", () => {
  it.for([
    ["keep_days = 0", "retention_policies_keep_days_in_range"],
    ["keep_days = 36501", "retention_policies_keep_days_in_range"],
    ["action = 'burn'", "retention_policies_action_fits_entity"],
    ["action = 'archive'", "retention_policies_action_fits_entity"],
    ["action = 'with_owner', keep_days = null", "retention_policies_action_fits_entity"],
    ["keep_days = null", "retention_policies_keep_days_with_action"],
    ["action = 'keep'", "retention_policies_keep_days_with_action"],
    ["reason = ''", "retention_policies_reason_present"],
  ])("refuses %s", async ([change, constraint], { query }) => {
    await expect(query(`update monitor.retention_policies set ${change} where entity = 'job_runs'`))
      .rejects
      .toMatchObject({ code: "23514", constraint });
  });
});

describe("what a policy may say", () => {
  const ACTIONS = [
    "archive",
    "compact",
    "delete",
    "drop_days",
    "drop_months",
    "drop_weeks",
    "keep",
    "with_owner",
  ];
  const MAY: Readonly<Record<string, string[]>> = {
    metric_time_series: ["compact", "keep"],
    metric_chunks: ["drop_weeks", "keep"],
    metric_rollups: ["drop_months", "keep"],
    chunk_times: ["with_owner"],
    late_samples: ["with_owner"],
    anomaly_detections: ["archive", "keep"],
    evidence_samples: ["keep", "with_owner"],
    system_alerts: ["delete", "keep"],
    "cron.job_run_details": ["delete", "keep"],
    incident_events: ["with_owner"],
    notifications: ["delete", "keep"],
    mail_events: ["delete", "keep"],
    silences: ["delete", "keep"],
    notification_alerts: ["with_owner"],
    notification_decisions: ["with_owner"],
    alert_groups: ["with_owner"],
    alert_group_members: ["with_owner"],
    alerting_state: ["with_owner"],
    notification_channels: ["keep"],
    settings: ["keep"],
    no_such_table: ["keep"],
  };

  it.for(Object.entries(MAY))("of %s: %s", async ([entity, actions], { query, asOwner }) => {
    await asOwner("delete from monitor.retention_policies where entity = $1", [entity]);
    const taken: string[] = [];
    for (const action of ACTIONS) {
      const days = ["keep", "with_owner"].includes(action) ? null : 9;
      try {
        await asOwner("insert into monitor.retention_policies values ($1, $2, $3, 1, 'a test')", [
          entity,
          action,
          days,
        ]);
        taken.push(action);
        await asOwner("delete from monitor.retention_policies where entity = $1", [entity]);
      } catch (error) {
        expect(error).toMatchObject({ constraint: "retention_policies_action_fits_entity" });
      }
    }
    expect(taken).toEqual(actions);
    expect(await rpc(query, "list_retention_steps")).not.toContain(entity);
  });

  it.for(
    [
      ["metric_chunks", 1, true],
      ["metric_chunks", 100_000_000, true],
      ["metric_chunks", 0, false],
      ["metric_chunks", 100_000_001, false],
      ["metric_rollups", 400, false],
      ["metric_time_series", 400, false],
      ["settings", 400, false],
    ] as const,
  )("of %s: a budget of %i MB: %s", async ([entity, megabytes, isTaken], { query }) => {
    const change = query(
      "update monitor.retention_policies set keep_megabytes = $2 where entity = $1",
      [entity, megabytes],
    );
    if (isTaken) await change;
    else await expect(change).rejects.toMatchObject({ code: "23514" });
  });

  it("is a budget of 400 MB of chunks, of nothing else", async ({ query }) => {
    const { rows } = await query(
      "select entity, keep_megabytes from monitor.retention_policies where keep_megabytes is not null",
    );
    expect(rows).toEqual([{ entity: "metric_chunks", keep_megabytes: 400 }]);
    await expect(
      query(
        "update monitor.retention_policies set action = 'keep', keep_days = null where entity = 'metric_chunks'",
      ),
    ).rejects.toMatchObject({ constraint: "retention_policies_keep_megabytes_of_chunks" });
  });

  it("keeps evidence when told to, also when its owner goes", async ({ query, asSuperuser }) => {
    await fillEverything(asSuperuser);
    await asSuperuser(
      `insert into monitor.evidence_samples
       select 'anomaly', anomaly_id, series_id, started_at, 1 from monitor.anomaly_detections_archive`,
    );
    await query(
      "update monitor.retention_policies set action = 'keep' where entity = 'evidence_samples'",
    );
    expect(await rpc(query, "list_retention_steps")).toEqual(STEPS.slice(1));
    const before = await digestTables(asSuperuser);
    await runAll(query);
    const after = await digestTables(asSuperuser);
    expect(after["monitor.evidence_samples"]).toBe(before["monitor.evidence_samples"]);
  });
});

describe("monitor.run_retention_step()", () => {
  it.for(STEPS)(
    "predicts of %s in a dry run what the real one then does",
    async (entity, { query, asSuperuser }) => {
      await fillEverything(asSuperuser);
      const before = await digestTables(asSuperuser);
      const predicted = await step(query, entity, { p_dry_run: true });
      expect(await digestTables(asSuperuser)).toEqual(before);

      if (entity === "metric_time_series") {
        // Of days it says how many are due, however many steps each takes.
        const done = await compactAll(query);
        const dropped = done.flatMap(({ counts }) => counts.days_dropped ?? []);
        expect(predicted.counts).toEqual({ days: dropped.length, contended: 0 });
        expect(predicted.oldest_kept_at).toBe(done.at(-1)!.oldest_kept_at);
        expect(predicted).toMatchObject({ outcome: "done", more: false });
        return;
      }
      const done = await step(query, entity);
      if (entity === "metric_chunks") predicted.counts.samples = done.counts.samples!; // not read in a dry run
      expect(essence(predicted)).toEqual(essence(done));
      expect(done.outcome).toBe("done"); // or this test would say nothing
      expect((await step(query, entity, { p_dry_run: true })).outcome).toMatch(/nothing|held/);
    },
  );

  it("changes nothing but the entity, what belongs to it, and the record of it", async ({ query, asSuperuser }) => {
    const ALSO: Readonly<Record<string, string[]>> = {
      metric_time_series: ["sample_days"],
      metric_chunks: ["sample_days", "chunk_times"],
      anomaly_detections: ["anomaly_detections_archive"],
      system_alerts: [
        ...["incident_alerts", "alert_group_members"],
        ...["notification_alerts", "notification_decisions"],
      ],
      incidents: ["incident_events", "incident_alerts", "incident_anomalies", "audit_log"],
      metric_series: ["detector_states"],
      notifications: ["notification_alerts"],
      silences: ["audit_log"],
    };
    await fillEverything(asSuperuser);
    for (const entity of STEPS) {
      const before = await digestTables(asSuperuser);
      await step(query, entity);
      const after = await digestTables(asSuperuser);
      const changed = Object.keys(before).filter((table) => before[table] !== after[table])
        .map((table) =>
          table.replace(/^monitor\./, "").replace(
            /^(metric_time_series|metric_chunks|metric_rollups)_\w+$/,
            "$1",
          )
        );
      const allowed = [entity, "retention_runs", ...(ALSO[entity] ?? [])];
      expect(changed.filter((table) => !allowed.includes(table)), entity).toEqual([]);
    }
  });

  it("follows the policy", async ({ query, asSuperuser }) => {
    await addRun(asSuperuser, {
      trigger: "manual",
      scheduled_at: iso(NOON - 10 * DAY),
      state: "lost",
    });
    expect(await step(query, "job_runs")).toMatchObject({ outcome: "nothing" });
    await query("update monitor.retention_policies set keep_days = 9 where entity = 'job_runs'");
    expect(await step(query, "job_runs")).toMatchObject({
      outcome: "done",
      counts: { deleted: 1 },
    });
  });

  it("records what it did with the run it was part of, and no dry run", async ({ query, asSuperuser }) => {
    await asSuperuser("delete from monitor.retention_runs");
    await addRun(asSuperuser, {
      trigger: "manual",
      scheduled_at: iso(NOON - 31 * DAY),
      state: "lost",
    });
    const run = randomUUID();
    await step(query, "job_runs", { p_run_id: run, p_dry_run: true });
    expect(await readRecord(query)).toEqual([]);
    await step(query, "job_runs", { p_run_id: run });
    expect(await readRecord(query)).toEqual([{
      run_id: run,
      entity: "job_runs",
      outcome: "done",
      counts: { deleted: 1, contended: 0 },
      oldest_kept_at: null,
      detail: null,
      started_at: new Date(NOON),
    }]);
  });

  it("says failed with the reason when a step breaks, and undoes all of it", async ({ query, asOwner, asSuperuser }) => {
    await fillEverything(asSuperuser);
    await asOwner(`
      create function monitor.refuse() returns trigger language plpgsql as $$
      begin raise exception 'not today' using errcode = 'P0042'; end $$`);
    await asOwner(`
      create trigger refuse after insert on monitor.anomaly_detections_archive
      for each statement execute function monitor.refuse()`);
    const before = (await query("select count(*) from monitor.anomaly_detections")).rows;
    expect(await step(query, "anomaly_detections")).toMatchObject({
      entity: "anomaly_detections",
      outcome: "failed",
      detail: "P0042: not today",
      more: false,
    });
    expect((await query("select count(*) from monitor.anomaly_detections")).rows).toEqual(before);
    expect(await readRecord(query)).toContainEqual(
      expect.objectContaining({ outcome: "failed", detail: "P0042: not today" }),
    );
  });

  it("says missing of an entity that is not there", async ({ query, asSuperuser }) => {
    await asSuperuser("drop extension pg_cron");
    expect(await step(query, "cron.job_run_details")).toMatchObject({ outcome: "missing" });
    await asSuperuser("drop schema if exists cron");
    expect(await step(query, "cron.job_run_details")).toMatchObject({ outcome: "missing" });
    await asSuperuser("drop table monitor.incidents cascade");
    expect(await step(query, "incidents")).toMatchObject({ outcome: "missing" });
  });

  it.for(["settings", "detector_states", "no_such_table", "", null])(
    "refuses %o",
    async (entity, { query }) => {
      await expect(step(query, entity)).rejects.toMatchObject({
        code: "22023",
        hint: expect.stringContaining("list_retention_steps"),
      });
    },
  );

  it("says contended after half a second behind rows that belong to what is due, and deletes it another time", async ({ ownDatabase }) => {
    const [session, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(session);
    await query(
      `insert into monitor.incidents (title, severity, state, started_at, resolved_at)
       values ('old', 'P1', 'resolved', $1, $1)`,
      [iso(NOON - 100 * DAY)],
    );
    await query(
      "insert into monitor.incident_events (incident_id, actor, description) select incident_id, 'me', 'a' from monitor.incidents",
    );
    await other.query("begin; update monitor.incident_events set description = 'b'");
    expect(await step(query, "incidents")).toMatchObject({
      outcome: "contended",
      counts: { contended: 1 },
      more: false,
    });
    expect((await query("select 1 from monitor.incidents")).rows).toHaveLength(1);
    await other.query("commit");
    expect(await step(query, "incidents")).toMatchObject({
      outcome: "done",
      counts: { deleted: 1 },
    });
  });

  it("records that samples could not be dropped because others were reading", async ({ ownDatabase }) => {
    const [session, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(session);
    await openDays(query, NOON - 40 * DAY);
    const compactStep = (minute = 0) =>
      step(query, "metric_time_series", { p_now: iso(NOON + minute * MINUTE) });
    expect(await compactStep()).toMatchObject({ counts: { days_sealed: 1 } });
    expect(await compactStep()).toMatchObject({ counts: { days_compacted: 1 } });
    await other.query("begin; select from monitor.metric_time_series");
    expect(await compactStep(1)).toMatchObject({ outcome: "contended", more: false });
    await other.query("commit; begin; select from monitor.metric_chunks");
    expect(await compactStep(2)).toMatchObject({ counts: { days_dropped: 1 } });
    expect(await step(query, "metric_chunks")).toMatchObject({ outcome: "contended", more: false });
    await other.query("commit");
    expect(await step(query, "metric_chunks")).toMatchObject({ outcome: "done" });
    const { rows } = await query(
      "select entity, outcome from monitor.retention_runs order by retention_run_id",
    );
    expect(rows.map(({ entity, outcome }) => `${entity} ${outcome}`)).toEqual([
      ...["metric_time_series done", "metric_time_series done", "metric_time_series contended"],
      ...["metric_time_series done", "metric_chunks contended", "metric_chunks done"],
    ]);
  });

  it("lets two at once pass: what one deletes, the other skips", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(one);
    for (const age of [31, 32, 33]) {
      await addRun(query, {
        trigger: "manual",
        scheduled_at: iso(NOON - age * DAY),
        state: "lost",
      });
    }
    await one.query("begin");
    expect(await step(query, "job_runs")).toMatchObject({ counts: { deleted: 3 } });
    expect(await step(queryOf(other), "job_runs")).toMatchObject({
      outcome: "contended",
      counts: { deleted: 0 },
    });
    await one.query("commit");
    expect(await step(queryOf(other), "job_runs")).toMatchObject({ outcome: "nothing" });
  });
});

describe("monitor.run_data_retention_cleanup()", () => {
  // What locks the samples against all others comes last.
  const LAST = ["metric_time_series", "metric_chunks", "metric_rollups"];
  const DROP_LAST = [...STEPS.filter((entity) => !LAST.includes(entity)), ...LAST];

  it("takes one step of every entity, in order, and drops days last", async ({ query, asSuperuser }) => {
    await fillEverything(asSuperuser);
    const results = await runAll(query);
    expect(results.map(({ entity }) => entity)).toEqual(DROP_LAST);
    expect(results.map(({ outcome }) => outcome)).toEqual(STEPS.map(() => "done"));
    await compactAll(query);
    expect((await runAll(query)).map(({ outcome }) => outcome)).not.toContain("done");
  });

  it("changes nothing at all in a dry run", async ({ query, asSuperuser }) => {
    await fillEverything(asSuperuser);
    const before = await digestTables(asSuperuser);
    const results = await runAll(query, { p_dry_run: true });
    expect(results.map(({ entity }) => entity)).toEqual(DROP_LAST);
    expect(await digestTables(asSuperuser)).toEqual(before);
  });

  it("does not let one broken entity keep the others from their turn", async ({ query, asOwner, asSuperuser }) => {
    await fillEverything(asSuperuser);
    await asOwner(`
      create or replace function monitor.cleanup_evidence(
        p_now timestamptz default now(), p_dry_run boolean default false, p_limit integer default 20000)
      returns jsonb language plpgsql as $$ begin raise exception 'broken'; end $$`);
    await asSuperuser("drop extension pg_cron");
    expect((await runAll(query)).map(({ outcome }) => outcome)).toEqual([
      "failed",
      ...STEPS.slice(5).map(() => "done"),
      "missing",
      ...LAST.map(() => "done"),
    ]);
  });

  it("says nothing of each entity when there is nothing", async ({ query, asSuperuser }) => {
    await asSuperuser("delete from monitor.audit_log");
    for (const result of await runAll(query)) {
      expect(result).toMatchObject({ outcome: "nothing", more: false, detail: null });
      expect(Object.values(result.counts).filter((count) => count !== 0)).toEqual([]);
    }
  });

  it("never deletes what stands in no policy: configuration and people", async ({ query, asSuperuser }) => {
    await fillEverything(asSuperuser);
    const tables = await digestTables(asSuperuser);
    await runAll(query, { p_now: iso(NOON + 36_000 * DAY) });
    const after = await digestTables(asSuperuser);
    for (
      const name of [
        "settings",
        "admins",
        "job_schedules",
        "metric_collectors",
        "metric_definitions",
        "retention_policies",
        "notification_channels",
        "notification_routes",
        "inhibition_rules",
        "escalation_levels",
      ]
    ) {
      expect(after[`monitor.${name}`], name).toBe(tables[`monitor.${name}`]);
    }
  });

  it("keeps evidence of an anomaly that lasts, through the drop of its days", async ({ query, asSuperuser }) => {
    await openDays(query, NOON - 40 * DAY);
    const series = await addAnySeries(query, [[NOON - 40 * DAY, 7]]);
    const anomaly = await addAnomaly(query, series, {
      started_at: iso(NOON - 40 * DAY),
      last_seen_at: iso(NOON),
    });
    await runAll(query, { p_now: iso(NOON - 39 * DAY) }); // the nightly run after it began
    await compactAll(query);
    await runAll(query);
    for (const table of ["metric_time_series", "metric_chunks"]) {
      expect((await asSuperuser(`select 1 from monitor.${table}`)).rows, table).toEqual([]);
    }
    const { rows } = await query("select value from monitor.evidence_samples where owner_id = $1", [
      anomaly,
    ]);
    expect(rows).toEqual([{ value: 7 }]);
  });
});

describe("monitor.continue_jobs()", () => {
  const JOB = "data-retention-cleanup";
  /** The minutes after noon of the runs that it made. */
  async function continueAt(query: Query, minute: number, job = JOB) {
    await rpc(query, "continue_jobs", { p_now: iso(NOON + minute * MINUTE) });
    const { rows } = await query<{ at: Date }>(
      "select scheduled_at as at from monitor.job_runs where job = $1 and queued_at is not null order by 1",
      [job],
    );
    return rows.map(({ at }) => (at.getTime() - NOON) / MINUTE);
  }
  const addCleanup = (query: Query, columns: object) =>
    addRun(query, {
      job: JOB,
      state: "succeeded",
      started_at: iso(NOON),
      finished_at: iso(NOON + 20_000),
      outcome: "succeeded",
      ...columns,
    });
  const left = { result: { complete: false, dry_run: false } };

  it("calls a run that left work again the next minute, once", async ({ asOwner: query }) => {
    await addCleanup(query, left);
    expect(await continueAt(query, 1)).toEqual([1]);
    expect(await continueAt(query, 1)).toEqual([1]);
  });

  it.for<[string, object]>([
    ["is complete", { result: { complete: true, dry_run: false } }],
    ["was a dry run", { result: { complete: false, dry_run: true } }],
    ["failed", { ...left, state: "failed", outcome: "failed" }],
    ["was skipped", { state: "skipped", outcome: "skipped", result: null }],
    ["still runs", { state: "running", finished_at: null, outcome: null, result: null }],
    ["is queued", { state: "queued", started_at: null, finished_at: null, outcome: null }],
    ["has no result", { result: null }],
    ["is a day old", {
      ...left,
      scheduled_at: iso(NOON - DAY),
      finished_at: iso(NOON + MINUTE - DAY),
    }],
    ["is another job's", { ...left, job: "detect-anomalies" }],
  ])("leaves alone one that %s", async ([, columns], { asOwner: query }) => {
    await addCleanup(query, columns);
    expect(await continueAt(query, 1)).toEqual([]);
  });

  it("looks at the last run only", async ({ asOwner: query }) => {
    await addCleanup(query, { ...left, scheduled_at: iso(NOON - MINUTE) });
    await addCleanup(query, { result: { complete: true, dry_run: false } });
    expect(await continueAt(query, 1)).toEqual([]);
  });

  it("is not stopped by a dry run in between", async ({ asOwner: query }) => {
    await addCleanup(query, left);
    await addCleanup(query, {
      trigger: "manual",
      scheduled_at: iso(NOON + MINUTE),
      result: { complete: true, dry_run: true },
    });
    expect(await continueAt(query, 2)).toEqual([2]);
  });

  describe("of detection", () => {
    const DETECT = "detect-anomalies";
    const pending = { result: { complete: true, replay: { slices: 3, pending: true } } };

    it("calls a run again whose replays go on, the next minute, once", async ({ asOwner: query }) => {
      await addCleanup(query, { job: DETECT, ...pending });
      expect(await continueAt(query, 1, DETECT)).toEqual([1]);
      expect(await continueAt(query, 1, DETECT)).toEqual([1]);
      expect(await continueAt(query, 1)).toEqual([]);
    });

    it.for<[string, object]>([
      ["has none", { result: { complete: true, replay: { slices: 3, pending: false } } }],
      ["does not know of any", { result: { replay: { slices: 0, pending: null } } }],
      ["has no result", { result: null }],
      ["is from before there were replays", { result: { complete: false } }],
      ["failed", { ...pending, state: "failed", outcome: "failed" }],
      ["still runs", { state: "running", finished_at: null, outcome: null, result: null }],
      ["is a day old", {
        ...pending,
        scheduled_at: iso(NOON - DAY),
        finished_at: iso(NOON + MINUTE - DAY),
      }],
      ["is another job's", { ...pending, job: JOB }],
    ])("leaves alone a run that %s", async ([, columns], { asOwner: query }) => {
      await addCleanup(query, { job: DETECT, ...columns });
      expect(await continueAt(query, 1, DETECT)).toEqual([]);
    });

    it("looks at the last run only", async ({ asOwner: query }) => {
      await addCleanup(query, { job: DETECT, ...pending, scheduled_at: iso(NOON - MINUTE) });
      await addCleanup(query, { job: DETECT, result: { complete: true } });
      expect(await continueAt(query, 1, DETECT)).toEqual([]);
    });
  });

  it("does nothing while jobs are switched off but say so once", async ({ asOwner: query }) => {
    await addCleanup(query, left);
    await query("update monitor.settings set jobs_enabled = false");
    expect(await continueAt(query, 1)).toEqual([1]);
    expect(await continueAt(query, 2)).toEqual([1]);
    const { rows } = await query("select state from monitor.job_runs where queued_at is not null");
    expect(rows).toEqual([{ state: "skipped" }]);
  });

  it("is called every minute by what watches the jobs", async ({ asOwner: query }) => {
    await addCleanup(query, { ...left, is_settled: true });
    await rpc(query, "watch_jobs", { p_now: iso(NOON + MINUTE) });
    const { rows } = await query(
      "select from monitor.job_runs where job = $1 and scheduled_at = $2",
      [JOB, iso(NOON + MINUTE)],
    );
    expect(rows).toHaveLength(1);
  });

  it("is for nobody but who schedules jobs", async ({ query }) => {
    await expect(rpc(query, "continue_jobs", { p_now: iso(NOON) })).rejects.toMatchObject({
      code: "42501",
    });
  });
});
