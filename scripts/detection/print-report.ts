import { type Backtest, type FeedbackRun, mergeRuns, reportedSpans } from "./backtest-series.ts";

const SHOWN = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 6 });

/** A number for people: six digits at most, of very large and very small ones the exponent. */
export function showNumber(value: number): string {
  const size = Math.abs(value);
  return size !== 0 && (size >= 1e9 || size < 1e-4) ? value.toExponential(3) : SHOWN.format(value);
}

/** An instant to the minute, or to the second where there are any: `2026-03-02 14:05`, UTC. */
export function showTime(at: number): string {
  const text = new Date(at).toISOString().replace("T", " ");
  return text.slice(0, at % 60_000 === 0 ? 16 : 19);
}

/** Text from elsewhere without what would move the cursor, colour the rest or turn it round. */
export const plainText = (text: string): string =>
  text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, " ");

/** The smallest change that is told, in words; empty if every one is. */
export function showMinimum({ series: { settings, kind } }: Backtest): string {
  const { minimumChange, minimumChangeRatio, unit } = settings;
  const parts = [
    ...(minimumChange > 0
      ? [`${showNumber(minimumChange)} ${unit}${kind === "counter" ? " a second" : ""}`.trim()]
      : []),
    ...(minimumChangeRatio > 0 ? [`${showNumber(minimumChangeRatio * 100)} %`] : []),
  ];
  return parts.length > 0 ? `changes under ${parts.join(" or ")} not told` : "";
}

/** What was replayed, in a sentence. */
export function showScope(backtest: Backtest): string {
  const { series: { samples, reportFrom, kind, settings }, detectorVersion } = backtest;
  const first = samples[0]!.at;
  const shown = samples.filter(({ at }) => at >= reportFrom);
  return [
    `${shown.length.toLocaleString("en-US")} samples from ${showTime(shown[0]!.at)} ` +
    `to ${showTime(samples.at(-1)!.at)} UTC`,
    ...(first < reportFrom ? [`learned from ${showTime(first)} on`] : []),
    `detector ${detectorVersion}`,
    kind === "counter" ? "counter, by its rate per second" : "gauge",
    `direction ${settings.direction}`,
    ...[showMinimum(backtest)].filter(Boolean),
  ].join(", ") + ".";
}

const showShare = (share: number | null, count: number, of: number) =>
  share === null ? "nothing to go by" : `${Math.round(share * 100)} % (${count} of ${of})`;

/** What one side of the feedback comes to, for a table. */
const feedbackRow = (name: string, run: FeedbackRun): string[] => [
  name,
  run.threshold.toFixed(2),
  String(run.rightCount + run.wrongCount + run.unjudgedCount),
  showShare(run.precision, run.rightCount, run.rightCount + run.wrongCount),
  showShare(run.recall, run.caughtCount, run.eventCount),
];

/** The tables of a report, each with its head, for the terminal and for the page alike. */
export function tabulate(
  backtest: Backtest,
): Record<"budgets" | "anomalies" | "feedback", string[][]> {
  const { runs, series, feedback } = backtest;
  const from = Math.max(series.samples[0]!.at, series.reportFrom);
  const weeks = Math.max((series.samples.at(-1)!.at - from) / 604_800_000, 1 / 7);
  const budgets = runs.map(({ budget, calibration, anomalies }) => [
    `${showNumber(budget)} a week${budget === series.budget ? ", as set" : ""}`,
    calibration.threshold.toFixed(2),
    String(anomalies.length),
    (anomalies.length / weeks).toFixed(1),
    calibration.isBudgetExceeded
      ? "over budget for the sake of a missed one, or of the gravest"
      : "",
  ]);
  const anomalies = mergeRuns(backtest).map(({ anomaly, budgets }) => [
    ...runs.map(({ budget }) => (budgets.includes(budget) ? "●" : "·")),
    showTime(anomaly.startedAt),
    anomaly.endedAt === null ? "lasts" : showTime(anomaly.endedAt),
    anomaly.anomalyKind,
    anomaly.score.toFixed(2),
    plainText(anomaly.explanation),
  ]);
  return {
    budgets: [["budget", "threshold", "told", "a week", ""], ...budgets],
    anomalies: [
      [
        ...runs.map(({ budget }) => showNumber(budget)),
        "start (UTC)",
        "end",
        "kind",
        "score",
        "explanation",
      ],
      ...anomalies,
    ],
    feedback: feedback === null ? [] : [
      ["feedback", "threshold", "told", "precision", "recall"],
      feedbackRow("before", feedback.before),
      feedbackRow("after", feedback.after),
    ],
  };
}

/** What the comparison before and after feedback rests on. */
export const FEEDBACK_NOTE =
  "Feedback and comparison are of the same time, so what comes after is the best case for times to come.";

/** Columns as wide as their widest field. */
function align(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) =>
    row.map((field, column) => field.padEnd(widths[column]!)).join("  ").trimEnd()
  ).join("\n");
}

/** A backtest for the terminal. */
export function printReport(backtest: Backtest): string {
  const { budgets, anomalies, feedback } = tabulate(backtest);
  const spans = reportedSpans(backtest);
  return [
    plainText(backtest.series.name),
    showScope(backtest),
    align(budgets),
    anomalies.length > 1 ? align(anomalies) : "No budget would have told anything.",
    ...(spans.length > 0
      ? [align([
        ["span", "from", "until"],
        ...spans.map(({ label, from, until }) => [
          label,
          showTime(from),
          until === null ? "lasts" : showTime(until),
        ]),
      ])]
      : []),
    ...(feedback.length > 0 ? [`${align(feedback)}\n${FEEDBACK_NOTE}`] : []),
  ].join("\n\n");
}
