import { describe, expect, it, vi } from "vitest";
import type { AlertInstance } from "../../shared/alerting/evaluate-rules.ts";
import type { AlertingRule } from "../../shared/alerting/rule.ts";
import type { StoredRule } from "../../shared/contract/rules.ts";
import { PromqlError } from "../../shared/promql/promql-error.ts";
import type { SampledSeries, Selection } from "../../shared/promql/series.ts";
import { DatabaseError } from "../../supabase/functions/_shared/database.ts";
import { endpoint } from "../../supabase/functions/_shared/endpoint.ts";
import type { Found, SeriesLookup } from "../../supabase/functions/_shared/query-stores.ts";
import { Problem } from "../../supabase/functions/_shared/problem.ts";
import {
  answerPrometheus,
  NAME,
  type PrometheusDeps,
  renderProblem,
} from "../../supabase/functions/prometheus/handler.ts";
import { FORM_BYTES_LIMIT, readParams } from "../../supabase/functions/prometheus/read-params.ts";
import { admit, Clock, NOON, request, sampleWorld } from "../fixtures.ts";

const NOON_SECONDS = NOON.getTime() / 1000;
const MINUTE = 60_000;

/** `up` of two jobs, a sample a minute for an hour until noon: minutes since 11:00, and 100 more. */
const UP: SampledSeries[] = ["api", "db"].map((job, i) => ({
  labels: { job, __name__: "up" },
  times: Array.from({ length: 61 }, (_, n) => NOON.getTime() - (60 - n) * MINUTE),
  values: Array.from({ length: 61 }, (_, n) => n + 100 * i),
}));

const nothing = { items: [], isComplete: true };

function build(changes: Partial<PrometheusDeps> = {}) {
  const select = vi.fn((selections: readonly Selection[]) =>
    Promise.resolve(selections.map(() => UP))
  );
  const { world, lines } = sampleWorld();
  const deps: PrometheusDeps = {
    now: () => NOON,
    openSource: () => ({ select }),
    readSeriesLabels: () => Promise.resolve(nothing),
    readLabelNames: () => Promise.resolve(nothing),
    readLabelValues: () => Promise.resolve(nothing),
    readMetadata: () => Promise.resolve([]),
    readExposition: () => Promise.resolve({ metrics: [], series: [], isComplete: true }),
    readRules: () => Promise.resolve([]),
    ...changes,
  };
  const fetch = endpoint(
    {
      ...{ name: NAME, methods: ["GET", "HEAD", "POST"], authorize: admit() },
      ...{ input: readParams, renderProblem },
    },
    (params, call) => answerPrometheus(params, call, deps),
    world,
  );
  const ask = async (path: string, params: Record<string, string> | string[][] = {}) => {
    const response = await fetch(request("GET", { path: address(path, params) }));
    return { status: response.status, body: await response.json() };
  };
  return { fetch, ask, select, lines };
}

const address = (path: string, params: Record<string, string> | string[][]) =>
  `/${NAME}/api/v1/${path}?${new URLSearchParams(params)}`;

const badData = (error: unknown) => ({
  status: 400,
  body: { status: "error", errorType: "bad_data", error },
});

