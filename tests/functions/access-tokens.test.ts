import { createHash } from "node:crypto";
import { setImmediate } from "node:timers";
import { describe, expect, it, vi } from "vitest";
import type { AccessToken } from "../../shared/contract/access-token.ts";
import {
  BAD_MILLISECONDS,
  GOOD_MILLISECONDS,
  rememberTokens,
  TOKENS_LIMIT,
  UNKNOWN_TOKENS,
} from "../../supabase/functions/_shared/access-tokens.ts";
import { DatabaseError } from "../../supabase/functions/_shared/database.ts";
import { Problem } from "../../supabase/functions/_shared/problem.ts";
import { afterNoon, Clock, sampleAccessToken } from "../fixtures.ts";

const SHOP: AccessToken = { name: "shop", scopes: ["ingest"], expiresAt: null };
const hashOf = (token: string) => createHash("sha256").update(token).digest("hex");

/** A database that knows some tokens. */
function build(known: Record<string, AccessToken> = {}) {
  const clock = new Clock();
  const rows = new Map(Object.entries(known).map(([token, row]) => [hashOf(token), row]));
  const checkToken = vi.fn((hash: string) => Promise.resolve(rows.get(hash) ?? null));
  return { find: rememberTokens({ checkToken, now: clock.now }), checkToken, rows, clock };
}

