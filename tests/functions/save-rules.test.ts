import { describe, expect, it } from "vitest";
import type { SaveOptions } from "../../shared/alerting/saved-rules.ts";
import type { RuleGroup } from "../../shared/alerting/rule.ts";
import { DatabaseError } from "../../supabase/functions/_shared/database.ts";
import { endpoint } from "../../supabase/functions/_shared/endpoint.ts";
import type { RuleStore } from "../../supabase/functions/_shared/stores.ts";
import {
  ERRORS_LIMIT,
  FILE_BYTES_LIMIT,
  NAME,
  readRules,
  saveRules,
} from "../../supabase/functions/save-rules/handler.ts";
import { admit, sampleWorld } from "../fixtures.ts";

const FILE = `groups:
  - name: queue
    rules:
      - alert: Deep
        expr: queue_depth > 1000
      - record: queue:depth:max
        expr: max(queue_depth)
`;
const SAVED = { inserted: 2, updated: 0, unchanged: 0, deleted: 0, unlisted: 0 };

function build(answer: Awaited<ReturnType<RuleStore["saveRules"]>> | Error = SAVED) {
  const saved: { groups: readonly RuleGroup[]; options: SaveOptions }[] = [];
  const deps: RuleStore = {
    saveRules: (groups, options) => {
      saved.push({ groups, options });
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
    },
  };
  const { world, lines } = sampleWorld();
  const spec = { name: NAME, methods: ["POST"], paths: [""], authorize: admit() } as const;
  const fetch = endpoint(
    { ...spec, input: readRules },
    (rules, call) => saveRules(rules, call, deps),
    world,
  );
  const post = async (body: BodyInit, query = "", type: string | null = "application/yaml") => {
    const response = await fetch(
      new Request(`http://functions.test/${NAME}${query}`, {
        method: "POST",
        body: typeof body === "string" ? new TextEncoder().encode(body) : body,
        headers: type === null ? {} : { "content-type": type },
      }),
    );
    return { status: response.status, body: await response.json() };
  };
  return { post, saved, lines };
}

const problem = (slug: string, members: object = {}) => ({
  type: `urn:pgvigil:problem:${slug}`,
  ...members,
});