describe("/query", () => {
  it("answers a vector at a time, labels in order, in one read", async () => {
    const { fetch, select } = build();
    const response = await fetch(
      request("GET", { path: address("query", { query: "up", time: String(NOON_SECONDS) }) }),
    );
    expect(response.headers.get("content-type")).toBe("application/json");
    expect(await response.text()).toBe(
      `{"status":"success","data":{"resultType":"vector","result":[` +
        `{"metric":{"__name__":"up","job":"api"},"value":[${NOON_SECONDS},"60"]},` +
        `{"metric":{"__name__":"up","job":"db"},"value":[${NOON_SECONDS},"160"]}]}}`,
    );
    expect(select).toHaveBeenCalledOnce();
  });

  it.each([
    ["1 + 1", { resultType: "scalar", result: [NOON_SECONDS, "2"] }],
    ["1 / 0", { resultType: "scalar", result: [NOON_SECONDS, "+Inf"] }],
    ["0 / 0", { resultType: "scalar", result: [NOON_SECONDS, "NaN"] }],
    ['"a\\"b"', { resultType: "string", result: [NOON_SECONDS, 'a"b'] }],
    ["up > 1000", { resultType: "vector", result: [] }],
    [
      'up{job="api"}[2m]',
      {
        resultType: "matrix",
        result: expect.arrayContaining([{
          metric: { __name__: "up", job: "api" },
          values: [[NOON_SECONDS - 60, "59"], [NOON_SECONDS, "60"]],
        }]),
      },
    ],
  ])("answers %s, now when no time is given", async (query, data) => {
    expect(await build().ask("query", { query })).toEqual({
      status: 200,
      body: { status: "success", data },
    });
  });

  it("reads seconds with a fraction, and RFC 3339", async () => {
    const timeOf = async (time: string) =>
      (await build().ask("query", { query: "1", time })).body.data.result[0];
    expect(await timeOf("1435781430.781")).toBe(1435781430.781);
    expect(await timeOf("2015-07-01T20:10:30.781Z")).toBe(1435781430.781);
    expect(await timeOf("2015-07-01T22:10:30.781+02:00")).toBe(1435781430.781);
    expect(await timeOf("-1.5e1")).toBe(-15);
  });

  it.each([
    [{ query: "up{" }, expect.stringMatching(/^invalid parameter "query": 1:\d+: parse error: /)],
    [{}, expect.stringMatching(/^invalid parameter "query": /)],
    [
      { query: "up", time: "noon" },
      `invalid parameter "time": invalid time value for 'time': cannot parse "noon" to a valid timestamp`,
    ],
    [
      { query: "up", time: "9e15" },
      `invalid parameter "time": invalid time value for 'time': cannot parse "9e15" to a valid timestamp`,
    ],
    [
      { query: "up", time: "2015-07-01T20:10:30" },
      `invalid parameter "time": invalid time value for 'time': cannot parse "2015-07-01T20:10:30" to a valid timestamp`,
    ],
    [
      { query: "up", timeout: "soon" },
      'invalid parameter "timeout": cannot parse "soon" to a valid duration',
    ],
    [
      { query: "up", lookback_delta: "x" },
      'invalid parameter "lookback_delta": cannot parse "x" to a valid duration',
    ],
    [{ query: "up", limit: "-1" }, 'invalid parameter "limit": limit must be non-negative'],
    [
      { query: "up", limit: "1.5" },
      'invalid parameter "limit": cannot parse "1.5" to a valid number',
    ],
  ])("refuses %j", async (params, error) => {
    expect(await build().ask("query", params as Record<string, string>))
      .toEqual(badData(error));
  });

  it("takes the limit, and says when there was more", async () => {
    const count = async (limit: string, query = "up") => {
      const { body } = await build().ask("query", { query, limit });
      return [body.data.result.length, body.warnings];
    };
    expect(await count("0")).toEqual([2, undefined]);
    expect(await count("2")).toEqual([2, undefined]);
    expect(await count("1")).toEqual([1, ["results truncated due to limit"]]);
    expect(await count("1", "up[1m]")).toEqual([1, ["results truncated due to limit"]]);
  });

  it("looks back as far as it is told", async () => {
    const count = async (params: Record<string, string>) => {
      const time = String(NOON_SECONDS + 120);
      const { body } = await build().ask("query", { query: "up", time, ...params });
      return body.data.result.length;
    };
    expect(await count({})).toBe(2);
    expect(await count({ lookback_delta: "121" })).toBe(2);
    expect(await count({ lookback_delta: "2m" })).toBe(0);
  });

  it("says what the engine has to remark", async () => {
    const { body } = await build().ask("query", { query: "rate(up[5m])" });
    expect(body.infos).toEqual([
      expect.stringMatching(/^PromQL info: metric might not be a counter/),
    ]);
    expect(body).not.toHaveProperty("warnings");
  });

  it("sends a long answer in chunks, made one after the other", async () => {
    const series = Array.from({ length: 3000 }, (_, i) => ({
      labels: { job: `é😀${i}`, __name__: "x" },
      times: [NOON.getTime()],
      values: [i],
    }));
    const { fetch } = build({ openSource: () => ({ select: () => Promise.resolve([series]) }) });
    const response = await fetch(request("GET", { path: address("query", { query: "x" }) }));
    const chunks: Uint8Array[] = [];
    const decoder = new TextDecoder("utf-8", { fatal: true });
    for await (const chunk of response.body!) chunks.push(chunk);
    expect(chunks.length).toBeGreaterThan(2);
    // Pieces are whole: the last one of a chunk goes beyond what is sent at once.
    for (const chunk of chunks) expect(chunk.byteLength).toBeLessThan(100_000);
    const { data } = JSON.parse(chunks.map((chunk) => decoder.decode(chunk)).join(""));
    expect(data.result.map(({ metric, value }: { metric: object; value: unknown[] }) => [
      metric,
      value[1],
    ])).toEqual(series.map(({ labels, values }) => [labels, String(values[0])]));
  });

  it("says ten of all there is to remark, and how many more there are", async () => {
    const ask = async (steps: number) => {
      const end = String(NOON_SECONDS + steps - 1);
      const range = { start: String(NOON_SECONDS), end, step: "1" };
      const { body } = await build().ask("query_range", {
        ...range,
        query: "quantile(time(), up)",
        limit: "1",
      });
      return body.warnings;
    };
    expect(await ask(10)).toHaveLength(10);
    const warnings = await ask(12);
    expect(warnings).toHaveLength(11);
    expect(warnings.at(-1)).toBe("2 more warning annotations omitted");
  });

  it.each([
    [new PromqlError("limit", "too many"), 422, "execution", "too many"],
    [
      new DatabaseError("read_selections", "timed_out", "57014", "canceling"),
      503,
      "timeout",
      "query timed out in expression evaluation",
    ],
    [
      new DatabaseError("read_selections", "unreachable", "", "fetch failed"),
      503,
      "unavailable",
      "The database does not answer",
    ],
    [new Error("surprise"), 500, "internal", "Internal error"],
  ])("tells %s as %i %s", async (failure, status, errorType, error) => {
    const { ask } = build({ openSource: () => ({ select: () => Promise.reject(failure) }) });
    expect(await ask("query", { query: "up" })).toEqual({
      status,
      body: { status: "error", errorType, error },
    });
  });

  it("tells an error of the evaluation as one", async () => {
    const { status, body } = await build().ask("query", {
      query: 'label_replace(up, "job", "x", "", "")',
    });
    expect([status, body.errorType]).toEqual([422, "execution"]);
  });

  it("gives a query its own timeout, at most 30 s", async () => {
    const given: number[] = [];
    const openSource = (seconds: number) => {
      given.push(seconds);
      return { select: () => Promise.resolve([UP]) };
    };
    for (const timeout of ["", "1.5", "29s", "1m"]) {
      await build({ openSource }).ask("query", { query: "up", timeout });
    }
    expect(given).toEqual([30, 1.5, 29, 30]);
  });

  it("ends when its time is up", async () => {
    const run = async (elapsed: number) => {
      const clock = new Clock();
      const select = () => {
        clock.advance(elapsed);
        return Promise.resolve([UP]);
      };
      const { ask } = build({ now: clock.now, openSource: () => ({ select }) });
      return (await ask("query", { query: "sum(rate(up[5m]))", timeout: "2" }))
        .status;
    };
    expect(await run(1.999)).toBe(200);
    expect(await run(2)).toBe(503);
    expect(
      (await build().ask("query", { query: "up", timeout: "0" })).body
        .errorType,
    )
      .toBe("timeout");
  });
});

