/** POST { dry_run?, entities? } → { dry_run, entities, complete, … }. Called by pg_cron daily, or by an admin. */
import { database } from "../_shared/database.ts";
import { job } from "../_shared/job.ts";
import { retentionStore } from "../_shared/stores.ts";
import { checkEntities, cleanUp, CleanupRequest } from "./handler.ts";

const deps = { now: () => new Date(), ...retentionStore(database) };

export default {
  fetch: job({
    name: "data-retention-cleanup",
    body: CleanupRequest,
    check: (body) => checkEntities(body, deps),
    isRehearsal: ({ dry_run }) => dry_run,
  }, (body, run) => cleanUp(body, run, deps)),
};
