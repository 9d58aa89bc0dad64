import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc, waitUntilBlocking } from "./database.ts";
import {
  addAnomaly,
  addMessage,
  addMetric,
  addRun,
  addSeries,
  DAY,
  iso,
  NOON,
  openDays,
  range,
} from "./seeds.ts";
import { addAnySeries, type Cleaned, cleanOwnTable, cleanUp, RETENTION_DAYS } from "./retention.ts";

const addAlert = async (
  query: Query,
  resolvedAge: number | null,
  name = `alert ${resolvedAge}`,
) => {
  const { rows: [alert] } = await query<{ id: string }>(
    `insert into monitor.system_alerts (fingerprint, name, source, severity, fired_at, last_seen_at, resolved_at)
     values ($1, $1, 'rule', 'warning', $2, $2, $3) returning alert_id as id`,
    [name, iso(NOON - 1000 * DAY), resolvedAge === null ? null : iso(NOON - resolvedAge)],
  );
  return Number(alert!.id);
};

const addIncident = async (query: Query, resolvedAge: number | null) => {
  const { rows: [incident] } = await query<{ id: string }>(
    `insert into monitor.incidents (title, severity, state, started_at, resolved_at)
     values ('a', 'P1', case when $2::timestamptz is null then 'monitoring' else 'resolved' end, $1, $2)
     returning incident_id as id`,
    [iso(NOON - 1000 * DAY), resolvedAge === null ? null : iso(NOON - resolvedAge)],
  );
  return Number(incident!.id);
};

/** A message that was given up. */
const addParked = (query: Query, age: number) =>
  addMessage(query, { state: "parked", created_at: iso(NOON - age) });

/** The two that work alike: how a row is added that was resolved so long ago, and where it is. */
const RESOLVED = [
  { clean: "cleanup_old_alerts", table: "system_alerts", key: "alert_id", add: addAlert },
  { clean: "cleanup_old_incidents", table: "incidents", key: "incident_id", add: addIncident },
] as const;

const readIds = async (query: Query, { table, key }: { table: string; key: string }) =>
  (await query<{ id: string }>(`select ${key} as id from monitor.${table} order by 1`)).rows.map((
    { id },
  ) => Number(id));

