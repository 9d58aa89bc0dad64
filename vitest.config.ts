import { defineConfig } from "vitest/config";

/** Projects by what they need: nothing, a database, the whole stack. `npx vitest run --project unit` runs one. */
export default defineConfig({
  test: {
    // On two cores vitest would leave one to itself; and these tests wait, for a database or the next minute, as long as they compute.
    maxWorkers: 3,
    reporters: ["default", "./tests/summary-reporter.ts"],
    projects: [
      {
        test: {
          name: "unit",
          include: ["tests/*.test.ts", "tests/{shared,functions,scripts}/**/*.test.ts"],
          // Modules are loaded once a worker, not once a file: a third of the time of these tests.
          isolate: false,
          // Properties over long texts take seconds where the two cores have other work.
          testTimeout: 30_000,
        },
      },
      {
        test: {
          name: "database",
          include: ["tests/database/**/*.test.ts"],
          globalSetup: "tests/database/global-setup.ts",
          testTimeout: 30_000,
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          name: "e2e",
          include: ["tests/{e2e,platform}/**/*.test.ts"],
          testTimeout: 60_000,
          hookTimeout: 90_000,
        },
      },
    ],
  },
});
