import fc from "fast-check";
import { describe, expect } from "vitest";
import { it, type Query } from "./database.ts";
import { DAY, HOUR, iso, MINUTE, range } from "./seeds.ts";

async function readTicks(
  query: Query,
  schedule: string,
  after: number,
  until: number,
): Promise<number[]> {
  const { rows } = await query<{ at: string }>(
    "select monitor.epoch_ms(tick) as at from monitor.cron_ticks($1, $2, $3) as tick",
    [schedule, iso(after), iso(until)],
  );
  return rows.map(({ at }) => Number(at));
}

/** Whether one field of a schedule names `value`, read from the manual of cron and nothing else. */
function names(field: string, value: number, low: number, high: number): boolean {
  return field.split(",").some((part) => {
    const [span, step = "1"] = part.split("/");
    const [from, to = from] = span === "*" ? [low, high] : span!.split("-").map(Number);
    return value >= from! && value <= to! && (value - from!) % Number(step) === 0;
  });
}

/** The minutes at which a schedule fires, judged one by one. */
function expectedTicks(schedule: string, after: number, until: number): number[] {
  const [minute, hour, day, month, weekday] = schedule.split(" ") as [
    string,
    string,
    string,
    string,
    string,
  ];
  const first = Math.floor(after / MINUTE) * MINUTE + MINUTE;
  return range(Math.max(0, Math.floor((until - first) / MINUTE) + 1))
    .map((n) => first + n * MINUTE)
    .filter((tick) => {
      const at = new Date(tick);
      const isDay = names(day, at.getUTCDate(), 1, 31);
      const isWeekday = [at.getUTCDay(), at.getUTCDay() || 7].some((n) => names(weekday, n, 0, 7));
      const isOpen = day.startsWith("*") || weekday.startsWith("*");
      return names(minute, at.getUTCMinutes(), 0, 59) && names(hour, at.getUTCHours(), 0, 23) &&
        names(month, at.getUTCMonth() + 1, 1, 12) &&
        (isOpen ? isDay && isWeekday : isDay || isWeekday);
    });
}

/** Fields as people write them: *, a number, ranges, steps and lists of these. */
function field(low: number, high: number) {
  const number = fc.integer({ min: low, max: high });
  const span = fc.tuple(number, number).map(([a, b]) => `${Math.min(a, b)}-${Math.max(a, b)}`);
  const step = fc.integer({ min: 1, max: high });
  const part = fc.oneof(
    { weight: 3, arbitrary: fc.constant("*") },
    number.map(String),
    span,
    fc.tuple(fc.oneof(fc.constant("*"), span), step).map(([of, by]) => `${of}/${by}`),
  );
  return fc.oneof(
    { weight: 3, arbitrary: part },
    fc.array(part, { minLength: 2, maxLength: 3 }).map((parts) => parts.join(",")),
  );
}

const anySchedule = fc.tuple(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7))
  .map((fields) => fields.join(" "));

