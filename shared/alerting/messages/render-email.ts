import { layOutHtml } from "./lay-out-html.ts";
import { layOutText } from "./lay-out-text.ts";
import type { Message } from "./message.ts";
import { createOutliner } from "./outline.ts";
import { renderToFit, sizeOf } from "./render-to-fit.ts";
import { formatHeadline, tellHeadline } from "./tell-headline.ts";

/** Characters; most programs show fewer. */
export const SUBJECT_LIMIT = 150;

/** Bytes of the HTML. Gmail clips what is beyond 102 kB. */
export const MAIL_LIMIT_BYTES = 100_000;

export interface Mail {
  /** One line without control characters. */
  readonly subject: string;
  readonly text: string;
  readonly html: string;
}

/** A message as a mail: what to do about it in the text, all from outside escaped, and cut to {@link MAIL_LIMIT_BYTES}. */
export function renderEmail(message: Message): Mail {
  const outlineIn = createOutliner(message);
  const bodies = renderToFit(
    (detail) => {
      const outline = outlineIn(detail);
      return { text: layOutText(outline), html: layOutHtml(outline).text };
    },
    // The text is shorter: it says the same without markup.
    ({ html }) => sizeOf(html) <= MAIL_LIMIT_BYTES,
  );
  return {
    subject: formatHeadline(tellHeadline(message.payload), message.isTest, SUBJECT_LIMIT),
    ...bodies,
  };
}
