-- Purpose:  alerting and recording rules in groups, what their evaluation remembers, and the one way to save them.
-- Locks:    access exclusive on retention_policies while a check changes, and on metric_definitions while a column is added.
-- Undo:     drop function monitor.delete_rules(text), monitor.save_rules(jsonb, boolean, boolean, timestamptz),
--           monitor.parse_rule(jsonb), monitor.read_rules(), monitor.describe_rule(monitor.alert_rules, monitor.rule_states),
--           monitor.refuse_rule_name(text, text);
--           drop table monitor.rule_states, monitor.alert_rules, monitor.rule_groups;
--           drop function monitor.reset_rule_state(), monitor.rule_texts_are_valid(jsonb, integer);
--           alter table monitor.metric_definitions drop column is_recorded;
--           delete the three policies; restore the check retention_policies_action_fits_entity of 20261121110900.

alter table monitor.metric_definitions add column is_recorded boolean not null default false;

comment on column monitor.metric_definitions.is_recorded is
  'Whether recording rules write it; they write no other, because the first sample of a time stays and would take the place of what was measured.';

create table monitor.rule_groups (
  group_name        text     not null,
  interval_seconds  integer  not null default 60,

  constraint rule_groups_pkey primary key (group_name),
  constraint rule_groups_group_name_in_bounds check (length(group_name) between 1 and 200),
  constraint rule_groups_interval_seconds_in_range check (interval_seconds between 1 and 86400)
);

comment on table monitor.rule_groups is 'Rules that are evaluated together and in order.';
comment on column monitor.rule_groups.interval_seconds is 'How often its rules are evaluated; not more often than the job runs.';

alter table monitor.rule_groups enable row level security;

create policy rule_groups_select_authenticated
  on monitor.rule_groups for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.rule_groups to authenticated;
grant select, insert, update, delete on monitor.rule_groups to service_role;

create trigger rule_groups_record_change
  after insert or update or delete on monitor.rule_groups
  for each row execute function monitor.record_change();

create function monitor.rule_texts_are_valid(p_texts jsonb, p_limit_bytes integer)
returns boolean
language sql
immutable
security invoker
set search_path = ''
as $$
  select case when jsonb_typeof(p_texts) = 'object' and octet_length(p_texts::text) <= p_limit_bytes then not exists (
    select from jsonb_each(p_texts) as text
    where text.key !~ '^[a-zA-Z_][a-zA-Z0-9_]*$' or text.key = '__name__' or jsonb_typeof(text.value) <> 'string'
  ) else false end;
$$;

comment on function monitor.rule_texts_are_valid(jsonb, integer) is
  'True for a JSON object of strings, also empty ones, whose names are Prometheus label names, within so many bytes as text. '
  'An empty label of a rule takes the series'' one away, so it is stored.';

create table monitor.alert_rules (
  rule_id                  bigint            generated always as identity,
  group_name               text              not null,
  position                 integer           not null,
  kind                     text              not null,
  name                     text              not null,
  expr                     text              not null,
  for_seconds              double precision  not null default 0,
  keep_firing_for_seconds  double precision  not null default 0,
  labels                   jsonb             not null default '{}',
  labels_hash              uuid              not null generated always as (md5(labels::text)::uuid) stored,
  annotations              jsonb             not null default '{}',
  no_data_policy           text              not null default 'keep',
  severity                 text,
  runbook_url              text,
  mode                     text              not null default 'live',
  enabled                  boolean           not null default true,
  created_at               timestamptz       not null default now(),
  updated_at               timestamptz       not null default now(),

  constraint alert_rules_pkey primary key (rule_id),
  constraint alert_rules_group_name_kind_name_labels_key unique (group_name, kind, name, labels_hash),
  constraint alert_rules_group_name_fkey foreign key (group_name) references monitor.rule_groups (group_name),
  constraint alert_rules_position_positive check (position > 0),
  constraint alert_rules_kind_known check (kind in ('alerting', 'recording')),
  constraint alert_rules_name_fits_kind check (case kind
    when 'recording' then name ~ '^[a-zA-Z_:][a-zA-Z0-9_:]{0,199}$'
    else length(name) between 1 and 200 end),
  constraint alert_rules_expr_in_bounds check (btrim(expr, E' \t\r\n') <> '' and octet_length(expr) <= 16384),
  constraint alert_rules_for_seconds_in_range check (for_seconds between 0 and 31536000),
  constraint alert_rules_keep_firing_for_seconds_in_range check (keep_firing_for_seconds between 0 and 31536000),
  constraint alert_rules_labels_valid check (monitor.rule_texts_are_valid(labels, 8192)),
  constraint alert_rules_annotations_valid check (monitor.rule_texts_are_valid(annotations, 65536)),
  constraint alert_rules_no_data_policy_known check (no_data_policy in ('keep', 'alert', 'ok')),
  constraint alert_rules_severity_known check (severity in ('info', 'warning', 'critical')),
  constraint alert_rules_runbook_url_shape check (runbook_url ~ '^https?://[^[:space:]]+$' and length(runbook_url) <= 2000),
  constraint alert_rules_mode_known check (mode in ('shadow', 'live')),
  constraint alert_rules_alert_parts_fit_kind check (case kind
    when 'alerting' then severity is not null
    else severity is null and runbook_url is null and annotations = '{}' and for_seconds = 0 and keep_firing_for_seconds = 0 end)
);