describe("/query_range", () => {
  const range = (changes: Record<string, string> = {}) => ({
    query: 'up{job="api"}',
    start: String(NOON_SECONDS - 120),
    end: String(NOON_SECONDS),
    step: "60",
    ...changes,
  });

  const ZERO_STEP =
    'invalid parameter "step": zero or negative query resolution step widths are not accepted. Try a positive integer';

  it("answers a matrix", async () => {
    const { body } = await build({
      openSource: () => ({ select: () => Promise.resolve([[UP[0]!]]) }),
    }).ask("query_range", range());
    expect(body.data).toEqual({
      resultType: "matrix",
      result: [{
        metric: { __name__: "up", job: "api" },
        values: [[NOON_SECONDS - 120, "58"], [NOON_SECONDS - 60, "59"], [NOON_SECONDS, "60"]],
      }],
    });
  });

  it.each(["60", "1m", "60.0", "1m0s"])(
    "takes %s for a minute",
    async (step) => {
      const { body } = await build().ask("query_range", range({ step, query: "1" }));
      expect(body.data.result).toEqual([{
        metric: {},
        values: [[NOON_SECONDS - 120, "1"], [NOON_SECONDS - 60, "1"], [NOON_SECONDS, "1"]],
      }]);
    },
  );

  it.each([
    [{ start: "" }, 'invalid parameter "start": cannot parse "" to a valid timestamp'],
    [{ end: "x" }, 'invalid parameter "end": cannot parse "x" to a valid timestamp'],
    [
      { end: String(NOON_SECONDS - 121) },
      'invalid parameter "end": end timestamp must not be before start time',
    ],
    [{ step: "" }, 'invalid parameter "step": cannot parse "" to a valid duration'],
    [{ step: "0" }, ZERO_STEP],
    [{ step: "-1" }, ZERO_STEP],
    [{ step: "0.0009" }, ZERO_STEP],
    [
      { start: "0", end: "11001", step: "1" },
      "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
    ],
    [{ query: "up[5m]" }, expect.stringMatching(/^invalid parameter "query": .*expression type/)],
  ])("refuses %j", async (changes, error) => {
    expect(await build().ask("query_range", range(changes as Record<string, string>)))
      .toEqual(badData(error));
  });

  it("takes 11,000 steps of a range, and a range without length", async () => {
    const lengthOf = async (end: string) => {
      const { body } = await build().ask("query_range", {
        ...{ query: "1", start: "0", end, step: "1" },
      });
      return body.data.result[0].values.length;
    };
    expect(await lengthOf("11000")).toBe(11_001);
    expect(await lengthOf("0")).toBe(1);
  });
});

