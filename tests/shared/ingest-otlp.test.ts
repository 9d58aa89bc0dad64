import fc from "fast-check";
import type { JsonValue } from "@bufbuild/protobuf";
import { describe, expect, it, vi } from "vitest";
import { AttributeCache } from "../../shared/ingest/attribute-labels.ts";
import { decodeOtlpJson } from "../../shared/ingest/decode-otlp.ts";
import { DESCRIPTION_LIMIT, otlpToSamples } from "../../shared/ingest/otlp-to-samples.ts";
import { CHARACTERS_LIMIT, SampleCollector } from "../../shared/ingest/sample-collector.ts";
import {
  attributes,
  gauge,
  nanoseconds,
  NOW,
  point,
  request,
  show,
  showValues,
  sum,
  translate,
} from "./ingest-fixtures.ts";

const MINUTE = 60 * 1000;
const DAY = 24 * 60 * MINUTE;
const CUMULATIVE = { isMonotonic: true, aggregationTemporality: 2 };
const DELTA = { isMonotonic: true, aggregationTemporality: 1 };

/** A histogram data point of now. */
function histogramPoint(more: object, labels: Record<string, JsonValue> = {}): JsonValue {
  return { attributes: attributes(labels), timeUnixNano: nanoseconds(NOW), ...more } as JsonValue;
}

function histogram(name: string, points: JsonValue[], temporality = 2, more = {}): JsonValue {
  const dataPoints = { dataPoints: points, aggregationTemporality: temporality };
  return { name, histogram: dataPoints, ...more } as JsonValue;
}

function exponential(name: string, points: JsonValue[]): JsonValue {
  const dataPoints = { dataPoints: points, aggregationTemporality: 2 };
  return { name, exponentialHistogram: dataPoints } as JsonValue;
}

function summary(name: string, points: JsonValue[]): JsonValue {
  return { name, summary: { dataPoints: points } } as JsonValue;
}

/** Why a metric of one point is refused, "taken" if it is not. */
function judge(metric: JsonValue): string {
  const { batch, refused, pointsAccepted } = translate(request([metric]));
  expect(refused.length + pointsAccepted).toBe(1);
  expect(batch.values.length > 0).toBe(pointsAccepted === 1);
  return refused[0]?.reason ?? "taken";
}

const many = (count: number): Record<string, JsonValue> =>
  Object.fromEntries(Array.from({ length: count }, (_, index) => [`label.${index}`, "x"]));

