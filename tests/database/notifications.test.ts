import fc from "fast-check";
import { describe, expect } from "vitest";
import {
  CHANNEL_KINDS,
  type LeasedNotification,
  LeasedNotifications,
} from "../../shared/contract/notifications.ts";
import { sendNotification } from "../../supabase/functions/deliver-notifications/send-notification.ts";
import { it, type Query, queryOf, waitUntilBlocking } from "./database.ts";
import { addChannel, call } from "./incidents.ts";
import {
  addMessages,
  ALERTS,
  COUNTS,
  enqueue,
  HEARTBEAT,
  idsOf,
  lease,
  nextAt,
  type Outcome,
  read,
  readChannel,
  record,
  recordAll,
  REFUSED,
  resultOf,
  RETRY,
  type Row,
  SENT,
  setChannel,
  setMessage,
  setSettings,
  stamp,
} from "./notifications.ts";
import { addAdmin, addUser, DAY, HOUR, iso, MINUTE, NOON, range, SECOND } from "./seeds.ts";

describe("monitor.enqueue_notification()", () => {
  it("writes a message that is due at once", async ({ query }) => {
    await addChannel(query, "ops");
    const id = await enqueue(query, "ops", { p_group_id: 7, p_is_test: true });
    const { rows: [row] } = await query(
      "select * from monitor.notifications where notification_id = $1",
      [id],
    );
    expect(row).toEqual({
      ...{
        notification_id: String(id),
        channel: "ops",
        group_id: "7",
        group_hash: expect.any(String),
        incident_id: null,
      },
      ...{ payload: HEARTBEAT, payload_type: "heartbeat", is_test: true, state: "pending" },
      timeline_state: null,
      ...{ created_at: new Date(NOON), next_attempt_at: new Date(NOON), attempt_count: 0 },
      ...{ lease_token: null, lease_until: null, may_be_repeated: false },
      ...{ idempotency_key: expect.stringMatching(/^[0-9a-f-]{36}$/), provider_id: null },
      ...{ last_error: null, sent_at: null, delivered_at: null },
    });
  });

  it("writes nothing to a channel that is not there", async ({ query }) => {
    expect(await enqueue(query, "nobody")).toBeNull();
    const { rows } = await query("select from monitor.notifications");
    expect(rows).toHaveLength(0);
  });

  it.for(
    [
      [{ text: "x".repeat(8_000_000 - '{"text": ""}'.length) }, true],
      [{ text: "x".repeat(8_000_001 - '{"text": ""}'.length) }, false],
      [{}, true],
      [[], false],
      ["text", false],
      [null, false],
    ] as const,
  )("takes an object of up to 8,000,000 bytes (case %#)", async ([payload, isTaken], { query }) => {
    await addChannel(query, "ops");
    const answer = enqueue(query, "ops", { payload });
    if (isTaken) expect(await answer).toEqual(expect.any(Number));
    else {await expect(answer).rejects.toMatchObject({
        code: "23514",
        constraint: "notifications_payload_bounded",
      });}
  });
});

