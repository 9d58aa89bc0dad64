/** The table of the systems that this one replaces: a row a sample, with its name, labels and an id of its own. */
import type pg from "pg";
import { DAY_MS, inOrderOfTime } from "./history.ts";
import { describeSeries } from "./mix.ts";

export async function createPlainTable(client: pg.Client): Promise<void> {
  await client.query(`
    create schema plain;
    grant usage on schema plain to service_role;
    create table plain.system_metrics (
      id uuid primary key default gen_random_uuid(),
      metric_name text not null,
      value double precision not null,
      labels jsonb not null,
      recorded_at timestamptz not null
    );
    create index on plain.system_metrics (metric_name, recorded_at desc);
    create index on plain.system_metrics (recorded_at);
    grant select on plain.system_metrics to service_role;`);
}

/** Adds a day, as history's fillDay does. */
export async function fillPlainDay(
  client: pg.Client,
  start: Date,
  samples: readonly Float64Array[],
): Promise<void> {
  const series = samples.map((_, index) => describeSeries(index));
  await inOrderOfTime(samples, (values, first) =>
    client.query(
      `insert into plain.system_metrics (metric_name, value, labels, recorded_at)
       select series.metric, sample.value, series.labels,
         $2::timestamptz + ($3 + (place - 1) / $4) * $5 * interval '1 millisecond'
       from unnest($1::double precision[]) with ordinality as sample (value, place)
       join (
         select number, entry ->> 'metric' as metric, entry -> 'labels' as labels
         from jsonb_array_elements($6::jsonb) with ordinality as item (entry, number)
       ) as series on series.number = (place - 1) % $4 + 1
       order by place`,
      [values, start, first, samples.length, DAY_MS / samples[0]!.length, JSON.stringify(series)],
    ));
}
