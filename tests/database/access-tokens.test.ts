import { createHash } from "node:crypto";
import { describe, expect } from "vitest";
import { AccessTokenAnswer } from "../../shared/contract/access-token.ts";
import { it, type Query, queryOf, rpc } from "./database.ts";
import { addAdmin, addUser, DAY, iso, MINUTE, NOON, SECOND } from "./seeds.ts";

interface Created {
  token_id: number;
  name: string;
  token: string;
  scopes: string[];
  expires_at: string | null;
}

/** Arrays as Postgres writes them: `rpc` of these tests sends JSON. */
const create = async (
  query: Query,
  args: {
    name?: string | null;
    scopes?: string | null;
    expiresAt?: string | null;
    now?: string;
  } = {},
) => {
  const { name = "shop", scopes = "{ingest}", now = iso(NOON) } = args;
  const { rows: [row] } = "expiresAt" in args
    ? await query<{ made: Created }>(
      "select monitor.create_access_token($1, $2, $3, $4) as made",
      [name, scopes, args.expiresAt, now],
    )
    : await query<{ made: Created }>(
      "select monitor.create_access_token($1, $2, p_now => $3) as made",
      [name, scopes, now],
    );
  return row!.made;
};

const hashOf = (token: string) => createHash("sha256").update(token).digest("hex");

const check = (query: Query, token: string, at = NOON) =>
  rpc(query, "check_access_token", { p_token_hash: hashOf(token), p_now: iso(at) });

const revoke = (query: Query, name: string | null, at = NOON) =>
  rpc(query, "revoke_access_token", { p_name: name, p_now: iso(at) });

describe("monitor.create_access_token()", () => {
  it("shows the token once, and keeps only its hash and its last four characters", async ({ query, asOwner }) => {
    const { token, ...rest } = await create(query, { expiresAt: null });
    expect(rest).toEqual({
      token_id: expect.any(Number),
      name: "shop",
      scopes: ["ingest"],
      expires_at: null,
    });
    expect(token).toMatch(/^pgv_[0-9a-f]{40}$/);
    const { rows: [row] } = await asOwner(
      "select * from monitor.access_tokens where name = 'shop'",
    );
    expect(row).toEqual({
      token_id: rest.token_id,
      name: "shop",
      token_hash: createHash("sha256").update(token).digest(),
      token_hint: token.slice(-4),
      scopes: ["ingest"],
      created_at: new Date(NOON),
      created_by: "service_role",
      expires_at: null,
      last_used_at: null,
      revoked_at: null,
    });
  });

  it("makes another one each time", async ({ query }) => {
    const { rows } = await query<{ token: string }>(`
      select monitor.create_access_token('app ' || n, '{read}') ->> 'token' as token
      from generate_series(1, 200) as n`);
    const digits = rows.map(({ token }) => token.slice(4));
    expect(new Set(digits).size).toBe(200);
    // No digit is fixed, as those of a UUID's version are.
    for (let place = 0; place < 40; place += 1) {
      expect(new Set(digits.map((text) => text[place])).size, `digit ${place}`).toBe(16);
    }
  });

  it("expires after 400 days unless told otherwise", async ({ query }) => {
    const { rows: [row] } = await query(`
      select (monitor.create_access_token('shop', '{ingest}') ->> 'expires_at')::timestamptz
        = now() + interval '400 days' as expected`);
    expect(row).toEqual({ expected: true });
  });

  it.for(
    [
      ["{ingest}", ["ingest"]],
      ["{read}", ["read"]],
      ["{read,ingest}", ["ingest", "read"]],
      ["{ingest,ingest}", ["ingest"]],
    ] as const,
  )("takes the scopes %s", async ([scopes, expected], { query }) => {
    expect((await create(query, { scopes })).scopes).toEqual(expected);
  });

  it.for(["{}", null, "{write}", "{ingest,write}", "{ingest,NULL}", "{INGEST}", '{""}'])(
    "refuses the scopes %s",
    async (scopes, { query }) => {
      await expect(create(query, { scopes })).rejects.toMatchObject({
        code: "22023",
        hint: expect.stringContaining("ingest"),
      });
    },
  );

  it.for(["a", "x".repeat(100), "Shop 2 (no)".slice(0, 6), "a.b-c_d"])(
    "takes the name %s",
    async (name, { query }) => {
      expect((await create(query, { name })).name).toBe(name);
    },
  );

  it.for(["", null, "x".repeat(101), " a", "-a", "a\n", "é", "<b>", "a'b"])(
    "refuses the name %j",
    async (name, { query }) => {
      await expect(create(query, { name })).rejects.toMatchObject({ code: "22023" });
    },
  );

  it.for([iso(NOON), iso(NOON - DAY), "infinity", "-infinity"])(
    "refuses to expire at %s",
    async (expiresAt, { query }) => {
      await expect(create(query, { expiresAt })).rejects.toMatchObject({
        code: "22023",
        hint: expect.stringContaining("Null"),
      });
    },
  );

  it("refuses a name that is in use, also by one that has expired", async ({ query }) => {
    await create(query, { expiresAt: iso(NOON + SECOND) });
    await expect(create(query, { now: iso(NOON + DAY) })).rejects.toMatchObject({
      code: "23505",
      hint: expect.stringContaining("revoke"),
    });
    await create(query, { name: "Shop" });
    await revoke(query, "shop");
    await create(query);
  });

  it("is for admins and service_role", async ({ asOwner, asUser, asAnon }) => {
    const admin = await addAdmin(asOwner);
    await create(asUser(admin));
    const { rows: [row] } = await asUser(admin)("select created_by from monitor.access_tokens");
    expect(row).toEqual({ created_by: admin });
    for (const somebody of [asUser(await addUser(asOwner)), asUser(""), asAnon]) {
      await expect(create(somebody, { name: "x" })).rejects.toMatchObject({ code: "42501" });
      await expect(revoke(somebody, "shop")).rejects.toMatchObject({ code: "42501" });
    }
  });
});

