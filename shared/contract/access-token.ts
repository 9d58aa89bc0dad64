import { z } from "zod";

/** What an access token lets its holder do: send metrics, read them. */
export const SCOPES = ["ingest", "read"] as const;

export type Scope = typeof SCOPES[number];

/** An access token that is good, without the token itself. */
export interface AccessToken {
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** Null: never. */
  readonly expiresAt: Date | null;
}

/** Answer of `monitor.check_access_token`; null for a token that is unknown, expired or revoked. */
export const AccessTokenAnswer = z.object({
  token_id: z.int(),
  name: z.string(),
  scopes: z.array(z.enum(SCOPES)).min(1),
  expires_at: z.int().nullable(),
}).nullable();

/** Reads the answer of `monitor.check_access_token`. @throws {z.ZodError} */
export function parseAccessToken(answer: unknown): AccessToken | null {
  const token = AccessTokenAnswer.parse(answer);
  return token && {
    name: token.name,
    scopes: token.scopes,
    expiresAt: token.expires_at === null ? null : new Date(token.expires_at),
  };
}