comment on table monitor.alert_rules is
  'A rule as in Prometheus: alerting, or recording, which writes series. Written by monitor.save_rules; its callers parse expr and '
  'templates first, and one that does not parse all the same is an error of its own evaluation.';
comment on column monitor.alert_rules.position is 'Order within the group, from 1; ties by rule_id.';
comment on column monitor.alert_rules.name is 'Of the alert, or the metric that is recorded.';
comment on column monitor.alert_rules.expr is 'PromQL, at most 16 KiB.';
comment on column monitor.alert_rules.for_seconds is 'How long it has to hold before it fires.';
comment on column monitor.alert_rules.keep_firing_for_seconds is 'How long it fires on after it has ceased to hold.';
comment on column monitor.alert_rules.labels is 'Added to those of the series; templates, for an alert. At most 8 KiB as text.';
comment on column monitor.alert_rules.labels_hash is 'Labels can be larger than an index entry may be; their hash cannot.';
comment on column monitor.alert_rules.annotations is 'Templates. At most 64 KiB as text.';
comment on column monitor.alert_rules.no_data_policy is
  'What becomes of an alert whose series have no data any more. keep: it stays as it is. alert: it fires. ok: it resolves.';
comment on column monitor.alert_rules.severity is 'Null for a recording rule.';
comment on column monitor.alert_rules.mode is 'shadow: evaluated and shown, tells nobody. live: tells.';

alter table monitor.alert_rules enable row level security;

create policy alert_rules_select_authenticated
  on monitor.alert_rules for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.alert_rules to authenticated;
grant select, insert, update, delete on monitor.alert_rules to service_role;

create trigger alert_rules_record_change
  after insert or update or delete on monitor.alert_rules
  for each row execute function monitor.record_change();

create table monitor.rule_states (
  rule_id             bigint            not null,
  revision            bigint            not null default 0,
  instances           jsonb             not null default '[]',
  health              text              not null default 'unknown',
  last_error          text,
  failing_since       timestamptz,
  evaluated_at        timestamptz,
  evaluation_seconds  double precision,

  constraint rule_states_pkey primary key (rule_id),
  constraint rule_states_rule_id_fkey foreign key (rule_id) references monitor.alert_rules (rule_id) on delete cascade,
  constraint rule_states_instances_bounded
    check (case when jsonb_typeof(instances) = 'array' then jsonb_array_length(instances) <= 1000 else false end),
  constraint rule_states_health_known check (health in ('unknown', 'ok', 'err')),
  constraint rule_states_last_error_with_health check ((last_error is not null) = (health = 'err')),
  constraint rule_states_evaluated_at_with_health check ((evaluated_at is null) = (health = 'unknown')),
  constraint rule_states_evaluation_seconds_with_health
    check ((evaluation_seconds is null) = (health = 'unknown') and evaluation_seconds >= 0 and evaluation_seconds < 'infinity')
) with (fillfactor = 40); -- all rows are rewritten every minute: leave room for each on its page

