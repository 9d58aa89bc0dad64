import { describe, expect } from "vitest";
import { it } from "./database.ts";
import { openDays } from "./seeds.ts";

/** Functions that users of the API may call, each with what keeps a user who is no admin from seeing anything. */
const FOR_USERS: Readonly<Record<string, string>> = {
  "monitor.acknowledge_alert(bigint,text,double precision,timestamp with time zone)":
    "asks require_admin()",
  "monitor.acknowledge_incident(bigint,timestamp with time zone)": "asks require_admin()",
  "monitor.assign_commander(bigint,text,timestamp with time zone)": "asks require_admin()",
  "monitor.bounded_page(integer,timestamp with time zone,timestamp with time zone)": "arithmetic",
  "monitor.check_selectors(jsonb)": "says only what it was given",
  "monitor.close_alert(bigint,text,timestamp with time zone)": "asks require_admin()",
  "monitor.create_access_token(text,text[],timestamp with time zone,timestamp with time zone)":
    "asks may_administer()",
  "monitor.current_actor()": "says only who calls",
  "monitor.decode_times(integer[])": "arithmetic",
  'monitor.decode_values(smallint,bigint,boolean,"char"[],"char"[],"char"[],"char"[],double precision[])':
    "arithmetic",
  "monitor.delete_channel(text)": "asks require_admin()",
  "monitor.delete_inhibition(text)": "asks require_admin()",
  "monitor.delete_route(text)": "asks require_admin()",
  "monitor.describe_duration(interval)": "says only what it was given",
  "monitor.describe_incident(bigint,timestamp with time zone)": "reads under row level security",
  "monitor.describe_time(timestamp with time zone,text)": "says only what it was given",
  "monitor.draft_post_mortem(bigint,timestamp with time zone)": "reads under row level security",
  "monitor.end_maintenance(bigint,timestamp with time zone)": "asks may_administer()",
  "monitor.end_silence(bigint,timestamp with time zone)": "asks require_admin()",
  "monitor.epoch_ms(timestamp with time zone)": "arithmetic",
  "monitor.escape_markdown(text)": "says only what it was given",
  "monitor.explain_alert(bigint)": "reads under row level security",
  "monitor.find_series(jsonb,timestamp with time zone,timestamp with time zone,integer)":
    "reads under row level security",
  "monitor.incident_timeline(bigint,bigint,integer)": "reads under row level security",
  "monitor.interpolate(double precision[],double precision)": "arithmetic",
  "monitor.is_admin()": "says only whether the caller is one; policies ask it",
  "monitor.label_anomaly_span(integer,text,timestamp with time zone,timestamp with time zone,text,timestamp with time zone)":
    "asks may_administer()",
  "monitor.link_alert(bigint,bigint,timestamp with time zone)": "asks require_admin()",
  "monitor.link_anomaly(bigint,bigint,timestamp with time zone)": "asks require_admin()",
  "monitor.mark_deploy(text,timestamp with time zone,jsonb,timestamp with time zone)":
    "asks may_administer()",
  "monitor.match_selectors(jsonb)": "reads under row level security",
  "monitor.match_series(jsonb,integer,integer)": "reads under row level security",
  "monitor.measure_incident(bigint)": "reads under row level security",
  "monitor.note_incident(bigint,text,timestamp with time zone,timestamp with time zone)":
    "asks require_admin()",
  "monitor.open_incident(text,text,timestamp with time zone,text[],bigint[],bigint[],text,text[],boolean,timestamp with time zone)":
    "asks require_admin()",
  "monitor.per_second(bigint[],double precision[])": "arithmetic",
  "monitor.plan_maintenance(timestamp with time zone,timestamp with time zone,text,jsonb,timestamp with time zone)":
    "asks may_administer()",
  "monitor.propose_incidents(timestamp with time zone)": "reads under row level security",
  "monitor.quote_markdown(text)": "says only what it was given",
  "monitor.read_bands(integer,integer,integer,timestamp with time zone)":
    "reads under row level security",
  "monitor.read_buckets(jsonb,timestamp with time zone,timestamp with time zone,interval,integer,integer)":
    "reads under row level security",
  "monitor.read_exposition(integer,timestamp with time zone)": "reads under row level security",
  "monitor.read_label_names(jsonb,timestamp with time zone,timestamp with time zone,integer)":
    "reads under row level security",
  "monitor.read_label_values(text,jsonb,timestamp with time zone,timestamp with time zone,integer)":
    "reads under row level security",
  "monitor.read_latest(jsonb,integer,integer)": "reads under row level security",
  "monitor.read_metadata(text,integer)": "reads under row level security",
  "monitor.read_related_series(bigint,integer)": "reads under row level security",
  "monitor.read_samples(jsonb,timestamp with time zone,timestamp with time zone,integer,integer)":
    "reads under row level security",
  "monitor.read_scorecards(timestamp with time zone,timestamp with time zone)":
    "reads under row level security",
  "monitor.read_selections(jsonb,integer)": "reads under row level security",
  "monitor.read_series_labels(jsonb,timestamp with time zone,timestamp with time zone,integer)":
    "reads under row level security",
  "monitor.read_spans(integer,timestamp with time zone,timestamp with time zone)":
    "reads under row level security",
  "monitor.refuse_beyond(bigint,integer,text)": "says only what it was given",
  "monitor.requeue_notifications(text,timestamp with time zone)": "asks require_admin()",
  "monitor.response_enforced_at(monitor.incidents)": "arithmetic on the row it was given",
  "monitor.response_target(text)": "a constant",
  "monitor.review_anomaly(bigint,text,timestamp with time zone)": "asks may_administer()",
  "monitor.revoke_access_token(text,timestamp with time zone)": "asks may_administer()",
  "monitor.satisfies_matchers(text,jsonb,jsonb)": "says only what it was given",
  "monitor.save_channel(text,text,jsonb,text,boolean)": "asks require_admin()",
  "monitor.save_escalation_level(integer,text[],text)": "asks require_admin()",
  "monitor.save_inhibition(text,jsonb,jsonb,text[])": "asks require_admin()",
  "monitor.save_route(text,text[],jsonb,integer,text[],boolean,double precision,double precision,double precision)":
    "asks require_admin()",
  "monitor.scan_rollups(integer[],timestamp with time zone,timestamp with time zone)":
    "reads under row level security",
  "monitor.scan_rows(integer[],timestamp with time zone,timestamp with time zone,integer)":
    "reads under row level security",
  "monitor.scan_series(integer[],timestamp with time zone,timestamp with time zone)":
    "reads under row level security",
  "monitor.scan_spans(integer[],timestamp with time zone[],timestamp with time zone,integer)":
    "reads under row level security",
  "monitor.send_incident_message(bigint,text,text,text[],timestamp with time zone,timestamp with time zone)":
    "asks require_admin()",
  "monitor.set_detection(text,double precision,text,text,double precision,double precision,boolean)":
    "asks may_administer()",
  "monitor.set_incident_severity(bigint,text,text,timestamp with time zone)":
    "asks require_admin()",
  "monitor.set_incident_state(bigint,text,text,timestamp with time zone,text,text,text,date,boolean,timestamp with time zone)":
    "asks require_admin()",
  "monitor.set_schedule(text,text,timestamp with time zone)": "asks may_administer()",
  "monitor.silence_alerts(jsonb,timestamp with time zone,text,timestamp with time zone,integer[],time without time zone,time without time zone,timestamp with time zone)":
    "asks require_admin()",
  "monitor.unacknowledge_alert(bigint,timestamp with time zone)": "asks require_admin()",
  "monitor.unlink_alert(bigint,bigint,timestamp with time zone)": "asks require_admin()",
  "monitor.unlink_anomaly(bigint,bigint,timestamp with time zone)": "asks require_admin()",
  "monitor.update_enforced_at(monitor.incidents)": "arithmetic on the row it was given",
  "monitor.update_incident_components(bigint,text[],timestamp with time zone)":
    "asks require_admin()",
  "monitor.update_interval(text)": "a constant",
  "monitor.utc_midnight(date)": "arithmetic",
  "monitor.write_up_incident(bigint,text,text,text,date,timestamp with time zone)":
    "asks require_admin()",
};

