import type pg from "pg";
import {
  compactUntil,
  DAY_MS,
  fillDay,
  registerSeries,
  type Scale,
  withDatabase,
} from "./history.ts";
import { createSeries, describeSeries } from "./mix.ts";
import { formatGoal, formatTable, quantileOf } from "./report.ts";

const SERIES = 1000;
/** Of a series, in the days that lie behind: a chunk is a row however many samples it holds. */
const PER_DAY = 144;
const TODAY = Date.UTC(2025, 5, 1);
const DAYS_IN_ROWS = 2;

/** A database whose last `days` days are in chunks and the two before today in rows, as retention leaves them. */
async function makeHistory(client: pg.Client, days: number): Promise<void> {
  await registerSeries(client, SERIES);
  const generators = Array.from({ length: SERIES }, (_, index) => createSeries(index));
  for (let ago = days + DAYS_IN_ROWS; ago > 0; ago -= 1) {
    const start = new Date(TODAY - ago * DAY_MS);
    await fillDay(client, start, generators.map((next) => next(PER_DAY)));
    if (ago > DAYS_IN_ROWS) await compactUntil(client, new Date(start.getTime() + DAY_MS));
  }
  await client.query("select monitor.ensure_sample_days($1, 2)", [new Date(TODAY)]);
  await client.query("vacuum analyze");
  await client.query("set role service_role");
}

/** The same calls of monitor.ingest_samples into two databases in turn: one with a day behind it, one with sixty. */
export function measureWriteCost(log: (line: string) => void, { quick }: Scale): Promise<string> {
  const [longDays, calls] = quick ? [6, 40] : [60, 300];
  return withDatabase((short) =>
    withDatabase(async (long) => {
      log("1 day of history");
      await makeHistory(short, 1);
      log(`${longDays} days of history`);
      await makeHistory(long, longDays);

      log("writing");
      const series = JSON.stringify(Array.from({ length: SERIES }, (_, index) => {
        const { metric, labels } = describeSeries(index);
        return { metric, labels, kind: "gauge", unit: "count", description: "", is_delta: false };
      }));
      const positions = `{${Array.from({ length: SERIES }, (_, index) => index + 1).join()}}`;
      const values = `{${Array.from({ length: SERIES }, (_, index) => index / 4).join()}}`;
      const write = async (client: pg.Client, minute: number) => {
        const at = TODAY + minute * 60_000;
        const parameters = [series, positions, `{${Array(SERIES).fill(at).join()}}`, values];
        const startedAt = performance.now();
        const { rows: [row] } = await client.query(
          "select monitor.ingest_samples($1, $2, $3, $4, $5) as result",
          [...parameters, new Date(at)],
        );
        const elapsed = performance.now() - startedAt;
        if (row.result.inserted !== SERIES) throw new Error(JSON.stringify(row.result));
        return elapsed;
      };
      const readings = { short: [] as number[], long: [] as number[] };
      for (let minute = -10; minute < calls; minute += 1) {
        const order = minute % 2 === 0 ? ["short", "long"] as const : ["long", "short"] as const;
        for (const which of order) {
          const elapsed = await write(which === "short" ? short : long, minute + 10);
          if (minute >= 0) readings[which].push(elapsed);
        }
      }
      const ratio = quantileOf(readings.long, 0.5) / quantileOf(readings.short, 0.5);
      return formatTable(`Cost of a write of ${SERIES} samples as history grows`, [
        { what: "1 day in chunks", unit: "ms", readings: readings.short },
        { what: `${longDays} days in chunks`, unit: "ms", readings: readings.long },
      ], [
        formatGoal(`${longDays} days against 1`, ratio, "at most", 1.1, "×"),
        "\nTwo databases side by side, alternating, each with 1,000 series and two more days in rows." +
        "\n\nCommand: `npm run bench -- write-cost`",
      ]);
    })
  );
}
