/**
 * A leg of CI: the same samples in Debian's Prometheus and in a local stack, which answer the same expressions alike;
 * Prometheus' own clients read from the stack. Fetches the package on Debian 12 if it is not installed, without
 * installing it; elsewhere the leg is skipped. Ends with `N passed, N failed`.
 */
import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import process from "node:process";
import pg from "pg";
import { poll } from "../local/processes.ts";
import type { Expr } from "../shared/promql/ast.ts";
import { FUNCTIONS } from "../shared/promql/function-signatures.ts";
import { parseExpr } from "../shared/promql/parse-expr.ts";
import { METRIC_NAME } from "../shared/promql/series.ts";
import { startTestStack, type TestStack } from "../tests/stack.ts";
import {
  type Answer,
  ask,
  findDifference,
  isEmpty,
  type Server,
} from "./prometheus-leg/compare.ts";
import { EXPRESSIONS, LEFT_OUT, REFUSED } from "./prometheus-leg/expressions.ts";
import {
  findPrometheus,
  type PrometheusPrograms,
  type RealPrometheus,
  startPrometheus,
} from "./prometheus-leg/real-prometheus.ts";
import { makeSamples, SAMPLES_END, SAMPLES_START } from "./prometheus-leg/samples.ts";
import { storeSeries } from "./prometheus-leg/store-series.ts";

/**
 * Seconds. Eleven past the minute, and every 90: subqueries have steps of 10 s, 15 s, 30 s, 1 min and 2 min, and none of
 * them is to begin just on one.
 */
const RANGE = { start: SAMPLES_START / 1000 + 3611, end: SAMPLES_END / 1000 - 1200, step: 90 };
const INSTANTS = [SAMPLES_START / 1000 + 4511, SAMPLES_END / 1000 - 2989];
const MODES = [
  ...INSTANTS.map((time) => ({ path: "query", params: { time } })),
  { path: "query_range", params: RANGE },
];

const startedAt = performance.now();
const say = (line: string) =>
  console.log(`${((performance.now() - startedAt) / 1000).toFixed(1).padStart(6)} s  ${line}`);

let [passed, failed] = [0, 0];
/** Counts a claim that holds unless there is a `difference`; tells it if it does not hold, or when it is `told`. */
function check(claim: string, difference: string | undefined, isTold = true): void {
  if (difference === undefined) passed += 1;
  else failed += 1;
  if (difference !== undefined) say(`FAILED  ${claim}: ${difference}`);
  else if (isTold) say(`ok      ${claim}`);
}

/** Undefined if both are the same. */
function differ(expected: unknown, actual: unknown): string | undefined {
  const [wanted, got] = [JSON.stringify(expected), JSON.stringify(actual)];
  return wanted === got ? undefined : `expected ${wanted}, got ${got}`;
}

function checkCoverage(): void {
  const used = new Set<string>();
  const visit = (node: Expr): void => {
    if (node.kind === "call") used.add(node.func);
    const children = Object.values(node).flat().filter((child) => child?.kind !== undefined);
    for (const child of children) visit(child as Expr);
  };
  EXPRESSIONS.forEach((text) => visit(parseExpr(text)));
  const missing = [...FUNCTIONS.keys()].filter((name) => !used.has(name) && !(name in LEFT_OUT));
  check(
    `every function is compared, or left out for a reason (${used.size}, ${
      Object.keys(LEFT_OUT).length
    })`,
    differ([], missing),
  );
}

