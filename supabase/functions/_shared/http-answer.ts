/** What a server has answered. */
export interface HttpAnswer {
  readonly status: number;
  /** By name in lower case; several of a name in one, as HTTP has it. */
  readonly headers: Readonly<Record<string, string>>;
  /** Its beginning, as UTF-8. */
  readonly body: string;
  /** Whether there was, or would have been, more of the body. */
  readonly isTruncated: boolean;
}

/** What has come in is no answer of HTTP/1.1. */
export class MalformedAnswer extends Error {
  override readonly name = "MalformedAnswer";
}

/** Most bytes of a status line and headers, those of interim answers included. */
export const HEAD_BYTES_LIMIT = 16_384;

/** Most bytes of a body that are read: people read it, and the errors of services are short. */
export const BODY_BYTES_LIMIT = 16_384;

/** Most bytes of a line that says how long the next chunk is. */
const CHUNK_LINE_BYTES_LIMIT = 256;

const LINE_FEED = 10;

const STATUS_LINE = /^HTTP\/1\.[01] ([1-5]\d\d)(?: .*)?$/;
// What is around the value is trimmed elsewhere: a pattern would try each of many blanks with each other.
const HEADER_LINE = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.*)$/;
const CHUNK_LINE = /^([0-9a-f]{1,8})[ \t]*(?:;.*)?$/i;

/** Where in an answer we are. */
type State =
  | { readonly at: "status" | "headers" | "chunk size" | "end of chunk" }
  /** So many bytes of the body come next, or as many as there are. */
  | { readonly at: "body" | "chunk"; left: number }
  | { readonly at: "done" };

/**
 * Reads one answer of HTTP/1.1 from bytes as they come, no more of them than the limits, in a time that grows with
 * their number however they are cut. Once status and headers are there, they are the answer: what is wrong with the
 * body, or missing, makes it truncated.
 *
 * @see RFC 9112
 */
export class AnswerReader {
  readonly #method: string;
  #state: State = { at: "status" };
  #line = "";
  #headBytes = 0;
  #status = 0;
  #headers = new Map<string, string>();
  readonly #body = new Uint8Array(BODY_BYTES_LIMIT);
  #bodyBytes = 0;
  #isWhole = false;

  /** @param method of the request: what HEAD is answered has no body. */
  constructor(method: string) {
    this.#method = method;
  }

  /** Takes what has come in. Returns whether nothing more is wanted. @throws {MalformedAnswer} */
  push(bytes: Uint8Array): boolean {
    let offset = 0;
    while (offset < bytes.length && this.#state.at !== "done") {
      const rest = bytes.subarray(offset);
      offset += "left" in this.#state ? this.#takeBody(rest, this.#state) : this.#takeLine(rest);
    }
    return this.#state.at === "done";
  }

  /** The other end has said that it was all. @throws {MalformedAnswer} if it is not even all of the head. */
  end(): true {
    if (this.answer !== null) {
      this.#finish(this.#state.at === "body" && this.#state.left === Infinity);
    } else if (this.hasBegun) {
      throw new MalformedAnswer("it ends in its headers");
    }
    return true;
  }

  /** Whether anything has come in. */
  get hasBegun(): boolean {
    return this.#headBytes > 0;
  }

