import { describe, expect, it } from "vitest";
import { rotateGroups } from "../../shared/alerting/rotate-groups.ts";

/** So many rules of each group, in order. */
const rulesOf = (...sizes: readonly number[]) =>
  sizes.flatMap((size, group) =>
    Array.from({ length: size }, (_, position) => ({ groupName: `g${group}`, position }))
  );
const MINUTE = 29_000_000;

describe("rotateGroups()", () => {
  it("begins with a group, goes on with those after it, and leaves none out", () => {
    const rules = rulesOf(2, 1, 3);
    const [a, b, c] = [rules.slice(0, 2), rules.slice(2, 3), rules.slice(3)];
    const seen = new Set<string>();
    for (let minute = MINUTE; minute < MINUTE + 10; minute += 1) {
      const rotated = rotateGroups(rules, minute);
      expect([[...a, ...b, ...c], [...b, ...c, ...a], [...c, ...a, ...b]]).toContainEqual(rotated);
      seen.add(rotated[0]!.groupName);
    }
    expect(seen.size).toBe(3);
  });

  it("has nothing to rotate without rules, and with one group", () => {
    expect(rotateGroups([], MINUTE)).toEqual([]);
    expect(rotateGroups(rulesOf(3), MINUTE)).toEqual(rulesOf(3));
  });

  it.each([2, 3, 5, 7, 10, 60])(
    "begins with each of %d groups about equally often, whatever their interval",
    (count) => {
      const rules = rulesOf(...Array.from({ length: count }, () => 1));
      for (const interval of [1, 2, 3, 5, 10, 15, 60, 1440]) {
        const runs = 20 * count;
        const times = new Map<string, number>();
        for (let run = 0; run < runs; run += 1) {
          const [{ groupName }] = rotateGroups(rules, MINUTE + run * interval) as [typeof rules[0]];
          times.set(groupName, (times.get(groupName) ?? 0) + 1);
        }
        expect([interval, times.size]).toEqual([interval, count]);
        for (const often of times.values()) {
          expect(often, `every ${interval} min`).toBeGreaterThanOrEqual(8);
          expect(often, `every ${interval} min`).toBeLessThanOrEqual(40);
        }
      }
    },
  );
});
