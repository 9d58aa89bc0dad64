import { describe, expect, it } from "vitest";
import type { Selection } from "../../shared/promql/series.ts";
import { DatabaseError } from "../../supabase/functions/_shared/database.ts";
import {
  LOOKUP_LIMIT,
  queryStore,
  selectionStore,
} from "../../supabase/functions/_shared/query-stores.ts";
import { answeringDatabase, NOON } from "../fixtures.ts";

const selection = (name: string, pattern?: string): Selection => ({
  matchers: [
    { name: "__name__", op: "=", value: name },
    ...pattern === undefined ? [] : [{ name: "job", op: "=~", value: pattern } as const],
  ],
  from: 1000,
  until: 2000,
});

const NONE = { clocks: [], series: [], samples: 0 };

/** Patterns that Postgres cannot be asked for: it knows no such classes. */
const UNTRANSLATED = String.raw`\pL+`;

describe("selectionStore()", () => {
  it("asks for all selections at once, patterns translated, within the time given", async () => {
    const { database, calls } = answeringDatabase(JSON.stringify(NONE));
    const selections = [selection("up", "a.*"), selection("down", String.raw`\d+`)];
    expect(await selectionStore(database, 1.5).select(selections)).toEqual([[], []]);
    expect(calls).toEqual([["read_selections", {
      p_selections: [
        {
          ...selections[0],
          matchers: [selections[0]!.matchers[0], expect.objectContaining({ value: "a.*" })],
        },
        {
          ...selections[1],
          matchers: [selections[1]!.matchers[0], expect.objectContaining({ value: "[0-9]+" })],
        },
      ],
      p_samples_limit: 1_000_000,
    }, 1.5]]);
  });

  it("hands each selection its series, with the times that they share", async () => {
    const { database } = answeringDatabase(JSON.stringify({
      clocks: [[1000, 1500], [1200]],
      series: [
        { metric: "up", labels: { job: "a" }, in: [0, 1], clock: 0, values: [1, 2] },
        { metric: "up", labels: { job: "b" }, in: [1], clock: 0, values: [3, 4] },
        { metric: "up", labels: {}, in: [0], clock: 1, values: [5] },
      ],
      samples: 5,
    }));
    const [first, second] = await selectionStore(database).select([
      selection("up"),
      selection("up", "a|b"),
    ]);
    expect(first).toEqual([
      {
        labels: { __name__: "up", job: "a" },
        times: Float64Array.of(1000, 1500),
        values: Float64Array.of(1, 2),
      },
      { labels: { __name__: "up" }, times: Float64Array.of(1200), values: Float64Array.of(5) },
    ]);
    expect(second!.map(({ labels }) => labels.job)).toEqual(["a", "b"]);
    expect(second![0]!.times).toBe(second![1]!.times);
  });

  it("judges by itself what the database cannot be asked", async () => {
    const series = ["abc", "é", "a1"].map((job) => ({
      ...{ metric: "up", labels: { job }, in: [0, 1, 2], clock: 0, values: [1] },
    }));
    const { database, calls } = answeringDatabase(
      JSON.stringify({ clocks: [[1000]], series, samples: 3 }),
    );
    const found = await selectionStore(database).select([
      selection("up", UNTRANSLATED),
      { ...selection("up"), matchers: [{ name: "job", op: "!~", value: UNTRANSLATED }] },
      selection("up"),
    ]);
    expect(found.map((each) => each.map(({ labels }) => labels.job))).toEqual([
      ["abc", "é"],
      ["a1"],
      ["abc", "é", "a1"],
    ]);
    expect(calls[0]![1]).toMatchObject({
      p_selections: [{ matchers: [{ value: "up" }] }, { matchers: [] }, {
        matchers: [{ value: "up" }],
      }],
    });
  });

  it("judges by itself what no text of the database can be", async () => {
    const { database, calls } = answeringDatabase(JSON.stringify({
      clocks: [[1000]],
      series: [{ metric: "up", labels: { job: "a" }, in: [0, 1, 2, 3], clock: 0, values: [1] }],
      samples: 1,
    }));
    const ask = (name: string, op: "=" | "!=" | "=~", value: string): Selection => ({
      ...selection("up"),
      matchers: [{ name, op, value }],
    });
    const found = await selectionStore(database).select([
      ask("job", "=", "\u0000"),
      ask("job", "!=", "\udc80"),
      ask("job", "=~", "a|\u0000"),
      ask("job", "=", "\u{1f600}"),
      ask("\u0000", "=", ""),
    ]);
    expect(found.map(({ length }) => length)).toEqual([0, 1, 1, 1, 0]);
    expect(calls[0]![1]).toMatchObject({
      p_selections: [[], [], [], [{ name: "job", op: "=", value: "\u{1f600}" }], []]
        .map((matchers) => ({ matchers })),
    });
  });

  it.each([
    ["54000", "as many as that"],
    ["", "more than 1000000 samples would have to be read: take a shorter range"],
    ["", "20001 series match, and at most 20000 are read at once"],
  ])("takes a refusal %s %j for a limit", async (code, reason) => {
    const { database } = answeringDatabase(
      new DatabaseError("read_selections", "refused", code, reason),
    );
    await expect(selectionStore(database).select([selection("up")]))
      .rejects.toMatchObject({ name: "PromqlError", kind: "limit", message: reason });
  });

  it("takes nothing else for one", async () => {
    const error = new DatabaseError("read_selections", "refused", "22023", "malformed");
    await expect(selectionStore(answeringDatabase(error).database).select([selection("up")]))
      .rejects.toBe(error);
  });

  it("reads 1,000 selections, and no more", async () => {
    const { database, calls } = answeringDatabase(JSON.stringify(NONE));
    const select = (count: number) =>
      selectionStore(database).select(Array.from({ length: count }, () => selection("up")));
    expect(await select(1000)).toHaveLength(1000);
    await expect(select(1001)).rejects.toMatchObject({ kind: "limit" });
    expect(calls).toHaveLength(1);
  });
});

