import { renameSync, writeFileSync } from "node:fs";

/** Writes a file for the owner alone. By rename: whoever reads it, or is killed, never meets half of it. */
export function writeJsonFile(path: string, content: unknown): void {
  const draft = `${path}.tmp`;
  writeFileSync(draft, `${JSON.stringify(content, null, 2)}\n`, { mode: 0o600 });
  renameSync(draft, path);
}
