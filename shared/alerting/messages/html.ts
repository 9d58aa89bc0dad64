/** HTML in which nothing is left to escape. */
export class Markup {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

type Value = string | number | Markup | readonly Markup[];

/**
 * A template of HTML: what is filled in is escaped unless it is {@link Markup}, as a text and as the value of an attribute in double
 * quotes. It may stand nowhere else.
 */
export function html(parts: TemplateStringsArray, ...values: readonly Value[]): Markup {
  return new Markup(
    parts.map((part, i) => part + (i < values.length ? toHtml(values[i]!) : "")).join(""),
  );
}

/** Parts one after another, with a separator between them. */
export function joinMarkup(parts: readonly Markup[], separator: Markup): Markup {
  return new Markup(parts.map(({ text }) => text).join(separator.text));
}

function toHtml(value: Value): string {
  if (value instanceof Markup) return value.text;
  if (typeof value === "number") return String(value);
  if (typeof value === "string") {
    return value.replace(/[&<>"']/g, (character) => ESCAPES[character]!);
  }
  return value.map(({ text }) => text).join("");
}

const ESCAPES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&#34;",
  "'": "&#39;",
};
