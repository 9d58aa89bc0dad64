import { describe, expect, it } from "vitest";
import { explainConnection } from "../../scripts/connection.ts";

describe("explainConnection()", () => {
  const INCOMPLETE =
    /^The schema monitor is not in this database, or not all of it\. Apply the migrations/;

  it.each([
    ["3F000", INCOMPLETE],
    ["42883", INCOMPLETE],
    ["42P01", INCOMPLETE],
    ["ECONNREFUSED", /^Nothing listens there/],
    ["28P01", /^The password was refused\.$/],
    ["57P01", /^as it was$/],
    [undefined, /^as it was$/],
  ])("says what %s means", (code, words) => {
    expect(explainConnection(Object.assign(new Error("as it was"), { code }))).toMatch(words);
  });
});
