import { describe, expect } from "vitest";
import { it, type Query, rpc } from "./database.ts";
import { addAdmin, addMetric, addUser, NOON, openDays } from "./seeds.ts";

/** Newest entries of the audit log, oldest first. */
async function readAudit(query: Query, afterEntry = 0) {
  const { rows } = await query<{ actor: string; action: string; object: string; entry_id: string }>(
    "select * from monitor.audit_log where entry_id > $1 order by entry_id",
    [afterEntry],
  );
  return rows;
}

const newestEntry = async (query: Query) =>
  Number(
    (await query("select coalesce(max(entry_id), 0) as id from monitor.audit_log")).rows[0]!.id,
  );

describe("monitor.is_admin()", () => {
  it("is true for a row of admins, and false at once when it is gone", async ({ asOwner, asUser }) => {
    const admin = await addAdmin(asOwner);
    expect(await rpc(asUser(admin), "is_admin")).toBe(true);
    await asOwner("delete from monitor.admins where user_id = $1", [admin]);
    expect(await rpc(asUser(admin), "is_admin")).toBe(false);
  });

  it("is false for another user, for nobody and for service_role", async ({ asOwner, asUser, query }) => {
    await addAdmin(asOwner);
    expect(await rpc(asUser(await addUser(asOwner)), "is_admin")).toBe(false);
    expect(await rpc(asUser(""), "is_admin")).toBe(false);
    expect(await rpc(query, "is_admin")).toBe(false);
  });

  it("believes no claim but the id of the user", async ({ asOwner, asUser }) => {
    const user = await addUser(asOwner);
    const { rows } = await asUser(user)(`
      select set_config('request.jwt.claims', '{"role":"service_role","app_metadata":{"admin":true},"is_admin":true}', true),
             set_config('request.jwt.claim.role', 'service_role', true),
             monitor.is_admin()`);
    expect(rows[0]).toMatchObject({ is_admin: false });
  });

  it("ends with the user's account", async ({ asOwner, asUser }) => {
    const admin = await addAdmin(asOwner);
    await asOwner("delete from auth.users where id = $1", [admin]);
    expect(await rpc(asUser(admin), "is_admin")).toBe(false);
  });
});

describe("a user of the API", () => {
  /** Every table that users may try to read. */
  const READABLE = `
    select c.oid::regclass::text as name from pg_class as c
    where c.relnamespace = 'monitor'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition order by 1`;

  async function seedEveryKind(asOwner: Query, query: Query) {
    await openDays(query);
    await rpc(query, "record_samples", {
      p_samples: [{ metric: "active_incidents", value: 1 }],
      p_recorded_at: new Date(NOON),
    });
    await asOwner("update monitor.settings set time_zone = 'Europe/Rome'"); // makes an audit entry
  }

  it("sees rows as an admin", async ({ asOwner, asUser, query }) => {
    await seedEveryKind(asOwner, query);
    const admin = asUser(await addAdmin(asOwner));
    for (
      const table of [
        "settings",
        "audit_log",
        "admins",
        "metric_definitions",
        "metric_series",
        "metric_time_series",
      ]
    ) {
      expect((await admin(`select count(*)::int as n from monitor.${table}`)).rows[0]!.n, table)
        .toBeGreaterThan(0);
    }
    expect(
      await rpc(admin, "read_samples", {
        p_matchers: [],
        p_from: new Date(NOON),
        p_until: new Date(NOON + 1),
      }),
    ).toMatchObject({ series: [{ metric: "active_incidents", values: [1] }] });
  });

  it("sees no row of any table otherwise", async ({ asOwner, asUser, query }) => {
    await seedEveryKind(asOwner, query);
    await addAdmin(asOwner);
    const user = asUser(await addUser(asOwner));
    for (const { name } of (await asOwner<{ name: string }>(READABLE)).rows) {
      expect((await user(`select * from ${name}`)).rows, name).toEqual([]);
    }
    expect(
      await rpc(user, "read_samples", {
        p_matchers: [],
        p_from: new Date(NOON),
        p_until: new Date(NOON + 1),
      }),
    ).toEqual({ series: [], next_series_id: null });
  });

  it("writes nothing, not even as an admin", async ({ asOwner, asUser }) => {
    const people = {
      admin: asUser(await addAdmin(asOwner)),
      other: asUser(await addUser(asOwner)),
    };
    for (const [who, person] of Object.entries(people)) {
      for (const { name } of (await asOwner<{ name: string }>(READABLE)).rows) {
        for (
          const sql of [
            `insert into ${name} default values`,
            `delete from ${name}`,
            `truncate ${name}`,
          ]
        ) {
          await expect(person(sql), `${who}: ${sql}`).rejects.toMatchObject({ code: "42501" });
        }
      }
      await expect(person("update monitor.settings set jobs_enabled = false")).rejects
        .toMatchObject({
          code: "42501",
        });
      await expect(
        person("insert into monitor.admins (user_id, added_by) values (auth.uid(), 'me')"),
      )
        .rejects.toMatchObject({ code: "42501" });
    }
  });
});