describe("a form", () => {
  const post = (body: BodyInit, type = "application/x-www-form-urlencoded", query = "") =>
    build().fetch(request("POST", {
      path: `/${NAME}/api/v1/query${query}`,
      headers: { "content-type": type },
      body,
    }));

  it("is read like the address, and goes before it", async () => {
    const response = await post(
      new URLSearchParams({ query: "1+1" }).toString(),
      undefined,
      "?query=3&time=5",
    );
    expect((await response.json()).data.result).toEqual([5, "2"]);
  });

  it.each<[string, BodyInit, string, number]>([
    ["another type", "query=1", "text/plain", 415],
    ["JSON", '{"query":"1"}', "application/json", 415],
    ["no UTF-8", new Uint8Array([0x71, 0xff]), "application/x-www-form-urlencoded", 400],
    [
      "too many bytes",
      `query=1${" ".repeat(FORM_BYTES_LIMIT - 6)}`,
      "application/x-www-form-urlencoded; charset=UTF-8",
      413,
    ],
    [
      "as many bytes as may be",
      `query=1${" ".repeat(FORM_BYTES_LIMIT - 7)}`,
      "application/x-www-form-urlencoded; charset=UTF-8",
      400,
    ],
  ])("of %s", async (name, body, type, status) => {
    const response = await post(body, type);
    expect(response.status).toBe(status);
    const answer = await response.json();
    expect(answer).toMatchObject({ status: "error", errorType: "bad_data" });
    // Far longer than an expression may be, but read.
    if (name === "as many bytes as may be") {
      expect(answer.error).toMatch(/^invalid parameter "query"/);
    }
  });
});

