import type { Reporter, TestModule } from "vitest/node";

/**
 * Prints the result once more as the last line, `N passed, N failed, N skipped`, and why each skipped test was.
 * A skip is explained in its name: "… (skipped: needs ../shared/data)".
 */
export default class SummaryReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    const count = { passed: 0, failed: unhandledErrors.length, skipped: 0, pending: 0 };
    for (const module of modules) {
      // A file that does not load, or a hook that throws, fails without a failed test.
      const hasFailedTest = [...module.children.allTests("failed")].length > 0;
      if (module.state() === "failed" && !hasFailedTest) count.failed += 1;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        count[state] += 1;
        if (state === "skipped") console.log(`skipped: ${test.fullName}`);
      }
    }
    // A test that never ended did not pass.
    console.log(
      `\n${count.passed} passed, ${count.failed + count.pending} failed, ${count.skipped} skipped`,
    );
  }
}
