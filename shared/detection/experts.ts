import { DAY } from "./durations.ts";
import { modulo, PROFILE_DAYS, SLOT_MS } from "./day-profile.ts";
import { UNKNOWN_RARITY } from "./largest-values.ts";
import { BLOCK_COUNT, RECENT_COUNT, type SeriesMemory } from "./series-memory.ts";
import { type ExpertName, EXPERTS, type Tuning } from "./tuning.ts";

const WEEK = 7 * DAY;

/** A sample made comparable: the value of a gauge, the rate per second of a counter. `at` in ms. */
export interface Reading {
  readonly at: number;
  readonly value: number;
}

const JUMP = EXPERTS.indexOf("jump");
const STEP = EXPERTS.indexOf("step");
const LEVEL6 = EXPERTS.indexOf("level6");
const LEVEL24 = EXPERTS.indexOf("level24");
const TIME_OF_DAY = EXPERTS.indexOf("timeOfDay");
const DAY_SO_FAR = EXPERTS.indexOf("daySoFar");
const VARIANCE = EXPERTS.indexOf("variance");
const FLAT = EXPERTS.indexOf("flat");
const USUAL_JUMP = EXPERTS.indexOf("usualJump");

/** Experts that measure a distance in usual changes of it. */
const DISTANCES = [JUMP, STEP, LEVEL6, LEVEL24, TIME_OF_DAY, DAY_SO_FAR];

/** Over how many readings each expert looks. */
export const SCALE_READINGS: Readonly<Record<ExpertName, number>> = {
  jump: 1,
  step: 2,
  level6: 6,
  level24: 24,
  timeOfDay: 6,
  daySoFar: 96,
  variance: 12,
  flat: 1,
  usualJump: 1,
};

/** Readings that an expert has to have measured before its largest values are learned. */
const SETTLING_COUNT = 20;

/** Times that days have to have differed before a difference is compared with the usual one. */
const COMPARED_COUNT = 6;

/** Distance where the usual one is zero: any change of what never changed. */
const OUT_OF_NOTHING = 40;

const LARGEST_DISTANCE = 1e6;

/** Smallest slope of a tail, in usual changes; of the logarithm of a ratio of changes; of equal readings in a row. */
const SMALLEST_SLOPE = { distance: 0.3, variance: 0.1, flat: 1 };

/** Readings of {@link SeriesMemory.shortChange}, and of mean and deviation. */
const SHORT_SPAN = 12;
const MEAN_SPAN = 100;

/** A deviation counts as at most so many mean ones: one absurd value must not hide what comes after it. */
const MEAN_CLIP = 100;

/** A change counts as at most so many usual ones among the last few: one absurd value must be forgotten in an hour. */
const SHORT_CLIP = 1000;

/** Largest usual change at once, in usual changes. */
const CHANGE_CLIP = 8;

/** After a gap so many readings have to come before they are compared with each other again. */
const AFTER_GAP_COUNT = 6;

/**
 * The experts, each with its own view of a reading, and what they say together.
 *
 * - `jump`: against the median of the three readings before. `step`: two readings in a row against the three before.
 * - `level6`, `level24`: mean of so many readings against the baseline before them.
 * - `timeOfDay`, `daySoFar`: the last 6 and 96 readings against the nearest of the seven days before, at that time of day.
 * - `variance`: change from reading to reading against the usual one, more or less of it. `flat`: equal readings in a row.
 * - `usualJump`: deviation from the mean of about a hundred readings against the mean deviation; it never gets used to anything.
 *
 * Each distance becomes a rarity by the largest values of its kind that were seen, see {@link LargestValues.rarity}. The
 * rarities are capped and added up: two experts that are surprised count for more than one that is very surprised.
 *
 * One object serves all series, one after the other; {@link begin} tells it that another one comes.
 */
export class Experts {
  readonly #tuning: Tuning;
  readonly #weights: readonly number[];
  readonly #measured = new Float64Array(EXPERTS.length);
  readonly #distances = new Float64Array(EXPERTS.length);
  readonly #sides = new Uint8Array(EXPERTS.length);
  readonly #lows = new Float64Array(PROFILE_DAYS);
  readonly #highs = new Float64Array(PROFILE_DAYS);
  readonly #dayMeans = new Float64Array(PROFILE_DAYS);
  #slotAt = NaN;
  #dayCount = 0;
  #comparableDays = 0;
  /** Rarity of each expert for the newest reading, in nats. */
  readonly rarities = new Float64Array(EXPERTS.length);
  /** The sum of what they say, in nats ≥ 0. */
  evidence = 0;
  /** Expert times two, plus one for downwards, of the one that says most. */
  quantity = 0;

  constructor(tuning: Tuning) {
    this.#tuning = tuning;
    this.#weights = EXPERTS.map((name) => tuning.experts[name]);
  }