describe("lookups", () => {
  const found = <T>(items: T[], isComplete = true): Found<T> => ({ items, isComplete });

  it("/series gives labels by selectors and time", async () => {
    const readSeriesLabels = vi.fn((_: SeriesLookup) => Promise.resolve(found([UP[0]!.labels])));
    const { ask } = build({ readSeriesLabels });
    const { status, body } = await ask("series", [
      ["match[]", "up"],
      ["match[]", '{job=~"a.*"}'],
      ["start", "1"],
      ["end", "2.5"],
      ["limit", "7"],
    ]);
    expect([status, JSON.stringify(body)]).toEqual([
      200,
      '{"status":"success","data":[{"__name__":"up","job":"api"}]}',
    ]);
    expect(readSeriesLabels).toHaveBeenCalledExactlyOnceWith({
      selectors: [
        [{ name: "__name__", op: "=", value: "up" }],
        [{ name: "job", op: "=~", value: "a.*" }],
      ],
      from: new Date(1000),
      until: new Date(2500),
      limit: 7,
    });
  });

  it("looks for all there ever was unless told otherwise, at most 20,000", async () => {
    const readLabelNames = vi.fn((_: SeriesLookup) => Promise.resolve(found(["job"])));
    const { ask } = build({ readLabelNames });
    expect((await ask("labels")).body).toEqual({ status: "success", data: ["job"] });
    await ask("labels", { limit: "20001", start: "-1e9", end: "8.64e12" });
    const whole = {
      selectors: [],
      from: new Date(0),
      until: new Date("9999-12-31T00:00:00Z"),
      limit: 20_000,
    };
    expect(readLabelNames.mock.calls).toEqual([[whole], [whole]]);
  });

  it("takes the first and the last time that Go has for all time", async () => {
    const readLabelNames = vi.fn((_: SeriesLookup) => Promise.resolve(found(["job"])));
    await build({ readLabelNames }).ask("labels", {
      start: "-292273086-05-16T16:47:06Z",
      end: "292277025-08-18T07:12:54.999999999Z",
    });
    expect(readLabelNames.mock.calls[0]![0]).toMatchObject({
      from: new Date(0),
      until: new Date("9999-12-31T00:00:00Z"),
    });
  });

  it("says when there is more", async () => {
    const { ask } = build({ readLabelNames: () => Promise.resolve(found(["a"], false)) });
    expect((await ask("labels", { limit: "1" })).body).toEqual({
      status: "success",
      data: ["a"],
      warnings: ["results truncated due to limit"],
    });
  });

  it.each([
    ["job", "job"],
    ["U__a_2e_b__c", "a.b_c"],
    ["U___1f600_", "😀"],
    ["U__bad_zz_", "U__bad_zz_"],
    ["U__half_d800_", "U__half_d800_".replace("U__", "")],
    ["a%20b", "a b"],
  ])("/label/%s/values is about %s", async (escaped, name) => {
    const readLabelValues = vi.fn((_: string, __: SeriesLookup) => Promise.resolve(found(["x"])));
    const { ask } = build({ readLabelValues });
    expect((await ask(`label/${escaped}/values`)).body.data).toEqual(["x"]);
    expect(readLabelValues.mock.calls[0]![0]).toBe(name);
  });

  it.each([
    ["series", {}, "no match[] parameter provided"],
    ["series", { "match[]": "{}" }, expect.stringMatching(/^invalid parameter "match\[\]": /)],
    [
      "series",
      { "match[]": 'up{a=~"("}' },
      expect.stringMatching(/^invalid parameter "match\[\]": /),
    ],
    ["labels", { "match[]": "rate(up[5m])" }, expect.stringMatching(/expected a selector/)],
    ["labels", { "match[]": "up offset 5m" }, expect.stringMatching(/expected a selector/)],
    ["labels", { start: "x" }, expect.stringMatching(/^invalid parameter "start": /)],
    ["label/job/values", { limit: "x" }, expect.stringMatching(/^invalid parameter "limit": /)],
    ["label/U__/values", {}, 'invalid label name: ""'],
    ["metadata", { limit: "x" }, expect.stringMatching(/^invalid parameter "limit": /)],
  ])("/%s refuses %j", async (path, params, error) => {
    expect(await build().ask(path, params as Record<string, string>)).toEqual(badData(error));
  });

  it("/metadata gives type, help and unit", async () => {
    const readMetadata = vi.fn((_: string | null, __: number) =>
      Promise.resolve([
        { metric: "a_total", kind: "counter", unit: "count", description: "All a." } as const,
        { metric: "b", kind: "gauge", unit: "unknown", description: "B." } as const,
      ])
    );
    const { ask } = build({ readMetadata });
    expect((await ask("metadata")).body.data).toEqual({
      a_total: [{ type: "counter", help: "All a.", unit: "count" }],
      b: [{ type: "gauge", help: "B.", unit: "" }],
    });
    await ask("metadata", { metric: "b", limit: "3" });
    expect(readMetadata.mock.calls).toEqual([[null, 20_000], ["b", 3]]);
  });
});

