import { z } from "zod";

/** What `monitor.start_job` answers: whether the run may work now. */
export const StartedJob = z.discriminatedUnion("outcome", [
  z.object({
    outcome: z.literal("started"),
    run_id: z.guid(),
    scheduled_at: z.iso.datetime({ offset: true }),
  }),
  z.object({ outcome: z.literal("overlap"), run_id: z.guid() }),
  z.object({ outcome: z.literal("disabled") }),
  z.object({ outcome: z.literal("finished"), run_id: z.guid() }),
]);

/** Whether a run may work now, and if not, why. */
export type JobStart =
  /** `scheduledAt` is the minute the run belongs to, as the database knows it. */
  | { readonly kind: "started"; readonly runId: string; readonly scheduledAt: Date }
  /** `runId` is the run that holds the lease. */
  | { readonly kind: "overlap"; readonly runId: string }
  /** By the kill switch. */
  | { readonly kind: "disabled" }
  /** This very run has ended before: its call was delivered twice. */
  | { readonly kind: "finished"; readonly runId: string };

/** Parses the answer of `monitor.start_job`. @throws {z.ZodError} */
export function parseJobStart(answer: unknown): JobStart {
  const started = StartedJob.parse(answer);
  switch (started.outcome) {
    case "started":
      return {
        kind: "started",
        runId: started.run_id,
        scheduledAt: new Date(started.scheduled_at),
      };
    case "disabled":
      return { kind: "disabled" };
    default:
      return { kind: started.outcome, runId: started.run_id };
  }
}

/** What `monitor.finish_job` answers: what the witnesses heard so far say of the run. */
export const FinishedJob = z.object({ state: z.string() });

/** Parses the answer of `monitor.finish_job` to the state of the run. @throws {z.ZodError} */
export function parseJobFinish(answer: unknown): string {
  return FinishedJob.parse(answer).state;
}
