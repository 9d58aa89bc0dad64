import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";

const FOLDER = join(import.meta.dirname, "..", "..", "supabase", "migrations");
const MIGRATIONS = readdirSync(FOLDER).sort().map((file) => ({
  file,
  sql: readFileSync(join(FOLDER, file), "utf8"),
}));

/** The files of the migrations that a rule does not hold for. */
const offenders = (holds: (migration: { file: string; sql: string }) => boolean) =>
  MIGRATIONS.filter((migration) => !holds(migration)).map(({ file }) => file);

/** Whether `stamp`, YYYYMMDDHHMMSS, is a time. */
function isTime(stamp: string): boolean {
  const text = stamp.replace(/(....)(..)(..)(..)(..)(..)/, "$1-$2-$3T$4:$5:$6.000Z");
  const at = new Date(text);
  return !Number.isNaN(at.getTime()) && at.toISOString() === text;
}

describe("every migration", () => {
  it("is named YYYYMMDDHHMMSS_verb_object.sql", () => {
    const pattern =
      /^\d{14}_(add|alter|create|drop|fix|move|rename|replace|schedule)(_[a-z0-9]+)+\.sql$/;
    expect(offenders(({ file }) => pattern.test(file) && isTime(file.slice(0, 14)))).toEqual([]);
  });

  it("has a time of its own", () => {
    expect(new Set(MIGRATIONS.map(({ file }) => file.slice(0, 14))).size).toBe(MIGRATIONS.length);
  });

  it("begins with Purpose, Locks and Undo", () => {
    const head = /^-- Purpose: {2}\S.*\n(-- .*\n)*-- Locks: {4}\S.*\n(-- .*\n)*-- Undo: {5}\S.*\n/;
    expect(offenders(({ sql }) => head.test(sql))).toEqual([]);
  });

  it("lets a surprise fail: only schemas and extensions are made if they are not there yet", () => {
    const created = /^[ \t]*(create|alter|add)\b.*\bif not exists\b.*$/gim;
    expect(
      offenders(({ sql }) =>
        (sql.match(created) ?? []).every((line) =>
          /^create (schema|extension) if not exists/.test(line)
        )
      ),
    ).toEqual([]);
  });

  it("takes its functions from the public", () => {
    expect(
      offenders(({ sql }) =>
        !/^create (or replace )?function/m.test(sql) ||
        /^revoke all on .*\bfunctions?\b.* from public;$/m.test(sql)
      ),
    ).toEqual([]);
  });
});
