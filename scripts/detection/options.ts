/** An option that has to be one of a few words. @throws {Error} that names them. */
export function oneOf<Word extends string>(
  name: string,
  words: readonly Word[],
  given: string,
): Word {
  const word = words.find((known) => known === given);
  if (word === undefined) throw new Error(`${name} is one of ${words.join(", ")}; got "${given}".`);
  return word;
}

/** An option that has to be a number from `least` to `most`. @throws {Error} that says so. */
export function numberBetween(name: string, least: number, most: number, given: string): number {
  const number = Number(given);
  if (given.trim() === "" || !(number >= least && number <= most)) {
    throw new Error(`${name} is a number from ${least} to ${most}; got "${given}".`);
  }
  return number;
}

const UNIT_MS: Record<string, number> = { m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };

/** A length of time such as `90m`, `36h`, `14d` or `2w`, in ms. @throws {Error} if it is none. */
export function parseDuration(name: string, given: string): number {
  const [, count, unit] = /^(\d+(?:\.\d+)?)([mhdw])$/.exec(given) ?? [];
  const duration = Number(count) * (UNIT_MS[unit ?? ""] ?? NaN);
  if (!(duration > 0)) {
    throw new Error(`${name} is a length of time such as 36h or 14d; got "${given}".`);
  }
  return duration;
}

/** Labels such as `job=api,region=eu`. @throws {Error} if they are written otherwise. */
export function parseLabels(name: string, given: string): Record<string, string> {
  return Object.fromEntries(
    given.split(",").map((pair) => {
      const [, label, value] = /^\s*([a-zA-Z_][\w.]*)\s*=(.*)$/.exec(pair) ?? [];
      if (label === undefined) {
        throw new Error(`${name} is written name=value,name=value; got "${given}".`);
      }
      return [label, value!.trim()];
    }),
  );
}
