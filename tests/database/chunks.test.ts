import fc from "fast-check";
import { describe, expect } from "vitest";
import { it, type Query, queryOf, rpc } from "./database.ts";
import { DAY, floats, iso, NOON, range } from "./seeds.ts";

interface Encoded {
  scale: number | null;
  is_delta: boolean | null;
  planes: number;
  is_same: boolean;
  length: number;
}

const ENCODED = `
  select encoded.scale, encoded.is_delta,
    num_nonnulls(encoded.plane_0, encoded.plane_1, encoded.plane_2, encoded.plane_3) as planes,
    array_send(decoded.values) = array_send(sent.values) as is_same,
    cardinality(decoded.values) as length
  from (select $1::double precision[] as values) as sent
  cross join lateral monitor.encode_values(sent.values) as encoded
  cross join lateral (select monitor.decode_values(
    encoded.scale, encoded.base, encoded.is_delta,
    encoded.plane_0, encoded.plane_1, encoded.plane_2, encoded.plane_3, encoded.floats) as values) as decoded`;

/** Encodes `values`, decodes them again, and says how it went. */
async function encode(asOwner: Query, values: readonly number[]): Promise<Encoded> {
  const { rows: [encoded] } = await asOwner<Encoded>(ENCODED, [floats(values)]);
  expect(encoded, `of ${floats(values)}`).toMatchObject({ is_same: true, length: values.length });
  return encoded!;
}

const cumulate = (steps: readonly number[], start = 0) => {
  let sum = start;
  return [start, ...steps.map((step) => sum += step)];
};
const finite = fc.double({ noNaN: true, noDefaultInfinity: true });

