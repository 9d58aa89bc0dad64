const SIMPLE: Readonly<Record<string, number>> = {
  a: 7,
  b: 8,
  f: 12,
  n: 10,
  r: 13,
  t: 9,
  v: 11,
  "\\": 92,
  "'": 39,
  '"': 34,
};

/** Bytes that are not UTF-8 become lone surrogates, which nothing else is: names must not have them. */
function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return [...bytes].map((byte) => String.fromCharCode(byte < 0x80 ? byte : 0xdc00 + byte)).join(
      "",
    );
  }
}

/** Whether it may be the name of a label or a metric: not empty, and Unicode throughout. */
export function isValidName(name: string): boolean {
  return name !== "" && !/[\ud800-\udfff]/u.test(name);
}

/**
 * The text of a string literal of PromQL, which are Go's: in double or single quotes with escapes, in backticks as it is.
 *
 * @throws {RangeError} for what is no literal, or an escape that is none.
 */
export function unquote(literal: string): string {
  const delimiter = literal[0];
  if (literal.length < 2 || literal.at(-1) !== delimiter) {
    throw new RangeError(`unterminated string: ${literal}`);
  }
  const inner = literal.slice(1, -1);
  if (delimiter === "`") return inner;
  if (!inner.includes("\\")) return inner;

  let text = "";
  /** Bytes that were written one by one and may be UTF-8 together. */
  let bytes: number[] = [];
  const flush = () => {
    if (bytes.length > 0) text += decode(Uint8Array.from(bytes));
    bytes = [];
  };
  for (let i = 0; i < inner.length;) {
    if (inner[i] !== "\\") {
      flush();
      text += inner[i];
      i += 1;
      continue;
    }
    const escape =
      /^\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([abfnrtv\\'"]))/
        .exec(inner.slice(i, i + 10));
    if (escape === null) {
      // A literal that ends in an escaped quote ends nowhere.
      if (i === inner.length - 1) throw new RangeError(`unterminated string: ${literal}`);
      throw new RangeError(`unknown escape sequence ${inner.slice(i, i + 2)} in a string`);
    }
    const [whole, hex, octal, short, long, simple] = escape;
    if (hex !== undefined || octal !== undefined) {
      const byte = hex === undefined ? Number.parseInt(octal!, 8) : Number.parseInt(hex, 16);
      if (byte > 255) throw new RangeError(`escape sequence ${whole} in a string is above 255`);
      bytes.push(byte);
    } else if (simple !== undefined) {
      if ((simple === "'" || simple === '"') && simple !== delimiter) {
        throw new RangeError(`unknown escape sequence ${whole} in a string`);
      }
      flush();
      text += String.fromCharCode(SIMPLE[simple]!);
    } else {
      const point = Number.parseInt((short ?? long)!, 16);
      if (point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
        throw new RangeError(`escape sequence ${whole} in a string is no Unicode character`);
      }
      flush();
      text += String.fromCodePoint(point);
    }
    i += whole.length;
  }
  flush();
  return text;
}
