/** What was made of some bytes. */
interface Entry<Value> {
  /** Packed: one array takes much less room than one a part. */
  readonly bytes: Uint8Array;
  readonly value: Value;
}

/**
 * Values by lists of byte strings. Bounded by the bytes it keeps: when there are too many it forgets all. It may forget
 * single values at any time too, but never gives a wrong one.
 */
export class BytesCache<Value> {
  readonly #bytesLimit: number;
  /** By hash: of two with the same hash the later one stays. */
  readonly #entries = new Map<number, Entry<Value>>();
  #bytes = 0;

  /** An entry counts as its bytes and some for what hangs on them. */
  constructor(bytesLimit: number) {
    this.#bytesLimit = bytesLimit;
  }

  /** The value for these byte strings; what `make` gives, and is kept, if there is none. */
  get(parts: readonly Uint8Array[], make: (parts: readonly Uint8Array[]) => Value): Value {
    const hash = hashOf(parts);
    const known = this.#entries.get(hash);
    if (known !== undefined && isPacked(known.bytes, parts)) return known.value;

    const value = make(parts);
    // A copy: a view would keep the whole request that it is a part of.
    const bytes = pack(parts);
    if (this.#bytes + bytes.length + ENTRY_BYTES > this.#bytesLimit) {
      this.#entries.clear();
      this.#bytes = 0;
    }
    this.#bytes += bytes.length + ENTRY_BYTES;
    this.#entries.set(hash, { bytes, value });
    return value;
  }
}

/** Roughly what an entry takes besides its bytes and its value. */
const ENTRY_BYTES = 200;

/** Bytes of the length before each part. */
const LENGTH_BYTES = 4;

/** FNV-1a, over lengths too. */
function hashOf(parts: readonly Uint8Array[]): number {
  let hash = 0x811c9dc5;
  for (const part of parts) {
    const { length } = part;
    hash = Math.imul(hash ^ length, 0x01000193);
    for (let at = 0; at < length; at += 1) hash = Math.imul(hash ^ part[at]!, 0x01000193);
  }
  return hash;
}

function pack(parts: readonly Uint8Array[]): Uint8Array {
  let size = 0;
  for (const { length } of parts) size += LENGTH_BYTES + length;
  const packed = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    const { length } = part;
    for (let shift = 0; shift < 32; shift += 8) packed[at++] = length >>> shift;
    packed.set(part, at);
    at += length;
  }
  return packed;
}

function isPacked(packed: Uint8Array, parts: readonly Uint8Array[]): boolean {
  let at = 0;
  for (const part of parts) {
    const { length } = part;
    if (at + LENGTH_BYTES + length > packed.length) return false;
    for (let shift = 0; shift < 32; shift += 8) {
      if (packed[at++] !== ((length >>> shift) & 0xff)) return false;
    }
    for (let index = 0; index < length; index += 1) {
      if (packed[at++] !== part[index]) return false;
    }
  }
  return at === packed.length;
}
