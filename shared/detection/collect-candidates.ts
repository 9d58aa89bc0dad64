import { type Candidate, touches } from "./calibrate.ts";
import type { DetectionEvent, DetectionResult, LabelledSpan } from "./detector.ts";

/** What a replay has found so far; bounded, and goes on from call to call. */
export interface CandidateTally {
  /** Those that have ended, at most {@link CANDIDATE_LIMIT}, oldest first. */
  readonly ended: readonly Candidate[];
  /** Weaker ones that found no place. */
  readonly droppedCount: number;
  /** The one that lasts. */
  readonly open: Candidate | null;
  /** The first sample that was judged and the newest one, in ms; null before. */
  readonly judgedFrom: number | null;
  readonly judgedUntil: number | null;
}

/** Candidates kept of a replay: more than any budget but the largest allows of four weeks. */
export const CANDIDATE_LIMIT = 100;

/** The tally that a replay begins with. */
export const NO_CANDIDATES: CandidateTally = {
  ended: [],
  droppedCount: 0,
  open: null,
  judgedFrom: null,
  judgedUntil: null,
};

/**
 * Adds what one call of a detector said. An anomaly counts once, with its highest score. Where there
 * are too many the weakest goes, but one in a span labelled `missed` only after all others.
 */
export function collectCandidates(
  tally: CandidateTally,
  { events, judgements }: Pick<DetectionResult, "events" | "judgements">,
  spans: readonly LabelledSpan[],
): CandidateTally {
  const first = judgements.find(({ kind }) => kind !== "insufficient_data");
  const missed = spans.filter(({ label }) => label === "missed");
  const ended = [...tally.ended];
  let { open, droppedCount } = tally;
  for (const event of events) {
    if (open !== null && open.at !== event.startedAt) ended.push(open);
    const candidate = continueCandidate(open, event);
    if (event.endedAt === null) open = candidate;
    else {
      ended.push(candidate);
      open = null;
    }
  }
  while (ended.length > CANDIDATE_LIMIT) {
    ended.splice(findDispensable(ended, missed), 1);
    droppedCount += 1;
  }
  const judgedFrom = tally.judgedFrom ?? first?.at ?? null;
  return {
    ended,
    droppedCount,
    open,
    judgedFrom,
    judgedUntil: judgedFrom === null ? null : judgements.at(-1)?.at ?? tally.judgedUntil,
  };
}

/** All that are kept, the open one included. */
export function listCandidates({ ended, open }: CandidateTally): Candidate[] {
  return open === null ? [...ended] : [...ended, open];
}

function continueCandidate(open: Candidate | null, event: DetectionEvent): Candidate {
  const isSame = open?.at === event.startedAt;
  return {
    at: event.startedAt,
    until: event.lastSeenAt,
    score: isSame ? Math.max(open.score, event.score) : event.score,
    kind: event.anomalyKind,
  };
}

function findDispensable(
  candidates: readonly Candidate[],
  missed: readonly LabelledSpan[],
): number {
  const worth = ({ at, until = at, score }: Candidate) =>
    score + (missed.some((span) => touches(span, at, until)) ? 1 : 0);
  let least = 0;
  for (const [index, candidate] of candidates.entries()) {
    if (worth(candidate) < worth(candidates[least]!)) least = index;
  }
  return least;
}
