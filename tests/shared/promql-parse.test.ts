import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Expr } from "../../shared/promql/ast.ts";
import {
  DEPTH_LIMIT,
  EXPRESSION_LIMIT,
  parseExpr,
  parseSeriesName,
  typeOf,
} from "../../shared/promql/parse-expr.ts";
import { prettyPrintExpr, printExpr } from "../../shared/promql/print-expr.ts";
import { PromqlError } from "../../shared/promql/promql-error.ts";
import { refusal } from "./promql-fixtures.ts";

/** Without places, and without the order of matchers. */
function shapeOf(expr: Expr): unknown {
  return JSON.parse(JSON.stringify(expr, (key, value: unknown) => {
    if (key === "start" || key === "end") return undefined;
    if (key === "matchers") return (value as object[]).map((one) => JSON.stringify(one)).sort();
    return typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
  }));
}

/** With the parentheses that precedence puts, for what is otherwise not to be seen. */
function grouped(expr: Expr): string {
  switch (expr.kind) {
    case "binary":
      return `(${grouped(expr.left)} ${expr.op} ${grouped(expr.right)})`;
    case "unary":
      return `${expr.op}(${grouped(expr.expr)})`;
    case "paren":
      return grouped(expr.expr);
    case "subquery":
      return `${grouped(expr.expr)}${printExpr(expr).slice(printExpr(expr.expr).length)}`;
    default:
      return printExpr(expr);
  }
}

/** Each with how it is printed. */
const VALID: readonly (readonly [text: string, printed: string])[] = [
  ["a", "a"],
  ["a:b:c", "a:b:c"],
  ["sum", "sum"],
  ["  a  # says why", "a"],
  ["# first\na", "a"],
  [`a{}`, "a"],
  [`a{b="c"}`, `a{b="c"}`],
  [`a{ b = 'c' , d != "e", }`, `a{b="c",d!="e"}`],
  [`a{b=~"c.*",d!~"e|f"}`, `a{b=~"c.*",d!~"e|f"}`],
  [`{__name__="a"}`, `{__name__="a"}`],
  [`{__name__=~"a.+"}`, `{__name__=~"a.+"}`],
  [`{"a.b"}`, `{"a.b"}`],
  [`{"a"}`, "a"],
  [`{"a.b", "c d"="é"}`, `{"a.b","c d"="é"}`],
  [`a{on="1",by="2",sum="3"}`, `a{by="2",on="1",sum="3"}`],
  ["a[5m]", "a[5m]"],
  ["a[90]", "a[1m30s]"],
  ["a[1h30m]", "a[1h30m]"],
  ["a[1.5]", "a[1s500ms]"],
  ["a offset 5m", "a offset 5m"],
  ["a offset -5m", "a offset -5m"],
  ["a offset 0s", "a"],
  ["a OFFSET 1w", "a offset 1w"],
  ["a @ 1.5", "a @ 1.500"],
  ["a @ -1", "a @ -1.000"],
  ["a @ start()", "a @ start()"],
  ["a @ end() offset 1m", "a @ end() offset 1m"],
  ["a offset 1m @ end()", "a @ end() offset 1m"],
  ["a[5m] @ 10 offset 1m", "a[5m] @ 10.000 offset 1m"],
  ["rate(a[5m])[1h:]", "rate(a[5m])[1h:]"],
  ["a[1h:5m]", "a[1h:5m]"],
  ["a[1h:5m] @ 7 offset 1m", "a[1h:5m] @ 7.000 offset 1m"],
  ["(a + b)[1h:5m]", "(a + b)[1h:5m]"],
  ["max_over_time(a[1h:5m])", "max_over_time(a[1h:5m])"],
  ["1", "1"],
  ["+1", "1"],
  ["-1", "-1"],
  ["-a", "-a"],
  ["+a", "+a"],
  ["- - a", "--a"],
  [`"a"`, `"a"`],
  [`'a"b'`, String.raw`"a\"b"`],
  ["`a\\b`", String.raw`"a\\b"`],
  ["a+b", "a + b"],
  ["a == bool b", "a == bool b"],
  ["a == BOOL 1", "a == bool 1"],
  ["a AND b Or c UNLESS d", "a and b or c unless d"],
  ["a + on (b) c", "a + on (b) c"],
  ["a + on () c", "a + on () c"],
  ["a + ignoring () c", "a + c"],
  ["a + ignoring (b, c) d", "a + ignoring (b, c) d"],
  ["a + on (b) group_left c", "a + on (b) group_left () c"],
  ["a + on (b) group_left (d, e,) c", "a + on (b) group_left (d, e) c"],
  ["a / ignoring (b) group_right () c", "a / ignoring (b) group_right () c"],
  [`a + on ("b c") d`, `a + on ("b c") d`],
  ["a atan2 b", "a atan2 b"],
  ["sum(a)", "sum(a)"],
  ["SUM(a)", "sum(a)"],
  ["sum by (b) (a)", "sum by (b) (a)"],
  ["sum(a) by (b)", "sum by (b) (a)"],
  ["sum by () (a)", "sum(a)"],
  ["sum without () (a)", "sum without () (a)"],
  ["sum without (b, c) (a)", "sum without (b, c) (a)"],
  [`sum by ("b.c") (a)`, `sum by ("b.c") (a)`],
  ["topk(3, a)", "topk(3, a)"],
  [`count_values by (b) ("v", a)`, `count_values by (b) ("v", a)`],
  ["quantile(0.9, a)", "quantile(0.9, a)"],
  ["limit_ratio(-0.5, a)", "limit_ratio(-0.5, a)"],
  ["time()", "time()"],
  ["min_of(1, 2) + max_of(3, time())", "min_of(1, 2) + max_of(3, time())"],
  [`info(a, {b=~".+"})`, `info(a, {b=~".+"})`],
  [`label_join(a, "b", ",", "c", "d")`, `label_join(a, "b", ",", "c", "d")`],
  [`histogram_quantiles(a, "q", 0.5, 0.9)`, `histogram_quantiles(a, "q", 0.5, 0.9)`],
  ["((a))", "((a))"],
  ["start() + end() + range() + step()", "start() + end() + range() + step()"],
];

