import { describe, expect, it } from "vitest";
import {
  type ExpositionFormat,
  type LatestSample,
  type MetricDefinition,
  renderExposition,
} from "../../shared/promql/exposition.ts";

const NOW = Date.UTC(2026, 1, 1, 12);
const ALL_BYTES = 1_000_000;

const define = (metric: string, changes: Partial<MetricDefinition> = {}): MetricDefinition => ({
  metric,
  kind: "gauge",
  unit: "count",
  description: `Of ${metric}.`,
  ...changes,
});
const counter = (metric: string) => define(metric, { kind: "counter" });

const sample = (
  metric: string,
  value: number,
  labels: Record<string, string> = {},
  ageSeconds = 0,
): LatestSample => ({ metric, labels, value, time: NOW - ageSeconds * 1000 });

/** The lines of an exposition without those that every one has. */
function render(
  metrics: MetricDefinition[],
  series: LatestSample[],
  format: ExpositionFormat = "text",
  bytesLimit = ALL_BYTES,
) {
  const { text } = renderExposition(
    { metrics, series, isComplete: true },
    { format, now: NOW, bytesLimit },
  );
  const ages = text.indexOf(
    format === "text" ? "# HELP pgvigil_observation" : "# TYPE pgvigil_observation",
  );
  return text.slice(0, ages).split("\n").slice(0, -1);
}

const renderWhole = (
  metrics: MetricDefinition[],
  series: LatestSample[],
  { format = "text", bytesLimit = ALL_BYTES, isComplete = true }: {
    format?: ExpositionFormat;
    bytesLimit?: number;
    isComplete?: boolean;
  } = {},
) => renderExposition({ metrics, series, isComplete }, { format, now: NOW, bytesLimit });

