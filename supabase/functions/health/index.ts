/** GET or HEAD ?check=live|ready → { status, age_seconds }, with a key the components. Called by anybody. */
import { recognizeAnybody } from "../_shared/auth.ts";
import { database } from "../_shared/database.ts";
import { endpoint } from "../_shared/endpoint.ts";
import { readHealthFacts } from "../_shared/stores.ts";
import { answerHealth, HealthRequest, shareHealth, unlessLive } from "./handler.ts";

const now = () => new Date();
const deps = { now, observe: shareHealth((limit) => readHealthFacts(database, limit), now) };
const authorize = unlessLive(recognizeAnybody());

export default {
  fetch: endpoint(
    { name: "health", methods: ["GET", "HEAD"], authorize, input: HealthRequest },
    (query, call) => answerHealth(query, call, deps),
  ),
};
