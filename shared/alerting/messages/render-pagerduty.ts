import type { AlertsPayload, NotificationPayload } from "../../contract/notifications.ts";
import { hashUnit } from "../../promql/hash-unit.ts";
import { cut, isBlank, toLine } from "./clean-text.ts";
import type { Message } from "./message.ts";
import { createOutliner, type Detail, type Fact, type Item, type Outline } from "./outline.ts";
import { renderToFit, sizeOf } from "./render-to-fit.ts";
import { describeGroup, formatHeadline, nameOf, type Tone } from "./tell-headline.ts";
import { hostOf, toWebAddress } from "./to-web-address.ts";

const SUMMARY_LIMIT = 1024;
const DEDUP_KEY_LIMIT = 255;
const FIELD_LIMIT = 255;
const LINKS_LIMIT = 10;

/** Bytes of an event as JSON; PagerDuty takes 512 kB. */
export const PAGERDUTY_LIMIT_BYTES = 512_000;

/** An event of PagerDuty's Events API, version 2. */
export interface PagerDutyEvent {
  readonly routing_key: string;
  readonly event_action: "trigger" | "acknowledge" | "resolve";
  /** The same for all that is said of a group, or an incident. */
  readonly dedup_key: string;
  readonly client: "pgvigil";
  readonly client_url?: string;
  readonly links: readonly { readonly href: string; readonly text: string }[];
  readonly payload: {
    readonly summary: string;
    readonly severity: "critical" | "error" | "warning" | "info";
    /** Host of the external URL; `pgvigil` without one. */
    readonly source: string;
    readonly timestamp: string;
    readonly component?: string;
    readonly group?: string;
    readonly class?: string;
    readonly custom_details: Readonly<Record<string, unknown>>;
  };
}

const SEVERITIES: Readonly<Record<Tone, PagerDutyEvent["payload"]["severity"]>> = {
  critical: "critical",
  major: "error",
  warning: "warning",
  info: "info",
  good: "info",
};

/**
 * A message as an event for PagerDuty. A group of which all is resolved, a resolved incident and a sign of life resolve; a group that
 * somebody has acknowledged is acknowledged there too, when that is what the message is about; all else triggers, which PagerDuty adds
 * to what is open under the same key.
 *
 * @see https://developer.pagerduty.com/docs/send-alert-event
 */
export function renderPagerDuty(message: Message, routingKey: string): PagerDutyEvent {
  const outlineIn = createOutliner(message);
  return renderToFit(
    (detail) => toEvent(message, routingKey, outlineIn(detail), detail),
    (event) => sizeOf(JSON.stringify(event)) <= PAGERDUTY_LIMIT_BYTES,
  );
}

function toEvent(
  message: Message,
  routingKey: string,
  outline: Outline,
  { itemCount }: Detail,
): PagerDutyEvent {
  const { payload, isTest, at } = message;
  const { headline, home } = outline;
  const links = [
    ...outline.links,
    ...outline.items.flatMap((item) =>
      item.links.map(({ text, href }) => ({ text: `${text} of ${item.name}`, href }))
    ),
  ];
  return {
    routing_key: routingKey,
    event_action: actionOf(payload),
    dedup_key: dedupKeyOf(message),
    client: "pgvigil",
    ...home !== null && { client_url: home },
    links: links.slice(0, Math.min(itemCount, LINKS_LIMIT)).map(({ href, text }) => ({
      href,
      text,
    })),
    payload: {
      summary: formatHeadline(headline, isTest, SUMMARY_LIMIT),
      severity: SEVERITIES[headline.tone],
      source: home === null ? "pgvigil" : hostOf(home),
      timestamp: at.toISOString(),
      ...classify(payload),
      custom_details: toDetails(outline),
    },
  };
}

function actionOf(payload: NotificationPayload): PagerDutyEvent["event_action"] {
  switch (payload.type) {
    case "alerts":
      if (payload.firing_count === 0) return "resolve";
      return payload.because === "acknowledged" && payload.acknowledged_by !== null
        ? "acknowledge"
        : "trigger";
    case "incident":
      return payload.message === "resolution" ? "resolve" : "trigger";
    case "heartbeat":
      return payload.signal === "fail" ? "trigger" : "resolve";
  }
}

/**
 * With the host of the external URL, since incidents are numbered from 1 in each project, and projects may share a service; tests
 * never meet what is real. A long one is cut, with a hash.
 */
