/** Servers of all kinds to send to, on free ports of this machine. */
import { createServer as createHttpServer, type RequestListener } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import {
  type AddressInfo,
  createServer as createTcpServer,
  type Server,
  type Socket,
} from "node:net";
import { text } from "node:stream/consumers";
import { setImmediate } from "node:timers";
import { createServer as createTlsServer, type TLSSocket } from "node:tls";
import { makeAuthority } from "../certificates.ts";
import type { ServersAt } from "./outgoing-cases.ts";

/** Running servers, and what they have seen. */
export interface OutgoingServers extends ServersAt {
  /** Lines like `wrong: POST /echo`, one for each request that came in. */
  readonly seen: readonly string[];
  /** Resolves when every connection to a server has ended, but for those to the ones named. */
  allClosed(except?: readonly string[]): Promise<void>;
  stop(): Promise<void>;
}

/** Starts one of each kind. */
export async function startOutgoingServers(): Promise<OutgoingServers> {
  const authority = makeAuthority();
  const good = authority.issue("good.test");
  const seen: string[] = [];
  const closings: { name: string; closing: Promise<void> }[] = [];
  const open = new Set<Socket>();

  const answer = (name: string): RequestListener => async (request, response) => {
    const { method, url, headers, socket } = request;
    seen.push(`${name}: ${method} ${url}`);
    switch (url) {
      case "/redirect":
        response.writeHead(302, { location: "/echo" }).end("elsewhere");
        return;
      case "/endless": {
        const more = () => void (response.write("x".repeat(1000)) && setImmediate(more));
        response.on("drain", more).on("close", () => response.removeListener("drain", more));
        more();
        return;
      }
      case "/early":
        response.writeHead(413, { connection: "close" }).end("too much");
        return;
      default: {
        const { servername } = socket as TLSSocket;
        const body = await text(request);
        response.end(JSON.stringify({ method, url, headers, body, servername }));
      }
    }
  };
  const stranger = makeAuthority().issue("good.test");
  const servers: Record<string, Server> = {
    good: createHttpsServer(good, answer("good")),
    address: createHttpsServer(authority.issue("127.0.0.1"), answer("address")),
    wrong: createHttpsServer(authority.issue("other.test"), answer("wrong")),
    untrusted: createHttpsServer(stranger, answer("untrusted")),
    expired: createHttpsServer(authority.issue("good.test", 2021), answer("expired")),
    plain: createHttpServer(answer("plain")),
    silent: createTcpServer((socket) => void socket.resume()),
    mute: createTlsServer(good, (socket) => socket.resume()),
    rude: createTlsServer(good, (socket) => socket.once("data", () => socket.end())),
    garbage: createTlsServer(good, (socket) => socket.once("data", () => socket.end("220 hi\r\n"))),
    nobody: createTcpServer(),
  };
  const ports: Record<string, number> = {};
  for (const [name, server] of Object.entries(servers)) {
    server.on("connection", (socket) => {
      open.add(socket);
      socket.on("error", () => {});
      const closing = new Promise<void>((resolve) =>
        socket.on("close", () => {
          open.delete(socket);
          resolve();
        })
      );
      closings.push({ name, closing });
    });
    // Of a handshake that was broken off; of a request that is none.
    server.on("tlsClientError", () => {});
    server.on("clientError", (_error: Error, socket: Socket) => socket.destroy());
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    ports[name] = (server.address() as AddressInfo).port;
  }
  await new Promise((resolve) => servers["nobody"]!.close(resolve));

  return {
    authority: authority.certificate,
    ports,
    seen,
    async allClosed(except = []) {
      const awaited = closings.filter(({ name }) => !except.includes(name));
      await Promise.all(awaited.map(({ closing }) => closing));
    },
    async stop() {
      for (const socket of open) socket.destroy();
      await Promise.all(
        Object.values(servers).map((server) => new Promise((resolve) => server.close(resolve))),
      );
    },
  };
}
