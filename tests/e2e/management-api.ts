import { serve } from "@hono/node-server";
import { mkdir, writeFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { dirname, join, normalize } from "node:path";

/** What `supabase functions deploy --use-api` uploaded for one function. */
export interface Deployment {
  readonly slug: string;
  /** Paths relative to the project's root, as uploaded. */
  readonly files: readonly string[];
  /** Where those files, and nothing else, have been written. */
  readonly folder: string;
  readonly entrypoint: string;
  readonly importMap: string;
  readonly verifyJwt: boolean;
}

/**
 * The calls of Supabase's management API that a deploy needs, on a free port of this machine. Every upload is
 * written below `folder`/<slug>.
 */
export async function startManagementApi(folder: string, token: string) {
  const deployments: Deployment[] = [];
  const live: string[] = [];
  const refused: string[] = [];

  const fetch = async (request: Request): Promise<Response> => {
    const url = new URL(request.url);
    const slug = url.searchParams.get("slug");
    if (request.headers.get("authorization") !== `Bearer ${token}`) {
      refused.push(`${request.method} ${url.pathname}`);
      return Response.json({ message: "Unauthorized" }, { status: 401 });
    }
    if (request.method === "GET") return Response.json([]);
    // After the uploads one call makes all of them live together.
    if (request.method === "PUT" && url.pathname.endsWith("/functions")) {
      live.push(...(await request.json()).map(({ slug }: { slug: string }) => slug));
      return Response.json({ functions: [] });
    }
    if (request.method !== "POST" || !url.pathname.endsWith("/functions/deploy") || !slug) {
      refused.push(`${request.method} ${url.pathname}`);
      return Response.json({ message: "Not Found" }, { status: 404 });
    }

    const form = await request.formData();
    const metadata = JSON.parse(String(form.get("metadata")));
    const target = join(folder, slug);
    const files: string[] = [];
    for (const part of form.getAll("file")) {
      if (typeof part === "string") continue;
      const path = normalize(part.name);
      if (path.startsWith("..")) throw new Error(`A deploy must not leave the project: ${path}`);
      await mkdir(dirname(join(target, path)), { recursive: true });
      await writeFile(join(target, path), new Uint8Array(await part.arrayBuffer()));
      files.push(path);
    }
    deployments.push({
      slug,
      files: files.toSorted(),
      folder: target,
      entrypoint: metadata.entrypoint_path,
      importMap: metadata.import_map_path,
      verifyJwt: metadata.verify_jwt,
    });
    return Response.json({
      id: slug,
      slug,
      name: slug,
      status: "ACTIVE",
      version: 1,
      created_at: 1,
      updated_at: 1,
    }, { status: 201 });
  };

  const server = serve({ fetch, hostname: "127.0.0.1", port: 0 });
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    deployments,
    live,
    refused,
    stop: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}
