import { describe, expect, it } from "vitest";
import {
  healthStatusCode,
  toHealthJson,
  toHealthReport,
  toPublicHealth,
  wantsHealthJson,
} from "../../shared/health/health-report.ts";
import { judgeHealth } from "../../shared/health/judge-health.ts";
import { afterNoon, NOON, sampleFacts, sampleJobFacts } from "../fixtures.ts";

const observed = { observedAt: NOON, responseSeconds: 0.0123456 };
const healthy = judgeHealth({ kind: "facts", facts: sampleFacts(), ...observed }, afterNoon(1.234));
const stale = judgeHealth({
  kind: "facts",
  facts: sampleFacts({
    notifications: { ...sampleFacts().notifications, overdueSeconds: 12.3456 },
    jobs: [sampleJobFacts({ lastSucceededAt: afterNoon(-600), lastReason: "HTTP 401" })],
  }),
  ...observed,
}, NOON);
const failed = judgeHealth(
  { kind: "failure", reason: "no connection to 10.0.0.1", ...observed },
  NOON,
);

describe("healthStatusCode()", () => {
  it.each([["healthy", 200], ["degraded", 200], ["unknown", 503], ["unhealthy", 503]] as const)(
    "of %s is %i",
    (status, code) => expect(healthStatusCode(status)).toBe(code),
  );
});

describe("toPublicHealth()", () => {
  it("says status and age, and nothing else", () => {
    expect(toPublicHealth(healthy)).toEqual({ status: "healthy", age_seconds: 1.234 });
    expect(toPublicHealth(failed)).toEqual({ status: "unhealthy", age_seconds: 0 });
  });
});

describe("toHealthReport()", () => {
  it("has timestamp, overall, components and duration", () => {
    expect(toHealthReport(healthy, afterNoon(1.234), 0.0019)).toEqual({
      timestamp: "2026-02-01T12:00:01.234Z",
      overall: "healthy",
      components: {
        database: {
          status: "healthy",
          reason: "answers",
          observed_at: NOON.toISOString(),
          age_seconds: 1.234,
          response_seconds: 0.012,
        },
        scheduler: {
          status: "healthy",
          reason: "the watchdog ran 31 s ago",
          observed_at: afterNoon(-30).toISOString(),
          age_seconds: 31.234,
        },
        jobs: {
          "collect-metrics": {
            status: "healthy",
            reason: "succeeded 60 s ago",
            observed_at: afterNoon(-59).toISOString(),
            age_seconds: 60.234,
          },
        },
        metrics: {
          status: "healthy",
          reason: "the newest sample was taken 61 s ago",
          observed_at: afterNoon(-60).toISOString(),
          age_seconds: 61.234,
        },
        storage: {
          status: "healthy",
          reason: "2 days ahead have their partition",
          observed_at: NOON.toISOString(),
          age_seconds: 1.234,
          database_bytes: 10_000_000,
          monitor_bytes: 1_000_000,
        },
        rules: {
          status: "healthy",
          reason: "none of 23 live rules has failed for long",
          observed_at: NOON.toISOString(),
          age_seconds: 1.234,
          failing_count: 0,
        },
        notifications: {
          status: "healthy",
          reason: "nothing that is due waits",
          observed_at: NOON.toISOString(),
          age_seconds: 1.234,
          overdue_seconds: null,
        },
      },
      duration: 0.002,
    });
  });

  it("gives every component a status, a reason and an age, known or not", () => {
    const { components } = toHealthReport(failed, NOON, 0) as {
      components: Record<string, object>;
    };
    for (const name of ["database", "scheduler", "metrics", "storage", "rules", "notifications"]) {
      expect(components[name]).toEqual(
        expect.objectContaining({ status: expect.any(String), reason: expect.stringMatching(/./) }),
      );
      expect(components[name]).toHaveProperty("age_seconds");
    }
  });
});

describe("toHealthJson()", () => {
  it("is terse in public", () => {
    expect(toHealthJson(healthy, false)).toEqual({ status: "pass", notes: ["as of 1.234 s ago"] });
    expect(toHealthJson(stale, false)).toEqual({ status: "fail", notes: ["as of 0 s ago"] });
  });

  it("has a check for each component where it may", () => {
    expect(toHealthJson(stale, true)).toEqual({
      status: "fail",
      notes: ["as of 0 s ago"],
      checks: {
        "database:responseTime": [{
          componentType: "datastore",
          observedValue: 0.012,
          observedUnit: "s",
          status: "pass",
          time: NOON.toISOString(),
        }],
        "scheduler:age": [{
          componentType: "system",
          observedValue: 30,
          observedUnit: "s",
          status: "pass",
          time: afterNoon(-30).toISOString(),
        }],
        "collect-metrics:age": [{
          componentType: "component",
          observedValue: 600,
          observedUnit: "s",
          status: "fail",
          time: afterNoon(-600).toISOString(),
          output: "stale: succeeded 600 s ago",
        }],
        "metrics:age": [{
          componentType: "component",
          observedValue: 60,
          observedUnit: "s",
          status: "pass",
          time: afterNoon(-60).toISOString(),
        }],
        "storage:utilization": [{
          componentType: "datastore",
          observedValue: 1_000_000,
          observedUnit: "By",
          status: "pass",
          time: NOON.toISOString(),
        }],
        "rules:failing": [{
          componentType: "component",
          observedValue: 0,
          observedUnit: "1",
          status: "pass",
          time: NOON.toISOString(),
        }],
        "notifications:overdue": [{
          componentType: "component",
          observedValue: 12.346,
          observedUnit: "s",
          status: "pass",
          time: NOON.toISOString(),
        }],
      },
    });
  });

  it.each([
    [{}, "pass"],
    [{ jobsEnabled: false }, "warn"],
    [{ jobs: [] }, "fail"],
    [{ scheduler: null }, "fail"],
  ])("of %j is %s", (changes, status) => {
    const judgement = judgeHealth(
      { kind: "facts", facts: sampleFacts(changes), ...observed },
      NOON,
    );
    expect(toHealthJson(judgement, false)).toMatchObject({ status });
  });
});

describe("wantsHealthJson()", () => {
  it.each([
    ["application/health+json", true],
    ["Application/Health+JSON; q=0.5", true],
    ["text/html, application/health+json;q=0.9, */*;q=0.1", true],
    ["application/health+json;q=0", false],
    ["application/health+json; q=0.000", false],
    ["application/health+json;q=0.001", true],
    ["application/json", false],
    ["*/*", false],
    ["application/health", false],
    ["", false],
    [null, false],
  ])("of %j is %s", (accept, expected) => expect(wantsHealthJson(accept)).toBe(expected));
});
