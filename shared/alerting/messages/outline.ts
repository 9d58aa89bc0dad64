import type {
  AlertsPayload,
  HeartbeatPayload,
  IncidentPayload,
  ToldAlert,
} from "../../contract/notifications.ts";
import { formatDecimal } from "../../promql/format-value.ts";
import { isBlank, toLine, toLines } from "./clean-text.ts";
import { formatTextLabel } from "./format-text-label.ts";
import type { Message } from "./message.ts";
import { type Headline, isOfOne, nameOf, tellHeadline, type Tone } from "./tell-headline.ts";
import { createTimeTeller, tellDate, tellDuration, type TimeTeller } from "./tell-time.ts";
import { toWebAddress } from "./to-web-address.ts";

/** How much a message may say: what is beyond is cut, and says so. */
export interface Detail {
  readonly itemCount: number;
  /** Characters of a summary, a description, what a person wrote. */
  readonly textLength: number;
  /** Labels, other annotations, notes, names of a list: so many of each. */
  readonly pairCount: number;
  /** Characters of a name, of the value of a label. */
  readonly nameLength: number;
}

/**
 * What a message says, in the order in which it is read, before a channel gives it a form. All texts are cleaned and bounded, none
 * is escaped.
 */
export interface Outline {
  readonly headline: Headline;
  /** Sentences about the message itself, e.g. that it may be a repetition. */
  readonly remarks: readonly string[];
  readonly sections: readonly Section[];
  readonly facts: readonly Fact[];
  /** What all items have in common. */
  readonly labels: readonly string[];
  readonly links: readonly Link[];
  readonly items: readonly Item[];
  /** Alerts that are not among the items. */
  readonly moreCount: number;
  readonly commands: readonly Command[];
  /** Who may run them and where. */
  readonly commandsFor: string;
  /** Who sent it, to whom and when. */
  readonly closing: string;
  readonly home: string | null;
}

export interface Section {
  readonly title: string;
  /** May have line breaks. */
  readonly text: string;
}

export interface Fact {
  readonly name: string;
  readonly value: string;
}

export interface Link {
  readonly text: string;
  /** As of `toWebAddress`. */
  readonly href: string;
}

/** One alert. */
export interface Item {
  readonly word: string;
  readonly tone: Tone;
  readonly name: string;
  readonly id: number;
  /** Null where the headline, or what all have in common, says it. */
  readonly summary: string | null;
  /** May have line breaks. */
  readonly description: string | null;
  readonly facts: readonly Fact[];
  readonly labels: readonly string[];
  readonly notes: readonly string[];
  readonly links: readonly Link[];
}

/** Something to do, in SQL. It holds nothing of the data but numbers, so that it may be copied without a look. */
export interface Command {
  readonly what: string;
  readonly sql: string;
}

const REPETITION = "This may be a repetition: an earlier attempt ended without an answer.";

/** Says in words what a notification has to say, each time in as much detail as is asked for. */
export function createOutliner(message: Message): (detail: Detail) => Outline {
  const { payload, at, channel, timeZone, isTest, mayBeRepeated, externalUrl } = message;
  const teller = createTimeTeller(timeZone, at);
  const headline = tellHeadline(payload);
  const remarks = [
    ...isTest ? ["This is a test: nothing has happened."] : [],
    ...mayBeRepeated ? [REPETITION] : [],
  ];
  // Alerts about alerting itself have none.
  const hasRoute = payload.type === "alerts" && !isBlank(payload.route);
  const route = hasRoute ? `, route ${toLine(payload.route, 200)}` : "";
  const receiver = toLine(nameOf(channel, "a channel"), 100);
  const closing = `Sent by pgvigil to ${receiver}${route}, at ${teller.tellInstant(at)}.`;
  const home = toWebAddress(externalUrl);
  return (detail) => {
    const told = payload.type === "alerts"
      ? tellAlerts(payload, teller, detail, at)
      : payload.type === "incident"
      ? tellIncident(payload, teller, detail, at)
      : tellHeartbeat(payload, detail);
    const all = [...remarks, ...told.remarks ?? []];
    return { ...NOTHING, ...told, headline, remarks: all, closing, home };
  };
}

const NOTHING = {
  ...{ sections: [], facts: [], labels: [], links: [], items: [], moreCount: 0, commands: [] },
  commandsFor: "For admins, in the SQL editor:",
} satisfies Partial<Outline>;