describe("otlpToSamples(): kinds of metrics", () => {
  it("makes gauges of gauges, whole numbers too", () => {
    const result = translate(request([
      gauge("cpu.usage", [
        point(0.5, { core: "1" }),
        { ...point(0, { core: "2" }) as object, asDouble: undefined, asInt: "-7" } as never,
      ], { unit: "1", description: "How busy" }),
    ]));
    expect(showValues(result)).toEqual([
      'cpu_usage_ratio{core="1"} 0.5',
      'cpu_usage_ratio{core="2"} -7',
    ]);
    expect(result.batch.series[0]).toEqual({
      metric: "cpu_usage_ratio",
      labels: { core: "1" },
      kind: "gauge",
      unit: "ratio",
      description: "How busy",
      is_delta: false,
    });
    expect(result).toMatchObject({ pointsAccepted: 2, refused: [] });
  });

  it.each([
    [CUMULATIVE, "orders_total", "counter", false],
    [DELTA, "orders_total", "counter", true],
    [{ isMonotonic: false, aggregationTemporality: 2 }, "orders", "gauge", false],
    [{ isMonotonic: false, aggregationTemporality: 1 }, "orders", "gauge", true],
    [{ aggregationTemporality: 1 }, "orders", "gauge", true],
  ])("makes of a sum %j %s, a %s, delta %s", (how, metric, kind, is_delta) => {
    const { batch } = translate(request([sum("orders", [point(3)], how)]));
    expect(batch.series).toEqual([expect.objectContaining({ metric, kind, is_delta })]);
    expect(batch.values).toEqual([3]);
  });

  it("makes cumulative buckets, sum and count of a histogram", () => {
    const result = translate(request([
      histogram(
        "http.server.request.duration",
        [
          histogramPoint({
            count: "10",
            sum: 2.5,
            bucketCounts: ["1", "0", "5", 4],
            explicitBounds: [0.005, 1, 1e-7 + 10],
          }, { route: "/" }),
        ],
        1,
        { unit: "s" },
      ),
    ]));
    expect(showValues(result)).toEqual([
      'http_server_request_duration_seconds_bucket{le="0.005",route="/"} 1',
      'http_server_request_duration_seconds_bucket{le="1",route="/"} 1',
      'http_server_request_duration_seconds_bucket{le="10.0000001",route="/"} 6',
      'http_server_request_duration_seconds_bucket{le="+Inf",route="/"} 10',
      'http_server_request_duration_seconds_sum{route="/"} 2.5',
      'http_server_request_duration_seconds_count{route="/"} 10',
    ]);
    expect(result.pointsAccepted).toBe(1);
    expect(result.batch.series.map(({ kind, unit, is_delta }) => [kind, unit, is_delta])).toEqual([
      ...Array(4).fill(["counter", "count", true]),
      ["counter", "seconds", true],
      ["counter", "count", true],
    ]);
  });

  it.each([
    [1e-7, "0.0000001"],
    [1.5e-9, "0.0000000015"],
    [-2.5e-10, "-0.00000000025"],
    [1e21, "1000000000000000000000"],
    [1.25e22, "12500000000000000000000"],
    [0.1, "0.1"],
    [100, "100"],
  ])("writes the bound %d as %s", (bound, le) => {
    const { batch } = translate(request([
      histogram("h", [histogramPoint({ count: 1, bucketCounts: [1, 0], explicitBounds: [bound] })]),
    ]));
    expect(batch.series[0]!.labels).toEqual({ le });
    expect(Number(le)).toBe(bound);
  });

  it("makes a bucket +Inf and a count of a histogram without buckets or sum", () => {
    const result = translate(request([histogram("h", [histogramPoint({ count: 4 })])]));
    expect(showValues(result)).toEqual(['h_bucket{le="+Inf"} 4', "h_count 4"]);
  });

  it("makes quantiles, sum and count of a summary, and leaves out what is NaN", () => {
    const result = translate(request([
      summary("s", [histogramPoint({
        count: 4,
        sum: 10,
        quantileValues: [
          { quantile: 0, value: 1 },
          { quantile: 0.5, value: 2.5 },
          { quantile: 0.99, value: "NaN" },
        ],
      }, { a: "b" })]),
    ]));
    expect(showValues(result)).toEqual([
      's{a="b",quantile="0"} 1',
      's{a="b",quantile="0.5"} 2.5',
      's_sum{a="b"} 10',
      's_count{a="b"} 4',
    ]);
    expect(result.batch.series.map(({ kind }) => kind))
      .toEqual(["gauge", "gauge", "counter", "counter"]);
  });

  it("says what to do instead of exponential histograms, by point", () => {
    const points = [{ count: 1, scale: 2 }, { count: 0, flags: 1 }, { count: 1, flags: 2 }];
    const { refused, batch, pointsAccepted } = translate(request([
      exponential("e", points.map((point) => histogramPoint(point))),
      gauge("fine", [point(1)]),
    ]));
    expect(refused).toEqual([
      { metric: "e", reason: expect.stringContaining("explicit"), count: 2 },
    ]);
    expect([batch.values, pointsAccepted]).toEqual([[1], 1]);
  });

  it("neither stores nor refuses a point of which nothing was recorded", () => {
    const nothing = { flags: 1, count: 0 };
    expect(translate(request([
      gauge("g", [point(1, {}, nothing)]),
      sum("c", [point(1, {}, nothing)], CUMULATIVE),
      histogram("h", [histogramPoint(nothing)]),
      summary("s", [histogramPoint(nothing)]),
      exponential("e", [histogramPoint(nothing)]),
    ]))).toEqual({
      batch: { series: [], positions: [], times: [], values: [] },
      refused: [],
      pointsAccepted: 0,
    });
  });
});

