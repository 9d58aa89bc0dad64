import { describe, expect } from "vitest";
import { it, type Query, rpc } from "./database.ts";
import { cleanUp, RETENTION_DAYS } from "./retention.ts";
import {
  addAdmin,
  addAnomaly,
  addMetric,
  addSeries,
  addUser,
  DAY,
  HOUR,
  iso,
  MINUTE,
  NOON,
  range,
} from "./seeds.ts";

interface Spans {
  spans: { from: number; until: number | null; label: string }[];
  deploys: number[];
}

const readSpans = (query: Query, series: number, from = NOON - DAY, until = NOON) =>
  rpc<Spans>(query, "read_spans", { p_series_id: series, p_from: iso(from), p_until: iso(until) });

const label = (query: Query, series: number | null, more: object = {}) =>
  rpc<string>(query, "label_anomaly_span", {
    p_series_id: series,
    p_label: "expected",
    p_from: iso(NOON - HOUR),
    p_until: iso(NOON),
    p_now: iso(NOON),
    ...more,
  });

const plan = (query: Query, more: object = {}) =>
  rpc<string>(query, "plan_maintenance", {
    p_starts_at: iso(NOON),
    p_ends_at: iso(NOON + HOUR),
    p_reason: "an upgrade",
    p_now: iso(NOON - DAY),
    ...more,
  });

const mark = (query: Query, more: object = {}) =>
  rpc<string>(query, "mark_deploy", { p_label: "v2", p_at: iso(NOON), p_now: iso(NOON), ...more });

const review = (query: Query, anomaly: number, state: string) =>
  rpc(query, "review_anomaly", { p_anomaly_id: anomaly, p_state: state, p_now: iso(NOON) });

/** A series that was judged up to noon. */
async function addJudged(query: Query, labels = {}): Promise<number> {
  const series = await addSeries(query, await addMetric(query), [], labels);
  await query(
    "insert into monitor.detector_states (series_id, version, state, last_sample_at) values ($1, 'test/1', '{}', $2)",
    [series, iso(NOON)],
  );
  return series;
}

const readFeedback = async (query: Query) =>
  (await query(
    `select series_id, label, monitor.epoch_ms(span_since)::float8 as since, monitor.epoch_ms(span_until)::float8 as until,
       note, created_by, anomaly_id::integer from monitor.anomaly_feedback order by feedback_id`,
  )).rows;

/** Which series are to be replayed; forgets it. */
const takeRequests = async (query: Query) =>
  (await query("delete from monitor.detector_replays returning series_id, reason")).rows;

async function addIncident(query: Query, anomaly: number, from: number, until: number | null) {
  await query(
    `with incident as (
       insert into monitor.incidents (title, severity, state, started_at, resolved_at)
       values ('a test', 'P2', $2, $3, $4) returning incident_id
     ) insert into monitor.incident_anomalies (incident_id, anomaly_id) select incident_id, $1 from incident`,
    [anomaly, until === null ? "open" : "resolved", iso(from), until === null ? null : iso(until)],
  );
}

describe("monitor.label_anomaly_span()", () => {
  it.for(["false_positive", "expected", "missed"])(
    "keeps a person's word, %s, and asks for a replay",
    async (p_label, { query, asOwner, asUser }) => {
      const series = await addJudged(query);
      const admin = await addAdmin(asOwner);
      await label(asUser(admin), series, { p_label, p_note: " a sale " });
      expect(await readFeedback(query)).toEqual([{
        series_id: series,
        label: p_label,
        since: NOON - HOUR,
        until: NOON,
        note: "a sale",
        created_by: admin,
        anomaly_id: null,
      }]);
      expect(await takeRequests(query)).toEqual([{ series_id: series, reason: "feedback" }]);
    },
  );

  it("takes a span of a series that nobody has judged, without a replay", async ({ query }) => {
    await label(query, await addSeries(query, await addMetric(query)));
    expect(await readFeedback(query)).toHaveLength(1);
    expect(await takeRequests(query)).toEqual([]);
  });

  it.for(
    [
      [{ p_label: "incident" }, "22023"],
      [{ p_label: null }, "22023"],
      [{ p_from: iso(NOON + 1) }, "22023"],
      [{ p_until: null }, "22023"],
      [{ p_until: "infinity" }, "22023"],
      [{ p_from: "-infinity" }, "22023"],
      [{ p_from: iso(NOON - 30 * DAY - 1) }, "22023"],
      [{ p_note: "x".repeat(2001) }, "23514"],
    ] as const,
  )("refuses %o", async ([wrong, code], { query }) => {
    await expect(label(query, await addJudged(query), wrong)).rejects.toMatchObject({ code });
  });

  it("takes a single moment, 30 days, and a note of 2,000 characters", async ({ query }) => {
    const series = await addJudged(query);
    await label(query, series, { p_from: iso(NOON), p_note: "x".repeat(2000) });
    await label(query, series, { p_note: " " });
    await label(query, series, { p_from: iso(NOON - 30 * DAY) });
    expect((await readFeedback(query)).map(({ note }) => note?.length ?? null)).toEqual([
      2000,
      null,
      null,
    ]);
  });

  it("knows no series that is not there, and nobody who is no admin", async ({ query, asOwner, asUser }) => {
    await expect(label(query, 0)).rejects.toMatchObject({ code: "P0002" });
    const user = asUser(await addUser(asOwner));
    await expect(label(user, await addJudged(query))).rejects.toMatchObject({ code: "42501" });
  });
});

