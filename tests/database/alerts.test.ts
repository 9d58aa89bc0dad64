import { describe, expect } from "vitest";
import { createOutliner } from "../../shared/alerting/messages/outline.ts";
import { NotificationPayload } from "../../shared/contract/notifications.ts";
import {
  addRule,
  advance,
  flush,
  newMessages,
  readAlerts,
  readDecisions,
  readMessages,
  saveRoute,
  setFiring,
  setUpRoute,
  setUpRule,
} from "./alerting.ts";
import { it, type Query, queryOf, rpc, waitUntilBlocking } from "./database.ts";
import {
  addAnomaly,
  addMetric,
  addSeries,
  DAY,
  HOUR,
  iso,
  MINUTE,
  NOON,
  openDays,
  range,
  SECOND,
} from "./seeds.ts";

const MAILS = { labels: { queue: "mails" } };
const JOBS = { labels: { queue: "jobs" } };

describe("monitor.advance_alerts()", () => {
  it("tells an alert once, and that it is over", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query);
    const messages = newMessages(query);

    await setFiring(query, rule, [MAILS]);
    expect(await advance(query)).toMatchObject({ opened: 1, told: 1 });
    expect(await messages()).toEqual([
      {
        channel: "ops",
        because: "new",
        firing: ["mails"],
        resolved: [],
        notes: [],
        state: "pending",
      },
    ]);
    for (let n = 1; n < 12; n += 1) await advance(query, NOON + n * MINUTE);
    expect(await messages()).toEqual([]);

    await setFiring(query, rule, [], NOON + 12 * MINUTE);
    expect(await advance(query, NOON + 12 * MINUTE)).toMatchObject({ resolved: 1 });
    await advance(query, NOON + 16 * MINUTE);
    expect(await messages()).toMatchObject([{
      because: "resolved",
      firing: [],
      resolved: ["mails"],
    }]);
    expect(await readAlerts(query)).toMatchObject([
      { state: "resolved", occurrence_count: 1, resolved_because: "what it says no longer holds" },
    ]);
    expect((await query("select from monitor.alert_groups")).rows).toHaveLength(0);
  });

  it("repeats what still fires after the route's interval, and not before", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_repeat_interval_seconds: 3600, p_group_interval_seconds: 60 });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    const messages = newMessages(query);
    await messages();

    await advance(query, NOON + 59 * MINUTE);
    expect(await messages()).toEqual([]);
    await advance(query, NOON + 60 * MINUTE);
    expect(await messages()).toMatchObject([{ because: "repeated", firing: ["mails"] }]);
  });

  it("lets the first of a group wait for others, and later ones for the interval", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_wait_seconds: 30, p_group_interval_seconds: 300 });
    const messages = newMessages(query);

    await setFiring(query, rule, [MAILS]);
    await advance(query);
    await flush(query, NOON + 29 * SECOND);
    expect(await messages()).toEqual([]);
    await setFiring(query, rule, [MAILS, JOBS]);
    await advance(query, NOON + 29 * SECOND);
    await flush(query, NOON + 30 * SECOND);
    expect(await messages()).toMatchObject([{ because: "new", firing: ["jobs", "mails"] }]);

    await setFiring(query, rule, [MAILS, JOBS, { labels: { queue: "late" } }], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    await flush(query, NOON + 329 * SECOND);
    expect(await messages()).toEqual([]);
    await flush(query, NOON + 330 * SECOND);
    expect(await messages()).toMatchObject([
      { because: "changed", firing: ["jobs", "late", "mails"] },
    ]);
  });

  it("says of each alert why it is or is not told, a row a change", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_wait_seconds: 90, p_group_interval_seconds: 300 });
    await setFiring(query, rule, [{ ...MAILS, state: "pending" }]);
    await advance(query);
    await advance(query, NOON + MINUTE);
    await setFiring(query, rule, [{ ...MAILS, since: NOON + 2 * MINUTE }], NOON + 2 * MINUTE);
    await advance(query, NOON + 2 * MINUTE);
    await advance(query, NOON + 3 * MINUTE);
    await advance(query, NOON + 4 * MINUTE);

    const [alert] = await readAlerts(query);
    expect(await readDecisions(query, alert!.alert_id)).toEqual([
      {
        decision: "pending",
        detail: "it has held since 2026-03-10 12:00:00, and not for long enough to fire",
        evaluations: 2,
        is_open: false,
      },
      {
        decision: "grouped",
        detail: "into a group of route all, which is told at 12:03:30",
        evaluations: 2,
        is_open: false,
      },
      {
        decision: "sent",
        detail: "to ops",
        evaluations: null,
        is_open: true,
      },
    ]);
  });

  it("silences, tells what ended of what was told, and says that the silence is over", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_by: ["queue"], p_group_interval_seconds: 60 });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    const messages = newMessages(query);
    await messages();

    await rpc(query, "silence_alerts", {
      p_matchers: [{ name: "alertname", op: "=~", value: "Queue.*" }],
      p_ends_at: iso(NOON + 10 * MINUTE),
      p_reason: "deploy",
      p_now: iso(NOON + MINUTE),
    });
    await setFiring(query, rule, [JOBS], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    await advance(query, NOON + 9 * MINUTE);
    expect(await messages()).toMatchObject([{ resolved: ["mails"], firing: [] }]);
    const jobs = (await readAlerts(query)).find(({ queue }) => queue === "jobs")!;
    expect(await readDecisions(query, jobs.alert_id)).toMatchObject([
      {
        decision: "silenced",
        detail: expect.stringMatching(/^by service_role until 2026-03-10 12:10: deploy/),
      },
    ]);

    await advance(query, NOON + 10 * MINUTE);
    expect(await messages()).toMatchObject([{
      firing: ["jobs"],
      notes: [
        expect.stringMatching(
          /^It was silenced by service_role until 2026-03-10 12:10: deploy .*from 2026-03-10 12:01 to 12:10/,
        ),
      ],
    }]);
  });

  it("does not tell what another alert explains, until that is over", async ({ query }) => {
    const rule = await setUpRule(query);
    const cause = await addRule(query, { name: "HostDown", severity: "critical" });
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await rpc(query, "save_inhibition", {
      p_name: "host",
      p_source_matchers: [{ name: "alertname", op: "=", value: "HostDown" }],
      p_target_matchers: [{ name: "alertname", op: "=", value: "QueueDeep" }],
    });
    const messages = newMessages(query);
    await setFiring(query, cause, [{}]);
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    expect(await messages()).toMatchObject([{ firing: ["HostDown"] }]);

    await setFiring(query, cause, [], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    expect(
      (await messages()).map(({ firing, resolved }) => ({ firing, resolved }))
        .toSorted((a, b) => a.firing.length - b.firing.length),
    ).toEqual([
      { firing: [], resolved: ["HostDown"] },
      { firing: ["mails"], resolved: [] },
    ]);
  });

  it("goes by the first route that matches, and on to the next where that continues", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_position: 30 });
    for (const channel of ["first", "second"]) {
      await rpc(query, "save_channel", {
        p_channel: channel,
        p_kind: "email",
        p_config: { to: ["a@example.com"] },
      });
    }
    const mails = [{ name: "queue", op: "=", value: "mails" }];
    await saveRoute(query, {
      p_name: "first",
      p_channels: ["first"],
      p_position: 10,
      p_continues: true,
      p_group_wait_seconds: 0,
      p_matchers: mails,
    });
    await saveRoute(query, {
      p_name: "second",
      p_channels: ["second"],
      p_position: 20,
      p_group_wait_seconds: 0,
      p_matchers: [{ name: "queue", op: "=~", value: "m.*" }],
    });
    const messages = newMessages(query);
    await setFiring(query, rule, [MAILS, JOBS]);
    await advance(query);
    expect(
      (await messages()).map(({ channel, firing }) => [channel, ...firing]).toSorted(),
    ).toEqual([["first", "mails"], ["ops", "jobs"], ["second", "mails"]]);
  });
});

