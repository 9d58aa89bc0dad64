import type { DetectionSettings } from "./detector.ts";

/** What an operator may leave open: `auto` and null are inferred from unit and kind. */
export interface GivenSettings {
  readonly direction: "auto" | DetectionSettings["direction"];
  readonly minimumChange: number | null;
  readonly minimumChangeRatio: number | null;
}

/** What decides about them, in the words of the registry: `seconds`, `bytes`, `percent`, … */
export interface MetricNature {
  readonly unit: string;
  readonly kind: "gauge" | "counter";
}

/** What {@link inferSettings} answers. */
export type InferredSettings = Pick<
  DetectionSettings,
  "direction" | "minimumChange" | "minimumChangeRatio"
>;

/** Parts of a whole move little and their share of a share means nothing: these look at points only. */
const SHARES = new Map([["percent", 1], ["ratio", 0.01]]);

/** 5 ms, which no person feels. */
const DURATIONS = new Map([
  ["nanoseconds", 5e6],
  ["microseconds", 5000],
  ["milliseconds", 5],
  ["seconds", 0.005],
  ["minutes", 0.005 / 60],
  ["hours", 0.005 / 3600],
  ["days", 0.005 / 86_400],
]);

/** 4 KiB, a page. */
const SIZES = new Map([
  ["bytes", 4096],
  ["kibibytes", 4],
  ["mebibytes", 4 / 1024],
  ["gibibytes", 4 / 1024 ** 2],
  ["tebibytes", 4 / 1024 ** 3],
  ["kilobytes", 4.096],
  ["megabytes", 4.096e-3],
  ["gigabytes", 4.096e-6],
  ["terabytes", 4.096e-9],
]);

/** Of everything but shares. */
const SMALLEST_RATIO = 0.02;

/**
 * Fills in what nobody has decided; what somebody has stays as it is, a 0 included.
 *
 * | Unit                        | Direction | Smallest change                              |
 * | --------------------------- | --------- | -------------------------------------------- |
 * | a duration, as a gauge      | up        | 5 ms and 2 %: faster or sooner is no trouble |
 * | bytes and their multiples   | both      | 4 KiB (a counter: a second) and 2 %          |
 * | percent, ratio              | both      | 1 point: high or low is bad, nobody knows    |
 * | count, as a gauge           | both      | 1 and 2 %: a fraction of a thing is noise    |
 * | any other; other counters   | both      | 2 %: the rate of rare events is small        |
 */
export function inferSettings(given: GivenSettings, nature: MetricNature): InferredSettings {
  const { direction, minimumChange, minimumChangeRatio } = given;
  return {
    direction: direction === "auto" ? inferDirection(nature) : direction,
    minimumChange: minimumChange ?? inferMinimumChange(nature),
    minimumChangeRatio: minimumChangeRatio ?? (SHARES.has(nature.unit) ? 0 : SMALLEST_RATIO),
  };
}

function inferDirection({ unit, kind }: MetricNature): DetectionSettings["direction"] {
  return kind === "gauge" && DURATIONS.has(unit) ? "up" : "both";
}

function inferMinimumChange({ unit, kind }: MetricNature): number {
  if (SIZES.has(unit)) return SIZES.get(unit)!;
  if (kind === "counter") return 0;
  return SHARES.get(unit) ?? DURATIONS.get(unit) ?? (unit === "count" ? 1 : 0);
}