describe("rules", () => {
  const instance = (
    labels: Record<string, string>,
    changes: Partial<AlertInstance> = {},
  ): AlertInstance => ({
    labels: { alertname: "Down", ...labels },
    annotations: { summary: "It is down." },
    state: "pending",
    last_value: "12.5",
    active_at: "2026-02-01T11:00:00.000Z",
    fired_at: null,
    keep_firing_since: null,
    last_sample_at: "2026-02-01T11:59:00.000Z",
    no_data: false,
    ...changes,
  });
  const down: AlertingRule = {
    kind: "alerting",
    name: "Down",
    expr: "up == 0",
    forSeconds: 60,
    keepFiringForSeconds: 0,
    hold: null,
    clearExpr: "up == 1",
    labels: { severity: "critical" },
    annotations: { summary: "It is down.", pgvigil_clear_expr: "up == 1" },
    noDataPolicy: "keep",
    severity: "critical",
    runbookUrl: "https://runbooks.test/down",
    mode: "live",
  };
  const alerting: StoredRule = {
    ruleId: 1,
    isEnabled: true,
    rule: down,
    state: {
      revision: 1,
      instances: [
        instance({ job: "a" }),
        instance({ job: "b" }, {
          state: "firing",
          last_value: "+Inf",
          keep_firing_since: "2026-02-01T11:50:00.000Z",
        }),
      ],
      health: "ok",
      lastError: null,
      evaluatedAt: NOON.getTime() - 60_000,
      evaluationSeconds: 0.25,
    },
  };
  const recording: StoredRule = {
    ruleId: 2,
    isEnabled: true,
    rule: { kind: "recording", name: "job:up:sum", expr: "sum(up", labels: {} },
    state: {
      revision: 1,
      instances: [],
      health: "err",
      lastError: "1:7: parse error",
      evaluatedAt: NOON.getTime(),
      evaluationSeconds: 0.5,
    },
  };
  const never: StoredRule = {
    ...alerting,
    rule: { ...down, name: "New" },
    state: {
      ...{ revision: 0, instances: [], health: "unknown", lastError: null },
      ...{ evaluatedAt: null, evaluationSeconds: null },
    },
  };
  const readRules = () =>
    Promise.resolve([
      { name: "a", intervalSeconds: 60, rules: [alerting, recording] },
      { name: "b", intervalSeconds: 30, rules: [never, { ...alerting, isEnabled: false }] },
      { name: "c", intervalSeconds: 30, rules: [] },
    ]);
  const alerts = [
    {
      labels: { alertname: "Down", job: "a" },
      annotations: {
        summary: "It is down.",
        runbook_url: "https://runbooks.test/down",
      },
      state: "pending",
      activeAt: "2026-02-01T11:00:00.000Z",
      value: "1.25e+01",
    },
    {
      labels: { alertname: "Down", job: "b" },
      annotations: {
        summary: "It is down.",
        runbook_url: "https://runbooks.test/down",
      },
      state: "firing",
      activeAt: "2026-02-01T11:00:00.000Z",
      keepFiringSince: "2026-02-01T11:50:00.000Z",
      value: "+Inf",
    },
  ];
  const ask = (path: string, params: string[][] = []) => build({ readRules }).ask(path, params);

  it("/rules gives them by group, with their alerts, those switched off not among them", async () => {
    expect((await ask("rules")).body).toEqual({
      status: "success",
      data: {
        groups: [
          {
            name: "a",
            file: "pgvigil",
            interval: 60,
            limit: 0,
            evaluationTime: 0.75,
            lastEvaluation: "2026-02-01T12:00:00.000Z",
            rules: [
              {
                type: "alerting",
                name: "Down",
                query: "up == 0",
                state: "firing",
                duration: 60,
                keepFiringFor: 0,
                labels: { severity: "critical" },
                annotations: {
                  summary: "It is down.",
                  pgvigil_clear_expr: "up == 1",
                  runbook_url: "https://runbooks.test/down",
                },
                alerts,
                health: "ok",
                evaluationTime: 0.25,
                lastEvaluation: "2026-02-01T11:59:00.000Z",
              },
              {
                type: "recording",
                name: "job:up:sum",
                query: "sum(up",
                labels: {},
                health: "err",
                lastError: "1:7: parse error",
                evaluationTime: 0.5,
                lastEvaluation: "2026-02-01T12:00:00.000Z",
              },
            ],
          },
          {
            name: "b",
            file: "pgvigil",
            interval: 30,
            limit: 0,
            evaluationTime: 0,
            lastEvaluation: "0001-01-01T00:00:00Z",
            rules: [expect.objectContaining({ name: "New", state: "inactive", health: "unknown" })],
          },
        ],
      },
    });
  });

  it.each<[string[][], string[]]>([
    [[["type", "alert"]], ["Down", "New"]],
    [[["type", "record"]], ["job:up:sum"]],
    [[["rule_group[]", "b"], ["rule_group[]", "x"]], ["New"]],
    [[["rule_name[]", "New"], ["rule_name[]", "Down"]], ["Down", "New"]],
    [[["file[]", "pgvigil"], ["type", "record"]], ["job:up:sum"]],
    [[["file[]", "other"]], []],
  ])("/rules may be asked for %j", async (params, names) => {
    const { groups } = (await ask("rules", params)).body.data;
    expect(
      groups.flatMap(({ rules }: { rules: { name: string }[] }) => rules)
        .map(({ name }: { name: string }) => name),
    ).toEqual(names);
  });

  it("/rules leaves alerts out when it is told to, and refuses a type that there is not", async () => {
    const { groups } = (await ask("rules", [["exclude_alerts", "true"]])).body.data;
    expect(groups[0].rules[0]).toMatchObject({ state: "firing", alerts: [] });
    expect(await ask("rules", [["type", "toString"]]))
      .toEqual(badData('invalid parameter "type": not supported value "tostring"'));
  });

  it("/alerts gives those of all rules", async () => {
    expect((await ask("alerts")).body).toEqual({ status: "success", data: { alerts } });
  });

  it("/alerts has none of a rule in the shadow, which /rules shows", async () => {
    const shadow: StoredRule = { ...alerting, rule: { ...down, mode: "shadow" } };
    const { ask } = build({
      readRules: () => Promise.resolve([{ name: "a", intervalSeconds: 60, rules: [shadow] }]),
    });
    expect((await ask("alerts")).body.data).toEqual({ alerts: [] });
    expect((await ask("rules")).body.data.groups[0].rules[0])
      .toMatchObject({ state: "firing", alerts });
  });
});

