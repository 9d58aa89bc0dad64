import { gzipSync } from "node:zlib";
import { create, toBinary } from "@bufbuild/protobuf";
import { ExportMetricsServiceRequestSchema } from "../shared/ingest/otlp_pb.ts";

/** Data points of one request: what a collector sends at a time unless it is told otherwise. */
export const POINTS = 8192;

/** From a sample of a series to its next one: short, because senders may be 10 minutes ahead at most. */
export const STEP_MS = 250;

/** How the points of a request are spread. */
export interface RequestShape {
  readonly metrics: number;
  /** Of each metric. */
  readonly seriesPerMetric: number;
  /** Of each series; metrics × seriesPerMetric × pointsPerSeries is {@link POINTS}. */
  readonly pointsPerSeries: number;
}

/** What a sender sends next: the same series each time, with points from `from` (ms since 1970) on. */
export interface RequestOptions {
  readonly shape: RequestShape;
  /** Has series of its own. */
  readonly sender: number;
  readonly from: number;
}

/** A request as a collector makes it, four attributes a point, not yet compressed. */
export function encodeOtlpRequest(
  { shape, sender, from }: RequestOptions,
): Uint8Array<ArrayBuffer> {
  const attribute = (key: string, value: string) => ({
    key,
    value: { value: { case: "stringValue" as const, value } },
  });
  const point = (metric: number, series: number, moment: number) => ({
    attributes: [
      attribute("http.request.method", "GET"),
      attribute("http.route", `/orders/${series}`),
      attribute("http.response.status_code", "200"),
      attribute("server.address", "api.example.org"),
    ],
    startTimeUnixNano: 1_700_000_000_000_000_000n,
    timeUnixNano: BigInt(from + moment * STEP_MS) * 1_000_000n,
    value: { case: "asDouble" as const, value: from % 1_000_000 + metric + series / 4 + moment },
  });
  const message = create(ExportMetricsServiceRequestSchema, {
    resourceMetrics: [{
      resource: {
        attributes: [
          attribute("service.name", "orders"),
          attribute("service.instance.id", `api-${shape.pointsPerSeries}-${sender}`),
        ],
      },
      scopeMetrics: [{
        metrics: Array.from({ length: shape.metrics }, (_, metric) => ({
          name: `bench.of_${shape.metrics}.requests_${metric}`,
          unit: "By",
          data: {
            case: "sum" as const,
            value: {
              isMonotonic: true,
              aggregationTemporality: 2,
              dataPoints: Array.from(
                { length: shape.seriesPerMetric * shape.pointsPerSeries },
                (_, index) =>
                  point(
                    metric,
                    index % shape.seriesPerMetric,
                    Math.floor(index / shape.seriesPerMetric),
                  ),
              ),
            },
          },
        })),
      }],
    }],
  });
  return new Uint8Array(toBinary(ExportMetricsServiceRequestSchema, message));
}

/** As a collector sends it unless it is told otherwise. */
export function compressRequest(request: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(gzipSync(request));
}