/** Functions that run as the owner of the schema, and why they must. Collectors all do: see below. */
const DEFINERS: Readonly<Record<string, string>> = {
  "monitor.acknowledge_alert(bigint,text,double precision,timestamp with time zone)":
    "an admin may acknowledge, but not write the row",
  "monitor.acknowledge_incident(bigint,timestamp with time zone)":
    "an admin may respond, but not write the row",
  "monitor.assign_commander(bigint,text,timestamp with time zone)":
    "an admin may say who leads, but not write the row",
  "monitor.channel_secret(text)": "Vault is closed to whoever sends",
  "monitor.check_setup(timestamp with time zone)": "looks into Vault and pg_cron",
  "monitor.cleanup_old_metrics(integer,timestamp with time zone,boolean,integer,integer)":
    "drops partitions",
  "monitor.cleanup_old_rollups(integer,timestamp with time zone,boolean,integer)":
    "drops partitions",
  "monitor.cleanup_own_table(text,integer,timestamp with time zone,boolean,integer)":
    "deletes what nobody else may: audit log, pg_cron's record",
  "monitor.close_alert(bigint,text,timestamp with time zone)":
    "an admin may close what nothing is known of, but not write the row",
  "monitor.compact_samples(integer,timestamp with time zone,boolean,integer)":
    "drops partitions, and writes chunks, which nobody may write",
  "monitor.create_access_token(text,text[],timestamp with time zone,timestamp with time zone)":
    "an admin may make a token, but not write its row",
  "monitor.delete_channel(text)": "an admin may delete a channel, but not its row or Vault's",
  "monitor.delete_inhibition(text)": "an admin may delete an inhibition, but not its row",
  "monitor.delete_route(text)": "an admin may delete a route, but not its row",
  "monitor.end_maintenance(bigint,timestamp with time zone)":
    "an admin may end maintenance, but not rewrite its row",
  "monitor.end_silence(bigint,timestamp with time zone)":
    "an admin may end a silence, but not rewrite its row",
  "monitor.ensure_chunk_partitions(date)": "creates partitions",
  "monitor.ensure_sample_days(timestamp with time zone,integer)": "creates partitions",
  "monitor.invoke_followers(text,timestamp with time zone,timestamp with time zone)":
    "whoever ends a run may not read Vault",
  "monitor.is_admin()": "reads a table behind a policy that asks it",
  "monitor.label_anomaly_span(integer,text,timestamp with time zone,timestamp with time zone,text,timestamp with time zone)":
    "an admin may label a span, but not write its row",
  "monitor.link_alert(bigint,bigint,timestamp with time zone)":
    "an admin may link an alert, but not write the row",
  "monitor.link_anomaly(bigint,bigint,timestamp with time zone)":
    "an admin may link an anomaly, but not write the row",
  "monitor.mark_deploy(text,timestamp with time zone,jsonb,timestamp with time zone)":
    "an admin may mark a deploy, but not write its row",
  "monitor.note_incident(bigint,text,timestamp with time zone,timestamp with time zone)":
    "an admin may add to a timeline, but not rewrite it",
  "monitor.open_days(date[],timestamp with time zone)":
    "creates partitions, and notes days nobody collected on",
  "monitor.open_incident(text,text,timestamp with time zone,text[],bigint[],bigint[],text,text[],boolean,timestamp with time zone)":
    "an admin may open an incident, but not write its row",
  "monitor.plan_collection(timestamp with time zone)": "asks for relations in closed schemas",
  "monitor.plan_maintenance(timestamp with time zone,timestamp with time zone,text,jsonb,timestamp with time zone)":
    "an admin may plan maintenance, but not write its row",
  "monitor.record_change()": "writes the audit log, which nobody may write",
  "monitor.record_changed_columns()": "as record_change",
  "monitor.requeue_notifications(text,timestamp with time zone)":
    "an admin may have them sent again, but not write their rows",
  "monitor.review_anomaly(bigint,text,timestamp with time zone)":
    "an admin may judge, but not rewrite",
  "monitor.revoke_access_token(text,timestamp with time zone)":
    "an admin may revoke a token, but not write its row",
  "monitor.save_channel(text,text,jsonb,text,boolean)":
    "an admin may make a channel, but not write its row or Vault",
  "monitor.save_escalation_level(integer,text[],text)":
    "an admin may say who is told, but not write the row",
  "monitor.save_inhibition(text,jsonb,jsonb,text[])":
    "an admin may save an inhibition, but not write its row",
  "monitor.save_route(text,text[],jsonb,integer,text[],boolean,double precision,double precision,double precision)":
    "an admin may save a route, but not write its row",
  "monitor.send_incident_message(bigint,text,text,text[],timestamp with time zone,timestamp with time zone)":
    "an admin may tell people, but not write to the outbox",
  "monitor.set_detection(text,double precision,text,text,double precision,double precision,boolean)":
    "an admin may set what is told, but not rewrite a definition",
  "monitor.set_incident_severity(bigint,text,text,timestamp with time zone)":
    "an admin may judge an incident anew, but not write its row",
  "monitor.set_incident_state(bigint,text,text,timestamp with time zone,text,text,text,date,boolean,timestamp with time zone)":
    "an admin may move an incident on, but not write its row",
  "monitor.set_schedule(text,text,timestamp with time zone)":
    "pg_cron runs a job as whoever scheduled it",
  "monitor.silence_alerts(jsonb,timestamp with time zone,text,timestamp with time zone,integer[],time without time zone,time without time zone,timestamp with time zone)":
    "an admin may silence, but not write the row",
  "monitor.unacknowledge_alert(bigint,timestamp with time zone)":
    "an admin may take it back, but not write the row",
  "monitor.unlink_alert(bigint,bigint,timestamp with time zone)":
    "an admin may take a link back, but not delete the row",
  "monitor.unlink_anomaly(bigint,bigint,timestamp with time zone)":
    "an admin may take a link back, but not delete the row",
  "monitor.update_incident_components(bigint,text[],timestamp with time zone)":
    "an admin may say what is affected, but not write the row",
  "monitor.wake_deliverer(timestamp with time zone,double precision)":
    "whoever calls may not read Vault",
  "monitor.write_up_incident(bigint,text,text,text,date,timestamp with time zone)":
    "an admin may write what was the matter, but not the row",
};

