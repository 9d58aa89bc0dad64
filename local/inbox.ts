/** A local stand-in for Resend: keeps what was sent instead of sending it, and shows it on a page. */
import { randomUUID } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { text } from "node:stream/consumers";
import { z } from "zod";
import { writeJsonFile } from "./json-file.ts";

const Addresses = z.union([z.string(), z.array(z.string())]).transform((value) => [value].flat());
const Email = z.object({
  from: z.string(),
  to: Addresses,
  subject: z.string(),
  html: z.string().optional(),
  text: z.string().optional(),
});

/** A message as it was sent; `id` is what the sender was told. */
interface Message extends z.infer<typeof Email> {
  id: string;
  sent_at: string;
  /** The sender's own key: a repetition is not a second message. */
  idempotency_key: string | null;
}

const ESCAPES: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escapeHtml = (value: string) => value.replace(/[&<>"]/g, (sign) => ESCAPES[sign]!);

function renderPage(messages: readonly Message[]): string {
  const items = messages.map(({ sent_at, from, to, subject, text, html }) =>
    `<article><h2>${escapeHtml(subject)}</h2>
<p>${escapeHtml(`${sent_at}: ${from} to ${to.join(", ")}`)}</p>
<pre>${escapeHtml(text ?? html ?? "")}</pre></article>`
  );
  return `<!doctype html><meta charset="utf-8"><title>Inbox</title>
<h1>${messages.length} sent</h1>
${items.toReversed().join("\n")}`;
}

/** Serves the inbox on `port`; messages are kept in the file `path`. */
export function startInbox(port: number, path: string): Promise<Server> {
  const messages: Message[] = existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : [];
  const save = () => writeJsonFile(path, messages);

  function keep(email: z.infer<typeof Email>, key: string | null): { id: string } {
    const known = messages.find(({ idempotency_key }) => key !== null && idempotency_key === key);
    if (known) return { id: known.id };
    const id = randomUUID();
    messages.push({ id, sent_at: new Date().toISOString(), idempotency_key: key, ...email });
    save();
    return { id };
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const json = (status: number, body: unknown) =>
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));

    switch (`${request.method} ${request.url}`) {
      case "GET /":
        response.writeHead(200, {
          "content-type": "text/html; charset=utf-8",
          "content-security-policy": "default-src 'none'",
        });
        response.end(renderPage(messages));
        return;
      case "GET /messages":
        json(200, messages);
        return;
      case "DELETE /messages":
        messages.length = 0;
        save();
        json(200, { deleted: true });
        return;
      case "POST /emails":
      case "POST /emails/batch": {
        const isBatch = request.url === "/emails/batch";
        const key = request.headers["idempotency-key"]?.toString() ?? null;
        const body = z.array(Email).safeParse([JSON.parse(await text(request))].flat());
        if (!body.success || (!isBatch && body.data.length !== 1)) {
          json(422, { statusCode: 422, name: "validation_error", message: body.error?.message });
          return;
        }
        const kept = body.data.map((email, n) => keep(email, isBatch && key ? `${key}/${n}` : key));
        json(200, isBatch ? { data: kept } : kept[0]);
        return;
      }
      default:
        json(404, { statusCode: 404, name: "not_found", message: "Not found" });
    }
  }

  const server = createServer((request, response) => {
    answer(request, response).catch((error) => {
      response.writeHead(400, { "content-type": "application/json" });
      response.end(
        JSON.stringify({ statusCode: 400, name: "invalid_request", message: String(error) }),
      );
    });
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => resolve(server));
  });
}