describe("monitor.lease_notifications()", () => {
  it("gives a message out once, with all that is needed to send it", async ({ query }) => {
    await setSettings(query, "time_zone", "Europe/Berlin");
    await setSettings(query, "external_url", "https://vigil.example.com");
    await call(query, "save_channel", {
      ...{ p_channel: "chat", p_kind: "slack", p_secret: "https://hooks.slack.com/services/x" },
      p_config: { send_resolved: false },
    });
    const id = await enqueue(query, "chat", { at: NOON - MINUTE, p_is_test: true });
    const { notifications: [leased], ...surroundings } = LeasedNotifications.parse(
      await call(query, "lease_notifications", { p_now: iso(NOON) }),
    );
    expect(surroundings).toEqual({
      ...{ now: stamp(NOON), time_zone: "Europe/Berlin" },
      external_url: "https://vigil.example.com",
    });
    expect(leased).toEqual({
      ...{ notification_id: id, lease_token: expect.any(String), channel: "chat", kind: "slack" },
      ...{ config: { send_resolved: false }, secret: "https://hooks.slack.com/services/x" },
      ...{ payload: HEARTBEAT, created_at: stamp(NOON - MINUTE), attempt: 1 },
      ...{ send_at: stamp(NOON), lease_until: stamp(NOON + MINUTE) },
      ...{ idempotency_key: (await read(query, id!)).idempotency_key },
      ...{ may_be_repeated: false, is_test: true },
    });
    expect(await lease(query)).toEqual([]);
    expect(await lease(query, NOON + MINUTE - 1)).toEqual([]);
  });

  it("gives out what is oldest, at most p_limit", async ({ query }) => {
    const ids = await addMessages(query, "hook", "webhook", 5, NOON - MINUTE);
    await setMessage(query, ids[4]!, "next_attempt_at", iso(NOON - HOUR));
    expect(idsOf(await lease(query, NOON, { p_limit: 2 }))).toEqual([ids[0], ids[4]]);
    expect(idsOf(await lease(query, NOON, { p_limit: 2 }))).toEqual([ids[1], ids[2]]);
    expect(idsOf(await lease(query, NOON, { p_limit: 2 }))).toEqual([ids[3]]);
  });

  it("gives out 20 unless told otherwise", async ({ query }) => {
    await addMessages(query, "hook", "webhook", 21, NOON - MINUTE);
    expect(await lease(query)).toHaveLength(20);
    expect(await lease(query)).toHaveLength(1);
  });

  it.for(
    [
      ["p_limit", 0, false],
      ["p_limit", 1, true],
      ["p_limit", 200, true],
      ["p_limit", 201, false],
      ["p_limit", null, false],
      ["p_lease_seconds", 0.999, false],
      ["p_lease_seconds", 1, true],
      ["p_lease_seconds", 600, true],
      ["p_lease_seconds", 600.001, false],
      ["p_lease_seconds", "NaN", false],
      ["p_lease_seconds", null, false],
    ] as const,
  )("takes %s of %s: %s", async ([name, value, isTaken], { query }) => {
    const answer = lease(query, NOON, { [name]: value });
    if (isTaken) expect(await answer).toEqual([]);
    else {await expect(answer).rejects.toMatchObject({
        code: "22023",
        hint: expect.stringContaining("lease"),
      });}
  });

  it("gives out what channels of the kinds have that were asked for", async ({ query }) => {
    const ids = new Map<string, number>();
    for (const kind of CHANNEL_KINDS) {
      ids.set(kind, (await addMessages(query, `of-${kind}`, kind))[0]!);
    }
    expect(await lease(query, NOON, { p_kinds: [] })).toEqual([]);
    expect(await lease(query, NOON, { p_kinds: null })).toEqual([]);
    expect(idsOf(await lease(query, NOON, { p_kinds: ["slack"] }))).toEqual([ids.get("slack")]);
    expect(idsOf(await lease(query, NOON, { p_kinds: ["webhook", "email"] })).toSorted())
      .toEqual([ids.get("webhook"), ids.get("email")].toSorted());
    expect(await lease(query)).toHaveLength(2);
  });

  it("gives a message out again when its lease has ended, and says that it may be repeated", async ({ query }) => {
    const [id] = await addMessages(query, "hook", "webhook");
    const [first] = await lease(query, NOON, { p_lease_seconds: 30 });
    expect(await lease(query, NOON + 30 * SECOND - 1)).toEqual([]);
    const [again] = await lease(query, NOON + 30 * SECOND);
    expect(again).toMatchObject({ notification_id: id, attempt: 2, may_be_repeated: true });
    expect(again!.lease_token).not.toBe(first!.lease_token);
    expect(again!.idempotency_key).toBe(first!.idempotency_key);
  });

  it("gives out what is to be tried again when it is time, and says whether it may have arrived", async ({ query }) => {
    await addMessages(query, "hook", "webhook");
    for (
      const [attempt, may_have_arrived, may_be_repeated] of [
        [1, false, false],
        [2, false, false],
        [3, true, false],
        [4, false, true],
        [5, false, true],
      ] as const
    ) {
      const at = NOON + (attempt - 1) * MINUTE;
      if (attempt > 1) expect(await lease(query, at - 1)).toEqual([]);
      const [leased] = await lease(query, at);
      expect(leased).toMatchObject({ attempt, may_be_repeated });
      await record(query, leased!, { ...RETRY, may_have_arrived }, at);
    }
  });

  it.for(
    [
      ["next_attempt_at", DAY, false],
      ["next_attempt_at", DAY + 1, true],
      ["next_attempt_at", 1, false],
      ["next_attempt_at", 0, true],
      ["lease_until", 20 * MINUTE, false],
      ["lease_until", 20 * MINUTE + 1, true],
      ["lease_until", 1, false],
      ["lease_until", 0, true],
    ] as const,
  )(
    "takes %s of %i ms ahead for one of a clock that stood right (it waits) or wrong: %s",
    async ([column, ahead, isGivenOut], { query }) => {
      const [id] = await addMessages(query, "hook", "webhook");
      if (column === "lease_until") await lease(query);
      await setMessage(query, id!, column, iso(NOON + ahead));
      expect(idsOf(await lease(query))).toEqual(isGivenOut ? [id] : []);
    },
  );

  it("gives a message to one of two who ask at once, in any kind of channel", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const [query, otherQuery] = [queryOf(one), queryOf(other)];
    for (const kind of CHANNEL_KINDS) await addMessages(query, `of-${kind}`, kind);
    await one.query("begin");
    expect(await lease(query)).toHaveLength(5);
    const waiting = lease(otherQuery);
    await waitUntilBlocking(query);
    await one.query("commit");
    expect(await waiting).toEqual([]);
  });

  it("does not wait for messages that others are recording, and gives them out if they still are to be sent", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const [query, otherQuery] = [queryOf(one), queryOf(other)];
    const ids = await addMessages(query, "hook", "webhook", 2);
    const [, second] = await lease(query, NOON + SECOND);
    await one.query("begin");
    await record(query, second!, RETRY);
    const later = NOON + 2 * MINUTE; // both leases have ended
    expect(idsOf(await lease(otherQuery, later))).toEqual([ids[0]]);
    await one.query("commit");
    expect(idsOf(await lease(otherQuery, later))).toEqual([ids[1]]);
  });

  it.for([[SENT, "sent"], [REFUSED, "parked"], [RETRY, "pending"]] as const)(
    "does not give out what was recorded between its looking and its taking: %j",
    async ([outcome, state], { ownDatabase }) => {
      const owner = queryOf(await ownDatabase.connectAsOwner());
      const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
      const [query, otherQuery] = [queryOf(one), queryOf(other)];
      const [id] = await addMessages(query, "hook", "webhook");
      const [leased] = await lease(query);

      // Between the two it stops, if somebody has this lock.
      const { rows: [known] } = await owner<{ text: string }>(
        `select pg_get_functiondef(oid) as text from pg_proc
         where proname = 'lease_notifications' and pronamespace = 'monitor'::regnamespace`,
      );
      const stopping = known!.text.replace(
        "select * from ready\n",
        "select * from ready cross join (select pg_advisory_xact_lock(7) offset 0) as stop\n",
      );
      expect(stopping).not.toBe(known!.text);
      await owner(stopping);
      await query("select pg_advisory_lock(7)");
      const later = NOON + 2 * MINUTE;
      const waiting = lease(otherQuery, later);
      await waitUntilBlocking(query);
      await record(query, leased!, outcome, later);
      await query("select pg_advisory_unlock(7)");
      expect(await waiting).toEqual([]);
      expect((await read(query, id!)).state).toBe(state);
    },
  );

  it.for(["notifications_enabled", "jobs_enabled"])(
    "gives nothing out while %s is false, and everything after",
    async (column, { query }) => {
      const ids = await addMessages(query, "hook", "webhook", 3);
      await addMessages(query, "ops", "email");
      await setSettings(query, column, false);
      for (const at of [NOON, NOON + 40 * DAY]) expect(await lease(query, at)).toEqual([]);
      const { rows } = await query(
        "select distinct state, attempt_count from monitor.notifications",
      );
      expect(rows).toEqual([{ state: "pending", attempt_count: 0 }]);
      await setSettings(query, column, true);
      expect(idsOf(await lease(query, NOON + 40 * DAY))).toEqual(expect.arrayContaining(ids));
    },
  );

  it("records what was under way when sending was switched off", async ({ query }) => {
    const [id] = await addMessages(query, "hook", "webhook");
    const [leased] = await lease(query);
    await setSettings(query, "notifications_enabled", false);
    expect(await record(query, leased!, SENT)).toEqual({ ...COUNTS, sent: 1 });
    expect(await read(query, id!)).toMatchObject({ state: "sent" });
  });

  it("keeps what a channel has while that is switched off", async ({ query }) => {
    const ids = await addMessages(query, "hook", "webhook", 2);
    await setChannel(query, "hook", "enabled", false);
    const late = await enqueue(query, "hook", { at: NOON + SECOND });
    expect(await lease(query, NOON + DAY)).toEqual([]);
    expect(await nextAt(query, NOON + DAY)).toBeNull();
    await setChannel(query, "hook", "enabled", true);
    expect(idsOf(await lease(query, NOON + DAY))).toEqual([...ids, late]);
  });

  it("gives out one message for Slack at a time, of whichever channel", async ({ query }) => {
    const [first] = await addMessages(query, "chat", "slack", 1, NOON - 2);
    const [second] = await addMessages(query, "talk", "slack", 1, NOON - 1);
    expect(idsOf(await lease(query))).toEqual([first]);
    expect(idsOf(await lease(query))).toEqual([second]);
    expect(await lease(query)).toEqual([]);
  });

  it.for(
    [
      [2, [3, 3]],
      [3, [1, 1]],
      [4, [1, 1]],
    ] as const,
  )(
    "gives out one message at a time of a channel that has failed %i times, and all of the others",
    async ([failures, [hooks, pages]], { query }) => {
      const ids = await addMessages(query, "hook", "webhook", 3, NOON - MINUTE);
      await addMessages(query, "page", "pagerduty", 3, NOON - MINUTE);
      const others = await addMessages(query, "well", "webhook", 3, NOON - SECOND);
      await setChannel(query, "hook", "consecutive_failures", failures);
      await setChannel(query, "page", "consecutive_failures", failures);
      const leased = await lease(query);
      const countOf = (name: string) => leased.filter(({ channel }) => channel === name).length;
      expect([countOf("hook"), countOf("page"), countOf("well")]).toEqual([hooks, pages, 3]);
      expect(idsOf(leased)).toEqual(expect.arrayContaining([ids[0], ...others]));
    },
  );

  it.for(["email", "slack"])(
    "lets no channel of kind %s that fails keep one that works waiting",
    async (kind, { query }) => {
      const failing = await addMessages(query, "failing", kind, 3, NOON - HOUR);
      await setChannel(query, "failing", "consecutive_failures", 3);
      const works = await addMessages(query, "works", kind, 2, NOON - SECOND);
      const order: number[] = [];
      for (const n of range(5)) order.push(...idsOf(await lease(query, NOON + n * SECOND)));
      expect(order).toEqual([...works, ...failing]);
    },
  );

  it("lets one that fails not use up the limit", async ({ query }) => {
    await addMessages(query, "failing", "webhook", 1, NOON - HOUR);
    await setChannel(query, "failing", "consecutive_failures", 3);
    const [works] = await addMessages(query, "works", "webhook");
    expect(idsOf(await lease(query, NOON, { p_limit: 1 }))).toEqual([works]);
  });
});

