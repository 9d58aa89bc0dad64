import {
  type Band,
  type Call,
  dropExcursion,
  eventOf,
  limit,
  type Run,
  smallestChange,
} from "./call.ts";
import { type AnomalyKind, DEFAULT_THRESHOLD, type DetectionInput } from "./detector.ts";
import { DAY, HOUR, MINUTE } from "./durations.ts";
import { meanOfBlocks, meanOfRecent, type Reading } from "./experts.ts";
import type { AnomalyEnding } from "./explain-anomaly.ts";
import { bandReach } from "./forecast-band.ts";
import { RECENT_COUNT, rememberAlarm, type SeriesMemory } from "./series-memory.ts";
import { type ExpertName, EXPERTS } from "./tuning.ts";

/** A level that has held for so long is the new normal; one that never settles is after a week. */
const LEVEL_SHIFT_AFTER = DAY;

const UNSETTLED_AFTER = 7 * DAY;

/** Readings that a new level needs to be one. */
const NEW_LEVEL_COUNT = 24;

/** A deploy so long before an excursion began, or after, explains it, in ms. One that is to mend it does not. */
const DEPLOY_REACH = 30 * MINUTE;

/** Readings at a new level that a deploy makes normal. */
const DEPLOY_COUNT = 6;

/** Readings from the start of an excursion in which a stronger one is told once more, and after which it is no spike. */
const GROWING_COUNT = 12;

const LASTING_COUNT = 6;

const LASTING_SPAN = 30 * MINUTE;

/** Score of what comes too soon after other news, and of what is not news at all: below every threshold that tells. */
const REST_SCORE = 0.19;

/** Experts whose excursion is over when the value itself is back, whatever the means still say. */
const OF_VALUES: ReadonlySet<ExpertName> = new Set(["jump", "step", "level6", "usualJump"]);

/** Evidence that makes half a score: more after other news, and more for what was news at the same height before. */
export function evidenceOfHalf({ at, value }: Reading, { memory, experts, tuning }: Call): number {
  const half = tuning.evidenceOfHalf;
  if (memory.alarms.length === 0 || experts.evidence < half / 2) return half;
  const restMs = Math.min(tuning.restDays * DAY, 288 * memory.cadence);
  let rest = 0;
  let same = 0;
  for (const alarm of memory.alarms) {
    if (alarm.evidence === 0) continue;
    const age = at - alarm.at;
    rest += Math.exp(-age / restMs);
    const { firstValue, peakValue, expected } = alarm;
    const height = Math.abs(value - expected);
    const isLike = (other: number) =>
      Math.abs(value - other) <=
        tuning.sameRatio * Math.max(height, Math.abs(other - expected));
    if (isLike(firstValue) || isLike(peakValue)) same += Math.exp(-age / (tuning.sameDays * DAY));
  }
  return half * (1 + tuning.restShare * rest + tuning.sameShare * Math.max(same - 1, 0));
}

/** Whether the two days before, or the same day of the two weeks before, had as much of it at that time of day. */
export function isSameEachDay({ at, value }: Reading, { memory }: Call): boolean {
  const reach = Math.max(30 * MINUTE, 1.1 * memory.cadence);
  const wasThere = (days: number) =>
    memory.alarms.some(({ at: then, firstValue, peakValue, expected }) => {
      if (Math.abs(at - then - days * DAY) > reach) return false;
      const height = value - memory.baseline6;
      const heights = [firstValue - expected, peakValue - expected]
        .map((other) => other / height);
      return Math.max(...heights) >= 0.5 && Math.min(...heights) <= 2;
    });
  return (wasThere(1) && wasThere(2)) || (wasThere(7) && wasThere(14));
}

