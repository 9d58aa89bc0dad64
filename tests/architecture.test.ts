import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { findImports, findPackages, toNpmSpecifier } from "../scripts/sync-deno.ts";

const ROOT = resolve(import.meta.dirname, "..");
const FUNCTIONS = "supabase/functions";

/** TypeScript files below a folder, relative to the project. */
function findModules(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((file) => join(folder, file))
    .toSorted();
}

/** Code without comments and without the insides of strings: what is left is done, not said. */
function stripWords(source: string): string {
  return source
    .replace(/\/\*[\s\S]*?\*\//g, "")
    .replace(/"(?:[^"\\\n]|\\.)*"/g, '""')
    .replace(/(^|\s)\/\/.*$/gm, "");
}

const read = (file: string) => readFileSync(join(ROOT, file), "utf8");

/** Where a file lives: `shared`, `_shared`, or the name of a function. */
function roomOf(file: string): string {
  if (file.startsWith("shared/")) return "shared";
  if (file.startsWith(`${FUNCTIONS}/`)) return file.split("/")[2]!;
  return "elsewhere";
}

/** Rooms that a room may import from, itself aside. */
function roomsBelow(room: string): string[] {
  if (room === "shared") return [];
  return room === "_shared" ? ["shared"] : ["_shared", "shared"];
}

/** Packages that pure code may use: they do no I/O. */
const PURE_PACKAGES = ["zod", "@bufbuild", "@lezer", "@prometheus-io", "re2js", "yaml"];

