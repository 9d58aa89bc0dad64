/** POST OTLP to /v1/metrics, or { samples } → what was stored and refused. Called by applications, with a token. */
import { AttributeCache } from "../../../shared/ingest/attribute-labels.ts";
import { tokenOrKey } from "../_shared/auth.ts";
import { database } from "../_shared/database.ts";
import { endpoint } from "../_shared/endpoint.ts";
import { ingestionStore } from "../_shared/stores.ts";
import { ingestMetrics, NAME, PATHS, readDelivery, renderProblem } from "./handler.ts";

const now = () => new Date();
const deps = { now, cache: new AttributeCache(), ...ingestionStore(database, now) };
const authorize = tokenOrKey("ingest");
const input = readDelivery;

export default {
  fetch: endpoint(
    { name: NAME, methods: ["POST"], paths: PATHS, authorize, input, renderProblem },
    (delivery, call) => ingestMetrics(delivery, call, deps),
  ),
};
