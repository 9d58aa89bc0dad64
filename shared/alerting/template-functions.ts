import { RE2JS } from "re2js";
import { parseDuration } from "../promql/durations.ts";
import {
  formatFloat,
  formatGo,
  formatGoValue,
  GoStruct,
  GoTime,
  type GoValue,
  printGo,
  typeName,
} from "./go-format.ts";

/** What functions of a template ask of the world around it. */
export interface TemplateWorld {
  readonly externalUrl: string;
  /** The samples of an instant query. @throws {Error} if it has no answer. */
  query(text: string): GoValue[];
}

/** `any` but for what a function insists on. */
export type ParameterType = "any" | "string" | "sample" | "list";

export interface TemplateFunction {
  readonly parameters: readonly ParameterType[];
  /** Of any further arguments; left out, there may be none. */
  readonly rest?: ParameterType;
  call(args: readonly GoValue[], world: TemplateWorld): GoValue;
}

const QUERY_RESULT = "template.sample";

/** A sample of a query as a template sees it. */
export function toTemplateSample(
  labels: Readonly<Record<string, string>>,
  value: number,
): GoStruct {
  return new GoStruct(QUERY_RESULT, { Labels: new Map(Object.entries(labels)), Value: value });
}

/** Whether a value may be given where a function insists on a type. */
export function fits(value: GoValue, type: ParameterType): boolean {
  switch (type) {
    case "any":
      return true;
    case "string":
      return typeof value === "string";
    case "sample":
      return value instanceof GoStruct && value.type === QUERY_RESULT;
    case "list":
      return Array.isArray(value);
  }
}

/** Name of a type as Go prints it. */
export const PARAMETER_TYPE_NAMES: Readonly<Record<ParameterType, string>> = {
  any: "interface {}",
  string: "string",
  sample: "*template.sample",
  list: "template.queryResult",
};

function toFloat(value: GoValue): number {
  if (typeof value === "number") return value;
  if (typeof value === "bigint") return Number(value);
  if (typeof value !== "string") throw new Error(`can't convert ${typeName(value)} to float`);
  const word = /^([+-]?)(?:(inf(?:inity)?)|nan)$/i.exec(value);
  if (word) return word[2] === undefined ? NaN : word[1] === "-" ? -Infinity : Infinity;
  if (!/^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/.test(value)) {
    throw new Error(`strconv.ParseFloat: parsing ${JSON.stringify(value)}: invalid syntax`);
  }
  return Number(value);
}

const four = (value: number) => formatFloat(value, "g", 4);

function scaleUp(value: number, base: number, prefixes: readonly string[]): string {
  let prefix = "";
  for (const larger of prefixes) {
    if (Math.abs(value) < base) break;
    prefix = larger;
    value /= base;
  }
  return four(value) + prefix;
}

function scaleDown(value: number): string {
  let prefix = "";
  for (const smaller of ["m", "u", "n", "p", "f", "a", "z", "y"]) {
    if (Math.abs(value) >= 1) break;
    prefix = smaller;
    value *= 1000;
  }
  return four(value) + prefix;
}

/** With the prefixes k, M, G… or m, u, n…. */
function humanize(value: number): string {
  if (value === 0 || !Number.isFinite(value)) return four(value);
  if (Math.abs(value) < 1) return scaleDown(value);
  return scaleUp(value, 1000, ["k", "M", "G", "T", "P", "E", "Z", "Y"]);
}

function humanize1024(value: number): string {
  if (Math.abs(value) <= 1 || !Number.isFinite(value)) return four(value);
  return scaleUp(value, 1024, ["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"]);
}

