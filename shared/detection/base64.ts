const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const CODES = Uint8Array.from(ALPHABET, (letter) => letter.charCodeAt(0));
const SEXTETS = new Uint8Array(128).fill(255);
for (let sextet = 0; sextet < 64; sextet++) SEXTETS[CODES[sextet]!] = sextet;

const decoder = new TextDecoder();

/** Base64 without padding. Some ten times as fast as `btoa` over a string of the bytes, and the same on every runtime. */
export function encodeBase64(bytes: Uint8Array): string {
  const text = new Uint8Array(Math.ceil(bytes.length * 4 / 3));
  let to = 0;
  for (let from = 0; from < bytes.length; from += 3) {
    const [a, b, c] = [bytes[from]!, bytes[from + 1] ?? 0, bytes[from + 2] ?? 0];
    text[to++] = CODES[a >> 2]!;
    text[to++] = CODES[(a & 3) << 4 | b >> 4]!;
    if (to < text.length) text[to++] = CODES[(b & 15) << 2 | c >> 6]!;
    if (to < text.length) text[to++] = CODES[c & 63]!;
  }
  return decoder.decode(text);
}

/** The bytes of {@link encodeBase64}; null if that is not what the text is, or not of so many bytes. */
export function decodeBase64(text: string, byteCount: number): Uint8Array | null {
  if (text.length !== Math.ceil(byteCount * 4 / 3)) return null;
  const bytes = new Uint8Array(byteCount + 2);
  let to = 0;
  let isValid = true;
  for (let from = 0; from < text.length; from += 4) {
    const a = SEXTETS[text.charCodeAt(from)] ?? 255;
    const b = SEXTETS[text.charCodeAt(from + 1)] ?? 255;
    const c = from + 2 < text.length ? SEXTETS[text.charCodeAt(from + 2)] ?? 255 : 0;
    const d = from + 3 < text.length ? SEXTETS[text.charCodeAt(from + 3)] ?? 255 : 0;
    if ((a | b | c | d) === 255 || a === 255 || b === 255 || c === 255 || d === 255) {
      isValid = false;
    }
    bytes[to++] = a << 2 | b >> 4;
    bytes[to++] = b << 4 | c >> 2;
    bytes[to++] = c << 6 | d;
  }
  return isValid ? bytes.subarray(0, byteCount) : null;
}