comment on table monitor.rule_states is 'What the evaluation of a rule remembers.';
comment on column monitor.rule_states.revision is 'Grows with every change: what was evaluated on top of an older one is refused.';
comment on column monitor.rule_states.instances is
  'Array of the alerts that are pending, firing or just resolved, as shared/alerting writes it; at most 1,000.';
comment on column monitor.rule_states.health is 'unknown: not evaluated as it is now. ok. err: the last evaluation failed, see last_error.';
comment on column monitor.rule_states.failing_since is 'The minute since which all its evaluations have failed; null if the last did not.';
comment on column monitor.rule_states.evaluated_at is 'The minute that the last evaluation was of, also of one that failed.';
comment on column monitor.rule_states.evaluation_seconds is 'What it took to compute, shared equally among the rules evaluated with it.';

alter table monitor.rule_states enable row level security;

create policy rule_states_select_authenticated
  on monitor.rule_states for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.rule_states to authenticated;
grant select, insert, update, delete on monitor.rule_states to service_role;

create function monitor.reset_rule_state()
returns trigger
language plpgsql
security invoker
set search_path = ''
as $$
begin
  insert into monitor.rule_states as known (rule_id) values (new.rule_id)
  on conflict (rule_id) do update
  set revision = known.revision + 1, health = 'unknown', last_error = null, failing_since = null, evaluated_at = null,
      evaluation_seconds = null,
      -- A new threshold ends no alert: its next evaluation says whether it still holds.
      instances = case when (old.kind, old.name, old.labels, old.enabled) is not distinct from (new.kind, new.name, new.labels, new.enabled)
        then known.instances else '[]' end;
  return null;
end;
$$;

comment on function monitor.reset_rule_state() is
  'Trigger of alert_rules: a rule that is new, or that asks something else than before, has yet to be evaluated. Its alerts stay '
  'while it is known by the same kind, name and labels, unless it was switched off or on.';

create trigger alert_rules_make_state
  after insert on monitor.alert_rules
  for each row execute function monitor.reset_rule_state();

create trigger alert_rules_reset_state
  after update of kind, name, expr, labels, for_seconds, enabled on monitor.alert_rules
  for each row
  when ((old.kind, old.name, old.expr, old.labels, old.for_seconds, old.enabled)
    is distinct from (new.kind, new.name, new.expr, new.labels, new.for_seconds, new.enabled))
  execute function monitor.reset_rule_state();

create function monitor.refuse_rule_name(p_kind text, p_name text)
returns text
language sql
stable
security invoker
set search_path = ''
as $$
  select format('%s is measured or sent: record under a name that nobody else writes', p_name)
  from monitor.metric_definitions
  where p_kind = 'recording' and metric = p_name and not is_recorded;
$$;

comment on function monitor.refuse_rule_name(text, text) is
  'Why a rule of this kind may not have this name: others write the metric. Null if it may.';

create function monitor.describe_rule(p_rule monitor.alert_rules, p_state monitor.rule_states)
returns jsonb
language sql
immutable
security invoker
set search_path = ''
as $$
  select jsonb_build_object(
    'rule_id', p_rule.rule_id,
    'kind', p_rule.kind,
    'name', p_rule.name,
    'expr', p_rule.expr,
    'for_seconds', p_rule.for_seconds,
    'keep_firing_for_seconds', p_rule.keep_firing_for_seconds,
    'labels', p_rule.labels,
    'annotations', p_rule.annotations,
    'no_data_policy', p_rule.no_data_policy,
    'severity', p_rule.severity,
    'runbook_url', p_rule.runbook_url,
    'mode', p_rule.mode,
    'enabled', p_rule.enabled,
    'state', jsonb_build_object(
      'revision', p_state.revision,
      'instances', p_state.instances,
      'health', p_state.health,
      'last_error', p_state.last_error,
      'evaluated_at', monitor.epoch_ms(p_state.evaluated_at),
      'evaluation_seconds', p_state.evaluation_seconds));
$$;

comment on function monitor.describe_rule(monitor.alert_rules, monitor.rule_states) is
  'A rule and its state as JSON, evaluated_at in ms since 1970 UTC, null before the first time.';

