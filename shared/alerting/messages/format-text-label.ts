import { isPlainLabelName, quote } from "../../promql/format-labels.ts";
import { isBlank, toLine } from "./clean-text.ts";

/** A label as people read it: `job=api`; in quotes where a value could be taken for more than one: `team="a, b=c"`. */
export function formatTextLabel(name: string, value: string, limit: number): string {
  const line = toLine(name, limit);
  const shown = toLine(value, limit);
  const isPlain = /^[\p{L}\p{N}_.:/@%+-]+$/u.test(shown) && !isBlank(shown);
  return `${isPlainLabelName(line) ? line : quote(line)}=${isPlain ? shown : quote(shown)}`;
}
