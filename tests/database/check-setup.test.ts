import { describe, expect } from "vitest";
import { it, type Query } from "./database.ts";
import { addRun, DAY, iso, MINUTE, NOON, openDays, SECOND } from "./seeds.ts";

interface Requirement {
  requirement: string;
  status: "ok" | "failed" | "unknown";
  detail: string;
  fix: string | null;
}

const URL = "https://abcdefghijklmnopqrst.supabase.co";
const KEY = "sb_secret_0123456789abcdefghijkl_ABCDEFGH";
const JOBS = [
  "collect-metrics",
  "data-retention-cleanup",
  "deliver-notifications",
  "detect-anomalies",
  "evaluate-alerts",
  "watch-jobs",
];

async function check(query: Query, at = NOON): Promise<Record<string, Requirement>> {
  const { rows } = await query<Requirement & { requirement: string }>(
    "select * from monitor.check_setup($1)",
    [iso(at)],
  );
  return Object.fromEntries(rows.map((row) => [row.requirement, row]));
}

const DROP_DAYS = `do $$
  declare v_partition regclass;
  begin
    for v_partition in select inhrelid from pg_inherits where inhparent = 'monitor.metric_time_series'::regclass loop
      execute format('drop table %s', v_partition);
    end loop;
  end $$`;

/** A setup in which everything is as it should be at noon. */
async function setUp(asOwner: Query) {
  await openDays(asOwner, NOON, 3);
  await asOwner(
    "select vault.create_secret($1, 'project_url'), vault.create_secret($2, 'cron_secret_key')",
    [URL, KEY],
  );
  await asOwner("update monitor.job_schedules set last_succeeded_at = $1, created_at = $2", [
    iso(NOON - SECOND),
    iso(NOON - DAY),
  ]);
  await addRun(asOwner, {
    scheduled_at: iso(NOON - MINUTE),
    responded_at: iso(NOON - MINUTE),
    http_status: 200,
    state: "succeeded",
  });
  await asOwner("select monitor.save_channel('mail', 'email', '{\"to\": [\"ops@example.com\"]}')");
  await asOwner("select monitor.save_route('all', '{mail}')");
}

