import { Problem } from "./problem.ts";

/** Most bytes of a body: as they are sent, and after they were unpacked. */
export interface BodyLimits {
  readonly sentBytes: number;
  readonly unpackedBytes: number;
}

/**
 * Bytes that are unpacked at a time. They become a thousand times as many at the most, all of them before anybody can
 * look how many they are: this is what keeps a small body that is gigabytes within from filling the memory.
 */
const PIECE_BYTES = 4096;

/**
 * Reads a body of any kind, unpacked if it is said to be gzip. Reads no further than the limits, whatever the header
 * content-length says.
 *
 * @throws {Problem} 400 for what is not gzip or ends too early, 413, 415 for another content-encoding
 */
export async function readUnpacked(request: Request, limits: BodyLimits): Promise<Uint8Array> {
  const encoding = (request.headers.get("content-encoding") ?? "").trim().toLowerCase();
  if (encoding === "" || encoding === "identity") return readBytes(request.body, limits.sentBytes);
  if (encoding !== "gzip" && encoding !== "x-gzip") {
    throw new Problem("media-type", "Send the body as it is, or as gzip.", {
      headers: { "accept-encoding": "gzip, identity" },
    });
  }
  const sent = await readBytes(request.body, limits.sentBytes);
  try {
    // The types of the two runtimes differ in whose ArrayBuffer the bytes are of.
    const gunzip = new DecompressionStream("gzip") as unknown as ReadableWritablePair<Uint8Array>;
    return await readBytes(toPieces(sent).pipeThrough(gunzip), limits.unpackedBytes);
  } catch (cause) {
    if (cause instanceof Problem) throw cause;
    throw new Problem("malformed", "The body is not gzip, or is not all of it.", { cause });
  }
}

/** Reads no further than the limit. @throws {Problem} 413 */
export async function readBytes(
  body: ReadableStream<Uint8Array> | null,
  limit: number,
): Promise<Uint8Array> {
  let bytes = new Uint8Array();
  let length = 0;
  if (body !== null) {
    for await (const chunk of body as unknown as AsyncIterable<Uint8Array>) {
      const end = length + chunk.byteLength;
      if (end > limit) throw new Problem("body-too-large", `At most ${limit} bytes.`);
      if (end > bytes.byteLength) {
        const grown = new Uint8Array(Math.min(limit, Math.max(end, 2 * bytes.byteLength)));
        grown.set(bytes.subarray(0, length));
        bytes = grown;
      }
      // Copied at once: in Deno each chunk, of one byte too, holds on to 64 KiB.
      bytes.set(chunk, length);
      length = end;
    }
  }
  return bytes.subarray(0, length);
}

function toPieces(bytes: Uint8Array): ReadableStream<Uint8Array> {
  let offset = 0;
  return new ReadableStream({
    pull(controller) {
      if (offset >= bytes.byteLength) return controller.close();
      controller.enqueue(bytes.subarray(offset, offset += PIECE_BYTES));
    },
  });
}
