import fc from "fast-check";
import { describe, expect } from "vitest";
import { sendNotification } from "../../supabase/functions/deliver-notifications/send-notification.ts";
import { it, type Query } from "./database.ts";
import { addChannel, call } from "./incidents.ts";
import {
  addMessages,
  enqueue,
  lease,
  readChannel,
  record,
  REFUSED,
  setChannel,
  setSettings,
} from "./notifications.ts";
import { addUser, iso, NOON } from "./seeds.ts";

const WEBHOOK_SECRET = `whsec_${btoa("a signing secret of 24 b")}`;
const SLACK = "https://hooks.slack.com/services/T0/B0/s3cr3t";
const ROUTING_KEY = "r0ut1ngk3yr0ut1ngk3yr0ut1ngk3y32";
const PING = "https://hc-ping.com/4f1d3c2a";

describe("monitor.refuse_channel()", () => {
  const refuse = (query: Query, kind: string | null, config: unknown, secret: string | null) =>
    call<string | null>(query, "refuse_channel", {
      ...{ p_kind: kind, p_config: JSON.stringify(config), p_secret: secret },
    });
  const mailTo = (...to: unknown[]) => ["email", { to }, null] as const;
  const long = (local: number, labels: number) =>
    `${"a".repeat(local)}@${`${"b".repeat(63)}.`.repeat(labels)}de`;

  it.for(
    [
      mailTo("ops@example.com"),
      mailTo(...Array(50).fill("ops@example.com")),
      mailTo("a@b.c"),
      mailTo("o'neil+x@sub.example.co.uk", "a!#$%&*/=?^_`{|}~-b@example.com"),
      mailTo(`${"a".repeat(64)}@${"b".repeat(63)}.de`),
      mailTo(`${long(59, 3)}`), // 254 characters
      ["email", { to: ["ops@example.com"], send_resolved: false }, "whatever"],
      ["webhook", { url: "https://hooks.example.com" }, null],
      ["webhook", { url: "https://hooks.example.com:8443/a?b=c#d@e" }, WEBHOOK_SECRET],
      ["webhook", { url: "http://127.0.0.1:9000/" }, `whsec_${"A".repeat(32)}`],
      ["webhook", { url: "http://127.0.0.1:9000/" }, `whsec_${"A".repeat(86)}==`], // 64 bytes
      ["slack", {}, SLACK],
      ["pagerduty", {}, ROUTING_KEY],
      ["pagerduty", { url: "https://events.eu.pagerduty.com/v2/enqueue" }, ROUTING_KEY],
      ["heartbeat", {}, PING],
      ["heartbeat", {}, "https://hc-ping.com"],
    ] as (readonly [string, unknown, string | null])[],
  )("takes a channel that may work (case %#)", async ([kind, config, secret], { query }) => {
    expect(await refuse(query, kind, config, secret)).toBeNull();
  });

  it.for(
    [
      ["email", {}, null, "no recipient"],
      ["email", null, null, "no recipient"],
      ["email", [], null, "no recipient"],
      ["email", { to: [] }, null, "no recipient"],
      ["email", { to: "ops@example.com" }, null, "no recipient"],
      ["email", { to: { a: "ops@example.com" } }, null, "no recipient"],
      ["email", { to: Array(51).fill("ops@example.com") }, null, "more than 50 recipients"],
      ...[
        ...["", " ", "ops", "a@b", "@b.de", "a@", "a@.de", "a@b.", "a@b..de", "a@-b.de", "a@b-.de"],
        ...["a b@c.de", "a@b@c.de", "é@b.de", "a@é.de", "<a@b.de>", "A <a@b.de>", "a@b.de,c@d.de"],
        ...["a@b.de\n", "\na@b.de", "a@b.de\r\nBcc: c@d.de", "a@b.de\rx", "a\n@b.de", "a@b.de\t"],
        ...[`${"a".repeat(65)}@b.de`, `a@${"b".repeat(64)}.de`, long(60, 3)],
        ...[null, 7, true, {}, ["a@b.de"]],
      ].map((
        address,
      ) => ["email", { to: ["ops@example.com", address] }, null, "malformed recipient: "]),
      ["webhook", {}, null, "its url is none"],
      ["webhook", null, null, "its url is none"],
      ["webhook", { url: null }, null, "its url is none"],
      ["webhook", { url: "hooks.example.com" }, null, "its url is none"],
      ["webhook", { url: "ftp://hooks.example.com" }, null, "its url is none"],
      ["webhook", { url: "https://" }, null, "its url is none"],
      ["webhook", { url: "https:///a" }, null, "its url is none"],
      ["webhook", { url: "https://a:b@hooks.example.com/" }, null, "its url is none"],
      ["webhook", { url: "https://hooks.example.com/a b" }, null, "its url is none"],
      ["webhook", { url: "https://hooks.example.com/a\n" }, null, "its url is none"],
      ["webhook", { url: "https://hooks.example.com\nx" }, null, "its url is none"],
      ["webhook", { url: "https://h.test" }, "", "its signing secret is none"],
      ["webhook", { url: "https://h.test" }, "s3cr3ts3cr3ts3cr3t", "its signing secret is none"],
      [
        "webhook",
        { url: "https://h.test" },
        `whsec_${"s".repeat(28)}`,
        "its signing secret is not of 24",
      ],
      ...[`${"A".repeat(33)}`, `${"A".repeat(31)}=`, `${"A".repeat(88)}`, `${"A".repeat(92)}`, "="]
        .map((key) => ["webhook", { url: "https://h.test" }, `whsec_${key}`, "its signing secret"]),
      ["webhook", { url: "https://h.test" }, `${WEBHOOK_SECRET}\n`, "its signing secret is none"],
      ["webhook", { url: "https://hooks.example.com/…" }, null, "its url is none"],
      ["webhook", { url: "https://h.test", to: ["a@b.de"] }, null, "its configuration knows no to"],
      ["email", { to: ["a@b.de"], sendresolved: false }, null, "knows no sendresolved"],
      ["email", { to: ["a@b.de"], b: 1, a: 2 }, null, "knows no a, b"],
      ["slack", { url: SLACK }, SLACK, "its configuration knows no url"],
      ["heartbeat", { send_resolved: true }, PING, "its configuration knows no send_resolved"],
      ["pagerduty", { url: "events.eu.pagerduty.com" }, ROUTING_KEY, "its url is none"],
      ["slack", {}, "https://hooks.slack.com/…", "its secret is no address"],
      ["heartbeat", {}, "https://hc-ping.com/…", "its secret is no address"],
      ["slack", {}, null, "Vault has no secret of it: the address of its incoming webhook"],
      ["slack", {}, "", "its secret is no address"],
      ["slack", {}, "s3cr3t", "its secret is no address"],
      ["slack", {}, "https://hooks.slack.com", "its secret is no address"],
      ["slack", {}, `${SLACK} `, "its secret is no address"],
      ["slack", {}, `${SLACK}\nx-header: s3cr3t`, "its secret is no address"],
      ["slack", {}, "https://user:s3cr3t@hooks.slack.com/services", "its secret is no address"],
      ["pagerduty", {}, null, "Vault has no secret of it: its integration key"],
      ["pagerduty", {}, "s".repeat(31), "its integration key has not 32"],
      ["pagerduty", {}, "s".repeat(33), "its integration key has not 32"],
      ["pagerduty", {}, `${"s".repeat(31)}-`, "its integration key has not 32"],
      ["pagerduty", {}, `${"s".repeat(32)}\n`, "its integration key has not 32"],
      ["heartbeat", {}, null, "Vault has no secret of it: the address to ping"],
      ["heartbeat", {}, "s3cr3t", "its secret is no address"],
      ["heartbeat", {}, "https://hc-ping.com/s3cr3t\n", "its secret is no address"],
      ["heartbeat", {}, "https://user:s3cr3t@hc-ping.com/", "its secret is no address"],
      ["pigeon", {}, null, "there is no such kind of channel"],
      [null, {}, null, "there is no such kind of channel"],
    ] as (readonly [string | null, unknown, string | null, string])[],
  )(
    "refuses one that cannot work (case %#: %s, %j)",
    async ([kind, config, secret, reason], { query }) => {
      const refusal = await refuse(query, kind, config, secret);
      expect(refusal).toContain(reason);
      expect(refusal).not.toMatch(/s3cr3t|ssss/);
    },
  );

  it("takes no recipient that is not sent to, and none is refused that is", async ({ query }) => {
    const characters = fc.constantFrom(..."ab1.-_+'@ \n\ré");
    const local = fc.string({ unit: fc.constantFrom(..."ab1.-_+'!"), minLength: 1, maxLength: 66 });
    const labels = fc.array(
      fc.string({ unit: fc.constantFrom(..."ab1-"), minLength: 1, maxLength: 65 }),
      { minLength: 1, maxLength: 5 },
    );
    const addresses = fc.oneof(
      fc.string({ unit: characters, maxLength: 12 }),
      fc.tuple(local, labels).map(([name, domain]) => `${name}@${domain.join(".")}`),
    );
    const lists = fc.array(addresses, { minLength: 200, maxLength: 200 });
    const [leased] = [
      await (async () => {
        await addMessages(query, "ops", "email");
        return (await lease(query))[0]!;
      })(),
    ];
    const isSent = async (to: string) => {
      let isSent = false;
      await sendNotification({ ...leased, config: { to: [to] } }, {
        timeZone: "UTC",
        externalUrl: null,
      }, {
        ...{ now: () => new Date(NOON), random: () => 0, sendOutgoing: () => Promise.reject() },
        send: () => {
          isSent = true;
          return Promise.resolve({ kind: "accepted", id: "mail" });
        },
      });
      return isSent;
    };
    let counts = { taken: 0, refused: 0 };
    await fc.assert(
      fc.asyncProperty(lists, async (all) => {
        const { rows } = await query<{ taken: boolean }>(
          `select monitor.refuse_channel('email', jsonb_build_object('to', jsonb_build_array(address)), null) is null as taken
           from unnest($1::text[]) with ordinality as listed (address, place) order by place`,
          [all],
        );
        for (const [n, { taken }] of rows.entries()) {
          expect(await isSent(all[n]!), JSON.stringify(all[n])).toBe(taken);
          counts = taken
            ? { ...counts, taken: counts.taken + 1 }
            : { ...counts, refused: counts.refused + 1 };
        }
      }),
      { numRuns: 5 },
    );
    expect(Math.min(counts.taken, counts.refused)).toBeGreaterThan(50);
  });
});

