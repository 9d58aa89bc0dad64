import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { judgeAddress } from "../../supabase/functions/_shared/addresses.ts";

const kindOf = (text: string) => judgeAddress(text)?.kind;

describe("judgeAddress()", () => {
  /** Ranges with what is before and behind them; null where another special range or nothing follows. */
  it.each([
    ["this network", null, "0.0.0.0", "0.255.255.255", "1.0.0.0"],
    ["private", "9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"],
    ["carrier-grade NAT", "100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"],
    ["link-local", "169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"],
    ["a platform's own", "168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17"],
    ["private", "172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"],
    ["protocol assignments", "191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"],
    ["documentation", "192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"],
    ["AS112", "192.31.195.255", "192.31.196.0", "192.31.196.255", "192.31.197.0"],
    ["AMT", "192.52.192.255", "192.52.193.0", "192.52.193.255", "192.52.194.0"],
    ["6to4 relays", "192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"],
    ["private", "192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"],
    ["AS112", "192.175.47.255", "192.175.48.0", "192.175.48.255", "192.175.49.0"],
    ["benchmarking", "198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"],
    ["documentation", "198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"],
    ["documentation", "203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"],
    ["multicast", "223.255.255.255", "224.0.0.0", "239.255.255.255", null],
    ["reserved and broadcast", null, "240.0.0.0", "255.255.255.255", null],
    ["not given out", null, "100::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"],
    ["protocol assignments", "2000:ffff::", "2001::", "2001:1ff:ffff::", "2001:200::"],
    ["documentation", "2001:db7:ffff::", "2001:db8::", "2001:db8:ffff::", "2001:db9::"],
    ["6to4", "2001:ffff::", "2002::", "2002:ffff:ffff::", "2003::"],
    ["AS112", "2620:4f:7fff::", "2620:4f:8000::", "2620:4f:8000:ffff::", "2620:4f:8001::"],
    ["documentation", "3ffe:ffff::", "3fff::", "3fff:fff:ffff::", "3fff:1000::"],
    ["not given out", "3fff:ffff::", "4000::", "fbff:ffff::", null],
    ["unique local", null, "fc00::", "fdff:ffff::", null],
    ["link-local", null, "fe80::", "febf:ffff::", null],
    ["site-local", null, "fec0::", "feff:ffff::", null],
    ["multicast", null, "ff00::", "ffff:ffff::", null],
  ])("forbids %s, and nothing beside it", (_, before, first, last, behind) => {
    expect([kindOf(first), kindOf(last)]).toEqual(["forbidden", "forbidden"]);
    for (const text of [before, behind]) if (text !== null) expect(kindOf(text)).toBe("public");
  });

  it.each([
    ["metadata", "169.254.169.254"],
    ["metadata over IPv6", "fd00:ec2::254"],
    ["metadata of Alibaba", "100.100.100.200"],
    ["nothing", "::"],
    ["compatible", "::8.8.8.8"],
    ["compatible loopback", "::127.0.0.1"],
    ["mapped", "::ffff:8.8.8.8"],
    ["mapped loopback", "::ffff:127.0.0.1"],
    ["mapped metadata", "::ffff:a9fe:a9fe"],
    ["translated in the old way", "::ffff:0:8.8.8.8"],
    ["6to4 of a public one", "2002:808:808::"],
    ["6to4 of a private one", "2002:a00:1::"],
    ["Teredo", "2001:0:4136:e378:8000:63bf:3fff:fdd2"],
    ["NAT64 of a private one", "64:ff9b::10.0.0.1"],
    ["NAT64 of loopback", "64:ff9b::7f00:1"],
    ["NAT64 of metadata", "64:ff9b::169.254.169.254"],
    ["NAT64 within a network", "64:ff9b:1::8.8.8.8"],
    ["beside NAT64", "64:ff9b::1:808:808"],
  ])("forbids %s: %s", (_, text) => expect(kindOf(text)).toBe("forbidden"));

  it.each(["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2001:4860:4860::8888"])(
    "takes %s for public",
    (text) => expect(kindOf(text)).toBe("public"),
  );

  it.each([
    ["126.255.255.255", "public"],
    ["127.0.0.0", "loopback"],
    ["127.0.0.1", "loopback"],
    ["127.255.255.255", "loopback"],
    ["128.0.0.0", "public"],
    ["::1", "loopback"],
    ["::2", "forbidden"],
  ])("tells that %s is %s", (text, kind) => expect(kindOf(text)).toBe(kind));

  it.each([
    ...["", "localhost", "8.8.8", "8.8.8.8.8", "134744072", "0x8.8.8.8", "010.8.8.8", "256.1.1.1"],
    ...["8.8.8.8 ", "8.8.8.8\n", "[::1]", "::1%lo", "fe80::1%eth0", ":::", "1:2:3", "::8.8.8.300"],
  ])("takes %j for no address", (text) => expect(judgeAddress(text)).toBeNull());

  it("writes an address in one way", () => {
    expect(judgeAddress("2001:0DB9:0:0::0001")).toMatchObject({ text: "2001:db9::1", family: 6 });
    expect(judgeAddress("8.8.8.8")).toMatchObject({ text: "8.8.8.8", family: 4 });
  });

  it("judges a translated address as the one behind it, and no other that holds one is public", () => {
    const octet = fc.nat({ max: 255 });
    fc.assert(fc.property(fc.tuple(octet, octet, octet, octet), (octets) => {
      const text = octets.join(".");
      const isPublic = kindOf(text) === "public";
      expect(kindOf(`64:ff9b::${text}`)).toBe(isPublic ? "public" : "forbidden");
      for (const prefix of ["::ffff:", "64:ff9b:1::", "fe80::"]) {
        expect(kindOf(`${prefix}${text}`)).toBe("forbidden");
      }
      expect(kindOf(`::${text}`)).not.toBe("public");
    }));
  });
});
