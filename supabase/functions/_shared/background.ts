/** What the platform gives a function to go on after its answer; not everywhere. */
interface EdgeRuntime {
  waitUntil(work: Promise<unknown>): void;
}

/**
 * Lets work go on after the answer is sent. Where the platform knows nothing of it, it goes on for as long as the process does.
 *
 * @param work never rejects.
 */
export function runInBackground(work: Promise<void>): void {
  (globalThis as { EdgeRuntime?: EdgeRuntime }).EdgeRuntime?.waitUntil(work);
}
