/** A tag with attributes in double quotes, within which there are no angle brackets. */
const TAG = /<(\/?)([a-z][a-z0-9]*)((?:\s+[a-z-]+="[^"<>]*")*)>/g;
const VOID = ["meta", "br"];

/** Tags of a mail as they are written, links without their address and colours without their value. */
export function tagsOf(html: string): Set<string> {
  return new Set(
    [...html.matchAll(TAG)].map(([tag]) =>
      tag.replace(/(?<=^<a [^>]*href=)"[^"]*"/, '"…"').replace(/#[0-9a-f]{6}/g, "#…")
    ),
  );
}

export function linksOf(html: string): string[] {
  return [...html.matchAll(/<a [^>]*href="([^"]*)"/g)].map(([, href]) => unescape(href!));
}

/**
 * What a reader sees of a mail, lines by `<br>`.
 *
 * @throws {Error} if there is a bracket outside of tags, an ampersand that begins no entity of ours, or a tag that is not closed.
 */
export function visibleTextOf(html: string): string {
  const body = html.replace(/^<!doctype html>\n/, "").replace(/<title>[^<]*<\/title>/, "")
    .replace(/<style>[^<]*<\/style>/, "");
  const open: string[] = [];
  for (const [tag, slash, name] of body.matchAll(TAG)) {
    if (VOID.includes(name!)) continue;
    if (slash === "") open.push(name!);
    else if (open.pop() !== name) throw new Error(`unexpected ${tag}`);
  }
  if (open.length > 0) throw new Error(`not closed: ${open.join(", ")}`);
  const text = body.replace(/<br>/g, "\n").replace(TAG, "\0");
  if (/[<>]/.test(text)) {
    throw new Error(`a bracket that is no tag: ${/.{0,40}[<>].{0,40}/.exec(text)}`);
  }
  return unescape(text);
}

function unescape(text: string): string {
  const names: Record<string, string> = { amp: "&", lt: "<", gt: ">", "#34": '"', "#39": "'" };
  return text.replace(/&(?:([a-z]+|#\d+);)?/g, (entity, name: string | undefined) => {
    const character = names[name ?? ""];
    if (character === undefined) throw new Error(`not an entity of ours: ${entity}`);
    return character;
  });
}
