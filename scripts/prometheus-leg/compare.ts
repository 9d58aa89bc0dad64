/** Asks two servers the same, and says where they differ. */

/** A server that speaks Prometheus' API. */
export interface Server {
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** What a server said: Prometheus' envelope, and the status of the answer in place of its own. */
export interface Answer<Data = QueryData> {
  readonly status: number;
  readonly errorType?: string;
  readonly error?: string;
  readonly data?: Data;
}

/** The value of a query. */
export interface QueryData {
  readonly resultType: "vector" | "matrix" | "scalar" | "string";
  /** Of a scalar or a string: its point. */
  readonly result: readonly ResultSeries[];
  /** Only of Prometheus, and only when asked for; in seconds. */
  readonly stats?: { readonly timings: Readonly<Record<Timing, number>> };
}

type Timing = "innerEvalTime" | "evalTotalTime" | "execTotalTime";
type Point = readonly [time: number, value: string];

interface ResultSeries {
  readonly metric: Readonly<Record<string, string>>;
  /** Of a vector. */
  readonly value?: Point;
  /** Of a matrix. */
  readonly values?: readonly Point[];
}

/** What Prometheus answers by POST as well, which is how Grafana asks. */
const POSTED = ["query", "query_range", "series", "labels"];

/** Floats may differ by that much of themselves. */
const TOLERANCE = 1e-9;

export async function ask<Data = QueryData>(
  { url, headers = {} }: Server,
  path: string,
  params: Readonly<Record<string, string | number>>,
): Promise<Answer<Data>> {
  const form = new URLSearchParams(
    Object.entries(params).map(([name, value]) => [name, String(value)]),
  );
  const response = POSTED.includes(path)
    ? await fetch(`${url}/api/v1/${path}`, { method: "POST", headers, body: form })
    : await fetch(`${url}/api/v1/${path}?${form}`, { headers });
  return { ...await response.json(), status: response.status };
}

/** How two answers differ, undefined if they do not. Whether their order counts is for the query to say. */
export function findDifference(
  expected: Answer,
  actual: Answer,
  isOrdered: boolean,
): string | undefined {
  if (expected.status !== actual.status || expected.errorType !== actual.errorType) {
    return `expected ${describe(expected)}, got ${describe(actual)}`;
  }
  if (expected.status !== 200) return undefined;
  const [wanted, got] = [toPoints(expected), toPoints(actual)];
  const [wantedKeys, gotKeys] = [[...wanted.keys()], [...got.keys()]];
  if (!isOrdered) [wantedKeys, gotKeys].forEach((keys) => keys.sort());
  if (JSON.stringify(wantedKeys) !== JSON.stringify(gotKeys)) {
    return `expected series ${wantedKeys.join(" ")}, got ${gotKeys.join(" ")}`;
  }
  for (const [key, points] of wanted) {
    const difference = findPointDifference(points, got.get(key)!);
    if (difference !== undefined) return `${key}: ${difference}`;
  }
  return undefined;
}

/** Whether a result has no values at all. */
export function isEmpty({ data }: Answer): boolean {
  return data?.result.length === 0;
}

function describe({ status, errorType, error }: Answer): string {
  return [status, errorType, error].filter((part) => part !== undefined).join(" ");
}

/** Values by the type of the result and the labels of their series. */
function toPoints({ data }: Answer): Map<string, readonly Point[]> {
  const { resultType, result } = data!;
  if (resultType === "scalar" || resultType === "string") {
    return new Map([[resultType, [result as unknown as Point]]]);
  }
  return new Map(result.map(({ metric, value, values }) => [
    `${resultType} ${JSON.stringify(Object.entries(metric).sort())}`,
    values ?? [value!],
  ]));
}

function findPointDifference(
  expected: readonly Point[],
  actual: readonly Point[],
): string | undefined {
  if (expected.length !== actual.length) {
    return `expected ${expected.length} values, got ${actual.length}`;
  }
  for (const [place, [time, value]] of expected.entries()) {
    const [actualTime, actualValue] = actual[place]!;
    if (time !== actualTime || !isClose(value, actualValue)) {
      return `expected ${value} at ${time}, got ${actualValue} at ${actualTime}`;
    }
  }
  return undefined;
}

function isClose(expected: string, actual: string): boolean {
  if (expected === actual) return true;
  const [a, b] = [expected, actual].map(Number) as [number, number];
  return Math.abs(a - b) <= TOLERANCE * Math.max(Math.abs(a), Math.abs(b));
}
