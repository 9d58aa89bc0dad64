import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { Dashboard, Panel, RowPanel } from "@grafana/grafana-foundation-sdk/dashboard";
import type { Dataquery } from "@grafana/grafana-foundation-sdk/prometheus";
import { shareOfGrowth, toThresholds } from "../../scripts/grafana/panels.ts";
import { parseDuration } from "../../shared/promql/durations.ts";
import { parseExpr } from "../../shared/promql/parse-expr.ts";
import { prepareQuery } from "../../shared/promql/prepare-query.ts";
import { type QueryOptions, type QueryResult, runQuery } from "../../shared/promql/query.ts";
import {
  type Labels,
  type Matcher,
  METRIC_NAME,
  type SampledSeries,
} from "../../shared/promql/series.ts";
import { NOON } from "../fixtures.ts";
import {
  makeDemoSeries,
  PARTNER_METRICS,
  readCollectedMetrics,
  SERIES_LABELS,
  sourceOf,
} from "./demo-data.ts";

const FOLDER = "docs/grafana";
const HOUR = 3_600_000;
const MINUTE = 60_000;
const DATA_SOURCE = { type: "prometheus", uid: "${datasource}" };

/** Dashboards as they are shipped, by file. */
const dashboards = readdirSync(FOLDER).filter((file) => file.endsWith(".json")).map((file) => ({
  file,
  dashboard: JSON.parse(readFileSync(`${FOLDER}/${file}`, "utf8")) as Dashboard,
}));

