import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { renderEmail } from "../../shared/alerting/messages/render-email.ts";
import { parseRuleFile } from "../../shared/alerting/rule-file.ts";
import { labelsOf } from "../../shared/alerting/rule.ts";
import type { IncidentPayload } from "../../shared/contract/notifications.ts";
import { parseExpr } from "../../shared/promql/parse-expr.ts";

const FOLDER = "docs/runbooks";
const PAGES = readdirSync(FOLDER).filter((file) => file.endsWith(".md")).toSorted();
const read = (page: string) => readFileSync(join(FOLDER, page), "utf8");

/** Without code, whose brackets and hashes are none of Markdown's. */
const proseOf = (text: string) => text.replaceAll(/^( *)```[\s\S]*?^\1```$/gm, "");

/** Anchors of the headings, as GitHub makes them. */
const anchorsOf = (text: string) =>
  [...proseOf(text).matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading!.toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, "").replaceAll(" ", "-")
  );

/** Links of a page to something in this repository. */
const linksOf = (page: string) =>
  [...proseOf(read(page)).matchAll(/\]\(([^)\s]+)\)/g)].map(([, href]) => href!)
    .filter((href) => !/^[a-z]+:/.test(href));

interface Block {
  readonly where: string;
  readonly info: string;
  readonly code: string;
  /** The paragraph or item of a list that introduces it. */
  readonly before: string;
}

function blocksOf(page: string): Block[] {
  const text = read(page);
  const matches = [...text.matchAll(/^( *)```(\S.*)\n([\s\S]*?)^\1```$/gm)];
  return matches.map((match, index) => {
    const previous = matches[index - 1];
    const start = previous === undefined ? 0 : previous.index + previous[0].length;
    const line = text.slice(0, match.index).split("\n").length;
    return {
      where: `${page}:${line}`,
      info: match[2]!,
      code: match[3]!,
      before: text.slice(start, match.index).trim().split(/\n\n|^ *(?:#+|-|\d+\.) /m).at(-1)!,
    };
  });
}

const BLOCKS = PAGES.flatMap(blocksOf);

/** Pages of an alert or a failure: all but the index and the procedure. */
const RUNBOOKS = PAGES.filter((page) => !["README.md", "incident-procedure.md"].includes(page));

describe("the pages", () => {
  it("have links that lead somewhere", () => {
    const broken = PAGES.flatMap((page) =>
      linksOf(page).filter((href) => {
        const [path = "", anchor] = href.split("#");
        const target = path === "" ? join(FOLDER, page) : join(dirname(join(FOLDER, page)), path);
        if (!existsSync(target)) return true;
        return anchor !== undefined && !anchorsOf(readFileSync(target, "utf8")).includes(anchor);
      }).map((href) => `${page}: ${href}`)
    );
    expect(broken).toEqual([]);
  });

  it("are all in the index, once", () => {
    const [index] = read("README.md").split("## Run the commands");
    const linked = [...index!.matchAll(/\]\(([a-z-]+\.md)\)/g)].map(([, page]) => page!);
    expect(linked.toSorted()).toEqual(PAGES.filter((page) => page !== "README.md"));
  });

  it("are linked by other pages too, or are of an alert, which links them", () => {
    const linked = new Set(
      PAGES.flatMap((page) =>
        page === "README.md" ? [] : linksOf(page)
          .map((href) => href.split("#")[0]!).filter((target) => target !== page)
      ),
    );
    const alone = PAGES.filter((page) =>
      !linked.has(page) && !read(page).startsWith(`# ${toCamelCase(page)}\n`)
    );
    expect(alone).toEqual(["README.md"]);
  });

  it.each(RUNBOOKS)("%s has all that a runbook has", (page) => {
    const headings = [...proseOf(read(page)).matchAll(/^## (.+)$/gm)].map(([, heading]) => heading);
    expect(headings).toEqual(expect.arrayContaining([
      ...["What it means", "How urgent", "Investigate", "Resolve", "When it is over"],
      ...["Prevent", "Incident"],
    ]));
    const { length } = read(page).split("\n");
    expect(length).toBeLessThan(260);
  });
});

/** PartnerAPI… is what capitals cannot tell. */
const toCamelCase = (page: string) =>
  page.replace(".md", "").split("-").map((word) =>
    word === "api" ? "API" : word[0]!.toUpperCase() + word.slice(1)
  ).join("");

const DURATIONS: Readonly<Record<number, string>> = { 0: "at once" };
const tellDuration = (seconds: number) => DURATIONS[seconds] ?? `after ${seconds / 60} min`;

describe("a page of a shipped rule", () => {
  const rules = ["partner", "supabase"].flatMap((name) =>
    parseRuleFile(readFileSync(`supabase/rules/${name}.rules.yaml`, "utf8")).flatMap((group) =>
      group.rules.map((rule) => ({ group, rule }))
    )
  );

  it.each(rules)("of $rule.name says what the rule says", ({ group, rule }) => {
    if (rule.kind !== "alerting") throw new Error("A recording rule has no runbook");
    const text = PAGES.map(read).find((text) => text.startsWith(`# ${rule.name}\n`));
    const facts = [
      `**${rule.severity}**`,
      tellDuration(rule.forSeconds),
      `team \`${labelsOf(rule, group)["team"]}\``,
      `rule group \`${group.name}\``,
      ...rule.mode === "shadow" ? ["shadow"] : [],
    ];
    expect(text?.split("\n\n")[1]).toBe(facts.join(" · "));
    expect(read("README.md")).toMatch(
      new RegExp(`^\\| ${rule.name} +\\| \\[.*\\| ${rule.severity} +\\|`, "m"),
    );
  });
});

describe("a command", () => {
  it("that destroys something says what is lost", () => {
    const destroys = new RegExp(
      [
        ...[String.raw`\bdelete from\b`, String.raw`\bdrop[ _]`, "pg_terminate_backend"],
        ...["rollback prepared", "'discarded'", String.raw`keep_(?:days|megabytes) = \d`],
        ...[
          String.raw`pgmq\.(?:archive|delete|purge|drop)`,
          "revoke_access_token",
          "delete_(?:channel|route|rules)",
        ],
      ].join("|"),
      "i",
    );
    const destructive = BLOCKS.filter(({ code }) => destroys.test(code));
    expect(destructive.length).toBeGreaterThan(5);
    expect(destructive.filter(({ before }) => !/\blost\b|\bloses?\b|do not delete/.test(before)))
      .toEqual([]);
  });

  it("takes no more with it than it names", () => {
    const sweeping = /\b(?:flushall|flushdb|truncate|drop (?:table|schema|database)|purge|rm -)/i;
    expect(BLOCKS.filter(({ code }) => sweeping.test(code))).toEqual([]);
  });

  it("that cannot run on the local stack is introduced as an example", () => {
    const examples = BLOCKS.filter(({ info }) => info.endsWith(" example"));
    expect(examples.length).toBeGreaterThan(5);
    expect(examples.filter(({ before }) => !/\bexamples?\b/i.test(before))).toEqual([]);
  });

  it("has queries that parse", () => {
    const queries = BLOCKS.flatMap(({ where, code }) =>
      [...code.matchAll(/--data-urlencode 'query=([^']+)'/g)].map(([, query]) => ({
        where,
        query: query!,
      }))
    );
    expect(queries.length).toBeGreaterThan(5);
    for (const { where, query } of queries) expect(() => parseExpr(query), where).not.toThrow();
  });

  it("has rules that parse", () => {
    const rules = BLOCKS.filter(({ info }) => info === "yaml");
    expect(rules.length).toBeGreaterThan(1);
    for (const { where, code } of rules) {
      const [indent] = /^ */.exec(code)!;
      const rule = code.replaceAll(new RegExp(`^${indent}`, "gm"), "    ");
      expect(parseRuleFile(`groups:\n- name: own\n  rules:\n${rule}`)[0]!.rules, where)
        .toHaveLength(1);
    }
  });
});

