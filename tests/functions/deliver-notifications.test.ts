import { setImmediate } from "node:timers";
import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { renderSlack } from "../../shared/alerting/messages/render-slack.ts";
import {
  CHANNEL_KINDS,
  type ChannelKind,
  type DeliveryResult,
  type LeasedNotification,
  type LeasedNotifications,
} from "../../shared/contract/notifications.ts";
import { OutgoingError, type OutgoingRequest } from "../../supabase/functions/_shared/outgoing.ts";
import {
  type DeliverDeps,
  deliverNotifications,
  PARALLEL_LIMIT,
  SENDING_SECONDS,
  WATCH_SECONDS,
  watchOutbox,
} from "../../supabase/functions/deliver-notifications/handler.ts";
import { afterNoon, Clock, NOON, RUN_ID } from "../fixtures.ts";
import {
  answerOf,
  leasedOf,
  messageOf,
  refusalOf,
  retryOf,
  SENT,
  SURROUNDINGS,
} from "./notifications.ts";

/** A promise and what settles it. */
function deferred<T = void>() {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((settle) => void (resolve = settle));
  return { promise, resolve };
}

/** Lets everything go on that waits for nothing but promises that are settled. */
const settle = () => new Promise<void>((resolve) => void setImmediate(resolve));

const RUN = { id: RUN_ID, scheduledAt: NOON, startedAt: NOON };
const LANES = ["email", "slack", "pagerduty"] as const;
type Lane = typeof LANES[number];
const laneOf = (kinds: readonly ChannelKind[]) => LANES.find((kind) => kinds.includes(kind))!;

interface Plan {
  /** The leases of each lane, one after another; none after the last. */
  leases?: Partial<Record<Lane, readonly (readonly LeasedNotification[])[]>>;
  /** How long each request takes. */
  takes?: (id: number) => Promise<unknown>;
  clock?: Clock;
  changes?: Partial<DeliverDeps>;
}

/** An outbox in memory, and what was done to it in order. */
function sampleOutbox(
  { leases = {}, takes = () => Promise.resolve(), clock = new Clock(), changes = {} }: Plan = {},
) {
  const log: string[] = [];
  const left = Object.fromEntries(LANES.map((lane) => [lane, [...leases[lane] ?? []]]));
  const work = async (id: number) => {
    log.push(`send ${id}`);
    await takes(id);
  };
  const deps: DeliverDeps = {
    now: clock.now,
    random: () => 0,
    sleep: (milliseconds) => {
      clock.advance(milliseconds / 1000);
      return Promise.resolve();
    },
    flushAlerts: () => {
      log.push("flush");
      return Promise.resolve(4);
    },
    leaseNotifications: (kinds) => {
      const notifications = [...left[laneOf(kinds)]!.shift() ?? []];
      log.push(`lease ${laneOf(kinds)}: ${notifications.map(({ notification_id: id }) => id)}`);
      return Promise.resolve({
        ...{ notifications, now: clock.now().toISOString() },
        ...{ time_zone: "UTC", external_url: null },
      });
    },
    // The id of a message is in its address, or in what there is to say to a mailbox.
    sendOutgoing: async ({ url }) => {
      await work(Number(new URL(url).searchParams.get("id")));
      return answerOf(200);
    },
    send: async (_mail, [recipient]) => {
      await work(Number(/\d+/.exec(recipient!)![0]));
      return { kind: "accepted", id: `mail to ${recipient}` };
    },
    recordDeliveries: (results) => {
      log.push(`record ${results.map(({ notification_id: id, outcome }) => `${id} ${outcome}`)}`);
      return Promise.resolve({ sent: results.length, retried: 0, parked: 0, stale: 0 });
    },
    wakeDeliverer: () => Promise.resolve({ invoked: false, wait_seconds: null }),
    ...changes,
  };
  return { deps, clock, log };
}

const messageTo = (kind: ChannelKind, id: number, changes: Partial<LeasedNotification> = {}) =>
  leasedOf(kind, {
    notification_id: id,
    lease_token: `${id}`.padStart(8, "0") + RUN_ID.slice(8),
    ...(kind === "email" && { config: { to: [`ops${id}@example.com`] } }),
    ...(kind === "slack" && { secret: `https://hooks.slack.com/services?id=${id}` }),
    ...(kind === "pagerduty" && { config: { url: `https://events.example.com/?id=${id}` } }),
    ...(kind === "webhook" && { config: { url: `https://hooks.example.com/?id=${id}` } }),
    ...(kind === "heartbeat" && { secret: `https://ping.example.com/?id=${id}` }),
    ...changes,
  });

