import { parseScript } from "./parse-script.ts";
import { type Outcome, runCase } from "./run-case.ts";
import { TestStorage } from "./test-storage.ts";

/** A case of a script, or a line that is no part of the language, and what became of it. */
export interface CaseResult {
  readonly line: number;
  readonly text: string;
  readonly outcome: Outcome;
}

/**
 * Runs a file in the test language of Prometheus against the engine. Each case counts once.
 *
 * @throws {Error} if no line of it is a command
 */
export function runScript(script: string): CaseResult[] {
  const commands = parseScript(script);
  if (commands.every(({ kind }) => kind === "unreadable")) {
    throw new Error("this is no test script: no line is a load, clear or eval");
  }
  const storage = new TestStorage();
  const results: CaseResult[] = [];
  for (const command of commands) {
    if (command.kind === "load") storage.load(command);
    else if (command.kind === "clear") storage.clear();
    else {
      const { line, text } = command;
      const outcome: Outcome = command.kind === "eval" ? runCase(command, storage) : {
        kind: "failed",
        query: text,
        mismatch: { expected: "a line of the test language", got: command.reason },
      };
      results.push({ line, text, outcome });
    }
  }
  return results;
}
