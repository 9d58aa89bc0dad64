/** Longest pause between two attempts, in seconds. */
export const RETRY_DELAY_LIMIT = 3600;

/** First pause, in seconds; each further one is twice as long. */
const FIRST_DELAY = 5;

/**
 * How long to wait before the next attempt, in seconds: 5, 10, 20 … up to an hour, each between half and all of it, so that
 * what failed together does not come again together. Not less than what the other side has asked for, as far as an hour.
 *
 * @param attempt that has failed, from 1.
 * @param random at least 0 and less than 1.
 * @param askedSeconds what `Retry-After` said; null if nothing.
 */
export function retryDelay(attempt: number, random: number, askedSeconds: number | null): number {
  const full = Math.min(FIRST_DELAY * 2 ** Math.min(attempt - 1, 30), RETRY_DELAY_LIMIT);
  const spread = full / 2 + full / 2 * random;
  return Math.min(Math.max(spread, askedSeconds ?? 0), RETRY_DELAY_LIMIT);
}

const HTTP_DATE = /^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$/;

/**
 * The seconds that a header `Retry-After` asks for, as a number or as a date; null for none or a malformed one.
 *
 * @see RFC 9110, 10.2.3
 */
export function readRetryAfter(header: string | undefined, now: Date): number | null {
  if (header === undefined) return null;
  const text = header.trim();
  if (/^\d{1,9}$/.test(text)) return Number(text);
  const at = HTTP_DATE.test(text) ? new Date(text).getTime() : NaN;
  return Number.isNaN(at) ? null : Math.max(0, (at - now.getTime()) / 1000);
}
