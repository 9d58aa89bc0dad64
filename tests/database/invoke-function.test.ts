import { describe, expect } from "vitest";
import { it, type Query, rpc } from "./database.ts";
import { iso, MINUTE, NOON } from "./seeds.ts";

const URL = "https://abcdefghijklmnopqrst.supabase.co";
const KEY = "sb_secret_0123456789abcdefghijkl_ABCDEFGH";

async function setSecret(asOwner: Query, name: string, value: string) {
  await asOwner("select vault.create_secret($1, $2)", [value, name]);
}

async function setSecrets(
  asOwner: Query,
  { url = URL, key = KEY }: { url?: string; key?: string } = {},
) {
  await setSecret(asOwner, "project_url", url);
  await setSecret(asOwner, "cron_secret_key", key);
}

const invoke = (asOwner: Query, job = "collect-metrics", at = NOON, more: object = {}) =>
  rpc<string>(asOwner, "invoke_function", { p_job: job, p_now: iso(at), ...more });

const CHAIN = { p_trigger: "chain" };

async function readRun(query: Query, run: string) {
  return (await query("select * from monitor.job_runs where run_id = $1", [run])).rows[0]!;
}

async function readRequests(asOwner: Query) {
  const { rows } = await asOwner(
    `select id, method, url, headers, convert_from(body, 'utf8')::jsonb as body, timeout_milliseconds
     from net.http_request_queue order by id`,
  );
  return rows;
}

