/** What Prometheus says when there would have been more. */
export const TRUNCATED = "results truncated due to limit";

/** What is said beside an answer. */
export interface Remarks {
  readonly warnings?: readonly string[];
  readonly infos?: readonly string[];
}

/** An answer in Prometheus' envelope. */
export function respond(data: unknown, remarks: Remarks = {}): Response {
  return respondText(JSON.stringify(data), remarks);
}

/** {@link respond} of data that is JSON text already. */
export function respondText(data: string, { warnings = [], infos = [] }: Remarks = {}): Response {
  const said = [
    ...warnings.length === 0 ? [] : [`"warnings":${JSON.stringify(warnings)}`],
    ...infos.length === 0 ? [] : [`"infos":${JSON.stringify(infos)}`],
  ];
  return new Response(
    `{${[`"status":"success"`, `"data":${data}`, ...said].join(",")}}`,
    { headers: { "content-type": "application/json" } },
  );
}