describe("monitor.check_setup()", () => {
  it("says ok of every requirement of a working setup, and no fix", async ({ asOwner, query }) => {
    await setUp(asOwner);
    const rows = Object.values(await check(query));
    expect(rows.filter(({ status }) => status !== "ok")).toEqual([]);
    expect(rows.filter(({ fix, detail }) => fix !== null || !detail)).toEqual([]);
    expect(rows.map(({ requirement }) => requirement)).toEqual([
      ...["extension pg_cron", "extension pg_net", "extension supabase_vault"],
      ...[
        "Vault secret project_url",
        "Vault secret cron_secret_key",
        "last round trip",
        "key accepted",
        "jobs switched on",
      ],
      ...["job collect-metrics-every-minute", "last success of collect-metrics"],
      ...["job data-retention-cleanup-daily", "last success of data-retention-cleanup"],
      ...["job deliver-notifications-every-15-minutes", "last success of deliver-notifications"],
      ...["job detect-anomalies-every-5-minutes", "last success of detect-anomalies"],
      ...["job evaluate-alerts-every-minute", "last success of evaluate-alerts"],
      ...["job watch-jobs-every-minute", "last success of watch-jobs"],
      ...["grants", "somebody is told", "days ahead", "invocations a month"],
    ]);
  });

  it("shows no secret, whatever state it finds", async ({ asOwner, query }) => {
    await setUp(asOwner);
    for (const key of [KEY, "a malformed secret", `${KEY} `]) {
      await asOwner(
        "select vault.update_secret((select id from vault.secrets where name = 'cron_secret_key'), $1)",
        [
          key,
        ],
      );
      expect(JSON.stringify(await check(query))).not.toContain(key.trim());
    }
  });

  it.for<[string, string, string]>([
    ["extension pg_cron", "drop extension pg_cron", "not installed"],
    ["extension pg_net", "drop extension pg_net", "not installed"],
    [
      "Vault secret project_url",
      "delete from vault.secrets where name = 'project_url'",
      "there is no secret of this name",
    ],
    [
      "Vault secret project_url",
      "select vault.update_secret((select id from vault.secrets where name = 'project_url'), 'abc.supabase.co')",
      "it has the wrong form",
    ],
    [
      "Vault secret cron_secret_key",
      "delete from vault.secrets where name = 'cron_secret_key'",
      "there is no secret of this name",
    ],
    [
      "Vault secret cron_secret_key",
      "select vault.update_secret((select id from vault.secrets where name = 'cron_secret_key'), 'sb_publishable_x')",
      "it has the wrong form",
    ],
    ["jobs switched on", "update monitor.settings set jobs_enabled = false", "kill switch"],
    [
      "job watch-jobs-every-minute",
      "select cron.unschedule('watch-jobs-every-minute')",
      "pg_cron does not know it",
    ],
    [
      "job collect-metrics-every-minute",
      "select cron.alter_job(jobid, active := false) from cron.job where jobname = 'collect-metrics-every-minute'",
      "switched off in pg_cron",
    ],
    [
      "job collect-metrics-every-minute",
      "select cron.alter_job(jobid, schedule := '*/7 * * * *') from cron.job where jobname = 'collect-metrics-every-minute'",
      "pg_cron has */7 * * * *, job_schedules has * * * * *",
    ],
    [
      "job collect-metrics-every-minute",
      "select cron.alter_job(jobid, command := 'select 1') from cron.job where jobname = 'collect-metrics-every-minute'",
      "another command",
    ],
    [
      "job evaluate-alerts-every-minute",
      "select cron.alter_job(jobid, command := 'select monitor.invoke_function(''evaluate-alerts'')') from cron.job where jobname = 'evaluate-alerts-every-minute'",
      "another command",
    ],
    [
      "last success of watch-jobs",
      "update monitor.job_schedules set last_succeeded_at = null",
      "never",
    ],
    [
      "grants",
      "revoke usage on schema monitor from service_role",
      "service_role may not use the schema",
    ],
    [
      "grants",
      "revoke execute on function monitor.start_job(text, uuid, text, timestamptz, timestamptz) from service_role",
      "service_role may not call monitor.start_job(",
    ],
    ["grants", "grant usage on schema monitor to anon", "anon may use the schema"],
    ["grants", "grant usage on schema monitor to public", "anon may use the schema"],
    ...["flush_alerts(timestamptz)", "lease_notifications(text[], integer, float8, timestamptz)"]
      .map(
        (name): [string, string, string] => [
          "grants",
          `revoke execute on function monitor.${name} from service_role`,
          `service_role may not call monitor.${name.split("(")[0]}(`,
        ],
      ),
    [
      "somebody is told",
      "update monitor.settings set notifications_enabled = false",
      "sending is switched off",
    ],
    [
      "somebody is told",
      "update monitor.notification_channels set channel = 'ops', enabled = false; update monitor.notification_routes set channels = '{ops}'",
      "there is no channel",
    ],
    ["somebody is told", "delete from monitor.notification_routes", "there is no route"],
    ["days ahead", "delete from monitor.sample_days", "of 3 days"],
  ])(
    "says failed of %s after: %s; and its fix repairs it",
    async ([requirement, damage, detail], { asOwner }) => {
      await setUp(asOwner);
      if (requirement === "days ahead") await asOwner(DROP_DAYS);
      await asOwner(damage);
      const broken = (await check(asOwner))[requirement];
      expect(broken).toMatchObject({
        status: "failed",
        detail: expect.stringContaining(detail),
        fix: expect.stringMatching(/;$/),
      });
      const fix = broken!.fix!;
      await asOwner(
        fix.replace("<project-ref>", "abcdefghijklmnopqrst").replace("sb_secret_…", KEY),
      );
      // These two fixes go by the clock, everything else stands at noon.
      const at = ["last success of watch-jobs", "days ahead"].includes(requirement)
        ? Date.now()
        : NOON;
      expect((await check(asOwner, at))[requirement]).toMatchObject({ status: "ok", fix: null });
    },
  );

  it.for<[string, string, string | null]>([
    ["nothing at all", "select", "there is no channel"],
    [
      "a heartbeat, which tells nothing",
      `select monitor.save_channel('life', 'heartbeat', p_secret => 'https://example.com/ping')`,
      "there is no channel",
    ],
    [
      "a channel that no route leads to",
      `select monitor.save_channel('mail', 'email', '{"to": ["ops@example.com"]}')`,
      "there is no route",
    ],
    [
      "a route to a channel that is switched off, beside one that no route leads to",
      `select monitor.save_channel('mail', 'email', '{"to": ["ops@example.com"]}');
       select monitor.save_channel('spare', 'email', '{"to": ["ops@example.com"]}');
       select monitor.save_route('all', '{mail}');
       update monitor.notification_channels set enabled = false where channel = 'mail'`,
      "there is no route",
    ],
    [
      "a route of which one channel is switched on",
      `select monitor.save_channel('mail', 'email', '{"to": ["ops@example.com"]}');
       select monitor.save_channel('spare', 'email', '{"to": ["ops@example.com"]}');
       select monitor.save_route('all', '{mail,spare}');
       update monitor.notification_channels set enabled = false where channel = 'mail'`,
      null,
    ],
  ])("says of %s whether anybody is told", async ([, sql, missing], { asOwner, query }) => {
    await asOwner(sql);
    expect((await check(query))["somebody is told"]).toMatchObject(
      missing === null ? { status: "ok", fix: null } : { status: "failed", detail: missing },
    );
  });

  it("leads from nothing to somebody who is told, fix by fix", async ({ asOwner }) => {
    const said: string[] = [];
    for (let fix: string | null = "select"; fix !== null;) {
      await asOwner(fix);
      const answer = (await check(asOwner))["somebody is told"]!;
      said.push(answer.detail);
      fix = answer.fix;
    }
    expect(said).toEqual([
      "there is no channel",
      "there is no route",
      "alerts have a route and a channel",
    ]);
  });

  it("does not take a fix for done whose blanks nobody filled in", async ({ asOwner }) => {
    for (const requirement of ["Vault secret project_url", "Vault secret cron_secret_key"]) {
      await asOwner((await check(asOwner))[requirement]!.fix!);
      expect((await check(asOwner))[requirement]).toMatchObject({
        status: "failed",
        detail: "it has the wrong form",
      });
    }
  });

  it("names what Vault lacks when it is missing as a whole", async ({ asOwner, asSuperuser }) => {
    await asSuperuser("drop extension supabase_vault");
    const answer = await check(asOwner);
    expect(answer["extension supabase_vault"]).toMatchObject({
      status: "failed",
      fix: "create extension supabase_vault;",
    });
    expect(answer["Vault secret project_url"]!.status).toBe("failed");
  });

  it("counts the days from today on, in UTC", async ({ asOwner, query }) => {
    await openDays(asOwner, NOON, 3);
    expect((await check(query, NOON))["days ahead"]!.status).toBe("ok");
    expect((await check(query, NOON + 12 * 60 * MINUTE - 1))["days ahead"]!.status).toBe("ok");
    expect((await check(query, NOON + 12 * 60 * MINUTE))["days ahead"]).toMatchObject({
      status: "failed",
      detail: expect.stringContaining("2 of 3"),
      fix: "select monitor.ensure_sample_days();",
    });
  });

  it.for(
    [
      [null, "unknown"],
      [200, "ok"],
      [409, "ok"],
      [401, "failed"],
      [403, "failed"],
      [404, "unknown"],
      [500, "unknown"],
    ] as const,
  )("says of the key after HTTP %s: %s", async ([http_status, status], { asOwner, query }) => {
    const answered = (minutes: number, status: number) => {
      const at = iso(NOON - minutes * MINUTE);
      return addRun(asOwner, { scheduled_at: at, responded_at: at, http_status: status });
    };
    await answered(2, 200);
    if (http_status === null) await asOwner("delete from monitor.job_runs");
    else await answered(1, http_status);
    const answer = (await check(query))["key accepted"];
    expect(answer!.status).toBe(status);
    if (status === "failed") expect(answer!.fix).toContain("cron_secret_key");
    expect(answer!.fix === null).toBe(status === "ok");
  });

  it("forgets what the last answer said when the next one is overdue", async ({ asOwner, query }) => {
    await addRun(asOwner, { responded_at: iso(NOON), http_status: 200 });
    const seen = async (after: number) => {
      const { "last round trip": trip, "key accepted": key } = await check(query, NOON + after);
      return [trip!.status, key!.status];
    };
    expect(await seen(180 * SECOND - 1)).toEqual(["ok", "ok"]);
    expect(await seen(180 * SECOND)).toEqual(["unknown", "unknown"]);
    // A time-out is an answer of pg_net, but no round trip.
    await asOwner("update monitor.job_runs set http_status = null, http_timed_out = true");
    expect(await seen(1)).toEqual(["unknown", "unknown"]);
  });

  it.for(
    [
      ["https://abc.supabase.co", true],
      ["http://127.0.0.1:54321", true],
      ["http://localhost:54321", true],
      ["http://kong:8000", true],
      ["http://abc.supabase.co", false],
      ["http://128.0.0.1", false],
      ["http://127.evil.example", false],
    ] as const,
  )("lets cron's key go to %s: %s", async ([url, isGood], { asOwner, query }) => {
    await setUp(asOwner);
    await asOwner(
      "select vault.update_secret((select id from vault.secrets where name = 'project_url'), $1)",
      [url],
    );
    expect((await check(query))["Vault secret project_url"]!.status).toBe(isGood ? "ok" : "failed");
  });

  it.for(JOBS)(
    "says of the last success of %s: ok until it is stale, with the reason after",
    async (job, { asOwner, query }) => {
      const { rows: [schedule] } = await query<{ stale: number }>(
        "select stale_after_seconds as stale from monitor.job_schedules where job = $1",
        [job],
      );
      const stale = schedule!.stale * SECOND;
      await asOwner("update monitor.job_schedules set last_succeeded_at = $1, created_at = $1", [
        iso(NOON),
      ]);
      const seen = async (after: number) =>
        (await check(query, NOON + after))[`last success of ${job}`]!;
      expect((await seen(stale - 1)).status).toBe("ok");
      expect((await seen(stale)).status).toBe("failed");

      await addRun(asOwner, { job, scheduled_at: iso(NOON), state: "lost", reason: "no answer" });
      expect((await seen(stale)).detail).toBe(
        "2026-03-10 12:00 UTC; the last run was lost (no answer)",
      );
      expect((await seen(stale)).fix).toBeTruthy();
    },
  );

  it("does not know of a job that is new, until it is late for its first success", async ({ asOwner, query }) => {
    await asOwner("update monitor.job_schedules set created_at = $1", [iso(NOON)]);
    const seen = async (at: number) => (await check(query, at))["last success of collect-metrics"];
    expect(await seen(NOON + 180 * SECOND - 1)).toMatchObject({
      status: "unknown",
      detail: "never",
    });
    expect(await seen(NOON + 180 * SECOND)).toMatchObject({ status: "failed", detail: "never" });
    await addRun(asOwner, { state: "failed", reason: "HTTP 401" });
    expect(await seen(NOON + SECOND)).toMatchObject({
      status: "failed",
      detail: "never; the last run was failed (HTTP 401)",
    });
  });

  it("does not take a run for failed that was skipped because another one is under way", async ({ query, asOwner }) => {
    await setUp(asOwner);
    await asOwner("delete from monitor.job_runs where job = 'deliver-notifications'");
    await asOwner(
      "update monitor.job_schedules set last_succeeded_at = null, created_at = now() where job = 'deliver-notifications'",
    );
    await asOwner(
      `insert into monitor.job_runs (job, trigger, scheduled_at, state, outcome, finished_at, reason)
       values ('deliver-notifications', 'chain', now(), 'skipped', 'skipped', now(), 'run x held the lease')`,
    );
    const { rows } = await query<{ status: string }>(
      "select status from monitor.check_setup() where requirement = 'last success of deliver-notifications'",
    );
    expect(rows).toEqual([{ status: "unknown" }]);
  });

  it("projects the invocations of a month from the schedules", async ({ asOwner, query }) => {
    const minute = 30 * 24 * 60;
    const expected = 2 * minute + minute / 5 + minute / 15 + 30;
    expect((await check(query))["invocations a month"]).toMatchObject({
      status: "ok",
      detail: `${expected.toLocaleString("en")} by these schedules; the free plan has 500,000`,
    });
    await asOwner(
      `insert into monitor.job_schedules (job, cron_name, schedule, is_function, lease_seconds, stale_after_seconds, description)
       select 'job-' || n, 'job-' || n, '* * * * *', true, 60, 60, 'of a test' from generate_series(1, 10) as n`,
    );
    expect((await check(query))["invocations a month"]).toMatchObject({ status: "failed" });
  });

  it("may be asked by service_role and the owner, nobody else", async ({ query, asUser, asAnon }) => {
    await check(query);
    for (const somebody of [asUser(""), asAnon]) {
      await expect(check(somebody)).rejects.toMatchObject({ code: "42501" });
    }
  });
});
