import { html, joinMarkup, Markup } from "./html.ts";
import type { Fact, Item, Link, Outline } from "./outline.ts";
import type { Tone } from "./tell-headline.ts";
import { hostOf } from "./to-web-address.ts";

/** White is read on each of them. */
const COLOURS: Readonly<Record<Tone, string>> = {
  critical: "#b3261e",
  major: "#b8400a",
  warning: "#8a5300",
  info: "#0b57d0",
  good: "#146c2e",
};

const FONT = "system-ui,-apple-system,Roboto,Helvetica,Arial,sans-serif";
const FIXED_FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,monospace";

/** For those that know it: what is needed to read is in the elements, since many mail programs drop style sheets. */
const STYLE_SHEET = new Markup(`:root{color-scheme:light dark;supported-color-schemes:light dark}
@media (prefers-color-scheme:dark){
.page{background:#111316!important;color:#e6e8eb!important}
.card{background:#1b1e23!important;color:#e6e8eb!important;border-top-color:#363b43!important;border-right-color:#363b43!important;border-bottom-color:#363b43!important}
.quiet{color:#a3abb6!important}
.box{background:#2a2f37!important;color:#e6e8eb!important}
.link{color:#8ab4f8!important}
}`);

const LINE_END = new Markup("\n");
const BREAK = html`<br>`;

/** An outline as a mail: one column, nothing loaded from elsewhere, colours always with a word. */
export function layOutHtml(outline: Outline): Markup {
  const { headline, items, moreCount, commands, home } = outline;
  const isOfOne = items.length === 1 && moreCount === 0;
  const parts = [
    card(headline.tone, [
      badge(headline.word, headline.tone),
      html`<h1 dir="auto" style="margin:10px 0 0;font-size:20px;line-height:1.3">${headline.text}${headline.suffix}</h1>`,
      ...outline.remarks.map((remark) => paragraph(html`${remark}`)),
      ...outline.sections.map(({ title, text }) =>
        paragraph(html`<b>${title}</b><br>${toLines(text)}`)
      ),
      ...layOutFacts(outline.facts, outline.labels, outline.links),
      ...isOfOne ? [paragraph(layOutName(items[0]!)), ...layOutItem(items[0]!)] : [],
    ]),
    ...isOfOne ? [] : items.map((item) =>
      card(item.tone, [
        html`${badge(item.word, item.tone)} ${layOutName(item)}`,
        ...layOutItem(item),
      ])
    ),
    ...moreCount === 0 ? [] : [
      paragraph(
        html`<b>${items.length === 0 ? `${moreCount} in all.` : `And ${moreCount} more.`}</b>`,
      ),
    ],
    ...commands.length === 0 ? [] : [paragraph(html`${outline.commandsFor}`)],
    ...commands.map(({ what, sql }) => paragraph(html`<b>${what}</b>${box("block", sql)}`)),
    html`<p class="quiet" style="margin:20px 0 0;font-size:13px;color:#59616c">${outline.closing}${
      home === null ? [] : [BREAK, anchor({ text: "Open pgvigil", href: home })]
    }</p>`,
  ];
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="supported-color-schemes" content="light dark">
<title>${headline.word}: ${headline.text}</title>
<style>${STYLE_SHEET}</style>
</head>
<body class="page" style="margin:0;padding:0;background:#f3f4f6;color:#1a1d21">
<div class="page" style="max-width:600px;margin:0 auto;padding:12px;background:#f3f4f6;color:#1a1d21;font:15px/1.5 ${FONT};overflow-wrap:anywhere;word-break:break-word">
${joinMarkup(parts, LINE_END)}
</div>
</body>
</html>
`;
}

function layOutName({ name, id }: Item): Markup {
  return html`<b dir="auto" style="font-size:16px">${name}</b> ${quiet(`#${id}`)}`;
}

function layOutItem({ summary, description, facts, labels, links, notes }: Item): Markup[] {
  return [
    ...summary === null ? [] : [paragraph(html`<b>${summary}</b>`)],
    ...description === null ? [] : [paragraph(toLines(description))],
    ...layOutFacts(facts, labels, links),
    ...notes.map((note) => paragraph(html`<i>${note}</i>`)),
  ];
}

function layOutFacts(
  facts: readonly Fact[],
  labels: readonly string[],
  links: readonly Link[],
): Markup[] {
  const rows = facts.map(({ name, value }) =>
    html`${quiet(name)} <span dir="auto">${value}</span>`
  );
  // Where one leads is seen before one goes there.
  const anchors = links.map((link) => html`${anchor(link)} ${quiet(`(${hostOf(link.href)})`)}`);
  return [
    ...rows.length === 0 ? [] : [paragraph(joinMarkup(rows, BREAK))],
    ...labels.length === 0
      ? []
      : [html`<div style="margin:6px 0 0">${
        labels.map((label) => box("inline-block", label))
      }</div>`],
    ...anchors.length === 0 ? [] : [paragraph(joinMarkup(anchors, BREAK))],
  ];
}

function card(tone: Tone, content: readonly Markup[]): Markup {
  return html`<div class="card" style="margin:0 0 12px;padding:14px 14px 16px;border:1px solid #d9dce1;border-left:5px solid ${
    COLOURS[tone]
  };border-radius:6px;background:#ffffff">
${joinMarkup(content, LINE_END)}
</div>`;
}

/** White on its colour, in light and dark. */
function badge(word: string, tone: Tone): Markup {
  return html`<span style="display:inline-block;padding:1px 8px;border-radius:4px;background:${
    COLOURS[tone]
  };color:#ffffff;font-size:13px;font-weight:700">${word}</span>`;
}

function box(display: "block" | "inline-block", text: string): Markup {
  return html`<span class="box" style="display:${display};margin:4px 4px 0 0;padding:2px 6px;border-radius:4px;background:#eceef1;font:13px/1.5 ${FIXED_FONT}">${text}</span>`;
}

const paragraph = (content: Markup) => html`<p dir="auto" style="margin:8px 0 0">${content}</p>`;

const quiet = (text: string) => html`<span class="quiet" style="color:#59616c">${text}</span>`;

const anchor = ({ text, href }: Link) =>
  html`<a class="link" href="${href}" style="color:#0b57d0">${text}</a>`;

const toLines = (text: string) => joinMarkup(text.split("\n").map((line) => html`${line}`), BREAK);