describe("parseExpr()", () => {
  it.each(VALID)("reads %s, which is printed %s and read the same again", (text, printed) => {
    const expr = parseExpr(text);
    expect(printExpr(expr)).toBe(printed);
    expect(shapeOf(parseExpr(printed))).toEqual(shapeOf(expr));
  });

  it.each([
    ["a + b * c", "(a + (b * c))"],
    ["a * b + c", "((a * b) + c)"],
    ["a - b - c", "((a - b) - c)"],
    ["a / b * c % d", "(((a / b) * c) % d)"],
    ["a ^ b ^ c", "(a ^ (b ^ c))"],
    ["a * b ^ c", "(a * (b ^ c))"],
    ["-a ^ b", "-((a ^ b))"],
    ["a ^ -b", "(a ^ -(b))"],
    ["2 ^ -1", "(2 ^ -1)"],
    ["-2 ^ 2", "-((2 ^ 2))"],
    ["-a * b", "(-(a) * b)"],
    ["- a + b", "(-(a) + b)"],
    ["1 - -1", "(1 - -1)"],
    ["1-1", "(1 - 1)"],
    ["a or b and c", "(a or (b and c))"],
    ["a and b or c", "((a and b) or c)"],
    ["a unless b and c", "((a unless b) and c)"],
    ["a or b or c", "((a or b) or c)"],
    ["a == b > c", "((a == b) > c)"],
    ["a + b == c + d", "((a + b) == (c + d))"],
    ["a > b and c < d", "((a > b) and (c < d))"],
    ["a atan2 b * c", "((a atan2 b) * c)"],
    ["a + b offset 5m", "(a + b offset 5m)"],
    ["a + b[5m:1m]", undefined],
    ["a * b @ 5", "(a * b @ 5.000)"],
    ["-a offset 5m", "-(a offset 5m)"],
    ["-a @ 5", "-(a @ 5.000)"],
    ["a ^ b offset 1m + c", "((a ^ b offset 1m) + c)"],
  ])("reads %s as %s", (text, expected) => {
    // What follows a range is the last operand's, which no operator takes.
    if (expected === undefined) expect(() => parseExpr(text)).toThrow("binary expression must");
    else expect(grouped(parseExpr(text))).toBe(expected);
  });

  it.each([
    ["0x1F", 31],
    ["0XfF", 255],
    ["017", 15],
    ["08", 8],
    ["1_000", 1000],
    ["0x_53_AB_F3_82", 1403777922],
    ["0X5_3", 83],
    ["0x5__3", undefined],
    ["0x53_", undefined],
    ["1.5", 1.5],
    [".5", 0.5],
    ["2.", 2],
    ["1e3", 1000],
    ["1E-3", 0.001],
    ["1.5e+2", 150],
    ["1_0e1", 100],
    ["Inf", Infinity],
    ["inf", Infinity],
    ["+INF", Infinity],
    ["-Inf", -Infinity],
    ["NaN", NaN],
    ["nan", NaN],
    ["5m", 300],
    ["1h30m", 5400],
    ["1ms", 0.001],
    ["-1d", -86_400],
    ["0", 0],
    ["-0", -0],
  ])("reads the number %s as %s", (text, value) => {
    if (value === undefined) return expect(() => parseExpr(text)).toThrow(PromqlError);
    expect(parseExpr(text)).toMatchObject({ kind: "number", value });
    return undefined;
  });

  it.each([
    [String.raw`"\a\b\f\n\r\t\v\\\""`, '\x07\b\f\n\r\t\v\\"'],
    [String.raw`'\''`, "'"],
    [String.raw`"\x41\101"`, "AA"],
    [String.raw`"\u00e9"`, "é"],
    [String.raw`"\U0001F600"`, "😀"],
    [String.raw`"\xc3\xa9"`, "é"],
    [String.raw`"\xf0\x9f\x98\x80"`, "😀"],
    [`"a # b"`, "a # b"],
    ["`a\nb`", "a\nb"],
    [String.raw`${"`"}\q${"`"}`, String.raw`\q`],
    [`""`, ""],
  ])("reads the string %s", (text, value) => {
    expect(parseExpr(text)).toMatchObject({ kind: "string", value });
  });

  it.each([
    ["1", "scalar"],
    ["'a'", "string"],
    ["a", "vector"],
    ["a[5m]", "matrix"],
    ["a[5m:]", "matrix"],
    ["1 + 2", "scalar"],
    ["1 + a", "vector"],
    ["-(1)", "scalar"],
    ["sum(a)", "vector"],
    ["time()", "scalar"],
    ["scalar(a)", "scalar"],
    ["vector(1)", "vector"],
    ["rate(a[5m])", "vector"],
    ["1 > bool 2", "scalar"],
  ])("knows that %s is a %s", (text, type) => {
    expect(typeOf(parseExpr(text))).toBe(type);
  });

  it("says where each part is", () => {
    const text = "sum by (b) (a offset 5m) +\n  rate(c[5m])";
    const expr = parseExpr(text) as Expr & { kind: "binary" };
    const cut = ({ start, end }: Expr) => text.slice(start, end);
    expect([expr, expr.left, expr.right].map(cut)).toEqual([
      text,
      "sum by (b) (a offset 5m)",
      "rate(c[5m])",
    ]);
    expect(cut((expr.left as Expr & { kind: "aggregation" }).expr)).toBe("a offset 5m");
  });

  it.each([
    ["", "1:1: unexpected end of input, expected an expression"],
    ["   ", "1:4: unexpected end of input, expected an expression"],
    ["# only a comment", "1:17: unexpected end of input, expected an expression"],
    ["(", "1:2: unexpected end of input, expected an expression"],
    ["1 +", "1:4: unexpected end of input, expected an expression"],
    ["+", "1:2: unexpected end of input, expected an expression"],
    ["a b", '1:3: unexpected "b", expected an operator'],
    ["a{", '1:3: unexpected end of input, expected a label name, a string or "}"'],
    ["{}", "1:1: vector selector must contain at least one non-empty matcher"],
    ['{a=""}', "1:1: vector selector must contain at least one non-empty matcher"],
    ['{a=~".*"}', "1:1: vector selector must contain at least one non-empty matcher"],
    ['{a!="b"}', "1:1: vector selector must contain at least one non-empty matcher"],
    ["a{b}", '1:4: unexpected "}", expected a label matching operator'],
    ["a{b=}", '1:5: unexpected "}", expected a string'],
    ["a{b=c}", '1:5: unexpected "c", expected a string'],
    ['a{b="c"', '1:8: unexpected end of input, expected "}" or ","'],
    ['a{b="c" d="e"}', '1:9: unexpected "d", expected "}" or ","'],
    ['a{b=="c"}', '1:5: unexpected "=", expected a string'],
    ['a{1="b"}', '1:3: unexpected "1", expected a label name, a string or "}"'],
    ['a{"b"="c"}{', '1:11: unexpected "{", expected an operator'],
    ['a{__name__="b"}', '1:1: metric name must not be set twice: "a" or "b"'],
    ['{"a","b"}', '1:6: metric name must not be set twice: "a" or "b"'],
    ['a{"b"}', '1:3: metric name must not be set twice: "a" or "b"'],
    ['a{b=~"("}', "1:6: error parsing regexp: missing closing ): `(`"],
    ['a{b=~"a)|(b"}', "1:6: error parsing regexp: unexpected ): `a)|(b`"],
    ['a{b=~"[z-a]"}', "1:6: error parsing regexp: invalid character class range: `z-a`"],
    ["a[", '1:3: unexpected end of input, expected a duration or "("'],
    ["a[]", '1:3: unexpected "]", expected a duration or "("'],
    ["a[5m", '1:5: unexpected end of input, expected an operator or "]"'],
    ["a[5m:", '1:6: unexpected end of input, expected a duration, "(" or "]"'],
    ["a[0]", "1:3: duration must be greater than 0"],
    ["a[0s]", "1:3: duration must be greater than 0"],
    ["a[5x]", '1:4: unexpected "x", expected an operator or "]"'],
    ["a[5m:0s]", "1:6: duration must be greater than 0"],
    ["a[5m] offset", '1:13: unexpected end of input, expected a duration or "("'],
    ["a offset", '1:9: unexpected end of input, expected a duration or "("'],
    ["a offset x", '1:10: unexpected "x", expected a duration or "("'],
    ["a offset 5m offset 5m", "1:1: offset may not be set multiple times"],
    ["a @", "1:4: unexpected end of input, expected a number"],
    ["a @ b", '1:5: unexpected "b", expected a number'],
    ["a @ 1 @ 2", "1:1: @ <timestamp> may not be set multiple times"],
    ["a @ foo()", '1:5: unexpected "foo", expected a number'],
    ["a @ Inf", "1:5: timestamp out of bounds for @ modifier: Inf"],
    ["(a + b)[5m]", "1:1: ranges only allowed for vector selectors"],
    ["a offset 5m[5m]", "1:1: no offset modifiers allowed before range"],
    ["a @ 1 [5m]", "1:1: no @ modifiers allowed before range"],
    ["1[5m]", "1:1: ranges only allowed for vector selectors"],
    ["1[5m:]", "1:1: subquery is only allowed on instant vector, got scalar instead"],
    [
      "sum(a) offset 5m",
      "1:1: offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
    ],
    [
      "1 offset 5m",
      "1:1: offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
    ],
    ["sum(", '1:5: unexpected end of input, expected an expression or ")"'],
    ["sum()", "1:1: no arguments for aggregate expression provided"],
    ["sum(a", '1:6: unexpected end of input, expected an operator, ")" or ","'],
    ["sum(1)", "1:5: expected type instant vector in aggregation expression, got scalar"],
    [
      "sum(a, b)",
      "1:1: wrong number of arguments for aggregate expression provided, expected 1, got 2",
    ],
    ["sum by (a", '1:10: unexpected end of input, expected ")" or ","'],
    ["sum by a (b)", '1:8: unexpected "a", expected "("'],
    ["sum by (1) (a)", '1:9: unexpected "1", expected a label name, a string or ")"'],
    [
      "topk(a)",
      "1:1: wrong number of arguments for aggregate expression provided, expected 2, got 1",
    ],
    ["topk(a, b)", "1:6: expected type scalar in aggregation parameter, got instant vector"],
    ["count_values(1, a)", "1:14: expected type string in aggregation parameter, got scalar"],
    ["quantile('a', b)", "1:10: expected type scalar in aggregation parameter, got string"],
    ["rate(a)", '1:6: expected type range vector in call to function "rate", got instant vector'],
    ["rate(a[5m], 1)", '1:1: expected 1 argument(s) in call to "rate", got 2'],
    ["rate()", '1:1: expected 1 argument(s) in call to "rate", got 0'],
    ["foo(a)", '1:1: unknown function with name "foo"'],
    ["rat(a[5m])", '1:1: unknown function with name "rat", did you mean rate?'],
    ["abs(1)", '1:5: expected type instant vector in call to function "abs", got scalar'],
    ["abs(a[5m])", '1:5: expected type instant vector in call to function "abs", got range vector'],
    ["abs('a')", '1:5: expected type instant vector in call to function "abs", got string'],
    ["vector(a)", '1:8: expected type scalar in call to function "vector", got instant vector'],
    ["time(1)", '1:1: expected 0 argument(s) in call to "time", got 1'],
    ["scalar(1)", '1:8: expected type instant vector in call to function "scalar", got scalar'],
    ["label_replace(a, 'b')", '1:1: expected 5 argument(s) in call to "label_replace", got 2'],
    ["round(a, 1, 2)", '1:1: expected at most 2 argument(s) in call to "round", got 3'],
    [
      "histogram_quantile(a, 0.9)",
      '1:20: expected type scalar in call to function "histogram_quantile", got instant vector',
    ],
    ["1 == 1", "1:3: comparisons between scalars must use BOOL modifier"],
    ["a == bool", "1:10: unexpected end of input, expected an expression"],
    ["a + bool b", "1:3: bool modifier can only be used on comparison operators"],
    ["1 and 2", '1:1: set operator "and" not allowed in binary scalar expression'],
    ["a and 1", '1:1: set operator "and" not allowed in binary scalar expression'],
    ["'a' + 1", "1:1: binary expression must contain only scalar and instant vector types"],
    ["'a' == 'b'", "1:1: binary expression must contain only scalar and instant vector types"],
    ["a[5m] + 1", "1:1: binary expression must contain only scalar and instant vector types"],
    [
      "-a[5m]",
      '1:1: unary expression only allowed on expressions of type scalar or instant vector, got "range vector"',
    ],
    [
      "-'a'",
      '1:1: unary expression only allowed on expressions of type scalar or instant vector, got "string"',
    ],
    ["a and on (b) group_left c", '1:1: no grouping allowed for "and" operation'],
    ["a + on (b) group_left (b) c", '1:3: label "b" must not occur in ON and GROUP clause at once'],
    ["1 + on (a) b", "1:1: vector matching only allowed between instant vectors"],
    ["a + on b", '1:8: unexpected "b", expected "("'],
    ["a + ignoring (b c) d", '1:17: unexpected "c", expected ")" or ","'],
    ["a + group_left b", '1:5: unexpected "group_left", expected an expression'],
    ["a ==== b", '1:5: unexpected "==", expected an expression'],
    ["a = b", '1:3: unexpected "=", expected an operator'],
    ["a =~ 'b'", '1:3: unexpected "=~", expected an operator'],
    ["a ! b", '1:3: unexpected "!", expected an operator'],
    ["a & b", '1:3: unexpected "&", expected an operator'],
    ["a % % b", '1:5: unexpected "%", expected an expression'],
    ["a ^", "1:4: unexpected end of input, expected an expression"],
    ["1 2", '1:3: unexpected "2", expected an operator'],
    ["1e", '1:2: unexpected "e", expected an operator'],
    ["0x", '1:2: unexpected "x", expected an operator'],
    ["0xg", '1:2: unexpected "xg", expected an operator'],
    ["1_", '1:2: unexpected "_", expected an operator'],
    ["1h5", '1:3: unexpected "5", expected an operator'],
    ["5m5h", '1:3: unexpected "5h", expected an operator'],
    ["1..2", '1:2: unexpected ".", expected an operator'],
    ["1e999", "1:1: number out of range: 1e999"],
    ["2y3000000y", '1:3: unexpected "3000000y", expected an operator'],
    ['"a', '1:1: unterminated string: "a'],
    ["'a", "1:1: unterminated string: 'a"],
    ["`a", "1:1: unterminated string: `a"],
    ['"a\\q"', "1:1: unknown escape sequence \\q in a string"],
    ['"\\x1"', "1:1: unknown escape sequence \\x in a string"],
    ['"\\400"', "1:1: escape sequence \\400 in a string is above 255"],
    ['"\\ud800"', "1:1: escape sequence \\ud800 in a string is no Unicode character"],
    ["a)", '1:2: unexpected ")", expected an operator'],
    ["a]", '1:2: unexpected "]", expected an operator'],
    ["a}", '1:2: unexpected "}", expected an operator'],
    ["sum(a))", '1:7: unexpected ")", expected an operator'],
    ["a,b", '1:2: unexpected ",", expected an operator'],
    ["a;", '1:2: unexpected ";", expected an operator'],
    ["a\nb", '2:1: unexpected "b", expected an operator'],
    [
      "sum(\n  a,\n  b\n)",
      "1:1: wrong number of arguments for aggregate expression provided, expected 1, got 2",
    ],
    ["rate(\n  a[5m]\n) +\n", "4:1: unexpected end of input, expected an expression"],
    ['a{\n  b="c",\n  d=e\n}', '3:5: unexpected "e", expected a string'],
    ["é", '1:1: unexpected "é", expected an expression'],
    ["a{b='é'} é", '1:10: unexpected "é", expected an operator'],
    ["info(a, b)", "1:9: expected label selectors only, got vector selector instead"],
    ["info(a, 1)", "1:9: expected label selectors only"],
    ["info(a, {b='c'}, d)", '1:1: expected at most 2 argument(s) in call to "info", got 3'],
    ["a offset 99999999999y", "1:10: duration out of range"],
    [
      "absent(a[5m])",
      '1:8: expected type instant vector in call to function "absent", got range vector',
    ],
    [
      "absent_over_time(a)",
      '1:18: expected type range vector in call to function "absent_over_time", got instant vector',
    ],
    ["a[300y]", "1:3: duration out of range"],
    ["label_join(a)", '1:1: expected at least 3 argument(s) in call to "label_join", got 1'],
    ["sort_by_label()", '1:1: expected at least 1 argument(s) in call to "sort_by_label", got 0'],
    [
      "time() offset 5m",
      "1:1: offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
    ],
    ["sum without (a, ) b", '1:19: unexpected "b", expected "("'],
    ["by (a)", '1:4: unexpected "(", expected an operator'],
    ["offset 5m", '1:8: unexpected "5m", expected an operator'],
    ["bool 1", '1:1: unexpected "bool", expected an expression'],
    ["a or", "1:5: unexpected end of input, expected an expression"],
    ["unless b", '1:8: unexpected "b", expected an operator'],
    ["atan2 1", '1:7: unexpected "1", expected an operator'],
    [
      "limitk(a)",
      "1:1: wrong number of arguments for aggregate expression provided, expected 2, got 1",
    ],
    ["min_of(1)", '1:1: expected 2 argument(s) in call to "min_of", got 1'],
    ["min_of(a, 1)", '1:8: expected type scalar in call to function "min_of", got instant vector'],
    ["min_of(1, 2", '1:12: unexpected end of input, expected an operator, ")" or ","'],
    [
      "histogram_quantiles(a)",
      '1:1: expected at least 3 argument(s) in call to "histogram_quantiles", got 1',
    ],
  ])("refuses %s: %s", (text, message) => {
    const error = refusal(() => parseExpr(text));
    const [, place, reason] = /^(\d+:\d+): (.*)$/.exec(message)!;
    expect(error.message).toBe(`${place}: parse error: ${reason}`);
    expect(error.kind).toBe("parse");
    expect(`${error.place!.line}:${error.place!.column}`).toBe(place);
    const named = / expected (.*)$/.exec(message);
    if (/unexpected/.test(message)) {
      expect(error.expected).toEqual(named === null ? [] : named[1]!.split(/, | or /));
    }
  });

  it.each([
    ["a[-5m]", "1:3: an expression as a duration"],
    ["a anchored", "1:1: the modifier anchored (extended range selectors)"],
    ["a smoothed", "1:1: the modifier smoothed (extended range selectors)"],
    ["rate(a[5m] anchored)", "1:6: the modifier anchored (extended range selectors)"],
    ["a + fill(0) b", "1:5: fill modifiers of binary operators"],
    ["a[5m + 1m]", "1:3: an expression as a duration"],
    ["a offset (1m)", "1:10: an expression as a duration"],
    ["a[step()]", "1:3: an expression as a duration"],
    ["a </ 5", "1:3: the operator </ of native histograms"],
    ["start_timestamp(a)", "1:1: the function start_timestamp"],
    ["a[5m::]", "1:5: aligned subqueries (::) are newer than the grammar"],
  ])("does not support %s: %s", (text, message) => {
    const error = refusal(() => parseExpr(text));
    const [, place, reason] = /^(\d+:\d+): (.*)$/.exec(message)!;
    expect(error.message).toContain(`${place}: not supported: ${reason}`);
    expect(error.kind).toBe("unsupported");
  });

  it("cuts what it quotes", () => {
    const { message } = refusal(() => parseExpr(`"${"a".repeat(1000)}`));
    expect(message).toBe(`1:1: parse error: unterminated string: "${"a".repeat(39)}…`);
    expect(refusal(() => parseExpr(`${"f".repeat(1000)}(`)).message.length).toBeLessThan(120);
  });

  it("reads as many characters as it may, and not one more", () => {
    expect(parseExpr("a".repeat(EXPRESSION_LIMIT)).kind).toBe("vector-selector");
    expect(refusal(() => parseExpr("a".repeat(EXPRESSION_LIMIT + 1))).message)
      .toBe("1:1: parse error: longer than 65536 characters");
  });

  it.each([
    ["parentheses", (n: number) => `${"(".repeat(n)}a${")".repeat(n)}`],
    ["calls", (n: number) => `${"abs(".repeat(n)}a${")".repeat(n)}`],
    ["signs", (n: number) => `${"-".repeat(n)}a`],
    ["operators", (n: number) => `${"a + ".repeat(n)}a`],
    ["long operands", (n: number) => `${'up{instance="some-host:9090"} or '.repeat(n)}a`],
    ["powers", (n: number) => `${"a ^ ".repeat(n)}a`],
  ])("reads as many %s within each other as it may, and not one more", (_, nest) => {
    expect(shapeOf(parseExpr(nest(DEPTH_LIMIT)))).toBeDefined();
    const error = refusal(() => parseExpr(nest(DEPTH_LIMIT + 1)));
    expect(error.message).toMatch(
      /^1:\d+: parse error: more than 500 expressions within each other$/,
    );
  });

  it("counts no depth for what stands side by side", () => {
    const list = `label_join(a, "b", ","${', "c"'.repeat(5000)})`;
    expect(printExpr(parseExpr(list))).toBe(list);
    const matchers = Array.from({ length: 2000 }, (_, i) => `b${i}!="-"`);
    expect(parseExpr(`a{${matchers.join()}}`)).toMatchObject({ name: "a" });
  });
});