describe("monitor.save_channel()", () => {
  const save = (query: Query, args: Readonly<Record<string, unknown>> = {}) =>
    call(query, "save_channel", { p_channel: "chat", p_kind: "slack", p_secret: SLACK, ...args });
  const secretOf = (query: Query, channel: string) =>
    call<string | null>(query, "channel_secret", { p_channel: channel });

  it("makes a channel, with its secret in Vault and nowhere else", async ({ query, asSuperuser }) => {
    await save(query);
    expect(await secretOf(query, "chat")).toBe(SLACK);
    const { rows } = await query("select * from monitor.notification_channels");
    expect(rows).toEqual([{
      ...{ channel: "chat", kind: "slack", config: {}, enabled: true },
      ...{ created_at: expect.any(Date), secret_set_at: expect.any(Date) },
      ...{ last_sent_at: null, consecutive_failures: 0 },
      ...{ failing_since: null, last_error: null, undeliverable: {} },
    }]);

    await save(query, { p_secret: `${SLACK}2` });
    const id = await enqueue(query, "chat");
    const [leased] = await lease(query);
    await record(query, leased!, REFUSED);
    await call(query, "delete_channel", { p_channel: "chat" });
    expect(id).not.toBeNull();
    // Not in any row of any table of ours, whatever has happened to the channel.
    const { rows: tables } = await asSuperuser<{ name: string }>(
      `select oid::regclass::text as name from pg_class
       where relkind in ('r', 'p') and relnamespace = 'monitor'::regnamespace`,
    );
    for (const { name } of tables) {
      const { rows: found } = await asSuperuser(
        `select from ${name} as t where t::text like '%s3cr3t%'`,
      );
      expect(found, name).toHaveLength(0);
    }
    const { rows: audit } = await asSuperuser(
      "select action from monitor.audit_log where object = 'notification_channels' order by entry_id",
    );
    expect(audit.map(({ action }) => action)).toEqual(["insert", "delete"]);
  });

  it("changes one, and forgets what failed; a secret that is left out stays", async ({ query, asSuperuser }) => {
    await save(query);
    for (
      const [column, value] of [
        ["consecutive_failures", 3],
        ["failing_since", iso(NOON)],
        ["last_error", "no"],
        ["undeliverable", { "ops@example.com": {} }],
        ["last_sent_at", iso(NOON)],
      ] as const
    ) await setChannel(query, "chat", column, value);
    await save(query, { p_secret: null, p_enabled: false, p_config: { send_resolved: false } });
    expect(await secretOf(query, "chat")).toBe(SLACK);
    const { rows } = await query("select * from monitor.notification_channels");
    expect(rows).toEqual([{
      ...{ channel: "chat", kind: "slack", config: { send_resolved: false }, enabled: false },
      ...{ created_at: expect.any(Date), secret_set_at: expect.any(Date) },
      ...{ last_sent_at: new Date(NOON), consecutive_failures: 0 },
      ...{ failing_since: null, last_error: null, undeliverable: {} },
    }]);
    await save(query, { p_secret: `${SLACK}2` });
    expect(await secretOf(query, "chat")).toBe(`${SLACK}2`);
    const { rows: secrets } = await asSuperuser(
      "select name from vault.secrets where name like 'pgvigil_channel_%'",
    );
    expect(secrets).toEqual([{ name: "pgvigil_channel_chat" }]);
  });

  it.for(
    [
      [{ p_secret: null }, "22023", "Vault has no secret"],
      [{ p_secret: "s3cr3t" }, "22023", "its secret is no address"],
      [{ p_kind: "email", p_config: { to: [""] } }, "22023", "malformed recipient"],
      [{ p_kind: "pigeon" }, "22023", "no such kind"],
      [{ p_channel: "Chat" }, "22023", "a channel has a name of lower-case letters"],
      [{ p_channel: "-chat" }, "22023", "a channel has a name of lower-case letters"],
      [{ p_channel: "chat room" }, "22023", "a channel has a name of lower-case letters"],
      [{ p_channel: "chat\n" }, "22023", "a channel has a name of lower-case letters"],
      [{ p_channel: "c".repeat(64) }, "22023", "a channel has a name of lower-case letters"],
      [{ p_channel: "" }, "22023", "a channel has a name of lower-case letters"],
      [{ p_config: '["a"]' }, "23514", "config_is_an_object"],
      [
        {
          p_kind: "webhook",
          p_config: { url: `https://h.test/${"x".repeat(16_384)}` },
          p_secret: null,
        },
        "23514",
        "config_is_an_object",
      ],
    ] as const,
  )(
    "refuses what cannot be (case %#), keeps no secret, and shows none",
    async ([args, code, reason], { query }) => {
      const error = await save(query, args).catch((error: unknown) => error);
      expect(error).toMatchObject({ code, message: expect.stringContaining(reason) });
      expect(JSON.stringify(error)).not.toContain("s3cr3t");
      expect(await secretOf(query, "p_channel" in args ? args.p_channel : "chat")).toBeNull();
      const { rows } = await query("select from monitor.notification_channels");
      expect(rows).toHaveLength(0);
    },
  );

  it.for(["c", `c${"-0".repeat(31)}`])("takes the name %s", async (p_channel, { query }) => {
    await save(query, { p_channel });
    expect(await readChannel(query, p_channel)).toBeDefined();
  });
});

