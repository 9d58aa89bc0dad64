import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { toLabelName, toMetricName, toUnitWord } from "../../shared/ingest/prometheus-names.ts";

const kinds = fc.constantFrom("gauge" as const, "counter" as const, "other" as const);

describe("toMetricName()", () => {
  it.each(
    [
      ["system.filesystem.usage", "By", "gauge", "system_filesystem_usage_bytes"],
      ["system.io", "By", "counter", "system_io_bytes_total"],
      ["network_transmitted_bytes_total", "By", "counter", "network_transmitted_bytes_total"],
      ["total.requests", "", "counter", "requests_total"],
      ["\t http.requests ", " s\t", "other", "http_requests_seconds"],
      ["http.server.request.duration", "s", "other", "http_server_request_duration_seconds"],
      ["http.server.duration", "ms", "other", "http_server_duration_milliseconds"],
      ["dropped", "{packet}", "counter", "dropped_total"],
      ["dropped", "{packet}", "gauge", "dropped"],
      ["dropped", "packets", "gauge", "dropped_packets"],
      ["packets.dropped", "packets", "gauge", "packets_dropped"],
      ["memory.utilization", "1", "gauge", "memory_utilization_ratio"],
      ["hit_ratio.of.cache", "1", "gauge", "hit_of_cache_ratio"],
      ["objects", "1", "counter", "objects_total"],
      ["objects", "1", "other", "objects"],
      ["light.speed", "m/s", "gauge", "light_speed_meters_per_second"],
      ["io", "By/s", "gauge", "io_bytes_per_second"],
      ["asserts", "{assertion}/s", "gauge", "asserts_per_second"],
      ["asserts.per.second", "{assertion}/s", "gauge", "asserts_per_second"],
      ["speed", "km/h", "gauge", "speed_km_per_hour"],
      ["success", "%", "gauge", "success_percent"],
      ["temperature", "°F", "gauge", "temperature_F"],
      ["weird", "+=.:,!* & #", "gauge", "weird"],
      ["3.14 digits", "", "gauge", "_3_14_digits"],
      ["envoy__rule", "", "gauge", "envoy_rule"],
      ["job:errors:rate5m", "", "gauge", "job:errors:rate5m"],
      ["größe", "", "gauge", "gr_e"],
      ["🙂", "s", "gauge", ""],
      ["", "By", "counter", ""],
    ] as const,
  )("%j in %j as %s is %s", (name, unit, kind, expected) => {
    expect(toMetricName(name, unit, kind)).toBe(expected);
  });

  it("is in the grammar or empty, whatever comes in, and itself the second time", () => {
    const texts = fc.string({ unit: "binary" });
    fc.assert(fc.property(texts, texts, kinds, (name, unit, kind) => {
      const result = toMetricName(name, unit, kind);
      expect(result).toMatch(/^([a-zA-Z_:][a-zA-Z0-9_:]*)?$/);
      expect(toMetricName(result, "", "gauge").replace(/^_/, "")).toBe(result.replace(/^_/, ""));
    }));
  });
});

describe("toUnitWord()", () => {
  it.each(
    [
      ["s", "other", "seconds"],
      ["ms", "gauge", "milliseconds"],
      ["By", "counter", "bytes"],
      ["%", "gauge", "percent"],
      ["1", "gauge", "ratio"],
      ["1", "counter", "count"],
      ["", "counter", "count"],
      ["", "gauge", ""],
      ["{request}", "gauge", "count"],
      ["{request}/s", "gauge", "count_per_second"],
      ["m/s", "gauge", "meters_per_second"],
      ["widgets", "gauge", "widgets"],
    ] as const,
  )("of %j as %s is %j", (unit, kind, expected) => {
    expect(toUnitWord(unit, kind)).toBe(expected);
  });
});

describe("toLabelName()", () => {
  it.each([
    ["http.request.method", "http_request_method"],
    ["already_fine_1", "already_fine_1"],
    ["1st", "key_1st"],
    ["_private", "key_private"],
    ["__name__", "key__name__"],
    ["__proto__", "key__proto__"],
    ["🙂", "key_"],
    ["a🙂b", "a_b"],
    ["", ""],
  ])("of %j is %s", (key, expected) => expect(toLabelName(key)).toBe(expected));

  it("is in the grammar and not reserved, whatever comes in", () => {
    fc.assert(fc.property(fc.string({ unit: "binary", minLength: 1 }), (key) => {
      expect(toLabelName(key)).toMatch(/^(?!__)[a-zA-Z_][a-zA-Z0-9_]*$/);
    }));
  });
});
