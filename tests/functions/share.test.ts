import { describe, expect, it, vi } from "vitest";
import { shareFor, shareForEach } from "../../supabase/functions/_shared/share.ts";
import { Clock } from "../fixtures.ts";

/** Loads 1, 2, 3 …, each when it is told to. */
function sampleLoad() {
  const waiting: { resolve: (value: number) => void; reject: (error: unknown) => void }[] = [];
  const load = vi.fn(() =>
    new Promise<number>((resolve, reject) => {
      waiting.push({ resolve, reject });
    })
  );
  return { load, waiting };
}

describe("shareFor()", () => {
  it("asks once for all who ask at the same time", async () => {
    const { load, waiting } = sampleLoad();
    const ask = shareFor(5000, load, new Clock().now);
    const answers = Array.from({ length: 1000 }, () => ask());
    waiting[0]!.resolve(1);
    expect(new Set(await Promise.all(answers))).toEqual(new Set([1]));
    expect(load).toHaveBeenCalledOnce();
  });

  it("keeps the answer up to its time, and not a millisecond longer", async () => {
    const clock = new Clock();
    let count = 0;
    const ask = shareFor(5000, () => Promise.resolve(++count), clock.now);
    expect(await ask()).toBe(1);
    clock.advance(4.999);
    expect(await ask()).toBe(1);
    clock.advance(0.001);
    expect(await ask()).toBe(2);
  });

  it("counts from when the answer came, not from when it was asked for", async () => {
    const clock = new Clock();
    const { load, waiting } = sampleLoad();
    const ask = shareFor(5000, load, clock.now);
    const first = ask();
    clock.advance(60);
    waiting[0]!.resolve(1);
    await first;
    expect(await ask()).toBe(1);
    expect(load).toHaveBeenCalledOnce();
  });

  it("shares a throw among those who wait, and asks anew for the next", async () => {
    const { load, waiting } = sampleLoad();
    const ask = shareFor(5000, load, new Clock().now);
    const both = Promise.allSettled([ask(), ask()]);
    waiting[0]!.reject(new Error("no"));
    expect((await both).map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    const next = ask();
    waiting[1]!.resolve(2);
    expect(await next).toBe(2);
  });

  it("does not keep an answer for ever when the clock is set back", async () => {
    const clock = new Clock();
    let count = 0;
    const ask = shareFor(5000, () => Promise.resolve(++count), clock.now);
    await ask();
    clock.advance(-3600);
    expect(await ask()).toBe(2);
  });
});

describe("shareForEach()", () => {
  it("shares by key, and forgets the oldest beyond its limit", async () => {
    const load = vi.fn((key: string) => Promise.resolve(key));
    const ask = shareForEach(5000, 2, load, new Clock().now);
    for (const key of ["a", "b", "a", "b", "c", "b", "a"]) expect(await ask(key)).toBe(key);
    expect(load.mock.calls).toEqual([["a"], ["b"], ["c"], ["a"]]);
  });
});