  /** Forgets what was looked up of earlier days: another series comes, or its past has changed. */
  begin(): void {
    this.#slotAt = NaN;
  }

  /** Earlier days that the present time of day was compared with. */
  get comparedDays(): number {
    return this.#comparableDays;
  }

  /** Distance of the last six readings from the nearest of the days before at that time of day; 0 if none are known. */
  get distanceToDays(): number {
    return this.#measured[TIME_OF_DAY]!;
  }

  /** Takes a reading into the memory of the last ones, and weighs it. Nothing is learned yet. */
  weigh(memory: SeriesMemory, { at, value }: Reading): void {
    this.#measure(memory, at, value);
    const tuning = this.#tuning;
    const { largest, blockLargest } = memory;
    const weeks = Math.min(
      Math.max((at - memory.firstAt) / WEEK, tuning.shortestWeeks),
      tuning.memoryDays / 7,
    );
    const readingsPerWeek = WEEK / Math.max(memory.cadence, 1);
    const ownDeviation = memory.deviation + 0.02 * Math.abs(memory.mean);
    const floor = tuning.usualFloorRatio * Math.abs(memory.mean);
    const rarities = this.rarities;
    const distances = this.#distances;
    const sides = this.#sides;

    for (const expert of DISTANCES) {
      const measured = this.#measured[expert]!;
      const size = Math.abs(measured);
      const smallest = expert <= STEP ? floor : floor / 2;
      const usual = Math.max(memory.usual[expert]!, smallest);
      const isOutOfNothing = expert <= STEP && memory.usual[expert] === 0 && size > smallest &&
        memory.trainedCount > SETTLING_COUNT;
      const isSettled = expert < TIME_OF_DAY || memory.usualCounts[expert]! >= COMPARED_COUNT;
      const distance = isOutOfNothing
        ? OUT_OF_NOTHING
        : usual > 0 && isSettled
        ? Math.min(size / usual, LARGEST_DISTANCE)
        : 0;
      const side = measured > 0 ? 0 : 1;
      const quantity = 2 * expert + side;
      distances[expert] = distance;
      sides[expert] = side;
      rarities[expert] = distance === 0 ? UNKNOWN_RARITY : largest.rarity(
        quantity,
        distance <= blockLargest[quantity]! ? 0 : distance,
        weeks,
        tuning.tailSlopeRatio,
        SMALLEST_SLOPE.distance,
      );
    }

    const variance = this.#measured[VARIANCE]!;
    sides[VARIANCE] = variance > 0 ? 0 : 1;
    distances[VARIANCE] = Math.abs(variance);
    const varianceQuantity = 2 * VARIANCE + sides[VARIANCE]!;
    rarities[VARIANCE] = variance === 0 ? UNKNOWN_RARITY : largest.rarity(
      varianceQuantity,
      Math.abs(variance) <= blockLargest[varianceQuantity]! ? 0 : Math.abs(variance),
      weeks,
      0,
      SMALLEST_SLOPE.variance,
    );

    const run = memory.equalRun;
    sides[FLAT] = 0;
    distances[FLAT] = run;
    rarities[FLAT] = UNKNOWN_RARITY;
    if (run > 0) {
      const chance = (memory.equalCount + 1) / (memory.count + 1);
      const byChance = -run * Math.log(chance) - Math.log(readingsPerWeek);
      rarities[FLAT] = largest.sizes[2 * FLAT]! < 3 ? byChance : Math.min(
        byChance,
        largest.rarity(
          2 * FLAT,
          run <= blockLargest[2 * FLAT]! ? 0 : run,
          weeks,
          0.1,
          SMALLEST_SLOPE.flat,
        ),
      );
    }

    const deviation = value - memory.mean;
    const ratio = Math.abs(deviation) / (ownDeviation + 1e-12);
    sides[USUAL_JUMP] = deviation > 0 ? 0 : 1;
    rarities[USUAL_JUMP] = ratio > 0 && memory.usualCounts[JUMP]! > SETTLING_COUNT
      ? tuning.jumpPower * Math.log(Math.min(ratio, LARGEST_DISTANCE) / tuning.jumpOfWeek) -
        Math.log(readingsPerWeek / 168)
      : UNKNOWN_RARITY;

    let evidence = 0;
    let most = 0;
    this.quantity = 0;
    for (let expert = 0; expert < EXPERTS.length; expert++) {
      const said = Math.min(Math.max(rarities[expert]!, 0), tuning.expertCap);
      evidence += this.#weights[expert]! * said;
      if (said > most && this.#weights[expert]! > 0) {
        most = said;
        this.quantity = 2 * expert + sides[expert]!;
      }
    }
    this.evidence = evidence;

    const share = Math.max(1 / memory.count, 2 / (MEAN_SPAN + 1));
    const clip = ownDeviation > 0 ? MEAN_CLIP * ownDeviation : Infinity;
    memory.mean += share * Math.min(Math.max(deviation, -clip), clip);
    memory.deviation += share * (Math.min(Math.abs(deviation), clip) - memory.deviation);
  }

