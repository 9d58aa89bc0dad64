import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { isBlank, toLine, toLines } from "../../../../shared/alerting/messages/clean-text.ts";
import {
  MAIL_LIMIT_BYTES,
  renderEmail,
  SUBJECT_LIMIT,
} from "../../../../shared/alerting/messages/render-email.ts";
import {
  SAMPLE_KINDS,
  samplePayload,
} from "../../../../shared/alerting/messages/sample-payloads.ts";
import { linksOf, tagsOf, visibleTextOf } from "./html-checker.ts";
import {
  alertOf,
  alertsOf,
  AT,
  HOSTILE_RUNS,
  hostileMessage,
  hostileText,
  hugeAlerts,
  messageOf,
} from "./message-fixtures.ts";

const bytesOf = (text: string) => new TextEncoder().encode(text).length;
const subjectOf = (...args: Parameters<typeof messageOf>) =>
  renderEmail(messageOf(...args)).subject;
const resolved = (changes = {}) =>
  alertOf({ status: "resolved", resolved_at: "2026-11-21T13:14:00Z", ...changes });

describe("renderEmail(): the subject", () => {
  it("is the summary of a single alert, or its name", () => {
    expect(subjectOf(alertsOf([alertOf()]))).toBe("[CRITICAL] db-1 has 3 % of its disk left");
    expect(subjectOf(alertsOf([alertOf({ annotations: { summary: "\u200b" }, severity: "info" })])))
      .toBe("[INFO] DiskFull");
    expect(subjectOf(alertsOf([alertOf({ annotations: {}, name: " " })])))
      .toBe("[CRITICAL] an alert");
    expect(subjectOf(alertsOf([resolved()]))).toBe("[RESOLVED] db-1 has 3 % of its disk left");
  });

  it("counts those of a group, and has the worst that fires", () => {
    const warning = alertOf({ severity: "warning" });
    const group = [warning, warning, resolved({ severity: "critical" })];
    expect(subjectOf(alertsOf(group))).toBe("[WARNING] 2 firing, 1 resolved: DiskFull");
    expect(subjectOf(alertsOf([warning, warning]))).toBe("[WARNING] 2 firing: DiskFull");
    expect(subjectOf(alertsOf([resolved(), resolved()]))).toBe("[RESOLVED] 2 resolved: DiskFull");
    expect(subjectOf(alertsOf([], { firing_count: 0 }))).toBe("[RESOLVED] Nothing fires: DiskFull");
  });

  it("names the group by its labels, its name, or its route", () => {
    const of = (changes: object) => subjectOf(alertsOf([alertOf(), alertOf()], changes));
    expect(of({ group_labels: { team: "db, eu", alertname: "DiskFull", job: "pg" } }))
      .toBe('[CRITICAL] 2 firing: DiskFull, job=pg, team="db, eu"');
    expect(of({ group_labels: {}, common_labels: { alertname: "A", job: "pg" } }))
      .toBe("[CRITICAL] 2 firing: A");
    expect(of({ group_labels: {} })).toBe("[CRITICAL] 2 firing: route default");
    expect(of({ group_labels: {}, route: "" })).toBe("[CRITICAL] 2 firing: several groups");
  });

  it("says of what it is a repetition, who has it, and that it is a test", () => {
    const of = (changes: object, message = {}) =>
      subjectOf(alertsOf([alertOf()], changes), message);
    const summary = "db-1 has 3 % of its disk left";
    expect(of({ because: "repeated" })).toBe(`[CRITICAL] ${summary} (again)`);
    expect(of({ because: "repeated", acknowledged_by: "Ana" }))
      .toBe(`[CRITICAL] ${summary} (acknowledged by Ana)`);
    expect(of({}, { isTest: true })).toBe(`[TEST] [CRITICAL] ${summary}`);
  });

  it.each(
    [
      ["incident-alert", "[P0] Payments fail at the checkout"],
      ["incident-update", "[P0] Update (identified): Payments fail at the checkout"],
      ["incident-resolution", "[P0] Resolved: Payments fail at the checkout"],
      ["incident-escalation", "[P0] Escalation 2 of 3: Payments fail at the checkout"],
      ["heartbeat", "[OK] Sign of life: alerts were evaluated, and messages are sent"],
    ] as const,
  )("of %s is %s", (kind, subject) => {
    expect(subjectOf(samplePayload(kind, AT))).toBe(subject);
  });

  it("holds no header of somebody else's", () => {
    const summary = "down\r\nBcc: all@example.com\u0000\u2028x\u202egpj";
    expect(subjectOf(alertsOf([alertOf({ annotations: { summary } })])))
      .toBe("[CRITICAL] down Bcc: all@example.com� xgpj");
  });

  it("has at most 150 characters, of which the last are kept", () => {
    const of = (length: number, because: string) =>
      subjectOf(
        alertsOf([alertOf({ annotations: { summary: "x".repeat(length) } })], {
          because: because as "new",
        }),
      );
    expect(SUBJECT_LIMIT).toBe(150);
    expect(of(139, "new")).toBe(`[CRITICAL] ${"x".repeat(139)}`);
    expect(of(140, "new")).toBe(`[CRITICAL] ${"x".repeat(138)}…`);
    expect(of(140, "repeated")).toBe(`[CRITICAL] ${"x".repeat(130)}… (again)`);
  });
});