describe.each(RESOLVED.map((entity) => [entity.clean, entity] as const))(
  "monitor.%s()",
  (clean, entity) => {
    const { table, key, add } = entity;

    it("deletes what was resolved more than 90 days ago, both sides, and never what is open", async ({ query }) => {
      await add(query, 90 * DAY + 1);
      const kept = [await add(query, 90 * DAY), await add(query, null)];
      expect(await cleanUp(query, clean)).toMatchObject({
        entity: table,
        outcome: "done",
        counts: { deleted: 1, contended: 0 },
        oldest_kept_at: "2023-06-14T12:00:00+00:00",
        more: false,
        detail: null,
      });
      expect(await readIds(query, entity)).toEqual(kept);
    });

    it("follows retention_days", async ({ query }) => {
      await add(query, 2 * DAY);
      expect(await cleanUp(query, clean, { retention_days: 2 })).toMatchObject({
        outcome: "nothing",
      });
      expect(await cleanUp(query, clean, { retention_days: 1 })).toMatchObject({
        outcome: "done",
        oldest_kept_at: null,
      });
    });

    it("stops at p_limit, oldest first, and says that there is more", async ({ query }) => {
      const ids: number[] = [];
      for (const n of range(5)) ids.push(await add(query, (100 + 5 - n) * DAY));
      const next = () => cleanUp(query, clean, { p_limit: 2 });
      expect(await next()).toMatchObject({ counts: { deleted: 2 }, more: true });
      expect(await readIds(query, entity)).toEqual(ids.slice(2));
      expect(await next()).toMatchObject({ counts: { deleted: 2 }, more: true });
      expect(await next()).toMatchObject({ counts: { deleted: 1 }, more: false });
      expect(await next()).toMatchObject({ outcome: "nothing", more: false });
    });

    it("deletes nothing in a dry run, and counts all that would go", async ({ query }) => {
      for (const n of range(3)) await add(query, (100 + n) * DAY);
      expect(await cleanUp(query, clean, { p_dry_run: true, p_limit: 2 })).toMatchObject({
        outcome: "done",
        counts: { deleted: 3 },
        oldest_kept_at: null,
        more: false,
      });
      expect(await readIds(query, entity)).toHaveLength(3);
    });

    it("skips what others hold, and deletes it another time", async ({ ownDatabase }) => {
      const [session, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
      const query = queryOf(session);
      const [busy] = [await add(query, 200 * DAY), await add(query, 100 * DAY)];
      await other.query("begin");
      await other.query(`select from monitor.${table} where ${key} = $1 for update`, [busy]);
      expect(await cleanUp(query, clean)).toMatchObject({
        outcome: "done",
        counts: { deleted: 1, contended: 1 },
      });
      expect(await cleanUp(query, clean)).toMatchObject({
        outcome: "contended",
        counts: { deleted: 0, contended: 1 },
      });
      expect(await readIds(query, entity)).toEqual([busy]);
      await other.query("commit");
      expect(await cleanUp(query, clean)).toMatchObject({
        outcome: "done",
        counts: { deleted: 1, contended: 0 },
      });
    });

    it.for(RETENTION_DAYS)(
      "takes retention_days of %s: %s",
      async ([retention_days, isTaken], { query }) => {
        const answer = cleanUp(query, clean, { retention_days });
        if (isTaken) expect(await answer).toMatchObject({ outcome: "nothing" });
        else {await expect(answer).rejects.toMatchObject({
            code: "22023",
            hint: expect.stringContaining("keep"),
          });}
      },
    );
  },
);

describe("what belongs together", () => {
  it("an alert is held by an open incident, and deleted once it is resolved", async ({ query }) => {
    const [alert, incident] = [await addAlert(query, 100 * DAY), await addIncident(query, null)];
    await query("insert into monitor.incident_alerts (incident_id, alert_id) values ($1, $2)", [
      incident,
      alert,
    ]);
    for (const p_dry_run of [true, false]) {
      expect(await cleanUp(query, "cleanup_old_alerts", { p_dry_run })).toMatchObject({
        outcome: "held",
        counts: { deleted: 0, held_by_incident: 1 },
        oldest_kept_at: "2023-06-14T12:00:00+00:00",
      });
    }
    await query("update monitor.incidents set state = 'resolved', resolved_at = $1", [iso(NOON)]);
    expect(await cleanUp(query, "cleanup_old_alerts")).toMatchObject({
      outcome: "done",
      counts: { deleted: 1, held_by_incident: 0 },
    });
    expect((await query("select 1 from monitor.incident_alerts")).rows).toEqual([]);
  });

  it("an alert goes with its groups, its decisions and what was told of it, and leaves the message", async ({ query }) => {
    const [alert, message] = [await addAlert(query, 100 * DAY), await addParked(query, DAY)];
    await query(
      `insert into monitor.notification_alerts (notification_id, alert_id, channel, status, severity, told_at)
       values ($2, $1, 'ops', 'firing', 'info', $3)`,
      [alert, message, iso(NOON)],
    );
    await query(
      `insert into monitor.notification_decisions (alert_id, decision, detail, held_since, first_evaluation)
       values ($1, 'sent', 'to ops', $2, 1)`,
      [alert, iso(NOON)],
    );
    await query(
      `with made as (
         insert into monitor.alert_groups (group_key, labels, created_at, next_flush_at) values ('a', '{}', $2, $2) returning group_id)
       insert into monitor.alert_group_members (group_id, alert_id) select group_id, $1 from made`,
      [alert, iso(NOON)],
    );
    expect(await cleanUp(query, "cleanup_old_alerts")).toMatchObject({ counts: { deleted: 1 } });
    for (const table of ["notification_alerts", "notification_decisions", "alert_group_members"]) {
      expect((await query(`select 1 from monitor.${table}`)).rows, table).toEqual([]);
    }
    expect((await query("select 1 from monitor.notifications")).rows).toHaveLength(1);
  });

  it("an incident goes with its timeline and links, and leaves alerts and anomalies", async ({ query }) => {
    const [alert, incident] = [await addAlert(query, null), await addIncident(query, 100 * DAY)];
    const anomaly = await addAnomaly(query, await addAnySeries(query));
    await query("insert into monitor.incident_alerts (incident_id, alert_id) values ($1, $2)", [
      incident,
      alert,
    ]);
    await query(
      "insert into monitor.incident_anomalies (incident_id, anomaly_id) values ($1, $2)",
      [incident, anomaly],
    );
    await query(
      "insert into monitor.incident_events (incident_id, actor, description) values ($1, 'me', 'looked at it')",
      [incident],
    );
    expect(await cleanUp(query, "cleanup_old_incidents")).toMatchObject({ counts: { deleted: 1 } });
    for (const table of ["incident_events", "incident_alerts", "incident_anomalies"]) {
      expect((await query(`select 1 from monitor.${table}`)).rows, table).toEqual([]);
    }
    expect((await query("select 1 from monitor.system_alerts")).rows).toHaveLength(1);
    expect((await query("select 1 from monitor.anomaly_detections")).rows).toHaveLength(1);
  });

  it("an alert fires once at a time, and may fire again", async ({ query }) => {
    await addAlert(query, 1, "same");
    await addAlert(query, 2, "same");
    await addAlert(query, null, "same");
    await expect(addAlert(query, null, "same")).rejects.toMatchObject({
      constraint: "system_alerts_fingerprint_open_idx",
    });
  });

  it.for(
    [
      ["system_alerts_severity_known", "severity", "P1"],
      ["system_alerts_source_known", "source", "prayer"],
      ["system_alerts_in_order", "resolved_at", "1999-01-01"],
      ["system_alerts_anomaly_only_from_anomalies", "anomaly_id", 1],
      ["system_alerts_fingerprint_present", "fingerprint", ""],
      ["system_alerts_mode_known", "mode", "dark"],
      ["system_alerts_occurrence_count_with_fired_at", "occurrence_count", 0],
      ["system_alerts_recent_firings_bounded", "recent_firings", range(21).map(() => iso(NOON))],
      ["system_alerts_resolved_because_when_resolved", "resolved_because", "it is over"],
      ["system_alerts_acknowledged_whole", "acknowledged_by", "me"],
    ] as const,
  )("an alert obeys %s", async ([constraint, column, value], { query }) => {
    await addAlert(query, null);
    await expect(query(`update monitor.system_alerts set ${column} = $1`, [value])).rejects
      .toMatchObject({
        code: "23514",
        constraint,
      });
  });

  it.for(
    [
      ["incidents_state_known", "state = 'lost'"],
      ["incidents_severity_known", "severity = 'critical'"],
      ["incidents_resolved_at_with_state", "state = 'resolved'"],
      ["incidents_resolved_at_with_state", "resolved_at = now()"],
      ["incidents_in_order", "state = 'resolved', resolved_at = '1999-01-01'"],
      ["incidents_title_present", "title = ''"],
    ] as const,
  )("an incident obeys %s: %s", async ([constraint, change], { query }) => {
    await addIncident(query, null);
    await expect(query(`update monitor.incidents set ${change}`)).rejects.toMatchObject({
      code: "23514",
      constraint,
    });
  });
});

/** The suite's own tables: how a row of such an age is added, and how those left are counted. */
const OWN: Readonly<
  Record<
    string,
    { days: number; add(asSuperuser: Query, age: number): Promise<unknown>; count?: string }
  >
> = {
  job_runs: {
    days: 30,
    add: (asSuperuser, age) =>
      addRun(asSuperuser, { trigger: "manual", scheduled_at: iso(NOON - age), state: "lost" }),
  },
  retention_runs: {
    days: 90,
    add: (asSuperuser, age) =>
      asSuperuser(
        `insert into monitor.retention_runs (entity, started_at, duration_seconds, outcome, counts)
         values ('job_runs', $1, 0, 'nothing', '{}')`,
        [iso(NOON - age)],
      ),
  },
  audit_log: {
    days: 400,
    add: (asSuperuser, age) =>
      asSuperuser(
        "insert into monitor.audit_log (changed_at, actor, action, object) values ($1, 'me', 'update', 'a')",
        [
          iso(NOON - age),
        ],
      ),
    count:
      "select count(*)::int as n from monitor.audit_log where changed_at <= '2026-03-10T12:00:00Z'",
  },
  anomaly_detections_archive: {
    days: 365,
    add: async (asSuperuser, age) => {
      const at = iso(NOON - age);
      const series = await addAnySeries(asSuperuser);
      await addAnomaly(asSuperuser, series, {
        review_state: "resolved",
        reviewed_at: at,
        reviewed_by: "me",
      });
      await asSuperuser(
        "insert into monitor.anomaly_detections_archive select * from monitor.anomaly_detections",
      );
      await asSuperuser("delete from monitor.anomaly_detections");
    },
  },
  sample_days: {
    days: 400,
    add: async (asSuperuser, age) => {
      const { rows: [known] } = await asSuperuser(
        "select count(*)::int as n from monitor.sample_days",
      );
      await asSuperuser(
        "insert into monitor.sample_days (day, state, state_since) values ($1, 'dropped', $2)",
        [
          iso(NOON - (900 - known!.n) * DAY), // whatever the day, it was dropped then
          iso(NOON - age),
        ],
      );
    },
    count: "select count(*)::int as n from monitor.sample_days where state = 'dropped'",
  },
  metric_series: {
    days: 400,
    add: async (asSuperuser, age) =>
      asSuperuser("insert into monitor.metric_series (metric, last_sample_at) values ($1, $2)", [
        await addMetric(asSuperuser),
        iso(NOON - age),
      ]),
  },
  "cron.job_run_details": {
    days: 7,
    add: (asSuperuser, age) =>
      asSuperuser(
        "insert into cron.job_run_details (jobid, status, end_time) values (1, 'failed', $1)",
        [
          iso(NOON - age),
        ],
      ),
    count: "select count(*)::int as n from cron.job_run_details",
  },
};

describe.each(Object.entries(OWN))(
  "monitor.cleanup_own_table() of %s",
  (entity, { days, add, count }) => {
    const left = async (asSuperuser: Query) =>
      (await asSuperuser<{ n: number }>(
        count ?? `select count(*)::int as n from monitor.${entity}`,
      )).rows[0]!.n;

    it(`keeps ${days} days by its policy`, async ({ query }) => {
      const { rows } = await query(
        "select keep_days, action from monitor.retention_policies where entity = $1",
        [entity],
      );
      expect(rows).toEqual([{ keep_days: days, action: "delete" }]);
    });

    it("deletes what is older than that, both sides", async ({ query, asSuperuser }) => {
      await add(asSuperuser, days * DAY + 1);
      await add(asSuperuser, days * DAY);
      expect(await cleanOwnTable(query, entity, days)).toMatchObject({
        entity,
        outcome: "done",
        counts: { deleted: 1, contended: 0 },
        more: false,
      });
      expect(await left(asSuperuser)).toBe(1);
      expect(await cleanOwnTable(query, entity, days)).toMatchObject({
        outcome: "nothing",
        counts: { deleted: 0 },
      });
    });

    it("stops at p_limit, oldest first, and says that there is more", async ({ query, asSuperuser }) => {
      for (const n of [5, 4, 3, 2, 1]) await add(asSuperuser, (days + n) * DAY);
      const next = () => cleanOwnTable(query, entity, days, { p_limit: 2 });
      expect(await next()).toMatchObject({ counts: { deleted: 2 }, more: true });
      expect(await left(asSuperuser)).toBe(3);
      expect(await cleanOwnTable(query, entity, days + 3)).toMatchObject({ outcome: "nothing" }); // the two oldest went
      expect(await next()).toMatchObject({ counts: { deleted: 2 }, more: true });
      expect(await next()).toMatchObject({ counts: { deleted: 1 }, more: false });
      expect(await next()).toMatchObject({ outcome: "nothing", more: false });
    });

    it("deletes nothing in a dry run, and counts all that would go", async ({ query, asSuperuser }) => {
      for (const n of range(3)) await add(asSuperuser, (days + 1 + n) * DAY);
      expect(await cleanOwnTable(query, entity, days, { p_dry_run: true, p_limit: 2 }))
        .toMatchObject({
          outcome: "done",
          counts: { deleted: 3, contended: 0 },
          more: false,
        });
      expect(await left(asSuperuser)).toBe(3);
    });

    it.for(RETENTION_DAYS)(
      "takes retention_days of %s: %s",
      async ([retention_days, isTaken], { query }) => {
        const answer = cleanOwnTable(query, entity, retention_days, { p_dry_run: true });
        if (isTaken) expect(await answer).toMatchObject({ entity });
        else {await expect(answer).rejects.toMatchObject({
            code: "22023",
            hint: expect.stringContaining("keep"),
          });}
      },
    );
  },
);

describe("monitor.cleanup_own_table()", () => {
  it("says missing of pg_cron's record when there is no pg_cron", async ({ query, asSuperuser }) => {
    await asSuperuser("drop extension pg_cron");
    expect(await cleanOwnTable(query, "cron.job_run_details", 7)).toMatchObject({
      outcome: "missing",
      counts: {},
      more: false,
      detail: "pg_cron is not installed",
    });
  });

  it("deletes what a restart cut off by when it began, and keeps what may be running", async ({ query, asSuperuser }) => {
    const add = async (status: string, startedAge: number | null) =>
      (await asSuperuser<{ id: string }>(
        "insert into cron.job_run_details (jobid, status, start_time) values (1, $1, $2) returning runid as id",
        [status, startedAge === null ? null : iso(NOON - startedAge)],
      )).rows[0]!.id;
    await add("failed", null); // was still starting
    await add("failed", 7 * DAY + 1);
    const kept = [await add("failed", 7 * DAY), await add("running", DAY)];
    kept.push(await add("starting", null));
    const answer = { outcome: "done", counts: { deleted: 2 }, more: false };
    expect(await cleanOwnTable(query, "cron.job_run_details", 7, { p_dry_run: true }))
      .toMatchObject(answer);
    expect(await cleanOwnTable(query, "cron.job_run_details", 7)).toMatchObject({
      ...answer,
      oldest_kept_at: "2026-03-03T12:00:00+00:00",
    });
    const { rows } = await asSuperuser("select runid from cron.job_run_details order by 1");
    expect(rows.map(({ runid }) => runid)).toEqual(kept);
  });

  it.for([[8, 0], [9, 1]] as const)(
    "of a dropped day of %i days ago forgets %i: a late sample would open one that is not known",
    async ([age, deleted], { query, asOwner }) => {
      await asOwner(
        "insert into monitor.sample_days (day, state, state_since) values ($1, 'dropped', '2020-01-01')",
        [iso(NOON - age * DAY).slice(0, 10)],
      );
      expect(await cleanOwnTable(query, "sample_days", 1)).toMatchObject({ counts: { deleted } });
    },
  );

  it("keeps a day that is not dropped, however long it has been as it is", async ({ query, asOwner }) => {
    await asOwner(
      "insert into monitor.sample_days (day, state_since) values ('2020-01-01', '2020-01-01')",
    );
    expect(await cleanOwnTable(query, "sample_days", 400)).toMatchObject({
      outcome: "nothing",
      oldest_kept_at: "2020-01-01T00:00:00+00:00",
    });
  });

  it("keeps a series while anything refers to it: samples, anomalies, evidence; and takes its state with it", async ({ query, asOwner }) => {
    await openDays(asOwner);
    const old = async () => {
      const series = await addSeries(asOwner, await addMetric(asOwner));
      await asOwner(
        "update monitor.metric_series set last_sample_at = '2020-01-01' where series_id = $1",
        [series],
      );
      return series;
    };
    const [withSample, withAnomaly, withArchived, withEvidence, withState] = [
      await old(),
      await old(),
      await old(),
      await old(),
      await old(),
    ];
    const values = [iso(NOON)];
    await asOwner(
      `insert into monitor.metric_time_series (series_id, recorded_at, value) values (${withSample}, $1, 1)`,
      values,
    );
    await addAnomaly(asOwner, withArchived, {
      review_state: "resolved",
      reviewed_at: iso(NOON),
      reviewed_by: "me",
    });
    await asOwner(
      "insert into monitor.anomaly_detections_archive select * from monitor.anomaly_detections",
    );
    await asOwner("delete from monitor.anomaly_detections");
    await addAnomaly(asOwner, withAnomaly);
    await asOwner(
      `insert into monitor.evidence_samples (owner_kind, owner_id, series_id, recorded_at, value)
       values ('anomaly', 1, ${withEvidence}, $1, 1)`,
      values,
    );
    await asOwner(
      `insert into monitor.detector_states (series_id, version, state, last_sample_at) values (${withState}, 'a', '{}', $1)`,
      values,
    );

    expect(await cleanOwnTable(query, "metric_series", 400, { p_dry_run: true })).toMatchObject({
      counts: { deleted: 1 },
    });
    expect(await cleanOwnTable(query, "metric_series", 400)).toMatchObject({
      outcome: "done",
      counts: { deleted: 1 },
    });
    const { rows } = await query<{ series_id: number }>(
      "select series_id from monitor.metric_series order by 1",
    );
    expect(rows.map(({ series_id }) => series_id)).toEqual([
      withSample,
      withAnomaly,
      withArchived,
      withEvidence,
    ]);
    expect((await query("select 1 from monitor.detector_states")).rows).toEqual([]);
  });

  it("holds an archived anomaly that an open incident or alert refers to", async ({ query, asOwner }) => {
    const ids: number[] = [];
    for (const _ of range(3)) {
      ids.push(
        await addAnomaly(asOwner, await addAnySeries(asOwner), {
          review_state: "resolved",
          reviewed_at: iso(NOON - 400 * DAY),
          reviewed_by: "me",
        }),
      );
    }
    await asOwner(
      "insert into monitor.anomaly_detections_archive select * from monitor.anomaly_detections",
    );
    await asOwner("delete from monitor.anomaly_detections");
    await query(
      "insert into monitor.incident_anomalies (incident_id, anomaly_id) values ($1, $2)",
      [
        await addIncident(query, null),
        ids[0],
      ],
    );
    await query(
      `insert into monitor.system_alerts (fingerprint, name, source, severity, anomaly_id, fired_at, last_seen_at)
       values ('a', 'a', 'anomaly', 'info', $1, now(), now())`,
      [ids[1]],
    );
    const answer = { counts: { deleted: 1, held: 2, contended: 0 }, outcome: "done", more: false };
    expect(await cleanOwnTable(query, "anomaly_detections_archive", 365, { p_dry_run: true }))
      .toMatchObject(answer);
    expect(await cleanOwnTable(query, "anomaly_detections_archive", 365)).toMatchObject(answer);
    expect(await cleanOwnTable(query, "anomaly_detections_archive", 365)).toMatchObject({
      outcome: "held",
      counts: { deleted: 0, held: 2 },
    });
  });

  it.for([
    "settings",
    "admins",
    "metric_time_series",
    "no_such_table",
    "job_runs; drop table monitor.settings",
    "",
    null,
  ])(
    "refuses %o",
    async (entity, { query }) => {
      await expect(cleanOwnTable(query, entity, 30)).rejects.toMatchObject({
        code: "22023",
        hint: expect.stringContaining("retention_policies"),
      });
    },
  );

  it("skips what others hold", async ({ ownDatabase }) => {
    const [session, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const query = queryOf(session);
    const busy = await addRun(query, {
      trigger: "manual",
      scheduled_at: iso(NOON - 40 * DAY),
      state: "lost",
    });
    await addRun(query, { trigger: "manual", scheduled_at: iso(NOON - 39 * DAY), state: "lost" });
    await other.query("begin");
    await other.query("select from monitor.job_runs where run_id = $1 for update", [busy]);
    expect(await cleanOwnTable(query, "job_runs", 30)).toMatchObject({
      counts: { deleted: 1, contended: 1 },
    });
    expect(await cleanOwnTable(query, "job_runs", 30)).toMatchObject({
      outcome: "contended",
      more: false,
    });
    await other.query("commit");
    expect(await cleanOwnTable(query, "job_runs", 30)).toMatchObject({
      outcome: "done",
      counts: { deleted: 1 },
    });
  });

  it("is the only way to the audit log, and is no way for users", async ({ asUser, asAnon }) => {
    for (const somebody of [asUser(""), asAnon]) {
      await expect(rpc(somebody, "cleanup_own_table", { p_entity: "audit_log", retention_days: 1 }))
        .rejects
        .toMatchObject({ code: "42501" });
    }
  });
});

/** A due row of each, and what makes it one that stays. */
const CHANGED: Readonly<
  Record<
    string,
    { clean(query: Query): Promise<Cleaned>; add(query: Query): Promise<unknown>; change: string }
  >
> = {
  incidents: {
    clean: (query) => cleanUp(query, "cleanup_old_incidents"),
    add: (query) => addIncident(query, 100 * DAY),
    change: "state = 'open', resolved_at = null",
  },
  system_alerts: {
    clean: (query) => cleanUp(query, "cleanup_old_alerts"),
    add: (query) => addAlert(query, 100 * DAY),
    change: "resolved_at = null",
  },
  anomaly_detections: {
    clean: (query) => cleanUp(query, "cleanup_old_anomalies"),
    add: async (query) =>
      addAnomaly(query, await addAnySeries(query), { started_at: iso(NOON - 40 * DAY) }),
    change: `review_state = 'acknowledged', reviewed_by = 'me', reviewed_at = '${iso(NOON)}'`,
  },
  anomaly_detections_archive: {
    clean: (query) => cleanOwnTable(query, "anomaly_detections_archive", 365),
    add: (query) => OWN.anomaly_detections_archive!.add(query, 400 * DAY),
    change: `reviewed_at = '${iso(NOON)}'`,
  },
  metric_series: {
    clean: (query) => cleanOwnTable(query, "metric_series", 400),
    add: (query) => OWN.metric_series!.add(query, 500 * DAY),
    change: `last_sample_at = '${iso(NOON)}'`,
  },
  notifications: {
    clean: (query) =>
      cleanUp(query, "cleanup_notifications", { p_entity: "notifications", retention_days: 90 }),
    add: (query) => addParked(query, 100 * DAY),
    change: `state = 'pending', created_at = '${iso(NOON)}'`,
  },
  mail_events: {
    clean: (query) =>
      cleanUp(query, "cleanup_notifications", { p_entity: "mail_events", retention_days: 90 }),
    add: (query) =>
      query(
        "insert into monitor.mail_events (event_id, provider_id, kind, occurred_at) values ('one', 'a', 'delivered', $1)",
        [iso(NOON - 100 * DAY)],
      ),
    change: `occurred_at = '${iso(NOON)}'`,
  },
  silences: {
    clean: (query) =>
      cleanUp(query, "cleanup_notifications", { p_entity: "silences", retention_days: 400 }),
    add: (query) =>
      query(
        `insert into monitor.silences (matchers, starts_at, ends_at, reason, created_by, created_at)
         values ('[{"name": "a", "op": "=", "value": "b"}]', $1, $1, 'a test', 'me', $1)`,
        [iso(NOON - 500 * DAY)],
      ),
    change: `ends_at = '${iso(NOON)}'`,
  },
};

describe.each(Object.entries(CHANGED))("a row of %s", (table, { clean, add, change }) => {
  const count = async (query: Query) => (await query(`select 1 from monitor.${table}`)).rows.length;

  it("stays while somebody changes it, and after", async ({ ownDatabase }) => {
    const [owner, other] = [await ownDatabase.connectAsOwner(), await ownDatabase.connectAsOwner()];
    const query = queryOf(await ownDatabase.connect());
    await add(queryOf(owner));
    await other.query(`begin; update monitor.${table} set ${change}`);
    expect(await clean(query)).toMatchObject({ outcome: "contended", counts: { contended: 1 } });
    await other.query("commit");
    expect(await clean(query)).toMatchObject({ outcome: "nothing", counts: { contended: 0 } });
    expect(await count(query)).toBe(1);
  });

  it("stays when it changed after it was chosen and before it was locked", async ({ ownDatabase }) => {
    const [owner, session] = [await ownDatabase.connectAsOwner(), await ownDatabase.connect()];
    const query = queryOf(session);
    await add(queryOf(owner));
    // The delete has its snapshot when it comes here, and has locked nothing yet.
    await owner.query(`
      create function monitor.wait() returns trigger language plpgsql as $$
      begin perform pg_advisory_xact_lock(1); return null; end $$;
      create trigger wait before delete on monitor.${table} for each statement execute function monitor.wait();
      select pg_advisory_lock(1)`);
    const answer = clean(query);
    await waitUntilBlocking(queryOf(owner));
    await owner.query(`update monitor.${table} set ${change}`);
    await owner.query("select pg_advisory_unlock(1)");
    expect(await answer).toMatchObject({ outcome: "contended", counts: { contended: 1 } });
    expect(await count(query)).toBe(1);
  });
});

describe("evidence", () => {
  it("goes with an incident and with an archived anomaly, and no other does", async ({ query, asOwner }) => {
    await OWN.anomaly_detections_archive!.add(asOwner, 400 * DAY);
    const [old, open] = [await addIncident(query, 100 * DAY), await addIncident(query, null)];
    const { rows: [archived] } = await query(
      "select anomaly_id as id, series_id from monitor.anomaly_detections_archive",
    );
    const add = (kind: string, id: number) =>
      query("insert into monitor.evidence_samples values ($1, $2, $3, $4, 1)", [
        kind,
        id,
        archived!.series_id,
        iso(NOON),
      ]);
    await add("incident", old);
    await add("incident", open);
    await add("anomaly", archived!.id);
    await add("anomaly", 10 ** 9);
    await cleanUp(query, "cleanup_old_incidents");
    await cleanOwnTable(query, "anomaly_detections_archive", 365);
    const { rows } = await query(
      "select owner_kind as kind, owner_id::int as id from monitor.evidence_samples order by 1",
    );
    expect(rows).toEqual([{ kind: "anomaly", id: 10 ** 9 }, { kind: "incident", id: open }]);
  });
});

describe.each([
  ["cleanup_old_metrics", {}],
  ["cleanup_old_anomalies", {}],
  ["cleanup_old_alerts", {}],
  ["cleanup_old_incidents", {}],
  ["cleanup_evidence", {}],
  ["cleanup_own_table", { p_entity: "job_runs", retention_days: 30 }],
])("monitor.%s()", (name, args) => {
  it.for([[null, false], [-1, false], [0, false], [1, true], [100_000, true], [100_001, false]])(
    "takes p_limit of %s: %s",
    async ([p_limit, isTaken], { query }) => {
      const answer = cleanUp(query, name, { ...args, p_limit });
      if (isTaken) expect(await answer).toMatchObject({ outcome: "nothing" });
      else {await expect(answer).rejects.toMatchObject({
          code: "22023",
          hint: expect.stringContaining("more"),
        });}
    },
  );
});
