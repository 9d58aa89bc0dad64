import { SAMPLES_LIMIT } from "./ingest-error.ts";

/** How far ahead of now a sample may lie: clocks differ. */
export const AHEAD_LIMIT_MS = 10 * 60 * 1000;

/** How old a sample may be. */
export const AGE_LIMIT_MS = 7 * 24 * 60 * 60 * 1000;

/** Labels of a series, `job`, `instance`, `le` and `quantile` among them. */
export const LABELS_LIMIT = 30;

/** Characters of the name of a metric, its suffixes among them. */
export const METRIC_NAME_LIMIT = 200;

/** Characters of the name of a label. */
export const LABEL_NAME_LIMIT = 200;

/** Characters of the value of a label. */
export const LABEL_VALUE_LIMIT = 2000;

/** Metric of the attributes of resources. */
export const TARGET_INFO = "target_info";

/** Why a sample is refused, where more than one kind of sender can be at fault. */
export const REASONS = {
  targetInfo: `${TARGET_INFO} is made of the attributes of OTLP resources`,
  notFinite: "the value is not a finite number",
  tooOld: "older than 7 days",
  tooFarAhead: "more than 10 minutes ahead",
  tooManyLabels: `more than ${LABELS_LIMIT} labels`,
  longLabelName: `the name of a label has more than ${LABEL_NAME_LIMIT} characters`,
  longLabelValue: "the value of a label has more than 2,000 characters",
  longMetricName: `the name has more than ${METRIC_NAME_LIMIT} characters`,
} as const;

/** Whether there are at most `limit` characters, in Unicode's sense: what Postgres counts as one, is one. */
export function hasAtMost(text: string, limit: number): boolean {
  return text.length <= limit || (text.length <= 2 * limit && [...text].length <= limit);
}

/** Why a sample of this time, in milliseconds, is refused; null if it is not. The limits themselves are within. */
export function refuseTime(time: number, now: Date): string | null {
  if (time > now.getTime() + AHEAD_LIMIT_MS) return REASONS.tooFarAhead;
  if (time < now.getTime() - AGE_LIMIT_MS) return REASONS.tooOld;
  return null;
}

/** Why labels that are in the grammar are refused; null if they are not. */
export function refuseLabels(labels: Iterable<readonly [string, string]>): string | null {
  let count = 0;
  for (const [name, value] of labels) {
    count += 1;
    if (count > LABELS_LIMIT) return REASONS.tooManyLabels;
    if (name.length > LABEL_NAME_LIMIT) return REASONS.longLabelName;
    if (!hasAtMost(value, LABEL_VALUE_LIMIT)) return REASONS.longLabelValue;
  }
  return null;
}

/** What neither jsonb nor text of Postgres can hold. */
const UNSTORABLE = /[\0\ud800-\udfff]/;

/** The text with each NUL and lone surrogate replaced by U+FFFD, as Postgres can hold neither. */
export function toStorableText(text: string): string {
  return UNSTORABLE.test(text) ? text.replace(/\0|\p{Surrogate}/gu, "\ufffd") : text;
}

/** At most the first `limit` characters. */
export function cutText(text: string, limit: number): string {
  return hasAtMost(text, limit) ? text : [...text.slice(0, 2 * limit)].slice(0, limit).join("");
}

/** What a request with too many samples is told. */
export const TOO_MANY_SAMPLES =
  `Cannot take more than ${SAMPLES_LIMIT} samples a request: send smaller batches`;
