import { type Query, rpc } from "./database.ts";
import { iso, NOON } from "./seeds.ts";

/** An alert that a rule has, as a test says it; `labels` are its own beside `alertname`. */
export interface Firing {
  labels?: Readonly<Record<string, string>>;
  state?: "pending" | "firing";
  since?: number;
  value?: string;
  no_data?: boolean;
  annotations?: Readonly<Record<string, string>>;
}

export interface RuleOptions {
  name?: string;
  severity?: "info" | "warning" | "critical";
  mode?: "live" | "shadow";
  labels?: Readonly<Record<string, string>>;
}

/** Leaves no rule, route, channel or inhibition of those that are shipped, and one rule of the test's own. Returns its id. */
export async function setUpRule(query: Query, options: RuleOptions = {}): Promise<number> {
  await query("delete from monitor.alert_rules");
  await query("delete from monitor.inhibition_rules");
  return await addRule(query, options);
}

export async function addRule(
  query: Query,
  { name = "QueueDeep", severity = "warning", mode = "live", labels = {} }: RuleOptions = {},
): Promise<number> {
  const rules = [{ kind: "alerting", name, expr: "queue_depth > 1000", severity, mode, labels }];
  await rpc(query, "save_rules", { p_groups: [{ name: `group of ${name}`, rules }] });
  const { rows } = await query<{ rule_id: string }>(
    "select rule_id from monitor.alert_rules where name = $1",
    [name],
  );
  return Number(rows[0]!.rule_id);
}

/** Says what the last evaluation of a rule found. */
export async function setFiring(
  query: Query,
  ruleId: number,
  firing: readonly Firing[],
  at = NOON,
): Promise<void> {
  const { rows } = await query<{ name: string; labels: Record<string, string> }>(
    "select name, labels from monitor.alert_rules where rule_id = $1",
    [ruleId],
  );
  const instances = firing.map((
    { labels = {}, state = "firing", since = at, value = "1", no_data = false, annotations = {} },
  ) => ({
    labels: { alertname: rows[0]!.name, ...rows[0]!.labels, ...labels },
    annotations,
    state,
    last_value: value,
    active_at: iso(since),
    fired_at: state === "firing" ? iso(since) : null,
    keep_firing_since: null,
    last_sample_at: null,
    no_data,
  }));
  await query(
    `update monitor.rule_states
     set instances = $2, health = 'ok', evaluated_at = $3, evaluation_seconds = 0, last_error = null where rule_id = $1`,
    [ruleId, JSON.stringify(instances), iso(at)],
  );
}

/** One evaluation of all alerts; of the components of health nothing is known unless it is given. */
export const advance = (query: Query, at = NOON, components: object[] | null = null) =>
  rpc<Record<string, unknown>>(query, "advance_alerts", {
    p_components: components,
    p_now: iso(at),
  });

/** What happens between evaluations, when messages are sent. */
export const flush = (query: Query, at: number) =>
  rpc<Record<string, unknown>>(query, "flush_alerts", { p_now: iso(at) });

export interface Message extends Record<string, unknown> {
  channel: string;
  because: string;
  firing: string[];
  resolved: string[];
  notes: string[];
  state: string;
}

/**
 * All messages in the order in which they were written; alerts by their label `queue`, or their names. Without those of gaps:
 * tests leave minutes out.
 */
export async function readMessages(query: Query): Promise<Message[]> {
  const { rows } = await query<Message>(
    `select channel, payload ->> 'because' as because, state,
       array(select coalesce(alert -> 'labels' ->> 'queue', alert ->> 'name') from jsonb_array_elements(payload -> 'alerts') as alert
         where alert ->> 'status' = 'firing' order by 1) as firing,
       array(select coalesce(alert -> 'labels' ->> 'queue', alert ->> 'name') from jsonb_array_elements(payload -> 'alerts') as alert
         where alert ->> 'status' = 'resolved' order by 1) as resolved,
       array(select note #>> '{}' from jsonb_array_elements(payload -> 'alerts') as alert
         cross join jsonb_array_elements(alert -> 'notes') as note) as notes
     from monitor.notifications
     where payload ->> 'type' = 'alerts' and payload -> 'group_labels' ->> 'alertname' is distinct from 'EvaluationGap'
     order by notification_id`,
  );
  return rows;
}

/** What has been written since the last call. */
export function newMessages(query: Query): () => Promise<Message[]> {
  let seen = 0;
  return async () => {
    const all = await readMessages(query);
    const fresh = all.slice(seen);
    seen = all.length;
    return fresh;
  };
}

export interface AlertRow extends Record<string, unknown> {
  alert_id: number;
  name: string;
  queue: string | null;
  state: string;
  occurrence_count: number;
  resolved_because: string | null;
}

export async function readAlerts(query: Query): Promise<AlertRow[]> {
  const { rows } = await query<AlertRow>(
    `select alert_id::int, name, labels ->> 'queue' as queue, state, occurrence_count, resolved_because
     from monitor.system_alerts where name <> 'EvaluationGap' order by alert_id`,
  );
  return rows;
}

/** The decisions about an alert in order, the last of which still holds. */
export async function readDecisions(query: Query, alertId: number) {
  const { rows } = await query<
    { decision: string; detail: string; evaluations: number | null; is_open: boolean }
  >(
    `select decision, detail, evaluations::int, held_until is null as is_open
     from monitor.notification_decisions where alert_id = $1 order by decision_id`,
    [alertId],
  );
  return rows;
}

/** Mail to ops and a route for all, told at once unless `route` says otherwise. */
export async function setUpRoute(query: Query, route: Readonly<Record<string, unknown>> = {}) {
  await rpc(query, "save_channel", {
    p_channel: "ops",
    p_kind: "email",
    p_config: { to: ["ops@example.com"] },
  });
  await saveRoute(query, { p_name: "all", p_group_wait_seconds: 0, ...route });
}

export async function saveRoute(query: Query, route: Readonly<Record<string, unknown>>) {
  const { p_channels = ["ops"], p_group_by, ...more } = route as {
    p_channels?: string[];
    p_group_by?: string[];
  };
  const names = Object.keys(more).map((key, index) => `${key} => $${index + 3}`);
  const values = Object.values(more).map((value) =>
    typeof value === "object" ? JSON.stringify(value) : value
  );
  await query(
    `select monitor.save_route(${[
      "p_channels => $1",
      "p_group_by => coalesce($2, '{alertname}'::text[])",
      ...names,
    ]})`,
    [p_channels, p_group_by ?? null, ...values],
  );
}
