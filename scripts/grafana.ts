/**
 * Writes the dashboards for Grafana, docs/grafana/<name>.json, from their description in code. `--check` writes nothing
 * and fails when one of them differs.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { PARTNER_INTEGRATION } from "./grafana/partner-integration.ts";
import { SUPABASE_OVERVIEW } from "./grafana/supabase-overview.ts";

const DASHBOARDS = {
  "partner-integration": PARTNER_INTEGRATION,
  "supabase-overview": SUPABASE_OVERVIEW,
};

const isCheck = process.argv.includes("--check");
for (const [name, dashboard] of Object.entries(DASHBOARDS)) {
  const file = `docs/grafana/${name}.json`;
  const content = `${JSON.stringify(dashboard, null, 2)}\n`;
  if (!isCheck) {
    writeFileSync(file, content);
    console.log(`Wrote ${file}`);
  } else if (!existsSync(file) || readFileSync(file, "utf8") !== content) {
    console.error(`${file} is not what scripts/grafana makes. Run: npm run generate`);
    process.exitCode = 1;
  }
}