describe("monitor.review_anomaly()", () => {
  const ended = { ended_at: iso(NOON + HOUR), ended_reason: "recovered" };

  it.for(["false_positive", "expected"])(
    "is feedback on the span when it says %s, once",
    async (state, { query }) => {
      const series = await addJudged(query);
      const anomaly = await addAnomaly(query, series, ended);
      await review(query, anomaly, state);
      expect(await takeRequests(query)).toHaveLength(1);
      await review(query, anomaly, state);
      expect(await takeRequests(query)).toEqual([]); // that is no news
      expect(await readFeedback(query)).toEqual([{
        series_id: series,
        label: state,
        since: NOON,
        until: NOON + HOUR,
        note: null,
        created_by: "service_role",
        anomaly_id: anomaly,
      }]);
    },
  );

  it("replaces its feedback with the next word, or takes it back", async ({ query }) => {
    const series = await addJudged(query);
    await label(query, series);
    const anomaly = await addAnomaly(query, series, ended);
    await review(query, anomaly, "expected");
    await review(query, anomaly, "false_positive");
    expect((await readFeedback(query)).map((row) => row.label)).toEqual([
      "expected",
      "false_positive",
    ]);
    await takeRequests(query);
    await review(query, anomaly, "resolved");
    expect(await readFeedback(query)).toHaveLength(1); // the span that somebody labelled stays
    expect(await takeRequests(query)).toEqual([{ series_id: series, reason: "feedback" }]);
    await review(query, anomaly, "acknowledged");
    expect(await takeRequests(query)).toEqual([]);
  });

  it("follows an anomaly that lasts, to its end", async ({ query }) => {
    const series = await addJudged(query);
    const anomaly = await addAnomaly(query, series, { last_seen_at: iso(NOON + MINUTE) });
    await review(query, anomaly, "expected");
    const until = async () => (await readFeedback(query))[0]!.until;
    expect(await until()).toBe(NOON + MINUTE);
    await takeRequests(query);
    let previous = NOON;
    for (
      const [seen, end] of [[NOON + 5 * MINUTE, null], [NOON + 9 * MINUTE, NOON + HOUR]] as const
    ) {
      await rpc(query, "record_detections", {
        p_run_id: null,
        p_updates: [{
          series_id: series,
          previous_sample_at: previous,
          last_sample_at: seen,
          state_version: "test/1",
          state: {},
          events: [{
            kind: end === null ? "extend" : "close",
            started_at: NOON,
            last_seen_at: seen,
            ended_at: end,
            ended_reason: end === null ? null : "recovered",
            ...{ expected: 1, lower: 0, upper: 2, observed: 9, score: 0.9, severity: "info" },
            ...{ explanation: "9 instead of 1", sample_count: 1 },
          }],
        }],
        p_now: iso(seen),
      });
      expect(await until()).toBe(end ?? seen);
      previous = seen;
      // Replayed again once all of it is known: until then it was judged by a part.
      expect(await takeRequests(query)).toEqual(
        end === null ? [] : [{ series_id: series, reason: "feedback" }],
      );
    }
  });
});

