/** A local stand-in for Resend: keeps what was sent instead of sending it, and shows it on a page. */
import { createHash, randomUUID } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { text } from "node:stream/consumers";
import { z } from "zod";
import { CONTENT_SECURITY_POLICY, type Message, renderPage } from "./inbox-page.ts";
import { writeJsonFile } from "./json-file.ts";
import { type EventReceiver, foretell, tellEvent } from "./mail-events.ts";

/** Options of {@link startInbox}. */
export interface InboxOptions {
  port: number;
  /** File that keeps the messages. */
  path: string;
  /** Opens `/emails`. */
  apiKey: string;
  /** Told what becomes of each message; nobody by default. */
  events?: EventReceiver;
  /** How many requests to `/emails` are taken. @default {2} */
  requestsPerSecond?: number;
  now?(): Date;
}

/** A running inbox. */
export interface Inbox {
  readonly port: number;
  /** Resolves when everybody has been told of all that has happened so far. */
  settled(): Promise<void>;
  close(): Promise<void>;
}

/** For how long a key stands for its request. */
const KEY_MILLISECONDS = 24 * 60 * 60 * 1000;

/** What Resend answers when it does not do as it is told. */
class Refusal extends Error {
  readonly status: number;
  readonly code: string;
  readonly headers: Record<string, string>;

  constructor(status: number, code: string, message: string, headers: Record<string, string> = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.headers = headers;
  }
}

const MAILBOX = String.raw`[^\s<>,;:"@]+@[^\s<>,;:"@]+\.[^\s<>,;:"@.]+`;
const ADDRESS = new RegExp(`^(${MAILBOX}|[^<>\r\n]+ <${MAILBOX}>)$`);

const Address = z.string().regex(
  ADDRESS,
  "The email address needs to follow the `email@example.com` or `Name <email@example.com>` format.",
);
const toList = (value: string | string[]) => [value].flat();
const Addresses = z.union([Address, z.array(Address)]).transform(toList);
const Tag = z.string().regex(
  /^[A-Za-z0-9_-]{1,256}$/,
  "Tags should only contain ASCII letters, numbers, underscores, or dashes.",
);

/** What is read of a request; the rest of what Resend takes is left out. */
const Email = z.object({
  from: Address,
  to: z.union([Address, z.array(Address).min(1).max(50)]).transform(toList),
  cc: Addresses.default([]),
  bcc: Addresses.default([]),
  reply_to: Addresses.default([]),
  subject: z.string(),
  html: z.string().optional(),
  text: z.string().optional(),
  headers: z.record(z.string(), z.string()).default({}),
  tags: z.array(z.object({ name: Tag, value: Tag })).default([]),
});
type Email = z.infer<typeof Email>;

/** Messages of an inbox from before there were events have less. */
const KeptMessage = z.looseObject({
  ...{ request_hash: z.string().default(""), state: z.string().default("sent") },
  ...{ events: z.array(z.any()).default([]), tags: z.array(z.any()).default([]) },
  ...{ cc: z.array(z.string()).default([]), bcc: z.array(z.string()).default([]) },
  ...{
    reply_to: z.array(z.string()).default([]),
    headers: z.record(z.string(), z.string()).default({}),
  },
});

function readMessages(path: string): Message[] {
  if (!existsSync(path)) return [];
  const kept = z.array(KeptMessage).parse(JSON.parse(readFileSync(path, "utf8")));
  return kept as unknown as Message[];
}

/** @throws {Refusal} in Resend's order: what is missing before what is wrong */
function parseEmail(body: unknown): Email {
  const given = body as Partial<Record<string, unknown>> | null;
  for (const field of ["from", "to", "subject"]) {
    if (given?.[field] === undefined) {
      throw new Refusal(422, "missing_required_field", `Missing \`${field}\` field.`);
    }
  }
  if (given?.["html"] === undefined && given?.["text"] === undefined) {
    throw new Refusal(422, "missing_required_field", "Missing `html` or `text` field.");
  }
  const { data, error } = Email.safeParse(body);
  if (data !== undefined) return data;
  const [{ path, message }] = error.issues as [z.core.$ZodIssue];
  throw new Refusal(422, "validation_error", `Invalid \`${String(path[0])}\` field. ${message}`);
}

function parseBody(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    throw new Refusal(400, "validation_error", "The body is not JSON.");
  }
}

/** Takes so many at once, and so many a second in the long run. @throws {Refusal} 429 */
function limitRate(perSecond: number, now: () => Date): () => void {
  let left = perSecond;
  let seenAt = now().getTime();
  return () => {
    const at = now().getTime();
    left = Math.min(perSecond, left + Math.max(0, at - seenAt) / 1000 * perSecond);
    seenAt = at;
    if (left >= 1) {
      left -= 1;
      return;
    }
    const seconds = String(Math.ceil((1 - left) / perSecond));
    throw new Refusal(
      429,
      "rate_limit_exceeded",
      `Too many requests. You can only make ${perSecond} requests per second.`,
      {
        "retry-after": seconds,
        "ratelimit-limit": String(perSecond),
        "ratelimit-remaining": "0",
        "ratelimit-reset": seconds,
      },
    );
  };
}