create function monitor.read_rules()
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'name', rule_group.group_name,
    'interval_seconds', rule_group.interval_seconds,
    'rules', rules.listed
  ) order by rule_group.group_name collate "C"), '[]')
  from monitor.rule_groups as rule_group
  cross join lateral (
    select coalesce(jsonb_agg(monitor.describe_rule(rule, state) order by rule.position, rule.rule_id), '[]') as listed
    from monitor.alert_rules as rule
    join monitor.rule_states as state using (rule_id)
    where rule.group_name = rule_group.group_name
  ) as rules;
$$;

comment on function monitor.read_rules() is
  'All groups by name, each {name, interval_seconds, rules}, the rules in order, each as monitor.describe_rule.';

create function monitor.parse_rule(p_entry jsonb)
returns monitor.alert_rules
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c_defaults constant jsonb := '{"for_seconds": 0, "keep_firing_for_seconds": 0, "labels": {}, "annotations": {}, "no_data_policy": "keep",
    "mode": "live"}';
  c_fields constant text[] := '{kind, name, expr, for_seconds, keep_firing_for_seconds, labels, annotations, no_data_policy, severity,
    runbook_url, mode, enabled}';
  v_rule     monitor.alert_rules;
begin
  if jsonb_typeof(p_entry) is distinct from 'object' then
    raise exception 'is no object' using errcode = 'invalid_parameter_value';
  end if;
  if p_entry - c_fields <> '{}' then
    raise exception 'has unknown fields: %', p_entry - c_fields using errcode = 'invalid_parameter_value';
  end if;

  v_rule := jsonb_populate_record(null::monitor.alert_rules, c_defaults || (
    select coalesce(jsonb_object_agg(key, value), '{}') from jsonb_each(p_entry) where value <> 'null'));
  if v_rule.kind = 'alerting' and v_rule.severity is null then
    v_rule.severity := case
      when v_rule.labels ->> 'severity' in ('info', 'warning', 'critical') then v_rule.labels ->> 'severity'
      else 'warning' end;
  end if;
  return v_rule;
end;
$$;

comment on function monitor.parse_rule(jsonb) is
  'A rule as monitor.save_rules takes it, with defaults for what it leaves out or has as null; those of the table''s columns that a '
  'rule does not bring are null, and enabled is where it says nothing of it. Errors: 22023 for an unknown field, 22P02 for a value of the wrong type.';

