import type { Fact, Item, Link, Outline } from "./outline.ts";

const WIDTH = 76;
const INDENT = "  ";
/** Names of facts up to here stand in a column. */
const COLUMN = 14;

/**
 * An outline as plain text, for a terminal or a mail. What comes from outside is indented, or after a word of ours: nothing of it
 * begins a line and could be taken for a part of the message.
 */
export function layOutText(outline: Outline): string {
  const { headline, remarks, sections, facts, labels, links, items, moreCount } = outline;
  const details = layOutFacts(facts, labels, links);
  const blocks = [
    wrap(`${headline.word}: ${headline.text}${headline.suffix}`, ""),
    remarks.flatMap((remark) => wrap(remark, "")),
    ...sections.map(({ title, text }) => [`${title}:`, ...wrapLines(text)]),
    details.length === 0 ? [] : ["Details:", ...details],
    ...items.map(layOutItem),
    moreCount === 0 ? [] : [items.length === 0 ? `${moreCount} in all.` : `And ${moreCount} more.`],
    layOutCommands(outline),
    [...wrap(outline.closing, ""), ...outline.home === null ? [] : [outline.home]],
  ];
  return `${
    blocks.filter((lines) => lines.length > 0).map((lines) => lines.join("\n")).join("\n\n")
  }\n`;
}

function layOutItem({ word, name, id, summary, description, notes, ...rest }: Item): string[] {
  return [
    ...wrap(`${word} ${name} #${id}`, ""),
    ...summary === null ? [] : wrap(summary, INDENT),
    ...description === null ? [] : [...wrapLines(description), ""],
    ...layOutFacts(rest.facts, rest.labels, rest.links),
    ...notes.flatMap((note) => wrap(`Note: ${note}`, INDENT)),
  ];
}

function layOutFacts(
  facts: readonly Fact[],
  labels: readonly string[],
  links: readonly Link[],
): string[] {
  const all = [
    ...facts,
    ...labels.length === 0 ? [] : [{ name: "Labels", value: labels.join(", ") }],
    ...links.map(({ text, href }) => ({ name: text, value: href })),
  ];
  const width = Math.max(
    0,
    ...all.map(({ name }) => name.length).filter((length) => length <= COLUMN),
  );
  return all.flatMap(({ name, value }) => {
    const [first = "", ...others] = wrap(value, INDENT + " ".repeat(width + 2));
    return [`${INDENT}${name.padEnd(width)}  ${first.trimStart()}`, ...others];
  });
}

function layOutCommands({ commands, commandsFor }: Outline): string[] {
  if (commands.length === 0) return [];
  return [
    commandsFor,
    // Not wrapped: it is copied.
    ...commands.flatMap(({ what, sql }) => [`${INDENT}${what}:`, `${INDENT}${INDENT}${sql}`]),
  ];
}

const wrapLines = (text: string) =>
  text.split("\n").flatMap((line) => line === "" ? [""] : wrap(line, INDENT));

/** Lines of at most {@link WIDTH} characters, unless a word is longer; all but the first are indented anyhow. */
function wrap(text: string, indent: string): string[] {
  const lines: string[] = [];
  let line = indent;
  let isEmpty = true;
  for (const word of text.split(" ")) {
    if (!isEmpty && line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = indent === "" ? INDENT : indent;
      isEmpty = true;
    }
    line += isEmpty ? word : ` ${word}`;
    isEmpty = false;
  }
  return [...lines, line];
}
