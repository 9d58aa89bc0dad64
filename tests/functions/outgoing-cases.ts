/** What is sent in tests to the servers of outgoing-servers.ts. Runs in Node and in Deno, where endings must be the same. */
import {
  OutgoingError,
  type OutgoingRequest,
  type OutgoingWorld,
  realWorld,
  sendOutgoing,
} from "../../supabase/functions/_shared/outgoing.ts";
import { openSocket } from "../../supabase/functions/_shared/sockets.ts";

/** Where the servers are, and who vouches for them. */
export interface ServersAt {
  /** In PEM. */
  readonly authority: string;
  readonly ports: Readonly<Record<string, number>>;
}

/** How a request ended. */
export type Ending =
  | { readonly status: number; readonly body: string; readonly isTruncated: boolean }
  | { readonly kind: string; readonly message: string; readonly mayHaveArrived: boolean };

/** What must never be repeated. */
export const SECRET = "T000-B000-secret";

interface Case {
  /** One of the ports. */
  readonly server: string;
  readonly url: (port: number) => string;
  readonly request?: Partial<OutgoingRequest>;
  /** What the host is said to be, at each question the next. This machine by default. */
  readonly answers?: readonly (readonly string[])[];
  readonly allowsLoopback?: boolean;
  readonly timeoutSeconds?: number;
  /** The time is over when the request has been sent. */
  readonly isOverOnceSent?: boolean;
}

const at = (host: string, path = `/services/${SECRET}?token=${SECRET}`) => (port: number) =>
  `https://${host}:${port}${path}`;

/** Short, for whom nobody waits: however slow this machine is, the ending is the same. */
const SHORT_SECONDS = 0.3;

const CASES: Readonly<Record<string, Case>> = {
  "a good server": {
    server: "good",
    url: at("good.test", "/echo?a=%20b#c"),
    request: { headers: { "X-Key": "v", "content-type": "text/plain" }, body: "hé" },
  },
  "GET": { server: "good", url: at("good.test", "/echo"), request: { method: "GET" } },
  "HEAD": { server: "good", url: at("good.test", "/echo"), request: { method: "HEAD" } },
  "an address with its own certificate": { server: "address", url: at("127.0.0.1", "/echo") },
  "a name that changes its address": {
    server: "good",
    url: at("good.test", "/echo"),
    answers: [["127.0.0.1"], ["10.0.0.1"]],
  },
  "the second address": {
    server: "good",
    url: at("good.test", "/echo"),
    // Nobody listens at the first.
    answers: [["127.0.0.2", "127.0.0.1"]],
  },
  "a redirect": { server: "good", url: at("good.test", "/redirect") },
  "an endless body": { server: "good", url: at("good.test", "/endless") },
  "an answer before the whole body is sent": {
    server: "good",
    url: at("good.test", "/early"),
    request: { body: "x".repeat(4_000_000) },
  },
  "plain http to this machine": {
    server: "plain",
    url: (port) => `http://localhost:${port}/echo`,
  },
  "plain http where it is not allowed": {
    server: "plain",
    url: (port) => `http://localhost:${port}/echo`,
    allowsLoopback: false,
  },
  "this machine where it is not allowed": {
    server: "good",
    url: at("good.test"),
    allowsLoopback: false,
  },
  "a certificate for another name": { server: "wrong", url: at("good.test") },
  "a certificate for the address only": { server: "address", url: at("good.test") },
  "a certificate of a stranger": { server: "untrusted", url: at("good.test") },
  "a certificate that has expired": { server: "expired", url: at("good.test") },
  "no encryption at the other end": { server: "plain", url: at("good.test") },
  "nobody": { server: "nobody", url: at("good.test") },
  "a server that does not shake hands": {
    server: "silent",
    url: at("good.test"),
    timeoutSeconds: SHORT_SECONDS,
  },
  "a server that does not answer": {
    server: "mute",
    url: at("good.test"),
    isOverOnceSent: true,
  },
  "a server that hangs up": { server: "rude", url: at("good.test") },
  "a server that speaks something else": { server: "garbage", url: at("good.test") },
};

/** Sends them all, one after another. */
export async function runCases({ authority, ports }: ServersAt): Promise<Record<string, Ending>> {
  const endings: Record<string, Ending> = {};
  for (const [name, one] of Object.entries(CASES)) {
    let asked = 0;
    const answers = one.answers ?? [["127.0.0.1"]];
    const over = new AbortController();
    const world: OutgoingWorld = {
      ...realWorld,
      ...(one.isOverOnceSent && { startTimer: () => over.signal }),
      resolve: () => Promise.resolve(answers[asked++] ?? ["10.0.0.2"]),
      allowsLoopback: () => one.allowsLoopback ?? true,
      open: async (target, end) => {
        const socket = await openSocket({ ...target, authorities: [authority] }, end);
        return { ...socket, write: (bytes) => socket.write(bytes).then(() => over.abort()) };
      },
    };
    const request = { method: "POST", url: one.url(ports[one.server]!), ...one.request } as const;
    endings[name] = await sendOutgoing(request, one.timeoutSeconds, world).then(
      ({ status, body, isTruncated }) => ({ status, body, isTruncated }),
      (error: unknown) => {
        if (!(error instanceof OutgoingError)) throw error;
        const { kind, message, mayHaveArrived } = error;
        return { kind, message, mayHaveArrived };
      },
    );
  }
  return endings;
}
