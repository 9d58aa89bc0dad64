-- Purpose:  which rules are due, and where the word of their evaluation goes.
-- Locks:    access exclusive on metric_definitions while a column is added.
-- Undo:     drop function monitor.record_evaluation(jsonb, timestamptz), monitor.plan_evaluation(timestamptz);
--           alter table monitor.metric_definitions drop column is_recorded.

alter table monitor.metric_definitions add column is_recorded boolean not null default false;

comment on column monitor.metric_definitions.is_recorded is
  'Whether recording rules write it; they write no other, because the first sample of a time stays and would take the place of what was measured.';

create function monitor.plan_evaluation(p_now timestamptz default now())
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select jsonb_build_object('rules', coalesce(jsonb_agg(
    monitor.describe_rule(rule, state)
      || jsonb_build_object('group_name', rule_group.group_name, 'interval_seconds', rule_group.interval_seconds)
    order by rule_group.group_name collate "C", rule.position, rule.rule_id), '[]'))
  from monitor.alert_rules as rule
  join monitor.rule_groups as rule_group using (group_name)
  join monitor.rule_states as state using (rule_id)
  where rule.enabled
    -- By the slot of time, not by what has passed since: a late run does not shift those after it.
    and (state.evaluated_at is null
      or state.evaluated_at > p_now + interval '10 minutes' -- by a clock that stood wrong: a run may be 5 minutes ahead
      or floor(extract(epoch from state.evaluated_at) / rule_group.interval_seconds)
        < floor(extract(epoch from p_now) / rule_group.interval_seconds));
$$;

comment on function monitor.plan_evaluation(timestamptz) is
  'The enabled rules that have not been evaluated yet in the current slot of their group''s interval, or whose evaluation lies more '
  'than 10 minutes ahead: {rules}, each as monitor.describe_rule with group_name and interval_seconds, in order.';

create function monitor.record_evaluation(p_results jsonb, p_now timestamptz)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_recorded  integer;
  v_failed    integer;
  v_samples   jsonb;
  v_stored    jsonb := '{"inserted": 0, "duplicates": 0, "overflowed": 0, "rejected": []}';
begin
  if jsonb_typeof(p_results) is distinct from 'array' or p_now is null then
    raise exception 'p_results must be an array and p_now a time'
      using errcode = 'invalid_parameter_value',
            hint = 'Each entry is {rule_id, revision, error, evaluation_seconds, instances?, samples?}.';
  end if;

  -- Not while rules are saved, nor two at once: both lock many states.
  perform pg_advisory_xact_lock(hashtext('monitor.alert_rules'));

  with result as (
    select
      rule.rule_id,
      (entry ->> 'revision')::bigint as revision,
      (entry ->> 'evaluation_seconds')::double precision as evaluation_seconds,
      entry -> 'instances' as instances,
      entry -> 'samples' as samples,
      coalesce(entry ->> 'error', case when jsonb_array_length(entry -> 'instances') > 1000 then
        format('the rule has %s alerts, and may have 1000', jsonb_array_length(entry -> 'instances')) end,
        case when rule.kind = 'recording' and not definition.is_recorded then
          format('%s is measured or sent: record under a name that nobody else writes', rule.name) end) as error
    from jsonb_array_elements(p_results) as entry
    join monitor.alert_rules as rule on rule.rule_id = (entry ->> 'rule_id')::bigint
    left join monitor.metric_definitions as definition on definition.metric = rule.name
  ), recorded as (
    update monitor.rule_states as state
    set revision = state.revision + 1,
        -- A rule that cannot be evaluated says nothing about its alerts.
        instances = case when result.error is null then coalesce(result.instances, '[]') else state.instances end,
        health = case when result.error is null then 'ok' else 'err' end,
        last_error = left(result.error, 2000),
        evaluated_at = p_now,
        evaluation_seconds = result.evaluation_seconds
    from result
    where state.rule_id = result.rule_id and state.revision = result.revision
      and (state.evaluated_at is null or state.evaluated_at < p_now or state.evaluated_at > p_now + interval '10 minutes')
    returning state.rule_id, result.error, result.samples
  ), sampled as (
    select jsonb_agg(sample || jsonb_build_object('metric', rule.name) order by rule.rule_id, place) as samples
    from recorded
    join monitor.alert_rules as rule using (rule_id)
    cross join lateral jsonb_array_elements(recorded.samples) with ordinality as item (sample, place)
    where rule.kind = 'recording' and recorded.error is null
  )
  select count(*), count(recorded.error), (select samples from sampled)
  into v_recorded, v_failed, v_samples
  from recorded;

  if v_samples is not null then
    insert into monitor.metric_definitions (metric, category, unit, description, is_recorded)
    select distinct sample ->> 'metric', 'workflow', 'unknown', 'Recorded by a rule: see monitor.alert_rules.', true
    from jsonb_array_elements(v_samples) as sample
    order by 1 -- as senders do who register metrics
    on conflict do nothing;
    perform monitor.ensure_sample_days(p_now, 0);
    v_stored := monitor.record_samples(v_samples, p_now);
    with refused as (
      select rejection ->> 'metric' as metric, count(*) as samples, min(rejection ->> 'reason') as reason
      from jsonb_array_elements(v_stored -> 'rejected') as rejection
      group by 1
    )
    update monitor.rule_states as state
    set health = 'err', last_error = format('%s samples could not be stored: %s', refused.samples, refused.reason)
    from refused
    join monitor.alert_rules as rule on rule.kind = 'recording' and rule.name = refused.metric
    where state.rule_id = rule.rule_id and state.health = 'ok' and state.evaluated_at = p_now;
  end if;
  return jsonb_build_object(
    'recorded', v_recorded, 'failed', v_failed, 'stale', jsonb_array_length(p_results) - v_recorded, 'samples', v_stored);
end;
$$;

comment on function monitor.record_evaluation(jsonb, timestamptz) is
  'Stores what the rules evaluated at p_now came to, [{rule_id, revision, error, evaluation_seconds, instances?, samples?}], and the '
  'samples [{labels, value}] of recording rules under that time, all or nothing. revision is that of the state it was evaluated on: '
  'a result on top of another state, older than what is stored, or of a rule that is gone, is left out. One with an error, or with '
  'more than 1,000 instances, which is one, leaves the instances as they are. One whose samples cannot be stored, or are of a metric that others write, has an error too. Returns {recorded, failed, stale, samples: as '
  'monitor.record_samples}; failed ones are recorded too. Errors: 22023 when an argument is missing or no array, and those of '
  'monitor.record_samples.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.plan_evaluation(timestamptz),
  monitor.record_evaluation(jsonb, timestamptz)
to service_role;