describe("monitor.invoke_function()", () => {
  it("queues the run and posts to the function with key, run id and an explicit time-out", async ({ asOwner }) => {
    await setSecrets(asOwner);
    const run = await invoke(asOwner, "collect-metrics", NOON + 350);
    const [request, ...others] = await readRequests(asOwner);
    expect(others).toEqual([]);
    expect(request).toMatchObject({
      method: "POST",
      url: `${URL}/functions/v1/collect-metrics`,
      headers: { "content-type": "application/json", apikey: KEY, "x-run-id": run },
      timeout_milliseconds: 25_000,
    });
    expect(Object.keys(request!.headers).sort()).toEqual(["apikey", "content-type", "x-run-id"]);
    expect(Date.parse(request!.body.scheduled_at)).toBe(NOON);
    expect(Object.keys(request!.body)).toEqual(["scheduled_at"]);
    expect(await readRun(asOwner, run)).toMatchObject({
      job: "collect-metrics",
      trigger: "cron",
      state: "queued",
      scheduled_at: new Date(NOON),
      queued_at: new Date(NOON + 350),
      request_id: request!.id,
      outcome: null,
      is_settled: false,
    });
  });

  it.for([
    ...["collect-metrics", "detect-anomalies", "data-retention-cleanup", "evaluate-alerts"],
    "deliver-notifications",
  ])(
    "waits for %s as long as its schedule says",
    async (job, { asOwner }) => {
      await setSecrets(asOwner);
      await invoke(asOwner, job);
      const { rows: [schedule] } = await asOwner(
        "select timeout_milliseconds from monitor.job_schedules where job = $1",
        [job],
      );
      expect(await readRequests(asOwner)).toMatchObject([{
        url: `${URL}/functions/v1/${job}`,
        timeout_milliseconds: schedule!.timeout_milliseconds,
      }]);
    },
  );

  it("takes an address with a slash at its end, with a port, and of plain http", async ({ asOwner }) => {
    await setSecrets(asOwner, { url: "http://127.0.0.1:54321/" });
    await invoke(asOwner);
    expect((await readRequests(asOwner))[0]!.url).toBe(
      "http://127.0.0.1:54321/functions/v1/collect-metrics",
    );
  });

  it("runs once a minute, however often cron fires", async ({ asOwner }) => {
    await setSecrets(asOwner);
    const run = await invoke(asOwner, "collect-metrics", NOON);
    expect(await invoke(asOwner, "collect-metrics", NOON + MINUTE - 1)).toBe(run);
    expect(await invoke(asOwner, "collect-metrics", NOON + MINUTE)).not.toBe(run);
    expect(await invoke(asOwner, "detect-anomalies", NOON)).not.toBe(run);
    expect(await readRequests(asOwner)).toHaveLength(3);
  });

  it("runs as often as it is called between ticks, beside the one of the tick", async ({ asOwner }) => {
    await setSecrets(asOwner);
    const tick = await invoke(asOwner, "deliver-notifications");
    const [first, second] = [
      await invoke(asOwner, "deliver-notifications", NOON, CHAIN),
      await invoke(asOwner, "deliver-notifications", NOON + 1, CHAIN),
    ];
    expect(new Set([tick, first, second]).size).toBe(3);
    expect(await invoke(asOwner, "deliver-notifications", NOON + 2)).toBe(tick);
    expect((await readRequests(asOwner)).map(({ headers }) => headers["x-run-id"])).toEqual([
      tick,
      first,
      second,
    ]);
    expect(await readRun(asOwner, second)).toMatchObject({
      ...{ trigger: "chain", state: "queued", is_settled: false },
      ...{ scheduled_at: new Date(NOON), queued_at: new Date(NOON + 1) },
    });
  });

  it("fails and skips calls between ticks as those of ticks", async ({ asOwner, query }) => {
    expect(await readRun(asOwner, await invoke(asOwner, "deliver-notifications", NOON, CHAIN)))
      .toMatchObject({ trigger: "chain", state: "failed", is_settled: true });
    await query("update monitor.settings set jobs_enabled = false");
    expect(await readRun(asOwner, await invoke(asOwner, "deliver-notifications", NOON, CHAIN)))
      .toMatchObject({ trigger: "chain", state: "skipped", is_settled: true });
  });

  it.for(["manual", "Chain", "", null])(
    "refuses the trigger %o",
    async (p_trigger, { asOwner }) => {
      await expect(invoke(asOwner, "collect-metrics", NOON, { p_trigger })).rejects.toMatchObject({
        code: "22023",
        message: expect.stringContaining("p_trigger"),
        hint: expect.any(String),
      });
    },
  );

  it.for<[string, string | null, string | null, string]>([
    ["no address", null, KEY, "Vault has no secret named project_url"],
    ["no key", URL, null, "Vault has no secret named cron_secret_key"],
    ["neither", null, null, "Vault has no secret named project_url"],
    ["an empty address", "", KEY, "project_url is no URL"],
    ["an address with a path", `${URL}/functions`, KEY, "project_url is no URL"],
    ["an address without a scheme", "abc.supabase.co", KEY, "project_url is no URL"],
    ["an address of another scheme", "file:///etc/passwd", KEY, "project_url is no URL"],
    ["an address with a query", `${URL}?a=b`, KEY, "project_url is no URL"],
    ["an address with a login", "https://me:secret@abc.supabase.co", KEY, "project_url is no URL"],
    [
      "an address nobody filled in",
      "https://<project-ref>.supabase.co",
      KEY,
      "project_url is no URL",
    ],
    ["an address with a line break", `${URL}\n`, KEY, "project_url is no URL"],
    ["an empty key", URL, "", "cron_secret_key is no key"],
    ["a publishable key", URL, "sb_publishable_0123456789", "cron_secret_key is no key"],
    ["a legacy key", URL, "eyJhbGciOiJIUzI1NiJ9.e30.x", "cron_secret_key is no key"],
    ["a key with a line break", URL, `${KEY}\n`, "cron_secret_key is no key"],
    ["a key of the prefix alone", URL, "sb_secret_", "cron_secret_key is no key"],
  ])("fails the run and says why: %s", async ([, url, key, reason], { asOwner }) => {
    if (url !== null) await setSecret(asOwner, "project_url", url);
    if (key !== null) await setSecret(asOwner, "cron_secret_key", key);
    const run = await readRun(asOwner, await invoke(asOwner));
    expect(run).toMatchObject({
      state: "failed",
      outcome: "failed",
      reason: expect.stringContaining(reason),
      is_settled: true,
      request_id: null,
    });
    expect(await readRequests(asOwner)).toEqual([]);
  });

  it("fails the run and says why when pg_net is missing", async ({ asOwner, asSuperuser }) => {
    await setSecrets(asOwner);
    await asSuperuser("drop extension pg_net");
    expect(await readRun(asOwner, await invoke(asOwner))).toMatchObject({
      state: "failed",
      reason: "pg_net or Vault is not installed",
    });
  });

  it("fails the run and says why when Vault is missing", async ({ asOwner, asSuperuser }) => {
    await asSuperuser("drop extension supabase_vault");
    expect(await readRun(asOwner, await invoke(asOwner))).toMatchObject({
      state: "failed",
      reason: "pg_net or Vault is not installed",
    });
    await asSuperuser("drop schema vault");
    expect(await readRun(asOwner, await invoke(asOwner, "collect-metrics", NOON + MINUTE)))
      .toMatchObject({
        state: "failed",
        reason: "pg_net or Vault is not installed",
      });
  });

  it("fails the run and says why when Vault may not be read", async ({ asOwner, asSuperuser }) => {
    await setSecrets(asOwner);
    await asSuperuser(
      "revoke all on vault.decrypted_secrets from postgres; revoke pg_read_all_data from postgres",
    );
    expect(await readRun(asOwner, await invoke(asOwner))).toMatchObject({
      state: "failed",
      reason: expect.stringMatching(/^42501: permission denied/),
    });
  });

  it("keeps the key out of the reason when pg_net itself repeats it", async ({ asOwner, asSuperuser }) => {
    await setSecrets(asOwner);
    await asSuperuser(`
      create or replace function net.http_post(
        url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{}',
        timeout_milliseconds integer default 5000
      ) returns bigint language plpgsql as $$
      begin raise exception 'bad header apikey: %, twice: %', headers ->> 'apikey', headers ->> 'apikey'; end $$`);
    const run = await readRun(asOwner, await invoke(asOwner));
    expect(run).toMatchObject({
      state: "failed",
      reason: "P0001: bad header apikey: …, twice: …",
    });
    expect(JSON.stringify(run)).not.toContain(KEY);
  });

  it("writes the key nowhere in the schema", async ({ asOwner }) => {
    await setSecrets(asOwner);
    await invoke(asOwner);
    const { rows: tables } = await asOwner<{ name: string }>(
      `select c.oid::regclass::text as name from pg_class as c
       where c.relnamespace = 'monitor'::regnamespace and c.relkind in ('r', 'p')`,
    );
    for (const { name } of tables) {
      const { rows } = await asOwner(
        `select row_to_json(t)::text as row from ${name} as t where strpos(row_to_json(t)::text, $1) > 0`,
        [KEY],
      );
      expect(rows, name).toEqual([]);
    }
  });

  it("sends nothing while the kill switch is off, and lets it be seen", async ({ asOwner, query }) => {
    await setSecrets(asOwner);
    await query("update monitor.settings set jobs_enabled = false");
    expect(await readRun(asOwner, await invoke(asOwner))).toMatchObject({
      state: "skipped",
      reason: "jobs are switched off",
      is_settled: true,
    });
    expect(await readRequests(asOwner)).toEqual([]);

    await query("update monitor.settings set jobs_enabled = true");
    expect(await readRun(asOwner, await invoke(asOwner, "collect-metrics", NOON + MINUTE)))
      .toMatchObject({
        state: "queued",
      });
  });

  it("uses the key that Vault has at this minute, so that a rotation loses no run", async ({ asOwner }) => {
    await setSecrets(asOwner);
    await invoke(asOwner);
    await asOwner(
      "select vault.update_secret((select id from vault.secrets where name = 'cron_secret_key'), 'sb_secret_next')",
    );
    await invoke(asOwner, "collect-metrics", NOON + MINUTE);
    expect((await readRequests(asOwner)).map(({ headers }) => headers.apikey)).toEqual([
      KEY,
      "sb_secret_next",
    ]);
  });

  it.for(["watch-jobs", "no-such-job", null])(
    "refuses %o, which is no function",
    async (job, { asOwner }) => {
      await expect(invoke(asOwner, job!)).rejects.toMatchObject({
        code: "22023",
        hint: expect.any(String),
      });
    },
  );

  it("is for cron alone", async ({ query, asUser }) => {
    for (const somebody of [query, asUser("")]) {
      await expect(invoke(somebody)).rejects.toMatchObject({ code: "42501" });
    }
  });
});
