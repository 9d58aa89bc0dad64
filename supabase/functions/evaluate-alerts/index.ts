/** POST {} → { evaluated, failed, pending, firing, … }. Called by pg_cron every minute, or by an admin. */
import { database } from "../_shared/database.ts";
import { job } from "../_shared/job.ts";
import { selectionStore } from "../_shared/query-stores.ts";
import { evaluationStore } from "../_shared/stores.ts";
import { evaluateAlerts, EvaluateRequest } from "./handler.ts";

const clocks = { now: () => new Date(), cpuClock: () => performance.now() };
const deps = {
  ...clocks,
  ...evaluationStore(database),
  ...selectionStore(database),
};

export default {
  fetch: job(
    { name: "evaluate-alerts", body: EvaluateRequest },
    (_body, run) => evaluateAlerts(run, deps),
  ),
};
