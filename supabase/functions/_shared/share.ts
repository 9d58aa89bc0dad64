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

/** Like {@link shareFor}, for each key of its own. Remembers the newest `limit` keys. */
export function shareForEach<T>(
  milliseconds: number,
  limit: number,
  load: (key: string) => Promise<T>,
  now: () => Date,
): (key: string) => Promise<T> {
  const shares = new Map<string, () => Promise<T>>();
  return (key) => {
    let ask = shares.get(key);
    if (ask === undefined) {
      ask = shareFor(milliseconds, () => load(key), now);
      shares.set(key, ask);
      const [oldest] = shares.keys();
      if (shares.size > limit) shares.delete(oldest!);
    }
    return ask();
  };
}
