import type {
  IncomingSamples,
  IngestionResult,
  Refusal,
  SampleBatch,
} from "../../../shared/contract/ingestion.ts";
import { assertFewNodes } from "../../../shared/ingest/assert-few-nodes.ts";
import type { AttributeCache } from "../../../shared/ingest/attribute-labels.ts";
import {
  decodeOtlpJson,
  decodeOtlpProtobuf,
  type OtlpRequest,
} from "../../../shared/ingest/decode-otlp.ts";
import {
  encodeExportResponse,
  encodeStatus,
  type OtlpEncoding,
} from "../../../shared/ingest/encode-otlp.ts";
import { IngestError } from "../../../shared/ingest/ingest-error.ts";
import { otlpToSamples } from "../../../shared/ingest/otlp-to-samples.ts";
import { plainToSamples } from "../../../shared/ingest/plain-to-samples.ts";
import { TARGET_INFO } from "../../../shared/ingest/sample-grammar.ts";
import { readUnpacked } from "../_shared/body.ts";
import { type Call, subPath } from "../_shared/endpoint.ts";
import { Problem } from "../_shared/problem.ts";

export const NAME = "ingest-metrics";

/** Where SDKs send to when they are given the address of the function. */
const OTLP_PATH = "/v1/metrics";
export const PATHS = ["", OTLP_PATH];

const MIB = 1024 * 1024;

/**
 * Most bytes of a body. A request may take 2 s of processor and 256 MB on the platform, and JSON takes several times as
 * much of both as the same bytes of protobuf.
 */
export const BODY_LIMITS = {
  protobuf: { sentBytes: 4 * MIB, unpackedBytes: 16 * MIB },
  json: { sentBytes: 4 * MIB, unpackedBytes: 6 * MIB },
} as const;

/** How many refusals an answer lists, and how many of them a message of OTLP names. */
export const REFUSALS_LIMIT = 100;
const REASONS_LIMIT = 10;

/** What somebody has sent. */
export type Delivery =
  | { readonly protocol: "plain"; readonly body: unknown }
  | { readonly protocol: "otlp"; readonly encoding: OtlpEncoding; readonly request: OtlpRequest };

/** The outside world as this function needs it; the edge wires the real one, tests a fake. */
export interface IngestDeps {
  now(): Date;
  ingestSamples(batch: SampleBatch): Promise<IngestionResult>;
  /** Of this isolate: series send the same attributes each time. */
  readonly cache: AttributeCache;
}

/** What became of samples. */
interface Outcome {
  readonly result: IngestionResult;
  readonly refused: readonly Refusal[];
  readonly refusedCount: number;
}

/** Reads OTLP at its address, JSON of ours at the function's own. @throws {Problem} 400, 413, 415 */
export async function readDelivery(request: Request): Promise<Delivery> {
  const encoding = readEncoding(request);
  if (encoding === "unknown") {
    throw new Problem("media-type", "OTLP is application/x-protobuf or application/json.");
  }
  const bytes = await readUnpacked(
    request,
    encoding === "protobuf" ? BODY_LIMITS.protobuf : BODY_LIMITS.json,
  );
  if (encoding === "plain") return { protocol: "plain", body: parseJson(readText(bytes)) };
  const decode = () =>
    encoding === "protobuf" ? decodeOtlpProtobuf(bytes) : decodeOtlpJson(readText(bytes));
  return { protocol: "otlp", encoding, request: orProblem(decode) };
}

/** Stores what is fit to be stored, and says what was not and why. */
export async function ingestMetrics(
  delivery: Delivery,
  call: Pick<Call, "caller" | "log">,
  deps: IngestDeps,
): Promise<Response> {
  if (delivery.protocol === "plain") {
    const incoming = orProblem(() => plainToSamples(delivery.body, deps.now()));
    return answerPlain(await store(incoming, call, deps));
  }
  const { request, encoding } = delivery;
  const incoming = orProblem(() => otlpToSamples(request, deps.now(), deps.cache));
  return answerOtlp(await store(incoming, call, deps), encoding, incoming.pointsAccepted);
}

async function store(
  { batch, refused: refusedHere }: IncomingSamples,
  { caller, log }: Pick<Call, "caller" | "log">,
  { ingestSamples }: IngestDeps,
): Promise<Outcome> {
  const result = batch.positions.length === 0
    ? { inserted: 0, duplicates: 0, overflowed: 0, rejected: [] }
    : await ingestSamples(batch);
  const refused = [...refusedHere, ...result.rejected];
  const refusedCount = countAll(refused);
  const { inserted, duplicates, overflowed } = result;
  if (refusedCount > 0 || overflowed > 0) {
    const fields = { inserted, duplicates, overflowed, refused_count: refusedCount };
    log.warning("not all samples were taken as sent", {
      ...fields,
      caller,
      refused: refused.slice(0, REASONS_LIMIT),
    });
  }
  return { result, refused, refusedCount };
}

