/** Every problem a caller may be told of, by slug: the tail of its `type`. Explained in docs/problems.md. */
export const PROBLEMS = {
  "json": { status: 400, title: "The body is not JSON" },
  "malformed": { status: 400, title: "The body cannot be read" },
  "run-id": { status: 400, title: "The header x-run-id is not a UUID" },
  "unauthenticated": { status: 401, title: "Who is calling is not known" },
  "signature": { status: 401, title: "The signature is not good" },
  "forbidden": { status: 403, title: "The caller may not do this" },
  "path": { status: 404, title: "There is nothing at this address" },
  "method": { status: 405, title: "The method is not allowed" },
  "overlap": { status: 409, title: "Another run of this job is under way" },
  "jobs-disabled": { status: 409, title: "Jobs are switched off" },
  "run-finished": { status: 409, title: "This run has ended already" },
  "body-too-large": { status: 413, title: "The body is too large" },
  "media-type": { status: 415, title: "The type or encoding of the body is not understood" },
  "body": { status: 422, title: "The body is not as expected" },
  "query": { status: 422, title: "The query is not as expected" },
  "rules": { status: 422, title: "The rules cannot be saved" },
  "samples-refused": { status: 422, title: "No sample was stored" },
  "too-many-tokens": { status: 429, title: "Too many unknown tokens are being tried" },
  "internal": { status: 500, title: "Internal error" },
  "configuration": { status: 500, title: "The function is not configured" },
  "run-failed": { status: 500, title: "The run failed" },
  "schema-not-exposed": { status: 503, title: "The schema monitor is not exposed" },
  "database-unavailable": { status: 503, title: "The database does not answer" },
} as const satisfies Record<string, { status: number; title: string }>;

/** Kebab-case, stable, never reused. */
export type ProblemSlug = keyof typeof PROBLEMS;

/** What a problem says beyond its slug. */
export interface ProblemOptions {
  /** Members beside the standard ones, e.g. `run_id`. */
  members?: Readonly<Record<string, unknown>>;
  /** Headers that belong to the status, e.g. `Allow`. */
  headers?: Readonly<Record<string, string>>;
  cause?: unknown;
}

/** Longest `detail`: it may repeat what the caller sent. */
const DETAIL_LIMIT = 1000;

/** An error the caller may see. Anything else that is thrown becomes a bare 500. */
export class Problem extends Error {
  override readonly name = "Problem";
  readonly slug: ProblemSlug;
  readonly members: Readonly<Record<string, unknown>>;
  readonly headers: Readonly<Record<string, string>>;

  constructor(slug: ProblemSlug, detail = "", options: ProblemOptions = {}) {
    super(detail.slice(0, DETAIL_LIMIT), { cause: options.cause });
    this.slug = slug;
    this.members = options.members ?? {};
    this.headers = options.headers ?? {};
  }

  get status(): number {
    return PROBLEMS[this.slug].status;
  }

  get title(): string {
    return PROBLEMS[this.slug].title;
  }
}

/** Renders a problem as problem details. @see RFC 9457 */
export function problemResponse({ slug, message: detail, members, headers }: Problem): Response {
  const { status, title } = PROBLEMS[slug];
  return Response.json(
    {
      type: `urn:pgvigil:problem:${slug}`,
      title,
      status,
      ...(detail !== "" && { detail }),
      ...members,
    },
    { status, headers: { ...headers, "content-type": "application/problem+json" } },
  );
}
