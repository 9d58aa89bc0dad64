import { describe, expect } from "vitest";
import {
  advance,
  readAlerts,
  readDecisions,
  readMessages,
  setFiring,
  setUpRoute,
  setUpRule,
} from "./alerting.ts";
import { it, type Query, rpc } from "./database.ts";
import { addAdmin, addUser, DAY, HOUR, iso, MINUTE, NOON, SECOND } from "./seeds.ts";

const QUEUES = [{ name: "alertname", op: "=", value: "QueueDeep" }];
const silence = (query: Query, more: Readonly<Record<string, unknown>> = {}) => {
  const { p_weekdays, ...args } = {
    p_matchers: QUEUES,
    p_ends_at: iso(NOON + HOUR),
    p_reason: "deploy",
    p_now: iso(NOON),
    ...more,
  } as Record<string, unknown>;
  const names = Object.keys(args).map((key, index) => `${key} => $${index + 2}`);
  const values = Object.values(args).map((value) =>
    typeof value === "object" && value !== null ? JSON.stringify(value) : value
  );
  return query<{ id: number }>(
    `select monitor.silence_alerts(${["p_weekdays => $1", ...names]})::int as id`,
    [p_weekdays ?? null, ...values],
  );
};

/** Whether an alert is silenced at these times, which go forward. */
async function silencedAt(query: Query, times: readonly number[]): Promise<boolean[]> {
  const rule = await setUpRule(query);
  const found: boolean[] = [];
  for (const at of times) {
    await setFiring(query, rule, [{}], at);
    await advance(query, at);
    const alerts = await readAlerts(query);
    const decisions = await readDecisions(query, alerts.at(-1)!.alert_id);
    found.push(decisions.at(-1)!.decision === "silenced");
  }
  return found;
}

describe("monitor.silence_alerts()", () => {
  it.for([
    { at: NOON - SECOND, holds: false },
    { at: NOON, holds: true },
    { at: NOON + HOUR - SECOND, holds: true },
    { at: NOON + HOUR, holds: false },
  ])("holds from its start to before its end: $at", async ({ at, holds }, { query }) => {
    await silence(query);
    expect(await silencedAt(query, [at])).toEqual([holds]);
  });

  it("ends early when it is ended", async ({ query }) => {
    const { rows } = await silence(query);
    await rpc(query, "end_silence", {
      p_silence_id: rows[0]!.id,
      p_now: iso(NOON + 10 * MINUTE),
    });
    expect(await silencedAt(query, [NOON + 10 * MINUTE - SECOND, NOON + 10 * MINUTE]))
      .toEqual([true, false]);
  });

  it.for([
    { op: "=", value: "QueueDeep", holds: true },
    { op: "=", value: "Queue", holds: false },
    { op: "!=", value: "QueueDeep", holds: false },
    { op: "=~", value: "Queue.*", holds: true },
    { op: "=~", value: "Queue", holds: false },
    { op: "!~", value: "Disk.*", holds: true },
    { name: "missing", op: "=", value: "", holds: true },
    { name: "missing", op: "=~", value: ".+", holds: false },
  ])(
    "takes the matcher $name $op $value as Alertmanager does",
    async ({ name = "alertname", op, value, holds }, { query }) => {
      await silence(query, { p_matchers: [{ name, op, value }] });
      expect(await silencedAt(query, [NOON])).toEqual([holds]);
    },
  );

  it.for([
    { what: "no matcher", more: { p_matchers: [] } },
    { what: "a matcher that is none", more: { p_matchers: [{ name: "a" }] } },
    { what: "a label that is none", more: { p_matchers: [{ name: "a b", op: "=", value: "" }] } },
    { what: "no end", more: { p_ends_at: null } },
    { what: "an end that is over", more: { p_ends_at: iso(NOON) } },
    { what: "more than a year", more: { p_ends_at: iso(NOON + 366 * DAY) } },
    { what: "no reason", more: { p_reason: "  " } },
    { what: "half a recurrence", more: { p_from_time: "02:00" } },
    {
      what: "a weekday that is none",
      more: { p_weekdays: [8], p_from_time: "02:00", p_until_time: "03:00" },
    },
  ])("refuses $what", async ({ more }, { query }) => {
    await expect(silence(query, more)).rejects.toMatchObject({
      code: "22023",
      hint: expect.any(String),
    });
  });

  it("refuses a pattern that is none", async ({ query }) => {
    await expect(silence(query, { p_matchers: [{ name: "a", op: "=~", value: "(" }] }))
      .rejects.toMatchObject({ code: "2201B" });
  });

  it("is for admins, and written down", async ({ asOwner, asUser }) => {
    const admin = asUser(await addAdmin(asOwner));
    await silence(admin);
    await expect(silence(asUser(await addUser(asOwner)))).rejects.toMatchObject({ code: "42501" });
    const { rows } = await asOwner(
      "select action, object, after ->> 'reason' as reason from monitor.audit_log where object = 'silences'",
    );
    expect(rows).toEqual([{ action: "insert", object: "silences", reason: "deploy" }]);
  });
});