describe("monitor.plan_maintenance()", () => {
  it("is a span of the series that match, or of all", async ({ query }) => {
    const [one, other] = [
      await addJudged(query, { job: "one" }),
      await addJudged(query, { job: "other" }),
    ];
    await plan(query, { p_matchers: [{ name: "job", op: "=", value: "one" }] });
    await plan(query, { p_starts_at: iso(NOON + 2 * HOUR), p_ends_at: iso(NOON + 3 * HOUR) });
    const all = { from: NOON + 2 * HOUR, until: NOON + 3 * HOUR, label: "maintenance" };
    const read = async (series: number) => (await readSpans(query, series, NOON, NOON + DAY)).spans;
    expect(await read(one)).toEqual([
      { from: NOON, until: NOON + HOUR, label: "maintenance" },
      all,
    ]);
    expect(await read(other)).toEqual([all]);
  });

  it("takes every kind of matcher as monitor.match_series does", async ({ query }) => {
    const series = [
      await addJudged(query, { job: "a" }),
      await addJudged(query, { job: "b" }),
      await addJudged(query),
    ];
    for (
      const matchers of [
        [],
        [{ name: "job", op: "=", value: "a" }],
        [{ name: "job", op: "=", value: "" }],
        [{ name: "job", op: "!=", value: "a" }],
        [{ name: "job", op: "=~", value: "a|b" }],
        [{ name: "job", op: "!~", value: ".+" }],
        [{ name: "__name__", op: "=~", value: "test_.*" }, { name: "job", op: "=", value: "b" }],
        [{ name: "__name__", op: "=", value: "no" }],
      ]
    ) {
      const { rows } = await query<{ id: number }>(
        "select series_id as id from monitor.match_series($1) where series_id = any ($2) order by 1",
        [JSON.stringify(matchers), series],
      );
      const { rows: satisfied } = await query<{ id: number }>(
        `select series_id as id from monitor.metric_series
         where monitor.satisfies_matchers(metric, labels, $1) and series_id = any ($2) order by 1`,
        [JSON.stringify(matchers), series],
      );
      expect(satisfied, JSON.stringify(matchers)).toEqual(rows);
    }
  });

  it.for(
    [
      [{ p_ends_at: iso(NOON) }, "22023"],
      [{ p_ends_at: iso(NOON + 30 * DAY + 1) }, "22023"],
      [{ p_ends_at: "infinity" }, "22023"],
      [{ p_starts_at: null }, "22023"],
      [{ p_reason: " " }, "22023"],
      [{ p_reason: null }, "22023"],
      [{ p_matchers: {} }, "22023"],
      [{ p_matchers: [{ name: "a", op: "~", value: "b" }] }, "22023"],
      [{ p_matchers: [{ name: "a", op: "=~", value: "(" }] }, "2201B"],
    ] as const,
  )("refuses %o", async ([wrong, code], { query }) => {
    await expect(plan(query, wrong)).rejects.toMatchObject({ code });
  });

  it.for(["(?i)abc", "***=abc"])(
    "refuses %s, a pattern only by itself, also where no series is there to try it, as deploys do",
    async (value, { query }) => {
      const series = await addJudged(query, { job: "one" });
      const p_matchers = [
        { name: "job", op: "=~", value },
        { name: "__name__", op: "=", value: "not_yet_there" },
      ];
      await expect(plan(query, { p_matchers })).rejects.toMatchObject({ code: "2201B" });
      await expect(mark(query, { p_matchers })).rejects.toMatchObject({ code: "2201B" });
      expect(await readSpans(query, series)).toEqual({ spans: [], deploys: [] }); // not an error, above all
    },
  );

  it("bounds reason and matchers, as deploys do", async ({ query }) => {
    const matchers = (length: number) => [{ name: "job", op: "=", value: "x".repeat(length) }];
    await plan(query, { p_reason: "x".repeat(2000), p_matchers: matchers(8000) });
    await mark(query, { p_matchers: matchers(8000) });
    for (
      const call of [
        () => plan(query, { p_reason: "x".repeat(2001) }),
        () => plan(query, { p_matchers: matchers(8192) }),
        () => mark(query, { p_matchers: matchers(8192) }),
      ]
    ) await expect(call()).rejects.toMatchObject({ code: "23514" });
  });

  it("takes one of a millisecond and one of 30 days", async ({ query }) => {
    await plan(query, { p_ends_at: iso(NOON + 1) });
    await plan(query, { p_ends_at: iso(NOON + 30 * DAY) });
  });

  it("is ended early, or called off before it begins", async ({ query }) => {
    const series = await addJudged(query);
    const end = (id: string, at: number) =>
      rpc(query, "end_maintenance", { p_maintenance_window_id: id, p_now: iso(at) });
    const read = async () =>
      (await readSpans(query, series, NOON, NOON + DAY)).spans.map(({ until }) => until);
    const id = await plan(query);
    await end(id, NOON + 2 * HOUR);
    expect(await read()).toEqual([NOON + HOUR]); // it was over
    await end(id, NOON + MINUTE);
    await end(id, NOON + 2 * MINUTE);
    expect(await read()).toEqual([NOON + MINUTE]);
    await end(id, NOON - MINUTE);
    expect(await read()).toEqual([]);
    await expect(end("0", NOON)).rejects.toMatchObject({ code: "P0002" });
  });

  it("is for admins, as are deploys", async ({ query, asOwner, asUser }) => {
    const user = asUser(await addUser(asOwner));
    const id = await plan(query);
    const end = () => rpc(user, "end_maintenance", { p_maintenance_window_id: id });
    for (const call of [() => plan(user), () => mark(user), end]) {
      await expect(call()).rejects.toMatchObject({ code: "42501" });
    }
    const admin = await addAdmin(asOwner);
    await plan(asUser(admin));
    await mark(asUser(admin));
    const { rows } = await query(
      `select created_by from monitor.deploy_marks union all
       (select created_by from monitor.maintenance_windows order by maintenance_window_id desc limit 1)`,
    );
    expect(rows).toEqual([{ created_by: admin }, { created_by: admin }]);
  });
});

