import { cut } from "./clean-text.ts";
import type { Message } from "./message.ts";
import {
  createOutliner,
  type Detail,
  type Fact,
  type Item,
  type Link,
  type Outline,
} from "./outline.ts";
import { renderToFit, sizeOf } from "./render-to-fit.ts";
import { formatHeadline, type Tone } from "./tell-headline.ts";
import { hostOf } from "./to-web-address.ts";

/** Characters of a header. */
const HEADER_LIMIT = 150;
/** Characters of a text object; within a field fewer. */
const TEXT_LIMIT = 3000;
const FIELD_LIMIT = 2000;
const FIELDS_LIMIT = 10;
/** Of an address that is linked, so that a few leave room for the rest. */
const LINK_LIMIT = 1000;
/** Of what a notification of the client shows. */
const FALLBACK_LIMIT = 250;

/** Alerts that are listed: a chat is skimmed, and Slack refuses more than 50 blocks. */
const ITEM_LIMIT = 10;

/**
 * Bytes of a message. Slack tells limits of its parts only, but refuses some 13,000 characters in all with `msg_blocks_too_long`.
 *
 * @see https://github.com/slackapi/bolt-js/issues/2509
 */
export const SLACK_LIMIT_BYTES = 12_000;

/** Neither formatted nor searched for links, mentions and emoji. */
export interface PlainText {
  readonly type: "plain_text";
  readonly text: string;
  readonly emoji: false;
}

/** Of ours alone: links that were checked. */
export interface Mrkdwn {
  readonly type: "mrkdwn";
  readonly text: string;
  readonly verbatim: true;
}

export type SlackBlock =
  | { readonly type: "header"; readonly text: PlainText }
  | { readonly type: "section"; readonly text: PlainText }
  | { readonly type: "section"; readonly fields: readonly PlainText[] }
  | { readonly type: "context"; readonly elements: readonly (PlainText | Mrkdwn)[] };

export interface SlackAttachment {
  /** Of the bar at its side. */
  readonly color?: string;
  readonly blocks: readonly SlackBlock[];
}

/** What an incoming webhook takes. */
export interface SlackMessage {
  /** What a notification of the client shows; not in the message itself, which has blocks. */
  readonly text: string;
  readonly mrkdwn: false;
  readonly unfurl_links: false;
  readonly unfurl_media: false;
  readonly blocks: readonly SlackBlock[];
  readonly attachments: readonly SlackAttachment[];
}

const COLOURS: Readonly<Record<Tone, string>> = {
  critical: "#d92d20",
  major: "#e8590c",
  warning: "#f5a524",
  info: "#2f6fed",
  good: "#2e9e5b",
};

/**
 * A message for Slack. All from outside is in `plain_text`, where asterisks, backticks and `:names:` are what they are: to break
 * mrkdwn instead takes invisible characters, which whoever copies a label into a query gets as well. `&`, `<` and `>` are escaped
 * there too, Slack decodes them in every text. Links are no buttons: those want an app that answers.
 */
export function renderSlack(message: Message): SlackMessage {
  const outlineIn = createOutliner(message);
  return renderToFit(
    (detail) => layOut(outlineIn(detail), message.isTest, detail),
    (rendered) => sizeOf(JSON.stringify(rendered)) <= SLACK_LIMIT_BYTES,
    ITEM_LIMIT,
  );
}

function layOut(outline: Outline, isTest: boolean, { textLength }: Detail): SlackMessage {
  const { headline, remarks, sections, items, moreCount, commands, commandsFor, closing, home } =
    outline;
  const header = toSlack(formatHeadline(headline, isTest, HEADER_LIMIT), HEADER_LIMIT);
  const overview = [
    ...sections.map(({ title, text }) => section(`${title}\n${text}`)),
    ...layOutFields(outline.facts),
    ...outline.labels.length === 0 ? [] : [section(`Labels: ${outline.labels.join(", ")}`)],
    ...layOutLinks(outline.links),
  ];
  return {
    text: toSlack(formatHeadline(headline, isTest, FALLBACK_LIMIT), 2 * FALLBACK_LIMIT),
    mrkdwn: false,
    unfurl_links: false,
    unfurl_media: false,
    blocks: [
      { type: "header", text: plain(header) },
      ...header.includes(toSlack(headline.text, TEXT_LIMIT))
        ? []
        : [section(cut(headline.text, textLength))],
      ...remarks.length === 0 ? [] : [context(remarks.join(" "))],
    ],
    attachments: [
      ...overview.length === 0 ? [] : [{ color: COLOURS[headline.tone], blocks: overview }],
      ...items.map(layOutItem),
      {
        blocks: [
          ...moreCount === 0
            ? []
            : [section(items.length === 0 ? `${moreCount} in all.` : `And ${moreCount} more.`)],
          ...commands.length === 0 ? [] : [context(
            [commandsFor, ...commands.map(({ what, sql }) => `${what}: ${sql}`)].join("\n"),
          )],
          context(closing),
          ...home === null ? [] : layOutLinks([{ text: "Open pgvigil", href: home }]),
        ],
      },
    ],
  };
}

function layOutItem(item: Item): SlackAttachment {
  const { word, tone, name, id, summary, description, facts, labels, notes, links } = item;
  const lines = [
    `${word} ${name} #${id}`,
    ...summary === null ? [] : [summary],
    ...description === null ? [] : [description],
    ...facts.map((fact) => `${fact.name}: ${fact.value}`),
    ...labels.length === 0 ? [] : [`Labels: ${labels.join(", ")}`],
    ...notes.map((note) => `Note: ${note}`),
  ];
  return { color: COLOURS[tone], blocks: [section(lines.join("\n")), ...layOutLinks(links)] };
}

function layOutFields(facts: readonly Fact[]): SlackBlock[] {
  const fields = facts.map(({ name, value }) => plain(toSlack(`${name}\n${value}`, FIELD_LIMIT)));
  return Array.from({ length: Math.ceil(fields.length / FIELDS_LIMIT) }, (_, i) => ({
    type: "section",
    fields: fields.slice(i * FIELDS_LIMIT, (i + 1) * FIELDS_LIMIT),
  }));
}

function layOutLinks(links: readonly Link[]): SlackBlock[] {
  return links.map(({ text, href }) => {
    const link = `<${escape(href.replaceAll("|", "%7C"))}|${text}>`;
    // Where it leads is seen before one goes there.
    const host = plain(toSlack(hostOf(href), FIELD_LIMIT));
    return {
      type: "context",
      elements: link.length > LINK_LIMIT
        ? [plain(`${text}: the address is too long for Slack.`), host]
        : [{ type: "mrkdwn", text: link, verbatim: true }, host],
    };
  });
}

const section = (text: string): SlackBlock => ({
  type: "section",
  text: plain(toSlack(text, TEXT_LIMIT)),
});

const context = (text: string): SlackBlock => ({
  type: "context",
  elements: [plain(toSlack(text, FIELD_LIMIT))],
});

const plain = (text: string): PlainText => ({ type: "plain_text", text, emoji: false });

const escape = (text: string) =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** Escaped, and cut so that it has at most `limit` characters as it is sent. */
function toSlack(text: string, limit: number): string {
  let [most, tooMany] = [1, text.length + 1];
  if (escape(text).length <= limit) return escape(text);
  while (tooMany - most > 1) {
    const middle = (most + tooMany) >> 1;
    if (escape(cut(text, middle)).length <= limit) most = middle;
    else tooMany = middle;
  }
  return escape(cut(text, most));
}
