import { describe, expect, it } from "vitest";
import {
  createTimeTeller,
  tellDate,
  tellDuration,
} from "../../../../shared/alerting/messages/tell-time.ts";
import { AT } from "./message-fixtures.ts";

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

describe("tellDuration()", () => {
  it.each([
    [-5 * MINUTE, "0 s"],
    [999, "0 s"],
    [MINUTE - 1, "59 s"],
    [MINUTE, "1 min"],
    [HOUR - 1, "59 min"],
    [HOUR, "1 h"],
    [HOUR + MINUTE, "1 h 1 min"],
    [DAY - 1, "23 h 59 min"],
    [DAY, "1 d"],
    [3 * DAY + 4 * HOUR + 59 * MINUTE, "3 d 4 h"],
    [400 * DAY, "400 d"],
  ])("%d ms are %s", (milliseconds, told) => expect(tellDuration(milliseconds)).toBe(told));
});

describe("createTimeTeller()", () => {
  const { tellInstant, tellSince, tellDue } = createTimeTeller("Europe/Berlin", AT);

  it.each([
    ["2026-11-21T13:03:00Z", "14:03 CET"],
    ["2026-11-20T23:00:00Z", "00:00 CET"],
    ["2026-11-20T22:59:59Z", "20 Nov 23:59 CET"],
    ["2026-09-05T10:00:00Z", "5 Sep 12:00 CEST"],
    ["2025-11-21T13:03:00Z", "21 Nov 2025 14:03 CET"],
    ["2026-12-31T23:00:00Z", "1 Jan 2027 00:00 CET"],
  ])("%s is %s", (at, told) => expect(tellInstant(new Date(at))).toBe(told));

  it("says how long it is since, until and past", () => {
    expect(tellSince(new Date("2026-11-21T13:03:00Z"))).toBe("14:03 CET, 12 min");
    expect(tellDue(new Date("2026-11-21T13:35:00Z"))).toBe("14:35 CET, in 20 min");
    expect(tellDue(new Date("2026-11-21T13:10:00Z"))).toBe("14:10 CET, 5 min ago");
  });

  it.each([
    ["UTC", "13:15 UTC"],
    ["America/New_York", "08:15 EST"],
    ["Asia/Kolkata", "18:45 IST"],
    ["Australia/Sydney", "22 Nov 00:15 AEDT"],
    ["Asia/Tokyo", "22:15 GMT+9"],
    ["Nowhere/At_All", "13:15 UTC"],
    ["", "13:15 UTC"],
  ])("in %j it is %s", (zone, told) => {
    const now = new Date("2026-11-21T12:00:00Z");
    expect(createTimeTeller(zone, now).tellInstant(AT)).toBe(told);
  });
});

describe("tellDate()", () => {
  it("is the same everywhere", () => {
    expect(tellDate("2026-11-27")).toBe("Fri 27 Nov 2026");
    expect(tellDate("2028-02-29")).toBe("Tue 29 Feb 2028");
  });
});
