import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import pg from "pg";
import { describe, expect } from "vitest";
import { applyMigrations, startDatabase } from "../../local/database.ts";
import { poll } from "../../local/processes.ts";
import type { IngestionResult } from "../../shared/contract/ingestion.ts";
import { it, type OwnDatabase, type Query, queryOf, waitUntilBlocking } from "./database.ts";
import { compact } from "./retention.ts";
import { addMetric, DAY, iso, NOON, openDays, range, SECOND } from "./seeds.ts";
import { killServer } from "./kill-server.ts";

type Sent = readonly [position: number, at: number, value: number];

const entry = (metric: string, n: number, isDelta = false) => ({
  metric,
  labels: { n: String(n) },
  kind: isDelta ? "counter" : "gauge",
  unit: "",
  description: "",
  is_delta: isDelta,
});

async function ingest(
  query: Query,
  series: unknown,
  samples: readonly Sent[],
): Promise<IngestionResult> {
  const { rows } = await query<{ result: IngestionResult }>(
    "select monitor.ingest_samples($1, $2, $3, $4, $5) as result",
    [
      JSON.stringify(series),
      samples.map(([position]) => position),
      samples.map(([, at]) => at),
      samples.map(([, , value]) => value),
      iso(NOON),
    ],
  );
  return rows[0]!.result;
}

/** Samples `[at, value]` by label n. */
async function readRows(query: Query): Promise<Record<string, [number, number][]>> {
  const { rows } = await query<{ n: string; samples: [number, number][] }>(`
    select labels ->> 'n' as n, jsonb_agg(jsonb_build_array(monitor.epoch_ms(recorded_at), value) order by recorded_at) as samples
    from monitor.metric_time_series join monitor.metric_series using (series_id) group by 1`);
  return Object.fromEntries(rows.map(({ n, samples }) => [n, samples]));
}

const WRITERS = 10;

const connectAll = (database: OwnDatabase) =>
  Promise.all(range(WRITERS).map(async () => queryOf(await database.connect())));

const total = (
  answers: readonly IngestionResult[],
  key: "inserted" | "duplicates" | "overflowed",
) => answers.reduce((sum, answer) => sum + answer[key], 0);

