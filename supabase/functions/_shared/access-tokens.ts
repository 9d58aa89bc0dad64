import type { AccessToken } from "../../../shared/contract/access-token.ts";
import { Problem } from "./problem.ts";

/** How long a good token is taken without asking. A revoked one stops this much later at the latest. */
export const GOOD_MILLISECONDS = 30_000;

/** How long a bad one is refused without asking: nothing makes it good. */
export const BAD_MILLISECONDS = 60_000;

/** How many good ones are remembered, and as many bad ones. */
export const TOKENS_LIMIT = 1000;

/**
 * How many tokens never seen are asked for at once, and then each second. Beyond, whoever comes with a new one is to
 * come again: guesses without end must not keep the database from work, which answers a thousand such questions a
 * second. Not fewer: of a stranger's flood of 1,000 a second a good token that nobody remembers is let through one time
 * in five. Questions end after 5 s, so that no more than 1,500 are under way.
 */
export const UNKNOWN_TOKENS = { atOnce: 500, perSecond: 200 } as const;

/** What a token looks like. Whatever does not, is none, and costs nothing. */
const TOKEN = /^pgv_[0-9a-f]{40}$/;

/** What {@link rememberTokens} needs from the world. */
export interface TokenWorld {
  /** Asks the database whose token it is by its SHA-256, in hexadecimal. */
  checkToken(hash: string): Promise<AccessToken | null>;
  now(): Date;
}

/**
 * Makes a function that says whose a token is, null for one that is not (any more), for one query per token every
 * thirty seconds. Tokens are kept by their hash only.
 *
 * @throws {Problem} 429 when too many unknown tokens are being tried; those known to be good are not affected
 */
export function rememberTokens(
  { checkToken, now }: TokenWorld,
): (token: string) => Promise<AccessToken | null> {
  const good = new Memory<AccessToken>(GOOD_MILLISECONDS);
  const bad = new Memory<null>(BAD_MILLISECONDS);
  const asked = new Map<string, Promise<AccessToken | null>>();
  const mayAsk = limitRate(UNKNOWN_TOKENS, now);

  const ask = async (hash: string) => {
    // Not when the answer is there: it is as of a moment in between.
    const askedAt = now();
    const token = await checkToken(hash);
    if (token === null) {
      good.forget(hash);
      bad.keep(hash, null, askedAt);
    } else good.keep(hash, token, askedAt);
    return token;
  };
  const find = (hash: string) => {
    const at = now();
    const known = good.recall(hash, at) ?? bad.recall(hash, at);
    if (known !== undefined) return known.value;
    let pending = asked.get(hash);
    if (pending === undefined) {
      // One that was good is asked for whatever else is going on.
      if (!good.has(hash) && !mayAsk()) {
        throw new Problem("too-many-tokens", "Try again in a moment.", {
          headers: { "retry-after": "5" },
        });
      }
      pending = ask(hash).finally(() => asked.delete(hash));
      asked.set(hash, pending);
    }
    return pending;
  };
  return async (token) => {
    if (!TOKEN.test(token)) return null;
    const found = await find(await sha256(token));
    const isOver = found?.expiresAt != null && found.expiresAt <= now();
    return isOver ? null : found;
  };
}

/** Values by key, each for the same time; the newest {@link TOKENS_LIMIT}. */
class Memory<T> {
  readonly #milliseconds: number;
  readonly #kept = new Map<string, { readonly value: T; readonly at: number }>();

  constructor(milliseconds: number) {
    this.#milliseconds = milliseconds;
  }

  keep(key: string, value: T, now: Date): void {
    this.#kept.delete(key);
    this.#kept.set(key, { value, at: now.getTime() });
    if (this.#kept.size > TOKENS_LIMIT) this.#kept.delete(this.#kept.keys().next().value!);
  }

  /** Undefined when there is none, or none that is young enough. */
  recall(key: string, now: Date): { readonly value: T } | undefined {
    const found = this.#kept.get(key);
    if (found === undefined) return undefined;
    const age = now.getTime() - found.at;
    // A clock that was set back would keep it for ever.
    return age >= 0 && age < this.#milliseconds ? found : undefined;
  }

  /** Whether it is there, however old. */
  has(key: string): boolean {
    return this.#kept.has(key);
  }

  forget(key: string): void {
    this.#kept.delete(key);
  }
}

/** Says yes so many times at once, and so many times a second in the long run. */
function limitRate(
  { atOnce, perSecond }: { readonly atOnce: number; readonly perSecond: number },
  now: () => Date,
): () => boolean {
  let left: number = atOnce;
  let seenAt = now().getTime();
  return () => {
    const at = now().getTime();
    left = Math.min(atOnce, left + Math.max(0, at - seenAt) / 1000 * perSecond);
    seenAt = at;
    if (left < 1) return false;
    left -= 1;
    return true;
  };
}

async function sha256(text: string): Promise<string> {
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return [...new Uint8Array(hash)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
