/** Of a golden section: no interval that groups have in common falls into step with multiples of it. */
const STEP = (Math.sqrt(5) - 1) / 2;

/**
 * The same rules, beginning with another group from minute to minute, so that when time is short it is not always the same
 * ones that get none. Groups follow each other as before, and so do the rules of each.
 *
 * @param minute since 1970, whole.
 */
export function rotateGroups<T extends { readonly groupName: string }>(
  rules: readonly T[],
  minute: number,
): T[] {
  const groups = [...new Set(rules.map(({ groupName }) => groupName))];
  const first = groups[Math.floor(((minute * STEP) % 1) * groups.length)];
  const begin = rules.findIndex(({ groupName }) => groupName === first);
  return [...rules.slice(begin), ...rules.slice(0, begin)];
}
