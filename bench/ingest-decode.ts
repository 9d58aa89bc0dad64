import { create, toBinary } from "@bufbuild/protobuf";
import { AttributeCache } from "../shared/ingest/attribute-labels.ts";
import { decodeOtlpProtobuf } from "../shared/ingest/decode-otlp.ts";
import { ExportMetricsServiceRequestSchema } from "../shared/ingest/otlp_pb.ts";
import { otlpToSamples } from "../shared/ingest/otlp-to-samples.ts";
import { formatTable, type Row } from "./report.ts";

/** What a collector sends at a time unless it is told otherwise. */
const POINTS = 8192;
const ROUNDS = 60;
const NOW = new Date("2026-11-21T09:00:00Z");

/** One request: each point is a series of its own, with four attributes. */
function encodeRequest(metrics: number, time: Date): Uint8Array {
  const perMetric = POINTS / metrics;
  const attribute = (key: string, value: string) => ({
    key,
    value: { value: { case: "stringValue" as const, value } },
  });
  const point = (index: number) => ({
    attributes: [
      attribute("http.request.method", "GET"),
      attribute("http.route", `/orders/${index % 512}`),
      attribute("http.response.status_code", "200"),
      attribute("server.address", `api-${index >> 9}.example.org`),
    ],
    timeUnixNano: BigInt(time.getTime()) * 1_000_000n,
    value: { case: "asDouble" as const, value: index * 1.5 },
  });
  return toBinary(
    ExportMetricsServiceRequestSchema,
    create(ExportMetricsServiceRequestSchema, {
      resourceMetrics: [{
        resource: { attributes: [attribute("service.name", "orders"), attribute("host", "a")] },
        scopeMetrics: [{
          metrics: Array.from({ length: metrics }, (_, metric) => ({
            name: `app.requests.${metric}`,
            unit: "By",
            data: {
              case: "sum" as const,
              value: {
                isMonotonic: true,
                aggregationTemporality: 2,
                dataPoints: Array.from(
                  { length: perMetric },
                  (_, index) => point(metric * perMetric + index),
                ),
              },
            },
          })),
        }],
      }],
    }),
  );
}

/** Data points a second through decoding and translating OTLP protobuf, on one core. */
export function measureIngestDecode(log: (line: string) => void): Promise<string> {
  const rows: Row[] = [];
  for (const metrics of [1, 64, POINTS]) {
    log(`${POINTS} points of ${metrics} metrics`);
    const bytes = encodeRequest(metrics, NOW);
    const shared = new AttributeCache();
    const measure = (what: string, act: () => unknown) =>
      rows.push({ what: `${metrics} metrics: ${what}`, unit: "points/s", readings: time(act) });
    measure("decoded", () => decodeOtlpProtobuf(bytes));
    measure(
      "decoded and translated, new series",
      () => otlpToSamples(decodeOtlpProtobuf(bytes), NOW),
    );
    measure(
      "decoded and translated, series seen before",
      () => otlpToSamples(decodeOtlpProtobuf(bytes), NOW, shared),
    );
  }
  return Promise.resolve(
    formatTable(`OTLP protobuf to samples, ${POINTS} points of 4 attributes a request`, rows),
  );
}

/** Points a second of each round, without those that warm up. */
function time(act: () => unknown): number[] {
  return Array.from({ length: ROUNDS }, () => {
    const startedAt = performance.now();
    act();
    return POINTS / (performance.now() - startedAt) * 1000;
  }).slice(ROUNDS / 3);
}
