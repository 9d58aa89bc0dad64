/** What Prometheus says when there would have been more. */
export const TRUNCATED = "results truncated due to limit";

/** What is said beside an answer. */
export interface Remarks {
  readonly warnings?: readonly string[];
  readonly infos?: readonly string[];
}

/** An answer in Prometheus' envelope. */
export function respond(data: unknown, remarks: Remarks = {}): Response {
  return respondText([JSON.stringify(data)], remarks);
}

/** {@link respond} of data that is JSON text already, in pieces, which are made as they are sent. */
export function respondText(
  data: Iterable<string>,
  { warnings = [], infos = [] }: Remarks = {},
): Response {
  const said = [
    ...warnings.length === 0 ? [] : [`,"warnings":${JSON.stringify(warnings)}`],
    ...infos.length === 0 ? [] : [`,"infos":${JSON.stringify(infos)}`],
  ];
  const pieces = function* () {
    yield '{"status":"success","data":';
    yield* data;
    yield* [...said, "}"];
  };
  return new Response(stream(pieces()), {
    headers: { "content-type": "application/json" },
  });
}

/** What is sent at once, in UTF-16 units: many pieces are short. */
const CHUNK_LENGTH = 65_536;

function stream(pieces: Iterator<string>): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    pull(controller) {
      const chunk: string[] = [];
      let isOver = false;
      for (let length = 0; length < CHUNK_LENGTH && !isOver;) {
        const { value = "", done } = pieces.next();
        chunk.push(value);
        length += value.length;
        isOver = done === true;
      }
      controller.enqueue(encoder.encode(chunk.join("")));
      if (isOver) controller.close();
    },
  });
}
