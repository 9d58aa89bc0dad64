import { type ExpositionFormat, renderExposition } from "../../../shared/promql/exposition.ts";
import type { Log } from "../_shared/log.ts";
import type { QueryStore } from "../_shared/query-stores.ts";

/** What the exposition needs from the world. */
export interface ExpositionDeps extends Pick<QueryStore, "readExposition"> {
  now(): Date;
}

/** Most series of an exposition, and most bytes. */
export const EXPOSED_SERIES_LIMIT = 20_000;
export const EXPOSED_BYTES_LIMIT = 8 * 1024 * 1024;

const CONTENT_TYPES: Readonly<Record<ExpositionFormat, string>> = {
  text: "text/plain; version=0.0.4; charset=utf-8",
  openmetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8",
};

/** `/metrics`: the newest sample of every series, however old, and its age. */
export async function answerMetrics(
  accept: string | null,
  log: Log,
  { now, readExposition }: ExpositionDeps,
): Promise<Response> {
  const at = now();
  const exposition = await readExposition(EXPOSED_SERIES_LIMIT, at);
  const format = chooseFormat(accept ?? "");
  const { text, isTruncated } = renderExposition(exposition, {
    format,
    now: at.getTime(),
    bytesLimit: EXPOSED_BYTES_LIMIT,
  });
  if (isTruncated) {
    log.warning("not all series were exposed", {
      series_limit: EXPOSED_SERIES_LIMIT,
      bytes_limit: EXPOSED_BYTES_LIMIT,
    });
  }
  return new Response(text, { headers: { "content-type": CONTENT_TYPES[format], vary: "Accept" } });
}

/** What the header Accept likes best of what there is: of several alike the first, and text if it names neither. */
export function chooseFormat(accept: string): ExpositionFormat {
  let best: ExpositionFormat = "text";
  let bestQuality = 0;
  for (const range of accept.split(",")) {
    const [type = "", ...parameters] = range.toLowerCase().split(";").map((part) => part.trim());
    const valueOf = (name: string) =>
      parameters.find((part) => part.startsWith(`${name}=`))?.slice(name.length + 1);
    const format = formatOf(type, valueOf("version"));
    const quality = Number(valueOf("q") ?? 1);
    if (format !== undefined && quality > bestQuality) [best, bestQuality] = [format, quality];
  }
  return best;
}

function formatOf(type: string, version: string | undefined): ExpositionFormat | undefined {
  switch (type) {
    case "application/openmetrics-text":
      return version === undefined || version === "1.0.0" ? "openmetrics" : undefined;
    case "text/plain":
      return version === undefined || version === "0.0.4" ? "text" : undefined;
    case "text/*":
    case "*/*":
      return "text";
    default:
      return undefined;
  }
}
