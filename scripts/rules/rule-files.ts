import { readdirSync, readFileSync } from "node:fs";
import { basename, dirname, isAbsolute, join } from "node:path";
import type { RuleGroup } from "../../shared/alerting/rule.ts";
import { parseRuleFile } from "../../shared/alerting/rule-file.ts";
import { parseRuleTestFile } from "../../shared/alerting/rule-test-file.ts";
import { testRules, type TestVerdict } from "../../shared/alerting/test-rules.ts";
import { FileError, formatProblem } from "../../shared/alerting/yaml-source.ts";

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT") throw new Error(`there is no file ${path}`, { cause });
    if (code === "EISDIR") throw new Error(`${path} is a folder`, { cause });
    throw new Error(message, { cause });
  }
}

/** Reads a file with one of the parsers. @throws {Error} with `file:line:column: …` a line for all that is wrong in it. */
function readWith<T>(path: string, parse: (text: string) => T): T {
  const text = readText(path);
  try {
    return parse(text);
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    const lines = error.problems.map((problem) => `${path}:${formatProblem(problem)}`);
    throw new Error(lines.join("\n"), { cause: error });
  }
}

/** @throws {Error} with `file:line:column: …` a line for all that is wrong in it. */
export function readRuleFile(path: string): RuleGroup[] {
  return readWith(path, parseRuleFile);
}

/**
 * Runs a unit-test file; its rule files are looked for beside it, and `*` and `?` in their names stand for what they do in a shell.
 *
 * @throws {Error} if one of the files is none, or is not there; a pattern may match nothing.
 */
export function runTestFile(path: string): { verdicts: TestVerdict[]; unmatched: string[] } {
  const file = readWith(path, parseRuleTestFile);
  const found = file.ruleFiles.map((name) => ({
    name,
    files: expandPattern(isAbsolute(name) ? name : join(dirname(path), name)),
  }));
  const groups = found.flatMap(({ files }) => files.flatMap(readRuleFile));
  return {
    verdicts: testRules(file, groups),
    unmatched: found.filter(({ files }) => files.length === 0).map(({ name }) => name),
  };
}

function expandPattern(path: string): string[] {
  if (!/[*?]/.test(basename(path))) return [path];
  const pattern = new RegExp(
    `^${
      basename(path).replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".")
    }$`,
  );
  try {
    return readdirSync(dirname(path)).filter((name) => pattern.test(name)).toSorted().map((name) =>
      join(dirname(path), name)
    );
  } catch {
    return [];
  }
}