/** Whatever is the world, time or chance. */
const IMPURE: [string, RegExp][] = [
  ["Deno", /\bDeno\b/],
  ["process", /\bprocess\s*[.[]/],
  ["fetch", /\bfetch\s*\(/],
  ["Date.now()", /\bDate\s*\.\s*now\b/],
  ["new Date without an argument", /\bnew\s+Date\s*(\(\s*\)|(?!\s*\())/],
  ["Date() as a function", /(?<!new\s+)\bDate\s*\(/],
  ["Math.random()", /\bMath\s*\.\s*random\b/],
  ["crypto", /\bcrypto\s*\./],
  ["performance", /\bperformance\s*\./],
  ["a timer", /\b(setTimeout|setInterval|setImmediate|queueMicrotask)\s*\(/],
  ["console", /\bconsole\s*\./],
  ["globalThis", /\bglobalThis\b/],
];

const shared = findModules("shared");
const functions = findModules(FUNCTIONS);
const deployed = [...shared, ...functions];
const names = readdirSync(join(ROOT, FUNCTIONS), { withFileTypes: true })
  .filter((entry) => entry.isDirectory() && !entry.name.startsWith("_"))
  .map(({ name }) => name);

describe("imports of what is deployed", () => {
  it.each(deployed)("%s: point one way, relative ones static, named and with .ts", (file) => {
    const source = read(file);
    const room = roomOf(file);
    for (const { specifier, clause } of findImports(source)) {
      if (specifier.startsWith("node:")) {
        expect(room).not.toBe("shared");
      } else if (!specifier.startsWith(".")) {
        // Bare: a URL or an npm: specifier does not load in Node, or not in Deno.
        expect(specifier).toMatch(/^(@[a-z-]+\/)?[a-z][a-z0-9.-]*(\/[a-z0-9-]+)*$/);
        if (room === "shared") expect(PURE_PACKAGES).toContain(specifier.split("/")[0]);
      } else {
        expect(specifier).toMatch(/\.ts$/);
        expect(clause).toMatch(/^(type )?\{.*\}$/);
        const target = relative(ROOT, resolve(ROOT, dirname(file), specifier));
        expect(existsSync(join(ROOT, target))).toBe(true);
        expect([room, ...roomsBelow(room)]).toContain(roomOf(target));
      }
    }
  });

  it.each(deployed)("%s: hides none from the scanner that decides what is uploaded", (file) => {
    const code = stripWords(read(file));
    expect(code).not.toMatch(/\bimport\s*\(/);
    expect(code).not.toMatch(/\brequire\s*\(/);
    // As many as there are, are found.
    const statements = code.match(/^\s*(import\b|export\b[^=;{]*(\{[^}]*\}\s*)?\bfrom\s*["'])/gm) ??
      [];
    expect(findImports(read(file))).toHaveLength(statements.length);
  });
});

describe("shared", () => {
  it.each(shared)("%s: touches neither the world nor time nor chance", (file) => {
    const code = stripWords(read(file));
    for (const [what, pattern] of IMPURE) expect([what, pattern.exec(code)]).toEqual([what, null]);
  });

  it.each([
    ["const a = Deno.env;", "Deno"],
    ["process.exit()", "process"],
    ["await fetch(url)", "fetch"],
    ["Date.now()", "Date.now()"],
    ["new Date()", "new Date without an argument"],
    ["const now = new Date;", "new Date without an argument"],
    ["Date()", "Date() as a function"],
    ["Math.random()", "Math.random()"],
    ["setTimeout(f, 1)", "a timer"],
  ])("would not pass with %s", (code, what) => {
    const offences = IMPURE.filter(([, pattern]) => pattern.test(stripWords(code)));
    expect(offences.map(([name]) => name)).toContain(what);
  });

  it.each([
    "new Date(now)",
    "new Date( 0 )",
    "// new Date()",
    '"Date.now()"',
    "refetch(x)",
    "processed.a",
    "when: Date;",
  ])(
    "passes with %s",
    (code) => expect(IMPURE.filter(([, pattern]) => pattern.test(stripWords(code)))).toEqual([]),
  );
});

describe("exports", () => {
  it.each(deployed)("%s: are named, but for what a function is", (file) => {
    const defaults = stripWords(read(file)).match(/\bexport\s+default\b|\bas\s+default\b/g) ?? [];
    expect(defaults).toHaveLength(file.startsWith(FUNCTIONS) && file.endsWith("/index.ts") ? 1 : 0);
  });
});

describe("a function", () => {
  it.each(names)("%s: has its wiring, its steps and its imports", (name) => {
    for (const file of ["index.ts", "handler.ts", "deno.json"]) {
      expect(existsSync(join(ROOT, FUNCTIONS, name, file))).toBe(true);
    }
  });

  it.each(names)("%s: index.ts only wires: at most 20 lines, no decision", (name) => {
    const source = read(`${FUNCTIONS}/${name}/index.ts`);
    expect(source.trimEnd().split("\n").length).toBeLessThanOrEqual(20);
    expect(stripWords(source)).not.toMatch(/\b(if|switch|for|while)\s*\(|\?\s|&&|\|\||\?\?/);
    expect(source).toMatch(/^\/\*\* .+ \*\/\n/);
  });

  it.each(names)("%s: is known to config.toml, with its own check of callers", (name) => {
    const config = read("supabase/config.toml");
    expect(config).toMatch(new RegExp(`\\[functions\\.${name}\\]\\nverify_jwt = false`));
  });
});

describe("the environment", () => {
  it.each(functions.filter((file) => !file.endsWith("_shared/env.ts")))(
    "is not read by %s",
    (file) => {
      expect(stripWords(read(file))).not.toMatch(/\bprocess\b|\bDeno\s*\./);
    },
  );
});

describe("findImports()", () => {
  it("finds each form once, and nothing else", () => {
    const source = [
      'import "a";',
      'import b from "b";',
      'import * as c from "c";',
      'import type { D } from "d";',
      "import {",
      "  e,",
      "  type F,",
      '} from "./e.ts";',
      'export { g } from "g";',
      'export * from "h";',
      'export const i = "i";',
      'export interface J { k: "k" }',
      '// import "l";',
      "/**",
      'import "m";',
      " */",
      'const n = { from: "n" };',
    ].join("\n");
    expect(findImports(source).map(({ specifier }) => specifier)).toEqual([
      "a",
      "b",
      "c",
      "d",
      "./e.ts",
      "g",
      "h",
    ]);
    expect(findImports(source)[4]!.clause).toBe("{ e, type F, }");
  });
});

describe("import maps for Deno", () => {
  const { dependencies } = JSON.parse(read("package.json"));

  it("name one exact version", () => {
    expect(toNpmSpecifier("@supabase/server/core", dependencies))
      .toBe(`npm:@supabase/server@${dependencies["@supabase/server"]}/core`);
    expect(() => toNpmSpecifier("unheard-of", dependencies)).toThrow("package.json");
    expect(() => toNpmSpecifier("a", { a: "^1.0.0" })).toThrow("exact");
  });

  it.each(names)("%s: holds what it reaches, and no more", (name) => {
    const { imports } = JSON.parse(read(`${FUNCTIONS}/${name}/deno.json`));
    const packages = findPackages(join(ROOT, FUNCTIONS, name, "index.ts"));
    expect(imports).toEqual(
      Object.fromEntries(
        packages.map((specifier) => [specifier, toNpmSpecifier(specifier, dependencies)]),
      ),
    );
  });

  it("are no workspace: a member's map would leave out shared", () => {
    expect(JSON.parse(read("deno.json"))).not.toHaveProperty("workspace");
  });
});
