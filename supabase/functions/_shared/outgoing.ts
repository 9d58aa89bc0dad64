import { lookup } from "node:dns/promises";
import { judgeAddress, type JudgedAddress } from "./addresses.ts";
import { allowsLoopback } from "./env.ts";
import { AnswerReader, type HttpAnswer, MalformedAnswer } from "./http-answer.ts";
import { type OpenSocket, openSocket, SocketError } from "./sockets.ts";

/** A request to an address that a user has configured. */
export interface OutgoingRequest {
  readonly method: "GET" | "HEAD" | "POST" | "PUT";
  readonly url: string;
  /** Beside those that belong to the connection, which are ours. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent as UTF-8. */
  readonly body?: string;
}

/** How a request ended that has no answer. */
export type OutgoingErrorKind =
  /** It may not be sent: the URL, one of its headers or the address of its host is not allowed. Sending again is no use. */
  | "refused"
  | "timed_out"
  /** No such host, nobody there, somebody else there, or gone without an answer. */
  | "unreachable"
  /** What came back is not HTTP. */
  | "malformed";

/** A request without an answer. The message names the host and nothing else of the URL, which may be a secret. */
export class OutgoingError extends Error {
  override readonly name = "OutgoingError";
  readonly kind: OutgoingErrorKind;
  /** Whether the other side may have received it all the same: sending again may do again what it does. */
  readonly mayHaveArrived: boolean;

  constructor(
    kind: OutgoingErrorKind,
    message: string,
    { mayHaveArrived = false, cause }: { mayHaveArrived?: boolean; cause?: unknown } = {},
  ) {
    super(message, { cause });
    this.kind = kind;
    this.mayHaveArrived = mayHaveArrived;
  }
}

/** What {@link sendOutgoing} needs from the world. */
export interface OutgoingWorld {
  /** All addresses of a host, IPv4 and IPv6. */
  resolve(host: string): Promise<readonly string[]>;
  /** A signal that is given after so many seconds. */
  startTimer(seconds: number): AbortSignal;
  /** Whether this machine may be sent to, also without encryption. @throws {ConfigurationError} */
  allowsLoopback(): boolean;
  /** Opens a connection to an address. @throws {SocketError} */
  open: typeof openSocket;
}

/** The world as it is. */
export const realWorld: OutgoingWorld = {
  resolve: async (host) => (await lookup(host, { all: true })).map(({ address }) => address),
  startTimer: (seconds) => AbortSignal.timeout(seconds * 1000),
  allowsLoopback: () => allowsLoopback(),
  open: openSocket,
};

/** How long all of it may take, from the look-up of the name to the end of the body. */
export const TIMEOUT_SECONDS = 10;

/** How many addresses of a host are tried, each for its share of the time. */
export const TRIED_ADDRESSES_LIMIT = 4;

/**
 * Sends a request to a URL that a user has configured: the one way by which functions do. Whatever the URL, it reaches
 * hosts on the Internet and nothing else.
 *
 * - https only, at any port: whoever speaks another protocol there is shown nothing but the beginning of a handshake.
 *   No user names and passwords in the URL.
 * - The name is looked up once. Every address must be public ({@link judgeAddress}), and the connection goes to one of
 *   those that were judged: what the name stands for a moment later does not matter. IPv4 comes first, for a platform
 *   may have no way to IPv6.
 * - The certificate must be valid for the name, and is checked before a byte of the request is sent.
 * - No redirect is followed: a 3xx is an answer like any other.
 * - The local stack allows this machine, too, and http to it. Private addresses stay forbidden there.
 *
 * Every answer is a value, whatever its status, with the first 16 KiB of its body. One whose body does not end in time
 * or at all is still an answer, for its status is what counts, and is `isTruncated`.
 *
 * @throws {OutgoingError}
 * @throws {ConfigurationError} if the environment does not say clearly whether this machine is allowed.
 */
export async function sendOutgoing(
  request: OutgoingRequest,
  timeoutSeconds = TIMEOUT_SECONDS,
  world: OutgoingWorld = realWorld,
): Promise<HttpAnswer> {
  const isLoopbackAllowed = world.allowsLoopback();
  const target = readTarget(request.url, isLoopbackAllowed);
  const message = renderRequest(request, target);
  const deadline = world.startTimer(timeoutSeconds);
  const found = await findAddresses(target, world, deadline);
  const addresses = judgeAddresses(found, target, isLoopbackAllowed);
  const socket = await openFirst(addresses, target, timeoutSeconds, world, deadline);
  try {
    return await exchange(socket, message, request.method, target, deadline);
  } finally {
    socket.close();
  }
}

