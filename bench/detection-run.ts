import pg from "pg";
import { detector } from "../shared/detection/current-detector.ts";
import {
  DEFAULT_THRESHOLD,
  type DetectionInput,
  type Forecast,
  type Sample,
} from "../shared/detection/detector.ts";
import { DEFAULT_SETTINGS } from "../scripts/detection/replay-series.ts";
import {
  compactUntil,
  DAY_MS,
  fillDay,
  inOrderOfTime,
  registerSeries,
  type Scale,
} from "./history.ts";
import { createSeries } from "./mix.ts";
import { formatGoal, formatTable, quantileOf } from "./report.ts";
import { callMeasured, type StackFolder, withStack } from "./stack.ts";

const MINUTE = 60_000;
const PER_DAY = 1440;
const RUN_SAMPLES = 5;
/** So many runs are two hours: once in them every series writes all that it remembers. */
const RUNS = 24;
const WARM_UP_RUNS = 4;
/** Days that the detector has seen in either database, before what is stored of them differs. */
const SEEN_DAYS = 14;
/** Samples are stored ahead of the clock, so that runs may follow each other at once and none is missing meanwhile. */
const AHEAD_MS = 30 * MINUTE;
/** Series with values of their own; the others repeat them. */
const SHAPES = 40;
/** Days before today that retention leaves in rows. */
const DAYS_IN_ROWS = 2;

/** What one run came to. */
interface Reading {
  readonly milliseconds: number;
  /** CPU of the process of the functions, in ms; null where the system does not tell. */
  readonly cpu: number | null;
  readonly walBytes: number;
  readonly openedCount: number;
}

/** What the series are, and what their detector knows of them when the runs begin. */
interface Past {
  /** From midnight, {@link SEEN_DAYS} ago, to the end of the runs; a minute each. */
  readonly shapes: readonly Float64Array[];
  readonly startAt: number;
  /** Minutes that have been judged when the runs begin. */
  readonly judgedCount: number;
  readonly saved: readonly Saved[];
}

interface Saved {
  readonly state: unknown;
  readonly memory: string | null;
  readonly forecast: Forecast | null;
  readonly silentAt: number | null;
}

/** Fourteen days of every shape, and the detector led over them up to now as the job does it. */
function makePast(now: number): Past {
  const startAt = Math.floor(now / DAY_MS) * DAY_MS - SEEN_DAYS * DAY_MS;
  const judgedCount = Math.floor((now - startAt) / MINUTE / RUN_SAMPLES) * RUN_SAMPLES;
  const shapes = Array.from({ length: SHAPES }, (_, index) => {
    const next = createSeries(index);
    return Float64Array.from(
      Array.from({ length: SEEN_DAYS + 2 }, () => Array.from(next(PER_DAY))).flat(),
    );
  });
  const saved = shapes.map((values): Saved => {
    const samples = Array.from(
      values.subarray(0, judgedCount),
      (value, at): Sample => ({ at: startAt + at * MINUTE, value }),
    );
    let last: Saved = { state: null, memory: null, forecast: null, silentAt: null };
    let openAnomaly: DetectionInput["openAnomaly"] = null;
    for (let from = 0; from < samples.length; from += PER_DAY) {
      const { state, memory } = last;
      const found = detector.detectSeries({
        ...{ state, memory, openAnomaly, kind: "gauge", spans: [], deploys: [], now: null },
        samples: samples.slice(from, from + PER_DAY),
        settings: { ...DEFAULT_SETTINGS, threshold: DEFAULT_THRESHOLD },
      });
      last = { ...found, forecast: found.forecast ?? last.forecast };
      for (const { startedAt, endedAt } of found.events) {
        openAnomaly = endedAt === null ? { startedAt } : null;
      }
    }
    return last;
  });
  return { shapes, startAt, judgedCount, saved };
}

/** Stores minutes `from` to `until` of all series, as a collector would have. */
async function storeMinutes(
  client: pg.Client,
  { shapes, startAt }: Past,
  seriesCount: number,
  from: number,
  until: number,
): Promise<void> {
  const minutes = Array.from(
    { length: seriesCount },
    (_, index) => shapes[index % SHAPES]!.subarray(from, until),
  );
  await inOrderOfTime(minutes, (values, first) =>
    client.query(
      `insert into monitor.metric_time_series (recorded_at, value, series_id)
       select to_timestamp(($2::float8 + ($3::int + (place - 1) / $4::int) * 60000.0) / 1000), value, (place - 1) % $4 + 1
       from unnest($1::double precision[]) with ordinality as sample (value, place)`,
      [values, startAt + from * MINUTE, first, seriesCount],
    ));
  await client.query("update monitor.metric_series set last_sample_at = $1", [
    new Date(startAt + (until - 1) * MINUTE),
  ]);
}

