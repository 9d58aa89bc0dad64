import { gzipSync } from "node:zlib";
import { fromBinary, fromJson, type JsonValue, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import type { IngestionResult, SampleBatch } from "../../shared/contract/ingestion.ts";
import { AttributeCache } from "../../shared/ingest/attribute-labels.ts";
import { SAMPLES_LIMIT } from "../../shared/ingest/ingest-error.ts";
import {
  ExportMetricsServiceRequestSchema,
  ExportMetricsServiceResponseSchema,
  StatusSchema,
} from "../../shared/ingest/otlp_pb.ts";
import { tokenOrKey } from "../../supabase/functions/_shared/auth.ts";
import { type Database, DatabaseError } from "../../supabase/functions/_shared/database.ts";
import { endpoint } from "../../supabase/functions/_shared/endpoint.ts";
import {
  CALL_SAMPLES_LIMIT,
  checkAccessToken,
  ingestionStore,
} from "../../supabase/functions/_shared/stores.ts";
import {
  BODY_LIMITS,
  ingestMetrics,
  NAME,
  PATHS,
  readDelivery,
  REFUSALS_LIMIT,
  renderProblem,
} from "../../supabase/functions/ingest-metrics/handler.ts";
import {
  admit,
  afterNoon,
  Clock,
  NOON,
  request,
  RUN_ID,
  sampleAccessToken,
  sampleEnvironment,
  sampleWorld,
} from "../fixtures.ts";

type Ingest = (batch: SampleBatch) => Promise<IngestionResult>;

const storeAll: Ingest = ({ positions }) =>
  Promise.resolve({ inserted: positions.length, duplicates: 0, overflowed: 0, rejected: [] });

/** The function with a database that stores everything, or does what `ingest` says. */
function build(
  { ingest = storeAll, authorize = admit({ kind: "token", name: "shop" }) }: {
    ingest?: Ingest;
    authorize?: Parameters<typeof endpoint>[0]["authorize"];
  } = {},
) {
  const { world, lines } = sampleWorld();
  const ingestSamples = vi.fn(ingest);
  const deps = { now: () => NOON, cache: new AttributeCache(), ingestSamples };
  const fetch = endpoint(
    { name: NAME, methods: ["POST"], paths: PATHS, authorize, input: readDelivery, renderProblem },
    (delivery, call) => ingestMetrics(delivery, call, deps),
    world,
  );
  return { fetch, ingestSamples, lines };
}

const PLAIN = `/${NAME}`;
const OTLP = `/${NAME}/v1/metrics`;

const nanoseconds = (at: Date) => `${at.getTime()}000000`;

/** A request with one gauge, a point for each value. */
const gauge = (values: JsonValue[], at = NOON): JsonValue => ({
  resourceMetrics: [{
    resource: { attributes: [{ key: "service.name", value: { stringValue: "shop" } }] },
    scopeMetrics: [{
      metrics: [{
        name: "queue.depth",
        gauge: {
          dataPoints: values.map((asDouble, index) => ({
            timeUnixNano: nanoseconds(at),
            asDouble,
            attributes: [{ key: "n", value: { intValue: `${index}` } }],
          })),
        },
      }],
    }],
  }],
});

/** The two encodings, with what reads their answers. */
const ENCODINGS = [
  {
    encoding: "protobuf",
    type: "application/x-protobuf",
    encode: (message: JsonValue) =>
      new Uint8Array(
        toBinary(
          ExportMetricsServiceRequestSchema,
          fromJson(ExportMetricsServiceRequestSchema, message),
        ),
      ),
    readAnswer: async (response: Response) =>
      fromBinary(
        ExportMetricsServiceResponseSchema,
        new Uint8Array(await response.arrayBuffer()),
      ),
    readStatus: async (response: Response) =>
      fromBinary(StatusSchema, new Uint8Array(await response.arrayBuffer())),
  },
  {
    encoding: "json",
    type: "application/json",
    encode: (message: JsonValue) => new TextEncoder().encode(JSON.stringify(message)),
    readAnswer: async (response: Response) =>
      fromJson(ExportMetricsServiceResponseSchema, await response.json()),
    readStatus: async (response: Response) => fromJson(StatusSchema, await response.json()),
  },
] as const;

/** Points of a histogram that make `samples` together: 99 buckets and the count each, the last one what is left. */
const histogram = (samples: number): JsonValue => {
  const point = (buckets: number): JsonValue => ({
    timeUnixNano: `${NOON.getTime()}000000`,
    count: "0",
    explicitBounds: Array.from({ length: buckets - 1 }, (_, n) => n),
    bucketCounts: Array.from({ length: buckets }, () => "0"),
  });
  const dataPoints = Array.from({ length: Math.floor(samples / 100) }, () => point(99));
  if (samples % 100 > 0) dataPoints.push(point(samples % 100));
  return {
    resourceMetrics: [{
      scopeMetrics: [{
        metrics: [{ name: "h", histogram: { aggregationTemporality: 2, dataPoints } }],
      }],
    }],
  };
};

/** One point of a histogram under 29 labels of 2,000 characters, `le` not counted. */
const histogramOf = (buckets: number): JsonValue => ({
  resourceMetrics: [{
    scopeMetrics: [{
      metrics: [{
        name: "h",
        histogram: {
          aggregationTemporality: 2,
          dataPoints: [{
            timeUnixNano: nanoseconds(NOON),
            attributes: Array.from({ length: 29 }, (_, n) => ({
              key: `label${n}`,
              value: { stringValue: "x".repeat(2000) },
            })),
            count: "0",
            explicitBounds: Array.from({ length: buckets - 1 }, (_, n) => n),
            bucketCounts: Array.from({ length: buckets }, () => "0"),
          }],
        },
      }],
    }],
  }],
});

const post = (path: string, body: BodyInit, headers: Record<string, string> = {}) =>
  request("POST", { path, body, headers });
const slugOf = async (response: Response) =>
  (await response.json()).type.replace("urn:pgvigil:problem:", "");

describe.each(ENCODINGS)("POST …/v1/metrics as $encoding", (otlp) => {
  const { type, encode, readAnswer, readStatus } = otlp;
  const send = (message: JsonValue, headers: Record<string, string> = {}) =>
    post(OTLP, encode(message), { "content-type": type, ...headers });

  it("stores the samples, and answers an empty message", async () => {
    const { fetch, ingestSamples, lines } = build();
    const response = await fetch(send(gauge([1, 2])));
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toBe(type);
    expect(response.headers.get("x-run-id")).toBe(RUN_ID);
    expect((await readAnswer(response)).partialSuccess).toBeUndefined();
    expect(ingestSamples).toHaveBeenCalledOnce();
    expect(ingestSamples.mock.calls[0]![0]).toMatchObject({
      series: [{ metric: "queue_depth", labels: { job: "shop", n: "0" }, kind: "gauge" }, {}],
      positions: [1, 2],
      times: [NOON.getTime(), NOON.getTime()],
      values: [1, 2],
    });
    expect(lines).toEqual([]);
  });

  it("takes gzip", async () => {
    const { fetch, ingestSamples } = build();
    const body = new Uint8Array(gzipSync(encode(gauge([1]))));
    const response = await fetch(post(OTLP, body, {
      "content-type": `${type}; charset=utf-8`,
      "content-encoding": "gzip",
    }));
    expect(response.status).toBe(200);
    expect(ingestSamples).toHaveBeenCalledOnce();
  });

  it("asks the database for nothing when there is nothing to store", async () => {
    const { fetch, ingestSamples } = build();
    expect((await fetch(send({}))).status).toBe(200);
    expect((await fetch(send(gauge(["NaN"])))).status).toBe(200);
    expect(ingestSamples).not.toHaveBeenCalled();
  });

  it("stores the good points, and says how many were not and why", async () => {
    const { fetch, ingestSamples, lines } = build({
      ingest: ({ positions }) =>
        Promise.resolve({
          inserted: positions.length - 1,
          duplicates: 0,
          overflowed: 0,
          rejected: [{ metric: "queue_depth", reason: "too old", count: 1 }],
        }),
    });
    const { partialSuccess } = await readAnswer(
      await fetch(send(gauge([1, "NaN", "Infinity", 4]))),
    );
    expect(partialSuccess).toMatchObject({ rejectedDataPoints: 3n });
    expect(partialSuccess!.errorMessage).toContain("not a finite number");
    expect(partialSuccess!.errorMessage).toContain("1 of queue_depth: too old");
    expect(ingestSamples.mock.calls[0]![0].values).toEqual([1, 4]);
    expect(lines).toHaveLength(1);
    expect(JSON.parse(lines[0]!.line)).toMatchObject({
      level: "warning",
      fields: { caller: { kind: "token", name: "shop" }, inserted: 1, refused_count: 3 },
    });
  });

  it("never says that more points were refused than were sent", async () => {
    const buckets = {
      resourceMetrics: [{
        scopeMetrics: [{
          metrics: [{
            name: "h",
            histogram: {
              aggregationTemporality: 2,
              dataPoints: [{
                timeUnixNano: nanoseconds(NOON),
                count: "3",
                sum: 1,
                bucketCounts: ["1", "1", "1"],
                explicitBounds: [1, 2],
              }],
            },
          }],
        }],
      }],
    };
    const { fetch } = build({
      ingest: ({ positions }) =>
        Promise.resolve({
          inserted: 0,
          duplicates: 0,
          overflowed: 0,
          rejected: [{ metric: "h_bucket", reason: "too old", count: positions.length }],
        }),
    });
    const { partialSuccess } = await readAnswer(await fetch(send(buckets)));
    expect(partialSuccess).toMatchObject({ rejectedDataPoints: 1n });
  });

  it.each([[1, 0n], [2, 0n], [3, 1n]])(
    "counts no target_info among the points, of %i points and resources that the database refused",
    async (count, rejectedDataPoints) => {
      const message = gauge([1, 2]) as {
        resourceMetrics: { resource: { attributes: JsonValue[] } }[];
      };
      message.resourceMetrics[0]!.resource.attributes.push({
        key: "host.name",
        value: { stringValue: "a" },
      });
      const { fetch, ingestSamples } = build({
        ingest: () => {
          const reason = "there are too many metrics already";
          const info = { metric: "target_info", reason, count: Math.min(count, 2) };
          const rejected = count > 2 ? [info, { metric: "queue_depth", reason, count: 1 }] : [info];
          return Promise.resolve({ inserted: 2, duplicates: 0, overflowed: 0, rejected });
        },
      });
      const { partialSuccess } = await readAnswer(await fetch(send(message as never)));
      expect(ingestSamples.mock.calls[0]![0].series.at(-1)!.metric).toBe("target_info");
      expect(partialSuccess).toMatchObject({ rejectedDataPoints });
      expect(partialSuccess!.errorMessage).toContain("of target_info: there are too many");
    },
  );

  it("warns of samples that went to the overflow series", async () => {
    const { fetch, lines } = build({
      ingest: () => Promise.resolve({ inserted: 2, duplicates: 0, overflowed: 2, rejected: [] }),
    });
    const { partialSuccess } = await readAnswer(await fetch(send(gauge([1, 2]))));
    expect(partialSuccess).toMatchObject({
      rejectedDataPoints: 0n,
      errorMessage: expect.stringContaining("2 samples of new series"),
    });
    expect(lines).toHaveLength(1);
  });

  it("names no more than ten reasons", async () => {
    const rejected = Array.from({ length: 50 }, (_, n) => ({
      metric: "m".repeat(200),
      reason: `reason ${n}`,
      count: 2,
    }));
    const { fetch } = build({
      ingest: () => Promise.resolve({ inserted: 0, duplicates: 0, overflowed: 0, rejected }),
    });
    const { partialSuccess } = await readAnswer(await fetch(send(gauge([1]))));
    expect(partialSuccess!.errorMessage).toContain("reason 9; and 80 more");
    expect(partialSuccess!.errorMessage.length).toBeLessThan(4000);
  });

  it.each([[SAMPLES_LIMIT, 200], [SAMPLES_LIMIT + 1, 413]])(
    "answers %i samples with %i",
    async (count, status) => {
      const { fetch, ingestSamples } = build();
      const body = encode(histogram(count));
      const response = await fetch(
        post(OTLP, new Uint8Array(gzipSync(body)), {
          "content-type": type,
          "content-encoding": "gzip",
        }),
      );
      expect(response.status).toBe(status);
      expect(ingestSamples).toHaveBeenCalledTimes(status === 200 ? 1 : 0);
    },
  );

  it.each([[16_000, 200], [17_000, 413]])(
    "answers %i series of a service with a name of 2,000 characters with %i",
    async (count, status) => {
      const message = gauge(Array.from({ length: count }, () => 1)) as {
        resourceMetrics: { resource: JsonValue }[];
      };
      message.resourceMetrics[0]!.resource = {
        attributes: [{ key: "service.name", value: { stringValue: "x".repeat(2000) } }],
      };
      const { fetch, ingestSamples } = build();
      const response = await fetch(send(message as never));
      expect(response.status).toBe(status);
      expect(ingestSamples).toHaveBeenCalledTimes(status === 200 ? 1 : 0);
      if (status === 413) expect((await readStatus(response)).message).toContain("characters");
    },
  );

  it("answers 20,000 buckets under 30 long labels with 413", async () => {
    const message = histogramOf(20_000);
    const { fetch, ingestSamples } = build();
    const response = await fetch(send(message));
    expect(response.status).toBe(413);
    expect((await readStatus(response)).message).toContain("characters");
    expect(ingestSamples).not.toHaveBeenCalled();
  });

  it.each<[string, DatabaseError["kind"], number, string | null]>([
    ["timed out", "timed_out", 503, "5"],
    ["away", "unreachable", 503, "5"],
    ["of another mind", "malformed", 500, null],
    ["refusing", "refused", 500, null],
  ])(
    "answers a database that is %s in the encoding of the request, without its words",
    async (_name, kind, status, retryAfter) => {
      const { fetch } = build({
        ingest: () => Promise.reject(new DatabaseError("ingest_samples", kind, "", "secret")),
      });
      const response = await fetch(send(gauge([1])));
      expect([response.status, response.headers.get("retry-after")]).toEqual([status, retryAfter]);
      expect(response.headers.get("content-type")).toBe(type);
      const { code, message } = await readStatus(response);
      expect(code).toBe(status === 503 ? 14 : 13);
      expect(message).not.toBe("");
      expect(message).not.toContain("secret");
    },
  );

  it("refuses what is not such a message with 400", async () => {
    const { fetch, ingestSamples } = build();
    for (const body of ["\x0a\xff", "{", '{"resourceMetrics":1}', "[]"]) {
      const bytes = otlp.encoding === "json"
        ? new TextEncoder().encode(body)
        : new TextEncoder().encode(`\x0a\x7f${body}`);
      const response = await fetch(post(OTLP, bytes, { "content-type": type }));
      expect(response.status).toBe(400);
      expect((await readStatus(response)).code).toBe(3);
    }
    expect(ingestSamples).not.toHaveBeenCalled();
  });

  it("answers whatever bytes come, and never with a 500", async () => {
    const { fetch } = build();
    const whole = encode(gauge([1, 2, 3]));
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.integer({ min: 0, max: whole.length - 1 }).map((length) => whole.slice(0, length)),
      fc.tuple(fc.nat(whole.length - 1), fc.nat(255))
        .map(([place, byte]) => whole.map((was, index) => index === place ? byte : was)),
    );
    await fc.assert(fc.asyncProperty(bytes, async (bytes) => {
      const response = await fetch(post(OTLP, new Uint8Array(bytes), { "content-type": type }));
      expect([200, 400]).toContain(response.status);
    }));
  });

  it("says in its encoding who may not come in, and why", async () => {
    const world = {
      environment: sampleEnvironment,
      checkToken: () => Promise.resolve(null),
      now: () => NOON,
    };
    const { fetch, ingestSamples } = build({ authorize: tokenOrKey("ingest", world) });
    const token = sampleAccessToken(1);
    const response = await fetch(send(gauge([1]), { authorization: `Bearer ${token}` }));
    expect(response.status).toBe(401);
    expect(response.headers.get("www-authenticate")).toMatch(/^Bearer/);
    const { code, message } = await readStatus(response);
    expect(code).toBe(16);
    expect(message).toContain("expired");
    expect(message).not.toContain(token);
    expect(ingestSamples).not.toHaveBeenCalled();
  });

  it("answers a body that is too large with 413", async () => {
    const { fetch } = build();
    const { sentBytes, unpackedBytes } = BODY_LIMITS[otlp.encoding];
    // No message in either encoding, and seen to be none at its first bytes.
    const noise = (bytes: number) => new Uint8Array(bytes).fill(0xff);
    const sent = (bytes: number) => post(OTLP, noise(bytes), { "content-type": type });
    const bomb = (bytes: number) =>
      post(OTLP, new Uint8Array(gzipSync(noise(bytes))), {
        "content-type": type,
        "content-encoding": "gzip",
      });
    for (const request of [sent(sentBytes), bomb(unpackedBytes)]) {
      expect((await fetch(request)).status).toBe(400);
    }
    for (const request of [sent(sentBytes + 1), bomb(unpackedBytes + 1)]) {
      const response = await fetch(request);
      expect([response.status, response.headers.get("content-type")]).toEqual([413, type]);
    }
  });

  it("answers another method with 405", async () => {
    const response = await build().fetch(
      request("GET", { path: OTLP, headers: { "content-type": type } }),
    );
    expect([response.status, response.headers.get("allow")]).toEqual([405, "POST, OPTIONS"]);
    expect((await readStatus(response)).code).toBe(12);
  });
});

