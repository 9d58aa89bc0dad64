import { redact } from "./redact.ts";

/** How much a line matters; each goes to the console method of its kind. */
export type LogLevel = "info" | "warning" | "error";

/** What a line says beside its message. Errors are written with their causes. */
export type LogFields = Readonly<Record<string, unknown>>;

/** Writes one JSON object a line: `{ time, level, message, function, run_id, fields }`. */
export interface Log {
  info(message: string, fields?: LogFields): void;
  warning(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
}

/** Where lines go and whose they are. */
export interface LogOptions {
  /** Name of the function. */
  function: string;
  runId: string;
  now: () => Date;
  write: (level: LogLevel, line: string) => void;
}

/** Longest string inside a line, after redaction. */
const TEXT_LIMIT = 1000;
/** Most entries of a list or an object, and most levels below `fields`. */
const ENTRY_LIMIT = 30;
const DEPTH_LIMIT = 6;
/** Longest line: beyond it the fields are left out, and the line says so. */
const LINE_LIMIT = 8192;

/** Names of fields whose values are secrets, whatever they look like. */
const SECRET_NAMES = /^(authorization|apikey|api_key|cookie|set-cookie|password|secret|token)$/i;

/** Writes to the console, which the platform's log page shows by level. */
export function writeToConsole(level: LogLevel, line: string): void {
  if (level === "error") console.error(line);
  else if (level === "warning") console.warn(line);
  else console.info(line);
}

/** Makes a log for one call of a function. No line ever holds a secret. */
export function createLog({ function: name, runId, now, write }: LogOptions): Log {
  const log = (level: LogLevel) => (message: string, fields: LogFields = {}) => {
    const head = {
      time: now().toISOString(),
      level,
      message: boundText(message),
      function: name,
      run_id: runId,
    };
    const line = JSON.stringify({ ...head, fields: toLoggable(fields, 0) });
    write(
      level,
      line.length <= LINE_LIMIT
        ? line
        : JSON.stringify({ ...head, fields: "too long to be logged" }),
    );
  };
  return { info: log("info"), warning: log("warning"), error: log("error") };
}

/** Cuts after redacting: half a secret has no shape that could be recognised. */
function boundText(text: string): string {
  const clean = redact(text);
  return clean.length <= TEXT_LIMIT ? clean : `${clean.slice(0, TEXT_LIMIT)}…`;
}

/** A plain JSON value that stands for anything at all, bounded and without secrets. */
function toLoggable(value: unknown, depth: number): unknown {
  if (typeof value === "string") return boundText(value);
  if (typeof value === "bigint") return value.toString();
  if (typeof value !== "object" || value === null) {
    return typeof value === "function" || typeof value === "symbol" ? typeof value : value;
  }
  if (depth >= DEPTH_LIMIT) return "…";
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? "no date" : value.toISOString();
  if (value instanceof Error) return describeError(value, depth);
  if (Array.isArray(value)) {
    return value.slice(0, ENTRY_LIMIT).map((entry) => toLoggable(entry, depth + 1));
  }
  return Object.fromEntries(
    Object.entries(value).slice(0, ENTRY_LIMIT).map(([key, entry]) => [
      boundText(key),
      SECRET_NAMES.test(key) ? "…" : toLoggable(entry, depth + 1),
    ]),
  );
}

function describeError(error: Error, depth: number): unknown {
  return {
    name: boundText(error.name),
    message: boundText(error.message),
    ...("code" in error && { code: toLoggable(error.code, depth + 1) }),
    ...(error.stack !== undefined && { stack: boundText(error.stack) }),
    ...(error.cause !== undefined && { cause: toLoggable(error.cause, depth + 1) }),
  };
}