describe("an alert of two routes to one channel", () => {
  it("is told, repeated and over once, however they group it", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_continues: true, p_group_interval_seconds: 60 });
    await saveRoute(query, {
      ...{ p_name: "each", p_group_by: ["queue"], p_group_wait_seconds: 0 },
      ...{ p_group_interval_seconds: 60, p_repeat_interval_seconds: 600 },
    });
    await setFiring(query, rule, [MAILS]);
    for (let n = 0; n < 15; n += 1) await advance(query, NOON + n * MINUTE);
    await setFiring(query, rule, [], NOON + 15 * MINUTE);
    for (let n = 15; n < 18; n += 1) await advance(query, NOON + n * MINUTE);
    expect(
      (await readMessages(query)).map((
        { because, firing, resolved },
      ) => [because, firing, resolved]),
    )
      .toEqual([
        ["new", ["mails"], []],
        ["repeated", ["mails"], []],
        ["resolved", [], ["mails"]],
      ]);
  });
});

describe("the state of an alert", () => {
  it("is pending as long as its rule says so, and over without having fired", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query);
    await setFiring(query, rule, [{ ...MAILS, state: "pending" }]);
    await advance(query);
    expect(await readAlerts(query)).toMatchObject([{ state: "pending", occurrence_count: 0 }]);
    await setFiring(query, rule, [], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    expect(await readAlerts(query)).toMatchObject([
      { state: "resolved", resolved_because: "it never held for long enough to fire" },
    ]);
    expect(await readMessages(query)).toEqual([]);
  });

  it.for([
    { after: 9 * MINUTE + 59 * SECOND, rows: 1, occurrences: 2 },
    { after: 10 * MINUTE, rows: 2, occurrences: 1 },
  ])(
    "goes on in its row $after ms after it was over: $rows",
    async ({ after, rows, occurrences }, { query }) => {
      const rule = await setUpRule(query);
      await setUpRoute(query, { p_group_interval_seconds: 1 });
      await setFiring(query, rule, [MAILS]);
      await advance(query);
      await setFiring(query, rule, [], NOON + MINUTE);
      await advance(query, NOON + MINUTE);
      const back = NOON + MINUTE + after;
      await setFiring(query, rule, [MAILS], back);
      await advance(query, back);
      const alerts = await readAlerts(query);
      expect(alerts).toHaveLength(rows);
      expect(alerts.at(-1)).toMatchObject({ state: "firing", occurrence_count: occurrences });
      // Told as over, and told as new again.
      expect((await readMessages(query)).map(({ firing, resolved }) => [firing, resolved])).toEqual(
        [
          [["mails"], []],
          [[], ["mails"]],
          [["mails"], []],
        ],
      );
    },
  );

  it("of one that fires three times within an hour is over after 10 quiet minutes only", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 1 });
    const messages = newMessages(query);
    let at = NOON;
    const step = async (isFiring: boolean) => {
      await setFiring(query, rule, isFiring ? [MAILS] : [], at);
      await advance(query, at);
      at += MINUTE;
    };
    for (const isFiring of [true, false, true, false, true]) await step(isFiring);
    expect(await messages()).toHaveLength(5);
    expect((await readMessages(query)).at(-1)!.notes).toEqual([
      "It flaps: three firings within an hour. It counts as resolved after 10 quiet minutes.",
    ]);

    await step(false);
    for (let n = 0; n < 3; n += 1) { // comes and goes, and nobody is told
      await step(true);
      await step(false);
    }
    expect(await messages()).toEqual([]);
    const ceased = at - MINUTE;
    await advance(query, ceased + 10 * MINUTE - SECOND);
    expect(await readAlerts(query)).toMatchObject([{ state: "firing", occurrence_count: 6 }]);
    await advance(query, ceased + 10 * MINUTE);
    expect(await messages()).toMatchObject([{ resolved: ["mails"] }]);
    expect(await readAlerts(query)).toMatchObject([{ state: "resolved" }]);
  });

  it("is kept without data, and can be closed by hand then and only then", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query);
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    const [alert] = await readAlerts(query);
    const close = (at: number) =>
      rpc(query, "close_alert", {
        p_alert_id: alert!.alert_id,
        p_reason: "host is gone",
        p_now: iso(at),
      });
    await expect(close(NOON)).rejects.toMatchObject({
      code: "22023",
      hint: expect.stringContaining("it would be back"),
    });

    await setFiring(query, rule, [{ ...MAILS, no_data: true }], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    expect(await readAlerts(query)).toMatchObject([{ state: "firing" }]);
    await close(NOON + MINUTE);
    await advance(query, NOON + 6 * MINUTE);
    expect(await readAlerts(query)).toMatchObject([
      { state: "resolved", resolved_because: "service_role closed it: host is gone" },
    ]);
    expect((await readMessages(query)).at(-1)).toMatchObject({ resolved: ["mails"] });
  });

  it.for([
    {
      what: "deleted",
      change: "delete from monitor.alert_rules where rule_id = $1",
      because: "its rule was deleted or has other labels now",
    },
    {
      what: "switched off",
      change: "update monitor.alert_rules set enabled = false where rule_id = $1",
      because: "its rule was switched off",
    },
    {
      what: "given other labels",
      change: `update monitor.alert_rules set labels = '{"team": "other"}' where rule_id = $1`,
      because: "what it says no longer holds",
    },
  ])(
    "is over, and told so, when its rule is $what while it fires",
    async ({ change, because }, { query }) => {
      const rule = await setUpRule(query);
      await setUpRoute(query);
      await setFiring(query, rule, [MAILS]);
      await advance(query);
      await query(change, [rule]);
      await advance(query, NOON + 5 * MINUTE);
      expect((await readMessages(query)).at(-1)).toMatchObject({ resolved: ["mails"], firing: [] });
      expect(await readAlerts(query)).toMatchObject([{
        state: "resolved",
        resolved_because: because,
      }]);
    },
  );

  it("stays when its rule gets another threshold while it fires", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query);
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    await query("update monitor.alert_rules set expr = 'queue_depth > 2000' where rule_id = $1", [
      rule,
    ]);
    await advance(query, NOON + MINUTE);
    expect(await readAlerts(query)).toMatchObject([{ state: "firing", occurrence_count: 1 }]);
    expect(await readMessages(query)).toHaveLength(1);
  });

  it("stays as it is while what its rule remembers cannot be read, and so do all others", async ({ query }) => {
    const rule = await setUpRule(query);
    const other = await addRule(query, { name: "Other" });
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await setFiring(query, rule, [MAILS]);
    await setFiring(query, other, [JOBS]);
    await advance(query);
    await query(
      `update monitor.rule_states set instances = '[{"labels": 5, "state": "firing"}]' where rule_id = $1`,
      [rule],
    );
    await setFiring(query, other, [], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    expect((await readAlerts(query)).map(({ queue, state }) => [queue, state]).toSorted()).toEqual([
      ["jobs", "resolved"],
      ["mails", "firing"],
    ]);
  });

  it("is recorded of a rule in shadow mode, and told to nobody", async ({ query }) => {
    const rule = await setUpRule(query, { mode: "shadow" });
    await setUpRoute(query);
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    const [alert] = await readAlerts(query);
    expect(await readDecisions(query, alert!.alert_id)).toMatchObject([{ decision: "shadow" }]);
    expect(await readMessages(query)).toEqual([]);
    expect(await rpc(query, "read_scorecards", { p_since: iso(NOON), p_now: iso(NOON) })).toEqual([
      expect.objectContaining({
        name: "QueueDeep",
        mode: "shadow",
        fired: 1,
        messages: 0,
        open: 1,
      }),
    ]);
  });

  it("does not change twice by two evaluators at once, nor by one that dies", async ({ ownDatabase }) => {
    const [first, second] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const [one, two] = [queryOf(first), queryOf(second)];
    const rule = await setUpRule(one);
    await setUpRoute(one);
    await setFiring(one, rule, [MAILS]);

    await one("begin");
    await advance(one);
    const waiting = advance(two);
    await waitUntilBlocking(one);
    await one("rollback"); // it died before its end
    expect(await waiting).toMatchObject({ opened: 1, told: 1 });

    const [again, once] = await Promise.all([
      advance(one, NOON + MINUTE),
      advance(two, NOON + MINUTE),
    ]);
    expect([again, once]).toEqual([
      expect.objectContaining({ opened: 0, told: 0 }),
      expect.objectContaining({ opened: 0, told: 0 }),
    ]);
    expect(await readMessages(one)).toHaveLength(1);
    expect(
      (await one("select evaluation_count::int as n from monitor.alerting_state")).rows,
    ).toEqual([{ n: 2 }]);
  });

  it("outlives a clock that jumps ahead by a day and back", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    const ahead = NOON + 25 * HOUR;
    await setFiring(query, rule, [{ ...MAILS, since: NOON }, { ...JOBS, since: ahead }], ahead);
    await advance(query, ahead);
    expect((await readMessages(query)).at(-1)).toMatchObject({ firing: ["jobs", "mails"] });

    await setFiring(query, rule, [{ ...JOBS, since: NOON + 2 * MINUTE }], NOON + 2 * MINUTE);
    await advance(query, NOON + 2 * MINUTE);
    expect((await readAlerts(query)).map(({ queue, state }) => [queue, state]).toSorted()).toEqual([
      ["jobs", "firing"],
      ["mails", "resolved"],
    ]);
    await advance(query, NOON + 3 * MINUTE);
    expect((await readMessages(query)).at(-1)).toMatchObject({ resolved: ["mails"] });
  });
});