describe("otlpToSamples(): refusals", () => {
  const bounds = (explicitBounds: (number | string)[], bucketCounts: number[], count: number) =>
    histogram("h", [histogramPoint({ count, explicitBounds, bucketCounts })]);
  const quantiles = (...quantiles: (number | string)[]) =>
    summary("s", [histogramPoint({
      quantileValues: quantiles.map((quantile) => ({ quantile, value: 1 })),
    })]);
  const timed = (time: string | number) => gauge("g", [point(1, {}, { timeUnixNano: time })]);
  const ms = NOW.getTime();

  it.each<[string, JsonValue, string]>([
    ["NaN", gauge("g", [point(NaN)]), "finite"],
    ["+Inf", gauge("g", [point(Infinity)]), "finite"],
    ["no value", gauge("g", [{ timeUnixNano: nanoseconds(NOW) }]), "no value"],
    ["no time", timed(0), "no time"],
    ["10 minutes ahead", timed(nanoseconds(ms + 10 * MINUTE)), "taken"],
    ["more than that", timed(nanoseconds(ms + 10 * MINUTE + 1)), "ahead"],
    ["7 days old", timed(nanoseconds(ms - 7 * DAY)), "taken"],
    ["older", timed(nanoseconds(ms - 7 * DAY - 1)), "older"],
    ["the last time there is", timed("18446744073709551615"), "ahead"],
    ["no temporality", sum("c", [point(1)], { isMonotonic: true }), "neither delta"],
    ["another temporality", sum("c", [point(1)], { aggregationTemporality: 3 }), "neither delta"],
    ["a histogram without one", histogram("h", [histogramPoint({ count: 1 })], 0), "neither delta"],
    ["a falling increment", sum("c", [point(-1)], DELTA), "negative"],
    ["an increment of 0", sum("c", [point(0)], DELTA), "taken"],
    ["a falling one that may", sum("c", [point(-1)], { aggregationTemporality: 1 }), "taken"],
    ["a fallen total", sum("c", [point(-1)], CUMULATIVE), "taken"],
    ["no name", gauge("", [point(1)]), "no letter"],
    ["no word in the name", gauge("🙂.", [point(1)]), "no letter"],
    ["a name of 200", gauge("g".repeat(200), [point(1)]), "taken"],
    ["a name of 201", gauge("g".repeat(201), [point(1)]), "200"],
    ["200 with the unit", gauge("g".repeat(192), [point(1)], { unit: "s" }), "taken"],
    ["201 with the unit", gauge("g".repeat(193), [point(1)], { unit: "s" }), "200"],
    ["200 with _bucket", histogram("h".repeat(193), [histogramPoint({ count: 1 })]), "taken"],
    ["201 with _bucket", histogram("h".repeat(194), [histogramPoint({ count: 1 })]), "200"],
    ["an endless name", gauge("g".repeat(100_000), [point(1)]), "200"],
    ["target_info", gauge("target.info", [point(1)]), "target_info"],
    ["no data", { name: "new" }, "not known"],
    ["30 labels", gauge("g", [point(1, many(30))]), "taken"],
    ["31 labels", gauge("g", [point(1, many(31))]), "30 labels"],
    ["29 labels and le", histogram("h", [histogramPoint({ count: 1 }, many(29))]), "taken"],
    ["30 labels and le", histogram("h", [histogramPoint({ count: 1 }, many(30))]), "30 labels"],
    ["a label name of 200", gauge("g", [point(1, { ["l".repeat(200)]: "x" })]), "taken"],
    ["a label name of 201", gauge("g", [point(1, { ["l".repeat(201)]: "x" })]), "200"],
    ["a label value of 2,000", gauge("g", [point(1, { l: "🙂".repeat(2000) })]), "taken"],
    ["a label value of 2,001", gauge("g", [point(1, { l: "🙂".repeat(2001) })]), "2,000"],
    ["an endless label value", gauge("g", [point(1, { l: "x".repeat(100_000) })]), "2,000"],
    ["an attribute without key", gauge("g", [point(1, { "": "x" })]), "no key"],
    [
      "le of a histogram",
      histogram("h", [histogramPoint({ count: 1 }, { le: "1" })]),
      "le is taken",
    ],
    ["le of a gauge", gauge("g", [point(1, { le: "1" })]), "taken"],
    ["its quantile", summary("s", [histogramPoint({}, { quantile: "1" })]), "quantile is taken"],
    ["bounds that rise", bounds([1, 2], [1, 1, 1], 3), "taken"],
    ["bounds that do not", bounds([1, 1], [1, 1, 1], 3), "increasing"],
    ["an infinite bound", bounds([1, "Infinity"], [1, 1, 1], 3), "increasing"],
    ["a bound of NaN", bounds(["NaN"], [1, 1], 2), "increasing"],
    ["a bucket too few", bounds([1, 2], [1, 1], 2), "one count a bucket"],
    ["a bucket too many", bounds([1], [1, 1, 1], 3), "one count a bucket"],
    ["a wrong count", bounds([1], [1, 1], 3), "add up"],
    ["a sum of NaN", histogram("h", [histogramPoint({ count: 1, sum: "NaN" })]), "finite"],
    ["quantiles 0 and 1", quantiles(0, 1), "taken"],
    ["a quantile beyond", quantiles(1.01), "between 0 and 1"],
    ["a quantile of NaN", quantiles("NaN"), "between 0 and 1"],
    ["a quantile twice", quantiles(0.5, 0.5), "twice"],
  ])("%s: %#", (_, metric, expected) => expect(judge(metric)).toContain(expected));

  it("adds up by metric and reason, counting points and not samples", () => {
    const bad = histogramPoint({ count: 1, explicitBounds: [1], bucketCounts: [0, 0] });
    const good = histogramPoint({ count: 1, explicitBounds: [1], bucketCounts: [0, 1] });
    const { refused, batch, pointsAccepted } = translate(request([
      histogram("h", [bad, good, bad]),
      gauge("g\0", [point(NaN)]),
    ]));
    expect(refused).toEqual([
      { metric: "h", reason: expect.stringContaining("add up"), count: 2 },
      { metric: "g\ufffd", reason: expect.stringContaining("finite"), count: 1 },
    ]);
    expect([pointsAccepted, batch.values.length]).toEqual([1, 3]);
  });

  it("takes the first of delta and cumulative for a series", () => {
    const { refused, batch } = translate(request([
      sum("c", [point(1)], DELTA),
      sum("c", [point(2), point(3, { other: "series" })], CUMULATIVE),
    ]));
    expect(refused).toEqual([{ metric: "c", reason: expect.stringContaining("both"), count: 1 }]);
    expect(batch.values).toEqual([1, 3]);
  });

  it("takes 200,000 samples and not one more, whoever makes them", () => {
    // 99 buckets and the count.
    const buckets = histogram(
      "h",
      Array(2000).fill(histogramPoint({
        count: 0,
        explicitBounds: Array.from({ length: 98 }, (_, n) => n),
        bucketCounts: Array(99).fill(0),
      })),
    );
    expect(translate(request([buckets])).batch.values).toHaveLength(200_000);
    const tooLarge = expect.objectContaining({ name: "IngestError", kind: "too_large" });
    expect(() => translate(request([buckets, gauge("g", [point(1)])]))).toThrow(tooLarge);
    expect(() => translate(request([gauge("g", Array(200_001).fill(point(NaN)))]))).toThrow(
      tooLarge,
    );
  });
});