function dedupKeyOf({ payload, externalUrl, isTest }: Message): string {
  const home = toWebAddress(externalUrl);
  const subject = payload.type === "alerts"
    ? `group/${payload.group_key}`
    : payload.type === "incident"
    ? `incident/${payload.incident_id}${
      // What is added to an open page wakes nobody: each level has its own, by monitor.find_pages.
      payload.escalation_level > 1 ? `/level/${payload.escalation_level}` : ""}`
    : "heartbeat";
  const key = [
    "pgvigil",
    ...isTest ? ["test"] : [],
    ...home === null ? [] : [hostOf(home)],
    subject,
  ]
    .join("/");
  // What is cleaned away, or cut off, tells groups apart all the same.
  const clean = toLine(key, DEDUP_KEY_LIMIT);
  if (clean === key) return key;
  const hash = `/${hash128(key)}`;
  return cut(clean, DEDUP_KEY_LIMIT - hash.length) + hash;
}

/** 32 digits that depend on nothing but the text. */
function hash128(text: string): string {
  return ["a", "b", "c", "d"].map((salt) =>
    (hashUnit(salt + text) * 2 ** 32).toString(16).padStart(8, "0")
  ).join("");
}

/** Labels that say what part of a system an alert is about, the first that there is. */
const COMPONENT_LABELS = ["component", "service", "job", "instance"];

function classify(
  payload: NotificationPayload,
): Pick<PagerDutyEvent["payload"], "component" | "group" | "class"> {
  switch (payload.type) {
    case "alerts": {
      const labels = labelsInCommon(payload);
      const component = COMPONENT_LABELS.map((name) => labels[name] ?? "")
        .find((value) => !isBlank(value));
      const names = new Set(payload.alerts.map(({ name }) => name));
      return {
        ...component !== undefined && { component: toLine(component, FIELD_LIMIT) },
        group: toLine(describeGroup(payload), FIELD_LIMIT),
        ...names.size === 1 && { class: toLine(nameOf([...names][0]!, "alert"), FIELD_LIMIT) },
      };
    }
    case "incident": {
      const components = payload.affected_components.filter((name) => !isBlank(name));
      return {
        ...components.length > 0 && { component: toLine(components.join(", "), FIELD_LIMIT) },
        group: "incidents",
        class: `${payload.severity} incident`,
      };
    }
    case "heartbeat":
      return { component: "pgvigil", group: "pgvigil", class: "heartbeat" };
  }
}

function labelsInCommon(
  { alerts, common_labels }: AlertsPayload,
): Readonly<Record<string, string>> {
  return alerts.length === 1 ? alerts[0]!.labels : common_labels;
}

type Entry = readonly [name: string, value: unknown];

/** Custom details are read as they stand: in order, and in words. */
function toDetails(outline: Outline): Readonly<Record<string, unknown>> {
  const { remarks, sections, facts, labels, items, moreCount, commands, closing } = outline;
  return withFacts(facts, [
    ...remarks.length === 0 ? [] : [["Remarks", remarks.join(" ")] as const],
    ...sections.map(({ title, text }) => [title, text] as const),
    ...labels.length === 0 ? [] : [["Labels", labels.join(", ")] as const],
  ], [
    ...items.length === 0 ? [] : [["Alerts", items.map(toAlertDetails)] as const],
    ...moreCount === 0 ? [] : [["Not listed", moreCount] as const],
    ...commands.map(({ what, sql }) => [what, sql] as const),
    ["Sent", closing],
  ]);
}

function toAlertDetails(item: Item): Readonly<Record<string, unknown>> {
  const { word, name, id, summary, description, facts, labels, notes } = item;
  return withFacts(facts, [
    ["Alert", `${word} ${name} #${id}`],
    ...summary === null ? [] : [["Summary", summary] as const],
    ...description === null ? [] : [["Description", description] as const],
    ...notes.length === 0 ? [] : [["Notes", notes.join(" ")] as const],
    ...labels.length === 0 ? [] : [["Labels", labels.join(", ")] as const],
  ]);
}

/** Annotations, the last of the facts, may be called as they like: they take the place of nothing else. */
function withFacts(
  facts: readonly Fact[],
  before: readonly Entry[],
  after: readonly Entry[] = [],
): Readonly<Record<string, unknown>> {
  const taken = new Set([...before, ...after].map(([name]) => name));
  const shown = facts.filter(({ name }) => {
    const isNew = !taken.has(name);
    taken.add(name);
    return isNew;
  });
  return Object.fromEntries([
    ...before,
    ...shown.map(({ name, value }) => [name, value] as const),
    ...after,
  ]);
}
