import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { toLine } from "../../../../shared/alerting/messages/clean-text.ts";
import {
  renderSlack,
  SLACK_LIMIT_BYTES,
  type SlackBlock,
  type SlackMessage,
} from "../../../../shared/alerting/messages/render-slack.ts";
import {
  SAMPLE_KINDS,
  samplePayload,
} from "../../../../shared/alerting/messages/sample-payloads.ts";
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

const blocksOf = ({ blocks, attachments }: SlackMessage): SlackBlock[] => [
  ...blocks,
  ...attachments.flatMap((attachment) => attachment.blocks),
];

function objectsOf(block: SlackBlock) {
  if (block.type === "context") return block.elements;
  return "fields" in block ? block.fields : [block.text];
}

const textsOf = (message: SlackMessage) => blocksOf(message).flatMap(objectsOf);
const plainOf = (message: SlackMessage) =>
  textsOf(message).filter(({ type }) => type === "plain_text").map(({ text }) => unescape(text))
    .join("\n");
const unescape = (text: string) =>
  text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
const bytesOf = (message: SlackMessage) => new TextEncoder().encode(JSON.stringify(message)).length;

describe("renderSlack()", () => {
  it("of an alert is a header, a coloured attachment, and what to do", () => {
    const alert = alertOf({
      annotations: { summary: "db-1 has 3 % of its disk left", description: "Make room." },
      runbook_url: "https://example.com/runbooks/disk?a=b&c=<d>|e",
      occurrences: 4,
    });
    const plain = (text: string) => ({ type: "plain_text", text, emoji: false });
    expect(renderSlack(messageOf(alertsOf([alert]), { mayBeRepeated: true }))).toEqual({
      text: "[CRITICAL] db-1 has 3 % of its disk left",
      mrkdwn: false,
      unfurl_links: false,
      unfurl_media: false,
      blocks: [
        { type: "header", text: plain("[CRITICAL] db-1 has 3 % of its disk left") },
        {
          type: "context",
          elements: [
            plain("This may be a repetition: an earlier attempt ended without an answer."),
          ],
        },
      ],
      attachments: [
        {
          color: "#d92d20",
          blocks: [
            {
              type: "section",
              text: plain(
                "CRITICAL DiskFull #41\nMake room.\nSince: 14:03 CET, 12 min\nValue: 0.03\n" +
                  "Fired: 4 times\nLabels: instance=db-1",
              ),
            },
            {
              type: "context",
              elements: [
                {
                  type: "mrkdwn",
                  text: "<https://example.com/runbooks/disk?a=b&amp;c=%3Cd%3E%7Ce|Runbook>",
                  verbatim: true,
                },
                plain("example.com"),
              ],
            },
          ],
        },
        {
          blocks: [
            {
              type: "context",
              elements: [plain(
                "For admins, in the SQL editor:\n" +
                  "Acknowledge #41: select monitor.acknowledge_alert(41, 'looking into it');\n" +
                  "Silence #41 for 2 hours: select monitor.silence_alerts(jsonb_agg(jsonb_build_object(" +
                  "'name', label.key, 'op', '=', 'value', label.value)), now() + interval '2 hours', 'deploying') " +
                  "from monitor.system_alerts, jsonb_each_text(labels) as label where alert_id = 41;",
              )],
            },
            {
              type: "context",
              elements: [plain("Sent by pgvigil to ops, route default, at 14:15 CET.")],
            },
            {
              type: "context",
              elements: [
                {
                  type: "mrkdwn",
                  text: "<https://ops.example.com/pgvigil|Open pgvigil>",
                  verbatim: true,
                },
                plain("ops.example.com"),
              ],
            },
          ],
        },
      ],
    });
  });

  it.each(
    [
      ["alert", "#d92d20"],
      ["alert-resolved", "#2e9e5b"],
      ["incident-alert", "#d92d20"],
      ["incident-resolution", "#2e9e5b"],
    ] as const,
  )("has for %s a bar in %s", (kind, colour) => {
    expect(renderSlack(messageOf(samplePayload(kind, AT))).attachments[0]!.color).toBe(colour);
  });

  it("says of an incident what its procedure asks for", () => {
    const seen = plainOf(renderSlack(messageOf(samplePayload("incident-escalation", AT))));
    for (
      const part of [
        "[P0] Escalation 2 of 3: Payments fail at the checkout",
        "Escalation of incident 9000000017, level 2 of 3.",
        "Missed deadline\nNobody has responded since it was opened: that was due 3 minutes ago.",
        "Escalated to level 2, Senior engineer and team lead.",
        "Acknowledge incident 9000000017: select monitor.acknowledge_incident(9000000017);",
        "Affected\ncheckout, payments",
        "Commander\nnobody yet",
        "Response due\n14:12 CET, 3 min ago",
      ]
    ) expect(seen).toContain(part);
  });

  it("mentions nobody, links nothing and formats nothing of what is said", () => {
    const name = "<!channel> <@U024BE7LH> <https://evil.example|bank> *b* _i_ ~s~ `c` :fire: @here";
    const message = renderSlack(messageOf(alertsOf([alertOf({ name, annotations: {} })])));
    const escaped = "&lt;!channel&gt; &lt;@U024BE7LH&gt; &lt;https://evil.example|bank&gt;" +
      " *b* _i_ ~s~ `c` :fire: @here";
    expect(message.text).toBe(`[CRITICAL] ${escaped}`);
    expect(message.blocks[0]).toEqual({
      type: "header",
      text: { type: "plain_text", text: `[CRITICAL] ${escaped}`, emoji: false },
    });
    expect(renderSlack(messageOf(alertsOf([alertOf({ name: "<!chan\u200bnel>" })]))).attachments[0])
      .toMatchObject({ blocks: [{ text: { text: /^CRITICAL &lt;!channel&gt; #41/ } }] });
  });

  it("lists ten alerts of a group, and says how many there are besides", () => {
    const message = renderSlack(messageOf(samplePayload("alert-group", AT)));
    const seen = plainOf(message);
    expect(seen.match(/^(CRITICAL|WARNING) QueueStuck #/gm)).toHaveLength(10);
    expect(seen).toContain("\nAnd 50 more.\n");
  });

  it("shows ten fields in a block, and as many blocks as it takes", () => {
    const of = (count: number) => {
      const names = Array.from({ length: count }, (_, i) => `name_${i}`);
      const common_annotations = Object.fromEntries(names.map((name) => [name, "x"]));
      const message = renderSlack(
        messageOf(alertsOf([alertOf(), alertOf()], { common_annotations })),
      );
      return message.attachments[0]!.blocks.filter((block) => "fields" in block)
        .map((block) => objectsOf(block).length);
    };
    expect([10, 11, 25].map(of)).toEqual([[10], [10, 1], [10, 10, 5]]);
  });

  it("links addresses of up to 1,000 characters, as they are sent", () => {
    const of = (rest: string) =>
      objectsOf(
        renderSlack(messageOf(alertsOf([alertOf({ runbook_url: `https://example.com/${rest}` })])))
          .attachments[0]!.blocks[1]!,
      );
    const room = 1000 - "<https://example.com/|Runbook>".length;
    expect(of("x".repeat(room))[0]!.text).toHaveLength(1000);
    for (const rest of ["x".repeat(room + 1), "&".repeat(200)]) {
      expect(of(rest)).toMatchObject([
        { type: "plain_text", text: "Runbook: the address is too long for Slack." },
        { type: "plain_text", text: "example.com" },
      ]);
    }
  });

  it("shows what a header has no room for below it", () => {
    const of = (length: number) =>
      renderSlack(messageOf(alertsOf([alertOf({ annotations: { summary: "&".repeat(length) } })])))
        .blocks;
    // Each takes five characters as it is sent.
    expect(of(27)).toHaveLength(1);
    expect(of(28)).toHaveLength(2);
    expect(objectsOf(of(40)[0]!)[0]!.text).toBe(`[CRITICAL] ${"&amp;".repeat(27)}…`);
    expect(objectsOf(of(28)[1]!)[0]!.text).toBe("&amp;".repeat(28));
  });
});

describe("renderSlack(): any message", () => {
  const check = (rendered: SlackMessage) => {
    expect(bytesOf(rendered)).toBeLessThanOrEqual(SLACK_LIMIT_BYTES);
    expect(blocksOf(rendered).length).toBeLessThanOrEqual(50);
    expect(rendered.attachments.length).toBeLessThanOrEqual(20);
    expect(rendered.text).not.toMatch(/[<>]|&(?!amp;|lt;|gt;)|[\p{Cc}\p{Cs}\p{Bidi_Control}]/u);
    for (const block of blocksOf(rendered)) {
      const objects = objectsOf(block);
      expect(objects.length).toBeGreaterThanOrEqual(1);
      expect(objects.length).toBeLessThanOrEqual(10);
      for (const { type, text } of objects) {
        const limit = block.type === "header" ? 150 : "fields" in block ? 2000 : 3000;
        expect(text.trim()).not.toBe("");
        expect(text.length).toBeLessThanOrEqual(limit);
        expect(text).not.toMatch(/(?!\n)[\p{Cc}\p{Cs}\p{Bidi_Control}]/u);
        if (type === "mrkdwn") {
          expect(text).toMatch(/^<https?:\/\/[a-z0-9[][^<>|\s]*\|(Runbook|Open pgvigil)>$/);
        } else {
          expect(text).not.toMatch(/[<>]|&(?!amp;|lt;|gt;)/);
        }
      }
    }
  };

  it("is within what Slack takes, and has no markup from outside", () => {
    fc.assert(
      fc.property(hostileMessage, (message) => check(renderSlack(message))),
      HOSTILE_RUNS,
    );
  });

  it.each(["x", "&", "<", "漢", "😀", '"', "\\", "a b"])(
    "is so with 50 alerts full of %j",
    (part) => check(renderSlack(messageOf(hugeAlerts(part)))),
  );

  it("is so with an incident of which much was written", () => {
    const text = "&".repeat(50_000);
    const incident = {
      ...samplePayload("incident-resolution", AT),
      ...{ title: text, text, root_cause: text, fix: text, prevention: text, commander: text },
      affected_components: Array.from({ length: 100 }, () => text),
      alerts: Array.from({ length: 20 }, () => text),
      runbook_url: `https://example.com/${"&".repeat(1900)}`,
    };
    check(renderSlack(messageOf(incident, { channel: text, externalUrl: incident.runbook_url })));
  });

  it("shows what was said as it was", () => {
    fc.assert(
      fc.property(hostileText, (text) => {
        const seen = plainOf(renderSlack(messageOf(alertsOf([alertOf({ notes: [`- ${text}`] })]))));
        expect(seen).toContain(`Note: ${toLine(`- ${text}`, 1000)}`);
      }),
      { numRuns: 150 },
    );
  });

  it.each(SAMPLE_KINDS)("of %s is in full", (kind) => {
    const message = renderSlack(messageOf(samplePayload(kind, AT)));
    check(message);
    expect(plainOf(message)).not.toContain("…");
  });
});