describe("otlpToSamples(): what one point may make", () => {
  const tooLarge = expect.objectContaining({ name: "IngestError", kind: "too_large" });
  const values = (count: number) =>
    Array.from({ length: count }, () => ({ quantile: 2, value: 1 }));

  // None of these points is good: with one sample more, nobody even looks whether it is.
  it.each([
    [
      "buckets",
      (count: number) =>
        histogram("h", [histogramPoint({ count: 0, bucketCounts: Array(count).fill("0") })]),
      "one count a bucket",
    ],
    [
      "quantiles",
      (count: number) => summary("s", [histogramPoint({ quantileValues: values(count) })]),
      "between 0 and 1",
    ],
  ])("is 200,000 %s: beyond, none of them is made", (_, make, expected) => {
    expect(judge(make(200_000))).toContain(expected);
    expect(() => translate(request([make(200_001)]))).toThrow(tooLarge);
  });

  it("is labels of 2^25 characters, which are not put together before they are counted", () => {
    const labels = Object.fromEntries(
      Array.from({ length: 29 }, (_, n) => [`l${n}`, "x".repeat(2000)]),
    );
    const buckets = (count: number) =>
      histogram("h", [histogramPoint({
        count: 0,
        explicitBounds: Array.from({ length: count - 1 }, (_, n) => n),
        bucketCounts: Array(count).fill("0"),
      }, labels)]);
    const positions = vi.spyOn(Map.prototype, "get");
    try {
      // 29 labels of 2,000 characters and their names make 58,129 characters a series: 577 of them fit.
      expect(judge(buckets(570))).toBe("taken");
      positions.mockClear();
      expect(() => translate(request([buckets(20_000)]))).toThrow(tooLarge);
      const longest = positions.mock.calls.map(([key]) => typeof key === "string" ? key.length : 0);
      expect(Math.max(0, ...longest)).toBeLessThan(2000);
    } finally {
      positions.mockRestore();
    }
  });

  it.each([[0, false], [1, true]])(
    "counts what all series of a request have: %i characters more than 2^25 are too many, %s",
    (more, isTooMany) => {
      const collector = new SampleCollector();
      collector.countCharacters(CHARACTERS_LIMIT - 1);
      const count = () => collector.countCharacters(1 + more);
      if (isTooMany) expect(count).toThrow(tooLarge);
      else expect(count).not.toThrow();
    },
  );

  it("is nothing to be kept for metrics without a sample", () => {
    const positionsOf = vi.spyOn(SampleCollector.prototype, "positionsOf");
    try {
      const refused = histogramPoint({ count: 0 }, many(31));
      translate(request([
        gauge("a", []),
        gauge("b", [point(NaN)]),
        histogram("c", []),
        histogram("d", [refused]),
        summary("e", []),
        summary("f", [refused]),
      ]));
      expect(positionsOf).not.toHaveBeenCalled();
      translate(request([gauge("a", [point(1), point(2)])]));
      expect(positionsOf.mock.calls).toEqual([["a"]]);
    } finally {
      positionsOf.mockRestore();
    }
  });
});

