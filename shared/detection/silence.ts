import { type Call, dropExcursion, eventOf, Run } from "./call.ts";
import { DEFAULT_THRESHOLD } from "./detector.ts";
import { DAY, MINUTE } from "./durations.ts";
import type { SeriesMemory } from "./series-memory.ts";

/** Silence is an anomaly after so many usual intervals, or so many times the second longest gap of late. */
const SILENT_INTERVALS = 3;

const SILENT_GAPS = 2;

const SILENT_REPEATED = 1.5;

const SILENT_MARGIN = 5 * MINUTE;

/** From so many intervals on samples are missing; before that they are late. */
const MISSING_INTERVALS = 10;

const NO_DATA_AFTER = DAY;

const NO_DATA_INTERVALS = 2 * MISSING_INTERVALS;

/** Score by which a silence of twice the length is stronger. */
const SILENCE_STEP = 0.1;

/** However long: below the highest threshold, so that a budget may silence what is silent each night. */
const SILENCE_SCORE_LIMIT = 0.94;

/** Silence of that length is an anomaly, in ms. */
export function usualSilence({ cadence, secondGap, intervals }: SeriesMemory): number {
  return Math.max(
    SILENT_INTERVALS * cadence,
    cadence + SILENT_MARGIN,
    SILENT_GAPS * secondGap,
    // As long again may be a new cadence.
    SILENT_REPEATED * intervals[0]!,
  );
}

/** Silence of that length is told, in ms; null before the usual interval is known. */
function silenceLimit({ memory, input }: Call): number | null {
  if (memory.cadence === 0 || memory.count < 10) return null;
  return usualSilence(memory) *
    2 ** (Math.max(input.settings.threshold - DEFAULT_THRESHOLD, 0) / SILENCE_STEP);
}

/** Tells by the clock that samples do not come, or that none will come any more. */
export function watchSilence(now: number, call: Call): void {
  const { memory, events } = call;
  const silence = now - memory.lastAt;
  if (memory.sampleCount === 0 || silence <= 0) return;
  const open = call.silence ?? (call.run?.isOpen ? call.run : null);
  if (open === null) {
    beginSilence(now, call);
  } else if (silence >= noDataAfter(memory)) {
    const endedAt = Math.round(memory.lastAt + noDataAfter(memory));
    if (open === call.silence) nameSilence(open, endedAt - memory.lastAt, memory);
    events.push(eventOf("close", open, call, { reason: "no_data", cause: "silent", endedAt }));
    memory.silenceAfter = memory.lastAt;
    if (open === call.silence) call.silence = null;
    else dropExcursion(call);
  } else if (open === call.silence) nameSilence(open, silence, memory);
}

/** A sample that came ends the silence; one that nobody was told of is told afterwards. */
export function endSilence(at: number, call: Call): void {
  const { events, memory } = call;
  if (call.silence === null && !call.run?.isOpen) beginSilence(at, call);
  const { silence } = call;
  if (silence === null) return;
  // Samples that come late may show that the silence was short; it was as long as it seemed.
  nameSilence(silence, Math.max(at - memory.lastAt, silence.observed * 1000), memory);
  events.push(
    eventOf("close", silence, call, { reason: "recovered", cause: "arrived", endedAt: at }),
  );
  call.silence = null;
  // What was not told before the silence, and may be after it, begins after it.
  if (call.run !== null) call.run.startedAt = Math.max(call.run.startedAt, at);
}

function beginSilence(at: number, call: Call): void {
  const { memory, events, input } = call;
  const limitMs = silenceLimit(call);
  const length = at - memory.lastAt;
  const startedAt = Math.round(memory.lastAt + memory.cadence);
  if (limitMs === null || length < limitMs || memory.silenceAfter === memory.lastAt) return;
  // What was to be expected does not count as silence; what follows it does.
  const mutedUntil = input.spans.reduce(
    (latest, { label, from, until }) =>
      label === "missed" || label === "incident" || from > at
        ? latest
        : Math.max(latest, until ?? Infinity),
    -Infinity,
  );
  if (at - Math.max(memory.lastAt, mutedUntil) < limitMs) return;
  const usual = usualSilence(memory);
  if (scoreOfSilence(length, usual) < input.settings.threshold) return;
  const silence: Run = {
    isOpen: true,
    isSilence: true,
    startedAt,
    lastSeenAt: startedAt,
    sampleCount: 1,
    score: scoreOfSilence(length, usual),
    kind: "late",
    quantity: 0,
    perWeek: null,
    comparedDays: 0,
    trainingCount: memory.trainedCount,
    trainedDays: Math.floor((memory.lastAt - memory.firstAt) / DAY),
    expected: memory.cadence / 1000,
    lower: 0,
    upper: usual / 1000,
    observed: length / 1000,
    cadence: memory.cadence,
  };
  call.silence = silence;
  memory.silenceAfter = memory.lastAt;
  nameSilence(silence, length, memory);
  events.push(eventOf("open", silence, call));
}

/** A series that has been silent for so long has ended, in ms. */
function noDataAfter({ cadence }: SeriesMemory): number {
  return Math.max(NO_DATA_AFTER, NO_DATA_INTERVALS * cadence);
}

/** Names a silence by its length in ms, and how strong it is by now. */
function nameSilence(silence: Run, length: number, { cadence }: SeriesMemory): void {
  silence.observed = length / 1000;
  silence.kind = length >= MISSING_INTERVALS * cadence ? "missing" : "late";
  silence.score = Math.max(silence.score, scoreOfSilence(length, silence.upper * 1000));
}

function scoreOfSilence(length: number, usual: number): number {
  return Math.min(
    SILENCE_SCORE_LIMIT,
    DEFAULT_THRESHOLD + SILENCE_STEP * Math.log2(length / usual),
  );
}

/** When the clock has something to say next, in ms. */
export function nextSilence(call: Call): number | null {
  const { memory, silence, run } = call;
  const limitMs = silenceLimit(call);
  if (limitMs === null) return null;
  const next = silence?.kind === "late"
    ? MISSING_INTERVALS * memory.cadence
    : silence !== null || run?.isOpen
    ? noDataAfter(memory)
    : memory.silenceAfter === memory.lastAt
    ? null
    : limitMs;
  return next === null ? null : Math.ceil(memory.lastAt + next);
}
