import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { startMigratedDatabase } from "../local/database.ts";
import { formatTable } from "./report.ts";

const DAYS = 10;
const SERIES = 694;
/** Per day and series, one a minute: 694 × 1,440 × 10 = 9,993,600 samples. */
const MINUTES = 1440;
const ROUNDS = 3;

/** Ten million samples removed by dropping their days, and the same rows by DELETE, alternately in one run. */
export async function measureCleanup(log: (line: string) => void): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "pgvigil-bench-"));
  const database = await startMigratedDatabase({ folder });
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  try {
    await client.query("set statement_timeout = 0");
    const until = Date.UTC(2026, 0, 1 + DAYS);
    const fill = async () => {
      await client.query("truncate monitor.metric_time_series");
      for (let day = 0; day < DAYS; day += 1) {
        const start = new Date(Date.UTC(2026, 0, 1 + day));
        await client.query("select monitor.ensure_sample_days($1, 0)", [start]);
        await client.query(
          `insert into monitor.metric_time_series (recorded_at, value, series_id)
           select $1::timestamptz + minute * interval '1 minute', series * 0.01 + minute, series
           from generate_series(1, $2::int) as series, generate_series(0, $3::int - 1) as minute`,
          [start, SERIES, MINUTES],
        );
      }
      await client.query("vacuum analyze monitor.metric_time_series");
      await client.query("checkpoint").catch(() => {}); // not ours to order as postgres before version 15
      return Number(
        (await client.query("select count(*) from monitor.metric_time_series")).rows[0].count,
      );
    };
    const size = async () =>
      Number(
        (await client.query(
          "select sum(pg_total_relation_size(inhrelid)) as bytes from pg_inherits where inhparent = 'monitor.metric_time_series'::regclass",
        )).rows[0].bytes ?? 0,
      ) / 2 ** 20;
    const timed = async (act: () => Promise<unknown>) => {
      const startedAt = performance.now();
      await act();
      return performance.now() - startedAt;
    };

    const dropped: number[] = [];
    const deleted: number[] = [];
    const left = { filled: 0, dropped: 0, deleted: 0, samples: 0 };
    for (let round = 0; round < ROUNDS; round += 1) {
      log(`round ${round + 1} of ${ROUNDS}: filling`);
      left.samples = await fill();
      left.filled = await size();
      log("DELETE");
      deleted.push(
        await timed(() =>
          client.query("delete from monitor.metric_time_series where recorded_at < $1", [
            new Date(until),
          ])
        ),
      );
      left.deleted = await size();

      log("filling again");
      await fill();
      log("dropping the days");
      dropped.push(
        await timed(async () => {
          for (let more = true; more;) {
            const { rows } = await client.query(
              "select monitor.cleanup_old_metrics(1, $1) as result",
              [
                new Date(until + 2 * 86_400_000),
              ],
            );
            more = rows[0].result.more;
            if (!["done", "nothing"].includes(rows[0].result.outcome)) {
              throw new Error(JSON.stringify(rows[0].result));
            }
          }
        }),
      );
      left.dropped = await size();
    }
    const median = (readings: number[]) =>
      readings.toSorted((a, b) => a - b)[readings.length >> 1]!;
    return formatTable(`Clean-up of ${left.samples.toLocaleString("en")} samples`, [
      { what: "`cleanup_old_metrics()`: dropping their days", unit: "ms", readings: dropped },
      { what: "`DELETE` of the same rows", unit: "ms", readings: deleted },
    ], [
      `Dropping is ${
        (median(deleted) / median(dropped)).toFixed(0)
      } times as fast, and gives the space back: of ` +
      `${left.filled.toFixed(0)} MiB, ${left.dropped.toFixed(0)} MiB are left after it and ${
        left.deleted.toFixed(0)
      } MiB after DELETE.`,
      "\nCommand: `npm run bench -- cleanup`",
    ]);
  } finally {
    await client.end();
    await database.stop();
    await rm(folder, { recursive: true, force: true });
  }
}
