import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type HealthFacts, type JobFacts, RUN_STATES } from "../../shared/contract/health-facts.ts";
import {
  CANARY_SECONDS,
  FACTS_STALE_AFTER_SECONDS,
  FUTURE_TOLERANCE_SECONDS,
  HEALTH_STATUSES,
  type HealthObservation,
  judgeHealth,
  OVERDUE_SECONDS,
  SLOW_RESPONSE_SECONDS,
  worstStatus,
} from "../../shared/health/judge-health.ts";
import { afterNoon, NOON, sampleFacts, sampleJobFacts } from "../fixtures.ts";

const seen = (
  changes: Partial<HealthFacts> = {},
  observed: Partial<Pick<HealthObservation, "observedAt" | "responseSeconds">> = {},
): HealthObservation => ({
  ...{ kind: "facts", facts: sampleFacts(changes), observedAt: NOON, responseSeconds: 0.01 },
  ...observed,
});
const unseen: HealthObservation = {
  ...{ kind: "failure", reason: "no connection", observedAt: NOON, responseSeconds: 2 },
};
const judge = (changes: Partial<HealthFacts> = {}) => judgeHealth(seen(changes), NOON);
const judgeJob = (changes: Partial<JobFacts>, jobsEnabled = true) =>
  judge({ jobsEnabled, jobs: [sampleJobFacts(changes)] }).components.jobs["collect-metrics"]!;

