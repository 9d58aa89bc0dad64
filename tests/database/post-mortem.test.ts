import fc from "fast-check";
import { describe, expect } from "vitest";
import { it, type Query, rpc } from "./database.ts";
import { act, addAlert, addChannel, advance, call, type Incident, open } from "./incidents.ts";
import { addAnySeries } from "./retention.ts";
import { addAnomaly, DAY, HOUR, iso, MINUTE, NOON, range, SECOND } from "./seeds.ts";

const draft = (query: Query, { incident_id }: { incident_id: number }, at = NOON + DAY) =>
  call<string>(query, "draft_post_mortem", { p_incident_id: incident_id, p_now: iso(at) });

/** The lines of one section. */
const section = (document: string, title: string): string[] =>
  document.split(`\n## ${title}\n`)[1]!.split("\n## ")[0]!.split("\n").filter((line) =>
    line !== ""
  );

const setState = (query: Query, incident: Incident, p_state: string, minutes: number, args = {}) =>
  act(query, "set_incident_state", incident, {
    p_state,
    p_now: iso(NOON + minutes * MINUTE),
    ...args,
  });

async function addRule(query: Query, rule: object): Promise<number> {
  await rpc(query, "save_rules", {
    p_groups: [{
      name: "a test",
      rules: [{ kind: "alerting", name: "Slow", expr: "up", ...rule }],
    }],
  });
  const { rows } = await query<{ id: string }>(
    "select rule_id as id from monitor.alert_rules where group_name = 'a test'",
  );
  return Number(rows[0]!.id);
}