/** A database whose series have been judged up to now, with `days` of their samples stored. */
async function makeHistory(
  client: pg.Client,
  past: Past,
  seriesCount: number,
  days: number,
): Promise<void> {
  const { shapes, startAt, judgedCount, saved } = past;
  const today = startAt + SEEN_DAYS * DAY_MS;
  await registerSeries(client, seriesCount);
  for (let ago = days; ago > 0; ago -= 1) {
    const start = new Date(today - ago * DAY_MS);
    const first = (SEEN_DAYS - ago) * PER_DAY;
    const day = Array.from(
      { length: seriesCount },
      (_, index) => shapes[index % SHAPES]!.subarray(first, first + PER_DAY),
    );
    await fillDay(client, start, day);
    if (ago > DAYS_IN_ROWS) await compactUntil(client, new Date(start.getTime() + DAY_MS));
  }
  await client.query("select monitor.ensure_sample_days($1, 2)", [new Date(today)]);
  await storeMinutes(client, past, seriesCount, SEEN_DAYS * PER_DAY, judgedCount);
  for (let first = 0; first < seriesCount; first += 100) {
    const updates = Array.from({ length: Math.min(100, seriesCount - first) }, (_, index) => {
      const { state, memory, forecast, silentAt } = saved[(first + index) % SHAPES]!;
      return {
        ...{ series_id: first + index + 1, previous_sample_at: null, events: [] },
        last_sample_at: startAt + (judgedCount - 1) * MINUTE,
        ...{ state_version: detector.version, state, memory, forecast, silent_at: silentAt },
      };
    });
    await client.query("select monitor.record_detections(null, $1)", [JSON.stringify(updates)]);
  }
  // Their history counts as replayed: what is measured is a run, not the time that it lends to replays.
  await client.query("delete from monitor.detector_replays");
  await client.query("update monitor.detector_states set calibrated_at = now(), threshold = 0.5");
  await client.query("vacuum analyze");
}

/** One stack with its series; each call of the result brings five new samples a series and has them judged. */
async function prepare(
  stack: StackFolder,
  past: Past,
  seriesCount: number,
  days: number,
) {
  const client = new pg.Client({ connectionString: stack.facts.db_url });
  const admin = new pg.Client({ connectionString: stack.facts.admin_db_url });
  await Promise.all([client.connect(), admin.connect()]);
  await client.query("set statement_timeout = 0");
  await makeHistory(client, past, seriesCount, days);
  let stored = past.judgedCount;

  const readWal = async () =>
    Number((await admin.query("select pg_current_wal_insert_lsn() - '0/0' as at")).rows[0].at);

  const run = async (): Promise<Reading> => {
    await storeMinutes(client, past, seriesCount, stored, stored + RUN_SAMPLES);
    stored += RUN_SAMPLES;
    const walBefore = await readWal();
    const { answer, milliseconds, cpu } = await callMeasured(stack, "detect-anomalies");
    const { series, samples, opened, complete, failed_count } = answer;
    if (
      series !== seriesCount || samples !== seriesCount * RUN_SAMPLES || !complete ||
      failed_count !== 0
    ) {
      throw new Error(`A run judged something else: ${JSON.stringify(answer)}`);
    }
    return {
      milliseconds,
      cpu,
      walBytes: (await readWal() - walBefore) / seriesCount,
      openedCount: Number(opened),
    };
  };
  return {
    run,
    checkpoint: () => admin.query("checkpoint"),
    /** Whether the first change of a page after a checkpoint writes all of it to the WAL. */
    async writeWholePages(isOn: boolean): Promise<void> {
      await admin.query(`alter system set full_page_writes = ${isOn ? "on" : "off"}`);
      await admin.query("select pg_reload_conf()");
      await admin.query("checkpoint");
    },
    end: () => Promise.all([client.end(), admin.end()]),
  };
}

