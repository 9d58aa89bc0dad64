import { fromBinary, fromJson, type JsonValue, toBinary } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { assertFewNodes } from "./assert-few-nodes.ts";
import { IngestError } from "./ingest-error.ts";
import { ExportMetricsServiceRequestSchema as WholeRequestSchema } from "./otlp_pb.ts";
import {
  type ExportMetricsServiceRequest,
  ExportMetricsServiceRequestSchema,
} from "./otlp-raw_pb.ts";

/**
 * A decoded request, down to its metrics. Each data point is still the bytes of its message, and each attribute those
 * of its `KeyValue`: points are looked at once, attributes come again and again.
 */
export type OtlpRequest = ExportMetricsServiceRequest;

/**
 * Fields a request may hold down to its data points, those of attributes not counted. An empty message is two
 * bytes to send and a hundred to hold, so that bytes alone bound nothing; 20,000 points with 30 attributes have
 * 800,000.
 */
const FIELDS_LIMIT = 1_000_000;

/** Fields of a message that are looked into, and how. */
interface Nesting {
  readonly [field: number]: Nesting;
}

const POINTS: Nesting = { 1: {} };
const METRIC: Nesting = { 5: POINTS, 7: POINTS, 9: POINTS, 10: POINTS, 11: POINTS };
const REQUEST: Nesting = { 1: { 1: {}, 2: { 2: METRIC } } };

/**
 * Decodes an OTLP metrics request in the protobuf encoding. Unknown fields are skipped.
 *
 * The result refers to `bytes`, which must not change while it is used. Whether data points and attributes are well
 * formed shows when they are translated.
 *
 * @throws {IngestError} if it is not such a message, or holds more fields than any request that may be taken.
 * @see https://opentelemetry.io/docs/specs/otlp/#binary-protobuf-encoding
 */
export function decodeOtlpProtobuf(bytes: Uint8Array): OtlpRequest {
  try {
    assertFewFields(bytes);
    return fromBinary(ExportMetricsServiceRequestSchema, bytes, { readUnknownFields: false });
  } catch (cause) {
    if (cause instanceof IngestError) throw cause;
    throw new IngestError(
      "malformed",
      "Cannot read the body: it is not an ExportMetricsServiceRequest in the protobuf encoding",
      { cause },
    );
  }
}

/**
 * Decodes an OTLP metrics request in the JSON encoding: names in lowerCamelCase (those of the .proto files are
 * accepted too), 64-bit integers as strings or numbers, NaN and infinities as strings, enums as numbers. Unknown
 * fields are skipped.
 *
 * @throws {IngestError} if it is not JSON, or JSON of another shape, or too much of it.
 * @see https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
 */
export function decodeOtlpJson(text: string): OtlpRequest {
  assertFewNodes(text);
  let json: JsonValue;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new IngestError("malformed", "Cannot read the body: it is not JSON", { cause });
  }
  // Unknown fields are to be ignored, but who sends nothing else has come to the wrong address.
  const fields = isObject(json) ? Object.keys(json) : [];
  if (fields.length > 0 && !fields.some((name) => /^resource_?metrics$/i.test(name))) {
    throw new IngestError(
      "malformed",
      "Cannot read the body: it has no resourceMetrics. A list of samples goes to the address without /v1/metrics",
    );
  }
  let bytes: Uint8Array;
  try {
    // By way of the other encoding, so that what follows has one form to deal with and cannot tell them apart.
    const message = fromJson(WholeRequestSchema, json, { ignoreUnknownFields: true });
    bytes = toBinary(WholeRequestSchema, message);
  } catch (cause) {
    throw new IngestError(
      "malformed",
      "Cannot read the body: it is not an ExportMetricsServiceRequest in the JSON encoding",
      { cause },
    );
  }
  return decodeOtlpProtobuf(bytes);
}

function isObject(json: JsonValue): json is Record<string, JsonValue> {
  return typeof json === "object" && json !== null && !Array.isArray(json);
}

function assertFewFields(bytes: Uint8Array): void {
  const reader = new BinaryReader(bytes);
  let left = FIELDS_LIMIT;
  const visit = (nesting: Nesting, end: number) => {
    while (reader.pos < end) {
      const [field, wireType] = reader.tag();
      left -= 1;
      if (left < 0) {
        throw new IngestError("too_large", `Cannot take a request of over ${FIELDS_LIMIT} fields`);
      }
      const inner = nesting[field];
      if (inner !== undefined && wireType === WireType.LengthDelimited) {
        const length = reader.uint32();
        visit(inner, reader.pos + length);
      } else reader.skip(wireType, field);
    }
  };
  visit(REQUEST, bytes.length);
}
