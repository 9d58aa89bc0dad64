import type { Sample } from "../../shared/detection/detector.ts";
import { type Backtest, mergeRuns, reportedSpans, usualInterval } from "./backtest-series.ts";
import {
  FEEDBACK_NOTE,
  plainText,
  showNumber,
  showScope,
  showTime,
  tabulate,
} from "./print-report.ts";

/** Of a chart, in units of its own, about one a pixel. */
const WIDTH = 1200;
const HEIGHT = 380;
const LEFT = 80;
const RIGHT = 10;
const TOP = 44;
const BOTTOM = 28;

/** No sample for so many usual intervals is a gap in the line. */
const GAP_INTERVALS = 3;

/** A band wider than the values may take up so much of their range more on either side. */
const BAND_MARGIN = 0.3;

/** Free above the highest, as a share of the range. */
const HEADROOM = 0.04;

/** Below it numbers have lost their digits. */
const SMALLEST_RANGE = 1e-290;

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const TIME_STEPS = [
  ...[1, 5, 15, 30].map((minutes) => minutes * MINUTE),
  ...[1, 3, 6, 12].map((hours) => hours * HOUR),
  ...[1, 2, 7, 14, 28, 91, 364].map((days) => days * DAY),
];

const STYLE = `
:root { color-scheme: light dark; --back: #fff; --text: #1c1e21; --faint: #6b7280; --grid: #e5e7eb;
  --value: #1d5fbf; --band: #1d5fbf26; --mark: #c81e1e; --other: #b7791f; --span: #6b728026; }
@media (prefers-color-scheme: dark) { :root { --back: #16181c; --text: #e6e7ea; --faint: #9ca3af; --grid: #2b2f36;
  --value: #7fb0ff; --band: #7fb0ff2b; --mark: #ff7b72; --other: #e3b341; --span: #9ca3af2e; } }
body { margin: 1.5rem auto; max-width: 80rem; padding: 0 1rem; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; overflow-wrap: anywhere; }
p { color: var(--faint); } svg { width: 100%; height: auto; }
svg text { fill: var(--faint); font-size: 12px; }
.grid { stroke: var(--grid); } .value { stroke: var(--value); stroke-width: 1.3; }
.value, .expected { fill: none; stroke-linecap: round; stroke-linejoin: round; }
.expected { stroke: var(--faint); stroke-dasharray: 3 3; } .band { fill: var(--band); }
.span { fill: var(--span); } .deploy { stroke: var(--faint); stroke-dasharray: 6 3; stroke-width: 2; }
.own { fill: var(--mark); } .other { fill: var(--other); } .during { opacity: 0.22; }
.key { display: flex; flex-wrap: wrap; gap: 0 1.5rem; margin: 0; padding: 0; list-style: none; color: var(--faint); }
.key b { font-weight: 600; } .key .a { color: var(--mark); } .key .b { color: var(--other); } .key .c { color: var(--value); }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.8rem 0.25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid); }
th { color: var(--faint); font-weight: 600; } td { white-space: nowrap; }
td:last-child { white-space: normal; min-width: 22rem; }`;