describe("the times of mails", () => {
  const KINDS = { p_kinds: ["email"] };
  const secondsOf = (leased: readonly LeasedNotification[]) =>
    leased.map(({ send_at }) => (Date.parse(send_at) - NOON) / SECOND);

  it("are half a second apart, however often is asked", async ({ query }) => {
    await addMessages(query, "ops", "email", 4, NOON - MINUTE);
    const times: number[] = [];
    for (const at of [0, 0, 300, 2000]) {
      times.push(...secondsOf(await lease(query, NOON + at, KINDS)));
    }
    expect(times).toEqual([0, 0.5, 1, 2]);
  });

  it("leave the lease its time", async ({ query }) => {
    await addMessages(query, "ops", "email", 2, NOON - MINUTE);
    await lease(query, NOON, KINDS);
    const [leased] = await lease(query, NOON, { ...KINDS, p_lease_seconds: 30 });
    expect(leased).toMatchObject({
      send_at: stamp(NOON + 500),
      lease_until: stamp(NOON + 30_500),
    });
  });

  it.for([
    [10, 0.1],
    [100, 0.01],
    [0.25, 4],
  ])("keep to %d mails a second", async ([perSecond, pause], { query }) => {
    await setSettings(query, "mails_per_second", perSecond);
    await addMessages(query, "ops", "email", 2, NOON - MINUTE);
    await lease(query, NOON, KINDS);
    expect(secondsOf(await lease(query, NOON, KINDS))).toEqual([pause]);
  });

  it("are no error with a mail in an age of the world", async ({ query }) => {
    await setSettings(query, "mails_per_second", 1e-308);
    await addMessages(query, "ops", "email", 2, NOON - MINUTE);
    expect(await lease(query, NOON, KINDS)).toHaveLength(1);
    expect(await lease(query, NOON + MINUTE, KINDS)).toHaveLength(0);
    expect(await nextAt(query, NOON + MINUTE)).toBe(NOON + 1000 * SECOND - 5 * SECOND);
  });

  it("are not given out more than 5 s ahead, and until then nobody is called for them", async ({ query }) => {
    await setSettings(query, "mails_per_second", 0.1);
    await addMessages(query, "ops", "email", 2, NOON - MINUTE);
    await lease(query, NOON, KINDS);
    expect(await nextAt(query)).toBe(NOON + 5 * SECOND);
    expect(await lease(query, NOON + 5 * SECOND - 1, KINDS)).toEqual([]);
    expect(secondsOf(await lease(query, NOON + 5 * SECOND, KINDS))).toEqual([10]);
  });

  it.for(
    [
      [MINUTE, [60.5], 55],
      [MINUTE + 1, [0], 0],
      [30 * DAY, [0], 0],
    ] as const,
  )(
    "of %i ms ahead were written by a clock that stood right, or wrong",
    async ([ahead, [expected], asked], { query }) => {
      await addMessages(query, "ops", "email", 1, NOON - MINUTE);
      await query("update monitor.alerting_state set mail_slot_at = $1", [iso(NOON + ahead)]);
      expect(secondsOf(await lease(query, NOON, KINDS))).toEqual(expected === 0 ? [0] : []);
      const at = NOON + asked * SECOND + (expected === 0 ? 0 : 500);
      if (expected !== 0) expect(secondsOf(await lease(query, at, KINDS))).toEqual([expected]);
    },
  );

  it("are those of all who send, also when a lease is not used", async ({ ownDatabase }) => {
    const sessions = [await ownDatabase.connect(), await ownDatabase.connect()].map(queryOf);
    await addMessages(sessions[0]!, "ops", "email", 8, NOON - MINUTE);
    await addMessages(sessions[0]!, "dba", "email", 8, NOON - MINUTE);
    const leased = (await Promise.all(
      sessions.map(async (query, n) => {
        const own: LeasedNotification[] = [];
        for (const step of range(8)) {
          own.push(...await lease(query, NOON + step * 400 + n * 100, KINDS));
        }
        return own;
      }),
    )).flat();
    const times = leased.map(({ send_at }) => Date.parse(send_at)).toSorted((a, b) => a - b);
    expect(times.length).toBeGreaterThan(10);
    for (const [n, at] of times.entries()) {
      if (n > 0) expect(at - times[n - 1]!).toBeGreaterThanOrEqual(500);
    }
    expect(new Set(idsOf(leased)).size).toBe(leased.length);
  });

  it("do not move for messages of other kinds", async ({ query }) => {
    await addMessages(query, "chat", "slack");
    await addMessages(query, "hook", "webhook");
    expect(await lease(query)).toHaveLength(2);
    const { rows } = await query("select mail_slot_at from monitor.alerting_state");
    expect(rows).toEqual([{ mail_slot_at: null }]);
  });
});

