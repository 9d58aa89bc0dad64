/** POST a rule file of Prometheus → how many rules were saved. Called by whoever keeps them in files, with a secret key. */
import { keyOrAdmin } from "../_shared/auth.ts";
import { database } from "../_shared/database.ts";
import { endpoint } from "../_shared/endpoint.ts";
import { ruleStore } from "../_shared/stores.ts";
import { NAME, readRules, saveRules } from "./handler.ts";

const deps = ruleStore(database);
const authorize = keyOrAdmin;
const input = readRules;

export default {
  fetch: endpoint(
    { name: NAME, methods: ["POST"], paths: [""], authorize, input },
    (rules, call) => saveRules(rules, call, deps),
  ),
};
