import { fromBinary, fromJsonString } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { JsonMetricsSerializer, ProtobufMetricsSerializer } from "@opentelemetry/otlp-transformer";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { IncomingSamples } from "../../shared/contract/ingestion.ts";
import { AttributeCache } from "../../shared/ingest/attribute-labels.ts";
import { decodeOtlpJson, decodeOtlpProtobuf } from "../../shared/ingest/decode-otlp.ts";
import { encodeExportResponse, encodeStatus } from "../../shared/ingest/encode-otlp.ts";
import { IngestError } from "../../shared/ingest/ingest-error.ts";
import { ExportMetricsServiceResponseSchema, StatusSchema } from "../../shared/ingest/otlp_pb.ts";
import { otlpToSamples } from "../../shared/ingest/otlp-to-samples.ts";
import {
  gauge,
  nanoseconds,
  NOW,
  point,
  request,
  showValues,
  sum,
  toProtobuf,
  translate,
} from "./ingest-fixtures.ts";

const malformed = expect.objectContaining({ name: "IngestError", kind: "malformed" });
const tooLarge = expect.objectContaining({ name: "IngestError", kind: "too_large" });

const fromProtobuf = (bytes: Uint8Array) => otlpToSamples(decodeOtlpProtobuf(bytes), NOW);

/** What the OpenTelemetry SDK hands to its exporters. */
function sdkMetrics(): Parameters<typeof ProtobufMetricsSerializer.serializeRequest>[0] {
  const seconds = Math.trunc(NOW.getTime() / 1000);
  const time: [number, number] = [seconds, 123_000_000];
  const startTime: [number, number] = [seconds - 60, 0];
  const descriptor = (name: string, unit: string) => ({
    name,
    unit,
    description: "of the SDK",
    valueType: 1,
    type: "COUNTER",
    advice: {},
  });
  const one = (value: unknown, labels: object) => ({
    attributes: labels,
    startTime,
    endTime: time,
    value,
  });
  return {
    resource: {
      attributes: { "service.name": "shop", "process.pid": 7, tags: ["a", "b"] },
      merge: () => undefined,
    },
    scopeMetrics: [{
      scope: { name: "library", version: "1" },
      metrics: [
        {
          descriptor: descriptor("requests", "{request}"),
          aggregationTemporality: 1,
          dataPointType: 3,
          isMonotonic: true,
          dataPoints: [one(3, { route: "/", ok: true }), one(0.5, { route: "/🙂" })],
        },
        {
          descriptor: descriptor("memory", "By"),
          aggregationTemporality: 1,
          dataPointType: 2,
          dataPoints: [one(1e9, {})],
        },
        {
          descriptor: descriptor("duration", "s"),
          aggregationTemporality: 0,
          dataPointType: 0,
          dataPoints: [
            one({
              buckets: { boundaries: [0.1, 1], counts: [1, 2, 0] },
              sum: 1.5,
              count: 3,
              min: 0.05,
              max: 0.9,
            }, { route: "/" }),
          ],
        },
      ],
    }],
  } as never;
}

describe("what the OpenTelemetry SDK sends", () => {
  it.each([
    [
      "protobuf",
      () => decodeOtlpProtobuf(ProtobufMetricsSerializer.serializeRequest(sdkMetrics())!),
    ],
    [
      "JSON",
      () =>
        decodeOtlpJson(
          new TextDecoder().decode(JsonMetricsSerializer.serializeRequest(sdkMetrics())),
        ),
    ],
  ])("is read from %s", (_, decode) => {
    const result = otlpToSamples(decode(), NOW);
    expect(result.refused).toEqual([]);
    expect(showValues(result)).toEqual([
      'requests_total{job="shop",ok="true",route="/"} 3',
      'requests_total{job="shop",route="/🙂"} 0.5',
      'memory_bytes{job="shop"} 1000000000',
      'duration_seconds_bucket{job="shop",le="0.1",route="/"} 1',
      'duration_seconds_bucket{job="shop",le="1",route="/"} 3',
      'duration_seconds_bucket{job="shop",le="+Inf",route="/"} 3',
      'duration_seconds_sum{job="shop",route="/"} 1.5',
      'duration_seconds_count{job="shop",route="/"} 3',
      'target_info{job="shop",process_pid="7",tags="[\\"a\\",\\"b\\"]"} 1',
    ]);
    expect(new Set(result.batch.times)).toEqual(new Set([NOW.getTime()]));
    expect(result.batch.series.map(({ is_delta }) => is_delta))
      .toEqual([false, false, false, true, true, true, true, true, false]);
    // With the first series of each metric.
    expect(result.batch.series.map(({ description }) => description === "of the SDK"))
      .toEqual([true, false, true, true, false, false, true, true, false]);
  });

  it("understands our answer", () => {
    const outcome = { rejectedDataPoints: 3, errorMessage: "3 of a: no time" };
    const read = { partialSuccess: outcome };
    expect(JsonMetricsSerializer.deserializeResponse(
      new TextEncoder().encode(encodeExportResponse("json", outcome) as string),
    )).toEqual({ partialSuccess: { ...outcome, rejectedDataPoints: "3" } });
    expect(ProtobufMetricsSerializer.deserializeResponse(
      encodeExportResponse("protobuf", outcome) as Uint8Array,
    )).toEqual(read);
  });
});

