import {
  create,
  type DescMessage,
  type MessageShape,
  toBinary,
  toJsonString,
} from "@bufbuild/protobuf";
import { ExportMetricsServiceResponseSchema, StatusSchema } from "./otlp_pb.ts";

/** How a request is encoded, and so its answer. */
export type OtlpEncoding = "protobuf" | "json";

/** Text for JSON, bytes for protobuf. Not spelt out: TypeScript 5.6, which Deno checks with, has no `Uint8Array<…>`. */
export type OtlpBody = string | ReturnType<typeof toBinary>;

/** What became of a request that was taken, wholly or in part. */
export interface ExportOutcome {
  /** Data points that were not stored for good: sending them again would not help. */
  readonly rejectedDataPoints: number;
  /** Why, or a warning when none was rejected; "" for neither. */
  readonly errorMessage: string;
}

/**
 * Body of the answer 200 to an OTLP metrics request: text for JSON, bytes for protobuf. An empty message when all
 * went well and there is nothing to say, as the protocol demands.
 *
 * @see https://opentelemetry.io/docs/specs/otlp/#full-success-1
 */
export function encodeExportResponse(
  encoding: OtlpEncoding,
  { rejectedDataPoints, errorMessage }: ExportOutcome,
): OtlpBody {
  const isFull = rejectedDataPoints === 0 && errorMessage === "";
  const partialSuccess = { rejectedDataPoints: BigInt(rejectedDataPoints), errorMessage };
  const message = create(
    ExportMetricsServiceResponseSchema,
    isFull ? {} : { partialSuccess },
  );
  return encode(encoding, ExportMetricsServiceResponseSchema, message);
}

/**
 * Body of any answer 4xx or 5xx to an OTLP request: a `google.rpc.Status`. `code` is one of gRPC's, 0 where
 * none fits; the protocol does not have its receivers look at it.
 *
 * @see https://opentelemetry.io/docs/specs/otlp/#failures-1
 */
export function encodeStatus(
  encoding: OtlpEncoding,
  { code, message }: { readonly code: number; readonly message: string },
): OtlpBody {
  return encode(encoding, StatusSchema, create(StatusSchema, { code, message }));
}

function encode<Desc extends DescMessage>(
  encoding: OtlpEncoding,
  schema: Desc,
  message: MessageShape<Desc>,
): OtlpBody {
  return encoding === "json" ? toJsonString(schema, message) : toBinary(schema, message);
}
