import { z } from "zod";
import type { JobStart } from "../../../shared/contract/job-run.ts";
import { keyOrAdmin } from "./auth.ts";
import { runInBackground } from "./background.ts";
import { database } from "./database.ts";
import {
  type Call,
  endpoint,
  type EndpointSpec,
  type EndpointWorld,
  realWorld,
} from "./endpoint.ts";
import { Problem } from "./problem.ts";
import { summarizeError } from "./redact.ts";
import { type JobStore, jobStore } from "./stores.ts";

/** What every job takes: the minute it is for, the current one by default. Cron always sends it. */
export const JobRequest = z.strictObject({
  scheduled_at: z.iso.datetime({ offset: true }).optional(),
});

/** A job that is called by POST. */
export interface JobSpec<Body extends z.infer<typeof JobRequest>> {
  /** Name of the job and of its function. */
  name: string;
  body: z.ZodType<Body>;
  /** What can only be checked against the database. @throws {Problem}, before there is a run that could fail. */
  check?(body: Body): Promise<void>;
  /** A call that only looks: it takes no lease, and does not count as the job having run. */
  isRehearsal?(body: Body): boolean;
  /** What goes on in the background once a run has ended, however it did. */
  afterwards?(): Promise<void>;
}

/** A run that is under way. */
export interface Run {
  readonly id: string;
  /** The minute the run belongs to. */
  readonly scheduledAt: Date;
  readonly startedAt: Date;
}

/** How a run ended. A failed one may have done part of its work: `result` tells. */
export type RunOutcome =
  & {
    /** What is answered. */
    readonly result: object;
    /** What is logged and kept of it with the run, where the result is too much for every minute. */
    readonly summary?: object;
  }
  & (
    | { readonly kind: "succeeded" }
    | { readonly kind: "failed"; readonly reason: string }
  );

/** What {@link job} needs from the world. */
export interface JobWorld extends EndpointWorld {
  readonly jobs: JobStore;
  readonly authorize: EndpointSpec<unknown>["authorize"];
}

/** How far from now the minute of a run may lie: what is measured now is not told as of long ago. */
export const SCHEDULE_TOLERANCE_SECONDS = 300;

const MINUTE = 60_000;

/**
 * Turns `work` into a fetch handler that runs it as a job: one run at a time, each with a start and an
 * end in the database, whatever happens in between. The status of the answer tells what the end says.
 */
export function job<Body extends z.infer<typeof JobRequest>>(
  spec: JobSpec<Body>,
  work: (body: Body, run: Run) => Promise<RunOutcome>,
  world: JobWorld = { ...realWorld, jobs: jobStore(database), authorize: keyOrAdmin },
): (request: Request) => Promise<Response> {
  return endpoint(
    {
      name: spec.name,
      methods: ["POST"],
      authorize: world.authorize,
      input: spec.body,
    },
    async (body, call) => {
      const startedAt = world.now();
      const scheduledAt = readMinute(body.scheduled_at, startedAt);
      await spec.check?.(body);

      const isRehearsal = spec.isRehearsal?.(body) ?? false;
      const run = isRehearsal
        ? { id: call.runId, scheduledAt, startedAt }
        : await startRun(spec.name, call, scheduledAt, startedAt, world.jobs);
      let outcome: RunOutcome;
      try {
        outcome = await workAndFinish(() => work(body, run), run, call, isRehearsal, world.jobs);
      } finally {
        if (spec.afterwards) runInBackground(watched(spec.afterwards(), call));
      }
      const durationSeconds = (world.now().getTime() - startedAt.getTime()) / 1000;

      call.log[outcome.kind === "failed" ? "error" : "info"](`run ${outcome.kind}`, {
        caller: call.caller.kind,
        duration_seconds: durationSeconds,
        ...(outcome.kind === "failed" && { reason: outcome.reason }),
        result: outcome.summary ?? outcome.result,
      });
      if (outcome.kind === "failed") {
        const members = { run_id: run.id, job: spec.name, result: outcome.result };
        throw new Problem("run-failed", outcome.reason, { members });
      }
      return Response.json({
        run_id: run.id,
        job: spec.name,
        scheduled_at: run.scheduledAt.toISOString(),
        outcome: outcome.kind,
        duration_seconds: durationSeconds,
        ...outcome.result,
      });
    },
    world,
  );
}

/** Work in the background: nobody is there to be told but the log. */
async function watched(work: Promise<void>, { log }: Call): Promise<void> {
  try {
    await work;
  } catch (error) {
    log.error("what goes on after the run failed", { error });
  }
}

/** The whole minute a run is for. @throws {Problem} if it is too far from now. */
function readMinute(given: string | undefined, now: Date): Date {
  const at = given === undefined ? now.getTime() : new Date(given).getTime();
  if (Math.abs(at - now.getTime()) > SCHEDULE_TOLERANCE_SECONDS * 1000) {
    const detail = `must be within ${SCHEDULE_TOLERANCE_SECONDS} s of now; ` +
      "leave it out for the current minute";
    throw new Problem("body", `scheduled_at: ${detail}`, {
      members: { errors: [{ pointer: "#/scheduled_at", detail }] },
    });
  }
  return new Date(Math.floor(at / MINUTE) * MINUTE);
}

/** Takes the lease. @throws {Problem} 409 if the run may not work now. */
async function startRun(
  name: string,
  { runId, isRunIdGiven }: Call,
  scheduledAt: Date,
  startedAt: Date,
  jobs: JobStore,
): Promise<Run> {
  const start = await jobs.start(name, runId, isRunIdGiven ? "cron" : "manual", scheduledAt);
  if (start.kind === "started") return { id: runId, scheduledAt: start.scheduledAt, startedAt };
  throw refusal(start);
}

function refusal(start: Exclude<JobStart, { kind: "started" }>): Problem {
  switch (start.kind) {
    case "overlap":
      return new Problem("overlap", `Run ${start.runId} holds the lease.`, {
        members: { run_id: start.runId },
      });
    case "disabled":
      return new Problem("jobs-disabled", "monitor.settings.jobs_enabled is false.");
    case "finished":
      return new Problem("run-finished", "", { members: { run_id: start.runId } });
  }
}

/** Does the work and records its end, also when it throws. */
async function workAndFinish(
  work: () => Promise<RunOutcome>,
  run: Run,
  { log }: Call,
  isRehearsal: boolean,
  jobs: JobStore,
): Promise<RunOutcome> {
  const finish = async (kind: RunOutcome["kind"], result: object | null, error: string | null) => {
    if (!isRehearsal) await jobs.finish(run.id, kind, result, error);
  };
  let outcome: RunOutcome;
  try {
    outcome = await work();
  } catch (error) {
    try {
      await finish("failed", null, summarizeError(error));
    } catch (finishError) {
      log.error("the end of a failed run could not be recorded", { error: finishError });
    }
    throw error;
  }
  const reason = outcome.kind === "failed" ? summarizeError(outcome.reason) : null;
  await finish(outcome.kind, outcome.summary ?? outcome.result, reason);
  return outcome;
}