describe("the order of what is told of one thing", () => {
  it.for(["p_group_id", "p_incident_id"])(
    "by %s: what comes later waits until the earlier one is sent",
    async (of, { query }) => {
      await addChannel(query, "page", "pagerduty");
      const [first, second, third] = [
        await enqueue(query, "page", { [of]: 7 }),
        await enqueue(query, "page", { [of]: 7, at: NOON + SECOND }),
        await enqueue(query, "page", { [of]: 7, at: NOON + 2 * SECOND }),
      ];
      const at = NOON + MINUTE;
      const [leased, ...others] = await lease(query, at);
      expect([leased!.notification_id, others]).toEqual([first, []]);
      expect(await lease(query, at)).toEqual([]); // it is under way
      await record(query, leased!, RETRY, at);
      expect(await lease(query, at + MINUTE - 1)).toEqual([]);
      expect(await nextAt(query, at)).toBe(at + MINUTE);
      const [again] = await lease(query, at + MINUTE);
      expect(again!.notification_id).toBe(first);
      await record(query, again!, SENT, at + MINUTE);
      const [next] = await lease(query, at + MINUTE);
      expect(next!.notification_id).toBe(second);
      // One that is given up keeps nobody waiting.
      await record(query, next!, REFUSED, at + MINUTE);
      expect(idsOf(await lease(query, at + MINUTE))).toEqual([third]);
    },
  );

  it("goes on from a group that is gone to the one that comes after it: PagerDuty knows them by one key", async ({ query }) => {
    await addChannel(query, "page", "pagerduty");
    const tell = (group: number, key: string) =>
      enqueue(query, "page", {
        ...{ p_group_id: group, payload: { ...ALERTS, group_key: key } },
      });
    const [end, start, other] = [
      await tell(1, "all/a"),
      await tell(2, "all/a"),
      await tell(3, "b"),
    ];
    const leased = await lease(query);
    expect(idsOf(leased)).toEqual([end, other]);
    await record(query, leased[0]!, RETRY);
    expect(await lease(query)).toEqual([]);
    const [again] = await lease(query, NOON + MINUTE);
    expect(again!.notification_id).toBe(end);
    await record(query, again!, SENT, NOON + MINUTE);
    expect(idsOf(await lease(query, NOON + MINUTE))).toContain(start);
  });

  it("does not make channels, groups and incidents wait for each other, nor what is of none", async ({ query }) => {
    await addChannel(query, "page", "pagerduty");
    await addChannel(query, "hook", "webhook");
    const ids = [
      await enqueue(query, "page", { p_group_id: 7 }),
      await enqueue(query, "hook", { p_group_id: 7 }),
      await enqueue(query, "page", { p_group_id: 8 }),
      await enqueue(query, "page", { p_incident_id: 7 }),
      await enqueue(query, "page", { p_incident_id: 8 }),
      await enqueue(query, "page"),
      await enqueue(query, "page"),
    ];
    expect(idsOf(await lease(query)).toSorted((a, b) => a - b)).toEqual(ids);
  });

  it("has what stands for many groups after all that was told of any, and before all that is", async ({ query }) => {
    await addChannel(query, "page", "pagerduty");
    await addChannel(query, "hook", "webhook");
    const tell = (group: number | null, channel = "page", p_is_test = false) =>
      enqueue(query, channel, {
        ...{ payload: ALERTS, p_is_test },
        ...(group !== null && { p_group_id: group }),
      });
    const [one, other] = [await tell(1), await tell(2)];
    const many = await tell(null);
    const later = [await tell(1), await tell(3)];
    const free = [
      ...[await tell(null, "page", true), await enqueue(query, "page", { p_incident_id: 7 })],
      await tell(1, "hook"),
    ];
    const leased = await lease(query);
    expect(idsOf(leased)).toEqual([one, other, ...free]);
    await record(query, leased[0]!, SENT);
    expect(await lease(query)).toEqual([]);
    expect(await nextAt(query)).toBe(NOON + MINUTE); // when the leases end
    await record(query, leased[1]!, REFUSED);
    const [digest, ...others] = await lease(query);
    expect([digest!.notification_id, others]).toEqual([many, []]);
    await record(query, digest!, SENT);
    expect(idsOf(await lease(query))).toEqual(later);
  });
});

