/** Significant decimal digits of a remembered value; {@link roundForMemory} says why they suffice. */
const DIGITS = 6;

/**
 * Rounds a value to what the state keeps of it.
 *
 * The error is at most 5 in a million of the value, a two-thousandth of the 1 % below which no spread
 * is believed, while the JSON of a value shrinks from some 18 characters to 8.
 */
export function roundForMemory(value: number): number {
  return Number(value.toPrecision(DIGITS));
}

/**
 * The newest values of a series, at most `capacity`, kept sorted as they come and go, so that a
 * quantile costs nothing and a new value O(capacity) moves of memory instead of a sort.
 */
export class TrainingWindow {
  readonly #capacity: number;
  readonly #arrived: number[];
  readonly #sorted: Float64Array;

  /** `values` are finite, oldest first; only the newest `capacity` of them are taken. */
  constructor(capacity: number, values: readonly number[] = []) {
    this.#capacity = capacity;
    this.#arrived = values.slice(-capacity);
    this.#sorted = new Float64Array(capacity);
    this.#sorted.set(Float64Array.from(this.#arrived).sort());
  }

  get size(): number {
    return this.#arrived.length;
  }

  /** The values, oldest first. */
  get values(): readonly number[] {
    return this.#arrived;
  }

  /** Takes in a finite value; the oldest one leaves when the window is full. */
  add(value: number): void {
    const size = this.size;
    const sorted = this.#sorted;
    // Where the gap is: behind the last value, or where the leaving one was.
    const gap = size < this.#capacity ? size : this.#rank(this.#arrived.shift()!, size);
    const rank = this.#rank(value, size);
    if (rank > gap) {
      sorted.copyWithin(gap, gap + 1, rank);
      sorted[rank - 1] = value;
    } else {
      sorted.copyWithin(rank + 1, rank, gap);
      sorted[rank] = value;
    }
    this.#arrived.push(value);
  }

  /**
   * Quantile `p` (0 to 1) of a window that is not empty, interpolated between neighbours: 0.5 is
   * the median, with the mean of the two middle values when their number is even.
   */
  quantile(p: number): number {
    const position = (this.size - 1) * p;
    const below = Math.floor(position);
    const low = this.#sorted[below]!;
    const high = this.#sorted[Math.min(below + 1, this.size - 1)]!;
    return low + (high - low) * (position - below);
  }

  /** How many of the first `size` sorted values are smaller than `value`. */
  #rank(value: number, size: number): number {
    let low = 0;
    let high = size;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#sorted[middle]! < value) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
