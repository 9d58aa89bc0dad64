import {
  BigValueGraphMode,
  type DataSourceRef,
  GraphThresholdsStyleConfigBuilder,
  GraphThresholdsStyleMode,
  LegendDisplayMode,
  LegendPlacement,
  ReduceDataOptionsBuilder,
  SortOrder,
  StackingConfigBuilder,
  StackingMode,
  TooltipDisplayMode,
  VizLegendOptionsBuilder,
  VizTooltipOptionsBuilder,
} from "@grafana/grafana-foundation-sdk/common";
import {
  MappingType,
  type Threshold,
  ThresholdsConfigBuilder,
  ThresholdsMode,
} from "@grafana/grafana-foundation-sdk/dashboard";
import { DataqueryBuilder } from "@grafana/grafana-foundation-sdk/prometheus";
import { PanelBuilder as StatBuilder } from "@grafana/grafana-foundation-sdk/stat";
import { PanelBuilder as StateTimelineBuilder } from "@grafana/grafana-foundation-sdk/statetimeline";
import { PanelBuilder as TimeSeriesBuilder } from "@grafana/grafana-foundation-sdk/timeseries";

/** The one that is chosen at the top of the dashboard. */
export const DATA_SOURCE: DataSourceRef = { type: "prometheus", uid: "${datasource}" };

/** A line of a panel, or several. */
export interface Query {
  readonly expr: string;
  /** Name of each line: text with `{{label}}` in it. */
  readonly legend: string;
  /** How often the metric has a sample; every minute unless told otherwise. Grafana takes its rate windows from it. */
  readonly every?: "5m";
}

/** From where on a value is bad: above if `warning < critical` or there is only one of them, else below. */
export interface Limits {
  readonly warning?: number;
  readonly critical?: number;
}

/** What every panel has. */
export interface PanelText {
  readonly title: string;
  /** What it shows, and where from. */
  readonly description: string;
  /** One of the SDK's units. */
  readonly unit: string;
  /** Columns, of 24. */
  readonly width: number;
  readonly queries: readonly Query[];
  /** Shown where there is no result. */
  readonly empty?: string;
  readonly decimals?: number;
  readonly limits?: Limits;
}

export type Panel = StatBuilder | StateTimelineBuilder | TimeSeriesBuilder;

const COLORS = { good: "green", warning: "orange", critical: "red" } as const;

/** The steps of thresholds, the first without a value: it goes from minus infinity. */
export function toThresholds({ warning, critical }: Limits): Threshold[] {
  if (warning !== undefined && critical !== undefined && critical < warning) {
    return [
      { value: null, color: COLORS.critical },
      { value: critical, color: COLORS.warning },
      { value: warning, color: COLORS.good },
    ];
  }
  return [
    { value: null, color: COLORS.good },
    ...(warning === undefined ? [] : [{ value: warning, color: COLORS.warning }]),
    ...(critical === undefined ? [] : [{ value: critical, color: COLORS.critical }]),
  ];
}

function describePanel(panel: Panel, text: PanelText, height: number): void {
  panel.title(text.title);
  panel.description(text.description);
  panel.unit(text.unit);
  panel.span(text.width);
  panel.height(height);
  panel.datasource(DATA_SOURCE);
  panel.noValue(text.empty ?? "No data");
  panel.thresholds(
    new ThresholdsConfigBuilder().mode(ThresholdsMode.Absolute).steps(
      toThresholds(text.limits ?? {}),
    ),
  );
  if (text.decimals !== undefined) panel.decimals(text.decimals);
}

/** Without a minimal step Grafana's rate windows would be too short for two samples, whatever the data source says. */
function buildQueries(queries: readonly Query[]): DataqueryBuilder[] {
  return queries.map(({ expr, legend, every = "1m" }, index) =>
    new DataqueryBuilder()
      .refId(String.fromCharCode("A".charCodeAt(0) + index))
      .datasource(DATA_SOURCE)
      .expr(expr)
      .legendFormat(legend)
      .interval(every)
      .range()
  );
}

/** Values as of now, in large; several side by side if there are several. */
export function stat(text: PanelText, height = 4): StatBuilder {
  const panel = new StatBuilder()
    .targets(buildQueries(text.queries).map((query) => query.instant()))
    .graphMode(BigValueGraphMode.None)
    .reduceOptions(new ReduceDataOptionsBuilder().calcs(["lastNotNull"]));
  describePanel(panel, text, height);
  return panel;
}

/** Lines over time, from 0 on unless they have a minimum; limits are dashed lines. */
export function timeSeries(
  { isStacked = false, max, min = 0, ...text }: PanelText & {
    readonly isStacked?: boolean;
    readonly max?: number;
    readonly min?: number;
  },
): TimeSeriesBuilder {
  const panel = new TimeSeriesBuilder()
    .targets(buildQueries(text.queries))
    .min(min)
    .lineWidth(1)
    .fillOpacity(isStacked ? 30 : 8)
    .legend(
      new VizLegendOptionsBuilder()
        .showLegend(true)
        .displayMode(LegendDisplayMode.List)
        .placement(LegendPlacement.Bottom),
    )
    .tooltip(
      new VizTooltipOptionsBuilder().mode(TooltipDisplayMode.Multi).sort(SortOrder.Descending),
    )
    .thresholdsStyle(
      new GraphThresholdsStyleConfigBuilder().mode(
        text.limits === undefined ? GraphThresholdsStyleMode.Off : GraphThresholdsStyleMode.Dashed,
      ),
    );
  if (isStacked) panel.stacking(new StackingConfigBuilder().mode(StackingMode.Normal).group("A"));
  if (max !== undefined) panel.max(max);
  describePanel(panel, text, 8);
  return panel;
}

/** When something was up, 1, and when down, 0: a bar for each. */
export function upTimeline(text: PanelText): StateTimelineBuilder {
  const panel = new StateTimelineBuilder()
    .targets(buildQueries(text.queries))
    .mappings([{
      type: MappingType.ValueToText,
      options: {
        0: { text: "Down", color: COLORS.critical },
        1: { text: "Up", color: COLORS.good },
      },
    }])
    .mergeValues(true)
    .legend(new VizLegendOptionsBuilder().showLegend(false));
  describePanel(panel, text, 6);
  return panel;
}

/** Part of a counter, by the labels it is told apart by. */
export interface Growth {
  readonly metric: string;
  /** Matchers of what is looked at. */
  readonly among?: string;
  /** Matchers of what is counted. */
  readonly part: string;
  readonly window: string;
  readonly by?: string;
}

/** The share that a part has in the growth of a counter: 0 where none of it grew, nothing where nothing did. */
export function shareOfGrowth({ metric, among = "", part, window, by = "" }: Growth): string {
  const grown = (matchers: readonly string[]) => {
    const selector = matchers.filter((matcher) => matcher !== "").join(", ");
    const grouping = by === "" ? "" : ` by (${by}) `;
    return `sum${grouping}(increase(${metric}${selector && `{${selector}}`}[${window}]))`;
  };
  const whole = grown([among]);
  return `(${grown([among, part])} or 0 * ${whole}) / (${whole} > 0)`;
}
