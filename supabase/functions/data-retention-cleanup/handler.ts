import { z } from "zod";
import type { RetentionStep } from "../../../shared/contract/retention.ts";
import { JobRequest, type Run, type RunOutcome } from "../_shared/job.ts";
import { Problem } from "../_shared/problem.ts";
import type { RetentionStore } from "../_shared/stores.ts";
import { mergeSteps } from "./merge-steps.ts";

export const CleanupRequest = JobRequest.extend({
  /** Tells what would go and deletes nothing. */
  dry_run: z.boolean().default(false),
  /** Only these; all by default. */
  entities: z.array(z.string().max(100)).min(1).max(50).optional(),
});

/** The outside world as this function needs it; the edge wires the real one, tests a fake. */
export interface CleanupDeps extends RetentionStore {
  now(): Date;
}

/**
 * No step is begun after so long; what is left is due at the next run. A step takes at most 8.5 s.
 * Short, because pg_net sends nothing new until every call of a batch has ended.
 */
export const WALL_SECONDS = 20;

/** Refuses entities that retention does not work on. @throws {Problem} 422 naming them. */
export async function checkEntities(
  { entities = [] }: z.infer<typeof CleanupRequest>,
  { listRetentionEntities }: CleanupDeps,
): Promise<void> {
  if (entities.length === 0) return;
  const known = await listRetentionEntities();
  const errors = entities.flatMap((entity, index) =>
    known.includes(entity)
      ? []
      : [{ pointer: `#/entities/${index}`, detail: `${entity} is not one of ${known.join(", ")}` }]
  );
  if (errors.length === 0) return;
  throw new Problem("body", `entities: ${errors[0]!.detail}`, { members: { errors } });
}

/**
 * Removes what the policies say, in rounds: one step of every entity in turn, then another of those
 * that have more, so that a long one keeps nobody from his turn. A dry run is one round.
 */
export async function cleanUp(
  { dry_run, entities }: z.infer<typeof CleanupRequest>,
  run: Run,
  { listRetentionEntities, runRetentionStep, now }: CleanupDeps,
): Promise<RunOutcome> {
  const known = await listRetentionEntities();
  const done = new Map<string, RetentionStep>();
  let due = entities === undefined ? known : known.filter((entity) => entities.includes(entity));
  let isInTime = true;

  while (due.length > 0 && isInTime) {
    const left: string[] = [];
    for (const entity of due) {
      isInTime = now().getTime() - run.startedAt.getTime() < WALL_SECONDS * 1000;
      if (!isInTime) break;
      const step = await runRetentionStep(entity, dry_run ? null : run.id, dry_run);
      done.set(entity, mergeSteps(done.get(entity), step));
      // Where others are in the way, asking again at once would go on for ever.
      const isMoving = step.outcome === "done" || step.outcome === "nothing";
      if (step.more && isMoving && !dry_run) left.push(entity);
    }
    due = isInTime ? left : due;
  }

  const steps = [...done.values()];
  const failed = steps.filter(({ outcome }) => outcome === "failed");
  const complete = isInTime && steps.every(({ more }) => !more);
  // A run of some entities says so: it is not the job's daily success (monitor.finish_job).
  const result = { dry_run, partial: entities !== undefined, entities: steps, complete };
  if (failed.length === 0) return { kind: "succeeded", result };
  const names = failed.map(({ entity, detail }) => `${entity} (${detail ?? "no reason given"})`);
  return { kind: "failed", reason: `retention failed for ${names.join(", ")}`, result };
}
