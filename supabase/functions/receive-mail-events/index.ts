/** POST an event of Resend, signed → { outcome } or { ignored }. Called by Resend when it knows what became of a mail. */
import { database } from "../_shared/database.ts";
import { endpoint } from "../_shared/endpoint.ts";
import { mailEventsSecret } from "../_shared/env.ts";
import { anybody, NAME, readMailEvent, receiveMailEvent } from "./handler.ts";

const deps = { now: () => new Date(), secret: () => mailEventsSecret(), database };

export default {
  fetch: endpoint(
    {
      name: NAME,
      methods: ["POST"],
      paths: [""],
      authorize: anybody,
      input: (request) => readMailEvent(request, deps),
    },
    (event, call) => receiveMailEvent(event, call, deps),
  ),
};