/** Text as it may stand between tags and in attributes. */
const escapeText = (text: string): string =>
  plainText(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");

const round = (position: number) => position.toFixed(1);

/** Numbers that people like to read on an axis, about five from `low` to `high`. */
function valueTicks(low: number, high: number): number[] {
  const rough = high / 5 - low / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * (rough / power > 5 ? 10 : rough / power > 2 ? 5 : rough / power > 1 ? 2 : 1);
  const first = Math.ceil(low / step);
  return Array.from({ length: 12 }, (_, index) => (first + index) * step)
    .filter((tick) => tick >= low && tick <= high);
}

function timeTicks(from: number, until: number): { at: number; text: string }[] {
  const step = TIME_STEPS.find((length) => (until - from) / length <= 9) ?? (until - from) / 9;
  const first = Math.ceil(from / step);
  const count = Math.floor(until / step) - first + 1;
  return Array.from({ length: Math.max(count, 0) }, (_, index) => {
    const at = Math.round((first + index) * step);
    const text = showTime(at);
    return { at, text: step > 28 * DAY ? text.slice(0, 10) : text.slice(5, step >= DAY ? 10 : 16) };
  });
}

/** From instants and values to places in the chart. */
interface Scale {
  readonly x: (at: number) => number;
  readonly y: (value: number) => number;
  /** Longest distance of two samples, in ms, that a line goes across. */
  readonly gap: number;
}

/**
 * Indexes by pixel column of those samples that have a value, ascending: the first, lowest, highest and last of each. What is drawn
 * by them cannot be told from all of them, and no spike is lost.
 */
export function thinSamples(
  samples: readonly Sample[],
  values: ArrayLike<number>,
  x: (at: number) => number,
): number[][] {
  const columns: number[][] = [];
  let current = NaN;
  for (let index = 0; index < samples.length; index++) {
    const value = values[index]!;
    if (!Number.isFinite(value)) continue;
    const column = Math.floor(x(samples[index]!.at));
    if (column !== current) columns.push([index, index, index, index]);
    current = column;
    const kept = columns.at(-1)!;
    if (value < values[kept[1]!]!) kept[1] = index;
    if (value > values[kept[2]!]!) kept[2] = index;
    kept[3] = index;
  }
  return columns.map((kept) => [...new Set(kept)].sort((a, b) => a - b));
}

/** Cuts columns where so many samples are missing that it can be seen. */
function cutAtGaps(samples: readonly Sample[], columns: number[][], scale: Scale): number[][][] {
  const pieces: number[][][] = [];
  let newest = -Infinity;
  for (const column of columns) {
    const at = samples[column[0]!]!.at;
    const isGap = at - newest > scale.gap && !(scale.x(at) - scale.x(newest) < 2);
    if (isGap) pieces.push([]);
    pieces.at(-1)!.push(column);
    newest = samples[column.at(-1)!]!.at;
  }
  return pieces;
}

function drawLine(samples: readonly Sample[], values: ArrayLike<number>, scale: Scale): string {
  const place = (index: number) =>
    `${round(scale.x(samples[index]!.at))} ${round(scale.y(values[index]!))}`;
  // A piece of one sample is a dot, by the round ends of a line without length.
  return cutAtGaps(samples, thinSamples(samples, values, scale.x), scale)
    .map((piece) => `M${piece.flat().map(place).join("L")}h0`).join("");
}

function drawBand(
  samples: readonly Sample[],
  lower: ArrayLike<number>,
  upper: ArrayLike<number>,
  scale: Scale,
): string {
  const lows = thinSamples(samples, lower, scale.x);
  const highs = thinSamples(samples, upper, scale.x);
  const along = (piece: number[][], values: ArrayLike<number>, pick: (...of: number[]) => number) =>
    piece.map((column) =>
      `${round(scale.x(samples[column[0]!]!.at))} ${
        round(scale.y(pick(...column.map((index) => values[index]!))))
      }`
    );
  const lowPieces = cutAtGaps(samples, lows, scale);
  return cutAtGaps(samples, highs, scale).map((piece, index) => {
    const there = along(piece, upper, Math.max);
    const back = along(lowPieces[index] ?? [], lower, Math.min).reverse();
    return `M${[...there, ...back].join("L")}Z`;
  }).join("");
}

/** Least and greatest finite one; null if there is none. */
function rangeOf(values: ArrayLike<number>): [number, number] | null {
  let [low, high] = [Infinity, -Infinity];
  for (let index = 0; index < values.length; index++) {
    const value = values[index]!;
    if (!Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return low <= high ? [low, high] : null;
}

/** The values that the chart shows: all of them, and of the band what does not squeeze them flat. */
function chooseRange(
  values: Float64Array,
  lower: Float64Array,
  upper: Float64Array,
): [number, number] {
  const [low, high] = rangeOf(values) ?? [0, 1];
  const isFlat = !(high - low > SMALLEST_RANGE);
  const spread = isFlat ? Math.abs(high) / 10 || 1 : Math.min(high - low, Number.MAX_VALUE / 4);
  const bottom = Math.max(rangeOf(lower)?.[0] ?? low, low - BAND_MARGIN * spread);
  const top = Math.min(rangeOf(upper)?.[1] ?? high, high + BAND_MARGIN * spread);
  const [from, until] = [
    Math.min(bottom, low),
    Math.min(Math.max(top, high) + HEADROOM * spread, Number.MAX_VALUE),
  ];
  return from < until ? [from, until] : [from - spread, until + spread];
}

function drawChart(backtest: Backtest, id: number): string {
  const { series, replayed } = backtest;
  const start = series.samples.findIndex(({ at }) => at >= series.reportFrom);
  const samples = series.samples.slice(start);
  const [values, expected, lower, upper] = [
    replayed.judged,
    replayed.expected,
    replayed.lower,
    replayed.upper,
  ].map((numbers) => numbers.subarray(start)) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const [from, newest] = [samples[0]!.at, samples.at(-1)!.at];
  const until = newest > from ? newest : from + MINUTE;
  const [low, high] = chooseRange(values, lower, upper);
  const [right, bottom] = [WIDTH - RIGHT, HEIGHT - BOTTOM];
  const scale: Scale = {
    x: (at) => LEFT + ((at - from) / (until - from)) * (right - LEFT),
    // In quarters, so that a range of all there are numbers for is one.
    y: (value) => {
      const y = bottom - ((value / 4 - low / 4) / (high / 4 - low / 4)) * (bottom - TOP);
      return Math.min(Math.max(y, -HEIGHT), 2 * HEIGHT);
    },
    gap: GAP_INTERVALS * usualInterval(samples),
  };
  const inside = (at: number) => Math.min(Math.max(scale.x(at), LEFT), right);
  const bar = (since: number, to: number, width: number, attributes: string, title: string) =>
    `<rect x="${round(inside(since))}" y="${TOP}" width="${
      round(Math.max(inside(to) - inside(since), width))
    }" height="${bottom - TOP}" ${attributes}><title>${escapeText(title)}</title></rect>`;

  const spans = reportedSpans(backtest).filter((span) => span.from <= until).map((span) =>
    bar(
      span.from,
      span.until ?? until,
      1,
      'class="span"',
      `${span.label}: ${showTime(span.from)} to ${
        span.until === null ? "now" : showTime(span.until)
      }`,
    ) + `<text x="${round(inside(span.from))}" y="${TOP - 26}">${escapeText(span.label)}</text>`
  );
  const deploys = series.deploys.filter((at) => at >= from && at <= until).map((at) =>
    `<path class="deploy" d="M${round(scale.x(at))} ${TOP}V${bottom}"><title>deploy: ${
      showTime(at)
    }</title></path>`
  );
  const marks = mergeRuns(backtest).map(({ anomaly, budgets }) => {
    const side = budgets.includes(series.budget) ? "own" : "other";
    const x = inside(anomaly.startedAt);
    const title = `${anomaly.anomalyKind} at ${showTime(anomaly.startedAt)}, score ${
      anomaly.score.toFixed(2)
    }, told at ${budgets.map(showNumber).join(", ")} a week. ${anomaly.explanation}`;
    return bar(
      anomaly.startedAt,
      anomaly.endedAt ?? anomaly.lastSeenAt,
      2,
      `class="${side} during"`,
      title,
    ) +
      `<path class="${side}" d="M${round(x)} ${TOP}l-6 -12h12z"><title>${
        escapeText(title)
      }</title></path>`;
  });
  const grid = valueTicks(low, high).map((tick) =>
    `<path class="grid" d="M${LEFT} ${round(scale.y(tick))}H${right}"/><text x="${LEFT - 8}" y="${
      round(scale.y(tick) + 4)
    }" text-anchor="end">${showNumber(tick)}</text>`
  );
  const times = timeTicks(from, until).map(({ at, text }) =>
    `<path class="grid" d="M${round(scale.x(at))} ${TOP}V${bottom}"/><text x="${
      round(scale.x(at))
    }" y="${HEIGHT - 8}" text-anchor="middle">${text}</text>`
  );
  const unit = series.settings.unit + (series.kind === "counter" ? " a second" : "");
  return [
    `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escapeText(series.name)}">`,
    `<clipPath id="plot-${id}"><rect x="${LEFT}" y="${TOP}" width="${right - LEFT}" height="${
      bottom - TOP
    }"/></clipPath>`,
    `<text x="8" y="16">${escapeText(unit)}</text>`,
    ...grid,
    ...times,
    ...spans,
    `<g clip-path="url(#plot-${id})">`,
    `<path class="band" d="${drawBand(samples, lower, upper, scale)}"/>`,
    `<path class="expected" d="${drawLine(samples, expected, scale)}"/>`,
    `<path class="value" d="${drawLine(samples, values, scale)}"/>`,
    "</g>",
    ...deploys,
    ...marks,
    "</svg>",
  ].join("\n");
}

function drawTable([head, ...rows]: readonly (readonly string[])[]): string {
  if (head === undefined || rows.length === 0) return "";
  const cells = (row: readonly string[], tag: string) =>
    `<tr>${row.map((field) => `<${tag}>${escapeText(field)}</${tag}>`).join("")}</tr>`;
  const body = rows.map((row) => cells(row, "td")).join("\n");
  return `<div class="wide"><table>\n<thead>${
    cells(head, "th")
  }</thead>\n<tbody>\n${body}\n</tbody>\n</table></div>`;
}

function drawSection(backtest: Backtest, id: number): string {
  const { budgets, anomalies, feedback } = tabulate(backtest);
  return [
    "<section>",
    `<h2>${escapeText(backtest.series.name)}</h2>`,
    `<p>${escapeText(showScope(backtest))}</p>`,
    drawChart(backtest, id),
    drawTable(budgets),
    anomalies.length > 1 ? drawTable(anomalies) : "<p>No budget would have told anything.</p>",
    feedback.length > 0 ? `${drawTable(feedback)}\n<p>${FEEDBACK_NOTE}</p>` : "",
    "</section>",
  ].join("\n");
}

/**
 * One page with a chart and the tables of each series. It needs nothing but itself, may load nothing, and is well-formed XML but for
 * its first line.
 */
export function drawPage(backtests: readonly Backtest[]): string {
  const title = `Backtest of ${backtests.map(({ series }) => series.name).slice(0, 3).join(", ")}`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<title>${escapeText(title)}</title>
<style>${STYLE}
</style>
</head>
<body>
<h1>What would have been told</h1>
<ul class="key">
<li><b class="c">line</b> value</li>
<li>shaded: expected band, dashed: expected value</li>
<li><b class="a">▼</b> told at the budget that is set</li>
<li><b class="b">▼</b> told at a larger or smaller one only</li>
<li>grey: labelled spans; all times in UTC; point at a mark for why</li>
</ul>
${backtests.map(drawSection).join("\n")}
</body>
</html>
`;
}