describe("queryStore()", () => {
  const lookup = {
    selectors: [[{ name: "job", op: "=", value: "a" }]] as const,
    from: NOON,
    until: NOON,
    limit: 2,
  };
  const at = NOON.toISOString();
  const args = {
    p_selectors: [[{ name: "job", op: "=", value: "a" }]],
    p_from: at,
    p_until: at,
    p_limit: 2,
  };
  const untranslated = {
    ...lookup,
    selectors: [[{ name: "job", op: "=~", value: UNTRANSLATED }]] as const,
  };
  const seriesOf = (jobs: string[], isComplete = true) => ({
    series: jobs.map((job) => ({ metric: `up_${job}`, labels: { job } })),
    is_complete: isComplete,
  });

  it("looks up series", async () => {
    const { database, calls } = answeringDatabase(seriesOf(["a"], false));
    expect(await queryStore(database).readSeriesLabels(lookup)).toEqual({
      items: [{ __name__: "up_a", job: "a" }],
      isComplete: false,
    });
    expect(calls).toEqual([["read_series_labels", args]]);
  });

  it("looks up names and values", async () => {
    const names = answeringDatabase({ names: ["__name__", "job"], is_complete: true });
    expect(await queryStore(names.database).readLabelNames(lookup))
      .toEqual({ items: ["__name__", "job"], isComplete: true });
    expect(names.calls).toEqual([["read_label_names", args]]);
    const values = answeringDatabase({ values: ["a"], is_complete: false });
    expect(await queryStore(values.database).readLabelValues("job", lookup))
      .toEqual({ items: ["a"], isComplete: false });
    expect(values.calls).toEqual([["read_label_values", { ...args, p_label: "job" }]]);
  });

  it.each(["\u0000", "a\udc80"])(
    "asks for nothing by a name that there cannot be: %j",
    async (name) => {
      const { database, calls } = answeringDatabase(new Error("asked"));
      const store = queryStore(database);
      expect(await store.readLabelValues(name, lookup)).toEqual({ items: [], isComplete: true });
      expect(await store.readMetadata(name, 5)).toEqual([]);
      expect(calls).toEqual([]);
    },
  );

  it("finds no label by the name of what any object has", async () => {
    const { database } = answeringDatabase(seriesOf(["a"]));
    expect(await queryStore(database).readLabelValues("constructor", untranslated))
      .toEqual({ items: [], isComplete: true });
  });

  it("reads all series where the database cannot judge, and judges them", async () => {
    const { database, calls } = answeringDatabase(seriesOf(["b", "1", "a"]));
    const store = queryStore(database);
    expect((await store.readSeriesLabels(untranslated)).items.map(({ job }) => job))
      .toEqual(["b", "a"]);
    expect(await store.readLabelValues("job", untranslated))
      .toEqual({ items: ["a", "b"], isComplete: true });
    expect(await store.readLabelValues("none", untranslated))
      .toEqual({ items: [], isComplete: true });
    expect(await store.readLabelNames({ ...untranslated, limit: 1 }))
      .toEqual({ items: ["__name__"], isComplete: false });
    expect(calls).toEqual(
      Array(4).fill(["read_series_labels", { ...args, p_selectors: [[]], p_limit: LOOKUP_LIMIT }]),
    );
  });

  it.each([[["a", "b"], true, true], [["a", "b", "c"], true, false], [["a"], false, false]])(
    "knows of %j, complete: %s, whether two are all: %s",
    async (jobs, isComplete, expected) => {
      const { database } = answeringDatabase(seriesOf(jobs, isComplete));
      const found = await queryStore(database).readSeriesLabels(untranslated);
      expect([found.items.length, found.isComplete]).toEqual([Math.min(2, jobs.length), expected]);
    },
  );

  it("reads metadata and the newest samples", async () => {
    const definition = { metric: "up", kind: "gauge", unit: "count", description: "Up." };
    const metadata = answeringDatabase([definition]);
    expect(await queryStore(metadata.database).readMetadata("up", 5)).toEqual([definition]);
    expect(metadata.calls).toEqual([["read_metadata", { p_metric: "up", p_limit: 5 }]]);
    const exposition = answeringDatabase({
      metrics: [{ ...definition, category: "system" }],
      series: [{ metric: "up", labels: { job: "a" }, time: 5, value: 1.5 }],
      is_complete: false,
    });
    expect(await queryStore(exposition.database).readExposition(7, NOON))
      .toMatchObject({
        metrics: [definition],
        series: [{ metric: "up", labels: { job: "a" }, time: 5, value: 1.5 }],
        isComplete: false,
      });
    expect(exposition.calls).toEqual([["read_exposition", { p_series_limit: 7, p_now: at }]]);
  });
});
