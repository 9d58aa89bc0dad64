/**
 * The constants of the detector: the same for every series. None was searched for on single files; `docs/detection.md` shows how
 * little the scores move when each of them moves by 30 %.
 */
export interface Tuning {
  /** Weight (0 or 1) of each expert; for the ablation. */
  readonly experts: Readonly<Record<ExpertName, number>>;
  /** What one expert can say at most, in nats: so that no single one raises an alarm unless it may count twice. */
  readonly expertCap: number;
  /** Evidence, in nats, that makes a score of one half. */
  readonly evidenceOfHalf: number;
  /** Score from which an excursion is on: it is told if the threshold allows, and nothing trains. */
  readonly excursionScore: number;
  /** Values remembered of each expert and side: the largest of its two-hour maxima. */
  readonly largestCount: number;
  /** Days after which what was seen counts for a third. */
  readonly memoryDays: number;
  /** A memory of less than so many weeks counts as so many. */
  readonly shortestWeeks: number;
  /** Shortest slope of a tail as a share of where it begins: no series is believed to be bounded. */
  readonly tailSlopeRatio: number;
  /** Largest values supposed before any was seen, in usual changes. */
  readonly supposedLargest: readonly number[];
  /** Samples over which the usual change of an expert is averaged. */
  readonly usualSpan: number;
  /** A change counts as at most so many usual ones when the usual one is learned. */
  readonly usualClip: number;
  /** Smallest usual change as a share of the level: less is not believed to be a change. */
  readonly usualFloorRatio: number;
  /** Baselines average over so many times the length of their scale. */
  readonly baselineScales: number;
  /** A jump of so many mean deviations is expected once in a week of hourly data. */
  readonly jumpOfWeek: number;
  /** Power of the tail of jumps: nats for each factor e. */
  readonly jumpPower: number;
  /** Minutes, at least two samples, without news before the same series has news again. */
  readonly restMinutes: number;
  /** Minutes, at least two samples, of calm that end an excursion. */
  readonly calmMinutes: number;
  /** Days after which an excursion that lasts is compared with its own new level for further news. */
  readonly newLevelDays: number;
  /** Alarms of the same expert within a day before, from which it is regular and is learned. */
  readonly regularCount: number;
  /** What each alarm adds to the evidence of half, as a share of it; fades within {@link restDays}. */
  readonly restShare: number;
  /** As many days, or the time of 288 samples if that is shorter. */
  readonly restDays: number;
  /** What alarms of the same height add, from the second one on; fades within {@link sameDays}. */
  readonly sameShare: number;
  readonly sameDays: number;
  /** Two peaks are of the same height if they differ by less than this share of it. */
  readonly sameRatio: number;
  /** Growth of the evidence that makes an excursion news again: before it was strong, and after. */
  readonly growthFactor: number;
  readonly repeatFactor: number;
}

/** What is looked at, each in its own way; see `experts.ts`. */
export const EXPERTS = [
  "jump",
  "step",
  "level6",
  "level24",
  "timeOfDay",
  "daySoFar",
  "variance",
  "flat",
  "usualJump",
] as const;

export type ExpertName = typeof EXPERTS[number];

export const TUNING: Tuning = {
  experts: {
    jump: 1,
    step: 1,
    level6: 1,
    level24: 1,
    timeOfDay: 1,
    daySoFar: 1,
    variance: 1.5,
    flat: 1,
    usualJump: 1,
  },
  expertCap: 7,
  evidenceOfHalf: 8,
  excursionScore: 0.45,
  largestCount: 24,
  memoryDays: 21,
  shortestWeeks: 0.03,
  tailSlopeRatio: 0.15,
  supposedLargest: [3, 2.5, 2],
  usualSpan: 2000,
  usualClip: 5,
  usualFloorRatio: 0.07,
  baselineScales: 8,
  jumpOfWeek: 2,
  jumpPower: 3,
  restMinutes: 60,
  calmMinutes: 13,
  newLevelDays: 0.15,
  regularCount: 2,
  restShare: 0.3,
  restDays: 0.5,
  sameShare: 0.5,
  sameDays: 7,
  sameRatio: 0.15,
  growthFactor: 1.1,
  repeatFactor: 1.5,
};
