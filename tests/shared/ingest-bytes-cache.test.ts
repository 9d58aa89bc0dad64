import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BytesCache } from "../../shared/ingest/bytes-cache.ts";

const text = (parts: readonly Uint8Array[]) => parts.map((part) => part.join(",")).join(";");
const bytes = (...values: number[]) => new Uint8Array(values);

describe("BytesCache", () => {
  it("makes a value once, by content and division", () => {
    const made: string[] = [];
    const cache = new BytesCache<string>(10_000);
    const get = (...parts: Uint8Array[]) =>
      cache.get(parts, (parts) => {
        made.push(text(parts));
        return text(parts);
      });
    for (
      const parts of [[bytes(1, 2)], [bytes(1, 2)], [bytes(1), bytes(2)], [bytes(), bytes()], []]
    ) {
      expect(get(...parts)).toBe(text(parts));
    }
    expect(made).toEqual(["1,2", "1;2", ";", ""]);
  });

  it("keeps copies: bytes that change later are other bytes", () => {
    const cache = new BytesCache<string>(10_000);
    const reused = bytes(1);
    expect(cache.get([reused], text)).toBe("1");
    reused[0] = 2;
    expect(cache.get([reused], text)).toBe("2");
    expect(cache.get([bytes(1)], () => "made again")).toBe("1");
  });

  it("tells bytes of the same hash apart", () => {
    const cache = new BytesCache<string>(10_000);
    // Their FNV-1a is the same.
    const [one, other] = [bytes(12, 81, 57, 7), bytes(16, 0, 75, 0)];
    expect(cache.get([one], text)).toBe("12,81,57,7");
    expect(cache.get([other], text)).toBe("16,0,75,0");
    // The later one has taken the place.
    expect(cache.get([one], () => "made again")).toBe("made again");
  });

  it("forgets when it is full", () => {
    const cache = new BytesCache<string>(1000);
    const isKnown = () => {
      let isMade = false;
      cache.get([bytes(7)], () => {
        isMade = true;
        return "";
      });
      return !isMade;
    };
    expect(isKnown()).toBe(false);
    expect(isKnown()).toBe(true);
    cache.get([new Uint8Array(900)], text);
    expect(isKnown()).toBe(false);
  });

  it("never gives the value of others, full or not", () => {
    const parts = fc.array(fc.uint8Array({ maxLength: 3, max: 2 }), { maxLength: 3 });
    const cache = new BytesCache<string>(3000);
    fc.assert(
      fc.property(parts, (parts) => {
        expect(cache.get(parts, text)).toBe(text(parts));
      }),
      { numRuns: 2000 },
    );
  });
});
