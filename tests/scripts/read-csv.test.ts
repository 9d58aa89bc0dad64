import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseTimestamp, readCsvRows } from "../../scripts/detection/read-csv.ts";

const NOON = Date.UTC(2026, 2, 2, 12);

describe("parseTimestamp()", () => {
  it.each([
    ["2026-03-02 12:00:00", NOON],
    ["2026-03-02 12:00", NOON],
    ["2026-03-02", NOON - 43_200_000],
    ["2026-03-02 12:00:00.5", NOON + 500],
    ["2026-03-02 12:00:00.123456", NOON + 123],
    ["2026-03-02T12:00:00Z", NOON],
    ["2026-03-02T14:00:00+02:00", NOON],
    ["2026-03-02 07:30:00-0430", NOON],
    ["2026-03-02 14:00:00+02", NOON],
    ["2024-02-29 00:00:00", Date.UTC(2024, 1, 29)],
    [`${NOON / 1000}`, NOON],
    [`${NOON / 1000}.25`, NOON + 250],
    [`${NOON}`, NOON],
    ["0", 0],
    ["99999999999", 99_999_999_999_000],
    ["100000000000", 100_000_000_000],
  ])("reads %s", (text, at) => expect(parseTimestamp(text)).toBe(at));

  it.each([
    "",
    "yesterday",
    "2026-02-29 00:00:00",
    "2026-13-01",
    "2026-00-01",
    "2026-01-00",
    "2026-01-32",
    "2026-03-02 24:00:00",
    "2026-03-02 12:60:00",
    "2026-03-02 12:00:60",
    "02.03.2026",
    "NaN",
    "1e400",
    "1770000000000000",
  ])("refuses %s", (text) => expect(parseTimestamp(text)).toBeNaN());

  it("reads what toISOString writes", () => {
    fc.assert(fc.property(
      fc.date({
        min: new Date(Date.UTC(1000, 0)),
        max: new Date(Date.UTC(9999, 11)),
        noInvalidDate: true,
      }),
      (date) => parseTimestamp(date.toISOString()) === date.getTime(),
    ));
  });
});

const read = (...chunks: string[]) => [...readCsvRows(chunks)];

describe("readCsvRows()", () => {
  it("finds columns by name, whatever their order, case and company", () => {
    expect(read('\uFEFFlabel,host,"Value",timestamp\r\n1,"a,b", 5.0 ,2026-03-02 12:00:00\r\n\r\n'))
      .toEqual([{
        at: NOON,
        value: 5,
        isLabelled: true,
        timestampText: "2026-03-02 12:00:00",
        valueText: " 5.0 ",
      }]);
  });

  it("takes quotes off every field that it reads", () => {
    expect(read('"timestamp","value","label"\n"0","1","1"\n"60","2","0"\n')).toMatchObject([
      { at: 0, value: 1, isLabelled: true, timestampText: '"0"', valueText: '"1"' },
      { at: 60_000, value: 2, isLabelled: false },
    ]);
  });

  it("has no labels without a column of them", () => {
    expect(read("timestamp,value\n0,1e300\n60,-0.0")).toMatchObject([
      { at: 0, value: 1e300, isLabelled: null },
      { at: 60_000, value: -0, isLabelled: null },
    ]);
  });

  it("does not care where chunks end", () => {
    const text = "timestamp,value,label\n0,1,0\r\n60,2,1\n\n120,3,0\n";
    const whole = read(text);
    expect(whole.map(({ value }) => value)).toEqual([1, 2, 3]);
    for (let cut = 0; cut <= text.length; cut++) {
      expect(read(text.slice(0, cut), text.slice(cut))).toEqual(whole);
    }
  });

  it.each([
    ["", "empty"],
    ["time,value\n0,1", "line 1: the first line has to name"],
    ["timestamp,value\n0,1\nnoon,2", 'line 3: "noon" is no time'],
    ["timestamp,value\n0,NaN", 'line 2: "NaN" is no finite number'],
    ["timestamp,value\n0,Infinity", "line 2"],
    ["timestamp,value\n0,1e309", "line 2"],
    ["timestamp,value\n0,", 'line 2: "" is no finite number'],
    ["timestamp,value\n\n0", 'line 3: "" is no finite number'],
    ["timestamp,value,label\n0,1,2", "line 2: 2 is no label"],
    ["timestamp,value,label\n0,1", "line 2: nothing is no label"],
  ])("refuses %j and says where", (text, message) => expect(() => read(text)).toThrow(message));
});
