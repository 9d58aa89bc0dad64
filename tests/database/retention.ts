import { type Query, rpc } from "./database.ts";
import { addMetric, addSeries, iso, MINUTE, NOON } from "./seeds.ts";

/** What every clean-up answers. */
export interface Cleaned {
  entity: string;
  outcome: "done" | "nothing" | "held" | "contended" | "missing" | "failed";
  counts: Record<string, number>;
  oldest_kept_at: string | null;
  more: boolean;
  duration_seconds: number;
  detail: string | null;
}

/** Calls `monitor.<name>` as of noon, or of `args.p_now`. */
export const cleanUp = (query: Query, name: string, args: Readonly<Record<string, unknown>> = {}) =>
  rpc<Cleaned>(query, name, { p_now: iso(NOON), ...args });

/** Takes one step of compaction, which leaves today and yesterday in rows, as of noon. */
export const compact = (query: Query, args: Readonly<Record<string, unknown>> = {}) =>
  cleanUp(query, "compact_samples", { p_keep_days: 2, ...args });

/**
 * Compacts until nothing is left to do, as the retention job does: every minute until it has all. Gives the answers;
 * the last one says that there is nothing.
 */
export async function compactAll(
  query: Query,
  { now = NOON, ...args }: Readonly<Record<string, unknown> & { now?: number }> = {},
): Promise<Cleaned[]> {
  const answers: Cleaned[] = [];
  for (let at = now; answers.length < 2000;) {
    const answer = await compact(query, { p_now: iso(at), ...args });
    answers.push(answer);
    if (answer.outcome === "held") at += MINUTE;
    else if (answer.outcome !== "done") return answers;
  }
  throw new Error("compaction does not come to an end");
}

/** Lets `monitor.<name>` wait for locks until the test has done what it waits for, however slow the machine is. */
export const waitLonger = (asOwner: Query, name: string) =>
  asOwner(`alter function monitor.${name} set lock_timeout = '20s'`);

/** Calls the clean-up of one of the suite's own tables, as of noon. */
export const cleanOwnTable = (
  query: Query,
  entity: string | null,
  retention_days: number | null,
  args: object = {},
) => cleanUp(query, "cleanup_own_table", { p_entity: entity, retention_days, ...args });

/** Whether retention_days of each size are taken, for every clean-up. */
export const RETENTION_DAYS = [
  [-1, false],
  [0, false],
  [1, true],
  [36_500, true],
  [36_501, false],
  [null, false],
] as const;

/** A series to hang anomalies and samples on. */
export async function addAnySeries(
  query: Query,
  samples: readonly (readonly [number, number])[] = [],
) {
  return await addSeries(query, await addMetric(query), samples);
}

/** A digest of all rows of every table of ours, partitions and pg_cron's record included, by table. */
export async function digestTables(asSuperuser: Query): Promise<Record<string, string>> {
  const { rows: tables } = await asSuperuser<{ name: string }>(
    `select oid::regclass::text as name from pg_class
     where relkind = 'r' and relnamespace in ('monitor'::regnamespace, 'cron'::regnamespace)`,
  );
  const digests: Record<string, string> = {};
  for (const { name } of tables) {
    const { rows } = await asSuperuser<{ digest: string }>(
      `select count(*) || ' ' || md5(string_agg(t::text, ',' order by t::text)) as digest from ${name} as t`,
    );
    digests[name] = rows[0]!.digest;
  }
  return digests;
}
