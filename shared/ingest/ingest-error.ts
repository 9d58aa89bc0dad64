/** Samples a request may hold, and data points of OTLP: beyond, nothing of it is taken. */
export const SAMPLES_LIMIT = 200_000;

/**
 * A request that cannot be taken as a whole; what is wrong with single samples is a refusal instead.
 * Its message is for the sender, and repeats nothing that he sent.
 */
export class IngestError extends Error {
  override readonly name = "IngestError";
  /** `malformed`: not what it says it is. `too_large`: smaller requests would do. */
  readonly kind: "malformed" | "too_large";

  constructor(kind: "malformed" | "too_large", message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}
