/** `npm run rules`: rule files of Prometheus, checked, tested, and moved in and out of the database. */
import { writeFileSync } from "node:fs";
import process from "node:process";
import { parseArgs } from "node:util";
import pg from "pg";
import type { RuleGroup } from "../shared/alerting/rule.ts";
import { findDuplicateRules, printRuleFile } from "../shared/alerting/rule-file.ts";
import { findUnsaved } from "../shared/alerting/saved-rules.ts";
import { explainConnection, findDatabaseUrl } from "./connection.ts";
import { readRuleFile, runTestFile } from "./rules/rule-files.ts";
import { readRules, saveRules } from "./rules/stored-rules.ts";

const HELP = `Rule files of Prometheus.

  npm run rules -- check <file>...     says what is wrong in rule files, with line and column
  npm run rules -- test <file>...      runs unit-test files, as promtool test rules does
  npm run rules -- import <file>...    saves the rules of files; others of the same groups stay
  npm run rules -- export [<file>]     writes the saved rules as a rule file, to the terminal or to a file

  --replace         import: rules of these groups that the files do not list are deleted
  --dry-run         import: says what would change, and changes nothing
  --db-url <url>    import, export: any database (default: DATABASE_URL, else the local stack, npm start must be running)

Exit code: 0 done, 1 a file is wrong, a test failed, or it could not be done.`;

const COMMANDS = ["check", "test", "import", "export"] as const;
type Command = typeof COMMANDS[number];

function parseOptions() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      replace: { type: "boolean", default: false },
      "dry-run": { type: "boolean", default: false },
      "db-url": { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return null;
  const [name, ...files] = positionals;
  const command = COMMANDS.find((one) => one === name);
  if (command === undefined) {
    throw new Error(`One of ${COMMANDS.join(", ")} is needed. See --help.`);
  }
  if (command === "export" ? files.length > 1 : files.length === 0) {
    throw new Error(command === "export" ? "export writes one file." : `${command} needs a file.`);
  }
  if (command !== "import" && (values.replace || values["dry-run"])) {
    throw new Error("--replace and --dry-run go with import only.");
  }
  return {
    command,
    files,
    isReplacing: values.replace,
    isDry: values["dry-run"],
    databaseUrl: values["db-url"] ?? process.env.DATABASE_URL,
  };
}

type Options = NonNullable<ReturnType<typeof parseOptions>>;

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

function check({ files }: Options): void {
  forEachFile(files, (file) => {
    const groups = readRuleFile(file);
    for (const name of findDuplicateRules(groups)) {
      console.error(`${file}: warning: there is more than one rule ${name}`);
    }
    console.log(`${file}: ${countRules(groups)} rules`);
  });
}

const countRules = (groups: readonly RuleGroup[]) =>
  groups.reduce((sum, { rules }) => sum + rules.length, 0);

function test({ files }: Options): void {
  forEachFile(files, (file) => {
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
  work: (client: pg.Client) => Promise<void>,
): Promise<void> {
  const client = new pg.Client({
    connectionString: findDatabaseUrl(databaseUrl),
    connectionTimeoutMillis: 10_000,
  });
  try {
    await client.connect();
    await work(client);
  } catch (error) {
    throw new Error(explainConnection(error), { cause: error });
  } finally {
    await client.end().catch(() => {});
  }
}

async function importRules({ files, isReplacing, isDry, databaseUrl }: Options): Promise<void> {
  const groups = files.flatMap(readRuleFile);
  for (const loss of findUnsaved(groups)) console.error(`warning: ${loss}`);
  await withDatabase(databaseUrl, async (client) => {
    const query = (sql: string, values?: unknown[]) => client.query(sql, values);
    const counts = await saveRules(query, groups, { isReplacing, isDry });
    const { inserted, updated, unchanged, deleted } = counts;
    const said =
      `${inserted} new, ${updated} changed, ${unchanged} as they were, ${deleted} deleted`;
    console.log(isDry ? `Would be: ${said}. Nothing was changed.` : `Rules: ${said}.`);
  });
}

async function exportRules({ files: [file], databaseUrl }: Options): Promise<void> {
  await withDatabase(databaseUrl, async (client) => {
    const { groups, disabled } = await readRules((sql, values) => client.query(sql, values));
    for (const name of disabled) {
      console.error(`warning: ${name} is disabled, which a rule file cannot say`);
    }
    const text = printRuleFile(groups);
    if (file === undefined) process.stdout.write(text);
    else writeFileSync(file, text);
  });
}

const RUN: Record<Command, (options: Options) => void | Promise<void>> = {
  check,
  test,
  import: importRules,
  export: exportRules,
};

try {
  const options = parseOptions();
  if (options === null) console.log(HELP);
  else await RUN[options.command](options);
} catch (error) {
  console.error((error as Error).message);
  process.exitCode = 1;
}
