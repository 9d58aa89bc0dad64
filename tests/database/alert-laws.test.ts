import fc from "fast-check";
import { describe, expect } from "vitest";
import { advance, flush, readMessages, setFiring, setUpRoute, setUpRule } from "./alerting.ts";
import { it, queryOf, rpc } from "./database.ts";
import { HOUR, iso, MINUTE, NOON, range, SECOND } from "./seeds.ts";

const QUEUES = ["a", "b", "c"] as const;

/** What happens in one minute. */
const Step = fc.record({
  firing: fc.subarray([...QUEUES]),
  pending: fc.subarray([...QUEUES]),
  /** The transaction of the evaluation is lost: its evaluator died before the end. */
  dies: fc.boolean(),
  /** Somebody else evaluates the same minute once more. */
  again: fc.boolean(),
  silenced: fc.constantFrom(...QUEUES, null, null, null),
  acknowledged: fc.constantFrom(...QUEUES, null, null, null),
  /** Seconds after the minute at which a deliverer looks. */
  flushedAfter: fc.constantFrom(10, 35, null),
  /** The clock jumps: minutes. */
  jump: fc.constantFrom(0, 0, 0, 0, 7, 90, -3),
});

describe("whatever happens to alerts", () => {
  it(
    "each channel hears of a start before its end, of no start twice in a row, and of every end",
    async ({ ownDatabase }) => {
      const query = queryOf(await ownDatabase.connect());
      const rule = await setUpRule(query);
      await setUpRoute(query, {
        p_group_by: ["queue"],
        p_group_wait_seconds: 30,
        p_group_interval_seconds: 60,
        p_repeat_interval_seconds: 2_592_000,
      });

      // Nobody has to be called to send: somebody does all the time.
      await query(
        "update monitor.job_schedules set lease_run_id = gen_random_uuid(), lease_until = $1 where job = 'deliver-notifications'",
        [iso(NOON + 1000 * HOUR)],
      );

      await fc.assert(
        fc.asyncProperty(fc.array(Step, { minLength: 3, maxLength: 14 }), async (steps) => {
          for (const table of ["notifications", "alert_groups", "system_alerts", "silences"]) {
            await query(`delete from monitor.${table}`);
          }
          await query(
            "update monitor.alerting_state set advanced_at = null, evaluation_count = 0, gap_began_at = null, gap_ended_at = null",
          );
          let at = NOON;
          for (const step of steps) {
            at += MINUTE + step.jump * MINUTE;
            const { firing, pending } = step;
            await setFiring(
              query,
              rule,
              QUEUES.filter((queue) => firing.includes(queue) || pending.includes(queue)).map((
                queue,
              ) => ({
                labels: { queue },
                state: firing.includes(queue) ? "firing" as const : "pending" as const,
              })),
              at,
            );
            if (step.dies) {
              await query("begin");
              await advance(query, at);
              await query("rollback");
              continue;
            }
            await advance(query, at);
            if (step.again) await advance(query, at);
            if (step.silenced) {
              await rpc(query, "silence_alerts", {
                p_matchers: [{ name: "queue", op: "=", value: step.silenced }],
                p_ends_at: iso(at + 3 * MINUTE),
                p_reason: "x",
                p_now: iso(at),
              });
            }
            await query(
              `select monitor.acknowledge_alert(alert_id, 'x', 2, $2) from monitor.system_alerts
             where labels ->> 'queue' = $1 and state = 'firing'`,
              [step.acknowledged, iso(at)],
            );
            if (step.flushedAfter !== null) await flush(query, at + step.flushedAfter * SECOND);
          }
          // All end, and there is time for it to be told.
          for (const n of range(10)) {
            at += 9 * MINUTE;
            await setFiring(query, rule, [], at);
            await advance(query, at + n * SECOND);
          }

          const messages = await readMessages(query);
          for (const queue of QUEUES) {
            const story = messages.flatMap(({ firing, resolved, notes }) => [
              // The end of one and the start of the next may come in one message.
              ...(resolved.includes(queue) ? ["end"] : []),
              ...(firing.includes(queue) ? [notes.length > 0 ? "again" : "start"] : []),
            ]);
            // A start is told again only for a reason that it gives.
            expect(story.join(" ")).toMatch(/^((start|again)( again)* end ?)*$/);
          }
          expect((await query("select from monitor.system_alerts where resolved_at is null")).rows)
            .toEqual([]);
          expect((await query("select from monitor.alert_groups")).rows).toEqual([]);
          const { rows: open } = await query(
            "select alert_id from monitor.notification_decisions where held_until is null",
          );
          expect(open).toEqual([]);
          const { rows: overlapping } = await query(
            `select from monitor.notification_decisions as a join monitor.notification_decisions as b
             on a.alert_id = b.alert_id and a.decision_id < b.decision_id and a.held_until > b.held_since`,
          );
          expect(overlapping).toEqual([]);
        }),
        { numRuns: 25 },
      );
    },
    120_000,
  );
});