describe("monitor.mark_deploy()", () => {
  it("is told with the series that match, or with all", async ({ query }) => {
    const [one, other] = [
      await addJudged(query, { job: "one" }),
      await addJudged(query, { job: "other" }),
    ];
    await mark(query, { p_matchers: [{ name: "job", op: "=", value: "one" }] });
    await mark(query, { p_at: iso(NOON - HOUR) });
    expect(await readSpans(query, one)).toEqual({ spans: [], deploys: [NOON - HOUR, NOON] });
    expect(await readSpans(query, other)).toEqual({ spans: [], deploys: [NOON - HOUR] });
  });

  it.for(
    [
      [{ p_label: "" }, "22023"],
      [{ p_label: null }, "22023"],
      [{ p_label: "x".repeat(201) }, "22023"],
      [{ p_at: null }, "22023"],
      [{ p_at: "infinity" }, "22023"],
      [{ p_matchers: { name: "all" } }, "22023"],
    ] as const,
  )("refuses %o", async ([wrong, code], { query }) => {
    await expect(mark(query, wrong)).rejects.toMatchObject({ code });
  });
});

describe("monitor.read_spans()", () => {
  it("gives nothing of a series of which nothing is known", async ({ query }) => {
    expect(await readSpans(query, await addJudged(query))).toEqual({ spans: [], deploys: [] });
    expect(await readSpans(query, 0)).toEqual({ spans: [], deploys: [] });
  });

  it("gives what touches the time, both sides, in order", async ({ query }) => {
    const series = await addJudged(query);
    for (
      const [from, until] of [
        [NOON - 3 * HOUR, NOON - 2 * HOUR - 1],
        [NOON - 3 * HOUR, NOON - 2 * HOUR],
        [NOON - HOUR, NOON],
        [NOON, NOON + HOUR],
        [NOON + 1, NOON + HOUR],
      ] as const
    ) await label(query, series, { p_from: iso(from), p_until: iso(until) });
    const { spans } = await readSpans(query, series, NOON - 2 * HOUR, NOON);
    expect(spans).toEqual([
      { from: NOON - 3 * HOUR, until: NOON - 2 * HOUR, label: "expected" },
      { from: NOON - HOUR, until: NOON, label: "expected" },
      { from: NOON, until: NOON + HOUR, label: "expected" },
    ]);
    for (const at of [NOON - 1, NOON, NOON + 1, NOON + 2]) await mark(query, { p_at: iso(at) });
    expect((await readSpans(query, series, NOON, NOON + 1)).deploys).toEqual([NOON, NOON + 1]);
  });

  it("knows the incidents that an anomaly of the series belongs to, archived or not", async ({ query }) => {
    const [series, other] = [await addJudged(query), await addJudged(query)];
    const ended = { ended_at: iso(NOON), ended_reason: "recovered" };
    const anomaly = await addAnomaly(query, series, ended);
    await addIncident(query, anomaly, NOON - HOUR, NOON - MINUTE);
    await addIncident(query, await addAnomaly(query, series), NOON - MINUTE, null);
    await addIncident(query, anomaly, NOON - 3 * DAY, NOON - 2 * DAY);
    const incidents = [
      { from: NOON - HOUR, until: NOON - MINUTE, label: "incident" },
      { from: NOON - MINUTE, until: null, label: "incident" },
    ];
    expect((await readSpans(query, series)).spans).toEqual(incidents);
    expect((await readSpans(query, other)).spans).toEqual([]);
    await query(
      "update monitor.anomaly_detections set review_state = 'resolved', reviewed_at = $2, reviewed_by = 'me' where anomaly_id = $1",
      [anomaly, iso(NOON)],
    );
    await query(
      "insert into monitor.anomaly_detections_archive select * from monitor.anomaly_detections where anomaly_id = $1",
      [anomaly],
    );
    await query("delete from monitor.anomaly_detections where anomaly_id = $1", [anomaly]);
    expect((await readSpans(query, series)).spans).toEqual(incidents);
  });

  it("tells an incident of several anomalies of the series once", async ({ query }) => {
    const series = await addJudged(query);
    const anomalies = [
      await addAnomaly(query, series, { ended_at: iso(NOON), ended_reason: "recovered" }),
      await addAnomaly(query, series),
    ];
    await addIncident(query, anomalies[0]!, NOON - HOUR, null);
    await query(
      "insert into monitor.incident_anomalies select incident_id, $1 from monitor.incidents",
      [anomalies[1]],
    );
    expect((await readSpans(query, series)).spans).toHaveLength(1);
  });

  it("is for admins, who see what is there", async ({ query, asOwner, asUser }) => {
    const series = await addJudged(query);
    await label(query, series);
    expect((await readSpans(asUser(await addUser(asOwner)), series)).spans).toEqual([]);
    expect((await readSpans(asUser(await addAdmin(asOwner)), series)).spans).toHaveLength(1);
  });
});