/** Functions that return rows although the API cuts at 1,000, and why that loses nothing. */
const SET_RETURNING: Readonly<Record<string, string>> = {
  "monitor.check_setup(timestamp with time zone)": "some rows a job",
  "monitor.cron_ticks(text,timestamp with time zone,timestamp with time zone)":
    "for SQL; granted because the check of job_schedules calls it",
  "monitor.explain_alert(bigint)": "takes at most 1,000 of them itself",
  "monitor.find_series(jsonb,timestamp with time zone,timestamp with time zone,integer)":
    "for SQL; granted because the readers, which run as their caller, call it",
  "monitor.list_conditions(jsonb,timestamp with time zone)":
    "for SQL; granted because sync_alerts, which runs as its caller, calls it",
  "monitor.list_mutes(timestamp with time zone,text)":
    "for SQL; granted because tell_alerts and record_decisions, which run as their caller, call it",
  "monitor.list_next_notifications(timestamp with time zone)":
    "for SQL; granted because lease_notifications, which runs as its caller, calls it",
  "monitor.match_open_alerts(jsonb)":
    "for SQL; granted because route_alerts and list_mutes, which run as their caller, call it",
  "monitor.match_selectors(jsonb)":
    "for SQL; granted because the readers, which run as their caller, call it",
  "monitor.match_series(jsonb,integer,integer)": "takes at most 1,000 as its limit",
  "monitor.missing_evidence(bigint)": "for SQL; granted because copy_evidence calls it",
  "monitor.scan_rollups(integer[],timestamp with time zone,timestamp with time zone)":
    "for SQL; granted because the readers, which run as their caller, call it",
  "monitor.scan_rows(integer[],timestamp with time zone,timestamp with time zone,integer)":
    "for SQL; granted because the readers, which run as their caller, call it",
  "monitor.scan_series(integer[],timestamp with time zone,timestamp with time zone)":
    "for SQL; granted because the readers, which run as their caller, call it",
  "monitor.scan_spans(integer[],timestamp with time zone[],timestamp with time zone,integer)":
    "for SQL; granted because the readers, which run as their caller, call it",
};