describe("rememberTokens()", () => {
  const token = sampleAccessToken(1);

  it("says whose a token is, and hands out nothing but its hash", async () => {
    const { find, checkToken } = build({ [token]: SHOP });
    expect(await find(token)).toEqual(SHOP);
    expect(checkToken.mock.calls).toEqual([[hashOf(token)]]);
  });

  it("asks once for a thousand calls, at once or one after another", async () => {
    const { find, checkToken } = build({ [token]: SHOP });
    // Not at once, so that all ask before there is an answer.
    checkToken.mockImplementation(() => new Promise((answer) => setImmediate(answer, SHOP)));
    const answers = await Promise.all(Array.from({ length: 1000 }, () => find(token)));
    expect(new Set(answers)).toEqual(new Set([SHOP]));
    await find(token);
    expect(checkToken).toHaveBeenCalledOnce();
  });

  it.each([[-1, true], [0, false], [1, false]])(
    "takes a revoked one %i ms past the 30 s: %s",
    async (later, isTaken) => {
      const { find, rows, clock } = build({ [token]: SHOP });
      await find(token);
      rows.clear();
      clock.advance((GOOD_MILLISECONDS + later) / 1000);
      expect(await find(token) !== null).toBe(isTaken);
      expect(await find(token) !== null).toBe(isTaken);
    },
  );

  it.each([[-0.001, true], [0, false]])(
    "counts the 30 s of a good one from the question, not from its late answer: %d s past them it is taken, %s",
    async (later, isTaken) => {
      const { find, checkToken, clock } = build();
      // The answer is as of the question: the token is revoked while it is on its way.
      checkToken.mockImplementationOnce(() => {
        clock.advance(5);
        return Promise.resolve(SHOP);
      });
      expect(await find(token)).toEqual(SHOP);
      clock.advance(GOOD_MILLISECONDS / 1000 - 5 + later);
      expect(await find(token) !== null).toBe(isTaken);
      expect(checkToken).toHaveBeenCalledTimes(isTaken ? 1 : 2);
    },
  );

  it("stops a revoked one within a minute", () => {
    expect(GOOD_MILLISECONDS).toBeLessThanOrEqual(60_000);
  });

  it("does not take one for ever when the clock is set back", async () => {
    const { find, rows, clock } = build({ [token]: SHOP });
    await find(token);
    rows.clear();
    clock.advance(-1);
    expect(await find(token)).toBeNull();
  });

  it.each([[-0.001, true], [0, false]])(
    "at the expiry of one it knows, %d s later: %s",
    async (later, isTaken) => {
      const { find, clock } = build({ [token]: { ...SHOP, expiresAt: afterNoon(10) } });
      await find(token);
      clock.advance(10 + later);
      expect(await find(token) !== null).toBe(isTaken);
    },
  );

  it("asks once a minute for a wrong one", async () => {
    const { find, checkToken, clock } = build();
    expect(await find(token)).toBeNull();
    clock.advance(BAD_MILLISECONDS / 1000 - 0.001);
    expect(await find(token)).toBeNull();
    expect(checkToken).toHaveBeenCalledTimes(1);
    clock.advance(0.001);
    await find(token);
    expect(checkToken).toHaveBeenCalledTimes(2);
  });

  it.each([
    "",
    "pgv_",
    token.slice(0, -1),
    `${token}0`,
    token.toUpperCase(),
    `${token}\n`,
    ` ${token}`,
    token.replace("pgv_", "sb_secret_"),
    "pgv_" + "g".repeat(40),
    "pgv_" + "0".repeat(1_000_000),
  ])("does not even ask for what has not the shape of one", async (text) => {
    const { find, checkToken } = build();
    expect(await find(text)).toBeNull();
    expect(checkToken).not.toHaveBeenCalled();
  });

  it("keeps no failure: the next call asks again", async () => {
    const { find, checkToken } = build({ [token]: SHOP });
    const error = new DatabaseError("check_access_token", "unreachable", "", "");
    checkToken.mockRejectedValueOnce(error);
    await expect(find(token)).rejects.toBe(error);
    expect(await find(token)).toEqual(SHOP);
  });

  describe("under a flood of wrong tokens", () => {
    const flood = async (
      find: (token: string) => Promise<unknown>,
      from: number,
      count: number,
    ) => {
      const answers = await Promise.allSettled(
        Array.from({ length: count }, (_, n) => find(sampleAccessToken(from + n))),
      );
      return answers.filter(({ status }) => status === "rejected").length;
    };

    it("asks some at once, some a second, and tells the others to come again", async () => {
      const { find, checkToken, clock } = build();
      expect(await flood(find, 1000, 5000)).toBe(5000 - UNKNOWN_TOKENS.atOnce);
      expect(checkToken).toHaveBeenCalledTimes(UNKNOWN_TOKENS.atOnce);
      clock.advance(2);
      await flood(find, 10_000, 5000);
      expect(checkToken).toHaveBeenCalledTimes(
        UNKNOWN_TOKENS.atOnce + 2 * UNKNOWN_TOKENS.perSecond,
      );
      const error = await find(token).catch((error: unknown) => error);
      expect(error).toBeInstanceOf(Problem);
      expect(error).toMatchObject({
        slug: "too-many-tokens",
        status: 429,
        headers: { "retry-after": "5" },
      });
    });

    it("lets a good one that it does not know in, at a fair part of its tries", async () => {
      const { find, rows, clock } = build();
      // The same each time, and without a beat that the tries could fall in with.
      let state = 1;
      const chance = () => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
      let wrong = 1_000_000;
      let taken = 0;
      await flood(find, 1000, 5000);
      for (let nth = 0; nth < 30; nth += 1) {
        // A second of 500 wrong ones, and the try of a good one at some time of it: two in five of these are let in.
        const tryAt = Math.floor(chance() * 500);
        for (let n = 0; n < 500; n += 1) {
          clock.advance(chance() / 250);
          await find(sampleAccessToken(wrong += 1)).catch(() => null);
          if (n !== tryAt) continue;
          clock.advance(chance() / 250);
          const good = sampleAccessToken(nth);
          rows.set(hashOf(good), SHOP);
          taken += await find(good).catch(() => null) === null ? 0 : 1;
        }
      }
      expect(taken).toBeGreaterThanOrEqual(6);
    });

    it("still takes and refreshes those it knows to be good", async () => {
      const { find, rows, clock } = build({ [token]: SHOP });
      await find(token);
      await flood(find, 1000, 5000);
      expect(await find(token)).toEqual(SHOP);
      clock.advance(GOOD_MILLISECONDS / 1000);
      await flood(find, 10_000, 5000);
      expect(await find(token)).toEqual(SHOP);
      rows.clear();
      clock.advance(GOOD_MILLISECONDS / 1000);
      expect(await find(token)).toBeNull();
    });

    it("remembers no more than a thousand", async () => {
      const { find, checkToken, clock } = build();
      // As many as may be asked for, over a time in which none is forgotten for its age.
      const first = sampleAccessToken(0);
      await find(first);
      let asked = 1;
      while (asked <= TOKENS_LIMIT) {
        clock.advance(1 / UNKNOWN_TOKENS.perSecond);
        await find(sampleAccessToken(asked));
        asked += 1;
      }
      clock.advance(-(asked - 1) / UNKNOWN_TOKENS.perSecond);
      expect(checkToken).toHaveBeenCalledTimes(TOKENS_LIMIT + 1);
      await find(first);
      expect(checkToken).toHaveBeenCalledTimes(TOKENS_LIMIT + 2);
    });
  });
});
