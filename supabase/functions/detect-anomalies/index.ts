/** POST {} → { series, samples, opened, extended, closed, … }. Called by pg_cron every 5 minutes, or by an admin. */
import { detector, previousDetectors } from "../../../shared/detection/current-detector.ts";
import { database } from "../_shared/database.ts";
import { job } from "../_shared/job.ts";
import { detectionStore } from "../_shared/stores.ts";
import { detectAnomalies, DetectRequest } from "./handler.ts";

const clocks = { now: () => new Date(), cpuClock: () => performance.now() };
const deps = { ...clocks, detector, previousDetectors, ...detectionStore(database) };

export default {
  fetch: job(
    { name: "detect-anomalies", body: DetectRequest },
    (_body, run) => detectAnomalies(run, deps),
  ),
};