describe("monitor.check_access_token()", () => {
  it("says whose a token is, in the form of its contract", async ({ query }) => {
    const expires = NOON + DAY;
    const made = await create(query, { scopes: "{ingest,read}", expiresAt: iso(expires) });
    const answer = await check(query, made.token);
    expect(answer).toEqual({
      token_id: made.token_id,
      name: "shop",
      scopes: ["ingest", "read"],
      expires_at: expires,
    });
    expect(AccessTokenAnswer.parse(answer)).toEqual(answer);
    expect(Object.keys(AccessTokenAnswer.unwrap().shape).toSorted())
      .toEqual(Object.keys(answer as object).toSorted());
  });

  it("says null of one that nobody made", async ({ query }) => {
    const { token } = await create(query);
    const last = token.endsWith("0") ? "1" : "0";
    expect(await check(query, token.slice(0, -1) + last)).toBeNull();
    expect(await check(query, "")).toBeNull();
  });

  it.for([[-1, true], [0, false], [1, false]] as const)(
    "at its expiry %i ms later: %s",
    async ([later, isGood], { query }) => {
      const { token } = await create(query, { expiresAt: iso(NOON + DAY) });
      expect(await check(query, token, NOON + DAY + later) !== null).toBe(isGood);
    },
  );

  it("takes one that never expires, in a hundred years", async ({ query }) => {
    const { token } = await create(query, { expiresAt: null });
    expect(await check(query, token, NOON + 36_500 * DAY)).toMatchObject({ expires_at: null });
  });

  it.for(["", null, "0", "g".repeat(64), "A".repeat(64), "0".repeat(63), "0".repeat(65)])(
    "refuses %j for a hash",
    async (hash, { query }) => {
      await expect(rpc(query, "check_access_token", { p_token_hash: hash })).rejects.toMatchObject({
        code: "22023",
      });
    },
  );

  it("notes the use, at most once a minute", async ({ query }) => {
    const { token } = await create(query);
    const lastUse = async () =>
      (await query("select last_used_at from monitor.access_tokens")).rows[0]!.last_used_at;
    expect(await lastUse()).toBeNull();
    for (
      const [at, expected] of [
        [NOON, NOON],
        [NOON + MINUTE - 1, NOON],
        [NOON + MINUTE, NOON + MINUTE],
        [NOON, NOON + MINUTE],
      ] as const
    ) {
      await check(query, token, at);
      expect(await lastUse()).toEqual(new Date(expected));
    }
  });

  it("waits for nobody who holds the row", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connectAsOwner(), await ownDatabase.connect()];
    const { token } = await create(queryOf(other));
    await one.query("begin; update monitor.access_tokens set last_used_at = now()");
    await other.query("set lock_timeout = '1ms'");
    expect(await check(queryOf(other), token)).toMatchObject({ name: "shop" });
    await one.query("rollback");
  });

  it("is for service_role alone", async ({ asOwner, asUser, asAnon }) => {
    for (const somebody of [asUser(await addAdmin(asOwner)), asAnon]) {
      await expect(check(somebody, "")).rejects.toMatchObject({ code: "42501" });
    }
  });
});

