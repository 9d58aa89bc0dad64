import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  expandTemplate,
  findQueries,
  OUTPUT_LIMIT,
  parseRuleTemplate,
  STEP_LIMIT,
  type TemplateData,
} from "../../shared/alerting/expand-template.ts";
import { formatFloat } from "../../shared/alerting/go-format.ts";
import { TemplateError } from "../../shared/alerting/parse-template.ts";

const METRIC = [
  { labels: { __name__: "metric", instance: "b" }, value: 21 },
  { labels: { __name__: "metric", instance: "a", __value__: "text" }, value: 11 },
];

const expand = (text: string, data: Partial<TemplateData> = {}) =>
  expandTemplate(text, {
    name: "test",
    labels: { __name__: "up", job: "api", instance: "a:9090" },
    value: 1.5,
    externalLabels: { region: "eu" },
    externalUrl: "http://testhost:9090/path/prefix",
    query: (query) => query === "metric" ? METRIC : [],
    ...data,
  });

describe("expandTemplate()", () => {
  it.each([
    ["plain text", "plain text"],
    [
      "{{ 1 }} {{ 1.0 }} {{ 1e3 }} {{ 0x10 }} {{ 1_000 }} {{ 'a' }} {{ true }}",
      "1 1 1000 16 1000 97 true",
    ],
    ['{{ "<b>" }}{{ `raw\\n` }}{{ "a\\tb" }}', "<b>raw\\na\tb"],
    ["{{ $labels.job }} {{ .Labels.job }} {{ $.Labels.job }}", "api api api"],
    ["[{{ $labels.nope }}]", "[]"],
    ["{{ $value }} {{ .Value }}", "1.5 1.5"],
    ["{{ $labels }}", "map[__name__:up instance:a:9090 job:api]"],
    ["{{ $externalLabels.region }} {{ .ExternalLabels.region }}", "eu eu"],
    [
      "{{ $externalURL }} {{ externalURL }} {{ pathPrefix }}",
      "http://testhost:9090/path/prefix http://testhost:9090/path/prefix /path/prefix",
    ],
    ["a  {{- 1 -}}  b {{- /* said */ -}} c{{/* too */}} d", "a1bc d"],
    ["{{3 -}} x", "3x"],
    ["{{ if gt $value 1.0 }}big{{ else }}small{{ end }}", "big"],
    ["{{ if gt $value 2.0 }}a{{ else if gt $value 1.0 }}b{{ else }}c{{ end }}", "b"],
    [
      "{{ with $labels.job }}{{ . }}{{ end }}{{ with $labels.nope }}x{{ else }}none{{ end }}",
      "apinone",
    ],
    ["{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $y := 3 }}{{ $y }}{{ end }}{{ $x }}", "32"],
    [
      "{{ range $k, $v := $labels }}{{ $k }}={{ $v }};{{ end }}",
      "__name__=up;instance=a:9090;job=api;",
    ],
    [
      '{{ range query "metric" | sortByLabel "instance" }}{{ .Labels.instance }}:{{ .Value }} {{ end }}',
      "a:11 b:21 ",
    ],
    ['{{ range $i, $s := query "metric" }}{{ $i }}{{ $s.Value }} {{ end }}', "021 111 "],
    ['{{ range query "none" }}x{{ else }}nothing{{ end }}', "nothing"],
    [
      '{{ range query "metric" }}{{ if eq .Value 21.0 }}{{ continue }}{{ end }}{{ .Value }}{{ break }}{{ end }}',
      "11",
    ],
    [
      '{{ query "metric" | first | value }} {{ query "metric" | first | label "instance" }}',
      "21 b",
    ],
    ['{{ with query "metric" }}{{ index . 1 | strvalue }}{{ end }}', "text"],
    ['{{ $x := query "metric" | first }}{{ $x.Labels.foo }}', ""],
    ['{{define "x"}}{{.arg0}} {{.arg1}}{{end}}{{template "x" (args 1 "2")}}', "1 2"],
    ['{{block "b" "x"}}<{{.}}>{{end}}{{template "b" 2}}', "<x><2>"],
    ['{{slice "abcd" 1}} {{slice "abcd" 1 3}} {{slice "äb" 2}}', "bcd bc b"],
    [
      '{{slice "ab"}} {{slice "ab" 2}} {{slice "ab" 0 2}} {{len (slice (query "metric") 1 2)}}',
      "ab  ab 1",
    ],
    ['{{ "foo.example.com" | stripPort }}', "foo.example.com"],
    ['{{ "foo.example.com:12345" | stripPort }}', "foo.example.com"],
    ['{{ "192.0.2.1:12345" | stripPort }}', "192.0.2.1"],
    ['{{ "2001:0DB8::1" | stripPort }}', "2001:0DB8::1"],
    ['{{ "[2001:0DB8::1]:12345" | stripPort }}', "2001:0DB8::1"],
    ['{{ "[2001:0DB8::1]::12345" | stripPort }}', "[2001:0DB8::1]::12345"],
    ['{{ "foo.example.com" | stripDomain }}', "foo"],
    ['{{ "foo.example.com:12345" | stripDomain }}', "foo:12345"],
    ['{{ "192.0.2.1:12345" | stripDomain }}', "192.0.2.1:12345"],
    ['{{ "[2001:0DB8::1]:12345" | stripDomain }}', "[2001:0DB8::1]:12345"],
    ['{{ reReplaceAll "(a)b" "x$1" "ab" }}', "xa"],
    ['{{ reReplaceAll "(a)b" "x$1y" "ab" }}', "x"],
    ['{{ reReplaceAll "(a)(b)" "${2}${1}$$" "abab" }}', "ba$ba$"],
    ['{{ match "a+" "aa" }} {{ match "a+" "b" }}', "true false"],
    ['{{ "aa bb CC" | title }} {{ "aA" | toUpper }} {{ "aA" | toLower }}', "Aa Bb CC AA aa"],
    ['{{ title "foo_bar-baz é" }}', "Foo_bar-Baz É"],
    [
      '{{ graphLink "up" }} {{ tableLink "up == 0" }}',
      "/graph?g0.expr=up&g0.tab=0 /graph?g0.expr=up+%3D%3D+0&g0.tab=1",
    ],
    ['{{ printf "%0.2f" (parseDuration "1h2m10ms") }}', "3720.01"],
    ['{{ (1435065584.128 | toTime).Format "2006-01-02 15:04:05" }}', "2015-06-23 13:19:44"],
    ["{{ 1435065584.128 | humanizeTimestamp }}", "2015-06-23 13:19:44.128 +0000 UTC"],
    [
      '{{ humanizeTimestamp "0" }} {{ humanizeTimestamp 9223372036 }}',
      "1970-01-01 00:00:00 +0000 UTC 2262-04-11 23:47:16 +0000 UTC",
    ],
    [
      "{{ -0.22222 | humanizePercentage }}:{{ 0.0 | humanizePercentage }}:{{ 0.1234567 | humanizePercentage }}",
      "-22.22%:0%:12.35%",
    ],
    ['{{ len "é" }} {{ len $labels }} {{ index $labels "job" }}', "2 3 api"],
    ['{{ print 1 2 "a" "b" 3 }} {{ println "a" 1 }}', "1 2ab3 a 1\n"],
    [
      '{{ html "<a href=\'x\'>&" }} {{ js "a<\'b" }} {{ urlquery "a b&c" }}',
      "&lt;a href=&#39;x&#39;&gt;&amp; a\\u003C\\'b a+b%26c",
    ],
    [
      '{{ and 1 0 }} {{ or 0 "x" }} {{ not 1 }} {{ eq 3 1 2 3 }} {{ ne "a" "b" }} {{ le 1 1 }} {{ ge 1 2 }}',
      "0 x false true true true false",
    ],
    ['{{ or "x" (index $labels 1) }}', "x"],
    [
      '{{ printf "%s %q %v %d %t %% %5.1f|%-5s|%05d|%+d|%x" "a" "b\\n" $value 7 true 2.25 "ab" 42 3 255 }}',
      'a "b\\n" 1.5 7 true %   2.2|ab   |00042|+3|ff',
    ],
    ['{{ printf "%d %s" $value 1 }}', "%!d(float64=1.5) %!s(int=1)"],
    [
      '{{ printf "%s %d" "a" }} {{ printf "%s" "a" "b" }} {{ printf "%z" 1 }}',
      "a %!d(MISSING) a%!(EXTRA string=b) %!z(int=1)",
    ],
  ])("%s", (text, output) => {
    expect(expand(text)).toBe(output);
  });

  it.each<[string, readonly number[], string]>([
    [
      "humanize",
      [0, 1, -1, 1234567, 0.12, 9223372036854775807, Infinity, -Infinity, NaN],
      "0:1:-1:1.235M:120m:9.223E:+Inf:-Inf:NaN:",
    ],
    [
      "humanize1024",
      [0, 1, 1048576, 0.12, 1234567, 18446744073709551615],
      "0:1:1Mi:0.12:1.177Mi:16Ei:",
    ],
    ["humanizeDuration", [
      0,
      1,
      60,
      3600,
      86400,
      90000,
      -(86400 * 2 + 3600 * 3 + 60 * 4 + 5),
      899.99,
    ], "0s:1s:1m 0s:1h 0m 0s:1d 0h 0m 0s:1d 1h 0m 0s:-2d 3h 4m 5s:14m 59s:"],
    [
      "humanizeDuration",
      [0.1, 0.0001, 0.12345, 60.5, 1.2345, 12.345],
      "100ms:100us:123.5ms:1m 0s:1.234s:12.35s:",
    ],
    ["humanizePercentage", [1, 1234567], "100%:1.235e+08%:"],
    ["humanizeTimestamp", [Infinity, NaN, -1], "+Inf:NaN:1969-12-31 23:59:59 +0000 UTC:"],
  ])("%s of %j", (name, values, output) => {
    const given = values.map((value) => expand(`{{ ${name} $value }}:`, { value })).join("");
    expect(given).toBe(output);
    const texts = values.map((value) =>
      String(value).replace(/^Infinity/, "+Inf").replace("-Infinity", "-Inf")
    );
    expect(texts.map((text) => expand(`{{ ${name} "${text}" }}:`)).join("")).toBe(output);
  });

  it.each([
    [
      '{{ query "none" | first }}',
      '1:130: executing "test" at <first>: error calling first: first() called on vector with no elements',
    ],
    [
      "{{ .Foo }}",
      `1:115: executing "test" at <.Foo>: can't evaluate field Foo in type struct { Labels map[string]string; ExternalLabels map[string]string; ExternalURL string; Value interface {} }`,
    ],
    [
      "{{ $labels.a.b }}",
      `1:122: executing "test" at <$labels.a.b>: can't evaluate field b in type string`,
    ],
    [
      '{{ humanize "one" }}',
      '1:115: executing "test" at <humanize "one">: error calling humanize: strconv.ParseFloat: parsing "one": invalid syntax',
    ],
    [
      "{{ if eq $value 1 }}{{ end }}",
      '1:118: executing "test" at <eq $value 1>: error calling eq: incompatible types for comparison',
    ],
    [
      "{{ toUpper $value }}",
      '1:123: executing "test" at <$value>: wrong type for value; expected string; got float64',
    ],
    ["a\n{{ nil }}", '2:3: executing "test" at <nil>: nil is not a command'],
    [
      "{{ first }}",
      '1:115: executing "test" at <first>: wrong number of args for first: want 1 got 0',
    ],
    [
      "{{ range $value }}{{ end }}",
      `1:121: executing "test" at <$value>: range can't iterate over 1.5`,
    ],
    ['{{ slice "ab" 3 }}', "error calling slice: index out of range: 3"],
    ['{{ slice "ab" -1 }}', "error calling slice: index out of range: -1"],
    ['{{ slice "ab" 2 1 }}', "error calling slice: invalid slice index: 2 > 1"],
    ['{{ slice "ab" "1" }}', "error calling slice: cannot index slice/array with type string"],
    ['{{ slice "ab" 0 1 1 }}', "error calling slice: cannot 3-index slice a string"],
    ["{{ slice 1 1 }}", "error calling slice: can't slice item of type int"],
    ['{{ match "(" "a" }}', "error calling match: error parsing regexp: missing closing ): `(`"],
  ])("says what went wrong in %s, where Prometheus says it", (text, message) => {
    const output = expand(text);
    expect(output).toMatch(/^<error expanding template: error executing template test: /);
    expect(output).toContain(message);
  });

  it("says that a text is no template", () => {
    expect(expand("a\n{{")).toBe(
      "<error expanding template: error parsing template test: template: test:2: unclosed action>",
    );
  });

  it(`stops at ${OUTPUT_LIMIT} characters`, () => {
    expect(expand(`{{ printf "%${1000}s" "" }}`.repeat(65) + "x".repeat(OUTPUT_LIMIT - 65_000)))
      .toHaveLength(OUTPUT_LIMIT);
    expect(expand("x".repeat(OUTPUT_LIMIT + 1))).toContain(
      `longer than ${OUTPUT_LIMIT} characters`,
    );
  });

  it("stops loops in loops, and templates that call themselves", () => {
    const series = Array.from({ length: 1000 }, () => METRIC[0]!);
    const loops = (count: number) =>
      '{{ range query "m" }}'.repeat(count) + "{{ end }}".repeat(count);
    expect(expand(loops(1), { query: () => series })).toBe("");
    expect(expand(loops(2), { query: () => series })).toContain(`more than ${STEP_LIMIT} steps`);
    expect(expand('{{ define "x" }}{{ template "x" }}{{ end }}{{ template "x" }}')).toContain(
      "maximum template depth",
    );
  });

  it("never throws, whatever the text", () => {
    const pieces = [
      "{{",
      "}}",
      "-",
      " ",
      "if",
      "range",
      "end",
      "else",
      "$x",
      ":=",
      "$labels",
      ".a",
      "|",
      "(",
      ")",
      '"q"',
      "1",
      "printf",
      "query",
      "define",
      "with",
      "/*",
      "*/",
      "é",
      "\n",
    ];
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...pieces), { maxLength: 20 }), (parts) => {
        expect(typeof expand(parts.join(""))).toBe("string");
      }),
      { numRuns: 2000 },
    );
  });
});

