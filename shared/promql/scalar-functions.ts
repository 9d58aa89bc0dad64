const DAY = 86_400_000;

function onDate(read: (date: Date) => number): (seconds: number) => number {
  return (seconds) => read(new Date(Math.trunc(seconds) * 1000));
}

/** Functions of one value that are applied to every element of an instant vector. */
export const VALUE_FUNCTIONS: Readonly<Record<string, (value: number) => number>> = {
  abs: Math.abs,
  acos: Math.acos,
  acosh: Math.acosh,
  asin: Math.asin,
  asinh: Math.asinh,
  atan: Math.atan,
  atanh: Math.atanh,
  ceil: Math.ceil,
  cos: Math.cos,
  cosh: Math.cosh,
  deg: (value) => value * 180 / Math.PI,
  exp: Math.exp,
  floor: Math.floor,
  ln: Math.log,
  log10: Math.log10,
  log2: Math.log2,
  rad: (value) => value * Math.PI / 180,
  sgn: (value) => value < 0 ? -1 : value > 0 ? 1 : value,
  sin: Math.sin,
  sinh: Math.sinh,
  sqrt: Math.sqrt,
  tan: Math.tan,
  tanh: Math.tanh,
};

/** Functions of a time in seconds since 1970, in UTC. */
export const DATE_FUNCTIONS: Readonly<Record<string, (seconds: number) => number>> = {
  day_of_month: onDate((date) => date.getUTCDate()),
  day_of_week: onDate((date) => date.getUTCDay()),
  day_of_year: onDate((date) =>
    Math.floor((date.getTime() - Date.UTC(date.getUTCFullYear(), 0, 1)) / DAY) + 1
  ),
  days_in_month: onDate((date) =>
    new Date(Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 0)).getUTCDate()
  ),
  hour: onDate((date) => date.getUTCHours()),
  minute: onDate((date) => date.getUTCMinutes()),
  month: onDate((date) => date.getUTCMonth() + 1),
  year: onDate((date) => date.getUTCFullYear()),
};

/** To the nearest multiple; what is halfway goes up. */
export function roundTo(value: number, multiple: number): number {
  // By its inverse: fewer decimals are lost.
  const inverse = 1 / multiple;
  return Math.floor(value * inverse + 0.5) / inverse;
}

/** As Go's math.Min, which Prometheus takes: NaN if either is. */
export function clampTo(value: number, low: number, high: number): number {
  return Math.max(low, Math.min(high, value));
}
