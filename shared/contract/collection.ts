import { z } from "zod";

const CollectorName = z.string().regex(/^collect_[a-z0-9_]{1,50}$/);

/** What `monitor.plan_collection` answers. */
export const PlannedCollection = z.object({
  collectors: z.array(
    z.object({ collector: CollectorName, timeout_seconds: z.number().positive() }),
  ),
  skipped: z.array(z.object({ collector: z.string(), reason: z.string() })),
});

/** Which collectors a collection calls, and which it leaves out. */
export interface CollectionPlan {
  readonly collectors: readonly { readonly collector: string; readonly timeoutSeconds: number }[];
  readonly skipped: readonly { readonly collector: string; readonly reason: string }[];
}

/** Parses the answer of `monitor.plan_collection`. @throws {z.ZodError} */
export function parseCollectionPlan(answer: unknown): CollectionPlan {
  const { collectors, skipped } = PlannedCollection.parse(answer);
  return {
    collectors: collectors.map(({ collector, timeout_seconds }) => ({
      collector,
      timeoutSeconds: timeout_seconds,
    })),
    skipped,
  };
}

/** Most samples of one collector in one run; more than that is a mistake in its labels. */
export const COLLECTOR_SAMPLES_LIMIT = 1000;

/**
 * What a collector answers; null when there is nothing to measure. A sample is looked at no further
 * than that it is an object: `monitor.record_samples` judges each one by itself and names the bad ones,
 * so that one of them does not cost its collector the others.
 */
export const CollectedSamples = z.array(z.record(z.string(), z.unknown()))
  .max(COLLECTOR_SAMPLES_LIMIT, `more than ${COLLECTOR_SAMPLES_LIMIT} samples`)
  .nullable();

/** A sample as a collector returned it: `{ metric, labels, value }` if the collector is right. */
export type CollectedSample = Readonly<Record<string, unknown>>;

/** Parses the answer of a collector. @throws {z.ZodError} */
export function parseCollectedSamples(answer: unknown): CollectedSample[] {
  return CollectedSamples.parse(answer) ?? [];
}

/** What one collector did, as `monitor.record_collection` wants it. Part of its argument `p_results`. */
export interface CollectorResult {
  readonly collector: string;
  readonly outcome: "ok" | "failed" | "timed_out";
  /** Seen from the caller, the way there and back included. */
  readonly duration_seconds: number;
  readonly error: string | null;
  readonly samples: readonly CollectedSample[];
}

/** What `monitor.record_collection` answers. */
export const RecordedCollection = z.object({
  inserted: z.int().nonnegative(),
  duplicates: z.int().nonnegative(),
  overflowed: z.int().nonnegative(),
  rejected: z.array(
    z.object({ metric: z.unknown(), labels: z.unknown().optional(), reason: z.string() }),
  ),
});

/** How many samples were stored, were there already, went to overflow series, and could not be stored. */
export type CollectionRecord = z.infer<typeof RecordedCollection>;

/** Parses the answer of `monitor.record_collection`. @throws {z.ZodError} */
export function parseCollectionRecord(answer: unknown): CollectionRecord {
  return RecordedCollection.parse(answer);
}
