import { readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import type pg from "pg";
import {
  compactUntil,
  DAY_MS,
  fillDay,
  registerSeries,
  type Scale,
  withDatabase,
} from "./history.ts";
import { createSeries, type Kind, KIND_NOTES, KINDS } from "./mix.ts";
import { createPlainTable, fillPlainDay } from "./plain-table.ts";
import { measureReading } from "./reading.ts";
import { formatGoal, formatTable, quantileOf, type Row } from "./report.ts";
import { startVictoriaMetrics } from "./victoria-metrics.ts";

const MINUTES = 1440;
const START = Date.UTC(2025, 5, 1);
const FULL = { series: 1000, days: 30, plainSeries: 100, rounds: 60 };
const QUICK = { series: 200, days: 3, plainSeries: 100, rounds: 10 };

/**
 * Bytes a sample at rest, compaction, and reading what was compacted; the plain table and VictoriaMetrics beside it.
 * PGVIGIL_BENCH_SERIES (at least 100) and PGVIGIL_BENCH_DAYS in the environment make it another size.
 */
export function measureStorage(log: (line: string) => void, { quick }: Scale): Promise<string> {
  const { plainSeries, rounds, ...usual } = quick ? QUICK : FULL;
  const series = Number(process.env.PGVIGIL_BENCH_SERIES ?? usual.series);
  const days = Number(process.env.PGVIGIL_BENCH_DAYS ?? usual.days);
  return withDatabase(async (client, connect) => {
    const victoria = await startVictoriaMetrics();
    try {
      if (typeof victoria === "string") log(victoria);
      await registerSeries(client, series);
      await createPlainTable(client);
      const generators = Array.from({ length: series }, (_, index) => createSeries(index));
      const dayAt = (day: number) => new Date(START + day * DAY_MS);

      const rates: number[] = [];
      const total = { samples: 0, seconds: 0, longest: 0 };
      let rowBytes = 0;
      for (let day = 0; day < days; day += 1) {
        if (day % 5 === 0) log(`day ${day + 1} of ${days}`);
        const samples = generators.map((next) => next(MINUTES));
        await fillDay(client, dayAt(day), samples);
        rowBytes = await bytesOf(client, "metric_time_series");
        await compactUntil(client, dayAt(day + 1), ({ samples: encoded, seconds }) => {
          if (encoded > 0) rates.push(encoded / seconds);
          total.samples += encoded;
          total.seconds += seconds;
          total.longest = Math.max(total.longest, seconds);
        });
        if (typeof victoria !== "string") await victoria.addDay(dayAt(day), samples);
        await fillPlainDay(client, dayAt(day), samples.slice(0, plainSeries));
      }
      const count = series * days * MINUTES;
      if (total.samples !== count) throw new Error(`${total.samples} of ${count} were compacted`);

      log("sizes");
      for (
        const table of [
          "monitor.metric_chunks",
          "monitor.metric_rollups",
          "monitor.chunk_times",
          "plain.system_metrics",
        ]
      ) await client.query(`vacuum analyze ${table}`);
      const chunks = await bytesOf(client, "metric_chunks");
      const times = await bytesOf(client, "chunk_times");
      const rollups = await bytesOf(client, "metric_rollups");
      const plain = await plainBytes(client) / (plainSeries * days * MINUTES);
      const ofKinds = await measureKinds(client, count, times);
      const found = typeof victoria === "string" ? victoria : await victoria.finish(dayAt(0));

      const mix = (chunks + times) / count;
      const decimals = (ofKinds.percentages.chunks + ofKinds.milliseconds.chunks) / 2;
      const perSample = (what: string, bytes: number): Row => ({
        what,
        unit: "bytes",
        readings: [bytes],
      });
      const rows = [
        perSample("the mix in chunks, with their times", mix),
        perSample("the mix in chunks, with their times and rollups", mix + rollups / count),
        ...KINDS.map((kind) =>
          perSample(`${kind} in chunks (${KIND_NOTES[kind]})`, ofKinds[kind].chunks)
        ),
        ...KINDS.map((kind) => perSample(`rollups of ${kind}`, ofKinds[kind].rollups)),
        perSample("as rows, before they are compacted", rowBytes / (series * MINUTES)),
        perSample("the plain table", plain),
      ];
      const notes = [
        formatGoal("The mix", mix, "at most", 4, "bytes a sample"),
        formatGoal(
          "The mix with rollups, which outlive it",
          mix + rollups / count,
          "at most",
          4,
          "bytes a sample",
        ),
        formatGoal("Decimals", decimals, "at most", 2.5, "bytes a sample"),
        formatGoal("Against the plain table", plain / mix, "at least", 55, "× smaller"),
        `  (with rollups: ${(plain / (mix + rollups / count)).toFixed(0)}×)`,
      ];
      if (typeof found === "string") {
        notes.push(`- VictoriaMetrics: not measured. ${found}`);
      } else {
        rows.push(perSample("VictoriaMetrics", found.bytes / found.samples));
        if (found.samples !== count) {
          notes.push(`- VictoriaMetrics found ${found.samples} of ${count} samples again`);
        }
        notes.push(
          `- Against VictoriaMetrics ${
            typeof victoria === "string" ? "" : victoria.version
          }, everything merged: ${
            (mix / (found.bytes / found.samples)).toFixed(2)
          } times its bytes (it does not keep every bit of a float)`,
        );
      }
      notes.push(
        `\nWith all indexes and TOAST. The plain table was filled with ${plainSeries} of the series: ` +
          `its bytes a row do not depend on how many there are.`,
      );
      const storage = formatTable(
        `Bytes a sample at rest: ${series} series × ${days} days × 1 minute`,
        rows,
        notes,
      );

      const reading = await measureReading(await connect(), {
        from: dayAt(0),
        days,
        series: plainSeries,
        rounds,
      }, log);
      const compaction = await measureCompaction(connect, rates, total, quick, log);
      return `${storage}\n${compaction}\n${reading}\nCommand: \`npm run bench -- storage\`\n`;
    } finally {
      if (typeof victoria !== "string") await victoria.stop();
    }
  });
}

/** Of all partitions of a table of ours, or of itself if it has none, with indexes and TOAST. */
async function bytesOf(client: pg.Client, table: string): Promise<number> {
  const { rows: [row] } = await client.query(
    `select coalesce(sum(pg_total_relation_size(relid)), 0)::float8 as bytes
     from pg_partition_tree(('monitor.' || $1)::regclass)
     where isleaf`,
    [table],
  );
  return row.bytes;
}

async function plainBytes(client: pg.Client): Promise<number> {
  const { rows: [row] } = await client.query(
    "select pg_total_relation_size('plain.system_metrics')::float8 as bytes",
  );
  return row.bytes;
}

/** Bytes a sample of each kind: its chunks and rollups in tables of their own, and its share of the times. */
async function measureKinds(
  client: pg.Client,
  count: number,
  times: number,
): Promise<Record<Kind, { chunks: number; rollups: number }>> {
  const sizes: Partial<Record<Kind, { chunks: number; rollups: number }>> = {};
  for (const [index, kind] of KINDS.entries()) {
    const copy = async (table: string) => {
      await client.query(`create unlogged table plain.only (like monitor.${table} including all)`);
      await client.query(
        `insert into plain.only select * from monitor.${table}
         where (series_id - 1) % $1 = $2 order by day, series_id`,
        [KINDS.length, index],
      );
      await client.query("vacuum plain.only");
      const { rows: [row] } = await client.query(
        "select pg_total_relation_size('plain.only')::float8 as bytes",
      );
      await client.query("drop table plain.only");
      return row.bytes / (count / KINDS.length);
    };
    sizes[kind] = {
      chunks: await copy("metric_chunks") + times / count,
      rollups: await copy("metric_rollups"),
    };
  }
  return sizes as Record<Kind, { chunks: number; rollups: number }>;
}

/** What a backend holds, in MiB: the largest private memory seen, and the largest of all that it ever touched. */
interface Memory {
  readonly own: number;
  readonly all: number;
}

/** Looks at a backend's memory every few milliseconds while `act` runs; undefined where there is no /proc. */
async function watchMemory(pid: number, act: () => Promise<void>): Promise<Memory | undefined> {
  const read = (field: string) => {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    return Number(new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(status)?.[1]) / 1024;
  };
  let own = 0;
  let timer: NodeJS.Timeout | undefined;
  try {
    writeFileSync(`/proc/${pid}/clear_refs`, "5"); // the largest so far begins anew
    own = read("RssAnon");
    timer = setInterval(() => {
      own = Math.max(own, read("RssAnon"));
    }, 5);
  } catch {
    await act();
    return undefined;
  }
  try {
    await act();
  } finally {
    clearInterval(timer);
  }
  return { own, all: read("VmHWM") };
}

/** How fast, how long a step, and how much memory, for days that differ in size and in how often they are sampled. */
async function measureCompaction(
  connect: () => Promise<pg.Client>,
  rates: readonly number[],
  total: { readonly samples: number; readonly seconds: number; readonly longest: number },
  quick: boolean,
  log: (line: string) => void,
): Promise<string> {
  const shapes = quick
    ? [[100, MINUTES], [400, MINUTES], [10, 8640]] as const
    : [[1000, MINUTES], [3000, MINUTES], [50, 86_400]] as const;
  const client = await connect();
  await registerSeries(client, Math.max(...shapes.map(([series]) => series)));
  const rows: Row[] = [
    { what: "a step that encodes, there and back", unit: "samples/s", readings: rates },
  ];
  const notes: string[] = [];
  for (const [index, [series, perDay]] of shapes.entries()) {
    const what = `${series.toLocaleString("en")} series, ${perDay.toLocaleString("en")} a day`;
    log(`memory of a day of ${what}`);
    const start = new Date(START + (100 + index) * DAY_MS);
    const generators = Array.from({ length: series }, (_, number) => createSeries(number));
    await fillDay(client, start, generators.map((next) => next(perDay)));
    // A session of its own, so that what it touches is what compaction touches.
    const session = await connect();
    const { rows: [row] } = await session.query("select pg_backend_pid() as pid");
    const steps: number[] = [];
    const memory = await watchMemory(
      row.pid,
      () =>
        compactUntil(session, new Date(start.getTime() + DAY_MS), ({ seconds }) => {
          steps.push(seconds);
        }),
    );
    rows.push({ what: `steps of a day of ${what}`, unit: "s", readings: steps });
    notes.push(
      memory
        ? `- Memory for a day of ${what}: ${memory.own.toFixed(0)} MiB of its own, ${
          memory.all.toFixed(0)
        } MiB with the shared buffers that it touched`
        : `- Memory for a day of ${what}: cannot be seen on this system`,
      formatGoal(`Longest step of it`, Math.max(...steps), "at most", 5, "s"),
    );
  }
  return formatTable("Compaction", rows, [
    formatGoal(
      "Encoding, median of the steps",
      quantileOf(rates, 0.5),
      "at least",
      500_000,
      "samples/s",
    ),
    `  (with sealing, comparing and dropping: ${
      (total.samples / total.seconds).toFixed(0)
    } samples/s; longest step ${total.longest.toFixed(1)} s)`,
    ...notes,
  ]);
}
