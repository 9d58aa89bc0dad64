import { Buffer } from "node:buffer";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeBase64, encodeBase64 } from "../../shared/detection/base64.ts";

describe("encodeBase64()", () => {
  it("writes what others write, without padding", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      expect(encodeBase64(bytes)).toBe(Buffer.from(bytes).toString("base64").replaceAll("=", ""));
    }));
  });

  it("leaves a view its own bytes only", () => {
    const bytes = Uint8Array.from([1, 2, 3, 4, 5]);
    expect(encodeBase64(bytes.subarray(1, 3))).toBe(encodeBase64(Uint8Array.from([2, 3])));
  });
});

describe("decodeBase64()", () => {
  it("gives back what was encoded", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      expect(decodeBase64(encodeBase64(bytes), bytes.length)).toEqual(bytes);
    }));
  });

  it("gives null for another length", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 30 }), fc.nat(40), (bytes, length) => {
      fc.pre(length !== bytes.length);
      expect(decodeBase64(encodeBase64(bytes), length)).toBeNull();
    }));
  });

  it.each(["AAA=", "AA A", "AA-A", "AA_A", "AAA\n", "AAAé", "AAA\u{1f600}".slice(0, 4)])(
    "gives null for %j, which is not of the alphabet",
    (text) => {
      expect(decodeBase64(text, 3)).toBeNull();
    },
  );

  it("gives no bytes for no text", () => {
    expect(decodeBase64("", 0)).toEqual(new Uint8Array(0));
  });
});