describe("monitor.encode_values() and monitor.decode_values()", () => {
  const decimals = fc.tuple(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 14 }))
    .chain(([places, digits]) =>
      fc.array(fc.bigInt(-(10n ** BigInt(digits)), 10n ** BigInt(digits)), {
        minLength: 1,
        maxLength: 100,
      }).map((numbers) => numbers.map((number) => Number(`${number}e-${places}`)))
    );
  const KINDS: Readonly<Record<string, fc.Arbitrary<number[]>>> = {
    "any finite numbers": fc.array(finite, { minLength: 1, maxLength: 100 }),
    "a single number": finite.map((value) => [value]),
    "a constant": fc.tuple(finite, fc.integer({ min: 1, max: 200 }))
      .map(([value, count]) => range(count).map(() => value)),
    "decimals with 0 to 9 places": decimals,
    "decimals of different places": fc.array(
      fc.tuple(fc.integer({ min: 0, max: 7 }), fc.maxSafeInteger())
        .map(([places, number]) => Number(`${number}e-${places}`)),
      { minLength: 1, maxLength: 50 },
    ),
    "a counter": fc.tuple(
      fc.maxSafeNat().map((start) => Math.floor(start / 2)),
      fc.array(fc.nat(1_000_000), { maxLength: 200 }),
    ).map(([start, steps]) => cumulate(steps, start)),
    "a counter that starts again": fc.array(
      fc.array(fc.nat(100_000), { minLength: 1, maxLength: 50 }).map((steps) => cumulate(steps)),
      { minLength: 1, maxLength: 4 },
    ).map((parts) => parts.flat()),
    "whole numbers about 2^53": fc.array(
      fc.integer({ min: -3000, max: 3000 }).map((offset) => 2 ** 53 + offset),
      { minLength: 1, maxLength: 50 },
    ),
    "numbers about the limit of what is scaled": fc.tuple(
      fc.integer({ min: 0, max: 6 }),
      fc.array(fc.integer({ min: -3000, max: 3000 }), { minLength: 1, maxLength: 30 }),
    ).map(([places, offsets]) => offsets.map((offset) => Number(`${9e15 + offset}e-${places}`))),
    "zeros of both signs among others": fc.array(fc.constantFrom(0, -0, 1, -1, 0.5), {
      minLength: 1,
      maxLength: 50,
    }),
    "noise on a level": fc.tuple(fc.integer(), fc.array(fc.integer({ min: -300, max: 300 })))
      .map(([level, noise]) => [level, ...noise.map((n) => (level + n) / 100)]),
  };

  it.for(Object.entries(KINDS))("give back %s, bit for bit", async ([, values], { asOwner }) => {
    await fc.assert(
      fc.asyncProperty(values, async (taken) => void await encode(asOwner, taken)),
      { numRuns: 150 },
    );
  });

  it.for<[string, number[]]>([
    ["-0", [-0]],
    ["the smallest of all", [5e-324, -5e-324, 0]],
    ["the largest of all", [1.7976931348623157e308, -1.7976931348623157e308]],
    ["1e308 beside 1", [1e308, 1]],
    ["the smallest normal number", [2.2250738585072014e-308, 2.225073858507201e-308]],
    ["the last whole numbers", [2 ** 53 - 1, 2 ** 53, 2 ** 53 + 2, -(2 ** 53)]],
    ["a sum that is no decimal", [0.1 + 0.2, 0.3]],
    ["full precision after 8 decimals", [...range(8).map((n) => n / 100), Math.PI]],
  ])("give back %s", async ([, values], { asOwner }) => void await encode(asOwner, values));

  /** `high` and `low` by turns, so that differences save nothing. */
  const swing = (low: number, high: number) => range(200).map((n) => n % 2 === 0 ? low : high);

  it.for(
    [
      ["255", 0, 255, 1],
      ["256", 0, 256, 2],
      ["65,535", 0, 65_535, 2],
      ["65,536", 0, 65_536, 3],
      ["16,777,215", 0, 16_777_215, 3],
      ["16,777,216", 0, 16_777_216, 4],
      ["4,294,967,295", 0, 4_294_967_295, 4],
      ["4,294,967,296", 0, 4_294_967_296, 0],
      ["255 below nothing", -255, 0, 1],
      ["256 about nothing", -128, 128, 2],
      ["65,535 far up", 8e15, 8e15 + 65_535, 2],
      ["4,294,967,295 far down", -8e15, -8e15 + 4_294_967_295, 4],
      ["0", 7, 7, 1],
      ["2.55 with two decimals", 0.01, 2.56, 1],
      ["2.56 with two decimals", 0.01, 2.57, 2],
    ] as const,
  )("take as few planes as a range of %s needs", async ([, low, high, planes], { asOwner }) => {
    for (const values of [swing(low, high), swing(high, low)]) {
      expect(await encode(asOwner, values)).toMatchObject({
        planes,
        is_delta: planes === 0 ? null : false,
      });
    }
  });

  it.for(
    [
      ["127", 127, 1, true],
      ["128", 128, 2, false],
      ["-128", -128, 1, true],
      ["-129", -129, 2, false],
      ["32,639", 32_639, 2, true],
      ["32,640", 32_640, 3, false],
      ["-32,896", -32_896, 2, true],
      ["-32,897", -32_897, 3, false],
      ["8,355,711", 8_355_711, 3, true],
      ["8,355,712", 8_355_712, 4, false],
      ["-8,421,504", -8_421_504, 3, true],
      ["-8,421,505", -8_421_505, 4, false],
      ["2,139,062,143", 2_139_062_143, 4, true],
      ["2,139,062,144", 2_139_062_144, 0, null],
      ["-2,147,483,648", -2_147_483_648, 4, true],
      ["-2,147,483,649", -2_147_483_649, 0, null],
    ] as const,
  )(
    "keep differences up to %s where that saves a plane",
    async ([, step, planes, is_delta], { asOwner }) => {
      const values = cumulate(range(400).map(() => step));
      expect(await encode(asOwner, values)).toMatchObject({ planes, is_delta });
      // Also where only one difference, beyond the first 64, is as large.
      const late = cumulate([...range(300).map(() => Math.sign(step) * 90), step * 250, -step]);
      await encode(asOwner, late);
    },
  );

  it("look beyond the first 64 before they keep differences", async ({ asOwner }) => {
    const quiet = range(63).map(() => 1);
    expect(await encode(asOwner, cumulate([...quiet, ...range(300).map(() => 100)])))
      .toMatchObject({ planes: 1, is_delta: true });
    expect(await encode(asOwner, cumulate([...quiet, 40_000]))).toMatchObject({
      planes: 2,
      is_delta: false,
    });
  });

  it.for(
    [
      [[1, 2.5], 1],
      [[1, 2.25], 2],
      [[0.000001], 6],
      [[0.0000001], null],
      [[8_999_999_999_999_999], 0],
      [[9e15], null],
      [[8_999_999_999.1, 8_999_999_999.100002], 6],
      [[9_000_000_000.1, 9_000_000_000.100002], null],
      [[0], 0],
      [[-0], null],
      [[1e300], null],
      [[1, Math.PI], null],
    ] as const,
  )("write %o with %s decimals", async ([values, scale], { asOwner }) => {
    expect(await encode(asOwner, values)).toMatchObject({ scale });
  });

  it.for([
    ["nothing", "{}"],
    ["no array", null],
    ["a missing value", "{1,null,2}"],
  ])("refuse %s", async ([, values], { asOwner }) => {
    await expect(asOwner("select monitor.encode_values($1)", [values])).rejects.toMatchObject({
      code: "22023",
      hint: expect.stringContaining("missing"),
    });
  });

  it("keep floats that are not finite as well, though none is ever stored", async ({ asOwner }) => {
    const { rows } = await asOwner<Encoded>(ENCODED, ["{NaN,Infinity,-Infinity,1}"]);
    expect(rows).toMatchObject([{ is_same: true, scale: null }]);
  });
});

