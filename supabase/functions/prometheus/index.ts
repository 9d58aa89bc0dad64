/** GET, and what may be long POST, below /api/v1: Prometheus' query API. GET /metrics: the newest samples. With a token to read. */
import { tokenOrKey } from "../_shared/auth.ts";
import { database } from "../_shared/database.ts";
import { endpoint } from "../_shared/endpoint.ts";
import { queryStore } from "../_shared/query-stores.ts";
import { answerPrometheus, NAME, renderProblem } from "./handler.ts";
import { readParams } from "./read-params.ts";

const deps = { now: () => new Date(), ...queryStore(database) };
const authorize = tokenOrKey("read");
const input = readParams;

export default {
  fetch: endpoint(
    { name: NAME, methods: ["GET", "HEAD", "POST"], authorize, input, renderProblem },
    (params, call) => answerPrometheus(params, call, deps),
  ),
};