describe("monitor.delete_channel()", () => {
  const remove = (query: Query, channel: string) =>
    call(query, "delete_channel", { p_channel: channel });

  it("deletes a channel and its secret, and no other", async ({ query, asSuperuser }) => {
    for (const p_channel of ["chat", "chats"]) {
      await call(query, "save_channel", { p_channel, p_kind: "slack", p_secret: SLACK });
    }
    await remove(query, "chat");
    const { rows } = await query("select channel from monitor.notification_channels");
    expect(rows).toEqual([{ channel: "chats" }]);
    const { rows: secrets } = await asSuperuser(
      "select name from vault.secrets where name like 'pgvigil_channel_%'",
    );
    expect(secrets).toEqual([{ name: "pgvigil_channel_chats" }]);
  });

  it("refuses one that a route uses, naming the route, and one that is not there", async ({ query }) => {
    await addChannel(query, "ops");
    await query("select monitor.save_route('night', array['ops'])");
    await expect(remove(query, "ops")).rejects.toMatchObject({
      ...{ code: "2BP01", message: expect.stringContaining("night") },
    });
    await query("select monitor.delete_route('night')");
    await remove(query, "ops");
    await expect(remove(query, "ops")).rejects.toMatchObject({ code: "P0002" });
  });

  it("refuses that of the canary", async ({ query }) => {
    await addChannel(query, "ops");
    await setSettings(query, "canary_channel", "ops");
    await expect(remove(query, "ops")).rejects.toMatchObject({
      ...{ code: "2BP01", message: "channel ops is that of the canary" },
    });
    await setSettings(query, "canary_channel", null);
    await remove(query, "ops");
  });

  it("is what the canary has, too: only one that is there can be set", async ({ query }) => {
    await expect(setSettings(query, "canary_channel", "typo")).rejects.toMatchObject({
      ...{
        code: "23503",
        detail: 'Key (canary_channel)=(typo) is not present in table "notification_channels".',
      },
    });
  });
});

describe("monitor.current_actor()", () => {
  it.for([
    { claims: { email: "anna@example.com" }, actor: "anna@example.com" },
    { claims: { email: "" }, actor: "id" },
    { claims: {}, actor: "id" },
  ])(
    "is with the claims $claims: $actor",
    async ({ claims, actor }, { query, asUser, asOwner }) => {
      const id = await addUser(asOwner);
      const me = async (caller: Query) =>
        (await caller<{ me: string }>("select monitor.current_actor() as me")).rows[0]!.me;
      expect(await me(query)).toBe("service_role");
      await query("select set_config('request.jwt.claims', $1, true)", [
        JSON.stringify({ sub: id, ...claims }),
      ]);
      expect(await me(asUser(id))).toBe(actor === "id" ? id : actor);
    },
  );
});