describe("other addresses", () => {
  it("say whose interface this is", async () => {
    const { body } = await build().ask("status/buildinfo");
    expect(body.data).toMatchObject({ version: expect.stringMatching(/^3\./), branch: "pgvigil" });
  });

  it("have no exemplars", async () => {
    expect((await build().ask("query_exemplars", { query: "up" })).body.data)
      .toEqual([]);
  });

  it("/format_query lays an expression out", async () => {
    const { ask } = build();
    expect((await ask("format_query", { query: "foo/bar" })).body).toEqual({
      status: "success",
      data: "foo / bar",
    });
    expect((await ask("format_query", { query: "foo/" })).body.errorType).toBe("bad_data");
  });

  it("/parse_query gives the tree", async () => {
    const { ask } = build();
    const query =
      `round(sum by (job) (-rate(up{a!="b"}[5m] offset 1m)), 0.5) > bool on () group_left (x) (
      up @ 5 + (time()) or max_over_time(up[1h:1m] @ start()) )`;
    const { body } = await ask("parse_query", { query });
    expect(body.data).toMatchObject({
      type: "binaryExpr",
      op: ">",
      bool: true,
      matching: { card: "many-to-one", labels: [], on: true, include: ["x"] },
      lhs: {
        type: "call",
        func: { name: "round", argTypes: ["vector", "scalar"], variadic: 1, returnType: "vector" },
        args: [{
          type: "aggregation",
          op: "sum",
          grouping: ["job"],
          without: false,
          param: null,
          expr: {
            type: "unaryExpr",
            op: "-",
            expr: {
              func: { name: "rate", variadic: 0 },
              args: [{
                type: "matrixSelector",
                name: "up",
                range: 300_000,
                offset: 60_000,
                timestamp: null,
                startOrEnd: null,
                matchers: expect.arrayContaining([{ name: "a", type: "!=", value: "b" }]),
              }],
            },
          },
        }, { type: "numberLiteral", val: "0.5" }],
      },
      rhs: {
        type: "parenExpr",
        expr: {
          op: "or",
          lhs: {
            op: "+",
            matching: null,
            lhs: { type: "vectorSelector", timestamp: 5000, anchored: false, smoothed: false },
            rhs: { type: "parenExpr", expr: { func: { name: "time" }, args: [] } },
          },
          rhs: {
            args: [{
              type: "subquery",
              range: 3_600_000,
              step: 60_000,
              offset: 0,
              startOrEnd: "start",
              expr: { type: "vectorSelector", name: "up" },
            }],
          },
        },
      },
    });
    expect((await ask("parse_query", { query: '"s"' })).body.data)
      .toEqual({ type: "stringLiteral", val: "s" });
    const { func } = (await ask("parse_query", { query: 'label_join(up, "a", "b")' })).body
      .data;
    expect(func.variadic).toBe(-1);
  });

  it.each([
    "nothing",
    "label/values",
    "label//values",
    "label/a/b/values",
    "toString",
    "",
  ])(
    "are none: %s",
    async (path) => {
      const { status, body } = await build().ask(path);
      expect([status, body.status, body.errorType]).toEqual([404, "error", "not_found"]);
      expect(body.error).toContain("/api/v1/query_range");
    },
  );

  it("outside of the API are told in problem details", async () => {
    const response = await build().fetch(request("GET", { path: `/${NAME}/elsewhere` }));
    expect([response.status, response.headers.get("content-type")])
      .toEqual([404, "application/problem+json"]);
  });
});

describe("methods", () => {
  const form = { "content-type": "application/x-www-form-urlencoded" };
  const post = (path: string) =>
    build().fetch(
      request("POST", { path: `/${NAME}${path}`, headers: form, body: "query=1&match[]=up" }),
    );

  it.each(
    ["query", "query_exemplars", "series", "labels", "format_query", "parse_query"],
  )("POST is taken by /api/v1/%s", async (path) => {
    expect((await post(`/api/v1/${path}`)).status).toBe(200);
  });

  it.each(["label/job/values", "metadata", "rules", "alerts", "status/buildinfo"])(
    "POST is refused by /api/v1/%s",
    async (path) => {
      const response = await post(`/api/v1/${path}`);
      expect([response.status, response.headers.get("allow")]).toEqual([405, "GET, HEAD, OPTIONS"]);
      expect(await response.json()).toMatchObject({ status: "error", errorType: "bad_data" });
    },
  );

  it.each(["/metrics", "/-/healthy"])("POST is refused by %s", async (path) => {
    const response = await post(path);
    expect([response.status, response.headers.get("allow"), response.headers.get("content-type")])
      .toEqual([405, "GET, HEAD, OPTIONS", "application/problem+json"]);
  });

  it.each(["/metrics", "/api/v1/query?query=1", "/api/v1/rules", "/-/ready"])(
    "HEAD is answered as GET without a body by %s",
    async (path) => {
      const { fetch } = build();
      const [get, head] = [
        await fetch(request("GET", { path: `/${NAME}${path}` })),
        await fetch(request("HEAD", { path: `/${NAME}${path}` })),
      ];
      expect([head.status, head.headers.get("content-type")])
        .toEqual([200, get.headers.get("content-type")]);
      expect(await get.text()).not.toBe("");
      expect(await head.text()).toBe("");
    },
  );
});