describe("an acknowledgement that runs out", () => {
  const acknowledge = (query: Query, at: number) =>
    query(
      "select monitor.acknowledge_alert(alert_id, 'x', 2, $1) from monitor.system_alerts where name = 'QueueDeep'",
      [iso(at)],
    );

  it("is told once, though the last message was written by a clock that was a day ahead", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    await advance(query, NOON + DAY);
    await advance(query, NOON + MINUTE);
    const messages = newMessages(query);
    await messages();
    await acknowledge(query, NOON + MINUTE);
    for (let n = 2; n < 15; n += 1) await advance(query, NOON + n * MINUTE);
    expect(await messages()).toMatchObject([{ firing: ["mails"] }]);
  });

  it("is told once, though a clock that was a day ahead says so while it is silenced", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    await acknowledge(query, NOON);
    await rpc(query, "silence_alerts", {
      p_matchers: [{ name: "queue", op: "=", value: "mails" }],
      p_ends_at: iso(NOON + 2 * DAY),
      p_reason: "deploy",
      p_now: iso(NOON),
    });
    await advance(query, NOON + DAY);
    await query("select monitor.end_silence(silence_id, $1) from monitor.silences", [
      iso(NOON + MINUTE),
    ]);
    const messages = newMessages(query);
    await messages();
    for (let n = 2; n < 15; n += 1) await advance(query, NOON + n * MINUTE);
    expect(await messages()).toMatchObject([{ firing: ["mails"] }]);
  });
});

