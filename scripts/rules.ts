/** `npm run rules`: rule files of Prometheus, checked, tested, and moved in and out of the database. */
import { writeFileSync } from "node:fs";
import process from "node:process";
import pg from "pg";
import type { RuleGroup } from "../shared/alerting/rule.ts";
import { findDuplicateRules, findSavedTwins, printRuleFile } from "../shared/alerting/rule-file.ts";
import { findUnsaved } from "../shared/alerting/saved-rules.ts";
import { explainConnection, findDatabaseUrl } from "./connection.ts";
import {
  assertConnectionString,
  type Command,
  type Options,
  parseOptions,
} from "./rules/options.ts";
import { readRuleFile, runTestFile } from "./rules/rule-files.ts";
import {
  deleteRules,
  type Query,
  readRules,
  saveRules,
  switchRules,
} from "./rules/stored-rules.ts";

const HELP = `Rule files of Prometheus.

  npm run rules -- check <file>...           says what is wrong in rule files, with line and column
  npm run rules -- test <file>...            runs unit-test files, as promtool test rules does
  npm run rules -- import <file>...          saves the rules of files; others of the same groups stay
  npm run rules -- export [<file>]           writes the saved rules as a rule file, to the terminal or to a file
  npm run rules -- disable <group> [<name>]  switches saved rules off: those of a group, or one of them
  npm run rules -- enable <group> [<name>]   switches them on again
  npm run rules -- delete <group>            deletes a saved group with its rules and their alerts
  npm run rules help                         this

  --replace         import: rules of these groups that the files do not list are deleted
  --dry-run         import: says what would change, and changes nothing
  --db-url <url>    any database (default: DATABASE_URL, else the local stack, npm start must be running)

Exit code: 0 done, 1 a file is wrong, a test failed, or it could not be done.`;

/** Does something with each file, and says what went wrong with which. */
function forEachFile(files: readonly string[], work: (file: string) => void): void {
  for (const file of files) {
    try {
      work(file);
    } catch (error) {
      console.error((error as Error).message);
      process.exitCode = 1;
    }
  }
}

const warn = (warnings: readonly string[]) => {
  for (const warning of warnings) console.error(`warning: ${warning}`);
};

function check({ names }: Options): void {
  const checked: RuleGroup[] = [];
  forEachFile(names, (file) => {
    const groups = readRuleFile(file);
    checked.push(...groups);
    console.log(`${file}: ${count(countRules(groups), "rule")}`);
  });
  warn([...findDuplicateRules(checked), ...findUnsaved(checked)]);
}

const count = (number: number, noun: string) => `${number} ${noun}${number === 1 ? "" : "s"}`;

const countRules = (groups: readonly RuleGroup[]) =>
  groups.reduce((sum, { rules }) => sum + rules.length, 0);

function test({ names }: Options): void {
  forEachFile(names, (file) => {
    const { verdicts, unmatched } = runTestFile(file);
    for (const name of unmatched) console.error(`${file}: warning: no file matches ${name}`);
    for (const [index, { name, failures }] of verdicts.entries()) {
      if (failures.length === 0) continue;
      process.exitCode = 1;
      console.error(`${file}: test ${index + 1}${name && `, ${name}`}: FAILED`);
      for (const failure of failures) console.error(failure.replace(/^/gm, "  "));
    }
    const passed = verdicts.filter(({ failures }) => failures.length === 0).length;
    console.log(`${file}: ${passed} of ${verdicts.length} tests passed`);
  });
}

async function withDatabase(
  databaseUrl: string | undefined,
  work: (query: Query) => Promise<void>,
): Promise<void> {
  const connectionString = findDatabaseUrl(databaseUrl);
  assertConnectionString(connectionString);
  const client = new pg.Client({ connectionString, connectionTimeoutMillis: 10_000 });
  try {
    await client.connect();
    await work((sql, values) => client.query(sql, values));
  } catch (error) {
    throw new Error(explainConnection(error), { cause: error });
  } finally {
    await client.end().catch(() => {});
  }
}

async function importRules({ names, isReplacing, isDry, databaseUrl }: Options): Promise<void> {
  const groups = names.flatMap(readRuleFile);
  if (groups.length === 0) {
    throw new Error(`There are no groups in ${names.join(", ")}; nothing was changed.`);
  }
  warn([...findDuplicateRules(groups), ...findUnsaved(groups)]);
  await withDatabase(databaseUrl, async (query) => {
    warn(findSavedTwins(groups, (await readRules(query)).groups, { isReplacing }));
    const saved = await saveRules(query, groups, { isReplacing, isDry });
    const { inserted, updated, unchanged, deleted, unlisted } = saved;
    const said =
      `${inserted} new, ${updated} changed, ${unchanged} as they were, ${deleted} deleted`;
    console.log(isDry ? `Would be: ${said}. Nothing was changed.` : `Rules: ${said}.`);
    if (unlisted > 0) {
      const [are, them] = unlisted === 1 ? ["is", "it"] : ["are", "them"];
      console.log(
        `${
          count(unlisted, "saved rule")
        } of these groups ${are} not in the files; --replace deletes ${them}.`,
      );
    }
  });
}

async function exportRules({ names: [file], databaseUrl }: Options): Promise<void> {
  await withDatabase(databaseUrl, async (query) => {
    const { groups, disabled } = await readRules(query);
    warn(
      disabled.map((name) =>
        `${name} is disabled, which a rule file cannot say: importing it elsewhere enables it`
      ),
    );
    const text = printRuleFile(groups);
    if (file === undefined) process.stdout.write(text);
    else writeFileSync(file, text);
  });
}

const switchTo =
  (isEnabled: boolean) =>
  async ({ names: [group = "", name], databaseUrl }: Options): Promise<void> => {
    await withDatabase(databaseUrl, async (query) => {
      const { found, changed } = await switchRules(query, { group, name, isEnabled });
      if (found === 0) {
        throw new Error(`No rule${name ? ` ${name}` : ""} is saved in group ${group}.`);
      }
      const word = isEnabled ? "enabled" : "disabled";
      console.log(`Rules: ${changed} ${word}, ${found - changed} as they were.`);
    });
  };

async function deleteGroup({ names: [group = ""], databaseUrl }: Options): Promise<void> {
  await withDatabase(databaseUrl, async (query) => {
    const deleted = await deleteRules(query, group);
    if (deleted === 0) throw new Error(`No group ${group} is saved.`);
    console.log(`Rules: ${deleted} deleted.`);
  });
}

const RUN: Record<Command, (options: Options) => void | Promise<void>> = {
  check,
  test,
  import: importRules,
  export: exportRules,
  enable: switchTo(true),
  disable: switchTo(false),
  delete: deleteGroup,
  help: () => console.log(HELP),
};

try {
  const options = parseOptions(process.argv.slice(2), process.env);
  await RUN[options.command](options);
} catch (error) {
  console.error((error as Error).message);
  process.exitCode = 1;
}
