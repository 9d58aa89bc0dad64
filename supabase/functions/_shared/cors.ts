/** Headers that a page may send along: those we read, and what supabase-js adds. */
const REQUEST_HEADERS =
  "apikey, authorization, content-encoding, content-type, x-client-info, x-run-id";

/** How long a browser may remember the answer to a preflight. */
const PREFLIGHT_SECONDS = 600;

/** What lets the page of an allowed origin read the answer; nothing for any other. */
export function corsHeaders(origin: string | null, allowed: readonly string[]): HeadersInit {
  return origin !== null && allowed.includes(origin)
    ? { "access-control-allow-origin": origin, "access-control-expose-headers": "x-run-id" }
    : {};
}

/** The answer to OPTIONS: the methods for everybody, leave to send them for allowed origins. */
export function preflightResponse(
  methods: readonly string[],
  origin: string | null,
  allowed: readonly string[],
): Response {
  const isAllowed = origin !== null && allowed.includes(origin);
  return new Response(null, {
    status: 204,
    headers: {
      allow: methods.join(", "),
      ...(isAllowed && {
        "access-control-allow-methods": methods.join(", "),
        "access-control-allow-headers": REQUEST_HEADERS,
        "access-control-max-age": String(PREFLIGHT_SECONDS),
      }),
    },
  });
}
