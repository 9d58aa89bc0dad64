/** Certificates for tests, made when they are needed: no key lies about, and no program has to be there. */
import { Buffer } from "node:buffer";
import { generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto";
import { isIPv6 } from "node:net";

/** What a server shows, in PEM. */
export interface ServerCertificate {
  readonly cert: string;
  readonly key: string;
}

/** Somebody who vouches for servers. */
export interface Authority {
  /** In PEM. */
  readonly certificate: string;
  /** A certificate for a name, or for an IPv4 address. Good until 2120, or until the year that is given. */
  issue(name: string, untilYear?: number): ServerCertificate;
}

// DER: the tag, the length, the content. @see ITU-T X.690
function der(tag: number, ...content: Uint8Array[]): Buffer {
  const body = Buffer.concat(content);
  const bytes: number[] = [];
  for (let rest = body.length; rest > 0; rest >>= 8) bytes.unshift(rest & 0xff);
  const length = body.length < 128 ? [body.length] : [0x80 | bytes.length, ...bytes];
  return Buffer.concat([Buffer.from([tag, ...length]), body]);
}

const sequence = (...content: Uint8Array[]) => der(0x30, ...content);
const set = (...content: Uint8Array[]) => der(0x31, ...content);
const bits = (content: Uint8Array) => der(0x03, Buffer.from([0]), content);
const octets = (content: Uint8Array) => der(0x04, content);
const object = (hex: string) => der(0x06, Buffer.from(hex, "hex"));
const time = (year: number) => der(0x18, Buffer.from(`${year}0101000000Z`));
const utcTime = (year: number) => der(0x17, Buffer.from(`${year % 100}0101000000Z`));
/** Years before 2050 have a type of their own. @see RFC 5280, 4.1.2.5 */
const yearOf = (year: number) => year < 2050 ? utcTime(year) : time(year);

const ECDSA_WITH_SHA256 = sequence(object("2a8648ce3d040302"));
const COMMON_NAME = object("550403");
const BASIC_CONSTRAINTS = object("551d13");
const ALTERNATIVE_NAME = object("551d11");
const TRUE = der(0x01, Buffer.from([0xff]));

const nameOf = (commonName: string) =>
  sequence(set(sequence(COMMON_NAME, der(0x0c, Buffer.from(commonName)))));

/** The extension that names the server. */
function alternativeName(name: string): Buffer {
  if (isIPv6(name)) throw new RangeError("Cannot issue a certificate for an IPv6 address");
  const isAddress = /^[\d.]+$/.test(name);
  const entry = isAddress
    ? der(0x87, Buffer.from(name.split(".").map(Number)))
    : der(0x82, Buffer.from(name));
  return sequence(ALTERNATIVE_NAME, octets(sequence(entry)));
}

interface Certified {
  readonly issuer: string;
  readonly subject: string;
  readonly subjectKey: KeyObject;
  readonly extension: Buffer;
  readonly untilYear: number;
}

/** @see RFC 5280, 4.1 */
function certify(
  { issuer, subject, subjectKey, extension, untilYear }: Certified,
  issuerKey: KeyObject,
): string {
  const serial = randomBytes(8);
  serial[0] = 0x40 | serial[0]! & 0x3f;
  const content = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, serial),
    ECDSA_WITH_SHA256,
    nameOf(issuer),
    sequence(yearOf(2020), yearOf(untilYear)),
    nameOf(subject),
    subjectKey.export({ type: "spki", format: "der" }),
    der(0xa3, sequence(extension)),
  );
  const signed = sequence(content, ECDSA_WITH_SHA256, bits(sign("sha256", content, issuerKey)));
  const lines = signed.toString("base64").match(/.{1,64}/g)!.join("\n");
  return `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`;
}

/** Makes an authority that nobody else knows of. */
export function makeAuthority(issuer = "pgvigil test authority"): Authority {
  const own = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const certificate = certify({
    ...{ issuer, subject: issuer, subjectKey: own.publicKey, untilYear: 2120 },
    extension: sequence(BASIC_CONSTRAINTS, TRUE, octets(sequence(TRUE))),
  }, own.privateKey);
  return {
    certificate,
    issue(name, untilYear = 2120) {
      const { publicKey: subjectKey, privateKey } = generateKeyPairSync("ec", {
        namedCurve: "P-256",
      });
      const extension = alternativeName(name);
      return {
        cert: certify({ issuer, subject: name, subjectKey, extension, untilYear }, own.privateKey),
        key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
      };
    },
  };
}