describe("monitor.next_notification_at()", () => {
  it("is null where there is nothing to do, and whenever sending is switched off", async ({ query }) => {
    expect(await nextAt(query)).toBeNull();
    await addMessages(query, "hook", "webhook");
    expect(await nextAt(query)).toBe(NOON);
    for (const column of ["notifications_enabled", "jobs_enabled"]) {
      await setSettings(query, column, false);
      expect(await nextAt(query)).toBeNull();
      await setSettings(query, column, true);
    }
    expect(await nextAt(query)).toBe(NOON);
  });

  it("is when the first attempt is due or the first lease ends", async ({ query }) => {
    const [first, second] = await addMessages(query, "hook", "webhook", 2, NOON - HOUR);
    expect(await nextAt(query)).toBe(NOON - HOUR);
    await lease(query, NOON, { p_limit: 1 });
    expect(await nextAt(query)).toBe(NOON - HOUR + 1);
    await setMessage(query, second!, "next_attempt_at", iso(NOON + HOUR));
    expect(await nextAt(query)).toBe(NOON + MINUTE);
    await setMessage(query, first!, "next_attempt_at", iso(NOON + 2 * HOUR));
    expect(await nextAt(query)).toBe(NOON + HOUR);
  });

  it("counts neither what is done nor what is of a channel that is switched off or gone", async ({ query }) => {
    const [sent, parked] = await addMessages(query, "hook", "webhook", 2, NOON - HOUR);
    await addMessages(query, "off", "webhook");
    await setChannel(query, "off", "enabled", false);
    await query(
      "update monitor.notifications set state = 'sent', sent_at = created_at where notification_id = $1",
      [sent],
    );
    await setMessage(query, parked!, "state", "parked");
    expect(await nextAt(query)).toBeNull();
  });

  it("is when a group is looked at next, if that is earlier", async ({ query }) => {
    const addGroup = (at: number) =>
      query(
        `insert into monitor.alert_groups (group_key, labels, created_at, next_flush_at) values ($1, '{}', $2, $3)`,
        [`group ${at}`, iso(NOON), iso(at)],
      );
    await addGroup(NOON + 2 * HOUR);
    expect(await nextAt(query)).toBe(NOON + 2 * HOUR);
    await addMessages(query, "hook", "webhook", 1, NOON + HOUR);
    expect(await nextAt(query)).toBe(NOON + HOUR);
    await addGroup(NOON - MINUTE);
    expect(await nextAt(query)).toBe(NOON - MINUTE);
  });

  it("is past exactly when something is given out: nobody is called for nothing, and nothing waits for nobody", async ({ query }) => {
    const channels = fc.record({
      kind: fc.constantFrom(...CHANNEL_KINDS),
      enabled: fc.boolean(),
      failures: fc.constantFrom(0, 2, 3),
    });
    const moments = fc.oneof(
      { weight: 9, arbitrary: fc.integer({ min: -3, max: 3 }).map((n) => n * 2 * SECOND) },
      { weight: 1, arbitrary: fc.constantFrom(20 * MINUTE + 1, 25 * HOUR) }, // by a clock that stood wrong
    );
    const messages = fc.record({
      channel: fc.integer({ min: 0, max: 2 }),
      group: fc.constantFrom(null, 1, 2),
      payload: fc.constantFrom(HEARTBEAT, ALERTS),
      incident: fc.constantFrom(null, null, 1),
      next: moments,
      leased: fc.option(moments),
      state: fc.constantFrom("pending", "pending", "pending", "parked"),
    });
    const outboxes = fc.record({
      channels: fc.array(channels, { minLength: 3, maxLength: 3 }),
      messages: fc.array(messages, { maxLength: 6 }),
      slot: fc.option(moments),
      perSecond: fc.constantFrom(2, 0.1),
    });
    let counts = { due: 0, notDue: 0 };
    await fc.assert(
      fc.asyncProperty(outboxes, async (outbox) => {
        await query("delete from monitor.notifications");
        await query("delete from monitor.notification_channels");
        await query("update monitor.alerting_state set mail_slot_at = $1", [
          outbox.slot === null ? null : iso(NOON + outbox.slot),
        ]);
        await setSettings(query, "mails_per_second", outbox.perSecond);
        for (const [n, { kind, enabled, failures }] of outbox.channels.entries()) {
          await addChannel(query, `channel-${n}`, kind, enabled);
          await setChannel(query, `channel-${n}`, "consecutive_failures", failures);
        }
        for (const { channel, group, payload, incident, next, leased, state } of outbox.messages) {
          const id = await enqueue(query, `channel-${channel}`, {
            payload,
            ...(group !== null && { p_group_id: group }),
            ...(incident !== null && { p_incident_id: incident }),
          });
          const isLeased = leased !== null && state === "pending";
          await query(
            `update monitor.notifications set next_attempt_at = $2, state = $3, lease_until = $4,
               lease_token = case when $4::timestamptz is not null then gen_random_uuid() end
             where notification_id = $1`,
            [id, iso(NOON + next), state, isLeased ? iso(NOON + leased) : null],
          );
        }
        const next = await nextAt(query);
        const leased = await lease(query);
        expect(leased.length > 0).toBe(next !== null && next <= NOON);
        if (leased.length > 0) counts = { ...counts, due: counts.due + 1 };
        else counts = { ...counts, notDue: counts.notDue + 1 };
      }),
      { numRuns: 80 },
    );
    expect(Math.min(counts.due, counts.notDue)).toBeGreaterThan(5);
  });
});