describe("monitor.revoke_access_token()", () => {
  it("ends that one token, at once", async ({ query }) => {
    const [shop, other] = [await create(query), await create(query, { name: "other" })];
    await revoke(query, "shop", NOON + MINUTE);
    expect(await check(query, shop.token, NOON + MINUTE)).toBeNull();
    expect(await check(query, other.token)).not.toBeNull();
    const { rows } = await query(
      "select revoked_at from monitor.access_tokens where name = 'shop'",
    );
    expect(rows).toEqual([{ revoked_at: new Date(NOON + MINUTE) }]);
  });

  it("leaves the one that took the name after it", async ({ query }) => {
    const first = await create(query);
    await revoke(query, "shop");
    const second = await create(query);
    expect([await check(query, first.token), await check(query, second.token)])
      .toEqual([null, expect.objectContaining({ name: "shop" })]);
  });

  it.for(["nobody", "", null, "Shop"])("refuses %j", async (name, { query }) => {
    await create(query);
    await expect(revoke(query, name)).rejects.toMatchObject({ code: "P0002" });
  });

  it("refuses one that is revoked already, whose time stays", async ({ query }) => {
    await create(query);
    await revoke(query, "shop");
    await expect(revoke(query, "shop", NOON + DAY)).rejects.toMatchObject({ code: "P0002" });
  });
});

describe("monitor.access_tokens", () => {
  it("is read by admins, and written by nobody", async ({ query, asOwner, asUser, asAnon }) => {
    await create(query);
    const admin = asUser(await addAdmin(asOwner));
    expect((await admin("select name, token_hint, last_used_at from monitor.access_tokens")).rows)
      .toHaveLength(1);
    const user = asUser(await addUser(asOwner));
    expect((await user("select name from monitor.access_tokens")).rows).toEqual([]);
    await expect(asAnon("select name from monitor.access_tokens"))
      .rejects.toMatchObject({ code: "42501" });
    for (const somebody of [query, admin, user, asAnon]) {
      for (
        const sql of [
          "update monitor.access_tokens set expires_at = null",
          "update monitor.access_tokens set scopes = '{ingest,read}'",
          "update monitor.access_tokens set revoked_at = null",
          "delete from monitor.access_tokens",
          "insert into monitor.access_tokens (name) values ('x')",
        ]
      ) {
        await expect(somebody(sql), sql).rejects.toMatchObject({ code: "42501" });
      }
    }
  });

  it("is audited without the hash, and without its uses", async ({ query, asOwner }) => {
    const { token, token_id } = await create(query);
    await check(query, token);
    await revoke(query, "shop");
    const { rows } = await asOwner(
      "select actor, action, before, after from monitor.audit_log where object = 'access_tokens' order by entry_id",
    );
    expect(rows).toMatchObject([
      { actor: "service_role", action: "insert", before: null, after: { token_id, name: "shop" } },
      { action: "update", before: { revoked_at: null }, after: { revoked_at: expect.any(String) } },
    ]);
    for (const { before, after } of rows) {
      for (const row of [before, after].filter(Boolean)) {
        expect(row).not.toHaveProperty("token_hash");
        expect(row).not.toHaveProperty("last_used_at");
      }
      const text = JSON.stringify([before, after]);
      expect(text).not.toContain(token);
      expect(text).not.toContain(hashOf(token));
    }
  });
});
