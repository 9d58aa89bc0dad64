import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { hostOf, toWebAddress } from "../../../../shared/alerting/messages/to-web-address.ts";
import { hostileText } from "./message-fixtures.ts";

describe("toWebAddress()", () => {
  it.each([
    ["https://example.com", "https://example.com/"],
    [" http://example.com:8080/a?b=c&d=e#f ", "http://example.com:8080/a?b=c&d=e#f"],
    ["HTTPS://Example.COM/Ä", "https://example.com/%C3%84"],
    ['https://example.com/"><b>', "https://example.com/%22%3E%3Cb%3E"],
    ["http://[::1]:80/", "http://[::1]/"],
    ["http://my_host.local/", "http://my_host.local/"],
    ["https://exаmple.com", "https://xn--exmple-4nf.com/"],
  ])("%s leads to %s", (text, href) => expect(toWebAddress(text)).toBe(href));

  it.each([
    null,
    "",
    "example.com",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "\u0001javascript:alert(1)",
    "javascript://example.com/%0aalert(1)",
    "ftp://example.com/",
    "data:text/html,<script>",
    "mailto:a@example.com",
    "file:///etc/passwd",
    "//example.com",
    "https://",
    "https://bank.example@evil.example/",
    "https://:password@example.com/",
    "https://example.com/a\nb",
    "https://example.com/a b",
    'https://"',
    "https://a*b`c/",
  ])("%j is none", (text) => expect(toWebAddress(text)).toBeNull());

  it("takes one of 2,000 characters", () => {
    expect(toWebAddress(`https://example.com/${"a".repeat(1980)}`)).toHaveLength(2000);
    expect(toWebAddress(`https://example.com/${"a".repeat(1981)}`)).toBeNull();
    expect(toWebAddress(`https://example.com/${"ä".repeat(1000)}`)).toBeNull();
  });

  it("is null or as safe in an attribute as in a text", () => {
    const text = fc.oneof(
      hostileText,
      hostileText.map((rest) => `https://example.com/${rest}`),
      hostileText.map((rest) => `https://${rest}`),
    );
    fc.assert(
      fc.property(text, (text) => {
        const href = toWebAddress(text);
        if (href === null) return;
        expect(href).toMatch(/^https?:\/\/[!#-;=?-~]+$/);
        expect(toWebAddress(href)).toBe(href);
        expect(hostOf(href)).not.toBe("");
      }),
      { numRuns: 1000 },
    );
  });
});