describe("monitor.decode_times()", () => {
  it("gives the times of steps, regular or not, with gaps", async ({ query }) => {
    const times = fc.uniqueArray(fc.nat(DAY - 1), { minLength: 1, maxLength: 300 })
      .map((taken) => taken.sort((a, b) => a - b));
    await fc.assert(
      fc.asyncProperty(times, async (taken) => {
        const steps = taken.map((at, index) => at - (taken[index - 1] ?? 0));
        const { rows } = await query("select monitor.decode_times($1) as times", [steps]);
        expect(rows).toEqual([{ times: taken }]);
      }),
      { numRuns: 60 },
    );
  });

  it("reaches from the first to the last millisecond of a day", async ({ query }) => {
    const { rows } = await query("select monitor.decode_times($1) as times", [[0, DAY - 1]]);
    expect(rows).toEqual([{ times: [0, DAY - 1] }]);
  });
});

describe("monitor.ensure_chunk_partitions()", () => {
  const readPartitions = async (asOwner: Query) =>
    (await asOwner<{ partition: string }>(
      `select inhrelid::regclass::text as partition from pg_inherits
       where inhparent in ('monitor.metric_chunks'::regclass, 'monitor.metric_rollups'::regclass)
         and inhrelid::regclass::text !~ '2026(w4|11|12)' order by 1`, // not those that the migrations made
    )).rows.map(({ partition }) => partition.replace("monitor.metric_", ""));
  const ensure = (asOwner: Query, day: string) =>
    rpc<number>(asOwner, "ensure_chunk_partitions", { p_day: day });

  it.for(
    [
      ["a Monday", "2026-03-09", ["chunks_2026w11", "rollups_202603"]],
      ["a Sunday", "2026-03-15", ["chunks_2026w11", "rollups_202603"]],
      ["a day of the year before's last week", "2027-01-03", ["chunks_2026w53", "rollups_202701"]],
      ["a day of the next year's first week", "2025-12-29", ["chunks_2026w01", "rollups_202512"]],
    ] as const,
  )("makes the week and the month of %s, once", async ([, day, partitions], { asOwner }) => {
    expect(await ensure(asOwner, day)).toBe(2);
    expect(await ensure(asOwner, day)).toBe(0);
    expect(await readPartitions(asOwner)).toEqual(partitions);
    await asOwner(
      `insert into monitor.metric_chunks (series_id, day, times_id, sample_count, floats) values (1, $1, 1, 1, '{1}')`,
      [day],
    );
    await asOwner(
      `insert into monitor.metric_rollups (series_id, day, hours, sample_count, floats) values (1, $1, 1, 1, '{1}')`,
      [day],
    );
  });

  it("closes what it makes to all but admins, and says what it is", async ({ asOwner }) => {
    await ensure(asOwner, "2026-03-10");
    const { rows } = await asOwner(
      `select relrowsecurity as is_closed, obj_description(oid) as comment from pg_class
       where oid in ('monitor.metric_chunks_2026w11'::regclass, 'monitor.metric_rollups_202603'::regclass) order by relname`,
    );
    expect(rows).toEqual([
      { is_closed: true, comment: "Chunks of the ISO week 2026-11; a partition of metric_chunks." },
      { is_closed: true, comment: "Rollups of 2026-03; a partition of metric_rollups." },
    ]);
  });

  it("is made by whoever opens a day, so that compaction finds it", async ({ query, asOwner }) => {
    await rpc(query, "ensure_sample_days", { p_now: iso(NOON + 5 * DAY), p_days_ahead: 1 });
    expect(await readPartitions(asOwner)).toEqual([
      "chunks_2026w11",
      "chunks_2026w12",
      "rollups_202603",
    ]);
  });

  it("makes each once when two do it at once", async ({ ownDatabase }) => {
    const [one, other] = [await ownDatabase.connectAsOwner(), await ownDatabase.connectAsOwner()];
    await one.query("begin");
    expect(await ensure(queryOf(one), "2026-03-10")).toBe(2);
    const second = ensure(queryOf(other), "2026-03-10");
    await one.query("commit");
    expect(await second).toBe(0);
  });

  it("gives up after half a second behind a lock", async ({ ownDatabase }) => {
    const [holder, maker] = [
      await ownDatabase.connectAsOwner(),
      await ownDatabase.connectAsOwner(),
    ];
    await holder.query("begin; lock table monitor.metric_chunks in access exclusive mode");
    await expect(ensure(queryOf(maker), "2026-03-10")).rejects.toMatchObject({ code: "55P03" });
  });
});