/** Begins or continues an excursion. Returns the score that is news. */
export function suspect(reading: Reading, band: Band, score: number, call: Call): number {
  const { memory, experts } = call;
  const isBeginning = memory.excursionAt === 0;
  const last = memory.alarms.at(-1);
  const lastEvidence = last !== undefined && last.at >= memory.excursionAt ? last.evidence : 0;
  // What was too weak to be told does not keep what follows it from being news.
  const isStronger = last !== undefined && last.evidence > 0 &&
    memory.excursionScore < DEFAULT_THRESHOLD &&
    experts.evidence > call.tuning.growthFactor * last.evidence;
  let shown = 0;
  if (isBeginning) {
    memory.excursionAt = reading.at;
    memory.excursionCount = memory.count;
    memory.excursionScore = 0;
    memory.frozenExpected = band.expected;
    const { lower, upper } = widenByRecent(band, memory);
    memory.frozenLower = lower;
    memory.frozenUpper = upper;
    memory.levelSince = 0;
  }
  if (
    (isBeginning && (isStronger || isRested(call))) || (memory.levelSince !== 0 && isRested(call))
  ) {
    shown = score;
    memory.excursionCount = memory.count;
    memory.excursionScore = score;
    noteAlarm(reading, memory.frozenExpected, experts.evidence, call);
  } else if (isBeginning) {
    shown = Math.min(score, REST_SCORE);
  } else if (
    score > memory.excursionScore &&
    (memory.excursionScore < DEFAULT_THRESHOLD ||
      memory.count - memory.excursionCount <= GROWING_COUNT) &&
    lastEvidence > 0 && experts.evidence > repeatFactor(reading.at, score, call) * lastEvidence
  ) {
    shown = score;
    memory.excursionScore = score;
    changeAlarm({ evidence: experts.evidence }, call);
  }
  const alarm = memory.alarms.at(-1);
  if (
    alarm !== undefined && alarm.at >= memory.excursionAt &&
    Math.abs(reading.value - alarm.expected) > Math.abs(alarm.peakValue - alarm.expected)
  ) changeAlarm({ peakValue: reading.value }, call);
  memory.suspiciousCount = memory.count;
  memory.calmCount = 0;
  continueRun(reading, shown, call);
  outlast(reading, call);
  return shown;
}

/**
 * By how much an excursion has to grow to be news again: a little while it was too weak to be told, not at all to be strong
 * enough, a lot in the hour after it was, and less than that later.
 */
function repeatFactor(at: number, score: number, { memory, tuning }: Call): number {
  if (memory.excursionScore < DEFAULT_THRESHOLD) {
    return score >= DEFAULT_THRESHOLD ? 1 : tuning.growthFactor;
  }
  return at - memory.excursionAt < HOUR ? 2 * tuning.repeatFactor : tuning.repeatFactor;
}