function humanizeDuration(value: number): string {
  if (!Number.isFinite(value)) return four(value);
  if (value === 0) return `${four(value)}s`;
  if (Math.abs(value) < 1) return `${scaleDown(value)}s`;
  const sign = value < 0 ? "-" : "";
  const whole = Math.trunc(Math.abs(value));
  const [days, hours, minutes, seconds] = [
    Math.floor(whole / 86_400),
    Math.floor(whole / 3600) % 24,
    Math.floor(whole / 60) % 60,
    whole % 60,
  ];
  if (days > 0) return `${sign}${days}d ${hours}h ${minutes}m ${seconds}s`;
  if (hours > 0) return `${sign}${hours}h ${minutes}m ${seconds}s`;
  if (minutes > 0) return `${sign}${minutes}m ${seconds}s`;
  return `${sign}${four(Math.abs(value))}s`;
}

/** Nanoseconds of 64 bits, as Go counts time, reach so many seconds. */
const TIME_LIMIT_SECONDS = 9_223_372_036.854775;

function toTime(value: number): GoTime {
  if (!Number.isFinite(value)) throw new Error("value is NaN or Inf");
  if (Math.abs(value) > TIME_LIMIT_SECONDS) {
    const shown = formatFloat(value, "g");
    throw new Error(
      `${shown} cannot be represented as a nanoseconds timestamp since it overflows int64`,
    );
  }
  return new GoTime(Math.floor(Math.trunc(value * 1e9) / 1e6));
}

/** `host:port` or `[host]:port`; undefined if it is neither. */
function splitHostPort(text: string): { host: string; port: string } | undefined {
  const match = /^(?:\[([^[\]]*)\]|([^:[\]]*)):([^:[\]]*)$/.exec(text);
  return match ? { host: match[1] ?? match[2]!, port: match[3]! } : undefined;
}

function stripDomain(text: string): string {
  const { host, port } = splitHostPort(text) ?? { host: text, port: "" };
  const isAddress = /^(?:\d{1,3}\.){3}\d{1,3}$/.test(host) || host.includes(":");
  if (isAddress) return text;
  const name = host.split(".")[0]!;
  return port === "" ? name : `${name}:${port}`;
}

/** Replaces what matches; `$1`, `${1}` and `${name}` stand for groups, `$$` for a dollar. */
function replaceAll(pattern: string, replacement: string, text: string): string {
  const matcher = RE2JS.compile(pattern).matcher(text);
  let result = "";
  let at = 0;
  while (matcher.find()) {
    const expanded = replacement.replace(
      /\$(?:\$|(\w+)|\{(\w+)\})/g,
      (whole: string, short: string | undefined, long: string | undefined) => {
        const name = short ?? long;
        if (whole === "$$" || name === undefined) return "$";
        if (!/^\d+$/.test(name)) {
          return name in matcher.namedGroups ? matcher.group(name) ?? "" : "";
        }
        return Number(name) <= matcher.groupCount() ? matcher.group(Number(name)) ?? "" : "";
      },
    );
    result += text.slice(at, matcher.start()) + expanded;
    at = matcher.end();
  }
  return result + text.slice(at);
}

/** The first letter of each word in upper case. */
function toTitle(text: string): string {
  return text.replace(
    /(^|[^\p{L}\p{N}_])(\p{L})/gu,
    (_, before: string, letter: string) =>
      before +
      (before === "" || before <= "\u007f" || /\s/.test(before) ? letter.toUpperCase() : letter),
  );
}

const escapeQuery = (text: string) =>
  encodeURIComponent(text).replace(/%20/g, "+").replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );

const HTML: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&#34;",
  "'": "&#39;",
  "\0": "\ufffd",
};

const JS: Readonly<Record<string, string>> = {
  "\\": "\\\\",
  "'": "\\'",
  '"': '\\"',
  "<": "\\u003C",
  ">": "\\u003E",
  "&": "\\u0026",
  "=": "\\u003D",
};

