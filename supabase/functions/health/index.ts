/** GET or HEAD ?check=live|ready → { status, age_seconds }, with a key the components. Called by anybody. */
import { anybody } from "../_shared/auth.ts";
import { database } from "../_shared/database.ts";
import { endpoint } from "../_shared/endpoint.ts";
import { shareFor } from "../_shared/share.ts";
import { readHealthFacts } from "../_shared/stores.ts";
import { answerHealth, HealthRequest, observeHealth, SHARED_MILLISECONDS } from "./handler.ts";

const now = () => new Date();
const observe = () => observeHealth((seconds) => readHealthFacts(database, seconds), now);
const deps = { now, observe: shareFor(SHARED_MILLISECONDS, observe, now) };

export default {
  fetch: endpoint(
    { name: "health", methods: ["GET", "HEAD"], authorize: anybody, input: HealthRequest },
    (query, call) => answerHealth(query, call, deps),
  ),
};