describe("decodeOtlpJson()", () => {
  const plain = { asDouble: 1.5, timeUnixNano: nanoseconds(NOW) };

  it.each([
    ["times as numbers", { ...plain, timeUnixNano: Number(plain.timeUnixNano) }],
    ["names of the .proto files", { as_double: 1.5, time_unix_nano: plain.timeUnixNano }],
    ["doubles as strings", { ...plain, asDouble: "1.5" }],
    ["fields nobody knows", { ...plain, exemplars: [{ traceId: "00" }], startTimeUnixNano: "1" }],
    ["null for what is not there", { ...plain, attributes: null, flags: null }],
  ])("takes %s", (_, point) => {
    expect(showValues(translate(request([gauge("g", [point as never])])))).toEqual(["g 1.5"]);
  });

  it("takes whole numbers as strings and as numbers", () => {
    const points = [{ asInt: "3" }, { asInt: 3 }]
      .map((value) => ({ ...value, timeUnixNano: nanoseconds(NOW) }));
    expect(translate(request([gauge("g", points)])).batch.values).toEqual([3, 3]);
  });

  it.each([
    "",
    "{",
    "[]",
    "null",
    "1",
    '{"resourceMetrics":{}}',
    '{"resourceMetrics":[1]}',
    '{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":1}]}]}]}',
    '{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"gauge":{"dataPoints":[{"asInt":"x"}]}}]}]}]}',
    '{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"gauge":{"dataPoints":[{"asInt":"99999999999999999999"}]}}]}]}]}',
    '{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"sum":{"aggregationTemporality":"AGGREGATION_TEMPORALITY_DELTA"}}]}]}]}',
    "[".repeat(900_000),
    `{"resourceMetrics":${"[".repeat(400_000)}${"]".repeat(400_000)}}`,
  ])("throws for what is no such JSON: %#", (text) => {
    expect(() => decodeOtlpJson(text)).toThrow(malformed);
  });

  it("throws for more objects and lists than any request may have, before it parses them", () => {
    expect(() => decodeOtlpJson("[{}".repeat(500_000))).toThrow(malformed);
    expect(() => decodeOtlpJson(`${"[{}".repeat(500_000)}{`)).toThrow(tooLarge);
  });

  it("takes an empty request", () => {
    expect(otlpToSamples(decodeOtlpJson("{}"), NOW).batch.values).toEqual([]);
  });

  it("gives what the other encoding gives", () => {
    const text = fc.string({ unit: "binary" });
    const points = fc.array(
      fc.record({ value: fc.double(), time: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), text }),
      { maxLength: 5 },
    ).map((all) =>
      all.map(({ value, time, text }) =>
        point(value, { [text]: text }, { timeUnixNano: `${time}` })
      )
    );
    const json = fc.tuple(text, points, text).map(([name, points, service]) =>
      request(
        [gauge(name, points), sum(name, points, { aggregationTemporality: 1, isMonotonic: true })],
        { "service.name": service },
      )
    );
    fc.assert(fc.property(json, (json) => {
      expect(fromProtobuf(toProtobuf(json))).toEqual(translate(json));
    }));
  });
});

