const UNITS = [
  ["y", 365 * 24 * 3_600_000],
  ["w", 7 * 24 * 3_600_000],
  ["d", 24 * 3_600_000],
  ["h", 3_600_000],
  ["m", 60_000],
  ["s", 1000],
  ["ms", 1],
] as const;

const GRAMMAR = new RegExp(`^${UNITS.map(([unit]) => `(?:(\\d+)${unit}(?!s\\b))?`).join("")}$`);

/** Some 292 years: what Prometheus' durations, 64 bits of nanoseconds, reach. */
export const LONGEST_DURATION = 9_223_372_036_854;

/**
 * Milliseconds of a duration as Prometheus writes it: `1h30m`, `5m`, `1y2w3d`, units in this order, each once, or `0`.
 *
 * @throws {RangeError} for what is none, or longer than {@link LONGEST_DURATION}.
 */
export function parseDuration(text: string): number {
  if (text === "0") return 0;
  const match = text === "" ? null : GRAMMAR.exec(text);
  if (match === null) {
    throw new RangeError(`not a valid duration string: "${text}" (write it like 5m or 1h30m)`);
  }
  const milliseconds = UNITS.reduce(
    (sum, [, size], i) => sum + Number(match[i + 1] ?? 0) * size,
    0,
  );
  if (milliseconds > LONGEST_DURATION) throw new RangeError("duration out of range");
  return milliseconds;
}

/** As Prometheus prints a duration of at least 0 milliseconds: `1h30m`, `0s`. Years and weeks only when they are whole. */
export function formatDuration(milliseconds: number): string {
  if (milliseconds === 0) return "0s";
  let rest = milliseconds;
  let text = "";
  for (const [unit, size] of UNITS) {
    const isOnlyWhole = unit === "y" || unit === "w";
    if (isOnlyWhole && rest % size !== 0) continue;
    const count = Math.floor(rest / size);
    if (count === 0) continue;
    text += `${count}${unit}`;
    rest -= count * size;
  }
  return text;
}
