import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { NewestSamples } from "../../shared/alerting/newest-sample.ts";

describe("NewestSamples", () => {
  it("takes a series that lacks a label of the alert, and none with another value", () => {
    const samples = new NewestSamples([
      { labels: { host: "a" }, newestAt: 5 },
      { labels: { host: "a", job: "web" }, newestAt: 3 },
      { labels: { host: "b", job: "web" }, newestAt: 9 },
    ]);
    expect(samples.find({ host: "a", job: "web" })).toBe(5);
    expect(samples.find({ host: "a", job: "db" })).toBe(5);
    expect(samples.find({ host: "c" })).toBeUndefined();
    expect(samples.find({})).toBe(9);
  });

  it("finds what looking at every series finds", () => {
    const labels = fc.dictionary(fc.constantFrom("a", "b", "c"), fc.constantFrom("x", "y"));
    const series = fc.array(fc.record({ labels, newestAt: fc.integer({ min: 0, max: 50 }) }));
    fc.assert(fc.property(series, fc.array(labels), (known, alerts) => {
      const samples = new NewestSamples(known);
      for (const wanted of alerts) {
        const fitting = known.filter(({ labels }) =>
          Object.entries(wanted).every(([name, value]) =>
            labels[name] === undefined || labels[name] === value
          )
        );
        const newest = fitting.length === 0
          ? undefined
          : Math.max(...fitting.map(({ newestAt }) => newestAt));
        expect(samples.find(wanted)).toBe(newest);
      }
    }));
  });
});
