/** What one would write instead of a detector: a line of statistics each, as they are found in every handbook. */

/** Takes the values of a series one by one, and gives each a score from 0 to 1. */
export type Scorer = (value: number) => number;

/** Samples that an average, or a window, spans. */
const SPAN = 100;
const SHARE = 2 / (SPAN + 1);

/** The same of the usual jump, which is the better the longer. */
const JUMP_SHARE = 2 / (1000 + 1);

/** What is taken for usual at least, as a share of the level: without it a flat line makes every change infinite. */
const floorOf = (level: number) => 0.02 * Math.abs(level) + 1e-9;

/** Samples before anything is said. */
const WARM_UP = 30;

/** A score of one half where the usual limit is reached. */
const scoreOf = (ratio: number, limit: number) => ratio / (ratio + limit);

/** Distance from the exponentially weighted mean in standard deviations; one half at 3. */
function zScore(): Scorer {
  let [count, mean, variance] = [0, 0, 0];
  return (value) => {
    if (count === 0) mean = value;
    const deviation = value - mean;
    const ratio = Math.abs(deviation) / (Math.sqrt(variance) + floorOf(mean));
    mean += SHARE * deviation;
    variance = (1 - SHARE) * (variance + SHARE * deviation ** 2);
    count += 1;
    return count > WARM_UP ? scoreOf(ratio, 3) : 0;
  };
}

/** Change from the value before, divided by the exponentially weighted mean of such changes; one half at 5. */
function jumpRatio(): Scorer {
  let [count, previous, usual] = [0, 0, 0];
  return (value) => {
    const jump = count === 0 ? 0 : Math.abs(value - previous);
    const ratio = jump / (usual + floorOf(previous));
    usual += Math.max(JUMP_SHARE, 1 / (count + 1)) * (jump - usual);
    previous = value;
    count += 1;
    return count > WARM_UP ? scoreOf(ratio, 5) : 0;
  };
}

/** The modified z-score over a window of the last values: distance from their median; one half at 3.5. */
function medianWindow(): Scorer {
  const window: number[] = [];
  const middle = (sorted: readonly number[] | Float64Array) => sorted[sorted.length >> 1]!;
  return (value) => {
    let score = 0;
    if (window.length > WARM_UP) {
      const median = middle(Float64Array.from(window).sort());
      const spread = middle(Float64Array.from(window, (at) => Math.abs(at - median)).sort());
      const scale = spread / 0.6745 + floorOf(median);
      score = scoreOf(Math.abs(value - median) / scale, 3.5);
    }
    window.push(value);
    if (window.length > SPAN) window.shift();
    return score;
  };
}

/** By their names in tables. */
export const SIMPLE_DETECTORS: Readonly<Record<string, () => Scorer>> = {
  "z-score": zScore,
  "jump ÷ usual": jumpRatio,
  "median/MAD": medianWindow,
};