describe("monitor.cron_ticks()", () => {
  it("fires when cron does, for any schedule", async ({ query }) => {
    const start = fc.integer({ min: Date.UTC(2024, 0, 1), max: Date.UTC(2028, 11, 31) });
    await fc.assert(
      fc.asyncProperty(
        anySchedule,
        start,
        fc.integer({ min: 0, max: 5 * DAY }),
        async (schedule, after, length) => {
          expect(await readTicks(query, schedule, after, after + length)).toEqual(
            expectedTicks(schedule, after, after + length),
          );
        },
      ),
      { numRuns: 60 },
    );
  });

  it.for(
    [
      ["* * * * *", "2026-03-10T12:00:00Z", "2026-03-10T12:02:00Z", [
        "2026-03-10T12:01:00Z",
        "2026-03-10T12:02:00Z",
      ]],
      ["* * * * *", "2026-03-10T12:00:30Z", "2026-03-10T12:01:59Z", ["2026-03-10T12:01:00Z"]],
      ["* * * * *", "2026-03-10T12:00:00Z", "2026-03-10T12:00:59Z", []],
      ["*/5 * * * *", "2026-03-10T11:59:59Z", "2026-03-10T12:09:59Z", [
        "2026-03-10T12:00:00Z",
        "2026-03-10T12:05:00Z",
      ]],
      ["0 3 * * *", "2026-03-10T02:59:00Z", "2026-03-11T03:00:00Z", [
        "2026-03-10T03:00:00Z",
        "2026-03-11T03:00:00Z",
      ]],
      ["0 3 * * *", "2026-03-10T03:00:00Z", "2026-03-11T02:59:59Z", []],
      // 10 March is a Tuesday, 2; the 12th a Thursday
      ["0 0 12 * 2", "2026-03-09T00:00:00Z", "2026-03-16T00:00:00Z", [
        "2026-03-10T00:00:00Z",
        "2026-03-12T00:00:00Z",
      ]],
      ["0 0 */3 * 2", "2026-03-09T00:00:00Z", "2026-03-16T00:00:00Z", ["2026-03-10T00:00:00Z"]],
      ["0 0 12 * */2", "2026-03-09T00:00:00Z", "2026-03-16T00:00:00Z", ["2026-03-12T00:00:00Z"]],
      ["0 0 * * 0", "2026-03-09T00:00:00Z", "2026-03-20T00:00:00Z", ["2026-03-15T00:00:00Z"]],
      ["0 0 * * 7", "2026-03-09T00:00:00Z", "2026-03-20T00:00:00Z", ["2026-03-15T00:00:00Z"]],
      ["0 0 * * 6-7", "2026-03-09T00:00:00Z", "2026-03-16T00:00:00Z", [
        "2026-03-14T00:00:00Z",
        "2026-03-15T00:00:00Z",
      ]],
      ["0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-12-31T00:00:00Z", ["2028-02-29T00:00:00Z"]],
      ["0 0 31 4 *", "2026-01-01T00:00:00Z", "2026-12-31T00:00:00Z", []],
      ["*/59 0 10 3 *", "2026-03-01T00:00:00Z", "2026-03-31T00:00:00Z", [
        "2026-03-10T00:00:00Z",
        "2026-03-10T00:59:00Z",
      ]],
    ] as const,
  )("%s after %s until %s", async ([schedule, after, until, ticks], { query }) => {
    expect(await readTicks(query, schedule, Date.parse(after), Date.parse(until))).toEqual(
      ticks.map((tick) => Date.parse(tick)),
    );
  });

  it.for(["America/New_York", "Asia/Kathmandu"])(
    "is in UTC whatever the session's time zone: %s",
    async (zone, { query }) => {
      await query(`set local timezone to '${zone}'`);
      const clocksChange = Date.UTC(2026, 2, 8); // in New York
      expect(await readTicks(query, "30 2 * * *", clocksChange, clocksChange + DAY)).toEqual([
        clocksChange + 2.5 * HOUR,
      ]);
    },
  );

  it.for([
    "",
    "*",
    "* * * *",
    "* * * * * *",
    "60 * * * *",
    "* 24 * * *",
    "* * 0 * *",
    "* * 32 * *",
    "* * * 0 *",
    "* * * 13 *",
    "* * * * 8",
    "-1 * * * *",
    "5-3 * * * *",
    "*/0 * * * *",
    "5/10 * * * *",
    "1,,2 * * * *",
    ",1 * * * *",
    "1, * * * *",
    "a * * * *",
    "1.5 * * * *",
    "*-5 * * * *",
    "**",
    "* * * * MON",
    "@hourly",
    "30 seconds",
    "100 * * * *",
    "1-2-3 * * * *",
    "* * * * *; drop table monitor.job_runs",
    "٣ * * * *",
  ])("refuses %o", async (schedule, { query }) => {
    await expect(readTicks(query, schedule, 0, 0)).rejects.toMatchObject({
      code: "22023",
      hint: expect.stringContaining("*/5"),
    });
    expect((await query("select monitor.is_cron_schedule($1) as is", [schedule])).rows).toEqual([{
      is: false,
    }]);
  });

  it("refuses no schedule at all", async ({ query }) => {
    await expect(query("select monitor.cron_ticks(null, now(), now())")).rejects.toMatchObject({
      code: "22023",
    });
    expect((await query("select monitor.is_cron_schedule(null) as is")).rows).toEqual([{
      is: false,
    }]);
  });

  it("takes nothing that pg_cron refuses", async ({ asOwner }) => {
    await fc.assert(
      fc.asyncProperty(anySchedule, async (schedule) => {
        await asOwner("select cron.schedule('a test', $1, 'select 1')", [schedule]);
      }),
      { numRuns: 30 },
    );
  });
});