/**
 * Serves the inbox on `port`, 0 for any. To a sender it is Resend, as far as one needs to know it:
 *
 * - `POST /emails` and `POST /emails/batch`: answers, errors and limits are Resend's. Mails with the same
 *   `idempotency-key` within 24 hours are one, or an error if they are not the same.
 * - Events as Resend sends them, signed, if there is a receiver: see {@link foretell} for which addresses bounce. Each is
 *   told once: what the receiver said is shown, and not tried again.
 * - `POST /auth/emails` is for the Auth API, which has no account at Resend: no key, no limit, no events.
 *
 * To people it is a page with all messages at `/`, the same as JSON at `/messages`, which DELETE empties: after that no
 * key is known any more.
 */
export async function startInbox(options: InboxOptions): Promise<Inbox> {
  const { port, path, apiKey, events, requestsPerSecond = 2, now = () => new Date() } = options;
  const messages = readMessages(path);
  const save = () => writeJsonFile(path, messages);
  const takePlace = limitRate(requestsPerSecond, now);
  const stopping = new AbortController();
  const telling = new Set<Promise<void>>();

  function checkKey({ authorization }: IncomingMessage["headers"]): void {
    if (authorization === undefined) {
      throw new Refusal(401, "missing_api_key", "Missing API key in the authorization header.");
    }
    if (authorization !== `Bearer ${apiKey}`) {
      throw new Refusal(403, "invalid_api_key", "API key is invalid.");
    }
  }

  /** Tells of all that becomes of a message, one after another. */
  async function tell(message: Message, receiver: EventReceiver): Promise<void> {
    const { id: email_id, from, subject, sent_at, tags } = message;
    for (const { type, to, data } of foretell([...message.to, ...message.cc, ...message.bcc])) {
      const at = now();
      const event = { type, created_at: at.toISOString(), to: [...to], answer: null };
      const entry: Message["events"][number] = event;
      message.events.push(entry);
      message.state = type.replace("email.", "");
      const about = {
        ...{ created_at: sent_at, email_id, from, to, subject, ...data },
        ...(tags.length > 0 && {
          tags: Object.fromEntries(tags.map(({ name, value }) => [name, value])),
        }),
      };
      const body = { type, created_at: event.created_at, data: about };
      entry.answer = await tellEvent(body, receiver, at, stopping.signal)
        .catch((error: Error) => `nothing (${error.message})`);
      if (messages.includes(message)) save();
    }
  }

  function keep(email: Email, key: string | null, request_hash: string): Message {
    const message: Message = {
      ...{ id: randomUUID(), sent_at: now().toISOString(), idempotency_key: key, request_hash },
      ...email,
      ...{ state: "sent", events: [] },
    };
    messages.push(message);
    return message;
  }

  /** The messages that this key stands for. @throws {Refusal} 409 if they were of another request */
  function findKept(key: string | null, request_hash: string): Message[] {
    const since = now().getTime() - KEY_MILLISECONDS;
    const kept = messages.filter((message) =>
      key !== null && message.idempotency_key === key && Date.parse(message.sent_at) > since
    );
    if (kept.some((message) => message.request_hash !== request_hash)) {
      throw new Refusal(
        409,
        "invalid_idempotent_request",
        "Same idempotency key used with a different request payload.",
      );
    }
    return kept;
  }

  /** Takes the mails of a request, or finds them taken already. */
  async function accept(request: IncomingMessage, isOfAuth: boolean): Promise<Message[]> {
    if (!isOfAuth) {
      checkKey(request.headers);
      takePlace();
    }
    const key = request.headers["idempotency-key"]?.toString() ?? null;
    if (key !== null && (key.length < 1 || key.length > 256)) {
      throw new Refusal(400, "invalid_idempotency_key", "The key must be between 1-256 chars.");
    }
    const body = parseBody(await text(request));
    const isBatch = request.url === "/emails/batch";
    if (Array.isArray(body) !== isBatch) {
      throw new Refusal(422, "validation_error", `Send ${isBatch ? "a list" : "one mail"}.`);
    }
    const emails = [body].flat().map(parseEmail);
    const hash = createHash("sha256").update(JSON.stringify([request.url, body])).digest("hex");
    const kept = findKept(key, hash);
    if (kept.length > 0) return kept;
    const taken = emails.map((email) => keep(email, key, hash));
    save();
    if (events !== undefined && !isOfAuth) {
      for (const message of taken) {
        const told = tell(message, events).finally(() => telling.delete(told));
        telling.add(told);
      }
    }
    return taken;
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const json = (status: number, body: unknown) =>
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));

    switch (`${request.method} ${request.url}`) {
      case "GET /":
        response.writeHead(200, {
          "content-type": "text/html; charset=utf-8",
          "content-security-policy": CONTENT_SECURITY_POLICY,
          "x-content-type-options": "nosniff",
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
      case "POST /auth/emails": {
        const [{ id }] = await accept(request, request.url === "/auth/emails") as [Message];
        json(200, { id });
        return;
      }
      case "POST /emails/batch":
        json(200, { data: (await accept(request, false)).map(({ id }) => ({ id })) });
        return;
      default:
        throw new Refusal(404, "not_found", "Not found");
    }
  }

  const server = createServer((request, response) => {
    answer(request, response).catch((error) => {
      const { status, code, message, headers } = error instanceof Refusal
        ? error
        : new Refusal(500, "application_error", String(error));
      response.writeHead(status, { ...headers, "content-type": "application/json" });
      response.end(JSON.stringify({ statusCode: status, name: code, message }));
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  return {
    port: (server.address() as { port: number }).port,
    settled: async () => {
      while (telling.size > 0) await Promise.all(telling);
    },
    async close() {
      stopping.abort();
      server.close();
      server.closeAllConnections();
      await Promise.all(telling);
    },
  };
}