function tellAlerts(
  payload: AlertsPayload,
  teller: TimeTeller,
  detail: Detail,
  now: Date,
): Partial<Outline> {
  const { alerts, firing_count, resolved_count } = payload;
  const isAlone = isOfOne(payload);
  const common: Common = isAlone ? { labels: {}, annotations: {}, runbook: null } : {
    labels: payload.common_labels,
    annotations: payload.common_annotations,
    runbook: commonRunbook(alerts),
  };
  const { summary, description } = textsOf(common.annotations, detail);
  const { links, facts } = tellRunbook(common.runbook, detail);
  const items = alerts.slice(0, detail.itemCount).map((alert) =>
    tellItem(alert, isAlone, common, teller, detail, now)
  );
  return {
    remarks: tellBecause(payload),
    sections: [
      ...summary === null ? [] : [{ title: "Summary", text: summary }],
      ...description === null ? [] : [{ title: "Description", text: description }],
    ],
    facts: [...facts, ...tellAnnotations(common.annotations, {}, detail)],
    labels: tellLabels(common.labels, saidByAll(alerts), detail),
    links,
    items,
    moreCount: Math.max(0, firing_count + resolved_count - items.length),
    commands: tellCommands(payload),
    ...!isAlone && { commandsFor: "For admins, in the SQL editor, with the number of an alert:" },
  };
}

function tellBecause({ because, firing_count, acknowledged_by }: AlertsPayload): string[] {
  if (firing_count === 0) return [];
  const acknowledged = acknowledged_by === null
    ? []
    : [`Acknowledged by ${nameOf(toLine(acknowledged_by, 200), "somebody")}.`];
  if (because === "repeated") return ["Said again because it still fires.", ...acknowledged];
  if (because === "changed") return ["Changed since it was last told.", ...acknowledged];
  return acknowledged;
}

/** Of the first that fires; of others a reader puts in their numbers. */
function tellCommands({ alerts, acknowledged_by }: AlertsPayload): Command[] {
  const firing = alerts.find(({ status }) => status === "firing");
  if (firing === undefined) return [];
  const { alert_id: id } = firing;
  return [
    ...acknowledged_by !== null ? [] : [{
      what: `Acknowledge #${id}`,
      sql: `select monitor.acknowledge_alert(${id}, 'looking into it');`,
    }],
    {
      what: `Silence #${id} for 2 hours`,
      sql: "select monitor.silence_alerts(jsonb_agg(jsonb_build_object(" +
        "'name', label.key, 'op', '=', 'value', label.value)), now() + interval '2 hours', 'deploying') " +
        `from monitor.system_alerts, jsonb_each_text(labels) as label where alert_id = ${id};`,
    },
  ];
}

/** Labels of which each alert says the value beside its labels, all of them the same. */
function saidByAll(alerts: readonly ToldAlert[]): Readonly<Record<string, string>> {
  const [names, severities] = [
    alerts.map(({ name }) => name),
    alerts.map(({ severity }) => severity),
  ];
  return {
    ...new Set(names).size === 1 && { alertname: names[0]! },
    ...new Set(severities).size === 1 && { severity: severities[0]! },
  };
}

/** What is said once for all. */
interface Common {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly runbook: string | null;
}

function tellItem(
  alert: ToldAlert,
  isAlone: boolean,
  common: Common,
  teller: TimeTeller,
  detail: Detail,
  now: Date,
): Item {
  const { status, severity, value, occurrences, source } = alert;
  const isFiring = status === "firing";
  const { summary, description } = textsOf(without(alert.annotations, common.annotations), detail);
  const runbook = runbookOf(alert);
  const { links, facts } = tellRunbook(runbook === common.runbook ? null : runbook, detail);
  const name = toLine(nameOf(alert.name, "(no name)"), detail.nameLength);
  return {
    word: isFiring ? severity.toUpperCase() : "RESOLVED",
    tone: isFiring ? severity : "good",
    name,
    id: alert.alert_id,
    // Of a single one it is the headline.
    summary: isAlone ? null : summary,
    description,
    facts: [
      tellSpan(alert, teller, now),
      ...isFiring ? [] : [{ name: "Severity", value: severity }],
      ...value === null ? [] : [{ name: "Value", value: tellValue(value, detail) }],
      ...occurrences > 1 ? [{ name: "Fired", value: `${occurrences} times` }] : [],
      ...source === "rule" ? [] : [{ name: "Source", value: SOURCES[source] }],
      ...facts,
      ...tellAnnotations(alert.annotations, common.annotations, detail),
    ],
    labels: tellLabels(alert.labels, { ...common.labels, alertname: alert.name, severity }, detail),
    notes: listed(alert.notes.map((note) => toLine(note, detail.textLength)), detail),
    links,
  };
}

