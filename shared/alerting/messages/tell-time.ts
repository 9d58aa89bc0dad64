import { DAY, HOUR, MINUTE } from "../../detection/durations.ts";

/** English-speaking regions, each of which has names for other zones: EST, CET, AEDT, IST, SAST. */
const LOCALES = ["en-US", "en-GB", "en-AU", "en-IN", "en-ZA"];

/** Says instants in a time zone, as seen from one of them. */
export interface TimeTeller {
  /** `14:03 CET`; with the day, and the year, where they are not those of now. */
  tellInstant(at: Date): string;
  /** `14:03 CET, 12 min`: since when, and how long that is by now. */
  tellSince(at: Date): string;
  /** `14:15 CET, in 12 min`, or `…, 3 min ago`. */
  tellDue(at: Date): string;
}

/** Of a zone that is none, UTC. */
export function createTimeTeller(timeZone: string, now: Date): TimeTeller {
  const zone = isTimeZone(timeZone) ? timeZone : "UTC";
  const clock = new Intl.DateTimeFormat("en-US", {
    timeZone: zone,
    hourCycle: "h23",
    ...{ year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" },
  });
  const split = (at: Date) => {
    const parts = new Map(clock.formatToParts(at).map(({ type, value }) => [type, value]));
    return { year: parts.get("year"), day: `${parts.get("day")} ${parts.get("month")}`, parts };
  };
  const today = split(now);

  const naming = new Map<string, Intl.DateTimeFormat>();
  const tellZone = (at: Date) => {
    let offset = "";
    for (const locale of LOCALES) {
      const format = naming.get(locale) ??
        new Intl.DateTimeFormat(locale, { timeZone: zone, timeZoneName: "short" });
      naming.set(locale, format);
      const name = format.formatToParts(at).find(({ type }) => type === "timeZoneName")!.value;
      if (!/^GMT[+-]/.test(name)) return name;
      offset = name;
    }
    return offset;
  };
  const tellInstant = (at: Date) => {
    const { year, day, parts } = split(at);
    const date = year !== today.year ? `${day} ${year} ` : day !== today.day ? `${day} ` : "";
    return `${date}${parts.get("hour")}:${parts.get("minute")} ${tellZone(at)}`;
  };
  return {
    tellInstant,
    tellSince: (at) => `${tellInstant(at)}, ${tellDuration(now.getTime() - at.getTime())}`,
    tellDue: (at) => {
      const left = at.getTime() - now.getTime();
      return `${tellInstant(at)}, ${
        left < 0 ? `${tellDuration(-left)} ago` : `in ${tellDuration(left)}`
      }`;
    },
  };
}

/** Milliseconds as people say them: `45 s`, `12 min`, `2 h 5 min`, `3 d 4 h`; less than none are none. */
export function tellDuration(milliseconds: number): string {
  const left = Math.max(0, milliseconds);
  if (left < MINUTE) return `${Math.floor(left / 1000)} s`;
  if (left < HOUR) return `${Math.floor(left / MINUTE)} min`;
  if (left < DAY) {
    return join(Math.floor(left / HOUR), "h", Math.floor(left % HOUR / MINUTE), "min");
  }
  return join(Math.floor(left / DAY), "d", Math.floor(left % DAY / HOUR), "h");
}

function join(count: number, unit: string, rest: number, restUnit: string): string {
  return rest === 0 ? `${count} ${unit}` : `${count} ${unit} ${rest} ${restUnit}`;
}

/** A date without a time: `2026-11-27` as `Fri 27 Nov 2026`, wherever that is. */
export function tellDate(date: string): string {
  const parts = new Map(
    new Intl.DateTimeFormat("en-US", {
      timeZone: "UTC",
      ...{ weekday: "short", year: "numeric", month: "short", day: "numeric" },
    }).formatToParts(new Date(`${date}T00:00:00Z`)).map(({ type, value }) => [type, value]),
  );
  return ["weekday", "day", "month", "year"].map((part) => parts.get(part as "day")).join(" ");
}

function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat("en-US", { timeZone: name });
    return true;
  } catch {
    return false;
  }
}
