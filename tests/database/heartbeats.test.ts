import { describe, expect } from "vitest";
import { addRule, advance, setFiring, setUpRoute, setUpRule } from "./alerting.ts";
import { it, type Query, rpc } from "./database.ts";
import { addMetric, addSeries, HOUR, iso, MINUTE, NOON, openDays, SECOND } from "./seeds.ts";

/** A heartbeat channel, and metrics as fresh as `sampledAt`. */
async function setUp(query: Query, sampledAt = NOON) {
  await setUpRule(query);
  await setUpRoute(query);
  await rpc(query, "save_channel", {
    p_channel: "dead-man",
    p_kind: "heartbeat",
    p_secret: "https://example.com/ping/1",
  });
  await openDays(query);
  await addSeries(query, await addMetric(query), [[sampledAt, 1]]);
}

/** Signals in the order in which they were written, with their reasons. */
async function readSignals(query: Query): Promise<string[]> {
  const { rows } = await query<{ signal: string }>(
    `select concat_ws(': ', payload ->> 'signal', nullif(payload ->> 'reason', '')) as signal
     from monitor.notifications where channel = 'dead-man' order by notification_id`,
  );
  return rows.map(({ signal }) => signal);
}

/** What deliverers do with all that is pending. */
const arrive = (query: Query, at: number) =>
  query(
    "update monitor.notifications set state = 'sent', sent_at = $1 where channel = 'dead-man' and state = 'pending'",
    [iso(at)],
  );

describe("monitor.write_heartbeats()", () => {
  it("says that it begins, and once that has arrived that all is well, every 5 minutes", async ({ query }) => {
    await setUp(query);
    await advance(query);
    expect(await readSignals(query)).toEqual(["start"]);
    await arrive(query, NOON);
    await advance(query, NOON + MINUTE);
    expect(await readSignals(query)).toEqual(["start", "success"]);
    for (let n = 2; n < 5; n += 1) await advance(query, NOON + n * MINUTE);
    expect(await readSignals(query)).toHaveLength(2);
    await advance(query, NOON + 5 * MINUTE);
    expect(await readSignals(query)).toEqual(["start", "success", "start"]);
  });

  it("says nothing more while its start has not arrived", async ({ query }) => {
    await setUp(query);
    await advance(query);
    for (let n = 1; n < 5; n += 1) await advance(query, NOON + n * MINUTE);
    expect(await readSignals(query)).toEqual(["start"]);
  });

  it.for([
    { age: 179, signal: "success" },
    { age: 180, signal: "fail: no fresh metrics" },
  ])("with metrics $age s old says $signal", async ({ age, signal }, { query, asOwner }) => {
    const at = NOON + MINUTE;
    await setUp(query, at - age * SECOND);
    await asOwner(
      "update monitor.job_schedules set stale_after_seconds = 180 where job = 'collect-metrics'",
    );
    await advance(query);
    await arrive(query, NOON);
    await advance(query, at);
    expect((await readSignals(query)).at(-1)).toBe(signal);
  });

  it("fails while sending is switched off", async ({ query, asOwner }) => {
    await setUp(query);
    await advance(query);
    await arrive(query, NOON);
    await asOwner("update monitor.settings set notifications_enabled = false");
    await advance(query, NOON + MINUTE);
    expect((await readSignals(query)).at(-1)).toBe("fail: sending is switched off");
  });

  it.for([
    { after: 15 * MINUTE - SECOND, sent: false, signal: "success" },
    { after: 15 * MINUTE, sent: false, signal: "fail: the canary did not arrive" },
    { after: 15 * MINUTE, sent: true, signal: "success" },
  ])(
    "$after ms after a canary fired that was sent ($sent) says $signal",
    async ({ after, sent, signal }, { query, asOwner }) => {
      const at = NOON + after;
      await setUp(query, at);
      await asOwner("update monitor.settings set canary_channel = 'ops', canary_hour = 0");
      const canary = await addRule(query, { name: "PgvigilCanary" });
      await setFiring(query, canary, [{}]);
      await advance(query);
      if (sent) {
        await query(
          "update monitor.notifications set state = 'sent', sent_at = $1 where channel = 'ops'",
          [iso(NOON)],
        );
      }
      await setFiring(query, canary, [], NOON + MINUTE);
      await advance(query, at - MINUTE);
      await arrive(query, at - MINUTE);
      await advance(query, at);
      expect((await readSignals(query)).at(-1)).toBe(signal);
    },
  );

  it.for([
    { after: 26 * HOUR, signal: "success" },
    { after: 26 * HOUR + SECOND, signal: "fail: the canary did not arrive" },
  ])(
    "$after ms after a canary is wanted, with none ever, says $signal",
    async ({ after, signal }, { query, asOwner }) => {
      const at = NOON + after;
      await setUp(query, NOON);
      await query("update monitor.metric_series set last_sample_at = $1", [iso(at)]);
      await asOwner("update monitor.settings set canary_channel = 'ops'");
      await advance(query);
      await advance(query, at - MINUTE);
      await arrive(query, at - MINUTE);
      await advance(query, at);
      expect((await readSignals(query)).at(-1)).toBe(signal);
    },
  );

  it("does not miss a canary that is wanted no more, nor at once one that is wanted again", async ({ query, asOwner }) => {
    await setUp(query);
    await query("update monitor.metric_series set last_sample_at = $1", [iso(NOON + 40 * HOUR)]);
    const beat = async (at: number) => {
      await advance(query, at);
      await arrive(query, at);
      await advance(query, at + MINUTE);
      return (await readSignals(query)).at(-1);
    };
    await asOwner("update monitor.settings set canary_channel = 'ops'");
    await advance(query);
    await asOwner("update monitor.settings set canary_channel = null");
    expect(await beat(NOON + 30 * HOUR)).toBe("success");
    await asOwner("update monitor.settings set canary_channel = 'ops'");
    expect(await beat(NOON + 31 * HOUR)).toBe("success");
  });

  it("is written for no other kind of channel, and forgotten after a day", async ({ query }) => {
    await setUp(query);
    await advance(query);
    await arrive(query, NOON);
    const day = NOON + 24 * 60 * MINUTE;
    await advance(query, day + MINUTE);
    expect(await readSignals(query)).toEqual(["start"]);
    const { rows } = await query(
      "select distinct channel from monitor.notifications where payload ->> 'type' = 'heartbeat'",
    );
    expect(rows).toEqual([{ channel: "dead-man" }]);
  });
});