/** Where a URL leads to. */
interface Target {
  /** In small letters, a name or an address without brackets. */
  readonly host: string;
  readonly port: number;
  readonly isEncrypted: boolean;
  /** As the header `host` has it. */
  readonly authority: string;
  /** Path and query. */
  readonly path: string;
}

/** A name as it can be in a certificate. Underscores are not allowed in names of hosts, and used in them. */
const HOST_NAME = /^(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$/;

const refuse = (text: string) => new OutgoingError("refused", `Cannot send: ${text}`);

/** Numbers in other notations than four decimals have become four decimals here, which is what the URL standard says. */
function readTarget(text: string, isLoopbackAllowed: boolean): Target {
  // What the URL parser throws repeats the URL.
  if (!URL.canParse(text)) throw refuse("the address is not a URL");
  const url = new URL(text);
  const isEncrypted = url.protocol === "https:";
  if (!isEncrypted && url.protocol !== "http:") throw refuse("the address is not one of https");
  if (`${url.username}${url.password}` !== "") {
    throw refuse("the address has a user name or a password in it");
  }
  const host = url.hostname.replace(/^\[|\]$|\.$/g, "");
  if (judgeAddress(host) === null && !HOST_NAME.test(host)) {
    throw refuse("the address has no name of a host in it");
  }
  if (!isEncrypted && !isLoopbackAllowed) throw refuseFor(host, "only https is allowed");
  return {
    host,
    port: url.port === "" ? (isEncrypted ? 443 : 80) : Number(url.port),
    isEncrypted,
    authority: url.host,
    path: `${url.pathname}${url.search}`,
  };
}

function refuseFor(host: string, reason: string): OutgoingError {
  return new OutgoingError("refused", `Cannot send to ${host}: ${reason}`);
}

/** Headers that say how the connection is used or where the message ends. */
const OWN_HEADERS: readonly string[] = [
  ...["host", "connection", "content-length", "transfer-encoding", "accept-encoding", "expect"],
  ...["keep-alive", "proxy-connection", "te", "trailer", "upgrade"],
];

const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const HEADER_VALUE = /^[\t\x20-\x7e]*$/;

/** The bytes of a request. @throws {OutgoingError} for a header that would be another, or more than one. */
function renderRequest(
  { method, headers = {}, body }: OutgoingRequest,
  target: Target,
): Uint8Array {
  const given = Object.entries(headers).map(([name, value]) =>
    [name.toLowerCase(), value] as const
  );
  for (const [name, value] of given) {
    const isGood = HEADER_NAME.test(name) && HEADER_VALUE.test(value) &&
      !OWN_HEADERS.includes(name);
    // Neither is repeated: a value may be a secret, and a name that is wrong may be one as well.
    if (!isGood) throw refuseFor(target.host, "one of its headers is not allowed");
  }
  const content = new TextEncoder().encode(body ?? "");
  const all: [string, string][] = [
    ["host", target.authority],
    ...Object.entries({ "user-agent": "pgvigil", "accept": "*/*", ...Object.fromEntries(given) }),
    ["accept-encoding", "identity"],
    ["connection", "close"],
  ];
  const isBodyExpected = method === "POST" || method === "PUT";
  if (isBodyExpected || body !== undefined) all.push(["content-length", String(content.length)]);
  const lines = all.map(([name, value]) => `${name}: ${value}\r\n`).join("");
  const head = new TextEncoder().encode(`${method} ${target.path} HTTP/1.1\r\n${lines}\r\n`);
  const message = new Uint8Array(head.length + content.length);
  message.set(head);
  message.set(content, head.length);
  return message;
}

/** Looks the host up, once; an address is its own. */
async function findAddresses(
  { host }: Target,
  world: OutgoingWorld,
  deadline: AbortSignal,
): Promise<readonly string[]> {
  if (judgeAddress(host) !== null) return [host];
  const found = await within(deadline, world.resolve(host)).catch((cause) => {
    throw toOutgoingError(cause, host, "its name cannot be resolved");
  });
  if (found.length > 0) return found;
  throw new OutgoingError("unreachable", `Cannot send to ${host}: its name has no address`);
}

/** The addresses to try, in order. @throws {OutgoingError} if even one, tried or not, is not allowed. */
function judgeAddresses(
  found: readonly string[],
  { host, isEncrypted }: Target,
  isLoopbackAllowed: boolean,
): readonly JudgedAddress[] {
  const judged = [...new Set(found)].map(judgeAddress);
  const allowed = judged.filter((address) => address !== null).filter(({ kind }) =>
    isEncrypted && kind === "public" || isLoopbackAllowed && kind === "loopback"
  );
  if (allowed.length === judged.length) {
    return allowed.toSorted((one, other) => one.family - other.family);
  }
  // The address is not told: it would be a look into the network we are in.
  throw refuseFor(
    host,
    isEncrypted ? "its address is not a public one" : "http is allowed to this machine only",
  );
}

/** Connects to the first address at which somebody is. Nothing is said to those before it. */
async function openFirst(
  addresses: readonly JudgedAddress[],
  { host, port, isEncrypted }: Target,
  timeoutSeconds: number,
  world: OutgoingWorld,
  deadline: AbortSignal,
): Promise<OpenSocket> {
  const tried = addresses.slice(0, TRIED_ADDRESSES_LIMIT);
  let failure: unknown;
  for (const [index, { text: address }] of tried.entries()) {
    const isLast = index === tried.length - 1;
    const share = isLast ? deadline : world.startTimer(timeoutSeconds / tried.length);
    const end = AbortSignal.any([deadline, share]);
    const target = { address, port, certifiedName: isEncrypted ? host : null };
    try {
      return await within(end, world.open(target, end));
    } catch (error) {
      // Looked at up to here, or Node 20 would let the collector have the timer: AbortSignal.any does not hold it.
      failure = share.aborted ? new OutOfTime() : error;
      if (deadline.aborted) break;
    }
  }
  throw toOutgoingError(failure, host, "the connection failed");
}

/** Sends the request and reads the answer. */
async function exchange(
  socket: OpenSocket,
  message: Uint8Array,
  method: string,
  { host }: Target,
  deadline: AbortSignal,
): Promise<HttpAnswer> {
  const reader = new AnswerReader(method);
  // Not waited for: who has read enough to say no answers before all is sent, and reads no more of it.
  socket.write(message).catch(() => {});
  try {
    for (let isEnough = false; !isEnough;) {
      const bytes = await within(deadline, socket.read());
      if (bytes !== null) isEnough = reader.push(bytes);
      else isEnough = reader.end();
    }
  } catch (cause) {
    if (reader.answer !== null) return reader.answer;
    throw toOutgoingError(cause, host, "the connection broke", true);
  }
  if (reader.answer !== null) return reader.answer;
  throw toOutgoingError(undefined, host, "it hung up", true);
}

/** Thrown by {@link within}; says no more than that. */
class OutOfTime extends Error {
  override readonly name = "OutOfTime";
}

/** The result of `work`, unless `end` is given first. @throws {OutOfTime} */
function within<T>(end: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(new OutOfTime());
    if (end.aborted) stop();
    end.addEventListener("abort", stop, { once: true });
    work.then(resolve, reject).finally(() => end.removeEventListener("abort", stop));
  });
}

/** @param otherwise what is said of a failure that has no words of its own. */
function toOutgoingError(
  cause: unknown,
  host: string,
  otherwise: string,
  mayHaveArrived = false,
): OutgoingError {
  const options = { mayHaveArrived, cause };
  if (cause instanceof MalformedAnswer) {
    const message = `Cannot use the answer of ${host}: ${cause.message}`;
    return new OutgoingError("malformed", message, options);
  }
  if (cause instanceof OutOfTime) {
    return new OutgoingError("timed_out", `Cannot send to ${host}: no answer in time`, options);
  }
  const reason = !(cause instanceof SocketError)
    ? otherwise
    : cause.stage === "connect"
    ? `nobody answers there (${cause.reason})`
    : `there is no secure connection with it (${cause.reason})`;
  return new OutgoingError("unreachable", `Cannot send to ${host}: ${reason}`, options);
}