describe("otlpToSamples(): labels", () => {
  it("writes every kind of value as text, and leaves out what is empty", () => {
    const { batch } = translate(request([gauge("g", [point(1, {
      string: "text",
      empty: "",
      none: {},
      yes: { boolValue: true },
      no: { boolValue: false },
      whole: { intValue: "-9007199254740993" },
      real: { doubleValue: 0.1 },
      bytes: { bytesValue: "AAEC" },
      list: {
        arrayValue: {
          values: [{ stringValue: 'a"b' }, { intValue: 1 }, { doubleValue: "NaN" }, {}],
        },
      },
      map: { kvlistValue: { values: [{ key: "k", value: { boolValue: true } }] } },
    })])]));
    expect(batch.series[0]!.labels).toEqual({
      string: "text",
      yes: "true",
      no: "false",
      whole: "-9007199254740993",
      real: "0.1",
      bytes: "AAEC",
      list: '["a\\"b",1,"NaN",null]',
      map: '{"k":true}',
    });
  });

  it("joins values of keys that become one name, in the order of the keys", () => {
    const { batch } = translate(request([
      gauge("g", [point(1, { "a_b": "underscore", "a.b": "dot", "a-b": "dash", "a+b": "" })]),
    ]));
    expect(batch.series[0]!.labels).toEqual({ a_b: "dash;dot;underscore" });
  });

  it("keeps quotes, line breaks and emoji; what Postgres cannot hold becomes U+FFFD", () => {
    const { batch } = translate(request([
      gauge("g", [point(1, { plain: 'a "quote"\n🙂\\', bad: "nul\0" })], { description: "\0d" }),
    ]));
    expect(batch.series[0]).toMatchObject({
      labels: { plain: 'a "quote"\n🙂\\', bad: "nul\ufffd" },
      description: "\ufffdd",
    });
  });

  it("tells the description of a metric once, with the first series that has it", () => {
    const more = { description: "what it is" };
    const resource = { "service.name": "shop", "host.name": "a" };
    const one = request([
      gauge("g", [point(1), point(2, { a: "b" })], more),
      gauge("h", [point(3)]),
      gauge("h", [point(4, { a: "b" }), point(5, { a: "c" })], more),
      histogram(
        "d",
        [histogramPoint({ count: 1, explicitBounds: [1], bucketCounts: [1, 0] })],
        2,
        more,
      ),
    ], resource) as { resourceMetrics: JsonValue[] };
    const other = request([gauge("g", [point(6, { a: "c" })], more)], {
      ...resource,
      "host.name": "b",
    }) as { resourceMetrics: JsonValue[] };
    const { batch } = translate({
      resourceMetrics: [...one.resourceMetrics, ...other.resourceMetrics],
    });
    expect(batch.series.map(({ metric, description }) => [metric, description])).toEqual([
      ["g", "what it is"],
      ["g", ""],
      ["h", ""],
      ["h", "what it is"],
      ["h", ""],
      ["d_bucket", "what it is"],
      ["d_bucket", ""],
      ["d_count", "what it is"],
      ["g", ""],
      ["target_info", expect.stringMatching(/./)],
      ["target_info", ""],
    ]);
  });

  it("takes the attribute that SDKs send of what overflows in them", () => {
    expect(showValues(translate(request([
      sum("c", [point(1, { "otel.metric.overflow": { boolValue: true } })], CUMULATIVE),
    ])))).toEqual(['c_total{otel_metric_overflow="true"} 1']);
  });

  it("knows a series again whatever the order of its attributes, and keeps both samples", () => {
    const { batch } = translate(request([
      gauge("g", [
        point(1, { a: "1", b: "2" }),
        point(2, { b: "2", a: "1" }),
        point(3, { a: "12" }),
      ]),
      gauge("g", [point(4, { a: "1", b: "2" })]),
    ]));
    expect(batch.series).toHaveLength(2);
    expect(batch.positions).toEqual([1, 1, 2, 1]);
    expect(batch.values).toEqual([1, 2, 3, 4]);
  });

  it("knows the series of a histogram from a gauge of the same name and labels", () => {
    const { batch } = translate(request([
      histogram("h", [histogramPoint({ count: 1 }, { a: "b" })]),
      gauge("h.bucket", [point(5, { a: "b", le: "+Inf" })]),
    ]));
    expect(batch.series).toHaveLength(2);
    expect(batch.positions).toEqual([1, 2, 1]);
  });

  it("cuts times to whole milliseconds and descriptions to what is kept", () => {
    const time = `${NOW.getTime()}999999`;
    const { batch } = translate(request([
      gauge("g", [point(1, {}, { timeUnixNano: time })], { description: "d".repeat(2000) }),
    ]));
    expect(batch.times).toEqual([NOW.getTime()]);
    expect(batch.series[0]!.description).toHaveLength(DESCRIPTION_LIMIT);
  });
});