async function compareExpressions(prometheus: Server, ours: Server): Promise<void> {
  const compare = async (query: string, isRefused: boolean): Promise<string | undefined> => {
    let isAnyFilled = false;
    for (const { path, params } of MODES) {
      const [expected, actual] = await Promise.all(
        [prometheus, ours].map((server) => ask(server, path, { query, ...params })),
      ) as [Answer, Answer];
      const isOrdered = path === "query" && /^(sort|sort_desc|topk|bottomk)\(/.test(query);
      const difference = findDifference(expected, actual, isOrdered);
      if (difference !== undefined) {
        return `${path} ${JSON.stringify(params)}: ${difference.slice(0, 600)}`;
      }
      isAnyFilled ||= isRefused ? expected.status !== 200 : !isEmpty(expected);
    }
    return isAnyFilled ? undefined : `Prometheus has ${isRefused ? "an answer" : "no result"}`;
  };
  const before = failed;
  for (const query of EXPRESSIONS) check(query, await compare(query, false), false);
  for (const query of REFUSED) check(`refused: ${query}`, await compare(query, true), false);
  say(
    `${EXPRESSIONS.length} expressions and ${REFUSED.length} that are refused, each at ${INSTANTS.length} ` +
      `times and over a range: ${failed - before} differ`,
  );
}

/** Names or values of labels, or series. */
type Found = readonly (string | Readonly<Record<string, string>>)[];

async function compareLookups(prometheus: Server, ours: Server): Promise<void> {
  const times = { start: SAMPLES_START / 1000, end: SAMPLES_END / 1000 };
  const lookups: readonly (readonly [path: string, selector: string])[] = [
    ["series", `{job="api"}`],
    ["series", `{__name__=~"temp.*"}`],
    ["labels", `{__name__!=""}`],
    ["labels", `http_requests_total`],
    ["label/room/values", `{room!=""}`],
    ["label/__name__/values", `{job=~"a.+|web"}`],
    ["label/nothing/values", `up`],
  ];
  for (const [path, selector] of lookups) {
    const [expected, actual] = await Promise.all(
      [prometheus, ours].map((server) =>
        ask<Found>(server, path, { "match[]": selector, ...times })
      ),
    ) as [Answer<Found>, Answer<Found>];
    check(`/${path} of ${selector}`, differ(normalize(expected), normalize(actual)));
  }
}

/** Series in one order, their labels too. */
function normalize({ status, data = [] }: Answer<Found>) {
  const items = data.map((item) =>
    typeof item === "string" ? item : JSON.stringify(Object.entries(item).sort())
  );
  return { status, items: items.every((item) => item.startsWith("[")) ? items.sort() : items };
}

/** Runs a program to its end. The stack answers it meanwhile, from this process. */
async function run(program: string, args: readonly string[], input = "") {
  const child = spawn(program, args);
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  child.stdin.end(input);
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  return { status: await ended, stdout, stderr };
}

/** promtool asks both servers, and prints the same. */
async function comparePromtool(promtool: string, prometheus: string, ours: string): Promise<void> {
  const { start, end } = RANGE;
  const time = `--time=${INSTANTS[0]}`;
  const range = [`--start=${start}`, `--end=${end}`];
  const calls: readonly ((server: string) => readonly string[])[] = [
    (server) => ["instant", time, server, `topk(3, memory_bytes)`],
    (server) => ["instant", time, "--format=json", server, `rate(http_requests_total[5m])`],
    (server) => ["range", ...range, "--step=90s", server, `sum by (job) (up)`],
    (server) => ["series", ...range.map(toRfc3339), `--match={job="web"}`, server],
    (server) => ["labels", ...range.map(toRfc3339), server, "instance"],
  ];
  const refused = (server: string) => ["instant", time, server, "sum("];
  for (const call of [...calls, refused]) {
    const [expected, actual] = await Promise.all([prometheus, ours].map(async (server) => {
      const { status, stdout, stderr } = await run(promtool, ["query", ...call(server)]);
      const output = stdout.startsWith("[") ? sortJson(stdout) : stdout.split("\n").sort();
      return { status, output, isSilent: stderr === "" };
    }));
    const [kind, ...rest] = call("");
    check(
      `promtool query ${kind} ${rest.at(-1) || rest.at(-2)}`,
      differ({ ...expected, status: call === refused ? 1 : 0 }, actual),
    );
  }
}

const toRfc3339 = (flag: string) =>
  flag.replace(/\d+$/, (seconds) => new Date(Number(seconds) * 1000).toISOString());

const sortJson = (text: string) =>
  (JSON.parse(text) as { metric: Record<string, string> }[]).map((item) =>
    JSON.stringify({ ...item, metric: Object.entries(item.metric).sort() })
  ).sort();

/** Prometheus scrapes the exposition, which its linter has nothing against. */
async function watchScrape(
  { promtool }: PrometheusPrograms,
  prometheus: Server,
  ours: Server,
): Promise<void> {
  const read = async (accept: string) => {
    const response = await fetch(`${ours.url}/metrics`, { headers: { ...ours.headers, accept } });
    return response.text();
  };
  const exposed = await read("text/plain");
  const { status, stdout, stderr } = await run(promtool, ["check", "metrics"], exposed);
  check("promtool check metrics has nothing to say", differ([0, "", ""], [status, stdout, stderr]));

  const current = async (query: string): Promise<string[]> => {
    const { data } = await ask(prometheus, "query", { query });
    return data!.result.map(({ value }) => value![1]);
  };
  const isUp = await poll(async () => {
    const [up] = await current(`up{job="pgvigil"}`);
    return up === "1" ? true : undefined;
  }, 30);
  const { data: targets } = await ask<object>(prometheus, "targets", {});
  check("Prometheus scrapes /metrics", isUp ? undefined : `the target: ${JSON.stringify(targets)}`);
  const count = exposed.split("\n").filter((line) => line !== "" && !line.startsWith("#")).length;
  check(
    `Prometheus finds every sample of it (${count})`,
    differ(
      [String(count)],
      await current(`scrape_samples_scraped{job="pgvigil"}`),
    ),
  );
  for (const { labels, values } of makeSamples()) {
    const { [METRIC_NAME]: name, ...rest } = labels;
    const matchers = Object.entries(rest).map(([label, value]) =>
      `${label}=${JSON.stringify(value)}`
    );
    const found = await current(`${name}{${matchers.join()}, target="pgvigil"}`);
    check(
      `the newest value of ${name} is scraped`,
      differ([values[values.length - 1]], found.map(Number)),
      false,
    );
  }
  const [age] = await current(
    `pgvigil_observation_age_seconds{metric="memory_limit_bytes", job="api"}`,
  );
  const oldest = (Date.now() - SAMPLES_END) / 1000;
  check(
    "the age of an observation is scraped",
    Math.abs(Number(age) - oldest) < 120 ? undefined : `${age} s, not ${oldest} s`,
  );
}

async function startBoth(programs: PrometheusPrograms) {
  stack = await startTestStack({ cron: false });
  const db = new pg.Client({ connectionString: stack.facts.db_url });
  const series = makeSamples();
  let token: string;
  try {
    await db.connect();
    await db.query("set statement_timeout = 0");
    await storeSeries(db, series);
    await compactFirstDay(db);
    const { rows } = await db.query(
      "select monitor.create_access_token('prometheus', '{read}') ->> 'token' as token",
    );
    token = rows[0].token;
  } finally {
    await db.end();
  }
  const url = new URL(`${stack.facts.functions_url}/prometheus`);
  const scrapeConfigs = JSON.stringify([{
    job_name: "pgvigil",
    scrape_interval: "5s",
    // Ours come with labels job and instance.
    honor_labels: true,
    metrics_path: `${url.pathname}/metrics`,
    authorization: { credentials: token },
    static_configs: [{ targets: [url.host], labels: { target: "pgvigil" } }],
  }]);
  prometheus = await startPrometheus(programs, { series, scrapeConfigs });
  url.username = "promtool";
  url.password = token;
  say(`${series.length} series in both`);
  return {
    ours: {
      url: `${stack.facts.functions_url}/prometheus`,
      headers: { authorization: `Bearer ${token}` },
    },
    urlWithToken: url.href,
    theirs: { url: prometheus.url },
  };
}

/** Brings what is before midnight into chunks, so that ranges go over both ways of storing. */
async function compactFirstDay(db: pg.Client): Promise<void> {
  for (let more = true, minute = 0; more && minute < 60; minute += 2) {
    const { rows } = await db.query(
      "select monitor.compact_samples(2, $1::timestamptz + $2 * interval '1 minute') as result",
      [new Date(Math.ceil(SAMPLES_END / 86_400_000) * 86_400_000), minute],
    );
    more = rows[0].result.more;
  }
  const { rows } = await db.query("select day::text, state from monitor.sample_days order by day");
  check(
    "of the two days one is in chunks, one in rows",
    differ(["chunks", "rows"], rows.slice(0, 2).map(({ state }) => state)),
  );
}

let stack: TestStack | undefined;
let prometheus: RealPrometheus | undefined;
const programs = await findPrometheus();
if (typeof programs === "string") {
  console.log(`skipped: ${programs}`);
} else {
  try {
    const { ours, urlWithToken, theirs } = await startBoth(programs);
    const { data } = await ask<{ version: string }>(ours, "status/buildinfo", {});
    say(`Prometheus ${programs.version}; pgvigil answers as Prometheus ${data?.version}`);
    checkCoverage();
    await compareExpressions(theirs, ours);
    await compareLookups(theirs, ours);
    await comparePromtool(programs.promtool, theirs.url, urlWithToken);
    await watchScrape(programs, theirs, ours);
  } catch (error) {
    check("the leg runs to its end", (error as Error).stack);
  } finally {
    await prometheus?.stop();
    await stack?.stop();
    await programs.remove();
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
