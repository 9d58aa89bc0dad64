import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { denoBinary, denoEnvironment, PROJECT_ROOT } from "../../local/binaries.ts";
import { allowsLoopback, ConfigurationError } from "../../supabase/functions/_shared/env.ts";
import {
  OutgoingError,
  type OutgoingRequest,
  type OutgoingWorld,
  realWorld,
  sendOutgoing,
  TRIED_ADDRESSES_LIMIT,
} from "../../supabase/functions/_shared/outgoing.ts";
import { SocketError, type SocketTarget } from "../../supabase/functions/_shared/sockets.ts";
import { type Ending, runCases, SECRET } from "./outgoing-cases.ts";
import { type OutgoingServers, startOutgoingServers } from "./outgoing-servers.ts";

const PUBLIC = "93.184.215.14";
const OTHER_PUBLIC = "2606:2800:21f:cb07:6820:80da:af6b:8b2c";
const NEVER = new Promise<never>(() => {});
const bytesOf = (text: string) => new TextEncoder().encode(text);

interface Fakes {
  /** Of the host, or what looking it up fails with. */
  addresses?: readonly string[] | Error | Promise<never>;
  isLoopbackAllowed?: boolean;
  /** What each connection gives when it is read from; an error if it does not come about. */
  connections?:
    readonly (readonly (string | null | Error | Promise<never>)[] | Error | Promise<never>)[];
}

/** A world in which nothing is sent anywhere, and what was tried in it. */
function fake({ addresses = [PUBLIC], isLoopbackAllowed = false, connections = [] }: Fakes = {}) {
  const resolved: string[] = [];
  const opened: SocketTarget[] = [];
  const sent: string[] = [];
  const timers: { seconds: number; stop(): void }[] = [];
  let closedCount = 0;
  const world: OutgoingWorld = {
    resolve: (host) => {
      resolved.push(host);
      return addresses instanceof Error ? Promise.reject(addresses) : Promise.resolve(addresses);
    },
    startTimer: (seconds) => {
      const controller = new AbortController();
      timers.push({ seconds, stop: () => controller.abort() });
      return controller.signal;
    },
    allowsLoopback: () => isLoopbackAllowed,
    open: async (target) => {
      const reads =
        await (connections[opened.push(target) - 1] ?? ["HTTP/1.1 200 OK\r\n\r\n", null]);
      if (reads instanceof Error) throw reads;
      const left = [...reads];
      return {
        write: (bytes) => Promise.resolve(void sent.push(new TextDecoder().decode(bytes))),
        read: async () => {
          const next = await left.shift();
          if (next instanceof Error) throw next;
          return typeof next === "string" ? bytesOf(next) : null;
        },
        close: () => closedCount += 1,
      };
    },
  };
  const send = (url: string, request: Partial<OutgoingRequest> = {}) =>
    sendOutgoing({ method: "POST", url, ...request }, 6, world);
  return { send, resolved, opened, sent, timers, closedCount: () => closedCount };
}

const failureOf = async (sending: Promise<unknown>): Promise<OutgoingError> => {
  const error = await sending.then(() => "sent", (error: unknown) => error);
  if (!(error instanceof OutgoingError)) throw error;
  expect(error.message).not.toContain(SECRET);
  return error;
};
const HOOK = `https://hooks.example.com/services/${SECRET}?key=${SECRET}`;