/** The tables, views and partitions of the schema. */
const RELATIONS = `
  select c.* from pg_class as c
  where c.relnamespace = 'monitor'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')`;

/** Its sequences. Materialized, or the planner asks for privileges of a table as if it were one. */
const SEQUENCES = `
  with sequence as materialized (
    select c.oid from pg_class as c where c.relnamespace = 'monitor'::regnamespace and c.relkind = 'S'
  ) select * from sequence`;

/** Catalog queries that must find nothing; each row they return is one offence. */
const OFFENCES: Readonly<Record<string, string>> = {
  "every table has row level security and a comment": `
    select c.oid::regclass as offender from (${RELATIONS}) as c
    where not c.relrowsecurity or obj_description(c.oid, 'pg_class') is null`,

  "every table belongs to postgres, as does every function": `
    select c.oid::regclass::text as offender from (${RELATIONS}) as c where c.relowner <> 'postgres'::regrole
    union all
    select p.oid::regprocedure::text from pg_proc as p
    where p.pronamespace = 'monitor'::regnamespace and p.proowner <> 'postgres'::regrole`,

  "every table has a primary key": `
    select c.oid::regclass as offender from (${RELATIONS}) as c
    where not exists (select from pg_constraint where conrelid = c.oid and contype = 'p')`,

  "every table but a partition is readable by admins only, by a policy named after it": `
    select c.oid::regclass as offender from (${RELATIONS}) as c
    where not c.relispartition and not exists (
      select from pg_policies as policy
      where policy.schemaname = 'monitor' and policy.tablename = c.relname
        and policy.policyname = c.relname || '_select_authenticated'
        and policy.cmd = 'SELECT' and policy.roles = '{authenticated}'
        and policy.qual ~ 'monitor\\.is_admin\\(\\)|^\\( SELECT is_admin')`,

  "no policy lets anybody else read or write": `
    select policyname as offender from pg_policies
    where schemaname = 'monitor' and policyname <> tablename || '_select_authenticated'`,

  "a partition is reached through its table only": `
    select c.oid::regclass as offender, acl.grantee::regrole from (${RELATIONS}) as c
    cross join lateral aclexplode(c.relacl) as acl
    where c.relispartition and acl.grantee <> c.relowner`,

  "every function has a comment": `
    select p.oid::regprocedure as offender from pg_proc as p
    where p.pronamespace = 'monitor'::regnamespace and obj_description(p.oid, 'pg_proc') is null`,

  "every number says its unit, in its name or in its comment": `
    select format('%s.%s', a.attrelid::regclass, a.attname) as offender
    from (${RELATIONS}) as c
    join pg_attribute as a on a.attrelid = c.oid
    where a.attnum > 0 and not a.attisdropped and a.atttypid in ('int4'::regtype, 'int8'::regtype, 'float8'::regtype)
      and a.attname !~ '_(id|seconds|milliseconds|bytes|days|ratio|count)$'
      and col_description(c.oid, a.attnum) is null`,

  "every instant is a timestamptz and its name says so": `
    select format('%s.%s', a.attrelid::regclass, a.attname) as offender
    from (${RELATIONS}) as c
    join pg_attribute as a on a.attrelid = c.oid
    where a.attnum > 0 and not a.attisdropped and (
      a.atttypid = 'timestamp'::regtype
      or (a.atttypid = 'timestamptz'::regtype) <> (a.attname ~ '_(at|until|since)$'))`,

  "every function pins its search_path to nothing": `
    select p.oid::regprocedure as offender from pg_proc as p
    where p.pronamespace = 'monitor'::regnamespace
      and not 'search_path=""' = any (coalesce(p.proconfig, '{}'))`,

  "what users may call as the owner asks whether they are admins": `
    select p.oid::regprocedure as offender from pg_proc as p
    where p.pronamespace = 'monitor'::regnamespace and p.prosecdef and has_function_privilege('authenticated', p.oid, 'execute')
      and p.prosrc !~ '(perform monitor\\.require_admin|not monitor\\.may_administer)\\('
      and p.proname <> 'is_admin'`,

  "what only reads is declared so": `
    select p.oid::regprocedure as offender from pg_proc as p
    where p.pronamespace = 'monitor'::regnamespace and p.provolatile = 'v'
      and p.proname ~ '^(read|list|plan|match|is|collect)_'
      and p.proname <> 'plan_maintenance'`, // there, to plan is to write

  "anon has no right at all": `
    select n.nspname as offender from pg_namespace as n
    where n.nspname = 'monitor' and has_schema_privilege('anon', n.oid, 'usage, create')
    union all
    select p.oid::regprocedure::text from pg_proc as p
    where p.pronamespace = 'monitor'::regnamespace and has_function_privilege('anon', p.oid, 'execute')
    union all
    select c.oid::regclass::text from (${RELATIONS}) as c
    where has_table_privilege('anon', c.oid, 'select, insert, update, delete, truncate, references, trigger')
       or has_any_column_privilege('anon', c.oid, 'select, insert, update, references')
    union all
    select c.oid::regclass::text from (${SEQUENCES}) as c where has_sequence_privilege('anon', c.oid, 'usage, select, update')`,

  "nothing is granted to public, neither by default": `
    select granted.name as offender from (
      select nspname::text as name, coalesce(nspacl, acldefault('n', nspowner)) as acl
      from pg_namespace where nspname = 'monitor'
      union all
      select oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner))
      from pg_proc where pronamespace = 'monitor'::regnamespace
      union all
      select oid::regclass::text, coalesce(relacl, acldefault(case relkind when 'S' then 's'::"char" else 'r' end, relowner))
      from pg_class where relnamespace = 'monitor'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
      union all
      select 'default privileges', defaclacl from pg_default_acl where defaclnamespace = 'monitor'::regnamespace
    ) as granted
    where exists (select from aclexplode(granted.acl) as acl where acl.grantee = 0)`,

  "new objects get no grant by default": `
    select defaclobjtype as offender from pg_default_acl where defaclnamespace = 'monitor'::regnamespace`,

  "users of the API may write nothing": `
    select c.oid::regclass as offender from (${RELATIONS}) as c
    where has_table_privilege('authenticated', c.oid, 'insert, update, delete, truncate, references, trigger')
       or has_any_column_privilege('authenticated', c.oid, 'insert, update, references')
    union all
    select c.oid::regclass from (${SEQUENCES}) as c
    where has_sequence_privilege('authenticated', c.oid, 'usage, select, update')`,

  "service_role changes rows, never tables": `
    select c.oid::regclass as offender from (${RELATIONS}) as c
    where has_table_privilege('service_role', c.oid, 'truncate, references, trigger')`,

  "every constraint has a name that somebody gave it": `
    select format('%s: %s', k.conrelid::regclass, k.conname) as offender
    from pg_constraint as k
    join pg_class as c on c.oid = k.conrelid
    where k.connamespace = 'monitor'::regnamespace and not c.relispartition and not (
      -- the archive has its checks from the table it is an archive of
      starts_with(k.conname, regexp_replace(c.relname, '_archive$', '') || '_')
      and case k.contype
        when 'p' then k.conname = c.relname || '_pkey'
        when 'f' then k.conname ~ '_fkey$'
        when 'u' then k.conname ~ '_key$'
        when 'c' then k.conname !~ '_check[0-9]*$'
        else k.contype = 'n'
      end)`,

  "every index is named after its table": `
    select indexname as offender from pg_indexes
    where schemaname = 'monitor' and indexname !~ ('^' || tablename || '_.*(idx|key)$')`,

  "every foreign key is served by an index": `
    select format('%s: %s', k.conrelid::regclass, k.conname) as offender
    from pg_constraint as k
    where k.connamespace = 'monitor'::regnamespace and k.contype = 'f' and not exists (
      select from pg_index as i
      where i.indrelid = k.conrelid and i.indpred is null
        and (i.indkey::smallint[])[0:cardinality(k.conkey) - 1] @> k.conkey)`,

  "every table has a retention policy, if only to keep it": `
    select c.oid::regclass as offender from (${RELATIONS}) as c
    where c.relkind <> 'v' and not c.relispartition
      and c.relname not in (select entity from monitor.retention_policies)`,

  "every retention policy has a table": `
    select entity as offender from monitor.retention_policies
    where to_regclass(case when entity like '%.%' then entity else 'monitor.' || entity end) is null`,

  "every table of configuration is audited": `
    select policy.entity as offender from monitor.retention_policies as policy
    where policy.action = 'keep' and not exists (
      select from pg_trigger as t
      where t.tgrelid = to_regclass('monitor.' || policy.entity) and t.tgfoid = 'monitor.record_change()'::regprocedure
        and t.tgtype & 29 = 29 and t.tgenabled = 'O')`, // row, insert, update, delete

  "every collector is registered, reads only, and has the one signature": `
    select p.oid::regprocedure as offender from pg_proc as p
    where p.pronamespace = 'monitor'::regnamespace and p.proname ~ '^collect_' and not (
      p.provolatile = 's' and p.prosecdef and not p.proretset and p.prorettype = 'jsonb'::regtype
      and pg_get_function_arguments(p.oid) = 'p_at timestamp with time zone'
      and exists (select from unnest(p.proconfig) as setting where setting like 'statement_timeout=%')
      and has_function_privilege('service_role', p.oid, 'execute')
      and exists (select from monitor.metric_collectors where collector = p.proname))
    union all
    select to_regprocedure(null) from monitor.metric_collectors
    where to_regprocedure(format('monitor.%I(timestamptz)', collector)) is null`,
};