  /** The answer as far as it has come, null as long as that is no whole head. */
  get answer(): HttpAnswer | null {
    const { at } = this.#state;
    if (at === "status" || at === "headers") return null;
    const body = this.#body.subarray(0, this.#bodyBytes);
    return {
      status: this.#status,
      headers: Object.fromEntries(this.#headers),
      // The half of a character at the cut is left out.
      body: new TextDecoder().decode(body, { stream: !this.#isWhole }),
      isTruncated: !this.#isWhole,
    };
  }

  /** Takes bytes up to the end of a line. Returns how many. */
  #takeLine(bytes: Uint8Array): number {
    const end = bytes.indexOf(LINE_FEED);
    const taken = end < 0 ? bytes.length : end + 1;
    const isHead = this.#state.at === "status" || this.#state.at === "headers";
    if (isHead) {
      this.#headBytes += taken;
      if (this.#headBytes > HEAD_BYTES_LIMIT) throw new MalformedAnswer("its headers are too long");
    } else if (this.#line.length + taken > CHUNK_LINE_BYTES_LIMIT) {
      this.#finish(false);
      return taken;
    }
    // One character for each byte: only ASCII has a meaning here.
    this.#line += String.fromCharCode(...bytes.subarray(0, taken));
    if (end >= 0) {
      const line = this.#line.replace(/\r?\n$/, "");
      this.#line = "";
      this.#readLine(line);
    }
    return taken;
  }

  #readLine(line: string): void {
    switch (this.#state.at) {
      case "status": {
        const status = STATUS_LINE.exec(line)?.[1];
        if (status === undefined) throw new MalformedAnswer("it does not begin as HTTP/1.1 does");
        this.#status = Number(status);
        this.#state = { at: "headers" };
        return;
      }
      case "headers": {
        if (line === "") return this.#beginBody();
        const [, name, value] = HEADER_LINE.exec(line) ?? [];
        if (name === undefined) throw new MalformedAnswer("one of its headers is none");
        const known = this.#headers.get(name.toLowerCase());
        const all = known === undefined ? value!.trim() : `${known}, ${value!.trim()}`;
        this.#headers.set(name.toLowerCase(), all);
        return;
      }
      case "chunk size": {
        const size = CHUNK_LINE.exec(line)?.[1];
        if (size === undefined) return this.#finish(false);
        const left = parseInt(size, 16);
        // What follows the last chunk is more headers, which nobody asks for.
        if (left === 0) return this.#finish(true);
        this.#state = { at: "chunk", left };
        return;
      }
      case "end of chunk":
        if (line !== "") return this.#finish(false);
        this.#state = { at: "chunk size" };
    }
  }

  #beginBody(): void {
    if (this.#status === 101) throw new MalformedAnswer("it changes the protocol");
    if (this.#status < 200) {
      this.#headers.clear();
      this.#state = { at: "status" };
      return;
    }
    const coding = this.#headers.get("transfer-encoding");
    const length = this.#headers.get("content-length");
    if (this.#method === "HEAD" || this.#status === 204 || this.#status === 304) {
      this.#finish(true);
    } else if (coding !== undefined) {
      if (coding.toLowerCase() !== "chunked") {
        throw new MalformedAnswer("its transfer-encoding is not chunked");
      }
      this.#state = { at: "chunk size" };
    } else if (length === undefined) {
      this.#state = { at: "body", left: Infinity };
    } else if (!/^\d{1,15}$/.test(length)) {
      throw new MalformedAnswer("its content-length is no number");
    } else if (Number(length) === 0) {
      this.#finish(true);
    } else {
      this.#state = { at: "body", left: Number(length) };
    }
  }

  /** Takes bytes of the body. Returns how many. */
  #takeBody(bytes: Uint8Array, state: Extract<State, { left: number }>): number {
    const taken = Math.min(bytes.length, state.left);
    const kept = Math.min(taken, BODY_BYTES_LIMIT - this.#bodyBytes);
    this.#body.set(bytes.subarray(0, kept), this.#bodyBytes);
    this.#bodyBytes += kept;
    state.left -= taken;
    const isFull = this.#bodyBytes === BODY_BYTES_LIMIT;
    const isMoreToCome = state.at === "body" && state.left > 0 && state.left < Infinity;
    if (kept < taken || (isFull && isMoreToCome)) this.#finish(false);
    else if (state.left === 0 && state.at === "body") this.#finish(true);
    else if (state.left === 0) this.#state = { at: "end of chunk" };
    return taken;
  }

  #finish(isWhole: boolean): void {
    this.#isWhole = isWhole;
    this.#state = { at: "done" };
  }
}
