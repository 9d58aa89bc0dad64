import { existsSync, readFileSync } from "node:fs";

/** Where the database is: as the argument says, else the running local stack. @throws {Error} with the way out if neither. */
export function findDatabaseUrl(argument: string | undefined): string {
  if (argument) return argument;
  if (!existsSync(".local/stack.json")) {
    throw new Error("There is no local stack here. Start it with `npm start`, or pass --db-url.");
  }
  return JSON.parse(readFileSync(".local/stack.json", "utf8")).db_url;
}

/** Says what went wrong in words, with the way out; the URL holds a password and is not repeated. */
export function explainConnection(error: unknown): string {
  const { code, message } = error as { code?: string; message: string };
  if (["3F000", "42883", "42P01"].includes(code ?? "")) {
    return "The schema monitor is not in this database, or not all of it. Apply the migrations: supabase db push --remote=<url>.";
  }
  if (code === "ECONNREFUSED") return "Nothing listens there. Is the stack running (`npm start`)?";
  if (code === "28P01") return "The password was refused.";
  return message;
}
