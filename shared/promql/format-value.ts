/** A value as in Prometheus' JSON: `+Inf`, `-Inf`, `NaN`, else the shortest digits that give it back. */
export function formatValue(value: number): string {
  if (value === Infinity) return "+Inf";
  if (value === -Infinity) return "-Inf";
  return Object.is(value, -0) ? "-0" : padExponent(String(value));
}

/** A value in decimal without an exponent, however long: how `count_values` and the text of an expression show it. */
export function formatDecimal(value: number): string {
  const text = formatValue(value);
  const match = /^(-?)(\d+)(?:\.(\d+))?e([+-]\d+)$/.exec(text);
  if (match === null) return text;
  const [, sign = "", whole = "", fraction = "", exponent = ""] = match;
  const shift = Number(exponent);
  const digits = whole + fraction;
  return shift < 0
    ? `${sign}0.${"0".repeat(-shift - whole.length)}${digits}`
    : `${sign}${digits.padEnd(whole.length + shift, "0")}`;
}

/** As Go's `%g` prints a float: with an exponent, of two digits at least, below 1e-4 and from 1e6 on. */
export function formatShort(value: number): string {
  if (Number.isNaN(value) || !Number.isFinite(value) || value === 0) return formatValue(value);
  const magnitude = Math.abs(value);
  if (magnitude >= 1e-4 && magnitude < 1e6) return formatDecimal(value);
  return padExponent(value.toExponential());
}

/** Exponents have two digits at least in Go. */
function padExponent(text: string): string {
  return text.replace(/e([+-])(\d)$/, "e$10$2");
}
