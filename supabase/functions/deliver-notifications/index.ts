/** POST {} → { told, sent, retried, parked, … }. Called when the outbox is due, by cron now and then, or by an admin. */
import { setTimeout as sleep } from "node:timers/promises";
import { database } from "../_shared/database.ts";
import { job } from "../_shared/job.ts";
import { resendMailer } from "../_shared/mail.ts";
import { sendOutgoing } from "../_shared/outgoing.ts";
import { notificationStore } from "../_shared/stores.ts";
import { deliverNotifications, DeliverRequest as body, watchOutbox } from "./handler.ts";

const clock = { now: () => new Date(), sleep: (milliseconds: number) => sleep(milliseconds) };
const world = { ...clock, random: Math.random, sendOutgoing };
const deps = { ...world, ...resendMailer(), ...notificationStore(database) };

export default {
  fetch: job(
    { name: "deliver-notifications", body, afterwards: () => watchOutbox(deps) },
    (_body, run) => deliverNotifications(run, deps),
  ),
};
