const LONGEST = 2000;

/** A name, an IPv4 or an IPv6 address. URL lets quotes and asterisks into a host. */
const HOST = /^(?:[a-z0-9._-]+|\[[0-9a-f:]+\])$/;

/**
 * A web address as it may be linked to, in ASCII and without any of `<>"` and space; null if it is none: another scheme, or with
 * credentials, which make one host look like another.
 */
export function toWebAddress(text: string | null): string | null {
  if (text === null || text.length > LONGEST) return null;
  // URL drops line breaks and tabs within: what is linked would not be what was written.
  const trimmed = text.trim();
  if (/[\s\p{Cc}]/u.test(trimmed) || !URL.canParse(trimmed)) return null;
  const { protocol, username, password, hostname, href } = new URL(trimmed);
  const isWeb = protocol === "http:" || protocol === "https:";
  const isPlain = username === "" && password === "" && HOST.test(hostname);
  return isWeb && isPlain && href.length <= LONGEST ? href : null;
}

/** Its host, with the port if it has one of its own. */
export function hostOf(webAddress: string): string {
  return new URL(webAddress).host;
}
