import pg from "pg";
import { formatTable } from "./report.ts";
import { withStack } from "./stack.ts";

const RUNS = 60;

/** A collection with every shipped collector, over HTTP; beside it, what its parts take. */
export function measureCollection(log: (line: string) => void): Promise<string> {
  return withStack(56321, async (facts) => {
    const client = new pg.Client({ connectionString: facts.db_url });
    await client.connect();
    await client.query(`create view monitor.submissions as
      select now() as submitted_at, null::timestamptz as reviewed_at, 'pending' as status`);
    const whole: number[] = [];
    const slowest: number[] = [];
    const insideSql: number[] = [];
    const trivial: number[] = [];
    let samples = 0;
    let collectors = 0;

    for (let run = -5; run < RUNS; run += 1) {
      await client.query("update monitor.metric_collectors set next_due_at = null");
      // Each run finds its minute empty.
      const scheduled_at = new Date(Math.floor(Date.now() / 60_000) * 60_000);
      await client.query("delete from monitor.metric_time_series where recorded_at = $1", [
        scheduled_at,
      ]);
      const startedAt = performance.now();
      const response = await fetch(`${facts.functions_url}/collect-metrics`, {
        method: "POST",
        headers: { apikey: facts.secret_key, "content-type": "application/json" },
        body: JSON.stringify({ scheduled_at }),
      });
      const result = await response.json();
      if (!response.ok) throw new Error(`A collection failed: ${JSON.stringify(result)}`);
      const asked = performance.now();
      await fetch(`${facts.rest_url}/rpc/is_admin`, {
        method: "POST",
        headers: {
          apikey: facts.secret_key,
          "content-profile": "monitor",
          "content-type": "application/json",
        },
        body: "{}",
      }).then((answer) => answer.text());
      const answered = performance.now();
      const { rows } = await client.query(
        "select monitor.plan_collection(now() + interval '1 day') as plan",
      );
      const names: string[] = rows[0].plan.collectors.map((row: { collector: string }) =>
        row.collector
      );
      const sqlAt = performance.now();
      for (const name of names) await client.query(`select monitor.${name}(now())`);
      if (run < 0) continue;

      whole.push(asked - startedAt);
      trivial.push(answered - asked);
      insideSql.push(performance.now() - sqlAt);
      slowest.push(
        Math.max(
          ...result.collectors.map((row: { duration_seconds?: number }) =>
            row.duration_seconds ?? 0
          ),
        ) * 1000,
      );
      samples = result.samples.inserted;
      collectors = names.length;
      if (run % 20 === 0) log(`${run} of ${RUNS}`);
    }
    await client.end();
    return formatTable("Collection", [
      {
        what: `a run of all ${collectors} collectors, ${samples} samples, over HTTP`,
        unit: "ms",
        readings: whole,
      },
      { what: "its slowest collector, there and back", unit: "ms", readings: slowest },
      {
        what: "the same collectors one after another in one SQL session",
        unit: "ms",
        readings: insideSql,
      },
      { what: "a trivial rpc through the same REST API", unit: "ms", readings: trivial },
    ], [
      "The local REST API is a stand-in in the same process as the gateway; a hosted PostgREST answers a trivial rpc faster.",
      "\nCommand: `npm run bench -- collection`",
    ]);
  });
}
