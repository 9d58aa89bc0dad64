import { z } from "zod";
import type { HealthFacts } from "../../../shared/contract/health-facts.ts";
import {
  HEALTH_JSON_TYPE,
  healthStatusCode,
  toHealthJson,
  toHealthReport,
  toPublicHealth,
  wantsHealthJson,
} from "../../../shared/health/health-report.ts";
import { type HealthObservation, judgeHealth } from "../../../shared/health/judge-health.ts";
import type { Caller } from "../_shared/auth.ts";
import { DatabaseError } from "../_shared/database.ts";
import type { Call } from "../_shared/endpoint.ts";
import { shareFor } from "../_shared/share.ts";

export const HealthRequest = z.object({
  /** live: this function runs. ready: the database answers, too. Neither: everything is as it should be. */
  check: z.enum(["live", "ready"]).optional(),
});

/** The outside world as this function needs it; the edge wires the real one, tests a fake. */
export interface HealthDeps {
  now(): Date;
  /** What is known of the suite, kept for some seconds. */
  observe(): Promise<HealthObservation>;
}

/** How long facts, and failures to get them, are shared by all who ask. */
const SHARED_MILLISECONDS = 5000;

/** After so long a database that does not answer is said not to. */
export const READ_TIMEOUT_SECONDS = 2;

/** Whether this function runs is told before anybody asks who wants to know. */
export function unlessLive(
  recognize: (request: Request) => Promise<Caller>,
): (request: Request) => Promise<Caller> {
  return (request) =>
    new URL(request.url).searchParams.get("check") === "live"
      ? Promise.resolve({ kind: "public" })
      : recognize(request);
}

/** Answers a ping: publicly status and age, to those who may know everything. */
export async function answerHealth(
  { check }: z.infer<typeof HealthRequest>,
  { caller, request }: Pick<Call, "caller" | "request">,
  { now, observe }: HealthDeps,
): Promise<Response> {
  if (check === "live") return Response.json({ status: "healthy", age_seconds: 0 });

  const startedAt = now();
  const observation = await observe();
  const answeredAt = now();
  const judgement = judgeHealth(observation, answeredAt);
  if (check === "ready") {
    // Slow is still ready: what matters is that it answers.
    const isReady = observation.kind === "facts" &&
      judgement.components.database.status !== "unknown";
    const status = isReady ? "healthy" : "unhealthy";
    return reply({ status, age_seconds: judgement.ageSeconds }, status);
  }

  const isAuthorised = caller.kind !== "public";
  if (wantsHealthJson(request.headers.get("accept"))) {
    return reply(toHealthJson(judgement, isAuthorised), judgement.overall, HEALTH_JSON_TYPE);
  }
  const durationSeconds = (answeredAt.getTime() - startedAt.getTime()) / 1000;
  return reply(
    isAuthorised
      ? toHealthReport(judgement, answeredAt, durationSeconds)
      : toPublicHealth(judgement),
    judgement.overall,
  );
}

function reply(
  body: object,
  status: Parameters<typeof healthStatusCode>[0],
  type = "application/json",
): Response {
  return Response.json(body, {
    status: healthStatusCode(status),
    headers: { "content-type": type, "vary": "Accept" },
  });
}

/** Reads the facts once. A database that does not answer is an observation as well, so that it is kept. */
async function observeHealth(
  readFacts: (timeoutSeconds: number) => Promise<HealthFacts>,
  now: () => Date,
): Promise<HealthObservation> {
  const startedAt = now().getTime();
  const seen = () => {
    const observedAt = now();
    return { observedAt, responseSeconds: (observedAt.getTime() - startedAt) / 1000 };
  };
  try {
    const facts = await readFacts(READ_TIMEOUT_SECONDS);
    return { kind: "facts", facts, ...seen() };
  } catch (error) {
    if (!(error instanceof DatabaseError)) throw error;
    return { kind: "failure", reason: error.message, ...seen() };
  }
}

/** {@link observeHealth}, once for all who ask within {@link SHARED_MILLISECONDS}. */
export function shareHealth(
  readFacts: (timeoutSeconds: number) => Promise<HealthFacts>,
  now: () => Date,
): () => Promise<HealthObservation> {
  return shareFor(SHARED_MILLISECONDS, () => observeHealth(readFacts, now), now);
}
