import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { runScript } from "../../scripts/promqltest/run-script.ts";

const SCRIPTS = join(import.meta.dirname, "../promql");

describe("scripts in Prometheus' test language", () => {
  it.each(readdirSync(SCRIPTS).filter((file) => file.endsWith(".test")))("%s", (file) => {
    const results = runScript(readFileSync(join(SCRIPTS, file), "utf8"));
    expect(results.length).toBeGreaterThan(0);
    // In scope, each of them: none is skipped.
    expect(results.filter(({ outcome }) => outcome.kind !== "passed")).toEqual([]);
  });
});