create function monitor.save_rules(
  p_groups   jsonb,
  p_replace  boolean      default false,
  p_dry_run  boolean      default false,
  p_now      timestamptz  default now()
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_rules constant integer := 2000;
  v_group      record;
  v_listed     record;
  v_rule       monitor.alert_rules;
  v_known      monitor.alert_rules;
  v_kept       bigint[];
  v_where      text := 'p_groups';
  v_count      integer;
  v_inserted   integer := 0;
  v_updated    integer := 0;
  v_unchanged  integer := 0;
  v_deleted    integer := 0;
  v_unlisted   integer := 0;
  v_refusal    text;
  v_counts     jsonb;
begin
  if jsonb_typeof(p_groups) is distinct from 'array' or p_replace is null or p_dry_run is null then
    raise exception 'p_groups must be an array, p_replace and p_dry_run booleans'
      using errcode = 'invalid_parameter_value',
            hint = 'Pass e.g. [{"name": "queue", "rules": [{"kind": "alerting", "name": "QueueDeep", "expr": "queue_depth > 9"}]}].';
  end if;

  -- One at a time, and not while an evaluation is recorded: both lock many states.
  perform pg_advisory_xact_lock(hashtext('monitor.alert_rules'));

  for v_group in
    select place, entry ->> 'name' as name, entry -> 'rules' as rules, (entry ->> 'interval_seconds')::integer as interval_seconds,
      jsonb_typeof(entry) = 'object' and jsonb_typeof(entry -> 'rules') = 'array'
        and entry - '{name, interval_seconds, rules}'::text[] = '{}' as is_whole,
      count(*) over (partition by entry ->> 'name') as namesakes
    from jsonb_array_elements(p_groups) with ordinality as item (entry, place)
    order by place
  loop
    v_where := format('group %s', coalesce(to_json(v_group.name)::text, v_group.place::text));
    if v_group.is_whole is not true then
      raise exception 'is no object of name, interval_seconds and an array of rules' using errcode = 'invalid_parameter_value';
    elsif v_group.namesakes > 1 then
      raise exception 'is there more than once' using errcode = 'invalid_parameter_value';
    end if;
    insert into monitor.rule_groups as known (group_name, interval_seconds)
    values (v_group.name, coalesce(v_group.interval_seconds, 60))
    on conflict (group_name) do update set interval_seconds = excluded.interval_seconds
    where known.interval_seconds <> excluded.interval_seconds and (p_replace or v_group.interval_seconds is not null);

    v_kept := '{}';
    for v_listed in
      select entry, place from jsonb_array_elements(v_group.rules) with ordinality as item (entry, place) order by place
    loop
      v_where := format('rule %s of group %s', v_listed.place, to_json(v_group.name));
      v_rule := monitor.parse_rule(v_listed.entry);
      v_refusal := monitor.refuse_rule_name(v_rule.kind, v_rule.name);
      if v_refusal is not null then
        raise exception '%', v_refusal using errcode = 'invalid_parameter_value';
      end if;
      select * into v_known
      from monitor.alert_rules
      where group_name = v_group.name and kind = v_rule.kind and name = v_rule.name
        and labels_hash = md5(v_rule.labels::text)::uuid;
      if v_known.rule_id = any (v_kept) then
        raise exception 'has the name and the labels of one before it' using errcode = 'invalid_parameter_value';
      end if;
      v_rule.position := case
        when p_replace then v_listed.place
        else coalesce(v_known.position, (
          select coalesce(max(position), 0) + 1 from monitor.alert_rules where group_name = v_group.name))
        end;
      v_rule.enabled := coalesce(v_rule.enabled, v_known.enabled, true);

      if v_known.rule_id is null then
        insert into monitor.alert_rules (
          group_name, position, kind, name, expr, for_seconds, keep_firing_for_seconds, labels, annotations, no_data_policy,
          severity, runbook_url, mode, enabled, created_at, updated_at
        )
        values (
          v_group.name, v_rule.position, v_rule.kind, v_rule.name, v_rule.expr, v_rule.for_seconds,
          v_rule.keep_firing_for_seconds, v_rule.labels, v_rule.annotations, v_rule.no_data_policy, v_rule.severity,
          v_rule.runbook_url, v_rule.mode, v_rule.enabled, p_now, p_now
        )
        returning rule_id into v_known.rule_id;
        v_inserted := v_inserted + 1;
      else
        update monitor.alert_rules
        set position = v_rule.position, expr = v_rule.expr, for_seconds = v_rule.for_seconds,
            keep_firing_for_seconds = v_rule.keep_firing_for_seconds, annotations = v_rule.annotations,
            no_data_policy = v_rule.no_data_policy, severity = v_rule.severity, runbook_url = v_rule.runbook_url,
            mode = v_rule.mode, enabled = v_rule.enabled, updated_at = p_now
        where rule_id = v_known.rule_id
          and (position, expr, for_seconds, keep_firing_for_seconds, annotations, no_data_policy, severity, runbook_url, mode, enabled)
            is distinct from (v_rule.position, v_rule.expr, v_rule.for_seconds, v_rule.keep_firing_for_seconds, v_rule.annotations,
              v_rule.no_data_policy, v_rule.severity, v_rule.runbook_url, v_rule.mode, v_rule.enabled);
        v_updated := v_updated + found::integer;
        v_unchanged := v_unchanged + (not found)::integer;
      end if;
      v_kept := v_kept || v_known.rule_id;
    end loop;

    if p_replace then
      delete from monitor.alert_rules where group_name = v_group.name and not rule_id = any (v_kept);
      get diagnostics v_count = row_count;
      v_deleted := v_deleted + v_count;
    else
      select v_unlisted + count(*) into v_unlisted
      from monitor.alert_rules
      where group_name = v_group.name and not rule_id = any (v_kept);
    end if;
    delete from monitor.rule_groups as empty
    where group_name = v_group.name and not exists (select from monitor.alert_rules where group_name = empty.group_name);
  end loop;

  select count(*) into v_count from monitor.alert_rules;
  if v_count > c_rules then
    raise exception 'there would be % rules, and may be %', v_count, c_rules
      using errcode = 'program_limit_exceeded', hint = 'Delete groups that nobody needs: monitor.delete_rules.';
  end if;
  v_counts := jsonb_build_object(
    'inserted', v_inserted, 'updated', v_updated, 'unchanged', v_unchanged, 'deleted', v_deleted, 'unlisted', v_unlisted);
  if p_dry_run then
    raise sqlstate 'VGDRY';
  end if;
  return v_counts;
exception
  when sqlstate 'VGDRY' then
    return v_counts; -- all that was done is undone by now, but variables keep what they are
  when data_exception or integrity_constraint_violation then
    raise exception '%: %', v_where, sqlerrm using errcode = sqlstate;
end;
$$;

comment on function monitor.save_rules(jsonb, boolean, boolean, timestamptz) is
  'Saves groups [{name, interval_seconds?, rules: [{kind, name, expr, for_seconds?, keep_firing_for_seconds?, labels?, annotations?, '
  'no_data_policy?, severity?, runbook_url?, mode?, enabled?}]}], all or nothing; severity comes from the label of that name if it is '
  'one. A rule is known by its group, kind, name and labels, and takes the given form as a whole, but is switched on or off only by '
  'enabled. With p_replace the groups become what is listed, in that order; else other rules of them stay, which are unlisted, and new '
  'ones go to their end. Returns {inserted, updated, unchanged, deleted, unlisted}; with p_dry_run the same, and changes nothing. '
  'Errors, with the group and the number of the rule: 22023 and others of class 22 for what is no rule, and for one that records what '
  'others write; class 23 for one that a check refuses; 54000 for more than 2,000 rules.';

create function monitor.delete_rules(p_group text)
returns integer
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_deleted  integer;
begin
  perform pg_advisory_xact_lock(hashtext('monitor.alert_rules'));
  delete from monitor.alert_rules where group_name = p_group;
  get diagnostics v_deleted = row_count;
  delete from monitor.rule_groups where group_name = p_group;
  return v_deleted;
end;
$$;

comment on function monitor.delete_rules(text) is 'Deletes a group with its rules and their states. Returns how many rules there were.';

alter table monitor.retention_policies
  drop constraint retention_policies_action_fits_entity,
  add constraint retention_policies_action_fits_entity check (case
    when entity = 'metric_time_series' then action in ('compact', 'keep')
    when entity = 'metric_chunks' then action in ('drop_weeks', 'keep')
    when entity = 'metric_rollups' then action in ('drop_months', 'keep')
    when entity = 'anomaly_detections' then action in ('archive', 'keep')
    when entity = 'evidence_samples' then action in ('with_owner', 'keep')
    when entity in ('detector_states', 'detector_replays', 'incident_events', 'incident_alerts', 'incident_anomalies', 'chunk_times',
      'late_samples', 'rule_states') then action = 'with_owner'
    when entity in ('anomaly_detections_archive', 'system_alerts', 'incidents', 'job_runs', 'retention_runs', 'audit_log',
      'sample_days', 'metric_series', 'anomaly_feedback', 'maintenance_windows', 'deploy_marks', 'cron.job_run_details')
      then action in ('delete', 'keep')
    else action = 'keep' end);

insert into monitor.retention_policies (entity, action, keep_days, position, reason) values
  ('rule_groups', 'keep', null, 917, 'Configuration.'),
  ('alert_rules', 'keep', null, 918, 'Configuration.'),
  ('rule_states', 'with_owner', null, 907, 'One row a rule; goes with it.');

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.rule_texts_are_valid(jsonb, integer),
  monitor.refuse_rule_name(text, text),
  monitor.describe_rule(monitor.alert_rules, monitor.rule_states),
  monitor.read_rules(),
  monitor.parse_rule(jsonb),
  monitor.save_rules(jsonb, boolean, boolean, timestamptz),
  monitor.delete_rules(text)
to service_role;
