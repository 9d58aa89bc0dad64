import { fromJson, type JsonValue, toBinary } from "@bufbuild/protobuf";
import type { IncomingSamples, SentSeries } from "../../shared/contract/ingestion.ts";
import { decodeOtlpJson } from "../../shared/ingest/decode-otlp.ts";
import { ExportMetricsServiceRequestSchema } from "../../shared/ingest/otlp_pb.ts";
import { type OtlpSamples, otlpToSamples } from "../../shared/ingest/otlp-to-samples.ts";

export const NOW = new Date("2026-11-21T09:00:00.123Z");

/** A time in the words of OTLP's JSON. */
export function nanoseconds(time: Date | number): string {
  return `${BigInt(Number(time)) * 1_000_000n}`;
}

/** Attributes by key; what is no string is an AnyValue. */
export function attributes(values: Readonly<Record<string, JsonValue>>): JsonValue {
  return Object.entries(values).map(([key, value]) => ({
    key,
    value: typeof value === "string" ? { stringValue: value } : value,
  }));
}

/** A number data point of now. */
export function point(
  value: number,
  labels: Readonly<Record<string, JsonValue>> = {},
  more: Readonly<Record<string, JsonValue>> = {},
): JsonValue {
  const asDouble = Number.isFinite(value) ? value : String(value);
  return { attributes: attributes(labels), timeUnixNano: nanoseconds(NOW), asDouble, ...more };
}

export function gauge(name: string, points: JsonValue[], more: object = {}): JsonValue {
  return { name, gauge: { dataPoints: points }, ...more } as JsonValue;
}

export function sum(
  name: string,
  points: JsonValue[],
  how: { isMonotonic?: boolean; aggregationTemporality?: number },
  more: object = {},
): JsonValue {
  return { name, sum: { dataPoints: points, ...how }, ...more } as JsonValue;
}

/** A request of one resource. */
export function request(
  metrics: JsonValue[],
  resource: Readonly<Record<string, JsonValue>> = {},
): JsonValue {
  return {
    resourceMetrics: [{
      resource: { attributes: attributes(resource) },
      scopeMetrics: [{ scope: { name: "library", version: "1.2.3" }, metrics }],
    }],
  };
}

/** The same request as protobuf, by the generated code. */
export function toProtobuf(json: JsonValue): Uint8Array {
  return toBinary(
    ExportMetricsServiceRequestSchema,
    fromJson(ExportMetricsServiceRequestSchema, json, { ignoreUnknownFields: true }),
  );
}

export function translate(json: JsonValue, now = NOW): OtlpSamples {
  return otlpToSamples(decodeOtlpJson(JSON.stringify(json)), now);
}

/** Samples as lines `metric{labels} value @ms`, labels sorted. */
export function show({ batch }: IncomingSamples): string[] {
  return batch.positions.map((position, index) =>
    `${name(batch.series[position - 1]!)} ${batch.values[index]} @${batch.times[index]}`
  );
}

/** Samples of now, without their times. */
export function showValues(samples: IncomingSamples): string[] {
  return show(samples).map((line) => line.replace(/ @\d+$/, ""));
}

function name({ metric, labels }: SentSeries): string {
  const inside = Object.entries(labels).toSorted(([a], [b]) => a < b ? -1 : 1)
    .map(([label, value]) => `${label}=${JSON.stringify(value)}`).join(",");
  return inside === "" ? metric : `${metric}{${inside}}`;
}