describe("renderExposition()", () => {
  it("renders a gauge and a counter as text 0.0.4, with ages, labels in order", () => {
    const { text, isTruncated } = renderWhole(
      [define("pg_size_bytes", { unit: "bytes" }), counter("requests_total")],
      [
        sample("pg_size_bytes", 1.5, {}, 60),
        sample("requests_total", 3, { z: "1", a: "2" }, 0.25),
        sample("requests_total", 4, { z: "2", a: "2" }, -5),
      ],
    );
    expect(isTruncated).toBe(false);
    expect(text).toBe(`# HELP pg_size_bytes Of pg_size_bytes.
# TYPE pg_size_bytes gauge
pg_size_bytes 1.5
# HELP requests_total Of requests_total.
# TYPE requests_total counter
requests_total{a="2",z="1"} 3
requests_total{a="2",z="2"} 4
# HELP pgvigil_observation_age_seconds Time since the newest sample of a series, which its labels name.
# TYPE pgvigil_observation_age_seconds gauge
pgvigil_observation_age_seconds{metric="pg_size_bytes"} 60
pgvigil_observation_age_seconds{a="2",metric="requests_total",z="1"} 0.25
pgvigil_observation_age_seconds{a="2",metric="requests_total",z="2"} 0
# HELP pgvigil_exposition_truncated Whether series were left out because there are too many: 1, else 0.
# TYPE pgvigil_exposition_truncated gauge
pgvigil_exposition_truncated 0
`);
  });

  it("names the ages of parts of histograms and summaries that are not whole by labels of their own", () => {
    const { text } = renderWhole(
      [counter("h_bucket"), define("s")],
      [sample("h_bucket", 1, { le: "1" }), sample("s", 1, { quantile: "0.5" })],
    );
    expect(text).toContain('h_bucket{le="1"} 1\n');
    expect(text).toContain('pgvigil_observation_age_seconds{exported_le="1",metric="h_bucket"} 0');
    expect(text).toContain('pgvigil_observation_age_seconds{exported_quantile="0.5",metric="s"} 0');
  });

  it("renders the same as OpenMetrics, counters by their stem, units where names end in them", () => {
    const { text } = renderWhole(
      [
        define("open", { unit: "count" }),
        define("pg_size_bytes", { unit: "bytes", description: 'a "b"' }),
        { ...counter("read_bytes_total"), unit: "bytes" },
        define("time", { unit: "seconds" }),
      ],
      [
        sample("open", 1),
        sample("pg_size_bytes", 1.5),
        sample("read_bytes_total", 3),
        sample("time", 1),
      ],
      { format: "openmetrics" },
    );
    expect(text).toBe(`# TYPE open gauge
# HELP open Of open.
open 1
# TYPE pg_size_bytes gauge
# UNIT pg_size_bytes bytes
# HELP pg_size_bytes a \\"b\\"
pg_size_bytes 1.5
# TYPE read_bytes counter
# UNIT read_bytes bytes
# HELP read_bytes Of read_bytes_total.
read_bytes_total 3
# TYPE time gauge
# HELP time Of time.
time 1
# TYPE pgvigil_observation_age_seconds gauge
# UNIT pgvigil_observation_age_seconds seconds
# HELP pgvigil_observation_age_seconds Time since the newest sample of a series, which its labels name.
pgvigil_observation_age_seconds{metric="open"} 0
pgvigil_observation_age_seconds{metric="pg_size_bytes"} 0
pgvigil_observation_age_seconds{metric="read_bytes_total"} 0
pgvigil_observation_age_seconds{metric="time"} 0
# TYPE pgvigil_exposition_truncated gauge
# HELP pgvigil_exposition_truncated Whether series were left out because there are too many: 1, else 0.
pgvigil_exposition_truncated 0
# EOF
`);
  });

  it("escapes what labels and help may hold", () => {
    const help = 'line\none \\ "quoted"';
    expect(render(
      [define("x", { description: help })],
      [sample("x", 1, { a: 'q"\\\n😀' })],
    )).toEqual(['# HELP x line\\none \\\\ "quoted"', "# TYPE x gauge", 'x{a="q\\"\\\\\\n😀"} 1']);
    expect(render([define("x", { description: help })], [sample("x", 1)], "openmetrics")[1])
      .toBe('# HELP x line\\none \\\\ \\"quoted\\"');
  });

  it.each([
    [define("x"), "gauge", "gauge"],
    [define("x_total"), "untyped", "unknown"],
    [define("x_count"), "untyped", "unknown"],
    [define("x_gauge"), "untyped", "unknown"],
    [define("x_gauge_y"), "untyped", "unknown"],
    [define("x_gauges"), "gauge", "gauge"],
    [counter("x_total"), "counter", "counter"],
    [counter("x_sum_total"), "untyped", "unknown"],
    [counter("x"), "untyped", "unknown"],
    [counter("x_bucket"), "untyped", "unknown"],
    [counter("_total"), "untyped", "unknown"],
  ])(
    "gives %j the type %s, %s in OpenMetrics",
    (definition, text, openMetrics) => {
      const series = [sample(definition.metric, 1)];
      expect(render([definition], series)[1]).toBe(`# TYPE ${definition.metric} ${text}`);
      expect(render([definition], series, "openmetrics")[0]).toMatch(
        new RegExp(`^# TYPE \\S+ ${openMetrics}$`),
      );
    },
  );

  it("keeps the suffix of a counter whose stem is another metric", () => {
    expect(
      render(
        [define("jobs"), counter("jobs_total")],
        [sample("jobs", 1), sample("jobs_total", 2)],
        "openmetrics",
      ).filter((line) => line.startsWith("# TYPE")),
    ).toEqual(["# TYPE jobs gauge", "# TYPE jobs_total unknown"]);
  });

  const histogram = ["t_bucket", "t_count", "t_sum"].map(counter);
  const parts = (labels: Record<string, string> = {}) => [
    sample("t_bucket", 3, { ...labels, le: "+Inf" }),
    sample("t_bucket", 2, { ...labels, le: "10" }),
    sample("t_bucket", 1, { ...labels, le: "2.5" }),
    sample("t_count", 3, labels, 7),
    sample("t_sum", 4.5, labels),
  ];

  it.each(["text", "openmetrics"] as const)(
    "makes a histogram of its parts, as %s",
    (format) => {
      const lines = render(histogram, [...parts({ a: "1" }), ...parts({ a: "2" })], format);
      expect(lines.filter((line) => line.startsWith("# TYPE"))).toEqual(["# TYPE t histogram"]);
      expect(lines.filter((line) => !line.startsWith("#"))).toEqual(
        ["1", "2"].flatMap((a) => [
          `t_bucket{a="${a}",le="2.5"} 1`,
          `t_bucket{a="${a}",le="10"} 2`,
          `t_bucket{a="${a}",le="+Inf"} 3`,
          `t_sum{a="${a}"} 4.5`,
          `t_count{a="${a}"} 3`,
        ]),
      );
    },
  );

  it("tells one age of a histogram: of its count", () => {
    const { text } = renderWhole(histogram, parts({ a: "1" }));
    expect(text.match(/^pgvigil_observation_age_seconds.*$/gm)).toEqual([
      'pgvigil_observation_age_seconds{a="1",metric="t_count"} 7',
    ]);
  });

  it.each<[string, MetricDefinition[], LatestSample[]]>([
    ["no endless bucket", histogram, parts().slice(1)],
    ["no sum", histogram, parts().slice(0, -1)],
    ["no count", histogram, parts().filter(({ metric }) => metric !== "t_count")],
    ["a bucket of other labels", histogram, [
      ...parts(),
      sample("t_bucket", 1, { le: "1", b: "1" }),
    ]],
    ["a bucket without a bound", histogram, [...parts(), sample("t_bucket", 1)]],
    ["a gauge for a sum", [histogram[0]!, histogram[1]!, define("t_sum")], parts()],
    ["another metric of its name", [define("t"), ...histogram], [sample("t", 1), ...parts()]],
  ])("makes no histogram with %s", (_name, metrics, series) => {
    const lines = render(metrics, series);
    expect(lines.filter((line) => line.includes(" histogram"))).toEqual([]);
    expect(lines.filter((line) => line.startsWith("t_bucket"))).not.toEqual([]);
    expect(lines.filter((line) => !line.startsWith("#"))).toHaveLength(series.length);
  });

  it("makes a summary of its parts, which may have no quantiles", () => {
    const metrics = [define("t"), counter("t_count"), counter("t_sum")];
    const series = [
      sample("t", 9, { a: "1", quantile: "0.9" }),
      sample("t", 5, { a: "1", quantile: "0.5" }),
      ...["1", "2"].flatMap((a) => [sample("t_count", 2, { a }), sample("t_sum", 3, { a })]),
    ];
    expect(render(metrics, series)).toEqual([
      "# HELP t Of t.",
      "# TYPE t summary",
      't{a="1",quantile="0.5"} 5',
      't{a="1",quantile="0.9"} 9',
      't_sum{a="1"} 3',
      't_count{a="1"} 2',
      't_sum{a="2"} 3',
      't_count{a="2"} 2',
    ]);
    expect(render(metrics, [...series, sample("t", 1, { a: "1" })])[1]).toBe("# TYPE t gauge");
  });

  it("renames a label that is taken by the name of the metric, until it is free", () => {
    const { text } = renderWhole([define("x")], [
      sample("x", 1, { metric: "y" }),
      sample("x", 2, { metric: "y", exported_metric: "z" }),
    ]);
    expect(text.match(/^pgvigil_observation_age_seconds.*$/gm)).toEqual([
      'pgvigil_observation_age_seconds{exported_metric="y",metric="x"} 0',
      'pgvigil_observation_age_seconds{exported_exported_metric="y",exported_metric="z",metric="x"} 0',
    ]);
  });

  it("leaves out stored metrics of its own names, and series without a definition", () => {
    const names = ["pgvigil_observation_age_seconds", "pgvigil_exposition_truncated"];
    expect(render(names.map((name) => define(name)), names.map((name) => sample(name, 9))))
      .toEqual([]);
    expect(render([], [sample("x", 1)])).toEqual([]);
    expect(render([define("x")], [])).toEqual([]);
  });

  it("ends cleanly at the limit of bytes, in whole series, and says so", () => {
    const metrics = [define("x", { description: "é" })];
    const series = ["1", "2"].map((a) => sample("x", 1, { a }));
    const exact = new TextEncoder().encode(
      '# HELP x é\n# TYPE x gauge\nx{a="1"} 1\nx{a="2"} 1\n' +
        'pgvigil_observation_age_seconds{a="1",metric="x"} 0\n' +
        'pgvigil_observation_age_seconds{a="2",metric="x"} 0\n',
    ).byteLength;
    const whole = renderWhole(metrics, series, { bytesLimit: exact });
    expect([whole.isTruncated, whole.text.match(/^x\{/gm)]).toEqual([false, ["x{", "x{"]]);
    const cut = renderWhole(metrics, series, { bytesLimit: exact - 1, format: "text" });
    expect([cut.isTruncated, cut.text.match(/^x\{/gm)]).toEqual([true, ["x{"]]);
    expect(cut.text).toMatch(/\npgvigil_exposition_truncated 1\n$/);
    expect(cut.text).not.toContain('{a="2"');
    const none = renderWhole(metrics, series, { bytesLimit: 1, format: "openmetrics" });
    expect(none.text).not.toContain("x{");
    expect(none.text).toMatch(/\npgvigil_exposition_truncated 1\n# EOF\n$/);
  });

  it("says so when not all was read", () => {
    const { text, isTruncated } = renderWhole([], [], { isComplete: false });
    expect([isTruncated, text.endsWith("pgvigil_exposition_truncated 1\n")])
      .toEqual([true, true]);
  });
});