describe("every object in schema monitor", () => {
  it.for(Object.entries(OFFENCES))("%s", async ([, sql], { query, asOwner }) => {
    await openDays(query); // a partition made at run time obeys them too
    expect((await asOwner(sql)).rows).toEqual([]);
  });

  it("is executed by users of the API only if it is listed", async ({ asOwner }) => {
    const { rows } = await asOwner<{ name: string }>(`
      select p.oid::regprocedure::text as name from pg_proc as p
      where p.pronamespace = 'monitor'::regnamespace and has_function_privilege('authenticated', p.oid, 'execute')
      order by 1`);
    expect(rows.map(({ name }) => name)).toEqual(Object.keys(FOR_USERS));
  });

  it("runs as the owner only if it is a collector or listed with the reason", async ({ asOwner }) => {
    const { rows } = await asOwner<{ name: string }>(`
      select p.oid::regprocedure::text as name from pg_proc as p
      where p.pronamespace = 'monitor'::regnamespace and p.prosecdef and p.proname !~ '^collect_'
      order by 1`);
    expect(rows.map(({ name }) => name)).toEqual(Object.keys(DEFINERS));
  });

  it("returns rows, which the API cuts at 1,000, only if it is listed with the reason", async ({ asOwner }) => {
    const { rows } = await asOwner<{ name: string }>(`
      select p.oid::regprocedure::text as name from pg_proc as p
      where p.pronamespace = 'monitor'::regnamespace and p.proretset
        and (has_function_privilege('service_role', p.oid, 'execute')
          or has_function_privilege('authenticated', p.oid, 'execute'))
      order by 1`);
    expect(rows.map(({ name }) => name)).toEqual(Object.keys(SET_RETURNING));
  });

  it("is a table the API reaches with a role of its own, or not at all", async ({ asAnon, asUser, query }) => {
    const ofNobody = "00000000-0000-4000-8000-000000000000";
    await expect(asAnon("select * from monitor.settings")).rejects.toMatchObject({ code: "42501" });
    expect((await asUser(ofNobody)("select * from monitor.settings")).rows).toEqual([]);
    expect((await query("select * from monitor.settings")).rows).toHaveLength(1);
  });
});
