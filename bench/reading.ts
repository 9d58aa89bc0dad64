import type pg from "pg";
import { DAY_MS } from "./history.ts";
import { describeSeries, SHARD_SIZE } from "./mix.ts";
import { formatGoal, formatTable, quantileOf } from "./report.ts";

/** What is read from: both tables hold the same samples of the first `series` series. */
export interface Readable {
  readonly from: Date;
  readonly days: number;
  readonly series: number;
  readonly rounds: number;
}

/** One way to ask for something. */
interface Way {
  readonly what: string;
  /** Gives back one value, as text; parameters as `choose` returns them. */
  readonly sql: string;
  /** Of round `round`, the same for every way. */
  choose(round: number): unknown[];
}

/** Reading chunks, and the same from the plain table, alternately over one connection, as service_role. */
export async function measureReading(
  client: pg.Client,
  { from, days, series, rounds }: Readable,
  log: (line: string) => void,
): Promise<string> {
  const until = new Date(from.getTime() + days * DAY_MS);
  const one = (round: number) => describeSeries((round * 37) % series).metric;
  const shard = (round: number) => `${round % Math.floor(series / SHARD_SIZE)}`;
  const day = (round: number) => new Date(from.getTime() + ((round * 7) % days) * DAY_MS);
  const nextDay = (round: number) => new Date(day(round).getTime() + DAY_MS);
  const namesOf = (round: number) =>
    Array.from(
      { length: SHARD_SIZE },
      (_, index) => describeSeries(Number(shard(round)) * SHARD_SIZE + index).metric,
    );
  const matcher = (name: string, value: string) => JSON.stringify([{ name, op: "=", value }]);

  const buckets: Way[] = [
    {
      what: "1 series by the hour: `read_buckets()`",
      sql: "select monitor.read_buckets($1, $2, $3, '1 hour')::text",
      choose: (round) => [matcher("__name__", one(round)), from, until],
    },
    {
      what: "the same from the plain table, aggregated by hand in SQL",
      sql: `select json_build_object(
          'times', json_agg(extract(epoch from hour) * 1000 order by hour), 'counts', json_agg(count order by hour),
          'sums', json_agg(sum order by hour), 'mins', json_agg(min order by hour), 'maxs', json_agg(max order by hour))::text
        from (
          select date_bin('1 hour', recorded_at, timestamptz '1970-01-01 00:00:00+00') as hour,
            count(*), sum(value), min(value), max(value)
          from plain.system_metrics
          where metric_name = $1 and recorded_at >= $2 and recorded_at < $3
          group by 1
        ) as bucket`,
      choose: (round) => [one(round), from, until],
    },
    {
      what: "its rows as the REST API gives them, to be aggregated by the caller",
      sql: `select json_agg(row)::text
        from (
          select recorded_at, value from plain.system_metrics
          where metric_name = $1 and recorded_at >= $2 and recorded_at < $3 order by recorded_at
        ) as row`,
      choose: (round) => [one(round), from, until],
    },
  ];
  const raw: Way[] = [
    {
      what: `${SHARD_SIZE} series over 24 h: \`read_samples()\``,
      sql: "select monitor.read_samples($1, $2, $3)::text",
      choose: (round) => [matcher("shard", shard(round)), day(round), nextDay(round)],
    },
    {
      what: "the same from the plain table, as arrays by hand in SQL",
      sql: `select json_agg(series)::text
        from (
          select metric_name,
            array_agg((date_part('epoch', recorded_at) * 1000)::bigint order by recorded_at) as times,
            array_agg(value order by recorded_at) as values
          from plain.system_metrics
          where metric_name = any ($1) and recorded_at >= $2 and recorded_at < $3
          group by metric_name
        ) as series`,
      choose: (round) => [namesOf(round), day(round), nextDay(round)],
    },
    {
      what: "its rows as the REST API gives them",
      sql: `select json_agg(row)::text
        from (
          select metric_name, recorded_at, value from plain.system_metrics
          where metric_name = any ($1) and recorded_at >= $2 and recorded_at < $3 order by recorded_at
        ) as row`,
      choose: (round) => [namesOf(round), day(round), nextDay(round)],
    },
  ];

  await client.query("set role service_role; set jit = off"); // which would cost the plain table most
  const read = async (ways: readonly Way[]) => {
    log(ways[0]!.what);
    const readings = ways.map((): number[] => []);
    const bytes = ways.map(() => 0);
    for (let round = -3; round < rounds; round += 1) {
      for (const [index, { sql, choose }] of ways.entries()) {
        const query = { text: sql, values: choose(round + 3), rowMode: "array" } as const;
        const startedAt = performance.now();
        const { rows } = await client.query(query);
        const elapsed = performance.now() - startedAt;
        bytes[index] = rows[0]![0].length;
        if (round >= 0) readings[index]!.push(elapsed);
      }
    }
    return { readings, bytes };
  };
  const hourly = await read(buckets);
  const daily = await read(raw);
  await client.query("reset role");

  const rows = [...buckets, ...raw].map(({ what }, index) => ({
    what,
    unit: "ms",
    readings: [...hourly.readings, ...daily.readings][index]!,
  }));
  const median = (readings: readonly number[]) => quantileOf(readings, 0.5);
  const judge = (
    what: string,
    { readings: [ours, byHand, asRows] }: typeof hourly,
    limit: number,
  ) =>
    [
      formatGoal(
        `${what}, median against the plain table aggregated by hand`,
        median(byHand!) / median(ours!),
        "at least",
        5,
        "× as fast",
      ),
      `  (against its rows: ${(median(asRows!) / median(ours!)).toFixed(1)}×)`,
      formatGoal(`${what}, p95`, quantileOf(ours!, 0.95), "at most", limit, "ms"),
    ].join("\n");
  return formatTable(`Reading: ${days} days, a sample a minute`, rows, [
    judge(`1 series over ${days} days by the hour`, hourly, 30),
    judge(`${SHARD_SIZE} series over 24 h`, daily, 100),
    `\nAlternating, over one connection, with the text of the answer (${
      (daily.bytes[0]! / 1e6).toFixed(1)
    } MB of ${SHARD_SIZE} series). The plain table holds ${series} series only, each under a name of its own, ` +
    "so that its index finds exactly what is asked for.",
  ]);
}
