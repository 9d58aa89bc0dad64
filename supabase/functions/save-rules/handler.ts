import { z } from "zod";
import type { RuleGroup } from "../../../shared/alerting/rule.ts";
import { findDuplicateRules, parseRuleFile } from "../../../shared/alerting/rule-file.ts";
import { findUnsaved, type SaveOptions } from "../../../shared/alerting/saved-rules.ts";
import { FileError } from "../../../shared/alerting/yaml-source.ts";
import { readBytes } from "../_shared/body.ts";
import type { Call } from "../_shared/endpoint.ts";
import { readQuery } from "../_shared/input.ts";
import { Problem } from "../_shared/problem.ts";
import type { RuleStore } from "../_shared/stores.ts";

export const NAME = "save-rules";

/** Most bytes of a file: the 2,000 rules that there may be are 800 KB, and take a second of the 2 s that a call may. */
export const FILE_BYTES_LIMIT = 1024 * 1024;

/** How many of the errors of a file are told. */
export const ERRORS_LIMIT = 100;

const MEDIA_TYPES = ["application/yaml", "application/x-yaml", "text/yaml", "text/plain"];

const Flag = z.enum(["true", "false"]).default("false").transform((value) => value === "true");

const SaveQuery = z.strictObject({ replace: Flag, dry_run: Flag });

/** Rules that parse, and how they are to be saved. */
export interface RulesToSave {
  readonly groups: readonly RuleGroup[];
  readonly options: SaveOptions;
}

/** Reads a rule file as strictly as `npm run rules -- check`. @throws {Problem} 400, 413, 415, 422 with what is wrong where */
export async function readRules(request: Request): Promise<RulesToSave> {
  const [type = ""] = (request.headers.get("content-type") ?? "").split(";");
  if (!MEDIA_TYPES.includes(type.trim().toLowerCase())) {
    throw new Problem("media-type", `A rule file is one of ${MEDIA_TYPES.join(", ")}.`);
  }
  const { replace, dry_run } = readQuery(request, SaveQuery);
  const groups = parseRules(decodeText(await readBytes(request.body, FILE_BYTES_LIMIT)));
  if (groups.length === 0) throw new Problem("rules", "There are no groups in the file.");
  return { groups, options: { isReplacing: replace, isDry: dry_run } };
}

/** Saves rules, all or nothing, and says how many were what. @throws {Problem} 422 */
export async function saveRules(
  { groups, options }: RulesToSave,
  { caller, log }: Pick<Call, "caller" | "log">,
  deps: RuleStore,
): Promise<Response> {
  const saved = await deps.saveRules(groups, options);
  if ("refused" in saved) throw new Problem("rules", saved.refused);
  log.info("rules saved", { ...saved, is_dry_run: options.isDry, caller });
  const warnings = [...findDuplicateRules(groups), ...findUnsaved(groups)];
  return Response.json({ ...saved, warnings });
}

function parseRules(text: string): RuleGroup[] {
  try {
    return parseRuleFile(text);
  } catch (cause) {
    if (!(cause instanceof FileError)) throw cause;
    const errors = cause.problems.slice(0, ERRORS_LIMIT)
      .map(({ line, column, group = null, rule = null, message: detail }) => ({
        ...{ line, column, group, rule, detail },
      }));
    throw new Problem("rules", cause.message, { members: { errors }, cause });
  }
}

function decodeText(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new Problem("malformed", "The body is not UTF-8.", { cause });
  }
}