describe("monitor.record_deliveries()", () => {
  it("stores what was sent, once", async ({ query }) => {
    const [id] = await addMessages(query, "ops", "email");
    const [leased] = await lease(query);
    const at = NOON + SECOND;
    const result = resultOf(leased!, { ...SENT, provider_id: "mail-1" });
    expect(await recordAll(query, [result], at)).toEqual({ ...COUNTS, sent: 1 });
    expect(await read(query, id!)).toMatchObject({
      ...{ state: "sent", sent_at: stamp(at), provider_id: "mail-1", lease_token: null },
      ...{ attempt_count: 1, last_error: null, delivered_at: null },
    });
    expect(await readChannel(query, "ops")).toMatchObject({
      ...{ last_sent_at: stamp(at), consecutive_failures: 0, failing_since: null },
    });
    expect(await recordAll(query, [result], at + SECOND)).toEqual({ ...COUNTS, stale: 1 });
    expect(await read(query, id!)).toMatchObject({ sent_at: stamp(at) });
    expect(await lease(query, NOON + DAY)).toEqual([]);
  });

  it("stores the outcome of each of several, and says how many of each", async ({ query }) => {
    const ids = await addMessages(query, "hook", "webhook", 4);
    const leased = await lease(query, NOON + SECOND);
    const unknown = { notification_id: 0, lease_token: leased[0]!.lease_token };
    expect(
      await recordAll(query, [
        resultOf(leased[0]!, SENT),
        resultOf(leased[1]!, RETRY),
        resultOf(leased[2]!, REFUSED),
        resultOf({ ...leased[3]!, lease_token: leased[0]!.lease_token }, RETRY),
        resultOf(unknown, SENT),
      ]),
    ).toEqual({ sent: 1, retried: 1, parked: 1, stale: 2 });
    const states: Row[] = [];
    for (const id of ids) states.push(await read(query, id));
    expect(states.map(({ state }) => state)).toEqual(["sent", "pending", "parked", "pending"]);
    expect(states.map(({ lease_token }) => lease_token !== null)).toEqual([
      false,
      false,
      false,
      true,
    ]);
    expect(await recordAll(query, [])).toEqual(COUNTS);
  });

  it.for(
    [
      [60, 60],
      [0.5, 0.5],
      [0, 0],
      [-5, 0],
      [3600, 3600],
      [3601, 3600],
      [undefined, 0],
    ] as const,
  )("tries again after %s s: after %d", async ([after_seconds, expected], { query }) => {
    const [id] = await addMessages(query, "hook", "webhook");
    const [leased] = await lease(query);
    const retry = { outcome: "retry", error: "not now" } as const;
    const at = NOON + MINUTE;
    expect(
      await record(
        query,
        leased!,
        after_seconds === undefined ? retry : { ...retry, after_seconds },
        at,
      ),
    ).toEqual({ ...COUNTS, retried: 1 });
    expect(await read(query, id!)).toMatchObject({
      ...{ state: "pending", next_attempt_at: stamp(at + expected * SECOND), attempt_count: 1 },
      ...{ lease_token: null, last_error: "not now", sent_at: null, may_be_repeated: false },
    });
  });

  it("parks what is refused", async ({ query }) => {
    const [id] = await addMessages(query, "hook", "webhook");
    const [leased] = await lease(query);
    expect(await record(query, leased!, REFUSED)).toEqual({ ...COUNTS, parked: 1 });
    expect(await read(query, id!)).toMatchObject({
      state: "parked",
      last_error: "no such channel",
    });
    expect(await lease(query, NOON + DAY)).toEqual([]);
    expect(await nextAt(query)).toBeNull();
  });

  it.for(
    [
      [11, 0, "pending"],
      [12, 0, "parked"],
      [3, DAY, "pending"],
      [3, DAY + 1, "parked"],
      // What was kept for days has not failed for days.
      [2, 40 * DAY, "pending"],
      [1, 40 * DAY, "pending"],
    ] as const,
  )(
    "after attempt %i of a message that is %i ms old it is %s",
    async ([attempt, age, state], { query }) => {
      const [id] = await addMessages(query, "hook", "webhook", 1, NOON - age);
      await setMessage(query, id!, "attempt_count", attempt - 1);
      const [leased] = await lease(query);
      expect(await record(query, leased!, RETRY)).toEqual({
        ...COUNTS,
        ...(state === "parked" ? { parked: 1 } : { retried: 1 }),
      });
      expect(await read(query, id!)).toMatchObject({ state, last_error: "not now" });
    },
  );

  it("counts what was sent at the last attempt, however old", async ({ query }) => {
    const [id] = await addMessages(query, "hook", "webhook", 1, NOON - 40 * DAY);
    await setMessage(query, id!, "attempt_count", 11);
    const [leased] = await lease(query);
    expect(await record(query, leased!, SENT)).toEqual({ ...COUNTS, sent: 1 });
  });

  it("believes who lost the lease that it was sent, and nothing else", async ({ query }) => {
    const [id] = await addMessages(query, "hook", "webhook");
    const [old] = await lease(query);
    const [held] = await lease(query, NOON + MINUTE);
    const at = NOON + MINUTE + SECOND;
    const before = await read(query, id!);
    for (const outcome of [RETRY, REFUSED]) {
      expect(await record(query, old!, outcome, at)).toEqual({ ...COUNTS, stale: 1 });
    }
    expect(await read(query, id!)).toEqual(before);
    expect(await readChannel(query, "hook")).toMatchObject({ consecutive_failures: 0 });

    expect(await record(query, old!, SENT, at)).toEqual({ ...COUNTS, sent: 1 });
    expect(await read(query, id!)).toMatchObject({ state: "sent", lease_token: null });
    for (const outcome of [SENT, RETRY, REFUSED]) {
      expect(await record(query, held!, outcome, at)).toEqual({ ...COUNTS, stale: 1 });
    }
    expect(await read(query, id!)).toMatchObject({ state: "sent", sent_at: stamp(at) });
  });

  it("takes the word of who holds it, though the lease has ended, until it is given out again", async ({ query }) => {
    const [id] = await addMessages(query, "hook", "webhook");
    const [leased] = await lease(query);
    expect(await record(query, leased!, RETRY, NOON + HOUR)).toEqual({ ...COUNTS, retried: 1 });
    expect(await read(query, id!)).toMatchObject({ state: "pending" });
  });

  it("counts as sent what has been given up meanwhile", async ({ query }) => {
    const [id] = await addMessages(query, "hook", "webhook");
    const [old] = await lease(query);
    const [held] = await lease(query, NOON + MINUTE);
    await record(query, held!, REFUSED, NOON + MINUTE);
    expect(await read(query, id!)).toMatchObject({ state: "parked" });
    expect(await record(query, old!, SENT, NOON + MINUTE)).toEqual({ ...COUNTS, sent: 1 });
    expect(await read(query, id!)).toMatchObject({ state: "sent" });
    expect(await readChannel(query, "hook")).toMatchObject({ failing_since: null });
  });

  it("keeps 500 characters of an error, whatever is in it", async ({ query }) => {
    const [id] = await addMessages(query, "hook", "webhook");
    const [leased] = await lease(query);
    await record(query, leased!, { ...RETRY, error: "🚨".repeat(501) });
    expect((await read(query, id!)).last_error).toBe("🚨".repeat(500));
  });

  it("takes what sendNotification() says of an answer that is no text", async ({ query }) => {
    const [id] = await addMessages(query, "hook", "webhook");
    const [leased] = await lease(query);
    const body = `a\0b\ud83d${"🚨".repeat(300)}`;
    const outcome = await sendNotification(leased!, { timeZone: "UTC", externalUrl: null }, {
      ...{ now: () => new Date(NOON), random: () => 0, send: () => Promise.reject() },
      sendOutgoing: () => Promise.resolve({ status: 500, headers: {}, body, isTruncated: false }),
    });
    expect(await record(query, leased!, outcome as Outcome)).toEqual({ ...COUNTS, retried: 1 });
    expect((await read(query, id!)).last_error).toMatch(/^The other side answered 500: a.b.🚨/u);
  });

  it.for([
    [{}],
    [null],
    ["[]"],
    [[{}]],
    [[{ outcome: null }]],
    [[{ outcome: "lost" }]],
    [[{ outcome: "sent" }, { outcome: "SENT" }]],
  ])("refuses the results %j", async ([results], { query }) => {
    await expect(recordAll(query, results)).rejects.toMatchObject({ code: "22023" });
  });
});

describe("a message that kills whoever sends it", () => {
  it.for([
    { attempts: 11, state: "pending" },
    { attempts: 12, state: "parked" },
  ])(
    "is $state after $attempts attempts of which nobody told",
    async ({ attempts, state }, { query }) => {
      const [id] = await addMessages(query, "hook", "webhook");
      for (let n = 0; n < attempts; n += 1) {
        expect(idsOf(await lease(query, NOON + n * MINUTE))).toEqual([id]);
      }
      // The last lease has to end before that is known.
      const ended = NOON + attempts * MINUTE;
      expect(await lease(query, ended - 1)).toEqual([]);
      expect(await read(query, id!)).toMatchObject({ state: "pending" });
      await lease(query, ended);
      expect((await read(query, id!)).state).toBe(state);
      if (state === "pending") return;
      const reason = "12 attempts, and the last one never said what came of it";
      expect((await read(query, id!)).last_error).toBe(reason);
      expect(await readChannel(query, "hook")).toMatchObject({
        ...{ failing_since: iso(ended).replace(".000Z", "+00:00"), last_error: reason },
      });
    },
  );

  it("counts as sent if somebody tells so after all", async ({ query }) => {
    const [id] = await addMessages(query, "hook", "webhook");
    await setMessage(query, id!, "attempt_count", 11);
    const [leased] = await lease(query);
    expect(await lease(query, NOON + MINUTE)).toEqual([]);
    expect(await record(query, leased!, SENT, NOON + 2 * MINUTE)).toEqual({ ...COUNTS, sent: 1 });
    expect(await read(query, id!)).toMatchObject({ state: "sent" });
  });
});

