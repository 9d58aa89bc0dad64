/** Sends OTLP from a process of its own, so that what it costs is not what the server costs. Told by messages what to do. */
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { compressRequest, encodeOtlpRequest, type RequestOptions } from "./otlp-request.ts";

/** What the bench says: get ready with these requests, a list a sender; or go. */
export type Order =
  | {
    readonly prepare: readonly (readonly RequestOptions[])[];
    readonly url: string;
    readonly token: string;
  }
  | { readonly go: true };

/** What is answered when ready, and when all is sent. */
export type Report =
  | { readonly ready: true; readonly bytes: number }
  | {
    readonly seconds: number;
    readonly cpuSeconds: number;
    readonly latencies: number[];
    readonly retries: number;
  }
  | { readonly error: string };

/** Of a round; more is no measurement any more. */
const RETRIES_LIMIT = 20;

let send: (() => Promise<Report>) | undefined;

/** Each sender sends its requests one after another, as an exporter does; the senders side by side. */
function prepare({ prepare, url, token }: Extract<Order, { prepare: unknown }>): Report {
  const bodies = prepare.map((requests) =>
    requests.map((request) => compressRequest(encodeOtlpRequest(request)))
  );
  const headers = {
    authorization: `Bearer ${token}`,
    "content-type": "application/x-protobuf",
    "content-encoding": "gzip",
  };
  send = async () => {
    const cpu = process.cpuUsage();
    const latencies: number[] = [];
    let retries = 0;
    const startedAt = performance.now();
    await Promise.all(bodies.map(async (requests) => {
      for (const body of requests) {
        const sentAt = performance.now();
        for (;;) {
          const response = await fetch(url, { method: "POST", headers, body });
          const answer = await response.text();
          if (response.status === 503 && retries < RETRIES_LIMIT) {
            retries += 1; // what it says is to be sent again is, as an exporter does
            await sleep(Number(response.headers.get("retry-after") ?? 1) * 1000);
            continue;
          }
          // Whatever is not stored would be told here.
          if (response.status === 200 && answer === "") break;
          throw new Error(`${response.status}: ${answer.slice(0, 300)}`);
        }
        latencies.push(performance.now() - sentAt);
      }
    }));
    const { user, system } = process.cpuUsage(cpu);
    return {
      seconds: (performance.now() - startedAt) / 1000,
      cpuSeconds: (user + system) / 1e6,
      latencies,
      retries,
    };
  };
  return { ready: true, bytes: bodies[0]![0]!.byteLength };
}

process.on("message", async (order: Order) => {
  let report: Report;
  try {
    report = "prepare" in order ? prepare(order) : await send!();
  } catch (error) {
    report = { error: String((error as Error).cause ?? error) };
  }
  process.send!(report);
});