describe("a silence that recurs", () => {
  /** Saturdays and Sundays, 01:30 to 03:30 by the clock on the wall in Berlin. */
  const weekends = (query: Query, more: Readonly<Record<string, unknown>> = {}) =>
    silence(query, {
      p_weekdays: [6, 7],
      p_from_time: "01:30",
      p_until_time: "03:30",
      p_starts_at: iso(NOON - 30 * DAY),
      p_ends_at: iso(NOON + 300 * DAY),
      p_reason: "backup",
      ...more,
    });
  const inBerlin = (asOwner: Query) =>
    asOwner("update monitor.settings set time_zone = 'Europe/Berlin'");

  it("holds on its days, in its hours, by the clock on the wall", async ({ query, asOwner }) => {
    await inBerlin(asOwner);
    await weekends(query);
    const saturday = Date.UTC(2026, 2, 14); // 01:00 in Berlin
    expect(
      await silencedAt(query, [
        saturday + 30 * MINUTE - SECOND,
        saturday + 30 * MINUTE,
        saturday + 150 * MINUTE - SECOND,
        saturday + 150 * MINUTE,
        saturday + 2 * DAY + HOUR, // Monday
      ]),
    ).toEqual([false, true, true, false, false]);
  });

  it("is an hour shorter when the clock is put forward inside of it", async ({ query, asOwner }) => {
    await inBerlin(asOwner);
    await weekends(query);
    // 29 March 2026: 02:00 is 03:00. From 01:30 to 03:30 is one hour.
    const start = Date.UTC(2026, 2, 29, 0, 30);
    expect(await silencedAt(query, [start - SECOND, start, start + HOUR - SECOND, start + HOUR]))
      .toEqual([false, true, true, false]);
  });

  it("is an hour longer when the clock is put back inside of it", async ({ query, asOwner }) => {
    await inBerlin(asOwner);
    await weekends(query);
    // 25 October 2026: 03:00 is 02:00. From 01:30 to 03:30 is three hours.
    const start = Date.UTC(2026, 9, 24, 23, 30);
    expect(
      await silencedAt(query, [
        start - SECOND,
        start,
        start + 90 * MINUTE, // 02:00, the second time
        start + 3 * HOUR - SECOND,
        start + 3 * HOUR,
      ]),
    ).toEqual([false, true, true, true, false]);
  });

  it("goes on past midnight, and belongs to the day on which it began", async ({ query, asOwner }) => {
    await inBerlin(asOwner);
    await weekends(query, { p_weekdays: [7], p_from_time: "23:00", p_until_time: "02:00" });
    const sunday = Date.UTC(2026, 2, 15, 22); // 23:00 in Berlin
    expect(
      await silencedAt(query, [
        sunday - DAY + HOUR, // Sunday 00:00: that would be Saturday's
        sunday - SECOND,
        sunday,
        sunday + 3 * HOUR - SECOND,
        sunday + 3 * HOUR,
      ]),
    ).toEqual([false, false, true, true, false]);
  });

  it("says in the decision until when it holds for now", async ({ query, asOwner }) => {
    await inBerlin(asOwner);
    await weekends(query, { p_weekdays: [7], p_from_time: "23:00", p_until_time: "02:00" });
    const rule = await setUpRule(query);
    const at = Date.UTC(2026, 2, 15, 22, 30);
    await setFiring(query, rule, [{}], at);
    await advance(query, at);
    const [alert] = await readAlerts(query);
    expect(await readDecisions(query, alert!.alert_id)).toMatchObject([
      { decision: "silenced", detail: expect.stringContaining("until 2026-03-16 02:00: backup") },
    ]);
  });

  it("lets what fires on after it be told, once for each time it comes and goes unless it was told before", async ({ query, asOwner }) => {
    await inBerlin(asOwner);
    await weekends(query);
    const rule = await setUpRule(query);
    await setUpRoute(query, { p_group_interval_seconds: 60, p_repeat_interval_seconds: 2_592_000 });
    const start = Date.UTC(2026, 2, 14, 0, 30);
    await setFiring(query, rule, [{}], start);
    await advance(query, start);
    expect(await readMessages(query)).toEqual([]);
    await advance(query, start + 2 * HOUR);
    expect(await readMessages(query)).toMatchObject([
      {
        firing: ["QueueDeep"],
        notes: [
          expect.stringContaining("It was silenced by service_role until 2026-03-14 03:30: backup"),
        ],
      },
    ]);
    await advance(query, start + DAY);
    await advance(query, start + DAY + 2 * HOUR);
    expect(await readMessages(query)).toHaveLength(1);
  });
});

describe("a maintenance window", () => {
  it("keeps its alerts from being told, also those of rules", async ({ query }) => {
    await query(
      "select monitor.plan_maintenance($1, $2, 'move', $3)",
      [iso(NOON), iso(NOON + HOUR), JSON.stringify([{ name: "queue", op: "=", value: "mails" }])],
    );
    const rule = await setUpRule(query);
    await setUpRoute(query);
    await setFiring(query, rule, [{ labels: { queue: "mails" } }, { labels: { queue: "jobs" } }]);
    await advance(query);
    expect(await readMessages(query)).toMatchObject([{ firing: ["jobs"] }]);
    const mails = (await readAlerts(query)).find(({ queue }) => queue === "mails")!;
    expect(await readDecisions(query, mails.alert_id)).toMatchObject([
      { decision: "silenced", detail: expect.stringMatching(/: move \(maintenance \d+\)$/) },
    ]);
  });
});