describe("parseRuleTemplate()", () => {
  it.each([
    ["{{", 2, "unclosed action"],
    ["a {{ end }}", 5, "unexpected {{end}}"],
    ["{{ if $value }}", 15, "unexpected EOF"],
    ["{{ nope 1 }}", 3, 'function "nope" not defined'],
    ["{{ $nope }}", 3, 'undefined variable "$nope"'],
    ["{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", 38, 'undefined variable "$x"'],
    ["{{ }}", 3, "missing value for command"],
    ["{{\u00a0}}", 2, "unrecognized character in action: U+00A0"],
    ['{{ "a }}', 3, "unterminated quoted string"],
    ["{{ break }}", 3, "{{break}} outside {{range}}"],
    [
      '{{ range . }}{{ block "b" . }}{{ break }}{{ end }}{{ end }}',
      33,
      "{{break}} outside {{range}}",
    ],
    ['{{ block "b" }}{{ end }}', 13, "missing value for block clause"],
    ['{{ block "b" . }}', 17, "unexpected EOF"],
    ["{{/* a }}", 0, "unclosed comment"],
    ["{{ 1 | 2 }}", 7, "non executable command in pipeline stage"],
    ["{{ (1 }}", 6, 'unexpected "}}" in command'],
    ["{{ 1a }}", 3, 'bad number syntax: "1a"'],
  ])("refuses %j at %d: %s", (text, at, message) => {
    let error: unknown;
    try {
      parseRuleTemplate(text);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(TemplateError);
    expect(error).toMatchObject({ message, at });
  });
});

describe("parseRuleTemplate(), how deep", () => {
  const nest = (depth: number) => "{{ if true }}".repeat(depth) + "{{ end }}".repeat(depth);

  it("reads 100 blocks in one another and no more", () => {
    expect(() => parseRuleTemplate(nest(100))).not.toThrow();
    expect(() => parseRuleTemplate(nest(101))).toThrow("nested too deep");
    expect(() => parseRuleTemplate(`{{ ${"(".repeat(5000)} }}`)).toThrow("nested too deep");
  });
});

describe("findQueries()", () => {
  it("finds those that are spelled out, wherever they stand", () => {
    const text =
      '{{ with query "a" }}{{ range (query "b") }}{{ end }}{{ else }}{{ "c" | query | first }}{{ end }}' +
      '{{ define "x" }}{{ query "d" }}{{ end }}{{ query (print "e") }}';
    expect(findQueries(parseRuleTemplate(text)).toSorted()).toEqual(["a", "b", "c", "d"]);
  });
});

describe("formatFloat()", () => {
  it.each<[number, "e" | "f" | "g", number | undefined, string]>([
    [100000, "g", undefined, "100000"],
    [1e6, "g", undefined, "1e+06"],
    [123456789, "g", undefined, "1.23456789e+08"],
    [0.0001, "g", undefined, "0.0001"],
    [0.00001, "g", undefined, "1e-05"],
    [-0, "g", undefined, "-0"],
    [2.5, "f", 0, "2"],
    [3.5, "f", 0, "4"],
    [0.125, "f", 2, "0.12"],
    [0.375, "f", 2, "0.38"],
    [0.125, "e", 1, "1.2e-01"],
    [999999.9, "g", 4, "1e+06"],
    [999.95, "g", 4, "1000"],
    [9999.5, "g", 4, "1e+04"],
    [12345678901234567890, "f", 0, "12345678901234567168"],
    [1e22, "f", 1, "10000000000000000000000.0"],
    [5e-324, "g", undefined, "5e-324"],
  ])("%d as %%%s with precision %s is %s", (value, verb, precision, text) => {
    expect(formatFloat(value, verb, precision)).toBe(text);
  });

  it("gives back the number with the shortest digits", () => {
    fc.assert(fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
      expect(Number(formatFloat(value, "g"))).toBe(value);
    }));
  });
});
