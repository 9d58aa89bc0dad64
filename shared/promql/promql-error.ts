/** Where in a query something is. Offsets in UTF-16 units; lines and columns count from 1. */
export interface Place {
  readonly start: number;
  readonly end: number;
  readonly line: number;
  readonly column: number;
}

/**
 * - `parse`: the text is no expression, or its types do not fit.
 * - `unsupported`: it is one, but of a feature that Prometheus has behind a flag, or of native histograms.
 * - `execution`: it cannot be evaluated on these samples.
 * - `limit`: it would take more samples, series, steps or memory than it may.
 * - `timeout`: it takes too long.
 */
export type PromqlErrorKind = "parse" | "unsupported" | "execution" | "limit" | "timeout";

/** Why a query has no result. The message begins with the place, as in Prometheus: `1:5: parse error: ...`. */
export class PromqlError extends Error {
  override readonly name = "PromqlError";
  readonly kind: PromqlErrorKind;
  readonly place: Place | undefined;
  /** What could have stood there instead, for a parse error. */
  readonly expected: readonly string[];

  constructor(
    kind: PromqlErrorKind,
    message: string,
    { place, expected = [] }: { place?: Place; expected?: readonly string[] } = {},
  ) {
    super(message);
    this.kind = kind;
    this.place = place;
    this.expected = expected;
  }
}

/** The place of `start` to `end` in `text`. */
export function locate(text: string, start: number, end: number): Place {
  const before = text.slice(0, start);
  const line = before.split("\n").length;
  return { start, end, line, column: start - (before.lastIndexOf("\n") + 1) + 1 };
}
