/**
 * Shares one result of `load` among all who ask within `milliseconds` of it, and one attempt among
 * all who ask while it is under way. What `load` throws is shared with the latter only: a failure
 * that is to be kept must be a value.
 */
export function shareFor<T>(
  milliseconds: number,
  load: () => Promise<T>,
  now: () => Date,
): () => Promise<T> {
  let pending: Promise<T> | null = null;
  let kept: { readonly value: T; readonly at: number } | null = null;

  return () => {
    if (kept !== null) {
      const age = now().getTime() - kept.at;
      // A clock that was set back would keep it for ever.
      if (age >= 0 && age < milliseconds) return Promise.resolve(kept.value);
    }
    pending ??= load()
      .then((value) => {
        kept = { value, at: now().getTime() };
        return value;
      })
      .finally(() => pending = null);
    return pending;
  };
}
