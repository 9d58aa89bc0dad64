/** A database with days of samples, filled and compacted as production does it. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { startMigratedDatabase } from "../local/database.ts";
import { describeSeries } from "./mix.ts";

export const DAY_MS = 86_400_000;

/** How much is measured: enough to judge by, or only enough to see that a bench works. */
export interface Scale {
  readonly quick: boolean;
}

/** A database of its own while `measure` runs; nothing is left of it afterwards. */
export async function withDatabase<T>(
  measure: (client: pg.Client, connect: () => Promise<pg.Client>, url: string) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "pgvigil-bench-"));
  const database = await startMigratedDatabase({ folder });
  const clients: pg.Client[] = [];
  const connect = async () => {
    const client = new pg.Client({ connectionString: database.url });
    clients.push(client);
    await client.connect();
    await client.query("set statement_timeout = 0");
    return client;
  };
  try {
    return await measure(await connect(), connect, database.url);
  } finally {
    await Promise.all(clients.map((client) => client.end()));
    await database.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

/** Registers the first `count` series of the mix. Their ids are 1 to `count`, which benches rely on. */
export async function registerSeries(client: pg.Client, count: number): Promise<void> {
  const series = JSON.stringify(Array.from({ length: count }, (_, index) => describeSeries(index)));
  await client.query(
    `insert into monitor.metric_definitions (metric, category, unit, kind, description, is_ingestible)
     select entry ->> 'metric', 'performance', 'count', 'gauge', 'Of a bench.', true
     from jsonb_array_elements($1::jsonb) as entry on conflict do nothing`,
    [series],
  );
  await client.query(
    `insert into monitor.metric_series (series_id, metric, labels) overriding system value
     select place, entry ->> 'metric', entry -> 'labels'
     from jsonb_array_elements($1::jsonb) with ordinality as item (entry, place)
     order by place on conflict do nothing`,
    [series],
  );
}

/** Most values of one statement. */
const BATCH = 60_000;

/**
 * Calls `write` with values in the order in which they would have come, all series of a moment before the next one:
 * the array literal of some of them, and the number of the moment (from 0) that they begin with.
 */
export async function inOrderOfTime(
  day: readonly Float64Array[],
  write: (values: string, firstMoment: number) => Promise<unknown>,
): Promise<void> {
  const moments = day[0]!.length;
  const step = Math.max(1, Math.floor(BATCH / day.length));
  for (let first = 0; first < moments; first += step) {
    const values: number[] = [];
    for (let moment = first; moment < Math.min(first + step, moments); moment += 1) {
      for (const series of day) values.push(series[moment]!);
    }
    await write(`{${values.join()}}`, first);
  }
}

/** Stores a day as rows; `samples` holds one array a series, of equally many samples at even steps. */
export async function fillDay(
  client: pg.Client,
  start: Date,
  samples: readonly Float64Array[],
): Promise<void> {
  await client.query("select monitor.ensure_sample_days($1, 0)", [start]);
  const partition = `metric_time_series_${start.toISOString().slice(0, 10).replaceAll("-", "")}`;
  await inOrderOfTime(samples, (values, first) =>
    client.query(
      `insert into monitor.${partition} (recorded_at, value, series_id)
       select to_timestamp(($2::float8 + ($3::int + (place - 1) / $4::int) * $5::float8) / 1000), value, (place - 1) % $4 + 1
       from unnest($1::double precision[]) with ordinality as sample (value, place)`,
      [values, start.getTime(), first, samples.length, DAY_MS / samples[0]!.length],
    ));
  // Autovacuum does so in the two days before a day is compacted.
  await client.query(`vacuum analyze monitor.${partition}`);
}

/** One call of monitor.compact_samples: how many samples it encoded, and how long it took in seconds. */
export interface CompactionStep {
  readonly samples: number;
  readonly seconds: number;
}

/** Brings all days before the one that ended at `end` into chunks and drops their rows, as retention does. */
export async function compactUntil(
  client: pg.Client,
  end: Date,
  onStep: (step: CompactionStep) => void = () => {},
): Promise<void> {
  let now = end.getTime();
  for (let more = true; more;) {
    const startedAt = performance.now();
    const { rows: [row] } = await client.query(
      "select monitor.compact_samples(1, $1) as result",
      [new Date(now)],
    );
    const { outcome, counts, detail } = row.result;
    if (!["done", "held", "nothing"].includes(outcome)) throw new Error(`${outcome}: ${detail}`);
    more = row.result.more;
    onStep({ samples: counts.samples ?? 0, seconds: (performance.now() - startedAt) / 1000 });
    now += 61_000; // rows stay for a minute after their chunks are read
  }
}
