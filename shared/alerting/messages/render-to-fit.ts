import type { Detail } from "./outline.ts";

/** From all that is told to what always fits. */
const DETAILS: readonly Detail[] = [
  { itemCount: 50, textLength: 4000, pairCount: 40, nameLength: 500 },
  { itemCount: 50, textLength: 1000, pairCount: 20, nameLength: 200 },
  { itemCount: 50, textLength: 300, pairCount: 12, nameLength: 100 },
  { itemCount: 50, textLength: 140, pairCount: 6, nameLength: 60 },
  { itemCount: 25, textLength: 140, pairCount: 6, nameLength: 60 },
  { itemCount: 10, textLength: 140, pairCount: 6, nameLength: 60 },
  { itemCount: 5, textLength: 100, pairCount: 4, nameLength: 40 },
  { itemCount: 1, textLength: 60, pairCount: 3, nameLength: 30 },
];

/** Renders in the most detail that fits, with at most `itemLimit` items; the least detail is taken as fitting. */
export function renderToFit<Rendered>(
  render: (detail: Detail) => Rendered,
  fits: (rendered: Rendered) => boolean,
  itemLimit = Infinity,
): Rendered {
  let rendered: Rendered | undefined;
  for (const detail of DETAILS) {
    rendered = render({ ...detail, itemCount: Math.min(detail.itemCount, itemLimit) });
    if (fits(rendered)) break;
  }
  return rendered!;
}

/** Bytes of a text in UTF-8. */
export function sizeOf(text: string): number {
  return new TextEncoder().encode(text).length;
}
