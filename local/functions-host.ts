/**
 * Serves every edge function of a project from one Deno process: `functions-host.ts <folder of functions> <port>`.
 * The path of a function is its name, as the platform's gateway passes it on. `/` tells which functions started.
 */
import { existsSync } from "node:fs";
import { pathToFileURL } from "node:url";

/** What `index.ts` of a function exports. */
interface EdgeFunction {
  fetch(request: Request): Response | Promise<Response>;
}

const [folder, port] = Deno.args;

/** Our end when the stack's is: it holds the other end of this pipe as long as it lives. */
Deno.stdin.readable.pipeTo(new WritableStream()).finally(() => Deno.exit());

// Functions share a process here but not on the platform: what one forgot to await must not end the others.
for (const type of ["error", "unhandledrejection"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    console.error(
      "Uncaught in a function:",
      (event as PromiseRejectionEvent).reason ?? (event as ErrorEvent).error,
    );
  });
}

/** As the platform has it. The process goes on anyway, so there is nothing to wait for but what went wrong. */
Object.assign(globalThis, {
  EdgeRuntime: {
    waitUntil: (work: Promise<unknown>) =>
      void work.catch((error) => console.error("Failed in the background:", error)),
  },
});

async function load(name: string): Promise<EdgeFunction> {
  const { default: edgeFunction } = await import(`${pathToFileURL(folder!)}/${name}/index.ts`);
  if (typeof edgeFunction?.fetch !== "function") {
    throw new TypeError("index.ts has no `export default { fetch }`");
  }
  return edgeFunction;
}

/** Each function, or why it does not start. All load at once, and one that hangs delays no other. */
const functions = new Map<string, Promise<EdgeFunction | Error>>();
for (const { name } of Deno.readDirSync(folder!)) {
  if (!existsSync(`${folder}/${name}/index.ts`)) continue; // shared code, or no function yet
  functions.set(
    name,
    load(name).catch((error) => {
      console.error(`Function ${name} does not start:`, error);
      return error instanceof Error ? error : new Error(String(error));
    }),
  );
}

/** Name of each function, and the message of what keeps it from starting. */
async function report(): Promise<Response> {
  const states = [...functions].map(async ([name, started]) => {
    const result = await started;
    return [name, result instanceof Error ? result.message : null];
  });
  return Response.json(Object.fromEntries(await Promise.all(states)));
}

Deno.serve({ hostname: "127.0.0.1", port: Number(port), onListen: () => {} }, async (request) => {
  const name = new URL(request.url).pathname.split("/")[1]!;
  if (name === "") return await report();
  const edgeFunction = await functions.get(name);
  if (edgeFunction === undefined) {
    return Response.json(
      { code: "NOT_FOUND", message: "Requested function was not found" },
      { status: 404 },
    );
  }
  if (edgeFunction instanceof Error) {
    return Response.json(
      { code: "BOOT_ERROR", message: "Function failed to start (please check logs)" },
      { status: 503 },
    );
  }
  return await edgeFunction.fetch(request);
});
