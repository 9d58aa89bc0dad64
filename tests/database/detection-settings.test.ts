import { describe, expect } from "vitest";
import { it, type Query, rpc } from "./database.ts";
import { addAdmin, addMetric, addSeries, addUser, iso, NOON } from "./seeds.ts";

const set = (query: Query, metric: string, more: object) =>
  rpc(query, "set_detection", { p_metric: metric, ...more });

const readSettings = async (query: Query, metric: string) =>
  (await query(
    `select detection_budget, detection_direction, minimum_change, minimum_change_ratio, detection_enabled
     from monitor.metric_definitions where metric = $1`,
    [metric],
  )).rows[0]!;

const DEFAULTS = {
  detection_budget: 1,
  detection_direction: "auto",
  minimum_change: null,
  minimum_change_ratio: null,
  detection_enabled: true,
};

/** A metric with a series that was judged. */
async function addJudged(query: Query): Promise<{ metric: string; series: number }> {
  const metric = await addMetric(query);
  const series = await addSeries(query, metric);
  await query(
    "insert into monitor.detector_states (series_id, version, state, last_sample_at) values ($1, 'test/1', '{}', $2)",
    [series, iso(NOON)],
  );
  return { metric, series };
}

const readRequests = async (query: Query) =>
  (await query("select series_id, reason from monitor.detector_replays order by 1")).rows;

describe("the settings of detection", () => {
  it("are one a week, and the rest inferred, unless somebody decides", async ({ query }) => {
    expect(await readSettings(query, await addMetric(query))).toEqual(DEFAULTS);
  });

  it("of shipped metrics keep their direction and smallest change where one was chosen", async ({ query }) => {
    const { rows } = await query(
      `select metric, detection_direction as direction, minimum_change from monitor.metric_definitions
       where metric in ('cache_hit_rate', 'database_connections', 'submission_approval_rate') order by 1`,
    );
    expect(rows).toEqual([
      { metric: "cache_hit_rate", direction: "down", minimum_change: 5 },
      { metric: "database_connections", direction: "up", minimum_change: 5 },
      { metric: "submission_approval_rate", direction: "auto", minimum_change: 10 },
    ]);
    const { rows: left } = await query(
      "select from monitor.metric_definitions where detection_direction = 'both' or minimum_change = 0",
    );
    expect(left).toEqual([]);
  });
});

describe("monitor.set_detection()", () => {
  it("sets all of them, and leaves what is not given", async ({ query }) => {
    const metric = await addMetric(query);
    await set(query, metric, { p_budget: 0.5, p_direction: "down", p_minimum_change: 3 });
    await set(query, metric, { p_minimum_change_ratio: 0.02, p_enabled: false });
    expect(await readSettings(query, metric)).toEqual({
      detection_budget: 0.5,
      detection_direction: "down",
      minimum_change: 3,
      minimum_change_ratio: 0.02,
      detection_enabled: false,
    });
    await set(query, metric, {});
    expect(await readSettings(query, metric)).toMatchObject({ minimum_change: 3 });
    await set(query, metric, { p_direction: "auto", p_minimum_change: 0 });
    expect(await readSettings(query, metric)).toMatchObject({
      detection_direction: "auto",
      minimum_change: 0,
    });
  });

  it.for([["low", 0.25], ["normal", 1], ["high", 4]] as const)(
    "takes %s for a budget of %s a week",
    async ([p_sensitivity, detection_budget], { query }) => {
      const metric = await addMetric(query, { detection_budget: 50 });
      await set(query, metric, { p_sensitivity });
      expect(await readSettings(query, metric)).toMatchObject({ detection_budget });
    },
  );

  it.for(
    [
      [{ p_budget: 0.01 }, true],
      [{ p_budget: 0.0099 }, false],
      [{ p_budget: 100 }, true],
      [{ p_budget: 100.01 }, false],
      [{ p_budget: NaN }, false],
      [{ p_sensitivity: "loud" }, false],
      [{ p_budget: 1, p_sensitivity: "normal" }, false],
      [{ p_direction: "both" }, true],
      [{ p_direction: "sideways" }, false],
      [{ p_minimum_change: 0 }, true],
      [{ p_minimum_change: -0.001 }, false],
      [{ p_minimum_change: Infinity }, false],
      [{ p_minimum_change: NaN }, false],
      [{ p_minimum_change_ratio: 0 }, true],
      [{ p_minimum_change_ratio: -0.001 }, false],
      [{ p_minimum_change_ratio: Infinity }, false],
    ] as const,
  )("takes %o: %s", async ([args, isTaken], { query }) => {
    const metric = await addMetric(query);
    const done = set(query, metric, args);
    if (isTaken) await done;
    else await expect(done).rejects.toMatchObject({ code: "22023", hint: expect.any(String) });
  });

  it("knows no metric that is not registered", async ({ query }) => {
    await expect(set(query, "no_such_metric", { p_budget: 1 })).rejects.toMatchObject({
      code: "P0002",
    });
  });

  it("is for admins, and recorded with their name", async ({ query, asOwner, asUser }) => {
    const metric = await addMetric(query);
    const user = await addUser(asOwner);
    await expect(set(asUser(user), metric, { p_budget: 2 })).rejects.toMatchObject({
      code: "42501",
    });
    const admin = await addAdmin(asOwner);
    await set(asUser(admin), metric, { p_budget: 2 });
    const { rows } = await query(
      `select actor, after -> 'detection_budget' as budget from monitor.audit_log
       where object = 'metric_definitions' and action = 'update' and after ->> 'metric' = $1`,
      [metric],
    );
    expect(rows).toEqual([{ actor: admin, budget: 2 }]);
  });

  it.for(
    [
      { p_budget: 2 },
      { p_sensitivity: "low" },
      { p_direction: "up" },
      { p_minimum_change: 0 },
      { p_minimum_change_ratio: 0.1 },
    ] as const,
  )("asks for a replay of the metric's series with %o", async (args, { query }) => {
    const { metric, series } = await addJudged(query);
    await addSeries(query, metric, [], { judged: "never" });
    await addJudged(query);
    await set(query, metric, args);
    expect(await readRequests(query)).toEqual([{ series_id: series, reason: "settings" }]);
  });

  it.for([{}, { p_enabled: false }, { p_budget: 1 }, { p_direction: "auto" }] as const)(
    "asks for none with %o, which changes nothing a replay found out",
    async (args, { query }) => {
      const { metric } = await addJudged(query);
      await set(query, metric, args);
      expect(await readRequests(query)).toEqual([]);
    },
  );

  it("is not the only way: a change of the row asks for a replay too", async ({ query }) => {
    const { metric, series } = await addJudged(query);
    await query("update monitor.metric_definitions set description = 'b' where metric = $1", [
      metric,
    ]);
    expect(await readRequests(query)).toEqual([]);
    await query("update monitor.metric_definitions set detection_budget = 3 where metric = $1", [
      metric,
    ]);
    expect(await readRequests(query)).toEqual([{ series_id: series, reason: "settings" }]);
  });
});
