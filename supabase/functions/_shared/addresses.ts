import ipaddr from "ipaddr.js";

/**
 * Who is behind an address: somebody on the Internet, this machine, or what is none of a user's business, which is all
 * the rest: networks of our own, metadata services, groups, and what is not in use.
 */
export type AddressKind = "public" | "loopback" | "forbidden";

/** An address and what it is. */
export interface JudgedAddress {
  /** In the one spelling that every reader takes for the same address. */
  readonly text: string;
  readonly family: 4 | 6;
  readonly kind: AddressKind;
}

/** Addresses that are public by their range and yet those of a platform: Azure's of its virtual machines. */
const PLATFORM_ADDRESSES: readonly string[] = ["168.63.129.16"];

/** First bits of what is given out as public IPv6: 2000::/3. */
const GLOBAL_UNICAST = { mask: 0xe000, value: 0x2000 } as const;

/** Of a translator between IPv6 and IPv4, whose last 32 bits are the address behind it: 64:ff9b::/96. */
const TRANSLATED = [0x0064, 0xff9b, 0, 0, 0, 0] as const;

/**
 * Judges an address as a resolver gives it; null for what is none. Of IPv4 only four decimal numbers are one, of IPv6
 * none with a zone.
 *
 * Public is what is given out for use on the Internet, not what is missing from a list of what is not. An IPv4 address
 * within an IPv6 one is forbidden whatever it is (mapped, compatible, 6to4, Teredo), but for that of a translator
 * (NAT64): in a network without IPv4 every host is reached so, and it is judged as the address behind it.
 *
 * @see https://www.iana.org/assignments/iana-ipv4-special-registry
 * @see https://www.iana.org/assignments/iana-ipv6-special-registry
 */
export function judgeAddress(text: string): JudgedAddress | null {
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) {
    const address = ipaddr.IPv4.parse(text);
    return { text: address.toString(), family: 4, kind: judgeIPv4(address) };
  }
  if (!/^[0-9a-f:.]+$/i.test(text) || !ipaddr.IPv6.isValid(text)) return null;
  const address = ipaddr.IPv6.parse(text);
  return { text: address.toString(), family: 6, kind: judgeIPv6(address) };
}

function judgeIPv4(address: ipaddr.IPv4): AddressKind {
  const range = address.range();
  if (range === "loopback") return "loopback";
  const isPublic = range === "unicast" && !PLATFORM_ADDRESSES.includes(address.toString());
  return isPublic ? "public" : "forbidden";
}

function judgeIPv6(address: ipaddr.IPv6): AddressKind {
  const { parts } = address;
  if (TRANSLATED.every((part, index) => parts[index] === part)) {
    const behind = new ipaddr.IPv4(address.toByteArray().slice(12));
    return judgeIPv4(behind) === "public" ? "public" : "forbidden";
  }
  const range = address.range();
  if (range === "loopback") return "loopback";
  const isGlobal = (parts[0]! & GLOBAL_UNICAST.mask) === GLOBAL_UNICAST.value;
  return isGlobal && range === "unicast" ? "public" : "forbidden";
}
