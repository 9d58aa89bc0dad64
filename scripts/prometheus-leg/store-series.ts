import type pg from "pg";
import { METRIC_NAME, type SampledSeries } from "../../shared/promql/series.ts";

/** Most samples of one statement. */
const BATCH = 100_000;
const DAY = 86_400_000;

/** Puts series into a database that does not have them, as samples in rows. Names that end like a counter's are counters. */
export async function storeSeries(
  client: pg.Client,
  series: readonly SampledSeries[],
): Promise<void> {
  const described = series.map(({ labels: { [METRIC_NAME]: metric, ...labels }, times }) => ({
    metric,
    labels,
    created_at: new Date(times[0]!).toISOString(),
    kind: /_(?:total|bucket|count|sum)$/.test(metric!) ? "counter" : "gauge",
    last_sample_at: new Date(times[times.length - 1]!).toISOString(),
  }));
  await client.query(
    `insert into monitor.metric_definitions (metric, category, unit, kind, description, is_ingestible, series_limit)
     select distinct entry ->> 'metric', 'performance', 'unknown', entry ->> 'kind', 'Made to compare.', true, 100000
     from jsonb_array_elements($1::jsonb) as entry
     on conflict do nothing`,
    [JSON.stringify(described)],
  );
  const { rows } = await client.query<{ series_id: number }>(
    `with entry as (
       select value as entry, position from jsonb_array_elements($1::jsonb) with ordinality as item (value, position)
     ), stored as (
       insert into monitor.metric_series (metric, labels, created_at, last_sample_at)
       select entry ->> 'metric', entry -> 'labels', (entry ->> 'created_at')::timestamptz,
         (entry ->> 'last_sample_at')::timestamptz
       from entry order by position
       returning series_id, metric, labels
     )
     select stored.series_id from entry
     join stored on stored.metric = entry ->> 'metric' and stored.labels = entry -> 'labels' order by position`,
    [JSON.stringify(described)],
  );
  const [first, last] = edges(series);
  await client.query("select monitor.ensure_sample_days($1, $2)", [
    new Date(first),
    Math.floor(last / DAY) - Math.floor(first / DAY),
  ]);
  let batch: Batch = { ids: [], times: [], values: [] };
  for (const [index, { times, values }] of series.entries()) {
    for (let i = 0; i < times.length; i += 1) {
      batch.ids.push(rows[index]!.series_id);
      batch.times.push(times[i]!);
      batch.values.push(values[i]!);
    }
    if (batch.ids.length < BATCH && index < series.length - 1) continue;
    await storeBatch(client, batch);
    batch = { ids: [], times: [], values: [] };
  }
}

interface Batch {
  readonly ids: number[];
  readonly times: number[];
  readonly values: number[];
}

async function storeBatch(client: pg.Client, { ids, times, values }: Batch): Promise<void> {
  // In the order in which they would have come.
  await client.query(
    `insert into monitor.metric_time_series (recorded_at, value, series_id)
     select to_timestamp(time / 1000.0), value, series_id
     from unnest($1::integer[], $2::float8[], $3::float8[]) as sample (series_id, time, value)
     order by time, series_id`,
    [`{${ids.join()}}`, `{${times.join()}}`, `{${values.join()}}`],
  );
}

/** Times of the first and the last sample of all. */
function edges(series: readonly SampledSeries[]): [number, number] {
  let [first, last] = [Infinity, -Infinity];
  for (const { times } of series) {
    first = Math.min(first, times[0]!);
    last = Math.max(last, times[times.length - 1]!);
  }
  return [first, last];
}
