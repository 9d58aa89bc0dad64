import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { IngestError } from "../../shared/ingest/ingest-error.ts";
import { plainToSamples } from "../../shared/ingest/plain-to-samples.ts";
import { NOW, show } from "./ingest-fixtures.ts";

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const DAY = 24 * 60 * MINUTE;

const at = (offset: number) => new Date(NOW.getTime() + offset).toISOString();
const labels = (count: number) =>
  Object.fromEntries(Array.from({ length: count }, (_, index) => [`label_${index}`, "x"]));

/** Why one sample is refused, "taken" if it is not. */
function judge(sample: unknown): string {
  const { batch, refused } = plainToSamples({ samples: [sample] }, NOW);
  expect(batch.values.length + refused.length).toBe(1);
  return refused[0]?.reason ?? "taken";
}

describe("plainToSamples()", () => {
  it("takes what is good, each series once, by now unless there is a time", () => {
    const result = plainToSamples({
      samples: [
        { metric: "queue_depth", value: 3 },
        { metric: "orders_total", value: 7, labels: { shop: "a", till: "1", empty: "" } },
        {
          metric: "orders_total",
          value: 8.5,
          labels: { till: "1", shop: "a" },
          recorded_at: at(-SECOND),
        },
        { metric: "queue_depth", value: -0.25, recorded_at: "2026-11-21T10:59:00.123456+02:00" },
      ],
    }, NOW);
    const now = NOW.getTime();
    expect(result.refused).toEqual([]);
    expect(show(result)).toEqual([
      `queue_depth 3 @${now}`,
      `orders_total{shop="a",till="1"} 7 @${now}`,
      `orders_total{shop="a",till="1"} 8.5 @${now - SECOND}`,
      `queue_depth -0.25 @${now - MINUTE}`,
    ]);
    expect(result.batch.positions).toEqual([1, 2, 2, 1]);
    expect(result.batch.series).toEqual([
      {
        metric: "queue_depth",
        labels: {},
        kind: "gauge",
        unit: "",
        description: "",
        is_delta: false,
      },
      {
        metric: "orders_total",
        labels: { shop: "a", till: "1" },
        kind: "counter",
        unit: "",
        description: "",
        is_delta: false,
      },
    ]);
  });

  it.each([
    ["a name of 200", { metric: "m".repeat(200), value: 1 }, "taken"],
    ["a name of 201", { metric: "m".repeat(201), value: 1 }, "200 characters"],
    ["a name with a colon", { metric: ":a:b", value: 1 }, "taken"],
    ["a name with a dot", { metric: "a.b", value: 1 }, "the name is not"],
    ["a name that begins with a digit", { metric: "1a", value: 1 }, "the name is not"],
    ["a name with a line break", { metric: "a\n", value: 1 }, "the name is not"],
    ["no name", { value: 1 }, "no metric"],
    ["target_info", { metric: "target_info", value: 1 }, "target_info is made of"],
    ["more than that", { metric: "target_info_x", value: 1 }, "taken"],
    [
      "the label of the overflow",
      { metric: "a", value: 1, labels: { otel_metric_overflow: "true" } },
      "otel_metric_overflow is the monitor's own",
    ],
    [
      "a label that begins as it does",
      { metric: "a", value: 1, labels: { otel_metric_overflow_x: "true" } },
      "taken",
    ],
    ["no value", { metric: "a" }, "not a number"],
    ["a value in quotes", { metric: "a", value: "1" }, "not a number"],
    ["null", { metric: "a", value: null }, "not a number"],
    ["NaN", { metric: "a", value: NaN }, "finite"],
    ["infinity", { metric: "a", value: -Infinity }, "finite"],
    ["the largest value", { metric: "a", value: Number.MAX_VALUE }, "taken"],
    ["30 labels", { metric: "a", value: 1, labels: labels(30) }, "taken"],
    ["31 labels", { metric: "a", value: 1, labels: labels(31) }, "30 labels"],
    ["31 labels, one empty", { metric: "a", value: 1, labels: { ...labels(30), e: "" } }, "taken"],
    ["a label name of 200", { metric: "a", value: 1, labels: { ["l".repeat(200)]: "x" } }, "taken"],
    ["a label name of 201", { metric: "a", value: 1, labels: { ["l".repeat(201)]: "x" } }, "200"],
    [
      "a label value of 2,000",
      { metric: "a", value: 1, labels: { l: "🙂".repeat(2000) } },
      "taken",
    ],
    [
      "a label value of 2,001",
      { metric: "a", value: 1, labels: { l: "🙂".repeat(2001) } },
      "2,000",
    ],
    ["a label with a dash", { metric: "a", value: 1, labels: { "a-b": "x" } }, "name of a label"],
    ["a reserved label", { metric: "a", value: 1, labels: { __name__: "x" } }, "name of a label"],
    ["a number as label", { metric: "a", value: 1, labels: { l: 1 } }, "object of strings"],
    ["a list of labels", { metric: "a", value: 1, labels: ["l"] }, "object of strings"],
    ["10 minutes ahead", { metric: "a", value: 1, recorded_at: at(10 * MINUTE) }, "taken"],
    ["more than that", { metric: "a", value: 1, recorded_at: at(10 * MINUTE + 1) }, "ahead"],
    ["7 days old", { metric: "a", value: 1, recorded_at: at(-7 * DAY) }, "taken"],
    ["older", { metric: "a", value: 1, recorded_at: at(-7 * DAY - 1) }, "older than 7 days"],
    ["no offset", { metric: "a", value: 1, recorded_at: "2026-11-21T09:00:00" }, "ISO 8601"],
    ["no such day", { metric: "a", value: 1, recorded_at: "2026-11-31T09:00:00Z" }, "ISO 8601"],
    ["a number as time", { metric: "a", value: 1, recorded_at: NOW.getTime() }, "ISO 8601"],
    ["a time under another name", { metric: "a", value: 1, timestamp: at(0) }, "no other field"],
    ["a list", [], "object with metric"],
    ["nothing", null, "object with metric"],
  ])("%s: %#", (_, sample, expected) => expect(judge(sample)).toContain(expected));

  it("adds refusals up by metric and reason, and bounds what it repeats", () => {
    const long = { metric: `${"x".repeat(500)}\0`, value: 1 };
    const { refused, batch } = plainToSamples({
      samples: [long, { metric: "a", value: NaN }, { metric: "ok", value: 1 }, long, {
        metric: "\0\ud800",
        value: 1,
      }],
    }, NOW);
    expect(batch.values).toEqual([1]);
    expect(refused).toEqual([
      { metric: "x".repeat(200), reason: expect.stringContaining("the name is not"), count: 2 },
      { metric: "a", reason: expect.stringContaining("finite"), count: 1 },
      { metric: "\ufffd\ufffd", reason: expect.stringContaining("the name is not"), count: 1 },
    ]);
  });

  it.each([undefined, null, 1, "{}", [], {}, { samples: {} }, { samples: null }])(
    "throws for a body of %j",
    (body) => {
      expect(() => plainToSamples(body, NOW)).toThrow(
        expect.objectContaining({ name: "IngestError", kind: "malformed" }),
      );
    },
  );

  it("takes 200,000 samples and not one more", () => {
    const samples = Array(200_000).fill({ metric: "a", value: 1 });
    expect(plainToSamples({ samples }, NOW).batch.values).toHaveLength(200_000);
    expect(() => plainToSamples({ samples: [...samples, null] }, NOW)).toThrow(
      expect.objectContaining({ kind: "too_large" }),
    );
  });

  it("gives what jsonb can hold, whatever comes in", () => {
    const label = fc.stringMatching(/^[a-z_][a-z0-9_]{0,5}$/);
    const sample = fc.record({
      metric: fc.oneof(fc.constantFrom("a", "b_total"), fc.string({ unit: "binary" })),
      value: fc.oneof(fc.double(), fc.anything()),
      labels: fc.oneof(fc.dictionary(label, fc.string({ unit: "binary" })), fc.anything()),
    }, { requiredKeys: ["metric", "value"] });
    fc.assert(fc.property(fc.array(fc.oneof(sample, fc.anything())), (samples) => {
      const { batch, refused } = plainToSamples({ samples }, NOW);
      const count = refused.reduce((sum, refusal) => sum + refusal.count, 0);
      expect(count + batch.values.length).toBe(samples.length);
      const texts = JSON.stringify({ series: batch.series, refused });
      expect(texts).not.toMatch(/\\u0000|\\ud[89a-f]/i);
      const keys = batch.series.map(({ metric, labels }) =>
        JSON.stringify([metric, Object.entries(labels).toSorted()])
      );
      expect(new Set(keys).size).toBe(keys.length);
    }));
  });

  it("throws nothing but its own error", () => {
    fc.assert(fc.property(fc.anything(), (body) => {
      try {
        plainToSamples(body, NOW);
      } catch (error) {
        expect(error).toBeInstanceOf(IngestError);
      }
    }));
  });
});