describe("alerts from other sources", () => {
  it("come of components of health that are not healthy for two minutes, and stay while nothing is known", async ({ query }) => {
    await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    const storage = (status: string) => [{ component: "storage", status, reason: "450 MB of 400" }];
    await advance(query, NOON, storage("degraded"));
    await advance(query, NOON + MINUTE, storage("degraded"));
    expect(await readAlerts(query)).toMatchObject([{
      name: "ComponentUnhealthy",
      state: "pending",
    }]);
    await advance(query, NOON + 2 * MINUTE, storage("unhealthy"));
    expect(await readMessages(query)).toMatchObject([{ firing: ["ComponentUnhealthy"] }]);

    await advance(query, NOON + 3 * MINUTE, null);
    expect(await readAlerts(query)).toMatchObject([{ state: "firing" }]);
    await advance(query, NOON + 4 * MINUTE, storage("healthy"));
    expect(await readAlerts(query)).toMatchObject([{ state: "resolved" }]);
  });

  it("come of jobs that are overdue, once they have had the time to run after a pause", async ({ query, asOwner }) => {
    await setUpRule(query);
    await setUpRoute(query);
    await asOwner(
      "update monitor.job_schedules set created_at = $1, last_succeeded_at = $1, stale_after_seconds = 180",
      [iso(NOON)],
    );
    const missing = async () =>
      (await readAlerts(query)).filter(({ name }) => name === "JobMissing").map(({ state }) =>
        state
      );
    await advance(query, NOON + 180 * SECOND);
    expect(await missing()).toEqual([]);
    await advance(query, NOON + 181 * SECOND);
    expect(new Set(await missing())).toEqual(new Set(["pending"]));
    await advance(query, NOON + 300 * SECOND);
    expect(new Set(await missing())).toEqual(new Set(["pending"]));
    await advance(query, NOON + 301 * SECOND);
    expect(new Set(await missing())).toEqual(new Set(["firing"]));
    await asOwner("update monitor.job_schedules set last_succeeded_at = $1", [
      iso(NOON + 302 * SECOND),
    ]);
    await advance(query, NOON + 303 * SECOND);
    expect(new Set(await missing())).toEqual(new Set(["resolved"]));
  });

  it("come of anomalies from a severity on, and go with a person's word; their silence does not end them", async ({ query, asOwner }) => {
    await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await openDays(query);
    const metric = await addMetric(query);
    const series = await addSeries(query, metric, [[NOON, 1]]);
    const id = await addAnomaly(asOwner, series, { severity: "warning", started_at: iso(NOON) });
    await advance(query);
    expect(await readAlerts(query)).toEqual([]);
    await asOwner("update monitor.settings set anomaly_alert_severity = 'warning'");
    await advance(query, NOON + MINUTE);
    expect(await readAlerts(query)).toMatchObject([{ name: "AnomalyDetected", state: "firing" }]);

    await asOwner(
      "update monitor.anomaly_detections set ended_at = $2, ended_reason = 'no_data' where anomaly_id = $1",
      [id, iso(NOON + MINUTE)],
    );
    await advance(query, NOON + 2 * MINUTE);
    expect(await readAlerts(query)).toMatchObject([{ state: "firing" }]);
    await query("select monitor.review_anomaly($1, 'resolved')", [id]);
    await advance(query, NOON + 3 * MINUTE);
    expect(await readAlerts(query)).toMatchObject([
      {
        state: "resolved",
        resolved_because: "the anomaly was reviewed as resolved by service_role",
      },
    ]);
  });

  it.for([
    { gap: 10 * MINUTE, told: 0 },
    { gap: 10 * MINUTE + SECOND, told: 1 },
  ])("come of a gap of $gap ms in evaluating, once: $told", async ({ gap, told }, { query }) => {
    await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    const back = NOON + gap;
    for (const at of [NOON, back, ...range(11).map((n) => back + n * MINUTE)]) {
      await advance(query, at);
    }
    const { rows } = await query(
      `select name, state, annotations ->> 'summary' as summary from monitor.system_alerts`,
    );
    expect(rows).toEqual(
      told === 0 ? [] : [{
        name: "EvaluationGap",
        state: "resolved",
        summary: "Nothing was evaluated for 00:10:01",
      }],
    );
    const { rows: messages } = await query(
      "select payload ->> 'because' as because from monitor.notifications order by notification_id",
    );
    expect(messages).toEqual(told === 0 ? [] : [{ because: "new" }, { because: "resolved" }]);
  });

  it("do not count the time of a gap as seen to hold", async ({ query }) => {
    await setUpRule(query);
    await setUpRoute(query);
    const storage = [{ component: "storage", status: "degraded", reason: "full" }];
    await advance(query, NOON, storage);
    await advance(query, NOON + 4 * MINUTE, storage);
    expect(await readAlerts(query)).toMatchObject([{ state: "pending" }]);
    await advance(query, NOON + 6 * MINUTE, storage);
    expect(await readAlerts(query)).toMatchObject([{ state: "firing" }]);
  });

  it("come of channels that fail, and go by another one", async ({ query }) => {
    await setUpRule(query);
    await setUpRoute(query);
    await rpc(query, "save_channel", {
      p_channel: "other",
      p_kind: "email",
      p_config: { to: ["b@example.com"] },
    });
    await query(
      "update monitor.notification_channels set failing_since = $1, last_error = 'HTTP 500' where channel = 'ops'",
      [iso(NOON)],
    );
    await advance(query);
    expect(await readMessages(query)).toMatchObject([{
      channel: "other",
      firing: ["ChannelFailing"],
    }]);
    await query("update monitor.notification_channels set failing_since = null, last_error = null");
    await advance(query, NOON + 5 * MINUTE);
    expect((await readMessages(query)).slice(1)).toMatchObject([{
      channel: "other",
      resolved: ["ChannelFailing"],
    }]);
  });

  it("say of a channel whose recipients are malformed that it fails, though it was never used", async ({ query }) => {
    await setUpRule(query);
    await setUpRoute(query);
    await query(
      `insert into monitor.notification_channels (channel, kind, config) values ('nobody', 'email', '{"to": [""]}')`,
    );
    await advance(query);
    expect(await readMessages(query)).toMatchObject([{
      channel: "ops",
      firing: ["ChannelFailing"],
    }]);
  });

  it("have a canary once a day, from its hour on in the time zone of settings, by its own channel", async ({ query, asOwner }) => {
    await setUpRule(query);
    const canary = await addRule(query, { name: "PgvigilCanary", severity: "info" });
    await setUpRoute(query);
    await rpc(query, "save_channel", {
      p_channel: "other",
      p_kind: "email",
      p_config: { to: ["b@example.com"] },
    });
    await asOwner(
      "update monitor.settings set canary_channel = 'other', canary_hour = 14, time_zone = 'Europe/Berlin'",
    );
    /** A minute: what is collected, what the rule makes of it, what that makes of alerts. */
    const tick = async (at: number) => {
      const samples = await rpc<{ metric: string; value: number }[]>(
        query,
        "collect_incidents_and_alerts",
        { p_at: iso(at) },
      );
      const isDue = samples.find(({ metric }) => metric === "pgvigil_canary_due")!.value === 1;
      await setFiring(query, canary, isDue ? [{}] : [], at);
      await advance(query, at);
    };
    const at = Date.UTC(2026, 2, 10, 13); // 14:00 in Berlin
    await tick(at - MINUTE);
    expect(await readMessages(query)).toEqual([]);
    for (let n = 0; n < 5; n += 1) await tick(at + n * MINUTE);
    expect(await readMessages(query)).toMatchObject([
      { channel: "other", firing: ["PgvigilCanary"], resolved: [] },
    ]);
    await tick(at + DAY - MINUTE);
    expect(await readMessages(query)).toHaveLength(1);
    await tick(at + DAY);
    expect(await readMessages(query)).toHaveLength(2);
  });
});

describe("monitor.acknowledge_alert()", () => {
  const acknowledge = (query: Query, id: number, at: number, minutes = 60) =>
    rpc(query, "acknowledge_alert", {
      p_alert_id: id,
      p_reason: "looking",
      p_minutes: minutes,
      p_now: iso(at),
    });

  it("keeps an alert from being repeated until it runs out, and has it told again then, with the reason", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_repeat_interval_seconds: 600, p_group_interval_seconds: 60 });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    const [alert] = await readAlerts(query);
    await acknowledge(query, alert!.alert_id, NOON + MINUTE);
    const messages = newMessages(query);
    await messages();
    for (let n = 2; n < 61; n += 1) await advance(query, NOON + n * MINUTE);
    expect(await messages()).toEqual([]);
    expect(await readDecisions(query, alert!.alert_id)).toMatchObject([
      { decision: "sent" },
      { decision: "acknowledged", detail: "by service_role until 2026-03-10 13:01: looking" },
    ]);
    await advance(query, NOON + 61 * MINUTE);
    expect(await messages()).toMatchObject([
      { firing: ["mails"], notes: ["It had been acknowledged; that ran out at 13:01."] },
    ]);
  });

  it("still tells that the alert is over", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query);
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    const [alert] = await readAlerts(query);
    await acknowledge(query, alert!.alert_id, NOON);
    await setFiring(query, rule, [], NOON + 5 * MINUTE);
    await advance(query, NOON + 5 * MINUTE);
    expect((await readMessages(query)).at(-1)).toMatchObject({ resolved: ["mails"] });
  });

  it.for([
    { args: { p_reason: " " }, code: "22023" },
    { args: { p_minutes: 0 }, code: "22023" },
    { args: { p_minutes: 10081 }, code: "22023" },
    ...["NaN", "Infinity", "1e300"].map((p_minutes) => ({ args: { p_minutes }, code: "22023" })),
    { args: { p_alert_id: 9_000_000 }, code: "P0002" },
  ])("refuses $args", async ({ args, code }, { query }) => {
    const rule = await setUpRule(query);
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    const [alert] = await readAlerts(query);
    await expect(
      rpc(query, "acknowledge_alert", { p_alert_id: alert!.alert_id, p_reason: "x", ...args }),
    )
      .rejects.toMatchObject({ code });
  });

  it("tells PagerDuty once all of a group are acknowledged", async ({ query, asOwner }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query);
    await rpc(asOwner, "save_channel", {
      p_channel: "pager",
      p_kind: "pagerduty",
      p_secret: "a".repeat(32),
    });
    await saveRoute(query, { p_name: "all", p_channels: ["pager"], p_group_wait_seconds: 0 });
    await setFiring(query, rule, [MAILS, JOBS]);
    await advance(query);
    const [first, second] = await readAlerts(query);
    await acknowledge(query, first!.alert_id, NOON);
    expect(await readMessages(query)).toHaveLength(1);
    await acknowledge(query, second!.alert_id, NOON);
    expect((await readMessages(query)).slice(1)).toMatchObject([
      { channel: "pager", because: "acknowledged", firing: ["jobs", "mails"] },
    ]);
  });
});