/** Alerts that come of no rule: of jobs, of health, of anomalies. */
const otherAlerts = (() => {
  const [source = ""] = readFileSync("docs/schema.sql", "utf8")
    .match(/FUNCTION monitor\.list_conditions\([^]*?\$function\$;/) ?? [];
  return new Set([...source.matchAll(/'([A-Z][a-z]+[A-Z]\w+)'/g)].map(([, alert]) => alert!));
})();

const shippedAlerts = [
  ...otherAlerts,
  ...["partner", "supabase"].flatMap((name) => {
    const rules = readFileSync(`supabase/rules/${name}.rules.yaml`, "utf8");
    return [...rules.matchAll(/^ *- alert: (\w+)$/gm)].map(([, alert]) => alert);
  }),
];

const elementsOf = ({ panels = [] }: Dashboard): (Panel | RowPanel)[] => panels;
const panelsOf = (dashboard: Dashboard): Panel[] =>
  elementsOf(dashboard).filter((panel): panel is Panel => panel.type !== "row");
const targetsOf = (panel: Panel): Dataquery[] => panel.targets as Dataquery[];

const page = readFileSync("docs/metrics.md", "utf8");
const collected = readCollectedMetrics(page);
const demo = makeDemoSeries(
  [...collected, ...PARTNER_METRICS],
  NOON.getTime() - 4 * HOUR,
  NOON.getTime(),
);

/** An expression as Grafana sends it, which is shown for an hour in steps of a minute. @throws for an unknown variable */
function interpolate({ expr, interval }: Dataquery): string {
  const scrape = parseDuration(interval!);
  const values: Record<string, string> = {
    __interval: "1m",
    __rate_interval: `${Math.max(MINUTE + scrape, 4 * scrape) / MINUTE}m`,
    __range: "1h",
    partner: ".*",
  };
  return expr.replaceAll(/\$(?:\{(\w+)\}|(\w+))/g, (whole, braced?: string, plain?: string) => {
    const value = values[braced ?? plain!];
    if (value === undefined) throw new Error(`Grafana has no variable ${whole}`);
    return value;
  });
}

const STEPS = Array.from({ length: 61 }, (_, n) => NOON.getTime() - HOUR + n * MINUTE);

/** What a target asks for: the value at noon, or those of the hour before. */
function timesOf({ instant }: Dataquery): QueryOptions {
  return instant
    ? { start: NOON.getTime() }
    : { start: STEPS[0]!, end: STEPS.at(-1)!, step: MINUTE };
}

const evaluate = (text: string, options: QueryOptions, series: readonly SampledSeries[] = demo) =>
  runQuery(prepareQuery(parseExpr(text), text, options), sourceOf(series));

/** Lines of a panel. A number without labels is one too. */
function linesOf({ value }: QueryResult): { labels: Labels; times: number[]; values: number[] }[] {
  switch (value.type) {
    case "matrix":
      return value.series.map(({ labels, times, values }) => ({
        labels,
        times: [...times],
        values: [...values],
      }));
    case "vector":
      return value.samples.map((sample) => ({
        labels: sample.labels,
        times: [value.time],
        values: [sample.value],
      }));
    default:
      throw new Error(`A panel cannot show a ${value.type}`);
  }
}

/** The name that Grafana gives a line. */
const renderLegend = (legend: string, labels: Labels): string =>
  legend.replaceAll(/\{\{(\w+)\}\}/g, (_, name: string) => labels[name] ?? "").trim();

/** Matchers of every selector in an expression. */
const selectorsOf = (text: string): (readonly Matcher[])[] =>
  prepareQuery(parseExpr(text), text, { start: NOON.getTime() }).selections
    .map(({ matchers }) => matchers);

/** Label names by metric, of the demo data. */
const labelNames = new Map<string, Set<string>>();
for (const { labels: { [METRIC_NAME]: metric, ...labels } } of demo) {
  const names = labelNames.get(metric!) ?? new Set();
  for (const name of Object.keys(labels)) names.add(name);
  labelNames.set(metric!, names);
}

const queries = dashboards.flatMap(({ dashboard }) =>
  panelsOf(dashboard).flatMap((panel) =>
    targetsOf(panel).map((target) =>
      [
        `${dashboard.title}, ${panel.title}, ${target.refId}`,
        {
          unit: panel.fieldConfig!.defaults.unit!,
          target,
          text: interpolate(target),
        },
      ] as const
    )
  )
);

describe("the demo data", () => {
  it("has every metric that a collector measures", () => {
    expect(collected.length).toBeGreaterThan(30);
    expect(collected).toContainEqual({
      metric: "database_connections",
      kind: "gauge",
      interval: MINUTE,
    });
    expect(collected).toContainEqual({
      metric: "pgvigil_overflow_samples_total",
      kind: "counter",
      interval: 5 * MINUTE,
    });
    const named = [...page.matchAll(/^\| `(\w+)`/gm)].map(([, name]) => name!)
      .filter((name) => !name.startsWith("collect_"));
    expect([...labelNames.keys()]).toEqual(expect.arrayContaining(named));
  });

  it("has the labels that docs/metrics.md tells", () => {
    const told = [...page.matchAll(/`(\w+)\{(\w+)\}`/g)];
    expect(told.length).toBeGreaterThan(5);
    for (const [, metric, label] of told) expect(labelNames.get(metric!)).toContain(label);
  });

  it("has labels of metrics that exist", () => {
    const metrics = [...collected, ...PARTNER_METRICS].map(({ metric }) => metric);
    expect(metrics).toEqual(expect.arrayContaining(Object.keys(SERIES_LABELS)));
  });
});

describe.each(dashboards)("$file", ({ file, dashboard }) => {
  const elements = elementsOf(dashboard);

  it("is what Grafana imports: known by a uid that stays, in the time zone of whoever looks", () => {
    expect(dashboard.uid).toBe(`pgvigil-${file.replace(".json", "")}`);
    expect(dashboard.uid!.length).toBeLessThanOrEqual(40);
    expect(dashboard).toMatchObject({ timezone: "browser", refresh: "5m" });
    expect(dashboard).not.toHaveProperty("id");
    expect(dashboard.schemaVersion).toBe(42);
    expect(dashboard.annotations).toEqual({ list: [] });
    expect(dashboard.links).toMatchObject([{ type: "dashboards", tags: ["pgvigil"] }]);
    expect(dashboard.links![0]).not.toHaveProperty("placement");
  });

  it("names no host and no data source but the chosen one", () => {
    expect(JSON.stringify(dashboard)).not.toMatch(/https?:|localhost|\d+\.\d+\.\d+\.\d+/);
    expect(dashboard.templating.list![0]).toMatchObject({ type: "datasource", name: "datasource" });
    for (const panel of panelsOf(dashboard)) {
      expect([panel.datasource, ...targetsOf(panel).map((target) => target.datasource)])
        .toEqual(Array.from({ length: targetsOf(panel).length + 1 }, () => DATA_SOURCE));
    }
  });

  it("has an id for each panel and row, none twice", () => {
    expect(new Set(elements.map(({ id }) => id)).size).toBe(elements.length);
    expect(Math.min(...elements.map(({ id }) => id!))).toBe(1);
  });

  it("has titles, descriptions, units and a word for no data, and queries", () => {
    for (const panel of panelsOf(dashboard)) {
      expect(panel.title).toMatch(/^[A-Z]/);
      expect(panel.description).toMatch(/^[A-Z\d].{20,}\.$/);
      expect(panel.fieldConfig!.defaults.unit).toMatch(/^\w+$/);
      expect(panel.fieldConfig!.defaults.noValue).toMatch(/\w/);
      expect(panel.targets).not.toHaveLength(0);
    }
  });

  it("names alerts that are shipped", () => {
    const named = panelsOf(dashboard).flatMap(({ description }) =>
      description!.match(/\b[A-Z][a-z]+[A-Z]\w+/g) ?? []
    );
    expect(named).not.toHaveLength(0);
    // One of a rule, or one that the monitor raises by itself: monitor.list_conditions.
    expect([...shippedAlerts, "JobMissing"]).toEqual(expect.arrayContaining(named));
  });

  it("has no panels on top of each other, beside the 24 columns, or apart", () => {
    const taken = new Map<string, string>();
    for (const { title, gridPos } of elements) {
      const { x, y, w, h } = gridPos!;
      expect(x + w).toBeLessThanOrEqual(24);
      for (let column = x; column < x + w; column++) {
        for (let line = y; line < y + h; line++) {
          expect([title, taken.get(`${column} ${line}`)]).toEqual([title, undefined]);
          taken.set(`${column} ${line}`, title!);
        }
      }
    }
    const height = Math.max(...elements.map(({ gridPos }) => gridPos!.y + gridPos!.h));
    expect(taken.size).toBe(24 * height);
  });

  it("tells its lines apart", async () => {
    for (const panel of panelsOf(dashboard)) {
      const legends = await Promise.all(
        targetsOf(panel).map(async (target) => {
          const result = await evaluate(interpolate(target), timesOf(target));
          return linesOf(result).map(({ labels }) => renderLegend(target.legendFormat!, labels));
        }),
      );
      const shown = legends.flat();
      expect([panel.title, shown.filter((legend) => legend === "")]).toEqual([panel.title, []]);
      expect(shown).toEqual([...new Set(shown)]);
    }
  });
});

describe("dashboards", () => {
  it("have a uid each", () => {
    expect(dashboards).toHaveLength(2);
    expect(new Set(dashboards.map(({ dashboard }) => dashboard.uid)).size).toBe(2);
  });
});

describe("an expression of a panel", () => {
  it.each(queries)("%s: reads what somebody measures, by labels it has", (_, { text }) => {
    for (const matchers of selectorsOf(text)) {
      const metric = matchers.find(({ name, op }) => name === METRIC_NAME && op === "=")?.value;
      expect([...labelNames.keys()]).toContain(metric);
      for (const { name } of matchers) {
        if (name !== METRIC_NAME) expect(labelNames.get(metric!)).toContain(name);
      }
    }
  });

  it.each(queries)("%s: has a result, at every moment", async (_, { text, target, unit }) => {
    const result = await evaluate(text, timesOf(target));
    expect([...result.warnings, ...result.infos]).toEqual([]);
    const lines = linesOf(result);
    expect(lines).not.toHaveLength(0);
    for (const { times } of lines) expect(times).toEqual(target.instant ? [NOON.getTime()] : STEPS);
    const values = lines.flatMap((line) => line.values);
    expect(values.filter((value) => !Number.isFinite(value))).toEqual([]);
    const most = { percentunit: 1, percent: 100 }[unit] ?? Infinity;
    expect(values.filter((value) => value < 0 || value > most)).toEqual([]);
  });
});

describe("a variable", () => {
  const variables = dashboards.flatMap(({ dashboard }) =>
    (dashboard.templating.list ?? []).filter(({ type }) => type === "query")
  );

  it.each(variables)("$name: finds values", async ({ query, definition, allValue, datasource }) => {
    expect(datasource).toEqual(DATA_SOURCE);
    expect(allValue).toBe(".*");
    const { query: text } = query as { query: string };
    expect(definition).toBe(text);
    const [, selector, label] = /^label_values\((.+), (\w+)\)$/.exec(text)!;
    const lines = linesOf(await evaluate(selector!, { start: NOON.getTime() }));
    expect(new Set(lines.map(({ labels }) => labels[label!]))).toEqual(new Set(["acme", "globex"]));
  });
});

describe("shareOfGrowth()", () => {
  const growth = { metric: "calls_total", part: `status="failed"`, window: "10m" };
  /** A counter that grows by so much a minute. */
  const counter = (status: string, step: number): SampledSeries => ({
    labels: { [METRIC_NAME]: "calls_total", partner: "acme", status },
    times: STEPS,
    values: STEPS.map((_, n) => n * step),
  });
  const valuesOf = async (text: string, series: readonly SampledSeries[]) =>
    linesOf(await evaluate(text, { start: NOON.getTime() }, series)).flatMap(({ values }) =>
      values
    );

  it.each([
    ["the share of what grew", [counter("success", 3), counter("failed", 1)], [0.25]],
    ["0 where there is no part", [counter("success", 3)], [0]],
    ["0 where the part does not grow", [counter("success", 3), counter("failed", 0)], [0]],
    ["1 where there is nothing else", [counter("failed", 1)], [1]],
    ["nothing where nothing grows", [counter("success", 0), counter("failed", 0)], []],
    ["nothing where there is nothing", [], []],
  ])("is %s", async (_, series, expected) => {
    expect(await valuesOf(shareOfGrowth(growth), series)).toEqual(expected);
    expect(await valuesOf(shareOfGrowth({ ...growth, by: "partner" }), series)).toEqual(expected);
  });

  it("looks among what it is told", async () => {
    const series = [counter("success", 3), counter("failed", 1), counter("ignored", 4)];
    const text = shareOfGrowth({ ...growth, among: `status!="ignored"` });
    expect(await valuesOf(text, series)).toEqual([0.25]);
  });
});

describe("toThresholds()", () => {
  it.each([
    ["none", {}, [[null, "green"]]],
    ["one above", { warning: 1 }, [[null, "green"], [1, "orange"]]],
    ["a critical one above", { critical: 5 }, [[null, "green"], [5, "red"]]],
    ["two above", { warning: 2, critical: 5 }, [[null, "green"], [2, "orange"], [5, "red"]]],
    ["two below", { warning: 99, critical: 95 }, [[null, "red"], [95, "orange"], [99, "green"]]],
  ])("colours %s", (_, limits, expected) => {
    expect(toThresholds(limits).map(({ value, color }) => [value, color])).toEqual(expected);
  });
});