  /** Learns the newest reading as normal: what is usual, what is largest, and the baselines. */
  learn(memory: SeriesMemory): void {
    const { usual, usualCounts, blockLargest } = memory;
    const { usualSpan, usualClip } = this.#tuning;
    const distances = this.#distances;
    for (const expert of DISTANCES) {
      const size = Math.abs(this.#measured[expert]!);
      if (expert <= STEP || size !== 0) {
        const count = usualCounts[expert]! + 1;
        usualCounts[expert] = count;
        const known = usual[expert]!;
        const clipped = count > SETTLING_COUNT && known > 0
          ? Math.min(size, usualClip * known)
          : size;
        usual[expert]! += Math.max(1 / count, 2 / (usualSpan + 1)) * (clipped - known);
      }
      if (usualCounts[expert]! > SETTLING_COUNT) {
        const quantity = 2 * expert + this.#sides[expert]!;
        if (distances[expert]! > blockLargest[quantity]!) {
          blockLargest[quantity] = distances[expert]!;
        }
      }
    }
    for (const expert of [VARIANCE, FLAT]) {
      const quantity = 2 * expert + this.#sides[expert]!;
      if (distances[expert]! > blockLargest[quantity]!) blockLargest[quantity] = distances[expert]!;
    }

    memory.trainedCount += 1;
    const share = Math.max(1 / memory.trainedCount, 2 / (usualSpan / 2 + 1));
    const change = this.#change;
    const { usualChange } = memory;
    const clipped = memory.trainedCount > SETTLING_COUNT && usualChange > 0
      ? Math.min(change, CHANGE_CLIP * usualChange)
      : change;
    memory.usualChange += share * (clipped - usualChange);
    if (memory.equalRun > 0) memory.equalCount += 1;
    this.follow(memory);
  }

  /** Moves the baselines on by what left the scales, without learning anything else. */
  follow(memory: SeriesMemory): void {
    const { recent, blocks, count } = memory;
    const { baselineScales, usualClip, usualFloorRatio } = this.#tuning;
    const trained = Math.max(memory.trainedCount, 1);
    const newest = recent[(count - 1) % RECENT_COUNT]!;
    const shareOf = (scale: number) => Math.max(1 / trained, 2 / (baselineScales * scale + 1));
    const before6 = count > 6 ? recent[(count - 7) % RECENT_COUNT]! : newest;
    memory.baseline6 += shareOf(6) * (before6 - memory.baseline6);
    if (count % 6 !== 0) return;
    const number = count / 6 - 1;
    const blockBefore = blocks[Math.max(number - 4, 0) % BLOCK_COUNT]!;
    // A block may hold what did not train: it moves the baseline by no more than is usual.
    const most = usualClip *
      Math.max(memory.usual[LEVEL24]!, usualFloorRatio * Math.abs(memory.mean));
    const distance = blockBefore - memory.baseline24;
    memory.baseline24 += (1 - (1 - shareOf(24)) ** 6) *
      (memory.usualCounts[LEVEL24]! > SETTLING_COUNT
        ? Math.min(Math.max(distance, -most), most)
        : distance);
  }

  /** Takes the present level for the baseline of all scales. */
  rebase(memory: SeriesMemory): void {
    memory.baseline6 = meanOfRecent(memory);
    memory.baseline24 = meanOfBlocks(memory, 4);
  }

  #change = 0;

  #measure(memory: SeriesMemory, at: number, value: number): void {
    const { recent, blocks } = memory;
    const measured = this.#measured;
    measured.fill(0);
    const before = (back: number) => recent[(memory.count - back) % RECENT_COUNT]!;
    const sinceGap = memory.count - memory.gapCount;
    const previous = memory.count > 0 ? before(1) : value;
    const isFarFromGap = (readings: number) => memory.gapCount === 0 || sinceGap >= readings;
    const isComparable = sinceGap >= AFTER_GAP_COUNT;
    // Nobody saw how the level came to be what it is: it is the one to go by.
    if (memory.gapCount > 0 && sinceGap === AFTER_GAP_COUNT && memory.excursionAt === 0) {
      memory.baseline6 = meanOfRecent(memory);
      memory.baseline24 = memory.baseline6;
    }
    if (isComparable) {
      measured[JUMP] = value - middleOf(previous, before(2), before(3));
      const reference = middleOf(before(2), before(3), before(4));
      const now = value - reference;
      const then = previous - reference;
      measured[STEP] = now > 0 && then > 0
        ? Math.min(now, then)
        : now < 0 && then < 0
        ? Math.max(now, then)
        : 0;
    }
    recent[memory.count % RECENT_COUNT] = value;
    memory.count += 1;
    const { count, trainedCount } = memory;
    const mean6 = meanOfRecent(memory);
    if (count % 6 === 0) blocks[(count / 6 - 1) % BLOCK_COUNT] = mean6;
    const blockCount = Math.floor(count / 6);
    if (isComparable && trainedCount > 6) measured[LEVEL6] = mean6 - memory.baseline6;
    if (blockCount > 4 && trainedCount > 24 && isFarFromGap(24)) {
      measured[LEVEL24] = meanOfBlocks(memory, 4) - memory.baseline24;
    }
    const mean96 = blockCount >= 16 ? meanOfBlocks(memory, 16) : NaN;

    this.#change = sinceGap === 0 ? 0 : Math.abs(value - previous);
    const { usualChange } = memory;
    const most = usualChange > 0 && trainedCount > 30 ? SHORT_CLIP * usualChange : Infinity;
    memory.shortChange += (2 / (SHORT_SPAN + 1)) *
      (Math.min(this.#change, most) - memory.shortChange);
    const { shortChange } = memory;
    measured[VARIANCE] = trainedCount > 30 && shortChange + usualChange > 0
      ? Math.log(
        (shortChange + 0.05 * usualChange + 1e-300) / (1.05 * usualChange + 1e-300),
      )
      : 0;
    memory.equalRun = value === previous && count > 1 && sinceGap > 0 ? memory.equalRun + 1 : 0;

    this.#compareDays(memory, at);
    if (this.#dayCount < 2 || count <= 6) return;
    measured[TIME_OF_DAY] = this.#nearestRange(mean6);
    if (mean96 === mean96 && isFarFromGap(96)) measured[DAY_SO_FAR] = this.#nearestMean(mean96);
  }

  /** Looks up the earlier days once for each quarter of an hour. */
  #compareDays({ profile, slotCadence: cadence }: SeriesMemory, at: number): void {
    const slotAt = at - modulo(at, SLOT_MS);
    if (slotAt === this.#slotAt) return;
    this.#slotAt = slotAt;
    // The cadence as it was when this quarter of an hour began: a call may begin in the middle of it.
    this.#dayCount = profile.countDays(Math.floor(at / DAY));
    this.#comparableDays = 0;
    if (this.#dayCount < 2) return;
    const reach = Math.max(1, Math.ceil(cadence / SLOT_MS));
    profile.rangesAround(at, reach, this.#lows, this.#highs);
    for (const low of this.#lows) if (low < Infinity) this.#comparableDays += 1;
    const slotCount = Math.min(Math.max(Math.round(96 * cadence / SLOT_MS), 1), DAY / SLOT_MS);
    const filledShare = Math.min(1, SLOT_MS / Math.max(cadence, 1));
    profile.meansBefore(at, slotCount, 0.6 * slotCount * filledShare, this.#dayMeans);
  }

  #nearestRange(value: number): number {
    let nearest = Infinity;
    let count = 0;
    for (let day = 0; day < this.#lows.length; day++) {
      const low = this.#lows[day]!;
      const high = this.#highs[day]!;
      if (!(high >= low)) continue;
      count += 1;
      const distance = value > high ? value - high : value < low ? value - low : 0;
      if (Math.abs(distance) < Math.abs(nearest)) nearest = distance;
    }
    return count >= 2 ? nearest : 0;
  }

  #nearestMean(value: number): number {
    let nearest = Infinity;
    let count = 0;
    for (const mean of this.#dayMeans) {
      if (mean !== mean) continue;
      count += 1;
      if (Math.abs(value - mean) < Math.abs(nearest)) nearest = value - mean;
    }
    return count >= 2 ? nearest : 0;
  }
}

/** Mean of the last six readings at most, or of as many as there are. */
export function meanOfRecent({ recent, count }: SeriesMemory, most = 6): number {
  const length = Math.min(count, most, 6);
  let sum = 0;
  for (let back = 1; back <= length; back++) sum += recent[(count - back) % RECENT_COUNT]! / length;
  return sum;
}

/** Mean of the last blocks of six readings, or of as many as there are; of the last readings before the first block. */
export function meanOfBlocks(memory: SeriesMemory, length: number): number {
  const number = Math.floor(memory.count / 6);
  const taken = Math.min(number, length);
  if (taken === 0) return meanOfRecent(memory);
  let sum = 0;
  for (let back = 1; back <= taken; back++) {
    sum += memory.blocks[(number - back) % BLOCK_COUNT]! / taken;
  }
  return sum;
}

function middleOf(a: number, b: number, c: number): number {
  return Math.max(Math.min(a, b), Math.min(Math.max(a, b), c));
}