describe("a route that changes while alerts fire", () => {
  it("tells the end where the start was told, and nothing twice", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await rpc(query, "save_channel", {
      p_channel: "other",
      p_kind: "email",
      p_config: { to: ["b@example.com"] },
    });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    await saveRoute(query, {
      p_name: "first",
      p_channels: ["other"],
      p_position: 1,
      p_group_wait_seconds: 0,
    });
    await advance(query, NOON + MINUTE);
    await setFiring(query, rule, [], NOON + 3 * MINUTE);
    await advance(query, NOON + 3 * MINUTE);
    await advance(query, NOON + 10 * MINUTE);
    expect(
      (await readMessages(query)).map((
        { channel, firing, resolved },
      ) => [channel, firing, resolved]),
    ).toEqual([
      ["ops", ["mails"], []],
      ["other", ["mails"], []],
      ["ops", [], ["mails"]],
      ["other", [], ["mails"]],
    ]);
    expect((await query("select from monitor.alert_groups")).rows).toEqual([]);
  });

  it("that is deleted leaves its alerts without one, and says so", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    await rpc(query, "delete_route", { p_name: "all" });
    await setFiring(query, rule, [MAILS, JOBS], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    const jobs = (await readAlerts(query)).find(({ queue }) => queue === "jobs")!;
    expect(await readDecisions(query, jobs.alert_id)).toMatchObject([
      { decision: "no_route", detail: "there is no route: make one with monitor.save_route" },
    ]);
    await setFiring(query, rule, [], NOON + 2 * MINUTE);
    await advance(query, NOON + 2 * MINUTE);
    await advance(query, NOON + 10 * MINUTE);
    expect((await readMessages(query)).slice(1)).toMatchObject([{
      channel: "ops",
      resolved: ["mails"],
    }]);
  });
});