const SOURCES = { anomaly: "anomaly detection", job: "watch over jobs", health: "health check" };

function tellSpan(
  { status, fired_at, resolved_at }: ToldAlert,
  teller: TimeTeller,
  now: Date,
): Fact {
  const from = new Date(fired_at);
  if (status === "firing") return { name: "Since", value: teller.tellSince(from) };
  return tellLasted(from, resolved_at === null ? now : new Date(resolved_at), teller);
}

function tellLasted(from: Date, until: Date, { tellInstant }: TimeTeller): Fact {
  const lasted = tellDuration(until.getTime() - from.getTime());
  return { name: "Lasted", value: `${lasted}, ${tellInstant(from)} to ${tellInstant(until)}` };
}

/** A number of six digits, or all that are whole; what is none, or too large or small to read, as it is. */
function tellValue(value: string, { nameLength }: Detail): string {
  const number = Number(value);
  const isOrdinary = value.trim() !== "" && Math.abs(number) < 1e15 &&
    (number === 0 || Math.abs(number) >= 1e-4);
  if (!isOrdinary) return toLine(value, nameLength);
  return formatDecimal(Math.abs(number) < 1e6 ? Number(number.toPrecision(6)) : Math.round(number));
}

function textsOf(
  annotations: Readonly<Record<string, string>>,
  { textLength }: Detail,
): { summary: string | null; description: string | null } {
  const summary = toLine(annotations["summary"] ?? "", textLength);
  const description = toLines(annotations["description"] ?? "", textLength);
  return {
    summary: isBlank(summary) ? null : summary,
    description: isBlank(description) || description === summary ? null : description,
  };
}

/** Annotations that are shown elsewhere, or are instructions to pgvigil. */
const isTold = (name: string) =>
  ["summary", "description", "runbook_url"].includes(name) || name.startsWith("pgvigil_");

function tellAnnotations(
  annotations: Readonly<Record<string, string>>,
  common: Readonly<Record<string, string>>,
  { pairCount, nameLength, textLength }: Detail,
): Fact[] {
  const own = without(annotations, common);
  return Object.keys(own).sort().filter((name) => !isTold(name) && !isBlank(own[name]!))
    .slice(0, pairCount)
    .map((name) => ({
      name: toLine(name, nameLength),
      value: toLine(own[name]!, textLength),
    }));
}

function tellLabels(
  labels: Readonly<Record<string, string>>,
  common: Readonly<Record<string, string>>,
  detail: Detail,
): string[] {
  const own = without(labels, common);
  return listed(
    Object.keys(own).sort(),
    detail,
    (name) => formatTextLabel(name, own[name]!, detail.nameLength),
  );
}

/** What is not the same in both. */
function without(
  texts: Readonly<Record<string, string>>,
  others: Readonly<Record<string, string>>,
): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(texts).filter(([name, text]) => others[name] !== text),
  );
}

/** As many as may be, then how many there are besides. */
function listed(
  texts: readonly string[],
  { pairCount }: Detail,
  format: (text: string) => string = (text) => text,
): string[] {
  const shown = texts.slice(0, pairCount).map(format).filter((text) => !isBlank(text));
  const rest = texts.length - Math.min(texts.length, pairCount);
  return rest === 0 ? shown : [...shown, `and ${rest} more`];
}

function runbookOf({ runbook_url, annotations }: ToldAlert): string | null {
  const runbook = runbook_url ?? annotations["runbook_url"] ?? "";
  return isBlank(runbook) ? null : runbook;
}

/** That of all, null if not all have one, and the same. */
function commonRunbook(alerts: readonly ToldAlert[]): string | null {
  const runbooks = new Set(alerts.map(runbookOf));
  return runbooks.size === 1 ? [...runbooks][0]! : null;
}

