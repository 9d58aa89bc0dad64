import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { SampleBatch, SentSeries } from "../../shared/contract/ingestion.ts";
import { splitBatch } from "../../shared/ingest/split-batch.ts";

const sentSeries = (n: number): SentSeries => ({
  metric: `m${n}`,
  labels: {},
  kind: "counter",
  unit: "",
  description: "",
  is_delta: true,
});

const batches = fc.array(fc.tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 0, max: 9 })))
  .map((samples): SampleBatch => ({
    series: [1, 2, 3, 4, 5].map(sentSeries),
    positions: samples.map(([position]) => position),
    times: samples.map(([, time]) => time),
    values: samples.map((_, index) => index),
  }));

/** Every sample of a batch as [metric, time, value]. */
const list = ({ series, positions, times, values }: SampleBatch) =>
  values.map((value, index) =>
    [series[positions[index]! - 1]!.metric, times[index]!, value] as const
  );

describe("splitBatch()", () => {
  it("leaves a batch alone that fits, and only that", () => {
    const [batch] = fc.sample(batches.filter(({ values }) => values.length > 2), 1);
    expect(splitBatch(batch!, batch!.values.length)).toEqual([batch]);
    expect(splitBatch(batch!, batch!.values.length - 1)).toHaveLength(2);
  });

  it("loses nothing, doubles nothing, and keeps to the limit", () => {
    fc.assert(fc.property(batches, fc.integer({ min: 1, max: 7 }), (batch, limit) => {
      const parts = splitBatch(batch, limit);
      expect(parts.flatMap(list).toSorted((a, b) => a[2] - b[2])).toEqual(list(batch));
      for (const part of parts) expect(part.values.length).toBeLessThanOrEqual(limit);
    }));
  });

  it("never has a later sample of a series in an earlier part, and names each series of a part once", () => {
    fc.assert(fc.property(batches, fc.integer({ min: 1, max: 7 }), (batch, limit) => {
      const newest = new Map<string, number>();
      const parts = splitBatch(batch, limit);
      for (const part of parts) {
        const metrics = part.series.map(({ metric }) => metric);
        if (parts.length > 1) expect([...new Set(list(part).map(([m]) => m))]).toEqual(metrics);
        for (const [metric, time] of list(part)) {
          if (parts.length > 1) expect(time).toBeGreaterThanOrEqual(newest.get(metric) ?? 0);
          newest.set(metric, time);
        }
      }
    }));
  });
});