function answerPlain({ result, refused, refusedCount }: Outcome): Response {
  const { inserted, duplicates, overflowed } = result;
  const rejected = { rejected_count: refusedCount, rejected: refused.slice(0, REFUSALS_LIMIT) };
  if (refusedCount > 0 && inserted + duplicates + overflowed === 0) {
    throw new Problem("samples-refused", describe(refused), { members: rejected });
  }
  return Response.json({ inserted, duplicates, overflowed, ...rejected });
}

/** @see https://opentelemetry.io/docs/specs/otlp/#partial-success-1 */
function answerOtlp(
  { result, refused, refusedCount }: Outcome,
  encoding: OtlpEncoding,
  pointsAccepted: number,
): Response {
  const { overflowed, rejected } = result;
  // The database counts samples, of which a point may have made many; target_info is of no point.
  const rejectedThere = countAll(rejected.filter(({ metric }) => metric !== TARGET_INFO));
  const rejectedHere = refusedCount - countAll(rejected);
  const rejectedDataPoints = rejectedHere + Math.min(rejectedThere, pointsAccepted);
  const warning = overflowed === 0
    ? []
    : [`${overflowed} samples of new series went to otel_metric_overflow: too many of a metric`];
  const errorMessage = [...refused.length === 0 ? [] : [describe(refused)], ...warning].join("; ");
  return otlpResponse(
    200,
    encoding,
    encodeExportResponse(encoding, { rejectedDataPoints, errorMessage }),
  );
}

/** Codes of gRPC by status; those that OTLP has sent again are 8 and 14. */
const GRPC_CODES: Readonly<Record<number, number>> = {
  400: 3,
  401: 16,
  403: 7,
  404: 5,
  405: 12,
  413: 3,
  415: 3,
  429: 8,
  500: 13,
  503: 14,
};

/** Tells a problem as OTLP does at its address, as problem details elsewhere. */
export function renderProblem(problem: Problem, request: Request): Response | undefined {
  if (subPath(request, NAME) !== OTLP_PATH) return undefined;
  const encoding = readEncoding(request) === "protobuf" ? "protobuf" : "json";
  const { status, title, message: detail, headers } = problem;
  const message = detail === "" ? title : `${title}: ${detail}`;
  const code = GRPC_CODES[status] ?? 2;
  return otlpResponse(status, encoding, encodeStatus(encoding, { code, message }), headers);
}

function otlpResponse(
  status: number,
  encoding: OtlpEncoding,
  body: string | Uint8Array,
  headers: Readonly<Record<string, string>> = {},
): Response {
  const type = encoding === "json" ? "application/json" : "application/x-protobuf";
  // The types of the two runtimes differ in whose ArrayBuffer the bytes are of.
  return new Response(body as BodyInit, { status, headers: { ...headers, "content-type": type } });
}

function readEncoding(request: Request): OtlpEncoding | "plain" | "unknown" {
  if (subPath(request, NAME) !== OTLP_PATH) return "plain";
  const [type = ""] = (request.headers.get("content-type") ?? "").split(";");
  switch (type.trim().toLowerCase()) {
    case "application/x-protobuf":
      return "protobuf";
    case "application/json":
      return "json";
    default:
      return "unknown";
  }
}

function readText(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new Problem("json", "", { cause });
  }
}

function parseJson(text: string): unknown {
  orProblem(() => assertFewNodes(text));
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Problem("json", "", { cause });
  }
}

function orProblem<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof IngestError)) throw error;
    const slug = error.kind === "too_large" ? "body-too-large" : "malformed";
    throw new Problem(slug, error.message, { cause: error });
  }
}

/** The first reasons in one line. */
function describe(refused: readonly Refusal[]): string {
  const said = refused.slice(0, REASONS_LIMIT)
    .map(({ metric, reason, count }) =>
      `${count} of ${metric === "" ? "no name" : metric}: ${reason}`
    );
  const left = countAll(refused.slice(REASONS_LIMIT));
  return [...said, ...left === 0 ? [] : [`and ${left} more`]].join("; ");
}

function countAll(refused: readonly Refusal[]): number {
  return refused.reduce((sum, { count }) => sum + count, 0);
}