const INCIDENT: IncidentPayload = {
  type: "incident",
  message: "alert",
  incident_id: 7,
  title: "Nobody can apply through partner acme",
  severity: "P1",
  state: "open",
  started_at: "2026-03-10T12:40:00Z",
  opened_at: "2026-03-10T13:00:00Z",
  resolved_at: null,
  commander: null,
  affected_components: ["Applications", "Partner acme"],
  text: "acme has answered nothing since 12:40. Applications wait in the queue; none is lost.",
  escalation_level: 1,
  response_due_at: "2026-03-10T14:00:00Z",
  next_update_due_at: "2026-03-10T14:00:00Z",
  root_cause: null,
  fix: null,
  prevention: null,
  post_mortem_on: null,
  alerts: ["PartnerAPIDown"],
  runbook_url: "https://example.com/docs/runbooks/partner-api-down.md",
};

/** The three messages that the procedure shows, in the order in which they are sent. */
const MESSAGES: readonly (readonly [string, string, Partial<IncidentPayload>])[] = [
  ["Initial alert", "2026-03-10T13:00:00Z", {}],
  ["Status update", "2026-03-10T13:30:00Z", {
    message: "update",
    state: "identified",
    commander: "Ada Lovelace",
    text: "acme confirms an outage on its side and expects an hour. We hold applications back.",
    response_due_at: null,
    next_update_due_at: "2026-03-10T14:15:00Z",
  }],
  ["Resolution", "2026-03-10T14:50:00Z", {
    message: "resolution",
    state: "resolved",
    commander: "Ada Lovelace",
    resolved_at: "2026-03-10T14:50:00Z",
    text: "Applications go out again, the queue is empty.",
    response_due_at: null,
    next_update_due_at: null,
    root_cause: "acme replaced a certificate with one that our server does not trust.",
    fix: "acme went back to the old one.",
    prevention: "We watch the certificates of partners, two weeks ahead.",
    post_mortem_on: "2026-03-13",
  }],
];

describe("the incident procedure", () => {
  it.each(MESSAGES)("shows the message %s as it is sent", (name, at, payload) => {
    const { subject, text } = renderEmail({
      payload: { ...INCIDENT, ...payload },
      channel: "ops",
      timeZone: "UTC",
      at: new Date(at),
      isTest: false,
      mayBeRepeated: false,
      externalUrl: null,
      idempotencyKey: "00000000-0000-0000-0000-000000000000",
    });
    const [, shown] = read("incident-procedure.md").split(`### ${name}\n`);
    expect(/```text\n([\s\S]*?)```/.exec(shown!)?.[1])
      .toBe(`Subject: ${subject}\n\n${text.trimEnd()}\n`);
  });
});
