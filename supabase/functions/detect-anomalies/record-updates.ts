import type {
  DetectionRecord,
  DetectionUpdate,
  FailedSeries,
} from "../../../shared/contract/detection.ts";
import type { DetectionStore } from "../_shared/stores.ts";

export const NOTHING_RECORDED: DetectionRecord = { opened: 0, extended: 0, closed: 0, stale: 0 };

/**
 * Stores updates together; when they are refused, in halves, until the one at fault is alone and named.
 * One bad series of n costs about 2 log₂ n calls.
 */
export async function recordUpdates(
  runId: string,
  updates: readonly DetectionUpdate[],
  record: DetectionStore["recordDetections"],
): Promise<DetectionRecord & { readonly failed: readonly FailedSeries[] }> {
  const [first] = updates;
  if (first === undefined) return { ...NOTHING_RECORDED, failed: [] };

  const recorded = await record(runId, updates);
  if (!("refused" in recorded)) return { ...recorded, failed: [] };
  if (updates.length === 1) {
    const failed = [{ series_id: first.series_id, error: recorded.refused }];
    return { ...NOTHING_RECORDED, failed };
  }
  const middle = updates.length >> 1;
  const older = await recordUpdates(runId, updates.slice(0, middle), record);
  const newer = await recordUpdates(runId, updates.slice(middle), record);
  return {
    opened: older.opened + newer.opened,
    extended: older.extended + newer.extended,
    closed: older.closed + newer.closed,
    stale: older.stale + newer.stale,
    failed: [...older.failed, ...newer.failed],
  };
}
