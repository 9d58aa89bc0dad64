import { describe, expect, it } from "vitest";
import type { Detail } from "../../../../shared/alerting/messages/outline.ts";
import { renderToFit, sizeOf } from "../../../../shared/alerting/messages/render-to-fit.ts";

/** Details that are tried where only those that satisfy `fits` fit. */
function tried(fits: (detail: Detail) => boolean, itemLimit?: number): Detail[] {
  const details: Detail[] = [];
  const rendered = renderToFit(
    (detail) => {
      details.push(detail);
      return detail;
    },
    fits,
    itemLimit,
  );
  expect(rendered).toBe(details.at(-1));
  return details;
}

describe("renderToFit()", () => {
  it("renders once where all fits", () => {
    expect(tried(() => true)).toHaveLength(1);
  });

  it("goes on with less of everything until it fits", () => {
    const details = tried(({ textLength }) => textLength <= 300);
    expect(details.at(-1)!.textLength).toBe(300);
    expect(details.slice(0, -1).every(({ textLength }) => textLength > 300)).toBe(true);
    const all = tried(() => false);
    for (const key of ["itemCount", "textLength", "pairCount", "nameLength"] as const) {
      const values = all.map((detail) => detail[key]);
      expect(values).toEqual(values.toSorted((a, b) => b - a));
    }
  });

  it("takes the least detail though it does not fit", () => {
    expect(tried(() => false).at(-1)!.itemCount).toBe(1);
  });

  it("lists no more items than are asked for", () => {
    expect(tried(() => false, 10).map(({ itemCount }) => itemCount))
      .toEqual([10, 10, 10, 10, 10, 10, 5, 1]);
  });
});

describe("sizeOf()", () => {
  it.each([["", 0], ["a", 1], ["é", 2], ["漢", 3], ["😀", 4]])("%j has %d bytes", (text, size) => {
    expect(sizeOf(text)).toBe(size);
  });
});
