import { fromBinary } from "@bufbuild/protobuf";
import { base64Encode } from "@bufbuild/protobuf/wire";
import { BytesCache } from "./bytes-cache.ts";
import { IngestError } from "./ingest-error.ts";
import { type AnyValue, KeyValueSchema } from "./otlp_pb.ts";
import { toLabelName } from "./prometheus-names.ts";
import {
  cutText,
  LABEL_NAME_LIMIT,
  LABEL_VALUE_LIMIT,
  LABELS_LIMIT,
  REASONS,
  refuseLabels,
  toStorableText,
} from "./sample-grammar.ts";

/** An attribute: its key as sent, its value as text. */
export interface Attribute {
  readonly key: string;
  /** Its key as the name of a label. */
  readonly name: string;
  /** "" for none. Fit for Postgres. */
  readonly text: string;
}

/** Labels that others than the attributes of a point may set, by name; "" where they do not. */
export interface SpecialLabels {
  readonly job: string;
  readonly instance: string;
  readonly le: string;
  readonly quantile: string;
}

/** Labels of a series, and what tells it from the others of its metric. */
export interface SeriesLabels {
  readonly labels: Readonly<Record<string, string>>;
  /** The same for the same labels, and only for them. */
  readonly key: string;
  /** How many there are. */
  readonly count: number;
}

/** Labels that the attributes of a point come to. */
export class PointLabels {
  readonly special: SpecialLabels;
  readonly #labels: Readonly<Record<string, string>>;
  readonly #key: string;
  #last: { job: string; instance: string; series: SeriesLabels } | null = null;

  constructor(labels: ReadonlyMap<string, string>) {
    const others = new Map(labels);
    const take = (name: string) => {
      const value = others.get(name) ?? "";
      others.delete(name);
      return value;
    };
    this.special = {
      job: take("job"),
      instance: take("instance"),
      le: take("le"),
      quantile: take("quantile"),
    };
    this.#labels = Object.fromEntries(others);
    // No value has a NUL left in it.
    this.#key = Array.from(others, ([name, value]) => `${name}=${value}\0`).join("");
  }

  /** With what the source says of itself, before what the point says. Kept: the next point is of the same source. */
  of(job: string, instance: string): SeriesLabels {
    const last = this.#last;
    if (last !== null && last.job === job && last.instance === instance) return last.series;
    const series = this.build({
      job: job || this.special.job,
      instance: instance || this.special.instance,
      le: this.special.le,
      quantile: this.special.quantile,
    });
    this.#last = { job, instance, series };
    return series;
  }

  /** With all special labels as given. */
  build({ job, instance, le, quantile }: SpecialLabels): SeriesLabels {
    const labels: Record<string, string> = { ...this.#labels };
    if (job !== "") labels.job = job;
    if (instance !== "") labels.instance = instance;
    if (le !== "") labels.le = le;
    if (quantile !== "") labels.quantile = quantile;
    return {
      labels,
      key: `${job}\0${instance}\0${le}\0${quantile}\0${this.#key}`,
      count: Object.keys(labels).length,
    };
  }
}

/** No value that is not too long takes more bytes: four a character, or two for each `null,` of a list. */
const ATTRIBUTE_BYTES_LIMIT = 32_768;

/** What a cache of either kind may keep: some 25,000 sets of attributes, with their labels. */
const CACHE_BYTES_LIMIT = 8 * 2 ** 20;

/**
 * What attributes come to: a series sends the same ones each time, and many series have one in common. Bounded; may be
 * shared by any number of requests.
 */
export class AttributeCache {
  readonly #sets = new BytesCache<PointLabels | string>(CACHE_BYTES_LIMIT);
  readonly #attributes = new BytesCache<Attribute>(CACHE_BYTES_LIMIT);

  /** Labels for the attributes of a point, or why they are refused. @throws {IngestError} if they are malformed. */
  read(attributes: readonly Uint8Array[]): PointLabels | string {
    return this.#sets.get(attributes, (parts) => {
      if (parts.some(({ length }) => length > ATTRIBUTE_BYTES_LIMIT)) {
        return REASONS.longLabelValue;
      }
      return toPointLabels(parts.map((part) => this.#attributes.get([part], readOne)));
    });
  }
}

/** Decodes an attribute. @throws {IngestError} if it is none. */
export function readAttribute(bytes: Uint8Array): Attribute {
  try {
    const { key, value } = fromBinary(KeyValueSchema, bytes, { readUnknownFields: false });
    return { key, name: toLabelName(key), text: toStorableText(toText(value)) };
  } catch (cause) {
    throw new IngestError("malformed", "Cannot read the body: an attribute is malformed", {
      cause,
    });
  }
}

function readOne([bytes]: readonly Uint8Array[]): Attribute {
  return readAttribute(bytes!);
}

/**
 * Labels by name, sorted, of attributes that have a value. Where several come to one name, their values are joined
 * with ";" in the order of their keys.
 */
export function toLabels(attributes: readonly Attribute[]): Map<string, string> {
  const present = attributes.filter(({ text }) => text !== "").sort((a, b) =>
    compare(a.name, b.name) || compare(a.key, b.key)
  );
  const labels = new Map<string, string>();
  for (const { name, text } of present) {
    const other = labels.get(name);
    labels.set(name, other === undefined ? text : `${other};${text}`);
  }
  return labels;
}

function toPointLabels(attributes: readonly Attribute[]): PointLabels | string {
  const labels = toLabels(attributes);
  if (labels.has("")) return "an attribute has no key";
  return refuseLabels(labels) ?? new PointLabels(labels);
}

/**
 * As many of the labels as a series may have, in their order, values cut to what one may be: for labels that inform
 * and do not identify.
 */
export function toFittingLabels(labels: Iterable<readonly [string, string]>): Map<string, string> {
  const fitting = new Map<string, string>();
  for (const [name, value] of labels) {
    if (fitting.size === LABELS_LIMIT) break;
    if (name === "" || name.length > LABEL_NAME_LIMIT) continue;
    fitting.set(name, cutText(value, LABEL_VALUE_LIMIT));
  }
  return fitting;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** A value as text: lists and maps as JSON, bytes in base64. */
function toText({ value }: Pick<AnyValue, "value"> = { value: { case: undefined } }): string {
  switch (value.case) {
    case undefined:
      return "";
    case "stringValue":
      return value.value;
    case "bytesValue":
      return base64Encode(value.value);
    case "arrayValue":
    case "kvlistValue":
      return toJson({ value });
    default:
      return String(value.value);
  }
}

function toJson({ value }: Pick<AnyValue, "value"> = { value: { case: undefined } }): string {
  switch (value.case) {
    case undefined:
      return "null";
    case "arrayValue":
      return `[${value.value.values.map((item) => toJson(item)).join(",")}]`;
    case "kvlistValue":
      return `{${
        value.value.values.map((item) => `${JSON.stringify(item.key)}:${toJson(item.value)}`)
          .join(",")
      }}`;
    case "boolValue":
    case "intValue":
      return String(value.value);
    case "doubleValue":
      return Number.isFinite(value.value) ? String(value.value) : `"${value.value}"`;
    case "bytesValue":
      return JSON.stringify(base64Encode(value.value));
    case "stringValue":
      return JSON.stringify(value.value);
  }
}