describe("ten concurrent writers of monitor.ingest_samples()", () => {
  it("make a day, metrics and series once, whatever order they name them in", async ({ ownDatabase }) => {
    const writers = await connectAll(ownDatabase);
    const metrics = range(20).map((n) => `new_metric_${n}`);
    const answers = await Promise.all(writers.map((query, writer) => {
      const order = writer % 2 === 0 ? metrics : metrics.toReversed();
      const series = order.flatMap((metric) => {
        const sets = range(5).map((n) => entry(metric, n));
        return writer % 3 === 0 ? sets : sets.toReversed();
      });
      return ingest(query, series, series.map((_, index): Sent => [index + 1, NOON, 1]));
    }));
    expect(total(answers, "inserted")).toBe(100);
    expect(total(answers, "duplicates")).toBe(900);
    const { rows } = await writers[0]!(
      `select (select count(*)::int from monitor.metric_series) as series,
         (select count(*)::int from monitor.metric_time_series) as samples`,
    );
    expect(rows).toEqual([{ series: 100, samples: 100 }]);
  });

  it("registers metrics in one order, so that two who name them differently cannot deadlock", async ({ ownDatabase }) => {
    const [one, two] = [await ownDatabase.connect(), await ownDatabase.connect()];
    await openDays(queryOf(one));
    // The first has registered metric b only, and registers a while the other waits for it.
    await one.query("begin");
    await ingest(queryOf(one), [entry("order_b", 0)], [[1, NOON, 1]]);
    const waiting = ingest(queryOf(two), [entry("order_c", 0), entry("order_b", 0)], [
      [1, NOON, 1],
      [2, NOON, 2],
    ]);
    await waitUntilBlocking(queryOf(one));
    expect(await ingest(queryOf(one), [entry("order_c", 0)], [[1, NOON, 3]])).toMatchObject({
      inserted: 1,
    });
    await one.query("commit");
    expect(await waiting).toMatchObject({ inserted: 0, duplicates: 2 });
  });

  it("store the same samples once and interleaved ones all", async ({ ownDatabase }) => {
    const writers = await connectAll(ownDatabase);
    await openDays(writers[0]!);
    const series = range(5).map((n) => entry("shared_metric", n));
    const answers = (await Promise.all(writers.map(async (query, writer) => {
      const isForth = writer % 2 === 0; // the others name the series the other way round
      const places = isForth ? range(5) : range(5).reverse();
      const sent = isForth ? series : series.toReversed();
      const mine: IngestionResult[] = [];
      for (const batch of range(10)) {
        const at = NOON + batch * SECOND;
        mine.push(
          await ingest(query, sent, places.map((n, index): Sent => [index + 1, at, n])),
          await ingest(
            query,
            sent,
            places.map((_, index): Sent => [index + 1, at + 1 + writer, writer]),
          ),
        );
      }
      return mine;
    }))).flat();
    expect(total(answers, "inserted")).toBe(5 * 10 + 5 * 10 * WRITERS);
    expect(total(answers, "duplicates")).toBe(5 * 10 * (WRITERS - 1));
    const expected = (n: number) =>
      range(10).flatMap((batch) => [
        [NOON + batch * SECOND, n],
        ...range(WRITERS).map((writer) => [NOON + batch * SECOND + 1 + writer, writer]),
      ]);
    expect(await readRows(writers[0]!)).toEqual(
      Object.fromEntries(range(5).map((n) => [String(n), expected(n)])),
    );
  });

  it("lose no increment and count none twice", async ({ ownDatabase }) => {
    const writers = await connectAll(ownDatabase);
    await openDays(writers[0]!);
    const series = range(3).map((n) => entry("increments_total", n, true));
    const accepted = [0, 0, 0];
    await Promise.all(writers.map(async (query, writer) => {
      for (const n of range(20)) {
        // One series at a time, so that the answer says whether its increment counted.
        const place = (n + writer) % 3;
        const { inserted } = await ingest(query, series, [[
          place + 1,
          NOON + n * SECOND + writer,
          writer + 1,
        ]]);
        accepted[place]! += inserted * (writer + 1);
      }
    }));
    const { rows } = await writers[0]!<{ total: number; last: number }>(`
      select delta_total as total,
        (select value from monitor.metric_time_series where series_id = series.series_id order by recorded_at desc limit 1) as last
      from monitor.metric_series as series order by labels ->> 'n'`);
    expect(rows).toEqual(accepted.map((sum) => ({ total: sum, last: sum })));
  });

  it("stay under the ceiling of a metric together", async ({ ownDatabase }) => {
    const writers = await connectAll(ownDatabase);
    await openDays(writers[0]!);
    const metric = await addMetric(writers[0]!, { is_ingestible: true, series_limit: 25 });
    const answers = await Promise.all(writers.map((query, writer) =>
      ingest(
        query,
        range(10).map((n) => entry(metric, writer * 10 + n)),
        range(10).map((n): Sent => [n + 1, NOON, 1]),
      )
    ));
    expect(total(answers, "inserted")).toBe(25);
    expect(total(answers, "overflowed")).toBe(75);
    const { rows } = await writers[0]!("select count(*)::int as n from monitor.metric_series");
    expect(rows).toEqual([{ n: 26 }]);
  });
});