describe("what PagerDuty keeps open", () => {
  /** A route to PagerDuty alone, whose groups are told anew every minute. */
  async function setUpPager(query: Query, asOwner: Query, p_group_by = ["alertname"]) {
    await rpc(asOwner, "save_channel", {
      p_channel: "pager",
      p_kind: "pagerduty",
      p_secret: "a".repeat(32),
    });
    await saveRoute(query, {
      ...{ p_name: "all", p_channels: ["pager"], p_group_by },
      ...{ p_group_wait_seconds: 0, p_group_interval_seconds: 60, p_repeat_interval_seconds: 180 },
    });
  }

  /** What each group was told, by its key: t for trigger, r for resolve. */
  const readSignals = async (query: Query) => {
    const { rows } = await query<{ key: string; signals: string }>(
      `select payload ->> 'group_key' as key,
         string_agg(case payload ->> 'firing_count' when '0' then 'r' else 't' end, '' order by notification_id) as signals
       from monitor.notifications where channel = 'pager' group by 1 order by 1`,
    );
    return rows.map(({ key, signals }) => `${key.split("/")[0]} ${signals}`);
  };

  it("is told in each group that an alert comes into, and its end in all of them", async ({ query, asOwner }) => {
    const rule = await setUpRule(query);
    await setUpPager(query, asOwner);
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    await saveRoute(query, {
      ...{ p_name: "first", p_channels: ["pager"], p_position: 1 },
      ...{ p_group_wait_seconds: 0, p_group_interval_seconds: 60 },
    });
    await advance(query, NOON + MINUTE);
    expect(await readSignals(query)).toEqual(["all t", "first t"]);
    await setFiring(query, rule, [], NOON + 3 * MINUTE);
    await advance(query, NOON + 3 * MINUTE);
    await advance(query, NOON + 5 * MINUTE);
    expect(await readSignals(query)).toEqual(["all tr", "first tr"]);
  });

  it("stays open while one of its alerts fires that is silenced, and ends with that one", async ({ query, asOwner }) => {
    const rule = await setUpRule(query);
    await setUpPager(query, asOwner);
    await setFiring(query, rule, [MAILS, JOBS]);
    await advance(query);
    await rpc(query, "silence_alerts", {
      p_matchers: [{ name: "queue", op: "=", value: "mails" }],
      p_ends_at: iso(NOON + HOUR),
      p_reason: "deploy",
      p_now: iso(NOON),
    });
    await setFiring(query, rule, [MAILS], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    expect(await readMessages(query)).toMatchObject([
      { firing: ["jobs", "mails"], resolved: [] },
      { firing: ["mails"], resolved: ["jobs"] },
    ]);
    // The silence keeps all else back: nothing is told of it by itself.
    await advance(query, NOON + 5 * MINUTE);
    expect(await readSignals(query)).toEqual(["all tt"]);
    await setFiring(query, rule, [], NOON + 6 * MINUTE);
    await advance(query, NOON + 6 * MINUTE);
    expect(await readSignals(query)).toEqual(["all ttr"]);
  });

  it("is that of the route of the same name that comes after one that was deleted", async ({ query, asOwner }) => {
    const rule = await setUpRule(query);
    await setUpPager(query, asOwner);
    await setFiring(query, rule, [MAILS, JOBS]);
    await advance(query);
    await rpc(query, "delete_route", { p_name: "all" });
    await setUpPager(query, asOwner);
    await advance(query, NOON + MINUTE);
    await setFiring(query, rule, [JOBS], NOON + 2 * MINUTE);
    await advance(query, NOON + 2 * MINUTE);
    await advance(query, NOON + 3 * MINUTE);
    expect(await readSignals(query)).toEqual(["all tt"]);
    await setFiring(query, rule, [], NOON + 4 * MINUTE);
    await advance(query, NOON + 4 * MINUTE);
    expect(await readSignals(query)).toEqual(["all ttr"]);
  });

  it("of a channel that fails is closed, though by then others are told of it, and opened once", async ({ query, asOwner }) => {
    await setUpRule(query);
    await setUpRoute(query);
    await setUpPager(query, asOwner);
    const setFailing = (channels: string[]) =>
      query(
        "update monitor.notification_channels set failing_since = case when channel = any ($2) then $1::timestamptz end",
        [iso(NOON), channels],
      );
    await setFailing(["ops"]);
    await advance(query);
    await setUpPager(query, asOwner); // which routes anew what is open
    await advance(query, NOON + MINUTE);
    await rpc(query, "save_channel", {
      ...{ p_channel: "other", p_kind: "email", p_config: { to: ["b@example.com"] } },
    });
    await setFailing(["ops", "pager"]);
    await advance(query, NOON + 2 * MINUTE);
    await setFailing([]);
    for (const n of [7, 12]) await advance(query, NOON + n * MINUTE);
    expect((await readSignals(query))[0]).toBe("ChannelFailing tr");
  });

  it.for([
    {
      what: "a channel that is switched off meanwhile",
      change: (query: Query) => query("update monitor.notification_channels set enabled = false"),
    },
    {
      what: "a route that has other channels since",
      change: (query: Query) =>
        saveRoute(query, { p_name: "all", p_channels: ["ops"], p_group_interval_seconds: 60 }),
    },
    {
      what: "a route that another is before since",
      change: (query: Query) =>
        saveRoute(query, { p_name: "first", p_channels: ["ops"], p_position: 1 }),
    },
  ])(
    "stays open while one of its alerts fires, in spite of $what",
    async ({ change }, { query, asOwner }) => {
      const rule = await setUpRule(query);
      await setUpRoute(query);
      await setUpPager(query, asOwner);
      await setFiring(query, rule, [MAILS, JOBS]);
      await advance(query);
      await change(query);
      await setFiring(query, rule, [JOBS], NOON + MINUTE);
      for (let n = 1; n < 9; n += 1) await advance(query, NOON + n * MINUTE);
      expect(await readSignals(query)).toEqual(["all tt"]);
      await setFiring(query, rule, [], NOON + 9 * MINUTE);
      for (let n = 9; n < 16; n += 1) await advance(query, NOON + n * MINUTE);
      expect(await readSignals(query)).toEqual(["all ttr"]);
    },
  );

  it("is not begun for what was silenced from its beginning", async ({ query, asOwner }) => {
    const rule = await setUpRule(query);
    await setUpPager(query, asOwner);
    await rpc(query, "silence_alerts", {
      p_matchers: [{ name: "queue", op: "=", value: "mails" }],
      p_ends_at: iso(NOON + HOUR),
      p_reason: "deploy",
      p_now: iso(NOON - MINUTE),
    });
    await setFiring(query, rule, [MAILS, JOBS]);
    await advance(query);
    await setFiring(query, rule, [MAILS], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    expect(await readMessages(query)).toMatchObject([
      { firing: ["jobs"], resolved: [] },
      { firing: [], resolved: ["jobs"] },
    ]);
  });
});

describe("the commands that messages print", () => {
  it("run as they are, of an alert and of an incident", async ({ query, asOwner }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query);
    await setFiring(query, rule, [{ labels: { queue: "o'neil's", value: "7" } }]);
    await advance(query);
    await query(
      "select monitor.open_incident('Payments fail', 'P1', p_channels => '{ops}', p_now => $1)",
      [
        iso(NOON),
      ],
    );
    const { rows } = await query<{ payload: unknown }>(
      "select payload from monitor.notifications order by notification_id",
    );
    const commands = rows.flatMap(({ payload }) =>
      createOutliner({
        ...{ payload: NotificationPayload.parse(payload), channel: "ops", timeZone: "UTC" },
        ...{ externalUrl: null, at: new Date(NOON), mayBeRepeated: false, isTest: false },
        idempotencyKey: "one",
      })({ itemCount: 50, textLength: 4000, pairCount: 40, nameLength: 500 }).commands
    );
    expect(commands).toHaveLength(4);
    for (const { sql } of commands) await asOwner(sql);
    const { rows: [silence] } = await query("select matchers from monitor.silences");
    expect(silence!.matchers).toContainEqual({ name: "queue", op: "=", value: "o'neil's" });
    expect(
      (await query("select from monitor.system_alerts where acknowledged_at is not null")).rows,
    )
      .toHaveLength(1);
  });
});

describe("an alert that gets worse", () => {
  it("is told again at once, one that gets better is not", async ({ query }) => {
    const rule = await setUpRule(query, { severity: "warning" });
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    const messages = newMessages(query);
    const severities = ["warning", "critical", "critical", "info", "warning"] as const;
    const told: number[] = [];
    for (const [n, severity] of severities.entries()) {
      const at = NOON + n * 5 * MINUTE;
      await query("update monitor.alert_rules set severity = $2 where rule_id = $1", [
        ...[rule, severity],
      ]);
      await setFiring(query, rule, [{ ...MAILS, since: NOON }], at);
      await advance(query, at);
      told.push((await messages()).length);
    }
    expect(told).toEqual([1, 1, 0, 0, 0]);
  });
});

describe("an acknowledgement that has run out", () => {
  it("leaves an alert to be told again, and it counts as told once it is", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 300 });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    const [alert] = await readAlerts(query);
    await rpc(query, "acknowledge_alert", {
      ...{ p_alert_id: alert!.alert_id, p_reason: "on it", p_minutes: 1, p_now: iso(NOON) },
    });
    const decisions = async () =>
      (await readDecisions(query, alert!.alert_id)).map(({ decision }) => decision);
    for (let n = 1; n < 5; n += 1) await advance(query, NOON + n * MINUTE);
    expect(await decisions()).toEqual(["sent", "acknowledged", "throttled"]);
    await advance(query, NOON + 5 * MINUTE);
    expect(await readMessages(query)).toHaveLength(2);
    expect(await decisions()).toEqual(["sent", "acknowledged", "throttled", "sent"]);
  });
});

describe("an acknowledged alert that gets worse", () => {
  it("is told all the same, and says who looks after it", async ({ query }) => {
    const rule = await setUpRule(query, { severity: "warning" });
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    await rpc(query, "acknowledge_alert", {
      ...{
        p_alert_id: (await readAlerts(query))[0]!.alert_id,
        p_reason: "on it",
        p_now: iso(NOON),
      },
    });
    await advance(query, NOON + MINUTE);
    expect(await readMessages(query)).toHaveLength(1);
    await query("update monitor.alert_rules set severity = 'critical' where rule_id = $1", [rule]);
    await advance(query, NOON + 2 * MINUTE);
    await advance(query, NOON + 4 * MINUTE);
    expect((await readMessages(query)).slice(1)).toMatchObject([
      { firing: ["mails"], notes: [expect.stringMatching(/^Acknowledged by service_role until/)] },
    ]);
  });
});

