/** Exceedances of several quantities, each known by the largest values that it has taken. */
export class LargestValues {
  readonly #capacity: number;
  /** Row by row, each descending. Kept to 8 bits of mantissa, as they are stored: what was is not worth more. */
  readonly values: Float32Array;
  readonly sizes: Uint8Array;

  constructor(quantityCount: number, capacity: number) {
    this.#capacity = capacity;
    this.values = new Float32Array(quantityCount * capacity);
    this.sizes = new Uint8Array(quantityCount);
  }

  /** Takes in a value ≥ 0 of a quantity, if it is among the largest. */
  add(quantity: number, value: number): void {
    const { values, sizes } = this;
    const rounded = roundToBfloat(value);
    const first = quantity * this.#capacity;
    const size = sizes[quantity]!;
    if (rounded <= 0 || (size === this.#capacity && rounded <= values[first + size - 1]!)) return;
    let at = first + Math.min(size, this.#capacity - 1);
    while (at > first && values[at - 1]! < rounded) {
      values[at] = values[at - 1]!;
      at -= 1;
    }
    values[at] = rounded;
    if (size < this.#capacity) sizes[quantity] = size + 1;
  }

  /** Lets what was seen count for less: all values shrink by a factor from 0 to 1. */
  fade(factor: number): void {
    for (let at = 0; at < this.values.length; at++) {
      this.values[at] = roundToBfloat(this.values[at]! * factor);
    }
  }

  /**
   * How rare a value is, in nats: minus the logarithm of how often a week chance brings one as large. Beyond the
   * smallest of the largest values that were seen in `weeks`, the tail is taken to be exponential with their mean excess as
   * its slope, at least `slopeRatio` of where it begins and `smallestSlope`.
   *
   * @see Pickands, "Statistical Inference Using Extreme Order Statistics", 1975.
   */
  rarity(
    quantity: number,
    value: number,
    weeks: number,
    slopeRatio: number,
    smallestSlope: number,
  ): number {
    const size = this.sizes[quantity]!;
    if (size < 3) return UNKNOWN_RARITY;
    const first = quantity * this.#capacity;
    const begin = this.values[first + size - 1]!;
    const usual = -Math.log(size / weeks);
    return value <= begin
      ? usual
      : usual + (value - begin) / this.#slope(quantity, begin, slopeRatio, smallestSlope);
  }

  /** The value that is so rare, in nats: the inverse of {@link rarity}; 0 if too little was seen. */
  valueOf(
    quantity: number,
    rarity: number,
    weeks: number,
    slopeRatio: number,
    smallestSlope: number,
  ): number {
    const size = this.sizes[quantity]!;
    if (size < 3) return 0;
    const begin = this.values[quantity * this.#capacity + size - 1]!;
    const excess = rarity + Math.log(size / weeks);
    return begin +
      Math.max(excess, 0) * this.#slope(quantity, begin, slopeRatio, smallestSlope);
  }

  #slope(quantity: number, begin: number, ratio: number, smallest: number): number {
    const first = quantity * this.#capacity;
    const last = first + this.sizes[quantity]! - 1;
    let excess = 0;
    for (let at = first; at < last; at++) excess += this.values[at]! - begin;
    return Math.max(excess / (last - first), ratio * begin, smallest);
  }
}

/** Rarity where nothing can be said. */
export const UNKNOWN_RARITY = -9;

const LARGEST = 3e38;
const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** Cuts a number to the 16 upper bits of a float: three digits, any magnitude. */
export function roundToBfloat(value: number): number {
  float[0] = Math.min(value, LARGEST);
  bits[0]! &= 0xffff0000;
  return float[0]!;
}
