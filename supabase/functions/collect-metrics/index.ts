/** POST { scheduled_at? } → { samples, collectors, … }. Called by pg_cron every minute, or by an admin. */
import { database } from "../_shared/database.ts";
import { job } from "../_shared/job.ts";
import { collectionStore } from "../_shared/stores.ts";
import { collectMetrics, CollectRequest } from "./handler.ts";

const deps = { now: () => new Date(), ...collectionStore(database) };

export default {
  fetch: job(
    { name: "collect-metrics", body: CollectRequest },
    (_body, run) => collectMetrics(run, deps),
  ),
};
