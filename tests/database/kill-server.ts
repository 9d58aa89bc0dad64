import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { commandLine, poll } from "../../local/processes.ts";

/** The server that has its data in `folder`, ended as by a power cut: every process of it by SIGKILL, at once. */
export async function killServer(folder: string): Promise<void> {
  const postmaster = Number(
    readFileSync(join(folder, "data", "postmaster.pid"), "utf8").split("\n")[0],
  );
  const children = readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map(Number).filter(
    (pid) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
        return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]) === postmaster;
      } catch {
        return false; // ended meanwhile
      }
    },
  );
  for (const pid of [postmaster, ...children]) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // ended meanwhile
    }
  }
  const gone = await poll(
    () =>
      [postmaster, ...children].every((pid) => commandLine(pid) === undefined) ? true : undefined,
    10,
  );
  if (!gone) throw new Error("The server is still there");
}
