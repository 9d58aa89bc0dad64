/** An instant, in milliseconds since 1970. */
export class GoTime {
  readonly at: number;
  constructor(at: number) {
    this.at = at;
  }
}

/** A struct of Go: named fields and no others. */
export class GoStruct {
  readonly type: string;
  readonly fields: ReadonlyMap<string, GoValue>;
  constructor(type: string, fields: Readonly<Record<string, GoValue>>) {
    this.type = type;
    this.fields = new Map(Object.entries(fields));
  }
}

/** What a template computes with: a `bigint` is an int, a `number` a float64, undefined is nil. */
export type GoValue =
  | undefined
  | boolean
  | string
  | bigint
  | number
  | GoTime
  | GoStruct
  | ReadonlyMap<string, GoValue>
  | readonly GoValue[];

/** Name of the type, as Go prints it. */
export function typeName(value: GoValue): string {
  if (value === undefined) return "<nil>";
  if (value instanceof GoTime) return "*time.Time";
  if (value instanceof GoStruct) return value.type;
  if (value instanceof Map) return "map[string]string";
  if (Array.isArray(value)) return "template.queryResult";
  switch (typeof value) {
    case "boolean":
      return "bool";
    case "bigint":
      return "int";
    case "number":
      return "float64";
    default:
      return "string";
  }
}

/** A float as Go's verbs e, f and g print it; halves go to the even digit. No precision: the shortest digits that give it back. */
export function formatFloat(value: number, verb: "e" | "f" | "g", precision?: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "+Inf" : "-Inf";
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  const magnitude = Math.abs(value);
  if (verb === "f") return sign + toFixedEven(magnitude, precision ?? 6);
  if (verb === "e") return sign + padExponent(toExponentialEven(magnitude, precision ?? 6));

  const significant = precision === undefined ? undefined : Math.max(precision, 1);
  const text = significant === undefined
    ? magnitude.toExponential()
    : toExponentialEven(magnitude, significant - 1);
  const [mantissa = "", exponentText] = text.split("e");
  const exponent = Number(exponentText);
  const digits = mantissa.replace(".", "").replace(/(?!^)0+$/, "");
  if (exponent < -4 || exponent >= (significant ?? 6)) {
    const fraction = digits.length > 1 ? `.${digits.slice(1)}` : "";
    return sign + padExponent(`${digits[0]}${fraction}e${exponentText}`);
  }
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  const fraction = digits.slice(exponent + 1);
  return sign + (fraction === "" ? whole : `${whole}.${fraction}`);
}

/** `toFixed` rounds halves up; Go rounds what is exactly a half to the even digit. */
function toFixedEven(magnitude: number, precision: number): string {
  const digits = Math.min(precision, 100);
  if (magnitude >= 1e21) {
    return `${BigInt(magnitude)}${digits === 0 ? "" : `.${"0".repeat(digits)}`}`;
  }
  return roundEven(magnitude.toFixed(digits), magnitude.toFixed(Math.min(digits + 30, 100)));
}

function toExponentialEven(magnitude: number, precision: number): string {
  const digits = Math.min(precision, 100);
  const [rounded = "", exponent] = magnitude.toExponential(digits).split("e");
  const [exact = "", exactExponent] = magnitude.toExponential(Math.min(digits + 30, 100)).split(
    "e",
  );
  // With another exponent it was rounded up to the next power of ten, which ends in an even digit.
  return `${exponent === exactExponent ? roundEven(rounded, exact) : rounded}e${exponent}`;
}

function roundEven(rounded: string, exact: string): string {
  const cut = exact.slice(0, rounded.length);
  const isHalf = /^\.?50*$/.test(exact.slice(rounded.length));
  return isHalf && /[02468]$/.test(cut) ? cut : rounded;
}

const padExponent = (text: string) => text.replace(/e([+-])(\d)$/, "e$10$2");

/** A value as Go's verb v prints it. */
export function formatGoValue(value: GoValue): string {
  if (value === undefined) return "<nil>";
  if (typeof value === "number") return formatFloat(value, "g");
  if (value instanceof GoTime) {
    const [day, time = ""] = new Date(value.at).toISOString().split("T");
    return `${day} ${time.replace(/\.?0*Z$/, "")} +0000 UTC`;
  }
  if (value instanceof GoStruct) {
    return `{${[...value.fields.values()].map(formatGoValue).join(" ")}}`;
  }
  if (value instanceof Map) {
    return `map[${
      sortedEntries(value).map(([key, item]) => `${key}:${formatGoValue(item)}`).join(" ")
    }]`;
  }
  if (Array.isArray(value)) return `[${value.map(formatGoValue).join(" ")}]`;
  return String(value);
}

/** By key, as Go ranges over and prints a map. */
export function sortedEntries(map: ReadonlyMap<string, GoValue>): [string, GoValue][] {
  return [...map].sort(([a], [b]) => a < b ? -1 : 1);
}