describe("POST …/v1/metrics", () => {
  it("takes the two encodings for the same", async () => {
    const message = gauge([1, 2.5, -3e300]);
    const batches = await Promise.all(ENCODINGS.map(async ({ encode, type }) => {
      const { fetch, ingestSamples } = build();
      await fetch(post(OTLP, encode(message), { "content-type": type }));
      return ingestSamples.mock.calls[0]![0];
    }));
    expect(batches[0]).toEqual(batches[1]);
  });

  it.each(["", "text/plain", "application/protobuf", "application/x-ndjson"])(
    "refuses the type %j with 415, in JSON",
    async (type) => {
      const response = await build().fetch(post(OTLP, "{}", { "content-type": type }));
      expect([response.status, response.headers.get("content-type")])
        .toEqual([415, "application/json"]);
      expect(await response.json()).toMatchObject({ message: expect.stringContaining("protobuf") });
    },
  );

  it("refuses another content-encoding with 415", async () => {
    const response = await build().fetch(
      post(OTLP, "{}", { "content-type": "application/json", "content-encoding": "br" }),
    );
    expect([response.status, response.headers.get("accept-encoding")])
      .toEqual([415, "gzip, identity"]);
  });
});

describe("POST ingest-metrics", () => {
  const send = (samples: unknown, headers: Record<string, string> = {}) =>
    post(PLAIN, JSON.stringify({ samples }), headers);

  it("stores samples, and says how many", async () => {
    const { fetch, ingestSamples, lines } = build({
      ingest: () => Promise.resolve({ inserted: 1, duplicates: 1, overflowed: 0, rejected: [] }),
    });
    const response = await fetch(send([
      { metric: "orders_total", value: 7, labels: { shop: 'é " \n 😀' } },
      { metric: "queue_depth", value: 0.5, recorded_at: "2026-02-01T12:59:00+01:00" },
    ]));
    expect([response.status, await response.json()]).toEqual([200, {
      inserted: 1,
      duplicates: 1,
      overflowed: 0,
      rejected_count: 0,
      rejected: [],
    }]);
    expect(ingestSamples.mock.calls[0]![0]).toMatchObject({
      series: [
        { metric: "orders_total", kind: "counter", labels: { shop: 'é " \n 😀' } },
        { metric: "queue_depth", kind: "gauge", labels: {} },
      ],
      positions: [1, 2],
      times: [NOON.getTime(), afterNoon(-60).getTime()],
      values: [7, 0.5],
    });
    expect(lines).toEqual([]);
  });

  it("takes gzip, and any content-type", async () => {
    const { fetch, ingestSamples } = build();
    const body = new Uint8Array(gzipSync('{"samples":[{"metric":"a","value":1}]}'));
    const headers = {
      "content-encoding": "gzip",
      "content-type": "application/x-www-form-urlencoded",
    };
    expect((await fetch(post(PLAIN, body, headers))).status).toBe(200);
    expect(ingestSamples).toHaveBeenCalledOnce();
  });

  it("stores the good ones, and says which were refused and why", async () => {
    const { fetch, lines } = build();
    const response = await fetch(send([
      { metric: "a", value: 1 },
      { metric: "b c", value: 1 },
      { metric: "d", value: 1, recorded_at: afterNoon(601).toISOString() },
    ]));
    expect(response.status).toBe(200);
    expect(await response.json()).toMatchObject({
      inserted: 1,
      rejected_count: 2,
      rejected: [
        { metric: "b c", reason: expect.stringContaining("name"), count: 1 },
        { metric: "d", reason: "more than 10 minutes ahead", count: 1 },
      ],
    });
    expect(lines).toHaveLength(1);
  });

  it("answers 422 when nothing was stored, and nothing was there before", async () => {
    const { fetch } = build();
    const response = await fetch(send([{ metric: "b c", value: 1 }]));
    const problem = await response.json();
    expect([response.status, problem.type]).toEqual([422, "urn:pgvigil:problem:samples-refused"]);
    expect(problem).toMatchObject({
      detail: expect.stringContaining("1 of b c: "),
      rejected_count: 1,
      rejected: [{ metric: "b c", count: 1 }],
    });
  });

  it("answers 200 to those that were there before, beside refused ones", async () => {
    const { fetch } = build({
      ingest: () => Promise.resolve({ inserted: 0, duplicates: 1, overflowed: 0, rejected: [] }),
    });
    const response = await fetch(send([{ metric: "a", value: 1 }, { metric: "b c", value: 1 }]));
    expect(response.status).toBe(200);
  });

  it("answers 200 to no samples", async () => {
    expect((await build().fetch(send([]))).status).toBe(200);
  });

  it("lists a hundred refusals, and counts all", async () => {
    const { fetch } = build();
    const response = await fetch(
      send(Array.from({ length: 150 }, (_, n) => ({ metric: `a ${n}`, value: 1 }))),
    );
    const { rejected, rejected_count } = await response.json();
    expect([rejected.length, rejected_count]).toEqual([REFUSALS_LIMIT, 150]);
  });

  it.each([
    ["", "json"],
    ["{", "json"],
    ["samples=1", "json"],
    ["{}", "malformed"],
    ["[]", "malformed"],
    ["null", "malformed"],
    ['{"samples":{}}', "malformed"],
  ])("refuses the body %j with 400", async (body, slug) => {
    const { fetch, ingestSamples } = build();
    const response = await fetch(post(PLAIN, body));
    expect([response.status, await slugOf(response)]).toEqual([400, slug]);
    expect(ingestSamples).not.toHaveBeenCalled();
  });

  it("refuses broken UTF-8 with 400", async () => {
    const response = await build().fetch(post(PLAIN, new Uint8Array([0x22, 0xff, 0x22])));
    expect([response.status, await slugOf(response)]).toEqual([400, "json"]);
  });

  it("refuses half of a gzip with 400, and what is too large with 413", async () => {
    const { fetch } = build();
    const packed = new Uint8Array(gzipSync('{"samples":[]}'));
    const gzip = { "content-encoding": "gzip" };
    expect((await fetch(post(PLAIN, packed.slice(0, -4), gzip))).status).toBe(400);
    const padded = (bytes: number) => `{"samples":[]}${" ".repeat(bytes - 14)}`;
    const { sentBytes, unpackedBytes } = BODY_LIMITS.json;
    expect((await fetch(post(PLAIN, padded(sentBytes)))).status).toBe(200);
    expect((await fetch(post(PLAIN, padded(sentBytes + 1)))).status).toBe(413);
    const out = (bytes: number) => post(PLAIN, new Uint8Array(gzipSync(padded(bytes))), gzip);
    expect((await fetch(out(unpackedBytes))).status).toBe(200);
    expect((await fetch(out(unpackedBytes + 1))).status).toBe(413);
  });

  it.each([[1_000_000, 422], [1_000_001, 413]])(
    "answers %i objects and lists with %i",
    async (nodes, status) => {
      // The object, the list of samples and one sample, which is a list, are three of them.
      const body = `{"samples":[[${"[],".repeat(nodes - 4)}[]]]}`;
      const response = await build().fetch(post(PLAIN, body));
      expect(response.status).toBe(status);
      if (status === 413) {
        expect((await response.json()).detail).toContain("1000000 objects and lists");
      }
    },
  );

  it("answers a list of 999,999 empty samples with 413, for what it is and not for its samples", async () => {
    const response = await build().fetch(
      post(PLAIN, `{"samples":[${"[],".repeat(999_998)}[]]}`),
    );
    expect(response.status).toBe(413);
    expect((await response.json()).detail).toContain("objects and lists");
  });

  it.each([[SAMPLES_LIMIT, 200], [SAMPLES_LIMIT + 1, 413]])(
    "answers %i samples with %i",
    async (count, status) => {
      const { fetch } = build();
      const samples = Array.from({ length: count }, () => ({ metric: "a", value: 1 }));
      const response = await fetch(
        post(PLAIN, new Uint8Array(gzipSync(JSON.stringify({ samples }))), {
          "content-encoding": "gzip",
        }),
      );
      expect(response.status).toBe(status);
    },
  );

  it.each(["/v1", "/v1/metrics/x", "/v1/traces", "/v1/logs"])(
    "knows no %s",
    async (path) => {
      const response = await build().fetch(post(`/${NAME}${path}`, "{}"));
      expect([response.status, await slugOf(response)]).toEqual([404, "path"]);
    },
  );
});