describe("deliverNotifications()", () => {
  it("tells what is due, sends until nothing is left, and says how many", async () => {
    const { deps, log } = sampleOutbox({
      leases: {
        email: [[messageTo("email", 1)], [messageTo("email", 2)]],
        slack: [[messageTo("slack", 3)]],
        pagerduty: [
          [messageTo("pagerduty", 4), messageTo("webhook", 5), messageTo("heartbeat", 6)],
        ],
      },
    });
    expect(await deliverNotifications(RUN, deps)).toEqual({
      kind: "succeeded",
      result: { told: 4, sent: 6, retried: 0, parked: 0, stale: 0, complete: true },
    });
    expect(log[0]).toBe("flush"); // what it writes is sent by this very run
    expect(log.filter((line) => line.startsWith("lease"))).toEqual(
      expect.arrayContaining([
        "lease email: 1",
        "lease email: ",
        "lease slack: ",
        "lease pagerduty: ",
      ]),
    );
    expect(log.filter((line) => line.startsWith("record")).toSorted()).toEqual(
      ["record 1 sent", "record 2 sent", "record 3 sent", "record 4 sent,5 sent,6 sent"],
    );
  });

  it("asks for each kind of channel in one of its lanes", async () => {
    const leaseNotifications = vi.fn((_kinds: readonly ChannelKind[]) =>
      Promise.resolve<LeasedNotifications>({
        ...{ notifications: [], now: NOON.toISOString() },
        ...{ time_zone: "UTC", external_url: null },
      })
    );
    const { deps } = sampleOutbox({ changes: { leaseNotifications } });
    await deliverNotifications(RUN, deps);
    const asked = leaseNotifications.mock.calls.map(([kinds]) => kinds);
    expect(asked.flat().toSorted()).toEqual([...CHANNEL_KINDS].toSorted());
    expect(asked).toContainEqual(["email"]);
    expect(asked).toContainEqual(["slack"]);
  });

  it("adds up what is recorded, of all leases of all lanes", async () => {
    let n = 0;
    const recordDeliveries = () => {
      n += 1;
      return Promise.resolve({ sent: n, retried: 10 * n, parked: 100 * n, stale: 1000 * n });
    };
    const leases = {
      email: [[messageTo("email", 1)], [messageTo("email", 2)]],
      slack: [[messageTo("slack", 3)]],
      pagerduty: [[messageTo("webhook", 4), messageTo("webhook", 5)]],
    };
    const { deps } = sampleOutbox({ leases, changes: { recordDeliveries } });
    expect((await deliverNotifications(RUN, deps)).result).toEqual({
      ...{ told: 4, sent: 10, retried: 100, parked: 1000, stale: 10_000, complete: true },
    });
  });

  it("records each result with the lease that it is of", async () => {
    const recorded: DeliveryResult[] = [];
    const leases = {
      email: [[messageTo("email", 1)]],
      slack: [[messageTo("slack", 2)]],
      pagerduty: [[messageTo("webhook", 3, { config: {} }), messageTo("pagerduty", 4)]],
    };
    const { deps } = sampleOutbox({
      leases,
      takes: (id) =>
        id === 2
          ? Promise.reject(new OutgoingError("timed_out", "no answer", { mayHaveArrived: true }))
          : Promise.resolve(),
      changes: {
        recordDeliveries: (results) => {
          recorded.push(...results);
          return Promise.resolve({ sent: 0, retried: 0, parked: 0, stale: 0 });
        },
      },
    });
    await deliverNotifications(RUN, deps);
    const tokenOf = (id: number) => `${id}`.padStart(8, "0") + RUN_ID.slice(8);
    const withLease = (id: number, outcome: object) => ({
      ...{ notification_id: id, lease_token: tokenOf(id), ...outcome },
    });
    expect(recorded.toSorted((a, b) => a.notification_id - b.notification_id)).toEqual([
      withLease(1, { outcome: "sent", provider_id: "mail to ops1@example.com" }),
      withLease(2, retryOf("no answer", { may_have_arrived: true })),
      withLease(3, refusalOf(expect.stringContaining("url"))),
      withLease(4, SENT),
    ]);
  });

  it("shows messages with the time zone and the address of their lease", async () => {
    const sent: OutgoingRequest[] = [];
    const leased = messageTo("slack", 1);
    const answers = [[leased], []];
    const { deps } = sampleOutbox({
      changes: {
        leaseNotifications: (kinds) =>
          Promise.resolve({
            notifications: kinds.includes("slack") ? answers.shift()! : [],
            now: NOON.toISOString(),
            time_zone: SURROUNDINGS.timeZone,
            external_url: SURROUNDINGS.externalUrl,
          }),
        sendOutgoing: (request) => {
          sent.push(request);
          return Promise.resolve(answerOf(200));
        },
      },
    });
    await deliverNotifications(RUN, deps);
    expect(sent.map(({ body }) => body)).toEqual([JSON.stringify(renderSlack(messageOf(leased)))]);
  });

  it.each(LANES)("a channel of kind %s that hangs keeps no other kind waiting", async (hanging) => {
    const { promise, resolve } = deferred();
    const leases = {
      email: [[messageTo("email", 1)], [messageTo("email", 2)]],
      slack: [[messageTo("slack", 3)], [messageTo("slack", 4)]],
      pagerduty: [[messageTo("pagerduty", 5)], [messageTo("pagerduty", 6)]],
    };
    const { deps, log } = sampleOutbox({
      leases,
      takes: (id) => [1, 3, 5][LANES.indexOf(hanging)] === id ? promise : Promise.resolve(),
    });
    const delivering = deliverNotifications(RUN, deps);
    await settle();
    const ids = LANES.filter((lane) => lane !== hanging)
      .flatMap((lane) => leases[lane].flat().map(({ notification_id: id }) => id));
    const recordedIds = () =>
      log.flatMap((line) => /^record (\d+)/.exec(line)?.slice(1).map(Number) ?? []).toSorted();
    expect(recordedIds()).toEqual(ids);

    resolve();
    expect((await delivering).result).toMatchObject({ sent: 6 });
    expect(recordedIds()).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it("a webhook that hangs keeps none of the other kind's in the same lease from being sent", async () => {
    const { promise, resolve } = deferred();
    const messages = [
      messageTo("webhook", 1),
      messageTo("pagerduty", 2),
      messageTo("heartbeat", 3),
    ];
    const { deps, log } = sampleOutbox({
      leases: { pagerduty: [messages] },
      takes: (id) => id === 1 ? promise : Promise.resolve(),
    });
    const delivering = deliverNotifications(RUN, deps);
    await settle();
    expect(log).toEqual(expect.arrayContaining(["send 1", "send 2", "send 3"]));
    expect(log.filter((line) => line.startsWith("record"))).toEqual([]);
    resolve();
    await delivering;
    expect(log.filter((line) => line.startsWith("record"))).toEqual([
      "record 1 sent,2 sent,3 sent",
    ]);
  });

  it.each(["email", "slack"] as const)(
    "records each message to %s before it sends the next",
    async (kind) => {
      const messages = [1, 2, 3].map((id) => [messageTo(kind, id)]);
      const recordings = [1, 2, 3].map(() => deferred());
      let recordedCount = 0;
      const { deps, log } = sampleOutbox({
        leases: { [kind]: messages },
        changes: {
          recordDeliveries: async (results) => {
            log.push(`record ${results[0]!.notification_id}`);
            await recordings[recordedCount++]!.promise;
            return { sent: 1, retried: 0, parked: 0, stale: 0 };
          },
        },
      });
      const delivering = deliverNotifications(RUN, deps);
      const done = () => log.filter((line) => /^(send|record)/.test(line));
      const expected: string[] = [];
      for (const id of [1, 2, 3]) {
        await settle();
        expected.push(`send ${id}`, `record ${id}`);
        expect(done()).toEqual(expected);
        recordings[id - 1]!.resolve();
      }
      expect((await delivering).result).toMatchObject({ sent: 3 });
    },
  );

  it.each([0, -3600, 3600])(
    "sends mails at their times, by a clock of the database that is %i s from ours",
    async (offset) => {
      const clock = new Clock();
      const at = (seconds: number) => afterNoon(offset + seconds).toISOString();
      const lease = (now: number, time: number) => ({
        ...{ now: at(now), time_zone: "UTC", external_url: null },
        notifications: [messageTo("email", 1, { send_at: at(time) })],
      });
      // The second has to wait, the third need not.
      const leases = [lease(0, 0), lease(0.2, 0.5), lease(1.4, 1), lease(1.5, 1.5)];
      const sentAt: number[] = [];
      const { deps } = sampleOutbox({
        clock,
        changes: {
          leaseNotifications: (kinds) =>
            Promise.resolve(
              (kinds.includes("email") ? leases.shift() : undefined) ??
                { ...lease(9, 9), notifications: [] },
            ),
          send: () => {
            sentAt.push((clock.now().getTime() - NOON.getTime()) / 1000);
            clock.advance(0.2);
            return Promise.resolve({ kind: "accepted", id: "mail" });
          },
        },
      });
      await deliverNotifications(RUN, deps);
      expect(sentAt).toEqual([0, 0.5, 0.7, 0.9]);
    },
  );

  it("does not exceed two mails a second, however long each takes", async () => {
    const durations = fc.array(fc.integer({ min: 0, max: 1500 }), { maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(durations, async (milliseconds) => {
        const clock = new Clock();
        const sentAt: number[] = [];
        let slot = -Infinity;
        const { deps } = sampleOutbox({
          clock,
          changes: {
            // As the database does: a mail each half second.
            leaseNotifications: (kinds) => {
              const now = clock.now();
              const isLeased = kinds.includes("email") && sentAt.length < milliseconds.length;
              if (isLeased) slot = Math.max(slot + 500, now.getTime());
              const send_at = new Date(slot === -Infinity ? 0 : slot).toISOString();
              return Promise.resolve({
                ...{ now: now.toISOString(), time_zone: "UTC", external_url: null },
                notifications: isLeased ? [messageTo("email", 1, { send_at })] : [],
              });
            },
            send: () => {
              clock.advance(milliseconds[sentAt.push(clock.now().getTime()) - 1]! / 1000);
              return Promise.resolve({ kind: "accepted", id: "mail" });
            },
          },
        });
        await deliverNotifications(RUN, deps);
        for (const [n, at] of sentAt.entries()) {
          if (n > 0) expect(at - sentAt[n - 1]!).toBeGreaterThanOrEqual(500);
          expect(at).toBeLessThan(NOON.getTime() + SENDING_SECONDS * 1000 + 500);
        }
      }),
      { numRuns: 30 },
    );
  });

  it.each([
    [SENDING_SECONDS - 0.001, 2, true],
    [SENDING_SECONDS, 1, false],
  ])("after %d s of sending it has taken %i leases", async (seconds, count, goesOn) => {
    for (const kind of LANES) {
      const clock = new Clock();
      const { deps, log } = sampleOutbox({
        clock,
        leases: { [kind]: [[messageTo(kind, 1)], [messageTo(kind, 2)], [messageTo(kind, 3)]] },
        takes: (id) => {
          clock.advance(id === 1 ? seconds : 1);
          return Promise.resolve();
        },
      });
      const { result } = await deliverNotifications(RUN, deps);
      expect(log.filter((line) => line.startsWith("send"))).toHaveLength(count);
      expect(result).toMatchObject({ sent: count, complete: false });
      expect(log.includes(`lease ${kind}: 2`)).toBe(goesOn);
    }
  });

  it("counts the time from the start of the run, before anything was asked of the database", async () => {
    const { deps, log } = sampleOutbox({
      clock: new Clock(afterNoon(SENDING_SECONDS)),
      leases: { email: [[messageTo("email", 1)]] },
    });
    expect((await deliverNotifications(RUN, deps)).result).toMatchObject({ complete: false });
    expect(log).toEqual(["flush"]);
  });

  it("has all messages of a lease under way at once, and asks for no more than so many", async () => {
    expect(PARALLEL_LIMIT).toBe(20);
    const messages = Array.from({ length: PARALLEL_LIMIT }, (_, id) => messageTo("webhook", id));
    const { promise, resolve } = deferred();
    const limits = new Set<number>();
    const { deps, log } = sampleOutbox({
      leases: { pagerduty: [messages] },
      takes: () => promise,
    });
    const { leaseNotifications } = deps;
    deps.leaseNotifications = (kinds, limit) => {
      limits.add(limit);
      return leaseNotifications(kinds, limit);
    };
    const delivering = deliverNotifications(RUN, deps);
    await settle();
    expect(log.filter((line) => line.startsWith("send"))).toHaveLength(PARALLEL_LIMIT);
    resolve();
    expect((await delivering).result).toMatchObject({ sent: PARALLEL_LIMIT });
    expect(limits).toEqual(new Set([PARALLEL_LIMIT]));
  });

  it.each(LANES)(
    "fails where what %s was sent cannot be recorded, once all other kinds are done",
    async (kind) => {
      const failure = new Error("connection lost");
      const { promise, resolve } = deferred();
      const leases = {
        email: [[messageTo("email", 1)], [messageTo("email", 2)]],
        slack: [[messageTo("slack", 3)], [messageTo("slack", 4)]],
        pagerduty: [[messageTo("pagerduty", 5)], [messageTo("pagerduty", 6)]],
      };
      const failing = leases[kind][0]![0]!.notification_id;
      const { deps, log } = sampleOutbox({
        leases,
        takes: (id) => id === failing ? Promise.resolve() : promise,
      });
      const { recordDeliveries } = deps;
      deps.recordDeliveries = (results) =>
        results[0]!.notification_id === failing
          ? Promise.reject(failure)
          : recordDeliveries(results);

      let isOver = false;
      const delivering = deliverNotifications(RUN, deps).finally(() => void (isOver = true));
      delivering.catch(() => {});
      await settle();
      expect(isOver).toBe(false); // the others are under way
      resolve();
      await expect(delivering).rejects.toBe(failure);
      const others = [1, 2, 3, 4, 5, 6].filter((id) => id !== failing && id !== failing + 1);
      expect(log.filter((line) => line.startsWith("record")).toSorted())
        .toEqual(others.map((id) => `record ${id} sent`));
      expect(log).not.toContain(`send ${failing + 1}`);
    },
  );

  it("fails where there is no lease to be had, once all other kinds are done", async () => {
    const failure = new Error("statement timeout");
    const { deps, log } = sampleOutbox({ leases: { slack: [[messageTo("slack", 1)]] } });
    const { leaseNotifications } = deps;
    deps.leaseNotifications = (kinds, limit) =>
      kinds.includes("email") ? Promise.reject(failure) : leaseNotifications(kinds, limit);
    await expect(deliverNotifications(RUN, deps)).rejects.toBe(failure);
    expect(log).toContain("record 1 sent");
  });

  it("sends what is in the outbox even if no more can be written to it, and fails then", async () => {
    const failure = new Error("lock timeout");
    const { deps, log } = sampleOutbox({
      leases: { email: [[messageTo("email", 1)]] },
      changes: { flushAlerts: () => Promise.reject(failure) },
    });
    await expect(deliverNotifications(RUN, deps)).rejects.toBe(failure);
    expect(log).toContain("record 1 sent");
  });
});

describe("watchOutbox()", () => {
  /** What the database answers one after another, and when it was asked and how long was slept. */
  function sampleWatch(waits: readonly (number | null)[], overslept = 0) {
    const clock = new Clock();
    const askedAt: number[] = [];
    const slept: number[] = [];
    const left = [...waits];
    const watching = watchOutbox({
      now: clock.now,
      sleep: (milliseconds) => {
        slept.push(milliseconds / 1000);
        clock.advance(milliseconds / 1000 + overslept);
        return Promise.resolve();
      },
      wakeDeliverer: () => {
        askedAt.push((clock.now().getTime() - NOON.getTime()) / 1000);
        if (left.length === 0) throw new Error("it does not end");
        const wait_seconds = left.shift()!;
        return Promise.resolve({ invoked: wait_seconds === null, wait_seconds });
      },
    });
    return { watching, askedAt, slept };
  }

  it.each([
    ["nothing is due within a minute, or the job is called", [null], [0], []],
    ["something is due in 7 s", [7, null], [0, 7], [7]],
    ["something new is due each time", [10, 0.5, 20, null], [0, 10, 10.5, 30.5], [10, 0.5, 20]],
    ["it is due in a minute", [60, null], [0, 60], [60]],
    ["it is due later", [60.001], [0], []],
    ["the minute is over", [30, 30, 0.001], [0, 30, 60], [30, 30]],
    ["what comes next is due when it is over", [30, 31], [0, 30], [30]],
  ])("waits as long as it has to where %s", async (_, waits, askedAt, slept) => {
    const watch = sampleWatch(waits);
    await watch.watching;
    expect(watch).toMatchObject({ askedAt, slept });
  });

  it("ends after a minute even if it oversleeps, or what is due is always just ahead", async () => {
    expect(WATCH_SECONDS).toBe(60);
    const late = sampleWatch([50, 1], 30);
    await late.watching;
    expect(late.askedAt).toEqual([0, 80]);
    const eager = sampleWatch(Array(601).fill(0.1));
    await eager.watching;
    expect(eager.askedAt).toHaveLength(601);
  });

  it("fails as the database does", async () => {
    const failure = new Error("connection lost");
    await expect(
      watchOutbox({
        now: () => NOON,
        sleep: () => Promise.resolve(),
        wakeDeliverer: () => Promise.reject(failure),
      }),
    ).rejects.toBe(failure);
  });
});