/** How a row of such an age is added. */
const OLD: Readonly<Record<string, (query: Query, age: number) => Promise<unknown>>> = {
  anomaly_feedback: async (query, age) =>
    label(query, await addJudged(query), { p_now: iso(NOON - age) }),
  maintenance_windows: (query, age) =>
    plan(query, { p_starts_at: iso(NOON - age - HOUR), p_ends_at: iso(NOON - age) }),
  deploy_marks: (query, age) => mark(query, { p_at: iso(NOON - age) }),
};

describe.each(Object.entries(OLD))("monitor.cleanup_detection_labels() of %s", (entity, add) => {
  const clean = (query: Query, days: number | null, args: object = {}) =>
    cleanUp(query, "cleanup_detection_labels", {
      p_entity: entity,
      retention_days: days,
      ...args,
    });
  const count = async (query: Query) =>
    (await query<{ n: number }>(`select count(*)::int as n from monitor.${entity}`)).rows[0]!.n;

  it("keeps 400 days by its policy", async ({ query }) => {
    const { rows } = await query(
      "select keep_days, action from monitor.retention_policies where entity = $1",
      [entity],
    );
    expect(rows).toEqual([{ keep_days: 400, action: "delete" }]);
  });

  it("deletes what is older than that, both sides", async ({ query }) => {
    await add(query, 400 * DAY + 1);
    await add(query, 400 * DAY);
    const step = () => rpc(query, "run_retention_step", { p_entity: entity, p_now: iso(NOON) });
    expect(await step()).toMatchObject({
      entity,
      outcome: "done",
      counts: { deleted: 1, contended: 0 },
      more: false,
      oldest_kept_at: expect.any(String),
    });
    expect(await count(query)).toBe(1);
    expect(await step()).toMatchObject({ outcome: "nothing", counts: { deleted: 0 } });
  });

  it("stops at p_limit, oldest first, and says that there is more", async ({ query }) => {
    for (const n of [3, 1, 2]) await add(query, (10 + n) * DAY);
    expect(await clean(query, 10, { p_limit: 2 })).toMatchObject({
      counts: { deleted: 2 },
      more: true,
    });
    expect(await clean(query, 11)).toMatchObject({ outcome: "nothing" }); // the two oldest went
    expect(await clean(query, 10)).toMatchObject({ counts: { deleted: 1 }, more: false });
  });

  it("deletes nothing in a dry run, and counts all that would go", async ({ query }) => {
    for (const n of range(3)) await add(query, (11 + n) * DAY);
    expect(await clean(query, 10, { p_dry_run: true, p_limit: 2 })).toMatchObject({
      outcome: "done",
      counts: { deleted: 3, contended: 0 },
      oldest_kept_at: null,
    });
    expect(await count(query)).toBe(3);
  });

  it.for(RETENTION_DAYS)("takes retention_days of %s: %s", async ([days, isTaken], { query }) => {
    const answer = clean(query, days, { p_dry_run: true });
    if (isTaken) expect(await answer).toMatchObject({ entity });
    else await expect(answer).rejects.toMatchObject({ code: "22023" });
  });
});

describe("monitor.cleanup_detection_labels()", () => {
  it.for(["audit_log", "nothing", null])("is not for %s", async (p_entity, { query }) => {
    const answer = cleanUp(query, "cleanup_detection_labels", { p_entity, retention_days: 30 });
    await expect(answer).rejects.toMatchObject({ code: "22023" });
  });
});