describe("a body", () => {
  it("has 4 MiB at the most, and unpacked 16 of protobuf and 6 of JSON", () => {
    expect(BODY_LIMITS).toEqual({
      protobuf: { sentBytes: 4_194_304, unpackedBytes: 16_777_216 },
      json: { sentBytes: 4_194_304, unpackedBytes: 6_291_456 },
    });
  });
});

describe("a revoked token", () => {
  it("stops within a minute, and costs one query until then", async () => {
    const clock = new Clock();
    let isGood = true;
    const call = vi.fn();
    const database: Database = {
      call: (rpc, args, parse) => {
        call(rpc, args);
        const row = { token_id: 1, name: "shop", scopes: ["ingest"], expires_at: null };
        return Promise.resolve(parse(isGood ? row : null));
      },
    };
    const authorize = tokenOrKey("ingest", {
      environment: sampleEnvironment,
      checkToken: (hash) => checkAccessToken(database, hash),
      now: clock.now,
    });
    const { fetch } = build({ authorize });
    const send = async () =>
      (await fetch(
        post(PLAIN, '{"samples":[]}', { authorization: `Bearer ${sampleAccessToken(1)}` }),
      )).status;

    expect([await send(), await send()]).toEqual([200, 200]);
    expect(call.mock.calls).toEqual([
      ["check_access_token", { p_token_hash: expect.stringMatching(/^[0-9a-f]{64}$/) }],
    ]);
    isGood = false;
    clock.advance(60);
    expect([await send(), await send()]).toEqual([401, 401]);
    expect(call).toHaveBeenCalledTimes(2);
  });
});