describe("decodeOtlpProtobuf()", () => {
  const whole = toProtobuf(request(
    [gauge("g", [point(1, { a: "b" }), point(2, { a: "c" })])],
    { "service.name": "x", "host.name": "y" },
  ));

  /** Bytes of a field of a message. */
  const field = (number: number, inner: Uint8Array) =>
    new BinaryWriter().tag(number, WireType.LengthDelimited).bytes(inner).finish();

  it("takes an empty request, and skips fields that nobody knows", () => {
    expect(fromProtobuf(new Uint8Array()).batch.values).toEqual([]);
    const unknown = new BinaryWriter().tag(1000, WireType.Varint).uint32(1).finish();
    expect(fromProtobuf(new Uint8Array([...unknown, ...whole, ...unknown])))
      .toEqual(fromProtobuf(whole));
  });

  it("throws for a request that is cut off, wherever: only at its end it is whole", () => {
    for (let length = 1; length < whole.length; length += 1) {
      expect(() => fromProtobuf(whole.slice(0, length))).toThrow(malformed);
    }
    expect(fromProtobuf(whole).batch.values).toEqual([1, 2, 1]);
  });

  it("throws nothing but its own error, whatever comes in", () => {
    const near = fc.tuple(fc.nat(whole.length - 1), fc.nat(255)).map(([at, byte]) => {
      const bytes = whole.slice();
      bytes[at] = byte;
      return bytes;
    });
    const cache = new AttributeCache();
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), near), (bytes) => {
        let result: IncomingSamples;
        try {
          result = otlpToSamples(decodeOtlpProtobuf(bytes), NOW, cache);
        } catch (error) {
          expect(error).toBeInstanceOf(IngestError);
          return;
        }
        expect(result.batch.values.every(Number.isFinite)).toBe(true);
      }),
      { numRuns: 3000 },
    );
  });

  it("throws for attributes and lists nested beyond reason", () => {
    let value = new Uint8Array();
    for (let depth = 0; depth < 2000; depth += 1) value = field(5, field(1, value));
    const points = field(5, field(1, field(7, field(2, value))));
    const metric = new Uint8Array([...field(1, new TextEncoder().encode("g")), ...points]);
    const bytes = field(1, field(2, field(2, metric)));
    expect(() => fromProtobuf(bytes)).toThrow(malformed);
  });

  it.each([
    ["resources", (empty: Uint8Array) => empty],
    ["metrics", (empty: Uint8Array) => field(1, field(2, empty))],
    ["points", (empty: Uint8Array) => field(1, field(2, field(2, field(5, empty))))],
  ])("throws for more %s than any request may have, though they take no room", (_, nest) => {
    const empty = new Uint8Array(2 * 1_000_001);
    for (let at = 0; at < empty.length; at += 2) empty[at] = 0x0a;
    expect(() => decodeOtlpProtobuf(nest(empty))).toThrow(tooLarge);
  });
});

describe("decodeOtlpJson()", () => {
  it("refuses what is meant for another address, and takes nothing at all", () => {
    expect(() => decodeOtlpJson('{"samples":[{"metric":"a","value":1}]}'))
      .toThrow(/no resourceMetrics.*without \/v1\/metrics/);
    expect(decodeOtlpJson("{}").resourceMetrics).toEqual([]);
    expect(decodeOtlpJson('{"resourceMetrics":[],"later":1}').resourceMetrics).toEqual([]);
  });
});

describe("encodeExportResponse()", () => {
  it("is empty when there is nothing to say", () => {
    const outcome = { rejectedDataPoints: 0, errorMessage: "" };
    expect(encodeExportResponse("json", outcome)).toBe("{}");
    expect(encodeExportResponse("protobuf", outcome)).toEqual(new Uint8Array());
  });

  it.each([
    [{ rejectedDataPoints: 5, errorMessage: "why" }, {
      rejectedDataPoints: "5",
      errorMessage: "why",
    }],
    [{ rejectedDataPoints: 0, errorMessage: "but" }, { errorMessage: "but" }],
  ])("says %j in both encodings", (outcome, partialSuccess) => {
    const json = encodeExportResponse("json", outcome) as string;
    expect(JSON.parse(json)).toEqual({ partialSuccess });
    const bytes = encodeExportResponse("protobuf", outcome) as Uint8Array;
    expect(fromBinary(ExportMetricsServiceResponseSchema, bytes))
      .toEqual(fromJsonString(ExportMetricsServiceResponseSchema, json));
  });
});

describe("encodeStatus()", () => {
  it("says the code and the message in both encodings", () => {
    const status = { code: 3, message: 'a "bad" body' };
    expect(JSON.parse(encodeStatus("json", status) as string)).toEqual(status);
    expect(fromBinary(StatusSchema, encodeStatus("protobuf", status) as Uint8Array))
      .toMatchObject(status);
  });
});
