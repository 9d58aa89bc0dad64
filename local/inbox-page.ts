/** The page of the inbox: what was sent, as people would see it. */

/** A message as it was sent, and what became of it. */
export interface Message {
  /** What the sender was told. */
  id: string;
  sent_at: string;
  /** The sender's own key: a repetition is not a second message. */
  idempotency_key: string | null;
  /** SHA-256 of the request, in hexadecimal: a key stands for one request only. */
  request_hash: string;
  from: string;
  to: string[];
  cc: string[];
  bcc: string[];
  reply_to: string[];
  subject: string;
  html?: string | undefined;
  text?: string | undefined;
  headers: Record<string, string>;
  tags: { name: string; value: string }[];
  /** As the last event has it: `sent`, `delivered`, `bounced`, … */
  state: string;
  events: MessageEvent[];
}

/** Something that became of a message, and what the receiver of events said to it. */
export interface MessageEvent {
  type: string;
  created_at: string;
  to: string[];
  /** Status; null while there is none, a text where there will be none. */
  answer: number | string | null;
}

/**
 * Nothing is loaded and nothing runs, in the page and in the frames alike, which inherit this: styles are all there is.
 */
export const CONTENT_SECURITY_POLICY = [
  ...["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", "base-uri 'none'"],
  ...["form-action 'none'", "frame-ancestors 'none'"],
].join("; ");

const ESCAPES: Record<string, string> = {
  ...{ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" },
};
const escapeHtml = (value: string) => value.replace(/[&<>"']/g, (sign) => ESCAPES[sign]!);

const STYLE = `
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  article { border: 1px solid #ccc; border-radius: 6px; margin: 1.5rem 0; padding: 0 1rem 1rem; }
  h2 { font-size: 1.1rem; margin-bottom: 0; }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; color: #555; }
  dd { margin: 0; }
  iframe { width: 100%; height: 28rem; resize: vertical; border: 1px solid #ddd; background: #fff; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: 1rem; }`;

/** Newest first. */
export function renderPage(messages: readonly Message[]): string {
  const articles = messages.toReversed().map(renderMessage).join("\n");
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Inbox (${messages.length})</title>
<style>${STYLE}</style>
<h1>${messages.length} sent</h1>
${articles}
</html>`;
}

function renderMessage(message: Message): string {
  const { subject, html, text } = message;
  const facts: [string, string][] = [
    ["From", message.from],
    ["To", message.to.join(", ")],
    ["Cc", message.cc.join(", ")],
    ["Bcc", message.bcc.join(", ")],
    ["Reply to", message.reply_to.join(", ")],
    ["Sent", message.sent_at],
    ["State", message.state],
    ...message.events.map(({ type, to, answer }): [string, string] => [
      "Event",
      `${type} of ${to.join(", ")}: ${answer === null ? "not told yet" : `answered ${answer}`}`,
    ]),
    ["Tags", message.tags.map(({ name, value }) => `${name}=${value}`).join(", ")],
    ...Object.entries(message.headers),
  ];
  const list = facts.filter(([, value]) => value !== "")
    .map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd>`);
  // An empty sandbox: no scripts, no forms, no links that lead anywhere, an origin of its own.
  const frame = html === undefined
    ? ""
    : `<iframe sandbox="" title="HTML" srcdoc="${escapeHtml(html)}"></iframe>`;
  const plain = text === undefined ? "" : `<pre>${escapeHtml(text)}</pre>`;
  return `<article>
<h2>${escapeHtml(subject)}</h2>
<dl>${list.join("")}</dl>
${frame}
${plain}
</article>`;
}