describe("ingestionStore()", () => {
  const batch: SampleBatch = {
    series: [{
      metric: "a",
      labels: { b: "c" },
      kind: "gauge",
      unit: "",
      description: "",
      is_delta: false,
    }],
    positions: [1],
    times: [NOON.getTime()],
    values: [0.5],
  };
  const answering = (answer: unknown) => {
    const calls: unknown[][] = [];
    const database: Database = {
      call: (rpc, args, parse) => {
        calls.push([rpc, args]);
        return new Promise((resolve) => resolve(parse(answer)));
      },
    };
    return { store: ingestionStore(database, () => NOON), calls };
  };

  it("sends less at a time when the database says it is too much, and gives up at one sample", async () => {
    const sizes: number[] = [];
    const refusing = (most: number): Database => ({
      call: (_rpc, { p_positions }, parse) => {
        const size = (p_positions as number[]).length;
        sizes.push(size);
        return size > most
          ? Promise.reject(new DatabaseError("ingest_samples", "refused", "54000", "too many"))
          : Promise.resolve(
            parse({ inserted: size, duplicates: 0, overflowed: 0, rejected: [] }),
          );
      },
    });
    const five = {
      ...batch,
      positions: [1, 1, 1, 1, 1],
      times: [1, 2, 3, 4, 5],
      values: [0, 0, 0, 0, 0],
    };
    expect(await ingestionStore(refusing(2), () => NOON).ingestSamples(five))
      .toMatchObject({ inserted: 5 });
    expect(sizes).toEqual([5, 3, 2, 1, 2]);
    await expect(ingestionStore(refusing(0), () => NOON).ingestSamples(batch)).rejects
      .toMatchObject({ code: "54000" });
  });

  /** A database that takes so many seconds for each part, and the function on it. */
  const taking = (seconds: number) => {
    const clock = new Clock();
    const call = vi.fn();
    const database: Database = {
      call: (_rpc, { p_positions }, parse) => {
        call();
        clock.advance(seconds);
        const inserted = (p_positions as number[]).length;
        return Promise.resolve(parse({ inserted, duplicates: 0, overflowed: 0, rejected: [] }));
      },
    };
    return { store: ingestionStore(database, clock.now), call };
  };
  const parts = (count: number): SampleBatch => {
    const samples = Array.from({ length: (count - 1) * CALL_SAMPLES_LIMIT + 1 }, (_, n) => n);
    return {
      series: batch.series,
      positions: samples.map(() => 1),
      times: samples.map((n) => NOON.getTime() + n),
      values: samples,
    };
  };

  it("hands a batch over as it is", async () => {
    const answer = { inserted: 1, duplicates: 0, overflowed: 0, rejected: [] };
    const { store, calls } = answering(answer);
    expect(await store.ingestSamples(batch)).toEqual(answer);
    expect(calls).toEqual([["ingest_samples", {
      p_series: batch.series,
      p_positions: [1],
      p_times: [NOON.getTime()],
      p_values: [0.5],
    }]]);
  });

  it.each([
    [1, 60, 1],
    [3, 9.999, 3],
    [3, 10, 2],
    [2, 20, 1],
    [10, 2, 10],
    [10, 2.5, 8],
  ])("begins of %i parts of %d s each, in 20 s, %i", async (count, seconds, begun) => {
    const { store, call } = taking(seconds);
    const storing = store.ingestSamples(parts(count));
    if (begun === count) {
      expect((await storing).inserted).toBe((count - 1) * CALL_SAMPLES_LIMIT + 1);
    } else {
      await expect(storing).rejects.toMatchObject({ name: "DatabaseError", kind: "timed_out" });
    }
    expect(call).toHaveBeenCalledTimes(begun);
  });

  it("has the sender come again when the time was spent", async () => {
    const { store } = taking(20);
    const { fetch } = build({ ingest: store.ingestSamples });
    const samples = Array.from(
      { length: CALL_SAMPLES_LIMIT + 1 },
      () => ({ metric: "a", value: 1 }),
    );
    const response = await fetch(post(PLAIN, JSON.stringify({ samples })));
    expect([response.status, response.headers.get("retry-after"), await slugOf(response)])
      .toEqual([503, "5", "database-unavailable"]);
  });

  it.each(["inserted", "duplicates", "overflowed"])("takes no negative %s", async (field) => {
    const answer = { inserted: 0, duplicates: 0, overflowed: 0, rejected: [] };
    await expect(answering({ ...answer, [field]: -1 }).store.ingestSamples(batch)).rejects
      .toThrow();
    const rejected = (count: number) => [{ metric: "a", reason: "b", count }];
    expect(await answering({ ...answer, rejected: rejected(1) }).store.ingestSamples(batch))
      .toMatchObject({ rejected: [{ count: 1 }] });
    await expect(answering({ ...answer, rejected: rejected(-1) }).store.ingestSamples(batch))
      .rejects.toThrow();
  });

  it.each([[null], [{}], [{ inserted: 1 }], [[]]])("refuses the answer %j", async (answer) => {
    await expect(answering(answer).store.ingestSamples(batch)).rejects.toThrow();
  });
});

describe("checkAccessToken()", () => {
  const check = (answer: unknown) =>
    checkAccessToken(
      { call: (_rpc, _args, parse) => new Promise((resolve) => resolve(parse(answer))) },
      "hash",
    );
  const row = { token_id: 1, name: "shop", scopes: ["ingest", "read"], expires_at: null };

  it("reads a token, with and without an end, or none", async () => {
    expect(await check(null)).toBeNull();
    expect(await check(row))
      .toEqual({ name: "shop", scopes: ["ingest", "read"], expiresAt: null });
    expect(await check({ ...row, expires_at: NOON.getTime() })).toMatchObject({ expiresAt: NOON });
  });

  it.each([[undefined], [true], [{}], [{ ...row, scopes: [] }], [{ ...row, scopes: ["all"] }]])(
    "takes %j for no token",
    async (answer) => {
      await expect(check(answer)).rejects.toThrow();
    },
  );
});