describe("otlpToSamples(): resources", () => {
  const one = [gauge("g", [point(1)])];

  it.each<[Record<string, JsonValue>, Record<string, string>]>([
    [{}, {}],
    [{ "service.name": "shop" }, { job: "shop" }],
    [{ "service.name": "shop", "service.namespace": "eu" }, { job: "eu/shop" }],
    [{ "service.namespace": "eu" }, {}],
    [{ "service.instance.id": "i-1" }, { instance: "i-1" }],
    [{ "service.instance.id": { intValue: 7 } }, { instance: "7" }],
  ])("of %j are the labels %j, and no target_info", (resource, labels) => {
    const { batch } = translate(request(one, resource));
    expect(batch.series.map((series) => series.labels)).toEqual([labels]);
  });

  it("tells the rest of them in target_info, at their newest time", () => {
    const older = nanoseconds(NOW.getTime() - MINUTE);
    const resource = { "service.name": "shop", "host.name": "a", "service.instance.id": "i" };
    const metrics = [
      gauge("g", [point(1, {}, { timeUnixNano: older }), point(2), point(NaN, { job: "other" })]),
      gauge("h", [point(3, {}, { timeUnixNano: older })]),
    ];
    const now = NOW.getTime();
    const result = translate(request(metrics, resource));
    expect(show(result)).toEqual([
      `g{instance="i",job="shop"} 1 @${now - MINUTE}`,
      `g{instance="i",job="shop"} 2 @${now}`,
      `h{instance="i",job="shop"} 3 @${now - MINUTE}`,
      `target_info{host_name="a",instance="i",job="shop"} 1 @${now}`,
    ]);
    expect(result).toMatchObject({ pointsAccepted: 3 });
  });

  it("tells it once for a resource that is there twice, and not for one without samples", () => {
    const resource = { "service.name": "shop", "host.name": "a" };
    const { resourceMetrics: newer } = request(one, resource) as { resourceMetrics: JsonValue[] };
    const { resourceMetrics: none } = request([], { ...resource, "host.name": "b" }) as {
      resourceMetrics: JsonValue[];
    };
    const [older] = (request(
      [gauge("g", [point(1, {}, { timeUnixNano: nanoseconds(NOW.getTime() - MINUTE) })])],
      resource,
    ) as { resourceMetrics: JsonValue[] }).resourceMetrics;
    const result = translate({ resourceMetrics: [...newer, older!, ...none] });
    expect(showValues(result)).toEqual([
      'g{job="shop"} 1',
      'g{job="shop"} 1',
      'target_info{host_name="a",job="shop"} 1',
    ]);
    expect(result.batch.series).toHaveLength(2);
    expect(result.batch.times.at(-1)).toBe(NOW.getTime());
  });

  it("has none for a resource without job and instance: nothing could be joined to it", () => {
    expect(showValues(translate(request(one, { "host.name": "a" })))).toEqual(["g 1"]);
  });

  it("goes before attributes of the points, and is told from them", () => {
    const own = [gauge("g", [point(1, { job: "own" })])];
    const { resourceMetrics: with_ } = request(own, { "service.name": "shop" }) as never;
    const { resourceMetrics: without } = request(own) as never;
    const result = translate(
      { resourceMetrics: [...with_ as JsonValue[], ...without as JsonValue[]] },
    );
    expect(showValues(result)).toEqual(['g{job="shop"} 1', 'g{job="own"} 1']);
  });

  it("is the same series if the job comes from the resource or from the point", () => {
    const { resourceMetrics: some } = request(one, { "service.name": "shop" }) as never;
    const { resourceMetrics: others } = request([gauge("g", [point(2, { job: "shop" })])]) as never;
    const result = translate({
      resourceMetrics: [...some as JsonValue[], ...others as JsonValue[]],
    });
    expect(result.batch.positions).toEqual([1, 1]);
  });

  it("fits target_info into the limits of a series", () => {
    const resource = { ...many(40), "service.name": "shop", long: "🙂".repeat(3000), a: "x" };
    const { batch, refused } = translate(request(one, resource));
    const { labels } = batch.series[1]!;
    expect(refused).toEqual([]);
    expect(Object.keys(labels)).toHaveLength(30);
    expect(labels).toMatchObject({ job: "shop", a: "x" });
    const { batch: other } = translate(request(one, {
      "service.name": "shop",
      long: "🙂".repeat(3000),
    }));
    expect(other.series[1]!.labels.long).toBe("🙂".repeat(2000));
  });
});

