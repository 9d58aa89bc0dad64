import { parseArgs } from "node:util";

/** What is to be done, with what. */
export interface Options {
  readonly command: Command;
  /** Files, or a group and a rule of it. */
  readonly names: readonly string[];
  readonly isReplacing: boolean;
  readonly isDry: boolean;
  readonly databaseUrl: string | undefined;
}

/** How many names each command takes, and what it says if there are others. */
const COMMANDS = {
  check: { least: 1, most: Infinity, message: "check needs a file." },
  test: { least: 1, most: Infinity, message: "test needs a file." },
  import: { least: 1, most: Infinity, message: "import needs a file." },
  export: { least: 0, most: 1, message: "export writes one file." },
  enable: { least: 1, most: 2, message: "enable needs a group, and at most one name." },
  disable: { least: 1, most: 2, message: "disable needs a group, and at most one name." },
  delete: { least: 1, most: 1, message: "delete needs one group." },
  help: { least: 0, most: Infinity, message: "" },
};

export type Command = keyof typeof COMMANDS;

const isCommand = (name: string | undefined): name is Command =>
  name !== undefined && Object.hasOwn(COMMANDS, name);

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Reads the command line, and from `DATABASE_URL` where the database is unless that says it.
 *
 * @throws {Error} with the way out, also for options that npm took for its own.
 */
export function parseOptions(args: readonly string[], env: Environment): Options {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      replace: { type: "boolean", default: false },
      "dry-run": { type: "boolean", default: false },
      "db-url": { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const [first, ...names] = positionals;
  const command = values.help ? "help" : first;
  assertNotSwallowed(args, env, command);
  if (!isCommand(command)) {
    throw new Error(
      `One of ${
        Object.keys(COMMANDS).join(", ")
      } is needed: npm run rules help tells what they do.`,
    );
  }
  const { least, most, message } = COMMANDS[command];
  if (names.length < least || names.length > most) throw new Error(message);
  if (command !== "import" && command !== "help" && (values.replace || values["dry-run"])) {
    throw new Error("--replace and --dry-run go with import only.");
  }
  return {
    command,
    names,
    isReplacing: values.replace,
    isDry: values["dry-run"],
    databaseUrl: values["db-url"] ?? env.DATABASE_URL,
  };
}

/** Without `--` before them npm takes options for its own, and a dry run would be none. */
function assertNotSwallowed(
  args: readonly string[],
  env: Environment,
  command = "import",
): void {
  const isOn = (value = "") => value !== "" && value !== "false";
  const swallowed = [
    ...(isOn(env.npm_config_dry_run) ? ["--dry-run"] : []),
    ...(isOn(env.npm_config_db_url) ? ["--db-url"] : []),
    // npm completes --replace to an option of its own, which takes what follows unless that has a value such as `never`.
    ...(isOn(env.npm_config_replace) ||
        /^true$|\.ya?ml$/.test(env.npm_config_replace_registry_host ?? "")
      ? ["--replace"]
      : []),
  ].filter((option) => !args.some((arg) => arg === option || arg.startsWith(`${option}=`)));
  if (swallowed.length === 0) return;
  throw new Error(
    `npm took ${
      swallowed.join(" and ")
    } for its own; put -- before the options: npm run rules -- ${command} …`,
  );
}

/** @throws {Error} which does not repeat the URL, as it may hold a password. */
export function assertConnectionString(url: string): void {
  if (/^postgres(ql)?:\/\//.test(url) && URL.canParse(url)) return;
  throw new Error(
    "This is not a connection string: postgresql://user:password@host:port/database, in the password %23 for # and so on.",
  );
}
