import { DAY } from "./durations.ts";
import { SLOT_MS } from "./day-profile.ts";
import type { Forecast } from "./detector.ts";
import type { SeriesMemory } from "./series-memory.ts";
import { EXPERTS, type Tuning } from "./tuning.ts";

/** Half an hour: as fine as a chart of a day can show, and small enough to be written every two hours. */
const STEP_MS = 2 * SLOT_MS;

const JUMP = EXPERTS.indexOf("jump");
const LEVEL6 = EXPERTS.indexOf("level6");

/**
 * How far above and below the expectation a single value, and the mean of six, come once a week by chance. No series is
 * believed to be calmer than `usualFloorRatio` of its level.
 */
export function bandReach(
  memory: SeriesMemory,
  usualFloorRatio: number,
): {
  readonly up: number;
  readonly down: number;
  readonly levelUp: number;
  readonly levelDown: number;
} {
  const floor = usualFloorRatio * Math.abs(memory.mean);
  const jump = Math.max(memory.usual[JUMP]!, floor);
  const level = Math.max(memory.usual[LEVEL6]!, floor / 2);
  const levelUp = memory.levelUp * level;
  const levelDown = memory.levelDown * level;
  return {
    up: Math.max(memory.jumpUp * jump, levelUp),
    down: Math.max(memory.jumpDown * jump, levelDown),
    levelUp,
    levelDown,
  };
}

/**
 * What is expected of the coming day and was expected of the last one, as known at `at`, in ms. Each step rests on the
 * days before the day it is in, so that what was to be expected is not what came.
 *
 * Until there are two such days the present level is expected of the coming hours, and nothing of the past ones.
 */
export function forecastBand(
  memory: SeriesMemory,
  at: number,
  { usualFloorRatio }: Tuning,
): Forecast {
  const { profile } = memory;
  const { up, down } = bandReach(memory, usualFloorRatio);
  const now = Math.floor(at / STEP_MS) * STEP_MS;
  const from = now - DAY;
  const reach = Math.max(1, Math.ceil(memory.cadence / SLOT_MS));
  const expected: (number | null)[] = [];
  const lower: (number | null)[] = [];
  const upper: (number | null)[] = [];
  for (let step = from; step < now + DAY; step += STEP_MS) {
    const range = profile.rangeAt(step + SLOT_MS, reach);
    if (range === null && step < now) {
      expected.push(null);
      lower.push(null);
      upper.push(null);
      continue;
    }
    const level = memory.baseline6;
    const { low, middle, high } = range ?? { low: level, middle: level, high: level };
    expected.push(round(middle));
    lower.push(round(low - down));
    upper.push(round(high + up));
  }
  return { from, stepMs: STEP_MS, expected, lower, upper };
}

/** Five digits are more than a chart shows. */
function round(value: number): number {
  return Number(value.toPrecision(5));
}