describe("otlpToSamples(): laws", () => {
  const texts = fc.string({ unit: "binary" });
  const value = fc.oneof(
    texts.map((stringValue): JsonValue => ({ stringValue })),
    fc.boolean().map((boolValue): JsonValue => ({ boolValue })),
    fc.maxSafeInteger().map((intValue): JsonValue => ({ intValue })),
    texts.map((text): JsonValue => ({ arrayValue: { values: [{ stringValue: text }] } })),
  );
  const keys = fc.oneof(texts, fc.constantFrom("a.b", "a_b", "job", "le", "quantile", "__name__"));
  const points = fc.array(fc.tuple(fc.double(), fc.dictionary(keys, value, { maxKeys: 5 })), {
    maxLength: 5,
  }).map((all) => all.map(([number, labels]) => point(number, labels)));
  const metrics = fc.array(
    fc.tuple(
      fc.oneof(texts, fc.constantFrom("a.b", "a_b", "c")),
      fc.oneof(texts, fc.constantFrom("s", "1", "{x}")),
      points,
      fc.constantFrom(null, CUMULATIVE, DELTA),
    ),
    { maxLength: 5 },
  ).map((all) =>
    all.map(([name, unit, points, how]) =>
      how === null ? gauge(name, points, { unit }) : sum(name, points, how, { unit })
    )
  );
  const requests = fc.tuple(metrics, fc.dictionary(keys, value, { maxKeys: 5 }))
    .map(([metrics, resource]) => request(metrics, { "service.name": "x", ...resource }));

  it("gives names and labels in the grammar, each series once, whatever comes in", () => {
    fc.assert(fc.property(requests, (json) => {
      const { batch, refused } = translate(json);
      for (const { metric, labels } of batch.series) {
        expect(metric).toMatch(/^[a-zA-Z_:][a-zA-Z0-9_:]{0,199}$/);
        for (const [name, value] of Object.entries(labels)) {
          expect(name).toMatch(/^(?!__)[a-zA-Z_][a-zA-Z0-9_]*$/);
          expect(value).not.toBe("");
        }
      }
      expect(JSON.stringify({ series: batch.series, refused }))
        .not.toMatch(/(?<!\\)\\(u0000|ud[89a-f])/i);
      const keys = batch.series.map(({ metric, labels }) =>
        JSON.stringify([metric, Object.entries(labels).toSorted()])
      );
      expect(new Set(keys).size).toBe(keys.length);
    }));
  });

  it("stores or refuses each point", () => {
    fc.assert(fc.property(metrics, (metrics) => {
      const { pointsAccepted, refused, batch } = translate(request(metrics));
      const sent = (metrics as { gauge?: { dataPoints: [] }; sum?: { dataPoints: [] } }[])
        .reduce((sum, metric) => sum + (metric.gauge ?? metric.sum)!.dataPoints.length, 0);
      expect(pointsAccepted + refused.reduce((sum, { count }) => sum + count, 0)).toBe(sent);
      expect(batch.values).toHaveLength(pointsAccepted);
      expect(batch.positions).toHaveLength(pointsAccepted);
      expect(batch.times).toHaveLength(pointsAccepted);
      expect(batch.values.every(Number.isFinite)).toBe(true);
    }));
  });

  it("gives the same with a cache that others have used", () => {
    const cache = new AttributeCache();
    fc.assert(fc.property(requests, (json) => {
      const decoded = decodeOtlpJson(JSON.stringify(json));
      expect(otlpToSamples(decoded, NOW, cache)).toEqual(otlpToSamples(decoded, NOW));
    }));
  });

  it("makes buckets that never fall and end at the count", () => {
    const histograms = fc.array(fc.nat(1000), { minLength: 1, maxLength: 20 });
    fc.assert(fc.property(histograms, (counts) => {
      const count = counts.reduce((sum, inBucket) => sum + inBucket, 0);
      const explicitBounds = counts.slice(1).map((_, index) => index / 3);
      const { batch } = translate(request([
        histogram("h", [histogramPoint({ count, bucketCounts: counts, explicitBounds })]),
      ]));
      const buckets = batch.values.slice(0, counts.length);
      expect(buckets).toEqual(buckets.toSorted((a, b) => a - b));
      expect(buckets.at(-1)).toBe(count);
      expect(batch.series[counts.length - 1]!.labels.le).toBe("+Inf");
      expect(batch.values.at(-1)).toBe(count);
    }));
  });
});