describe("what sendOutgoing() refuses", () => {
  it.each([
    ["no URL", `hooks.example.com/${SECRET}`, "the address is not a URL"],
    ["another scheme", `ftp://hooks.example.com/${SECRET}`, "the address is not one of https"],
    ["no scheme that has hosts", `data:,${SECRET}`, "the address is not one of https"],
    ["http", `http://hooks.example.com/${SECRET}`, "only https is allowed"],
    ["a user name", `https://${SECRET}@hooks.example.com/`, "a user name or a password"],
    ["a password", `https://:${SECRET}@hooks.example.com/`, "a user name or a password"],
    ["no host", `https://./${SECRET}`, "no name of a host"],
    ["a name that can be none", `https://a..b/${SECRET}`, "no name of a host"],
    ["a pattern", `https://*.example.com/${SECRET}`, "no name of a host"],
    ["a name that is too long", `https://${"a".repeat(64)}.com/${SECRET}`, "no name of a host"],
    ["an address with a zone", `https://[fe80::1%25eth0]/${SECRET}`, "the address is not a URL"],
  ])("%s", async (_, url, reason) => {
    const { send, resolved, opened, timers } = fake();
    const error = await failureOf(send(url));
    expect(error).toMatchObject({ kind: "refused", mayHaveArrived: false });
    expect(error.message).toContain(reason);
    expect([resolved, opened, timers]).toEqual([[], [], []]);
  });

  it.each([
    ...["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "127.0.0.1."],
    ...["１２７.0.0.1", "0", "10.1", "0xa9fea9fe", "169.254.169.254", "[::1]", "[::]"],
    ...["[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[fd00:ec2::254]", "[fe80::1]"],
    ...["[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]"],
  ])("the address %s, without a look-up", async (host) => {
    const { send, resolved, opened } = fake();
    const error = await failureOf(send(`https://${host}/${SECRET}`));
    expect(error).toMatchObject({ kind: "refused", mayHaveArrived: false });
    expect(error.message).toContain("its address is not a public one");
    expect([resolved, opened]).toEqual([[], []]);
  });

  it.each([
    ["a private address", ["10.0.0.1"]],
    ["loopback", ["127.0.0.1"]],
    ["metadata", ["169.254.169.254"]],
    ["one of two that is private", [PUBLIC, "192.168.1.1"]],
    ["one of two over IPv6", [OTHER_PUBLIC, "fd00::1"]],
    ["one behind those that would be tried", [...Array(9).fill(PUBLIC), "10.0.0.1"]],
    ["an address with a zone", [`${OTHER_PUBLIC}%eth0`]],
    ["what is no address", [PUBLIC, "localhost"]],
  ])("a name with %s, and tells no address", async (_, addresses) => {
    const { send, opened } = fake({ addresses });
    const error = await failureOf(send(HOOK));
    expect(error).toMatchObject({
      kind: "refused",
      message: "Cannot send to hooks.example.com: its address is not a public one",
    });
    expect(opened).toEqual([]);
  });

  it.each([
    ["host", "other.example.com"],
    ["Content-Length", "1"],
    ["transfer-encoding", "chunked"],
    ["connection", "keep-alive"],
    ["x-key", `a\r\nx-other: ${SECRET}`],
    ["x-key", `a\n${SECRET}`],
    ["x-key", `a\0${SECRET}`],
    ["x-key", `${SECRET}é`],
    [`x: ${SECRET}`, "a"],
    ["", SECRET],
  ])("the header %j", async (name, value) => {
    const { send, opened } = fake();
    const error = await failureOf(send(HOOK, { headers: { [name]: value } }));
    expect([error.kind, opened]).toEqual(["refused", []]);
  });
});

describe("what sendOutgoing() takes to this machine where that is allowed", () => {
  it.each([
    ["https to its name", "https://localhost/", ["127.0.0.1", "::1"], true],
    ["http to its name", "http://localhost:8080/", ["127.0.0.1"], true],
    ["http to its address", "http://127.0.0.1:8080/", [], true],
    ["https elsewhere", HOOK, [PUBLIC], true],
    ["http elsewhere", "http://example.com/", [PUBLIC], false],
    ["http to this machine and elsewhere", "http://example.com/", ["127.0.0.1", PUBLIC], false],
    ["https to a private address", HOOK, ["10.0.0.1"], false],
    ["https to metadata", "https://169.254.169.254/", [], false],
    ["http to nothing in particular", "http://0.0.0.0/", [], false],
    ["http to a mapped address", "http://[::ffff:127.0.0.1]/", [], false],
  ])("%s: %s", async (_, url, addresses, isTaken) => {
    const { send, opened } = fake({ addresses, isLoopbackAllowed: true });
    if (isTaken) expect(await send(url)).toMatchObject({ status: 200 });
    else expect((await failureOf(send(url))).kind).toBe("refused");
    expect(opened).toHaveLength(isTaken ? 1 : 0);
  });
});

describe("how sendOutgoing() connects", () => {
  it("asks once, and connects to the address that was judged, under the name", async () => {
    const { send, resolved, opened, closedCount } = fake();
    await send(HOOK);
    expect(resolved).toEqual(["hooks.example.com"]);
    expect(opened).toEqual([{ address: PUBLIC, port: 443, certifiedName: "hooks.example.com" }]);
    expect(closedCount()).toBe(1);
  });

  it.each([
    ["https://example.com:8443/", { port: 8443, certifiedName: "example.com" }],
    ["https://EXAMPLE.com./", { port: 443, certifiedName: "example.com" }],
    ["https://bücher.example/", { port: 443, certifiedName: "xn--bcher-kva.example" }],
    [`https://${PUBLIC}/`, { address: PUBLIC, certifiedName: PUBLIC }],
    [`https://[${OTHER_PUBLIC}]/`, { address: OTHER_PUBLIC, certifiedName: OTHER_PUBLIC }],
  ])("%s", async (url, target) => {
    const { send, opened } = fake();
    await send(url);
    expect(opened).toMatchObject([target]);
  });

  const refused = () =>
    new SocketError("connect", Object.assign(new Error(), { code: "ECONNREFUSED" }));

  it("tries the next address when nobody is at one, IPv4 first, each for its share of the time", async () => {
    const { send, opened, timers } = fake({
      addresses: [OTHER_PUBLIC, PUBLIC, PUBLIC],
      connections: [refused()],
    });
    expect(await send(HOOK)).toMatchObject({ status: 200 });
    expect(opened.map(({ address }) => address)).toEqual([PUBLIC, OTHER_PUBLIC]);
    expect(timers.map(({ seconds }) => seconds)).toEqual([6, 3]);
  });

  it("goes on to the next when the share of one is over", async () => {
    const { send, opened, timers } = fake({
      addresses: [OTHER_PUBLIC, PUBLIC],
      connections: [NEVER],
    });
    const sending = send(HOOK);
    await vi.waitFor(() => expect(timers).toHaveLength(2));
    timers[1]!.stop();
    expect(await sending).toMatchObject({ status: 200 });
    expect(opened).toHaveLength(2);
  });

  it("gives up after some", async () => {
    const addresses = Array.from({ length: 9 }, (_, n) => `93.184.215.${n}`);
    const { send, opened } = fake({ addresses, connections: addresses.map(refused) });
    expect(await failureOf(send(HOOK))).toMatchObject({
      kind: "unreachable",
      message: "Cannot send to hooks.example.com: nobody answers there (ECONNREFUSED)",
      mayHaveArrived: false,
    });
    expect(opened).toHaveLength(TRIED_ADDRESSES_LIMIT);
  });

  it("says that there is no such name", async () => {
    const missing = Object.assign(new Error(`getaddrinfo ENOTFOUND ${SECRET}`), {
      code: "ENOTFOUND",
    });
    expect(await failureOf(fake({ addresses: missing }).send(HOOK))).toMatchObject({
      kind: "unreachable",
      message: "Cannot send to hooks.example.com: its name cannot be resolved",
    });
    expect(await failureOf(fake({ addresses: [] }).send(HOOK))).toMatchObject({
      kind: "unreachable",
      message: "Cannot send to hooks.example.com: its name has no address",
    });
  });
});

describe("what sendOutgoing() says", () => {
  it("is one request, with the headers that belong to it", async () => {
    const { send, sent } = fake();
    await send("https://example.com:8443/a b?c=d#e", {
      headers: { "Content-Type": "application/json", "x-key": "k", "User-Agent": "other" },
      body: '{"é":1}',
    });
    const [head, body] = sent[0]!.split("\r\n\r\n");
    expect(head!.split("\r\n")).toEqual([
      "POST /a%20b?c=d HTTP/1.1",
      "host: example.com:8443",
      "user-agent: other",
      "accept: */*",
      "content-type: application/json",
      "x-key: k",
      "accept-encoding: identity",
      "connection: close",
      "content-length: 8",
    ]);
    expect([body, sent.length]).toEqual(['{"é":1}', 1]);
  });

  it.each([["GET", false], ["HEAD", false], ["POST", true], ["PUT", true]] as const)(
    "%s without a body has a length: %s",
    async (method, hasLength) => {
      const { send, sent } = fake();
      await send(HOOK, { method });
      expect(sent[0]!.includes("content-length: 0\r\n")).toBe(hasLength);
    },
  );
});

describe("when sendOutgoing() ends", () => {
  const stopAt = async (fakes: Fakes, when: (world: ReturnType<typeof fake>) => void) => {
    const world = fake(fakes);
    const sending = world.send(HOOK);
    const settled = sending.then((answer) => answer, (error: unknown) => error);
    await vi.waitFor(() => when(world));
    world.timers[0]!.stop();
    return { ending: await settled, ...world };
  };
  const TIMED_OUT = {
    kind: "timed_out",
    message: "Cannot send to hooks.example.com: no answer in time",
  };

  it.each([
    ["the name is not resolved", { addresses: NEVER }, 0, false],
    ["nobody takes the connection", { connections: [NEVER] }, 1, false],
    ["nothing comes back", { connections: [[NEVER]] }, 1, true],
    ["half a head comes back", { connections: [["HTTP/1.1 200", NEVER]] }, 1, true],
  ])("at the time-out when %s", async (_, fakes: Fakes, openedCount, mayHaveArrived) => {
    const { ending, opened, closedCount, sent } = await stopAt(
      fakes,
      ({ resolved, opened, sent }) => {
        expect(resolved).toHaveLength(1);
        expect(opened).toHaveLength(openedCount);
        expect(sent).toHaveLength(mayHaveArrived ? 1 : 0);
      },
    );
    expect(ending).toMatchObject({ ...TIMED_OUT, mayHaveArrived });
    expect(opened).toHaveLength(openedCount);
    expect(closedCount()).toBe(sent.length);
  });

  it.each([
    ["the body does not come", ["HTTP/1.1 503 Busy\r\ncontent-length: 5\r\n\r\n", NEVER], ""],
    ["the body does not end", ["HTTP/1.1 503 Busy\r\n\r\nwait", NEVER], "wait"],
  ])("with an answer at the time-out when %s", async (_, reads, body) => {
    const { ending, closedCount } = await stopAt({ connections: [reads] }, ({ sent }) => {
      expect(sent).toHaveLength(1);
    });
    expect(ending).toMatchObject({ status: 503, body, isTruncated: true });
    expect(closedCount()).toBe(1);
  });

  it("with an answer when the connection breaks in the body", async () => {
    const reads = ["HTTP/1.1 200 OK\r\n\r\nhel", new Error(`reset ${SECRET}`)];
    expect(await fake({ connections: [reads] }).send(HOOK))
      .toMatchObject({ status: 200, body: "hel", isTruncated: true });
  });

  it.each([
    ["it hangs up", [null], "unreachable", "it hung up"],
    ["it breaks", [new Error(SECRET)], "unreachable", "the connection broke"],
    [
      "it stops in its headers",
      ["HTTP/1.1 200 OK\r\na: b", null],
      "malformed",
      "ends in its headers",
    ],
    [
      "it speaks something else",
      [`220 ${SECRET}\r\n`, null],
      "malformed",
      "does not begin as HTTP/1.1",
    ],
  ])("without an answer when %s", async (_, reads, kind, reason) => {
    const { send, closedCount } = fake({ connections: [reads] });
    const error = await failureOf(send(HOOK));
    expect(error).toMatchObject({ kind, mayHaveArrived: true });
    expect(error.message).toContain(reason);
    expect(error.message).toContain("hooks.example.com");
    expect(closedCount()).toBe(1);
  });
});

describe("allowsLoopback()", () => {
  it.each([[undefined, false], ["", false], ["0", false], ["1", true], [" 1 ", true]])(
    "is %j: %s",
    (value, isAllowed) => expect(allowsLoopback(() => value)).toBe(isAllowed),
  );

  it.each(["true", "yes", "2", "01"])("does not guess what %j means", (value) => {
    expect(() => allowsLoopback(() => value)).toThrow(ConfigurationError);
  });

  it("is asked before anything else", async () => {
    const world = { ...realWorld, allowsLoopback: () => allowsLoopback(() => "yes") };
    await expect(sendOutgoing({ method: "GET", url: "nonsense" }, 1, world)).rejects
      .toThrow(ConfigurationError);
  });
});

describe.each(["Node", "Deno 2.1.4"])("sendOutgoing() to real servers, from %s", (runtime) => {
  let servers: OutgoingServers;
  let endings: Record<string, Ending>;
  let localhost: readonly string[];
  let child: ChildProcess | undefined;

  beforeAll(async () => {
    servers = await startOutgoingServers();
    if (runtime === "Node") {
      endings = await runCases(servers);
      localhost = await realWorld.resolve("localhost");
      return;
    }
    child = spawn(denoBinary(), [
      ...["run", "--node-modules-dir=manual", "--cached-only", "--no-lock", "--no-prompt"],
      ...["--allow-net", "--allow-env", `--allow-read=${PROJECT_ROOT}`],
      join(import.meta.dirname, "outgoing-in-deno.ts"),
      JSON.stringify({ authority: servers.authority, ports: servers.ports }),
    ], {
      cwd: PROJECT_ROOT,
      env: { PATH: process.env.PATH, ...denoEnvironment() },
      stdio: ["pipe", "pipe", "inherit"],
    });
    const line = await new Promise<string>((resolve, reject) => {
      createInterface(child!.stdout!).once("line", resolve);
      child!.once("exit", (code) => reject(new Error(`Deno has ended with ${code}`)));
    });
    ({ endings, localhost } = JSON.parse(line));
  }, 60_000);

  afterAll(async () => {
    await servers?.stop();
    if (child === undefined || child.exitCode !== null) return;
    child.stdin!.end();
    await once(child, "exit");
  });

  const bodyOf = (name: string) => {
    const ending = endings[name]!;
    return "body" in ending ? JSON.parse(ending.body) : ending;
  };

  it("sends to the name that the certificate is for, with everything that belongs to it", () => {
    expect(bodyOf("a good server")).toEqual({
      method: "POST",
      url: "/echo?a=%20b",
      headers: {
        "host": `good.test:${servers.ports["good"]}`,
        "user-agent": "pgvigil",
        "accept": "*/*",
        "x-key": "v",
        "content-type": "text/plain",
        "accept-encoding": "identity",
        "connection": "close",
        "content-length": "3",
      },
      body: "hé",
      servername: "good.test",
    });
    expect(bodyOf("GET")).toMatchObject({ method: "GET", body: "" });
    expect(endings["HEAD"]).toEqual({ status: 200, body: "", isTruncated: false });
    expect(bodyOf("plain http to this machine")).toMatchObject({ url: "/echo" });
  });

  it("names nobody to a server that is known by its address", () => {
    expect(bodyOf("an address with its own certificate")).toMatchObject({ servername: false });
  });

  it("goes to the address that was judged, or the next", () => {
    expect(bodyOf("a name that changes its address")).toMatchObject({ servername: "good.test" });
    expect(bodyOf("the second address")).toMatchObject({ servername: "good.test" });
  });

  it("follows no redirect", () => {
    expect(endings["a redirect"]).toEqual({ status: 302, body: "elsewhere", isTruncated: false });
    expect(servers.seen.filter((line) => line.includes("/redirect"))).toHaveLength(1);
  });

  it("reads no more than the beginning of a body, and takes an early answer", () => {
    expect(endings["an endless body"]).toMatchObject({
      ...{ status: 200, body: "x".repeat(16_384), isTruncated: true },
    });
    expect(endings["an answer before the whole body is sent"]).toMatchObject({ status: 413 });
  });

  it.each([
    ["a certificate for another name", "unreachable", "no secure connection"],
    ["a certificate for the address only", "unreachable", "no secure connection"],
    ["a certificate of a stranger", "unreachable", "no secure connection"],
    ["a certificate that has expired", "unreachable", "no secure connection"],
    ["no encryption at the other end", "unreachable", "no secure connection"],
    ["nobody", "unreachable", "nobody answers there"],
    ["this machine where it is not allowed", "refused", "not a public one"],
    ["plain http where it is not allowed", "refused", "only https is allowed"],
    ["a server that does not shake hands", "timed_out", "no answer in time"],
  ])("says nothing to %s", (name, kind, reason) => {
    expect(endings[name]).toMatchObject({ kind, mayHaveArrived: false });
    expect(endings[name]).toHaveProperty("message", expect.stringContaining(reason));
  });

  it.each([
    ["a server that does not answer", "timed_out"],
    ["a server that hangs up", "unreachable"],
    ["a server that speaks something else", "malformed"],
  ])("gives up %s", (name, kind) => {
    expect(endings[name]).toMatchObject({ kind, mayHaveArrived: true });
  });

  it("has told nobody who was not to know, and repeats nothing of a URL", () => {
    expect(servers.seen.filter((line) => !/^(good|address|plain): /.test(line))).toEqual([]);
    expect(servers.seen.filter((line) => line.includes(SECRET))).toEqual([]);
    expect(JSON.stringify(endings)).not.toContain(SECRET);
  });

  it("leaves no connection open", async () => {
    // While the sender is still there: its end would close them all. Deno holds on to an unfinished handshake.
    await servers.allClosed(runtime === "Node" ? [] : ["silent"]);
    expect(child?.exitCode ?? null).toBeNull();
  });

  it("looks names up as the system does", () => {
    expect(localhost).toContain("127.0.0.1");
  });
});
