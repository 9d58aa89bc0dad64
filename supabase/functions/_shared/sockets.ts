import { connect as connectTcp, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";

/** Where to connect to, and who has to be there. */
export interface SocketTarget {
  /** An address of the Internet Protocol, never a name: nothing is looked up here. */
  readonly address: string;
  readonly port: number;
  /** Whose certificate it has to be, a name or an address; null for a connection that is not encrypted. */
  readonly certifiedName: string | null;
  /** Certificates in PEM to trust; those that the runtime trusts by default. */
  readonly authorities?: readonly string[];
}

/** A connection on which something may be said: who is at the other end has been checked. */
export interface OpenSocket {
  write(bytes: Uint8Array): Promise<void>;
  /** What has come in, null at the end. */
  read(): Promise<Uint8Array | null>;
  /** Ends it at once, and what is being read or written with an error. Once more does nothing. */
  close(): void;
}

/** A connection that did not come about. `reason` is the code or the kind of what went wrong, without names. */
export class SocketError extends Error {
  override readonly name = "SocketError";
  /** Whether nobody answered at the address, or who did is not whom we want. */
  readonly stage: "connect" | "certify";
  readonly reason: string;

  constructor(stage: SocketError["stage"], cause: unknown) {
    const reason = nameReason(cause);
    super(`Cannot ${stage}: ${reason}`, { cause });
    this.stage = stage;
    this.reason = reason;
  }
}

/**
 * Connects, and checks who is there, before anything is said. `signal` gives it up.
 *
 * Two ways to the same end. Deno's `node:https` sends requests with its own client, which checks the certificate
 * against the address and ignores `servername` (2.1.4). Its `node:tls` calls a connection secure also when its
 * certificate is bad, and cannot be told to stop in the middle of a handshake. Its own sockets can: only the connection
 * below them stays until the other end, or the isolate, ends it.
 *
 * @throws {SocketError}
 */
export async function openSocket(target: SocketTarget, signal: AbortSignal): Promise<OpenSocket> {
  // It would not be given again.
  if (signal.aborted) throw new SocketError("connect", signal.reason);
  return await (deno === undefined ? openInNode(target, signal) : openInDeno(deno, target, signal));
}

/** How many bytes are read at a time. */
const READ_BYTES = 16_384;

/** One protocol only: the answer is read as HTTP/1.1. */
const PROTOCOLS = ["http/1.1"];

/** What Deno says of a certificate, less the names in it. */
const BAD_CERTIFICATE = /invalid peer certificate: ([A-Za-z]+)/;

function nameReason(cause: unknown): string {
  if (!(cause instanceof Error)) return "unknown";
  const certificate = BAD_CERTIFICATE.exec(cause.message)?.[1];
  if (certificate !== undefined) return certificate;
  return "code" in cause && typeof cause.code === "string" ? cause.code : cause.name;
}

interface DenoConnection {
  read(buffer: Uint8Array): Promise<number | null>;
  write(bytes: Uint8Array): Promise<number>;
  close(): void;
}

/** The sockets of Deno, as far as they are used here. */
interface DenoSockets {
  connect(options: { hostname: string; port: number }): Promise<DenoConnection>;
  startTls(
    connection: DenoConnection,
    options: { hostname: string; caCerts?: string[]; alpnProtocols: string[] },
  ): Promise<DenoConnection & { handshake(): Promise<unknown> }>;
}

/** Undefined in Node. */
const { Deno: deno } = globalThis as unknown as { readonly Deno?: DenoSockets };

async function openInDeno(
  { connect, startTls }: DenoSockets,
  { address, port, certifiedName, authorities }: SocketTarget,
  signal: AbortSignal,
): Promise<OpenSocket> {
  let stage: SocketError["stage"] = "connect";
  let connection: DenoConnection | undefined;
  const close = () => {
    try {
      connection?.close();
    } catch {
      // It is closed already.
    }
  };
  signal.addEventListener("abort", close, { once: true });
  try {
    connection = await connect({ hostname: address, port });
    // Connecting cannot be stopped: it may come about after nobody waits for it any more.
    signal.throwIfAborted();
    if (certifiedName !== null) {
      stage = "certify";
      const secured = await startTls(connection, {
        hostname: certifiedName,
        alpnProtocols: PROTOCOLS,
        ...(authorities !== undefined && { caCerts: [...authorities] }),
      });
      connection = secured;
      signal.throwIfAborted();
      await secured.handshake();
    }
  } catch (error) {
    close();
    throw new SocketError(stage, error);
  } finally {
    signal.removeEventListener("abort", close);
  }

  const opened = connection;
  const buffer = new Uint8Array(READ_BYTES);
  return {
    async write(bytes) {
      for (let sent = 0; sent < bytes.length;) sent += await opened.write(bytes.subarray(sent));
    },
    async read() {
      const length = await opened.read(buffer);
      return length === null ? null : buffer.slice(0, length);
    },
    close,
  };
}

async function openInNode(
  { address, port, certifiedName, authorities }: SocketTarget,
  signal: AbortSignal,
): Promise<OpenSocket> {
  const to = { host: address, port };
  const socket: Socket = certifiedName === null ? connectTcp(to) : connectTls({
    ...to,
    // Without a name it is the address that has to be in the certificate.
    ...(isIP(certifiedName) === 0 && { servername: certifiedName }),
    ALPNProtocols: PROTOCOLS,
    // Whatever the environment says.
    rejectUnauthorized: true,
    ...(authorities !== undefined && { ca: [...authorities] }),
  });
  const close = () => void socket.destroy();
  let stage: SocketError["stage"] = "connect";
  try {
    await new Promise<void>((resolve, reject) => {
      signal.addEventListener("abort", close, { once: true });
      socket.on("error", reject);
      socket.on("close", () => reject(new Error("closed")));
      socket.on("connect", () => stage = "certify");
      socket.on(certifiedName === null ? "connect" : "secureConnect", () => resolve());
    });
  } catch (error) {
    throw new SocketError(stage, error);
  } finally {
    signal.removeEventListener("abort", close);
  }

  const chunks = socket[Symbol.asyncIterator]();
  return {
    write: (bytes) =>
      new Promise((resolve, reject) =>
        socket.write(bytes, (error) => error ? reject(error) : resolve())
      ),
    async read() {
      const { done, value } = await chunks.next();
      return done ? null : value as Uint8Array;
    },
    close,
  };
}
