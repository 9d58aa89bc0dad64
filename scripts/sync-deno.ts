/**
 * Writes the import maps for Deno from the versions in package.json: into the deno.json of each function the
 * packages that it reaches, through `_shared` and `shared` too, and into the one of the project those of all.
 * With --check it writes nothing and fails when one of them is out of step.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

/** One import or re-export of a module. */
export interface ModuleImport {
  readonly specifier: string;
  /** What is imported, in one line: `{ a, b }`, `type { A }`, `* as c`, or nothing. */
  readonly clause: string;
  /** The whole statement, as it stands. */
  readonly statement: string;
}

const STATIC = /^(?:import\s+|(?:import|export)\s+([\w\s{},*$]+?)\s+from\s+)["']([^"'\n]+)["']/gm;

/** The static imports and re-exports of a module, in order. Code has to be formatted: each begins a line. */
export function findImports(source: string): ModuleImport[] {
  const code = source.replace(/\/\*[\s\S]*?\*\//g, "");
  return [...code.matchAll(STATIC)].map(([statement, clause = "", specifier]) => ({
    specifier: specifier!,
    clause: clause.replace(/\s+/g, " "),
    statement,
  }));
}

/** The packages that a module needs to be checked and run, itself and all it imports, sorted. */
export function findPackages(entry: string): string[] {
  const packages = new Set<string>();
  const seen = new Set<string>();
  const visit = (file: string) => {
    if (seen.has(file)) return;
    seen.add(file);
    for (const { specifier } of findImports(readFileSync(file, "utf8"))) {
      if (specifier.startsWith(".")) visit(resolve(dirname(file), specifier));
      else if (!specifier.startsWith("node:")) packages.add(specifier);
    }
  };
  visit(entry);
  return [...packages].toSorted();
}

/** What Deno calls a bare specifier, with the version of package.json. @throws if it is not pinned there. */
export function toNpmSpecifier(
  specifier: string,
  versions: Readonly<Record<string, string>>,
): string {
  const [name] = /^(?:@[^/]+\/)?[^/]+/.exec(specifier)!;
  const version = versions[name];
  if (version === undefined || !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version)) {
    throw new Error(`Cannot pin ${specifier}: package.json has no exact version of ${name}`);
  }
  return `npm:${name}@${version}${specifier.slice(name.length)}`;
}

function main(root: string, isCheck: boolean): number {
  const { dependencies: versions } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const functions = join(root, "supabase/functions");
  const names = readdirSync(functions, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !entry.name.startsWith("_"))
    .map(({ name }) => name);
  const toMap = (packages: readonly string[]) =>
    Object.fromEntries(packages.map((name) => [name, toNpmSpecifier(name, versions)]));

  const wanted = new Map<string, object>();
  const all = new Set<string>();
  for (const name of names) {
    const packages = findPackages(join(functions, name, "index.ts"));
    packages.forEach((specifier) => all.add(specifier));
    wanted.set(join(functions, name, "deno.json"), { imports: toMap(packages) });
  }
  const rootFile = join(root, "deno.json");
  const settings = JSON.parse(readFileSync(rootFile, "utf8"));
  wanted.set(rootFile, { ...settings, imports: toMap([...all].toSorted()) });

  let outOfStep = 0;
  for (const [file, content] of wanted) {
    const text = render(content);
    if (readIfThere(file) === text) continue;
    outOfStep += 1;
    if (!isCheck) writeFileSync(file, text);
    console.log(`${isCheck ? "out of step" : "written"}: ${relative(root, file)}`);
  }
  if (isCheck && outOfStep > 0) console.log("Run: npm run generate");
  return isCheck && outOfStep > 0 ? 1 : 0;
}

/** Text that `deno fmt` leaves as it is. */
function render(content: object): string {
  return `${JSON.stringify(content, null, 2)}\n`;
}

function readIfThere(file: string): string | null {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return null;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.exitCode = main(
    resolve(import.meta.dirname, ".."),
    process.argv.includes("--check"),
  );
}