// deno-lint-ignore no-control-regex -- they are what is escaped
const JS_SPECIAL = /[\\'"<>&=\u0000-\u001f\u007f-\u00a0\u2028\u2029]/g;

const escapeJs = (text: string) =>
  text.replace(JS_SPECIAL, (character) =>
    JS[character] ??
      `\\u${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`);

/** Whether a condition holds: what is empty, zero or nil does not. */
export function isTrue(value: GoValue): boolean {
  if (value === undefined || value === false || value === "" || value === 0n || value === 0) {
    return false;
  }
  if (value instanceof Map) return value.size > 0;
  return !Array.isArray(value) || value.length > 0;
}

function compare(a: GoValue, b: GoValue, operation: "eq" | "lt"): boolean {
  const isNil = a === undefined || b === undefined;
  if (operation === "eq" && isNil) return a === b;
  const basic = ["boolean", "string", "bigint", "number"];
  if (isNil || !basic.includes(typeof a) || !basic.includes(typeof b)) {
    throw new Error("invalid type for comparison");
  }
  if (typeof a !== typeof b) throw new Error("incompatible types for comparison");
  if (operation === "eq") return a === b;
  if (typeof a === "boolean") throw new Error("invalid type for comparison");
  return a! < b!;
}

function indexInto(value: GoValue, key: GoValue): GoValue {
  if (value instanceof Map) {
    if (typeof key !== "string") {
      throw new Error(`value has type ${typeName(key)}; should be string`);
    }
    return value.has(key) ? value.get(key) : "";
  }
  if (typeof key !== "bigint") {
    throw new Error(`cannot index slice/array with type ${typeName(key)}`);
  }
  const items = typeof value === "string" ? new TextEncoder().encode(value) : value;
  if (!Array.isArray(items) && !(items instanceof Uint8Array)) {
    throw new Error(`can't index item of type ${typeName(value)}`);
  }
  if (key < 0n || key >= BigInt(items.length)) throw new Error(`index out of range: ${key}`);
  const item: GoValue | number = items[Number(key)];
  return items instanceof Uint8Array ? BigInt(item as number) : item;
}

/** Of a string by bytes. */
function sliceOf(value: GoValue, bounds: readonly GoValue[]): GoValue {
  const items = typeof value === "string" ? new TextEncoder().encode(value) : value;
  if (!Array.isArray(items) && !(items instanceof Uint8Array)) {
    throw new Error(`can't slice item of type ${typeName(value)}`);
  }
  if (bounds.length > 3) throw new Error(`too many slice indexes: ${bounds.length}`);
  if (bounds.length === 3 && items instanceof Uint8Array) {
    throw new Error("cannot 3-index slice a string");
  }
  const [start = 0, end = items.length] = bounds.map((bound) => {
    if (typeof bound !== "bigint") {
      throw new Error(`cannot index slice/array with type ${typeName(bound)}`);
    }
    if (bound < 0n || bound > BigInt(items.length)) {
      throw new Error(`index out of range: ${bound}`);
    }
    return Number(bound);
  });
  if (start > end) throw new Error(`invalid slice index: ${start} > ${end}`);
  return items instanceof Uint8Array
    ? new TextDecoder().decode(items.subarray(start, end))
    : items.slice(start, end);
}

function lengthOf(value: GoValue): bigint {
  if (typeof value === "string") return BigInt(new TextEncoder().encode(value).length);
  if (value instanceof Map) return BigInt(value.size);
  if (Array.isArray(value)) return BigInt(value.length);
  throw new Error(`len of type ${typeName(value)}`);
}

const labelOf = (sample: GoValue, name: string): GoValue => {
  const labels = (sample as GoStruct).fields.get("Labels") as ReadonlyMap<string, GoValue>;
  return labels.get(name) ?? "";
};

const ofFloat = (apply: (value: number) => GoValue): TemplateFunction => ({
  parameters: ["any"],
  call: ([value]) => apply(toFloat(value)),
});

const ofString = (apply: (text: string, world: TemplateWorld) => GoValue): TemplateFunction => ({
  parameters: ["string"],
  call: ([text], world) => apply(text as string, world),
});

const ofPrinted = (apply: (text: string) => GoValue): TemplateFunction => ({
  parameters: [],
  rest: "any",
  call: (args) => apply(printGo(args)),
});

const ofTwo = (apply: (a: GoValue, b: GoValue) => GoValue): TemplateFunction => ({
  parameters: ["any", "any"],
  call: ([a, b]) => apply(a, b),
});

/**
 * The functions of Go's text/template and those of Prometheus; `and` and `or` decide by themselves what they evaluate, and are
 * only named here.
 *
 * @see https://prometheus.io/docs/prometheus/latest/configuration/template_reference/
 */
export const TEMPLATE_FUNCTIONS: ReadonlyMap<string, TemplateFunction> = new Map(
  Object.entries<TemplateFunction>({
    and: { parameters: ["any"], rest: "any", call: (args) => args.at(-1) },
    or: { parameters: ["any"], rest: "any", call: (args) => args.at(-1) },
    not: { parameters: ["any"], call: ([value]) => !isTrue(value) },
    eq: {
      parameters: ["any", "any"],
      rest: "any",
      call: ([first, ...others]) => others.some((other) => compare(first, other, "eq")),
    },
    ne: ofTwo((a, b) => !compare(a, b, "eq")),
    lt: ofTwo((a, b) => compare(a, b, "lt")),
    le: ofTwo((a, b) => compare(a, b, "lt") || compare(a, b, "eq")),
    gt: ofTwo((a, b) => compare(b, a, "lt")),
    ge: ofTwo((a, b) => compare(b, a, "lt") || compare(a, b, "eq")),
    len: { parameters: ["any"], call: ([value]) => lengthOf(value) },
    index: {
      parameters: ["any"],
      rest: "any",
      call: ([value, ...keys]) => keys.reduce(indexInto, value),
    },
    slice: {
      parameters: ["any"],
      rest: "any",
      call: ([value, ...bounds]) => sliceOf(value, bounds),
    },
    print: ofPrinted((text) => text),
    println: {
      parameters: [],
      rest: "any",
      call: (args) => `${args.map(formatGoValue).join(" ")}\n`,
    },
    printf: {
      parameters: ["string"],
      rest: "any",
      call: ([format, ...values]) => formatGo(format as string, values),
    },
    html: ofPrinted((text) => text.replace(/[&<>"'\0]/g, (character) => HTML[character]!)),
    js: ofPrinted(escapeJs),
    urlquery: ofPrinted(escapeQuery),

    query: ofString((text, world) => world.query(text)),
    first: {
      parameters: ["list"],
      call: ([samples]) => {
        const list = samples as readonly GoValue[];
        if (list.length === 0) throw new Error("first() called on vector with no elements");
        return list[0];
      },
    },
    label: {
      parameters: ["string", "sample"],
      call: ([name, sample]) => labelOf(sample, name as string),
    },
    value: { parameters: ["sample"], call: ([sample]) => (sample as GoStruct).fields.get("Value") },
    strvalue: { parameters: ["sample"], call: ([sample]) => labelOf(sample, "__value__") },
    sortByLabel: {
      parameters: ["string", "list"],
      call: ([name, samples]) => {
        const keyOf = (sample: GoValue) => labelOf(sample, name as string) as string;
        return (samples as readonly GoValue[]).toSorted((a, b) =>
          keyOf(a) < keyOf(b) ? -1 : keyOf(a) > keyOf(b) ? 1 : 0
        );
      },
    },
    args: {
      parameters: [],
      rest: "any",
      call: (args) => new Map(args.map((value, index) => [`arg${index}`, value])),
    },

    humanize: ofFloat(humanize),
    humanize1024: ofFloat(humanize1024),
    humanizeDuration: ofFloat(humanizeDuration),
    humanizePercentage: ofFloat((value) => `${four(value * 100)}%`),
    humanizeTimestamp: ofFloat((value) =>
      Number.isFinite(value) ? formatGoValue(toTime(value)) : four(value)
    ),
    toTime: ofFloat(toTime),
    parseDuration: ofString((text) => parseDuration(text) / 1000),
    title: ofString(toTitle),
    toUpper: ofString((text) => text.toUpperCase()),
    toLower: ofString((text) => text.toLowerCase()),
    stripPort: ofString((text) => splitHostPort(text)?.host ?? text),
    stripDomain: ofString(stripDomain),
    safeHtml: ofString((text) => text),
    match: {
      parameters: ["string", "string"],
      call: ([pattern, text]) => RE2JS.compile(pattern as string).matcher(text as string).find(),
    },
    reReplaceAll: {
      parameters: ["string", "string", "string"],
      call: ([pattern, replacement, text]) =>
        replaceAll(pattern as string, replacement as string, text as string),
    },
    graphLink: ofString((text) => `/graph?g0.expr=${escapeQuery(text)}&g0.tab=0`),
    tableLink: ofString((text) => `/graph?g0.expr=${escapeQuery(text)}&g0.tab=1`),
    externalURL: { parameters: [], call: (_, { externalUrl }) => externalUrl },
    pathPrefix: {
      parameters: [],
      call: (_, { externalUrl }) => externalUrl.replace(/^[a-z]+:\/\/[^/]*/i, ""),
    },
  }),
);

const LAYOUT: readonly [string, (date: Date) => string][] = [
  ["2006", (date) => String(date.getUTCFullYear())],
  ["January", (date) => MONTHS[date.getUTCMonth()]!],
  ["Jan", (date) => MONTHS[date.getUTCMonth()]!.slice(0, 3)],
  ["Monday", (date) => DAYS[date.getUTCDay()]!],
  ["Mon", (date) => DAYS[date.getUTCDay()]!.slice(0, 3)],
  ["MST", () => "UTC"],
  ["Z07:00", () => "Z"],
  ["-0700", () => "+0000"],
  ["01", (date) => two(date.getUTCMonth() + 1)],
  ["02", (date) => two(date.getUTCDate())],
  ["03", (date) => two(date.getUTCHours() % 12 || 12)],
  ["04", (date) => two(date.getUTCMinutes())],
  ["05", (date) => two(date.getUTCSeconds())],
  ["06", (date) => two(date.getUTCFullYear() % 100)],
  ["15", (date) => two(date.getUTCHours())],
  ["PM", (date) => date.getUTCHours() < 12 ? "AM" : "PM"],
  [".000", (date) => `.${String(date.getUTCMilliseconds()).padStart(3, "0")}`],
  ["1", (date) => String(date.getUTCMonth() + 1)],
  ["2", (date) => String(date.getUTCDate())],
  ["3", (date) => String(date.getUTCHours() % 12 || 12)],
  ["4", (date) => String(date.getUTCMinutes())],
  ["5", (date) => String(date.getUTCSeconds())],
];
const LAYOUT_PATTERN = new RegExp(LAYOUT.map(([name]) => name.replace(".", "\\.")).join("|"), "g");
const LAYOUTS = new Map(LAYOUT);
const MONTHS = [
  ...["January", "February", "March", "April", "May", "June"],
  ...["July", "August", "September", "October", "November", "December"],
];
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const two = (value: number) => String(value).padStart(2, "0");

/** Methods of an instant that a template may call, `Format` with a layout of Go's. */
export const TIME_METHODS: Readonly<
  Record<string, (time: GoTime, args: readonly GoValue[]) => GoValue>
> = {
  Format: ({ at }, [layout]) =>
    String(layout).replace(LAYOUT_PATTERN, (name) => LAYOUTS.get(name)!(new Date(at))),
  Unix: ({ at }) => BigInt(Math.floor(at / 1000)),
  Year: ({ at }) => BigInt(new Date(at).getUTCFullYear()),
  Day: ({ at }) => BigInt(new Date(at).getUTCDate()),
  Hour: ({ at }) => BigInt(new Date(at).getUTCHours()),
  Minute: ({ at }) => BigInt(new Date(at).getUTCMinutes()),
  Second: ({ at }) => BigInt(new Date(at).getUTCSeconds()),
};
