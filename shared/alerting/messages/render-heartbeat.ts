import type { HeartbeatPayload } from "../../contract/notifications.ts";
import { toLines } from "./clean-text.ts";
import type { Message } from "./message.ts";
import { formatHeadline, tellHeadline } from "./tell-headline.ts";

/** Characters of a body: healthchecks keeps 100 kB of it, older ones 10 kB. */
const BODY_LIMIT = 3000;

/** What a healthchecks-style service is pinged with. */
export interface Ping {
  /** To be put behind the address of the check. */
  readonly path: "/start" | "" | "/fail";
  /** What the service shows with it, never empty. */
  readonly body: string;
}

const PATHS = { start: "/start", success: "", fail: "/fail" } as const;

/**
 * A sign of life, or that there is none, for a service that tells when none comes.
 *
 * @see https://healthchecks.io/docs/http_api/
 */
export function renderHeartbeat({ payload, isTest }: Message<HeartbeatPayload>): Ping {
  const headline = formatHeadline(tellHeadline(payload), isTest, BODY_LIMIT);
  const reason = toLines(payload.reason, BODY_LIMIT);
  return {
    path: PATHS[payload.signal],
    body: reason.includes("\n") ? `${headline}\n\n${reason}` : headline,
  };
}