describe("monitor.settings", () => {
  it("is one row, never two, never none by the API", async ({ asOwner, query }) => {
    expect((await query("select * from monitor.settings")).rows).toEqual([
      {
        is_only_row: true,
        jobs_enabled: true,
        time_zone: "UTC",
        cost_budget_ratio: 0.02,
        ingested_metric_limit: 1000,
        series_limit: 50_000,
        notifications_enabled: true,
        mails_per_second: 2,
        anomaly_alert_severity: "critical",
        external_url: null,
        runbooks_url: null,
        canary_channel: null,
        canary_hour: 9,
      },
    ]);
    await expect(asOwner("insert into monitor.settings default values")).rejects.toMatchObject({
      code: "23505",
    });
    await expect(asOwner("insert into monitor.settings (is_only_row) values (false)")).rejects
      .toMatchObject({
        constraint: "settings_is_only_row",
      });
    await expect(query("delete from monitor.settings")).rejects.toMatchObject({ code: "42501" });
  });

  it.for([
    [0, false],
    [0.0001, true],
    [0.5, true],
    [0.5001, false],
    ["NaN", false],
  ])("takes a cost budget of %s: %s", async ([ratio, isTaken], { query }) => {
    const update = query("update monitor.settings set cost_budget_ratio = $1", [ratio]);
    if (isTaken) await update;
    else {await expect(update).rejects.toMatchObject({
        constraint: "settings_cost_budget_ratio_in_range",
      });}
  });

  it.for<[string, unknown, boolean]>([
    ["mails_per_second", 0, false],
    ["mails_per_second", 0.001, true],
    ["mails_per_second", 100, true],
    ["mails_per_second", 100.1, false],
    ["mails_per_second", "NaN", false],
    ["anomaly_alert_severity", null, true],
    ["anomaly_alert_severity", "info", true],
    ["anomaly_alert_severity", "warning", true],
    ["anomaly_alert_severity", "P1", false],
    ["external_url", "https://example.com/alerts", true],
    ["external_url", "http://localhost:3000", true],
    ["external_url", "example.com", false],
    ["external_url", "javascript:alert(1)", false],
    ["external_url", "https://example.com/a b", false],
    ["external_url", `https://${"a".repeat(1992)}`, true],
    ["external_url", `https://${"a".repeat(1993)}`, false],
    ["runbooks_url", "https://example.com/runbooks", true],
    ["runbooks_url", "/runbooks", false],
    ["runbooks_url", `https://${"a".repeat(1992)}`, true],
    ["runbooks_url", `https://${"a".repeat(1993)}`, false],
    ["canary_hour", -1, false],
    ["canary_hour", 0, true],
    ["canary_hour", 23, true],
    ["canary_hour", 24, false],
  ])("takes as %s %s: %s", async ([column, value, isTaken], { query }) => {
    const update = query(`update monitor.settings set ${column} = $1`, [value]);
    if (isTaken) await update;
    else {await expect(update).rejects.toMatchObject({
        code: "23514",
        constraint: expect.stringContaining(`settings_${column}_`),
      });}
  });

  it("knows time zones by name", async ({ query }) => {
    await query("update monitor.settings set time_zone = 'America/Sao_Paulo'");
    await expect(query("update monitor.settings set time_zone = 'Middle Earth'")).rejects
      .toMatchObject({
        code: "22023",
      });
  });
});

