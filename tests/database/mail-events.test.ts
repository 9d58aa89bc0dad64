import { describe, expect } from "vitest";
import { it, type Query, queryOf, waitUntilBlocking } from "./database.ts";
import { addChannel, call } from "./incidents.ts";
import {
  addMessages,
  enqueue,
  lease,
  read,
  readChannel,
  record,
  SENT,
  setChannel,
  stamp,
} from "./notifications.ts";
import { DAY, HOUR, iso, MINUTE, NOON, SECOND } from "./seeds.ts";

describe("monitor.record_mail_event()", () => {
  let events = 0;
  const report = async (
    query: Query,
    kind: string,
    {
      id = `event-${events += 1}`,
      provider = "mail-1",
      to = ["ops@example.com"],
      reason = null,
      at = NOON,
      now = at,
    }: {
      id?: string;
      provider?: string;
      to?: string[] | null;
      reason?: string | null;
      at?: number | null;
      now?: number | null;
    } = {},
  ) =>
    (await call<{ outcome: string }>(query, "record_mail_event", {
      ...{ p_event_id: id, p_provider_id: provider, p_kind: kind, p_recipients: to },
      ...{ p_reason: reason, p_occurred_at: at === null ? null : iso(at) },
      p_now: iso(now ?? NOON),
    })).outcome;

  /** A mail that was sent at noon as mail-1, by the channel of `ops`. */
  async function sendMail(
    query: Query,
    to = ["ops@example.com"],
    channel = "ops",
    provider_id = "mail-1",
  ) {
    await query(
      "insert into monitor.notification_channels (channel, kind, config) values ($1, 'email', $2) on conflict do nothing",
      [channel, { to }],
    );
    const id = (await enqueue(query, channel))!;
    await query("update monitor.alerting_state set mail_slot_at = null");
    const [leased] = await lease(query);
    await record(query, leased!, { ...SENT, provider_id });
    return id;
  }

  it("tells what has become of a mail", async ({ query }) => {
    const id = await sendMail(query);
    const states: unknown[] = [];
    for (const kind of ["sent", "delivered", "bounced", "delivered"]) {
      expect(await report(query, kind, { at: NOON + 2 * SECOND })).toBe("recorded");
      const { state, delivered_at } = await read(query, id);
      states.push([state, delivered_at]);
    }
    const deliveredAt = stamp(NOON + 2 * SECOND);
    expect(states).toEqual([
      ["sent", null],
      ["delivered", deliveredAt],
      ["bounced", deliveredAt],
      ["bounced", deliveredAt],
    ]);
  });

  it.for(
    [
      ["delivered", "delivered", null],
      ["delayed", "sent", "delayed"],
      ["bounced", "bounced", "bounced"],
      ["failed", "bounced", "failed"],
      ["complained", "complained", "complained"],
      ["sent", "sent", null],
    ] as const,
  )(
    "makes of a mail that is sent and %s one that is %s",
    async ([kind, state, error], { query }) => {
      const id = await sendMail(query);
      expect(await report(query, kind)).toBe("recorded");
      expect(await read(query, id)).toMatchObject({ state, last_error: error });
      const { rows } = await query("select applied_at, kind, recipients from monitor.mail_events");
      expect(rows).toEqual([{ applied_at: new Date(NOON), kind, recipients: ["ops@example.com"] }]);
    },
  );

  it("says of a complaint that the mail was delivered", async ({ query }) => {
    const id = await sendMail(query);
    await report(query, "complained", { at: NOON + MINUTE });
    expect(await read(query, id)).toMatchObject({ delivered_at: stamp(NOON + MINUTE) });
  });

  it("does not let a mail be delivered before it was sent, by another clock", async ({ query }) => {
    const id = await sendMail(query);
    await report(query, "delivered", { at: NOON - MINUTE, now: NOON });
    expect(await read(query, id)).toMatchObject({ delivered_at: stamp(NOON) });
    await report(query, "sent", { id: "ahead", at: NOON + DAY, now: NOON });
    const { rows } = await query(
      "select occurred_at from monitor.mail_events where event_id = 'ahead'",
    );
    expect(rows).toEqual([{ occurred_at: new Date(NOON) }]);
  });

  it("counts a report that comes twice once", async ({ query }) => {
    const id = await sendMail(query);
    expect(await report(query, "bounced", { id: "one" })).toBe("recorded");
    await setChannel(query, "ops", "undeliverable", {});
    expect(await report(query, "bounced", { id: "one" })).toBe("repeated");
    expect(await report(query, "complained", { id: "one", provider: "another" })).toBe("repeated");
    expect(await read(query, id)).toMatchObject({ state: "bounced" });
    expect(await readChannel(query, "ops")).toMatchObject({ addresses: [] });
  });

  it("keeps what comes before the mail is recorded as sent, and counts it then, in order", async ({ query }) => {
    await addChannel(query, "ops");
    const id = (await enqueue(query, "ops"))!;
    const [leased] = await lease(query);
    const provider = "early";
    expect(await report(query, "bounced", { provider, at: NOON + 2, reason: "full" })).toBe(
      "unknown",
    );
    expect(await report(query, "delivered", { provider, at: NOON + 1 })).toBe("unknown");
    expect(await report(query, "bounced", { provider: "of another" })).toBe("unknown");
    expect(await report(query, "bounced", { id: "event", provider })).toBe("unknown");
    expect(await report(query, "bounced", { id: "event", provider })).toBe("repeated");

    await record(query, leased!, { ...SENT, provider_id: provider }, NOON + SECOND);
    expect(await read(query, id)).toMatchObject({
      ...{ state: "bounced", last_error: "full", delivered_at: stamp(NOON + SECOND) },
    });
    const { rows } = await query(
      "select provider_id from monitor.mail_events where applied_at is null",
    );
    expect(rows).toEqual([{ provider_id: "of another" }]);
  });

  it.for(["the report", "the mail"])(
    "loses no report that is written at the same time as its mail: %s comes first",
    async (first, { ownDatabase }) => {
      const [one, other] = [await ownDatabase.connect(), await ownDatabase.connect()];
      const [query, otherQuery] = [queryOf(one), queryOf(other)];
      const [id] = await addMessages(query, "ops", "email");
      const [leased] = await lease(query);
      const writes = [
        (session: Query) => report(session, "bounced", { provider: "mail-9" }),
        (session: Query) => record(session, leased!, { ...SENT, provider_id: "mail-9" }),
      ];
      if (first === "the mail") writes.reverse();
      await one.query("begin");
      await writes[0]!(query);
      const waiting = writes[1]!(otherQuery);
      await waitUntilBlocking(query);
      await one.query("commit");
      await waiting;
      expect(await read(query, id!)).toMatchObject({ state: "bounced" });
    },
  );

  it("knows nothing of a mail that is none of ours", async ({ query }) => {
    await sendMail(query);
    expect(await report(query, "bounced", { provider: "of another" })).toBe("unknown");
    expect(await readChannel(query, "ops")).toMatchObject({
      addresses: [],
      failing_since: null,
    });
  });

  it.for(["bounced", "failed", "complained"])(
    "%s: says of the channel which of its recipients get nothing, and that it fails",
    async (kind, { query }) => {
      await sendMail(query, ["ops@example.com", "dba@example.com"]);
      const to = ["dba@example.com", "former@example.com"];
      await report(query, kind, { to, reason: "no such mailbox", at: NOON + MINUTE });
      expect(await readChannel(query, "ops")).toMatchObject({
        addresses: ["dba@example.com"],
        undeliverable: {
          "dba@example.com": { at: stamp(NOON + MINUTE), reason: "no such mailbox" },
        },
        failing_since: stamp(NOON + MINUTE),
        last_error: `${kind}: no such mailbox`,
      });
      // It goes on failing, however many mails are sent to the others.
      await sendMail(query, [], "ops", "mail-2");
      expect(await readChannel(query, "ops")).toMatchObject({
        ...{ failing_since: stamp(NOON + MINUTE), last_error: `${kind}: no such mailbox` },
        consecutive_failures: 0,
      });
    },
  );

  it("knows a recipient by whatever case his address is written in", async ({ query }) => {
    await sendMail(query, ["Ops@Example.com"]);
    await report(query, "bounced", { to: ["ops@example.com"] });
    expect(Object.keys((await readChannel(query, "ops")).undeliverable)).toEqual([
      "Ops@Example.com",
    ]);
    await sendMail(query, [], "ops", "mail-2");
    await report(query, "delivered", {
      ...{ provider: "mail-2", to: ["OPS@example.com"], at: NOON + MINUTE },
    });
    expect((await readChannel(query, "ops")).undeliverable).toEqual({});
  });

  it("is well again when the last recipient that got nothing has got a later mail", async ({ query }) => {
    await sendMail(query, ["ops@example.com", "dba@example.com"]);
    await report(query, "bounced", { to: ["ops@example.com", "dba@example.com"] });
    await sendMail(query, [], "ops", "mail-2");
    const arrive = (to: string[]) =>
      report(query, "delivered", { provider: "mail-2", to, at: NOON + MINUTE });
    await arrive(["someone@example.com"]);
    expect(Object.keys((await readChannel(query, "ops")).undeliverable)).toHaveLength(2);
    await arrive(["dba@example.com"]);
    expect(await readChannel(query, "ops")).toMatchObject({
      ...{ addresses: ["ops@example.com"], failing_since: stamp(NOON) },
      last_error: "bounced",
    });
    await arrive(["ops@example.com", "someone@example.com"]);
    expect(await readChannel(query, "ops")).toMatchObject({
      ...{ addresses: [], failing_since: null, last_error: null },
    });
  });

  it.for(
    [
      [-1, ["ops@example.com"]],
      [0, []],
      [1, []],
    ] as const,
  )(
    "a delivery of %i ms after a bounce leaves %j undeliverable, in whatever order they are told",
    async ([after, left], { query }) => {
      await sendMail(query);
      await sendMail(query, [], "ops", "mail-2");
      await report(query, "bounced", { provider: "mail-2", at: NOON + HOUR });
      await report(query, "delivered", { at: NOON + HOUR + after, now: NOON + DAY });
      const { undeliverable, failing_since } = await readChannel(query, "ops");
      expect(Object.keys(undeliverable)).toEqual(left);
      expect(failing_since).toBe(left.length > 0 ? stamp(NOON + HOUR) : null);
    },
  );

  it("does not make well a channel that fails to send", async ({ query }) => {
    await sendMail(query);
    await report(query, "bounced");
    await setChannel(query, "ops", "consecutive_failures", 1);
    await report(query, "delivered", { at: NOON + MINUTE });
    expect(await readChannel(query, "ops")).toMatchObject({
      ...{ addresses: [], failing_since: stamp(NOON), last_error: "bounced" },
    });
  });

  it("is no error where a provider gives two mails one name, nor where the channel is gone", async ({ query }) => {
    const ids = [await sendMail(query), await sendMail(query)];
    expect(await report(query, "delivered")).toBe("recorded");
    for (const id of ids) expect(await read(query, id)).toMatchObject({ state: "delivered" });
    await call(query, "delete_channel", { p_channel: "ops" });
    expect(await report(query, "bounced")).toBe("recorded");
    for (const id of ids) expect(await read(query, id)).toMatchObject({ state: "bounced" });
  });

  it.for(
    [
      [{ id: "" }, "event_id_bounded"],
      [{ id: "x".repeat(201) }, "event_id_bounded"],
      [{ to: Array(51).fill("a@b.de") }, "recipients_bounded"],
      [{ id: "x".repeat(200), to: Array(50).fill("a@b.de"), reason: "x".repeat(501) }, null],
      [{ to: null, reason: "", at: null }, null],
    ] as const,
  )("keeps to its bounds (case %#)", async ([event, constraint], { query }) => {
    const answer = report(query, "bounced", event as object);
    if (constraint === null) {
      expect(await answer).toBe("unknown");
      const { rows: [row] } = await query(
        "select reason, recipients, occurred_at from monitor.mail_events",
      );
      expect(row).toEqual({
        reason: "reason" in event && event.reason !== "" ? "x".repeat(500) : null,
        recipients: event.to ?? [],
        occurred_at: new Date(NOON),
      });
    } else {
      await expect(answer).rejects.toMatchObject({
        ...{ code: "23514", constraint: `mail_events_${constraint}` },
      });
    }
  });

  it("refuses a kind that there is not", async ({ query }) => {
    await expect(report(query, "opened")).rejects.toMatchObject({
      ...{ code: "23514", constraint: "mail_events_kind_known" },
    });
  });
});