/** Go's Sprint: a space between two that are both no strings. */
export function printGo(values: readonly GoValue[]): string {
  return values.map((value, index) => {
    const isSpaced = index > 0 && typeof value !== "string" &&
      typeof values[index - 1] !== "string";
    return (isSpaced ? " " : "") + formatGoValue(value);
  }).join("");
}

/** Columns that a verb of {@link formatGo} may ask for. */
const WIDTH_LIMIT = 1000;

/** Go's Sprintf; a verb that does not fit its value says so in the text, as in Go. */
export function formatGo(format: string, values: readonly GoValue[]): string {
  let used = 0;
  const text = format.replace(
    /%([-+# 0]*)(\d*)(?:\.(\d*))?([\s\S]?)/gu,
    (_, flags: string, width: string, precisionText: string | undefined, verb: string) => {
      if (verb === "") return "%!(NOVERB)";
      if (verb === "%") return "%";
      if (used >= values.length) return `%!${verb}(MISSING)`;
      const value = values[used];
      used += 1;
      const precision = precisionText === undefined
        ? undefined
        : Math.min(Number(precisionText), WIDTH_LIMIT);
      const shown = formatVerb(verb, value, precision) ??
        `%!${verb}(${value === undefined ? "" : `${typeName(value)}=`}${formatGoValue(value)})`;
      const signed = isNumeric(value) && /^\d/.test(shown)
        ? (flags.includes("+") ? "+" : flags.includes(" ") ? " " : "") + shown
        : shown;
      return pad(signed, Math.min(Number(width), WIDTH_LIMIT), flags, isNumeric(value));
    },
  );
  const rest = values.slice(used);
  if (rest.length === 0) return text;
  const listed = rest.map((value) =>
    value === undefined ? "<nil>" : `${typeName(value)}=${formatGoValue(value)}`
  );
  return `${text}%!(EXTRA ${listed.join(", ")})`;
}

const isNumeric = (value: GoValue) => typeof value === "number" || typeof value === "bigint";

function pad(text: string, width: number, flags: string, isNumber: boolean): string {
  const missing = width - [...text].length;
  if (missing <= 0) return text;
  if (flags.includes("-")) return text + " ".repeat(missing);
  if (flags.includes("0") && isNumber && !text.endsWith("Inf") && text !== "NaN") {
    return text.replace(/^[+-]?/, (sign) => sign + "0".repeat(missing));
  }
  return " ".repeat(missing) + text;
}

/** Undefined if the verb does not go with the value. */
function formatVerb(
  verb: string,
  value: GoValue,
  precision: number | undefined,
): string | undefined {
  if (value === undefined) return verb === "v" ? "<nil>" : undefined;
  if (typeof value === "number") {
    switch (verb) {
      case "v":
      case "g":
      case "G":
        return formatFloat(value, "g", precision);
      case "e":
      case "f":
        return formatFloat(value, verb, precision);
      case "F":
        return formatFloat(value, "f", precision);
      case "E":
        return formatFloat(value, "e", precision).toUpperCase();
      case "x":
      case "X":
      case "b":
        throw new RangeError(`%${verb} of a float is not supported`);
      default:
        return undefined;
    }
  }
  if (typeof value === "bigint") {
    const bases: Record<string, number> = { v: 10, d: 10, x: 16, X: 16, o: 8, b: 2 };
    const base = bases[verb];
    if (base === undefined) {
      return verb === "c" ? String.fromCodePoint(Number(value)) : undefined;
    }
    const digits = value.toString(base);
    return verb === "X" ? digits.toUpperCase() : digits;
  }
  if (typeof value === "boolean") return verb === "v" || verb === "t" ? String(value) : undefined;
  if (typeof value === "string") {
    const cut = precision === undefined ? value : [...value].slice(0, precision).join("");
    switch (verb) {
      case "v":
      case "s":
        return cut;
      case "q":
        return quoteGo(cut);
      case "x":
      case "X": {
        const hex = [...new TextEncoder().encode(cut)].map((byte) =>
          byte.toString(16).padStart(2, "0")
        ).join("");
        return verb === "X" ? hex.toUpperCase() : hex;
      }
      default:
        return undefined;
    }
  }
  return verb === "v" || verb === "s" ? formatGoValue(value) : undefined;
}

/** A string as Go's verb q prints it. */
export function quoteGo(text: string): string {
  const names: Record<string, string> = {
    "\u0007": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
  };
  // deno-lint-ignore no-control-regex -- they are what is escaped
  const escaped = text.replace(/["\\\u0000-\u001f\u007f-\u00a0\u2028\u2029]/g, (character) => {
    const code = character.charCodeAt(0);
    return names[character] ??
      (code < 0x80
        ? `\\x${code.toString(16).padStart(2, "0")}`
        : `\\u${code.toString(16).padStart(4, "0")}`);
  });
  return `"${escaped}"`;
}
