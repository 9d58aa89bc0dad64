-- Purpose:  rules may fire when they held in N of their last M evaluations, and may end by an expression of their own.
-- Locks:    access exclusive on alert_rules while columns, checks and a trigger change; it is small.
-- Undo:     run describe_rule, parse_rule and save_rules of 20261121120200 again, as create or replace, with their comments;
--           drop trigger alert_rules_reset_state on monitor.alert_rules; drop the three columns, with which their checks go;
--           create the trigger and the check alert_rules_alert_parts_fit_kind of 20261121120200 again.

alter table monitor.alert_rules
  add column hold_count   integer,
  add column hold_window  integer,
  add column clear_expr   text,
  add constraint alert_rules_hold_count_with_window check ((hold_count is null) = (hold_window is null)),
  add constraint alert_rules_hold_count_in_window check (hold_count between 1 and hold_window),
  add constraint alert_rules_hold_window_in_range check (hold_window between 1 and 60),
  add constraint alert_rules_hold_instead_of_for check (hold_count is null or for_seconds = 0),
  add constraint alert_rules_clear_expr_in_bounds
    check (btrim(clear_expr, E' \t\r\n') <> '' and octet_length(clear_expr) <= 16384),
  -- In rule files it is an annotation, and all of those are templates.
  add constraint alert_rules_clear_expr_no_template check (position('{{' in clear_expr) = 0),
  drop constraint alert_rules_alert_parts_fit_kind,
  add constraint alert_rules_alert_parts_fit_kind check (case kind
    when 'alerting' then severity is not null
    else severity is null and runbook_url is null and annotations = '{}' and for_seconds = 0 and keep_firing_for_seconds = 0
      and hold_count is null and clear_expr is null end);

comment on column monitor.alert_rules.hold_count is
  'In how many of its last hold_window evaluations it has to hold before it fires. Null: see for_seconds.';
comment on column monitor.alert_rules.hold_window is 'Evaluations of which it is known whether it held; at most 60. Null with hold_count.';
comment on column monitor.alert_rules.clear_expr is
  'PromQL, at most 16 KiB: an alert that fires ends only when this has a sample of its labels. Null: as soon as expr does not hold.';

drop trigger alert_rules_reset_state on monitor.alert_rules;

create trigger alert_rules_reset_state
  after update of kind, name, expr, labels, for_seconds, hold_count, hold_window, clear_expr, enabled on monitor.alert_rules
  for each row
  when ((old.kind, old.name, old.expr, old.labels, old.for_seconds, old.hold_count, old.hold_window, old.clear_expr, old.enabled)
    is distinct from (new.kind, new.name, new.expr, new.labels, new.for_seconds, new.hold_count, new.hold_window, new.clear_expr,
      new.enabled))
  execute function monitor.reset_rule_state();

create or replace function monitor.describe_rule(p_rule monitor.alert_rules, p_state monitor.rule_states)
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
    'hold_count', p_rule.hold_count,
    'hold_window', p_rule.hold_window,
    'clear_expr', p_rule.clear_expr,
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

create or replace function monitor.parse_rule(p_entry jsonb)
returns monitor.alert_rules
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c_defaults constant jsonb := '{"for_seconds": 0, "keep_firing_for_seconds": 0, "labels": {}, "annotations": {}, "no_data_policy": "keep",
    "mode": "live"}';
  c_fields constant text[] := '{kind, name, expr, for_seconds, keep_firing_for_seconds, hold_count, hold_window, clear_expr, labels,
    annotations, no_data_policy, severity, runbook_url, mode, enabled}';
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

create or replace function monitor.save_rules(
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
          group_name, position, kind, name, expr, for_seconds, keep_firing_for_seconds, hold_count, hold_window, clear_expr,
          labels, annotations, no_data_policy, severity, runbook_url, mode, enabled, created_at, updated_at
        )
        values (
          v_group.name, v_rule.position, v_rule.kind, v_rule.name, v_rule.expr, v_rule.for_seconds,
          v_rule.keep_firing_for_seconds, v_rule.hold_count, v_rule.hold_window, v_rule.clear_expr, v_rule.labels,
          v_rule.annotations, v_rule.no_data_policy, v_rule.severity, v_rule.runbook_url, v_rule.mode, v_rule.enabled, p_now, p_now
        )
        returning rule_id into v_known.rule_id;
        v_inserted := v_inserted + 1;
      else
        update monitor.alert_rules
        set position = v_rule.position, expr = v_rule.expr, for_seconds = v_rule.for_seconds,
            keep_firing_for_seconds = v_rule.keep_firing_for_seconds, hold_count = v_rule.hold_count,
            hold_window = v_rule.hold_window, clear_expr = v_rule.clear_expr, annotations = v_rule.annotations,
            no_data_policy = v_rule.no_data_policy, severity = v_rule.severity, runbook_url = v_rule.runbook_url,
            mode = v_rule.mode, enabled = v_rule.enabled, updated_at = p_now
        where rule_id = v_known.rule_id
          and (position, expr, for_seconds, keep_firing_for_seconds, hold_count, hold_window, clear_expr, annotations,
            no_data_policy, severity, runbook_url, mode, enabled)
            is distinct from (v_rule.position, v_rule.expr, v_rule.for_seconds, v_rule.keep_firing_for_seconds, v_rule.hold_count,
              v_rule.hold_window, v_rule.clear_expr, v_rule.annotations, v_rule.no_data_policy, v_rule.severity,
              v_rule.runbook_url, v_rule.mode, v_rule.enabled);
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
  'Saves groups [{name, interval_seconds?, rules: [{kind, name, expr, for_seconds?, keep_firing_for_seconds?, hold_count?, '
  'hold_window?, clear_expr?, labels?, annotations?, no_data_policy?, severity?, runbook_url?, mode?, enabled?}]}], all or nothing; '
  'severity comes from the label of that name if it is one. A rule is known by its group, kind, name and labels, and takes the given '
  'form as a whole, but is switched on or off only by enabled. With p_replace the groups become what is listed, in that order; else '
  'other rules of them stay, which are unlisted, and new ones go to their end. Returns {inserted, updated, unchanged, deleted, '
  'unlisted}; with p_dry_run the same, and changes nothing. Errors, with the group and the number of the rule: 22023 and others of '
  'class 22 for what is no rule, and for one that records what others write; class 23 for one that a check refuses; 54000 for more '
  'than 2,000 rules.';

revoke all on all functions in schema monitor from public;
