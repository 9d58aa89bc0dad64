import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, it } from "vitest";
import { withTimeout } from "../../local/processes.ts";

setFlagsFromString("--expose-gc");
const collectGarbage: () => void = runInNewContext("gc");

/** Never done by itself. */
const endless = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
  });

describe("withTimeout()", () => {
  const { signal: never } = new AbortController();

  it("gives what the work gives, or throws what it throws", async () => {
    expect(await withTimeout(60_000, never, () => Promise.resolve(7))).toBe(7);
    await expect(withTimeout(60_000, never, () => Promise.reject(new Error("no"))))
      .rejects.toThrow("no");
  });

  it("ends what is not done in time, though garbage is collected meanwhile", async () => {
    const done = withTimeout(100, never, endless);
    collectGarbage();
    await expect(done).rejects.toMatchObject({ name: "TimeoutError" });
  });

  it("ends with what it is a part of, also where that has ended before", async () => {
    const controller = new AbortController();
    const done = withTimeout(60_000, controller.signal, endless);
    controller.abort(new Error("Ctrl-C"));
    await expect(done).rejects.toThrow("Ctrl-C");
    await expect(
      withTimeout(60_000, controller.signal, (signal) => fetch("http://127.0.0.1:9", { signal })),
    ).rejects.toThrow("Ctrl-C");
  });
});
