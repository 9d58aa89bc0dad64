/** Shapes of secrets, and what stands for them in logs and records. */
const SECRETS: readonly (readonly [RegExp, string])[] = [
  [/sb_(secret|publishable)_[^\s"'`,;]*/gi, "sb_$1_…"],
  [/pgv_[^\s"'`,;]*/gi, "pgv_…"],
  // A JWT begins with the base64url of `{"` or `{` and white space; its signature may be cut off.
  [/\bey[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?/g, "jwt…"],
  [/\b(bearer|basic)\s+[^\s"'`,;]+/gi, "$1 …"],
  // Only the password: the user and host of an address are what one needs to know.
  [/(:\/\/[^\s/:@]*):[^\s/@]+@/g, "$1:…@"],
];

/** Replaces whatever looks like a key, a token or a password in an address. */
export function redact(text: string): string {
  return SECRETS.reduce((left, [shape, stand]) => left.replace(shape, stand), text);
}

/** What may be recorded of an error: its message without secrets, one line, at most `limit` characters. */
export function summarizeError(error: unknown, limit = 300): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return redact(text).replace(/\s+/g, " ").trim().slice(0, limit);
}
