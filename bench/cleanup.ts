import {
  compactUntil,
  DAY_MS,
  fillDay,
  registerSeries,
  type Scale,
  withDatabase,
} from "./history.ts";
import { createSeries } from "./mix.ts";
import { formatTable, quantileOf } from "./report.ts";

/** Per day and series, one a minute: 694 × 1,440 × 10 = 9,993,600 samples. */
const MINUTES = 1440;
const FULL = { series: 694, days: 10, rounds: 3 };
const QUICK = { series: 50, days: 8, rounds: 2 };

/** Ten million samples removed by dropping the weeks of their chunks, and by DELETE of the same, alternately in one run. */
export function measureCleanup(log: (line: string) => void, { quick }: Scale): Promise<string> {
  const { series, days, rounds } = quick ? QUICK : FULL;
  return withDatabase(async (client) => {
    const begin = Date.UTC(2025, 5, 2); // a Monday
    const until = begin + days * DAY_MS;
    const size = async (table: string) => {
      const { rows: [row] } = await client.query(
        `select coalesce(sum(pg_total_relation_size(relid)), 0)::float8 as bytes
         from pg_partition_tree(('monitor.' || $1)::regclass) where isleaf`,
        [table],
      );
      return row.bytes / 2 ** 20;
    };
    const timed = async (act: () => Promise<unknown>) => {
      const startedAt = performance.now();
      await act();
      return performance.now() - startedAt;
    };
    /** Taken back, so that the next way has the same before it. Also the MiB that are left. */
    const timedDelete = async (table: string) => {
      await client.query("begin");
      const elapsed = await timed(() => client.query(`delete from monitor.${table}`));
      const left = await size(table);
      await client.query("rollback");
      return { elapsed, left };
    };

    await registerSeries(client, series);
    const readings = { rows: [] as number[], chunks: [] as number[], dropped: [] as number[] };
    const left = { rows: 0, rowsAfter: 0, chunks: 0, chunksAfter: 0, dropped: 0 };
    for (let round = 0; round < rounds; round += 1) {
      log(`round ${round + 1} of ${rounds}: filling`);
      const generators = Array.from({ length: series }, (_, index) => createSeries(index));
      for (let day = 0; day < days; day += 1) {
        await fillDay(
          client,
          new Date(begin + day * DAY_MS),
          generators.map((next) => next(MINUTES)),
        );
      }
      await client.query("vacuum analyze monitor.metric_time_series");
      left.rows = await size("metric_time_series");
      log("DELETE of rows");
      const rows = await timedDelete("metric_time_series");
      readings.rows.push(rows.elapsed);
      left.rowsAfter = rows.left;

      log("compacting");
      await compactUntil(client, new Date(until));
      await client.query("vacuum analyze monitor.metric_chunks");
      left.chunks = await size("metric_chunks");
      log("DELETE of chunks");
      const chunks = await timedDelete("metric_chunks");
      readings.chunks.push(chunks.elapsed);
      left.chunksAfter = chunks.left;

      log("dropping the weeks of chunks");
      readings.dropped.push(
        await timed(async () => {
          for (let more = true; more;) {
            const { rows } = await client.query(
              "select monitor.cleanup_old_metrics(1, $1) as result",
              [new Date(until + 8 * DAY_MS)],
            );
            more = rows[0].result.more;
            if (!["done", "nothing"].includes(rows[0].result.outcome)) {
              throw new Error(JSON.stringify(rows[0].result));
            }
          }
        }),
      );
      left.dropped = await size("metric_chunks");
    }
    const median = (list: readonly number[]) => quantileOf(list, 0.5);
    const samples = (series * days * MINUTES).toLocaleString("en");
    const mib = (value: number) => `${value.toFixed(0)} MiB`;
    return formatTable(`Clean-up of ${samples} samples`, [
      {
        what: "`cleanup_old_metrics()`: dropping the weeks of their chunks",
        unit: "ms",
        readings: readings.dropped,
      },
      { what: "`DELETE` of the same chunks", unit: "ms", readings: readings.chunks },
      { what: "`DELETE` of the same samples as rows", unit: "ms", readings: readings.rows },
    ], [
      `Dropping is ${
        (median(readings.chunks) / median(readings.dropped)).toFixed(1)
      } times as fast as deleting chunks and ` +
      `${
        (median(readings.rows) / median(readings.dropped)).toFixed(0)
      } times as fast as deleting rows, ` +
      `and gives the space back: of ${mib(left.chunks)} of chunks, ${
        mib(left.dropped)
      } are left after it and ` +
      `${mib(left.chunksAfter)} after DELETE; of ${mib(left.rows)} of rows, ${
        mib(left.rowsAfter)
      } after DELETE.`,
      "\nCommand: `npm run bench -- cleanup`",
    ]);
  });
}