describe("a group of hundreds", () => {
  it("has a row for each telling of what a message lists, not of all that go on", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60, p_repeat_interval_seconds: 3600 });
    const firing = range(120).map((n) => ({ labels: { queue: `q${n}` }, since: NOON }));
    const links = async () =>
      (await query<{ count: number }>(
        `select count(*)::integer as count from monitor.notification_alerts
         join monitor.system_alerts using (alert_id) where name = 'QueueDeep'`,
      )).rows[0]!.count;
    await setFiring(query, rule, firing);
    await advance(query);
    expect(await links()).toBe(120);
    const more = { labels: { queue: "q200" }, since: NOON + MINUTE };
    await setFiring(query, rule, [...firing, more], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    expect(await links()).toBe(120 + 51);
    const decisions = async () =>
      (await query(
        "select from monitor.notification_decisions join monitor.system_alerts using (alert_id) where name = 'QueueDeep'",
      )).rows.length;
    const before = await decisions();
    // Repeated an hour after the last message, not after the first of each alert.
    await advance(query, NOON + HOUR);
    expect(await readMessages(query)).toHaveLength(2);
    await advance(query, NOON + MINUTE + HOUR);
    expect((await readMessages(query)).slice(2)).toMatchObject([{ because: "repeated" }]);
    expect(await links()).toBe(120 + 51 + 50);
    expect(await decisions()).toBe(before);
    await setFiring(query, rule, [], NOON + 2 * HOUR);
    await advance(query, NOON + 2 * HOUR);
    expect(await links()).toBe(120 + 51 + 50 + 121);
  });
});

describe("many groups at once", () => {
  it("of which there are thousands are 20 mails in all, and a few of the rest", async ({ query }) => {
    const rules = [await setUpRule(query)];
    for (const name of ["QueueOld", "QueueStuck"]) rules.push(await addRule(query, { name }));
    await setUpRoute(query, { p_group_by: ["alertname", "queue"] });
    for (const rule of rules) {
      await setFiring(query, rule, range(670).map((n) => ({ labels: { queue: `q${n}` } })));
    }
    await advance(query);
    const { rows } = await query(
      `select count(*) filter (where group_id is not null)::integer as single, count(*) filter (where group_id is null)::integer as rest,
         sum((payload ->> 'firing_count')::integer)::integer as alerts
       from monitor.notifications`,
    );
    expect(rows).toEqual([{ single: 20, rest: 2, alerts: 2010 }]);
  });

  it("become 20 mails and one of the rest, and each alert is told once", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_by: ["queue"] });
    await setFiring(query, rule, range(60).map((n) => ({ labels: { queue: `q${n}` } })));
    await advance(query);
    const messages = await readMessages(query);
    expect(messages).toHaveLength(21);
    expect(messages.flatMap(({ firing }) => firing).toSorted()).toEqual(
      range(60).map((n) => `q${n}`).toSorted(),
    );
    await advance(query, NOON + 5 * MINUTE);
    expect(await readMessages(query)).toHaveLength(21);
    await setFiring(query, rule, [], NOON + 10 * MINUTE);
    await advance(query, NOON + 10 * MINUTE);
    expect((await readMessages(query)).slice(21).flatMap(({ resolved }) => resolved)).toHaveLength(
      60,
    );
  });
});

describe("what is long over", () => {
  it("is not gone through every minute", async ({ query, asOwner }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await query(
      `with over as (
         insert into monitor.system_alerts (fingerprint, name, source, severity, labels, fired_at, last_seen_at, resolved_at)
         select md5(n::text), 'Old', 'rule', 'warning', jsonb_build_object('text', repeat('x', 500)), at, at, at
         from (select n, $1::timestamptz - n * interval '1 hour' as at from generate_series(2, 5000) as n) as past
         returning alert_id, fired_at
       ), told as (
         insert into monitor.notifications (channel, group_id, payload, state, created_at, next_attempt_at, sent_at)
         select 'ops', alert_id, jsonb_build_object('type', 'alerts', 'text', repeat('x', 500)), 'sent', fired_at, fired_at, fired_at
         from over
         returning notification_id, group_id, created_at
       ), linked as (
         insert into monitor.notification_alerts (notification_id, alert_id, channel, status, severity, told_at)
         select notification_id, group_id, 'ops', 'resolved', 'warning', created_at from told
       )
       insert into monitor.notification_decisions (alert_id, decision, detail, held_since, held_until, first_evaluation, evaluations)
       select alert_id, 'sent', 'to ops', fired_at, fired_at, 1, 1 from over`,
      [iso(NOON)],
    );
    for (const table of ["system_alerts", "notifications", "notification_alerts"]) {
      await asOwner(`analyze monitor.${table}`);
    }
    const readRows = async () => {
      const { rows } = await asOwner<{ relname: string; n: number }>(
        `select relname, (seq_tup_read + coalesce(idx_tup_fetch, 0))::int as n from pg_stat_xact_user_tables
         where schemaname = 'monitor' and relname in ('system_alerts', 'notifications') order by 1`,
      );
      return rows.map(({ n }) => n);
    };
    const before = await readRows();
    const evaluations = [[MAILS], [MAILS], [MAILS, JOBS], []];
    for (const [n, firing] of evaluations.entries()) {
      await setFiring(query, rule, firing, NOON + n * MINUTE);
      await advance(query, NOON + n * MINUTE);
      await rpc(query, "collect_incidents_and_alerts", { p_at: iso(NOON + n * MINUTE) });
    }
    const after = await readRows();
    expect(Math.max(...after.map((n, index) => n - before[index]!))).toBeLessThan(4000);
    expect((await readMessages(query)).filter(({ state }) => state === "pending")).toHaveLength(3);
  });
});

describe("monitor.explain_alert()", () => {
  it("tells the story in order", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query);
    await setFiring(query, rule, [{ ...MAILS, state: "pending" }]);
    await advance(query);
    await setFiring(query, rule, [MAILS], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    await setFiring(query, rule, [], NOON + 2 * MINUTE);
    await advance(query, NOON + 2 * MINUTE);
    const [alert] = await readAlerts(query);
    const { rows } = await query<{ event: string; detail: string }>(
      "select event, detail from monitor.explain_alert($1)",
      [alert!.alert_id],
    );
    expect(rows.map(({ event }) => event)).toEqual([
      "opened",
      "pending",
      "sent",
      "message firing",
      "resolved",
    ]);
    expect(rows[2]!.detail).toBe("to ops (for 00:01:00, 1 evaluations)");
  });
});