describe("whether it is up", () => {
  it.each([["healthy", "Healthy"], ["ready", "Ready"]])("/-/%s says so", async (path, word) => {
    const response = await build().fetch(request("GET", { path: `/${NAME}/-/${path}` }));
    expect([response.status, await response.text()]).toEqual([200, `pgvigil is ${word}.\n`]);
  });
});

describe("renderProblem()", () => {
  it.each(
    [
      ["unauthenticated", 401, "unauthorized"],
      ["forbidden", 403, "forbidden"],
      ["method", 405, "bad_data"],
      ["too-many-tokens", 429, "too_many_requests"],
      ["configuration", 500, "internal"],
      ["schema-not-exposed", 503, "unavailable"],
    ] as const,
  )("tells %s as %i %s, with its headers", async (slug, status, errorType) => {
    const problem = new Problem(slug, "Why.", { headers: { "www-authenticate": "Bearer" } });
    const response = renderProblem(problem, request("GET", { path: `/${NAME}/api/v1/query` }))!;
    expect([response.status, response.headers.get("www-authenticate")]).toEqual([status, "Bearer"]);
    expect(await response.json()).toEqual({
      status: "error",
      errorType,
      error: `${problem.title}: Why.`,
    });
  });
});

describe("/metrics", () => {
  const TEXT = "text/plain; version=0.0.4; charset=utf-8";
  const OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8";
  const scrape = async (headers: Record<string, string> = {}, isComplete = true) => {
    const readExposition = vi.fn((_: number, __: Date) =>
      Promise.resolve({
        metrics: [{ metric: "up", kind: "gauge", unit: "count", description: "Up." } as const],
        series: [{ metric: "up", labels: {}, time: NOON.getTime() - 2000, value: 1 }],
        isComplete,
      })
    );
    const { fetch, lines } = build({ readExposition });
    const response = await fetch(request("GET", { path: `/${NAME}/metrics`, headers }));
    expect(readExposition).toHaveBeenCalledExactlyOnceWith(20_000, NOON);
    return { response, text: await response.text(), lines };
  };

  it.each([
    ["nothing", undefined, TEXT],
    ["everything", "*/*", TEXT],
    ["text", "text/plain", TEXT],
    [
      "what Prometheus 2.42 does",
      "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
      OPEN_METRICS,
    ],
    [
      "what Prometheus 3 does",
      "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
      OPEN_METRICS,
    ],
    ["text rather than OpenMetrics", "application/openmetrics-text;q=0.4, text/plain;q=0.5", TEXT],
    ["no OpenMetrics", "application/openmetrics-text;q=0, text/plain;q=0.1", TEXT],
    ["an OpenMetrics that is none of ours", "application/openmetrics-text; version=2.0.0", TEXT],
    ["both alike, OpenMetrics first", "application/openmetrics-text, text/plain", OPEN_METRICS],
    ["both alike, text first", "text/plain, application/openmetrics-text", TEXT],
    [
      "a text that is none of ours rather than OpenMetrics",
      "text/plain; version=1.0.0, application/openmetrics-text; q=0.5",
      OPEN_METRICS,
    ],
    ["OpenMetrics in capitals", "Application/OpenMetrics-Text; Version=1.0.0", OPEN_METRICS],
    ["something else", "image/png", TEXT],
  ])("is sent to who accepts %s as it should", async (_name, accept, type) => {
    const { response, text } = await scrape(accept === undefined ? {} : { accept });
    expect([response.status, response.headers.get("content-type")]).toEqual([200, type]);
    expect(response.headers.get("vary")).toBe("Accept, Origin");
    expect(text.endsWith("# EOF\n")).toBe(type === OPEN_METRICS);
    expect(text).toContain('\npgvigil_observation_age_seconds{metric="up"} 2\n');
  });

  it("says in the log when it is not all", async () => {
    expect((await scrape()).lines).toEqual([]);
    const { text, lines } = await scrape({}, false);
    expect(text).toContain("\npgvigil_exposition_truncated 1\n");
    expect(lines.map(({ level }) => level)).toEqual(["warning"]);
  });
});
