import type { NotificationPayload } from "../../contract/notifications.ts";

/** What is to be said through one channel: the common input of all that render. */
export interface Message<Payload = NotificationPayload> {
  readonly payload: Payload;
  /** Name of the channel. */
  readonly channel: string;
  /** IANA; if it is none, times are UTC. */
  readonly timeZone: string;
  /** Where people look at alerts; linked only if it is a web address. */
  readonly externalUrl: string | null;
  /** When the notification was made. Ages count up to it, so that each attempt says the same. */
  readonly at: Date;
  readonly mayBeRepeated: boolean;
  readonly isTest: boolean;
  readonly idempotencyKey: string;
}
