import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { readBytes, readUnpacked } from "../../supabase/functions/_shared/body.ts";
import { Problem } from "../../supabase/functions/_shared/problem.ts";
import { request } from "../fixtures.ts";

const LIMITS = { sentBytes: 64 * 1024, unpackedBytes: 256 * 1024 };

const read = (body: BodyInit | undefined, encoding?: string) =>
  readUnpacked(
    request("POST", {
      ...(body !== undefined && { body }),
      headers: { ...(encoding !== undefined && { "content-encoding": encoding }) },
    }),
    LIMITS,
  );
const slugOf = (reading: Promise<unknown>) =>
  reading.then(() => "read", (error: unknown) => {
    if (!(error instanceof Problem)) throw error;
    return error.slug;
  });

/** Bytes that gzip makes no smaller. */
function noise(length: number): Uint8Array<ArrayBuffer> {
  let state = 1;
  return Uint8Array.from({ length }, () => {
    state = (state * 48_271) % 2_147_483_647;
    return state >> 7;
  });
}

/** Gives `piece` over and over; says how much of it was taken, and whether the reader told it to stop. */
function endless(piece: Uint8Array) {
  const seen = { bytes: 0, isCancelled: false };
  const body = new ReadableStream({
    pull(controller) {
      seen.bytes += piece.byteLength;
      controller.enqueue(piece);
    },
    cancel: () => void (seen.isCancelled = true),
  });
  return { body, seen };
}

describe("readUnpacked()", () => {
  it("gives back what was sent, packed or not", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 20_000 }), async (bytes) => {
        const copy = new Uint8Array(bytes);
        expect(await read(copy)).toEqual(copy);
        expect(await read(copy, "identity")).toEqual(copy);
        expect(await read(new Uint8Array(gzipSync(copy)), "gzip")).toEqual(copy);
      }),
      { numRuns: 30 },
    );
    expect(await read(undefined)).toEqual(new Uint8Array());
  });

  it.each(["gzip", "GZIP", " gzip ", "x-gzip"])("unpacks %j", async (encoding) => {
    expect(await read(new Uint8Array(gzipSync("{}")), encoding))
      .toEqual(new TextEncoder().encode("{}"));
  });

  it.each(["deflate", "br", "zstd", "gzip, gzip", "gzip;q=1", "none"])(
    "does not know %j, and says what it knows",
    async (encoding) => {
      const error = await read("{}", encoding).catch((error: unknown) => error);
      expect(error).toMatchObject({
        slug: "media-type",
        headers: { "accept-encoding": "gzip, identity" },
      });
    },
  );

  it.each([[0, "read"], [1, "body-too-large"]])(
    "%i bytes beyond what may be sent: %s",
    async (more, outcome) => {
      expect(await slugOf(read(noise(LIMITS.sentBytes + more)))).toBe(outcome);
      const pack = (length: number) => new Uint8Array(gzipSync(noise(length), { level: 0 }));
      const around = pack(LIMITS.sentBytes - 100).byteLength - LIMITS.sentBytes + 100;
      const packed = pack(LIMITS.sentBytes - around + more);
      expect(packed.byteLength).toBe(LIMITS.sentBytes + more);
      expect(await slugOf(read(packed, "gzip"))).toBe(outcome);
    },
  );

  it.each([[0, "read"], [1, "body-too-large"]])(
    "%i bytes beyond what may come out: %s",
    async (more, outcome) => {
      const packed = new Uint8Array(gzipSync(new Uint8Array(LIMITS.unpackedBytes + more)));
      expect(await slugOf(read(packed, "gzip"))).toBe(outcome);
    },
  );

  it.each([undefined, "gzip"])("stops reading a body that never ends (%s)", async (encoding) => {
    const { body, seen } = endless(noise(1024));
    expect(await slugOf(read(body, encoding))).toBe("body-too-large");
    expect(seen.isCancelled).toBe(true);
    expect(seen.bytes).toBeLessThan(LIMITS.sentBytes * 2);
  });

  it.each(["one byte at a time", "in pieces of all sizes"])(
    "puts together what comes %s, and holds on to no chunk",
    async (how) => {
      const bytes = noise(20_000);
      // One and the same for all chunks, as of a sender who fills it again: a reader that kept it would have 20,000 times
      // the last one.
      const buffer = new Uint8Array(512);
      let at = 0;
      const body = new ReadableStream<Uint8Array>({
        pull(controller) {
          if (at === bytes.length) return controller.close();
          const wanted = how === "one byte at a time" ? 1 : at % 512 + 1;
          const piece = bytes.subarray(at, at + wanted);
          buffer.set(piece);
          at += piece.length;
          controller.enqueue(buffer.subarray(0, piece.length));
        },
      }, { highWaterMark: 0 });
      expect(await readBytes(body, LIMITS.sentBytes)).toEqual(bytes);
    },
  );

  it("unpacks no more of a bomb than it may", async () => {
    const bomb = new Uint8Array(gzipSync(new Uint8Array(64 * 1024 * 1024)));
    expect(bomb.byteLength).toBeLessThanOrEqual(LIMITS.sentBytes);
    expect(await slugOf(read(bomb, "gzip"))).toBe("body-too-large");
  });

  it("unpacks so little at a time that what comes out of it fits", async () => {
    const pieces: number[] = [];
    // As Deno's, which unpacks all of a piece before it lets go of any of it.
    class Unpacking extends TransformStream<Uint8Array, Uint8Array> {
      constructor() {
        super({
          transform(piece, controller) {
            pieces.push(piece.byteLength);
            controller.enqueue(new Uint8Array(piece.byteLength * 8));
          },
        });
      }
    }
    vi.stubGlobal("DecompressionStream", Unpacking);
    try {
      expect(await slugOf(read(noise(LIMITS.sentBytes), "gzip"))).toBe("body-too-large");
    } finally {
      vi.unstubAllGlobals();
    }
    expect(Math.max(...pieces)).toBe(4096);
    // It ends where the limit is passed, give or take what streams read ahead.
    expect(pieces.length * 4096 * 8).toBeLessThan(LIMITS.unpackedBytes + 4 * 4096 * 8);
  });

  const packed = new Uint8Array(gzipSync(noise(5000)));
  const flipped = (place: number) =>
    packed.map((byte, index) => index === place ? byte ^ 0x55 : byte);
  it.each([
    ["nothing", new Uint8Array()],
    ["its first byte", packed.slice(0, 1)],
    ["its head", packed.slice(0, 10)],
    ["half of it", packed.slice(0, 2500)],
    ["all but its last byte", packed.slice(0, -1)],
    ["plain text", new TextEncoder().encode("{}")],
    ["a wrong checksum", flipped(packed.length - 8)],
    ["a wrong length", flipped(packed.length - 1)],
  ])("refuses %s for gzip", async (_name, bytes) => {
    expect(await slugOf(read(new Uint8Array(bytes), "gzip"))).toBe("malformed");
  });
});