describe("judgeHealth()", () => {
  it("is healthy when everything is fresh", () => {
    const { overall, ageSeconds, components } = judge();
    expect([overall, ageSeconds]).toEqual(["healthy", 0]);
    expect(components.database).toEqual({
      status: "healthy",
      reason: "answers",
      observedAt: NOON,
      ageSeconds: 0,
      responseSeconds: 0.01,
    });
    expect(components.jobs["collect-metrics"]).toEqual({
      status: "healthy",
      reason: "succeeded 59 s ago",
      observedAt: afterNoon(-59),
      ageSeconds: 59,
    });
    expect(components.storage).toMatchObject({ status: "healthy", monitorBytes: 1_000_000 });
  });

  it("is unhealthy without an answer of the database, and knows nothing of the rest", () => {
    const { overall, components } = judgeHealth(unseen, NOON);
    expect(overall).toBe("unhealthy");
    expect(components.database).toMatchObject({
      status: "unhealthy",
      reason: "no connection",
      responseSeconds: 2,
    });
    for (const name of ["scheduler", "metrics", "storage", "rules", "notifications"] as const) {
      expect(components[name]).toMatchObject({ status: "unknown", ageSeconds: null });
    }
    expect(components.jobs).toEqual({});
  });

  describe("overall", () => {
    it("is the worst of all components: unhealthy, unknown, degraded, healthy", () => {
      expect(HEALTH_STATUSES).toEqual(["unhealthy", "unknown", "degraded", "healthy"]);
      fc.assert(
        fc.property(fc.array(fc.constantFrom(...HEALTH_STATUSES), { minLength: 1 }), (statuses) => {
          const worst = worstStatus(statuses);
          expect(statuses).toContain(worst);
          for (const status of statuses) {
            expect(HEALTH_STATUSES.indexOf(worst)).toBeLessThanOrEqual(
              HEALTH_STATUSES.indexOf(status),
            );
          }
        }),
      );
    });

    it("is unknown of nothing", () => expect(worstStatus([])).toBe("unknown"));

    it("takes one job of many to be worse", () => {
      const jobs = ["a", "b", "c"].map((job) => sampleJobFacts({ job }));
      const stale = sampleJobFacts({ job: "d", lastSucceededAt: afterNoon(-181) });
      expect(judge({ jobs }).overall).toBe("healthy");
      expect(judge({ jobs: [...jobs, stale] }).overall).toBe("unknown");
    });
  });

  describe("database", () => {
    it.each([
      [0, "healthy"],
      [SLOW_RESPONSE_SECONDS - 0.001, "healthy"],
      [SLOW_RESPONSE_SECONDS, "degraded"],
      [1.9, "degraded"],
    ])("that takes %d s is %s", (responseSeconds, status) => {
      const { overall, components } = judgeHealth(seen({}, { responseSeconds }), NOON);
      expect([overall, components.database.status]).toEqual([status, status]);
    });

    it.each([
      [FACTS_STALE_AFTER_SECONDS, "healthy", "unhealthy"],
      [FACTS_STALE_AFTER_SECONDS + 0.001, "unknown", "unknown"],
    ])("asked %d s ago is %s, or %s if it did not answer", (age, ifAnswered, ifNot) => {
      expect(judgeHealth(seen(), afterNoon(age)).components.database.status).toBe(ifAnswered);
      expect(judgeHealth(unseen, afterNoon(age)).components.database.status).toBe(ifNot);
    });
  });

  describe("scheduler", () => {
    const scheduler = sampleFacts().scheduler!;
    it.each<[string, HealthFacts["scheduler"], string]>([
      ["watched just within the limit", { ...scheduler, watchedAt: afterNoon(-180) }, "healthy"],
      [
        "watched just beyond the limit",
        { ...scheduler, watchedAt: afterNoon(-180.001) },
        "unknown",
      ],
      ["never watched", { ...scheduler, watchedAt: null }, "unknown"],
      ["not installed", { ...scheduler, isInstalled: false }, "unhealthy"],
      ["without a watchdog", null, "unhealthy"],
    ])("%s is %3$s", (_name, given, status) => {
      const { overall, components } = judge({ scheduler: given });
      expect([overall, components.scheduler.status]).toEqual([status, status]);
    });

    it("is unknown without any job: nothing to do is not health", () => {
      expect(judge({ jobs: [] }).overall).toBe("unknown");
    });
  });

  describe("a job", () => {
    it.each<[string, Partial<JobFacts>, string]>([
      ["succeeded just within the limit", { lastSucceededAt: afterNoon(-180) }, "healthy"],
      ["succeeded just beyond the limit", { lastSucceededAt: afterNoon(-180.001) }, "unknown"],
      ["never ran", { lastSucceededAt: null, lastRunAt: null, lastState: null }, "unknown"],
      ["never succeeded", { lastSucceededAt: null, lastState: "skipped" }, "unknown"],
      [
        "has failed its only run just now",
        { lastSucceededAt: null, lastState: "failed" },
        "unhealthy",
      ],
      ["failed last, but succeeded lately", { lastState: "failed" }, "degraded"],
      ["was lost last, but succeeded lately", { lastState: "lost" }, "degraded"],
      ["was missed last, but succeeded lately", { lastState: "missed" }, "degraded"],
      ["was skipped last, but succeeded lately", { lastState: "skipped" }, "healthy"],
      ["left work for the next run", { lastComplete: false }, "degraded"],
      ["has done all its work", { lastComplete: true }, "healthy"],
      ["does not say whether it has done all its work", { lastComplete: null }, "healthy"],
      ["fails since long", { lastState: "failed", lastSucceededAt: afterNoon(-9999) }, "unhealthy"],
      ["failed long ago", {
        lastState: "failed",
        lastSucceededAt: afterNoon(-9999),
        lastRunAt: afterNoon(-181),
      }, "unknown"],
      ["failed at the limit", {
        lastState: "failed",
        lastSucceededAt: afterNoon(-9999),
        lastRunAt: afterNoon(-180),
      }, "unhealthy"],
      ["is lost since long", { lastState: "lost", lastSucceededAt: afterNoon(-9999) }, "unknown"],
      [
        "is missed since long",
        { lastState: "missed", lastSucceededAt: afterNoon(-9999) },
        "unknown",
      ],
      ["will succeed within the tolerance", {
        lastSucceededAt: afterNoon(FUTURE_TOLERANCE_SECONDS),
      }, "healthy"],
      ["will succeed beyond the tolerance", {
        lastSucceededAt: afterNoon(FUTURE_TOLERANCE_SECONDS + 0.001),
      }, "unknown"],
    ])("that %s is %3$s", (_name, changes, status) => {
      expect(judgeJob(changes).status).toBe(status);
      expect(judge({ jobs: [sampleJobFacts(changes)] }).overall).toBe(status);
    });

    it("says why", () => {
      expect(judgeJob({ lastSucceededAt: null, lastRunAt: null, lastState: null }).reason).toBe(
        "has never run",
      );
      expect(judgeJob({ lastState: "failed", lastReason: "HTTP 401" }).reason)
        .toBe("the last run was failed: HTTP 401");
      expect(
        judgeJob({ lastState: "failed", lastReason: "HTTP 401", lastSucceededAt: afterNoon(-600) })
          .reason,
      )
        .toBe("fails: HTTP 401; stale: succeeded 600 s ago");
    });

    it.each<[string, Partial<JobFacts>, string]>([
      ["fresh", {}, "degraded"],
      ["stale", { lastSucceededAt: afterNoon(-181) }, "unknown"],
      ["that never ran", { lastSucceededAt: null, lastRunAt: null, lastState: null }, "unknown"],
    ])("that is switched off and %s is %3$s, and it is said so", (_name, changes, status) => {
      const health = judgeJob(changes, false);
      expect(health.status).toBe(status);
      expect(health.reason).toContain("jobs are switched off");
    });

    it("is never healthy without a success within its limit, whatever else there is", () => {
      const instant = fc.option(fc.integer({ min: -100_000, max: 1000 }).map(afterNoon));
      fc.assert(fc.property(
        instant,
        instant,
        fc.option(fc.constantFrom(...RUN_STATES)),
        fc.boolean(),
        (lastSucceededAt, lastRunAt, lastState, jobsEnabled) => {
          const { status } = judgeJob({ lastSucceededAt, lastRunAt, lastState }, jobsEnabled);
          const isFresh = lastSucceededAt !== null && lastSucceededAt >= afterNoon(-180);
          if (!isFresh) expect(["unknown", "unhealthy"]).toContain(status);
          if (!jobsEnabled) expect(status).not.toBe("healthy");
        },
      ));
    });
  });

  describe("metrics", () => {
    const metrics = sampleFacts().metrics;
    it.each<[string, Partial<HealthFacts["metrics"]>, string]>([
      ["no sample", { newestSampleAt: null }, "unknown"],
      ["a sample at the limit", { newestSampleAt: afterNoon(-180) }, "healthy"],
      ["a sample beyond the limit", { newestSampleAt: afterNoon(-180.001) }, "unknown"],
      ["a sample for the next minutes", { newestSampleAt: afterNoon(300) }, "healthy"],
      ["a sample far in the future", { newestSampleAt: afterNoon(300.001) }, "unknown"],
      ["a collector that fails", { failingCollectors: ["collect_a", "collect_b"] }, "degraded"],
      ["a collector that fails, and stale", {
        failingCollectors: ["a"],
        newestSampleAt: afterNoon(-999),
      }, "unknown"],
    ])("with %s are %3$s", (_name, changes, status) => {
      const { overall, components } = judge({ metrics: { ...metrics, ...changes } });
      expect([overall, components.metrics.status]).toEqual([status, status]);
    });

    it("name the collectors that fail", () => {
      const failing = { ...metrics, failingCollectors: ["collect_a", "collect_b"] };
      expect(judge({ metrics: failing }).components.metrics.reason).toBe(
        "collectors fail: collect_a, collect_b",
      );
    });

    it("that lie ahead have no negative age", () => {
      const ahead = { ...metrics, newestSampleAt: afterNoon(120) };
      expect(judge({ metrics: ahead }).components.metrics.ageSeconds).toBe(0);
    });
  });

  describe("storage", () => {
    const storage = sampleFacts().storage;
    it.each<[string, Partial<HealthFacts["storage"]>, string]>([
      ["two days ahead", { daysAhead: 2 }, "healthy"],
      ["one day ahead", { daysAhead: 1 }, "healthy"],
      ["no day ahead", { daysAhead: 0 }, "degraded"],
      [
        "retention that does not get through",
        { contendedRetention: ["system_alerts"] },
        "degraded",
      ],
      ["as many bytes as it may take", { monitorBytes: 400_000_000 }, "healthy"],
      ["a byte more than it may take", { monitorBytes: 400_000_001 }, "degraded"],
      ["no budget", { monitorBytes: 9e12, budgetBytes: null }, "healthy"],
      ["samples dropped before their time", { shed: { at: NOON, detail: "gone" } }, "degraded"],
    ])("with %s is %3$s", (_name, changes, status) => {
      const { overall, components } = judge({ storage: { ...storage, ...changes } });
      expect([overall, components.storage.status]).toEqual([status, status]);
    });

    it.each<[string, Partial<HealthFacts["storage"]>, string]>([
      ["what is over the budget", { monitorBytes: 412_600_000 }, "413 MB of a budget of 400 MB"],
      ["what was shed", {
        shed: { at: NOON, detail: "samples before 2026-03-01 were dropped" },
      }, "samples before 2026-03-01 were dropped"],
      [
        "that something was shed",
        { shed: { at: NOON, detail: null } },
        "samples were dropped before their time",
      ],
      [
        "what is over the budget before what was shed for it",
        { monitorBytes: 500_000_000, shed: { at: NOON, detail: "gone" } },
        "500 MB of a budget of 400 MB",
      ],
      [
        "retention that fails before what comes of it",
        { monitorBytes: 500_000_000, contendedRetention: ["metric_chunks"] },
        "retention does not get through: metric_chunks",
      ],
    ])("says %s", (_name, changes, reason) => {
      expect(judge({ storage: { ...storage, ...changes } }).components.storage.reason).toBe(reason);
    });
  });

  describe("rules", () => {
    const judgeRules = (failingCount: number) => {
      const firstFailure = failingCount > 0 ? { name: "QueueDeep", error: "1:3: no" } : null;
      const { overall, components } = judge({
        rules: { liveCount: 3, failingCount, firstFailure },
      });
      expect(components.rules.status).toBe(overall);
      return components.rules;
    };

    it("that all come to something are healthy", () => {
      expect(judgeRules(0)).toMatchObject({
        ...{
          status: "healthy",
          reason: "none of 3 live rules has failed for long",
          failingCount: 0,
        },
        ...{ observedAt: NOON, ageSeconds: 0 },
      });
    });

    it.each([1, 3])("of which %i fail are degraded, and say which", (failingCount) => {
      expect(judgeRules(failingCount)).toMatchObject({
        status: "degraded",
        reason: `${failingCount} of 3 live rules fail: QueueDeep: 1:3: no`,
        failingCount,
      });
    });
  });

  describe("notifications", () => {
    const facts = sampleFacts().notifications;
    type Facts = Partial<HealthFacts["notifications"]>;
    const judgeNotifications = (changes: Facts) => {
      const { overall, components } = judge({ notifications: { ...facts, ...changes } });
      expect(components.notifications.status).toBe(overall);
      return components.notifications;
    };
    const failing = (...channels: string[]) =>
      channels.map((channel) => ({ channel, reason: `${channel} is down` }));

    it("of which nothing waits are healthy, and say when that was seen", () => {
      expect(judgeNotifications({})).toEqual({
        ...{ status: "healthy", reason: "nothing that is due waits" },
        ...{ observedAt: NOON, ageSeconds: 0, overdueSeconds: null },
      });
    });

    it.each<[string, string, string, Facts]>([
      ["switched off", "degraded", "sending is switched off", { isEnabled: false }],
      ["due for as long as they may", "healthy", "nothing that", { overdueSeconds: 300 }],
      ["due for longer", "unhealthy", "a message has been due for 301 s", {
        overdueSeconds: 300.5,
      }],
      ["sent by two channels, of which one fails", "degraded", "channels fail: ops: ops is down", {
        failingChannels: failing("ops"),
      }],
      [
        "sent by two channels, which fail",
        "unhealthy",
        "no channel works: mail: mail is down; ops: ops is down",
        { failingChannels: failing("mail", "ops") },
      ],
      ["sent by one channel, which fails", "unhealthy", "no channel works: ops: ops is down", {
        channelsCount: 1,
        failingChannels: failing("ops"),
      }],
      ["sent by one channel, which works", "healthy", "nothing that", { channelsCount: 1 }],
      ["sent by no channel", "degraded", "nobody is told of alerts: there is no channel", {
        channelsCount: 0,
      }],
      ["sent by no route", "degraded", "nobody is told of alerts: there is no route", {
        routesCount: 0,
      }],
      ["of a new project", "degraded", "nobody is told of alerts: there is no channel", {
        ...{ channelsCount: 0, routesCount: 0, canary: null },
      }],
      ["given up", "degraded", "3 messages were given up within a week", { parkedCount: 3 }],
      ["given up alone", "degraded", "1 message was given up within a week", { parkedCount: 1 }],
    ])("that are %s are %s", (_name, status, reason, changes) => {
      expect(judgeNotifications(changes)).toMatchObject({
        status,
        reason: expect.stringContaining(reason),
      });
    });

    it("name five channels that fail, and count the others", () => {
      const reasonOf = (count: number) =>
        judgeNotifications({
          channelsCount: 9,
          failingChannels: failing(..."abcdefg".slice(0, count)),
        }).reason;
      expect(reasonOf(5)).toMatch(/; e: e is down$/);
      expect(reasonOf(7)).toMatch(/; e: e is down; and 2 more$/);
    });

    it("show how long a message has waited, also where that is not too long", () => {
      expect(judgeNotifications({ overdueSeconds: 12 })).toMatchObject({ overdueSeconds: 12 });
    });

    it("have waited on since the facts were read", () => {
      const at = (overdueSeconds: number, seconds: number) =>
        judgeHealth(seen({ notifications: { ...facts, overdueSeconds } }), afterNoon(seconds))
          .components.notifications;
      expect(at(290, 10)).toMatchObject({ status: "healthy", overdueSeconds: 300 });
      expect(at(290, 11)).toMatchObject({ status: "unhealthy", overdueSeconds: 301 });
    });

    // Those that come first say what is the matter, the later ones what comes of it.
    const WORST_FIRST: readonly (readonly [Facts, string])[] = [
      [{ isEnabled: false }, "sending is switched off"],
      [{ overdueSeconds: 301 }, "a message has been due"],
      [{ failingChannels: failing("ops") }, "channels fail"],
      [{ routesCount: 0 }, "there is no route"],
      [
        { canary: { wantedSince: null, firedAt: afterNoon(-301), arrivedAt: null } },
        "the daily canary",
      ],
      [{ parkedCount: 1 }, "given up"],
    ];
    it("say of several what explains the others", () => {
      for (const index of WORST_FIRST.keys()) {
        const changes = Object.assign({}, ...WORST_FIRST.slice(index).map(([change]) => change));
        expect(judgeNotifications(changes).reason).toContain(WORST_FIRST[index]![1]);
      }
    });

    it.each<[string, string, number | null, number | null, number?]>([
      // Fired, arrived and wanted since so many seconds ago.
      ["has not fired yet", "healthy", null, null],
      ["has fired for the first time", "healthy", OVERDUE_SECONDS, null],
      ["has fired, and never arrived", "degraded", OVERDUE_SECONDS + 0.001, null],
      ["arrived as long ago as it may", "healthy", CANARY_SECONDS, CANARY_SECONDS],
      ["arrived too long ago", "degraded", CANARY_SECONDS + 0.001, CANARY_SECONDS + 0.001],
      ["is on its way again", "healthy", 1, CANARY_SECONDS],
      ["did not arrive today", "healthy", OVERDUE_SECONDS + 1, CANARY_SECONDS],
      ["did not arrive, today or in time", "degraded", 1, CANARY_SECONDS + 0.001],
      ["may still fire for the first time", "healthy", null, null, CANARY_SECONDS],
      ["should have fired", "degraded", null, null, CANARY_SECONDS + 0.001],
      ["is wanted again", "healthy", CANARY_SECONDS * 9, CANARY_SECONDS * 9, CANARY_SECONDS],
      ["arrived at last", "healthy", 1, 1, CANARY_SECONDS + 1],
    ])("with a canary that %s are %s", (_name, status, fired, arrived, wanted) => {
      const ago = (seconds: number | null = null) => seconds === null ? null : afterNoon(-seconds);
      const canary = { wantedSince: ago(wanted), firedAt: ago(fired), arrivedAt: ago(arrived) };
      expect(judgeNotifications({ canary })).toMatchObject({
        status,
        reason: status === "healthy" ? expect.any(String) : "the daily canary has not arrived",
      });
    });

    it("take a canary for lost five minutes after the first one, and 26 hours after the last", () => {
      expect([OVERDUE_SECONDS, CANARY_SECONDS]).toEqual([300, 26 * 3600]);
    });

    it("lose a canary while the facts grow old", () => {
      const canary = { wantedSince: null, firedAt: afterNoon(-298), arrivedAt: null };
      const status = (seconds: number) =>
        judgeHealth(seen({ notifications: { ...facts, canary } }), afterNoon(seconds)).components
          .notifications.status;
      expect([status(2), status(2.001)]).toEqual(["healthy", "degraded"]);
    });
  });

  describe("time", () => {
    it("goes on after the facts were read: what was fresh becomes stale", () => {
      const jobs = [sampleJobFacts({ lastSucceededAt: afterNoon(-176) })];
      expect(judgeHealth(seen({ jobs }), afterNoon(4)).overall).toBe("healthy");
      expect(judgeHealth(seen({ jobs }), afterNoon(4.5)).overall).toBe("unknown");
      expect(judgeHealth(seen({ jobs }), afterNoon(4)).ageSeconds).toBe(4);
    });

    it("is the database's: our clock may be wrong by hours", () => {
      for (const observedAt of [afterNoon(7200), afterNoon(-7200)]) {
        expect(judgeHealth(seen({}, { observedAt }), observedAt).overall).toBe("healthy");
      }
    });

    it("does not run backwards when our clock is set back", () => {
      expect(judgeHealth(seen(), afterNoon(-60))).toMatchObject({
        overall: "healthy",
        ageSeconds: 0,
      });
    });
  });
});
