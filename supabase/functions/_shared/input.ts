import { z } from "zod";
import { readBytes } from "./body.ts";
import { Problem } from "./problem.ts";

/** Most bytes of a body. */
export const BODY_BYTES_LIMIT = 65_536;

/** Query parameters that the platform's own clients add to any call. */
const PLATFORM_PARAMETERS: readonly string[] = ["forceFunctionRegion"];

/** Most wrong fields that are told one by one. */
const FIELD_ERRORS_LIMIT = 10;

/**
 * Reads what comes in: the JSON body of a POST, the query of anything else.
 *
 * @throws {Problem} 400, 413, or 422 naming each wrong field.
 */
export async function readInput<Input>(request: Request, schema: z.ZodType<Input>): Promise<Input> {
  if (request.method !== "POST") return parseInput("query", listParameters(request), schema);

  // Whoever writes ?dry_run=true must not be taken for somebody who did not.
  const stray = Object.keys(listOwnParameters(request));
  if (stray.length > 0) {
    throw new Problem("query", `Put it into the body: ${stray.join(", ")}`);
  }
  return parseInput("body", await readJson(request), schema);
}

/** Reads the query of a POST whose body is something else. @throws {Problem} 422 naming each wrong parameter */
export function readQuery<Input>(request: Request, schema: z.ZodType<Input>): Input {
  return parseInput("query", listOwnParameters(request), schema);
}

function listOwnParameters(request: Request): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(listParameters(request)).filter(([name]) => !PLATFORM_PARAMETERS.includes(name)),
  );
}

/** Parameters by name; a list where a name comes more than once, which no schema of ours takes. */
function listParameters({ url }: Request): Record<string, unknown> {
  const { searchParams } = new URL(url);
  return Object.fromEntries(
    [...new Set(searchParams.keys())].map((name) => {
      const values = searchParams.getAll(name);
      return [name, values.length === 1 ? values[0] : values];
    }),
  );
}

function parseInput<Input>(
  slug: "body" | "query",
  value: unknown,
  schema: z.ZodType<Input>,
): Input {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const errors = parsed.error.issues.flatMap(toFieldErrors).slice(0, FIELD_ERRORS_LIMIT);
  const detail = errors.map(({ field, detail }) => `${field}: ${detail}`).join("; ");
  throw new Problem(slug, detail, {
    members: { errors: errors.map(({ pointer, detail }) => ({ pointer, detail })) },
  });
}

/** What is wrong with which field; a field that nobody asked for counts as one. */
function toFieldErrors(issue: z.core.$ZodIssue) {
  const fields = issue.code === "unrecognized_keys" ? issue.keys : [null];
  return fields.map((key) => {
    const path = [...issue.path, ...(key === null ? [] : [key])].map(boundPart);
    return {
      field: path.length === 0 ? "the whole" : path.join("."),
      pointer: `#${path.map((part) => `/${escapePointer(part)}`).join("")}`,
      detail: key === null ? issue.message.slice(0, 300) : "there is no such field",
    };
  });
}

/** A part of a path, bounded, without the halves of characters that no address can hold. */
function boundPart(part: PropertyKey): string {
  return String(part).slice(0, 100).replace(/[\ud800-\udfff]/gu, "\ufffd");
}

/** @see RFC 6901 */
function escapePointer(part: string): string {
  return encodeURIComponent(part.replaceAll("~", "~0").replaceAll("/", "~1"));
}

/** The body as JSON, whatever its type and length are said to be: curl says form data. An empty one is `{}`. */
async function readJson(request: Request): Promise<unknown> {
  const bytes = await readBytes(request.body, BODY_BYTES_LIMIT);
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return text.trim() === "" ? {} : JSON.parse(text);
  } catch (cause) {
    throw new Problem("json", "", { cause });
  }
}