describe("monitor.draft_post_mortem()", () => {
  it("computes all that is known", async ({ query }) => {
    await query("update monitor.settings set time_zone = 'Europe/Berlin'");
    const alert = await addAlert(query, { at: NOON - 50 * MINUTE });
    const incident = await open(query, {
      p_severity: "P0",
      p_started_at: iso(NOON - HOUR),
      p_components: ["api", "web"],
      p_alert_ids: [alert],
      p_tell: false,
    });
    await act(query, "assign_commander", incident, { p_commander: "Ada" });
    await act(query, "acknowledge_incident", incident, { p_now: iso(NOON + 14 * MINUTE) });
    await act(query, "note_incident", incident, {
      p_text: "deployed v2",
      p_at: iso(NOON - 2 * HOUR),
      p_now: iso(NOON + 20 * MINUTE),
    });
    await setState(query, incident, "monitoring", 60);
    await setState(query, incident, "resolved", 120, {
      p_root_cause: "a full disk",
      p_post_mortem_on: "2026-03-17",
    });
    const document = await draft(query, incident);
    const id = incident.incident_id;
    expect(document).toBe(`# Post-mortem: Checkout fails

Draft of incident ${id}, computed at 2026-03-11 13:00:00 +01:00. Times are those of Europe/Berlin.

| | |
| --- | --- |
| Severity | P0 |
| State | resolved |
| Commander | Ada |
| Affected components | api, web |
| Opened by | service\\_role, at 2026-03-10 13:00:00 +01:00 |
| Escalation | level 1, On-call engineer |
| Post-mortem on | 2026-03-17 |

## Times

| | At | Took | |
| --- | --- | --- | --- |
| Began | 2026-03-10 12:00:00 +01:00 | | |
| Detected | 2026-03-10 12:10:00 +01:00 | 10 min | after it began |
| Acknowledged | 2026-03-10 13:14:00 +01:00 | 1 h 4 min | after it was detected; due at 2026-03-10 13:15:00 +01:00, met |
| Mitigated | 2026-03-10 14:00:00 +01:00 | 2 h | after it began |
| Resolved | 2026-03-10 15:00:00 +01:00 | 3 h | after it began |

## Summary

To be written.

## Root cause

a full disk

## Fix

To be written.

## Prevention

To be written.

## Alerts

- Alert ${alert}, QueueDeep, fired **10 min late**, at 2026-03-10 12:10:00 +01:00.

## Anomalies

None is linked.

## Timeline

- **2026-03-10 11:00:00 +01:00** (written down at 2026-03-10 13:20:00 +01:00) service\\_role: deployed v2
- **2026-03-10 12:10:00 +01:00** pgvigil: Alert ${alert} (QueueDeep) fired.
- **2026-03-10 13:00:00 +01:00** service\\_role: Opened by hand.
- **2026-03-10 13:00:00 +01:00** service\\_role: Alert ${alert} (QueueDeep) was linked.
- **2026-03-10 13:00:00 +01:00** service\\_role: Led by Ada.
- **2026-03-10 13:14:00 +01:00** service\\_role: Acknowledged.
- **2026-03-10 14:00:00 +01:00** service\\_role: Monitoring.
- **2026-03-10 15:00:00 +01:00** service\\_role: Resolved. Of its alerts 1 still fires: ${alert} (QueueDeep).
`);
  });

  it("says what has not happened yet, and which deadline is missed", async ({ query }) => {
    const incident = await open(query, { p_severity: "P0", p_tell: false });
    const times = async (at: number) => section(await draft(query, incident, at), "Times").slice(4);
    expect(await times(NOON + 15 * MINUTE)).toEqual([
      "| Acknowledged | not yet |  | after it was detected; due at 2026-03-10 12:15:00 +00:00 |",
      "| Mitigated | not yet |  | after it began |",
      "| Resolved | not yet |  | after it began |",
    ]);
    expect((await times(NOON + 16 * MINUTE))[0]).toContain("**missed by 1 min**");
    await act(query, "acknowledge_incident", incident, { p_now: iso(NOON + 75 * MINUTE) });
    expect((await times(NOON + DAY))[0]).toContain(
      "1 h 15 min | after it was detected; due at 2026-03-10 12:15:00 +00:00, **missed by 1 h**",
    );
  });

  it("counts the first response, and says how often it was opened again", async ({ query }) => {
    const incident = await open(query, { p_tell: false });
    await act(query, "acknowledge_incident", incident, { p_now: iso(NOON + 10 * MINUTE) });
    await setState(query, incident, "resolved", 20);
    await setState(query, incident, "open", 30);
    await setState(query, incident, "resolved", 40);
    const document = await draft(query, incident);
    expect(document).toContain("| Opened again | once at 2026-03-10 12:30:00 +00:00 |");
    await setState(query, incident, "open", 50);
    expect(await draft(query, incident)).toContain(
      "| Opened again | 2 times, last at 2026-03-10 12:50:00 +00:00 |",
    );
    expect(document).toContain("| Acknowledged | 2026-03-10 12:10:00 +00:00 | 10 min |");
    expect(document).toContain("| Resolved | 2026-03-10 12:40:00 +00:00 | 40 min |");
  });

  it.for([[5 * MINUTE, false], [5 * MINUTE + SECOND, true]] as const)(
    "an alert that fired %d ms after the start is late: %s",
    async ([lag, isLate], { query }) => {
      const alert = await addAlert(query, { at: NOON + lag });
      const incident = await open(query, {
        p_alert_ids: [alert],
        p_started_at: iso(NOON),
        p_now: iso(NOON + HOUR),
        p_tell: false,
      });
      const [line] = section(await draft(query, incident), "Alerts");
      expect(line!.includes("late")).toBe(isLate);
      if (isLate) expect(line).toContain("fired **5 min 1 s late**");
      else expect(line).toContain("fired in time, at 2026-03-10 12:05:00");
    },
  );

  it.for(
    [
      [{ for_seconds: 120 }, "; 2 min of that is the time its rule waits (`for`)."],
      [{ for_seconds: 3600 }, "; 10 min of that is the time its rule waits (`for`)."],
      [{ hold_count: 3, hold_window: 5 }, "; its rule waits for 3 of 5 evaluations."],
      [{}, "; its rule does not wait."],
    ] as const,
  )("says what share of that its rule waits: %o", async ([rule, said], { query }) => {
    const alert = await addAlert(query, {
      at: NOON + 10 * MINUTE,
      rule_id: await addRule(query, rule),
    });
    const incident = await open(query, {
      p_alert_ids: [alert],
      p_started_at: iso(NOON),
      p_now: iso(NOON + HOUR),
      p_tell: false,
    });
    expect(section(await draft(query, incident), "Alerts")).toEqual([
      `- Alert ${alert}, QueueDeep, fired **10 min late**, at 2026-03-10 12:10:00 +00:00${said}`,
    ]);
    await query("select monitor.delete_rules('a test')");
    expect(section(await draft(query, incident), "Alerts")[0]).toMatch(/\+00:00\.$/);
  });

  it("counts the first time that an alert fired, not the last", async ({ query }) => {
    const alert = await addAlert(query, { at: NOON + MINUTE });
    const incident = await open(query, {
      p_started_at: iso(NOON - MINUTE),
      p_alert_ids: [alert],
      p_tell: false,
    });
    await query(
      "update monitor.system_alerts set fired_at = $1, last_seen_at = $1, occurrence_count = 2",
      [iso(NOON + HOUR)],
    );
    await advance(query, NOON + HOUR);
    expect(section(await draft(query, incident), "Alerts")).toEqual([
      `- Alert ${alert}, QueueDeep, fired in time, at 2026-03-10 12:01:00 +00:00.`,
    ]);
  });

  it("says that no alert fired, or has not yet, and lists anomalies", async ({ query }) => {
    const incident = await open(query, { p_tell: false });
    expect(section(await draft(query, incident), "Alerts")).toEqual([
      "**No alert fired.** It was found by people: which rule would have told it?",
    ]);
    await act(query, "link_anomaly", incident, {
      p_anomaly_id: await addAnomaly(query, await addAnySeries(query), {
        explanation: "9 | instead\nof *1*",
        ended_at: iso(NOON + HOUR),
        ended_reason: "recovered",
      }),
    });
    const pending = await addAlert(query, { fired_at: null, occurrence_count: 0 });
    const found = await draft(query, incident);
    expect(section(found, "Alerts")[0]).toContain("by people or by an anomaly");
    expect(section(found, "Anomalies")[0]).toMatch(
      /^- test\\_[\da-f\\_]+, from 2026-03-10 12:00:00 \+00:00 to 2026-03-10 13:00:00 \+00:00: 9 \\\| instead of \\\*1\\\*$/,
    );
    await act(query, "link_alert", incident, { p_alert_id: pending });
    expect(section(await draft(query, incident), "Alerts")).toEqual([
      `- Alert ${pending}, QueueDeep, has not fired.`,
    ]);
  });

  it("lists 500 events and says how many more there are", async ({ query }) => {
    const incident = await open(query, { p_tell: false });
    await query(
      `insert into monitor.incident_events (incident_id, happened_at, actor, description)
       select $1, $2::timestamptz + n * interval '1 second', 'me', 'event ' || n from generate_series(1, 501) as n`,
      [incident.incident_id, iso(NOON)],
    );
    const lines = section(await draft(query, incident), "Timeline");
    expect(lines).toHaveLength(501);
    expect(lines.at(-1)).toBe(
      `And 2 more: see monitor.incident_timeline(${incident.incident_id}).`,
    );
  });

  it("lists what people wrote before what alerts did, in order of time", async ({ query }) => {
    const incident = await open(query, { p_tell: false });
    await query(
      `insert into monitor.incident_events (incident_id, happened_at, actor, description, kind)
       select $1, $2::timestamptz + n * interval '1 second', 'pgvigil', 'Alert', 'alert' from generate_series(1, 500) as n`,
      [incident.incident_id, iso(NOON)],
    );
    await act(query, "note_incident", incident, { p_text: "Mended.", p_now: iso(NOON + HOUR) });
    const lines = section(await draft(query, incident), "Timeline");
    expect(lines).toHaveLength(501);
    expect(lines[499]).toContain("Mended.");
    expect(lines[500]).toContain("And 2 more");
  });

  it("knows no other incident", async ({ query }) => {
    await expect(draft(query, { incident_id: 0 })).rejects.toMatchObject({ code: "P0002" });
  });
});

