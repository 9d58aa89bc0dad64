import { z } from "zod";

/** How one step of retention ended. */
export const RETENTION_OUTCOMES = [
  "done",
  "nothing",
  "held",
  "contended",
  "missing",
  "failed",
] as const;

/** One of {@link RETENTION_OUTCOMES}. */
export type RetentionOutcome = typeof RETENTION_OUTCOMES[number];

/** What `monitor.run_retention_step` answers. Answered to callers as it is, so it keeps its spelling. */
export const RetentionStep = z.object({
  entity: z.string(),
  outcome: z.enum(RETENTION_OUTCOMES),
  /** By reason: what was removed, what was held and by what, what others had locked. */
  counts: z.record(z.string(), z.number()),
  oldest_kept_at: z.string().nullable(),
  duration_seconds: z.number(),
  /** Another step would find something to remove. */
  more: z.boolean(),
  detail: z.string().nullable(),
});

/** One step, or all steps of one entity in a run. */
export type RetentionStep = z.infer<typeof RetentionStep>;

/** Parses the answer of `monitor.run_retention_step`. @throws {z.ZodError} */
export function parseRetentionStep(answer: unknown): RetentionStep {
  return RetentionStep.parse(answer);
}

/** Parses the answer of `monitor.list_retention_steps`: entities in order of execution. @throws {z.ZodError} */
export function parseRetentionEntities(answer: unknown): string[] {
  return z.array(z.string()).parse(answer);
}
