import { IngestError } from "./ingest-error.ts";

/** Objects and lists in a request as JSON: two an attribute of OTLP, two a sample of ours. */
const NODES_LIMIT = 1_000_000;

/**
 * To be called before JSON is parsed: an empty list is two bytes to send and many to hold. Braces and brackets inside
 * of strings count too.
 *
 * @throws {IngestError} if there are more objects and lists than in any request that may be taken.
 */
export function assertFewNodes(text: string): void {
  let nodes = 0;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 0x7b || code === 0x5b) nodes += 1;
  }
  if (nodes > NODES_LIMIT) {
    throw new IngestError(
      "too_large",
      `Cannot take a request of over ${NODES_LIMIT} objects and lists`,
    );
  }
}