describe("the health of a channel", () => {
  const try_ = async (query: Query, outcomes: readonly Outcome[], at = NOON) => {
    for (const [n] of outcomes.entries()) await enqueue(query, "hook", { at: at - HOUR + n });
    for (const [n, outcome] of outcomes.entries()) {
      const [leased] = await lease(query, at + n, { p_limit: 1 });
      await record(query, leased!, { ...outcome, after_seconds: 3600 }, at + n);
    }
    return await readChannel(query, "hook");
  };

  it("fails from the third failure in a row on", async ({ query }) => {
    await addChannel(query, "hook", "webhook");
    expect(await try_(query, [RETRY, RETRY])).toMatchObject({
      ...{ consecutive_failures: 2, failing_since: null, last_error: "not now" },
    });
    expect(await try_(query, [RETRY], NOON + MINUTE)).toMatchObject({
      ...{ consecutive_failures: 3, failing_since: stamp(NOON + MINUTE) },
    });
    expect(await try_(query, [RETRY], NOON + 2 * MINUTE)).toMatchObject({
      ...{ consecutive_failures: 4, failing_since: stamp(NOON + MINUTE) },
    });
  });

  it("fails when three are recorded at once", async ({ query }) => {
    await addMessages(query, "hook", "webhook", 3);
    const leased = await lease(query, NOON + SECOND);
    await recordAll(query, leased.map((one) => resultOf(one, RETRY)));
    expect(await readChannel(query, "hook")).toMatchObject({
      ...{ consecutive_failures: 3, failing_since: stamp(NOON) },
    });
  });

  it("fails as soon as a message is given up", async ({ query }) => {
    await addChannel(query, "hook", "webhook");
    expect(await try_(query, [REFUSED])).toMatchObject({
      ...{ consecutive_failures: 1, failing_since: stamp(NOON), last_error: "no such channel" },
    });
  });

  it("is well again when a message is sent", async ({ query }) => {
    await addChannel(query, "hook", "webhook");
    await try_(query, [RETRY, RETRY, RETRY]);
    expect(await try_(query, [SENT], NOON + MINUTE)).toMatchObject({
      ...{ consecutive_failures: 0, failing_since: null, last_error: null },
      last_sent_at: stamp(NOON + MINUTE),
    });
    // What failed before counts no more.
    expect(await try_(query, [RETRY, RETRY], NOON + 2 * MINUTE)).toMatchObject({
      ...{ consecutive_failures: 2, failing_since: null },
    });
  });

  it("fails where of several one was sent and one was given up", async ({ query }) => {
    await addMessages(query, "hook", "webhook", 2);
    const [one, other] = await lease(query, NOON + SECOND);
    await recordAll(query, [resultOf(one!, SENT), resultOf(other!, REFUSED)]);
    expect(await readChannel(query, "hook")).toMatchObject({
      ...{ consecutive_failures: 0, failing_since: stamp(NOON), last_error: "no such channel" },
    });
  });

  it("is not that of others", async ({ query }) => {
    await addMessages(query, "well", "webhook");
    await addMessages(query, "hook", "webhook");
    for (const leased of await lease(query, NOON + SECOND)) {
      await record(query, leased, leased.channel === "well" ? SENT : REFUSED);
    }
    expect(await readChannel(query, "well")).toMatchObject({
      failing_since: null,
      last_error: null,
    });
  });
});

describe("a channel that is deleted", () => {
  it("discards what was not sent by it, and says why; the rest stays", async ({ query }) => {
    const [sent, parked, pending] = await addMessages(query, "hook", "webhook", 3);
    await addMessages(query, "well", "webhook");
    const leased = await lease(query, NOON + SECOND);
    const of = (id: number) => leased.find(({ notification_id }) => notification_id === id)!;
    await record(query, of(sent!), SENT);
    await record(query, of(parked!), REFUSED);
    await call(query, "delete_channel", { p_channel: "hook" });
    const rows: Row[] = [];
    for (const id of [sent, parked, pending]) rows.push(await read(query, id!));
    expect(rows.map(({ state, last_error }) => [state, last_error])).toEqual([
      ["sent", null],
      ["discarded", "its channel was deleted"],
      ["discarded", "its channel was deleted"],
    ]);
    expect(rows[2]!.lease_token).toBeNull();
    const { rows: others } = await query(
      "select state from monitor.notifications where channel = 'well'",
    );
    expect(others).toEqual([{ state: "pending" }]);

    // It was under way, and says now what came of it.
    for (const outcome of [RETRY, REFUSED]) {
      expect(await record(query, of(pending!), outcome)).toEqual({ ...COUNTS, stale: 1 });
    }
    const outcome = { ...SENT, provider_id: "mail-1" };
    expect(await record(query, of(pending!), outcome)).toEqual({ ...COUNTS, sent: 1 });
    expect(await read(query, pending!)).toMatchObject({ state: "sent", provider_id: "mail-1" });
  });

  it("waits for who is recording what it sent, and leaves that as it is", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const [query, otherQuery] = [queryOf(one), queryOf(other)];
    const [sent, pending] = await addMessages(query, "hook", "webhook", 2);
    const [leased] = await lease(query, NOON, { p_limit: 1 });
    await one.query("begin");
    await record(query, leased!, SENT);
    const waiting = call(otherQuery, "delete_channel", { p_channel: "hook" });
    await waitUntilBlocking(query);
    await one.query("commit");
    await waiting;
    expect((await read(query, sent!)).state).toBe("sent");
    expect((await read(query, pending!)).state).toBe("discarded");
  });

  it("waits for who has what was parked sent again, who does not wait for it", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
    const [query, otherQuery] = [queryOf(one), queryOf(other)];
    const [parked] = await addMessages(query, "hook", "webhook");
    await record(query, (await lease(query))[0]!, REFUSED);
    await one.query("begin");
    await one.query("select from monitor.notifications where state = 'parked' for update");
    const waiting = call(otherQuery, "delete_channel", { p_channel: "hook" });
    await waitUntilBlocking(query);
    expect(await call(query, "requeue_notifications", { p_channel: "hook" })).toBe(1);
    await one.query("commit");
    await waiting;
    expect((await read(query, parked!)).state).toBe("discarded");
  });

  it("and made again has nothing of what the first one had", async ({ query }) => {
    await addMessages(query, "hook", "webhook", 2);
    await call(query, "delete_channel", { p_channel: "hook" });
    await addChannel(query, "hook", "webhook");
    expect(await lease(query, NOON + DAY)).toEqual([]);
    expect(await nextAt(query)).toBeNull();
  });
});