describe("monitor.audit_log", () => {
  it("has one row for each row that really changed, with who, before and after", async ({ asOwner, query }) => {
    const before = await newestEntry(asOwner);
    await query("update monitor.settings set jobs_enabled = false");
    await query("update monitor.settings set jobs_enabled = false"); // changes nothing
    expect(await readAudit(query, before)).toMatchObject([{
      actor: "service_role",
      action: "update",
      object: "settings",
      before: { jobs_enabled: true },
      after: { jobs_enabled: false },
    }]);
  });

  it("has an entry for each of several rows", async ({ asOwner, query }) => {
    const before = await newestEntry(asOwner);
    const { rowCount } = await query(
      "update monitor.retention_policies set keep_days = keep_days + 1",
    );
    const { rows: [changed] } = await query(
      "select count(*)::int as n from monitor.retention_policies where keep_days is not null",
    );
    expect(rowCount).toBeGreaterThan(changed!.n);
    expect(await readAudit(query, before)).toHaveLength(changed!.n);
  });

  it("names the user who acted, and says what was removed", async ({ asOwner, asUser }) => {
    const before = await newestEntry(asOwner);
    const admin = await addAdmin(asOwner);
    await rpc(asUser(admin), "set_schedule", {
      p_job: "collect-metrics",
      p_schedule: "*/2 * * * *",
    });
    await asOwner("delete from monitor.admins where user_id = $1", [admin]);
    expect(await readAudit(asOwner, before)).toMatchObject([
      {
        actor: "postgres",
        action: "insert",
        object: "admins",
        before: null,
        after: { user_id: admin },
      },
      {
        actor: admin,
        action: "update",
        object: "job_schedules",
        before: { schedule: "* * * * *" },
        after: { schedule: "*/2 * * * *" },
      },
      {
        actor: "postgres",
        action: "delete",
        object: "admins",
        before: { user_id: admin },
        after: null,
      },
    ]);
  });

  it("has no entry for what jobs write to the tables of configuration", async ({ asOwner, query }) => {
    const before = await newestEntry(asOwner);
    const run = { p_run_id: "8f8b5a4e-1111-4111-8111-111111111111" };
    await rpc(query, "start_job", {
      ...run,
      p_job: "collect-metrics",
      p_trigger: "manual",
      p_scheduled_at: new Date(NOON),
    });
    await rpc(query, "record_collection", {
      ...run,
      p_scheduled_at: new Date(NOON),
      p_results: [{ collector: "collect_storage", duration_seconds: 1, error: null, samples: [] }],
    });
    await rpc(query, "finish_job", { ...run, p_outcome: "succeeded" });
    expect(await readAudit(asOwner, before)).toEqual([]);
  });

  it("is audited configuration, not data: a new metric has an entry", async ({ asOwner, query }) => {
    const before = await newestEntry(asOwner);
    const metric = await addMetric(query);
    expect(await readAudit(asOwner, before)).toMatchObject([
      { actor: "service_role", action: "insert", object: "metric_definitions", after: { metric } },
    ]);
  });

  it("is written by nobody", async ({ asOwner, asUser, query }) => {
    const admin = asUser(await addAdmin(asOwner));
    for (const somebody of [query, admin]) {
      for (
        const sql of [
          "insert into monitor.audit_log (actor, action, object) values ('me', 'update', 'settings')",
          "update monitor.audit_log set actor = 'you'",
          "delete from monitor.audit_log",
          "truncate monitor.audit_log",
          "select monitor.record_change()",
        ]
      ) {
        await expect(somebody(sql), sql).rejects.toMatchObject({ code: "42501" });
      }
    }
  });
});
