import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  AnswerReader,
  BODY_BYTES_LIMIT,
  HEAD_BYTES_LIMIT,
  type HttpAnswer,
  MalformedAnswer,
} from "../../supabase/functions/_shared/http-answer.ts";

const toBytes = (text: string) => new TextEncoder().encode(text);

/** What is read of `text`, all at once or in pieces, until the end of the connection or until nothing is wanted. */
function read(
  text: string | Uint8Array,
  { method = "POST", pieceBytes = Infinity, isEnded = true } = {},
): HttpAnswer | null {
  const bytes = typeof text === "string" ? toBytes(text) : text;
  const reader = new AnswerReader(method);
  for (let offset = 0; offset < bytes.length; offset += pieceBytes) {
    if (reader.push(bytes.subarray(offset, offset + pieceBytes))) return reader.answer;
  }
  if (isEnded) reader.end();
  return reader.answer;
}

const OK = "HTTP/1.1 200 OK\r\n";
const CHUNKED = `${OK}transfer-encoding: chunked\r\n\r\n`;

describe("AnswerReader", () => {
  it("reads status, headers and a body of known length, and wants no more", () => {
    const answer = read(
      "HTTP/1.1 429 Too Many\r\nRetry-After:  7 \r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\nhi and more",
    );
    expect(answer).toEqual({
      status: 429,
      headers: { "retry-after": "7", "x-a": "1, 2", "content-length": "2" },
      body: "hi",
      isTruncated: false,
    });
  });

  it.each([
    ["chunks", `${CHUNKED}5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nx-t: 1\r\n\r\n`, "hello world"],
    [
      "capital letters",
      `${OK}Transfer-Encoding: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n`,
      "0123456789",
    ],
    ["the end of the connection", `${OK}\r\nhello`, "hello"],
    ["a length of 0", `${OK}content-length: 0\r\n\r\nx`, ""],
    ["HTTP/1.0 without a phrase", "HTTP/1.0 200\r\n\r\nhi", "hi"],
    ["line feeds alone", "HTTP/1.1 200 OK\ncontent-length: 2\n\nhi", "hi"],
    [
      "interim answers before",
      `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nlink: a\r\n\r\n${OK}\r\nhi`,
    ],
  ])("reads a body by %s", (_, text, body = "hi") => {
    for (const pieceBytes of [1, 3, Infinity]) {
      const answer = read(text, { pieceBytes });
      expect(answer).toMatchObject({ status: 200, isTruncated: false });
      expect(answer!.body).toBe(body);
      expect(answer!.headers).not.toHaveProperty("link");
    }
  });

  it.each([
    ["HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"],
    ["POST", "HTTP/1.1 204 No Content\r\n\r\n"],
    ["GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"],
  ])("waits for no body where there is none: %s", (method, text) => {
    expect(read(text, { method, isEnded: false })).toMatchObject({ body: "", isTruncated: false });
  });

  it.each([
    ["nothing after the head", `${OK}content-length: 5\r\n\r\n`, ""],
    ["less than was said", `${OK}content-length: 5\r\n\r\nhel`, "hel"],
    ["half a chunk", `${CHUNKED}5\r\nhel`, "hel"],
    ["no last chunk", `${CHUNKED}2\r\nhi\r\n`, "hi"],
    ["a chunk without a size", `${CHUNKED}2\r\nhi\r\nzz\r\n`, "hi"],
    ["a chunk that is longer than it says", `${CHUNKED}2\r\nhiya\r\n0\r\n\r\n`, "hi"],
    ["a size without an end", `${CHUNKED}${"0".repeat(300)}`, ""],
    [
      "half a character",
      new Uint8Array([...toBytes(`${OK}content-length: 9\r\n\r\na`), 0xc3]),
      "a",
    ],
  ])("is truncated with %s", (_, text, body) => {
    expect(read(text)).toMatchObject({ status: 200, body, isTruncated: true });
  });

  it.each([
    ["no HTTP", "SSH-2.0-OpenSSH_9.6\r\n"],
    ["HTTP/2", "HTTP/2 200 OK\r\n\r\n"],
    ["a status of no kind", "HTTP/1.1 999 Denied\r\n\r\n"],
    ["a change of protocol", "HTTP/1.1 101 Switching Protocols\r\n\r\n"],
    ["a header without a name", `${OK}: x\r\n\r\n`],
    ["a header over two lines", `${OK}a: b\r\n c\r\n\r\n`],
    ["a space behind the name", `${OK}a : b\r\n\r\n`],
    ["two lengths", `${OK}content-length: 1\r\ncontent-length: 2\r\n\r\n`],
    ["a length that is no number", `${OK}content-length: -1\r\n\r\n`],
    ["another coding", `${OK}transfer-encoding: gzip, chunked\r\n\r\n`],
    ["the end in its headers", `${OK}content-le`],
  ])("refuses %s", (_, text) => expect(() => read(text)).toThrow(MalformedAnswer));

  it("has begun with the first byte, and is there with the last of the head", () => {
    const reader = new AnswerReader("GET");
    expect([reader.hasBegun, reader.answer]).toEqual([false, null]);
    reader.push(toBytes(`${OK}content-length: 2\r\n`));
    expect([reader.hasBegun, reader.answer]).toEqual([true, null]);
    reader.push(toBytes("\r\n"));
    expect(reader.answer).toMatchObject({ status: 200, body: "", isTruncated: true });
  });

  it.each([
    [BODY_BYTES_LIMIT, false],
    [BODY_BYTES_LIMIT + 1, true],
  ])("reads a body of %i bytes, truncated: %s", (length, isTruncated) => {
    const body = "x".repeat(length);
    const sizeLine = `${length.toString(16)}\r\n`;
    for (
      const text of [
        `${OK}content-length: ${length}\r\n\r\n${body}`,
        `${OK}\r\n${body}`,
        `${CHUNKED}${sizeLine}${body}\r\n0\r\n\r\n`,
      ]
    ) {
      const answer = read(text, { pieceBytes: 1000 });
      expect(answer).toMatchObject({ isTruncated });
      expect(answer!.body).toHaveLength(BODY_BYTES_LIMIT);
    }
  });

  it.each([[HEAD_BYTES_LIMIT, true], [HEAD_BYTES_LIMIT + 1, false]])(
    "reads %i bytes of headers: %s",
    (length, isRead) => {
      const padding = length - `${OK}a: \r\n\r\n`.length;
      const text = `${OK}a: ${"x".repeat(padding)}\r\n\r\n`;
      if (isRead) expect(read(text)).toMatchObject({ status: 200 });
      else expect(() => read(text)).toThrow("too long");
    },
  );

  it("does not read interim answers without end", () => {
    expect(() => read("HTTP/1.1 100 Continue\r\n\r\n".repeat(1000))).toThrow("too long");
  });

  it("reads a value of many blanks in a time that grows with their number", () => {
    const text = `${OK}x: a${" ".repeat(HEAD_BYTES_LIMIT - 100)}\tb \t\r\n\r\n`;
    // So many that trying each blank with each other takes 25 s.
    for (let n = 0; n < 100; n++) expect(read(text)!.headers["x"]).toMatch(/^a *\tb$/);
  }, 10_000);

  it("reads the same however the bytes are cut, and any bytes without another error", () => {
    const answers = [
      `${CHUNKED}5\r\nhéll\r\n6\r\n world\r\n0\r\n\r\n`,
      `HTTP/1.1 500 No\r\ncontent-length: 7\r\na: b\r\n\r\nbroken!`,
    ];
    fc.assert(
      fc.property(fc.constantFrom(...answers), fc.integer({ min: 1, max: 20 }), (text, n) => {
        expect(read(text, { pieceBytes: n })).toEqual(read(text));
      }),
    );
    const noise = fc.constantFrom(...[
      "HTTP/1.1 200 OK",
      "\r\n",
      "a: b",
      "5",
      "transfer-encoding: chunked",
      "é",
      ":",
    ]);
    fc.assert(fc.property(fc.array(noise, { maxLength: 30 }), (parts) => {
      try {
        read(parts.join(""));
      } catch (error) {
        expect(error).toBeInstanceOf(MalformedAnswer);
      }
    }));
  });
});