describe("parseSeriesName()", () => {
  it.each([
    ["a", { __name__: "a" }],
    [`a{b="c",d='e'}`, { __name__: "a", b: "c", d: "e" }],
    [`{__name__="a"}`, { __name__: "a" }],
    [`{"a.b", "c d"="é"}`, { "__name__": "a.b", "c d": "é" }],
    [`{b="c"}`, { b: "c" }],
    ["{}", {}],
    [`a{b=""}`, { __name__: "a" }],
  ])("reads %s", (text, labels) => {
    expect(parseSeriesName(text)).toEqual(labels);
  });

  it.each([
    `a{b!="c"}`,
    "a offset 5m",
    "a @ 1",
    "sum(a)",
    "a[5m]",
    "1",
    `a{b="c",b="d"}`,
    "a b",
    "",
  ])(
    "refuses %s",
    (text) => {
      expect(refusal(() => parseSeriesName(text)).kind).toBe("parse");
    },
  );
});

describe("prettyPrintExpr()", () => {
  it.each([
    ["a+b", "a + b"],
    [
      `sum by (instance) (rate(partner_api_requests_total{status!="success"}[5m])) / sum by (instance) (rate(x[5m]))`,
      `  sum by (instance) (rate(partner_api_requests_total{status!="success"}[5m]))\n/\n  sum by (instance) (rate(x[5m]))`,
    ],
    [
      `topk(3, sum by (instance) (rate(partner_api_requests_total{partner="another",status!="success"}[5m] offset 1h)))`,
      `topk(\n  3,\n  sum by (instance) (\n    rate(partner_api_requests_total{partner="another",status!="success"}[5m] offset 1h)\n  )\n)`,
    ],
  ])("splits %s where it is too long", (text, printed) => {
    expect(prettyPrintExpr(parseExpr(text))).toBe(printed);
  });

  it.each([99, 100, 101])("keeps a line of up to 100 characters: %i", (length) => {
    const text = `(${"a".repeat(length - 2)})`;
    expect(prettyPrintExpr(parseExpr(text)).includes("\n")).toBe(length > 100);
  });

  it("means the same as the line", () => {
    fc.assert(fc.property(
      fc.array(fc.constantFrom(...VALID.map(([text]) => text)), { minLength: 2, maxLength: 12 }),
      fc.constantFrom("+", "==", "or"),
      (texts, op) => {
        const vectors = texts.filter((text) => typeOf(parseExpr(text)) === "vector");
        fc.pre(vectors.length > 1);
        const expr = parseExpr(vectors.map((text) => `abs(${text}\n)`).join(` ${op} `));
        expect(shapeOf(parseExpr(prettyPrintExpr(expr)))).toEqual(shapeOf(expr));
      },
    ));
  });
});
