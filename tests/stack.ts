/** A stack of its own for a test file: free ports, a temporary folder, and nothing left afterwards. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import pg from "pg";
import { type Stack, type StackOptions, startStack } from "../local/stack.ts";

export { freePort } from "../local/processes.ts";

/** Blocks of ten ports below those that systems give to outgoing connections. */
const [FIRST_BLOCK, BLOCKS] = [20_000, 1_200];

function listen(port: number): Promise<Server | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(undefined));
    server.listen(port, "127.0.0.1", () => resolve(server));
  });
}

/**
 * Takes a block of ten free ports for this process. Its last port is listened on until the release, so that no other
 * test run takes the same block, however this one ends.
 */
export async function claimPorts(): Promise<{ port: number; release(): void }> {
  for (;;) {
    const port = FIRST_BLOCK + 10 * Math.floor(Math.random() * BLOCKS);
    const claim = await listen(port + 9);
    if (!claim) continue;
    const probes = await Promise.all([0, 1, 3, 4].map((offset) => listen(port + offset)));
    await Promise.all(probes.map((probe) => probe && new Promise((closed) => probe.close(closed))));
    if (probes.every(Boolean)) {
      claim.unref();
      return { port, release: () => claim.close() };
    }
    claim.close();
  }
}

/** Writes a project for the stack to serve: contents by path below `supabase/`. */
export async function writeProject(root: string, files: Record<string, string>): Promise<void> {
  const all = { "config.toml": 'project_id = "test"\n', ...files };
  for (const folder of ["migrations", "functions"]) {
    await mkdir(join(root, "supabase", folder), { recursive: true });
  }
  for (const [path, content] of Object.entries(all)) {
    const target = join(root, "supabase", path);
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, content);
  }
}

/** A stack for tests; `lines` is what it has said. */
export interface TestStack extends Stack {
  readonly folder: string;
  readonly lines: readonly string[];
  /** Connects to its database as its owner, until it is stopped. */
  connect(): Promise<pg.Client>;
}

/**
 * Starts a stack with the project's own migrations and functions, or with `files` (see {@link writeProject}) in their
 * place. Its folder and ports are given back when it is stopped.
 */
export async function startTestStack(
  { files, ...options }: Omit<StackOptions, "port" | "folder"> & {
    files?: Record<string, string>;
  } = {},
): Promise<TestStack> {
  const folder = await mkdtemp(join(tmpdir(), "pgvigil-stack-"));
  const { port, release } = await claimPorts();
  const clean = async () => {
    release();
    await rm(folder, { recursive: true, force: true });
  };
  if (files) await writeProject(folder, files);
  const lines: string[] = [];
  try {
    const stack = await startStack({
      ...(files && { root: folder }),
      ...options,
      port,
      folder: join(folder, ".local"),
      progress: (line) => lines.push(line),
    });
    const clients: pg.Client[] = [];
    return {
      ...stack,
      folder: join(folder, ".local"),
      lines,
      connect: async () => {
        const client = new pg.Client({ connectionString: stack.facts.db_url });
        clients.push(client);
        await client.connect();
        return client;
      },
      stop: async () => {
        await Promise.all(clients.map((client) => client.end().catch(() => {})));
        await stack.stop().finally(clean);
      },
    };
  } catch (error) {
    await clean();
    throw error;
  }
}