/** What a text may hold that is no letter: control characters, and what turns the direction of reading. */
// deno-lint-ignore no-control-regex -- those are what must not be there
const SILENT = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]+/g;

/** What Markdown, and what renders it, gives a meaning to. */
const NASTY = [
  "# heading",
  "a\n## Timeline\n- **12:00** boss: all is well",
  "a\r## Timeline",
  "a\u2028## Timeline",
  "a\n===",
  "a\n---\nb",
  "---\ntitle: x\n---",
  "```\ncode",
  "~~~\ncode",
  "    indented",
  "\tindented",
  "> quoted",
  "- item\n+ item\n* item\n1. item\n2) item",
  "a | b | c\n--- | --- | ---",
  "<script>alert(1)</script>",
  "<!-- hidden",
  "[text](javascript:alert(1)) ![image](x)",
  "[id]: http://example.com 'title'",
  "&lt;b&gt; &#35;",
  "**bold** _it_ __b__ `code` ~~gone~~ $x$ \\",
  "\\# \\\\ \\",
  "ends with two spaces  \nb",
  "title ##",
  "\u202Edesrever",
  "[^1]: note",
  ": definition",
  "{% raw %} {{ x }}",
];

/** How each line of a document begins, as far as that means something; an escaped sign is a letter. */
const structure = (document: string) =>
  document.replace(/\\[!-/:-@[-`{-~]/g, "x").split("\n").map((line) =>
    /^((#{1,6}|[-+*]|\d+[.)]|>) +|\||\*\*|[-+*=>~`:#<]|\s|\d+[.)])+/.exec(line)?.[0] ?? "text"
  );

describe("what people wrote", () => {
  /** All that a person can write, with `text` in each place. */
  const write = async (query: Query, text: string) => {
    const alert = await addAlert(query, {
      name: text,
      at: NOON,
      resolved_at: iso(NOON),
      resolved_because: text,
    });
    const incident = await open(query, {
      p_title: text.slice(0, 200),
      p_text: text,
      p_components: [text.slice(0, 200)],
      p_alert_ids: [alert],
      p_tell: false,
    });
    await act(query, "assign_commander", incident, { p_commander: text.slice(0, 200) });
    await act(query, "note_incident", incident, { p_text: text });
    await act(query, "write_up_incident", incident, {
      p_root_cause: text,
      p_fix: text,
      p_prevention: text,
    });
    return incident;
  };

  it.for(NASTY)("cannot break the structure: %j", async (text, { query }) => {
    const benign = structure(await draft(query, await write(query, "harmless")));
    const document = await draft(query, await write(query, text));
    // Each line of a text is a paragraph of its own, which is no structure.
    const skeleton = structure(document).filter((line) => line !== "text");
    expect(skeleton).toEqual(benign.filter((line) => line !== "text"));
    expect(document.match(/^## .*$/gm)).toEqual(
      ["Times", "Summary", "Root cause", "Fix", "Prevention", "Alerts", "Anomalies", "Timeline"]
        .map((title) => `## ${title}`),
    );
    // Every row of a table has as many cells as it has to.
    const cells = (line: string) => line.replace(/\\./g, "").split("|").length - 2;
    const tables = document.split("\n").filter((line) => line.startsWith("|"));
    expect(tables.map(cells)).toEqual(
      (await draft(query, await write(query, "harmless"))).split("\n")
        .filter((line) => line.startsWith("|")).map(cells),
    );
    expect(document.replaceAll("\n", "")).not.toMatch(SILENT);
  });

  const escape = (query: Query, name: string, text: string) =>
    call<string | null>(query, name, { p_text: text });

  it("is one line between words, with every sign that means something escaped", async ({ query }) => {
    const texts = fc.array(
      fc.oneof(
        fc.constantFrom(..."[]\\`*_{}<>|~$&# \t\n"),
        fc.string({ unit: "grapheme", maxLength: 3 }).map((raw) => raw.replaceAll("\0", "")),
      ),
      { maxLength: 20 },
    ).map((parts) => parts.join(""));
    await fc.assert(
      fc.asyncProperty(texts, async (text) => {
        const escaped = (await escape(query, "escape_markdown", text))!;
        expect(escaped).not.toMatch(/[\r\n]/);
        const bare = escaped.replace(/\\[\][\\`*_{}<>|~$&#]/g, "");
        expect(bare).not.toMatch(/[[\]\\`*_{}<>|~$&#]/);
        // And it says what it said.
        const shown = (value: string) => value.replace(/\s+/g, " ").trim();
        expect(shown(escaped.replace(/\\([\][\\`*_{}<>|~$&#])/g, "$1"))).toBe(
          shown(text.replaceAll(SILENT, " ")),
        );
      }),
      { numRuns: 200 },
    );
  });

  it("starts no line with a sign that means something", async ({ query }) => {
    const lines = fc.array(
      fc.constantFrom(
        "#",
        "-",
        "+",
        "*",
        "1.",
        "23)",
        "=",
        ">",
        "|",
        ":",
        "~~~",
        "```",
        "a",
        "  ",
        "\t",
        "---",
        "===",
      ),
      { minLength: 1, maxLength: 5 },
    ).map((parts) => parts.join(""));
    await fc.assert(
      fc.asyncProperty(
        fc.array(lines, { maxLength: 5 }),
        fc.constantFrom("\n", "\r\n", "\r", "\u2028"),
        async (parts, end) => {
          const quoted = await escape(query, "quote_markdown", parts.join(end));
          for (const line of quoted?.split("\n") ?? []) {
            expect(line).not.toMatch(/^(\s|[-+*=>~`:|#<]|\d+[.)])/);
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  it("a blank text is none", async ({ query }) => {
    for (const text of ["", " \n\t\u2028 "]) {
      expect(await escape(query, "quote_markdown", text)).toBe(null);
    }
    expect(await escape(query, "quote_markdown", "a\n\n\nb  \n 1. c")).toBe("a\n\nb\n\n1\\. c");
  });
});

describe("times and durations in words", () => {
  it.for(
    [
      [-5, "0 s"],
      [0, "0 s"],
      [59.9, "59 s"],
      [60, "1 min"],
      [125, "2 min 5 s"],
      [3599, "59 min 59 s"],
      [3600, "1 h"],
      [3661, "1 h 1 min"],
      [86_399, "23 h 59 min"],
      [86_400, "1 d"],
      [90_000, "1 d 1 h"],
      [40 * 86_400, "40 d"],
    ] as const,
  )("%d s is %s", async ([seconds, said], { query }) => {
    const { rows } = await query(
      "select monitor.describe_duration(make_interval(secs => $1)) as said",
      [seconds],
    );
    expect(rows).toEqual([{ said }]);
  });

  it("no duration is none", async ({ query }) => {
    expect((await query("select monitor.describe_duration(null) as said")).rows).toEqual([
      { said: null },
    ]);
  });

  it("the hour that comes twice is two, and zones west or off the hour are said", async ({ query }) => {
    const describe = async (at: string, zone: string) =>
      (await query<{ said: string }>("select monitor.describe_time($1, $2) as said", [at, zone]))
        .rows[0]!.said;
    expect(await describe("2026-10-25T00:30:00Z", "Europe/Berlin")).toBe(
      "2026-10-25 02:30:00 +02:00",
    );
    expect(await describe("2026-10-25T01:30:00Z", "Europe/Berlin")).toBe(
      "2026-10-25 02:30:00 +01:00",
    );
    expect(await describe("2026-01-01T00:00:00Z", "America/St_Johns")).toBe(
      "2025-12-31 20:30:00 -03:30",
    );
    expect(await describe("2026-01-01T00:00:00Z", "Asia/Kathmandu")).toBe(
      "2026-01-01 05:45:00 +05:45",
    );
  });

  it("does not depend on the time zone of the session", async ({ query }) => {
    await addChannel(query, "ops");
    const incident = await open(query, { p_severity: "P0" });
    await query("select set_config('timezone', 'Asia/Tokyo', true)");
    const before = await draft(query, incident);
    expect(before).toContain("2026-03-10 12:00:00 +00:00");
    await advance(query, NOON + 15 * MINUTE);
    const { rows } = await query<{ text: string }>(
      "select payload ->> 'text' as text from monitor.notifications order by notification_id desc limit 1",
    );
    expect(rows[0]!.text).toContain("due at 2026-03-10 12:15:00 +00:00");
  });
});

describe("a long one", () => {
  it("is drafted in little time", async ({ query }) => {
    const incident = await open(query, { p_tell: false });
    await query(
      `insert into monitor.incident_events (incident_id, happened_at, actor, description)
       select $1, $2::timestamptz + n * interval '1 second', 'me', repeat('*x* ', 500) from generate_series(1, 20000) as n`,
      [incident.incident_id, iso(NOON)],
    );
    for (const _ of range(3)) await addAlert(query);
    const start = performance.now();
    expect((await draft(query, incident)).length).toBeGreaterThan(1_000_000);
    expect(performance.now() - start).toBeLessThan(4000);
  });
});
