import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import postgres from "postgres";
import { type Scale, withDatabase } from "./history.ts";
import { formatGoal, formatTable, quantileOf, type Row } from "./report.ts";

const SAMPLES = 20_000;
const MINUTE_MS = 60_000;
/** Below the ceiling of series that a metric may have. */
const SERIES_PER_METRIC = 500;
const DAY = Date.UTC(2025, 5, 1);

/** As ingest-metrics sends them. */
function describeSeries(count: number): string {
  return JSON.stringify(Array.from({ length: count }, (_, index) => ({
    metric: `bench_requests_${Math.floor(index / SERIES_PER_METRIC)}_total`,
    labels: {
      job: "orders",
      instance: "api-1",
      route: `/orders/${index % SERIES_PER_METRIC}`,
      http_request_method: "GET",
      http_response_status_code: "200",
    },
    kind: "counter",
    unit: "count",
    description: "",
    is_delta: false,
  })));
}

/** monitor.ingest_samples, and COPY of the same samples into the same table, alternating as service_role. */
export function measureIngestion(log: (line: string) => void, { quick }: Scale): Promise<string> {
  const rounds = quick ? 7 : 25;
  return withDatabase(async (client, connect, url) => {
    await client.query("select monitor.ensure_sample_days($1, 1)", [new Date(DAY)]);
    const caller = await connect();
    await caller.query("set role service_role");
    const copier = postgres(url, { max: 1, onnotice: () => {} });
    await copier.unsafe("set role service_role; set statement_timeout = 0");
    const rows: Row[] = [];
    const notes: string[] = [];
    try {
      let [minute, written] = [0, 0];
      for (const [series, minutes] of [[2000, 10], [20_000, 1]] as const) {
        const what = `${series.toLocaleString("en")} series × ${minutes} min`;
        log(what);
        const sent = describeSeries(series);
        const readings = { called: [] as number[], copied: [] as number[] };
        let seriesIds: number[] = [];

        /** Times, places (from 0) and values, a moment after the other; each round has times of its own. */
        const makeSamples = () => {
          const from = minute;
          minute += minutes;
          written += SAMPLES;
          return Array.from({ length: SAMPLES }, (_, index) => ({
            at: DAY + (from + Math.floor(index / series)) * MINUTE_MS,
            place: index % series,
            value: from * 10 + index % 1000,
          }));
        };
        const call = async () => {
          const samples = makeSamples();
          const parameters = [
            sent,
            `{${samples.map(({ place }) => place + 1).join()}}`,
            `{${samples.map(({ at }) => at).join()}}`,
            `{${samples.map(({ value }) => value).join()}}`,
            new Date(DAY),
          ];
          const startedAt = performance.now();
          const { rows: [row] } = await caller.query(
            "select monitor.ingest_samples($1, $2, $3, $4, $5) as result",
            parameters,
          );
          const seconds = (performance.now() - startedAt) / 1000;
          if (row.result.inserted !== SAMPLES) throw new Error(JSON.stringify(row.result));
          return SAMPLES / seconds;
        };
        const copy = async () => {
          const text = makeSamples()
            .map(({ at, place, value }) =>
              `${new Date(at).toISOString()}\t${value}\t${seriesIds[place]}\n`
            )
            .join("");
          const startedAt = performance.now();
          const target = await copier.unsafe(
            "copy monitor.metric_time_series (recorded_at, value, series_id) from stdin",
          ).writable();
          await pipeline(Readable.from([text]), target);
          return SAMPLES / ((performance.now() - startedAt) / 1000);
        };

        const firstCall = await call(); // makes the series
        const { rows: ids } = await client.query(
          `select series_id from jsonb_array_elements($1::jsonb) with ordinality as item (entry, place)
           join monitor.metric_series as known
             on known.metric = entry ->> 'metric' and known.labels = entry -> 'labels'
           order by place`,
          [sent],
        );
        seriesIds = ids.map(({ series_id }) => series_id);
        for (let round = -2; round < rounds; round += 1) {
          // Who comes first takes turns as well.
          const order = round % 2 === 0 ? [call, copy] : [copy, call];
          for (const act of order) {
            const rate = await act();
            if (round >= 0) (act === call ? readings.called : readings.copied).push(rate);
          }
        }
        // What COPY had not finished when it said so would flatter it.
        const { rows: [stored] } = await client.query(
          "select count(*)::int as count from monitor.metric_time_series",
        );
        if (stored.count !== written) throw new Error(`${stored.count} of ${written} are stored`);
        rows.push(
          { what: `\`ingest_samples()\`, ${what}`, unit: "samples/s", readings: readings.called },
          { what: `\`COPY\`, ${what}`, unit: "samples/s", readings: readings.copied },
        );
        const share = quantileOf(readings.called, 0.5) / quantileOf(readings.copied, 0.5);
        notes.push(
          formatGoal(`${what}, of \`COPY\``, 100 * share, "at least", 60, "%"),
          `  (the first call, which makes the series: ${firstCall.toFixed(0)} samples/s)`,
        );
      }
    } finally {
      await copier.end();
    }
    return formatTable(`Ingestion: ${SAMPLES.toLocaleString("en")} samples a call`, rows, [
      ...notes,
      "\nAlternating into one table with its key and checks; every call has new times. " +
      "`COPY` is given the ids of the series; the function finds them by name and labels, locks them and notes their last time." +
      "\n\nCommand: `npm run bench -- ingestion`",
    ]);
  });
}