describe("a day that is written to", () => {
  it("is not sealed before the writer has ended", async ({ ownDatabase }) => {
    const writer = await ownDatabase.connect();
    const query = queryOf(await ownDatabase.connect());
    await openDays(query, NOON - 2 * DAY, 3);
    await writer.query("begin");
    await ingest(queryOf(writer), [entry("held", 0)], [[1, NOON - 2 * DAY, 1]]);
    const state = async () =>
      (await query("select state from monitor.sample_days where day = $1", [
        iso(NOON - 2 * DAY).slice(0, 10),
      ])).rows;
    expect(await compact(query)).toMatchObject({ outcome: "contended" });
    expect(await state()).toEqual([{ state: "rows" }]);
    await writer.query("commit");
    await compact(query);
    expect(await state()).toEqual([{ state: "sealed" }]);
  });
});

describe("a series that is deleted while samples of it arrive", () => {
  it("is asked for again, rather than leaving samples of nobody", async ({ ownDatabase }) => {
    const [deleter, writer] = [await ownDatabase.connect(), queryOf(await ownDatabase.connect())];
    await openDays(writer);
    await ingest(writer, [entry("old_metric", 0)], [[1, NOON, 1]]);
    await deleter.query("begin");
    await deleter.query("delete from monitor.metric_series");
    const sent = ingest(writer, [entry("old_metric", 0)], [[1, NOON + 1, 2]]).then(
      () => "stored",
      (error) => error,
    );
    await waitUntilBlocking(queryOf(deleter));
    await deleter.query("commit");
    expect(await sent).toMatchObject({ code: "40001" });
    expect(await ingest(writer, [entry("old_metric", 0)], [[1, NOON + 1, 2]])).toMatchObject({
      inserted: 1,
    });
  });
});

describe.skipIf(process.platform !== "linux")("a server that is killed during ingestion", () => {
  it("has every sample once, and every increment, when what was not answered is sent again", {
    timeout: 120_000,
  }, async () => {
    const folder = await mkdtemp(join(tmpdir(), "pgvigil-tests-"));
    let database = await startDatabase({ folder });
    const clients: pg.Client[] = [];
    const connect = async () => {
      const client = new pg.Client({ connectionString: database.adminUrl });
      client.on("error", () => {}); // the server is killed
      clients.push(client);
      await client.connect();
      await client.query("set session authorization service_role; set timezone to 'UTC'");
      return queryOf(client);
    };
    try {
      await applyMigrations(database.url);
      await openDays(await connect());
      const senders = range(4);
      const done = senders.map(() => 0);
      const requests = 150;
      let answered = 0;
      const send = async (query: Query, sender: number, until: number) => {
        const series = range(5).flatMap((n) => [
          entry("killed_gauge", sender * 5 + n),
          entry("killed_total", 100 + sender * 5 + n, true),
        ]);
        while (done[sender]! < until) {
          const at = NOON + done[sender]! * SECOND;
          await ingest(query, series, series.map((_, index): Sent => [index + 1, at, index + 1]));
          done[sender]! += 1;
          answered += 1;
        }
      };
      for (const kill of range(3)) {
        const target = answered + 40 + 20 * kill;
        const sending = senders.map(async (sender) => send(await connect(), sender, requests));
        const ended = Promise.allSettled(sending);
        expect(await poll(() => answered >= target ? true : undefined, 20)).toBe(true);
        await killServer(folder);
        expect((await ended).some(({ status }) => status === "rejected")).toBe(true);
        await Promise.all(clients.splice(0).map((client) => client.end().catch(() => {})));
        database = await startDatabase({ folder });
      }
      await Promise.all(senders.map(async (sender) => send(await connect(), sender, requests)));
      const expected = Object.fromEntries(senders.flatMap((sender) =>
        range(5).flatMap((n) => [
          [String(sender * 5 + n), range(requests).map((r) => [NOON + r * SECOND, 2 * n + 1])],
          [
            String(100 + sender * 5 + n),
            range(requests).map((r) => [NOON + r * SECOND, (r + 1) * (2 * n + 2)]),
          ],
        ])
      ));
      expect(await readRows(await connect())).toEqual(expected);
    } finally {
      await Promise.all(clients.map((client) => client.end().catch(() => {})));
      await database.stop();
      await rm(folder, { recursive: true, force: true });
    }
  });
});