describe("what must not keep all others from being told", () => {
  it("is a channel that says neither true nor false of its ends", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query);
    await expect(rpc(query, "save_channel", {
      p_channel: "ops",
      p_kind: "email",
      p_config: { to: ["ops@example.com"], send_resolved: "never" },
    })).rejects.toMatchObject({ code: "22023" });
    await query(
      `update monitor.notification_channels set config = config || '{"send_resolved": "never"}'`,
    );
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    await setFiring(query, rule, [], NOON + 5 * MINUTE);
    await advance(query, NOON + 5 * MINUTE);
    expect((await readMessages(query)).at(-1)).toMatchObject({ resolved: ["mails"] });
  });

  it("is a rule with texts as long as they may be", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query);
    const annotations = { summary: "short", description: "\u{1F4A5}".repeat(20_000) };
    await setFiring(
      query,
      rule,
      range(60).map((n) => ({ labels: { queue: `q${n}`, long: "é".repeat(4000) }, annotations })),
    );
    await advance(query);
    const { rows } = await query<{ size: number; told: string; summary: string }>(
      `select octet_length(payload::text) as size, payload ->> 'firing_count' as told,
         payload -> 'alerts' -> 0 -> 'annotations' ->> 'summary' as summary
       from monitor.notifications`,
    );
    expect(rows).toEqual([{ size: expect.any(Number), told: "60", summary: "short" }]);
    expect(rows[0]!.size).toBeLessThan(1_000_000);
  });

  it.for([
    "2026-02-29T10:00:00Z",
    "2026-01-31Tx",
    "2026-05-30T99:00:00Z",
    "yesterday evening",
  ])("is a rule that remembers the time %s", async (time, { query }) => {
    const rule = await setUpRule(query);
    const other = await addRule(query, { name: "Other" });
    await setUpRoute(query);
    await setFiring(query, rule, [MAILS]);
    await query(
      `update monitor.rule_states set instances = jsonb_set(instances, '{0,active_at}', to_jsonb($2::text)) where rule_id = $1`,
      [rule, time],
    );
    await setFiring(query, other, [JOBS]);
    await advance(query);
    expect(await readMessages(query)).toMatchObject([{ firing: ["jobs"] }]);
  });

  it("is an inhibition that a thousand alerts are on both sides of", async ({ query }) => {
    const rule = await setUpRule(query, { labels: { severity: "warning" } });
    const cause = await addRule(query, { name: "Down", labels: { severity: "critical" } });
    await setUpRoute(query);
    await rpc(query, "save_inhibition", {
      p_name: "hosts",
      p_source_matchers: [{ name: "severity", op: "=~", value: "crit.*" }],
      p_target_matchers: [{ name: "severity", op: "=", value: "warning" }],
    });
    await query(
      "update monitor.inhibition_rules set equal_labels = '{host}' where name = 'hosts'",
    );
    const hosts = range(1000).map((n) => ({ labels: { host: `h${n}`, queue: `q${n}` } }));
    await setFiring(query, rule, hosts);
    await setFiring(query, cause, hosts.slice(0, 999));
    await advance(query); // within the 8 s that a statement has
    const { rows } = await query(
      `select count(*)::int as n, min(labels ->> 'host') as host from monitor.system_alerts
       join monitor.notification_alerts using (alert_id) where name = 'QueueDeep'`,
    );
    expect(rows).toEqual([{ n: 1, host: "h999" }]);
  });

  it("is an evaluation that is to run every 5 minutes only", async ({ query, asOwner }) => {
    await setUpRule(query);
    await setUpRoute(query);
    await rpc(asOwner, "set_schedule", { p_job: "evaluate-alerts", p_schedule: "*/5 * * * *" });
    const storage = [{ component: "storage", status: "unhealthy", reason: "full" }];
    await advance(query, NOON, storage);
    await advance(query, NOON + 5 * MINUTE, storage);
    expect(await readMessages(query)).toMatchObject([{ firing: ["ComponentUnhealthy"] }]);
    const { rows } = await query("select from monitor.system_alerts where name = 'EvaluationGap'");
    expect(rows).toEqual([]);
  });
});

describe("an alert that comes back", () => {
  it("as pending leaves the end of before to be told, with its times", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query);
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    await setFiring(query, rule, [], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    await setFiring(query, rule, [{ ...MAILS, state: "pending" }], NOON + 2 * MINUTE);
    await advance(query, NOON + 2 * MINUTE);
    await setFiring(query, rule, [], NOON + 3 * MINUTE);
    await advance(query, NOON + 3 * MINUTE);
    await advance(query, NOON + 5 * MINUTE);
    const { rows } = await query(
      `select payload -> 'alerts' -> 0 ->> 'fired_at' as fired_at from monitor.notifications order by notification_id`,
    );
    expect(rows).toEqual([
      { fired_at: "2026-03-10T12:00:00+00:00" },
      { fired_at: "2026-03-10T12:00:00+00:00" },
    ]);
  });

  it("is not acknowledged any more", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    const [alert] = await readAlerts(query);
    await rpc(query, "acknowledge_alert", {
      ...{ p_alert_id: alert!.alert_id, p_reason: "on it", p_minutes: 10080, p_now: iso(NOON) },
    });
    await setFiring(query, rule, [], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    await setFiring(query, rule, [MAILS], NOON + 7 * MINUTE);
    await advance(query, NOON + 7 * MINUTE);
    expect((await readMessages(query)).at(-1)).toMatchObject({ firing: ["mails"] });
  });
});

describe("a channel that comes and goes", () => {
  it("has the end of what it told in its outbox when it is switched on again", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    await query("update monitor.notification_channels set enabled = false");
    await setFiring(query, rule, [], NOON + MINUTE);
    await advance(query, NOON + MINUTE);
    expect((await readMessages(query)).at(-1)).toMatchObject({ resolved: ["mails"] });
  });

  it("knows nothing of what was discarded when it was deleted", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60 });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    await query("delete from monitor.notification_channels");
    await rpc(query, "save_channel", {
      ...{ p_channel: "ops", p_kind: "email", p_config: { to: ["b@example.com"] } },
    });
    await advance(query, NOON + 5 * MINUTE);
    expect((await readMessages(query)).map(({ state, firing }) => [state, ...firing])).toEqual([
      ["discarded", "mails"],
      ["pending", "mails"],
    ]);
  });

  it("is told by the other one as soon as that works again", async ({ query }) => {
    await setUpRule(query);
    await setUpRoute(query);
    await rpc(query, "save_channel", {
      ...{ p_channel: "other", p_kind: "email", p_config: { to: ["b@example.com"] } },
    });
    await query("update monitor.notification_channels set failing_since = $1", [iso(NOON)]);
    await advance(query);
    expect(await readMessages(query)).toEqual([]);
    await query(
      "update monitor.notification_channels set failing_since = null where channel = 'other'",
    );
    await advance(query, NOON + MINUTE);
    expect(await readMessages(query)).toMatchObject([
      { channel: "other", firing: ["ChannelFailing"] },
    ]);
  });
});

describe("matchers", () => {
  it("of one label with two values match nothing: all have to hold", async ({ query }) => {
    const rule = await setUpRule(query);
    await setUpRoute(query);
    await rpc(query, "silence_alerts", {
      p_matchers: [
        { name: "queue", op: "=", value: "jobs" },
        { name: "queue", op: "=", value: "mails" },
      ],
      ...{ p_ends_at: iso(NOON + HOUR), p_reason: "x", p_now: iso(NOON) },
    });
    await setFiring(query, rule, [MAILS]);
    await advance(query);
    expect(await readMessages(query)).toMatchObject([{ firing: ["mails"] }]);
  });

  it("on the severity hold for what the monitor says of itself, too", async ({ query }) => {
    await setUpRule(query);
    await setUpRoute(query, {
      p_matchers: [{ name: "severity", op: "=", value: "critical" }],
    });
    const storage = [{ component: "storage", status: "unhealthy", reason: "full" }];
    for (const minute of range(3)) await advance(query, NOON + minute * MINUTE, storage);
    expect(await readMessages(query)).toMatchObject([{ firing: ["ComponentUnhealthy"] }]);
  });
});