/** Runs of detect-anomalies over HTTP: two stacks side by side, one with little history stored and one with much. */
export async function measureDetectionRun(
  log: (line: string) => void,
  { quick }: Scale,
): Promise<string> {
  const [seriesCount, longDays, runs] = quick ? [100, 4, 4] : [1000, 14, RUNS];
  log("a past for the detector");
  const past = makePast(Date.now() + AHEAD_MS);
  return await withStack(56361, (_, shortFolder) =>
    withStack(56371, async (_, longFolder) => {
      log("1 day of history");
      const short = await prepare(shortFolder, past, seriesCount, 1);
      log(`${longDays} days of history`);
      const long = await prepare(longFolder, past, seriesCount, longDays);
      try {
        const readings = { short: [] as Reading[], long: [] as Reading[] };
        await Promise.all([short.writeWholePages(false), long.writeWholePages(false)]);
        for (let place = -WARM_UP_RUNS; place < runs; place += 1) {
          for (
            const which of place % 2 === 0 ? ["short", "long"] as const : ["long", "short"] as const
          ) {
            const reading = await (which === "short" ? short : long).run();
            if (place >= 0) readings[which].push(reading);
          }
          if (place % 6 === 0) log(`run ${place} of ${runs}`);
        }
        log("with a checkpoint before each run");
        await long.writeWholePages(true);
        const checkpointed: Reading[] = [];
        for (let place = 0; place < runs; place += 1) {
          await long.checkpoint();
          checkpointed.push(await long.run());
        }
        return formatRuns({ ...readings, checkpointed }, seriesCount, longDays);
      } finally {
        await Promise.all([short.end(), long.end()]);
      }
    }));
}

function formatRuns(
  { short, long, checkpointed }: Record<"short" | "long" | "checkpointed", readonly Reading[]>,
  seriesCount: number,
  longDays: number,
): string {
  const times = (readings: readonly Reading[]) => readings.map(({ milliseconds }) => milliseconds);
  const cpus = (readings: readonly Reading[]) =>
    readings.flatMap(({ cpu }) => cpu === null ? [] : [cpu]);
  const walOf = (readings: readonly Reading[]) => readings.map(({ walBytes }) => walBytes);
  const middle = (readings: readonly number[]) => quantileOf(readings, 0.5);
  const meanOf = (readings: readonly number[]) =>
    readings.reduce((sum, reading) => sum + reading, 0) / readings.length;
  const all = [...short, ...long];
  const hasCpu = cpus(all).length > 0;
  const openedCount = all.reduce((sum, reading) => sum + reading.openedCount, 0);
  return formatTable(
    `A run of detection, ${seriesCount} series × ${RUN_SAMPLES} new samples`,
    [
      { what: "1 day stored, wall", unit: "ms", readings: times(short) },
      { what: `${longDays} days stored, wall`, unit: "ms", readings: times(long) },
      ...(hasCpu
        ? [
          { what: "1 day stored, CPU", unit: "ms", readings: cpus(short) },
          { what: `${longDays} days stored, CPU`, unit: "ms", readings: cpus(long) },
        ]
        : []),
      { what: "WAL a series and run", unit: "bytes", readings: walOf(long) },
      {
        what: "the same with a checkpoint before each run",
        unit: "bytes",
        readings: walOf(checkpointed),
      },
    ],
    [
      formatGoal("Wall, median", middle(times(all)), "at most", 1500, "ms"),
      formatGoal("Wall, the slowest", Math.max(...times(all)), "at most", 1500, "ms"),
      hasCpu
        ? formatGoal("CPU in the function, the most", Math.max(...cpus(all)), "at most", 700, "ms")
        : "- CPU in the function: cannot be seen on this system",
      formatGoal(
        `${longDays} days stored against 1, wall`,
        middle(times(long)) / middle(times(short)),
        "at most",
        1.1,
        "×",
      ),
      formatGoal("WAL a series and run, mean", meanOf(walOf(long)), "at most", 1536, "bytes"),
      `- The same with a checkpoint before each run: ${
        meanOf(walOf(checkpointed)).toFixed(0)
      } bytes`,
      `\nTwo databases side by side, alternating; in both the detector has seen ${SEEN_DAYS} days of minutes of every series. ` +
      `${RUNS} runs of five minutes are two hours: in one of them every series writes all that it remembers (the largest ` +
      "readings), so their mean is that of a day. CPU is that of the whole process of Deno from before the call until its answer, " +
      "user and system, all threads, in steps of 10 ms: compiling and collecting garbage are in it, the REST API and Postgres are " +
      "not. WAL is what the whole run wrote, its own bookkeeping included. After a checkpoint Postgres writes each page whole that it " +
      "touches: how often that is depends on the server, so it is left out of the first figure, and happens in every run of the " +
      `second. The local REST API is a stand-in; nothing was left to replay; ${openedCount} anomalies were opened in ${all.length} runs.`,
      "\nCommand: `npm run bench -- detection-run`",
    ],
  );
}