describe("renderEmail(): the text", () => {
  it("of an alert says what, since when, and what to do", () => {
    const alert = alertOf({
      annotations: {
        summary: "db-1 has 3 % of its disk left",
        description: "It is full in 40 minutes at this rate.\nMake room, or make it larger.",
        dashboard: "https://example.com/d/disk",
        pgvigil_mode: "live",
      },
      labels: { alertname: "DiskFull", severity: "critical", instance: "db-1", note: "a, b=c" },
      value: "0.031415926",
      occurrences: 4,
      runbook_url: "https://example.com/runbooks/disk",
      notes: ["A silence of ana@example.com (“resize”) has ended."],
    });
    expect(renderEmail(messageOf(alertsOf([alert]))).text).toMatchInlineSnapshot(`
      "CRITICAL: db-1 has 3 % of its disk left

      CRITICAL DiskFull #41
        It is full in 40 minutes at this rate.
        Make room, or make it larger.

        Since      14:03 CET, 12 min
        Value      0.0314159
        Fired      4 times
        dashboard  https://example.com/d/disk
        Labels     instance=db-1, note="a, b=c"
        Runbook    https://example.com/runbooks/disk
        Note: A silence of ana@example.com (“resize”) has ended.

      For admins, in the SQL editor:
        Acknowledge #41:
          select monitor.acknowledge_alert(41, 'looking into it');
        Silence #41 for 2 hours:
          select monitor.silence_alerts(jsonb_agg(jsonb_build_object('name', label.key, 'op', '=', 'value', label.value)), now() + interval '2 hours', 'deploying') from monitor.system_alerts, jsonb_each_text(labels) as label where alert_id = 41;

      Sent by pgvigil to ops, route default, at 14:15 CET.
      https://ops.example.com/pgvigil
      "
    `);
  });

  it("of a group says once what all have in common", () => {
    const common = { team: "db", alertname: "DiskFull" };
    const group = ["db-1", "db-2"].map((instance, i) =>
      alertOf({
        alert_id: 41 + i,
        severity: i === 0 ? "critical" : "warning",
        labels: { ...common, instance },
        annotations: { summary: `${instance} has little disk left`, description: "Make room." },
        runbook_url: "https://example.com/runbooks/disk",
        source: i === 0 ? "rule" : "anomaly",
        value: null,
      })
    );
    const payload = alertsOf([
      ...group,
      resolved({ alert_id: 43, runbook_url: group[0]!.runbook_url }),
    ], {
      because: "changed",
      common_labels: common,
      common_annotations: { description: "Make room." },
      acknowledged_by: "Ana",
      firing_count: 2,
      resolved_count: 11,
    });
    expect(renderEmail(messageOf(payload)).text).toMatchInlineSnapshot(`
      "CRITICAL: 2 firing, 11 resolved: DiskFull (acknowledged by Ana)

      Changed since it was last told.
      Acknowledged by Ana.

      Description:
        Make room.

      Details:
        Labels   team=db
        Runbook  https://example.com/runbooks/disk

      CRITICAL DiskFull #41
        db-1 has little disk left
        Since   14:03 CET, 12 min
        Labels  instance=db-1

      WARNING DiskFull #42
        db-2 has little disk left
        Since   14:03 CET, 12 min
        Source  anomaly detection
        Labels  instance=db-2

      RESOLVED DiskFull #43
        db-1 has 3 % of its disk left
        Lasted    11 min, 14:03 CET to 14:14 CET
        Severity  critical
        Value     0.03
        Labels    instance=db-1

      And 10 more.

      For admins, in the SQL editor, with the number of an alert:
        Silence #41 for 2 hours:
          select monitor.silence_alerts(jsonb_agg(jsonb_build_object('name', label.key, 'op', '=', 'value', label.value)), now() + interval '2 hours', 'deploying') from monitor.system_alerts, jsonb_each_text(labels) as label where alert_id = 41;

      Sent by pgvigil to ops, route default, at 14:15 CET.
      https://ops.example.com/pgvigil
      "
    `);
  });

  it("of one that may be a repetition, or is a test, says so", () => {
    const { text, html } = renderEmail(
      messageOf(alertsOf([alertOf()]), { mayBeRepeated: true, isTest: true }),
    );
    for (
      const sentence of [
        "This may be a repetition: an earlier attempt ended without an answer.",
        "This is a test: nothing has happened.",
      ]
    ) {
      expect(text).toContain(`\n${sentence}\n`);
      expect(visibleTextOf(html)).toContain(sentence);
    }
  });

  it("of an incident is the message that its procedure asks for", () => {
    const of = (kind: (typeof SAMPLE_KINDS)[number]) =>
      renderEmail(messageOf(samplePayload(kind, AT))).text;
    expect(of("incident-alert")).toMatchInlineSnapshot(`
      "P0: Payments fail at the checkout

      Initial alert of incident 9000000017.

      What happened:
        Payments fail for about a third of all customers. They see “try again
        later”; no money is lost, orders are kept.

        The replica that answers the checkout lags 12 minutes behind.

      Details:
        Severity      P0
        State         open
        Affected      checkout, payments
        Since         13:57 CET, 18 min
        Commander     nobody yet
        Response due  14:24 CET, in 9 min
        Next update   14:29 CET, in 14 min
        Alerts        ReplicationLag, CheckoutErrorsHigh
        Runbook       https://example.com/runbooks/replication-lag

      For admins, in the SQL editor:
        Acknowledge incident 9000000017:
          select monitor.acknowledge_incident(9000000017);
        Lead incident 9000000017:
          select monitor.assign_commander(9000000017, 'your name');

      Sent by pgvigil to ops, at 14:15 CET.
      https://ops.example.com/pgvigil
      "
    `);
    expect(of("incident-update")).toMatchInlineSnapshot(`
      "P0: Update (identified): Payments fail at the checkout

      Status update of incident 9000000017.

      What is new:
        A long transaction on the primary holds back the replica. We end it and
        send the reads of the checkout to the primary meanwhile.

      Details:
        Severity      P0
        State         identified
        Affected      checkout, payments
        Since         13:57 CET, 18 min
        Commander     Ana Duarte
        Response due  14:24 CET, in 9 min
        Next update   14:45 CET, in 30 min
        Alerts        ReplicationLag, CheckoutErrorsHigh
        Runbook       https://example.com/runbooks/replication-lag

      Sent by pgvigil to ops, at 14:15 CET.
      https://ops.example.com/pgvigil
      "
    `);
    expect(of("incident-resolution")).toMatchInlineSnapshot(`
      "P0: Resolved: Payments fail at the checkout

      Resolution of incident 9000000017.

      Summary:
        All payments go through again.

      Root cause:
        A report ran in one transaction for 40 minutes; the replica could not
        apply what was vacuumed meanwhile.

      Fix:
        The report was ended. Reads of the checkout are back on the replica.

      Prevention:
        Reports run with statement_timeout = 5min; the lag pages at 60 s instead
        of 600 s.

      Details:
        Severity     P0
        Lasted       16 min, 13:57 CET to 14:13 CET
        Affected     checkout, payments
        Commander    Ana Duarte
        Post-mortem  Tue 24 Nov 2026
        Alerts       ReplicationLag, CheckoutErrorsHigh
        Runbook      https://example.com/runbooks/replication-lag

      Sent by pgvigil to ops, at 14:15 CET.
      https://ops.example.com/pgvigil
      "
    `);
    expect(of("incident-escalation")).toMatchInlineSnapshot(`
      "P0: Escalation 2 of 3: Payments fail at the checkout

      Escalation of incident 9000000017, level 2 of 3.

      Missed deadline:
        Nobody has responded since it was opened: that was due 3 minutes ago.
        Escalated to level 2, Senior engineer and team lead.

      Details:
        Severity      P0
        State         open
        Affected      checkout, payments
        Since         13:57 CET, 18 min
        Commander     nobody yet
        Response due  14:12 CET, 3 min ago
        Next update   14:29 CET, in 14 min
        Alerts        ReplicationLag, CheckoutErrorsHigh
        Runbook       https://example.com/runbooks/replication-lag

      For admins, in the SQL editor:
        Acknowledge incident 9000000017:
          select monitor.acknowledge_incident(9000000017);
        Lead incident 9000000017:
          select monitor.assign_commander(9000000017, 'your name');

      Sent by pgvigil to ops, at 14:15 CET.
      https://ops.example.com/pgvigil
      "
    `);
  });

  it("says what of an incident is not known, rather than nothing", () => {
    const { text } = renderEmail(messageOf({
      ...samplePayload("incident-resolution", AT),
      ...{ text: " ", root_cause: null, commander: " ", affected_components: ["\u200b"] },
      ...{ post_mortem_on: null, alerts: [], runbook_url: null },
    }));
    expect(text).toContain("Root cause:\n  Not written yet.");
    expect(text).toMatch(/Affected +not known yet\n/);
    expect(text).toMatch(/Commander +nobody yet\n/);
    expect(text).toMatch(/Post-mortem +none planned\n/);
    expect(text).not.toContain("Alerts");
  });

  it("offers to acknowledge an incident until somebody has, and to lead it until somebody does", () => {
    const of = (changes: object) =>
      renderEmail(messageOf({ ...samplePayload("incident-escalation", AT), ...changes })).text;
    const [acknowledge, lead] = [
      "acknowledge_incident(9000000017)",
      "assign_commander(9000000017, ",
    ];
    expect(of({})).toContain(acknowledge);
    expect(of({})).toContain(lead);
    expect(of({ response_due_at: null })).not.toMatch(/acknowledge_incident|Response due/);
    expect(of({ commander: "Ana" })).not.toContain("assign_commander");
    expect(of({ message: "update" })).not.toContain("select");
  });

  it("names no route where there is none", () => {
    const { text } = renderEmail(messageOf(alertsOf([alertOf()], { route: "" })));
    expect(text).toContain("Sent by pgvigil to ops, at 14:15 CET.");
  });

  it("says which alerts are resolved, and for how long they fired", () => {
    const { text } = renderEmail(messageOf(alertsOf([resolved()])));
    expect(text).toContain("Lasted    11 min, 14:03 CET to 14:14 CET\n  Severity  critical");
    expect(text).not.toContain("select");
  });

  it("offers to acknowledge what is not, the first that fires, once", () => {
    const alerts = [alertOf({ alert_id: 7 }), alertOf({ alert_id: 8 })];
    const { text } = renderEmail(messageOf(alertsOf(alerts)));
    expect(text.match(/acknowledge_alert\(.*/g)).toEqual([
      "acknowledge_alert(7, 'looking into it');",
    ]);
    const acknowledged = renderEmail(messageOf(alertsOf(alerts, { acknowledged_by: "Ana" })));
    expect(acknowledged.text).toContain("\nAcknowledged by Ana.\n");
    expect(acknowledged.text).not.toContain("acknowledge_alert(");
    expect(acknowledged.text).toContain("silence_alerts(");
  });

  it.each([
    ["712", "712"],
    ["1503238553", "1503238553"],
    ["0.123456789", "0.123457"],
    ["999999.5", "1000000"],
    ["1234567.891", "1234568"],
    ["-0", "0"],
    ["0.00001234", "0.00001234"],
    ["1e+21", "1e+21"],
    ["+Inf", "+Inf"],
    ["NaN", "NaN"],
    ["<b>\n", "<b>"],
  ])("shows the value %j as %s", (value, shown) => {
    const { text } = renderEmail(messageOf(alertsOf([alertOf({ value })])));
    expect(text).toContain(`  Value   ${shown}\n`);
  });

  it("lets nothing from outside begin a line", () => {
    const words =
      /^(CRITICAL|WARNING|INFO|RESOLVED|P\d|OK|STARTED|FAILING)([: ]|$)|^Sent by pgvigil|^(Changed|Said again) |^Acknowledged by( |$)|^This (is a test:|may be a)|^And \d+ more|^\d+ in all|^For admins,|^(Details|Summary|Description|Reason|What happened|What is new|Missed deadline|Root cause|Fix|Prevention):|^(Initial alert|Status update|Resolution|Escalation) of|^https?:|^$|^ {2}/;
    fc.assert(
      fc.property(hostileMessage, (message) => {
        const { text } = renderEmail(message);
        expect(text.split("\n").filter((line) => !words.test(line))).toEqual([]);
      }),
      HOSTILE_RUNS,
    );
  });
});

describe("renderEmail(): the HTML", () => {
  const known = new Set(
    SAMPLE_KINDS.flatMap((kind) => {
      const { html } = renderEmail(messageOf(samplePayload(kind, AT)));
      return [...tagsOf(html)];
    }),
  );

  it("is read in one column, and loads nothing", () => {
    const { html } = renderEmail(messageOf(samplePayload("alert", AT)));
    expect([...known].map((tag) => /^<\/?([a-z0-9]+)/.exec(tag)![1]).toSorted())
      .not.toContain(expect.stringMatching(/^(img|script|link|iframe|form|table)$/));
    expect(html).not.toMatch(/url\(|@import|src=|srcset=/);
    expect(html).toContain('<meta name="viewport" content="width=device-width,initial-scale=1">');
    expect(html).toContain("prefers-color-scheme:dark");
  });

  it("says what the text says", () => {
    // Links are behind their words, and labels without a heading.
    const behind = /^(Labels|Note|Details)$/;
    for (const kind of SAMPLE_KINDS) {
      const { html, text } = renderEmail(messageOf(samplePayload(kind, AT)));
      const words = (all: string) => new Set(all.match(/[\p{L}\p{N}]+/gu));
      const seen = words(visibleTextOf(html));
      const missing = [...words(text.replace(/https:\S+/g, ""))].filter((word) => !seen.has(word));
      expect([kind, missing]).toEqual([kind, missing.filter((word) => behind.test(word))]);
    }
  });

  it("links web addresses alone, and shows others as they are written", () => {
    const of = (runbook_url: string, externalUrl: string | null = null) =>
      renderEmail(messageOf(alertsOf([alertOf({ runbook_url })]), { externalUrl })).html;
    expect(linksOf(of("https://example.com/a?b=c&d='e'", "https://ops.example.com")))
      .toEqual(["https://example.com/a?b=c&d=%27e%27", "https://ops.example.com/"]);
    expect(of("https://example.com/a?b=c&d=e")).toContain(
      'href="https://example.com/a?b=c&amp;d=e"',
    );
    expect(visibleTextOf(of("https://example.com/x"))).toContain("(example.com)");
    for (const url of ["javascript:alert(1)", "data:text/html,x", "https://a@b.example/"]) {
      expect(linksOf(of(url, url))).toEqual([]);
      expect(visibleTextOf(of(url))).toContain(url);
    }
  });

  it("escapes what it shows, once", () => {
    const text = `<b title="x">'&amp;'</b>`;
    const alert = alertOf({
      name: text,
      labels: { [text]: text },
      annotations: { summary: text, description: `${text}\n${text}`, [text]: text },
      notes: [text],
      runbook_url: text,
      value: text,
    });
    const { html } = renderEmail(messageOf(alertsOf([alert]), { channel: text }));
    expect(html).not.toContain("<b title");
    expect(html).toContain("&lt;b title=&#34;x&#34;&gt;&#39;&amp;amp;&#39;&lt;/b&gt;");
    // Heading, name, two lines, note, runbook, value, annotation with its name, closing; the label is quoted.
    expect(visibleTextOf(html).split(text)).toHaveLength(11);
  });

  it("has no element, attribute or link that came from outside, whatever is said", () => {
    fc.assert(
      fc.property(hostileMessage, (message) => {
        const { html } = renderEmail(message);
        visibleTextOf(html);
        expect([...tagsOf(html)].filter((tag) => !known.has(tag))).toEqual([]);
        expect(linksOf(html).filter((href) => !/^https?:\/\/[a-z0-9[]/.test(href))).toEqual([]);
      }),
      HOSTILE_RUNS,
    );
  });

  it("shows what was said", () => {
    fc.assert(
      fc.property(hostileText, hostileText, (summary, description) => {
        const alert = alertOf({ annotations: { summary, description } });
        const seen = visibleTextOf(renderEmail(messageOf(alertsOf([alert]))).html);
        for (const text of [toLine(summary, 1000), toLines(description, 1000)]) {
          if (!isBlank(text)) expect(seen).toContain(text);
        }
      }),
      { numRuns: 200 },
    );
  });
});

describe("renderEmail(): any message", () => {
  it("has a subject of one line, and bodies that are neither empty nor too long", () => {
    fc.assert(
      fc.property(hostileMessage, (message) => {
        const { subject, text, html } = renderEmail(message);
        expect(subject).not.toMatch(/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_Control}]/u);
        expect(subject).toMatch(/^(\[TEST\] )?\[[A-Z0-9]+\] \S/);
        expect(subject.length).toBeLessThanOrEqual(SUBJECT_LIMIT);
        expect(text.trim()).not.toBe("");
        expect(text).not.toMatch(/(?!\n)[\p{Cc}\p{Cs}\p{Bidi_Control}]/u);
        expect(html).not.toMatch(/(?!\n)[\p{Cc}\p{Cs}\p{Bidi_Control}]/u);
        expect(bytesOf(text)).toBeLessThanOrEqual(MAIL_LIMIT_BYTES);
        expect(bytesOf(html)).toBeLessThanOrEqual(MAIL_LIMIT_BYTES);
      }),
      HOSTILE_RUNS,
    );
  });

  it.each(["x", "'", "&lt;", "漢", "😀", "a b", "é\u0301"])(
    "fits with 50 alerts full of %j, and says how many are left out",
    (part) => {
      const { text, html } = renderEmail(messageOf(hugeAlerts(part)));
      expect(bytesOf(html)).toBeLessThanOrEqual(MAIL_LIMIT_BYTES);
      expect(bytesOf(text)).toBeLessThanOrEqual(MAIL_LIMIT_BYTES);
      const listed = text.match(/^CRITICAL .*#\d+$|^ {2}.*#\d+$/gm)?.length ?? 0;
      expect(listed).toBeGreaterThanOrEqual(1);
    },
  );

  it("stays below what Gmail clips", () => expect(MAIL_LIMIT_BYTES).toBeLessThan(102_000));

  it("lists 50 with ordinary labels, and says how many there are besides", () => {
    const { text, html } = renderEmail(messageOf(samplePayload("alert-group", AT)));
    expect(text.match(/ #\d+$/gm)).toHaveLength(50);
    expect(text).toContain("\nAnd 10 more.\n");
    expect(visibleTextOf(html)).toContain("And 10 more.");
  });

  it("says the same at each attempt", () => {
    const message = messageOf(samplePayload("alert-group", AT));
    expect(renderEmail(message)).toEqual(renderEmail(message));
  });
});
