import {
  type Dashboard,
  DashboardBuilder,
  DashboardCursorSync,
  type DashboardLink,
  DashboardLinkBuilder,
  DashboardLinkType,
  DatasourceVariableBuilder,
  type QueryVariableBuilder,
  RowBuilder,
} from "@grafana/grafana-foundation-sdk/dashboard";
import type { Panel } from "./panels.ts";

/** Panels under a title, side by side in 24 columns. */
export interface Row {
  readonly title: string;
  readonly panels: readonly Panel[];
}

/** What a dashboard is made of. */
export interface DashboardText {
  /** Stays the same for ever: addresses have it, and an import replaces the dashboard that has it. */
  readonly uid: string;
  readonly title: string;
  readonly description: string;
  readonly variables: readonly QueryVariableBuilder[];
  readonly rows: readonly Row[];
}

const TAG = "pgvigil";

/** A dashboard in the classic schema, as Grafana 12 has it. */
export function buildDashboard({ rows, variables, ...text }: DashboardText): Dashboard {
  const dashboard = new DashboardBuilder(text.title)
    .uid(text.uid)
    .description(text.description)
    .tags([TAG])
    .timezone("browser")
    .tooltip(DashboardCursorSync.Crosshair)
    .time({ from: "now-6h", to: "now" })
    // Every panel is a call of the function: on a screen that is always on, a refresh a minute is too many of them.
    .refresh("5m")
    .variables([
      new DatasourceVariableBuilder("datasource").label("Data source").type("prometheus"),
      ...variables,
    ])
    .annotations([])
    .link(
      new DashboardLinkBuilder("Dashboards of pgvigil")
        .type(DashboardLinkType.Dashboards)
        .tags([TAG])
        .keepTime(true),
    );
  let id = 0;
  for (const { title, panels } of rows) {
    dashboard.withRow(new RowBuilder(title).id(++id));
    for (const panel of panels) dashboard.withPanel(panel.id(++id));
  }
  const built = dashboard.build();
  return { ...built, links: built.links!.map(placeInSight) };
}

/** Where dashboards have always had their links; the builder knows one other place, a menu. */
function placeInSight({ placement: _, ...link }: DashboardLink): DashboardLink {
  return link;
}