describe("monitor.requeue_notifications()", () => {
  const requeue = (query: Query, channel: string, at = NOON) =>
    call<number>(query, "requeue_notifications", { p_channel: channel, p_now: iso(at) });

  it("has all that was parked of a channel sent again, as if it were new", async ({ query }) => {
    const [parked, repeated, sent, pending] = await addMessages(query, "hook", "webhook", 4);
    const [other] = await addMessages(query, "other", "webhook");
    const leased = await lease(query, NOON + SECOND);
    const of = (id: number | undefined) => leased.find((one) => one.notification_id === id)!;
    await record(query, of(parked), REFUSED);
    await setMessage(query, repeated!, "attempt_count", 12);
    await record(query, of(repeated), { ...RETRY, may_have_arrived: true });
    await record(query, of(sent), SENT);
    await record(query, of(other), REFUSED);
    const at = NOON + 2 * DAY;
    expect(await requeue(query, "hook", at)).toBe(2);
    for (const id of [parked, repeated]) {
      expect(await read(query, id!)).toMatchObject({
        ...{
          state: "pending",
          attempt_count: 0,
          next_attempt_at: stamp(at),
          created_at: stamp(at),
        },
      });
    }
    // What may have arrived must not arrive twice; what was refused may be another one now.
    expect((await read(query, parked!)).idempotency_key).not.toBe(of(parked).idempotency_key);
    expect(await read(query, repeated!)).toMatchObject({
      ...{ may_be_repeated: true, idempotency_key: of(repeated).idempotency_key },
    });
    expect(await read(query, sent!)).toMatchObject({ state: "sent" });
    expect(await read(query, other!)).toMatchObject({ state: "parked" });
    expect(await readChannel(query, "hook")).toMatchObject({
      ...{ consecutive_failures: 0, failing_since: null, last_error: null },
    });
    expect(await readChannel(query, "other")).toMatchObject({ failing_since: stamp(NOON) });
    expect(idsOf(await lease(query, at)).toSorted((a, b) => a - b)).toEqual([
      parked,
      repeated,
      pending,
    ]);
    expect(await requeue(query, "hook", at)).toBe(0);
  });

  it("does not tell a start after its end", async ({ query }) => {
    await addChannel(query, "page", "pagerduty");
    const incident = (message: string) => ({ type: "incident", message });
    const tell = async (outcome: Outcome, args: Parameters<typeof enqueue>[2]) => {
      const id = await enqueue(query, "page", args);
      await record(query, (await lease(query))[0]!, outcome);
      return id!;
    };
    const overtaken = [
      await tell(REFUSED, { payload: ALERTS, p_group_id: 1 }),
      await tell(REFUSED, { payload: incident("initial"), p_incident_id: 1 }),
    ];
    const waiting = [
      await tell(REFUSED, { payload: ALERTS, p_group_id: 2 }),
      await tell(REFUSED, { payload: incident("initial"), p_incident_id: 2 }),
    ];
    await tell(SENT, { payload: ALERTS, p_group_id: 1 });
    await tell(SENT, { payload: incident("resolution"), p_incident_id: 1 });
    await tell(SENT, { payload: incident("update"), p_incident_id: 2 });
    expect(await requeue(query, "page")).toBe(2);
    for (const id of overtaken) {
      expect(await read(query, id)).toMatchObject({
        ...{ state: "discarded", last_error: "too late" },
      });
    }
    expect(idsOf(await lease(query))).toEqual(waiting);
  });

  it("does not say of yesterday that all is well today", async ({ query }) => {
    const [id] = await addMessages(query, "beat", "heartbeat");
    await record(query, (await lease(query))[0]!, REFUSED);
    expect(await requeue(query, "beat", NOON + DAY)).toBe(0);
    expect(await read(query, id!)).toMatchObject({ state: "discarded", last_error: "too late" });
  });

  it("does not make well a channel whose mails bounce", async ({ query }) => {
    await addChannel(query, "ops");
    await setChannel(query, "ops", "failing_since", iso(NOON));
    await setChannel(query, "ops", "undeliverable", { "ops@example.com": {} });
    await requeue(query, "ops");
    expect(await readChannel(query, "ops")).toMatchObject({ failing_since: stamp(NOON) });
  });

  it("does not know a channel that is gone: nobody would send it", async ({ query }) => {
    const [id] = await addMessages(query, "hook", "webhook");
    const [leased] = await lease(query);
    await record(query, leased!, REFUSED);
    await call(query, "delete_channel", { p_channel: "hook" });
    for (const channel of ["hook", "nobody", null]) {
      await expect(requeue(query, channel as string)).rejects.toMatchObject({ code: "P0002" });
    }
    expect(await read(query, id!)).toMatchObject({ state: "discarded" });
  });
});

describe("who may", () => {
  const CALLS: readonly (readonly [string, string])[] = [
    [
      "save_channel",
      "monitor.save_channel('chat', 'slack', p_secret => 'https://hooks.slack.com/x')",
    ],
    ["delete_channel", "monitor.delete_channel('ops')"],
    ["requeue_notifications", "monitor.requeue_notifications('ops')"],
  ];

  it.for(CALLS)(
    "call %s: admins, and nobody else",
    async ([, sql], { query, asOwner, asUser, asAnon }) => {
      await addChannel(query, "ops");
      const [user, admin] = [await addUser(asOwner), await addAdmin(asOwner)];
      for (const refused of [asUser(user), asUser(""), asAnon]) {
        await expect(refused(`select ${sql}`)).rejects.toMatchObject({ code: "42501" });
      }
      await asUser(admin)(`select ${sql}`);
    },
  );

  it.for([
    "monitor.enqueue_notification('ops', '{}')",
    "monitor.next_mail_at(now())",
    "monitor.next_notification_at()",
    "monitor.lease_notifications()",
    "monitor.record_deliveries('[]')",
    "monitor.record_mail_event('a', 'b', 'bounced')",
    "monitor.channel_secret('ops')",
    "monitor.refuse_channel('slack', '{}', null)",
  ])("call %s: who sends, and no user", async (sql, { query, asOwner, asUser, asAnon }) => {
    await query(`select ${sql}`);
    for (const refused of [asUser(await addAdmin(asOwner)), asAnon]) {
      await expect(refused(`select ${sql}`)).rejects.toMatchObject({ code: "42501" });
    }
  });

  it.for(["notifications", "notification_channels", "mail_events"])(
    "read %s: admins; nobody changes them by hand",
    async (table, { query, asOwner, asUser }) => {
      const [id] = await addMessages(query, "ops", "email");
      const [leased] = await lease(query);
      await record(query, leased!, { ...SENT, provider_id: "mail-1" });
      await query("select monitor.record_mail_event('a', 'mail-1', 'delivered')");
      expect(id).toBeDefined();
      const [user, admin] = [await addUser(asOwner), await addAdmin(asOwner)];
      const countOf = async (as: Query) => (await as(`select from monitor.${table}`)).rows.length;
      expect([await countOf(asUser(user)), await countOf(asUser(admin))]).toEqual([0, 1]);
      for (
        const sql of [`delete from monitor.${table}`, `update monitor.${table} set channel = 'x'`]
      ) {
        await expect(asUser(admin)(sql)).rejects.toMatchObject({
          code: expect.stringMatching(/^42/),
        });
      }
    },
  );
});