/** A link if it may be one; else it is shown as it is written. */
function tellRunbook(
  runbook: string | null,
  { nameLength }: Detail,
): { links: readonly Link[]; facts: readonly Fact[] } {
  if (runbook === null || isBlank(runbook)) return { links: [], facts: [] };
  const href = toWebAddress(runbook);
  return href === null
    ? { links: [], facts: [{ name: "Runbook", value: toLine(runbook, nameLength) }] }
    : { links: [{ text: "Runbook", href }], facts: [] };
}

function tellIncident(
  payload: IncidentPayload,
  teller: TimeTeller,
  detail: Detail,
  now: Date,
): Partial<Outline> {
  const { incident_id: id, message, severity, state, started_at, resolved_at } = payload;
  const { links, facts } = tellRunbook(payload.runbook_url, detail);
  const write = (title: string, text: string | null): Section => {
    const lines = toLines(text ?? "", detail.textLength);
    return { title, text: isBlank(lines) ? "Not written yet." : lines };
  };
  const list = (names: readonly string[], instead: string) => {
    const lines = names.map((name) => toLine(name, detail.nameLength));
    return listed(lines.filter((name) => !isBlank(name)), detail).join(", ") || instead;
  };
  const due = (name: string, at: string | null): Fact[] =>
    at === null ? [] : [{ name, value: teller.tellDue(new Date(at)) }];

  const started = new Date(started_at);
  const affected = { name: "Affected", value: list(payload.affected_components, "not known yet") };
  const commander = {
    name: "Commander",
    value: toLine(nameOf(payload.commander ?? "", "nobody yet"), detail.nameLength),
  };
  const since = { name: "Since", value: teller.tellSince(started) };
  const dues = [
    // Null once somebody has responded.
    ...due("Response due", payload.response_due_at),
    ...due("Next update", payload.next_update_due_at),
  ];
  const alerts = payload.alerts.length === 0
    ? []
    : [{ name: "Alerts", value: list(payload.alerts, "(no name)") }];
  const standing = [
    { name: "Severity", value: severity },
    { name: "State", value: state },
    affected,
    since,
    commander,
    ...dues,
    ...alerts,
    ...facts,
  ];
  const commands = tellIncidentCommands(payload);

  switch (message) {
    case "alert":
      return {
        remarks: [`Initial alert of incident ${id}.`],
        sections: [write("What happened", payload.text)],
        facts: standing,
        links,
        commands,
      };
    case "update":
      return {
        remarks: [`Status update of incident ${id}.`],
        sections: [write("What is new", payload.text)],
        facts: standing,
        links,
      };
    case "escalation":
      return {
        remarks: [`Escalation of incident ${id}, level ${payload.escalation_level} of 3.`],
        // It says who answers at that level: a project may call them otherwise.
        sections: [write("Missed deadline", payload.text)],
        facts: standing,
        links,
        commands,
      };
    case "resolution":
      return {
        remarks: [`Resolution of incident ${id}.`],
        sections: [
          write("Summary", payload.text),
          write("Root cause", payload.root_cause),
          write("Fix", payload.fix),
          write("Prevention", payload.prevention),
        ],
        facts: [
          { name: "Severity", value: severity },
          tellLasted(started, resolved_at === null ? now : new Date(resolved_at), teller),
          affected,
          commander,
          {
            name: "Post-mortem",
            value: payload.post_mortem_on === null
              ? "none planned"
              : tellDate(payload.post_mortem_on),
          },
          ...alerts,
          ...facts,
        ],
        links,
      };
  }
}

/** As long as nobody has responded, or leads. */
function tellIncidentCommands(
  { incident_id: id, response_due_at, commander }: IncidentPayload,
): Command[] {
  return [
    ...response_due_at === null ? [] : [{
      what: `Acknowledge incident ${id}`,
      sql: `select monitor.acknowledge_incident(${id});`,
    }],
    ...!isBlank(commander ?? "") ? [] : [{
      what: `Lead incident ${id}`,
      sql: `select monitor.assign_commander(${id}, 'your name');`,
    }],
  ];
}

function tellHeartbeat({ reason }: HeartbeatPayload, detail: Detail): Partial<Outline> {
  const text = toLines(reason, detail.textLength);
  // A single line is in the headline.
  return { sections: text.includes("\n") ? [{ title: "Reason", text }] : [] };
}