describe("POST save-rules", () => {
  it("saves the rules of a file, and says how many were what", async () => {
    const { post, saved, lines } = build();
    expect(await post(FILE)).toEqual({ status: 200, body: { ...SAVED, warnings: [] } });
    expect(saved).toEqual([{
      groups: [
        expect.objectContaining({ name: "queue", rules: [expect.anything(), expect.anything()] }),
      ],
      options: { isReplacing: false, isDry: false },
    }]);
    expect(lines.map(({ line }) => JSON.parse(line))).toMatchObject([{
      message: "rules saved",
      fields: { inserted: 2, is_dry_run: false, caller: { kind: "key" } },
    }]);
  });

  it.each([
    ["?replace=true", { isReplacing: true, isDry: false }],
    ["?dry_run=true", { isReplacing: false, isDry: true }],
    ["?replace=true&dry_run=true&forceFunctionRegion=eu-west-1", {
      isReplacing: true,
      isDry: true,
    }],
    ["?replace=false&dry_run=false", { isReplacing: false, isDry: false }],
  ])("takes %s", async (query, options) => {
    const { post, saved } = build();
    expect((await post(FILE, query)).status).toBe(200);
    expect(saved).toMatchObject([{ options }]);
  });

  it.each([
    ["?dryrun=true", "#/dryrun"],
    ["?dry_run=1", "#/dry_run"],
    ["?dry_run", "#/dry_run"],
    ["?replace=true&replace=true", "#/replace"],
  ])("refuses %s, and saves nothing", async (query, pointer) => {
    const { post, saved } = build();
    expect(await post(FILE, query)).toMatchObject({
      status: 422,
      body: problem("query", { errors: [{ pointer }] }),
    });
    expect(saved).toEqual([]);
  });

  it.each(["application/yaml", "application/x-yaml", "text/yaml; charset=utf-8", "Text/Plain"])(
    "takes %s",
    async (type) => {
      expect((await build().post(FILE, "", type)).status).toBe(200);
    },
  );

  it.each(["application/json", "application/x-www-form-urlencoded", null])(
    "refuses the type %s",
    async (type) => {
      const { post, saved } = build();
      expect(await post(FILE, "", type)).toMatchObject({
        status: 415,
        body: problem("media-type"),
      });
      expect(saved).toEqual([]);
    },
  );

  it("takes 1 MiB, and not a byte more", async () => {
    const padded = (bytes: number) => `${FILE}#${"x".repeat(bytes - FILE.length - 1)}`;
    expect((await build().post(padded(FILE_BYTES_LIMIT))).status).toBe(200);
    const { post, saved } = build();
    expect(await post(padded(FILE_BYTES_LIMIT + 1))).toMatchObject({
      status: 413,
      body: problem("body-too-large"),
    });
    expect(saved).toEqual([]);
  });

  it("refuses what is not UTF-8", async () => {
    const { post, saved } = build();
    expect(await post(new Uint8Array([0x67, 0xff]))).toMatchObject({
      status: 400,
      body: problem("malformed"),
    });
    expect(saved).toEqual([]);
  });

  it.each(["", "groups: []\n"])("refuses a file without groups: %j", async (text) => {
    const { post, saved } = build();
    expect(await post(text, "?replace=true")).toMatchObject({
      status: 422,
      body: problem("rules", { detail: "There are no groups in the file." }),
    });
    expect(saved).toEqual([]);
  });

  it("says of all that is wrong where it is, and saves nothing", async () => {
    const { post, saved } = build();
    const { status, body } = await post(`groups:
  - name: queue
    limit: 1.5
    rules:
      - alert: Deep
        expr: sum(queue_depth
        annotations: { summary: "{{ $nope }}" }
      - expr: up
`);
    expect([status, body]).toEqual([
      422,
      {
        ...problem("rules", { title: "The rules cannot be saved", status: 422 }),
        detail: expect.stringMatching(
          /^3:12: group "queue": limit must be a whole number\n6:\d+: group "queue", rule 1, "Deep": /,
        ),
        errors: [
          {
            ...{ line: 3, column: 12, group: "queue", rule: null },
            detail: "limit must be a whole number",
          },
          {
            ...{ line: 6, column: expect.any(Number), group: "queue", rule: "Deep" },
            detail: expect.stringMatching(/^could not parse expression: 1:\d+: parse error: /),
          },
          {
            ...{ line: 7, column: expect.any(Number), group: "queue", rule: "Deep" },
            detail: expect.stringContaining('undefined variable "$nope"'),
          },
          {
            ...{ line: 8, column: 9, group: "queue", rule: "" },
            detail: "one of 'record' or 'alert' must be set",
          },
        ],
      },
    ]);
    expect(saved).toEqual([]);
  });

  it.each([[ERRORS_LIMIT], [ERRORS_LIMIT + 1]])("tells at most 100 errors of %d", async (count) => {
    const rules = Array.from({ length: count }, (_, n) => `  - {alert: A${n}, expr: "("}\n`).join(
      "",
    );
    const { status, body } = await build().post(`groups:\n- name: g\n  rules:\n${rules}`);
    expect([status, body.errors.length]).toEqual([422, ERRORS_LIMIT]);
  });

  it("says what the database refuses about the rules, and no more of anything else", async () => {
    const refused = 'rule 1 of group "queue": no link';
    expect(await build({ refused }).post(FILE)).toMatchObject({
      status: 422,
      body: problem("rules", { detail: refused }),
    });
    const error = new DatabaseError("save_rules", "unreachable", "", "no connection");
    expect(await build(error).post(FILE)).toMatchObject({
      status: 503,
      body: problem("database-unavailable"),
    });
  });

  it("warns of rules that are alike, and of what is not stored", async () => {
    const { post } = build();
    const { body } = await post(`groups:
  - { name: a, limit: 5, rules: [{ alert: Deep, expr: up }] }
  - { name: b, rules: [{ alert: Deep, expr: up }] }
`);
    expect(body.warnings).toEqual([
      'rule Deep is in several groups: "a", "b"',
      'group "a": limit is not stored; every rule may have 1,000 alerts',
    ]);
  });
});