/** A band with the readings just before it: what was normal then is normal to come back to. */
function widenByRecent(
  { lower, upper }: Band,
  { recent, count }: SeriesMemory,
): { lower: number; upper: number } {
  let [low, high] = [lower, upper];
  for (let back = 2; back <= Math.min(count, RECENT_COUNT); back++) {
    const value = recent[(count - back) % RECENT_COUNT]!;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return { lower: low, upper: high };
}

/** Whether there was nothing suspicious for long enough that the next thing is news. */
export function isRested({ memory, tuning }: Call): boolean {
  const rest = Math.max(2, Math.round(tuning.restMinutes * MINUTE / Math.max(memory.cadence, 1)));
  return memory.suspiciousCount === 0 || memory.count - memory.suspiciousCount > rest;
}

export function noteAlarm(
  { at, value }: Reading,
  expected: number,
  evidence: number,
  call: Call,
): void {
  const { quantity } = call.experts;
  rememberAlarm(call.memory, {
    at,
    quantity,
    evidence,
    firstValue: value,
    peakValue: value,
    expected,
  });
  call.isMemoryDirty = true;
}

function changeAlarm(change: { evidence?: number; peakValue?: number }, call: Call): void {
  const { memory } = call;
  memory.alarms = [...memory.alarms.slice(0, -1), { ...memory.alarms.at(-1)!, ...change }];
  call.isMemoryDirty = true;
}

/**
 * Whether the values are back, whatever longer means still say: in the band of the time before the excursion, and, when that
 * has lasted, nearer to it than to the new level; or near what earlier days had at this time. The more calm readings there
 * are, the nearer their mean has to be.
 */
export function hasReturned(call: Call): boolean {
  const { memory, experts, tuning } = call;
  const count = Math.min(memory.calmCount + 1, 6);
  const mean = meanOfRecent(memory, count);
  const narrowing = (count - 1) / 5;
  const { levelUp, levelDown } = bandReach(memory, tuning.usualFloorRatio);
  const { frozenExpected, frozenLower, frozenUpper } = memory;
  const upper = frozenUpper + narrowing * Math.min(frozenExpected + levelUp - frozenUpper, 0);
  const lower = frozenLower + narrowing * Math.max(frozenExpected - levelDown - frozenLower, 0);
  const isLasting = memory.levelSince !== 0;
  const isLevel = isLasting ||
    memory.lastAt - memory.excursionAt >= NEW_LEVEL_COUNT * memory.cadence;
  const level = isLasting ? memory.level : isLevel ? meanOfBlocks(memory, 4) : NaN;
  const isNearer = !isLevel || Math.abs(mean - frozenExpected) < Math.abs(mean - level);
  if (mean >= lower && mean <= upper && isNearer) return true;
  return isLasting && experts.comparedDays >= 2 &&
    Math.abs(experts.distanceToDays) <= Math.max(levelUp, levelDown) / 2;
}

/** Whether the excursion is one of values, that ends when they are back; others end when the evidence does. */
export function isOfValues({ memory, run }: Call): boolean {
  const expert = EXPERTS[(run?.quantity ?? 0) >> 1]!;
  return OF_VALUES.has(expert) ||
    (memory.levelSince !== 0 && expert !== "variance" && expert !== "flat");
}

/** A reading while an excursion is on that is no evidence for it: enough of them end it. */
export function calmDown(reading: Reading, isBack: boolean, call: Call): void {
  const { memory, tuning } = call;
  if (isBack || !isOfValues(call)) {
    if (memory.calmCount === 0) memory.calmAt = reading.at;
    memory.calmCount += 1;
    const needed = Math.max(
      2,
      Math.round(tuning.calmMinutes * MINUTE / Math.max(memory.cadence, 1)),
    );
    if (memory.calmCount < needed) return;
    if (memory.levelSince !== 0) {
      returnTo(meanOfRecent(memory, memory.calmCount), memory);
      memory.gapCount = memory.count;
    }
    endExcursion("recovered", "calm", memory.calmAt, call);
    return;
  }
  memory.calmCount = 0;
  if (call.run !== null) {
    call.run.lastSeenAt = reading.at;
    call.run.sampleCount += 1;
  }
  outlast(reading, call);
}

/** What becomes of an excursion that goes on: its own level is watched, and at last is the new normal. */
function outlast({ at }: Reading, call: Call): void {
  const { memory, experts, input, tuning } = call;
  const level = meanOfBlocks(memory, 4);
  const isDeployed = input.deploys.some((deployedAt) =>
    Math.abs(deployedAt - memory.excursionAt) <= DEPLOY_REACH &&
    at - Math.max(deployedAt, memory.excursionAt) >= DEPLOY_COUNT * memory.cadence
  );
  if (memory.levelSince === 0) {
    const span = Math.max(tuning.newLevelDays * DAY, NEW_LEVEL_COUNT * memory.cadence);
    if (at - memory.excursionAt < span && !isDeployed) return;
    experts.rebase(memory);
    memory.levelSince = memory.excursionAt;
    memory.level = level;
  }
  const reach = Math.max(
    (memory.frozenUpper - memory.frozenLower) / 2,
    Math.abs(memory.level - memory.frozenExpected) / 2,
  );
  if (!(Math.abs(level - memory.level) <= reach)) {
    memory.level = level;
    memory.levelSince = at;
  }
  if (
    !isDeployed && at - memory.levelSince < LEVEL_SHIFT_AFTER &&
    at - memory.excursionAt < UNSETTLED_AFTER
  ) return;
  memory.profile.shift(level - memory.frozenExpected);
  experts.begin();
  experts.rebase(memory);
  memory.gapCount = memory.count;
  call.isMemoryDirty = true;
  const cause = isDeployed
    ? "deploy"
    : at - memory.levelSince >= LEVEL_SHIFT_AFTER
    ? "held"
    : "unsettled";
  endExcursion("level_shift", cause, at, call);
}

function returnTo(level: number, memory: SeriesMemory): void {
  memory.baseline6 = level;
  memory.baseline24 = level;
}

/** Ends the excursion, and tells the end of its anomaly. */
export function endExcursion(
  reason: "recovered" | "level_shift",
  cause: AnomalyEnding["cause"],
  endedAt: number,
  call: Call,
): void {
  const { run, events } = call;
  if (run?.isOpen) events.push(eventOf("close", run, call, { reason, cause, endedAt }));
  dropExcursion(call);
}

/** Whether the same expert has raised so many alarms within a day that they are part of the series; what lasts is not. */
export function isRegular(at: number, { memory, tuning }: Call): boolean {
  const newest = memory.alarms.at(-1);
  if (
    newest === undefined || memory.excursionAt === 0 ||
    at - memory.excursionAt >= Math.max(HOUR, LASTING_COUNT * memory.cadence)
  ) return false;
  const before = memory.alarms.filter((alarm) =>
    alarm !== newest && alarm.quantity === newest.quantity && at - alarm.at < 1.05 * DAY
  );
  return before.length >= tuning.regularCount;
}

/** Keeps the facts of an excursion, and opens its anomaly when the settings want it told. */
function continueRun(reading: Reading, shown: number, call: Call): void {
  const { memory, experts, events, input } = call;
  const { at, value } = reading;
  const perWeek = Math.exp(-experts.rarities[experts.quantity >> 1]!);
  call.run ??= {
    isOpen: false,
    isSilence: false,
    startedAt: memory.excursionAt,
    lastSeenAt: at,
    sampleCount: 0,
    score: 0,
    kind: "spike",
    quantity: experts.quantity,
    perWeek,
    comparedDays: experts.comparedDays,
    trainingCount: memory.trainedCount,
    trainedDays: Math.floor((at - memory.firstAt) / DAY),
    expected: memory.frozenExpected,
    lower: memory.frozenLower,
    upper: memory.frozenUpper,
    observed: value,
    cadence: memory.cadence,
  };
  const { run } = call;
  if (run.sampleCount === 0) expectOfDays(run, call);
  run.lastSeenAt = at;
  run.sampleCount += 1;
  if (shown > run.score) {
    run.score = shown;
    run.quantity = experts.quantity;
    run.perWeek = perWeek;
    run.comparedDays = experts.comparedDays;
  }
  if (Math.abs(value - run.expected) > Math.abs(run.observed - run.expected)) run.observed = value;
  run.kind = kindOf(run, value, at, call);
  if (!run.isOpen && isTold(run, input)) {
    run.isOpen = true;
    events.push(eventOf("open", run, call));
  }
}

/** What is unusual for the time of day was expected as on the nearest of the days before. */
function expectOfDays(run: Run, { memory, experts, tuning }: Call): void {
  const expert = EXPERTS[run.quantity >> 1]!;
  if (expert !== "timeOfDay" || experts.distanceToDays === 0) return;
  const { levelUp, levelDown } = bandReach(memory, tuning.usualFloorRatio);
  const mean = meanOfRecent(memory);
  run.expected = limit(mean - experts.distanceToDays);
  run.lower = limit(run.expected - levelDown);
  run.upper = limit(run.expected + levelUp);
  run.observed = mean;
}

/** Whether the settings want an excursion told: strong enough, large enough, and in the right direction. */
function isTold(run: Run, { settings }: DetectionInput): boolean {
  if (run.score < settings.threshold) return false;
  if (run.kind === "flat_line") return true;
  const change = run.observed - run.expected;
  if (Math.abs(change) < smallestChange(run, settings)) return false;
  return settings.direction === "both" || settings.direction === (change > 0 ? "up" : "down");
}

/** What kind of change it is, by who noticed it, which way it goes, and how long it has lasted. */
function kindOf(run: Run, value: number, at: number, { memory, input }: Call): AnomalyKind {
  const expert = EXPERTS[run.quantity >> 1]!;
  const isDown = run.observed < run.expected;
  const isStill = memory.equalRun > 0;
  if (value === 0 && isDown && run.upper > 0) {
    return input.kind === "counter" ? "counter_stopped" : "drop_to_zero";
  }
  if (run.kind === "drop_to_zero" || run.kind === "counter_stopped") return run.kind;
  if (expert === "flat" && isStill) {
    return input.kind === "counter" && value === 0 ? "counter_stopped" : "flat_line";
  }
  if (run.kind === "flat_line") return "flat_line";
  const isLasting = run.sampleCount >= LASTING_COUNT && at - run.startedAt >= LASTING_SPAN;
  const isOutside = run.observed > run.upper || run.observed < run.lower;
  if (isLasting && isOutside) return expert === "daySoFar" ? "trend" : "level_shift";
  if (expert === "timeOfDay" || expert === "daySoFar") return "shape";
  if (expert === "level24") return "trend";
  if (expert === "variance" && !isOutside) return "variance";
  return isDown ? "drop" : "spike";
}
